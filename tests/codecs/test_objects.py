import contextlib
import json
import pickle
import struct

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import check_only_codec_errors, mutants
from zarr_gpu.codecs.base import ChunkSpec, Size
from zarr_gpu.codecs.objects import PickleCodec
from zarr_gpu.codecs.registry import from_v2
from zarr_gpu.errors import CodecError, UnsafeCodecError
from zarr_gpu.metadata.dtypes import parse_v2

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)


def objects(items, shape=None):
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array if shape is None else array.reshape(shape)


def spec_for(identifier, shape):
    data_type = parse_v2("|O", identifier)
    return ChunkSpec(shape=shape, data_type=data_type, fill_value=None)


CONFIGS = {
    "json2": {"id": "json2"},
    "msgpack2": {"id": "msgpack2"},
    "vlen-array": {"id": "vlen-array", "dtype": "<i4"},
    "categorize": {"id": "categorize", "labels": ["a", "é"], "dtype": "|O", "astype": "<u2"},
}


@pytest.mark.parametrize("identifier", ["json2", "msgpack2"])
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_any_value_survives(identifier, items):
    codec = from_v2(CONFIGS[identifier])
    spec = spec_for(identifier, (len(items),))
    array = objects(items)
    back = codec.decode(codec.encode(array, spec), spec)
    assert back.dtype == object
    assert list(back) == items


@pytest.mark.parametrize("identifier", ["json2", "msgpack2"])
@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 4, 1)])
def test_bytes_are_those_of_numcodecs_for_every_shape(identifier, shape):
    codec = from_v2(CONFIGS[identifier])
    spec = spec_for(identifier, shape)
    array = objects(["a", 1, None, [1, 2]], shape)
    data = codec.encode(array, spec)
    assert bytes(data) == bytes(numcodecs.get_codec(CONFIGS[identifier]).encode(array))
    assert codec.decode(data, spec).tolist() == array.tolist()


def test_json_nested_deeper_than_python_goes_is_a_codec_error():
    codec, spec = from_v2(CONFIGS["json2"]), spec_for("json2", (1,))
    with pytest.raises(CodecError, match="json2"):
        codec.decode(b"[" * 100_000, spec)


@pytest.mark.parametrize(
    "payload",
    [
        [1, 2, "|O", [3]],
        [1, 2, "|O", [2**40]],
        [1, "|O", [-1, -2]],
        [1, 2, "|O", [2.0]],
        [[1, 2], [3], "|O", [2, 1]],
        [1, 2, "|O", "2"],
        {"a": 1},
        3,
        [],
        ["|O", [0]],
    ],
    ids=str,
)
def test_shapes_and_counts_are_compared_with_the_chunk(payload):
    codec, spec = from_v2(CONFIGS["json2"]), spec_for("json2", (2,))
    with pytest.raises(CodecError, match="json2"):
        codec.decode(json.dumps(payload).encode(), spec)


def test_the_type_in_a_payload_is_ignored():
    codec, spec = from_v2(CONFIGS["json2"]), spec_for("json2", (2,))
    assert codec.decode(b'[1,2,"<M8[zz]",[2]]', spec).tolist() == [1, 2]


def test_arrays_of_different_lengths_survive():
    codec, spec = from_v2(CONFIGS["vlen-array"]), spec_for("vlen-array", (3,))
    items = [np.arange(3, dtype="i4"), np.empty(0, "i4"), np.array([7], "i4")]
    back = codec.decode(codec.encode(objects(items), spec), spec)
    assert [x.tolist() for x in back] == [[0, 1, 2], [], [7]]
    assert back[0].dtype == np.dtype("<i4")


@pytest.mark.parametrize("dtype", ["|O", "object", "O,i4", 3, None])
def test_arrays_of_references_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype"):
        from_v2({"id": "vlen-array", "dtype": dtype})


def test_labels_are_stored_as_numbers_from_one():
    codec, spec = from_v2(CONFIGS["categorize"]), spec_for("categorize", (4,))
    array = objects(["é", "a", "unknown", "a"])
    data = codec.encode(array, spec)
    assert bytes(data) == struct.pack("<4H", 2, 1, 0, 1)
    assert codec.encoded_size(spec) == Size(8)
    assert codec.decode(data, spec).tolist() == ["é", "a", "", "a"]
    assert codec.decode(struct.pack("<4H", 3, 65535, 1, 2), spec).tolist() == ["", "", "a", "é"]


def test_labels_may_be_of_fixed_width():
    codec = from_v2({"id": "categorize", "labels": ["ab"], "dtype": "<U2"})
    spec = ChunkSpec(shape=(2,), data_type=parse_v2("<U2", None), fill_value="")
    array = np.array(["ab", "x"])
    back = codec.decode(codec.encode(array, spec), spec)
    assert back.dtype == np.dtype("<U2")
    assert back.tolist() == ["ab", ""]


@pytest.mark.parametrize(
    "change", [{"labels": "ab"}, {"labels": [1]}, {"dtype": "<i4"}, {"astype": "|O"}, {"more": 1}]
)
def test_wrong_configuration_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        from_v2({**CONFIGS["categorize"], **change})


@pytest.mark.parametrize("identifier", CONFIGS)
def test_damaged_data_only_raises_codec_errors(identifier):
    items = {
        "vlen-array": [np.arange(3, dtype="i4"), np.arange(2, dtype="i4"), np.empty(0, "i4")],
        "categorize": ["a", "é", "a"],
    }.get(identifier, ["a", 12, [1, {"b": None}]])
    codec, spec = from_v2(CONFIGS[identifier]), spec_for(identifier, (3,))
    check_only_codec_errors(codec, codec.encode(objects(items), spec), spec)


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize(
    "config", [*CONFIGS.values(), {"id": "vlen-utf8"}, {"id": "pickle"}], ids=str
)
def test_a_pickle_is_never_loaded_unasked(config):
    payload = pickle.dumps(Bomb())
    codec, spec = from_v2(config), spec_for(config["id"], (1,))
    wrapped = struct.pack("<II", 1, len(payload)) + payload
    for data in (payload, wrapped):
        with contextlib.suppress(CodecError, UnsafeCodecError):
            codec.decode(data, spec)
    assert not Bomb.exploded


def test_pickles_are_loaded_on_request():
    codec, spec = from_v2({"id": "pickle"}, allow_pickle=True), spec_for("pickle", (2,))
    array = objects([{1}, "a"])
    assert codec.decode(codec.encode(array, spec), spec).tolist() == [{1}, "a"]
    assert codec.to_dict() == {"name": "pickle", "configuration": {"protocol": 5}}
    with pytest.raises(CodecError, match="wrong content"):
        codec.decode(pickle.dumps(np.arange(3)), spec)
    with pytest.raises(CodecError, match="cannot decode"):
        codec.decode(b"nonsense", spec)


def test_pickles_can_be_written_without_permission_to_read():
    codec, spec = PickleCodec(), spec_for("pickle", (1,))
    data = codec.encode(objects(["a"]), spec)
    with pytest.raises(UnsafeCodecError, match="trust"):
        codec.decode(data, spec)


@given(st.binary(max_size=50))
def test_base64_is_that_of_numcodecs(data):
    codec = from_v2({"id": "base64"})
    encoded = codec.encode(data)
    assert encoded == bytes(numcodecs.Base64().encode(data))
    assert codec.encoded_size(Size(len(data))) == Size(len(encoded))
    assert codec.decode(encoded, Size(len(data))) == data


def test_long_base64_is_refused_before_decoding():
    with pytest.raises(CodecError, match="too long"):
        from_v2({"id": "base64"}).decode(b"AAAA" * 10, Size(3))


def test_damaged_base64_only_raises_codec_errors():
    codec = from_v2({"id": "base64"})
    for damaged in mutants(codec.encode(bytes(range(30)))):
        with contextlib.suppress(CodecError):
            assert len(codec.decode(damaged, Size(30))) == 30


@pytest.mark.parametrize("identifier", [*CONFIGS, "base64", "pickle"])
def test_format_2_documents_are_written_as_read(identifier):
    config = {**CONFIGS.get(identifier, {"id": identifier})}
    if identifier == "pickle":
        config["protocol"] = 4
    assert from_v2(config).to_numcodecs() == config
