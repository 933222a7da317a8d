"""Shards as addresses: which bytes of which object hold an inner chunk.

Reads and checks shard indexes and keeps them in a bounded cache. An index is only reused for the
version of the object it came from, so that an index is never combined with the bytes of another
version; stores that cannot tell versions apart are not cached.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from zarr_gpu._types import Bytes
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.codecs.sharding import MISSING, Index, ShardingCodec, ShardLayout
from zarr_gpu.stores.base import Reader

CACHE_NBYTES = 64 << 20
"""Shard indexes kept in memory per process: 4 million inner chunks."""


@dataclass(frozen=True, slots=True)
class ShardLevels:
    """A chain that is nothing but sharding, level by level down to the chunks."""

    layouts: tuple[ShardLayout, ...]
    leaf: BoundChain

    @classmethod
    def of(cls, chain: BoundChain) -> ShardLevels:
        """Peel the sharding levels off ``chain``.

        A level with codecs around it ends the walk: what is left over is decoded whole.
        """
        layouts: list[ShardLayout] = []
        while True:
            codec = chain.chain.array_bytes
            around = chain.chain.array_array or chain.chain.bytes_bytes
            if not isinstance(codec, ShardingCodec) or around:
                return cls(tuple(layouts), chain)
            layouts.append(codec.layout)
            chain = codec.layout.inner


class IndexCache:
    """Least recently used shard indexes, bounded in bytes; shared by all threads."""

    def __init__(self, max_nbytes: int = CACHE_NBYTES) -> None:
        self._max_nbytes = max_nbytes
        self._nbytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[Hashable, Index]] = OrderedDict()

    def get(self, key: Hashable, version: Hashable) -> Index | None:
        """The index stored under ``key`` if it belongs to ``version``."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry[0] != version:
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key: Hashable, version: Hashable, index: Index) -> None:
        if version is None or index.nbytes > self._max_nbytes // 4:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self._nbytes += index.nbytes - (old[1].nbytes if old else 0)
            self._entries[key] = (version, index)
            while self._nbytes > self._max_nbytes:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._nbytes -= dropped.nbytes

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._nbytes = 0

    def after_fork(self) -> None:
        """In a child, whose copy of the lock another thread may have held."""
        self._lock = threading.Lock()
        self.clear()


index_cache = IndexCache()
os.register_at_fork(after_in_child=index_cache.after_fork)


def read_index(layout: ShardLayout, reader: Reader, cache_key: Hashable) -> Index:
    """The checked index of an opened shard. Raises CodecError."""
    index = index_cache.get(cache_key, reader.version) if reader.version is not None else None
    if index is None:
        index = layout.read_index(reader.size, reader.read)
        index_cache.put(cache_key, reader.version, index)
    return index


class PartReader(Reader):
    """A part of an object, read as if it were one (an inner shard of a nested shard)."""

    def __init__(self, parent: Reader, offset: int, nbytes: int) -> None:
        self._parent = parent
        self._offset = offset
        self.size = nbytes
        self.version = None if parent.version is None else (parent.version, offset, nbytes)

    def read(self, offset: int, nbytes: int) -> Bytes:
        return self._parent.read(self._offset + offset, nbytes)


def inner_range(
    layouts: Sequence[ShardLayout], reader: Reader, slots: Sequence[int], cache_key: Hashable
) -> tuple[int, int] | None:
    """``(offset, nbytes)`` in the object of the chunk in ``slots`` (one per level), or None."""
    base = 0
    part = reader
    for level, (layout, slot) in enumerate(zip(layouts, slots, strict=True)):
        offset, nbytes = read_index(layout, part, (cache_key, level, base))[slot].tolist()
        if offset == int(MISSING):
            return None
        base += offset
        if level + 1 < len(layouts):
            part = PartReader(reader, base, nbytes)
    return base, nbytes
