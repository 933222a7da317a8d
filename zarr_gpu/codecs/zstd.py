"""``zstd``: frames of RFC 8878 (registered v3 codec "zstd", numcodecs "zstd").

The headers of frames are read here, before libzstd sees them: what they claim must agree with the
size that the array's metadata give.

>>> ZstdCodec(level=3).to_dict()
{'name': 'zstd', 'configuration': {'level': 3, 'checksum': False}}
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from zarr_gpu._types import JSON, Bytes, Int64
from zarr_gpu.codecs import _native, _zstd_batch
from zarr_gpu.codecs._bytes_bytes import (
    SHORT_NBYTES,
    SLACK,
    ends_early,
    numcodecs_members,
    target,
    wrong_size,
)
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import BytesBytesCodec, Size
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.problems import show

MAX_WINDOW_NBYTES = 128 << 20  # what libzstd's own tools accept unless told otherwise
_BLOCK_NBYTES = 128 << 10  # largest block, RFC 8878 section 3.1.1.2.4
_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGIC_NUMBER = int.from_bytes(_MAGIC, "little")
_HEAD = struct.Struct("<IBQ")  # magic, descriptor, and a content size of up to 8 bytes
_CONTENT = ((0xFF, 0), (0xFFFF, 256), (0xFFFFFFFF, 0), (2**64 - 1, 0))  # mask and offset


@dataclass(frozen=True)
class ZstdCodec(BytesBytesCodec):
    """Zstandard; level 0 is the library's default, ``checksum`` adds four bytes per frame."""

    name: ClassVar[str] = "zstd"
    parts_above: ClassVar[int | None] = SHORT_NBYTES

    level: int = 0
    checksum: bool = False

    def __post_init__(self) -> None:
        integer({"level": self.level}, "level", -131072, 22)
        if not isinstance(self.checksum, bool):
            raise ValueError(f"checksum: expected true or false, found {show(self.checksum)}")

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> ZstdCodec:
        check_names(config, "level", "checksum")
        level = integer(config, "level", -131072, 22)
        return cls(level, config.get("checksum", False))  # type: ignore[arg-type]  # checked there

    def to_config(self) -> dict[str, JSON]:
        return {"level": self.level, "checksum": self.checksum}

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> ZstdCodec:
        return cls.from_config(numcodecs_members(config))

    to_numcodecs = to_config

    def encoded_size(self, decoded: Size) -> Size:
        # ZSTD_compressBound is n + n/256 + 64; more for writers that make many small frames.
        return Size(decoded.limit + (decoded.limit >> 4) + SLACK, exact=False)

    def encode(self, data: Bytes) -> Bytes:
        nbytes = len(data)
        library = _native.zstd() if 0 < nbytes <= _native.MOST_ZSTD else None
        if library is not None:
            frame = library.compress(_native.pointer(data), nbytes, self.level, self.checksum)
            if frame is not None:
                return frame
        from numcodecs import zstd

        try:
            return zstd.compress(data, self.level, self.checksum)  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        if decoded.exact and _is_plain(data, decoded.limit):
            return self._decode_exact(data, decoded.limit, out)
        frame = read_frame_header(data)
        if decoded.exact and frame.content_nbytes == decoded.limit and decoded.limit:
            # The first frame holds everything; libzstd notices when others hold more.
            return self._decode_exact(data, decoded.limit, out)
        total = read_sizes(data)
        if total.exact or not total.limit or not decoded.limit:
            if not decoded.check(total.limit):
                raise wrong_size(self.name, decoded, total.limit)
            # numcodecs takes a content size of 0 for an error.
            return self._decode_exact(data, total.limit, out) if total.limit else b""
        if decoded.exact:
            return self._decode_exact(data, decoded.limit, out)
        return self._decode_unknown(data, decoded, total)

    def decoder(
        self, encoded: memoryview, out: memoryview, decoded: Size
    ) -> Callable[[int, int], bool] | None:
        library, nbytes = _native.zstd_decoder(), decoded.limit
        if library is None or not decoded.exact or len(encoded) < _HEAD.size:
            return None
        decompress = library.decompress
        source, start = _native.address(encoded), _native.address(out)
        last = len(out) - nbytes

        def decode(n: int, at: int) -> bool:
            return (
                n >= _HEAD.size
                and 0 <= at <= last
                and _is_plain(encoded, nbytes)
                and decompress(start + at, nbytes, source, n) == nbytes
            )

        return decode

    def decode_part(self, data: Bytes, decoded: Size, offset: int, nbytes: int) -> Bytes | None:
        end = offset + nbytes
        library = _native.zstd_decoder()
        if library is None or not ends_early(decoded, end):
            return None
        if read_frame_header(data).content_nbytes != decoded.limit:
            return None  # several frames, or a damaged one
        into = target(end, None)
        done = library.part(_native.pointer(into), end, _native.pointer(data), len(data))
        return into[offset:] if done == end else None  # decoding all says what is wrong

    @property
    def decodes_many(self) -> bool:
        return _zstd_batch.available()

    def decode_many(
        self, data: Bytes, offset: Int64, nbytes: Int64, decoded: Size
    ) -> Sequence[Bytes] | None:
        first = int(offset[0])
        head = data[first : min(first + int(nbytes[0]), first + _HEAD.size)]
        if not _is_plain(head, decoded.limit):
            return None
        return _zstd_batch.decode(data, offset, nbytes, decoded.limit)

    def _decode_exact(self, data: Bytes, nbytes: int, out: memoryview | None) -> Bytes:
        # libzstd never writes beyond the memory it is given, and nothing less is accepted.
        library = _native.zstd_decoder()
        if library is not None:
            into = target(nbytes, out)
            size = library.decompress(
                _native.pointer(into), nbytes, _native.pointer(data), len(data)
            )
            if size > nbytes:
                raise CodecError(library.error(size), codec=self.name)
            if size < nbytes:
                raise wrong_size(self.name, Size(nbytes), size)
            return into
        from numcodecs import zstd

        try:
            return zstd.decompress(data, target(nbytes, out))  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error

    def _decode_unknown(self, data: Bytes, decoded: Size, most: Size) -> Bytes:
        """Neither the frames nor the metadata say how many bytes there are."""
        if most.limit <= decoded.limit + (1 << 20):
            from numcodecs import zstd

            try:
                result: bytes = zstd.decompress(data)
            except (RuntimeError, ValueError) as error:
                raise CodecError(str(error), codec=self.name) from error
        else:
            raise CodecError(
                "frames that do not give their size could be too large",
                codec=self.name,
                expected=f"at most {decoded.limit} bytes",
                found=f"up to {most.limit} bytes",
            )
        if not decoded.check(len(result)):
            raise wrong_size(self.name, decoded, len(result))
        return result


def _is_plain(data: Bytes, nbytes: int) -> bool:
    """True when ``data`` start with a frame as compressors of whole buffers write it.

    A single segment (so that its window is its content) of ``nbytes``, without a dictionary: that
    much of the header decides everything that :func:`read_frame_header` would.
    """
    if len(data) < _HEAD.size or not nbytes:
        return False
    magic: int
    descriptor: int
    content: int
    magic, descriptor, content = _HEAD.unpack_from(data)
    mask, offset = _CONTENT[descriptor >> 6]
    single = descriptor & 0x2B == 0x20  # 0x08 is reserved, 0x03 the size of a dictionary's number
    return magic == _MAGIC_NUMBER and single and (content & mask) + offset == nbytes


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """Of a Zstandard frame; ``content_nbytes`` None means not given.

    The header of a skippable frame spans all of it.
    """

    header_nbytes: int
    content_nbytes: int | None = 0
    window_nbytes: int = 0
    checksum: bool = False
    skippable: bool = False


def read_frame_header(data: Bytes, start: int = 0) -> FrameHeader:
    """The header of the frame at ``start`` (RFC 8878 section 3.1.1.1).

    Raises CodecError when it is no frame, cut short, or has too large a window.
    """
    head = bytes(data[start : start + 18])
    if len(head) >= 8 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return FrameHeader(8 + int.from_bytes(head[4:8], "little"), skippable=True)
    if head[:4] != _MAGIC:
        found = head[:4].hex() or "nothing"
        raise CodecError("not a zstd frame", codec="zstd", expected=_MAGIC.hex(), found=found)
    descriptor = head[4] if len(head) > 4 else 0
    single = bool(descriptor & 0x20)
    at = (5 if single else 6) + (0, 1, 2, 4)[descriptor & 3]  # behind the dictionary's number
    nbytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    if len(head) < at + nbytes or descriptor & 0x08:
        raise CodecError("frame header damaged or cut short", codec="zstd")
    content = int.from_bytes(head[at : at + nbytes], "little") if nbytes else None
    if content is not None and nbytes == 2:
        content += 256
    # The window of a single segment is its content, which is compared with the metadata.
    window = (content or 0) if single else _window_nbytes(head[5])
    return FrameHeader(at + nbytes, content, window, bool(descriptor & 4))


def _window_nbytes(descriptor: int) -> int:
    base = 1 << (10 + (descriptor >> 3))
    window = base + (base >> 3) * (descriptor & 7)
    if window > MAX_WINDOW_NBYTES:
        expected = f"at most {MAX_WINDOW_NBYTES} bytes"
        raise CodecError(
            "window too large", codec="zstd", expected=expected, found=f"{window} bytes"
        )
    return window


def read_sizes(data: Bytes) -> Size:
    """What all frames together decode to by their headers: exact, or an upper bound.

    Walks the headers of frames and blocks and decodes nothing. Raises CodecError when they do not
    end where ``data`` end.
    """
    limit = at = 0
    exact = True
    while at < len(data):
        frame = read_frame_header(data, at)
        at += frame.header_nbytes
        if frame.skippable:
            continue
        at, most = _walk_blocks(data, at, min(frame.window_nbytes, _BLOCK_NBYTES))
        at += 4 if frame.checksum else 0
        if frame.content_nbytes is not None and frame.content_nbytes > most:
            raise CodecError(
                "a frame claims more than its blocks can hold",
                codec="zstd",
                expected=f"at most {most} bytes",
                found=f"{frame.content_nbytes} bytes",
            )
        exact = exact and frame.content_nbytes is not None
        limit += most if frame.content_nbytes is None else frame.content_nbytes
    if at != len(data) or not data:
        raise CodecError(
            "frames cut short", codec="zstd", expected=f"{at} bytes", found=f"{len(data)} bytes"
        )
    return Size(limit, exact)


def _walk_blocks(data: Bytes, at: int, largest: int) -> tuple[int, int]:
    """Where the blocks of a frame end, and the most they can decode to (RFC 8878, 3.1.1.2)."""
    most = 0
    last = 0
    while not last:
        header = int.from_bytes(data[at : at + 3], "little")
        if at + 3 > len(data):
            raise CodecError(f"frame cut short after {len(data)} bytes", codec="zstd")
        last, kind, nbytes = header & 1, header >> 1 & 3, header >> 3
        most += min(nbytes, largest) if kind < 2 else largest
        at += 3 + (1 if kind == 1 else nbytes)  # kind 1: one byte, repeated
    return at, most


NUMCODECS = {"zstd": ZstdCodec}
