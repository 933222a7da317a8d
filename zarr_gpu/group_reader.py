"""The reading half of a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

from zarr_gpu import info as summary
from zarr_gpu.array import Array
from zarr_gpu.backend import get_backend
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import (
    ArrayNotFoundError,
    ContainsArrayError,
    ContainsGroupError,
    GroupNotFoundError,
    MetadataError,
)
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.paths import check_node_path, is_node_name
from zarr_gpu.node import Node
from zarr_gpu.nodes import (
    Metadata,
    StorePath,
    child_names,
    join,
    member_names,
    read_children,
    read_node,
)


class GroupReader(Node):
    """The reading half of a group: identity and members."""

    def __init__(
        self,
        store_path: StorePath,
        metadata: GroupMetadata,
        *,
        settings: ArrayConfig | None = None,
        device: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(store_path)
        self._metadata = metadata
        self._settings = settings
        if device is not None:
            get_backend(device)  # says at once, and not array by array, that it cannot be used
        self._device = device
        self._allow_pickle = allow_pickle
        self._by_member: tuple[Any, dict[str, dict[str, Any]]] | None = None
        self._listed_by: tuple[Self, str] | None = None  # a group whose listing this one shares

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "attrs"} | {"_by_member": None}

    # -- identity ---------------------------------------------------------------------------------

    @property
    def metadata(self) -> GroupMetadata:
        """The group's document; replaced, never changed."""
        return self._metadata

    @property
    def synchronizer(self) -> None:
        """Always None: writers are kept apart by the store's locks."""
        return

    # -- reading ----------------------------------------------------------------------------------

    def __getitem__(self, path: str) -> Array | Self:
        """The node at ``path`` below this group. Raises KeyError when there is none."""
        below = check_node_path(path)
        if not below:
            return self
        node = self._lookup(below)
        if node is None:
            raise KeyError(f"{path!r} is not in group {self.name!r} of {self.store!r}")
        return self._wrap(below, node)

    def get(self, path: str, default: Any = None) -> Any:
        """The node at ``path``, or ``default``."""
        try:
            return self[path]
        except KeyError:
            return default

    def get_array(self, path: str) -> Array:
        """The array at ``path``. Raises ArrayNotFoundError, or ContainsGroupError for a group."""
        node = self.get(path)
        if isinstance(node, Array):
            return node
        if node is None:
            raise ArrayNotFoundError(f"no array at {path!r} in group {self.name!r}")
        raise ContainsGroupError(f"a group, not an array, is at {path!r} in group {self.name!r}")

    def get_group(self, path: str) -> Self:
        """The group at ``path``. Raises GroupNotFoundError, or ContainsArrayError for an array."""
        node = self.get(path)
        if isinstance(node, Array):
            raise ContainsArrayError(f"an array, not a group, is at {path!r} in {self.name!r}")
        if node is None:
            raise GroupNotFoundError(f"no group at {path!r} in group {self.name!r}")
        group: Self = node
        return group

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._lookup(check_node_path(path)) is not None

    def _lookup(self, below: str) -> Metadata | None:
        listed = self._metadata.consolidated
        if listed is not None:
            node = listed.get(below)
            if isinstance(node, MetadataError):
                raise node
            return node
        return read_node(self.store, join(self.path, below), self._metadata.zarr_format)

    def _wrap(self, below: str, metadata: Metadata) -> Array | Self:
        where = self._store_path / below
        common: dict[str, Any] = {
            "settings": self._settings,
            "device": self._device,
            "allow_pickle": self._allow_pickle,
        }
        if isinstance(metadata, ArrayMetadata):
            return Array(where, metadata, **common)
        if self._metadata.consolidated is not None and metadata.consolidated is None:
            metadata = replace(metadata, consolidated=self._listed_below(below))
        group = type(self)(where, metadata, **common)
        if self._metadata.consolidated is not None:
            group._listed_by = (self, below)  # noqa: SLF001 - of the same class
        return group

    def _listed_below(self, below: str) -> Mapping[str, Metadata | MetadataError]:
        """What is listed below a member, sorted out once for all members."""
        listed = self._metadata.consolidated or {}
        name, _, rest = below.partition("/")
        if self._by_member is None or self._by_member[0] is not listed:
            by_member: dict[str, dict[str, Metadata | MetadataError]] = {}
            for path, node in listed.items():
                member, _, inside = path.partition("/")
                if inside:
                    by_member.setdefault(member, {})[inside] = node
            self._by_member = listed, by_member
        inner = self._by_member[1].get(name, {})
        if not rest:
            return inner
        start = len(rest) + 1
        return {path[start:]: node for path, node in inner.items() if path.startswith(rest + "/")}

    def _children(self) -> Iterator[tuple[str, Metadata | MetadataError]]:
        listed = self._metadata.consolidated
        if listed is not None:
            for path, node in listed.items():
                if "/" not in path:
                    yield path, node
            return
        names = child_names(self.store, self.path)
        yield from read_children(self.store, self.path, names, self._metadata.zarr_format)

    def members(
        self, max_depth: int | None = 0, *, use_consolidated_for_children: bool = True
    ) -> tuple[tuple[str, Array | Self], ...]:
        """``(relative path, node)`` of children, or of all nodes down to ``max_depth`` levels.

        A member whose metadata are invalid is left out with a warning; opening it raises.
        ValueError for a negative depth.
        """
        if max_depth is not None and max_depth < 0:
            raise ValueError(f"max_depth must be None or not negative, found {max_depth}")
        return tuple(self.walk(max_depth))

    def walk(self, max_depth: int | None, prefix: str = "") -> Iterator[tuple[str, Array | Self]]:
        """Like :meth:`members`, one after the other, paths preceded by ``prefix``."""
        for name, metadata in self._children():
            try:
                if isinstance(metadata, MetadataError):
                    raise metadata
                node = self._wrap(name, metadata)
            except MetadataError as error:
                summary.warn_of_member(prefix + name, error)
                continue
            yield prefix + name, node
            if isinstance(node, GroupReader) and (max_depth is None or max_depth > 0):
                depth = None if max_depth is None else max_depth - 1
                yield from node.walk(depth, prefix + name + "/")

    def nmembers(self, max_depth: int | None = 0) -> int:
        """Number of members."""
        return len(self.members(max_depth))

    def _names(self) -> list[str]:
        listed = self._metadata.consolidated
        if listed is not None:
            return [path for path in listed if is_node_name(path)]
        return member_names(self.store, self.path, self._metadata.zarr_format)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def keys(self) -> Iterator[str]:
        """Names of all children, also of those whose metadata turn out to be invalid."""
        return iter(self)

    def values(self) -> Iterator[Array | Self]:
        """All children."""
        return (node for _, node in self.members())

    def items(self) -> Iterator[tuple[str, Array | Self]]:
        """Names and children."""
        return iter(self.members())

    def groups(self) -> Iterator[tuple[str, Self]]:
        """Names and child groups."""
        return ((name, node) for name, node in self.members() if not isinstance(node, Array))

    def group_keys(self) -> Iterator[str]:
        """Names of child groups."""
        return (name for name, _ in self.groups())

    def group_values(self) -> Iterator[Self]:
        """Child groups."""
        return (node for _, node in self.groups())

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Names and child arrays."""
        return ((name, node) for name, node in self.members() if isinstance(node, Array))

    def array_keys(self) -> Iterator[str]:
        """Names of child arrays."""
        return (name for name, _ in self.arrays())

    def array_values(self) -> Iterator[Array]:
        """Child arrays."""
        return (node for _, node in self.arrays())

    def tree(
        self,
        expand: bool | None = None,
        level: int | None = None,
        *,
        max_nodes: int = 500,
        plain: bool = False,
    ) -> summary.Tree:
        """The hierarchy as text (HTML in notebooks), down to ``level`` levels."""
        return summary.tree(self, level, max_nodes)

    @property
    def info(self) -> summary.Info:
        """A summary that reads nothing from the store."""
        return summary.group_info(self)

    def info_complete(self) -> summary.Info:
        """The summary with the number of members."""
        return summary.group_info(self, complete=True)
