"""What elements of a stored type are on a device.

Devices have native numbers only. A type that is none but has the size of one is handed out as an
integer of the same bits; what has no fixed size, or no word of its size, is refused.

>>> device_dtype(np.dtype(">i4")), device_dtype(np.dtype("datetime64[s]"))
(dtype('int32'), dtype('int64'))
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zarr_gpu._types import NDArray
from zarr_gpu.errors import UnsupportedError


def device_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of device arrays for elements stored as ``dtype``.

    Native numbers as they are, in native byte order; datetime64 and timedelta64 as int64 (their
    unit is lost: view the host copy as the array's ``dtype``); bfloat16, float8 and the other types
    of ml_dtypes as unsigned integers. Raises UnsupportedError for all others.
    """
    other = dtype.isbuiltin == 2  # of ml_dtypes, whose float8_e5m2 has the kind f
    if dtype.kind in "biuf" and dtype.itemsize in (1, 2, 4, 8) and not other:
        return dtype.newbyteorder("=")
    if dtype.kind == "c" and dtype.itemsize in (8, 16):
        return dtype.newbyteorder("=")
    if dtype.kind in "mM":
        return np.dtype(np.int64)
    if dtype.kind in "Vf" and other:
        return np.dtype(f"u{dtype.itemsize}")
    what = f"elements of type {dtype}"
    if dtype.names is not None:
        raise UnsupportedError(
            f"{what} cannot be on a device; read one field, as in array['{dtype.names[0]}'], "
            "or use device='cpu'"
        )
    raise UnsupportedError(f"{what} cannot be on a device; use device='cpu'")


def as_stored(array: NDArray, dtype: np.dtype[Any]) -> NDArray:
    """A host copy of a device array, with elements of the stored type again (native ones)."""
    native = dtype.newbyteorder("=")
    return array.view(native) if array.dtype == device_dtype(dtype) else array
