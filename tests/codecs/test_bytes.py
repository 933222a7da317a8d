import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs.array_codecs import bits, check_only_codec_errors, random_array, spec_of
from zarr_gpu.codecs.base import ChunkSpec
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.dtypes import parse_v2

STRUCT = {
    "name": "struct",
    "configuration": {
        "fields": [{"name": "a", "data_type": "int16"}, {"name": "b", "data_type": "float64"}]
    },
}
TYPES = [
    "bool", "int8", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64",
    "complex64", "complex128", "bfloat16", "float8_e5m2", "int4", "uint2", "float6_e2m3fn",
    "complex_bfloat16", "complex_float8_e4m3", "r24",
    {"name": "numpy.datetime64", "configuration": {"unit": "ns", "scale_factor": 1}},
    {"name": "numpy.timedelta64", "configuration": {"unit": "s", "scale_factor": 10}},
    {"name": "fixed_length_utf32", "configuration": {"length_bytes": 8}},
    {"name": "null_terminated_bytes", "configuration": {"length_bytes": 5}},
    STRUCT,
]  # fmt: skip
SHAPES = st.lists(st.integers(0, 4), max_size=3)


def text_safe(spec, array):
    """Code points that exist, where elements are text."""
    return np.full(spec.shape, "aé", spec.dtype) if spec.dtype.kind == "U" else array


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@settings(max_examples=20)
@given(shape=SHAPES, endian=st.sampled_from(["little", "big"]), use_out=st.booleans())
def test_every_type_survives_bit_by_bit(dtype, shape, endian, use_out):
    spec = spec_of(dtype, shape)
    codec = BytesCodec(endian).bind(spec)
    array = text_safe(spec, random_array(spec))
    data = codec.encode(array, spec)
    assert len(data) == codec.encoded_size(spec).limit == spec.nbytes
    out = np.empty(shape, spec.dtype) if use_out else None
    back = codec.decode(data, spec, out)
    assert (back is out) == use_out
    assert back.shape == spec.shape
    if spec.dtype.fields is None:
        assert bits(back) == bits(array)
    else:
        assert back.astype(spec.dtype).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["int16", "float64", "complex64", "bfloat16", STRUCT], ids=str)
def test_big_endian_bytes_are_the_little_endian_ones_swapped_word_by_word(dtype):
    spec = spec_of(dtype, (3,))
    array = random_array(spec)
    little = bytes(BytesCodec("little").encode(array, spec))
    big = bytes(BytesCodec("big").encode(array, spec))
    widths = {"complex64": [4, 4], "bfloat16": [2]}.get(str(dtype))
    widths = widths or ([2, 8] if dtype is STRUCT else [spec.dtype.itemsize])
    expected, start = b"", 0
    while start < len(little):
        for width in widths:
            expected += little[start : start + width][::-1]
            start += width
    assert big == expected


def test_without_endian_bytes_are_in_the_order_of_the_type():
    for v2 in ("<i4", ">i4"):
        spec = ChunkSpec(shape=(2,), data_type=parse_v2(v2, None), fill_value=0)
        array = np.array([1, -2], v2)
        codec = BytesCodec(None).bind(spec)
        assert bytes(codec.encode(array.astype("=i4"), spec)) == array.tobytes()
        back = codec.decode(array.tobytes(), spec)
        assert back.dtype == np.dtype(v2)
        assert back.tolist() == [1, -2]


def test_encoding_and_decoding_do_not_copy():
    spec = spec_of("int32", (4,))
    array = np.arange(4, dtype="i4")
    data = BytesCodec("little").encode(array, spec)
    assert np.shares_memory(np.frombuffer(data, "u1"), array)
    back = BytesCodec("little").decode(data, spec)
    assert np.shares_memory(back, array)


def test_decoded_bytes_objects_are_read_only():
    spec = spec_of("uint8", (4,))
    assert not BytesCodec(None).decode(bytes(4), spec).flags.writeable


def test_strided_and_swapped_input_is_encoded_in_c_order():
    spec = spec_of("int16", (3, 2))
    array = np.arange(6, dtype=">i2").reshape(2, 3).T
    assert bytes(BytesCodec("little").encode(array, spec)) == array.astype("<i2").tobytes("C")


def test_unused_bits_of_short_types_are_cleared_when_read():
    spec = spec_of("int4", (2,))
    back = BytesCodec(None).decode(b"\xf1\x0f", spec)
    assert back.view("u1").tolist() == [0x01, 0x0F]
    assert back.astype("i1").tolist() == [1, -1]


def test_bind_requires_endian_of_documents_for_multi_byte_types():
    codec = BytesCodec.from_config({})
    assert codec.bind(spec_of("uint8", (1,))).to_dict() == {"name": "bytes"}
    assert codec.bind(spec_of(STRUCT, (1,))).endian == "little"
    with pytest.raises(ValueError, match="endian: required for 'int16'"):
        codec.bind(spec_of("int16", (1,)))


def test_bind_drops_endian_where_it_means_nothing():
    assert BytesCodec("big").bind(spec_of("int8", (1,))).endian is None
    assert BytesCodec("big").bind(spec_of("int16", (1,))).endian == "big"


def test_bind_refuses_elements_of_varying_length():
    with pytest.raises(ValueError, match="vlen-utf8"):
        BytesCodec().bind(spec_of("string", (1,)))


@pytest.mark.parametrize("config", [{"endian": "middle"}, {"endian": 1}, {"order": "C"}])
def test_wrong_configuration_is_named(config):
    with pytest.raises(ValueError, match="|".join(config)):
        BytesCodec.from_config(config)


def test_wrong_size_says_expected_and_found():
    with pytest.raises(CodecError, match="expected 8, found 7"):
        BytesCodec("little").decode(bytes(7), spec_of("int32", (2,)))


def test_damaged_data_only_raises_codec_errors():
    spec = spec_of("float32", (5,))
    check_only_codec_errors(BytesCodec("big"), bytes(20), spec)
