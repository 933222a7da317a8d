"""Reading on the host: one chunk after the other, as a whole or in part.

Requests inside one chunk, uncompressed chunks, shards of any depth; ``host_rows`` and
``host_blocks`` do the same for many chunks at a time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import product

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bytes, Int64, NDArray
from zarr_gpu.assembler import Assembler
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.codecs.chain import BoundChain, RawLayout
from zarr_gpu.codecs.sharding import ShardLayout
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.fetching import ReadLimits, check_inner_sizes, inner_ranges, read_ranges
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Box, Placement, Plan
from zarr_gpu.scratch import Scratch
from zarr_gpu.stores.base import Reader, Store

SPARSE_NBYTES = 64 << 10
"""Selections of uncompressed chunks that span less are read as one range, however sparse."""


class ReadJob:
    """One read: shared, read-only state of its tasks."""

    segment: Int64
    placement: Placement

    def __init__(
        self, layout: ArrayLayout, plan: Plan, store: Store, out: NDArray, settings: ArrayConfig
    ) -> None:
        self.layout = layout
        self.plan = plan
        self.store = store
        self.out = out
        self.settings = settings
        self.same_dtype = out.dtype == layout.dtype and plan.fields is None
        self.scratch = Scratch()
        self.reading = threading.Lock() if workers.take_turns() else nullcontext()
        """Held by the thread that reads small files, where others could not run meanwhile."""

    @cached_property
    def errors(self) -> ChunkErrors:
        return ChunkErrors(self.layout)

    @cached_property
    def assembler(self) -> Assembler:
        return Assembler(self.plan)

    @cached_property
    def limits(self) -> ReadLimits:
        return ReadLimits.of(self.layout, self.store, self.settings)

    # -- a request inside one chunk ---------------------------------------------------------------

    def read_one(self, chunk: tuple[int, ...], box: Box) -> None:
        """All of the output is ``box`` of the leaf chunk at ``chunk``; the grid is regular."""
        place = self.out
        if self.layout.sharded:
            self._read_one_inner(chunk, box, place)
            return
        key = self.layout.key(chunk)
        chain = self.layout.levels.leaf
        if chain.raw is not None and (self.store.local or not _is_whole(box, chain)):
            self._read_raw_object(key, place, box, chain)
            return
        data = self._get(key, chain)
        if data is None:
            self._missing(place, key)
        else:
            self._decode_box(data, place, box, chain, key, None)

    def _read_one_inner(self, chunk: tuple[int, ...], box: Box, place: NDArray) -> None:
        where, slots = self.layout.inside(chunk)
        key = self.layout.key(where)
        reader = self.store.open_reader(key)
        if reader is None:
            self._missing(place, key)
            return
        levels = self.layout.levels
        with reader:
            columns = np.array(slots, np.int64)[:, None]
            offset, nbytes = self._inner_ranges(levels.layouts, reader, columns, key)
            at, n = int(offset[0]), int(nbytes[0])
            if at < 0:
                self._missing(place, key)
            elif levels.leaf.raw is not None:
                check_inner_sizes(self.errors, levels.leaf, offset, nbytes, key)
                self._read_raw(reader, at, place, box, levels.leaf.raw)
            else:
                data = reader.read(at, n)
                self._decode_box(data, place, box, levels.leaf, key, (at, n))

    def _get(self, key: str, chain: BoundChain) -> Bytes | None:
        try:
            return self.store.get(key, limit=chain.stored.limit)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error

    # -- decoding ---------------------------------------------------------------------------------

    def _missing(self, place: NDArray, key: str) -> None:
        if not self.settings.read_missing_chunks:
            raise self.errors.missing(key)
        place[...] = self._pick(self.layout.fill_array)

    def _pick(self, array: NDArray) -> NDArray:
        """The fields asked for."""
        return array if self.plan.fields is None else array[self.plan.fields]

    def _place(self, row: Sequence[int]) -> NDArray:
        """The row's part of the output; the ellipsis makes it a view also where that is 0-d."""
        return self.out[(*self.assembler.out_index(row), ...)]

    def _decode_row(
        self,
        data: Bytes | None,
        row: Sequence[int],
        chain: BoundChain,
        key: str,
        byte_range: tuple[int, int] | None = None,
    ) -> None:
        if data is None:
            if not self.settings.read_missing_chunks:
                raise self.errors.missing(key)
            self.out[self.assembler.out_index(row)] = self._pick(self.layout.fill_array)
            return
        box = self.assembler.box(row)
        if box is not None:
            self._decode_box(data, self._place(row), box, chain, key, byte_range)
            return
        try:
            chunk = self._decode_whole(data, chain)
        except CodecError as error:
            raise self.errors.decoding(error, key, byte_range) from error
        taken = self.assembler.take(self._pick(chunk), row)
        self.out[self.assembler.out_index(row)] = taken

    def _decode_box(
        self,
        data: Bytes,
        place: NDArray,
        box: Box,
        chain: BoundChain,
        key: str,
        byte_range: tuple[int, int] | None,
    ) -> None:
        """Decode as much of a chunk as ``box`` needs into ``place``."""
        memory = chain.memory
        try:
            if memory is None or not memory.nbytes:
                chunk = chain.decode(data)
                part = chunk[tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in box)]
            elif place.nbytes == memory.nbytes and self._dense(place, box, memory):
                chain.decode_into(data, _bytes_of(place))
                return
            else:
                part = self._decode_part(data, box, chain, memory)
        except CodecError as error:
            raise self.errors.decoding(error, key, byte_range) from error
        place[...] = self._pick(part)

    def _decode_part(self, data: Bytes, box: Box, chain: BoundChain, memory: RawLayout) -> NDArray:
        """The elements of ``box``, valid until the thread decodes the next chunk."""
        offset, nbytes = memory.span(box)
        if chain.raw is not None or 2 * nbytes <= memory.nbytes:
            part = chain.decode_part(data, offset, nbytes)
            if part is not None:
                return memory.view(part, box)
        chunk = self._decode_whole(data, chain)
        part_of: NDArray = chunk[tuple([slice(a, a + (n - 1) * s + 1, s) for a, n, s in box])]
        return part_of

    def _decode_whole(self, data: Bytes, chain: BoundChain) -> NDArray:
        """The decoded chunk, valid until the thread decodes the next one."""
        memory = chain.memory
        if memory is None or chain.raw is not None or not memory.nbytes:
            return chain.decode(data)
        decoded, chunk = self.scratch.chunk(memory, chain.spec.shape)
        chain.decode_into(data, decoded)
        return chunk

    # -- uncompressed chunks ----------------------------------------------------------------------

    def _read_raw_object(self, key: str, place: NDArray, box: Box, chain: BoundChain) -> None:
        raw = chain.raw
        assert raw is not None  # noqa: S101 - callers ask
        with self._open_raw(key, chain) as reader:
            if reader is None:
                self._missing(place, key)
            else:
                self._read_raw(reader, 0, place, box, raw)

    def _open_raw(self, key: str, chain: BoundChain) -> AbstractContextManager[Reader | None]:
        """An uncompressed chunk, of the size that it must have; None where there is none."""
        try:
            reader = self.store.open_reader(key, limit=chain.stored.limit)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error
        if reader is None:
            return nullcontext()
        if reader.size != chain.stored.limit:
            reader.close()
            raise self.errors.decoding(chain.impossible_size(reader.size), key)
        return reader

    def _read_raw(
        self, reader: Reader, base: int, place: NDArray, box: Box, raw: RawLayout
    ) -> None:
        """The box's elements of an uncompressed chunk that starts at ``base`` in ``reader``."""
        offset, nbytes = raw.span(box)
        wanted = math.prod(extent for _, extent, _ in box) * raw.dtype.itemsize
        if nbytes == wanted and self._dense(place, box, raw):
            reader.read_into(base + offset, _bytes_of(place))
        elif nbytes <= max(SPARSE_NBYTES, 2 * wanted):
            data = self.scratch.get("part", nbytes)
            reader.read_into(base + offset, data)
            place[...] = self._pick(raw.view(data, box))
        else:
            for index, piece in _cut_sparse(box, raw):
                offset, nbytes = raw.span(piece)
                data = self.scratch.get("part", nbytes)
                reader.read_into(base + offset, data)
                place[index] = self._pick(raw.view(data, piece))

    def _dense(self, place: NDArray, box: Box, raw: RawLayout) -> bool:
        """True when the box's bytes in the chunk are its bytes in the output, in the same order."""
        if not self.same_dtype or place.dtype != raw.dtype or not place.flags.c_contiguous:
            return False
        step_nbytes = raw.dtype.itemsize
        for (_, extent, step), stride in zip(reversed(box), reversed(raw.strides), strict=True):
            if extent > 1 and stride * step != step_nbytes:
                return False
            step_nbytes *= extent
        return place.nbytes > 0

    # -- shards -----------------------------------------------------------------------------------

    def read_shard(self, task: tuple[int, Int64]) -> None:
        """Rows ``task[1]`` of object number ``task[0]`` in :attr:`placement`."""
        number, rows = task
        coords = self.placement.objects[number]
        key = self.layout.keys(coords[None, :])[0]
        segment = self.segment[rows]
        reader = self.store.open_reader(key)
        levels = self.layout.levels_at(coords.tolist())
        if reader is None:
            for row in segment.tolist():
                self._decode_row(None, row, levels.leaf, key)
            return
        with reader:
            slots = self.placement.slots[:, rows]
            offset, nbytes = self._inner_ranges(levels.layouts, reader, slots, key)
            self._read_inner(reader, offset, nbytes, segment.tolist(), levels.leaf, key)

    def _inner_ranges(
        self, layouts: Sequence[ShardLayout], reader: Reader, slots: Int64, key: str
    ) -> tuple[Int64, Int64]:
        try:
            return inner_ranges(layouts, reader, slots, (self.store.identity, key))
        except CodecError as error:
            raise self.errors.decoding(error, key) from error

    def _read_inner(
        self,
        reader: Reader,
        offset: Int64,
        nbytes: Int64,
        rows: Sequence[Sequence[int]],
        chain: BoundChain,
        key: str,
    ) -> None:
        """Rows whose chunks are parts of an opened shard; offset -1: missing."""
        present = np.flatnonzero(offset >= 0)
        if len(present) < len(offset):
            for i in np.flatnonzero(offset < 0).tolist():
                self._decode_row(None, rows[i], chain, key)
            rows = [rows[i] for i in present.tolist()]
            offset, nbytes = offset[present], nbytes[present]
        raw = chain.raw
        if raw is not None:
            check_inner_sizes(self.errors, chain, offset, nbytes, key)
        if raw is not None and self.store.local:
            for base, row in zip(offset.tolist(), rows, strict=True):
                box = self.assembler.box(row)
                if box is None:
                    self._decode_row(reader.read(base, raw.nbytes), row, chain, key)
                else:
                    self._read_raw(reader, base, self._place(row), box, raw)
            return
        for i, part in read_ranges(reader, offset, nbytes, self.limits, one=self.store.local):
            self._decode_row(part, rows[i], chain, key, (int(offset[i]), int(nbytes[i])))


def _is_whole(box: Box, chain: BoundChain) -> bool:
    return all(n == m for (_, n, _), m in zip(box, chain.spec.shape, strict=True))


def _bytes_of(place: NDArray) -> memoryview:
    """The memory of a C-contiguous array that is not empty."""
    return place.reshape(-1).view(np.uint8).data


def _cut_sparse(box: Box, raw: RawLayout) -> Iterator[tuple[tuple[slice, ...], Box]]:
    """A box that is a small part of the bytes it spans, cut along the slowest dimensions.

    Cutting stops where a piece spans little, or is dense enough to be read as one range. Yields
    the index of each piece in the box, and the piece.
    """
    slowest = sorted(range(len(box)), key=lambda d: -raw.strides[d])
    inner = list(box)
    cut: list[int] = []
    for d in slowest:
        nbytes = raw.span(inner)[1]
        wanted = math.prod(extent for _, extent, _ in inner) * raw.dtype.itemsize
        if nbytes <= max(SPARSE_NBYTES // 16, 2 * wanted):
            break
        cut.append(d)
        inner[d] = (inner[d][0], 1, 1)
    for where in product(*(range(box[d][1]) for d in cut)):
        piece = list(box)
        index = [slice(None)] * len(box)
        for d, i in zip(cut, where, strict=True):
            start, _, step = box[d]
            piece[d] = (start + i * step, 1, 1)
            index[d] = slice(i, i + 1)
        yield tuple(index), piece
