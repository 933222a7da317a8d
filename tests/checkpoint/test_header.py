"""Headers of safetensors files: what is accepted, what is made, and what hostile ones cost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarr_gpu.errors import MetadataError
from zarr_gpu.metadata import safetensors
from zarr_gpu.metadata.safetensors import TYPES, make_header, parse_header, tensor_nbytes
from zarr_gpu.metadata.safetensors_scan import Shapes, scan


def parse(document, data_nbytes):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_header(data, data_nbytes, "m.safetensors")


@st.composite
def tables(draw):
    names = draw(st.lists(st.text(max_size=8), unique=True, max_size=6))
    rows = []
    for name in names:
        if name == "__metadata__":
            continue
        code = draw(st.sampled_from(sorted(TYPES)))
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        if TYPES[code].bits < 8:
            shape = (*shape, 4)
        rows.append((name, code, shape))
    return rows


@given(tables(), st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3))
def test_headers_come_back(rows, metadata):
    header = make_header(rows, metadata, align=64)
    assert len(header) % 64 == 0
    size = sum(tensor_nbytes(code, shape) for _, code, shape in rows)
    n = safetensors.header_nbytes(header[:8], len(header) + size, "m")
    assert n == len(header) - 8
    parsed = parse_header(header[8:], size, "m")
    assert list(zip(parsed.names, parsed.codes, parsed.shapes, strict=True)) == rows
    assert [parsed.shapes[i] for i in range(len(rows))] == list(parsed.shapes)
    assert parsed.metadata == metadata
    assert int(parsed.nbytes.sum()) == size


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("document", "nbytes", "message"),
    [
        (b"", 0, "not valid JSON"),
        (b"[1]", 0, "expected an object"),
        (b'{"a":', 0, "not valid JSON"),
        (b"[" * 100_000, 0, "JSON"),
        ({"a": 1}, 8, "expected dtype, shape and data_offsets"),
        ({"a": {**ENTRY, "more": 1}}, 8, "expected dtype, shape"),
        ({"a": {**ENTRY, "dtype": "F33"}}, 8, "unknown dtype"),
        ({"a": {**ENTRY, "dtype": []}}, 8, "unknown dtype"),
        ({"a": {**ENTRY, "shape": [-2]}}, 8, "shape has to be"),
        ({"a": {**ENTRY, "shape": [True]}}, 8, "shape has to be"),
        ({"a": {**ENTRY, "shape": [2.0]}}, 8, "shape has to be"),
        ({"a": {**ENTRY, "shape": [2**63]}}, 8, "shape has to be"),
        ({"a": {**ENTRY, "shape": [2**62, 2**62]}}, 8, "needs"),
        ({"a": {**ENTRY, "shape": [3]}}, 8, "needs 12 bytes"),
        ({"a": {**ENTRY, "dtype": "F4", "shape": [3]}}, 8, "needs 1.5 bytes"),
        ({"a": {**ENTRY, "data_offsets": [0]}}, 8, "two numbers"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, 8, "needs 8 bytes, data_offsets has -8"),
        ({"a": ENTRY, "b": ENTRY}, 8, "'?b'?: overlaps|overlaps the tensor"),
        ({"a": {**ENTRY, "data_offsets": [4, 12]}}, 12, "begins behind a hole"),
        ({"a": ENTRY}, 12, "tensors have 8 bytes, the file 12"),
        ({"a": ENTRY}, 4, "tensors have 8 bytes, the file 4"),
        ({"__metadata__": {"a": 1}}, 0, "expected strings"),
        ({"__metadata__": []}, 0, "expected strings"),
    ],
)
@pytest.mark.parametrize("spaces", [True, False])
def test_what_cannot_be_is_refused(document, nbytes, message, spaces):
    if not spaces and not isinstance(document, bytes):
        document = json.dumps(document, separators=(",", ":")).encode()
    with pytest.raises(MetadataError, match=message) as caught:
        parse(document, nbytes)
    assert "m.safetensors" in str(caught.value)


def test_empty_tensors_may_share_their_place():
    empty = {"dtype": "F32", "shape": [0, 5], "data_offsets": [8, 8]}
    found = parse({"a": ENTRY, "e": empty, "f": {**empty, "data_offsets": [0, 0]}}, 8)
    assert found.nbytes.tolist() == [8, 0, 0]


def test_lengths_of_headers_are_checked_before_they_are_read():
    for first, size in ((b"", 0), (b"1234567", 7), ((100_000_001).to_bytes(8, "little"), 2**40)):
        with pytest.raises(MetadataError, match=r"m\.safetensors"):
            safetensors.header_nbytes(first, size, "m.safetensors")
    with pytest.raises(MetadataError, match="a header of 9 bytes in a file of 16"):
        safetensors.header_nbytes((9).to_bytes(8, "little"), 16, "m")
    with pytest.raises(ValueError, match="at most"):
        make_header([("a" * 100_000_001, "F32", ())], {}, align=8)
    with pytest.raises(ValueError, match="whole number of bytes"):
        tensor_nbytes("F4", (3,))


ROWS = [("a", "F32", (2, 3)), ("b.c", "BF16", ()), ("e", "I8", (0, 7)), ("f8", "F8_E4M3FNUZ", (5,))]


def header_of(rows, metadata=None):
    return make_header(rows, metadata or {}, align=8)[8:]


def test_usual_headers_are_read_without_a_parser(monkeypatch):
    monkeypatch.setattr(safetensors, "_parse", None)
    for rows in (ROWS, ROWS[:3], ROWS[:1]):
        for metadata in ({}, {"format": "pt", "more": "{}"[:1]}):
            size = sum(tensor_nbytes(code, shape) for _, code, shape in rows)
            parsed = parse_header(header_of(rows, metadata), size, "m")
            assert list(zip(parsed.names, parsed.codes, parsed.shapes, strict=True)) == rows
            assert parsed.metadata == metadata


@given(st.data())
def test_headers_with_any_byte_changed_are_what_a_parser_makes_of_them(data):
    """Either both ways find the same columns, or the quick one leaves it to the other."""
    raw = bytearray(header_of(ROWS, data.draw(st.sampled_from([{}, {"k": "v"}]))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        how = data.draw(st.sampled_from(["change", "remove", "insert"]))
        byte = data.draw(st.sampled_from(b'{}[],:"0159 aF\\-.e') | st.integers(0, 255))
        if how == "change":
            raw[at] = byte
        elif how == "remove":
            del raw[at]
        else:
            raw.insert(at, byte)
    found = scan(bytes(raw), list(TYPES))
    if found is None:
        return
    try:
        expected = safetensors._parse(bytes(raw), "m")
    except MetadataError:
        texts = found.metadata.values() if isinstance(found.metadata, dict) else [None]
        assert not all(isinstance(text, str) for text in texts)  # that is looked at later
        return
    if len(set(found.names)) == len(found.names) and "__metadata__" not in found.names:
        assert expected.names == list(found.names)
        assert expected.codes == [list(TYPES)[i] for i in found.codes]
        assert list(expected.shapes) == list(found.shapes)
        assert expected.start.tolist() == found.start.tolist()
        assert expected.nbytes.tolist() == (found.stop - found.start).tolist()
        assert expected.metadata == found.metadata


def test_products_that_overflow_are_none():
    assert Shapes.of([(2, 3), (), (0, 2**62)]).products() is None
    assert Shapes.of([(2, 3), (), (0, 5), ()]).products().tolist() == [6, 1, 0, 1]
    assert Shapes.of([]).products().tolist() == []
