"""The order in which samples are visited: pure functions of sizes, a seed and an epoch.

Samples are numbered; blocks are runs of them that are stored together (chunks). In an epoch, blocks
come in a random order, or as they are; what they hold, one after the other, is *the sequence*.
Ranks share the sequence out, then the workers of each rank share its part out, by whole batches.
Each takes its part in groups of so many blocks, which are in memory together, and mixes the samples
of a group.

So every sample comes once, nobody needs to talk to anybody, a chunk is decoded once (by two, where
the sequence was cut), and any position of any epoch can be found again without having been there
before. Orders are made by hashing, not by a generator: they are the same on all machines and with
all versions of NumPy.

>>> plan = Sampling(edges=np.array([0, 4, 8, 10]), shuffle=True, group=2)
>>> sorted(plan.order(epoch=0).tolist()) == list(range(10))
True
>>> [len(plan.order(epoch=0, worker=w, workers=3)) for w in range(3)]
[3, 3, 4]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zarr_gpu._types import Int64, NDArray

Balance = Literal["none", "pad", "drop"]

_GOLDEN = 0x9E3779B97F4A7C15
"""SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014)."""
_BLOCKS, _SAMPLES = 1, 2
"""What is shuffled, so that the two orders have nothing to do with each other."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Samples that are in memory together."""

    spans: Int64
    """Runs of samples as rows ``(start, stop)``, in storage order, disjoint, as long as can be."""
    order: Int64
    """Samples in the order in which they are visited."""

    def __len__(self) -> int:
        return len(self.order)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sampling:
    """Who visits which samples when."""

    edges: Int64
    """First sample of every block, and the number of samples; strictly increasing from 0."""
    shuffle: bool = False
    seed: int = 0
    group: int = 1
    """Blocks whose samples are mixed."""
    batch_size: int | None = None
    """Workers take whole batches; None: single samples."""
    drop_last: bool = False
    """Leave out a rank's last batch when it is not full."""
    balance: Balance = "none"
    """``none``: ranks differ by one sample at most, each sample is visited once. ``pad``: ranks
    have the same number, some samples are visited again. ``drop``: the same number, some samples
    are left out (others in every epoch)."""
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not one of world_size={self.world_size}")
        if self.group < 1:
            raise ValueError(f"a group has at least 1 block, not {self.group}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.drop_last and self.batch_size is None:
            raise ValueError("drop_last needs a batch_size")
        if self.balance not in ("none", "pad", "drop"):
            raise ValueError(f"balance must be 'none', 'pad' or 'drop', not {self.balance!r}")

    @property
    def n(self) -> int:
        """All samples."""
        return int(self.edges[-1])

    def __len__(self) -> int:
        """Samples of this rank in an epoch."""
        start, stop = self._rank_range()
        size = self.batch_size
        return (stop - start) // size * size if self.drop_last and size else stop - start

    @property
    def batches(self) -> int:
        """Batches of this rank in an epoch."""
        return -(-len(self) // (self.batch_size or 1))

    def share(self, worker: int = 0, workers: int = 1) -> int:
        """Samples of one worker of this rank in an epoch."""
        start, stop = self._worker_range(worker, workers)
        return stop - start

    def groups(
        self, epoch: int, worker: int = 0, workers: int = 1, *, skip: int = 0
    ) -> Iterator[tuple[Group, int]]:
        """What a worker visits in an epoch after its first ``skip`` samples.

        A group comes with the number of samples at its beginning that are skipped.
        """
        pieces = self._pieces(epoch, *self._worker_range(worker, workers))
        for first in range(0, len(pieces), self.group):
            some = pieces[first : first + self.group]
            n = int((some[:, 1] - some[:, 0]).sum())
            if skip < n:
                yield self._group(epoch, some), skip
            skip = max(0, skip - n)

    def order(self, epoch: int, worker: int = 0, workers: int = 1) -> Int64:
        """All samples that a worker visits in an epoch, in that order."""
        found = [group.order for group, _ in self.groups(epoch, worker, workers)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _rank_range(self) -> tuple[int, int]:
        """Positions in the sequence; those from ``n`` on are the sequence once more."""
        if self.balance == "none":
            ends = (self.n * self.rank // self.world_size, self.n * (self.rank + 1))
            return ends[0], ends[1] // self.world_size
        up = self.world_size - 1 if self.balance == "pad" else 0
        each = (self.n + up) // self.world_size
        return each * self.rank, each * (self.rank + 1)

    def _worker_range(self, worker: int, workers: int) -> tuple[int, int]:
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} is not one of {workers}")
        start, size = self._rank_range()[0], self.batch_size or 1
        first = self.batches * worker // workers
        stop = self.batches * (worker + 1) // workers
        return start + first * size, start + min(stop * size, len(self))

    def _pieces(self, epoch: int, start: int, stop: int) -> Int64:
        """Parts of blocks at positions ``start`` to ``stop`` of the sequence, in its order."""
        blocks = np.arange(len(self.edges) - 1)
        if self.shuffle:
            blocks = np.argsort(_hashed(blocks, self.seed, epoch, _BLOCKS), kind="stable")
        first, length = self.edges[:-1][blocks], np.diff(self.edges)[blocks]
        at = np.concatenate(([0], np.cumsum(length)))  # where blocks are in the sequence
        found = [np.empty((0, 2), np.int64)]
        while start < stop:
            low = start % self.n
            high = min(low + stop - start, self.n)
            i = np.arange(np.searchsorted(at, low, "right") - 1, np.searchsorted(at, high))
            shift = first[i] - at[i]
            ends = (np.maximum(at[i], low) + shift, np.minimum(at[i + 1], high) + shift)
            found.append(np.stack(ends, axis=1))
            start += high - low
        return np.concatenate(found)

    def _group(self, epoch: int, pieces: Int64) -> Group:
        order = runs(pieces)
        if self.shuffle:
            keys = _hashed(order, self.seed, epoch, _SAMPLES)
            order = order[np.argsort(keys, kind="stable")]
        return Group(merged(pieces), order)


def runs(spans: Int64) -> Int64:
    """All numbers of ``(start, stop)`` rows, one row after the other."""
    if len(spans) == 1:
        return np.arange(spans[0, 0], spans[0, 1])
    length = spans[:, 1] - spans[:, 0]
    before = np.cumsum(length) - length
    found: Int64 = np.arange(length.sum()) + np.repeat(spans[:, 0] - before, length)
    return found


def merged(spans: Int64) -> Int64:
    """The same numbers as rows ``(start, stop)`` that are sorted and do not touch."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    new = np.concatenate(([True], spans[1:, 0] > reach[:-1]))
    last = np.concatenate((np.flatnonzero(new)[1:] - 1, [len(spans) - 1]))
    return np.stack((spans[new, 0], reach[last]), axis=1)


def places(spans: Int64, numbers: Int64) -> Int64:
    """Where ``numbers`` are among all numbers of merged ``spans``."""
    length = spans[:, 1] - spans[:, 0]
    before = np.cumsum(length) - length
    row = np.searchsorted(spans[:, 0], numbers, "right") - 1
    found: Int64 = numbers - spans[row, 0] + before[row]
    return found


def block_edges(starts: Int64, n: int, stride: int = 1, least: int = 1) -> Int64:
    """The edges of blocks of samples.

    ``starts`` are the first elements of chunks, ``n`` is the number of samples, of which each
    begins ``stride`` elements after the one before. Chunks are put together until a block has
    ``least`` samples, more or less.
    """
    edges = np.unique(np.minimum(-(-np.asarray(starts, np.int64) // stride), n))
    edges = edges[edges < n]
    if len(edges) > 1:
        edges = edges[:: max(1, min(least * len(edges) // max(1, n), len(edges)))]
    found: Int64 = np.append(edges, n).astype(np.int64)
    return found


def _hashed(numbers: Int64, *stream: int) -> NDArray:
    """64 bits for each number that look random, others for each ``stream``."""
    key = np.zeros(1, np.uint64)
    for part in stream:
        key = _mix(key + np.uint64((part + _GOLDEN) % (1 << 64)))
    spread: NDArray = numbers.astype(np.uint64) * np.uint64(_GOLDEN)
    return _mix(_mix(spread + key))


def _mix(bits: NDArray) -> NDArray:
    """The last steps of SplitMix64, a bijection."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray = bits ^ (bits >> np.uint64(31))
    return mixed
