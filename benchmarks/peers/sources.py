"""The values that are stored: made once per run as ``.npy`` files, the same on every machine.

Knows neither engines nor layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]
Shape = tuple[int, ...]

BLOCK = 4 << 20
"""Elements that are made at a time."""

SHAPES: dict[str, dict[str, Shape]] = {
    "full": {
        "field": (8192, 16384),  # 512 MiB
        "cube": (512, 512, 512),
        "small": (3200, 6400),  # 20,000 chunks of 32 x 32
        "band": (4096, 8192),  # 128 MiB
        "tiny": (1600, 3200),  # 5,000 chunks of 32 x 32
        "image": (8192, 8192),
        "counter": (4096, 8192),
        "random": (4096, 8192),
        "slabs": (200, 16384),  # 64 KiB each
    },
    "quick": {
        "field": (4096, 4096),
        "cube": (256, 256, 256),
        "small": (800, 3200),
        "band": (2048, 2048),
        "tiny": (800, 800),
        "image": (2048, 4096),
        "counter": (2048, 2048),
        "random": (2048, 2048),
        "slabs": (25, 16384),
    },
}
DTYPES = {"image": "uint16", "counter": "int32", "random": "uint32"}
"""Of the sources that are not float32."""


def dtype_of(source: str) -> np.dtype[Any]:
    return np.dtype(DTYPES.get(source, "float32"))


def smooth(rng: np.random.Generator, start: int, n: int, width: int) -> NDArray:
    """A field that varies slowly along both axes, with noise; 15 bits of mantissa are kept.

    Codecs make half of it, as of much that is measured: zstd 2.1, lz4 1.4, gzip 2.0, shuffled
    bytes with lz4 2.1 and with zstd 2.8 times smaller.
    """
    index = np.arange(start, start + n, dtype=np.int64)
    row, column = np.divmod(index, width)
    values = 280 + 20 * np.sin(row * np.float32(0.002)) * np.cos(column * np.float32(0.003))
    values = values.astype(np.float32) + rng.standard_normal(n, np.float32) * np.float32(3)
    bits = (values.view(np.uint32) + np.uint32(0x80)) & np.uint32(0xFFFFFF00)
    return bits.view(np.float32)


def image(rng: np.random.Generator, start: int, n: int, width: int) -> NDArray:
    """Counts of a sensor: a bright background with the noise of photons."""
    row, column = np.divmod(np.arange(start, start + n, dtype=np.int64), width)
    light = 600 + 400 * np.sin(row * np.float32(0.004)) * np.sin(column * np.float32(0.005))
    noise = np.sqrt(light) * rng.standard_normal(n, np.float32)
    return np.asarray((light + noise).clip(0, 65535), np.uint16)


def counter(rng: np.random.Generator, start: int, n: int, width: int) -> NDArray:
    """Time stamps: nearly regular steps."""
    return np.asarray(np.arange(start, start + n) * 7 + rng.integers(0, 4, n), np.int32)


def noise(rng: np.random.Generator, start: int, n: int, width: int) -> NDArray:
    """Bits that no codec can compress."""
    return rng.integers(0, 2**32, n, np.uint32)


MAKERS: dict[str, Callable[[np.random.Generator, int, int, int], NDArray]] = {
    "image": image,
    "counter": counter,
    "random": noise,
}


def make_source(folder: Path, source: str, scale: str) -> Path:
    """The ``.npy`` file of this source, which is made if it is not there."""
    path = folder / f"{source}.npy"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    shape = SHAPES[scale][source]
    partial = path.with_suffix(".partial")
    values = np.lib.format.open_memmap(partial, "w+", dtype_of(source), shape)
    flat, total = values.reshape(-1), math.prod(shape)
    make = MAKERS.get(source, smooth)
    for start in range(0, total, BLOCK):
        n = min(BLOCK, total - start)
        rng = np.random.default_rng([sorted(SHAPES[scale]).index(source), start])
        flat[start : start + n] = make(rng, start, n, shape[-1])
    values.flush()
    del values, flat
    partial.replace(path)  # a run that was cut off leaves no half source behind
    return path


def load_source(path: Path) -> NDArray:
    """A view of the file: all engines' processes share its pages."""
    values: NDArray = np.load(path, mmap_mode="r")
    return values


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays hold the same bytes; slices keep the temporaries small."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.ndim == 0:
        return bool(a.tobytes() == b.tobytes())
    kind = f"u{a.dtype.itemsize}"
    step = max(1, (8 << 20) // max(1, a[:1].nbytes))
    return all(
        np.array_equal(
            np.ascontiguousarray(a[i : i + step]).view(kind),
            np.ascontiguousarray(b[i : i + step]).view(kind),
        )
        for i in range(0, len(a), step)
    )
