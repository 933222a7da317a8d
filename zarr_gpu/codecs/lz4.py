"""``lz4``: the decoded size as 4 bytes, little-endian, then one LZ4 block (numcodecs "lz4").

>>> LZ4Codec().to_dict()
{'name': 'numcodecs.lz4', 'configuration': {'acceleration': 1}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.codecs._bytes_bytes import numcodecs_members, target, wrong_size
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.errors import CodecError

HEADER_NBYTES = 4
_EMPTY = (b"", b"\x00")  # of no bytes at all: nothing, or a token that says so


@dataclass(frozen=True)
class LZ4Codec(BytesBytesCodec):
    """LZ4; larger ``acceleration`` is faster and compresses less."""

    name: ClassVar[str] = "numcodecs.lz4"

    acceleration: int = 1

    def __post_init__(self) -> None:
        integer({"acceleration": self.acceleration}, "acceleration", -(2**31), 2**31 - 1)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> LZ4Codec:
        members = numcodecs_members(config)
        check_names(members, "acceleration")
        return cls(integer(members, "acceleration", -(2**31), 2**31 - 1, default=1))

    from_numcodecs = from_config

    def to_config(self) -> dict[str, JSON]:
        return {"acceleration": self.acceleration}

    to_numcodecs = to_config

    def encoded_size(self, decoded: Size) -> Size:
        # LZ4_COMPRESSBOUND of lz4.h.
        n = decoded.limit
        return Size(HEADER_NBYTES + n + n // 255 + 16, exact=False)

    def encode(self, data: Bytes) -> Bytes:
        from numcodecs import lz4

        try:
            return lz4.compress(data, self.acceleration)  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        from numcodecs import lz4

        if len(data) < HEADER_NBYTES:
            expected = f"at least {HEADER_NBYTES} bytes"
            raise CodecError("cut short", codec=self.name, expected=expected, found=len(data))
        nbytes = int.from_bytes(data[:HEADER_NBYTES], "little")
        if not decoded.check(nbytes):
            raise wrong_size(self.name, decoded, nbytes)
        if nbytes == 0:  # numcodecs refuses it
            if data[HEADER_NBYTES:] in _EMPTY:
                return b""
            raise CodecError("bytes in a block of size 0", codec=self.name)
        try:
            return lz4.decompress(data, target(nbytes, out))  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error


NUMCODECS = {"lz4": LZ4Codec}
