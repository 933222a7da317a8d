"""zarr_gpu: a storage engine for Zarr arrays.

>>> import numpy as np, zarr_gpu
>>> a = zarr_gpu.create_array({}, data=np.arange(12).reshape(3, 4), chunks=(2, 2))
>>> a[1:, ::2].tolist()
[[4, 6], [8, 10]]
"""

from __future__ import annotations

from typing import Any

from zarr_gpu import api, errors
from zarr_gpu.api import *  # noqa: F403 - the functions of the front door are listed there
from zarr_gpu.array import Array
from zarr_gpu.config import config
from zarr_gpu.group import Group

__all__ = ["Array", "Group", "__version__", "config", "device_info", "errors"]  # noqa: F405
__all__ += api.__all__


def __getattr__(name: str) -> Any:
    if name == "__version__":  # looked up on demand: importlib.metadata is slow to import
        from importlib.metadata import version

        return version("zarr-gpu")
    if name == "device_info":
        from zarr_gpu.device.detect import device_info

        return device_info
    raise AttributeError(f"module 'zarr_gpu' has no attribute {name!r}")
