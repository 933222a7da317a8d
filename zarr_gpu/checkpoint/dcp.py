"""Storage for ``torch.distributed.checkpoint``: every rank writes one safetensors file.

    dcp.save(state, storage_writer=ZarrWriter("run/step-10"))
    dcp.load(state, storage_reader=ZarrReader("run/step-10"))

A rank's file has whole tensors and parts of sharded ones; the coordinator writes the manifest
last. Readers are told that every tensor is one chunk, so that any number of ranks, sharded along
any axis, read just the bytes of their own shards, by one plan each. Values that are no tensors are
JSON: nothing that is stored is a pickle.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from zarr_gpu._types import JSON
from zarr_gpu.checkpoint import saving, steps
from zarr_gpu.checkpoint.described import Described, described_shape
from zarr_gpu.checkpoint.files import safe_open
from zarr_gpu.checkpoint.frameworks import get_torch
from zarr_gpu.checkpoint.tree import flatten, restore
from zarr_gpu.checkpoint.verifying import Verify
from zarr_gpu.errors import CheckpointError
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.tensor_files import INDEX, PARTS, TensorFiles

VALUES = "values"
"""Member of the manifest: what is no tensor, by name."""
PATHS = "paths"
"""Member of the manifest: the path of each name in the nested state."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """What the coordinator tells a rank: the name of its file."""

    file: str


class ZarrWriter(StorageWriter):  # type: ignore[misc]  # PyTorch is not seen by the type checker
    """Writes a checkpoint to the directory ``path`` (a path or URL).

    ``checksum``: store CRC-32C of all bytes. ``durable``: a save ends when all is on the disk.
    A checkpoint that is there is replaced, in one step, when all ranks have written.
    """

    def __init__(self, path: Any, *, checksum: bool = True, durable: bool = True) -> None:
        self.path = path
        self._checksum = checksum
        self._durable = durable

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return bool(os.fspath(checkpoint_id))

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        if checkpoint_id:
            self.path = checkpoint_id

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def _store(self) -> Store:
        return steps.folder_store(self.path, durable=self._durable)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        # Names that no earlier save has used: its files are whole until this one is.
        token = secrets.token_hex(4)
        return [
            dataclasses.replace(
                plan, storage_data=_Place(f"rank-{token}-{i:05}-of-{len(plans):05}.safetensors")
            )
            for i, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        file = plan.storage_data.file
        sources, parts, results = [], {}, []
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                value = _plain_value(planner, item)
                results.append(WriteResult(item.index, len(json.dumps(value)), {"value": value}))
                continue
            tensor = planner.resolve_data(item).detach()
            source = saving.source(item.index.fqn, tensor)
            offsets, size = tuple(item.tensor_data.chunk.offsets), tuple(item.tensor_data.size)
            if tuple(tensor.shape) != size:
                whole = _stored_shape(tensor, size)
                offset = _stored_shape(tensor, offsets, zero=True)
                name = f"{source.name}[{', '.join(map(str, offset))}]"
                parts[name] = {"of": source.name, "shape": list(whole), "offset": list(offset)}
                source = dataclasses.replace(source, name=name)
            sources.append(source)
            results.append(WriteResult(item.index, source.nbytes, {"file": file}))
        metadata = {"format": "pt", **({PARTS: json.dumps(parts)} if parts else {})}
        if sources:
            saving.write_file(self._store(), file, sources, metadata, checksum=self._checksum)
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        store = self._store()
        old = steps.read_manifest(store, required=False)
        names: dict[str, None] = {}
        values: dict[str, JSON] = {}
        for result in (result for row in results for result in row):
            if "file" in result.storage_data:
                names[result.storage_data["file"]] = None
            else:
                values[result.index.fqn] = result.storage_data["value"]
        files: list[JSON] = []
        for name in names:
            size = store.size(name)
            if size is None:
                raise CheckpointError(f"{name!r}, which a rank has written, is not in {store!r}")
            files.append({"name": name, "nbytes": size})
        paths = metadata.planner_data if isinstance(metadata.planner_data, Mapping) else {}
        listed: dict[str, JSON] = {k: list(v) for k, v in paths.items() if _is_path(v)}
        more: dict[str, JSON] = {VALUES: values, PATHS: listed}
        steps.write_manifest(store, files, None, None, more)
        for name in [] if old is None else [*steps.old_files(old), INDEX]:
            if name not in names and store.exists(name):
                store.delete(name)

    def storage_meta(self) -> StorageMeta | None:
        return None


def _is_path(path: object) -> bool:
    return isinstance(path, tuple) and all(isinstance(key, str | int) for key in path)


def _plain_value(planner: SavePlanner, item: WriteItem) -> JSON:
    """A value that is no tensor, as JSON. Raises TypeError, naming it, where that is impossible."""
    if hasattr(planner, "lookup_object"):
        value = planner.lookup_object(item.index)
    else:
        data = planner.resolve_data(item)
        data.seek(0)
        value = torch.load(data, weights_only=True)
    flat = flatten({item.index.fqn: value})
    if flat.tensors:
        raise TypeError(f"{item.index.fqn!r}: a tensor inside a value of another type")
    return flat.tree[item.index.fqn]  # type: ignore[index]  # a dictionary


def _stored_shape(tensor: Any, shape: tuple[int, ...], *, zero: bool = False) -> tuple[int, ...]:
    """``shape`` (or an offset) of a tensor of the same type, as it is in the file."""
    described = get_torch().describe(tensor)
    extra = len(described.shape) - len(described_shape(described))
    if described.code == "F4" and shape:  # two elements in each of PyTorch's
        shape = (*shape[:-1], 2 * shape[-1])
    return (*shape, *((0,) * extra if zero else described.shape[len(described.shape) - extra :]))


class ZarrReader(StorageReader):  # type: ignore[misc]  # PyTorch is not seen by the type checker
    """Reads a checkpoint of :class:`ZarrWriter`, of :func:`save` or of any safetensors files.

    ``verify``: compare checksums, of the tensors that a rank reads as a whole.
    """

    def __init__(self, path: Any, *, verify: Verify = "none") -> None:
        self.path = path
        self._verify = verify
        self._opened: safe_open | None = None
        self._values: Mapping[str, JSON] = {}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return bool(os.fspath(checkpoint_id))

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        self._close()
        if checkpoint_id:
            self.path = checkpoint_id

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def _open(self) -> tuple[safe_open, Mapping[str, Any]]:
        """The files, which stay open until they have been read, and the manifest."""
        store = steps.folder_store(self.path)
        manifest = steps.read_manifest(store, required=False) or {}
        files = TensorFiles(store, steps.old_files(manifest)) if manifest else self.path
        self._opened = safe_open(files, "pt", verify=self._verify)
        self._values = manifest.get(VALUES, {})
        return self._opened, manifest

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._close()
        opened, manifest = self._open()
        found: dict[str, Any] = {name: BytesStorageMetadata() for name in self._values}
        framework = get_torch()
        for name in opened:
            described = opened.describe(name)
            dtype, shape = framework.own(described)
            size = torch.Size(shape)
            chunk = ChunkStorageMetadata(torch.Size([0] * len(shape)), size)
            found[name] = TensorStorageMetadata(TensorProperties(dtype), size, [chunk])
        paths = {name: tuple(path) for name, path in manifest.get(PATHS, {}).items()}
        return Metadata(found, planner_data=paths or {name: (name,) for name in found})

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        if self._opened is None:  # not the coordinator
            self._open()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        opened = self._opened
        assert opened is not None  # noqa: S101 - see set_up_storage_reader
        wanted, targets = [], []
        for item in plan.items:
            name = item.storage_index.fqn
            if item.type == LoadItemType.BYTE_IO:
                data = io.BytesIO()
                torch.save(restore(self._values[name], _no_tensor), data)
                data.seek(0)
                planner.load_bytes(item, data)
                continue
            into = planner.resolve_tensor(item).detach()
            wanted.append((name, into, _selection(opened.describe(name), item)))
            targets.append((item, into))
        opened.fill(wanted)
        for item, into in targets:
            planner.commit_tensor(item, into)
        self._close()
        future: Future[None] = Future()
        future.set_result(None)
        return future


def _selection(described: Described, item: ReadItem) -> tuple[slice, ...] | None:
    """The part of a stored tensor that is asked for, None for all of it."""
    shape = described_shape(described)
    box = [(int(at), int(n)) for at, n in zip(item.storage_offsets, item.lengths, strict=True)]
    if described.code == "F4" and box:  # two elements in each of PyTorch's
        box[-1] = (2 * box[-1][0], 2 * box[-1][1])
    if all(at == 0 and n == m for (at, n), m in zip(box, shape, strict=True)):
        return None
    return tuple(slice(at, at + n) for at, n in box)


def _no_tensor(name: str, of: str) -> Any:
    raise CheckpointError(f"the value {name!r} cannot be a tensor of {of}")
