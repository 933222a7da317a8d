"""``zarrs.gdeflate``: pages of GDeflate, made for decoding on a device.

A chunk is its decoded size and the number of pages, the compressed size of each page (all unsigned
64-bit integers, little-endian), and the pages, of which each holds the next 64 KiB. Defined by the
Rust crate zarrs, which calls it experimental.

>>> GDeflateCodec(level=9).to_dict()
{'name': 'zarrs.gdeflate', 'configuration': {'level': 9}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from zarr_gpu._types import JSON, Bytes, Int64
from zarr_gpu.codecs._bytes_bytes import target, wrong_size
from zarr_gpu.codecs._gdeflate import (
    LANES,
    NAME,
    PAGE_NBYTES,
    WORD_NBYTES,
    decode_page,
    encode_page,
)
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.errors import CodecError

MAX_PAGE_NBYTES = 131_360
"""Of a compressed page: what nvCOMP's encoder asks for, the most generous of those known."""

_MIN_PAGE_NBYTES = LANES * WORD_NBYTES  # every lane starts with a word
_HEADER_NBYTES = 16
_SIZE_NBYTES = 8


@dataclass(frozen=True)
class GDeflateCodec(BytesBytesCodec):
    """DEFLATE in pages of 32 interleaved streams; level 0 stores, 12 is the best.

    The host half is written in Python and slow; levels above 9 do the same as 9.
    """

    name: ClassVar[str] = NAME

    level: int = 6

    def __post_init__(self) -> None:
        integer({"level": self.level}, "level", 0, 12)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> GDeflateCodec:
        check_names(config, "level")
        return cls(integer(config, "level", 0, 12, default=6))

    def to_config(self) -> dict[str, JSON]:
        return {"level": self.level}

    def encoded_size(self, decoded: Size) -> Size:
        pages = -(-decoded.limit // PAGE_NBYTES)
        return Size(_HEADER_NBYTES + pages * (_SIZE_NBYTES + MAX_PAGE_NBYTES), exact=False)

    def encode(self, data: Bytes) -> Bytes:
        view = memoryview(data)
        pages = [
            encode_page(view[start : start + PAGE_NBYTES], self.level)
            for start in range(0, len(view), PAGE_NBYTES)
        ]
        header = np.array([len(view), len(pages), *map(len, pages)], "<u8")
        return b"".join([header.tobytes(), *pages])

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        pages = split_pages(data, decoded)
        result = target(int(pages.out_nbytes.sum()), out)
        view = memoryview(data)
        start = 0
        for offset, nbytes, out_nbytes in zip(
            pages.offset.tolist(), pages.nbytes.tolist(), pages.out_nbytes.tolist(), strict=True
        ):
            page = decode_page(view[offset : offset + nbytes], out_nbytes)
            result[start : start + out_nbytes] = page
            start += out_nbytes
        return result


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the pages of a chunk lie, and how much each holds; one row per page, in order."""

    offset: Int64
    nbytes: Int64
    out_nbytes: Int64


def split_pages(data: Bytes, decoded: Size) -> Pages:
    """The pages of a chunk.

    Offsets and sizes are multiples of 4, sizes are those that an encoder can produce, and together
    the pages fill the chunk to its end: what they hold is a size that ``decoded`` allows, exactly
    64 KiB each but for the last. Raises CodecError otherwise. Reads nothing but the header.
    """
    if len(data) < _HEADER_NBYTES:
        raise _cut_short(_HEADER_NBYTES, len(data))
    nbytes = int.from_bytes(data[:8], "little")
    n_pages = int.from_bytes(data[8:_HEADER_NBYTES], "little")
    if not decoded.check(nbytes):
        raise wrong_size(NAME, decoded, nbytes)
    if n_pages != -(-nbytes // PAGE_NBYTES):
        raise CodecError(
            f"wrong number of pages for {nbytes} bytes",
            codec=NAME,
            expected=-(-nbytes // PAGE_NBYTES),
            found=n_pages,
        )
    start = _HEADER_NBYTES + n_pages * _SIZE_NBYTES
    if len(data) < start:
        raise _cut_short(start, len(data))
    sizes = np.frombuffer(data, "<u8", n_pages, _HEADER_NBYTES)
    bad = (sizes < _MIN_PAGE_NBYTES) | (sizes > MAX_PAGE_NBYTES) | (sizes % WORD_NBYTES != 0)
    if bad.any():
        page = int(bad.argmax())
        raise CodecError(
            f"impossible size of page {page}",
            codec=NAME,
            expected=f"{_MIN_PAGE_NBYTES} to {MAX_PAGE_NBYTES} bytes, a multiple of {WORD_NBYTES}",
            found=int(sizes[page]),
        )
    ends = start + np.cumsum(sizes, dtype=np.int64)
    end = int(ends[-1]) if n_pages else start
    if end != len(data):
        raise CodecError(
            "pages do not end where the chunk ends", codec=NAME, expected=end, found=len(data)
        )
    out = np.full(n_pages, PAGE_NBYTES, np.int64)
    if n_pages:
        out[-1] = nbytes - (n_pages - 1) * PAGE_NBYTES
    nbytes_of = sizes.astype(np.int64)
    return Pages(ends - nbytes_of, nbytes_of, out)


def _cut_short(expected: int, found: int) -> CodecError:
    return CodecError("cut short", codec=NAME, expected=f"at least {expected} bytes", found=found)
