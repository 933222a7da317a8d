"""What the device does to decode the chunks of one chain: pure decisions, no memory, no launches.

A chain becomes a :class:`Program`, or the reason why the host has to decode it. Programs have the
shape that real chains have: checksums around one compressed stream, then filters, then elements in
some order of axes and bytes, which the assemble kernel puts right while it copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zarr_gpu._types import Shape
from zarr_gpu.codecs.base import BytesBytesCodec, ChunkSpec, Codec, Size
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.device import elements

COMPRESSORS = ("blosc", "zstd", "gzip", "numcodecs.zlib", "numcodecs.lz4", "zarrs.gdeflate")
"""Codecs with a table of streams, which the host reads off the stored bytes."""

CHECKSUMS = {
    "crc32c": 0,
    "numcodecs.crc32c": 0,
    "numcodecs.crc32": 1,
    "numcodecs.adler32": 2,
    "numcodecs.fletcher32": 3,
}
"""Names of checksum codecs -> ``kind`` of the kernel."""


@dataclass(frozen=True, slots=True)
class Check:
    """Compare a checksum of four bytes and cut it off."""

    kind: int
    at_start: bool
    nbytes: int
    """Decoded bytes."""


@dataclass(frozen=True, slots=True)
class Unshuffle:
    """Undo a byte shuffle of the whole chunk."""

    elementsize: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Elements:
    """A kernel on ``count`` elements; ``swap`` their bytes first, in units of that size."""

    step: elements.ElementStep
    count: int
    nbytes: int
    """Decoded bytes."""
    swap: int = 1


Step = Check | Unshuffle | Elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How chunks of one shape are decoded on the device.

    ``outer`` steps and ``compressor`` work on what is stored, ``inner`` steps on what the
    compressor made of it, ``unpacked`` bytes a chunk. Then the element at coordinates c lies at
    byte ``sum(c * strides)``, with the type and byte order of ``dtype``.
    """

    outer: tuple[Check, ...]
    compressor: BytesBytesCodec | None
    unpacked: int
    inner: tuple[Step, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def checked(self) -> bool:
        """True when a checksum is compared before anything is decompressed."""
        return bool(self.outer)

    @property
    def verbatim(self) -> bool:
        """True when stored bytes are elements, so that parts of a chunk can be fetched."""
        return self.compressor is None and not self.outer and not self.inner


class HostDecodes(Exception):  # noqa: N818 - a decision, not an error
    """Why the host has to decode a chain."""


def swap_unit(dtype: np.dtype[Any]) -> int:
    """Bytes to turn round for native elements: 1 when they are native."""
    if dtype.isnative or dtype.itemsize == 1:
        return 1
    return dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize


def make_program(chain: BoundChain) -> Program:
    """The program of a chain. Raises :class:`HostDecodes`."""
    outer, compressor, at = _outer(chain)
    inner: list[Step | None] = [_bytes_step(chain, i) for i in range(at - 1, -1, -1)]
    step, dtype = _array_bytes(chain)
    steps, shape, axes, dtype = _array_steps(chain, dtype)
    inner += [step, *steps]
    if not dtype.itemsize:
        raise HostDecodes("elements of no bytes")
    encoded = strides_of(shape, dtype.itemsize)
    strides = [0] * len(axes)
    for stride, dim in zip(encoded, axes, strict=True):
        strides[dim] = stride
    return Program(
        outer=outer,
        compressor=compressor,
        unpacked=chain.sizes[at].limit,
        inner=tuple(step for step in inner if step is not None),
        strides=tuple(strides),
        dtype=dtype,
    )


def native_program(spec: ChunkSpec) -> Program:
    """For chunks that the host has decoded already, in the byte order of the array."""
    return Program(
        outer=(),
        compressor=None,
        unpacked=spec.nbytes,
        inner=(),
        strides=tuple(strides_of(spec.shape, spec.dtype.itemsize)),
        dtype=spec.dtype,
    )


def _outer(chain: BoundChain) -> tuple[tuple[Check, ...], BytesBytesCodec | None, int]:
    """Checksums and the compressor, outermost first, and how many bytes codecs are left."""
    codecs = chain.chain.bytes_bytes
    at = len(codecs)
    outer: list[Check] = []
    while at and codecs[at - 1].name in CHECKSUMS:
        at -= 1
        # The size of what is checked may vary here, as it is compressed.
        outer.append(_check(codecs[at], chain.sizes[at].limit))
    compressor = None
    if at and codecs[at - 1].name in COMPRESSORS:
        at -= 1
        compressor = codecs[at]
    if not chain.sizes[at].exact:
        codec = codecs[at - 1] if at else chain.chain.array_bytes
        raise HostDecodes(f"codec {codec.name!r} has no device step")
    return tuple(outer), compressor, at


def _check(codec: Codec, nbytes: int) -> Check:
    return Check(CHECKSUMS[codec.name], getattr(codec, "location", "end") == "start", nbytes)


def _bytes_step(chain: BoundChain, i: int) -> Step | None:
    codec = chain.chain.bytes_bytes[i]
    size, encoded = chain.sizes[i], chain.sizes[i + 1]
    if not size.exact or not encoded.exact:
        raise HostDecodes(f"codec {codec.name!r} has no device step")
    nbytes = size.limit
    if codec.name in CHECKSUMS:
        return _check(codec, nbytes)
    if codec.name == "numcodecs.shuffle":
        elementsize: int = codec.elementsize  # type: ignore[attr-defined]  # ShuffleCodec
        if elementsize <= 1 or not nbytes:
            return None
        if nbytes % elementsize or elementsize > 255:
            raise HostDecodes(f"{codec.name}: elements of {elementsize} bytes")
        return Unshuffle(elementsize, nbytes)
    return _element(codec, None, None, size, encoded.limit)


def _element(
    codec: Codec,
    decoded: ChunkSpec | None,
    encoded: ChunkSpec | None,
    size: Size,
    in_nbytes: int,
    swap: int = 1,
) -> Elements | None:
    """The kernel for one codec, None when there is nothing to do."""
    step = elements.element_step(codec, decoded, encoded, size)
    if step is None:
        raise HostDecodes(elements.reason(codec, decoded, encoded, size))
    count = step.counts(np.array([size.limit]))
    if int(step.stored_nbytes(count)[0]) != in_nbytes:
        raise HostDecodes(f"{codec.name} stores {in_nbytes} bytes where others were expected")
    if step.kernel is None:
        return None
    return Elements(step, int(count[0]), size.limit, swap)


def _array_bytes(chain: BoundChain) -> tuple[Step | None, np.dtype[Any]]:
    """The step of the array -> bytes codec, and what elements are like after it."""
    codec = chain.chain.array_bytes
    spec = chain.specs[-1]
    sub_byte = spec.data_type.packed_bits % 8 and spec.dtype != np.bool_
    if not isinstance(codec, BytesCodec) or sub_byte:
        step = _element(codec, spec, None, Size(spec.nbytes), chain.sizes[0].limit)
        return step, _native(spec)
    return None, codec.stored_dtype(spec)


def _native(spec: ChunkSpec) -> np.dtype[Any]:
    return spec.dtype.newbyteorder("=")


def _array_steps(
    chain: BoundChain, dtype: np.dtype[Any]
) -> tuple[list[Step | None], Shape, list[int], np.dtype[Any]]:
    """Steps on arrays; the shape that elements lie in C order of, and which dimension of the
    decoded chunk each of its axes is.
    """
    steps: list[Step | None] = []
    shape = chain.specs[-1].shape
    axes = list(range(len(shape)))  # axes[i]: dimension of the current array that memory axis i is
    for i in range(len(chain.chain.array_array) - 1, -1, -1):
        codec = chain.chain.array_array[i]
        decoded, encoded = chain.specs[i], chain.specs[i + 1]
        if codec.name == "transpose":
            order: Sequence[int] = codec.order  # type: ignore[attr-defined]  # TransposeCodec
            axes = [order[d] for d in axes]
            continue
        step = None
        if codec.name != "reshape":
            size = Size(decoded.nbytes)
            step = _element(codec, decoded, encoded, size, encoded.nbytes, swap_unit(dtype))
        ordered = step is not None and step.step.ordered
        if (ordered or decoded.shape != encoded.shape) and axes != sorted(axes):
            raise HostDecodes(f"{codec.name} behind a transpose")
        if decoded.shape != encoded.shape:
            shape = decoded.shape
            axes = list(range(len(shape)))
        if step is not None:
            steps.append(step)
            dtype = _native(decoded)
    return steps, shape, axes, dtype


def strides_of(shape: Sequence[int], itemsize: int) -> list[int]:
    strides = []
    step = itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(1, n)
    return strides[::-1]
