"""``bz2``: bzip2 streams (numcodecs "bz2").

>>> BZ2Codec().to_dict()
{'name': 'numcodecs.bz2', 'configuration': {'level': 1}}
"""

from __future__ import annotations

import bz2
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.codecs._bytes_bytes import (
    SLACK,
    decompress_streams,
    deliver,
    numcodecs_members,
)
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size


@dataclass(frozen=True)
class BZ2Codec(BytesBytesCodec):
    """bzip2; several streams in a row are one chunk."""

    name: ClassVar[str] = "numcodecs.bz2"

    level: int = 1

    def __post_init__(self) -> None:
        integer({"level": self.level}, "level", 1, 9)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> BZ2Codec:
        members = numcodecs_members(config)
        check_names(members, "level")
        return cls(integer(members, "level", 1, 9, default=1))

    from_numcodecs = from_config

    def to_config(self) -> dict[str, JSON]:
        return {"level": self.level}

    to_numcodecs = to_config

    def encoded_size(self, decoded: Size) -> Size:
        # The manual of bzip2 asks for 1% and 600 bytes more than the input.
        return Size(decoded.limit + decoded.limit // 50 + SLACK, exact=False)

    def encode(self, data: Bytes) -> Bytes:
        return bz2.compress(data, self.level)

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        result = decompress_streams(
            bz2.BZ2Decompressor,
            data,
            decoded,
            codec=self.name,
            members=True,
            errors=(OSError, ValueError),
        )
        return deliver(result, out)


NUMCODECS = {"bz2": BZ2Codec}
