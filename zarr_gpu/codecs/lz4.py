"""``lz4``: the decoded size as 4 bytes, little-endian, then one LZ4 block (numcodecs "lz4").

>>> LZ4Codec().to_dict()
{'name': 'numcodecs.lz4', 'configuration': {'acceleration': 1}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.codecs import _native
from zarr_gpu.codecs._bytes_bytes import (
    SHORT_NBYTES,
    ends_early,
    numcodecs_members,
    target,
    wrong_size,
)
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.errors import CodecError

HEADER_NBYTES = 4
_EMPTY = (b"", b"\x00")  # of no bytes at all: nothing, or a token that says so


@dataclass(frozen=True)
class LZ4Codec(BytesBytesCodec):
    """LZ4; larger ``acceleration`` is faster and compresses less."""

    name: ClassVar[str] = "numcodecs.lz4"
    parts_above: ClassVar[int | None] = SHORT_NBYTES

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
        nbytes = self._claimed(data, decoded)
        if nbytes == 0:  # numcodecs refuses it
            if data[HEADER_NBYTES:] in _EMPTY:
                return b""
            raise CodecError("bytes in a block of size 0", codec=self.name)
        library = self._library(data, nbytes)
        if library is not None:
            into = target(nbytes, out)
            block = memoryview(data)[HEADER_NBYTES:]
            size = library.decompress(
                _native.pointer(into), nbytes, _native.pointer(block), len(block)
            )
            if size != nbytes:
                raise self._bad(nbytes, size)
            return into
        from numcodecs import lz4

        try:
            return lz4.decompress(data, target(nbytes, out))  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error

    def decode_part(self, data: Bytes, decoded: Size, offset: int, nbytes: int) -> Bytes | None:
        end = offset + nbytes
        library = self._library(data, self._claimed(data, decoded))
        if library is None or not ends_early(decoded, end):
            return None
        into = target(end, None)
        block = memoryview(data)[HEADER_NBYTES:]
        size = library.part(_native.pointer(into), end, _native.pointer(block), len(block))
        if size != end:
            raise self._bad(end, size)
        return into[offset:]

    def _claimed(self, data: Bytes, decoded: Size) -> int:
        """The decoded size by the header, which agrees with the metadata."""
        if len(data) < HEADER_NBYTES:
            expected = f"at least {HEADER_NBYTES} bytes"
            raise CodecError("cut short", codec=self.name, expected=expected, found=len(data))
        nbytes = int.from_bytes(data[:HEADER_NBYTES], "little")
        if not decoded.check(nbytes):
            raise wrong_size(self.name, decoded, nbytes)
        return nbytes

    def _library(self, data: Bytes, nbytes: int) -> _native.Lz4 | None:
        """LZ4 itself, for a block of at least a byte and of sizes that fit its arguments."""
        fits = nbytes <= _native.MAX_INT and HEADER_NBYTES < len(data) <= _native.MAX_INT
        return _native.lz4() if fits else None

    def _bad(self, expected: int, size: int) -> CodecError:
        found = f"error {size}" if size < 0 else f"{size} bytes"
        return CodecError("bad block", codec=self.name, expected=f"{expected} bytes", found=found)


NUMCODECS = {"lz4": LZ4Codec}
