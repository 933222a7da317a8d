"""A device that is none: NumPy memory, the kernels compiled for the CPU, numcodecs as decoders.

It keeps the rules of :mod:`zarr_gpu.device.runtime` more strictly than hardware does. Work is only
queued; it is executed when somebody waits, in an order drawn at random among all orders that the
events allow, so that a missing event shows as wrong data. Memory is poisoned when it is allocated
and when it is freed (in the order of its stream), has guard bytes around it, and is limited.
Copies must come from page-locked memory and stay inside an allocation; decoders check alignment.
"""

from __future__ import annotations

import bisect
import ctypes
import math
import random
import threading
import weakref
import zlib
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tests.kernels import build
from zarr_gpu.device import kernels
from zarr_gpu.device.runtime import DeviceMemoryError

GUARD = 256
FRESH, FREED, EDGE = 0xA5, 0xDD, 0x5C


class DeviceFault(AssertionError):
    """The backend broke a rule that hardware would not forgive."""


class Event:
    def __init__(self, runtime):
        self._runtime = runtime
        self.reached = False

    def done(self):
        # Asking makes some progress, as time does on hardware.
        if not self.reached:
            self._runtime.step()
        return self.reached

    def wait(self):
        self._runtime.run_until(self)


class Stream:
    def __init__(self, runtime, name):
        self.runtime = runtime
        self.name = name
        self.queue = deque()

    def record(self):
        event = Event(self.runtime)

        def reach():
            event.reached = True

        self.put(reach)
        return event

    def wait(self, event):
        if not isinstance(event, Event):
            raise DeviceFault("waits for something that is no recorded event")
        self.queue.append(event)

    def put(self, work):
        self.queue.append(work)
        if self.runtime.eager:
            self.runtime.run_all()


class Buffer:
    def __init__(self, runtime, memory, stream):
        self._runtime = runtime
        self.ptr = memory.ptr
        self.nbytes = memory.nbytes
        self._free = weakref.finalize(self, runtime._give_back, memory, stream)
        self._free.atexit = False


class Memory:
    """Bytes with guards around them."""

    def __init__(self, nbytes, fill=FRESH):
        self.nbytes = nbytes
        self.array = np.full(nbytes + 2 * GUARD + 256, EDGE, np.uint8)
        start = self.array.ctypes.data + GUARD
        self.at = GUARD + (-start) % 256
        self.ptr = self.array.ctypes.data + self.at
        self.freed = False
        self.view[:] = fill

    @property
    def view(self):
        return self.array[self.at : self.at + self.nbytes]

    def check_guards(self):
        if (self.array[: self.at] != EDGE).any() or (
            self.array[self.at + self.nbytes :] != EDGE
        ).any():
            raise DeviceFault(f"bytes around a buffer of {self.nbytes} bytes were overwritten")


class DeviceArray(np.ndarray):
    """Elements that may not be there yet: no scalars are made of them, as CuPy makes none."""

    def __getitem__(self, key):
        return self if isinstance(key, tuple) and not key else super().__getitem__(key)


@dataclass
class Foreign:
    """Memory that a test brought along."""

    ptr: int
    nbytes: int

    def check_guards(self):
        pass


@dataclass
class Counts:
    """What was done, for tests that look at the work and not only at the result."""

    launches: dict = field(default_factory=dict)
    decoded: dict = field(default_factory=dict)
    uploads: int = 0
    uploaded_nbytes: int = 0
    peak_nbytes: int = 0
    waits: int = 0


class EmulatedRuntime:
    """``eager`` executes everything at once, for tests that look at results without waiting."""

    device = 0
    name = "emulated"

    def __init__(self, *, seed=0, eager=False, memory_nbytes=1 << 32, strict=True):
        self.random = random.Random(seed)
        self.eager = eager
        self.strict = strict
        self.memory_nbytes = memory_nbytes
        self.used_nbytes = 0
        self.streams = []
        self.counts = Counts()
        self.fail_allocation = 0  # countdown: the allocation that reaches 0 fails
        self.lock = threading.RLock()
        self._live = {}
        self._starts = []
        self._pinned = []
        self._current = self.new_stream("user")

    # -- memory -----------------------------------------------------------------------------------

    def _new_memory(self, nbytes):
        if self.fail_allocation:
            self.fail_allocation -= 1
            if not self.fail_allocation:
                raise DeviceMemoryError("emulated: no room, as asked for")
        if self.used_nbytes + nbytes > self.memory_nbytes:
            raise DeviceMemoryError(f"emulated: {nbytes} more than {self.memory_nbytes} bytes")
        memory = Memory(nbytes)
        self.used_nbytes += nbytes
        self.counts.peak_nbytes = max(self.counts.peak_nbytes, self.used_nbytes)
        self._live[memory.ptr] = memory
        bisect.insort(self._starts, memory.ptr)
        return memory

    def _give_back(self, memory, stream):
        self.used_nbytes -= memory.nbytes

        def poison():
            memory.check_guards()
            memory.view[:] = FREED
            del self._live[memory.ptr]
            self._starts.remove(memory.ptr)

        stream.put(poison)

    def alloc(self, nbytes, stream):
        return Buffer(self, self._new_memory(nbytes), stream)

    def empty(self, shape, dtype, order):
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        # Results are never given back, as views of them cannot be followed: a runtime lives for
        # one test, or does not keep books.
        buffer = self._new_memory(nbytes).view if self.strict else np.full(nbytes, FRESH, np.uint8)
        array = np.ndarray(shape, dtype, buffer, order=order)
        return array if self.eager else array.view(DeviceArray)

    def array(self, data):
        """Data of the host, brought to the device."""
        return data

    def adopt(self, out):
        """Memory of the test, seen as memory of the device."""
        if not isinstance(out, np.ndarray):
            return None
        if not self.strict:
            return out
        low, high = np.lib.array_utils.byte_bounds(out)
        if self._find(low) is None and high > low:
            memory = Foreign(low, high - low)
            self._live[low] = memory
            bisect.insort(self._starts, low)
        return out

    def address(self, array):
        return array.ctypes.data if array.size else 0

    def broadcast(self, array, shape):
        return np.broadcast_to(array, shape, subok=True)

    def assign(self, out, value):
        def copy():
            out[...] = value

        self._current.put(copy)

    def to_host(self, array):
        self.run_until(self._current.record())
        return np.array(array)  # of the base class

    def pinned(self, nbytes):
        array = np.full(nbytes, FRESH, np.uint8)
        self._pinned.append((array.ctypes.data, array.ctypes.data + nbytes))
        return array

    def free_nbytes(self):
        return self.memory_nbytes - self.used_nbytes

    def _find(self, ptr):
        at = bisect.bisect_right(self._starts, ptr) - 1
        memory = self._live[self._starts[at]] if at >= 0 else None
        return memory if memory is not None and ptr < memory.ptr + max(1, memory.nbytes) else None

    def _check_range(self, what, ptr, nbytes):
        if not self.strict:
            return
        memory = self._find(ptr)
        if memory is None or ptr + nbytes > memory.ptr + memory.nbytes:
            raise DeviceFault(f"{what}: {nbytes} bytes at {ptr:#x} are not in one allocation")

    # -- order ------------------------------------------------------------------------------------

    def new_stream(self, name=None):
        stream = Stream(self, name or f"stream {len(self.streams)}")
        self.streams.append(stream)
        return stream

    def current_stream(self):
        return self._current

    def step(self):
        """Execute one piece of work that may be next; False when there is none.

        Any thread may ask events, and so gets here.
        """
        with self.lock:
            return self._step()

    def _step(self):
        ready = []
        for stream in self.streams:
            while stream.queue and isinstance(stream.queue[0], Event) and stream.queue[0].reached:
                stream.queue.popleft()
            if stream.queue and not isinstance(stream.queue[0], Event):
                ready.append(stream)
        if not ready:
            return False
        self.random.choice(ready).queue.popleft()()
        return True

    def run_until(self, event):
        self.counts.waits += 1
        while not event.reached:
            if not self.step() and not event.reached:  # by another thread, meanwhile
                raise DeviceFault("waits for an event that nothing will reach")

    def run_all(self):
        while self.step():
            pass
        if any(stream.queue for stream in self.streams):
            raise DeviceFault("a stream waits for an event that nothing will reach")

    def synchronize(self):
        self.run_all()

    def check(self):
        """What is left at the end has its guards intact."""
        for memory in self._live.values():
            memory.check_guards()

    # -- work -------------------------------------------------------------------------------------

    def upload(self, ptr, source, stream):
        nbytes = source.nbytes
        start = source.ctypes.data
        if not source.flags.c_contiguous:
            raise DeviceFault("copies contiguous memory only")
        if not any(low <= start and start + nbytes <= high for low, high in self._pinned):
            raise DeviceFault("a copy from memory that is not page-locked")
        self.counts.uploads += 1
        self.counts.uploaded_nbytes += nbytes

        def copy():
            self._check_range("upload", ptr, nbytes)
            ctypes.memmove(ptr, start, nbytes)

        stream.put(copy)

    def download(self, target, ptr, stream):
        if not target.flags.c_contiguous or not target.flags.writeable:
            raise DeviceFault("copies to contiguous writable memory only")

        def copy():
            self._check_range("download", ptr, target.nbytes)
            ctypes.memmove(target.ctypes.data, ptr, target.nbytes)

        stream.put(copy)

    def launch(self, kernel, blocks, threads, args, stream):
        if not 1 <= blocks < 2**31 or not 1 <= threads <= 1024:
            raise DeviceFault(f"{kernel}: {blocks} blocks of {threads} threads")
        packed = kernels.pack(kernel, args)
        function = build.load(kernels.file_of(kernel)).get_function(kernel)
        self.counts.launches[kernel] = self.counts.launches.get(kernel, 0) + 1
        stream.put(lambda: function((blocks,), (threads,), packed))

    def can_decompress(self, codec):
        return codec in _DECODERS

    def decompress(self, codec, streams, stream):
        self._batch(codec, streams, stream, _DECODERS[codec], _ALIGNMENT.get(codec, 1))

    def compress(self, codec, streams, stream, level=-1):
        self._batch(codec, streams, stream, _ENCODERS[codec], _ENCODE_ALIGNMENT.get(codec, 1))

    def compress_max(self, codec):
        return 1 << 24 if codec in _ENCODERS else 0

    def compress_bound(self, codec, nbytes):
        return nbytes + (nbytes >> 3) + 1024

    def _batch(self, codec, streams, stream, function, alignment):
        self.counts.decoded[codec] = self.counts.decoded.get(codec, 0) + streams.n

        def work():
            def column(ptr, dtype):
                nbytes = streams.n * np.dtype(dtype).itemsize
                self._check_range(f"{codec}: table", ptr, nbytes)
                return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(ptr), dtype)

            sources, sizes = column(streams.in_ptr, np.uint64), column(streams.in_nbytes, np.uint64)
            targets, rooms = (
                column(streams.out_ptr, np.uint64),
                column(streams.out_nbytes, np.uint64),
            )
            actual, status = column(streams.actual, np.uint64), column(streams.status, np.int32)
            for i in range(streams.n):
                source, size = int(sources[i]), int(sizes[i])
                target, room = int(targets[i]), int(rooms[i])
                if source % alignment:
                    raise DeviceFault(f"{codec}: input {i} at {source:#x} is not aligned")
                self._check_range(f"{codec}: input {i}", source, size)
                self._check_range(f"{codec}: output {i}", target, room)
                try:
                    result = function(ctypes.string_at(source, size), room)
                except Exception:
                    actual[i], status[i] = 0, 12
                    continue
                if len(result) > room:
                    actual[i], status[i] = 0, 15
                    continue
                ctypes.memmove(target, bytes(result), len(result))
                actual[i], status[i] = len(result), 0

        stream.put(work)


def _zstd(data, room):
    import zstandard

    if data[4] & 4:  # the checksum is not looked at: nvCOMP does not say that it does
        data = data[:4] + bytes([data[4] & ~4]) + data[5:-4]
    return zstandard.ZstdDecompressor().decompress(
        data, max_output_size=room + 1, read_across_frames=False, allow_extra_data=False
    )


def _inflate(wbits):
    def decode(data, room):
        stream = zlib.decompressobj(wbits)
        result = stream.decompress(data, room + 1)
        if not stream.eof and len(result) <= room:
            raise ValueError("cut short")
        return result

    return decode


def _gunzip(data, room):
    """Looks at neither the CRC-32 nor the size: nvCOMP does not say that it does."""
    if data[:3] != b"\x1f\x8b\x08" or data[3] & 0xFE:
        raise ValueError("no plain gzip header")
    return _inflate(-15)(data[10:-8], room)


def _lz4(data, room):
    from numcodecs import lz4

    return lz4.decompress(room.to_bytes(4, "little") + data)


def _snappy(data, room):
    import cramjam

    return bytes(cramjam.snappy.decompress_raw(data))


def _deflate(wbits):
    def encode(data, room):
        stream = zlib.compressobj(1, zlib.DEFLATED, wbits)
        return stream.compress(data) + stream.flush()

    return encode


def _compress_zstd(data, room):
    from numcodecs import zstd

    return zstd.compress(data, 1)


def _compress_lz4(data, room):
    from numcodecs import lz4

    return lz4.compress(data)[4:]


def _gdeflate(data, room):
    from zarr_gpu.codecs.gdeflate import decode_page

    return decode_page(data, room)


def _compress_gdeflate(data, room):
    from zarr_gpu.codecs.gdeflate import encode_page

    return encode_page(data, 1)


_DECODERS = {
    "gdeflate": _gdeflate,
    "zstd": _zstd,
    "deflate": _inflate(-15),
    "gzip": _gunzip,
    "lz4": _lz4,
    "snappy": _snappy,
}
_ENCODERS = {
    "gdeflate": _compress_gdeflate,
    "zstd": _compress_zstd,
    "deflate": _deflate(-15),
    "gzip": _deflate(31),
    "lz4": _compress_lz4,
}
_ALIGNMENT = {"deflate": 4, "gdeflate": 4}  # nvCOMP 6, queried from the library
_ENCODE_ALIGNMENT = {"zstd": 4}  # the same
