"""Pytrees of JAX arrays, sharded over devices and processes in any way.

    save_pytree(train_state, "run/step-10")
    train_state = load_pytree("run/step-10", like=train_state)

A process writes the shards that it has (one copy of each) to a file of its own. ``like`` says what
is wanted: arrays, or ``jax.ShapeDtypeStruct`` with a ``sharding``; a process reads the bytes of its
own shards only, by one plan.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from zarr_gpu import tensors
from zarr_gpu._types import JSON
from zarr_gpu.checkpoint import saving, steps
from zarr_gpu.checkpoint.described import described_shape
from zarr_gpu.checkpoint.files import safe_open
from zarr_gpu.checkpoint.frameworks import get_framework
from zarr_gpu.checkpoint.tree import flatten
from zarr_gpu.checkpoint.verifying import Verify
from zarr_gpu.errors import CheckpointError
from zarr_gpu.stores.tensor_files import PARTS


def names_of(tree: Any) -> list[str]:
    """Names of the leaves of a pytree: their paths, joined by dots."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [".".join(_name(key) for key in path) or "value" for path, _ in leaves]
    if len(set(names)) < len(names):
        raise ValueError("two leaves of the pytree have the same path")
    return names


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def save_pytree(
    tree: Any,
    path: Any,
    *,
    step: int | None = None,
    checksum: bool = True,
    durable: bool = True,
) -> None:
    """Store a pytree of arrays, numbers and text in the directory ``path``, replacing an older one.

    With several processes all have to call this; the first one writes the manifest, last.
    """
    names = names_of(tree)
    leaves = jax.tree_util.tree_leaves(tree)
    sources: list[saving.Source] = []
    parts: dict[str, Any] = {}
    values: dict[str, JSON] = {}
    for name, leaf, foreign in zip(names, leaves, _foreign(leaves), strict=True):
        if isinstance(leaf, jax.Array) and (
            foreign or not leaf.is_fully_addressable
            or (leaf.ndim and len(leaf.sharding.device_set) > 1)
        ):  # fmt: skip
            _add_shards(name, leaf, sources, parts)
        elif isinstance(leaf, jax.Array | np.ndarray | np.generic):
            if jax.process_index() == 0:
                sources.append(saving.source(name, np.asarray(leaf)))
        else:
            values[name] = flatten({name: leaf}).tree[name]  # type: ignore[index,call-overload]  # a dictionary
    store = steps.folder_store(path, durable=durable)
    n, index = jax.process_count(), jax.process_index()
    token = _agreed(secrets.randbits(31))
    file = f"process-{token:08x}-{index:05}-of-{n:05}.safetensors"
    metadata = {"format": "jax", **({PARTS: json.dumps(parts)} if parts else {})}
    old = steps.read_manifest(store, required=False) if index == 0 else None
    _together(
        lambda: saving.write_file(store, file, sources, metadata, checksum=checksum), str(path)
    )
    if index == 0:
        files: list[JSON] = []
        for i in range(n):
            name = f"process-{token:08x}-{i:05}-of-{n:05}.safetensors"
            files.append({"name": name, "nbytes": store.size(name)})
        steps.write_manifest(store, files, None, step, {"values": values})
        for name in [] if old is None else steps.old_files(old):
            store.delete(name)
    _agreed(0)


def _agreed(value: int) -> int:
    """The first process's number; waits for all processes."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.uint32(value)))


def _foreign(leaves: list[Any]) -> list[bool]:
    """Whether leaves lie on devices of other processes than the first one.

    An array on the one device of another process looks there like a copy that each process has.
    """
    found = [isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in leaves]
    if jax.process_count() == 1 or not leaves:
        return found
    from jax.experimental import multihost_utils

    first = multihost_utils.broadcast_one_to_all(np.array(found, np.uint8))
    return [bool(value) for value in np.asarray(first)]


def _together(task: Callable[[], object], path: str) -> None:
    """Do something on all processes; all raise when one could not, instead of waiting for it."""
    error: Exception | None = None
    try:
        task()
    except Exception as mine:  # noqa: BLE001 - raised below, after the others were told
        error = mine
    failed = []
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        flags = multihost_utils.process_allgather(np.uint8(error is not None))
        failed = np.flatnonzero(flags).tolist()
    if error is not None:
        raise error
    if failed:
        raise CheckpointError(f"processes {failed} could not write their parts of {path!r}")


def _add_shards(name: str, leaf: Any, sources: list[saving.Source], parts: dict[str, Any]) -> None:
    described = get_framework("jax").describe(leaf)
    extra = described.shape[leaf.ndim :]
    for shard in leaf.addressable_shards:
        if shard.replica_id:
            continue
        source = saving.source(name, np.asarray(shard.data))
        offset = [s.start or 0 for s in shard.index]
        if tuple(shard.data.shape) != tuple(leaf.shape):
            stored = [*offset, *(0 for _ in extra)]
            part = f"{name}[{', '.join(map(str, stored))}]"
            parts[part] = {"of": name, "shape": [*leaf.shape, *extra], "offset": stored}
            source = dataclasses.replace(source, name=part)
        sources.append(source)


def load_pytree(path: Any, like: Any = None, *, verify: Verify = "none") -> Any:
    """The pytree in the directory ``path``, with the structure and the shardings of ``like``.

    Without ``like``: a dictionary of arrays by name, on JAX's default device. Raises
    CheckpointError for leaves that were not saved, ValueError for other shapes.
    """
    store = steps.folder_store(path)
    files, manifest = steps.open_checkpoint(store)
    values: Mapping[str, JSON] = manifest.get("values") or {}
    with safe_open(files, "np", verify=verify) as opened:
        if like is None:
            return {**opened.read(opened.keys(), get_framework("jax")), **values}
        leaves, structure = jax.tree_util.tree_flatten(like)
        wanted: list[tuple[str, Any, Any]] = []
        plans: list[Any] = []
        for name, leaf in zip(names_of(like), leaves, strict=True):
            if name in values:
                plans.append(None)
            elif name not in opened:
                raise CheckpointError(f"{name!r} is not in the checkpoint at {path!r}")
            else:
                plans.append(_plan_leaf(opened, name, leaf, wanted))
        opened.fill(wanted)
        found = [
            values[name] if plan is None else _assemble(plan)
            for name, plan in zip(names_of(like), plans, strict=True)
        ]
    return jax.tree_util.tree_unflatten(structure, found)


def _plan_leaf(opened: safe_open, name: str, leaf: Any, wanted: list[tuple[str, Any, Any]]) -> Any:
    """Memory for what this process needs of a leaf: shape, sharding, and arrays by device."""
    described = opened.describe(name)
    shape = described_shape(described)
    if tuple(np.shape(leaf)) != shape:
        raise ValueError(
            f"{name!r}: like has shape {list(np.shape(leaf))}, stored is {list(shape)}"
        )
    dtype = getattr(leaf, "dtype", np.asarray(leaf).dtype)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        array = np.empty(shape, dtype)
        wanted.append((name, array, None))
        return shape, None, [], ([array], dtype)
    boxes, placed = tensors.distinct_boxes(sharding, shape)
    parts = [np.empty(tensors.box_shape(box), dtype) for box in boxes]
    wanted += [(name, part, box) for part, box in zip(parts, boxes, strict=True)]
    return shape, sharding, placed, (parts, dtype)


def _assemble(plan: Any) -> Any:
    shape, sharding, placed, (parts, dtype) = plan
    if sharding is None:
        return jax.device_put(parts[0])
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return tensors.assemble(jax, shape, sharding, placed, parts, dtype)
