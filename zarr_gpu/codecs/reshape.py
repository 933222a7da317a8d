"""``reshape``: another shape for the same elements in C order (zarr-extensions, "reshape")."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from zarr_gpu._types import JSON, NDArray, Shape
from zarr_gpu.codecs._members import check_names
from zarr_gpu.codecs.base import ArrayArrayCodec, ChunkSpec
from zarr_gpu.metadata.problems import is_int, is_list, show

Extent: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class ReshapeCodec(ArrayArrayCodec):
    """Each entry of ``shape`` is a size, -1 (once: what is left), or input dimensions to merge.

    >>> ReshapeCodec(((0, 1), (2,), 3)).resolve((100, 50, 64, 3))
    (5000, 64, 3)
    """

    name: ClassVar[str] = "reshape"

    shape: tuple[Extent, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> ReshapeCodec:
        check_names(config, required=("shape",))
        entries = config["shape"]
        if not is_list(entries):
            raise ValueError(f"shape: expected a list, found {show(entries)}")
        return cls(tuple(_extent(entry) for entry in entries))

    def __post_init__(self) -> None:
        if self.shape.count(-1) > 1:
            raise ValueError("shape: -1 may occur only once")
        dims = [d for extent in self.shape if isinstance(extent, tuple) for d in extent]
        if any(a >= b for a, b in itertools.pairwise(dims)):
            raise ValueError(f"shape: input dimensions must increase, found {show(dims)}")

    def to_config(self) -> dict[str, JSON]:
        return {"shape": [list(e) if isinstance(e, tuple) else e for e in self.shape]}

    def bind(self, spec: ChunkSpec) -> ReshapeCodec:
        self.resolve(spec.shape)
        return self

    def resolve(self, shape: Shape) -> Shape:
        """Encoded shape of a chunk of ``shape``; ValueError when there is none."""
        sizes: list[int] = []
        for extent in self.shape:
            if isinstance(extent, int):
                sizes.append(extent)
                continue
            if extent and extent[-1] >= len(shape):
                raise ValueError(f"shape: no dimension {extent[-1]} in chunks of shape {shape}")
            sizes.append(math.prod(shape[d] for d in extent))
        total = math.prod(shape)
        if -1 in sizes:
            rest = -math.prod(sizes)
            sizes[sizes.index(-1)] = total // rest if rest else 0
        if math.prod(sizes) != total:
            raise ValueError(f"shape: {self.to_config()['shape']} does not fit chunks of {shape}")
        self._check_merged(shape, sizes)
        return tuple(sizes)

    def _check_merged(self, shape: Shape, sizes: list[int]) -> None:
        """Merged dimensions must have as many elements before and behind them as on input."""
        for i, extent in enumerate(self.shape):
            if not isinstance(extent, tuple) or not extent:
                continue
            before = math.prod(sizes[:i]) == math.prod(shape[: extent[0]])
            behind = math.prod(sizes[i + 1 :]) == math.prod(shape[extent[-1] + 1 :])
            if not (before and behind):
                raise ValueError(
                    f"shape[{i}]: {list(extent)} are not neighbours there in chunks of {shape}"
                )

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        return replace(spec, shape=self.resolve(spec.shape))

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        return array.reshape(self.resolve(spec.shape))

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        return array.reshape(spec.shape)


def _extent(entry: object) -> Extent:
    if is_int(entry) and (entry > 0 or entry == -1):
        return entry
    if is_list(entry) and all(is_int(d) and d >= 0 for d in entry):
        return tuple(entry)
    raise ValueError(f"shape: expected sizes, -1 or lists of dimensions, found {show(entry)}")
