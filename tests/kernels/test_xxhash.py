"""XXH64 of streams: right wherever a stream begins and ends, and the one that zstd writes."""

import random

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.build import examples, load
from zarr_gpu.device import kernels

MASK = 2**64 - 1
PRIMES = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)  # fmt: skip
each_schedule = pytest.mark.parametrize("schedule", ["forward", "reverse", 3])


def rotate(value, bits):
    return (value << bits | value >> (64 - bits)) & MASK


def mix(lane, word):
    return rotate((lane + word * PRIMES[1]) & MASK, 31) * PRIMES[0] & MASK


def reference(data):
    """Step by step after xxhash_spec.md, "XXH64 algorithm description", for seed 0."""
    p1, p2, p3, p4, p5 = PRIMES
    lanes = [(p1 + p2) & MASK, p2, 0, -p1 & MASK]
    at = 0
    while len(data) - at >= 32:
        for k in range(4):
            lanes[k] = mix(lanes[k], int.from_bytes(data[at : at + 8], "little"))
            at += 8
    total = p5
    if len(data) >= 32:
        total = sum(rotate(lanes[k], bits) for k, bits in enumerate((1, 7, 12, 18)))
        for lane in lanes:
            total = ((total ^ mix(0, lane)) * p1 + p4) & MASK
    total = (total + len(data)) & MASK
    while len(data) - at >= 8:
        total ^= mix(0, int.from_bytes(data[at : at + 8], "little"))
        total = (rotate(total, 27) * p1 + p4) & MASK
        at += 8
    if len(data) - at >= 4:
        total ^= int.from_bytes(data[at : at + 4], "little") * p1 & MASK
        total = (rotate(total, 23) * p2 + p3) & MASK
        at += 4
    for byte in data[at:]:
        total = rotate(total ^ byte * p5 & MASK, 11) * p1 & MASK
    total = (total ^ total >> 33) * p2 & MASK
    total = (total ^ total >> 29) * p3 & MASK
    return total ^ total >> 32


def place(data, shift=0):
    """The bytes at an address `shift` above a multiple of 16; nothing lies behind them."""
    buffer = np.empty(len(data) + shift, np.uint8)
    assert buffer.ctypes.data % 16 == 0
    buffer[shift:] = np.frombuffer(data, np.uint8)
    return buffer[shift:]


def xxh64(streams, *, blocks=2, threads=64, schedule="forward"):
    ptr = np.array([s.ctypes.data for s in streams], np.uint64)
    nbytes = np.array([s.size for s in streams], np.uint64)
    sums = np.full(len(streams), 0xDEADBEEF, np.uint64)
    module = load("xxhash")
    module.schedule = schedule
    columns = [column.ctypes.data for column in (ptr, nbytes, sums)]
    packed = kernels.pack("xxh64", (*columns, len(streams)))
    module.get_function("xxh64")((blocks,), (threads,), packed)
    return sums.tolist()


def check(pairs, **how):
    """``pairs`` of bytes and shift."""
    found = xxh64([place(data, shift) for data, shift in pairs], **how)
    wrong = [
        (len(data), shift)
        for (data, shift), sum_ in zip(pairs, found, strict=True)
        if sum_ != reference(data)
    ]
    assert not wrong, f"(size, shift): {wrong}"


# Stripes of 32 bytes, of which 8 are loaded ahead (and one at each end is not, when unaligned);
# then words of 8 bytes, one of 4, and single bytes.
LENGTHS = [*range(70), *range(250, 330), *range(510, 580), 4_097, 10_000]
RANDOM = random.Random(0).randbytes


def test_the_reference_is_xxh64():
    assert reference(b"") == 0xEF46DB3751D8E999
    assert reference(b"abc") == 0x44BC2CF5AD770999


@pytest.mark.parametrize("n", [0, 1, 31, 32, 100, 5_000])
def test_zstd_writes_the_lower_half(n):
    data = RANDOM(n)
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    (found,) = xxh64([place(data, 3)])
    assert found & 0xFFFFFFFF == int.from_bytes(frame[-4:], "little")


@pytest.mark.parametrize("shift", range(8))
def test_every_length_and_alignment(shift):
    check([(RANDOM(n), shift) for n in LENGTHS], blocks=3)


def test_neighbours_of_other_lengths_and_alignments():
    check([(RANDOM(n), n % 3) for n in random.Random(1).sample(LENGTHS, 60)])
    check([(b"\xff" * n, 8 * (n % 2)) for n in random.Random(2).sample(LENGTHS, 60)])


@each_schedule
def test_schedules_and_grids(schedule):
    pairs = [(RANDOM(n), n % 5) for n in (0, 1, 3, 4, 31, 32, 37, 64, 288, 320, 1023, 4097)]
    for blocks, threads in ((1, 32), (1, 128), (40, 32)):
        check(pairs, blocks=blocks, threads=threads, schedule=schedule)


@settings(max_examples=examples(40))
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=100),
                st.builds(
                    lambda piece, n: piece * n,
                    st.one_of(st.sampled_from([b"\0", b"\xff"]), st.binary(min_size=1, max_size=5)),
                    st.integers(0, 500),
                ),
            ),
            st.integers(0, 17),
        ),
        max_size=12,
    ),
    st.integers(1, 4),
    st.sampled_from(["forward", "reverse", 1, 2]),
)
def test_whatever_is_stored(pairs, blocks, schedule):
    check(pairs, blocks=blocks, threads=32, schedule=schedule)


# -- compare_sums ---------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_sums_are_compared_by_their_lower_half(dtype, schedule):
    n = 150
    sums = np.random.default_rng(0).integers(0, 2**32, n).astype(dtype)
    expected = sums.astype(np.uint32)
    if dtype == np.uint64:
        sums |= np.uint64(0xABCD << 32)
    wrong = np.arange(n) % 7 == 3
    expected[wrong] ^= np.uint32(1) << (np.arange(n)[wrong] % 32).astype(np.uint32)
    status = np.where(np.arange(n) % 5 == 1, 12, 0).astype(np.int32)
    wanted = np.where(wrong & (status == 0), 13, status).tolist()
    module = load("streams")
    module.schedule = schedule
    pointers = [column.ctypes.data for column in (sums, expected, status)]
    args = (pointers[0], sums.itemsize // 4, *pointers[1:], n)
    module.get_function("compare_sums")((2,), (32,), kernels.pack("compare_sums", args))
    assert status.tolist() == wanted
