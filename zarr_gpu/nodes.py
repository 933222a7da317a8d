"""Nodes of a hierarchy: their metadata documents in a store.

Knows documents and stores, but neither arrays of data nor codecs. A path is "" for the root, or
names joined by ``/``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bytes
from zarr_gpu.config import config
from zarr_gpu.errors import (
    ArrayNotFoundError,
    ContainsArrayError,
    ContainsGroupError,
    GroupNotFoundError,
    MetadataError,
    NodeNotFoundError,
    NodeTypeError,
    StoreError,
    UnsafeConcurrentWriteError,
)
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.documents import (
    parse_array_documents_v2,
    parse_document_v3,
    parse_group_documents_v2,
)
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.paths import DOCUMENTS, is_node_name
from zarr_gpu.stores.base import Store

Metadata: TypeAlias = ArrayMetadata | GroupMetadata
M = TypeVar("M", ArrayMetadata, GroupMetadata)
_Get: TypeAlias = Callable[[Store, str], Bytes | None]

_V2 = (".zarray", ".zgroup", ".zattrs")
_BATCH = 256
"""Members looked up before the first of them is handed out, where the store has latency."""


@dataclass(frozen=True, slots=True)
class StorePath:
    """A node's place: a store and a path in it."""

    store: Store
    path: str = ""

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(self.store, join(self.path, name))

    def __str__(self) -> str:
        return f"{self.store}/{self.path}" if self.path else str(self.store)


def join(path: str, name: str) -> str:
    """``name`` below ``path``."""
    return f"{path}/{name}" if path and name else path or name


def read_node(store: Store, path: str, zarr_format: int | None = None) -> Metadata | None:
    """Metadata of the node at ``path``, None when there is none.

    Raises MetadataError when a document is there but invalid.
    """
    found: Metadata | None = None
    if zarr_format in (None, 3):
        found = _read_v3(store, path)
    if zarr_format == 2 or (zarr_format is None and found is None):
        return _read_v2(store, path)
    if found is not None and zarr_format is None and store.local:
        _warn_of_both(store, path)
    return found


def _read_v3(store: Store, path: str) -> Metadata | None:
    key = join(path, "zarr.json")
    data = _get(store, key)
    return None if data is None else parse_document_v3(data, key)


def _read_v2(store: Store, path: str) -> Metadata | None:
    get = _get if store.local else _together(store, path)
    beside = join(path, ".zattrs")
    key = join(path, ".zarray")
    data = get(store, key)
    if data is not None:
        return parse_array_documents_v2(data, get(store, beside), key, beside)
    key = join(path, ".zgroup")
    data = get(store, key)
    if data is not None:
        return parse_group_documents_v2(data, get(store, beside), key, beside)
    return None


def _get(store: Store, key: str) -> Bytes | None:
    return store.get(key, limit=config.current.limits.metadata_nbytes)


def _together(store: Store, path: str) -> _Get:
    """:func:`_get` for v2 documents, asked for at once: waiting costs more than bytes."""
    keys = [join(path, name) for name in _V2]
    limit = config.current.limits.metadata_nbytes
    n = len(keys)
    data = store.get_many(keys, np.zeros(n, np.int64), np.full(n, -1, np.int64), limit=limit)
    found = dict(zip(keys, data, strict=True))
    return lambda _store, key: found[key]


def _warn_of_both(store: Store, path: str) -> None:
    for name in (".zarray", ".zgroup"):
        if store.exists(join(path, name)):
            warnings.warn(
                f"both zarr.json and {name} exist at {path or '/'!r}; zarr.json is used "
                "(zarr_format=2 reads the other)",
                UserWarning,
                stacklevel=4,
            )


def read_array(store: Store, path: str, zarr_format: int | None = None) -> ArrayMetadata:
    """Raises ArrayNotFoundError, or NodeTypeError for a group."""
    node = read_node(store, path, zarr_format)
    if node is None:
        raise ArrayNotFoundError(f"no array at path {path!r} in {store!r}")
    if isinstance(node, GroupMetadata):
        raise NodeTypeError(f"a group, not an array, is at path {path!r} in {store!r}")
    return node


def read_group(store: Store, path: str, zarr_format: int | None = None) -> GroupMetadata:
    """Raises GroupNotFoundError, or ContainsArrayError for an array."""
    node = read_node(store, path, zarr_format)
    if node is None:
        raise GroupNotFoundError(f"no group at path {path!r} in {store!r}")
    if isinstance(node, ArrayMetadata):
        raise ContainsArrayError(f"an array, not a group, is at path {path!r} in {store!r}")
    return node


def write_node(store: Store, path: str, metadata: Metadata, *, create: bool = False) -> None:
    """Store the documents of a node, the one that makes it a node last.

    With ``create`` another creator of the same node is not overwritten: raises ContainsArrayError
    or ContainsGroupError.
    """
    documents = metadata.documents(config.current.json_indent)
    key = document_key(metadata, path)
    main = documents.pop(key.rpartition("/")[2])
    for name, data in documents.items():
        store.set(join(path, name), data)
    if create:
        try:
            if not store.set_if_absent(key, main):
                check_absent(store, path)
        except UnsafeConcurrentWriteError:
            pass
        else:
            return
    store.set(key, main)


def check_absent(store: Store, path: str, zarr_format: int | None = None) -> None:
    """Raise ContainsArrayError or ContainsGroupError when there is a node at ``path``."""
    for format_, name in ((3, "zarr.json"), (2, ".zarray"), (2, ".zgroup")):
        if zarr_format in (None, format_) and store.exists(join(path, name)):
            node = read_node(store, path, format_)
            if isinstance(node, ArrayMetadata):
                raise ContainsArrayError(f"an array exists at path {path!r} in {store!r}")
            raise ContainsGroupError(f"a group exists at path {path!r} in {store!r}")


def create_node(store: Store, path: str, metadata: Metadata, *, overwrite: bool = False) -> None:
    """Store a new node and every group above it that is missing.

    Invalid metadata raise before anything is changed. Where the store cannot delete, ``overwrite``
    is no help against a node that is there: ContainsArrayError or ContainsGroupError.
    """
    store.check_writable()
    metadata.documents(config.current.json_indent)  # TypeError while the old node is still there
    if not (overwrite and store.supports_deletes):
        check_absent(store, path)
    create_parents(store, path, metadata.zarr_format)
    if overwrite and store.supports_deletes:
        delete_node(store, path)
    write_node(store, path, metadata, create=True)


def delete_node(store: Store, path: str) -> None:
    """Remove a node and everything below it.

    Documents go first, from the bottom up: an array that can still be opened has all its chunks,
    and after a failure the node is still there to be deleted again.
    """
    if not (path and store.deletes_at_once):
        names = [k for k in store.list_prefix(path) if k.rpartition("/")[2] in DOCUMENTS]
        for key in sorted(names, key=lambda key: (-key.count("/"), key)):
            store.delete(key)
    store.delete_prefix(path)


def create_parents(store: Store, path: str, zarr_format: Literal[2, 3]) -> None:
    """Groups for every missing node above ``path``; ContainsArrayError when one is an array."""
    missing: list[str] = []
    parent = path
    while parent:
        parent = parent.rpartition("/")[0]
        node = read_node(store, parent)
        if isinstance(node, ArrayMetadata):
            raise ContainsArrayError(f"cannot create {path!r} below the array at {parent!r}")
        if node is not None:
            break
        missing.append(parent)
    for group in reversed(missing):
        metadata = GroupMetadata(zarr_format=zarr_format, attributes={})
        write_node(store, group, metadata)


def update_node(store: Store, path: str, current: M, change: Callable[[M], M]) -> M:
    """Read, change and store a node's metadata; concurrent changes are not lost.

    ``change`` gets the metadata as stored now. Raises NodeNotFoundError when the node is gone.
    """
    store.check_writable()
    with lock_node(store, current, path):
        fresh = read_node(store, path, current.zarr_format)
        if type(fresh) is not type(current):
            raise NodeNotFoundError(f"the node at {path or '/'!r} in {store!r} is gone")
        changed: M = change(fresh)
        write_node(store, path, changed)
        return changed


def document_key(metadata: Metadata, path: str) -> str:
    """Key of the document that makes a node."""
    if metadata.zarr_format == 3:
        return join(path, "zarr.json")
    return join(path, ".zarray" if isinstance(metadata, ArrayMetadata) else ".zgroup")


def lock_node(store: Store, metadata: Metadata, path: str) -> AbstractContextManager[Any]:
    """The store's lock for the documents of a node; nothing for stores without locks.

    There the document is re-read just before it is replaced, which leaves a small window; chunks
    are not written that way, see ``array.concurrent_writes``.
    """
    key = document_key(metadata, path)
    if isinstance(metadata, ArrayMetadata):
        key += ".lock"  # see LocalStore.lock
    try:
        return store.lock(key)
    except UnsafeConcurrentWriteError:
        return nullcontext()


def child_names(store: Store, path: str) -> list[str]:
    """Names below ``path`` that may be nodes."""
    return _no_documents(store.list_dir(path))


def _no_documents(names: list[str]) -> list[str]:
    return [name for name in names if name not in DOCUMENTS and not name.startswith(".zg-")]


def member_names(store: Store, path: str, zarr_format: int) -> list[str]:
    """Names of the nodes directly below ``path``, sorted; their documents are not read."""
    documents = ("zarr.json",) if zarr_format == 3 else (".zarray", ".zgroup")
    found = store.list_holding(path, documents)
    if found is not None:
        return [name for name in _no_documents(found) if is_node_name(name)]
    names = [name for name in child_names(store, path) if is_node_name(name)]
    there = [False] * len(names)

    def look(i: int) -> None:
        at = join(path, names[i])
        there[i] = any(store.exists(f"{at}/{document}") for document in documents)

    threads = 1 if store.local else min(config.current.io_threads, len(names))
    workers.run(look, range(len(names)), threads)
    return [name for name, is_node in zip(names, there, strict=True) if is_node]


def read_child(store: Store, path: str, zarr_format: int) -> Metadata | None:
    """:func:`read_node` for a listed name, which may also be a stray file among the nodes."""
    try:
        return read_node(store, path, zarr_format)
    except StoreError:
        if store.exists(path):  # an object itself, so nothing can be below it
            return None
        raise


def read_children(
    store: Store, path: str, names: Sequence[str], zarr_format: int
) -> Iterator[tuple[str, Metadata | MetadataError]]:
    """:func:`read_child` for many names, in their order; what is no node is left out.

    Invalid documents are handed out as their errors. Documents of stores with latency are read
    by several threads; a local one takes less time than handing it to a thread would.
    """
    if store.local:
        for name in names:
            node = _try_child(store, join(path, name), zarr_format)
            if node is not None:
                yield name, node
        return
    for at in range(0, len(names), _BATCH):
        batch = names[at : at + _BATCH]
        for name, child in zip(batch, _read_together(store, path, batch, zarr_format), strict=True):
            if isinstance(child, Exception) and not isinstance(child, MetadataError):
                raise child
            if child is not None:
                yield name, child


def _read_together(
    store: Store, path: str, names: Sequence[str], zarr_format: int
) -> list[Metadata | Exception | None]:
    found: list[Metadata | Exception | None] = [None] * len(names)

    def read(i: int) -> None:
        try:
            found[i] = _try_child(store, join(path, names[i]), zarr_format)
        except Exception as error:  # noqa: BLE001 - raised when it is its turn
            found[i] = error

    workers.run(read, range(len(names)), min(config.current.io_threads, len(names)))
    return found


def _try_child(store: Store, path: str, zarr_format: int) -> Metadata | MetadataError | None:
    try:
        return read_child(store, path, zarr_format)
    except MetadataError as error:
        return error


def walk(store: Store, path: str, zarr_format: int) -> Iterator[tuple[str, Metadata]]:
    """All nodes below ``path``: relative path and metadata, parents before children."""
    pending = [""]
    while pending:
        here = pending.pop(0)
        inside = join(path, here)
        for name, node in read_children(store, inside, child_names(store, inside), zarr_format):
            if isinstance(node, MetadataError):
                raise node
            below = join(here, name)
            yield below, node
            if isinstance(node, GroupMetadata):
                pending.append(below)
