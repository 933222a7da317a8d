"""Moves elements between chunks and the output, row by row of a plan.

Only NumPy indexing happens here; the device backend does the same in its copy kernel, from the
plan's columns. Knows no store and no codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np

from zarr_gpu._types import Int64, NDArray, Shape
from zarr_gpu.plan import Box, Plan, Segments


class Assembler:
    """Rows of ``plan`` are given by their segment numbers; the output is its work view."""

    def __init__(self, plan: Plan) -> None:
        self._axes = plan.axes
        self._points = [a for a, axis in enumerate(plan.axes) if axis.index is not None]
        self._dims = tuple(d for axis in plan.axes for d in axis.dims)
        self._in_order = self._dims == tuple(range(plan.ndim))
        self.simple = not self._points and self._in_order
        """Every row is a box of its chunk's elements."""
        self.flat = len(plan.axes) == 1 and bool(self._points)
        """Every row is a list of single elements."""

    def out_index(self, row: Sequence[int]) -> tuple[Any, ...]:
        """Index of the row's elements in the work view."""
        if not self._points:
            return tuple([axis.spans[s] for axis, s in zip(self._axes, row, strict=True)])
        index: list[Any] = [axis.out_index(s) for axis, s in zip(self._axes, row, strict=True)]
        return _as_open_mesh(index) if len(self._points) > 1 else tuple(index)

    def box(self, row: Sequence[int]) -> Box | None:
        """``(start, extent, step)`` per array dimension, None when the row has points."""
        if not self.simple:
            return None
        return [axis.boxes[s] for axis, s in zip(self._axes, row, strict=True)]

    def nbytes(self, segment: Int64, strides: Sequence[int], itemsize: int) -> Int64:
        """Bytes from the first to the last element of each row's box, where rows are boxes."""
        out = np.full(len(segment), itemsize, np.int64)
        for axis, numbers, stride in zip(self._axes, segment.T, strides, strict=True):
            out += ((axis.extent - 1) * (axis.step * stride))[numbers]
        return out

    def linear(self, span: slice, strides: Sequence[int]) -> Int64:
        """Numbers in their chunk of the elements in ``span`` of the output, where it is flat."""
        (axis,) = self._axes
        assert axis.index is not None  # noqa: S101 - see flat
        out = np.zeros(span.stop - span.start, np.int64)
        for dim, index in zip(axis.dims, axis.index, strict=True):
            out += index[span] * strides[dim]
        return out

    def moves(self, segment: Int64) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]] | None:
        """Indices into the work view and into the chunk for each of many rows.

        None where one index does not say it all: see :meth:`take`.
        """
        if not self._in_order or not self._axes:
            return None
        if self._points and (len(self._points) > 1 or len(self._axes) < len(self._dims)):
            return None
        into: list[list[Any]] = []
        out_of: list[list[Any]] = []
        for axis, numbers in zip(self._axes, segment.T, strict=True):
            outside, inside = _indices(axis, numbers)
            into.append(outside)
            out_of.append(inside)
        return list(zip(zip(*into, strict=True), zip(*out_of, strict=True), strict=True))

    def take(self, chunk: NDArray, row: Sequence[int]) -> NDArray:
        """The row's elements of ``chunk``, shaped like its place in the work view."""
        if self.simple:
            box = [axis.in_chunk(s) for axis, s in zip(self._axes, row, strict=True)]
            part: NDArray = chunk[tuple(box)]
            return part
        index = self._chunk_index(row)
        if len(self._points) > 1:  # orthogonal: cut one axis after the other, slices first
            chunk = chunk[tuple([i if isinstance(i, slice) else slice(None) for i in index])]
            for dim, i in enumerate(index):
                if not isinstance(i, slice):
                    chunk = chunk.take(i, axis=dim)
            return chunk
        taken: NDArray = chunk[tuple(index)]
        return taken.transpose(self._result_order(index)) if not self._in_order else taken

    def put(self, chunk: NDArray, row: Sequence[int], value: NDArray) -> None:
        """Write ``value`` (shaped like the row's place in the work view) into ``chunk``."""
        index = self._chunk_index(row)
        if len(self._points) > 1:
            chunk[_as_open_mesh(index, chunk.shape)] = value
            return
        if not self._in_order and self._points:
            value = value.transpose(np.argsort(self._result_order(index)))
        chunk[tuple(index)] = value

    def _chunk_index(self, row: Sequence[int]) -> list[Any]:
        index: list[Any] = [None] * len(self._dims)
        for axis, s in zip(self._axes, row, strict=True):
            inside = axis.in_chunk(s)
            if isinstance(inside, slice):
                index[axis.dims[0]] = inside
            else:
                for dim, i in zip(axis.dims, inside, strict=True):
                    index[dim] = i
        return index

    def _result_order(self, index: Sequence[Any]) -> list[int]:
        """Which axis of ``chunk[index]`` is each output axis.

        NumPy puts the one axis of index arrays where they stand if they stand together, and first
        otherwise; the plan may want it elsewhere.
        """
        at = [d for d, i in enumerate(index) if not isinstance(i, slice)]
        together = bool(at) and at[-1] - at[0] == len(at) - 1
        produced: list[int] = [] if together or not at else [at[0]]
        for dim, i in enumerate(index):
            if isinstance(i, slice) or (together and dim == at[0]):
                produced.append(dim)
        return [
            produced.index(axis.dims[0] if axis.index is None else at[0]) for axis in self._axes
        ]


def _indices(axis: Segments, numbers: Int64) -> tuple[list[Any], list[Any]]:
    """Where segments lie on the output axis and in their chunks; points have one dimension."""
    first, extent = axis.out_start[numbers], axis.extent[numbers]
    spans = [slice(a, b) for a, b in zip(first.tolist(), (first + extent).tolist(), strict=True)]
    if axis.index is None:
        start = axis.chunk_start[numbers]
        stop = start + (extent - 1) * axis.step + 1
        bounds = zip(start.tolist(), stop.tolist(), repeat(axis.step))
        return spans, [slice(a, b, step) for a, b, step in bounds]
    (index,) = axis.index
    inside = [index[span] for span in spans]
    return (spans if axis.order is None else [axis.order[span] for span in spans]), inside


def _as_open_mesh(index: Sequence[Any], shape: Shape | None = None) -> tuple[Any, ...]:
    """``index`` unchanged, or as ``np.ix_`` when several axes have index arrays."""
    if sum(not isinstance(i, slice) for i in index) < 2:
        return tuple(index)
    mesh = []
    for number, i in enumerate(index):
        if isinstance(i, slice):
            stop = i.stop if shape is None else i.indices(shape[number])[1]
            i = np.arange(i.start or 0, stop, i.step or 1)
        mesh.append(i)
    return np.ix_(*mesh)
