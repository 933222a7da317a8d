"""What is wrong with stored objects is said as the host says it, and no slab is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from tests.device.fetching import (
    ARRAYS,
    STORES,
    Runtime,
    assembled,
    create,
    fetcher_of,
    host_read,
    make_plan_of,
    make_store,
    rows_of,
    wave_of,
)
from tests.reliability.damage import cases
from tests.reliability.layouts import LAYOUTS, Layout
from zarr_gpu import workers
from zarr_gpu.config import config
from zarr_gpu.device import fetch
from zarr_gpu.device.fetch import Wave
from zarr_gpu.device.memory import PinnedRing
from zarr_gpu.errors import ChecksumError, ChunkDecodeError, ChunkNotFoundError, StoreError
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import WrappedStore


def outcome(work: Any) -> Any:
    """The result, or type and text of the error."""
    try:
        return work()
    except (ChunkDecodeError, ChunkNotFoundError, StoreError) as error:
        return type(error), str(error)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Of several bad chunks, the first is the one that is told of."""
    with config.set({"threads": 1, "io_threads": 1}):
        yield


def compare(layout: ArrayLayout, store: Store, selection: Any = ..., **settings: Any) -> Any:
    """Host and fetch agree, as stored and decoded, and no slab is lost; returns what they say."""
    plan = make_plan_of(layout, selection)
    expected = outcome(lambda: host_read(layout, store, plan, **settings))
    for decode in (False, True):
        ring = PinnedRing(Runtime(), 1 << 16, 100)
        wave, chunks = wave_of(layout, plan, decode=decode)

        def work(wave: Wave = wave, chunks: Any = chunks, ring: PinnedRing = ring) -> Any:
            found = fetcher_of(layout, store, ring, **settings).fetch(wave)
            for slab in found.slabs:
                _ = slab.array
            result = assembled(layout, wave, found, chunks)
            for slab in found.slabs:
                slab.release()
            return result[tuple(slice(0, n) for n in plan.selection.shape)]

        found = outcome(work)
        if isinstance(expected, tuple):
            assert found == expected
        else:
            assert isinstance(found, np.ndarray), found
            assert found.tobytes() == expected.tobytes()
            assert ring.nbytes == ring.slab_nbytes * len(ring._free)
    return expected


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ARRAYS)
def test_faults_are_told_in_the_words_of_the_host(name: str, kind: str, tmp_path: Any) -> None:
    objects, layout = create(name)
    key = layout.keys(np.zeros((1, 2), np.int64))[0]
    good = objects[key]
    versions = {
        "truncated": good[:-1],
        "longer": good + b"\0",
        "empty": b"",
        "oversized": good + bytes(1 << 20),
        "half": good[: len(good) // 2],
    }
    for version, data in versions.items():
        store = make_store(kind, {**objects, key: data}, tmp_path / version)
        said = compare(layout, store)
        assert isinstance(said, tuple) or version in ("longer", "oversized"), version
    store = make_store(kind, objects, tmp_path / "good")
    assert compare(layout, store, read_missing_chunks=False)[0] is ChunkNotFoundError
    assert isinstance(compare(layout, store), np.ndarray)
    del objects[key]
    store = make_store(kind, objects, tmp_path / "gone")
    assert isinstance(compare(layout, store), np.ndarray)


@pytest.mark.parametrize("kind", STORES)
def test_corrupt_indexes_are_found(kind: str, tmp_path: Any) -> None:
    for name, at in (("shards", -5), ("shards, index first", 3), ("nested", -5), ("nested", 20)):
        objects, layout = create(name)
        key = layout.keys(np.zeros((1, 2), np.int64))[0]
        bad = bytearray(objects[key])
        bad[at] ^= 1
        store = make_store(kind, {**objects, key: bytes(bad)}, tmp_path / f"{name}{at}")
        assert compare(layout, store)[0] is ChecksumError


def damaged(layout: Layout, kind: str, flips: int, path: Any) -> None:
    for number, case in enumerate(cases(layout, flips)):
        objects = {**layout.stored(), layout.key: case.data}
        array = zarr_gpu.open_array(objects, path="g/a", mode="r")
        store = make_store(kind, objects, path / str(number))
        compare(array._layout, store, (slice(0, 8), slice(0, 6)))


NUMERIC = [layout for layout in LAYOUTS if not layout.text]


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("layout", NUMERIC, ids=str)
def test_damaged_chunks_are_what_they_are_for_the_host(
    layout: Layout, kind: str, tmp_path: Any
) -> None:
    damaged(layout, kind, 40, tmp_path)


@pytest.mark.parametrize("name", ["raw", "zstd", "shard-raw", "nested-crc32c"])
def test_some_damaged_chunks_are_what_they_are_for_the_host(name: str, tmp_path: Any) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    damaged(layout, "memory", 4, tmp_path)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ["zstd", "shards"])
@pytest.mark.parametrize("threads", [1, 8])
def test_a_failing_store_costs_no_slab(
    name: str, kind: str, threads: int, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(fetch, "SERIAL_NBYTES", 0)
    monkeypatch.setattr(fetch, "TASK_NBYTES", 100)
    objects, layout = create(name)
    store = make_store(kind, objects, tmp_path)
    key = layout.keys(np.array([[1, 0]]))[0]

    class Failing(WrappedStore):
        def get(self, asked: str, *args: Any, **kwargs: Any) -> Any:
            if asked == key:
                raise StoreError("the disk is gone")
            return super().get(asked, *args, **kwargs)

        def get_many(self, keys: Any, *args: Any, **kwargs: Any) -> Any:
            return [self.get(k) for k in keys]

        def open_reader(self, asked: str, *, limit: int | None = None) -> Any:
            if asked == key:
                raise StoreError("the disk is gone")
            return super().open_reader(asked, limit=limit)

    ring = PinnedRing(Runtime(), 100, 1000)
    wave, _ = wave_of(layout, make_plan_of(layout))
    for decode in (False, True):
        wave, _ = wave_of(layout, make_plan_of(layout), decode=decode)
        with (
            config.set({"threads": threads, "io_threads": threads}),
            pytest.raises(StoreError, match="the disk is gone"),
        ):
            fetcher_of(layout, Failing(store), ring).fetch(wave)
    assert ring.nbytes == ring.slab_nbytes * len(ring._free)


def test_slabs_of_an_interrupted_fetch_are_not_used_again(monkeypatch: Any) -> None:
    objects, layout = create("zstd")
    ring = PinnedRing(Runtime(), 1 << 16, 4)
    run = workers.run

    def interrupted(*args: Any) -> None:
        run(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetcher_of(layout, MemoryStore(objects), ring).fetch(
            wave_of(layout, make_plan_of(layout))[0]
        )
    assert ring.nbytes == 0 and not ring._free


def test_no_memory_is_taken_for_what_the_metadata_does_not_allow(tmp_path: Any) -> None:
    asked: list[int] = []

    class Bounded(Runtime):
        def pinned(self, nbytes: int) -> np.ndarray:
            asked.append(nbytes)
            return super().pinned(nbytes)

    for name in ("zstd", "raw", "shards"):
        objects, layout = create(name)
        store = make_store("local", objects, tmp_path / name)
        key = layout.keys(np.zeros((1, 2), np.int64))[0]
        with open(tmp_path / name / "store" / key, "r+b") as file:
            file.truncate(10 << 30)
        wave, _ = wave_of(layout, make_plan_of(layout))
        with pytest.raises(ChunkDecodeError):
            fetcher_of(layout, store, PinnedRing(Bounded(), 1000, 4)).fetch(wave)
    assert set(asked) <= {1000}


def test_a_file_that_is_replaced_is_read_as_it_was_opened(tmp_path: Any) -> None:
    objects, layout = create("zstd")
    store = make_store("local", objects, tmp_path)
    key = layout.keys(np.zeros((1, 2), np.int64))[0]

    class Replacing(WrappedStore):
        def open_reader(self, asked: str, *, limit: int | None = None) -> Any:
            reader = self.store.open_reader(asked, limit=limit)
            if asked == key:
                self.store.set(key, bytes(500))
            return reader

    wave, _ = wave_of(layout, make_plan_of(layout))
    found = fetcher_of(layout, Replacing(store)).fetch(wave)
    assert dict(rows_of(found))[0].tobytes() == objects[key]


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raw", "bytes: stored chunk of impossible size"),
        ("rectilinear raw", "bytes: stored chunk of impossible size"),
        ("shards, index first", "crc32c: stored chunk of impossible size"),
        ("raw shards", "bytes: inner chunk of impossible size"),
    ],
)
def test_impossible_sizes_are_found_before_anything_is_decoded(
    name: str, text: str, kind: str, tmp_path: Any
) -> None:
    objects, layout = create(name)
    key = layout.keys(np.zeros((1, 2), np.int64))[0]
    if layout.sharded:
        shard = layout.levels.layouts[0]
        chunk = np.ones(shard.inner.spec.shape, layout.dtype)
        blobs: list[Any] = [bytes(shard.inner.encode(chunk))] * shard.count
        blobs[2] = blobs[2][:-4]
        objects[key] = bytes(shard.pack(blobs))
    else:
        objects[key] = objects[key][:-4]
    store = make_store(kind, objects, tmp_path)
    wave, _ = wave_of(layout, make_plan_of(layout))
    with pytest.raises(ChunkDecodeError, match=text):
        fetcher_of(layout, store).fetch(wave)
    assert compare(layout, store)[0] is ChunkDecodeError


def test_an_object_replaced_between_two_requests_is_read_whole() -> None:
    objects, layout = create("zstd")
    key = layout.keys(np.zeros((1, 2), np.int64))[0]
    longer = bytes(200)

    class Requests(WrappedStore):
        """Quick, but every read of a part is a request of its own."""

        def open_reader(self, asked: str, *, limit: int | None = None) -> Any:
            return Store.open_reader(self, asked, limit=limit)

        def size(self, asked: str) -> int | None:
            size = super().size(asked)
            if asked == key:
                self.store.set(key, longer)
            return size

    wave, _ = wave_of(layout, make_plan_of(layout))
    found = fetcher_of(layout, Requests(MemoryStore(objects))).fetch(wave)
    assert dict(rows_of(found))[0].tobytes() == longer
