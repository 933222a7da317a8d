"""Files read straight into device memory give what the host gives, and the host's errors.

KvikIO is a stand-in, of which ``package`` is one: see :mod:`tests.device.direct_reads`.
"""

import ctypes
import os
import sys
import threading
import warnings
from contextlib import suppress
from itertools import pairwise

import numcodecs
import numpy as np
import pytest

import zarr_gpu
from tests.device.direct_reads import direct_reads
from tests.device.emulated import EmulatedRuntime
from tests.device.fetching import fetcher_of, make_plan_of, wave_of
from tests.device.test_read import SELECTIONS, compare, field
from zarr_gpu.config import config
from zarr_gpu.device import direct, fetch, kvikio, policy
from zarr_gpu.device.direct import MAX_GAP, PAGE
from zarr_gpu.device.read import DeviceRead
from zarr_gpu.errors import (
    ChunkDecodeError,
    ChunkNotFoundError,
    DeviceFallbackWarning,
    MissingDependencyError,
    StoreError,
)
from zarr_gpu.fetching import LOCAL_GAP
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.zip import ZipStore

CRC = {"name": "crc32c"}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}
TURNED = {"name": "transpose", "configuration": {"order": [1, 0]}}
NESTED = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [4, 4],
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    },
}
ARRAYS = {
    "raw": {},
    "bytes": {"dtype": "u1"},
    "big-endian": {"serializer": BIG},
    "transposed": {"filters": [TURNED]},
    "big-endian, transposed": {"filters": [TURNED], "serializer": BIG},
    "crc32c": {"compressors": [CRC]},
    "two checksums": {"compressors": [CRC, {"name": "numcodecs.fletcher32"}]},
    "v2, F order": {"zarr_format": 2, "order": "F", "dtype": ">i2"},
    "v2, delta": {"zarr_format": 2, "dtype": "<i4", "filters": [numcodecs.Delta("<i4")]},
    "rectilinear": {"chunks": ((10, 20, 7), (4, 4, 12))},
    "shards": {"chunks": (5, 4), "shards": (20, 8)},
    "shards, index first": {
        "chunks": (5, 4),
        "shards": {"shape": (20, 8), "index_location": "start"},
        "compressors": [CRC],
    },
    "big-endian shards": {"chunks": (5, 4), "shards": (20, 8), "serializer": BIG},
    "shards inside shards": {"chunks": (8, 8), "shards": (16, 16), "serializer": NESTED},
}


@pytest.fixture(params=[0, 1])
def package(request, monkeypatch):
    with direct_reads(monkeypatch, seed=request.param) as package:
        yield package
        assert not package.by_the_host


def stored(path, name="raw", data=None, **more):
    """An array in files, of which some chunks are missing."""
    arguments = {"chunks": (10, 7), "compressors": None, "dtype": "<f4", **ARRAYS[name], **more}
    data = field() if data is None else data
    data = data.astype(arguments.pop("dtype"))
    array = zarr_gpu.create_array(LocalStore(path / "store"), data=data, fill_value=0, **arguments)
    if data.ndim == 2:
        array[8:21, 3:15] = 0
    return array


def outcome(work):
    """The result's bytes, or type and text of the error."""
    try:
        return np.asarray(work()).tobytes()
    except (ChunkDecodeError, ChunkNotFoundError, StoreError) as error:
        return type(error), str(error)


def on_device(array):
    device = array.to("cuda")
    return device._backend.runtime.to_host(device[...])


@pytest.mark.parametrize("name", ARRAYS)
def test_results_are_the_hosts(package, tmp_path, name):
    array = stored(tmp_path, name)
    compare(array)
    assert package.reads
    for select in SELECTIONS.values():
        if name != "rectilinear" or select is not SELECTIONS["blocks"]:
            compare(array, select)


def test_a_field_of_a_structure(package, tmp_path):
    data = np.zeros((20, 6), [("a", "<i2"), ("b", ">f8")])
    data["a"] = np.arange(120).reshape(20, 6)
    data["b"] = data["a"] / 3
    array = zarr_gpu.create_array(LocalStore(tmp_path), data=data, chunks=(7, 4), compressors=None)
    compare(array, lambda a: a["b"])
    compare(array, lambda a: a["a", ::2, 1:])
    assert package.reads


@pytest.mark.parametrize("name", ["raw", "crc32c", "shards"])
def test_many_batches_one_behind_the_other(monkeypatch, tmp_path, name):
    array = stored(tmp_path, name, field((100, 60)))
    with direct_reads(monkeypatch, seed=3, settings={"gpu.wave_nbytes": 1000}) as package:
        compare(array)
        compare(array, SELECTIONS["step"])
        assert len(package.opened) > 10


# -- what is wrong with files ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raw", "crc32c", "shards", "shards, index first"])
def test_faults_are_told_in_the_words_of_the_host(package, tmp_path, name):
    array = stored(tmp_path, name)
    path = tmp_path / "store/c/0/0"
    good = path.read_bytes()
    for data in (
        good[:-1], good + b"\0", b"", good + bytes(1 << 20), good[: len(good) // 2],
        good[:70] + bytes([good[70] ^ 1]) + good[71:], good[:-3] + b"\xff" + good[-2:],
    ):  # fmt: skip
        path.write_bytes(data)
        package.opened.clear()
        expected = outcome(lambda: array[...])
        assert outcome(lambda: on_device(array)) == expected
        if name in ("raw", "crc32c") and len(data) != len(good):
            assert expected[0] is ChunkDecodeError
            assert os.fspath(path) not in package.opened  # its size was wrong
    path.unlink()
    compare(array)


def test_inner_chunks_of_impossible_size(package, tmp_path):
    for name in ("shards", "shards, index first"):
        for number, change in enumerate((4, -4)):
            array = stored(tmp_path / f"{name}{number}", name, data=field() + 1000)
            layout = array._layout.levels.layouts[0]
            path = tmp_path / f"{name}{number}/store/c/0/0"
            data = bytearray(path.read_bytes())
            at = len(data) - layout.index_nbytes if layout.location == "end" else 0
            index = np.frombuffer(data[at : at + layout.index_nbytes - 4], "<u8").copy()
            index[1] = int(index[1]) + change
            checked = numcodecs.CRC32C(location="end").encode(index)
            data[at : at + layout.index_nbytes] = bytes(checked)
            path.write_bytes(data)
            expected = outcome(lambda array=array: array[...])
            assert issubclass(expected[0], ChunkDecodeError)
            assert outcome(lambda array=array: on_device(array)) == expected


@pytest.mark.parametrize("name", ["raw", "shards"])
def test_missing_chunks_may_be_errors(package, tmp_path, name):
    array = stored(tmp_path, name).with_config({"read_missing_chunks": False})
    expected = outcome(lambda: array[:20, :8])  # one object with one missing chunk
    assert expected[0] is ChunkNotFoundError
    assert outcome(lambda: array.to("cuda")[:20, :8]) == expected


@pytest.mark.parametrize("name", ["raw", "shards"])
def test_links_are_treated_as_on_the_host(package, tmp_path, name):
    array = stored(tmp_path, name)
    path = tmp_path / "store/c/0/0"
    outside, inside = tmp_path / "outside", tmp_path / "store/elsewhere"
    path.rename(inside)
    path.symlink_to(inside)
    compare(array)
    outside.write_bytes(inside.read_bytes())
    package.opened.clear()
    for make in (
        lambda: path.symlink_to(outside),
        lambda: path.symlink_to(tmp_path / "nowhere"),
        path.mkdir,
        lambda: os.mkfifo(path),
    ):
        with suppress(IsADirectoryError):
            path.unlink()
        if path.is_dir():
            path.rmdir()
        make()
        expected = outcome(lambda: array[...])
        assert issubclass(expected[0], StoreError)
        assert outcome(lambda: on_device(array)) == expected
    assert os.fspath(path) not in package.opened


@pytest.mark.parametrize("name", ["raw", "shards"])
def test_a_file_cut_short_while_it_is_read(package, tmp_path, name):
    array = stored(tmp_path, name)
    path = tmp_path / "store/c/0/0"
    package.before_read = lambda read: os.truncate(read, 10) if read == os.fspath(path) else None
    with pytest.raises(StoreError, match=r"c/0/0: asked for .* the file ended after"):
        on_device(array)


@pytest.mark.parametrize("name", ["raw", "shards"])
def test_a_file_replaced_after_its_first_opening_is_opened_again(package, tmp_path, name):
    """KvikIO opens twice: the second descriptor would be of the other file."""
    array = stored(tmp_path, name)
    key = os.fspath(tmp_path / "store/c/0/0")
    other = stored(tmp_path / "other", name, field(seed=5))

    def replace(path):
        if path == key and package.opened.count(key) == 1:
            array.store.set("c/0/0", other.store.get("c/0/0"))

    package.after_open = replace
    found = on_device(array)
    assert package.opened.count(key) == 2
    assert found.tobytes() == array[...].tobytes()


# -- what goes straight into device memory --------------------------------------------------------


def test_whole_pages_are_read_to_whole_pages(package, tmp_path):
    array = stored(
        tmp_path, "shards, index first", field((400, 96)), chunks=(50, 24),
        shards={"shape": (200, 48), "index_location": "start"},
    )  # fmt: skip
    compare(array)
    ends = {os.stat(path).st_size for path in package.opened}
    for address, size, offset in package.reads:
        assert address % PAGE == offset % PAGE == 0
        assert size % PAGE == 0 or offset + size in ends
    assert len(package.reads) < 2 * len(package.opened)  # inner chunks are read together


@pytest.mark.parametrize("gap", [0, 1, PAGE, MAX_GAP, MAX_GAP + 1, LOCAL_GAP])
@pytest.mark.parametrize("first", [0, 1, PAGE - 1])
def test_there_is_room_for_every_row_wherever_it_lies(package, tmp_path, monkeypatch, gap, first):
    rng = np.random.default_rng(gap)
    array = zarr_gpu.create_array(
        LocalStore(tmp_path), shape=(256, 96), chunks=(32, 32), shards=(128, 96), dtype="f4",
        compressors=None,
    )  # fmt: skip
    layout = array._layout
    wave, _ = wave_of(layout, make_plan_of(layout))
    data = rng.bytes(600_000)
    for key in wave.keys:
        array.store.set(key, data)
    files = direct.Fetch(package, fetcher_of(layout, array.store), wave, layout.levels.leaf)
    size = layout.levels.leaf.stored.limit
    assert size == PAGE
    offset = first + (size + gap) * rng.permutation(len(wave))
    offset[rng.random(len(wave)) < 0.1 * rng.integers(2)] = -1

    def ranges(layouts, reader, slots, key):
        number = wave.keys.index(key[1])
        some = offset[wave.first[number] : wave.first[number + 1]]
        return some, np.full(len(some), size)

    monkeypatch.setattr(direct, "inner_ranges", ranges)
    runtime = package.runtime
    memory = runtime.alloc(files.room, runtime.new_stream())
    runtime.synchronize()
    found = files.into_scratch(memory.ptr)
    for start, at in zip(offset.tolist(), found.tolist(), strict=True):
        assert (start < 0) == (at < 0)
        if start >= 0:
            assert ctypes.string_at(memory.ptr + at, size) == data[start : start + size]
    reads = sorted((address, address + n) for address, n, _ in package.reads)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(reads))


def aligned(shape, dtype, extra=0):
    """Memory of the device that begins on a page."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(nbytes + 2 * PAGE, np.uint8)
    first = -memory.ctypes.data % PAGE + extra
    return memory[first : first + nbytes].view(dtype).reshape(shape)


class TestIntoTheOutput:
    """Chunks of 64 KiB that are rows of the output."""

    @pytest.fixture
    def array(self, tmp_path):
        data = field((64, 2048)) + 10_000
        array = stored(tmp_path, "raw", data, chunks=(8, 2048))
        array[16:24] = 0
        return array

    def test_it_is_written_once_the_caller_is_done_with_it(self, package, array):
        out = aligned((40, 2048), "f4")
        before = []
        package.runtime._current.put(lambda: before.append(out.copy()))
        result = array.to("cuda").read(slice(8, 48), out=out)
        assert result is out
        package.runtime.synchronize()
        assert not before[0].any()
        assert out.tobytes() == array[8:48].tobytes()
        low = out.ctypes.data
        assert all(low <= address < low + out.nbytes for address, _, _ in package.reads)
        assert len(package.reads) == 4

    @pytest.mark.parametrize(
        "select",
        [slice(0, 64), slice(3, 11), slice(8, 24, 2), slice(63, None, -1)],
        ids=str,
    )
    @pytest.mark.parametrize("extra", [0, 512])
    def test_other_selections_and_alignments(self, package, array, select, extra):
        expected = array[select]
        out = aligned(expected.shape, "f4", extra)
        array.to("cuda").read(select, out=out)
        package.runtime.synchronize()
        assert out.tobytes() == expected.tobytes()
        assert all(address % PAGE == offset % PAGE == 0 for address, _, offset in package.reads)

    def test_not_from_shards(self, package, tmp_path):
        shards = {"shape": (16, 2048), "index_location": "start"}
        data = field((64, 2048)) + 10_000
        array = stored(tmp_path, "raw", data, chunks=(8, 2048), shards=shards)
        out = aligned((64, 2048), "f4")
        array.to("cuda").read(out=out)
        package.runtime.synchronize()
        assert out.tobytes() == array[...].tobytes()
        assert all(address % PAGE == offset % PAGE == 0 for address, _, offset in package.reads)

    @pytest.mark.parametrize("name", ["big-endian", "crc32c", "v2, delta"])
    def test_not_when_something_follows(self, package, tmp_path, name):
        data = np.arange(64 * 2048, dtype="i4").reshape(64, 2048) + 10_000
        array = stored(tmp_path, name, data, chunks=(8, 2048), dtype="<i4")
        out = aligned((64, 2048), "i4")
        array.to("cuda").read(out=out)
        package.runtime.synchronize()
        assert (out == array[...]).all()
        low = out.ctypes.data
        assert not any(low <= address < low + out.nbytes for address, _, _ in package.reads)


@pytest.mark.parametrize("selection", [slice(0, 30_000), slice(5, 30_000), slice(1024, 30_000)])
def test_parts_that_do_not_begin_on_a_page(package, tmp_path, selection):
    array = stored(tmp_path, "raw", np.arange(40_000), chunks=(32_768,))
    out = aligned((30_000 - selection.start,), "f4")
    array.to("cuda").read(selection, out=out)
    package.runtime.synchronize()
    assert out.tobytes() == array[selection].tobytes()
    assert all(address % PAGE == offset % PAGE == 0 for address, _, offset in package.reads)


@pytest.mark.parametrize("failing", [2, 3, 4])  # the first allocation is the output
def test_a_full_device(monkeypatch, tmp_path, failing):
    array = stored(tmp_path)
    with direct_reads(monkeypatch) as package:
        package.runtime.fail_allocation = failing
        compare(array)
        assert bool(package.by_the_host) == (failing == 2)


def test_an_interrupt_waits_for_reads_under_way(monkeypatch, tmp_path):
    array = stored(tmp_path, data=field((100, 60)))
    second, interrupted = threading.Event(), threading.Event()

    def send(self, batch, landed):
        assert second.wait(10)
        interrupted.set()
        raise KeyboardInterrupt

    def before_read(path):
        if len(package.opened) > 1000 // (10 * 7 * 4):  # more than are in the first wave
            second.set()
            interrupted.wait(10)

    with direct_reads(monkeypatch, settings={"gpu.wave_nbytes": 1000}) as package:
        monkeypatch.setattr(DeviceRead, "_send_landed", send)
        package.before_read = before_read
        with pytest.raises(KeyboardInterrupt):
            array.to("cuda")[...]
        assert package.open_files == 0


# -- the setting ----------------------------------------------------------------------------------


class Parts(LocalStore):
    """Objects that are the beginnings of files."""

    def locate(self, keys):
        found = super().locate(keys)
        found.nbytes[:] = 280
        return found


class TestSetting:
    def test_off_imports_nothing(self, monkeypatch, tmp_path):
        array = stored(tmp_path)
        with direct_reads(monkeypatch, setting="off") as package:
            monkeypatch.delitem(sys.modules, "kvikio")
            monkeypatch.setattr(kvikio, "load", None)
            monkeypatch.setattr(kvikio, "gds_reason", None)
            compare(array)
            assert package.by_the_host

    def test_auto_needs_a_machine_for_it(self, monkeypatch, tmp_path):
        array = stored(tmp_path)
        with direct_reads(monkeypatch, setting="auto") as package:
            monkeypatch.setattr(kvikio, "gds_reason", lambda: "no")
            monkeypatch.setattr(kvikio, "load", None)
            compare(array)
            assert package.by_the_host and not package.opened

    def test_auto_leaves_the_mode_to_the_user(self, monkeypatch, tmp_path):
        array = stored(tmp_path)
        with direct_reads(monkeypatch, setting="auto") as package:
            monkeypatch.setattr(kvikio, "gds_reason", lambda: None)
            compare(array)
            assert package.opened and not package.by_the_host
            assert package.defaults == {"compat_mode": "auto", "num_threads": kvikio.THREADS}

    def test_compat_can_be_taken_back(self, monkeypatch, tmp_path):
        array = stored(tmp_path)
        with direct_reads(monkeypatch) as package:
            monkeypatch.setattr(kvikio, "gds_reason", lambda: None)
            for setting, mode in [("compat", "on"), ("auto", "auto"), ("compat", "on")]:
                with config.set({"gpu.gds": setting}):
                    compare(array)
                    assert package.defaults["compat_mode"] == mode
            assert not package.by_the_host

    def test_compat_on_a_machine_without_gds_keeps_kvikio_from_cufile(self, monkeypatch, tmp_path):
        array = stored(tmp_path)
        with direct_reads(monkeypatch) as package:
            monkeypatch.setattr(kvikio, "gds_reason", lambda: "no")
            compare(array)
            assert package.opened and package.defaults["compat_mode"] == "on"

    def test_a_package_that_cannot_be_imported(self, monkeypatch, tmp_path):
        array = stored(tmp_path)
        with direct_reads(monkeypatch):
            monkeypatch.setitem(sys.modules, "kvikio", None)
            monkeypatch.setattr(kvikio, "gds_reason", lambda: None)
            with config.set({"gpu.gds": "auto"}):
                with pytest.warns(DeviceFallbackWarning, match="kvikio cannot be imported"):
                    compare(array)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    compare(array)  # once is enough
            with pytest.raises(MissingDependencyError, match=r"gpu\.gds is 'compat', but"):
                compare(array)

    def test_compressed_chunks_and_objects_that_are_no_files_come_by_way_of_the_host(
        self, monkeypatch, tmp_path
    ):
        arguments = {"data": field(), "chunks": (10, 7)}
        with direct_reads(monkeypatch) as package, ZipStore(tmp_path / "a.zip", "w") as archive:
            zstd = {"compressors": [{"name": "zstd"}]}
            compare(zarr_gpu.create_array(LocalStore(tmp_path / "zstd"), **arguments, **zstd))
            for store in (MemoryStore(), archive):
                compare(zarr_gpu.create_array(store, **arguments, compressors=None))
            parts = Parts(tmp_path / "parts")
            compare(zarr_gpu.create_array(parts, **arguments, compressors=None))
            assert len(package.by_the_host) == 4 and not package.opened

    def test_short_reads_come_by_way_of_the_host(self, monkeypatch, tmp_path):
        array = stored(tmp_path)
        with direct_reads(monkeypatch) as package:
            monkeypatch.setattr(policy, "READ_NBYTES", 281)  # a chunk has 280
            compare(array)
            assert package.by_the_host and not package.opened


@pytest.mark.gpu
def test_on_a_card(runtime, tmp_path, monkeypatch):
    if isinstance(runtime, EmulatedRuntime):
        pytest.skip("needs a card (pytest --runtime=cuda)")
    pytest.importorskip("kvikio")
    monkeypatch.setattr(policy, "READ_NBYTES", 1)
    monkeypatch.setattr(fetch.Fetcher, "fetch", None)  # nothing goes by way of the host
    with config.set({"gpu.gds": "compat"}):
        for name in ARRAYS:
            compare(stored(tmp_path / name, name))
        compare(stored(tmp_path, data=field((512, 4096)), chunks=(64, 4096)))
