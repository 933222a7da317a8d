"""Parts of chunks, decoded without decoding all: what they are, when they are worth it, damage."""

import base64
import struct
import zlib

import numpy as np
import pytest

from tests.codecs.checks import mutants
from tests.codecs.test_blosc import SNAPPY, many_blocks
from zarr_gpu.codecs import _native
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.blosc import SHUFFLES, BloscCodec, parse_container
from zarr_gpu.codecs.bz2 import BZ2Codec
from zarr_gpu.codecs.checksums import Crc32cCodec
from zarr_gpu.codecs.gzip import GzipCodec
from zarr_gpu.codecs.lz4 import LZ4Codec
from zarr_gpu.codecs.zlib import ZlibCodec
from zarr_gpu.codecs.zstd import ZstdCodec
from zarr_gpu.errors import CodecError

N = 600_000
FIELD = np.cumsum(np.random.default_rng(1).normal(size=N // 4)).astype("<f4")
DATA = (FIELD.view("<u4") & 0xFFFC0000).tobytes()  # noise, which all can make smaller
STREAMS = [ZstdCodec(1), ZstdCodec(1, checksum=True), LZ4Codec(), GzipCodec(1), ZlibCodec(1)]
each_stream = pytest.mark.parametrize("codec", STREAMS, ids=str)
needs_native = pytest.mark.skipif(_native.zstd() is None, reason="libraries are not exported")


def part(codec, encoded, offset, nbytes, n=N):
    return codec.decode_part(encoded, Size(n), offset, nbytes)


@each_stream
@needs_native
def test_streams_are_decoded_up_to_the_end_of_the_part(codec):
    encoded = bytes(codec.encode(DATA))
    for offset, nbytes in [(0, 1), (0, N // 2), (131_071, 2), (200_000, 99_999), (N // 2 - 1, 1)]:
        for data in (encoded, memoryview(bytearray(encoded)), memoryview(encoded)):
            found = part(codec, data, offset, nbytes)
            assert bytes(found) == DATA[offset : offset + nbytes]
            assert len(memoryview(found)) == nbytes
    # Where the stream ends is not looked at.
    assert part(codec, encoded[: len(encoded) * 3 // 4], 5, 10) == DATA[5:15]


@each_stream
def test_parts_of_streams_are_decoded_only_where_that_saves_half(codec):
    encoded = bytes(codec.encode(DATA))
    assert part(codec, encoded, N // 2, 1) is None
    assert part(codec, encoded, 0, N // 2 + 1) is None
    small = bytes(codec.encode(DATA[:200_000]))
    assert part(codec, small, 0, 1, n=200_000) is None
    assert codec.decode_part(encoded, Size(N, exact=False), 0, 1) is None


@each_stream
def test_damage_in_a_part_of_a_stream_is_refused_or_left_to_the_whole(codec):
    encoded = bytes(codec.encode(DATA))[:9000]  # the part is behind the end
    for damaged in [encoded, *mutants(encoded, 100)]:
        try:
            found = part(codec, damaged, 299_000, 100)
        except CodecError:
            continue
        assert found is None or len(found) == 100
    assert part_or_none(codec, encoded, 299_000, 100) is None


def part_or_none(codec, *args):
    try:
        return part(codec, *args)
    except CodecError:
        return None


def test_several_frames_are_left_to_the_whole():
    codec = ZstdCodec(1)
    frames = codec.encode(DATA[:1000]) + codec.encode(DATA[1000:])
    assert part(codec, frames, 0, 10) is None
    assert bytes(codec.decode(frames, Size(N))) == DATA


@pytest.mark.parametrize("codec", [BZ2Codec(), Crc32cCodec()], ids=lambda codec: codec.name)
def test_other_codecs_decode_all(codec):
    assert part(codec, codec.encode(DATA), 0, 10) is None


def test_without_the_libraries_all_is_decoded(monkeypatch):
    monkeypatch.setattr(_native, "ENABLED", False)
    for codec in (ZstdCodec(1), LZ4Codec(), BloscCodec(4, blocksize=4096)):
        assert part(codec, codec.encode(DATA), 0, 10) is None
    assert part(GzipCodec(1), zlib.compress(DATA, wbits=31), 7, 10) == DATA[7:17]


# -- Blosc -----------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("cname", ["blosclz", "lz4", "lz4hc", "zlib", "zstd"])
@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("typesize", [1, 3, 4, 8, 17])
def test_blocks_of_a_part_are_decoded(cname, shuffle, typesize):
    encoded = bytes(BloscCodec(typesize, cname, 5, shuffle, 32768).encode(DATA))
    header = parse_container(encoded)
    assert header.blocks > 1
    at = header.blocksize
    whole = N // typesize * typesize
    for offset, nbytes in [(0, 1), (at - 1, 2), (at, 10), (3, at // 2), (whole - 9, 9)]:
        found = part(BloscCodec(), encoded, offset, nbytes)
        if header.blocks > 2 or offset + nbytes <= at or offset >= at:
            assert bytes(found) == DATA[offset : offset + nbytes]
    assert part(BloscCodec(), encoded, 0, N) is None


@needs_native
@pytest.mark.parametrize("typesize", [3, 7, 17])
def test_bytes_behind_the_last_element_are_left_to_the_whole(typesize):
    data = DATA[: 30_000 * typesize + 1]
    encoded = BloscCodec(typesize, "zstd", 5, "shuffle", 4096).encode(data)
    n = len(data)
    assert part(BloscCodec(), encoded, n - 1, 1, n) is None
    assert bytes(part(BloscCodec(), encoded, n - 2, 1, n)) == data[-2:-1]
    assert bytes(BloscCodec().decode(encoded, Size(n))) == data


def test_stored_bytes_are_taken_as_they_are():
    noise = np.random.default_rng(0).bytes(5000)
    encoded = bytes(BloscCodec(4, "lz4").encode(noise))
    assert parse_container(encoded).stored
    assert bytes(part(BloscCodec(), encoded, 4990, 10, 5000)) == noise[4990:]


def test_one_block_is_decoded_as_a_whole():
    encoded = BloscCodec(4, "lz4").encode(DATA[:4000])
    assert parse_container(encoded).blocks == 1
    assert part(BloscCodec(), encoded, 0, 4, 4000) is None


def test_snappy_is_decoded_as_a_whole():
    encoded = base64.b85decode(SNAPPY["shuffle"])
    assert part(BloscCodec(), encoded, 0, 4, 2000) is None


@needs_native
def test_only_the_blocks_of_the_part_are_checked():
    encoded = bytearray(many_blocks(DATA[:200_000]))
    header = parse_container(encoded)
    offset = header.streams[-1][0]
    struct.pack_into("<i", encoded, offset - 4, -1)
    assert bytes(part(BloscCodec(), encoded, 5000, 10, 200_000)) == DATA[5000:5010]
    with pytest.raises(CodecError, match="wrong size"):
        part(BloscCodec(), encoded, 199_990, 10, 200_000)


def test_wrong_sizes_are_refused_in_parts_too():
    for codec in (BloscCodec(4, blocksize=4096), LZ4Codec()):
        encoded = bytes(codec.encode(DATA))
        with pytest.raises(CodecError, match="wrong decoded size"):
            part(codec, encoded, 0, 4, N + 1)


@needs_native
def test_damaged_containers_give_errors_or_bytes():
    refused = 0
    codec = BloscCodec(4, "zstd", 5, "shuffle", blocksize=4096)
    for damaged in mutants(codec.encode(DATA[:50_000]), 400):
        try:
            found = part(codec, damaged, 4000, 5000, 50_000)
        except CodecError:
            refused += 1
        else:
            assert found is None or len(found) == 5000
    assert refused > 50
