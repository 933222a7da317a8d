"""Arrays and selections from zarr-python's own test strategies."""

import sys
import tempfile

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import zarr_gpu

if sys.version_info < (3, 12):
    pytest.skip("zarr.testing.strategies of zarr 3.4 need Python 3.12", allow_module_level=True)
zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
zst = pytest.importorskip("zarr.testing.strategies", reason="zarr-python 3.4 is not installed")
if not hasattr(zst, "sharded_arrays"):
    pytest.skip("needs the strategies of zarr 3.4", allow_module_level=True)

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]
generous = settings(suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def rectilinear():
    with zarr.config.set({"array.rectilinear_chunks": True}):
        yield


def ours(theirs):
    """The same array, in the same store of theirs."""
    return zarr_gpu.open_array(theirs.store_path, mode="r")


def assert_equal(found, expected):
    """Exact, where NumPy has the notion; zarr-python may lose the payload of a NaN."""
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), strict=False)


@generous
@given(st.data())
def test_any_array_of_theirs_is_read(data):
    theirs = data.draw(zst.arrays())
    array = ours(theirs)
    assert array.attrs.asdict() == theirs.attrs.asdict()
    assert_equal(array[...], theirs[...])


FOLDER = tempfile.TemporaryDirectory(prefix="zarr-strategies-")
"""Emptied when the interpreter ends."""


@generous
@given(st.data())
def test_any_array_of_theirs_is_written(data):
    stores = st.builds(lambda: zarr.storage.LocalStore(tempfile.mkdtemp(dir=FOLDER.name)))
    theirs = data.draw(zst.arrays(stores=stores, attrs=st.none()))
    values = np.asarray(theirs[...])
    values = values[::-1] if values.ndim else values
    zarr_gpu.open_array(theirs.store.root, path=theirs.path, mode="r+")[...] = values
    assert_equal(zarr.open_array(theirs.store_path)[...], values)


@generous
@given(st.data())
def test_indexing_is_that_of_numpy(data):
    theirs = data.draw(zst.arrays(attrs=st.none()) | zst.sharded_arrays())
    values, array = np.asarray(theirs[...]), ours(theirs)
    where = data.draw(zst.basic_indices(shape=values.shape))
    assert_equal(array[where], values[where])
    if values.ndim and 0 not in values.shape:
        selection, equivalent = data.draw(zst.orthogonal_indices(shape=values.shape))
        assert_equal(array.oindex[selection], values[equivalent])


@generous
@given(st.data())
def test_rectilinear_chunks(data):
    theirs = data.draw(zst.rectilinear_arrays())
    array = ours(theirs)
    assert array.read_chunk_sizes == theirs.read_chunk_sizes
    assert_equal(array[...], theirs[...])
