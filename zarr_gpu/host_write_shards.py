"""Writing shards on the host: their inner chunks are encoded block by block.

A shard of nothing but new chunks is stored while it is made. One that is changed in part is put
together again of what was in it and what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from zarr_gpu import blocks, workers
from zarr_gpu._types import Bytes, Int64
from zarr_gpu.blocks import Blocks, Ranges
from zarr_gpu.codecs.sharding import ShardLayout, place_parts, places_in, rises, sides_in
from zarr_gpu.config import config
from zarr_gpu.errors import CodecError
from zarr_gpu.host_write import joined
from zarr_gpu.host_write_blocks import BlockWriteJob


class ShardWriteJob(BlockWriteJob):
    """A write of ranges to a regular grid of shards, which have no shards inside."""

    @cached_property
    def shard(self) -> ShardLayout:
        return self.layout.levels.layouts[0]

    @cached_property
    def _places(self) -> Int64 | None:
        """Places of the inner chunks in a shard; None where they follow each other in C order."""
        order, per_shard = self.settings.subchunk_write_order, self.shard.per_shard
        return None if rises(order, per_shard) else places_in(order, per_shard)

    def run(self) -> None:
        """One shard per thread; the last few are each encoded by several."""
        columns = [c // n for c, n in zip(self.chunks, self.shard.per_shard, strict=True)]
        total = 1
        for column in columns:
            total *= len(blocks.by_object(column))
        shards = (
            ([int(c[r.start]) for c, r in zip(columns, ranges, strict=True)], ranges)
            for ranges in blocks.objects(columns)
        )
        cores = workers.thread_count() if self.threads > 1 else 1
        room = config.current.memory_window_bytes // self.shard.max_nbytes
        threads = min(self.threads, max(cores, room))
        left = total % threads
        if total > left:
            workers.run(lambda s: self.write_shard(*s, 1), islice(shards, total - left), threads)
        workers.run(lambda s: self.write_shard(*s, -(-cores // left)), shards, left)

    def write_shard(self, where: Sequence[int], ranges: Ranges, threads: int) -> None:
        key = self.layout.key(where)
        count = 1
        for r, column in zip(ranges, self.covered, strict=True):
            count *= len(r) if all(column[r.start : r.stop]) else 0
        if count == self.layout.leaves_inside(where):
            if not self.store.set_parts(key, lambda: self._shard_parts(ranges, key, threads)):
                self._finish_one(key, where, None)
        else:
            self._merged(key, self._merge_shard, where, ranges, key, threads)

    def _blocks(self, box: Ranges) -> Blocks | list[Ranges]:
        """The blocks of a shard in the order in which they are stored."""
        places = self._places
        if places is None:
            return blocks.cut(box, self.most)
        sides = sides_in(self.settings.subchunk_write_order, self.shard.per_shard, self.most)
        found = blocks.cut_to(box, sides)
        return sorted(found, key=lambda block: int(places[self._slot([r.start for r in block])]))

    def _shard_parts(self, box: Ranges, key: str, threads: int) -> Iterator[Bytes]:
        """A shard of nothing but new chunks; nothing when none has to be stored."""
        shard = self.shard
        index = shard.empty_index()
        end = shard.body_offset
        kept: list[Bytes] = []
        for slots, data, sizes in self._encoded(self._blocks(box), key, threads):
            if len(data):
                end = place_parts(index, slots, sizes, end)
                if shard.location == "end":
                    yield data
                else:
                    kept.append(bytes(data))
        if end > shard.body_offset:
            yield shard.encode_index(index)
            yield from kept

    def _encoded(
        self, some: Blocks | list[Ranges], key: str, threads: int
    ) -> Iterator[tuple[Int64, Bytes, Int64]]:
        """Block by block: slots, the chunks in them joined, and their sizes."""
        if threads == 1 or not self.chain.chain.bytes_bytes:
            for block in some:
                yield self._encode_block(block, key)
            return
        found: list[Any] = [None] * len(some)

        def encode(number: int) -> None:
            found[number] = self._encode_block(some[number], key)

        workers.run(encode, range(len(some)), min(threads, len(some)))
        yield from found

    def _encode_block(self, block: Ranges, key: str) -> tuple[Int64, Bytes, Int64]:
        self.arena.clear()
        if self.chain.raw is not None and blocks.split(block, self.whole)[0] == block:
            data = self._gather(block)
            if not self._empty(data):
                return self._in_order(self._slots(block), data)
            self.arena.clear()
        slots, blobs = self._encode_inner(block, key, None)
        places = slots if self._places is None else self._places[slots]
        present = [i for i in np.argsort(places).tolist() if blobs[i] is not None]
        parts = [blob for i in present if (blob := blobs[i]) is not None]
        return slots[present], b"".join(parts), np.array([len(p) for p in parts], np.int64)

    def _in_order(self, slots: Int64, data: memoryview) -> tuple[Int64, Bytes, Int64]:
        """The same of chunks that all have the size of decoded ones."""
        n = self.memory.nbytes
        if self._places is not None:
            order = np.argsort(self._places[slots])
            if len(order) > 1:
                data = np.frombuffer(data, np.uint8).reshape(-1, n)[order].reshape(-1).data
                slots = slots[order]
        return slots, data, np.full(len(slots), n, np.int64)

    def _encode_inner(
        self, block: Ranges, key: str, old: Sequence[Bytes | None] | None
    ) -> tuple[Int64, list[Bytes | None]]:
        """Slots and encodings of the chunks of a block; ``old`` has what was in the slots."""
        whole, rest = blocks.split(block, self.whole)
        slots = [] if whole is None else [self._slots(whole)]
        blobs = [] if whole is None else self._encode_whole(whole, [key])
        for row in rest:
            slot = self._slot(row)
            found = None if old is None or self._covers(row) else old[slot]
            read = None if found is None else lambda k, out, d=found: self._decode(d, out, k)
            slots.append(np.array([slot]))
            blobs.append(self._encode_part(self._part(row), key, read))
        return np.concatenate(slots), blobs

    def _slots(self, block: Ranges) -> Int64:
        return blocks.slots_of(block, self.chunks, self.shard.per_shard)

    def _slot(self, row: Sequence[int]) -> int:
        slot = 0
        for s, column, parts in zip(row, self.chunks, self.shard.per_shard, strict=True):
            slot = slot * parts + int(column[s]) % parts
        return slot

    def _merge_shard(self, where: Sequence[int], box: Ranges, key: str, threads: int) -> None:
        old = self._get(key, self.shard.max_nbytes)
        try:
            blobs = self.shard.unpack(old)
        except CodecError as error:
            raise self.errors.decoding(error, key) from error
        some = blocks.cut(box, self.most)

        def encode(number: int) -> None:
            self.arena.clear()
            slots, new = self._encode_inner(some[number], key, blobs)
            for slot, blob in zip(slots.tolist(), new, strict=True):
                blobs[slot] = None if blob is None else bytes(blob)

        workers.run(encode, range(len(some)), min(threads, len(some)))
        if all(blob is None for blob in blobs):
            self._finish_one(key, where, None)
        else:
            parts = self.shard.parts(blobs, self.settings.subchunk_write_order)
            self.store.set_parts(key, lambda: joined(parts))
