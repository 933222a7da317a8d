"""Writing on the host: chunks and shards are merged, encoded and stored by worker threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bools, Bytes, Int64, NDArray
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.codecs.sharding import MISSING, ShardLayout
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.assembler import Assembler
from zarr_gpu.plan import Plan
from zarr_gpu.stores.base import Store


class WriteJob:
    """One write: shared, read-only state of its tasks."""

    def __init__(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: NDArray, settings: ArrayConfig
    ) -> None:
        self.layout = layout
        self.plan = plan
        self.store = store
        self.value = value
        self.settings = settings
        self.assembler = Assembler(plan)
        self.errors = ChunkErrors(layout)
        self.segment = plan.segment
        self.complete = plan.complete(self.segment)
        self.placement = layout.place(plan, self.segment)

    def whole_objects(self) -> Bools:
        """Which objects are written completely, so that nothing stored has to be read."""
        first = self.placement.first
        incomplete = np.append(0, np.cumsum(~self.complete[self.placement.rows]))
        whole: Bools = incomplete[first[1:]] == incomplete[first[:-1]]
        if self.layout.sharded:
            inside = [self.layout.leaves_inside(c) for c in self.placement.objects.tolist()]
            whole &= np.diff(first) == inside
        return whole

    def write_objects(self, numbers: range) -> None:
        coords = self.placement.objects[numbers.start : numbers.stop]
        keys = self.layout.keys(coords)
        done: list[tuple[str, Bytes]] = []
        for number, key, where in zip(numbers, keys, coords.tolist(), strict=True):
            rows = self.placement.rows[slice(*self.placement.first[number : number + 2].tolist())]
            if self.complete[rows].all() and (
                not self.layout.sharded or len(rows) == self.layout.leaves_inside(where)
            ):
                self.finish(key, where, self._encode_object(rows, where, key, None), done)
            elif self.settings.concurrent_writes == "locked":
                with self.store.lock(key):
                    self._merge_object(rows, where, key)
            else:
                self._merge_object(rows, where, key)
        if done:
            self.store.set_many(done)

    def _merge_object(self, rows: Int64, where: Sequence[int], key: str) -> None:
        levels = self.layout.levels_at(where)
        limit = levels.layouts[0].max_nbytes if levels.layouts else levels.leaf.stored.limit
        try:
            old = self.store.get(key, limit=limit)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error
        done: list[tuple[str, Bytes]] = []
        self.finish(key, where, self._encode_object(rows, where, key, old), done)
        if done:
            self.store.set_many(done)

    def finish(
        self, key: str, where: Sequence[int], data: Bytes | None, done: list[tuple[str, Bytes]]
    ) -> None:
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
        blobs: list[Bytes | None] = [None] * layout.count
        if old is not None:
            view = memoryview(old)
            index = layout.read_index(len(old), lambda at, n: view[at : at + n])
            for slot in np.flatnonzero(index[:, 0] != MISSING).tolist():
                at, n = index[slot].tolist()
                blobs[slot] = view[at : at + n]

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
        return layout.pack(blobs)

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
        if (
            not self.settings.write_empty_chunks
            and self.layout.metadata.fill_value is not None
            and spec.data_type.equals_fill(chunk, spec.fill_value)
        ):
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


def _group(slots: Int64) -> list[tuple[int, Int64]]:
    """Positions of each distinct slot."""
    order = np.argsort(slots, kind="stable")
    distinct, first = np.unique(slots[order], return_index=True)
    return list(zip(distinct.tolist(), np.split(order, first[1:]), strict=True))
