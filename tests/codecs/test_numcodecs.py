import contextlib

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import mutants, random_array, spec_of
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.numcodecs import (
    AsTypeCodec,
    FixedScaleOffsetCodec,
    NumcodecsCodec,
    PackBitsFilter,
    QuantizeCodec,
)
from zarr_gpu.codecs.registry import from_v2
from zarr_gpu.errors import CodecError

# Filters as format 2 documents configure them, and the type of the chunk.
V2_FILTERS = [
    ({"id": "delta", "dtype": "<i4"}, "<i4"),
    ({"id": "delta", "dtype": "<i4", "astype": "<i2"}, "<i4"),
    ({"id": "delta", "dtype": ">i2", "astype": ">i8"}, ">i2"),
    ({"id": "fixedscaleoffset", "offset": 1, "scale": 10, "dtype": "<f8", "astype": "|u1"}, "<f8"),
    ({"id": "fixedscaleoffset", "offset": 1, "scale": 10, "dtype": "<f4"}, "<f4"),
    ({"id": "quantize", "digits": 2, "dtype": "<f8", "astype": "<f4"}, "<f8"),
    ({"id": "quantize", "digits": 2, "dtype": "<f4"}, "<f4"),
    ({"id": "astype", "encode_dtype": "<i2", "decode_dtype": "<i8"}, "<i8"),
    ({"id": "packbits"}, "|b1"),
    ({"id": "bitround", "keepbits": 5}, "<f4"),
]


def small_numbers(dtype, n):
    return (np.arange(n) % 7).astype(dtype)


@pytest.mark.parametrize("n", [1, 8, 13])
@pytest.mark.parametrize(("config", "dtype"), V2_FILTERS, ids=str)
def test_filters_on_bytes_are_those_of_numcodecs_and_of_the_size_foretold(config, dtype, n):
    array = small_numbers(dtype, n)
    codec = from_v2(config).bind(spec_of(dtype, (n,)))
    decoded = Size(array.nbytes)
    data = codec.encode(array.tobytes())
    expected = numcodecs.get_codec(config).encode(array)
    assert bytes(data) == np.asarray(expected).tobytes()
    assert codec.encoded_size(decoded) == Size(len(data))
    back = codec.decode(data, decoded)
    assert bytes(back) == np.asarray(numcodecs.get_codec(config).decode(expected)).tobytes()


@pytest.mark.parametrize(("config", "dtype"), V2_FILTERS, ids=str)
def test_damaged_data_only_raises_codec_errors(config, dtype):
    array = small_numbers(dtype, 20)
    codec = from_v2(config).bind(spec_of(dtype, (20,)))
    for damaged in mutants(codec.encode(array.tobytes()), n=60):
        with contextlib.suppress(CodecError):
            assert len(codec.decode(damaged, Size(array.nbytes))) == array.nbytes


def test_sizes_that_no_encoder_gives_never_reach_numcodecs():
    codec = from_v2({"id": "delta", "dtype": "<i4"})
    with pytest.raises(CodecError, match="wrong size"):
        codec.decode(bytes(16), Size(8))


def test_empty_buffers_stay_empty():
    codec = from_v2({"id": "delta", "dtype": "<i4"})
    assert codec.encode(b"") == b""
    assert codec.decode(b"", Size(0)) == b""


def test_sizes_that_are_only_bounds_stay_bounds():
    codec = from_v2({"id": "astype", "encode_dtype": "<i8", "decode_dtype": "<i2"})
    assert codec.encoded_size(Size(5, exact=False)) == Size(24, exact=False)


def test_a_codec_of_somebody_else_is_wrapped(monkeypatch):
    class Reverse(numcodecs.abc.Codec):
        codec_id = "reverse"

        def encode(self, buf):
            return bytes(buf)[::-1]

        def decode(self, buf, out=None):
            if bytes(buf[:4]) == b"evil":
                raise SystemError("what a C library may raise")
            return bytes(buf)[::-1]

    monkeypatch.setitem(numcodecs.registry.codec_registry, "reverse", Reverse)
    codec = from_v2({"id": "reverse"})
    assert isinstance(codec, NumcodecsCodec)
    assert codec.decode(codec.encode(b"abc"), Size(3)) == b"abc"
    assert codec.to_dict() == {"name": "numcodecs.reverse", "configuration": {}}
    with pytest.raises(CodecError, match="reverse: what a C"):
        codec.decode(b"evil", Size(4))
    with pytest.raises(CodecError, match="wrong decoded size"):
        codec.decode(b"abc", Size(4))


@pytest.mark.parametrize(
    "config",
    [
        {"id": "astype", "encode_dtype": "|O", "decode_dtype": "<i8"},
        {"id": "astype", "encode_dtype": "<i8", "decode_dtype": "|O"},
        {"id": "delta", "dtype": "O"},
        {"id": "delta", "dtype": "<i4", "astype": "object"},
        {"id": "fixedscaleoffset", "offset": 0, "scale": 1, "dtype": "O"},
        {"id": "quantize", "digits": 1, "dtype": "O,i4"},
        {"id": "delta", "dtype": [["a", "<i4"]]},
        {"id": "delta", "dtype": "no type"},
    ],
    ids=str,
)
def test_types_that_hold_references_are_refused(config):
    with pytest.raises(ValueError, match=r"dtype|astype"):
        from_v2(config)


FILTERS = [
    (FixedScaleOffsetCodec, {"offset": 1, "scale": 10, "dtype": "<f4", "astype": "<i2"}, "float32"),
    (FixedScaleOffsetCodec, {"offset": 1, "scale": 10}, "float64"),
    (QuantizeCodec, {"digits": 2}, "float32"),
    (QuantizeCodec, {"digits": 2, "dtype": "float64", "astype": "float32"}, "float64"),
    (AsTypeCodec, {"encode_dtype": "int8"}, "int64"),
    (AsTypeCodec, {"encode_dtype": ">i2", "decode_dtype": ">i4"}, "int32"),
]


@pytest.mark.parametrize(("cls", "config", "dtype"), FILTERS, ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_filters_on_arrays_are_those_of_numcodecs(cls, config, dtype, order):
    spec = spec_of(dtype, (3, 4))
    array = small_numbers(dtype, 12).reshape(3, 4, order=order)
    codec = cls.from_config(config).bind(spec)
    native = {k: v.replace(">", "<") if isinstance(v, str) else v for k, v in codec.config.items()}
    reference = numcodecs.get_codec({"id": cls.name.removeprefix("numcodecs."), **native})
    expected = reference.encode(np.ascontiguousarray(array))
    encoded = codec.encode(array, spec)
    after = codec.encoded_spec(spec)
    assert (encoded.shape, encoded.dtype) == (after.shape, after.dtype)
    assert encoded.tobytes() == expected.tobytes()
    for stored in (encoded, encoded.astype(encoded.dtype.newbyteorder(">"))):
        back = codec.decode(stored, spec)
        assert back.shape == (3, 4)
        assert back.dtype == spec.dtype
        assert back.tobytes() == reference.decode(expected).tobytes()


def test_binding_fills_in_the_type_of_the_chunk():
    codec = QuantizeCodec.from_config({"digits": 2}).bind(spec_of("float32", (1,)))
    assert codec.to_config() == {"digits": 2, "dtype": "float32"}


@pytest.mark.parametrize(
    ("cls", "config", "dtype", "member"),
    [
        (AsTypeCodec, {"encode_dtype": "i1", "decode_dtype": "i8"}, "int32", "decode_dtype"),
        (QuantizeCodec, {"digits": 1}, "int32", "floating"),
        (PackBitsFilter, {}, "int8", "booleans"),
    ],
)
def test_bind_refuses_other_types(cls, config, dtype, member):
    with pytest.raises(ValueError, match=member):
        cls.from_config(config).bind(spec_of(dtype, (2,)))


@pytest.mark.parametrize(
    ("cls", "config", "member"),
    [
        (AsTypeCodec, {}, "encode_dtype"),
        (AsTypeCodec, {"encode_dtype": "|O"}, "encode_dtype"),
        (AsTypeCodec, {"encode_dtype": "i4", "casting": "safe"}, "casting"),
        (FixedScaleOffsetCodec, {"offset": 1}, "scale"),
        (FixedScaleOffsetCodec, {"offset": 1, "scale": 0}, "scale"),
        (FixedScaleOffsetCodec, {"offset": "1", "scale": 1}, "offset"),
        (FixedScaleOffsetCodec, {"offset": 1, "scale": 10**400}, "scale"),
        (QuantizeCodec, {"digits": 1.5}, "digits"),
        (PackBitsFilter, {"bits": 1}, "bits"),
    ],
)
def test_wrong_configuration_is_named(cls, config, member):
    with pytest.raises(ValueError, match=member):
        cls.from_config(config)


@given(st.lists(st.booleans(), max_size=40))
def test_booleans_are_packed_as_numcodecs_does(items):
    spec = spec_of("bool", (len(items),))
    codec = PackBitsFilter().bind(spec)
    encoded = codec.encode(np.array(items, bool), spec)
    assert encoded.shape == codec.encoded_spec(spec).shape
    if items:
        assert encoded.tobytes() == numcodecs.PackBits().encode(np.array(items, bool)).tobytes()
    assert codec.decode(encoded, spec).tolist() == items
    encoded[0] ^= 1
    with pytest.raises(CodecError, match="padding"):
        codec.decode(encoded, spec)


def test_fill_values_are_kept_or_replaced_by_the_default():
    codec = AsTypeCodec.from_config({"encode_dtype": "int16"})
    assert codec.encoded_spec(spec_of("float64", (1,), fill=3)).fill_value == 3
    assert codec.encoded_spec(spec_of("float64", (1,), fill=np.nan)).fill_value == 0


def test_values_that_do_not_fit_raise_no_warning():
    spec = spec_of("float64", (2,))
    codec = AsTypeCodec.from_config({"encode_dtype": "int8"}).bind(spec)
    codec.encode(np.array([np.nan, 1e300]), spec)
    wide = spec_of("float32", (20,))
    codec = FixedScaleOffsetCodec.from_config({"offset": 0, "scale": 10, "astype": "i2"}).bind(wide)
    codec.encode(random_array(wide), wide)
