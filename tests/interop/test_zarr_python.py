"""zarr-python and zarr_gpu take turns at the same files, made with the same arguments."""

import json
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

import zarr_gpu
from tests.interop.arrays import assert_same_bits, random_values, regions, take_turns
from tests.interop.zarr_arguments import FIXED, VARIABLE, arguments, zarr

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def documents(folder):
    paths = [p for p in Path(folder).rglob("*") if p.name in ("zarr.json", ".zarray", ".zattrs")]
    return {p.name: json.loads(p.read_text()) for p in paths}


def same_json(found, expected):
    """Text, because NaN is not equal to itself."""
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


@given(arguments())
def test_the_same_arguments_make_the_same_documents(kwargs):
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        zarr.create_array(theirs, **kwargs)
        zarr_gpu.create_array(ours, **kwargs)
        same_json(documents(ours), documents(theirs))


@given(arguments(), st.integers(0, 2**32), st.data())
def test_they_take_turns(kwargs, seed, data):
    with tempfile.TemporaryDirectory() as folder:
        creator = data.draw(st.sampled_from([zarr_gpu, zarr]), label="creates")
        creator.create_array(folder, **kwargs)
        take_turns(folder, [lambda: zarr.open_array(folder, mode="r+")], seed, data)


@given(arguments(variable=False), st.integers(0, 2**32), st.data())
def test_they_select_the_same(kwargs, seed, data):
    assume(kwargs["shape"] and 0 not in kwargs["shape"])
    with tempfile.TemporaryDirectory() as folder:
        theirs = zarr.create_array(folder, **kwargs)
        values = random_values(
            np.random.default_rng(seed), theirs.dtype, theirs.shape, payloads=False
        )
        theirs[...] = values
        ours = zarr_gpu.open_array(folder, mode="r")
        where = data.draw(regions(values.shape))
        assert_same_bits(ours[where], theirs[where])
        each = [st.lists(st.integers(-n, n - 1), min_size=1, max_size=5) for n in values.shape]
        axes = tuple(data.draw(axis) for axis in each)
        assert_same_bits(ours.oindex[axes], theirs.oindex[axes])
        count = min(len(axis) for axis in axes)
        points = tuple(axis[:count] for axis in axes)
        assert_same_bits(ours.vindex[points], theirs.vindex[points])
        mask = np.random.default_rng(seed).integers(2, size=values.shape).astype(bool)
        assert_same_bits(ours.vindex[mask], theirs.vindex[mask])
        if "shards" in kwargs:
            return  # blocks are shards there, chunks here
        blocks = tuple(data.draw(st.integers(0, n - 1)) for n in theirs.cdata_shape)
        assert_same_bits(ours.blocks[blocks], theirs.blocks[blocks])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", [*FIXED, *VARIABLE], ids=str)
def test_defaults_are_the_same(zarr_format, dtype, tmp_path):
    for name, library in (("theirs", zarr), ("ours", zarr_gpu)):
        library.create_array(
            tmp_path / name, shape=(300, 500), dtype=dtype, zarr_format=zarr_format
        )
    same_json(documents(tmp_path / "ours"), documents(tmp_path / "theirs"))


@given(st.lists(st.integers(0, 5000), max_size=4), st.sampled_from(["u1", "<i4", "<c16"]))
def test_automatic_chunks_are_the_same(shape, dtype):
    theirs = zarr.create_array({}, shape=shape, dtype=dtype)
    ours = zarr_gpu.create_array({}, shape=shape, dtype=dtype)
    assert ours.chunks == theirs.chunks


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=3), st.data())
def test_automatic_shards_are_the_same(shape, data):
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    assume(np.prod([-(-n // c) for n, c in zip(shape, chunks, strict=True)]) < 10_000)
    common = {"shape": shape, "dtype": "u1", "chunks": chunks, "shards": "auto"}
    theirs = zarr.create_array({}, **common)
    assert zarr_gpu.create_array({}, **common).shards == theirs.shards


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups_and_consolidated_metadata(zarr_format, tmp_path):
    for name, library in (("theirs", zarr), ("ours", zarr_gpu)):
        group = library.create_group(
            tmp_path / name, zarr_format=zarr_format, attributes={"a": float("nan")}
        )
        group.create_group("x/y", attributes={"deep": True})
        group.create_array("x/z", shape=(3,), chunks=(2,), dtype="<i4", compressors=None)[...] = 5
        library.consolidate_metadata(tmp_path / name)
    for reader in (zarr, zarr_gpu):
        for writer in ("theirs", "ours"):
            group = reader.open_group(tmp_path / writer, mode="r", use_consolidated=True)
            assert group["x/y"].attrs["deep"] is True
            assert np.asarray(group["x/z"][...]).tolist() == [5, 5, 5]
            assert {path for path, _ in group.members(max_depth=None)} == {"x", "x/y", "x/z"}
    files = {
        name: {str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*")}
        for name in ("ours", "theirs")
    }
    assert files["ours"] == files["theirs"]  # zarr-python would warn of any other
