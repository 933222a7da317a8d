"""Which part of what is stored a dataset is written to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from zarr_gpu.errors import UnsafeConcurrentWriteError
from zarr_gpu.interop import dask_chunks
from zarr_gpu.interop.dask_chunks import Lengths
from zarr_gpu.interop.xarray import DataStore
from zarr_gpu.interop.xarray_encoding import decoded


def parse(
    dataset: Any,
    region: Mapping[Any, Any] | str,
    store: DataStore,
    mode: str,
    append_dim: Hashable | None,
) -> dict[Any, slice]:
    """``region`` as slices by dimension; ``"auto"`` finds out where the coordinates are stored.

    Raises ValueError, TypeError or KeyError for a region that does not fit.
    """
    spans = dict.fromkeys(dataset.dims, "auto") if region == "auto" else region
    if not isinstance(spans, Mapping):
        raise TypeError(f"region must be 'auto' or a mapping, found {region!r}")
    if any(isinstance(span, str) and span == "auto" for span in spans.values()):
        if mode not in ("r+", "a"):
            raise ValueError(f"region='auto' needs mode 'r+' or 'a', found {mode!r}")
        spans = {
            dim: _find(dataset, dim, store) if isinstance(span, str) and span == "auto" else span
            for dim, span in spans.items()
        }
    for dim, span in spans.items():
        if dim not in dataset.dims:
            raise ValueError(f"region has {dim!r}, but the dataset has {list(dataset.dims)}")
        if not isinstance(span, slice):
            raise TypeError(f"region must have slices, found {span!r} for {dim!r}")
        if span.step not in (1, None):
            raise ValueError(f"slices of region must have step 1, found {span!r} for {dim!r}")
    outside = [k for k, v in dataset.variables.items() if not set(spans) & set(v.dims)]
    if spans and outside:
        raise ValueError(
            f"variables {outside} have no dimension of the region {list(spans)}, so all of them "
            f"would be written; ds.drop_vars({outside!r}) leaves them out"
        )
    if append_dim is not None and append_dim in spans:
        raise ValueError(f"{append_dim!r} is both append_dim and in region")
    return dict(spans)


def _find(dataset: Any, dim: Any, store: DataStore) -> slice:
    """Where the values of a coordinate are in the stored one."""
    if dim not in dataset.variables:
        return slice(0, dataset.sizes[dim])
    if dim not in store.arrays:
        raise KeyError(f"no coordinate {dim!r} is stored, so its region cannot be found")
    stored = decoded({dim: store.variable(dim).load()})[dim]
    where = pd.Index(stored.values).get_indexer(dataset[dim].values)
    if (where == -1).any():
        raise KeyError(
            f"not all values of coordinate {dim!r} are stored; a region changes no coordinates"
        )
    if (np.diff(where) != 1).any():
        raise ValueError(f"the values of coordinate {dim!r} are not stored next to each other")
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0)


def fitted(
    name: Any,
    variable: Any,
    existing: Any,
    spans: Mapping[Any, slice],
    append_dim: Hashable | None,
) -> Any:
    """``variable`` with its axes as they are stored. ValueError when the lengths do not fit."""
    if variable.dims != existing.dims:
        if set(variable.dims) != set(existing.dims):
            raise ValueError(
                f"variable {name!r} is stored with the dimensions {existing.dims}, not "
                f"{variable.dims}"
            )
        variable = variable.transpose(*existing.dims)
    for dim, n in existing.sizes.items():
        if dim == append_dim:
            continue
        start, stop, _ = spans.get(dim, slice(None)).indices(n)
        if max(0, stop - start) != variable.sizes[dim]:
            raise ValueError(
                f"variable {name!r}: {variable.sizes[dim]} values along {dim!r} for "
                f"{max(0, stop - start)} that are stored there; append_dim= makes an axis longer, "
                "region= writes a part of it"
            )
    return variable


def aligned(
    name: Any,
    data: Any,
    objects: tuple[Lengths, ...],
    start: tuple[int, ...],
    *,
    align: bool,
    check: bool,
    partial: bool,
) -> Any:
    """The dask array ``data`` with blocks that share no stored object.

    ``align`` moves borders, ``check`` refuses what is left (UnsafeConcurrentWriteError, a
    ValueError); without ``partial`` objects at the ends of a region are not shared, either, as
    other processes may be writing the regions beside it.
    """
    for axis, (blocks, lengths, at) in enumerate(zip(data.chunks, objects, start, strict=True)):
        border = dask_chunks.misplaced(blocks, lengths, at)
        if border is not None and align:
            data = data.rechunk({axis: dask_chunks.aligned(blocks, lengths, at)})
        elif border is not None and check:
            raise UnsafeConcurrentWriteError(
                f"variable {name!r}: two blocks of its dask array meet at {border} of axis {axis}, "
                f"inside a chunk or shard ({dask_chunks.around(lengths, border)} there); written "
                "by two tasks, one of them would be lost. align_chunks=True moves the borders of "
                "the blocks, ds.chunk(...) or encoding['chunks'] avoid it, safe_chunks=False "
                "writes all the same"
            )
        shared = dask_chunks.shared_with_others(blocks, lengths, at)
        if shared is not None and check and not partial:
            raise UnsafeConcurrentWriteError(
                f"variable {name!r}: the region writes a part of the chunk or shard at "
                f"{shared[0]}:{shared[1]} of axis {axis}; a process that writes the rest at the "
                "same time would lose data. Choose regions that end at chunks, or mode='a' when "
                "nobody else is writing, or safe_chunks=False"
            )
    return data
