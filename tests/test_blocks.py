"""Blocks cover every row of a plan once, and whole chunks where they are whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zarr_gpu import blocks, indexing
from zarr_gpu.blocks import Blocks
from zarr_gpu.metadata.grids import RegularAxis
from zarr_gpu.plan import make_plan

counts = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@given(counts, st.integers(1, 40))
def test_blocks_are_all_rows_once_in_c_order_and_not_too_large(counts, most):
    grid = Blocks(counts, most)
    rows = [list(blocks.rows_of(grid[number])) for number in range(len(grid))]
    assert all(1 <= len(some) <= most for some in rows)
    flat = [row for some in rows for row in some]
    assert sorted(flat) == list(np.ndindex(*counts))
    assert [some[0] for some in rows] == sorted(some[0] for some in rows)


def test_blocks_are_even_and_filled_from_the_last_axis():
    assert Blocks((5, 65), 64).per == (1, 33)
    assert Blocks((7, 3, 4), 24).per == (2, 3, 4)
    assert Blocks((2, 2), 10)[0] == (range(2), range(2))
    assert Blocks((4, 2), 2, (10, 20))[1] == (range(11, 12), range(20, 22))


@given(counts, st.integers(1, 40), st.integers(0, 3))
def test_square_blocks_are_all_rows_once_and_not_too_large(counts, most, first):
    box = tuple(range(first, first + n) for n in counts)
    some = blocks.cut_square(box, most)
    rows = [row for block in some for row in blocks.rows_of(block)]
    assert sorted(rows) == list(blocks.rows_of(box))
    assert all(len(list(blocks.rows_of(block))) <= most for block in some)
    everything = list(blocks.rows_of(box))
    assert [everything[number] for number in blocks.numbers_in(box, some)] == rows


def test_square_blocks_have_equal_sides():
    box = (range(16), range(16))
    assert blocks.cut_square(box, 70)[1] == (range(8), range(8, 16))
    assert blocks.cut_square(box, 32)[1] == (range(4), range(8, 16))
    assert blocks.cut_square((range(2), range(16)), 32) == [(range(2), range(16))]


@st.composite
def boxes(draw):
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    chunk = tuple(draw(st.integers(1, 5)) for _ in shape)
    selection = tuple(draw(st.slices(n)) for n in shape)
    return shape, chunk, selection


@given(boxes())
def test_whole_are_the_rows_that_take_all_of_their_chunk(case):
    shape, chunk, selection = case
    axes = tuple(RegularAxis(n, c) for n, c in zip(shape, chunk, strict=True))
    plan = make_plan(indexing.parse_basic(selection, shape), axes)
    if not len(plan):
        return
    whole = blocks.whole_ranges(plan)
    block = tuple(range(len(axis)) for axis in plan.axes)
    inner, rest = blocks.split(block, whole)
    taken = [] if inner is None else list(blocks.rows_of(inner))
    assert sorted([*taken, *rest]) == list(blocks.rows_of(block))
    extents = {tuple(s): tuple(e) for s, e in zip(plan.segment, plan.extent, strict=True)}
    assert all(extents[row] == chunk for row in taken)
    if all(axis.step == 1 or c > 1 for axis, c in zip(plan.axes, chunk, strict=True)):
        assert not any(extents[row] == chunk for row in rest)


@given(boxes(), st.booleans())
def test_places_are_views_of_where_the_chunks_belong(case, turned):
    shape, chunk, _ = case
    counts = tuple(n // c for n, c in zip(shape, chunk, strict=True))
    if not all(counts):
        return
    inside = tuple(n * c for n, c in zip(counts, chunk, strict=True))
    axes = tuple(RegularAxis(n, c) for n, c in zip(inside, chunk, strict=True))
    plan = make_plan(indexing.parse_basic((), inside), axes)
    out = np.arange(np.prod(inside)).reshape(inside)
    view = out[::-1] if turned else out
    places = blocks.place_of(view, plan.axes, tuple(map(range, counts)), chunk)
    assert np.shares_memory(places, out)
    for number in np.ndindex(*counts):
        where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(number, chunk, strict=True))
        assert np.array_equal(places[number], view[where])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(sorted))
def test_runs_of_objects_cover_all_segments(column):
    runs = blocks.by_object(np.array(column))
    assert [i for run in runs for i in run] == list(range(len(column)))
    for run in runs:
        assert len({column[i] for i in run}) == 1
    assert len(runs) == len(set(column))


def test_blocks_of_a_box_are_consecutive_rows():
    box = (range(2, 4), range(5, 12))
    parts = blocks.cut(box, 4)
    rows = [row for number in range(len(parts)) for row in blocks.rows_of(parts[number])]
    assert rows == list(blocks.rows_of(box))
    assert len(parts) == 4


def places():
    """Where chunks of 3 x 4 elements may be in values of all kinds."""
    for dtype in ("u1", "<f4", ">f4", "M8[s]", "c16", "i4,S3", "V300"):
        raw = np.random.default_rng(1).bytes(6 * 8 * np.dtype(dtype).itemsize)
        values = np.frombuffer(raw, dtype).reshape(6, 8)
        yield from (values[:3, 4:], values[::2, ::2], values[2::-1, :4], values[:3, 3::-1])
        yield from (values.T[:3, :4], np.broadcast_to(values[0, :4], (3, 4)))
        yield np.broadcast_to(values[0, 0], (3, 4))


def test_rows_that_move_as_items_are_those_that_move_by_element():
    for place in places():
        for dtype in {place.dtype, place.dtype.newbyteorder(">")}:
            for order in ("C", "F"):
                expected = np.array(place, dtype, order=order)
                found = np.zeros_like(expected)
                blocks.move(place, found)
                assert found.tobytes() == expected.tobytes(), (place.dtype, place.strides)
    single = np.zeros((), "i4")
    blocks.move(np.array(7, "i4"), single)
    assert single == 7
