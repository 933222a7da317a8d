import tracemalloc

import numpy as np
import pytest

from tests.metadata.golden import locations, v3_document
from zarr_gpu.errors import MetadataError
from zarr_gpu.metadata.grids import RectilinearGrid, RegularGrid
from zarr_gpu.metadata.v3 import parse_array_v3


def parse(shape, grid):
    return parse_array_v3(v3_document(shape=shape, chunk_grid=grid), "zarr.json").chunk_grid


def regular(*chunks):
    return {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}


def rectilinear(*axes):
    return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": list(axes)}}


def test_regular_grid():
    assert parse([10, 20], regular(3, 30)) == RegularGrid(chunk_shape=(3, 30))
    assert parse([], regular()) == RegularGrid(chunk_shape=())


@pytest.mark.parametrize("zero", [0, False])
def test_a_stored_chunk_size_of_zero_reads_as_one_where_the_dimension_is_empty(zero):
    assert parse([0, 5], regular(zero, True)) == RegularGrid(chunk_shape=(1, 1))
    with pytest.raises(MetadataError, match=r"chunk_shape\[0\]"):
        parse([1, 5], regular(zero, 5))


def test_run_lengths_are_expanded_and_written_back_as_read():
    document = rectilinear(4, [[3, 3], 1], [5, [2, 1], 13])
    grid = parse([10, 10, 20], document)
    assert grid == RectilinearGrid(chunk_shapes=(4, (3, 3, 3, 1), (5, 2, 13)))
    assert grid.to_json() == document
    assert [axis.count for axis in grid.axes((10, 10, 20))] == [3, 4, 3]


def test_chunks_may_hang_over_but_must_cover():
    assert parse([10], rectilinear([[4, 3]])).chunk_shapes == ((4, 4, 4),)
    with pytest.raises(MetadataError, match="add up to 8, but the array has 10"):
        parse([10], rectilinear([[4, 2]]))


@pytest.mark.parametrize(
    ("axis", "where"),
    [
        ([], "[0]"),
        (0, "[0]"),
        (True, "[0]"),
        ([5, -1], "[0][1]"),
        ([[5]], "[0][0]"),
        ([[5, 0]], "[0][0][1]"),
        ([[0, 5]], "[0][0][0]"),
        ([[2.0, 5]], "[0][0][0]"),
        ([[5, 10**12]], "[0]"),
        ([[2**62, 4]], "[0]"),
    ],
)
def test_faults_of_a_dimension_are_named(axis, where):
    with pytest.raises(MetadataError) as caught:
        parse([10], rectilinear(axis))
    assert locations(caught.value) == {f"chunk_grid.configuration.chunk_shapes{where}"}


def test_long_runs_are_counted_before_they_are_expanded():
    tracemalloc.start()
    try:
        with pytest.raises(MetadataError, match="chunks listed") as caught:
            parse([1] * 3, rectilinear([[1, 10**12]], [[1, 2**24]], [1]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    where = "chunk_grid.configuration.chunk_shapes"
    assert locations(caught.value) == {f"{where}[0]", f"{where}[2]"}
    assert peak < 300 << 20  # one dimension of 2**24 is allowed, and was expanded


@pytest.mark.parametrize(
    ("grid", "where"),
    [
        (None, "chunk_grid"),
        ("regular", "chunk_grid.configuration.chunk_shape"),
        ({"name": "hexagonal"}, "chunk_grid.name"),
        ({**regular(1), "must_understand": False}, "chunk_grid.must_understand"),
        (regular(1, 1), "chunk_grid.configuration.chunk_shape"),
        (regular(2**63), "chunk_grid.configuration.chunk_shape[0]"),
        (rectilinear(1, 1), "chunk_grid.configuration.chunk_shapes"),
        (rectilinear(*[1] * 65), "chunk_grid.configuration.chunk_shapes"),
        (
            {"name": "regular", "configuration": {"chunk_shape": [1], "x": 1}},
            "chunk_grid.configuration.x",
        ),
        (
            {"name": "rectilinear", "configuration": {"kind": "file", "chunk_shapes": [1]}},
            "chunk_grid.configuration.kind",
        ),
    ],
)
def test_faults_of_a_grid_are_named(grid, where):
    with pytest.raises(MetadataError) as caught:
        parse([10], grid)
    assert locations(caught.value) == {where}


@pytest.mark.parametrize(
    ("shape", "where"),
    [
        (7, "shape"),
        ("seven", "shape"),
        ([1.0], "shape[0]"),
        ([True], "shape[0]"),
        ([-1], "shape[0]"),
        ([2**63], "shape[0]"),
        ([2**32, 2**32], "shape"),
        ([1] * 65, "shape"),
    ],
)
def test_faults_of_a_shape_are_named(shape, where):
    with pytest.raises(MetadataError) as caught:
        parse(shape, regular(1))
    assert locations(caught.value) == {where}


def test_the_largest_chunk_of_a_rectilinear_grid_is_bounded():
    assert parse([10], rectilinear([2**30 - 1])).chunk_shapes == ((2**30 - 1,),)
    with pytest.raises(MetadataError, match=r"limits\.chunk_nbytes"):
        parse([10], rectilinear([1, 2**30 + 1]))


def test_empty_rank_zero_grid_has_one_chunk():
    grid = parse([], rectilinear())
    assert grid.axes(()) == ()
    assert np.prod([axis.count for axis in grid.axes(())]) == 1
