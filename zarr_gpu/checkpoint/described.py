"""What a tensor is in a file: its type, the shape of its bytes, and the memory they go to.

A data type is a code of safetensors and, for types that the format lacks, a name of our own
(:data:`LOGICAL`) beside the code and shape that the bytes have for other readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zarr_gpu.errors import UnsupportedError
from zarr_gpu.metadata.dtype_names import element_dtype
from zarr_gpu.metadata.safetensors import TYPES

if TYPE_CHECKING:
    from zarr_gpu.device.engine import Engine

LOGICAL: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "complex128": ("F64", (2,)),
    "complex32": ("F16", (2,)),
    "int4": ("I8", ()),
    "uint4": ("U8", ()),
    "int2": ("I8", ()),
    "uint2": ("U8", ()),
}
"""Types that safetensors lacks: the code of their bytes, and axes that come behind the others."""
CODES = {kind.name: code for code, kind in TYPES.items()}
"""Codes by the names that types have in Zarr."""


class Described(NamedTuple):
    """What a tensor is in a file; ``shape`` is that of the bytes (see :data:`LOGICAL`)."""

    code: str
    shape: tuple[int, ...]
    logical: str | None


class OnDevice(NamedTuple):
    """Memory of a device, for as many bytes as a tensor has."""

    engine: Engine
    ptr: int


class Target(NamedTuple):
    """Memory to be filled with the bytes of a tensor, and then the tensor."""

    memory: memoryview
    tensor: Callable[[], Any]
    on: OnDevice | None = None
    """Instead of ``memory``, which is empty then."""


def described_shape(described: Described) -> tuple[int, ...]:
    """The shape that users see: without the axes of :data:`LOGICAL`."""
    extra = len(LOGICAL[described.logical][1]) if described.logical else 0
    return described.shape[: len(described.shape) - extra]


def type_name(described: Described) -> str:
    """The type's name in Zarr."""
    return described.logical or TYPES[described.code].name


def described_as(name: str, shape: Any) -> Described:
    """Raises UnsupportedError for types that cannot be stored."""
    name = logical_name(name)
    shape = tuple(int(n) for n in shape)
    if name in LOGICAL:
        code, extra = LOGICAL[name]
        return Described(code, (*shape, *extra), name)
    if name not in CODES:
        raise UnsupportedError(f"tensors of type {name} cannot be stored")
    return Described(CODES[name], shape, None)


def logical_name(name: str) -> str:
    """Types of NumPy as PyTorch calls them."""
    return {"complex_float16": "complex32"}.get(name, name)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Raises MissingDependencyError for types of ml_dtypes where that is not installed."""
    return element_dtype("complex_float16" if name == "complex32" else name)
