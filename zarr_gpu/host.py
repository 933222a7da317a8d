"""The host backend: fetch, decode and assemble in worker threads.

Boxes of elements are read block by block (``host_blocks``), everything else row by row
(``host_rows``), in runs. A chunk whose place in the output is contiguous is decoded (or,
uncompressed, read) right there; uncompressed chunks are read only as far as selected. What lies in
one chunk is read at once, by the calling thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, Literal

import numpy as np

from zarr_gpu import tensors, workers
from zarr_gpu._types import NDArray, Shape
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.host_blocks import BlockJob
from zarr_gpu.host_write import WriteJob
from zarr_gpu.host_write_blocks import BlockWriteJob
from zarr_gpu.host_write_shards import ShardWriteJob
from zarr_gpu.layout import ArrayLayout, leaf_nbytes
from zarr_gpu.plan import Placement, Plan
from zarr_gpu.scratch import aligned
from zarr_gpu.stores.base import Store

TASK_NBYTES = 1 << 20
"""Decoded bytes per task: enough to make what a task costs (some 30 us) disappear."""
ROWS_NBYTES = 4 << 20
"""The same for chunks that are used in part, at most."""
MOST_ROWS = 4096
"""Of a task, however small the chunks: keys and indices take some 500 bytes for each."""
PROBE = 2
"""Chunks, used in part, of the first task and of the last ones."""
SHARD_TASK_NBYTES = 4 << 20
"""The same where a task opens a shard and looks up its index."""
QUICK_NBYTES = 256 << 10
"""Chunks up to this size may take so little time that the first ones are watched."""
QUICK_S = 85e-6
"""Threads that share quicker chunks mostly wait for the interpreter lock: two need longer than one
(LZ4 chunks of 64 KiB, 60 us each: half as long again)."""
LARGE_NBYTES = 64 << 10
"""Smaller outputs need no place of their own choice in a page."""
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
        by_column: Literal["C", "F"] = "F" if order == "F" else "C"
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < LARGE_NBYTES or dtype.hasobject:
            return np.empty(shape, dtype, by_column)
        return aligned(nbytes).view(dtype).reshape(shape, order=by_column)

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
        view = plan.selection.work_view(out)
        if plan.selection.reshapes and view.size and not np.shares_memory(view, out):
            # several-dimensional points in an output that cannot be reshaped in place
            buffer = np.empty(out.shape, out.dtype)
            self.read(layout, plan, store, buffer, settings)
            out[...] = buffer
            return
        job = BlockJob(layout, plan, store, view, settings)
        one = plan.one_chunk() if layout.uniform else None
        if one is not None:
            job.read_one(*one)
        elif len(plan):
            _read_many(job)

    def prepare(self, value: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
        """Nothing is done beforehand."""

    def write(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: NDArray, settings: ArrayConfig
    ) -> None:
        """Store ``value``; see :class:`~zarr_gpu.backend.Backend`."""
        if plan.selection.size == 0:
            return
        view = plan.selection.work_view(value)
        kind = ShardWriteJob if layout.sharded else BlockWriteJob
        job = kind(layout, plan, store, view, settings)
        if not job.usable():
            WriteJob(layout, plan, store, view, settings).run()
        elif not layout.sharded and (one := plan.one_chunk()) is not None:
            job.write_one(*one)
        else:
            job.run()


class _Runs(Iterator[range]):
    """Runs of ``step`` rows each, taken from ``threads`` places in turn.

    Threads that begin to fill the same (huge) page of new memory would both clear it.
    """

    def __init__(self, n: int, step: int, threads: int) -> None:
        self._step = step
        self._n = n
        runs = -(-n // step)
        self._far = -(-runs // threads)  # runs from one place to the next
        self._threads = threads
        self._number = 0

    def __next__(self) -> range:
        while self._number < self._far * self._threads:
            at, place = divmod(self._number, self._threads)
            self._number += 1
            start = (place * self._far + at) * self._step
            if start < self._n:
                return range(start, min(self._n, start + self._step))
        raise StopIteration


class _Shrinking(Iterator[range]):
    """Runs of at most ``step`` rows: a short one, to be watched, then shorter and shorter ones, so
    that all threads end at the same time.
    """

    def __init__(self, n: int, step: int, threads: int) -> None:
        self._most = step
        self._n = n
        self._at = 0
        self._threads = threads

    def __next__(self) -> range:
        left = self._n - self._at
        if not left:
            raise StopIteration
        wanted = left // (3 * self._threads) if self._at else PROBE
        start = self._at
        self._at += min(left, self._most, max(PROBE, wanted))
        return range(start, self._at)


def _threads(layout: ArrayLayout, plan: Plan, store: Store) -> int:
    """The number of threads worth using."""
    n = len(plan)
    nbytes = min(leaf_nbytes(layout), plan.selection.size * layout.dtype.itemsize)
    if not store.local:
        return min(config.current.io_threads, n)
    return 1 if nbytes * n < SERIAL_NBYTES else min(workers.thread_count(), n)


def _read_many(job: BlockJob) -> None:
    """Several chunks, by several threads where that pays."""
    layout, store = job.layout, job.store
    nbytes = leaf_nbytes(layout)
    threads = _threads(layout, job.plan, store)
    task, items, rows_of = _tasks(job, threads)
    if threads > 1 and store.local and nbytes <= QUICK_NBYTES and workers.take_turns():
        first = next(items)
        start = perf_counter()
        task(first)
        if not job.together and perf_counter() - start < rows_of(first) * QUICK_S:
            threads = 1
    workers.run(task, items, threads)


def _tasks(
    job: BlockJob, threads: int
) -> tuple[Callable[[Any], None], Iterator[Any], Callable[[Any], int]]:
    """What a thread does, with what, and how many chunks that are."""
    layout, plan = job.layout, job.plan
    n, nbytes = len(plan), leaf_nbytes(layout)
    # Rows per task: many enough, and few enough for all threads to end at the same time.
    step = max(1, min(TASK_NBYTES // nbytes, -(-n // (4 * threads)))) if threads > 1 else 256
    if layout.sharded:
        step = max(step, min(-(-n // threads), SHARD_TASK_NBYTES // nbytes))
        if job.usable():
            boxes = job.shard_tasks(max(step, job.most))
            return job.read_shard_box, boxes, lambda box: math.prod(map(len, box[1]))
        job.segment = plan.segment
        job.placement = layout.place(plan, job.segment)
        return job.read_shard, _shard_tasks(job.placement, step), lambda some: len(some[1])
    if job.usable() and all(job.whole):
        blocks, most = job.grid, math.prod(job.grid.per)
        runs = _Runs(len(blocks), max(1, step // most), threads)
        return job.read_blocks, runs, lambda run: len(run) * most
    if threads > 1 and job.store.local:
        step = min(MOST_ROWS, max(step, ROWS_NBYTES // nbytes))
        return job.read_run, _Shrinking(n, step, threads), len
    return job.read_run, _Runs(n, min(MOST_ROWS, step), threads), len


def _shard_tasks(placement: Placement, step: int) -> Any:
    """``(object, rows)``: the rows of one shard, in runs."""
    for number in range(len(placement)):
        first, stop = placement.first[number : number + 2].tolist()
        for start in range(first, stop, step):
            yield number, placement.rows[start : min(stop, start + step)]


def check_places(array: Any, shape: Shape) -> None:
    """Raise ValueError unless an array has a place of its own for every element."""
    if array.shape != shape:
        raise ValueError(f"out has shape {array.shape}, the selection {shape}")
    if array.size and any(n > 1 and not s for n, s in zip(shape, array.strides, strict=True)):
        raise ValueError("out has several elements in the same place")


def as_output(out: Any, shape: Shape, dtype: np.dtype[Any]) -> NDArray:
    """``out`` as a writable NumPy array of ``shape`` that shares its memory.

    Raises TypeError or ValueError when that is not possible.
    """
    if hasattr(out, "as_ndarray_like"):
        out = out.as_ndarray_like()
    if tensors.is_torch(out):
        out = tensors.output_of(out)
    if isinstance(out, np.generic) or tensors.is_jax(out):
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
    check_places(array, shape)
    if not array.flags.writeable:
        raise ValueError("out is read-only")
    if array.dtype != dtype and not np.can_cast(dtype, array.dtype, "same_kind"):
        raise TypeError(f"out has type {array.dtype}, which {dtype} cannot be cast to")
    return array
