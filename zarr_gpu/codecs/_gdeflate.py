"""Pages of GDeflate: DEFLATE blocks (RFC 1951) whose bits are dealt to 32 lanes.

The format is that of NVIDIA's GDeflate and of DirectStorage. A page is a sequence of 32-bit words.
Each lane is a stream of bits with a buffer of 33 to 64 of them: it starts with one word, lanes in
order, and whenever an operation leaves less than 32, the lane takes the next word of the page. So
the order of operations says which word belongs to which lane:

* the header of a block, and the number of bytes in a stored one (no complement, no alignment), are
  read from lane 0; lengths of codes, and stored bytes, from the lanes in turn, starting with 0;
* literals and lengths are read from the lanes in turn; a lane that had a length reads the distance
  belonging to it at its next turn, or after the end of the block.

Beyond RFC 1951 there are distances up to 64 KiB, and symbol 285 is a length of 3 plus 16 bits.

Both directions work in Python, bit by bit, at about one megabyte per second. The decoder in C that
comes with nvCOMP is no substitute: it reads beyond the end of pages that were cut short.

>>> page = encode_page(bytes(1000), level=6)
>>> len(page) < 200, decode_page(page, 1000) == bytes(1000)
(True, True)
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Protocol, TypeAlias

import numpy as np

from zarr_gpu._types import Bytes
from zarr_gpu.errors import CodecError

NAME = "zarrs.gdeflate"
PAGE_NBYTES = 1 << 16  # decoded; only the last page of a chunk has less
LANES = 32
WORD_NBYTES = 4

Table: TypeAlias = tuple[list[int], int]
"""By the next bits of a stream: symbol << 4 | length of its code, or 0; and the mask of bits."""

_END = 256
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)  # RFC 1951, 3.2.7
_REPEAT = {16: (3, 2), 17: (3, 3), 18: (11, 7)}  # least number and extra bits, RFC 1951, 3.2.7
# Least value and extra bits of symbols 257 and up, and of distances (RFC 1951, 3.2.5).
_LENGTH = tuple(
    [(3 + i, 0) for i in range(8)]
    + [(3 + (4 + i % 4 << i // 4 - 1), i // 4 - 1) for i in range(8, 28)]
    + [(3, 16)]
)
_DISTANCE = tuple(
    [(1 + i, 0) for i in range(4)]
    + [(1 + (2 + i % 2 << i // 2 - 1), i // 2 - 1) for i in range(4, 32)]
)


class _Source(Protocol):
    """Where the parts of a block come from."""

    def take(self, lane: int, n: int) -> int:
        """The next ``n`` bits of a lane."""

    def symbol(self, lane: int, table: Table) -> int:
        """The next Huffman code of a lane."""


def decode_page(page: Bytes, nbytes: int) -> bytearray:
    """Decode a page to exactly ``nbytes``; anything else is a CodecError.

    Takes time in proportion to the size of the page, which is a multiple of 4 and at least 128.
    """
    lanes = _Lanes(page)
    out = bytearray(nbytes)
    at = final = 0
    while not final:
        header = lanes.take(0, 3)
        final, kind = header & 1, header >> 1
        if kind == 0:
            at = _decode_stored(lanes, out, at)
        else:
            at = _decode_block(lanes, _tables(lanes, kind), out, at)
    if at != nbytes:
        raise _wrong_size(nbytes, at)
    lanes.finish()
    return out


def encode_page(data: Bytes, level: int) -> bytes:
    """A page that holds ``data``: what zlib makes of it, dealt to the lanes."""
    packer = zlib.compressobj(min(level, 9), zlib.DEFLATED, -15, 9)
    dealer = _Dealer(packer.compress(data) + packer.flush())
    final = 0
    while not final:
        header = dealer.take(0, 3)
        final, kind = header & 1, header >> 1
        if kind == 0:
            dealer.deal_stored()
        else:
            dealer.deal_block(_tables(dealer, kind))
    return dealer.finish()


class _Lanes:
    """The lanes of a page that is read."""

    __slots__ = ("_at", "_bits", "_borrowed", "_left", "_words")

    def __init__(self, page: Bytes) -> None:
        self._words: list[int] = np.frombuffer(page, "<u4").tolist()
        self._bits: list[int] = self._words[:LANES]
        self._left = [32] * LANES
        # Lanes that looked ahead to behind the end: an encoder may leave out words of which no bit
        # is used.
        self._borrowed: set[int] = set()
        self._at = LANES

    def take(self, lane: int, n: int) -> int:
        bits = self._bits[lane]
        self._drop(lane, n)
        return bits & (1 << n) - 1

    def symbol(self, lane: int, table: Table) -> int:
        entries, mask = table
        entry = entries[self._bits[lane] & mask]
        if not entry:
            raise CodecError("a Huffman code that has no meaning", codec=NAME)
        self._drop(lane, entry & 15)
        return entry >> 4

    def _drop(self, lane: int, n: int) -> None:
        left = self._left[lane] - n
        bits = self._bits[lane] >> n
        if left < 32:
            if self._at < len(self._words):
                bits |= self._words[self._at] << left
                self._at += 1
            elif lane in self._borrowed:  # a bit of that was used
                raise CodecError("page cut short", codec=NAME)
            else:
                self._borrowed.add(lane)
            left += 32
        self._left[lane] = left
        self._bits[lane] = bits

    def finish(self) -> None:
        """Words behind the last block are padding."""
        if any(self._words[self._at :]):
            raise CodecError("bytes after the last block of a page", codec=NAME)


def _decode_stored(lanes: _Lanes, out: bytearray, at: int) -> int:
    end = at + lanes.take(0, 16)
    if end > len(out):
        raise _wrong_size(len(out), end)
    for i in range(end - at):
        out[at + i] = lanes.take(i % LANES, 8)
    return end


def _decode_block(lanes: _Lanes, tables: tuple[Table, Table], out: bytearray, at: int) -> int:
    literals, distances = tables
    limit = len(out)
    waiting: list[tuple[int, int] | None] = [None] * LANES  # place and length of a match
    lane = 0
    while True:
        match = waiting[lane]
        if match is not None:
            _copy(out, match, _value(lanes, lane, lanes.symbol(lane, distances), _DISTANCE))
            waiting[lane] = None
        else:
            symbol = lanes.symbol(lane, literals)
            if symbol == _END:
                break
            length = 1 if symbol < _END else _value(lanes, lane, symbol - _END - 1, _LENGTH)
            if at + length > limit:
                raise _wrong_size(limit, at + length)
            if symbol < _END:
                out[at] = symbol
            else:
                waiting[lane] = (at, length)
            at += length
        lane = (lane + 1) % LANES
    for _ in range(LANES - 1):
        lane = (lane + 1) % LANES
        match = waiting[lane]
        if match is not None:
            _copy(out, match, _value(lanes, lane, lanes.symbol(lane, distances), _DISTANCE))
    return at


def _value(source: _Source, lane: int, i: int, meaning: tuple[tuple[int, int], ...]) -> int:
    """A length or distance: what its symbol means, and the bits that follow."""
    if i >= len(meaning):
        raise CodecError("a length that has no meaning", codec=NAME)
    base, extra = meaning[i]
    return base + source.take(lane, extra) if extra else base


def _copy(out: bytearray, match: tuple[int, int], distance: int) -> None:
    at, length = match
    start = at - distance
    if start < 0:
        raise CodecError("a match before the start of its page", codec=NAME)
    if distance >= length:
        out[at : at + length] = out[start : start + length]
    else:
        pattern = bytes(out[start:at])
        out[at : at + length] = (pattern * (length // distance + 1))[:length]


def _tables(source: _Source, kind: int) -> tuple[Table, Table]:
    """Codes of literals and lengths, and of distances, of a block that is not stored."""
    if kind == 1:
        return _fixed_tables()
    if kind == 3:
        raise CodecError("a block of unknown kind", codec=NAME)
    n_literals = source.take(0, 5) + 257
    count = n_literals + source.take(0, 5) + 1
    lengths = [0] * len(_ORDER)
    for i in range(source.take(0, 4) + 4):
        lengths[_ORDER[i]] = source.take(i, 3)
    code = _table(lengths)
    lengths = []
    lane = 0
    while len(lengths) < count:
        symbol = source.symbol(lane, code)
        if symbol < 16:
            lengths.append(symbol)
        else:
            least, extra = _REPEAT[symbol]
            value = lengths[-1:] if symbol == 16 else [0]
            lengths += value * (least + source.take(lane, extra))
            if not lengths:
                raise CodecError("a repeated code length without a first", codec=NAME)
        lane = (lane + 1) % LANES
    if len(lengths) > count or not lengths[_END]:
        raise CodecError("bad code lengths", codec=NAME)
    return _table(lengths[:n_literals]), _table(lengths[n_literals:])


@cache
def _fixed_tables() -> tuple[Table, Table]:
    return _table([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8), _table([5] * 32)  # RFC 1951, 3.2.6


def _table(lengths: Sequence[int]) -> Table:
    """Decoding table of a canonical Huffman code (RFC 1951, 3.2.2).

    As in zlib, a code has to be complete; only one of a single symbol may lack the other half.
    """
    most = max(lengths)
    size = 1 << most
    used = sum(size >> n for n in lengths if n)
    if used != size and not (used < size and most <= 1):
        raise CodecError("code lengths that are no Huffman code", codec=NAME)
    entries = [0] * size
    code = 0
    for n in range(1, most + 1):
        for symbol, length in enumerate(lengths):
            if length == n:
                first = int(f"{code:0{n}b}"[::-1], 2)  # codes are stored from their highest bit
                entries[first :: 1 << n] = [symbol << 4 | n] * (size >> n)
                code += 1
        code <<= 1
    return entries, size - 1


class _Dealer:
    """Reads a stream of DEFLATE, and deals what it reads to the lanes of a page."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream + bytes(8)  # so that a look ahead finds something
        self._position = 0  # in bits
        self._words: list[list[int]] = [[] for _ in range(LANES)]
        self._bits = [0] * LANES  # dealt, but not yet a word
        self._n_bits = [0] * LANES
        self._left = [32] * LANES  # what a decoder has in its buffers
        self._order = list(range(LANES))  # the lanes that a decoder reads words for

    def take(self, lane: int, n: int) -> int:
        value = self._read(n)
        self._put(lane, value, n)
        return value

    def symbol(self, lane: int, table: Table) -> int:
        symbol, code, n = self._read_symbol(table)
        self._put(lane, code, n)
        return symbol

    def deal_stored(self) -> None:
        self._position = -(-self._position // 8) * 8
        n = self._read(16)
        self._position += 16  # complement of the size
        self._put(0, n, 16)
        for i in range(n):
            self.take(i % LANES, 8)

    def deal_block(self, tables: tuple[Table, Table]) -> None:
        literals, distances = tables
        waiting: list[tuple[int, int] | None] = [None] * LANES  # bits of a distance
        lane = 0
        while True:
            distance = waiting[lane]
            if distance is not None:
                self._put(lane, *distance)
                waiting[lane] = None
            else:
                symbol = self.symbol(lane, literals)
                if symbol == _END:
                    break
                if symbol > _END:
                    if symbol == 285:  # 258 in DEFLATE
                        self._put(lane, 258 - 3, 16)
                    else:
                        self.take(lane, _LENGTH[symbol - _END - 1][1])
                    waiting[lane] = self._read_distance(distances)
            lane = (lane + 1) % LANES
        for _ in range(LANES - 1):
            lane = (lane + 1) % LANES
            distance = waiting[lane]
            if distance is not None:
                self._put(lane, *distance)

    def finish(self) -> bytes:
        for lane, words in enumerate(self._words):
            words.append(self._bits[lane])
        lanes = [iter(words) for words in self._words]
        return np.array([next(lanes[lane], 0) for lane in self._order], "<u4").tobytes()

    def _peek(self) -> int:
        """At least the next 25 bits."""
        at = self._position
        return int.from_bytes(self._stream[at >> 3 : (at >> 3) + 4], "little") >> (at & 7)

    def _read(self, n: int) -> int:
        value = self._peek() & (1 << n) - 1
        self._position += n
        return value

    def _read_symbol(self, table: Table) -> tuple[int, int, int]:
        """A symbol, its code and the length of that."""
        entries, mask = table
        bits = self._peek()
        entry = entries[bits & mask]
        n = entry & 15
        self._position += n
        return entry >> 4, bits & (1 << n) - 1, n

    def _read_distance(self, table: Table) -> tuple[int, int]:
        symbol, code, n = self._read_symbol(table)
        extra = _DISTANCE[symbol][1]
        return code | self._read(extra) << n, n + extra

    def _put(self, lane: int, value: int, n: int) -> None:
        bits = self._bits[lane] | value << self._n_bits[lane]
        n_bits = self._n_bits[lane] + n
        if n_bits >= 32:
            self._words[lane].append(bits & 0xFFFFFFFF)
            bits >>= 32
            n_bits -= 32
        self._bits[lane] = bits
        self._n_bits[lane] = n_bits
        self._left[lane] -= n
        if self._left[lane] < 32:
            self._left[lane] += 32
            self._order.append(lane)


def _wrong_size(expected: int, found: int) -> CodecError:
    return CodecError(
        "a page of wrong decoded size", codec=NAME, expected=expected, found=f"{found} bytes"
    )
