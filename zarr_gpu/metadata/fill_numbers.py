"""Fill values of booleans, integers, floats, complex numbers, dates and durations.

Knows no struct and no document.
"""

from __future__ import annotations

import math
import re
import sys
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from zarr_gpu._types import JSON
from zarr_gpu.metadata.dtype_names import bits, component_dtype
from zarr_gpu.metadata.fill_family import Family, bad, is_number, native, wrong_type
from zarr_gpu.metadata.problems import is_int, is_list, show

if TYPE_CHECKING:
    from zarr_gpu.metadata.data_type import DataType

_NAT = -(2**63)
_NAN_BITS = {"float16": 0x7E00, "float32": 0x7FC00000, "float64": 0x7FF8000000000000}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NO_REAL = (
    bytes, complex, np.complexfloating, np.flexible, np.ndarray, np.datetime64, np.timedelta64,
)  # fmt: skip
"""Types that NumPy or Python might turn into a number, but that are none."""


class Bools(Family):
    """``true`` and ``false``; 0 and 1 are tolerated."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if isinstance(value, (int, float)) and value in (0, 1):
            return np.bool_(value)
        raise bad(dt, value, "expected true or false")

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return bool(fill)

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, (int, float, np.number, np.bool_)):
            return np.bool_(value)
        raise wrong_type(dt, value, "a bool")


class Ints(Family):
    """Integers of 2 to 64 bits."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if is_int(value) or (isinstance(value, float) and value.is_integer()):
            return _int(dt, int(value))
        raise bad(dt, value, "expected an integer")

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return int(fill)

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, (str, *_NO_REAL)):
            raise wrong_type(dt, value, "an integer")
        try:
            whole = int(value)
        except TypeError:
            raise wrong_type(dt, value, "an integer") from None
        except (ValueError, OverflowError):  # NaN, infinity
            raise bad(dt, value, "not an integer") from None
        if whole != value:
            raise bad(dt, value, "not an integer")
        return _int(dt, whole)


def _int(dt: DataType, value: int) -> Any:
    n = bits(dt.name)
    low, high = (0, 2**n - 1) if dt.name.startswith("u") else (-(2 ** (n - 1)), 2 ** (n - 1) - 1)
    if not low <= value <= high:
        raise OverflowError(f"{show(value)} is out of bounds for {dt.name} ({low} to {high})")
    return dt.dtype.type(value)


class Floats(Family):
    """Floats of NumPy and of ml_dtypes; NaNs keep their bits in v3."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        return _real_from_json(dt, native(dt.dtype), value, zarr_format)

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return _real_to_json(fill, zarr_format)

    def cast(self, dt: DataType, value: Any) -> Any:
        return _real_cast(dt, native(dt.dtype), value)

    def default(self, dt: DataType) -> Any:
        if dt.name == "float8_e8m0fnu":  # powers of two only
            return _rounded(dt.dtype, 1.0)
        return super().default(dt)


def _rounded(dtype: np.dtype[Any], value: Any) -> Any:
    """``value`` as a scalar of a native float type."""
    with np.errstate(all="ignore"):
        wide = np.asarray(value, np.longdouble if dtype.type is np.longdouble else np.float64)
        return wide.astype(dtype)[()]


def _of_bits(dtype: np.dtype[Any], word: int) -> Any:
    return np.frombuffer(word.to_bytes(dtype.itemsize, sys.byteorder), dtype)[0]


def _special(dt: DataType, dtype: np.dtype[Any], value: float) -> Any:
    """NaN (the one that "NaN" means) or an infinity, where the type has it."""
    if math.isnan(value) and dtype.name in _NAN_BITS:
        return _of_bits(dtype, _NAN_BITS[dtype.name])
    scalar = _rounded(dtype, value)
    if not _same(float(scalar), value):
        raise bad(dt, value, "the type has no such value")
    return scalar


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _of_hex(dt: DataType, dtype: np.dtype[Any], text: str) -> Any:
    digits = 2 * dtype.itemsize
    if not re.fullmatch(f"0x[0-9a-fA-F]{{{digits}}}", text):
        raise bad(dt, text, f'expected "NaN", "Infinity", "-Infinity" or 0x and {digits} digits')
    word = int(text, 16)
    meaningful = bits(dtype.name)
    if word >> meaningful:
        raise bad(dt, text, f"more than {meaningful} bits")
    return _of_bits(dtype, word)


def _real_from_json(dt: DataType, dtype: np.dtype[Any], value: Any, zarr_format: int) -> Any:
    """A float of native type ``dtype``: that of ``dt`` or of its components."""
    if isinstance(value, str):
        if value in _SPECIAL:
            return _special(dt, dtype, _SPECIAL[value])
        if zarr_format == 3:
            return _of_hex(dt, dtype, value)
        raise bad(dt, value, 'expected a number, "NaN", "Infinity" or "-Infinity"')
    if not is_number(value):
        raise bad(dt, value, "expected a number")
    number = float(value)
    if not math.isfinite(number):  # the tokens NaN and Infinity, which some JSON writers emit
        return _special(dt, dtype, number)
    if number == 0 and dtype.name == "float8_e8m0fnu":
        return _of_bits(dtype, 0)  # the nearest value, 2**-127: TensorStore's default is 0.0
    scalar = _rounded(dtype, number)
    if math.isnan(float(scalar)):
        raise bad(dt, value, "the type has no such value")
    return scalar


def _real_to_json(scalar: Any, zarr_format: int) -> JSON:
    number = float(scalar)
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if not math.isnan(number):
        return number
    dtype = np.asarray(scalar).dtype
    word = int.from_bytes(scalar.tobytes(), sys.byteorder)
    standard = _NAN_BITS.get(dtype.name)
    if standard is None:
        standard = int.from_bytes(_rounded(dtype, math.nan).tobytes(), sys.byteorder)
    if zarr_format == 2 or word == standard:
        return "NaN"
    return f"0x{word:0{2 * dtype.itemsize}x}"


def _real_cast(dt: DataType, dtype: np.dtype[Any], value: Any) -> Any:
    if isinstance(value, np.generic) and value.dtype == dtype:
        return value
    if isinstance(value, str):
        if value in _SPECIAL or value.startswith("0x"):
            return _real_from_json(dt, dtype, value, 3)
        value = float(value)
    if isinstance(value, _NO_REAL) or not hasattr(value, "__float__"):
        raise wrong_type(dt, value, "a number")
    number = float(value)
    if not math.isfinite(number):
        return _special(dt, dtype, number)
    scalar = _rounded(dtype, value if isinstance(value, np.longdouble) else number)
    if not math.isfinite(float(scalar)):
        raise OverflowError(f"{show(value)} does not fit {dt.name}")
    return scalar


class Complexes(Family):
    """Pairs of floats."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if zarr_format == 2 and not is_list(value):
            value = [value, 0]
        if not is_list(value) or len(value) != 2:
            raise bad(dt, value, "expected [real, imaginary]")
        part = component_dtype(dt.name, dt.dtype)
        return _joined(dt, [_real_from_json(dt, part, item, zarr_format) for item in value])

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        parts = np.frombuffer(fill.tobytes(), component_dtype(dt.name, dt.dtype))
        return [_real_to_json(part, zarr_format) for part in parts]

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, np.generic) and value.dtype == native(dt.dtype):
            return value
        if is_list(value) and len(value) != 2:
            raise bad(dt, value, "expected two components")
        if not is_list(value):
            is_complex = isinstance(value, (complex, np.complexfloating))
            value = [value.real, value.imag] if is_complex else [value, 0.0]
        part = component_dtype(dt.name, dt.dtype)
        return _joined(dt, [_real_cast(dt, part, item) for item in value])

    def default(self, dt: DataType) -> Any:
        return self.cast(dt, [1.0, 1.0] if "e8m0" in dt.name else 0)


def _joined(dt: DataType, parts: list[Any]) -> Any:
    return np.frombuffer(b"".join(part.tobytes() for part in parts), native(dt.dtype))[0]


class Times(Family):
    """Counts of a unit; the least 64-bit integer is NaT, the default, as in zarr-python."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if value == "NaT":
            return _time(dt, _NAT)
        if is_int(value) or (isinstance(value, float) and value.is_integer()):
            return _time(dt, int(value))
        raise bad(dt, value, 'expected an integer or "NaT"')

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        return int(fill.view(np.int64))

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, (np.integer, int)) and not isinstance(value, (bool, np.timedelta64)):
            return _time(dt, int(value))
        scalar = dt.dtype.type
        own = (np.datetime64, date) if dt.dtype.kind == "M" else (np.timedelta64, timedelta)
        if not isinstance(value, (str, *own)):
            raise wrong_type(dt, value, f"an integer, 'NaT' or a {scalar.__name__}")
        if value == "NaT" or (isinstance(value, np.generic) and np.isnat(value)):
            return _time(dt, _NAT)
        return np.asarray(scalar(value)).astype(native(dt.dtype))[()]

    def default(self, dt: DataType) -> Any:
        return _time(dt, _NAT)


def _time(dt: DataType, count: int) -> Any:
    if not -(2**63) <= count < 2**63:
        raise OverflowError(f"{show(count)} does not fit 64 bits")
    return np.asarray(count, np.int64).view(native(dt.dtype))[()]
