"""Waves fetched into slabs: the right bytes in the right place."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from tests.device.fetching import (
    ARRAYS,
    STORES,
    Far,
    Runtime,
    assembled,
    create,
    fetcher_of,
    host_read,
    leaf_of,
    make_plan_of,
    make_store,
    rows_of,
    wave_of,
)
from zarr_gpu.config import config
from zarr_gpu.device import fetch
from zarr_gpu.device.fetch import Fetched, Wave
from zarr_gpu.device.memory import PinnedRing
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import CountingStore


@pytest.fixture(params=[1, 8])
def threads(request: Any, monkeypatch: Any) -> Iterator[int]:
    """Many small tasks, on this thread alone or on several."""
    monkeypatch.setattr(fetch, "SERIAL_NBYTES", 0)
    monkeypatch.setattr(fetch, "TASK_NBYTES", 100)
    with config.set({"threads": request.param, "io_threads": request.param}):
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # threads take turns wherever they can
        yield request.param
        sys.setswitchinterval(before)


@pytest.mark.parametrize("decode", [False, True], ids=["stored", "decoded"])
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ARRAYS)
def test_rows_are_the_chunks(
    name: str, kind: str, decode: bool, threads: int, tmp_path: Any
) -> None:
    objects, layout = create(name)
    store = make_store(kind, objects, tmp_path)
    plan = make_plan_of(layout)
    wave, chunks = wave_of(layout, plan, decode=decode)
    found = fetcher_of(layout, store).fetch(wave)
    expected = host_read(layout, store, plan)
    np.testing.assert_array_equal(assembled(layout, wave, found, chunks), expected)
    stored = [(row, data) for row, data in rows_of(found) if data is not None]
    assert 0 < len(stored) < len(wave)
    for row, data in stored:
        if not decode:
            at = int(found.object_offset[row])
            _, key = leaf_of(layout, wave, row)
            assert objects[key][at : at + data.nbytes] == data.tobytes()
    _check_placed(found, wave)


def _check_placed(found: Fetched, wave: Wave) -> None:
    """Rows do not overlap, and nothing else in the slabs was written, unless between rows."""
    for number, slab in enumerate(found.slabs):
        mine = np.flatnonzero(found.slab == number)
        order = mine[np.lexsort((found.nbytes[mine], found.offset[mine]))]
        stop = found.offset[order] + found.nbytes[order]
        assert (found.offset[order][1:] >= stop[:-1]).all()
        assert stop.max() == found.used[number]
        assert (slab.array[found.used[number] :] == 0xA5).all()
    assert ((found.offset + wave.bias) % wave.align == 0).any() or not len(found.slabs)


@pytest.mark.parametrize(("align", "bias"), [(16, 0), (4, 2), (256, 7), (1, 0)])
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ["zstd", "shards"])
def test_rows_are_aligned(name: str, kind: str, align: int, bias: int, tmp_path: Any) -> None:
    objects, layout = create(name)
    store = make_store(kind, objects, tmp_path)
    plan = make_plan_of(layout)
    for decode in (False, True):
        wave, chunks = wave_of(layout, plan, decode=decode, align=align, bias=bias)
        found = fetcher_of(layout, store).fetch(wave)
        aligned = ((found.offset + bias) % align == 0)[found.slab >= 0]
        if name == "zstd" or decode or kind == "far":
            assert aligned.all()
        else:
            assert aligned.any()
        expected = host_read(layout, store, plan)
        np.testing.assert_array_equal(assembled(layout, wave, found, chunks), expected)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ["raw", "rectilinear raw", "raw shards"])
def test_only_the_span_of_uncompressed_chunks_is_read(
    name: str, kind: str, threads: int, tmp_path: Any
) -> None:
    objects, layout = create(name)
    store = make_store(kind, objects, tmp_path)
    wave, _ = wave_of(layout, make_plan_of(layout))
    sizes = [leaf_of(layout, wave, row)[0].raw.nbytes for row in range(len(wave))]
    offset = np.array([(row * 4) % n for row, n in enumerate(sizes)], np.int64)
    nbytes = np.array(
        [
            0 if row % 5 == 3 else min(n - o, 8)
            for row, (n, o) in enumerate(zip(sizes, offset, strict=True))
        ],
        np.int64,
    )
    offset[::7], nbytes[::7] = 0, sizes[::7]
    wave, _ = wave_of(layout, make_plan_of(layout), span=(offset, nbytes))
    whole = fetcher_of(layout, store).fetch(wave_of(layout, make_plan_of(layout))[0])
    counting = CountingStore(store)
    found = fetcher_of(layout, counting, sharding_coalesce_max_gap_bytes=0).fetch(wave)
    wanted = 0
    for (row, data), (_, chunk) in zip(rows_of(found), rows_of(whole), strict=True):
        assert (data is None) == (chunk is None)
        if data is not None:
            part = chunk[offset[row] : offset[row] + nbytes[row]]
            assert data.tobytes() == part.tobytes()
            assert found.object_offset[row] == whole.object_offset[row] + offset[row]
            wanted += data.nbytes
    if not layout.sharded:
        assert counting.bytes_read == wanted


def test_stores_with_latency_are_asked_for_many_objects_at_once() -> None:
    objects, layout = create("zstd")
    counts: list[int] = []

    class Batched(Far):
        def get_many(self, keys: Any, offset: Any, nbytes: Any, *, limit: Any = None) -> Any:
            counts.append(len(keys))
            return super().get_many(keys, offset, nbytes, limit=limit)

    with config.set({"io_threads": 1}):
        wave, _ = wave_of(layout, make_plan_of(layout))
        fetcher_of(layout, Batched(MemoryStore(objects))).fetch(wave)
    assert counts == [len(wave)]


def test_close_inner_chunks_of_a_file_are_one_read(tmp_path: Any) -> None:
    objects, layout = create("shards")
    store = CountingStore(make_store("local", objects, tmp_path))
    wave, _ = wave_of(layout, make_plan_of(layout, (slice(0, 4), slice(0, 6))))
    found = fetcher_of(layout, store).fetch(wave)
    assert len(wave) == 4
    assert len([read for read in store.reads if read.offset == 0]) == 1
    assert len(store.reads) == 2  # and the index
    assert len(found.slabs) == 1


def test_with_latency_the_index_of_a_shard_is_read_once(threads: int) -> None:
    objects, layout = create("shards")
    store = CountingStore(Far(MemoryStore(objects)))
    wave, _ = wave_of(layout, make_plan_of(layout, (slice(0, 4), slice(0, 6))))
    fetcher_of(layout, store).fetch(wave)
    index = layout.levels.layouts[0].index_nbytes
    assert [read.nbytes for read in store.reads].count(index) == 1


# -- slabs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ["raw", "raw shards"])
def test_rows_larger_than_a_slab_get_one_of_their_own(
    name: str, kind: str, threads: int, tmp_path: Any
) -> None:
    objects, layout = create(name)
    store = make_store(kind, objects, tmp_path)
    ring = PinnedRing(Runtime(), 20, 4)
    wave, chunks = wave_of(layout, make_plan_of(layout))
    found = fetcher_of(layout, store, ring).fetch(wave)
    assert len(found.slabs) == (found.slab >= 0).sum()
    expected = host_read(layout, store, make_plan_of(layout))
    np.testing.assert_array_equal(assembled(layout, wave, found, chunks), expected)
    for slab in found.slabs:
        slab.release()
    assert ring.nbytes == 0


def test_many_tiny_rows_fill_slab_after_slab(threads: int, tmp_path: Any) -> None:
    objects: dict[str, bytes] = {}
    array = zarr_gpu.create_array(objects, shape=(700,), chunks=(1,), dtype="u2", compressors=None)
    array[...] = np.arange(700) + 1
    layout = array._layout
    ring = PinnedRing(Runtime(), 1000, 100)
    for store in (make_store("local", objects, tmp_path), Far(MemoryStore(objects))):
        wave, chunks = wave_of(layout, make_plan_of(layout))
        found = fetcher_of(layout, store, ring).fetch(wave)
        assert len(found.slabs) == math.ceil(700 / 63)
        np.testing.assert_array_equal(assembled(layout, wave, found, chunks), np.arange(700) + 1)
        for slab in found.slabs:
            slab.release()
    assert ring.nbytes == 1000 * math.ceil(700 / 63)


def test_a_large_row_leaves_the_rest_of_the_slab_before_it_to_others(tmp_path: Any) -> None:
    objects: dict[str, bytes] = {}
    array = zarr_gpu.create_array(
        objects, shape=(140,), chunks=([20, 100, 20],), dtype="u1", compressors=None
    )
    array[...] = np.arange(140) + 1
    store = make_store("local", objects, tmp_path)
    wave, _ = wave_of(array._layout, make_plan_of(array._layout))
    found = fetcher_of(array._layout, store, PinnedRing(Runtime(), 64, 4)).fetch(wave)
    assert found.slab.tolist() == [0, 1, 0]
    assert found.offset.tolist() == [0, 0, 32]
    assert found.used == (52, 100)


@pytest.mark.parametrize("kind", STORES)
def test_zero_dimensional_arrays_and_empty_waves(kind: str, tmp_path: Any) -> None:
    objects: dict[str, bytes] = {}
    array = zarr_gpu.create_array(objects, shape=(), dtype="f8")
    array[...] = 2.5
    layout = array._layout
    store = make_store(kind, objects, tmp_path)
    for decode in (False, True):
        wave, chunks = wave_of(layout, make_plan_of(layout), decode=decode)
        found = fetcher_of(layout, store).fetch(wave)
        assert assembled(layout, wave, found, chunks)[()] == 2.5
    _, layout = create("shards")
    wave, _ = wave_of(layout, make_plan_of(layout, (slice(0, 0), slice(None))))
    found = fetcher_of(layout, store).fetch(wave)
    assert len(wave) == len(found.slab) == len(found.slabs) == 0


def test_elements_of_variable_length_cannot_be_decoded_into_slabs() -> None:
    objects: dict[str, bytes] = {}
    array = zarr_gpu.create_array(objects, shape=(4,), dtype="string")
    layout = array._layout
    wave, _ = wave_of(layout, make_plan_of(layout), decode=True)
    with pytest.raises(UnsupportedError, match="variable length"):
        fetcher_of(layout, MemoryStore(objects)).fetch(wave)
