"""Blocks of parallel tasks beside the objects of a store: which are safe, and which would be.

Pure arithmetic on lengths, one axis at a time; knows neither dask nor stores.

Two tasks that write into one chunk (or one shard, where there are shards) read, change and replace
the same object: without a lock one of them is lost. Blocks are therefore *aligned* when no border
between two of them lies inside an object. How an array is cut for reading only costs time: a chunk
that two tasks read is decoded twice.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

Lengths: TypeAlias = tuple[int, ...]
"""Lengths of consecutive pieces of one axis."""


def unknown(blocks: Sequence[Sequence[float]]) -> bool:
    """True when a length is not known before computing (dask says NaN)."""
    return any(isinstance(n, float) and math.isnan(n) for axis in blocks for n in axis)


def uniform(blocks: Lengths) -> int | None:
    """The one chunk length that makes these blocks chunks, None where there is none.

    >>> uniform((4, 4, 2)), uniform((4, 2, 4)), uniform((0,))
    (4, None, 1)
    """
    first = max(blocks[0], 1) if blocks else 1
    if any(n != first for n in blocks[1:-1]) or (len(blocks) > 1 and blocks[-1] > first):
        return None
    return first


def borders(blocks: Lengths, start: int = 0) -> list[int]:
    """Where one block ends and the next begins, the two ends of the axis left out."""
    return [start + end for end in accumulate(blocks)][:-1]


def misplaced(blocks: Lengths, objects: Lengths, start: int = 0) -> int | None:
    """The first border between blocks that lies inside an object; None when all are aligned.

    ``start`` is where the first block begins on the axis that ``objects`` cut up.

    >>> misplaced((4, 4, 2), (2, 2, 2, 2, 2)), misplaced((3, 7), (5, 5))
    (None, 3)
    >>> misplaced((3, 5), (5, 5), start=2)
    """
    edges = {0, *accumulate(objects)}
    return next((at for at in borders(blocks, start) if at not in edges), None)


def around(objects: Lengths, at: int) -> str:
    """The object that ``at`` lies inside, as a slice is written.

    >>> around((2, 5, 3), 3)
    '2:7'
    """
    ends = list(accumulate(objects))
    i = bisect_right(ends, at)
    return f"{ends[i] - objects[i]}:{ends[i]}"


def aligned(blocks: Lengths, objects: Lengths, start: int = 0) -> Lengths:
    """Blocks as long as those given, as nearly as their borders can move to those of objects.

    A block grows by less than one object; blocks shorter than an object are joined.

    >>> aligned((3, 3, 4), (5, 5)), aligned((1,) * 10, (5, 5)), aligned((3, 5), (5, 5), 2)
    ((5, 5), (5, 5), (3, 5))
    """
    stop = start + sum(blocks)
    edges = [edge for edge in accumulate(objects) if start < edge < stop]
    kept: list[int] = []
    at = 0
    for border in borders(blocks, start):
        while at < len(edges) and edges[at] < border:
            at += 1
        near = edges[max(0, at - 1) : at + 1]
        if near:
            closest = min(near, key=lambda edge: abs(edge - border))
            if not kept or closest > kept[-1]:
                kept.append(closest)
    ends = [*kept, stop]
    return tuple(end - begin for begin, end in zip([start, *kept], ends, strict=True))


def shared_with_others(blocks: Lengths, objects: Lengths, start: int = 0) -> tuple[int, int] | None:
    """A part of an object at either end that the blocks leave to other writers, None if none.

    ``(begin, end)`` of that object.
    """
    stop = start + sum(blocks)
    begin = 0
    for end in accumulate(objects):
        if (begin < start < end) or (begin < stop < end):
            return begin, end
        begin = end
    return None
