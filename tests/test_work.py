"""What a request costs, counted instead of timed: calls, system calls, bytes read, memory.

Each case runs for few and for many chunks; the difference is the cost of a chunk, what is left the
cost of the request. Numbers are held to those in ``work.json``, per minor version of Python since
versions differ in what they call a call. More than 5 % above the record fails; when work was saved
(or has to be spent), ``ZG_RECORD_WORK=1 pytest tests/test_work.py`` writes the record anew.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu import workers
from zarr_gpu.config import config
from zarr_gpu.stores.local import LocalStore

RECORD = Path(__file__).with_name("work.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
FEW, MANY = 4, 20  # chunks along the first of two axes; the other has 16
COLUMNS = 16

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython" or not Path("/proc/self/io").exists(),
    reason="counts what CPython and Linux report",
)

ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
BLOSC = {
    "name": "blosc",
    "configuration": {
        "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0,
    },
}  # fmt: skip


def work(call: Callable[[], object]) -> dict[str, int]:
    """Python functions entered, functions of ``os`` called, and bytes read by ``call()``."""
    calls: Counter[str] = Counter()

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            calls["python"] += 1
        elif event == "c_call" and getattr(argument, "__module__", "") == "posix":
            calls[f"os.{argument.__name__}"] += 1

    gc.collect()
    gc.disable()  # finalizers of other tests are not our work
    before = _bytes_read()
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
        read = _bytes_read() - before
        gc.enable()
    return {**calls, "bytes": read - _OF_ASKING}


def _bytes_read() -> int:
    with open("/proc/self/io", "rb") as file:
        return int(file.readline().split()[1])


def _of_asking() -> int:
    first = _bytes_read()
    return _bytes_read() - first


_OF_ASKING = _of_asking() if Path("/proc/self/io").exists() else 0


def memory(call: Callable[[], object]) -> int:
    """Largest number of bytes allocated at a time, rounded up to KiB."""
    call()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return -(-(tracemalloc.get_traced_memory()[1] - before) // 1024)
    finally:
        tracemalloc.stop()


def make(folder: Path, rows: int, side: int, compressor: Any, shards: bool) -> zarr_gpu.Array:
    shape = (rows * side, COLUMNS * side)
    array = zarr_gpu.create_array(
        LocalStore(folder),
        shape=shape,
        chunks=(side, side),
        shards=(FEW * side, COLUMNS * side) if shards else None,
        dtype="f4",
        compressors=compressor,
        overwrite=True,
    )
    array[...] = values(shape)
    return zarr_gpu.open_array(LocalStore(folder), device="cpu")


def values(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, shape).astype("f4")


READS: dict[str, tuple[int, Any, bool, Callable[[zarr_gpu.Array], object]]] = {
    # side of a chunk in elements of four bytes, compressor, shards, what is done
    "read.none.4K": (32, None, False, lambda a: a[...]),
    "read.zstd.4K": (32, ZSTD, False, lambda a: a[...]),
    "read.zstd.64K": (128, ZSTD, False, lambda a: a[...]),
    "read.blosc.4K": (32, BLOSC, False, lambda a: a[...]),
    "read.shard.blosc.4K": (32, BLOSC, True, lambda a: a[...]),
    "read.blosc.64K": (128, BLOSC, False, lambda a: a[...]),
    "read.shard.none.4K": (32, None, True, lambda a: a[...]),
    "read.shard.zstd.4K": (32, ZSTD, True, lambda a: a[...]),
    "stride.zstd.64K": (128, ZSTD, False, lambda a: a[::7, ::5]),
    "stride.none.64K": (128, None, False, lambda a: a[::7, ::5]),
    "plane.zstd.64K": (128, ZSTD, False, lambda a: a[:, 70]),
    "oindex.zstd.64K": (128, ZSTD, False, lambda a: a.oindex[np.arange(0, a.shape[0], 9)]),
    "vindex.zstd.64K": (
        128,
        ZSTD,
        False,
        lambda a: a.vindex[np.arange(0, a.shape[0], 3), np.arange(0, a.shape[0], 3) % a.shape[1]],
    ),
    "write.none.4K": (32, None, False, lambda a: a.__setitem__(..., values(a.shape))),
    "write.zstd.64K": (128, ZSTD, False, lambda a: a.__setitem__(..., values(a.shape))),
    "write.shard.zstd.4K": (32, ZSTD, True, lambda a: a.__setitem__(..., values(a.shape))),
}
ONE = {
    "element.none.64K": (128, None, False, lambda a: a[200, 70]),
    "element.zstd.64K": (128, ZSTD, False, lambda a: a[200, 70]),
    "element.blosc.64K": (128, BLOSC, False, lambda a: a[200, 70]),
    "element.shard.zstd.4K": (32, ZSTD, True, lambda a: a[50, 40]),
    "chunk.zstd.64K": (128, ZSTD, False, lambda a: a[128:256, 256:384]),
    "append.none.4K": (32, None, False, lambda a: a.append(values((32, a.shape[1])))),
    "open": (32, ZSTD, False, lambda a: zarr_gpu.open_array(a.store, device="cpu")),
}
MEMORY = ["read.zstd.64K", "read.none.4K", "read.shard.zstd.4K", "stride.zstd.64K"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """``sys.setprofile`` watches one thread; what threads do is the same."""
    monkeypatch.setattr(workers, "take_turns", lambda: True)
    with config.set({"threads": 1}):
        yield


def check(name: str, found: dict[str, Any]) -> None:
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if os.environ.get("ZG_RECORD_WORK"):
        record.setdefault(name, {})[VERSION] = found
        ordered = {k: dict(sorted(record[k].items())) for k in sorted(record)}
        RECORD.write_text(json.dumps(ordered, indent=1) + "\n")
        return
    known = record[name].get(VERSION)
    if known is None:
        pytest.skip(f"no numbers were recorded for Python {VERSION}")
    for what, number in found.items():
        slack = 64 if what == "bytes" else 0.01  # asking for the bytes reads some, too
        most = known.get(what, 0)
        assert number <= most * 1.05 + slack, f"{what}: {number}, recorded {most}"


@pytest.mark.parametrize("name", list(READS))
def test_chunks_cost_what_they_did(name, tmp_path):
    side, compressor, shards, do = READS[name]
    counts = []
    for rows in (FEW, MANY):
        array = make(tmp_path / str(rows), rows, side, compressor, shards)
        do(array)  # what is done once: imports, caches, directories
        counts.append(work(lambda array=array: do(array)))
    few, many = counts
    n = (MANY - FEW) * COLUMNS
    per_chunk = {
        what: round((many[what] - few.get(what, 0)) / n, 3)
        for what in sorted(many)
        if many[what] != few.get(what, 0)
    }
    check(name, per_chunk)


@pytest.mark.parametrize("name", list(ONE))
def test_requests_cost_what_they_did(name, tmp_path):
    side, compressor, shards, do = ONE[name]
    array = make(tmp_path, FEW, side, compressor, shards)
    do(array)
    do(array)
    check(name, dict(sorted(work(lambda: do(array)).items())))


@pytest.mark.parametrize("name", MEMORY)
def test_reads_take_the_memory_they_did(name, tmp_path):
    side, compressor, shards, do = READS[name]
    array = make(tmp_path, FEW, side, compressor, shards)
    out = do(array).nbytes // 1024
    check(f"memory.{name}", {"KiB beside the output": memory(lambda: do(array)) - out})


def test_all_bytes_are_counted(tmp_path):
    (tmp_path / "x").write_bytes(bytes(10_000))
    with open(tmp_path / "x", "rb", buffering=0) as file:
        found = work(lambda: os.pread(file.fileno(), 10_000, 0))
    assert 0 <= found.pop("bytes") - 10_000 < 64
    assert found == {"python": 1, "os.pread": 1}
