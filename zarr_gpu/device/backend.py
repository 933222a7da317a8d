"""The device backend: arrays on one device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zarr_gpu import tensors, workers
from zarr_gpu._types import NDArray, Shape
from zarr_gpu.config import ArrayConfig
from zarr_gpu.device import assemble, policy
from zarr_gpu.device.dtypes import as_stored, device_dtype
from zarr_gpu.device.engine import Engine
from zarr_gpu.device.read import DeviceRead, Target
from zarr_gpu.device.runtime import DeviceMemoryError
from zarr_gpu.device.wave import Wave
from zarr_gpu.device.write import DeviceWrite
from zarr_gpu.host import HostBackend, check_places
from zarr_gpu.host_write import WriteJob
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Plan
from zarr_gpu.stores.base import Store

_host = HostBackend()


class DeviceBackend:
    """Arrays of a :class:`~zarr_gpu.device.runtime.Runtime`; see ``zarr_gpu.backend.Backend``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runtime = engine.runtime

    @property
    def name(self) -> str:
        return f"cuda:{self.runtime.device}"

    def explain(self, layout: ArrayLayout, plan: Plan, store: Store) -> list[str]:
        """What the device does, or why the host does it."""
        codecs = [codec.name for codec in reversed(layout.levels.leaf.chain.codecs)]
        on = f"on {self.name}"
        small = policy.small(layout, plan)
        reason = small or policy.reason(self.runtime, layout, plan, store)
        if reason is None:
            lines = [f"  {name:<22} {on}" for name in codecs]
            return [*lines, f"assemble  {on}, all chunks of a wave in one launch"]
        lines = [f"  {name:<22} on the host" for name in codecs]
        done = "on the host, then copied up" if small else f"{on}, from decoded chunks"
        return [*lines, f"          because {reason}", f"assemble  {done}"]

    def available(self) -> str | None:
        return None

    def empty(self, shape: Shape, dtype: np.dtype[Any], order: str) -> Any:
        """Uninitialised, on the current stream. Raises UnsupportedError for types without one."""
        return self._empty(shape, device_dtype(dtype), order)

    def _empty(self, shape: Shape, dtype: np.dtype[Any], order: str = "C") -> Any:
        try:
            with self.engine.lock:
                return self.runtime.empty(shape, dtype, order)
        except DeviceMemoryError as error:
            raise MemoryError(str(error)) from error

    def _assign(self, out: Any, value: Any) -> None:
        with self.engine.lock:
            self.runtime.assign(out, value)

    def adopt(self, out: Any, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """``out`` as an array of the device, or of the host when that is where its memory is."""
        own = None
        if tensors.is_torch(out) and out.is_cuda:
            out, own = tensors.device_words(tensors.writable(out))
        elif tensors.is_jax(out):
            raise TypeError("arrays of JAX cannot be written to")
        array = self.runtime.adopt(out)
        if array is None:
            return _host.adopt(out, shape, dtype)
        own = array.dtype if own is None else own
        check_places(array, shape)
        castable = np.can_cast(device_dtype(dtype), array.dtype, "same_kind")
        if not castable or not _numbers_or_same_bits(dtype, array.dtype, own):
            raise TypeError(f"out has type {own}, which {dtype} cannot be cast to")
        return array

    def to_host(self, array: Any, dtype: np.dtype[Any]) -> NDArray:
        """A NumPy array with elements of the stored type; waits for the current stream."""
        if self.runtime.adopt(array) is None:
            return np.asarray(array)
        return as_stored(self.runtime.to_host(array), dtype)

    def read(
        self, layout: ArrayLayout, plan: Plan, store: Store, out: Any, settings: ArrayConfig
    ) -> None:
        """Fill ``out``; when this returns, it is ordered on the current stream."""
        if len(plan) == 0:
            return
        if self.runtime.adopt(out) is None:
            _host.read(layout, plan, store, out, settings)
            return
        dtype = device_dtype(_element(layout, plan))
        view = plan.selection.work_view(out)
        if out.dtype != dtype or self.runtime.address(view) not in _inside(self.runtime, out):
            # a cast, or several-dimensional points in an output that cannot be reshaped in place
            buffer = self._empty(out.shape, dtype)
            self.read(layout, plan, store, buffer, settings)
            self._assign(out, buffer)
            return
        target = Target(self.runtime.address(view), view.strides)
        if policy.small(layout, plan):
            self._read_small(layout, plan, store, target, dtype, settings)
        else:
            DeviceRead(self.engine, layout, plan, store, target, settings).run()

    def _read_small(
        self,
        layout: ArrayLayout,
        plan: Plan,
        store: Store,
        target: Target,
        dtype: np.dtype[Any],
        settings: ArrayConfig,
    ) -> None:
        """Read on the host into page-locked memory, copy up, and spread out there."""
        shape = plan.selection.shape
        nbytes = math.prod(shape) * dtype.itemsize
        slab = self.engine.slabs.acquire(nbytes)
        try:
            stored = _element(layout, plan)
            buffer = slab.array[:nbytes].view(dtype).reshape(shape)
            _host.read(layout, plan, store, buffer.view(stored.newbyteorder("=")), settings)
        except Exception:
            slab.release()
            raise
        except BaseException:  # an interrupt may come while threads still write
            slab.forget()
            raise
        with self.engine.lock:
            stream = self.runtime.current_stream()
        try:
            done = False
            while not done:
                try:
                    with self.engine.lock:
                        self._spread(slab.array[:nbytes], plan.selection.work_view(buffer), target)
                    done = True
                except DeviceMemoryError as error:
                    if not self.engine.make_room(1):
                        raise MemoryError(str(error)) from error
        finally:
            with self.engine.lock:
                slab.retire(stream.record())

    def _spread(self, memory: NDArray, work: NDArray, target: Target) -> None:
        """Queue the copy of ``work``, which lies in page-locked ``memory``, into the output."""
        stream = self.runtime.current_stream()
        wave = Wave(self.runtime, stream, self.engine.tables, 0)
        address = wave.scratch(memory.nbytes)
        self.runtime.upload(address, memory, stream)
        first = work.ctypes.data - memory.ctypes.data if work.size else 0
        table = assemble.array_table(
            address + first, work.shape, work.strides, target.address, target.strides,
            work.itemsize,
        )  # fmt: skip
        wave.assemble(assemble.simplify(table))
        wave.submit()

    def prepare(self, value: Any, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """A value that is on this device, cast and broadcast there; None for all others."""
        own = None
        if tensors.is_torch(value) and value.is_cuda:
            value, own = tensors.device_words(tensors.resolved(value))
        array = self.runtime.adopt(value)
        if array is None:
            return None
        wanted = device_dtype(dtype)
        own = array.dtype if own is None else own
        if not _numbers_or_same_bits(dtype, array.dtype, own):
            return None  # converted on the host
        if array.dtype != wanted:
            cast = self._empty(array.shape, wanted)
            self._assign(cast, array)
            array = cast
        while array.ndim > len(shape) and array.shape[0] == 1:  # NumPy drops leading axes of one
            array = array[0]
        return self.runtime.broadcast(array, shape)

    def write(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: Any, settings: ArrayConfig
    ) -> None:
        """Store ``value``, an array of the device or of the host.

        What does not end up in the store by way of the device is written by the host.
        """
        if len(plan) == 0:
            return
        array = self.runtime.adopt(value)
        if array is not None and self._write_device(layout, plan, store, array, settings):
            return
        _host.write(layout, plan, store, self.to_host(value, _element(layout, plan)), settings)

    def _write_device(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: Any, settings: ArrayConfig
    ) -> bool:
        """Write whole objects from the device and others from the host; False: nothing was done."""
        encoder = policy.encoder(self.runtime, layout, plan)
        if encoder is None:
            return False
        view = plan.selection.work_view(value)
        if any(axis.index is not None for axis in plan.axes):
            return False
        job = WriteJob(layout, plan, store, None, settings)  # type: ignore[arg-type]
        whole = job.whole_objects()
        if not whole.any():
            return False
        fill = layout.fill_array.astype(encoder.dtype).tobytes()
        skip = not settings.write_empty_chunks and layout.metadata.fill_value is not None
        address = self.runtime.address(view)
        write = DeviceWrite(self.engine, job, encoder, address, view.strides, fill, skip_empty=skip)
        left = write.run(np.flatnonzero(whole))
        rest = np.concatenate([left, np.flatnonzero(~whole)])
        if len(rest):
            job.value = plan.selection.work_view(self.to_host(value, _element(layout, plan)))
            threads = workers.thread_count()
            workers.run(lambda i: job.write_objects(range(i, i + 1)), rest.tolist(), threads)
        return True


def _element(layout: ArrayLayout, plan: Plan) -> np.dtype[Any]:
    return layout.dtype if plan.fields is None else layout.dtype[plan.fields]


def _numbers_or_same_bits(stored: Any, found: np.dtype[Any], own: np.dtype[Any]) -> bool:
    """False where integers on the device stand for something else, and would be converted.

    ``found`` is the type of an array on the device, ``own`` that of the elements it stands for.
    """
    wanted, native = device_dtype(stored), stored.newbyteorder("=")
    return own == found if wanted == native else found == wanted and own in (native, wanted)


def _inside(runtime: Any, array: Any) -> range:
    """Addresses between the lowest and the highest element of an array."""
    first = runtime.address(array)
    low = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True) if s < 0)
    high = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True) if s > 0)
    return range(first + low, first + high + 1)
