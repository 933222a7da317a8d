"""From ``shape=``, ``chunks=`` and ``shards=`` to the shape of an array and its chunks.

Pure. ``"auto"`` chooses what zarr-python 3.4 chooses.

>>> guess_chunks((10000, 10000), 8)
(313, 625)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from zarr_gpu._types import Shape
from zarr_gpu.config import config
from zarr_gpu.metadata.grids import ChunkGrid, RectilinearGrid, RegularGrid


def parse_shape(shape: Any) -> Shape:
    """An int or a sequence of ints; ValueError for negative ones."""
    items = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    out = tuple(_dimension(n) for n in items)
    if any(n < 0 for n in out):
        raise ValueError(f"shape must not be negative, found {shape!r}")
    return out


def _dimension(n: Any) -> int:
    if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"shape and chunks are made of integers, found {n!r}")
    return int(n)


def guess_chunks(shape: Shape, itemsize: int) -> Shape:
    """Chunks for ``chunks="auto"``: halve axis after axis until near the target size.

    The target grows with the array, 256 KiB at 1 MiB and doubling with every factor of ten,
    within 128 KiB and 64 MiB (the formula of PyTables, as h5py and zarr-python use it).
    """
    chunks = [max(1, n) for n in shape]
    if itemsize == 0 or not chunks:
        return tuple(chunks)
    total = math.prod(chunks) * itemsize
    target = 256 * 1024 * 2.0 ** math.log10(total / 2**20)
    target = min(max(target, 128 * 1024), 64 * 2**20)
    axis = 0
    while True:
        nbytes = math.prod(chunks) * itemsize
        near = nbytes < target or abs(nbytes - target) / target < 0.5
        if (near and nbytes < 64 * 2**20) or math.prod(chunks) == 1:
            return tuple(chunks)
        chunks[axis % len(chunks)] = -(-chunks[axis % len(chunks)] // 2)
        axis += 1


def parse_chunks(chunks: Any, shape: Shape, itemsize: int) -> ChunkGrid:
    """``"auto"``/True/None, False (one chunk), an int for all axes, a tuple, or lists per axis.

    -1 and None in a tuple span the axis. A list of lengths in any axis gives a rectilinear grid.
    """
    if isinstance(chunks, np.ndarray):
        chunks = chunks.tolist()
    if chunks is True or chunks is None or (isinstance(chunks, str) and chunks == "auto"):
        return RegularGrid(chunk_shape=guess_chunks(shape, itemsize))
    if chunks is False:
        return RegularGrid(chunk_shape=tuple(max(1, n) for n in shape))
    if isinstance(chunks, str):
        raise ValueError(
            f"chunks: expected 'auto', integers or lists of integers, found {chunks!r}"
        )
    if isinstance(chunks, (int, np.integer)):
        chunks = (chunks,) * len(shape)
    chunks = tuple(chunks)
    if len(chunks) != len(shape):
        raise ValueError(f"chunks {chunks} has {len(chunks)} axes, the array {len(shape)}")
    if any(isinstance(c, Iterable) for c in chunks):
        parts = tuple(_axis_chunks(c, n) for c, n in zip(chunks, shape, strict=True))
        return RectilinearGrid(chunk_shapes=parts)
    return RegularGrid(
        chunk_shape=tuple(_axis_chunk(c, n) for c, n in zip(chunks, shape, strict=True))
    )


def _axis_chunk(chunk: Any, length: int) -> int:
    if chunk is None or chunk == -1:
        return max(1, length)
    count = _dimension(chunk)
    if count < 1:
        raise ValueError(
            f"chunk lengths must be positive (or -1 for the whole axis), found {count}"
        )
    return count


def _axis_chunks(chunks: Any, length: int) -> int | tuple[int, ...]:
    if not isinstance(chunks, Iterable):
        return _axis_chunk(chunks, length)
    out: list[int] = []
    for item in chunks:
        if isinstance(item, Iterable):  # run length: [chunk, repeat]
            chunk, repeat = item
            out += [_axis_chunk(chunk, length)] * _dimension(repeat)
        else:
            out.append(_axis_chunk(item, length))
    if sum(out) < length:
        raise ValueError(f"chunk lengths {out} add up to {sum(out)}, the axis has {length}")
    return tuple(out)


def parse_shards(
    shards: Any, shape: Shape, chunks: Shape, itemsize: int
) -> tuple[Any, dict[str, Any]]:
    """Outer chunks, and arguments of the sharding codec (its codecs as given), for ``shards=``.

    "auto", a shape, or a mapping with ``shape``, ``index_location`` and ``index_codecs``.
    """
    options: dict[str, Any] = {}
    if isinstance(shards, Mapping):
        given = shards.get("index_location", "end")
        options["index_location"] = str(getattr(given, "value", given))
        if shards.get("index_codecs") is not None:
            options["index_codecs"] = tuple(shards["index_codecs"])
        shards = shards["shape"]
    if isinstance(shards, str) or shards is True:
        if shards not in ("auto", True):
            raise ValueError(f"shards: expected 'auto', a shape or a mapping, found {shards!r}")
        return _guess_shards(shape, chunks, itemsize), options
    if isinstance(shards, (int, np.integer)):
        shards = (int(shards),) * len(shape)
    return tuple(shards), options


def _guess_shards(shape: Shape, chunks: Shape, itemsize: int) -> Shape:
    target = config.current.target_shard_size_bytes
    if target is None:
        return tuple(c * 2 if n // c > 8 else c for n, c in zip(shape, chunks, strict=True))
    nbytes = math.prod(chunks) * itemsize
    factor = 1
    while (
        chunks
        and 0 < nbytes * (factor + 1) ** len(chunks) <= target
        and all(c * (factor + 1) <= n for n, c in zip(shape, chunks, strict=True))
    ):
        factor += 1
    return tuple(c * factor for c in chunks)
