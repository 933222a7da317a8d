"""Where a job writes: a place in a store, or a zip file that appears when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zarr_gpu.config import config
from zarr_gpu.creating import overlap
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.nodes import StorePath
from zarr_gpu.places import find_place
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.publishing import appearing


@contextmanager
def opened_target(
    target: Any,
    path: str | None,
    storage_options: Mapping[str, Any] | None,
    *,
    overwrite: bool,
) -> Iterator[StorePath]:
    """A writable place for ``target``; a new zip file is renamed to its name at the end.

    Raises ContainsNodeError for a zip file that exists, unless ``overwrite``.
    """
    if isinstance(target, str | os.PathLike) and os.fspath(target).endswith(".zip"):
        file = os.fspath(target)
        if "://" not in file and not Path(file).is_dir():
            with _new_zip(file, overwrite=overwrite) as store:
                yield StorePath(store, path or "")
            return
    place = find_place(target, path, "a", storage_options)
    if not place.store.supports_deletes and not place.store.read_only:
        raise UnsupportedError(
            f"{place.store!r} cannot delete, so a job cannot be gone on with there; "
            "give the path of a new zip file"
        )
    yield place
    if not isinstance(target, Store | StorePath):
        place.store.close()


def check_apart(place: StorePath, source: StorePath) -> None:
    """ValueError when one of two nodes is the other or lies in it, through whatever stores."""
    both = _absolute(place), _absolute(source)
    if None not in both:
        a, b = (f"{path}/" for path in both)
        inside = a.startswith(b) or b.startswith(a)
    else:
        inside = overlap(place, source)
    if inside:
        raise ValueError(f"{place} lies in the source, {source}, or the other way round")


def _absolute(place: StorePath) -> str | None:
    """The directory or file that holds a node on this machine."""
    store = place.store
    if isinstance(store, LocalStore):
        return os.path.realpath(f"{store.root}/{place.path}")
    file = getattr(store, "path", None)
    if store.local and isinstance(file, str) and Path(file).is_file():  # a zip file
        return f"{os.path.realpath(file)}/{place.path}".rstrip("/")
    return None


def check_file_apart(file: str, source: StorePath) -> None:
    """ValueError when a file that is to be written would lie in the directory that is read."""
    inside = _absolute(source)
    if inside is not None and f"{os.path.realpath(file)}".startswith(f"{inside}/"):
        raise ValueError(f"{file} lies in the source, {source}")


@contextmanager
def _new_zip(file: str, *, overwrite: bool) -> Iterator[Store]:
    from zarr_gpu.stores.zip import ZipStore

    with appearing(file, overwrite=overwrite, sync=config.current.durable) as unfinished:
        store = ZipStore(unfinished, "w")
        try:
            yield store
        finally:
            store.close()


@contextmanager
def changed_place(
    target: Any, path: str | None, mode: str, storage_options: Mapping[str, Any] | None
) -> Iterator[StorePath]:
    """A place for small changes; a zip file is replaced, in the end, by a changed copy of itself.

    What is added to a zip file overwrites its directory, so that a process that is killed meanwhile
    would take the whole file with it.
    """
    file = os.fspath(target) if isinstance(target, str | os.PathLike) else ""
    there = Path(file).is_file()
    if not file.endswith(".zip") or "://" in file or not (there or mode == "a"):
        yield find_place(target, path, mode, storage_options)
        return
    from zarr_gpu.stores.zip import ZipStore

    with appearing(file, overwrite=True, sync=config.current.durable) as unfinished:
        if there:
            shutil.copyfile(file, unfinished)
        store = ZipStore(unfinished, "a")
        try:
            yield find_place(store, path, mode, None)
        finally:
            store.close()
