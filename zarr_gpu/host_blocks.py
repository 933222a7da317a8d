"""Reading on the host, block by block: whole chunks go to the output together.

A block of whole chunks is fetched and decoded into memory that lies in the cache and moved to the
output with one strided copy; where its place in the output is contiguous, right there. The other
rows of a block are read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from zarr_gpu import blocks
from zarr_gpu._types import Bytes, Int64, NDArray
from zarr_gpu.blocks import Blocks, Ranges
from zarr_gpu.codecs.chain import BoundChain, RawLayout
from zarr_gpu.config import config
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.fetching import check_inner_sizes, read_ranges
from zarr_gpu.host_read import ReadJob
from zarr_gpu.layout import leaf_nbytes
from zarr_gpu.stores.base import Reader

BLOCK_NBYTES = 256 << 10
"""Decoded bytes of a block: the page cache copies twice as fast into an L2 cache as beyond."""


class BlockJob(ReadJob):
    """A read of ranges from a regular grid; at most one level of shards."""

    def usable(self) -> bool:
        """False when blocks could not be whole chunks one after the other in memory."""
        chain = self.layout.levels.leaf
        return (
            self.layout.uniform
            and len(self.layout.levels.layouts) <= 1
            and chain.memory is not None
            and chain.memory.nbytes > 0
            and self.plan.ranges
        )

    @cached_property
    def most(self) -> int:
        """Rows of a block."""
        nbytes = leaf_nbytes(self.layout)
        if self.store.local:
            return max(1, BLOCK_NBYTES // nbytes)
        room = config.current.memory_window_bytes // (config.current.io_threads * nbytes)
        return max(1, min(64, room))

    @cached_property
    def whole(self) -> Ranges:
        return blocks.whole_ranges(self.plan)

    @cached_property
    def chunks(self) -> list[Int64]:
        """Chunk numbers of the segments of each axis."""
        return [axis.chunk[:, 0] for axis in self.plan.axes]

    @cached_property
    def grid(self) -> Blocks:
        """The blocks of the whole plan, where objects are chunks."""
        return Blocks(tuple(len(axis) for axis in self.plan.axes), self.most)

    # -- objects that are one chunk ---------------------------------------------------------------

    def read_blocks(self, numbers: range) -> None:
        partial: list[tuple[int, ...]] = []
        for number in numbers:
            whole, rest = blocks.split(self.grid[number], self.whole)
            partial += rest
            if whole is not None:
                self._read_whole(whole)
        if partial:
            self.read_rows(np.array(partial, np.int64))

    def _read_whole(self, ranges: Ranges) -> None:
        chain = self.layout.levels.leaf
        memory = chain.memory
        assert memory is not None  # noqa: S101 - see usable
        keys = self.layout.keys(blocks.cross(ranges, self.chunks))
        block = _Block(self, ranges, memory)
        if self._fills(chain):
            if chain.raw is None:
                self._fill_encoded(keys, block, chain)
            elif block.target is None and memory.nbytes > 2 * BLOCK_NBYTES:
                for key, place in zip(keys, block.places(), strict=True):
                    self._read_in_pieces(key, place, chain, memory)
                return
            else:
                self._fill_raw(keys, block, chain)
        else:
            for i, data in enumerate(self._objects(keys, chain)):
                self._decode_piece(data, block, i, chain, keys[i])
        block.deliver()

    def _fill_encoded(self, keys: list[str], block: _Block, chain: BoundChain) -> None:
        encoded = self.scratch.get("encoded", chain.stored.limit)
        pieces = block.pieces
        i = 0
        try:
            for n in self.store.fill(keys, repeat(encoded)):
                try:
                    if n >= 0:
                        chain.decode_into(encoded[:n], pieces[i])
                except CodecError:  # once more, and carefully
                    n = -2
                if n < 0:
                    data = None if n == -1 else self._get(keys[i], chain)
                    self._decode_piece(data, block, i, chain, keys[i])
                i += 1
        except LimitError as error:
            raise self.errors.decoding(error, keys[i]) from error

    def _fill_raw(self, keys: list[str], block: _Block, chain: BoundChain) -> None:
        nbytes = block.memory.nbytes
        i = 0
        try:
            for n in self.store.fill(keys, block.pieces):
                if n != nbytes:
                    data = None if n < 0 else self._get(keys[i], chain)
                    self._decode_piece(data, block, i, chain, keys[i])
                i += 1
        except LimitError as error:
            raise self.errors.decoding(error, keys[i]) from error

    def _decode_piece(
        self,
        data: Bytes | None,
        block: _Block,
        i: int,
        chain: BoundChain,
        key: str,
        byte_range: tuple[int, int] | None = None,
    ) -> None:
        if data is None:
            if not self.settings.read_missing_chunks:
                raise self.errors.missing(key)
            block.fill(i, self.layout.fill_array)
            return
        try:
            chain.decode_into(data, block.pieces[i])
        except CodecError as error:
            raise self.errors.decoding(error, key, byte_range) from error

    def _read_in_pieces(
        self, key: str, place: NDArray, chain: BoundChain, memory: RawLayout
    ) -> None:
        """A large uncompressed chunk, through memory that stays in the cache."""
        box = [(0, n, 1) for n in chain.spec.shape]
        slowest = max(range(len(box)), key=lambda d: memory.strides[d])
        step = max(1, BLOCK_NBYTES // memory.strides[slowest])
        try:
            reader = self.store.open_reader(key, limit=memory.nbytes)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error
        if reader is None:
            self._missing(place, key)
            return
        with reader:
            if reader.size != memory.nbytes:
                raise self.errors.decoding(chain.impossible_size(reader.size), key)
            n = box[slowest][1]
            for start in range(0, n, step):
                box[slowest] = (start, min(step, n - start), 1)
                where = (*(slice(None),) * slowest, slice(start, start + step))
                self._read_raw(reader, 0, place[where], box, memory)

    # -- shards -----------------------------------------------------------------------------------

    def shard_tasks(self, rows: int) -> Iterator[tuple[list[int], list[Ranges]]]:
        """Object coordinates and some of the blocks in them, of about ``rows`` rows."""
        per_shard = self.layout.levels.layouts[0].per_shard
        columns = [c // n for c, n in zip(self.chunks, per_shard, strict=True)]
        per_task = max(1, rows // self.most)
        for ranges in blocks.objects(columns):
            where = [int(c[r.start]) for c, r in zip(columns, ranges, strict=True)]
            first = tuple(r.start for r in ranges)
            inner = Blocks(tuple(len(r) for r in ranges), self.most, first)
            for at in range(0, len(inner), per_task):
                stop = min(len(inner), at + per_task)
                yield where, [inner[number] for number in range(at, stop)]

    def read_shard_blocks(self, task: tuple[list[int], list[Ranges]]) -> None:
        where, ranges = task
        key = self.layout.key(where)
        reader = self.store.open_reader(key)
        if reader is None:
            for block in ranges:
                axes = zip(self.plan.axes, block, strict=True)
                spans: tuple[Any, ...] = tuple(axis.span(r) for axis, r in axes)
                self._missing(self.out[spans], key)
            return
        with reader:
            for block in ranges:
                self._read_shard_block(reader, block, key)

    def _read_shard_block(self, reader: Reader, block: Ranges, key: str) -> None:
        layout = self.layout.levels.layouts[0]
        slots = np.zeros(tuple(len(r) for r in block), np.int64)
        for d, (r, column, parts) in enumerate(
            zip(block, self.chunks, layout.per_shard, strict=True)
        ):
            inside = column[r.start : r.stop] % parts
            slots = slots * parts + inside.reshape(-1, *(1,) * (len(block) - d - 1))
        offset, nbytes = self._inner_ranges(
            self.layout.levels.layouts, reader, slots.reshape(1, -1), key
        )
        chain = self.layout.levels.leaf
        whole, rest = blocks.split(block, self.whole)
        if rest:
            numbers = {row: i for i, row in enumerate(blocks.rows_of(block))}
            some = [numbers[row] for row in rest]
            self._read_inner(reader, offset[some], nbytes[some], rest, chain, key)
        if whole is None:
            return
        if rest:
            some = [numbers[row] for row in blocks.rows_of(whole)]
            offset, nbytes = offset[some], nbytes[some]
        self._read_whole_inner(reader, whole, offset, nbytes, key)

    def _read_whole_inner(
        self, reader: Reader, ranges: Ranges, offset: Int64, nbytes: Int64, key: str
    ) -> None:
        chain = self.layout.levels.leaf
        memory = chain.memory
        assert memory is not None  # noqa: S101 - see usable
        block = _Block(self, ranges, memory)
        present: slice | Int64 = slice(None)
        if (offset < 0).any():
            present = np.flatnonzero(offset >= 0)
            for i in np.flatnonzero(offset < 0).tolist():
                self._decode_piece(None, block, i, chain, key)
        numbers = np.arange(len(offset))[present]
        offset, nbytes = offset[present], nbytes[present]
        if chain.raw is not None:
            check_inner_sizes(self.errors, chain, offset, nbytes, key)
        if chain.raw is not None and self.store.local:
            for first, stop in blocks.runs(numbers, offset, memory.nbytes):
                at = int(numbers[first]) * memory.nbytes
                part = block.bytes[at : at + (stop - first) * memory.nbytes]
                reader.read_into(int(offset[first]), part)
        else:
            which = numbers.tolist()
            for i, data in read_ranges(reader, offset, nbytes, self.limits, one=self.store.local):
                byte_range = int(offset[i]), int(nbytes[i])
                self._decode_piece(data, block, which[i], chain, key, byte_range)
        block.deliver()


class _Block:
    """Memory for the whole chunks of a block, one after the other: the output's, or scratch."""

    def __init__(self, job: BlockJob, ranges: Ranges, memory: RawLayout) -> None:
        shape = job.layout.levels.leaf.spec.shape
        self._job = job
        self.memory = memory
        self._place = blocks.place_of(job.out, job.plan.axes, ranges, shape)
        self.count = 1
        for r in ranges:
            self.count *= len(r)
        in_order = job.same_dtype and self._place.dtype == memory.dtype and memory.c_order(shape)
        self.target: NDArray | None = (
            self._place if in_order and self._place.flags.c_contiguous else None
        )

    @cached_property
    def bytes(self) -> memoryview:
        if self.target is not None:
            return self.target.reshape(-1).view(np.uint8).data
        return self._job.scratch.get("block", self.count * self.memory.nbytes)

    @cached_property
    def pieces(self) -> list[memoryview]:
        """The memory of each chunk."""
        n, data = self.memory.nbytes, self.bytes
        return [data[i * n : (i + 1) * n] for i in range(self.count)]

    def places(self) -> Iterator[NDArray]:
        """Where each chunk belongs in the output."""
        ndim = self._place.ndim // 2
        for number in np.ndindex(*self._place.shape[:ndim]):
            yield self._place[(*number, ...)]

    def fill(self, i: int, value: NDArray) -> None:
        np.frombuffer(self.pieces[i], self.memory.dtype)[...] = value

    def deliver(self) -> None:
        """Move scratch memory to the output."""
        if self.target is not None:
            return
        shape = self._place.shape
        ndim = len(shape) // 2
        strides = [self.memory.nbytes] * ndim
        for d in range(ndim - 2, -1, -1):
            strides[d] = strides[d + 1] * shape[d + 1]
        chunks = np.ndarray(
            shape, self.memory.dtype, self.bytes, 0, (*strides, *self.memory.strides)
        )
        self._place[...] = self._job._pick(chunks)  # noqa: SLF001 - a part of the job
