"""Documents and chunks exactly as GDAL, netCDF-C, Orbax, AnnData and xarray leave them."""

import json
import warnings
import zlib

import numpy as np
import pytest

import zarr_gpu
from tests.quirks.stored import (
    LITTLE,
    ZSTD,
    encoded,
    shard,
    sharding,
    shuffled,
    v2,
    v3,
    vlen,
    zstd,
)
from zarr_gpu.errors import MetadataError


def gdal_array(**members):
    """GDAL 3.12 and 3.13, without -a_nodata."""
    return v3((4, 3), (2, 3), "uint8", [LITTLE], fill_value=None, dimension_names=["Y", "X"])


def test_gdal_null_fill_value_reads_as_zero_with_a_warning():
    store = {"zarr.json": gdal_array(), "c/1/0": bytes(range(6))}
    with pytest.warns(UserWarning, match="fill_value null"):
        array = zarr_gpu.open_array(store, mode="r")
    assert array.fill_value == 0
    assert array[...].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 2], [3, 4, 5]]


def test_null_fill_value_is_never_written_back():
    store = {"zarr.json": gdal_array()}
    with pytest.warns(UserWarning, match="fill_value null"):
        zarr_gpu.open_array(store, mode="r+").attrs["a"] = 1
    assert json.loads(store["zarr.json"])["fill_value"] == 0


def gdal_group(child):
    members = {"kind": "inline", "must_understand": False, "metadata": {"band": json.loads(child)}}
    return {
        "zarr.json": encoded(
            {
                "zarr_format": 3,
                "node_type": "group",
                "attributes": {},
                "consolidated_metadata": members,
            }
        ),
        "band/zarr.json": child,
        "band/c/0/0": bytes(range(6)),
    }


def test_gdal_group_with_null_fill_value_in_consolidated_metadata_opens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        group = zarr_gpu.open_group(gdal_group(gdal_array()), mode="r")
        assert group["band"][0].tolist() == [0, 1, 2]
        assert list(group) == ["band"]


def test_one_bad_document_in_consolidated_metadata_spoils_only_its_array():
    good = v3((6,), (6,), "uint8", ["bytes"])
    store = gdal_group(v3((4, 3), (2, 3), "no such type", [LITTLE]))
    root = json.loads(store["zarr.json"])
    root["consolidated_metadata"]["metadata"]["good"] = json.loads(good)
    store |= {"zarr.json": encoded(root), "good/zarr.json": good, "good/c/0": bytes(range(6))}
    group = zarr_gpu.open_group(store, mode="r")
    assert group["good"][...].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(MetadataError, match="no such type"):
        group["band"]


def test_netcdf_shuffle_with_element_size_zero_means_the_item_size():
    values = np.arange(6, dtype="<i4").reshape(2, 3) * 70_000
    chunk = zlib.compress(shuffled(values.tobytes(), 4))
    document = v2(
        (4, 3),
        (2, 3),
        "<i4",
        fill_value=-2147483647,
        filters=[{"id": "shuffle", "elementsize": 0}],
        compressor={"id": "zlib", "level": 1},
        _NCZARR_ARRAY={"dimrefs": ["/y", "/x"], "storage": "chunked"},
    )
    attributes = {"_nczarr_attr": {"types": {"u": "<U1"}}, "_ARRAY_DIMENSIONS": ["y", "x"]}
    store = {".zarray": document, ".zattrs": encoded(attributes), "1.0": chunk}
    array = zarr_gpu.open_array(store, mode="r+")
    assert array[2:].tolist() == values.tolist()
    assert (array[:2] == -2147483647).all()
    array[:2] = values
    assert zlib.decompress(store["0.0"]) == shuffled(values.tobytes(), 4)


BFLOATS = [1.0, -2.5, 0.15625, 1024.0]
BFLOAT_BYTES = bytes.fromhex("803f 20c0 203e 8044")


def test_orbax_bfloat16_in_format_2_with_null_fill_value():
    pytest.importorskip("ml_dtypes")
    document = v2(
        (4, 2),
        (2, 2),
        "bfloat16",
        fill_value=None,
        compressor={"id": "zstd", "level": 1},
        dimension_separator=".",
    )
    array = zarr_gpu.open_array({".zarray": document, "0.0": zstd(BFLOAT_BYTES)}, mode="r")
    assert array.dtype.name == "bfloat16"
    assert array.fill_value is None
    assert array[...].astype(float).tolist() == [BFLOATS[:2], BFLOATS[2:], [0, 0], [0, 0]]


def orbax_v3(shape, outer, inner):
    return v3(
        shape,
        outer,
        "bfloat16",
        [sharding(inner, [LITTLE, ZSTD])],
        chunk_key_encoding={"name": "default"},
        fill_value=0.0,
        attributes=...,
    )


def test_orbax_bfloat16_in_shards():
    pytest.importorskip("ml_dtypes")
    chunks = [zstd(BFLOAT_BYTES[:4]), None, None, zstd(BFLOAT_BYTES[4:])]
    store = {"zarr.json": orbax_v3((4, 2), (4, 2), (1, 2)), "c/0/0": shard(chunks)}
    array = zarr_gpu.open_array(store, mode="r")
    assert array[...].astype(float).tolist() == [BFLOATS[:2], [0, 0], [0, 0], BFLOATS[2:]]


def test_orbax_scalar_in_a_shard():
    pytest.importorskip("ml_dtypes")
    store = {"zarr.json": orbax_v3((), (), ()), "c": shard([zstd(BFLOAT_BYTES[2:4])])}
    array = zarr_gpu.open_array(store, mode="r+")
    assert array.shards == () and array.chunks == ()
    assert float(array[()]) == -2.5
    array[()] = 1
    assert float(zarr_gpu.open_array(store)[...]) == 1


ANNDATA_ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}


def test_anndata_sharded_booleans():
    codecs = [sharding((2,), [{"name": "bytes"}, ANNDATA_ZSTD])]
    document = v3((5,), (4,), "bool", codecs, fill_value=False)
    chunks = shard([zstd(b"\x01\x00"), zstd(b"\x01\x01")])
    array = zarr_gpu.open_array({"zarr.json": document, "c/0": chunks}, mode="r")
    assert array[...].tolist() == [True, False, True, True, False]


def test_anndata_sharded_texts():
    codecs = [sharding((2,), [{"name": "vlen-utf8"}, ANNDATA_ZSTD])]
    document = v3((5,), (4,), "string", codecs, fill_value="")
    chunks = [zstd(vlen(["Größe".encode(), b""])), None]
    store = {"zarr.json": document, "c/0": shard(chunks)}
    store["c/1"] = shard([zstd(vlen([b"end", b""])), None])
    array = zarr_gpu.open_array(store, mode="r+")
    assert array[...].tolist() == ["Größe", "", "", "", "end"]
    array[1:4] = ["b", "", "d"]
    assert zarr_gpu.open_array(store)[...].tolist() == ["Größe", "b", "", "d", "end"]


def test_xarray_attributes_are_left_alone():
    fill = "AAAAAAAA+H8="  # NaN
    document = v3(
        (2,), (2,), "float64", [LITTLE], attributes={"_FillValue": fill}, fill_value="NaN"
    )
    array = zarr_gpu.open_array({"zarr.json": document}, mode="r+")
    array.attrs["units"] = "m"
    assert array.attrs.asdict() == {"_FillValue": fill, "units": "m"}
    assert np.isnan(array[...]).all()


def test_xarray_dimensions_of_format_2_stay_an_attribute():
    attributes = {"_ARRAY_DIMENSIONS": ["time"], "_FillValue": -1}
    store = {".zarray": v2((3,), (3,), "<i2"), ".zattrs": encoded(attributes)}
    array = zarr_gpu.open_array(store, mode="r+")
    assert array.attrs["_ARRAY_DIMENSIONS"] == ["time"]
    assert array[...].tolist() == [0, 0, 0]  # _FillValue is for readers of values, not for storage
    array.attrs["a"] = 1
    assert json.loads(store[".zattrs"]) == {**attributes, "a": 1}
