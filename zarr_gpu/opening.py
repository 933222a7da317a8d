"""Opening arrays and groups, and creating groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zarr_gpu import consolidation
from zarr_gpu._types import JSON
from zarr_gpu.array import Array, parse_settings
from zarr_gpu.creating import create
from zarr_gpu.errors import (
    ArrayNotFoundError,
    ContainsArrayError,
    GroupNotFoundError,
    NodeNotFoundError,
    NodeTypeError,
)
from zarr_gpu.group import Group, like
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.nodes import StorePath, create_node, read_array, read_group, read_node
from zarr_gpu.places import chosen_format, find_place, node_arguments, refuse_legacy


def open(
    store: Any = None,
    *,
    mode: str | None = None,
    zarr_format: int | None = None,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    config: Any = None,
    device: str | None = None,
    allow_pickle: bool = False,
    **kwargs: Any,
) -> Array | Group:
    """The array or group at ``path`` of ``store``.

    With ``shape`` among the further arguments an array is opened or created, see
    :func:`open_array`; otherwise a missing node is created as a group, if ``mode`` allows.
    """
    common = {"config": config, "device": device, "allow_pickle": allow_pickle}
    place = find_place(store, path, mode, storage_options)
    mode = mode or ("r" if place.store.read_only else "a")
    if "shape" in kwargs:
        return open_array(place, mode=mode, zarr_format=zarr_format, **common, **kwargs)
    if mode not in ("w", "w-"):
        node = read_node(place.store, place.path, zarr_format)
        if isinstance(node, ArrayMetadata):
            return Array(place, node, **node_arguments(config, device, allow_pickle))
        if node is None and mode in ("r", "r+"):
            raise NodeNotFoundError(f"no array or group at {place.path!r} in {place.store!r}")
        if node is not None and not kwargs:
            return _opened(place, node, None, node_arguments(config, device, allow_pickle))
    return open_group(place, mode=mode, zarr_format=zarr_format, **common, **kwargs)


def open_array(
    store: Any = None,
    *,
    mode: str | None = None,
    zarr_format: int | None = None,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    config: Any = None,
    device: str | None = None,
    allow_pickle: bool = False,
    **kwargs: Any,
) -> Array:
    """Open an array, or (modes ``a``, ``w``, ``w-`` and ``shape`` given) create it.

    ``allow_pickle=True`` lets arrays of pickled objects be read. Unpickling runs code contained in
    the data: only ever use it on files you wrote yourself.

    Raises ArrayNotFoundError when there is none, NodeTypeError when a group is there.
    """
    place = find_place(store, path, mode, storage_options)
    mode = mode or ("r" if place.store.read_only else "a")
    if mode in ("w", "w-"):
        kwargs.setdefault("overwrite", mode == "w")
        return create(store=place, zarr_format=zarr_format, config=config, device=device, **kwargs)
    try:
        metadata = read_array(place.store, place.path, zarr_format)
    except ArrayNotFoundError:
        if mode != "a" or "shape" not in kwargs:
            raise
        return create(store=place, zarr_format=zarr_format, config=config, device=device, **kwargs)
    order = kwargs.get("order")
    changes = {k: kwargs[k] for k in ("write_empty_chunks",) if kwargs.get(k) is not None}
    if order is not None:
        changes["order"] = order
    settings = parse_settings(changes, parse_settings(config)) if changes else config
    return Array(place, metadata, **node_arguments(settings, device, allow_pickle))


def open_group(
    store: Any = None,
    *,
    mode: str = "a",
    path: str | None = None,
    zarr_format: int | None = None,
    attributes: Mapping[str, JSON] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    use_consolidated: bool | str | None = None,
    config: Any = None,
    device: str | None = None,
    allow_pickle: bool = False,
    **legacy: Any,
) -> Group:
    """Open a group, or (modes ``a``, ``w``, ``w-``) create it.

    Consolidated metadata are used when present; ``use_consolidated=True`` requires them
    (ValueError), ``False`` ignores them, a string names their v2 key.
    """
    refuse_legacy(legacy)
    place = find_place(store, path, mode, storage_options)
    common = node_arguments(config, device, allow_pickle)
    if mode in ("w", "w-"):
        return _new_group(place, zarr_format, attributes, overwrite=mode == "w", **common)
    try:
        metadata = read_group(place.store, place.path, zarr_format)
    except GroupNotFoundError:
        if mode != "a" or place.store.read_only:
            raise
        return _new_group(place, zarr_format, attributes, overwrite=False, **common)
    group = _opened(place, metadata, use_consolidated, common)
    if attributes and not place.store.read_only:
        group.update_attributes(attributes)
    return group


def _opened(
    place: StorePath, metadata: GroupMetadata, use: bool | str | None, common: Mapping[str, Any]
) -> Group:
    """A group, with consolidated metadata as ``use_consolidated=`` says."""
    if use is False:
        return Group(place, consolidation.without_consolidated(metadata), **common)
    if metadata.zarr_format == 2:
        key = use if isinstance(use, str) else ".zmetadata"
        metadata = consolidation.with_v2_consolidated(place, metadata, key)
    if use and metadata.consolidated is None:
        raise ValueError(f"no consolidated metadata at {place}")
    return Group(place, metadata, **common)


def open_consolidated(*args: Any, use_consolidated: bool = True, **kwargs: Any) -> Group:
    """:func:`open_group` that requires consolidated metadata (ValueError without)."""
    if use_consolidated is not True:
        raise TypeError("use_consolidated must be True in open_consolidated")
    return open_group(*args, use_consolidated=True, **kwargs)


def open_like(a: Any, path: str, **kwargs: Any) -> Array:
    """:func:`open_array` with defaults taken from ``a``."""
    arguments = {**like(a), **kwargs}
    return open_array(path=path, **arguments)


def _new_group(
    place: StorePath,
    zarr_format: int | None,
    attributes: Mapping[str, JSON] | None,
    *,
    overwrite: bool,
    **common: Any,
) -> Group:
    metadata = GroupMetadata(
        zarr_format=chosen_format(zarr_format), attributes=dict(attributes or {})
    )
    create_node(place.store, place.path, metadata, overwrite=overwrite)
    return Group(place, metadata, **common)


def create_group(
    store: Any = None,
    *,
    path: str | None = None,
    zarr_format: int | None = None,
    overwrite: bool = False,
    attributes: Mapping[str, JSON] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> Group:
    """A new group. Raises ContainsGroupError or ContainsArrayError when a node is there."""
    place = find_place(store, path, "a", storage_options)
    return _new_group(place, zarr_format, attributes, overwrite=overwrite, device=device)


def group(
    store: Any = None,
    *,
    overwrite: bool = False,
    path: str | None = None,
    zarr_format: int | None = None,
    attributes: Mapping[str, JSON] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **legacy: Any,
) -> Group:
    """The group at ``path``, created when it is missing (or ``overwrite``)."""
    refuse_legacy(legacy)
    return open_group(
        store,
        mode="w" if overwrite else "a",
        path=path,
        zarr_format=zarr_format,
        attributes=attributes,
        storage_options=storage_options,
    )


def consolidate_metadata(
    store: Any,
    path: str | None = None,
    zarr_format: int | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Group:
    """Store the metadata of all nodes below a group in the group itself.

    v3: inline in ``zarr.json``; v2: in ``.zmetadata``. Raises GroupNotFoundError, and TypeError
    where the store cannot list its keys.
    """
    place = find_place(store, path, None, storage_options)
    try:
        metadata = read_group(place.store, place.path, zarr_format)
    except ContainsArrayError as error:
        raise NodeTypeError(str(error)) from None
    return Group(place, consolidation.consolidate(place, metadata))
