import json as stdlib

import pytest

from tests.metadata.golden import locations, mutations, sharded, stored, v3_document
from zarr_gpu.config import config
from zarr_gpu.errors import MetadataError
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.grids import RegularGrid
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.named import NamedConfig
from zarr_gpu.metadata.v3 import parse_array_v3

GOLDEN = {
    key: data for key, data in stored("v3").items() if json.load(data, key)["node_type"] == "array"
}


def parse(document):
    return parse_array_v3(document, "a/zarr.json")


def problems(document):
    with pytest.raises(MetadataError) as caught:
        parse(document)
    assert caught.value.document == "a/zarr.json"
    return locations(caught.value)


@pytest.mark.parametrize("key", GOLDEN)
def test_documents_of_zarr_python_are_rewritten_byte_for_byte(key):
    metadata = parse_array_v3(json.load(GOLDEN[key], key), key)
    assert metadata.documents(2) == {"zarr.json": GOLDEN[key]}


def test_members_become_objects():
    document = v3_document(dimension_names=["y", None], attributes={"units": "m"})
    metadata = parse(document)
    assert metadata.zarr_format == 3
    assert metadata.shape == (10, 7)
    assert metadata.data_type.name == "int32"
    assert metadata.chunk_grid == RegularGrid(chunk_shape=(4, 3))
    assert metadata.chunk_key_encoding == ChunkKeyEncoding(name="default", separator="/")
    assert metadata.fill_value == 0
    assert metadata.codecs == (NamedConfig("bytes", {"endian": "little"}),)
    assert metadata.dimension_names == ("y", None)
    assert metadata.attributes == {"units": "m"}
    assert metadata.v2 is None
    assert metadata.to_dict() == document


def test_all_problems_are_reported_at_once():
    document = v3_document(
        zarr_format=2,
        shape=[10, "7"],
        data_type="int33",
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 3]}},
        chunk_key_encoding={"name": "default", "configuration": {"separator": "-"}},
        fill_value=...,
        codecs=["bytes", {"name": "gzip", "configuration": 5}, 7],
        dimension_names=["y", 3],
        attributes=[],
        storage_transformers=[{"name": "cache"}],
        surprise=1,
    )
    assert problems(document) == {
        "zarr_format",
        "shape[1]",
        "data_type",
        "chunk_grid.configuration.chunk_shape[0]",
        "chunk_key_encoding.configuration.separator",
        "fill_value",
        "codecs[1].configuration",
        "codecs[2]",
        "dimension_names[1]",
        "attributes",
        "storage_transformers",
        "surprise",
    }


def test_an_empty_document_lists_what_is_missing():
    with pytest.raises(MetadataError) as caught:
        parse({})
    assert {problem.kind for problem in caught.value.problems} == {"missing"}
    assert len(caught.value.problems) == 8


@pytest.mark.parametrize("name", ["attributes", "dimension_names", "storage_transformers"])
def test_optional_members_may_be_missing_or_null(name):
    expected = parse(v3_document())
    assert parse(v3_document(**{name: ...})) == expected
    assert parse(v3_document(**{name: None})) == expected


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("default", ChunkKeyEncoding(name="default", separator="/")),
        ("v2", ChunkKeyEncoding(name="v2", separator=".")),
        ({"name": "v2"}, ChunkKeyEncoding(name="v2", separator=".")),
        (
            {"name": "default", "configuration": {"separator": "."}},
            ChunkKeyEncoding(name="default", separator="."),
        ),
    ],
)
def test_chunk_key_encodings_and_their_defaults(encoding, expected):
    assert parse(v3_document(chunk_key_encoding=encoding)).chunk_key_encoding == expected


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"zarr_format": 3.0}, "zarr_format"),
        ({"node_type": "group"}, "node_type"),
        ({"fill_value": "x"}, "fill_value"),
        ({"fill_value": 2**31}, "fill_value"),
        ({"data_type": {"name": "int32", "must_understand": False}}, "data_type.must_understand"),
        ({"chunk_key_encoding": "hilbert"}, "chunk_key_encoding.name"),
        (
            {"chunk_key_encoding": {"name": "v2", "must_understand": False}},
            "chunk_key_encoding.must_understand",
        ),
        (
            {"chunk_key_encoding": {"name": "v2", "configuration": {"sep": "."}}},
            "chunk_key_encoding.configuration.sep",
        ),
        ({"codecs": []}, "codecs"),
        ({"codecs": ["crc32c"] * 17}, "codecs"),
        ({"dimension_names": ["x"]}, "dimension_names"),
        ({"dimension_names": "xy"}, "dimension_names"),
        ({"storage_transformers": {}}, "storage_transformers"),
        ({"surprise": {"must_understand": True}}, "surprise"),
        ({"surprise": {}}, "surprise"),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**16, 2**15]}}},
            "chunk_grid",
        ),
    ],
)
def test_single_faults_are_named(changes, where):
    assert problems(v3_document(**changes)) == {where}


def test_members_that_may_be_ignored_are_kept():
    extra = {"must_understand": False, "anything": [1]}
    metadata = parse(v3_document(surprise=extra))
    assert metadata.extra == {"surprise": extra}
    assert list(metadata.to_dict())[-1] == "surprise"
    assert parse(metadata.to_dict()) == metadata


def test_must_understand_true_may_be_spelled_out():
    document = v3_document(data_type={"name": "int32", "must_understand": True})
    assert parse(document).data_type.name == "int32"


def test_a_codec_may_be_ignorable_and_unknown_here():
    codec = {"name": "example.org/x", "must_understand": False}
    metadata = parse(v3_document(codecs=["bytes", codec]))
    assert not metadata.codecs[1].must_understand
    assert metadata.to_dict()["codecs"] == ["bytes", codec]


def test_fill_value_null_is_read_as_the_default_with_a_warning():
    with pytest.warns(UserWarning, match="null"):
        metadata = parse(v3_document(fill_value=None))
    assert metadata.to_dict()["fill_value"] == 0


def test_payload_of_a_nan_fill_value_survives_and_metadata_equal_themselves():
    document = v3_document(data_type="float32", fill_value="0x7fc00001")
    metadata = parse(document)
    assert metadata.to_dict() == document
    assert parse(document) == metadata
    assert hash(parse(document)) == hash(metadata)
    assert parse(v3_document(data_type="float32", fill_value="NaN")) != metadata


# -- shards ------------------------------------------------------------------------------------


def test_of_a_shard_only_the_inner_chunk_is_bounded():
    parse(sharded([2**20, 2**20], [2**10, 2**10]))
    assert problems(sharded([2**20, 2**20], [2**20, 2**16])) == {
        "codecs[0].configuration.chunk_shape"
    }


def test_inner_chunks_of_a_shard_are_counted():
    parse(sharded([2**24], [1]))
    with pytest.raises(MetadataError, match=r"limits\.inner_chunks"):
        parse(sharded([2**24 + 1], [1]))
    assert problems(sharded([2**32, 2**32], [1, 1])) == {"codecs[0].configuration.chunk_shape"}


def test_shards_in_shards_are_bounded():
    inner = sharded([8], [4])["codecs"]
    parse(sharded([16], [8], inner))
    nested = sharded([16], [8], inner)["codecs"]
    assert problems(sharded([32], [16], nested)) == {
        "codecs[0].configuration.codecs[0].configuration.codecs[0].configuration"
    }
    with config.set({"limits.shard_nesting": 3}):
        parse(sharded([32], [16], nested))


def test_faults_inside_a_shard_are_named():
    document = sharded([8], [4])
    document["codecs"][0]["configuration"] = {
        "chunk_shape": [0],
        "codecs": ["bytes", {"name": 3}],
        "index_codecs": [None],
    }
    where = "codecs[0].configuration"
    assert problems(document) == {
        f"{where}.chunk_shape[0]",
        f"{where}.codecs[1].name",
        f"{where}.index_codecs[0]",
    }
    del document["codecs"][0]["configuration"]
    assert problems(document) == {f"{where}.chunk_shape", f"{where}.codecs"}


def test_a_chunk_size_of_zero_reads_as_one_inner_chunk():
    metadata = parse(sharded([0, 8], [4, 4], shape=[0, 8]))
    assert metadata.chunk_grid == RegularGrid(chunk_shape=(4, 8))


def test_an_ignored_outer_grid_does_not_hide_problems_of_the_shard():
    document = sharded([8], [4], chunk_key_encoding="default")
    document["chunk_grid"] = None
    document["codecs"][0]["configuration"]["chunk_shape"] = [2**40]
    assert problems(document) == {"chunk_grid", "codecs[0].configuration.chunk_shape"}


@pytest.mark.filterwarnings("ignore:fill_value null")
@pytest.mark.parametrize(
    "document",
    [
        v3_document(dimension_names=["y", None], extra={"must_understand": False}),
        sharded([8], [4], ["bytes", {"name": "gzip", "configuration": {"level": 1}}]),
        v3_document(
            shape=[10],
            chunk_grid={
                "name": "rectilinear",
                "configuration": {"kind": "inline", "chunk_shapes": [[[3, 3], 1]]},
            },
        ),
    ],
)
def test_any_value_anywhere_parses_or_raises_metadata_error(document):
    for changed in mutations(document):
        try:
            metadata = parse(changed)
        except MetadataError:
            continue
        assert isinstance(metadata, ArrayMetadata)
        data = metadata.documents(None)["zarr.json"]
        assert parse(stdlib.loads(data)) == metadata
