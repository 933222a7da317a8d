"""Headers of compressed chunks, read for a whole wave at once: zstd, gzip, zlib, LZ4, Snappy.

The chunks of a wave lie in one buffer in host memory. Each function here looks at the headers of
all of them, decodes nothing, and says which byte streams a batched decoder gets and what each of
them decodes to. Chunks that it cannot vouch for are marked *bad*: the host decodes those, and gives
the right bytes or the exact error. So nothing here raises for what a store holds, and everything
that the host would refuse by its header is bad.

Knows no device, no array and no store. Columns only: there is no loop over chunks.

>>> import zlib as library
>>> data = np.frombuffer(library.compress(bytes(100)), np.uint8)
>>> table, bad = zlib(data, np.array([0]), np.array([data.size]), np.array([100]))
>>> table.offset.tolist(), (data.size - table.nbytes).tolist(), bad.tolist()
([2], [6], [False])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeAlias

import numpy as np

from zarr_gpu._types import Bools, Int64, NDArray
from zarr_gpu.codecs.zstd import MAX_WINDOW_NBYTES


@dataclass(frozen=True, slots=True, eq=False)
class StreamTable:
    """Compressed streams, one entry each; those of one row are in the order of their output.

    ``row`` is the number of the chunk, ``offset`` and ``nbytes`` say where the stream lies in the
    buffer, ``out_offset`` and ``out_nbytes`` where its bytes belong in the decoded row.
    """

    row: Int64
    offset: Int64
    nbytes: Int64
    out_offset: Int64
    out_nbytes: Int64

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: NDArray) -> StreamTable:
        """Some of the streams, by index or mask."""
        return StreamTable(
            self.row[which],
            self.offset[which],
            self.nbytes[which],
            self.out_offset[which],
            self.out_nbytes[which],
        )


Parser: TypeAlias = Callable[[NDArray, Int64, Int64, Int64], tuple[StreamTable, Bools]]
"""``parse(data, offset, nbytes, expected)``: the functions of this module.

``data`` is the buffer as bytes; chunk ``i`` is ``nbytes[i]`` bytes at ``offset[i]`` and must decode
to ``expected[i]`` bytes. Gives the streams and, per chunk, whether it is bad. Chunks that decode to
nothing are left to the host: each codec has its own idea of them.
"""


def work_order(table: StreamTable) -> Int64:
    """Permutation that starts long streams first; equally long ones stay in order.

    One warp decodes one stream, so a batch ends no earlier than its last long stream.
    """
    longest = np.int64(2**31 - 1)
    # Size and number in one integer: sorting plain integers is several times faster than argsort.
    key = (longest - np.minimum(table.nbytes, longest)) << 32 | np.arange(len(table))
    key.sort()
    return key & 0xFFFFFFFF


def window(data: NDArray, at: Int64, dtype: str | np.dtype[Any]) -> NDArray:
    """The items of type ``dtype`` at any byte positions of ``data``.

    Bytes beyond the end of ``data`` are anything; callers check sizes, if only afterwards.
    """
    dtype = np.dtype(dtype)
    void = np.dtype((np.void, dtype.itemsize))  # has no alignment: NumPy copies it from anywhere
    if not len(at):
        return np.empty(0, dtype)
    last = data.size - dtype.itemsize
    if at.max() <= last:
        items: NDArray = np.ndarray((last + 1,), void, data, strides=(1,))
        return items[at].view(dtype)
    index = np.minimum(at[:, None] + np.arange(dtype.itemsize), data.size - 1)
    edge: NDArray = data[index].view(dtype)
    return edge[:, 0]


def _whole(
    good: Bools, offset: Int64, nbytes: Int64, expected: Int64, *, before: int = 0, around: int = 0
) -> tuple[StreamTable, Bools]:
    """One stream per good chunk, ``around`` bytes shorter than it, ``before`` of them in front."""
    row = np.flatnonzero(good)
    table = StreamTable(
        row, offset[row] + before, nbytes[row] - around, np.zeros_like(row), expected[row]
    )
    return table, ~good


# -- gzip, zlib ----------------------------------------------------------------------------------

_GZIP = np.dtype(
    {
        "names": ["magic", "method", "flags"],
        "formats": ["<u2", "u1", "u1"],
        "offsets": [0, 2, 3],
        "itemsize": 4,
    }
)
_GZIP_HEADER, _GZIP_TRAILER = 10, 8  # RFC 1952 section 2.3: without optional fields; CRC-32, size
_ZLIB_HEADER, _ZLIB_TRAILER = 2, 4  # RFC 1950 section 2.2: Adler-32
_DEFLATE_LEAST = 2  # bytes of the shortest deflate stream


def gzip(data: NDArray, offset: Int64, nbytes: Int64, expected: Int64) -> tuple[StreamTable, Bools]:
    """One member of RFC 1952 per chunk, wrapper included.

    Bad are members with optional fields (no writer of chunks makes them) and several members or
    padding, as far as the size at the end tells. The CRC-32 is not looked at.
    """
    return _whole(_gzip_good(data, offset, nbytes, expected), offset, nbytes, expected)


def gzip_deflate(
    data: NDArray, offset: Int64, nbytes: Int64, expected: Int64
) -> tuple[StreamTable, Bools]:
    """The deflate streams inside the members of :func:`gzip`."""
    good = _gzip_good(data, offset, nbytes, expected)
    return _whole(
        good,
        offset,
        nbytes,
        expected,
        before=_GZIP_HEADER,
        around=_GZIP_HEADER + _GZIP_TRAILER,
    )


def _gzip_good(data: NDArray, offset: Int64, nbytes: Int64, expected: Int64) -> Bools:
    good = (nbytes >= _GZIP_HEADER + _DEFLATE_LEAST + _GZIP_TRAILER) & (expected > 0)
    row = np.flatnonzero(good)
    head = window(data, offset[row], _GZIP)
    size = window(data, offset[row] + nbytes[row] - 4, "<u4")
    good[row] = (
        (head["magic"] == 0x8B1F)
        & (head["method"] == 8)
        & (head["flags"] & 0xFE == 0)  # bit 0 means "probably text" and changes nothing
        & (size == expected[row] & 0xFFFFFFFF)
    )
    return good


def zlib(data: NDArray, offset: Int64, nbytes: Int64, expected: Int64) -> tuple[StreamTable, Bools]:
    """The deflate streams inside streams of RFC 1950; bad with a preset dictionary.

    The Adler-32 is not looked at.
    """
    good = (nbytes >= _ZLIB_HEADER + _DEFLATE_LEAST + _ZLIB_TRAILER) & (expected > 0)
    row = np.flatnonzero(good)
    head = window(data, offset[row], ">u2").astype(np.int64)
    good[row] = (
        (head % 31 == 0)
        & (head & 0x20 == 0)  # FDICT
        & (head >> 8 & 15 == 8)  # deflate
        & (head >> 12 <= 7)  # window of at most 32 KiB
    )
    around = _ZLIB_HEADER + _ZLIB_TRAILER
    return _whole(good, offset, nbytes, expected, before=_ZLIB_HEADER, around=around)


# -- checksums -----------------------------------------------------------------------------------


def content_sums(form: str, data: NDArray, table: StreamTable) -> tuple[Int64, NDArray]:
    """Which streams carry a checksum of what they decode to, and its 32 bits.

    ``form`` is "deflate" for the streams of :func:`zlib` (Adler-32, behind the stream), "gzip" for
    those of :func:`gzip` (CRC-32) or "zstd" for those of :func:`zstd` (the lower half of XXH64, RFC
    8878 section 3.1.1). Streams of other forms carry none.
    """
    which, end = np.arange(len(table)), table.offset + table.nbytes
    if form == "deflate":
        return which, window(data, end, ">u4").astype(np.uint32)
    if form == "gzip":
        return which, window(data, end - _GZIP_TRAILER, "<u4")
    if form == "zstd":
        which = np.flatnonzero(window(data, table.offset + _DESCRIPTOR_AT, "u1") & _CHECKSUM)
        return which, window(data, end[which] - 4, "<u4")
    return which[:0], np.empty(0, np.uint32)


# -- LZ4, Snappy ---------------------------------------------------------------------------------


def lz4(data: NDArray, offset: Int64, nbytes: Int64, expected: Int64) -> tuple[StreamTable, Bools]:
    """The LZ4 blocks behind numcodecs' prefix of 4 bytes, which must be the expected size."""
    good = (nbytes > 4) & (expected > 0) & (expected < 2**31)  # numcodecs: a signed number
    row = np.flatnonzero(good)
    good[row] = window(data, offset[row], "<u4") == expected[row]
    return _whole(good, offset, nbytes, expected, before=4, around=4)


def snappy(
    data: NDArray, offset: Int64, nbytes: Int64, expected: Int64
) -> tuple[StreamTable, Bools]:
    """Raw Snappy streams, the size in front (a varint) included; it must be the expected one."""
    good = (nbytes > 1) & (expected > 0) & (expected < 2**32)
    row = np.flatnonzero(good)
    bits = window(data, offset[row], "<u8").astype(np.int64)
    value = np.zeros_like(bits)
    more = np.ones(len(row), np.bool_)
    for k in range(5):  # of 7 bits each; a fifth byte ends it
        byte = np.where(more, bits >> 8 * k & 0xFF, 0)
        good[row] &= ~more | (nbytes[row] > k)
        value |= (byte & 0x7F) << 7 * k
        more &= byte >= 0x80
    good[row] &= ~more & (value == expected[row])
    return _whole(good, offset, nbytes, expected)


# -- streams inside streams ----------------------------------------------------------------------


def inner(parse: Parser, data: NDArray, table: StreamTable) -> tuple[StreamTable, Int64]:
    """Streams of Blosc containers read by ``parse``: :func:`zstd`, :func:`zlib`, :func:`snappy`.

    Gives the streams for the decoder, and the rows in which any was bad; they have none left.
    """
    found, bad = parse(data, table.offset, table.nbytes, table.out_nbytes)
    rows = np.unique(table.row[bad])
    result = replace(
        found,
        row=table.row[found.row],
        out_offset=table.out_offset[found.row] + found.out_offset,
    )
    return (result.take(~np.isin(result.row, rows)) if len(rows) else result), rows


def strip_zlib(data: NDArray, table: StreamTable) -> tuple[StreamTable, Int64]:
    """The deflate streams inside zlib streams of Blosc containers, and the rows that are bad."""
    return inner(zlib, data, table)


# -- zstd ----------------------------------------------------------------------------------------

MAX_STEPS = 4096
"""Blocks and skippable frames of one chunk that are walked. A chunk of more decodes to 512 MiB, or
is made of crumbs: the host decodes it sooner than the device, and the walk stays short."""

_MAGIC, _SKIPPABLE = 0xFD2FB528, 0x184D2A50  # RFC 8878 sections 3.1.1, 3.1.2; low 4 bits are free
_DESCRIPTOR_AT, _CHECKSUM = 4, 0x04  # Content_Checksum_flag, section 3.1.1.1.1
_BLOCK_NBYTES = 128 << 10  # largest block, section 3.1.1.2.4
_FRAME = np.dtype(
    {
        "names": ["magic", "skip", "descriptor", "window"],
        "formats": ["<u4", "<u4", "u1", "u1"],
        "offsets": [0, 4, 4, 5],
        "itemsize": 8,
    }
)
_MASK = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)  # of the low k bytes
_DICTIONARY_NBYTES = np.array([0, 1, 2, 4])
_CONTENT_NBYTES = np.array([0, 2, 4, 8])
_UNKNOWN = -1


@dataclass(frozen=True, slots=True, eq=False)
class _Cursors:
    """Where the walk of each chunk is, and the frame it is in."""

    row: Int64
    at: Int64
    end: Int64
    inside: Bools  # a frame, before one of its blocks; else before a frame
    ok: Bools
    start: Int64  # of the frame, as is all below
    content: Int64
    checksum: Int64
    largest: Int64  # block
    least: Int64  # that the blocks so far decode to
    most: Int64

    @classmethod
    def new(cls, row: Int64, at: Int64, end: Int64) -> Self:
        numbers = (np.zeros_like(row) for _ in range(6))
        return cls(row, at, end, np.zeros(len(row), bool), np.ones(len(row), bool), *numbers)

    def take(self, which: NDArray) -> Self:
        return type(self)(*(getattr(self, column.name)[which] for column in fields(self)))


def zstd(data: NDArray, offset: Int64, nbytes: Int64, expected: Int64) -> tuple[StreamTable, Bools]:
    """One stream per frame of RFC 8878; skippable frames are left out.

    Every frame's blocks are walked: they end where the chunk ends and can hold what the frame
    claims. One frame per chunk may leave its size out, since the expected size settles it.
    Checksums are not looked at.
    """
    n = len(offset)
    good = (nbytes > 0) & (expected > 0)
    left = expected.astype(np.int64)  # bytes that no frame has claimed yet
    untold = np.zeros((3, n), np.int64)  # frames without a size; least and most they decode to
    found: list[StreamTable] = []
    row = np.flatnonzero(good)
    here = _Cursors.new(row, offset[row], offset[row] + nbytes[row])
    for _ in range(MAX_STEPS):
        if not len(here.row):
            break
        _enter(data, here)
        ended = _step(data, here)
        if len(ended):
            found.append(_leave(here.take(ended), left, untold))
        good[here.row[~here.ok]] = False
        more = here.ok & (here.inside | (here.at < here.end))
        if not more.all():
            here = here.take(more)
    good[here.row] = False
    count, least, most = untold
    good &= np.where(
        count == 0, left == 0, (count == 1) & (left > 0) & (least <= left) & (left <= most)
    )
    return _frames(found, left, good), ~good


def _frames(found: list[StreamTable], left: Int64, good: Bools) -> StreamTable:
    """The frames of good rows, chunk after chunk."""
    none = StreamTable(*(np.zeros(0, np.int64) for _ in fields(StreamTable)))
    columns = (
        np.concatenate([getattr(t, c.name) for t in (none, *found)]) for c in fields(StreamTable)
    )
    table = StreamTable(*columns)
    if len(found) > 1:
        table = table.take(np.argsort(table.row, kind="stable"))
    if not good.all():
        table = table.take(good[table.row])
    size = np.where(table.out_nbytes == _UNKNOWN, left[table.row], table.out_nbytes)
    before = np.cumsum(size) - size
    first = np.searchsorted(table.row, table.row)
    return replace(table, out_offset=before - before[first], out_nbytes=size)


def _enter(data: NDArray, here: _Cursors) -> None:
    """Read the headers of the frames that begin."""
    if here.inside.all():
        return
    which = np.flatnonzero(~here.inside)
    at = here.at[which]
    head = window(data, at, _FRAME)
    magic, descriptor = head["magic"], head["descriptor"].astype(np.int64)
    skippable = magic & 0xFFFFFFF0 == _SKIPPABLE
    single = (descriptor >> 5 & 1).astype(bool)
    number_at = at + np.where(single, 5, 6)
    number_nbytes = _DICTIONARY_NBYTES[descriptor & 3]
    content_at = number_at + number_nbytes
    content_nbytes = np.where(descriptor >> 6, _CONTENT_NBYTES[descriptor >> 6], single)
    blocks_at = content_at + content_nbytes
    ok = (magic == _MAGIC) & (descriptor & 8 == 0)
    if number_nbytes.any():
        ok &= window(data, number_at, "<u4") & _MASK[number_nbytes] == 0
    content = window(data, content_at, "<u8") & _MASK[content_nbytes]
    content = np.minimum(content, np.uint64(2**62)).astype(np.int64)
    content += np.where(content_nbytes == 2, 256, 0)
    content[content_nbytes == 0] = _UNKNOWN
    base = np.int64(1) << 10 + (head["window"].astype(np.int64) >> 3)
    largest = np.where(single, content, base + (base >> 3) * (head["window"] & 7))
    ok &= single | (largest <= MAX_WINDOW_NBYTES)
    ok &= content != 0
    here.ok[which] = ok | skippable
    here.inside[which] = ok & ~skippable
    here.at[which] = np.where(skippable, at + 8 + head["skip"], blocks_at)
    here.start[which] = at
    here.content[which] = content
    here.checksum[which] = descriptor & _CHECKSUM  # which happens to be its size, too
    here.largest[which] = np.minimum(largest, _BLOCK_NBYTES)
    here.least[which] = here.most[which] = 0


def _step(data: NDArray, here: _Cursors) -> Int64:
    """Pass one block of every frame; gives the cursors whose frame has ended."""
    which: Any = slice(None) if here.inside.all() else np.flatnonzero(here.inside)
    at, largest = here.at[which], here.largest[which]
    # Three bytes, read with the one before them: a header always precedes.
    header = window(data, at - 1, "<u4").astype(np.int64) >> 8
    kind, nbytes = header >> 1 & 3, header >> 3
    plain = kind < 2  # raw, or one byte repeated: nbytes is the decoded size
    here.most[which] += np.where(plain, nbytes, largest)
    here.least[which] += np.where(plain, nbytes, 0)
    # A kind of 3 and too large blocks are refused by the decoder of the host.
    here.ok[which] = (kind < 3) & (nbytes <= largest)
    here.at[which] = at + 3 + np.where(kind == 1, 1, nbytes)
    last = header & 1 == 1
    ended: Int64 = np.flatnonzero(last) if isinstance(which, slice) else which[last]
    here.at[ended] += here.checksum[ended]
    here.inside[ended] = False
    # Whatever was read from behind the end of a chunk moved the cursor further.
    np.logical_and(here.ok, here.at <= here.end, out=here.ok)
    return ended[here.ok[ended]]


def _leave(done: _Cursors, left: Int64, untold: Int64) -> StreamTable:
    """The frames that ended, and what they claim taken from ``left``; none that claims too much."""
    told = done.content != _UNKNOWN
    row = done.row[told]
    left[row] -= done.content[told]
    # What cannot be makes the sum wrong for good.
    left[row[(done.content < done.least)[told] | (done.content > done.most)[told]]] = -1
    row = done.row[~told]
    untold[0, row] += 1
    untold[1, row], untold[2, row] = done.least[~told], done.most[~told]
    return StreamTable(
        done.row, done.start, done.at - done.start, np.zeros_like(done.row), done.content
    )
