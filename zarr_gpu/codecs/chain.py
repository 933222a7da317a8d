"""Codec chains: checked order, then bound to one chunk so that every step knows its sizes.

A :class:`CodecChain` is what a document says; a :class:`BoundChain` is ready to run on chunks of
one :class:`~zarr_gpu.codecs.base.ChunkSpec` and is immutable, so all threads share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from zarr_gpu._types import Bytes, Int64, NDArray, Shape
from zarr_gpu.codecs.base import (
    ArrayArrayCodec,
    ArrayBytesCodec,
    BytesBytesCodec,
    ChunkSpec,
    Codec,
    Size,
)
from zarr_gpu.errors import CodecError, MetadataError, Problem


@dataclass(frozen=True, slots=True)
class CodecChain:
    """array -> array codecs, one array -> bytes codec, bytes -> bytes codecs."""

    array_array: tuple[ArrayArrayCodec, ...]
    array_bytes: ArrayBytesCodec
    bytes_bytes: tuple[BytesBytesCodec, ...]

    @classmethod
    def from_codecs(cls, codecs: Sequence[Codec], loc: tuple[str | int, ...] = ()) -> CodecChain:
        """Sort out a list of codecs; MetadataError when their order is illegal."""
        problems: list[Problem] = []
        first: list[ArrayArrayCodec] = []
        middle: list[ArrayBytesCodec] = []
        last: list[BytesBytesCodec] = []
        for i, codec in enumerate(codecs):
            if isinstance(codec, ArrayArrayCodec):
                if middle or last:
                    problems.append(
                        Problem((*loc, i), f"{codec.name!r} (array -> array) must come earlier")
                    )
                first.append(codec)
            elif isinstance(codec, ArrayBytesCodec):
                if middle or last:
                    problems.append(
                        Problem((*loc, i), f"{codec.name!r} is a second array -> bytes codec")
                        if middle
                        else Problem((*loc, i), f"{codec.name!r} must come before bytes codecs")
                    )
                middle.append(codec)
            elif isinstance(codec, BytesBytesCodec):
                if not middle:
                    problems.append(
                        Problem((*loc, i), f"{codec.name!r} (bytes -> bytes) must come later")
                    )
                last.append(codec)
        if not middle:
            problems.append(Problem(loc, "no array -> bytes codec in the chain", "missing"))
        if problems:
            raise MetadataError(problems)
        return cls(tuple(first), middle[0], tuple(last))

    @property
    def codecs(self) -> tuple[Codec, ...]:
        return (*self.array_array, self.array_bytes, *self.bytes_bytes)

    def bind(self, spec: ChunkSpec) -> BoundChain:
        """Complete every codec for chunks of ``spec``.

        Raises ``ValueError`` when a codec cannot be used on such chunks.
        """
        specs = [spec]
        first = []
        for codec in self.array_array:
            bound = codec.bind(specs[-1])
            first.append(bound)
            specs.append(bound.encoded_spec(specs[-1]))
        middle = self.array_bytes.bind(specs[-1])
        sizes = [middle.encoded_size(specs[-1])]
        last = []
        for codec_b in self.bytes_bytes:
            bound_b = codec_b.bind(specs[-1])
            last.append(bound_b)
            sizes.append(bound_b.encoded_size(sizes[-1]))
        return BoundChain(
            chain=CodecChain(tuple(first), middle, tuple(last)),
            specs=tuple(specs),
            sizes=tuple(sizes),
        )


@dataclass(frozen=True, eq=False)
class BoundChain:
    """A chain ready for chunks of ``specs[0]``.

    ``specs[i]`` is the chunk before array -> array codec number i (the last entry is what the
    array -> bytes codec gets); ``sizes[i]`` the bytes before bytes -> bytes codec number i, and
    ``sizes[-1]`` what is stored.
    """

    chain: CodecChain
    specs: tuple[ChunkSpec, ...]
    sizes: tuple[Size, ...]

    @cached_property
    def spec(self) -> ChunkSpec:
        return self.specs[0]

    @cached_property
    def stored(self) -> Size:
        """Size of a stored chunk."""
        return self.sizes[-1]

    @cached_property
    def memory(self) -> RawLayout | None:
        """How elements lie in a chunk's bytes before those are compressed.

        None when they are not the array's own, moved at most.
        """
        from zarr_gpu.codecs.bytes import BytesCodec
        from zarr_gpu.codecs.transpose import TransposeCodec

        codec = self.chain.array_bytes
        if not isinstance(codec, BytesCodec) or not _elements_are_bytes(self.spec):
            return None
        order = list(range(len(self.spec.shape)))
        for step in self.chain.array_array:
            if not isinstance(step, TransposeCodec) or isinstance(step.order, str):
                return None
            order = [order[d] for d in step.order]
        stored = codec.stored_dtype(self.spec)
        shape = tuple(self.spec.shape[d] for d in order)
        strides = np.empty(len(order), np.int64)
        step_nbytes = stored.itemsize
        for d, n in zip(reversed(order), reversed(shape), strict=True):
            strides[d] = step_nbytes
            step_nbytes *= n
        return RawLayout(stored, tuple(strides.tolist()), self.spec.nbytes)

    @cached_property
    def raw(self) -> RawLayout | None:
        """The same for a stored chunk, when its bytes are not compressed."""
        return None if self.chain.bytes_bytes else self.memory

    @property
    def direct(self) -> bool:
        """True when decoding ends with bytes that are the chunk's own memory in C order."""
        return not self.chain.array_array

    def decode(self, data: Bytes, out: NDArray | None = None) -> NDArray:
        """Decode one stored chunk.

        ``out``, C-contiguous and of the chunk's shape and type, is decoded into when the chain
        allows; the result is then ``out`` itself, otherwise another array or a read-only view.
        Raises CodecError (and nothing else) for bad data.
        """
        if not self.stored.check(len(data)):
            raise self.impossible_size(len(data))
        target = out if self.direct else None
        into = self._bytes_target(target)
        for i in range(len(self.chain.bytes_bytes) - 1, -1, -1):
            codec = self.chain.bytes_bytes[i]
            data = codec.decode(data, self.sizes[i], into if i == 0 else None)
        if into is not None and data is into:
            return target  # type: ignore[return-value]  # into was made from target
        array = self.chain.array_bytes.decode(data, self.specs[-1], target)
        for i in range(len(self.chain.array_array) - 1, -1, -1):
            array = self.chain.array_array[i].decode(array, self.specs[i])
        return array

    def decode_into(self, data: Bytes, out: memoryview) -> None:
        """Fill ``out``, of exactly the size of :attr:`memory`, with the decoded bytes.

        Raises CodecError (and nothing else) for bad data.
        """
        if not self.stored.check(len(data)):
            raise self.impossible_size(len(data))
        codecs = self.chain.bytes_bytes
        if len(codecs) > 1:
            for i in range(len(codecs) - 1, 0, -1):
                data = codecs[i].decode(data, self.sizes[i])
        if codecs:
            data = codecs[0].decode(data, self.sizes[0], out)
        if data is not out:
            out[:] = data

    def decoder(self, encoded: memoryview, out: memoryview) -> Callable[[int, int], bool] | None:
        """Decodes what lies in ``encoded`` again and again, see :meth:`BytesBytesCodec.decoder`.

        ``encoded`` may be as large as :attr:`stored` says, no larger.
        """
        codecs = self.chain.bytes_bytes
        if len(codecs) != 1 or self.stored.exact or len(encoded) > self.stored.limit:
            return None
        return codecs[0].decoder(encoded, out, self.sizes[0])

    @property
    def decodes_many(self) -> bool:
        """False when :meth:`decode_many` always gives None."""
        codecs = self.chain.bytes_bytes
        return len(codecs) == 1 and codecs[0].decodes_many

    def decode_many(self, data: Bytes, offset: Int64, nbytes: Int64) -> Sequence[Bytes] | None:
        """The bytes of each of many small chunks; None: decode them one by one.

        Always None where that would not be faster than :meth:`decode_into`.
        """
        codecs = self.chain.bytes_bytes
        if len(codecs) != 1 or not len(offset) or int(nbytes.min()) <= 0:
            return None
        if not self.stored.check(int(nbytes.max())):
            return None
        return codecs[0].decode_many(data, offset, nbytes, self.sizes[0])

    @cached_property
    def decodes_parts(self) -> bool:
        """False when :meth:`decode_part` always gives None."""
        codecs = self.chain.bytes_bytes
        above = codecs[0].parts_above if codecs else 0
        return above is not None and self.sizes[0].limit > above

    def decode_part(self, data: Bytes, offset: int, nbytes: int) -> Bytes | None:
        """A part of the bytes of :attr:`memory`, None when all have to be decoded."""
        if not self.stored.check(len(data)):
            raise self.impossible_size(len(data))
        codecs = self.chain.bytes_bytes
        for i in range(len(codecs) - 1, 0, -1):
            data = codecs[i].decode(data, self.sizes[i])
        if not codecs:
            return memoryview(data)[offset : offset + nbytes]
        return codecs[0].decode_part(data, self.sizes[0], offset, nbytes)

    def impossible_size(self, nbytes: int) -> CodecError:
        """The error for a stored chunk that no encoder can have made."""
        return CodecError(
            "stored chunk of impossible size",
            codec=self.chain.codecs[-1].name,
            expected=f"{'' if self.stored.exact else 'at most '}{self.stored.limit} bytes",
            found=f"{nbytes} bytes",
        )

    def _bytes_target(self, target: NDArray | None) -> memoryview | None:
        """``target``'s memory, when the last bytes codec may write the decoded chunk there."""
        if target is None or not self.chain.bytes_bytes or not self._bytes_are_elements:
            return None
        if target.dtype != self._stored_dtype or not target.nbytes:
            return None
        return target.reshape(-1).view(np.uint8).data

    @cached_property
    def _bytes_are_elements(self) -> bool:
        from zarr_gpu.codecs.bytes import BytesCodec

        spec = self.specs[-1]
        return isinstance(self.chain.array_bytes, BytesCodec) and _elements_are_bytes(spec)

    @cached_property
    def _stored_dtype(self) -> np.dtype[Any] | None:
        codec: Any = self.chain.array_bytes
        return codec.stored_dtype(self.specs[-1]) if self._bytes_are_elements else None

    def encode(self, array: NDArray) -> Bytes:
        """Encode one chunk of :attr:`spec`'s shape and type."""
        for codec, spec in zip(self.chain.array_array, self.specs, strict=False):
            array = codec.encode(array, spec)
        data = self.chain.array_bytes.encode(array, self.specs[-1])
        for step in self.chain.bytes_bytes:
            data = step.encode(data)
        return data


@dataclass(frozen=True, slots=True)
class RawLayout:
    """A stored chunk is an array of ``dtype`` with these ``strides`` (bytes per dimension)."""

    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    nbytes: int

    def c_order(self, shape: Shape) -> bool:
        """True when chunks of ``shape`` are stored in C order."""
        step_nbytes = self.dtype.itemsize
        for n, stride in zip(reversed(shape), reversed(self.strides), strict=True):
            if n > 1 and stride != step_nbytes:
                return False
            step_nbytes *= n
        return True

    def strides_of(self, shape: Shape) -> list[int]:
        """Strides of chunks that follow each other in C order, seen as (*numbers, *chunk)."""
        ndim = len(self.strides)
        strides = [self.nbytes] * ndim
        for d in range(ndim - 2, -1, -1):
            strides[d] = strides[d + 1] * shape[d + 1]
        return [*strides, *self.strides]

    def span(self, box: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
        """``(offset, nbytes)`` of the bytes from the first to the last element of a box.

        ``box`` gives start, extent and step of every dimension.
        """
        first = last = 0
        for (start, extent, step), stride in zip(box, self.strides, strict=True):
            first += start * stride
            last += (start + (extent - 1) * step) * stride
        return first, last - first + self.dtype.itemsize

    def view(self, data: Bytes, box: Sequence[tuple[int, int, int]]) -> NDArray:
        """The box's elements in ``data``, which holds the bytes of :meth:`span`."""
        shape = [extent for _, extent, _ in box]
        strides = [s * step for (_, _, step), s in zip(box, self.strides, strict=True)]
        return np.ndarray(shape, self.dtype, data, 0, strides)


def _elements_are_bytes(spec: ChunkSpec) -> bool:
    """True when any bytes make valid elements: not for references, nor for sub-byte types whose
    unused upper bits have to be masked.
    """
    data_type = spec.data_type
    return not data_type.is_variable and (
        data_type.packed_bits % 8 == 0 or data_type.dtype == np.bool_
    )


def order_of(order: str, ndim: int) -> Shape:
    """Axis order of a ``transpose`` codec that stores chunks in ``"C"`` or ``"F"`` order."""
    return tuple(range(ndim - 1, -1, -1)) if order == "F" else tuple(range(ndim))
