"""Whole states in a directory: safetensors files, and a manifest that is written last.

A directory without ``checkpoint.json`` is no checkpoint: an interrupted save leaves what was there
before. The same directory is what Hugging Face's loaders read (``model.safetensors`` or its index),
and opens as a Zarr group.

>>> import tempfile, numpy as np
>>> folder = tempfile.mkdtemp()
>>> save({"w": np.arange(3.0), "step": 7}, folder)
>>> load(folder)["step"], load(folder)["w"].tolist()
(7, [0.0, 1.0, 2.0])
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from zarr_gpu._types import JSON
from zarr_gpu.checkpoint import saving
from zarr_gpu.checkpoint.files import check_metadata, safe_open
from zarr_gpu.checkpoint.frameworks import get_framework, is_tensor
from zarr_gpu.checkpoint.tree import flatten, restore, tensor_names, update
from zarr_gpu.checkpoint.verifying import Verify
from zarr_gpu.errors import CheckpointError, ContainsNodeError
from zarr_gpu.stores.base import Store, check_key
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.open import make_store
from zarr_gpu.stores.tensor_files import INDEX, MANIFEST, MAX_LIST_NBYTES, TensorFiles

VERSION = 1
FILE_NBYTES = 5 << 30
"""A file is closed when it has this much: what loaders and object stores handle well."""


def folder_store(path: Any, *, durable: bool | None = None) -> Store:
    """The directory of a checkpoint: a path, a URL or a store."""
    if isinstance(path, Store):
        return path
    store = make_store(path, tensors=False)[0]
    if durable is not None and isinstance(store, LocalStore):
        store = LocalStore(store.root, durable=durable)
    return store


def save(
    state: Any,
    path: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    checksum: bool = True,
    durable: bool = True,
    file_nbytes: int = FILE_NBYTES,
) -> None:
    """Store a nested state of tensors, numbers and text in the directory ``path``.

    ``metadata``: text by text, into every file. ``file_nbytes``: of tensors in a file, about.
    ``durable``: the save returns when all is on the disk. Raises ContainsNodeError where a
    checkpoint is unless ``overwrite``, which replaces it in one step; TypeError, naming the path in
    the state, for what cannot be stored.
    """
    flat = flatten(state)
    save_flat(
        flat.tensors, flat.tree, folder_store(path, durable=durable), step=step, metadata=metadata,
        overwrite=overwrite, checksum=checksum, file_nbytes=file_nbytes,
    )  # fmt: skip


def save_flat(
    tensors: Mapping[str, Any],
    tree: JSON,
    store: Store,
    *,
    step: int | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    checksum: bool = True,
    file_nbytes: int = FILE_NBYTES,
) -> None:
    """:func:`save` of what was flattened before."""
    old = read_manifest(store, required=False)
    if old is not None and not overwrite:
        raise ContainsNodeError(f"a checkpoint exists in {store!r}")
    metadata = {"format": "pt", **check_metadata(metadata)}
    sources = [saving.source(name, tensor) for name, tensor in tensors.items()]
    groups = _split(sources, file_nbytes)
    # Files of a checkpoint that is replaced are used until the manifest names the new ones.
    token = "" if old is None else f"-{secrets.token_hex(4)}"
    names = [_file_name(i, len(groups), token) for i in range(len(groups))]
    files: list[JSON] = []
    for name, group in zip(names, groups, strict=True):
        nbytes = saving.write_file(store, name, group, metadata, checksum=checksum)
        files.append({"name": name, "nbytes": nbytes})
    if names != ["model.safetensors"]:
        weight_map = {s.name: name for name, g in zip(names, groups, strict=True) for s in g}
        total = sum(s.nbytes for s in sources)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        store.set(INDEX, saving.json_bytes(index))
    write_manifest(store, files, tree, step)
    for name in [] if old is None else old_files(old):
        if name not in names:
            store.delete(name)
    if names == ["model.safetensors"]:
        store.delete(INDEX)  # of a save that was interrupted


def _split(sources: list[saving.Source], most: int) -> list[list[saving.Source]]:
    """In the order given, about ``most`` bytes in each; an empty group where there are none."""
    groups: list[list[saving.Source]] = [[]]
    size = 0
    for source in sources:
        if groups[-1] and size + source.nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.nbytes
    return groups


def _file_name(i: int, n: int, token: str) -> str:
    return (
        f"model{token}.safetensors" if n == 1 else f"model{token}-{i + 1:05}-of-{n:05}.safetensors"
    )


def write_manifest(
    store: Store,
    files: list[JSON],
    tree: JSON,
    step: int | None,
    more: Mapping[str, JSON] | None = None,
) -> None:
    """What makes a directory a checkpoint."""
    document = {"zarr_gpu_checkpoint": VERSION, "step": step, "files": files, "tree": tree}
    document.update(more or {})
    store.set(MANIFEST, saving.json_bytes(document))


def read_manifest(store: Store, *, required: bool = True) -> dict[str, Any] | None:
    """Raises CheckpointError for a directory that is none, or damaged."""
    data = store.get(MANIFEST, limit=MAX_LIST_NBYTES)
    if data is None:
        if required:
            raise CheckpointError(f"no checkpoint in {store!r}: it has no {MANIFEST}")
        return None
    document = saving.parse_json(data, MANIFEST)
    files = document.get("files")
    if document.get("zarr_gpu_checkpoint") != VERSION or "tree" not in document:
        raise CheckpointError(f"{MANIFEST} of {store!r} is not of version {VERSION}")
    if not isinstance(files, list) or not all(
        isinstance(file, dict) and isinstance(file.get("name"), str) for file in files
    ):
        raise CheckpointError(f"{MANIFEST} of {store!r} lists no files")
    return document


def old_files(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the files of a manifest. Raises StoreKeyError for what is none."""
    return [check_key(file["name"]) for file in manifest["files"]]


def open_checkpoint(store: Store) -> tuple[TensorFiles, dict[str, Any]]:
    """The opened files of a checkpoint, and its manifest. Raises CheckpointError, MetadataError."""
    manifest = read_manifest(store)
    assert manifest is not None  # noqa: S101 - it is required
    return TensorFiles(store, old_files(manifest)), manifest


def load(
    path: Any,
    into: Any = None,
    *,
    device: Any = "cpu",
    framework: str | None = None,
    verify: Verify = "none",
) -> Any:
    """The state in the directory ``path``.

    ``into``: a state of the same structure; its tensors are filled in place (those on PyTorch's
    device ``meta`` are replaced), the rest of its values replaced, and it is returned. Without it,
    tensors are of the framework that saved them, or of ``framework``. All are read by one plan.
    Raises CheckpointError for a directory that is no (whole) checkpoint, for wrong checksums
    (``verify``, see :func:`load_file`), and for members of ``into`` that were not saved.
    """
    files, manifest = open_checkpoint(folder_store(path))
    tree = manifest["tree"]
    if "values" in manifest:  # saved by torch.distributed, which knows names only
        tree = {**manifest["values"], **{n: {"$tensor": n, "of": "pt"} for n in files}}
    with safe_open(files, "np", device, verify=verify) as opened:
        if into is not None:
            return _load_into(opened, tree, into)
        wanted = tensor_names(tree)
        found: dict[tuple[str, str], Any] = {}
        for of in dict.fromkeys(of for _, of in wanted):
            some = [name for name, other in wanted if other == of]
            loaded = opened.read(some, get_framework(framework or of))
            found.update({(name, of): tensor for name, tensor in loaded.items()})
        return restore(tree, lambda name, of: found[name, of])


class _Stored(NamedTuple):
    """A tensor that has not been read."""

    name: str
    of: str


def _load_into(opened: safe_open, tree: JSON, into: Any) -> Any:
    state = restore(tree, _Stored)
    wanted: dict[tuple[str, int], Any] = {}
    new: dict[str, str] = {}

    def collect(old: Any, value: Any) -> Any:
        if isinstance(value, _Stored):
            if is_tensor(old):
                wanted[value.name, id(old)] = old
            else:
                new[value.name] = value.of
        return old

    update(into, state, collect)
    names = [name for name, _ in wanted]
    rows = zip(names, wanted.values(), [None] * len(names), strict=True)
    filled = dict(zip(wanted, opened.fill(rows), strict=True))
    made = {name: opened.read([name], get_framework(of))[name] for name, of in new.items()}

    def replace(old: Any, value: Any) -> Any:
        if not isinstance(value, _Stored):
            return value
        return filled.get((value.name, id(old)), made.get(value.name))

    return update(into, state, replace)
