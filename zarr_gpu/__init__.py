"""zarr_gpu: a storage engine for Zarr arrays.

>>> import numpy as np, zarr_gpu
>>> a = zarr_gpu.create_array({}, data=np.arange(12).reshape(3, 4), chunks=(2, 2))
>>> a[1:, ::2].tolist()
[[4, 6], [8, 10]]

Nothing is imported before it is asked for, not even NumPy.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # as in typing, which is slow to import

if TYPE_CHECKING:
    from typing import Any

    from zarr_gpu import errors
    from zarr_gpu.api import (
        array,
        consolidate_metadata,
        copy,
        copy_all,
        copy_store,
        create,
        create_array,
        create_group,
        create_hierarchy,
        empty,
        empty_like,
        from_array,
        full,
        full_like,
        group,
        load,
        ones,
        ones_like,
        open,
        open_array,
        open_consolidated,
        open_group,
        open_like,
        save,
        save_array,
        save_group,
        tree,
        zeros,
        zeros_like,
    )
    from zarr_gpu.array import Array
    from zarr_gpu.config import config
    from zarr_gpu.device.detect import device_info
    from zarr_gpu.group import Group
    from zarr_gpu.interop.dask import from_dask, to_dask
    from zarr_gpu.interop.enabling import enable
    from zarr_gpu.tools.converting import convert, rechunk
    from zarr_gpu.tools.migrating import migrate
    from zarr_gpu.tools.verifying import verify

    __version__: str

__all__ = [
    "Array",
    "Group",
    "__version__",
    "array",
    "config",
    "consolidate_metadata",
    "convert",
    "copy",
    "copy_all",
    "copy_store",
    "create",
    "create_array",
    "create_group",
    "create_hierarchy",
    "device_info",
    "empty",
    "empty_like",
    "enable",
    "errors",
    "from_array",
    "from_dask",
    "full",
    "full_like",
    "group",
    "load",
    "migrate",
    "ones",
    "ones_like",
    "open",
    "open_array",
    "open_consolidated",
    "open_group",
    "open_like",
    "rechunk",
    "save",
    "save_array",
    "save_group",
    "to_dask",
    "tree",
    "verify",
    "zeros",
    "zeros_like",
]

_HOMES = {
    "Array": "array",
    "Group": "group",
    "config": "config",
    "convert": "tools.converting",
    "device_info": "device.detect",
    "enable": "interop.enabling",
    "from_dask": "interop.dask",
    "migrate": "tools.migrating",
    "rechunk": "tools.converting",
    "to_dask": "interop.dask",
    "verify": "tools.verifying",
}
"""Modules of public names; all others are in ``api``."""


class _Package(ModuleType):
    """The public names win over the modules that are called like them: array, config and group."""

    def __setattr__(self, name: str, value: object) -> None:
        # The import system binds a submodule to its package whenever it is first imported.
        if name in __all__ and name != "errors" and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Functions that are sent to other processes (dask, ray) name the package, too."""
        return import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:  # type checkers shall complain about other names

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "errors":
            return import_module("zarr_gpu.errors")
        if name == "__version__":
            from importlib.metadata import version

            value = version("zarr-gpu")
        else:
            value = getattr(import_module(f"zarr_gpu.{_HOMES.get(name, 'api')}"), name)
        globals()[name] = value
        return value


# Whoever has imported xarray gets ds.zarr_gpu, for no more than three small classes. Where xarray
# comes later, the first dataset of engine="zarr_gpu" brings it.
if hasattr(sys.modules.get("xarray"), "register_datatree_accessor"):
    import_module("zarr_gpu.interop.xarray_accessor")
