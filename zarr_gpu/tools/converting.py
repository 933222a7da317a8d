"""``rechunk`` and ``convert``: arrays and hierarchies stored in another way, in bounded memory.

>>> import numpy as np, zarr_gpu
>>> source = zarr_gpu.create_array({}, data=np.arange(24).reshape(4, 6), chunks=(1, 6))
>>> array = rechunk(source, target := {}, chunks=(4, 1))
>>> array.chunks, array[:, 3].tolist()
((4, 1), [3, 9, 15, 21])
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zarr_gpu.array import Array
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.group import Group
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.nodes import Metadata, StorePath
from zarr_gpu.opening import open as open_node
from zarr_gpu.tools.exporting import export, is_export
from zarr_gpu.tools.files import FileTree, is_file_kind, open_file
from zarr_gpu.tools.formats import group_v3
from zarr_gpu.tools.importing import plan_import
from zarr_gpu.tools.journal import begin, fingerprint
from zarr_gpu.tools.keys import KeyCopy, can_list, check_members, copy_chunks, same_bytes
from zarr_gpu.tools.layouts import KEEP, Layout, for_array, names_of, target_metadata
from zarr_gpu.tools.planning import MAX_DECODES
from zarr_gpu.tools.progress import SILENT, Progress
from zarr_gpu.tools.sizes import parse_nbytes
from zarr_gpu.tools.targets import check_apart, opened_target
from zarr_gpu.tools.transfer import (
    ArrayJob,
    Report,
    array_job,
    check_parents,
    publish,
    run_arrays,
    source_grid,
)
from zarr_gpu.tools.versions import state

MEMORY = 1 << 30
"""Bytes that a job may take by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """All that a conversion is going to do; nothing has been done yet."""

    nodes: Mapping[str, Metadata]
    """Of the target, by path below it."""
    jobs: tuple[ArrayJob, ...]
    """Arrays that are decoded and stored anew."""
    copies: tuple[KeyCopy, ...]
    """Arrays whose chunks are taken over as they are."""
    consolidated: bool
    notes: tuple[str, ...]

    @property
    def zarr_format(self) -> int:
        return self.nodes[""].zarr_format

    def fingerprint(self, source: Any) -> str:
        """Of source, plan and target."""
        documents = {
            path: [repr(sorted(node.documents(None).items()))] for path, node in self.nodes.items()
        }
        plans = [
            [job.path, [[e.tolist() for e in p.edges] for p in job.plan.passes]]
            for job in self.jobs
        ]
        return fingerprint(str(source), documents, plans)


def plan_conversion(
    source: Array | Group,
    layout: Layout,
    *,
    memory: int | str = MEMORY,
    max_decodes: float = MAX_DECODES,
) -> Conversion:
    """What :func:`convert` would do. Raises what is wrong with the arguments."""
    nodes: dict[str, Metadata] = {}
    jobs: list[ArrayJob] = []
    copies: list[KeyCopy] = []
    notes: list[str] = []
    consolidated = False
    members: list[tuple[str, Array | Group]] = [("", source)]
    if isinstance(source, Group):
        check_members(source)
        consolidated = source.metadata.consolidated is not None
        members += [(path, node) for path, node in source.members(max_depth=None)]
    for path, node in members:
        if isinstance(node, Group):
            nodes[path] = _group(node.metadata, 3 if layout.like else layout.zarr_format)
            continue
        here = layout
        if isinstance(source, Group):
            here = for_array(layout, node.ndim, names_of(node))
        raw = same_bytes(node, here)
        if raw is not None:
            nodes[path], copy = raw
            copies.append(replace(copy, path=path))
            continue
        metadata = target_metadata(node, here)
        if metadata == node.metadata and can_list(node.store_path):
            raw_copy = KeyCopy.of(node, metadata, path)
            nodes[path] = metadata
            copies.append(raw_copy)
            continue
        nodes[path] = metadata
        job = array_job(
            path, node, source_grid(node), metadata, parse_nbytes(memory), max_decodes=max_decodes
        )
        jobs.append(job)
        if job.plan.decodes > 1.5:
            notes.append(
                f"chunks of {path or 'the array'} are decoded {job.plan.decodes:.1f} times on the "
                "average; more memory (--memory) makes that fewer"
            )
    return Conversion(
        nodes=nodes,
        jobs=tuple(jobs),
        copies=tuple(copies),
        consolidated=consolidated,
        notes=tuple(notes),
    )


def plan_files(
    tree: FileTree,
    layout: Layout,
    *,
    memory: int | str = MEMORY,
    max_decodes: float = MAX_DECODES,
) -> Conversion:
    """The same for what a file of another kind holds."""
    nodes, jobs = plan_import(tree, layout, parse_nbytes(memory), max_decodes)
    return Conversion(
        nodes=nodes, jobs=tuple(jobs), copies=(), consolidated=False, notes=tuple(tree.notes)
    )


def _group(metadata: GroupMetadata, zarr_format: int | None) -> GroupMetadata:
    if zarr_format in (None, metadata.zarr_format):
        return replace(metadata, consolidated=None)
    if zarr_format == 3:
        return group_v3(metadata)
    return GroupMetadata(zarr_format=2, attributes=metadata.attributes)


def convert(
    source: Any,
    target: Any,
    *,
    zarr_format: int | None = None,
    chunks: Any = KEEP,
    shards: Any = KEEP,
    filters: Any = KEEP,
    compressors: Any = KEEP,
    fill_value: Any = KEEP,
    like: str | None = None,
    memory: int | str = MEMORY,
    max_decodes: float = MAX_DECODES,
    overwrite: bool = False,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Store the array or group ``source`` as ``target`` (a store, path or URL, and ``path`` in it).

    Everything not given is taken over: values bit for bit, types, fill values, attributes, names
    of dimensions. ``chunks`` and ``shards`` may be mappings by names of dimensions; in a hierarchy
    they are for the arrays they fit. ``like="gpu"`` chooses a layout that decodes fast on a GPU.
    Where only the format changes and it has the same codecs, chunks are not decoded.

    Either may be another kind of file: ``.npy``, ``.npz``, ``.h5``, ``.nc`` (as source) and
    ``.safetensors``; HDF5 needs the extra ``hdf5``.

    An interrupted conversion goes on where it stopped when it is run again; until it is finished
    the target cannot be opened. ``memory``: bytes (or "1GiB") of the blocks in work; decoding takes
    up to ``memory_window_bytes`` more. ``max_decodes``: see :mod:`zarr_gpu.tools.planning`.

    Raises NodeNotFoundError, ContainsNodeError, UnfinishedError (another job left the target
    unfinished), ValueError for arguments that do not fit.
    """
    layout = Layout(
        zarr_format=zarr_format,
        chunks=chunks,
        shards=shards,
        filters=filters,
        compressors=compressors,
        fill_value=fill_value,
        like=like,
    )
    common: dict[str, Any] = {"overwrite": overwrite, "progress": progress}
    check_kinds(source, target, layout)
    if is_file_kind(source):
        with open_file(os.fspath(source)) as tree:
            plan = plan_files(tree, layout, memory=memory, max_decodes=max_decodes)
            with opened_target(target, path, storage_options, overwrite=overwrite) as place:
                return run_conversion(os.fspath(source), place, plan, **common)
    node = as_node(source)
    if is_export(target):
        return export(node, os.fspath(target), memory=parse_nbytes(memory), **common)
    plan = plan_conversion(node, layout, memory=memory, max_decodes=max_decodes)
    with opened_target(target, path, storage_options, overwrite=overwrite) as place:
        return run_conversion(node, place, plan, **common)


def check_kinds(source: Any, target: Any, layout: Layout) -> None:
    """UnsupportedError where one file would become another, or a layout is for a file."""
    if not is_export(target):
        return
    if is_file_kind(source):
        raise UnsupportedError(
            f"{source} cannot become {target} directly: convert it to a .zarr first, and that"
        )
    if layout != Layout():
        raise UnsupportedError(
            f"{target} is no Zarr: its format, chunks, shards and codecs cannot be chosen"
        )


def as_node(source: Any) -> Array | Group:
    """An array, a group, or what one of them can be opened from."""
    if isinstance(source, Array | Group):
        return source
    return open_node(source, mode="r", device="cpu")


def run_conversion(
    source: Array | Group | str,
    place: StorePath,
    plan: Conversion,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
    what: str = "convert",
) -> Report:
    """Carry out a plan, or the rest of it."""
    name = source if isinstance(source, str) else str(source.store_path)
    if not isinstance(source, str):
        check_apart(place, source.store_path)
    check_parents(place, plan.zarr_format)
    journal = begin(
        place,
        f"{what} {name}",
        plan.fingerprint(name),
        overwrite=overwrite,
        source=state(source if isinstance(source, str) else source.store_path),
    )
    for copy in plan.copies:
        copy_chunks(journal, copy, progress)
    run_arrays(journal, plan.jobs, progress)
    publish(journal, plan.nodes, consolidated=plan.consolidated)
    arrays = [m for m in plan.nodes.values() if isinstance(m, ArrayMetadata)]
    return Report(
        arrays=len(arrays),
        nbytes=sum(math.prod(m.shape) * m.data_type.dtype.itemsize for m in arrays),
        resumed=journal.resumed,
        notes=plan.notes,
    )


def rechunk(
    source: Any,
    target: Any,
    *,
    chunks: Any,
    shards: Any = KEEP,
    memory: int | str = MEMORY,
    max_decodes: float = MAX_DECODES,
    overwrite: bool = False,
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Array | Group:
    """Store ``source`` as ``target`` with other chunks, and open that; see :func:`convert`.

    ``shards``: None for none; by default those of the source, made to fit.
    """
    convert(
        source,
        target,
        chunks=chunks,
        shards=shards,
        memory=memory,
        max_decodes=max_decodes,
        overwrite=overwrite,
        path=path,
        storage_options=storage_options,
        progress=progress,
    )
    return open_node(target, mode="r", path=path, storage_options=storage_options)
