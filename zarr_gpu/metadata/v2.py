"""``.zarray`` and ``.zattrs`` to :class:`~zarr_gpu.metadata.array.ArrayMetadata` (Zarr v2).

Members that old writers left out get the defaults of the specification. Knows no numcodecs: filters
and compressor stay documents.

>>> object_codec_id([{"id": "vlen-utf8"}, {"id": "zlib"}])
'vlen-utf8'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu._types import JSON, Shape
from zarr_gpu.config import config
from zarr_gpu.metadata.array import ArrayMetadata, V2Members
from zarr_gpu.metadata.dtypes import DataType, parse_v2
from zarr_gpu.metadata.grid_parse import (
    check_chunk_nbytes,
    largest_chunk,
    parse_chunk_shape,
    parse_shape,
)
from zarr_gpu.metadata.grids import RegularGrid
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.members import check_constant, parse_attributes
from zarr_gpu.metadata.memo import Memo, key_of
from zarr_gpu.metadata.problems import Loc, Problems, is_int, is_list, show

MEMBERS = frozenset(
    "zarr_format shape chunks dtype fill_value order filters compressor dimension_separator".split()
)
OBJECT_CODECS = frozenset(
    "vlen-utf8 vlen-bytes vlen-array json2 pickle categorize msgpack2".split()
)
"""numcodecs that turn Python objects into bytes; they say what dtype ``|O`` means."""


class _Encoding(NamedTuple):
    """What a document says about its elements and chunks, their numbers apart."""

    data_type: DataType | None
    fill_value: Any
    keys: ChunkKeyEncoding
    v2: V2Members


_encodings: Memo[_Encoding] = Memo()


def parse_array_v2(
    zarray: Mapping[str, Any], zattrs: Mapping[str, Any] | None, document: str
) -> ArrayMetadata:
    """Parse the objects of a ``.zarray`` and of the ``.zattrs`` beside it (None: no such file).

    ``document`` is the key of the former, for messages. Raises MetadataError listing every
    problem.
    """
    problems = Problems()
    check_constant(zarray, "zarr_format", 2, problems)
    member = problems.member(zarray, "shape")
    shape = None if member is ... else parse_shape(member, ("shape",), problems)
    grid = _grid(problems.member(zarray, "chunks"), shape, problems)
    data_type, fill_value, keys, v2 = _encoding(zarray, problems)
    if grid is not None and data_type is not None:
        check_chunk_nbytes(largest_chunk(grid), data_type, ("chunks",), problems)
    attributes = parse_attributes(zattrs, problems)
    problems.raise_if_any(document)
    if shape is None or data_type is None or grid is None:
        raise RuntimeError(f"{document}: a member is invalid, but no problem was recorded")
    return ArrayMetadata(
        zarr_format=2,
        shape=shape,
        data_type=data_type,
        chunk_grid=grid,
        chunk_key_encoding=keys,
        fill_value=fill_value,
        attributes=attributes,
        extra={name: value for name, value in zarray.items() if name not in MEMBERS},
        v2=v2,
    )


def _encoding(zarray: Mapping[str, Any], problems: Problems) -> _Encoding:
    names = ("dtype", "filters", "compressor", "fill_value", "order", "dimension_separator")
    key = key_of([zarray.get(name, ...) for name in names])
    encoding = _encodings.get(key)
    if encoding is not None:
        return encoding
    before = len(problems.found)
    filters = _filters(zarray.get("filters"), problems)
    compressor = _config(zarray.get("compressor"), ("compressor",), problems)
    dtype = problems.member(zarray, "dtype")
    codec = object_codec_id([*(filters or ()), compressor or {}])
    data_type = None if dtype is ... else problems.attempt(("dtype",), parse_v2, dtype, codec)
    fill_value = zarray.get("fill_value")
    if fill_value is not None and data_type is not None:
        loc = ("fill_value",)
        fill_value = problems.attempt(loc, data_type.fill_from_json, fill_value, 2)
    order = _choice(zarray, "order", "C", "F", problems)
    separator = _choice(zarray, "dimension_separator", ".", "/", problems)
    encoding = _Encoding(
        data_type,
        fill_value,
        ChunkKeyEncoding(name="v2", separator=separator),
        V2Members(order=order, compressor=compressor, filters=filters, dtype=dtype),
    )
    valid = data_type is not None and len(problems.found) == before
    if valid and not isinstance(fill_value, (np.void, list, dict)):  # these can be changed
        _encodings.put(key, encoding)
    return encoding


def object_codec_id(members: Iterable[Mapping[str, JSON]]) -> str | None:
    """The ``id`` of the first object codec among filters and compressor, None without one."""
    for member in members:
        codec = member.get("id")
        if isinstance(codec, str) and codec in OBJECT_CODECS:
            return codec
    return None


def _grid(value: Any, shape: Shape | None, problems: Problems) -> RegularGrid | None:
    if value is ...:
        return None
    chunks = parse_chunk_shape(
        [value] if is_int(value) else value, ("chunks",), problems, shape=shape
    )
    if chunks is None:
        return None
    if shape is not None and len(chunks) != len(shape):
        problems.add(("chunks",), f"{len(chunks)} dimensions, but shape has {len(shape)}")
        return None
    return RegularGrid(chunk_shape=chunks)


def _filters(value: object, problems: Problems) -> tuple[Mapping[str, JSON], ...] | None:
    if value is None:
        return None
    if not is_list(value):
        problems.wrong_type(("filters",), "null or a list of objects", value)
        return None
    limit = config.current.limits.codecs
    if len(value) > limit:
        problems.add(("filters",), f"{len(value)} filters, limits.codecs allows {limit}")
        return None
    parsed = (_config(item, ("filters", i), problems) for i, item in enumerate(value))
    return tuple(item for item in parsed if item is not None)


def _config(value: object, loc: Loc, problems: Problems) -> Mapping[str, JSON] | None:
    if value is None and loc == ("compressor",):
        return None
    if not isinstance(value, Mapping):
        problems.wrong_type(loc, "an object with an id", value)
        return None
    name = problems.member(value, "id", loc)
    if name is not ... and not isinstance(name, str):
        problems.wrong_type((*loc, "id"), "a string", name)
        return None
    return value


def _choice(doc: Mapping[str, Any], name: str, default: Any, other: Any, problems: Problems) -> Any:
    """``doc[name]``, one of two strings, the first when missing."""
    value = doc.get(name, default)
    if not (isinstance(value, str) and value in (default, other)):
        problems.add((name,), f"expected {default!r} or {other!r}, found {show(value)}")
    return value
