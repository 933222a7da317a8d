"""Selections, plans and assembly equal NumPy indexing, whatever the chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from zarr_gpu import indexing
from zarr_gpu.assembler import Assembler
from zarr_gpu.errors import BoundsCheckError, SelectionError, VindexInvalidSelectionError
from zarr_gpu.indexing import Selection
from zarr_gpu.metadata.grids import Axis, RectilinearGrid, RegularAxis, RegularGrid
from zarr_gpu.plan import make_plan, place

shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    parts: list[Any] = []
    for n in shape:
        if draw(st.booleans()):
            parts.append(draw(st.integers(1, 8)))
        else:
            lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
            while sum(lengths) < n:
                lengths.append(draw(st.integers(1, 4)))
            parts.append(tuple(lengths))
    return RectilinearGrid(chunk_shapes=tuple(parts)).axes(shape)


@st.composite
def index_arrays(draw: st.DrawFn, n: int, size: int | None = None) -> Any:
    if draw(st.booleans()) and size is None:
        return np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    if n == 0:
        return np.empty(0, int)
    k = draw(st.integers(0, 6)) if size is None else size
    return np.array(draw(st.lists(st.integers(-n, n - 1), min_size=k, max_size=k)), int)


@st.composite
def basic_items(draw: st.DrawFn, n: int) -> Any:
    if n and draw(st.booleans()):
        return draw(st.integers(-n, n - 1))
    return draw(st.slices(n))


def read(data: np.ndarray, selection: Selection, axes: tuple[Axis, ...]) -> np.ndarray:
    """Read ``selection`` through a plan, cutting chunks out of ``data`` padded to full chunks."""
    plan = make_plan(selection, axes)
    assembler = Assembler(plan)
    out = np.full(selection.shape, -1, data.dtype)
    work = np.full(selection.work_shape, -1, data.dtype)
    for row, coords in zip(plan.segment.tolist(), plan.chunk.tolist(), strict=True):
        work[assembler.out_index(row)] = assembler.take(chunk_of(data, axes, coords), row)
    view = selection.work_view(out)
    view[...] = work
    return view.reshape(out.shape) if not np.shares_memory(view, out) else out


def chunk_of(data: np.ndarray, axes: tuple[Axis, ...], coords: list[int]) -> np.ndarray:
    region = []
    pad = []
    for axis, i in zip(axes, coords, strict=True):
        start, extent = int(axis.start(np.asarray(i))), int(axis.extent(np.asarray(i)))
        region.append(slice(start, start + extent))
        pad.append((0, max(0, start + extent - axis.length)))
    return np.pad(data[tuple(region)], pad, constant_values=-9) if pad else data


@given(st.data())
def test_basic_selection_through_a_plan_equals_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axes = data.draw(grids(shape))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    items = tuple(data.draw(basic_items(n)) for n in shape)
    selection = indexing.parse_basic(items, shape)
    np.testing.assert_array_equal(read(array, selection, axes), array[items])


@given(st.data())
def test_numpy_selection_through_a_plan_equals_numpy(data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6))
    axes = data.draw(grids(shape))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    size = data.draw(st.integers(0, 4))
    items = tuple(
        data.draw(index_arrays(n, size)) if data.draw(st.booleans()) else data.draw(basic_items(n))
        for n in shape
    )
    selection = indexing.parse_numpy(items, shape)
    np.testing.assert_array_equal(read(array, selection, axes), array[items])


@given(st.data())
def test_index_arrays_of_several_dimensions_equal_numpy(data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6))
    axes = data.draw(grids(shape))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    index = data.draw(
        npst.integer_array_indices(shape, result_shape=npst.array_shapes(max_dims=3, max_side=3))
    )
    selection = indexing.parse_coordinate(index, shape)
    np.testing.assert_array_equal(read(array, selection, axes), array[index])
    np.testing.assert_array_equal(
        read(array, indexing.parse_numpy(index, shape), axes), array[index]
    )


@given(st.data())
def test_orthogonal_selection_equals_numpy_axis_by_axis(data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6))
    axes = data.draw(grids(shape))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    items = tuple(
        data.draw(index_arrays(n)) if data.draw(st.booleans()) else data.draw(basic_items(n))
        for n in shape
    )
    expected = array
    for d in reversed(range(len(shape))):
        expected = expected[(slice(None),) * d + (items[d],)]
    selection = indexing.parse_orthogonal(items, shape)
    np.testing.assert_array_equal(read(array, selection, axes), expected)


@given(st.data())
def test_mask_selection_equals_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axes = data.draw(grids(shape))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    mask = data.draw(npst.arrays(bool, shape))
    selection = indexing.parse_mask(mask, shape)
    np.testing.assert_array_equal(read(array, selection, axes), array[mask])


@given(st.data())
def test_put_writes_exactly_the_selected_elements(data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6))
    axes = data.draw(grids(shape))
    size = data.draw(st.integers(0, 4))
    items = tuple(
        data.draw(index_arrays(n, size)) if data.draw(st.booleans()) else data.draw(basic_items(n))
        for n in shape
    )
    orthogonal = data.draw(st.booleans())
    parse = indexing.parse_orthogonal if orthogonal else indexing.parse_numpy
    selection = parse(items, shape)
    plan = make_plan(selection, axes)
    assembler = Assembler(plan)
    values = np.arange(1, 1 + selection.size).reshape(selection.work_shape)
    written: dict[tuple[int, ...], int] = {}
    for row, coords in zip(plan.segment.tolist(), plan.chunk.tolist(), strict=True):
        extent = [int(a.extent(np.asarray(i))) for a, i in zip(axes, coords, strict=True)]
        start = [int(a.start(np.asarray(i))) for a, i in zip(axes, coords, strict=True)]
        chunk = np.zeros(extent, int)
        assembler.put(chunk, row, values[assembler.out_index(row)])
        for where in zip(*np.nonzero(chunk), strict=True):
            at = tuple(int(s + w) for s, w in zip(start, where, strict=True))
            written[at] = int(chunk[where])
    source = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    picked = read(source, selection, axes)
    touched = {tuple(int(i) for i in np.unravel_index(p, shape)) for p in picked.ravel().tolist()}
    assert set(written) == touched
    work = selection.work_view(picked)
    for at, value in written.items():
        assert work.ravel()[value - 1] == source[at]


@given(st.data())
def test_complete_rows_cover_every_element_inside_the_array(data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=6))
    axes = data.draw(grids(shape))
    items = tuple(
        data.draw(index_arrays(n)) if data.draw(st.booleans()) else data.draw(basic_items(n))
        for n in shape
    )
    selection = indexing.parse_orthogonal(items, shape)
    plan = make_plan(selection, axes)
    chosen = np.zeros(shape, bool)
    picked = read(np.arange(chosen.size).reshape(shape), selection, axes)
    chosen.ravel()[picked.ravel()] = True
    for full, coords in zip(plan.complete(plan.segment), plan.chunk.tolist(), strict=True):
        region = tuple(
            slice(
                int(a.start(np.asarray(i))), int(a.start(np.asarray(i)) + a.extent(np.asarray(i)))
            )
            for a, i in zip(axes, coords, strict=True)
        )
        assert full == chosen[region].all()


def test_rows_are_grouped_by_shard_with_slots_of_every_level() -> None:
    shape = (16, 8)
    leaf, per_inner, per_outer = (1, 2), (2, 2), (4, 1)
    outer = RegularGrid(chunk_shape=(8, 4)).axes(shape)
    leaves = RegularGrid(chunk_shape=leaf).axes(shape)
    plan = make_plan(indexing.parse_basic((slice(5, 12), slice(1, 5)), shape), leaves)
    chunks = plan.chunk
    placed = place(chunks, outer, leaf, (per_outer, per_inner))
    seen = []
    for number, coords in enumerate(placed.objects.tolist()):
        for row in placed.rows[placed.first[number] : placed.first[number + 1]].tolist():
            o = np.array(coords) * (4, 1)  # inner shards per outer shard
            o = (o + np.unravel_index(placed.slots[0, row], per_outer)) * per_inner
            o = o + np.unravel_index(placed.slots[1, row], per_inner)
            seen.append((row, tuple(o.tolist())))
    assert sorted(seen) == [(row, tuple(c)) for row, c in enumerate(chunks.tolist())]


def test_shards_of_a_rectilinear_grid_have_slots_of_their_own_shape() -> None:
    shape = (6,)
    outer = RectilinearGrid(chunk_shapes=((2, 4),)).axes(shape)
    leaves = RegularGrid(chunk_shape=(1,)).axes(shape)
    plan = make_plan(indexing.parse_basic(slice(None), shape), leaves)
    placed = place(plan.chunk, outer, (1,), ((2,),))
    assert placed.objects.tolist() == [[0], [1]]
    assert placed.slots.tolist() == [[0, 1, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        ((0, 0, 0), SelectionError),
        (None, SelectionError),
        ("a", SelectionError),
        (1.5, SelectionError),
        (3, BoundsCheckError),
        (-4, BoundsCheckError),
        ([0, 3], BoundsCheckError),
        ((..., ...), SelectionError),
        (([0, 1], [0, 1, 2]), SelectionError),
        (np.ones((2, 2), bool), SelectionError),
        (True, SelectionError),
    ],
)
def test_impossible_selections_are_index_errors(selection: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        indexing.parse_numpy(selection, (3, 4))
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("selection", [slice(None), (0,), ([0], [1], [2]), ([0.5], [1])])
def test_coordinates_must_be_one_integer_array_per_axis(selection: Any) -> None:
    with pytest.raises(VindexInvalidSelectionError):
        indexing.parse_coordinate(selection, (3, 4))


def test_a_tuple_of_integers_inside_a_tuple_is_an_index_array() -> None:
    array = np.arange(12).reshape(3, 4)
    selection = indexing.parse_numpy(((0, 1),), (3, 4))
    axes = RegularGrid(chunk_shape=(2, 2)).axes((3, 4))
    np.testing.assert_array_equal(read(array, selection, axes), array[[0, 1]])


def test_a_plan_of_a_million_chunks_has_no_python_objects_per_chunk() -> None:
    axes = RegularGrid(chunk_shape=(1, 1, 1)).axes((100, 100, 100))
    plan = make_plan(indexing.parse_basic(..., (100, 100, 100)), axes)
    assert len(plan) == 10**6
    assert plan.chunk.shape == (10**6, 3)
    assert sum(len(axis) for axis in plan.axes) == 300


def test_steps_over_many_chunks_do_not_count_them() -> None:
    axes = (RegularAxis(10**18, 3),)
    plan = make_plan(indexing.parse_basic(slice(5, None, 4 * 10**17), (10**18,)), axes)
    assert plan.chunk[:, 0].tolist() == [1, (5 + 4 * 10**17) // 3, (5 + 8 * 10**17) // 3]
    assert plan.chunk_start[:, 0].tolist() == [2, (5 + 4 * 10**17) % 3, (5 + 8 * 10**17) % 3]
    assert plan.extent[:, 0].tolist() == [1, 1, 1]
