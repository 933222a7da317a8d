"""Turns what codecs and stores raise into errors that name array, key, byte range and codec."""

from __future__ import annotations

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
        self._outermost = layout.chain.codecs[-1].name

    def decoding(
        self, error: CodecError | LimitError, key: str, byte_range: tuple[int, int] | None = None
    ) -> ChunkDecodeError:
        kind = ChunkDecodeError
        codec = error.codec if isinstance(error, CodecError) else self._outermost
        if isinstance(error, ChecksumMismatchError):
            kind = ChecksumError
        elif codec == "sharding_indexed":
            kind = ShardIndexError
        # Libraries say nothing but a text.
        expected = f"valid {codec} data" if error.expected is None else error.expected
        found = str(error) if error.found is None else error.found
        return kind(
            str(error),
            array=self._path,
            key=key,
            byte_range=byte_range,
            codec=codec,
            expected=expected,
            found=found,
        )

    def encoding(self, error: Exception, key: str) -> ChunkEncodeError:
        codec = error.codec if isinstance(error, CodecError) else None
        return ChunkEncodeError(str(error), array=self._path, key=key, codec=codec)

    def missing(self, key: str) -> ChunkNotFoundError:
        return ChunkNotFoundError(
            "the chunk is missing and read_missing_chunks is off", array=self._path, key=key
        )
