"""Groups: nodes that hold arrays and other groups.

>>> import zarr_gpu
>>> root = zarr_gpu.create_group({})
>>> a = root.create_array("temperature/daily", shape=(3,), dtype="f4")
>>> list(root.members(max_depth=None))  # doctest: +ELLIPSIS
[('temperature', <Group ...>), ('temperature/daily', <Array ...>)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from zarr_gpu import consolidation
from zarr_gpu._types import JSON
from zarr_gpu.array import Array, parse_settings
from zarr_gpu.attributes import Attributes
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.errors import ContainsArrayError, ContainsGroupError, ReadOnlyError
from zarr_gpu.group_reader import GroupReader
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.paths import check_node_path
from zarr_gpu.nodes import Metadata, create_node, delete_node, join, update_node


class Group(GroupReader):
    """A group in a store; a mapping from names (and paths) to arrays and groups.

    With consolidated metadata the members are those listed there; nodes added later by others are
    not seen until the metadata are consolidated again.
    """

    @cached_property
    def attrs(self) -> Attributes:
        """User attributes, a mapping that writes through to the store."""
        return Attributes(self)

    def create_group(
        self, name: str, *, overwrite: bool = False, attributes: Mapping[str, JSON] | None = None
    ) -> Group:
        """A new group at ``name``; missing parents are created."""
        below = check_node_path(name, strict=True)
        metadata = GroupMetadata(
            zarr_format=self._metadata.zarr_format, attributes=dict(attributes or {})
        )
        create_node(self.store, join(self.path, below), metadata, overwrite=overwrite)
        return self._wrap(below, metadata)  # type: ignore[return-value]  # metadata of a group

    def require_group(self, name: str, *, overwrite: bool = False, **kwargs: Any) -> Group:
        """The group at ``name``, created when it is missing. TypeError when an array is there."""
        if not overwrite:
            node = self.get(name)
            if isinstance(node, Array):
                raise TypeError(f"an array, not a group, is at {name!r} in group {self.name!r}")
            if node is not None:
                return node  # type: ignore[no-any-return]  # a group
        return self.create_group(name, overwrite=overwrite, **kwargs)

    def require_groups(self, *names: str) -> tuple[Group, ...]:
        """:meth:`require_group` for several names."""
        return tuple(self.require_group(name) for name in names)

    def create_array(
        self,
        name: str,
        *,
        shape: Any = None,
        dtype: Any = None,
        data: Any = None,
        overwrite: bool = False,
        config: Any = None,
        write_data: bool = True,
        **kwargs: Any,
    ) -> Array:
        """A new array at ``name``; arguments as for :func:`zarr_gpu.create_array`.

        Its format is that of the group, ValueError when ``zarr_format=`` says otherwise.
        """
        from zarr_gpu.creating import create_array

        below = check_node_path(name, strict=True)
        zarr_format = self._metadata.zarr_format
        if kwargs.pop("zarr_format", None) not in (None, zarr_format):
            raise ValueError(f"group {self.name!r} and its members have Zarr format {zarr_format}")
        return create_array(
            self._store_path,
            name=below,
            shape=shape,
            dtype=dtype,
            data=data,
            overwrite=overwrite,
            config=config or self._settings,
            write_data=write_data,
            zarr_format=zarr_format,
            device=self._device,
            **kwargs,
        )

    def create(self, name: str, **kwargs: Any) -> Array:
        """:meth:`create_array`, under the name zarr-python gives it too."""
        return self.create_array(name, **kwargs)

    def create_dataset(self, name: str, **kwargs: Any) -> Array:
        """:meth:`create_array` under h5py's name."""
        data = kwargs.get("data")
        if data is not None:
            kwargs.pop("shape", None)
            kwargs.pop("dtype", None)
            kwargs["data"] = np.asarray(data)
        return self.create_array(name, **kwargs)

    def require_array(
        self,
        name: str,
        *,
        shape: Any,
        dtype: Any = None,
        exact: bool = False,
        config: Any = None,
        **kwargs: Any,
    ) -> Array:
        """The array at ``name``, created when it is missing, with the run-time settings given.

        Raises TypeError when the one there has another shape, or a type that ``dtype`` cannot be
        cast to (with ``exact``: another type).
        """
        node = self.get(name)
        if node is None:
            return self.create_array(name, shape=shape, dtype=dtype, config=config, **kwargs)
        if not isinstance(node, Array):
            raise TypeError(f"a group, not an array, is at {name!r} in group {self.name!r}")
        wanted = (shape,) if isinstance(shape, int) else tuple(shape)
        if node.shape != wanted:
            raise TypeError(f"array {node.name!r} has shape {node.shape}, not {wanted}")
        if dtype is not None:
            from zarr_gpu.metadata.dtypes import from_dtype_like

            asked = from_dtype_like(dtype, self._metadata.zarr_format).dtype
            if node.dtype != asked if exact else not np.can_cast(node.dtype, asked):
                raise TypeError(f"array {node.name!r} has type {node.dtype}, not {asked}")
        return node if config is None else node.with_config(config)

    def require_dataset(self, name: str, **kwargs: Any) -> Array:
        """:meth:`require_array` under h5py's name."""
        return self.require_array(name, **kwargs)

    def array(self, name: str, *, shape: Any = None, data: Any = None, **kwargs: Any) -> Array:
        """A new array holding ``data``."""
        return self.create_dataset(name, shape=shape, data=data, **kwargs)

    def empty(self, *, name: str, shape: Any, **kwargs: Any) -> Array:
        """A new array whose missing chunks read as the type's default."""
        return self.create_array(name, shape=shape, **_typed(kwargs))

    def zeros(self, *, name: str, shape: Any, **kwargs: Any) -> Array:
        """A new array of fill value 0."""
        return self.create_array(name, shape=shape, **_typed(kwargs), fill_value=0)

    def ones(self, *, name: str, shape: Any, **kwargs: Any) -> Array:
        """A new array of fill value 1."""
        return self.create_array(name, shape=shape, **_typed(kwargs), fill_value=1)

    def full(self, *, name: str, shape: Any, fill_value: Any, **kwargs: Any) -> Array:
        """A new array of fill value ``fill_value``."""
        return self.create_array(name, shape=shape, **_typed(kwargs), fill_value=fill_value)

    def empty_like(self, *, name: str, data: Any, **kwargs: Any) -> Array:
        """A new array shaped and chunked like ``data``, in the format of the group."""
        arguments = like(data, self._metadata.zarr_format)
        return self.create_array(name, **_typed({**arguments, **kwargs}))

    def zeros_like(self, *, name: str, data: Any, **kwargs: Any) -> Array:
        """The same with fill value 0."""
        return self.empty_like(name=name, data=data, **{**kwargs, "fill_value": 0})

    def ones_like(self, *, name: str, data: Any, **kwargs: Any) -> Array:
        """The same with fill value 1."""
        return self.empty_like(name=name, data=data, **{**kwargs, "fill_value": 1})

    def full_like(self, *, name: str, data: Any, **kwargs: Any) -> Array:
        """The same with the fill value given (or that of ``data``)."""
        return self.empty_like(name=name, data=data, **kwargs)

    def create_hierarchy(
        self, nodes: Mapping[str, Metadata], *, overwrite: bool = False
    ) -> Iterator[tuple[str, Array | Group]]:
        """Create many nodes at once from their metadata."""
        from zarr_gpu.creating import create_nodes

        prefix = self.path
        absolute = {join(prefix, check_node_path(path)): m for path, m in nodes.items()}
        for path, node in create_nodes(self.store, absolute, overwrite=overwrite):
            yield path.removeprefix(prefix + "/") if prefix else path, node

    def __setitem__(self, path: str, value: Any) -> None:
        """Store an array-like as a new array, replacing what is there."""
        from zarr_gpu.creating import from_array

        below = check_node_path(path, strict=True)
        from_array(
            self._store_path,
            name=below,
            data=value if isinstance(value, Array) else np.asarray(value),
            overwrite=True,
            zarr_format=self._metadata.zarr_format,
        )

    def __delitem__(self, path: str) -> None:
        """Remove a node and everything below it."""
        below = check_node_path(path)
        if not below or self._lookup(below) is None:
            raise KeyError(path)
        self.store.check_writable()
        delete_node(self.store, join(self.path, below))
        self._unlist(below)

    def _unlist(self, below: str) -> None:
        """Drop a deleted node from the listing, also in the group this one was opened from."""
        if self._metadata.consolidated is None:
            return
        self._metadata = consolidation.forget(self._store_path, self._metadata, below)
        if self._listed_by is not None:
            parent, name = self._listed_by
            parent._unlist(join(name, below))  # noqa: SLF001 - of the same class

    def move(self, source: str, dest: str) -> None:
        """Rename the node at ``source`` to ``dest`` (copied, then deleted)."""
        from zarr_gpu.copying import copy_keys

        here, there = check_node_path(source), check_node_path(dest, strict=True)
        if here not in self:
            raise KeyError(source)
        if there in self:
            raise (ContainsArrayError if isinstance(self[there], Array) else ContainsGroupError)(
                f"a node exists at {dest!r} in group {self.name!r}"
            )
        parent = there.rpartition("/")[0]
        if parent:
            self.require_group(parent)
        copy_keys(self.store, join(self.path, here), self.store, join(self.path, there))
        del self[here]

    def update_attributes(self, new_attributes: Mapping[str, JSON]) -> Group:
        """Merge ``new_attributes`` into the stored ones."""
        self._set_attributes(lambda old: {**old, **new_attributes})
        return self

    def _set_attributes(self, change: Callable[[dict[str, JSON]], dict[str, JSON]]) -> None:
        if self.read_only:
            raise ReadOnlyError(f"group {self.name!r} in {self.store!r} is read-only")
        changed = update_node(
            self.store,
            self.path,
            self._metadata,
            lambda m: replace(m, attributes=change(dict(m.attributes))),
        )
        self._metadata = replace(changed, consolidated=self._metadata.consolidated)

    def with_config(self, settings: ArrayConfig | Mapping[str, Any]) -> Group:
        """The same group, its arrays with other run-time settings."""
        new = parse_settings(settings, self._settings or config.current.array)
        return Group(
            self._store_path,
            self._metadata,
            settings=new,
            device=self._device,
            allow_pickle=self._allow_pickle,
        )

    @classmethod
    def from_store(
        cls,
        store: Any,
        *,
        attributes: Mapping[str, JSON] | None = None,
        zarr_format: int = 3,
        overwrite: bool = False,
    ) -> Group:
        """A new group at the root of ``store``."""
        from zarr_gpu.opening import create_group

        return create_group(
            store, attributes=attributes, zarr_format=zarr_format, overwrite=overwrite
        )

    @classmethod
    def open(cls, store: Any, zarr_format: int | None = None) -> Group:
        """The group at the root of ``store``."""
        from zarr_gpu.opening import open_group

        return open_group(store, mode="r+", zarr_format=zarr_format)

    def __repr__(self) -> str:
        return f"<Group {self._store_path}>"


def _typed(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """float64 unless the caller says otherwise, as NumPy does."""
    return {"dtype": "float64", **kwargs}


def like(data: Any, zarr_format: int | None = None) -> dict[str, Any]:
    """Creation arguments that make an array resemble ``data`` (an Array or array-like).

    What another format would say differently is left out.
    """
    if isinstance(data, Array):
        from zarr_gpu.creating import arguments_for

        out = arguments_for(data, zarr_format)
        out.pop("attributes")
        out.pop("zarr_format")
        return out
    if not hasattr(data, "dtype"):
        data = np.asarray(data)
    out = {"shape": data.shape, "dtype": data.dtype}
    if getattr(data, "chunks", None):
        out["chunks"] = data.chunks
    return out
