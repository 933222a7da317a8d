# ruff: noqa: T201 - a command prints
"""``zarr-gpu ckpt``: look at checkpoints, check, compare, convert and cut them."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common
from zarr_gpu.cli.progress import size

if TYPE_CHECKING:
    from zarr_gpu.cli.main import Subparsers

PAGE = 4096


def add_parsers(subparsers: Subparsers) -> None:
    """Declare ``ckpt`` and its actions."""
    parser = subparsers.add_parser(
        "ckpt",
        help="look at checkpoints, check, compare, convert and cut them",
        description="Checkpoints: safetensors files, directories of them, Zarr groups, and "
        "(convert, diff) files of torch.save, of which weights only are read.",
    )
    actions = parser.add_subparsers(metavar="action", required=True)
    info = _action(actions, "info", _info, "tensors, types, sizes, alignment")
    info.add_argument("path")
    info.add_argument("--all", action="store_true", help="list every tensor")
    info.add_argument("--histogram", metavar="PNG", help="draw the values of the largest tensors")
    verify = _action(actions, "verify", _verify, "compare all bytes with the checksums")
    verify.add_argument("path")
    diff = _action(actions, "diff", _diff, "how two checkpoints differ; exit status 1 if they do")
    diff.add_argument("path")
    diff.add_argument("other")
    convert = _action(actions, "convert", _convert, "store as .safetensors, .zarr, .pt, .npz")
    convert.add_argument("path")
    convert.add_argument("target")
    convert.add_argument(
        "--overwrite", action="store_true", help="replace what is there, once the new one is whole"
    )
    convert.add_argument("--compression", choices=["auto", "zstd", "none"], help="of .zarr")
    index = _action(
        actions, "index", _index, "references for zarr-python and xarray, beside the file"
    )
    index.add_argument("path")
    index.add_argument("--out", metavar="JSON", help="instead of PATH.refs.json")
    cut = _action(actions, "slice", _slice, "a part of one tensor, as text or .npy")
    cut.add_argument("path")
    cut.add_argument("name")
    cut.add_argument("selection", nargs="?", default="...", help="as between brackets: 0:4,:,7")
    cut.add_argument("--out", metavar="NPY")
    parser.set_defaults(run=run)


def _action(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(action=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    status: int = args.action(args)
    return status


def _info(args: argparse.Namespace) -> int:
    from zarr_gpu.checkpoint import safe_open
    from zarr_gpu.checkpoint.described import described_shape, type_name
    from zarr_gpu.checkpoint.saving import CHECKSUMS
    from zarr_gpu.metadata.safetensors import tensor_nbytes
    from zarr_gpu.stores.tensor_files import TensorFiles

    with safe_open(args.path, "np") as file:
        rows = []
        for name in file:
            described = file.describe(name)
            nbytes = tensor_nbytes(described.code, described.shape)
            rows.append((name, type_name(described), described_shape(described), nbytes))
        total = sum(nbytes for *_, nbytes in rows)
        kinds = Counter[str]()
        for _, kind, _, nbytes in rows:
            kinds[kind] += nbytes
        files = file.files
        aligned = checksums = None
        if isinstance(files, TensorFiles):
            on_pages = (files.offset % PAGE == 0) & (files.nbytes > 0)
            aligned = int(files.nbytes[on_pages].sum()) / max(1, int(files.nbytes.sum()))
            checksums = all(CHECKSUMS in header.metadata for header in files.headers)
        document = {
            "path": args.path, "files": list(files.keys), "tensors": len(rows),
            "parameters": sum(math.prod(shape) for _, _, shape, _ in rows), "nbytes": total,
            "types": dict(kinds.most_common()), "page_aligned": aligned, "checksums": checksums,
            "metadata": file.metadata(),
        }  # fmt: skip
        rows.sort(key=lambda row: -row[3])
        if args.histogram:
            _draw(file, rows, args.histogram)
    if args.json:
        document["all"] = [
            {"name": n, "type": t, "shape": list(s), "nbytes": b} for n, t, s, b in rows
        ]
        common.print_json(document)
        return 0
    print(f"{args.path}: {len(rows)} tensors, {document['parameters']:,} values, {size(total)}")
    for kind, nbytes in kinds.most_common():
        print(f"  {kind:<16} {size(nbytes)}")
    if aligned is not None:
        print(f"  {aligned:.0%} of the bytes begin at pages, ", end="")
        print("checksums of all of them" if checksums else "no checksums")
    for name, text in document["metadata"].items():
        print(f"  {name}: {text[:70]}")
    shown = rows if args.all else rows[:10]
    print("all tensors:" if args.all else "the largest tensors:")
    for name, kind, shape, nbytes in shown:
        print(
            f"  {size(nbytes):>10}  {kind:<14} {'x'.join(map(str, shape)) or 'scalar':<16} {name}"
        )
    return 0


def _draw(file: Any, rows: list[Any], target: str) -> None:
    """Histograms of the largest tensors of numbers."""
    import numpy as np

    try:
        import matplotlib as mpl
    except ImportError:
        from zarr_gpu.errors import MissingDependencyError

        raise MissingDependencyError("--histogram needs the package matplotlib") from None
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [row for row in rows if "float" in row[1] and math.prod(row[2])][:12]
    count = max(1, len(drawn))
    across = min(3, count)
    down = -(-count // across)
    figure, axes = plt.subplots(
        down, across, figsize=(4 * across, 2.2 * down + 0.6), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(drawn) :]:
        axis.set_axis_off()
    for axis, (name, kind, shape, _) in zip(axes.flat, drawn, strict=False):
        values = np.asarray(file.get_tensor(name)).astype(np.float32).ravel()
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [0.001, 0.999]) if values.size else (0.0, 1.0)
        span = (low, high) if high > low else (low - 0.5, low + 0.5)
        axis.hist(values, bins=80, range=span, color="#4878a8")
        axis.set_title(name if len(name) < 42 else f"...{name[-40:]}", fontsize=8)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
        std = f"std {values.std():.3g}" if values.size else "no finite values"
        label = f"{kind}\n{'x'.join(map(str, shape))}\n{std}"
        axis.text(0.98, 0.95, label, transform=axis.transAxes, ha="right", va="top", fontsize=7)
    figure.suptitle(f"{rows and len(rows)} tensors: values of the largest", fontsize=10)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def _verify(args: argparse.Namespace) -> int:
    from zarr_gpu.checkpoint import safe_open
    from zarr_gpu.errors import ZarrGpuError

    problems = []
    with safe_open(args.path, "np", verify="full") as file:
        names = file.offset_keys()
        progress = common.bar(args)
        progress.begin("verify", len(names), "tensors")
        for name in names:
            try:
                file.get_tensor(name)
            except ZarrGpuError as error:
                problems.append({"tensor": name, "error": str(error)})
            progress.advance(1)
        progress.end()
    if args.json:
        common.print_json({"tensors": len(names), "problems": problems})
    else:
        for problem in problems:
            print(problem["error"])
        print(f"{len(names)} tensors, {len(problems) or 'no'} problems")
    return 1 if problems else 0


def _diff(args: argparse.Namespace) -> int:
    import numpy as np

    from zarr_gpu.checkpoint.convert import load_tensors

    bar = common.bar(args)
    a, b = (
        {n: np.asarray(_plain(t)) for n, t in load_tensors(path, "np", progress=bar)[0].items()}
        for path in (args.path, args.other)
    )
    found: dict[str, Any] = {
        "only_first": sorted(a.keys() - b.keys()),
        "only_second": sorted(b.keys() - a.keys()),
        "differ": {},
        "equal": 0,
    }
    progress = bar
    progress.begin("compare", len(a.keys() & b.keys()), "tensors")
    for name in (n for n in a if n in b):
        progress.advance(1)
        one, other = a[name], b[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            what = f"{one.dtype}{list(one.shape)} and {other.dtype}{list(other.shape)}"
            found["differ"][name] = {"what": what}
        elif one.tobytes() == other.tobytes():
            found["equal"] += 1
        else:
            found["differ"][name] = _distance(one, other)
    progress.end()
    if args.json:
        common.print_json(found)
    else:
        for name in found["only_first"]:
            print(f"only in {args.path}: {name}")
        for name in found["only_second"]:
            print(f"only in {args.other}: {name}")
        for name, how in found["differ"].items():
            print(f"{name}: {', '.join(f'{k} {v}' for k, v in how.items())}")
        print(f"{found['equal']} tensors are equal")
    return 1 if found["only_first"] or found["only_second"] or found["differ"] else 0


def _plain(tensor: Any) -> Any:
    """Bits of types that NumPy does not have, from PyTorch."""
    if not hasattr(tensor, "data_ptr"):
        return tensor
    try:
        return tensor.detach().numpy()
    except TypeError:
        import torch

        sizes = {1: torch.uint8, 2: torch.int16}
        return tensor.detach().view(sizes[tensor.elementsize()]).numpy()


def _distance(one: Any, other: Any) -> dict[str, Any]:
    import numpy as np

    bits = (np.ascontiguousarray(a).reshape(-1, 1).view(np.uint8) for a in (one, other))
    changed = int(np.not_equal(*bits).any(axis=1).sum())  # so that NaN is NaN
    try:
        wide = np.complex128 if one.dtype.kind == "c" else np.float64
        with np.errstate(invalid="ignore"):
            distances = np.abs(one.astype(wide) - other.astype(wide))
        most = float(np.nanmax(distances)) if not np.isnan(distances).all() else math.nan
    except (TypeError, ValueError):
        return {"changed": changed}
    return {"changed": changed, "of": one.size, "largest": most}


def _convert(args: argparse.Namespace) -> int:
    from zarr_gpu.checkpoint.convert import convert, is_there
    from zarr_gpu.errors import ContainsNodeError

    if not args.overwrite and is_there(args.target):
        raise ContainsNodeError(f"{args.target} exists; --overwrite replaces it")
    n = convert(args.path, args.target, compression=args.compression, progress=common.bar(args))
    if args.json:
        common.print_json({"tensors": n})
    else:
        print(f"{n} tensors -> {args.target}")
    return 0


def _index(args: argparse.Namespace) -> int:
    from zarr_gpu.checkpoint.convert import references
    from zarr_gpu.stores.publishing import appearing

    document = references(args.path, progress=common.bar(args))
    target = args.out or f"{str(args.path).rstrip('/')}.refs.json"
    with appearing(target, overwrite=True) as unfinished:
        Path(unfinished).write_text(json.dumps(document), encoding="utf-8")
    n = len(document["refs"])
    if args.json:
        common.print_json({"references": n, "file": target})
    else:
        print(f"{n} references -> {target}")
    return 0


def _slice(args: argparse.Namespace) -> int:
    import numpy as np

    from zarr_gpu.checkpoint import safe_open
    from zarr_gpu.cli.selections import parse_selection
    from zarr_gpu.stores.publishing import appearing

    progress = common.bar(args)
    with safe_open(args.path, "np") as file:
        progress.begin(args.name, 0)
        try:
            values = np.asarray(file.get_slice(args.name)[parse_selection(args.selection)])
            progress.advance(values.nbytes)
        finally:
            progress.end()
    if args.out:
        with appearing(args.out, overwrite=True) as unfinished, Path(unfinished).open("wb") as out:
            np.save(out, values)
        if args.json:
            common.print_json({"type": values.dtype.name, "shape": values.shape, "file": args.out})
        else:
            print(f"{values.dtype}{list(values.shape)} -> {args.out}")
    elif args.json:
        shown = values.astype(np.float64) if "float" in values.dtype.name else values
        common.print_json({"type": values.dtype.name, "values": shown.tolist()})
    else:
        print(values)
    return 0
