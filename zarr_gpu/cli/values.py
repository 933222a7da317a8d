"""``zarr-gpu cat``: the values of a selection as text, CSV, bytes, ``.npy`` or ``.npz``."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common

if TYPE_CHECKING:
    from zarr_gpu.array import Array
    from zarr_gpu.cli.main import Subparsers

ALIGNED = 10_000
"""Elements up to which text is set in columns, as NumPy prints arrays."""
PIECE_NBYTES = 64 << 20
"""Read at a time; what is printed can be larger than the memory."""
FORMATS = ("text", "csv", "json", "raw", "npy", "npz")


def add_parsers(subparsers: Subparsers) -> None:
    """Declare the command and its other name."""
    for name in ("cat", "dump"):
        parser = common.command(
            subparsers,
            name,
            _cat,
            "print values, or write them to a file"
            if name == "cat"
            else "the same as cat, under the name h5dump and ncdump have made known",
            f"""
            zarr-gpu {name} survey.zarr/depth -s 0:10,::2
            zarr-gpu {name} survey.zarr/depth -s -1 --format csv
            zarr-gpu {name} survey.zarr/depth -o depth.npy
            """,
            more="All values are printed, the same bytes for the same values on every machine.",
        )
        common.add_place(parser, "--array_path", "the same as PATH, for conformance suites")
        parser.add_argument("path", nargs="?", help="an array: STORE, STORE/PATH or STORE::PATH")
        parser.add_argument(
            "-s", "--select", metavar="SELECTION", default="...",
            help="as between NumPy's brackets: 0:10,::2,-1 (default: everything)",
        )  # fmt: skip
        parser.add_argument(
            "-f", "--format", choices=FORMATS,
            help="text, csv (a row for each index but the last), json (nested lists), raw (bytes "
            "in C order, native byte order), npy, npz; default: by the name of the file, or text",
        )  # fmt: skip
        parser.add_argument("-o", "--output", metavar="FILE", help="write there, not to stdout")
        parser.add_argument("--device", default="cpu", help="that reads: cpu (default), cuda:N")
        common.add_common(parser, document=False)


def _cat(args: argparse.Namespace) -> int:
    from zarr_gpu.cli.selections import parse_selection

    path = args.path or args.array_path
    if not path or (args.path and args.array_path):
        raise ValueError("cat needs one array: zarr-gpu cat PATH")
    array = common.open_array(args, path, device=args.device)
    selection = parse_selection(args.select)
    suffix = (args.output or "").rpartition(".")[2]
    kind = args.format or (suffix if suffix in FORMATS else "text")
    if kind in ("npy", "npz", "raw"):
        name = array.basename or re.split(r"[/:]+", path.rstrip("/"))[-1].partition(".")[0]
        _binary(array, selection, kind, args.output, name)
        return common.OK
    from contextlib import nullcontext
    from pathlib import Path

    out = (
        Path(args.output).open("w", encoding="utf-8")  # noqa: SIM115 - closed by the with below
        if args.output
        else nullcontext(sys.stdout)
    )
    with out as stream:
        for text in _texts(array, selection, kind):
            stream.write(text)
    return common.OK


def _host(array: Array, selection: Any) -> Any:
    import numpy as np

    values = array[selection]
    return np.asarray(array._backend.to_host(values, array.dtype))  # noqa: SLF001 - of this package


def _pieces(array: Array, selection: Any) -> Iterator[Any]:
    """The selected values along the first axis, as much at a time as :data:`PIECE_NBYTES`."""
    import numpy as np

    from zarr_gpu.indexing import parse_numpy
    from zarr_gpu.values import pop_fields

    plain, fields = pop_fields(selection)
    shape = parse_numpy(plain, array.shape).shape
    nbytes = math.prod(shape) * max(1, array.itemsize)
    if nbytes <= PIECE_NBYTES or fields is not None or not _sliced(plain, array.ndim):
        yield _host(array, selection)
        return
    rows = _expanded(plain, array.ndim)
    first = next(d for d, item in enumerate(rows) if isinstance(item, slice))
    start, stop, step = rows[first].indices(array.shape[first])
    chosen = range(start, stop, step)
    per = max(1, PIECE_NBYTES // max(1, nbytes // max(1, shape[0])))
    for at in range(0, len(chosen), per):
        part = chosen[at : at + per]
        end = part[-1] + (1 if step > 0 else -1)
        rows[first] = slice(part[0], None if end < 0 else end, step)
        yield np.atleast_1d(_host(array, tuple(rows)))


def _sliced(selection: Any, ndim: int) -> bool:
    items = selection if isinstance(selection, tuple) else (selection,)
    return (
        ndim > 0
        and all(item is ... or isinstance(item, int | slice) for item in items)
        and any(not isinstance(item, int) for item in _expanded(selection, ndim))
    )


def _expanded(selection: Any, ndim: int) -> list[Any]:
    """One item for each axis."""
    items = list(selection) if isinstance(selection, tuple) else [selection]
    missing = ndim - sum(item is not ... for item in items)
    if ... in items:
        at = items.index(...)
        items[at : at + 1] = [slice(None)] * missing
    else:
        items += [slice(None)] * missing
    return items


def _binary(array: Array, selection: Any, kind: str, output: str | None, name: str) -> None:
    import numpy as np

    if output is None and sys.stdout.isatty():
        raise ValueError(f"{kind} is binary: give --output FILE, or send it to a file or program")
    if kind == "raw":
        with _bytes_to(output) as stream:
            for piece in _pieces(array, selection):
                if piece.dtype.hasobject or piece.dtype.kind == "T":
                    raise ValueError(f"elements of {piece.dtype} have no raw bytes; use npy or csv")
                stream.write(np.ascontiguousarray(piece).tobytes())
        return
    values = _host(array, selection)
    with _bytes_to(output) as stream:
        if kind == "npy":
            np.save(stream, values, allow_pickle=False)
        else:
            np.savez(stream, **{name or "arr_0": values}, allow_pickle=False)


def _bytes_to(output: str | None) -> Any:
    from contextlib import nullcontext
    from pathlib import Path

    return nullcontext(sys.stdout.buffer) if output is None else Path(output).open("wb")


# -- text -----------------------------------------------------------------------------------------


def _texts(array: Array, selection: Any, kind: str) -> Iterator[str]:
    import numpy as np

    pieces = _pieces(array, selection)
    if kind == "csv":
        for piece in pieces:
            yield from _csv(piece)
        return
    first = next(pieces, None)
    whole = None if first is None else first
    if kind == "text" and whole is not None and whole.size <= ALIGNED:
        left = next(pieces, None)
        if left is None:
            if not whole.ndim:
                yield f"{plain(whole[()])}\n"
                return
            most = sys.maxsize
            yield np.array2string(whole, threshold=most, max_line_width=most) + "\n"
            return
    else:
        left = None
    yield from _nested(_chain(first, left, pieces), kind)


def _chain(first: Any, second: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield from (piece for piece in (first, second) if piece is not None)
    yield from rest


def _nested(pieces: Iterator[Any], kind: str) -> Iterator[str]:
    """Brackets around brackets: JSON, or NumPy's way to write it, row by row."""
    opened = False
    for piece in pieces:
        if not piece.ndim:
            yield f"{_item(piece[()], kind)}\n"
            return
        for row in piece:
            yield ("," if kind == "json" else "") + "\n " if opened else "["
            opened = True
            yield _inner(row, kind, 1)
    yield "]\n" if opened else "[]\n"


def _inner(row: Any, kind: str, depth: int) -> str:
    comma = "," if kind == "json" else ""
    if not getattr(row, "ndim", 0):
        return _item(row, kind)
    if row.ndim == 1:
        return "[" + f"{comma} ".join(_item(v, kind) for v in row) + "]"
    between = f"{comma}\n" + " " * (depth + 1)
    return "[" + between.join(_inner(r, kind, depth + 1) for r in row) + "]"


def _csv(piece: Any) -> Iterator[str]:
    import csv
    import io

    rows = piece.reshape(-1, piece.shape[-1]) if piece.ndim > 1 else piece.reshape(1, -1)
    if piece.ndim == 1:
        rows = piece.reshape(-1, 1)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        writer.writerow([plain(value) for value in row])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def plain(value: Any) -> Any:
    """The shortest text that gives the same value again."""
    import numpy as np

    if isinstance(value, np.void) and value.dtype.names:
        return "(" + ", ".join(str(plain(value[name])) for name in value.dtype.names) + ")"
    if isinstance(value, np.void):
        return value.tobytes().hex()
    if isinstance(value, bytes):
        return value.decode("ascii", "backslashreplace")
    return str(value)


def _item(value: Any, kind: str) -> str:
    if kind != "json":
        return str(plain(value))
    import json

    import numpy as np

    if value.__class__.__name__ in ("datetime64", "timedelta64") or isinstance(
        value, bytes | np.void
    ):
        return json.dumps(str(plain(value)))
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, complex):
        item = [item.real, item.imag]
    return json.dumps(item, default=str)
