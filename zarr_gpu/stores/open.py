"""From what users write to a store: paths, URLs, mappings, zip files and foreign stores.

Knows every store and no Zarr.

>>> make_store({})
(MemoryStore(0 objects), '')
"""

# ruff: noqa: PTH112, PTH113, PTH118, PTH119 - paths stay text

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TypeAlias

from zarr_gpu.stores.base import Store, check_key

TENSOR_FILES = (".safetensors", ".safetensors.index.json")
_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")
TENSOR_FILES_OF_MODELS = ("checkpoint.json", "model.safetensors.index.json", "model.safetensors")
"""What our checkpoints and directories of Hugging Face hold."""
StoreLike: TypeAlias = Store | str | os.PathLike[str] | MutableMapping[str, bytes] | Any
_ZIP_MODES: Mapping[str | None, Literal["r", "a", "w", "x"]] = {
    None: "r", "r": "r", "r+": "a", "a": "a", "w": "w", "w-": "x",
}  # fmt: skip


def make_store(
    store: StoreLike = None,
    *,
    mode: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    read_only: bool | None = None,
    tensors: bool = True,
) -> tuple[Store, str]:
    """The store that ``store`` stands for, and the path inside it ("" for the root).

    ``store``: a :class:`Store`; a path; a URL (``file://`` is a path, the rest is fsspec's); the
    path of a zip file (ending in ``.zip``); a safetensors file, an index of several, or a
    directory with one of them (read-only); a mapping; None for a new store in memory; an
    ``fsspec.mapping.FSMap``; a store or ``StorePath`` of zarr-python. ``mode`` "r" makes the store
    read-only unless ``read_only`` says otherwise; without ``tensors``, safetensors files are just
    files. Raises TypeError for anything else, and for
    ``storage_options`` without a URL.
    """
    if read_only is None:
        read_only = mode == "r"
    is_url = isinstance(store, str) and "://" in store
    if storage_options and not is_url:
        raise TypeError(f"storage_options are for URLs, not for {type(store).__name__} {store!r}")
    if isinstance(store, str) and is_url and not store.startswith("file://"):
        from zarr_gpu.stores.fsspec import FsspecStore

        if tensors and store.endswith(TENSOR_FILES):
            folder, _, name = store.rpartition("/")
            files = FsspecStore.from_url(folder, storage_options, read_only=True)
            return _tensors(files, name), ""
        return FsspecStore.from_url(store, storage_options, read_only=read_only), ""
    if isinstance(store, str | os.PathLike):
        return _from_path(os.fspath(store), mode, read_only, tensors=tensors), ""
    result, path = _from_object(store)
    if read_only and not result.read_only:
        result = result.with_read_only()
    return result, path


def _from_path(path: str, mode: str | None, read_only: bool, *, tensors: bool) -> Store:
    if path.startswith("file://"):
        from urllib.parse import unquote, urlsplit  # slow to import

        path = unquote(urlsplit(path).path)
    if not path:
        raise ValueError("the path of the store is empty")
    if path.endswith(".zip"):
        creates = mode in ("w", "w-", "a") and not os.path.isdir(path)
        if creates or os.path.isfile(path):
            from zarr_gpu.stores.zip import ZipStore

            return ZipStore(path, "r" if read_only else _ZIP_MODES[mode])
    from zarr_gpu.stores.local import LocalStore

    if tensors and mode not in ("w", "w-"):
        name = _tensor_file(path)
        if name:
            # Links to other folders are how the cache of Hugging Face names its files.
            folder = path[: len(path) - len(name)] if path.endswith(name) else path
            return _tensors(LocalStore(folder or ".", read_only=True, follow_symlinks=True), name)
    return LocalStore(path, read_only=read_only)


def _tensor_file(path: str) -> str:
    """The name of a safetensors file, or of an index of several, that ``path`` stands for.

    A directory that holds such files is none where it is a Zarr group as well.
    """
    if path.endswith(TENSOR_FILES):
        return os.path.basename(path) if os.path.isfile(path) else ""
    if any(os.path.lexists(os.path.join(path, name)) for name in _DOCUMENTS):
        return ""
    for name in TENSOR_FILES_OF_MODELS:
        file = os.path.join(path, name)
        if os.path.isfile(file) and (name != "checkpoint.json" or _is_ours(file)):
            return name
    return ""


def _is_ours(manifest: str) -> bool:
    """Other programs have files of this name, too."""
    with open(manifest, "rb") as file:  # noqa: PTH123 - paths stay text
        return file.read(64).startswith(b'{"zarr_gpu_checkpoint"')


def _tensors(files: Store, name: str) -> Store:
    from zarr_gpu.stores.safetensors import SafetensorsStore

    return SafetensorsStore(files, name)


def _from_object(store: Any) -> tuple[Store, str]:
    if isinstance(store, Store):
        return store, ""
    if _is_a(store, "fsspec.mapping", "FSMap"):
        from zarr_gpu.stores.fsspec import FsspecStore

        return FsspecStore(store.fs, store.root), ""
    if _is_a(store, "zarr.storage", "StorePath"):
        path = store.path.strip("/")
        return _from_object(store.store)[0], check_key(path) if path else ""
    if type(store) is getattr(sys.modules.get("zarr.storage"), "LocalStore", None):
        from zarr_gpu.stores.local import LocalStore

        return LocalStore(store.root, read_only=store.read_only, follow_symlinks=True), ""
    if _is_a(store, "zarr.abc.store", "Store"):
        from zarr_gpu.stores.zarr_python import ZarrPythonStore

        return ZarrPythonStore(store), ""
    if store is None or isinstance(store, MutableMapping):
        from zarr_gpu.stores.memory import MemoryStore

        return MemoryStore(store), ""
    raise TypeError(
        f"a store is a path, URL, mapping, Store, FSMap or store of zarr-python, "
        f"not {type(store).__name__}"
    )


def _is_a(value: Any, module: str, name: str) -> bool:
    """``isinstance`` without importing: a value of a class implies that its module is loaded."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)
