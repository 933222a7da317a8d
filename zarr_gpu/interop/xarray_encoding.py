"""Variables to arrays: values and attributes as they are stored, and how the array is made.

CF encoding is xarray's own, of the version that is installed. The place of fill values is that of
`xarray's Zarr encoding specification
<https://docs.xarray.dev/en/stable/internals/zarr-encoding-spec.html>`_: format 2 masks what equals
the array's ``fill_value``; in format 3 that is only for missing chunks, and the attribute
``_FillValue`` (as base64 for floats) says what is masked.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from zarr_gpu.array import Array
from zarr_gpu.creation import array_metadata
from zarr_gpu.description import chunk_sizes
from zarr_gpu.group import Group
from zarr_gpu.interop.dask_chunks import Lengths, uniform, unknown
from zarr_gpu.interop.xarray import DIMENSIONS
from zarr_gpu.interop.xarray_names import (
    FillValueCoder,
    check_vlen_dtype,
    decode_cf_variables,
    encode_zarr_variable,
    xarray,
)
from zarr_gpu.metadata.grids import RegularGrid

_ARGUMENTS = ("compressors", "filters", "serializer", "chunk_key_encoding", "shards")
_SETTINGS = ("write_empty_chunks",)
_OURS_TO_IGNORE = ("source", "original_shape", "preferred_chunks", "cache_metadata")
_BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
"""What zarr-python 3.4 compresses arrays of format 2 with, unless told otherwise."""
UNNAMED = "__xarray_dataarray_variable__"
NAME = "__xarray_dataarray_name__"
"""How xarray stores a data array that has no name, or that of one of its coordinates."""
_TAKES_FORMAT = "zarr_format" in inspect.signature(encode_zarr_variable).parameters


def as_dataset(array: Any) -> Any:
    """A data array as a dataset that :func:`xarray.open_dataarray` turns back into it."""
    if array.name is None:
        return array.to_dataset(name=UNNAMED)
    if array.name in array.coords or array.name in array.dims:
        dataset = array.to_dataset(name=UNNAMED)
        dataset.attrs[NAME] = array.name
        return dataset
    return array.to_dataset()


def check_names(dataset: Any) -> None:
    """Raise TypeError or ValueError for names that cannot be stored."""
    for name in dataset.variables:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"names of variables are stored as strings, found {name!r}")
        if name is not None and (not name or "/" in name):
            raise ValueError(f"{name!r} cannot be the name of an array")


def is_dask(data: Any) -> bool:
    """True for dask arrays."""
    return hasattr(data, "dask") and hasattr(data, "chunks")


def encoded(variable: Any, name: Any, zarr_format: int) -> Any:
    """The variable as it is stored."""
    given = {"zarr_format": zarr_format} if _TAKES_FORMAT else {}
    return encode_zarr_variable(variable, name=name, **given)


def encoded_as(variable: Any, name: Any, existing: Any, zarr_format: int) -> Any:
    """The same, encoded as ``existing``, the decoded variable that is stored already.

    Raises ValueError when other values than those of ``variable`` would be stored: cut strings,
    fractions without their ends, integers out of range, and times in other units, which xarray's
    coders choose where those that are stored are too coarse.
    """
    if not _fits(variable, existing):
        raise ValueError(
            f"variable {name!r} is stored as {existing.dtype}, which cannot hold {variable.dtype}; "
            "convert it with astype() if it is to lose what does not fit"
        )
    copied = variable.copy(deep=False)
    copied.encoding = dict(existing.encoding)
    found = encoded(copied, name, zarr_format)
    units = found.attrs.get("units")
    if _are_times(variable, existing) and not _same_clock(found.attrs, existing.encoding):
        raise ValueError(
            f"variable {name!r} is stored in units of {existing.encoding.get('units')!r} of the "
            f"calendar {existing.encoding.get('calendar')!r}, but its new values need {units!r} of "
            f"{found.attrs.get('calendar')!r}. Round them, or store all of them in finer units: "
            "encoding['units']"
        )
    return found


def _fits(variable: Any, existing: Any) -> bool:
    """True when the type of what is stored can hold the values."""
    dtype, stored = variable.dtype, existing.dtype
    if dtype.kind in "OT":
        return True  # cftime, strings of any length, or something that the coders refuse
    if dtype.kind not in "biufcmM" or stored.kind not in "biufcmM":
        return bool(dtype == stored or stored.kind in "OT")
    if stored.kind in "mM" and dtype.kind in "iuf":
        return "units" in variable.attrs  # opened with decode_times=False
    if not np.can_cast(dtype, stored, "same_kind"):
        return False
    narrow = dtype.kind in "iu" and stored.kind in "iu" and not np.can_cast(dtype, stored)
    if not narrow or not variable.size or is_dask(variable.data):
        return True
    limits = np.iinfo(stored)
    return bool(limits.min <= variable.data.min() and variable.data.max() <= limits.max)


def _are_times(variable: Any, existing: Any) -> bool:
    """True when units say what the stored numbers mean, be they decoded or not."""
    return (
        variable.dtype.kind in "mM" or existing.dtype.kind in "mM" or "units" in existing.encoding
    )


def _same_clock(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True when the same numbers are the same times."""
    members = ("units", "calendar")
    if all(one.get(k) == other.get(k) for k in members):
        return True
    if "units" not in one or "units" not in other:
        return False
    ticks = np.arange(2)
    found = [
        decode_cf_variables(
            {"t": xarray.Variable("i", ticks, {k: a[k] for k in members if k in a})},
            {},
            decode_timedelta=True,
        )[0]["t"]
        for a in (one, other)
    ]
    return bool(found[0].dtype == found[1].dtype and (found[0].values == found[1].values).all())


def creation_arguments(
    name: Any,
    variable: Any,
    *,
    zarr_format: int,
    checked: bool,
    write_empty_chunks: bool | None,
) -> dict[str, Any]:
    """Arguments of ``create_array`` for an encoded variable.

    ``checked``: raise ValueError for members of ``encoding`` that have no meaning here, instead of
    passing over them, as they may come from a file of another format.
    """
    encoding = {k: v for k, v in variable.encoding.items() if k not in _OURS_TO_IGNORE}
    dtype = variable.dtype
    fill, attributes = _fill_value(name, variable, encoding, zarr_format, checked)
    arguments: dict[str, Any] = {
        "shape": variable.shape,
        "dtype": str if check_vlen_dtype(dtype) is str else dtype,
        "fill_value": fill,
        "chunks": _chunks(name, variable, encoding.pop("chunks", None)),
        "attributes": attributes,
    }
    arguments |= {k: encoding.pop(k) for k in _ARGUMENTS if k in encoding}
    if "compressor" in encoding:
        arguments["compressors"] = encoding.pop("compressor")
    settings = {k: encoding.pop(k) for k in _SETTINGS if encoding.get(k) is not None}
    if write_empty_chunks is not None:
        if settings.get("write_empty_chunks", write_empty_chunks) != write_empty_chunks:
            raise ValueError(
                f"variable {name!r}: write_empty_chunks differs between encoding and argument"
            )
        settings["write_empty_chunks"] = write_empty_chunks
    if settings:
        arguments["config"] = settings
    if checked and encoding:
        raise ValueError(f"variable {name!r}: unknown encoding {sorted(encoding)}")
    if zarr_format == 3:
        arguments["dimension_names"] = variable.dims or None
    else:
        attributes[DIMENSIONS] = list(variable.dims)
        arguments.setdefault("compressors", _BLOSC)
        if arguments.get("shards") is None:
            arguments.pop("shards", None)
        arguments.pop("serializer", None)
        if dtype.kind in "SU" and "filters" in arguments:  # read as strings, encoded to fixed ones
            arguments["filters"] = [f for f in arguments["filters"] or () if not _is_vlen(f)]
    return arguments


def _fill_value(
    name: Any, variable: Any, encoding: dict[str, Any], zarr_format: int, checked: bool
) -> tuple[Any, dict[str, Any]]:
    """The array's fill value and its attributes, where the value of missing data has its place.

    What is used of ``encoding`` is taken out of it.
    """
    attributes = {k: attribute(v) for k, v in variable.attrs.items() if k != "_FillValue"}
    marker = variable.attrs.get("_FillValue")
    wanted = encoding.pop("fill_value", None)
    if encoding.pop("_FillValue", None) is not None:
        raise ValueError(f"variable {name!r}: its _FillValue was not encoded")
    if zarr_format == 2:
        if checked and wanted is not None:
            raise ValueError(
                f"variable {name!r}: format 2 stores one fill value; say encoding['_FillValue']"
            )
        return marker, attributes
    if marker is not None:
        attributes["_FillValue"] = FillValueCoder.encode(marker, variable.dtype)
    # What nobody wrote reads as missing, which zero is not.
    fill = np.nan if wanted is None and variable.dtype.kind == "f" else wanted
    return fill, attributes


def _is_vlen(codec: Any) -> bool:
    name = codec.get("id") if isinstance(codec, Mapping) else getattr(codec, "codec_id", None)
    return name in ("vlen-utf8", "vlen-bytes")


def _chunks(name: Any, variable: Any, wanted: Any) -> Any:
    """Chunks of a new array: those of the encoding, else the blocks of dask, else automatic."""
    if isinstance(wanted, int | np.integer):
        return (int(wanted),) * variable.ndim
    if wanted is not None and len(wanted) == variable.ndim:
        return tuple(wanted)
    if not variable.chunks or not is_dask(variable.data):
        return "auto"
    if unknown(variable.chunks):
        raise ValueError(
            f"variable {name!r} has blocks of unknown length; compute_chunk_sizes() of its dask "
            "array finds them out"
        )
    found = tuple(uniform(blocks) for blocks in variable.chunks)
    if None in found:
        axis = found.index(None)
        raise ValueError(
            f"variable {name!r}: the blocks of {variable.dims[axis]!r} have different lengths, "
            f"{variable.chunks[axis][:8]}, but chunks are all of one; give encoding['chunks'] "
            "(and align_chunks=True), or rechunk with ds.chunk(...)"
        )
    return found


def object_lengths(
    array: Array | None, arguments: Mapping[str, Any], shape: tuple[int, ...], zarr_format: int
) -> tuple[Lengths, ...]:
    """Lengths of the stored objects along every axis, of an array to be made or to be grown.

    Raises what making the array would raise.
    """
    if array is None:
        made = {k: v for k, v in arguments.items() if k != "config"}
        metadata = array_metadata(zarr_format=zarr_format, **made)
        return chunk_sizes(metadata.chunk_grid.axes(shape))
    grid = array.metadata.chunk_grid
    if isinstance(grid, RegularGrid):
        return chunk_sizes(grid.axes(shape))
    return tuple(
        (*lengths, n - sum(lengths)) if sum(lengths) < n else lengths
        for lengths, n in zip(array.write_chunk_sizes, shape, strict=True)
    )


def attribute(value: Any) -> Any:
    """An attribute as JSON can hold it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def put_attributes(group: Group, attributes: Mapping[str, Any]) -> None:
    """Replace the attributes of a group. TypeError for what JSON cannot hold."""
    try:
        group.attrs.put(attributes)
    except TypeError as error:
        raise TypeError(f"attributes of group {group.name!r}: {error}") from error


def decoded(variables: Mapping[Any, Any]) -> dict[Any, Any]:
    """What is stored as xarray would show it, for its types and encodings."""
    found, _, _ = decode_cf_variables(dict(variables), {})
    return dict(found)
