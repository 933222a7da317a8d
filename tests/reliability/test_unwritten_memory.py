"""No byte of memory that was not written by a read reaches the user, whatever the layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import zarr_gpu
from tests.reliability.layouts import FILL, LAYOUTS, PATH, POISON_I4, Layout
from tests.reliability.memory import poison_empty
from zarr_gpu.errors import ChunkError

SELECTIONS = [
    np.s_[...],
    np.s_[3, 2],
    np.s_[16:, 18:],
    np.s_[1:19:3, ::-4],
    np.s_[5:5, :],
    np.s_[[19, 0, 7, 7]],
    np.s_[7:9, 5:7],
]
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_empty(monkeypatch)


def blank(layout: Layout) -> Any:
    return "nothing" if layout.text else FILL


def poison(layout: Layout, shape: tuple[int, ...], order: Any = "C") -> Any:
    if layout.text:
        return np.full(shape, "poison", object, order)
    return np.full(shape, POISON_I4, "i4", order)


def check_all_selections(array: Any, right: Any, layout: Layout) -> None:
    for selection in SELECTIONS:
        expected = np.asarray(right[selection])
        np.testing.assert_array_equal(array[selection], expected)
        for order in "CF":
            out = poison(layout, expected.shape, order)
            array.read(selection, out=out)
            np.testing.assert_array_equal(out, expected)
        wide = poison(layout, tuple(2 * n + 1 for n in expected.shape))
        every_other = (..., *(slice(1, None, 2) for _ in expected.shape))
        inside = wide[every_other]
        array.read(selection, out=inside)
        np.testing.assert_array_equal(inside, expected)
        around = np.ones(wide.shape, bool)
        around[every_other] = False
        assert (wide[around] == poison(layout, ())).all(), "written outside the output"


@each_layout
def test_of_full_and_edge_chunks(layout: Layout) -> None:
    array = zarr_gpu.open_array(layout.stored(), path=PATH, mode="r")
    check_all_selections(array, layout.data, layout)


@each_layout
def test_of_missing_chunks(layout: Layout) -> None:
    array = layout.create({})
    right = np.full(array.shape, blank(layout), layout.data.dtype)
    check_all_selections(array, right, layout)
    array[9:12, 3:14] = layout.data[9:12, 3:14]
    right[9:12, 3:14] = layout.data[9:12, 3:14]
    check_all_selections(array, right, layout)


@each_layout
def test_of_partly_written_chunks_grown_and_shrunk(layout: Layout) -> None:
    array = layout.create({})
    right = np.full(array.shape, blank(layout), layout.data.dtype)
    for at in ((0, 0), (13, 25), (19, 6)):
        array[at] = right[at] = layout.data[at]
    check_all_selections(array, right, layout)
    array.resize((9, 5))
    array.resize((21, 27))
    grown = np.full((21, 27), blank(layout), layout.data.dtype)
    grown[:9, :5] = right[:9, :5]
    np.testing.assert_array_equal(array[...], grown)


@each_layout
def test_of_reads_that_failed_and_are_tried_again(layout: Layout) -> None:
    store = layout.stored()
    good = store[layout.key]
    array = zarr_gpu.open_array(store, path=PATH, mode="r")
    out = poison(layout, array.shape)
    for bad in (good[:-1], b"", good[1:]):
        store[layout.key] = bad
        with pytest.raises(ChunkError):
            array.read(out=out)
        with pytest.raises(ChunkError):
            array[...]
    store[layout.key] = good
    array.read(out=out)
    np.testing.assert_array_equal(out, layout.data)


def test_around_a_partial_write_never_reaches_the_store() -> None:
    store: dict[str, bytes] = {}
    layout = LAYOUTS[0]
    layout.create(store)[0, 0] = 1
    right = np.full((8, 6), FILL, "<i4")
    right[0, 0] = 1
    assert store[layout.key] == right.tobytes()


@pytest.mark.parametrize(
    "dtype", ["u1", "f8", "c16", "M8[s]", "U3", "S5", [("a", "i2"), ("b", "f4")], "?"]
)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore::UserWarning")  # types outside the specification
def test_of_other_types(dtype: Any, zarr_format: int) -> None:
    array = zarr_gpu.create_array(
        {}, shape=(10,), chunks=(4,), dtype=np.dtype(dtype), zarr_format=zarr_format
    )
    nothing = np.zeros(10, dtype)
    if np.dtype(dtype).kind == "M":
        nothing[:] = array.fill_value
    np.testing.assert_array_equal(array[...], nothing)
    array[3] = np.ones(1, "u1").astype(dtype)[0]
    nothing[3] = np.ones(1, "u1").astype(dtype)[0]
    np.testing.assert_array_equal(array[...], nothing)
    np.testing.assert_array_equal(array[5:2:-1], nothing[5:2:-1])
