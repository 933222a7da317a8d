"""Headers of zstd, gzip, zlib, LZ4 and Snappy chunks of a wave: the streams, and what is bad."""

import gzip
import os
import struct
import zlib
from time import monotonic

import numcodecs
import numpy as np
import pytest

from tests.device.waves import (
    FIELD,
    LONG_FRAMES,
    ODD_FRAMES,
    SIZED,
    cut_short,
    skippable,
    wave,
    zstd_chunks,
)
from zarr_gpu.codecs import snappy as host_snappy
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.gzip import GzipCodec
from zarr_gpu.codecs.lz4 import LZ4Codec
from zarr_gpu.codecs.zlib import ZlibCodec
from zarr_gpu.codecs.zstd import ZstdCodec, read_frame_header
from zarr_gpu.device import frames
from zarr_gpu.errors import CodecError

COUNT = 300
SLOW_SECONDS = float(os.environ.get("ZG_FUZZ_SECONDS", "60"))  # of the long run


def streams_of(these, table, row):
    """The streams of a row: bytes, offset and size of the output."""
    return [
        (these.data[table.offset[i] :][: table.nbytes[i]].tobytes(), at, n)
        for i, at, n in zip(
            np.flatnonzero(table.row == row),
            table.out_offset[table.row == row].tolist(),
            table.out_nbytes[table.row == row].tolist(),
            strict=True,
        )
    ]


def run(parse, chunks, seed=0):
    """Per chunk: its streams, or None when it is bad."""
    return run_wave(parse, wave(chunks, seed))


def run_wave(parse, these):
    table, bad = parse(*these.columns)
    assert set(table.row.tolist()) == set(np.flatnonzero(~bad).tolist())
    assert (np.diff(table.row) >= 0).all()
    for column in (table.row, table.offset, table.nbytes, table.out_offset, table.out_nbytes):
        assert column.dtype == np.int64
    return [None if bad[row] else streams_of(these, table, row) for row in range(len(bad))]


def host_decodes(codec, chunk, expected):
    try:
        return bytes(codec.decode(chunk, Size(expected)))
    except CodecError:
        return None


# -- zstd -----------------------------------------------------------------------------------------


def blocks_end(chunk, at, largest):
    """Where the blocks of a frame end, least and most they decode to; None when they cannot be."""
    least = most = steps = last = 0
    while not last:
        header = int.from_bytes(chunk[at : at + 3], "little")
        last, kind, nbytes = header & 1, header >> 1 & 3, header >> 3
        if at + 3 > len(chunk) or kind == 3 or nbytes > largest:
            return None
        at += 3 + (1 if kind == 1 else nbytes)
        least += nbytes if kind < 2 else 0
        most += nbytes if kind < 2 else largest
        steps += 1
    return at, least, most, steps


def zstd_by_hand(chunk, expected):
    """The rules of :func:`frames.zstd` one chunk at a time, with the header reader of the host."""
    if not chunk or not expected:
        return None
    at, steps, found = 0, 0, []
    while at < len(chunk):
        try:
            frame = read_frame_header(chunk, at)
        except CodecError:
            return None
        if frame.skippable:
            at, steps = at + frame.header_nbytes, steps + 1
            continue
        single = chunk[at + 4] >> 5 & 1
        number = chunk[at + 6 - single :][: (0, 1, 2, 4)[chunk[at + 4] & 3]]
        walked = blocks_end(chunk, at + frame.header_nbytes, min(frame.window_nbytes, 128 << 10))
        if any(number) or not walked:
            return None
        end, least, most, blocks = walked
        end += 4 * frame.checksum
        found.append((chunk[at:end], frame.content_nbytes, least, most))
        at, steps = end, steps + blocks
    unknown = [i for i, (_, content, _, _) in enumerate(found) if content is None]
    rest = expected - sum(content or 0 for _, content, _, _ in found)
    if at != len(chunk) or len(unknown) > 1 or (rest and not unknown) or steps > frames.MAX_STEPS:
        return None
    result, out = [], 0
    for stream, content, least, most in found:
        size = rest if content is None else content
        if not least <= size <= most or size <= 0:
            return None
        result.append((stream, out, size))
        out += size
    return result


def check_zstd(chunks, seed=0):
    """All chunks of a wave; returns how many are good."""
    results = run(frames.zstd, chunks, seed)
    for (chunk, expected), streams in zip(chunks, results, strict=True):
        assert streams == zstd_by_hand(chunk, expected)
        host = host_decodes(ZstdCodec(), chunk, min(expected, 1 << 30))
        if streams is not None:
            # The frames decode one by one to what the chunk does, or one of them to an error.
            parts = [host_decodes(ZstdCodec(), stream, size) for stream, _, size in streams]
            assert host == (None if None in parts else b"".join(parts))
    return sum(streams is not None for streams in results)


@pytest.mark.parametrize("seed", range(4))
def test_zstd_same_as_one_by_one(seed):
    good = check_zstd(zstd_chunks(seed, COUNT), seed)
    assert 0.4 * COUNT < good < 0.9 * COUNT


@pytest.mark.slow
def test_zstd_same_as_one_by_one_for_long():
    """Runs for ``ZG_FUZZ_SECONDS``."""
    end, seed = monotonic() + SLOW_SECONDS, 1000
    while monotonic() < end:
        check_zstd(zstd_chunks(seed, COUNT), seed)
        seed += 1


GOOD = {
    "no size", "no size, repeated byte", "one of two without size", "size in 1 byte",
    "size in 2 bytes", "size in 4 bytes", "size in 8 bytes", "unused bit",
    "number 0 of a dictionary", "window of 128 MiB", "compressed block",
    "raw block as large as window", "checksum", "many blocks",
    "as many skippable frames as there may be",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_FRAMES)
def test_odd_frames(name):
    """Alone, so that the chunk ends where the buffer ends."""
    assert check_zstd([ODD_FRAMES[name]]) == (name in GOOD)


def test_frames_of_many_steps():
    assert check_zstd(list(LONG_FRAMES.values())) == len(LONG_FRAMES.keys() & GOOD) == 2


def test_zstd_as_codecs_write_it():
    for codec in (ZstdCodec(), ZstdCodec(19), ZstdCodec(-5, checksum=True)):
        for data in (FIELD, FIELD * 20, bytes(300_000), b"x"):
            chunk = codec.encode(data)
            assert run(frames.zstd, [(chunk, len(data))]) == [[(chunk, 0, len(data))]]


def test_zstd_frames_become_streams():
    chunk = skippable(3) + SIZED + skippable(0) + SIZED + SIZED + skippable(9)
    streams = [(SIZED, 0, 100), (SIZED, 100, 100), (SIZED, 200, 100)]
    assert run(frames.zstd, [(chunk, 300), (chunk, 301), (SIZED, 100)]) == [
        streams, None, streams[:1],
    ]  # fmt: skip


# -- gzip, zlib -----------------------------------------------------------------------------------


def inflate(stream, wbits):
    """What a decoder without checks of its own makes of a stream; None when it is not whole."""
    decoder = zlib.decompressobj(wbits)
    try:
        data = decoder.decompress(stream)
    except zlib.error:
        return None
    return data if decoder.eof and not decoder.unused_data else None


def test_gzip():
    data = FIELD[:5000]
    chunk = gzip.compress(data, 5)
    assert run(frames.gzip, [(chunk, 5000)] * 2) == [[(chunk, 0, 5000)]] * 2
    ((payload, at, size),) = run(frames.gzip_deflate, [(chunk, 5000)])[0]
    assert (inflate(payload, -15), at, size) == (data, 0, 5000)


GZIP = gzip.compress(b"abcdefgh" * 100, 5)
BAD_GZIP = {
    "nothing": (b"", 800),
    "nothing expected": (gzip.compress(b""), 0),
    "cut short": (GZIP[:-1], 800),
    "header only": (GZIP[:10], 800),
    "other magic": (b"\x1f\x8a" + GZIP[2:], 800),
    "other method": (GZIP[:2] + b"\x07" + GZIP[3:], 800),
    "more expected": (GZIP, 801),
    "two members": (GZIP + gzip.compress(b"x"), 801),
    "two equal members": (GZIP + GZIP, 1600),
    "padding": (GZIP + bytes(4), 800),
    "name": (GZIP[:3] + b"\x08" + GZIP[4:10] + b"name\0" + GZIP[10:], 800),
    **{f"flag {bit}": (GZIP[:3] + bytes([1 << bit]) + GZIP[4:], 800) for bit in range(1, 8)},
}


@pytest.mark.parametrize("name", BAD_GZIP)
def test_bad_gzip(name):
    for parse in (frames.gzip, frames.gzip_deflate):
        assert run(parse, [BAD_GZIP[name]]) == [None]
        assert [r is None for r in run(parse, [(GZIP, 800), BAD_GZIP[name]])] == [False, True]


def test_gzip_flag_that_means_nothing():
    assert run(frames.gzip, [(GZIP[:3] + b"\x01" + GZIP[4:], 800)]) != [None]


def test_gzip_size_is_modulo_four_gibibytes():
    assert run(frames.gzip, [(GZIP, 2**32 + 800)]) == [[(GZIP, 0, 2**32 + 800)]]


def test_zlib():
    data = FIELD[:5000]
    chunk = zlib.compress(data)
    ((payload, at, size),) = run(frames.zlib, [(chunk, 5000)])[0]
    assert (payload, at, size) == (chunk[2:-4], 0, 5000)
    assert inflate(payload, -15) == data
    assert run(frames.zlib, [(chunk[:7], 5000), (b"", 5), (zlib.compress(b""), 0)]) == [None] * 3


def test_zlib_headers():
    """All headers that could do, and many that could not: good where the host decodes."""
    data = bytes(range(20))
    chunk = zlib.compress(data)
    first = [*range(0x08, 0x80, 16), 0x77, 0x79, 0xF8]
    chunks = [(bytes([a, b]) + chunk[2:], 20) for a in first for b in range(256)]
    results = run(frames.zlib, chunks)
    host = [host_decodes(ZlibCodec(), chunk, 20) for chunk, _ in chunks[: 8 * 256]]
    assert [r is not None for r in results] == [h == data for h in host] + [False] * (3 * 256)


@pytest.mark.parametrize(
    ("parse", "codec", "wbits"),
    [(frames.zlib, ZlibCodec(), -15), (frames.gzip, GzipCodec(), 31)],
)
def test_what_the_host_refuses_is_bad_or_does_not_decode(parse, codec, wbits):
    rng = np.random.default_rng(0)
    chunks = []
    for _ in range(600):
        chunk = bytearray(codec.encode(FIELD[:400]))
        chunk[rng.integers(rng.choice([4, len(chunk)]))] ^= 1 << rng.integers(8)
        del chunk[int(rng.choice([len(chunk), rng.integers(len(chunk))], p=[0.8, 0.2])) :]
        chunks.append((bytes(chunk), 400))
    results = run(parse, chunks)
    assert 100 < sum(r is None for r in results) < 500
    for (chunk, _), streams in zip(chunks, results, strict=True):
        host = host_decodes(codec, chunk, 400)
        if streams is not None:
            data = inflate(streams[0][0], wbits)
            assert host in (data, None)
            assert host is not None or data is None or wbits < 0  # else the Adler-32 was wrong


# -- LZ4, Snappy ----------------------------------------------------------------------------------


def test_lz4():
    chunk = bytes(LZ4Codec().encode(FIELD))
    n = len(FIELD)
    prefix = struct.pack("<I", 2**31)
    chunks = [
        (chunk, n), (chunk, n + 1), (chunk[:4], n), (chunk[:3], n), (b"", n),
        (bytes(4) + b"\0", 0), (bytes(4), 0), (prefix + chunk[4:], 2**31),
    ]  # fmt: skip
    results = run(frames.lz4, chunks)
    assert results[0] == [(chunk[4:], 0, n)]
    assert results[1:] == [None] * 7
    assert [host_decodes(LZ4Codec(), *c) for c in chunks[1:5]] == [None] * 4
    assert numcodecs.LZ4().decode(chunk) == FIELD


def varint(value, nbytes):
    """A number in so many bytes of 7 bits, as many as wanted."""
    more = [0x80] * (nbytes - 1) + [0]
    return bytes((value >> 7 * k & 0x7F) | flag for k, flag in enumerate(more))


@pytest.mark.parametrize("value", [1, 127, 128, 300, 2**21, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("nbytes", range(1, 7))
def test_snappy_sizes(value, nbytes):
    """As the host reads them, in streams of all lengths."""
    full = varint(value, nbytes) + b"\0" * 3
    chunks = [(full[:n], value) for n in range(len(full) + 1)]
    for (chunk, _), result in zip(chunks, run(frames.snappy, chunks), strict=True):
        try:
            claimed, start = host_snappy._length(memoryview(chunk))
        except CodecError:
            claimed, start = None, 0
        good = claimed == value and len(chunk) > 1
        assert result == ([(chunk, 0, value)] if good else None)
        assert start <= 5


def test_chunks_cut_short():
    """Never good by bytes that lie behind them."""
    zstd = [skippable(3) + SIZED + ODD_FRAMES["no size"][0], ODD_FRAMES["size in 8 bytes"][0]]
    cases = [
        (frames.zstd, zstd[0], 200, {len(zstd[0])}),
        (frames.zstd, zstd[1], 100, {len(zstd[1])}),
        (frames.zstd, ZstdCodec(checksum=True).encode(FIELD), len(FIELD), None),
        (frames.gzip, GZIP, 800, {len(GZIP)}),
        (frames.snappy, varint(2**31, 5) + b"\0\0", 2**31, {5, 6, 7}),
        (frames.lz4, struct.pack("<I", 800) + b"\0\0", 800, {5, 6}),
        (frames.zlib, zlib.compress(b"a")[:10], 1, {8, 9}),
    ]
    for parse, chunk, expected, good in cases:
        results = run_wave(parse, cut_short(chunk, expected))
        good = {len(chunk)} if good is None else good
        assert {n for n, result in enumerate(results) if result is not None} == good


def test_snappy_bad_sizes():
    chunk = varint(300, 2) + bytes(5)
    big = varint(2**32, 5) + bytes(5)
    chunks = [(chunk, 299), (chunk, 2**32 + 300), (big, 2**32), (b"\0\0", 0), (b"\x01", 1)]
    assert run(frames.snappy, chunks) == [None] * 5
    assert run(frames.snappy, [(b"\xac\x82\x80\x80\x80\x00\0", 300)]) == [None]


# -- tables ---------------------------------------------------------------------------------------


def table_of(nbytes):
    n = len(nbytes)
    zeros = np.zeros(n, np.int64)
    return frames.StreamTable(np.arange(n), zeros, np.array(nbytes, np.int64), zeros, zeros)


def test_long_streams_start_first():
    rng = np.random.default_rng(0)
    nbytes = rng.integers(1, 50, 1000).tolist()
    order = frames.work_order(table_of(nbytes))
    assert order.tolist() == sorted(range(1000), key=lambda i: (-nbytes[i], i))
    assert frames.work_order(table_of([5, 2**31, 7, 2**40])).tolist() == [1, 3, 2, 0]
    assert frames.work_order(table_of([])).tolist() == []


def test_inner_streams():
    """Three streams in row 4, one in row 9; the second of row 4 becomes two."""
    chunks = [(SIZED, 100), (SIZED + SIZED, 200), (SIZED, 100), (SIZED, 100)]
    these = wave(chunks)
    row, at = np.array([4, 4, 4, 9]), np.array([0, 100, 300, 0])
    table = frames.StreamTable(row, these.offset, these.nbytes, at, these.expected)
    found, bad = frames.inner(frames.zstd, these.data, table)
    assert (found.row.tolist(), bad.tolist()) == ([4, 4, 4, 4, 9], [])
    assert found.out_offset.tolist() == [0, 100, 200, 300, 0]
    assert found.out_nbytes.tolist() == [100] * 5
    table.out_nbytes[1] -= 1
    found, bad = frames.inner(frames.zstd, these.data, table)
    assert (found.row.tolist(), bad.tolist()) == ([9], [4])


def test_strip_zlib():
    good, fdict = zlib.compress(FIELD[:100]), b"\x78\xbb" + bytes(20)
    these = wave([(good, 100), (good, 100), (fdict, 100)])
    table = frames.StreamTable(
        np.array([0, 1, 1]), these.offset, these.nbytes, np.zeros(3, np.int64), these.expected
    )
    found, bad = frames.strip_zlib(these.data, table)
    assert (found.row.tolist(), bad.tolist()) == ([0], [1])
    ((stream, _, _),) = streams_of(these, found, 0)
    assert inflate(stream, -15) == FIELD[:100]


@pytest.mark.parametrize(
    "parse", [frames.zstd, frames.gzip, frames.zlib, frames.lz4, frames.snappy]
)
def test_waves_without_bytes(parse):
    assert run(parse, []) == []
    assert run(parse, [(b"", 0), (b"", 5)]) == [None, None]
