"""Merging of byte ranges, against the obvious loop."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from zarr_gpu.stores.ranges import coalesce


def by_loop(ranges, max_gap, max_bytes):
    """Reads as [start, stop, members], by the rule in the docstring."""
    reads = []
    for i in sorted(range(len(ranges)), key=lambda i: ranges[i][0]):
        start, stop = ranges[i][0], sum(ranges[i])
        if reads:
            last = reads[-1]
            fits = max(stop, last[1]) - last[0] <= max_bytes
            if fits and start - last[1] <= max_gap:
                last[1] = max(last[1], stop)
                last[2].append(i)
                continue
        reads.append([start, stop, [i]])
    return reads


def columns(ranges):
    return np.array([r[0] for r in ranges], np.int64), np.array([r[1] for r in ranges], np.int64)


@given(
    ranges=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), max_size=30),
    max_gap=st.integers(0, 30),
    max_bytes=st.integers(0, 120),
)
@example(ranges=[(0, 100), (10, 2), (50, 10)], max_gap=5, max_bytes=200)
@example(ranges=[(0, 100), (10, 10), (90, 5)], max_gap=5, max_bytes=90)
def test_coalesce_does_what_the_loop_does(ranges, max_gap, max_bytes):
    start, nbytes, group = coalesce(*columns(ranges), max_gap, max_bytes)
    expected = by_loop(ranges, max_gap, max_bytes)
    assert list(zip(start.tolist(), (start + nbytes).tolist(), strict=True)) == [
        (read[0], read[1]) for read in expected
    ]
    for number, read in enumerate(expected):
        assert group[read[2]].tolist() == [number] * len(read[2])


def test_every_range_lies_inside_its_read():
    rng = np.random.default_rng(1)
    offset = rng.integers(0, 10_000, 500)
    nbytes = rng.integers(0, 300, 500)
    start, length, group = coalesce(offset, nbytes, 5, 1000)
    assert (start[group] <= offset).all()
    assert (offset + nbytes <= start[group] + length[group]).all()
    assert length.max() <= 1000


def test_limits_beyond_64_bits_merge_everything():
    start, length, group = coalesce(np.array([2**61, 0]), np.array([5, 5]), 2**63 - 1, 2**70)
    assert (start.tolist(), length.tolist(), group.tolist()) == ([0], [2**61 + 5], [0, 0])


def test_no_ranges_no_reads():
    empty = np.zeros(0, np.int64)
    assert [len(column) for column in coalesce(empty, empty, 0, 10)] == [0, 0, 0]
