"""The emulated device for several threads at once, which notes who breaks its rules."""

import os
import types

import numpy as np

from tests.device.emulated import DeviceFault, EmulatedRuntime, Stream
from zarr_gpu import backend as backends


def engine_of(index=0):
    """The engine of an emulated device."""
    return backends._devices[os.getpid(), index].engine


class Ruled(EmulatedRuntime):
    """Memory may be given back, and events waited for, by any thread; what changes something is
    for the holder of the engine's lock. From :meth:`watch` on, ``broken`` has the names of methods
    that were called without it.
    """

    LOCKED = ("empty", "assign", "alloc", "upload", "download", "launch", "decompress", "compress",
              "new_stream", "free_nbytes")  # fmt: skip

    def __init__(self, **options):
        super().__init__(**options)
        self._engine = None
        self._adopted = []
        self.broken = set()
        for name in self.LOCKED:
            setattr(self, name, self._ruled(name, getattr(self, name)))

    def watch(self, engine):
        self._engine = engine
        for stream in self.streams:
            for name in ("record", "wait"):
                method = types.MethodType(getattr(Stream, name), stream)
                setattr(stream, name, self._ruled(f"Stream.{name}", method))

    def _ruled(self, name, method):
        def call(*args, **kwargs):
            if self._engine is not None and not self._engine.lock._is_owned():
                self.broken.add(name)
            with self.lock:  # of all that is queued, other threads see what was queued before it
                return method(*args, **kwargs)

        return call

    def run_until(self, event):
        self.counts.waits += 1
        while not event.reached:
            if not self.step() and not event.reached:  # by another thread, meanwhile
                raise DeviceFault("waits for an event that nothing will reach")

    def adopt(self, out):
        """Arrays of tests are kept, or memory allocated in their place would be taken for them."""
        with self.lock:
            self._adopted.append(out)
            return super().adopt(out)

    def to_host(self, array):
        with self.lock:
            event = Stream.record(self._current)
        self.run_until(event)
        return np.array(array)

    def _new_memory(self, nbytes):
        with self.lock:
            return super()._new_memory(nbytes)

    def _give_back(self, memory, stream):
        with self.lock:
            super()._give_back(memory, stream)

    def _find(self, ptr):
        with self.lock:
            return super()._find(ptr)
