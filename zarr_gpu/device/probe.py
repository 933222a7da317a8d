# ruff: noqa: T201 - a program that prints
"""How fast this machine feeds a card: three copies, measured for a few seconds.

A program of its own (``python -m zarr_gpu.device.probe``), so that whoever wants the figures can
stop it when a driver hangs. Knows nothing of arrays and codecs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from zarr_gpu._types import NDArray

NBYTES = 128 << 20
"""Of each copy: large enough to hide the cost of starting one."""


def copies(cupy: Any, pinned: NDArray, seconds: float) -> dict[str, float]:
    """Bytes per second from page-locked memory to the device, and inside the device."""
    runtime, nbytes = cupy.cuda.runtime, pinned.nbytes
    stream = cupy.cuda.Stream(non_blocking=True)
    first, second = (cupy.empty(nbytes, "u1") for _ in range(2))

    def copy(target: int, source: int, kind: int) -> Callable[[], None]:
        return lambda: runtime.memcpyAsync(target, source, nbytes, kind, stream.ptr)

    upload = copy(first.data.ptr, pinned.ctypes.data, runtime.memcpyHostToDevice)
    inside = copy(second.data.ptr, first.data.ptr, runtime.memcpyDeviceToDevice)
    return {
        "host_to_device": rate(upload, stream.synchronize, nbytes, seconds / 2),
        "device_to_device": rate(inside, stream.synchronize, nbytes, seconds / 2),
    }


def page_cache(target: NDArray, threads: int, seconds: float, folder: str | None = None) -> float:
    """Bytes per second from a file in the page cache to ``target``, read by ``threads``."""
    part = -(-target.nbytes // threads)
    starts = range(0, target.nbytes, part)
    view = memoryview(target.view("u1").reshape(-1))
    with tempfile.TemporaryDirectory(dir=folder) as place, ThreadPoolExecutor(threads) as pool:
        path = Path(place, "probe")
        path.write_bytes(view)

        def read(start: int) -> None:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                wanted = view[start : start + part]
                while wanted.nbytes:  # one call may give less
                    wanted = wanted[file.readinto(wanted) :]

        def step() -> None:
            list(pool.map(read, starts))

        return rate(step, lambda: None, target.nbytes, seconds)


def rate(
    step: Callable[[], object], finish: Callable[[], object], nbytes: int, seconds: float
) -> float:
    """Bytes per second of ``step``, repeated for about ``seconds``, after one that warms up.

    Steps may be queued: ``finish`` waits for them, four at a time.
    """
    step()
    finish()
    done, begin = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - begin < seconds:
        for _ in range(4):
            step()
        finish()
        done += 4
    return done * nbytes / (time.perf_counter() - begin)


def measure(index: int, seconds: float) -> dict[str, Any]:
    """All three on device ``index``; starts CUDA."""
    import cupy

    threads = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    with cupy.cuda.Device(index):
        pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(NBYTES), "u1", NBYTES)
        pinned[:] = 1
        return {
            **copies(cupy, pinned, seconds * 0.6),
            "page_cache_to_pinned": page_cache(pinned, threads, seconds * 0.4),
            "threads": threads,
            "nbytes": NBYTES,
        }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2]))))
