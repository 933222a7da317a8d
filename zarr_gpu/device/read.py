"""Reading on a device: waves of chunks are fetched, decoded and assembled.

While the device works on one wave the next is fetched by threads. Waves take turns on a few
streams, so that copies and kernels of neighbours overlap. Rows that the device cannot or may not
decode are decoded by host threads into page-locked memory and only assembled on the device; so are
rows that it failed on, which gives the right bytes or exactly the host's error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Int64, NDArray, UInt64
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.config import ArrayConfig
from zarr_gpu.device import assemble, direct, fetch, policy
from zarr_gpu.device.decode import Decoder, Sources
from zarr_gpu.device.engine import Engine
from zarr_gpu.device.memory import Slab
from zarr_gpu.device.program import Program, native_program, swap_unit
from zarr_gpu.device.runtime import DeviceMemoryError
from zarr_gpu.device.wave import Outcome, Wave
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Plan
from zarr_gpu.stores.base import Store

DIRECT_NBYTES = 64 << 10
"""Uncompressed rows of at least this size that are contiguous on both sides are copied straight
into the output, by one copy each."""

REPORTS = 8
"""Waves whose reports are not waited for; each holds page-locked memory."""


@dataclass(frozen=True, slots=True)
class Target:
    """The work view of the output on the device."""

    address: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows fetched together, as positions in the placement, and how they are decoded."""

    at: Int64
    chain: BoundChain
    program: Program
    on_host: bool


class DeviceRead:
    """One read."""

    def __init__(
        self,
        engine: Engine,
        layout: ArrayLayout,
        plan: Plan,
        store: Store,
        target: Target,
        settings: ArrayConfig,
    ) -> None:
        self.engine = engine
        self.layout = layout
        self.plan = plan
        self.store = store
        self.trusted = policy.trusted(store)
        self.target = target
        self.segment = plan.segment
        self.placement = layout.place(plan, self.segment)
        errors = ChunkErrors(layout)
        self.fetcher = fetch.Fetcher(layout, store, settings, engine.slabs, errors)
        self.outcomes: deque[tuple[Outcome, Int64]] = deque()
        self.failures = 0
        self.left: list[Int64] = []
        self.again: list[Int64] = []

    def run(self) -> None:
        """Queue everything; on return the output is ordered on the caller's current stream.

        Waits for the device only to learn whether decoding worked. Raises what the host would.
        """
        runtime = self.engine.runtime
        with self.engine.lock:
            caller = runtime.current_stream()
            self.begin = caller.record()
            for stream in self.engine.streams:
                stream.wait(self.begin)
        try:
            self._run_batches(self._batches(np.arange(len(self.placement.rows)), on_host=False))
            self._settle()
        finally:
            with self.engine.lock:
                for outcome, _ in self.outcomes:
                    outcome.abandon()
                for stream in self.engine.streams:
                    caller.wait(stream.record())

    def _settle(self) -> None:
        """Wait for what the waves report, and do again what did not work."""
        while self.outcomes or self.left or self.again:
            self._collect(0)
            again, self.again = _sorted(self.again), []
            left, self.left = _sorted(self.left), []
            self._run_batches(self._batches(again, on_host=False))
            self._run_batches(self._batches(left, on_host=True))
        if self.failures:
            policy.notice_failure(self.layout, self.failures)

    def _collect(self, keep: int) -> None:
        """Wait for what all but the last ``keep`` waves report."""
        while len(self.outcomes) > keep:
            outcome, at = self.outcomes.popleft()
            failed = outcome.failed()
            if len(failed):
                self.failures += len(failed)
                self.left.append(at[failed])

    # -- batches ----------------------------------------------------------------------------------

    def _batches(self, at: Int64, *, on_host: bool) -> Iterator[Batch]:
        """Rows of one chain and of bounded size."""
        for chain, some in self._chains(at):
            program = (
                None
                if on_host
                else policy.choose(self.engine.runtime, chain, self.store, len(some))
            )
            nbytes = max(1, chain.spec.nbytes)
            step = max(1, self.engine.wave_nbytes(policy.scratch(program)) // nbytes)
            for first in range(0, len(some), step):
                rows = some[first : first + step]
                if program is None:
                    yield Batch(rows, chain, native_program(chain.spec), on_host=True)
                else:
                    yield Batch(rows, chain, program, on_host=False)

    def _chains(self, at: Int64) -> Iterator[tuple[BoundChain, Int64]]:
        layout, placement = self.layout, self.placement
        if not len(at):
            return
        if layout.uniform or layout.sharded:  # shards differ in how many inner chunks they have
            yield layout.levels.leaf, at
            return
        numbers = np.searchsorted(placement.first, at, side="right") - 1
        shapes = [layout.object_shape(c) for c in placement.objects[numbers].tolist()]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, shape in enumerate(shapes):
            groups.setdefault(shape, []).append(i)
        for shape, members in groups.items():
            yield layout.levels_for(shape).leaf, at[members]

    def _run_batches(self, batches: Iterator[Batch]) -> None:
        """Fetch one batch while the one before is sent to the device."""
        batch = next(batches, None)
        ahead = None if batch is None else workers.submit(self._fetch, batch)
        while batch is not None and ahead is not None:
            try:
                fetched = ahead.result()
                following = next(batches, None)
                ahead = None if following is None else workers.submit(self._fetch, following)
                if isinstance(fetched, fetch.Fetched):
                    self._send(batch, fetched)
                else:
                    self._send_landed(batch, fetched)
            except BaseException:
                if ahead is not None:
                    _abandon(ahead)
                raise
            batch = following

    def _fetch(self, batch: Batch) -> fetch.Fetched | direct.Landed:
        wave = self._wanted(batch)
        landed = None if batch.on_host else self._fetch_direct(batch, wave)
        return self.fetcher.fetch(wave) if landed is None else landed

    def _wanted(self, batch: Batch) -> fetch.Wave:
        placement, at = self.placement, batch.at
        owner = np.searchsorted(placement.first, at, side="right") - 1
        numbers, first = np.unique(owner, return_index=True)
        coords = placement.objects[numbers]
        span = None
        if not batch.on_host and batch.chain.raw is not None:
            span = assemble.span(self._table(batch, at))
        return fetch.Wave(
            keys=self.layout.keys(coords),
            first=np.append(first, len(at)).astype(np.int64),
            coords=coords,
            slots=placement.slots[:, placement.rows[at]],
            span=span,
            decode=batch.on_host,
            bias=policy.bias(batch.program),
        )

    def _fetch_direct(self, batch: Batch, wanted: fetch.Wave) -> direct.Landed | None:
        """Rows straight from files, None when they have to come by way of the host.

        KvikIO works on no stream: what it writes to must not be in use by anything queued before,
        so that is waited for.
        """
        nbytes = direct.row_nbytes(wanted, batch.chain)
        kvikio = policy.direct(batch.program, self.store, wanted.keys, int(nbytes.sum()))
        if kvikio is None:
            return None
        files = direct.Fetch(kvikio, self.fetcher, wanted, batch.chain)
        place = self._places(batch)
        if place is not None and files.aligned(place):
            self.begin.wait()  # the caller may have worked with the output, or with what was there
            offset = files.into_place(place)
            return direct.Landed(wave=None, address=0, offset=offset, nbytes=nbytes)
        with self.engine.lock:
            wave = self._new_wave(len(wanted))
            try:
                address = wave.scratch(files.room)
            except DeviceMemoryError:
                return None  # waves by way of the host need less
            ready = wave.stream.record()  # memory goes round in the order of the stream
        ready.wait()
        offset = files.into_scratch(address)
        return direct.Landed(wave=wave, address=address, offset=offset, nbytes=nbytes)

    def _places(self, batch: Batch) -> UInt64 | None:
        """Where rows go that are their stored bytes, without gaps; None for all others."""
        if not batch.program.verbatim or batch.chain.raw is None:
            return None
        copies = _copies(self._source_table(batch, batch.at))
        return None if copies is None else copies[0]

    def _source_table(self, batch: Batch, at: Int64) -> assemble.Table:
        """Where the elements of rows go, from what is fetched of them."""
        table = self._table(batch, at)
        if not batch.on_host and batch.chain.raw is not None:
            table.rows["offset"] -= assemble.span(table)[0]  # only these bytes are fetched
        return table

    def _table(self, batch: Batch, at: Int64) -> assemble.Table:
        """Where the elements of rows go; their sources are still to be filled in."""
        program, fields = batch.program, self.plan.fields
        dtype = program.dtype if fields is None else program.dtype[fields]
        table = assemble.plan_table(
            self.plan,
            self.segment[self.placement.rows[at]],
            chunk_strides=program.strides,
            out_address=self.target.address,
            out_strides=self.target.strides,
            itemsize=dtype.itemsize,
            swap=swap_unit(dtype),
        )
        if fields is not None:
            table.rows["offset"] += program.dtype.fields[fields][1]  # type: ignore[index]
        return table

    # -- waves ------------------------------------------------------------------------------------

    def _send(self, batch: Batch, fetched: fetch.Fetched) -> None:
        """One wave for each slab, and one for the chunks that are not stored."""
        todo = list(fetched.slabs)
        try:
            missing = np.flatnonzero(fetched.slab < 0)
            if len(missing):
                self._guarded(batch, missing, partial(self._fill, batch, missing))
            for number, slab in enumerate(fetched.slabs):
                rows = np.flatnonzero(fetched.slab == number)
                todo.pop(0)
                self._guarded(batch, rows, partial(self._wave, batch, fetched, rows, slab))
        finally:
            _release(todo)

    def _send_landed(self, batch: Batch, landed: direct.Landed) -> None:
        """The same for a batch that has landed on the device, which is one wave."""
        missing = np.flatnonzero(landed.offset < 0)
        if len(missing):
            self._guarded(batch, missing, partial(self._fill, batch, missing))
        rows = np.flatnonzero(landed.offset >= 0)
        if landed.wave is not None and len(rows):
            work = partial(self._landed, batch, landed, landed.wave, rows)
            self._guarded(batch, rows, work)

    def _guarded(self, batch: Batch, rows: Int64, work: Callable[[], None]) -> None:
        """Do it, or if the device has no room, do it again later in smaller waves."""
        try:
            with self.engine.lock:
                work()
        except DeviceMemoryError as error:
            if not self.engine.make_room(len(rows)):
                raise MemoryError(
                    f"array {self.layout.path or '/'!r}: the device has no room for one wave of "
                    f"{len(rows)} chunks of {batch.chain.spec.nbytes} bytes: {error}"
                ) from error
            self.again.append(batch.at[rows])
        self._collect(REPORTS)

    def _new_wave(self, n: int) -> Wave:
        engine = self.engine
        return Wave(engine.runtime, engine.next_stream(), engine.tables, n)

    def _fill(self, batch: Batch, rows: Int64) -> None:
        fill = self.layout.fill_array
        if self.plan.fields is not None:
            fill = fill[self.plan.fields]
        wave = self._new_wave(len(rows))
        table = self._table(batch, batch.at[rows])
        wave.fill(table, fill.astype(fill.dtype.newbyteorder("=")).tobytes())
        wave.submit()

    def _wave(self, batch: Batch, fetched: fetch.Fetched, rows: Int64, slab: Slab) -> None:
        """Queue the decoding and assembling of ``rows``, whose bytes are in ``slab``."""
        at = batch.at[rows]
        offset, nbytes = fetched.offset[rows], fetched.nbytes[rows]
        wave = self._new_wave(len(rows))
        try:
            table = self._source_table(batch, at)
            if batch.program.verbatim:
                copies = _copies(assemble.replace_sources(table, offset))
                if copies is not None:  # without a kernel
                    for dst, first, n in zip(*(column.tolist() for column in copies), strict=True):
                        wave.runtime.upload(dst, slab.array[first : first + n], wave.stream)
                    return
            used = int((offset + nbytes).max())
            address = wave.scratch(used)
            wave.runtime.upload(address, slab.array[:used], wave.stream)
            decoder = self._decoder(wave, batch, slab.array, address, len(rows))
            self._assemble(wave, at, table, decoder.decode(offset, nbytes))
        finally:
            slab.retire(wave.stream.record())

    def _landed(self, batch: Batch, landed: direct.Landed, wave: Wave, rows: Int64) -> None:
        """The same for ``rows`` whose bytes have landed on the device, unseen by the host."""
        at = batch.at[rows]
        decoder = self._decoder(wave, batch, np.empty(0, np.uint8), landed.address, len(rows))
        sources = decoder.decode(landed.offset[rows], landed.nbytes[rows])
        self._assemble(wave, at, self._source_table(batch, at), sources)

    def _decoder(self, wave: Wave, batch: Batch, data: NDArray, address: int, n: int) -> Decoder:
        return Decoder(wave, batch.program, data, address, np.arange(n), trusted=self.trusted)

    def _assemble(self, wave: Wave, at: Int64, table: assemble.Table, sources: Sources) -> None:
        """Queue the copies into the output, and all that the wave has collected."""
        for name in ("src", "planes", "nbytes", "blocksize", "typesize", "splits", "mode"):
            table.rows[name] = sources.rows[name]
        table = assemble.select(table, ~sources.bad)
        wave.assemble(assemble.simplify(table), sources.planes)
        outcome = wave.submit()
        if outcome is not None:
            self.outcomes.append((outcome, at))
        if sources.bad.any():
            self.left.append(at[sources.bad])


def _copies(table: assemble.Table) -> tuple[UInt64, Int64, Int64] | None:
    """Target, source and size of rows that are contiguous on both sides; None when they are not."""
    simple = assemble.simplify(table)
    if table.swap != 1 or not assemble.contiguous(simple):
        return None
    nbytes = simple.extent.prod(axis=1) * simple.word
    if nbytes.min() < DIRECT_NBYTES:
        return None
    start = (simple.rows["src"] + simple.rows["offset"].astype(np.uint64)).astype(np.int64)
    return simple.rows["dst"], start, nbytes


def _sorted(parts: list[Int64]) -> Int64:
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def _abandon(ahead: Future[fetch.Fetched | direct.Landed]) -> None:
    """Wait for a fetch that nobody wants: it writes to memory that others get next."""
    while not ahead.done():
        with suppress(BaseException):  # one more interrupt
            wait([ahead])
    if ahead.exception() is None:
        fetched = ahead.result()
        if isinstance(fetched, fetch.Fetched):
            _release(fetched.slabs)


def _release(slabs: Any) -> None:
    for slab in slabs:
        slab.release()
