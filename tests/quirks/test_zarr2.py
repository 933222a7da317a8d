"""What Zarr 2 and older libraries stored in format 2."""

import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest

import zarr_gpu
from tests.quirks.stored import encoded, v2, vlen
from zarr_gpu.errors import MetadataError, UnsafeCodecError


def objects(filters, shape=(3,), **members):
    return v2(shape, shape, "|O", filters=filters, **members)


def read(document, chunk, **arguments):
    return zarr_gpu.open_array({".zarray": document, "0": chunk}, mode="r", **arguments)[...]


# What numcodecs writes into the document of a JSON codec.
JSON2 = {
    "id": "json2", "encoding": "utf-8", "skipkeys": False, "ensure_ascii": True,
    "check_circular": True, "allow_nan": True, "sort_keys": True, "indent": None,
    "separators": [",", ":"], "strict": True,
}  # fmt: skip


def test_json_objects():
    found = read(objects([JSON2]), b'[{"a":[1,null]},"x",2.5,"|O",[3]]')
    assert found.tolist() == [{"a": [1, None]}, "x", 2.5]


def test_json_objects_in_two_dimensions():
    document = objects([JSON2], (2, 2), compressor={"id": "zlib", "level": 1})
    chunk = zlib.compress(b'[["a","b"],["c",{"d":1}],"|O",[2,2]]')
    array = zarr_gpu.open_array({".zarray": document, "0.0": chunk}, mode="r")
    assert array[...].tolist() == [["a", "b"], ["c", {"d": 1}]]


def test_ragged_arrays():
    items = [np.array([1, 2, 3], "<i4"), np.array([], "<i4"), np.array([-7], "<i4")]
    document = objects([{"id": "vlen-array", "dtype": "<i4"}])
    found = read(document, vlen([item.tobytes() for item in items]))
    for a, b in zip(found, items, strict=True):
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()


def test_categories():
    codec = {"id": "categorize", "labels": ["low", "höher"], "dtype": "|O", "astype": "|u1"}
    assert read(objects([codec]), b"\x02\x00\x01").tolist() == ["höher", "", "low"]


def test_texts_and_bytes():
    texts = read(objects([{"id": "vlen-utf8"}]), vlen(["ä".encode(), b"", b"c"]))
    assert texts.tolist() == ["ä", "", "c"]
    chunk = vlen([b"\0\xff", b"", b"c"])
    assert read(objects([{"id": "vlen-bytes"}]), chunk).tolist() == [b"\0\xff", b"", b"c"]


class Boom:
    """What a pickle can do."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def pickled(items):
    out = np.empty(3, object)
    out[:] = items
    return pickle.dumps(out, protocol=4)


PICKLE = [{"id": "pickle", "protocol": 5}]


def test_pickles_are_not_opened():
    with pytest.raises(UnsafeCodecError):
        read(objects(PICKLE), pickled([Boom(), 1, 2]))


def test_pickles_are_opened_when_allowed():
    found = read(objects(PICKLE), pickled([{1, 2}, None, (3,)]), allow_pickle=True)
    assert found.tolist() == [{1, 2}, None, (3,)]


def test_pickles_in_a_group_obey_the_same_switch():
    store = {".zgroup": b'{"zarr_format": 2}', "a/.zarray": objects(PICKLE)}
    store["a/0"] = pickled([1, 2, 3])
    with pytest.raises(UnsafeCodecError):
        zarr_gpu.open_group(store, mode="r")["a"][...]
    assert zarr_gpu.open_group(store, mode="r", allow_pickle=True)["a"][...].tolist() == [1, 2, 3]


def test_objects_without_an_object_codec_are_refused():
    with pytest.raises(MetadataError, match="dtype"):
        zarr_gpu.open_array({".zarray": objects(None)}, mode="r")


@pytest.mark.parametrize(
    "member", ["fill_value", "order", "filters", "compressor", "dimension_separator"]
)
def test_members_that_old_writers_left_out(member):
    store = {".zarray": v2((2, 2), (2, 2), "<i2", **{member: ...})}
    store["0.0"] = struct.pack("<4h", 1, 2, 3, 4)
    assert zarr_gpu.open_array(store, mode="r")[...].tolist() == [[1, 2], [3, 4]]


def test_all_optional_members_missing():
    document = {"zarr_format": 2, "shape": [3], "chunks": [2], "dtype": "<i2"}
    store = {".zarray": encoded(document), "1": struct.pack("<2h", 7, 0)}
    assert zarr_gpu.open_array(store, mode="r")[...].tolist() == [0, 0, 7]


@pytest.mark.parametrize(
    "dtype, expected",
    [
        ("|S3", b""),
        ("<U3", ""),
        ("<c8", 0j),
        ("|V2", b"\0\0"),
        ([["a", "<i2"], ["b", "<f4"]], (0, 0.0)),
        ("<M8[s]", np.datetime64(0, "s").item()),
        ("|b1", False),
    ],
)
def test_zero_is_the_fill_value_of_every_type(dtype, expected):
    array = zarr_gpu.open_array({".zarray": v2((1,), (1,), dtype, fill_value=0)}, mode="r")
    assert array[...].tolist() == [expected]


def test_fields_of_several_elements():
    dtype = np.dtype([("a", "<i2", (2,)), ("b", "|S2")])
    values = np.array([([1, 2], b"x"), ([3, 4], b"yz")], dtype)
    document = v2((2,), (2,), [["a", "<i2", [2]], ["b", "|S2"]], fill_value=None)
    array = zarr_gpu.open_array({".zarray": document, "0": values.tobytes()}, mode="r")
    assert array[...].tobytes() == values.tobytes()
    assert array["a"].tolist() == [[1, 2], [3, 4]]


def test_delta_filter_works_on_bytes_of_its_own_type():
    values = np.array([10, 12, 11, 400], ">i4")
    codec = {"id": "delta", "dtype": ">i4", "astype": ">i2"}
    chunk = np.diff(values, prepend=0).astype(">i2").tobytes()
    document = v2((4,), (4,), ">i4", filters=[codec])
    assert read(document, chunk).tolist() == values.tolist()


def test_slashes_between_chunk_numbers_make_folders(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / ".zarray").write_bytes(v2((2, 2), (1, 2), "|u1", dimension_separator="/"))
    (tmp_path / "1" / "0").write_bytes(b"\x05\x06")
    assert zarr_gpu.open_array(tmp_path, mode="r")[...].tolist() == [[0, 0], [5, 6]]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_last_of_several_zip_members_of_one_name_counts(tmp_path):
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(".zarray", v2((2,), (2,), "|u1", attributes=...))
        archive.writestr("0", b"\x01\x02")
        archive.writestr("0", b"\x03\x04")
        archive.writestr(".zarray", v2((2,), (2,), "|i1"))
        archive.writestr("0", b"\x05\xff")
    array = zarr_gpu.open_array(str(path), mode="r")
    assert array[...].tolist() == [5, -1]


def test_both_formats_at_one_path_warn_and_the_newer_wins():
    newer = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"v": 3}}).encode()
    store = {"zarr.json": newer, ".zgroup": b'{"zarr_format": 2}', ".zattrs": b'{"v": 2}'}
    with pytest.warns(UserWarning, match="both"):
        assert zarr_gpu.open_group(store, mode="r").attrs["v"] == 3
    assert zarr_gpu.open_group(store, mode="r", zarr_format=2).attrs["v"] == 2


def test_consolidated_metadata_of_sub_groups_with_extra_members():
    nested = {"zarr_format": 2, "consolidated_metadata": {"kind": "inline", "metadata": {}}}
    metadata = {
        ".zgroup": {"zarr_format": 2},
        "sub/.zgroup": nested,
        "sub/a/.zarray": json.loads(v2((2,), (2,), "|u1")),
        "sub/a/.zattrs": {"x": 1},
    }
    store = {
        ".zgroup": b'{"zarr_format": 2}',
        ".zmetadata": encoded({"zarr_consolidated_format": 1, "metadata": metadata}),
        "sub/a/0": b"\x01\x02",
    }
    group = zarr_gpu.open_group(store, mode="r")
    assert group["sub/a"][...].tolist() == [1, 2]
    assert group["sub"]["a"].attrs["x"] == 1
