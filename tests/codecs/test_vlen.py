import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import check_only_codec_errors, round_trip, spec_of
from zarr_gpu.codecs.vlen import VLenBytesCodec, VLenUTF8Codec
from zarr_gpu.errors import CodecError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(TEXT, max_size=8))
def test_strings_survive(items):
    spec = spec_of("string", (len(items),))
    back = round_trip(VLenUTF8Codec(), np.array(items, spec.dtype), spec)
    assert back.dtype == np.dtypes.StringDType()
    assert back.tolist() == items


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_byte_strings_survive(items):
    spec = spec_of("bytes", (len(items),))
    array = np.empty(len(items), object)
    array[:] = items
    back = round_trip(VLenBytesCodec(), array, spec)
    assert back.dtype == object
    assert back.tolist() == items


def test_stored_bytes_are_count_then_length_and_bytes():
    spec = spec_of("string", (2,))
    data = VLenUTF8Codec().encode(np.array(["a", "é€"], spec.dtype), spec)
    assert bytes(data) == struct.pack("<II1sI", 2, 1, b"a", 5) + "é€".encode()


def test_elements_are_written_in_c_order_whatever_the_strides():
    spec = spec_of("string", (2, 2))
    array = np.array([["a", "b"], ["c", "d"]], spec.dtype)
    assert bytes(VLenUTF8Codec().encode(np.asfortranarray(array), spec)) == bytes(
        VLenUTF8Codec().encode(array, spec)
    )
    assert round_trip(VLenUTF8Codec(), array.T, spec).tolist() == array.T.tolist()


def test_zero_dimensional_and_empty_chunks():
    assert round_trip(VLenUTF8Codec(), np.array("x", "T"), spec_of("string", ()))[()] == "x"
    spec = spec_of("string", (0, 3))
    assert round_trip(VLenUTF8Codec(), np.empty((0, 3), "T"), spec).size == 0


@pytest.mark.parametrize("count", [0, 1, 3, 2**32 - 1])
def test_a_count_that_is_not_the_chunks_is_refused_before_decoding(count):
    data = struct.pack("<II1sI1s", count, 1, b"a", 1, b"b")
    with pytest.raises(CodecError, match="expected 2, found"):
        VLenUTF8Codec().decode(data, spec_of("string", (2,)))


def test_a_count_without_elements_is_refused_before_allocating():
    spec = spec_of("string", (2**31,))
    with pytest.raises(CodecError, match=r"truncated \(expected"):
        VLenUTF8Codec().decode(struct.pack("<I", 2**31) + bytes(100), spec)


def test_invalid_utf8_is_a_codec_error():
    with pytest.raises(CodecError, match="utf-8"):
        VLenUTF8Codec().decode(struct.pack("<II", 1, 2) + b"\xff\xfe", spec_of("string", (1,)))


@pytest.mark.parametrize(
    ("codec", "items"),
    [(VLenUTF8Codec(), ["", "ab", "日本語"]), (VLenBytesCodec(), [b"", b"\xff", bytes(30)])],
)
def test_damaged_data_only_raises_codec_errors(codec, items):
    spec = spec_of("string" if codec.name == "vlen-utf8" else "bytes", (3,))
    array = np.array(items, spec.dtype)
    check_only_codec_errors(codec, codec.encode(array, spec), spec)


def test_what_is_no_string_cannot_be_encoded():
    array = np.array([1, "a"], object)
    with pytest.raises(CodecError, match="vlen-utf8"):
        VLenUTF8Codec().encode(array, spec_of("string", (2,)))


def test_bind_refuses_other_types():
    with pytest.raises(ValueError, match="int8"):
        VLenUTF8Codec().bind(spec_of("int8", (1,)))
    with pytest.raises(ValueError, match="string"):
        VLenBytesCodec().bind(spec_of("string", (1,)))


def test_documents_are_zarr_pythons():
    assert VLenUTF8Codec().to_dict() == {"name": "vlen-utf8", "configuration": {}}
    assert VLenBytesCodec.from_config({}) == VLenBytesCodec()
