"""Checksums that compressed streams carry are compared on the device, as the host compares them."""

import struct
import zlib

import numpy as np
import pytest
import zstandard

import zarr_gpu
from tests.device.emulated import _DECODERS
from zarr_gpu.errors import ChunkDecodeError
from zarr_gpu.stores.memory import MemoryStore

SHAPE, CHUNK = (40, 40), (20, 20)
DATA = np.cumsum(np.random.default_rng(0).integers(-3, 4, SHAPE), axis=-1).astype("<f4")
KEY = "c/1/0"
PLACE = np.s_[20:40, 0:20]


# Each writes a valid stream of `content`, but with the checksum of `claimed`, and `flip` in it.


def raw_deflate(content):
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return stream.compress(content) + stream.flush()


def gzip(content, claimed, flip=0):
    trailer = struct.pack("<II", zlib.crc32(claimed) ^ flip, len(content))
    return bytes.fromhex("1f8b08000000000000ff") + raw_deflate(content) + trailer


def zlib_stream(content, claimed, flip=0):
    return b"\x78\x9c" + raw_deflate(content) + struct.pack(">I", zlib.adler32(claimed) ^ flip)


def zstd(content, claimed, flip=0, **options):
    writer = zstandard.ZstdCompressor(write_checksum=True, **options)
    written = int.from_bytes(writer.compress(claimed)[-4:], "little")
    return writer.compress(content)[:-4] + struct.pack("<I", written ^ flip)


def zstd_without_size(content, claimed, flip=0):
    return zstd(content, claimed, flip, write_content_size=False)


def zstd_frames(content, claimed, flip=0):
    """Frames that begin anywhere: one without a checksum, something to skip, two with one."""
    plain = zstandard.ZstdCompressor().compress(content[:701])
    skipped = bytes.fromhex("502a4d1803000000") + b"abc"
    first = zstd(content[701:1000], claimed[701:1000])
    return plain + skipped + first + zstd(content[1000:], claimed[1000:], flip)


def blosc(codec, write):
    def container(content, claimed, flip=0):
        half = len(content) // 2
        streams = [write(content[:half], claimed[:half])]
        streams.append(write(content[half:], claimed[half:], flip))
        first = 16 + 8
        starts = struct.pack("<ii", first, first + 4 + len(streams[0]))
        body = starts + b"".join(struct.pack("<i", len(s)) + s for s in streams)
        # One stream a block, not shuffled.
        flags = codec << 5 | 0x10
        return struct.pack("<BBBBiii", 2, 1, flags, 4, 2 * half, half, 16 + len(body)) + body

    return container


def codec(name, **configuration):
    return {"name": name, "configuration": configuration}


ZSTD = codec("zstd", level=1, checksum=True)
FORMATS = {  # codecs, writer, decoder and kernel that a read needs
    "gzip": (codec("gzip", level=6), gzip, "gzip", "checksum_make"),
    "zlib": (codec("numcodecs.zlib", level=6), zlib_stream, "deflate", "checksum_make"),
    "zstd": (ZSTD, zstd, "zstd", "xxh64"),
    "zstd without size": (ZSTD, zstd_without_size, "zstd", "xxh64"),
    "zstd frames": (ZSTD, zstd_frames, "zstd", "xxh64"),
    "blosc-zlib": (
        codec("blosc", cname="zlib", clevel=5, shuffle="noshuffle", typesize=4, blocksize=0),
        blosc(3, zlib_stream),
        "deflate",
        "checksum_make",
    ),
    "blosc-zstd": (
        codec("blosc", cname="zstd", clevel=5, shuffle="noshuffle", typesize=4, blocksize=0),
        blosc(4, zstd),
        "zstd",
        "xxh64",
    ),
}
each_format = pytest.mark.parametrize("name", FORMATS)


def bytes_at(place, data=DATA):
    return data[place].tobytes()


def different():
    """Other bytes in the last part of every format, as many."""
    data = DATA.copy()
    data[39, 19] += 1
    return bytes_at(PLACE, data)


def stored(name, chunk=None, codecs=(), wrap=bytes):
    """An array of chunks written by hand, one of them ``chunk``."""
    compressor, write, *_ = FORMATS[name]
    store = MemoryStore()
    array = zarr_gpu.create_array(
        store, shape=SHAPE, chunks=CHUNK, dtype="<f4", compressors=[compressor, *codecs]
    )
    for i in range(2):
        for j in range(2):
            content = bytes_at(np.s_[20 * i : 20 * i + 20, 20 * j : 20 * j + 20])
            store.set(f"c/{i}/{j}", wrap(write(content, content)))
    if chunk is not None:
        store.set(KEY, wrap(chunk))
    return array


def compare_errors(array):
    with pytest.raises(ChunkDecodeError) as expected:
        array[...]
    with pytest.raises(ChunkDecodeError) as found:
        array.to("cuda")[...]
    assert KEY in str(expected.value)
    assert str(found.value) == str(expected.value)
    assert type(found.value) is type(expected.value)


def check_work(runtime, name):
    """The device decoded, and compared."""
    *_, form, kernel = FORMATS[name]
    assert runtime.counts.decoded[form] >= 4
    assert runtime.counts.launches[kernel] == runtime.counts.launches["compare_sums"] == 1


@each_format
def test_right_checksums(runtime, name):
    array = stored(name)
    assert (array[...] == DATA).all()
    assert (runtime.to_host(array.to("cuda")[...]) == DATA).all()
    check_work(runtime, name)


@pytest.mark.parametrize("bit", [0, 31])
@each_format
def test_a_flipped_bit_in_the_checksum(runtime, name, bit):
    content = bytes_at(PLACE)
    compare_errors(stored(name, FORMATS[name][1](content, content, 1 << bit)))
    check_work(runtime, name)


@each_format
def test_a_valid_stream_of_something_else(runtime, name):
    compare_errors(stored(name, FORMATS[name][1](different(), bytes_at(PLACE))))
    check_work(runtime, name)


def crc32(chunk):
    return struct.pack("<I", zlib.crc32(chunk)) + chunk


@each_format
def test_a_right_checksum_around_a_wrong_one(runtime, name):
    outer = {"codecs": [{"name": "numcodecs.crc32"}], "wrap": crc32}
    assert (runtime.to_host(stored(name, **outer).to("cuda")[...]) == DATA).all()
    compare_errors(stored(name, FORMATS[name][1](different(), bytes_at(PLACE)), **outer))


def test_zstd_without_checksums(runtime):
    plain = zstandard.ZstdCompressor().compress
    array = stored("zstd", plain(bytes_at(PLACE)))
    assert (runtime.to_host(array.to("cuda")[...]) == DATA).all()
    store = array.store
    for key in ("c/0/0", "c/0/1", "c/1/1"):
        store.delete(key)
    launches = runtime.counts.launches["xxh64"]
    device = array.to("cuda")[...]
    assert (runtime.to_host(device)[PLACE] == DATA[PLACE]).all()
    assert runtime.counts.launches["xxh64"] == launches  # there was nothing to do


@pytest.mark.parametrize("write, form", [(gzip, "gzip"), (zstd, "zstd")])
def test_the_decoders_here_do_not_compare_themselves(write, form):
    assert _DECODERS[form](write(b"abc" * 9, b"else", 1), 27) == b"abc" * 9
