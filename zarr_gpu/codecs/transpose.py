"""``transpose``: permute the dimensions before anything else (Zarr v3, codec "transpose")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.codecs._members import check_names
from zarr_gpu.codecs.base import ArrayArrayCodec, ChunkSpec
from zarr_gpu.metadata.problems import is_int, is_list, show


@dataclass(frozen=True)
class TransposeCodec(ArrayArrayCodec):
    """Encoded dimension ``i`` is dimension ``order[i]`` of the chunk.

    ``"C"`` (as is) and ``"F"`` (reversed) come from early drafts of the specification; binding
    replaces them by the list.
    """

    name: ClassVar[str] = "transpose"

    order: tuple[int, ...] | Literal["C", "F"]

    def __post_init__(self) -> None:
        order = self.order
        if isinstance(order, str):
            if order not in ("C", "F"):
                raise ValueError(f"order: expected a permutation, 'C' or 'F', found {show(order)}")
            return
        if not is_list(order) or not all(map(is_int, order)):
            raise ValueError(f"order: expected a list of integers, found {show(order)}")
        if sorted(order) != list(range(len(order))):
            raise ValueError(
                f"order: expected a permutation of 0..{len(order) - 1}, found {show(order)}"
            )
        object.__setattr__(self, "order", tuple(order))

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> TransposeCodec:
        check_names(config, required=("order",))
        return cls(config["order"])  # type: ignore[arg-type]  # checked by __post_init__

    def to_config(self) -> dict[str, JSON]:
        return {"order": self.order if isinstance(self.order, str) else list(self.order)}

    def bind(self, spec: ChunkSpec) -> TransposeCodec:
        ndim = len(spec.shape)
        if isinstance(self.order, str):
            order = range(ndim) if self.order == "C" else range(ndim - 1, -1, -1)
            return replace(self, order=tuple(order))
        if len(self.order) != ndim:
            raise ValueError(
                f"order: expected {ndim} dimensions, as the array has, found {len(self.order)}"
            )
        return self

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        return replace(spec, shape=tuple(spec.shape[d] for d in self._order(spec)))

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        return array.transpose(self._order(spec))

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        return array.transpose(np.argsort(self._order(spec)))

    def _order(self, spec: ChunkSpec) -> tuple[int, ...]:
        order = self.bind(spec).order
        return order if not isinstance(order, str) else ()  # bind left no string
