"""Tensors of other libraries as memory: PyTorch's as NumPy arrays and back, JAX's shards.

No library is imported here: what is a tensor of PyTorch can only be one when somebody imported it.
Types that NumPy lacks (bfloat16, float8) are those of ml_dtypes, and the very same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from zarr_gpu._types import NDArray, Shape
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.metadata.dtype_names import FLOATS, INTEGERS, ML_FLOATS, element_dtype

TORCH_NAMES = (
    "bool",
    *sorted(INTEGERS),
    *sorted(FLOATS),
    "complex64",
    "complex128",
    "complex32",
    *sorted(name for name in ML_FLOATS if name.startswith("float8")),
    "bfloat16",
)
"""Types of single elements that PyTorch may have, by the names they have there."""
_OTHER = 2
"""``dtype.isbuiltin`` of types that another package brings: ml_dtypes."""


def loaded(module: str, name: str) -> Any:
    """A member of a library that has been imported; None otherwise."""
    return getattr(sys.modules.get(module), name, None)


def is_torch(value: Any) -> bool:
    """Whether it is a tensor of PyTorch."""
    kind = loaded("torch", "Tensor")
    return kind is not None and isinstance(value, kind)


def is_jax(value: Any) -> bool:
    """Whether it is an array of JAX."""
    kind = loaded("jax", "Array")
    return kind is not None and isinstance(value, kind)


@cache
def torch_dtypes(torch: Any, names: tuple[str, ...] = TORCH_NAMES) -> Mapping[str, Any]:
    """PyTorch's types by name, as far as this version has them."""
    found = {name: getattr(torch, name, None) for name in names}
    return MappingProxyType({name: dtype for name, dtype in found.items() if dtype is not None})


@cache
def _numpy_dtypes(torch: Any) -> Mapping[Any, np.dtype[Any]]:
    return MappingProxyType({
        dtype: element_dtype("complex_float16" if name == "complex32" else name)
        for name, dtype in torch_dtypes(torch).items()
    })  # fmt: skip


def torch_dtype(torch: Any, dtype: np.dtype[Any]) -> Any:
    """PyTorch's type for elements of ``dtype``. Raises UnsupportedError where it has none."""
    found = torch_dtypes(torch).get(dtype.name)
    if found is None:
        hint = "; view them as int64" if dtype.kind in "mM" else ""
        hint = "; read one field" if dtype.names else hint
        raise UnsupportedError(f"PyTorch has no type for elements of type {dtype}{hint}")
    return found


def numpy_dtype(tensor: Any) -> np.dtype[Any]:
    """NumPy's (or ml_dtypes') type for the elements of a tensor. Raises UnsupportedError."""
    found = _numpy_dtypes(sys.modules["torch"]).get(tensor.dtype)
    if found is None:
        raise UnsupportedError(f"tensors of {tensor.dtype} cannot be read or written")
    return found


def unsigned(tensor: Any) -> Any:
    """The same memory as integers of the same size, of 1, 2 or 4 bytes."""
    torch: Any = sys.modules["torch"]
    return tensor.view(getattr(torch, f"uint{8 * tensor.element_size()}"))


def _plain(tensor: Any) -> None:
    torch: Any = sys.modules["torch"]
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(f"a tensor of layout {tensor.layout} has no elements in a row")
    if hasattr(tensor, "full_tensor"):
        raise TypeError("a distributed tensor has no memory of its own; take its to_local()")
    if tensor.device.type == "meta":
        raise TypeError("a tensor on the device meta has no memory")


def values_of(tensor: Any) -> NDArray:
    """The elements of a tensor, on the host; its own memory where it is there already."""
    _plain(tensor)
    tensor = resolved(tensor).cpu()
    return shared(tensor, numpy_dtype(tensor))


def plain(data: Any) -> Any:
    """Tensors of PyTorch as NumPy arrays, everything else as it is."""
    return values_of(data) if is_torch(data) else data


def resolved(tensor: Any) -> Any:
    """The same elements without history, and with nothing left to be computed."""
    return tensor.detach().resolve_conj().resolve_neg()


def shared(tensor: Any, dtype: np.dtype[Any]) -> NDArray:
    """The memory of a plain tensor on the host, whose elements are of ``dtype``."""
    other = dtype.isbuiltin == _OTHER
    array: NDArray = unsigned(tensor).numpy().view(dtype) if other else tensor.numpy()
    return array


def writable(tensor: Any) -> Any:
    """A tensor that may be written to where it is, without its history.

    A leaf that requires gradients is written to as under ``torch.no_grad()``. Raises TypeError or
    ValueError for tensors whose memory is not theirs alone.
    """
    torch: Any = sys.modules["torch"]
    _plain(tensor)
    if tensor.requires_grad and not tensor.is_leaf:
        raise ValueError("out is the result of a computation that needs gradients; detach() it")
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError("out is a lazy conjugate; resolve_conj() or resolve_neg() it")
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)  # what was saved for backward is not that
    return tensor.detach()


def output_of(tensor: Any) -> NDArray:
    """A tensor in the memory of the host as a NumPy array to be written to."""
    own = writable(tensor)
    if own.device.type != "cpu":
        raise TypeError(f"out is on {own.device}, the array is read on the host; see Array.to()")
    return shared(own, numpy_dtype(own))


def device_words(tensor: Any) -> tuple[Any, np.dtype[Any]]:
    """A tensor that CuPy can take over, and the type that its elements have."""
    dtype, own = numpy_dtype(tensor), tensor.detach()
    return (unsigned(own) if dtype.isbuiltin == _OTHER else own), dtype


def as_torch(torch: Any, array: NDArray) -> Any:
    """A NumPy array as a tensor with the same memory, where it can be shared.

    It cannot when the array is read-only, big-endian, or has negative strides or strides that are
    no multiple of the item size.
    """
    dtype = torch_dtype(torch, array.dtype)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    odd = any(s < 0 or s % array.itemsize for s in array.strides)
    if odd or not array.flags.writeable:
        array = array.copy()
    if array.dtype.isbuiltin != _OTHER:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(f"u{array.itemsize}")).view(dtype)


def distinct_boxes(sharding: Any, shape: Shape) -> tuple[list[Any], list[tuple[Any, int]]]:
    """What this process needs of a JAX array: boxes, and for each of its devices the box's number.

    Copies on several devices are one box.
    """
    boxes: list[Any] = []
    numbers: dict[str, int] = {}
    placed = []
    for device, index in sharding.addressable_devices_indices_map(tuple(shape)).items():
        box = tuple(slice(*s.indices(n)) for s, n in zip(index, shape, strict=True))
        if str(box) not in numbers:
            numbers[str(box)] = len(boxes)
            boxes.append(box)
        placed.append((device, numbers[str(box)]))
    return boxes, placed


def box_shape(box: Iterable[slice]) -> Shape:
    return tuple(s.stop - s.start for s in box)


def assemble(
    jax: Any,
    shape: Shape,
    sharding: Any,
    placed: list[tuple[Any, int]],
    parts: list[Any],
    dtype: Any,
) -> Any:
    """One JAX array of what :func:`distinct_boxes` asked for.

    A process without any of its devices takes part, too, and has to be told the type.
    """
    arrays = [jax.device_put(parts[number], device) for device, number in placed]
    more = {} if arrays else {"dtype": dtype}  # an argument that older versions do not have
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, arrays, **more)
