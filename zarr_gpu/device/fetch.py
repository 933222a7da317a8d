"""From a store into page-locked host memory: the stored bytes of a wave of chunks.

Worker threads read straight into slabs where the store can do that (files), and copy from what the
store hands out otherwise. Nothing is allocated for a size that the metadata does not allow, and
what is wrong with an object is said in the words of the host reader. Knows no device: slabs come
from a :class:`~zarr_gpu.device.memory.PinnedRing`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bools, Bytes, Int64, NDArray
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.device.memory import PinnedRing, Slab
from zarr_gpu.errors import CodecError, LimitError, UnsupportedError
from zarr_gpu.fetching import (
    ReadLimits,
    check_inner_sizes,
    get_objects,
    inner_ranges,
    read_ranges,
)
from zarr_gpu.layout import ArrayLayout, leaf_nbytes
from zarr_gpu.stores.base import Reader, Store
from zarr_gpu.stores.ranges import coalesce

TASK_NBYTES = 1 << 20
"""Bytes per task: enough to make the 13 us of a pool task disappear."""
SERIAL_NBYTES = 256 << 10
"""Waves below this, of a local store, are read by the calling thread alone."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Wave:
    """Which chunks, one per row.

    Rows ``first[i]:first[i + 1]`` belong to the object ``keys[i]`` at ``coords[i]``; unsharded
    objects have one row each. ``slots`` has one row per sharding level (none where unsharded) and
    one column per row *of the wave*.

    ``span`` is for chunks stored uncompressed: offset and nbytes inside the chunk of what is
    wanted of each row. ``decode``: rows are decoded by the worker threads, so that what arrives is
    the chunk itself, in C order, as the layout's dtype.

    Offsets are such that ``(offset + bias) % align == 0``, with one exception: inner chunks that
    are read together from a local shard keep the distances they have there, and only the first of
    them is aligned.
    """

    keys: Sequence[str]
    first: Int64
    coords: Int64
    slots: Int64
    span: tuple[Int64, Int64] | None = None
    decode: bool = False
    align: int = 16
    bias: int = 0

    def __len__(self) -> int:
        return int(self.first[-1]) if len(self.first) else 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Fetched:
    """Where the rows of a wave are: number of the slab (-1: not stored) and place in it.

    ``object_offset`` is where the bytes lay in the stored object. ``used`` are the bytes of each
    slab that rows lie in. The slabs are the caller's to give back.
    """

    slabs: tuple[Slab, ...]
    used: tuple[int, ...]
    slab: Int64
    offset: Int64
    nbytes: Int64
    object_offset: Int64


class Fetcher:
    """Fetches waves of one array."""

    def __init__(
        self,
        layout: ArrayLayout,
        store: Store,
        settings: ArrayConfig,
        ring: PinnedRing,
        errors: ChunkErrors,
    ) -> None:
        self.layout = layout
        self.store = store
        self.settings = settings
        self.ring = ring
        self.errors = errors
        limits = ReadLimits.of(layout, store, settings)
        self.limits = replace(limits, max_bytes=min(limits.max_bytes, ring.slab_nbytes))
        self.reads_into = store.local  # until the first object shows that it cannot be done

    def fetch(self, wave: Wave) -> Fetched:
        """The bytes of all rows.

        Raises ChunkError and StoreError as a read on the host does, and MemoryError. No slab is
        held then.
        """
        if wave.decode and self.layout.data_type.is_variable:
            raise UnsupportedError("elements of variable length cannot be decoded into a slab")
        arena = _Arena(self.ring, wave.align, wave.bias)
        job = _Job(self, wave, arena)
        work: Callable[[Any], None] = job.shard if self.layout.sharded else job.objects
        tasks, threads = self._tasks(wave)
        try:
            workers.run(work, tasks, threads)
        except Exception:
            for slab in arena.slabs:
                slab.release()
            raise
        except BaseException:  # an interrupt may come while threads still write
            for slab in arena.slabs:
                slab.forget()
            raise
        slab_column, offset, nbytes, object_offset = job.columns
        return Fetched(
            slabs=tuple(arena.slabs),
            used=tuple(arena.used),
            slab=slab_column,
            offset=offset,
            nbytes=nbytes,
            object_offset=object_offset,
        )

    def _tasks(self, wave: Wave) -> tuple[Iterator[Any], int]:
        """Work items, and the number of threads worth using."""
        n = len(wave)
        nbytes = leaf_nbytes(self.layout)
        if wave.span is not None and n:
            nbytes = max(1, int(wave.span[1].sum()) // n)
        local = self.store.local
        threads = workers.thread_count() if local else config.current.io_threads
        if local and nbytes * n < SERIAL_NBYTES:
            threads = 1
        step = max(1, min(TASK_NBYTES // nbytes, -(-n // (4 * threads))))
        if threads == 1:
            step = max(1, n)
        if not self.layout.sharded:
            return iter([range(at, min(n, at + step)) for at in range(0, n, step)]), min(threads, n)
        if not local:  # each task reads the index
            step = max(1, self.limits.max_bytes // nbytes)
        tasks = [
            (number, range(at, min(stop, at + step)))
            for number, (start, stop) in enumerate(
                zip(wave.first[:-1].tolist(), wave.first[1:].tolist(), strict=True)
            )
            for at in range(start, stop, step)
        ]
        return iter(tasks), min(threads, len(tasks))


class _Arena:
    """Room in slabs, handed out to all threads of one fetch."""

    def __init__(self, ring: PinnedRing, align: int, bias: int) -> None:
        self.slabs: list[Slab] = []
        self.arrays: list[NDArray] = []
        self.used: list[int] = []
        self._ring = ring
        self._align = align
        self._bias = bias
        self._open = -1
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> tuple[int, int]:
        """Number of a slab, and an offset in it behind which ``nbytes`` are the caller's."""
        with self._lock:
            number = self._open
            if number >= 0:
                offset = self._aligned(self.used[number])
            if number < 0 or offset + nbytes > len(self.arrays[number]):
                offset = self._aligned(0)
                number = self._add(offset + nbytes)
            self.used[number] = offset + nbytes
            return number, offset

    def _aligned(self, at: int) -> int:
        return at + -(at + self._bias) % self._align

    def _add(self, nbytes: int) -> int:
        slab = self._ring.acquire(nbytes)
        self.slabs.append(slab)
        self.arrays.append(slab.array)
        self.used.append(0)
        number = len(self.slabs) - 1
        if nbytes <= self._ring.slab_nbytes:  # one made for a large row has no room for others
            self._open = number
        return number

    def view(self, number: int, offset: int, nbytes: int) -> memoryview:
        return memoryview(self.arrays[number][offset : offset + nbytes])


class _Job:
    """One fetch: its tasks, and the columns they fill."""

    def __init__(self, fetcher: Fetcher, wave: Wave, arena: _Arena) -> None:
        self.fetcher = fetcher
        self.layout = fetcher.layout
        self.store = fetcher.store
        self.errors = fetcher.errors
        self.limits = fetcher.limits
        self.wave = wave
        self.arena = arena
        n = len(wave)
        self.part = _parts(self.layout, wave)
        self.columns = (np.full(n, -1, np.int64), *(np.zeros(n, np.int64) for _ in range(3)))

    def _set(self, row: int, number: int, offset: int, nbytes: int, object_offset: int = 0) -> None:
        slab, offsets, sizes, object_offsets = self.columns
        slab[row], offsets[row], sizes[row] = number, offset, nbytes
        object_offsets[row] = object_offset

    def _missing(self, key: str) -> None:
        if not self.fetcher.settings.read_missing_chunks:
            raise self.errors.missing(key)

    # -- what arrives as bytes --------------------------------------------------------------------

    def _put(
        self,
        row: int,
        data: Bytes,
        chain: BoundChain,
        key: str,
        byte_range: tuple[int, int] | None = None,
    ) -> None:
        """Copy, or decode, the stored bytes of a row."""
        object_offset = 0 if byte_range is None else byte_range[0]
        if not self.wave.decode:
            n = len(data)
            number, offset = self.arena.take(n)
            if n:  # NumPy lets other threads run meanwhile, a memoryview does not
                self.arena.arrays[number][offset : offset + n] = np.frombuffer(data, np.uint8)
            self._set(row, number, offset, n, object_offset)
            return
        spec = chain.spec
        number, offset = self.arena.take(spec.nbytes)
        target = np.ndarray(spec.shape, self.layout.dtype, self.arena.arrays[number], offset)
        try:
            chunk = chain.decode(data, target)
        except CodecError as error:
            raise self.errors.decoding(error, key, byte_range) from error
        if chunk is not target:
            target[...] = chunk
        self._set(row, number, offset, spec.nbytes, object_offset)

    # -- objects that are one chunk ---------------------------------------------------------------

    def objects(self, rows: range) -> None:
        """Task: objects, of which each is one row."""
        wave, limits = self.wave, self.limits
        for first in range(rows.start, rows.stop, limits.batch):
            some = range(first, min(first + limits.batch, rows.stop))
            fetched = None
            if (
                limits.batch > 1
                and self.layout.uniform
                and not self.part[some.start : some.stop].any()
            ):
                keys = wave.keys[some.start : some.stop]
                fetched = get_objects(self.store, keys, self.layout.levels.leaf)
            for i, row in enumerate(some):
                chain, key = _leaf(self.layout, wave, row), wave.keys[row]
                if fetched is not None:
                    self._object(row, fetched[i], chain, key)
                elif self.part[row] or (self.fetcher.reads_into and not wave.decode):
                    self._read_object(row, chain, key)
                else:
                    self._get_object(row, chain, key)

    def _get_object(self, row: int, chain: BoundChain, key: str) -> None:
        try:
            data = self.store.get(key, limit=chain.stored.limit)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error
        self._object(row, data, chain, key)

    def _object(self, row: int, data: Bytes | None, chain: BoundChain, key: str) -> None:
        if data is None:
            self._missing(key)
            return
        self._check_size(len(data), chain, key)
        self._put(row, data, chain, key)

    def _check_size(self, nbytes: int, chain: BoundChain, key: str) -> None:
        if not chain.stored.check(nbytes):
            raise self.errors.decoding(chain.impossible_size(nbytes), key)

    def _read_object(self, row: int, chain: BoundChain, key: str) -> None:
        """Read a row into a slab through an opened object."""
        try:
            reader = self.store.open_reader(key, limit=chain.stored.limit)
        except LimitError as error:
            raise self.errors.decoding(error, key) from error
        if reader is None:
            self._missing(key)
            return
        with reader:
            if reader.version is None and not self.part[row]:
                # Nothing ties what is read to the size that was asked for, or it is in memory.
                self.fetcher.reads_into = False
                self._get_object(row, chain, key)
                return
            self._check_size(reader.size, chain, key)
            start, n = 0, reader.size
            if self.wave.span is not None:
                start, n = int(self.wave.span[0][row]), int(self.wave.span[1][row])
            number, offset = self.arena.take(n)
            if n:
                reader.read_into(start, self.arena.view(number, offset, n))
        self._set(row, number, offset, n, start)

    # -- shards -----------------------------------------------------------------------------------

    def shard(self, task: tuple[int, range]) -> None:
        """Task: rows of one object."""
        number, rows = task
        wave = self.wave
        key = wave.keys[number]
        reader = self.store.open_reader(key)
        if reader is None:
            self._missing(key)
            return
        with reader:
            levels = self.layout.levels_at(wave.coords[number].tolist())
            slots = wave.slots[:, rows.start : rows.stop]
            try:
                offset, nbytes = inner_ranges(
                    levels.layouts, reader, slots, (self.store.identity, key)
                )
            except CodecError as error:
                raise self.errors.decoding(error, key) from error
            present = np.flatnonzero(offset >= 0)
            if len(present) < len(rows):
                self._missing(key)
            if len(present):
                at = present + rows.start
                self._inner(reader, at, offset[present], nbytes[present], levels.leaf, key)

    def _inner(
        self, reader: Reader, at: Int64, offset: Int64, nbytes: Int64, chain: BoundChain, key: str
    ) -> None:
        """Read inner chunks: rows ``at``, which lie at ``offset`` in the object."""
        if chain.raw is not None:
            check_inner_sizes(self.errors, chain, offset, nbytes, key)
        elif chain.stored.exact and not self.wave.decode and (nbytes != chain.stored.limit).any():
            i = int(np.flatnonzero(nbytes != chain.stored.limit)[0])
            error = chain.impossible_size(int(nbytes[i]))
            raise self.errors.decoding(error, key, (int(offset[i]), int(nbytes[i])))
        if self.wave.span is not None:
            offset, nbytes = offset + self.wave.span[0][at], self.wave.span[1][at]
        if self.store.local and not self.wave.decode:
            self._read_inner(reader, at, offset, nbytes)
            return
        rows = at.tolist()
        for i, data in read_ranges(reader, offset, nbytes, self.limits, one=self.store.local):
            self._put(rows[i], data, chain, key, (int(offset[i]), int(nbytes[i])))

    def _read_inner(self, reader: Reader, at: Int64, offset: Int64, nbytes: Int64) -> None:
        """Read ranges into slabs, close ones together with what lies between them."""
        start, length, group = coalesce(offset, nbytes, self.limits.max_gap, self.limits.max_bytes)
        places = np.empty((len(start), 2), np.int64)
        for i, (first, n) in enumerate(zip(start.tolist(), length.tolist(), strict=True)):
            number, place = self.arena.take(n)
            places[i] = number, place
            if n:
                reader.read_into(first, self.arena.view(number, place, n))
        slab, offsets, sizes, object_offsets = self.columns
        slab[at] = places[group, 0]
        offsets[at] = places[group, 1] + offset - start[group]
        sizes[at] = nbytes
        object_offsets[at] = offset


def _leaf(layout: ArrayLayout, wave: Wave, row: int) -> BoundChain:
    """Chain of an unsharded row."""
    return (layout.levels if layout.uniform else layout.levels_at(wave.coords[row].tolist())).leaf


def _parts(layout: ArrayLayout, wave: Wave) -> Bools:
    """Unsharded rows of which less than the whole object is wanted."""
    n = len(wave)
    if wave.span is None or layout.sharded:
        return np.zeros(n, np.bool_)
    rows = range(1 if layout.uniform else n)
    nbytes = np.array([_leaf(layout, wave, row).stored.limit for row in rows], np.int64)
    part: Bools = (wave.span[0] != 0) | (wave.span[1] != nbytes)
    return part
