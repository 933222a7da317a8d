"""``zarr.json`` of an array to :class:`~zarr_gpu.metadata.array.ArrayMetadata` (Zarr v3 core).

Knows no codec implementation: whether names are known and chains are well ordered is decided by
:mod:`zarr_gpu.codecs`. Here the chain is only bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu._types import Shape
from zarr_gpu.config import config
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.dtypes import DataType, parse_v3
from zarr_gpu.metadata.grid_parse import (
    check_chunk_nbytes,
    largest_chunk,
    parse_chunk_shape,
    parse_grid,
    parse_shape,
)
from zarr_gpu.metadata.grids import ChunkGrid
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.members import check_constant, parse_attributes, parse_extra
from zarr_gpu.metadata.memo import Memo, key_of
from zarr_gpu.metadata.named import NamedConfig, parse_named
from zarr_gpu.metadata.problems import Loc, Problems, is_list, show

MEMBERS = frozenset(
    "zarr_format node_type shape data_type chunk_grid chunk_key_encoding fill_value codecs "
    "attributes dimension_names storage_transformers".split()
)


class _Encoding(NamedTuple):
    """What a document says about its elements and chunks, their numbers apart.

    ``shards``: of each sharding level, where it is and the elements of an inner chunk (None: not
    known, for a problem there); ``unit``: inner chunk shape of the outermost, or ().
    """

    data_type: DataType | None
    codecs: tuple[NamedConfig, ...]
    keys: ChunkKeyEncoding | None
    fill_value: Any
    shards: tuple[tuple[Loc, int | None], ...]
    unit: Shape


_encodings: Memo[_Encoding] = Memo()


def parse_array_v3(doc: Mapping[str, Any], document: str) -> ArrayMetadata:
    """Parse the object of a ``zarr.json``; ``document`` is its key, for messages.

    Raises MetadataError listing every problem. Warns about ``fill_value: null`` (GDAL writes it),
    which is read as the data type's default.
    """
    problems = Problems()
    check_constant(doc, "zarr_format", 3, problems)
    check_constant(doc, "node_type", "array", problems)
    member = problems.member(doc, "shape")
    shape = None if member is ... else parse_shape(member, ("shape",), problems)
    data_type, codecs, keys, fill_value, shards, unit = _encoding(doc, problems)
    member = problems.member(doc, "chunk_grid")
    grid = None if member is ... else parse_grid(member, shape, unit, problems)
    attributes = parse_attributes(doc.get("attributes"), problems)
    names = _dimension_names(doc.get("dimension_names"), shape, problems)
    _check_storage_transformers(doc.get("storage_transformers"), problems)
    extra = parse_extra(doc, MEMBERS, problems)
    _check_chunks(grid, data_type, shards, problems)
    problems.raise_if_any(document)
    if shape is None or data_type is None or grid is None or keys is None:
        raise RuntimeError(f"{document}: a member is invalid, but no problem was recorded")
    return ArrayMetadata(
        zarr_format=3,
        shape=shape,
        data_type=data_type,
        chunk_grid=grid,
        chunk_key_encoding=keys,
        fill_value=fill_value,
        codecs=codecs,
        attributes=attributes,
        dimension_names=names,
        extra=extra,
    )


def _encoding(doc: Mapping[str, Any], problems: Problems) -> _Encoding:
    members = [doc.get(n, ...) for n in ("data_type", "codecs", "chunk_key_encoding", "fill_value")]
    key = key_of(members)
    encoding = _encodings.get(key)
    if encoding is not None:
        return encoding
    before = len(problems.found)
    data_type = _data_type(problems.member(doc, "data_type"), problems)
    codecs = _codecs(problems.member(doc, "codecs"), ("codecs",), problems)
    keys = _chunk_key_encoding(problems.member(doc, "chunk_key_encoding"), problems)
    fill = problems.member(doc, "fill_value")
    fill_value = _fill_value(fill, data_type, problems)
    shards = tuple(_shards(codecs, problems))
    unit = _inner_chunk_shape(codecs)
    encoding = _Encoding(data_type, tuple(codecs), keys, fill_value, shards, unit)
    valid = data_type is not None and len(problems.found) == before
    # Null is warned of every time; scalars of structs can be changed.
    if valid and fill is not None and not isinstance(fill_value, np.void):
        _encodings.put(key, encoding)
    return encoding


def _data_type(value: Any, problems: Problems) -> DataType | None:
    if value is ...:
        return None
    named = parse_named(value, ("data_type",), problems)
    if named is None:
        return None
    if isinstance(value, Mapping):
        value = {name: part for name, part in value.items() if name != "must_understand"}
    return problems.attempt(("data_type",), parse_v3, value)


def _fill_value(value: Any, data_type: DataType | None, problems: Problems) -> Any:
    if value is ... or data_type is None:
        return None
    return problems.attempt(("fill_value",), data_type.fill_from_json, value, 3)


def _chunk_key_encoding(value: Any, problems: Problems) -> ChunkKeyEncoding | None:
    loc: Loc = ("chunk_key_encoding",)
    if value is ...:
        return None
    named = parse_named(value, loc, problems)
    if named is None:
        return None
    name = named.name
    if name not in ("default", "v2"):
        message = f"expected 'default' or 'v2', found {show(name)}"
        problems.add((*loc, "name"), message, "unsupported")
        return None
    loc = (*loc, "configuration")
    problems.unknown(loc, named.configuration.keys() - {"separator"})
    separator = named.configuration.get("separator", "/" if name == "default" else ".")
    if separator not in ("/", "."):
        problems.add((*loc, "separator"), f"expected '/' or '.', found {show(separator)}")
        return None
    return ChunkKeyEncoding(
        name="default" if name == "default" else "v2", separator="/" if separator == "/" else "."
    )


def _dimension_names(
    value: object, shape: Shape | None, problems: Problems
) -> tuple[str | None, ...] | None:
    loc: Loc = ("dimension_names",)
    if value is None:
        return None
    if not is_list(value):
        problems.wrong_type(loc, "a list of strings or null", value)
        return None
    for i, name in enumerate(value):
        if not (name is None or isinstance(name, str)):
            problems.wrong_type((*loc, i), "a string or null", name)
    if shape is not None and len(value) != len(shape):
        problems.add(loc, f"{len(value)} names, but shape has {len(shape)} dimensions")
    return tuple(value)


def _check_storage_transformers(value: object, problems: Problems) -> None:
    if value is None:
        return
    if not is_list(value):
        problems.wrong_type(("storage_transformers",), "a list", value)
    elif value:
        problems.add(
            ("storage_transformers",),
            f"no storage transformer is supported, {len(value)} found",
            "unsupported",
        )


def _codecs(value: Any, loc: Loc, problems: Problems) -> list[NamedConfig]:
    """A codec chain; incomplete after problems."""
    limit = config.current.limits.codecs
    if value is ...:
        return []
    if not is_list(value):
        problems.wrong_type(loc, "a list of codecs", value)
    elif not value:
        problems.add(loc, "expected at least one codec, found an empty list")
    elif len(value) > limit:
        problems.add(loc, f"{len(value)} codecs, limits.codecs allows {limit}")
    else:
        parsed = (
            parse_named(item, (*loc, i), problems, ignorable=True) for i, item in enumerate(value)
        )
        return [named for named in parsed if named is not None]
    return []


def _inner_chunk_shape(codecs: list[NamedConfig]) -> Shape:
    """Inner chunk shape of the first sharding codec, () when there is none."""
    for codec in codecs:
        if codec.name == "sharding_indexed":
            shape = parse_chunk_shape(codec.configuration.get("chunk_shape"), (), Problems())
            return shape or ()
    return ()


def _check_chunks(
    grid: ChunkGrid | None,
    data_type: DataType | None,
    shards: tuple[tuple[Loc, int | None], ...],
    problems: Problems,
) -> None:
    """Bound what decoding allocates: whole chunks, or the inner chunks of shards.

    Only numbers of elements are compared, which no array -> array codec in front changes.
    """
    smallest = None if grid is None else largest_chunk(grid)
    where: Loc = ("chunk_grid",)
    limit = config.current.limits.inner_chunks
    for loc, inner in shards:
        if smallest is not None and inner is not None and smallest // inner > limit:
            count = show(smallest // inner)
            problems.add(loc, f"{count} inner chunks a shard, limits.inner_chunks allows {limit}")
        smallest, where = inner, loc
    if smallest is not None and data_type is not None:
        check_chunk_nbytes(smallest, data_type, where, problems)


def _shards(codecs: list[NamedConfig], problems: Problems) -> Iterator[tuple[Loc, int | None]]:
    """Where the inner chunk shape of each sharding level is, and its elements."""
    loc: Loc = ("codecs",)
    nesting = config.current.limits.shard_nesting
    level = 0
    sharding = _find_sharding(codecs)
    while sharding is not None:
        i, codec = sharding
        loc = (*loc, i, "configuration")
        level += 1
        if level > nesting:
            problems.add(loc, f"shards nested {level} deep, limits.shard_nesting allows {nesting}")
            yield (*loc, "chunk_shape"), None
            return
        yield (*loc, "chunk_shape"), _inner_elements(codec, loc, problems)
        member = problems.member(codec.configuration, "codecs", loc)
        loc = (*loc, "codecs")
        codecs = _codecs(member, loc, problems)
        sharding = _find_sharding(codecs)


def _find_sharding(codecs: list[NamedConfig]) -> tuple[int, NamedConfig] | None:
    return next(((i, c) for i, c in enumerate(codecs) if c.name == "sharding_indexed"), None)


def _inner_elements(codec: NamedConfig, loc: Loc, problems: Problems) -> int | None:
    """Elements of an inner chunk, None after problems."""
    if "index_codecs" in codec.configuration:
        _codecs(codec.configuration["index_codecs"], (*loc, "index_codecs"), problems)
    member = problems.member(codec.configuration, "chunk_shape", loc)
    loc = (*loc, "chunk_shape")
    shape = None if member is ... else parse_chunk_shape(member, loc, problems)
    return None if shape is None else math.prod(shape)
