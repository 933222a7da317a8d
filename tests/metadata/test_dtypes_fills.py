"""Fill values: from and to JSON, from users, and as bits in arrays."""

import base64
import datetime as dt
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarr_gpu.metadata.dtypes import from_dtype_like, parse_v2, parse_v3

ml_dtypes = pytest.importorskip("ml_dtypes")

ML_REALS = [
    "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn",
    "float6_e3m2fn", "float4_e2m1fn",
]  # fmt: skip
REALS = ["float16", "float32", "float64", *ML_REALS]
ALL = [
    "bool", "int8", "uint64", "int4", "uint2", *REALS, "complex64", "complex128",
    *(f"complex_{name}" for name in ("float16", *ML_REALS)), "r24", "string", "bytes", ">i2",
    ">f4", ">c8", "S3", ">U3", "V5", "M8[ns]", ">m8[3s]", "M8",
    [("a", ">i2"), ("b", "bfloat16"), ("c", [("d", ">U2"), ("e", "M8[s]")])],
]  # fmt: skip


def b64(data):
    return base64.b64encode(data).decode()


def time_type(unit="ns"):
    return parse_v3(
        {"name": "numpy.datetime64", "configuration": {"unit": unit, "scale_factor": 1}}
    )


def point():
    fields = [{"name": "x", "data_type": "int16"}, {"name": "y", "data_type": "float32"}]
    return parse_v3({"name": "struct", "configuration": {"fields": fields}})


# -- every type


@pytest.mark.parametrize("spec", ALL, ids=repr)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_defaults_survive_json_and_fill_arrays(spec, zarr_format):
    data_type = from_dtype_like(spec, 2)
    fill = data_type.default_fill()
    stored = json.loads(json.dumps(data_type.fill_to_json(fill, zarr_format)))
    again = data_type.fill_from_json(stored, zarr_format)
    array = data_type.full((3, 2), fill)
    assert array.dtype == data_type.dtype
    assert array.flags.c_contiguous and array.flags.writeable
    assert data_type.equals_fill(array, again)
    assert data_type.equals_fill(data_type.full((3, 2), None), data_type.cast_fill(None))
    assert data_type.cast_fill(fill) == fill or str(fill) == "NaT"


@pytest.mark.parametrize("spec", ["int8", "int16", "float32", "float64", "complex128", "S3", ">U3"])
def test_full_allocates_its_own_array(spec):
    data_type = from_dtype_like(spec)
    one = data_type.full(
        (2,), data_type.cast_fill(b"a" if spec == "S3" else "a" if "U" in spec else 1)
    )
    assert one.shape == (2,) and one.base is None
    assert data_type.full((0, 3), data_type.default_fill()).shape == (0, 3)
    assert data_type.full((), data_type.default_fill()).shape == ()


def test_defaults():
    assert parse_v3("float8_e8m0fnu").default_fill() == 1.0
    assert time_type().fill_to_json(time_type().default_fill(), 3) == -(2**63)
    assert parse_v3("bool").default_fill() is np.False_
    assert parse_v2("|O", "json2").default_fill() is None


def test_null_means_undefined_in_v2_and_default_with_a_warning_in_v3():
    data_type = parse_v3("float32")
    assert data_type.fill_from_json(None, 2) is None
    assert data_type.fill_to_json(None, 2) is None
    with pytest.warns(UserWarning, match="null is not allowed in Zarr v3"):
        assert data_type.fill_from_json(None, 3) == 0
    with pytest.raises(ValueError, match="no fill value null"):
        data_type.fill_to_json(None, 3)
    assert not data_type.equals_fill(np.zeros(3, "f4"), None)


# -- bits of floats


@pytest.mark.parametrize("name", [name for name in REALS if name not in ("float32", "float64")])
def test_every_bit_pattern_of_a_small_float_survives(name):
    data_type = parse_v3(name)
    n = data_type.packed_bits
    words = (
        range(2**n) if n <= 8 else [*range(0, 2**n, 251), 0x7F81, 0x7D01, 0xFFFF, 0xFE00, 0x8000]
    )
    for word in words:
        scalar = np.array(word, f"u{data_type.itemsize}").view(data_type.dtype)[()]
        stored = json.loads(json.dumps(data_type.fill_to_json(scalar, 3)))
        assert data_type.fill_from_json(stored, 3).tobytes() == scalar.tobytes(), hex(word)
        full = data_type.full((2,), scalar)
        assert full.tobytes() == 2 * scalar.tobytes()
        assert data_type.equals_fill(full, scalar)


@given(
    st.integers(0, 2**32 - 1) | st.sampled_from([0x7FA00001, 0xFFC00000, 0x80000000, 0x7F800000])
)
@pytest.mark.parametrize("spec", ["<f4", ">f4"])
def test_every_bit_pattern_of_float32_survives(spec, word):
    data_type = parse_v2(spec, None)
    fill = data_type.fill_from_json(f"0x{word:08x}", 3)
    assert fill.view("u4") == word
    again = data_type.fill_from_json(data_type.fill_to_json(fill, 3), 3)
    assert again.view("u4") == word
    array = data_type.full((3,), again)
    assert array.view(array.dtype.str.replace("f", "u")).tolist() == [word] * 3
    assert data_type.equals_fill(array, fill)


@pytest.mark.parametrize(
    "name, pattern, text",
    [
        ("float16", 0x7E00, "NaN"), ("float32", 0x7FC00000, "NaN"), ("float32", 0x7FC00001, None),
        ("float32", 0xFFC00000, None), ("float64", 0x7FF8000000000000, "NaN"),
        ("float64", 0x7FF0000000000001, None), ("bfloat16", 0x7FC0, "NaN"),
        ("float8_e4m3fn", 0x7F, "NaN"), ("float8_e4m3fn", 0xFF, None), ("float8_e4m3", 0x7C, "NaN"),
        ("float8_e5m2fnuz", 0x80, "NaN"), ("float8_e8m0fnu", 0xFF, "NaN"),
    ],
)  # fmt: skip
def test_only_the_standard_nan_is_called_nan(name, pattern, text):
    data_type = parse_v3(name)
    digits = f"0x{pattern:0{2 * data_type.itemsize}x}"
    fill = data_type.fill_from_json(digits, 3)
    assert data_type.fill_to_json(fill, 3) == (text or digits)
    assert data_type.fill_to_json(fill, 2) == "NaN"
    if text:
        assert data_type.fill_from_json("NaN", 3).tobytes() == fill.tobytes()


@pytest.mark.parametrize(
    "name", ["complex64", "complex_float16", "complex_bfloat16", "complex_float8_e5m2"]
)
def test_complex_components_keep_their_bits(name):
    data_type = parse_v3(name)
    digits = {8: "0x7fc00001", 4: "0x7f81", 2: "0x7d"}[data_type.itemsize]
    fill = data_type.fill_from_json([digits, "-Infinity"], 3)
    assert data_type.fill_to_json(fill, 3) == [digits, "-Infinity"]
    assert data_type.equals_fill(data_type.full((2,), fill), fill)


# -- JSON


@pytest.mark.parametrize(
    "name, value, zarr_format, message",
    [
        ("float32", "nan", 3, "expected"), ("float32", "1.0", 3, "expected"),
        ("float32", True, 3, "expected a number"), ("float32", [1], 3, "expected a number"),
        ("float32", "0x7fc0", 3, "8 digits"), ("float32", "0x7fc00001 ", 3, "8 digits"),
        ("float32", "0x7fc00001", 2, "expected a number"), ("float32", 10**400, 3, "too large"),
        ("float8_e4m3fn", "Infinity", 3, "no such value"), ("float8_e4m3fn", 1e9, 3, "no such"),
        ("float4_e2m1fn", "NaN", 3, "no such value"), ("float4_e2m1fn", "0x1f", 3, "more than 4"),
        ("float8_e8m0fnu", -1, 3, "no such value"),
        ("int8", 128, 3, "-128 to 127"), ("int8", -129, 3, "-128 to 127"),
        ("int8", 1.5, 3, "integer"),
        ("int8", True, 3, "integer"), ("int8", "1", 3, "integer"), ("uint8", -1, 3, "0 to 255"),
        ("int4", 8, 3, "-8 to 7"), ("uint2", 4, 3, "0 to 3"), ("int64", 2**63, 3, "out of bounds"),
        ("bool", "true", 3, "true or false"), ("bool", 2, 3, "true or false"),
        ("complex64", 0, 3, r"\[real, imaginary\]"), ("complex64", [1], 3, "real"),
        ("complex64", [1, "x"], 3, "expected"), ("r16", [1], 3, "expected 2 bytes, found 1"),
        ("r16", [1, 256], 3, "0 to 255"), ("r16", [1, True], 3, "0 to 255"),
        ("bytes", "?", 3, "not base64"), ("bytes", "é", 3, "not base64"), ("bytes", 1, 3, "base64"),
        ("string", 0, 3, "expected a string"), ("string", [], 2, "expected a string"),
    ],
)  # fmt: skip
def test_invalid_fill_values_are_refused(name, value, zarr_format, message):
    with pytest.raises(ValueError, match=message):
        parse_v3(name).fill_from_json(value, zarr_format)


@pytest.mark.parametrize(
    "name, value, stored",
    [
        ("bool", 0, False), ("bool", True, True), ("int16", 1.0, 1),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("int4", -8, -8), ("float64", 0.1, 0.1), ("float32", 1, 1.0), ("float32", -0.0, -0.0),
        ("float16", "-Infinity", "-Infinity"), ("complex128", [1, "NaN"], [1.0, "NaN"]),
        ("r16", [1, 255], [1, 255]), ("r16", b64(b"\1\xff"), [1, 255]), ("string", "é\0", "é\0"),
        ("bytes", b64(b"a\0"), b64(b"a\0")), ("bytes", [97, 0], b64(b"a\0")), ("bytes", [], ""),
    ],
)  # fmt: skip
def test_v3_fill_values(name, value, stored):
    data_type = parse_v3(name)
    found = data_type.fill_to_json(data_type.fill_from_json(value, 3), 3)
    assert json.dumps(found) == json.dumps(stored)


@pytest.mark.parametrize(
    "dtype, value, expected",
    [
        ("<f4", "NaN", "NaN"), ("<c8", 0, [0.0, 0.0]), ("<c8", [1, 2], [1.0, 2.0]),
        ("|S3", 0, ""), ("|S3", "", ""), ("|S3", b64(b"ab"), b64(b"ab")), ("<U3", 0, ""),
        ("<U3", "né", "né"), ("|V2", 0, b64(b"\0\0")), ("|V2", "", b64(b"\0\0")),
        ("|V2", b64(b"ab"), b64(b"ab")), ("<M8[ns]", 5, 5), ("<M8[ns]", "NaT", -(2**63)),
        ("<M8", 7, 7), (">m8[3s]", 7.0, 7), ([["a", "<i2"]], 0, b64(b"\0\0")),
        ([["a", "<i2"]], "", b64(b"\0\0")), ([["a", ">i2"]], b64(b"\0\1"), b64(b"\0\1")),
        ([["a", "<i2", [2]]], b64(b"\1\0\2\0"), b64(b"\1\0\2\0")), ("bfloat16", 1.5, 1.5),
    ],
    ids=repr,
)  # fmt: skip
def test_v2_fill_values(dtype, value, expected):
    data_type = parse_v2(dtype, None)
    fill = data_type.fill_from_json(value, 2)
    assert data_type.fill_to_json(fill, 2) == expected
    assert data_type.equals_fill(data_type.full((2, 2), fill), fill)


@pytest.mark.parametrize(
    "dtype, value, message",
    [
        ("|S3", b64(b"abcd"), "longer than 3 bytes"), ("|S3", 1, "base64"), ("|S3", "a", "base64"),
        ("<U3", "abcd", "longer than 3 char"), ("|V2", b64(b"abc"), "expected 2 bytes, found 3"),
        ("<M8[s]", 2**63, "64 bits"), ("<M8[s]", "now", 'integer or "NaT"'),
        ([["a", "<i2"]], b64(b"a"), "expected 2 bytes, found 1"),
        ([["a", "<i2"]], {"a": 1}, "base64"),
    ],
    ids=repr,
)  # fmt: skip
def test_invalid_v2_fill_values_are_refused(dtype, value, message):
    with pytest.raises(ValueError, match=message):
        parse_v2(dtype, None).fill_from_json(value, 2)


def test_v2_object_types():
    assert parse_v2("|O", "vlen-utf8").fill_from_json(0, 2) == "0"
    assert parse_v2("|O", "vlen-bytes").fill_from_json(0, 2) == b""
    data_type = parse_v2("|O", "json2")
    assert data_type.fill_to_json(data_type.fill_from_json({"a": [1]}, 2), 2) == {"a": [1]}


def test_v3_structs_are_objects_of_fields():
    fill = point().fill_from_json({"x": -3, "y": "0x7fc00001"}, 3)
    assert fill["x"] == -3
    assert point().fill_to_json(fill, 3) == {"x": -3, "y": "0x7fc00001"}
    assert point().fill_from_json({"x": 1}, 3).item() == (1, 0.0)
    assert point().fill_from_json(b64(b"\1\0\0\0\x80\x3f"), 3).item() == (1, 1.0)
    for wrong in ({"z": 1}, {"x": 2**20}, 0, [1, 2], ""):
        with pytest.raises(ValueError):
            point().fill_from_json(wrong, 3)


def test_the_former_name_of_structs_has_base64_fills():
    fields = [["x", "int16"]]
    data_type = parse_v3({"name": "structured", "configuration": {"fields": fields}})
    assert data_type.fill_to_json(data_type.fill_from_json(b64(b"\1\2"), 3), 3) == b64(b"\1\2")


# -- users' values


def cast(spec, value):
    return from_dtype_like(spec, 2).cast_fill(value)


NAN32 = np.array(0x7FA00001, "u4").view("f4")[()]


@pytest.mark.parametrize(
    "spec, value, expected",
    [
        ("bool", 1, True), ("bool", np.True_, True), ("int8", 5.0, 5),
        ("int8", np.int64(-128), -128),
        ("int8", True, 1), ("int4", -8, -8), ("int8", np.array(3), 3), (">i2", 258, 258),
        ("float32", 1, 1.0), ("float32", "Infinity", np.inf), ("float32", "1.5", 1.5),
        ("bfloat16", 1.5, 1.5), ("float8_e4m3fn", 448, 448.0), ("float64", np.float32(0.5), 0.5),
        ("float32", ml_dtypes.bfloat16(2), 2.0), ("complex64", 1, 1), ("complex64", (1, 2), 1 + 2j),
        ("complex64", 2j, 2j), ("S3", b"ab", b"ab"), ("S3", "ab", b"ab"), ("S3", 0, b""),
        ("U3", "é", "é"), ("U3", np.str_("ab"), "ab"), ("U3", 0, ""), ("string", "x", "x"),
        ("string", np.str_("x"), "x"), ("string", 0, "0"), ("bytes", bytearray(b"x"), b"x"),
        ("bytes", "é", "é".encode()), ("bytes", 0, b""), ("V2", b"a", np.void(b"a\0")),
        ("r16", np.void(b"ab"), np.void(b"ab")), ("V2", 0, np.void(b"\0\0")),
        ("M8[s]", 5, np.datetime64(5, "s")),
        ("M8[s]", "2000-01-01", np.datetime64("2000-01-01", "s")),
        ("M8[s]", dt.datetime(2000, 1, 1), np.datetime64("2000-01-01", "s")),
        ("M8[D]", np.datetime64("2000-01-01T05", "h"), np.datetime64("2000-01-01", "D")),
        ("m8[s]", dt.timedelta(minutes=1), np.timedelta64(60, "s")),
        ("m8[2s]", np.timedelta64(1, "m"), np.timedelta64(60, "s")),
    ],
    ids=repr,
)  # fmt: skip
def test_values_of_users(spec, value, expected):
    data_type = from_dtype_like(spec, 2)
    found = data_type.cast_fill(value)
    assert found == expected
    if not data_type.is_variable and data_type.category not in ("chars", "text"):
        assert found.dtype == data_type.dtype.newbyteorder("=")
    assert data_type.equals_fill(data_type.full((2,), found), found)


@pytest.mark.parametrize(
    "value", ["NaT", np.datetime64("NaT", "ns"), np.datetime64("NaT", "Y"), -(2**63)]
)
def test_not_a_time(value):
    assert np.isnat(cast("M8[3s]", value))


def test_scalars_of_the_same_type_keep_their_bits():
    assert cast("float32", NAN32).tobytes() == NAN32.tobytes()
    assert cast(">f4", NAN32).tobytes() == NAN32.tobytes()
    assert cast("float32", "0x7fa00001").tobytes() == NAN32.tobytes()
    assert math.copysign(1, cast("float32", -0.0)) == -1


@pytest.mark.parametrize(
    "spec, value, error",
    [
        ("int8", 300, OverflowError), ("uint8", np.int64(-1), OverflowError),
        ("int8", "1", TypeError),
        ("int8", 1.5, ValueError), ("int8", math.nan, ValueError), ("int8", math.inf, ValueError),
        ("int8", 1j, TypeError), ("int8", [1], TypeError),
        ("int8", np.datetime64(1, "s"), TypeError),
        ("int4", 8, OverflowError), ("float32", 1e300, OverflowError), ("float32", 1j, TypeError),
        ("float32", "x", ValueError), ("float32", b"1", TypeError), ("float32", [1], TypeError),
        ("float8_e4m3fn", math.inf, ValueError), ("float4_e2m1fn", math.nan, ValueError),
        ("float8_e4m3fn", 1e9, OverflowError), ("bool", "x", TypeError),
        ("complex64", "x", ValueError),
        ("complex64", (1, 2, 3), ValueError), ("S3", b"abcd", ValueError), ("S3", 1, TypeError),
        ("S3", "é", ValueError), ("U3", "abcd", ValueError), ("U3", b"a", TypeError),
        ("string", b"x", TypeError), ("string", [], TypeError), ("bytes", 5, TypeError),
        ("V2", b"abc", ValueError), ("V2", "ab", TypeError), ("M8[s]", 2**63, OverflowError),
        ("M8[s]", 1.5, TypeError), ("M8[s]", np.timedelta64(1, "s"), TypeError),
        ("M8[s]", "x", ValueError), ("m8[s]", np.datetime64(1, "s"), TypeError),
    ],
    ids=repr,
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(spec, value, error):
    with pytest.raises(error):
        cast(spec, value)


def test_structs_of_users():
    data_type = from_dtype_like([("a", "<i2"), ("b", ">f4"), ("c", [("d", "U2")])], 2)
    wanted = (3, 1.5, ("xy",))
    for value in (wanted, list(wanted), {"a": 3, "b": 1.5, "c": {"d": "xy"}}):
        assert data_type.cast_fill(value).item() == wanted
    fill = data_type.cast_fill(wanted)
    assert data_type.cast_fill(fill.tobytes()).item() == wanted
    assert (
        data_type.cast_fill(fill.astype([("x", "i8"), ("y", "f8"), ("z", [("d", "U9")])])) == fill
    )
    assert data_type.equals_fill(data_type.full((2,), fill), fill)
    for value, error in [
        ((1, 2), ValueError),
        ("x", TypeError),
        ({"a": 1}, ValueError),
        (b"x", ValueError),
    ]:
        with pytest.raises(error):
            data_type.cast_fill(value)
    assert point().cast_fill(7).item() == (7, 7.0)


def test_sub_array_fields_of_users():
    data_type = parse_v2([["a", ">i2", [2]], ["b", "<f4"]], None)
    fill = data_type.cast_fill(([1, 2], 3))
    assert fill.tobytes() == b"\0\1\0\2" + np.float32(3).tobytes()
    assert data_type.cast_fill((5, 3))["a"].tolist() == [5, 5]


# -- arrays


def test_fills_are_compared_by_bits():
    f4 = parse_v3("float32")
    assert not f4.equals_fill(np.array([-0.0], "f4"), np.float32(0))
    assert f4.equals_fill(np.array([np.nan], "f4"), np.float32("nan"))
    assert not f4.equals_fill(np.array([NAN32]), np.float32("nan"))
    assert f4.equals_fill(np.empty((0, 3), "f4"), np.float32(1))


@pytest.mark.parametrize(
    "spec", ["int8", "int16", "float64", "complex128", "V3", "S5", "r96", "int4"]
)
def test_one_different_element_anywhere_is_seen(spec):
    data_type = from_dtype_like(spec)
    fill = data_type.default_fill()
    for shape in [(), (1,), (5,), (3, 4), (2, 2, 2)]:
        array = data_type.full(shape, fill)
        for at in range(array.size):
            assert data_type.equals_fill(array, fill)
            other = array.copy()
            other.reshape(-1).view(np.uint8)[(at + 1) * data_type.itemsize - 1] = 1
            assert not data_type.equals_fill(other, fill)


def test_a_difference_in_a_later_block_is_seen():
    data_type = parse_v3("uint8")
    array = np.full(1_000_000, 7, "u1")
    assert data_type.equals_fill(array, np.uint8(7))
    array[-1] = 8
    assert not data_type.equals_fill(array, np.uint8(7))


@pytest.mark.parametrize("spec", ["int16", "complex128", "V3"])
def test_layout_and_byte_order_of_the_array_do_not_matter(spec):
    data_type = from_dtype_like(spec)
    fill = data_type.cast_fill(b"abc" if spec == "V3" else 258)
    array = data_type.full((6, 4), fill)
    views = [
        array.T,
        array[::2, ::-1],
        np.asfortranarray(array),
        array.astype(array.dtype.newbyteorder()),
    ]
    for view in views:
        assert data_type.equals_fill(view, fill)
        assert not data_type.equals_fill(view, data_type.default_fill())


def test_strings_and_objects_are_compared_by_value():
    string = parse_v3("string")
    assert string.full((2,), "é").tolist() == ["é", "é"]
    assert string.equals_fill(np.array(["é", "é"], string.dtype), "é")
    assert string.equals_fill(np.array(["é", "é"], object), "é")
    assert not string.equals_fill(np.array(["é", ""], string.dtype), "é")
    assert parse_v3("bytes").equals_fill(np.array([b"a", b"a"], object), b"a")
    objects = parse_v2("|O", "json2")
    assert objects.equals_fill(objects.full((2, 2), [1, 2]), [1, 2])
    assert not objects.equals_fill(objects.full((2, 2), [1, 2]), [1, 3])
    ragged = np.empty(2, object)
    ragged[:] = [np.arange(2), np.arange(3)]
    assert not parse_v2("|O", "vlen-array").equals_fill(ragged, [0, 1])


@pytest.mark.parametrize("name, mask", [
    ("int2", 3), ("uint2", 3), ("int4", 15), ("uint4", 15), ("float4_e2m1fn", 15),
    ("float6_e2m3fn", 63), ("float6_e3m2fn", 63), ("complex_float4_e2m1fn", 15),
])  # fmt: skip
def test_upper_bits_of_small_types_are_ignored(name, mask):
    data_type = parse_v3(name)
    raw = np.arange(256, dtype="u1")
    clean = data_type.sanitize(raw.view(data_type.dtype).reshape(-1, 4))
    assert clean.dtype == data_type.dtype
    assert clean.shape == (256 // data_type.itemsize // 4, 4)
    assert clean.tobytes() == (raw & mask).tobytes()
    assert data_type.sanitize(clean) is clean


@pytest.mark.parametrize("name, value", [("int4", -3), ("uint2", 3), ("float6_e2m3fn", -7.5)])
def test_clean_bits_are_those_ml_dtypes_writes(name, value):
    data_type = parse_v3(name)
    made = np.array([value]).astype(data_type.dtype)
    dirty = (made.view("u1") | (0xFF << data_type.packed_bits & 0xFF)).astype("u1")
    assert data_type.sanitize(dirty.view(data_type.dtype)).tobytes() == made.tobytes()


def test_other_types_are_returned_as_they_are():
    for array in (np.arange(3, dtype="i2"), np.array([True]), np.zeros(2, ml_dtypes.float8_e5m2)):
        assert from_dtype_like(array.dtype).sanitize(array) is array


def test_no_conversion_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_v3("float32").fill_from_json(1e300, 3)
        parse_v3("float8_e5m2").fill_from_json(1e300, 3)
        parse_v3("float32").cast_fill(1e-300)
