"""Which bytes are read at once: what reading on the host and on a device have in common.

Knows stores and shards, but no destination.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bytes, Int64
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.codecs.sharding import MISSING, ShardLayout
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.layout import ArrayLayout, leaf_nbytes
from zarr_gpu.shards import inner_range, read_index
from zarr_gpu.stores.base import Reader, Store
from zarr_gpu.stores.ranges import coalesce

LOCAL_GAP = 16 << 10
"""Copying this much from the page cache costs about as much as one more system call."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much is fetched at once: objects per call, and how ranges of a shard are merged."""

    batch: int
    max_gap: int
    max_bytes: int

    @classmethod
    def of(cls, layout: ArrayLayout, store: Store, settings: ArrayConfig) -> ReadLimits:
        window = config.current.memory_window_bytes
        max_gap = settings.sharding_coalesce_max_gap_bytes
        return cls(
            batch=1 if store.local else max(1, min(64, window // (64 * leaf_nbytes(layout)))),
            max_gap=min(max_gap, LOCAL_GAP) if store.local else max_gap,
            max_bytes=min(
                settings.sharding_coalesce_max_bytes, max(1, window // workers.thread_count())
            ),
        )


def get_objects(store: Store, keys: Sequence[str], chain: BoundChain) -> list[Bytes | None] | None:
    """Whole objects of a store with latency, in one call; None when one of them is too large."""
    n = len(keys)
    try:
        return store.get_many(
            keys, np.zeros(n, np.int64), np.full(n, -1, np.int64), limit=chain.stored.limit
        )
    except LimitError:
        return None  # one by one, to find out which


def check_inner_sizes(
    errors: ChunkErrors, chain: BoundChain, offset: Int64, nbytes: Int64, key: str
) -> None:
    """Raise ChunkDecodeError when a part of a shard cannot be an uncompressed chunk."""
    bad = np.flatnonzero(nbytes != chain.stored.limit)
    if len(bad):
        at, n = int(offset[bad[0]]), int(nbytes[bad[0]])
        error = CodecError(
            "inner chunk of impossible size",
            codec=chain.chain.array_bytes.name,
            expected=f"{chain.stored.limit} bytes",
            found=f"{n} bytes",
        )
        raise errors.decoding(error, key, (at, n))


def inner_ranges(
    layouts: Sequence[ShardLayout], reader: Reader, slots: Int64, cache_key: Hashable
) -> tuple[Int64, Int64]:
    """Offset (-1: missing) and nbytes of the chunks in ``slots``, shape (levels, n)."""
    if len(layouts) == 1:
        found = read_index(layouts[0], reader, (cache_key, 0, 0))[slots[0]]
        missing = found[:, 0] == MISSING
        columns = np.where(missing[:, None], np.uint64(0), found).astype(np.int64)
        return np.where(missing, -1, columns[:, 0]), columns[:, 1]
    out = np.full((2, slots.shape[1]), -1, np.int64)
    for i, slot in enumerate(slots.T.tolist()):
        place = inner_range(layouts, reader, slot, cache_key)
        if place is not None:
            out[:, i] = place
    return out[0], out[1]


def read_ranges(
    reader: Reader, offset: Int64, nbytes: Int64, limits: ReadLimits, *, one: bool
) -> Iterator[tuple[int, memoryview]]:
    """The bytes of each range, by number, in the order in which they lie in the object.

    Close ranges are read as one; the reads are done one by one or as bounded batches.
    """
    for start, data, members in _read_groups(reader, offset, nbytes, limits, one=one):
        view = memoryview(data)
        for i in members:
            first = int(offset[i]) - start
            yield i, view[first : first + int(nbytes[i])]


def _read_groups(
    reader: Reader, offset: Int64, nbytes: Int64, limits: ReadLimits, *, one: bool
) -> Iterator[tuple[int, Bytes, list[int]]]:
    """Coalesced reads: ``(start, bytes, which ranges lie in them)``."""
    max_bytes = limits.max_bytes
    starts, lengths, group = coalesce(offset, nbytes, limits.max_gap, max_bytes)
    members: list[list[int]] = [[] for _ in range(len(starts))]
    for i, g in enumerate(group.tolist()):
        members[g].append(i)
    at = 0
    while at < len(starts):
        stop, total = at + 1, int(lengths[at])
        while not one and stop < len(starts) and total + int(lengths[stop]) <= max_bytes:
            total += int(lengths[stop])
            stop += 1
        parts = reader.read_many(starts[at:stop], lengths[at:stop])
        for g, data in zip(range(at, stop), parts, strict=True):
            yield int(starts[g]), data, members[g]
        at = stop
