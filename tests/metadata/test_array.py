import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metadata.golden import v2_document, v3_document
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata, V2Members
from zarr_gpu.metadata.dtypes import parse_v2, parse_v3
from zarr_gpu.metadata.grids import RectilinearGrid, RegularGrid
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.named import NamedConfig
from zarr_gpu.metadata.v2 import parse_array_v2
from zarr_gpu.metadata.v3 import parse_array_v3

WORDS = st.text(max_size=5)
INTEGERS = st.integers(-(2**63), 2**63)
ATTRIBUTES = st.dictionaries(
    WORDS, st.none() | st.booleans() | st.floats() | INTEGERS | st.lists(WORDS, max_size=2),
    max_size=3,
)  # fmt: skip
FILLS = {  # from and to JSON is the data types' own subject
    "bool": np.True_,
    "int8": np.int8(-3),
    "uint64": np.uint64(2**64 - 1),
    "float32": np.array(0x7FC00001, np.uint32).view(np.float32)[()],
    "float64": np.float64(-0.0),
    "complex64": np.complex64(complex(math.inf, math.nan)),
}
EXTRA = st.dictionaries(
    st.text("xyz", min_size=1, max_size=3), st.just({"must_understand": False, "a": [1]}),
    max_size=2,
)  # fmt: skip


@st.composite
def grids(draw, shape):
    if draw(st.booleans()):
        return RegularGrid(chunk_shape=tuple(draw(st.integers(1, 9)) for _ in shape))
    axes = []
    for length in shape:
        lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
        lengths.append(max(1, length - sum(lengths)))
        axes.append(draw(st.sampled_from([3, tuple(lengths)])))
    return RectilinearGrid(chunk_shapes=tuple(axes))


@st.composite
def metadata_v3(draw):
    shape = tuple(draw(st.lists(st.integers(0, 20), max_size=3)))
    name = draw(st.sampled_from(sorted(FILLS)))
    names = st.tuples(*(st.none() | WORDS for _ in shape))
    more = st.builds(
        NamedConfig, WORDS.filter(bool), st.dictionaries(WORDS, INTEGERS, max_size=2),
        st.booleans(),
    )  # fmt: skip
    return ArrayMetadata(
        zarr_format=3,
        shape=shape,
        data_type=parse_v3(name),
        chunk_grid=draw(grids(shape)),
        chunk_key_encoding=ChunkKeyEncoding(
            name=draw(st.sampled_from(["default", "v2"])),
            separator=draw(st.sampled_from(["/", "."])),
        ),
        fill_value=FILLS[name],
        codecs=(NamedConfig("bytes"), *draw(st.lists(more, max_size=2))),
        attributes=draw(ATTRIBUTES),
        dimension_names=draw(st.none() | names),
        extra=draw(EXTRA),
    )


@given(metadata_v3())
def test_v3_metadata_survive_their_documents(metadata):
    (data,) = metadata.documents(2).values()
    again = parse_array_v3(json.load(data, "zarr.json"), "zarr.json")
    assert again == metadata
    assert hash(again) == hash(metadata)
    assert again.chunk_grid == metadata.chunk_grid
    assert again.codecs == metadata.codecs
    assert again.fill_value.tobytes() == metadata.fill_value.tobytes()
    assert again.documents(2) == metadata.documents(2)


@st.composite
def metadata_v2(draw):
    shape = tuple(draw(st.lists(st.integers(0, 20), max_size=3)))
    dtype, fill = draw(
        st.sampled_from([("<i4", np.int32(7)), (">f8", np.float64("nan")), ("|b1", None)])
    )
    configs = st.builds(dict, id=st.sampled_from(["delta", "zlib"]), level=st.integers(0, 9))
    return ArrayMetadata(
        zarr_format=2,
        shape=shape,
        data_type=parse_v2(dtype, None),
        chunk_grid=RegularGrid(chunk_shape=tuple(draw(st.integers(1, 9)) for _ in shape)),
        chunk_key_encoding=ChunkKeyEncoding(name="v2", separator=draw(st.sampled_from(["/", "."]))),
        fill_value=fill,
        attributes=draw(ATTRIBUTES),
        extra=draw(EXTRA),
        v2=V2Members(
            order=draw(st.sampled_from("CF")),
            compressor=draw(st.none() | configs),
            filters=draw(st.none() | st.lists(configs, max_size=2).map(tuple)),
        ),
    )


@given(metadata_v2())
def test_v2_metadata_survive_their_documents(metadata):
    zarray, zattrs = metadata.documents(None).values()
    again = parse_array_v2(json.load(zarray, ".zarray"), json.load(zattrs, ".zattrs"), ".zarray")
    assert again == metadata
    assert hash(again) == hash(metadata)
    assert again.data_type == metadata.data_type
    assert again.v2.filters == metadata.v2.filters


def test_anything_that_a_document_says_makes_a_difference():
    one = parse_array_v3(v3_document(), "x")
    for changes in (
        {"shape": [10, 8]},
        {"attributes": {"a": 1}},
        {"fill_value": 1},
        {"codecs": ["bytes"]},
        {"dimension_names": [None, None]},
    ):
        assert parse_array_v3(v3_document(**changes), "x") != one
    two = parse_array_v2(v2_document(), {}, "x")
    assert two not in (one, None)
    assert parse_array_v2(v2_document(), {"a": 1}, "x") != two


def test_true_and_one_in_attributes_are_different():
    true, one = (parse_array_v3(v3_document(attributes={"a": value}), "x") for value in (True, 1))
    assert true != one


def test_replace_leaves_the_original_alone():
    one = parse_array_v3(v3_document(), "x")
    assert one.replace(shape=(5, 5)).to_dict() == v3_document(shape=[5, 5])
    assert one.shape == (10, 7)


def test_attributes_without_json_form_are_named():
    metadata = parse_array_v3(v3_document(), "x").replace(attributes={"a": {"b": np.int64(1)}})
    with pytest.raises(TypeError, match=r"attributes\.a\.b"):
        metadata.documents(None)


def test_v2_refuses_to_write_a_rectilinear_grid():
    metadata = parse_array_v2(v2_document(), None, "x")
    metadata = metadata.replace(chunk_grid=RectilinearGrid(chunk_shapes=(1, 1)))
    with pytest.raises(ValueError, match="regular chunks only"):
        metadata.to_dict()
