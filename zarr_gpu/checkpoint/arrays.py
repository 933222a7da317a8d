"""Checkpoints as plain Zarr hierarchies: one array for each tensor, compressed or not.

Any Zarr implementation reads them. Compressed floats are shuffled Blosc with zstd 1, in blocks so
large that each byte of the elements gets blocks of its own: zstd has one Huffman table for 128 KiB,
and the bytes with the exponents are those that can be made smaller.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu import api, workers
from zarr_gpu.array import Array
from zarr_gpu.checkpoint.described import CODES, LOGICAL, Described, described_shape, type_name
from zarr_gpu.checkpoint.loading import Box
from zarr_gpu.checkpoint.saving import Source
from zarr_gpu.errors import CheckpointError, MetadataError, UnsupportedError
from zarr_gpu.group import Group
from zarr_gpu.metadata.dtype_names import ML_NAMES
from zarr_gpu.metadata.safetensors import TYPES
from zarr_gpu.nodes import member_names
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.safetensors import node_name
from zarr_gpu.stores.tensor_files import Tensor

CHUNK_NBYTES = 4 << 20
"""Of a chunk, the unit of reading."""
SHARD_NBYTES = 256 << 20
"""Of a shard, the unit of storing."""
BLOCK_NBYTES = 256 << 10
"""Of a block of Blosc, for each byte of an element: at least the 128 KiB of one Huffman table."""
SAMPLE_NBYTES = 1 << 20
SAMPLES = 8
LINK = 7e9
"""Bytes per second from which a checkpoint is read, where nothing is said: one fast disk."""
REMOTE_LINK = 1e9
LEAST_RATIO = 1.05

_log = logging.getLogger("zarr_gpu.checkpoint")
_LOGICAL = {**LOGICAL, "complex_float16": LOGICAL["complex32"]}


class Choice(NamedTuple):
    """Whether to compress, and why."""

    compress: bool
    ratio: float
    """Of the sample: bytes before, over bytes after."""
    decoded: float
    """Bytes per second that all threads would decode."""
    reason: str


def compressors(described: Described) -> list[dict[str, Any]]:
    """The codecs of compressed tensors of a type, in the words of format 3."""
    itemsize = max(1, TYPES[described.code].bits // 8)
    if itemsize == 1:
        return [{"name": "zstd", "configuration": {"level": 1, "checksum": False}}]
    settings = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle"}
    sizes = {"typesize": itemsize, "blocksize": itemsize * BLOCK_NBYTES}
    return [{"name": "blosc", "configuration": {**settings, **sizes}}]


def choose(sources: Iterable[Source], link: float) -> Choice:
    """Compress where that makes loading over ``link`` (bytes per second) faster.

    A load takes as long as the slower one of reading and decoding: compressed, it is faster where
    all threads together decode faster than the link brings uncompressed bytes.
    """
    largest = sorted(sources, key=lambda s: -s.nbytes)[:SAMPLES]
    before = after = 0
    seconds = 0.0
    for source in largest:
        itemsize = max(1, TYPES[source.described.code].bits // 8)
        values = np.frombuffer(source.memory(), f"u{itemsize}")
        n = min(SAMPLE_NBYTES // itemsize, len(values))
        if not n:
            continue
        part = values[(len(values) - n) // 2 :][:n]
        store = MemoryStore()
        codecs = compressors(source.described)
        array = api.create_array(store, data=part, chunks=(n,), compressors=codecs)
        start = perf_counter()
        array[...]
        seconds += perf_counter() - start
        before += part.nbytes
        after += sum(store.size(key) or 0 for key in store.list_prefix("c"))
    if not before:
        return Choice(False, 1.0, 0.0, "there is nothing to compress")
    ratio = before / after
    decoded = before / seconds * workers.thread_count()
    compress = ratio >= LEAST_RATIO and decoded > link
    why = f"a sample shrinks to 1/{ratio:.2f} and would be decoded at {decoded / 1e9:.1f} GB/s"
    than = "faster than" if decoded > link else "slower than"
    reason = f"{why}, {than} the link's {link / 1e9:.1f} GB/s"
    return Choice(
        compress, ratio, decoded, reason if ratio >= LEAST_RATIO else f"{why}: too little"
    )


def save_arrays(
    path: Any,
    sources: list[Source],
    metadata: Mapping[str, str],
    *,
    compression: str,
    link: float | None,
    checksum: bool,
) -> None:
    """A hierarchy at ``path`` instead of what was there."""
    if compression not in ("auto", "zstd", "none"):
        raise ValueError(f"compression has to be auto, zstd or none, found {compression!r}")
    for source in sources:
        if TYPES[source.described.code].bits < 8:
            raise UnsupportedError(f"{source.name!r}: {source.described.code} in a Zarr hierarchy")
    attributes: dict[str, Any] = dict(metadata)
    compress = compression == "zstd"
    if compression == "auto":
        remote = "://" in str(path) and not str(path).startswith("file:")
        choice = choose(sources, link or (REMOTE_LINK if remote else LINK))
        compress = choice.compress
        attributes["zarr_gpu"] = {"compression": choice.reason}
        _log.info("%s: %s: %s", path, "compressed" if compress else "raw", choice.reason)
    group = api.create_group(path, overwrite=True, attributes=attributes)
    checks = [{"name": "crc32c"}] if checksum else []
    for source in sources:
        described, node = source.described, node_name(source.name)
        shape = described_shape(described)
        chunks, shards = layout(shape, source.nbytes // max(1, math.prod(shape)))
        array = group.create_array(
            node,
            shape=shape,
            dtype=_zarr_name(type_name(described)),
            chunks=chunks,
            shards=shards,
            compressors=[*(compressors(described) if compress else []), *checks],
            fill_value=1.0 if described.code == "F8_E8M0" else None,  # it has no zero
            attributes={} if node == source.name else {"zarr_gpu": {"tensor": source.name}},
            config={"write_empty_chunks": True},
        )
        if source.nbytes:
            array[...] = np.frombuffer(source.memory(), array.dtype).reshape(shape)
    # zarr-python opens no group whose consolidated metadata have one type that it lacks.
    if not any(_zarr_name(type_name(source.described)) in ML_NAMES for source in sources):
        api.consolidate_metadata(group.store, group.path)


def _zarr_name(name: str) -> str:
    return "complex_float16" if name == "complex32" else name


def layout(shape: tuple[int, ...], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Chunks of about :data:`CHUNK_NBYTES`, of whole rows, and shards where there are several."""
    chunk = [max(1, n) for n in shape]
    cut = 0
    for d in range(len(chunk)):
        nbytes = math.prod(chunk) * itemsize
        if nbytes <= CHUNK_NBYTES:
            break
        chunk[d] = max(1, chunk[d] * CHUNK_NBYTES // nbytes)
        cut = d
    if tuple(chunk) == tuple(max(1, n) for n in shape):
        return tuple(chunk), None
    shard = list(chunk)
    for d in range(cut, -1, -1):
        room = SHARD_NBYTES // (math.prod(shard) * itemsize)
        shard[d] *= max(1, min(-(-shape[d] // chunk[d]), room))
    return tuple(chunk), tuple(shard)


class ArrayTensors:
    """Arrays as tensors, by name; the same as ``TensorFiles`` for those who load them."""

    def __init__(self, store: Store, arrays: Mapping[str, Array], group: Group | None) -> None:
        self._store = store
        self._group = group
        self._arrays = dict(arrays)
        self.keys = [str(store)]
        self.types: dict[str, str] = {}
        for name, array in self._arrays.items():
            kind = array.metadata.data_type.name
            if kind not in CODES and kind not in _LOGICAL:
                raise MetadataError(f"array {name!r} of type {kind} is no tensor")
            if kind in _LOGICAL:
                self.types[name] = "complex32" if kind == "complex_float16" else kind

    @classmethod
    def of_group(cls, group: Group) -> ArrayTensors:
        """All arrays directly in a group. Raises MetadataError for types that no tensor has."""
        arrays = {}
        for node, array in group.arrays():
            ours = array.attrs.get("zarr_gpu")
            name = ours.get("tensor", node) if isinstance(ours, Mapping) else node
            arrays[str(name)] = array
        return cls(group.store, arrays, group)

    @classmethod
    def of_directory(cls, store: Store, device: str | None = None) -> ArrayTensors | None:
        """Arrays in a directory that is no group, as Orbax writes them; None without any."""
        names = [name for number in (3, 2) for name in member_names(store, "", number)]
        arrays = {}
        for name in names:
            node = api.open(store, path=name, mode="r", device=device)
            if isinstance(node, Array):
                arrays[name] = node
        return cls(store, arrays, None) if arrays else None

    @property
    def metadata(self) -> dict[str, str]:
        if self._group is None:
            return {}
        return {k: v for k, v in self._group.attrs.items() if isinstance(v, str)}

    def __len__(self) -> int:
        return len(self._arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Tensor:
        array = self._arrays[name]
        kind = array.metadata.data_type.name
        code, extra = _LOGICAL.get(kind) or (CODES[kind], ())
        return Tensor(name, code, (*array.shape, *extra), ())

    def group(self) -> Group:
        if self._group is None:
            raise CheckpointError(f"the arrays in {self._store!r} are no group")
        return self._group

    def plan(self) -> ArrayLoad:
        return ArrayLoad(self._arrays)

    def close(self) -> None:
        self._store.close()


class ArrayLoad:
    """What is to be read from arrays, each by the engine's own plan."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._wanted: list[tuple[Array, Any, Any]] = []

    def add(self, tensor: Tensor, memory: memoryview) -> None:
        if len(memory):
            self._wanted.append((self._arrays[tensor.name], ..., memory))

    def add_box(self, tensor: Tensor, box: Box, memory: memoryview) -> None:
        if len(memory):
            array = self._arrays[tensor.name]
            selection = tuple(slice(a, a + n) for a, n in box[: len(array.shape)])
            self._wanted.append((array, selection, memory))

    def add_array(self, tensor: Tensor, box: Box | None, into: Any) -> None:
        """All of a tensor, or a box of it, decoded to an array of a device."""
        selection = ... if box is None else tuple(slice(a, a + n) for a, n in box)
        if math.prod(into.shape):
            self._wanted.append((self._arrays[tensor.name], selection, into))

    def run(self) -> None:
        for array, selection, memory in self._wanted:
            array.read(selection, out=memory)
