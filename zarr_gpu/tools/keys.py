"""Stored objects taken over as they are, by several threads, and not twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zarr_gpu import workers
from zarr_gpu._types import Bytes
from zarr_gpu.array import Array
from zarr_gpu.config import config
from zarr_gpu.errors import StoreError, UnsupportedError
from zarr_gpu.group import Group
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.nodes import StorePath, join
from zarr_gpu.stores.base import Store
from zarr_gpu.tools.formats import array_v3
from zarr_gpu.tools.journal import DIRECTORY, Journal
from zarr_gpu.tools.layouts import Layout, changed, described
from zarr_gpu.tools.progress import Progress

BATCH = 1024
"""Keys listed before they are copied: what is held of a long listing."""
PIECE = 16 << 20
"""Bytes of a large object copied at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCopy:
    """The chunks of one array, under the keys of ``target``."""

    source: Array
    target: ArrayMetadata
    path: str = ""

    @classmethod
    def of(cls, source: Array, target: ArrayMetadata, path: str) -> KeyCopy:
        return cls(source=source, target=target, path=path)

    def pairs(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Keys here, and there below ``prefix``; what is no chunk is left out."""
        array = self.source
        inside = array.path + "/" if array.path else ""
        mine, other = array.metadata.chunk_key_encoding, self.target.chunk_key_encoding
        for key in array.store.list_prefix(array.path):
            where = mine.coordinates(key.removeprefix(inside), array.ndim)
            if where is not None:
                yield key, join(prefix, other.key(where))


def can_list(place: StorePath) -> bool:
    """Whether what is stored below a node can be known by listing it.

    Servers of files answer with pages that list nothing as if nothing were there; then the node's
    own document is missing from the list.
    """
    store = place.store
    if not store.supports_listing:
        return False
    return store.local or any(name in DOCUMENTS for name in store.list_dir(place.path))


def check_members(group: Group) -> None:
    """UnsupportedError for a group that would seem empty: nothing tells what its members are."""
    if group.metadata.consolidated is None and not can_list(group.store_path):
        raise UnsupportedError(
            f"{group.store!r} cannot list the members of {group.path or '/'!r}, and they are not "
            "consolidated; name one of its arrays"
        )


def same_bytes(array: Array, layout: Layout) -> tuple[ArrayMetadata, KeyCopy] | None:
    """Metadata in the format asked for with the chunks of ``array``; None: there are none."""
    if not layout.same_chunks or not can_list(array.store_path):
        return None
    wanted = layout.zarr_format or array.metadata.zarr_format
    if wanted == array.metadata.zarr_format:
        return array.metadata, KeyCopy.of(array, array.metadata, "")
    if wanted == 2:
        return None
    try:
        array_v3(array.metadata, array.path)
        target = changed(described(array, 3), layout)
    except (UnsupportedError, ValueError):
        return None
    return target, KeyCopy.of(array, target, "")


def copy_chunks(journal: Journal, copy: KeyCopy, progress: Progress) -> None:
    """Copy the chunks of one array that are not there yet."""
    place = journal.place / copy.path
    done = journal.done(f"{copy.path}:keys")
    if 0 in done:
        return
    store = copy.source.store
    pairs = copy.pairs(place.path)
    copy_pairs(store, journal, pairs, progress, copy.path or "chunks")
    journal.finish(f"{copy.path}:keys", 0)


def copy_pairs(
    source: Store,
    journal: Journal,
    pairs: Iterable[tuple[str, str]],
    progress: Progress,
    what: str,
) -> int:
    """Copy objects, and return their bytes; in a job that goes on, those that are there are left.

    An object of the same size is the same: objects appear whole, the target was empty when the job
    began, and the source has not changed since.
    """
    target = journal.place.store
    threads = workers.thread_count()
    if not (source.local and target.local):
        threads = config.current.io_threads
    total = 0
    progress.begin(what, 0, "objects")

    sizes: list[int] = []

    def copy(pair: tuple[str, str]) -> None:
        here, there = pair
        sizes.append(copy_object(source, here, target, there, resumed=journal.resumed))
        journal.tick()
        progress.advance(1)

    pairs = iter(pairs)
    try:
        while batch := list(islice(pairs, BATCH)):
            workers.run(copy, batch, min(threads, len(batch)))
            total += sum(sizes)
            sizes.clear()
    finally:
        progress.end()
    return total


def copy_object(source: Store, here: str, target: Store, there: str, *, resumed: bool) -> int:
    """Copy one object, a large one piece by piece; returns its bytes."""
    size = source.size(here)
    if size is None:
        raise StoreError(f"{here!r} of {source!r} was deleted while it was copied")
    if resumed and target.size(there) == size:
        return size
    if size <= PIECE:
        data = source.get(here)
        if data is None:
            raise StoreError(f"{here!r} of {source!r} was deleted while it was copied")
        target.set(there, data)
        return len(data)
    with _reader(source, here) as reader:

        def parts() -> Iterator[Bytes]:
            for at in range(0, reader.size, PIECE):
                yield reader.read(at, min(PIECE, reader.size - at))

        target.set_parts(there, parts)
        return int(reader.size)


def _reader(source: Store, key: str) -> Any:
    reader = source.open_reader(key)
    if reader is None:
        raise StoreError(f"{key!r} of {source!r} was deleted while it was copied")
    return reader


def is_document(key: str) -> bool:
    """True for metadata."""
    return key.rpartition("/")[2] in DOCUMENTS


def documents_in_order(keys: Iterable[str]) -> list[str]:
    """The deepest first, and of one node that last which makes it a node."""
    return sorted(keys, key=lambda k: (-k.count("/"), -DOCUMENTS.index(k.rpartition("/")[2]), k))


def wanted(key: str, excludes: Iterable[re.Pattern[str]]) -> bool:
    """False for what regular expressions leave out, and for records of unfinished jobs."""
    parts = key.split("/")
    return DIRECTORY not in parts and not any(e.search(key) for e in excludes)
