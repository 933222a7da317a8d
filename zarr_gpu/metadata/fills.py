"""Fill values: one element, between JSON, users' Python values, scalars and bits.

Values travel as bits wherever NumPy's conversions would lose some (NaN payloads). Knows no
metadata document but the ``fill_value`` member; the families of types are in
:mod:`~zarr_gpu.metadata.fill_numbers` and :mod:`~zarr_gpu.metadata.fill_bytes`, structs are here.

>>> from zarr_gpu.metadata.dtypes import parse_v3
>>> to_json(parse_v3("complex64"), np.complex64(1 - 1j), 3)
[1.0, -1.0]
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.metadata.dtype_names import Category
from zarr_gpu.metadata.fill_bytes import (
    Bytestrings,
    Chars,
    Objects,
    Raws,
    Strings,
    Texts,
    from_base64,
    to_base64,
)
from zarr_gpu.metadata.fill_family import Family, bad, is_zero, native, wrong_type
from zarr_gpu.metadata.fill_numbers import Bools, Complexes, Floats, Ints, Times
from zarr_gpu.metadata.problems import is_list

if TYPE_CHECKING:
    from zarr_gpu.metadata.data_type import DataType


def from_json(dt: DataType, value: JSON, zarr_format: int) -> Any:
    """See :meth:`DataType.fill_from_json`."""
    if value is None and zarr_format == 2:
        return None
    if value is None:
        warnings.warn(
            f"fill_value null is not allowed in Zarr v3; reading it as the default of {dt.name}",
            UserWarning,
            stacklevel=3,
        )
        return default(dt)
    try:
        return _FAMILIES[dt.category].from_json(dt, value, zarr_format)
    except OverflowError as error:
        raise bad(dt, value, str(error)) from None


def to_json(dt: DataType, fill: Any, zarr_format: int) -> JSON:
    """See :meth:`DataType.fill_to_json`."""
    if fill is not None:
        return _FAMILIES[dt.category].to_json(dt, fill, zarr_format)
    if zarr_format == 2:
        return None
    raise ValueError("Zarr v3 has no fill value null")


def cast(dt: DataType, value: Any) -> Any:
    """See :meth:`DataType.cast_fill`; ``value`` is not None."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and dt.category != "object":
        value = value[()]
    return _FAMILIES[dt.category].cast(dt, value)


def default(dt: DataType) -> Any:
    """See :meth:`DataType.default_fill`."""
    return _FAMILIES[dt.category].default(dt)


def element(dt: DataType, fill: Any) -> NDArray:
    """The bits of ``fill`` as an array of one element of ``dt.dtype`` (fixed-size types)."""
    return _FAMILIES[dt.category].element(dt, fill)


class Structs(Family):
    """Structs: in v3 an object of fields, in v2 (and the former ``structured``) base64."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        if isinstance(value, Mapping) and zarr_format == 3:
            return _struct_of_object(dt, value)
        if zarr_format == 2 and is_zero(value):
            return np.zeros(1, dt.dtype)[0]
        return _struct_of_bytes(dt, from_base64(dt, value), _stored(dt, zarr_format))

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        if zarr_format == 2 or dt.name == "structured":
            stored = np.asarray(fill).astype(_stored(dt, zarr_format), copy=False)
            return to_base64(stored.tobytes())
        return {name: to_json(member, _field(member, fill[name]), 3) for name, member in dt.fields}

    def cast(self, dt: DataType, value: Any) -> Any:
        if isinstance(value, np.void) and value.dtype == dt.dtype:
            return value
        if isinstance(value, bytes):
            return _struct_of_bytes(dt, value, dt.dtype)
        names = [name for name, _ in dt.fields]
        if isinstance(value, np.void) and value.dtype.names:
            value = [value[name] for name in value.dtype.names]
        elif isinstance(value, Mapping):
            if value.keys() != set(names):
                raise bad(dt, value, f"expected the fields {names}")
            value = [value[name] for name in names]
        elif isinstance(value, (int, float, np.number, np.bool_)):
            value = [value] * len(names)
        if not is_list(value):
            raise wrong_type(dt, value, "a tuple")
        if len(value) != len(names):
            raise bad(dt, value, f"expected {len(names)} fields, found {len(value)}")
        pairs = zip(dt.fields, value, strict=True)
        return _struct(dt, {name: member.cast_fill(item) for (name, member), item in pairs})

    def default(self, dt: DataType) -> Any:
        return _struct(dt, {name: _default_of_field(member) for name, member in dt.fields})

    def element(self, dt: DataType, fill: Any) -> NDArray:
        return np.frombuffer(fill.tobytes(), dt.dtype)


def _struct(dt: DataType, values: Mapping[str, Any]) -> Any:
    """A struct scalar of fields given as fill values."""
    out = np.zeros(1, dt.dtype)
    for name, member in dt.fields:
        out[name] = element(member, values[name])
    return out[0]


def _struct_of_object(dt: DataType, value: Mapping[str, JSON]) -> Any:
    """Fields that are not named are default, as in zarr-python."""
    if unknown := value.keys() - {name for name, _ in dt.fields}:
        raise bad(dt, value, f"the type has no field {min(unknown)!r}")
    values = {
        name: from_json(member, value[name], 3) if name in value else default(member)
        for name, member in dt.fields
    }
    return _struct(dt, values)


def _struct_of_bytes(dt: DataType, data: bytes, stored: np.dtype[Any]) -> Any:
    if len(data) != dt.itemsize:
        raise bad(dt, data, f"expected {dt.itemsize} bytes, found {len(data)}")
    return np.frombuffer(data, stored).astype(dt.dtype, copy=False)[0]


def _stored(dt: DataType, zarr_format: int) -> np.dtype[Any]:
    """Layout of base64: as declared in v2; v3 declares none, zarr-python takes little-endian."""
    swap = zarr_format == 3 and sys.byteorder == "big"
    return dt.dtype.newbyteorder("<") if swap else dt.dtype


def _default_of_field(member: DataType) -> Any:
    """zarr-python's default of a struct is zero bits, also where a date alone would be NaT."""
    if member.category == "time":
        return member.cast_fill(0)
    return default(member)


def _field(member: DataType, value: Any) -> Any:
    """A field taken out of a struct scalar; sub-arrays and structs come as they are."""
    if isinstance(value, np.generic) and value.dtype.names is None and not value.dtype.isnative:
        return np.asarray(value).astype(native(member.dtype), copy=False)[()]
    return value


class Subarrays(Family):
    """Fields of several elements, which only occur inside structs of v2."""

    def cast(self, dt: DataType, value: Any) -> Any:
        return np.broadcast_to(np.asarray(value, dt.dtype.base), dt.dtype.shape)

    def default(self, dt: DataType) -> Any:
        return np.zeros(dt.dtype.shape, dt.dtype.base)

    def element(self, dt: DataType, fill: Any) -> NDArray:
        return np.asarray(fill, dt.dtype.base)[np.newaxis]


_FAMILIES: Mapping[Category, Family] = {
    "bool": Bools(),
    "int": Ints(),
    "float": Floats(),
    "complex": Complexes(),
    "time": Times(),
    "chars": Chars(),
    "text": Texts(),
    "raw": Raws(),
    "struct": Structs(),
    "subarray": Subarrays(),
    "string": Strings(),
    "bytes": Bytestrings(),
    "object": Objects(),
}
