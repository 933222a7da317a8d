import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import spec_of
from zarr_gpu.codecs.scale_offset import ScaleOffsetCodec
from zarr_gpu.errors import CodecError

INTEGERS = ["int8", "uint8", "int16", "uint32", "int64", "uint64"]


@given(st.data())
def test_integers_are_exact_or_an_error(data):
    dtype = data.draw(st.sampled_from(INTEGERS))
    info = np.iinfo(dtype)
    value = st.integers(int(info.min), int(info.max)) | st.integers(max(-3, int(info.min)), 3)
    items = data.draw(st.lists(value, min_size=1, max_size=4))
    codec = ScaleOffsetCodec(data.draw(value), data.draw(value.filter(bool)))
    spec = spec_of(dtype, (len(items),))
    codec.bind(spec)
    exact = [(x - codec.offset) * codec.scale for x in items]
    if all(info.min <= x <= info.max for x in exact):
        encoded = codec.encode(np.array(items, dtype), spec)
        assert encoded.tolist() == exact
        assert codec.decode(encoded, spec).tolist() == items
    else:
        with pytest.raises(CodecError, match="outside"):
            codec.encode(np.array(items, dtype), spec)


@given(st.data())
def test_integers_are_decoded_exactly_or_not_at_all(data):
    dtype = data.draw(st.sampled_from(INTEGERS))
    info = np.iinfo(dtype)
    value = st.integers(int(info.min), int(info.max))
    small = st.integers(1, 3) if dtype.startswith("u") else st.sampled_from([-3, -2, -1, 1, 2, 3])
    items = data.draw(st.lists(value, min_size=1, max_size=3))
    codec = ScaleOffsetCodec(data.draw(value), data.draw(small))
    spec = spec_of(dtype, (len(items),))
    fits = all(
        x % codec.scale == 0 and info.min <= x // codec.scale + codec.offset <= info.max
        for x in items
    )
    if fits:
        expected = [x // codec.scale + codec.offset for x in items]
        assert codec.decode(np.array(items, dtype), spec).tolist() == expected
    else:
        with pytest.raises(CodecError):
            codec.decode(np.array(items, dtype), spec)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_floats_are_computed_in_their_own_type(dtype):
    spec = spec_of(dtype, (50,))
    array = np.random.default_rng(0).normal(size=50).astype(spec.dtype)
    codec = ScaleOffsetCodec(0.3, 1.7)
    offset, scale = (np.array(x).astype(spec.dtype) for x in (0.3, 1.7))
    encoded = codec.encode(array, spec)
    assert encoded.dtype == spec.dtype
    assert encoded.tobytes() == ((array - offset) * scale).tobytes()
    assert codec.decode(encoded, spec).tobytes() == (encoded / scale + offset).tobytes()


def test_big_endian_and_strided_input():
    spec = spec_of("int16", (2, 3))
    array = np.arange(6, dtype=">i2").reshape(3, 2).T
    codec = ScaleOffsetCodec(1, 2)
    assert codec.encode(array, spec).tolist() == ((array.astype("i2") - 1) * 2).tolist()
    assert codec.decode(codec.encode(array, spec), spec).tolist() == array.tolist()


def test_zero_dimensional_and_empty_chunks():
    codec = ScaleOffsetCodec(1, 2)
    assert codec.encode(np.array(5, "i4"), spec_of("int32", ())).shape == ()
    assert codec.decode(np.empty((0, 2), "i4"), spec_of("int32", (0, 2))).shape == (0, 2)


def test_the_fill_value_is_encoded_too():
    encoded = ScaleOffsetCodec(10, 2).encoded_spec(spec_of("int16", (1,), fill=13))
    assert encoded.fill_value == 6
    nan = ScaleOffsetCodec(10, 2).encoded_spec(spec_of("float32", (1,), fill=np.nan))
    assert np.isnan(nan.fill_value)


@pytest.mark.parametrize(
    ("codec", "dtype", "member"),
    [
        (ScaleOffsetCodec(0.5), "int8", "offset"),
        (ScaleOffsetCodec(-1), "uint8", "offset"),
        (ScaleOffsetCodec(0, 300), "uint8", "scale"),
        (ScaleOffsetCodec(0, 0), "float32", "scale: must not be 0"),
        (ScaleOffsetCodec(0, "0x00000000"), "float32", "scale: must not be 0"),
        (ScaleOffsetCodec(0, 2), "bool", "bool"),
        (ScaleOffsetCodec(0, 2), "int4", "int4"),
        (ScaleOffsetCodec(0, 2), "string", "string"),
    ],
)
def test_bind_refuses_constants_and_types_that_do_not_fit(codec, dtype, member):
    with pytest.raises(ValueError, match=member):
        codec.bind(spec_of(dtype, (1,)))


@pytest.mark.parametrize("config", [{"offset": None}, {"scale": True}, {"scale": [1]}, {"size": 1}])
def test_wrong_configuration_is_named(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        ScaleOffsetCodec.from_config(config)


def test_documents_hold_what_differs_from_the_defaults():
    assert ScaleOffsetCodec().to_dict() == {"name": "scale_offset"}
    codec = ScaleOffsetCodec.from_config({"offset": 5, "scale": 0.1})
    assert codec.to_config() == {"offset": 5, "scale": 0.1}
