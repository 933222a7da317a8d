"""``numcodecs.delta``: differences of neighbours in C order instead of the elements.

Sums are taken in the decoded type: integers wrap around, floats are added one after the other,
exactly as numcodecs does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.codecs.base import ChunkSpec
from zarr_gpu.codecs.numcodecs import ArrayFilter, native
from zarr_gpu.errors import CodecError


class DeltaCodec(ArrayFilter):
    """Differences, stored as ``astype``; the first element as it is."""

    name: ClassVar[str] = "numcodecs.delta"

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        codec = super().from_config(config)
        for name in ("dtype", "astype"):
            if config.get(name) is not None and np.dtype(str(config[name])).kind not in "iufc":
                raise ValueError(f"{name}: expected a numeric type, found {config[name]!r}")
        return codec

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        values = native(array, spec).view(self.decoded_dtype).reshape(-1)
        out = np.empty(values.shape, self.encoded_dtype)
        if values.size:
            try:
                out[0] = values[0]
            except OverflowError as error:
                raise CodecError(f"first element: {error}", codec=self.name) from error
        with np.errstate(all="ignore"):  # too small an astype loses values, as documented
            out[1:] = np.diff(values)
        return out.reshape(spec.shape)

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        values = np.ascontiguousarray(array, self.encoded_dtype).reshape(-1)
        out = np.empty(values.shape, self.decoded_dtype)
        with np.errstate(all="ignore"):
            np.cumsum(values, out=out)
        return out.view(spec.dtype.newbyteorder("=")).reshape(spec.shape)
