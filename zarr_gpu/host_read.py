"""Reading on the host: the tasks that worker threads run."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bytes, Int64, NDArray
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.codecs.chain import BoundChain, RawLayout
from zarr_gpu.codecs.sharding import MISSING, ShardLayout
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.layout import ArrayLayout, leaf_nbytes
from zarr_gpu.plan import Assembler, Placement, Plan
from zarr_gpu.shards import inner_range, read_index
from zarr_gpu.stores.base import Reader, Store
from zarr_gpu.stores.ranges import coalesce

LOCAL_GAP = 16 << 10
"""Copying this much from the page cache costs about as much as one more system call."""
SPARSE_NBYTES = 64 << 10
"""Selections of uncompressed chunks that span less are read as one range, however sparse."""


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
        self.assembler = Assembler(plan)
        self.errors = ChunkErrors(layout)
        self.same_dtype = out.dtype == layout.dtype and plan.fields is None
        self.limits = ReadLimits.of(layout, store, settings)

    # -- objects that are one chunk ---------------------------------------------------------------

    def read_rows(self, rows: range) -> None:
        segment = self.plan.segments_of(np.arange(rows.start, rows.stop, dtype=np.int64))
        chunks = self.plan.chunks_of(segment)
        keys = self.layout.keys(chunks)
        rows_list = segment.tolist()
        uniform = self.layout.uniform
        chain = self.layout.levels.leaf
        coords = None if uniform else chunks.tolist()
        # Parts of an uncompressed chunk are read through an opened object. With latency that costs
        # a request for its size, so there whole chunks are fetched like compressed ones.
        whole = np.zeros(len(keys), np.bool_)
        if chain.raw is not None and not self.store.local:
            whole = self.plan.complete(segment)
        batch = self.limits.batch
        for first in range(0, len(keys), batch):
            some = slice(first, first + batch)
            fetch = batch > 1 and uniform and (chain.raw is None or whole[some].all())
            fetched = get_objects(self.store, keys[some], chain) if fetch else None
            for i, (key, row) in enumerate(zip(keys[some], rows_list[some], strict=True)):
                if coords is not None:
                    chain = self.layout.levels_at(coords[first + i]).leaf
                if chain.raw is not None and fetched is None and not whole[first + i]:
                    self._read_raw_object(key, row, chain, chain.raw)
                    continue
                try:
                    data = (
                        self.store.get(key, limit=chain.stored.limit)
                        if fetched is None
                        else fetched[i]
                    )
                except LimitError as error:
                    raise self.errors.decoding(error, key) from error
                if data is None:
                    self._fill(row, key)
                else:
                    self._decode(data, row, chain, key, None)

    def _fill(self, row: Sequence[int], key: str) -> None:
        if not self.settings.read_missing_chunks:
            raise self.errors.missing(key)
        self.out[self.assembler.out_index(row)] = self._pick(self.layout.fill_array)

    def _target(self, row: Sequence[int], chain: BoundChain) -> NDArray | None:
        """The row's place in the output, when a whole chunk can be decoded right there."""
        if not self.same_dtype:
            return None
        box = self.assembler.box(row)
        if box is None or any(
            start or step != 1 or extent != n
            for (start, extent, step), n in zip(box, chain.spec.shape, strict=True)
        ):
            return None
        view = self._place(row)
        return view if view.flags.c_contiguous and view.flags.writeable else None

    def _place(self, row: Sequence[int]) -> NDArray:
        """The row's part of the output; the ellipsis makes it a view also where that is 0-d."""
        return self.out[(*self.assembler.out_index(row), ...)]

    def _decode(
        self,
        data: Bytes,
        row: Sequence[int],
        chain: BoundChain,
        key: str,
        byte_range: tuple[int, int] | None,
    ) -> None:
        target = self._target(row, chain)
        try:
            chunk = chain.decode(data, target)
        except CodecError as error:
            raise self.errors.decoding(error, key, byte_range) from error
        if chunk is not target:
            self.out[self.assembler.out_index(row)] = self.assembler.take(self._pick(chunk), row)

    def _pick(self, array: NDArray) -> NDArray:
        """The fields asked for."""
        return array if self.plan.fields is None else array[self.plan.fields]

    # -- uncompressed chunks ----------------------------------------------------------------------

    def _read_raw_object(
        self, key: str, row: Sequence[int], chain: BoundChain, raw: RawLayout
    ) -> None:
        try:
            reader = self.store.open_reader(key, limit=raw.nbytes)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error
        if reader is None:
            self._fill(row, key)
            return
        with reader:
            if reader.size != raw.nbytes:
                raise self.errors.decoding(impossible_size(chain, reader.size), key)
            self._read_raw(reader, 0, row, chain, raw)

    def _read_raw(
        self, reader: Reader, base: int, row: Sequence[int], chain: BoundChain, raw: RawLayout
    ) -> None:
        """The row's elements of an uncompressed chunk that starts at ``base`` in ``reader``."""
        box = self.assembler.box(row)
        where = self.assembler.out_index(row)
        if box is None:
            data = reader.read(base, raw.nbytes)
            whole = [(0, n, 1) for n in chain.spec.shape]
            self.out[where] = self.assembler.take(self._pick(raw.view(data, whole)), row)
            return
        place = self._place(row)
        offset, nbytes = raw.span(box)
        wanted = math.prod(extent for _, extent, _ in box) * raw.dtype.itemsize
        if self.same_dtype and nbytes == wanted and self._dense(place, box, raw):
            reader.read_into(base + offset, memoryview(place.reshape(-1).view(np.uint8)))
        elif nbytes <= max(SPARSE_NBYTES, 2 * wanted):
            place[...] = self._pick(raw.view(reader.read(base + offset, nbytes), box))
        else:
            for index, piece in _cut_sparse(box, raw):
                offset, nbytes = raw.span(piece)
                data = reader.read(base + offset, nbytes)
                place[index] = self._pick(raw.view(data, piece))

    def _dense(self, place: NDArray, box: list[tuple[int, int, int]], raw: RawLayout) -> bool:
        """True when the box's bytes in the chunk are its bytes in the output, in the same order."""
        if self.out.dtype != raw.dtype or not place.flags.c_contiguous:
            return False
        step_nbytes = raw.dtype.itemsize
        for (_, extent, step), stride in zip(reversed(box), reversed(raw.strides), strict=True):
            if extent > 1 and stride * step != step_nbytes:
                return False
            step_nbytes *= extent
        return place.nbytes > 0

    # -- shards -----------------------------------------------------------------------------------

    def read_shard(self, task: tuple[int, Int64]) -> None:
        number, rows = task
        coords = self.placement.objects[number]
        key = self.layout.keys(coords[None, :])[0]
        segment = self.segment[rows]
        reader = self.store.open_reader(key)
        if reader is None:
            for row in segment.tolist():
                self._fill(row, key)
            return
        with reader:
            levels = self.layout.levels_at(coords.tolist())
            slots = self.placement.slots[:, rows]
            try:
                offset, nbytes = inner_ranges(
                    levels.layouts, reader, slots, (self.store.identity, key)
                )
            except CodecError as error:
                raise self.errors.decoding(error, key) from error
            present = offset >= 0
            for row in segment[~present].tolist():
                self._fill(row, key)
            self._read_inner(
                reader, offset[present], nbytes[present], segment[present], levels.leaf, key
            )

    def _read_inner(
        self,
        reader: Reader,
        offset: Int64,
        nbytes: Int64,
        segment: Int64,
        chain: BoundChain,
        key: str,
    ) -> None:
        raw = chain.raw
        rows = segment.tolist()
        if raw is not None:
            check_inner_sizes(self.errors, chain, offset, nbytes, key)
        if raw is not None and self.store.local:
            for base, row in zip(offset.tolist(), rows, strict=True):
                self._read_raw(reader, base, row, chain, raw)
            return
        for i, part in read_ranges(reader, offset, nbytes, self.limits, one=self.store.local):
            self._decode(part, rows[i], chain, key, (int(offset[i]), int(nbytes[i])))


# -- what reading on a device does alike --------------------------------------------------------


def get_objects(store: Store, keys: Sequence[str], chain: BoundChain) -> list[Bytes | None] | None:
    """Whole objects of a store with latency, in one call; None when one of them is too large."""
    n = len(keys)
    try:
        return store.get_many(
            keys, np.zeros(n, np.int64), np.full(n, -1, np.int64), limit=chain.stored.limit
        )
    except LimitError:
        return None  # one by one, to find out which


def impossible_size(chain: BoundChain, nbytes: int) -> CodecError:
    """An object of ``nbytes`` cannot be a chunk of ``chain``; its decoder says the same."""
    size = chain.stored
    return CodecError(
        "stored chunk of impossible size",
        codec=chain.chain.codecs[-1].name,
        expected=f"{'' if size.exact else 'at most '}{size.limit} bytes",
        found=f"{nbytes} bytes",
    )


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


def _cut_sparse(
    box: list[tuple[int, int, int]], raw: RawLayout
) -> Iterator[tuple[tuple[slice, ...], list[tuple[int, int, int]]]]:
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
