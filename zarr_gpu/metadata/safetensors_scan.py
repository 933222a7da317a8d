"""Headers of safetensors files as most writers lay them out, read without a JSON parser.

Models of 10^5 tensors and more have headers of tens of MB; parsing such a document to objects takes
seconds. Nearly all writers make entries ``"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}``
in this order and without spaces. Here the marks between the values are found, and compared, for all
entries at the same time; what looks different in any way is left to the parser.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu._types import Int64, NDArray

_OPEN = b'":{"dtype":"'
_SHAPE = b'","shape":['
_OFFSETS = b'],"data_offsets":['
_METADATA = b'{"__metadata__":'
_WIDTH = 32
"""Bytes that may be looked at behind a mark."""


class Shapes(Sequence[tuple[int, ...]]):
    """Tuples of numbers in two columns: all numbers, and where each tuple ends."""

    def __init__(self, values: Int64, stop: Int64) -> None:
        self.values = values
        self.stop = stop

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, ...]]) -> Shapes:
        """From tuples; numbers have to fit."""
        values = np.array([n for shape in shapes for n in shape], np.int64)
        return cls(values, np.cumsum([len(shape) for shape in shapes], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Shapes]) -> Shapes:
        """One after the other."""
        sizes = np.cumsum([0, *(len(part.values) for part in parts)])
        stops = [part.stop + size for part, size in zip(parts, sizes.tolist(), strict=False)]
        empty = [np.empty(0, np.int64)]
        return cls(
            np.concatenate([*empty, *(part.values for part in parts)]),
            np.concatenate([*empty, *stops]),
        )

    def __len__(self) -> int:
        return len(self.stop)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        first = int(self.stop[i - 1]) if i else 0
        return tuple(self.values[first : int(self.stop[i])].tolist())

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        values, first = self.values.tolist(), 0
        for stop in self.stop.tolist():
            yield tuple(values[first:stop])
            first = stop

    def products(self) -> Int64 | None:
        """Number of elements of each; None when one of them may be 2^62 or more."""
        count = np.diff(self.stop, prepend=0)
        result = np.ones(len(self.stop), np.int64)
        filled = np.flatnonzero(count)
        if len(filled):
            first = (self.stop - count)[filled]
            digits = np.log2(np.maximum(self.values, 1))
            if float(np.add.reduceat(digits, first).max()) >= 62:
                return None
            result[filled] = np.multiply.reduceat(self.values, first)
        return result


class Names(Sequence[str]):
    """Parts of a text in ASCII, which become strings when the first is asked for."""

    def __init__(self, data: bytes, start: Int64, stop: Int64) -> None:
        self._data = data
        self._columns = start, stop

    @cached_property
    def _all(self) -> list[str]:
        text = self._data.decode("ascii")
        start, stop = (column.tolist() for column in self._columns)
        return [text[a:b] for a, b in zip(start, stop, strict=True)]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, i: Any) -> Any:
        return self._all[i]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)


class Scanned(NamedTuple):
    """The columns of a header; ``codes`` are numbers in the list that was given."""

    names: Names
    codes: Int64
    shapes: Shapes
    start: Int64
    stop: Int64
    metadata: Any


class _Metadata(NamedTuple):
    value: Any
    stop: int
    """Where the first entry begins: its quote."""


def scan(data: bytes, codes: Sequence[str]) -> Scanned | None:
    """The header in ``data``; None unless it is laid out as described above."""
    metadata = _metadata(data)
    if metadata is None or b"\\" in data or not data.isascii():
        return None
    text = np.frombuffer(data, np.uint8)
    if int(text.min()) < ord(" "):
        return None
    begin = metadata.stop
    brace, bracket, comma = (_find(text, begin, letter) for letter in "{],")
    n = len(brace)
    if not n or len(bracket) != 2 * n or data.count(b'"', begin) != 10 * n:
        return None
    words = _Words(data)
    shape_stop, stop = bracket[::2], bracket[1::2]
    kind = _codes(words, brace + len(_OPEN) - 2, codes)
    if kind is None:
        return None
    number, quote = kind
    # Each entry ends with "]}", and a comma and the quote of the next name follow.
    start = np.concatenate(([begin + 1], stop[:-1] + 4))
    ordered = np.stack((start, brace - 1, quote, shape_stop, stop), axis=1).reshape(-1)
    if (ordered[1:] < ordered[:-1]).any() or data[int(stop[-1]) :].rstrip(b" ") != b"]}}":
        return None
    marks = ((brace - 2, _OPEN), (quote, _SHAPE), (shape_stop, _OFFSETS), (stop[:-1], b']},"'))
    if not all(words.fit(at, mark) for at, mark in marks):
        return None
    shapes = _shapes(words, quote + len(_SHAPE), shape_stop, comma)
    offsets = _offsets(words, shape_stop + len(_OFFSETS), stop, comma)
    if shapes is None or offsets is None:
        return None
    names = Names(data, start, brace - 2)
    return Scanned(names, number, shapes, offsets[0], offsets[1], metadata.value)


def _metadata(data: bytes) -> _Metadata | None:
    """The user's metadata, which come first where there are some."""
    if not data.startswith(_METADATA):
        return _Metadata({}, 1) if data.startswith(b'{"') else None
    stop = data.find(b"}", len(_METADATA)) + 1
    try:
        value = json.loads(data[len(_METADATA) : stop])
    except ValueError:
        return None
    return _Metadata(value, stop + 1) if data[stop : stop + 2] == b',"' else None


def _find(text: NDArray, begin: int, letter: str) -> Int64:
    """Where a letter is; in pieces that stay in a cache."""
    step = 1 << 18
    found = [
        np.flatnonzero(text[at : at + step] == ord(letter)) + at
        for at in range(begin, len(text), step)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


class _Words:
    """The eight bytes at any place of a text, as one number; zeros are added at both ends."""

    def __init__(self, data: bytes) -> None:
        padded = b"".join((bytes(8), data, bytes(_WIDTH)))
        self._words: NDArray = np.ndarray((len(padded) - 7,), "<u8", padded, 0, (1,))

    def at(self, place: Int64) -> NDArray:
        return self._words[place + 8]

    def fit(self, place: Int64, mark: bytes) -> bool:
        """Whether ``mark`` is at all of these places."""
        for first in range(0, len(mark), 8):
            part = mark[first : first + 8]
            wanted, mask = _word(part), _word(b"\xff" * len(part))
            if ((self.at(place + first) & mask) != wanted).any():
                return False
        return True

    def numbers(self, start: Int64, stop: Int64) -> Int64 | None:
        """Numbers of one to 16 digits; None when one of them is none, or longer."""
        length = stop - start
        if not len(start):
            return np.empty(0, np.int64)
        if int(length.min()) < 1 or int(length.max()) > 16:
            return None
        if ((self.at(start) & np.uint64(255) == ord("0")) & (length > 1)).any():
            return None
        low = _digits(self.at(stop - 8), np.minimum(length, 8))
        if low is None or int(length.max()) <= 8:
            return low
        high = _digits(self.at(stop - 16), np.maximum(length - 8, 0))
        return None if high is None else low + high * 10**8


def _word(part: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(part, "little"))


def _digits(word: NDArray, length: Int64) -> Int64 | None:
    """The last ``length`` of eight bytes as a number; the others count as zeros."""
    unused = (8 * (8 - length)).astype(np.uint64)
    full = np.uint64(2**64 - 1)
    kept = np.where(length == 0, np.uint64(0), full << (unused & np.uint64(63)))
    zeros = np.uint64(0x3030303030303030)
    word = (word & kept) | (zeros & ~kept)
    outside = (word + np.uint64(0x4646464646464646)) | (word - zeros)
    if (outside & np.uint64(0x8080808080808080)).any():
        return None
    # Neighbours are joined: eight digits to four numbers of two, to two of four, to one of eight.
    word = word - zeros
    word = (word * np.uint64(10) + (word >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    word = (word * np.uint64(100) + (word >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    word = (word * np.uint64(10000) + (word >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
    return word.astype(np.int64)


def _codes(words: _Words, at: Int64, codes: Sequence[str]) -> tuple[Int64, Int64] | None:
    """Numbers of the codes that begin there, and where their closing quotes are."""
    low, high = words.at(at), words.at(at + 8)
    number = np.full(len(at), -1, np.int64)
    length = np.zeros(len(at), np.int64)
    for i, code in enumerate(codes):
        quoted = f'{code}"'.encode()
        masks = [_word(b"\xff" * len(part)) for part in (quoted[:8], quoted[8:])]
        found = (low & masks[0]) == _word(quoted[:8])
        if masks[1]:
            found &= (high & masks[1]) == _word(quoted[8:])
        number[found] = i
        length[found] = len(code)
    return None if (number < 0).any() else (number, at + length)


def _shapes(words: _Words, start: Int64, stop: Int64, comma: Int64) -> Shapes | None:
    """The lists of numbers between ``start`` and ``stop``; ``comma``: where all commas are."""
    low, high = np.searchsorted(comma, start), np.searchsorted(comma, stop)
    count = high - low + (stop > start)
    last = np.cumsum(count)
    begin = np.empty(int(last[-1]), np.int64)
    end = np.empty_like(begin)
    inner = np.ones(len(begin), np.bool_)  # numbers that a comma comes before
    filled = count > 0
    inner[(last - count)[filled]] = False
    within = np.repeat(low - (last - count) - 1, count)[inner] + np.flatnonzero(inner)
    begin[inner] = comma[within] + 1
    begin[~inner] = start[filled]
    end[last[filled] - 1] = stop[filled]
    outer = np.ones(len(begin), np.bool_)
    outer[last[filled] - 1] = False
    end[outer] = comma[within]
    values = words.numbers(begin, end)
    return None if values is None else Shapes(values, last.astype(np.int64))


def _offsets(words: _Words, start: Int64, stop: Int64, comma: Int64) -> tuple[Int64, Int64] | None:
    """The two numbers between ``start`` and ``stop``."""
    between = comma[np.maximum(np.searchsorted(comma, stop) - 1, 0)]
    first, second = words.numbers(start, between), words.numbers(between + 1, stop)
    return None if first is None or second is None else (first, second)
