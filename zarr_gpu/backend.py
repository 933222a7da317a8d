"""Backends: what executes a plan, on the host or on a device.

A backend knows a layout, a plan, a store and a destination. Which one serves a request is decided
here, once, by name.
"""

from __future__ import annotations

import os
import re
from typing import Any, Protocol

import numpy as np

from zarr_gpu import tensors
from zarr_gpu._types import NDArray, Shape
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import DeviceUnavailableError, UnsupportedError
from zarr_gpu.host import HostBackend
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Plan
from zarr_gpu.stores.base import Store


class Backend(Protocol):
    """What arrays need of a device; everything else about a backend is private to it."""

    @property
    def name(self) -> str:
        """``host`` or ``cuda:N``."""

    def available(self) -> str | None:
        """None, or the reason why this backend cannot be used here."""

    def empty(self, shape: Shape, dtype: np.dtype[Any], order: str) -> Any:
        """An uninitialised array for elements of a stored type."""

    def adopt(self, out: Any, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """A caller's output as an array that :meth:`read` can fill.

        Raises TypeError or ValueError when it cannot take ``shape`` elements of ``dtype``.
        """

    def read(
        self, layout: ArrayLayout, plan: Plan, store: Store, out: Any, settings: ArrayConfig
    ) -> None:
        """Fill ``out``, of the selection's shape, completely, or raise."""

    def prepare(self, value: Any, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """``value`` in ``shape`` and as ``dtype`` if it is on this backend's device, else None.

        Raises ValueError when it cannot be broadcast.
        """

    def write(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: Any, settings: ArrayConfig
    ) -> None:
        """Store ``value``, of the selection's shape."""

    def explain(self, layout: ArrayLayout, plan: Plan, store: Store) -> list[str]:
        """Where a read would decode and assemble, a line for each step."""

    def to_host(self, array: Any, dtype: np.dtype[Any]) -> NDArray:
        """A NumPy array of the same elements, which are stored as ``dtype``."""


_host = HostBackend()
_devices: dict[tuple[int, int], Backend] = {}
"""Backends of devices, by process and number: a forked child has none of its parent's."""


def on_device(value: Any) -> bool:
    """True for arrays in the memory of a device."""
    if tensors.is_torch(value):
        return bool(value.is_cuda)
    return hasattr(value, "__cuda_array_interface__")


def get_backend(device: str, dtype: np.dtype[Any] | None = None) -> Backend:
    """The backend called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` is the best device that works, and that can hold elements of ``dtype``. Raises
    ValueError for other names, DeviceUnavailableError when the device cannot be used, and
    UnsupportedError when elements of ``dtype`` cannot be on it.
    """
    if device == "cpu":
        return _host
    if not re.fullmatch(r"auto|cuda(:\d+)?", device):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', found {device!r}")
    from zarr_gpu.device import detect

    reason = detect.unavailable_reason("cuda" if device == "auto" else device)
    if reason is not None:
        if device == "auto":
            return _host
        raise DeviceUnavailableError(f"device {device!r}: {reason}; use device='auto' or 'cpu'")
    if dtype is not None:
        from zarr_gpu.device.dtypes import device_dtype

        try:
            device_dtype(dtype)
        except UnsupportedError:
            if device == "auto":
                return _host
            if dtype.names is None:  # single fields can be read
                raise
    return _device(int(device.partition(":")[2] or 0))


def _device(number: int) -> Backend:
    key = (os.getpid(), number)
    if key not in _devices:
        from zarr_gpu.device.backend import DeviceBackend
        from zarr_gpu.device.cuda import CudaRuntime
        from zarr_gpu.device.engine import Engine

        _devices.setdefault(key, DeviceBackend(Engine(CudaRuntime(number))))
    return _devices[key]
