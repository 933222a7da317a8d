"""What a source is like now, in one number, so that a change since a job began is noticed.

Every stored object counts with its name, size and version: the time of its last change for files,
the ETag or time for servers, a checksum for zip files and memory. The sum over all of them takes a
few bytes however many there are, and a listing instead of their contents.
A change that keeps both size and time of a file is not noticed, nor is one in a store that can
neither list nor tell versions (there, documents and names are compared).

>>> from zarr_gpu.stores.memory import MemoryStore
>>> before = state(StorePath(store := MemoryStore({"c/0": b"ab"})))
>>> store.set("c/0", b"cd")
>>> before["nbytes"], state(StorePath(store)) == before
(2, False)
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.nodes import StorePath, join
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.fsspec import FsspecStore
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.safetensors import SafetensorsStore
from zarr_gpu.stores.wrappers import WrappedStore
from zarr_gpu.stores.zip import ZipStore

Row: TypeAlias = tuple[str, int, object]
"""Name, bytes and version of an object."""
_VERSIONS = (
    "ETag", "etag", "md5Hash", "content_md5", "generation", "VersionId", "mtime", "LastModified",
    "last_modified", "updated", "created",
)  # fmt: skip
"""Where file systems of fsspec say what version of an object is there."""


def state(source: StorePath | str) -> dict[str, Any]:
    """Of a node with all below it, or of a file: how many objects and bytes, and a digest of all.

    JSON, equal as long as nothing has changed.
    """
    rows = _files([source]) if isinstance(source, str) else _rows(source.store, source.path)
    objects = nbytes = total = 0
    for name, size, version in rows:
        text = f"{name}\0{size}\0{version}".encode(errors="surrogatepass")
        # A sum, because stores list in no order.
        total += int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        objects += 1
        nbytes += size
    return {"objects": objects, "nbytes": nbytes, "digest": f"{total % 2**128:032x}"}


def _rows(store: Store, path: str) -> Iterable[Row]:
    while isinstance(store, WrappedStore):
        store = store.store
    if isinstance(store, LocalStore):
        root = store.root
        return _files((f"{root}/{key}" for key in store.list_prefix(path)), len(root) + 1)
    if isinstance(store, ZipStore) and store.path is not None:
        return _files([store.path])
    if isinstance(store, SafetensorsStore):
        return (row for key in store.files.keys for row in _rows(store.files.store, key))
    if isinstance(store, FsspecStore) and store.supports_listing:
        return _of_fsspec(store, path)
    if isinstance(store, MemoryStore):
        return ((key, len(data), zlib.crc32(data)) for key, data in _objects(store, path))
    return _others(store, path)


def _files(paths: Iterable[str], skip: int = 0) -> Iterator[Row]:
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path costs more
        except OSError:  # gone meanwhile, or a link to nothing: reading it says what is wrong
            yield path[skip:], 0, None
            continue
        yield path[skip:], status.st_size, status.st_mtime_ns


def _objects(store: Store, path: str) -> Iterator[tuple[str, Any]]:
    for key in store.list_prefix(path):
        data = store.get(key)
        if data is not None:
            yield key, data


def _of_fsspec(store: FsspecStore, path: str) -> Iterator[Row]:
    fs = store.fs
    below = "/".join(part for part in (store.path, path) if part)
    fs.invalidate_cache(below)
    try:
        found = fs.find(below, detail=True)
    except FileNotFoundError:
        return
    for name, info in found.items():
        version = next((info[member] for member in _VERSIONS if info.get(member)), None)
        yield name, int(info.get("size") or 0), version


def _others(store: Store, path: str) -> Iterator[Row]:
    """Names, where there are any, and the documents of the node itself."""
    for name in DOCUMENTS:
        data = store.get(join(path, name))
        if data is not None:
            yield name, len(data), zlib.crc32(data)
    if store.supports_listing:
        for key in store.list_prefix(path):
            yield key, 0, None
