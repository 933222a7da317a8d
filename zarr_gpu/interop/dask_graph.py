"""Graphs of dask that read and write arrays; imports dask, which the functions of users do not."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zarr_gpu._types import Shape
from zarr_gpu.array import Array
from zarr_gpu.creating import overlap
from zarr_gpu.errors import MissingDependencyError, UnsafeConcurrentWriteError
from zarr_gpu.interop import dask_chunks
from zarr_gpu.nodes import StorePath
from zarr_gpu.stores.base import Store

try:
    import dask
    import dask.array as da
    from dask._task_spec import DataNode, Task
    from dask.base import tokenize
    from dask.blockwise import Blockwise
    from dask.delayed import Delayed, delayed
    from dask.highlevelgraph import HighLevelGraph
    from dask.layers import ArraySliceDep
except ImportError as error:
    raise MissingDependencyError(
        f"dask arrays need dask ({error}): pip install 'zarr-gpu[dask]'"
    ) from error

_PREFIX = "zarr_gpu"


def array_of(
    array: Array, chunks: Any, name: str | bool | None, meta: Any, inline_array: bool
) -> Any:
    """See :func:`zarr_gpu.to_dask`."""
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
        name = f"{_PREFIX}-{tokenize(array, array.device, wanted)}"
    elif name is False:
        name = f"{_PREFIX}-{uuid.uuid4().hex}"
    return da.from_array(
        Source(array), chunks=wanted, name=name, meta=meta, inline_array=inline_array
    )


def check(x: Any) -> None:
    """TypeError or ValueError for what cannot be stored block by block."""
    if not isinstance(x, da.Array):
        raise TypeError(f"from_dask stores dask arrays, not {type(x).__name__}")
    if dask_chunks.unknown(x.chunks):
        raise ValueError(
            "the dask array has blocks of unknown length, which cannot be placed in an array; "
            "x.compute_chunk_sizes() finds them out"
        )
    if isinstance(x._meta, np.ma.MaskedArray):  # noqa: SLF001 - what the blocks are, dask says there
        raise TypeError(
            "masks are not stored: da.ma.filled(x, value) says what stands for masked elements"
        )


def store_blocks(
    writes: Sequence[tuple[Any, Array, Any]],
    result: Any,
    *,
    align_chunks: bool = False,
    check: bool = True,
    last: Callable[[Any], Any] | None = None,
) -> Any:
    """A Delayed of ``result`` that first stores (dask array, array, region) of every write.

    ``check=False`` leaves it to the caller that blocks may share objects. ``last`` makes of
    ``result``, when all is stored, what is handed out.
    """
    stored = []
    for x, array, region in writes:
        start = _start(x, array, region)
        if check:
            x = _aligned(x, array, start, align_chunks)
        stored.append(_stored(_with_layers(x), array, start))
    name = f"{_PREFIX}-stored-{uuid.uuid4().hex}"
    keys = [key for array in stored for key in dask.core.flatten(array.__dask_keys__())]
    graph: dict[Any, Any] = {}
    if stored:  # together, as arrays: what they share is computed once, slices are fused
        merged = HighLevelGraph.merge(*(array.dask for array in stored))
        graph.update(stored[0].__dask_optimize__(merged, keys))
    held = delayed(Holder(result, last), name=f"{name}-result", traverse=False)
    graph.update(held.dask)
    graph[name] = (_finish, held.key, keys)
    return Delayed(name, graph)


def compute_now(delayed_result: Any, kwargs: Mapping[str, Any] | None = None) -> Any:
    """Compute; what a store says against being sent elsewhere is raised as it said it."""
    try:
        return delayed_result.compute(**(kwargs or {}))
    except TypeError as error:  # distributed: "Could not serialize object"
        reason: BaseException | None = error
        while reason is not None:
            if isinstance(reason, UnsafeConcurrentWriteError):
                raise reason from None
            reason = reason.__cause__ or reason.__context__
        raise


def _finish(held: Holder, _blocks: Any) -> Any:
    return held.value if held.last is None else held.last(held.value)


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
    """An object that is to be handed on as it is, and what is to be done before."""

    __slots__ = ("last", "value")

    def __init__(self, value: Any, last: Callable[[Any], Any] | None = None) -> None:
        self.value = value
        self.last = last

    def __reduce__(self) -> Any:
        return Holder, (self.value, self.last)


def _with_layers(x: Any) -> Any:
    """An array with a graph; with ``array.query-planning`` dask's have expressions instead."""
    if isinstance(x, da.core.Array):
        return x
    planned = x.optimize()
    name = next(dask.core.flatten(planned.__dask_keys__()))[0]
    return da.core.Array(dict(planned.__dask_graph__()), name, planned.chunks, meta=x._meta)  # noqa: SLF001 - as dask's own functions do


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
                f"{axis}, inside a {what} ({dask_chunks.around(lengths, border)} there); written "
                "by two tasks, one of them would be lost. align_chunks=True moves the borders of "
                f"the blocks, x.rechunk(...) to multiples of the {what}s avoids it"
            )
        x = x.rechunk({axis: dask_chunks.aligned(blocks, lengths, at)})
    return x


def chunks_of(x: Any, *, align: bool) -> Shape:
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


def refuse_own_source(x: Any, place: StorePath) -> None:
    """ValueError when replacing what is at ``place`` would delete what is to be read."""
    for array in arrays_behind(x):
        if overlap(place, array.store_path):
            raise ValueError(
                f"overwriting {place} would destroy the array {array.name!r}, which the dask array "
                "is computed from; store it somewhere else"
            )


def arrays_behind(x: Any) -> list[Array]:
    """Our arrays that a dask array is computed from, directly or by way of xarray."""
    found: dict[int, Array] = {}
    seen: dict[int, Any] = {}  # kept alive, so that no other object gets the same id
    left = list(getattr(x.dask, "layers", {"": x.dask}).values())
    while left:
        item = left.pop()
        if isinstance(item, Array):
            found[id(item)] = item
        elif id(item) not in seen:
            seen[id(item)] = item
            left.extend(_inside(item))
    return list(found.values())


def _inside(item: Any) -> Iterable[Any]:
    """What a layer, a task of a graph or a lazy array holds."""
    if isinstance(item, Blockwise):  # its tasks need not be made
        return item.task, *(value for value, indices in item.indices if indices is None)
    if isinstance(item, Mapping):
        return item.values()
    if isinstance(item, list | tuple | set):
        return item
    if isinstance(item, Task):
        return *item.args, *item.kwargs.values()
    if isinstance(item, DataNode):
        return (item.value,)
    if type(item).__module__.partition(".")[0] in ("zarr_gpu", "xarray"):
        return getattr(item, "array", None), getattr(item, "source", None)
    return ()


def check_shared(store: Store, *, writes: bool) -> None:
    """Raise when an array is about to be sent to a process that cannot have its store."""
    if not store.in_process or (store.in_process == "copied" and not writes):
        return  # a copy of what is in memory can be read
    raise UnsafeConcurrentWriteError(
        f"{store!r} lives in the memory of one process, and the tasks of this graph are sent to "
        "others, where what they write would be lost and what they read is not. Use a path or a "
        "URL, or a scheduler of threads (dask.config.set(scheduler='threads'))"
    )
