"""safetensors files as Zarr arrays, in place: a group whose chunks are ranges of the files.

Nothing is copied or written: documents are made when they are asked for, and a chunk is the rows of
a tensor that lie one after the other. A tensor may also be stored in parts, by several files; each
part is a chunk then.

>>> from zarr_gpu.metadata import safetensors
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
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import ReadOnlyError, StoreError, UnsupportedError
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.metadata.safetensors import TYPES
from zarr_gpu.stores.base import ByteRange, Located, Reader, Store, check_limit
from zarr_gpu.stores.common import SameBytes, check_prefix
from zarr_gpu.stores.tensor_files import Part, Tensor, TensorFiles, open_tensor_files

CHUNK_NBYTES = 16 << 20
"""Chunks have at most this many bytes, where whole rows of the tensor can be cut evenly."""
_KEYS = ChunkKeyEncoding()
_ESCAPED = re.compile(r"%(?=[0-9A-F]{2})|[/\\\x00]")


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
                yield found[2]
            else:
                yield from super().fill([key], [buffer])

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
    if node.startswith("__") or not node.strip(".") or node in DOCUMENTS or node[0:4] == ".zg-":
        node = f"%{ord(node[0]):02X}{node[1:]}"
    return node


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


def _sides(tensor: Tensor) -> list[list[int]]:
    """Sizes of the chunks along each axis; of equal ones, one is enough."""
    if len(tensor.parts) == 1:
        return [[n] for n in chunk_shape(tensor.shape, TYPES[tensor.code].bits)]
    cells = _cells(tensor)
    if cells is None:
        raise UnsupportedError(f"the parts of {tensor.name!r} are no grid of chunks")
    return cells[0]


def array_document(tensor: Tensor, node: str) -> dict[str, Any]:
    """The ``zarr.json`` of a tensor."""
    kind = TYPES[tensor.code]
    sides = _sides(tensor)
    regular = [axis[0] for axis in sides if axis.count(axis[0]) == len(axis)]
    if len(regular) == len(sides):  # an edge that is cut off would have to be stored in full
        grid = {"name": "regular", "configuration": {"chunk_shape": regular}}
    else:
        configuration = {"kind": "inline", "chunk_shapes": sides}
        grid = {"name": "rectilinear", "configuration": configuration}
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
