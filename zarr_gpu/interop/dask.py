"""dask: arrays that are read and written by the tasks of a graph, on one machine or on many.

>>> import numpy as np, zarr_gpu
>>> a = zarr_gpu.create_array({}, data=np.arange(12).reshape(3, 4), chunks=(2, 2))
>>> x = zarr_gpu.to_dask(a)
>>> x.chunks, int((x + 1).sum().compute())
(((2, 1), (2, 2)), 78)

**Reading.** :func:`to_dask` makes one task of every stored object: of every shard where there are
shards, else of every chunk. A graph holds the array once, as a task that all others name, and the
others hold a function and where they read; slicing the result is fused into the reads, so that
only those chunks are read that are needed.

**Writing.** :func:`from_dask` stores every block by its own task. Two tasks that wrote into one
chunk or shard would lose data, so that is refused, or put right with ``align_chunks=True``. Tasks
write whole objects and each replaces its objects at once: a task that is killed, or runs twice,
leaves nothing wrong behind, and dask repeats what a dead worker had not finished.

**Several processes or machines.** What is sent to workers is the place (path or URL) of the array
and its metadata, never data: every worker opens the store by itself. The store must therefore be
one that all of them see: a shared file system or an object store. Stores in memory live in one
process, and are refused where a task would be sent to another.

**Several GPUs** (no card has run this yet). With dask-cuda there is one worker per GPU, each with
its card as the first visible one, so that ``device="cuda"`` is another card in each::

    from dask_cuda import LocalCUDACluster
    from dask.distributed import Client
    client = Client(LocalCUDACluster())     # on several nodes: `dask cuda worker` on each
    a = zarr_gpu.open_array("s3://bucket/a.zarr", mode="r", device="cuda")
    x = zarr_gpu.to_dask(a)                 # chunks are CuPy arrays
    zarr_gpu.from_dask(x * 2, "s3://bucket/b.zarr", shards=(4096, 4096), chunks=(512, 512))

Where the client has no card, open the array with ``device="auto"`` and pass ``meta=`` (an empty
CuPy array); it is what tells dask which library the blocks belong to.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zarr_gpu._types import Shape
from zarr_gpu.array import Array
from zarr_gpu.creating import create_array, overlap
from zarr_gpu.errors import MissingDependencyError, UnsafeConcurrentWriteError
from zarr_gpu.interop import dask_chunks
from zarr_gpu.nodes import StorePath, document_key
from zarr_gpu.opening import open_array
from zarr_gpu.places import find_place
from zarr_gpu.stores.base import Store

try:
    import dask
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import Delayed, delayed
    from dask.highlevelgraph import HighLevelGraph
    from dask.layers import ArraySliceDep
except ImportError as error:  # pragma: no cover - a subprocess tests it
    raise MissingDependencyError(
        f"dask arrays need dask ({error}): pip install 'zarr-gpu[dask]'"
    ) from error

_PREFIX = "zarr_gpu"


def to_dask(
    array: Any,
    chunks: Any = None,
    *,
    name: str | bool | None = None,
    meta: Any = None,
    inline_array: bool = False,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> Any:
    """A dask array whose blocks are read from ``array`` when they are computed.

    ``array``: an :class:`~zarr_gpu.Array`, or what :func:`zarr_gpu.open_array` opens (with
    ``path``, ``storage_options`` and ``device``). ``chunks``: None for one block per stored object
    (shard or chunk); anything else as in :func:`dask.array.from_array`, where ``"auto"`` is a
    multiple of those objects. Blocks that cut objects are read correctly, every object by each of
    its blocks.

    ``name``: None for a name that says the place of the array, its metadata and, for local and zip
    stores, the version of their document, so that the same array has the same name everywhere. Who
    changes chunks in place and keeps a cluster's results should pass False (a name that never
    repeats) or a name of their own. ``meta``: an empty array like the blocks; that of the array's
    device unless given. ``inline_array`` as in dask.
    """
    if not isinstance(array, Array):
        array = open_array(
            array, mode="r", path=path, storage_options=storage_options, device=device
        )
    elif path is not None or storage_options is not None:
        raise TypeError("path= and storage_options= are for stores, not for an array")
    elif device is not None:
        array = array.to(device)
    stored = tuple(lengths or (0,) for lengths in array.write_chunk_sizes)
    wanted = da.core.normalize_chunks(
        stored if chunks is None else chunks,
        array.shape,
        dtype=array.dtype,
        previous_chunks=stored,
    )
    if meta is None:
        meta = array._backend.empty((0,) * array.ndim, array.dtype, "C")  # noqa: SLF001 - which library it is, only the backend knows
    if name is None or name is True:
        name = f"{_PREFIX}-{_token(array, wanted)}"
    elif name is False:
        name = f"{_PREFIX}-{uuid.uuid4().hex}"
    return da.from_array(
        Source(array), chunks=wanted, name=name, meta=meta, inline_array=inline_array
    )


def from_dask(
    x: Any,
    store: Any,
    *,
    path: str | None = None,
    region: Any = None,
    overwrite: bool = False,
    align_chunks: bool = False,
    compute: bool = True,
    chunks: Any = None,
    shards: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    compute_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Store the dask array ``x``, block by block; returns the :class:`~zarr_gpu.Array`.

    ``store`` is an existing Array, of which ``region`` (a tuple of slices; None: all of it) is
    written, or a place where :func:`zarr_gpu.create_array` makes one (``path`` is its name there,
    ``overwrite`` replaces what is there, ``kwargs`` are its further arguments). Unless ``chunks``
    or ``shards`` are given, the blocks of ``x`` are the chunks.

    With ``compute=False`` only metadata are written, and a :class:`dask.delayed.Delayed` of the
    Array is returned. ``compute_kwargs`` go to ``compute``.

    Raises UnsafeConcurrentWriteError (a ValueError) when two blocks would share a chunk or shard;
    ``align_chunks=True`` moves their borders instead. ValueError for unknown or irregular chunks
    and for shapes that do not fit.
    """
    if not isinstance(x, da.Array):
        raise TypeError(f"from_dask stores dask arrays, not {type(x).__name__}")
    if dask_chunks.unknown(x.chunks):
        raise ValueError(
            "the dask array has blocks of unknown length, which cannot be placed in an array; "
            "x.compute_chunk_sizes() finds them out"
        )
    if isinstance(store, Array):
        given = (path, storage_options, chunks, shards)
        if overwrite or kwargs or any(value is not None for value in given):
            raise TypeError(
                "an existing array has its own place, layout and codecs: overwrite=, path=, "
                "chunks=, shards= and other arguments of create_array are for new ones"
            )
        target = store
    else:
        if region is not None:
            raise ValueError("region= is for an existing Array; open it and pass that as store")
        place = find_place(store, path, "a", storage_options)
        if overwrite:
            _refuse_own_source(x, place)
        if chunks is None:
            chunks = "auto" if shards is not None else _chunks_of(x, align_chunks)
        target = create_array(
            place,
            shape=x.shape,
            dtype=x.dtype,
            chunks=chunks,
            shards=shards,
            overwrite=overwrite,
            **kwargs,
        )
    result = store_blocks([(x, target, region)], target, align_chunks=align_chunks)
    return compute_now(result, compute_kwargs) if compute else result


def store_blocks(
    writes: Sequence[tuple[Any, Array, Any]],
    result: Any,
    *,
    align_chunks: bool = False,
    check: bool = True,
) -> Any:
    """A Delayed of ``result`` that first stores (dask array, array, region) of every write.

    ``check=False`` leaves it to the caller that blocks may share objects.
    """
    stored = []
    for x, array, region in writes:
        start = _start(x, array, region)
        if check:
            x = _aligned(x, array, start, align_chunks)
        stored.append(_stored(x, array, start))
    name = f"{_PREFIX}-stored-{uuid.uuid4().hex}"
    keys = [key for array in stored for key in dask.core.flatten(array.__dask_keys__())]
    graph: dict[Any, Any] = {}
    if stored:  # together, as arrays: what they share is computed once, slices are fused
        merged = HighLevelGraph.merge(*(array.dask for array in stored))
        graph.update(stored[0].__dask_optimize__(merged, keys))
    held = delayed(Holder(result), name=f"{name}-result", traverse=False)
    graph.update(held.dask)
    graph[name] = (_finish, held.key, keys)
    return Delayed(name, graph)


def compute_now(delayed_result: Any, kwargs: Mapping[str, Any] | None = None) -> Any:
    """Compute; what a store says against being sent elsewhere is raised as it said it."""
    try:
        return delayed_result.compute(**(kwargs or {}))
    except TypeError as error:  # distributed: "Could not serialize object"
        if isinstance(error.__cause__, UnsafeConcurrentWriteError):
            raise error.__cause__ from None
        raise


def _finish(held: Holder, _blocks: Any) -> Any:
    return held.value


class Source:
    """What tasks read from: the shape and the brackets of an array."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def shape(self) -> Shape:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __getitem__(self, selection: Any) -> Any:
        value = self.array[selection]
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            return value
        box = np.empty((), self.array.dtype)  # a single string or object
        box[()] = value
        return box

    def __reduce__(self) -> Any:
        check_shared(self.array.store, writes=False)
        return Source, (self.array,)


class Target:
    """What tasks write to."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def __reduce__(self) -> Any:
        check_shared(self.array.store, writes=True)
        return Target, (self.array,)


class Holder:
    """An object that is to be handed on as it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return Holder, (self.value,)


def _stored(x: Any, array: Array, start: Shape) -> Any:
    unique = uuid.uuid4().hex  # writing the same again is to happen again
    target = delayed(Target(array), name=f"{_PREFIX}-target-{unique}", traverse=False)
    return x.map_blocks(
        _store_block,
        target,
        ArraySliceDep(x.chunks),
        start=start,
        name=f"{_PREFIX}-store-{unique}",
        meta=np.empty((0,) * x.ndim, np.uint8),
    )


def _store_block(block: Any, target: Target, where: tuple[slice, ...], start: Shape) -> Any:
    place = tuple(
        slice(at + span.start, at + span.stop) for at, span in zip(start, where, strict=True)
    )
    target.array[place] = block
    return np.empty((0,) * len(start), np.uint8)


def _start(x: Any, array: Array, region: Any) -> Shape:
    """Where ``region`` of ``array`` begins. ValueError when ``x`` does not fill it."""
    spans = (slice(None),) * array.ndim if region is None else region
    spans = (spans,) if isinstance(spans, slice) else tuple(spans)
    if len(spans) != array.ndim or not all(isinstance(span, slice) for span in spans):
        raise ValueError(
            f"region must be {array.ndim} slices, one for each axis of array {array.name!r}; "
            f"found {region!r}"
        )
    ends = [span.indices(n) for span, n in zip(spans, array.shape, strict=True)]
    if any(step != 1 for _, _, step in ends):
        raise ValueError(f"slices of region must have step 1, found {region!r}")
    shape = tuple(max(0, stop - start) for start, stop, _ in ends)
    if shape != x.shape:
        raise ValueError(
            f"a dask array of shape {x.shape} cannot be stored in a region of shape {shape} of "
            f"array {array.name!r}"
        )
    return tuple(start for start, _, _ in ends)


def _aligned(x: Any, array: Array, start: Shape, align: bool) -> Any:
    """``x`` with blocks that share no stored object."""
    objects = array.write_chunk_sizes
    for axis, (blocks, lengths, at) in enumerate(zip(x.chunks, objects, start, strict=True)):
        border = dask_chunks.misplaced(blocks, lengths, at)
        if border is None:
            continue
        if not align:
            what = "shard" if array.shards is not None else "chunk"
            raise UnsafeConcurrentWriteError(
                f"array {array.name!r}: two blocks of the dask array meet at {border} of axis "
                f"{axis}, inside a {what} (they are {lengths[0]} long there); written by two "
                f"tasks, one of them would be lost. align_chunks=True moves the borders of the "
                f"blocks, x.rechunk(...) to multiples of the {what}s avoids it"
            )
        x = x.rechunk({axis: dask_chunks.aligned(blocks, lengths, at)})
    return x


def _chunks_of(x: Any, align: bool) -> Shape:
    """The chunks of a new array: the blocks of ``x``."""
    chosen = []
    for axis, blocks in enumerate(x.chunks):
        length = max(1, *blocks) if align else dask_chunks.uniform(blocks)
        if length is None:
            raise ValueError(
                f"the blocks of axis {axis} of the dask array have different lengths, "
                f"{blocks[:8]}, but chunks of an array are all of one length. Give chunks= (and "
                "align_chunks=True), or x.rechunk(...)"
            )
        chosen.append(length)
    return tuple(chosen)


def _refuse_own_source(x: Any, place: StorePath) -> None:
    """ValueError when replacing what is at ``place`` would delete what is to be read."""
    for array in arrays_behind(x):
        if overlap(place, array.store_path):
            raise ValueError(
                f"overwriting {place} would destroy the array {array.name!r}, which the dask array "
                "is computed from; store it somewhere else"
            )


def arrays_behind(x: Any) -> list[Array]:
    """Our arrays that a dask array is computed from, directly or by way of xarray."""
    found = []
    for name, layer in getattr(x.dask, "layers", {}).items():
        if not name.startswith("original-"):  # what dask calls what it was made from
            continue
        for task in layer.values():
            source = getattr(task, "value", task)
            while source is not None:
                if isinstance(source, Array):
                    found.append(source)
                source = None if isinstance(source, Array) else getattr(source, "array", None)
    return found


def _token(array: Array, chunks: Any) -> str:
    """The same for the same array in any process; never the same for stores in memory."""
    store = array.store
    if _process_store(store):
        return uuid.uuid4().hex
    key = document_key(array.metadata, array.path)
    version = None
    if store.local:
        reader = store.open_reader(key)
        if reader is not None:
            with reader:
                version = reader.version
    documents = sorted(array.metadata.documents(None).items())
    token: str = tokenize(store.identity, array.path, documents, version, array.device, chunks)
    return token


def check_shared(store: Store, *, writes: bool) -> None:
    """Raise when an array is about to be sent to a process that cannot have its store."""
    found = _process_store(store)
    if found is None or (found == "copied" and not writes):
        return  # a copy of what is in memory can be read
    raise UnsafeConcurrentWriteError(
        f"{store!r} lives in the memory of one process, and the tasks of this graph are sent to "
        "others, where what they write would be lost and what they read is not. Use a path or a "
        "URL, or a scheduler of threads (dask.config.set(scheduler='threads'))"
    )


def _process_store(store: Any) -> str | None:
    """``"copied"`` for stores whose contents are pickled, ``"absent"`` for those that lose them."""
    while isinstance(getattr(store, "store", None), Store):
        store = store.store
    from zarr_gpu.stores.memory import MemoryStore

    if isinstance(store, MemoryStore):
        # Another mapping knows by itself how it gets to another process.
        return "copied" if isinstance(store.data, dict) else None
    protocol = getattr(getattr(store, "fs", None), "protocol", ())
    if protocol == "memory" or "memory" in tuple(protocol):
        return "absent"
    foreign = type(getattr(store, "store", None)).__name__
    return "copied" if foreign in ("MemoryStore", "GpuMemoryStore") else None
