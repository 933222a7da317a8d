"""KvikIO on the emulated device.

A stand-in for the package reads files into the memory of the device, on no stream, at a time drawn
at random between the call and the answer. Memory that the device hands out is poisoned only when
its stream gets there, as what was done with it before may still be under way: a read that did not
wait shows.
"""

import ctypes
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.device.devices import emulated
from tests.device.emulated import FRESH, EmulatedRuntime
from zarr_gpu.device import fetch, kvikio, policy


class File:
    def __init__(self, package, path, flags):
        assert flags == "r"
        self._package = package
        self._path = path
        self._fd = os.open(path, os.O_RDONLY)
        package.opened.append(path)
        package.open_files += 1
        package.after_open(path)

    def fileno(self):
        return self._fd

    def pread(self, buffer, size, file_offset):
        package, interface = self._package, buffer.__cuda_array_interface__
        address, read_only = interface["data"]
        assert interface["shape"] == (size,) and not read_only
        package.before_read(self._path)
        with package.runtime.lock:
            package.runtime._check_range("KvikIO", address, size)
            package.reads.append((address, size, file_offset))
            read = Reading(package, self._fd, address, size, file_offset)
            if package.runtime.random.random() < 0.5:
                read.copy()
        return read

    def close(self):
        os.close(self._fd)
        self._package.open_files -= 1


class Reading:
    def __init__(self, package, *what):
        self._package = package
        self._what = what
        self._done = None

    def copy(self):
        fd, address, size, file_offset = self._what
        data = os.pread(fd, size, file_offset)
        ctypes.memmove(address, data, len(data))
        self._done = len(data)

    def get(self):
        with self._package.runtime.lock:
            for _ in range(self._package.runtime.random.randrange(4)):
                self._package.runtime.step()  # the device does not stand still meanwhile
            if self._done is None:
                self.copy()
        return self._done


class Defaults(dict):
    def set(self, values):
        self.update(values)


class Package:
    """KvikIO, as far as it is used."""

    CompatMode = SimpleNamespace(ON="on", OFF="off", AUTO="auto")

    def __init__(self, runtime):
        self.runtime = runtime
        self.defaults = Defaults(compat_mode="auto", num_threads=1)
        self.opened = []
        self.open_files = 0
        self.reads = []
        self.by_the_host = []
        """Waves whose stored bytes were fetched by the host."""
        self.after_open = lambda path: None
        self.before_read = lambda path: None

    def CuFile(self, path, flags):
        return File(self, path, flags)


@contextmanager
def direct_reads(monkeypatch, *, setting="compat", **options):
    """The emulated device with KvikIO."""
    changes = {"gpu.gds": setting, **options.pop("settings", {})}
    with emulated(monkeypatch, settings=changes, **options) as runtime:
        if not isinstance(runtime, EmulatedRuntime):
            pytest.skip("reads into emulated memory")
        package = Package(runtime)
        monkeypatch.setitem(sys.modules, "kvikio", package)
        monkeypatch.setattr(policy, "READ_NBYTES", 1)
        monkeypatch.setattr(kvikio, "_before", [])
        fetch_wave = fetch.Fetcher.fetch

        def counted(fetcher, wave):
            if not wave.decode:
                package.by_the_host.append(wave)
            return fetch_wave(fetcher, wave)

        monkeypatch.setattr(fetch.Fetcher, "fetch", counted)
        _poison_late(monkeypatch)
        kvikio._load_once.cache_clear()
        yield package
        assert package.open_files == 0
    kvikio._load_once.cache_clear()


def _poison_late(monkeypatch):
    alloc, empty = EmulatedRuntime.alloc, EmulatedRuntime.empty

    def later(runtime, ptr, stream):
        memory = runtime._live[ptr]
        stream.put(lambda: memory.view.fill(FRESH))

    def alloc_used(self, nbytes, stream):
        buffer = alloc(self, nbytes, stream)
        later(self, buffer.ptr, stream)
        return buffer

    def empty_used(self, shape, dtype, order):
        array = empty(self, shape, dtype, order)
        if array.size:
            later(self, array.ctypes.data, self._current)
        return array

    def run_until(self, event):
        while not event.reached:
            if not self.step() and not event.reached:  # another thread may have got it there
                raise AssertionError("waits for an event that nothing will reach")

    monkeypatch.setattr(EmulatedRuntime, "alloc", alloc_used)
    monkeypatch.setattr(EmulatedRuntime, "empty", empty_used)
    monkeypatch.setattr(EmulatedRuntime, "run_until", run_until)
