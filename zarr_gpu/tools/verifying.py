"""Is every stored chunk readable: each is fetched, decoded, and compared with its checksums.

Goes on after a bad chunk, names it, and holds a few MiB at a time however large the hierarchy is.
Checksums are those that the data have (codecs, gzip and zlib streams, shard indexes); a chunk
without any can be damaged and still decode.

>>> import zarr_gpu
>>> a = zarr_gpu.create_array(store := {}, data=[1, 2, 3], chunks=(1,))
>>> store["c/1"] = b"rubbish"
>>> [problem.key for problem in verify(store).problems]
['c/1']
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise, product
from typing import Any

import numpy as np

from zarr_gpu._types import Int64, Shape
from zarr_gpu.array import Array
from zarr_gpu.errors import (
    ChecksumError,
    ChunkError,
    LimitError,
    MetadataError,
    MissingDependencyError,
    NodeNotFoundError,
    ShardIndexError,
    StoreError,
    UnsafeCodecError,
)
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.grids import Axis
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.paths import DOCUMENTS, is_node_name
from zarr_gpu.nodes import StorePath, child_names, join, read_child, read_node
from zarr_gpu.places import find_place
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.publishing import LOCK_FILE, OURS
from zarr_gpu.tools.journal import DIRECTORY
from zarr_gpu.tools.progress import SILENT, Progress

BLOCK_NBYTES = 16 << 20
"""Decoded at a time, or one chunk where that is larger."""
Region = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that cannot be read. ``kind``: checksum, decode, index, size, metadata or store."""

    array: str
    key: str
    kind: str
    message: str
    codec: str | None = None
    byte_range: tuple[int, int] | None = None


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was looked at and what was found."""

    arrays: int = 0
    groups: int = 0
    objects: int = 0
    """Stored chunks or shards that were read."""
    missing: int = 0
    """Chunks or shards that are not stored, and read as the fill value."""
    nbytes: int = 0
    """Decoded."""
    problems: list[Problem] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    """Keys that belong to no node: leftovers, or files of somebody else."""
    temporary: list[str] = field(default_factory=list)
    """Files of writers that were killed; ``LocalStore.repair`` removes them."""

    @property
    def ok(self) -> bool:
        """True when everything stored can be read."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    store: Any,
    path: str | None = None,
    *,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Verification:
    """Read every stored chunk of the array or hierarchy at ``path`` of ``store``.

    ``device``: what decodes, ``cpu`` or ``cuda:N``. Raises NodeNotFoundError when nothing is there.
    """
    place = find_place(store, path, "r", storage_options)
    found = Verification()
    node = read_node(place.store, place.path)
    if node is None:
        if place.store.exists(join(place.path, f"{DIRECTORY}/job.json")):
            found.problems.append(_unfinished(place.path))
            return found
        raise NodeNotFoundError(f"no array or group at {place}")
    for at, metadata in _walk(place, node, found):
        if isinstance(metadata, GroupMetadata):
            found.groups += 1
            continue
        found.arrays += 1
        try:
            array = Array(StorePath(place.store, at), metadata, device=device)
        except (MetadataError, MissingDependencyError, UnsafeCodecError) as error:
            key = join(at, "zarr.json" if metadata.zarr_format == 3 else ".zarray")
            found.problems.append(_problem(at, key, error))
            continue
        _ArrayCheck(array, found, progress).run()
    if isinstance(place.store, LocalStore):
        found.temporary = _temporary(os.path.join(place.store.root, place.path))  # noqa: PTH118 - paths stay text
    return found


def _unfinished(path: str) -> Problem:
    return Problem(
        array=path,
        key=join(path, f"{DIRECTORY}/job.json"),
        kind="metadata",
        message="a job that writes this node was not finished; run its command again",
    )


def _walk(
    place: StorePath, node: ArrayMetadata | GroupMetadata, found: Verification
) -> Iterator[tuple[str, ArrayMetadata | GroupMetadata]]:
    """The documents as they are stored, whatever a consolidated listing says."""
    store = place.store
    pending = [(place.path, node)]
    while pending:
        path, metadata = pending.pop()
        yield path, metadata
        if isinstance(metadata, ArrayMetadata) or not store.supports_listing:
            continue
        for name in child_names(store, path):
            at = join(path, name)
            if name == DIRECTORY:
                found.problems.append(_unfinished(path))
                continue
            try:
                child = read_child(store, at, metadata.zarr_format) if is_node_name(name) else None
            except (MetadataError, MissingDependencyError, StoreError) as error:
                found.problems.append(_problem(at, at, error))
                continue
            if child is not None:
                pending.append((at, child))
            elif DIRECTORY in store.list_dir(at):
                found.problems.append(_unfinished(at))
            else:
                found.stray.append(at)


def _problem(array: str, key: str, error: Exception) -> Problem:
    kinds = (
        (ChecksumError, "checksum"),
        (ShardIndexError, "index"),
        (ChunkError, "decode"),
        (LimitError, "size"),
        (StoreError, "store"),
    )
    kind = next((name for cls, name in kinds if isinstance(error, cls)), "metadata")
    if isinstance(error, ChunkError):
        return Problem(
            array=array,
            key=error.key,
            kind=kind,
            message=str(error),
            codec=error.codec,
            byte_range=error.byte_range,
        )
    return Problem(array=array, key=key, kind=kind, message=str(error))


class _ArrayCheck:
    """Reads one array, in blocks of chunks; where a block fails, chunk by chunk."""

    def __init__(self, array: Array, found: Verification, progress: Progress) -> None:
        self.array = array
        self.layout: ArrayLayout = array._layout  # noqa: SLF001 - of this package
        self.found = found
        self.progress = progress
        self.itemsize = max(1, array.dtype.itemsize)

    def run(self) -> None:
        """Everything that is stored; only what is listed, where the store can list."""
        array, layout = self.array, self.layout
        counts = tuple(axis.count for axis in layout.object_axes)
        total = math.prod(counts)
        coords = self._listed(counts) if array.store.supports_listing else _all(counts)
        self.found.missing += total - len(coords) if array.store.supports_listing else 0
        self.found.objects += len(coords)
        object_nbytes = self._object_nbytes()
        self.progress.begin(array.path or "array", len(coords) * object_nbytes)
        try:
            for members in self._groups(coords, object_nbytes):
                self._check_group(members)
                self.progress.advance(len(members) * object_nbytes)
        finally:
            self.progress.end()

    def _object_nbytes(self) -> int:
        shape = self.layout.object_shape((0,) * self.array.ndim) if self.array.size else ()
        return math.prod(shape) * self.itemsize

    def _listed(self, counts: Shape) -> Int64:
        """Coordinates of stored objects, sorted; what is no object is noted as stray."""
        layout, array = self.layout, self.array
        encoding = layout.metadata.chunk_key_encoding
        rows: list[tuple[int, ...]] = []
        for key in array.store.list_prefix(array.path):
            below = key.removeprefix(layout.prefix)
            where = encoding.coordinates(below, len(counts))
            if where is not None and all(i < n for i, n in zip(where, counts, strict=True)):
                rows.append(where)
            elif below in DOCUMENTS:
                continue
            elif below.startswith(f"{DIRECTORY}/"):
                if below.endswith("job.json"):
                    self.found.problems.append(_unfinished(array.path))
            else:
                self.found.stray.append(key)
        rows.sort()
        return np.array(rows, np.int64).reshape(len(rows), len(counts))

    def _groups(self, coords: Int64, nbytes: int) -> Iterator[Int64]:
        """Objects that lie in one block of about :data:`BLOCK_NBYTES`."""
        per = [1] * coords.shape[1]
        axes = self.layout.object_axes
        room = BLOCK_NBYTES // max(1, nbytes)
        for d in range(len(per) - 1, -1, -1):
            per[d] = max(1, min(axes[d].count, room))
            room //= per[d]
        blocks = coords // np.array(per, np.int64) if per else coords
        order = np.lexsort(blocks.T[::-1]) if per else np.arange(len(coords))
        coords, blocks = coords[order], blocks[order]
        new = np.flatnonzero((blocks[1:] != blocks[:-1]).any(axis=1)) + 1
        starts = [0, *new.tolist(), len(coords)]
        for a, b in pairwise(starts):
            if b > a:
                yield coords[a:b]

    def _check_group(self, members: Int64) -> None:
        if self.layout.levels.leaf.raw is not None and not self.layout.sharded:
            self._check_sizes(members)
        if len(members) > 1:
            first, last = members.min(axis=0), members.max(axis=0)
            region = tuple(
                _span(axis, int(a), int(b))
                for axis, a, b in zip(self.layout.object_axes, first, last, strict=True)
            )
            if _elements(region) * self.itemsize <= 2 * BLOCK_NBYTES and self._read(region):
                return
        for row in members.tolist():
            self._check_object(row)

    def _check_object(self, where: list[int]) -> None:
        """One chunk; one shard in pieces of whole inner chunks, then inner chunk by inner chunk."""
        axes = self.layout.object_axes
        region = tuple(_span(axis, i, i) for axis, i in zip(axes, where, strict=True))
        if not self.layout.sharded:
            self._note(region, self.layout.key(where))
            return
        leaf = self.layout.levels.leaf.spec.shape
        for piece in _pieces(region, leaf, BLOCK_NBYTES // self.itemsize):
            if self._read(piece):
                continue
            for chunk in _pieces(piece, leaf, 1):
                if not self._note(chunk, self.layout.key(where)):
                    return  # the index itself: there is no more to be read here

    def _check_sizes(self, members: Int64) -> None:
        """Of uncompressed chunks, of which only what lies in the array is read."""
        wanted = self.layout.levels.leaf.stored
        if not self.layout.uniform or not wanted.exact:
            return
        for key in self.layout.keys(members):
            size = self.array.store.size(key)
            if size is not None and size != wanted.limit:
                message = f"array {self.array.path or '/'!r}, key {key!r}: expected "
                message += f"{wanted.limit} bytes, found {size}"
                problem = Problem(array=self.array.path, key=key, kind="size", message=message)
                self.found.problems.append(problem)

    def _read(self, region: Region) -> bool:
        """True when all of a region can be read."""
        try:
            self.array[region]
        except (ChunkError, LimitError, StoreError):
            return False
        self.found.nbytes += _elements(region) * self.itemsize
        return True

    def _note(self, region: Region, key: str) -> bool:
        """Read one chunk and note what is wrong; False when the rest of its shard is lost, too."""
        try:
            self.array[region]
        except (ChunkError, LimitError, StoreError) as error:
            problem = _problem(self.array.path, key, error)
            if self.layout.sharded and problem.byte_range is None and problem.kind == "checksum":
                problem = replace(problem, kind="index")  # not of a chunk in it
            known = any(
                p.key == problem.key and p.kind == "size" for p in self.found.problems[-64:]
            )
            if not known:
                self.found.problems.append(problem)
            return problem.kind not in ("index", "store")
        self.found.nbytes += _elements(region) * self.itemsize
        return True


def _all(counts: Shape) -> Int64:
    mesh = np.indices(counts, np.int64) if counts else np.zeros((0,), np.int64)
    return np.reshape(mesh, (len(counts), -1)).T if counts else np.zeros((1, 0), np.int64)


def _span(axis: Axis, first: int, last: int) -> slice:
    start = int(axis.start(np.asarray(first, np.int64)))
    at = np.asarray(last, np.int64)
    return slice(start, min(axis.length, int(axis.start(at)) + int(axis.extent(at))))


def _elements(region: Region) -> int:
    return math.prod(part.stop - part.start for part in region)


def _pieces(region: Region, unit: Shape, most: int) -> Iterator[Region]:
    """A region cut into multiples of ``unit`` of at most ``most`` elements, or single units."""
    per = list(unit)
    room = most // max(1, math.prod(unit))
    for d in range(len(per) - 1, -1, -1):
        count = -(-(region[d].stop - region[d].start) // unit[d])
        times = max(1, min(count, room))
        per[d] *= times
        room //= times
    spans = [
        [slice(a, min(part.stop, a + n)) for a in range(part.start, part.stop, n)]
        for part, n in zip(region, per, strict=True)
    ]
    yield from product(*spans)


def _temporary(root: str) -> list[str]:
    """Files below a directory that killed writers left."""
    found = []
    for directory, _, files in os.walk(root):
        found += [
            os.path.relpath(f"{directory}/{name}", root)
            for name in files
            if name.startswith(OURS) and not name.startswith(LOCK_FILE)
        ]
    return sorted(found)
