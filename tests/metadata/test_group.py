import json as stdlib
from dataclasses import replace

import pytest

from tests.metadata.golden import (
    OTHER_KINDS,
    locations,
    mutations,
    stored,
    v2_document,
    v3_document,
)
from zarr_gpu.errors import MetadataError, MissingDependencyError
from zarr_gpu.metadata import group as group_module
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import (
    GroupMetadata,
    MemberError,
    dump_consolidated_v2,
    parse_consolidated_v2,
    parse_group_v2,
    parse_group_v3,
    parse_node_v3,
)

V3, V2 = stored("v3"), stored("v2")
INVALID = v3_document(data_type="int33")


def v3_group(members=..., **changes):
    document = {"attributes": {}, "zarr_format": 3}
    if members is not ...:
        listing = {"kind": "inline", "must_understand": False, "metadata": members}
        document["consolidated_metadata"] = listing
    return {**document, "node_type": "group", **changes}


def problems(parse, *args):
    with pytest.raises(MetadataError) as caught:
        parse(*args)
    return locations(caught.value)


# -- v3 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["zarr.json", "sub/zarr.json"])
def test_v3_groups_of_zarr_python_are_rewritten_byte_for_byte(key):
    group = parse_node_v3(json.load(V3[key], key), key)
    assert group.documents(2) == {"zarr.json": V3[key]}
    assert group == parse_node_v3(json.load(V3[key], key), key)


def test_consolidated_members_are_those_stored_beside_it():
    group = parse_group_v3(json.load(V3["zarr.json"], "x"), "x")
    assert set(group.consolidated) == {k.removesuffix("/zarr.json") for k in V3} - {"zarr.json"}
    for path, node in group.consolidated.items():
        key = f"{path}/zarr.json"
        assert node == parse_node_v3(json.load(V3[key], key), key)


def test_node_type_decides():
    assert isinstance(parse_node_v3(v3_document(), "x"), ArrayMetadata)
    assert isinstance(parse_node_v3(v3_group(), "x"), GroupMetadata)
    for node_type in (..., *OTHER_KINDS):
        document = {k: v for k, v in v3_group(node_type=node_type).items() if v is not ...}
        assert problems(parse_node_v3, document, "x") == {"node_type"}


def test_consolidated_null_is_none():
    group = parse_group_v3(v3_group(consolidated_metadata=None), "x")
    assert group.consolidated is None
    assert group.to_dict() == v3_group()


def test_empty_and_missing_listings_stay_apart():
    for document in (v3_group(), v3_group({})):
        assert parse_group_v3(document, "x").to_dict() == document


def test_one_bad_member_leaves_the_others_readable_and_is_written_back_verbatim():
    document = v3_group({"bad": INVALID, "good": v3_document(), "worse": [1, None]})
    group = parse_group_v3(document, "g/zarr.json")
    assert isinstance(group.consolidated["good"], ArrayMetadata)
    bad = group.consolidated["bad"]
    assert isinstance(bad, MemberError)
    assert str(bad).startswith("g/zarr.json[bad]: data_type")
    assert isinstance(group.consolidated["worse"], MemberError)
    assert group.to_dict() == document
    assert parse_group_v3(group.to_dict(), "x") == group


@pytest.mark.parametrize("path", ["../x", "a/./b", "/a", "a//b", "a\\b"])
def test_a_member_with_an_illegal_path_is_an_error_of_that_member(path):
    group = parse_group_v3(v3_group({path: v3_document()}), "x")
    assert isinstance(group.consolidated[path], MemberError)
    assert group.to_dict() == v3_group({path: v3_document()})


def test_a_member_that_needs_a_missing_package_is_an_error_of_that_member(monkeypatch):
    def parse(*_):
        raise MissingDependencyError("install ml_dtypes")

    monkeypatch.setattr(group_module, "parse_array_v3", parse)
    group = parse_group_v3(v3_group({"a": v3_document()}), "x")
    assert "install ml_dtypes" in str(group.consolidated["a"])


def test_listings_inside_members_are_ignored():
    inner = v3_group({"array": v3_document()})
    group = parse_group_v3(v3_group({"sub": inner}), "x")
    assert group.consolidated == {"sub": GroupMetadata(zarr_format=3)}
    assert group.to_dict() == v3_group({"sub": v3_group({})})


def test_listings_of_a_kind_to_come_are_kept_but_not_used():
    listing = {"kind": "elsewhere", "must_understand": False, "url": "x"}
    group = parse_group_v3(v3_group(consolidated_metadata=listing), "x")
    assert group.consolidated is None
    assert group.to_dict()["consolidated_metadata"] == listing
    listing["must_understand"] = True
    document = v3_group(consolidated_metadata=listing)
    assert problems(parse_group_v3, document, "x") == {"consolidated_metadata"}


def test_all_problems_of_a_v3_group_are_reported_at_once():
    document = v3_group([], zarr_format="3", attributes=[], surprise={})
    assert problems(parse_group_v3, document, "x") == {
        "zarr_format",
        "attributes",
        "consolidated_metadata.metadata",
        "surprise",
    }


def test_errors_not_read_from_a_document_cannot_be_written():
    group = GroupMetadata(zarr_format=3, consolidated={"a": MetadataError("broken")})
    with pytest.raises(MetadataError, match="broken"):
        group.documents(None)


@pytest.mark.filterwarnings("ignore:fill_value null")
def test_any_value_anywhere_in_a_v3_group_parses_or_raises_metadata_error():
    document = v3_group({"a": v3_document(shape=[1]), "b": v3_group({})}, attributes={"a": 1})
    for changed in mutations(document):
        try:
            group = parse_node_v3(changed, "x")
        except MetadataError:
            continue
        (data,) = group.documents(None).values()
        assert parse_node_v3(stdlib.loads(data), "x") == group


# -- v2 ----------------------------------------------------------------------------------------


def test_v2_groups_of_zarr_python_are_rewritten_byte_for_byte():
    nodes = parse_consolidated_v2(json.load(V2[".zmetadata"], ".zmetadata"))
    assert dump_consolidated_v2(nodes) == V2[".zmetadata"]
    root = nodes.pop("")
    expected = {name: V2[name] for name in (".zgroup", ".zattrs", ".zmetadata")}
    assert replace(root, consolidated=nodes).documents(2) == expected
    assert nodes["sub"].documents(2) == {".zgroup": V2["sub/.zgroup"], ".zattrs": b"{}"}


def test_consolidated_v2_nodes_are_those_stored_beside_it():
    nodes = parse_consolidated_v2(json.load(V2[".zmetadata"], ".zmetadata"))
    arrays = {k.removesuffix("/.zarray") for k in V2 if k.endswith(".zarray")}
    assert {path for path, node in nodes.items() if isinstance(node, ArrayMetadata)} == arrays
    assert set(nodes) - arrays == {"", "sub"}
    assert nodes[""].attributes == {"a": 1}
    assert nodes["plain"].attributes == {"x": [1]}


def test_v2_attributes_and_listings_make_groups_different():
    one = parse_group_v2({"zarr_format": 2}, None, "x")
    assert parse_group_v2({"zarr_format": 2}, {}, "x") == one
    assert parse_group_v2({"zarr_format": 2}, {"a": 1}, "x") != one
    assert replace(one, consolidated={}) != one
    assert hash(replace(one, consolidated={})) == hash(replace(one, consolidated={}))


def test_unknown_members_of_a_v2_group_are_kept():
    document = {"zarr_format": 2, "_NCZARR_GROUP": {"dims": {}}}
    assert parse_group_v2(document, None, "x").to_dict() == document


def test_all_problems_of_a_v2_group_are_reported_at_once():
    assert problems(parse_group_v2, {"zarr_format": 3}, [], "x") == {"zarr_format", "attributes"}


def test_one_bad_v2_member_leaves_the_others_readable_and_is_written_back_verbatim():
    listing = {
        "bad/.zattrs": {"a": 1},
        "bad/.zarray": v2_document(dtype="<q9"),
        "good/.zattrs": {},
        "good/.zarray": v2_document(),
        "worse/.zgroup": 5,
        "../x/.zgroup": {"zarr_format": 2},
        "only/.zattrs": {},
        "other": 7,
    }
    nodes = parse_consolidated_v2({"zarr_consolidated_format": 1, "metadata": listing})
    assert isinstance(nodes["good"], ArrayMetadata)
    assert str(nodes["bad"]).startswith(".zmetadata[bad]: dtype")
    assert isinstance(nodes["worse"], MemberError)
    assert isinstance(nodes["../x"], MemberError)
    del listing["only/.zattrs"], listing["other"]
    assert stdlib.loads(dump_consolidated_v2(nodes))["metadata"] == listing


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({}, {"zarr_consolidated_format", "metadata"}),
        ({"zarr_consolidated_format": 2, "metadata": {}}, {"zarr_consolidated_format"}),
        ({"zarr_consolidated_format": 1, "metadata": []}, {"metadata"}),
    ],
)
def test_faults_of_the_listing_itself_are_errors(document, where):
    assert problems(parse_consolidated_v2, document) == where


def test_any_value_anywhere_in_a_v2_listing_parses_or_raises_metadata_error():
    listing = {
        ".zgroup": {"zarr_format": 2},
        "a/.zarray": v2_document(),
        "a/.zattrs": {},
        "b/.zgroup": {"zarr_format": 2},
    }
    for changed in mutations({"zarr_consolidated_format": 1, "metadata": listing}):
        try:
            nodes = parse_consolidated_v2(changed)
        except MetadataError:
            continue
        assert (
            parse_consolidated_v2(stdlib.loads(dump_consolidated_v2(nodes))).keys() == nodes.keys()
        )
