"""Data types of ml_dtypes for zarr-python: bfloat16, the 8-bit floats, the smaller ones.

zarr-python finds the two classes by their entry points, so that it opens, reads and writes what our
checkpoints (and TensorStore) store. Names and fill values are those of our own metadata. ml_dtypes
is imported when an array of such a type is met. Types that zarr-python comes to know itself, or
that another package registers, are left to them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from zarr.core.dtype.common import HasEndianness, HasItemSize
from zarr.dtype import ZDType, data_type_registry

try:
    from zarr.errors import DataTypeValidationError
except ImportError:  # zarr 3.1
    from zarr.core.dtype.common import DataTypeValidationError

BFLOAT16 = "bfloat16"
BYTES = (
    "int2 int4 uint2 uint4 float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn "
    "float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float6_e2m3fn float6_e3m2fn "
    "float4_e2m1fn"
).split()
"""Types whose elements are a byte each in memory."""


def _ours(name: str) -> Any:
    """Our description of the type."""
    from zarr_gpu.metadata.dtypes import parse_v3

    return parse_v3(name)


@dataclass(frozen=True, kw_only=True)
class _MLType(ZDType, HasItemSize):  # type: ignore[misc]  # zarr's types are not looked at
    """What both have in common: everything is asked of our own data type."""

    name: str

    _names: ClassVar[tuple[str, ...]]
    dtype_cls: ClassVar[Any] = None  # looked up by name, without importing ml_dtypes

    @classmethod
    def _named(cls, name: object, *, known: bool) -> Any:
        """The type of that name; DataTypeValidationError where it is another class's."""
        if not known or name not in cls._names or name in data_type_registry.contents.keys() - {
            cls._zarr_v3_name
        }:
            raise DataTypeValidationError(f"{name!r} is no type of {cls.__name__}")
        return cls(name=name)

    @classmethod
    def from_native_dtype(cls, dtype: np.dtype[Any]) -> Any:
        ours = dtype.type.__module__.partition(".")[0] == "ml_dtypes"
        return cls._named(dtype.type.__name__, known=ours)

    @classmethod
    def _from_json_v2(cls, data: Any) -> Any:
        found = data if isinstance(data, dict) else {}
        return cls._named(found.get("name"), known=found.get("object_codec_id") is None)

    @classmethod
    def _from_json_v3(cls, data: Any) -> Any:
        return cls._named(data, known=isinstance(data, str))

    @property
    def item_size(self) -> int:
        return int(_ours(self.name).itemsize)

    def to_native_dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = _ours(self.name).dtype
        return dtype

    def to_json(self, zarr_format: int) -> Any:
        return self.name if zarr_format == 3 else {"name": self.name, "object_codec_id": None}

    # -- scalars ----------------------------------------------------------------------------------

    def _check_scalar(self, data: object) -> bool:
        try:
            self.cast_scalar(data)
        except (TypeError, ValueError, OverflowError):
            return False
        return True

    def cast_scalar(self, data: object) -> Any:
        return _ours(self.name).cast_fill(data)

    def default_scalar(self) -> Any:
        return _ours(self.name).default_fill()

    def from_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
        return _ours(self.name).fill_from_json(data, zarr_format)

    def to_json_scalar(self, data: object, *, zarr_format: int) -> Any:
        return _ours(self.name).fill_to_json(self.cast_scalar(data), zarr_format)


@dataclass(frozen=True, kw_only=True)
class MLBytes(_MLType):
    """Types of ml_dtypes with elements of one byte."""

    _zarr_v3_name: ClassVar[str] = "zarr_gpu.ml_bytes"
    """Only a key in zarr-python's registry: documents have the names of the types."""
    _names = tuple(BYTES)


@dataclass(frozen=True, kw_only=True)
class BFloat16(_MLType, HasEndianness):
    """bfloat16. Arrays are in the machine's byte order."""

    name: str = BFLOAT16

    _zarr_v3_name: ClassVar[str] = BFLOAT16
    _names = (BFLOAT16,)

    def to_native_dtype(self) -> np.dtype[Any]:
        if self.endianness != sys.byteorder:
            # NumPy cannot swap the bytes of types that it does not define.
            raise ValueError(
                f"{self.endianness}-endian bfloat16 cannot be decoded by zarr-python's own codec "
                "pipeline; call zarr_gpu.enable() before the array is opened"
            )
        return super().to_native_dtype()
