"""zarr-python's data type classes, as far as tests use them: a NumPy type and its default."""

from __future__ import annotations

from typing import Any

import numpy as np

from zarr_gpu.metadata.dtypes import DataType, from_dtype_like, parse_v2


class ZDType:
    """Wraps a data type of ours."""

    native: Any = None
    """NumPy's name of the type, without byte order."""

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def __init__(self, *, endianness: str = "little", **configuration: Any) -> None:
        order = {"little": "<", "big": ">"}[endianness]
        self.endianness = endianness
        self.configuration = configuration
        self.row = from_dtype_like(self._native(order), 2)

    def _native(self, order: str) -> Any:
        return np.dtype(self.native).newbyteorder(order)

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> ZDType:
        out = cls.__new__(cls)
        out.row = from_dtype_like(dtype, 2)
        out.endianness, out.configuration = "little", {}
        return out

    @property
    def dtype_cls(self) -> Any:
        return type(self.row.dtype)

    def to_native_dtype(self) -> np.dtype[Any]:
        return self.row.dtype

    def default_scalar(self) -> Any:
        return self.row.default_fill()

    def cast_scalar(self, value: Any) -> Any:
        return self.row.cast_fill(value)

    def to_json(self, *, zarr_format: int) -> Any:
        if zarr_format == 3:
            return from_dtype_like(self.row, 3).to_json()
        codec = {"string": "vlen-utf8", "bytes": "vlen-bytes"}.get(self.row.kind)
        return {"name": self.row.to_v2_json(), "object_codec_id": codec}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.row == self.row

    def __hash__(self) -> int:
        return hash(self.row)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.row.dtype})"

    __repr__ = __str__


class _Length(ZDType):
    letter = ""

    def __init__(self, *, length: int, endianness: str = "little") -> None:
        self._length = length
        super().__init__(endianness=endianness)

    def _native(self, order: str) -> Any:
        return np.dtype(f"{order}{self.letter}{self._length}")


class _Time(ZDType):
    letter = ""

    def __init__(self, *, unit: str = "generic", scale_factor: int = 1, **kwargs: Any) -> None:
        self._unit = f"[{scale_factor}{unit}]" if unit != "generic" else ""
        super().__init__(**kwargs)

    def _native(self, order: str) -> Any:
        return np.dtype(f"{order}{self.letter}8{self._unit}")


class _Variable(ZDType):
    codec = ""
    object_codec_id = ""

    def __init__(self) -> None:
        self.row: DataType = parse_v2("|O", self.codec)


class VariableLengthUTF8(_Variable):
    codec = object_codec_id = "vlen-utf8"


class VariableLengthBytes(_Variable):
    codec = object_codec_id = "vlen-bytes"


class Structured(ZDType):
    """Made by ``from_native_dtype``."""


class Struct(Structured):
    """The newer name."""


class FixedLengthUTF32(_Length):
    letter = "U"


class NullTerminatedBytes(_Length):
    letter = "S"


class RawBytes(_Length):
    letter = "V"


class DateTime64(_Time):
    letter = "M"


class TimeDelta64(_Time):
    letter = "m"


_PLAIN = {
    "Bool": "?", "Int8": "i1", "Int16": "i2", "Int32": "i4", "Int64": "i8",
    "UInt8": "u1", "UInt16": "u2", "UInt32": "u4", "UInt64": "u8",
    "Float16": "f2", "Float32": "f4", "Float64": "f8", "Complex64": "c8", "Complex128": "c16",
}  # fmt: skip
CLASSES: dict[str, type[ZDType]] = {
    name: type(name, (ZDType,), {"native": native}) for name, native in _PLAIN.items()
}
CLASSES |= {
    cls.__name__: cls
    for cls in (
        FixedLengthUTF32, NullTerminatedBytes, RawBytes, DateTime64, TimeDelta64,
        VariableLengthUTF8, VariableLengthBytes, Struct,
    )
}  # fmt: skip


def examples() -> tuple[ZDType, ...]:
    """One of every class."""
    out: list[ZDType] = []
    for cls in CLASSES.values():
        if cls is Struct:
            out.append(cls.from_native_dtype(np.dtype([("a", "f8"), ("b", "i1")])))
        elif issubclass(cls, _Length):
            out.append(cls(length=1))
        elif issubclass(cls, _Time):
            out.append(cls(unit="s", scale_factor=10))
        else:
            out.append(cls())
    return tuple(out)


def parse_dtype(value: Any, *, zarr_format: int) -> ZDType:
    """The class of the type that ``dtype=value`` means."""
    if isinstance(value, ZDType):
        return value
    row = from_dtype_like(value, 2)
    for cls in CLASSES.values():
        if isinstance(cls.native, str) and np.dtype(cls.native) == row.dtype:
            return cls()
    out = ZDType.__new__(ZDType)
    out.row = row
    return out
