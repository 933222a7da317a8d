"""Waves of compressed chunks for the tests of the header walks: valid, unusual and damaged ones."""

import contextlib
import struct
from dataclasses import dataclass

import numpy as np
import zstandard
from numcodecs import blosc

from zarr_gpu.codecs.blosc import parse_container
from zarr_gpu.errors import CodecError

CNAMES = ["blosclz", "lz4", "lz4hc", "zlib", "zstd"]
MAGIC = b"\x28\xb5\x2f\xfd"
FIELD = np.cumsum(np.random.default_rng(1).integers(-3, 4, 5000)).astype("<i4").tobytes()


@dataclass
class Wave:
    """Chunks in one buffer; ``chunks`` are pairs of bytes and expected size."""

    chunks: list
    data: np.ndarray
    offset: np.ndarray
    nbytes: np.ndarray
    expected: np.ndarray

    @property
    def columns(self):
        return self.data, self.offset, self.nbytes, self.expected


def wave(chunks, seed=0):
    """Chunks in an order of their own, with other bytes between them but not at the end."""
    rng = np.random.default_rng(seed)
    offset = np.zeros(len(chunks), np.int64)
    data = bytearray()
    for i in rng.permutation(len(chunks)):
        data += rng.bytes(rng.integers(5))
        offset[i] = len(data)
        data += chunks[i][0]
    return Wave(
        chunks,
        np.frombuffer(bytes(data), np.uint8),
        offset,
        np.array([len(chunk) for chunk, _ in chunks], np.int64),
        np.array([expected for _, expected in chunks], np.int64),
    )


def cut_short(chunk, expected):
    """All beginnings of a chunk; what is missing follows in the buffer."""
    n = np.arange(len(chunk) + 1)
    return Wave(
        [(chunk[:i], expected) for i in n],
        np.frombuffer(chunk, np.uint8),
        np.zeros_like(n),
        n,
        np.full_like(n, expected),
    )


# -- Blosc ----------------------------------------------------------------------------------------


def head(nbytes, blocksize, cbytes, *, typesize=4, flags=0):
    return struct.pack("<BBBBiii", 2, 1, flags, typesize, nbytes, blocksize, cbytes)


def written(rng):
    """A container that c-blosc wrote."""
    data = FIELD[: int(rng.integers(0, 6000))] if rng.random() < 0.8 else rng.bytes(500)
    packed = blosc.compress(
        data,
        str(rng.choice(CNAMES)).encode(),
        int(rng.integers(0, 10)),
        shuffle=int(rng.integers(0, 3)),
        blocksize=int(rng.choice([0, 128, 200, 512, 2048])),
        typesize=int(rng.choice([1, 2, 3, 4, 5, 8, 16, 17, 255])),
    )
    return bytes(packed), len(data)


def made_up(rng):
    """A container of random streams with everything that c-blosc does not write but reads."""
    typesize = int(rng.choice([1, 2, 4, 7, 16, 40]))
    blocksize = typesize * int(rng.integers(100, 200))
    nbytes = int(rng.integers(blocksize, 6 * blocksize))
    codec, other = rng.integers(0, 5), rng.choice([0x00, 0x01, 0x04, 0x05, 0x10, 0x11])
    splits = typesize if not other & 0x10 and typesize <= 16 and blocksize // typesize >= 128 else 1
    blocks = -(-nbytes // blocksize)
    bodies = []
    for i in range(blocks):
        body = b""
        for _ in range(splits if (i + 1) * blocksize <= nbytes else 1):
            size = int(rng.choice([1, 5, 40, blocksize // splits]))
            body += struct.pack("<i", size) + rng.bytes(size)
        bodies.append(body)
    starts, packed = [0] * blocks, bytearray()
    for i in rng.permutation(blocks):
        packed += rng.bytes(rng.integers(3))
        starts[i] = 16 + 4 * blocks + len(packed)
        packed += bodies[i]
    if rng.random() < 0.2:
        starts[-1] = starts[0]  # the same bytes twice, which nothing forbids
    cbytes = 16 + 4 * blocks + len(packed)
    header = head(nbytes, blocksize, cbytes, typesize=typesize, flags=int(codec << 5 | other))
    tail = rng.bytes(rng.integers(3))
    return header + struct.pack(f"<{blocks}i", *starts) + bytes(packed) + tail, nbytes


STREAM = struct.pack("<ii", 20, 1) + b"x"  # table of one block, and its stream
ODD_CONTAINERS = {
    "empty": (head(0, 0, 16), 0),
    "empty, stored": (head(0, 0, 16, flags=2), 0),
    "empty, without type": (head(0, 0, 16, typesize=0), 0),
    "empty, cut short": (head(0, 0, 17), 0),
    **{f"empty, {n} bytes by its header": (head(0, 0, n), 0) for n in (-1, 0, 15)},
    **{f"stored, {n} bytes by its header": (head(4, 4, n, flags=2) + bytes(5), 4)
       for n in (-1, 4, 19, 21)},
    "one stream": (head(4, 4, 25) + STREAM, 4),
    "no type": (head(4, 4, 25, typesize=0) + STREAM, 4),
    "no type, not split": (head(4, 4, 25, typesize=0, flags=16) + STREAM, 4),
    "no blocks": (head(4, 0, 25) + STREAM, 4),
    "blocks of less than nothing": (head(4, -4, 25) + STREAM, 4),
    "blocks larger than the chunk": (head(4, 5, 25) + STREAM, 4),
    "table cut short": (head(4, 3, 23) + bytes(7), 4),
    "table of sixteen million blocks": (head(1 << 24, 1, 16), 1 << 24),
    "stream begins at the end": (head(4, 4, 20) + struct.pack("<i", 20), 4),
    "size cut short": (head(4, 4, 23) + struct.pack("<i", 20) + bytes(3), 4),
    "stream of nothing": (head(4, 4, 24) + struct.pack("<ii", 20, 0), 4),
    "stream inside the table": (head(4, 4, 25) + struct.pack("<ii", 16, 1) + b"x", 4),
    "stream one byte too long": (head(4, 4, 25) + struct.pack("<ii", 20, 2) + b"xx", 4),
}  # fmt: skip


def damaged(rng, chunk, expected):
    """The same container with one or two things changed."""
    places = [4, 8, 12, *range(16, min(len(chunk) - 3, 60), 4)]
    with contextlib.suppress(CodecError):
        places += [at - 4 for at, _ in parse_container(chunk).streams]
    packed = bytearray(chunk)
    for _ in range(rng.integers(1, 3)):
        kind = rng.integers(6)
        if kind == 0 and len(packed) >= 16:  # a number
            at = int(rng.choice([at for at in places if at + 4 <= len(packed)]))
            (old,) = struct.unpack_from("<i", packed, at)
            near = [old - 4, old - 1, old + 1, old + 4, *range(len(chunk) - 5, len(chunk) + 2)]
            new = rng.choice([0, 1, -1, 2**31 - 1, -(2**31), *near])
            struct.pack_into("<i", packed, at, min(max(int(new), -(2**31)), 2**31 - 1))
        elif kind == 1 and packed:  # a byte of the header
            packed[rng.integers(min(16, len(packed)))] = rng.integers(256)
        elif kind == 2 and packed:  # any bit
            packed[rng.integers(len(packed))] ^= 1 << rng.integers(8)
        elif kind == 3:
            del packed[rng.integers(len(packed) + 1) :]
        elif kind == 4 and len(packed) >= 4:  # flags
            packed[2] ^= 1 << rng.integers(8)
        elif kind == 5:
            expected = max(0, expected + int(rng.choice([-1, 1, 2**31, 2**32])))
    return bytes(packed), expected


def containers(seed, count):
    """Odd containers, and random ones of which a third is damaged."""
    rng = np.random.default_rng(seed)
    chunks = [made_up(rng) if rng.random() < 0.5 else written(rng) for _ in range(count)]
    chunks = [damaged(rng, *chunk) if rng.random() < 0.35 else chunk for chunk in chunks]
    return [*ODD_CONTAINERS.values(), *chunks]


# -- zstd -----------------------------------------------------------------------------------------


def block(kind, nbytes, body, last=1):
    return (nbytes << 3 | kind << 1 | last).to_bytes(3, "little") + body


def frame(blocks, *, content=b"", single=False, number=b"", checksum=b"", window=0x50, bits=0):
    """A frame: ``content``, ``number`` (of a dictionary) and ``checksum`` are the bytes of them."""
    content_code = {0: 0, 1: 0, 2: 1, 4: 2, 8: 3}[len(content)]
    number_code = {0: 0, 1: 1, 2: 2, 4: 3}[len(number)]
    descriptor = content_code << 6 | single << 5 | bits | bool(checksum) << 2 | number_code
    head = bytes([descriptor]) if single else bytes([descriptor, window])
    return MAGIC + head + number + content + b"".join(blocks) + checksum


def skippable(nbytes, kind=3):
    return bytes([0x50 | kind]) + b"\x2a\x4d\x18" + struct.pack("<I", nbytes) + bytes(nbytes)


def one_frame(rng, nbytes, *, sized=True):
    """A frame of libzstd."""
    data = FIELD[:nbytes] if rng.random() < 0.7 else rng.bytes(nbytes)
    options = {"write_content_size": sized, "write_checksum": bool(rng.random() < 0.3)}
    if rng.random() < 0.3:  # several blocks
        writer = zstandard.ZstdCompressor(level=1, **options).compressobj(
            size=nbytes if sized else -1
        )
        half = writer.compress(data[: nbytes // 2]) + writer.flush(
            zstandard.COMPRESSOBJ_FLUSH_BLOCK
        )
        return half + writer.compress(data[nbytes // 2 :]) + writer.flush()
    return zstandard.ZstdCompressor(level=int(rng.choice([-5, 1, 19])), **options).compress(data)


def frames(rng):
    """A chunk of one to four frames, with skippable ones between, mostly with sizes."""
    parts, expected = [], 0
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        nbytes = int(rng.choice([0, 1, 100, 300, 3000, 20_000], p=[0.03, 0.07, 0.2, 0.3, 0.3, 0.1]))
        if rng.random() < 0.2:
            parts.append(skippable(int(rng.integers(20)), int(rng.integers(16))))
        parts.append(one_frame(rng, nbytes, sized=rng.random() < 0.85))
        expected += nbytes
    if rng.random() < 0.1:
        parts.append(skippable(0))
    return b"".join(parts), expected


def damaged_frames(rng, chunk, expected):
    """The same chunk with something changed, mostly near the beginning."""
    packed = bytearray(chunk)
    for _ in range(rng.integers(1, 3)):
        kind = rng.integers(5)
        if kind < 2 and packed:
            packed[rng.integers(min([12, 20][kind], len(packed)))] ^= 1 << rng.integers(8)
        elif kind == 2 and packed:
            packed[rng.integers(len(packed))] = rng.integers(256)
        elif kind == 3:
            del packed[rng.integers(len(packed) + 1) :]
        else:
            expected = max(0, expected + int(rng.choice([-1, 1, -expected, 2**32])))
    return bytes(packed), expected


RAW = block(0, 100, bytes(100))
SIZED = frame([RAW], content=b"\x64", single=True)
EMPTY = frame([block(0, 0, b"")], content=b"\0", single=True)
ODD_FRAMES = {
    "no bytes": (b"", 0),
    "no bytes but some expected": (b"", 1),
    "skippable alone": (skippable(7), 0),
    "skippable alone, bytes expected": (skippable(7), 5),
    "skippable too long": (skippable(9)[:-1], 0),
    "skippable too long behind": (SIZED + skippable(9)[:-1], 100),
    "skippable header cut short": (skippable(0)[:6], 5),
    "skippable of 4 GiB": (b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + RAW, 100),
    "magic cut short": (MAGIC[:3], 1),
    "magic alone": (MAGIC, 1),
    "header cut short": (MAGIC + b"\x20", 1),
    "no size": (frame([RAW]), 100),
    "no size, repeated byte": (frame([block(1, 1000, b"x")]), 1000),
    "no size, too much expected": (frame([RAW]), 101),
    "no size, too little expected": (frame([RAW]), 99),
    "two without size": (frame([RAW]) * 2, 200),
    "one of two without size": (frame([RAW]) + SIZED, 200),
    "size in 1 byte": (SIZED, 100),
    "size in 2 bytes": (frame([block(0, 256, bytes(256))], content=bytes(2)), 256),
    "size in 4 bytes": (frame([RAW], content=struct.pack("<I", 100)), 100),
    "size in 8 bytes": (frame([RAW], content=struct.pack("<Q", 100)), 100),
    "size of 2^64 - 1": (frame([RAW], content=b"\xff" * 8), 2**63 - 1),
    "size of 2^63": (frame([RAW], content=struct.pack("<Q", 2**63)), 100),
    "more claimed than held": (frame([RAW], content=struct.pack("<I", 101)), 101),
    "less claimed than held": (frame([RAW], content=struct.pack("<I", 99)), 99),
    "size cut short": (frame([], content=struct.pack("<Q", 100))[:-1], 100),
    "reserved bit": (frame([RAW], content=b"\x64", single=True, bits=8), 100),
    "unused bit": (frame([RAW], content=b"\x64", single=True, bits=16), 100),
    "number of a dictionary": (frame([RAW], content=b"\x64", single=True, number=b"\x07"), 100),
    "number of 4 bytes": (frame([RAW], content=b"\x64", single=True, number=b"\0\0\0\1"), 100),
    "number 0 of a dictionary": (frame([RAW], content=b"\x64", single=True, number=bytes(2)), 100),
    "window of 128 MiB": (frame([RAW], window=17 << 3), 100),
    "window just above": (frame([RAW], window=17 << 3 | 1), 100),
    "largest window": (frame([RAW], window=0xFF), 100),
    "reserved kind of block": (frame([block(3, 5, bytes(5))]), 100),
    "compressed block": (frame([block(2, 5, bytes(5))]), 1000),
    "compressed block larger than window": (frame([block(2, 2000, bytes(2000))], window=0), 500),
    "raw block larger than window": (frame([block(0, 1025, bytes(1025))], window=0), 1025),
    "raw block as large as window": (frame([block(0, 1024, bytes(1024))], window=0), 1024),
    "no last block": (frame([block(0, 100, bytes(100), last=0)]), 100),
    "block cut short": (frame([RAW])[:-1], 100),
    "block header cut short": (frame([RAW])[:8], 100),
    "checksum": (frame([RAW], checksum=b"abcd"), 100),
    "checksum cut short": (frame([RAW], checksum=b"abcd")[:-1], 100),
    "bytes behind": (frame([RAW]) + b"\0", 100),
    "empty frame": (EMPTY, 0),
    "empty frame first": (EMPTY + frame([RAW]), 100),
    "empty frame without size": (frame([block(0, 0, b"")]) + SIZED, 100),
}  # fmt: skip
LONG_FRAMES = {
    "many blocks": (frame([block(1, 2, b"x", last=0)] * 4095 + [block(1, 2, b"x")]), 8192),
    "too many skippable frames behind": (SIZED + skippable(0) * 4096, 100),
    "as many skippable frames as there may be": (SIZED + skippable(0) * 4095, 100),
    "too many blocks": (frame([block(1, 2, b"x", last=0)] * 4096 + [block(1, 2, b"x")]), 8194),
    "too many skippable frames": (skippable(0) * 4096 + frame([RAW]), 100),
}


def zstd_chunks(seed, count):
    """Odd chunks, and chunks of libzstd of which a third is damaged."""
    rng = np.random.default_rng(seed)
    chunks = [frames(rng) for _ in range(count)]
    chunks = [damaged_frames(rng, *chunk) if rng.random() < 0.35 else chunk for chunk in chunks]
    return [*ODD_FRAMES.values(), *chunks]
