"""Writing from a device: chunks are gathered, shuffled and compressed there, packed on the host.

Only objects that are written completely, by encoders the device has, are done here; the rest goes
to the host, which reads what is stored, merges and encodes. For each batch the device is waited for
twice: for the sizes of what it compressed, and for the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bools, Bytes, Int64, NDArray, UInt64
from zarr_gpu.codecs.checksums import crc32c_function
from zarr_gpu.config import config
from zarr_gpu.device import assemble
from zarr_gpu.device.encode import Encoder, Packing, pack
from zarr_gpu.device.engine import Engine
from zarr_gpu.device.memory import Slab
from zarr_gpu.device.program import swap_unit
from zarr_gpu.device.runtime import DeviceMemoryError
from zarr_gpu.device.wave import MAX_BLOCKS, Ref, Wave
from zarr_gpu.host_write import WriteJob

_ADLER = 2  # kind of checksum_make


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compressed:
    """What the device made of ``n`` chunks, still there: addresses, and sizes on the host.

    ``chunks`` are the chunks before Blosc's shuffle, ``shuffled`` the same after it, ``slots`` the
    compressed streams, shape (n, streams); ``empty`` chunks hold nothing but fill values.
    """

    wave: Wave
    chunks: UInt64
    shuffled: UInt64
    slots: UInt64
    sizes: Int64
    adler: NDArray
    empty: Bools
    failed: bool


class DeviceWrite:
    """Writes whole objects of one request; ``job`` is the host's part of it."""

    def __init__(
        self,
        engine: Engine,
        job: WriteJob,
        encoder: Encoder,
        address: int,
        strides: Sequence[int],
        fill: bytes,
        *,
        skip_empty: bool,
    ) -> None:
        self.engine = engine
        self.job = job
        self.encoder = encoder
        self.address = address
        self.strides = tuple(strides)
        self.fill = fill
        self.skip_empty = skip_empty

    def run(self, numbers: Int64) -> Int64:
        """Encode and store objects of the job's placement; returns those that were not done."""
        with self.engine.lock:
            caller = self.engine.runtime.current_stream()
            begin = caller.record()
            for stream in self.engine.streams:
                stream.wait(begin)
        try:
            return self._run(numbers)
        except BaseException:  # without waiting, so that work under way still reads the values
            with self.engine.lock:
                for stream in self.engine.streams:
                    caller.wait(stream.record())
            raise

    def _run(self, numbers: Int64) -> Int64:
        left: list[Int64] = []
        first = self.job.placement.first
        while len(numbers):
            some = self._batch(numbers)
            rows = np.concatenate([self.job.placement.rows[first[i] : first[i + 1]] for i in some])
            try:
                blobs = self._encode(rows)
            except DeviceMemoryError:
                if self.engine.make_room(len(some)):
                    continue
                blobs = None
            if blobs is None:
                left.append(some)
            else:
                self._store(some, np.diff(first)[some], rows, blobs)
            numbers = numbers[len(some) :]
        return np.concatenate(left) if left else numbers

    def _batch(self, numbers: Int64) -> Int64:
        """The first objects whose chunks fit the device's memory together, at least one."""
        room = self.engine.wave_nbytes() // max(1, self.encoder.nbytes)
        counts = np.diff(self.job.placement.first)[numbers]
        fitting = int(np.searchsorted(np.cumsum(counts), room, side="right"))
        return numbers[: max(1, fitting)]

    # -- on the device ----------------------------------------------------------------------------

    def _encode(self, rows: Int64) -> list[Bytes | None] | None:
        """Encodings of rows of the plan, None where nothing needs to be stored.

        None for all when the device could not do it.
        """
        with self.engine.lock:  # for queueing, not for waiting
            finish = self._compress(rows)
        made = finish()
        if made.failed:
            return None
        packing = pack(self.encoder, made.sizes, made.adler)
        slab, starts = self._fetch(made, packing)
        buffer = slab.array
        try:
            for part in packing.parts:
                part.write(buffer, starts, ~made.empty)  # empty ones have no place of their own
            return self._blobs(buffer, starts, packing.total, made.empty)
        finally:
            slab.release()

    def _blobs(
        self, buffer: NDArray, starts: Int64, total: Int64, empty: Bools
    ) -> list[Bytes | None]:
        crc32c = crc32c_function()
        blobs: list[Bytes | None] = []
        for start, n, nothing in zip(starts.tolist(), total.tolist(), empty.tolist(), strict=True):
            if nothing:
                blobs.append(None)
                continue
            blob = buffer[start : start + n].tobytes()
            if self.encoder.checksum:
                blob += crc32c(blob).to_bytes(4, "little")
            blobs.append(blob)
        return blobs

    def _compress(self, rows: Int64) -> Callable[[], Compressed]:
        """Queue everything; the function that is returned waits for it."""
        encoder, engine, n = self.encoder, self.engine, len(rows)
        wave = Wave(engine.runtime, engine.next_stream(), engine.tables, n)
        chunks = self._gather(wave, rows)
        flags = self._find_empty(wave, chunks)
        chunks = self._filter(wave, chunks)
        adler = self._adler(wave, chunks)
        shuffled = self._shuffle(wave, chunks)
        count = len(encoder.start)
        inputs = shuffled[:, None] + encoder.start.astype(np.uint64)
        sizes = np.broadcast_to(encoder.stream_nbytes, (n, count))
        slots, refs = inputs, None
        if encoder.form is not None:
            bound = [
                engine.runtime.compress_bound(encoder.form, m)
                for m in encoder.stream_nbytes.tolist()
            ]
            slots, rooms = self._slots(wave, n, np.array(bound, np.int64))
            refs = replace(
                wave.streams(
                    inputs.reshape(-1), sizes.reshape(-1), slots.reshape(-1), rooms.reshape(-1)
                ),
                max_nbytes=int(sizes.max()),
                total_nbytes=int(sizes.sum()),
            )
            wave.compress(encoder.form, refs, encoder.level)
        wave.submit()
        parts: list[tuple[Ref | None, Any, int]] = [
            (flags, np.int32, n),
            (adler, np.uint32, n),
            (refs.actual if refs else None, np.uint64, n * count),
            (refs.status if refs else None, np.int32, n * count),
        ]
        reports = wave.download(parts)

        def finish() -> Compressed:
            empty, sums, actual, status = reports.wait()
            made = sizes if refs is None else actual.astype(np.int64).reshape(n, count)
            return Compressed(
                wave=wave, chunks=chunks, shuffled=shuffled, slots=slots, sizes=made, adler=sums,
                empty=empty != 0, failed=bool(status.any()),
            )  # fmt: skip

        return finish

    def _room(self, wave: Wave, n: int) -> UInt64:
        step = -(-self.encoder.nbytes // 16) * 16
        return np.uint64(wave.scratch(n * step)) + np.arange(n, dtype=np.uint64) * np.uint64(step)

    def _slots(self, wave: Wave, n: int, bound: Int64) -> tuple[UInt64, Int64]:
        """Addresses and sizes of memory for compressed streams, shape (n, streams)."""
        step = (bound + 15) // 16 * 16
        begin = np.cumsum(step) - step
        base = wave.scratch(n * int(step.sum())) + np.arange(n)[:, None] * int(step.sum())
        return (base + begin).astype(np.uint64), np.broadcast_to(bound, (n, len(bound)))

    def _gather(self, wave: Wave, rows: Int64) -> UInt64:
        """Whole chunks, with the fill value where they hang over the array."""
        job, encoder = self.job, self.encoder
        chunks = self._room(wave, len(rows))
        table = assemble.plan_table(
            job.plan,
            job.segment[rows],
            chunk_strides=encoder.strides,
            out_address=self.address,
            out_strides=self.strides,
            itemsize=encoder.dtype.itemsize,
            swap=swap_unit(encoder.dtype),
        )
        partial = table.extent.prod(axis=1) * encoder.dtype.itemsize != encoder.nbytes
        if partial.any():
            nbytes = np.full(int(partial.sum()), encoder.nbytes, np.int64)
            flat = assemble.flat_table(chunks[partial], chunks[partial], nbytes, word=table.word)
            wave.fill(flat, self.fill)
        wave.assemble(assemble.simplify(assemble.reverse(table, chunks)))
        return chunks

    def _find_empty(self, wave: Wave, chunks: UInt64) -> Ref | None:
        if not self.skip_empty:
            return None
        n = len(chunks)
        flags = wave.table(np.zeros(n, np.int32))
        wave.launch(
            "all_equal", min(n, MAX_BLOCKS), 256, wave.table(chunks),
            wave.table(np.full(n, self.encoder.nbytes, np.int64)),
            wave.table(np.frombuffer(self.fill, np.uint8)), len(self.fill), flags, n,
        )  # fmt: skip
        return flags

    def _adler(self, wave: Wave, data: UInt64) -> Ref | None:
        """Adler-32 of what is compressed, which zlib wants at the end."""
        if self.encoder.codec is None or self.encoder.codec.name != "numcodecs.zlib":
            return None
        n = len(data)
        sums = wave.table(np.zeros(n, np.uint32))
        wave.launch(
            "checksum_make", min(n, MAX_BLOCKS), 256, wave.table(data),
            wave.table(np.full(n, self.encoder.nbytes, np.uint64)), _ADLER, sums, n,
        )  # fmt: skip
        return sums

    def _filter(self, wave: Wave, chunks: UInt64) -> UInt64:
        """The filter ``shuffle``, over whole chunks."""
        if self.encoder.elementsize == 1:
            return chunks
        nbytes = np.full(len(chunks), self.encoder.nbytes, np.int64)
        target = self._room(wave, len(chunks))
        typesize = np.full(len(chunks), self.encoder.elementsize)
        wave.shuffle("byte_shuffle", chunks, target, nbytes, typesize)
        return target

    def _shuffle(self, wave: Wave, chunks: UInt64) -> UInt64:
        """Blosc's shuffle, block by block."""
        layout, total = self.encoder.blosc, self.encoder.nbytes
        if layout is None or not layout.shuffle or (layout.shuffle == 1 and layout.typesize == 1):
            return chunks
        start = np.arange(layout.blocks, dtype=np.int64) * layout.blocksize
        nbytes = np.minimum(layout.blocksize, total - start)
        target = self._room(wave, len(chunks))
        wave.shuffle(
            "byte_shuffle" if layout.shuffle == 1 else "bit_shuffle",
            (chunks[:, None] + start.astype(np.uint64)).reshape(-1),
            (target[:, None] + start.astype(np.uint64)).reshape(-1),
            np.tile(nbytes, len(chunks)),
            np.full(len(chunks) * layout.blocks, layout.typesize),
        )
        return target

    def _fetch(self, made: Compressed, packing: Packing) -> tuple[Slab, Int64]:
        """Encodings brought together and copied down: a slab, and where each begins in it."""
        engine, encoder = self.engine, self.encoder
        total = np.where(made.empty, 0, packing.total)
        starts = np.cumsum((total + 15) // 16 * 16)
        nbytes = int(starts[-1])
        starts = np.append(0, starts[:-1])
        keep = ~made.empty[packing.chunk]
        chunk, stream, raw = packing.chunk[keep], packing.stream[keep], packing.raw[keep]
        part = np.maximum(stream, 0)
        source = np.where(
            raw, made.shuffled[chunk] + encoder.start[part].astype(np.uint64),
            made.slots[chunk, part],
        )  # fmt: skip
        source = np.where(stream < 0, made.chunks[chunk], source)
        with engine.lock:
            wave = Wave(engine.runtime, made.wave.stream, engine.tables, 0)
            address = wave.scratch(nbytes)
            target = np.uint64(address) + (starts[chunk] + packing.offset[keep]).astype(np.uint64)
            wave.copy(source, target, packing.nbytes[keep])
            wave.submit()
            slab = engine.slabs.acquire(max(1, nbytes))
            try:
                engine.runtime.download(slab.array[:nbytes], address, wave.stream)
            except BaseException:
                slab.retire(wave.stream.record())
                raise
            event = wave.stream.record()
        try:
            event.wait()
        except BaseException:
            slab.retire(event)
            raise
        return slab, starts

    # -- into the store ---------------------------------------------------------------------------

    def _store(self, numbers: Int64, counts: Int64, rows: Int64, blobs: list[Bytes | None]) -> None:
        """Make objects of the encodings of their chunks, and store them."""
        job = self.job
        coords = job.placement.objects[numbers]
        keys = job.layout.keys(coords)
        where = coords.tolist()
        members = np.split(np.arange(len(rows)), np.cumsum(counts)[:-1])
        slots = job.placement.slots[0] if job.layout.sharded else rows

        def finish(i: int) -> None:
            data: Bytes | None
            if job.layout.sharded:
                layout = job.layout.levels_at(where[i]).layouts[0]
                parts: list[Bytes | None] = [None] * layout.count
                for m in members[i].tolist():
                    parts[int(slots[rows[m]])] = blobs[m]
                order = job.settings.subchunk_write_order
                data = None if all(p is None for p in parts) else layout.pack(parts, order)
            else:
                data = blobs[int(members[i][0])]
            done: list[tuple[str, Bytes]] = []
            job.finish(keys[i], where[i], data, done)
            if done:
                job.store.set_many(done)

        threads = workers.thread_count() if job.store.local else config.current.io_threads
        workers.run(finish, range(len(keys)), min(threads, len(keys)))
