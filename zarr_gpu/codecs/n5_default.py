"""``n5_default``: blocks of N5 in default mode (zarr-extensions, codec "n5_default").

A block is a header - mode 0, number of dimensions, shape; big-endian - and the data behind an
inner chain: all dimensions reversed, big-endian elements, at most one compressor. Its shape comes
from the header, because N5 writers may truncate the blocks at the edge of an array.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray, Shape
from zarr_gpu.codecs._members import check_names
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Codec, Size
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.chain import BoundChain, CodecChain
from zarr_gpu.codecs.transpose import TransposeCodec
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.problems import is_list, show


@dataclass(frozen=True)
class N5DefaultCodec(ArrayBytesCodec):
    """``codecs``: transpose, bytes and perhaps one codec of bytes."""

    name: ClassVar[str] = "n5_default"

    codecs: tuple[Codec, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> N5DefaultCodec:
        from zarr_gpu.codecs.registry import get_codec

        check_names(config, required=("codecs",))
        codecs = config["codecs"]
        if not is_list(codecs) or not 2 <= len(codecs) <= 3:
            raise ValueError(f"codecs: expected two or three codecs, found {show(codecs)}")
        return cls(tuple(get_codec(codec) for codec in codecs))

    def to_config(self) -> dict[str, JSON]:
        return {"codecs": [codec.to_dict() for codec in self.codecs]}

    @cached_property
    def chain(self) -> CodecChain:
        return CodecChain.from_codecs(self.codecs, ("codecs",))

    def bind(self, spec: ChunkSpec) -> N5DefaultCodec:
        ndim = len(spec.shape)
        reverse = TransposeCodec(tuple(range(ndim - 1, -1, -1)))
        if [codec.bind(spec) for codec in self.chain.array_array] != [reverse]:
            raise ValueError(f"codecs[0]: expected a transpose to {list(reverse.order)}")
        inner = self.chain.array_bytes
        if not isinstance(inner, BytesCodec):
            raise ValueError(f"codecs[1]: expected 'bytes', found {inner.name!r}")
        if inner.bind(spec).endian not in ("big", None):
            raise ValueError(f"codecs[1].endian: expected 'big', found {inner.endian!r}")
        self.chain.bind(spec)
        return self

    def encoded_size(self, spec: ChunkSpec) -> Size:
        stored = self.chain.bind(spec).stored
        return Size(_header_nbytes(spec) + stored.limit, exact=False)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        ndim = len(spec.shape)
        # N5 lists the fastest dimension first.
        header = struct.pack(f">HH{ndim}I", 0, ndim, *spec.shape[::-1])
        return header + self.chain.bind(spec).encode(array)

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        block = self._block(data, spec)
        array = block.decode(memoryview(data)[_header_nbytes(spec) :])
        if array.shape == spec.shape:
            return array
        result = spec.data_type.full(spec.shape, spec.fill_value)
        part = tuple(slice(0, min(a, b)) for a, b in zip(array.shape, spec.shape, strict=True))
        result[part] = array[part]
        return result

    def _block(self, data: Bytes, spec: ChunkSpec) -> BoundChain:
        """The inner chain for the shape in the header, which must not be larger than the chunk."""
        shape = _read_header(data, spec)
        if math.prod(shape) > spec.size:
            raise CodecError(
                "block too large", codec="n5_default", expected=spec.shape, found=shape
            )
        return self.chain.bind(replace(spec, shape=shape))


def _header_nbytes(spec: ChunkSpec) -> int:
    return 4 + 4 * len(spec.shape)


def _read_header(data: Bytes, spec: ChunkSpec) -> Shape:
    ndim = len(spec.shape)
    if len(data) < _header_nbytes(spec):
        raise CodecError("truncated header", codec="n5_default", found=len(data))
    mode, count, *dims = struct.unpack_from(f">HH{ndim}I", data)
    if (mode, count) != (0, ndim):
        raise CodecError(
            "wrong mode or number of dimensions",
            codec="n5_default",
            expected=(0, ndim),
            found=(mode, count),
        )
    return tuple(np.array(dims[::-1], np.int64).tolist())
