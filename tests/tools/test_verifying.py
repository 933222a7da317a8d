"""``verify`` finds what is damaged, names it, and reads on."""

import json
import math
import tracemalloc

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.errors import NodeNotFoundError
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.tools import verifying
from zarr_gpu.tools.verifying import verify

VALUES = np.arange(60 * 70, dtype="i4").reshape(60, 70)
CRC = [{"name": "crc32c"}]
LAYOUTS = {
    "zstd": {"chunks": (7, 9)},
    "raw": {"chunks": (7, 9), "compressors": None},
    "crc32c": {"chunks": (7, 9), "compressors": CRC},
    "shards": {"chunks": (5, 5), "shards": (20, 35), "compressors": CRC},
    "nested": {"chunks": (5, 5), "shards": (20, 35), "compressors": None},
    "v2 F": {"chunks": (7, 9), "zarr_format": 2, "order": "F"},
    "rectilinear": {"chunks": ((20, 40), (7, 63))},
}


def made(layout, path):
    array = zarr_gpu.create_array(path, shape=VALUES.shape, dtype="i4", **LAYOUTS[layout])
    array[...] = VALUES + 1
    return array


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [16 << 20, 1000])
def test_nothing_is_wrong(layout, block, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "BLOCK_NBYTES", block)
    array = made(layout, tmp_path / "a")
    found = verify(tmp_path / "a")
    assert found.ok
    assert (found.arrays, found.missing, found.stray, found.temporary) == (1, 0, [], [])
    assert found.nbytes == VALUES.nbytes
    assert found.objects == math.prod(len(sizes) for sizes in array.write_chunk_sizes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [16 << 20, 1000])
def test_every_damaged_chunk_is_named_and_the_others_are_read(layout, block, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "BLOCK_NBYTES", block)
    made(layout, tmp_path / "a")
    store = LocalStore(tmp_path / "a")
    keys = sorted(k for k in store.list_prefix() if not k.startswith((".z", "zarr.json")))
    bad = keys[::3]
    for key in bad:
        data = bytes(store.get(key))
        store.set(key, data[: len(data) // 2])
    found = verify(tmp_path / "a")
    assert sorted({problem.key for problem in found.problems}) == bad
    assert len(found.problems) == len(bad)
    assert 0 < found.nbytes < VALUES.nbytes
    json.dumps(found.to_dict())


def test_flipped_bits_are_found_by_checksums_inner_chunk_by_inner_chunk(tmp_path):
    made("shards", tmp_path / "a")
    file = tmp_path / "a/c/1/0"
    data = bytearray(file.read_bytes())
    for at in (10, 15, 1000):  # two in the same inner chunk of 104 bytes
        data[at] ^= 4
    file.write_bytes(data)
    found = verify(tmp_path / "a")
    assert [(p.key, p.kind, p.codec) for p in found.problems] == [
        ("c/1/0", "checksum", "crc32c")
    ] * 2
    assert found.nbytes == VALUES.nbytes - 2 * 5 * 5 * 4
    data[-1] ^= 1
    file.write_bytes(data)
    (problem,) = verify(tmp_path / "a").problems
    assert problem.kind in ("index", "checksum")


def test_uncompressed_chunks_of_a_wrong_length(tmp_path):
    made("raw", tmp_path / "a")
    for name, more in (("c/0/0", b"x"), ("c/8/7", b"")):
        file = tmp_path / "a" / name
        file.write_bytes((file.read_bytes() + more)[: None if more else -4])
    found = verify(tmp_path / "a")
    assert [(p.key, p.kind) for p in found.problems] == [("c/0/0", "size"), ("c/8/7", "size")]


def test_hierarchies(tmp_path):
    root = zarr_gpu.open_group(tmp_path / "h", mode="w")
    root.create_array("a", shape=(10,), chunks=(2,), dtype="f4")[:4] = 1
    root.create_array("x/b", data=np.ones(3))
    root.create_array("x/c", data=np.ones(3))
    (tmp_path / "h/x/c/zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    (tmp_path / "h/a/c/7").write_bytes(b"outside")
    (tmp_path / "h/notes.txt").write_text("mine")
    (tmp_path / "h/x/.zg-0123456789abcdef").write_bytes(b"left by a killed writer")
    found = verify(tmp_path / "h")
    assert (found.arrays, found.groups, found.objects, found.missing) == (2, 2, 3, 3)
    assert [(p.array, p.kind) for p in found.problems] == [("x/c", "metadata")]
    assert sorted(found.stray) == ["a/c/7", "notes.txt"]
    assert found.temporary == ["x/.zg-0123456789abcdef"]
    with pytest.raises(NodeNotFoundError):
        verify(tmp_path / "h", "nothing")


def test_few_chunks_of_a_huge_grid(tmp_path):
    array = zarr_gpu.create_array(tmp_path / "a", shape=(1 << 40,), chunks=(1 << 10,), dtype="u1")
    array[12345678] = array[1 << 39] = 1
    found = verify(tmp_path / "a")
    assert (found.objects, found.missing) == (2, (1 << 30) - 2)
    assert found.ok


def test_memory_is_bounded(tmp_path):
    data = np.zeros((32, 1 << 20), "u1")
    data[:, 0] = 1
    zarr_gpu.create_array(tmp_path / "a", data=data, chunks=(1, 1 << 20))
    verify(tmp_path / "a")
    tracemalloc.start()
    verify(tmp_path / "a")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 24 << 20


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_no_axes_and_no_elements(shape):
    store = {}
    zarr_gpu.create_array(store, shape=shape, dtype="f4")[...] = 1
    found = verify(store)
    assert found.ok
    assert found.objects == (1 if shape == () else 0)
