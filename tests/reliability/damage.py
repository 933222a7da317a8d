"""Bad chunks made from good ones: truncated, lying, overlapping, flipped.

Each case says what a reader must make of it: refuse it, refuse it or read it right, or (where the
format cannot tell) anything of the right shape, within bounds.
"""

from __future__ import annotations

import bz2
import gzip
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tests.reliability.layouts import Layout
from zarr_gpu.codecs.checksums import Crc32cCodec

Verdict = Literal["refused", "refused or right", "bounded"]
MISSING = 2**64 - 1
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Case:
    """``data`` in place of the object; None where it is the unchanged original."""

    name: str
    data: bytes
    verdict: Verdict


def cases(layout: Layout, flips: int, seed: int = 0) -> Iterator[Case]:
    """All bad versions of the first object of ``layout``."""
    stored = layout.stored()
    good = stored[layout.key]
    yield from _cut(good)
    yield from _LIES[layout.family](good)
    undetectable: Verdict = "refused or right" if layout.checked else "bounded"
    yield Case("bytes of another chunk", stored[layout.other_key], "bounded")
    yield Case("zeros", bytes(len(good)), "bounded" if layout.family == "raw" else "refused")
    yield Case("noise", np.random.default_rng(seed).bytes(len(good)), undetectable)
    yield from _flips(good, flips, seed, undetectable)


def _cut(good: bytes) -> Iterator[Case]:
    n = len(good)
    lengths = {*range(min(24, n)), *range(0, n, max(1, n // 23)), *range(max(0, n - 20), n)}
    for length in sorted(lengths):
        yield Case(f"cut to {length} of {n} bytes", good[:length], "refused")
    yield Case("one byte longer", good + b"\x00", "refused or right")
    yield Case("one byte of noise longer", good + b"\x9d", "refused or right")
    yield Case("twice", good + good, "refused or right")
    yield Case("first byte gone", good[1:], "refused")


def _flips(good: bytes, count: int, seed: int, verdict: Verdict) -> Iterator[Case]:
    rng = random.Random(seed)
    for i in range(count):
        copy = bytearray(good)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            near = min(len(copy), 32) if rng.random() < 0.4 else len(copy)
            copy[rng.randrange(near)] ^= 1 << rng.randrange(8)
        if copy != good:
            yield Case(f"flip {i} of seed {seed}", bytes(copy), verdict)
    for i in range(count // 4):
        at, n = rng.randrange(len(good)), rng.randrange(1, 32)
        part = good[at : at + n]
        yield Case(f"run {i} of seed {seed} removed", good[:at] + good[at + n :], verdict)
        yield Case(
            f"run {i} of seed {seed} doubled", good[: at + n] + part + good[at + n :], verdict
        )


def _raw(good: bytes) -> Iterator[Case]:
    yield Case("half", good[: len(good) // 2], "refused")
    yield Case("double", good * 2, "refused")


# -- streams ----------------------------------------------------------------------------------


def _frame(content: int, *blocks: tuple[int, int, bytes], window: int | None = None) -> bytes:
    """A zstd frame of ``(kind, size, bytes)`` blocks that claims ``content`` bytes."""
    descriptor = 0xC0 | (0x20 if window is None else 0)
    head = ZSTD_MAGIC + bytes([descriptor] if window is None else [descriptor, window])
    out = head + struct.pack("<Q", content)
    for i, (kind, size, data) in enumerate(blocks):
        last = i == len(blocks) - 1
        out += (last | kind << 1 | size << 3).to_bytes(3, "little") + data
    return out


def _zstd(good: bytes) -> Iterator[Case]:
    for content in (0, 1, 191, 193, 2**31, 2**32, 2**62, 2**63, MISSING - 1, MISSING):
        yield Case(
            f"claims {content} bytes",
            _frame(content, (0, 192, bytes(192)))
            if content not in (0,)
            else _frame(0, (0, 0, b"")),
            "refused",
        )
    yield Case("repeats a byte 2 MiB", _frame(192, (1, 2**21 - 1, b"x")), "refused")
    yield Case("many repeating blocks", _frame(192, *[(1, 2**17, b"x")] * 500), "refused")
    yield Case("reserved block", _frame(192, (3, 192, bytes(192))), "refused")
    yield Case("window of 2 TiB", _frame(192, (0, 192, bytes(192)), window=0xFF), "refused")
    unsized = (
        ZSTD_MAGIC
        + b"\x00\x58"
        + b"".join(((i == 9) | 2 | 2**17 << 3).to_bytes(3, "little") + b"x" for i in range(10))
    )
    yield Case("no size, 1.3 MB", unsized, "refused")
    yield Case("no size, 192 times nothing", ZSTD_MAGIC + b"\x00\x58\x01\0\0", "refused")
    for magic in (0xFD2FB522, 0xFD2FB523, 0xFD2FB524, 0xFD2FB527, 0x184D2A50):
        yield Case(f"magic {magic:#x}", struct.pack("<I", magic) + good[4:], "refused")
    yield Case("skippable frame claims 4 GiB", struct.pack("<II", 0x184D2A50, 2**32 - 1), "refused")
    yield Case("skippable frames only", struct.pack("<II", 0x184D2A51, 4) + b"1234", "refused")
    yield Case(
        "skippable frame before",
        struct.pack("<II", 0x184D2A51, 4) + b"1234" + good,
        "refused or right",
    )
    for bit in range(8):
        copy = bytearray(good)
        copy[4] ^= 1 << bit
        yield Case(f"descriptor bit {bit}", bytes(copy), "refused or right")


def _deflated(make: Callable[[bytes], bytes]) -> Iterator[Case]:
    for n in (0, 1, 191, 193, 384, 1 << 20):
        yield Case(f"holds {n} bytes", make(b"x" * n), "refused")
    yield Case("two streams too many", make(b"x" * 192) + make(b"x" * 192), "refused")
    yield Case("many empty streams", make(b"") * 400, "refused")


def _gzip(good: bytes) -> Iterator[Case]:
    yield from _deflated(lambda data: gzip.compress(data, 1))
    for name, head in {
        "extra field of 64 KiB": b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff",
        "endless name": b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 500,
        "reserved flags": b"\x1f\x8b\x08\xe0" + bytes(6),
        "method 7": b"\x1f\x8b\x07\x00" + bytes(6),
    }.items():
        yield Case(name, head + good[10:], "refused")
    for size in (0, 191, 2**32 - 1):
        yield Case(f"trailer says {size} bytes", good[:-4] + struct.pack("<I", size), "refused")
    yield Case("another checksum", good[:-8] + bytes(4) + good[-4:], "refused")


def _zlib(good: bytes) -> Iterator[Case]:
    yield from _deflated(zlib.compress)
    yield Case("another checksum", good[:-4] + bytes(4), "refused")
    yield Case("preset dictionary", bytes([0x78, 0xBB]) + b"\0\0\0\1" + good[2:], "refused")


def _bz2(good: bytes) -> Iterator[Case]:
    yield from _deflated(bz2.compress)
    yield Case("block size 0", b"BZh0" + good[4:], "refused")


def _lz4(good: bytes) -> Iterator[Case]:
    for size in (0, 1, 191, 193, 384, 2**31 - 1, 2**31, 2**32 - 1):
        yield Case(f"claims {size} bytes", struct.pack("<I", size) + good[4:], "refused")
    blocks = {
        "match before the start": b"\x14x\xff\xff" + b"\x50abcde",
        "offset 0": b"\x14x\x00\x00" + b"\x50abcde",
        "endless literals": b"\xf0" + b"\xff" * 150,
        "endless match": b"\x1fx\x01\x00" + b"\xff" * 150,
        "nothing": b"",
    }
    for name, block in blocks.items():
        yield Case(name, struct.pack("<I", 192) + block, "refused")


def _blosc(good: bytes) -> Iterator[Case]:
    numbers = (0, 1, 15, 16, 17, 191, 193, 2**31 - 17, 2**31 - 1, 2**31, 2**32 - 1)
    fields: list[tuple[int, str, Verdict]] = [
        (4, "decoded size", "refused"),
        (8, "block size", "bounded"),
        (12, "own size", "refused or right"),
        (16, "start of block", "refused or right"),
    ]
    for at, name, verdict in fields:
        for number in numbers:
            data = good[:at] + struct.pack("<I", number) + good[at + 4 :]
            if data != good:
                yield Case(f"{name} {number}", data, verdict)
    for version in (0, 1, 3, 255):
        yield Case(f"version {version}", bytes([version]) + good[1:], "refused or right")
    for typesize in (0, 1, 3, 255):
        yield Case(f"element size {typesize}", good[:3] + bytes([typesize]) + good[4:], "bounded")
    for flags in range(0, 256, 7):
        if flags != good[2]:
            yield Case(f"flags {flags:#x}", good[:2] + bytes([flags]) + good[3:], "bounded")
    stored = good[:2] + bytes([good[2] | 2]) + good[3:]
    yield Case("stored raw, but too short", stored, "refused")
    head = bytes([2, 1, 2, 4]) + struct.pack("<3I", 192, 192, 208)
    yield Case("stored raw, 80 bytes", head + bytes(64), "refused")


def _crc32c(good: bytes) -> Iterator[Case]:
    yield Case("another checksum", good[:-4] + bytes(4), "refused")
    yield Case("checksum in other byte order", good[:-4] + good[:-5:-1], "refused")
    yield Case("checksum in front", good[-4:] + good[:-4], "refused")
    for n in (0, 1, len(good) - 5):
        yield Case(f"right checksum of {n} bytes", bytes(Crc32cCodec().encode(good[:n])), "refused")


def _vlen(good: bytes) -> Iterator[Case]:
    for count in (0, 1, 47, 49, 2**31 - 1, 2**32 - 1):
        yield Case(f"claims {count} strings", struct.pack("<I", count) + good[4:], "refused")
    for length in (5, 1000, 2**31 - 1, 2**31, 2**32 - 1):
        data = good[:4] + struct.pack("<I", length) + good[8:]
        yield Case(f"first string of {length} bytes", data, "refused")
    empty = struct.pack("<I", 48) + struct.pack("<I", 0) * 48
    for name, text in {
        "no UTF-8": b"\xff",
        "half a character": b"\xc3",
        "surrogate": b"\xed\xa0\x80",
    }.items():
        data = empty[:4] + struct.pack("<I", len(text)) + text + empty[8:]
        yield Case(name, data, "refused")
    yield Case("last string leaves the chunk", empty[:-4] + struct.pack("<I", 1), "refused")


# -- shards -----------------------------------------------------------------------------------


def _with_index(
    good: bytes, count: int, change: Callable[[np.ndarray], None], *, end: bool
) -> bytes:
    n = count * 16 + 4
    stored = good[-n:] if end else good[:n]
    index = np.frombuffer(stored[:-4], "<u8").reshape(-1, 2).copy()
    change(index)
    sealed = bytes(Crc32cCodec().encode(index.tobytes()))
    return good[:-n] + sealed if end else sealed + good[n:]


def _ends(good: bytes, count: int) -> bool:
    n = count * 16 + 4
    return bytes(Crc32cCodec().encode(good[-n:-4])) == good[-n:]


def _shard(good: bytes) -> Iterator[Case]:
    yield from _index_lies(good, 4, end=_ends(good, 4))
    for name, index in {"empty index": b"", "zeros for an index": bytes(68)}.items():
        yield Case(name, index, "refused")


def _index_lies(good: bytes, count: int, *, end: bool) -> Iterator[Case]:
    """Indexes that say something else, each with the right checksum."""
    size = len(good)
    entries: dict[str, tuple[int, int]] = {
        "beyond the end": (size, 1),
        "one byte too far": (size - 8, 9),
        "offset 2^62": (2**62, 8),
        "offset 2^63": (2**63, 8),
        "length 2^62": (0, 2**62),
        "length 2^63": (0, 2**63),
        "wraps to 0": (MISSING - 99, 100),
        "wraps past 0": (MISSING - 1, 200),
        "half missing": (MISSING, 5),
        "length missing": (5, MISSING),
        "empty": (0, 0),
        "empty at the end": (size, 0),
    }
    for slot in (0, count - 1):
        for name, entry in entries.items():

            def lie(index: np.ndarray, slot: int = slot, entry: tuple[int, int] = entry) -> None:
                index[slot] = entry

            yield Case(f"entry {slot} {name}", _with_index(good, count, lie, end=end), "refused")

    def swap(index: np.ndarray) -> None:
        index[[0, 1]] = index[[1, 0]]

    def same(index: np.ndarray) -> None:
        index[:] = index[0]

    def shift(index: np.ndarray) -> None:
        index[0, 0] += 1

    def whole(index: np.ndarray) -> None:
        index[0] = 0, size

    for change in (swap, same, shift):
        yield Case(
            f"entries: {change.__name__}", _with_index(good, count, change, end=end), "bounded"
        )
    yield Case("entry over the index", _with_index(good, count, whole, end=end), "refused")
    broken = bytearray(good)
    broken[-1 if end else count * 16] ^= 1
    yield Case("index checksum wrong", bytes(broken), "refused")


def _nested(good: bytes) -> Iterator[Case]:
    yield from _index_lies(good, 4, end=True)
    first = np.frombuffer(good[-68:-4], "<u8").reshape(-1, 2)[0]
    start, stop = int(first[0]), int(first[0] + first[1])
    for case in _index_lies(good[start:stop], 4, end=False):
        data = good[:start] + case.data + good[stop:]
        yield Case(f"inner shard: {case.name}", data, case.verdict)


_LIES: dict[str, Callable[[bytes], Iterator[Case]]] = {
    "raw": _raw,
    "zstd": _zstd,
    "gzip": _gzip,
    "zlib": _zlib,
    "bz2": _bz2,
    "lz4": _lz4,
    "blosc": _blosc,
    "crc32c": _crc32c,
    "vlen": _vlen,
    "shard": _shard,
    "nested": _nested,
}
