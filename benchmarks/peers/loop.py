"""A loop in C as an engine: the same files, codecs and threads, and nothing else.

It shows how much of an engine's time is its own. ``loop.c`` is compiled where it is used, into a
temporary directory; the decoders are those inside numcodecs and isal, called by their addresses.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .engines import Engine, UnsupportedError
from .rows import Dataset
from .sources import NDArray, Shape

SOURCE = Path(__file__).with_name("loop.c")
CODECS = {
    "zstd": (1, "numcodecs.zstd", "ZSTD_createDCtx", "ZSTD_freeDCtx", "ZSTD_decompressDCtx"),
    "blosc": (2, "numcodecs.blosc", "", "", "blosc_decompress_ctx"),
    "numcodecs.lz4": (3, "numcodecs.lz4", "", "", "LZ4_decompress_safe"),
    "isal": (4, "isal.igzip_lib", "isal_inflate_init", "", "isal_inflate_stateless"),
    "zlib": (5, "", "inflateInit2_", "inflateEnd", "inflate"),
}
"""Number in ``loop.c``, module whose library has the functions, and these."""


class Job(ctypes.Structure):
    """``job_t`` of ``loop.c``."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("rank", ctypes.c_int),
        ("files", ctypes.c_int64),
        ("per_file", ctypes.c_int64),
        ("chunk_nbytes", ctypes.c_int64),
        ("itemsize", ctypes.c_int64),
        ("paths", ctypes.POINTER(ctypes.c_char_p)),
        ("offsets", ctypes.c_void_p),
        ("chunk_shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("create", ctypes.c_void_p),
        ("destroy", ctypes.c_void_p),
        ("decode", ctypes.c_void_p),
    )


def compile_loop(compiler: str) -> ctypes.CDLL:
    """The library; a loaded one does not need its file any more."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "loop.so"))
        options = ["-O3", "-march=native", "-shared", "-fPIC", "-pthread"]
        command = [compiler, *options, "-o", path, str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise ImportError(f"the C compiler failed: {done.stderr[-500:]}")
        return ctypes.CDLL(path)


def functions(codec: str) -> tuple[int, list[int | None], Any]:
    """Number and addresses of a codec, and the library that has to stay loaded."""
    if codec == "gzip":
        with contextlib.suppress(ImportError, AttributeError, OSError):
            return functions("isal")
        return functions("zlib")
    number, module, *names = CODECS[codec]
    file = importlib.import_module(module).__file__ if module else "libz.so.1"
    library = ctypes.CDLL(str(file))
    addresses = [
        ctypes.cast(getattr(library, name), ctypes.c_void_p).value if name else None
        for name in names
    ]
    return number, addresses, library


class LoopArray:
    """Everything about an array that can be known before its chunks are read."""

    def __init__(self, path: str, threads: int) -> None:
        meta = json.loads(Path(path, "zarr.json").read_bytes())
        self.shape: Shape = tuple(meta["shape"])
        self.dtype = np.dtype(meta["data_type"])
        outer: Shape = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        codecs, inner = meta["codecs"], outer
        if codecs[0]["name"] == "sharding_indexed":
            inner = tuple(codecs[0]["configuration"]["chunk_shape"])
            codecs = codecs[0]["configuration"]["codecs"]
        files = ["/".join(map(str, index)) for index in indices(self.shape, outer)]
        strides = np.empty(self.shape, np.bool_).strides
        self.strides = np.array(strides, np.int64) * self.dtype.itemsize
        self.chunk_shape = np.array(inner, np.int64)
        within = self.starts(outer, inner)
        self.offsets = (self.starts(self.shape, outer)[:, None] + within).reshape(-1)
        self.paths = (ctypes.c_char_p * len(files))(
            *(os.fsencode(f"{path}/c/{file}") for file in files)
        )
        found: tuple[int, list[int | None], Any] = (
            functions(codecs[1]["name"]) if len(codecs) > 1 else (0, [None] * 3, None)
        )
        number, addresses, self.library = found
        self.job = Job(
            codec=number,
            threads=threads,
            rank=len(self.shape),
            files=len(files),
            per_file=len(within),
            chunk_nbytes=math.prod(inner) * self.dtype.itemsize,
            itemsize=self.dtype.itemsize,
            paths=self.paths,
            offsets=self.offsets.ctypes.data,
            chunk_shape=self.chunk_shape.ctypes.data,
            strides=self.strides.ctypes.data,
            create=addresses[0],
            destroy=addresses[1],
            decode=addresses[2],
        )

    def starts(self, shape: Shape, chunks: Shape) -> NDArray:
        """Byte offset in the output of each chunk of a part of this shape."""
        grid = np.array(list(indices(shape, chunks)), np.int64)
        starts: NDArray = grid * np.array(chunks, np.int64) @ self.strides
        return starts


def indices(shape: Shape, chunks: Shape) -> Iterator[tuple[int, ...]]:
    """Of all chunks; there are no smaller ones at the edges."""
    if any(n % c for n, c in zip(shape, chunks, strict=True)):
        raise ValueError(f"chunks of {chunks} do not divide {shape}")
    return itertools.product(*(range(n // c) for n, c in zip(shape, chunks, strict=True)))


class Loop(Engine):
    package = "numcodecs"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise ImportError("no C compiler")
        self.loop = compile_loop(compiler)
        self.loop.read_all.argtypes = [ctypes.POINTER(Job)]

    def versions(self) -> dict[str, str]:
        return {}

    def check_supported(self, action: str, dataset: Dataset) -> None:
        if action != "whole":
            raise UnsupportedError("whole reads only")

    def open(self, path: str) -> LoopArray:
        return LoopArray(path, self.threads)

    def read(self, array: LoopArray, selection: Any) -> NDArray:
        out = np.empty(array.shape, array.dtype)
        array.job.out = out.ctypes.data
        if self.loop.read_all(ctypes.byref(array.job)) != 0:
            raise OSError("the loop in C could not read a chunk")
        return out
