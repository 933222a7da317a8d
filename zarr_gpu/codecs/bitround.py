"""``bitround``: round floating-point mantissas to few bits, so that the rest compresses well.

Decoding changes nothing, so rounded integers can be read, too. See zarr-extensions, codec
"bitround", and Klöwer et al., "Compressing atmospheric data into its real information content",
Nature Computational Science 1, 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.codecs._members import check_names, integer
from zarr_gpu.codecs.base import ArrayArrayCodec, ChunkSpec
from zarr_gpu.codecs.numcodecs import native
from zarr_gpu.errors import CodecError

# NumPy name of one component -> bits of its mantissa (IEEE 754).
_MANTISSA = {"bfloat16": 7, "float16": 10, "float32": 23, "float64": 52}
_COMPONENT = {"complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True)
class BitRoundCodec(ArrayArrayCodec):
    """Round to nearest, ties to even, keeping ``keepbits`` bits of the mantissa."""

    name: ClassVar[str] = "bitround"

    keepbits: int

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> BitRoundCodec:
        check_names(config, required=("keepbits",))
        return cls(integer(config, "keepbits", 0, 64))

    def to_config(self) -> dict[str, JSON]:
        return {"keepbits": self.keepbits}

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": self.name, **self.to_config()}

    def bind(self, spec: ChunkSpec) -> BitRoundCodec:
        bits = _mantissa(spec)
        if bits is None and spec.dtype.kind not in "iumM":
            raise ValueError(f"bitround: expected numbers, found {spec.data_type.name!r}")
        if bits is not None and self.keepbits > bits:
            raise ValueError(f"keepbits: expected at most {bits}, found {self.keepbits}")
        return self

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        return spec

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        mantissa = _mantissa(spec)
        if mantissa is None:
            raise CodecError("rounding integers is not implemented", codec=self.name)
        drop = mantissa - self.keepbits
        if drop == 0:
            return array
        values = native(array, spec)
        width = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
        words = values.view(f"u{width}")
        one = words.dtype.type(1)
        half = words.dtype.type((1 << (drop - 1)) - 1)
        mask = words.dtype.type((1 << (8 * width)) - (1 << drop))
        rounded = (words + ((words >> words.dtype.type(drop)) & one) + half) & mask
        # Rounding may carry out of a NaN's mantissa and make a number of it.
        magnitude = words.dtype.type((1 << (8 * width - 1)) - 1)
        infinity = magnitude - words.dtype.type((1 << mantissa) - 1)
        rounded = np.where((words & magnitude) > infinity, words, rounded)
        return rounded.view(values.dtype).reshape(spec.shape)

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        return array


def _mantissa(spec: ChunkSpec) -> int | None:
    name = spec.dtype.name
    return _MANTISSA.get(_COMPONENT.get(name, name))
