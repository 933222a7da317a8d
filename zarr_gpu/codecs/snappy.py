r"""Raw Snappy streams, which occur inside Blosc containers of other writers. Not a codec.

Decoded by ``cramjam`` when it is installed, else here: slower, with the same checks.
Format: format_description.txt of google/snappy.

>>> out = bytearray(6)
>>> decompress_into(b"\x06\x04ab\x01\x02", memoryview(out))
>>> bytes(out)
b'ababab'
"""

from __future__ import annotations

from functools import cache
from typing import Any

from zarr_gpu.errors import CodecError


def decompress_into(data: memoryview, out: memoryview) -> None:
    """Decode a raw stream; CodecError unless it is valid and fills ``out`` exactly."""
    claimed, start = _length(data)
    if claimed != len(out):
        raise _bad("wrong decoded size", f"{len(out)} bytes", f"{claimed} bytes")
    library = _library()
    if library is None:
        _decode(bytes(data[start:]), out)
        return
    try:
        written = library.snappy.decompress_raw_into(data, out)
    except (library.DecompressionError, ValueError, OSError) as error:
        raise _bad(str(error)) from error
    if written != len(out):
        raise _bad("wrong decoded size", f"{len(out)} bytes", f"{written} bytes")


def _length(data: memoryview) -> tuple[int, int]:
    """The decoded size at the start of a stream, and where it ends."""
    value = 0
    for i, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, i + 1
    raise _bad("size of the stream damaged or cut short")


def _decode(data: bytes, out: memoryview) -> None:
    at = written = 0
    while at < len(data):
        tag = data[at]
        kind = tag & 3
        extra = max(0, (tag >> 2) - 59) if kind == 0 else (1, 2, 4)[kind - 1]
        operand = int.from_bytes(data[at + 1 : at + 1 + extra], "little")
        at += 1 + extra
        if kind == 0:
            length = (operand if extra else tag >> 2) + 1
            source = data[at : at + length]
            at += length
        else:
            length = (tag >> 2 & 7) + 4 if kind == 1 else (tag >> 2) + 1
            distance = (tag >> 5) << 8 | operand if kind == 1 else operand
            if not 0 < distance <= written:
                raise _bad("copy from before the start", f"1 to {written}", distance)
            source = bytes(out[written - distance : min(written, written - distance + length)])
            source = (source * (length // len(source) + 1))[:length]  # a copy may overlap itself
        if at > len(data) or written + length > len(out):
            raise _bad("stream damaged or cut short")
        out[written : written + length] = source
        written += length
    if written != len(out):
        raise _bad("stream cut short", f"{len(out)} bytes", f"{written} bytes")


def _bad(message: str, expected: object = None, found: object = None) -> CodecError:
    return CodecError(f"snappy: {message}", codec="blosc", expected=expected, found=found)


@cache
def _library() -> Any:
    try:
        import cramjam
    except ImportError:
        return None
    return cramjam
