"""What the device does to encode chunks, and the containers around what it compressed.

Pure decisions and arithmetic on columns. The device gathers, shuffles and compresses streams; how
long they became is known only then, and the host puts them in order: prefixes, Blosc containers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zarr_gpu._types import Bools, Int64, NDArray
from zarr_gpu.codecs._gdeflate import PAGE_NBYTES
from zarr_gpu.codecs.base import BytesBytesCodec
from zarr_gpu.codecs.blosc import HEADER_NBYTES, SHUFFLES
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.device.program import strides_of

_FORMS = {
    "zstd": "zstd", "gzip": "gzip", "numcodecs.zlib": "deflate", "numcodecs.lz4": "lz4",
    "zarrs.gdeflate": "gdeflate",
}  # fmt: skip
_BLOSC_FORMS = {"lz4": ("lz4", 1), "zstd": ("zstd", 4)}  # format of the streams, number in a header
_STREAM_NBYTES = 64 << 10
"""Of a stream in automatic Blosc blocks: what nvCOMP's encoders are made for."""
_SPLIT, _DONT_SPLIT = 16, 0x10


class HostEncodes(Exception):  # noqa: N818 - a decision, not an error
    """Why the host has to encode a chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """How chunks of one shape are encoded: gathered, shuffled, cut into streams, compressed.

    An element at coordinates c is gathered to byte ``sum(c * strides)``, as ``dtype``. Streams of
    all chunks are cut alike: ``start`` and ``nbytes`` of each in the shuffled chunk.
    """

    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int
    codec: BytesBytesCodec | None
    form: str | None
    level: int
    elementsize: int
    """Of a byte-shuffle of the whole chunk before compression; 1: none."""
    checksum: bool
    blosc: BloscLayout | None
    start: Int64
    stream_nbytes: Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class BloscLayout:
    """The parts of a Blosc container that do not depend on how well its streams compress."""

    typesize: int
    shuffle: int
    blocksize: int
    blocks: int
    first: Int64
    """Number of the first stream of each block."""
    flags: int


def make_encoder(chain: BoundChain) -> Encoder:
    """The encoder for a chain. Raises :class:`HostEncodes`."""
    spec, codecs = chain.spec, chain.chain
    dims = list(range(len(spec.shape)))
    for codec in codecs.array_array:
        if codec.name != "transpose":
            raise HostEncodes(f"{codec.name} is encoded on the host")
        order: Any = codec.order  # type: ignore[attr-defined]  # TransposeCodec
        dims = [dims[d] for d in order]
    sub_byte = spec.data_type.packed_bits % 8 and spec.dtype != np.bool_
    if not isinstance(codecs.array_bytes, BytesCodec) or sub_byte:
        raise HostEncodes(
            f"{codecs.array_bytes.name} of {spec.data_type.name} is encoded on the host"
        )
    dtype = codecs.array_bytes.stored_dtype(spec)
    strides = [0] * len(dims)
    for dim, stride in zip(
        dims, strides_of([spec.shape[d] for d in dims], dtype.itemsize), strict=True
    ):
        strides[dim] = stride
    rest = list(codecs.bytes_bytes)
    elementsize = 1
    if rest and rest[0].name == "numcodecs.shuffle":
        elementsize = max(1, rest.pop(0).elementsize)  # type: ignore[attr-defined]
        if spec.nbytes % elementsize or elementsize > 255:
            raise HostEncodes(f"numcodecs.shuffle of {elementsize} bytes is encoded on the host")
    checksum = bool(rest) and rest[-1].name == "crc32c"
    if checksum:
        rest.pop()
    compressor = rest.pop(0) if rest else None
    if rest:
        raise HostEncodes(f"{rest[0].name} is encoded on the host")
    form, level, blosc = _compressor(compressor, spec.nbytes)
    start, nbytes = np.zeros(1, np.int64), np.array([spec.nbytes], np.int64)
    if blosc is not None:
        start, nbytes = _blosc_streams(blosc, spec.nbytes)
    elif form == "gdeflate":
        start = np.arange(0, spec.nbytes, PAGE_NBYTES, dtype=np.int64)
        nbytes = np.minimum(spec.nbytes - start, PAGE_NBYTES)
    return Encoder(
        strides=tuple(strides), dtype=dtype, nbytes=spec.nbytes, codec=compressor, form=form,
        level=level, elementsize=elementsize, checksum=checksum, blosc=blosc, start=start,
        stream_nbytes=nbytes,
    )  # fmt: skip


def _compressor(codec: Any, nbytes: int) -> tuple[str | None, int, BloscLayout | None]:
    if codec is None:
        return None, -1, None
    if codec.name == "blosc":
        if codec.cname not in _BLOSC_FORMS or not codec.clevel or not nbytes:
            raise HostEncodes(
                f"blosc with {codec.cname}, level {codec.clevel} is encoded on the host"
            )
        return _BLOSC_FORMS[codec.cname][0], codec.clevel, _blosc_layout(codec, nbytes)
    if codec.name not in _FORMS or getattr(codec, "checksum", False):
        raise HostEncodes(f"{codec.name} is encoded on the host")
    return _FORMS[codec.name], getattr(codec, "level", -1), None


def _blosc_layout(codec: Any, nbytes: int) -> BloscLayout:
    typesize: int = codec.typesize if codec.typesize <= 255 else 1
    shuffle = SHUFFLES.index(codec.shuffle)
    split = codec.cname == "lz4" and typesize <= _SPLIT
    wanted = codec.blocksize or _STREAM_NBYTES * (typesize if split else 2)
    unit = 8 * typesize  # bits are shuffled by eights
    blocksize = min(max(wanted, 128) // unit * unit or unit, nbytes)
    if blocksize == nbytes:
        blocksize = nbytes // typesize * typesize or nbytes
    split = split and blocksize // typesize >= 128 and blocksize % typesize == 0
    blocks = -(-nbytes // blocksize)
    splits = typesize if split else 1
    flags = _BLOSC_FORMS[codec.cname][1] << 5 | (0 if split else _DONT_SPLIT)
    flags |= (0, 0x01, 0x04)[shuffle]
    return BloscLayout(
        typesize=typesize, shuffle=shuffle, blocksize=blocksize, blocks=blocks,
        first=np.arange(blocks, dtype=np.int64) * splits, flags=flags,
    )  # fmt: skip


def _blosc_streams(layout: BloscLayout, nbytes: int) -> tuple[Int64, Int64]:
    """Where the streams of a container begin in the shuffled chunk, and how long they are."""
    full, rest = divmod(nbytes, layout.blocksize)
    splits = int(layout.first[1]) if layout.blocks > 1 else 0
    if not splits:  # one block
        splits = 1 if layout.flags & _DONT_SPLIT or rest else layout.typesize
    part = layout.blocksize // splits
    sizes = np.full(full * splits + bool(rest), part, np.int64)
    if rest:
        sizes[-1] = rest
    return np.cumsum(sizes) - sizes, sizes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Packing:
    """Where the streams of ``n`` chunks go in their encodings, one column entry per copy.

    ``chunk`` and ``stream`` say which; stream -1 is the whole chunk as it was before shuffling.
    ``raw`` copies the shuffled bytes instead of the compressed ones. ``total`` has the size of each
    encoding, ``parts`` what the host writes.
    """

    chunk: Int64
    stream: Int64
    offset: Int64
    nbytes: Int64
    raw: Bools
    total: Int64
    parts: list[Part]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Bytes that the host writes, one row of ``data`` at ``offset`` of each encoding."""

    chunk: Int64
    offset: Int64
    data: NDArray

    def write(self, buffer: NDArray, starts: Int64, wanted: Bools) -> None:
        """Into ``wanted`` encodings, which begin at ``starts`` of a buffer."""
        rows = np.flatnonzero(wanted[self.chunk])
        at = starts[self.chunk[rows]] + self.offset[rows]
        buffer[at[:, None] + np.arange(self.data.shape[1])] = self.data[rows]


def _part(chunk: Int64, offset: Int64 | int, data: NDArray) -> Part:
    """``data`` has one row of any type per chunk, or is one row for all."""
    n = len(chunk)
    rows = np.ascontiguousarray(np.broadcast_to(data, (n, data.shape[-1])))
    return Part(chunk, np.broadcast_to(offset, n), rows.view(np.uint8))


def pack(encoder: Encoder, sizes: Int64, adler: NDArray) -> Packing:
    """``sizes`` are the compressed sizes, shape (chunks, streams); ``adler`` Adler-32 sums."""
    n = len(sizes)
    if encoder.blosc is not None:
        return _pack_blosc(encoder, encoder.blosc, sizes)
    if encoder.form == "gdeflate":
        return _pack_pages(encoder, sizes)
    before = {"numcodecs.lz4": 4, "numcodecs.zlib": 2}
    name = "" if encoder.codec is None else encoder.codec.name
    offset = np.full(n, before.get(name, 0), np.int64)
    total = sizes[:, 0] + offset
    parts: list[Part] = []
    chunk = np.arange(n)
    if name == "numcodecs.lz4":
        parts = [_part(chunk, 0, np.array([encoder.nbytes], "<u4"))]
    if name == "numcodecs.zlib":
        parts = [
            _part(chunk, 0, np.array([0x78, 0x9C], np.uint8)),
            _part(chunk, total, adler.astype(">u4").reshape(n, 1)),
        ]
        total = total + 4
    return Packing(
        chunk=chunk, stream=np.zeros(n, np.int64), offset=offset, nbytes=sizes[:, 0],
        raw=np.zeros(n, np.bool_), total=total, parts=parts,
    )  # fmt: skip


def _pack_pages(encoder: Encoder, sizes: Int64) -> Packing:
    """Sizes of all pages, then the pages (zarrs, ``gdeflate.rs``)."""
    n, streams = sizes.shape
    head = 16 + 8 * streams
    end = head + np.cumsum(sizes, axis=1)
    first = np.broadcast_to(np.array([encoder.nbytes, streams]), (n, 2))
    chunk = np.arange(n)
    return Packing(
        chunk=np.repeat(chunk, streams),
        stream=np.tile(np.arange(streams), n),
        offset=(end - sizes).reshape(-1),
        nbytes=sizes.reshape(-1),
        raw=np.zeros(n * streams, np.bool_),
        total=end[:, -1],
        parts=[_part(chunk, 0, np.concatenate((first, sizes), axis=1).astype("<u8"))],
    )


def _pack_blosc(encoder: Encoder, layout: BloscLayout, sizes: Int64) -> Packing:
    n, streams = sizes.shape
    raw = sizes >= encoder.stream_nbytes  # c-blosc stores such streams as they are
    stored = np.where(raw, encoder.stream_nbytes, sizes)
    head = HEADER_NBYTES + 4 * layout.blocks
    end = head + np.cumsum(stored + 4, axis=1)
    at = end - stored
    total = end[:, -1].copy()
    whole = total >= encoder.nbytes + HEADER_NBYTES
    total[whole] = encoder.nbytes + HEADER_NBYTES
    some, every = np.flatnonzero(~whole), np.arange(n)
    flags = np.array([2, 1, layout.flags, layout.typesize], np.uint8)
    numbers = np.broadcast_to([encoder.nbytes, layout.blocksize], (n, 2))
    parts = [
        _part(every, 0, flags),
        _part(np.flatnonzero(whole), 2, np.array([layout.flags | 0x02], np.uint8)),
        _part(every, 4, np.concatenate((numbers, total[:, None]), axis=1).astype("<i4")),
        _part(some, HEADER_NBYTES, (at[some][:, layout.first] - 4).astype("<i4")),
        _part(
            np.repeat(some, streams), at[some].reshape(-1) - 4,
            stored[some].reshape(-1, 1).astype("<i4"),
        ),
    ]  # fmt: skip
    chunk = np.concatenate([np.repeat(some, streams), np.flatnonzero(whole)])
    stream = np.concatenate([np.tile(np.arange(streams), len(some)), np.full(whole.sum(), -1)])
    plain = np.full(whole.sum(), HEADER_NBYTES)
    return Packing(
        chunk=chunk,
        stream=stream,
        offset=np.concatenate([at[some].reshape(-1), plain]),
        nbytes=np.concatenate([stored[some].reshape(-1), np.full(whole.sum(), encoder.nbytes)]),
        raw=np.concatenate([raw[some].reshape(-1), np.zeros(whole.sum(), np.bool_)]),
        total=total,
        parts=parts,
    )
