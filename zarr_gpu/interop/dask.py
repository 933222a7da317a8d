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

from collections.abc import Mapping
from typing import Any

from zarr_gpu.array import Array
from zarr_gpu.creating import create_array
from zarr_gpu.opening import open_array
from zarr_gpu.places import find_place


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
    from zarr_gpu.interop import dask_graph as graphs

    if not isinstance(array, Array):
        array = open_array(
            array, mode="r", path=path, storage_options=storage_options, device=device
        )
    elif path is not None or storage_options is not None:
        raise TypeError("path= and storage_options= are for stores, not for an array")
    elif device is not None:
        array = array.to(device)
    return graphs.array_of(array, chunks, name, meta, inline_array)


def from_dask(
    x: Any,
    store: Any,
    *,
    path: str | None = None,
    region: Any = None,
    overwrite: bool = False,
    align_chunks: bool = False,
    compute: bool = True,
    dtype: Any = None,
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
    or ``shards`` are given, the blocks of ``x`` are the chunks; ``dtype`` is that of ``x``, which
    for blocks of objects says too little (``str``, for example, is to be given).

    A ``region`` that ends inside a chunk or shard replaces all of it: nobody else may be writing
    the rest at the same time, except to local files and in this process, where locks keep it
    whole. Where ``x`` is computed from the array that is written, block by block, every block must
    be computed from its own place only: others may be new already.

    With ``compute=False`` only metadata are written, and a :class:`dask.delayed.Delayed` of the
    Array is returned. ``compute_kwargs`` go to ``compute``.

    Raises UnsafeConcurrentWriteError (a ValueError) when two blocks would share a chunk or shard;
    ``align_chunks=True`` moves their borders instead. ValueError for unknown or irregular chunks
    and for shapes that do not fit.
    """
    from zarr_gpu.interop import dask_graph as graphs

    graphs.check(x)
    if isinstance(store, Array):
        given = (path, storage_options, dtype, chunks, shards)
        if overwrite or kwargs or any(value is not None for value in given):
            raise TypeError(
                "an existing array has its own place, layout and codecs: overwrite=, path=, "
                "dtype=, chunks=, shards= and other arguments of create_array are for new ones"
            )
        target = store
    else:
        if region is not None:
            raise ValueError("region= is for an existing Array; open it and pass that as store")
        place = find_place(store, path, "a", storage_options)
        if overwrite:
            graphs.refuse_own_source(x, place)
        if chunks is None:
            chunks = "auto" if shards is not None else graphs.chunks_of(x, align=align_chunks)
        target = create_array(
            place,
            shape=x.shape,
            dtype=x.dtype if dtype is None else dtype,
            chunks=chunks,
            shards=shards,
            overwrite=overwrite,
            **kwargs,
        )
    result = graphs.store_blocks([(x, target, region)], target, align_chunks=align_chunks)
    return graphs.compute_now(result, compute_kwargs) if compute else result
