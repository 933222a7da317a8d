"""Many threads at once get what one thread would: on interpreters with and without a lock.

What is shared by threads, and so tested here: arrays and groups, the stores, caches of indexes and
parsed documents, contexts of codecs, the pool of threads, and locks.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu import host, host_write, workers
from zarr_gpu.config import config
from zarr_gpu.metadata.memo import ROOM, Memo
from zarr_gpu.shards import IndexCache
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.cache import CacheStore
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.zip import ZipStore

THREADS = 6
SHAPE = (120, 96)
BLOSC = {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}}
GZIP = {"name": "gzip", "configuration": {"level": 1}}
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": True}}
KINDS: dict[str, dict[str, Any]] = {
    "raw": {"chunks": (16, 16), "compressors": None},
    "zstd": {"chunks": (16, 16), "compressors": ZSTD},
    "blosc": {"chunks": (32, 48), "compressors": BLOSC},
    "gzip": {"chunks": (32, 48), "compressors": GZIP},
    "shards": {"chunks": (8, 8), "shards": (40, 48), "compressors": ZSTD},
    "raw-shards": {"chunks": (8, 8), "shards": (40, 48), "compressors": None},
    "one-shard": {"chunks": (4, 96), "shards": SHAPE, "compressors": GZIP},
}


@pytest.fixture(autouse=True)
def _many_switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads inside requests, too; and a lock, where there is one, changes hands all the time."""
    monkeypatch.setattr(host, "SERIAL_NBYTES", 0)
    monkeypatch.setattr(host_write, "SERIAL_NBYTES", 0)
    monkeypatch.setattr(host_write, "SERIAL_RAW_NBYTES", 0)
    monkeypatch.setattr(workers, "take_turns", lambda: False)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with config.set({"threads": 3}):
            yield
    finally:
        sys.setswitchinterval(before)


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Call ``work`` with 0, 1, ... in threads that start at the same time; raises what they do."""
    start = threading.Barrier(threads)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def values(seed: int, shape: tuple[int, ...] = SHAPE) -> Any:
    """Data that can be compressed, but not to nothing."""
    return np.random.default_rng(seed).integers(1, 50, shape).astype("i4")


def fill(store: Store) -> dict[str, Any]:
    """One array of each kind; what is in them."""
    expected = {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        expected[name] = values(seed)
        zarr_gpu.create_array(store, name=name, data=expected[name], **kind)
    expected["v2"] = values(99)
    zarr_gpu.create_array(store, name="v2", data=expected["v2"], chunks=(32, 32), zarr_format=2)
    return expected


def check_some(array: Any, expected: Any, random: Random) -> None:
    """Compare a box, a stepped box, points, rows and an element of ``array``."""
    n, m = SHAPE
    a, b = sorted(random.sample(range(n + 1), 2))
    c, d = sorted(random.sample(range(m + 1), 2))
    step = random.randint(2, 9)
    np.testing.assert_array_equal(array[a:b, c:d], expected[a:b, c:d])
    np.testing.assert_array_equal(array[a::step, ::step], expected[a::step, ::step])
    points = [random.randrange(n) for _ in range(20)], [random.randrange(m) for _ in range(20)]
    np.testing.assert_array_equal(array.vindex[points], expected[points])
    rows = random.sample(range(n), 5)
    np.testing.assert_array_equal(array.oindex[rows], expected[rows])
    assert array[a % n, c % m] == expected[a % n, c % m]


def local(path: Path) -> Store:
    return LocalStore(path / "data")


def cached(path: Path) -> Store:
    return CacheStore(LocalStore(path / "data"), max_bytes=1 << 16)


def memory(path: Path) -> Store:
    return MemoryStore()


@pytest.mark.parametrize("make", [local, cached, memory])
def test_threads_read_the_same_arrays(make: Callable[[Path], Store], tmp_path: Path) -> None:
    store = make(tmp_path)
    expected = fill(store)
    shared = {name: zarr_gpu.open_array(store, path=name, mode="r") for name in expected}

    def read(number: int) -> None:
        random = Random(number)
        for name in random.sample(sorted(expected), len(expected)):
            check_some(shared[name], expected[name], random)
            np.testing.assert_array_equal(shared[name][...], expected[name])

    together(read)


def test_threads_read_one_zip_file(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "data.zip", "w") as store:
        expected = fill(store)
    store = ZipStore(tmp_path / "data.zip")

    def read(number: int) -> None:
        random = Random(number)
        for name in random.sample(sorted(expected), len(expected)):
            check_some(zarr_gpu.open_array(store, path=name), expected[name], random)

    together(read)
    store.close()


@pytest.mark.parametrize("make", [local, cached, memory])
def test_threads_create_write_open_and_list(make: Callable[[Path], Store], tmp_path: Path) -> None:
    store = make(tmp_path)
    group = zarr_gpu.create_group(store)
    kinds = list(KINDS.values())

    def work(number: int) -> None:
        for i in range(3):
            name, data = f"part{number}/a{i}", values(10 * number + i)
            array = group.create_array(
                name, shape=SHAPE, dtype="i4", **kinds[(number + i) % len(kinds)]
            )
            array[:50] = data[:50]
            array[50:] = data[50:]
            array.attrs["number"] = number
            reopened = group[name]
            np.testing.assert_array_equal(reopened[...], data)
            check_some(reopened, data, Random(number))
            assert set(group[f"part{number}"].array_keys()) == {f"a{j}" for j in range(i + 1)}
            # Others are made meanwhile: what is listed is a whole node.
            assert all(name.startswith("part") for name in group)

    together(work)
    assert sorted(group) == [f"part{i}" for i in range(THREADS)]
    for number in range(THREADS):
        for i in range(3):
            array = zarr_gpu.open_array(store, path=f"part{number}/a{i}")
            np.testing.assert_array_equal(array[...], values(10 * number + i))
            assert array.attrs["number"] == number


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [local, memory])
def test_threads_that_write_parts_of_the_same_chunks_lose_nothing(
    make: Callable[[Path], Store], kind: str, tmp_path: Path
) -> None:
    store = make(tmp_path)
    array = zarr_gpu.create_array(store, shape=SHAPE, dtype="i4", **KINDS[kind])
    expected = values(5)

    def write(number: int) -> None:
        mine = array if number % 2 else zarr_gpu.open_array(store, mode="r+")
        for row in range(number, SHAPE[0], THREADS):
            if row % 5:
                mine[row] = expected[row]
            else:
                mine.vindex[[row] * SHAPE[1], list(range(SHAPE[1]))] = expected[row]

    together(write)
    np.testing.assert_array_equal(array[...], expected)


def test_a_request_that_merges_a_shard_by_several_threads_loses_nothing() -> None:
    expected = values(1, (4096,))
    for codec in (None, GZIP, ZSTD, BLOSC):
        array = zarr_gpu.create_array(
            MemoryStore(), shape=(4096,), chunks=(8,), shards=(4096,), dtype="i4", compressors=codec
        )
        array[...] = expected
        for _ in range(5):
            array[1:-1] = expected[1:-1]
            array[3::7] = expected[3::7]
        np.testing.assert_array_equal(array[...], expected)


@pytest.mark.parametrize("make", [local, memory])
@pytest.mark.parametrize("shards", [None, (12, 4)])
def test_appends_of_threads_are_all_there_and_read_whole(
    make: Callable[[Path], Store], shards: tuple[int, int] | None, tmp_path: Path
) -> None:
    store = make(tmp_path)
    array = zarr_gpu.create_array(store, shape=(0, 4), chunks=(6, 4), shards=shards, dtype="i4")

    def work(number: int) -> None:
        for i in range(3):
            (array if number % 2 else zarr_gpu.open_array(store, mode="r+")).append(
                np.full((3, 4), 10 * number + i + 1)
            )
            slabs = zarr_gpu.open_array(store, mode="r")[...].reshape(-1, 12)
            assert (slabs == slabs[:, :1]).all()
            assert (slabs > 0).all()

    together(work)
    slabs = zarr_gpu.open_array(store)[...].reshape(-1, 12)
    assert sorted(slabs[:, 0]) == sorted(10 * n + i + 1 for n in range(THREADS) for i in range(3))


def test_the_memo_gives_what_was_put_under_a_key_and_stays_small() -> None:
    memo: Memo[tuple[int, int]] = Memo()

    def work(number: int) -> None:
        for i in range(ROOM):
            key = (7 * i + number) % (2 * ROOM)
            found = memo.get(key)
            assert found is None or found == (key, -key)
            memo.put(key, (key, -key))

    together(work)
    assert len(memo._entries) <= ROOM + THREADS


def test_the_cache_of_indexes_counts_its_bytes() -> None:
    cache = IndexCache(max_nbytes=64 * 1024)

    def work(number: int) -> None:
        random = Random(number)
        for _ in range(1000):
            key, version = random.randrange(100), random.randrange(3)
            found = cache.get(key, version)
            assert found is None or (found == [key, version]).all()
            rows = random.randrange(1, 200)
            cache.put(key, version, np.full((rows, 2), (key, version), np.uint64))

    together(work)
    kept = sum(index.nbytes for _, index in cache._entries.values())
    assert cache._nbytes == kept <= 64 * 1024


FIRST_USE = """
import sys, threading
import numpy as np
import zarr_gpu
start = threading.Barrier(8)
errors = []
def work(number):
    try:
        start.wait()
        data = np.arange(number, number + 10000, dtype="i4").reshape(100, 100)
        codec = ({"name": "zstd"}, {"name": "gzip"}, {"name": "blosc"}, None)[number % 4]
        shards = (100, 100) if number % 2 else None
        array = zarr_gpu.create_array(
            {}, data=data, chunks=(10, 10), shards=shards, compressors=codec
        )
        assert (array[...] == data).all()
        assert (array[5:17, 3:] == data[5:17, 3:]).all()
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
"""


def test_threads_may_be_the_first_to_use_everything() -> None:
    """Modules are imported, libraries looked for and the pool made, by all threads at once."""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_USE], capture_output=True, text=True, check=False
        )
        assert not done.returncode, done.stderr
