"""From one kind of checkpoint to another, and what tools of other packages need to read one.

A kind is told by the name: ``.safetensors``, ``.zarr``, PyTorch's ``.pt``, ``.pth`` and ``.bin``
(whose pickles are read as weights only), ``.npz``; anything else is a directory with a manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from zarr_gpu.checkpoint.files import safe_open, save_file
from zarr_gpu.checkpoint.frameworks import get_torch
from zarr_gpu.checkpoint.models import shared_names
from zarr_gpu.checkpoint.opening import open_tensors
from zarr_gpu.checkpoint.steps import save
from zarr_gpu.errors import CheckpointError
from zarr_gpu.stores.safetensors import SafetensorsStore
from zarr_gpu.stores.tensor_files import TensorFiles

TORCH = (".pt", ".pth", ".bin", ".ckpt")


def load_tensors(path: Any, framework: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """All tensors of a checkpoint of any kind by name, and its metadata.

    Raises CheckpointError for a ``.pt`` file that holds more than weights.
    """
    text = os.fspath(path)
    if text.endswith(TORCH):
        return load_torch(text), {}
    if text.endswith(".npz"):
        import numpy as np

        with np.load(text, allow_pickle=False) as arrays:
            return dict(arrays), {}
    with safe_open(path, framework) as file:
        return file.get_tensors(), file.metadata()


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


def convert(source: Any, target: Any, *, compression: str | None = None) -> int:
    """Store the tensors of ``source`` as another kind; returns their number.

    ``compression``: of a ``.zarr`` target: ``auto`` (the default), ``zstd`` or ``none``.
    """
    text = os.fspath(target)
    framework = "pt" if os.fspath(source).endswith(TORCH) or text.endswith(TORCH) else "np"
    tensors, metadata = load_tensors(source, framework)
    if compression is not None and not text.endswith(".zarr"):
        raise ValueError(f"compression is for targets that end in .zarr, not {text!r}")
    if text.endswith(".safetensors"):
        kept, aliases = shared_names(tensors)
        save_file(kept, target, {**metadata, **aliases})
    elif text.endswith(".zarr"):
        kept, _ = shared_names(tensors)
        save_file(kept, target, metadata, compression=compression or "auto")
    elif text.endswith(TORCH):
        get_torch().module.save(tensors, text)
    elif text.endswith(".npz"):
        import numpy as np

        np.savez(text, **tensors)
    else:
        save(tensors, target, metadata=metadata, overwrite=True)
    return len(tensors)


def references(path: Any) -> dict[str, Any]:
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
    for i, key in enumerate(chunks):
        if located.path[i] is None:
            raise CheckpointError(f"{path!r} is not on this machine")
        found[key] = [located.path[i], int(located.offset[i]), int(located.nbytes[i])]
    store.close()
    return {"version": 1, "refs": {"zarr.json": json.dumps(root), **found}}
