"""One data type: its name, the NumPy type of its elements, its fill values.

Knows nothing about arrays, chunks or codecs. Parsing is in
:mod:`~zarr_gpu.metadata.dtype_parse`, conversion of single values in
:mod:`~zarr_gpu.metadata.fills`.

>>> from zarr_gpu.metadata.dtypes import parse_v3
>>> parse_v3("float32").fill_from_json("0x7fc00001", 3).tobytes().hex()
'0100c07f'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from zarr_gpu._types import JSON, NDArray, Shape
from zarr_gpu.metadata import fills
from zarr_gpu.metadata.dtype_names import (
    ML_NAMES,
    V2_ONLY,
    Category,
    bits,
    category,
    component_dtype,
)

_BLOCK = 1 << 16
"""Words compared at once: fits a cache, and is where a comparison can stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataType:
    """A row of the data type table; made by ``parse_v3``, ``parse_v2`` or ``from_dtype_like``.

    ``name``: name in v3 metadata (or of our own, where v3 has none); kept as it was read.
    ``dtype``: type of an element in memory: native byte order in v3, as declared in v2.
    ``configuration``: of the v3 ``data_type`` member.
    ``kind``: ``fixed`` size, or ``string`` (StringDType), ``bytes`` or any ``object`` (dtype O).
    ``fields``: names and types of the fields of a struct; the base type of a sub-array field.

    A fill value is a NumPy (ml_dtypes) scalar in native byte order, ``np.void`` for structs, a
    ``str`` for strings, ``bytes`` for bytes, any JSON value for objects, or None for v2 ``null``.
    """

    name: str
    dtype: np.dtype[Any]
    configuration: Mapping[str, JSON] | None = field(default=None, hash=False)
    kind: Literal["fixed", "string", "bytes", "object"] = "fixed"
    fields: tuple[tuple[str, DataType], ...] = ()

    @property
    def category(self) -> Category:
        """The family of types this belongs to."""
        return category(self.name)

    @property
    def is_variable(self) -> bool:
        """Elements differ in size and need a vlen codec."""
        return self.kind != "fixed"

    @property
    def itemsize(self) -> int:
        """Bytes of an element in memory."""
        return self.dtype.itemsize

    @property
    def components(self) -> int:
        """2 for complex types, 1 for all others."""
        return 2 if self.category == "complex" else 1

    @property
    def packed_bits(self) -> int:
        """Bits the ``packbits`` codec keeps of an element, or of each component of it."""
        if self.name == "bool":
            return 1
        if self._is_sub_byte:
            return bits(self.name)
        return 8 * self.itemsize // self.components

    @property
    def _is_sub_byte(self) -> bool:
        return self.name in ML_NAMES and 0 < bits(self.name) < 8

    @property
    def multi_byte(self) -> bool:
        """Byte order matters."""
        if self.fields:
            return any(member.multi_byte for _, member in self.fields)
        if self.category == "complex":
            return component_dtype(self.name, self.dtype).itemsize > 1
        return self.category in ("int", "float", "time", "text") and self.itemsize > 1

    @property
    def in_v3(self) -> bool:
        """v3 metadata can spell this type."""
        if self.name in V2_ONLY:
            return False
        return all(t.in_v3 and _title(self.dtype, name) is None for name, t in self.fields)

    def to_json(self) -> JSON:
        """The ``data_type`` member of a v3 document; ValueError where v3 has no such type."""
        if not self.in_v3:
            raise ValueError(f"Zarr v3 has no data type for {self.dtype!r} ({self.name})")
        if self.configuration is None:
            return self.name
        return {"name": self.name, "configuration": self.configuration}

    def to_v2_json(self) -> JSON:
        """The ``dtype`` member of ``.zarray``; the object codec goes into its filters."""
        if self.category == "struct":
            return [self._v2_field(name, member) for name, member in self.fields]
        if self.name in ML_NAMES:
            return self.name
        return "|O" if self.is_variable else self.dtype.str

    def _v2_field(self, name: str, member: DataType) -> JSON:
        title = _title(self.dtype, name)
        label: JSON = name if title is None else [title, name]
        if member.category == "subarray":
            return [label, member.fields[0][1].to_v2_json(), list(member.dtype.shape)]
        return [label, member.to_v2_json()]

    def fill_from_json(self, value: JSON, zarr_format: int) -> Any:
        """The fill value that a ``fill_value`` member means.

        v2 ``null`` is None; v3 ``null``, which is not allowed but written by GDAL, is the default
        value, with a warning. Raises ValueError saying what was expected.
        """
        return fills.from_json(self, value, zarr_format)

    def fill_to_json(self, fill: Any, zarr_format: int) -> JSON:
        """Inverse of :meth:`fill_from_json`, bit-exact in v3."""
        return fills.to_json(self, fill, zarr_format)

    def cast_fill(self, value: Any) -> Any:
        """The stored form of a fill value given by a user; None means the default.

        Raises TypeError (wrong type), ValueError or OverflowError (does not fit).
        """
        return self.default_fill() if value is None else fills.cast(self, value)

    def default_fill(self) -> Any:
        """Zero, False, empty or NaT; 1.0 for ``float8_e8m0fnu``, which has no zero."""
        return fills.default(self)

    def fill_element(self, fill: Any) -> NDArray:
        """``fill`` as an array of shape ``(1,)``, in the byte order of :attr:`dtype`."""
        return fills.element(self, self.default_fill() if fill is None else fill)

    def equals_fill(self, array: NDArray, fill: Any) -> bool:
        """Every element has the bits of ``fill``: -0.0 is not 0.0, a NaN equals only itself.

        Strings, bytes and objects are compared by ``==``. Nothing equals the fill value None.
        """
        if fill is None:
            return False
        if array.size == 0:
            return True
        if self.is_variable:
            return _all_equal_objects(array, fill)
        # The usual case: the first element of real data is another one.
        if isinstance(fill, np.number) and array.flat[0].tobytes() != fill.tobytes():
            return False
        pattern = self.fill_element(fill).astype(array.dtype, copy=False)  # its byte order
        return _all_equal_words(_words(array), _words(pattern)[0])

    def full(self, shape: Shape, fill: Any) -> NDArray:
        """A new C-contiguous array of bit-exact fills; None fills with the default."""
        if self.is_variable:
            return self._full_variable(shape, self.default_fill() if fill is None else fill)
        pattern = self.fill_element(fill)
        out = np.zeros(shape, self.dtype)  # pages of zeros cost nothing until they are touched
        if pattern.tobytes().strip(b"\0") and out.size:
            _words(out)[...] = _words(pattern)[0]
        return out

    def _full_variable(self, shape: Shape, fill: Any) -> NDArray:
        if self.kind == "string":
            return np.full(shape, fill, self.dtype) if fill else np.zeros(shape, self.dtype)
        out = np.empty(shape, self.dtype)
        out.fill(fill)
        return out

    def sanitize(self, array: NDArray) -> NDArray:
        """``array`` with the unused upper bits of its sub-byte elements cleared.

        Bytes of chunks may have any upper bits ("ignored" in the definition of ``bytes`` for these
        types); ml_dtypes wants them zero. Other types are returned unchanged.
        """
        if not self._is_sub_byte:
            return array
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        mask = (1 << bits(self.name)) - 1
        if not (raw & ~np.uint8(mask)).any():
            return array
        return (raw & np.uint8(mask)).view(self.dtype).reshape(array.shape)


def _title(dtype: np.dtype[Any], name: str) -> str | None:
    entry = dtype.fields[name] if dtype.fields else ()
    return str(entry[2]) if len(entry) == 3 else None


def _words(array: NDArray) -> NDArray:
    """The bits of a non-empty array, in memory order: ``(n, words per element)``.

    A view where the array is contiguous, which an array to be written must be.
    """
    flat = array.ravel(order="K")
    size = flat.dtype.itemsize
    word = math.gcd(size, 8)
    return flat.view(f"u{word}").reshape(flat.size, size // word)


def _all_equal_words(words: NDArray, pattern: NDArray) -> bool:
    if words[0].tobytes() != pattern.tobytes():  # the usual case: real data
        return False
    rows = max(1, _BLOCK // pattern.size)
    block = pattern
    if pattern.size > 1:  # equal shapes compare much faster than rows with one row
        block = np.tile(pattern, (min(rows, len(words)), 1))
    for start in range(0, len(words), rows):
        part = words[start : start + rows]
        if not (part == block[: len(part)]).all():
            return False
    return True


def _all_equal_objects(array: NDArray, fill: Any) -> bool:
    if array.dtype.kind == "T":
        return bool((array == fill).all())
    return all(_same(item, fill) for item in array.flat)


def _same(item: Any, fill: Any) -> bool:
    if isinstance(item, np.ndarray) or isinstance(fill, np.ndarray):
        return bool(np.array_equal(item, fill))
    return bool(item == fill)
