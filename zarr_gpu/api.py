"""The functions of the package's front door, with zarr-python's names, arguments and defaults.

Everything that returns data takes ``device=`` beside them. Where zarr-python departs from NumPy,
these follow NumPy.
"""

from __future__ import annotations

from zarr_gpu import info
from zarr_gpu.copying import copy, copy_all, copy_store
from zarr_gpu.creating import (
    array,
    create,
    create_array,
    create_hierarchy,
    empty,
    empty_like,
    from_array,
    full,
    full_like,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from zarr_gpu.group import Group
from zarr_gpu.opening import (
    consolidate_metadata,
    create_group,
    group,
    open,
    open_array,
    open_consolidated,
    open_group,
    open_like,
)
from zarr_gpu.saving import load, save, save_array, save_group

__all__ = [
    "array",
    "consolidate_metadata",
    "copy",
    "copy_all",
    "copy_store",
    "create",
    "create_array",
    "create_group",
    "create_hierarchy",
    "empty",
    "empty_like",
    "from_array",
    "full",
    "full_like",
    "group",
    "load",
    "ones",
    "ones_like",
    "open",
    "open_array",
    "open_consolidated",
    "open_group",
    "open_like",
    "save",
    "save_array",
    "save_group",
    "tree",
    "zeros",
    "zeros_like",
]


def tree(grp: Group, expand: bool | None = None, level: int | None = None) -> info.Tree:
    """The hierarchy below a group as text."""
    return grp.tree(expand, level)
