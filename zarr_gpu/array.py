"""Arrays: NumPy-like access to the chunks of one node.

>>> import numpy as np, zarr_gpu
>>> a = zarr_gpu.create_array({}, shape=(4, 6), chunks=(2, 3), dtype="int16")
>>> a[1:3, ::2] = [[1, 2, 3]]
>>> a[2].tolist()
[1, 0, 2, 0, 3, 0]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from zarr_gpu import backend as backends
from zarr_gpu import indexing, resizing
from zarr_gpu import info as summary
from zarr_gpu._types import JSON, NDArray, Shape
from zarr_gpu.attributes import Attributes
from zarr_gpu.backend import Backend, get_backend
from zarr_gpu.config import ArrayConfig, config
from zarr_gpu.description import ArrayDescription
from zarr_gpu.errors import ReadOnlyError, SelectionError
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.nodes import StorePath, read_array, update_node
from zarr_gpu.plan import Plan, make_plan
from zarr_gpu.stores.open import make_store
from zarr_gpu.values import Fields, plan_dtype, pop_fields, write_values
from zarr_gpu.views import BlockIndex, OIndex, VIndex


class Array(ArrayDescription):
    """An n-dimensional chunked array in a store.

    Made by :func:`zarr_gpu.open_array`, :func:`zarr_gpu.create_array` and their kin. May be shared
    by threads. Pickles as its store and path.
    """

    def __init__(
        self,
        store_path: StorePath,
        metadata: ArrayMetadata,
        *,
        settings: ArrayConfig | None = None,
        device: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(
            store_path,
            ArrayLayout(metadata, store_path.path, allow_pickle=allow_pickle),
            settings or config.current.array,
            device or config.current.device,
        )
        self._allow_pickle = allow_pickle
        self._found: tuple[int, Backend] | None = None
        if self._device != "auto":
            self._backend  # noqa: B018 - says at once that a device cannot be used

    @property
    def _backend(self) -> Backend:
        """What reads and writes; found when it is first needed, and again in a forked child.

        Looking for a device starts CUDA, after which a process should not be forked: opening an
        array must not do that.
        """
        found, process = self._found, os.getpid()
        if found is None or found[0] != process:
            self._found = found = process, get_backend(self._device, self._layout.dtype)
        return found[1]

    @classmethod
    def open(cls, store: Any) -> Self:
        """The array at ``store`` (a store, path, URL or place). ArrayNotFoundError without one."""
        place = store if isinstance(store, StorePath) else StorePath(*make_store(store))
        return cls(place, read_array(place.store, place.path))

    def __reduce__(self) -> Any:
        return (
            _rebuild,
            (
                self._store_path,
                self.metadata,
                self._settings,
                self._device,
                self._allow_pickle,
            ),
        )

    @property
    def shape(self) -> Shape:
        """Length of every axis; assigning resizes."""
        return self._layout.shape

    @shape.setter
    def shape(self, shape: Shape) -> None:
        self.resize(shape)

    @cached_property
    def attrs(self) -> Attributes:
        """User attributes, a mapping that writes through to the store."""
        return Attributes(self)

    # -- reading ----------------------------------------------------------------------------------

    def __getitem__(self, selection: Any) -> Any:
        """NumPy indexing, with field names of structured types anywhere in the brackets."""
        selection, fields = pop_fields(selection)
        return self._read(self._parse(selection), fields, None, scalars=True)

    def read(self, selection: Any = ..., *, out: Any = None, fields: Fields = None) -> Any:
        """Elements of ``selection`` (as between brackets), decoded into ``out`` when given.

        ``out`` is any writable array of the result's shape, or a writable buffer of exactly its
        bytes. Raises ValueError when it does not fit.
        """
        selection, named = pop_fields(selection)
        return self._read(self._parse(selection), fields or named, out, scalars=out is None)

    def get_basic_selection(
        self, selection: Any = ..., *, out: Any = None, fields: Fields = None, prototype: Any = None
    ) -> Any:
        """Integers and slices."""
        parsed = indexing.parse_basic(selection, self.shape)
        return self._read(parsed, fields, out, scalars=out is None)

    def get_orthogonal_selection(
        self, selection: Any, *, out: Any = None, fields: Fields = None, prototype: Any = None
    ) -> Any:
        """Each axis indexed on its own; see :attr:`oindex`."""
        return self._read(indexing.parse_orthogonal(selection, self.shape), fields, out)

    def get_coordinate_selection(
        self, selection: Any, *, out: Any = None, fields: Fields = None, prototype: Any = None
    ) -> Any:
        """Points given by one index array per axis; see :attr:`vindex`."""
        return self._read(indexing.parse_coordinate(selection, self.shape), fields, out)

    def get_mask_selection(
        self, mask: Any, *, out: Any = None, fields: Fields = None, prototype: Any = None
    ) -> Any:
        """Elements where a boolean array of the array's shape is true."""
        return self._read(indexing.parse_mask(mask, self.shape), fields, out)

    def get_block_selection(
        self, selection: Any, *, out: Any = None, fields: Fields = None, prototype: Any = None
    ) -> Any:
        """Whole chunks, by chunk number; see :attr:`blocks`."""
        return self._read(self._parse_blocks(selection), fields, out)

    @property
    def oindex(self) -> OIndex:
        """Orthogonal indexing."""
        return OIndex(self)

    @property
    def vindex(self) -> VIndex:
        """Coordinate and mask indexing."""
        return VIndex(self)

    @property
    def blocks(self) -> BlockIndex:
        """Indexing by chunk number."""
        return BlockIndex(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("`copy=False` is not possible: the data are read from a store")
        data = self._backend.to_host(self[...], self.dtype)
        array = np.asarray(data)
        return array if dtype is None else array.astype(dtype, copy=False)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d array")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        """Rows along the first axis, read chunk by chunk and not row by row."""
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        axis = self._chunk_axes[0]
        for chunk in range(axis.count):
            at = np.asarray(chunk, np.int64)
            start = int(axis.start(at))
            yield from self[start : min(start + int(axis.extent(at)), axis.length)]

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def __int__(self) -> int:
        return int(np.asarray(self))

    def __float__(self) -> float:
        return float(np.asarray(self))

    def __complex__(self) -> complex:
        return complex(np.asarray(self))

    def __index__(self) -> int:
        return np.asarray(self).__index__()

    def _parse(self, selection: Any) -> indexing.Selection:
        return indexing.parse_numpy(selection, self._layout.shape)

    def _parse_blocks(self, selection: Any) -> indexing.Selection:
        return indexing.parse_block(selection, self.shape, self._chunk_axes)

    def _read(
        self, selection: indexing.Selection, fields: Fields, out: Any, *, scalars: bool = False
    ) -> Any:
        layout = self._layout
        plan = self._plan(selection, layout, fields)
        shape = selection.shape
        dtype = plan_dtype(plan, layout)
        backend = self._backend
        if out is None:
            result = backend.empty(shape, dtype, self.order)
            backend.read(layout, plan, self.store, result, self._settings)
            return result[()] if scalars and not shape else result
        backend.read(layout, plan, self.store, backend.adopt(out, shape, dtype), self._settings)
        return out

    def _plan(self, selection: indexing.Selection, layout: ArrayLayout, fields: Fields) -> Plan:
        if fields is None:
            return make_plan(selection, layout.leaf_axes)
        names = (fields,) if isinstance(fields, str) else tuple(fields)
        known = layout.dtype.names or ()
        for name in names:
            if name not in known:
                raise SelectionError(
                    f"array {self.name!r} of type {layout.dtype} has no field {name!r}; "
                    f"its fields: {', '.join(known) or 'none'}"
                )
        picked = names[0] if isinstance(fields, str) or len(names) == 1 else list(names)
        return make_plan(selection, layout.leaf_axes, picked)

    def explain(self, selection: Any = ...) -> str:
        """What reading ``selection`` would do: rows, objects, bytes and codec steps, as text."""
        selection, fields = pop_fields(selection)
        plan = self._plan(self._parse(selection), self._layout, fields)
        return summary.explain(self._layout, plan, self.store, self._device, self._backend)

    # -- writing ----------------------------------------------------------------------------------

    def __setitem__(self, selection: Any, value: Any) -> None:
        selection, fields = pop_fields(selection)
        self._write(self._parse(selection), value, fields)

    def set_basic_selection(
        self, selection: Any, value: Any, *, fields: Fields = None, prototype: Any = None
    ) -> None:
        """Integers and slices."""
        self._write(indexing.parse_basic(selection, self.shape), value, fields)

    def set_orthogonal_selection(
        self, selection: Any, value: Any, *, fields: Fields = None, prototype: Any = None
    ) -> None:
        """Each axis indexed on its own; see :attr:`oindex`."""
        self._write(indexing.parse_orthogonal(selection, self.shape), value, fields)

    def set_coordinate_selection(
        self, selection: Any, value: Any, *, fields: Fields = None, prototype: Any = None
    ) -> None:
        """Points given by one index array per axis; of duplicates the last one wins."""
        self._write(indexing.parse_coordinate(selection, self.shape), value, fields)

    def set_mask_selection(
        self, mask: Any, value: Any, *, fields: Fields = None, prototype: Any = None
    ) -> None:
        """Elements where a boolean array of the array's shape is true."""
        self._write(indexing.parse_mask(mask, self.shape), value, fields)

    def set_block_selection(
        self, selection: Any, value: Any, *, fields: Fields = None, prototype: Any = None
    ) -> None:
        """Whole chunks, by chunk number."""
        self._write(self._parse_blocks(selection), value, fields)

    def _write(self, selection: indexing.Selection, value: Any, fields: Fields) -> None:
        if self.read_only:
            raise ReadOnlyError(f"array {self.name!r} in {self.store!r} is read-only")
        plan = self._plan(selection, self._layout, fields)
        # NumPy's values need no device, so none is looked for.
        auto = self._device == "auto" and not backends.on_device(value)
        backend = get_backend("cpu") if auto else self._backend
        write_values(backend, self._layout, plan, self.store, value, self._settings)

    # -- changing ---------------------------------------------------------------------------------

    def resize(self, *shape: Any) -> None:
        """Change the length of axes in place; ``resize((3, 4))`` or ``resize(3, 4)``.

        Shrinking removes what lies outside, so growing again gives fill values. Raises ValueError
        when the number of axes differs.
        """
        resizing.resize(self, shape[0] if len(shape) == 1 else shape)

    def append(self, data: Any, axis: int = 0) -> Shape:
        """Grow along ``axis`` by ``data``; returns the new shape.

        The data are stored first and the new length last, so a killed append leaves no trace.
        """
        return resizing.append(self, data, axis)

    def update_attributes(self, new_attributes: Mapping[str, JSON]) -> Array:
        """Merge ``new_attributes`` into the stored ones."""
        self._change(lambda m: replace(m, attributes={**m.attributes, **new_attributes}))
        return self

    def _set_attributes(self, change: Callable[[dict[str, JSON]], dict[str, JSON]]) -> None:
        self._change(lambda m: replace(m, attributes=change(dict(m.attributes))))

    def _change(self, change: Callable[[ArrayMetadata], ArrayMetadata]) -> None:
        if self.read_only:
            raise ReadOnlyError(f"array {self.name!r} in {self.store!r} is read-only")
        self._replace_metadata(update_node(self.store, self.path, self.metadata, change))

    def layout_of(self, metadata: ArrayMetadata) -> ArrayLayout:
        """How this array would be stored with other metadata."""
        return ArrayLayout(metadata, self.path, allow_pickle=self._allow_pickle)

    def _replace_metadata(self, metadata: ArrayMetadata) -> None:
        self._layout = self.layout_of(metadata)

    def refresh(self) -> None:
        """Take over metadata changed by somebody else."""
        self._replace_metadata(read_array(self.store, self.path, self.metadata.zarr_format))

    def with_config(self, settings: ArrayConfig | Mapping[str, Any]) -> Array:
        """The same array with other run-time settings; TypeError for unknown ones."""
        return Array(
            self._store_path,
            self.metadata,
            settings=parse_settings(settings, self._settings),
            device=self._device,
            allow_pickle=self._allow_pickle,
        )

    def to(self, device: str) -> Array:
        """The same array, read to another device."""
        return Array(
            self._store_path,
            self.metadata,
            settings=self._settings,
            device=device,
            allow_pickle=self._allow_pickle,
        )

    # -- information ------------------------------------------------------------------------------

    def nbytes_stored(self) -> int:
        """Bytes in the store: chunks and metadata documents."""
        return summary.nbytes_stored(self.store, self.path)

    @property
    def nchunks_initialized(self) -> int:
        """Number of chunks that are stored (exact for inner chunks of shards, too)."""
        return summary.count_stored(self._layout, self.store)

    @property
    def info(self) -> summary.Info:
        """A summary that reads nothing from the store."""
        return summary.array_info(self)

    def info_complete(self) -> summary.Info:
        """The summary with stored sizes, which lists the store."""
        return summary.array_info(self, complete=True)

    def __repr__(self) -> str:
        return f"<Array {self._store_path} shape={self.shape} dtype={self.metadata.data_type.name}>"


def _rebuild(
    store_path: StorePath,
    metadata: ArrayMetadata,
    settings: ArrayConfig,
    device: str,
    allow_pickle: bool,
) -> Array:
    return Array(store_path, metadata, settings=settings, device=device, allow_pickle=allow_pickle)


_CHOICES = {"order": ("C", "F"), "concurrent_writes": ("locked", "unsafe")}


def parse_settings(
    settings: ArrayConfig | Mapping[str, Any] | None, base: ArrayConfig | None = None
) -> ArrayConfig:
    """Settings given as ``config=``: an ArrayConfig or a mapping.

    Raises TypeError for an unknown name and ValueError for a value that is not allowed.
    """
    base = base or config.current.array
    if settings is None:
        return base
    if isinstance(settings, ArrayConfig):
        return settings
    if not isinstance(settings, Mapping):
        raise TypeError(f"config must be a mapping or an ArrayConfig, found {settings!r}")
    unknown = set(settings) - {f.name for f in dataclass_fields(ArrayConfig)}
    if unknown:
        raise TypeError(f"unknown array setting {min(unknown)!r}")
    for name, value in settings.items():
        allowed = _CHOICES.get(name, (value,))
        if type(value) is not type(getattr(base, name)) or value not in allowed:
            wanted = allowed if name in _CHOICES else type(getattr(base, name)).__name__
            raise ValueError(f"array setting {name!r}: expected {wanted}, found {value!r}")
    return replace(base, **settings)
