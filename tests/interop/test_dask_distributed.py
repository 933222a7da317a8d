"""dask on several processes: one cluster of two, started anew (spawn), for all tests."""

import os
import signal
import time

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import zarr_gpu
import zarr_gpu.interop.xarray  # ds.zarr_gpu
from zarr_gpu.errors import UnsafeConcurrentWriteError

distributed = pytest.importorskip("distributed", reason="distributed is not installed")

# What its event loops say when they end belongs to no test.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

VALUES = np.random.default_rng(0).integers(0, 1000, (120, 60)).astype("i4")


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",  # any port: others may run clusters, too
            silence_logs=50,
            memory_limit=0,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def array(tmp_path):
    return zarr_gpu.create_array(tmp_path / "a", data=VALUES, chunks=(5, 5), shards=(20, 20))


def test_reads_and_writes_of_several_processes(client, array, tmp_path):
    lazy = zarr_gpu.to_dask(array)
    np.testing.assert_array_equal(lazy[3:99:7, [5, 1]].compute(), VALUES[3:99:7, [5, 1]])
    written = zarr_gpu.from_dask(lazy + 1, tmp_path / "b", chunks=(10, 10), shards=(20, 20))
    np.testing.assert_array_equal(written[...], VALUES + 1)
    pids = set(client.run(os.getpid).values())
    assert len(pids) == 2 and os.getpid() not in pids
    again = zarr_gpu.from_dask(lazy.rechunk(33), written, align_chunks=True)
    np.testing.assert_array_equal(again[...], VALUES)


def test_datasets(client, tmp_path):
    dataset = xr.Dataset(
        {"v": (("t", "x"), VALUES * 0.5)}, {"t": np.arange(120), "x": np.arange(60)}
    )
    group = dataset.chunk(t=40, x=30).zarr_gpu.to_zarr(tmp_path / "s")
    assert group["v"].chunks == (40, 30)
    opened = xr.open_dataset(tmp_path / "s", engine="zarr_gpu", chunks={})
    xr.testing.assert_identical(dataset, opened.compute())
    for start in (0, 40):
        part = dataset.isel(t=slice(start, start + 40)).chunk(x=30) + 1
        part.zarr_gpu.to_zarr(tmp_path / "s", region="auto")
    expected = dataset.v.values.copy()
    expected[:80] += 1
    np.testing.assert_array_equal(xr.open_dataset(tmp_path / "s", engine="zarr_gpu").v, expected)


def test_stores_in_memory_are_refused(client, array):
    lazy = zarr_gpu.to_dask(array)
    for store in ({}, "memory://other"):
        with pytest.raises(UnsafeConcurrentWriteError, match="lives in the memory of one process"):
            zarr_gpu.from_dask(lazy, store, overwrite=True)
    dataset = xr.Dataset({"v": (("t", "x"), lazy)})
    with pytest.raises(UnsafeConcurrentWriteError, match="lives in the memory of one process"):
        dataset.zarr_gpu.to_zarr({})
    copied = zarr_gpu.to_dask(zarr_gpu.create_array({}, data=VALUES))
    assert copied.sum().compute() == VALUES.sum()


def test_a_worker_that_is_killed_is_no_loss(client, array, tmp_path):
    victim = min(client.run(os.getpid).values())
    mark = tmp_path / "killed"

    def slow(block):
        time.sleep(0.02)
        if os.getpid() == victim and not mark.exists() and len(list(tmp_path.rglob("c/*/*"))) > 20:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block + 1

    x = zarr_gpu.to_dask(array, chunks=(20, 20)).map_blocks(slow, dtype="i4", meta=np.empty((0, 0)))
    written = zarr_gpu.from_dask(x, tmp_path / "b", chunks=(10, 10), shards=(20, 20))
    assert mark.exists()
    np.testing.assert_array_equal(written[...], VALUES + 1)
    assert not [path for path in (tmp_path / "b").rglob("*") if ".zg-" in path.name]


def test_graphs_are_the_same_in_every_process(client, array):
    def name(store):
        return zarr_gpu.to_dask(zarr_gpu.open_array(store, mode="r")).name

    expected = name(array.store)
    assert set(client.run(name, array.store.root).values()) == {expected}
    assert da.from_array(array).name == da.from_array(zarr_gpu.open_array(array.store)).name
