"""The indexers behind ``array.oindex``, ``array.vindex`` and ``array.blocks``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zarr_gpu.values import pop_fields

if TYPE_CHECKING:
    from zarr_gpu.array import Array


@dataclass(frozen=True, slots=True)
class OIndex:
    """``array.oindex[rows, :, mask]``: each axis indexed on its own."""

    array: Array

    def __getitem__(self, selection: Any) -> Any:
        selection, fields = pop_fields(selection)
        return self.array.get_orthogonal_selection(selection, fields=fields)

    def __setitem__(self, selection: Any, value: Any) -> None:
        selection, fields = pop_fields(selection)
        self.array.set_orthogonal_selection(selection, value, fields=fields)


@dataclass(frozen=True, slots=True)
class VIndex:
    """``array.vindex[rows, columns]`` and ``array.vindex[mask]``: single elements."""

    array: Array

    def __getitem__(self, selection: Any) -> Any:
        selection, fields = pop_fields(selection)
        return self.array.get_coordinate_selection(selection, fields=fields)

    def __setitem__(self, selection: Any, value: Any) -> None:
        selection, fields = pop_fields(selection)
        self.array.set_coordinate_selection(selection, value, fields=fields)


@dataclass(frozen=True, slots=True)
class BlockIndex:
    """``array.blocks[0, 1:3]``: whole chunks."""

    array: Array

    def __getitem__(self, selection: Any) -> Any:
        selection, fields = pop_fields(selection)
        return self.array.get_block_selection(selection, fields=fields)

    def __setitem__(self, selection: Any, value: Any) -> None:
        selection, fields = pop_fields(selection)
        self.array.set_block_selection(selection, value, fields=fields)
