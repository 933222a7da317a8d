"""The adapter around zarr-python's stores, where zarr-python is installed."""

import asyncio
import os

import numpy as np
import pytest

import zarr_gpu
from tests.stores.checks import OBJECTS, TEN, ReadableStore, WritableStore
from zarr_gpu.errors import StoreError, UnsafeConcurrentWriteError, UnsupportedError
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.open import make_store
from zarr_gpu.stores.zarr_python import REQUESTS, ZarrPythonStore

storage = pytest.importorskip("zarr.storage", reason="zarr-python is not installed")
if not hasattr(storage, "StorePath"):
    pytest.skip("needs zarr-python 3", allow_module_level=True)


def filled(store):
    from zarr.core.buffer import default_buffer_prototype

    async def fill():
        for key, value in OBJECTS.items():
            await store.set(key, default_buffer_prototype().buffer.from_bytes(value))

    asyncio.run(fill())
    return store


class TestMemory(ReadableStore):
    @pytest.fixture
    def store(self):
        return ZarrPythonStore(filled(storage.MemoryStore()))


class TestLocal(ReadableStore):
    @pytest.fixture
    def store(self, tmp_path):
        return ZarrPythonStore(filled(storage.LocalStore(tmp_path)))


def object_store(folder=None):
    obstore = pytest.importorskip("obstore", reason="obstore is not installed")
    inside = obstore.store.LocalStore(str(folder)) if folder else obstore.store.MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        return storage.ObjectStore(inside)


class TestObjectStore(ReadableStore):
    @pytest.fixture
    def store(self, tmp_path):
        return ZarrPythonStore(filled(object_store(tmp_path)))


class TestWritingToMemory(WritableStore):
    @pytest.fixture
    def empty(self):
        return ZarrPythonStore(storage.MemoryStore())


class WritingWithoutLocks(WritableStore):
    def test_lock_excludes_threads(self, empty):
        with pytest.raises(UnsafeConcurrentWriteError, match=r"array\.concurrent_writes"):
            empty.lock("n")

    test_lock_may_be_taken_again_by_its_thread = test_lock_excludes_threads


class TestWritingToFiles(WritingWithoutLocks):
    @pytest.fixture
    def empty(self, tmp_path):
        return ZarrPythonStore(storage.LocalStore(tmp_path / "data"))


class TestWritingToAnObjectStore(WritingWithoutLocks):
    @pytest.fixture
    def empty(self, tmp_path):
        return ZarrPythonStore(object_store(tmp_path))


def test_a_whole_hierarchy_in_a_store_of_zarr_python():
    """Written by us, read by zarr-python; parts of chunks only where there are locks."""
    zarr = pytest.importorskip("zarr")
    values = np.arange(120, dtype="i4").reshape(12, 10)
    for inside in (storage.MemoryStore(), object_store()):
        root = zarr_gpu.create_group(inside)
        array = root.create_array("a/b", shape=(12, 10), chunks=(5, 4), dtype="i4")
        array[...] = values
        if isinstance(inside, storage.MemoryStore):
            array[3, 3] = 7
            array[3, 3] = values[3, 3]
        else:
            with pytest.raises(UnsafeConcurrentWriteError):
                array[3, 3] = 7
        root.attrs["n"] = 1
        zarr_gpu.consolidate_metadata(inside)
        again = zarr.open_group(inside, mode="r")
        assert dict(again.attrs) == {"n": 1}
        np.testing.assert_array_equal(again["a/b"][...], values)
        del root["a/b"]
        assert list(zarr.open_group(inside, mode="r", use_consolidated=False)["a"].keys()) == []


def test_a_store_that_is_read_only_stays_so():
    inside = filled(storage.MemoryStore(read_only=False)).with_read_only(True)
    store = ZarrPythonStore(inside)
    assert store.read_only
    with pytest.raises(UnsupportedError):
        store.with_read_only(False)
    assert (
        not ZarrPythonStore(storage.MemoryStore()).with_read_only().with_read_only(False).read_only
    )


def test_a_write_that_fails_is_a_store_error_and_nothing_more_is_begun(monkeypatch):
    begun = []

    async def fail(self, key, value):
        begun.append(key)
        await asyncio.sleep(0)
        raise ConnectionResetError("the network is down")

    monkeypatch.setattr(storage.MemoryStore, "set", fail)
    store = ZarrPythonStore(storage.MemoryStore())
    with pytest.raises(StoreError, match="the network is down"):
        store.set_many([(f"k{i}", b"") for i in range(1000)])
    assert len(begun) <= REQUESTS


def test_directories_are_accessed_directly(tmp_path):
    store, path = make_store(storage.StorePath(storage.LocalStore(tmp_path, read_only=True), "a"))
    assert (type(store), path, store.read_only) == (LocalStore, "a", True)


def test_make_store_recognises_stores_and_paths():
    inside = filled(storage.MemoryStore())
    store, path = make_store(inside)
    assert isinstance(store, ZarrPythonStore)
    assert (store.get(TEN), path) == (OBJECTS[TEN], "")
    store, path = make_store(storage.StorePath(inside, "a/c"))
    assert (store, path) == (ZarrPythonStore(inside), "a/c")


def test_failures_of_the_store_are_store_errors(monkeypatch):
    async def fail(*_, **__):
        raise RuntimeError("out of order")

    monkeypatch.setattr(storage.MemoryStore, "get", fail)
    with pytest.raises(StoreError, match="out of order"):
        ZarrPythonStore(storage.MemoryStore()).get("k")


def test_reads_overlap_but_not_without_bound(monkeypatch):
    running, most = 0, 0
    get = storage.MemoryStore.get

    async def watch(self, *args, **kwargs):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return await get(self, *args, **kwargs)

    monkeypatch.setattr(storage.MemoryStore, "get", watch)
    store = ZarrPythonStore(filled(storage.MemoryStore()))
    n = 200
    found = store.get_many([TEN] * n, np.zeros(n, np.int64), np.full(n, -1))
    assert {bytes(data) for data in found} == {OBJECTS[TEN]}
    assert 10 < most <= 64


def test_forked_process_reads():
    store = ZarrPythonStore(filled(storage.MemoryStore()))
    store.get(TEN)
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get(TEN) == OBJECTS[TEN] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
