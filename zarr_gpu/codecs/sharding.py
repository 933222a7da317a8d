"""``sharding_indexed``: many inner chunks and an index in one stored object (Zarr v3, ZEP 2).

The index lists ``(offset, nbytes)`` of every inner chunk in C order, as uint64, with ``2**64 - 1``
twice for a missing one; it sits at the end (or start) of the object, behind codecs of its own,
which must have a fixed size. Readers may not assume anything about the order of the chunks.

This module is the format only, on bytes in memory. Reading parts of stored shards is address
arithmetic, not a codec's business: see :mod:`zarr_gpu.shards`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from zarr_gpu._types import JSON, Bytes, Int64, NDArray, Shape, UInt64
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Codec, Size
from zarr_gpu.codecs.chain import BoundChain, CodecChain
from zarr_gpu.config import config
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.dtypes import parse_v3
from zarr_gpu.metadata.named import parse_named
from zarr_gpu.metadata.problems import Problems

MISSING = np.uint64(2**64 - 1)
Order: TypeAlias = Literal["lexicographic", "colexicographic", "morton"]
"""How inner chunks follow each other in a shard; readers need not know."""
Index: TypeAlias = UInt64
"""Shape (inner chunks, 2): offset and nbytes; both ``MISSING`` where nothing is stored."""


@dataclass(frozen=True)
class ShardingCodec(ArrayBytesCodec):
    """Inner chunks of ``chunk_shape``, each through ``codecs``."""

    name: ClassVar[str] = "sharding_indexed"

    chunk_shape: Shape
    codecs: tuple[Codec, ...]
    index_codecs: tuple[Codec, ...] | None = None
    index_location: Literal["start", "end"] = "end"
    bound: ShardLayout | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunk_shape", tuple(int(n) for n in self.chunk_shape))
        object.__setattr__(self, "codecs", tuple(self.codecs))
        if self.index_codecs is None:
            object.__setattr__(self, "index_codecs", _default_index_codecs())

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> ShardingCodec:
        """Raises ValueError or MetadataError naming the member at fault."""
        unknown = set(config) - {"chunk_shape", "codecs", "index_codecs", "index_location"}
        if unknown:
            raise ValueError(f"unknown configuration member {min(unknown)!r}")
        shape: Any = config.get("chunk_shape")
        if not isinstance(shape, Sequence) or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"chunk_shape: expected a list of positive integers, found {shape!r}")
        location = config.get("index_location", "end")
        if location not in ("start", "end"):
            raise ValueError(f"index_location: expected 'start' or 'end', found {location!r}")
        index = config.get("index_codecs")
        return cls(
            chunk_shape=tuple(shape),
            codecs=_codecs(config.get("codecs"), "codecs"),
            index_codecs=None if index is None else _codecs(index, "index_codecs"),
            index_location=location,
        )

    def to_config(self) -> dict[str, JSON]:
        return {
            "chunk_shape": list(self.chunk_shape),
            "codecs": [codec.to_dict() for codec in self.codecs],
            "index_codecs": [codec.to_dict() for codec in self.index_codecs or ()],
            "index_location": self.index_location,
        }

    def bind(self, spec: ChunkSpec) -> ShardingCodec:
        layout = _make_layout(self, spec)
        return replace(self, codecs=layout.inner.chain.codecs, bound=layout)

    @property
    def layout(self) -> ShardLayout:
        """Inner chunks and index; only after :meth:`bind`."""
        if self.bound is None:
            raise ValueError("sharding_indexed: bind the codec to a chunk first")
        return self.bound

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(self.layout.max_nbytes, exact=False)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        layout = self.layout
        blobs: list[Bytes | None] = []
        for slot in range(layout.count):
            part = array[layout.slices(slot)]
            empty = spec.data_type.equals_fill(part, spec.fill_value)
            blobs.append(None if empty else layout.inner.encode(np.ascontiguousarray(part)))
        return layout.pack(blobs)

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        layout = self.layout
        index = layout.read_index(len(data), lambda start, n: memoryview(data)[start : start + n])
        result = np.empty(spec.shape, spec.dtype) if out is None else out
        view = memoryview(data)
        for slot in range(layout.count):
            part = result[layout.slices(slot)]
            offset, nbytes = int(index[slot, 0]), int(index[slot, 1])
            if index[slot, 0] == MISSING:
                part[...] = spec.data_type.full(part.shape, spec.fill_value)
            else:
                part[...] = layout.inner.decode(view[offset : offset + nbytes])
        return result


@dataclass(frozen=True, eq=False)
class ShardLayout:
    """A shard of a known shape: how many inner chunks, how they are encoded, where the index is."""

    per_shard: Shape
    inner: BoundChain
    index_chain: BoundChain
    location: Literal["start", "end"]

    @property
    def count(self) -> int:
        """Number of inner chunks."""
        return math.prod(self.per_shard)

    @property
    def index_nbytes(self) -> int:
        """Stored size of the index."""
        return self.index_chain.stored.limit

    @property
    def max_nbytes(self) -> int:
        """Upper bound of a stored shard; holes left by writers that append are allowed for."""
        return 4 * (self.count * (self.inner.stored.limit + 4096) + self.index_nbytes)

    def slices(self, slot: int) -> tuple[Any, ...]:
        """Index of inner chunk number ``slot`` (C order) in the decoded shard.

        It ends in an ellipsis, which gives a view and not an element also where there are no axes.
        """
        where = np.unravel_index(slot, self.per_shard) if self.per_shard else ()
        shape = self.inner.spec.shape
        box = [slice(int(i) * n, (int(i) + 1) * n) for i, n in zip(where, shape, strict=True)]
        return (*box, ...)

    def read_index(self, size: int, read: Callable[[int, int], Bytes]) -> Index:
        """The index of a stored shard of ``size`` bytes, every entry checked.

        ``read(offset, nbytes)`` fetches bytes of the shard. Raises CodecError.
        """
        n = self.index_nbytes
        if size < n:
            raise self._error(
                "shard shorter than its index", f"at least {n} bytes", f"{size} bytes"
            )
        data = read(size - n if self.location == "end" else 0, n)
        index = np.ascontiguousarray(self.index_chain.decode(data), np.uint64).reshape(-1, 2)
        self.check_index(index, size)
        return index

    def check_index(self, index: Index, size: int) -> None:
        """Every inner chunk lies inside the shard, beside the index, and has a possible size."""
        present = index[:, 0] != MISSING
        limit = self.inner.stored.limit
        offset, nbytes = index[:, 0], index[:, 1]
        first = self.body_offset
        end = size if first else size - self.index_nbytes
        # subtraction instead of offset + nbytes, which can wrap around 2**64
        bad = present & ((offset < first) | (offset > end))
        bad |= present & (nbytes > end - np.minimum(offset, end))
        bad |= ~present & (nbytes != MISSING)
        if bad.any():
            slot = int(np.flatnonzero(bad)[0])
            raise self._error(
                f"index entry {slot} points outside the shard",
                f"a range inside bytes {first} to {end}",
                f"offset {offset[slot]}, {nbytes[slot]} bytes",
            )
        long = present & (nbytes > limit)
        if long.any():
            slot = int(np.flatnonzero(long)[0])
            raise self._error(
                f"inner chunk {slot} is larger than its codecs can produce",
                f"at most {limit} bytes",
                f"{nbytes[slot]} bytes",
            )

    def unpack(self, data: Bytes | None) -> list[Bytes | None]:
        """The encoded inner chunks of a shard in C order, None for a missing one or shard.

        Raises CodecError.
        """
        blobs: list[Bytes | None] = [None] * self.count
        if data is None:
            return blobs
        view = memoryview(data)
        index = self.read_index(len(view), lambda start, n: view[start : start + n])
        for slot in np.flatnonzero(index[:, 0] != MISSING).tolist():
            start, n = index[slot].tolist()
            # A view of its own: CPython 3.13 without the interpreter lock counts slices of one view
            # without care for threads.
            blobs[slot] = memoryview(data)[start : start + n]
        return blobs

    def pack(self, blobs: Sequence[Bytes | None], order: Order = "lexicographic") -> Bytes:
        """A shard of encoded inner chunks, given in C order; None is a missing one.

        In the shard they follow each other in ``order``.
        """
        return b"".join(self.parts(blobs, order))

    def parts(self, blobs: Sequence[Bytes | None], order: Order) -> list[Bytes]:
        """What follows each other in such a shard."""
        slots = []
        parts = []
        for slot in slots_in(order, self.per_shard):
            blob = blobs[slot]
            if blob is not None:
                slots.append(slot)
                parts.append(blob)
        index = self.empty_index()
        sizes = np.array([len(part) for part in parts], np.int64)
        place_parts(index, slots, sizes, self.body_offset)
        stored = self.encode_index(index)
        return [stored, *parts] if self.location == "start" else [*parts, stored]

    @property
    def body_offset(self) -> int:
        """Where inner chunks may begin."""
        return self.index_nbytes if self.location == "start" else 0

    def empty_index(self) -> Index:
        """All inner chunks missing."""
        return np.full((self.count, 2), MISSING, np.uint64)

    def encode_index(self, index: Index) -> Bytes:
        """As it is stored."""
        return self.index_chain.encode(index.reshape(*self.per_shard, 2))

    @staticmethod
    def _error(message: str, expected: str, found: str) -> CodecError:
        return CodecError(message, codec="sharding_indexed", expected=expected, found=found)


def rises(order: Order, per_shard: Shape) -> bool:
    """True where inner chunks follow each other in C order."""
    return order == "lexicographic" or sum(n > 1 for n in per_shard) < 2


def slots_in(order: Order, per_shard: Shape) -> Sequence[int]:
    """Numbers (C order) of all inner chunks as they follow each other."""
    return range(math.prod(per_shard)) if rises(order, per_shard) else _permuted(order, per_shard)


def places_in(order: Order, per_shard: Shape) -> Int64:
    """The other way round: the place of each inner chunk."""
    return np.argsort(slots_in(order, per_shard))


def sides_in(order: Order, per_shard: Shape, most: int) -> Shape:
    """Shape of boxes of at most ``most`` inner chunks without others between these.

    For orders other than C order.
    """
    sides = [1] * len(per_shard)
    if order == "morton":
        for _, dim in _turns(per_shard):
            if 2 * math.prod(sides) > most:
                break
            sides[dim] *= 2
        return tuple(sides)
    for dim, n in enumerate(per_shard):
        sides[dim] = max(1, min(n, most // math.prod(sides)))
    return tuple(sides)


@lru_cache(maxsize=16)
def _permuted(order: Order, per_shard: Shape) -> list[int]:
    if order == "colexicographic":
        numbers = np.arange(math.prod(per_shard)).reshape(per_shard).T.reshape(-1)
        return [int(number) for number in numbers]
    coords = np.indices(per_shard).reshape(len(per_shard), -1)
    code = np.zeros(coords.shape[1], np.int64)
    for place, (bit, dim) in enumerate(_turns(per_shard)):
        code |= (coords[dim] >> bit & 1) << place
    return [int(number) for number in np.argsort(code)]


def _turns(per_shard: Shape) -> list[tuple[int, int]]:
    """Which bit of which coordinate is each bit of a place on the Z-order curve, lowest first.

    The compressed Morton code of Neuroglancer's precomputed volumes, as zarr-python uses it: the
    axes take turns, the first one first, and none has more bits than it needs.
    """
    bits = [(n - 1).bit_length() for n in per_shard]
    return [(bit, d) for bit in range(max(bits, default=0)) for d, n in enumerate(bits) if bit < n]


def place_parts(index: Index, slots: Sequence[int] | Int64, sizes: Int64, offset: int) -> int:
    """Enter inner chunks that lie one after the other from ``offset`` on; returns their end."""
    ends = offset + np.cumsum(sizes)
    index[slots, 0] = ends - sizes
    index[slots, 1] = sizes
    return int(ends[-1]) if len(ends) else offset


def _make_layout(codec: ShardingCodec, spec: ChunkSpec) -> ShardLayout:
    shape = spec.shape
    if len(codec.chunk_shape) != len(shape) or any(
        n % c for n, c in zip(shape, codec.chunk_shape, strict=True)
    ):
        raise ValueError(
            f"sharding_indexed: inner chunks {codec.chunk_shape} do not divide the shard {shape}"
        )
    per_shard = tuple(n // c for n, c in zip(shape, codec.chunk_shape, strict=True))
    most = config.current.limits.inner_chunks
    if math.prod(per_shard) > most:
        raise ValueError(
            f"sharding_indexed: {math.prod(per_shard)} inner chunks per shard, at most {most} "
            "allowed (setting limits.inner_chunks)"
        )
    inner = CodecChain.from_codecs(codec.codecs, ("codecs",)).bind(
        ChunkSpec(shape=codec.chunk_shape, data_type=spec.data_type, fill_value=spec.fill_value)
    )
    index_spec = ChunkSpec(shape=(*per_shard, 2), data_type=parse_v3("uint64"), fill_value=MISSING)
    index_codecs = codec.index_codecs or ()
    index_chain = CodecChain.from_codecs(index_codecs, ("index_codecs",)).bind(index_spec)
    if not index_chain.stored.exact:
        raise ValueError("sharding_indexed: index_codecs must have a fixed size")
    return ShardLayout(per_shard, inner, index_chain, codec.index_location)


def _codecs(value: JSON, member: str) -> tuple[Codec, ...]:
    from zarr_gpu.codecs.registry import get_codec

    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{member}: expected a list of codecs, found {value!r}")
    problems = Problems()
    named = [
        parse_named(item, (member, i), problems, ignorable=True) for i, item in enumerate(value)
    ]
    problems.raise_if_any("sharding_indexed")
    return tuple(get_codec(item) for item in named if item is not None)


def _default_index_codecs() -> tuple[Codec, ...]:
    from zarr_gpu.codecs.bytes import BytesCodec
    from zarr_gpu.codecs.checksums import Crc32cCodec

    return (BytesCodec(endian="little"), Crc32cCodec())
