"""What a card has to tell, in one run of less than eight minutes.

    python -m benchmarks.device            # writes benchmarks/results/device-<card>.json
    python -m benchmarks.device --sections copies,zstd_sharded --size 2

Without a usable card it says why and exits with status 2. Every section is a process of its own
under a time limit: one that hangs, crashes or breaks CUDA costs only its own figures, and what it
had found until then is kept. Rates are bytes per second of decoded data unless a name says
otherwise; times are seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import zarr_gpu
from zarr_gpu.cli.device import packages
from zarr_gpu.device import detect, probe

ROOT = Path(__file__).parents[1]
FOUND = "found: "
"""Begins a line of output that is a JSON object of findings."""
Findings = Iterator[dict[str, Any]]


# -- the machine and the tests ---------------------------------------------------------------------


def environment(options: argparse.Namespace) -> Findings:
    """Card, driver, libraries, and what decides about GPUDirect Storage."""
    info = asdict(detect.device_info())
    yield {"device_info": info, "packages": packages()}
    yield {
        "python": sys.version,
        "system": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_nbytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "exists": {
            path: Path(path).exists()
            for path in ("/proc/modules", "/run/udev", "/proc/driver/nvidia-fs/devcount")
        },
        "nvidia_fs_nodes": [str(path) for path in Path("/dev").glob("nvidia-fs*")],
    }
    fields = (
        "name,driver_version,memory.total,pcie.link.gen.max,pcie.link.gen.current,"
        "pcie.link.width.current,clocks.max.sm,clocks.max.memory,power.limit,mig.mode.current"
    )
    yield {"nvidia_smi": output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")}


def tests(options: argparse.Namespace) -> Findings:
    """The suites of kernels and device on the real runtime."""
    yield pytest_outcome()


def sanitizer(options: argparse.Namespace) -> Findings:
    """The kernels' tests under compute-sanitizer, where it is installed."""
    path = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    if path is None:
        yield {"skipped": "compute-sanitizer is not installed"}
        return
    yield pytest_outcome(path, "--tool", "memcheck", "--error-exitcode", "9", folders=("kernels",))


def pytest_outcome(*before: str, folders: Sequence[str] = ("device", "kernels")) -> dict[str, Any]:
    """Exit status and the end of the output."""
    command = [
        *before,
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "--tb=short",
    ]
    command += ["-m", "not slow", "--runtime=cuda", *(f"tests/{folder}" for folder in folders)]
    done = subprocess.run(  # noqa: S603 - the commands above
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return {"command": command, "status": done.returncode, "output": done.stdout[-20_000:]}


# -- costs of single operations --------------------------------------------------------------------


def copies(options: argparse.Namespace) -> Findings:
    """Copies to and inside the device by size; files to page-locked memory by threads."""
    import cupy

    pinned = page_locked(cupy, 128 << 20)
    pinned[:] = np.random.default_rng(0).integers(0, 256, 1 << 20, "u1").repeat(128)
    for mib in (1, 16, 128):
        rates = probe.copies(cupy, pinned[: mib << 20], options.seconds * 2)
        yield {f"{name}_{mib}_mib": rate for name, rate in rates.items()}
    for threads in (1, 2, 4, 8, 16):
        rate = probe.page_cache(pinned, threads, options.seconds, options.folder)
        yield {f"page_cache_to_pinned_{threads}_threads": rate}


def launches(options: argparse.Namespace) -> Findings:
    """Host time of operations that are queued, and of those with a wait after each."""
    import cupy

    stream, other = (cupy.cuda.Stream(non_blocking=True) for _ in "ab")
    kernel = cupy.RawModule(code='extern "C" __global__ void nothing(long long) {}').get_function(
        "nothing"
    )
    event = cupy.cuda.Event(disable_timing=True)
    pinned, target = page_locked(cupy, 4096), cupy.empty(4096, "u1")
    runtime = cupy.cuda.runtime

    def copy(nbytes: int) -> None:
        runtime.memcpyAsync(target.data.ptr, pinned.ctypes.data, nbytes, 1, stream.ptr)

    operations: dict[str, Callable[[], object]] = {
        "launch": lambda: kernel((1,), (32,), (np.int64(0),), stream=stream),
        "record_event": lambda: event.record(stream),
        "wait_event": lambda: other.wait_event(event),
        "copy_4_kib_to_device": lambda: copy(4096),
        "allocate_1_mib": lambda: cupy.empty(1 << 20, "u1"),
    }
    for name, operation in operations.items():
        yield {name: each(operation, stream.synchronize, 2000)}

        def and_wait(operation: Callable[[], object] = operation) -> None:
            operation()
            stream.synchronize()

        yield {f"{name}_and_wait": each(and_wait, stream.synchronize, 500)}


def each(operation: Callable[[], object], finish: Callable[[], object], n: int) -> float:
    """Seconds of one of ``n`` operations, the wait at the end not counted."""
    operation()
    finish()
    begin = time.perf_counter()
    for _ in range(n):
        operation()
    taken = time.perf_counter() - begin
    finish()
    return taken / n


# -- whole arrays ----------------------------------------------------------------------------------


def blosc(cname: str, shuffle: str) -> dict[str, Any]:
    """Compressor in the words of format 3."""
    settings = {"cname": cname, "clevel": 5, "shuffle": shuffle, "typesize": 4, "blocksize": 0}
    return {"name": "blosc", "configuration": settings}


ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "uncompressed": {"chunks": (1024, 1024), "compressors": None},
    "blosc_lz4_shuffle": {"chunks": (1024, 1024), "compressors": blosc("lz4", "shuffle")},
    "blosc_zstd_bitshuffle": {"chunks": (1024, 1024), "compressors": blosc("zstd", "bitshuffle")},
    "zstd_sharded": {"chunks": (256, 256), "shards": (4096, 4096), "compressors": ZSTD},
}
"""Of float32 arrays 16384 elements wide."""
WIDTH, ROWS = 16384, 4096
"""Width of an array, and how many of its rows (256 MiB) are made at a time."""


def whole_array(layout: str) -> Callable[[argparse.Namespace], Findings]:
    """A section that reads an array of this layout from the page cache in three ways."""

    def section(options: argparse.Namespace) -> Findings:
        import cupy

        room = cupy.cuda.runtime.memGetInfo()[0] // 3
        bands = max(1, min(int(options.size * 2**30), room) // (4 * WIDTH * ROWS))
        nbytes = bands * ROWS * WIDTH * 4
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = str(Path(folder, "array.zarr"))
            write(path, layout, bands)
            stored = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
            yield {"nbytes": nbytes, "ratio": nbytes / stored}
            out = cupy.empty((bands * ROWS, WIDTH), "f4")
            array = zarr_gpu.open_array(path, mode="r", device="cuda")
            for turn in ("first", "second", "third"):
                yield {f"zarr_gpu_{turn}": nbytes / seconds(lambda: array.read(..., out=out))}
            yield {"zarr_gpu_right": equal(path, out)}
            read = host_and_copy(path, out)
            yield {"host_and_copy": nbytes / min(seconds(read) for _ in range(2))}
            try:
                import zarr

                with zarr.config.enable_gpu():
                    theirs = zarr.open_array(path, mode="r")
                    taken = seconds(lambda: theirs[: ROWS * min(bands, 4)])
                yield {"zarr_python_enable_gpu": ROWS * min(bands, 4) * WIDTH * 4 / taken}
            except Exception as error:  # noqa: BLE001 - theirs may fail in any way
                yield {"zarr_python_enable_gpu": f"{type(error).__name__}: {error}"}

    return section


def write(path: str, layout: str, bands: int) -> None:
    array = zarr_gpu.create_array(
        path, shape=(bands * ROWS, WIDTH), dtype="f4", device="cpu", **LAYOUTS[layout]
    )
    band = field(ROWS * WIDTH)
    for i in range(bands):
        array[i * ROWS : (i + 1) * ROWS] = np.roll(band, 977 * i).reshape(ROWS, WIDTH)


def equal(path: str, out: Any) -> bool:
    """The first and the last band are what the host reads."""
    array = zarr_gpu.open_array(path, mode="r", device="cpu")
    rows = array.shape[0]
    bands = slice(0, ROWS), slice(rows - ROWS, rows)
    return all(np.array_equal(array[band], out[band].get()) for band in bands)


def host_and_copy(path: str, out: Any) -> Callable[[], None]:
    """Host threads decode into page-locked memory while the band before is copied."""
    import cupy

    array = zarr_gpu.open_array(path, mode="r", device="cpu")
    buffers = [page_locked(cupy, ROWS * WIDTH * 4).view("f4").reshape(ROWS, WIDTH) for _ in "ab"]
    stream = cupy.cuda.Stream(non_blocking=True)

    def read() -> None:
        events: list[Any] = [None, None]
        for i in range(array.shape[0] // ROWS):
            buffer, rows = buffers[i % 2], slice(i * ROWS, (i + 1) * ROWS)
            if events[i % 2] is not None:
                events[i % 2].synchronize()
            array.read(rows, out=buffer)
            target = out[rows].data.ptr
            cupy.cuda.runtime.memcpyAsync(target, buffer.ctypes.data, buffer.nbytes, 1, stream.ptr)
            events[i % 2] = stream.record()
        stream.synchronize()

    return read


def seconds(read: Callable[[], object]) -> float:
    """Of a read, until the device is done."""
    import cupy

    cupy.cuda.runtime.deviceSynchronize()
    begin = time.perf_counter()
    read()
    cupy.cuda.runtime.deviceSynchronize()
    return time.perf_counter() - begin


def page_locked(cupy: Any, nbytes: int) -> Any:
    return np.frombuffer(cupy.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)


def field(n: int, seed: int = 0) -> Any:
    """Smooth float32 values with noise, of which ten bits of the mantissa are kept."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 60, n, dtype=np.float32)
    values = 280 + 20 * np.sin(x) + rng.standard_normal(n, np.float32)
    return ((values.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


# -- one process per section -----------------------------------------------------------------------

SECTIONS: dict[str, Callable[[argparse.Namespace], Findings]] = {
    "environment": environment,
    "tests": tests,
    "sanitizer": sanitizer,
    "copies": copies,
    "launches": launches,
    **{layout: whole_array(layout) for layout in LAYOUTS},
}
PROGRAMS = {
    "nvcomp_streams": ("benchmarks.device_nvcomp", "streams"),
    "nvcomp_rates": ("benchmarks.device_nvcomp", "rates"),
}
"""Sections that are not in this file."""
LIMITS = {
    "environment": 20, "tests": 100, "sanitizer": 45, "copies": 30, "launches": 20,
    "nvcomp_streams": 30, "nvcomp_rates": 60, **dict.fromkeys(LAYOUTS, 40),
}  # fmt: skip
"""Seconds of each section, in the order in which they run; 465 together."""


def collect(command: Sequence[str], limit: float) -> dict[str, Any]:
    """Run a section, and merge its findings; ``error`` when it did not come to its end."""
    begin = time.perf_counter()
    result: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with subprocess.Popen(  # noqa: S603 - a section below
            command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True
        ) as process:
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
                os.killpg(process.pid, 9)  # with what it has started
        out.seek(0)
        err.seek(0)
        for line in out:
            if line.startswith(FOUND) and line.endswith("\n"):
                result.update(json.loads(line.removeprefix(FOUND)))
        if status != 0:
            reason = f"stopped after {limit:g} s" if status is None else f"status {status}"
            result["error"] = f"{reason}; {err.read()[-2000:]}".strip("; \n")
    result["seconds"] = time.perf_counter() - begin
    return result


def output(*command: str) -> str:
    """What a program prints, or why it does not."""
    try:
        done = subprocess.run(  # noqa: S603 - git and nvidia-smi
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout or done.stderr).strip()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--sections", default=",".join(LIMITS), help="comma-separated")
    parser.add_argument("--size", type=float, default=8, help="GiB of the arrays that are read")
    parser.add_argument("--seconds", type=float, default=1, help="of one measurement of a copy")
    parser.add_argument("--folder", help="where temporary arrays go; they are read from its cache")
    parser.add_argument("--out", type=Path, help="file of results")
    parser.add_argument("--only", choices=SECTIONS, help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args(argv)
    if unknown := set(options.sections.split(",")) - set(LIMITS):
        parser.error(f"no section is called {', '.join(sorted(unknown))}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.only:
        for findings in SECTIONS[options.only](options):
            print(FOUND + json.dumps(findings, default=float), flush=True)
        return 0
    info = detect.device_info()
    if (reason := info.problem(0)) is not None:
        print(f"benchmarks.device needs a GPU: {reason}")
        return 2
    card = info.devices[0].name
    slug = re.sub(r"\W+", "-", card.lower())
    path = options.out or ROOT / "benchmarks" / "results" / f"device-{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "card": card,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": output("git", "rev-parse", "HEAD"),
        "changed_files": output("git", "status", "--porcelain").splitlines(),
        "sections": {},
    }
    given = ["--size", str(options.size), "--seconds", str(options.seconds)]
    given += ["--folder", options.folder] if options.folder else []
    for name in options.sections.split(","):
        program = PROGRAMS.get(name, ("benchmarks.device", "--only", name, *given))
        command = [sys.executable, "-m", *program]
        found = report["sections"][name] = collect(command, LIMITS[name])
        print(f"{name}: {found['seconds']:.0f} s {found.get('error', '')}", flush=True)
        path.write_text(json.dumps(report, indent=1) + "\n")  # after each: a run may be cut off
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
