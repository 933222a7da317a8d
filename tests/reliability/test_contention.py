"""Processes and threads that hammer one shard or chunk lose nothing (long)."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu

WRITERS = 4
SPAN = 64
spawn = multiprocessing.get_context("spawn")
LAYOUTS: dict[str, dict[str, Any]] = {
    "shard": {"chunks": (16,), "shards": (WRITERS * SPAN,)},
    "shard, chunks across writers": {"chunks": (96,), "shards": (WRITERS * 96,)},
    "chunk": {"chunks": (WRITERS * SPAN,)},
    "v2 chunk": {"chunks": (WRITERS * SPAN,), "zarr_format": 2},
}


def write_own_part(path: str, writer: int, times: int) -> int:
    """Writes its part again and again; how often it was not there right after."""
    array = zarr_gpu.open_array(path, mode="r+")
    mine = slice(writer * SPAN, (writer + 1) * SPAN)
    lost = 0
    for n in range(1, times + 1):
        array[mine] = n
        lost += int((array[mine] != n).any())
    return lost


def make(path: Path, name: str) -> Any:
    return zarr_gpu.create_array(
        path, shape=(WRITERS * SPAN,), dtype="i4", fill_value=0, **LAYOUTS[name]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_processes_lose_nothing_in_200_writes_each(name: str, tmp_path: Path) -> None:
    array = make(tmp_path / "a", name)
    with spawn.Pool(WRITERS) as pool:
        jobs = [(str(tmp_path / "a"), k, 200) for k in range(WRITERS)]
        assert pool.starmap(write_own_part, jobs) == [0] * WRITERS
    assert (array[...] == 200).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_threads_lose_nothing(name: str, tmp_path: Path) -> None:
    array = make(tmp_path / "a", name)
    with ThreadPoolExecutor(WRITERS) as pool:
        lost = pool.map(lambda k: write_own_part(str(tmp_path / "a"), k, 20), range(WRITERS))
        assert list(lost) == [0] * WRITERS
    assert (array[...] == 20).all()


def append_and_count(path: str, writer: int, times: int) -> None:
    array = zarr_gpu.open_array(path, mode="r+")
    for n in range(times):
        array.append(np.full(3, writer * 1000 + n))


@pytest.mark.slow
def test_processes_that_append_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    zarr_gpu.create_array(path, shape=(0,), chunks=(7,), dtype="i4")
    with spawn.Pool(WRITERS) as pool:
        pool.starmap(append_and_count, [(str(path), k, 100) for k in range(WRITERS)])
    found = zarr_gpu.open_array(path, mode="r")[...].reshape(-1, 3)
    assert (found == found[:, :1]).all(), "two appends share a place"
    expected = [w * 1000 + n for w in range(WRITERS) for n in range(100)]
    assert sorted(found[:, 0].tolist()) == expected


def read_beside(path: str, times: int) -> int:
    """How often a reader saw a chunk of two versions, or an error."""
    array = zarr_gpu.open_array(path, mode="r")
    bad = 0
    for _ in range(times):
        try:
            bad += int((np.ptp(array[...].reshape(-1, 16), axis=1) != 0).any())
        except zarr_gpu.errors.ZarrGpuError:
            bad += 1
    return bad


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shard", "chunk"])
def test_readers_beside_writers_see_whole_versions(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    make(tmp_path / "a", name)[...] = 1
    with spawn.Pool(3) as pool:
        writers = [pool.apply_async(write_own_part, (path, k, 300)) for k in (0, 1)]
        assert pool.apply(read_beside, (path, 500)) == 0
        assert [writer.get() for writer in writers] == [0, 0]
