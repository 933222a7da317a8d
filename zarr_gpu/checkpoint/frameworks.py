"""Tensors of NumPy, PyTorch, JAX and CuPy as bytes, and memory for tensors to be read.

A framework is imported when it is asked for.

>>> import numpy as np
>>> framework_of(np.zeros(2)).describe(np.zeros((2, 3), "c16"))
Described(code='F64', shape=(2, 3, 2), logical='complex128')
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zarr_gpu._types import NDArray
from zarr_gpu.checkpoint.described import (
    CODES,
    LOGICAL,
    Described,
    OnDevice,
    Target,
    described_as,
    described_shape,
    logical_name,
    numpy_dtype,
    type_name,
)
from zarr_gpu.errors import MissingDependencyError, UnsupportedError
from zarr_gpu.metadata.safetensors import TYPES
from zarr_gpu.tensors import torch_dtypes

if TYPE_CHECKING:
    from zarr_gpu.device.engine import Engine


class Framework(Protocol):
    """What saving and loading need of a library of tensors."""

    name: str

    def describe(self, tensor: Any) -> Described:
        """Raises UnsupportedError for types that cannot be stored."""

    def memory(self, tensor: Any) -> memoryview:
        """The tensor's bytes in C order, little-endian; a copy only where they are not that."""

    def new(self, described: Described, device: Any) -> Target:
        """Memory for a new tensor."""

    def existing(self, tensor: Any, described: Described, device: Any = None) -> Target:
        """The memory of a tensor; values of another type or order are copied behind the read.

        A tensor without memory (PyTorch's device ``meta``) is replaced by a new one on ``device``.
        Raises ValueError for another shape, TypeError where values cannot be cast.
        """

    def snapshot(self, tensor: Any) -> Any:
        """A copy in the memory of the host."""

    def storage(self, tensor: Any) -> object:
        """Equal for tensors that have the very same elements in memory."""


class _NumPy:
    name = "np"

    def describe(self, tensor: Any) -> Described:
        return described_as(tensor.dtype.name, tensor.shape)

    def memory(self, tensor: Any) -> memoryview:
        array = np.asarray(tensor)
        if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and _BIG):
            array = array.astype(array.dtype.newbyteorder("<"))
        array = np.ascontiguousarray(array)
        if logical_name(array.dtype.name) == "float4_e2m1fn":
            packed = array.reshape(-1).view(np.uint8) & 15
            return memoryview(packed[::2] | packed[1::2] << 4)
        return memoryview(array.reshape(-1).view(np.uint8))

    def new(self, described: Described, device: Any) -> Target:
        code, shape, logical = described
        if TYPES[code].bits < 8:
            return self._unpacked(described)
        name = logical or TYPES[code].name
        if logical:
            shape = shape[: len(shape) - len(LOGICAL[logical][1])]
        array = np.empty(shape, numpy_dtype(name))
        return Target(memoryview(array.reshape(-1).view(np.uint8)), lambda: array)

    def _unpacked(self, described: Described) -> Target:
        """ml_dtypes has an element of four bits in each byte."""
        if described.code != "F4":
            raise UnsupportedError(f"{described.code} is read as an array of a group only")
        packed = np.empty(math.prod(described.shape) // 2, np.uint8)

        def tensor() -> NDArray:
            values = np.stack((packed & 15, packed >> 4), axis=-1).reshape(described.shape)
            return values.view(numpy_dtype("float4_e2m1fn"))

        return Target(memoryview(packed), tensor)

    def existing(self, tensor: Any, described: Described, device: Any = None) -> Target:
        _same_shape(tensor.shape, described)
        if not tensor.flags.writeable:
            raise ValueError("the array is read-only")
        own = self.describe(tensor)
        if own == described and tensor.flags.c_contiguous and TYPES[own.code].bits >= 8:
            return Target(memoryview(tensor.reshape(-1).view(np.uint8)), lambda: tensor)
        target = self.new(described, None)

        def copied() -> Any:
            np.copyto(tensor, target.tensor(), casting="same_kind")
            return tensor

        return Target(target.memory, copied)

    def snapshot(self, tensor: Any) -> Any:
        return np.array(tensor)

    def storage(self, tensor: Any) -> object:
        if isinstance(tensor, np.generic):
            return None
        where = tensor.__array_interface__["data"][0]
        return (where, tensor.shape, tensor.strides, str(tensor.dtype)) if tensor.size else None


class _Torch:
    name = "pt"

    def __init__(self) -> None:
        self.module = _module("torch", "PyTorch tensors")
        dtypes = torch_dtypes(self.module, (*CODES, *LOGICAL))
        self._names: dict[Any, str] = {dtype: name for name, dtype in dtypes.items()}
        packed = getattr(self.module, "float4_e2m1fn_x2", None)
        if packed is not None:
            self._names[packed] = "float4_e2m1fn"
        self._dtypes = {name: dtype for dtype, name in self._names.items()}

    def describe(self, tensor: Any) -> Described:
        if hasattr(tensor, "full_tensor"):
            raise UnsupportedError("parts of distributed tensors are saved by torch.distributed")
        if tensor.device.type == "meta":
            raise UnsupportedError("a tensor on the device meta has no values")
        name = self._names.get(tensor.dtype)
        if name is None or tensor.is_quantized or tensor.layout is not self.module.strided:
            raise UnsupportedError(f"tensors of {tensor.dtype}, {tensor.layout} cannot be stored")
        shape = tuple(tensor.shape)
        if name == "float4_e2m1fn":  # two in each byte
            if not shape:
                raise UnsupportedError("float4 tensors need an axis")
            shape = (*shape[:-1], 2 * shape[-1])
        return described_as(name, shape)

    def memory(self, tensor: Any) -> memoryview:
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.device.type != "cpu":
            tensor = tensor.cpu()
        return self._bytes_of(tensor.contiguous())

    def _bytes_of(self, tensor: Any) -> memoryview:
        """The memory of a contiguous tensor on the host, which it keeps."""
        nbytes = tensor.numel() * tensor.element_size()
        if not nbytes:
            return memoryview(bytearray())
        block = (ctypes.c_ubyte * nbytes).from_address(tensor.data_ptr())
        block.owner = tensor  # as long as the view is used
        return memoryview(block).cast("B")

    def own(self, described: Described) -> tuple[Any, tuple[int, ...]]:
        """Data type and shape of the tensor itself."""
        code, shape, logical = described
        name = logical or TYPES[code].name
        if logical:
            shape = shape[: len(shape) - len(LOGICAL[logical][1])]
        elif code == "F4":
            if not shape or shape[-1] % 2:
                raise UnsupportedError(f"{list(shape)} of F4 has half bytes")
            shape = (*shape[:-1], shape[-1] // 2)
        if name not in self._dtypes:
            raise UnsupportedError(f"PyTorch has no type {name}")
        return self._dtypes[name], shape

    def new(self, described: Described, device: Any) -> Target:
        dtype, shape = self.own(described)
        kind = "cpu" if device is None else self.module.device(device).type
        if kind == "cuda":
            tensor = self.module.empty(shape, dtype=dtype, device=device)
            return Target(_NOTHING, lambda: tensor, self._on_device(tensor))
        tensor = self.module.empty(shape, dtype=dtype)
        if kind == "cpu":
            return Target(self._bytes_of(tensor), lambda: tensor)
        return Target(self._bytes_of(tensor), lambda: tensor.to(device))

    def _on_device(self, tensor: Any) -> OnDevice:
        engine = _engine(tensor.device.index)
        # Its memory may be in use by work that PyTorch has queued.
        self.module.cuda.current_stream(tensor.device).synchronize()
        return OnDevice(engine, tensor.data_ptr())

    def existing(self, tensor: Any, described: Described, device: Any = None) -> Target:
        own, dtype_shape = tensor.detach(), self.own(described)
        if tuple(own.shape) != dtype_shape[1]:
            raise ValueError(f"the tensor has shape {list(own.shape)}, stored is {dtype_shape[1]}")
        if own.device.type == "meta":
            made = self.new(described, device)
            return made._replace(tensor=lambda: made.tensor().to(own.dtype))
        plain = own.is_contiguous() and own.dtype == dtype_shape[0]
        plain = plain and not own.is_conj() and not own.is_neg()
        if plain and own.device.type == "cuda":
            return Target(_NOTHING, lambda: tensor, self._on_device(own))
        if plain and own.device.type == "cpu":
            return Target(self._bytes_of(own), lambda: tensor)
        target = self.new(described, None)

        def copied() -> Any:
            own.copy_(target.tensor())
            return tensor

        return Target(target.memory, copied)

    def snapshot(self, tensor: Any) -> Any:
        return tensor.detach().to("cpu", copy=True)

    def storage(self, tensor: Any) -> object:
        if tensor.device.type == "meta":
            return id(tensor)
        if not tensor.numel():
            return None
        view = (tensor.is_conj(), tensor.is_neg())
        where = (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        return (*where, str(tensor.dtype), view)


class _Jax(_NumPy):
    name = "jax"

    def __init__(self) -> None:
        self._jax = _module("jax", "JAX arrays")

    def describe(self, tensor: Any) -> Described:
        return described_as(tensor.dtype.name, tensor.shape)

    def memory(self, tensor: Any) -> memoryview:
        return super().memory(np.asarray(tensor))

    def new(self, described: Described, device: Any) -> Target:
        target = super().new(described, None)
        device = None if device in (None, "cpu") else device
        return Target(target.memory, lambda: self._jax.device_put(target.tensor(), device))

    def existing(self, tensor: Any, described: Described, device: Any = None) -> Target:
        if isinstance(tensor, np.ndarray):
            return super().existing(tensor, described)
        raise TypeError("arrays of JAX cannot be written to")

    def snapshot(self, tensor: Any) -> Any:
        return np.array(tensor)  # it may be donated, and deleted then

    def storage(self, tensor: Any) -> object:
        return id(tensor)


class _CuPy(_NumPy):
    name = "cupy"

    def __init__(self) -> None:
        self._cupy = _module("cupy", "CuPy arrays")

    def describe(self, tensor: Any) -> Described:
        return described_as(tensor.dtype.name, tensor.shape)

    def memory(self, tensor: Any) -> memoryview:
        return super().memory(self._cupy.asnumpy(tensor))

    def new(self, described: Described, device: Any) -> Target:
        if TYPES[described.code].bits < 8:
            target = super().new(described, None)
            return Target(target.memory, lambda: self._cupy.asarray(target.tensor()))
        backend = device_backend(None if device in (None, "cpu") else device)
        array = backend.empty(described_shape(described), numpy_dtype(type_name(described)), "C")
        on = OnDevice(backend.engine, backend.runtime.address(array))
        return Target(_NOTHING, lambda: array, on)

    def existing(self, tensor: Any, described: Described, device: Any = None) -> Target:
        if isinstance(tensor, np.ndarray):
            return super().existing(tensor, described)
        _same_shape(tensor.shape, described)
        target = super().new(described, None)

        def copied() -> Any:
            tensor[...] = self._cupy.asarray(target.tensor())
            return tensor

        return Target(target.memory, copied)

    def snapshot(self, tensor: Any) -> Any:
        return self._cupy.asnumpy(tensor)

    def storage(self, tensor: Any) -> object:
        where = tensor.data.ptr
        return (where, tensor.shape, tensor.strides, str(tensor.dtype)) if tensor.size else None


def device_backend(device: Any) -> Any:
    """The backend of a card: ``cuda``, ``cuda:1``, a number, None for the first one.

    Raises DeviceUnavailableError.
    """
    from zarr_gpu.backend import get_backend

    name = "cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device
    return get_backend(str(name))


def device_name(framework: Framework, device: Any) -> str | None:
    """The card that tensors of a framework go to, as our arrays call it; None: none."""
    if framework.name == "cupy" and device in (None, "cpu"):
        return "cuda"
    text = f"cuda:{device}" if isinstance(device, int) else str(device)
    return text if text.startswith("cuda") else None


def _engine(index: int | None) -> Engine:
    engine: Engine = device_backend(index or 0).engine
    return engine


_NOTHING = memoryview(b"")
_BIG = sys.byteorder == "big"
_CLASSES: Mapping[str, type[Any]] = {
    "np": _NumPy, "numpy": _NumPy, "pt": _Torch, "torch": _Torch, "pytorch": _Torch,
    "jax": _Jax, "flax": _Jax, "cupy": _CuPy, "cp": _CuPy,
}  # fmt: skip


_frameworks: dict[type[Any], Framework] = {}


def _made(cls: type[Any]) -> Framework:
    return _frameworks.get(cls) or _frameworks.setdefault(cls, cls())


def get_framework(name: str | None = None) -> Framework:
    """By name: ``np``, ``pt``, ``jax``, ``cupy``; None: PyTorch where it is installed, else NumPy.

    Raises ValueError for another name, MissingDependencyError where it is not installed.
    """
    if name is None:
        name = "pt" if find_spec("torch") else "np"
    if name not in _CLASSES:
        raise ValueError(f"framework has to be one of {', '.join(_CLASSES)}, found {name!r}")
    return _made(_CLASSES[name])


def get_torch() -> _Torch:
    """PyTorch, with what only that has."""
    torch = _made(_Torch)
    assert isinstance(torch, _Torch)  # noqa: S101 - what was made
    return torch


def framework_of(tensor: Any) -> Framework:
    """That of a tensor. Raises TypeError for anything else."""
    if isinstance(tensor, np.ndarray | np.generic):
        return _made(_NumPy)
    for module, name, cls in (
        ("torch", "Tensor", _Torch), ("jax", "Array", _Jax), ("cupy", "ndarray", _CuPy),
    ):  # fmt: skip
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(tensor, kind):
            return _made(cls)
    raise TypeError(f"expected a tensor, found {type(tensor).__name__}")


def is_tensor(value: Any) -> bool:
    """Whether :func:`framework_of` knows it; a scalar of NumPy has no memory to read into."""
    try:
        framework_of(value)
    except TypeError:
        return False
    return not isinstance(value, np.generic)


def _same_shape(shape: tuple[int, ...], described: Described) -> None:
    if tuple(shape) != described_shape(described):
        stored = list(described_shape(described))
        raise ValueError(f"the array has shape {list(shape)}, stored is {stored}")


def _module(name: str, what: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"{what} need the package {name}") from error
