"""The runtime of a real card: CuPy for memory, streams and launches, nvCOMP for batched codecs.

Deliberately thin, because nothing in it can be executed without a card: each method is one or two
calls of a library. What decides anything lives in modules that the tests execute.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from zarr_gpu._types import NDArray, Shape
from zarr_gpu.device import compiler, detect, kernels, nvcomp
from zarr_gpu.device.runtime import DeviceMemoryError, Event, Stream, Streams
from zarr_gpu.errors import DeviceUnavailableError
from zarr_gpu.tensors import is_torch

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType


def to_numpy(array: Any) -> NDArray:
    """A host copy of an array on any device."""
    import cupy

    result: NDArray = cupy.asnumpy(cupy.asarray(array))
    return result


class CudaEvent:
    """A CUDA event without timing."""

    __slots__ = ("_event",)

    def __init__(self, event: Any) -> None:
        self._event = event

    def done(self) -> bool:
        return bool(self._event.done)

    def wait(self) -> None:
        self._event.synchronize()

    @property
    def native(self) -> Any:
        return self._event


class CudaStream:
    """A CuPy stream of one device."""

    __slots__ = ("_device", "native")

    def __init__(self, device: int, native: Any) -> None:
        self._device = device
        self.native = native

    def record(self) -> CudaEvent:
        import cupy

        with cupy.cuda.Device(self._device):
            # block: a waiting thread sleeps, as others have chunks to decode
            event = cupy.cuda.Event(block=True, disable_timing=True)
            event.record(self.native)
        return CudaEvent(event)

    def wait(self, event: Event) -> None:
        self.native.wait_event(event.native)  # type: ignore[attr-defined]  # a CudaEvent


class CudaBuffer:
    """Memory of CuPy's pool, which gives it out again in the order of its stream."""

    __slots__ = ("_memory", "nbytes", "ptr")

    def __init__(self, memory: Any, nbytes: int) -> None:
        self._memory = memory
        self.ptr = int(memory.ptr)
        self.nbytes = nbytes


class CudaRuntime:
    """One card; implements :class:`~zarr_gpu.device.runtime.Runtime`."""

    def __init__(self, device: int) -> None:
        import cupy

        detect.mark_used()
        self.device = device
        self._cupy = cupy
        self._arch = int(self._on().compute_capability)
        self._kernel = cache(self._load)

    def _on(self) -> Any:
        """The device as a context; a new one each time, as threads must not share one."""
        return self._cupy.cuda.Device(self.device)

    def _load(self, kernel: str) -> Any:
        path = compiler.cubin_path(kernels.file_of(kernel), self._arch)
        with self._on():
            return self._cupy.RawModule(path=str(path)).get_function(kernel)

    # -- arrays -----------------------------------------------------------------------------------

    def empty(self, shape: Shape, dtype: np.dtype[Any], order: str) -> Any:
        with self._on():
            return self._cupy.empty(shape, dtype, order=order)

    def adopt(self, out: Any) -> Any:
        if isinstance(out, self._cupy.ndarray):
            array = out
        elif not is_torch(out) and hasattr(out, "__cuda_array_interface__"):
            with self._on():
                array = self._cupy.asarray(out)
        elif hasattr(out, "__dlpack_device__"):  # of PyTorch's two, the one that knows its stream
            kind, number = out.__dlpack_device__()
            if kind not in (_CUDA, _CUDA_MANAGED):
                return None
            if number != self.device:
                raise ValueError(f"out is on cuda:{number}, the array on cuda:{self.device}")
            with self._on():
                array = self._cupy.from_dlpack(out)
        else:
            return None
        if array.device.id != self.device:
            raise ValueError(f"out is on cuda:{array.device.id}, the array on cuda:{self.device}")
        return array

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def broadcast(self, array: Any, shape: Shape) -> Any:
        return self._cupy.broadcast_to(array, shape)

    def assign(self, out: Any, value: Any) -> None:
        with self._on():
            out[...] = value

    def to_host(self, array: Any) -> NDArray:
        result: NDArray = self._cupy.asnumpy(array)
        return result

    # -- memory -----------------------------------------------------------------------------------

    def alloc(self, nbytes: int, stream: Stream) -> CudaBuffer:
        error = self._cupy.cuda.memory.OutOfMemoryError
        with self._on(), stream.native:  # type: ignore[attr-defined]  # a CudaStream
            try:
                memory = self._cupy.cuda.alloc(nbytes)
            except error:
                self._cupy.get_default_memory_pool().free_all_blocks()
                try:
                    memory = self._cupy.cuda.alloc(nbytes)
                except error as last:
                    raise DeviceMemoryError(str(last)) from last
        return CudaBuffer(memory, nbytes)

    def pinned(self, nbytes: int) -> NDArray:
        with self._on():
            memory = self._cupy.cuda.alloc_pinned_memory(nbytes)
        return np.frombuffer(memory, np.uint8, nbytes)

    def free_nbytes(self) -> int:
        with self._on():
            free = int(self._cupy.cuda.runtime.memGetInfo()[0])
            return free + int(self._cupy.get_default_memory_pool().free_bytes())

    # -- order ------------------------------------------------------------------------------------

    def new_stream(self) -> CudaStream:
        with self._on():
            return CudaStream(self.device, self._cupy.cuda.Stream(non_blocking=True))

    def current_stream(self) -> CudaStream:
        with self._on():
            return CudaStream(self.device, self._cupy.cuda.get_current_stream())

    # -- work -------------------------------------------------------------------------------------

    def upload(self, ptr: int, source: NDArray, stream: Stream) -> None:
        self._copy(ptr, source.ctypes.data, source.nbytes, _HOST_TO_DEVICE, stream)

    def download(self, target: NDArray, ptr: int, stream: Stream) -> None:
        self._copy(target.ctypes.data, ptr, target.nbytes, _DEVICE_TO_HOST, stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: int, stream: Stream) -> None:
        if nbytes:
            with self._on():
                self._cupy.cuda.runtime.memcpyAsync(
                    target,
                    source,
                    nbytes,
                    kind,
                    stream.native.ptr,  # type: ignore[attr-defined]
                )

    def launch(
        self, kernel: str, blocks: int, threads: int, args: tuple[Any, ...], stream: Stream
    ) -> None:
        with self._on(), stream.native:  # type: ignore[attr-defined]
            self._kernel(kernel)((blocks,), (threads,), kernels.pack(kernel, args))

    def can_decompress(self, codec: str) -> bool:
        try:
            return nvcomp.load().decompress_max_nbytes(codec) > 0
        except (DeviceUnavailableError, ImportError, ValueError):
            return False

    def decompress(self, codec: str, streams: Streams, stream: Stream) -> None:
        library = nvcomp.load()
        with self._on():
            nbytes = library.decompress_temp_nbytes(
                codec, streams.n, streams.max_nbytes, streams.total_nbytes
            )
            temp = self.alloc(max(1, nbytes), stream)
            library.decompress(codec, streams, temp.ptr, nbytes, stream.native.ptr)  # type: ignore[attr-defined]

    def compress(self, codec: str, streams: Streams, stream: Stream, level: int = -1) -> None:
        library = nvcomp.load()
        with self._on():
            nbytes = library.compress_temp_nbytes(
                codec, streams.n, streams.max_nbytes, streams.total_nbytes, level
            )
            temp = self.alloc(max(1, nbytes), stream)
            library.compress(codec, streams, temp.ptr, nbytes, stream.native.ptr, level)  # type: ignore[attr-defined]

    def compress_max(self, codec: str) -> int:
        try:
            return nvcomp.load().compress_max_nbytes(codec)
        except (DeviceUnavailableError, ImportError, ValueError):
            return 0

    def compress_bound(self, codec: str, nbytes: int) -> int:
        return nvcomp.load().compress_bound(codec, nbytes)
