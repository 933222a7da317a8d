"""Names of data types, in both formats and as users give them."""

import builtins
import json
import sys

import numpy as np
import pytest

from zarr_gpu.errors import MissingDependencyError
from zarr_gpu.metadata.dtypes import DataType, from_dtype_like, parse_v2, parse_v3

ml_dtypes = pytest.importorskip("ml_dtypes")

ML_FLOATS = [
    "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn",
    "float6_e3m2fn", "float4_e2m1fn",
]  # fmt: skip
SIZED = {"null_terminated_bytes": "S5", "raw_bytes": "V20", "fixed_length_utf32": "U5"}


def named(name, **configuration):
    return {"name": name, "configuration": configuration}


def struct_of(*fields):
    return named("struct", fields=[{"name": n, "data_type": t} for n, t in fields])


DOCUMENTS = [
    ("bool", "?"), ("int8", "i1"), ("uint64", "u8"), ("float16", "f2"), ("complex128", "c16"),
    ("complex_float32", "c8"), ("complex_float64", "c16"), ("r8", "V1"), ("r48", "V6"),
    ("string", np.dtypes.StringDType()), ("bytes", "O"), ("variable_length_bytes", "O"),
    (named("null_terminated_bytes", length_bytes=5), "S5"),
    (named("raw_bytes", length_bytes=5), "V5"),
    (named("fixed_length_utf32", length_bytes=20), "U5"),
    (named("numpy.datetime64", unit="ns", scale_factor=25), "M8[25ns]"),
    (named("numpy.timedelta64", unit="μs", scale_factor=1), "m8[us]"),
    (named("numpy.datetime64", unit="generic", scale_factor=1), "M8"),
    (struct_of(("a", "int16"), ("b", struct_of(("c", "bool")))), [("a", "i2"),
    ("b", [("c", "?")])]),
    (named("structured", fields=[["a", "int16"], ["b", "r16"]]), [("a", "i2"), ("b", "V2")]),
]  # fmt: skip


@pytest.mark.parametrize("document, dtype", DOCUMENTS, ids=repr)
def test_v3_names_mean_native_types_and_are_written_as_read(document, dtype):
    data_type = parse_v3(json.loads(json.dumps(document)))
    assert data_type.dtype == np.dtype(dtype)
    assert data_type.dtype.isnative
    assert data_type.to_json() == document
    assert hash(data_type) == hash(parse_v3(document))
    assert data_type == parse_v3(document)


@pytest.mark.parametrize("name", [*ML_FLOATS, "int2", "int4", "uint2", "uint4"])
@pytest.mark.parametrize("parse", [parse_v3, lambda name: parse_v2(name, None), from_dtype_like])
def test_ml_types_keep_their_own_names(name, parse):
    data_type = parse(name)
    assert data_type.dtype == getattr(ml_dtypes, name)
    assert data_type.name == data_type.to_json() == data_type.to_v2_json() == name
    assert from_dtype_like(getattr(ml_dtypes, name)) == data_type


def test_float8_e4m3fn_is_not_float8_e4m3():
    assert parse_v3("float8_e4m3fn").dtype != parse_v3("float8_e4m3").dtype


@pytest.mark.parametrize("part", ["float16", *ML_FLOATS])
def test_complex_ml_types_have_two_components(part):
    data_type = parse_v3(f"complex_{part}")
    alone = parse_v3(part)
    assert data_type.components == 2
    assert data_type.itemsize == 2 * alone.itemsize
    assert data_type.packed_bits == alone.packed_bits
    assert data_type.multi_byte == alone.multi_byte
    assert data_type.to_json() == f"complex_{part}"


def test_complex_ml_types_use_scalars_of_ml_dtypes_where_it_has_them():
    assert parse_v3("complex_float16").dtype == ml_dtypes.complex32
    assert parse_v3("complex_bfloat16").dtype == ml_dtypes.bcomplex32
    assert parse_v3("complex_float8_e5m2").dtype.names == ("re", "im")


@pytest.mark.parametrize(
    "name, packed_bits, multi_byte",
    [
        ("bool", 1, False), ("int2", 2, False), ("uint4", 4, False), ("float4_e2m1fn", 4, False),
        ("float6_e3m2fn", 6, False), ("float8_e5m2", 8, False), ("int8", 8, False),
        ("bfloat16", 16, True), ("int16", 16, True), ("complex64", 32, True),
        ("complex128", 64, True), ("r16", 16, False),
    ],
)  # fmt: skip
def test_bits_and_byte_order(name, packed_bits, multi_byte):
    data_type = parse_v3(name)
    assert (data_type.packed_bits, data_type.multi_byte) == (packed_bits, multi_byte)
    assert not data_type.is_variable


def test_byte_order_of_composed_types():
    assert not parse_v3(struct_of(("a", "int8"), ("b", "r32"))).multi_byte
    assert parse_v3(struct_of(("a", "int8"), ("b", "float16"))).multi_byte
    assert parse_v3(named("fixed_length_utf32", length_bytes=4)).multi_byte
    assert not parse_v3(named("null_terminated_bytes", length_bytes=4)).multi_byte
    assert parse_v3(named("numpy.datetime64", unit="s", scale_factor=1)).multi_byte
    assert parse_v2([["a", ">f4", [2]]], None).multi_byte
    assert not parse_v3("string").multi_byte


@pytest.mark.parametrize(
    "document, message",
    [
        ("int128", "unknown data type 'int128'"),
        ("object", "unknown"),
        ("longdouble", "unknown"),
        ("subarray", "unknown"),
        ("Int8", "unknown"),
        (7, "expected a name"),
        ({"configuration": {}}, "expected a name"),
        ({"name": "int8", "extra": 1}, "unknown member 'extra'"),
        ({"name": "int8", "configuration": []}, "must be an object"),
        (named("int8", unit="s"), "takes no configuration"),
        ({"name": "nonsense", "must_understand": False}, "unknown data type"),
        ("r0", "multiple of 8"),
        ("r3", "multiple of 8"),
        (f"r{2**34}", "2147483647"),
        ("raw_bytes", "needs 'length_bytes'"),
        (named("raw_bytes", length_bytes=0), "1 to 2147483647"),
        (named("raw_bytes", length_bytes=2**31), "1 to 2147483647"),
        (named("raw_bytes", length_bytes="5"), "not an integer"),
        (named("raw_bytes", length_bytes=5, more=1), "unknown member 'more'"),
        (named("fixed_length_utf32", length_bytes=6), "multiple of 4"),
        (named("numpy.datetime64", unit="ns"), "needs 'scale_factor'"),
        (named("numpy.datetime64", unit="fortnight", scale_factor=1), "unknown unit"),
        (named("numpy.datetime64", unit=[], scale_factor=1), "unknown unit"),
        (named("numpy.datetime64", unit="s", scale_factor=0), "scale_factor 0"),
        (named("numpy.datetime64", unit="s", scale_factor=2**31), "scale_factor"),
        (struct_of(), "1 to 10000 fields"),
        (named("struct", fields={}), "1 to 10000 fields"),
        (named("struct", fields=["a"]), "needs name and data_type"),
        (struct_of(("a", "int8"), ("a", "int8")), "different, non-empty"),
        (struct_of(("", "int8")), "different, non-empty"),
        (struct_of((3, "int8")), "different, non-empty"),
        (struct_of(("a", "string")), "no fixed size"),
        (struct_of(("a", "nonsense")), "unknown data type 'nonsense'"),
        (struct_of(*((f"f{i}", "int8") for i in range(10_001))), "10000 fields"),
        (struct_of(("a", f"r{2**33}"), ("b", f"r{2**33}")), "struct: elements have 1 to"),
    ],
)
def test_invalid_v3_types_are_refused(document, message):
    with pytest.raises(ValueError, match=message):
        parse_v3(document)


def test_bare_names_and_objects_are_the_same():
    for document in ({"name": "int8"}, named("int8"), {"name": "int8", "must_understand": False}):
        assert parse_v3(document) == parse_v3("int8")


@pytest.mark.parametrize("parse", [parse_v3, lambda value: parse_v2(value, None)])
def test_deep_nesting_is_refused_before_the_stack_ends(parse):
    v3, v2 = "int8", "|i1"
    for _ in range(33):
        v3, v2 = struct_of(("a", v3)), [["a", v2]]
    with pytest.raises(ValueError, match="nested deeper than 32"):
        parse(v3 if parse is parse_v3 else v2)


V2_TYPES = [
    ("|b1", "?", "bool"), ("<b1", "?", "bool"), (">b1", "?", "bool"), ("<u1", "u1", "uint8"),
    (">i2", ">i2", "int16"), ("<i8", "<i8", "int64"), (">f4", ">f4", "float32"),
    ("|i4", "<i4", "int32"), ("<c8", "<c8", "complex64"), (">c16", ">c16", "complex128"),
    ("|S5", "S5", "null_terminated_bytes"), ("<V6", "V6", "raw_bytes"),
    (">U3", ">U3", "fixed_length_utf32"), ("<M8[ns]", "<M8[ns]", "numpy.datetime64"),
    ("<M8", "<M8", "numpy.datetime64"), ("<M8[generic]", "<M8", "numpy.datetime64"),
    (">m8[25us]", ">m8[25us]", "numpy.timedelta64"), ("<m8[Y]", "<m8[Y]", "numpy.timedelta64"),
    (f"<f{np.dtype('g').itemsize}", "g", "longdouble" if np.dtype("g").itemsize > 8 else "float64"),
    ([["a", "<i2"], ["b", ">f8"]], [("a", "<i2"), ("b", ">f8")], "struct"),
    ([["a", [["b", ">i2"]]]], [("a", [("b", ">i2")])], "struct"),
    ([["a", "<f4", [2, 3]]], [("a", "<f4", (2, 3))], "struct"),
    ([["a", "<f4", 2]], [("a", "<f4", (2,))], "struct"),
    ([[["title", "a"], "<f4"]], [(("title", "a"), "<f4")], "struct"),
    ([["a", "bfloat16"]], [("a", ml_dtypes.bfloat16)], "struct"),
]  # fmt: skip


@pytest.mark.parametrize("document, dtype, name", V2_TYPES, ids=repr)
def test_v2_types_are_as_declared(document, dtype, name):
    data_type = parse_v2(document, None)
    assert data_type.dtype == np.dtype(dtype)
    assert data_type.dtype.isnative == np.dtype(dtype).isnative
    assert data_type.name == name
    assert parse_v2(data_type.to_v2_json(), None) == data_type


@pytest.mark.parametrize("document", ["<i2", ">U3", "|V6", "<M8[25us]", "|b1", [["a", ">i2", [2]]]])
def test_v2_types_are_written_as_read(document):
    assert parse_v2(document, None).to_v2_json() == document


@pytest.mark.parametrize(
    "codec, kind, name",
    [
        ("vlen-utf8", "string", "string"), ("vlen-bytes", "bytes", "variable_length_bytes"),
        ("vlen-array", "object", "object"), ("json2", "object", "object"),
        ("pickle", "object", "object"), ("categorize", "object", "object"),
        ("msgpack2", "object", "object"),
    ],
)  # fmt: skip
def test_object_codecs_tell_object_types_apart(codec, kind, name):
    data_type = parse_v2("|O", codec)
    assert (data_type.kind, data_type.name, data_type.to_v2_json()) == (kind, name, "|O")
    assert data_type.is_variable


@pytest.mark.parametrize(
    "document, codec, message",
    [
        ("|O", None, "without an object codec"), ("|O", "zlib", "unknown object codec 'zlib'"),
        ([["a", "|O"]], "pickle", "cannot be objects"), ("i4", None, "unknown v2 dtype"),
        ("<i3", None, "no such type"), ("<f1", None, "no such type"), ("<u16", None, "no such"),
        ("|S0", None, "1 to"), ("|V2147483648", None, "1 to"), ("<U536870912", None, "1 to"),
        ("<M8[fortnight]", None, "unknown"), ("<M8[0s]", None, "unit or multiple"),
        ("<M8[2147483648s]", None, "unit or multiple"), ("<M4", None, "unknown v2 dtype"),
        ("<i4\n", None, "unknown v2 dtype"), (5, None, "expected"), (None, None, "expected"),
        ([], None, "1 to 10000 fields"), ([["a"]], None, "a field is"),
        ([["a", "<i2"], ["a", "<i2"]], None, "different"),
        ([[["t", "a", "b"], "<i2"]], None, "diff"),
        ([["a", "<f4", [0]]], None, "positive integers"), ([["a", "<f4", [-1]]], None, "positive"),
        ([["a", "<f4", [2**20, 2**20]]], None, "1 to"), ([["a", "<f4", [1] * 33]], None, "shape"),
        ([["a", "<f4", "x"]], None, "shape"), ([[[1, "a"], "<f4"]], None, "title"),
    ],
)  # fmt: skip
def test_invalid_v2_types_are_refused(document, codec, message):
    with pytest.raises(ValueError, match=message):
        parse_v2(document, codec)


@pytest.mark.parametrize("document", ["|O", [["a", "<f4", [2]]], [[["title", "a"], "<f4"]]])
def test_v2_types_that_v3_cannot_spell(document):
    data_type = parse_v2(document, "pickle")
    with pytest.raises(ValueError, match="v3 has no data type"):
        data_type.to_json()
    with pytest.raises(ValueError, match="v3 has no data type"):
        from_dtype_like(data_type, 3)
    assert from_dtype_like(data_type, 2) is data_type


class ForeignType:
    """Like the data types of zarr-python."""

    def __repr__(self):
        return "ForeignType()"  # the id of a test case, the same in every process

    def to_json(self, zarr_format):
        return "string" if zarr_format == 3 else {"name": "|O", "object_codec_id": "vlen-utf8"}


USER_TYPES = [
    ("int16", "int16"), ("<i4", "int32"), (">f8", "float64"), ("float", "float64"),
    (bool, "bool"), (int, np.dtype(int).name), (float, "float64"), (complex, "complex128"),
    (np.float32, "float32"), (np.dtype("S5"), SIZED), (np.dtype("V20"), SIZED), ("U5", SIZED),
    ("M8[ns]", "numpy.datetime64"), (np.dtype("m8[3s]"), "numpy.timedelta64"),
    (str, "string"), ("str", "string"), ("string", "string"), (ForeignType(), "string"),
    (np.dtypes.StringDType(), "string"), (np.dtypes.StringDType, "string"), ("T", "string"),
    (bytes, "variable_length_bytes"), ("bytes", "variable_length_bytes"),
    ("bfloat16", "bfloat16"), (ml_dtypes.int4, "int4"),
    (np.dtype(ml_dtypes.complex32), "complex_float16"),
    ("r16", "r16"), (named("int8"), "int8"), (named("raw_bytes", length_bytes=3), "raw_bytes"),
    ([("a", ">i4"), ("b", [("c", "bfloat16")])], "struct"), ([["a", "<i2"]], "struct"),
]  # fmt: skip


@pytest.mark.parametrize("value, name", USER_TYPES, ids=repr)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_users_pass_as_dtype(value, name, zarr_format):
    data_type = from_dtype_like(value, zarr_format)
    if name is SIZED:
        assert SIZED[data_type.name] == data_type.dtype.str[1:]
    else:
        assert data_type.name == name
    assert from_dtype_like(data_type, zarr_format) == data_type
    if zarr_format == 3:
        assert data_type.dtype.isnative
        assert parse_v3(data_type.to_json()) == data_type


def test_byte_order_is_kept_in_v2_and_native_in_v3():
    for spec in (">i2", [("a", ">i2"), ("b", [("c", ">f8")])], ">U3", ">M8[s]"):
        assert from_dtype_like(spec, 2).dtype == np.dtype(spec)
        native = from_dtype_like(from_dtype_like(spec, 2), 3)
        assert native.dtype == np.dtype(spec).newbyteorder("=")
        assert all(member.dtype.isnative for _, member in native.fields)


def test_aligned_structs_become_packed():
    aligned = np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"]}, align=True)
    assert from_dtype_like(aligned).dtype == np.dtype([("a", "i1"), ("b", "f8")])


@pytest.mark.parametrize("value", [object, "O", np.dtype("O"), [("a", "O")]])
def test_object_says_what_to_pass_instead(value):
    with pytest.raises(ValueError, match="pass str for strings or bytes"):
        from_dtype_like(value)


@pytest.mark.parametrize(
    "value",
    ["S", np.dtype("V0"), ml_dtypes.int1, np.dtypes.StringDType(na_object=None), "r3", "raw_bytes"],
)
def test_types_without_a_meaning_in_zarr(value):
    with pytest.raises(ValueError):
        from_dtype_like(value)


def test_what_is_no_type_at_all():
    with pytest.raises(TypeError):
        from_dtype_like("nonsense")


def test_ml_types_without_ml_dtypes_name_the_package(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ml_dtypes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "ml_dtypes")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install ml_dtypes"):
        parse_v3("bfloat16")
    assert isinstance(parse_v3("float32"), DataType)
