"""Bad chunks are refused with an error that says which, or read right; never anything else.

What no format can notice (a flipped bit without a checksum) may give other values, but within
bounds: no crash, no unwritten memory, no fill values in place of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from tests.reliability.damage import Case, cases
from tests.reliability.layouts import FILL, LAYOUTS, PATH, POISON, POISON_I4, SHAPE, Layout
from tests.reliability.memory import Peak, poison_empty
from zarr_gpu.errors import ChunkError

FLIPS = 40
MORE_FLIPS = 1500
SPARE = 64 << 20
"""Bytes that reading may take beside its output."""
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_empty(monkeypatch)


def output(layout: Layout) -> Any:
    return np.full(SHAPE, "poison", object) if layout.text else np.full(SHAPE, POISON_I4, "i4")


def check_error(error: ChunkError, layout: Layout, key: str, case: Case) -> None:
    """An error that names everything one needs to find the fault."""
    assert error.array == PATH, case.name
    assert error.key == key, case.name
    assert error.codec, f"{case.name}: no codec in {error}"
    assert error.expected is not None, f"{case.name}: nothing expected in {error}"
    assert error.found is not None, f"{case.name}: nothing found in {error}"
    assert key in str(error) and PATH in str(error), case.name


def check_values(result: Any, right: Any, case: Case, layout: Layout) -> None:
    same = result == right
    if case.verdict == "bounded":
        assert result.shape == right.shape, case.name
        assert not (result == ("poison" if layout.text else POISON_I4)).any(), case.name
        if not layout.text and not same.all():
            assert not (result[~same] == FILL).all(), f"{case.name}: fill values for damaged data"
        return
    assert case.verdict == "refused or right", f"{case.name}: accepted"
    assert same.all(), f"{case.name}: wrong values"


def check_reading(layout: Layout, store: dict[str, bytes], case: Case) -> bool:
    """Read in several ways; True when any was refused."""
    array = zarr_gpu.open_array(store, path=PATH, mode="r")
    refused = False
    for selection in (..., np.s_[1:7:2, 5:0:-2], np.s_[2, 3], np.s_[6:10, 4:9]):
        right = layout.data[selection]
        out = output(layout)[selection].copy() if np.ndim(right) else None
        try:
            result = array.read(selection, out=out) if out is not None else array[selection]
        except ChunkError as error:
            refused = True
            check_error(error, layout, layout.key, case)
            continue
        if selection is ... or case.verdict != "refused":
            check_values(np.asarray(result), np.asarray(right), case, layout)
        # A part can be read of a shard, or of plain bytes, whose other parts are damaged.
    return refused


def check_writing(layout: Layout, store: dict[str, bytes], case: Case, *, refused: bool) -> None:
    """Changing one element of a chunk that cannot be read leaves the object alone."""
    array = zarr_gpu.open_array(store, path=PATH, mode="r+")
    try:
        array[3, 2] = "new" if layout.text else 1234
    except ChunkError as error:
        check_error(error, layout, layout.key, case)
        assert store[layout.key] == case.data, case.name
    else:
        assert not refused or layout.family in ("shard", "nested"), f"{case.name}: overwritten"
        assert array[3, 2] == ("new" if layout.text else 1234), case.name


def check(layout: Layout, damaged: Iterator[Case]) -> None:
    stored = layout.stored()
    for case in damaged:
        store = {**stored, layout.key: case.data}
        with Peak() as peak:
            refused = check_reading(layout, store, case)
            check_writing(layout, store, case, refused=refused)
        assert peak.nbytes < SPARE, f"{case.name}: {peak.nbytes} bytes"
        assert refused or case.verdict != "refused", case.name


@each_layout
def test_bad_chunks_are_refused_or_read_right(layout: Layout) -> None:
    check(layout, cases(layout, FLIPS))


@pytest.mark.slow
@each_layout
def test_many_mutations_are_refused_or_read_right(layout: Layout) -> None:
    for seed in range(1, 6):
        check(layout, cases(layout, MORE_FLIPS // 5, seed))


@each_layout
def test_one_bad_chunk_leaves_the_others_readable(layout: Layout) -> None:
    stored = layout.stored()
    stored[layout.key] = stored[layout.key][:-1]
    array = zarr_gpu.open_array(stored, path=PATH, mode="r")
    with pytest.raises(ChunkError):
        array[...]
    np.testing.assert_array_equal(array[16:], layout.data[16:])
    stored[layout.key] = layout.stored()[layout.key]
    np.testing.assert_array_equal(array[...], layout.data)


def test_poison_is_what_it_says() -> None:
    assert np.empty(3, "u1").tolist() == [POISON] * 3
