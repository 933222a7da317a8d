"""Blosc containers of a whole wave at once: headers checked, streams listed.

Does for all chunks in a buffer what :func:`zarr_gpu.codecs.blosc.parse_container` does for one, and
accepts exactly what that accepts. Decodes nothing and knows no device. The only loop is over the
splits of a block, of which there are 16 at most: sizes of splits are a chain.

>>> from zarr_gpu.codecs.blosc import BloscCodec
>>> data = np.frombuffer(BloscCodec(typesize=4, cname="lz4").encode(bytes(4096)), np.uint8)
>>> table = walk(data, np.array([0]), np.array([data.size]), np.array([4096]))
>>> table.splits.tolist(), table.streams.out_offset.tolist(), table.bad.tolist()
([4], [0, 1024, 2048, 3072], [False])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zarr_gpu._types import Bools, Int64, NDArray
from zarr_gpu.codecs.blosc import HEADER_NBYTES
from zarr_gpu.device.frames import StreamTable, window

BLOSCLZ, LZ4, SNAPPY, ZLIB, ZSTD = range(5)
"""``codec`` of a container."""

NOSHUFFLE, SHUFFLE, BITSHUFFLE = range(3)
"""``shuffle`` of a container: c-blosc's numbers."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BloscTable:
    """Checked containers, one row per chunk, and their streams.

    A bad row has zeros in all columns and no streams. Neither have containers of stored bytes:
    ``nbytes`` bytes follow the header as they are, whatever ``shuffle`` says.
    """

    nbytes: Int64
    typesize: Int64
    shuffle: Int64
    blocksize: Int64
    splits: Int64
    """Streams of a full block; a shorter last block has one."""
    codec: Int64
    stored: Bools
    bad: Bools
    first_stream: Int64
    """n + 1 entries: row ``i`` has the streams from entry ``i`` up to entry ``i + 1``, block after
    block, split after split."""
    streams: StreamTable
    raw: Bools
    """Per stream: its bytes are not compressed."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Headers:
    """Headers alone; what is not good counts as empty."""

    good: Bools
    nbytes: Int64
    typesize: Int64
    shuffle: Int64
    blocksize: Int64
    cbytes: Int64
    splits: Int64
    codec: Int64
    stored: Bools
    full: Int64
    """Blocks of ``blocksize``."""
    blocks: Int64
    """All blocks: there may be a shorter one at the end."""
    rest: Int64
    """Bytes of that one."""


_HEADER = np.dtype(
    [
        ("version", "u1"),
        ("codec_version", "u1"),
        ("flags", "u1"),
        ("typesize", "u1"),
        ("nbytes", "<i4"),
        ("blocksize", "<i4"),
        ("cbytes", "<i4"),
    ]
)
_STORED, _RESERVED, _DONT_SPLIT = 0x02, 0x08, 0x10


def walk(data: NDArray, offset: Int64, nbytes: Int64, expected: Int64) -> BloscTable:
    """The containers of ``nbytes[i]`` bytes at ``offset[i]`` that decode to ``expected[i]``."""
    head = _read_headers(data, offset, nbytes, expected)
    streams, broken = _walk_blocks(data, offset, head)
    good = head.good
    if len(broken):
        good = good.copy()
        good[broken] = False
        streams = streams.take(good[streams.row])
    count = (head.full * head.splits + head.blocks - head.full) * good
    first = np.zeros(len(offset) + 1, np.int64)
    np.cumsum(count, out=first[1:])
    return BloscTable(
        nbytes=head.nbytes * good,
        typesize=head.typesize * good,
        shuffle=head.shuffle * good,
        blocksize=head.blocksize * good,
        splits=head.splits * good,
        codec=head.codec * good,
        stored=head.stored & good,
        bad=~good,
        first_stream=first,
        streams=streams,
        raw=streams.nbytes == streams.out_nbytes,
    )


def _read_headers(data: NDArray, offset: Int64, room: Int64, expected: Int64) -> _Headers:
    good = room >= HEADER_NBYTES
    head = np.zeros(len(offset), _HEADER)
    head[good] = window(data, offset[good], _HEADER)
    flags = head["flags"].astype(np.int64)
    typesize, nbytes, blocksize, cbytes = (
        head[name].astype(np.int64) for name in ("typesize", "nbytes", "blocksize", "cbytes")
    )
    good &= (head["version"] == 2) & (head["codec_version"] == 1)
    good &= (flags & _RESERVED == 0) & (flags >> 5 <= ZSTD)
    good &= (nbytes == expected) & (cbytes <= room)
    stored = flags & _STORED != 0
    good &= ~stored | (cbytes == nbytes + HEADER_NBYTES)
    coded = ~stored & (nbytes > 0)
    good &= ~coded | (typesize > 0) & (blocksize > 0) & (blocksize <= nbytes)
    coded &= good
    element = np.maximum(typesize, 1)
    split = coded & (flags & _DONT_SPLIT == 0) & (typesize <= 16) & (blocksize // element >= 128)
    good &= ~(split & (blocksize % element != 0))
    full, rest = np.divmod(np.where(coded, nbytes, 0), np.where(coded, blocksize, 1))
    blocks = full + (rest > 0)
    good &= HEADER_NBYTES + 4 * blocks <= cbytes
    return _Headers(
        good=good,
        nbytes=nbytes,
        typesize=typesize,
        shuffle=np.where((flags & 1 > 0) & (typesize > 1), SHUFFLE, (flags >> 2 & 1) * BITSHUFFLE),
        blocksize=blocksize,
        cbytes=cbytes,
        splits=np.where(split, typesize, 1),
        codec=flags >> 5,
        stored=stored,
        full=full * good,
        blocks=blocks * good,
        rest=rest,
    )


def _walk_blocks(data: NDArray, offset: Int64, head: _Headers) -> tuple[StreamTable, Int64]:
    """All streams of good headers, and the rows of which a block is broken."""
    blocks = head.blocks
    row = np.repeat(np.arange(len(offset)), blocks)
    number = np.arange(len(row)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    short = number == head.full[row]
    count = np.where(short, 1, head.splits[row])
    out_nbytes = np.where(short, head.rest[row], head.blocksize[row] // count)
    first = np.cumsum(count) - count
    split = np.arange(count.sum()) - np.repeat(first, count)
    start, nbytes = np.zeros_like(split), np.zeros_like(split)
    broken = _chain(data, offset, head, (row, number, first, count), (start, nbytes))
    each = np.repeat(out_nbytes, count)
    out_offset = np.repeat(number * head.blocksize[row], count) + split * each
    return StreamTable(np.repeat(row, count), start, nbytes, out_offset, each), broken


def _chain(
    data: NDArray,
    offset: Int64,
    head: _Headers,
    columns: tuple[Int64, Int64, Int64, Int64],
    into: tuple[Int64, Int64],
) -> Int64:
    """Follow the sizes of the splits of all blocks; gives the rows of broken blocks.

    ``columns`` of the blocks: row, number in the row, first stream and how many. ``into`` are the
    offsets and sizes of the streams, left alone where a block is broken.
    """
    row, number, first, count = columns
    base = offset[row]
    at = base + window(data, base + HEADER_NBYTES + 4 * number, "<i4")
    end = base + head.cbytes[row]
    broken: list[Int64] = []

    def keep(these: Bools) -> None:
        nonlocal row, at, end, first, count
        if not these.all():
            row, at, end, first, count = (x[these] for x in (row, at, end, first, count))

    # Blocks are in any order, but none begins inside the table of offsets.
    ok = at >= base + HEADER_NBYTES + 4 * head.blocks[row]
    broken.append(row[~ok])
    keep(ok)
    start, nbytes = into
    for split in range(int(count.max(initial=0))):
        keep(count > split)
        size = window(data, at, "<i4").astype(np.int64)
        at = at + 4
        # What was read behind the end of the container is larger than what is left of it.
        ok = (size > 0) & (size <= end - at)
        if not ok.all():
            broken.append(row[~ok])
            size = size[ok]
            keep(ok)
        start[first + split] = at
        nbytes[first + split] = size
        at = at + size
    return np.concatenate(broken)
