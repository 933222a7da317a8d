"""What a family of data types (integers, structs, ...) has to know about its fill values.

Knows no particular family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.metadata.problems import show

if TYPE_CHECKING:
    from zarr_gpu.metadata.data_type import DataType


class Family:
    """Conversions of single values; the defaults suit numbers."""

    def from_json(self, dt: DataType, value: Any, zarr_format: int) -> Any:
        """The value of a ``fill_value`` member, which is not null; ValueError, OverflowError."""
        raise NotImplementedError

    def to_json(self, dt: DataType, fill: Any, zarr_format: int) -> JSON:
        """Inverse of :meth:`from_json`."""
        raise NotImplementedError

    def cast(self, dt: DataType, value: Any) -> Any:
        """A user's value, which is not None; TypeError, ValueError, OverflowError."""
        raise NotImplementedError

    def default(self, dt: DataType) -> Any:
        """What an array is filled with when nobody says."""
        return np.zeros(1, native(dt.dtype))[0]

    def element(self, dt: DataType, fill: Any) -> NDArray:
        """The bits of ``fill`` as an array of one element of ``dt.dtype``."""
        # Through bytes: the assignment of a scalar could quieten a NaN.
        return np.frombuffer(fill.tobytes(), native(dt.dtype)).astype(dt.dtype)


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """``dtype`` in the byte order of scalars; structs keep the orders of their fields."""
    return dtype if dtype.names else dtype.newbyteorder("=")


def bad(dt: DataType, value: object, reason: str) -> ValueError:
    """The error for a value that the type cannot hold."""
    return ValueError(f"fill value {show(value)} of data type {dt.name}: {reason}")


def wrong_type(dt: DataType, value: object, expected: str) -> TypeError:
    """The error for a user's value of the wrong Python type."""
    return TypeError(
        f"fill value of data type {dt.name} must be {expected}, "
        f"not {show(value)} ({type(value).__name__})"
    )


def is_number(value: object) -> bool:
    """A JSON number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_zero(value: object) -> bool:
    """What early v2 writers put where the type has no number: 0 or an empty string."""
    return (is_number(value) and value == 0) or (isinstance(value, str) and not value)
