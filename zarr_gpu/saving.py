"""``save`` and ``load``: whole arrays between memory and a store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from zarr_gpu.array import Array
from zarr_gpu.creating import create, overlap
from zarr_gpu.creation import array_metadata
from zarr_gpu.group import Group
from zarr_gpu.nodes import StorePath
from zarr_gpu.opening import group
from zarr_gpu.opening import open as open_node
from zarr_gpu.places import find_place
from zarr_gpu.stores.base import Store


def save(
    store: Any,
    *args: Any,
    zarr_format: int | None = None,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Save one array (as an array) or several (as a group); ``*.zip`` names a zip file."""
    if not args and not kwargs:
        raise ValueError("save needs at least one array")
    common: dict[str, Any] = {
        "zarr_format": zarr_format,
        "path": path,
        "storage_options": storage_options,
    }
    if len(args) == 1 and not kwargs:
        save_array(store, args[0], **common)
    else:
        save_group(store, *args, **common, **kwargs)


def save_array(
    store: Any,
    arr: Any,
    *,
    zarr_format: int | None = None,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Save one array; further arguments as for :func:`create`. An array in the way is replaced."""
    if not hasattr(arr, "dtype") or not hasattr(arr, "shape"):
        raise TypeError(f"arr must be a NumPy or NumPy-like array, found {type(arr).__name__}")
    with _opened(store, path, kwargs.pop("mode", "a"), storage_options) as place:
        create(
            arr.shape,
            dtype=arr.dtype,
            data=arr,
            store=place,
            zarr_format=zarr_format,
            overwrite=kwargs.pop("overwrite", True),
            chunks=kwargs.pop("chunks", getattr(arr, "chunks", None)),
            **kwargs,
        )


def save_group(
    store: Any,
    *args: Any,
    zarr_format: int | None = None,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Save several arrays into a group, under ``arr_0, arr_1, ...`` or the keyword names.

    What was at the group's place is replaced, once all arrays are known to fit.
    """
    if not args and not kwargs:
        raise ValueError("save_group needs at least one array")
    arrays = {**{f"arr_{i}": a for i, a in enumerate(args)}, **kwargs}
    for name, values in arrays.items():
        if not hasattr(values, "dtype") or not hasattr(values, "shape"):
            raise TypeError(f"{name} must be a NumPy or NumPy-like array")
    with _opened(store, path, "a", storage_options) as place:
        for name, values in arrays.items():
            array_metadata(shape=values.shape, dtype=values.dtype, zarr_format=zarr_format)
            if isinstance(values, Array) and overlap(place, values.store_path):
                raise ValueError(f"replacing {place} would destroy the source array {name!r}")
        group(place, zarr_format=zarr_format, overwrite=True)
        for name, values in arrays.items():
            save_array(place / name, values, zarr_format=zarr_format)


def _opened(
    store: Any, path: str | None, mode: str, storage_options: Mapping[str, Any] | None
) -> _Opened:
    return _Opened(store, find_place(store, path, mode, storage_options))


class _Opened(ExitStack):
    """A place that is closed again if the store was opened for it (a zip file needs that)."""

    def __init__(self, given: Any, place: StorePath) -> None:
        super().__init__()
        self._place = place
        if not isinstance(given, (Store, StorePath)):
            self.callback(place.store.close)

    def __enter__(self) -> StorePath:  # type: ignore[override]  # what the with statement binds
        super().__enter__()
        return self._place


def load(
    store: Any,
    path: str | None = None,
    zarr_format: int | None = None,
    *,
    device: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Read an array, or all arrays of a group as a (nested) dict, into memory."""
    node = open_node(
        store,
        mode="r",
        path=path,
        zarr_format=zarr_format,
        device=device,
        storage_options=storage_options,
    )
    return _load_node(node)


def _load_node(node: Array | Group) -> Any:
    if isinstance(node, Array):
        return node[...]
    return {name: _load_node(child) for name, child in node.members()}
