"""What must not depend on the number of chunks, counted instead of timed: calls and memory."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.config import config
from zarr_gpu.indexing import parse_basic, parse_coordinate, parse_mask, parse_orthogonal
from zarr_gpu.metadata.grids import RegularAxis
from zarr_gpu.plan import make_plan
from zarr_gpu.stores.local import LocalStore

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="counts what CPython reports"
)

SIDE = 10
"""Of a chunk; arrays are square."""
NUMBERS = 256
"""Bytes by which the same objects may differ: larger integers, and what a dictionary grows by."""


@pytest.fixture(autouse=True)
def one_thread():
    """``sys.setprofile`` watches one thread."""
    with config.set({"threads": 1}):
        yield


def calls(do: Callable[[], object]) -> int:
    """Functions entered by ``do()``, those written in C included."""
    entered = 0

    def watch(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal entered
        entered += event in ("call", "c_call")

    gc.collect()
    gc.disable()  # finalizers of other tests are not our work
    sys.setprofile(watch)
    try:
        do()
    finally:
        sys.setprofile(None)
        gc.enable()
    return entered


def memory(do: Callable[[], object], runs: int = 3) -> int:
    """Most bytes allocated at a time by ``do()``; the least of some runs, because lists of objects
    to be used again fill up.
    """
    found = []
    tracemalloc.start()
    try:
        for _ in range(runs):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            do()
            found.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return min(found)


def square(chunks: int, **arguments: Any) -> zarr_gpu.Array:
    side = round(chunks**0.5) * SIDE
    array = zarr_gpu.create_array(
        {},
        shape=(side, side),
        chunks=(SIDE, SIDE),
        dtype="i4",
        fill_value=1,
        device="cpu",
        **arguments,
    )
    array[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = 5
    return array


REQUESTS: dict[str, Callable[[zarr_gpu.Array], object]] = {
    "element": lambda a: a[SIDE, SIDE],
    "last element": lambda a: a[-1, -1],
    "chunk": lambda a: a[SIDE : 2 * SIDE, SIDE : 2 * SIDE],
    "box": lambda a: a[5:25, 5:25],
    "rows and columns": lambda a: a.oindex[[1, 15, 99], [3, 98]],
    "points": lambda a: a.vindex[[1, 15, 99], [3, 15, 98]],
    "block": lambda a: a.blocks[1, 1],
    "write an element": lambda a: a.__setitem__((15, 15), 3),
    "write a chunk": lambda a: a.__setitem__((slice(SIDE, 2 * SIDE),) * 2, 3),
    "write points": lambda a: a.vindex.__setitem__(([1, 15, 99], [3, 15, 98]), 7),
    "open": lambda a: zarr_gpu.open_array(a.store, device="cpu"),
    "refresh": lambda a: a.refresh(),
    "what it says": lambda a: (repr(a), repr(a.info), len(a), a.nbytes, a.nchunks, a.cdata_shape),
    "explain": lambda a: a.explain((3, 3)),
    "stored": lambda a: (a.nbytes_stored(), a.nchunks_initialized),
    "attributes": lambda a: a.attrs.update(title="x"),
}


@pytest.mark.parametrize("shards", [None, (2 * SIDE, 2 * SIDE)], ids=["plain", "sharded"])
@pytest.mark.parametrize("name", list(REQUESTS))
def test_requests_cost_the_same_in_arrays_of_any_size(name, shards):
    do = REQUESTS[name]
    found = []
    for chunks in (10**2, 10**8, 10**12):
        array = square(chunks, shards=shards)
        do(array)
        do(array)  # what is done once: imports, caches
        found.append((calls(lambda array=array: do(array)), memory(lambda array=array: do(array))))
    few, *more = found
    for entered, nbytes in more:
        assert entered == few[0]
        assert nbytes <= few[1] + NUMBERS


def test_growing_and_shrinking_lists_no_chunks(tmp_path):
    """Lengths at chunk borders: what hangs over an edge is looked at chunk by chunk."""
    found = []
    for chunks in (10**4, 10**8, 10**12):
        n = chunks * SIDE

        def resize(n=n, chunks=chunks):
            array = zarr_gpu.create_array(
                LocalStore(tmp_path / str(chunks)), shape=n, chunks=SIDE, dtype="i4", overwrite=True
            )
            array[:3] = 4
            array.resize(n + 10**4 * SIDE)
            array.resize(10**4 * SIDE)
            array.resize(n)
            assert array[:4].tolist() == [4, 4, 4, 0]

        resize()
        found.append((calls(resize), memory(resize)))
    assert len({entered for entered, _ in found[1:]}) == 1
    assert found[2][1] <= found[1][1] + 4 * NUMBERS


def test_iteration_begins_at_once():
    found = []
    for chunks in (10**2, 10**8):
        array = zarr_gpu.create_array(
            {}, shape=chunks * SIDE, chunks=SIDE, dtype="i4", fill_value=3, device="cpu"
        )
        next(iter(array))
        assert next(iter(array)) == 3
        found.append(memory(lambda array=array: next(iter(array))))
    assert found[1] <= found[0] + NUMBERS


def test_iteration_ends_with_a_part_of_a_chunk():
    values = np.arange(23, dtype="i4")
    for chunks in ((4,), ((5, 7, 11),), (23,)):
        array = zarr_gpu.create_array({}, data=values, chunks=chunks, device="cpu")
        assert list(array) == values.tolist()


def selections(side: int) -> dict[str, Callable[[], Any]]:
    """Everything, an element of every chunk, and a list of all elements."""
    shape, first = (side, side), np.arange(0, side, 2)
    rows, columns = (axis.ravel() for axis in np.meshgrid(first, first, indexing="ij"))
    mixed = np.random.default_rng(0).permutation(len(rows))
    mask = np.ones(shape, np.bool_)
    return {
        "everything": lambda: parse_basic(..., shape),
        "strides": lambda: parse_basic((slice(None, None, 2),) * 2, shape),
        "backwards": lambda: parse_basic((slice(None, None, -1),) * 2, shape),
        "orthogonal": lambda: parse_orthogonal((first, first), shape),
        "coordinates": lambda: parse_coordinate((rows, columns), shape),
        "unordered coordinates": lambda: parse_coordinate((rows[mixed], columns[mixed]), shape),
        "mask": lambda: parse_mask(mask, shape),
    }


def columns(selection: Any, grids: Any) -> list[Any]:
    plan = make_plan(selection, grids)
    segment = plan.segment
    found = [plan.chunk, plan.chunk_start, plan.out_start, plan.extent]
    return [len(plan), segment, *found, plan.complete(segment)]


@pytest.mark.parametrize("name", list(selections(4)))
def test_plans_make_no_calls_and_little_memory_per_chunk(name):
    found = []
    ranges = name in ("everything", "strides", "orthogonal")
    for chunks in (10**4, 10**6 if ranges else 300**2):
        side = round(chunks**0.5) * 2
        parse = selections(side)[name]
        grids = (RegularAxis(side, 2),) * 2
        assert columns(parse(), grids)[0] == chunks
        entered = calls(lambda parse=parse, grids=grids: columns(parse(), grids))
        nbytes = memory(lambda parse=parse, grids=grids: columns(parse(), grids), 1)
        found.append((entered, nbytes / chunks))
    # Sorting takes a call for each digit of chunk numbers, of which there may be one more.
    assert found[1][0] <= found[0][0] + 8
    # Five columns of two integers, and what makes them; lists have four points to the chunk.
    assert found[1][1] <= (480 if name == "mask" else 240)


def test_all_elements_of_chunks_that_are_listed_need_not_be_read():
    index = np.array([[1, 0, 1, 0, 2, 3, 3], [0, 1, 1, 0, 0, 0, 0]])
    plan = make_plan(parse_coordinate(tuple(index), (4, 3)), (RegularAxis(4, 2), RegularAxis(3, 2)))
    # The first chunk has all four elements, the other one has three, one of them twice.
    assert plan.complete(plan.segment).tolist() == [True, False]
    grids = (RegularAxis(2, 2), RegularAxis(3, 2))  # of the last chunk, half lies inside
    twice = make_plan(parse_coordinate(([0, 0, 1], [2, 2, 2]), (2, 3)), grids)
    assert twice.complete(twice.segment).tolist() == [True]


@pytest.mark.parametrize("shards", [None, (16,) * 3], ids=["plain", "sharded"])
def test_chunks_are_told_apart_in_grids_whose_chunks_no_integer_can_count(shards):
    n = 2**40
    array = zarr_gpu.create_array(
        {}, shape=(n,) * 3, chunks=(8,) * 3, shards=shards, dtype="u1", fill_value=9, device="cpu"
    )
    where = ([n - 1, 8, n // 2, 0, 0], [n - 1, 0, 0, n // 2, 0], [n - 1, 0, 0, 3, 0])
    array.vindex[where] = [1, 2, 3, 4, 5]
    assert array.vindex[where].tolist() == [1, 2, 3, 4, 5]
    assert [int(array[i]) for i in zip(*where, strict=True)] == [1, 2, 3, 4, 5]
    assert array.oindex[[0, 8, n // 2], [n // 2, 0], [3, 0]][:, 0, 0].tolist() == [4, 9, 9]
    assert array[:: n // 2, 0, 0].tolist() == [5, 3]


def test_metadata_are_copied_with_all_members():
    document = zarr_gpu.create_array(
        {}, shape=(3, 4), chunks=(2, 2), dtype="i2", fill_value=3, attributes={"a": 1},
        dimension_names=("y", None), zarr_format=3,
    ).metadata.replace(extra={"x": {"must_understand": False}})  # fmt: skip
    changed = document.replace(attributes={"b": 2})
    assert changed.to_dict() == document.to_dict() | {"attributes": {"b": 2}}
    with pytest.raises(TypeError):
        document.replace(unknown=1)
