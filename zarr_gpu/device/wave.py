"""One wave of device work: tables, scratch memory and launches, sent off together.

A wave is put together on the host first. Its tables, which the launches refer to by
:class:`Ref`, then travel in one copy, and everything is queued on one stream. Knows no codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zarr_gpu._types import Int64, NDArray, UInt64
from zarr_gpu.device import assemble, launches, lz
from zarr_gpu.device.assemble import Table
from zarr_gpu.device.memory import PinnedRing, Slab
from zarr_gpu.device.runtime import Buffer, Event, Runtime, Stream, Streams

THREADS = 256
MAX_BLOCKS = 1 << 16
"""Enough to fill any card; the kernels loop over the rest."""
NOTHING_FAILED = 2**64 - 1
_ALIGN = 16


@dataclass(frozen=True, slots=True)
class Ref:
    """Address inside the tables of a wave, known once they are there."""

    offset: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a wave reports: valid once ``event`` has been waited for.

    ``status`` has one entry per row: 0, or why the device could not decode it.
    """

    event: Event
    status: NDArray
    slab: Slab

    def failed(self) -> Int64:
        """Rows that were not decoded; waits for the device."""
        try:
            self.event.wait()
            return np.flatnonzero(self.status)
        finally:  # not released: the wait may be interrupted
            self.slab.retire(self.event)

    def abandon(self) -> None:
        """Nobody wants to know; the memory is used again when the device is done with it."""
        self.slab.retire(self.event)


@dataclass(frozen=True, slots=True)
class Download:
    """Copies of tables of a wave: valid once ``event`` has been waited for."""

    event: Event
    views: tuple[NDArray, ...]
    slab: Slab

    def wait(self) -> list[NDArray]:
        """The tables, zeros where there was none; waits for the device."""
        try:
            self.event.wait()
            return [view.copy() for view in self.views]
        finally:  # not released: the wait may be interrupted
            self.slab.retire(self.event)


class Wave:
    """Collects tables and launches for ``n`` rows, then submits them on ``stream``."""

    def __init__(self, runtime: Runtime, stream: Stream, tables: PinnedRing, n: int) -> None:
        self.runtime = runtime
        self.stream = stream
        self.n = n
        self._ring = tables
        self._parts: list[tuple[int, NDArray]] = []
        self._nbytes = 0
        # Given the wave and the address of its tables. Nothing in here refers to the wave, so that
        # its memory goes with the last reference to it and not when garbage is collected.
        self._work: list[Callable[[Wave, int], None]] = []
        self._late: list[Callable[[int], None]] = []
        self._buffers: list[Buffer] = []
        self._fails = False
        self._base = 0
        self._word = self.table(np.full(1, NOTHING_FAILED, np.uint64))
        self._status = self.table(np.zeros(n, np.int32))

    def scratch(self, nbytes: int) -> int:
        """Address of memory that lives until the wave is done."""
        buffer = self.runtime.alloc(max(1, nbytes), self.stream)
        self._buffers.append(buffer)
        return buffer.ptr

    def table(self, array: NDArray) -> Ref:
        """Where a copy of ``array`` will be."""
        offset = self._nbytes
        self._parts.append((offset, array))
        self._nbytes += -(-array.nbytes // _ALIGN) * _ALIGN
        return Ref(offset)

    def launch(self, kernel: str, blocks: int, threads: int, *args: Any) -> None:
        """Queue a kernel; arguments may be :class:`Ref`."""

        def work(wave: Wave, base: int) -> None:
            values = tuple(base + a.offset if isinstance(a, Ref) else a for a in args)
            wave.runtime.launch(kernel, blocks, threads, values, wave.stream)

        self._work.append(work)

    def each(self, kernel: str, n: int, *args: Any) -> None:
        """Queue a kernel with one thread for each of ``n`` things."""
        blocks = min(MAX_BLOCKS, -(-n // THREADS))
        self.launch(kernel, blocks, THREADS, *args)

    def streams(
        self, in_ptr: UInt64, in_nbytes: Int64, out_ptr: UInt64, out_nbytes: Int64
    ) -> StreamRefs:
        """A table for a batched decoder."""
        n = len(in_ptr)
        return StreamRefs(
            n=n,
            in_ptr=self.table(in_ptr),
            in_nbytes=self.table(in_nbytes.astype(np.uint64)),
            out_ptr=self.table(out_ptr),
            out_nbytes=self.table(out_nbytes.astype(np.uint64)),
            actual=self.table(np.zeros(n, np.uint64)),
            status=self.table(np.zeros(n, np.int32)),
            max_nbytes=int(out_nbytes.max(initial=0)),
            total_nbytes=int(out_nbytes.sum()),
        )

    def decompress(self, codec: str, streams: StreamRefs) -> None:
        """Queue a batched decoder of the runtime."""
        self._work.append(
            lambda wave, base: wave.runtime.decompress(codec, streams.at(base), wave.stream)
        )

    def compress(self, codec: str, streams: StreamRefs, level: int) -> None:
        """Queue a batched encoder of the runtime; ``max_nbytes`` and its like are of the input."""
        self._work.append(
            lambda wave, base: wave.runtime.compress(codec, streams.at(base), wave.stream, level)
        )

    def shuffle(
        self, kernel: str, source: UInt64, target: UInt64, nbytes: Int64, typesize: NDArray
    ) -> None:
        """Queue a kernel of ``shuffle.cu`` for blocks of bytes."""
        n = len(nbytes)
        blocks, threads, first_tile = launches.shuffle(nbytes)
        self.launch(
            kernel, blocks, threads, self.table(source), self.table(target),
            self.table(nbytes.astype(np.uint64)), self.table(typesize.astype(np.int32)),
            self.table(first_tile), n,
        )  # fmt: skip

    def copy(self, source: UInt64, target: UInt64, nbytes: Int64) -> None:
        """Queue copies of streams of bytes."""
        if not len(nbytes):
            return
        streams = self.streams(source, nbytes, target, nbytes)
        first = lz.pieces(nbytes)
        blocks, threads = lz.launch(lz.COPY, int(first[-1]))
        self.launch(
            lz.COPY, blocks, threads, streams.in_ptr, streams.in_nbytes, streams.out_ptr,
            streams.out_nbytes, streams.actual, streams.status, self.table(first),
            lz.PIECE_NBYTES, streams.n,
        )  # fmt: skip

    def fold(
        self,
        status: Ref,
        n: int,
        row: Ref | int = 0,
        actual: Ref | int = 0,
        expected: Ref | int = 0,
    ) -> None:
        """Let failures of ``n`` streams count as those of their rows (0: stream i is row i)."""
        self._fails = True
        self.each("fold_status", n, status, actual, expected, row, self._status, self._word, n)

    def guard(self, streams: StreamRefs, row: Ref, dummy: bytes) -> None:
        """Streams of rows that failed already decode ``dummy`` instead."""
        place = self.table(np.frombuffer(dummy, np.uint8))
        self.each(
            "guard_streams",
            streams.n,
            streams.in_ptr,
            streams.in_nbytes,
            row,
            self._status,
            place,
            len(dummy),
            streams.n,
        )

    def assemble(self, table: Table, planes: UInt64 | None = None) -> None:
        """Queue the copies of a table; ``planes`` are the splits of its Blosc rows."""
        first_tile = table.first_tile
        tiles = int(first_tile[-1])
        if not tiles:
            return
        filtered = bool(table.rows["mode"].any())
        args: list[Any] = [
            self.table(table.rows),
            self.table(first_tile),
            self.table(table.extent),
            self.table(table.src_stride),
            self.table(table.first),
            self.table(table.dst_stride),
            self._indexes(table.src_index),
            self._indexes(table.dst_index),
        ]
        if filtered:
            args.append(self.table(planes if planes is not None else np.empty(0, np.uint64)))
        self.launch(
            "assemble_blosc" if filtered else "assemble",
            min(tiles, MAX_BLOCKS),
            THREADS,
            *args,
            table.ndim,
            table.word,
            table.swap,
            len(table.rows),
        )

    def fill(self, table: Table, element: bytes) -> None:
        """Queue the same element for all places of a table."""
        pattern = self.table(np.frombuffer(element * (16 // len(element)), np.uint8))
        table = assemble.simplify(assemble.fill_table(table, 0))

        def point(base: int) -> None:
            table.rows["src"] = base + pattern.offset

        self._late.append(point)
        self.assemble(table)

    def _indexes(self, indexes: tuple[Int64 | None, ...]) -> Ref:
        """A table of addresses, 0 where there is no index: filled in when they are known."""
        places = [None if index is None else self.table(index) for index in indexes]
        addresses = np.zeros(len(indexes), np.uint64)
        ref = self.table(addresses)

        def fill(base: int) -> None:
            for i, place in enumerate(places):
                addresses[i] = 0 if place is None else base + place.offset

        self._late.append(fill)
        return ref

    def download(self, parts: Sequence[tuple[Ref | None, Any, int]]) -> Download:
        """Queue copies of what kernels wrote into tables: ``(table, type, count)``.

        After :meth:`submit`.
        """
        sizes = [np.dtype(kind).itemsize * count for _, kind, count in parts]
        starts = np.cumsum([0] + [-(-size // _ALIGN) * _ALIGN for size in sizes]).tolist()
        slab = self._ring.acquire(max(1, starts[-1]))
        views: list[NDArray] = []
        try:
            for (ref, kind, count), start, size in zip(parts, starts, sizes, strict=False):
                view = slab.array[start : start + size]
                if ref is None:
                    view[:] = 0
                else:
                    self.runtime.download(view, self._base + ref.offset, self.stream)
                views.append(view.view(kind)[:count])
        except BaseException:
            slab.retire(self.stream.record())
            raise
        return Download(self.stream.record(), tuple(views), slab)

    def submit(self) -> Outcome | None:
        """Send tables and work to the device. None when nothing in the wave can fail."""
        tables = self.runtime.alloc(max(1, self._nbytes), self.stream)
        self._buffers.append(tables)
        self._base = tables.ptr
        for fill in self._late:
            fill(tables.ptr)
        slab = self._ring.acquire(max(1, self._nbytes))
        try:
            for offset, array in self._parts:
                slab.array[offset : offset + array.nbytes] = (
                    np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                )
            self.runtime.upload(tables.ptr, slab.array[: self._nbytes], self.stream)
        finally:
            slab.retire(self.stream.record())
        for work in self._work:
            work(self, tables.ptr)
        if not self._fails:
            return None
        result = self._ring.acquire(4 * self.n)
        status = result.array[: 4 * self.n].view(np.int32)
        try:
            self.runtime.download(status, tables.ptr + self._status.offset, self.stream)
        except BaseException:
            result.retire(self.stream.record())
            raise
        return Outcome(self.stream.record(), status, result)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRefs:
    """:class:`~zarr_gpu.device.runtime.Streams` before its tables have an address."""

    n: int
    in_ptr: Ref
    in_nbytes: Ref
    out_ptr: Ref
    out_nbytes: Ref
    actual: Ref
    status: Ref
    max_nbytes: int
    total_nbytes: int

    def at(self, base: int) -> Streams:
        return Streams(
            n=self.n,
            in_ptr=base + self.in_ptr.offset,
            in_nbytes=base + self.in_nbytes.offset,
            out_ptr=base + self.out_ptr.offset,
            out_nbytes=base + self.out_nbytes.offset,
            actual=base + self.actual.offset,
            status=base + self.status.offset,
            max_nbytes=self.max_nbytes,
            total_nbytes=self.total_nbytes,
        )
