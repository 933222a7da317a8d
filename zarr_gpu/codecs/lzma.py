"""``lzma``: xz, lzma or raw streams of liblzma (numcodecs "lzma").

>>> LZMACodec(preset=6).to_config()
{'format': 1, 'check': -1, 'preset': 6, 'filters': None}
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.problems import show

MAX_DICTIONARY_NBYTES = 128 << 20
_MEMORY_NBYTES = MAX_DICTIONARY_NBYTES + (4 << 20)  # a decoder is its dictionary and some tables
_CHECKS = (-1, lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256)


@dataclass(frozen=True)
class LZMACodec(BytesBytesCodec):
    """The arguments of :func:`lzma.compress`, by its numbers."""

    name: ClassVar[str] = "numcodecs.lzma"

    format: int = lzma.FORMAT_XZ
    check: int = -1
    preset: int | None = None
    filters: Sequence[Mapping[str, int]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        members: dict[str, JSON] = {"format": self.format, "check": self.check}
        integer(members, "format", lzma.FORMAT_AUTO, lzma.FORMAT_RAW)
        if integer(members, "check", -1, 15) not in _CHECKS:
            raise ValueError(f"check: expected one of {list(_CHECKS)}, found {self.check}")
        if self.preset is not None:
            preset: JSON = self.preset
            if isinstance(preset, int) and preset & lzma.PRESET_EXTREME:
                preset &= ~lzma.PRESET_EXTREME
            integer({"preset": preset}, "preset", 0, 9)
        if self.filters is not None:
            _check_filters(self.filters)
            if self.preset is not None:
                raise ValueError("preset: must be null where filters are given")
        elif self.format == lzma.FORMAT_RAW:
            raise ValueError("filters: required for raw streams, but missing")

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> LZMACodec:
        members = numcodecs_members(config)
        check_names(members, "format", "check", "preset", "filters")
        return cls(**members)  # type: ignore[arg-type]  # __post_init__ checks them

    from_numcodecs = from_config

    def to_config(self) -> dict[str, JSON]:
        return {
            "format": self.format,
            "check": self.check,
            "preset": self.preset,
            "filters": None if self.filters is None else [dict(f) for f in self.filters],
        }

    to_numcodecs = to_config

    def encoded_size(self, decoded: Size) -> Size:
        # xz stores what does not compress (lzma_stream_buffer_bound); the old format cannot.
        return Size(decoded.limit + (decoded.limit >> 3) + SLACK, exact=False)

    def encode(self, data: Bytes) -> Bytes:
        try:
            return lzma.compress(data, self.format, self.check, self.preset, self._filters())
        except (lzma.LZMAError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        result = decompress_streams(
            self._decompressor,
            data,
            decoded,
            codec=self.name,
            members=True,
            errors=(lzma.LZMAError, ValueError),
        )
        return deliver(result, out)

    def _filters(self) -> list[dict[str, int]] | None:
        return None if self.filters is None else [dict(f) for f in self.filters]

    def _decompressor(self) -> lzma.LZMADecompressor:
        if self.format == lzma.FORMAT_RAW:
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self._filters())
        return lzma.LZMADecompressor(self.format, _MEMORY_NBYTES)  # others name their filters


def _check_filters(filters: object) -> None:
    """Accept what liblzma accepts, with a dictionary that a reader may allocate."""
    ok = isinstance(filters, (list, tuple)) and all(
        isinstance(f, Mapping) and all(type(v) is int for v in f.values()) for f in filters
    )
    if not ok:
        raise ValueError(f"filters: expected a list of objects of numbers, found {show(filters)}")
    chain: list[dict[str, int]] = [dict(f) for f in filters]  # type: ignore[attr-defined]  # ok
    for i, member in enumerate(chain):
        dictionary = member.get("dict_size", 0)
        if dictionary > MAX_DICTIONARY_NBYTES:
            raise ValueError(
                f"filters[{i}].dict_size: expected at most {MAX_DICTIONARY_NBYTES}, "
                f"found {dictionary}"
            )
    try:
        lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)
    except (lzma.LZMAError, ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"filters: {error}") from error


NUMCODECS = {"lzma": LZMACodec}
