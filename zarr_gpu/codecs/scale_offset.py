"""``scale_offset``: ``(x - offset) * scale`` in the array's own type (zarr-extensions).

Integers neither wrap nor lose a remainder: a result that the type cannot hold is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.codecs._members import check_names
from zarr_gpu.codecs.base import ArrayArrayCodec, ChunkSpec
from zarr_gpu.codecs.numcodecs import native
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.problems import show


@dataclass(frozen=True)
class ScaleOffsetCodec(ArrayArrayCodec):
    """``offset`` and ``scale`` are written as fill values of the data type are."""

    name: ClassVar[str] = "scale_offset"

    offset: int | float | str = 0
    scale: int | float | str = 1

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> ScaleOffsetCodec:
        check_names(config, "offset", "scale")
        for name, value in config.items():
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError(f"{name}: expected a number or a string, found {show(value)}")
        return cls(**config)  # type: ignore[arg-type]  # checked above

    def to_config(self) -> dict[str, JSON]:
        config: dict[str, JSON] = {}
        if self.offset != 0:
            config["offset"] = self.offset
        if self.scale != 1:
            config["scale"] = self.scale
        return config

    def bind(self, spec: ChunkSpec) -> ScaleOffsetCodec:
        if spec.dtype.kind not in "iu" and spec.data_type.category != "float":
            raise ValueError(
                f"scale_offset: expected integers or floats, found {spec.data_type.name!r}"
            )
        if self._constants(spec)[1] == 0:
            raise ValueError("scale: must not be 0")
        return self

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        fill = self.encode(np.asarray(spec.fill_value, spec.dtype), spec)
        return replace(spec, fill_value=spec.data_type.cast_fill(fill.reshape(-1)[0]))

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        values = native(array, spec).reshape(np.shape(array))
        offset, scale = self._constants(spec)
        if values.dtype.kind in "iu" and values.size:
            for extreme in _extremes(values):
                _check((extreme - int(offset)) * int(scale), values.dtype)
        # Integers may wrap on the way, but as the result fits, it is right modulo 2**n.
        with np.errstate(all="ignore"):
            return np.asarray((values - offset) * scale, values.dtype)

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        values = native(array, spec).reshape(np.shape(array))
        offset, scale = self._constants(spec)
        with np.errstate(all="ignore"):
            if values.dtype.kind not in "iu":
                return np.asarray(values / scale + offset, values.dtype)
            if (values % scale).any():
                text = f"not divisible by scale {self.scale!r}: there is a non-zero remainder"
                raise CodecError(text, codec=self.name)
            if values.size:
                for extreme in _extremes(values):
                    _check(extreme // int(scale) + int(offset), values.dtype)
            return np.asarray(values // scale + offset, values.dtype)

    def _constants(self, spec: ChunkSpec) -> tuple[Any, Any]:
        """Offset and scale as scalars of the chunk's type; ValueError naming the member."""
        constants = []
        for name, value in (("offset", self.offset), ("scale", self.scale)):
            try:
                scalar = spec.data_type.fill_from_json(value, 3)
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{name}: {error}") from error
            constants.append(np.asarray(scalar, spec.dtype.newbyteorder("="))[()])
        return constants[0], constants[1]


def _extremes(values: NDArray) -> tuple[int, int]:
    """Both formulas are monotonic, so what the extremes become bounds what all become."""
    return int(values.min()), int(values.max())


def _check(result: int, dtype: np.dtype[Any]) -> None:
    info = np.iinfo(dtype)
    if not info.min <= result <= info.max:
        _refuse(result, info)


def _refuse(result: int, info: np.iinfo[Any]) -> NoReturn:
    raise CodecError(
        f"result outside the range of dtype {info.dtype}",
        codec="scale_offset",
        expected=f"{info.min}..{info.max}",
        found=result,
    )
