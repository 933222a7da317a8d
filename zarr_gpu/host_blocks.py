"""Reading on the host, block by block: whole chunks go to the output together.

A block of whole chunks is fetched and decoded into memory that lies in the cache and moved to the
output with one strided copy; where its place in the output is contiguous, right there. The other
rows of a block are read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from zarr_gpu import blocks
from zarr_gpu._types import Bytes, Int64, NDArray
from zarr_gpu.blocks import Blocks, Ranges
from zarr_gpu.codecs.chain import BoundChain, RawLayout
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.fetching import check_inner_sizes
from zarr_gpu.host_parts import Parts
from zarr_gpu.host_rows import SMALL_NBYTES, RowJob
from zarr_gpu.stores.base import Reader

PIECE_NBYTES = 512 << 10
"""Uncompressed chunks of more than twice as much pass through an L2 cache."""


class BlockJob(RowJob):
    """A read of ranges from a regular grid; at most one level of shards."""

    def usable(self) -> bool:
        """False when blocks could not be whole chunks one after the other in memory."""
        return self.layout.plain and self.plan.ranges

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
                decoded = self._fill_small(keys, chain) if self.small and block.count > 1 else None
                if decoded is None:
                    self._fill_encoded(keys, block, chain)
                else:
                    block.take(decoded)
            elif block.target is None and memory.nbytes > 2 * PIECE_NBYTES:
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
        decode = chain.decoder(encoded, block.bytes)
        nbytes = block.memory.nbytes
        i = 0
        try:
            for n in self.store.fill(keys, repeat(encoded)):
                there = n >= 0
                if there and (decode is None or not decode(n, i * nbytes)):
                    there = self._decode_filled(encoded[:n], block.pieces[i], chain, keys[i])
                if not there:
                    self._fill_piece(block.pieces[i], block.memory, keys[i])
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
            self._fill_piece(block.pieces[i], block.memory, key)
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
        step = max(1, PIECE_NBYTES // memory.strides[slowest])
        with self._open_raw(key, chain) as reader:
            if reader is None:
                self._missing(place, key)
                return
            n = box[slowest][1]
            for start in range(0, n, step):
                box[slowest] = (start, min(step, n - start), 1)
                where = (*(slice(None),) * slowest, slice(start, start + step))
                self._read_raw(reader, 0, place[where], box, memory)

    # -- shards -----------------------------------------------------------------------------------

    def shard_tasks(self, rows: int) -> Iterator[tuple[list[int], Ranges]]:
        """Object coordinates, and a box of at most ``rows`` segments inside the object."""
        per_shard = self.layout.levels.layouts[0].per_shard
        columns = [c // n for c, n in zip(self.chunks, per_shard, strict=True)]
        for ranges in blocks.objects(columns):
            where = [int(c[r.start]) for c, r in zip(columns, ranges, strict=True)]
            boxes = blocks.cut(ranges, rows)
            for number in range(len(boxes)):
                yield where, boxes[number]

    def read_shard_box(self, task: tuple[list[int], Ranges]) -> None:
        where, box = task
        key = self.layout.key(where)
        reader = self.store.open_reader(key)
        if reader is None:
            axes = zip(self.plan.axes, box, strict=True)
            spans: tuple[Any, ...] = tuple(axis.span(r) for axis, r in axes)
            self._missing(self.out[spans], key)
            return
        with reader:
            layouts = self.layout.levels.layouts
            slots = blocks.slots_of(box, self.chunks, layouts[0].per_shard)
            offset, nbytes = self._inner_ranges(layouts, reader, slots[None, :], key)
            whole, rest = blocks.split(box, self.whole)
            if rest:
                numbers = {row: i for i, row in enumerate(blocks.rows_of(box))}
                some = [numbers[row] for row in rest]
                chain = self.layout.levels.leaf
                self._read_inner(reader, offset[some], nbytes[some], rest, chain, key)
                some = [] if whole is None else [numbers[row] for row in blocks.rows_of(whole)]
                offset, nbytes = offset[some], nbytes[some]
            if whole is not None:
                self._read_whole_inner(reader, whole, offset, nbytes, key)

    def _read_whole_inner(
        self, reader: Reader, whole: Ranges, offset: Int64, nbytes: Int64, key: str
    ) -> None:
        chain = self.layout.levels.leaf
        memory = chain.memory
        assert memory is not None  # noqa: S101 - see usable
        if chain.raw is not None:
            there = offset >= 0
            check_inner_sizes(self.errors, chain, offset[there], nbytes[there], key)
        if (offset[1:] >= offset[:-1]).all():
            boxes = list(blocks.cut(whole, self.most))
        else:  # zarr-python stores them along a Z-order curve
            boxes = blocks.cut_square(whole, self.most)
            order = blocks.numbers_in(whole, boxes)
            offset, nbytes = offset[order], nbytes[order]
        parts = Parts(reader, offset, nbytes, self.scratch, self.limits)
        first = 0
        for box in boxes:
            block = _Block(self, box, memory)
            stop = first + block.count
            if not self.store.local:
                self._decode_fetched(parts, first, stop, block, chain, key)
            elif self.small and self._decode_together(parts, first, stop, block, chain):
                pass
            elif chain.raw is None:
                for i, piece in enumerate(block.pieces, first):
                    self._decode_inner(parts, i, piece, chain, key)
            elif parts.read_neighbours(first, stop, block.bytes):
                self.together |= block.count > 1
            else:
                self._read_inner_pieces(parts, first, stop, block, key)
            block.deliver()
            first = stop

    def _read_inner_pieces(
        self, parts: Parts, first: int, stop: int, block: _Block, key: str
    ) -> None:
        """Uncompressed inner chunks that are no neighbours, or in another order."""
        nbytes = block.memory.nbytes
        found = parts.together(first, stop) if nbytes <= SMALL_NBYTES else None
        if found is not None:
            data, offset, _ = found
            item = np.dtype((np.void, nbytes))
            everywhere: NDArray = np.ndarray((len(data) - nbytes + 1,), item, data, 0, (1,))
            np.frombuffer(block.bytes, item)[...] = everywhere[offset]
            self.together = True
            return
        for i, piece in enumerate(block.pieces, first):
            if not parts.read(i, piece):
                self._fill_piece(piece, block.memory, key)

    def _decode_together(
        self, parts: Parts, first: int, stop: int, block: _Block, chain: BoundChain
    ) -> bool:
        """Decode all chunks of a block by one call; False, and nothing done, if that fails."""
        found = parts.together(first, stop)
        decoded = None if found is None else chain.decode_many(*found)
        if decoded is None:
            return False
        block.take(decoded)
        self.together = True
        return True

    def _decode_inner(
        self, parts: Parts, i: int, piece: memoryview, chain: BoundChain, key: str
    ) -> None:
        data = parts.get(i)
        if data is None:
            assert chain.memory is not None  # noqa: S101 - see usable
            self._fill_piece(piece, chain.memory, key)
            return
        try:
            chain.decode_into(data, piece)
        except CodecError as error:
            raise self.errors.decoding(error, key, parts.span(i)) from error

    def _decode_fetched(
        self, parts: Parts, first: int, stop: int, block: _Block, chain: BoundChain, key: str
    ) -> None:
        """The same where ranges take their time: those of a block are asked for together."""
        left = set(range(first, stop))
        for i, data in parts.fetch(first, stop, one=self.store.local):
            left.remove(i)
            try:
                chain.decode_into(data, block.pieces[i - first])
            except CodecError as error:
                raise self.errors.decoding(error, key, parts.span(i)) from error
        for i in left:
            self._fill_piece(block.pieces[i - first], block.memory, key)

    def _fill_piece(self, piece: memoryview, memory: RawLayout, key: str) -> None:
        if not self.settings.read_missing_chunks:
            raise self.errors.missing(key)
        np.frombuffer(piece, memory.dtype)[...] = self.layout.fill_array


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

    def take(self, decoded: Sequence[Bytes]) -> None:
        """Use ``decoded`` as the bytes of the chunks."""
        for piece, data in zip(self.pieces, decoded, strict=True):
            piece[:] = data

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

    def deliver(self) -> None:
        """Move scratch memory to the output."""
        if self.target is not None:
            return
        shape = self._place.shape
        strides = self.memory.strides_of(shape)
        chunks = np.ndarray(shape, self.memory.dtype, self.bytes, 0, strides)
        blocks.move(self._job._pick(chunks), self._place)  # noqa: SLF001 - a part of the job
