"""Writing on the host, block by block: whole chunks are encoded together.

The whole chunks of a block are brought together in memory that lies in the cache, or used where
they are, compressed and stored from there. The other rows of a block are written one by one, and
so is everything that is no box of elements (``host_write``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu import blocks, workers
from zarr_gpu._types import Bytes, Int64, NDArray
from zarr_gpu.blocks import Blocks, Ranges
from zarr_gpu.codecs.chain import BoundChain, RawLayout
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import ChunkEncodeError, CodecError, LimitError
from zarr_gpu.host_write import Done, WriteJob
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Box, Plan
from zarr_gpu.scratch import Arena
from zarr_gpu.stores.base import Store

Part: TypeAlias = tuple[tuple[Any, ...], NDArray]
"""An index of a chunk, and values for the elements there."""
BLOCK_NBYTES = 1 << 20
"""Decoded bytes of a block: what is done once for each, some 50 us, is little beside copying it."""

SMALL_NBYTES = 32 << 10
SMALL_INNER_NBYTES = 16 << 10
"""Of chunks (objects; parts of shards) that fewer than 60 us of encoding are done faster by one
thread: two spend their time handing over the interpreter lock."""
SHORT_S = 60e-6
SLOW_S = 200e-6
"""What such a chunk may take in all; making a file takes from 20 us to more than 1 ms."""


class BlockWriteJob(WriteJob):
    """A write of ranges to a regular grid."""

    def __init__(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: NDArray, settings: ArrayConfig
    ) -> None:
        super().__init__(layout, plan, store, value, settings)
        self.arena = Arena()

    def usable(self) -> bool:
        """False when chunks could not be brought together in memory as they are stored."""
        return self.layout.plain and self.plan.ranges and self.plan.fields is None

    @cached_property
    def chain(self) -> BoundChain:
        return self.layout.levels.leaf

    @cached_property
    def memory(self) -> RawLayout:
        memory = self.chain.memory
        assert memory is not None  # noqa: S101 - see usable
        return memory

    @cached_property
    def most(self) -> int:
        """Rows of a block."""
        return max(1, min(self.batch, BLOCK_NBYTES // self.memory.nbytes))

    @cached_property
    def whole(self) -> Ranges:
        return blocks.whole_ranges(self.plan)

    @cached_property
    def covered(self) -> list[list[bool]]:
        """Which segments of each axis cover their chunk as far as the array reaches."""
        columns = []
        for axis, grid in zip(self.plan.axes, self.plan.grids, strict=True):
            chunk = axis.chunk[:, 0]
            inside = np.minimum(grid.extent(chunk), grid.length - grid.start(chunk))
            columns.append((axis.extent == inside).tolist())
        return columns

    @cached_property
    def chunks(self) -> list[Int64]:
        """Chunk numbers of the segments of each axis."""
        return [axis.chunk[:, 0] for axis in self.plan.axes]

    @cached_property
    def in_place(self) -> bool:
        """True when values have the type and order in which they are stored."""
        memory = self.memory
        return self.value.dtype == memory.dtype and memory.c_order(self.chain.spec.shape)

    @cached_property
    def pattern(self) -> bytes:
        """A fill value as it is stored, before compression."""
        return self.layout.fill_array.astype(self.memory.dtype).tobytes()

    def count_threads(self) -> int:
        threads = super().count_threads()
        inner, codecs = self.layout.sharded, self.chain.chain.bytes_bytes
        least = SMALL_INNER_NBYTES if inner else SMALL_NBYTES
        if (
            threads == 1
            or not self.store.local
            or not workers.take_turns()
            or self.memory.nbytes >= least
        ):
            return threads
        if not codecs:
            return threads if inner else 1
        return 1 if self._encodes_fast() else threads

    def _encodes_fast(self) -> bool:
        """Tried with one chunk, as codecs differ in speed by three orders of magnitude."""
        if not all(self.whole):
            return False
        data = self._gather(tuple(range(r.start, r.start + 1) for r in self.whole))
        for _ in range(3):  # the first may have to load a library
            start = perf_counter()
            try:
                self._compress(data, "")
            except ChunkEncodeError:
                return False  # whoever writes the chunk will say so
            if perf_counter() - start < SHORT_S:
                return True
        return False

    # -- objects that are one chunk ---------------------------------------------------------------

    @cached_property
    def grid(self) -> Blocks:
        return Blocks(tuple(len(axis) for axis in self.plan.axes), self.most)

    def run(self) -> None:
        able = super().count_threads()
        rows = min(self.batch, len(self.plan) // (4 * able))
        step = max(1, rows // self.most)
        n, first, threads = len(self.grid), 0, self.threads
        if threads < able and n > 1:  # all by one thread, unless the file system is slow
            first, start = 1, perf_counter()
            self.write_blocks(range(first))
            if perf_counter() - start > SLOW_S * math.prod(self.grid.per):
                threads = able
        runs = (range(at, min(n, at + step)) for at in range(first, n, step))
        workers.run(self.write_blocks, runs, threads)

    def write_blocks(self, numbers: range) -> None:
        self.arena.clear()
        done: Done = []
        for number in numbers:
            whole, rest = blocks.split(self.grid[number], self.whole)
            if whole is not None:
                self._write_whole(whole, done)
            for row in rest:
                self._write_row(row, done)
        if done:
            self.store.set_many(done)

    def _write_whole(self, ranges: Ranges, done: Done) -> None:
        coords = blocks.cross(ranges, self.chunks)
        keys = self.layout.keys(coords)
        for i, blob in enumerate(self._encode_whole(ranges, keys)):
            if blob is not None:
                done.append((keys[i], blob))
            else:
                self.finish(keys[i], coords[i].tolist(), None, done)

    def _write_row(self, row: Sequence[int], done: Done) -> None:
        where = [int(column[s]) for column, s in zip(self.chunks, row, strict=True)]
        key = self.layout.key(where)
        part = self._part(row)
        if self._covers(row):
            self.finish(key, where, self._encode_part(part, key, None), done)
        else:
            self._merged(key, self._merge_part, part, where, key)

    def _merge_part(self, part: Part, where: Sequence[int], key: str) -> None:
        self._finish_one(key, where, self._encode_part(part, key, self._read_old))

    def write_one(self, where: tuple[int, ...], box: Box) -> None:
        """All values lie in one chunk: small writes, for which columns would take most time."""
        key = self.layout.key(where)
        inside: tuple[Any, ...] = tuple(
            slice(start, start + (n - 1) * step + 1, step) for start, n, step in box
        )
        part = inside, self.value
        covers = all(
            n == min(grid.chunk, grid.length - i * grid.chunk)  # type: ignore[union-attr]  # regular
            for i, (_, n, _), grid in zip(where, box, self.plan.grids, strict=True)
        )
        if covers:
            self._finish_one(key, where, self._encode_part(part, key, None))
        else:
            self._merged(key, self._merge_part, part, where, key)

    def _read_old(self, key: str, out: memoryview) -> bool:
        """Decode a stored chunk into ``out``; False when there is none."""
        if self.chain.raw is not None:
            try:
                n = next(iter(self.store.fill([key], [out])))
            except LimitError as error:
                raise self.errors.decoding(error, key) from error
            if n < 0 or n == len(out):
                return n >= 0
        data = self._get(key, self.chain.stored.limit)
        return data is not None and self._decode(data, out, key)

    def _decode(self, data: Bytes, out: memoryview, key: str) -> bool:
        try:
            self.chain.decode_into(data, out)
        except CodecError as error:
            raise self.errors.decoding(error, key) from error
        return True

    # -- encoding ---------------------------------------------------------------------------------

    def _covers(self, row: Sequence[int]) -> bool:
        return all(column[s] for column, s in zip(self.covered, row, strict=True))

    def _encode_whole(self, ranges: Ranges, keys: Sequence[str]) -> list[Bytes | None]:
        """The chunks of a block, None for those that are not stored; ``keys`` are for errors."""
        data = self._gather(ranges)
        nbytes = self.memory.nbytes
        pieces: list[Bytes | None] = [data[i : i + nbytes] for i in range(0, len(data), nbytes)]
        for i in self._empty(data):
            pieces[i] = None
        if not self.chain.chain.bytes_bytes:
            return pieces
        one = keys[0] if len(keys) != len(pieces) else ""
        return [
            None if piece is None else self._compress(piece, one or keys[i])
            for i, piece in enumerate(pieces)
        ]

    def _gather(self, ranges: Ranges) -> memoryview:
        """The chunks of a block one after the other, as they are before they are compressed."""
        memory, shape = self.memory, self.chain.spec.shape
        place = blocks.place_of(self.value, self.plan.axes, ranges, shape)
        if self.in_place and place.flags.c_contiguous:
            return place.reshape(-1).view(np.uint8).data
        out = self.arena.take(place.size * memory.dtype.itemsize)
        strides = memory.strides_of(place.shape)
        blocks.move(place, np.ndarray(place.shape, memory.dtype, out, 0, strides))
        return out

    def _empty(self, data: memoryview) -> Collection[int]:
        """Numbers of the chunks in ``data`` that hold nothing but fill values."""
        if not self.drops_empty:
            return ()
        pattern, n = self.pattern, self.memory.nbytes
        size = len(pattern)
        if len(data) == n:
            candidates = [0] if data[:size] == pattern else []
        else:
            first = np.frombuffer(data, np.uint8).reshape(-1, n)[:, :size].tobytes()
            if pattern not in first:  # the usual case: real data
                return ()
            starts = range(0, len(first), size)
            candidates = [i for i, at in enumerate(starts) if first[at : at + size] == pattern]
        return [i for i in candidates if self._is_empty(data[i * n : (i + 1) * n])]

    def _is_empty(self, piece: memoryview) -> bool:
        elements = np.frombuffer(piece, self.memory.dtype)
        return self.layout.data_type.equals_fill(elements, self.layout.fill_value)

    def _compress(self, data: Bytes, key: str) -> Bytes:
        try:
            for codec in self.chain.chain.bytes_bytes:
                data = codec.encode(data)
        except (CodecError, TypeError, ValueError, OverflowError) as error:
            raise self.errors.encoding(error, key) from error
        return data

    def _part(self, row: Sequence[int]) -> Part:
        axes = self.plan.axes
        place: tuple[Any, ...] = tuple(a.out_index(s) for a, s in zip(axes, row, strict=True))
        inside = tuple(a.in_chunk(s) for a, s in zip(axes, row, strict=True))
        return inside, self.value[(*place, ...)]  # an array where there are no axes, too

    def _encode_part(
        self, part: Part, key: str, read: Callable[[str, memoryview], bool] | None
    ) -> Bytes | None:
        """A chunk of some values over what ``read`` finds, or over fill values."""
        memory, shape = self.memory, self.chain.spec.shape
        inside, value = part
        whole = value.shape == shape
        if whole and self.in_place and value.flags.c_contiguous:
            piece = value.reshape(-1).view(np.uint8).data
        else:
            piece = self.arena.take(memory.nbytes)
            chunk: NDArray = np.ndarray(shape, memory.dtype, piece, 0, memory.strides)
            if not whole and (read is None or not read(key, piece)):
                chunk[...] = self.layout.fill_array
            chunk[inside] = value
        return None if self._empty(piece) else self._compress(piece, key)
