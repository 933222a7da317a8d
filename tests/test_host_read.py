"""Reads of local files, which fill buffers, give what reads of other stores give."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zarr_gpu
from zarr_gpu import host, host_blocks, host_rows
from zarr_gpu.codecs.zstd import ZstdCodec
from zarr_gpu.config import config
from zarr_gpu.errors import ChunkDecodeError, ChunkNotFoundError, StoreError
from zarr_gpu.scratch import Scratch
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import CountingStore

COMPRESSORS = {
    "none": None,
    "zstd": {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
    "blosc": {
        "name": "blosc",
        "configuration": {
            "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0,
        },
    },
    "gzip": {"name": "gzip", "configuration": {"level": 1}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks and tasks, and two threads, in small arrays."""
    monkeypatch.setattr(host_rows, "BLOCK_NBYTES", 256)
    monkeypatch.setattr(host_blocks, "PIECE_NBYTES", 256)
    monkeypatch.setattr(host, "TASK_NBYTES", 1024)
    monkeypatch.setattr(host, "SERIAL_NBYTES", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


@st.composite
def arrays(draw):
    """Arguments of an array, its values (some chunks are fill values only) and selections."""
    ndim = draw(st.integers(1, 3))
    chunks = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
    per_shard = tuple(draw(st.integers(1, 3)) for _ in range(ndim))
    sharded = draw(st.booleans())
    shape = tuple(draw(st.integers(1, 23 if ndim < 3 else 9)) for _ in range(ndim))
    dtype = draw(st.sampled_from(["<i4", ">u2", "f8", "?", "c8", "S3", "M8[s]"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = rng.integers(0, 100, shape).astype(dtype)
    data[tuple(slice(None, n // 2) for n in shape)] = np.zeros((), dtype)
    order = tuple(draw(st.permutations(range(ndim))))
    options = {
        "chunks": chunks,
        "shards": tuple(c * p for c, p in zip(chunks, per_shard, strict=True)) if sharded else None,
        "compressors": COMPRESSORS[draw(st.sampled_from(list(COMPRESSORS)))],
        "filters": [{"name": "transpose", "configuration": {"order": list(order)}}],
    }
    selections = [tuple(draw(st.slices(n)) for n in shape) for _ in range(4)]
    selections += [(), tuple(draw(st.integers(-n, n - 1)) for n in shape), (slice(None, None, -1),)]
    points = [
        np.array(draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=40))) for n in shape
    ]
    return options, data, selections, points


@given(arrays(), st.sampled_from([0.0, 1e9]))
def test_all_selections_equal_numpy(folder, case, quick):
    options, data, selections, points = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "QUICK_S", quick)  # with 1e9, one thread does it all
        compare_selections(folder, options, data, selections)
        array = zarr_gpu.open_array(LocalStore(folder), device="cpu")
        compare_points(array, data, points)


def compare_points(array, data, points):
    """Orthogonal selections, of one axis and of all, coordinates and masks."""
    for axis, index in enumerate(points):
        selection = (*(slice(1, None),) * axis, index)
        np.testing.assert_array_equal(array.oindex[selection], data[selection])
    np.testing.assert_array_equal(array.oindex[tuple(points)], data[np.ix_(*points)])
    together = np.broadcast_arrays(*(np.resize(index, 40) for index in points))
    np.testing.assert_array_equal(array.vindex[tuple(together)], data[tuple(together)])
    mask = data != np.zeros((), data.dtype)
    mask.reshape(-1)[::3] = False
    np.testing.assert_array_equal(array.vindex[mask], data[mask])


def compare_selections(folder, options, data, selections):
    store = LocalStore(folder)
    store.delete_prefix()
    array = zarr_gpu.create_array(store, shape=data.shape, dtype=data.dtype, **options)
    array[...] = data
    for selection in selections:
        np.testing.assert_array_equal(array[selection], data[selection])
        outer = np.zeros((*data[selection].shape, 2), data.dtype)
        array.read(selection, out=outer[..., 0])
        np.testing.assert_array_equal(outer[..., 0], data[selection])
        assert not outer[..., 1].any()


def made(store, compressor="zstd", **options):
    options = {"shape": (32, 24), "chunks": (8, 8), "dtype": "i4", **options}
    if compressor is not None:
        options["compressors"] = COMPRESSORS[compressor]
    array = zarr_gpu.create_array(store, **options)
    array[...] = np.arange(array.size).reshape(array.shape) + 1
    return array


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return LocalStore(tmp_path) if request.param == "local" else MemoryStore()


SELECTIONS = {
    "all": ...,
    "element": (9, 9),
    "chunk": (slice(8, 16), slice(8, 16)),
    "steps": slice(None, None, 3),
    "rows": [20, 9, 3],
    "points": ([1, 20, 9, 31], [1, 5, 9, 2]),
}


def pick(array, selection):
    """Of an array of zarr_gpu, or of NumPy."""
    if isinstance(array, np.ndarray) or not isinstance(selection, list | tuple):
        return array[selection]
    if isinstance(selection, list):
        return array.oindex[selection]
    return array[selection] if isinstance(selection[0], int | slice) else array.vindex[selection]


@pytest.mark.parametrize("compressor", list(COMPRESSORS))
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_missing_chunks_are_fill_values_or_errors(store, compressor, selection):
    array = made(store, compressor, fill_value=-7)
    expected = array[...]
    store.delete("c/1/1")
    expected[8:16, 8:16] = -7
    np.testing.assert_array_equal(pick(array, selection), pick(expected, selection))
    strict = array.with_config({"read_missing_chunks": False})
    with pytest.raises(ChunkNotFoundError, match="c/1/1"):
        pick(strict, selection)


@pytest.mark.parametrize("compressor", list(COMPRESSORS))
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "huge"])
def test_chunks_of_wrong_size_are_errors_that_name_them(store, compressor, selection, change):
    array = made(store, compressor)
    stored = bytes(store.get("c/1/1"))
    bad = {
        "longer": stored + b"!",
        "shorter": stored[:-1],
        "empty": b"",
        "huge": stored + bytes(100_000),
    }
    if (compressor, change) == ("gzip", "huge"):
        return  # zero bytes after gzip's members are padding, if not as many as that
    store.set("c/1/1", bad[change])
    if (compressor, change) == ("blosc", "longer"):
        return  # a container says where it ends
    with pytest.raises(ChunkDecodeError) as caught:
        pick(array, selection)
    assert caught.value.key == "c/1/1"
    assert "c/1/1" in str(caught.value)
    np.testing.assert_array_equal(array[16:], np.arange(16 * 24, 32 * 24).reshape(16, 24) + 1)


@pytest.mark.parametrize("compressor", ["none", "zstd"])
def test_files_that_are_none_are_errors(tmp_path, compressor):
    array = made(LocalStore(tmp_path), compressor)
    os.unlink(tmp_path / "c/1/1")
    os.mkfifo(tmp_path / "c/1/1")
    for selection in SELECTIONS.values():
        with pytest.raises(StoreError, match="regular"):
            pick(array, selection)


def test_what_does_not_decode_is_read_again(tmp_path, monkeypatch):
    """A file read in two parts, or replaced meanwhile, looks damaged the first time only."""
    array = made(LocalStore(tmp_path))
    expected = array[...]
    before = LocalStore.fill

    def cut_short(self, keys, buffers):
        for n in before(self, keys, buffers):
            yield n // 2

    monkeypatch.setattr(LocalStore, "fill", cut_short)
    for selection in SELECTIONS.values():
        np.testing.assert_array_equal(pick(array, selection), pick(expected, selection))


def test_elements_of_uncompressed_chunks_read_only_their_bytes(tmp_path):
    made(LocalStore(tmp_path), "none")
    counting = CountingStore(LocalStore(tmp_path))
    array = zarr_gpu.open_array(counting, mode="r")
    counting.clear()
    assert array[9, 9] == 9 * 24 + 9 + 1
    assert [(read.key, read.nbytes) for read in counting.reads] == [("c/1/1", 4)]


def test_whole_uncompressed_shards_are_read_in_few_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(host_rows, "BLOCK_NBYTES", 1 << 20)
    monkeypatch.setattr(host, "TASK_NBYTES", 1 << 20)
    made(LocalStore(tmp_path), "none", shards=(32, 24))
    counting = CountingStore(LocalStore(tmp_path))
    array = zarr_gpu.open_array(counting, mode="r")
    counting.clear()
    with config.set({"threads": 1}):
        array[...]
    # twelve inner chunks lie one after the other; the index is the second read
    assert sorted(read.nbytes for read in counting.reads) == [12 * 16 + 4, 12 * 256]


def test_large_uncompressed_chunks_pass_through_a_small_buffer(tmp_path):
    array = made(LocalStore(tmp_path), "none", shape=(64, 48), chunks=(32, 24))
    expected = np.arange(64 * 48).reshape(64, 48) + 1
    np.testing.assert_array_equal(array[:32, :24], expected[:32, :24])
    np.testing.assert_array_equal(array[...], expected)
    np.testing.assert_array_equal(array[5:, ::-1], expected[5:, ::-1])


def test_readers_of_one_array_in_many_threads_do_not_share_buffers(tmp_path):
    array = made(LocalStore(tmp_path))
    expected = array[...]
    wrong = []

    def read():
        for k in range(40):
            if not np.array_equal(array[k % 8 :: 2], expected[k % 8 :: 2]):
                wrong.append(k)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_codec_may_read_arrays_itself(tmp_path, monkeypatch):
    """Buffers belong to one read: another one in the same thread has its own."""
    inner = made(LocalStore(tmp_path / "inner"))
    array = made(LocalStore(tmp_path / "outer"))
    expected = array[...]
    decode = ZstdCodec.decode
    busy = threading.local()

    def nested(self, *args):
        if not getattr(busy, "now", False):
            busy.now = True
            inner[3:7, 3:7]
            busy.now = False
        return decode(self, *args)

    monkeypatch.setattr(ZstdCodec, "decode", nested)
    np.testing.assert_array_equal(array[...], expected)
    np.testing.assert_array_equal(array[::3], expected[::3])


def test_scratch_grows_and_keeps_its_memory():
    scratch = Scratch()
    first = scratch.get("a", 10)
    first[:] = b"0123456789"
    assert bytes(scratch.get("a", 4)) == b"0123"
    assert len(scratch.get("a", 20)) == 20
    assert scratch.get("b", 3).obj is not scratch.get("a", 3).obj


@pytest.mark.parametrize("compressor", ["zstd", "blosc", "gzip"])
@pytest.mark.parametrize("shards", [None, (32, 24)], ids=["chunks", "shard"])
def test_every_byte_is_read_once(tmp_path, monkeypatch, compressor, shards):
    """Also where a codec cannot decode many chunks by one call."""
    array = made(LocalStore(tmp_path), compressor, shards=shards)
    expected = array[...]
    found = []
    for name in ("readv", "pread", "preadv"):
        read = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, read=read: found.append(read(*a)) or found[-1])
    np.testing.assert_array_equal(array[...], expected)
    stored = sum(f.stat().st_size for f in (tmp_path / "c").rglob("*") if f.is_file())
    nbytes = sum(n if isinstance(n, int) else len(n) for n in found)
    assert nbytes <= stored  # the index of the shard is remembered


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(300, 500), (), (0, 7), (3, 5)])
def test_outputs_are_what_numpy_makes_in_a_better_place(order, shape):
    for dtype in ("f4", "S3", "M8[s]", "O", np.dtype([("a", "i2"), ("b", ">f8")])):
        found = host.HostBackend().empty(shape, np.dtype(dtype), order)
        expected = np.empty(shape, dtype, order)
        assert (found.shape, found.dtype) == (shape, expected.dtype)
        assert found.strides == expected.strides
        assert found.flags.writeable
        if found.nbytes >= host.LARGE_NBYTES and dtype != "O":
            assert found.ctypes.data % 64 == 0


def test_scratch_is_aligned():
    scratch = Scratch()
    for nbytes in (1, 100, 1 << 20):
        assert np.frombuffer(scratch.get("a", nbytes), np.uint8).ctypes.data % 64 == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_tasks_are_short_however_small_the_chunks(threads, monkeypatch):
    monkeypatch.setattr(host, "TASK_NBYTES", 1 << 20)
    array = zarr_gpu.create_array({}, shape=(60_000,), chunks=(2,), dtype="i1", fill_value=7)
    found = []
    genuine = host_rows.RowJob.read_rows

    def read_rows(self, segment):
        found.append(len(segment))
        genuine(self, segment)

    monkeypatch.setattr(host_rows.RowJob, "read_rows", read_rows)
    with config.set({"threads": threads}):
        assert (array[::2] == 7).all()
    assert sum(found) == 30_000
    assert max(found) <= 4096
