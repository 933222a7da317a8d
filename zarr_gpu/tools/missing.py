"""How xarray says which elements are missing.

By the fill value of an array of format 2; in format 3 by the attribute ``_FillValue``, and not by
the fill value, which every array of that format has.

So neither can be taken over as it is where the format changes: zero would come to mean missing, or
what was missing would not be.

>>> encoded(np.nan, np.dtype("f4")), decoded("AAAAAAAA+H8=", np.dtype("f4"))
('AAAAAAAA+H8=', nan)
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from zarr_gpu._types import JSON
from zarr_gpu.tools.formats import DIMENSIONS

ATTRIBUTE = "_FillValue"


def encoded(value: Any, dtype: np.dtype[Any]) -> JSON:
    """The attribute for elements of ``dtype``, as xarray writes it; None for types without one."""
    kind = dtype.kind
    if kind == "S":
        raw = value.encode() if isinstance(value, str) else bytes(value)
        return base64.standard_b64encode(raw).decode()
    if kind == "f":
        return base64.standard_b64encode(struct.pack("<d", float(value))).decode()
    if kind == "c":
        number = complex(value)
        return [encoded(part, np.dtype("f8")) for part in (number.real, number.imag)]
    plain: Mapping[str, Any] = {"b": bool, "i": int, "u": int, "U": str}
    return plain[kind](value) if kind in plain else None


def decoded(value: JSON, dtype: np.dtype[Any]) -> Any:
    """The value that :func:`encoded` made, plain numbers too; None for what is none."""
    try:
        if dtype.kind == "S" and isinstance(value, str):
            return base64.standard_b64decode(value)
        if dtype.kind == "f" and isinstance(value, str):
            return _number(value)
        if dtype.kind == "c" and isinstance(value, list):
            real, imaginary = (decoded(part, np.dtype("f8")) for part in value)
            return complex(real, imaginary)
        if dtype.kind == "U" and isinstance(value, str):
            return value
        if dtype.kind in "biufc" and isinstance(value, int | float):
            return np.array(value).astype(dtype).item()
    except (TypeError, ValueError, OverflowError):  # not written by xarray
        return None
    return None


def _number(text: str) -> float:
    try:
        [found] = struct.unpack("<d", base64.standard_b64decode(text))
        return float(found)
    except (binascii.Error, struct.error):
        return float(text)  # "NaN", "Infinity"


def into_v2(arguments: dict[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Arguments of an array of format 2 out of those of one of format 3, its names translated."""
    attributes = dict(arguments["attributes"])
    fill = arguments.get("fill_value")
    found = decoded(attributes.get(ATTRIBUTE), dtype)
    if found is not None:
        del attributes[ATTRIBUTE]
        return {**arguments, "attributes": attributes, "fill_value": found}
    if DIMENSIONS in attributes and not _is_nan(fill):
        return {**arguments, "fill_value": None}
    return arguments


def into_v3(arguments: dict[str, Any], dtype: np.dtype[Any], fill: Any) -> dict[str, Any]:
    """The other way round; ``fill`` is that of format 2, None where it is not defined."""
    attributes = dict(arguments["attributes"])
    value = None if fill is None or ATTRIBUTE in attributes else encoded(fill, dtype)
    if value is None:
        return arguments
    return {**arguments, "attributes": {**attributes, ATTRIBUTE: value}}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))
