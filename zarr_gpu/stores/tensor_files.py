"""Opened safetensors files: what is in them, in columns, and where it is.

A tensor may be stored in parts, by several files (:data:`PARTS`). Knows stores, not Zarr.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import MetadataError, StoreError
from zarr_gpu.metadata import safetensors
from zarr_gpu.metadata.json import load
from zarr_gpu.metadata.paths import is_node_name
from zarr_gpu.metadata.safetensors_scan import Shapes
from zarr_gpu.stores.base import Reader, Store

PARTS = "zarr_gpu.parts"
"""Member of a file's metadata: JSON, for the tensors in it that are parts of larger ones, by name:
``{"of": name, "shape": shape of the whole, "offset": of the part in it}``.
"""
INDEX = "model.safetensors.index.json"
"""Names of tensors and their files, as Hugging Face writes it."""
MANIFEST = "checkpoint.json"
"""What makes a directory one of our checkpoints: its files, and what is no tensor."""
MAX_LIST_NBYTES = 1 << 30
"""Of an index or a manifest."""


class Part(NamedTuple):
    """A box of a tensor that is stored in one piece, in C order."""

    row: int
    """In the columns of :class:`TensorFiles`."""
    offset: tuple[int, ...]
    shape: tuple[int, ...]


class Tensor(NamedTuple):
    """A tensor and where it is; ``parts`` do not overlap."""

    name: str
    code: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


class TensorFiles:
    """Opened safetensors files: what is in them, in columns with one row per stored tensor.

    ``store`` and ``keys`` name the files; ``weight_map`` (name to key) leaves out what an index
    does not list. Files stay open, so that their headers and bytes are of one version. Raises
    MetadataError for headers that are damaged and for names that are there twice.
    """

    def __init__(
        self, store: Store, keys: Sequence[str], weight_map: Mapping[str, str] | None = None
    ) -> None:
        self.store = store
        self.keys = list(keys)
        self.readers: list[Reader] = []
        self.metadata: dict[str, str] = {}
        self._weight_map = weight_map
        self._parts: dict[str, list[tuple[Part, tuple[int, ...]]]] = {}
        self._tensors: dict[str, Tensor] = {}
        self._wholes: dict[str, str] = {}
        with ExitStack() as opened:
            columns = [self._open(key, opened) for key in self.keys]
            opened.pop_all()
        self.headers = [header for header, _ in columns]
        for header in reversed(self.headers):  # the first one counts
            self.metadata.update(header.metadata)
        self.metadata.pop(PARTS, None)
        sizes = [len(header.names) for header in self.headers]
        self.codes = [code for header in self.headers for code in header.codes]
        self.shapes = Shapes.joined([header.shapes for header in self.headers])
        self.file = np.repeat(np.arange(len(columns), dtype=np.int64), sizes)
        self.offset = _joined([header.start + at for header, at in columns])
        self.nbytes = _joined([header.nbytes for header in self.headers])
        if len(self.keys) > 1 or weight_map is not None:
            len(self)  # errors that have to do with names belong here

    @cached_property
    def names(self) -> list[str]:
        return [name for header in self.headers for name in header.names]

    def _open(self, key: str, opened: ExitStack) -> tuple[safetensors.Header, int]:
        """The header of a file, and where its data begin."""
        reader = self.store.open_reader(key)
        if reader is None:
            raise StoreError(f"no file {key!r} in {self.store!r}")
        self.readers.append(opened.enter_context(reader))
        first = reader.read(0, min(8, reader.size))
        n = safetensors.header_nbytes(first, reader.size, key)
        header = safetensors.parse_header(reader.read(8, n), reader.size - 8 - n, key)
        return header, 8 + n

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows of tensors that are stored as a whole, by name."""
        rows: dict[str, int] = {}
        at = 0
        for key, header in zip(self.keys, self.headers, strict=True):
            parts = self._parse_parts(header, key)
            if not parts and self._weight_map is None:
                rows.update(zip(header.names, range(at, at + len(header.names)), strict=True))
            else:
                self._add_rows(rows, header, at, key, parts)
            at += len(header.names)
        if self._weight_map is not None:
            missing = [name for name in self._weight_map if name not in rows]
            if missing:
                raise MetadataError(f"{missing[0]!r} is in the index, but in no file")
        elif len(rows) + sum(map(len, self._parts.values())) < len(self.names):
            twice = next(name for i, name in enumerate(self.names) if rows.get(name, i) != i)
            raise MetadataError(f"{twice!r} is twice in {', '.join(self.keys)}")
        return rows

    def _add_rows(
        self,
        rows: dict[str, int],
        header: safetensors.Header,
        at: int,
        key: str,
        parts: Mapping[str, Any],
    ) -> None:
        for row, name in enumerate(header.names, at):
            if name in parts:
                part = parts[name]
                offset, shape = tuple(part["offset"]), tuple(part["shape"])
                piece = Part(row, offset, header.shapes[row - at])
                self._parts.setdefault(part["of"], []).append((piece, shape))
                self._wholes[name] = part["of"]
            elif self._weight_map is None or self._weight_map.get(name) == key:
                rows[name] = row

    def _parse_parts(self, header: safetensors.Header, key: str) -> Mapping[str, Any]:
        text = header.metadata.get(PARTS)
        if text is None:
            return {}
        parts = load(text.encode(), f"{key}: {PARTS}")
        shapes = dict(zip(header.names, header.shapes, strict=True))
        for name, part in parts.items():
            if not _is_part(part, shapes.get(name)):
                raise MetadataError(f"{PARTS}: {name!r} cannot be {part!r}", document=key)
        return parts

    # -- tensors ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.rows) + len(self._parts)

    def __iter__(self) -> Iterator[str]:
        yield from self.rows  # which collects the parts, too
        yield from self._parts

    def __contains__(self, name: object) -> bool:
        return name in self.rows or name in self._parts

    def __getitem__(self, name: str) -> Tensor:
        """Raises KeyError; MetadataError where parts do not make up the tensor."""
        row = self.rows.get(name)
        if row is not None:
            shape = self.shapes[row]
            return Tensor(name, self.codes[row], shape, (Part(row, (0,) * len(shape), shape),))
        known = self._tensors.get(name)
        if known is not None:
            return known
        pieces = self._parts[name]
        shape = pieces[0][1]
        codes = {self.codes[part.row] for part, _ in pieces}
        filled = sum(math.prod(part.shape) for part, _ in pieces)
        if len(codes) > 1 or any(whole != shape for _, whole in pieces):
            raise MetadataError(f"the parts of {name!r} differ in shape or type")
        parts = tuple(sorted((part for part, _ in pieces), key=lambda part: part.offset))
        if filled != math.prod(shape) or _overlap(parts):
            raise MetadataError(f"the parts of {name!r} do not make up {list(shape)}")
        return self._tensors.setdefault(name, Tensor(name, codes.pop(), shape, parts))

    def whole_name(self, name: str) -> str:
        """The tensor that ``name`` is a part of; ``name`` itself where it is none."""
        len(self.rows)  # which collects the parts
        return self._wholes.get(name, name)

    def place(self, row: int) -> str:
        """Where a row's bytes are, for messages."""
        at = int(self.offset[row])
        key = self.keys[int(self.file[row])]
        return f"{key!r}, bytes {at}..{at + int(self.nbytes[row])}"

    def read_row(self, row: int) -> Bytes:
        """The bytes of a stored tensor."""
        reader = self.readers[int(self.file[row])]
        return reader.read(int(self.offset[row]), int(self.nbytes[row]))

    def close(self) -> None:
        for reader in self.readers:
            reader.close()


def _joined(columns: list[Int64]) -> Int64:
    return np.concatenate(columns) if columns else np.empty(0, np.int64)


def _is_part(part: object, shape: tuple[int, ...] | None) -> bool:
    if shape is None or not isinstance(part, dict) or part.keys() != {"of", "shape", "offset"}:
        return False
    whole, offset = part["shape"], part["offset"]
    if not isinstance(part["of"], str) or not isinstance(whole, list):
        return False
    if not isinstance(offset, list) or not len(whole) == len(offset) == len(shape):
        return False
    return all(
        type(n) is int and type(at) is int and at >= 0 and at + m <= n < 2**63
        for n, at, m in zip(whole, offset, shape, strict=True)
    )


def _overlap(parts: tuple[Part, ...]) -> bool:
    """Whether two of the parts share an element; few parts are compared each with each."""
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            if a.offset and b.offset[0] >= a.offset[0] + a.shape[0]:
                break  # sorted by the first axis
            sides = zip(a.offset, a.shape, b.offset, b.shape, strict=True)
            if all(p < q + m and q < p + n for p, n, q, m in sides):
                return True
    return False


def open_tensor_files(store: Store, key: str) -> TensorFiles:
    """The files that ``key`` stands for: one, those of an index, or those of a checkpoint."""
    if not key.endswith(".json"):
        return TensorFiles(store, [key])
    data = store.get(key, limit=MAX_LIST_NBYTES)
    if data is None:
        raise StoreError(f"no file {key!r} in {store!r}")
    try:
        document = json.loads(bytes(data))
        weight_map = dict(document["weight_map"]) if "weight_map" in document else None
        listed = [file["name"] for file in document["files"]] if weight_map is None else []
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MetadataError(f"no list of safetensors files: {error!r}", document=key) from None
    names = dict.fromkeys(listed if weight_map is None else weight_map.values())
    for name in names:
        if not isinstance(name, str) or not is_node_name(name):
            raise MetadataError(f"{name!r} is no name of a file", document=key)
    folder = key.rpartition("/")[0]
    files = {name: f"{folder}/{name}" if folder else name for name in names}
    if weight_map is not None:
        weight_map = {name: files[file] for name, file in weight_map.items()}
    return TensorFiles(store, list(files.values()), weight_map)
