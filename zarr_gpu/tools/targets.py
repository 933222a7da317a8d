"""Where a job writes: a place in a store, or a zip file that appears when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zarr_gpu.creating import overlap
from zarr_gpu.errors import ContainsNodeError, UnsupportedError
from zarr_gpu.nodes import StorePath
from zarr_gpu.places import find_place
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.local import LocalStore


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
    """The directory of a node on this machine."""
    store = place.store
    return f"{store.root}/{place.path}".rstrip("/") if isinstance(store, LocalStore) else None


@contextmanager
def _new_zip(file: str, *, overwrite: bool) -> Iterator[Store]:
    from zarr_gpu.stores.zip import ZipStore

    if Path(file).exists() and not overwrite:
        raise ContainsNodeError(f"{file} exists; overwrite (--overwrite) replaces it")
    unfinished = f"{file}.unfinished"
    with suppress(FileNotFoundError):
        Path(unfinished).unlink()
    store = ZipStore(unfinished, "w")
    try:
        yield store
        store.close()
        Path(unfinished).replace(file)
    except BaseException:
        store.close()
        with suppress(FileNotFoundError):
            Path(unfinished).unlink()
        raise
