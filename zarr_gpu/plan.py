"""The plan of a read or a write: pure data in NumPy columns.

A selection meets a chunk grid: every output axis is cut into *segments*, one per chunk it touches,
and the rows of the plan are all combinations of segments. The plan knows no store, no codec and no
device; its columns are what a scatter kernel takes as arguments.

>>> from zarr_gpu.indexing import parse_basic
>>> from zarr_gpu.metadata.grids import RegularAxis
>>> plan = make_plan(parse_basic(slice(2, 7), (10,)), (RegularAxis(10, 4),))
>>> plan.chunk.tolist(), plan.chunk_start.tolist(), plan.extent.tolist()
([[0], [1]], [[2], [0]], [[2], [3]])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu._types import Int64, NDArray, Shape
from zarr_gpu.indexing import Points, Range, Selection
from zarr_gpu.metadata.grids import Axis, RegularAxis
from zarr_gpu.metadata.problems import INT64_MAX

Box: TypeAlias = list[tuple[int, int, int]]
"""``(start, extent, step)`` of some elements of a chunk, per dimension."""


@dataclass(eq=False, kw_only=True)
class Segments:
    """One output axis cut at chunk borders; all columns have one entry per segment.

    ``chunk`` has shape (n, len(dims)). ``out_start`` and ``extent`` delimit the segment on the
    output axis. A range starts at ``chunk_start`` inside the chunk and advances by ``step``.
    Points (``step`` 0) are ``index[:, out_start:out_start + extent]`` inside the chunk; they are
    sorted by chunk, and ``order`` says where each belongs on the output axis (None: in order).
    """

    dims: tuple[int, ...]
    chunk: Int64
    chunk_start: Int64
    out_start: Int64
    extent: Int64
    step: int
    index: Int64 | None = None
    order: Int64 | None = None

    def __len__(self) -> int:
        return len(self.extent)

    @cached_property
    def _rows(self) -> tuple[list[int], list[int], list[int]]:
        """``chunk_start``, ``out_start`` and ``extent`` as Python's integers, which are faster."""
        return self.chunk_start.tolist(), self.out_start.tolist(), self.extent.tolist()

    @cached_property
    def boxes(self) -> list[tuple[int, int, int]]:
        """``(start, extent, step)`` in the chunk, of each segment of a range."""
        starts, _, extents = self._rows
        return [(start, extent, self.step) for start, extent in zip(starts, extents, strict=True)]

    @cached_property
    def spans(self) -> list[slice]:
        """Where each segment lies on the output axis; of a range."""
        _, starts, extents = self._rows
        return [slice(start, start + n) for start, n in zip(starts, extents, strict=True)]

    def span(self, segments: range) -> slice:
        """Where consecutive segments of a range lie on the output axis."""
        _, starts, extents = self._rows
        last = segments.stop - 1
        return slice(starts[segments.start], starts[last] + extents[last])

    def out_index(self, segment: int) -> slice | Int64:
        """Where segment number ``segment`` lies on the output axis."""
        _, out_starts, extents = self._rows
        start = out_starts[segment]
        span = slice(start, start + extents[segment])
        return span if self.order is None else self.order[span]

    def in_chunk(self, segment: int) -> slice | tuple[Int64, ...]:
        """What segment number ``segment`` takes from its chunk, per dimension in ``dims``."""
        starts, out_starts, extents = self._rows
        start, extent = starts[segment], extents[segment]
        if self.index is None:
            return slice(start, start + (extent - 1) * self.step + 1, self.step)
        at = out_starts[segment]
        return tuple(self.index[:, at : at + extent])


def _cut_range(axis: Range, grid: Axis) -> Segments:
    """Segments of a range: those chunks that hold at least one of its elements."""
    if axis.count == 0:
        empty = np.empty(0, np.int64)
        return Segments(
            dims=(axis.dim,),
            chunk=empty.reshape(0, 1),
            chunk_start=empty,
            out_start=empty,
            extent=empty,
            step=axis.step,
        )
    last = axis.start + (axis.count - 1) * axis.step
    ends = grid.chunk_of(np.array([axis.start, last], np.int64))
    if ends[1] - ends[0] < axis.count:
        chunk = np.arange(ends[0], ends[1] + 1, dtype=np.int64)
    else:  # most chunks are stepped over
        chunk = np.unique(grid.chunk_of(axis.start + axis.step * np.arange(axis.count)))
    begin = grid.start(chunk)
    # number of the first selected element at or after the beginning of each chunk
    first = np.maximum(0, -((axis.start - begin) // axis.step))
    after = np.append(first[1:], axis.count)
    extent = after - first
    if axis.step > 1 and (keep := extent > 0).sum() != len(chunk):
        chunk, begin, first, extent = chunk[keep], begin[keep], first[keep], extent[keep]
    return Segments(
        dims=(axis.dim,),
        chunk=chunk[:, None],
        chunk_start=axis.start + first * axis.step - begin,
        out_start=first,
        extent=extent,
        step=axis.step,
    )


def _cut_points(axis: Points, grids: Sequence[Axis]) -> Segments:
    """Segments of points: the points grouped by chunk, in C order of the chunks."""
    coords = [grids[d].chunk_of(i) for d, i in zip(axis.dims, axis.index, strict=True)]
    inside = np.empty_like(axis.index)
    for row, d, i, c in zip(inside, axis.dims, axis.index, coords, strict=True):
        np.subtract(i, grids[d].start(c), out=row)
    linear, largest = _linear(coords, [grids[d].count for d in axis.dims], axis.count)
    order = None
    if axis.count > 1 and (linear[1:] < linear[:-1]).any():
        order = _stable_order(linear, largest)
        linear = linear[order]
        inside = np.stack([row[order] for row in inside])
    if axis.count:
        first = np.flatnonzero(np.concatenate(([True], linear[1:] != linear[:-1])))
    else:
        first = np.empty(0, np.int64)
    leaders = first if order is None else order[first]
    chunk = np.empty((len(first), len(axis.dims)), np.int64)
    for column, c in zip(chunk.T, coords, strict=True):
        column[:] = c[leaders]
    return Segments(
        dims=axis.dims,
        chunk=chunk,
        chunk_start=np.zeros(len(first), np.int64),
        out_start=first,
        extent=np.diff(first, append=axis.count),
        step=0,
        index=inside,
        order=order,
    )


def _linear(coords: Sequence[Int64], counts: Sequence[int], n: int) -> tuple[Int64, int]:
    """Numbers of ``n`` chunks in C order, which tell them apart, and a bound above all of them.

    In grids of 2**63 chunks and more they count only the chunks at hand.
    """
    largest = math.prod(max(1, count) for count in counts)
    if largest > INT64_MAX:
        ranks = np.unique(np.stack(coords), axis=1, return_inverse=True)[1]
        return ranks.reshape(-1), n
    linear = np.zeros(n, np.int64)
    for c, count in zip(coords, counts, strict=True):
        linear *= max(1, count)
        linear += c
    return linear, largest


def _stable_order(values: Int64, largest: int) -> Int64:
    """Stable argsort of integers below ``largest``: by digits of 16 bits, which NumPy's radix sort
    does in a tenth of the time.
    """
    order: Int64 = np.argsort((values & 0xFFFF).astype(np.uint16), kind="stable")
    shift = 16
    while largest >> shift:
        digits = (values >> shift & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
        shift += 16
    return order


class Plan:
    """Rows (chunk by chunk) of a read or a write.

    ``grids`` has one axis per dimension of the array. ``fields`` are those of a structured type
    that are moved; None: whole elements. Row number r combines segment ``segment[r, a]`` of every
    axis a. ``work_shape`` is the shape of the output with integer axes kept and index arrays
    flattened (see :meth:`~zarr_gpu.indexing.Selection.work_view`).
    """

    __hash__ = None  # type: ignore[assignment]  # plans are compared by nothing

    def __init__(
        self,
        selection: Selection,
        grids: tuple[Axis, ...],
        fields: str | list[str] | None = None,
    ) -> None:
        self.selection = selection
        self.grids = grids
        self.fields = fields

    @cached_property
    def axes(self) -> tuple[Segments, ...]:
        """The segments of each output axis."""
        grids = self.grids
        return tuple(
            _cut_range(axis, grids[axis.dim])
            if isinstance(axis, Range)
            else _cut_points(axis, grids)
            for axis in self.selection.axes
        )

    @property
    def ranges(self) -> bool:
        """True when there are no points and the output's axes are the array's, in order."""
        return all(
            isinstance(axis, Range) and axis.dim == dim
            for dim, axis in enumerate(self.selection.axes)
        )

    def one_chunk(self) -> tuple[tuple[int, ...], Box] | None:
        """Coordinates of the one chunk that holds all elements, and where they are in it.

        None when there may be several, or none. Such requests (elements, patches) are so small
        that columns would take most of the time.
        """
        chunk: list[int] = []
        box: Box = []
        for dim, axis in enumerate(self.selection.axes):
            grid = self.grids[dim] if dim < len(self.grids) else None
            if type(axis) is not Range or type(grid) is not RegularAxis or axis.dim != dim:
                return None
            at, start = divmod(axis.start, grid.chunk)
            if not axis.count or start + (axis.count - 1) * axis.step >= grid.chunk:
                return None
            chunk.append(at)
            box.append((start, axis.count, axis.step))
        return tuple(chunk), box

    @property
    def work_shape(self) -> Shape:
        return self.selection.work_shape

    @property
    def ndim(self) -> int:
        """Dimensions of the array."""
        return len(self.grids)

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.axes)

    @property
    def segment(self) -> Int64:
        """Segment number of each axis, shape (rows, axes); rows run in C order of the segments."""
        return self.segments_of(np.arange(len(self), dtype=np.int64))

    def segments_of(self, rows: Int64) -> Int64:
        """The same for some rows only."""
        counts = tuple(len(axis) for axis in self.axes)
        out = np.empty((len(rows), len(counts)), np.int64)
        if counts and len(rows):
            for column, values in zip(out.T, np.unravel_index(rows, counts), strict=True):
                column[:] = values
        return out

    def chunks_of(self, segment: Int64) -> Int64:
        """Chunk coordinates, shape (rows, ndim), of rows given by their segments."""
        out = np.empty((len(segment), self.ndim), np.int64)
        for number, axis in enumerate(self.axes):
            for position, dim in enumerate(axis.dims):
                out[:, dim] = axis.chunk[segment[:, number], position]
        return out

    @property
    def chunk(self) -> Int64:
        """Chunk coordinates of every row, shape (rows, ndim)."""
        return self.chunks_of(self.segment)

    def _column(self, name: str) -> Int64:
        segment = self.segment
        out = np.empty(segment.shape, np.int64)
        for number, axis in enumerate(self.axes):
            out[:, number] = getattr(axis, name)[segment[:, number]]
        return out

    @property
    def chunk_start(self) -> Int64:
        """First element inside the chunk, shape (rows, axes); 0 for points."""
        return self._column("chunk_start")

    @property
    def out_start(self) -> Int64:
        """First element on the output axes, shape (rows, axes)."""
        return self._column("out_start")

    @property
    def extent(self) -> Int64:
        """Number of elements per output axis, shape (rows, axes)."""
        return self._column("extent")

    def complete(self, segment: Int64) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """True for rows that cover every element of their chunk that lies inside the array.

        Such a chunk can be written without reading what was stored before.
        """
        out = np.full(len(segment), self.fields is None, np.bool_)
        for number, axis in enumerate(self.axes):
            if axis.index is not None:
                covered = _points_cover(axis, self.grids)
            else:
                grid = self.grids[axis.dims[0]]
                chunk = axis.chunk[:, 0]
                inside = np.minimum(grid.extent(chunk), grid.length - grid.start(chunk))
                covered = axis.extent == inside
            out &= covered[segment[:, number]]
        return out


def _points_cover(axis: Segments, grids: Sequence[Axis]) -> NDArray:
    """Which segments of points hit every element of their chunk, each however often."""
    sizes = []
    for position, dim in enumerate(axis.dims):
        chunk = axis.chunk[:, position]
        sizes.append(
            np.minimum(grids[dim].extent(chunk), grids[dim].length - grids[dim].start(chunk))
        )
    inside: Int64 = math.prod(sizes, start=np.ones(len(axis), np.int64))
    covered: NDArray = axis.extent >= inside
    if axis.index is None or not covered.any():
        return covered
    # A chunk that may be covered has as many places of its own among the points as it has
    # elements: each point marks the place of its element.
    segment = np.repeat(np.arange(len(axis)), axis.extent)
    tried = covered[segment]
    segment = segment[tried]
    element = np.zeros(len(segment), np.int64)
    for size, index in zip(sizes, axis.index, strict=True):
        element *= size[segment]
        element += index[tried]
    hit = np.zeros(len(tried) + 1, np.bool_)
    hit[axis.out_start[segment] + element] = True
    hits = np.concatenate(([0], np.cumsum(hit)))
    last = axis.out_start + np.where(covered, inside, 0)
    covered &= hits[last] - hits[axis.out_start] == inside
    return covered


def make_plan(
    selection: Selection, grids: tuple[Axis, ...], fields: str | list[str] | None = None
) -> Plan:
    """Cut ``selection`` at the chunk borders of ``grids`` (one axis per array dimension)."""
    return Plan(selection, grids, fields)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """In which stored object, and where in it, each row's chunk lies.

    ``objects`` are the distinct object coordinates, shape (objects, ndim). Rows
    ``rows[first[i]:first[i + 1]]`` belong to object i. ``slots`` has one row per sharding level:
    the C-order number of the inner chunk inside its parent.
    """

    objects: Int64
    rows: Int64
    first: Int64
    slots: Int64

    def __len__(self) -> int:
        return len(self.objects)


def place(
    chunks: Int64, object_axes: Sequence[Axis], leaf: Shape, layers: Sequence[Shape]
) -> Placement:
    """Group rows (given by leaf chunk coordinates) by stored object.

    ``object_axes`` is the grid of stored objects, ``leaf`` the shape of the innermost chunks and
    ``layers`` the number of parts per dimension at each level, outermost first.
    """
    n, ndim = chunks.shape
    if not layers:
        rows = np.arange(n, dtype=np.int64)
        return Placement(chunks, rows, np.arange(n + 1, dtype=np.int64), np.empty((0, n), np.int64))
    begin = chunks * np.asarray(leaf, np.int64)
    coords = np.empty_like(chunks)
    within = np.empty_like(chunks)  # leaf number inside the object
    for d, axis in enumerate(object_axes):
        coords[:, d] = axis.chunk_of(begin[:, d])
        within[:, d] = (begin[:, d] - axis.start(coords[:, d])) // leaf[d]
    linear, _ = _linear(list(coords.T), [axis.count for axis in object_axes], n)
    rows = np.arange(n, dtype=np.int64)
    if n > 1 and (linear[1:] < linear[:-1]).any():
        rows = np.argsort(linear, kind="stable")
        linear = linear[rows]
    first = np.flatnonzero(np.concatenate(([True], linear[1:] != linear[:-1]))) if n else rows
    slots = np.zeros((len(layers), n), np.int64)
    for level in range(len(layers)):
        below = [math.prod(layer[d] for layer in layers[level + 1 :]) for d in range(ndim)]
        for d in range(ndim):
            part = within[:, d] // below[d]
            parts: Int64 | int = layers[level][d]
            if level == 0:  # shards of a rectilinear grid hold different numbers of parts
                parts = object_axes[d].extent(coords[:, d]) // (leaf[d] * below[d])
            slots[level] = slots[level] * parts + part
            within[:, d] -= part * below[d]
    return Placement(coords[rows[first]], rows, np.append(first, n), slots)
