"""The host backend: fetch, decode and assemble chunk by chunk in worker threads.

Rows of the plan are handed out in runs. A chunk whose place in the output is contiguous is decoded
(or, uncompressed, read) right there; uncompressed chunks are read only as far as selected.
"""

from __future__ import annotations

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

    def available(self) -> str | None:
        """Always usable."""
        return None

    def empty(self, shape: Shape, dtype: np.dtype[Any], order: str) -> NDArray:
        """Uninitialised; every element is written by a read, or the read raises."""
        return np.empty(shape, dtype, order="F" if order == "F" else "C")

    def to_host(self, array: Any) -> NDArray:
        return np.asarray(array)

    def read(
        self, layout: ArrayLayout, plan: Plan, store: Store, out: NDArray, settings: ArrayConfig
    ) -> None:
        """Fill ``out``; see :class:`~zarr_gpu.backend.Backend`. Raises ChunkError, StoreError."""
        if len(plan) == 0:
            return
        job = ReadJob(layout, plan, store, out, settings)
        task: Callable[[Any], None] = job.read_shard if layout.sharded else job.read_rows
        tasks, threads = _tasks(layout, plan, store)
        if layout.sharded:
            segment = plan.segment
            job.segment, job.placement = segment, layout.place(plan, segment)
            tasks = _shard_tasks(job.placement, tasks.step)
        workers.run(task, tasks, threads)

    def write(
        self, layout: ArrayLayout, plan: Plan, store: Store, value: NDArray, settings: ArrayConfig
    ) -> None:
        """Store ``value``; see :class:`~zarr_gpu.backend.Backend`."""
        if len(plan) == 0:
            return
        job = WriteJob(layout, plan, store, value, settings)
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
