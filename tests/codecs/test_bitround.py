import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.codecs.array_codecs import random_array, spec_of
from zarr_gpu.codecs.bitround import BitRoundCodec
from zarr_gpu.errors import CodecError


@given(st.data())
def test_finite_values_are_rounded_as_numcodecs_does(data):
    dtype, most = data.draw(st.sampled_from([("float16", 10), ("float32", 23), ("float64", 52)]))
    keepbits = data.draw(st.integers(0, most))
    floats = st.floats(allow_nan=False, width=int(dtype[5:]))
    array = data.draw(arrays(dtype, (7,), elements=floats))
    spec = spec_of(dtype, (7,))
    codec = BitRoundCodec(keepbits).bind(spec)
    expected = numcodecs.BitRound(keepbits).encode(array).view(dtype)
    assert codec.encode(array, spec).tobytes() == expected.tobytes()


def test_bfloat16_is_rounded_to_nearest_even():
    spec = spec_of("bfloat16", (4,))
    array = np.array([1.25, 1.75, 1.3, -1.75], "f4").astype(spec.dtype)
    rounded = BitRoundCodec(1).encode(array, spec)
    assert rounded.dtype == spec.dtype
    assert rounded.astype("f4").tolist() == [1.0, 2.0, 1.5, -2.0]


def test_components_of_complex_numbers_are_rounded_alike():
    spec = spec_of("complex64", (20,))
    parts = spec_of("float32", (20, 2))
    array = np.random.default_rng(0).normal(size=(20, 2)).astype("f4")
    rounded = BitRoundCodec(4).encode(array.view("c8").reshape(-1), spec)
    assert rounded.tobytes() == BitRoundCodec(4).encode(array, parts).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_nan_and_infinity_stay_what_they_are(dtype):
    spec = spec_of(dtype, (3,))
    array = np.array([np.nan, np.inf, -np.inf]).astype(spec.dtype)
    assert BitRoundCodec(0).encode(array, spec).tobytes() == array.tobytes()
    ones = np.full(3, 0xFF, np.uint8).repeat(spec.dtype.itemsize).view(spec.dtype)
    assert np.isnan(BitRoundCodec(0).encode(ones, spec).astype("f8")).all()


def test_byte_order_and_strides_of_the_input_do_not_matter():
    spec = spec_of("float32", (3, 4))
    array = np.random.default_rng(0).normal(size=(4, 3)).astype("f4").T
    expected = BitRoundCodec(5).encode(np.ascontiguousarray(array), spec)
    assert np.array_equal(BitRoundCodec(5).encode(array.astype(">f4"), spec), expected)


def test_decoding_changes_nothing():
    spec = spec_of("float32", (4,))
    array = random_array(spec)
    assert BitRoundCodec(3).decode(array, spec) is array


def test_rounded_integers_can_be_read_but_not_written():
    spec = spec_of("int32", (2,))
    array = np.array([1, 2], "i4")
    codec = BitRoundCodec(3).bind(spec)
    assert codec.decode(array, spec) is array
    with pytest.raises(CodecError, match="integers"):
        codec.encode(array, spec)


@pytest.mark.parametrize("config", [{}, {"keepbits": -1}, {"keepbits": "3"}, {"keepbits": 1.5}])
def test_wrong_configuration_is_named(config):
    with pytest.raises(ValueError, match="keepbits"):
        BitRoundCodec.from_config(config)


def test_bind_checks_type_and_bits():
    with pytest.raises(ValueError, match="at most 10, found 11"):
        BitRoundCodec(11).bind(spec_of("float16", (1,)))
    with pytest.raises(ValueError, match="string"):
        BitRoundCodec(1).bind(spec_of("string", (1,)))
