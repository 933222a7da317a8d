"""xarray: ``xr.open_dataset(store, engine="zarr_gpu")``, and ``ds.zarr_gpu.to_zarr(store)``.

>>> import numpy as np, xarray as xr
>>> import zarr_gpu.interop.xarray  # for ds.zarr_gpu; xarray finds the engine by itself
>>> ds = xr.Dataset({"t": ("x", np.arange(3.0))}, {"x": [10, 20, 30]})
>>> group = ds.zarr_gpu.to_zarr(store := {})
>>> xr.open_dataset(store, engine="zarr_gpu").identical(ds)
True

The engine is made of xarray's backend interface (``BackendEntrypoint``, ``AbstractDataStore``,
``BackendArray``), so that everything of CF is decoded by xarray itself. zarr-python is not needed.
Files, URLs, mappings, zip files, stores of ours, of zarr-python and of fsspec are opened, Zarr
format 2 (``_ARRAY_DIMENSIONS``, or the names of NCZarr) and 3 (``dimension_names``) alike;
consolidated metadata are used where they are.

``ds.zarr_gpu`` is there when ``import zarr_gpu`` comes after ``import xarray``, or from the first
dataset on that is opened with this engine, or after ``import zarr_gpu.interop.xarray``.

Two things differ from ``engine="zarr"``. ``chunks={}`` makes a block of every *shard* where there
are shards, so that what was opened can be written again, block by block. And codecs in ``encoding``
are documents (dictionaries), which both engines understand.

With ``device="cuda"`` data variables are CuPy arrays, lazy ones too and those behind ``chunks=``.
Masks, scales and offsets are applied on the device (xarray's own would refuse CuPy arrays).
Coordinates stay NumPy arrays, as indexes are made of them, and so do times and strings, which CuPy
does not have; everything else that has to be decoded is decoded on the host and copied up. Nothing
is put on a device unless ``device=`` or the setting ``device`` names one. No card has run this yet.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from zarr_gpu.array import Array
from zarr_gpu.backend import get_backend
from zarr_gpu.config import config
from zarr_gpu.errors import GroupNotFoundError, UnsupportedError
from zarr_gpu.group import Group
from zarr_gpu.interop.dask_chunks import uniform
from zarr_gpu.interop.xarray_names import (
    AbstractDataStore,
    BackendArray,
    BackendEntrypoint,
    FillValueCoder,
    IndexingSupport,
    LazilyIndexedArray,
    StoreBackendEntrypoint,
    VectorizedIndexer,
    create_vlen_dtype,
    explicit_indexing_adapter,
    xarray,
)
from zarr_gpu.metadata import json
from zarr_gpu.nodes import join
from zarr_gpu.opening import open_group
from zarr_gpu.places import find_place

DIMENSIONS = "_ARRAY_DIMENSIONS"
"""Attribute that names the axes in format 2, by xarray's convention."""


class ZarrGpuBackendEntrypoint(BackendEntrypoint):  # type: ignore[misc]  # xarray is not looked into
    """The engine ``zarr_gpu``."""

    description = "Open Zarr (formats 2 and 3) with zarr_gpu, on the CPU or on a GPU"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """``*.zarr``, but only where xarray's own engine cannot: without zarr-python."""
        if not isinstance(filename_or_obj, str | os.PathLike) or find_spec("zarr") is not None:
            return False
        return os.fspath(filename_or_obj).rstrip("/").endswith(".zarr")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        mask_and_scale: Any = True,
        decode_times: Any = True,
        concat_characters: Any = True,
        decode_coords: Any = True,
        drop_variables: str | Iterable[str] | None = None,
        use_cftime: bool | None = None,
        decode_timedelta: Any = None,
        group: str | None = None,
        consolidated: bool | None = None,
        storage_options: Mapping[str, Any] | None = None,
        zarr_format: int | None = None,
        use_zarr_fill_value_as_mask: bool | None = None,
        device: str | None = None,
    ) -> Any:
        """See the module; arguments as for ``engine="zarr"``, and ``device``.

        ``consolidated``: None uses consolidated metadata of the store's root where there are any,
        True requires them (ValueError), False ignores them.
        """
        node = open_source(filename_or_obj, group, consolidated, storage_options, zarr_format)
        store = DataStore(
            node,
            dict(node.arrays()),
            fill_value_as_mask=use_zarr_fill_value_as_mask,
            closes=opens(filename_or_obj),
            without=drop_variables,
        )
        return store.open_dataset(
            chosen_device(device),
            mask_and_scale=mask_and_scale,
            decode_times=decode_times,
            concat_characters=concat_characters,
            decode_coords=decode_coords,
            drop_variables=drop_variables,
            use_cftime=use_cftime,
            decode_timedelta=decode_timedelta,
        )

    def open_datatree(self, filename_or_obj: Any, **kwargs: Any) -> Any:
        """All groups as a tree; arguments as for :meth:`open_dataset`."""
        datasets = self.open_groups_as_dict(filename_or_obj, **kwargs)
        try:
            tree = xarray.DataTree.from_dict(datasets)
        except Exception:
            for dataset in datasets.values():
                dataset.close()
            raise
        tree.set_close(next(iter(datasets.values())).close)
        return tree

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        group: str | None = None,
        consolidated: bool | None = None,
        storage_options: Mapping[str, Any] | None = None,
        zarr_format: int | None = None,
        use_zarr_fill_value_as_mask: bool | None = None,
        device: str | None = None,
        drop_variables: str | Iterable[str] | None = None,
        **decoding: Any,
    ) -> dict[str, Any]:
        """Every group as a dataset, by path; arguments as for :meth:`open_dataset`."""
        root = open_source(filename_or_obj, group, consolidated, storage_options, zarr_format)
        groups: dict[str, Group] = {"": root}
        arrays: dict[str, dict[str, Array]] = {"": {}}
        for path, node in root.members(max_depth=None):
            if isinstance(node, Group):
                groups[path], arrays[path] = node, {}
            else:
                parent, _, name = path.rpartition("/")
                arrays[parent][name] = node
        named = chosen_device(device)
        datasets = {}
        for path, node in groups.items():
            store = DataStore(
                node,
                arrays[path],
                fill_value_as_mask=use_zarr_fill_value_as_mask,
                closes=opens(filename_or_obj),
                without=drop_variables,
            )
            name = (path or ".") if (group or "").strip("/") else "/" + path
            datasets[name] = store.open_dataset(named, drop_variables=drop_variables, **decoding)
        return datasets


def opens(source: Any) -> bool:
    """True when the store is ours to close, because nobody else can."""
    return isinstance(source, str | os.PathLike)


def chosen_device(device: str | None) -> str:
    """The device that was named; ``"cpu"`` when none was.

    Much of what is done with datasets (plots, pandas, netCDF) takes NumPy arrays only, so that a
    card which happens to be there is no reason to use it.
    """
    if device is None:
        device = config.current.device
        return "cpu" if device == "auto" else device
    get_backend(device)  # says at once that it cannot be used
    return device


def open_source(
    source: Any,
    group: str | None,
    consolidated: bool | None,
    storage_options: Mapping[str, Any] | None,
    zarr_format: int | None,
) -> Group:
    """The group ``group`` of ``source``; the root's consolidated metadata list its members."""
    place = find_place(source, None, "r", storage_options)
    below = (group or "").strip("/")
    arguments: dict[str, Any] = {"mode": "r", "zarr_format": zarr_format, "device": "cpu"}
    if consolidated is False:
        return open_group(place, path=below or None, use_consolidated=False, **arguments)
    try:
        root = open_group(place, use_consolidated=consolidated, **arguments)
    except GroupNotFoundError:
        if not below or consolidated:
            raise
        return open_group(place, path=below, **arguments)  # the root need not be a group
    found: Group = root.get_group(below) if below else root
    return found


class DataStore(AbstractDataStore):  # type: ignore[misc]  # xarray is not looked into
    """One group as xarray sees it: undecoded variables and attributes."""

    def __init__(
        self,
        group: Group,
        arrays: Mapping[str, Array],
        *,
        fill_value_as_mask: bool | None = None,
        closes: bool = False,
        without: str | Iterable[str] | None = None,
    ) -> None:
        dropped = {without} if isinstance(without, str) else set(without or ())
        self.group = group
        self.arrays = {name: array for name, array in arrays.items() if name not in dropped}
        self.closes = closes
        # Format 2 has only this one place for the value of missing data.
        is_v2 = group.metadata.zarr_format == 2
        self.fill_value_as_mask = is_v2 if fill_value_as_mask is None else fill_value_as_mask

    def open_dataset(self, device: str, **decoding: Any) -> Any:
        """The decoded dataset, its data variables on ``device``."""
        try:
            dataset = StoreBackendEntrypoint().open_dataset(self, **decoding)
            if device != "cpu":
                from zarr_gpu.interop.xarray_device import to_device

                dataset = to_device(dataset, self.arrays, device)
        except Exception:
            self.close()
            raise
        return dataset

    def get_variables(self) -> dict[str, Any]:
        return {name: self.variable(name) for name in self.arrays}

    def variable(self, name: str) -> Any:
        """One array as an undecoded, lazy variable."""
        array = self.arrays[name]
        dimensions, attributes = dimensions_and_attributes(array)
        encoding = _encoding(array, dimensions)
        if self.fill_value_as_mask:
            if array.fill_value is not None:
                attributes["_FillValue"] = array.fill_value
        else:
            if array.metadata.zarr_format == 3:
                encoding["fill_value"] = array.fill_value
            if "_FillValue" in attributes:
                attributes["_FillValue"] = FillValueCoder.decode(
                    attributes["_FillValue"], array.dtype
                )
        data = LazilyIndexedArray(LazyArray(array))
        return xarray.Variable(dimensions, data, attributes, encoding)

    def dimensions(self) -> dict[str, int]:
        """Lengths of all named axes."""
        found: dict[str, int] = {}
        for array in self.arrays.values():
            found.update(zip(dimensions_and_attributes(array)[0], array.shape, strict=True))
        return found

    def get_attrs(self) -> dict[str, Any]:
        return without_nczarr(self.group.attrs.asdict())

    def close(self) -> None:
        if self.closes:
            self.group.store.close()


class LazyArray(BackendArray):  # type: ignore[misc]  # xarray is not looked into
    """An array whose elements are read when xarray asks for them.

    Its attribute is not called ``array``, by which xarray's wrappers name what they wrap.
    """

    __slots__ = ("dtype", "shape", "source")

    def __init__(self, array: Array) -> None:
        self.source = array
        self.shape = array.shape
        self.dtype = array.dtype
        if self.dtype.kind == "O" and array.metadata.data_type.kind == "string":
            self.dtype = create_vlen_dtype(str)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, VectorizedIndexer):  # also steps backwards, and nothing
            return self.source.get_orthogonal_selection(key.tuple)
        if any(isinstance(k, slice) for k in key.tuple):
            outer = IndexingSupport.OUTER
            return explicit_indexing_adapter(key, self.shape, outer, self._read)
        return self.source.get_coordinate_selection(key.tuple)

    async def async_getitem(self, key: Any) -> Any:
        """The same in a thread, of which asyncio has few: ``await dataset.load_async()``."""
        return await asyncio.to_thread(self.__getitem__, key)

    def _read(self, key: tuple[Any, ...]) -> Any:
        return self.source.get_orthogonal_selection(key)

    def __reduce__(self) -> Any:
        return type(self), (self.source,)


def arrays_behind(variable: Any) -> list[Array]:
    """Arrays of ours that a variable which is not yet loaded is read from."""
    data = variable._data  # noqa: SLF001 - .data would load it
    if hasattr(data, "dask"):
        from zarr_gpu.interop import dask_graph

        return dask_graph.arrays_behind(data)
    while data is not None:
        if isinstance(data, LazyArray):
            return [data.source]
        data = getattr(data, "array", None)
    return []


def _encoding(array: Array, dimensions: tuple[str, ...]) -> dict[str, Any]:
    """How the array is stored, in terms that both engines take for a new one."""
    chunks = _lengths(lambda: array.chunks, lambda: array.read_chunk_sizes)
    shards = _lengths(lambda: array.shards, lambda: array.write_chunk_sizes)
    encoding: dict[str, Any] = {
        "chunks": chunks,
        "preferred_chunks": dict(zip(dimensions, shards or chunks, strict=True)),
        "compressors": tuple(map(_document, array.compressors)),
        "filters": tuple(map(_document, array.filters)),
        "shards": shards,
    }
    if array.metadata.zarr_format == 3:
        encoding["serializer"] = _document(array.serializer)
    if array.dtype.kind == "T":
        encoding["dtype"] = array.dtype
    return encoding


def _lengths(regular: Callable[[], Any], listed: Callable[[], Any]) -> Any:
    """Of chunks or shards: an int for an axis cut regularly, else the length of each."""
    try:
        return regular()
    except UnsupportedError:
        return tuple(uniform(lengths) or lengths for lengths in listed())


def _document(codec: Any) -> Any:
    """A codec as plain data; one of format 2 as an object, as zarr-python takes nothing else."""
    if not isinstance(codec, Mapping):
        return codec.to_dict()
    import numcodecs

    try:
        return numcodecs.get_codec(dict(codec))
    except ValueError:  # unknown to numcodecs
        return codec


def dimensions_and_attributes(array: Array) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the axes, and the attributes without those that only serve to name them.

    Raises KeyError when the axes have no names.
    """
    attributes = array.attrs.asdict()
    if array.metadata.zarr_format == 3:
        names: Any = array.metadata.dimension_names or ()
        missing = "has no `dimension_names`"
    else:
        names = attributes.pop(DIMENSIONS, None)
        names = _nczarr_names(array) if names is None else names
        attributes = without_nczarr(attributes)
        missing = f"has neither the attribute {DIMENSIONS!r} nor the names of NCZarr"
    if names is None or len(names) != array.ndim:
        raise KeyError(
            f"array {array.name!r} of {array.ndim} dimensions {missing} (or not for all of them), "
            "which xarray needs; drop_variables= leaves it out"
        )
    return tuple(names), attributes


def _nczarr_names(array: Array) -> list[str] | None:
    """Names in the members that NCZarr adds to a document, or in its newer attribute."""
    found: Any = array.attrs.get("_nczarr_array")
    if found is None:
        key = join(array.path, ".zarray")
        data = array.store.get(key, limit=config.current.limits.metadata_nbytes)
        document: Any = {} if data is None else json.load(data, key)
        found = document.get("_NCZARR_ARRAY") or document.get("_nczarr_array")
    references = found.get("dimrefs", found.get("dimensions")) if isinstance(found, dict) else None
    if not isinstance(references, list):
        return None
    return [str(reference).rpartition("/")[2] for reference in references]


def without_nczarr(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that are not NCZarr's own."""
    return {k: v for k, v in attributes.items() if not k.lower().startswith("_nc")}


import zarr_gpu.interop.xarray_accessor  # noqa: E402, F401 - registers ds.zarr_gpu
