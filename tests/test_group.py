"""Groups: members, creation, consolidated metadata, and one bad array among good ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu import Array, Group
from zarr_gpu.errors import (
    ContainsArrayError,
    ContainsGroupError,
    MetadataError,
    ReadOnlyError,
    StoreKeyError,
)

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


def hierarchy(zarr_format: int, store: Any = None) -> Group:
    root = zarr_gpu.create_group({} if store is None else store, zarr_format=zarr_format)
    root.create_array("x", data=np.arange(6).reshape(2, 3))
    root.create_array("a/b/y", shape=(4,), dtype="f4", attributes={"units": "m"})
    root.create_group("empty", attributes={"k": [1, 2]})
    return root


@FORMATS
def test_members_are_found_at_every_depth(zarr_format: int) -> None:
    root = hierarchy(zarr_format)
    assert sorted(root) == ["a", "empty", "x"]
    assert sorted(name for name, _ in root.members(max_depth=None)) == [
        "a",
        "a/b",
        "a/b/y",
        "empty",
        "x",
    ]
    assert len(root) == 3
    assert list(root.array_keys()) == ["x"]
    assert sorted(root.group_keys()) == ["a", "empty"]
    assert isinstance(root["a/b/y"], Array)
    assert root["a"]["b"].path == "a/b"
    assert "a/b" in root
    assert "nothing" not in root
    assert root.get("nothing") is None
    with pytest.raises(KeyError, match="nothing"):
        root["nothing"]


@FORMATS
def test_a_group_opens_again_with_its_attributes(zarr_format: int) -> None:
    store: dict[str, bytes] = {}
    hierarchy(zarr_format, store)
    root = zarr_gpu.open_group(store, mode="r")
    assert root.metadata.zarr_format == zarr_format
    assert root["empty"].attrs["k"] == [1, 2]
    assert root["a/b/y"].attrs.asdict() == {"units": "m"}
    np.testing.assert_array_equal(root["x"][...], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(ReadOnlyError):
        root.create_group("new")
    with pytest.raises(ReadOnlyError):
        root.attrs["a"] = 1


@FORMATS
def test_creating_over_a_node_needs_overwrite(zarr_format: int) -> None:
    root = hierarchy(zarr_format)
    with pytest.raises(ContainsArrayError):
        root.create_group("x")
    with pytest.raises(ContainsGroupError):
        root.create_array("a", shape=(1,), dtype="i1")
    with pytest.raises(ContainsArrayError):
        root.create_array("x/below", shape=(1,), dtype="i1")
    root.create_array("a", shape=(1,), dtype="i1", overwrite=True)
    assert isinstance(root["a"], Array)
    assert "a/b" not in root


def test_a_failed_overwrite_keeps_what_is_there() -> None:
    root = hierarchy(3)
    with pytest.raises((ValueError, TypeError)):
        root.create_array("x", shape=(1,), dtype="no such type", overwrite=True)
    with pytest.raises((ValueError, TypeError)):
        root.create_array("x", shape=(4,), dtype="i1", chunks=(3,), shards=(4,), overwrite=True)
    assert root["x"][1, 2] == 5


@FORMATS
def test_require_opens_or_creates(zarr_format: int) -> None:
    root = hierarchy(zarr_format)
    assert root.require_group("a/b").path == "a/b"
    assert root.require_group("new/deep").path == "new/deep"
    with pytest.raises(TypeError):
        root.require_group("x")
    assert root.require_array("x", shape=(2, 3), dtype="i8").shape == (2, 3)
    with pytest.raises(TypeError, match="shape"):
        root.require_array("x", shape=(3, 2), dtype="i8")
    with pytest.raises(TypeError, match="type"):
        root.require_array("x", shape=(2, 3), dtype="i4", exact=True)
    assert root.require_array("z", shape=3, dtype="i4").shape == (3,)


@FORMATS
def test_items_are_set_moved_and_deleted(zarr_format: int) -> None:
    root = hierarchy(zarr_format)
    root["new"] = np.eye(2)
    root["x"] = np.arange(3)
    np.testing.assert_array_equal(root["new"][...], np.eye(2))
    assert root["x"].shape == (3,)
    root.move("a/b", "c/d")
    assert "a/b" not in root
    assert root["c/d/y"].attrs["units"] == "m"
    with pytest.raises(ContainsArrayError):
        root.move("c", "x")
    del root["c"]
    assert "c/d/y" not in root
    with pytest.raises(KeyError):
        del root["c"]


@FORMATS
def test_consolidated_metadata_need_no_listing(zarr_format: int) -> None:
    store: dict[str, bytes] = {}
    hierarchy(zarr_format, store)
    with pytest.raises(ValueError, match="consolidated"):
        zarr_gpu.open_consolidated(store)
    zarr_gpu.consolidate_metadata(store)
    main = {k: v for k, v in store.items() if "/" not in k}
    assert (".zmetadata" in main) == (zarr_format == 2)
    root = zarr_gpu.open_consolidated(main)  # nothing but the root's own documents
    assert sorted(name for name, _ in root.members(max_depth=None)) == [
        "a",
        "a/b",
        "a/b/y",
        "empty",
        "x",
    ]
    assert root["a"]["b/y"].attrs["units"] == "m"
    assert root["empty"].attrs["k"] == [1, 2]
    plain = zarr_gpu.open_group(main, use_consolidated=False)
    assert list(plain) == []


@FORMATS
def test_one_bad_array_leaves_its_group_readable(zarr_format: int) -> None:
    store: dict[str, bytes] = {}
    hierarchy(zarr_format, store)
    key = "x/zarr.json" if zarr_format == 3 else "x/.zarray"
    document = json.loads(store[key])
    document["shape"] = "broken"
    store[key] = json.dumps(document).encode()
    root = zarr_gpu.open_group(store)
    assert sorted(root) == ["a", "empty", "x"]  # a name does not say what it stands for
    with pytest.warns(UserWarning, match="'x' is left out"):
        names = [name for name, _ in root.members()]
    assert sorted(names) == ["a", "empty"]
    with pytest.raises(MetadataError, match="shape"):
        root["x"]


def test_files_among_the_nodes_are_no_nodes(tmp_path: Path) -> None:
    root = hierarchy(3, tmp_path)
    (tmp_path / "notes.txt").write_text("not a node")
    assert sorted(root) == ["a", "empty", "x"]
    zarr_gpu.consolidate_metadata(tmp_path)
    assert sorted(zarr_gpu.open_consolidated(tmp_path)) == ["a", "empty", "x"]


def test_one_bad_consolidated_entry_leaves_its_group_readable() -> None:
    store: dict[str, bytes] = {}
    hierarchy(3, store)
    zarr_gpu.consolidate_metadata(store)
    document = json.loads(store["zarr.json"])
    document["consolidated_metadata"]["metadata"]["x"]["data_type"] = "no such type"
    store["zarr.json"] = json.dumps(document).encode()
    root = zarr_gpu.open_group(store)
    with pytest.warns(UserWarning, match="'x' is left out"):
        assert sorted(name for name, _ in root.items()) == ["a", "empty"]
    with pytest.raises(MetadataError, match="no such type"):
        root["x"]


@pytest.mark.parametrize("name", ["../x", "a/../x", "."])
def test_names_that_leave_the_group_are_refused(name: str) -> None:
    root = hierarchy(3)
    with pytest.raises(StoreKeyError):
        root[name]
    with pytest.raises(StoreKeyError):
        root.create_group(name)


@pytest.mark.parametrize("name", ["__reserved", "zarr.json"])
def test_reserved_names_are_not_created(name: str) -> None:
    with pytest.raises(StoreKeyError):
        hierarchy(3).create_array(name, shape=(1,), dtype="i1")


def test_tree_and_info_show_the_hierarchy() -> None:
    root = hierarchy(3)
    text = str(root.tree())
    assert "├── a" in text
    assert "y (4,) float32" in text
    assert "(4,)" not in str(root.tree(level=1))
    assert "Group" in repr(root.info)
    assert "3" in repr(root.info_complete())
    assert "int64" in repr(root["x"].info_complete())


def test_groups_pickle_and_compare() -> None:
    root = hierarchy(3)
    root.attrs["a"] = 1
    again = pickle.loads(pickle.dumps(root))
    assert sorted(again) == sorted(root)
    assert zarr_gpu.open_group(root.store) == root
    assert root["a"] != root["a/b"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_only_directories_with_a_document_are_names(tmp_path: Path, zarr_format: int) -> None:
    root = hierarchy(zarr_format, tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "linked").symlink_to("x")
    expected = ["a", "empty", "linked", "x"]
    assert list(root) == list(root.keys()) == expected == [name for name, _ in root.members()]
    (tmp_path / "odd" / "zarr.json").mkdir(parents=True)
    assert list(root) == expected
    assert len(root) == 4
