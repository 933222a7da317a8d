"""Memory that threads use again and again, so that it stays in their caches."""

from __future__ import annotations

import threading

import numpy as np

from zarr_gpu._types import NDArray, Shape
from zarr_gpu.codecs.chain import RawLayout

ALIGNMENT = 64
"""Large blocks from malloc begin 16 bytes behind the start of a page. To such places, Zen 3 and
Zen 4 copy from the page cache an eighth as fast as to others: their "rep movsb" is slow where the
destination is a little ahead of the source, modulo 4096.
"""


def aligned(nbytes: int) -> NDArray:
    """Uninitialised bytes that begin at a multiple of :data:`ALIGNMENT`."""
    memory: NDArray = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + nbytes]


class Scratch(threading.local):
    """Buffers of one job that every thread has for itself, so that their memory stays in cache."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray] = {}
        self._chunk: tuple[RawLayout, memoryview, NDArray] | None = None

    def get(self, name: str, nbytes: int) -> memoryview:
        """``nbytes`` bytes with anything in them."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < nbytes:
            self._buffers[name] = buffer = aligned(nbytes)
        return buffer.data[:nbytes]

    def chunk(self, memory: RawLayout, shape: Shape) -> tuple[memoryview, NDArray]:
        """Memory for a decoded chunk, as bytes and as an array."""
        known = self._chunk
        if known is None or known[0] is not memory:
            data = self.get("chunk", memory.nbytes)
            array = memory.view(data, [(0, n, 1) for n in shape])
            self._chunk = known = memory, data, array
        return known[1], known[2]


class Arena(threading.local):
    """Memory that each thread has for itself, given out piece by piece until it is cleared.

    Until then every piece stays as it is, unlike a buffer of :class:`Scratch`, which is given out
    again at the next request: chunks wait in it to be stored.
    """

    def __init__(self) -> None:
        self._memory = memoryview(b"")
        self._used = 0

    def clear(self) -> None:
        self._used = 0

    def take(self, nbytes: int) -> memoryview:
        """``nbytes`` bytes with anything in them."""
        start = self._used
        if start + nbytes > len(self._memory):
            # What was given out before lives on in what points to it.
            self._memory = np.empty(max(nbytes, 2 * len(self._memory)), np.uint8).data
            start = 0
        self._used = start + nbytes
        return self._memory[start : start + nbytes]
