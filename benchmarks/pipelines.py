"""The codec pipelines of zarr-python (its two, zarrs' and ours) below the tools people use.

    python -m benchmarks.pipelines                 # a minute or two
    python -m benchmarks.pipelines --rounds 11 --save

zarr-python, xarray and dask read and write the same data (a smooth field with noise, ``float32``)
in local files, in the page cache, first with one pipeline and then with the next: pipelines take
turns in every round, in all orders in turn, so that what else the machine does meets all of them.
``direct`` is zarr_gpu without zarr-python between: ``zarr_gpu.open_array``, ``zarr_gpu.to_dask``,
``xarray.open_dataset(engine="zarr_gpu")``, ``ds.zarr_gpu.to_zarr``.

What was read is compared bit by bit with what was written, and what each wrote is read by
zarr-python's default. Printed are medians in milliseconds and how many times as fast as
zarr-python's default pipeline each one is; a pipeline whose package is missing is left out.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import cycle, permutations
from pathlib import Path
from typing import Any

import numpy as np

from zarr_gpu._types import NDArray

from .peers.machine import load  # type: ignore[import-not-found]  # as a module
from .results_file import save  # type: ignore[import-not-found]  # as a module

PACKAGES = ("zarr-gpu", "zarr", "zarrs", "numcodecs", "xarray", "dask", "numpy")
PIPELINES = {
    "default": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
    "zarr_gpu": "zarr_gpu.interop.zarr_python.CodecPipeline",
}
DIRECT = "direct"
SHAPE = (64, 512, 768)
CHUNKS = (8, 128, 256)
SMALL = (4, 64, 64)
SHARDS = (32, 256, 768)
Run = Callable[[], object]


def layouts() -> dict[str, dict[str, Any]]:
    """Arguments of ``zarr.create_array``."""
    from zarr.codecs import BloscCodec, ZstdCodec

    zstd = ZstdCodec(level=3)
    return {
        "zstd, 1 MiB": {"chunks": CHUNKS, "compressors": zstd},
        "zstd, 64 KiB": {"chunks": SMALL, "compressors": zstd},
        "zstd, 64 KiB in shards": {"chunks": SMALL, "shards": SHARDS, "compressors": zstd},
        "blosc lz4, 1 MiB": {
            "chunks": CHUNKS,
            "compressors": BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4),
        },
        "uncompressed, 1 MiB": {"chunks": CHUNKS, "compressors": None},
    }


def field() -> NDArray:
    """Waves and noise, rounded as measurements are."""
    rng = np.random.default_rng(0)
    t, y, x = (np.linspace(0, 12, n, dtype=np.float32) for n in SHAPE)
    wave = np.sin(t)[:, None, None] + np.cos(y)[:, None] * np.sin(3 * x)
    noise = rng.standard_normal(SHAPE, dtype=np.float32)
    out: NDArray = np.round((wave + 0.01 * noise) * 500) / np.float32(500)
    return out


@contextmanager
def pipeline(name: str) -> Iterator[None]:
    """zarr-python with that pipeline, for arrays that are opened meanwhile."""
    import zarr

    if name == DIRECT:
        yield
        return
    with zarr.config.set({"codec_pipeline.path": PIPELINES[name]}):
        yield


def available() -> list[str]:
    """The pipelines that can be measured here."""
    from zarr.core import codec_pipeline

    names = ["default"]
    if hasattr(codec_pipeline, "FusedCodecPipeline"):
        names.append("fused")
    if find_spec("zarrs") is not None:
        names.append("zarrs")
    return [*names, "zarr_gpu", DIRECT]


class Bench:
    """One layout, stored in ``folder``; what is measured of it, and how that is checked."""

    def __init__(self, folder: Path, kwargs: Mapping[str, Any], values: NDArray) -> None:
        import xarray
        import zarr

        self.folder = folder
        self.kwargs = kwargs
        self.values = values
        self.path = folder / "data.zarr"
        self.dims = ("t", "y", "x")
        group = zarr.create_group(self.path)
        group.create_array(
            "field", shape=SHAPE, dtype="float32", dimension_names=self.dims, **kwargs
        )[...] = values
        zarr.consolidate_metadata(self.path)
        self.dataset = xarray.Dataset({"field": (self.dims, values)})
        rng = np.random.default_rng(1)
        self.points = [tuple(int(rng.integers(n)) for n in SHAPE) for _ in range(200)]
        self.rows = np.sort(rng.choice(SHAPE[1], 100, replace=False))

    def array(self, name: str) -> Any:
        import zarr

        import zarr_gpu

        library = zarr_gpu if name == DIRECT else zarr
        return library.open_array(self.path / "field", mode="r")

    def reads(self, name: str) -> dict[str, tuple[Run, NDArray]]:
        """What is read, and what it has to be; of the pipeline that is on now."""
        import dask.array
        import xarray

        import zarr_gpu

        a = self.array(name)
        v = self.values
        box = (slice(5, 50), slice(100, 400), slice(30, 700))
        chunked = self.dataset_of(name, chunks=True)
        lazy = (zarr_gpu.to_dask if name == DIRECT else dask.array.from_zarr)(a)
        found: dict[str, tuple[Run, NDArray]] = {
            "zarr: all": (lambda: a[...], v),
            "zarr: a box, 1/3": (lambda: a[box], v[box]),
            "zarr: 200 elements": (
                lambda: [a[p] for p in self.points],
                np.array([v[p] for p in self.points]),
            ),
            "zarr: oindex, 100 rows": (
                lambda: a.oindex[:, self.rows, :300],
                v[:, self.rows, :300],
            ),
            "xarray: open and load": (
                lambda: self.dataset_of(name)["field"].load().to_numpy(),
                v,
            ),
        }
        if self.kwargs["chunks"] != SMALL:  # of small chunks, dask's own tasks take most
            found["xarray + dask: mean over t"] = (
                lambda: chunked["field"].mean("t").compute().to_numpy(),
                xarray.DataArray(v).mean("dim_0").to_numpy(),
            )
            found["dask: from_zarr, max"] = (
                lambda: np.asarray(lazy.max().compute(scheduler="threads")),
                v.max(),
            )
        return found

    def dataset_of(self, name: str, *, chunks: bool = False) -> Any:
        import xarray

        engine = "zarr_gpu" if name == DIRECT else "zarr"
        return xarray.open_dataset(self.path, engine=engine, chunks={} if chunks else None)

    def writes(self, name: str) -> dict[str, tuple[Run, Callable[[], NDArray]]]:
        """What is written, and how it is read again."""
        import zarr

        import zarr_gpu.interop.xarray_accessor

        target = self.folder / f"written-{name}"
        kwargs = dict(self.kwargs)
        array = (zarr_gpu if name == DIRECT else zarr).create_array(
            target / "zarr", shape=SHAPE, dtype="float32", overwrite=True, **kwargs
        )
        encoding = {"chunks": kwargs["chunks"], "compressors": (kwargs["compressors"],)}
        if kwargs["compressors"] is None:
            encoding["compressors"] = ()
        if "shards" in kwargs:
            encoding["shards"] = kwargs["shards"]

        def whole() -> None:
            array[...] = self.values

        def part() -> None:
            array[1:40, 3:300, 5:700] = self.values[1:40, 3:300, 5:700]

        def dataset() -> None:
            (self.dataset.zarr_gpu if name == DIRECT else self.dataset).to_zarr(
                target / "xarray", mode="w", encoding={"field": encoding}, consolidated=False
            )

        def again(folder: str) -> Callable[[], NDArray]:
            return lambda: np.asarray(zarr.open(target / folder, mode="r")[...])

        return {
            "zarr: write all": (whole, again("zarr")),
            "zarr: write a box, partial chunks": (part, again("zarr")),
            "xarray: to_zarr": (dataset, again("xarray/field")),
        }


def measure(bench: Bench, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of every action and pipeline; raises where bits differ."""
    runs: dict[str, dict[str, Run]] = {}
    for name in names:
        with pipeline(name):
            for action, (read, expected) in bench.reads(name).items():
                same(read(), expected, f"{name}, {action}")
                runs.setdefault(action, {})[name] = read
            for action, (write, read_again) in bench.writes(name).items():
                try:
                    write()
                except Exception as error:
                    if name in ("zarr_gpu", DIRECT):
                        raise
                    print(f"{name} cannot do {action}: {type(error).__name__}: {error}")
                    continue
                with pipeline("default"):
                    same(read_again(), bench.values, f"{name}, {action}")
                runs.setdefault(action, {})[name] = write
    return {action: take_turns(each, rounds) for action, each in runs.items()}


def same(found: Any, expected: NDArray, what: str) -> None:
    """Raise where the elements have other bits."""
    found = np.asarray(found)
    close = "mean" in what  # summed up in another order
    good = np.allclose(found, expected, atol=1e-3) if close else np.array_equal(found, expected)
    if found.shape != expected.shape or not good:
        raise AssertionError(f"{what}: other elements")


def take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    orders = cycle(permutations(runs))
    for _ in range(rounds):
        for name in next(orders):
            gc.collect()
            with pipeline(name):
                start = time.perf_counter()
                result = runs[name]()
                times[name].append(1e3 * (time.perf_counter() - start))
            del result
    return {name: statistics.median(taken) for name, taken in times.items()}


def report(layout: str, rows: Mapping[str, Mapping[str, float]], names: list[str]) -> None:
    """Print a table."""
    print(f"\n{layout}\n{'':36}" + "".join(f"{name:>16}" for name in names))
    for action, row in rows.items():
        cells = [
            f"{row[n]:9.1f} {row['default'] / row[n]:5.2f}x" if n in row else "-" for n in names
        ]
        print(f"{action:36}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> int:
    """Parse arguments, measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="layouts with this in their name")
    parser.add_argument("--save", action="store_true", help="into results/")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = available()
    values = field()
    tables: dict[str, Any] = {}
    before = load()
    print(f"{values.nbytes / 1e6:.0f} MB, {options.rounds} rounds; median ms, times the default")
    for layout, kwargs in layouts().items():
        if options.only and options.only not in layout:
            continue
        folder = Path(tempfile.mkdtemp())
        try:
            tables[layout] = measure(Bench(folder, kwargs, values), names, options.rounds)
        finally:
            shutil.rmtree(folder)
        report(layout, tables[layout], names)
    if options.save:
        found = {"shape": SHAPE, "rounds": options.rounds, "unit": "median milliseconds"}
        save("pipelines", PACKAGES, {"load_before": before, **found, "tables": tables})
    return 0


if __name__ == "__main__":
    sys.exit(main())
