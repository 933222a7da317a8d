"""Shapes and chunk grids from JSON, bounded before anything is allocated.

Knows no codec; how sharded chunks are bounded is in :mod:`~zarr_gpu.metadata.v3`.

>>> parse_shape([10, 20], ("shape",), Problems())
(10, 20)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from zarr_gpu._types import JSON, Shape
from zarr_gpu.config import config
from zarr_gpu.metadata.dtypes import DataType
from zarr_gpu.metadata.grids import ChunkGrid, RectilinearGrid, RegularGrid
from zarr_gpu.metadata.memo import Memo, key_of
from zarr_gpu.metadata.named import parse_named
from zarr_gpu.metadata.problems import INT64_MAX, Loc, Problems, is_int, is_list, show

MAX_CHUNKS_LISTED = 1 << 24
"""Chunks a rectilinear grid may list, runs expanded and dimensions added up (128 MiB)."""
_grids: Memo[RegularGrid] = Memo()


def parse_shape(value: object, loc: Loc, problems: Problems) -> Shape | None:
    """A list of lengths, their product below 2**63; None after adding problems."""
    shape = _int_list(value, loc, problems, least=0)
    if shape is not None and math.prod(shape) > INT64_MAX:
        problems.add(loc, f"{show(list(shape))} has more than 2**63 - 1 elements")
        return None
    return shape


def parse_chunk_shape(
    value: object, loc: Loc, problems: Problems, *, shape: Shape | None = None, unit: Shape = ()
) -> Shape | None:
    """A list of chunk lengths of at least 1; None after adding problems.

    Writers of the past stored 0 or ``false`` for dimensions of length 0, and ``true`` for 1. Such
    a 0 reads as the smallest possible chunk: ``unit`` (the inner chunk of a shard), or 1.
    """
    if is_list(value) and len(value) <= config.current.limits.rank:
        unit = unit if len(unit) == len(value) else (1,) * len(value)
        lengths = shape if shape is not None and len(shape) == len(value) else (1,) * len(value)
        value = [
            small if length == 0 and is_zero(chunk) else 1 if chunk is True else chunk
            for chunk, length, small in zip(value, lengths, unit, strict=True)
        ]
    return _int_list(value, loc, problems, least=1)


def is_zero(chunk: object) -> bool:
    """0 or false."""
    return isinstance(chunk, int) and chunk == 0


def parse_grid(
    value: object, shape: Shape | None, unit: Shape, problems: Problems
) -> ChunkGrid | None:
    """The ``chunk_grid`` member of a v3 document.

    The rank is compared where ``shape`` is known; ``unit`` as in :func:`parse_chunk_shape`.
    """
    # Of a shape, the rank matters and which lengths are 0.
    key = None if shape is None else key_of(value, shape if 0 in shape else len(shape), unit)
    known = _grids.get(key)
    if known is not None:
        return known
    before = len(problems.found)
    grid = _parse_grid(value, shape, unit, problems)
    if isinstance(grid, RegularGrid) and len(problems.found) == before:  # lists could be long
        _grids.put(key, grid)
    return grid


def _parse_grid(
    value: object, shape: Shape | None, unit: Shape, problems: Problems
) -> ChunkGrid | None:
    named = parse_named(value, ("chunk_grid",), problems)
    if named is None:
        return None
    loc: Loc = ("chunk_grid", "configuration")
    grid: ChunkGrid | None = None
    rank = 0
    if named.name == "regular":
        problems.unknown(loc, named.configuration.keys() - {"chunk_shape"})
        chunks = problems.member(named.configuration, "chunk_shape", loc)
        loc = (*loc, "chunk_shape")
        if chunks is not ...:
            parsed = parse_chunk_shape(chunks, loc, problems, shape=shape, unit=unit)
            if parsed is not None:
                grid, rank = RegularGrid(chunk_shape=parsed), len(parsed)
    elif named.name == "rectilinear":
        grid = _rectilinear(named.configuration, named.to_json(), shape, problems)
        loc = (*loc, "chunk_shapes")
        rank = 0 if grid is None else len(grid.chunk_shapes)
    else:
        problems.add(
            ("chunk_grid", "name"),
            f"expected 'regular' or 'rectilinear', found {show(named.name)}",
            "unsupported",
        )
    if grid is not None and shape is not None and rank != len(shape):
        problems.add(loc, f"{rank} dimensions, but shape has {len(shape)}")
        return None
    return grid


def largest_chunk(grid: ChunkGrid) -> int:
    """Elements of the largest chunk."""
    if isinstance(grid, RegularGrid):
        return math.prod(grid.chunk_shape)
    return math.prod(c if isinstance(c, int) else max(c) for c in grid.chunk_shapes)


def check_chunk_nbytes(elements: int, data_type: DataType, loc: Loc, problems: Problems) -> None:
    """A problem when a decoded chunk would exceed ``limits.chunk_nbytes``."""
    nbytes = elements * max(1, data_type.dtype.itemsize)
    limit = config.current.limits.chunk_nbytes
    if nbytes > limit:
        problems.add(
            loc, f"a decoded chunk has {show(nbytes)} bytes, limits.chunk_nbytes allows {limit}"
        )


def _int_list(value: object, loc: Loc, problems: Problems, *, least: int) -> Shape | None:
    if not is_list(value):
        problems.wrong_type(loc, "a list of integers", value)
        return None
    rank = config.current.limits.rank
    if len(value) > rank:
        problems.add(loc, f"{len(value)} dimensions, limits.rank allows {rank}")
        return None
    for item in value:
        if type(item) is not int or not least <= item <= INT64_MAX:
            break
    else:
        return tuple(value)
    parsed = [_length(item, (*loc, i), problems, least) for i, item in enumerate(value)]
    return None if None in parsed else tuple(n for n in parsed if n is not None)


def _length(value: object, loc: Loc, problems: Problems, least: int = 1) -> int | None:
    if not is_int(value):
        problems.wrong_type(loc, "an integer", value)
        return None
    if not least <= value <= INT64_MAX:
        problems.add(loc, f"expected at least {least} and below 2**63, found {show(value)}")
        return None
    return value


def _rectilinear(
    configuration: Mapping[str, Any], document: JSON, shape: Shape | None, problems: Problems
) -> RectilinearGrid | None:
    loc: Loc = ("chunk_grid", "configuration")
    problems.unknown(loc, configuration.keys() - {"kind", "chunk_shapes"})
    kind = problems.member(configuration, "kind", loc)
    if kind not in (..., "inline"):
        problems.add((*loc, "kind"), f"expected 'inline', found {show(kind)}", "unsupported")
    axes = problems.member(configuration, "chunk_shapes", loc)
    if axes is ...:
        return None
    loc = (*loc, "chunk_shapes")
    if not is_list(axes):
        problems.wrong_type(loc, "a list with one item per dimension", axes)
        return None
    limit = config.current.limits.rank
    if len(axes) > limit:
        problems.add(loc, f"{len(axes)} dimensions, limits.rank allows {limit}")
        return None
    lengths: Sequence[int] = shape if shape is not None and len(shape) == len(axes) else ()
    parsed = []
    room = MAX_CHUNKS_LISTED
    for i, axis in enumerate(axes):
        needed = lengths[i] if lengths else 0
        part = _axis(axis, needed, room, (*loc, i), problems)
        parsed.append(part)
        room -= len(part) if isinstance(part, tuple) else 0
    known = tuple(part for part in parsed if part is not None)
    if len(known) < len(parsed):
        return None
    return RectilinearGrid(chunk_shapes=known, document=document)


def _axis(
    value: object, needed: int, room: int, loc: Loc, problems: Problems
) -> int | tuple[int, ...] | None:
    """One dimension: a bare length that repeats, or lengths and ``[length, count]`` runs."""
    if not is_list(value):
        return _length(value, loc, problems)
    if not value:
        problems.add(loc, "no chunks are listed")
        return None
    runs = [_run(item, (*loc, i), problems) for i, item in enumerate(value)]
    known = [run for run in runs if run is not None]
    if len(known) < len(runs):
        return None
    count = sum(n for _, n in known)
    total = sum(length * n for length, n in known)
    if count > room:
        problems.add(loc, f"{show(count)} chunks listed, at most {MAX_CHUNKS_LISTED} are allowed")
    elif not needed <= total <= INT64_MAX:
        problems.add(loc, f"chunk lengths add up to {show(total)}, but the array has {needed}")
    else:
        return tuple(chain.from_iterable(repeat(length, n) for length, n in known))
    return None


def _run(item: object, loc: Loc, problems: Problems) -> tuple[int, int] | None:
    if not is_list(item):
        length = _length(item, loc, problems)
        return None if length is None else (length, 1)
    if len(item) != 2:
        problems.add(loc, f"expected [length, count], found {show(item)}")
        return None
    length = _length(item[0], (*loc, 0), problems)
    count = _length(item[1], (*loc, 1), problems)
    return None if length is None or count is None else (length, count)
