"""What an array says about itself without touching its chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zarr_gpu._types import Shape
from zarr_gpu.codecs.chain import CodecChain
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.grids import Axis, RegularGrid
from zarr_gpu.node import Node
from zarr_gpu.nodes import StorePath


class ArrayDescription(Node):
    """Identity, geometry and encoding of an array: properties answered from its metadata."""

    def __init__(
        self, store_path: StorePath, layout: ArrayLayout, settings: ArrayConfig, device: str
    ) -> None:
        super().__init__(store_path)
        self._layout = layout
        self._settings = settings
        self._device = device

    # -- identity ---------------------------------------------------------------------------------

    @property
    def metadata(self) -> ArrayMetadata:
        """The array's document; replaced, never changed."""
        return self._layout.metadata

    @property
    def config(self) -> ArrayConfig:
        """Run-time settings of this object."""
        return self._settings

    @property
    def device(self) -> str:
        """The device asked for at opening."""
        return self._device

    # -- geometry ---------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """Length of every axis."""
        return self.metadata.shape

    @property
    def ndim(self) -> int:
        return len(self.metadata.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.metadata.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the elements, in the byte order in which they are returned."""
        return self._layout.dtype

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, uncompressed."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> Shape:
        """Shape of the chunks; of the inner chunks of a sharded array."""
        layouts = self._layout.levels.layouts
        if layouts:
            return layouts[0].inner.spec.shape
        return self._regular("chunks")

    @property
    def shards(self) -> Shape | None:
        """Shape of the shards, None when the array has none."""
        return self._regular("shards") if self._layout.sharded else None

    def _regular(self, what: str) -> Shape:
        grid = self.metadata.chunk_grid
        if not isinstance(grid, RegularGrid):
            raise UnsupportedError(
                f"{what}: the chunk grid of array {self.name!r} is rectilinear; "
                "see read_chunk_sizes and write_chunk_sizes"
            )
        return grid.chunk_shape

    @property
    def cdata_shape(self) -> Shape:
        """Number of chunks along every axis (of inner chunks, when sharded)."""
        return tuple(axis.count for axis in self._chunk_axes)

    @property
    def nchunks(self) -> int:
        """Number of chunks (of inner chunks, when sharded)."""
        return math.prod(self.cdata_shape)

    @property
    def _chunk_axes(self) -> tuple[Axis, ...]:
        layouts = self._layout.levels.layouts
        if not layouts:
            return self._layout.object_axes
        return RegularGrid(chunk_shape=layouts[0].inner.spec.shape).axes(self.shape)

    @property
    def read_chunk_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Lengths of the chunks along every axis, the last one clipped; as dask writes chunks."""
        return chunk_sizes(self._chunk_axes)

    @property
    def write_chunk_sizes(self) -> tuple[tuple[int, ...], ...]:
        """The same for what is written as one object: shards, where there are any."""
        return chunk_sizes(self._layout.object_axes)

    # -- encoding ---------------------------------------------------------------------------------

    @property
    def fill_value(self) -> Any:
        """Value of elements never written; None in v2 means undefined (they read as zero)."""
        return self.metadata.fill_value

    @property
    def order(self) -> str:
        """Memory layout of returned arrays: stored in v2, a setting in v3."""
        return self.metadata.v2.order if self.metadata.v2 else self._settings.order

    @property
    def filters(self) -> tuple[Any, ...]:
        """array -> array codecs; in v2 the filters' numcodecs configurations."""
        if self.metadata.v2 is not None:
            return tuple(map(json.copied, self.metadata.v2.filters or ()))
        return self._inner_chain.array_array

    @property
    def serializer(self) -> Any:
        """The array -> bytes codec; None in v2."""
        return None if self.metadata.v2 is not None else self._inner_chain.array_bytes

    @property
    def compressors(self) -> tuple[Any, ...]:
        """bytes -> bytes codecs; in v2 the compressor's numcodecs configuration."""
        if self.metadata.v2 is not None:
            return (self.compressor,) if self.metadata.v2.compressor else ()
        return self._inner_chain.bytes_bytes

    @property
    def compressor(self) -> Any:
        """The compressor of a v2 array. TypeError for v3, which has :attr:`compressors`."""
        if self.metadata.v2 is None:
            raise TypeError("`compressor` is for Zarr format 2; use `compressors`")
        return json.copied(self.metadata.v2.compressor)

    @property
    def _inner_chain(self) -> CodecChain:
        """The codecs that act on :attr:`chunks`."""
        layouts = self._layout.levels.layouts
        return layouts[0].inner.chain if layouts else self._layout.levels.leaf.chain


def chunk_sizes(axes: Sequence[Axis]) -> tuple[tuple[int, ...], ...]:
    """Lengths of the chunks inside the array, axis by axis."""
    out = []
    for axis in axes:
        chunk = np.arange(axis.count, dtype=np.int64)
        start = axis.start(chunk)
        out.append(tuple(np.minimum(axis.extent(chunk), axis.length - start).tolist()))
    return tuple(out)
