"""From the arguments of ``create_array`` and its kin to :class:`ArrayMetadata`.

Pure: nothing here touches a store. Names, defaults and ``"auto"`` follow zarr-python 3.4.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zarr_gpu._types import JSON, Shape
from zarr_gpu.chunking import parse_chunks, parse_shape, parse_shards
from zarr_gpu.codecs import registry
from zarr_gpu.codecs.base import ArrayArrayCodec, ArrayBytesCodec, BytesBytesCodec, ChunkSpec, Codec
from zarr_gpu.codecs.chain import CodecChain
from zarr_gpu.codecs.sharding import ShardingCodec
from zarr_gpu.config import config
from zarr_gpu.metadata.array import ArrayMetadata, V2Members
from zarr_gpu.metadata.dtypes import DataType, from_dtype_like
from zarr_gpu.metadata.grids import ChunkGrid, RectilinearGrid, RegularGrid
from zarr_gpu.metadata.keys import ChunkKeyEncoding
from zarr_gpu.metadata.named import NamedConfig
from zarr_gpu.metadata.v2 import object_codec_id


class _Default:
    """Sentinel: the data type's own fill value."""

    def __repr__(self) -> str:
        return "<default>"


DEFAULT = _Default()


def _guessed_itemsize(data_type: DataType) -> int:
    """What automatic chunks are made for; like zarr-python, 1 where elements have no fixed size."""
    return 1 if data_type.is_variable else data_type.itemsize


def array_metadata(
    *,
    shape: Any,
    dtype: Any,
    chunks: Any = "auto",
    shards: Any = None,
    filters: Any = "auto",
    compressors: Any = "auto",
    serializer: Any = "auto",
    fill_value: Any = DEFAULT,
    order: str | None = None,
    zarr_format: int | None = None,
    attributes: Mapping[str, JSON] | None = None,
    chunk_key_encoding: Any = None,
    dimension_names: Iterable[str | None] | None = None,
) -> ArrayMetadata:
    """The metadata of a new array. Raises ValueError or TypeError for arguments that do not fit."""
    zarr_format = config.current.default_zarr_format if zarr_format is None else zarr_format
    if zarr_format not in (2, 3):
        raise ValueError(f"zarr_format must be 2 or 3, found {zarr_format!r}")
    shape = parse_shape(shape)
    if order not in (None, "C", "F"):
        raise ValueError(f"order must be 'C' or 'F', found {order!r}")
    keys = parse_key_encoding(chunk_key_encoding, zarr_format)
    common: dict[str, Any] = {
        "zarr_format": zarr_format,
        "shape": shape,
        "attributes": dict(attributes or {}),
        "chunk_key_encoding": keys,
        "extra": {},
    }
    if zarr_format == 2:
        if shards is not None:
            raise ValueError("Zarr format 2 has no shards; use zarr_format=3")
        if serializer is not None and not _is_auto(serializer):
            raise ValueError("Zarr format 2 has no serializer; use filters= and compressors=")
        if dimension_names is not None:
            raise ValueError(
                "Zarr format 2 has no dimension names; xarray's convention is the attribute "
                "'_ARRAY_DIMENSIONS'"
            )
        return _metadata_v2(common, dtype, chunks, filters, compressors, fill_value, order or "C")
    data_type = from_dtype_like(dtype, 3)
    itemsize = _guessed_itemsize(data_type)
    grid = parse_chunks(chunks, shape, itemsize)
    inner: Shape | None = None
    options: dict[str, Any] = {}
    if shards is not None:
        if not isinstance(grid, RegularGrid):
            raise ValueError("inner chunks must be regular; give the list of lengths to shards=")
        inner = grid.chunk_shape
        outer, options = parse_shards(shards, shape, inner, itemsize)
        grid = parse_chunks(outer, shape, itemsize)
    codecs = _codecs_v3(filters, serializer, compressors, data_type)
    if inner is not None:
        codecs = [_sharding(inner, codecs, **options)]
    fill = (
        data_type.default_fill()
        if fill_value is DEFAULT or fill_value is None
        else data_type.cast_fill(fill_value)
    )
    first = (
        grid.chunk_shape
        if isinstance(grid, RegularGrid)
        else tuple(int(axis.extent(np.zeros((), np.int64))) for axis in grid.axes(shape))
    )
    spec = ChunkSpec(shape=first, data_type=data_type, fill_value=fill)
    chain = CodecChain.from_codecs(codecs, ("codecs",))
    if isinstance(chain.array_bytes, ShardingCodec):
        _check_shards(chain, spec, grid)
    bound = chain.bind(spec).chain
    names = None if dimension_names is None else tuple(dimension_names)
    if names is not None and len(names) != len(shape):
        raise ValueError(f"dimension_names {names} for an array of {len(shape)} dimensions")
    return ArrayMetadata(
        **common,
        data_type=data_type,
        chunk_grid=grid,
        fill_value=fill,
        codecs=tuple(_named(codec) for codec in bound.codecs),
        dimension_names=names,
        v2=None,
    )


def _check_shards(chain: CodecChain, spec: ChunkSpec, grid: ChunkGrid) -> None:
    """What a constructor lets pass; and inner chunks that do not divide a shard of a longer axis.

    Raises ValueError.
    """
    ShardingCodec.from_config(chain.array_bytes.to_config())
    if isinstance(grid, RectilinearGrid):
        for axis, lengths in enumerate(grid.chunk_shapes):
            for n in {lengths} if isinstance(lengths, int) else set(lengths):
                chain.bind(replace(spec, shape=(*spec.shape[:axis], n, *spec.shape[axis + 1 :])))


def _sharding(
    chunk_shape: Shape,
    codecs: list[Codec],
    index_location: Any = "end",
    index_codecs: Iterable[Any] | None = None,
) -> ShardingCodec:
    return ShardingCodec(
        chunk_shape=chunk_shape,
        codecs=tuple(codecs),
        index_codecs=None if index_codecs is None else tuple(map(as_codec, index_codecs)),
        index_location=index_location,
    )


def _named(codec: Codec) -> NamedConfig:
    document = codec.to_dict()
    config: Any = document.get("configuration", {})
    return NamedConfig(codec.name, config, document=document)


def parse_key_encoding(value: Any, zarr_format: int) -> ChunkKeyEncoding:
    """None, ``"default"``, ``("v2", ".")``, ``{"name": ..., "separator": ...}`` or the v3 form."""
    if value is None:
        value = {"name": "v2" if zarr_format == 2 else "default"}
    if isinstance(value, ChunkKeyEncoding):
        parsed = value
    else:
        if isinstance(value, str):
            value = {"name": value}
        elif isinstance(value, (tuple, list)):
            value = dict(zip(("name", "separator"), value, strict=True))
        elif not isinstance(value, Mapping):
            to_dict = getattr(value, "to_dict", None)
            if to_dict is None:
                raise TypeError(f"chunk_key_encoding: cannot understand {value!r}")
            value = to_dict()
        name = value.get("name")
        inner = value.get("configuration") or {}
        separator = value.get("separator", inner.get("separator", "." if name == "v2" else "/"))
        if name not in ("default", "v2") or separator not in (".", "/"):
            raise ValueError(
                f"chunk_key_encoding: expected 'default' or 'v2' with '.' or '/', found {value!r}"
            )
        parsed = ChunkKeyEncoding(name=name, separator=separator)
    if zarr_format == 2 and parsed.name != "v2":
        raise ValueError("Zarr format 2 arrays have the chunk key encoding 'v2'")
    return parsed


def _list(value: Any) -> list[Any]:
    """One codec or several, as a list."""
    if value is None:
        return []
    single = isinstance(value, (str, Mapping, Codec)) or hasattr(value, "codec_id")
    if single or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _codecs_v3(filters: Any, serializer: Any, compressors: Any, data_type: DataType) -> list[Codec]:
    from zarr_gpu.codecs.bytes import BytesCodec
    from zarr_gpu.codecs.vlen import VLenBytesCodec, VLenUTF8Codec
    from zarr_gpu.codecs.zstd import ZstdCodec

    first: list[Codec] = []
    if not _is_auto(filters):
        first = [_codec(f, ArrayArrayCodec, "filters") for f in _list(filters)]
    middle: Codec
    if not _is_auto(serializer):
        middle = _codec(serializer, ArrayBytesCodec, "serializer")
    elif data_type.kind == "string":
        middle = VLenUTF8Codec()
    elif data_type.kind == "bytes":
        middle = VLenBytesCodec()
    elif data_type.kind == "object":
        raise ValueError("object arrays need a serializer= that says how to store the objects")
    else:
        middle = BytesCodec(endian="little" if data_type.multi_byte else None)
    if _is_auto(compressors):
        last: list[Codec] = [ZstdCodec()]
    else:
        last = [_codec(c, BytesBytesCodec, "compressors") for c in _list(compressors)]
    return [*first, middle, *last]


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _codec(value: Any, kind: type[Codec], argument: str) -> Codec:
    codec = as_codec(value)
    if not isinstance(codec, kind):
        wanted = kind.kind.replace("_", " -> ")
        raise TypeError(f"{argument}: {codec.name!r} is not {wanted}")
    return codec


def as_codec(value: Any) -> Codec:
    """A codec object, its document, a numcodecs object or its configuration, as a v3 codec."""
    found = registry.codec_from_user(value)
    if isinstance(found, Codec):
        return found
    name = str(found["id"])
    if name in ("blosc", "zstd", "gzip"):  # the same bytes under a registered name
        return registry.from_v2(found)
    configuration = {k: v for k, v in found.items() if k != "id"}
    return registry.get_codec({"name": "numcodecs." + name, "configuration": configuration})


def _v2_config(value: Any) -> dict[str, JSON]:
    """The numcodecs configuration of a codec given in any form."""
    found = registry.codec_from_user(value)
    if not isinstance(found, Codec):
        if found["id"] == "zstd" and found.get("checksum") is False:
            del found["checksum"]  # the default, which older versions of numcodecs do not know
        return found
    to_numcodecs = getattr(found, "to_numcodecs", None)
    if to_numcodecs is None:
        raise TypeError(f"codec {found.name!r} has no counterpart in Zarr format 2")
    return {"id": found.name.removeprefix("numcodecs."), **to_numcodecs()}


def _metadata_v2(
    common: dict[str, Any],
    dtype: Any,
    chunks: Any,
    filters: Any,
    compressors: Any,
    fill_value: Any,
    order: Any,
) -> ArrayMetadata:
    members = [] if _is_auto(filters) else [_v2_config(f) for f in _list(filters)]
    one = [{"id": "zstd", "level": 0}] if _is_auto(compressors) else _list(compressors)
    if len(one) > 1:
        raise TypeError(
            f"Zarr format 2 has one compressor, found {len(one)}; put others in filters"
        )
    compressor = _v2_config(one[0]) if one else None
    data_type = _data_type_v2(dtype, members, compressor)
    if data_type.is_variable and object_codec_id([*members, compressor or {}]) is None:
        members.insert(0, {"id": "vlen-utf8" if data_type.kind == "string" else "vlen-bytes"})
    grid = parse_chunks(chunks, common["shape"], _guessed_itemsize(data_type))
    if not isinstance(grid, RegularGrid):
        raise ValueError("Zarr format 2 has regular chunks only; use zarr_format=3")
    if fill_value is DEFAULT:
        fill = data_type.default_fill()
    else:
        fill = None if fill_value is None else data_type.cast_fill(fill_value)
    return ArrayMetadata(
        **common,
        data_type=data_type,
        chunk_grid=grid,
        fill_value=fill,
        codecs=(),
        dimension_names=None,
        v2=V2Members(
            order=order, compressor=compressor, filters=tuple(members) if members else None
        ),
    )


def _data_type_v2(
    dtype: Any, filters: Sequence[Mapping[str, JSON]], compressor: Mapping[str, JSON] | None
) -> DataType:
    """``dtype``; an object dtype takes its meaning from the object codec among the filters."""
    codec = object_codec_id([*filters, compressor or {}])
    if codec is not None and (dtype is object or getattr(dtype, "hasobject", False)):
        from zarr_gpu.metadata.dtypes import parse_v2

        return parse_v2("|O", codec)
    return from_dtype_like(dtype, 2)


def with_shape(metadata: ArrayMetadata, shape: Shape) -> ArrayMetadata:
    """The same array resized; a rectilinear grid must still cover it."""
    if len(shape) != len(metadata.shape):
        raise ValueError(
            f"an array of {len(metadata.shape)} dimensions cannot be resized to shape {shape}"
        )
    resized = replace(metadata, shape=shape)
    if isinstance(metadata.chunk_grid, RectilinearGrid):
        metadata.chunk_grid.axes(shape)
    return resized


def warn_of_order(order: str | None, zarr_format: int) -> None:
    """v3 stores no memory order; say so where a caller may think otherwise."""
    if order == "F" and zarr_format == 3:
        warnings.warn(
            "order='F' only sets the memory layout of arrays returned by this object: Zarr format "
            "3 stores no order (a transpose codec stores chunks transposed)",
            UserWarning,
            stacklevel=4,
        )
