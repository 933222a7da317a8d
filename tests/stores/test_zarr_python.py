"""The adapter around zarr-python's stores, where zarr-python is installed."""

import asyncio
import os

import numpy as np
import pytest

from tests.stores.checks import OBJECTS, TEN, ReadableStore
from zarr_gpu.errors import ReadOnlyError, StoreError
from zarr_gpu.stores.open import make_store
from zarr_gpu.stores.zarr_python import ZarrPythonStore

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


class Readable(ReadableStore):
    def test_read_only_store_refuses_writes(self, store):
        for write in (
            lambda: store.set("n", b""),
            lambda: store.delete(TEN),
        ):
            with pytest.raises(ReadOnlyError):
                write()


class TestMemory(Readable):
    @pytest.fixture
    def store(self):
        return ZarrPythonStore(filled(storage.MemoryStore()))


class TestLocal(Readable):
    @pytest.fixture
    def store(self, tmp_path):
        return ZarrPythonStore(filled(storage.LocalStore(tmp_path)))


class TestObjectStore(Readable):
    @pytest.fixture
    def store(self, tmp_path):
        obstore = pytest.importorskip("obstore", reason="obstore is not installed")
        inside = obstore.store.LocalStore(str(tmp_path))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            store = storage.ObjectStore(inside)
        return ZarrPythonStore(filled(store))


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
