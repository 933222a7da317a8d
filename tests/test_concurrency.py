"""Several writers at once lose nothing: threads, processes, resizes and attributes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu import workers
from zarr_gpu.errors import UnsafeConcurrentWriteError
from zarr_gpu.stores.memory import MemoryStore

spawn = multiprocessing.get_context("spawn")
SHARDED: dict[str, Any] = {"chunks": (2,), "shards": (64,)}
ONE_CHUNK: dict[str, Any] = {"chunks": (64,)}


def write_every(path: str, offset: int, step: int) -> None:
    array = zarr_gpu.open_array(path, mode="r+")
    for i in range(offset, 64, step):
        array[i] = i + 1


@pytest.mark.parametrize("layout", [SHARDED, ONE_CHUNK], ids=["shard", "chunk"])
def test_threads_that_share_an_object_lose_nothing(layout: dict[str, Any]) -> None:
    array = zarr_gpu.create_array({}, shape=(64,), dtype="i4", **layout)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: array.__setitem__(i, i + 1), range(64)))
    np.testing.assert_array_equal(array[...], np.arange(1, 65))


@pytest.mark.parametrize("layout", [SHARDED, ONE_CHUNK], ids=["shard", "chunk"])
def test_processes_that_share_an_object_lose_nothing(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    array = zarr_gpu.create_array(tmp_path / "a", shape=(64,), dtype="i4", **layout)
    jobs = [spawn.Process(target=write_every, args=(str(tmp_path / "a"), k, 2)) for k in (0, 1)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    np.testing.assert_array_equal(array[...], np.arange(1, 65))


def test_attributes_set_by_several_threads_are_all_kept() -> None:
    store = MemoryStore()
    zarr_gpu.create_group(store)

    def change(i: int) -> None:
        zarr_gpu.open_group(store, mode="r+").attrs[f"k{i}"] = i

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    assert dict(zarr_gpu.open_group(store).attrs) == {f"k{i}": i for i in range(40)}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_appends_and_attributes_of_several_threads_are_all_kept(zarr_format: int) -> None:
    store = MemoryStore()
    zarr_gpu.create_array(store, shape=(0,), chunks=(5,), dtype="i4", zarr_format=zarr_format)

    def change(i: int) -> None:
        array = zarr_gpu.open_array(store, mode="r+")
        if i % 2:
            array.append(np.full(3, i))
        else:
            array.attrs[f"k{i}"] = i

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    array = zarr_gpu.open_array(store)
    assert array.shape == (60,)
    values, counts = np.unique(array[...], return_counts=True)
    assert values.tolist() == list(range(1, 40, 2))
    assert (counts == 3).all()
    assert len(array.attrs) == 20


class Unlocked(MemoryStore):
    """A store that other processes could write to unseen."""

    def lock(self, key: str) -> Any:
        raise UnsafeConcurrentWriteError("no locks here")


def test_without_locks_only_whole_objects_are_written() -> None:
    store = Unlocked()
    array = zarr_gpu.create_array(store, shape=(8,), chunks=(4,), dtype="i4")
    array[:4] = 1
    array[...] = 2
    with pytest.raises(UnsafeConcurrentWriteError):
        array[1] = 3
    assert (array[...] == 2).all()
    array.with_config({"concurrent_writes": "unsafe"})[1] = 3
    assert array[1] == 3


def test_a_forked_child_reads_and_writes(tmp_path: Path) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(4, 1 << 18), chunks=(1, 1 << 18), dtype="i4"
    )
    array[...] = 7  # has started the threads
    assert (array[...] == 7).all()
    child = os.fork()
    if child == 0:
        try:
            ok = (array[...] == 7).all()
            array[...] = 8
        except BaseException:
            os._exit(2)
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (array[...] == 8).all()


def test_the_first_error_stops_the_rest_and_is_raised() -> None:
    seen: list[int] = []
    gate = threading.Event()

    def task(i: int) -> None:
        seen.append(i)
        if i == 3:
            gate.set()
            raise KeyError(i)
        gate.wait(0.01)

    with pytest.raises(KeyError):
        workers.run(task, iter(range(10**6)), 4)
    assert len(seen) < 10**5


def test_requests_inside_requests_do_not_wait_for_threads() -> None:
    total: list[int] = []

    def outer(i: int) -> None:
        workers.run(lambda j: total.append(i * j), range(4), 64)

    workers.run(outer, range(64), 64)
    assert len(total) == 256


def test_readers_beside_a_writer_see_old_or_new_chunks_only(tmp_path: Path) -> None:
    array = zarr_gpu.create_array(tmp_path, shape=(4096,), chunks=(64,), shards=(4096,), dtype="i4")
    array[...] = 0
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            array[...] = n

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(60):
            chunks = array[...].reshape(-1, 64)
            assert (chunks == chunks[:, :1]).all()
    finally:
        stop.set()
        writer.join()
