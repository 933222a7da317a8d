import json as stdlib

import pytest

from tests.metadata.golden import locations, mutations, stored, v2_document
from zarr_gpu.errors import MetadataError
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata, V2Members
from zarr_gpu.metadata.grids import RegularGrid
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.v2 import object_codec_id, parse_array_v2

STORED = stored("v2")
ARRAYS = [key.removesuffix("/.zarray") for key in STORED if key.endswith(".zarray")]


def parse(document, attributes=None):
    return parse_array_v2(document, attributes, "a/.zarray")


def problems(document, attributes=None):
    with pytest.raises(MetadataError) as caught:
        parse(document, attributes)
    assert caught.value.document == "a/.zarray"
    return locations(caught.value)


@pytest.mark.parametrize("path", ARRAYS)
def test_documents_of_zarr_python_are_rewritten_byte_for_byte(path):
    zarray, zattrs = STORED[f"{path}/.zarray"], STORED[f"{path}/.zattrs"]
    metadata = parse(json.load(zarray, "x"), json.load(zattrs, "x"))
    assert metadata.documents(2) == {".zarray": zarray, ".zattrs": zattrs}


def test_members_become_the_same_objects_as_in_v3():
    metadata = parse(v2_document(order="F", dimension_separator="/"), {"units": "m"})
    assert metadata.zarr_format == 2
    assert metadata.shape == (10, 7)
    assert metadata.data_type.name == "int32"
    assert metadata.chunk_grid == RegularGrid(chunk_shape=(4, 3))
    assert metadata.chunk_key_encoding == ChunkKeyEncoding(name="v2", separator="/")
    assert metadata.fill_value == 0
    assert metadata.codecs == ()
    assert metadata.attributes == {"units": "m"}
    assert metadata.v2 == V2Members(
        order="F", compressor={"id": "zlib", "level": 1}, filters=None, dtype="<i4"
    )


def test_members_left_out_by_old_writers_have_defaults():
    metadata = parse({"zarr_format": 2, "shape": [10], "chunks": [4], "dtype": "<i4"})
    assert metadata.chunk_key_encoding.separator == "."
    assert metadata.fill_value is None
    assert metadata.v2 == V2Members(order="C", compressor=None, filters=None, dtype="<i4")
    assert metadata.to_dict()["fill_value"] is None
    assert metadata.attributes == {}


def test_no_filters_and_an_empty_list_of_filters_stay_apart():
    for filters in (None, []):
        assert parse(v2_document(filters=filters)).to_dict()["filters"] == filters


def test_chunks_of_one_dimension_may_be_a_number():
    metadata = parse(v2_document(shape=[10], chunks=4))
    assert metadata.chunk_grid == RegularGrid(chunk_shape=(4,))


def test_a_stored_chunk_size_of_zero_reads_as_one_where_the_dimension_is_empty():
    metadata = parse(v2_document(shape=[0, 7], chunks=[0, True]))
    assert metadata.chunk_grid == RegularGrid(chunk_shape=(1, 1))


def test_unknown_members_are_kept():
    metadata = parse(v2_document(_nczarr_array={"dimrefs": ["/x"]}))
    assert metadata.extra == {"_nczarr_array": {"dimrefs": ["/x"]}}
    assert parse(metadata.to_dict()) == metadata


def test_the_nan_literal_is_a_fill_value():
    data = json.dump(v2_document(dtype="<f8", fill_value=float("nan")), None)
    metadata = parse(json.load(data, "x"))
    assert metadata.to_dict()["fill_value"] == "NaN"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([], None),
        ([{}], None),
        ([{"id": "delta"}, {"id": "vlen-bytes"}, {"id": "json2"}], "vlen-bytes"),
        ([{"id": ["vlen-utf8"]}], None),
    ],
)
def test_object_codec_is_the_first_of_them(members, expected):
    assert object_codec_id(members) == expected


def test_object_codec_may_be_the_compressor():
    metadata = parse(v2_document(dtype="|O", fill_value="", compressor={"id": "vlen-utf8"}))
    assert metadata.data_type.kind == "string"


def test_all_problems_are_reported_at_once():
    document = v2_document(
        zarr_format=3,
        shape="10",
        chunks=[4, -3],
        dtype="<q9",
        order="K",
        filters=[{"id": 3}, None],
        compressor={},
        dimension_separator="",
    )
    assert problems(document, []) == {
        "zarr_format",
        "shape",
        "chunks[1]",
        "dtype",
        "order",
        "filters[0].id",
        "filters[1]",
        "compressor.id",
        "dimension_separator",
        "attributes",
    }


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"chunks": [4]}, "chunks"),
        ({"chunks": [[4], [3]]}, "chunks[0]"),
        ({"chunks": True}, "chunks"),
        ({"chunks": [2**20, 2**20]}, "chunks"),
        ({"fill_value": "x"}, "fill_value"),
        ({"dtype": "|O"}, "dtype"),
        ({"compressor": "zlib"}, "compressor"),
        ({"filters": {}}, "filters"),
        ({"filters": [{"id": "delta"}] * 17}, "filters"),
        ({"dtype": ...}, "dtype"),
    ],
)
def test_single_faults_are_named(changes, where):
    assert where in problems(v2_document(**changes))


@pytest.mark.parametrize(
    "document",
    [
        v2_document(filters=[{"id": "delta", "dtype": "<i4"}]),
        v2_document(dtype=[["a", "<i2"], ["b", "<f4", [2]]], fill_value=None),
        v2_document(dtype="|O", filters=[{"id": "vlen-utf8"}], fill_value=""),
    ],
)
def test_any_value_anywhere_parses_or_raises_metadata_error(document):
    for changed in mutations(document):
        try:
            metadata = parse(changed)
        except MetadataError:
            continue
        assert isinstance(metadata, ArrayMetadata)
        data = metadata.documents(None)[".zarray"]
        assert parse(stdlib.loads(data)) == metadata
