"""A Zarr hierarchy as a netCDF-4 file, written by h5netcdf.

What xarray encodes (missing values, packed numbers, times, names of coordinates) is kept as it is,
so that it reads the same from either. Dimensions have to be the same for all arrays of a group, as
in a dataset; axes without a name get one of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zarr_gpu._types import JSON
from zarr_gpu.array import Array
from zarr_gpu.errors import MissingDependencyError, UnsupportedError
from zarr_gpu.group import Group
from zarr_gpu.tools import missing
from zarr_gpu.tools.files import get_h5py
from zarr_gpu.tools.formats import DIMENSIONS
from zarr_gpu.tools.layouts import names_of

KINDS = (".nc", ".nc4")
_RESERVED = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_Netcdf4Dimid", DIMENSIONS}
Copy = Callable[[Array, Any], None]


def write(stream: Any, node: Array | Group, arrays: Mapping[str, Array], copy: Copy) -> None:
    """Fill the file ``stream`` with ``arrays``; ``copy`` moves the elements of one.

    Raises UnsupportedError for elements that netCDF does not have and dimensions that do not agree.
    """
    try:
        import h5netcdf
    except ImportError:
        raise MissingDependencyError(
            "netCDF files need the package h5netcdf: pip install 'zarr-gpu[hdf5]'"
        ) from None
    with h5netcdf.File(stream, "w") as file:
        if isinstance(node, Group):
            _put_attributes(file, node.attrs.asdict())
            for name, child in node.members(max_depth=None):
                if isinstance(child, Group):
                    _put_attributes(_group(file, name), child.attrs.asdict())
        for name, array in arrays.items():
            folder, _, last = name.rpartition("/")
            _variable(_group(file, folder), last, array, copy)


def _group(file: Any, path: str) -> Any:
    for name in path.split("/") if path else ():
        file = file.groups[name] if name in file.groups else file.create_group(name)
    return file


def _variable(group: Any, name: str, array: Array, copy: Copy) -> None:
    dtype, attributes = _stored_as(array), dict(array.attrs.asdict())
    if array.dtype.kind == "b":
        attributes["dtype"] = "bool"  # as xarray says that the numbers are truth values
    dimensions = tuple(
        _dimension(group, array, given or f"{name}_{axis}", array.shape[axis])
        for axis, given in enumerate(names_of(array))
    )
    packed = bool(array.shape and array.size and array.compressors)
    chunks = tuple(map(max, array.read_chunk_sizes)) if array.shape and array.size else None
    variable = group.create_variable(
        name,
        dimensions,
        get_h5py().string_dtype() if dtype is str else dtype,
        fillvalue=_fill_value(array, attributes, dtype),
        chunks=None if chunks is None else tuple(map(min, chunks, array.shape)),
        **({"compression": "gzip", "shuffle": True} if packed else {}),
    )
    _put_attributes(variable, attributes)
    copy(array, _Converted(variable, dtype))


class _Converted:
    """A variable that takes values of an array of another type."""

    def __init__(self, variable: Any, dtype: Any) -> None:
        self._variable = variable
        self._dtype = object if dtype is str else dtype

    def __setitem__(self, region: Any, values: Any) -> None:
        self._variable[region] = np.asarray(values).astype(self._dtype)


def _stored_as(array: Array) -> Any:
    """The type in the file: numbers as they are, truth values as bytes, texts of any length."""
    dtype = array.dtype
    if dtype.kind in "UT":
        return str
    if dtype.kind == "b":
        return np.dtype("i1")
    numbers = dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))
    if numbers and dtype.type.__module__.startswith("numpy"):
        return dtype
    raise UnsupportedError(
        f"array {array.name!r}: netCDF cannot hold elements of {dtype}; .h5 may, or store numbers"
    )


def _dimension(group: Any, array: Array, name: str, length: int) -> str:
    """Define it in the group, or find it there."""
    known = group.dimensions.get(name) if name in group.dimensions else None
    if known is not None and known.size == length and name in group._dimensions:  # noqa: SLF001 - else it is a parent's
        return name
    if known is not None and name in group._dimensions:  # noqa: SLF001 - as above
        raise UnsupportedError(
            f"array {array.name!r}: dimension {name!r} has {length} elements here and {known.size} "
            "in another array, which netCDF does not allow in a group"
        )
    group.dimensions[name] = length or None  # one of no elements is one that may grow
    return name


def _fill_value(array: Array, attributes: dict[str, JSON], dtype: Any) -> Any:
    """What stands for missing values, taken out of the attributes; None without."""
    found = missing.decoded(attributes.get(missing.ATTRIBUTE), array.dtype)
    if found is not None:
        del attributes[missing.ATTRIBUTE]
    elif array.metadata.zarr_format == 2:
        found = array.metadata.fill_value
    return None if found is None or dtype is str else np.array(found).astype(dtype)[()]


def _put_attributes(item: Any, attributes: Mapping[str, JSON]) -> None:
    """NetCDF has numbers, texts and lists of either."""
    for key, value in attributes.items():
        if key not in _RESERVED:
            item.attrs[key] = _plain(value)


def _plain(value: JSON) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return np.int8(value)
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list) and value:
        kinds = {type(item) for item in value}
        if kinds == {str} or kinds <= {int, float}:
            return value
    return json.dumps(value)
