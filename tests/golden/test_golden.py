"""Arrays stored by other implementations read as exactly the values that were written."""

import contextlib
import functools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import zarr_gpu
from tests.golden.cases import VALUES, WRITERS
from zarr_gpu.errors import MissingDependencyError, UnsafeCodecError

PICKLED = "numcodecs/v2/pickle"


@functools.cache
def stored(writer):
    """Content by key."""
    with zipfile.ZipFile(Path(__file__).with_name(f"{writer}.zip")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def open_golden(name, **arguments):
    writer, _, path = name.partition("/")
    return zarr_gpu.open_array(dict(stored(writer)), mode="r", path=path, **arguments)


@contextlib.contextmanager
def optional_packages():
    """A codec's or data type's package that is missing skips; anything else fails."""
    try:
        yield
    except MissingDependencyError as error:
        pytest.skip(str(error))


def assert_same(found, expected):
    assert found.shape == expected.shape
    if expected.dtype == object or found.dtype.kind == "T":
        for a, b in zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True):
            assert type(a) is type(b)
            np.testing.assert_array_equal(a, b) if isinstance(b, np.ndarray) else None
            assert isinstance(b, np.ndarray) or a == b
    else:
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


def test_every_stored_array_has_expected_values_and_no_array_is_missing():
    found = set()
    for writer in WRITERS:
        for key in stored(writer):
            node, _, name = key.rpartition("/")
            if name in ("zarr.json", ".zarray") and b'"group"' not in stored(writer)[key]:
                found.add(f"{writer}/{node}")
    assert found == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_reads_what_was_written(name):
    expected = VALUES[name]()
    with optional_packages():
        array = open_golden(name, allow_pickle=name == PICKLED)
        assert_same(np.asarray(array[...]), expected)
        if expected.ndim == 2 and expected.size:
            box = (slice(1, None, 2), slice(3, 7))
            assert_same(np.asarray(array[box]), expected[box])


COPIED = [n for n in VALUES if n not in (PICKLED, "tensorstore/v2/blosc-snappy")]
"""All but those that can only be read."""


@pytest.mark.parametrize("name", COPIED)
def test_a_copy_with_the_same_codecs_holds_the_same(name):
    with optional_packages():
        source = open_golden(name)
        copy = zarr_gpu.from_array({}, data=source)
        assert copy.write_chunk_sizes == source.write_chunk_sizes
        assert copy.read_chunk_sizes == source.read_chunk_sizes
        assert_same(np.asarray(copy[...]), VALUES[name]())


REWRITTEN_FILLS = {
    "tensorstore/v3/float8_e8m0fnu": 2.0**-127,  # the type has no zero
    "numcodecs/v2/subarray": "A" * 22 + "==",
    "numcodecs/v2/zero-fill-bytes": "",
}
"""Zeros of types that have none, said in the way of newer writers."""


@pytest.mark.parametrize("name", VALUES)
def test_changing_attributes_leaves_the_rest_of_the_document_alone(name):
    writer, _, path = name.partition("/")
    store = dict(stored(writer))
    key = f"{path}/zarr.json" if f"{path}/zarr.json" in store else f"{path}/.zarray"
    before = json.loads(store[key])
    with optional_packages():
        zarr_gpu.open_array(store, mode="r+", path=path).attrs["new"] = [1]
    after = json.loads(store[key])
    if name in REWRITTEN_FILLS:
        before["fill_value"] = REWRITTEN_FILLS[name]
    added = {"storage_transformers": [], "dimension_separator": "."}
    expected = {**{k: v for k, v in added.items() if k in after}, **before}
    if key.endswith("zarr.json"):
        expected["attributes"] = {"new": [1]}
        keys = expected["chunk_key_encoding"]  # a default that TensorStore leaves out
        keys.setdefault("configuration", {"separator": "/"})
    assert after == expected


def test_pickled_objects_are_refused_unless_allowed():
    with pytest.raises(UnsafeCodecError, match="pickle"):
        open_golden(PICKLED)[...]


def test_zip_files_can_be_opened_where_they_lie():
    path = Path(__file__).with_name("zarr_python.zip")
    array = zarr_gpu.open_array(str(path), mode="r", path="v3/sharded")
    assert_same(array[...], VALUES["zarr_python/v3/sharded"]())
