"""The same documents as zarr-python reads and writes."""

import json

import numpy as np
import pytest

from zarr_gpu.metadata.dtypes import from_dtype_like, parse_v2, parse_v3

zarr_dtype = pytest.importorskip("zarr.dtype", reason="zarr-python 3.1 or newer is not installed")
if not hasattr(zarr_dtype, "Struct"):
    pytest.skip("this zarr-python has no struct data type", allow_module_level=True)

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

INNER = {"name": "struct", "configuration": {"fields": [{"name": "x", "data_type": "float32"}]}}
DATE = {"name": "numpy.datetime64", "configuration": {"unit": "ns", "scale_factor": 1}}
FILLS = {
    "bool": [True, False],
    "int": [0, 1, 127, 5.0],
    "float": [0, 1.5, -0.0, "NaN", "Infinity", "-Infinity", 0.1],
    "complex": [[0, 1], ["NaN", 2.5]],
    "time": [0, 12345, -(2**63), "NaT"],
    "chars": ["", "YWI="],
    "text": ["", "hé"],
    "string": ["", "ሴ"],
    "bytes": ["", "AAEC"],
    "raw": ["AAEC"],
    "struct": [{}, {"a": 3}],
}
V3 = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "float32", "float64", "complex64", "complex128", "string", "variable_length_bytes", DATE,
    {"name": "numpy.timedelta64", "configuration": {"unit": "s", "scale_factor": 10}},
    {"name": "numpy.datetime64", "configuration": {"unit": "generic", "scale_factor": 1}},
    {"name": "null_terminated_bytes", "configuration": {"length_bytes": 5}},
    {"name": "fixed_length_utf32", "configuration": {"length_bytes": 20}},
    {"name": "raw_bytes", "configuration": {"length_bytes": 3}},
    {"name": "struct", "configuration": {"fields": [
        {"name": "a", "data_type": "int16"}, {"name": "b", "data_type": DATE},
        {"name": "n", "data_type": INNER},
    ]}},
]  # fmt: skip
V2 = [
    "|b1", "|i1", "<i2", ">i2", "<u4", ">u8", "<f2", ">f4", "<f8", "<c8", ">c16", "|S5", "<U5",
    ">U5", "|V3", "<M8[ns]", ">m8[10s]", "<M8[D]", "<M8", [["a", "<i2"], ["b", ">f4"]],
    [["a", [["x", "<i2"], ["y", "|S3"]]], ["b", "<u8"]],
]  # fmt: skip


def plain(value):
    return json.loads(json.dumps(value))


def check_fills(ours, theirs, fills, zarr_format):
    default = theirs.to_json_scalar(theirs.default_scalar(), zarr_format=zarr_format)
    assert ours.fill_to_json(ours.default_fill(), zarr_format) == plain(default)
    for fill in fills:
        scalar = theirs.from_json_scalar(fill, zarr_format=zarr_format)
        expected = theirs.to_json_scalar(scalar, zarr_format=zarr_format)
        found = ours.fill_to_json(ours.fill_from_json(fill, zarr_format), zarr_format)
        assert json.dumps(found) == json.dumps(plain(expected))


@pytest.mark.parametrize("document", V3, ids=repr)
def test_v3_types_and_fills(document):
    ours = parse_v3(document)
    theirs = zarr_dtype.parse_dtype(document, zarr_format=3)
    assert ours.to_json() == plain(theirs.to_json(zarr_format=3))
    assert ours.dtype == theirs.to_native_dtype()
    assert from_dtype_like(theirs) == ours
    check_fills(ours, theirs, FILLS[ours.category], 3)


@pytest.mark.parametrize("document", V2, ids=repr)
def test_v2_types_and_fills(document):
    ours = parse_v2(document, None)
    spec = {"name": document, "object_codec_id": None}
    theirs = zarr_dtype.data_type_registry.match_json(spec, zarr_format=2)
    assert ours.to_v2_json() == plain(theirs.to_json(zarr_format=2))["name"]
    assert ours.to_json() == plain(theirs.to_json(zarr_format=3))
    assert ours.dtype == theirs.to_native_dtype()
    assert from_dtype_like(theirs, 2) == ours
    check_fills(ours, theirs, FILLS[ours.category] if ours.category != "struct" else [], 2)


@pytest.mark.parametrize(
    "value",
    [bool, int, float, complex, str, np.int32, "int16", ">f8", "S5", "U3", "V4", "M8[ns]", "str",
     np.dtype(">i2"), [("a", "i4"), ("b", "f8")]],
    ids=repr,
)  # fmt: skip
def test_users_mean_the_same(value):
    theirs = zarr_dtype.parse_dtype(value, zarr_format=3)
    assert from_dtype_like(value).to_json() == plain(theirs.to_json(zarr_format=3))
    theirs = zarr_dtype.parse_dtype(value, zarr_format=2)
    assert from_dtype_like(value, 2).to_v2_json() == plain(theirs.to_json(zarr_format=2))["name"]
