"""``zlib``: one stream of RFC 1950 (numcodecs "zlib").

As for ``gzip``, which bytes are written depends on the libraries that are installed.

>>> ZlibCodec().to_dict()
{'name': 'numcodecs.zlib', 'configuration': {'level': 1}}
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.codecs._bytes_bytes import SHORT_NBYTES, deliver, numcodecs_members
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.codecs.gzip import (
    deflate_bound,
    deflate_whole,
    inflate,
    inflate_part,
    inflate_whole,
)

_ZLIB = 15  # wbits: 15 bits of window, zlib wrapper


@dataclass(frozen=True)
class ZlibCodec(BytesBytesCodec):
    """Deflate with a zlib wrapper; level -1 is zlib's own default."""

    name: ClassVar[str] = "numcodecs.zlib"
    parts_above: ClassVar[int | None] = SHORT_NBYTES

    level: int = 1

    def __post_init__(self) -> None:
        integer({"level": self.level}, "level", -1, 9)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> ZlibCodec:
        members = numcodecs_members(config)
        check_names(members, "level")
        return cls(integer(members, "level", -1, 9, default=1))

    from_numcodecs = from_config

    def to_config(self) -> dict[str, JSON]:
        return {"level": self.level}

    to_numcodecs = to_config

    def encoded_size(self, decoded: Size) -> Size:
        return Size(deflate_bound(decoded.limit), exact=False)

    def encode(self, data: Bytes) -> Bytes:
        return deflate_whole(data, self.level, gzip=False) or zlib.compress(data, self.level)

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        whole = inflate_whole(data, decoded, out, gzip=False)
        if whole is not None:
            return whole
        return deliver(inflate(data, decoded, _ZLIB, codec=self.name, members=False), out)

    def decode_part(self, data: Bytes, decoded: Size, offset: int, nbytes: int) -> Bytes | None:
        return inflate_part(data, decoded, _ZLIB, offset, nbytes)


NUMCODECS = {"zlib": ZlibCodec}
