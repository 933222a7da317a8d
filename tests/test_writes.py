"""What writing costs, in system calls and memory, and that blocks write what rows write."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu import host_write, host_write_blocks, workers
from zarr_gpu.codecs.zstd import ZstdCodec
from zarr_gpu.config import config
from zarr_gpu.errors import ChunkEncodeError, CodecError
from zarr_gpu.host_write_blocks import BlockWriteJob
from zarr_gpu.host_write_shards import ShardWriteJob
from zarr_gpu.resizing import reshaped
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import CountingStore

MIB = 1 << 20
CALLS = (
    "open", "close", "read", "pread", "readv", "preadv", "write", "writev", "fsync", "stat",
    "lstat", "fstat", "replace", "rename", "link", "unlink", "mkdir", "makedirs", "listdir",
    "scandir", "readlink",
)  # fmt: skip


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """System calls that Python makes, by the function that makes them."""
    calls: Counter[str] = Counter()
    guard = threading.Lock()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with guard:
                calls[name] += 1
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counting(name, getattr(os, name)))
        yield calls


def peak_nbytes(work: Callable[[], object]) -> int:
    """Most memory that ``work`` holds at a time, NumPy's included."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def values(*shape: int) -> Any:
    return np.arange(1, 1 + int(np.prod(shape)), dtype="f4").reshape(shape)


# -- system calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("compressors", [None, [ZstdCodec(level=1).to_dict()]])
def test_a_whole_chunk_is_opened_written_closed_and_renamed(
    compressors: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(40, 60), chunks=(4, 6), dtype="f4", compressors=compressors
    )
    array[...] = 7.0
    with counted(monkeypatch) as calls:
        array[...] = values(40, 60)
    assert calls == dict.fromkeys(("open", "write", "close", "replace"), 100)


def test_a_directory_is_made_once_by_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(40, 60), chunks=(4, 6), dtype="f4", compressors=None
    )
    array[:4] = 1.0  # the directories "c" and "c/0"
    with counted(monkeypatch) as calls, config.set(threads=1):
        array[4:] = values(36, 60)
    assert calls == {**dict.fromkeys(("open", "write", "close", "replace"), 90), "mkdir": 9}


def test_a_shard_is_one_file_written_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(1024, 1024), chunks=(32, 32), shards=(1024, 1024), dtype="f4",
        compressors=None,
    )  # fmt: skip
    array[...] = 7.0
    with counted(monkeypatch) as calls:
        array[...] = values(1024, 1024)
    blocks = 4 * MIB // host_write_blocks.BLOCK_NBYTES
    assert calls == {"open": 1, "write": blocks + 1, "close": 1, "replace": 1}


def test_an_append_reads_and_writes_the_document_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(0, 6), chunks=(4, 6), dtype="f4", compressors=None
    )
    array.append(values(4, 6))
    array.append(values(4, 6))
    with counted(monkeypatch) as calls:
        array.append(values(4, 6))
    # Lock file and document are opened beside the two new files; a new directory for the chunk.
    assert (calls["write"], calls["replace"], calls["mkdir"]) == (2, 2, 1)
    assert calls["open"] == calls["close"] == 4
    assert calls["unlink"] == calls["makedirs"] == 0
    assert sum(calls.values()) <= 17


def test_appends_ask_the_store_for_nothing_else() -> None:
    store = CountingStore(MemoryStore())
    array = zarr_gpu.create_array(store, shape=(2,), chunks=(4,), dtype="f4", compressors=None)
    array[...] = 1
    store.clear()
    array.append(values(7))
    assert [(r.key, r.nbytes) for r in store.reads][1:] == [("c/0", 16)]
    assert [w.key for w in store.writes] == ["c/0", "c/1", "c/2", "zarr.json"]


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_chunks_that_are_covered_as_far_as_the_array_reaches_are_not_read(compressors: Any) -> None:
    store = CountingStore(MemoryStore())
    array = zarr_gpu.create_array(
        store, shape=(9, 5), chunks=(4, 4), dtype="f4", compressors=compressors
    )
    array[...] = 1
    store.clear()
    array[...] = 2
    array[8:] = 3
    array[:, 4:] = 4
    array[8:, 4:] = 5
    array[4:8, :4] = 6
    assert store.reads == []
    array[:7, 4:] = 7
    assert [read.key for read in store.reads] == ["c/1/1"]


def test_durable_stores_get_many_chunks_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    genuine = LocalStore.set_many

    def set_many(self: LocalStore, items: Any) -> None:
        sizes.append(len(items))
        genuine(self, items)

    monkeypatch.setattr(LocalStore, "set_many", set_many)
    with config.set(threads=1, durable=True):
        array = zarr_gpu.create_array(
            tmp_path / "a", shape=(32, 1 << 17), chunks=(1, 1 << 17), dtype="f4", compressors=None
        )
        array[...] = 1
    assert min(sizes) >= 8


# -- memory ------------------------------------------------------------------------------------


def test_contiguous_chunks_are_stored_from_where_they_are(tmp_path: Path) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(8, 512, 512), chunks=(1, 512, 512), dtype="f4", compressors=None
    )
    data = values(8, 512, 512)

    def write() -> None:
        array[...] = data

    write()
    assert peak_nbytes(write) < MIB // 2


def test_other_chunks_are_brought_together_in_memory_that_is_used_again(tmp_path: Path) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(2048, 2048), chunks=(512, 512), dtype="f4", compressors=None
    )
    data = values(2048, 2048)

    def write() -> None:
        array[...] = data

    with config.set(threads=2):
        write()
        assert peak_nbytes(write) < 2 * MIB + MIB // 2


@pytest.mark.parametrize("compressors", [None, [ZstdCodec(level=-5).to_dict()]])
def test_a_shard_is_not_held_in_memory(compressors: Any, tmp_path: Path) -> None:
    array = zarr_gpu.create_array(
        tmp_path / "a", shape=(4096, 1024), chunks=(64, 64), shards=(4096, 1024), dtype="u4",
        compressors=compressors,
    )  # fmt: skip
    data = np.random.default_rng(0).integers(1, 2**32, (4096, 1024), "u4")

    def write() -> None:
        array[...] = data

    with config.set(threads=1):
        write()
        assert peak_nbytes(write) < 5 * MIB


# -- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shards, expected", [(1, [2]), (2, [1, 1]), (3, [1, 1, 2]), (4, [1] * 4), (5, [1] * 4 + [2])]
)
def test_the_last_shards_are_encoded_by_all_threads(
    shards: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    genuine = ShardWriteJob.write_shard

    def write_shard(self: Any, where: Any, ranges: Any, threads: int) -> None:
        used.append(threads)
        genuine(self, where, ranges, threads)

    monkeypatch.setattr(ShardWriteJob, "write_shard", write_shard)
    array = zarr_gpu.create_array(
        {}, shape=(shards * 512, 512), chunks=(64, 512), shards=(512, 512), dtype="f4"
    )
    with config.set(threads=2):
        array[...] = values(shards * 512, 512)
    assert sorted(used) == expected
    np.testing.assert_array_equal(array[...], values(shards * 512, 512))


@pytest.mark.parametrize(
    "layout, slow, expected",
    [
        ({"chunks": (1, 1024), "compressors": None}, False, 1),
        ({"chunks": (8, 1024), "compressors": None}, False, 2),
        ({"chunks": (1, 1024), "compressors": None}, True, 2),  # storing takes long
        ({"chunks": (1, 1024)}, False, 1),
        ({"chunks": (1, 1024)}, True, 2),
        ({"chunks": (8, 1024)}, False, 2),
        ({"chunks": (1, 1024), "shards": (256, 1024), "compressors": None}, False, 2),
        ({"chunks": (1, 1024), "shards": (256, 1024)}, False, 1),
        ({"chunks": (1, 1024), "shards": (256, 1024)}, True, 2),
        ({"chunks": (4, 1024), "shards": (256, 1024)}, False, 2),
    ],
)
def test_small_chunks_are_written_by_one_thread_unless_encoding_takes_long(
    layout: dict[str, Any], slow: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6)) if slow else iter(lambda: 0, 1)
    monkeypatch.setattr(host_write_blocks, "perf_counter", lambda: next(clock))
    found: list[int] = []
    genuine = workers.run

    def run(task: Any, items: Any, threads: int) -> None:
        found.append(threads)
        genuine(task, items, threads)

    monkeypatch.setattr(workers, "run", run)
    array = zarr_gpu.create_array({}, shape=(1024, 1024), dtype="f4", **layout)
    with config.set(threads=2):
        array[...] = values(1024, 1024)
    assert max(found) == expected
    np.testing.assert_array_equal(array[...], values(1024, 1024))


@pytest.mark.parametrize("location", ["start", "end"])
def test_shards_have_the_same_bytes_however_many_threads_make_them(location: str) -> None:
    data = values(700, 500)
    data[100:300] = 0
    made = []
    for threads in (1, 2, 5):
        store: dict[str, bytes] = {}
        array = zarr_gpu.create_array(
            store, shape=(700, 500), chunks=(10, 50), dtype="f4", fill_value=0,
            shards={"shape": (400, 500), "index_location": location},
        )  # fmt: skip
        with config.set(threads=threads):
            array[...] = data
        made.append(store)
    assert made[0] == made[1] == made[2]
    np.testing.assert_array_equal(zarr_gpu.open_array(made[0], mode="r")[...], data)


# -- the same as row by row --------------------------------------------------------------------


LAYOUTS: dict[str, dict[str, Any]] = {
    "raw": {"chunks": (4, 5), "compressors": None},
    "zstd": {"chunks": (4, 5)},
    "one chunk": {"chunks": (23, 31)},
    "elements": {"chunks": (1, 1), "compressors": None},
    "crc32c": {"chunks": (4, 5), "compressors": [{"name": "crc32c"}]},
    "big-endian": {
        "chunks": (4, 5), "compressors": None,
        "serializer": {"name": "bytes", "configuration": {"endian": "big"}},
    },
    "big-endian slabs": {
        "chunks": (4, 31), "compressors": None,
        "serializer": {"name": "bytes", "configuration": {"endian": "big"}},
    },
    "transposed": {
        "chunks": (4, 5),
        "filters": [{"name": "transpose", "configuration": {"order": [1, 0]}}],
    },
    "v2": {"chunks": (4, 5), "zarr_format": 2, "order": "F"},
    "shards": {"chunks": (4, 5), "shards": (8, 15)},
    "raw shards": {"chunks": (4, 5), "shards": (8, 15), "compressors": None},
    "index first": {"chunks": (4, 5), "shards": {"shape": (8, 15), "index_location": "start"}},
    "raw, index first": {
        "chunks": (4, 5), "compressors": None,
        "shards": {"shape": (8, 15), "index_location": "start"},
    },
}  # fmt: skip
FILL = -0.0
BOXES: tuple[Any, ...] = (
    np.s_[...], np.s_[4:12, 5:25], np.s_[3:13], np.s_[:, 7], np.s_[5, 6], np.s_[2:20:3, ::2],
    np.s_[::-1, 3:], np.s_[20:, 30:], np.s_[8:16, 15:30], np.s_[4:8, 5:10],
)  # fmt: skip


def write_boxes(kwargs: dict[str, Any], *, missing: bool) -> tuple[dict[str, bytes], Any]:
    """Random boxes, some of fill values only, and what NumPy makes of the same."""
    rng = np.random.default_rng(5)
    store: dict[str, bytes] = {}
    array = zarr_gpu.create_array(store, shape=(23, 31), dtype="f4", fill_value=FILL, **kwargs)
    model = np.full((23, 31), FILL, "f4")
    for box in BOXES[1:] if missing else BOXES:
        part = rng.integers(1, 99, model[box].shape).astype("f4")
        for value in (part, np.array(part, order="F"), np.float32(FILL), part.astype(">f4")):
            array[box] = value
            model[box] = value
            assert array[...].tobytes() == model.tobytes(), box
    return store, array


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_write_what_rows_write(
    name: str, missing: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_write, "SERIAL_NBYTES", 1)
    monkeypatch.setattr(host_write, "SERIAL_RAW_NBYTES", 1)
    monkeypatch.setattr(host_write_blocks, "BLOCK_NBYTES", 400)
    with config.set(threads=threads):
        blocks, array = write_boxes(LAYOUTS[name], missing=missing)
        monkeypatch.setattr(BlockWriteJob, "usable", lambda _: False)
        rows, other = write_boxes(LAYOUTS[name], missing=missing)
    assert set(blocks) == set(rows)
    assert {k: len(v) for k, v in blocks.items()} == {k: len(v) for k, v in rows.items()}
    assert array.nchunks_initialized == other.nchunks_initialized
    if "shards" not in LAYOUTS[name]:
        assert blocks == rows


@pytest.mark.parametrize("name", LAYOUTS)
def test_fill_values_leave_nothing_unless_asked(name: str) -> None:
    store: dict[str, bytes] = {}
    array = zarr_gpu.create_array(
        store, shape=(23, 31), dtype="f4", fill_value=FILL, **LAYOUTS[name]
    )
    array[...] = 1
    array[...] = FILL
    assert not [key for key in store if not key.rpartition("/")[2].startswith((".z", "zarr"))]
    array[...] = 0.0  # other bits
    assert array.nchunks_initialized == array.nchunks
    with_empty = array.with_config({"write_empty_chunks": True})
    with_empty[...] = FILL
    assert array.nchunks_initialized == array.nchunks
    assert array[...].tobytes() == np.full((23, 31), FILL, "f4").tobytes()


def test_arrays_without_axes_are_written() -> None:
    for kwargs in ({"compressors": None}, {}):
        array = zarr_gpu.create_array({}, shape=(), dtype="i4", **kwargs)
        array[...] = 5
        assert array[()] == 5
        array[()] = 0
        assert array.nchunks_initialized == 0


@pytest.mark.parametrize("layout", [{"chunks": (4,)}, {"chunks": (2,), "shards": (4,)}])
@pytest.mark.parametrize("part", [slice(None), slice(4, 8), slice(5, 6)])
def test_failures_of_encoders_name_array_key_and_codec(
    layout: dict[str, Any], part: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr_gpu.create_array({}, name="g/a", shape=(8,), dtype="f4", **layout)
    array[...] = 1

    def fail(_self: Any, _data: Any) -> Any:
        raise CodecError("out of order", codec="zstd")

    monkeypatch.setattr(ZstdCodec, "encode", fail)
    with pytest.raises(ChunkEncodeError, match="out of order") as caught:
        array[part] = 2
    expected = "g/a/c/0" if part == slice(None) else "g/a/c/1"
    assert (caught.value.array, caught.value.key, caught.value.codec) == ("g/a", expected, "zstd")
    monkeypatch.undo()
    assert (array[...] == 1).all()


# -- appends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document, expected",
    [
        (b'{"shape": [3, 4]}', b'{"shape": [5, 4]}'),
        (b'{"a": 1,\n "shape" :[\n  3,\n  4\n ], "b": 2}', None),
        (b'{"shape": [3, 4], "attributes": {"shape": [3, 4]}}', None),
        (b'{"shape": [3, 4], "attributes": {"a": "\\n"}}', None),
        (b'{"shape": [3, 5]}', None),
        (b'{"shape": [3, 4, 1]}', None),
        (b'{"shape": [-3, 4]}', None),
        (b'{"Shape": [3, 4]}', None),
        (b'{"my_shape": [3, 4]}', None),
        (b"{}", None),
    ],
)
def test_only_a_shape_that_is_found_at_once_is_replaced(
    document: bytes, expected: bytes | None
) -> None:
    if b"\n" in document:
        expected = document.replace(b"3,", b"5,")
    assert reshaped(document, (3, 4), (5, 4)) == expected


@pytest.mark.parametrize("attributes", [{}, {"shape": [4, 6]}, {"a": 'b"shape": [4, 6]\\'}])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_appends_keep_everything_but_the_length(
    attributes: dict[str, Any], zarr_format: Any
) -> None:
    store: dict[str, bytes] = {}
    array = zarr_gpu.create_array(
        store, shape=(4, 6), chunks=(3, 6), dtype="f4", zarr_format=zarr_format,
        attributes=attributes,
    )  # fmt: skip
    array[...] = values(4, 6)
    assert array.append(values(4, 6)) == (8, 6)
    again = zarr_gpu.open_array(store, mode="r")
    assert again.metadata == array.metadata
    assert (again.shape, again.attrs.asdict()) == ((8, 6), attributes)
    np.testing.assert_array_equal(again[...], np.concatenate([values(4, 6)] * 2))


def test_appends_overwrite_what_an_interrupted_one_left() -> None:
    store: dict[str, bytes] = {}
    array = zarr_gpu.create_array(store, shape=(5,), chunks=(4,), dtype="f4", fill_value=0)
    array[...] = 1
    document = store["zarr.json"]
    array.append(np.full(20, 9.0))
    store["zarr.json"] = document  # as if it had been killed before the last step
    array = zarr_gpu.open_array(store, mode="r+")
    array.append(np.zeros(4))
    np.testing.assert_array_equal(array[...], [1] * 5 + [0] * 4)
    array.append(values(3))
    np.testing.assert_array_equal(array[...], [1] * 5 + [0] * 4 + [1, 2, 3])


@pytest.mark.parametrize("shards", [None, ()])
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_chunk_without_axes_keeps_zeros_at_the_end_of_text(shards, compressors):
    """NumPy's scalars of fixed-length bytes lose them."""
    array = zarr_gpu.create_array(
        {}, shape=(), chunks=(), shards=shards, dtype="S3", compressors=compressors
    )
    array[...] = np.array(b"42", "S3")
    out = np.full((), b"xxx", "S3")
    array.read(..., out=out)
    assert out.tobytes() == b"42\0"
