"""Where a node is: from what users pass as ``store=`` and ``path=`` to a store and a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zarr_gpu.array import Array, parse_settings
from zarr_gpu.config import config as settings
from zarr_gpu.errors import MetadataError
from zarr_gpu.group import Group
from zarr_gpu.metadata.paths import check_node_path
from zarr_gpu.nodes import StorePath, join
from zarr_gpu.stores.open import make_store

MODES = ("r", "r+", "a", "w", "w-")


def find_place(
    store: Any, path: str | None, mode: str | None, storage_options: Mapping[str, Any] | None
) -> StorePath:
    """Store and path of what a user named; an unknown ``mode`` is a ValueError."""
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, found {mode!r}")
    below = check_node_path(str(path)) if path else ""
    if isinstance(store, StorePath):
        base = store
        if mode == "r" and not base.store.read_only:
            base = StorePath(base.store.with_read_only(), base.path)
    elif isinstance(store, (Array, Group)):
        base = store.store_path
    else:
        base = StorePath(*make_store(store, mode=mode, storage_options=storage_options))
    if base.store.read_only and mode in ("w", "w-"):
        base.store.check_writable()
    return StorePath(base.store, join(base.path, below))


def node_arguments(config: Any, device: str | None, allow_pickle: bool) -> dict[str, Any]:
    """Checked keyword arguments that arrays and groups share."""
    return {
        "settings": None if config is None else parse_settings(config),
        "device": device,
        "allow_pickle": allow_pickle,
    }


def chosen_format(zarr_format: int | None) -> Any:
    """2 or 3; None is the configured default. MetadataError (a ValueError) for anything else."""
    chosen = settings.current.default_zarr_format if zarr_format is None else zarr_format
    if chosen not in (2, 3):
        raise MetadataError(f"zarr_format must be 2 or 3, found {chosen!r}")
    return chosen


def refuse_legacy(arguments: Mapping[str, Any]) -> None:
    """Arguments of Zarr 2 without a meaning today: TypeError unless they are None."""
    known = ("synchronizer", "chunk_store", "cache_metadata", "cache_attrs", "meta_array")
    for name, value in arguments.items():
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}")
        if value is not None and name == "chunk_store":
            raise TypeError("chunk_store= is not supported: chunks live beside their metadata")
