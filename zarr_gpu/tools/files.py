"""Other kinds of files as sources of a conversion: ``.npy``, ``.npz``, HDF5 and netCDF-4.

Nothing is read but what a block needs: files of NumPy are mapped (compressed members of ``.npz``
are unpacked into a temporary file first), data sets of HDF5 are read by regions.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zarr_gpu._types import JSON, Shape
from zarr_gpu.errors import (
    MissingDependencyError,
    NodeNotFoundError,
    StoreError,
    UnsupportedError,
)

NUMPY = (".npy", ".npz")
HDF5 = (".h5", ".hdf5", ".he5", ".nc", ".nc4")
_OF_HDF5 = frozenset(
    "CLASS NAME DIMENSION_LIST REFERENCE_LIST DIMENSION_LABELS _Netcdf4Dimid _Netcdf4Coordinates "
    "_nc3_strict _NCProperties".split()
)
"""Attributes that say how HDF5 and netCDF store dimensions."""
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileArray:
    """One array in a file; ``values`` takes tuples of slices."""

    values: Any
    shape: Shape
    dtype: Any
    chunks: Shape | None = None
    attributes: dict[str, JSON] = field(default_factory=dict)
    dimension_names: tuple[str | None, ...] | None = None
    fill_value: Any = None


@dataclass(frozen=True, slots=True)
class FileTree:
    """What a file holds: arrays and attributes of groups by path; "" is the file itself."""

    arrays: dict[str, FileArray]
    groups: dict[str, dict[str, JSON]]
    notes: list[str]


def is_file_kind(path: Any) -> bool:
    """True for names of files that are no Zarr."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    return text.lower().endswith((*NUMPY, *HDF5)) and not Path(text).is_dir()


@contextmanager
def open_file(path: str) -> Iterator[FileTree]:
    """The arrays of a file.

    Raises NodeNotFoundError, MissingDependencyError, UnsupportedError, and StoreError for a file
    that is damaged.
    """
    if "://" in path:
        raise UnsupportedError(f"{path}: files of this kind are read from this machine only")
    if not Path(path).exists():
        raise NodeNotFoundError(f"{path}: no such file or directory")
    with ExitStack() as stack:
        lowered = path.lower()
        if lowered.endswith(".npy"):
            yield FileTree({"": _mapped(path)}, {}, [])
        elif lowered.endswith(".npz"):
            yield _npz(path, stack)
        else:
            yield _hdf5(path, stack)


def _mapped(path: str, offset: int = 0) -> FileArray:
    """A ``.npy`` file, or one that is stored in another file at ``offset``."""
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, by_column, dtype = read(file)
            start = file.tell()
            size = os.fstat(file.fileno()).st_size
    except (ValueError, EOFError, SyntaxError) as error:
        raise StoreError(f"{path} is no array of NumPy: {error}") from None
    if dtype.hasobject:
        raise UnsupportedError(f"{path} holds pickled objects, which are not read")
    nbytes = math.prod(shape) * dtype.itemsize
    if start + nbytes > size:
        raise StoreError(f"{path} is cut short: it has {size} bytes, not {start + nbytes}")
    values: Any
    if nbytes == 0:
        values = np.empty(shape, dtype)
    else:
        order: Any = "F" if by_column else "C"
        values = np.memmap(path, dtype, "r", start, shape or (1,), order).reshape(shape)
    return FileArray(values=values, shape=tuple(shape), dtype=dtype)


def _npz(path: str, stack: ExitStack) -> FileTree:
    arrays: dict[str, FileArray] = {}
    notes = []
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                notes.append(f"{name}: no array of NumPy; left out")
                continue
            arrays[name] = _member(path, archive, member, stack)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise StoreError(f"{path} cannot be read as .npz: {error}") from None
    groups: dict[str, dict[str, JSON]] = {"": {}}
    for name in arrays:
        parts = name.split("/")[:-1]
        groups |= {"/".join(parts[: i + 1]): {} for i in range(len(parts))}
    return FileTree(arrays, groups, notes)


def _member(
    path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, stack: ExitStack
) -> FileArray:
    """One array, read once before it is used: zipfile compares its checksum at the end."""
    with archive.open(member) as found:
        if member.compress_type == zipfile.ZIP_STORED:
            offset = found._orig_compress_start  # type: ignore[attr-defined]  # noqa: SLF001 - the only one to know
            while found.read(1 << 20):
                pass
            return _mapped(path, offset)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="zarr-gpu-"))
        unpacked = f"{folder}/array.npy"
        with Path(unpacked).open("wb") as file:
            shutil.copyfileobj(found, file, 1 << 20)
    return _mapped(unpacked)


# -- HDF5 -----------------------------------------------------------------------------------------


def get_h5py() -> Any:
    """The package h5py. Raises MissingDependencyError."""
    try:
        import h5py
    except ImportError:
        raise MissingDependencyError(
            "HDF5 files need the package h5py: pip install 'zarr-gpu[hdf5]'"
        ) from None
    return h5py


class _Texts:
    """A data set of strings of any length, as text."""

    def __init__(self, values: Any) -> None:
        self._values = values.asstr()

    def __getitem__(self, selection: Any) -> Any:
        return self._values[selection]


def _hdf5(path: str, stack: ExitStack) -> FileTree:
    h5py = get_h5py()
    try:
        file = stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read as HDF5: {error}") from None
    tree = FileTree({}, {}, [])
    _visit("", file, tree, h5py, ())
    return tree


def _visit(path: str, group: Any, tree: FileTree, h5py: Any, above: tuple[Any, ...]) -> None:
    """A group and all below it, under every name it has; links elsewhere are noted."""
    tree.groups[path] = _attributes(group, h5py, path, tree.notes)
    above = (*above, group)
    for name in group:
        at = f"{path}/{name}" if path else name
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            target = f"{getattr(link, 'filename', '')}{link.path}"
            tree.notes.append(f"{at}: a link to {target}; left out")
            continue
        item = group[name]
        if not isinstance(item, h5py.Group):
            array = _data_set(at, item, h5py, tree.notes)
            if array is not None:
                tree.arrays[at] = array
        elif item in above:
            tree.notes.append(f"{at}: a group that holds itself; left out")
        else:
            _visit(at, item, tree, h5py, above)


def is_netcdf(file: Any) -> bool:
    """True for files of netCDF-4, whatever their names are."""
    return "_NCProperties" in file.attrs


def _data_set(name: str, item: Any, h5py: Any, notes: list[str]) -> FileArray | None:
    if not isinstance(item, h5py.Dataset):
        return None
    if item.shape is None:
        notes.append(f"{name}: has no elements at all (an empty data space); left out")
        return None
    if bytes(item.attrs.get("NAME", b"")).startswith(_NO_VARIABLE):
        return None
    dtype: Any = item.dtype
    values: Any = item
    if h5py.check_string_dtype(dtype) is not None and dtype.kind == "O":
        dtype, values = str, _Texts(item)
    elif dtype.hasobject:
        notes.append(f"{name}: elements of {dtype} have no counterpart; left out")
        return None
    attributes = _attributes(item, h5py, name, notes)
    # Of netCDF only the attribute _FillValue counts; the rest is what was never written.
    fill = None if dtype is str or is_netcdf(item.file) else item.fillvalue
    return FileArray(
        values=values,
        shape=tuple(item.shape),
        dtype=dtype if dtype is str else np.dtype(dtype.str if dtype.names is None else dtype),
        chunks=item.chunks,
        attributes=attributes,
        dimension_names=_dimension_names(item, h5py),
        fill_value=fill,
    )


def _dimension_names(item: Any, h5py: Any) -> tuple[str | None, ...] | None:
    names: list[str | None] = []
    for number, dimension in enumerate(item.dims):
        scales = [scale.name.rpartition("/")[2] for scale in dimension.values() if scale.name]
        names.append(scales[0] if scales else dimension.label or None)
        if names[-1] is None and item.ndim == 1 and number == 0 and h5py.h5ds.is_scale(item.id):
            names[-1] = item.name.rpartition("/")[2]
    return tuple(names) if any(names) or not item.ndim else None  # xarray wants an empty list


def _attributes(item: Any, h5py: Any, path: str, notes: list[str]) -> dict[str, JSON]:
    out: dict[str, JSON] = {}
    for name, value in item.attrs.items():
        if name in _OF_HDF5:
            continue
        plain = _plain(value, h5py)
        if plain is ...:
            notes.append(f"{path or '/'}: attribute {name!r} has no counterpart; left out")
        else:
            out[name] = plain
    return out


def _plain(value: Any, h5py: Any) -> Any:
    """JSON for the value of an attribute, ``...`` for what has none (references)."""
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        if value.dtype.names is not None or value.dtype.kind == "V":
            return ...
        items = [_plain(v, h5py) for v in value.ravel()]
        if any(v is ... for v in items):
            return ...
        flat = np.empty(len(items), object)
        flat[:] = items
        found = flat.reshape(value.shape).tolist()
        # netCDF stores single numbers as arrays of one.
        return found[0] if value.shape == (1,) else found
    if isinstance(value, np.generic):
        if value.dtype.kind == "V":
            return ...
        value = value.item()
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value if isinstance(value, str | int | float | bool) else ...
