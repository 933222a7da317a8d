"""``blosc``: containers of c-blosc 1 (Zarr v3 codec "blosc", numcodecs "blosc").

A container is a header of 16 bytes, the offsets of its blocks, and for each block one compressed
stream or one per byte of an element. It says by itself how to decode it; the codec's members
matter to the writer only. c-blosc trusts parts of what it reads: every offset and size is checked
first. Layout: README_CHUNK_FORMAT.rst of c-blosc.

>>> packed = BloscCodec(typesize=4, cname="lz4").encode(bytes(4096))
>>> header = parse_container(packed, 4096)
>>> header.cname, header.shuffle, header.blocksize
('lz4', 'shuffle', 4096)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray
from zarr_gpu.codecs import _native
from zarr_gpu.codecs._bytes_bytes import SLACK, deliver, numcodecs_members, target, wrong_size
from zarr_gpu.codecs._members import check_names, choice, integer
from zarr_gpu.codecs.base import BytesBytesCodec, ChunkSpec, Size
from zarr_gpu.errors import CodecError, UnsupportedError

Cname: TypeAlias = Literal["blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd"]
Shuffle: TypeAlias = Literal["noshuffle", "shuffle", "bitshuffle"]

CNAMES: tuple[Cname, ...] = get_args(Cname)
SHUFFLES: tuple[Shuffle, ...] = get_args(Shuffle)  # index: c-blosc's number
AUTOSHUFFLE = -1  # numcodecs: chosen by item size
HEADER_NBYTES = 16
MAX_TYPESIZE = 255
MAX_NBYTES = 2**31 - 1 - HEADER_NBYTES


@dataclass(frozen=True)
class BloscCodec(BytesBytesCodec):
    """Blosc. ``typesize`` and ``shuffle`` left out are chosen for the data type by :meth:`bind`."""

    name: ClassVar[str] = "blosc"
    parts_above: ClassVar[int | None] = 0

    typesize: int | None = None
    cname: Cname = "zstd"
    clevel: int = 5
    shuffle: Shuffle | None = None
    blocksize: int = 0

    def __post_init__(self) -> None:
        members: dict[str, JSON] = {
            "cname": self.cname,
            "clevel": self.clevel,
            "shuffle": self.shuffle,
            "blocksize": self.blocksize,
        }
        choice(members, "cname", *CNAMES)
        choice(members, "shuffle", None, *SHUFFLES)
        integer(members, "clevel", 0, 9)
        integer(members, "blocksize", 0, MAX_NBYTES)
        if self.typesize is not None:
            integer({"typesize": self.typesize}, "typesize", 1, 2**31 - 1)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> BloscCodec:
        check_names(config, "typesize", "cname", "clevel", "shuffle", "blocksize")
        return cls(**config)  # type: ignore[arg-type]  # __post_init__ checks them

    def to_config(self) -> dict[str, JSON]:
        members: dict[str, JSON] = {
            "typesize": self.typesize,
            "cname": self.cname,
            "clevel": self.clevel,
            "shuffle": self.shuffle,
            "blocksize": self.blocksize,
        }
        return {name: value for name, value in members.items() if value is not None}

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> BloscCodec:
        """``shuffle`` is a number there: -1 (by item size), 0, 1 or 2."""
        members: dict[str, Any] = {"cname": "lz4", "shuffle": 1, **numcodecs_members(config)}
        shuffle = integer(members, "shuffle", AUTOSHUFFLE, len(SHUFFLES) - 1)
        members["shuffle"] = None if shuffle == AUTOSHUFFLE else SHUFFLES[shuffle]
        return cls.from_config(members)

    def to_numcodecs(self) -> dict[str, JSON]:
        """Without ``typesize``: numcodecs takes it from the buffer."""
        shuffle = AUTOSHUFFLE if self.shuffle is None else SHUFFLES.index(self.shuffle)
        return {
            "cname": self.cname,
            "clevel": self.clevel,
            "shuffle": shuffle,
            "blocksize": self.blocksize,
        }

    def bind(self, spec: ChunkSpec) -> BloscCodec:
        itemsize = spec.dtype.itemsize
        typesize = self.typesize
        if typesize is None:
            typesize = itemsize if 1 <= itemsize <= MAX_TYPESIZE else 1
        shuffle = self.shuffle or ("bitshuffle" if itemsize == 1 else "shuffle")
        return replace(self, typesize=typesize, shuffle=shuffle)

    def encoded_size(self, decoded: Size) -> Size:
        # c-blosc never writes more than 16 bytes above the input (BLOSC_MAX_OVERHEAD), but bytes
        # behind a container do no harm.
        return Size(decoded.limit + HEADER_NBYTES + SLACK, exact=False)

    def encode(self, data: Bytes) -> Bytes:
        if self.cname == "snappy":
            raise UnsupportedError("blosc: snappy can be read but not written; use 'lz4' instead")
        typesize = self.typesize or 1  # above 255, c-blosc writes 1
        shuffle = self.shuffle or ("bitshuffle" if typesize == 1 else "shuffle")
        try:
            return _library().compress(  # type: ignore[no-any-return]
                data,
                self.cname.encode(),
                self.clevel,
                SHUFFLES.index(shuffle),
                self.blocksize,
                typesize,
            )
        except (RuntimeError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        native = _native.blosc()
        if native is not None and decoded.exact and _is_plain(data, decoded.limit):
            into = target(decoded.limit, out)
            found = native.decompress(_native.pointer(into), decoded.limit, _native.pointer(data))
            return into if found == decoded.limit else self._whole(into, found)
        header = _read_header(data)
        if not decoded.check(header.nbytes):
            raise wrong_size(self.name, decoded, header.nbytes)
        if header.stored or not header.nbytes:
            return deliver(memoryview(data)[HEADER_NBYTES : HEADER_NBYTES + header.nbytes], out)
        if header.cname == "snappy":
            return _decode_snappy(data, parse_container(data), target(header.nbytes, out))
        _check_blocks(data, header, 0, header.blocks)
        into = target(header.nbytes, out)
        if native is not None:
            found = native.decompress(_native.pointer(into), header.nbytes, _native.pointer(data))
            return self._whole(into, found)
        try:
            return _library().decompress(data, into)  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise CodecError(str(error), codec=self.name) from error

    def decoder(
        self, encoded: memoryview, out: memoryview, decoded: Size
    ) -> Callable[[int, int], bool] | None:
        native, nbytes = _native.blosc(), decoded.limit
        if native is None or not decoded.exact:
            return None
        decompress = native.decompress
        source, start = _native.address(encoded), _native.address(out)
        last = len(out) - nbytes

        def decode(n: int, at: int) -> bool:
            return (
                0 <= at <= last
                and _is_plain(encoded[:n], nbytes)
                and decompress(start + at, nbytes, source) == nbytes
            )

        return decode

    def decode_part(self, data: Bytes, decoded: Size, offset: int, nbytes: int) -> Bytes | None:
        """Decodes, and checks, the blocks that the part touches."""
        header = _read_header(data)
        if not decoded.check(header.nbytes):
            raise wrong_size(self.name, decoded, header.nbytes)
        end = offset + nbytes
        if header.stored and end <= header.nbytes:
            return memoryview(data)[HEADER_NBYTES + offset : HEADER_NBYTES + end]
        native = _native.blosc()
        if native is None or end > header.nbytes or header.cname == "snappy":
            return None
        typesize = header.typesize
        start, stop = offset // typesize, -(-end // typesize)
        first, last = start * typesize // header.blocksize, -(-stop * typesize // header.blocksize)
        if stop * typesize > header.nbytes or last - first == header.blocks:
            return None  # c-blosc counts in elements; or all would be decoded
        _check_blocks(data, header, first, last)
        into = target((stop - start) * typesize, None)
        found = native.part(_native.pointer(into), _native.pointer(data), start, stop - start)
        at = offset - start * typesize
        return self._whole(into, found)[at : at + nbytes]

    def _whole(self, into: memoryview, found: int) -> memoryview:
        if found != len(into):
            raise CodecError(
                f"{len(into)} bytes expected of c-blosc, its result is {found}", codec=self.name
            )
        return into


class BloscHeader(NamedTuple):
    """A container whose sizes agree with each other and with the memory that it is in."""

    nbytes: int
    typesize: int
    shuffle: Shuffle
    cname: Cname
    stored: bool
    """The bytes follow the header as they are, whatever ``shuffle`` says."""
    blocksize: int
    cbytes: int
    """Size of the container; bytes after it mean nothing."""
    blocks: int
    splits: int
    """Streams of a full block; a shorter last block has one."""
    streams: tuple[tuple[int, int], ...] = ()
    """``(offset, nbytes)`` of the compressed streams in the container, block after block.

    A stream of exactly ``blocksize // splits`` bytes (of the block's, for the last) is not
    compressed.
    """


_HEADER = struct.Struct("<BBBBiii")
_INT = struct.Struct("<i")
_SHUFFLE, _STORED, _BITSHUFFLE, _RESERVED, _DONT_SPLIT = 0x01, 0x02, 0x04, 0x08, 0x10
_UNUSUAL = _STORED | _RESERVED
_MANY = 64  # blocks; fewer are checked faster one by one
_FORMATS: tuple[Cname, ...] = ("blosclz", "lz4", "snappy", "zlib", "zstd")
_NATIVE = (0, 1, 3, 4)  # all but snappy


def parse_container(data: Bytes, expected_nbytes: int | None = None) -> BloscHeader:
    """Header and streams of a container; CodecError when anything in it cannot be.

    ``expected_nbytes`` is the decoded size; None leaves comparing to the caller.
    """
    header = _read_header(data, expected_nbytes)
    return header._replace(streams=tuple(_streams(data, header, 0, header.blocks)))


def _is_plain(data: Bytes, nbytes: int) -> bool:
    """True for a compressed container of ``nbytes`` in which :func:`parse_container` finds nothing.

    The same checks as there, without saying what is wrong: that they take a few microseconds
    matters, because they are made with the interpreter lock held.
    """
    if len(data) < HEADER_NBYTES:
        return False
    version, codec_version, flags, typesize, found, blocksize, cbytes = _HEADER.unpack_from(data)
    if version != 2 or codec_version != 1 or flags & _UNUSUAL or flags >> 5 not in _NATIVE:
        return False
    if found != nbytes or not HEADER_NBYTES <= cbytes <= len(data):
        return False
    if not typesize or not 0 < blocksize <= nbytes:
        return False
    splits = 1
    if not flags & _DONT_SPLIT and typesize <= 16 and blocksize // typesize >= 128:
        if blocksize % typesize:
            return False
        splits = typesize
    full, rest = divmod(nbytes, blocksize)
    blocks = full + 1 if rest else full
    first = HEADER_NBYTES + 4 * blocks
    if blocks > _MANY or first > cbytes:
        return False
    return _all_lie_inside(data, cbytes, first, (full, blocks, splits))


def _all_lie_inside(data: Bytes, cbytes: int, first: int, counts: tuple[int, int, int]) -> bool:
    """Whether the streams of few blocks are in the container; ``counts``: full blocks, blocks,
    streams of a full block.
    """
    full, blocks, splits = counts
    unpack = _INT.unpack_from
    for i in range(blocks):
        (at,) = unpack(data, HEADER_NBYTES + 4 * i)
        if at < first:
            return False
        for _ in range(splits if i < full else 1):
            if at > cbytes - 4:
                return False
            (size,) = unpack(data, at)
            at += 4 + size
            if size <= 0 or at > cbytes:
                return False
    return True


def _read_header(data: Bytes, expected_nbytes: int | None = None) -> BloscHeader:
    if len(data) < HEADER_NBYTES:
        raise _bad("container cut short", f"at least {HEADER_NBYTES} bytes", f"{len(data)} bytes")
    version, codec_version, flags, typesize, nbytes, blocksize, cbytes = _HEADER.unpack_from(data)
    if version != 2:
        note = ", as Blosc2 writes" if version >= 3 else ""
        raise _bad("unknown format version", "2 (c-blosc 1)", f"{version}{note}")
    if codec_version != 1 or flags & _RESERVED or flags >> 5 >= len(_FORMATS):
        raise _bad("unknown inner codec or flags", None, f"0x{codec_version:02x}{flags:02x}")
    if nbytes < 0 or (expected_nbytes is not None and nbytes != expected_nbytes):
        raise _bad("wrong decoded size", f"{expected_nbytes} bytes", f"{nbytes} bytes")
    if not HEADER_NBYTES <= cbytes <= len(data):
        raise _bad("container cut short", f"{cbytes} bytes", f"{len(data)} bytes")
    stored = bool(flags & _STORED)
    blocks, splits = 0, 1
    if stored:
        if cbytes != nbytes + HEADER_NBYTES:
            raise _bad("stored bytes cut short", nbytes + HEADER_NBYTES, cbytes)
    elif nbytes:
        splits = _splits(flags, typesize, nbytes, blocksize)
        blocks = -(-nbytes // blocksize)
        first = HEADER_NBYTES + 4 * blocks
        if first > cbytes:
            raise _bad("table of blocks cut short", f"at least {first} bytes", f"{cbytes} bytes")
    shuffle: Shuffle = "bitshuffle" if flags & _BITSHUFFLE else "noshuffle"
    if flags & _SHUFFLE and typesize > 1:
        shuffle = "shuffle"
    cname = _FORMATS[flags >> 5]
    return BloscHeader(nbytes, typesize, shuffle, cname, stored, blocksize, cbytes, blocks, splits)


def _splits(flags: int, typesize: int, nbytes: int, blocksize: int) -> int:
    """Streams of a full block: c-blosc goes by the flags and sizes, whatever the inner codec."""
    if typesize == 0 or not 0 < blocksize <= nbytes:
        raise _bad("impossible sizes", f"blocks of 1 to {nbytes} bytes", f"{blocksize} bytes")
    if flags & _DONT_SPLIT or typesize > 16 or blocksize // typesize < 128:
        return 1
    if blocksize % typesize:  # c-blosc would leave the last bytes of each block unwritten
        raise _bad("blocks cannot be split", f"a multiple of {typesize} bytes", blocksize)
    return typesize


def _check_blocks(data: Bytes, header: BloscHeader, start: int, stop: int) -> None:
    """CodecError when a stream of blocks ``start`` to ``stop`` is not inside the container."""
    if stop - start > _MANY and _all_inside(data, header):
        return
    for _ in _streams(data, header, start, stop):
        pass


def _streams(data: Bytes, header: BloscHeader, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """``(offset, nbytes)`` of the streams of some blocks, each checked before it is given out."""
    cbytes, unpack = header.cbytes, _INT.unpack_from
    first = HEADER_NBYTES + 4 * header.blocks
    full = header.nbytes // header.blocksize if header.blocks else 0
    # Blocks are in any order: several threads may have written them.
    for i in range(start, stop):
        (at,) = unpack(data, HEADER_NBYTES + 4 * i)
        if at < first:
            raise _bad(f"block {i} overlaps the header", f"at least {first}", at)
        for _ in range(header.splits if i < full else 1):
            if at > cbytes - 4:
                raise _bad(f"block {i} outside the container", f"at most {cbytes - 4}", at)
            (size,) = unpack(data, at)
            at += 4
            if not 0 < size <= cbytes - at:
                raise _bad(f"stream in block {i} of wrong size", f"1 to {cbytes - at} bytes", size)
            yield at, size
            at += size


def _all_inside(data: Bytes, header: BloscHeader) -> bool:
    """What :func:`_streams` finds out, for all blocks at once: the n-th stream of each."""
    view: NDArray = np.frombuffer(data, np.uint8, header.cbytes)
    first = HEADER_NBYTES + 4 * header.blocks
    at = view[HEADER_NBYTES:first].view("<i4").astype(np.int64)
    if (at < first).any():
        return False
    for _ in range(header.splits):
        if (at > header.cbytes - 4).any():
            return False
        size = view[at[:, None] + np.arange(4)].view("<i4")[:, 0]
        at += 4
        if ((size <= 0) | (size > header.cbytes - at)).any():
            return False
        at += size
        at = at[: header.nbytes // header.blocksize]  # a shorter last block has one stream
    return True


def _bad(message: str, expected: object, found: object) -> CodecError:
    return CodecError(message, codec="blosc", expected=expected, found=found)


def unfilter(block: NDArray, typesize: int, shuffle: Shuffle) -> NDArray:
    """Undo the filter of one decompressed block (bytes); a block without one is returned as is.

    Bytes behind the last whole element are never filtered, and a block is not bit-shuffled unless
    its number of elements is a multiple of 8 (shuffle.c and bitshuffle-generic.c of c-blosc).
    """
    n = block.size // typesize
    bits = shuffle == "bitshuffle" and n % 8 == 0
    if not n or not (bits or (shuffle == "shuffle" and typesize > 1)):
        return block
    result = np.empty_like(block)
    elements = result[: n * typesize].reshape(n, typesize)
    planes = block[: n * typesize].reshape(typesize, n)
    for i, plane in enumerate(planes):
        if bits:  # row k of the plane has bit k of all elements
            unpacked = np.unpackbits(plane.reshape(8, n // 8), axis=1, bitorder="little")
            plane = np.packbits(unpacked, axis=0, bitorder="little")[0]
        elements[:, i] = plane
    result[n * typesize :] = block[n * typesize :]
    return result


def _decode_snappy(data: Bytes, header: BloscHeader, into: memoryview) -> memoryview:
    """Decode without c-blosc, which numcodecs builds without snappy."""
    from zarr_gpu.codecs.snappy import decompress_into

    view = memoryview(data)
    result: NDArray = np.frombuffer(into, np.uint8)
    streams = iter(header.streams)
    for start in range(0, header.nbytes, header.blocksize):
        block = np.empty(min(header.blocksize, header.nbytes - start), np.uint8)
        splits = header.splits if block.size == header.blocksize else 1
        for part in block.reshape(splits, -1):
            offset, nbytes = next(streams)
            stream = view[offset : offset + nbytes]
            if nbytes == part.size:
                part[:] = np.frombuffer(stream, np.uint8)
            else:
                decompress_into(stream, memoryview(part))
        result[start : start + block.size] = unfilter(block, header.typesize, header.shuffle)
    return into


@cache
def _library() -> Any:
    from numcodecs import blosc

    # Chunks are decoded by our own threads; Blosc's shared pool would make them wait in line.
    blosc.use_threads = False
    return blosc


NUMCODECS = {"blosc": BloscCodec}
