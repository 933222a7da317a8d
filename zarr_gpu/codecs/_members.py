"""Checks on the ``configuration`` members of codecs; every error names the member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zarr_gpu._types import JSON
from zarr_gpu.metadata.problems import is_int, show


def check_names(config: Mapping[str, JSON], *known: str, required: tuple[str, ...] = ()) -> None:
    """ValueError for a member that is not known and for a required one that is missing."""
    for name in config:
        if name not in known and name not in required:
            raise ValueError(f"unknown configuration member {show(name)}")
    for name in required:
        if name not in config:
            raise ValueError(f"{name}: required, but missing")


def integer(config: Mapping[str, JSON], name: str, low: int, high: int, default: int = 0) -> int:
    """Member ``name``, an integer from ``low`` to ``high``."""
    value = config.get(name, default)
    if not is_int(value) or not low <= value <= high:
        raise ValueError(f"{name}: expected an integer in {low}..{high}, found {show(value)}")
    return value


def number(config: Mapping[str, JSON], name: str) -> float:
    """Member ``name``, a finite number."""
    value = config.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            if np.isfinite(float(value)):
                return value
        except OverflowError:
            pass
    raise ValueError(f"{name}: expected a finite number, found {show(value)}")


def choice(config: Mapping[str, JSON], name: str, *allowed: str | None) -> Any:
    """Member ``name``, one of ``allowed``; the first one when it is missing."""
    value = config.get(name, allowed[0])
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise ValueError(f"{name}: expected one of {list(allowed)}, found {show(value)}")
    return value


def plain_dtype(config: Mapping[str, JSON], name: str, kinds: str) -> np.dtype[Any]:
    """Member ``name``, a NumPy type string whose kind is one of ``kinds``.

    Never a type that holds references: bytes from a store must not become pointers.
    """
    value = config.get(name)
    try:
        dtype = np.dtype(value) if isinstance(value, (str, np.dtype)) else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or dtype.hasobject or dtype.kind not in kinds or not dtype.itemsize:
        raise ValueError(f"{name}: expected a data type of kind {kinds!r}, found {show(value)}")
    return dtype
