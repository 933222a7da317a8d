"""What zarr-python asks of a codec pipeline, as one of our selections.

zarr-python cuts a selection into chunks and hands a pipeline the pieces: a *batch* of ``(byte
getter, chunk spec, selection in the chunk, selection in the output, is the chunk complete)``. Here
the pieces are put together again, so that our planner can cut them its own way (inner chunks of
shards, whole blocks). What does not fit together exactly is refused (None): then zarr-python's own
pipeline has to do it piece by piece. Knows no store and nothing of zarr-python but these tuples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu._types import Int64, Shape
from zarr_gpu.indexing import AxisSelection, Points, Range, Selection
from zarr_gpu.metadata.grids import Axis, RegularAxis
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.plan import Plan, make_plan

Item: TypeAlias = tuple[Any, Any, Any, Any, bool]
Batch: TypeAlias = Sequence[Item]
Coords: TypeAlias = tuple[int, ...]


def split_key(key: str, encoding: ChunkKeyEncoding, ndim: int) -> tuple[str, Coords] | None:
    """The array's path (with a slash behind it, or empty) and the chunk that ``key`` names."""
    segments = 1
    if encoding.separator == "/":
        segments = ndim + 1 if encoding.name == "default" else max(1, ndim)
    at = len(key)
    for _ in range(segments):
        at = key.rfind("/", 0, at)
        if at < 0:
            break
    prefix = key[: at + 1]
    coords = encoding.coordinates(key[at + 1 :], ndim)
    return None if coords is None else (prefix, coords)


def selection_of(
    batch: Batch, coords: Sequence[Coords], axes: tuple[Axis, ...], shape: Shape, drop: Coords
) -> Selection | None:
    """The selection that the pieces of ``batch`` make up, or None.

    ``coords`` are their chunks, ``axes`` the grid, ``shape`` that of the output, and ``drop`` the
    axes that the output lacks although they are indexed by arrays.
    """
    where = batch[0][2]
    if type(where) is not tuple or len(where) != len(axes):
        return None
    if all(type(item) is slice or isinstance(item, (int, np.integer)) for item in where):
        found = None if drop else _box(batch, coords, axes)
    elif _is_coordinates(batch[0]):
        found = None if drop else _points(batch, coords, axes)
    else:
        found = _orthogonal(batch, coords, axes, drop)
    return found if found is not None and found.shape == shape else None


# -- integers and slices --------------------------------------------------------------------------


def _box(batch: Batch, coords: Sequence[Coords], axes: tuple[Axis, ...]) -> Selection | None:
    """Every axis runs from its first element in the first chunk to its last in the last."""
    first, last = batch[0][2], batch[-1][2]
    if type(last) is not tuple or len(last) != len(axes):
        return None
    ranges = []
    for dim, axis in enumerate(axes):
        one = _range(dim, axis, first[dim], last[dim], coords[0][dim], coords[-1][dim])
        if one is None:
            return None
        ranges.append(one)
    selection = Selection(tuple(ranges))
    if len(batch) == 1:  # nothing but where it belongs in the output is left to be compared
        spans = tuple([slice(0, one.count) for one in ranges if not one.drop])
        return selection if batch[0][3] == spans else None
    return selection if _is_box(batch, coords, make_plan(selection, axes)) else None


def _range(dim: int, axis: Axis, first: Any, last: Any, low: int, high: int) -> Range | None:
    start, end = _start(axis, low), _start(axis, high)
    if type(first) is slice and type(last) is slice:
        if not _is_plain(first) or not _is_plain(last) or (first.step or 1) != (last.step or 1):
            return None
        step = first.step or 1
        begin = start + first.start
        final = end + last.start + (last.stop - 1 - last.start) // step * step
        if final < begin or (final - begin) % step:
            return None
        return Range(dim, begin, step, (final - begin) // step + 1)
    if type(first) is slice or type(last) is slice or low != high or first != last:
        return None
    return Range(dim, start + int(first), 1, 1, drop=True)


def _is_plain(part: slice) -> bool:
    return (
        part.start is not None
        and part.stop is not None
        and 0 <= part.start < part.stop
        and (part.step is None or part.step > 0)
    )


def _start(axis: Axis, chunk: int) -> int:
    return chunk * axis.chunk if isinstance(axis, RegularAxis) else int(axis.edges[chunk])


def _is_box(batch: Batch, coords: Sequence[Coords], plan: Plan) -> bool:
    """True when the batch has exactly the rows of the plan, in its order."""
    counts = [len(axis) for axis in plan.axes]
    if math.prod(counts) != len(batch):
        return False
    inside: list[list[Any]] = []
    outside: list[list[Any]] = []
    for number, (segments, n) in enumerate(zip(plan.axes, counts, strict=True)):
        step = math.prod(counts[number + 1 :])
        line = [batch[i] for i in range(0, n * step, step)]  # what varies along this axis
        kept = not plan.selection.axes[number].drop  # type: ignore[union-attr]  # all are ranges
        position = len(outside)
        try:
            inside.append([item[2][number] for item in line])
            if kept:
                outside.append([item[3][position] for item in line])
        except (IndexError, TypeError):
            return False
        for (start, extent, by), found in zip(segments.boxes, inside[-1], strict=True):
            if not (_same(found, start, extent, by) if kept else found == start):
                return False
        if kept and outside[-1] != segments.spans:
            return False
    return (
        [item[2] for item in batch] == list(product(*inside))
        and [item[3] for item in batch] == list(product(*outside))
        and list(coords) == list(map(tuple, plan.chunk.tolist()))
    )


def _same(found: Any, start: int, extent: int, step: int) -> bool:
    """True for the slice that takes ``extent`` elements from ``start`` on."""
    return (
        type(found) is slice
        and found.start == start
        and (extent == 1 or (found.step or 1) == step)
        and found.stop is not None
        and -(-(found.stop - start) // (found.step or 1)) == extent
    )


# -- index arrays ---------------------------------------------------------------------------------


def _is_coordinates(item: Item) -> bool:
    """A point per element: one-dimensional index arrays of one length, and one output axis."""
    inside, outside = item[2], item[3]
    if isinstance(outside, tuple):
        return False
    return (
        all(isinstance(i, np.ndarray) and i.ndim == 1 and i.dtype.kind in "iu" for i in inside)
        and len({len(i) for i in inside}) == 1
    )


def _points(batch: Batch, coords: Sequence[Coords], axes: tuple[Axis, ...]) -> Selection | None:
    if not all(type(item[2]) is tuple and _is_coordinates(item) for item in batch):
        return None
    lengths = np.array([len(item[2][0]) for item in batch], np.int64)
    n = int(lengths.sum())
    out = _positions([item[3] for item in batch], lengths)
    if out is None or not _is_permutation(out, n):
        return None
    index = np.empty((len(axes), n), np.int64)
    for dim, axis in enumerate(axes):
        inside = np.concatenate([item[2][dim] for item in batch]).astype(np.int64, copy=False)
        begin = np.array([_start(axis, chunk[dim]) for chunk in coords], np.int64)
        index[dim, out] = inside + np.repeat(begin, lengths)
    return Selection((Points(tuple(range(len(axes))), index, (n,)),))


def _positions(parts: Sequence[Any], lengths: Int64) -> Int64 | None:
    """Where each element belongs on the output axis."""
    out = []
    for part, n in zip(parts, lengths.tolist(), strict=True):
        taken = _taken(part)
        if taken is None or len(taken) != n:
            return None
        out.append(taken)
    return np.concatenate(out)


def _taken(part: Any) -> Int64 | None:
    """The places that a slice or an index array takes, None for anything else."""
    if isinstance(part, slice):
        if part.start is None or part.stop is None or part.start < 0 or (part.step or 1) < 1:
            return None
        return np.arange(part.start, part.stop, part.step or 1, dtype=np.int64)
    if isinstance(part, np.ndarray):
        if part.dtype == np.bool_:
            return np.flatnonzero(part).astype(np.int64, copy=False)
        if part.dtype.kind in "iu":
            return part.reshape(-1).astype(np.int64, copy=False)
        return None
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        return np.array([part], np.int64)
    return None


def _is_permutation(places: Int64, n: int) -> bool:
    if len(places) != n or (n and (places.min() < 0 or places.max() >= n)):
        return False
    seen = np.zeros(n, np.bool_)
    seen[places] = True
    return bool(seen.all())


def _orthogonal(
    batch: Batch, coords: Sequence[Coords], axes: tuple[Axis, ...], drop: Coords
) -> Selection | None:
    """Every axis on its own: by a slice, an integer or an index array."""
    lines: list[dict[int, tuple[Any, Any]]] = [{} for _ in axes]
    arrays: list[tuple[Any, ...]] = []
    for item, chunk in zip(batch, coords, strict=True):
        pairs = _pairs(item, len(axes), drop)
        if pairs is None:
            return None
        arrays.append(pairs)
        for line, at, pair in zip(lines, chunk, pairs, strict=True):
            line.setdefault(at, pair)
    if math.prod(map(len, lines)) != len(batch) or len(set(coords)) != len(batch):
        return None
    for chunk, pairs in zip(coords, arrays, strict=True):
        for line, at, pair in zip(lines, chunk, pairs, strict=True):
            if not _equal(line[at], pair):
                return None
    found = [
        _axis(dim, axis, line) for dim, (axis, line) in enumerate(zip(axes, lines, strict=True))
    ]
    return None if None in found else Selection(tuple(a for a in found if a is not None))


def _pairs(item: Item, ndim: int, drop: Coords) -> tuple[Any, ...] | None:
    """Of each dimension: what is taken inside the chunk, and where that goes on its output axis."""
    inside, outside = item[2], item[3]
    if not isinstance(inside, tuple) or len(inside) != ndim:
        return None
    outside = outside if isinstance(outside, tuple) else (outside,)
    pairs: list[Any] = []
    position = 0
    for dim, part in enumerate(inside):
        integer = isinstance(part, (int, np.integer)) and not isinstance(part, bool)
        if dim in drop or integer:
            pairs.append((part, None))
            continue
        if position == len(outside):
            return None
        pairs.append((part, outside[position]))
        position += 1
    return tuple(pairs) if position == len(outside) else None


def _equal(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    if a is b:
        return True
    for x, y in zip(a, b, strict=True):
        if x is y:
            continue
        if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
            if not np.array_equal(np.ravel(x), np.ravel(y)):
                return False
        elif x != y:
            return False
    return True


def _axis(dim: int, axis: Axis, line: dict[int, tuple[Any, Any]]) -> AxisSelection | None:
    index: list[Int64] = []
    places: list[Int64] = []
    for chunk, (inside, outside) in line.items():
        taken = _taken(inside)
        if taken is None:
            return None
        index.append(taken + _start(axis, chunk))
        if outside is not None:
            place = _taken(outside)
            if place is None or len(place) != len(taken):
                return None
            places.append(place)
    joined = np.concatenate(index)
    if len(places) < len(index):  # an integer
        return Range(dim, int(joined[0]), 1, 1, drop=True) if len(joined) == 1 else None
    out = np.concatenate(places)
    if not _is_permutation(out, len(joined)):
        return None
    ordered = np.empty_like(joined)
    ordered[out] = joined
    return _as_range(dim, ordered) or Points((dim,), ordered[None, :], (len(ordered),))


def _as_range(dim: int, index: Int64) -> Range | None:
    """Evenly spaced indexes as a range."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step < 1 or (np.diff(index) != step).any():
        return None
    return Range(dim, int(index[0]), step, len(index))


# -- the shape of the array -----------------------------------------------------------------------


def grid_shape(
    batch: Batch,
    coords: Sequence[Coords],
    selection: Selection,
    known: Shape,
    axes: tuple[Axis, ...],
    *,
    writes: bool,
) -> Shape:
    """A shape for planning: that of the array, as far as the batch confirms it.

    ``known`` is the shape when the array was opened. It may have been resized since, which a
    pipeline is not told. Whether a last chunk, cut off by the end of the array, is written
    completely depends on the shape, so such a chunk counts as cut off only where zarr-python says
    that it is complete; otherwise it is merged with what is stored, which is always right.
    """
    shape = list(known)
    for axis in selection.axes:
        for position, dim in enumerate(axis.dims if isinstance(axis, Points) else (axis.dim,)):
            if isinstance(axis, Points):
                end = int(axis.index[position].max()) + 1 if axis.count else 0
            else:
                end = axis.start + (axis.count - 1) * axis.step + 1
            if end < known[dim]:
                continue
            shape[dim] = end
            if writes and end:
                last = max(at[dim] for at in coords)
                told = any(
                    item[4] for item, at in zip(batch, coords, strict=True) if at[dim] == last
                )
                if not told:
                    shape[dim] = _start(axes[dim], last + 1)
    return tuple(shape)
