"""Reading on the emulated device gives what the host gives, bit for bit."""

import gc
import os

import numcodecs
import numpy as np
import pytest

import zarr_gpu
from tests.device.devices import emulated
from zarr_gpu.device import detect
from zarr_gpu.errors import (
    ChecksumError,
    ChunkDecodeError,
    DeviceFallbackWarning,
    DeviceUnavailableError,
    UnsupportedError,
)
from zarr_gpu.stores.memory import MemoryStore

BLOSC = [
    {"name": "blosc", "configuration": {"cname": c, "clevel": 5, "shuffle": s, "blocksize": b}}
    for c, s, b in [
        ("lz4", "shuffle", 0),
        ("lz4", "bitshuffle", 512),
        ("lz4hc", "noshuffle", 0),
        ("blosclz", "shuffle", 1000),
        ("zlib", "shuffle", 512),
        ("zstd", "bitshuffle", 0),
        ("zstd", "shuffle", 256),
    ]
]
CHAINS = {
    "raw": [],
    "crc32c": [{"name": "crc32c"}],
    "zstd": [{"name": "zstd", "configuration": {"level": 1, "checksum": True}}],
    "zstd+crc32c": [{"name": "zstd"}, {"name": "crc32c"}],
    "crc32c+zstd": [{"name": "crc32c"}, {"name": "zstd"}],
    "gzip": [{"name": "gzip", "configuration": {"level": 3}}],
    "zlib": [{"name": "numcodecs.zlib"}],
    "lz4": [{"name": "numcodecs.lz4"}],
    "gdeflate": [{"name": "zarrs.gdeflate"}],
    "gdeflate+crc32c": [{"name": "zarrs.gdeflate"}, {"name": "crc32c"}],
    "shuffle+zstd": [
        {"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}},
        {"name": "zstd"},
    ],
    "fletcher32": [{"name": "numcodecs.fletcher32"}],
    **{"blosc-" + "-".join(map(str, b["configuration"].values())): [b] for b in BLOSC},
    "blosc+crc32c": [BLOSC[0], {"name": "crc32c"}],
    "shuffle+blosc": [{"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}}, BLOSC[0]],
}
SELECTIONS = {
    "everything": lambda a: a[...],
    "step": lambda a: a[1::3, ::2],
    "backwards": lambda a: a[::-2, 5:1:-1],
    "row": lambda a: a[7],
    "element": lambda a: a[3, 4],
    "empty": lambda a: a[3:3],
    "orthogonal": lambda a: a.oindex[[5, 1, 1, 30], [9, 0, 12]],
    "coordinate": lambda a: a.vindex[[5, 1, 1, 30], [9, 0, 12, 3]],
    "coordinates in two dimensions": lambda a: a.vindex[
        np.array([[5, 1], [30, 2]]), np.array([[9, 0], [12, 3]])
    ],
    "blocks": lambda a: a.blocks[1:3, 0],
}


def field(shape=(37, 20), dtype="<f4", seed=0):
    rng = np.random.default_rng(seed)
    data = np.cumsum(rng.integers(-3, 4, shape), axis=-1)
    return data.astype(dtype)


def stored(data, chunks=(10, 7), codecs=(), store=None, **more):
    return zarr_gpu.create_array(
        MemoryStore() if store is None else store,
        data=data,
        chunks=chunks,
        compressors=list(codecs) or None,
        **more,
    )


def compare(array, select=lambda a: a[...]):
    expected = select(array)
    device = array.to("cuda")
    found = device._backend.runtime.to_host(select(device))
    assert found.dtype == np.asarray(expected).dtype.newbyteorder("=")
    assert found.shape == np.shape(expected)
    assert found.tobytes() == np.asarray(expected).astype(found.dtype).tobytes()


@pytest.mark.parametrize("name", CHAINS)
def test_chains(runtime, name):
    array = stored(field(), codecs=CHAINS[name])
    compare(array)
    compare(array, SELECTIONS["step"])


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("chain", ["raw", "blosc-lz4-5-shuffle-0", "zstd"])
def test_selections(runtime, name, chain):
    compare(stored(field(), codecs=CHAINS[chain]), SELECTIONS[name])


@pytest.mark.parametrize("chain", ["raw", "blosc-zstd-5-shuffle-256", "zstd+crc32c"])
def test_shards(runtime, chain):
    array = stored(field(), chunks=(5, 4), codecs=CHAINS[chain], shards=(20, 8))
    for select in SELECTIONS.values():
        compare(array, select)


@pytest.mark.parametrize(
    "dtype",
    ["u1", "?", "<i2", ">i4", "<u8", ">f8", "<f2", "<c8", ">c16"],
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_types_and_orders(runtime, dtype, order, zarr_format):
    data = field(dtype="<i8").astype(dtype)
    extra = {"order": order} if zarr_format == 2 else {}
    filters = (
        None
        if zarr_format == 2 or order == "C"
        else [{"name": "transpose", "configuration": {"order": [1, 0]}}]
    )
    array = zarr_gpu.create_array(
        MemoryStore(), data=data, chunks=(10, 7), zarr_format=zarr_format, filters=filters,
        compressors=numcodecs.Blosc("lz4") if zarr_format == 2 else BLOSC[0], **extra,
    )  # fmt: skip
    compare(array)
    compare(array, SELECTIONS["backwards"])


@pytest.mark.parametrize("endian", ["little", "big"])
def test_missing_chunks_are_filled(runtime, endian):
    array = zarr_gpu.create_array(
        MemoryStore(), shape=(37, 20), chunks=(10, 7), dtype="<f8", fill_value=-1.5,
        serializer={"name": "bytes", "configuration": {"endian": endian}}, compressors=BLOSC[0],
    )  # fmt: skip
    array[12:18, 3:12] = 7
    for select in SELECTIONS.values():
        compare(array, select)


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (1, 1, 1), (3, 1, 4, 1, 5)])
def test_few_and_many_dimensions(runtime, shape):
    data = np.arange(int(np.prod(shape)), dtype="<i4").reshape(shape)
    compare(stored(data, chunks=tuple(max(1, n - 1) for n in shape), codecs=CHAINS["zstd"]))


def test_rectilinear_chunks(runtime):
    data = field()
    array = zarr_gpu.create_array(
        MemoryStore(), data=data, chunks=((10, 20, 7), (4, 4, 12)), compressors=BLOSC[0]
    )
    for select in SELECTIONS.values():
        if select is not SELECTIONS["blocks"]:
            compare(array, select)


V2_FILTERS = {
    "delta": [numcodecs.Delta("<i4")],
    "delta, narrow": [numcodecs.Delta("<i4", astype="<i2")],
    "fixed scale": [numcodecs.FixedScaleOffset(offset=10, scale=4, dtype="<i4", astype="<i2")],
    "shuffle": [numcodecs.Shuffle(4)],
    "delta and shuffle": [numcodecs.Delta("<i4"), numcodecs.Shuffle(4)],
    "astype": [numcodecs.AsType(encode_dtype="<i2", decode_dtype="<i4")],
}


@pytest.mark.parametrize("name", V2_FILTERS)
@pytest.mark.parametrize("compressor", [None, numcodecs.Zstd(), numcodecs.Blosc("lz4")])
def test_filters(runtime, name, compressor):
    array = zarr_gpu.create_array(
        MemoryStore(), data=field(dtype="<i4"), chunks=(10, 7), zarr_format=2,
        filters=V2_FILTERS[name], compressors=compressor,
    )  # fmt: skip
    compare(array)


def test_a_codec_without_a_device_step_is_decoded_on_the_host(runtime):
    array = stored(field(), codecs=[{"name": "numcodecs.bz2"}])
    with pytest.warns(DeviceFallbackWarning, match=r"bz2"):
        compare(array)
    compare(array)  # once is enough


def test_fields_of_structures(runtime):
    data = np.zeros((20, 6), [("a", "<i2"), ("b", ">f8")])
    data["a"] = np.arange(120).reshape(20, 6)
    data["b"] = data["a"] / 3
    array = stored(data, chunks=(7, 4), codecs=[BLOSC[0]])
    compare(array, lambda a: a["b"])
    compare(array, lambda a: a["a", ::2, 1:])
    with pytest.raises(UnsupportedError, match="field"):
        array.to("cuda")[...]


def test_times_are_integers(runtime):
    data = np.arange(40).astype("<M8[s]").reshape(8, 5)
    array = stored(data, chunks=(3, 3))
    device = array.to("cuda")
    found = runtime.to_host(device[...])
    assert found.dtype == np.int64
    assert (found.view("<M8[s]") == data).all()
    assert (np.asarray(device) == data).all() and np.asarray(device).dtype == data.dtype


def test_types_without_a_place_on_the_device(runtime):
    array = stored(np.array(["a", "bc"]), chunks=(1,))
    with pytest.raises(UnsupportedError, match="device='cpu'"):
        array.to("cuda")
    assert array.to("auto")[...].tolist() == ["a", "bc"]


class TestOut:
    def test_strided_memory_of_the_device(self, runtime):
        data = field()
        array = stored(data, codecs=[BLOSC[0]]).to("cuda")
        whole = np.zeros((40, 50), "<f4")
        out = whole[2:39, 40:0:-2]
        assert array.read(out=out) is out
        runtime.synchronize()
        assert (out == data).all()
        assert (whole[:, 1::2] == 0).all() and (whole[:2] == 0).all()

    def test_another_type(self, runtime):
        array = stored(field(), codecs=[BLOSC[0]]).to("cuda")
        out = np.zeros((37, 20), "<f8")
        array.read(out=out)
        runtime.synchronize()
        assert (out == field()).all()

    def test_a_type_that_would_lose(self, runtime):
        array = stored(field()).to("cuda")
        with pytest.raises(TypeError, match="cast"):
            array.read(out=np.zeros((37, 20), "<i4"))
        with pytest.raises(ValueError, match="shape"):
            array.read(out=np.zeros((37, 21), "<f4"))

    def test_points_in_an_output_that_cannot_be_reshaped(self, runtime):
        data = field()
        array = stored(data, codecs=[BLOSC[0]]).to("cuda")
        out = np.zeros((4, 4), "<f4")[::2, ::2]
        i, j = np.array([[5, 1], [30, 2]]), np.array([[9, 0], [12, 3]])
        array.get_coordinate_selection((i, j), out=out)
        runtime.synchronize()
        assert (out == data[i, j]).all()


class TestDamage:
    @pytest.mark.parametrize(
        "chain", ["zstd", "blosc-lz4-5-shuffle-0", "lz4", "gzip", "zlib", "crc32c"]
    )
    def test_the_hosts_error_is_raised(self, runtime, chain):
        store = MemoryStore()
        array = stored(field(), codecs=CHAINS[chain], store=store)
        key = "c/1/1"
        damaged = bytearray(store.get(key))
        damaged[len(damaged) // 2] ^= 0x55
        damaged[-1] ^= 0xFF
        store.set(key, bytes(damaged))
        with pytest.raises(ChunkDecodeError) as expected:
            array[...]
        with pytest.raises(ChunkDecodeError) as found:
            array.to("cuda")[...]
        assert str(found.value) == str(expected.value)
        assert type(found.value) is type(expected.value)

    def test_a_wrong_checksum_keeps_bytes_from_the_decoder(self, runtime):
        store = MemoryStore()
        array = stored(field(), codecs=CHAINS["zstd+crc32c"], store=store)
        damaged = bytearray(store.get("c/1/1"))
        damaged[20] ^= 1
        store.set("c/1/1", bytes(damaged))
        with pytest.raises(ChecksumError):
            array.to("cuda")[...]

    def test_formats_for_valid_data_only_are_not_given_to_the_device_from_strangers(self, runtime):
        def compare_untrusted(codecs):
            store = MemoryStore()
            store.trusted = False
            compare(stored(field(), codecs=codecs, store=store))

        compare_untrusted(CHAINS["zstd"])
        compare_untrusted([BLOSC[5]])
        assert not runtime.counts.decoded
        compare_untrusted(CHAINS["zstd+crc32c"])
        assert runtime.counts.decoded["zstd"]

    def test_out_of_memory_makes_waves_smaller(self, monkeypatch):
        data = field((200, 300))
        array = stored(data, chunks=(10, 10), codecs=[BLOSC[0]])
        with emulated(monkeypatch, memory_nbytes=900 << 10) as runtime:
            compare(array)
            assert runtime.counts.peak_nbytes <= 900 << 10

    def test_an_allocation_that_fails_once(self, runtime):
        array = stored(field(), codecs=[BLOSC[0]])
        runtime.fail_allocation = 2
        compare(array)

    def test_a_device_that_is_full(self, monkeypatch):
        array = stored(field((200, 300)), chunks=(200, 300), codecs=[BLOSC[0]])
        with (
            emulated(monkeypatch, memory_nbytes=300 << 10),
            pytest.raises(MemoryError, match="room"),
        ):
            array.to("cuda")[...]


def test_large_contiguous_chunks_are_copied_straight_into_the_output(runtime):
    data = field((64, 1024))
    compare(stored(data, chunks=(32, 1024)))
    assert "assemble" not in runtime.counts.launches


def test_small_requests_are_read_by_the_host(monkeypatch):
    array = stored(field(), codecs=[BLOSC[0]])
    with emulated(monkeypatch, settings={"gpu.min_nbytes": 1 << 20}) as runtime:
        for select in SELECTIONS.values():
            compare(array, select)
        assert "lz4_decode" not in runtime.counts.launches


def test_many_waves(monkeypatch):
    data = field((100, 60))
    array = stored(data, chunks=(7, 7), codecs=[BLOSC[0]])
    with emulated(monkeypatch, seed=5, settings={"gpu.wave_nbytes": 1000}) as runtime:
        compare(array)
        assert runtime.counts.launches["lz4_decode"] > 10


class TestExplain:
    def test_what_the_device_does(self, monkeypatch):
        array = stored(field(), codecs=[BLOSC[0], {"name": "crc32c"}])
        with emulated(monkeypatch):
            text = array.to("cuda").explain()
        assert "crc32c                 on cuda:0" in text
        assert text.endswith("device    cuda (cuda:0)")

    @pytest.mark.parametrize(
        "setting, reason",
        [
            ({"gpu.min_nbytes": 1 << 20}, "too few to be worth a device"),
            ({"gpu.min_streams": 1000}, "too few to keep a device busy"),
            ({"gpu.trust": "no"}, "not trusted"),
        ],
    )
    def test_why_the_host_does_it(self, monkeypatch, setting, reason):
        array = stored(field(), codecs=CHAINS["zstd"])
        with emulated(monkeypatch, settings=setting):
            text = array.to("cuda").explain()
            compare(array)
        assert "zstd                   on the host" in text
        assert reason in text

    def test_a_codec_that_the_device_does_not_have(self, monkeypatch):
        array = stored(field(), codecs=[{"name": "numcodecs.bz2"}])
        with emulated(monkeypatch):
            assert "'numcodecs.bz2' has no device step" in array.to("cuda").explain()


def test_opening_an_array_looks_for_no_device(monkeypatch):
    def look(device):
        raise AssertionError("this starts CUDA")

    monkeypatch.setattr(detect, "unavailable_reason", look)
    array = stored(field())
    assert array.to("auto").shape == (37, 20)


def test_a_forked_child_asks_again(runtime, monkeypatch):
    array = stored(field()).to("cuda")
    compare(array.to("cpu"))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    monkeypatch.setattr(detect, "unavailable_reason", lambda device: "this process was forked")
    with pytest.raises(DeviceUnavailableError, match="forked"):
        array[...]


def test_several_devices(monkeypatch):
    with emulated(monkeypatch) as first, emulated(monkeypatch, index=1, strict=True) as second:
        array = stored(field(), codecs=[BLOSC[0]])
        found = array.to("cuda:1")[...]
        assert (second.to_host(found) == field()).all()
        assert second.counts.launches and not first.counts.launches


def test_memory_of_waves_goes_without_the_garbage_collector(runtime):
    array = stored(field(), codecs=[BLOSC[0]]).to("cuda")
    gc.disable()
    try:
        before = runtime.used_nbytes
        result = array[...]
        runtime.synchronize()
        assert runtime.used_nbytes - before == result.nbytes
    finally:
        gc.enable()
