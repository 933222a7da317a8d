"""What an array is, whichever format its document has.

Knows no store, codec implementation or device. The parsers are :mod:`~zarr_gpu.metadata.v3` and
:mod:`~zarr_gpu.metadata.v2`; both make the same :class:`ArrayMetadata`, which is valid by
construction when they made it.

>>> from zarr_gpu.metadata import json
>>> from zarr_gpu.metadata.v3 import parse_array_v3
>>> document = json.load(open("a/zarr.json", "rb").read(), "a/zarr.json")  # doctest: +SKIP
>>> parse_array_v3(document, "a/zarr.json").shape  # doctest: +SKIP
(100, 64)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from zarr_gpu._types import JSON, Shape
from zarr_gpu.metadata import json
from zarr_gpu.metadata.dtypes import DataType
from zarr_gpu.metadata.grids import ChunkGrid, RegularGrid
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.named import NamedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class V2Members:
    """What only a ``.zarray`` has.

    ``filters`` None and () are written as read; ``dtype`` is the member as read (None: derived
    from the data type).
    """

    order: Literal["C", "F"] = "C"
    compressor: Mapping[str, JSON] | None = None
    filters: tuple[Mapping[str, JSON], ...] | None = None
    dtype: JSON = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrayMetadata:
    """The metadata of one array.

    ``fill_value`` is None only in v2 ("undefined"); ``codecs`` is the chain of a v3 document and
    empty in v2, where ``v2`` holds filters and compressor. ``extra`` are members this library has
    no use for, kept on a rewrite. Two are equal when their documents say the same, so NaN fill
    values are equal to themselves.
    """

    zarr_format: Literal[2, 3]
    shape: Shape
    data_type: DataType
    chunk_grid: ChunkGrid
    chunk_key_encoding: ChunkKeyEncoding
    fill_value: Any
    codecs: tuple[NamedConfig, ...] = ()
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    dimension_names: tuple[str | None, ...] | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)
    v2: V2Members | None = None

    def to_dict(self) -> dict[str, JSON]:
        """The object of ``zarr.json`` or ``.zarray``, members in the order of zarr-python.

        It may be changed: what arrays that say the same have in common is copied.
        """
        return self._zarr_json() if self.v2 is None else self._zarray(self.v2)

    def documents(self, indent: int | None) -> dict[str, bytes]:
        """Content of each metadata file by name, as zarr-python lays it out.

        Raises TypeError where attributes hold what JSON cannot.
        """
        main = json.dump(self.to_dict(), indent)
        if self.v2 is None:
            return {"zarr.json": main}
        return {".zarray": main, ".zattrs": json.dump(self.attributes, indent)}

    def replace(self, **changes: Any) -> ArrayMetadata:
        """A copy with other members; nothing is checked."""
        # dataclasses.replace takes three times as long.
        return ArrayMetadata(**{name: getattr(self, name) for name in _MEMBERS} | changes)

    def _zarr_json(self) -> dict[str, JSON]:
        out: dict[str, JSON] = {
            "shape": list(self.shape),
            "data_type": json.copied(self.data_type.to_json()),
            "chunk_grid": json.copied(self.chunk_grid.to_json()),
            "chunk_key_encoding": self.chunk_key_encoding.to_json(),
            "fill_value": self.data_type.fill_to_json(self.fill_value, 3),
            "codecs": [json.copied(codec.to_json()) for codec in self.codecs],
            "attributes": self.attributes,
        }
        if self.dimension_names is not None:
            out["dimension_names"] = list(self.dimension_names)
        out |= {"zarr_format": 3, "node_type": "array", "storage_transformers": []}
        return {**out, **self.extra}

    def _zarray(self, v2: V2Members) -> dict[str, JSON]:
        if not isinstance(self.chunk_grid, RegularGrid):
            raise ValueError("Zarr format 2 has regular chunks only")
        fill = self.fill_value
        return {
            "shape": list(self.shape),
            "chunks": list(self.chunk_grid.chunk_shape),
            "dtype": json.copied(self.data_type.to_v2_json() if v2.dtype is None else v2.dtype),
            "fill_value": None if fill is None else self.data_type.fill_to_json(fill, 2),
            "order": v2.order,
            "filters": json.copied(v2.filters),
            "dimension_separator": self.chunk_key_encoding.separator,
            "compressor": json.copied(v2.compressor),
            "zarr_format": 2,
            **self.extra,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayMetadata):
            return NotImplemented
        return self._canonical() == other._canonical()

    def __hash__(self) -> int:
        return hash(self._canonical())

    def _canonical(self) -> bytes:
        members = {**self.to_dict(), "attributes": self.attributes}
        return json.dump(members, None, sort_keys=True)


_MEMBERS = tuple(member.name for member in fields(ArrayMetadata))
