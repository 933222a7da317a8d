"""One array of zarr-python, read and written by our planner and backends.

Synchronous: called from threads that may wait. Every function answers with a text where the request
has to be left to zarr-python's own pipeline, which then does all of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu import indexing, info
from zarr_gpu._types import Shape
from zarr_gpu.backend import Backend, get_backend, on_device
from zarr_gpu.codecs.sharding import Order
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import MetadataError, MissingDependencyError, UnsupportedError, ZarrGpuError
from zarr_gpu.interop import zarr_batch, zarr_stores
from zarr_gpu.interop.zarr_batch import Batch, Coords
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.metadata import json
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.grids import RegularGrid
from zarr_gpu.metadata.v2 import parse_array_v2
from zarr_gpu.metadata.v3 import parse_array_v3
from zarr_gpu.plan import Plan, make_plan
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.zarr_python import ZarrPythonStore
from zarr_gpu.values import write_values

SMALL_NBYTES = 256 << 10
"""Requests for chunks of fewer bytes, in memory, are done in the event loop's thread: waking
another takes as long as reading them."""
PRESENT = {"status": "present"}
MISSING = {"status": "missing"}
_OWN_CODECS = ("zarr.codecs.", "numcodecs.")
_OWN_TYPES = ("zarr.core.dtype.", "zarr_gpu.")


class _Request(NamedTuple):
    layout: ArrayLayout
    plan: Plan
    keys: list[str]


def access_to(metadata: Any, store: Any) -> Access | str:
    """Access to an array of ``zarr.core.metadata``, or why there is none."""
    from zarr.abc.store import Store as TheirStore

    if not issubclass(type(store), TheirStore):
        return f"a store of {type(store).__module__}.{type(store).__qualname__}"
    reason = _foreign(metadata)
    if reason is not None:
        return reason
    try:
        ours = _parsed(metadata)
        layout = ArrayLayout(ours, "")
    except MissingDependencyError as error:
        return str(error)
    except (MetadataError, UnsupportedError) as error:
        return f"metadata: {error}"
    theirs = metadata.dtype.to_native_dtype()
    if layout.data_type.is_variable or theirs.hasobject or theirs.kind == "T":
        return f"elements of type {theirs} have no fixed size"
    if _native(layout.dtype) != _native(theirs):
        return f"elements are {theirs} for zarr-python and {layout.dtype} here"
    if not layout.understood:
        return "a codec is unknown"
    return Access(ours, store, _orders(metadata))


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


def _foreign(metadata: Any) -> str | None:
    """What of the metadata is implemented by another package."""
    data_type = type(metadata.dtype)
    if not data_type.__module__.startswith(_OWN_TYPES):
        return f"the data type {data_type.__module__}.{data_type.__qualname__}"
    for codec in _codecs(metadata):
        kind = type(codec)
        if not kind.__module__.startswith(_OWN_CODECS):
            return f"the codec {kind.__module__}.{kind.__qualname__}"
    return None


def _codecs(metadata: Any) -> Iterator[Any]:
    """All codecs, those inside shards included."""
    if metadata.zarr_format == 2:
        yield from (c for c in (*(metadata.filters or ()), metadata.compressor) if c is not None)
        return
    waiting = list(metadata.codecs)
    while waiting:
        codec = waiting.pop()
        yield codec
        for name in ("codecs", "index_codecs"):
            waiting += getattr(codec, name, ())


def _orders(metadata: Any) -> list[Any]:
    """How inner chunks are to follow each other; different ones only where shards are nested."""
    found: list[Any] = [
        getattr(c, "subchunk_write_order", "morton") for c in _codecs(metadata) if _shards(c)
    ]
    named = {"lexicographic" if order == "unordered" else order for order in found}
    return sorted(named) or ["lexicographic"]


def _shards(codec: Any) -> bool:
    return hasattr(codec, "index_codecs")


def _parsed(metadata: Any) -> ArrayMetadata:
    """Our metadata, without attributes; an undefined fill value is the default, as there."""
    name = "zarr.json" if metadata.zarr_format == 3 else ".zarray"
    members = {**metadata.to_dict(), "attributes": {}}
    document = json.load(json.dump(members, None), name)
    if metadata.zarr_format == 3:
        parsed = parse_array_v3(document, name)
    else:
        del document["attributes"]
        parsed = parse_array_v2(document, None, name)
    if parsed.fill_value is None:
        parsed = parsed.replace(fill_value=parsed.data_type.default_fill())
    return parsed


class Access:
    """One array; may be shared by threads."""

    def __init__(self, metadata: ArrayMetadata, store: Any, orders: Sequence[Order]) -> None:
        self.metadata = metadata
        self.theirs = store
        self._orders = orders
        self._direct = zarr_stores.direct(store)
        self._layout: ArrayLayout | None = None
        self._known: tuple[Any, ArrayConfig] | None = None
        grid = metadata.chunk_grid
        self._chunks = grid.chunk_shape if isinstance(grid, RegularGrid) else None
        itemsize = metadata.data_type.dtype.itemsize
        self._chunk_nbytes = math.prod(self._chunks or ()) * itemsize

    def small(self, batch: Batch) -> bool:
        """True for requests that take no longer than waking a thread."""
        return (
            isinstance(self.direct, zarr_stores.Buffers)
            and self._chunks is not None
            and self._chunk_nbytes * len(batch) <= SMALL_NBYTES
        )

    @property
    def direct(self) -> zarr_stores.Direct | None:
        """The store as one of ours, made again when it has moved."""
        direct = self._direct
        if direct is not None and not direct.is_of(self.theirs):
            direct = self._direct = zarr_stores.direct(self.theirs)
        return direct

    def _store(self, loop: asyncio.AbstractEventLoop, layout: ArrayLayout, batch: Batch) -> Store:
        prototype = zarr_stores.on_host(batch[0][1].prototype)
        direct = self.direct
        if direct is not None:
            return direct.for_buffers(prototype)
        levels = layout.levels.layouts
        index = (levels[0].location, levels[0].index_nbytes) if levels else None
        return zarr_stores.Adapted(self.theirs, loop, prototype, index)

    def read(
        self, loop: asyncio.AbstractEventLoop, batch: Batch, out: Any, drop: Coords
    ) -> tuple[dict[str, str], ...] | str:
        """Fill ``out``; the status of every item of the batch, or why it was not done."""
        array = _array_of(out)
        if isinstance(array, str):
            return array
        request = self._request(batch, array.shape, drop, writes=False)
        if isinstance(request, str):
            return request
        layout, plan, keys = request
        if _native(array.dtype) != _native(layout.dtype):
            return f"the output has elements of {array.dtype} and the array of {layout.dtype}"
        backend = _backend(array, layout)
        if isinstance(backend, str):
            return backend
        store = zarr_stores.Watched(self._store(loop, layout, batch))
        try:
            backend.read(layout, plan, store, array, self._settings(batch))
        except (UnsupportedError, MissingDependencyError) as error:
            return str(error)
        _wait(array)
        if not store.missing:
            return (PRESENT,) * len(batch)
        return tuple([MISSING if key in store.missing else PRESENT for key in keys])

    def write(
        self, loop: asyncio.AbstractEventLoop, batch: Batch, value: Any, drop: Coords
    ) -> str | None:
        """Store ``value``, or say why not; a read-only store is left to zarr-python to refuse."""
        array = _array_of(value)
        if isinstance(array, str):
            return array
        if self.theirs.read_only:
            return "the store is read-only"
        if len(self._orders) > 1:
            return f"shards in shards with different orders: {self._orders}"
        shape = _shape_of(batch) if array.shape == () else array.shape
        if shape is None:
            return "pieces that do not make up a selection"
        request = self._request(batch, shape, drop, writes=True)
        if isinstance(request, str):
            return request
        layout, plan, _ = request
        if _native(array.dtype) != _native(layout.dtype):
            return f"values of {array.dtype} for an array of {layout.dtype}"
        backend = _backend(array, layout)
        if isinstance(backend, str):
            return backend
        _wait(array)
        try:
            write_values(
                backend,
                layout,
                plan,
                self._store(loop, layout, batch),
                array,
                self._settings(batch),
            )
        except (UnsupportedError, MissingDependencyError) as error:
            return str(error)
        return None

    def _settings(self, batch: Batch) -> ArrayConfig:
        theirs = batch[0][1].config
        known = self._known
        if known is None or known[0] is not theirs:
            known = self._known = theirs, _settings(theirs, self._orders[0])
        return known[1]

    def _request(self, batch: Batch, shape: Shape, drop: Coords, *, writes: bool) -> _Request | str:
        """What a batch amounts to."""
        from zarr.storage import StorePath

        keys = []
        for item in batch:
            if type(item[0]) is not StorePath or item[0].store is not self.theirs:
                return "chunks that are not in the array's store"
            keys.append(item[0].path)
        named = self._named(keys)
        if named is None:
            return "keys that are not those of the array's chunks"
        prefix, coords = named
        layout = self._layout_for(prefix, self.metadata.shape)
        if self._chunks is None and not _fit(batch, coords, layout):
            return "chunks that have been resized"
        if self._chunks is not None and batch[0][1].shape != self._chunks:
            return "chunks of another shape"
        selection = zarr_batch.selection_of(batch, coords, layout.object_axes, shape, drop)
        if selection is None:
            return "pieces that do not make up a selection"
        known, axes = self.metadata.shape, layout.object_axes
        grid = zarr_batch.grid_shape(batch, coords, selection, known, axes, writes=writes)
        if grid != known:
            layout = self._layout_for(prefix, grid)
        return _Request(layout, make_plan(selection, layout.leaf_axes), keys)

    def _named(self, keys: list[str]) -> tuple[str, list[Coords]] | None:
        """The array's path and the chunks' coordinates."""
        encoding, ndim = self.metadata.chunk_key_encoding, len(self.metadata.shape)
        first = zarr_batch.split_key(keys[0], encoding, ndim)
        if first is None:
            return None
        prefix, coords = first
        skip = len(prefix)
        found = [coords]
        for key in keys[1:]:
            at = encoding.coordinates(key[skip:], ndim) if key.startswith(prefix) else None
            if at is None:
                return None
            found.append(at)
        return prefix, found

    def _layout_for(self, prefix: str, shape: Shape) -> ArrayLayout:
        """The last one is kept: the path is always the same, the shape nearly always."""
        layout = self._layout
        if layout is None or layout.prefix != prefix or layout.shape != shape:
            metadata = self.metadata
            if shape != metadata.shape:
                metadata = metadata.replace(shape=shape)
            layout = self._layout = ArrayLayout(metadata, prefix.rstrip("/"))
        return layout

    def explain(self, path: str, shape: Shape, selection: Any) -> str:
        """The plan of a read, as text."""
        layout = self._layout_for(path + "/" if path else "", tuple(shape))
        plan = make_plan(indexing.parse_numpy(selection, layout.shape), layout.leaf_axes)
        store = self.direct or ZarrPythonStore(self.theirs)
        gpu = _gpu_buffers()
        backend = get_backend("cuda" if gpu else "cpu")
        return info.explain(layout, plan, store, "as zarr-python's buffers", backend)


def _fit(batch: Batch, coords: list[Coords], layout: ArrayLayout) -> bool:
    """True where the chunks are those that the metadata lists."""
    axes = layout.object_axes
    for item, at in zip(batch, coords, strict=True):
        if any(i >= axis.count for axis, i in zip(axes, at, strict=True)):
            return False
        if item[1].shape != layout.object_shape(at):
            return False
    return True


def _gpu_buffers() -> bool:
    from zarr.core.config import config

    return ".gpu." in config.get("ndbuffer")


def _array_of(buffer: Any) -> Any:
    """The NumPy or device array that a buffer of zarr-python is, or why it cannot be used."""
    array = buffer.as_ndarray_like()
    if on_device(array):
        return array
    if isinstance(array, np.ndarray):
        return np.asarray(array)
    return f"a buffer of {type(array).__module__}.{type(array).__qualname__}"


def _backend(array: Any, layout: ArrayLayout) -> Backend | str:
    """What reads into the array, or writes it."""
    if not on_device(array):
        return get_backend("cpu")
    try:
        return get_backend(f"cuda:{array.device.id}", layout.dtype)
    except ZarrGpuError as error:
        return str(error)


def _wait(array: Any) -> None:
    """Until the device is done with an array: its user's stream is not known here."""
    if on_device(array):
        array.device.synchronize()


def _settings(theirs: Any, order: Order) -> ArrayConfig:
    """Those of an array of zarr-python; a missing chunk is an error there, not here."""
    default = ArrayConfig()
    gap, most = default.sharding_coalesce_max_gap_bytes, default.sharding_coalesce_max_bytes
    return ArrayConfig(
        order=theirs.order,
        write_empty_chunks=theirs.write_empty_chunks,
        sharding_coalesce_max_gap_bytes=getattr(theirs, "sharding_coalesce_max_gap_bytes", gap),
        sharding_coalesce_max_bytes=getattr(theirs, "sharding_coalesce_max_bytes", most),
        subchunk_write_order=order,
    )


def _shape_of(batch: Batch) -> Shape | None:
    """Shape of the selection whose pieces these are, from where they belong in the output."""
    shape: list[int] = []
    for item in batch:
        out = item[3] if isinstance(item[3], tuple) else (item[3],)
        if not shape:
            shape = [0] * len(out)
        if len(out) != len(shape):
            return None
        for axis, part in enumerate(out):
            if isinstance(part, slice):
                stop = part.stop
            elif isinstance(part, np.ndarray) and part.dtype.kind in "iu" and part.size:
                stop = int(part.max()) + 1
            else:
                return None
            if stop is None:
                return None
            shape[axis] = max(shape[axis], int(stop))
    return tuple(shape)
