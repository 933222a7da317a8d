import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import random_array, spec_of
from zarr_gpu.codecs.delta import DeltaCodec
from zarr_gpu.errors import CodecError


@given(st.data())
def test_equals_numcodecs_bit_by_bit(data):
    dtype = data.draw(st.sampled_from(["int8", "uint16", "int32", "uint64", "float32", "float64"]))
    astype = data.draw(st.sampled_from([None, "int8", "int32", "int64"]))
    astype = None if dtype.startswith("float") else astype
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    spec = spec_of(dtype, shape)
    array = random_array(spec, data.draw(st.integers(0, 99)))
    config = {"dtype": dtype} | ({"astype": astype} if astype else {})
    codec = DeltaCodec.from_config(config).bind(spec)
    reference = numcodecs.Delta(**config)
    with np.errstate(all="ignore"):
        try:
            expected = reference.encode(array)
        except OverflowError:
            with pytest.raises(CodecError, match="first element"):
                codec.encode(array, spec)
            return
        encoded = codec.encode(array, spec)
        assert encoded.tobytes() == expected.tobytes()
        assert encoded.shape == spec.shape
        back = codec.decode(encoded, spec)
        assert back.tobytes() == reference.decode(expected).tobytes()


def test_elements_are_taken_in_c_order():
    spec = spec_of("int16", (2, 3))
    array = np.array([[1, 3], [6, 10], [15, 21]], "i2").T
    codec = DeltaCodec.from_config({"dtype": "<i2"})
    assert codec.encode(array, spec).tolist() == [[1, 5, 9], [-12, 7, 11]]
    assert (
        codec.decode(np.asfortranarray(codec.encode(array, spec)), spec).tolist() == array.tolist()
    )


def test_byte_order_in_the_configuration_does_not_matter():
    spec = spec_of("int32", (3,))
    codec = DeltaCodec.from_config({"dtype": ">i4", "astype": ">i2"}).bind(spec)
    encoded = codec.encode(np.array([100, 103, 99], ">i4"), spec)
    assert encoded.tolist() == [100, 3, -4]
    assert codec.encoded_spec(spec).dtype == np.dtype("=i2")
    assert codec.decode(encoded.astype(">i2"), spec).tolist() == [100, 103, 99]


def test_other_types_of_the_same_width_are_viewed():
    spec = spec_of("datetime64[s]", (3,))
    array = np.array([10, 20, 15], "M8[s]")
    codec = DeltaCodec.from_config({"dtype": "<i8"}).bind(spec)
    back = codec.decode(codec.encode(array, spec), spec)
    assert back.dtype == array.dtype
    assert back.tolist() == array.tolist()


def test_sums_wrap_around_without_a_warning():
    spec = spec_of("int16", (3,))
    codec = DeltaCodec.from_config({"dtype": "<i2"})
    assert codec.decode(np.array([32767, 1, 1], "i2"), spec).tolist() == [32767, -32768, -32767]
    floats = spec_of("float32", (2,))
    codec = DeltaCodec.from_config({"dtype": "<f4"})
    assert codec.decode(np.array([3e38, 3e38], "f4"), floats).tolist()[1] == np.inf


def test_empty_chunks():
    spec = spec_of("int16", (0, 3))
    codec = DeltaCodec.from_config({"dtype": "<i2"})
    assert codec.decode(codec.encode(np.empty((0, 3), "i2"), spec), spec).shape == (0, 3)


@pytest.mark.parametrize("config", [{"dtype": "O"}, {"dtype": "<M8[s]"}, {"astype": "b1"}])
def test_wrong_configuration_is_named(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        DeltaCodec.from_config(config)


def test_bind_refuses_another_width():
    with pytest.raises(ValueError, match="dtype"):
        DeltaCodec.from_config({"dtype": "<i4"}).bind(spec_of("int16", (1,)))
