"""What grows with the number of chunks, and what must not: planning, reading, opening, resizing.

    python -m benchmarks.scaling              # less than a minute
    python -m benchmarks.scaling --save       # also benchmarks/results/scaling-DATE.json

Chunks are tiny and in memory, or missing, so that times are those of this package and not of a
codec or a disk; of several runs, the fastest counts. `tests/test_scaling.py` holds the same to
counts of calls and bytes; here nothing is asserted.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import zarr_gpu
from zarr_gpu.indexing import parse_basic, parse_coordinate, parse_orthogonal
from zarr_gpu.metadata.grids import RegularAxis
from zarr_gpu.plan import make_plan

from .peers.machine import commit, load, machine  # type: ignore[import-not-found]  # as a module
from .peers.report import table  # type: ignore[import-not-found]

RESULTS = Path(__file__).parent / "results"
SIDE = 4
"""Elements along both axes of a chunk."""
PLANNED = (10**4, 10**5, 10**6)
"""Chunks of arrays of which all are planned for, or read."""
ADDRESSED = (10**2, 10**4, 10**8, 10**12)
"""Chunks of arrays of which a few are read."""
GOALS = {"plan": 1.0, "read": 15.0}
"""Microseconds a chunk."""
TRACED = 0.3
"""Seconds; tracing allocations makes runs several times as long, so longer ones are not traced."""

Case: TypeAlias = tuple[str, int, Callable[[], object]]


def best(do: Callable[[], object], seconds: float = 0.1, most: int = 100) -> float:
    """Seconds of the fastest run; of the only one where it is long."""
    found: list[float] = []
    while not found or (sum(found) < seconds and len(found) < most):
        begin = time.perf_counter()
        do()
        found.append(time.perf_counter() - begin)
    return min(found)


def peak(do: Callable[[], object]) -> int:
    """Most bytes allocated at a time."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        do()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def square(chunks: int, **arguments: Any) -> zarr_gpu.Array:
    side = round(chunks**0.5) * SIDE
    return zarr_gpu.create_array(
        {},
        shape=(side, side),
        chunks=(SIDE, SIDE),
        dtype="f4",
        fill_value=1,
        device="cpu",
        **arguments,
    )


# -- what may grow with the number of chunks ----------------------------------------------------


def columns(selection: Any, grids: Any) -> list[Any]:
    """All that a plan can say, which is more than any read asks."""
    plan = make_plan(selection, grids)
    segment = plan.segment
    return [plan.chunk, plan.chunk_start, plan.out_start, plan.extent, plan.complete(segment)]


def plans(chunks: int) -> Iterator[Case]:
    n = round(chunks**0.5)
    shape, grids = (n * SIDE,) * 2, (RegularAxis(n * SIDE, SIDE),) * 2
    first = np.arange(0, n * SIDE, SIDE)
    points = np.random.default_rng(0).integers(0, n * SIDE, (2, n * n))
    for name, selection in (
        ("everything", parse_basic(..., shape)),
        ("orthogonal", parse_orthogonal((first, first), shape)),
        ("coordinates", parse_coordinate(tuple(points), shape)),
    ):
        yield f"plan, {name}", n * n, partial(columns, selection, grids)


def reads(chunks: int) -> Iterator[Case]:
    missing = square(chunks)
    stored = square(chunks, compressors=None)
    n = stored.nchunks
    values = np.arange(stored.size, dtype="f4").reshape(stored.shape)
    yield "read, all chunks missing", n, lambda: missing[...]
    yield "write, raw chunks in memory", n, lambda: stored.__setitem__(..., values)
    yield "read, raw chunks in memory", n, lambda: stored[...]
    if n < max(PLANNED):
        packed = square(chunks)
        packed[...] = values
        first = np.arange(0, stored.shape[0], SIDE)
        yield "read, zstd chunks in memory", n, lambda: packed[...]
        yield "read an element of every chunk", n, lambda: stored[::SIDE, ::SIDE]
        yield "the same, orthogonal", n, lambda: stored.oindex[first, first]
        mesh = tuple(axis.ravel() for axis in np.meshgrid(first, first, indexing="ij"))
        yield "the same, coordinates", n, lambda: stored.vindex[mesh]


# -- what must not -------------------------------------------------------------------------------


def requests(chunks: int) -> Iterator[Case]:
    array = square(chunks)
    array[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = 5
    line = zarr_gpu.create_array(
        {}, shape=chunks * SIDE, chunks=SIDE, dtype="f4", fill_value=1, device="cpu"
    )
    part = slice(SIDE, 2 * SIDE)

    def resize() -> None:
        line.resize(chunks * SIDE + 10**4 * SIDE + 1)
        line.resize(chunks * SIDE)

    found: dict[str, Callable[[], object]] = {
        "a stored element": lambda: array[SIDE, SIDE],
        "a missing element": lambda: array[-1, -1],
        "a stored chunk": lambda: array[part, part],
        "a box in 9 chunks": lambda: array[2:10, 2:10],
        "3 x 2 rows and columns": lambda: array.oindex[[1, 5, 39], [3, 38]],
        "3 points": lambda: array.vindex[[1, 5, 39], [3, 5, 38]],
        "write an element": lambda: array.__setitem__((SIDE, SIDE), 3),
        "open": lambda: zarr_gpu.open_array(array.store, device="cpu"),
        "len, nchunks, cdata_shape": lambda: (len(array), array.nchunks, array.cdata_shape),
        "repr, info": lambda: (repr(array), repr(array.info)),
        "first of an iteration": lambda: next(iter(line)),
        "resize by 10,000 chunks and back": resize,
    }
    for name, do in found.items():
        yield name, chunks, do


# -- all of it -----------------------------------------------------------------------------------


def measure(cases: Iterator[Case]) -> Iterator[dict[str, Any]]:
    for name, chunks, do in cases:
        found: dict[str, Any] = {"row": name, "chunks": chunks, "seconds": best(do)}
        if found["seconds"] < TRACED:
            found["peak"] = peak(do)
        yield found


def lines(found: Sequence[dict[str, Any]], sizes: Sequence[int], *, each: bool) -> list[list[str]]:
    """A row for each name: microseconds (``each``: of a chunk), then bytes."""
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in found:
        size = min(sizes, key=lambda n: abs(n - entry["chunks"]))
        by_name.setdefault(entry["row"], {})[size] = entry
    out = []
    for name, entries in by_name.items():
        cells = [name]
        for what, form, scale in (("seconds", "{:.3g}", 1e6), ("peak", "{:.0f}", 1)):
            for size in sizes:
                entry = entries.get(size, {})
                value = entry.get(what)
                share = entry.get("chunks", 1) if each else 1
                cells.append("" if value is None else form.format(value * scale / share))
        out.append(cells)
    return out


def header(sizes: Sequence[int], unit: str) -> list[str]:
    powers = [f"10^{len(str(size)) - 1}" for size in sizes]
    return ["", *(f"{p}: us{unit}" for p in powers), *(f"{p}: bytes{unit}" for p in powers)]


def report() -> dict[str, Any]:
    found: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "load_before": load(),
        "versions": {n: importlib.metadata.version(n) for n in ("zarr_gpu", "numcodecs", "numpy")},
        "goals_us_per_chunk": GOALS,
    }
    found["growing"] = [
        entry for make in (plans, reads) for n in PLANNED for entry in measure(make(n))
    ]
    found["constant"] = [entry for n in ADDRESSED for entry in measure(requests(n))]
    found["load_after"] = load()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS.name}/")
    options = parser.parse_args()
    found = report()
    print(f"{found['commit']}, load {found['load_before']} - {found['load_after']}\n")
    print("Work and memory of one chunk, in arrays of so many chunks:\n")
    print(table(header(PLANNED, " a chunk"), lines(found["growing"], PLANNED, each=True)))
    print("Work and memory of one request, in arrays of so many chunks:\n")
    print(table(header(ADDRESSED, ""), lines(found["constant"], ADDRESSED, each=False)))
    if options.save:
        path = RESULTS / f"scaling-{found['began'][:10]}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
