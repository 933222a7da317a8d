"""Reading on the host, row by row, where objects are chunks: those that are used in part.

Chunks are decoded one after the other (small ones many at a time) into memory that stays in the
cache, and what is selected is moved to the output from there. What a row costs beside reading and
decoding is a few calls: rows, keys and indices are made for a whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bytes, Int64, NDArray
from zarr_gpu.codecs.chain import BoundChain, RawLayout
from zarr_gpu.config import config
from zarr_gpu.errors import ChunkDecodeError, CodecError, LimitError
from zarr_gpu.fetching import get_objects
from zarr_gpu.host_read import ReadJob
from zarr_gpu.layout import leaf_nbytes

BLOCK_NBYTES = 2 << 20
"""Decoded bytes of chunks that go together: what that costs is spread over many chunks, and they
are still in a cache.
"""
FILL_NBYTES = 64 << 20
"""Objects that may be longer are read into memory of their own size, not into a buffer."""
MOST_ROWS = 1024
"""Chunks that go together: their encoded bytes have to have room, too."""
SMALL_NBYTES = 16 << 10
"""Chunks up to this size are decoded many at a time, where the codec can do that."""


class RowJob(ReadJob):
    """A read from objects that are chunks."""

    together = False
    """Chunks were decoded many at a time, by calls that do not hold the interpreter lock."""

    @cached_property
    def most(self) -> int:
        """Chunks that go together."""
        nbytes = leaf_nbytes(self.layout)
        if self.store.local:
            threads = workers.thread_count()
            for_all = -(-len(self.plan) // (2 * threads if threads > 1 else 1))
            return max(1, min(MOST_ROWS, BLOCK_NBYTES // nbytes, for_all))
        room = config.current.memory_window_bytes // (config.current.io_threads * nbytes)
        return max(1, min(64, room))

    @cached_property
    def small(self) -> bool:
        """True when many chunks may be decoded by one call, and that pays."""
        return leaf_nbytes(self.layout) <= SMALL_NBYTES and self.layout.levels.leaf.decodes_many

    # -- rows -------------------------------------------------------------------------------------

    def read_run(self, rows: range) -> None:
        """Rows given by their numbers."""
        self.read_rows(self.plan.segments_of(np.arange(rows.start, rows.stop, dtype=np.int64)))

    def read_rows(self, segment: Int64) -> None:
        """Rows given by their segment numbers, shape (rows, axes)."""
        chunks = self.plan.chunks_of(segment)
        keys = self.layout.keys(chunks)
        if not self.layout.uniform:
            for key, row, where in zip(keys, segment.tolist(), chunks.tolist(), strict=True):
                self._read_row(key, row, self.layout.levels_at(where).leaf)
            return
        chain = self.layout.levels.leaf
        memory = chain.memory
        # Parts of an uncompressed chunk are read through an opened object. With latency that costs
        # a request for its size, so there whole chunks are fetched like compressed ones.
        if chain.raw is not None and (self.store.local or not self.plan.complete(segment).all()):
            for key, row in zip(keys, segment.tolist(), strict=True):
                self._read_row(key, row, chain)
        elif memory is None or not memory.nbytes:
            for key, row, data in zip(
                keys, segment.tolist(), self._objects(keys, chain), strict=True
            ):
                self._decode_row(data, row, chain, key)
        else:
            self._read_chunks(segment, keys, chain, memory)

    def _read_row(self, key: str, row: Sequence[int], chain: BoundChain) -> None:
        box = self.assembler.box(row)
        if chain.raw is None or box is None:
            self._decode_row(self._get(key, chain), row, chain, key)
        else:
            self._read_raw_object(key, self._place(row), box, chain)

    def _read_chunks(
        self, segment: Int64, keys: list[str], chain: BoundChain, memory: RawLayout
    ) -> None:
        """Rows of chunks that are decoded to ``memory``."""
        if chain.decodes_parts and self.assembler.simple:
            itemsize = memory.dtype.itemsize
            parts = 2 * self.assembler.nbytes(segment, memory.strides, itemsize) <= memory.nbytes
            if parts.any():
                self._read_parts(segment[parts], _some(keys, parts), chain)
                segment, keys = segment[~parts], _some(keys, ~parts)
        if self.assembler.flat:
            self._move_points(segment, keys, chain, memory)
            return
        strides = memory.strides
        shape = chain.spec.shape
        moves = self.assembler.moves(segment)
        rows: list[list[int]] = [] if moves else segment.tolist()
        plain = self.plan.fields is None
        for i, data in enumerate(self._decoded(keys, chain, memory)):
            if data is None:
                self._decode_row(None, segment[i].tolist(), chain, keys[i])
                continue
            chunk: NDArray = np.ndarray(shape, memory.dtype, data, 0, strides)
            if moves is not None:
                into, out_of = moves[i]
                part = chunk[out_of]
                self.out[into] = part if plain else self._pick(part)
            else:
                taken = self.assembler.take(self._pick(chunk), rows[i])
                self.out[self.assembler.out_index(rows[i])] = taken

    def _move_points(
        self, segment: Int64, keys: list[str], chain: BoundChain, memory: RawLayout
    ) -> None:
        """Rows of single elements: collected in the order of the chunks, then moved at once."""
        (axis,) = self.plan.axes
        if not len(segment):
            return
        numbers = segment[:, 0]
        first, stop = axis.out_start[numbers], (axis.out_start + axis.extent)[numbers]
        span = slice(int(first[0]), int(stop[-1]))  # rows of a run follow each other
        strides = [stride // memory.dtype.itemsize for stride in memory.strides]
        inside = self.assembler.linear(span, strides)
        values = np.empty(len(inside), memory.dtype)
        bounds = zip((first - span.start).tolist(), (stop - span.start).tolist(), strict=True)
        found = self._decoded(keys, chain, memory)
        for key, data, (a, b) in zip(keys, found, bounds, strict=True):
            if data is not None:
                np.frombuffer(data, memory.dtype).take(inside[a:b], out=values[a:b], mode="clip")
            elif self.settings.read_missing_chunks:
                values[a:b] = self.layout.fill_array
            else:
                raise self.errors.missing(key)
        self.out[span if axis.order is None else axis.order[span]] = self._pick(values)

    def _read_parts(self, segment: Int64, keys: list[str], chain: BoundChain) -> None:
        """Rows that need so little of their chunk that not all of it is decoded."""
        rows = segment.tolist()
        for i, data in enumerate(self._encoded(keys, chain)):
            try:
                self._decode_row(data, rows[i], chain, keys[i])
            except ChunkDecodeError:  # once more, and carefully
                self._decode_row(self._get(keys[i], chain), rows[i], chain, keys[i])

    # -- whole chunks -----------------------------------------------------------------------------

    def _decoded(
        self, keys: list[str], chain: BoundChain, memory: RawLayout
    ) -> Iterator[Bytes | None]:
        """The decoded bytes of each object, valid until the next one is asked for; None: missing.

        Raises ChunkError.
        """
        if not self.small or not self._fills(chain):
            yield from self._decoded_singly(keys, chain, memory)
            return
        for first in range(0, len(keys), self.most):
            some = keys[first : first + self.most]
            found = self._fill_small(some, chain) if len(some) > 1 else None
            if found is None:
                yield from self._decoded_singly(some, chain, memory)
            else:
                yield from found

    def _decoded_singly(
        self, keys: list[str], chain: BoundChain, memory: RawLayout
    ) -> Iterator[Bytes | None]:
        decoded = self.scratch.get("chunk", memory.nbytes)
        if self._fills(chain):
            yield from self._decoded_files(keys, chain, decoded)
            return
        for key, data in zip(keys, self._objects(keys, chain), strict=True):
            if data is None:
                yield None
                continue
            try:
                chain.decode_into(data, decoded)
            except CodecError as error:
                raise self.errors.decoding(error, key) from error
            yield decoded

    def _decoded_files(
        self, keys: list[str], chain: BoundChain, decoded: memoryview
    ) -> Iterator[Bytes | None]:
        encoded = self.scratch.get("encoded", chain.stored.limit)
        decode = chain.decoder(encoded, decoded)
        i = 0
        try:
            for n in self.store.fill(keys, repeat(encoded)):
                there = n >= 0
                if there and (decode is None or not decode(n, 0)):
                    there = self._decode_filled(encoded[:n], decoded, chain, keys[i])
                yield decoded if there else None
                i += 1
        except LimitError as error:
            raise self.errors.decoding(error, keys[i]) from error

    def _decode_filled(
        self, encoded: memoryview, decoded: memoryview, chain: BoundChain, key: str
    ) -> bool:
        try:
            chain.decode_into(encoded, decoded)
        except CodecError:
            return self._decode_again(key, decoded, chain)
        return True

    def _decode_again(self, key: str, decoded: memoryview, chain: BoundChain) -> bool:
        """Once more, and carefully: the file may have been replaced while it was read.

        False when it is gone.
        """
        data = self._get(key, chain)
        if data is not None:
            try:
                chain.decode_into(data, decoded)
            except CodecError as error:
                raise self.errors.decoding(error, key) from error
        return data is not None

    def _fill_small(self, keys: list[str], chain: BoundChain) -> Sequence[Bytes] | None:
        """Read all chunks, then decode them together; None when that fails."""
        limit = chain.stored.limit
        encoded = self.scratch.get("encoded", limit * len(keys))
        nbytes = np.zeros(len(keys), np.int64)
        stop = 0

        def room() -> Iterator[memoryview]:
            while True:
                yield encoded[stop : stop + limit]

        try:
            with self.reading:  # system calls of several threads would wait for each other
                for i, n in enumerate(self.store.fill(keys, room())):
                    nbytes[i] = n
                    stop += max(0, n)
        except LimitError:
            return None
        if nbytes.min() <= 0:
            return None
        decoded = chain.decode_many(encoded[:stop], np.cumsum(nbytes) - nbytes, nbytes)
        if decoded is not None:
            self.together = True
        return decoded

    # -- encoded objects --------------------------------------------------------------------------

    def _encoded(self, keys: Sequence[str], chain: BoundChain) -> Iterator[Bytes | None]:
        """Whole objects, each valid until the next one is asked for; None: missing."""
        if not self._fills(chain):
            yield from self._objects(keys, chain)
            return
        encoded = self.scratch.get("encoded", chain.stored.limit)
        done = 0
        try:
            for n in self.store.fill(keys, repeat(encoded)):
                yield encoded[:n] if n >= 0 else None
                done += 1
        except LimitError as error:
            raise self.errors.decoding(error, keys[done]) from error

    def _objects(self, keys: Sequence[str], chain: BoundChain) -> Iterator[Bytes | None]:
        """The same from any store, in batches where each request takes its time."""
        batch = self.limits.batch
        for first in range(0, len(keys), batch):
            some = keys[first : first + batch]
            found = get_objects(self.store, some, chain) if batch > 1 else None
            if found is None:
                for key in some:
                    yield self._get(key, chain)
            else:
                yield from found

    def _fills(self, chain: BoundChain) -> bool:
        """True when objects are best read into a buffer that is used again and again.

        Not where a file cut short while it is read could decode to something.
        """
        return self.store.fills and chain.memory is not None and chain.stored.limit <= FILL_NBYTES


def _some(keys: list[str], wanted: NDArray) -> list[str]:
    return [keys[i] for i in np.flatnonzero(wanted).tolist()]
