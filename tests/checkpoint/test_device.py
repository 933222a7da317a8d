"""Loads to a device, on the emulated one: nothing has run on a card."""

from __future__ import annotations

import os
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import zarr_gpu
from tests.device.devices import emulated
from tests.device.direct_reads import direct_reads
from zarr_gpu.backend import get_backend
from zarr_gpu.checkpoint import device_loading, safe_open, save_file
from zarr_gpu.checkpoint.device_loading import DeviceLoad
from zarr_gpu.checkpoint.verifying import row_checker
from zarr_gpu.device.direct import PAGE
from zarr_gpu.errors import CheckpointError, StoreError
from zarr_gpu.stores.tensor_files import open_tensor_files


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    found = {f"small.{i}": rng.integers(0, 99, (i, 3)).astype("i2") for i in range(40)}
    found["large"] = rng.standard_normal((300, 70)).astype("f4")
    found["odd"] = rng.integers(0, 255, 10_001).astype("u1")
    return found


@pytest.fixture
def opened(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(device_loading, "UNIT_NBYTES", 8192)
    monkeypatch.setattr(zarr_gpu.checkpoint.saving, "PIECE_NBYTES", 8192)
    save_file(tensors, tmp_path / "m.safetensors")
    files = open_tensor_files(zarr_gpu.stores.local.LocalStore(tmp_path), "m.safetensors")
    yield files
    files.close()


def engine_of(runtime):
    return get_backend(f"cuda:{runtime.device}").engine


def fetched(runtime, buffer, nbytes):
    stream = runtime.new_stream()
    target = runtime.pinned(max(1, nbytes))
    runtime.download(target[:nbytes], buffer.ptr, stream)
    stream.record().wait()
    return bytes(target[:nbytes])


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_all_bytes_reach_the_device(opened, tensors, monkeypatch, verify, threads):
    with emulated(monkeypatch, settings={"threads": threads}) as runtime:
        stream = runtime.new_stream()
        load = DeviceLoad(opened, engine_of(runtime), row_checker(opened) if verify else None)
        buffers = {}
        for name, values in tensors.items():
            buffers[name] = runtime.alloc(max(1, values.nbytes), stream)
            load.add(opened[name], buffers[name].ptr)
        load.run()
        for name, values in tensors.items():
            assert fetched(runtime, buffers[name], values.nbytes) == values.tobytes(), name


def test_some_tensors_reach_the_device_behind_earlier_work(opened, tensors, monkeypatch):
    """What lies between is left out, and what was queued on this memory before is done first."""
    with emulated(monkeypatch) as runtime:
        stream = runtime.current_stream()
        load = DeviceLoad(opened, engine_of(runtime))
        buffers = {}
        for name in list(tensors)[1::2]:
            nbytes = max(1, tensors[name].nbytes)
            buffers[name] = runtime.alloc(nbytes, stream)
            before = runtime.pinned(nbytes)
            before[:] = 0xEE
            runtime.upload(buffers[name].ptr, before, stream)
            load.add(opened[name], buffers[name].ptr)
        load.run()
        for name, buffer in buffers.items():
            values = tensors[name]
            assert fetched(runtime, buffer, values.nbytes) == values.tobytes(), name


def test_boxes_reach_the_device(opened, tensors, monkeypatch):
    with emulated(monkeypatch) as runtime:
        stream = runtime.new_stream()
        for box in (
            ((10, 200), (5, 60)),
            ((0, 300), (0, 70)),
            ((7, 1), (0, 70)),
            ((3, 0), (0, 70)),
        ):
            part = tensors["large"][tuple(slice(a, a + n) for a, n in box)]
            buffer = runtime.alloc(max(1, part.nbytes), stream)
            load = DeviceLoad(opened, engine_of(runtime))
            load.add_box(opened["large"], box, buffer.ptr)
            load.run()
            assert fetched(runtime, buffer, part.nbytes) == part.tobytes(), box


def test_damage_is_found_on_the_way_to_the_device(opened, tmp_path, monkeypatch):
    row = opened["large"].parts[0].row
    at = int(opened.offset[row]) + 20_000
    with (tmp_path / "m.safetensors").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    with emulated(monkeypatch) as runtime:
        buffer = runtime.alloc(300 * 70 * 4, runtime.new_stream())
        load = DeviceLoad(opened, engine_of(runtime), row_checker(opened))
        load.add(opened["large"], buffer.ptr)
        with pytest.raises(CheckpointError, match="'large': bytes") as caught:
            load.run()
        start, stop = map(int, str(caught.value).split("bytes ")[1].split(" ")[0].split(".."))
        assert start <= at < stop <= start + 8192


def test_a_file_that_is_cut_short_fails_and_gives_everything_back(opened, tmp_path, monkeypatch):
    (tmp_path / "m.safetensors").write_bytes(b"")
    with emulated(monkeypatch) as runtime:
        buffer = runtime.alloc(300 * 70 * 4, runtime.new_stream())
        load = DeviceLoad(opened, engine_of(runtime))
        load.add(opened["large"], buffer.ptr)
        with pytest.raises(StoreError):
            load.run()


def test_tensors_become_arrays_of_the_device(tmp_path, tensors, monkeypatch):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    tensors["bf16"] = np.arange(50).astype(ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "m.safetensors")
    with emulated(monkeypatch) as runtime:
        with safe_open(tmp_path / "m.safetensors", "cupy", "cuda:0", verify="full") as file:
            found = file.get_tensors()
            part = file.get_slice("large")[3:9, 10:20]
        for name, values in tensors.items():
            assert runtime.to_host(found[name]).tobytes() == values.tobytes(), name
            assert found[name].shape == values.shape
        assert runtime.to_host(part).tobytes() == tensors["large"][3:9, 10:20].tobytes()


def test_compressed_tensors_are_decoded_on_the_device(tmp_path, tensors, monkeypatch):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    save_file(tensors, tmp_path / "m.zarr", compression="zstd")
    with emulated(monkeypatch) as runtime:
        with safe_open(tmp_path / "m.zarr", "cupy", "cuda:0") as file:
            found = file.get_tensors(["large", "odd", "small.0", "small.7"])
            part = file.get_slice("large")[3:9, 10:20]
        for name, array in found.items():
            assert runtime.to_host(array).tobytes() == tensors[name].tobytes(), name
        assert runtime.to_host(part).tobytes() == tensors["large"][3:9, 10:20].tobytes()
        assert runtime.counts.launches


def load_paged(runtime, opened, tensors, check=None):
    """Each tensor to memory that begins with a page of the device; its bytes there."""
    stream = runtime.current_stream()
    load = DeviceLoad(opened, engine_of(runtime), check)
    kept, places = [], {}
    for name, values in tensors.items():
        buffer = runtime.alloc(values.nbytes + PAGE, stream)
        before = runtime.pinned(values.nbytes + PAGE)
        before[:] = 0xEE
        runtime.upload(buffer.ptr, before, stream)  # work that is under way
        places[name] = -(-buffer.ptr // PAGE) * PAGE
        load.add(opened[name], places[name])
        kept.append(buffer)
    load.run()
    for name, values in tensors.items():
        found = fetched(runtime, SimpleNamespace(ptr=places[name]), values.nbytes)
        assert found == values.tobytes(), name


@pytest.mark.parametrize("check", [False, True])
def test_whole_pages_go_past_the_host_unless_they_are_checked(opened, tensors, monkeypatch, check):
    with direct_reads(monkeypatch) as kvikio:
        paged = [n for n in tensors if int(opened.offset[opened[n].parts[0].row]) % PAGE == 0]
        load_paged(kvikio.runtime, opened, tensors, row_checker(opened) if check else None)
        assert "large" in paged
        past = 0 if check else sum(tensors[name].nbytes for name in paged)
        assert sum(n for _, n, _ in kvikio.reads) == past
        total = sum(values.nbytes for values in tensors.values())
        before = sum(values.nbytes + PAGE for values in tensors.values())
        assert kvikio.runtime.counts.uploaded_nbytes == before + total - past
        assert all((address | at) % PAGE == 0 for address, _, at in kvikio.reads)


def test_pages_of_a_file_that_was_replaced_are_not_mixed_with_its_header(
    opened, tensors, tmp_path, monkeypatch
):
    path = tmp_path / "m.safetensors"
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    other.replace(path)
    with direct_reads(monkeypatch) as kvikio:
        with pytest.raises(StoreError, match="was replaced after it was opened"):
            load_paged(kvikio.runtime, opened, tensors)
        path.unlink()
        with pytest.raises(StoreError, match="was deleted after it was opened"):
            load_paged(kvikio.runtime, opened, tensors)


def test_direct_reads_that_end_early_fail(opened, tensors, tmp_path, monkeypatch):
    with direct_reads(monkeypatch) as kvikio:
        kvikio.before_read = lambda path: os.truncate(path, 9000)
        with pytest.raises(StoreError, match="ended after"):
            load_paged(kvikio.runtime, opened, tensors)
