"""Conversions from and to files of NumPy, HDF5, netCDF and safetensors."""

import base64
import json
import struct
import warnings

import h5py
import ml_dtypes
import netCDF4
import numpy as np
import pytest
import safetensors.numpy
import zarr

import zarr_gpu
from zarr_gpu.errors import ContainsNodeError, MissingDependencyError, UnsupportedError
from zarr_gpu.tools.converting import convert

VALUES = np.arange(3000, dtype="f4").reshape(30, 100)


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        np.asfortranarray(VALUES),
        VALUES.astype(">i2"),
        np.float64(3.5),
        np.zeros((0, 3)),
        np.array(["a", "bcd"]),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], "M8[D]"),
    ],
    ids="float32 fortran big scalar empty text struct date".split(),
)
def test_npy_there_and_back(values, tmp_path):
    np.save(tmp_path / "a.npy", values)
    convert(tmp_path / "a.npy", tmp_path / "b.zarr")
    convert(tmp_path / "b.zarr", tmp_path / "c.npy")
    again = np.load(tmp_path / "c.npy")
    assert again.shape == np.shape(values)
    assert again.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_there_and_back(save, tmp_path):
    save(tmp_path / "a.npz", **{"x": VALUES, "deep/er/y": VALUES[0]})
    convert(tmp_path / "a.npz", tmp_path / "b.zarr", chunks=(7, 9), memory=100_000)
    root = zarr.open_group(tmp_path / "b.zarr", mode="r")
    assert root["x"].chunks == (7, 9)
    np.testing.assert_array_equal(root["deep/er/y"][...], VALUES[0])
    convert(tmp_path / "b.zarr", tmp_path / "c.npz", memory=20_000)
    with np.load(tmp_path / "c.npz") as found:
        assert set(found) == {"x", "deep/er/y"}
        np.testing.assert_array_equal(found["x"], VALUES)
        np.testing.assert_array_equal(found["deep/er/y"], VALUES[0])


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, []], object), allow_pickle=True)
    with pytest.raises(UnsupportedError, match="pickled"):
        convert(tmp_path / "a.npy", tmp_path / "b.zarr")


@pytest.fixture
def hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["title"] = "x"
        x = file.create_dataset("g/x", data=VALUES, chunks=(5, 100), compression="gzip")
        x.attrs["units"] = "m"
        x.attrs["valid"] = np.array([1, 2], "i2")
        x.attrs["weights"] = [0.5, 0.25]
        x.dims[0].label = "time"
        file["plain"] = np.arange(5, dtype=">i8")
        file.create_dataset("names", data=["a", "ü", ""], dtype=h5py.string_dtype())
        file["flag"] = np.array([True, False])
        file["one"] = 3.5
        file["rows"] = np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])
        file.create_dataset("filled", (4,), "i4", fillvalue=-3)
        file.create_dataset("nothing", data=h5py.Empty("f4"))
        file.attrs["reference"] = file["plain"].ref
    return tmp_path / "a.h5"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_hdf5_there(hdf5, tmp_path, zarr_format):
    report = convert(hdf5, tmp_path / "b.zarr", zarr_format=zarr_format)
    assert any(note.startswith("nothing:") for note in report.notes)
    root = zarr_gpu.open_group(tmp_path / "b.zarr", mode="r")
    assert root.metadata.zarr_format == zarr_format
    assert dict(root.attrs) == {"title": "x"}
    x = root["g/x"]
    assert x.chunks == (5, 100)
    found = dict(x.attrs)
    if zarr_format == 2:
        assert found.pop("_ARRAY_DIMENSIONS") == ["time", None]
    else:
        assert x.metadata.dimension_names == ("time", None)
    assert found == {"units": "m", "valid": [1, 2], "weights": [0.5, 0.25]}
    np.testing.assert_array_equal(x[...], VALUES)
    np.testing.assert_array_equal(root["plain"][...], np.arange(5))
    assert root["names"][...].tolist() == ["a", "ü", ""]
    assert root["flag"][...].tolist() == [True, False]
    assert root["one"][...] == 3.5
    assert root["rows"][0].tolist() == (1, 2.0)
    assert root["filled"].fill_value == -3
    assert zarr.open_group(tmp_path / "b.zarr", mode="r")["g/x"].shape == (30, 100)


def test_hdf5_and_back(hdf5, tmp_path):
    convert(hdf5, tmp_path / "b.zarr")
    convert(tmp_path / "b.zarr", tmp_path / "c.h5", memory=100_000)
    with h5py.File(hdf5) as a, h5py.File(tmp_path / "c.h5") as b:
        for name in ("g/x", "plain", "names", "flag", "one", "rows", "filled"):
            assert a[name].shape == b[name].shape
            np.testing.assert_array_equal(a[name][()], b[name][()])
        assert b["g/x"].chunks == (5, 100)
        assert b["g/x"].compression == "gzip"
        assert b["g/x"].dims[0].label == "time"
        assert b["g/x"].attrs["units"] == "m"
        assert b["filled"].fillvalue == -3
        assert b.attrs["title"] == "x"
    assert not (tmp_path / "c.h5.unfinished").exists()


def test_netcdf_names_its_dimensions(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", None)
        file.createDimension("x", 4)
        file.createVariable("x", "f8", ("x",))[:] = np.arange(4)
        t = file.createVariable("t", "f4", ("time", "x"), fill_value=-9.5)
        t[:3] = np.arange(12).reshape(3, 4)
        t.units = "K"
    convert(tmp_path / "a.nc", tmp_path / "b.zarr")
    root = zarr.open_group(tmp_path / "b.zarr", mode="r")
    assert set(root) == {"x", "t"}  # time is a dimension without a variable
    assert root["t"].metadata.dimension_names == ("time", "x")
    assert root["x"].metadata.dimension_names == ("x",)
    fill = base64.standard_b64encode(struct.pack("<d", -9.5)).decode()
    assert dict(root["t"].attrs) == {"units": "K", "_FillValue": fill}
    np.testing.assert_array_equal(root["t"][...], np.arange(12).reshape(3, 4))
    convert(tmp_path / "b.zarr", tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["x"].is_scale
        assert file["t"].dims[1]["x"].name == "/x"
    convert(tmp_path / "a.nc", tmp_path / "v2.zarr", zarr_format=2)
    found = zarr.open_group(tmp_path / "v2.zarr", mode="r")["t"]
    assert found.fill_value == -9.5
    assert found.attrs["_ARRAY_DIMENSIONS"] == ["time", "x"]


def test_safetensors_there_and_back(tmp_path):
    tensors = {
        "w": VALUES,
        "b/c": np.arange(7, dtype="i8"),
        "h": np.ones((3, 5), ml_dtypes.bfloat16),
        "s": np.array(2.5),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", {"format": "np"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.zarr", chunks=(10, 50))
    assert zarr_gpu.open_group(tmp_path / "b.zarr", mode="r")["w"].chunks == (10, 50)
    convert(tmp_path / "b.zarr", tmp_path / "c.safetensors")
    again = safetensors.numpy.load_file(tmp_path / "c.safetensors")
    assert set(again) == set(tensors)
    for name, values in tensors.items():
        assert again[name].dtype == values.dtype
        assert again[name].tobytes() == values.tobytes()


def test_what_a_kind_of_file_cannot_hold(tmp_path):
    zarr_gpu.create_array(tmp_path / "s.zarr", shape=(2,), dtype=str)
    zarr_gpu.create_array(tmp_path / "b.zarr", shape=(2,), dtype=ml_dtypes.bfloat16)
    for source, target in [
        ("s.zarr", "a.npy"),
        ("s.zarr", "a.safetensors"),
        ("b.zarr", "a.npy"),
        ("b.zarr", "a.h5"),
    ]:
        with pytest.raises(UnsupportedError):
            convert(tmp_path / source, tmp_path / target)
        assert not list(tmp_path.glob("a.*"))
    zarr_gpu.create_group(tmp_path / "g.zarr")
    with pytest.raises(UnsupportedError, match=r"use \.npz"):
        convert(tmp_path / "g.zarr", tmp_path / "a.npy")


def test_files_are_not_overwritten_by_accident(tmp_path):
    zarr_gpu.create_array(tmp_path / "a.zarr", data=VALUES)
    convert(tmp_path / "a.zarr", tmp_path / "a.npy")
    with pytest.raises(ContainsNodeError, match="--overwrite"):
        convert(tmp_path / "a.zarr", tmp_path / "a.npy")
    convert(tmp_path / "a.zarr", tmp_path / "a.npy", overwrite=True)


def test_hdf5_without_h5py_names_the_extra(hdf5, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"zarr-gpu\[hdf5\]"):
        convert(hdf5, tmp_path / "b.zarr")


def test_xarray_reads_what_came_from_netcdf(tmp_path):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("x", 3)
        t = file.createVariable("t", "f4", ("x",), fill_value=-9.5)
        t[:] = [1, -9.5, 2]
    convert(tmp_path / "a.nc", tmp_path / "b.zarr")
    found = xarray.open_zarr(tmp_path / "b.zarr", consolidated=False, zarr_format=3)
    assert found["t"].dims == ("x",)
    assert np.isnan(found["t"].values).tolist() == [False, True, False]
    json.dumps(dict(found.attrs))


def weather(xarray):
    """What xarray encodes: times, missing values, packed numbers, truth values, texts."""
    t = np.arange("2026-01-01", "2026-01-07", dtype="M8[D]").astype("M8[ns]")
    field = np.arange(24.0).reshape(6, 4)
    field[2, 1] = np.nan
    dataset = xarray.Dataset(
        {
            "t2m": (("time", "x"), field.astype("f4"), {"units": "K", "levels": [1, 2]}),
            "packed": (("time", "x"), np.round(field, 1)),
            "mask": (("x",), np.array([True, False, True, True])),
            "count": ((), np.int64(7), {"big": 2**40, "valid": True}),
        },
        {"time": t, "x": np.arange(4) * 0.5, "name": ("x", np.array(["a", "ü", "", "d"]))},
        {"title": "ü", "nothing": None},
    )
    dataset["packed"].encoding = {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -99}
    return dataset


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_netcdf_is_what_xarray_reads_from_zarr(tmp_path, zarr_format):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    dataset = weather(xarray)
    chunks = {"t2m": {"chunks": (4, 3)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python's, of texts in format 3
        dataset.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, encoding=chunks)
    convert(tmp_path / "a.zarr", tmp_path / "b.nc")
    for engine in ("netcdf4", "h5netcdf"):
        with xarray.open_dataset(tmp_path / "b.nc", engine=engine) as found:
            expected = dataset.copy()
            expected.attrs["nothing"] = ""  # netCDF has no null
            expected["count"].attrs["valid"] = 1  # nor truth values
            xarray.testing.assert_identical(found.load(), expected)
            assert found["t2m"].encoding["chunksizes"] == (4, 3)
    convert(tmp_path / "b.nc", tmp_path / "again.zarr", zarr_format=zarr_format)
    with xarray.open_dataset(tmp_path / "again.zarr", engine="zarr_gpu") as again:
        xarray.testing.assert_equal(again.load(), dataset)


@pytest.mark.parametrize("source", [2, 3])
def test_the_other_format_means_the_same_to_xarray(tmp_path, source):
    """What is missing in one is missing in the other, and zeros are zeros."""
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    dataset = weather(xarray)
    dataset["flags"] = ("x", np.array([0, 7, 255, 0], "u1"), {})
    dataset["flags"].encoding = {"_FillValue": 255, "dtype": "u1"}
    dataset["z"] = ("x", np.array([0, 1j, 2, np.nan]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python's, of texts in format 3
        dataset.to_zarr(tmp_path / "a.zarr", zarr_format=source)
        dataset = xarray.open_zarr(tmp_path / "a.zarr").load()
    for at, wanted in enumerate((5 - source, source)):
        convert(tmp_path / f"{'ab'[at]}.zarr", tmp_path / f"{'bc'[at]}.zarr", zarr_format=wanted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = xarray.open_zarr(tmp_path / f"{'bc'[at]}.zarr").load()
        xarray.testing.assert_identical(found, dataset)
        assert np.isnan(found["flags"].values).tolist() == [False, False, True, False]
        assert found["time"].values[0] == np.datetime64("2026-01-01")


@pytest.mark.parametrize(
    ("fill", "attributes", "stored"),
    [(0, {}, 3), (5, {}, 3), (0, {"_FillValue": -1}, 3), (-1, {"_FillValue": -1}, 1)],
)
def test_chunks_that_are_not_there_read_the_same_in_format_2(tmp_path, fill, attributes, stored):
    array = zarr_gpu.create_array(
        tmp_path / "a.zarr", shape=(9,), chunks=(3,), dtype="i2", fill_value=fill,
        attributes=attributes, dimension_names=("x",),
    )  # fmt: skip
    array[:3] = [1, 0, 2]
    convert(tmp_path / "a.zarr", tmp_path / "b.zarr", zarr_format=2)
    found = zarr.open_array(tmp_path / "b.zarr", mode="r")
    assert found[...].tolist() == [1, 0, 2, *[fill] * 6]
    assert found.metadata.fill_value == (attributes.get("_FillValue"))
    assert len([p for p in (tmp_path / "b.zarr").iterdir() if p.name[0] != "."]) == stored


def test_groups_of_netcdf_have_dimensions_of_their_own(tmp_path):
    root = zarr_gpu.create_group(tmp_path / "a.zarr")
    for path, n in (("x", 3), ("g/x", 4), ("g/h/x", 4)):
        root.create_array(path, data=np.arange(n), dimension_names=("x",))
    root.create_array("g/plain", data=np.ones((2, 4)), dimension_names=(None, "x"))
    root.create_array("g/empty", shape=(0,), dtype="f4", dimension_names=("none",))
    convert(tmp_path / "a.zarr", tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert file["x"][:].tolist() == [0, 1, 2]
        assert file["g/h/x"][:].tolist() == file["g/x"][:].tolist() == [0, 1, 2, 3]
        assert file["g/plain"].dimensions == ("plain_0", "x")
        assert file["g/empty"].shape == (0,)
    root.create_array("g/y", data=np.arange(5), dimension_names=("x",))
    with pytest.raises(UnsupportedError, match=r"g/y.*'x' has 5 elements here and 4"):
        convert(tmp_path / "a.zarr", tmp_path / "b.nc")
    assert not list(tmp_path.glob("b.nc*"))
    zarr_gpu.create_array(tmp_path / "c.zarr", data=np.ones(3, "c8"))
    with pytest.raises(UnsupportedError, match="netCDF cannot hold elements of complex64"):
        convert(tmp_path / "c.zarr", tmp_path / "c.nc")
