"""``gzip``: members of RFC 1952 (Zarr v3 codec "gzip", numcodecs "gzip").

Several members in a row are one chunk, and zero bytes may follow, as for Python's own ``gzip``.
Which bytes are written depends on the libraries that are installed, as RFC 1951 leaves an encoder
free to choose; they decode to the same.

>>> GzipCodec(level=9).to_dict()
{'name': 'gzip', 'configuration': {'level': 9}}
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.codecs import _native
from zarr_gpu.codecs._bytes_bytes import (
    SHORT_NBYTES,
    SLACK,
    decompress_streams,
    deliver,
    ends_early,
    numcodecs_members,
    target,
)
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.errors import CodecError

GZIP = 31  # wbits: 15 bits of window, gzip wrapper
_LEVELS = (0, 2, 2, 3, 4, 5, 6, 7, 8, 10, 6)
"""libdeflate's levels for zlib's, the last for -1. Its first leaves counters twice as large, and
for smaller results than zlib's at 9 it takes its 10."""
_RESERVED_FLAGS = 0xE0  # RFC 1952 section 2.3.1.2: to be refused


@dataclass(frozen=True)
class GzipCodec(BytesBytesCodec):
    """Deflate with a gzip wrapper; the modification time is always written as 0."""

    name: ClassVar[str] = "gzip"
    parts_above: ClassVar[int | None] = SHORT_NBYTES

    level: int = 5

    def __post_init__(self) -> None:
        integer({"level": self.level}, "level", -1, 9)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> GzipCodec:
        check_names(config, "level")
        return cls(integer(config, "level", 0, 9, default=5))

    def to_config(self) -> dict[str, JSON]:
        return {"level": self.level}

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> GzipCodec:
        members = numcodecs_members(config)
        check_names(members, "level")
        return cls(integer(members, "level", -1, 9, default=1))

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"level": self.level}

    def encoded_size(self, decoded: Size) -> Size:
        return Size(deflate_bound(decoded.limit), exact=False)

    def encode(self, data: Bytes) -> Bytes:
        return deflate_whole(data, self.level, gzip=True) or zlib.compress(data, self.level, GZIP)

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        flags = data[3] if len(data) > 3 else 0
        if flags & _RESERVED_FLAGS:  # zlib looks at them, isal does not
            raise CodecError(f"reserved flags set: 0x{flags:02x}", codec=self.name)
        # libdeflate does not compare the checksum of a header that has one.
        whole = None if flags else inflate_whole(data, decoded, out, gzip=True)
        if whole is not None:
            return whole
        return deliver(inflate(data, decoded, GZIP, codec=self.name, members=True), out)

    def decode_part(self, data: Bytes, decoded: Size, offset: int, nbytes: int) -> Bytes | None:
        return inflate_part(data, decoded, GZIP, offset, nbytes)


def deflate_bound(nbytes: int) -> int:
    """zlib's ``deflateBound`` for any of its settings, plus room for headers and members."""
    return nbytes + (nbytes >> 3) + (nbytes >> 6) + SLACK


def inflate(data: Bytes, decoded: Size, wbits: int, *, codec: str, members: bool) -> bytes:
    """Decode deflate streams with the wrapper that ``wbits`` names."""
    library = _library()

    def new() -> Any:
        return library.decompressobj(wbits)

    return decompress_streams(
        new, data, decoded, codec=codec, members=members, errors=(zlib.error, library.error)
    )


def inflate_whole(
    data: Bytes, decoded: Size, out: memoryview | None, *, gzip: bool
) -> Bytes | None:
    """Decode by libdeflate, where it is installed; it decodes into memory of the right size.

    None when ``data`` are anything but one good stream of that size: :func:`inflate` knows about
    several members and padding, and what to say.
    """
    library = _native.deflate()
    if library is None or not decoded.exact or not decoded.limit or not len(data):
        return None
    into = target(decoded.limit, out)
    good = library.decompress(
        _native.pointer(into), decoded.limit, _native.pointer(data), len(data), gzip=gzip
    )
    return into if good else None


def deflate_whole(data: Bytes, level: int, *, gzip: bool) -> bytes | None:
    """Encode by libdeflate, where it is installed; None where it is not, or for nothing.

    Chunks of 64 KiB and more take two thirds of zlib's time at level 1 and a third at 5. The result
    is as small as zlib's, but for 1 % on noise that hardly compresses.
    """
    library = _native.deflate()
    nbytes = len(data)
    if library is None or not nbytes:
        return None
    # More than libdeflate_gzip_compress_bound: stored blocks of 5000 bytes with 5 in front.
    room = nbytes + (nbytes >> 8) + 64
    into = target(room, None)
    size = library.compress(
        *(_native.pointer(into), room, _native.pointer(data), nbytes),
        level=_LEVELS[level],
        gzip=gzip,
    )
    return bytes(into[:size]) or None


def inflate_part(data: Bytes, decoded: Size, wbits: int, offset: int, nbytes: int) -> Bytes | None:
    """The part of the first stream, where that saves something; None where it is bad, too."""
    end = offset + nbytes
    if not ends_early(decoded, end):
        return None
    library = _library()
    try:
        start: bytes = library.decompressobj(wbits).decompress(data, end)
    except (zlib.error, library.error):
        return None
    return memoryview(start)[offset:] if len(start) == end else None


@cache
def _library() -> Any:
    """isal where it is installed (1.7 times as fast), else the standard library: for streams of
    any size, and several of them.
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


NUMCODECS = {"gzip": GzipCodec}
