"""Rows of a plan in blocks: boxes of segments, small enough for a cache.

Where a selection is a box of elements, the chunks it covers completely can be fetched one after
the other and moved to the output together, whatever their number. Knows no store and no codec.

>>> blocks = Blocks((3, 4), most=6)
>>> blocks.per, len(blocks)
((1, 4), 3)
>>> blocks[2]
(range(2, 3), range(0, 4))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu._types import Int64, NDArray, Shape
from zarr_gpu.plan import Plan, Segments

Ranges: TypeAlias = tuple[range, ...]
"""Segment numbers, one range for each axis of a plan."""


class Blocks:
    """A grid of ``counts`` segments cut into blocks of at most ``most`` rows, in C order."""

    def __init__(self, counts: Shape, most: int, first: Shape | None = None) -> None:
        self.counts = counts
        self._first = first or (0,) * len(counts)
        per: list[int] = []
        for n in reversed(counts):
            fitting = max(1, min(n, most))
            per.append(-(-n // -(-n // fitting)) if n else 1)  # even parts
            most //= fitting
        self.per: Shape = tuple(reversed(per))
        self._numbers = tuple([-(-n // p) for n, p in zip(counts, self.per, strict=True)])

    def __len__(self) -> int:
        return math.prod(self._numbers)

    def __iter__(self) -> Iterator[Ranges]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Ranges:
        ranges = []
        for n, p, count, first in zip(
            reversed(self._numbers),
            reversed(self.per),
            reversed(self.counts),
            reversed(self._first),
            strict=True,
        ):
            number, at = divmod(number, n)
            ranges.append(range(first + at * p, first + min(count, (at + 1) * p)))
        return tuple(reversed(ranges))


def cut(box: Ranges, most: int) -> Blocks:
    """A box of segments cut into blocks: consecutive rows of it."""
    return Blocks(tuple(len(r) for r in box), most, tuple(r.start for r in box))


def cut_square(box: Ranges, most: int) -> list[Ranges]:
    """The same by blocks whose sides are nearly equal powers of two, where the box has them.

    Segments that follow each other on a Z-order curve are in few of these.
    """
    counts = [len(r) for r in box]
    sides = [1] * len(counts)
    axes = list(reversed(range(len(counts))))  # with equal sides, rows become longer first
    while math.prod(sides) * 2 <= most:
        axes = [d for d in axes if sides[d] < counts[d]]
        if not axes:
            break
        sides[min(axes, key=sides.__getitem__)] *= 2
    return cut_to(box, sides)


def cut_to(box: Ranges, sides: Sequence[int]) -> list[Ranges]:
    """A box of segments cut into blocks of the given shape, in C order."""
    parts = [
        [range(start, min(r.stop, start + side)) for start in range(r.start, r.stop, side)]
        for r, side in zip(box, sides, strict=True)
    ]
    return list(product(*parts))


def numbers_in(box: Ranges, some: list[Ranges]) -> Int64:
    """Which rows of ``box``, in C order, are those of ``some`` of its blocks, block by block."""
    numbers = np.arange(math.prod(map(len, box)), dtype=np.int64).reshape([len(r) for r in box])
    return np.concatenate(
        [
            numbers[
                tuple(
                    [
                        slice(r.start - b.start, r.stop - b.start)
                        for r, b in zip(block, box, strict=True)
                    ]
                )
            ].reshape(-1)
            for block in some
        ]
    )


def whole_ranges(plan: Plan) -> Ranges:
    """Per axis, the segments that take all of their chunk: all but the first and the last."""
    ranges = []
    for axis in plan.axes:
        n = len(axis)
        ends = [0, n - 1] if n else []
        grid = plan.grids[axis.dims[0]]
        whole = axis.extent[ends] == grid.extent(axis.chunk[ends, 0])
        if n > 2 and axis.step > 1:  # chunks between the ends may be whole only if of one element
            inner = axis.extent[1:-1] == grid.extent(axis.chunk[1:-1, 0])
            if not inner.all():
                ranges.append(range(0))
                continue
        ranges.append(range(int(not whole[0]), n - int(not whole[-1])) if n else range(0))
    return tuple(ranges)


def split(block: Ranges, whole: Ranges) -> tuple[Ranges | None, list[tuple[int, ...]]]:
    """The box of whole chunks in a block, and the other rows by their segment numbers."""
    inner = tuple(
        [
            range(max(b.start, w.start), min(b.stop, w.stop))
            for b, w in zip(block, whole, strict=True)
        ]
    )
    if inner == block:
        return block, []
    if not all(inner):
        return None, list(product(*block))
    rest = [
        row for row in product(*block) if any(s not in r for s, r in zip(row, inner, strict=True))
    ]
    return inner, rest


def cross(ranges: Ranges, columns: list[Int64]) -> Int64:
    """All combinations of one value per axis in C order, shape (rows, axes)."""
    shape = tuple(len(r) for r in ranges)
    out = np.empty((*shape, len(shape)), np.int64)
    for d, (r, column) in enumerate(zip(ranges, columns, strict=True)):
        out[..., d] = column[r.start : r.stop].reshape(-1, *(1,) * (len(shape) - d - 1))
    return out.reshape(math.prod(shape), len(shape))


def slots_of(box: Ranges, chunks: list[Int64], per_shard: Shape) -> Int64:
    """Numbers of inner chunks in their shard, in C order, by the chunk numbers of each axis."""
    slots = np.zeros((1,) * len(box), np.int64)
    for d, (r, column, parts) in enumerate(zip(box, chunks, per_shard, strict=True)):
        inside = column[r.start : r.stop] % parts
        slots = slots * parts + inside.reshape(-1, *(1,) * (len(box) - d - 1))
    return slots.reshape(-1)


def place_of(out: NDArray, axes: tuple[Segments, ...], ranges: Ranges, chunk: Shape) -> NDArray:
    """Where a block of whole chunks belongs in the work view, shape (*numbers, *chunk)."""
    n = len(chunk)
    where: tuple[Any, ...] = tuple([axis.span(r) for axis, r in zip(axes, ranges, strict=True)])
    place: NDArray = out[(*where, ...)]
    if all(len(r) == 1 for r in ranges):
        return place[(*(None,) * n, ...)]  # an array where there are no axes, too
    extents = [m for r, extent in zip(ranges, chunk, strict=True) for m in (len(r), extent)]
    return place.reshape(extents).transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2))


def by_object(column: Int64) -> list[range]:
    """Runs of segments that lie in the same object; ``column`` is sorted."""
    first = np.flatnonzero(np.concatenate(([True], column[1:] != column[:-1]))).tolist()
    return [range(a, b) for a, b in zip(first, [*first[1:], len(column)], strict=True)]


def objects(columns: list[Int64]) -> Iterator[Ranges]:
    """The rows of each object, as a box of segments; one column of object numbers per axis."""
    return product(*(by_object(column) for column in columns))


def rows_of(block: Ranges) -> Iterator[tuple[int, ...]]:
    """Segment numbers of every row of a block, in C order."""
    return product(*block)


def move(values: NDArray, into: NDArray) -> None:
    """Copy elements; rows as single items where that is the same: NumPy copies those up to twice
    as fast as rows of elements.
    """
    dtype = values.dtype
    if (
        into.ndim
        and into.dtype == dtype
        and values.strides[-1] == into.strides[-1] == dtype.itemsize
    ):
        row = np.dtype((np.void, into.shape[-1] * dtype.itemsize))
        values, into = values.view(row), into.view(row)
    into[...] = values
