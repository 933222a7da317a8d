import gzip
import threading
import zlib

import numcodecs
import numpy as np
import pytest

from tests.codecs.checks import (
    FIELD,
    check_bounded,
    check_config,
    check_mutants,
    check_numcodecs,
    check_round_trip,
    check_truncation,
    check_wrong_sizes,
    each_sample,
)
from zarr_gpu.codecs import _native
from zarr_gpu.codecs import gzip as module
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.gzip import GzipCodec
from zarr_gpu.errors import CodecError


@pytest.fixture(params=["libdeflate", "isal", "zlib"])
def library(request, monkeypatch):
    lib = zlib
    if request.param == "libdeflate" and _native.deflate() is None:
        pytest.skip("no libdeflate")
    monkeypatch.setattr(_native, "ENABLED", request.param == "libdeflate")
    if request.param == "isal":
        lib = pytest.importorskip("isal.isal_zlib")
    monkeypatch.setattr(module, "_library", lambda: lib)


@each_sample
@pytest.mark.parametrize("level", [-1, 0, 1, 5, 9])
def test_round_trip(library, data, level):
    check_round_trip(GzipCodec(level), data)


@each_sample
def test_numcodecs_reads_it_and_is_read(data):
    # Not identical: numcodecs writes the time of day into the header.
    check_numcodecs(GzipCodec(1), numcodecs.GZip(1), data, identical=False)


def test_two_encodings_are_identical_and_carry_no_time(library):
    encoded = GzipCodec().encode(FIELD)
    assert encoded[:3] == b"\x1f\x8b\x08"
    assert encoded[3:8] == bytes(5)  # no flags, no time
    assert encoded == GzipCodec().encode(FIELD)


def test_without_libdeflate_the_bytes_are_those_of_numcodecs(monkeypatch):
    monkeypatch.setattr(_native, "ENABLED", False)
    assert GzipCodec().encode(FIELD)[10:] == bytes(numcodecs.GZip(5).encode(FIELD))[10:]


rng = np.random.default_rng(3)
ORDINARY = {
    "field": (280 + rng.normal(0, 3, 20_000).astype("<f4")).view("<u4") & 0xFFFFFF00,
    "image": (600 + rng.normal(0, 25, 20_000)).astype("<u2"),
    "counter": np.cumsum(rng.integers(5, 9, 20_000)).astype("<i4"),
}


@pytest.mark.parametrize("level", [-1, *range(10)])
@pytest.mark.parametrize("data", ORDINARY.values(), ids=ORDINARY)
def test_libdeflate_makes_nothing_larger_than_zlib(data, level):
    if _native.deflate() is None:
        pytest.skip("no libdeflate")
    data = data.tobytes()
    encoded = GzipCodec(level).encode(data)
    assert encoded != zlib.compress(data, level, 31)
    assert len(encoded) <= 1.01 * len(zlib.compress(data, level, 31))


def test_an_encoder_is_for_one_level(library):
    levels = [1, 9, 1, 0, 5, 9]
    alone = []

    def encode(level):
        alone.append(GzipCodec(level).encode(FIELD))

    for level in levels:
        thread = threading.Thread(target=encode, args=(level,))
        thread.start()
        thread.join()
    assert [GzipCodec(level).encode(FIELD) for level in levels] == alone
    assert len(set(alone)) == 4


def test_without_room_zlib_encodes(monkeypatch):
    monkeypatch.setattr(_native.Deflate, "compress", lambda *args, **kwargs: 0)
    assert GzipCodec(7).encode(FIELD) == zlib.compress(FIELD, 7, 31)


@pytest.mark.parametrize("level", [0, 6])
@pytest.mark.parametrize("n", [1, 4999, 5001, 65_535, 65_536, 300_000])
def test_libdeflate_has_room_for_what_does_not_compress(monkeypatch, level, n):
    if _native.deflate() is None:
        pytest.skip("no libdeflate")
    monkeypatch.setattr(zlib, "compress", None)
    data = np.random.default_rng(n).bytes(n)
    assert GzipCodec(level).decode(GzipCodec(level).encode(data), Size(n)) == data


def test_header_with_name_and_comment_is_read(library):
    head = b"\x1f\x8b\x08\x18" + bytes(6) + b"name\0comment\0"
    assert GzipCodec().decode(head + gzip.compress(b"abc")[10:], Size(3)) == b"abc"


def test_several_members_are_one_chunk(library):
    data = gzip.compress(b"abc") + gzip.compress(b"") + gzip.compress(b"d") + bytes(8)
    assert GzipCodec().decode(data, Size(4)) == b"abcd"


def test_only_zeros_and_members_may_follow_the_last_byte(library):
    data = gzip.compress(b"abc")
    for rest in (bytes(3), gzip.compress(b"")):
        assert bytes(GzipCodec().decode(data + rest, Size(3))) == b"abc"
    for rest in (b"x", gzip.compress(b"d"), data[:-1]):
        with pytest.raises(CodecError):
            GzipCodec().decode(data + rest, Size(3))


@pytest.mark.parametrize("bit", [0x20, 0x40, 0x80])
def test_reserved_flags_are_refused(library, bit):
    stream = bytearray(GzipCodec().encode(b"abc"))
    stream[3] |= bit
    with pytest.raises(CodecError):
        GzipCodec().decode(stream, Size(3))


def test_checksum_of_a_header_is_compared(library):
    head = b"\x1f\x8b\x08\x02" + bytes(6)  # FHCRC: two bytes of CRC-32 follow
    body = gzip.compress(b"abc")[10:]
    good = head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + body
    assert bytes(GzipCodec().decode(good, Size(3))) == b"abc"
    with pytest.raises(CodecError):
        GzipCodec().decode(head + b"\1\2" + body, Size(3))


@pytest.mark.parametrize("at", [-8, -1], ids=["crc", "size"])
def test_trailer_is_verified(library, at):
    stream = bytearray(GzipCodec().encode(FIELD))
    stream[at] ^= 1
    with pytest.raises(CodecError):
        GzipCodec().decode(stream, Size(len(FIELD)))


def test_bad_streams_are_refused(library):
    encoded = GzipCodec().encode(FIELD[:2000])
    check_wrong_sizes(GzipCodec(), encoded, 2000)
    check_truncation(GzipCodec(), encoded, 2000)
    assert check_mutants(GzipCodec(), encoded, 2000) > 400


def test_bomb_stays_bounded(library):
    stream = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    bomb = b"".join(stream.compress(zeros) for _ in range(64)) + stream.flush()
    check_bounded(GzipCodec(), bomb, Size(12_000))


def test_configuration():
    check_config(GzipCodec(7))
    assert GzipCodec.from_config({}) == GzipCodec(5)
    assert GzipCodec.from_numcodecs({"id": "gzip"}) == GzipCodec(1)
    for level in (10, -1, True, "5", 1.0, None):
        with pytest.raises(ValueError, match="level"):
            GzipCodec.from_config({"level": level})
