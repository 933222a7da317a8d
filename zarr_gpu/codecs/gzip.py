"""``gzip``: members of RFC 1952 (Zarr v3 codec "gzip", numcodecs "gzip").

Several members in a row are one chunk, and zero bytes may follow, as for Python's own ``gzip``.

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
from zarr_gpu.codecs._bytes_bytes import (
    SLACK,
    decompress_streams,
    deliver,
    numcodecs_members,
)
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.errors import CodecError

GZIP = 31  # wbits: 15 bits of window, gzip wrapper
_RESERVED_FLAGS = 0xE0  # RFC 1952 section 2.3.1.2: to be refused


@dataclass(frozen=True)
class GzipCodec(BytesBytesCodec):
    """Deflate with a gzip wrapper; the modification time is always written as 0."""

    name: ClassVar[str] = "gzip"

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
        return zlib.compress(data, self.level, GZIP)

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        if len(data) > 3 and data[3] & _RESERVED_FLAGS:  # zlib looks at them, isal does not
            raise CodecError(f"reserved flags set: 0x{data[3]:02x}", codec=self.name)
        return deliver(inflate(data, decoded, GZIP, codec=self.name, members=True), out)


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


@cache
def _library() -> Any:
    """isal where it is installed (1.7 times as fast), else the standard library."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


NUMCODECS = {"gzip": GzipCodec}
