# ruff: noqa: T201 - a command prints
"""``zarr-gpu bench``: how fast one array is read here, by which device and how many threads."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common
from zarr_gpu.cli.progress import size

if TYPE_CHECKING:
    from zarr_gpu.array import Array
    from zarr_gpu.cli.main import Subparsers


def add_parsers(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = common.command(
        subparsers,
        "bench",
        _bench,
        "measure how fast an array is read, on each device here",
        """
        zarr-gpu bench survey.zarr/depth --repeat 2
        zarr-gpu bench survey.zarr/depth -s :20 --device cpu --json
        """,
        more="Warm: the median of some reads whose files are in the page cache. --cold: the first "
        "read after the system was asked to drop the files from it. On a GPU the time ends when "
        "the result is on the device. zarr-python is measured beside, where it is installed.",
    )
    common.add_place(parser)
    parser.add_argument("-s", "--select", metavar="SELECTION", help="default: rows up to --max")
    parser.add_argument("--max", default="1GiB", help="decoded bytes of a read (default 1GiB)")
    parser.add_argument("--repeat", type=int, default=5, help="reads of each (default 5)")
    parser.add_argument("--device", action="append", help="cpu or cuda:N; repeat; default: all")
    parser.add_argument("--threads", help="of the host, as in 1,4 (default: 1 and one per core)")
    parser.add_argument("--cold", action="store_true", help="also with files not in the page cache")
    parser.add_argument("--no-peers", action="store_true", help="without zarr-python")
    common.add_common(parser, quiet=True)


def _bench(args: argparse.Namespace) -> int:
    from zarr_gpu.cli.selections import parse_selection
    from zarr_gpu.indexing import parse_numpy
    from zarr_gpu.tools.sizes import parse_nbytes

    if args.repeat < 1:
        raise ValueError("--repeat must be at least 1")
    array = common.open_array(args, args.path, device="cpu")
    selection = parse_selection(args.select) if args.select else rows(array, parse_nbytes(args.max))
    nbytes = math.prod(parse_numpy(selection, array.shape).shape) * array.itemsize
    progress = common.bar(args)
    results = []
    cases = list(_cases(args, array, selection))
    progress.begin("bench", len(cases) * args.repeat, "reads")
    for case, read in cases:
        row = measured(array, read, args.repeat, cold=args.cold, tick=lambda: progress.advance(1))
        results.append({**case, **row, "bytes_per_second": nbytes / row["median"]})
    progress.end()
    document = {
        "path": args.path,
        "selection": args.select or str(selection),
        "nbytes": nbytes,
        "dtype": str(array.dtype),
        "results": results,
    }
    if args.json:
        common.print_json(document)
        return common.OK
    print(f"{args.path}: {size(nbytes)} of {array.dtype} in a read")
    for row in results:
        cold = f"   cold {row['cold'] * 1000:.1f} ms" if row["cold"] is not None else ""
        threads = f" {row['threads']} threads" if row["threads"] else ""
        print(
            f"  {row['engine']:<12} {row['device']}{threads:<11} {row['median'] * 1000:9.1f} ms  "
            f"{size(row['bytes_per_second'])}/s  (best {row['best'] * 1000:.1f} ms){cold}"
        )
    return common.OK


def rows(array: Array, most: int) -> Any:
    """Everything, or as many of the first rows as have ``most`` bytes."""
    if not array.shape or array.nbytes <= most:
        return ...
    return slice(0, max(1, most * array.shape[0] // array.nbytes))


def _cases(
    args: argparse.Namespace, array: Array, selection: Any
) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    """What is measured, and the read."""
    from zarr_gpu.config import config
    from zarr_gpu.device import detect
    from zarr_gpu.workers import thread_count

    found = detect.device_info() if args.device is None else None
    devices = args.device or ["cpu"]
    if found is not None:
        usable = [i for i in range(len(found.devices)) if found.problem(i) is None]
        devices += [f"cuda:{i}" for i in usable]
    counts = sorted({1, thread_count()})
    if args.threads:
        counts = [int(n) for n in args.threads.split(",")]
    for device in devices:
        here = array.to(device)
        if device == "cpu":
            for n in counts:

                def read(n: int = n, here: Array = here) -> Any:
                    with config.set({"threads": n}):
                        return here[selection]

                yield {"engine": "zarr_gpu", "device": "cpu", "threads": n}, read
            continue

        def read_there(here: Array = here) -> Any:
            result = here[selection]
            # What is copied back is ordered after the read: the time ends when it is finished.
            here._backend.to_host(result.reshape(-1)[:1], here.dtype)  # noqa: SLF001 - of this package
            return result

        yield {"engine": "zarr_gpu", "device": device, "threads": None}, read_there
    if not args.no_peers and "cpu" in devices:
        peer = _zarr_python(args)
        if peer is not None:
            yield (
                {"engine": "zarr-python", "device": "cpu", "threads": None},
                lambda: peer[selection],
            )


def _zarr_python(args: argparse.Namespace) -> Any:
    """The array opened by zarr-python; None where that is not installed or cannot."""
    store, path = common.split(args.path)
    try:
        import zarr

        return zarr.open_array(
            store, mode="r", path=path or None, storage_options=common.storage_options(args)
        )
    except Exception:  # noqa: BLE001 - whatever it is, it is not ours to report
        return None


def measured(
    array: Array, read: Callable[[], Any], repeat: int, *, cold: bool, tick: Callable[[], None]
) -> dict[str, Any]:
    """Seconds: of the first read without the page cache, median and best of the others."""
    first = None
    if cold and dropped(array):
        start = time.perf_counter()
        read()
        first = time.perf_counter() - start
    else:
        read()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - start)
        tick()
    seconds.sort()
    return {"median": seconds[len(seconds) // 2], "best": seconds[0], "cold": first}


def dropped(array: Array) -> bool:
    """Ask the system to forget the array's files; False where they are no files here."""
    if not hasattr(os, "posix_fadvise"):
        return False
    keys = list(array.store.list_prefix(array.path)) if array.store.supports_listing else []
    paths = {path for path in array.store.locate(keys).path if path is not None}
    for path in paths:
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)  # pages that are not on the disk yet are kept
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
    return bool(paths)
