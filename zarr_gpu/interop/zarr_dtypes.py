"""Data types of ml_dtypes for zarr-python: bfloat16, the 8-bit floats, the smaller ones.

zarr-python finds the classes by their entry points, so that it opens, reads and writes what our
checkpoints (and TensorStore) store. Names and fill values are those of our own metadata. ml_dtypes
is imported when an array of such a type is met. Types that zarr-python comes to know itself are
left to it.
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


@dataclass(frozen=True, kw_only=True)
class _MLType(ZDType, HasItemSize):  # type: ignore[misc]  # zarr's types are not looked at
    """What all have in common: everything is asked of our own data type."""

    dtype_cls: ClassVar[Any] = None  # types are told by name, without importing ml_dtypes

    @classmethod
    def _ours(cls) -> Any:
        from zarr_gpu.metadata.dtypes import parse_v3

        return parse_v3(cls._zarr_v3_name)

    @classmethod
    def _named(cls, name: object, *, known: bool = True) -> Any:
        if not known or name != cls._zarr_v3_name:
            raise DataTypeValidationError(f"{name!r} is not {cls._zarr_v3_name}")
        return cls()

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
        return cls._named(data)

    @property
    def item_size(self) -> int:
        return 1

    def to_native_dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._ours().dtype
        return dtype

    def to_json(self, zarr_format: int) -> Any:
        name = self._zarr_v3_name
        return name if zarr_format == 3 else {"name": name, "object_codec_id": None}

    # -- scalars ----------------------------------------------------------------------------------

    def _check_scalar(self, data: object) -> bool:
        try:
            self.cast_scalar(data)
        except (TypeError, ValueError, OverflowError):
            return False
        return True

    def cast_scalar(self, data: object) -> Any:
        return self._ours().cast_fill(data)

    def default_scalar(self) -> Any:
        return self._ours().default_fill()

    def from_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
        return self._ours().fill_from_json(data, zarr_format)

    def to_json_scalar(self, data: object, *, zarr_format: int) -> Any:
        return self._ours().fill_to_json(self.cast_scalar(data), zarr_format)


@dataclass(frozen=True, kw_only=True)
class BFloat16(_MLType, HasEndianness):  # type: ignore[misc]  # as above
    """The only one whose elements have more than one byte."""

    _zarr_v3_name: ClassVar[str] = "bfloat16"

    @classmethod
    def from_native_dtype(cls, dtype: np.dtype[Any]) -> Any:
        found = super().from_native_dtype(dtype)
        swapped = dtype.byteorder not in "=|" + ("<" if sys.byteorder == "little" else ">")
        other = "big" if sys.byteorder == "little" else "little"
        return cls(endianness=other) if swapped else found

    @property
    def item_size(self) -> int:
        return 2

    def to_native_dtype(self) -> np.dtype[Any]:
        dtype = super().to_native_dtype()
        return dtype if self.endianness == sys.byteorder else dtype.newbyteorder(self.endianness)


class Int2(_MLType):
    _zarr_v3_name: ClassVar[str] = "int2"


class Int4(_MLType):
    _zarr_v3_name: ClassVar[str] = "int4"


class UInt2(_MLType):
    _zarr_v3_name: ClassVar[str] = "uint2"


class UInt4(_MLType):
    _zarr_v3_name: ClassVar[str] = "uint4"


class Float8E3M4(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e3m4"


class Float8E4M3(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e4m3"


class Float8E4M3B11FNUZ(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e4m3b11fnuz"


class Float8E4M3FN(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e4m3fn"


class Float8E4M3FNUZ(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e4m3fnuz"


class Float8E5M2(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e5m2"


class Float8E5M2FNUZ(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e5m2fnuz"


class Float8E8M0FNU(_MLType):
    _zarr_v3_name: ClassVar[str] = "float8_e8m0fnu"


class Float6E2M3FN(_MLType):
    _zarr_v3_name: ClassVar[str] = "float6_e2m3fn"


class Float6E3M2FN(_MLType):
    _zarr_v3_name: ClassVar[str] = "float6_e3m2fn"


class Float4E2M1FN(_MLType):
    _zarr_v3_name: ClassVar[str] = "float4_e2m1fn"


for _class in _MLType.__subclasses__():
    _known = data_type_registry.contents.get(_class._zarr_v3_name)  # noqa: SLF001 - zarr's name
    if _known is not None:  # zarr-python's own: the entry point gives it back
        globals()[_class.__name__] = _known
