"""Nested states as JSON and a flat mapping of tensors, and back; nothing is ever pickled.

Dictionaries, lists, tuples, numbers, text, bytes and None keep their types; a tensor becomes the
name under which it is stored. Tensors that share all their memory are stored once.

>>> import numpy as np
>>> flat = flatten({"model": {"w": np.ones(2)}, "step": 3, "betas": (0.9, 0.99)})
>>> flat.tree
{'model': {'w': {'$tensor': 'model.w', 'of': 'np'}}, 'step': 3, 'betas': {'$tuple': [0.9, 0.99]}}
>>> restore(flat.tree, lambda name, of: flat.tensors[name])["betas"]
(0.9, 0.99)
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu._types import JSON
from zarr_gpu.checkpoint.frameworks import framework_of
from zarr_gpu.errors import CheckpointError

MAX_DEPTH = 100


class Flat(NamedTuple):
    """A state without its structure, and the structure."""

    tensors: dict[str, Any]
    tree: JSON


def flatten(state: Any) -> Flat:
    """Raises TypeError, naming the path, for values that JSON and tensors cannot hold."""
    collector = _Collector()
    return Flat(collector.tensors, collector.visit(state, (), 0))


class _Collector:
    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self._stored: dict[object, str] = {}

    def visit(self, value: Any, path: tuple[object, ...], depth: int) -> JSON:
        if depth > MAX_DEPTH:
            raise TypeError(f"{_shown(path)}: nested more than {MAX_DEPTH} deep")
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | float | complex) and not isinstance(value, np.generic):
            return _number(value)
        if isinstance(value, bytes | bytearray):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, Mapping):
            members = [(k, self.visit(v, (*path, k), depth + 1)) for k, v in value.items()]
            if all(isinstance(k, str) and not k.startswith("$") for k, _ in members):
                return dict(members)
            return {"$dict": [[_key(k, path), v] for k, v in members]}
        if isinstance(value, list) or type(value) in (tuple, *_sizes()):
            items = [self.visit(v, (*path, i), depth + 1) for i, v in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        return self._add(value, path)

    def _add(self, value: Any, path: tuple[object, ...]) -> JSON:
        try:
            framework = framework_of(value)
            framework.describe(value)
        except (TypeError, NotImplementedError) as error:
            raise TypeError(
                f"{_shown(path)}: {error}; a checkpoint holds tensors, containers, numbers and text"
            ) from None
        where = framework.storage(value)
        name = None if where is None else self._stored.get(where)
        if name is None:
            name = self._new_name(".".join(map(str, path)) or "value")
            self.tensors[name] = value
            if where is not None:
                self._stored[where] = name
        found: dict[str, JSON] = {"$tensor": name, "of": framework.name}
        if isinstance(value, np.generic):
            found["scalar"] = True
        return found

    def _new_name(self, name: str) -> str:
        if name.startswith("__"):
            name = "." + name
        number, chosen = 1, name
        while chosen in self.tensors:
            number += 1
            chosen = f"{name}#{number}"
        return chosen


def _sizes() -> tuple[type[Any], ...]:
    """torch.Size is a tuple of its own."""
    import sys

    size = getattr(sys.modules.get("torch"), "Size", None)
    return () if size is None else (size,)


def _number(value: Any) -> JSON:
    if isinstance(value, complex):
        return {"$complex": [_number(value.real), _number(value.imag)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    plain: int | float = value
    return plain


def _key(key: object, path: tuple[object, ...]) -> JSON:
    if key is None or isinstance(key, str | bool | int | float):
        return key if isinstance(key, str | bool) or key is None else _number(key)
    if type(key) is tuple:
        return {"$tuple": [_key(k, path) for k in key]}
    raise TypeError(f"{_shown(path)}: {type(key).__name__} {key!r} cannot be a key of a checkpoint")


def _shown(path: tuple[object, ...]) -> str:
    return "".join(f"[{key!r}]" for key in path) or "the state"


def restore(tree: JSON, tensor: Callable[[str, str], Any]) -> Any:
    """The state; ``tensor(name, framework)`` gives the tensors. Raises CheckpointError."""
    try:
        return _restore(tree, tensor)
    except RecursionError:
        raise CheckpointError("the state of the checkpoint is nested too deep") from None


def _restore(tree: JSON, tensor: Callable[[str, str], Any]) -> Any:
    if isinstance(tree, list):
        return [_restore(item, tensor) for item in tree]
    if not isinstance(tree, Mapping):
        return tree
    kind = next(iter(tree), "")
    if not kind.startswith("$"):
        return {key: _restore(value, tensor) for key, value in tree.items()}
    try:
        return _restore_marked(kind, tree, tensor)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the state of the checkpoint is damaged at {tree!r:.100}") from error


def _restore_marked(kind: str, tree: Mapping[str, Any], tensor: Callable[[str, str], Any]) -> Any:
    value = tree[kind]
    if kind == "$tensor":
        found = tensor(value, tree["of"])
        return found[()] if tree.get("scalar") and isinstance(found, np.ndarray) else found
    if kind == "$tuple":
        return tuple([_restore(item, tensor) for item in value])
    if kind == "$dict":
        return {_restore(key, tensor): _restore(item, tensor) for key, item in value}
    if kind == "$bytes":
        return base64.b64decode(value)
    if kind == "$float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value]
    if kind == "$complex":
        real, imag = (_restore(item, tensor) for item in value)
        return complex(real, imag)
    raise CheckpointError(f"the state of the checkpoint has an unknown mark {kind!r}")


def tensor_names(tree: JSON) -> list[tuple[str, str]]:
    """``(name, framework)`` of every tensor in a tree, each once."""
    found: dict[tuple[str, str], None] = {}
    left = [tree]
    while left:
        item = left.pop()
        if isinstance(item, list):
            left.extend(item)
        elif isinstance(item, Mapping):
            if "$tensor" in item:
                found[str(item["$tensor"]), str(item.get("of"))] = None
            else:
                left.extend(item.values())
    return list(found)


def update(
    into: Any, state: Any, leaf: Callable[[Any, Any], Any], path: tuple[object, ...] = ()
) -> Any:
    """``into`` with ``leaf(old, new)`` for its values; dictionaries and lists are changed in place.

    Raises CheckpointError, naming the path, for members that ``state`` lacks, and where containers
    differ. What only ``state`` has is left out.
    """
    if isinstance(into, Mapping):
        if not isinstance(state, Mapping):
            raise CheckpointError(f"{_shown(path)} is no dictionary in the checkpoint")
        for key in into:
            if key not in state:
                raise CheckpointError(f"{_shown((*path, key))} is not in the checkpoint")
            value = update(into[key], state[key], leaf, (*path, key))
            if value is not into[key]:
                into[key] = value  # type: ignore[index]  # or an error that says so
        return into
    if isinstance(into, list | tuple):
        if not isinstance(state, list | tuple) or len(state) != len(into):
            raise CheckpointError(f"{_shown(path)} has another length in the checkpoint")
        pairs = enumerate(zip(into, state, strict=True))
        values = [update(a, b, leaf, (*path, i)) for i, (a, b) in pairs]
        if isinstance(into, tuple):
            return into if all(a is b for a, b in zip(into, values, strict=True)) else tuple(values)
        into[:] = values
        return into
    return leaf(into, state)
