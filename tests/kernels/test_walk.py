"""Walks on the device give the columns that the walks on the host give, and stay inside the chunks.

``ZG_FUZZ_SECONDS`` is the length of the long runs.
"""

import os
from time import monotonic

import numpy as np
import pytest
from numcodecs import blosc as library

from tests.device.waves import (
    LONG_FRAMES,
    containers,
    damaged,
    made_up,
    wave,
    zstd_chunks,
)
from tests.kernels.build import examples, load
from zarr_gpu.device import blosc, frames, kernels

OK, CORRUPT = 0, 12
CANARY = 0x5A
SLOW_SECONDS = float(os.environ.get("ZG_FUZZ_SECONDS", "60"))
each_schedule = pytest.mark.parametrize("schedule", ["forward", "reverse", 3])


class Chunks:
    """Chunks on the device, each in memory of its own with nothing behind it."""

    def __init__(self, chunks):
        self.n = len(chunks)
        self._data = [np.frombuffer(chunk, np.uint8).copy() for chunk, _ in chunks]
        self.ptr = np.array([data.ctypes.data for data in self._data], np.uint64)
        self.nbytes = np.array([data.size for data in self._data], np.uint64)
        self.expected = np.array([expected for _, expected in chunks], np.uint64)

    @property
    def columns(self):
        return [self.ptr, self.nbytes, self.expected]


def launch(kernel, columns, n, blocks, threads, schedule):
    module = load("walk")
    module.schedule = schedule
    args = kernels.pack(kernel, (*(column.ctypes.data for column in columns), n))
    module.get_function(kernel)((blocks,), (threads,), args)


def fresh(n, *dtypes):
    columns = [np.empty(n, dtype) for dtype in dtypes]
    for column in columns:
        column.view(np.uint8)[:] = CANARY
    return columns


def blosc_columns(chunks, *, blocks=3, threads=64, schedule="forward", first=None):
    """Columns of the rows, and of the streams, by name; status and counts among those of rows."""
    device, n = Chunks(chunks), len(chunks)
    streams, status = fresh(n, np.int64, np.int32)
    launch("blosc_count", [*device.columns, streams, status], n, blocks, threads, schedule)
    if first is None:
        first = np.concatenate([[0], np.cumsum(streams)]).astype(np.int64)
    rows = fresh(n, *[np.int64] * 6, np.uint8)
    total = int(first[-1])
    parts = fresh(total, np.int64, np.uint64, np.uint64, np.int64, np.uint64, np.uint8)
    columns = [*device.columns, status, first, *rows, *parts]
    launch("blosc_fill", columns, n, blocks, threads, schedule)
    names = ["nbytes", "typesize", "shuffle", "blocksize", "splits", "codec", "stored"]
    by_row = dict(zip(names, rows, strict=True), streams=streams, status=status)
    names = ["row", "offset", "nbytes", "out_offset", "out_nbytes", "raw"]
    by_stream = dict(zip(names, parts, strict=True))
    by_stream["offset"] -= device.ptr[by_stream["row"]] if first[-1] == streams.sum() else 0
    return by_row, by_stream


def check_blosc(chunks, seed=0, **how):
    """Same columns as on the host; returns how many rows are good."""
    these = wave(chunks, seed)
    table = blosc.walk(*these.columns)
    by_row, by_stream = blosc_columns(chunks, **how)
    assert by_row.pop("status").tolist() == [CORRUPT if bad else OK for bad in table.bad]
    assert by_row.pop("streams").tolist() == np.diff(table.first_stream).tolist()
    for name, column in by_row.items():
        assert column.tolist() == getattr(table, name).tolist(), name
    streams = table.streams
    assert by_stream.pop("raw").tolist() == table.raw.tolist()
    assert by_stream.pop("offset").tolist() == (streams.offset - these.offset[streams.row]).tolist()
    for name, column in by_stream.items():
        assert column.tolist() == getattr(streams, name).tolist(), name
    return int((~table.bad).sum())


@each_schedule
@pytest.mark.parametrize("seed", range(2))
def test_containers(seed, schedule):
    count = examples(200)
    good = check_blosc(containers(seed, count), seed, schedule=schedule)
    assert good > count / 2


@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (1, 96), (7, 32), (2, 256)])
def test_any_launch_does(blocks, threads):
    check_blosc(containers(7, 40), 7, blocks=blocks, threads=threads)


def test_containers_of_more_blocks_than_lanes():
    rng = np.random.default_rng(3)
    data = bytes(range(2)) * 8000
    chunks = []
    for blocksize in (128, 130, 400):
        packed = bytes(library.compress(data, b"zstd", 9, 0, blocksize, 2))
        chunks += [(packed, len(data))] + [damaged(rng, packed, len(data)) for _ in range(40)]
    table = blosc.walk(*wave(chunks).columns)
    assert table.first_stream[1] > 64
    assert check_blosc(chunks) >= 3


def test_no_containers():
    assert check_blosc([]) == 0
    assert check_blosc([(b"", 0), (b"\x02", 0)]) == 0


def test_streams_that_there_is_no_room_for_are_not_written():
    """Sums that do not belong to the containers: nothing is written for such a row."""
    rng = np.random.default_rng(0)
    chunks = [made_up(rng) for _ in range(3)]
    count = np.diff(blosc.walk(*wave(chunks).columns).first_stream)
    first = np.concatenate([[0], np.cumsum([count[0], count[1] - 1, count[2]])])
    by_row, by_stream = blosc_columns(chunks, first=first)
    assert by_row["nbytes"].tolist() == [chunks[0][1], 0, chunks[2][1]]
    filled = by_stream["row"] != int.from_bytes(bytes([CANARY]) * 8, "little")
    assert filled.tolist() == np.repeat([True, False, True], np.diff(first)).tolist()


# -- zstd -----------------------------------------------------------------------------------------


def check_zstd(chunks, seed=0, *, blocks=2, threads=32, schedule="forward"):
    """Bad rows, number of frames and the first frame as on the host; returns how many are good."""
    these = wave(chunks, seed)
    table, bad = frames.zstd(*these.columns)
    device, n = Chunks(chunks), len(chunks)
    ptr, nbytes, content, count, status = fresh(n, *[np.uint64] * 3, np.int32, np.int32)
    columns = [*device.columns, ptr, nbytes, content, count, status]
    launch("zstd_sizes", columns, n, blocks, threads, schedule)
    assert status.tolist() == [CORRUPT if b else OK for b in bad]
    assert count.tolist() == np.bincount(table.row, minlength=n).tolist()
    first = np.full(n, -1)
    first[table.row[::-1]] = np.arange(len(table))[::-1]
    good = ~bad
    first = first[good]
    offset = table.offset[first] - these.offset[good]
    assert (ptr - device.ptr)[good].tolist() == offset.tolist()
    assert nbytes[good].tolist() == table.nbytes[first].tolist()
    assert content[good].tolist() == table.out_nbytes[first].tolist()
    assert not (ptr[bad].any() or nbytes[bad].any() or content[bad].any())
    return int(good.sum())


@each_schedule
@pytest.mark.parametrize("seed", range(2))
def test_zstd(seed, schedule):
    count = examples(300)
    good = check_zstd(zstd_chunks(seed, count), seed, schedule=schedule)
    assert good > count / 3


@pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (5, 7), (1, 1024)])
def test_any_launch_of_zstd_does(blocks, threads):
    check_zstd(zstd_chunks(5, 40), 5, blocks=blocks, threads=threads)


def test_frames_of_many_steps():
    assert check_zstd(list(LONG_FRAMES.values())) == 2


def test_no_zstd_chunks():
    assert check_zstd([]) == 0


@pytest.mark.slow
def test_same_as_the_host_for_long():
    end, seed = monotonic() + SLOW_SECONDS, 1000
    while monotonic() < end:
        check_blosc(containers(seed, 200), seed, schedule=seed)
        check_zstd(zstd_chunks(seed, 200), seed, schedule=seed)
        seed += 1
