import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs.array_codecs import spec_of
from zarr_gpu.codecs.cast_value import CastValueCodec
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.dtypes import parse_v3

ROUNDINGS = [
    "nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away"
]  # fmt: skip
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]


def cast(values, source, target, rounding="nearest-even", out_of_range=None, pairs=None):
    codec = CastValueCodec(
        parse_v3(target), rounding, out_of_range, None if pairs is None else (pairs, None)
    )
    spec = spec_of(source, np.shape(values))
    codec.bind(spec)
    return codec.encode(np.array(values).astype(spec.dtype), spec)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("nearest-even", [2, 4, -2, 0, 0]),
        ("towards-zero", [2, 3, -2, 0, 0]),
        ("towards-positive", [3, 4, -2, 1, 0]),
        ("towards-negative", [2, 3, -3, 0, -1]),
        ("nearest-away", [3, 4, -3, 0, 0]),
    ],
)
@pytest.mark.parametrize("source", ["float16", "float32", "float64", "bfloat16"])
def test_floats_are_rounded_to_integers_as_asked_for(source, rounding, expected):
    values = [2.5, 3.5, -2.5, 0.25, -0.25]
    assert cast(values, source, "int8", rounding).tolist() == expected


# What the reference implementation (cast-value-rs 0.5.1) gives.
@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("nearest-even", [1.0, 1.0000001192092896, -1.0, 0.0]),
        ("towards-zero", [1.0, 1.0, -1.0, 0.0]),
        ("towards-positive", [1.0000001192092896, 1.0000001192092896, -1.0, 1.401298464324817e-45]),
        ("towards-negative", [1.0, 1.0, -1.0000001192092896, 0.0]),
        ("nearest-away", [1.0000001192092896, 1.0000001192092896, -1.0000001192092896, 0.0]),
    ],
)
def test_floats_are_rounded_to_narrower_floats_as_asked_for(rounding, expected):
    values = [1 + 2**-24, 1 + 2**-24 * 1.5, -1 - 2**-24, 1e-50]
    assert cast(values, "float64", "float32", rounding).tolist() == expected


@pytest.mark.parametrize(
    ("rounding", "double", "single"),
    [
        ("nearest-even", [2**53, 2**53 + 4, -(2**53), 2**63], [2**53, 2**64, 2**24]),
        ("towards-zero", [2**53, 2**53 + 2, -(2**53), 2**63 - 1024], [2**53, 2**64 - 2**40, 2**24]),
        (
            "towards-positive",
            [2**53 + 2, 2**53 + 4, -(2**53), 2**63],
            [2**53 + 2**30, 2**64, 2**24 + 2],
        ),
        (
            "towards-negative",
            [2**53, 2**53 + 2, -(2**53) - 2, 2**63 - 1024],
            [2**53, 2**64 - 2**40, 2**24],
        ),
        (
            "nearest-away",
            [2**53 + 2, 2**53 + 4, -(2**53) - 2, 2**63],
            [2**53, 2**64, 2**24 + 2],
        ),
    ],
)
def test_integers_that_no_float_holds_are_rounded_as_asked_for(rounding, double, single):
    values = np.array([2**53 + 1, 2**53 + 3, -(2**53) - 1, 2**63 - 1], "i8")
    assert [int(x) for x in cast(values, "int64", "float64", rounding)] == double
    values = np.array([2**53 + 1, 2**64 - 1, 2**24 + 1], "u8")
    assert [int(x) for x in cast(values, "uint64", "float32", rounding)] == single


def rounded(x, rounding):
    """``x``, a Fraction, as an integer."""
    down = math.floor(x)
    rest = x - down
    match rounding:
        case "towards-negative":
            return down
        case "towards-positive":
            return math.ceil(x)
        case "towards-zero":
            return math.trunc(x)
        case "nearest-away" if rest == Fraction(1, 2):
            return down + (x > 0)
        case _:
            return round(x)


@given(st.data())
def test_integers_follow_the_definition(data):
    target = data.draw(st.sampled_from([*INTEGERS, "int4", "uint2"]))
    mode = data.draw(st.sampled_from([None, "clamp", "wrap"]))
    rounding = data.draw(st.sampled_from(ROUNDINGS))
    source = data.draw(st.sampled_from([*INTEGERS, *FLOATS]))
    if source in INTEGERS:
        info = np.iinfo(source)
        value = st.integers(int(info.min), int(info.max)) | st.integers(0, 20)
    else:
        width = int(source[5:])
        value = st.floats(allow_nan=False, allow_infinity=False, width=width)
        value = value | st.integers(-600, 600).map(lambda n: n / 4)
    x = data.draw(value)
    number = rounded(Fraction(x), rounding)
    bits = int(target.lstrip("uint"))
    low = 0 if target[0] == "u" else -(2 ** (bits - 1))
    high = low + 2**bits - 1
    if mode == "clamp":
        number = min(max(number, low), high)
    elif mode == "wrap":
        number = (number - low) % 2**bits + low
    if low <= number <= high:
        assert int(cast([x], source, target, rounding, mode)[0]) == number
    else:
        with pytest.raises(CodecError, match="cannot be represented"):
            cast([x], source, target, rounding, mode)


def test_range_of_floats_is_that_of_the_rounded_value():
    assert cast([65519], "int32", "float16").tolist() == [65504]
    assert cast([65520], "int32", "float16", "towards-zero").tolist() == [65504]
    for value, rounding in [(65520, "nearest-even"), (70000, "towards-zero")]:
        with pytest.raises(CodecError, match="float16"):
            cast([value], "int32", "float16", rounding)
    assert cast([1e39, -1e39], "float64", "float32", out_of_range="clamp").tolist() == [
        math.inf,
        -math.inf,
    ]


def test_special_floats():
    back = cast([math.inf, -math.inf, math.nan, -0.0], "float64", "float16")
    assert np.signbit(back[3])
    assert back[:2].tolist() == [math.inf, -math.inf]
    assert np.isnan(back[2])
    for value in (math.inf, math.nan):
        for mode in (None, "clamp", "wrap"):
            with pytest.raises(CodecError):
                cast([value], "float64", "uint8", out_of_range=mode)


def test_floats_of_eight_bits():
    e4m3 = "float8_e4m3fn"  # no infinities, largest value 448
    assert cast([448.0, 1.0625], "float32", e4m3).astype("f4").tolist() == [448.0, 1.0]
    assert cast([1e4, math.inf], "float32", e4m3, out_of_range="clamp").astype("f4").tolist() == [
        448.0,
        448.0,
    ]
    with pytest.raises(CodecError):
        cast([1e4], "float32", e4m3)
    with pytest.raises(CodecError):
        cast([math.nan], "float32", "float6_e2m3fn")
    spec = spec_of("float32", (2,))
    codec = CastValueCodec(parse_v3("bfloat16"))
    array = np.array([1.0, -3.5], "f4")
    assert codec.decode(codec.encode(array, spec), spec).tolist() == array.tolist()


def test_the_map_comes_first_and_its_first_match_counts():
    assert cast([math.nan, 3.0], "float64", "uint8", pairs=(("NaN", 7),)).tolist() == [7, 3]
    assert cast([300, 5], "int16", "uint8", pairs=((300, 9), (300, 8))).tolist() == [9, 5]
    assert cast([-0.0], "float64", "float32", pairs=((0.0, 9.0),)).tolist() == [9.0]
    assert cast([0.1], "float32", "uint8", pairs=((0.1, 5),)).tolist() == [5]
    big = np.array([2**53 + 1, 3], "i8")
    assert cast(big, "int64", "uint8", pairs=((2**53 + 1, 4),)).tolist() == [4, 3]
    assert np.isnan(cast([255], "uint8", "float32", pairs=((255, "NaN"),)))


def test_decoding_uses_its_own_map():
    config = {
        "data_type": "uint8",
        "rounding": "towards-zero",
        "out_of_range": "clamp",
        "scalar_map": {"encode": [["NaN", 0]], "decode": [[0, "NaN"]]},
    }
    codec = CastValueCodec.from_config(config)
    spec = spec_of("float64", (2, 2), fill=math.nan)
    array = np.array([[math.nan, 1.75], [999.0, 2.0]])
    encoded = codec.bind(spec).encode(array, spec)
    assert encoded.tolist() == [[0, 1], [255, 2]]
    np.testing.assert_array_equal(codec.decode(encoded, spec), [[math.nan, 1], [255, 2]])
    assert codec.to_config() == config
    assert codec.encoded_spec(spec).fill_value == 0
    assert codec.encoded_spec(spec).dtype == np.uint8


def test_any_layout_and_byte_order_of_the_input():
    spec = spec_of("float32", (2, 3))
    array = np.arange(6, dtype=">f4").reshape(3, 2).T
    codec = CastValueCodec(parse_v3("int16"))
    assert codec.encode(array, spec).tolist() == array.tolist()
    assert codec.encode(np.array(3.0), spec_of("float64", ())).shape == ()
    assert codec.encode(np.empty((0, 2)), spec_of("float64", (0, 2))).shape == (0, 2)


def test_a_fill_value_that_does_not_fit_is_an_error():
    with pytest.raises(CodecError):
        CastValueCodec(parse_v3("uint8")).encoded_spec(spec_of("float64", (1,), fill=math.nan))


@pytest.mark.parametrize(
    ("config", "member"),
    [
        ({}, "data_type"),
        ({"data_type": "uint9"}, "data_type"),
        ({"data_type": "string"}, "data_type"),
        ({"data_type": "complex64"}, "data_type"),
        ({"data_type": "uint8", "rounding": "up"}, "rounding"),
        ({"data_type": "uint8", "out_of_range": "saturate"}, "out_of_range"),
        ({"data_type": "uint8", "scalar_map": []}, "scalar_map"),
        ({"data_type": "uint8", "scalar_map": {"both": []}}, "scalar_map"),
        ({"data_type": "uint8", "scalar_map": {"encode": [[1]]}}, "scalar_map"),
        ({"data_type": "uint8", "clip": True}, "clip"),
    ],
)
def test_wrong_configuration_is_named(config, member):
    with pytest.raises(ValueError, match=member):
        CastValueCodec.from_config(config)


def test_bind_checks_types_and_maps():
    with pytest.raises(ValueError, match="wrap"):
        CastValueCodec(parse_v3("float32"), out_of_range="wrap").bind(spec_of("int8", (1,)))
    with pytest.raises(ValueError, match="bool"):
        CastValueCodec(parse_v3("uint8")).bind(spec_of("bool", (1,)))
    codec = CastValueCodec(parse_v3("uint8"), scalar_map=(None, ((300, 1),)))
    with pytest.raises(ValueError, match=r"scalar_map.decode"):
        codec.bind(spec_of("float32", (1,)))


@pytest.mark.peer
@settings(max_examples=300)
@given(st.data())
def test_results_are_those_of_the_reference_implementation(data):
    reference = pytest.importorskip("cast_value_rs")
    source, target = (data.draw(st.sampled_from([*INTEGERS, *FLOATS])) for _ in range(2))
    rounding = data.draw(st.sampled_from(ROUNDINGS))
    modes = [None, "clamp"] if target in FLOATS else [None, "clamp", "wrap"]
    mode = data.draw(st.sampled_from(modes))
    if source in INTEGERS:
        info = np.iinfo(source)
        element = st.integers(int(info.min), int(info.max)) | st.integers(0, 99)
    else:
        element = st.floats(width=int(source[5:])) | st.integers(-99, 99).map(lambda n: n / 4)
    values = np.array(data.draw(st.lists(element, min_size=1, max_size=3)), source)
    try:
        expected = reference.cast_array(
            values, target_dtype=np.dtype(target), rounding_mode=rounding, out_of_range_mode=mode
        )
    except ValueError:
        with pytest.raises(CodecError):
            cast(values, source, target, rounding, mode)
        return
    found = cast(values, source, target, rounding, mode)
    np.testing.assert_array_equal(found, expected)
    assert (np.signbit(found) == np.signbit(expected)).all()
