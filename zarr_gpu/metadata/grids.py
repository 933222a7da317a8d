"""Chunk grids: where chunks begin and end, one :class:`Axis` per dimension.

An axis answers for whole columns of chunk numbers or element indexes at once, so that a plan of a
million chunks costs a few NumPy calls. Sources: Zarr v3 core "regular" and the registered
extension "rectilinear".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from zarr_gpu._types import JSON, Int64, Shape


@dataclass(frozen=True, slots=True)
class RegularAxis:
    """Equal chunks of ``chunk`` elements over ``length`` elements; the last may hang over."""

    length: int
    chunk: int

    @property
    def count(self) -> int:
        """Number of chunks that hold at least one element."""
        return -(-self.length // self.chunk)

    def chunk_of(self, index: Int64) -> Int64:
        """Chunk number of each element index."""
        return index // self.chunk

    def start(self, chunk: Int64) -> Int64:
        """First element of each chunk."""
        return chunk * self.chunk

    def extent(self, chunk: Int64) -> Int64:
        """Stored length of each chunk, overhang included."""
        return np.full(np.shape(chunk), self.chunk, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class EdgesAxis:
    """Chunks of given lengths; ``edges`` holds the first element of each chunk and the end."""

    length: int
    edges: Int64

    @property
    def count(self) -> int:
        return int(np.searchsorted(self.edges, self.length, "left"))

    def chunk_of(self, index: Int64) -> Int64:
        return np.searchsorted(self.edges, index, "right").astype(np.int64) - 1

    def start(self, chunk: Int64) -> Int64:
        return self.edges[chunk]

    def extent(self, chunk: Int64) -> Int64:
        return self.edges[np.asarray(chunk) + 1] - self.edges[chunk]


Axis: TypeAlias = RegularAxis | EdgesAxis


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularGrid:
    """All chunks have ``chunk_shape``."""

    chunk_shape: Shape

    def axes(self, shape: Shape) -> tuple[Axis, ...]:
        return tuple(RegularAxis(n, c) for n, c in zip(shape, self.chunk_shape, strict=True))

    def to_json(self) -> JSON:
        return {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class RectilinearGrid:
    """Chunk lengths listed per dimension; a bare int repeats over the whole dimension.

    ``chunk_shapes`` keeps the lists with run lengths expanded; ``document`` the JSON it came from,
    so that a rewrite says what was read.
    """

    chunk_shapes: tuple[int | tuple[int, ...], ...]
    document: JSON = field(default=None, compare=False)

    def axes(self, shape: Shape) -> tuple[Axis, ...]:
        return tuple(
            RegularAxis(n, c) if isinstance(c, int) else _edges(n, c)
            for n, c in zip(shape, self.chunk_shapes, strict=True)
        )

    def to_json(self) -> JSON:
        if self.document is not None:
            return self.document
        shapes: list[JSON] = [
            c if isinstance(c, int) else run_length_encode(c) for c in self.chunk_shapes
        ]
        return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": shapes}}


ChunkGrid: TypeAlias = RegularGrid | RectilinearGrid


def _edges(length: int, chunks: Sequence[int]) -> EdgesAxis:
    edges = np.concatenate(([0], np.cumsum(np.asarray(chunks, np.int64)))).astype(np.int64)
    if edges[-1] < length:
        raise ValueError(f"chunk lengths add up to {edges[-1]}, less than the array's {length}")
    return EdgesAxis(length, edges)


def run_length_encode(chunks: Sequence[int]) -> list[JSON]:
    """``[10, 10, 10, 4]`` -> ``[[10, 3], 4]``, as zarr-python writes it."""
    out: list[JSON] = []
    i = 0
    while i < len(chunks):
        j = i
        while j < len(chunks) and chunks[j] == chunks[i]:
            j += 1
        out.append([chunks[i], j - i] if j - i > 1 else chunks[i])
        i = j
    return out
