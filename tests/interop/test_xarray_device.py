"""Data variables on a device: lazy, decoded there, in blocks; everything else on the host."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import zarr_gpu
from tests.device.devices import emulated
from tests.interop import datasets
from tests.interop.foreign_device import Foreign, foreign_device
from zarr_gpu.config import config
from zarr_gpu.interop.xarray_device import Decoding

ON_DEVICE = {"engine": "zarr_gpu", "device": "cuda"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("device")
    made = {}
    for name in datasets.DATASETS:
        for zarr_format in (2, 3):
            path = root / f"{name}{zarr_format}"
            datasets.DATASETS[name]().zarr_gpu.to_zarr(path, zarr_format=zarr_format)
            made[name, zarr_format] = str(path)
    return made


@pytest.fixture
def device(monkeypatch):
    with foreign_device(monkeypatch) as backend, dask.config.set(scheduler="threads"):
        yield backend


def host(dataset):
    """The dataset with the values of device arrays as NumPy arrays."""
    moved = {
        name: variable.copy(data=variable.data.get())
        for name, variable in dataset.variables.items()
        if isinstance(variable.data, Foreign)
    }
    return dataset.assign(moved)


@pytest.mark.parametrize("name", datasets.DATASETS)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [None, {}])
def test_data_variables_are_on_the_device(stores, device, name, zarr_format, chunks):
    path = stores[name, zarr_format]
    expected = xr.open_dataset(path, engine="zarr_gpu").load()
    found = xr.open_dataset(path, **ON_DEVICE, chunks=chunks)
    assert found.encoding["source"]
    for key, variable in found.variables.items():
        numeric = variable.dtype.kind in "biufc" and key in found.data_vars
        if chunks is not None and numeric and variable.ndim:
            assert isinstance(variable.data, da.Array), key
            assert isinstance(variable.data._meta, Foreign), key
            assert isinstance(variable.compute().data, Foreign), key
        else:
            assert isinstance(variable.data, Foreign) == numeric, key
    found = found.compute()
    xr.testing.assert_identical(expected, host(found))
    for key in expected.variables:
        assert expected[key].dtype == found[key].dtype


def test_indexes_and_selections(stores, device):
    found = xr.open_dataset(stores["numbers", 3], **ON_DEVICE)
    expected = xr.open_dataset(stores["numbers", 3], engine="zarr_gpu")
    assert isinstance(found.x.data, np.ndarray) and isinstance(found.lat.data, np.ndarray)
    before = device.reads
    picked, wanted = (
        dataset.n_i4.sel(x=[50, 10]).isel(y=slice(None, None, -2)) for dataset in (found, expected)
    )
    assert device.reads == before
    np.testing.assert_array_equal(picked.data.get(), wanted)
    assert device.reads == before + 1
    point = found.n_f4.sel(x=30).isel(y=2)
    assert isinstance(point.data, Foreign) and point.data.get() == expected.n_f4.sel(x=30)[2]
    where = {d: ("p", [1, 2, 0]) for d in "xy"}
    np.testing.assert_array_equal(found.n_i2.isel(where).data.get(), expected.n_i2.isel(where))
    total = found.n_i8 + found.big_endian
    assert isinstance(total.data, Foreign)


def test_what_is_decoded_otherwise_is_copied_up(stores, device):
    found = xr.open_dataset(stores["packed", 3], **ON_DEVICE)
    before = device.reads
    assert isinstance(found.unsigned.isel(x=[1, 3]).data, Foreign)
    assert device.reads == before
    assert isinstance(found.scaled.data, Foreign)
    assert device.reads == before + 1


def test_pickles_and_copies(stores, device):
    found = xr.open_dataset(stores["packed", 2], **ON_DEVICE, cache=False)
    expected = xr.open_dataset(stores["packed", 2], engine="zarr_gpu").load()
    for dataset in (pickle.loads(pickle.dumps(found)), found.copy(deep=True)):
        xr.testing.assert_identical(expected, host(dataset.load()))
    with datasets.quiet():  # these chunks cut those that are stored
        blocks = xr.open_dataset(stores["packed", 2], **ON_DEVICE, chunks={"x": 2})
    assert blocks.scaled.chunks == ((4,), (2, 2, 1))
    xr.testing.assert_identical(expected, host(pickle.loads(pickle.dumps(blocks)).compute()))


def test_loaded_variables_are_cut_as_always(stores, device):
    found = xr.open_dataset(stores["packed", 3], **ON_DEVICE).load().chunk(x=2)
    assert isinstance(found.scaled.data._meta, Foreign)


def test_several_files_on_a_device(tmp_path, device):
    for i in range(2):
        part = xr.Dataset({"v": ("t", np.arange(4.0) + i)}, {"t": np.arange(4) + 4 * i})
        part.zarr_gpu.to_zarr(tmp_path / f"{i}.zarr")
    paths = [tmp_path / "0.zarr", tmp_path / "1.zarr"]
    with xr.open_mfdataset(paths, **ON_DEVICE) as found:
        assert isinstance(found.v.data._meta, Foreign)
        blocks = dask.compute(*found.v.data.to_delayed())
        assert [b.get().tolist() for b in blocks] == [[0, 1, 2, 3], [1, 2, 3, 4]]


def test_trees_on_a_device(tmp_path, device):
    datasets.tree().zarr_gpu.to_zarr(tmp_path / "t")
    found = xr.open_datatree(tmp_path / "t", **ON_DEVICE)
    assert isinstance(found["a"].dataset.v.data, Foreign)


def test_writing_from_a_device(tmp_path, device):
    values = np.arange(12.0).reshape(3, 4)
    dataset = xr.Dataset({"v": (("y", "x"), Foreign(values)), "n": ("x", Foreign(np.arange(4)))})
    dataset.zarr_gpu.to_zarr(tmp_path / "s", encoding={"v": {"chunks": (1, 4)}})
    np.testing.assert_array_equal(datasets.read(tmp_path / "s").v, values)
    lazy = xr.open_dataset(tmp_path / "s", **ON_DEVICE, chunks={"y": 2})
    lazy.zarr_gpu.to_zarr(tmp_path / "t", align_chunks=True)
    np.testing.assert_array_equal(datasets.read(tmp_path / "t").v, values)


def test_nothing_is_put_on_a_device_unasked(stores, device):
    assert isinstance(
        xr.open_dataset(stores["numbers", 3], engine="zarr_gpu").n_i4.data, np.ndarray
    )
    with config.set({"device": "cuda"}):
        found = xr.open_dataset(stores["numbers", 3], engine="zarr_gpu")
        assert isinstance(found.n_i4.data, Foreign)
        cpu = xr.open_dataset(stores["numbers", 3], engine="zarr_gpu", device="cpu")
        assert isinstance(cpu.n_i4.data, np.ndarray)


@pytest.mark.parametrize("name, zarr_format", [("numbers", 3), ("packed", 2)])
def test_the_emulated_device_executes_the_reads(stores, monkeypatch, name, zarr_format):
    expected = xr.open_dataset(stores[name, zarr_format], engine="zarr_gpu").load()
    # At once: decoding uses the array's operators, which in CuPy wait their turn on the stream.
    with emulated(monkeypatch, eager=True, strict=False) as runtime:
        found = xr.open_dataset(stores[name, zarr_format], **ON_DEVICE, drop_variables="unsigned")
        for key, variable in found.data_vars.items():
            np.testing.assert_array_equal(
                np.asarray(variable.data), expected[key].data, err_msg=key
            )
        assert runtime.counts.launches or runtime.counts.uploads


@given(
    stored=st.sampled_from(["i1", "u1", "i2", "i4", "i8", "f4", "f8"]),
    fill=st.sampled_from([None, 0, -1, 7]),
    missing=st.sampled_from([None, 5, [3, 4]]),
    scale=st.sampled_from([None, 0.5, 3, np.float32(0.1)]),
    offset=st.sampled_from([None, 10.0, np.float32(1)]),
)
def test_decoding_on_the_device_is_that_of_xarray(stored, fill, missing, scale, offset):
    from zarr_gpu.interop.xarray_device import _decoding

    values = np.arange(-8 if stored[0] != "u" else 0, 24).astype(stored).reshape(4, -1)
    attrs = {
        "_FillValue": fill if fill is None or fill >= 0 or stored[0] != "u" else None,
        "missing_value": missing,
        "scale_factor": scale,
        "add_offset": offset,
    }
    attrs = {k: v for k, v in attrs.items() if v is not None}
    raw = xr.Variable(("y", "x"), values, attrs)
    with datasets.quiet():
        expected = xr.conventions.decode_cf_variable("v", raw)
    array = zarr_gpu.create_array({}, data=values)
    decoding = _decoding(expected, array)
    if expected.dtype.kind == "i" and scale is not None:  # an integer, too
        assert decoding is None
        return
    assert isinstance(decoding, Decoding)
    found = decoding.apply(Foreign(values.copy())).get()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected.values)
