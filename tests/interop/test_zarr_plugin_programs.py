"""Whole programs with the plug-in: environment, processes, threads, loops, tools, stores, a GPU."""

import asyncio
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import zarr_gpu
from tests.device import devices
from tests.device.emulated import DeviceArray
from tests.interop.plugin import Counted, all_by_zarr_gpu, ours, plugin
from tests.interop.zarr_arguments import zarr
from zarr_gpu.device import detect
from zarr_gpu.errors import StoreError, UnsupportedError

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

SHAPE = (50, 40)
VALUES = np.arange(2000, dtype="f4").reshape(SHAPE)


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "data.zarr"
    zarr.create_array(path, shape=SHAPE, chunks=(8, 10), shards=(16, 20), dtype="f4")[...] = VALUES
    return path


def test_the_environment_is_enough(stored):
    """Nothing is imported, and nothing of ours before an array is opened."""
    program = (
        "import sys, json, zarr; before = [m for m in sys.modules if m.startswith('zarr_gpu')]\n"
        f"a = zarr.open_array({str(stored)!r}, mode='r+')\n"
        "s = float(a[3:30, 7].sum()); a[0, 0] = s\n"
        "from zarr_gpu.interop.zarr_python import statistics\n"
        "print(json.dumps([before, s, statistics()]))"
    )
    environ = {**os.environ, "ZARR_CODEC_PIPELINE__PATH": plugin.PATH}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    before, found, statistics = json.loads(done.stdout)
    assert before == []
    assert found == VALUES[3:30, 7].sum()
    assert statistics == {"reads": 1, "writes": 1, "fallbacks": {}}


def test_the_plug_in_costs_little_where_it_is_off(stored):
    program = (
        f"import sys, zarr; zarr.open_array({str(stored)!r})[...]\n"
        "print(*[m for m in sys.modules if m.startswith('zarr_gpu')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    light = {"zarr_gpu", "zarr_gpu.errors", "zarr_gpu.interop"}
    light |= {"zarr_gpu.interop.zarr_python", "zarr_gpu.interop.zarr_dtypes"}
    assert set(done.stdout.split()) <= light


def read_in_child(array, queue):
    counted = Counted()
    array[0] = 7
    queue.put((np.asarray(array[...]).sum().item(), counted.reads, counted.fallbacks))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(method, stored):
    array = ours(stored, mode="r+")
    assert (array[...] == VALUES).all()  # threads and loops of this process are at work
    expected = VALUES.copy()
    expected[0] = 7
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(array, queue))
    child.start()
    assert queue.get(timeout=60) == (expected.sum().item(), 1, {})
    child.join(60)
    assert child.exitcode == 0
    assert (array[...] == expected).all()


def test_threads(stored):
    array, errors = ours(stored, mode="r+"), []

    def work(number):
        try:
            rows = slice(5 * number, 5 * number + 5)
            for _ in range(5):
                array[rows] = VALUES[rows] + 1  # shares shards with its neighbours
                assert (array[rows] == VALUES[rows] + 1).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert (array[...] == VALUES + 1).all()


def stores(tmp_path):
    """One of each kind; the name of the folder is that of the test."""

    class Own(zarr.storage.LocalStore):
        """Somebody's subclass."""

    memory = zarr.storage.MemoryStore
    yield zarr.storage.LocalStore(tmp_path / "local")
    yield memory()
    yield zarr.storage.WrapperStore(memory()) if hasattr(zarr.storage, "WrapperStore") else memory()
    yield zarr.storage.LoggingStore(zarr.storage.LocalStore(tmp_path / "logged"))
    yield Own(tmp_path / "own")
    yield zarr.storage.FsspecStore.from_url(f"memory://{tmp_path.name}")
    yield zarr.storage.ZipStore(tmp_path / "data.zip", mode="w")


@pytest.mark.parametrize("location", [None, "start", "end"])
def test_every_store_in_a_loop_of_its_own(location, tmp_path):
    """Many reads at once, more than the loop has threads for stores that use these."""
    logging.disable(logging.CRITICAL)
    shards = {} if location is None else {"shards": {"shape": (16, 20), "index_location": location}}
    for store in stores(tmp_path):
        with zarr_gpu.enable(strict=True):
            array = zarr.create_array(store, shape=SHAPE, chunks=(8, 10), dtype="f4", **shards)
        array[...] = VALUES

        async def read_all(array=array):
            rows = [array.async_array.getitem((row, slice(3, 33))) for row in range(50)]
            return await asyncio.wait_for(asyncio.gather(*rows), 60)

        found = zarr.core.sync.sync(read_all())
        np.testing.assert_array_equal(found, VALUES[:, 3:33])
        if not isinstance(store, zarr.storage.ZipStore):  # which warns of names written twice
            array[3:9, 5] = 1
            assert array[2:10, 5].tolist() == [VALUES[2, 5], *[1] * 6, VALUES[9, 5]]
            array[...] = 0
            assert not [k for k in zarr.core.sync.collect_aiterator(store.list()) if "c/" in k]
        store.close()
    logging.disable(logging.NOTSET)


def test_an_array_read_in_the_loop_of_a_program(stored):
    """As in a notebook or a server: the loop is not zarr-python's."""

    async def main():
        with zarr_gpu.enable(strict=True):
            array = await zarr.api.asynchronous.open_array(store=str(stored), mode="r")
        return await asyncio.gather(*[array.getitem(row) for row in range(50)])

    np.testing.assert_array_equal(asyncio.run(main()), VALUES)


def test_errors_of_a_store_reach_the_user():
    class Broken(zarr.storage.MemoryStore):
        async def get(self, key, *arguments, **options):
            if "c/" in key:
                raise ConnectionResetError("the network is down")
            return await super().get(key, *arguments, **options)

    store = Broken()
    array = zarr.create_array(store, shape=(4,), chunks=(2,), dtype="u1")
    with pytest.raises(ConnectionResetError, match="the network is down"):
        ours(array.store)[...]


class Noted(zarr.storage.MemoryStore):
    """Remembers what was asked for."""

    asked: list[tuple[str, str]]

    async def get(self, key, *arguments, **options):
        self.asked.append(("get", key))
        return await super().get(key, *arguments, **options)

    async def getsize(self, key):
        self.asked.append(("getsize", key))
        return await super().getsize(key)


@pytest.mark.parametrize("location", ["start", "end"])
def test_an_inner_chunk_costs_two_requests(location):
    """One for the index, without asking for the shard's size before."""
    store = Noted()
    store.asked = []
    shards = {"shape": (16, 20), "index_location": location}
    zarr.create_array(store, shape=SHAPE, chunks=(8, 10), dtype="f4", shards=shards)[...] = VALUES
    array = ours(store)
    store.asked = []
    np.testing.assert_array_equal(array[9:15, 11:13], VALUES[9:15, 11:13])
    assert store.asked == [("get", "c/0/0")] * 2


def test_a_shard_that_is_too_short_is_an_error():
    store = Noted()
    store.asked = []
    shards = {"shape": (16, 20), "index_location": "start"}
    zarr.create_array(store, shape=SHAPE, chunks=(8, 10), dtype="f4", shards=shards)[...] = VALUES
    key, buffers = "c/0/0", zarr.core.buffer.cpu.Buffer
    store._store_dict[key] = buffers.from_bytes(store._store_dict[key].to_bytes()[:-10])
    with pytest.raises(StoreError, match=r"c/0/0: asked for \d+ bytes at \d+, got \d+ bytes"):
        ours(store)[...]


# -- tools ----------------------------------------------------------------------------------------


def test_xarray_and_dask(tmp_path):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    pytest.importorskip("dask.array", reason="dask is not installed")
    values = xarray.Dataset(
        {"t": (("y", "x"), VALUES), "n": ("y", np.arange(50))},
        coords={"x": np.linspace(0, 1, 40), "when": ("y", np.arange(50).astype("M8[D]"))},
    )
    with all_by_zarr_gpu(), zarr_gpu.enable():
        values.to_zarr(tmp_path / "x.zarr", encoding={"t": {"chunks": (8, 10)}})
        found = xarray.open_zarr(tmp_path / "x.zarr", chunks={})
        xarray.testing.assert_identical(found.load(), values)
        lazy = xarray.open_zarr(tmp_path / "x.zarr", chunks={})
        mean = lazy["t"].isel(y=slice(3, 40, 2)).mean("y").compute()
        np.testing.assert_allclose(mean, VALUES[3:40:2].mean(0))
        more = xarray.concat([values, values], "y")
        more.chunk({"y": 16, "x": 20}).to_zarr(tmp_path / "y.zarr", consolidated=False)
        values.to_zarr(tmp_path / "x.zarr", append_dim="y")
        again = xarray.open_zarr(tmp_path / "x.zarr", chunks=None).load()
    xarray.testing.assert_equal(again, more)
    xarray.testing.assert_equal(xarray.open_zarr(tmp_path / "y.zarr").load(), more)


def test_anndata(tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    data = anndata.AnnData(VALUES.copy())
    data.obs["kind"] = ["a", "b"] * 25
    with zarr_gpu.enable():
        counted = Counted()
        data.write_zarr(tmp_path / "a.zarr")
        found = anndata.read_zarr(tmp_path / "a.zarr")
    assert counted.reads > 0
    assert all("no fixed size" in why for why in counted.fallbacks)
    np.testing.assert_array_equal(found.X, VALUES)
    assert found.obs["kind"].tolist() == data.obs["kind"].tolist()


# -- a device -------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """zarr-python's GPU buffers over arrays of the emulated device. Yields its runtime.

    It executes our side; whether CuPy's arrays behave so below zarr-python, only a card can tell.
    """
    from zarr.core.buffer import gpu as buffers

    def asarray(value, dtype=None):
        return np.asarray(value, dtype).view(DeviceArray)

    with devices.emulated(monkeypatch) as runtime:
        device = SimpleNamespace(id=0, synchronize=runtime.synchronize)
        monkeypatch.setattr(DeviceArray, "device", device, raising=False)
        monkeypatch.setattr(DeviceArray, "__cuda_array_interface__", {}, raising=False)
        cupy = SimpleNamespace(empty=runtime.empty, asarray=asarray, asnumpy=runtime.to_host)
        cupy.frombuffer = lambda data, dtype: asarray(np.frombuffer(data, dtype))
        monkeypatch.setattr(runtime, "array", asarray)
        monkeypatch.setattr(buffers, "cp", cupy)
        with zarr_gpu.enable(gpu=True, strict=True):
            yield runtime


@pytest.mark.parametrize("kwargs", [{}, {"shards": (16, 20)}, {"zarr_format": 2}], ids=str)
def test_gpu_buffers(kwargs, gpu, tmp_path):
    array = zarr.create_array(tmp_path, shape=SHAPE, chunks=(8, 10), dtype="f4", **kwargs)
    array[...] = gpu.array(VALUES)
    array[3:9, 5:6] = gpu.array(np.ones((6, 1), "f4"))
    expected = VALUES.copy()
    expected[3:9, 5] = 1
    np.testing.assert_array_equal(zarr_gpu.open_array(tmp_path, device="cpu")[...], expected)
    launches = gpu.counts.launches.copy()
    found = array[1:, ::2]
    assert isinstance(found, DeviceArray)
    np.testing.assert_array_equal(gpu.to_host(found), expected[1:, ::2])
    assert gpu.counts.launches != launches  # it was put together there


def test_a_device_that_cannot_be_used(gpu, monkeypatch, tmp_path):
    """As in a process forked from one that used CUDA: said, or left to zarr-python."""
    array = zarr.create_array(tmp_path, shape=(4,), chunks=(2,), dtype="f4")
    monkeypatch.setattr(detect, "unavailable_reason", lambda device: "forked")
    with pytest.raises(UnsupportedError, match="'cuda:0': forked"):
        array[...]
