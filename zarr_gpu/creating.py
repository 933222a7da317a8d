"""Creating arrays, from arguments, data or other arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from zarr_gpu._types import JSON
from zarr_gpu.array import Array, parse_settings
from zarr_gpu.chunking import parse_shape
from zarr_gpu.codecs.chain import CodecChain
from zarr_gpu.creation import DEFAULT, array_metadata, as_codec, warn_of_order
from zarr_gpu.group import Group, like
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.grids import RectilinearGrid
from zarr_gpu.metadata.paths import check_node_path
from zarr_gpu.nodes import Metadata, StorePath, create_node, join
from zarr_gpu.places import chosen_format, find_place, refuse_legacy
from zarr_gpu.stores.base import Store
from zarr_gpu.tensors import plain


def create_array(
    store: Any = None,
    *,
    name: str | None = None,
    shape: Any = None,
    dtype: Any = None,
    data: Any = None,
    chunks: Any = "auto",
    shards: Any = None,
    filters: Any = "auto",
    compressors: Any = "auto",
    serializer: Any = "auto",
    fill_value: Any = DEFAULT,
    order: str | None = None,
    zarr_format: int | None = 3,
    attributes: Mapping[str, JSON] | None = None,
    chunk_key_encoding: Any = None,
    dimension_names: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    config: Any = None,
    write_data: bool = True,
    device: str | None = None,
    compressor: Any = DEFAULT,
) -> Array:
    """A new array, empty or holding ``data``.

    ``chunks`` are the units of reading; with ``shards`` many of them share a stored object.
    ``filters`` (array -> array), ``serializer`` (array -> bytes) and ``compressors`` (bytes ->
    bytes) make up the codec chain; ``"auto"`` is plain bytes and zstd. Raises ValueError or
    TypeError for arguments that do not fit, ContainsArrayError when a node is there.
    """
    if data is not None:
        if shape is not None or dtype is not None:
            raise ValueError("data has its own shape and dtype; give either data or those")
        data = plain(data)
        data = data if hasattr(data, "dtype") and hasattr(data, "shape") else np.asarray(data)
        shape, dtype = data.shape, data.dtype
    if shape is None or dtype is None:
        raise ValueError("create_array needs either data, or shape and dtype")
    if compressor is not DEFAULT:
        compressors = compressor
    place = find_place(store, name, "a", storage_options)
    order = _stored_order(order, config, zarr_format)
    metadata = array_metadata(
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        filters=filters,
        compressors=compressors,
        serializer=serializer,
        fill_value=fill_value,
        order=order,
        zarr_format=zarr_format,
        attributes=attributes,
        chunk_key_encoding=chunk_key_encoding,
        dimension_names=dimension_names,
    )
    return _new_array(
        place, metadata, data if write_data else None, order, config, device, overwrite=overwrite
    )


def _stored_order(order: str | None, config: Any, zarr_format: int | None) -> str | None:
    """The order v2 stores: the one asked for, or that of the settings."""
    if order is None and chosen_format(zarr_format) == 2:
        return parse_settings(config).order
    return order


def _new_array(
    place: StorePath,
    metadata: ArrayMetadata,
    data: Any,
    order: str | None,
    config: Any,
    device: str | None,
    *,
    overwrite: bool,
) -> Array:
    warn_of_order(order, metadata.zarr_format)
    if isinstance(data, Array) and overwrite and overlap(place, data.store_path):
        raise ValueError(f"overwriting {place} would destroy the source array {data.name!r}")
    settings = parse_settings(config)
    if order is not None:
        settings = parse_settings({"order": order}, settings)
    array = Array(place, metadata, settings=settings, device=device)  # checks the codecs first
    create_node(place.store, place.path, metadata, overwrite=overwrite)
    if data is not None and array.size:
        _copy_values(data, array)
    return array


def _copy_values(source: Any, array: Array) -> None:
    """Fill a new array, piece by piece when the source is itself stored."""
    if not isinstance(source, Array):
        array[...] = source
        return
    for region in _write_regions(array):
        array[region] = source[region]


def _write_regions(array: Array) -> Iterator[tuple[slice, ...]]:
    """The array cut at the borders of its stored objects."""
    sizes = array.write_chunk_sizes
    for where in np.ndindex(*(len(s) for s in sizes)):
        region = []
        for i, lengths in zip(where, sizes, strict=True):
            start = sum(lengths[:i]) if len(set(lengths)) > 2 else i * lengths[0]
            region.append(slice(start, start + lengths[i]))
        yield tuple(region)


def create(
    shape: Any,
    *,
    chunks: Any = None,
    dtype: Any = None,
    compressor: Any = "auto",
    fill_value: Any = DEFAULT,
    order: str | None = None,
    store: Any = None,
    overwrite: bool = False,
    path: str | None = None,
    filters: Any = None,
    read_only: bool | None = None,
    object_codec: Any = None,
    dimension_separator: str | None = None,
    write_empty_chunks: bool | None = None,
    zarr_format: int | None = None,
    attributes: Mapping[str, JSON] | None = None,
    chunk_shape: Any = None,
    chunk_key_encoding: Any = None,
    codecs: Any = None,
    dimension_names: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    config: Any = None,
    mode: str | None = None,
    data: Any = None,
    device: str | None = None,
    compressors: Any = DEFAULT,
    **further: Any,
) -> Array:
    """A new array, with the argument names of Zarr 2; see :func:`create_array`."""
    new_style: dict[str, Any] = {
        k: further.pop(k) for k in ("shards", "serializer") if k in further
    }
    refuse_legacy(further)
    zarr_format = chosen_format(zarr_format)
    if chunk_shape is not None and chunks is not None:
        raise ValueError("give either chunks or chunk_shape")
    chunks = chunks if chunk_shape is None else chunk_shape
    if dimension_separator is not None:
        if chunk_key_encoding is not None or zarr_format == 3:
            raise ValueError("dimension_separator is for Zarr format 2; use chunk_key_encoding")
        chunk_key_encoding = {"name": "v2", "separator": dimension_separator}
    chosen = compressor if compressors is DEFAULT else compressors
    arguments: dict[str, Any] = {"compressors": chosen, **new_style}
    if filters is not None:
        arguments["filters"] = filters
    if object_codec is not None:
        arguments["filters"] = [object_codec, *(filters or [])]
    if codecs is not None:
        if zarr_format == 2:
            raise ValueError("codecs= is for Zarr format 3; use filters= and compressor=")
        arguments = _split_codecs(codecs)
    place = find_place(store, path, mode or "a", storage_options)
    if mode == "r":
        raise ValueError("mode 'r' cannot create an array")
    order = _stored_order(order, config, zarr_format)
    metadata = array_metadata(
        shape=shape,
        dtype="float64" if dtype is None else dtype,
        chunks="auto" if chunks is None else chunks,
        fill_value=fill_value,
        order=order,
        zarr_format=zarr_format,
        attributes=attributes,
        chunk_key_encoding=chunk_key_encoding,
        dimension_names=dimension_names,
        **arguments,
    )
    if write_empty_chunks is not None:
        config = parse_settings({"write_empty_chunks": write_empty_chunks}, parse_settings(config))
    array = _new_array(
        place,
        metadata,
        data,
        order,
        config,
        device,
        overwrite=mode == "w" or (overwrite and mode != "w-"),
    )
    if read_only:
        return Array(StorePath(place.store.with_read_only(), place.path), metadata)
    return array


def _split_codecs(codecs: Any) -> dict[str, Any]:
    """A whole v3 chain as the three arguments of :func:`create_array`."""
    chain = CodecChain.from_codecs([as_codec(c) for c in codecs], ("codecs",))
    return {
        "filters": chain.array_array,
        "serializer": chain.array_bytes,
        "compressors": chain.bytes_bytes,
    }


def arguments_of(array: Array) -> dict[str, Any]:
    """Arguments of :func:`create_array` that make an array like this one."""
    metadata = array.metadata
    grid = metadata.chunk_grid
    outer: Any = grid.chunk_shapes if isinstance(grid, RectilinearGrid) else grid.chunk_shape
    out: dict[str, Any] = {
        "shape": array.shape,
        "dtype": metadata.data_type,
        "chunks": array.chunks if array._layout.sharded else outer,  # noqa: SLF001 - one layer below
        "fill_value": array.fill_value,
        "attributes": array.attrs.asdict(),
        "zarr_format": metadata.zarr_format,
        "chunk_key_encoding": metadata.chunk_key_encoding,
        "compressors": array.compressors,
        "filters": array.filters,
    }
    if metadata.zarr_format == 2:
        out["order"] = array.order
        return out
    out["serializer"] = array.serializer
    out["dimension_names"] = metadata.dimension_names
    if array._layout.sharded:  # noqa: SLF001
        codec: Any = array._layout.chain.array_bytes  # noqa: SLF001
        out["shards"] = {
            "shape": outer,
            "index_location": codec.index_location,
            "index_codecs": codec.index_codecs,
        }
    return out


def from_array(
    store: Any,
    *,
    data: Any,
    write_data: bool = True,
    name: str | None = None,
    chunks: Any = "keep",
    shards: Any = "keep",
    filters: Any = "keep",
    compressors: Any = "keep",
    serializer: Any = "keep",
    fill_value: Any = DEFAULT,
    order: str | None = None,
    zarr_format: int | None = None,
    attributes: Mapping[str, JSON] | None = None,
    chunk_key_encoding: Any = None,
    dimension_names: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    config: Any = None,
    device: str | None = None,
) -> Array:
    """A new array from an Array (keeping its layout and codecs) or from any array-like.

    ``"keep"`` takes a property over from ``data`` where it has one. Raises ValueError when the new
    array would overwrite ``data`` itself.
    """
    given = {
        "chunks": chunks,
        "shards": shards,
        "filters": filters,
        "compressors": compressors,
        "serializer": serializer,
    }
    kept: dict[str, Any] = {}
    if isinstance(data, Array):
        kept = arguments_for(data, zarr_format)
    else:
        data = plain(data)
        data = data if hasattr(data, "dtype") else np.asarray(data)
        kept = {"shape": data.shape, "dtype": data.dtype, "zarr_format": 3}
        if isinstance(getattr(data, "chunks", None), tuple):
            kept["chunks"] = data.chunks
    arguments = {k: v for k, v in given.items() if not (isinstance(v, str) and v == "keep")}
    if "chunks" in arguments and "shards" not in arguments:
        kept.pop("shards", None)
    explicit = {
        "order": order,
        "zarr_format": zarr_format,
        "attributes": attributes,
        "chunk_key_encoding": chunk_key_encoding,
        "dimension_names": dimension_names,
    }
    arguments |= {k: v for k, v in explicit.items() if v is not None}
    if fill_value is not DEFAULT:
        arguments["fill_value"] = fill_value
    merged = {**kept, **arguments}
    place = find_place(store, name, "a", storage_options)
    metadata = array_metadata(**merged)
    return _new_array(
        place,
        metadata,
        data if write_data else None,
        merged.get("order"),
        config,
        device,
        overwrite=overwrite,
    )


def arguments_for(array: Array, zarr_format: int | None) -> dict[str, Any]:
    """:func:`arguments_of`, less what another format says differently."""
    kept = arguments_of(array)
    if zarr_format in (None, array.metadata.zarr_format):
        return kept
    for member in ("filters", "compressors", "serializer", "chunk_key_encoding", "order"):
        kept.pop(member, None)
    kept["dtype"] = array.dtype
    names = kept.pop("dimension_names", None)
    if names is not None:  # the convention of xarray, as v2 has no member for them
        kept["attributes"] = {**kept["attributes"], "_ARRAY_DIMENSIONS": list(names)}
    return kept


def overlap(a: StorePath, b: StorePath) -> bool:
    """True when one node is the other or lies below it."""
    if a.store.identity != b.store.identity:
        return False
    paths = sorted((a.path, b.path), key=len)
    return paths[1] == paths[0] or not paths[0] or paths[1].startswith(paths[0] + "/")


def array(data: Any, **kwargs: Any) -> Array:
    """A new array holding ``data``; further arguments as for :func:`create`."""
    if isinstance(data, Array):
        kwargs = {**like(data, kwargs.get("zarr_format")), **kwargs}
        for modern, old in (("compressors", "compressor"),):
            if old in kwargs:
                kwargs.pop(modern, None)
        kwargs.pop("shape", None)
        kwargs.pop("dtype", None)
        kwargs.setdefault("zarr_format", data.metadata.zarr_format)
        return create(data.shape, dtype=data.metadata.data_type, data=data, **kwargs)
    data = plain(data)
    dtype = kwargs.pop("dtype", None)
    values = np.asarray(data, dtype) if not hasattr(data, "shape") or dtype else data
    if parse_shape(kwargs.pop("shape", values.shape)) != values.shape:
        raise ValueError(f"the data have shape {values.shape}, not the one that shape= gives")
    return create(values.shape, dtype=values.dtype, data=values, **kwargs)


def empty(shape: Any, **kwargs: Any) -> Array:
    """A new array whose missing chunks read as the type's default (never as garbage)."""
    return create(shape, **kwargs)


def zeros(shape: Any, **kwargs: Any) -> Array:
    """A new array of fill value 0."""
    return create(shape, fill_value=0, **kwargs)


def ones(shape: Any, **kwargs: Any) -> Array:
    """A new array of fill value 1."""
    return create(shape, fill_value=1, **kwargs)


def full(shape: Any, fill_value: Any, **kwargs: Any) -> Array:
    """A new array of fill value ``fill_value``."""
    return create(shape, fill_value=fill_value, **kwargs)


def _like(a: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    base = like(a, kwargs.get("zarr_format"))
    if "compressor" in kwargs:
        base.pop("compressors", None)
    if isinstance(a, Array):
        base["zarr_format"] = a.metadata.zarr_format
    return {**base, **{k: v for k, v in kwargs.items() if not (k == "zarr_format" and v is None)}}


def empty_like(a: Any, **kwargs: Any) -> Array:
    """A new array shaped, typed, chunked and compressed like ``a``."""
    return create(**_like(a, kwargs))


def zeros_like(a: Any, **kwargs: Any) -> Array:
    """The same, of fill value 0."""
    return create(**{**_like(a, kwargs), "fill_value": 0})


def ones_like(a: Any, **kwargs: Any) -> Array:
    """The same, of fill value 1."""
    return create(**{**_like(a, kwargs), "fill_value": 1})


def full_like(a: Any, **kwargs: Any) -> Array:
    """The same, with ``fill_value`` (by default that of ``a``)."""
    return create(**_like(a, kwargs))


def create_nodes(
    store: Store, nodes: Mapping[str, Metadata], *, overwrite: bool = False
) -> Iterator[tuple[str, Array | Group]]:
    """Create nodes at absolute paths, parents first."""
    for path in sorted(nodes, key=lambda p: p.count("/")):
        metadata = nodes[path]
        place = StorePath(store, path)
        node: Array | Group
        if isinstance(metadata, ArrayMetadata):
            node = Array(place, metadata)
        else:
            node = Group(place, metadata)
        create_node(store, path, metadata, overwrite=overwrite)
        yield path, node


def create_hierarchy(
    *, store: Any, nodes: Mapping[str, Metadata], overwrite: bool = False
) -> Iterator[tuple[str, Array | Group]]:
    """Create many nodes from their metadata; missing groups between them are created too.

    Yields ``(path, node)``. All nodes are checked before the first one is stored.
    """
    place = find_place(store, None, "a", None)
    checked = {join(place.path, check_node_path(path)): m for path, m in nodes.items()}
    yield from create_nodes(place.store, checked, overwrite=overwrite)
