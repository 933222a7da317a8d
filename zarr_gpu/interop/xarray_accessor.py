"""``.zarr_gpu`` on xarray's objects: ``ds.zarr_gpu.to_zarr(store)``.

Imported by :mod:`zarr_gpu` where xarray has been imported before it, as sorted imports do, and by
:mod:`zarr_gpu.interop.xarray`, which xarray imports for ``engine="zarr_gpu"``.
"""

from __future__ import annotations

from typing import Any

import xarray as xr


class _Accessor:
    """What datasets, data arrays and trees have in common: how they are stored."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner


@xr.register_dataset_accessor("zarr_gpu")
class DatasetAccessor(_Accessor):
    """``ds.zarr_gpu``."""

    def to_zarr(self, store: Any = None, **kwargs: Any) -> Any:
        """Store the dataset; see :func:`zarr_gpu.interop.xarray_write.to_zarr`."""
        from zarr_gpu.interop.xarray_write import to_zarr

        return to_zarr(self._owner, store, **kwargs)


@xr.register_dataarray_accessor("zarr_gpu")
class DataArrayAccessor(_Accessor):
    """``da.zarr_gpu``."""

    def to_zarr(self, store: Any = None, **kwargs: Any) -> Any:
        """Store the array with its coordinates; :func:`xarray.open_dataarray` opens it again."""
        from zarr_gpu.interop.xarray_encoding import as_dataset
        from zarr_gpu.interop.xarray_write import to_zarr

        return to_zarr(as_dataset(self._owner), store, **kwargs)


@xr.register_datatree_accessor("zarr_gpu")
class DataTreeAccessor(_Accessor):
    """``tree.zarr_gpu``."""

    def to_zarr(self, store: Any, **kwargs: Any) -> Any:
        """Store the tree; see :func:`zarr_gpu.interop.xarray_write.tree_to_zarr`."""
        from zarr_gpu.interop.xarray_write import tree_to_zarr

        return tree_to_zarr(self._owner, store, **kwargs)
