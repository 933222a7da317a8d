"""Names of data types and the NumPy types that hold their elements.

Knows no JSON document and no fill value. Types that NumPy lacks come from ml_dtypes, which is
imported when the first of them is asked for.

>>> element_dtype("int16"), category("float8_e4m3fn"), bits("int4")
(dtype('int16'), 'float', 4)
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias

import numpy as np

from zarr_gpu.errors import MissingDependencyError

Category: TypeAlias = Literal[
    "bool",
    "int",
    "float",
    "complex",
    "time",
    "chars",
    "text",
    "raw",
    "struct",
    "subarray",
    "string",
    "bytes",
    "object",
]

MAX_ITEMSIZE = 2**31 - 1
"""Largest element NumPy can describe, in bytes."""

INTEGERS = frozenset(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64))
FLOATS = frozenset({"float16", "float32", "float64"})
COMPLEX = {
    "complex64": "float32",
    "complex128": "float64",
    "complex_float32": "float32",
    "complex_float64": "float64",
}
ML_INTEGERS = frozenset({"int2", "int4", "uint2", "uint4"})
ML_FLOATS = frozenset(
    {
        "bfloat16",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",  # not registered; written by TensorStore. Never the same as float8_e4m3
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "float6_e2m3fn",
        "float6_e3m2fn",
        "float4_e2m1fn",
    }
)
ML_COMPLEX = {f"complex_{part}": part for part in sorted(ML_FLOATS | {"float16"})}
ML_COMPLEX_SCALARS = {"complex_float16": "complex32", "complex_bfloat16": "bcomplex32"}
"""The complex types that ml_dtypes 0.6 has a scalar for."""

ML_NAMES = ML_INTEGERS | ML_FLOATS | ML_COMPLEX.keys()
PLAIN_NAMES = {"bool"} | INTEGERS | FLOATS | COMPLEX.keys() | ML_NAMES
"""Names of fixed-size types that take no configuration, raw types apart."""

V2_ONLY = frozenset({"object", "longdouble", "clongdouble", "subarray"})
"""Names of our own for types that v3 metadata cannot spell."""

_OTHERS: dict[str, Category] = {
    "bool": "bool",
    "longdouble": "float",
    "clongdouble": "complex",
    "numpy.datetime64": "time",
    "numpy.timedelta64": "time",
    "null_terminated_bytes": "chars",
    "fixed_length_utf32": "text",
    "raw_bytes": "raw",
    "struct": "struct",
    "structured": "struct",
    "subarray": "subarray",
    "string": "string",
    "bytes": "bytes",
    "variable_length_bytes": "bytes",
    "object": "object",
}


def category(name: str) -> Category:
    """The family of types ``name`` belongs to; KeyError for an unknown name."""
    if name in INTEGERS or name in ML_INTEGERS:
        return "int"
    if name in FLOATS or name in ML_FLOATS:
        return "float"
    if name in COMPLEX or name in ML_COMPLEX:
        return "complex"
    return "raw" if raw_nbytes(name) else _OTHERS[name]


def raw_nbytes(name: str) -> int:
    """Bytes of a raw type ``r<bits>``, 0 for any other name; ValueError for a bad number."""
    if not re.fullmatch(r"r[0-9]{1,20}", name):
        return 0
    n = int(name[1:])
    if n == 0 or n % 8:
        raise ValueError(f"{name!r}: raw types have a positive multiple of 8 bits")
    return check_itemsize(n // 8, name)


def check_itemsize(nbytes: int, what: object) -> int:
    """``nbytes``, or ValueError when no element can have that size."""
    if not 1 <= nbytes <= MAX_ITEMSIZE:
        raise ValueError(f"{what}: elements have 1 to {MAX_ITEMSIZE} bytes, not {nbytes}")
    return nbytes


def bits(name: str) -> int:
    """Meaningful bits of one element (of one component) of an integer or ML float type."""
    digits = re.match(r"(?:complex_)?(?:u?int|b?float)(\d+)", name)
    return int(digits[1]) if digits else 0


def element_dtype(name: str) -> np.dtype[Any]:
    """NumPy type, in native byte order, of one of :data:`PLAIN_NAMES`.

    Raises MissingDependencyError when it takes ml_dtypes and that is not installed.
    """
    if name in COMPLEX:
        return np.dtype(f"c{2 * np.dtype(COMPLEX[name]).itemsize}")
    if name not in ML_NAMES:
        return np.dtype(name)
    ml_dtypes = _ml_dtypes(name)
    if name not in ML_COMPLEX:
        return _ml_dtype(ml_dtypes, name)
    scalar = ML_COMPLEX_SCALARS.get(name, "")
    if hasattr(ml_dtypes, scalar):
        return _ml_dtype(ml_dtypes, scalar)
    part = element_dtype(ML_COMPLEX[name])
    return np.dtype([("re", part), ("im", part)])


def component_dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Native type of the two components of a complex type."""
    part = COMPLEX.get(name) or ML_COMPLEX.get(name)
    return element_dtype(part) if part else np.dtype(f"f{dtype.itemsize // 2}")


def ml_name(dtype: np.dtype[Any]) -> str | None:
    """The v3 name of a type of ml_dtypes, or None for any other type."""
    if dtype.type.__module__.partition(".")[0] != "ml_dtypes":
        return None
    scalar = dtype.type.__name__
    for name, twin in ML_COMPLEX_SCALARS.items():
        if scalar == twin:
            return name
    if scalar in ML_NAMES:
        return scalar
    raise ValueError(f"{scalar} of ml_dtypes has no Zarr data type")


def _ml_dtypes(name: str) -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingDependencyError(
            f"data type {name!r} needs the package ml_dtypes: pip install ml_dtypes"
        ) from error
    return ml_dtypes


def _ml_dtype(ml_dtypes: Any, name: str) -> np.dtype[Any]:
    try:
        scalar: type[np.generic] = getattr(ml_dtypes, name)
    except AttributeError as error:
        raise MissingDependencyError(
            f"data type {name!r} needs a newer ml_dtypes than {ml_dtypes.__version__}: "
            "pip install -U ml_dtypes"
        ) from error
    return np.dtype(scalar)
