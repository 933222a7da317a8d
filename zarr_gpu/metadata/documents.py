"""From the bytes of a node's documents to its metadata. Knows no store.

An array that is opened again and again, as by every task of a computation, is not parsed again
while its documents are the same bytes. Its metadata are a new object each time.

>>> parse_group_documents_v2(b'{"zarr_format": 2}', None, "x/.zgroup", "x/.zattrs").zarr_format
2
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from zarr_gpu._types import Bytes
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.grids import RegularGrid
from zarr_gpu.metadata.group import GroupMetadata, parse_group_v2, parse_node_v3
from zarr_gpu.metadata.memo import MAX_KEY, Memo
from zarr_gpu.metadata.v2 import parse_array_v2

_Documents: TypeAlias = tuple[Bytes | None, ...]
_arrays: Memo[ArrayMetadata] = Memo()
_seen: Memo[bool] = Memo()
"""Documents that were parsed once; most, as of members that are listed, will not come again."""


def parse_document_v3(data: Bytes, key: str) -> ArrayMetadata | GroupMetadata:
    """The node that a ``zarr.json`` means. Raises MetadataError, naming its ``key``."""
    known = _recall((data,))
    if known is not None:
        return known
    node = parse_node_v3(json.load(data, key), key)
    # A null may be a fill value, which is warned of every time.
    if isinstance(node, ArrayMetadata) and b"null" not in bytes(data):
        _remember((data,), node)
    return node


def parse_array_documents_v2(
    zarray: Bytes, zattrs: Bytes | None, key: str, attributes_key: str
) -> ArrayMetadata:
    """The array that a ``.zarray`` and the ``.zattrs`` beside it (None: no such file) mean."""
    known = _recall((zarray, zattrs))
    if known is not None:
        return known
    document = json.load(zarray, key)
    attributes = None if zattrs is None else json.load(zattrs, attributes_key)
    array = parse_array_v2(document, attributes, key)
    _remember((zarray, zattrs), array)
    return array


def parse_group_documents_v2(
    zgroup: Bytes, zattrs: Bytes | None, key: str, attributes_key: str
) -> GroupMetadata:
    """The group that a ``.zgroup`` and the ``.zattrs`` beside it mean."""
    document = json.load(zgroup, key)
    attributes = None if zattrs is None else json.load(zattrs, attributes_key)
    return parse_group_v2(document, attributes, key)


def _recall(documents: _Documents) -> ArrayMetadata | None:
    for data in documents:
        if data is not None and type(data) is not bytes:  # others can be changed
            return None
    known = _arrays.get(documents)
    return known and _copied(known)


def _remember(documents: _Documents, array: ArrayMetadata) -> None:
    constant = all(data is None or type(data) is bytes for data in documents)
    small = sum(len(data) for data in documents if data is not None) <= MAX_KEY
    # The rest of what can be changed, or be long though the document is short.
    plain = isinstance(array.chunk_grid, RegularGrid) and not array.extra
    if constant and small and plain and not isinstance(array.fill_value, (np.void, list, dict)):
        if _seen.get(documents):
            _arrays.put(documents, _copied(array))
        _seen.put(documents, True)


def _copied(array: ArrayMetadata) -> ArrayMetadata:
    """The same with attributes of its own: these belong to whoever opened the array."""
    return array.replace(attributes=json.copied(array.attributes))
