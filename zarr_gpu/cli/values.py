"""``zarr-gpu cat``: the values of a selection as text, CSV, bytes, ``.npy`` or ``.npz``."""

from __future__ import annotations

import argparse
import math
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zarr_gpu.cli import common
from zarr_gpu.cli.selections import as_slice, parse_selection

if TYPE_CHECKING:
    from zarr_gpu.array import Array
    from zarr_gpu.cli.main import Subparsers

ALIGNED = 10_000
"""Elements up to which text is set in columns, as NumPy prints arrays."""
TOGETHER = 10_000
"""Elements whose text is made together."""
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
    path = args.path or args.array_path
    if not path or (args.path and args.array_path):
        raise ValueError("cat needs one array: zarr-gpu cat PATH")
    array = common.open_array(args, path, device=args.device)
    suffix = (args.output or "").rpartition(".")[2]
    kind = args.format or (suffix if suffix in FORMATS else "text")
    values = Values(array, parse_selection(args.select))
    if kind in ("npy", "npz", "raw"):
        if args.output is None and sys.stdout.isatty():
            raise ValueError(
                f"{kind} is binary: give --output FILE, or send it to a file or program"
            )
        name = array.basename or re.split(r"[/:]+", path.rstrip("/"))[-1].partition(".")[0]
        with _output(args.output, "wb") as stream:
            _binary(values, kind, stream or sys.stdout.buffer, name or "arr_0")
        return common.OK
    with _output(args.output, "w") as stream:
        for text in _texts(values, kind):
            (stream or sys.stdout).write(text)
    return common.OK


@contextmanager
def _output(path: str | None, mode: str) -> Iterator[Any]:
    """A file that has its name when it is whole; None for stdout. Devices and pipes are written."""
    from pathlib import Path

    from zarr_gpu.stores.publishing import appearing

    encoding = None if "b" in mode else "utf-8"
    if path is None:
        yield None
    elif Path(path).exists() and not Path(path).is_file():
        with Path(path).open(mode, encoding=encoding) as file:
            yield file
    else:
        with (
            appearing(path, overwrite=True) as unfinished,
            Path(unfinished).open(mode, encoding=encoding) as file,
        ):
            yield file


class Values:
    """What is selected of an array, read in pieces, so that it may be larger than the memory."""

    def __init__(self, array: Array, selection: Any) -> None:
        from zarr_gpu.indexing import parse_numpy
        from zarr_gpu.values import pop_fields

        plain, fields = pop_fields(selection)
        self.array, self.selection = array, selection
        self.whole: Any = None
        if fields is None and _sliced(plain):
            self.shape = parse_numpy(plain, array.shape).shape
            self.items = _expanded(plain, array.ndim)
            self.dtype = array.dtype
        else:
            self.whole = self._host(selection)
            self.shape, self.dtype = self.whole.shape, self.whole.dtype
        self.dtype = self.dtype.newbyteorder("=") if self.dtype.kind != "T" else self.dtype
        self.size = math.prod(self.shape)
        self.nbytes = self.size * max(1, array.itemsize)

    def _host(self, selection: Any) -> Any:
        import numpy as np

        values = self.array[selection]
        return np.asarray(self.array._backend.to_host(values, self.array.dtype))  # noqa: SLF001 - of this package

    def all(self) -> Any:
        """At once."""
        return self._host(self.selection) if self.whole is None else self.whole

    def pieces(self) -> Iterator[Any]:
        """In C order, flat, each of about :data:`PIECE_NBYTES`."""
        if self.whole is not None or self.nbytes <= PIECE_NBYTES:
            yield self._flat(self.all())
            return
        for selection in self._parts():
            yield self._flat(self._host(selection))

    def _flat(self, values: Any) -> Any:
        return values.reshape(-1).astype(self.dtype, copy=False)

    def _parts(self) -> Iterator[tuple[Any, ...]]:
        """Selections of elements that follow each other, of whole rows where those are small."""
        import numpy as np

        sliced = [d for d, item in enumerate(self.items) if isinstance(item, slice)]
        ranges = [range(*self.items[d].indices(self.array.shape[d])) for d in sliced]
        most = max(1, PIECE_NBYTES // max(1, self.array.itemsize))
        after = [math.prod(map(len, ranges[d + 1 :])) for d in range(len(ranges))]
        split = next(d for d, n in enumerate(after) if n <= most)
        step = max(1, most // max(1, after[split]))
        rows = list(self.items)
        for before in np.ndindex(*map(len, ranges[:split])):
            for d, r, i in zip(sliced, ranges, before, strict=False):
                rows[d] = r[i]
            for start in range(0, len(ranges[split]), step):
                rows[sliced[split]] = as_slice(ranges[split][start : start + step])
                yield tuple(rows)


def _sliced(selection: Any) -> bool:
    items = selection if isinstance(selection, tuple) else (selection,)
    return all(item is ... or isinstance(item, int | slice) for item in items)


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


# -- bytes ----------------------------------------------------------------------------------------


def _binary(values: Values, kind: str, stream: Any, name: str) -> None:
    dtype = values.dtype
    if dtype.hasobject or dtype.kind == "T":
        raise ValueError(f"elements of {dtype} have no bytes of their own; use csv or json")
    if kind != "raw" and not dtype.type.__module__.startswith("numpy"):
        raise ValueError(f".{kind} would forget the type {dtype}; use raw")
    if kind == "raw":
        for piece in values.pieces():
            stream.write(piece.tobytes())
    elif kind == "npy":
        _npy(values, stream)
    else:
        with (
            zipfile.ZipFile(stream, "w") as archive,
            archive.open(f"{name}.npy", "w", force_zip64=True) as file,
        ):
            _npy(values, file)


def _npy(values: Values, stream: Any) -> None:
    import numpy as np

    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(values.dtype),
        "fortran_order": False,
        "shape": values.shape,
    }
    np.lib.format.write_array_header_2_0(stream, header)
    for piece in values.pieces():
        stream.write(piece.tobytes())


# -- text -----------------------------------------------------------------------------------------


def _texts(values: Values, kind: str) -> Iterator[str]:
    import numpy as np

    if kind == "csv":
        yield from _csv(values)
    elif not values.shape:
        yield f"{_item(values.all()[()], kind)}\n"
    elif kind == "text" and values.size <= ALIGNED:
        most = sys.maxsize
        yield np.array2string(values.all(), threshold=most, max_line_width=most) + "\n"
    elif not values.size:
        yield "[]\n" if values.shape[0] == 0 else f"{np.empty(values.shape).tolist()}\n"
    else:
        yield from _nested(values, kind)


def _rows(values: Values) -> Iterator[tuple[int, Any]]:
    """Elements of one row, or a part of it, and the number of the first in all."""
    at = 0
    length = values.shape[-1] if values.shape else 1
    for piece in values.pieces():
        start = 0
        while start < len(piece):
            n = min(length - at % length, len(piece) - start, TOGETHER)
            yield at, piece[start : start + n]
            start += n
            at += n


def _nested(values: Values, kind: str) -> Iterator[str]:
    """Brackets around brackets: JSON, or NumPy's way to write it; a line for each row."""
    comma = "," if kind == "json" else ""
    ndim = len(values.shape)
    between = f"{comma}\n " if ndim == 1 else f"{comma} "
    inside = [math.prod(values.shape[d:]) for d in range(1, ndim)]
    yield "[" * ndim
    for at, row in _rows(values):
        ends = sum(at % n == 0 for n in inside) if at else 0
        if ends:
            yield "]" * ends + f"{comma}\n" + " " * (ndim - ends) + "[" * ends
        elif at:
            yield between
        yield between.join(_item(value, kind) for value in row)
    yield "]" * ndim + "\n"


def _csv(values: Values) -> Iterator[str]:
    import csv
    import io

    length = values.shape[-1] if len(values.shape) > 1 else 1
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="")
    for at, row in _rows(values):
        if length == 1:
            for value in row:
                writer.writerow([plain(value)])
                buffer.write("\n")
        else:
            buffer.write("," if at % length else "")
            writer.writerow([plain(value) for value in row])
            buffer.write("" if (at + len(row)) % length else "\n")
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
        item = [common.number(item.real), common.number(item.imag)]
    elif isinstance(item, float):
        item = common.number(item)
    return json.dumps(item, default=str)
