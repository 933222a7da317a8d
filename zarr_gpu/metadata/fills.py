"""Fill values: one element, between JSON, users' Python values, scalars and bits.

Values are carried as bits wherever NumPy's own conversions would lose some (NaN payloads, signs).
Knows no metadata document but the ``fill_value`` member.

>>> from zarr_gpu.metadata.dtypes import parse_v3
>>> to_json(parse_v3("complex64"), np.complex64(1 - 1j), 3)
[1.0, -1.0]
"""

from __future__ import annotations

import base64
import binascii
import datetime
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.metadata.dtype_names import bits, component_dtype
from zarr_gpu.metadata.problems import is_int, is_list, show

if TYPE_CHECKING:
    from zarr_gpu.metadata.data_type import DataType

_NAT = -(2**63)


def from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    """See :meth:`DataType.fill_from_json`."""
    if value is None and dt.category != "object":
        if zarr_format == 2:
            return None
        warnings.warn(
            f"fill_value null is not allowed in Zarr v3; reading it as the default of {dt.name}",
            UserWarning,
            stacklevel=4,
        )
        return default(dt)
    try:
        return _FROM_JSON[dt.category](dt, value, zarr_format)
    except OverflowError as error:
        raise _bad(dt, value, str(error)) from None


def to_json(dt: DataType, fill: Any, zarr_format: int) -> JSON:
    """See :meth:`DataType.fill_to_json`."""
    if fill is None:
        if zarr_format == 2:
            return None
        raise ValueError("Zarr v3 has no fill value null")
    return _TO_JSON[dt.category](dt, fill, zarr_format)


def cast(dt: DataType, value: Any) -> Any:
    """See :meth:`DataType.cast_fill`; ``value`` is not None."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and not dt.is_variable:
        value = value[()]
    return _CAST[dt.category](dt, value)


def default(dt: DataType) -> Any:
    """See :meth:`DataType.default_fill`."""
    match dt.category:
        case "string":
            return ""
        case "bytes":
            return b""
        case "object":
            return None
        case "time":
            return _time(dt, _NAT)
        case "struct":
            return _struct(dt, {name: default(member) for name, member in dt.fields})
        case "float" if dt.name == "float8_e8m0fnu":
            return _number(dt.dtype, 1.0)
        case _:
            return np.zeros(1, dt.dtype.newbyteorder("="))[0]


def element(dt: DataType, fill: Any) -> NDArray:
    """The bits of ``fill`` as an array of one element of ``dt.dtype`` (fixed-size types)."""
    out = np.zeros(1, dt.dtype)
    if dt.category in ("chars", "text"):
        out[0] = fill
    elif dt.category == "subarray":
        out = np.zeros((1, *dt.dtype.shape), dt.dtype.base)
        out[0] = fill
    else:  # from bits: an assignment could quieten a NaN
        native = dt.dtype if dt.category in ("raw", "struct") else dt.dtype.newbyteorder("=")
        out[...] = np.frombuffer(fill.tobytes(), native).astype(dt.dtype, copy=False)
    return out


def _bad(dt: DataType, value: object, expected: str) -> ValueError:
    return ValueError(f"fill value {show(value)} of data type {dt.name}: {expected}")


def _wrong_type(dt: DataType, value: object, expected: str) -> TypeError:
    return TypeError(
        f"fill value of data type {dt.name} must be {expected}, "
        f"not {show(value)} ({type(value).__name__})"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_zero(value: object) -> bool:
    """What early writers of v2 put where the type has no number."""
    return value == "" or (_is_number(value) and value == 0)


# ---------------------------------------------------------------------------------------- bool


def _bool_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return np.bool_(value)
    raise _bad(dt, value, "expected true or false")


def _bool_cast(dt: DataType, value: Any) -> Any:
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return np.bool_(value)
    raise _wrong_type(dt, value, "a bool")


# ------------------------------------------------------------------------------------- integers


def _int(dt: DataType, value: int) -> Any:
    n = bits(dt.name)
    low, high = (0, 2**n - 1) if dt.name.startswith("u") else (-(2 ** (n - 1)), 2 ** (n - 1) - 1)
    if not low <= value <= high:
        raise OverflowError(f"{show(value)} is out of bounds for {dt.name} ({low} to {high})")
    return dt.dtype.type(value)


def _int_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if is_int(value) or (isinstance(value, float) and value.is_integer()):
        return _int(dt, int(value))
    raise _bad(dt, value, "expected an integer")


def _int_cast(dt: DataType, value: Any) -> Any:
    if isinstance(value, (str, bytes, complex, np.complexfloating, np.flexible, np.ndarray)):
        raise _wrong_type(dt, value, "an integer")
    if isinstance(value, (np.datetime64, np.timedelta64)):
        raise _wrong_type(dt, value, "an integer")
    try:
        whole = int(value)
    except TypeError:
        raise _wrong_type(dt, value, "an integer") from None
    except (ValueError, OverflowError):
        raise _bad(dt, value, "not an integer") from None
    if whole != value:
        raise _bad(dt, value, "not an integer")
    return _int(dt, whole)


# --------------------------------------------------------------------------------------- floats

_NAN_BITS = {"float16": 0x7E00, "float32": 0x7FC00000, "float64": 0x7FF8000000000000}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _number(dtype: np.dtype[Any], value: Any) -> Any:
    """``value`` as a scalar of a float type, rounded to nearest even."""
    native = dtype.newbyteorder("=")
    with np.errstate(all="ignore"):
        wide = np.asarray(value, np.longdouble if native.kind == "g" else np.float64)
        return wide.astype(native)[()]


def _from_bits(dtype: np.dtype[Any], word: int) -> Any:
    return np.frombuffer(word.to_bytes(dtype.itemsize, sys.byteorder), dtype)[0]


def _bits_of(scalar: Any) -> int:
    return int.from_bytes(scalar.tobytes(), sys.byteorder)


def _nan(dtype: np.dtype[Any]) -> Any:
    """The NaN called "NaN"."""
    if dtype.name in _NAN_BITS:
        return _from_bits(dtype, _NAN_BITS[dtype.name])
    return _number(dtype, math.nan)


def _special(dt: DataType, dtype: np.dtype[Any], name: str) -> Any:
    scalar = _nan(dtype) if name == "NaN" else _number(dtype, _SPECIAL[name])
    if not np.array_equal(float(scalar), _SPECIAL[name], equal_nan=True):
        raise _bad(dt, name, "the type has no such value")
    return scalar


def _hex(dt: DataType, dtype: np.dtype[Any], text: str) -> Any:
    digits = 2 * dtype.itemsize
    if not re.fullmatch(f"0x[0-9a-fA-F]{{{digits}}}", text):
        raise _bad(dt, text, f'expected "NaN", "Infinity", "-Infinity" or 0x and {digits} digits')
    word = int(text, 16)
    meaningful = bits(dtype.name) or 8 * dtype.itemsize
    if word >> meaningful:
        raise _bad(dt, text, f"more than {meaningful} bits")
    return _from_bits(dtype, word)


def _part_from_json(dt: DataType, dtype: np.dtype[Any], value: object, zarr_format: int) -> Any:
    """One float of native type ``dtype``, which is ``dt`` or a component of it."""
    if isinstance(value, str):
        if value in _SPECIAL:
            return _special(dt, dtype, value)
        if zarr_format == 3:
            return _hex(dt, dtype, value)
        raise _bad(dt, value, 'expected a number, "NaN", "Infinity" or "-Infinity"')
    if not _is_number(value):
        raise _bad(dt, value, "expected a number")
    try:
        number = float(value)  # type: ignore[arg-type]  # _is_number says so
    except OverflowError:
        raise _bad(dt, value, "too large") from None
    if math.isnan(number):  # the token NaN, which some JSON writers emit
        return _special(dt, dtype, "NaN")
    scalar = _number(dtype, number)
    if math.isnan(float(scalar)):
        raise _bad(dt, value, "the type has no such value")
    return scalar


def _part_to_json(scalar: Any, zarr_format: int) -> JSON:
    number = float(scalar)
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if not math.isnan(number):
        return number
    dtype = np.asarray(scalar).dtype
    word = _bits_of(scalar)
    if zarr_format == 2 or word == _bits_of(_nan(dtype)):
        return "NaN"
    return f"0x{word:0{2 * dtype.itemsize}x}"


def _part_cast(dt: DataType, dtype: np.dtype[Any], value: Any) -> Any:
    if isinstance(value, np.generic) and value.dtype == dtype:
        return value
    if isinstance(value, str):
        if value in _SPECIAL or value.startswith("0x"):
            return _part_from_json(dt, dtype, value, 3)
        value = float(value)
    no_number = (bytes, complex, np.complexfloating, np.flexible, np.datetime64, np.timedelta64)
    if isinstance(value, (*no_number, np.ndarray)) or not hasattr(value, "__float__"):
        raise _wrong_type(dt, value, "a number")
    number = float(value)
    scalar = _number(dtype, value if isinstance(value, np.longdouble) else number)
    if math.isfinite(number) and not math.isfinite(float(scalar)):
        raise OverflowError(f"{show(value)} does not fit {dt.name}")
    if (
        math.isinf(number)
        and float(scalar) != number
        or math.isnan(number)
        and not scalar != scalar
    ):
        raise _bad(dt, value, "the type has no such value")
    return scalar


def _float_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    return _part_from_json(dt, dt.dtype.newbyteorder("="), value, zarr_format)


def _float_cast(dt: DataType, value: Any) -> Any:
    return _part_cast(dt, dt.dtype.newbyteorder("="), value)


# -------------------------------------------------------------------------------------- complex


def _join(dt: DataType, real: Any, imag: Any) -> Any:
    native = dt.dtype if dt.dtype.names else dt.dtype.newbyteorder("=")
    return np.frombuffer(real.tobytes() + imag.tobytes(), native)[0]


def _parts(dt: DataType, fill: Any) -> tuple[Any, Any]:
    real, imag = np.frombuffer(fill.tobytes(), component_dtype(dt.name, dt.dtype))
    return real, imag


def _complex_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if zarr_format == 2 and not is_list(value):
        value = [value, 0]
    if not is_list(value) or len(value) != 2:
        raise _bad(dt, value, "expected [real, imaginary]")
    part = component_dtype(dt.name, dt.dtype)
    return _join(dt, *(_part_from_json(dt, part, item, zarr_format) for item in value))


def _complex_to_json(dt: DataType, fill: Any, zarr_format: int) -> JSON:
    return [_part_to_json(part, zarr_format) for part in _parts(dt, fill)]


def _complex_cast(dt: DataType, value: Any) -> Any:
    native = dt.dtype if dt.dtype.names else dt.dtype.newbyteorder("=")
    if isinstance(value, np.generic) and value.dtype == native:
        return value
    if is_list(value):
        if len(value) != 2:
            raise _bad(dt, value, "expected two components")
        pair = list(value)
    elif isinstance(value, (complex, np.complexfloating)):
        pair = [value.real, value.imag]
    else:
        pair = [value, 0.0]
    part = component_dtype(dt.name, dt.dtype)
    return _join(dt, *(_part_cast(dt, part, item) for item in pair))


# ---------------------------------------------------------------------------- dates and durations


def _time(dt: DataType, count: int) -> Any:
    if not -(2**63) <= count < 2**63:
        raise OverflowError(f"{show(count)} does not fit 64 bits")
    return np.asarray(count, np.int64).view(dt.dtype.newbyteorder("="))[()]


def _time_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if value == "NaT":
        return _time(dt, _NAT)
    if is_int(value) or (isinstance(value, float) and value.is_integer()):
        return _time(dt, int(value))
    raise _bad(dt, value, 'expected an integer or "NaT"')


def _time_to_json(dt: DataType, fill: Any, zarr_format: int) -> JSON:
    return int(fill.view(np.int64))


def _time_cast(dt: DataType, value: Any) -> Any:
    native = dt.dtype.newbyteorder("=")
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64)):
        return _time(dt, int(value))
    allowed: tuple[type, ...] = (str, np.datetime64, datetime.date)
    if native.kind == "m":
        allowed = (str, np.timedelta64, datetime.timedelta)
    if not isinstance(value, allowed):
        raise _wrong_type(dt, value, "an integer, 'NaT' or a " + native.type.__name__)
    if value == "NaT" or (isinstance(value, (np.datetime64, np.timedelta64)) and np.isnat(value)):
        return _time(dt, _NAT)
    return (
        np.asarray(value).astype(native)[()]
        if not isinstance(value, str)
        else np.array(value, native)[()]
    )


# ------------------------------------------------------------------- fixed-size bytes and strings


def _unbase64(dt: DataType, value: JSON) -> bytes:
    if not isinstance(value, str):
        raise _bad(dt, value, "expected base64")
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _bad(dt, value, f"not base64: {error}") from None


def _base64(data: Any) -> str:
    return base64.b64encode(data).decode("ascii")


def _chars_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    data = b"" if zarr_format == 2 and _is_zero(value) else _unbase64(dt, value)
    return _chars(dt, data)


def _chars(dt: DataType, data: bytes) -> Any:
    if len(data) > dt.itemsize:
        raise _bad(dt, data, f"longer than {dt.itemsize} bytes")
    return np.bytes_(data.rstrip(b"\0"))


def _chars_cast(dt: DataType, value: Any) -> Any:
    if isinstance(value, str):
        value = value.encode("ascii")
    if _is_zero(value):
        value = b""
    if not isinstance(value, bytes):
        raise _wrong_type(dt, value, "bytes")
    return _chars(dt, bytes(value))


def _text_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if zarr_format == 2 and _is_zero(value):
        value = ""
    if not isinstance(value, str):
        raise _bad(dt, value, "expected a string")
    return _text(dt, value)


def _text(dt: DataType, value: str) -> Any:
    if 4 * len(value) > dt.itemsize:
        raise _bad(dt, value, f"longer than {dt.itemsize // 4} characters")
    return np.str_(value.rstrip("\0"))


def _text_cast(dt: DataType, value: Any) -> Any:
    if _is_zero(value):
        value = ""
    if not isinstance(value, str):
        raise _wrong_type(dt, value, "a string")
    return _text(dt, str(value))


def _raw(dt: DataType, data: bytes) -> Any:
    if len(data) != dt.itemsize:
        raise _bad(dt, data, f"expected {dt.itemsize} bytes, found {len(data)}")
    return np.frombuffer(data, dt.dtype)[0]


def _byte_list(dt: DataType, value: JSON) -> bytes:
    """Bytes given as base64 or as a list of integers."""
    if not is_list(value):
        return _unbase64(dt, value)
    if not all(is_int(item) and 0 <= item <= 255 for item in value):
        raise _bad(dt, value, "expected integers from 0 to 255")
    return bytes(value)


def _raw_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if zarr_format == 2 and _is_zero(value):
        return default(dt)
    return _raw(dt, _byte_list(dt, value))


def _raw_to_json(dt: DataType, fill: Any, zarr_format: int) -> JSON:
    as_list = zarr_format == 3 and dt.name != "raw_bytes"
    return list(fill.tobytes()) if as_list else _base64(fill.tobytes())


def _raw_cast(dt: DataType, value: Any) -> Any:
    if _is_zero(value):
        return default(dt)
    if isinstance(value, np.void):
        value = value.tobytes()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise _wrong_type(dt, value, "bytes")
    return _raw(dt, bytes(value).ljust(dt.itemsize, b"\0"))


# -------------------------------------------------------------------------------------- structs


def _struct(dt: DataType, values: Mapping[str, Any]) -> Any:
    """A struct scalar of fields given as fill values."""
    out = np.zeros(1, dt.dtype)
    for name, member in dt.fields:
        out[name] = element(member, values[name])
    return out[0]


def _struct_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if isinstance(value, Mapping) and zarr_format == 3:
        if unknown := value.keys() - {name for name, _ in dt.fields}:
            raise _bad(dt, value, f"the type has no field {sorted(unknown)[0]!r}")
        return _struct(
            dt,
            {
                name: from_json(member, value[name], 3) if name in value else default(member)
                for name, member in dt.fields
            },
        )
    if zarr_format == 2 and _is_zero(value):
        return np.zeros(1, dt.dtype)[0]
    data = _unbase64(dt, value)
    if len(data) != dt.itemsize:
        raise _bad(dt, value, f"expected {dt.itemsize} bytes, found {len(data)}")
    return np.frombuffer(data, _stored(dt, zarr_format)).astype(dt.dtype, copy=False)[0]


def _stored(dt: DataType, zarr_format: int) -> np.dtype[Any]:
    """Layout of base64: as declared in v2; v3 declares none and zarr-python takes little-endian."""
    big = zarr_format == 3 and sys.byteorder == "big"
    return dt.dtype.newbyteorder("<") if big else dt.dtype


def _struct_to_json(dt: DataType, fill: Any, zarr_format: int) -> JSON:
    if zarr_format == 2 or dt.name == "structured":
        return _base64(np.asarray(fill).astype(_stored(dt, zarr_format), copy=False).tobytes())
    return {name: to_json(member, _field(member, fill[name]), 3) for name, member in dt.fields}


def _field(member: DataType, value: Any) -> Any:
    """A field taken out of a struct scalar, in native byte order."""
    if member.category in ("time", "int", "float", "complex") and not member.dtype.isnative:
        return np.asarray(value).astype(member.dtype.newbyteorder("="), copy=False)[()]
    return value


def _struct_cast(dt: DataType, value: Any) -> Any:
    if isinstance(value, np.void) and value.dtype == dt.dtype:
        return value
    if isinstance(value, bytes):
        if len(value) != dt.itemsize:
            raise _bad(dt, value, f"expected {dt.itemsize} bytes, found {len(value)}")
        return np.frombuffer(value, dt.dtype)[0]
    if isinstance(value, np.void) and value.dtype.names:
        value = tuple(value[name] for name in value.dtype.names)
    if isinstance(value, Mapping):
        if value.keys() != {name for name, _ in dt.fields}:
            raise _bad(dt, value, f"expected the fields {[name for name, _ in dt.fields]}")
        value = tuple(value[name] for name, _ in dt.fields)
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        value = (value,) * len(dt.fields)
    if not is_list(value):
        raise _wrong_type(dt, value, "a tuple")
    if len(value) != len(dt.fields):
        raise _bad(dt, value, f"expected {len(dt.fields)} fields")
    pairs = zip(dt.fields, value, strict=True)
    return _struct(dt, {name: member.cast_fill(item) for (name, member), item in pairs})


def _subarray_cast(dt: DataType, value: Any) -> Any:
    return np.broadcast_to(np.asarray(value, dt.dtype.base), dt.dtype.shape)


def _no_subarray(dt: DataType, value: Any, zarr_format: int) -> Any:
    raise _bad(dt, value, "sub-array fields have no fill value of their own")


# ------------------------------------------------------------------------------- variable length


def _string_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    if isinstance(value, str):
        return value
    if zarr_format == 2 and _is_number(value):  # the default of zarr-python 2; 3.x reads it so
        return str(value)
    raise _bad(dt, value, "expected a string")


def _string_cast(dt: DataType, value: Any) -> Any:
    if isinstance(value, (str, int, float, np.number)) and not isinstance(value, bool):
        return str(value)
    raise _wrong_type(dt, value, "a string")


def _bytes_from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    return b"" if zarr_format == 2 and _is_zero(value) else _byte_list(dt, value)


def _bytes_cast(dt: DataType, value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if _is_zero(value):
        return b""
    raise _wrong_type(dt, value, "bytes")


_FROM_JSON: Mapping[str, Callable[[DataType, Any, int], Any]] = {
    "bool": _bool_from_json,
    "int": _int_from_json,
    "float": _float_from_json,
    "complex": _complex_from_json,
    "time": _time_from_json,
    "chars": _chars_from_json,
    "text": _text_from_json,
    "raw": _raw_from_json,
    "struct": _struct_from_json,
    "subarray": _no_subarray,
    "string": _string_from_json,
    "bytes": _bytes_from_json,
    "object": lambda dt, value, zarr_format: value,
}
_TO_JSON: Mapping[str, Callable[[DataType, Any, int], JSON]] = {
    "bool": lambda dt, fill, zarr_format: bool(fill),
    "int": lambda dt, fill, zarr_format: int(fill),
    "float": lambda dt, fill, zarr_format: _part_to_json(fill, zarr_format),
    "complex": _complex_to_json,
    "time": _time_to_json,
    "chars": lambda dt, fill, zarr_format: _base64(fill),
    "text": lambda dt, fill, zarr_format: str(fill),
    "raw": _raw_to_json,
    "struct": _struct_to_json,
    "subarray": _no_subarray,
    "string": lambda dt, fill, zarr_format: str(fill),
    "bytes": lambda dt, fill, zarr_format: _base64(fill),
    "object": lambda dt, fill, zarr_format: fill,
}
_CAST: Mapping[str, Callable[[DataType, Any], Any]] = {
    "bool": _bool_cast,
    "int": _int_cast,
    "float": _float_cast,
    "complex": _complex_cast,
    "time": _time_cast,
    "chars": _chars_cast,
    "text": _text_cast,
    "raw": _raw_cast,
    "struct": _struct_cast,
    "subarray": _subarray_cast,
    "string": _string_cast,
    "bytes": _bytes_cast,
    "object": lambda dt, value: value,
}
