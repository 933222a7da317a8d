"""Every engine in its own words: opening, creating, selecting, writing, listing.

An engine lives in a process of its own (``child``), so it may set what is global: threads,
pipelines. It knows data sets, but neither rows nor the clock. Libraries are imported by name where
an engine is made: each is optional, and none is to be in another's process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any, ClassVar

from .rows import BLOSC, Dataset
from .sources import NDArray, Shape, dtype_of


class UnsupportedError(Exception):
    """The engine has no such operation; the message is the reason."""


class Engine:
    """An engine whose arrays take selections in brackets; the others override what differs."""

    package: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that are needed besides."""
    format: ClassVar[str] = "zarr"
    per_object: ClassVar[bool] = True
    """Whether each chunk is an object of its own."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.library = importlib.import_module(self.package)

    def versions(self) -> dict[str, str]:
        names = (self.package, *self.requires)
        return {name: importlib.metadata.version(name.replace("_", "-")) for name in names}

    def check_supported(self, action: str, dataset: Dataset) -> None:
        """Raises UnsupportedError for what is known not to work."""

    # -- arrays ------------------------------------------------------------------------------------

    def open(self, path: str) -> Any:
        raise NotImplementedError

    def close(self, array: Any) -> None:
        """After the clock has been stopped."""

    def read(self, array: Any, selection: Any) -> Any:
        """A basic selection."""
        return array[selection]

    def read_rows(self, array: Any, rows: NDArray) -> Any:
        return array.oindex[rows]

    def read_points(self, array: Any, coordinates: tuple[NDArray, ...]) -> Any:
        return array.vindex[coordinates]

    def read_mask(self, array: Any, mask: NDArray) -> Any:
        return array.vindex[mask]

    def create(self, path: str, dataset: Dataset, shape: Shape, scale: str) -> Any:
        raise NotImplementedError

    def write(self, array: Any, selection: Any, values: NDArray) -> None:
        array[selection] = values

    def append(self, array: Any, values: NDArray) -> Any:
        """Along the first axis; returns what to append to next."""
        array.append(values)
        return array

    def flush(self, array: Any) -> None:
        """Hand everything to the operating system."""

    def create_group(self, path: str, dataset: Dataset) -> None:
        """``members`` arrays of one chunk without a value."""
        raise NotImplementedError

    def touch(self, path: str) -> int:
        """Open a group and every member of it; the sum of their lengths."""
        raise NotImplementedError

    def list(self, path: str) -> list[str]:
        """Names of the members of a group."""
        raise NotImplementedError


def limit_blosc(threads: int) -> None:
    """Blosc starts threads of its own when it is called on the main thread."""
    importlib.import_module("numcodecs.blosc").set_nthreads(threads)


class ZarrGpu(Engine):
    package = "zarr_gpu"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.library.config.set({"threads": threads, "device": "cpu"})
        limit_blosc(threads)

    def open(self, path: str) -> Any:
        return self.library.open_array(path, mode="r", device="cpu")

    def create(self, path: str, dataset: Dataset, shape: Shape, scale: str) -> Any:
        return self.library.create_array(
            path,
            shape=shape,
            dtype=dtype_of(dataset.source),
            chunks=dataset.chunk_shape(scale),
            shards=dataset.shard_shape(scale),
            compressors=dataset.compressor(),
            overwrite=True,
        )

    def create_group(self, path: str, dataset: Dataset) -> None:
        group = self.library.create_group(path)
        for i in range(dataset.members):
            group.create_array(f"a{i:04}", shape=(100,), chunks=(100,), dtype="f4")
        if dataset.consolidated:
            self.library.consolidate_metadata(path)

    def touch(self, path: str) -> int:
        group = self.library.open_group(path, mode="r")
        return sum(array.shape[0] for _, array in group.members())

    def list(self, path: str) -> list[str]:
        return sorted(self.library.open_group(path, mode="r").keys())


class ZarrPython(ZarrGpu):
    package = "zarr"
    requires: ClassVar[tuple[str, ...]] = ("numcodecs",)
    pipeline: ClassVar[str] = "zarr.core.codec_pipeline.BatchedCodecPipeline"

    def __init__(self, threads: int) -> None:
        Engine.__init__(self, threads)
        self.library.config.set(
            {
                "threading.max_workers": threads,
                "codec_pipeline.max_workers": threads,
                "codec_pipeline.path": self.pipeline,
            }
        )
        limit_blosc(threads)

    def open(self, path: str) -> Any:
        return self.library.open_array(path, mode="r")


class ZarrPythonFused(ZarrPython):
    pipeline = "zarr.core.codec_pipeline.FusedCodecPipeline"

    def __init__(self, threads: int) -> None:
        module, _, name = self.pipeline.rpartition(".")
        if not hasattr(importlib.import_module(module), name):
            raise ImportError(f"this zarr-python has no {name}")
        super().__init__(threads)

    def check_supported(self, action: str, dataset: Dataset) -> None:
        if dataset.members or action == "open":
            raise UnsupportedError("metadata as zarr-python")


class Zarrs(ZarrPythonFused):
    requires = ("numcodecs", "zarrs")
    pipeline = "zarrs.ZarrsCodecPipeline"

    def __init__(self, threads: int) -> None:
        os.environ["RAYON_NUM_THREADS"] = str(threads)  # read once, by the first use of its pool
        importlib.import_module("zarrs")  # registers the pipeline
        super().__init__(threads)


class TensorStore(Engine):
    package = "tensorstore"
    mode: ClassVar[dict[str, Any]] = {}

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        settings = {
            "data_copy_concurrency": {"limit": threads},
            "file_io_concurrency": {"limit": threads},
            "file_io_sync": False,  # nobody else waits for the disk
            **self.mode,
        }
        self.context = self.library.Context(settings)

    def check_supported(self, action: str, dataset: Dataset) -> None:
        if dataset.codec == "lz4":
            raise UnsupportedError("no codec numcodecs.lz4")
        if dataset.consolidated:
            raise UnsupportedError("no consolidated metadata")

    def spec(self, path: str) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}

    def open(self, path: str) -> Any:
        return self.library.open(self.spec(path), context=self.context, open=True).result()

    def read(self, array: Any, selection: Any) -> Any:
        return array[selection].read().result()

    def read_rows(self, array: Any, rows: NDArray) -> Any:
        return array.oindex[rows].read().result()

    def read_points(self, array: Any, coordinates: tuple[NDArray, ...]) -> Any:
        return array.vindex[coordinates].read().result()

    def read_mask(self, array: Any, mask: NDArray) -> Any:
        return array.vindex[mask].read().result()

    def create(self, path: str, dataset: Dataset, shape: Shape, scale: str) -> Any:
        compressor = dataset.compressor()
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
        codecs += [compressor] if compressor else []
        chunks, shards = dataset.chunk_shape(scale), dataset.shard_shape(scale)
        if shards is not None:
            inner = {"chunk_shape": chunks, "codecs": codecs}
            chunks, codecs = shards, [{"name": "sharding_indexed", "configuration": inner}]
        metadata = {
            "shape": shape,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "data_type": dtype_of(dataset.source).name,
            "codecs": codecs,
        }
        return self.library.open(
            {**self.spec(path), "metadata": metadata},
            context=self.context,
            create=True,
            delete_existing=True,
        ).result()

    def write(self, array: Any, selection: Any, values: NDArray) -> None:
        array[selection].write(values).result()

    def append(self, array: Any, values: NDArray) -> Any:
        before = array.shape[0]
        shape = [before + len(values), *array.shape[1:]]
        array = array.resize(exclusive_max=shape).result()
        array[before:].write(values).result()
        return array

    def touch(self, path: str) -> int:
        opened = [
            self.library.open(self.spec(f"{path}/{name}"), context=self.context, open=True)
            for name in self.list(path)
        ]
        return sum(array.result().shape[0] for array in opened)

    def list(self, path: str) -> list[str]:
        store = {"driver": "file", "path": f"{path}/"}
        keys = self.library.KvStore.open(store, context=self.context).result().list().result()
        return sorted(
            key.removesuffix(b"/zarr.json").decode() for key in keys if key != b"zarr.json"
        )


class TensorStoreMapped(TensorStore):
    mode: ClassVar[dict[str, Any]] = {"file_io_mode": {"mode": "memmap"}}


class Hdf5(Engine):
    package = "h5py"
    format = "h5"
    per_object = False

    def __init__(self, threads: int) -> None:
        os.environ["BLOSC_NTHREADS"] = str(threads)
        super().__init__(threads)
        try:
            self.plugin: Any = importlib.import_module("hdf5plugin")
        except ImportError:
            self.plugin = None

    def versions(self) -> dict[str, str]:
        names = ("h5py", "hdf5plugin") if self.plugin else ("h5py",)
        return {name: importlib.metadata.version(name) for name in names}

    def check_supported(self, action: str, dataset: Dataset) -> None:
        if dataset.shards is not None:
            raise UnsupportedError("no shards")
        if action == "coordinates":
            raise UnsupportedError("no selection of coordinates")
        if dataset.consolidated:
            raise UnsupportedError("metadata is always in one file")
        if self.plugin is None and dataset.codec not in ("none", "gzip"):
            raise UnsupportedError("hdf5plugin is not installed")

    def open(self, path: str) -> Any:
        return self.library.File(path, "r")["values"]

    def close(self, array: Any) -> None:
        array.file.close()

    def read_rows(self, array: Any, rows: NDArray) -> Any:
        return array[rows]

    def read_mask(self, array: Any, mask: NDArray) -> Any:
        return array[mask]

    def filters(self, codec: str) -> dict[str, Any]:
        """Arguments of ``create_dataset``."""
        if codec == "none":
            return {}
        if codec == "gzip":
            return {"compression": "gzip", "compression_opts": 5}
        if codec in BLOSC:
            cname, shuffle = BLOSC[codec]
            blosc = self.plugin.Blosc
            kind = blosc.BITSHUFFLE if shuffle == "bitshuffle" else blosc.SHUFFLE
            return {"compression": blosc(cname=cname, clevel=5, shuffle=kind)}
        filters = {"zstd": lambda: self.plugin.Zstd(clevel=3), "lz4": self.plugin.LZ4}
        return {"compression": filters[codec]()}

    def create(self, path: str, dataset: Dataset, shape: Shape, scale: str) -> Any:
        return self.library.File(path, "w").create_dataset(
            "values",
            shape=shape,
            maxshape=(None, *shape[1:]),
            dtype=dtype_of(dataset.source),
            chunks=dataset.chunk_shape(scale),
            **self.filters(dataset.codec),
        )

    def append(self, array: Any, values: NDArray) -> Any:
        before = len(array)
        array.resize(before + len(values), axis=0)
        array[before:] = values
        return array

    def flush(self, array: Any) -> None:
        array.file.flush()

    def create_group(self, path: str, dataset: Dataset) -> None:
        with self.library.File(path, "w") as file:
            for i in range(dataset.members):
                file.create_dataset(f"a{i:04}", shape=(100,), chunks=(100,), dtype="f4")

    def touch(self, path: str) -> int:
        with self.library.File(path, "r") as file:
            return sum(dataset.shape[0] for dataset in file.values())

    def list(self, path: str) -> list[str]:
        with self.library.File(path, "r") as file:
            return sorted(file)


class Blosc2(Engine):
    package = "blosc2"
    format = "b2nd"
    per_object = False

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.library.set_nthreads(threads)

    def check_supported(self, action: str, dataset: Dataset) -> None:
        if dataset.shards is not None:
            raise UnsupportedError("no shards")
        if dataset.members:
            raise UnsupportedError("no groups")

    def open(self, path: str) -> Any:
        return self.library.open(path, mode="r", dparams={"nthreads": self.threads})

    def read_rows(self, array: Any, rows: NDArray) -> Any:
        return array[rows]

    def read_points(self, array: Any, coordinates: tuple[NDArray, ...]) -> Any:
        return array[coordinates]

    def read_mask(self, array: Any, mask: NDArray) -> Any:
        return array[mask]

    def parameters(self, codec: str) -> dict[str, Any]:
        """Level 2 of its zstd is level 3 of zstd's own; level 9 of its lz4 is acceleration 1."""
        codecs, filters = self.library.Codec, self.library.Filter
        compressor, level, kind = {
            "none": (codecs.LZ4, 0, filters.NOFILTER),
            "zstd": (codecs.ZSTD, 2, filters.NOFILTER),
            "lz4": (codecs.LZ4, 9, filters.NOFILTER),
            "gzip": (codecs.ZLIB, 5, filters.NOFILTER),
            "blosc-lz4": (codecs.LZ4, 5, filters.SHUFFLE),
            "blosc-zstd": (codecs.ZSTD, 5, filters.SHUFFLE),
            "blosc-lz4-bit": (codecs.LZ4, 5, filters.BITSHUFFLE),
        }[codec]
        return {"codec": compressor, "clevel": level, "filters": [kind], "nthreads": self.threads}

    def create(self, path: str, dataset: Dataset, shape: Shape, scale: str) -> Any:
        Path(path).unlink(missing_ok=True)
        return self.library.empty(
            shape,
            dtype=dtype_of(dataset.source),
            chunks=dataset.chunk_shape(scale),
            cparams=self.parameters(dataset.codec),
            dparams={"nthreads": self.threads},
            urlpath=path,
            mode="w",
            contiguous=True,
        )

    def append(self, array: Any, values: NDArray) -> Any:
        before = array.shape[0]
        array.resize((before + len(values), *array.shape[1:]))
        array[before:] = values
        return array
