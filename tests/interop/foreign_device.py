"""A device whose arrays are no NumPy arrays, and refuse to become some, as CuPy's do.

What is done with arrays (operators, NumPy functions by protocol, indexing, casts) works; reading
and writing is done by the host. It shows that nothing on the way turns arrays of a device into
arrays of the host. Whether CuPy does what these do, only a card can tell.
"""

import os
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from zarr_gpu import backend as backends
from zarr_gpu.device import detect
from zarr_gpu.host import HostBackend


def unwrap(value):
    if isinstance(value, Foreign):
        return value.held
    if isinstance(value, (list, tuple)):
        return type(value)(map(unwrap, value))
    if isinstance(value, dict):
        return {k: unwrap(v) for k, v in value.items()}
    return value


def wrap(value):
    if isinstance(value, tuple):
        return tuple(map(wrap, value))
    return Foreign(value) if isinstance(value, (np.ndarray, np.generic)) else value


class Foreign(NDArrayOperatorsMixin):
    """An array "on the device"."""

    def __init__(self, held):
        self.held = np.asarray(held)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if any(isinstance(x, np.ndarray) and x.ndim for x in inputs):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        out = kwargs.get("out")
        result = getattr(ufunc, method)(*unwrap(inputs), **unwrap(kwargs))
        return out[0] if out else wrap(result)

    def __array_function__(self, func, types, args, kwargs):
        return wrap(func(*unwrap(args), **unwrap(kwargs)))

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (0, False), "version": 3}

    def get(self):
        return self.held.copy()

    def __getitem__(self, key):
        return Foreign(self.held[unwrap(key)])

    def __setitem__(self, key, value):
        self.held[unwrap(key)] = unwrap(value)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self.held, name)
        if not callable(value):
            return wrap(value)
        return lambda *args, **kwargs: wrap(value(*unwrap(args), **unwrap(kwargs)))

    def __len__(self):
        return len(self.held)


class ForeignBackend(HostBackend):
    """The host, behind arrays of another kind."""

    name = "cuda:0"

    def __init__(self):
        super().__init__()
        self.reads = 0

    def empty(self, shape, dtype, order):
        return Foreign(super().empty(shape, dtype, order))

    def read(self, layout, plan, store, out, settings):
        self.reads += 1
        super().read(layout, plan, store, out.held, settings)

    def prepare(self, value, shape, dtype):
        if not isinstance(value, Foreign):
            return None
        return np.broadcast_to(value.held.astype(dtype), shape)

    def to_host(self, array, dtype):
        return array.held


@contextmanager
def foreign_device(monkeypatch):
    """While it lasts, ``device="cuda"`` is such a device. Yields its backend."""
    backend = ForeignBackend()
    monkeypatch.setattr(detect, "unavailable_reason", lambda device: None)
    monkeypatch.setitem(backends._devices, (os.getpid(), 0), backend)
    module = SimpleNamespace(
        asarray=Foreign,
        ndarray=Foreign,
        cuda=SimpleNamespace(Device=lambda number: _Nothing()),
    )
    monkeypatch.setitem(__import__("sys").modules, "cupy", module)
    yield backend


class _Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass
