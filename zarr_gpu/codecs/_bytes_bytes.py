"""What the bytes -> bytes codecs share: output that cannot outgrow its bound, numcodecs' members.

Knows no format. Every function takes the :class:`~zarr_gpu.codecs.base.Size` that the chain
computed from metadata; sizes claimed by stored bytes are compared with it, never allocated.

>>> import zlib
>>> packed = zlib.compress(b"abc")
>>> bytes(decompress_streams(zlib.decompressobj, packed, Size(3), codec="numcodecs.zlib"))
b'abc'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.codecs.base import Size
from zarr_gpu.errors import CodecError

SLACK = 64 << 10
"""Added to the worst case of a compressed format: headers, comments, padding, empty members."""

_WINDOW = 4 << 10
"""Bytes given to the decompressor of a second or later member at first; see below."""


SHORT_NBYTES = 256 << 10
"""A chunk up to this size is decoded as a whole: two of zstd's blocks, or a tenth of a
millisecond of LZ4.
"""


class Decompressor(Protocol):
    """What zlib, isal, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def wrong_size(codec: str, decoded: Size, found: object) -> CodecError:
    """The error for a chunk that decodes, or claims to decode, to another size."""
    expected = f"{'' if decoded.exact else 'at most '}{decoded.limit} bytes"
    return CodecError("wrong decoded size", codec=codec, expected=expected, found=f"{found} bytes")


def target(nbytes: int, out: memoryview | None) -> memoryview:
    """``out``, or new memory of ``nbytes`` that nothing has been written to."""
    return memoryview(np.empty(nbytes, np.uint8)) if out is None else out


def ends_early(decoded: Size, end: int) -> bool:
    """True when decoding a stream up to ``end`` saves enough to be worth a second way to do it."""
    return decoded.exact and decoded.limit > SHORT_NBYTES and 2 * end <= decoded.limit


def deliver(result: Bytes, out: memoryview | None) -> Bytes:
    """``result``, copied into ``out`` when there is one."""
    if out is None:
        return result
    out[:] = result
    return out


def decompress_streams(
    new: Callable[[], Decompressor],
    data: Bytes,
    decoded: Size,
    *,
    codec: str,
    members: bool = False,
    errors: tuple[type[Exception], ...] = (ValueError,),
) -> bytes:
    """Decode one stream, or with ``members`` one or more, of a stream format.

    Zero bytes after the last stream are padding; anything else there is an error. ``errors`` are
    the exceptions by which the library says that a stream is bad.
    """
    bad: tuple[type[Exception], ...] = (*errors, EOFError)
    view = memoryview(data)
    parts: list[bytes] = []
    room = decoded.limit + 1  # one more than allowed, so that the end of a full stream is read
    position = 0
    window = len(view)
    while True:
        stream = new()
        # A stream is fed in growing pieces, because a decompressor copies what it leaves unused:
        # a chunk of many tiny members would otherwise take time quadratic in its size. The first
        # piece is everything, since nearly every chunk is one stream.
        while not stream.eof and room and position < len(view):
            piece = view[position : position + window]
            try:
                parts.append(stream.decompress(piece, room))
            except bad as error:
                raise CodecError(f"bad stream: {error}", codec=codec) from error
            room -= len(parts[-1])
            position += len(piece)
            window *= 2
        if not room:
            raise wrong_size(codec, decoded, f"at least {decoded.limit + 1}")
        if not stream.eof:
            raise CodecError(f"stream cut short after {len(view)} bytes", codec=codec)
        position -= len(stream.unused_data)
        if position == len(view) or (view[position] == 0 and not any(view[position:])):
            break
        if not members:
            raise CodecError(
                f"{len(view) - position} bytes after the end of the stream", codec=codec
            )
        window = _WINDOW
    if not decoded.check(decoded.limit + 1 - room):
        raise wrong_size(codec, decoded, decoded.limit + 1 - room)
    return b"".join(parts)


def numcodecs_members(config: Mapping[str, JSON]) -> dict[str, JSON]:
    """The members of a numcodecs configuration beside ``id``.

    netCDF-C writes numbers as strings (``"level": "4"``); they become the numbers they mean.
    """
    return {name: _number(value) for name, value in config.items() if name != "id"}


def _number(value: JSON) -> JSON:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value
