"""As much of CuPy as the CUDA runtime uses, over host memory and the kernels compiled for the CPU.

It executes the lines of ``zarr_gpu/device/cuda.py`` where there is no card. Whether CuPy does what
this does, only a card can tell; that CuPy has these names is checked against the real package.
"""

import ctypes
from types import SimpleNamespace

import numpy as np

from tests.kernels import build
from zarr_gpu.device import kernels

NAMES = [
    "asarray", "asnumpy", "broadcast_to", "empty", "from_dlpack", "get_default_memory_pool",
    "ndarray",
    "RawModule", "cuda.Device", "cuda.Event", "cuda.Stream", "cuda.alloc",
    "cuda.alloc_pinned_memory", "cuda.get_current_stream", "cuda.memory.OutOfMemoryError",
    "cuda.runtime.memGetInfo", "cuda.runtime.memcpyAsync",
]  # fmt: skip


class ndarray(np.ndarray):
    device = SimpleNamespace(id=0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def __getitem__(self, key):
        return self if isinstance(key, tuple) and not key else super().__getitem__(key)


class Context:
    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


class Device(Context):
    compute_capability = "90"

    def __init__(self, number):
        assert number in (0, 1)


class Stream(Context):
    ptr = 0

    def __init__(self, *, non_blocking=False):
        pass

    def wait_event(self, event):
        assert event.recorded


class Event:
    done = True
    recorded = False

    def __init__(self, *, block=False, disable_timing=False):
        assert block and disable_timing

    def record(self, stream):
        assert isinstance(stream, Stream)
        self.recorded = True

    def synchronize(self):
        assert self.recorded


class OutOfMemoryError(MemoryError):
    pass


class Memory:
    def __init__(self, nbytes):
        self.array = np.full(nbytes, 0xA5, np.uint8)
        self.ptr = self.array.ctypes.data


class RawModule:
    def __init__(self, *, path):
        self.path = path

    def get_function(self, name):
        return build.load(kernels.file_of(name)).get_function(name)


def memcpyAsync(dst, src, nbytes, kind, stream):
    assert kind in (1, 2)
    ctypes.memmove(dst, src, nbytes)


class FakeCupy:
    """``room`` is how many more bytes can be allocated."""

    ndarray = ndarray
    RawModule = RawModule

    def __init__(self):
        self.room = 1 << 30
        self.freed = 0
        self.cuda = SimpleNamespace(
            Device=Device,
            Event=Event,
            Stream=Stream,
            alloc=self.alloc,
            alloc_pinned_memory=lambda nbytes: bytearray(nbytes),
            get_current_stream=Stream,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(memGetInfo=lambda: (1 << 30, 1 << 31), memcpyAsync=memcpyAsync),
        )

    def alloc(self, nbytes):
        if nbytes > self.room:
            raise OutOfMemoryError("no room")
        return Memory(nbytes)

    def get_default_memory_pool(self):
        return SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=self._free)

    def _free(self):
        self.freed += 1

    def empty(self, shape, dtype, order="C"):
        return np.full(shape, 0xA5, np.uint8).astype(dtype, order=order).view(ndarray)

    def asarray(self, value):
        return np.asarray(value).view(ndarray)

    def from_dlpack(self, value):
        return np.from_dlpack(value).view(ndarray)

    def asnumpy(self, array):
        return np.array(array)

    def broadcast_to(self, array, shape):
        return np.broadcast_to(array, shape, subok=True)
