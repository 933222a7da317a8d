import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs.array_codecs import (
    bits,
    check_only_codec_errors,
    random_array,
    round_trip,
    spec_of,
)
from zarr_gpu.codecs.packbits import PackBitsCodec
from zarr_gpu.errors import CodecError

WIDTHS = {
    "bool": 1, "int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4,
    "float6_e2m3fn": 6, "float6_e3m2fn": 6, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
    "int32": 32, "uint32": 32, "int64": 64, "uint64": 64,
    "float32": 32, "float64": 64, "bfloat16": 16,
    "complex_float4_e2m1fn": 8, "complex_float6_e3m2fn": 12, "complex_bfloat16": 32,
    "complex64": 64, "complex128": 128,
}  # fmt: skip


@pytest.mark.parametrize("dtype", WIDTHS)
@settings(max_examples=20)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    padding=st.sampled_from(["none", "first_byte", "last_byte"]),
    seed=st.integers(0, 9),
)
def test_every_type_survives_bit_by_bit(dtype, shape, padding, seed):
    spec = spec_of(dtype, shape)
    array = random_array(spec, seed)
    codec = PackBitsCodec(padding)
    assert bits(round_trip(codec, array, spec)) == bits(array)
    expected = (spec.size * WIDTHS[dtype] + 7) // 8 + (padding != "none")
    assert codec.encoded_size(spec).limit == expected


def by_the_definition(array, first, last):
    """One bit at a time."""
    stream = 0
    b = last - first + 1
    for i, word in enumerate(array.reshape(-1).view(f"u{array.dtype.itemsize}").tolist()):
        stream |= ((word >> first) & ((1 << b) - 1)) << (i * b)
    return stream.to_bytes((array.size * b + 7) // 8, "little")


@given(st.data())
def test_bits_are_where_the_definition_says(data):
    dtype = data.draw(st.sampled_from(["bool", "uint4", "uint8", "int16", "uint32", "int64"]))
    width = WIDTHS[dtype]
    first = data.draw(st.integers(0, width - 1))
    last = data.draw(st.integers(first, width - 1))
    spec = spec_of(dtype, (data.draw(st.integers(0, 20)),))
    array = random_array(spec)
    codec = PackBitsCodec(first_bit=first, last_bit=last).bind(spec)
    assert bytes(codec.encode(array, spec)) == by_the_definition(array, first, last)


def test_first_element_is_in_the_lowest_bit():
    spec = spec_of("bool", (5,))
    data = PackBitsCodec("first_byte").encode(np.array([1, 0, 0, 1, 1], bool), spec)
    assert bytes(data) == bytes([3, 0b11001])
    assert bytes(PackBitsCodec("last_byte").encode(np.ones(5, bool), spec)) == bytes([0b11111, 3])


def test_signed_integers_are_extended_by_their_last_stored_bit():
    spec = spec_of("int16", (3,))
    codec = PackBitsCodec(first_bit=2, last_bit=6)
    array = np.array([-4, 8, -64], "i2")
    assert round_trip(codec, array, spec).tolist() == [-4, 8, -64]
    unsigned = spec_of("uint16", (1,))
    assert round_trip(codec, np.array([0xFFFF], "u2"), unsigned).tolist() == [0b1111100]


def test_chunks_of_many_blocks():
    spec = spec_of("uint4", (100_003,))
    array = random_array(spec)
    assert bits(round_trip(PackBitsCodec(), array, spec)) == bits(array)
    spec = spec_of("uint16", (70_001,))
    array = random_array(spec) & 0x7FF
    assert bits(round_trip(PackBitsCodec(last_bit=10), array, spec)) == bits(array)


def test_strided_and_swapped_input():
    spec = spec_of("int16", (2, 3))
    array = np.arange(6, dtype=">i2").reshape(3, 2).T
    assert round_trip(PackBitsCodec(), array, spec).tolist() == array.tolist()


@pytest.mark.parametrize(
    "config",
    [
        {"padding_encoding": "both"},
        {"first_bit": -1},
        {"last_bit": 64},
        {"first_bit": True},
        {"bits": 4},
    ],
)
def test_wrong_configuration_is_named(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        PackBitsCodec.from_config(config)


def test_documents_hold_what_differs_from_the_defaults():
    assert PackBitsCodec.from_config({"first_bit": None}).to_dict() == {"name": "packbits"}
    config = {"padding_encoding": "last_byte", "first_bit": 1, "last_bit": 2}
    assert PackBitsCodec.from_config(config).to_config() == config


def test_bind_checks_bits_and_types():
    with pytest.raises(ValueError, match=r"last_bit: expected 0..3, found 4"):
        PackBitsCodec(last_bit=4).bind(spec_of("int4", (1,)))
    with pytest.raises(ValueError, match=r"last_bit: expected 0..31, found 32"):
        PackBitsCodec(last_bit=32).bind(spec_of("complex64", (1,)))
    with pytest.raises(ValueError, match="last_bit"):
        PackBitsCodec(first_bit=3, last_bit=2).bind(spec_of("int4", (1,)))
    with pytest.raises(ValueError, match="string"):
        PackBitsCodec().bind(spec_of("string", (1,)))


def test_wrong_padding_is_an_error():
    spec = spec_of("bool", (5,))
    with pytest.raises(CodecError, match="expected 3, found 4"):
        PackBitsCodec("first_byte").decode(bytes([4, 31]), spec)


@pytest.mark.parametrize("padding", ["none", "first_byte", "last_byte"])
def test_damaged_data_only_raises_codec_errors(padding):
    spec = spec_of("float6_e2m3fn", (9,))
    codec = PackBitsCodec(padding)
    check_only_codec_errors(codec, codec.encode(random_array(spec), spec), spec)
