"""From one kind of checkpoint to another, and what tools of other packages need to read one.

A kind is told by the name: ``.safetensors``, ``.zarr``, PyTorch's ``.pt``, ``.pth`` and ``.bin``
(whose pickles are read as weights only), ``.npz``; anything else is a directory with a manifest.
"""

from __future__ import annotations

# ruff: noqa: PTH104, PTH112, PTH120 - paths stay text
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from zarr_gpu.checkpoint.arrays import save_arrays
from zarr_gpu.checkpoint.files import check_metadata, safe_open
from zarr_gpu.checkpoint.frameworks import get_torch
from zarr_gpu.checkpoint.models import shared_names
from zarr_gpu.checkpoint.opening import open_tensors, place_of_file
from zarr_gpu.checkpoint.saving import Source, source, write_file
from zarr_gpu.checkpoint.steps import folder_store, read_manifest, save
from zarr_gpu.errors import CheckpointError
from zarr_gpu.metadata.safetensors import tensor_nbytes
from zarr_gpu.stores.publishing import appearing, remove, temporary_in
from zarr_gpu.stores.safetensors import SafetensorsStore
from zarr_gpu.stores.tensor_files import TensorFiles

TORCH = (".pt", ".pth", ".bin", ".ckpt")
READ_NBYTES = 64 << 20
"""Read by one plan where somebody wants to know how far it is."""


def load_tensors(
    path: Any, framework: str | None = None, *, progress: Any = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """All tensors of a checkpoint of any kind by name, and its metadata.

    ``progress``: as of :mod:`zarr_gpu.tools.progress`. Raises CheckpointError for a ``.pt`` file
    that holds more than weights.
    """
    text = os.fspath(path)
    if text.endswith(TORCH):
        return load_torch(text), {}
    if text.endswith(".npz"):
        import numpy as np

        with np.load(text, allow_pickle=False) as arrays:
            return dict(arrays), {}
    with safe_open(path, framework) as file:
        if progress is None:
            return file.get_tensors(), file.metadata()
        sizes = {}
        for name in file.offset_keys():
            described = file.describe(name)
            sizes[name] = tensor_nbytes(described.code, described.shape)
        found: dict[str, Any] = {}
        with _part(progress, "read", sum(sizes.values())):
            for names in _together(sizes):
                found |= file.get_tensors(names)
                progress.advance(sum(sizes[name] for name in names))
        return {name: found[name] for name in file}, file.metadata()


def _together(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names of tensors that are read by one plan."""
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        names.append(name)
        total += size
        if total >= READ_NBYTES:
            yield names
            names, total = [], 0
    if names:
        yield names


@contextmanager
def _part(progress: Any, what: str, total: int, unit: str = "B") -> Iterator[None]:
    if progress is None:
        yield
        return
    progress.begin(what, total, unit)
    try:
        yield
    finally:
        progress.end()


def load_torch(path: str) -> dict[str, Any]:
    """Tensors of a file of ``torch.save`` by their paths in it. No code in the file is run."""
    import pickle

    torch = get_torch().module
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path!r} holds more than weights, and is not read: {error}"
        ) from None
    found: dict[str, Any] = {}
    _collect(state, "", found)
    if not found:
        raise CheckpointError(f"{path!r} holds no tensors")
    return found


def _collect(value: Any, name: str, found: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _collect(item, f"{name}.{key}" if name else str(key), found)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _collect(item, f"{name}.{i}" if name else str(i), found)
    elif hasattr(value, "data_ptr"):
        found[name] = value


def convert(path: Any, target: Any, *, compression: str | None = None, progress: Any = None) -> int:
    """Store the tensors of ``path`` as another kind; returns their number.

    ``compression``: of a ``.zarr`` target: ``auto`` (the default), ``zstd`` or ``none``. What was
    at ``target`` is there until the new one is whole (but for URLs ending in .zarr). ``progress``:
    as of :mod:`zarr_gpu.tools.progress`.
    """
    text = os.fspath(target)
    framework = "pt" if os.fspath(path).endswith(TORCH) or text.endswith(TORCH) else "np"
    if compression is not None and not text.endswith(".zarr"):
        raise ValueError(f"compression is for targets that end in .zarr, not {text!r}")
    tensors, metadata = load_tensors(path, framework, progress=progress)
    kept, aliases = shared_names(tensors)
    if text.endswith(".safetensors"):
        sources = _sources(kept, progress)
        store, key = place_of_file(target)
        # Each is asked for twice, as it is checksummed first.
        with _part(progress, "write", 2 * sum(s.nbytes for s in sources)):
            write_file(store, key, sources, check_metadata({**metadata, **aliases}))
    elif text.endswith(".zarr"):
        sources = _sources(kept, progress)
        with (
            _appearing_folder(text) as folder,
            _part(progress, "write", sum(s.nbytes for s in sources)),
        ):
            save_arrays(
                folder, sources, check_metadata(metadata),
                compression=compression or "auto", link=None, checksum=True,
            )  # fmt: skip
    elif text.endswith((*TORCH, ".npz")):
        with appearing(text, overwrite=True) as unfinished, _part(progress, "write", 0):
            _write_other(text, unfinished, tensors, progress)
    else:
        with _part(progress, "write", 0):
            save(tensors, target, metadata=metadata, overwrite=True)
    return len(tensors)


def is_there(target: str) -> bool:
    """Whether :func:`convert` would replace something on this machine.

    A directory counts when it is a checkpoint, and not when a save into it was interrupted.
    """
    if "://" in target or not os.path.lexists(target):
        return False
    if os.path.isdir(target) and not target.endswith(".zarr"):
        return read_manifest(folder_store(target), required=False) is not None
    return True


def _sources(tensors: Mapping[str, Any], progress: Any) -> list[Source]:
    """What is written, telling ``progress`` when it is asked for."""
    sources = [source(name, tensor) for name, tensor in tensors.items()]
    if progress is None:
        return sources

    def told(one: Source) -> Callable[[], memoryview]:
        def memory() -> memoryview:
            progress.advance(one.nbytes)
            return one.memory()

        return memory

    return [replace(one, memory=told(one)) for one in sources]


def _write_other(text: str, unfinished: str, tensors: dict[str, Any], progress: Any) -> None:
    """Files of PyTorch and NumPy."""
    if text.endswith(TORCH):
        get_torch().module.save(tensors, unfinished)
        return
    import zipfile

    import numpy as np

    with zipfile.ZipFile(unfinished, "w", allowZip64=True) as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                values = np.asanyarray(tensor)
                np.lib.format.write_array(file, values, allow_pickle=False)
            if progress is not None:
                progress.advance(values.nbytes)


@contextmanager
def _appearing_folder(path: str) -> Iterator[str]:
    """A directory that has its name once it is whole; a URL is what it is."""
    if "://" in path:
        yield path
        return
    path = path.rstrip("/")
    unfinished, old = f"{path}.unfinished", f"{path}.old"
    aside = temporary_in(os.path.dirname(path) or ".")
    remove(unfinished, aside)
    try:
        yield unfinished
        if os.path.lexists(path):
            remove(old, aside)
            os.rename(path, old)
        os.rename(unfinished, path)
    except BaseException:
        remove(unfinished, aside)
        raise
    remove(old, aside)


def references(path: Any, *, progress: Any = None) -> dict[str, Any]:
    """Documents and ranges of the files, for ``fsspec``'s file system ``reference``.

    zarr-python and xarray open them without this package: kerchunk's specification, version 1.
    """
    files = open_tensors(path)
    if not isinstance(files, TensorFiles):
        raise CheckpointError(f"{path!r} is a Zarr hierarchy already")
    store = SafetensorsStore(files.store, files.keys, files=files)
    keys = [key for key in store.list_prefix() if key != "zarr.json"]
    chunks = [key for key in keys if not key.endswith("/zarr.json")]
    found: dict[str, Any] = {}
    members = {}
    for key in keys:
        if key.endswith("/zarr.json"):
            document = json.loads(bytes(store.get(key) or b""))
            members[key.removesuffix("/zarr.json")] = document
            found[key] = json.dumps(document)
    root = json.loads(bytes(store.get("zarr.json") or b""))
    root["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": members,
    }
    located = store.locate(chunks)
    with _part(progress, "references", len(chunks), "chunks"):
        for i, key in enumerate(chunks):
            if located.path[i] is None:
                raise CheckpointError(f"{path!r} is not on this machine")
            found[key] = [located.path[i], int(located.offset[i]), int(located.nbytes[i])]
            if progress is not None:
                progress.advance(1)
    store.close()
    return {"version": 1, "refs": {"zarr.json": json.dumps(root), **found}}
