"""Backends: what executes a plan, on the host or on a device.

A backend knows a layout, a plan, a store and a destination. Which one serves a request is decided
here, once, by name.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import numpy as np

from zarr_gpu._types import NDArray, Shape
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import DeviceUnavailableError
from zarr_gpu.host import HostBackend
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Plan
from zarr_gpu.stores.base import Store


class Backend(Protocol):
    """Five methods; everything else about a backend is private to it."""

    def available(self) -> str | None:
        """None, or the reason why this backend cannot be used here."""

    def empty(self, shape: Shape, dtype: np.dtype[Any], order: str) -> Any:
        """An uninitialised output array."""

    def read(
        self, layout: ArrayLayout, plan: Plan, store: Store, out: Any, settings: ArrayConfig
    ) -> None:
        """Fill ``out`` (the work view of the plan) completely, or raise."""

    def write(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: Any, settings: ArrayConfig
    ) -> None:
        """Store ``value`` (the work view of the plan)."""

    def to_host(self, array: Any) -> NDArray:
        """A NumPy array of the same elements."""


_host = HostBackend()


def get_backend(device: str) -> Backend:
    """The backend called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` is the best device that works. Raises ValueError for other names and
    DeviceUnavailableError when the device cannot be used.
    """
    if device in ("cpu", "auto"):
        return _host
    if re.fullmatch(r"cuda(:\d+)?", device):
        raise DeviceUnavailableError(
            f"device {device!r}: this version of zarr_gpu has no CUDA backend; "
            "use device='auto' or 'cpu'"
        )
    raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', found {device!r}")
