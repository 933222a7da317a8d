"""What a path stands for: safetensors files, or arrays of a Zarr hierarchy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zarr_gpu.api import open_group
from zarr_gpu.checkpoint import saving
from zarr_gpu.checkpoint.arrays import ArrayTensors
from zarr_gpu.checkpoint.described import LOGICAL
from zarr_gpu.errors import CheckpointError, GroupNotFoundError, MetadataError
from zarr_gpu.group import Group
from zarr_gpu.metadata.json import load
from zarr_gpu.nodes import StorePath, read_group
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.open import make_store
from zarr_gpu.stores.safetensors import SafetensorsStore
from zarr_gpu.stores.tensor_files import TensorFiles


def place_of_file(path: Any) -> tuple[Store, str]:
    """Store and key of a file to be written."""
    text = os.fspath(path)
    folder, _, name = text.replace(os.sep, "/").rpartition("/")
    if not name:
        raise ValueError(f"{text!r} is no path of a file")
    if "/" in text and not folder:
        folder = "/"
    return make_store(folder or ".", tensors=False)[0], name


def open_tensors(path: Any, device: str | None = None) -> TensorFiles | ArrayTensors:
    """What ``path`` stands for: see :class:`safe_open`. Arrays are decoded on ``device``."""
    if isinstance(path, TensorFiles | ArrayTensors):
        return path
    if isinstance(path, Group):
        return ArrayTensors.of_group(path)
    if isinstance(path, (list, tuple)):
        places = [place_of_file(one) for one in path]
        if not places:
            raise ValueError("no files")
        if any(store.identity != places[0][0].identity for store, _ in places):
            raise ValueError("the files have to be in one directory")
        return TensorFiles(places[0][0], [key for _, key in places])
    store, _ = make_store(path, mode="r")
    if not isinstance(store, SafetensorsStore):
        if isinstance(path, str | os.PathLike) and not os.path.lexists(path):
            raise FileNotFoundError(f"no file or directory {os.fspath(path)!r}")
        try:
            return ArrayTensors.of_group(open_group(store, mode="r", device=device))
        except GroupNotFoundError:
            arrays = ArrayTensors.of_directory(store, device)
            if arrays is not None:
                return arrays
            raise CheckpointError(
                f"{path!r} is no safetensors file, no directory with one, and no Zarr group"
            ) from None
    return store.files


def open_face(files: TensorFiles, *, device: str | None = None) -> Group:
    """Opened files as a group of arrays."""
    store = SafetensorsStore(files.store, files.keys, files=files)
    return Group(StorePath(store), read_group(store, ""), device=device)


def logical_types(files: TensorFiles) -> dict[str, str]:
    """Types that the format lacks, by the tensor's name. Raises MetadataError."""
    found: dict[str, str] = {}
    for key, header in zip(files.keys, files.headers, strict=True):
        text = header.metadata.get(saving.TYPE_NAMES)
        if text is not None:
            found.update(_types_of_file(files, load(text.encode(), f"{key}: {saving.TYPE_NAMES}")))
    return found


def _types_of_file(files: TensorFiles, types: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part, logical in types.items():
        name = files.whole_name(part)
        if name not in files:
            continue
        expected = LOGICAL.get(logical) if isinstance(logical, str) else None
        tensor = files[name]
        n = 0 if expected is None else len(tensor.shape) - len(expected[1])
        if expected is None or n < 0 or (tensor.code, tensor.shape[n:]) != expected:
            raise MetadataError(f"{saving.TYPE_NAMES}: {name!r} cannot be {logical!r}")
        found[name] = logical
    return found
