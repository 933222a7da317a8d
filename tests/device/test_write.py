"""Writing from the emulated device stores what every reader reads."""

import numpy as np
import pytest

import zarr_gpu
from tests.device.devices import emulated
from tests.device.test_read import field
from zarr_gpu.codecs.blosc import parse_container
from zarr_gpu.stores.memory import MemoryStore


def blosc(cname="lz4", shuffle="shuffle", **more):
    members = {"cname": cname, "clevel": 5, "shuffle": shuffle, **more}
    return {"name": "blosc", "configuration": members}


CHAINS = {
    "raw": [],
    "crc32c": [{"name": "crc32c"}],
    "zstd": [{"name": "zstd"}],
    "zstd+crc32c": [{"name": "zstd"}, {"name": "crc32c"}],
    "gzip": [{"name": "gzip"}],
    "zlib": [{"name": "numcodecs.zlib"}],
    "lz4": [{"name": "numcodecs.lz4"}],
    "gdeflate": [{"name": "zarrs.gdeflate"}],
    "shuffle+zlib": [
        {"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}},
        {"name": "numcodecs.zlib"},
    ],
    "blosc-lz4": [blosc()],
    "blosc-lz4-bits": [blosc(shuffle="bitshuffle", blocksize=600)],
    "blosc-lz4-none": [blosc(shuffle="noshuffle", blocksize=512)],
    "blosc-zstd": [blosc("zstd")],
    "blosc-zstd-bits": [blosc("zstd", "bitshuffle", blocksize=256), {"name": "crc32c"}],
}


def create(data, chunks=(10, 7), codecs=(), **more):
    arguments = {
        "shape": data.shape,
        "dtype": data.dtype,
        "chunks": chunks,
        "compressors": list(codecs) or None,
        **more,
    }
    return zarr_gpu.create_array(MemoryStore(), **arguments)


def check(array, data, select=...):
    """Write on the device, read with NumPy on the host."""
    device = array.to("cuda")
    device[select] = device._backend.runtime.array(data[select])
    assert (array[...] == data).all()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("shape", [(40, 21), (37, 20)])
def test_chains(runtime, chain, shape):
    data = field(shape)
    data[10:20, :7] = 0  # one chunk is not stored
    array = create(data, codecs=CHAINS[chain])
    check(array, data)
    assert runtime.counts.launches["assemble"]


@pytest.mark.parametrize("dtype", ["u1", "?", ">i2", "<f8", ">c16"])
@pytest.mark.parametrize("chain", ["raw", "blosc-lz4", "zstd"])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_types_and_orders(runtime, dtype, chain, order):
    data = field(dtype="<i8").astype(np.dtype(dtype).newbyteorder("="))
    endian = "big" if dtype[0] == ">" else "little"
    array = create(
        data,
        codecs=CHAINS[chain],
        filters=[{"name": "transpose", "configuration": {"order": order}}],
        serializer={"name": "bytes", "configuration": {"endian": endian}},
    )
    check(array, data)


@pytest.mark.parametrize("chain", ["raw", "blosc-lz4", "zstd+crc32c"])
def test_shards(runtime, chain):
    data = field()
    data[:20, :8] = 0
    array = create(data, chunks=(5, 4), shards=(20, 8), codecs=CHAINS[chain])
    check(array, data)
    assert "c/0/0" not in list(array.store.list_prefix())


def test_chunks_of_fill_values_are_not_stored(runtime):
    data = field()
    data[:10, :7] = 2.5
    array = create(data, codecs=[blosc()], fill_value=2.5)
    check(array, data)
    assert "c/0/0" not in list(array.store.list_prefix())
    with_all = array.with_config({"write_empty_chunks": True})
    check(with_all, data)
    assert "c/0/0" in list(array.store.list_prefix())


def test_a_chunk_that_became_empty_is_removed(runtime):
    data = field()
    array = create(data, codecs=[blosc()])
    check(array, data)
    data[:10, :7] = 0
    check(array, data)
    assert "c/0/0" not in list(array.store.list_prefix())


def test_parts_of_chunks_are_merged(runtime):
    data = field()
    array = create(data, codecs=[blosc()])
    check(array, data)
    data[5:33, 3:17] = -4
    check(array, data, (slice(5, 33), slice(3, 17)))
    data[::3, 1] = 9
    check(array, data, (slice(None, None, 3), 1))


def test_a_broadcast_and_another_type(runtime):
    array = create(field(), codecs=[blosc()]).to("cuda")
    array[...] = np.arange(20, dtype="<i8")
    assert (array.to("cpu")[...] == np.arange(20)).all()
    with pytest.raises(ValueError, match="broadcast"):
        array[...] = np.arange(21, dtype="<f4")


def test_backwards(runtime):
    data = field()
    array = create(data, codecs=[blosc()])
    array.to("cuda")[::-1] = data
    assert (array[...] == data[::-1]).all()


def test_bytes_that_do_not_compress_are_stored_as_they_are(runtime):
    data = np.random.default_rng(0).integers(0, 2**63, (64, 64))
    array = create(data, chunks=(64, 64), codecs=[blosc()])
    check(array, data)
    header = parse_container(array.store.get("c/0/0"))
    assert header.stored


def test_containers_have_many_streams(runtime):
    data = field((64, 1024), "<i4")
    array = create(data, chunks=(64, 1024), codecs=[blosc(blocksize=8192)])
    check(array, data)
    header = parse_container(array.store.get("c/0/0"))
    assert len(header.streams) == 4 * 32


def test_little_memory(monkeypatch):
    data = field((200, 300))
    array = create(data, codecs=[blosc()])
    with emulated(monkeypatch, memory_nbytes=900 << 10):
        check(array, data)


def test_no_memory_at_all(monkeypatch):
    data = field((200, 300))
    array = create(data, chunks=(200, 300), codecs=[blosc()])
    with emulated(monkeypatch, memory_nbytes=100 << 10):
        check(array, data)
