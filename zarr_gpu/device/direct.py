"""From files straight into device memory: the stored bytes of a wave of chunks, past the host.

The other way of fetching beside :mod:`zarr_gpu.device.fetch`, for chunks whose stored bytes the
host does not have to see. Everything is checked as there and said in the same words: the host opens
every file, compares its size and reads the indexes of shards; KvikIO is given ranges of files that
have passed. Knows no codec. **No card has confirmed this module**: it is tested with a stand-in for
KvikIO on the emulated device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Int64, UInt64
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.device import fetch
from zarr_gpu.device.kvikio import THREADS, DeviceFile, DeviceReader
from zarr_gpu.device.wave import Wave
from zarr_gpu.errors import CodecError, LimitError
from zarr_gpu.fetching import check_inner_sizes, inner_ranges
from zarr_gpu.stores.base import Reader
from zarr_gpu.stores.ranges import coalesce

PAGE = 4096
"""What GPUDirect Storage moves in whole; the rest of a range goes by way of a buffer (KvikIO's
documentation)."""
MAX_GAP = 2 * PAGE
"""Ranges of a shard with more than this between them are read apart: there is no room for it."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Landed:
    """Where the rows of a wave are on the device: at ``address + offset``, -1 where not stored.

    ``wave`` keeps the memory and goes on with the work; None when rows are in the output already.
    """

    wave: Wave | None
    address: int
    offset: Int64
    nbytes: Int64


class Fetch:
    """One wave on its way. ``chain`` is that of its rows, whose size must be exact."""

    def __init__(
        self, kvikio: Any, fetcher: fetch.Fetcher, wave: fetch.Wave, chain: BoundChain
    ) -> None:
        self._files = DeviceReader(kvikio, fetcher.store)
        self._fetcher = fetcher
        self._wave = wave
        self._chain = chain
        self._offset = np.full(len(wave), -1, np.int64)
        self.nbytes = row_nbytes(wave, chain)
        self._start = np.zeros(len(wave) + 1, np.int64)
        # k rows read together have at most k - 1 gaps between them, and two pages around them.
        np.cumsum(_round_up(self.nbytes) + MAX_GAP, out=self._start[1:])

    @property
    def room(self) -> int:
        """Bytes that :meth:`into_scratch` needs."""
        return int(self._start[-1]) + PAGE

    def into_scratch(self, address: int) -> Int64:
        """Read all rows into memory that nobody uses; returns their offsets there, -1: not stored.

        Whole pages are read, to whole pages, and close inner chunks of a shard together. Blocks,
        and nothing writes to the memory after the return. Raises what a read on the host does.
        """
        base = -(-address // PAGE) * PAGE
        self._run(lambda number: self._object(number, np.uint64(base), None))
        self._offset[self._offset >= 0] += base - address
        return self._offset

    def into_place(self, address: UInt64) -> Int64:
        """Read each row to its own address; returns 0 for each, -1: not stored.

        Otherwise like :meth:`into_scratch`.
        """
        self._run(lambda number: self._object(number, np.uint64(0), address))
        return self._offset

    def aligned(self, address: UInt64) -> bool:
        """True when rows can be read to these addresses without cutting pages."""
        span = self._wave.span
        return (
            not self._fetcher.layout.sharded  # whose inner chunks lie anywhere
            and (span is None or not (span[0] % PAGE).any())
            and not (address % np.uint64(PAGE)).any()
        )

    def _run(self, task: Any) -> None:
        n = len(self._wave.keys)
        workers.run(task, range(n), min(n, THREADS))

    def _object(self, number: int, base: np.uint64, address: UInt64 | None) -> None:
        """Task: the rows of one object."""
        wave, fetcher = self._wave, self._fetcher
        first, stop = wave.first[number : number + 2].tolist()
        key, rows = wave.keys[number], slice(first, stop)
        seen: list[Int64] = []

        def look(reader: Reader) -> None:
            seen[:] = [self._places(reader, number, rows, key)]

        limit = None if fetcher.layout.sharded else self._chain.stored.limit
        try:
            file = self._files.open(key, limit=limit, look=look)
        except LimitError as error:
            raise fetcher.errors.decoding(error, key) from error
        if file is None:
            self._missing(key)
            return
        with file:
            offset = seen[0]
            at = np.flatnonzero(offset >= 0)
            if len(at) < len(offset):
                self._missing(key)
            offset, at = offset[at], at + first
            if address is None:
                self._read_pages(file, offset, at, int(self._start[first]), base)
            else:
                file.read(offset, self.nbytes[at], address[at])
                self._offset[at] = 0

    def _read_pages(
        self, file: DeviceFile, offset: Int64, at: Int64, place: int, base: np.uint64
    ) -> None:
        """Read rows ``at``, which lie at ``offset`` in the file, to ``base + place`` and behind."""
        limits = self._fetcher.limits
        start, length, group = coalesce(
            offset, self.nbytes[at], min(limits.max_gap, MAX_GAP), limits.max_bytes
        )
        low = start // PAGE * PAGE
        high = np.minimum(_round_up(start + length), file.size)
        places = np.zeros(len(low), np.int64)
        np.cumsum(_round_up(high - low)[:-1], out=places[1:])
        places += place
        file.read(low, high - low, base + places.astype(np.uint64))
        self._offset[at] = places[group] + offset - low[group]

    def _places(self, reader: Reader, number: int, rows: slice, key: str) -> Int64:
        """Where rows begin in an object, -1: not stored, once their sizes are right."""
        layout, wave, errors = self._fetcher.layout, self._wave, self._fetcher.errors
        chain = self._chain
        if not layout.sharded:
            if not chain.stored.check(reader.size):
                raise errors.decoding(chain.impossible_size(reader.size), key)
            offset = np.zeros(1, np.int64)
        else:
            levels = layout.levels_at(wave.coords[number].tolist())
            cache_key = self._fetcher.store.identity, key
            try:
                offset, nbytes = inner_ranges(
                    levels.layouts, reader, wave.slots[:, rows], cache_key
                )
            except CodecError as error:
                raise errors.decoding(error, key) from error
            present = np.flatnonzero(offset >= 0)
            self._check_inner(offset[present], nbytes[present], key)
        if wave.span is not None:
            offset = np.where(offset >= 0, offset + wave.span[0][rows], -1)
        return offset

    def _check_inner(self, offset: Int64, nbytes: Int64, key: str) -> None:
        chain, errors = self._chain, self._fetcher.errors
        if chain.raw is not None:
            check_inner_sizes(errors, chain, offset, nbytes, key)
            return
        bad = np.flatnonzero(nbytes != chain.stored.limit)
        if len(bad):
            start, n = int(offset[bad[0]]), int(nbytes[bad[0]])
            raise errors.decoding(chain.impossible_size(n), key, (start, n))

    def _missing(self, key: str) -> None:
        if not self._fetcher.settings.read_missing_chunks:
            raise self._fetcher.errors.missing(key)


def row_nbytes(wave: fetch.Wave, chain: BoundChain) -> Int64:
    """Bytes wanted of each row."""
    if wave.span is not None:
        return wave.span[1]
    return np.full(len(wave), chain.stored.limit, np.int64)


def _round_up(nbytes: Int64) -> Int64:
    return (nbytes + PAGE - 1) // PAGE * PAGE
