import json as stdlib
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarr_gpu.config import config
from zarr_gpu.errors import LimitError, MetadataError
from zarr_gpu.metadata import json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64) + 1, 2**64 - 1) | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from([None, 2]))
def test_what_is_dumped_is_loaded_again_and_looks_as_json_dumps_writes_it(value, indent):
    data = json.dump(value, indent)
    assert data == stdlib.dumps(value, indent=indent).encode()
    assert stdlib.dumps(json.load(data, "x")) == stdlib.dumps(value)


@given(st.binary(max_size=40) | st.text('{}[]"\\:,1a', max_size=30).map(str.encode))
def test_any_bytes_load_or_raise_metadata_error(data):
    try:
        expected = stdlib.loads(data.decode())
    except ValueError:
        expected = None
    try:
        assert isinstance(json.load(data, "x"), dict)
    except MetadataError:
        duplicates = isinstance(expected, dict) and data.count(b":") > 1
        assert not isinstance(expected, dict) or duplicates


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_kinds_of_bytes_are_read(kind):
    assert json.load(kind(b'{"a": 1}'), "x") == {"a": 1}


def test_python_literals_for_non_numbers_are_read_and_written():
    value = json.load(b'{"a": NaN, "b": [Infinity, -Infinity]}', "x")
    assert math.isnan(value["a"])
    assert value["b"] == [math.inf, -math.inf]
    assert json.dump(value, None) == b'{"a": NaN, "b": [Infinity, -Infinity]}'


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "expected an object"),
        (b"null", "expected an object"),
        (b'{"a": 1} x', "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "duplicate member 'b'"),
        (b'{"a": 123456789012345678901}', "a: integer of more than 20 digits"),
        (b'{"a": [-123456789012345678901]}', "integer of more than 20 digits"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_what_is_not_a_strict_object_is_refused_by_name(data, says):
    with pytest.raises(MetadataError, match=says) as caught:
        json.load(data, "some/zarr.json")
    assert str(caught.value).startswith("some/zarr.json: ")


def test_integers_of_64_bits_are_read_and_longer_ones_inside_attributes():
    assert json.load(b'{"a": 18446744073709551615}', "x") == {"a": 2**64 - 1}
    assert json.load(b'{"a": -9223372036854775808}', "x") == {"a": -(2**63)}
    long = b'{"attributes": {"a": 123456789012345678901}}'
    assert json.load(long, "zarr.json")["attributes"] == {"a": 123456789012345678901}
    assert json.load(b'{"a": 123456789012345678901}', "a/.zattrs")
    assert json.load(b'{"metadata": {"a/.zattrs": {"b": 123456789012345678901}}}', ".zmetadata")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[[], "]", "\\\\", "\\"]", '])
def test_deep_nesting_is_refused_before_it_is_parsed(opening):
    with pytest.raises(MetadataError, match=r"limits\.json_depth allows 256"):
        json.load(b'{"a": ' + opening * 200_000, "x")


def test_nesting_up_to_the_limit_is_read_and_brackets_in_strings_do_not_count():
    limit = config.current.limits.json_depth
    deep = b'{"a": ' + b"[" * (limit - 1) + b"]" * (limit - 1) + b"}"
    assert json.load(deep, "x")
    with pytest.raises(MetadataError, match="nested 257 deep"):
        json.load(deep.replace(b"[]", b"[[]]"), "x")
    text = '[{"\\' * 1000
    assert json.load(json.dump({"a": text, "b\\\\": text}, None), "x") == {"a": text, "b\\\\": text}


def test_a_depth_beyond_the_parser_is_still_a_metadata_error():
    depth = 60 * sys.getrecursionlimit()
    with config.set({"limits.json_depth": 10**9}), pytest.raises(MetadataError):
        json.load(b'{"a": ' + b"[" * depth + b"]" * depth + b"x", "x")


def test_documents_above_the_limit_are_neither_read_nor_written():
    with config.set({"limits.metadata_nbytes": 100}):
        with pytest.raises(MetadataError, match=r"limits\.metadata_nbytes allows 100"):
            json.load(b'{"a": "' + b"x" * 100 + b'"}', "x")
        with pytest.raises(LimitError, match=r"limits\.metadata_nbytes"):
            json.dump({"a": "x" * 100}, None)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"attributes": {"a": [0, np.int64(1)]}}, r"attributes\.a\[1\]: int64"),
        ({"a": np.zeros(2)}, "a: ndarray"),
        ({"a": {1: 2}}, "a: member name 1 is not a string"),
        ({"a": {1, 2}}, "a: set"),
        ({"a": b"x"}, "a: bytes"),
    ],
)
def test_values_without_json_form_are_named_by_their_path(value, says):
    with pytest.raises(TypeError, match=says):
        json.dump(value, None)


def test_a_cycle_is_an_error_and_no_endless_loop():
    cycle = []
    cycle.append(cycle)
    with pytest.raises(LimitError, match="json_depth"):
        json.dump({"a": cycle}, None)
