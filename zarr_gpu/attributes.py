"""User attributes of a node: a mutable mapping that writes through to the store.

The in-memory copy is only replaced after the store took the change, so an attribute that cannot be
stored leaves nothing behind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from zarr_gpu._types import JSON


class _Node(Protocol):
    @property
    def metadata(self) -> Any: ...

    def _set_attributes(self, change: Callable[[dict[str, JSON]], dict[str, JSON]]) -> None: ...


class Attributes(MutableMapping[str, Any]):
    """Attributes of an array or a group; values are JSON."""

    def __init__(self, node: _Node) -> None:
        self._node = node

    def __getitem__(self, key: str) -> Any:
        return self._node.metadata.attributes[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        if key not in self._node.metadata.attributes:
            raise KeyError(key)
        self._node._set_attributes(lambda old: {k: v for k, v in old.items() if k != key})  # noqa: SLF001 - one concept in two classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._node.metadata.attributes)

    def __len__(self) -> int:
        return len(self._node.metadata.attributes)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Merge new attributes, in one write."""
        new = dict(*args, **kwargs)
        self._node._set_attributes(lambda old: {**old, **copy.deepcopy(new)})  # noqa: SLF001

    def put(self, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes, in one write."""
        new = copy.deepcopy(dict(attributes))
        self._node._set_attributes(lambda _old: new)  # noqa: SLF001

    def asdict(self) -> dict[str, Any]:
        """A copy."""
        return copy.deepcopy(dict(self._node.metadata.attributes))

    def __repr__(self) -> str:
        return repr(self.asdict())
