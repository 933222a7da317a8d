"""Many small zstd frames decoded by one call, without the interpreter lock.

Decoding a frame of a few KiB takes as long as handing the lock from thread to thread, so that two
threads that decode frame by frame are slower than one. The package ``zstandard`` decodes a list of
frames in one call. It neither says where a frame ends nor whether something follows, so the headers
of frames and blocks (RFC 8878, section 3.1.1) are walked first, all at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from zarr_gpu._types import Bytes, Int64

_MOST_BLOCKS = 4  # of a frame that is worth being walked


def decode(data: Bytes, offset: Int64, nbytes: Int64, content: int) -> Sequence[Bytes] | None:
    """What each of the frames at ``offset`` holds, ``content`` bytes.

    None when the package is missing, or a frame is damaged or not as plain as the first one, whose
    header the caller has checked.
    """
    library = _library()
    if library is None or not ends_fit(np.frombuffer(data, np.uint8), offset, nbytes):
        return None
    segments = np.stack((offset, nbytes), axis=1).astype(np.uint64)
    sizes = np.full(len(offset), content, np.uint64)
    frames = library.BufferWithSegments(data, segments.tobytes())
    try:
        return _decompressors.get(library).multi_decompress_to_buffer(  # type: ignore[no-any-return]
            frames, decompressed_sizes=sizes.tobytes(), threads=1
        )
    except (library.ZstdError, ValueError):
        return None


def available() -> bool:
    """True where the package is installed, with the backend that decodes many."""
    return _library() is not None


def ends_fit(data: Any, offset: Int64, nbytes: Int64) -> bool:
    """True when all frames have the header of the first, and end where they should."""
    first = int(offset[0])
    descriptor = int(data[first + 4])
    header_nbytes = 5 + (1, 2, 4, 8)[descriptor >> 6]
    if int(nbytes.min()) < header_nbytes + 3:
        return False
    header = data[offset[:, None] + np.arange(header_nbytes)]
    if (header != header[0]).any():
        return False
    end = offset + nbytes - (4 if descriptor & 4 else 0)  # the checksum of the content
    at = offset + header_nbytes
    for _ in range(_MOST_BLOCKS):
        word = data[at[:, None] + np.arange(3)].astype(np.int64)
        block = word[:, 0] | word[:, 1] << 8 | word[:, 2] << 16
        size, kind = block >> 3, block >> 1 & 3  # kind 1: one byte, repeated
        at = at + 3 + np.where(kind == 1, 1, size)
        left = (block & 1) == 0
        if (at[~left] != end[~left]).any() or (at[left] + 3 > end[left]).any():
            return False
        if not left.any():
            return True
        at, end = at[left], end[left]
    return False


class _Decompressors(threading.local):
    """One per thread: they hold a context."""

    def __init__(self) -> None:
        self._mine: Any = None

    def get(self, library: Any) -> Any:
        if self._mine is None:
            self._mine = library.ZstdDecompressor()
        return self._mine


_decompressors = _Decompressors()


@cache
def _library() -> Any:
    try:
        import zstandard
    except ImportError:
        return None
    # The backend in C has it, the one for PyPy has not.
    return zstandard if hasattr(zstandard.ZstdDecompressor, "multi_decompress_to_buffer") else None
