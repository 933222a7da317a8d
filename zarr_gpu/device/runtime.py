"""The narrow waist between the device backend and hardware.

Everything the backend does to a device goes through a :class:`Runtime`: memory, copies, launches,
batched codecs, events. :class:`~zarr_gpu.device.cuda.CudaRuntime` does it with CuPy and nvCOMP; the
tests have an emulated one with NumPy memory and the same kernels compiled for the CPU.

Rules that both keep:

* Work on a stream runs in order; across streams only events order it.
* A :class:`Buffer` belongs to the stream it was allocated on. Dropping the last reference gives it
  back *in that stream's order*: work of other streams on it must be ordered before by an event.
* Page-locked host memory must not be reused before an event recorded after the copy is done.
* Nothing is initialised.
* Events may be asked and waited for by any thread; everything else is for one thread at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zarr_gpu._types import NDArray, Shape


class Buffer(Protocol):
    """Device memory; freed when the last reference goes."""

    @property
    def ptr(self) -> int:
        """Address on the device, a multiple of 256."""

    @property
    def nbytes(self) -> int: ...


class Event(Protocol):
    """A point in the order of a stream."""

    def done(self) -> bool:
        """True when everything before it has been executed."""

    def wait(self) -> None:
        """Block the host until then; raises what the device reports."""


class Stream(Protocol):
    """A queue of device work."""

    def record(self) -> Event:
        """An event after everything queued so far."""

    def wait(self, event: Event) -> None:
        """Work queued from now on runs after ``event``; the host does not wait."""


@dataclass(frozen=True, slots=True)
class Streams:
    """A table of byte streams for one batched call, in device memory.

    Columns of ``n`` rows: addresses and sizes of the input, addresses and capacities of the
    output, and what the call writes: the actual output size and a status (0: fine, else a number
    of nvcompStatus_t). Addresses and sizes are uint64, statuses int32. ``max_nbytes`` and
    ``total_nbytes`` are the largest and the sum of the decoded sizes.
    """

    n: int
    in_ptr: int
    in_nbytes: int
    out_ptr: int
    out_nbytes: int
    actual: int
    status: int
    max_nbytes: int
    total_nbytes: int


class Runtime(Protocol):
    """One device. Methods may be called by one thread at a time unless they say otherwise."""

    @property
    def device(self) -> int: ...

    def empty(self, shape: Shape, dtype: np.dtype[Any], order: str) -> Any:
        """An uninitialised array for the user, on the current stream."""

    def adopt(self, out: Any) -> Any:
        """``out`` as an array of this runtime over the same memory, None when that is host memory.

        Raises TypeError or ValueError for memory of another device.
        """

    def address(self, array: Any) -> int:
        """Where the first element of an array lies."""

    def broadcast(self, array: Any, shape: Shape) -> Any:
        """A view of an array in a larger shape. ValueError when that is impossible."""

    def assign(self, out: Any, value: Any) -> None:
        """``out[...] = value`` on the current stream, with NumPy's casts."""

    def to_host(self, array: Any) -> NDArray:
        """A copy in host memory; waits for the current stream."""

    def alloc(self, nbytes: int, stream: Stream) -> Buffer:
        """Scratch memory. Raises :class:`DeviceMemoryError`."""

    def pinned(self, nbytes: int) -> NDArray:
        """Page-locked host memory as bytes; may be called by any thread."""

    def new_stream(self) -> Stream:
        """A stream that does not wait for others."""

    def current_stream(self) -> Stream:
        """The stream the caller works on."""

    def upload(self, ptr: int, source: NDArray, stream: Stream) -> None:
        """Copy contiguous bytes to the device; ``source`` must stay as it is until it is done."""

    def download(self, target: NDArray, ptr: int, stream: Stream) -> None:
        """Copy to contiguous host memory; ``target`` is filled when the stream gets there."""

    def launch(
        self, kernel: str, blocks: int, threads: int, args: tuple[Any, ...], stream: Stream
    ) -> None:
        """Queue a kernel of :mod:`zarr_gpu.device.kernels`; ``args`` as declared there."""

    def can_decompress(self, codec: str) -> bool:
        """True when :meth:`decompress` knows ``codec``."""

    def decompress(self, codec: str, streams: Streams, stream: Stream) -> None:
        """Queue a batched decoder: zstd, deflate, gzip, snappy, lz4 or gdeflate."""

    def compress(self, codec: str, streams: Streams, stream: Stream, level: int = -1) -> None:
        """Queue a batched encoder; ``out_nbytes`` are capacities of at least
        :meth:`compress_bound`, ``max_nbytes`` the largest input.
        """

    def compress_max(self, codec: str) -> int:
        """Largest input of :meth:`compress`; 0 when it cannot encode ``codec``."""

    def compress_bound(self, codec: str, nbytes: int) -> int:
        """Largest output of :meth:`compress` for an input of ``nbytes``."""

    def free_nbytes(self) -> int:
        """Device memory that could be allocated now."""


class DeviceMemoryError(RuntimeError):
    """The device has no room for an allocation."""
