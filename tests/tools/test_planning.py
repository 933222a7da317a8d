"""The planner of rechunking: pure, checked against counting by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarr_gpu.metadata.grids import RectilinearGrid, RegularAxis
from zarr_gpu.tools.planning import (
    Intermediate,
    TooLargeError,
    _between,
    edges_of,
    grids,
    plan_pass,
    plan_rechunk,
    touched,
)


def counted(source, plan):
    """Chunks that blocks of a pass reach into, one by one."""
    total = 0
    for region in plan.regions():
        total += math.prod(
            sum(
                1 for a, b in itertools.pairwise(edges_of(axis)) if a < part.stop and b > part.start
            )
            for axis, part in zip(source, region, strict=True)
        )
    return total


@st.composite
def layouts(draw):
    shape = tuple(draw(st.lists(st.integers(1, 60), min_size=1, max_size=3)))
    two = [tuple(draw(st.integers(1, n + 3)) for n in shape) for _ in range(2)]
    least = math.prod(min(n, c) for n, c in zip(shape, two[1], strict=True))
    return shape, *two, least * draw(st.integers(1, 50))


@given(layouts())
def test_blocks_are_whole_objects_and_cover_all_once(layout):
    shape, source, target, most = layout
    plan = plan_pass(grids(shape, source), grids(shape, target), most)
    seen = np.zeros(shape, int)
    for region in plan.regions():
        seen[region] += 1
        for part, n, c in zip(region, shape, target, strict=True):
            assert part.start % c == 0
            assert part.stop % c == 0 or part.stop == n
        assert math.prod(p.stop - p.start for p in region) <= min(most, plan.most)
    assert (seen == 1).all()
    assert plan.decoded == counted(grids(shape, source), plan)


@given(layouts())
def test_no_other_number_of_objects_in_a_block_cuts_less(layout):
    """Of blocks of 1, 2, 4, ... objects along each axis."""
    shape, source, target, most = layout
    here, there = grids(shape, source), grids(shape, target)
    plan = plan_pass(here, there, most)
    powers = [[2**i for i in range((a.count - 1).bit_length() + 1)] for a in there]
    for counts in itertools.product(*powers):
        edges = [
            np.append(edges_of(a)[:-1:k], a.length) for a, k in zip(there, counts, strict=True)
        ]
        if math.prod(int(np.diff(e).max()) for e in edges) > most:
            continue
        cost = math.prod(touched(edges_of(a), e) for a, e in zip(here, edges, strict=True))
        assert plan.decoded <= cost


@given(layouts(), st.floats(1, 4))
def test_two_passes_fit_into_each_other(layout, decodes):
    shape, source, target, most = layout
    here, there = grids(shape, source), grids(shape, target)
    plan = plan_rechunk(here, there, most, max_decodes=decodes)
    direct = plan_pass(here, there, most)
    if plan.intermediate is None:
        assert plan.passes[0].decoded == direct.decoded
        return
    first, second = plan.passes
    shards, chunks = plan.intermediate.shards, plan.intermediate.chunks
    assert all(s % c == 0 for s, c in zip(shards, chunks, strict=True))
    assert first.most <= most
    assert second.most <= most
    assert first.decoded == counted(here, first)
    assert first.decoded < direct.decoded
    for region in first.regions():  # whole shards of the intermediate array
        for part, n, s in zip(region, shape, shards, strict=True):
            assert part.start % s == 0
            assert part.stop % s == 0 or part.stop == n


def test_slices_to_series_need_an_intermediate_array():
    """10,000 images to time series: with 1/50 of the array in memory."""
    shape = (10_000, 100, 100)
    most = math.prod(shape) // 50
    source, target = grids(shape, (1, 100, 100)), grids(shape, (10_000, 5, 5))
    direct = plan_rechunk(source, target, most, max_decodes=math.inf)
    assert direct.decodes >= 50
    plan = plan_rechunk(source, target, most)
    assert plan.decodes == 1  # every chunk once
    assert plan.intermediate is not None
    first, second = plan.passes
    assert second.decoded / second.chunks <= 2
    assert len(first) <= 120
    assert len(second) <= 120
    assert math.prod(plan.intermediate.chunks) >= 10_000


@pytest.mark.parametrize("target", [(50, 64), (100, 1000), (7, 1000), (1000, 32)])
def test_enough_memory_decodes_every_chunk_once(target):
    source = grids((1000, 1000), (100, 64))
    plan = plan_rechunk(source, grids((1000, 1000), target), 1000 * 1000)
    assert plan.intermediate is None
    assert plan.decodes == 1


def test_aligned_chunks_need_no_memory():
    plan = plan_rechunk(grids((1 << 30,), (1 << 10,)), grids((1 << 30,), (1 << 12,)), 1 << 12)
    assert plan.decodes == 1
    assert plan.passes[0].most == 1 << 12


def test_an_object_that_does_not_fit_is_refused():
    with pytest.raises(TooLargeError) as caught:
        plan_pass(grids((100, 100), (1, 100)), grids((100, 100), (100, 50)), 4999)
    assert caught.value.needed == 5000


def test_rectilinear_grids():
    grid = RectilinearGrid(chunk_shapes=((3, 7, 1, 9), 4))
    target = grid.axes((20, 10))
    plan = plan_pass(grids((20, 10), (5, 5)), target, 9 * 4)
    assert [e.tolist() for e in plan.edges] == [[0, 3, 10, 11, 20], [0, 4, 8, 10]]
    assert plan.decoded == counted(grids((20, 10), (5, 5)), plan)
    plan = plan_rechunk(target, grids((20, 10), (20, 1)), 40, max_decodes=1)
    assert plan.passes[0].most <= 40


@pytest.mark.parametrize("shape", [(), (0,), (5, 0)])
def test_no_axes_and_no_elements(shape):
    one = tuple(1 for _ in shape)
    plan = plan_rechunk(grids(shape, one), grids(shape, one), 1)
    assert len(plan.passes[0]) == (1 if shape == () else 0)
    assert isinstance(grids((3,), (1,))[0], RegularAxis)


def test_inner_chunks_of_an_intermediate_array_divide_its_shards():
    assert _between((100,), [12], [5]) == Intermediate(shards=(12,), chunks=(4,))
    assert _between((100,), [12], [9]) == Intermediate(shards=(12,), chunks=(3,))
    assert _between((100,), [12], [7]) == Intermediate(shards=(12,), chunks=(6,))
    assert _between((100,), [12], [40]) == Intermediate(shards=(12,), chunks=(12,))
    assert _between((10,), [12], [4]) == Intermediate(shards=(12,), chunks=(4,))
