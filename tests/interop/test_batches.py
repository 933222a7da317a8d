"""Batches as NumPy arrays: what is read, how much at a time, and going on."""

from __future__ import annotations

import pickle
import threading
import tracemalloc

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.interop import samples as samples_module
from zarr_gpu.interop.batches import Batches
from zarr_gpu.interop.samples import Samples

N = 300
X = np.arange(N * 20, dtype=">i4").reshape(N, 4, 5)
Y = np.arange(N)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(samples_module, "LEAST_BLOCK_NBYTES", 1)
    monkeypatch.setattr(samples_module, "RESIDENT_NBYTES", Y.nbytes)


@pytest.fixture
def arrays():
    x = zarr_gpu.create_array({}, data=X, chunks=(7, 2, 5), device="cpu")
    return {"x": x, "y": zarr_gpu.create_array({}, data=Y, chunks=50, device="cpu")}


def visited(batches):
    found = []
    for batch in batches:
        assert batch["x"].dtype == np.int32  # native
        assert np.array_equal(batch["x"], X[batch["y"]])
        found += batch["y"].tolist()
    return found


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("memory", [2000, 9000, 1 << 20])
def test_every_sample_comes_once_in_the_order_that_was_announced(arrays, shuffle, memory):
    batches = Batches(arrays, batch_size=16, shuffle=shuffle, memory=memory)
    found = visited(batches)
    assert sorted(found) == list(range(N))
    assert found == batches.sampling.order(0).tolist()
    assert len(batches) == 19
    batches.set_epoch(3)
    assert (visited(batches) == found) == (not shuffle)


def test_every_chunk_is_decoded_once(arrays, monkeypatch):
    """By each of two ranks, but for the one chunk where the epoch was cut in two."""
    rows = []
    original = zarr_gpu.Array.get_orthogonal_selection

    def counted(self, selection, **options):
        at = selection[0]
        if self.ndim == 3:
            rows.append(np.arange(N)[at])
        return original(self, selection, **options)

    monkeypatch.setattr(zarr_gpu.Array, "get_orthogonal_selection", counted)
    for rank in range(2):
        options = {"shuffle": True, "shuffle_chunks": 5, "rank": rank, "world_size": 2}
        visited(Batches(arrays, batch_size=10, **options))
    chunks = [np.unique(numbers // 7) for numbers in rows]
    assert np.bincount(np.concatenate(chunks)).sum() <= len(range(0, N, 7)) + 1
    assert sum(map(len, rows)) == N


def test_small_arrays_are_read_once(arrays, monkeypatch):
    names = []
    original = zarr_gpu.Array.get_orthogonal_selection
    monkeypatch.setattr(
        zarr_gpu.Array, "get_orthogonal_selection",
        lambda self, *a, **kw: names.append(self.ndim) or original(self, *a, **kw),
    )  # fmt: skip
    batches = Batches(arrays, batch_size=16, memory=9000)
    visited(batches)
    visited(batches)
    assert 1 <= names.count(1) <= 3  # the first groups are read at the same time
    monkeypatch.setattr(samples_module, "RESIDENT_NBYTES", Y.nbytes - 1)
    visited(Batches(arrays, batch_size=16, memory=9000))
    assert names.count(1) > 8


def test_long_runs_are_decoded_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.setattr(samples_module, "SPAN_NBYTES", 1)
    array = zarr_gpu.create_array(tmp_path / "x", data=X, chunks=(7, 2, 5), device="cpu")
    for axis, select in ((0, (slice(None, None, -1), [0, 3])), (1, (slice(5, 9), 2))):
        options = {"axis": axis, "select": select, "shuffle": True, "shuffle_chunks": 3}
        batches = Batches(array, batch_size=3, **options)
        found = np.concatenate(list(batches))
        whole = X[:, ::-1][..., [0, 3]] if axis == 0 else np.moveaxis(X[5:9, :, 2], 1, 0)
        assert np.array_equal(found, whole[batches.sampling.order(0)])


def test_elements_of_overlapping_windows_are_read_once(monkeypatch):
    """Windows that are longer than chunks, of chunks that are not neighbours."""
    array = zarr_gpu.create_array({}, data=Y[:40], chunks=2, device="cpu")
    batches = Batches(array, batch_size=4, window=9, shuffle=True, shuffle_chunks=3, stride=1)
    read = []
    original = Samples.load
    monkeypatch.setattr(
        Samples, "load", lambda self, spans, out: (read.append(spans), original(self, spans, out))
    )
    found = np.concatenate(list(batches))
    assert np.array_equal(found, batches.sampling.order(0)[:, None] + np.arange(9))
    assert any(len(spans) > 1 for spans in read)
    for spans in read:
        assert (spans[1:, 0] > spans[:-1, 1]).all()


def test_chunks_are_read_ahead_while_the_caller_works(arrays, monkeypatch):
    """With the caller inside its first batch, as many groups are read as there are buffers."""
    read = threading.Semaphore(0)
    original = Samples.load
    monkeypatch.setattr(Samples, "load", lambda self, *a: (original(self, *a), read.release())[0])
    batches = Batches(arrays["x"], batch_size=7, shuffle=True, shuffle_chunks=1, memory=3 * 560)
    running = iter(batches)
    next(running)
    assert batches.buffers == 3
    for _ in range(3):
        assert read.acquire(timeout=60)
    assert not read.acquire(timeout=0.2)  # memory is full
    next(running)  # the first group is used up
    assert read.acquire(timeout=60)


def test_all_memory_together_is_bounded(tmp_path):
    """Buffers, the stored bytes of what is read, and batches; chunks here do not compress."""
    data = np.random.default_rng(0).integers(0, 256, (2048, 64, 64), dtype="u1")
    array = zarr_gpu.create_array(tmp_path / "x", data=data, chunks=(16, 64, 64), device="cpu")
    memory = 3 << 20
    batches = Batches(array, batch_size=16, shuffle=True, memory=memory)
    assert batches.buffers * batches.sampling.group * 16 * 64 * 64 <= memory
    next(iter(batches))
    tracemalloc.start()
    try:
        n = sum(len(batch) for batch in batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == len(data)
    assert peak < 2 * memory + (1 << 20) < data.nbytes


def test_the_order_of_small_samples_takes_memory_too():
    numbers = zarr_gpu.zeros(100_000, chunks=1000, dtype="u1", store={}, device="cpu")
    assert Batches(numbers, shuffle=True, memory=3_300_000).sampling.group == 33
    assert Batches(numbers, shuffle=True, shuffle_chunks=50, memory=3_300_000).sampling.group == 50


def test_an_iteration_goes_on_where_another_one_was(arrays):
    options = {"batch_size": 16, "shuffle": True, "seed": 5, "memory": 9000}
    batches = Batches(arrays, **options)
    batches.set_epoch(2)
    whole = visited(batches)
    running = iter(batches)
    for _ in range(4):
        next(running)
    state = batches.state_dict()
    again = Batches(arrays, **options)
    again.load_state_dict(pickle.loads(pickle.dumps(state)))
    again.set_epoch(2)
    assert again.state_dict() == state
    assert visited(again) == whole[64:]
    assert visited(again) == whole
    with pytest.raises(ValueError, match="seed was 5"):
        Batches(arrays, **{**options, "seed": 6}).load_state_dict(state)
    state = Batches(arrays, batch_size=16, memory=9000).state_dict()
    Batches(arrays, batch_size=16, seed=1).load_state_dict(state)  # no order depends on these


def test_strings_and_structures_are_samples_too():
    words = zarr_gpu.create_array({}, data=np.array(["a", "bc", "d"], "U2"), device="cpu")
    pairs = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")])
    records = zarr_gpu.create_array({}, data=pairs, device="cpu")
    assert [w.tolist() for w in Batches(words, batch_size=2)] == [["a", "bc"], ["d"]]
    assert next(iter(Batches(records, batch_size=2))).tolist() == pairs.tolist()
    endless = zarr_gpu.create_array({}, shape=2, dtype=str, device="cpu")
    with pytest.raises(NotImplementedError, match="no fixed size"):
        Batches(endless)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_batches_are_in_native_byte_order(zarr_format):
    array = zarr_gpu.create_array(
        {}, data=X, chunks=(7, 2, 5), device="cpu", zarr_format=zarr_format
    )
    batches = Batches(array, batch_size=N, shuffle=True)
    (whole,) = batches
    assert whole.dtype.isnative
    assert np.array_equal(whole, X[batches.sampling.order(0)])


def test_remote_chunks_are_read_by_one_plan(tmp_path):
    url = "memory://batches-remote"
    array = zarr_gpu.create_array(url, data=X, chunks=(7, 4, 5), device="cpu")
    batches = Batches({"x": array, "y": array}, batch_size=50, shuffle=True)
    for batch in batches:
        assert np.array_equal(batch["x"], batch["y"])
