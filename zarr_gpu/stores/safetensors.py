"""safetensors files as Zarr arrays, in place: a group whose chunks are ranges of the files.

Nothing is copied or written: documents are made when they are asked for, and a chunk is the rows of
a tensor that lie one after the other. A tensor may also be stored in parts, by several files
(:data:`PARTS`); each part is a chunk then.

>>> from zarr_gpu.stores.memory import MemoryStore
>>> data = safetensors.make_header([("w", "F32", (2, 2))], {}, align=8) + bytes(16)
>>> store = SafetensorsStore(MemoryStore({"m.safetensors": data}), ["m.safetensors"])
>>> store.list_dir(), store.size("w/c/0/0")
(['w', 'zarr.json'], 16)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import MetadataError, ReadOnlyError, StoreError, UnsupportedError
from zarr_gpu.metadata import safetensors
from zarr_gpu.metadata.json import load
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.paths import is_node_name
from zarr_gpu.metadata.safetensors import TYPES
from zarr_gpu.stores.base import ByteRange, Located, Reader, Store, check_limit
from zarr_gpu.stores.common import SameBytes, check_prefix

CHUNK_NBYTES = 16 << 20
"""Chunks have at most this many bytes, where whole rows of the tensor can be cut evenly."""
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
_KEYS = ChunkKeyEncoding()
_ESCAPED = re.compile(r"%(?=[0-9A-F]{2})|[/\\\x00]")


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
    MetadataError for headers that are damaged and for names that are in two files.
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
        with ExitStack() as opened:
            columns = [self._open(key, opened) for key in self.keys]
            opened.pop_all()
        self.names = [name for header, _ in columns for name in header.names]
        self.codes = [code for header, _ in columns for code in header.codes]
        self.shapes = [shape for header, _ in columns for shape in header.shapes]
        sizes = [len(header.names) for header, _ in columns]
        self.file = np.repeat(np.arange(len(columns), dtype=np.int64), sizes)
        self.offset = _joined([header.start + at for header, at in columns])
        self.nbytes = _joined([header.nbytes for header, _ in columns])
        self.headers = [header for header, _ in columns]
        self._collect_parts(self.headers)

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

    def _collect_parts(self, headers: list[safetensors.Header]) -> None:
        self.rows: dict[str, int] = {}
        at = 0
        for key, header in zip(self.keys, headers, strict=True):
            parts = self._parse_parts(header, key)
            for name in [*header.metadata]:
                if name not in (PARTS, *self.metadata):
                    self.metadata[name] = header.metadata[name]
            if not parts and self._weight_map is None:
                self.rows.update(zip(header.names, range(at, at + len(header.names)), strict=True))
            else:
                self._add_rows(header, at, key, parts)
            at += len(header.names)
        if self._weight_map is not None:
            missing = [name for name in self._weight_map if name not in self.rows]
            if missing:
                raise MetadataError(f"{missing[0]!r} is in the index, but in no file")
        elif len(self.rows) + sum(map(len, self._parts.values())) < len(self.names):
            twice = next(n for i, n in enumerate(self.names) if self.rows.get(n, i) != i)
            raise MetadataError(f"{twice!r} is in two of the files {', '.join(self.keys)}")

    def _add_rows(
        self, header: safetensors.Header, at: int, key: str, parts: Mapping[str, Any]
    ) -> None:
        for row, name in enumerate(header.names, at):
            if name in parts:
                part = parts[name]
                offset, shape = tuple(part["offset"]), tuple(part["shape"])
                piece = Part(row, offset, header.shapes[row - at])
                self._parts.setdefault(part["of"], []).append((piece, shape))
            elif self._weight_map is None or self._weight_map.get(name) == key:
                self.rows[name] = row

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
        yield from self.rows
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


class _RangeReader(Reader):
    """Some bytes of an opened file."""

    __slots__ = ("_base", "_start", "size", "version")

    def __init__(self, base: Reader, start: int, size: int) -> None:
        self._base = base
        self._start = start
        self.size = size
        self.version = base.version

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise StoreError(f"bytes {offset}..{offset + nbytes} of {self.size}")

    def read(self, offset: int, nbytes: int) -> Bytes:
        self._check(offset, nbytes)
        return self._base.read(self._start + offset, nbytes)

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        if len(offset):
            self._check(int(offset.min()), 0)
            self._check(0, int((offset + nbytes).max()))
        return self._base.read_many(self._start + offset, nbytes)

    def read_into(self, offset: int, out: memoryview) -> None:
        self._check(offset, len(out))
        self._base.read_into(self._start + offset, out)

    def scatter(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._check(offset, sum(map(len, buffers)))
        self._base.scatter(self._start + offset, buffers)


class SafetensorsStore(SameBytes):
    """The tensors of safetensors files as the arrays of one group; read-only.

    A name that is none of a Zarr node is written with ``%`` and hexadecimal digits (``a/b``:
    ``a%2Fb``); the array's attribute ``zarr_gpu`` has it as it is.
    """

    read_only = True
    fills = True
    supports_deletes = False

    def __init__(
        self, store: Store, keys: Sequence[str] | str, *, files: TensorFiles | None = None
    ) -> None:
        """``keys``: of files, or of one file or index; ``files``: the same, opened."""
        self._store = store
        self._given = keys
        if files is None:
            if isinstance(keys, str):
                files = open_tensor_files(store, keys)
            else:
                files = TensorFiles(store, keys)
        self.files = files
        self.local = store.local

    def __repr__(self) -> str:
        return f"SafetensorsStore({self._store!r}, {self._given!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, self._given)

    @property
    def identity(self) -> Hashable:
        given = self._given if isinstance(self._given, str) else tuple(self._given)
        return "safetensors", self._store.identity, given

    @cached_property
    def _nodes(self) -> dict[str, str]:
        """Names of tensors by names of nodes."""
        return {node_name(name): name for name in self.files}

    # -- reading ------------------------------------------------------------------------------

    def _find(self, key: str) -> bytes | tuple[int, int, int] | None:
        """A document, or (file, offset, nbytes) of a chunk."""
        if key == "zarr.json":
            attributes = dict(self.files.metadata)
            return _dump({"zarr_format": 3, "node_type": "group", "attributes": attributes})
        node, _, rest = key.partition("/")
        name = self._nodes.get(node)
        if name is None:
            return None
        if rest == "zarr.json":
            return _dump(array_document(self.files[name], node))
        tensor = self.files[name]
        chunk = _KEYS.coordinates(rest, len(tensor.shape))
        return None if chunk is None else self._range(tensor, chunk)

    def _range(self, tensor: Tensor, chunk: tuple[int, ...]) -> tuple[int, int, int] | None:
        if len(tensor.parts) > 1:
            cells = _cells(tensor)
            if cells is None or chunk not in cells[1]:
                return None
            row, within, nbytes = cells[1][chunk].row, 0, None
        else:
            row = tensor.parts[0].row
            shape = chunk_shape(tensor.shape, TYPES[tensor.code].bits)
            grid = [-(-n // m) for n, m in zip(tensor.shape, shape, strict=True)]
            number = 0
            for i, n in zip(chunk, grid, strict=True):
                if i >= n:
                    return None
                number = number * n + i
            nbytes = math.prod(shape) * TYPES[tensor.code].bits // 8
            within = number * nbytes
        at = int(self.files.offset[row]) + within
        size = int(self.files.nbytes[row]) if nbytes is None else nbytes
        return int(self.files.file[row]), at, size

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        found = self._find(key)
        if found is None:
            return None
        size = len(found) if isinstance(found, bytes) else found[2]
        start, stop = (0, size) if byte_range is None else byte_range.resolve(size)
        check_limit(key, stop - start, limit)
        if isinstance(found, bytes):
            return found[start:stop]
        return self.files.readers[found[0]].read(found[1] + start, stop - start)

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        """Chunks of one file are asked for together."""
        data: list[Bytes | None] = [None] * len(keys)
        wanted: dict[int, list[tuple[int, int, int]]] = {}
        for i, (key, at, n) in enumerate(zip(keys, offset.tolist(), nbytes.tolist(), strict=True)):
            found = self._find(key)
            if isinstance(found, tuple):
                start, stop = ByteRange(at, None if n < 0 else n).resolve(found[2])
                check_limit(key, stop - start, limit)
                wanted.setdefault(found[0], []).append((i, found[1] + start, stop - start))
            elif found is not None:
                data[i] = self.get(key, ByteRange(at, None if n < 0 else n), limit=limit)
        for file, rows in wanted.items():
            numbers, starts, sizes = np.array(rows, np.int64).T
            parts = self.files.readers[file].read_many(starts, sizes)
            for i, part in zip(numbers.tolist(), parts, strict=True):
                data[i] = part
        return data

    def fill(self, keys: Sequence[str], buffers: Iterable[memoryview]) -> Iterator[int]:
        for key, buffer in zip(keys, buffers, strict=False):
            found = self._find(key)
            if isinstance(found, tuple):
                check_limit(key, found[2], len(buffer))
                self.files.readers[found[0]].read_into(found[1], buffer[: found[2]])
            yield found[2] if isinstance(found, tuple) else -1

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        found = self._find(key)
        if not isinstance(found, tuple):
            return super().open_reader(key, limit=limit)
        check_limit(key, found[2], limit)
        return _RangeReader(self.files.readers[found[0]], found[1], found[2])

    def size(self, key: str) -> int | None:
        found = self._find(key)
        if found is None:
            return None
        return len(found) if isinstance(found, bytes) else found[2]

    def locate(self, keys: Sequence[str]) -> Located:
        """Ranges of the files, which may be on this machine."""
        found = [self._find(key) for key in keys]
        paths = self._store.locate(self.files.keys).path
        located = Located.unknown(len(keys))
        located.path = [paths[f[0]] if isinstance(f, tuple) else None for f in found]
        located.offset = np.array([f[1] if isinstance(f, tuple) else 0 for f in found], np.int64)
        located.nbytes = np.array([f[2] if isinstance(f, tuple) else -1 for f in found], np.int64)
        located.missing = np.array([f is None for f in found], np.bool_)
        return located

    # -- listing ------------------------------------------------------------------------------

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        inside = check_prefix(prefix)
        if not inside:
            yield "zarr.json"
        node = inside.partition("/")[0]
        for name in [node] if node else self._nodes:
            if name not in self._nodes:
                continue
            tensor = self.files[self._nodes[name]]
            keys = [f"{name}/zarr.json", *(f"{name}/{_KEYS.key(at)}" for at in _chunks(tensor))]
            yield from (key for key in keys if key.startswith(inside) or key == prefix)

    def list_dir(self, prefix: str = "") -> list[str]:
        return sorted([*self._nodes, "zarr.json"]) if not prefix else super().list_dir(prefix)

    def list_holding(self, prefix: str, names: Sequence[str]) -> list[str] | None:
        return sorted(self._nodes) if not prefix and "zarr.json" in names else []

    def with_read_only(self, read_only: bool = True) -> SafetensorsStore:
        if not read_only:
            raise ReadOnlyError(f"{self!r} cannot be written")
        return self

    def close(self) -> None:
        self.files.close()


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def node_name(name: str) -> str:
    """A tensor's name as that of a Zarr node."""
    node = _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", name)
    if not node:
        return "%"  # no other name becomes this one: what it escapes has digits
    if node == "%":
        return "%25"
    if node.startswith("__") or not node.strip(".") or node in _DOCUMENTS or node[0:4] == ".zg-":
        node = f"%{ord(node[0]):02X}{node[1:]}"
    return node


_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@lru_cache(maxsize=1024)
def chunk_shape(shape: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """Rows that lie one after the other, as many as divide the tensor evenly: every chunk of a
    regular grid has the same size, also the last one.
    """
    chunk = [max(1, n) for n in shape]
    for d, n in enumerate(shape):
        if 0 in shape or math.prod(chunk) * bits <= 8 * CHUNK_NBYTES:
            break
        row = math.prod(chunk[d + 1 :]) * bits
        fitting = [m for m in _divisors(n) if m * row % 8 == 0]
        small = [m for m in fitting if m * row <= 8 * CHUNK_NBYTES]
        chunk[d] = max(small, default=min(fitting, default=n))
        if chunk[d] * row < CHUNK_NBYTES // 8 and row <= CHUNK_NBYTES:
            chunk[d] = min(m for m in fitting if m not in small)  # too small to be worth a read
            break
        if row <= 8 * CHUNK_NBYTES:
            break
    return tuple(chunk)


def _divisors(n: int) -> Iterator[int]:
    for m in range(1, math.isqrt(n) + 1):
        if n % m == 0:
            yield m
            yield n // m


def _cells(tensor: Tensor) -> tuple[list[list[int]], dict[tuple[int, ...], Part]] | None:
    """Sizes of the cells of each axis, and parts by cell; None where parts are no grid."""
    starts = [sorted({p.offset[d] for p in tensor.parts}) for d in range(len(tensor.shape))]
    sizes = [
        [b - a for a, b in zip(s, [*s[1:], n], strict=True)]
        for s, n in zip(starts, tensor.shape, strict=True)
    ]
    numbers = [{at: i for i, at in enumerate(s)} for s in starts]
    cells = {}
    for part in tensor.parts:
        where = tuple(number[at] for number, at in zip(numbers, part.offset, strict=True))
        if part.shape != tuple(size[i] for size, i in zip(sizes, where, strict=True)):
            return None
        cells[where] = part
    return sizes, cells


def _chunks(tensor: Tensor) -> Iterator[tuple[int, ...]]:
    if len(tensor.parts) > 1:
        cells = _cells(tensor)
        return iter(()) if cells is None else iter(cells[1])
    shape = chunk_shape(tensor.shape, TYPES[tensor.code].bits)
    return np.ndindex(*(-(-n // m) for n, m in zip(tensor.shape, shape, strict=True)))


def array_document(tensor: Tensor, node: str) -> dict[str, Any]:
    """The ``zarr.json`` of a tensor."""
    kind = TYPES[tensor.code]
    grid: dict[str, Any]
    if len(tensor.parts) > 1:
        cells = _cells(tensor)
        if cells is None:
            raise UnsupportedError(f"the parts of {tensor.name!r} are no grid of chunks")
        grid = {
            "name": "rectilinear",
            "configuration": {"kind": "inline", "chunk_shapes": cells[0]},
        }
    else:
        shape = chunk_shape(tensor.shape, kind.bits)
        grid = {"name": "regular", "configuration": {"chunk_shape": list(shape)}}
    codec: dict[str, Any] = {"name": "bytes"}
    if kind.bits < 8:
        codec = {"name": "packbits"}
    elif kind.bits > 8:
        codec["configuration"] = {"endian": "little"}
    fill: Any = False if kind.name == "bool" else 0
    if kind.name.startswith("complex"):
        fill = [0, 0]
    elif kind.name == "float8_e8m0fnu":
        fill = 1.0  # it has no zero
    attributes = {} if node == tensor.name else {"zarr_gpu": {"tensor": tensor.name}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(tensor.shape),
        "data_type": kind.name,
        "chunk_grid": grid,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [codec],
        "fill_value": fill,
        "attributes": attributes,
    }
