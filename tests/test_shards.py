"""What reading a shard costs: one index, once, and no more bytes than the gap allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.errors import ShardIndexError
from zarr_gpu.shards import IndexCache, index_cache
from zarr_gpu.stores import files
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import CountingStore

INDEX_NBYTES = 16 * 16 + 4


@pytest.fixture
def sharded() -> tuple[CountingStore, zarr_gpu.Array]:
    """One shard of 16 chunks of 1 KiB, uncompressed but for a checksum, so 1028 bytes each."""
    store = CountingStore(MemoryStore())
    array = zarr_gpu.create_array(
        store, shape=(16, 256), chunks=(1, 256), shards=(16, 256), dtype="i4",
        compressors=[{"name": "crc32c"}],
    )  # fmt: skip
    array[...] = np.arange(16 * 256).reshape(16, 256)
    index_cache.clear()
    store.clear()
    return store, array


def reads(store: CountingStore) -> list[int]:
    return [read.nbytes or 0 for read in store.reads]


def test_one_inner_chunk_costs_the_index_and_one_range(
    sharded: tuple[CountingStore, zarr_gpu.Array],
) -> None:
    store, array = sharded
    assert array[5, 7] == 5 * 256 + 7
    assert reads(store) == [INDEX_NBYTES, 1028]


def test_close_chunks_are_one_range_and_far_ones_are_not(
    sharded: tuple[CountingStore, zarr_gpu.Array],
) -> None:
    store, array = sharded
    near = array.with_config({"sharding_coalesce_max_gap_bytes": 4096})
    np.testing.assert_array_equal(near.oindex[[1, 3, 4], 0], [256, 3 * 256, 4 * 256])
    assert reads(store) == [INDEX_NBYTES, 4 * 1028]
    store.clear()
    far = array.with_config({"sharding_coalesce_max_gap_bytes": 0})
    np.testing.assert_array_equal(far.oindex[[1, 3, 4], 0], [256, 3 * 256, 4 * 256])
    assert reads(store) == [INDEX_NBYTES, 1028, 2 * 1028]
    store.clear()
    small = array.with_config({"sharding_coalesce_max_bytes": 3000})
    small[...]
    assert max(reads(store)) <= 3000


def test_an_index_is_read_once_for_each_version_of_a_shard(tmp_path: Path) -> None:
    store = CountingStore(LocalStore(tmp_path))
    array = zarr_gpu.create_array(
        store, shape=(8,), chunks=(1,), shards=(8,), dtype="i4", compressors=[{"name": "crc32c"}]
    )
    array[...] = 1
    store.clear()
    assert array[3] == 1
    assert array[4] == 1
    assert len(store.reads) == 3  # one index and two chunks
    array[...] = 2
    store.clear()
    assert array[3] == 2
    assert len(store.reads) == 2  # the new index


def test_missing_inner_chunks_cost_nothing_and_partial_writes_keep_the_others() -> None:
    store = CountingStore(MemoryStore())
    array = zarr_gpu.create_array(
        store, shape=(8,), chunks=(1,), shards=(8,), dtype="i4", fill_value=9
    )
    array[2] = 5
    array[6] = 7
    index_cache.clear()
    store.clear()
    np.testing.assert_array_equal(array[...], [9, 9, 5, 9, 9, 9, 7, 9])
    assert array.nchunks_initialized == 2
    array[2] = 9
    array[6] = 9
    assert not store.exists("c/0")


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_damaged_index_is_named(location: str) -> None:
    data: dict[str, Any] = {}
    array = zarr_gpu.create_array(
        data, shape=(4,), chunks=(1,), dtype="i4",
        shards={"shape": (4,), "index_location": location},
    )  # fmt: skip
    array[...] = 1
    shard = bytearray(data["c/0"])
    shard[3 if location == "start" else -10] ^= 1
    data["c/0"] = bytes(shard)
    with pytest.raises(ValueError, match="c/0") as caught:
        array[...]
    assert caught.value.key == "c/0"
    data["c/0"] = bytes(shard[:20])
    with pytest.raises(ShardIndexError, match="shorter than its index"):
        array[...]


def test_the_index_cache_is_bounded_and_forgets_the_oldest() -> None:
    cache = IndexCache(max_nbytes=4 * 160)
    indexes = [np.full((10, 2), i, np.uint64) for i in range(6)]
    for i, index in enumerate(indexes):
        cache.put(i, "version", index)
    assert cache.get(0, "version") is None
    assert cache.get(5, "version") is indexes[5]
    assert cache.get(5, "other") is None
    cache.put(5, None, indexes[0])
    assert cache.get(5, "version") is indexes[5]
    cache.put(7, "version", np.zeros((100, 2), np.uint64))
    assert cache.get(7, "version") is None


def reorder(path: Path, order: Any, gap: int) -> None:
    """Store the parts of a shard in another order, with ``gap`` bytes between them."""
    data = path.read_bytes()
    n = len(order)
    index = np.frombuffer(data, "<u8", 2 * n, len(data) - 16 * n - 4).reshape(n, 2).copy()
    parts = b""
    for number in order:
        offset, nbytes = index[number].tolist()
        if offset != 2**64 - 1:
            index[number, 0] = len(parts)
            parts += data[offset : offset + nbytes] + b"\xaa" * gap
    encoded = index.tobytes()
    path.write_bytes(parts + encoded + google_crc32c.value(encoded).to_bytes(4, "little"))


def z_order(side: int) -> list[int]:
    """Numbers in C order along a Z-order curve, as zarr-python stores inner chunks."""

    def spread(i: int) -> int:
        return sum((i >> b & 1) << 2 * b for b in range(8))

    numbers = [(spread(i) << 1 | spread(j), i * side + j) for i in range(side) for j in range(side)]
    return [number for _, number in sorted(numbers)]


@pytest.mark.parametrize("compressors", [None, [{"name": "zstd"}], [{"name": "gzip"}]])
@pytest.mark.parametrize("order", ["z", "random", "reversed"])
@pytest.mark.parametrize("missing", [0, 5])
@pytest.mark.parametrize("gap", [0, 3])
def test_inner_chunks_may_lie_in_any_order(
    tmp_path: Path, compressors: Any, order: str, missing: int, gap: int
) -> None:
    array = zarr_gpu.create_array(
        tmp_path, shape=(70, 64), chunks=(4, 4), shards=(64, 64), dtype="u2", fill_value=9,
        compressors=compressors,
    )  # fmt: skip
    values = np.random.default_rng(0).integers(0, 99, array.shape).astype("u2")
    for number in range(missing):
        values[4 * number : 4 * number + 4, 8:12] = 9
    array[...] = values
    orders = {"z": z_order(16), "reversed": range(256)[::-1]}
    orders["random"] = np.random.default_rng(1).permutation(256).tolist()
    for shard in ("c/0/0", "c/1/0"):
        reorder(tmp_path / shard, orders[order], gap)
    index_cache.clear()
    again = zarr_gpu.open_array(tmp_path, mode="r")
    for selection in ((...,), (slice(3, 66), slice(1, 60)), (slice(None), slice(None, None, 4))):
        np.testing.assert_array_equal(again[selection], values[selection])
    closely = again.with_config({"sharding_coalesce_max_gap_bytes": gap})
    reads: list[tuple[int, int]] = []
    read_into = files.FileReader.read_into

    def counting(self: Any, offset: int, out: memoryview) -> None:
        reads.append((offset, len(out)))
        read_into(self, offset, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.FileReader, "read_into", counting)
        np.testing.assert_array_equal(closely[...], values)
    if order == "z" and not missing and compressors == [{"name": "zstd"}]:
        size = sum((tmp_path / shard).stat().st_size - 4100 for shard in ("c/0/0", "c/1/0"))
        assert sum(nbytes for _, nbytes in reads) <= size
        assert len(reads) < 12  # of 272 chunks
