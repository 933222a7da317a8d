"""The device backend on the emulated runtime, reached through the public API."""

import os
from contextlib import contextmanager

import numpy as np

from tests.device.emulated import EmulatedRuntime
from zarr_gpu import backend as backends
from zarr_gpu.config import config
from zarr_gpu.device import detect, policy
from zarr_gpu.device.backend import DeviceBackend
from zarr_gpu.device.dtypes import device_dtype
from zarr_gpu.device.engine import Engine
from zarr_gpu.host import as_output

EVERYTHING = {
    "device": "cpu",
    "gpu.min_nbytes": 0,
    "gpu.min_streams": 1,
    "gpu.slab_nbytes": 1 << 20,
}
"""Settings with which nothing is too small for the device, when one asks for it."""


_runtime = EmulatedRuntime


def use_card():
    """From now on, tests run on the first card instead of the emulated device."""
    from tests.device.card import Card

    global _runtime
    _runtime = Card


@contextmanager
def emulated(monkeypatch, *, index=0, **options):
    """While it lasts, ``device="cuda:<index>"`` is an emulated device. Yields its runtime."""
    changes = {**EVERYTHING, **options.pop("settings", {})}
    with config.set(changes):
        runtime = _runtime(**options)
        runtime.device = index
        monkeypatch.setattr(policy, "_noticed", set())
        monkeypatch.setattr(detect, "unavailable_reason", lambda device: None)
        monkeypatch.setitem(backends._devices, (os.getpid(), index), DeviceBackend(Engine(runtime)))
        yield runtime
        runtime.synchronize()
        runtime.check()


class Unnoticed(DeviceBackend):
    """Hands out arrays of the stored type, where a device has integers of the same bits."""

    def empty(self, shape, dtype, order):
        device_dtype(dtype)
        return np.empty(shape, dtype, order)

    def adopt(self, out, shape, dtype):
        return as_output(out, shape, dtype)

    def read(self, layout, plan, store, out, settings):
        if (out.dtype.kind in "mMV" and out.dtype.names is None) or out.dtype.isbuiltin == 2:
            out = out.view(device_dtype(out.dtype))
        super().read(layout, plan, store, out, settings)

    def prepare(self, value, shape, dtype):
        return None

    def write(self, layout, plan, store, value, settings):
        if plan.fields is None:
            native = value.astype(value.dtype.newbyteorder("="))
            value = native.view(device_dtype(native.dtype))
        super().write(layout, plan, store, value, settings)


def emulate_always():
    """Make the emulated device the one that ``device="auto"`` finds, for the rest of the process.

    It executes everything at once and its arrays are NumPy arrays, so that tests written for the
    host see no difference.
    """
    config.set({"gpu.min_nbytes": 0, "gpu.min_streams": 1, "gpu.slab_nbytes": 1 << 20})
    runtime = EmulatedRuntime(eager=True, strict=False)
    detect.unavailable_reason = lambda device: None
    backends.on_device = lambda value: True
    backends._devices[os.getpid(), 0] = Unnoticed(Engine(runtime))
