"""Consolidated metadata: all documents of a hierarchy in one, for stores that are slow to list.

v3 keeps them inline in the group's ``zarr.json``, v2 in ``.zmetadata``. An entry that does not
parse stays an error for that node alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from zarr_gpu.config import config
from zarr_gpu.metadata import json
from zarr_gpu.metadata.group import GroupMetadata, parse_consolidated_v2
from zarr_gpu.nodes import (
    Metadata,
    StorePath,
    join,
    lock_node,
    read_group,
    walk,
    write_node,
)

T = TypeVar("T")


def consolidate(place: StorePath, metadata: GroupMetadata) -> GroupMetadata:
    """Collect the metadata below ``place`` and store them there; returns the group's own."""
    store = place.store
    store.check_writable()
    if not store.supports_listing:
        raise TypeError(f"{store!r} cannot list its keys, so its metadata cannot be consolidated")
    nodes: dict[str, Metadata] = {}
    for path, node in walk(store, place.path, metadata.zarr_format):
        nodes[path] = without_consolidated(node) if isinstance(node, GroupMetadata) else node
    changed = replace(metadata, consolidated=nodes)
    with lock_node(store, metadata, place.path):
        write_node(store, place.path, changed)
    return changed


def forget(place: StorePath, metadata: GroupMetadata, below: str) -> GroupMetadata:
    """Drop a deleted node from what is listed, in ``metadata`` and in the store at ``place``."""
    with lock_node(place.store, metadata, place.path):
        stored = read_group(place.store, place.path, metadata.zarr_format)
        if stored.zarr_format == 2:
            stored = with_v2_consolidated(place, stored, ".zmetadata")
        if stored.consolidated is not None:
            kept = _without(stored.consolidated, below)
            write_node(place.store, place.path, replace(stored, consolidated=kept))
    return replace(metadata, consolidated=_without(metadata.consolidated or {}, below))


def _without(listed: Mapping[str, T], below: str) -> dict[str, T]:
    return {p: n for p, n in listed.items() if p != below and not p.startswith(below + "/")}


def with_v2_consolidated(place: StorePath, metadata: GroupMetadata, key: str) -> GroupMetadata:
    """``metadata`` with the members listed in a v2 ``.zmetadata``, if there is one."""
    name = join(place.path, key)
    data = place.store.get(name, limit=config.current.limits.metadata_nbytes)
    if data is None:
        return metadata
    nodes = dict(parse_consolidated_v2(json.load(data, name), name))
    nodes.pop("", None)
    return replace(metadata, consolidated=nodes)


def without_consolidated(metadata: GroupMetadata) -> GroupMetadata:
    """The same group, its members looked up one by one."""
    return replace(metadata, consolidated=None)
