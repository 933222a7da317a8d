"""Selections: what users write between brackets, as one :class:`AxisSelection` per output axis.

Everything here is pure: it knows a shape, never chunks, stores or data. A selection becomes a list
of axes; each is either a :class:`Range` over one array dimension or :class:`Points` over one or
several dimensions that share their index arrays. Orthogonal, coordinate, mask, block and NumPy's
mixed indexing are all lists of these two, so planning and assembling need no further cases.

>>> parse_basic((slice(1, 5), 3), (10, 10)).shape
(4,)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu._types import Int64, NDArray, Shape
from zarr_gpu.errors import BoundsCheckError, SelectionError, VindexInvalidSelectionError
from zarr_gpu.metadata.grids import Axis


@dataclass(frozen=True, slots=True)
class Range:
    """``count`` elements of dimension ``dim`` from ``start`` on, ``step`` (> 0) apart."""

    dim: int
    start: int
    step: int
    count: int
    drop: bool = False
    """An integer index: the axis is not part of the result."""
    flip: bool = False
    """The result lists the elements backwards (negative step)."""

    @property
    def shape(self) -> Shape:
        return () if self.drop else (self.count,)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Elements given by index arrays: ``index`` has shape (len(dims), number of points)."""

    dims: tuple[int, ...]
    index: Int64
    shape: Shape
    """Shape of the index arrays, which the result has in place of this axis."""

    @property
    def count(self) -> int:
        return int(self.index.shape[1])


AxisSelection: TypeAlias = Range | Points


@dataclass(frozen=True, slots=True)
class Selection:
    """A parsed selection. ``axes`` are in the order of the result's axes."""

    axes: tuple[AxisSelection, ...]

    @property
    def shape(self) -> Shape:
        """Shape of the result."""
        shape: Shape = ()
        for axis in self.axes:
            if isinstance(axis, Points):
                shape += axis.shape
            elif not axis.drop:
                shape += (axis.count,)
        return shape

    @property
    def work_shape(self) -> Shape:
        """Shape with one dimension per axis: integers kept, index arrays flattened."""
        return tuple([axis.count for axis in self.axes])

    @property
    def size(self) -> int:
        """Number of selected elements."""
        return math.prod(self.work_shape)

    @property
    def reshapes(self) -> bool:
        """True when index arrays do not have one dimension each, as the work view's axes have."""
        return [a for a in self.axes if isinstance(a, Points) and len(a.shape) != 1] != []

    def work_view(self, array: NDArray) -> NDArray:
        """``array`` (of :attr:`shape`) seen in :attr:`work_shape`, backwards axes turned round.

        A view, except that ``array`` must be reshaped where index arrays have several dimensions;
        callers that write through the result check ``np.shares_memory`` in that case.
        """
        turned = False
        keep: list[Any] = []
        turn: list[slice] = []
        for axis in self.axes:
            drop, flip = (axis.drop, axis.flip) if isinstance(axis, Range) else (False, False)
            keep.append(None if drop else slice(None))
            turn.append(slice(None, None, -1) if flip else slice(None))
            turned = turned or flip
        array = array.reshape(self.work_shape) if self.reshapes else array[(*keep, ...)]
        return array[tuple(turn)] if turned else array


def parse_numpy(selection: Any, shape: Shape) -> Selection:
    """What ``array[selection]`` means to NumPy, without new axes.

    Raises SelectionError (an IndexError) for anything NumPy would refuse, and for ``None``.
    """
    plain = _parse_plain(selection, shape)
    if plain is not None:
        return plain
    items = _as_tuple(selection)
    if _all_basic(items):
        return parse_basic(tuple(items), shape)
    items = [_as_index_array(item) for item in items]
    items = _expand(items, shape, _consumed)
    return _advanced(items, shape)


def parse_basic(selection: Any, shape: Shape) -> Selection:
    """Integers, slices and one Ellipsis."""
    items = _expand(_as_tuple(selection), shape)
    axes = enumerate(zip(items, shape, strict=True))
    return Selection(tuple(_basic_axis(item, dim, n) for dim, (item, n) in axes))


def _parse_plain(selection: Any, shape: Shape) -> Selection | None:
    """One integer or slice per axis, as nearly all requests have; None for everything else."""
    if type(selection) is not tuple or len(selection) != len(shape):
        return None
    axes = []
    for dim, item in enumerate(selection):
        if type(item) is int:
            axes.append(Range(dim, _bound(item, dim, shape[dim]), 1, 1, drop=True))
        elif type(item) is slice:
            axes.append(_basic_axis(item, dim, shape[dim]))
        else:
            return None
    return Selection(tuple(axes))


def parse_orthogonal(selection: Any, shape: Shape) -> Selection:
    """``oindex``: every dimension is indexed on its own by int, slice, integer or boolean array."""
    items = [_as_index_array(item) for item in _as_tuple(selection)]
    if (
        len(items) == 1
        and isinstance(items[0], np.ndarray)
        and items[0].ndim > 1
        and _is_mask(items[0])
    ):
        return parse_mask(items[0], shape)
    axes: list[AxisSelection] = []
    for dim, (item, n) in enumerate(_zip(_expand(items, shape), shape)):
        if not isinstance(item, np.ndarray):
            axes.append(_basic_axis(item, dim, n))
            continue
        if item.ndim != 1:
            raise SelectionError(
                f"orthogonal selection: axis {dim} needs a one-dimensional index array, "
                f"found {item.ndim} dimensions"
            )
        index = _mask_to_index(item, dim, n) if item.dtype == bool else _wrap(item, dim, n)
        axes.append(Points((dim,), index[None, :], (len(index),)))
    return Selection(tuple(axes))


def parse_coordinate(selection: Any, shape: Shape) -> Selection:
    """``vindex``: one integer array per dimension, broadcast together; or one boolean mask."""
    items = _as_tuple(selection)
    if len(items) == 1 and _is_mask(items[0]):
        return parse_mask(items[0], shape)
    try:
        arrays = [_integer_array(item) for item in items]
        arrays = list(np.broadcast_arrays(*arrays)) if arrays else arrays
    except (TypeError, ValueError) as error:
        raise VindexInvalidSelectionError(
            "a coordinate selection needs one integer array per dimension (or one boolean mask); "
            f"found {selection!r}"
        ) from error
    if len(arrays) != len(shape) or not arrays:
        raise VindexInvalidSelectionError(
            f"a coordinate selection needs {len(shape)} integer arrays, found {len(arrays)}"
        )
    index = np.stack([_wrap(a.ravel(), d, n) for d, (a, n) in enumerate(_zip(arrays, shape))])
    return Selection((Points(tuple(range(len(shape))), index, arrays[0].shape),))


def parse_mask(mask: Any, shape: Shape) -> Selection:
    """A boolean array of the array's shape; the result is one-dimensional, in C order."""
    items = _as_tuple(mask)
    if len(items) != 1 or not _is_mask(items[0]):
        raise VindexInvalidSelectionError(
            f"a mask selection needs one boolean array, found {mask!r}"
        )
    array = np.asarray(items[0])
    if array.shape != shape:
        raise VindexInvalidSelectionError(f"the mask has shape {array.shape}, the array {shape}")
    index = _nonzero(array) if shape else np.empty((0, int(array)), np.int64)
    return Selection((Points(tuple(range(len(shape))), index, (index.shape[1],)),))


def parse_block(selection: Any, shape: Shape, axes: Sequence[Axis]) -> Selection:
    """``blocks``: integers and slices of step 1 in units of chunks."""
    out: list[AxisSelection] = []
    items = _expand(_as_tuple(selection), shape)
    for dim, (item, axis) in enumerate(zip(items, axes, strict=True)):
        if isinstance(item, slice):
            first, stop, step = item.indices(axis.count)
            if step != 1:
                raise SelectionError(f"block selection: axis {dim} must have step 1, found {step}")
        else:
            first = _bound(_integer(item, dim), dim, axis.count)
            stop = first + 1
        start, end = _block_edge(axis, first), _block_edge(axis, max(first, stop))
        out.append(Range(dim, start, 1, end - start))
    return Selection(tuple(out))


def _block_edge(axis: Axis, chunk: int) -> int:
    if chunk >= axis.count:
        return axis.length
    return int(axis.start(np.asarray(chunk, np.int64)))


# -- pieces ---------------------------------------------------------------------------------------


def _as_tuple(selection: Any) -> list[Any]:
    return list(selection) if isinstance(selection, tuple) else [selection]


def _all_basic(items: Sequence[Any]) -> bool:
    return all(
        isinstance(i, (slice, int, EllipsisType, np.integer)) and not isinstance(i, bool)
        for i in items
    )


def _zip(items: Sequence[Any], shape: Shape) -> zip[tuple[Any, int]]:
    return zip(items, shape, strict=True)


def _consumed(item: Any) -> int:
    """Number of array dimensions one index uses up."""
    return item.ndim if isinstance(item, np.ndarray) and item.dtype == bool else 1


def _one(_item: Any) -> int:
    return 1


def _expand(items: Sequence[Any], shape: Shape, consumed: Any = _one) -> list[Any]:
    """Replace the Ellipsis (or the missing end) by full slices."""
    at = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(at) > 1:
        raise SelectionError("an index can only have a single ellipsis ('...')")
    used = sum(consumed(item) for item in items if item is not Ellipsis)
    if used > len(shape):
        raise SelectionError(
            f"too many indices: the array has {len(shape)} dimensions, but {used} were indexed"
        )
    rest = [slice(None)] * (len(shape) - used)
    cut = at[0] if at else len(items)
    return [*items[:cut], *rest, *items[cut + len(at) :]]


def _basic_axis(item: Any, dim: int, n: int) -> Range:
    if isinstance(item, slice):
        try:
            start, stop, step = item.indices(n)
        except (TypeError, ValueError) as error:
            raise SelectionError(f"axis {dim}: {error}") from None
        count = len(range(start, stop, step))
        if step > 0:
            return Range(dim, start, step, count)
        return Range(dim, start + (count - 1) * step if count else 0, -step, count, flip=True)
    return Range(dim, _bound(_integer(item, dim), dim, n), 1, 1, drop=True)


def _integer(item: Any, dim: int) -> int:
    try:
        if isinstance(item, (bool, np.bool_)) or item is None:
            raise TypeError
        return operator.index(item)
    except TypeError:
        raise SelectionError(
            f"axis {dim}: cannot index with {item!r} of type {type(item).__name__}; "
            "use integers, slices, Ellipsis, or integer or boolean arrays"
        ) from None


def _bound(index: int, dim: int, n: int) -> int:
    if not -n <= index < n:
        raise BoundsCheckError(f"index {index} is out of bounds for axis {dim} with size {n}")
    return index + n if index < 0 else index


def _wrap(index: NDArray, dim: int, n: int) -> Int64:
    """Index array with negative entries counted from the end; checked."""
    if not index.size:
        return index.astype(np.int64, copy=False)
    low, high = int(index.min()), int(index.max())  # before a large unsigned number turns negative
    if low < -n or high >= n:
        bad = low if low < -n else high
        raise BoundsCheckError(f"index {bad} is out of bounds for axis {dim} with size {n}")
    index = index.astype(np.int64, copy=False)
    return np.where(index < 0, index + n, index) if low < 0 else index


def _is_mask(item: Any) -> bool:
    dtype = getattr(item, "dtype", None)
    if dtype is not None:
        return bool(dtype == np.bool_)
    return isinstance(item, list) and bool(np.asarray(item).dtype == bool)


def _mask_to_index(mask: NDArray, dim: int, n: int) -> Int64:
    if len(mask) != n:
        raise SelectionError(
            f"axis {dim}: the boolean array has length {len(mask)}, the dimension {n}"
        )
    return np.nonzero(mask)[0].astype(np.int64, copy=False)


def _nonzero(mask: NDArray) -> Int64:
    """Indexes of the true elements, shape (mask.ndim, number); faster than ``np.nonzero``."""
    flat = np.flatnonzero(mask)
    return np.stack(np.unravel_index(flat, mask.shape)).astype(np.int64, copy=False)


def _integer_array(item: Any) -> NDArray:
    if isinstance(item, slice) or item is Ellipsis or item is None:
        raise TypeError(item)
    array = np.asarray(item)
    if array.size == 0 and not isinstance(item, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(item)
    return array


def _as_index_array(item: Any) -> Any:
    """Sequences and arrays as NumPy index arrays; integers, slices and the Ellipsis unchanged."""
    if item is None:
        raise SelectionError("new axes (None) cannot be selected; reshape the result instead")
    if isinstance(item, (slice, int, np.integer, EllipsisType)) and not isinstance(item, bool):
        return item
    if isinstance(item, str):
        raise SelectionError(f"no field selection is possible here: {item!r}")
    try:
        array = np.asarray(item)
    except (TypeError, ValueError) as error:
        raise SelectionError(f"cannot index with {item!r}") from error
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(item, np.ndarray):
        array = array.astype(np.int64)  # NumPy's rule: an empty list is an empty integer index
    if array.dtype.kind in "iu" and array.ndim == 0:
        return int(array)
    if array.dtype.kind not in "iub":
        raise SelectionError(
            f"index arrays must be of integer or boolean type, found {array.dtype} in {item!r}"
        )
    return array


def _advanced(items: Sequence[Any], shape: Shape) -> Selection:
    """NumPy's rule: index arrays (and integers beside them) broadcast into one joint axis."""
    basic: dict[int, Range] = {}
    arrays: list[NDArray] = []
    dims: list[int] = []
    blocks: list[int] = []  # which items were advanced, to see whether they are adjacent
    dim = 0
    for position, item in enumerate(items):
        if isinstance(item, slice):
            basic[position] = _basic_axis(item, dim, shape[dim])
            dim += 1
            continue
        blocks.append(position)
        if isinstance(item, np.ndarray) and item.dtype == bool:
            if item.shape != shape[dim : dim + item.ndim]:
                raise SelectionError(
                    f"axis {dim}: the boolean array has shape {item.shape}, "
                    f"the dimensions {shape[dim : dim + item.ndim]}"
                )
            if not item.ndim:
                raise SelectionError("a single boolean is no index; use an array of booleans")
            arrays += list(_nonzero(item))
            dims += range(dim, dim + item.ndim)
            dim += item.ndim
        else:
            arrays.append(_wrap(np.asarray(item), dim, shape[dim]))
            dims.append(dim)
            dim += 1
    try:
        arrays = list(np.broadcast_arrays(*arrays))
    except ValueError as error:
        raise SelectionError(f"index arrays could not be broadcast together: {error}") from None
    index = np.empty((len(dims), arrays[0].size), np.int64)
    for row, array in zip(index, arrays, strict=False):
        row[:] = array.ravel()
    points = Points(tuple(dims), index, arrays[0].shape)
    adjacent = blocks[-1] - blocks[0] == len(blocks) - 1
    axes: list[AxisSelection] = []
    for position in range(len(items)):
        if position in basic:
            axes.append(basic[position])
        elif adjacent and position == blocks[0]:
            axes.append(points)
    return Selection(tuple(axes) if adjacent else (points, *axes))
