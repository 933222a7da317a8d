"""How one array is stored: its metadata resolved into chains, grids and keys.

An :class:`ArrayLayout` is everything a backend needs to know about an array beside the plan of the
request. It is immutable; a resize makes a new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from zarr_gpu._types import JSON, Int64, NDArray, Shape
from zarr_gpu.codecs import registry
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Codec
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.chain import CodecChain, order_of
from zarr_gpu.codecs.transpose import TransposeCodec
from zarr_gpu.errors import MetadataError, Problem
from zarr_gpu.metadata.array import ArrayMetadata, V2Members
from zarr_gpu.metadata.grids import Axis, RegularAxis, RegularGrid
from zarr_gpu.metadata.memo import Memo
from zarr_gpu.metadata.problems import Loc
from zarr_gpu.plan import Placement, Plan, place
from zarr_gpu.shards import ShardLevels

C = TypeVar("C", bound=Codec)


class _Bound(NamedTuple):
    """Codecs ready for chunks; ``parts`` are the objects that the key was made of, kept alive."""

    parts: tuple[object, ...]
    chain: CodecChain
    levels: ShardLevels


_chains: Memo[tuple[object, CodecChain]] = Memo()
_bound: Memo[_Bound] = Memo()
"""Parsed documents that say the same share their codecs, data type and fill value, so these are
known by their identity."""


class ArrayLayout:
    """``path`` is the array's path in the store ("" is the root), without slashes around it.

    Raises MetadataError, naming every problem, when codecs are unknown, ill-ordered or do not fit
    the chunks.
    """

    def __init__(self, metadata: ArrayMetadata, path: str, *, allow_pickle: bool = False) -> None:
        self.metadata = metadata
        self.path = path
        self.prefix = path + "/" if path else ""
        self.data_type = metadata.data_type
        self.dtype: np.dtype[Any] = metadata.data_type.dtype
        fill = metadata.fill_value
        self.fill_value: Any = self.data_type.default_fill() if fill is None else fill
        self._levels: dict[Shape, ShardLevels] = {}
        grid = metadata.chunk_grid
        shape = grid.chunk_shape if isinstance(grid, RegularGrid) else self._first_shape()
        parts = (metadata.codecs, metadata.v2, metadata.data_type, fill)
        key = (registry.generation(), *map(id, parts), shape, allow_pickle)
        bound = _bound.get(key)
        if bound is None:
            self.chain = _chain(metadata, allow_pickle)
            bound = _Bound(parts, self.chain, self.levels_for(shape))
            _bound.put(key, bound)
        self.chain = bound.chain
        self.levels = self._levels[shape] = bound.levels

    def _first_shape(self) -> Shape:
        """Of the first stored object; 1 along axes without chunks."""
        return tuple(
            int(axis.extent(np.zeros((), np.int64))) if _count(axis) else 1
            for axis in self.object_axes
        )

    def levels_for(self, shape: Shape) -> ShardLevels:
        """Shard levels and leaf chain of stored objects of ``shape``."""
        levels = self._levels.get(shape)
        if levels is None:
            spec = ChunkSpec(shape=shape, data_type=self.data_type, fill_value=self.fill_value)
            try:
                levels = ShardLevels.of(self.chain.bind(spec))
            except MetadataError as error:
                raise error.at(self.path or "/") from None
            except ValueError as error:
                problem = Problem(("codecs",), str(error))
                raise MetadataError((problem,), document=self.path or "/") from None
            self._levels[shape] = levels
        return levels

    @cached_property
    def shape(self) -> Shape:
        return self.metadata.shape

    @property
    def understood(self) -> bool:
        """False when a codec that readers may ignore is unknown: nothing can be written then."""
        return self.metadata.v2 is not None or len(self.chain.codecs) == len(self.metadata.codecs)

    @cached_property
    def sharded(self) -> bool:
        """True when inner chunks can be read by address."""
        return bool(self.levels.layouts)

    @cached_property
    def object_axes(self) -> tuple[Axis, ...]:
        """Grid of the stored objects."""
        return self.metadata.chunk_grid.axes(self.shape)

    @cached_property
    def leaf_axes(self) -> tuple[Axis, ...]:
        """Grid of the chunks that are decoded one by one: inner chunks where sharded."""
        if not self.sharded:
            return self.object_axes
        leaf = self.levels.leaf.spec.shape
        return tuple(RegularAxis(n, c) for n, c in zip(self.shape, leaf, strict=True))

    @cached_property
    def plain(self) -> bool:
        """True when all chunks are one block of memory of the same shape, in shards or not.

        At most one level of shards, and not empty.
        """
        memory = self.levels.leaf.memory
        one_level = len(self.levels.layouts) <= 1
        return self.uniform and one_level and memory is not None and memory.nbytes > 0

    @cached_property
    def uniform(self) -> bool:
        """True when all stored objects have the same shape."""
        return isinstance(self.metadata.chunk_grid, RegularGrid)

    @cached_property
    def fill_array(self) -> NDArray:
        """The value of missing elements as a 0-d array, bit exact."""
        return self.data_type.full((), self.fill_value)

    def object_shape(self, coords: Sequence[int]) -> Shape:
        """Full shape of the stored object at ``coords``, overhang included."""
        return tuple(
            int(axis.extent(np.asarray(i, np.int64)))
            for axis, i in zip(self.object_axes, coords, strict=True)
        )

    def levels_at(self, coords: Sequence[int]) -> ShardLevels:
        """Shard levels and leaf chain of the stored object at ``coords``."""
        return self.levels if self.uniform else self.levels_for(self.object_shape(coords))

    def leaves_inside(self, coords: Sequence[int]) -> int:
        """Number of leaf chunks of one object that hold elements of the array."""
        count = 1
        for axis, i, leaf in zip(
            self.object_axes, coords, self.levels.leaf.spec.shape, strict=True
        ):
            at = np.asarray(i, np.int64)
            start = int(axis.start(at))
            count *= -(-min(int(axis.extent(at)), axis.length - start) // leaf)
        return count

    def keys(self, coords: Int64) -> list[str]:
        """Store keys of the objects at ``coords``, shape (n, ndim)."""
        return self.metadata.chunk_key_encoding.keys(coords, self.prefix)

    def key(self, coords: Sequence[int]) -> str:
        """Store key of one object."""
        return self.prefix + self.metadata.chunk_key_encoding.key(coords)

    def inside(self, leaf: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The object with leaf chunk ``leaf``, and its slot at each level; regular grids only."""
        where = list(leaf)
        slots: list[int] = []
        for layout in reversed(self.levels.layouts):
            slot = 0
            for d, parts in enumerate(layout.per_shard):
                where[d], at = divmod(where[d], parts)
                slot = slot * parts + at
            slots.append(slot)
        return tuple(where), tuple(reversed(slots))

    def place(self, plan: Plan, segment: Int64) -> Placement:
        """Group rows of a plan over :attr:`leaf_axes` by stored object."""
        if not self.sharded:
            return place(plan.chunks_of(segment), self.object_axes, (), ())
        leaf = self.levels.leaf.spec.shape
        layers = [layout.per_shard for layout in self.levels.layouts]
        return place(plan.chunks_of(segment), self.object_axes, leaf, layers)


def _count(axis: Axis) -> bool:
    return not (hasattr(axis, "edges") and len(axis.edges) < 2)


def _chain(metadata: ArrayMetadata, allow_pickle: bool) -> CodecChain:
    said = metadata.v2 or metadata.codecs
    key = (registry.generation(), id(said), len(metadata.shape), allow_pickle)
    known = _chains.get(key)
    if known is None:
        known = said, _make_chain(metadata, allow_pickle)
        _chains.put(key, known)
    return known[1]


def _make_chain(metadata: ArrayMetadata, allow_pickle: bool) -> CodecChain:
    if metadata.v2 is not None:
        return CodecChain.from_codecs(_v2_codecs(metadata, metadata.v2, allow_pickle))
    makers = [
        (("codecs", i), partial(registry.get_codec, named), named.must_understand)
        for i, named in enumerate(metadata.codecs)
    ]
    return CodecChain.from_codecs(_make_all(makers), ("codecs",))


def _make_all(makers: Iterable[tuple[Loc, Callable[[], C], bool]]) -> list[C]:
    """Codecs of a document: where each is, what makes it, and whether it must be understood.

    Raises MetadataError with the problems of all of them.
    """
    problems: list[Problem] = []
    codecs: list[C] = []
    failure: type[MetadataError] = MetadataError
    for loc, make, required in makers:
        try:
            codecs.append(make())
        except MetadataError as error:
            if required:
                failure = type(error)
                problems += [Problem((*loc, *p.loc), p.message, p.kind) for p in error.problems]
        except ValueError as error:
            problems.append(Problem(loc, str(error)))
    if problems:
        raise failure(problems)
    return codecs


def _v2_codecs(metadata: ArrayMetadata, v2: V2Members, allow_pickle: bool) -> list[Codec]:
    """v2 filters and compressor as a v3 chain over the same bytes.

    v2 filters see untyped buffers, so all of them but object codecs are bytes -> bytes.
    """
    ndim = len(metadata.shape)
    first: list[Codec] = []
    if v2.order == "F" and ndim > 1:
        first.append(TransposeCodec(order=order_of("F", ndim)))
    members: list[tuple[Loc, Mapping[str, JSON]]] = [
        (("filters", i), config) for i, config in enumerate(v2.filters or ())
    ]
    if v2.compressor:
        members.append((("compressor",), v2.compressor))
    rest: list[Codec] = _make_all(
        (loc, partial(registry.from_v2, config, allow_pickle=allow_pickle), True)
        for loc, config in members
    )
    if not (rest and isinstance(rest[0], ArrayBytesCodec)):
        rest.insert(0, BytesCodec(endian=None))
    return [*first, *rest]


def leaf_nbytes(layout: ArrayLayout) -> int:
    """Decoded bytes of one leaf chunk, at least 1."""
    spec = layout.levels.leaf.spec
    return max(1, math.prod(spec.shape) * spec.dtype.itemsize)
