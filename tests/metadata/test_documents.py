import json as stdlib
from typing import Any

import numpy as np
import pytest

from tests.metadata.golden import v3_document
from zarr_gpu.errors import MetadataError
from zarr_gpu.metadata import documents
from zarr_gpu.metadata.documents import (
    parse_array_documents_v2,
    parse_document_v3,
    parse_group_documents_v2,
)
from zarr_gpu.metadata.memo import MAX_KEY

ZARRAY: dict[str, Any] = {
    "zarr_format": 2,
    "shape": [4],
    "chunks": [2],
    "dtype": "<i4",
    "compressor": None,
    "filters": None,
    "fill_value": 0,
    "order": "C",
}


def stored(document: object) -> bytes:
    return stdlib.dumps(document).encode()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the documents that were read as JSON."""
    keys: list[str] = []
    load = documents.json.load

    def counted(data: Any, key: str) -> Any:
        keys.append(key)
        return load(data, key)

    monkeypatch.setattr(documents.json, "load", counted)
    return keys


def test_the_same_bytes_are_parsed_twice_and_then_known(parsed: list[str]) -> None:
    data = stored(v3_document(shape=[101, 7], attributes={"a": [1]}))
    arrays = [parse_document_v3(data, key) for key in "abcd"]
    assert parsed == ["a", "b"]
    assert all(array == arrays[0] for array in arrays)
    assert parse_document_v3(data.replace(b"101", b"102"), "z").shape == (102, 7)


def test_documents_of_format_2_are_known_together(parsed: list[str]) -> None:
    data = stored({**ZARRAY, "shape": [103]})
    for zattrs, keys in ((None, ["x"]), (b"{}", ["x", "y"]), (b'{"a": 1}', ["x", "y"])):
        parsed.clear()
        arrays = [parse_array_documents_v2(data, zattrs, "x", "y") for _ in range(4)]
        assert parsed == 2 * keys
        assert all(dict(a.attributes) == stdlib.loads(zattrs or b"{}") for a in arrays)


def test_attributes_belong_to_who_opened_the_array() -> None:
    data = stored(v3_document(shape=[104, 7], attributes={"a": [1]}))
    for _ in range(5):
        attributes: Any = parse_document_v3(data, "x").attributes
        assert attributes == {"a": [1]}
        attributes["a"].append(2)
        attributes["b"] = 3


def test_a_fill_value_of_null_is_warned_of_every_time() -> None:
    data = stored(v3_document(shape=[105, 7], fill_value=None))
    for _ in range(4):
        with pytest.warns(UserWarning, match="null"):
            parse_document_v3(data, "x")


def test_what_is_wrong_is_wrong_every_time_and_says_where() -> None:
    data = stored(v3_document(shape=[-1, 7]))
    for key in ("w/zarr.json", "x/zarr.json", "y/zarr.json", "z/zarr.json"):
        with pytest.raises(MetadataError, match=key):
            parse_document_v3(data, key)


def test_bytes_that_can_change_are_looked_at_every_time() -> None:
    data = bytearray(stored(v3_document(shape=[106, 7])))
    for view in (data, memoryview(data)):
        for length in (106, 107, 106, 107):
            at = data.index(b"10")
            data[at : at + 3] = b"%d" % length
            assert parse_document_v3(view, "x").shape[0] == length


@pytest.mark.parametrize(
    "changes",
    [
        {"attributes": {"long": "x" * MAX_KEY}},
        {"extension": {"must_understand": False}},
        {
            "chunk_grid": {
                "name": "rectilinear",
                "configuration": {"kind": "inline", "chunk_shapes": [[[1, 108]], 7]},
            }
        },
        {
            "data_type": {
                "name": "struct",
                "configuration": {"fields": [{"name": "a", "data_type": "int8"}]},
            },
            "fill_value": {"a": 1},
        },
    ],
)
def test_what_is_long_or_can_be_changed_is_not_shared(
    parsed: list[str], changes: dict[str, Any]
) -> None:
    data = stored(v3_document(shape=[108, 7], **changes))
    one, *others = [parse_document_v3(data, "x") for _ in range(4)]
    assert parsed == 4 * ["x"]
    assert all(one == other for other in others)
    if isinstance(one.fill_value, np.void):
        one.fill_value["a"] = 5
        assert parse_document_v3(data, "x").fill_value["a"] == 1


def test_groups_are_parsed_every_time(parsed: list[str]) -> None:
    data = stored({"zarr_format": 3, "node_type": "group", "attributes": {"a": 1}})
    for _ in range(4):
        assert parse_document_v3(data, "x").attributes == {"a": 1}
    assert parsed == 4 * ["x"]
    assert parse_group_documents_v2(b'{"zarr_format": 2}', b'{"a": 1}', "x", "y").attributes["a"]
    with pytest.raises(MetadataError, match="y"):
        parse_group_documents_v2(b'{"zarr_format": 2}', b"[", "x", "y")
