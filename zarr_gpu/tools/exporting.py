"""Arrays and hierarchies as other kinds of files: NumPy's, HDF5, netCDF and ``.safetensors``.

A file is written under the name ``FILE.unfinished`` (``.safetensors``: a name that begins with
``.zg-``) and renamed when it is whole. Such a job starts anew after an interruption.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from zarr_gpu.array import Array
from zarr_gpu.config import config
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.group import Group
from zarr_gpu.stores.publishing import appearing, check_free
from zarr_gpu.tools import netcdf
from zarr_gpu.tools.files import get_h5py
from zarr_gpu.tools.formats import DIMENSIONS
from zarr_gpu.tools.keys import check_members
from zarr_gpu.tools.layouts import names_of
from zarr_gpu.tools.planning import Pass, TooLargeError, plan_pass
from zarr_gpu.tools.progress import Progress
from zarr_gpu.tools.targets import check_file_apart
from zarr_gpu.tools.transfer import COPIES, Report, itemsize, source_grid

KINDS = (".npy", ".npz", ".h5", ".hdf5", *netcdf.KINDS, ".safetensors")


def is_export(path: Any) -> bool:
    """True for names of files that :func:`export` writes."""
    return isinstance(path, str | os.PathLike) and os.fspath(path).lower().endswith(KINDS)


def export(
    node: Array | Group, path: str, *, memory: int, overwrite: bool, progress: Progress
) -> Report:
    """Write a node as a file.

    Raises ContainsNodeError, UnsupportedError, MissingDependencyError.
    """
    if "://" in path:
        raise UnsupportedError(f"{path}: files of this kind are written to this machine only")
    check_file_apart(path, node.store_path)
    arrays = _arrays(node)
    suffix = Path(path).suffix.lower()
    writers: Mapping[str, Callable[..., None]] = {
        ".npy": _npy,
        ".npz": _npz,
        ".h5": _hdf5,
        ".hdf5": _hdf5,
        ".nc": _netcdf,
        ".nc4": _netcdf,
    }
    if suffix == ".safetensors":  # its writer does the same by itself
        check_free(path, overwrite=overwrite)
        _safetensors(node, arrays, Path(path), progress)
    else:
        with appearing(path, overwrite=overwrite, sync=config.current.durable) as unfinished:
            writers[suffix](node, arrays, Path(unfinished), memory, progress)
    nbytes = sum(array.nbytes for array in arrays.values())
    return Report(
        arrays=len(arrays), nbytes=nbytes, resumed=False, notes=_notes(node, arrays, suffix)
    )


def _notes(node: Array | Group, arrays: Mapping[str, Array], suffix: str) -> tuple[str, ...]:
    """What a kind of file has no place for."""
    if suffix in (".h5", ".hdf5", *netcdf.KINDS):
        return ()
    lost = sum(bool(array.metadata.attributes) for array in arrays.values())
    text = f"{suffix} has no place for attributes: those of {{}} are left out"
    names = f"{lost} {'array' if lost == 1 else 'arrays'}"
    if isinstance(node, Group) and suffix != ".safetensors" and node.metadata.attributes:
        names = f"the group and {names}" if lost else "the group"
        lost += 1
    return (text.format(names),) if lost else ()


def _arrays(node: Array | Group) -> dict[str, Array]:
    if isinstance(node, Array):
        return {node.basename or "data": node}
    check_members(node)
    return {path: a for path, a in node.members(max_depth=None) if isinstance(a, Array)}


def _blocks(array: Array, memory: int) -> Pass:
    """Whole chunks within the memory allowed, or one chunk."""
    grid = source_grid(array)
    most = max(1, memory // (COPIES * itemsize(array.metadata)))
    try:
        return plan_pass(grid, grid, most)
    except TooLargeError as error:
        return plan_pass(grid, grid, error.needed)


def _check_numpy(array: Array, kind: str) -> None:
    dtype = array.dtype
    if dtype.hasobject or dtype.kind == "T":
        raise UnsupportedError(f"array {array.name!r}: {kind} cannot hold elements of {dtype}")
    if not dtype.type.__module__.startswith("numpy"):
        raise UnsupportedError(
            f"array {array.name!r}: {kind} would forget the type {dtype}; .safetensors keeps it"
        )


def _npy(
    node: Array | Group, arrays: dict[str, Array], path: Path, memory: int, progress: Progress
) -> None:
    if not isinstance(node, Array):
        raise UnsupportedError("a group has several arrays: use .npz, or name one of them")
    _check_numpy(node, ".npy")
    if not node.size or not node.shape:
        with path.open("wb") as file:
            np.save(file, np.asarray(node), allow_pickle=False)
        return
    header: Any = {"mode": "w+", "dtype": node.dtype, "shape": node.shape}
    np.lib.format.open_memmap(path, **header)
    _reserve(path)  # a full disk is an error now, and would end the process later
    out = np.lib.format.open_memmap(path, "r+")
    _copy(node, out, memory, progress)
    out.flush()


def _reserve(path: Path) -> None:
    """Give a sparse file its blocks."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _copy(array: Array, out: Any, memory: int, progress: Progress) -> None:
    plan = _blocks(array, memory)
    progress.begin(array.path or "array", array.nbytes)
    try:
        for region in plan.regions():
            out[region] = array[region]
            progress.advance(_nbytes(region, array))
    finally:
        progress.end()


def _nbytes(region: tuple[slice, ...], array: Array) -> int:
    elements: int = math.prod(part.stop - part.start for part in region)
    return elements * array.itemsize


def _npz(
    node: Array | Group, arrays: dict[str, Array], path: Path, memory: int, progress: Progress
) -> None:
    for array in arrays.values():
        _check_numpy(array, ".npz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(member, "w", force_zip64=True) as file:
                header: dict[str, Any] = {
                    "descr": np.lib.format.dtype_to_descr(array.dtype),
                    "fortran_order": False,
                    "shape": array.shape,
                }
                np.lib.format.write_array_header_2_0(file, header)
                progress.begin(name, array.nbytes)
                try:
                    for rows in _slabs(array, memory):
                        values = np.asarray(array[rows])
                        file.write(np.ascontiguousarray(values).tobytes())
                        progress.advance(values.nbytes)
                finally:
                    progress.end()


def _slabs(array: Array, memory: int) -> Iterator[tuple[Any, ...]]:
    """Regions that follow each other in C order: whole chunks of rows, where they fit."""
    most = max(1, memory // (COPIES * array.itemsize))
    split = next(
        (d for d in range(array.ndim) if math.prod(array.shape[d + 1 :]) <= most), array.ndim
    )
    if split == array.ndim:
        yield ()
        return
    chunk = max(array.read_chunk_sizes[split], default=1)
    fits = max(1, most // max(1, math.prod(array.shape[split + 1 :])))
    step = fits // chunk * chunk or fits
    n = array.shape[split]
    for before in np.ndindex(array.shape[:split]):
        for start in range(0, n, step):
            yield (*before, slice(start, min(n, start + step)))


# -- HDF5 -----------------------------------------------------------------------------------------


def _hdf5(
    node: Array | Group, arrays: dict[str, Array], path: Path, memory: int, progress: Progress
) -> None:
    h5py = get_h5py()
    with _forgiving(path) as stream, h5py.File(stream, "w") as file:
        _fill_hdf5(h5py, file, node, arrays, stream, memory, progress)


def _netcdf(
    node: Array | Group, arrays: dict[str, Array], path: Path, memory: int, progress: Progress
) -> None:
    with _forgiving(path) as stream:

        def copy(array: Array, out: Any) -> None:
            _copy(array, out, memory, progress)
            stream.check()

        netcdf.write(stream, node, arrays, copy)


@contextmanager
def _forgiving(path: Path) -> Iterator[_Forgiving]:
    with path.open("r+b", buffering=0) as raw:
        stream = _Forgiving(raw)
        try:
            yield stream
        finally:
            stream.check()


def _fill_hdf5(
    h5py: Any,
    file: Any,
    node: Array | Group,
    arrays: dict[str, Array],
    forgiving: _Forgiving,
    memory: int,
    progress: Progress,
) -> None:
    if isinstance(node, Group):
        _put_attributes(file, node.attrs.asdict())
        for name, child in node.members(max_depth=None):
            if isinstance(child, Group):
                _put_attributes(file.require_group(name), child.attrs.asdict())
    for name, array in arrays.items():
        _data_set(h5py, file, name, array)
        _copy(array, file[name], memory, progress)
        forgiving.check()
    for name, array in arrays.items():
        _dimensions(file, name, array)


class _Forgiving:
    """A file that keeps its errors to itself, as the HDF5 library ends the process over them.

    On a full disk it cannot write what it holds, not even to close the file.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._error: OSError | None = None
        for name in ("read", "readinto", "seek", "tell", "truncate"):
            setattr(self, name, getattr(file, name))

    def write(self, data: Any) -> int:
        """All of it, or so it seems."""
        view = rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = self._error or error
        return len(view)

    def flush(self) -> None:
        """To the operating system."""
        try:
            self._file.flush()
        except OSError as error:
            self._error = self._error or error

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error


def _data_set(h5py: Any, file: Any, name: str, array: Array) -> None:
    dtype: Any = array.dtype
    if array.metadata.data_type.kind == "string":
        dtype = h5py.string_dtype()
    elif dtype.kind in "mMU" or dtype.hasobject or not dtype.type.__module__.startswith("numpy"):
        raise UnsupportedError(f"array {array.name!r}: HDF5 cannot hold elements of {dtype}")
    chunks = None
    if array.shape and array.size:
        sizes = [axis.extent(np.zeros((), np.int64)) for axis in source_grid(array)]
        chunks = tuple(max(1, min(int(c), n)) for c, n in zip(sizes, array.shape, strict=True))
    fill = array.fill_value
    file.create_dataset(
        name,
        array.shape,
        dtype,
        chunks=chunks,
        compression="gzip" if chunks and array.compressors else None,
        shuffle=bool(chunks and array.compressors) or None,
        fillvalue=fill if fill is not None and dtype is array.dtype else None,
    )
    attributes = {k: v for k, v in array.attrs.asdict().items() if k != DIMENSIONS}
    _put_attributes(file[name], attributes)


def _put_attributes(item: Any, attributes: Mapping[str, Any]) -> None:
    h5py = get_h5py()
    for key, value in attributes.items():
        texts = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
        try:
            if texts:
                item.attrs.create(key, value, dtype=h5py.string_dtype())
            else:
                item.attrs[key] = "" if value is None else value
        except (TypeError, ValueError):  # lists of several types and objects
            item.attrs[key] = json.dumps(value)
        except (OSError, RuntimeError) as error:
            raise UnsupportedError(f"{item.name}: attribute {key!r}: {error}") from None


def _dimensions(file: Any, name: str, array: Array) -> None:
    """Labels, and scales where an array of one axis has a dimension's name, as netCDF does it."""
    folder = name.rpartition("/")[0]
    for number, dimension in enumerate(names_of(array)):
        if dimension is None:
            continue
        file[name].dims[number].label = dimension
        scale = f"{folder}/{dimension}" if folder else dimension
        if scale in file and hasattr(file[scale], "shape") and file[scale].ndim == 1:
            if not file[scale].is_scale:
                file[scale].make_scale(dimension)
            if scale != name:
                file[name].dims[number].attach_scale(file[scale])


# -- safetensors ----------------------------------------------------------------------------------


def _safetensors(
    node: Array | Group, arrays: dict[str, Array], path: Path, progress: Progress
) -> None:
    """One tensor in memory at a time."""
    from dataclasses import replace

    from zarr_gpu.checkpoint.saving import source, write_file
    from zarr_gpu.stores.local import LocalStore

    sources = []
    for name, array in arrays.items():
        if array.dtype.hasobject or array.dtype.kind in "TUSmM" or array.dtype.names is not None:
            raise UnsupportedError(
                f"array {array.name!r}: safetensors cannot hold elements of {array.dtype}"
            )
        shaped = np.broadcast_to(np.zeros((), array.dtype), array.shape)
        sources.append(replace(source(_tensor_name(name), shaped), memory=_memory(array, progress)))
    metadata = {key: value for key, value in node.attrs.asdict().items() if isinstance(value, str)}
    write_file(LocalStore(path.parent), path.name, sources, metadata)


def _tensor_name(path: str) -> str:
    """The name a tensor had: those that no node can have are stored escaped."""
    from urllib.parse import unquote

    from zarr_gpu.stores.safetensors import node_name

    name = unquote(path)
    return name if node_name(name) == path else path


def _memory(array: Array, progress: Progress) -> Callable[[], memoryview]:
    def read() -> memoryview:
        progress.begin(array.path or "array", array.nbytes)
        try:
            values = np.ascontiguousarray(np.asarray(array))
            progress.advance(array.nbytes)
        finally:
            progress.end()
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        return memoryview(little.reshape(-1).view(np.uint8))

    return read
