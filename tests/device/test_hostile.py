"""Damaged chunks: the device gives what the host gives, or leaves them to the host. Never garbage.

``damaged`` versions of one chunk lie side by side in one array, so that one read decodes hundreds
of them. Rows that the device vouches for must be what the host makes of the same bytes; all that
the host refuses must be among those it left to the host. Whole requests are compared too, with
their errors. ``-m slow`` makes ``ZG_HOSTILE`` versions (100,000 if not set), in batches.

One difference is accepted: bytes behind the end of a deflate stream may go unnoticed.
"""

from __future__ import annotations

import ctypes
import os
import random
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
import pytest

import zarr_gpu
from tests.device import devices
from tests.device import emulated as emulated_device
from tests.device.devices import emulated
from tests.device.ruled import Ruled
from tests.device.strategies import codec
from tests.kernels import build
from tests.reliability.damage import cases
from tests.reliability.layouts import LAYOUTS, PATH
from zarr_gpu.device.read import DeviceRead
from zarr_gpu.errors import ChunkError, ZarrGpuError
from zarr_gpu.stores.memory import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore::zarr_gpu.errors.DeviceFallbackWarning")

CHUNK = (16, 30)
CRC = codec("crc32c")


def blosc(cname, shuffle="shuffle", typesize=4, blocksize=0, clevel=5):
    members = {"cname": cname, "shuffle": shuffle, "typesize": typesize}
    return codec("blosc", **members, blocksize=blocksize, clevel=clevel)


@dataclass(frozen=True)
class Chain:
    """Arguments of ``create_array``."""

    arguments: dict[str, Any]
    loose: bool = False
    """Bytes behind the end of a stream may be ignored."""
    lz4: bool = False
    """The kernel takes blocks that end as no encoder ends them, which liblz4 refuses."""

    def create(self, n, **more):
        arguments = {"dtype": "<i4", "fill_value": 3, **self.arguments, **more}
        return zarr_gpu.create_array(
            MemoryStore(), shape=(n * CHUNK[0], CHUNK[1]), chunks=CHUNK, **arguments
        )


def v3(*codecs, loose=False, **more):
    lz4 = "lz4" in str(codecs)
    return Chain({"compressors": list(codecs) or None, **more}, loose, lz4)


def v2(compressor, *filters, **more):
    chain = {"zarr_format": 2, "compressors": compressor, "filters": list(filters) or None}
    return Chain({**chain, **more}, lz4=True)


SHUFFLE = codec("numcodecs.shuffle", elementsize=4)
CHAINS = {
    "crc32c": v3(CRC),
    "crc32 in front": v3(codec("numcodecs.crc32")),
    "adler32 behind": v3(codec("numcodecs.adler32", location="end")),
    "fletcher32": v3(codec("numcodecs.fletcher32")),
    "zstd": v3(codec("zstd", level=1)),
    "zstd with a checksum": v3(codec("zstd", level=9, checksum=True)),
    "zstd, crc32c": v3(codec("zstd"), CRC),
    "crc32c, zstd": v3(CRC, codec("zstd")),
    "gzip": v3(codec("gzip", level=5), loose=True),
    "gzip, stored": v3(codec("gzip", level=0), loose=True),
    "zlib": v3(codec("numcodecs.zlib"), loose=True),
    "shuffle, zlib": v3(SHUFFLE, codec("numcodecs.zlib", level=9), loose=True),
    "lz4": v3(codec("numcodecs.lz4")),
    "shuffle, lz4, fletcher32": v3(SHUFFLE, codec("numcodecs.lz4"), codec("numcodecs.fletcher32")),
    "gdeflate": v3(codec("zarrs.gdeflate"), loose=True),
    "lz4 in blosc": v3(blosc("lz4")),
    "lz4 in blosc, many blocks": v3(blosc("lz4", "bitshuffle", blocksize=256)),
    "lz4hc in blosc, not shuffled": v3(blosc("lz4hc", "noshuffle", 1)),
    "blosclz in blosc": v3(blosc("blosclz", blocksize=512, clevel=9)),
    "zlib in blosc": v3(blosc("zlib", blocksize=640), loose=True),
    "zstd in blosc": v3(blosc("zstd", "bitshuffle")),
    "blosc without compression": v3(blosc("lz4", clevel=0)),
    "blosc, crc32c": v3(blosc("lz4", typesize=2), CRC),
    "shuffle, blosc": v3(SHUFFLE, blosc("lz4", "noshuffle", blocksize=300)),
    "big-endian": v3(blosc("lz4"), serializer=codec("bytes", endian="big")),
    "transposed": v3(codec("zstd"), filters=[codec("transpose", order=[1, 0])]),
    "delta": v3(codec("numcodecs.lz4"), filters=[codec("numcodecs.delta", dtype="int32")]),
    "clamped": v3(
        codec("numcodecs.lz4"),
        filters=[codec("cast_value", data_type="float64", out_of_range="clamp")],
    ),
    "checked cast": v3(codec("numcodecs.lz4"), filters=[codec("cast_value", data_type="int64")]),
    "scaled": v3(codec("numcodecs.lz4"), filters=[codec("scale_offset", offset=5, scale=3)]),
    "astype": v3(
        codec("numcodecs.lz4"), filters=[codec("numcodecs.astype", encode_dtype="float64")]
    ),
    "packed bits": v3(codec("numcodecs.lz4"), filters=[codec("numcodecs.packbits")], dtype="?"),
    "booleans": v3(codec("numcodecs.lz4"), dtype="?"),
    "v2 blosc": v2(numcodecs.Blosc("lz4", shuffle=2)),
    "v2 filters": v2(
        numcodecs.LZ4(), numcodecs.Delta(">i4", astype=">i2"), numcodecs.Shuffle(2), dtype=">i4"
    ),
    "v2 fixed scale": v2(
        numcodecs.LZ4(), numcodecs.FixedScaleOffset(1, 4, "<f4", "<i4"), dtype="<f4"
    ),
    "v2 order F": v2(numcodecs.LZ4(), order="F", dtype="<c8"),
}


# -- damage ---------------------------------------------------------------------------------------


def versions(good, others, count, seed):
    """``count`` damaged copies of a stored chunk: first the systematic ones, then random ones."""
    rng = random.Random(seed)
    n = len(good)
    fixed = [good[:k] for k in {*range(min(20, n)), *range(0, n, max(1, n // 16)), n - 1, n - 4}]
    fixed += [*others, b"", good + b"\0", good + good, good[1:], bytes(n), b"\xff" * n]
    fixed += [good[:4] + good[8:], good[: n // 2] + others[0][n // 2 :], rng.randbytes(n)]
    rng.shuffle(fixed)
    yield from fixed[: count // 3]
    for _ in range(count - min(count // 3, len(fixed))):
        copy = bytearray(good)
        match rng.randrange(8):
            case 0:  # a number in a header
                at = rng.randrange(min(n, 24))
                number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, n, rng.randrange(4000)))
                copy[at : at + 4] = number.to_bytes(4, "little")
            case 1:
                at = rng.randrange(n)
                copy[at : at + 16] = rng.randbytes(16)
            case 2:
                at, length = rng.randrange(n), rng.randrange(1, 24)
                copy[at:at] = copy[at : at + length]
            case 3:
                at = rng.randrange(n)
                del copy[at : at + rng.randrange(1, 24)]
            case _:
                for _ in range(rng.choice((1, 1, 1, 2, 9))):
                    near = min(n, 32) if rng.random() < 0.4 else n
                    copy[rng.randrange(near)] ^= 1 << rng.randrange(8)
        yield bytes(copy)


def values(dtype, seed, n):
    rng = np.random.default_rng(seed)
    steps = rng.integers(-2, 4, (n * CHUNK[0], CHUNK[1]))
    field = np.cumsum(steps, axis=1) + 100 * rng.integers(0, 2, steps.shape)
    return (field % 3 == 0 if dtype == np.bool_ else field).astype(dtype)


def chunk_of(array, i):
    return np.asarray(array[i * CHUNK[0] : (i + 1) * CHUNK[0]])


class Left(DeviceRead):
    """Notes which rows are left to the host, and leaves them alone."""

    rows: set = set()

    def _batches(self, at, *, on_host):
        if on_host:
            Left.rows.update(at.tolist())
            return
        yield from super()._batches(at, on_host=False)


def fits(array, data):
    """Sizes that are wrong by themselves are seen on the host, before anything is sent."""
    size = array._layout.levels.leaf.stored
    return len(data) <= size.limit and size.check(len(data))


def check_versions(patch, chain, count, seed):
    """Good and damaged chunks in one read."""
    donor = chain.create(3)
    donor[...] = values(donor.dtype, seed, 3)
    keys = sorted(key for key in donor.store.list_prefix() if key[-1].isdigit())
    good, *others = (bytes(donor.store.get(key)) for key in keys)
    damaged = [good, *versions(good, others, count, seed)]
    damaged = [data for data in damaged if fits(donor, data)]
    array = chain.create(len(damaged))
    names = [array._layout.keys(np.array([[i, 0]]))[0] for i in range(len(damaged))]
    for name, data in zip(names, damaged, strict=True):
        array.store.set(name, data)
    Left.rows = set()
    out = np.full(array.shape, 85, array.dtype.newbyteorder("="))
    with emulated(patch, seed=seed, settings={"gpu.trust": "yes"}) as runtime:
        patch.setattr("zarr_gpu.device.backend.DeviceRead", Left)
        array.to("cuda").read(out=out)
        runtime.synchronize()
    strange = 0
    for i, data in enumerate(damaged):
        if i in Left.rows:
            assert i, "the good chunk"
            continue
        try:
            expected = chunk_of(array, i)
        except ChunkError:
            if chain.lz4 and not strange:
                strange += 1
                continue
            assert chain.loose, f"the host refuses number {i}: {data.hex()}"
            expected = values(donor.dtype, seed, 3)[: CHUNK[0]]
        found = chunk_of(out, i)
        assert found.tobytes() == expected.astype(found.dtype).tobytes(), (
            f"number {i}: {data.hex()}"
        )


class Poisoned(emulated_device.Memory):
    """Memory around which AddressSanitizer sees reads, too."""

    def __init__(self, *args):
        super().__init__(*args)
        library = ctypes.CDLL(None)
        self._allow = library.__asan_unpoison_memory_region
        forbid = library.__asan_poison_memory_region
        end = self.at + self.nbytes
        for at, stop in ((0, self.at), (end, len(self.array))):
            first = ctypes.c_void_p(self.array.ctypes.data + at)
            forbid(first, ctypes.c_size_t(stop - at))

    def __del__(self):
        self._allow(ctypes.c_void_p(self.array.ctypes.data), ctypes.c_size_t(len(self.array)))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setattr(devices, "_runtime", Ruled)
    if build.default_variant() == "asan":
        monkeypatch.setattr(emulated_device, "Memory", Poisoned)
    with zarr_gpu.config.set({"threads": 1, "io_threads": 1}):
        yield


@pytest.mark.parametrize("name", CHAINS)
def test_the_device_never_vouches_for_what_the_host_refuses(monkeypatch, name):
    check_versions(monkeypatch, CHAINS[name], 45, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_many_damaged_chunks(name):
    total = int(os.environ.get("ZG_HOSTILE", "100000")) // len(CHAINS)
    for seed in range(1, 2 + total // 300):
        with pytest.MonkeyPatch.context() as patch:
            check_versions(patch, CHAINS[name], 300, seed)


# -- whole requests -------------------------------------------------------------------------------


def outcome(read):
    """What a reader makes of it: its bytes, or the error."""
    try:
        return np.asarray(read()).tobytes()
    except (ZarrGpuError, MemoryError) as error:
        return type(error), str(error)


def check_requests(patch, layout, damaged):
    stored = layout.stored()
    with emulated(patch, settings={"gpu.trust": "yes"}) as runtime:
        for case in damaged:
            store = {**stored, layout.key: case.data}
            array = zarr_gpu.open_array(store, path=PATH, mode="r")
            device = array.to("cuda")
            for select in (..., np.s_[1:7:2, 5:0:-2], np.s_[6:10, 4:9]):
                expected = outcome(lambda: array[select])  # noqa: B023
                found = outcome(lambda: runtime.to_host(device[select]))  # noqa: B023
                loose = "gzip" in layout.name or "zlib" in layout.name
                if loose and case.name == "two streams too many":
                    continue
                if loose and found == layout.data[select].tobytes():
                    continue
                assert found == expected, f"{case.name}: {case.data.hex()}"


NUMBERS = [layout for layout in LAYOUTS if not layout.text and "bz2" not in layout.name]


@pytest.mark.parametrize("layout", NUMBERS, ids=str)
def test_requests_give_the_same_bytes_or_the_same_error(monkeypatch, layout):
    damaged = list(cases(layout, 8))
    check_requests(monkeypatch, layout, random.Random(layout.name).sample(damaged, 12))


@pytest.mark.slow
@pytest.mark.parametrize("layout", NUMBERS, ids=str)
def test_many_requests(layout):
    for seed in range(3):
        with pytest.MonkeyPatch.context() as patch:
            check_requests(patch, layout, cases(layout, 100, seed))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_under_a_sanitizer(variant):
    """With ``ZG_HOSTILE`` / 20 versions."""
    total = int(os.environ.get("ZG_HOSTILE", "100000"))
    code, text = build.run_sanitized(
        variant,
        ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=sys",
         "-m", "", "-k", "many_damaged or same_error", __file__],
        ZG_HOSTILE=str(total // 20),
    )  # fmt: skip
    assert code == 0, text[-20000:]
