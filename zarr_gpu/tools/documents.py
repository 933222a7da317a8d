"""All documents of a hierarchy, as they are stored, and what is wrong with them.

Consolidated metadata are compared with the documents they were made from: who reads only them sees
an old hierarchy without a sign of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from zarr_gpu.consolidation import with_v2_consolidated, without_consolidated
from zarr_gpu.errors import MetadataError, MissingDependencyError, StoreError, UnsupportedError
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.paths import DOCUMENTS, is_node_name
from zarr_gpu.nodes import (
    Metadata,
    StorePath,
    child_names,
    join,
    read_child,
    read_node,
)
from zarr_gpu.stores.base import Store
from zarr_gpu.tools.journal import DIRECTORY
from zarr_gpu.tools.keys import can_list
from zarr_gpu.tools.problems import Problem, Verification, problem_of, unfinished_job

_CHUNK = re.compile(r"c(\.\d+)*|\d+(\.\d+)*")
"""Names that chunks have, or the directories they lie in."""
_ERRORS = (MetadataError, MissingDependencyError, StoreError)
Listing = Mapping[str, "Metadata | MetadataError"]


def survey(place: StorePath, root: Metadata, found: Verification) -> Iterator[tuple[str, Metadata]]:
    """Path and document of every node at and below ``place``; what is wrong goes to ``found``.

    UnsupportedError for a group whose members are neither listed by the store nor consolidated.
    """
    store = place.store
    lists = can_list(place)
    pending: list[tuple[str, Metadata, tuple[tuple[str, Listing], ...]]] = [(place.path, root, ())]
    while pending:
        path, metadata, outer = pending.pop()
        for group, listing in outer:
            _check_listed(found, group, listing, path, metadata)
        yield path, metadata
        if isinstance(metadata, ArrayMetadata):
            continue
        own = _consolidated(place.store, path, metadata, found)
        if own is not None:
            yield from _check_stored(store, path, own, metadata, found, unlisted=not lists)
            outer = (*outer, (path, own))
        if not lists:
            if own is None:
                raise UnsupportedError(
                    f"{store!r} cannot list the members of {path or '/'!r}, and they are not "
                    "consolidated; name one of its arrays"
                )
            continue
        for at, child in _children(store, path, metadata, found):
            pending.append((at, child, outer))


def _children(
    store: Store, path: str, group: GroupMetadata, found: Verification
) -> Iterator[tuple[str, Metadata]]:
    for name in child_names(store, path):
        at = join(path, name)
        if name == DIRECTORY:
            if store.exists(join(at, "job.json")):
                found.problems.append(unfinished_job(path))
            continue
        try:
            child = read_child(store, at, group.zarr_format) if is_node_name(name) else None
        except _ERRORS as error:
            found.problems.append(problem_of(at, at, error))
            continue
        if child is not None:
            yield at, child
        elif DIRECTORY in store.list_dir(at) and store.exists(join(at, f"{DIRECTORY}/job.json")):
            found.problems.append(unfinished_job(at))
        else:
            found.stray.append(at)
            _check_lost(store, at, group, found)


def _check_lost(store: Store, at: str, group: GroupMetadata, found: Verification) -> None:
    """A directory without a document that holds nodes, or nothing but what chunks are called."""
    document = "zarr.json" if group.zarr_format == 3 else ".zgroup"
    names = [name for name in store.list_dir(at) if name not in (".zattrs", ".zmetadata")]
    if names and all(_CHUNK.fullmatch(name) for name in names):
        document = "zarr.json" if group.zarr_format == 3 else ".zarray"
        what = "what lies there is called like chunks of an array"
    elif any(key.rpartition("/")[2] in DOCUMENTS for key in store.list_prefix(at)):
        what = "nodes that lie below it cannot be reached"
    else:
        return
    key = join(at, document)
    message = f"{key!r} is missing: {what}"
    found.problems.append(Problem(array=at, key=key, kind="metadata", message=message))


def _consolidated(
    store: Store, path: str, group: GroupMetadata, found: Verification
) -> Listing | None:
    if group.zarr_format == 2:
        try:
            group = with_v2_consolidated(StorePath(store, path), group, ".zmetadata")
        except _ERRORS as error:
            found.problems.append(problem_of(path, join(path, ".zmetadata"), error))
            return None
    # An empty one in a group that another lists means: listed further out.
    return group.consolidated or None


def _check_stored(
    store: Store,
    path: str,
    listing: Listing,
    group: GroupMetadata,
    found: Verification,
    *,
    unlisted: bool,
) -> Iterator[tuple[str, Metadata]]:
    """Nodes that are listed and not stored; ``unlisted``: hand out those that are, too."""
    for below in sorted(listing):
        at = join(path, below)
        if not below:
            continue
        try:
            node = read_child(store, at, group.zarr_format)
        except _ERRORS as error:
            if unlisted:
                found.problems.append(problem_of(at, at, error))
            continue
        if node is None:
            found.problems.append(_stale(path, group, f"{at!r} is listed, but not stored"))
        elif unlisted:
            _check_listed(found, path, listing, at, node)
            yield at, node


def _check_listed(
    found: Verification, group: str, listing: Listing, path: str, metadata: Metadata
) -> None:
    """Compare a stored document with what a group above has noted of it."""
    below = path[len(group) :].lstrip("/") if group else path
    listed = listing.get(below)
    if listed is None:
        found.problems.append(_stale(group, metadata, f"{path!r} is stored, but not listed"))
    elif isinstance(listed, MetadataError):
        found.problems.append(_stale(group, metadata, f"what is listed of {path!r}: {listed}"))
    elif _plain(listed) != _plain(metadata):
        found.problems.append(_stale(group, metadata, f"what is listed of {path!r} is not stored"))


def _stale(group: str, near: Metadata, what: str) -> Problem:
    key = join(group, "zarr.json" if near.zarr_format == 3 else ".zmetadata")
    message = f"the consolidated metadata in {key!r} are old: {what}; consolidate makes them new"
    return Problem(array=group, key=key, kind="metadata", message=message)


def _plain(node: Metadata) -> Any:
    """What a document says, however it is written."""
    if isinstance(node, GroupMetadata):
        node = without_consolidated(node)
        return node.zarr_format, json.dumps(node.attributes, sort_keys=True)
    documents = {name: json.loads(data) for name, data in node.documents(None).items()}
    return json.dumps(documents, sort_keys=True)


def root_of(place: StorePath, found: Verification) -> Metadata | None:
    """The node itself; None where there is none that can be read, which is then a problem."""
    try:
        node = read_node(place.store, place.path)
    except _ERRORS as error:
        if isinstance(error, StoreError):
            raise
        found.problems.append(problem_of(place.path, place.path, error))
        return None
    if node is None and place.store.exists(join(place.path, f"{DIRECTORY}/job.json")):
        found.problems.append(unfinished_job(place.path))
    return node
