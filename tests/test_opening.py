"""What opening and listing ask of a store, and what is done once for arrays that say the same."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.codecs import registry
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.config import config
from zarr_gpu.errors import MetadataError
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.metadata.dtypes import parse_v3
from zarr_gpu.stores.memory import MemoryStore


class Recorder(MemoryStore):
    """Remembers what was asked for, and by which thread."""

    def __init__(self, data: dict[str, bytes], *, local: bool = True) -> None:
        super().__init__(data)
        self.local = local
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.meeting: threading.Barrier | None = None

    def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(f"get {key}")
        self.threads.add(threading.get_ident())
        if self.meeting is not None:
            self.meeting.wait(20)
        return super().get(key, *args, **kwargs)

    def get_many(self, keys: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        asked, self.asked = self.asked, []
        found = super().get_many(keys, *args, **kwargs)
        self.asked = [*asked, f"get {' '.join(keys)}"]
        return found

    def exists(self, key: str) -> bool:
        self.asked.append(f"exists {key}")
        return super().exists(key)

    def size(self, key: str) -> int | None:
        self.asked.append(f"size {key}")
        return super().size(key)

    def list_dir(self, prefix: str = "") -> list[str]:
        self.asked.append(f"list {prefix}")
        return super().list_dir(prefix)


def group_of(n: int, zarr_format: int, *, consolidated: bool = False) -> dict[str, bytes]:
    data: dict[str, bytes] = {}
    root = zarr_gpu.create_group(data, zarr_format=zarr_format)
    for i in range(n):
        root.create_array(f"a{i}", shape=(i + 1, 3), dtype="f4", attributes={"i": i})
    if consolidated:
        zarr_gpu.consolidate_metadata(data)
    return data


def touch(group: zarr_gpu.Group) -> None:
    for i, (name, array) in enumerate(sorted(group.arrays())):
        assert (name, array.shape, array.dtype) == (f"a{i}", (i + 1, 3), np.float32)
        assert group[name].attrs["i"] == i


@pytest.mark.parametrize(
    ("stored", "asked_for", "expected"),
    [
        (3, 3, ["get zarr.json"]),
        (3, None, ["get zarr.json", "exists .zarray", "exists .zgroup"]),
        (2, 2, ["get .zarray", "get .zattrs"]),
        (2, None, ["get zarr.json", "get .zarray", "get .zattrs"]),
    ],
)
def test_opening_an_array_asks_for_its_documents_once(
    stored: int, asked_for: int | None, expected: list[str]
) -> None:
    data: dict[str, bytes] = {}
    zarr_gpu.create_array(data, shape=(3,), dtype="i4", zarr_format=stored)
    for function in (zarr_gpu.open_array, zarr_gpu.open):
        store = Recorder(data)
        array = function(store, mode="r+", zarr_format=asked_for)
        assert (array.shape, array.dtype, array.chunks) == ((3,), np.int32, (3,))
        assert store.asked == expected


@pytest.mark.parametrize("function", [zarr_gpu.open_group, zarr_gpu.open])
def test_opening_a_group_asks_for_its_documents_once(function: Any) -> None:
    store = Recorder(group_of(2, 3))
    function(store, mode="r+")
    assert store.asked == ["get zarr.json", "exists .zarray", "exists .zgroup"]
    store = Recorder(group_of(2, 2))
    function(store, mode="r+")
    v2 = ["get .zarray", "get .zgroup", "get .zattrs", "get .zmetadata"]
    assert store.asked == ["get zarr.json", *v2]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_members_ask_for_nothing(zarr_format: int) -> None:
    store = Recorder(group_of(4, zarr_format, consolidated=True))
    group = zarr_gpu.open_group(store, mode="r+")
    store.asked.clear()
    touch(group)
    assert len(list(group.keys())) == 4
    assert "a3" in str(group.tree())
    assert store.asked == []


def test_members_ask_once_for_the_names_and_once_for_each_document() -> None:
    for zarr_format, documents in ((3, ["zarr.json"]), (2, [".zarray", ".zattrs"])):
        store = Recorder(group_of(3, zarr_format))
        group = zarr_gpu.open_group(store, mode="r+", use_consolidated=False)
        wanted = [f"get a{i}/{name}" for i in range(3) for name in documents]
        for listing in (group.members, lambda group=group: list(group.values()), group.tree):
            store.asked.clear()
            listing()
            assert store.asked == ["list ", *wanted]


def test_a_tree_looks_up_no_more_nodes_than_it_shows() -> None:
    store = Recorder(group_of(9, 3))
    text = str(zarr_gpu.open_group(store, mode="r+").tree(max_nodes=4))
    assert text.splitlines()[-1] == "... (more than 4 nodes)"
    assert "a3 (4, 3) float32" in text
    assert "a4" not in text
    assert store.asked[-1] == "get a4/zarr.json"


def test_members_in_a_local_store_are_read_by_the_thread_that_asks() -> None:
    store = Recorder(group_of(5, 3))
    touch(zarr_gpu.open_group(store, mode="r+"))
    assert store.threads == {threading.get_ident()}


def test_members_in_a_store_with_latency_are_read_at_the_same_time() -> None:
    data = group_of(5, 3)
    store = Recorder(data, local=False)
    group = zarr_gpu.open_group(store, mode="r+", zarr_format=3)
    store.meeting = threading.Barrier(5)  # broken, which raises, unless all five come
    names = [name for name, _ in group.members()]
    assert names == [f"a{i}" for i in range(5)]


def test_members_in_a_store_with_latency_fail_one_by_one() -> None:
    data = group_of(3, 3)
    data["a1/zarr.json"] = b"{"
    store = Recorder(data, local=False)
    group = zarr_gpu.open_group(store, mode="r+", zarr_format=3)
    with pytest.warns(UserWarning, match="member 'a1' is left out"):
        assert [name for name, _ in group.items()] == ["a0", "a2"]
    assert list(group.keys()) == ["a0", "a1", "a2"]

    class Broken(Recorder):
        def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
            if key == "a1/zarr.json":
                raise RuntimeError("broken")
            return super().get(key, *args, **kwargs)

    group = zarr_gpu.open_group(Broken(data, local=False), mode="r+", zarr_format=3)
    seen = []
    with pytest.raises(RuntimeError, match="broken"):
        for name, _ in group.walk(0):
            seen.append(name)
    assert seen == ["a0"]


@pytest.mark.parametrize("node", ["a0", ""])
def test_v2_documents_in_a_store_with_latency_are_asked_for_together(node: str) -> None:
    store = Recorder(group_of(1, 2), local=False)
    opened = zarr_gpu.open(store, path=node, mode="r+", zarr_format=2)
    prefix = node and node + "/"
    assert store.asked[0] == f"get {prefix}.zarray {prefix}.zgroup {prefix}.zattrs"
    assert dict(opened.attrs) == ({"i": 0} if node else {})


def test_groups_below_consolidated_ones_list_what_is_below_them() -> None:
    data: dict[str, bytes] = {}
    root = zarr_gpu.create_group(data)
    for path in ("x/y/a", "x/y/z/b", "x/yy/c", "xy/d", "e"):
        root.create_array(path, shape=(2,), dtype="i1")
    zarr_gpu.consolidate_metadata(data)
    store = Recorder(data)
    root = zarr_gpu.open_group(store, mode="r+")
    store.asked.clear()
    assert sorted(root["x/y"].members(max_depth=None))[0][0] == "a"
    assert sorted(n for n, _ in root["x"]["y"].members(max_depth=None)) == ["a", "z", "z/b"]
    assert sorted(n for n, _ in root["x/y"].members(max_depth=None)) == ["a", "z", "z/b"]
    assert sorted(root["x"]) == ["y", "yy"]
    assert list(root["x/y/z"]) == ["b"]
    assert list(root["xy"]) == ["d"]
    assert store.asked == []
    del root["x/y/a"]
    assert sorted(root["x/y"]) == ["z"]


def test_chunks_that_are_not_asked_for_cost_nothing() -> None:
    """An array of 10**17 chunks opens and reads; anything done for each chunk would not end."""
    data: dict[str, bytes] = {}
    zarr_gpu.create_array(data, shape=(10**9, 10**9), chunks=(2, 5), dtype="u1", fill_value=7)
    array = zarr_gpu.open_array(data)
    array[10**9 - 1, 10**8] = 1
    assert array.nchunks == 10**17
    assert array[10**9 - 1, 10**8 - 1 : 10**8 + 2].tolist() == [7, 1, 7]
    assert array.vindex[[5, 10**9 - 1], [6, 10**8]].tolist() == [7, 1]


# ---------------------------------------------------------------------- documents that say the same


def two_arrays(zarr_format: int) -> dict[str, bytes]:
    data: dict[str, bytes] = {}
    root = zarr_gpu.create_group(data, zarr_format=zarr_format)
    for name, shape in (("a", (4, 6)), ("b", (8, 9))):
        root.create_array(name, shape=shape, chunks=(2, 3), dtype="f4", fill_value=0.0)
    return data


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_that_say_the_same_share_their_codecs(zarr_format: int) -> None:
    group = zarr_gpu.open_group(two_arrays(zarr_format))
    a, b = group["a"], group["b"]
    assert a._layout.levels is b._layout.levels
    assert (a.shape, b.shape) == ((4, 6), (8, 9))
    b.resize(2, 9)
    assert a._layout.levels is b._layout.levels
    assert group["b"].shape == (2, 9)


def test_another_fill_value_or_type_is_not_mistaken_for_the_one_before() -> None:
    metadata = zarr_gpu.open_array(two_arrays(3), path="a").metadata
    other = metadata.replace(fill_value=np.float32(5))
    wider = metadata.replace(data_type=parse_v3("float64"))
    for changed in (metadata, other, wider, metadata):
        spec = ArrayLayout(changed, "").levels.leaf.spec
        assert (spec.fill_value, spec.data_type) == (changed.fill_value, changed.data_type)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_one_array_gives_away_changes_no_other(zarr_format: int) -> None:
    data = two_arrays(zarr_format)
    first = zarr_gpu.open_array(data, path="a")
    given = first.metadata.to_dict()
    for member in ("codecs", "compressor", "filters", "chunk_grid", "data_type"):
        value = given.get(member)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                part.clear()
    if zarr_format == 2:
        first.compressor.clear()
        first.compressors[0].clear()
    second = zarr_gpu.open_array(data, path="b")
    assert second.compressors
    stored = json.loads(data["b/zarr.json" if zarr_format == 3 else "b/.zarray"])
    assert (
        second.metadata.to_dict().items()
        >= {k: v for k, v in stored.items() if k not in ("attributes",)}.items()
    )
    second[...] = 1
    assert (zarr_gpu.open_array(data, path="b")[...] == 1).all()


@pytest.mark.parametrize(("one", "other"), [(0.0, -0.0), (1, 1.0), ("0x7fc00001", "NaN")])
def test_fill_values_that_are_nearly_the_same_are_kept_apart(one: Any, other: Any) -> None:
    data = two_arrays(3)
    for name, fill in (("a", one), ("b", other)):
        document = json.loads(data[f"{name}/zarr.json"])
        data[f"{name}/zarr.json"] = json.dumps({**document, "fill_value": fill}).encode()
    group = zarr_gpu.open_group(data)
    for name, fill in (("a", one), ("b", other)):
        expected = group["a"].metadata.data_type.fill_from_json(fill, 3)
        assert group[name][0, :1].tobytes() == expected.tobytes()


def test_limits_hold_for_documents_that_were_valid_before() -> None:
    data: dict[str, bytes] = {}
    zarr_gpu.create_array(data, shape=(8, 8), chunks=(1, 1), shards=(8, 8), dtype="i4")
    assert zarr_gpu.open_array(data).chunks == (1, 1)
    with config.set({"limits.inner_chunks": 63}), pytest.raises(MetadataError, match="64 inner"):
        zarr_gpu.open_array(data)
    with config.set({"limits.codecs": 0}), pytest.raises(MetadataError, match=r"limits\.codecs"):
        zarr_gpu.open_array(data)
    assert zarr_gpu.open_array(data).chunks == (1, 1)


def test_a_codec_registered_later_is_used_by_arrays_opened_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = two_arrays(3)
    assert type(zarr_gpu.open_array(data, path="a").serializer) is BytesCodec
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    @registry.register
    class OtherBytes(BytesCodec):
        name = "bytes"

    assert type(zarr_gpu.open_array(data, path="a").serializer) is OtherBytes
    monkeypatch.undo()
    registry.register(BytesCodec)
    monkeypatch.delitem(registry._registered, "bytes")
    assert type(zarr_gpu.open_array(data, path="a").serializer) is BytesCodec


def test_a_wrong_document_is_wrong_every_time() -> None:
    data = two_arrays(3)
    document = json.loads(data["a/zarr.json"])
    document["codecs"] = [{"name": "bytes"}, {"name": "no such codec"}]
    data["a/zarr.json"] = json.dumps(document).encode()
    document["chunk_grid"]["configuration"]["chunk_shape"] = [2, 3, 4]
    data["b/zarr.json"] = json.dumps(document).encode()
    for _ in range(2):
        with pytest.raises(MetadataError, match="no such codec"):
            zarr_gpu.open_array(data, path="a")
        with pytest.raises(MetadataError, match="3 dimensions, but shape has 2"):
            zarr_gpu.open_array(data, path="b")
