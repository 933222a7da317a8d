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
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np

from zarr_gpu._types import Int64, Shape
from zarr_gpu.array import Array
from zarr_gpu.errors import (
    ChunkError,
    LimitError,
    MetadataError,
    MissingDependencyError,
    NodeNotFoundError,
    StoreError,
    UnsafeCodecError,
)
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.metadata.grids import Axis
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.nodes import StorePath, document_key
from zarr_gpu.places import find_place
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.publishing import LOCK_FILE, OURS
from zarr_gpu.tools.documents import root_of, survey
from zarr_gpu.tools.journal import DIRECTORY
from zarr_gpu.tools.keys import can_list
from zarr_gpu.tools.problems import Problem, Verification, problem_of, unfinished_job
from zarr_gpu.tools.progress import SILENT, Progress

ROWS = 1 << 16
"""Coordinates that are tuples at a time; all that are stored take eight bytes an axis."""
BLOCK_NBYTES = 16 << 20
"""Decoded at a time, or one chunk where that is larger."""
Region = tuple[slice, ...]


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
    node = root_of(place, found)
    if node is None:
        if not found.problems:
            raise NodeNotFoundError(f"no array or group at {place}")
        return found
    for at, metadata in survey(place, node, found):
        if isinstance(metadata, GroupMetadata):
            found.groups += 1
            continue
        found.arrays += 1
        try:
            array = Array(StorePath(place.store, at), metadata, device=device)
        except (MetadataError, MissingDependencyError, UnsafeCodecError) as error:
            found.problems.append(problem_of(at, document_key(metadata, at), error))
            continue
        _ArrayCheck(array, found, progress).run()
    if isinstance(place.store, LocalStore):
        found.temporary = _temporary(os.path.join(place.store.root, place.path))  # noqa: PTH118 - paths stay text
    return found


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
        lists = can_list(array.store_path)
        batches = [self._listed(counts)] if lists else _all(counts)
        objects = len(batches[0]) if isinstance(batches, list) else total
        self.found.missing += total - objects
        self.found.objects += objects
        object_nbytes = self._object_nbytes()
        self.progress.begin(array.path or "array", objects * object_nbytes)
        try:
            for coords in batches:
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
        parts: list[Int64] = []
        rows: list[tuple[int, ...]] = []
        for key in array.store.list_prefix(array.path):
            below = key.removeprefix(layout.prefix)
            where = encoding.coordinates(below, len(counts))
            if where is not None and all(i < n for i, n in zip(where, counts, strict=True)):
                rows.append(where)
                if len(rows) == ROWS:
                    parts.append(np.array(rows, np.int64).reshape(len(rows), len(counts)))
                    rows.clear()
            elif below in DOCUMENTS:
                continue
            elif below.startswith(f"{DIRECTORY}/"):
                if below.endswith("job.json"):
                    self.found.problems.append(unfinished_job(array.path))
            else:
                self.found.stray.append(key)
        parts.append(np.array(rows, np.int64).reshape(len(rows), len(counts)))
        coords = np.concatenate(parts)
        return coords[np.lexsort(coords.T[::-1])] if counts else coords

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
            problem = problem_of(self.array.path, key, error)
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


def _all(counts: Shape) -> Iterator[Int64]:
    """Coordinates of every object, in pieces."""
    if not counts:
        yield np.zeros((1, 0), np.int64)
        return
    total = math.prod(counts)
    for start in range(0, total, ROWS):
        numbers = np.arange(start, min(total, start + ROWS), dtype=np.int64)
        yield np.column_stack(np.unravel_index(numbers, counts))


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
    """Files and directories below a directory that killed writers left."""
    found = []
    for directory, directories, files in os.walk(root):
        found += [
            os.path.relpath(f"{directory}/{name}", root)
            for name in (*directories, *files)
            if name.startswith(OURS) and not name.startswith(LOCK_FILE)
        ]
        directories[:] = [name for name in directories if not name.startswith(OURS)]
    return sorted(found)
