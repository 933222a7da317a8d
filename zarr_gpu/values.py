"""Values on their way in: field names, NumPy's assignment rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zarr_gpu import tensors
from zarr_gpu._types import NDArray, Shape
from zarr_gpu.backend import Backend
from zarr_gpu.config import ArrayConfig
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Plan
from zarr_gpu.stores.base import Store

Fields = str | list[str] | tuple[str, ...] | None


def pop_fields(selection: Any) -> tuple[Any, Fields]:
    """Separate field names from a selection: ``("a", 0)`` -> ``((0,), "a")``."""
    if isinstance(selection, str):
        return ..., selection
    if isinstance(selection, list) and selection and all(isinstance(s, str) for s in selection):
        return ..., selection
    if not isinstance(selection, tuple):
        return selection, None
    names: list[str] = []
    rest: list[Any] = []
    listed = False
    for item in selection:
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, list) and item and all(isinstance(s, str) for s in item):
            names += item
            listed = True
        else:
            rest.append(item)
    if not names:
        return selection, None
    fields: Fields = names[0] if len(names) == 1 and not listed else names
    return tuple(rest) or ..., fields


def plan_dtype(plan: Plan, layout: ArrayLayout) -> np.dtype[Any]:
    """Type of what a plan moves: the array's, or that of the fields it picks, packed."""
    if plan.fields is None:
        return layout.dtype
    if isinstance(plan.fields, str):
        return layout.dtype[plan.fields]
    return np.dtype([(name, layout.dtype[name]) for name in plan.fields])


def write_values(
    backend: Backend,
    layout: ArrayLayout,
    plan: Plan,
    store: Store,
    value: Any,
    settings: ArrayConfig,
) -> None:
    """Broadcast ``value`` to the plan as NumPy does on assignment, and store it.

    Raises ValueError when the shapes do not fit.
    """
    store.check_writable()
    if not layout.understood:
        known = {codec.name for codec in layout.chain.codecs}
        ignored = [codec.name for codec in layout.metadata.codecs if codec.name not in known]
        raise UnsupportedError(
            f"array {layout.path or '/'!r} can only be read: its codecs {ignored} are unknown and "
            "would be missing from what is written"
        )
    dtype = plan_dtype(plan, layout)
    shape = plan.selection.shape
    array = backend.prepare(value, shape, dtype)
    if array is None:
        array = as_values(value, dtype, boxed=layout.data_type.kind == "object" and not shape)
        if array.shape != shape:
            array = _broadcast(array, shape)
    backend.write(layout, plan, store, array, settings)


def _broadcast(array: NDArray, shape: Shape) -> NDArray:
    found = array.shape
    while array.ndim > len(shape) and array.shape[0] == 1:  # NumPy drops leading axes of one
        array = array[0]
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"could not broadcast a value of shape {found} into a selection of shape {shape}"
        ) from None


def as_values(value: Any, dtype: np.dtype[Any], *, boxed: bool = False) -> NDArray:
    """``value`` as an array of ``dtype``, converted as NumPy does on assignment."""
    if hasattr(value, "as_ndarray_like"):
        value = value.as_ndarray_like()
    if tensors.is_torch(value):
        value = tensors.values_of(value)
    elif hasattr(value, "__cuda_array_interface__"):
        from zarr_gpu.device.cuda import to_numpy

        value = to_numpy(value)
    if isinstance(value, np.ndarray) and value.dtype == dtype:
        return value
    if boxed:
        box = np.empty((), object)
        box[()] = value
        return box
    if dtype.names is not None and isinstance(value, Mapping):
        value = tuple(value[name] for name in dtype.names)
    if dtype.kind == "V" and not isinstance(value, np.ndarray):
        return np.array(value, dtype)
    source = np.asarray(value, object) if dtype.kind == "O" else np.asarray(value)
    if source.dtype == dtype:
        return source
    if not isinstance(value, (np.ndarray, np.generic)) and dtype.kind != "O":
        try:
            return np.array(value, dtype)  # checks the range of Python integers
        except (TypeError, ValueError):
            if dtype.kind in "iufcb":
                raise
    out = np.empty(source.shape, dtype)
    out[...] = source
    return out
