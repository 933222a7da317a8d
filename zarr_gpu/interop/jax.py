"""Arrays into JAX: on any device, sharded in any way, and as batches.

    x = read(array)                                       # on JAX's default device
    x = read(array, np.s_[:1000], sharding=NamedSharding(mesh, P("x")))
    for batch in batches({"x": images, "y": labels}, batch_size=256, shuffle=True):
        state = step(state, batch["x"], batch["y"])

With a sharding, a process reads what its devices hold, each part once. Values have the types that
JAX gives to NumPy arrays: without ``jax_enable_x64`` those of 64 bits become 32 bits wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zarr_gpu import indexing, tensors
from zarr_gpu._types import NDArray
from zarr_gpu.array import Array
from zarr_gpu.errors import MissingDependencyError, UnsupportedError
from zarr_gpu.interop.batches import Batches
from zarr_gpu.interop.samples import Arrays

try:
    import jax
except ImportError as error:
    raise MissingDependencyError(
        "zarr_gpu.interop.jax needs JAX: pip install 'zarr-gpu[jax]'"
    ) from error

__all__ = ["batches", "read"]


def read(
    array: Array, selection: Any = ..., *, device: Any = None, sharding: Any = None
) -> jax.Array:
    """Elements of ``selection`` (as between brackets) as a JAX array.

    It goes to ``device`` (JAX's default), on the CPU without a copy; on a card the array is decoded
    there if our device backend can be used. With ``sharding`` every device gets its part; the
    selection is made of integers and slices then. Raises UnsupportedError for types that JAX lacks,
    OverflowError when integers do not fit into JAX's type for them.
    """
    if device is not None and sharding is not None:
        raise ValueError("a sharding names its devices; give either device or sharding")
    if sharding is None:
        if device is None and jax.config.jax_default_device is None:
            device = jax.local_devices()[0]
        return _put(_read(array, selection, device), device)
    parsed = indexing.parse_basic(selection, array.shape)
    boxes, placed = tensors.distinct_boxes(sharding, parsed.shape)
    owners = {number: where for where, number in reversed(placed)}
    parts = [
        _put(_read(array, _inside(parsed, box), owners[number]), owners[number])
        for number, box in enumerate(boxes)
    ]
    dtype = _narrow_dtype(array.dtype)
    return tensors.assemble(jax, parsed.shape, sharding, placed, parts, dtype)


def _inside(selection: indexing.Selection, box: tuple[slice, ...]) -> tuple[Any, ...]:
    """What to select of the array for a box of the selection."""
    found: list[Any] = []
    boxes = iter(box)
    for axis in selection.axes:
        assert isinstance(axis, indexing.Range)  # noqa: S101 - a basic selection has no other
        if axis.drop:
            found.append(axis.start)
            continue
        steps = range(axis.start, axis.start + axis.count * axis.step, axis.step)
        part = (steps[::-1] if axis.flip else steps)[next(boxes)]
        # A range that counts down to 0 stops at -1, which a slice would take for the end.
        found.append(slice(part.start, part.stop if part.stop >= 0 else None, part.step))
    return tuple(found)


def _read(array: Array, selection: Any, device: Any) -> Any:
    """On a card, for a device that is one; else on the host."""
    if getattr(device, "platform", "cpu") != "gpu":
        return array.to("cpu").read(selection)
    from zarr_gpu.device import detect

    name = f"cuda:{device.local_hardware_id}"
    plain = array.dtype.kind in "biufc" and array.dtype.isbuiltin != 2  # no words for others
    plain = plain and jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype  # checked there
    usable = plain and detect.unavailable_reason(name) is None
    return array.to(name if usable else "cpu").read(selection)


def _put(value: Any, device: Any) -> jax.Array:
    """An array of NumPy or CuPy on a device of JAX."""
    if not isinstance(value, np.ndarray | np.generic):
        return jax.device_put(jax.dlpack.from_dlpack(value), device)
    return jax.device_put(_narrowed(np.asarray(value)), device)


def _narrow_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that JAX has for such elements. Raises UnsupportedError."""
    if dtype.kind not in "biufcV" or dtype.names or dtype.type is np.void:
        hint = "; view them as int64" if dtype.kind in "mM" else ""
        raise UnsupportedError(f"JAX has no type for elements of type {dtype}{hint}")
    found: np.dtype[Any] = np.dtype(jax.dtypes.canonicalize_dtype(dtype.newbyteorder("=")))
    return found


def _narrowed(array: NDArray) -> NDArray:
    """Elements of the type that JAX has for them, in native byte order."""
    wanted = _narrow_dtype(array.dtype)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if wanted == array.dtype:
        return array
    if wanted.kind in "iu" and array.size:
        limits, low, high = np.iinfo(wanted), array.min(), array.max()
        if low < limits.min or high > limits.max:
            raise OverflowError(
                f"{low} to {high} do not fit into {wanted}, which JAX makes of {array.dtype}; "
                "set jax_enable_x64"
            )
    return array.astype(wanted)


def batches(
    arrays: Arrays,
    *,
    batch_size: int,
    sharding: Any = None,
    rank: int | None = None,
    world_size: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Batches:
    """Batches of the samples of arrays, read ahead by threads; each epoch visits every sample once.

    ``transform`` is applied to batches of NumPy arrays, before they go to JAX. Other ``options``
    are those of :class:`~zarr_gpu.interop.batches.Batches`. Processes share the samples out,
    ``batch_size`` is that of one process. With ``sharding`` (of the first axis, over the devices of
    all processes) the batches of all processes are one array, and processes whose devices hold the
    same rows of it visit the same samples. Take ``drop_last`` and ``balance="drop"``, so that all
    have batches of the same size. Raises ValueError for shardings that no such batches fit, and
    where processes would have different numbers of samples.
    """
    if (rank is None) != (world_size is None):
        raise ValueError("give both rank and world_size, or neither")
    if rank is None or world_size is None:
        if sharding is None:
            rank, world_size = jax.process_index(), jax.process_count()
        else:
            rank, world_size = _rank(sharding)

    def placed(part: Any) -> jax.Array:
        part = _narrowed(np.asarray(part))
        if sharding is None:
            return jax.device_put(part)
        return jax.make_array_from_process_local_data(sharding, part)

    def deliver(batch: Any) -> Any:
        return jax.tree_util.tree_map(placed, batch if transform is None else transform(batch))

    found = Batches(
        arrays,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        transform=deliver,
        **options,
    )
    sampling = found.sampling
    if sharding is not None and sampling.balance == "none" and sampling.n % world_size:
        raise ValueError(
            f"{sampling.n} samples are not shared out evenly by {world_size} processes, which "
            "make one array of their batches: give balance='drop' or 'pad'"
        )
    return found


def _rank(sharding: Any) -> tuple[int, int]:
    """Which part of the rows of an array this process holds, and of how many."""
    n = len(sharding.device_set)
    ndim = max(1, len(getattr(sharding, "spec", ())))
    places = sharding.devices_indices_map((n,) * ndim)  # as long as any number of devices divides
    held: dict[int, set[Any]] = {}
    for device, index in places.items():
        held.setdefault(device.process_index, set()).add(tuple(s.indices(n) for s in index))
    columns = {frozenset(box[1:] for box in boxes) for boxes in held.values()}
    rows = {process: frozenset(box[0] for box in boxes) for process, boxes in held.items()}
    parts = sorted(set(rows.values()), key=min)
    if len(columns) > 1 or sum(map(len, parts)) > len(frozenset().union(*parts)):
        raise ValueError(
            f"processes hold parts of rows, or rows that overlap, of an array with {sharding}: "
            "shard the first axis over the processes, or give rank and world_size"
        )
    mine = rows.get(jax.process_index())
    if mine is None:
        raise ValueError(f"no device of this process is part of {sharding}")
    return parts.index(mine), len(parts)
