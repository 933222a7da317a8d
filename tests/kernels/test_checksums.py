"""Checksums of rows: right wherever a row begins and ends, and every damage is found."""

import random
import zlib

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.fletcher32 import Fletcher32

from tests.kernels.build import examples, load
from zarr_gpu.codecs.checksums import Adler32Codec, Crc32cCodec, Crc32Codec, Fletcher32Codec
from zarr_gpu.device import kernels

CODECS = [Crc32cCodec, Crc32Codec, Adler32Codec, Fletcher32Codec]  # index: kind
OK, CORRUPT, BAD_CHECKSUM = 0, 12, 13
each_kind = pytest.mark.parametrize("kind", range(4), ids=lambda kind: CODECS[kind].name)
each_schedule = pytest.mark.parametrize("schedule", ["forward", "reverse", 3])


def place(data, shift=0):
    """The bytes at an address `shift` above a multiple of 16; nothing lies behind them."""
    buffer = np.empty(len(data) + shift, np.uint8)
    assert buffer.ctypes.data % 16 == 0
    buffer[shift:] = np.frombuffer(data, np.uint8)
    return buffer[shift:]


def table(rows):
    ptr = np.array([row.ctypes.data for row in rows], np.uint64)
    return ptr, np.array([row.size for row in rows], np.uint64)


def launch(name, blocks, schedule, *args):
    module = load("checksums")
    module.schedule = schedule
    packed = kernels.pack(name, [a.ctypes.data if isinstance(a, np.ndarray) else a for a in args])
    module.get_function(name)((blocks,), (256,), packed)


def make(kind, rows, *, blocks=3, schedule="forward"):
    ptr, nbytes = table(rows)
    sums = np.full(len(rows), 0xDEADBEEF, np.uint32)
    launch("checksum_make", blocks, schedule, ptr, nbytes, kind, sums, len(rows))
    return sums.tolist()


def verify(kind, rows, at_start, *, blocks=3, schedule="forward"):
    ptr, nbytes = table(rows)
    status = np.full(len(rows), -1, np.int32)
    launch("checksum_verify", blocks, schedule, ptr, nbytes, kind, at_start, status, len(rows))
    return status.tolist()


def expected(kind, data):
    """From the libraries themselves, not through the codecs."""
    if kind == 3:
        encoded = bytes(Fletcher32().encode(data)) if data else bytes(4)
        return int.from_bytes(encoded[-4:], "little")
    return (google_crc32c.value, zlib.crc32, zlib.adler32)[kind](data)


def stored(kind, data, at_start):
    checksum = expected(kind, data).to_bytes(4, "little")
    return checksum + data if at_start else data + checksum


def check(kind, pairs, **how):
    """``pairs`` of bytes and shift."""
    found = make(kind, [place(data, shift) for data, shift in pairs], **how)
    wanted = [expected(kind, data) for data, _ in pairs]
    wrong = [
        (len(data), shift)
        for (data, shift), f, w in zip(pairs, found, wanted, strict=True)
        if f != w
    ]
    assert not wrong, f"(size, shift): {wrong}"


# A row has a head, whole words and a tail: of 256 threads each takes one word, then a second one,
# then four at a time.
LENGTHS = [*range(22), *range(1017, 1032), *range(2045, 2052), *range(5115, 5125), 9_999, 17_411]
FILLS = {
    "random": random.Random(0).randbytes,
    "0x00": bytes,
    "0xff": lambda n: b"\xff" * n,
    "0xff00": lambda n: (b"\xff\x00" * n)[:n],
}


@pytest.mark.parametrize("fill", FILLS)
@each_kind
def test_every_length_and_alignment(kind, fill):
    pairs = [(FILLS[fill](n), shift) for n in LENGTHS for shift in range(4)]
    check(kind, pairs, blocks=7)


@each_schedule
@each_kind
def test_schedules_and_grids(kind, schedule):
    pairs = [(FILLS["random"](n), n % 5) for n in (0, 1, 3, 4, 37, 1023, 1024, 4097, 6_000)]
    for blocks in (1, 2, 40):
        check(kind, pairs, blocks=blocks, schedule=schedule)


@each_kind
def test_codecs_agree(kind):
    data = FILLS["random"](777)
    assert make(kind, [place(data)]) == [CODECS[kind]().checksum(data)]


@each_kind
def test_sums_do_not_overflow(kind):
    # 2**24 times 255 is near 2**32; the weighted sums need over 48 bits.
    check(kind, [(b"\xff" * (1 << 24), 0), (b"\xff" * ((1 << 22) + 3), 1)])


@each_kind
@settings(max_examples=examples(40))
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=80),
                st.builds(
                    lambda piece, n: piece * n,
                    st.one_of(
                        st.sampled_from([b"\0", b"\xff", b"\xff\0", b"\0\xff", b"\xf1\xff"]),
                        st.binary(min_size=1, max_size=5),
                    ),
                    st.integers(0, 3000),
                ),
            ),
            st.integers(0, 17),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 9),
    st.sampled_from(["forward", "reverse", 1, 2]),
)
def test_whatever_is_stored(kind, pairs, blocks, schedule):
    check(kind, pairs, blocks=blocks, schedule=schedule)


def words(values):
    return b"".join(value.to_bytes(2, "big") for value in values)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff",  # a sum that is a multiple of 65535 is 65535, not 0
        words([0, 65535]),
        words([65534, 1]),
        words([1, 65534]),
        words([2, 65531, 2]),  # both sums
        words([0] * 600 + [65535]),
        words([65535] + [0] * 65534),
        words([1] * 65535),
        b"\x80",
        b"\0\0\xff",  # half a word
        words([65535] * 513) + b"\xff",
    ],
    ids=range(11),
)
def test_fletcher_wraps_as_hdf5(data):
    check(3, [(data, shift) for shift in range(4)])


@pytest.mark.parametrize("n", [65_519, 65_520, 65_521, 65_522])
def test_adler_wraps(n):
    check(2, [(b"\x01" * n, 0), (b"\xff" * n, 3), (b"\xf0" + b"\x01" * n, 1)])


# -- verification ---------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("at_start", [0, 1])
@each_kind
def test_intact_rows(kind, at_start, schedule):
    data = [FILLS["random"](n) for n in (0, 1, 2, 3, 4, 5, 60, 1020, 1024, 3001)]
    rows = [place(stored(kind, d, at_start), i % 4) for i, d in enumerate(data)]
    assert verify(kind, rows, at_start, schedule=schedule) == [OK] * len(rows)


@pytest.mark.parametrize("at_start", [0, 1])
@each_kind
def test_every_changed_bit_is_found(kind, at_start):
    whole = stored(kind, FILLS["random"](43), at_start)
    rows = []
    for bit in range(8 * len(whole)):
        row = place(whole, bit % 4)
        row[bit // 8] ^= 1 << bit % 8
        rows.append(row)
    rows.insert(100, place(whole, 1))
    wanted = [BAD_CHECKSUM] * len(rows)
    wanted[100] = OK
    assert verify(kind, rows, at_start) == wanted


@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 4095, 4096, 9_000, 9_999, 10_000, 10_003])
@each_kind
def test_a_changed_byte_anywhere(kind, at):
    row = place(stored(kind, FILLS["random"](10_000), 0), at % 4)
    row[at] ^= 0x40
    assert verify(kind, [row], 0) == [BAD_CHECKSUM]


@each_kind
def test_rows_without_room_for_a_checksum(kind):
    whole = stored(kind, b"abcd", 0)
    rows = [place(whole[:n], n) for n in range(4)] + [place(whole, 2)]
    assert verify(kind, rows, 0, blocks=1) == [CORRUPT] * 4 + [OK]
    assert verify(kind, rows, 1, blocks=2)[:4] == [CORRUPT] * 4


@each_kind
def test_no_rows(kind):
    assert make(kind, []) == []
    assert verify(kind, [], 0) == []
