"""The same stored bytes in the words of the other format: metadata of format 2 as format 3.

Chunks stay as they are. Documents of format 3 are those that ``zarr migrate v3`` of zarr-python
writes; strings and bytes of any length, which it refuses, are translated, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zarr_gpu._types import JSON
from zarr_gpu.codecs import registry
from zarr_gpu.codecs.base import ArrayArrayCodec, BytesBytesCodec, Codec
from zarr_gpu.errors import MetadataError, UnsupportedError
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.v2 import object_codec_id
from zarr_gpu.metadata.v3 import parse_array_v3

DIMENSIONS = "_ARRAY_DIMENSIONS"
"""xarray's attribute for dimension names in format 2."""
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")


def group_v3(metadata: GroupMetadata) -> GroupMetadata:
    """The group in format 3, its listing left out."""
    return GroupMetadata(zarr_format=3, attributes=metadata.attributes)


def array_v3(metadata: ArrayMetadata, path: str = "") -> ArrayMetadata:
    """A format 2 array whose chunks stay where and what they are, in format 3.

    Raises UnsupportedError, naming the filter or compressor, for what format 3 has no name for.
    """
    v2 = metadata.v2
    if v2 is None:
        raise ValueError(f"array {path or '/'!r} has format 3 already")
    codecs: list[JSON] = []
    ndim = len(metadata.shape)
    if v2.order == "F":
        codecs.append(
            {"name": "transpose", "configuration": {"order": list(range(ndim - 1, -1, -1))}}
        )
    filters = list(v2.filters or ())
    try:
        serializer = _serializer(metadata, filters, v2.compressor)
        codecs += [_array_codec(f) for f in filters]
        codecs.append(serializer)
        if v2.compressor:
            codecs.append(_compressor(v2.compressor, metadata.data_type.dtype.itemsize))
    except (UnsupportedError, MetadataError, ValueError) as error:
        raise UnsupportedError(f"array {path or '/'!r}: {error}") from None
    fill = metadata.fill_value
    data_type = metadata.data_type
    document: dict[str, Any] = {
        "shape": list(metadata.shape),
        "data_type": data_type.to_json(),
        "chunk_grid": metadata.chunk_grid.to_json(),
        "chunk_key_encoding": metadata.chunk_key_encoding.to_json(),
        "fill_value": data_type.fill_to_json(data_type.default_fill() if fill is None else fill, 3),
        "codecs": codecs,
        "attributes": metadata.attributes,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return parse_array_v3(document, path or "/")


def _serializer(
    metadata: ArrayMetadata, filters: list[Mapping[str, JSON]], compressor: Any
) -> JSON:
    """The codec that makes bytes; an object codec leaves ``filters``."""
    if metadata.data_type.is_variable:
        name = object_codec_id([*filters, compressor or {}])
        if name in ("vlen-utf8", "vlen-bytes") and filters and filters[0].get("id") == name:
            filters.pop(0)
            return {"name": name}
        raise UnsupportedError(f"objects stored by {name!r} have no data type in format 3")
    dtype = metadata.data_type.dtype
    if dtype.names is not None:
        if not _all_little(metadata.v2.dtype if metadata.v2 is not None else None):
            raise UnsupportedError("fields stored with their highest byte first")
        return {"name": "bytes", "configuration": {"endian": "little"}}
    if dtype.kind not in "iufcmMU" or dtype.itemsize < 2:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": _endian(metadata)}}


def _endian(metadata: ArrayMetadata) -> str:
    said = metadata.v2.dtype if metadata.v2 is not None else None
    text = said if isinstance(said, str) else metadata.data_type.dtype.str
    return "big" if np.dtype(text).newbyteorder("=") != np.dtype(text) else "little"


def _all_little(dtype: JSON) -> bool:
    """Of a format 2 type with fields, nested ones too."""
    if isinstance(dtype, list):
        return all(_all_little(field[1] if isinstance(field, list) else field) for field in dtype)
    return not (isinstance(dtype, str) and dtype.startswith(">"))


def _array_codec(config: Mapping[str, JSON]) -> JSON:
    name = f"numcodecs.{config['id']}"
    found = registry.get_codec(
        {"name": name, "configuration": {k: v for k, v in config.items() if k != "id"}}
    )
    if not isinstance(found, ArrayArrayCodec):
        raise UnsupportedError(
            f"filter {config['id']!r} works on bytes, and format 3 has filters of arrays only; "
            "convert stores the array with other codecs (zarr-gpu convert --compressor zstd)"
        )
    return {"name": name, "configuration": found.to_config()}


def _compressor(config: Mapping[str, Any], itemsize: int) -> JSON:
    codec = registry.from_v2(config)
    if not isinstance(codec, BytesBytesCodec):
        raise UnsupportedError(f"compressor {config['id']!r} makes no bytes of bytes")
    if config["id"] == "blosc":
        shuffle = int(config.get("shuffle", 1))
        if shuffle not in (0, 1, 2):  # numcodecs' automatic choice
            shuffle = 2 if itemsize == 1 else 1
        return {
            "name": "blosc",
            "configuration": {
                "typesize": itemsize,
                "cname": config.get("cname", "lz4"),
                "clevel": config.get("clevel", 5),
                "shuffle": _SHUFFLES[shuffle],
                "blocksize": config.get("blocksize", 0),
            },
        }
    if config["id"] == "crc32c":  # the two may place it differently
        return {"name": "numcodecs.crc32c", "configuration": codec.to_config()}
    return codec.to_dict()


def codecs_v2(codec: Codec) -> dict[str, Any]:
    """The numcodecs configuration of a codec of format 3. Raises UnsupportedError."""
    to_numcodecs = getattr(codec, "to_numcodecs", None)
    if to_numcodecs is None:
        raise UnsupportedError(f"codec {codec.name!r} has no counterpart in Zarr format 2")
    return {"id": codec.name.removeprefix("numcodecs."), **to_numcodecs()}
