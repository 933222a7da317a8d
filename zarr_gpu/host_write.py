"""Writing on the host, row by row: chunks and shards are merged, encoded and stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bools, Bytes, Int64, NDArray
from zarr_gpu.assembler import Assembler
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.codecs.sharding import ShardLayout
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.layout import ArrayLayout, leaf_nbytes
from zarr_gpu.plan import Placement, Plan
from zarr_gpu.stores.base import Store

TASK_NBYTES = 1 << 20
"""Decoded bytes per task: enough to make the 13 us of a pool task disappear."""
SERIAL_NBYTES = 256 << 10
"""Chunks of fewer bytes, for a local store, are written by the calling thread alone."""
SERIAL_RAW_NBYTES = 1 << 20
"""The same where they are not compressed: copying is as fast as waking a thread."""
MANY = 64
"""Objects per call of a store to which calls take their time."""

Done: TypeAlias = list[tuple[str, Bytes]]
"""Keys and bytes to be stored."""


class WriteJob:
    """One write, row by row: shared, read-only state of its tasks."""

    def __init__(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: NDArray, settings: ArrayConfig
    ) -> None:
        self.layout = layout
        self.plan = plan
        self.store = store
        self.value = value
        self.settings = settings
        self.errors = ChunkErrors(layout)
        self.drops_empty = (
            not settings.write_empty_chunks and layout.metadata.fill_value is not None
        )

    @cached_property
    def assembler(self) -> Assembler:
        return Assembler(self.plan)

    @cached_property
    def segment(self) -> Int64:
        return self.plan.segment

    @cached_property
    def complete(self) -> Bools:
        """Which rows cover their chunk, so that nothing stored has to be read."""
        return self.plan.complete(self.segment)

    @cached_property
    def placement(self) -> Placement:
        return self.layout.place(self.plan, self.segment)

    @cached_property
    def threads(self) -> int:
        """The number of threads worth using."""
        return self.count_threads()

    def count_threads(self) -> int:
        n = len(self.plan)
        if not self.store.local:
            return min(config.current.io_threads, n)
        raw = not self.layout.levels.leaf.chain.bytes_bytes
        least = SERIAL_RAW_NBYTES if raw else SERIAL_NBYTES
        return 1 if leaf_nbytes(self.layout) * n < least else min(workers.thread_count(), n)

    @cached_property
    def batch(self) -> int:
        """Chunks that wait for each other to be stored, and so hold memory."""
        nbytes = leaf_nbytes(self.layout)
        if self.store.local and not self.store.flushes:
            return max(1, TASK_NBYTES // nbytes)
        room = config.current.memory_window_bytes // (2 * self.threads * nbytes)
        return max(1, min(MANY, room))

    def whole_objects(self) -> Bools:
        """Which objects are written completely, so that nothing stored has to be read."""
        first = self.placement.first
        incomplete = np.append(0, np.cumsum(~self.complete[self.placement.rows]))
        whole: Bools = incomplete[first[1:]] == incomplete[first[:-1]]
        if self.layout.sharded:
            inside = [self.layout.leaves_inside(c) for c in self.placement.objects.tolist()]
            whole &= np.diff(first) == inside
        return whole

    def run(self) -> None:
        objects, threads = len(self.placement), self.threads
        step = 1 if self.layout.sharded else max(1, min(self.batch, objects // (4 * threads)))
        self.complete  # noqa: B018 - made before the threads start
        workers.run(self.write_objects, spans(objects, step), threads)

    def write_objects(self, numbers: range) -> None:
        coords = self.placement.objects[numbers.start : numbers.stop]
        keys = self.layout.keys(coords)
        done: Done = []
        for number, key, where in zip(numbers, keys, coords.tolist(), strict=True):
            rows = self.placement.rows[slice(*self.placement.first[number : number + 2].tolist())]
            if self.complete[rows].all() and (
                not self.layout.sharded or len(rows) == self.layout.leaves_inside(where)
            ):
                self.finish(key, where, self._encode_object(rows, where, key, None), done)
            else:
                self._merged(key, self._merge_object, rows, where, key)
        if done:
            self.store.set_many(done)

    def _merged(self, key: str, merge: Callable[..., None], *arguments: Any) -> None:
        """Call what reads, changes and writes the object ``key``."""
        if self.settings.concurrent_writes == "locked":
            with self.store.lock(key):
                merge(*arguments)
        else:
            merge(*arguments)

    def _merge_object(self, rows: Int64, where: Sequence[int], key: str) -> None:
        levels = self.layout.levels_at(where)
        limit = levels.layouts[0].max_nbytes if levels.layouts else levels.leaf.stored.limit
        old = self._get(key, limit)
        self._finish_one(key, where, self._encode_object(rows, where, key, old))

    def _get(self, key: str, limit: int) -> Bytes | None:
        try:
            return self.store.get(key, limit=limit)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error

    def _finish_one(self, key: str, where: Sequence[int], data: Bytes | None) -> None:
        done: Done = []
        self.finish(key, where, data, done)
        if done:
            self.store.set_many(done)

    def finish(self, key: str, where: Sequence[int], data: Bytes | None, done: Done) -> None:
        """Queue the object, or delete it when nothing but fill values is left."""
        if data is not None:
            done.append((key, data))
        elif self.store.supports_deletes:
            self.store.delete(key)
        elif self.store.exists(key):
            done.append((key, self._fill_object(where)))

    def _fill_object(self, where: Sequence[int]) -> Bytes:
        """All fill values, for stores that cannot delete what is there."""
        levels = self.layout.levels_at(where)
        if levels.layouts:
            return levels.layouts[0].pack([None] * levels.layouts[0].count)
        spec = levels.leaf.spec
        return levels.leaf.encode(spec.data_type.full(spec.shape, spec.fill_value))

    def _encode_object(
        self, rows: Int64, where: Sequence[int], key: str, old: Bytes | None
    ) -> Bytes | None:
        """The object's new bytes; None when it holds nothing but fill values."""
        levels = self.layout.levels_at(where)
        try:
            if not levels.layouts:
                return self._encode_leaf(int(rows[0]), levels.leaf, key, old)
            slots = self.placement.slots[:, rows]
            return self._encode_shard(levels.layouts, levels.leaf, rows, slots, key, old)
        except CodecError as error:
            raise self.errors.decoding(error, key) from error

    def _encode_shard(
        self,
        layouts: Sequence[ShardLayout],
        leaf: BoundChain,
        rows: Int64,
        slots: Int64,
        key: str,
        old: Bytes | None,
    ) -> Bytes | None:
        layout = layouts[0]
        blobs = layout.unpack(old)

        def encode(slot_rows: tuple[int, Int64]) -> None:
            slot, members = slot_rows
            if len(layouts) == 1:
                blobs[slot] = self._encode_leaf(int(rows[members[0]]), leaf, key, blobs[slot])
            else:
                blobs[slot] = self._encode_shard(
                    layouts[1:], leaf, rows[members], slots[1:, members], key, blobs[slot]
                )

        groups = _group(slots[0])
        threads = workers.thread_count() if len(self.placement) < workers.thread_count() else 1
        workers.run(encode, groups, min(threads, len(groups)))
        if all(blob is None for blob in blobs):
            return None
        return layout.pack(blobs, self.settings.subchunk_write_order)

    def _encode_leaf(
        self, row: int, chain: BoundChain, key: str, old: Bytes | None
    ) -> Bytes | None:
        spec = chain.spec
        segment = self.segment[row].tolist()
        value = self.value[(*self.assembler.out_index(segment), ...)]  # an array also where 0-d
        if self.complete[row] and self._is_whole(segment, spec.shape):
            chunk = value
        else:
            if old is None or self.complete[row]:
                chunk = spec.data_type.full(spec.shape, spec.fill_value)
            else:
                chunk = np.array(chain.decode(old), dtype=spec.dtype, order="C")
            fields = self.plan.fields
            self.assembler.put(chunk if fields is None else chunk[fields], segment, value)
        if self.drops_empty and spec.data_type.equals_fill(chunk, spec.fill_value):
            return None
        try:
            return chain.encode(chunk)
        except (CodecError, TypeError, ValueError, OverflowError) as error:
            raise self.errors.encoding(error, key) from error

    def _is_whole(self, segment: Sequence[int], shape: Sequence[int]) -> bool:
        """True when the row's values are the chunk, in shape and order."""
        box = self.assembler.box(segment)
        return box is not None and all(
            not start and step == 1 and extent == n
            for (start, extent, step), n in zip(box, shape, strict=True)
        )


def spans(n: int, step: int) -> Iterator[range]:
    """``range(n)`` in runs of ``step``."""
    return (range(at, min(n, at + step)) for at in range(0, n, step))


def joined(parts: Iterable[Bytes]) -> Iterator[Bytes]:
    """The same bytes in parts that are worth a system call each."""
    small: list[Bytes] = []
    nbytes = 0
    for part in parts:
        small.append(part)
        nbytes += len(part)
        if nbytes >= TASK_NBYTES:
            yield part if len(small) == 1 else b"".join(small)
            small, nbytes = [], 0
    if small:
        yield b"".join(small)


def _group(slots: Int64) -> list[tuple[int, Int64]]:
    """Positions of each distinct slot."""
    order = np.argsort(slots, kind="stable")
    distinct, first = np.unique(slots[order], return_index=True)
    return list(zip(distinct.tolist(), np.split(order, first[1:]), strict=True))
