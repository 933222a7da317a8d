"""Slabs are never used twice at a time, and waves fit the budget."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

from zarr_gpu import workers
from zarr_gpu.device.memory import (
    FORGET_AFTER,
    MAX_BUDGET,
    MIN_WAVE,
    ZSTD_SCRATCH,
    Budget,
    PinnedRing,
    budget_nbytes,
    wave_nbytes,
)

MIB = 1 << 20
GIB = 1 << 30


class Event:
    """Done when it is told so; waiting counts, and finishes it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.finished = False
        self.waits = 0
        self.error = error

    def done(self) -> bool:
        return self.finished

    def wait(self) -> None:
        self.waits += 1
        if self.error is not None:
            raise self.error
        self.finished = True


class Runtime:
    def __init__(self, most: int = 1 << 40) -> None:
        self.allocated: list[int] = []
        self.most = most

    def pinned(self, nbytes: int) -> np.ndarray:
        if nbytes > self.most:
            raise RuntimeError("cudaErrorMemoryAllocation: out of memory")
        self.allocated.append(nbytes)
        return np.full(nbytes, 0xA5, np.uint8)


def ring(keep: int = 2, max_nbytes: int | None = None, most: int = 1 << 40) -> PinnedRing:
    return PinnedRing(Runtime(most), 1000, keep, max_nbytes)


def allocated(some: PinnedRing) -> list[int]:
    return some._runtime.allocated


def test_a_released_slab_is_used_again() -> None:
    some = ring()
    first = some.acquire(10)
    array = first.array
    assert array.dtype == np.uint8 and len(array) == 1000
    first.release()
    assert some.acquire(1000).array is array
    assert allocated(some) == [1000]
    assert some.nbytes == 1000


def test_a_retired_slab_is_used_again_only_after_its_event() -> None:
    some = ring(keep=3)
    event = Event()
    slab = some.acquire(1)
    array = slab.array
    slab.retire(event)
    other = some.acquire(1)
    assert other.array is not array
    event.finished = True
    assert some.acquire(1).array is array
    assert event.waits == 0
    assert allocated(some) == [1000, 1000]


def test_events_may_be_done_in_any_order() -> None:
    some = ring(keep=3)
    slabs = [some.acquire(1) for _ in range(3)]
    arrays = [slab.array for slab in slabs]
    events = [Event() for _ in slabs]
    for slab, event in zip(slabs, events, strict=True):
        slab.retire(event)
    events[1].finished = True
    assert some.acquire(1).array is arrays[1]
    events[2].finished = True
    assert some.acquire(1).array is arrays[2]
    assert some.acquire(1).array is arrays[0]  # waited for
    assert [event.waits for event in events] == [1, 0, 0]


def test_a_slab_given_back_is_out_of_reach_and_cannot_be_given_back_again() -> None:
    some = ring(keep=3)
    event = Event()
    slab = some.acquire(1)
    array = slab.array
    slab.retire(event)
    slab.release()  # too late: the device reads it
    slab.retire(Event())
    assert some.acquire(1).array is not array
    with pytest.raises(RuntimeError, match="given back"):
        _ = slab.array
    event.finished = True
    again = some.acquire(1)
    assert again.array is array
    slab.release()  # of somebody else's by now
    assert some.acquire(1).array is not array


def test_large_slabs_are_not_kept() -> None:
    some = ring(max_nbytes=10**6)
    large = some.acquire(5000)
    assert len(large.array) == 5000
    large.release()
    assert some.nbytes == 0
    event = Event()
    large = some.acquire(5000)
    large.retire(event)
    assert some.acquire(5000)
    assert some.nbytes == 10000  # the device still reads the other
    event.finished = True
    some.acquire(10)
    assert some.nbytes == 6000
    assert allocated(some) == [5000, 5000, 5000, 1000]


def test_only_so_many_slabs_are_kept() -> None:
    some = ring(keep=2, max_nbytes=10**6)
    slabs = [some.acquire(1) for _ in range(5)]
    assert some.nbytes == 5000
    for slab in slabs:
        slab.release()
    assert some.nbytes == 2000
    some.trim()
    assert some.nbytes == 0


def test_at_the_maximum_the_oldest_in_flight_is_waited_for() -> None:
    some = ring(keep=2)
    events = [Event(), Event()]
    slabs = [some.acquire(1), some.acquire(1)]
    arrays = [slab.array for slab in slabs]
    for slab, event in zip(slabs, events, strict=True):
        slab.retire(event)
    assert some.acquire(1).array is arrays[0]
    assert [event.waits for event in events] == [1, 0]
    assert allocated(some) == [1000, 1000]


def test_a_large_request_makes_room_before_it_waits() -> None:
    some = ring(keep=2)
    slabs = [some.acquire(1), some.acquire(1)]
    event = Event()
    slabs[0].release()
    slabs[1].retire(event)
    some.acquire(1000 + 1)  # 2001 with the one in flight, so that has to go as well
    assert event.waits == 1
    assert some.nbytes == 1001


def test_with_nothing_in_flight_the_maximum_gives_way() -> None:
    some = ring(keep=1, max_nbytes=1500)
    held = [some.acquire(1) for _ in range(4)]
    assert some.nbytes == 4000
    assert len({id(slab.array) for slab in held}) == 4
    large = some.acquire(9000)
    assert len(large.array) == 9000


def test_a_failed_allocation_is_a_memory_error_that_says_how_much() -> None:
    some = ring(most=2000)
    some.acquire(1)
    with pytest.raises(MemoryError, match=r"page-lock 3000 more .* 1000 are in use: cudaError"):
        some.acquire(3000)
    assert some.nbytes == 1000


def test_what_is_idle_or_in_flight_makes_room_when_allocation_fails() -> None:
    class Full(Runtime):
        def pinned(self, nbytes: int) -> np.ndarray:
            if self.owner.nbytes + nbytes > 2500:
                raise MemoryError("full")
            return super().pinned(nbytes)

    runtime = Full()
    some = PinnedRing(runtime, 1000, 2, 10**6)
    runtime.owner = some
    event = Event()
    slabs = [some.acquire(1), some.acquire(1)]
    slabs[0].release()
    slabs[1].retire(event)
    assert len(some.acquire(2400).array) == 2400
    assert event.waits == 1
    assert some.nbytes == 2400


def test_what_the_device_reports_is_raised_and_the_slab_stays_out() -> None:
    some = ring(keep=1)
    event = Event(RuntimeError("cudaErrorIllegalAddress"))
    slab = some.acquire(1)
    slab.retire(event)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="IllegalAddress"):
            some.acquire(1)
    assert some.nbytes == 1000
    assert allocated(some) == [1000]


def test_a_forgotten_slab_is_not_used_again() -> None:
    some = ring()
    slab = some.acquire(1)
    array = slab.array
    slab.forget()
    slab.release()
    assert some.nbytes == 0
    assert some.acquire(1).array is not array


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_never_share_a_slab(threads: int) -> None:
    some = ring(keep=3, max_nbytes=4000)
    guard = threading.Lock()
    owned: set[int] = set()

    class Copy(Event):
        """Somebody reads the slab until this is done."""

        def __init__(self, array: np.ndarray, value: int) -> None:
            super().__init__()
            self.array, self.value = array, value

        def finish(self) -> None:
            with guard:
                if not self.finished:
                    assert (self.array == self.value).all()
                    owned.discard(self.array.ctypes.data)
                    self.finished = True

        def done(self) -> bool:
            if self.value % 3 == 0:
                self.finish()
            return self.finished

        def wait(self) -> None:
            self.finish()

    def work(number: int) -> None:
        size = random.Random(number).choice([10, 1000, 1000, 1700])
        slab = some.acquire(size)
        array = slab.array
        with guard:
            assert array.ctypes.data not in owned
            owned.add(array.ctypes.data)
        array[:] = number % 251
        if number % 4:
            slab.retire(Copy(array, number % 251))
        else:
            assert (array == number % 251).all()
            with guard:
                owned.discard(array.ctypes.data)
            slab.release()

    workers.run(work, range(600), threads)
    assert some.nbytes <= 4000 + threads * 1700


# -- budget ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "budget"),
    [
        (0, 0),
        (100 * MIB, 100 * MIB),
        (256 * MIB, 256 * MIB),
        (600 * MIB, 256 * MIB),
        (2 * GIB, 512 * MIB),
        (8 * GIB, 2 * GIB),
        (16 * GIB, 4 * GIB),
        (140 * GIB, MAX_BUDGET),
    ],
)
def test_the_budget_is_a_quarter_within_bounds(free: int, budget: int) -> None:
    assert budget_nbytes(free) == budget


def test_a_limit_is_kept_as_far_as_there_is_memory() -> None:
    assert budget_nbytes(16 * GIB, 100 * MIB) == 100 * MIB
    assert budget_nbytes(16 * GIB, 10 * GIB) == 10 * GIB
    assert budget_nbytes(50 * MIB, 100 * MIB) == 50 * MIB


def test_what_a_wave_takes_fits_into_its_share() -> None:
    nbytes = wave_nbytes(4 * GIB, scratch=ZSTD_SCRATCH)
    assert nbytes == pytest.approx(405 * MIB, rel=0.01)
    assert 2 * nbytes * (1 + 1 + ZSTD_SCRATCH) <= 4 * GIB
    assert wave_nbytes(4 * GIB, decoded=0) == 2 * GIB
    assert wave_nbytes(4 * GIB, in_flight=4) == GIB // 2
    assert wave_nbytes(4 * GIB, stored=0, decoded=0) > 0


def test_halving_ends_at_a_minimum() -> None:
    budget = Budget()
    first = budget.wave_nbytes(GIB)
    assert first == 64 * MIB
    halved = []
    while budget.halve():
        halved.append(budget.wave_nbytes(GIB))
    assert halved == [32 * MIB, 16 * MIB, 8 * MIB, 4 * MIB, 2 * MIB, MIN_WAVE]
    assert not budget.halve()
    assert budget.wave_nbytes(GIB) == MIN_WAVE


def test_halving_twice_in_a_row_counts_twice() -> None:
    budget = Budget()
    budget.wave_nbytes(GIB)
    assert budget.halve() and budget.halve()
    assert budget.wave_nbytes(GIB) == 16 * MIB


def test_a_wave_is_never_smaller_than_the_minimum() -> None:
    assert Budget().wave_nbytes(0) == MIN_WAVE
    assert Budget(1000).wave_nbytes(GIB) == MIN_WAVE


def test_halvings_are_forgotten_one_after_the_other() -> None:
    budget = Budget()
    budget.wave_nbytes(GIB)
    budget.halve()
    budget.halve()
    sizes = [budget.wave_nbytes(GIB) for _ in range(2 * FORGET_AFTER + 2)]
    assert sizes[:FORGET_AFTER] == [16 * MIB] * FORGET_AFTER
    assert sizes[FORGET_AFTER] == 32 * MIB
    assert sizes[-1] == 64 * MIB
