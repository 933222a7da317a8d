"""Metadata of format 2 rewritten as format 3 beside them, chunks untouched, and either removed.

The same as ``zarr migrate v3`` and ``zarr remove-metadata`` of zarr-python: same documents, same
refusals. More than there: consolidated metadata are migrated (consolidated again), strings of any
length too, and every array is translated before the first document is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from zarr_gpu.config import config
from zarr_gpu.consolidation import consolidate
from zarr_gpu.errors import ContainsNodeError, MetadataError, NodeNotFoundError, UnsupportedError
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.nodes import StorePath, join, read_node, walk
from zarr_gpu.places import find_place
from zarr_gpu.stores.base import Store
from zarr_gpu.tools.formats import array_v3, group_v3
from zarr_gpu.tools.keys import documents_in_order
from zarr_gpu.tools.targets import changed_place

FILES: Mapping[int, tuple[str, ...]] = {
    2: (".zarray", ".zattrs", ".zgroup", ".zmetadata"),
    3: ("zarr.json",),
}
_NEEDED = {2: (".zarray", ".zgroup"), 3: ("zarr.json",)}


def migrate(
    source: Any,
    target: Any = None,
    *,
    path: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    force: bool = False,
    remove_v2_metadata: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write format 3 metadata for the format 2 hierarchy ``source``; returns the keys written.

    They go beside the old ones, or to ``target`` (metadata only). An interrupted migration is
    finished when it is run again. ``overwrite`` first removes
    format 3 metadata that are there (where there are none of format 2, with ``force`` only).
    ``dry_run``: nothing is changed. Raises NodeNotFoundError, ContainsNodeError,
    and UnsupportedError for codecs that format 3 has no name for, before anything is written.
    """
    if dry_run:
        here = find_place(source, path, "r", storage_options)
        there = here
        if target is not None and not str(target).endswith(".zip"):
            there = find_place(target, path, "a", storage_options)
        return _migrate(here, there, overwrite, force, remove_v2_metadata, dry_run=True)
    if target is None:
        with changed_place(source, path, "r+", storage_options) as here:
            return _migrate(here, here, overwrite, force, remove_v2_metadata, dry_run=False)
    here = find_place(source, path, "r", storage_options)
    with changed_place(target, path, "a", storage_options) as there:
        return _migrate(here, there, overwrite, force, remove_v2_metadata, dry_run=False)


def _migrate(
    here: StorePath,
    there: StorePath,
    overwrite: bool,
    force: bool,
    remove_v2_metadata: bool,
    *,
    dry_run: bool,
) -> list[str]:
    if remove_v2_metadata and not there.store.supports_deletes:
        raise UnsupportedError(f"{there.store!r} cannot delete, so format 2 stays there")
    documents, groups = _documents(here)
    keys = {join(there.path, join(below, "zarr.json")): below for below in documents}
    present: list[str] = []
    if overwrite:
        remove_metadata(there, 3, force=force, dry_run=dry_run)
    else:
        present = [key for key in keys if there.store.exists(key)]
        for key in present:
            old = here.store.exists(join(here.path, join(keys[key], ".zattrs")))
            if not _is_ours(there.store, key, documents[keys[key]], attributes=old):
                raise ContainsNodeError(
                    f"{key!r} exists in {there.store!r}; overwrite (--overwrite) replaces it"
                )
        whole = len(present) == len(keys) and all(_is_consolidated(there / g) for g in groups)
        if whole and not remove_v2_metadata:
            raise ContainsNodeError(
                f"{there} is migrated already; overwrite (--overwrite) does it again"
            )
    if dry_run:
        return list(keys)
    # Members first: a group of format 3 shows only members of format 3.
    for key, below in keys.items():
        if key not in present:
            there.store.set(key, documents[below])
    for below in groups:
        place = there / below
        node = read_node(place.store, place.path, 3)
        if isinstance(node, GroupMetadata):
            consolidate(place, node)
    if remove_v2_metadata:
        remove_metadata(there, 2)
    return list(keys)


def _is_ours(store: Store, key: str, document: bytes, *, attributes: bool) -> bool:
    """Whether a document that is there is what an interrupted run has written.

    Without ``attributes`` these are not compared: that run may have removed the old ones already.
    """
    try:
        found = json.loads(bytes(store.get(key) or b""))
    except ValueError:
        return False
    wanted = json.loads(document)
    for member in ("consolidated_metadata", *(() if attributes else ("attributes",))):
        for documents in (found, wanted):
            if isinstance(documents, dict):
                documents.pop(member, None)
    return bool(found == wanted)


def _is_consolidated(place: StorePath) -> bool:
    node = read_node(place.store, place.path, 3)
    return isinstance(node, GroupMetadata) and node.consolidated is not None


def _documents(here: StorePath) -> tuple[dict[str, bytes], list[str]]:
    """New documents by path, members before their groups; and which groups were consolidated."""
    root = read_node(here.store, here.path, 2)
    if root is None:
        found = read_node(here.store, here.path, 3)
        if found is not None:
            raise UnsupportedError(f"{here} has Zarr format 3 already")
        raise NodeNotFoundError(f"no array or group of Zarr format 2 at {here}")
    nodes: dict[str, ArrayMetadata | GroupMetadata] = {"": root}
    if isinstance(root, GroupMetadata):
        nodes |= dict(walk(here.store, here.path, 2))
    documents, groups = {}, []
    for below in sorted(nodes, key=lambda p: (-p.count("/") if p else 1, p)):
        node = nodes[below]
        if isinstance(node, GroupMetadata):
            new: ArrayMetadata | GroupMetadata = group_v3(node)
            if here.store.exists(join(here.path, join(below, ".zmetadata"))):
                groups.append(below)
        else:
            new = array_v3(node, join(here.path, below))
        documents[below] = new.documents(config.current.json_indent)["zarr.json"]
    return documents, groups


def remove_metadata(
    store: Any,
    zarr_format: int,
    *,
    path: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Remove the metadata documents of one format from a hierarchy; returns their keys.

    MetadataError, and nothing removed, where a node has none of the other format, unless ``force``.
    """
    if zarr_format not in FILES:
        raise ValueError(f"zarr_format must be 2 or 3, found {zarr_format!r}")
    place = find_place(store, path, "r+", storage_options)
    if not place.store.supports_deletes:
        raise UnsupportedError(f"{place.store!r} cannot delete")
    found = [
        key
        for key in place.store.list_prefix(place.path)
        if key.rpartition("/")[2] in FILES[zarr_format]
    ]
    other = 5 - zarr_format
    if not force:
        for key in found:
            if not _exists(place.store, key.rpartition("/")[0], _NEEDED[other]):
                raise MetadataError(
                    f"{key!r} cannot be removed: there are no metadata of format {other} beside "
                    "it; force (--force) removes it anyway"
                )
    keys = documents_in_order(found)
    if not dry_run:
        for key in keys:
            place.store.delete(key)
    return keys


def _exists(store: Store, path: str, names: Iterable[str]) -> bool:
    return any(store.exists(join(path, name)) for name in names)
