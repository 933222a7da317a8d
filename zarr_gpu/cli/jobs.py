# ruff: noqa: T201 - a command prints
"""``zarr-gpu copy``, ``convert``, ``rechunk`` and ``consolidate``: what writes."""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common
from zarr_gpu.cli.progress import size

if TYPE_CHECKING:
    from zarr_gpu.cli.main import Subparsers

RESUMES = (
    "An interrupted run goes on where it stopped when the command is run again; until it is "
    "finished the target cannot be opened."
)


def add_parsers(subparsers: Subparsers) -> None:
    """Declare the commands."""
    copy = common.command(
        subparsers,
        "copy",
        _copy,
        "copy an array or hierarchy, its chunks as they are",
        """
        zarr-gpu copy survey.zarr copy.zarr
        zarr-gpu copy survey.zarr/depth depth.zip
        zarr-gpu copy survey.zarr memory://survey.zarr
        """,
        more=f"Works between directories, zip files and URLs; metadata come last. {RESUMES}",
    )
    _places(copy)
    copy.add_argument(
        "--exclude", action="append", default=[], metavar="REGEX", help="keys to leave out"
    )
    convert = common.command(
        subparsers,
        "convert",
        _convert,
        "store with another format, codecs, chunks or shards, or as another kind of file",
        """
        zarr-gpu convert survey.zarr v2.zarr --format 2
        zarr-gpu convert survey.zarr small.zarr --compressor zstd --level 9
        zarr-gpu convert survey.zarr gpu.zarr --like gpu
        zarr-gpu convert survey.zarr/depth depth.npy
        zarr-gpu convert other.npy other.zarr --chunks 20,20
        """,
        more="Values, types, fill values, attributes and names of dimensions are kept. Files: "
        f".npy, .npz, .h5, .nc, .safetensors, either way (HDF5 with the extra hdf5). {RESUMES}",
    )
    _places(convert)
    convert.add_argument("--format", type=int, choices=[2, 3], help="of Zarr")
    _layout(convert)
    _codecs(convert)
    rechunk = common.command(
        subparsers,
        "rechunk",
        _rechunk,
        "store with other chunks, in bounded memory",
        """
        zarr-gpu rechunk survey.zarr/depth series.zarr --chunks 60,1
        zarr-gpu rechunk survey.zarr/depth tall.zarr --chunks time=-1,x=2 --memory 500MB
        zarr-gpu rechunk survey.zarr/depth sharded.zarr --chunks 10,10 --shards 40,40 --dry-run
        """,
        more="Every chunk of the target is written once. Where old and new chunks cut each other "
        "so that chunks would be read too often, an intermediate array is put between, in the "
        f"target, and removed at the end. {RESUMES}",
    )
    _places(rechunk)
    _layout(rechunk)
    consolidate = common.command(
        subparsers,
        "consolidate",
        _consolidate,
        "collect the metadata of a hierarchy in its group",
        """
        zarr-gpu consolidate survey.zarr
        """,
        more="Stores that are slow to list then open with one request.",
    )
    common.add_place(consolidate)
    common.add_common(consolidate)


def _places(parser: argparse.ArgumentParser) -> None:
    common.add_place(parser, "source")
    common.add_place(parser, "target", "directory, new zip file or URL; STORE::PATH or STORE/PATH")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a node, or an unfinished job, there"
    )
    common.add_common(parser, quiet=True)


def _layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chunks", type=common.parse_axes, metavar="LENGTHS", default="keep",
        help="100,200; or by names of dimensions, others kept: time=-1,x=50 (-1: the whole axis)",
    )  # fmt: skip
    parser.add_argument(
        "--shards", type=common.parse_axes, metavar="LENGTHS", default="keep",
        help="the same; none; auto; keep: those of the source, made to fit (default)",
    )  # fmt: skip
    parser.add_argument("--memory", default="1GiB", help="of the blocks in work (default 1GiB)")
    parser.add_argument(
        "--max-decodes", type=float, default=4.0, metavar="N",
        help="how often chunks may be decoded on the average before an intermediate array is used "
        "(default 4; inf: never)",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )


def _codecs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compressor", action="append", metavar="CODEC",
        help="zstd, gzip, lz4, blosc, ... or a JSON document; repeat for several; none",
    )  # fmt: skip
    parser.add_argument("--level", type=int, help="of the compressor")
    parser.add_argument(
        "--filter", action="append", metavar="CODEC", help="a JSON document; repeat; none"
    )
    parser.add_argument(
        "--like", choices=["gpu"], help="shards, chunks and codecs that decode fast on a GPU"
    )


# -- copy -----------------------------------------------------------------------------------------


def _copy(args: argparse.Namespace) -> int:
    from zarr_gpu.tools.copying import copy

    store, path = common.split(args.source)
    if not common.is_there(store):
        raise FileNotFoundError(f"{store}: no such file or directory")
    options = common.storage_options(args) if "://" in store else None
    target, target_path, target_options = common.find_target(args, args.target)
    start = time.monotonic()
    report = copy(
        store,
        target,
        path=path or None,
        target_path=target_path,
        excludes=tuple(args.exclude),
        overwrite=args.overwrite,
        storage_options=options,
        target_options=target_options,
        progress=common.bar(args),
    )
    return _done(args, report, time.monotonic() - start, decoded=False)


def _done(args: argparse.Namespace, report: Any, seconds: float, *, decoded: bool = True) -> int:
    if args.json:
        common.print_json(
            {
                "target": args.target,
                "arrays": report.arrays,
                "nbytes": report.nbytes,
                "resumed": report.resumed,
                "seconds": round(seconds, 3),
            }
        )
        return common.OK
    what = "decoded" if decoded else "stored"
    again = ", the rest of an interrupted run" if report.resumed else ""
    plural = "array" if report.arrays == 1 else "arrays"
    print(
        f"{report.arrays} {plural}, {size(report.nbytes)} ({what}) in {seconds:.1f} s{again} "
        f"-> {args.target}"
    )
    return common.OK


# -- convert and rechunk --------------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> int:
    changes: dict[str, Any] = {
        "zarr_format": args.format,
        "chunks": args.chunks,
        "shards": args.shards,
        "filters": _codec_list(args.filter, None),
        "compressors": _codec_list(args.compressor, args.level),
        "like": args.like,
    }
    return _run(args, changes, "convert")


def _rechunk(args: argparse.Namespace) -> int:
    if args.chunks == "keep":
        raise ValueError("rechunk needs --chunks")
    return _run(args, {"chunks": args.chunks, "shards": args.shards}, "rechunk")


def _codec_list(texts: list[str] | None, level: int | None) -> Any:
    """Codecs as ``create_array`` takes them."""
    from zarr_gpu.tools.layouts import KEEP

    if texts is None:
        if level is not None:
            raise ValueError("--level is of a --compressor, and none is given")
        return KEEP
    found = []
    for text in texts:
        if text.lower() == "none":
            continue
        document: dict[str, Any] = {"name": text}
        if text.lstrip().startswith("{"):
            document = json.loads(text)
        if level is not None and "name" in document and len(texts) == 1:
            member = "clevel" if document["name"] == "blosc" else "level"
            document.setdefault("configuration", {})[member] = level
        found.append(_complete(document))
    return found


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """What the format wants said, with the values that numcodecs and zarr-python choose."""
    defaults: dict[str, dict[str, Any]] = {
        "zstd": {"level": 0, "checksum": False},
        "gzip": {"level": 5},
        "blosc": {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "blocksize": 0},
    }
    name = document.get("name")
    if name in defaults:
        given = document.get("configuration", {})
        return {**document, "configuration": {**defaults[name], **given}}
    return document


def _run(args: argparse.Namespace, changes: dict[str, Any], what: str) -> int:
    from zarr_gpu.tools.converting import check_kinds, plan_conversion, plan_files
    from zarr_gpu.tools.exporting import export, is_export
    from zarr_gpu.tools.files import is_file_kind, open_file
    from zarr_gpu.tools.layouts import Layout
    from zarr_gpu.tools.sizes import parse_nbytes

    layout = Layout(**changes)
    check_kinds(args.source, args.target, layout)
    start = time.monotonic()
    if is_file_kind(args.source):
        with open_file(args.source) as tree:
            plan = plan_files(tree, layout, memory=args.memory, max_decodes=args.max_decodes)
            return _carry_out(args, args.source, plan, changes, what)
    node = common.open_place(args, args.source, device="cpu")
    if is_export(args.target):
        if args.dry_run:
            return _show_file(args)
        report = export(
            node,
            args.target,
            memory=parse_nbytes(args.memory),
            overwrite=args.overwrite,
            progress=common.bar(args),
        )
        for note in report.notes:
            common.say(args, f"zarr-gpu: {note}")
        return _done(args, report, time.monotonic() - start)
    plan = plan_conversion(node, layout, memory=args.memory, max_decodes=args.max_decodes)
    return _carry_out(args, node, plan, changes, what)


def _show_file(args: argparse.Namespace) -> int:
    if args.json:
        common.print_json({"arrays": [], "copied": [], "notes": [f"one file: {args.target}"]})
    else:
        print(f"{args.source} would be written as one file, {args.target}")
    return common.OK


def _carry_out(
    args: argparse.Namespace, source: Any, plan: Any, changes: dict[str, Any], what: str
) -> int:
    """Say what is planned, and do it."""
    from zarr_gpu.tools.converting import run_conversion
    from zarr_gpu.tools.targets import opened_target

    if changes.get("like"):
        common.say(args, _why_gpu(plan))
    if args.dry_run:
        return _show(args, plan)
    for note in plan.notes:
        common.say(args, f"zarr-gpu: {note}")
    target, path, options = common.find_target(args, args.target)
    start = time.monotonic()
    with opened_target(target, path, options, overwrite=args.overwrite) as place:
        report = run_conversion(
            source, place, plan, overwrite=args.overwrite, progress=common.bar(args), what=what
        )
    return _done(args, report, time.monotonic() - start)


def _why_gpu(plan: Any) -> str:
    lines = ["the layout for GPUs (an estimate; no card has measured it):"]
    for job in plan.jobs:
        chunks, shards = _units(job.metadata)
        itemsize = job.metadata.data_type.dtype.itemsize
        lines.append(
            f"  {job.path or 'array'}: chunks {_by(chunks)}, "
            f"{size(math.prod(chunks) * itemsize)}; shards {_by(shards) if shards else 'none'}"
        )
    lines += [
        "  small inner chunks: a GPU decodes thousands of streams at a time, each slowly",
        "  large shards: few files and long reads on the way to it",
        "  Blosc LZ4 with bit-shuffle, blocks of 64 KiB: few LZ4 sequences per byte, and kernels",
        "  that are safe for any bytes",
    ]
    return "\n".join(lines)


def _units(metadata: Any) -> tuple[Any, Any]:
    from zarr_gpu.layout import ArrayLayout

    layout = ArrayLayout(metadata, "")
    outer = getattr(metadata.chunk_grid, "chunk_shape", layout.levels.leaf.spec.shape)
    return layout.levels.leaf.spec.shape, outer if layout.sharded else None


def _by(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _show(args: argparse.Namespace, plan: Any) -> int:
    rows = []
    for job in plan.jobs:
        chunks, shards = _units(job.metadata)
        between = job.plan.intermediate
        passes = [
            {"blocks": len(p), "block": p.blocks_shape, "decoded": p.decoded, "chunks": p.chunks}
            for p in job.plan.passes
        ]
        rows.append(
            {
                "path": job.path,
                "chunks": chunks,
                "shards": shards,
                "passes": passes,
                "intermediate": between and {"chunks": between.chunks, "shards": between.shards},
                "decodes_per_chunk": round(job.plan.decodes, 2),
            }
        )
    copied = [copy.path for copy in plan.copies]
    if args.json:
        common.print_json({"arrays": rows, "copied": copied, "notes": list(plan.notes)})
        return common.OK
    for path in copied:
        print(f"{path or 'array'}: chunks are copied as they are")
    for row in rows:
        to = f", shards {_by(row['shards'])}" if row["shards"] else ""
        print(f"{row['path'] or 'array'}: to chunks {_by(row['chunks'])}{to}")
        if row["intermediate"]:
            middle = row["intermediate"]
            print(
                f"  through an uncompressed array of chunks {_by(middle['chunks'])}, "
                f"shards {_by(middle['shards'])}"
            )
        for number, p in enumerate(row["passes"], 1):
            print(
                f"  pass {number}: {p['blocks']} blocks of at most {_by(p['block'])}; "
                f"{p['decoded']} chunks decoded, {p['chunks']} are there"
            )
    for note in plan.notes:
        print(note)
    return common.OK


def _consolidate(args: argparse.Namespace) -> int:
    from zarr_gpu.opening import consolidate_metadata
    from zarr_gpu.tools.targets import changed_place

    store, path, options = common.find_target(args, args.path)
    if not common.is_there(store):
        raise FileNotFoundError(f"{store}: no such file or directory")
    with changed_place(store, path, "r+", options) as place:
        listed = consolidate_metadata(place).metadata.consolidated or {}
    if args.json:
        common.print_json({"path": args.path, "members": len(listed)})
    else:
        print(f"{len(listed)} members -> {args.path}")
    return common.OK
