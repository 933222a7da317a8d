"""The device backend on the emulated runtime, reached through the public API."""

import os
from contextlib import contextmanager

from tests.device.emulated import EmulatedRuntime
from zarr_gpu import backend as backends
from zarr_gpu.config import config
from zarr_gpu.device import detect, policy
from zarr_gpu.device.backend import DeviceBackend
from zarr_gpu.device.engine import Engine

EVERYTHING = {
    "device": "cpu",
    "gpu.min_nbytes": 0,
    "gpu.min_streams": 1,
    "gpu.slab_nbytes": 1 << 20,
}
"""Settings with which nothing is too small for the device, when one asks for it."""


@contextmanager
def emulated(monkeypatch, **options):
    """While it lasts, ``device="cuda"`` is the emulated device. Yields its runtime."""
    changes = {**EVERYTHING, **options.pop("settings", {})}
    with config.set(changes):
        runtime = EmulatedRuntime(**options)
        monkeypatch.setattr(policy, "_noticed", set())
        monkeypatch.setattr(detect, "unavailable_reason", lambda device: None)
        monkeypatch.setitem(backends._devices, (os.getpid(), 0), DeviceBackend(Engine(runtime)))
        yield runtime
        runtime.synchronize()
        runtime.check()
