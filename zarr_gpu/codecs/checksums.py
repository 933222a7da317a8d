"""Checksums: four bytes, little-endian, in front of or behind the bytes they protect.

``crc32c`` is a codec of the Zarr v3 specification; the others are those of numcodecs.

>>> bytes(Crc32cCodec().encode(b"123456789")[-4:]).hex()
'839206e3'
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import ClassVar, Literal, Self

import numpy as np

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.codecs._bytes_bytes import deliver, numcodecs_members, wrong_size
from zarr_gpu.codecs._members import check_names, choice, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.errors import ChecksumMismatchError, CodecError
from zarr_gpu.metadata.problems import show

NBYTES = 4


@dataclass(frozen=True)
class ChecksumCodec(BytesBytesCodec):
    """Adds :meth:`checksum` of the bytes; decoding compares it."""

    location: Literal["start", "end"] = "end"

    def __post_init__(self) -> None:
        choice({"location": self.location}, "location", "start", "end")

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        return cls.from_numcodecs(config)

    def to_config(self) -> dict[str, JSON]:
        return self.to_numcodecs()

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        members = numcodecs_members(config)
        check_names(members, "location")
        if members.get("location") is None:
            return cls()
        return cls(choice(members, "location", "start", "end"))

    def to_numcodecs(self) -> dict[str, JSON]:
        """Without ``location`` where it is numcodecs' own: older versions do not know it."""
        return {} if self == type(self)() else {"location": self.location}

    def checksum(self, data: Bytes) -> int:
        """The checksum of ``data``, 32 bits."""
        raise NotImplementedError

    def encoded_size(self, decoded: Size) -> Size:
        return Size(decoded.limit + NBYTES, decoded.exact)

    def encode(self, data: Bytes) -> Bytes:
        stored = self.checksum(data).to_bytes(NBYTES, "little")
        return b"".join((stored, data) if self.location == "start" else (data, stored))

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        view = memoryview(data)
        if len(view) < NBYTES:
            raise CodecError("cut short", codec=self.name, expected=NBYTES, found=len(view))
        if not decoded.check(len(view) - NBYTES):
            raise wrong_size(self.name, decoded, len(view) - NBYTES)
        at_start = self.location == "start"
        payload = view[NBYTES:] if at_start else view[:-NBYTES]
        stored = int.from_bytes(view[:NBYTES] if at_start else view[-NBYTES:], "little")
        computed = self.checksum(payload)
        if computed != stored:
            raise ChecksumMismatchError(
                "bytes do not match their checksum",
                codec=self.name,
                expected=f"0x{stored:08x}",
                found=f"0x{computed:08x}",
            )
        return deliver(payload, out)


@dataclass(frozen=True)
class Crc32cCodec(ChecksumCodec):
    """CRC-32C (Castagnoli), RFC 3720. ``location`` "start" exists only in numcodecs' spelling."""

    name: ClassVar[str] = "crc32c"

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        check_names(config)
        return cls()

    def to_dict(self) -> dict[str, JSON]:
        if self.location == "end":
            return {"name": self.name}
        return {"name": "numcodecs.crc32c", "configuration": self.to_numcodecs()}

    def checksum(self, data: Bytes) -> int:
        return crc32c_function()(data)


@dataclass(frozen=True)
class Crc32Codec(ChecksumCodec):
    """CRC-32 of zlib (ISO 3309)."""

    name: ClassVar[str] = "numcodecs.crc32"

    location: Literal["start", "end"] = "start"

    def checksum(self, data: Bytes) -> int:
        return zlib.crc32(data)


@dataclass(frozen=True)
class Adler32Codec(ChecksumCodec):
    """Adler-32 of zlib (RFC 1950)."""

    name: ClassVar[str] = "numcodecs.adler32"

    location: Literal["start", "end"] = "start"

    def checksum(self, data: Bytes) -> int:
        return zlib.adler32(data)


@dataclass(frozen=True)
class Fletcher32Codec(ChecksumCodec):
    """HDF5's Fletcher-32 over big-endian 16-bit words, at the end."""

    name: ClassVar[str] = "numcodecs.fletcher32"

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        check_names(numcodecs_members(config))
        return cls()

    def __post_init__(self) -> None:
        choice({"location": self.location}, "location", "end")

    def checksum(self, data: Bytes) -> int:
        from numcodecs import fletcher32  # the package first: threads that import wait for it

        if not len(data):
            return 0  # numcodecs fails on it
        # numcodecs has no way to ask for the checksum alone.
        return int.from_bytes(bytes(fletcher32.Fletcher32().encode(data)[-NBYTES:]), "little")


@dataclass(frozen=True)
class JenkinsLookup3Codec(ChecksumCodec):
    """Bob Jenkins's lookup3 as in HDF5, of ``prefix`` and the bytes, at the end."""

    name: ClassVar[str] = "numcodecs.jenkins_lookup3"

    initval: int = 0
    prefix: bytes | None = None

    def __post_init__(self) -> None:
        choice({"location": self.location}, "location", "end")
        integer({"initval": self.initval}, "initval", 0, 2**32 - 1)

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        members = numcodecs_members(config)
        check_names(members, "initval", "prefix")
        prefix = members.get("prefix")
        try:
            content = None if prefix is None else bytes(np.asarray(prefix, np.uint8))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"prefix: expected a list of bytes, found {show(prefix)}") from None
        return cls(initval=integer(members, "initval", 0, 2**32 - 1), prefix=content)

    def to_numcodecs(self) -> dict[str, JSON]:
        prefix = None if self.prefix is None else list(self.prefix)
        return {"initval": self.initval, "prefix": prefix}

    def checksum(self, data: Bytes) -> int:
        from numcodecs import jenkins

        if self.prefix:
            data = self.prefix + data
        return int(jenkins.jenkins_lookup3(np.frombuffer(data, np.uint8), self.initval))


@cache
def crc32c_function() -> Callable[[Bytes], int]:
    """The fastest CRC-32C installed; without any, one in NumPy."""
    found = [_google_crc32c, _compiled_crc32c]
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        found.reverse()  # importing google_crc32c would turn the interpreter lock on
    for find in found:
        function = find()
        if function is not None:
            return function
    from zarr_gpu.codecs._crc32c import crc32c

    return crc32c


def _google_crc32c() -> Callable[[Bytes], int] | None:
    try:
        import google_crc32c
    except ImportError:
        return None
    if google_crc32c.implementation != "c":
        return None
    # It takes no memoryview, but any array.
    return lambda data: int(google_crc32c.value(np.frombuffer(data, np.uint8)))


def _compiled_crc32c() -> Callable[[Bytes], int] | None:
    try:
        compiled = import_module("crc32c").crc32c
    except ImportError:
        return None
    return lambda data: int(compiled(data))


NUMCODECS = {
    "adler32": Adler32Codec,
    "crc32": Crc32Codec,
    "crc32c": Crc32cCodec,
    "fletcher32": Fletcher32Codec,
    "jenkins_lookup3": JenkinsLookup3Codec,
}
