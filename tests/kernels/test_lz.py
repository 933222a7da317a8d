"""Decoders of LZ4, BloscLZ and Snappy, and copies: what is decoded, and what is refused."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from numcodecs import lz4 as liblz4

from tests.codecs.checks import FIELD
from tests.kernels import lz_reference as ref
from tests.kernels.build import examples
from zarr_gpu.codecs.blosc import parse_container
from zarr_gpu.device import lz

OK, CORRUPT, WRONG_SIZE = ref.OK, ref.CORRUPT, ref.WRONG_SIZE
each_codec = pytest.mark.parametrize("codec", ref.CODECS)
each_schedule = pytest.mark.parametrize("schedule", ref.SCHEDULES)
EMPTY = {"lz4": b"\x00", "blosclz": b"", "snappy": b"\x00"}


def encode(codec, data, level=5):
    """Streams that the usual encoder makes of data, each with what it decodes to."""
    if codec == "lz4":
        return [(liblz4.compress(data, acceleration=level)[4:], data)]
    if codec == "snappy":
        return [(bytes(pytest.importorskip("cramjam").snappy.compress_raw(data)), data)]
    packed = blosc.compress(data, b"blosclz", level, shuffle=0, blocksize=0, typesize=1)
    header = parse_container(packed)
    if header.stored:
        return []
    parts = [data[i : i + header.blocksize] for i in range(0, len(data), header.blocksize)]
    streams = [packed[at : at + n] for at, n in header.streams]
    return [pair for pair in zip(streams, parts, strict=True) if len(pair[0]) != len(pair[1])]


def check_valid(codec, pairs, **how):
    streams = [stream for stream, _ in pairs]
    results = ref.run_decoder(codec, streams, [len(data) for _, data in pairs], **how)
    assert results == [(OK, len(data), data) for _, data in pairs]


# -- what encoders write --------------------------------------------------------------------------

SAMPLES = {
    "zeros": bytes(9_000),
    "field": FIELD[:6_000],
    "planes": np.frombuffer(FIELD[:8_000], np.uint8).reshape(-1, 4).T.tobytes(),
    "steps": (np.arange(3_000, dtype="<i4") // 70).tobytes(),
    "pattern": b"zarr chunk " * 400,
    "mixed": FIELD[:500] + bytes(2_000) + random.Random(0).randbytes(700) + FIELD[:900],
}


@each_schedule
@each_codec
def test_streams_of_encoders(codec, schedule):
    pairs = [
        pair for data in SAMPLES.values() for level in (1, 9) for pair in encode(codec, data, level)
    ]
    assert len(pairs) >= 8
    check_valid(codec, pairs, schedule=schedule)


PIECES = st.one_of(
    st.binary(min_size=1, max_size=50),
    st.builds(lambda piece, n: piece * n, st.binary(min_size=1, max_size=40), st.integers(2, 90)),
    st.integers(1, 1500).map(bytes),
    st.integers(0, 4000).map(lambda at: FIELD[at : at + 300]),
)


@each_codec
@settings(max_examples=examples(30))
@given(st.lists(PIECES, min_size=1, max_size=12), st.integers(1, 9))
def test_whatever_is_encoded_is_read(codec, parts, level):
    check_valid(codec, encode(codec, b"".join(parts * 2), level))


# -- written by hand ------------------------------------------------------------------------------

ABC = bytes(range(97, 123))
CORNERS = {
    "lz4": {
        b"\x00": b"",
        b"\x10a": b"a",
        b"\x0f": b"",  # bits for a match that the last sequence does not have
        b"\x12a\x01\x00\x50bcdef": b"aaaaaaabcdef",
        b"\x1fa\x01\x00\x00\x50bcdef": b"a" * 20 + b"bcdef",  # extension by 0
        b"\x1fa\x01\x00\xff\x00\x50bcdef": b"a" * 275 + b"bcdef",
        b"\x10a\x01\x00\x00": b"aaaaa",  # no last literals: laxer than liblz4
        b"\x10a\x01\x00\x01\x05\x00\x00": b"a" * 10,  # no literals in between
        b"\xf0\x00" + ABC[:15]: ABC[:15],
    },
    "blosclz": {
        b"": b"",
        b"\x00a": b"a",
        b"\xe0a": b"a",  # the first byte says how many literals, whatever its upper bits
        b"\x20a\x20\x00\x00b": b"aaaab",
        b"\x20a\xe0\x00\x00\x00b": b"a" * 10 + b"b",  # extension by 0
        b"\x20a\xe0\xff\x03\x00\x00b": b"a" * 268 + b"b",
        b"\x01ab\x20\x01\x40\x01\x00c": b"ababababac",
    },
    "snappy": {
        b"\x00": b"",
        b"\x80\x80\x00": b"",  # a size may be longer than it needs to be
        b"\x03\x08abc": b"abc",
        b"\x06\x04ab\x01\x02": b"ababab",
        b"\x04\x04ab\x06\x02\x00": b"abab",
        b"\x04\x04ab\x07\x02\x00\x00\x00": b"abab",
        b"\x46\xf0\x45" + b"z" * 70: b"z" * 70,
        b"\x46\xf4\x45\x00" + b"z" * 70: b"z" * 70,
        b"\x46\xf8\x45\x00\x00" + b"z" * 70: b"z" * 70,
        b"\x46\xfc\x45\x00\x00\x00" + b"z" * 70: b"z" * 70,
        b"\x03\xf0\x02abc": b"abc",  # one byte of length where none was needed
    },
}


@each_schedule
@each_codec
def test_corner_streams(codec, schedule):
    check_valid(codec, list(CORNERS[codec].items()), schedule=schedule)


REFUSED = {
    "lz4": {
        (b"", 0): CORRUPT,
        (b"\x10", 1): CORRUPT,  # literals missing
        (b"\xf0", 20): CORRUPT,  # extension missing
        (b"\xf0\xff", 300): CORRUPT,
        (b"\x10a\x01", 9): CORRUPT,  # half an offset
        (b"\x10a\x01\x00", 5): CORRUPT,  # ends with a match
        (b"\x1fa\x01\x00", 20): CORRUPT,
        (b"\x1fa\x01\x00" + b"\xff" * 70, 9000): CORRUPT,  # an extension that never ends
        (b"\x10a\x00\x00\x00", 5): CORRUPT,  # offset 0
        (b"\x10a\x02\x00\x00", 5): CORRUPT,  # from before the start
        (b"\x20ab", 1): WRONG_SIZE,
        (b"\x20ab", 3): WRONG_SIZE,
        (b"\x10a\x01\x00\x00", 4): WRONG_SIZE,
        (b"\x00", 1): WRONG_SIZE,
    },
    "blosclz": {
        (b"", 1): WRONG_SIZE,
        (b"\x00", 1): CORRUPT,
        (b"\x1fa", 32): CORRUPT,
        (b"\x00a\x20", 4): CORRUPT,
        (b"\x00a\x20\x00", 4): CORRUPT,  # ends with a match: c-blosc does not decode it either
        (b"\x00a\xe0", 10): CORRUPT,
        (b"\x00a\xe0\x00", 10): CORRUPT,
        (b"\x00a\xe0" + b"\xff" * 70, 9000): CORRUPT,
        (b"\x00a\x20\x01\x00b", 5): CORRUPT,  # from before the start
        (b"\x00a\x3f\xff\x00", 5): CORRUPT,  # half a far distance
        (b"\x00a\x3f\xff\x00\x00\x00b", 5): CORRUPT,
        (b"\x01ab", 1): WRONG_SIZE,
        (b"\x01ab", 3): WRONG_SIZE,
        (b"\x00a\x20\x00\x00b", 3): WRONG_SIZE,
    },
    "snappy": {
        (b"", 0): CORRUPT,
        (b"\x80", 0): CORRUPT,
        (b"\x80\x80\x80\x80\x80\x00", 0): CORRUPT,
        (b"\xff\xff\xff\xff\x1f", 0): CORRUPT,  # 2**33 - 1
        (b"\x02\x04ab", 1): WRONG_SIZE,
        (b"\x02\x04ab", 3): WRONG_SIZE,
        (b"\x04", 4): CORRUPT,
        (b"\x04\x04ab", 4): CORRUPT,
        (b"\x04\x0cab", 4): CORRUPT,
        (b"\x04\x10abcde", 4): CORRUPT,
        (b"\x04\x04ab\x06\x02", 4): CORRUPT,
        (b"\x04\x04ab\x06\x03\x00", 4): CORRUPT,
        (b"\x04\x04ab\x06\x00\x00", 4): CORRUPT,
        (b"\x04\x04ab\x0a\x02\x00", 4): CORRUPT,
        (b"\x04\xfc\xff\xff\xff\xffabcd", 4): CORRUPT,  # 2**32 literals
        (b"\x04\x04ab\x07\x02\x00\x00\x80", 4): CORRUPT,
    },
}


@each_codec
def test_impossible_streams(codec):
    table = REFUSED[codec]
    streams = [stream for stream, _ in table]
    statuses = ref.check_decoder(codec, streams, [nbytes for _, nbytes in table])
    assert statuses == list(table.values())


@each_schedule
@each_codec
def test_every_overlap(codec, schedule):
    start = random.Random(1).randbytes(70)
    pairs = [
        ref.write(codec, start[:offset], (offset, length), ABC[:5])
        for offset in (*range(1, 42), 63, 64, 65)
        for length in (4, offset + 4, 31, 32, 33, 64, 97, 255, 256, 300)
    ]
    for seed in range(2):  # which decides on alignments
        check_valid(codec, pairs, schedule=schedule, seed=seed)


@each_codec
def test_long_patterns(codec):
    start = random.Random(15).randbytes(1_024)
    offsets = (33, 48, 64, 100, 128, 256, 512, 640, 1_024)
    pairs = [ref.write(codec, start[:d], (d, n), ABC) for d in offsets for n in (300, d + 4, 2_100)]
    for seed in range(2):
        check_valid(codec, pairs, seed=seed)


@each_codec
def test_every_alignment_of_long_copies(codec):
    noise = random.Random(2).randbytes(400)
    parts = [
        (ABC[:k], noise[:n], (4, 12), (1, 600), (32, 777), b"z")
        for k in range(1, 9)
        for n in (33, 63, 64, 65, 127, 255, 400)
    ]
    pairs = [ref.write(codec, *items) for items in parts]
    for seed in range(3):
        check_valid(codec, pairs, seed=seed)


@pytest.mark.parametrize("length", [1, 14, 15, 16, 269, 270, 271, 524, 525, 8_700, 20_000])
@each_codec
def test_chains_of_length_bytes(codec, length):
    noise = random.Random(length).randbytes(length)
    check_valid(codec, [ref.write(codec, noise, (1, length + 3), (length, length + 4), ABC)])


def test_distances_of_lz4():
    noise = random.Random(3).randbytes(65_536)
    pairs = [ref.write("lz4", noise, (d, 40), ABC) for d in (255, 256, 32_768, 65_535)]
    check_valid("lz4", pairs)


def test_distances_of_blosclz():
    """Beyond 8191 there are two more bytes: 255 * 256 + 255 + 8192 is the last one."""
    noise = random.Random(4).randbytes(73_727)
    distances = (255, 256, 257, 7_936, 8_191, 8_192, 8_193, 8_448, 65_536, 73_726, 73_727)
    streams = [ref.write("blosclz", noise, (d, 20), ABC) for d in distances]
    assert b"\xff\xff\xff" in streams[-1][0]
    check_valid("blosclz", streams)


def test_far_distance_cut_short():
    """With so much written before, half a distance could pass for a distance."""
    noise = random.Random(14).randbytes(8_500)
    stream, data = ref.write("blosclz", noise, (8_192 + 256, 20), ABC[:3])
    streams = [stream[: len(stream) - n] for n in range(12)]
    statuses = ref.check_decoder("blosclz", streams, [len(data)] * 12)
    assert statuses.index(OK) == 0
    assert statuses.count(OK) == 1


def test_distances_of_snappy():
    noise = random.Random(5).randbytes(70_000)
    pairs = [ref.write("snappy", noise, (d, 11), ABC) for d in (255, 2_047, 2_048, 65_535, 65_536)]
    check_valid("snappy", pairs)


# -- damaged --------------------------------------------------------------------------------------


def sample(codec):
    """A stream with every kind of instruction."""
    noise = random.Random(6).randbytes(90)
    return ref.write(
        codec, ABC[:3], (3, 5), noise[:50], (40, 30), (1, 280), noise, (7, 66), ABC[:6]
    )


@each_schedule
@each_codec
def test_cut_at_every_byte(codec, schedule):
    stream, data = sample(codec)
    streams = [stream[:n] for n in range(len(stream))]
    statuses = ref.check_decoder(codec, streams, [len(data)] * len(streams), schedule=schedule)
    assert OK not in statuses


@each_codec
def test_every_bit_flipped(codec):
    stream, data = sample(codec)
    streams = []
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        streams.append(bytes(damaged))
    statuses = ref.check_decoder(codec, streams, [len(data)] * len(streams))
    assert {OK, CORRUPT, WRONG_SIZE} == set(statuses)  # damaged literals do not show


@each_codec
def test_every_expected_size(codec):
    stream, data = sample(codec)
    sizes = list(range(len(data) + 40))
    statuses = ref.check_decoder(codec, [stream] * len(sizes), sizes)
    assert statuses == [OK if n == len(data) else WRONG_SIZE for n in sizes]


@each_codec
def test_behind_a_bad_stream_the_next_one_is_read(codec):
    stream, data = sample(codec)
    streams = [stream, stream[:-1], stream] * 3
    statuses = ref.check_decoder(codec, streams, [len(data)] * 9, shape=(1, 32))
    assert statuses == [OK, statuses[1], OK] * 3
    assert statuses[1] != OK


@each_codec
def test_sizes_beyond_31_bits_are_refused_unread(codec):
    nbytes = np.array([2**31, 5, 2**40 + 1, 2**64 - 1], np.uint64)
    expected = np.array([4, 2**31, 2**32 + 4, 2**64 - 1], np.uint64)
    nowhere = np.zeros(4, np.uint64)
    actual, status = np.full(4, 9, np.uint64), np.zeros(4, np.int32)
    columns = (nowhere, nbytes, nowhere, expected, actual, status)
    args = [column.ctypes.data for column in columns]
    ref.run(lz.DECODERS[codec], [*args, 4], (1, 32))
    assert status.tolist() == [CORRUPT] * 4
    assert actual.tolist() == [0] * 4


# -- launches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 32), (1, 96), (2, 64), (3, 128), (20, 32)])
@each_codec
def test_any_grid(codec, shape):
    pairs = [ref.write(codec, ABC[: 1 + i], (1, 4 + 3 * i), ABC[:5]) for i in range(11)]
    check_valid(codec, pairs, shape=shape)


@each_codec
def test_no_streams(codec):
    assert ref.run_decoder(codec, [], []) == []


@each_codec
def test_streams_of_nothing(codec):
    check_valid(codec, [(EMPTY[codec], b"")] * 3)


@pytest.mark.parametrize("kernel", [*lz.DECODERS.values(), lz.COPY])
def test_launch_shapes(kernel):
    limit = 256 if kernel == lz.COPY else 128  # __launch_bounds__
    for n in (0, 1, 5, 1_023, 1_024, 100_001, 2**33):
        blocks, threads = lz.launch(kernel, n)
        assert 1 <= blocks < 2**31  # of CUDA: x of a grid
        assert threads % 32 == 0
        assert 32 <= threads <= limit
        if n <= 100_001:
            assert n <= blocks * (threads // 32) < n + 8 or n == 0


# -- copies ---------------------------------------------------------------------------------------


def copy(datas, sizes, *, schedule="forward", shape=None, piece=lz.PIECE_NBYTES, seed=0):
    table = ref.Table.of(datas, sizes, random.Random(seed))
    first = lz.pieces(np.array(sizes, np.uint64), piece)
    args = [*table.args(), first.ctypes.data, piece, len(datas)]
    ref.run(lz.COPY, args, shape or lz.launch(lz.COPY, int(first[-1])), schedule)
    return table.results()


@each_schedule
def test_copies_of_every_size_and_alignment(schedule):
    noise = random.Random(8).randbytes(20_000)
    sizes = [*range(40), *range(60, 84), 127, 128, 255, 1_000, 1_001, 4_096, 8_191, 8_192, 20_000]
    datas = [noise[:n] for n in sizes]
    for seed in range(8):
        results = copy(datas, sizes, schedule=schedule, seed=seed)
        assert results == [(OK, len(data), data) for data in datas]


@pytest.mark.parametrize("shape", [(1, 32), (2, 96), (40, 256)])
@pytest.mark.parametrize("piece", [1, 64, 100, 333, 4096])
def test_copies_in_any_pieces(piece, shape):
    noise = random.Random(9).randbytes(3_000)
    sizes = [0, 1, 99, 100, 101, 0, 0, 3_000, 5] * 5 + [1_000]
    datas = [noise[:n] for n in sizes]
    results = copy(datas, sizes, piece=piece, shape=shape)
    assert results == [(OK, len(data), data) for data in datas]


def test_copies_of_other_sizes_are_not_begun():
    datas = [b"abc", b"", b"a" * 100, b"fine", b"a" * 9_000]
    sizes = [2, 1, 101, 4, 0]
    untouched = [(WRONG_SIZE, 0, bytes([ref.POISON]) * n) for n in sizes]
    assert copy(datas, sizes) == [*untouched[:3], (OK, 4, b"fine"), untouched[4]]


def test_no_copies():
    assert copy([], []) == []


def test_copies_among_thousands_of_streams():
    """The search for the stream of a piece looks at 32 of them at a time."""
    sizes = [(7 * i) % 5 for i in range(2_100)]
    sizes[1_500] = 700
    datas = [bytes([i % 251]) * n for i, n in enumerate(sizes)]
    assert copy(datas, sizes, piece=64) == [(OK, len(data), data) for data in datas]
