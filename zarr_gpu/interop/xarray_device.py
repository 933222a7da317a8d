"""Data variables of a dataset as arrays in the memory of a device.

xarray decodes masks, scales and offsets lazily, but with functions that take NumPy arrays only
(xarray 2026.9: ``np.array(data, copy=True)``). What it decided (the type, and in ``encoding`` the
values) is therefore taken over, and applied on the device with the operators of the array that was
read. What is decoded otherwise (unsigned integers, booleans in bytes) is decoded on the host and
copied up. Coordinates, times and strings stay on the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zarr_gpu.array import Array
from zarr_gpu.backend import get_backend
from zarr_gpu.interop.xarray import LazyArray
from zarr_gpu.interop.xarray_names import (
    BackendArray,
    ExplicitlyIndexed,
    LazilyIndexedArray,
    OuterIndexer,
    VectorizedIndexer,
    as_indexable,
    xarray,
)

_PACKED = ("_FillValue", "missing_value", "scale_factor", "add_offset")


def to_device(dataset: Any, arrays: Mapping[str, Array], device: str) -> Any:
    """``dataset``, decoded lazily from ``arrays``, with its data variables on ``device``."""
    moved = {}
    for name, variable in dataset.data_vars.variables.items():
        if variable.dtype.kind not in "biufc":
            continue
        array = arrays["__values__" if name is None else name]
        data: Any
        decoding = _decoding(variable, array)
        if decoding is not None:
            data = DeviceArray(array.to(device), decoding)
        else:
            data = Uploaded(variable._data, variable.dtype, device)  # noqa: SLF001 - .data would load it
        moved[name] = DeviceVariable(
            variable.dims, LazilyIndexedArray(data), variable.attrs, variable.encoding
        )
    closes = dataset._close  # noqa: SLF001 - assign() forgets it
    out = dataset.assign(moved)
    out.set_close(closes)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How stored numbers become values: masked where they are ``missing``, scaled and shifted."""

    dtype: np.dtype[Any]
    missing: tuple[Any, ...] = ()
    scale: Any = None
    offset: Any = None

    def apply(self, data: Any) -> Any:
        """The values, by the array's own operators."""
        if data.dtype == self.dtype and not self.missing and self.scale is self.offset is None:
            return data
        data = data.astype(self.dtype)
        hidden = None
        for value in self.missing:
            found = data == self.dtype.type(value)
            hidden = found if hidden is None else hidden | found
        if hidden is not None:
            data = np.where(hidden, self.dtype.type(np.nan), data)  # the device's own, by protocol
        if self.scale is not None:
            data *= self.dtype.type(self.scale)
        if self.offset is not None:
            data += self.dtype.type(self.offset)
        return data


def _decoding(variable: Any, array: Array) -> Decoding | None:
    """What xarray's decoders made of ``array``, None where that is more than masks and scales."""
    encoding, dtype = variable.encoding, variable.dtype
    if variable.shape != array.shape or array.dtype.kind not in "biufc":
        return None
    if not any(key in encoding for key in _PACKED):
        native = array.dtype.newbyteorder("=")
        return Decoding(dtype=dtype) if dtype == native else None
    if "_Unsigned" in encoding or dtype.kind not in "fc":
        return None
    marked = [encoding[key] for key in _PACKED[:2] if encoding.get(key) is not None]
    values = {v for m in marked for v in np.ravel(np.asarray(m)).tolist() if v == v}
    if not all(isinstance(v, int | float | complex) for v in values):
        return None
    scale, offset = (encoding.get(key) for key in _PACKED[2:])
    return Decoding(
        dtype=dtype,
        missing=tuple(sorted(values, key=repr)),
        scale=None if scale is None else np.asarray(scale).item(),
        offset=None if offset is None else np.asarray(offset).item(),
    )


class DeviceArray(LazyArray):
    """An array that is read to its device and decoded there."""

    __slots__ = ("decoding",)

    def __init__(self, array: Array, decoding: Decoding) -> None:
        super().__init__(array)
        self.decoding = decoding
        self.dtype = decoding.dtype

    def __getitem__(self, key: Any) -> Any:
        return self.decoding.apply(super().__getitem__(key))

    def __reduce__(self) -> Any:
        return DeviceArray, (self.source, self.decoding)


class Uploaded(BackendArray):  # type: ignore[misc]  # xarray is not looked into
    """Lazy data that are decoded on the host and copied to a device."""

    __slots__ = ("device", "dtype", "host", "shape")

    def __init__(self, host: Any, dtype: np.dtype[Any], device: str) -> None:
        self.host = as_indexable(host)
        self.shape = self.host.shape
        self.dtype = dtype
        self.device = device

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, VectorizedIndexer):
            part = self.host.vindex[key]
        elif isinstance(key, OuterIndexer):
            part = self.host.oindex[key]
        else:
            part = self.host[key]
        values = part.get_duck_array() if isinstance(part, ExplicitlyIndexed) else part
        return upload(np.asarray(values), self.device)

    async def async_getitem(self, key: Any) -> Any:
        return await asyncio.to_thread(self.__getitem__, key)

    def __reduce__(self) -> Any:
        return Uploaded, (self.host, self.dtype, self.device)


def upload(values: Any, device: str) -> Any:
    """A NumPy array as one of the device's."""
    backend = get_backend(device, values.dtype)
    if backend.name == "host":
        return values
    import cupy

    with cupy.cuda.Device(int(backend.name.partition(":")[2] or 0)):
        return cupy.asarray(values)


class Blocks:
    """A lazy variable as dask reads it: block by block, arrays of the device and no others."""

    def __init__(self, data: Any) -> None:
        self.array = data
        self.shape = data.shape
        self.dtype = data.dtype
        self.ndim = len(data.shape)

    def __getitem__(self, key: Any) -> Any:
        key = key if isinstance(key, tuple) else (key,)
        part = self.array.oindex[OuterIndexer(key)]
        return part.get_duck_array()


class DeviceVariable(xarray.Variable):  # type: ignore[misc]  # xarray is not looked into
    """A variable whose blocks are arrays of a device, too, when it is cut into blocks.

    xarray would make NumPy arrays of them.
    """

    __slots__ = ()

    def chunk(
        self,
        chunks: Any = None,
        name: str | None = None,
        lock: Any = None,
        inline_array: bool | None = None,
        chunked_array_type: Any = None,
        from_array_kwargs: Any = None,
        **chunks_kwargs: Any,
    ) -> Any:
        """As :meth:`xarray.Variable.chunk`; blocks of dask only."""
        named = {"name": name, "lock": lock, "inline_array": inline_array}
        given = {k: v for k, v in named.items() if v is not None} | dict(from_array_kwargs or {})
        lazy = _lazy(self._data)
        if lazy is None:
            return super().chunk(
                {} if chunks is None else chunks,
                chunked_array_type=chunked_array_type,
                from_array_kwargs=given,
                **chunks_kwargs,
            )
        import dask.array as da

        wanted = {} if chunks is None else chunks
        if isinstance(wanted, Mapping):
            lengths = {**wanted, **chunks_kwargs}
            wanted = tuple(
                lengths.get(dim, n) for dim, n in zip(self.dims, self.shape, strict=True)
            )
        given.setdefault("meta", _meta(lazy, self.dtype))
        data = da.from_array(Blocks(self._data), chunks=wanted, **given)
        return xarray.Variable(self.dims, data, self._attrs, self._encoding, fastpath=True)


def _lazy(data: Any) -> DeviceArray | Uploaded | None:
    """What ``data``, through all of xarray's wrappers, is read from."""
    while data is not None and not isinstance(data, DeviceArray | Uploaded):
        data = getattr(data, "array", None)
    return data


def _meta(lazy: DeviceArray | Uploaded, dtype: np.dtype[Any]) -> Any:
    """An empty array of the device."""
    empty = (0,) * len(lazy.shape)
    device = lazy.source.device if isinstance(lazy, DeviceArray) else lazy.device
    return get_backend(device, dtype).empty(empty, dtype, "C")
