"""The host backend: fetch, decode and assemble chunk by chunk in worker threads.

Rows of the plan are handed out in runs. A chunk whose place in the output is contiguous is decoded
(or, uncompressed, read) right there; uncompressed chunks are read only as far as selected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import NDArray, Shape
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.host_read import ReadJob
from zarr_gpu.host_write import WriteJob
from zarr_gpu.layout import ArrayLayout, leaf_nbytes
from zarr_gpu.plan import Placement, Plan
from zarr_gpu.stores.base import Store

TASK_NBYTES = 1 << 20
"""Decoded bytes per task: enough to make the 13 us of a pool task disappear."""
SERIAL_NBYTES = 256 << 10
"""Requests below this, against a local store, are done by the calling thread alone."""


class HostBackend:
    """NumPy arrays, numcodecs and threads."""

    name = "host"

    def available(self) -> str | None:
        """Always usable."""
        return None

    def empty(self, shape: Shape, dtype: np.dtype[Any], order: str) -> NDArray:
        """Uninitialised; every element is written by a read, or the read raises."""
        return np.empty(shape, dtype, order="F" if order == "F" else "C")

    def explain(self, layout: ArrayLayout, plan: Plan, store: Store) -> list[str]:
        """Everything happens here."""
        codecs = reversed(layout.levels.leaf.chain.codecs)
        where = "chunks that are contiguous in the output decoded in place"
        lines = [f"  {codec.name:<22} on the host" for codec in codecs]
        return [*lines, f"assemble  on the host, {where}"]

    def adopt(self, out: Any, shape: Shape, dtype: np.dtype[Any]) -> NDArray:
        """``out`` as a writable NumPy array that shares its memory."""
        return as_output(out, shape, dtype)

    def to_host(self, array: Any, dtype: np.dtype[Any]) -> NDArray:
        return np.asarray(array)

    def read(
        self, layout: ArrayLayout, plan: Plan, store: Store, out: NDArray, settings: ArrayConfig
    ) -> None:
        """Fill ``out``; see :class:`~zarr_gpu.backend.Backend`. Raises ChunkError, StoreError."""
        if len(plan) == 0:
            return
        view = plan.selection.work_view(out)
        if view.size and not np.shares_memory(view, out):
            # several-dimensional points in an output that cannot be reshaped in place
            buffer = np.empty(out.shape, out.dtype)
            self.read(layout, plan, store, buffer, settings)
            out[...] = buffer
            return
        job = ReadJob(layout, plan, store, view, settings)
        task: Callable[[Any], None] = job.read_shard if layout.sharded else job.read_rows
        tasks, threads = _tasks(layout, plan, store)
        if layout.sharded:
            segment = plan.segment
            job.segment, job.placement = segment, layout.place(plan, segment)
            tasks = _shard_tasks(job.placement, tasks.step)
        workers.run(task, tasks, threads)

    def prepare(self, value: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
        """Nothing is done beforehand."""

    def write(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: NDArray, settings: ArrayConfig
    ) -> None:
        """Store ``value``; see :class:`~zarr_gpu.backend.Backend`."""
        if len(plan) == 0:
            return
        job = WriteJob(layout, plan, store, plan.selection.work_view(value), settings)
        _, threads = _tasks(layout, plan, store)
        objects = len(job.placement)
        # Encoded objects wait for their task to end, so that durable stores flush them together.
        room = config.current.memory_window_bytes // (threads * leaf_nbytes(layout))
        step = 1 if layout.sharded else max(1, min(64, objects // (4 * threads), room))
        workers.run(job.write_objects, _spans(objects, step), threads)


class _Runs(Iterator[range]):
    """Runs of ``step`` rows each."""

    def __init__(self, n: int, step: int) -> None:
        self.step = step
        self._n = n
        self._at = 0

    def __next__(self) -> range:
        if self._at >= self._n:
            raise StopIteration
        run = range(self._at, min(self._n, self._at + self.step))
        self._at = run.stop
        return run


def _spans(n: int, step: int) -> _Runs:
    return _Runs(n, step)


def _tasks(layout: ArrayLayout, plan: Plan, store: Store) -> tuple[_Runs, int]:
    """Rows in runs, and the number of threads worth using."""
    n = len(plan)
    nbytes = leaf_nbytes(layout)
    threads = workers.thread_count() if store.local else config.current.io_threads
    if store.local and min(nbytes, plan.selection.size * layout.dtype.itemsize) * n < SERIAL_NBYTES:
        threads = 1
    step = max(1, min(TASK_NBYTES // nbytes, -(-n // (4 * threads)))) if threads > 1 else 256
    return _spans(n, step), min(threads, n)


def _shard_tasks(placement: Placement, step: int) -> Any:
    """``(object, rows)``: the rows of one shard, in runs."""
    for number in range(len(placement)):
        first, stop = placement.first[number : number + 2].tolist()
        for start in range(first, stop, step):
            yield number, placement.rows[start : min(stop, start + step)]


def as_output(out: Any, shape: Shape, dtype: np.dtype[Any]) -> NDArray:
    """``out`` as a writable NumPy array of ``shape`` that shares its memory.

    Raises TypeError or ValueError when that is not possible.
    """
    if hasattr(out, "as_ndarray_like"):
        out = out.as_ndarray_like()
    if isinstance(out, np.generic):
        raise TypeError(f"out of type {type(out).__name__} is no writable array")
    if isinstance(out, (bytearray, memoryview)):
        buffer = np.frombuffer(out, np.uint8)
        if buffer.nbytes != math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"out has {buffer.nbytes} bytes, the selection {math.prod(shape) * dtype.itemsize}"
            )
        array: NDArray = buffer.view(dtype).reshape(shape)
    else:
        array = out if isinstance(out, np.ndarray) else np.asarray(out)
        if array is not out and not hasattr(out, "__array_interface__"):
            try:
                array = np.from_dlpack(out)
            except (AttributeError, TypeError, BufferError):
                if not hasattr(out, "__buffer__") and not np.shares_memory(array, np.asarray(out)):
                    raise TypeError(
                        f"out of type {type(out).__name__} is no writable array"
                    ) from None
    if array.shape != shape:
        raise ValueError(f"out has shape {array.shape}, the selection {shape}")
    if not array.flags.writeable:
        raise ValueError("out is read-only")
    if array.dtype != dtype and not np.can_cast(dtype, array.dtype, "same_kind"):
        raise TypeError(f"out has type {array.dtype}, which {dtype} cannot be cast to")
    return array
