"""Turns what codecs and stores raise into errors that name array, key, byte range and codec."""

from __future__ import annotations

from typing import Any

from zarr_gpu.errors import (
    ChecksumError,
    ChecksumMismatchError,
    ChunkDecodeError,
    ChunkEncodeError,
    ChunkNotFoundError,
    CodecError,
    LimitError,
    ShardIndexError,
)
from zarr_gpu.layout import ArrayLayout


class ChunkErrors:
    """Makes the errors of one array."""

    def __init__(self, layout: ArrayLayout) -> None:
        self._path = layout.path

    def decoding(
        self, error: CodecError | LimitError, key: str, byte_range: tuple[int, int] | None = None
    ) -> ChunkDecodeError:
        kind = ChunkDecodeError
        where: dict[str, Any] = {"array": self._path, "key": key, "byte_range": byte_range}
        if isinstance(error, CodecError):
            if isinstance(error, ChecksumMismatchError):
                kind = ChecksumError
            elif error.codec == "sharding_indexed":
                kind = ShardIndexError
            where |= {"codec": error.codec, "expected": error.expected, "found": error.found}
        return kind(str(error), **where)

    def encoding(self, error: Exception, key: str) -> ChunkEncodeError:
        codec = error.codec if isinstance(error, CodecError) else None
        return ChunkEncodeError(str(error), array=self._path, key=key, codec=codec)

    def missing(self, key: str) -> ChunkNotFoundError:
        return ChunkNotFoundError(
            "the chunk is missing and read_missing_chunks is off", array=self._path, key=key
        )
