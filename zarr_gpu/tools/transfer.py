"""Copies the elements of arrays into new ones, block by block, and goes on where it stopped.

Two blocks are in work at a time: one is read while the other is stored, and both use the threads
of the process. A block is read, held once, and encoded object by object, so that the memory is
about four blocks, beside what decoding takes (the setting ``memory_window_bytes``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Int64, Shape
from zarr_gpu.array import Array
from zarr_gpu.creation import array_metadata
from zarr_gpu.errors import ContainsArrayError, UnfinishedError
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.nodes import (
    Metadata,
    StorePath,
    create_parents,
    delete_node,
    join,
    read_node,
    write_node,
)
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.tools.journal import Journal, unfinished
from zarr_gpu.tools.keys import can_list
from zarr_gpu.tools.planning import Grid, Pass, RechunkPlan, TooLargeError, plan_rechunk
from zarr_gpu.tools.progress import Progress

COPIES = 4
"""Blocks in memory: two in work, and what is made of each."""
VARIABLE_ITEMSIZE = 64
"""Assumed bytes of an element of variable length."""
BATCH = 1 << 14
"""Keys, or blocks, that are looked at together."""


class Source(Protocol):
    """What can be copied from: an :class:`Array`, a mapped file, a data set of HDF5."""

    @property
    def shape(self) -> Shape: ...

    def __getitem__(self, selection: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayJob:
    """One array to be written at ``path`` below the target."""

    path: str
    source: Source
    grid: Grid
    """Chunks of the source."""
    metadata: ArrayMetadata
    plan: RechunkPlan
    in_flight: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a job did."""

    arrays: int
    nbytes: int
    """Of the elements, decoded."""
    resumed: bool
    """Some of it had been done by an earlier run."""
    notes: tuple[str, ...] = field(default=())


def itemsize(metadata: ArrayMetadata) -> int:
    """Bytes that an element takes in memory."""
    data_type = metadata.data_type
    return VARIABLE_ITEMSIZE if data_type.is_variable else max(1, data_type.dtype.itemsize)


def source_grid(array: Array) -> Grid:
    """What is decoded at once: inner chunks of shards."""
    return array._layout.leaf_axes  # noqa: SLF001 - of this package


def array_job(
    path: str,
    source: Source,
    grid: Grid,
    metadata: ArrayMetadata,
    memory: int,
    *,
    max_decodes: float,
) -> ArrayJob:
    """Plan one array. Raises ValueError when one object of the target needs more memory."""
    target = metadata.chunk_grid.axes(metadata.shape)
    size = itemsize(metadata)
    for in_flight in (2, 1):
        most = max(1, memory // (COPIES // 2 * in_flight * size))
        try:
            plan = plan_rechunk(grid, target, most, max_decodes=max_decodes)
        except TooLargeError as error:
            if in_flight == 1:
                needed = error.needed * size * COPIES // 2
                raise ValueError(
                    f"array {path or '/'!r}: one shard or chunk of the target needs {needed} bytes "
                    f"of memory, {memory} are allowed; allow more (--memory), or choose smaller "
                    "shards or chunks"
                ) from None
            continue
        return ArrayJob(
            path=path, source=source, grid=grid, metadata=metadata, plan=plan, in_flight=in_flight
        )
    raise AssertionError  # the loop returns or raises


def check_parents(place: StorePath, zarr_format: int) -> None:
    """Create the groups above a target.

    ContainsArrayError below an array, UnfinishedError below what another job is to write,
    ValueError below a group of another format.
    """
    parent = place.path
    while parent:
        parent = parent.rpartition("/")[0]
        what = unfinished(place.store, parent)
        if what is not None:
            raise UnfinishedError(
                f"{place} would lie in {parent or '/'!r}, which is unfinished ({what})"
            )
        node = read_node(place.store, parent)
        if isinstance(node, ArrayMetadata):
            raise ContainsArrayError(f"{place} would lie in the array at {parent or '/'!r}")
        if node is not None:
            if node.zarr_format != zarr_format:
                raise ValueError(
                    f"{place} would have Zarr format {zarr_format}, but the group at "
                    f"{parent or '/'!r} has format {node.zarr_format}"
                )
            break
    create_parents(place.store, place.path, zarr_format)  # type: ignore[arg-type]  # 2 or 3


def run_arrays(journal: Journal, jobs: Sequence[ArrayJob], progress: Progress) -> None:
    """Store the elements of all arrays; no documents."""
    for job in jobs:
        _run_array(journal, job, progress)


def _run_array(journal: Journal, job: ArrayJob, progress: Progress) -> None:
    place = journal.place / job.path
    target = Array(place, job.metadata, device="cpu")
    between = job.plan.intermediate
    if between is None:
        _run_pass(journal, job, 0, job.source, target, progress)
        return
    if not place.store.supports_deletes:  # a new zip file, which cannot hold what is removed again
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="zarr-gpu-") as folder:
            _run_through(journal, job, StorePath(LocalStore(folder)), target, progress)
        return
    inside = StorePath(place.store, join(journal.inside.path, f"intermediate/{job.path or '_'}"))
    _run_through(journal, job, inside, target, progress)
    delete_node(inside.store, inside.path)


def _run_through(
    journal: Journal, job: ArrayJob, inside: StorePath, target: Array, progress: Progress
) -> None:
    """Both passes, with the intermediate array at ``inside``."""
    between = job.plan.intermediate
    if between is None:
        raise ValueError(f"array {job.path!r} has no intermediate array")
    data_type = job.metadata.data_type
    metadata = array_metadata(
        shape=job.metadata.shape,
        dtype=data_type,
        chunks=between.chunks,
        shards=between.shards,
        compressors=None,
        fill_value=job.metadata.fill_value,
        zarr_format=3,
    )
    middle = Array(inside, metadata, device="cpu")
    last = journal.done(f"{job.path}:1")
    if not len(last):
        _run_pass(journal, job, 0, job.source, middle, progress)
        journal.save()
    _run_pass(journal, job, 1, middle, target, progress)
    journal.save()


def _run_pass(
    journal: Journal,
    job: ArrayJob,
    number: int,
    source: Source,
    target: Array,
    progress: Progress,
) -> None:
    """All blocks of a pass that are not stored yet."""
    plan = job.plan.passes[number]
    part = f"{job.path}:{number}"
    done = journal.done(part)
    needed = range(len(plan)) if number else _needed(job, target, plan)
    left = (n for n in needed if n not in done)
    size = itemsize(job.metadata)
    passes = len(job.plan.passes)
    what = (job.path or "array") + (f" ({number + 1} of {passes} passes)" if passes > 1 else "")
    total = sum(_elements(plan.region(n)) for n in needed) * size
    already = sum(_elements(plan.region(n)) for n in needed if n in done) * size
    progress.begin(what, total, done=already)

    def copy(n: int) -> None:
        region = plan.region(n)
        target[region] = source[region]
        journal.finish(part, n)
        progress.advance(_elements(region) * size)

    try:
        while batch := list(islice(left, BATCH)):
            workers.run(copy, batch, min(job.in_flight, len(batch)))
    finally:
        journal.save()
        progress.end()


def _elements(region: tuple[slice, ...]) -> int:
    return math.prod(part.stop - part.start for part in region)


def _needed(job: ArrayJob, target: Array, plan: Pass) -> Sequence[int]:
    """Blocks of the first pass in which something is stored; the others need not be read.

    All of them, unless what is missing reads as the fill value of the target. The keys are listed
    a batch at a time: what is held are the numbers of blocks, however large a sparse array is.
    """
    source = job.source
    everything = range(len(plan))
    if not isinstance(source, Array):
        return everything
    layout = source._layout  # noqa: SLF001 - of this package
    there = target._layout  # noqa: SLF001 - as above
    missing = layout.fill_array.astype(there.dtype, copy=False)
    fill = there.metadata.fill_value
    if not there.data_type.equals_fill(
        missing, there.data_type.default_fill() if fill is None else fill
    ):
        return everything
    if not can_list(source.store_path):
        return everything
    axes = layout.object_axes
    counts = tuple(axis.count for axis in axes)
    encoding = layout.metadata.chunk_key_encoding
    keys = (key.removeprefix(layout.prefix) for key in source.store.list_prefix(layout.path))
    found = (encoding.coordinates(key, len(counts)) for key in keys)
    stored = (w for w in found if w and all(i < n for i, n in zip(w, counts, strict=True)))
    if not counts:
        return everything
    blocks = np.zeros(0, np.int64)
    while batch := list(islice(stored, BATCH)):
        blocks = np.union1d(blocks, _reached(np.array(batch, np.int64), axes, plan))
        if len(blocks) == len(plan):
            return everything
    return [int(n) for n in blocks]


def _reached(objects: Int64, axes: Grid, plan: Pass) -> Int64:
    """Numbers of the blocks that objects of the source, a row of coordinates each, reach into."""
    first, count = [], []
    for axis, edges, where in zip(axes, plan.edges, objects.T, strict=True):
        starts = axis.start(where)
        ends = np.minimum(starts + axis.extent(where), axis.length)
        first.append(np.searchsorted(edges, starts, "right") - 1)
        count.append(np.searchsorted(edges, ends, "left") - first[-1])
    shape = [len(edges) - 1 for edges in plan.edges]
    corners = np.zeros((len(objects), 0), np.int64)
    rows = np.arange(len(objects))
    for begin, n in zip(first, count, strict=True):  # every combination, an axis at a time
        per = n[rows]
        rows = np.repeat(rows, per)
        corners = np.repeat(corners, per, axis=0)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(per) - per, per)
        corners = np.column_stack([corners, begin[rows] + within])
    return np.unique(np.ravel_multi_index(tuple(corners.T), shape)).astype(np.int64)


def publish(journal: Journal, nodes: Mapping[str, Metadata], *, consolidated: bool = False) -> None:
    """Write the documents, the deepest first and that of the target last, and end the job."""
    place = journal.place
    root = nodes[""]
    journal.save()
    for path in sorted(nodes, key=lambda path: (-path.count("/"), not path, path)):
        if path:
            write_node(place.store, join(place.path, path), nodes[path])
    if consolidated and isinstance(root, GroupMetadata):
        listed = {p: n for p, n in nodes.items() if p}
        root = replace(root, consolidated=listed)
    write_node(place.store, place.path, root)
    journal.close()
