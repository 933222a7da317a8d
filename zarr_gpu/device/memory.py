"""Memory of the device backend: page-locked slabs that are used again, and how large a wave may be.

Page-locking is slow (about as slow as writing the memory), so slabs go round in a ring: filled by
reads, copied to the device, and free again when the event behind the copy is done. Knows neither
chunks nor stores; a :class:`~zarr_gpu.device.runtime.Runtime` allocates.

>>> budget_nbytes(free_nbytes=8 << 30) >> 20
2048
"""

from __future__ import annotations

import threading
from collections import deque

from zarr_gpu._types import NDArray
from zarr_gpu.device.runtime import Event, Runtime

MAX_BUDGET = 4 << 30
"""Device memory that waves take unasked: more makes no launch faster."""
MIN_BUDGET = 256 << 20
"""Below this, launches of one wave no longer fill a card."""
MIN_WAVE = 1 << 20
"""Smallest wave that is tried before running out of device memory is an error."""
IN_FLIGHT = 2
"""Waves whose memory is taken at the same time: one computed, one copied."""
ZSTD_SCRATCH = 3.05
"""Scratch of nvCOMP's zstd decoder per decoded byte: 3, and 6936 bytes for every 128 KiB."""
FORGET_AFTER = 64
"""Waves after which a halving is taken back: what took the memory may be gone."""


class PinnedRing:
    """Page-locked slabs of ``slab_nbytes``, of which ``keep`` are kept for the next read.

    ``max_nbytes`` (by default, the slabs that are kept) is how much may be page-locked before
    :meth:`acquire` waits for the device to be done with a slab. When there is nothing to wait for,
    because all slabs are with callers, the ring grows instead.
    """

    def __init__(
        self, runtime: Runtime, slab_nbytes: int, keep: int, max_nbytes: int | None = None
    ) -> None:
        self.slab_nbytes = slab_nbytes
        self.keep = keep
        self.max_nbytes = keep * slab_nbytes if max_nbytes is None else max_nbytes
        self._runtime = runtime
        self._turn = threading.Lock()  # of acquire, held while it waits; the only one to take slabs
        self._lock = threading.Lock()  # of the three below, never held while waiting
        self._free: list[NDArray] = []
        self._busy: deque[tuple[NDArray, Event]] = deque()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Page-locked bytes, slabs with callers included."""
        return self._nbytes

    def acquire(self, nbytes: int) -> Slab:
        """A slab of at least ``nbytes`` that nobody uses; one that is larger than others is not
        kept. Give it back by :meth:`Slab.retire` or :meth:`Slab.release`.

        May be called by any thread. Raises MemoryError when no more memory can be page-locked, and
        what the device reports.
        """
        size = max(nbytes, self.slab_nbytes)
        with self._turn:
            while True:
                with self._lock:
                    self._collect()
                    if size == self.slab_nbytes and self._free:
                        return Slab(self, self._free.pop())
                    full = self._nbytes + size > self.max_nbytes
                if full and self._reclaim():
                    continue
                try:
                    memory = self._runtime.pinned(size)
                except (MemoryError, RuntimeError) as error:
                    if self._reclaim():
                        continue
                    raise MemoryError(
                        f"cannot page-lock {size} more bytes of host memory, {self._nbytes} are in "
                        f"use: {error}"
                    ) from error
                with self._lock:
                    self._nbytes += size
                return Slab(self, memory)

    def trim(self) -> None:
        """Let go of all memory that nobody uses."""
        with self._turn, self._lock:
            self._collect()
            self._nbytes -= sum(map(len, self._free))
            self._free.clear()

    def _collect(self) -> None:
        """Take back what the device is done with."""
        for _ in range(len(self._busy)):
            memory, event = self._busy[0]
            done = event.done()  # may raise: nothing is lost, the slab stays busy
            self._busy.popleft()
            if done:
                self._put(memory)
            else:
                self._busy.append((memory, event))

    def _reclaim(self) -> bool:
        """Drop a free slab, or wait for the one longest in flight; False when there is neither."""
        with self._lock:
            if self._free:
                self._nbytes -= len(self._free.pop())
                return True
            if not self._busy:
                return False
            memory, event = self._busy[0]
        event.wait()
        with self._lock:
            self._busy.popleft()  # others only append
            self._put(memory)
        return True

    def _put(self, memory: NDArray) -> None:
        if len(memory) == self.slab_nbytes and len(self._free) < self.keep:
            self._free.append(memory)
        else:
            self._nbytes -= len(memory)

    def _give_back(self, memory: NDArray, event: Event | None) -> None:
        with self._lock:
            if event is None:
                self._put(memory)
            else:
                self._busy.append((memory, event))

    def _forget(self, memory: NDArray) -> None:
        with self._lock:
            self._nbytes -= len(memory)


class Slab:
    """Page-locked memory of a ring, the caller's alone until it is given back.

    Giving it back a second time does nothing.
    """

    __slots__ = ("_memory", "_ring")

    def __init__(self, ring: PinnedRing, memory: NDArray) -> None:
        self._ring = ring
        self._memory: NDArray | None = memory

    @property
    def array(self) -> NDArray:
        """The memory as bytes; its length may be more than was asked for."""
        if self._memory is None:
            raise RuntimeError("the slab was given back")
        return self._memory

    def retire(self, event: Event) -> None:
        """Give the slab back once ``event``, recorded after all device work on it, is done."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._ring._give_back(memory, event)  # noqa: SLF001 - the two are one thing

    def release(self) -> None:
        """Give the slab back at once: no device work and no thread uses it."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._ring._give_back(memory, None)  # noqa: SLF001

    def forget(self) -> None:
        """Never use the slab again, because a thread may still write to it."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._ring._forget(memory)  # noqa: SLF001


def budget_nbytes(free_nbytes: int, limit_nbytes: int | None = None) -> int:
    """Device memory for all waves: a quarter of what is free, within bounds, or the limit given."""
    if limit_nbytes is not None:
        return min(limit_nbytes, free_nbytes)
    return max(min(free_nbytes // 4, MAX_BUDGET), min(MIN_BUDGET, free_nbytes))


def wave_nbytes(
    budget: int,
    *,
    stored: float = 1.0,
    decoded: float = 1.0,
    scratch: float = 0.0,
    in_flight: int = IN_FLIGHT,
) -> int:
    """Output bytes of one of ``in_flight`` waves that share ``budget``.

    The other numbers are device bytes per byte of output: for what is ``stored`` (1 where nothing
    is known), for what is ``decoded`` before it is assembled (0 when that happens in place), and
    for the ``scratch`` memory of decoders.
    """
    return int(budget / in_flight / max(stored + decoded + scratch, 0.01))


class Budget:
    """How large waves are on one device; remembers when that was too much."""

    def __init__(self, limit_nbytes: int | None = None) -> None:
        self.limit_nbytes = limit_nbytes
        self._halvings = 0
        self._given = MAX_BUDGET
        self._waves = 0  # since the last halving

    def wave_nbytes(
        self,
        free_nbytes: int,
        *,
        stored: float = 1.0,
        decoded: float = 1.0,
        scratch: float = 0.0,
        in_flight: int = IN_FLIGHT,
    ) -> int:
        """Output bytes of the next wave; see :func:`wave_nbytes`. At least :data:`MIN_WAVE`."""
        self._waves += 1
        if self._waves > FORGET_AFTER and self._halvings:
            self._halvings -= 1
            self._waves = 1
        nbytes = wave_nbytes(
            budget_nbytes(free_nbytes, self.limit_nbytes),
            stored=stored,
            decoded=decoded,
            scratch=scratch,
            in_flight=in_flight,
        )
        self._given = max(MIN_WAVE, nbytes >> self._halvings)
        return self._given

    def halve(self) -> bool:
        """The last wave did not fit: the next are half as large. False when it was the smallest."""
        if self._given <= MIN_WAVE:
            return False
        self._halvings += 1
        self._given = max(MIN_WAVE, self._given // 2)
        self._waves = 0
        return True
