"""Fill values of strings, bytes and objects, of fixed and of variable size.

Knows no number and no struct.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.metadata.fill_family import Family, bad, is_number, is_zero, wrong_type
from zarr_gpu.metadata.problems import is_int, is_list

if TYPE_CHECKING:
    from zarr_gpu.metadata.data_type import DataType


def from_base64(dt: DataType, value: object) -> bytes:
    """The bytes that a JSON string stands for; ValueError."""
    if not isinstance(value, str):
        raise bad(dt, value, "expected base64")
    try:
        return binascii.a2b_base64(value.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise bad(dt, value, f"not base64: {error}") from None


def to_base64(data: bytes) -> str:
    """``data`` as a JSON string."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _from_base64_or_list(dt: DataType, value: Any) -> bytes:
    if not is_list(value):
        return from_base64(dt, value)
    if not all(is_int(item) and 0 <= item <= 255 for item in value):
        raise bad(dt, value, "expected integers from 0 to 255")
    return bytes(value)


class Chars(Family):
    """Bytes of fixed size, of which trailing zeros do not count (NumPy's S)."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        is_empty = zarr_format == 2 and is_zero(value)
        return _chars(dt, b"" if is_empty else from_base64(dt, value))

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return to_base64(fill)

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, str):
            value = value.encode("ascii")
        if is_zero(value):
            value = b""
        if not isinstance(value, bytes):
            raise wrong_type(dt, value, "bytes")
        return _chars(dt, value)

    def default(self, dt: DataType) -> Any:
        return np.bytes_(b"")

    def element(self, dt: DataType, fill: Any) -> NDArray:
        return np.array([fill], dt.dtype)


def _chars(dt: DataType, data: bytes) -> Any:
    if len(data) > dt.itemsize:
        raise bad(dt, data, f"longer than {dt.itemsize} bytes")
    return np.bytes_(data.rstrip(b"\0"))


class Texts(Family):
    """Strings of a fixed number of code points (NumPy's U)."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if zarr_format == 2 and is_zero(value):
            value = ""
        if not isinstance(value, str):
            raise bad(dt, value, "expected a string")
        return _text(dt, value)

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return str(fill)

    def cast(self, dt: DataType, value: Any) -> Any:
        if is_zero(value):
            value = ""
        if not isinstance(value, str):
            raise wrong_type(dt, value, "a string")
        return _text(dt, value)

    def default(self, dt: DataType) -> Any:
        return np.str_("")

    def element(self, dt: DataType, fill: Any) -> NDArray:
        return np.array([fill], dt.dtype)


def _text(dt: DataType, value: str) -> Any:
    if 4 * len(value) > dt.itemsize:
        raise bad(dt, value, f"longer than {dt.itemsize // 4} characters")
    return np.str_(value.rstrip("\0"))


class Raws(Family):
    """Bytes of fixed size that all count (NumPy's V)."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if zarr_format == 2 and is_zero(value):
            return self.default(dt)
        return _raw(dt, _from_base64_or_list(dt, value))

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        as_list = zarr_format == 3 and dt.name != "raw_bytes"  # r<bits>: the core specification
        return list(fill.tobytes()) if as_list else to_base64(fill.tobytes())

    def cast(self, dt: DataType, value: Any) -> Any:
        if is_zero(value):
            return self.default(dt)
        if isinstance(value, np.void):
            value = value.tobytes()
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise wrong_type(dt, value, "bytes")
        return _raw(dt, bytes(value).ljust(dt.itemsize, b"\0"))


def _raw(dt: DataType, data: bytes) -> Any:
    if len(data) != dt.itemsize:
        raise bad(dt, data, f"expected {dt.itemsize} bytes, found {len(data)}")
    return np.frombuffer(data, dt.dtype)[0]


class Strings(Family):
    """Strings of any length."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if isinstance(value, str):
            return value
        if zarr_format == 2 and is_number(value):  # zarr-python 2 wrote 0; 3 reads it as "0"
            return str(value)
        raise bad(dt, value, "expected a string")

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return str(fill)

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, (str, int, float, np.number)) and not isinstance(value, bool):
            return str(value)
        raise wrong_type(dt, value, "a string")

    def default(self, dt: DataType) -> Any:
        return ""


class Bytestrings(Family):
    """Bytes of any length."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        is_empty = zarr_format == 2 and is_zero(value)
        return b"" if is_empty else _from_base64_or_list(dt, value)

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return to_base64(fill)

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if is_zero(value):
            return b""
        raise wrong_type(dt, value, "bytes")

    def default(self, dt: DataType) -> Any:
        return b""


class Objects(Family):
    """Whatever the object codec of a v2 array makes."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        return value

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        value: JSON = fill
        return value

    def cast(self, dt: DataType, value: Any) -> Any:
        return value

    def default(self, dt: DataType) -> Any:
        return None
