"""The threads of the process: one bounded pool, shared by all reads and writes.

The calling thread always takes part in its own work, so a request never waits for a thread: a full
pool, nested requests and a pool lost in a fork all just mean fewer helpers.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from zarr_gpu.config import config

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 256
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def thread_count() -> int:
    """Decoding threads of the process: the setting ``threads``, or one per usable core."""
    wanted: int = config.current.threads
    if wanted > 0:
        return min(wanted, MAX_THREADS)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def take_turns() -> bool:
    """True in an interpreter that runs Python code of one thread at a time."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _get_pool() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - the one pool of the process
    with _lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor  # slow to import

            _pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="zarr_gpu")
        return _pool


def _after_fork() -> None:
    """A child has none of its parent's threads, and may hold a copy of a locked lock."""
    global _pool, _lock  # noqa: PLW0603 - the one pool of the process
    _pool = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def submit(task: Callable[[T], R], item: T) -> Future[R]:
    """Start ``task(item)`` on another thread. It may :func:`run` others, but not wait for one."""
    return _get_pool().submit(task, item)


def run(task: Callable[[T], object], items: Iterable[T], threads: int) -> None:
    """Call ``task`` on every item, on at most ``threads`` threads including this one.

    The first exception stops the rest and is raised; tasks under way are waited for, so nothing
    touches the caller's buffers after the return.
    """
    source = iter(items)
    if threads <= 1:
        for item in source:
            task(item)
        return
    guard = threading.Lock()
    failed = threading.Event()

    def work() -> None:
        while not failed.is_set():
            with guard:
                try:
                    item = next(source)
                except StopIteration:
                    return
            try:
                task(item)
            except BaseException:
                failed.set()
                raise

    pool = _get_pool()
    futures: list[Future[None]] = [pool.submit(work) for _ in range(threads - 1)]
    error: BaseException | None = None
    try:
        work()
    except BaseException as mine:  # noqa: BLE001 - raised again below, after the helpers stopped
        error = mine
    for future in futures:
        if future.cancel():
            continue
        other = future.exception()
        error = error or other
    if error is not None:
        raise error
