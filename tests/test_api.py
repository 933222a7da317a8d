"""The front door: opening modes, creation arguments, saving, loading and copying."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu import Array, Group
from zarr_gpu.chunking import guess_chunks
from zarr_gpu.errors import (
    ArrayNotFoundError,
    ContainsArrayError,
    ContainsGroupError,
    DeviceUnavailableError,
    GroupNotFoundError,
    NodeNotFoundError,
    NodeTypeError,
)


def test_open_finds_arrays_and_groups(tmp_path: Path) -> None:
    zarr_gpu.create_array(tmp_path / "a", shape=(3,), dtype="i2")
    zarr_gpu.create_group(tmp_path / "g")
    assert isinstance(zarr_gpu.open(tmp_path / "a"), Array)
    assert isinstance(zarr_gpu.open(str(tmp_path / "g")), Group)
    assert isinstance(zarr_gpu.open(tmp_path, path="a", mode="r"), Array)
    with pytest.raises(NodeNotFoundError):
        zarr_gpu.open(tmp_path / "nothing", mode="r")
    with pytest.raises(FileNotFoundError):
        zarr_gpu.open_group(tmp_path / "nothing", mode="r+")
    with pytest.raises(ArrayNotFoundError):
        zarr_gpu.open_array(tmp_path / "nothing")
    with pytest.raises(NodeTypeError):
        zarr_gpu.open_array(tmp_path / "g", mode="r")
    with pytest.raises(ContainsArrayError):
        zarr_gpu.open_group(tmp_path / "a", mode="r")


def test_modes_create_replace_or_refuse(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(GroupNotFoundError):
        zarr_gpu.open_group(path, mode="r")
    zarr_gpu.open_group(path, mode="a").attrs["a"] = 1
    assert zarr_gpu.open_group(path, mode="a").attrs["a"] == 1
    with pytest.raises(ContainsGroupError):
        zarr_gpu.open_group(path, mode="w-")
    assert dict(zarr_gpu.open_group(path, mode="w").attrs) == {}
    array = zarr_gpu.open_array(path / "y", mode="a", shape=(3,), dtype="i1")
    array[...] = 1
    assert zarr_gpu.open_array(path / "y", mode="a", shape=(3,))[0] == 1
    assert zarr_gpu.open_array(path / "y", mode="w", shape=(2,), dtype="i1").shape == (2,)
    with pytest.raises(ContainsArrayError):
        zarr_gpu.open_array(path / "y", mode="w-", shape=(2,), dtype="i1")
    with pytest.raises(ValueError, match="mode must be"):
        zarr_gpu.open(path, mode="x")


def test_both_formats_at_one_path_are_reported(tmp_path: Path) -> None:
    zarr_gpu.create_array(tmp_path, shape=(3,), dtype="i1", zarr_format=2)
    other = zarr_gpu.create_array({}, shape=(4,), dtype="i1", zarr_format=3)
    (tmp_path / "zarr.json").write_bytes(bytes(other.store.get("zarr.json") or b""))
    with pytest.warns(UserWarning, match="both"):
        assert zarr_gpu.open_array(tmp_path, mode="r").shape == (4,)
    assert zarr_gpu.open_array(tmp_path, mode="r", zarr_format=2).shape == (3,)


@pytest.mark.parametrize(
    ("shape", "itemsize", "chunks"),
    [
        ((10000, 10000), 8, (313, 625)),
        ((1000, 1000), 4, (250, 500)),
        ((7, 9000, 11), 2, (4, 4500, 11)),
        ((), 4, ()),
        ((0,), 4, (1,)),
        ((5,), 1, (5,)),
    ],
)
def test_automatic_chunks_are_those_of_zarr_python(
    shape: tuple[int, ...], itemsize: int, chunks: tuple[int, ...]
) -> None:
    assert guess_chunks(shape, itemsize) == chunks


def test_chunk_arguments() -> None:
    def chunks(value: Any, shape: tuple[int, ...] = (10, 20)) -> Any:
        return zarr_gpu.create_array({}, shape=shape, dtype="i1", chunks=value).chunks

    assert chunks(5) == (5, 5)
    assert chunks((3, -1)) == (3, 20)
    assert chunks(False) == (10, 20)
    assert chunks((100, 100)) == (100, 100)
    for bad in ((0, 1), (3,), (-2, 1), "large", ([1, 2], 20)):
        with pytest.raises(ValueError, match="chunk"):
            chunks(bad)
    with pytest.raises(TypeError):
        chunks((1.5, 2))


def test_automatic_shards_hold_several_chunks() -> None:
    array = zarr_gpu.create_array(
        {}, shape=(1000, 1000), dtype="i4", chunks=(100, 100), shards="auto"
    )
    assert array.shards == (200, 200)
    with zarr_gpu.config.set({"array.target_shard_size_bytes": 100 * 100 * 4 * 9}):
        array = zarr_gpu.create_array(
            {}, shape=(1000, 1000), dtype="i4", chunks=(100, 100), shards="auto"
        )
    assert array.shards == (300, 300)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"shards": (3, 3), "chunks": (2, 2)}, ValueError, "divide"),
        ({"zarr_format": 2, "shards": (4, 4), "chunks": (2, 2)}, ValueError, "shards"),
        ({"zarr_format": 4}, ValueError, "zarr_format"),
        ({"dimension_names": ["x"]}, ValueError, "dimension_names"),
        ({"zarr_format": 2, "dimension_names": ["x", "y"]}, ValueError, "dimension names"),
        ({"compressors": [{"name": "no such"}]}, ValueError, "no such"),
        ({"filters": [{"name": "gzip"}]}, (TypeError, ValueError), "gzip|filters"),
        ({"fill_value": "x"}, (TypeError, ValueError), "x"),
        ({"data": np.ones(3)}, ValueError, "data"),
        ({"config": {"no_such": 1}}, TypeError, "no_such"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: dict[str, Any], error: Any, match: str
) -> None:
    with pytest.raises(error, match=match):
        zarr_gpu.create_array({}, **{"shape": (4, 4), "dtype": "i4", **arguments})


def test_creation_functions_have_their_fill_values() -> None:
    assert (zarr_gpu.zeros((2, 2))[...] == 0).all()
    assert (zarr_gpu.ones(3, dtype="i4")[...] == 1).all()
    assert (zarr_gpu.full((2,), 7, dtype="u1")[...] == 7).all()
    assert (zarr_gpu.empty((2,))[...] == 0).all()
    base = zarr_gpu.full((4, 6), 3, chunks=(2, 3), dtype="i2", zarr_format=2)
    like = zarr_gpu.ones_like(base)
    assert (like.shape, like.chunks, like.dtype) == ((4, 6), (2, 3), np.dtype("i2"))
    assert like.metadata.zarr_format == 2
    assert zarr_gpu.full_like(base).fill_value == 3
    assert zarr_gpu.zeros_like(np.ones((2, 2), "f4")).dtype == "f4"
    values = zarr_gpu.array([[1, 2], [3, 4]], chunks=(1, 2))
    assert values[1, 0] == 3


def test_from_array_keeps_layout_codecs_and_attributes() -> None:
    source = zarr_gpu.create_array(
        {},
        shape=(8, 8),
        dtype="i4",
        chunks=(2, 2),
        shards=(4, 4),
        compressors={"name": "gzip", "configuration": {"level": 1}},
        fill_value=3,
        attributes={"a": {"b": 1}},
        dimension_names=["y", "x"],
    )
    source[...] = np.arange(64).reshape(8, 8)
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
    shards = {"shape": (4, 4), "index_location": "start", "index_codecs": plain}
    other = zarr_gpu.create_array({}, shape=(8, 8), dtype="i4", chunks=(2, 2), shards=shards)
    assert zarr_gpu.from_array({}, data=other).metadata == other.metadata
    for store in ({}, {}):
        copy = zarr_gpu.from_array(store, data=source)
        assert copy.metadata == source.metadata
        np.testing.assert_array_equal(copy[...], source[...])
    old = zarr_gpu.from_array({}, data=source, zarr_format=2, shards=None)
    np.testing.assert_array_equal(old[...], source[...])
    assert old.attrs.asdict() == {"a": {"b": 1}, "_ARRAY_DIMENSIONS": ["y", "x"]}
    with pytest.raises(ValueError, match="destroy"):
        zarr_gpu.from_array(source.store, data=source, overwrite=True)


def test_save_and_load(tmp_path: Path) -> None:
    a, b = np.arange(5), np.ones((2, 2), "f4")
    zarr_gpu.save(tmp_path / "one", a)
    np.testing.assert_array_equal(zarr_gpu.load(tmp_path / "one"), a)
    zarr_gpu.save(tmp_path / "one", b)
    np.testing.assert_array_equal(zarr_gpu.load(tmp_path / "one"), b)
    zarr_gpu.save(tmp_path / "many", a, second=b)
    loaded = zarr_gpu.load(tmp_path / "many")
    np.testing.assert_array_equal(loaded["arr_0"], a)
    np.testing.assert_array_equal(loaded["second"], b)
    zarr_gpu.save(str(tmp_path / "file.zip"), a, second=b)
    assert (tmp_path / "file.zip").is_file()
    np.testing.assert_array_equal(zarr_gpu.load(str(tmp_path / "file.zip"))["second"], b)
    with pytest.raises(ValueError, match="at least one"):
        zarr_gpu.save(tmp_path / "none")
    with pytest.raises(TypeError):
        zarr_gpu.save(tmp_path / "none", [1, 2])


def test_copies_of_nodes_and_stores() -> None:
    source = zarr_gpu.create_group({}, attributes={"r": 1})
    source.create_array("a/x", data=np.arange(4), attributes={"u": "m"})
    source.create_array("y", data=np.ones(3))
    dest = zarr_gpu.create_group({}, zarr_format=2)
    assert zarr_gpu.copy(source["a"], dest, "b")[0] == 2
    np.testing.assert_array_equal(dest["b/x"][...], np.arange(4))
    assert dest["b/x"].attrs["u"] == "m"
    with pytest.raises(ContainsArrayError):
        zarr_gpu.copy(source["a/x"], dest["b"])
    assert zarr_gpu.copy(source["a/x"], dest["b"], if_exists="skip") == (0, 1, 0)
    zarr_gpu.copy_all(source, dest)
    assert sorted(dest) == ["a", "b", "y"]
    assert dest.attrs["r"] == 1
    raw: dict[str, bytes] = {}
    count, skipped, nbytes = zarr_gpu.copy_store(source.store, raw)
    assert (count, skipped) == (len(raw), 0)
    assert nbytes == sum(map(len, raw.values()))
    assert zarr_gpu.copy_store(source.store, raw, if_exists="skip")[1] == count
    with pytest.raises(FileExistsError):
        zarr_gpu.copy_store(source.store, raw)
    np.testing.assert_array_equal(zarr_gpu.open(raw)["y"][...], np.ones(3))


def test_create_hierarchy_makes_missing_groups() -> None:
    source = zarr_gpu.create_array({}, shape=(2,), dtype="i1")
    store: dict[str, bytes] = {}
    made = dict(zarr_gpu.create_hierarchy(store=store, nodes={"a/b/x": source.metadata}))
    assert isinstance(made["a/b/x"], Array)
    assert isinstance(zarr_gpu.open(store)["a/b"], Group)


def test_a_device_that_is_not_there_is_a_clear_error() -> None:
    store = zarr_gpu.create_array({}, shape=(2,), dtype="i1").store
    assert zarr_gpu.open_array(store, device="auto")[0] == 0
    assert zarr_gpu.open_array(store, device="cpu")[0] == 0
    with pytest.raises(DeviceUnavailableError, match="cuda"):
        zarr_gpu.open_array(store, device="cuda")
    with pytest.raises(ValueError, match="device"):
        zarr_gpu.open_array(store, device="tpu")
    with pytest.raises(DeviceUnavailableError, match="cuda"):
        zarr_gpu.open_group({}, device="cuda:1")
    with pytest.raises(DeviceUnavailableError, match="cuda"):
        zarr_gpu.create_group({}, device="cuda")


def test_settings_are_scoped_checked_and_named() -> None:
    config = zarr_gpu.config
    assert config.get("array.order") == "C"
    with config.set({"array.order": "F"}):
        array = zarr_gpu.create_array({}, shape=(2, 3), dtype="i1")
        assert array[...].flags.f_contiguous
    assert config.get("array.order") == "C"
    for bad in ({"no.such": 1}, {"no_such": 1}):
        with pytest.raises(KeyError):
            config.set(bad)
    with pytest.raises(TypeError):
        config.set({"array.write_empty_chunks": "yes"})


def test_the_package_pickles_as_its_name() -> None:
    assert pickle.loads(pickle.dumps(zarr_gpu)) is zarr_gpu
