"""Type aliases shared by all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # numpy.typing takes a tenth of the time that importing NumPy takes
    from collections.abc import Mapping, Sequence
    from typing import Any

    import numpy as np
    import numpy.typing as npt

JSON: TypeAlias = "str | int | float | bool | None | Sequence[JSON] | Mapping[str, JSON]"
Shape: TypeAlias = tuple[int, ...]
Bytes: TypeAlias = bytes | bytearray | memoryview
"""A contiguous run of bytes; a memoryview is always one-dimensional and of format ``B``."""
NDArray: TypeAlias = "npt.NDArray[Any]"
Int64: TypeAlias = "npt.NDArray[np.int64]"
UInt64: TypeAlias = "npt.NDArray[np.uint64]"
Bools: TypeAlias = "npt.NDArray[np.bool_]"
