"""How an array is to be stored elsewhere: the metadata of a conversion's target. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zarr_gpu._types import JSON, Shape
from zarr_gpu.array import Array
from zarr_gpu.creating import arguments_for, arguments_of
from zarr_gpu.creation import array_metadata
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.tools import missing
from zarr_gpu.tools.formats import DIMENSIONS, array_v3, codecs_v2

KEEP = "keep"
INNER_NBYTES = 256 << 10
"""Of an inner chunk of the layout for GPUs: 4,096 of them in 1 GiB, half of what an H100 holds at a
time (8,448 warps; the page "GPU")."""
BLOCK_NBYTES = 64 << 10
"""Of a block of Blosc, a stream each: what NVIDIA advises for batched decoders."""
SHARD_NBYTES = 64 << 20
"""Of a shard: one file and one large read for some hundred chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What changes; :data:`KEEP` is taken over from the source. As for ``create_array``.

    ``chunks`` and ``shards`` may be mappings from names of dimensions to lengths, -1 for the whole
    axis; other axes keep theirs. ``like="gpu"`` chooses chunks, shards and codecs for a GPU.
    """

    zarr_format: int | None = None
    chunks: Any = KEEP
    shards: Any = KEEP
    filters: Any = KEEP
    compressors: Any = KEEP
    fill_value: Any = KEEP
    like: str | None = None

    def __post_init__(self) -> None:
        if self.like not in (None, "gpu"):
            raise ValueError(f"like must be 'gpu' or None, found {self.like!r}")
        if self.zarr_format not in (None, 2, 3):
            raise ValueError(f"zarr_format must be 2 or 3, found {self.zarr_format!r}")
        if self.like and self.zarr_format == 2:
            raise ValueError("the layout for GPUs has shards, which Zarr format 2 has not")

    @property
    def same_chunks(self) -> bool:
        """True when stored chunks can be taken over as they are."""
        given = (self.chunks, self.shards, self.filters, self.compressors, self.fill_value)
        return self.like is None and all(_kept(value) for value in given)


def _kept(value: Any) -> bool:
    return isinstance(value, str) and value == KEEP


def described(array: Array, zarr_format: int | None) -> dict[str, Any]:
    """Arguments of :func:`array_metadata` for an array like this one, in either format.

    Codecs are kept where the other format has them. Names of dimensions and xarray's attribute for
    them are translated into each other.
    """
    here = array.metadata.zarr_format
    wanted = zarr_format or here
    if wanted == here:
        return arguments_of(array)
    if wanted == 3:
        try:
            twin = array_v3(array.metadata, array.path)
            out = arguments_of(Array(array.store_path, twin, device="cpu"))
            out.pop("chunk_key_encoding")
        except UnsupportedError:
            out = arguments_for(array, 3)
        out = {**out, "zarr_format": 3}
        named = _with_dimension_names(out)
        if named is out:
            return out
        return missing.into_v3(named, array.dtype, array.metadata.fill_value)
    out = {**_plain(array, 2), **_codecs_v2(array)}
    if not array.shape:  # xarray wants to know that there are no names
        out["attributes"] = {DIMENSIONS: [], **out["attributes"]}
    return missing.into_v2(out, array.dtype)


def _plain(array: Array, zarr_format: int | None) -> dict[str, Any]:
    """The same with the codecs of the other format's defaults."""
    if zarr_format is None:
        return arguments_of(array)
    return {**arguments_for(array, zarr_format), "zarr_format": zarr_format}


def _with_dimension_names(arguments: dict[str, Any]) -> dict[str, Any]:
    attributes = dict(arguments["attributes"])
    names = attributes.get(DIMENSIONS)
    fits = isinstance(names, list) and len(names) == len(arguments["shape"])
    if fits and all(isinstance(name, str) for name in names):  # type: ignore[union-attr]  # a list
        del attributes[DIMENSIONS]
        return {**arguments, "attributes": attributes, "dimension_names": names}
    return arguments


def _codecs_v2(array: Array) -> dict[str, Any]:
    """Filters, compressor and order of a format 3 chain; UnsupportedError if there are none."""
    from zarr_gpu.codecs.transpose import TransposeCodec

    out: dict[str, Any] = {"order": "C"}
    ndim = len(array.shape)
    first = list(array.filters)
    if first and isinstance(first[0], TransposeCodec):
        if tuple(first[0].order) != tuple(range(ndim - 1, -1, -1)):
            raise UnsupportedError(
                f"array {array.name!r}: Zarr format 2 stores axes in order or reversed, "
                f"not {first[0].order}; give filters=[] (--filter none)"
            )
        out["order"] = "F"
        first.pop(0)
    if getattr(array.serializer, "endian", None) == "big":
        out["dtype"] = array.dtype.newbyteorder(">")
    last = list(array.compressors)
    compressor = codecs_v2(last.pop()) if last else None
    filters = [codecs_v2(codec) for codec in (*first, *last)]
    return {**out, "filters": filters or None, "compressors": compressor}


def target_metadata(array: Array, layout: Layout) -> ArrayMetadata:
    """The metadata of ``array`` stored as ``layout`` says. Raises ValueError, UnsupportedError."""
    wanted = 3 if layout.like else layout.zarr_format
    try:
        arguments = described(array, wanted)
    except UnsupportedError:
        if _kept(layout.compressors) and _kept(layout.filters):
            raise
        arguments = _plain(array, wanted)
    metadata = changed(arguments, layout)
    if metadata.zarr_format == array.metadata.zarr_format:
        return metadata.replace(extra=array.metadata.extra)
    return metadata


def changed(arguments: dict[str, Any], layout: Layout) -> ArrayMetadata:
    """Metadata of ``arguments`` (of :func:`array_metadata`) with what ``layout`` gives."""
    arguments = dict(arguments)
    if layout.like:
        dtype = getattr(arguments["dtype"], "dtype", None) or np.dtype(arguments["dtype"])
        arguments |= gpu_layout(tuple(arguments["shape"]), dtype)
    shape = tuple(arguments["shape"])
    names = dimension_names(arguments)
    if not _kept(layout.chunks):
        arguments["chunks"] = axes(layout.chunks, shape, names, arguments["chunks"])
        if _kept(layout.shards) and arguments.get("shards") is not None:
            arguments["shards"] = fitting_shards(arguments["shards"], arguments["chunks"], shape)
    if not _kept(layout.shards):
        old = arguments.get("shards") or arguments["chunks"]
        old = old["shape"] if isinstance(old, Mapping) else old
        arguments["shards"] = axes(layout.shards, shape, names, old)
    if arguments.get("zarr_format") == 2 and (
        _kept(layout.shards) or arguments.get("shards") is None
    ):
        arguments.pop("shards", None)  # that format has none: the inner chunks become objects
    for name in ("filters", "compressors", "fill_value"):
        value = getattr(layout, name)
        if not _kept(value):
            arguments[name] = value
    return array_metadata(**arguments)


def for_array(layout: Layout, ndim: int, names: Sequence[str | None]) -> Layout:
    """What is meant for one array of a hierarchy: chunks for its number of axes, names it has."""
    changes: dict[str, Any] = {}
    for member in ("chunks", "shards"):
        value = getattr(layout, member)
        if isinstance(value, tuple | list) and len(value) != ndim:
            changes[member] = KEEP
        elif isinstance(value, Mapping):
            changes[member] = {name: n for name, n in value.items() if name in names} or KEEP
    return replace(layout, **changes) if changes else layout


def names_of(array: Array) -> tuple[str | None, ...]:
    """Names of the axes of an array, in either format."""
    metadata = array.metadata
    return dimension_names(
        {
            "shape": array.shape,
            "dimension_names": metadata.dimension_names,
            "attributes": metadata.attributes,
        }
    )


def fitting_shards(shards: Any, chunks: Any, shape: Shape) -> Any:
    """The old shards made multiples of new inner chunks."""
    old = shards["shape"] if isinstance(shards, Mapping) else shards
    if not all(isinstance(n, int) for n in (*old, *chunks)):
        return None
    new = tuple(max(1, round(s / c)) * c for s, c in zip(old, chunks, strict=True))
    return {**shards, "shape": new} if isinstance(shards, Mapping) else new


def dimension_names(arguments: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Names of the axes, however they are told."""
    names = arguments.get("dimension_names")
    if names is None:
        names = arguments.get("attributes", {}).get(DIMENSIONS)
    ndim = len(arguments["shape"])
    if isinstance(names, list | tuple) and len(names) == ndim:
        return tuple(n if isinstance(n, str) else None for n in names)
    return (None,) * ndim


def axes(value: Any, shape: Shape, names: tuple[str | None, ...], old: Any) -> Any:
    """``value`` for an array of ``shape``: lengths by name are put in order, -1 is the whole axis.

    Raises ValueError for a name that no axis has, and for another number of axes.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        unknown = set(value) - set(names)
        if unknown:
            raise ValueError(
                f"no dimension is called {min(unknown)!r}; the names are "
                f"{', '.join(map(str, names)) or 'none'}"
            )
        value = [value.get(name, o) for name, o in zip(names, old, strict=True)]
    items = [value] * len(shape) if isinstance(value, int) else list(value)
    if len(items) != len(shape):
        raise ValueError(f"{items} has {len(items)} axes, the array has {len(shape)}")
    return tuple(max(1, n) if item == -1 else item for item, n in zip(items, shape, strict=True))


def gpu_layout(shape: Shape, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Inner chunks, shards and codecs that give a GPU many short streams to decode at a time.

    Inner chunks of about :data:`INNER_NBYTES` as near to cubes as the axes allow, in shards of
    about :data:`SHARD_NBYTES`, stored by Blosc with LZ4 and bit-shuffle in blocks of
    :data:`BLOCK_NBYTES`: bit-shuffle makes LZ4's sequences long, and our kernels decode LZ4
    whatever bytes they are given, so the store need not be trusted. No card has measured this yet.

    >>> gpu_layout((10_000, 10_000), np.dtype("f4"))["chunks"]
    (256, 256)
    """
    if dtype.hasobject or dtype.kind == "T":
        return {"zarr_format": 3}
    chunks = _near_cube(shape, max(1, INNER_NBYTES // max(1, dtype.itemsize)), (1,) * len(shape))
    shards = _near_cube(shape, max(1, SHARD_NBYTES // max(1, dtype.itemsize)), chunks)
    codec: dict[str, JSON] = {
        "name": "blosc",
        "configuration": {
            "typesize": min(dtype.itemsize, 255),
            "cname": "lz4",
            "clevel": 5,
            "shuffle": "bitshuffle",
            "blocksize": BLOCK_NBYTES,
        },
    }
    return {
        "chunks": chunks,
        "shards": None if shards == chunks else shards,
        "compressors": [codec],
        "zarr_format": 3,
    }


def _near_cube(shape: Shape, size: int, units: Shape) -> Shape:
    """Multiples of ``units`` by powers of two: near ``size`` elements, sides as equal as can be."""
    sides = list(units)
    while math.prod(sides) * 2 <= size:
        short = [d for d, n in enumerate(shape) if sides[d] < n]
        if not short:
            break
        # the shortest side, and of several the last: it is contiguous
        d = min(short, key=lambda d: (sides[d], -d))
        sides[d] *= 2
    whole = all(unit == 1 for unit in units)
    return tuple(max(1, min(s, n)) if whole else s for s, n in zip(sides, shape, strict=True))
