"""Bookkeeping of a batch: first failures, streams left out, empty chunks, addresses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.build import examples, load
from zarr_gpu.device import kernels

WRONG_SIZE = 15
NOTHING = 2**64 - 1
each_schedule = pytest.mark.parametrize("schedule", ["forward", "reverse", 3])


def launch(name, *args, blocks=2, threads=64, schedule="forward"):
    module = load("streams")
    module.schedule = schedule
    pointers = [a.ctypes.data if isinstance(a, np.ndarray) else a or 0 for a in args]
    module.get_function(name)((blocks,), (threads,), kernels.pack(name, pointers))


# -- fold_status ----------------------------------------------------------------------------------


def fold(status, actual=None, expected=None, row=None, *, rows, word=NOTHING, **how):
    known, first = np.array(rows, np.int32), np.array([word], np.uint64)
    columns = [
        np.array(status, np.int32),
        None if actual is None else np.array(actual, np.uint64),
        None if expected is None else np.array(expected, np.uint64),
        None if row is None else np.array(row, np.int32),
    ]
    launch("fold_status", *columns, known, first, len(status), **how)
    return known.tolist(), int(first[0])


@each_schedule
def test_first_failure(schedule):
    status = [0, 0, 12, 0, 13, 12, 0]
    row = [0, 0, 2, 2, 2, 1, 3]
    known, word = fold(status, row=row, rows=[0] * 4, schedule=schedule)
    assert known == [0, 12, 12, 0]
    assert word == 1 << 32 | 12


def test_all_is_well():
    assert fold([0] * 200, [7] * 200, [7] * 200, rows=[0] * 200) == ([0] * 200, NOTHING)


def test_sizes():
    known, word = fold([0, 0, 0, 12], [5, 4, 2**40, 0], [5, 5, 0, 9], rows=[0] * 4)
    assert known == [0, WRONG_SIZE, WRONG_SIZE, 12]
    assert word == 1 << 32 | WRONG_SIZE


def test_one_kind_of_size_says_nothing():
    assert fold([0], [5], None, rows=[0]) == ([0], NOTHING)
    assert fold([0], None, [5], rows=[0]) == ([0], NOTHING)


def test_what_is_known_stays():
    assert fold([0, 13, 13], rows=[12, 12, 100], word=3) == ([12, 12, 13], 3)
    assert fold([0, 13], rows=[0, 0], word=9 << 32 | 1) == ([0, 13], 1 << 32 | 13)


def test_the_word_names_row_and_failure():
    known, word = fold([13], row=[2], rows=[0] * 3)
    assert (known, word) == ([0, 0, 13], 2 << 32 | 13)


STATUS = st.sampled_from([0, 0, 0, 12, 13, 100, 1000])


@settings(max_examples=examples(60))
@given(
    st.lists(st.tuples(STATUS, st.integers(3, 5), st.integers(4, 5), st.integers(0, 9))),
    st.lists(st.sampled_from([0, 0, 12, 13, 1000]), min_size=10, max_size=10),
    st.integers(1, 5),
    st.sampled_from(["forward", "reverse", 1, 2]),
)
def test_fold_against_python(streams, rows, blocks, schedule):
    wanted, word = list(rows), NOTHING
    for status, actual, expected, row in streams:
        failure = status or (WRONG_SIZE if actual != expected else 0)
        if failure:
            wanted[row] = min(wanted[row] or failure, failure)
            word = min(word, row << 32 | failure)
    columns = np.array(streams, np.int64).reshape(-1, 4).T.tolist()
    found = fold(*columns, rows=rows, blocks=blocks, threads=32, schedule=schedule)
    assert found == (wanted, word)


# -- guard_streams, make_pointers -----------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 9])
def test_streams_of_failed_rows_are_left_out(blocks):
    n = 300
    in_ptr, in_nbytes = np.arange(n, dtype=np.uint64) + 10**12, np.arange(n, dtype=np.uint64)
    row = (np.arange(n) % 7).astype(np.int32)
    row_status = np.array([0, 12, 0, 0, 13, 0, -1], np.int32)
    failed = row_status[row] != 0
    wanted = np.where(failed, 2**63 + 5, in_ptr), np.where(failed, 3, in_nbytes)
    args = in_ptr, in_nbytes, row, row_status, 2**63 + 5, 3, n
    launch("guard_streams", *args, blocks=blocks)
    assert (in_ptr == wanted[0]).all()
    assert (in_nbytes == wanted[1]).all()


def test_guard_without_a_column_of_rows():
    in_ptr, in_nbytes = np.array([1, 2], np.uint64), np.array([3, 4], np.uint64)
    launch("guard_streams", in_ptr, in_nbytes, None, np.array([0, 12], np.int32), 8, 9, 2)
    assert (in_ptr.tolist(), in_nbytes.tolist()) == ([1, 8], [3, 9])


def test_pointers():
    n = 200
    base = np.array([2**63, 10**6, 0], np.uint64)
    base_of = (np.arange(n) % 3).astype(np.int32)
    offset = np.arange(n, dtype=np.int64) * 2**33
    offset[4] = -5
    ptr = np.zeros(n + 1, np.uint64)
    launch("make_pointers", base, base_of, offset, ptr, n)
    assert ptr.tolist() == [
        *(int(base[b]) + int(o) for b, o in zip(base_of, offset, strict=True)),
        0,
    ]


# -- all_equal ------------------------------------------------------------------------------------


def place(data, shift):
    buffer = np.empty(len(data) + shift, np.uint8)
    assert buffer.ctypes.data % 16 == 0
    buffer[shift:] = np.frombuffer(data, np.uint8)
    return buffer[shift:]


def equal(rows, pattern, *, blocks=3, threads=64, schedule="forward"):
    flag = np.full(len(rows), 7, np.int32)
    ptr = np.array([row.ctypes.data for row in rows], np.uint64)
    nbytes = np.array([row.size for row in rows], np.int64)
    args = ptr, nbytes, np.frombuffer(pattern, np.uint8), len(pattern), flag, len(rows)
    launch("all_equal", *args, blocks=blocks, threads=threads, schedule=schedule)
    return flag.tolist()


PATTERNS = [b"\x07", b"\x01\x02", bytes(4), b"abcdefgh", bytes(range(100, 116))]
each_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=len)


@each_schedule
@each_pattern
def test_rows_of_the_pattern(pattern, schedule):
    sizes = [*range(0, 100, 1), 64 * 16 * 4, 64 * 16 * 4 + 1, 5_000]
    rows = [place((pattern * 5_000)[:n], n % 17) for n in sizes]
    assert equal(rows, pattern, schedule=schedule) == [1] * len(rows)
    assert equal(rows, pattern, threads=1024, blocks=1)[-9:] == [1] * 9


@each_pattern
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 33, 50, 64])
def test_every_other_byte_is_seen(pattern, n):
    rows = []
    for shift in (0, 1, 15):
        for at in range(n):
            row = place((pattern * n)[:n], shift)
            row[at] ^= 0x10
            rows.append(row)
    assert equal(rows, pattern) == [0] * len(rows)


@each_schedule
def test_differences_far_inside(schedule):
    rows = []
    for at in (0, 4_095, 4_096, 8_191, 8_192, 9_999):
        rows.append(place(bytes(10_000), at % 3))
        rows[-1][at] = 1
    rows.insert(2, place(bytes(10_000), 2))
    wanted = [0, 0, 1, 0, 0, 0, 0]
    for blocks in (1, 4, 20):
        assert equal(rows, bytes(8), blocks=blocks, schedule=schedule) == wanted


def test_bits_are_compared():
    rows = [place(np.full(40, value, "<f4").tobytes(), 0) for value in (0.0, -0.0, np.nan)]
    assert equal(rows, np.float32(0).tobytes()) == [1, 0, 0]
    assert equal(rows, np.float32(np.nan).tobytes()) == [0, 0, 1]


def test_the_pattern_begins_with_the_row():
    assert equal([place(b"ab" * 40, 1), place(b"ba" * 40, 1)], b"ab") == [1, 0]
