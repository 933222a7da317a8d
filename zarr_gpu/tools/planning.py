"""From one chunk grid to another in bounded memory: which blocks to copy, in which order.

Pure. A *pass* copies a grid of blocks. Every block is made of whole objects of the target, so no
object is written twice and none is read back. A block that cuts chunks of the source decodes them
once for every block they reach into: :func:`plan_pass` finds the blocks within the memory allowed
for which that is least. Where it is still too much, as for a transposition of long thin chunks,
:func:`plan_rechunk` puts an intermediate array between two passes: uncompressed, in shards as large
as the blocks of the first pass, with inner chunks that lie in the blocks of both.
(The idea of an intermediate array is that of the package rechunker.)

>>> plan = plan_rechunk(grids((40, 6), (1, 6)), grids((40, 6), (40, 1)), most=80)
>>> plan.passes[0].blocks_shape, plan.passes[0].decoded, plan.intermediate
((40, 2), 120, None)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from zarr_gpu._types import Int64, Shape
from zarr_gpu.metadata.grids import Axis, RegularAxis

Grid: TypeAlias = tuple[Axis, ...]

MAX_DECODES = 4.0
"""How often chunks may be decoded on the average before an intermediate array is worth its own
write and two reads, which are of uncompressed bytes."""
GOAL = 1 << 23
"""Elements of a block that more would not make faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Copy block by block. ``edges``: of each axis, where blocks begin, and its length."""

    edges: tuple[Int64, ...]
    decoded: int
    """Chunks of the source decoded in all."""
    chunks: int
    """Chunks of the source."""

    def __len__(self) -> int:
        return math.prod(len(e) - 1 for e in self.edges)

    def region(self, number: int) -> tuple[slice, ...]:
        """Block ``number`` in C order."""
        where = np.unravel_index(number, [len(e) - 1 for e in self.edges]) if self.edges else ()
        return tuple(
            slice(int(e[i]), int(e[i + 1])) for e, i in zip(self.edges, where, strict=True)
        )

    def regions(self) -> Iterator[tuple[slice, ...]]:
        """All blocks."""
        return (self.region(number) for number in range(len(self)))

    @property
    def blocks_shape(self) -> Shape:
        """The largest extents."""
        return tuple(int(np.diff(e).max(initial=0)) for e in self.edges)

    @property
    def most(self) -> int:
        """Elements of the largest block."""
        return math.prod(self.blocks_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intermediate:
    """An uncompressed array between two passes: its shards and their inner chunks."""

    shards: Shape
    chunks: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class RechunkPlan:
    """One pass, or two with an array between them."""

    passes: tuple[Pass, ...]
    intermediate: Intermediate | None = None

    @property
    def decodes(self) -> float:
        """How often a chunk of the source is decoded on the average."""
        return self.passes[0].decoded / max(1, self.passes[0].chunks)


class TooLargeError(ValueError):
    """One object of the target has more elements than may be in memory."""

    def __init__(self, needed: int, most: int) -> None:
        self.needed = needed
        super().__init__(f"an object of the target has {needed} elements, {most} fit into memory")


def grids(shape: Shape, chunks: Shape) -> Grid:
    """A regular grid."""
    return tuple(RegularAxis(n, c) for n, c in zip(shape, chunks, strict=True))


def edges_of(axis: Axis) -> Int64:
    """Where the chunks that hold elements begin, and the length of the axis."""
    starts = axis.start(np.arange(axis.count, dtype=np.int64))
    return np.append(starts, axis.length).astype(np.int64)


def touched(source: Int64, blocks: Int64) -> int:
    """Chunks of one axis that blocks of it reach into, summed over the blocks."""
    first = np.searchsorted(source, blocks[:-1], "right") - 1
    last = np.searchsorted(source, blocks[1:], "left")
    return int((last - first).sum())


@dataclass(frozen=True, slots=True)
class _Option:
    """Blocks of one axis: the longest one, and the chunks touched."""

    extent: int
    touched: int
    edges: Int64


def _options(source: Axis, target: Axis) -> list[_Option]:
    """Blocks of 1, 2, 4, ... objects, and of as many as end where chunks of the source do."""
    there, here = edges_of(source), edges_of(target)
    n = len(here) - 1
    if n < 1:
        return [_Option(0, 0, here)]
    counts = {n, *(1 << i for i in range(n.bit_length()))}
    if isinstance(source, RegularAxis) and isinstance(target, RegularAxis):
        step = math.lcm(source.chunk, target.chunk) // target.chunk
        while step < n:
            counts.add(step)
            step *= 2
    found = []
    for count in sorted(c for c in counts if c <= n):
        edges = np.append(here[:-1:count], here[-1])
        found.append(_Option(int(np.diff(edges).max()), touched(there, edges), edges))
    return found


def _best(axes: Sequence[list[_Option]], most: int, goal: int) -> tuple[_Option, ...] | None:
    """The choice of least chunks touched whose blocks have at most ``most`` elements.

    Of equal ones the smallest that reaches ``goal``, or the largest.
    """
    front: list[tuple[int, int, tuple[_Option, ...]]] = [(1, 1, ())]
    for options in axes:
        grown = [
            (size * max(1, o.extent), cost * max(1, o.touched), (*chosen, o))
            for size, cost, chosen in front
            for o in options
            if size * max(1, o.extent) <= most
        ]
        front = _pareto(grown)
    if not front:
        return None
    least = min(cost for _, cost, _ in front)
    equal = sorted((size, i) for i, (size, cost, _) in enumerate(front) if cost == least)
    number = next((i for size, i in equal if size >= goal), equal[-1][1])
    return _grown(front[number][2], axes, most, goal)


def _pareto(
    rows: list[tuple[int, int, tuple[_Option, ...]]],
) -> list[tuple[int, int, tuple[_Option, ...]]]:
    """Those that no other beats in size and cost."""
    kept: list[tuple[int, int, tuple[_Option, ...]]] = []
    for row in sorted(rows, key=lambda row: row[:2]):
        if not kept or row[1] < kept[-1][1]:
            kept.append(row)
    return kept


def _grown(
    chosen: tuple[_Option, ...], axes: Sequence[list[_Option]], most: int, goal: int
) -> tuple[_Option, ...]:
    """Larger blocks at the same cost, the last axis first: fewer and longer reads."""
    best = list(chosen)
    for d in range(len(best) - 1, -1, -1):
        for option in axes[d]:
            others = math.prod(max(1, o.extent) for e, o in enumerate(best) if e != d)
            if math.prod(max(1, o.extent) for o in best) >= goal:
                break
            if (
                option.extent > best[d].extent
                and option.touched <= best[d].touched
                and option.extent * others <= most
            ):
                best[d] = option
    return tuple(best)


def plan_pass(source: Grid, target: Grid, most: int, goal: int = GOAL) -> Pass:
    """Blocks of whole objects of ``target``, at most ``most`` elements, that cut least.

    Raises TooLargeError when one object alone is larger.
    """
    axes = [_options(s, t) for s, t in zip(source, target, strict=True)]
    best = _best(axes, most, min(most, goal))
    if best is None:
        raise TooLargeError(math.prod(max(1, options[0].extent) for options in axes), most)
    return Pass(
        edges=tuple(o.edges for o in best),
        decoded=math.prod(o.touched for o in best),
        chunks=math.prod(axis.count for axis in source),
    )


def plan_rechunk(
    source: Grid, target: Grid, most: int, *, max_decodes: float = MAX_DECODES, goal: int = GOAL
) -> RechunkPlan:
    """The passes from ``source`` to ``target`` with at most ``most`` elements in memory.

    An intermediate array is used where chunks of the source would be decoded more often than
    ``max_decodes`` times on the average (``math.inf``: never).
    """
    direct = plan_pass(source, target, most, goal)
    plan = RechunkPlan(passes=(direct,))
    if plan.decodes <= max_decodes:
        return plan
    shape = tuple(axis.length for axis in source)
    reads, writes = _overlapping(source, target, most)
    if reads is None or writes is None:
        return plan
    between = _between(shape, reads, writes)
    first = plan_pass(source, grids(shape, between.shards), most, goal)
    second = plan_pass(grids(shape, between.chunks), target, most, goal)
    if first.decoded + first.chunks >= direct.decoded:
        return plan
    return RechunkPlan(passes=(first, second), intermediate=between)


def _overlapping(
    source: Grid, target: Grid, most: int
) -> tuple[list[int] | None, list[int] | None]:
    """Extents of blocks of either grid, grown towards each other: their common part is largest."""
    extents = []
    for grid in (source, target):
        longest = [int(np.diff(edges_of(axis)).max(initial=1)) for axis in grid]
        if math.prod(longest) > most:
            return None, None
        extents.append(longest)
    reads, writes = extents
    units = [list(reads), list(writes)]
    for mine, other, unit in ((reads, writes, units[0]), (writes, reads, units[1])):
        goals = [min(o, axis.length) for o, axis in zip(other, source, strict=True)]
        # The axis that is furthest from what the other side reads in one piece comes first.
        while True:
            behind = [(g / m, d) for d, (g, m) in enumerate(zip(goals, mine, strict=True)) if m < g]
            for _, d in sorted(behind, reverse=True):
                grown = min(_up(min(2 * mine[d], goals[d]), unit[d]), _up(goals[d], unit[d]))
                if math.prod(mine) // mine[d] * grown <= most:
                    mine[d] = grown
                    break
            else:
                break
    return reads, writes


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _between(shape: Shape, reads: Sequence[int], writes: Sequence[int]) -> Intermediate:
    """Shards as large as blocks that are read, inner chunks that divide them."""
    shards, chunks = [], []
    for n, read, write in zip(shape, reads, writes, strict=True):
        if read >= n:  # one block along this axis, so the shard may be a little longer
            inner = max(1, min(write, n))
            shards.append(_up(n, inner) or inner)
        else:
            common = math.gcd(read, write)
            inner = max(d for d in _divisors(read) if d <= write)
            inner = common if 2 * common >= inner else inner
            shards.append(read)
        chunks.append(inner)
    return Intermediate(shards=tuple(shards), chunks=tuple(chunks))


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return [*small, *(n // d for d in small)]
