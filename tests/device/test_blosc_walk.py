"""Blosc containers of a wave are read as the host reads them one by one."""

import os
import struct
import tracemalloc
import zlib
from time import monotonic

import numpy as np
import pytest
from numcodecs import blosc as library
from numcodecs import lz4, zstd

from tests.device.waves import FIELD, ODD_CONTAINERS, containers, cut_short, wave
from zarr_gpu.codecs.blosc import SHUFFLES, parse_container, unfilter
from zarr_gpu.device import frames
from zarr_gpu.device.blosc import LZ4, ZLIB, ZSTD, walk
from zarr_gpu.errors import CodecError

COUNT = 400
SLOW_SECONDS = float(os.environ.get("ZG_FUZZ_SECONDS", "60"))  # of the long run


def blocks_of(header):
    """What the streams of a container decode to: pairs of offset in the chunk and size."""
    for start in range(0, header.nbytes, header.blocksize):
        size = min(header.blocksize, header.nbytes - start)
        splits = header.splits if size == header.blocksize else 1
        for split in range(splits):
            yield start + split * (size // splits), size // splits


def check_row(table, row, chunk, expected, offset):
    """The row says what ``parse_container`` says; True when it is good."""
    first, last = table.first_stream[row], table.first_stream[row + 1]
    found = [
        table.nbytes, table.typesize, table.shuffle, table.blocksize, table.splits, table.codec,
        table.stored,
    ]  # fmt: skip
    found = [int(column[row]) for column in found]
    try:
        header = parse_container(chunk, expected)
    except CodecError:
        assert table.bad[row]
        assert found == [0] * 7
        assert first == last
        return False
    assert not table.bad[row]
    assert found == [
        header.nbytes, header.typesize, SHUFFLES.index(header.shuffle), header.blocksize,
        header.splits, chunk[2] >> 5, header.stored,
    ]  # fmt: skip
    streams = table.streams
    part = [c[first:last].tolist() for c in (streams.row, streams.offset, streams.nbytes)]
    assert part[0] == [row] * len(header.streams)
    assert list(zip(part[1], part[2], strict=True)) == [(offset + a, n) for a, n in header.streams]
    into = list(blocks_of(header)) if header.streams else []
    assert streams.out_offset[first:last].tolist() == [at for at, _ in into]
    assert streams.out_nbytes[first:last].tolist() == [size for _, size in into]
    raw = [size == n for (_, n), (_, size) in zip(header.streams, into, strict=True)]
    assert table.raw[first:last].tolist() == raw
    return True


def check_wave(these):
    """All rows of a wave; returns how many are good."""
    table = walk(*these.columns)
    assert table.first_stream[-1] == len(table.streams) == len(table.raw)
    return sum(
        check_row(table, row, chunk, expected, int(these.offset[row]))
        for row, (chunk, expected) in enumerate(these.chunks)
    )


def check(chunks, seed=0):
    return check_wave(wave(chunks, seed))


@pytest.mark.parametrize("seed", range(5))
def test_same_as_the_host_one_by_one(seed):
    good = check(containers(seed, COUNT), seed)
    assert 0.5 * COUNT < good < 0.9 * COUNT  # there is some of both


@pytest.mark.slow
def test_same_as_the_host_for_long():
    """Runs for ``ZG_FUZZ_SECONDS``."""
    end, seed = monotonic() + SLOW_SECONDS, 1000
    while monotonic() < end:
        check(containers(seed, COUNT), seed)
        seed += 1


@pytest.mark.parametrize("count", [0, 1])
def test_waves_of_few_rows(count):
    assert check([(patched(4, 9000), 9000)] * count) == count


def test_wave_without_bytes():
    assert check([(b"", 0), (b"", 5)]) == 0


def patched(at, value, *, typesize=4, shuffle=1):
    """A container of five blocks, four of them of four streams, with one number overwritten."""
    packed = bytearray(library.compress(FIELD[:9000], b"lz4", 5, shuffle, 2048, typesize))
    struct.pack_into("<i", packed, at, value)
    return bytes(packed)


def test_every_number_of_the_header_and_table_at_its_limits():
    fine = patched(4, 9000)
    header = parse_container(fine, 9000)
    places = [4, 8, 12, *range(16, header.streams[0][0], 4), *(at - 4 for at, _ in header.streams)]
    values = [-(2**31), -1, 0, 1, 15, 16, 17, len(fine) - 5, len(fine) - 4, len(fine) - 3]
    values += [len(fine), len(fine) + 1, 2**31 - 5, 2**31 - 4, 2**31 - 1]
    chunks = [(patched(at, value), 9000) for at in places for value in values]
    near = [(at, struct.unpack_from("<i", fine, at)[0] + d) for at in places for d in (-1, 0, 1)]
    chunks += [(patched(at, value), 9000) for at, value in near]
    good = check([(fine, 9000), *chunks])
    assert 1 + len(places) <= good < len(chunks)


def test_every_flag_and_typesize():
    fine = bytearray(patched(4, 9000))
    chunks = []
    for at in (0, 1, 2, 3):
        for value in range(256):
            fine[at], old = value, fine[at]
            chunks.append((bytes(fine), 9000))
            fine[at] = old
    assert 256 < check(chunks) < 900


def test_containers_cut_short():
    assert check_wave(cut_short(patched(4, 9000), 9000)) == 1


def test_bytes_behind_containers():
    assert check([(patched(4, 9000) + bytes(n), 9000) for n in range(5)]) == 5


@pytest.mark.parametrize("name", ODD_CONTAINERS)
def test_odd_containers(name):
    """Alone, so that the chunk ends where the buffer ends; none is believed what it claims."""
    good = name in {"empty", "empty, stored", "empty, without type", "one stream"}
    tracemalloc.start()
    try:
        assert check([ODD_CONTAINERS[name]]) == good
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_broken_rows_leave_the_others_alone():
    """The streams of good rows stay where they belong when those of a bad one are dropped."""
    fine = patched(4, 9000)
    at = parse_container(fine).streams[-1][0] - 4
    assert check([(fine, 9000), (patched(at, 0), 9000), (fine, 9000), (patched(at, 9), 9000)]) >= 2


DECODERS = {
    LZ4: lambda data, n: lz4.decompress(struct.pack("<I", n) + data),
    ZSTD: lambda data, n: zstd.decompress(data),
    ZLIB: lambda data, n: zlib.decompress(data, -15),
}


@pytest.mark.parametrize(("cname", "codec"), [("lz4", LZ4), ("zstd", ZSTD), ("zlib", ZLIB)])
@pytest.mark.parametrize("typesize", [1, 4, 5])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_streams_decode_to_the_chunk(cname, codec, typesize, shuffle):
    packed = bytes(library.compress(FIELD, cname.encode(), 5, shuffle, 4096, typesize))
    these = wave([(packed, len(FIELD))] * 2)
    table = walk(*these.columns)
    assert set(table.codec.tolist()) == {codec}
    streams, raw = table.streams, table.raw
    assert (~raw).any()
    result = np.zeros((2, len(FIELD)), np.uint8)

    def put(entries, i, data):
        part = result[entries.row[i]][entries.out_offset[i] :][: entries.out_nbytes[i]]
        part[:] = np.frombuffer(data, np.uint8)

    def bytes_of(entries, i):
        return these.data[entries.offset[i] :][: entries.nbytes[i]].tobytes()

    for i in np.flatnonzero(raw):
        put(streams, i, bytes_of(streams, i))
    coded = streams.take(~raw)
    if codec == ZLIB:
        coded, bad = frames.strip_zlib(these.data, coded)
        assert not len(bad)
    for i in frames.work_order(coded):
        put(coded, i, DECODERS[codec](bytes_of(coded, i), int(coded.out_nbytes[i])))
    size = int(table.blocksize[0])
    for row in result:
        blocks = [
            unfilter(row[at : at + size], typesize, SHUFFLES[table.shuffle[0]])
            for at in range(0, len(FIELD), size)
        ]
        assert np.concatenate(blocks).tobytes() == FIELD
