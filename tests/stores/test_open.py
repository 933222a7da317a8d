import subprocess
import sys
from pathlib import Path

import pytest

from zarr_gpu.errors import ReadOnlyError, StoreError
from zarr_gpu.stores.fsspec import FsspecStore
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.open import make_store
from zarr_gpu.stores.zip import ZipStore


def test_paths_are_local(tmp_path):
    for like in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert make_store(like) == (LocalStore(tmp_path), "")
    spaced = Path(f"{tmp_path}/a b")
    assert make_store(f"file://{tmp_path}/a%20b") == (LocalStore(spaced), "")


def test_urls_are_fsspecs():
    store, path = make_store("memory://x/y")
    assert isinstance(store, FsspecStore)
    assert (store.path, path) == ("/x/y", "")


def test_mappings_and_nothing_are_memory():
    data = {"a": b"1"}
    store, _ = make_store(data)
    assert store == MemoryStore(data)
    assert isinstance(make_store(None)[0], MemoryStore)


def test_stores_are_themselves():
    store = MemoryStore()
    assert make_store(store)[0] is store


def test_zip_files_by_name(tmp_path):
    path = tmp_path / "a.zip"
    assert isinstance(make_store(path)[0], LocalStore)  # so that reading finds nothing
    with make_store(path, mode="w-")[0] as store:
        assert isinstance(store, ZipStore)
        store.set("k", b"1")
    with make_store(path, mode="a")[0] as store:
        store.set("l", b"2")
    for mode in (None, "r"):
        store, _ = make_store(path, mode=mode)
        assert isinstance(store, ZipStore)
        assert store.read_only
        assert store.get("l") == b"2"
    with pytest.raises(StoreError):
        make_store(path, mode="w-")
    (tmp_path / "dir.zip").mkdir()
    assert isinstance(make_store(tmp_path / "dir.zip", mode="w")[0], LocalStore)


@pytest.mark.parametrize("like", ["path", "memory://ro", {}, MemoryStore()], ids=repr)
def test_mode_r_refuses_writes(tmp_path, like):
    like = tmp_path if like == "path" else like
    for how in ({"mode": "r"}, {"read_only": True}):
        store, _ = make_store(like, **how)
        with pytest.raises(ReadOnlyError):
            store.set("k", b"1")
    assert not make_store(like, mode="r+")[0].read_only
    assert not make_store(like, mode="r", read_only=False)[0].read_only


def test_fsspec_mapper():
    fsspec = pytest.importorskip("fsspec")
    store, _ = make_store(fsspec.get_mapper("memory://mapped"))
    assert store == FsspecStore.from_url("memory://mapped")


def test_storage_options_need_a_url(tmp_path):
    for like in (tmp_path, str(tmp_path), {}, MemoryStore()):
        with pytest.raises(TypeError, match="storage_options"):
            make_store(like, storage_options={"anon": True})


@pytest.mark.parametrize("like", [1, b"path", ["a"]])
def test_anything_else_is_a_type_error(like):
    with pytest.raises(TypeError, match="a store is"):
        make_store(like)
    with pytest.raises(ValueError, match="empty"):
        make_store("")


def test_local_paths_import_no_fsspec_and_no_zarr(tmp_path):
    code = """
import sys
from zarr_gpu.stores.open import make_store
make_store(sys.argv[1]); make_store({}); make_store(None)
print(sorted({"fsspec", "zarr", "asyncio", "numcodecs"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert result.stdout.decode().strip() == "[]", result.stderr.decode()
