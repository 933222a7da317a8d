"""Resize and append: the order of writes that no crash can turn into wrong data.

Shrink: metadata first, then chunks outside are deleted and edge chunks trimmed; a crash leaves
unseen chunks. Grow: stale chunks in the new region are deleted and edge chunks trimmed, then the
metadata change. Append: data first, then the length.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Int64, Shape
from zarr_gpu.backend import get_backend
from zarr_gpu.chunking import parse_shape
from zarr_gpu.config import config
from zarr_gpu.creation import with_shape
from zarr_gpu.errors import ReadOnlyError, UnsupportedError
from zarr_gpu.indexing import parse_basic
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.documents import parse_document_v3
from zarr_gpu.metadata.grids import RectilinearGrid
from zarr_gpu.nodes import document_key, lock_node, read_array, write_node
from zarr_gpu.plan import make_plan
from zarr_gpu.stores.base import Store
from zarr_gpu.values import as_values, write_values

if TYPE_CHECKING:
    from zarr_gpu.array import Array

_SHAPE = re.compile(rb'"shape"\s*:\s*\[([0-9,\s]*)\]')
_NUMBER = re.compile(rb"[0-9]+")
LISTED = 1024
"""Above this many candidate keys, listing the store is cheaper than deleting them one by one."""


def resize(array: Array, new_shape: Any) -> None:
    """See :meth:`zarr_gpu.Array.resize`."""
    shape = parse_shape(new_shape)
    _change_shape(array, lambda _old: shape)


def append(array: Array, data: Any, axis: int) -> Shape:
    """See :meth:`zarr_gpu.Array.append`."""
    if array.ndim == 0:
        raise ValueError("a 0-d array cannot be appended to")
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"axis {axis} of an array of {array.ndim} dimensions")
    axis %= array.ndim
    values = as_values(data, array.dtype)
    if values.ndim != array.ndim or any(
        n != m for d, (n, m) in enumerate(zip(values.shape, array.shape, strict=True)) if d != axis
    ):
        raise ValueError(
            f"data of shape {values.shape} cannot be appended along axis {axis} to an array of "
            f"shape {array.shape}; all other axes must agree"
        )
    if array.read_only:
        raise ReadOnlyError(f"array {array.name!r} in {array.store!r} is read-only")
    key = document_key(array.metadata, array.path)
    with lock_node(array.store, array.metadata, array.path):
        fresh, document = _read(array, key)
        old = fresh.shape
        shape = (*old[:axis], old[axis] + values.shape[axis], *old[axis + 1 :])
        grown = with_shape(_covering(array.layout_of(fresh), shape), shape)
        array._replace_metadata(fresh)  # noqa: SLF001 - this module is part of Array
        layout = array.layout_of(grown)
        # What an interrupted append left outside the array is overwritten: all of it lies in
        # chunks that are complete now.
        selection = parse_basic((*(slice(None),) * axis, slice(old[axis], None)), shape)
        plan = make_plan(selection, layout.leaf_axes)
        write_values(get_backend("cpu"), layout, plan, array.store, values, array.config)
        changed = None
        if document is not None and grown.chunk_grid is fresh.chunk_grid:
            changed = reshaped(document, old, shape)
        if changed is None:
            write_node(array.store, array.path, grown)
        else:
            array.store.set(key, changed)
    array._layout = layout  # noqa: SLF001
    return shape


def _read(array: Array, key: str) -> tuple[ArrayMetadata, bytes | None]:
    """Metadata as they are stored now, and in format 3 the document ``key`` itself."""
    if array.metadata.zarr_format == 3:
        data = array.store.get(key, limit=config.current.limits.metadata_nbytes)
        found = None if data is None else parse_document_v3(data, key)
        if data is not None and isinstance(found, ArrayMetadata):
            return found, bytes(data)
    return read_array(array.store, array.path, array.metadata.zarr_format), None


def reshaped(document: bytes, old: Shape, new: Shape) -> bytes | None:
    """The same document with another shape; making it anew takes longer than storing it.

    None where the member is not found at once: there may be others of its name, or it may be
    spelled with escapes.

    >>> reshaped(b'{"shape": [3, 4], "attributes": {}}', (3, 4), (5, 4))
    b'{"shape": [5, 4], "attributes": {}}'
    """
    match = _SHAPE.search(document)
    if match is None or document.count(b'"shape"') != 1 or b"\\" in document:
        return None
    if [int(n) for n in _NUMBER.findall(match[1])] != list(old):
        return None
    numbers = iter(new)
    lengths = _NUMBER.sub(lambda _: b"%d" % next(numbers), match[1])
    return document[: match.start(1)] + lengths + document[match.end(1) :]


def _change_shape(array: Array, new_shape: Any) -> None:
    if array.read_only:
        raise ReadOnlyError(f"array {array.name!r} in {array.store!r} is read-only")
    store = array.store
    with lock_node(store, array.metadata, array.path):
        fresh = read_array(store, array.path, array.metadata.zarr_format)
        shape = new_shape(fresh.shape)
        changed = with_shape(_covering(array.layout_of(fresh), shape), shape)
        layout = array.layout_of(changed)
        grows = any(n > m for n, m in zip(shape, fresh.shape, strict=True))
        shrinks = any(n < m for n, m in zip(shape, fresh.shape, strict=True))
        if shrinks:  # in two steps, so that what is cut off cannot reappear by growing elsewhere
            least = tuple(min(n, m) for n, m in zip(shape, fresh.shape, strict=True))
            cut = with_shape(fresh, least)
            write_node(store, array.path, cut)
            array._replace_metadata(cut)  # noqa: SLF001 - or a failure below would show fill values
            _delete_outside(store, cut, array.layout_of(fresh))
            _trim_edges(array, fresh, array.layout_of(cut))
            fresh = cut
        if grows:
            _delete_outside(store, fresh, layout)
            _trim_edges(array, changed, array.layout_of(fresh))
        write_node(store, array.path, changed)
    array._replace_metadata(changed)  # noqa: SLF001 - this module is part of Array


def _covering(layout: ArrayLayout, shape: Shape) -> ArrayMetadata:
    """A rectilinear grid gets one more chunk where the new shape outgrows it.

    A shard is as long as needed to be a multiple of its inner chunks.
    """
    metadata = layout.metadata
    grid = metadata.chunk_grid
    if not isinstance(grid, RectilinearGrid):
        return metadata
    layouts = layout.levels.layouts
    units = layouts[0].inner.spec.shape if layouts else (1,) * len(shape)
    parts = tuple(
        c if isinstance(c, int) or sum(c) >= n else (*c, -(-(n - sum(c)) // unit) * unit)
        for c, n, unit in zip(grid.chunk_shapes, shape, units, strict=True)
    )
    if parts == grid.chunk_shapes:
        return metadata
    return replace(metadata, chunk_grid=RectilinearGrid(chunk_shapes=parts))


def _counts(layout: ArrayLayout) -> Shape:
    return tuple(axis.count for axis in layout.object_axes)


def _delete_outside(store: Store, inside: ArrayMetadata, layout: ArrayLayout) -> None:
    """Delete objects of ``layout``'s grid that lie wholly outside the array ``inside``."""
    keep = tuple(axis.count for axis in inside.chunk_grid.axes(inside.shape))
    counts = _counts(layout)
    outside = math.prod(counts) - math.prod(min(k, n) for k, n in zip(keep, counts, strict=True))
    if outside <= 0:
        return
    encoding = layout.metadata.chunk_key_encoding
    if outside <= LISTED:
        keys = layout.keys(_coordinates_outside(keep, counts))
    else:
        keys = []
        for key in store.list_prefix(layout.path):
            where = encoding.coordinates(key.removeprefix(layout.prefix), len(keep))
            if where is not None and any(i >= k for i, k in zip(where, keep, strict=True)):
                keys.append(key)
    for key in keys:
        if store.supports_deletes:
            store.delete(key)
        elif store.exists(key):
            raise UnsupportedError(f"{store!r} cannot delete {key!r}, which the resize cuts off")


def _coordinates_outside(keep: Shape, counts: Shape) -> Int64:
    """Coordinates of a grid of ``counts`` chunks that are not among its first ``keep``."""
    parts = []
    for d in range(len(counts)):
        spans = [np.arange(min(k, n)) for k, n in zip(keep[:d], counts[:d], strict=True)]
        spans.append(np.arange(keep[d], max(keep[d], counts[d])))
        spans += [np.arange(n) for n in counts[d + 1 :]]
        mesh = np.meshgrid(*spans, indexing="ij")
        parts.append(np.stack([m.ravel() for m in mesh], axis=1))
    return np.concatenate(parts).astype(np.int64)


def _trim_edges(array: Array, before: ArrayMetadata, layout: ArrayLayout) -> None:
    """Give the part of edge chunks outside ``layout`` the fill value, up to the shape ``before``.

    Shrinking leaves old data there, an interrupted append new data; growing must show neither.
    Works on an array that ends at the chunk borders: writing fill values there touches just the
    chunks that hang over.
    """
    full: list[int] = []
    for axis, n in zip(layout.object_axes, before.shape, strict=True):
        last = np.asarray(max(0, axis.count - 1), np.int64)
        border = int(axis.start(last) + axis.extent(last)[()]) if axis.count else 0
        full.append(max(axis.length, min(border, n)))
    bordered = array.layout_of(replace(layout.metadata, shape=tuple(full)))
    for d, (n, border) in enumerate(zip(layout.shape, full, strict=True)):
        if border <= n:
            continue
        region = tuple(
            slice(n, border) if e == d else slice(0, full[e] if e < d else layout.shape[e])
            for e in range(len(full))
        )
        _fill_stored(array, bordered, region)


def _fill_stored(array: Array, layout: ArrayLayout, region: tuple[slice, ...]) -> None:
    """Write fill values into ``region``, object by object, where there is something else."""
    selection = parse_basic(region, layout.shape)
    if selection.size == 0:
        return
    objects = make_plan(selection, layout.object_axes)
    store, backend = array.store, get_backend("cpu")

    def clear(task: tuple[list[int], str]) -> None:
        where, key = task
        if not store.exists(key):
            return
        part = []
        for axis, i, span in zip(layout.object_axes, where, region, strict=True):
            at = np.asarray(i, np.int64)
            start = int(axis.start(at))
            part.append(slice(max(span.start, start), min(span.stop, start + int(axis.extent(at)))))
        selected = parse_basic(tuple(part), layout.shape)
        plan = make_plan(selected, layout.leaf_axes)
        found = backend.empty(selected.shape, layout.dtype, "C")
        backend.read(layout, plan, store, found, array.config)
        if not layout.data_type.equals_fill(found, layout.fill_value):
            write_values(backend, layout, plan, store, layout.fill_array, array.config)

    keys = layout.keys(objects.chunk)
    threads = workers.thread_count() if store.local else config.current.io_threads
    tasks = zip(objects.chunk.tolist(), keys, strict=True)
    workers.run(clear, tasks, min(threads, len(keys)))
