"""Inner chunks of an opened shard: which of them are read together. Knows no codec."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zarr_gpu._types import Int64
from zarr_gpu.fetching import ReadLimits, read_ranges
from zarr_gpu.scratch import Scratch
from zarr_gpu.stores.base import Reader
from zarr_gpu.stores.ranges import coalesce

WINDOW_NBYTES = 256 << 10
"""Bytes of inner chunks that are read together from a local file."""


class Parts:
    """Inner chunks of an opened shard, by number; those that lie close together are read at once.

    They are asked for in the order of their numbers.
    """

    def __init__(
        self, reader: Reader, offset: Int64, nbytes: Int64, scratch: Scratch, limits: ReadLimits
    ) -> None:
        self._reader = reader
        self._columns = offset, nbytes
        self._offset: list[int] = offset.tolist()
        self._nbytes: list[int] = nbytes.tolist()
        self._scratch = scratch
        self._limits = limits
        self._start = self._stop = 0
        self._window = memoryview(b"")

    def span(self, i: int) -> tuple[int, int]:
        return self._offset[i], self._nbytes[i]

    def get(self, i: int) -> memoryview | None:
        """The bytes of number ``i``, valid until the next one is asked for; None: missing."""
        start, nbytes = self._offset[i], self._nbytes[i]
        if start < 0:
            return None
        if start < self._start or start + nbytes > self._stop:
            self._move(i)
        return self._window[start - self._start : start - self._start + nbytes]

    def _move(self, i: int) -> None:
        """Read number ``i`` and what follows it closely."""
        start = self._offset[i]
        stop = start + self._nbytes[i]
        gap, most = self._limits.max_gap, min(WINDOW_NBYTES, self._limits.max_bytes)
        for j in range(i + 1, len(self._offset)):
            at = self._offset[j]
            if at < 0:
                continue
            end = at + self._nbytes[j]
            if at < stop or at - stop > gap or end - start > most:
                break
            stop = end
        self._window = self._scratch.get("encoded", stop - start)
        self._start = self._stop = 0  # nothing, should the read fail
        self._reader.read_into(start, self._window)
        self._start, self._stop = start, stop

    def together(self, first: int, stop: int) -> tuple[memoryview, Int64, Int64] | None:
        """The bytes of several numbers by few reads, and where each is in them.

        None when one is missing, or when that would be much more than their bytes.
        """
        offset, nbytes = (column[first:stop] for column in self._columns)
        most = min(2 * int(nbytes.sum()), self._limits.max_bytes)
        start = int(offset.min())
        if start < 0:
            return None
        span = int((offset + nbytes).max()) - start
        if span <= most:
            data = self._scratch.get("together", span)
            self._reader.read_into(start, data)
            return data, offset - start, nbytes
        starts, lengths, group = coalesce(
            offset, nbytes, self._limits.max_gap, self._limits.max_bytes
        )
        total = int(lengths.sum())
        if total > most:
            return None
        data = self._scratch.get("together", total)
        base = np.cumsum(lengths) - lengths
        for at, start, n in zip(base.tolist(), starts.tolist(), lengths.tolist(), strict=True):
            self._reader.read_into(start, data[at : at + n])
        return data, offset + (base - starts)[group], nbytes

    def read(self, i: int, into: memoryview) -> bool:
        """Fill ``into`` with an uncompressed inner chunk; False: missing."""
        if self._offset[i] < 0:
            return False
        self._reader.read_into(self._offset[i], into)
        return True

    def read_neighbours(self, first: int, stop: int, into: memoryview) -> bool:
        """Fill ``into`` with uncompressed inner chunks that are neighbours in the shard, too.

        False when they are not.
        """
        n = self._nbytes[first]
        start = self._offset[first]
        if (stop - first) * n > self._limits.max_bytes:
            return False
        if start < 0 or self._offset[first:stop] != list(
            range(start, start + (stop - first) * n, n)
        ):
            return False
        self._reader.read_into(start, into)
        return True

    def fetch(self, first: int, stop: int, *, one: bool) -> Iterator[tuple[int, memoryview]]:
        """``(number, bytes)`` of those that are there, by few requests."""
        offset, nbytes = (column[first:stop] for column in self._columns)
        there = np.flatnonzero(offset >= 0)
        numbers = (there + first).tolist()
        for i, data in read_ranges(
            self._reader, offset[there], nbytes[there], self._limits, one=one
        ):
            yield numbers[i], data
