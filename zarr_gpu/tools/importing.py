"""Plans for storing what other kinds of files hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from zarr_gpu.creation import array_metadata
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.grids import RegularAxis
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.metadata.paths import DOCUMENTS, is_node_name
from zarr_gpu.nodes import Metadata
from zarr_gpu.tools import missing
from zarr_gpu.tools.files import FileArray, FileTree
from zarr_gpu.tools.formats import DIMENSIONS
from zarr_gpu.tools.journal import DIRECTORY
from zarr_gpu.tools.layouts import Layout, changed, for_array
from zarr_gpu.tools.transfer import ArrayJob, array_job


def plan_import(
    tree: FileTree, layout: Layout, memory: int, max_decodes: float
) -> tuple[dict[str, Metadata], list[ArrayJob]]:
    """Nodes of the target by path, and the arrays to be stored."""
    zarr_format = layout.zarr_format or 3
    _check_names(tree)
    nodes: dict[str, Metadata] = {}
    jobs = []
    for path, attributes in tree.groups.items():
        nodes[path] = GroupMetadata(zarr_format=zarr_format, attributes=attributes)  # type: ignore[arg-type]  # 2 or 3
    for path, array in tree.arrays.items():
        names = array.dimension_names or ()
        here = for_array(layout, len(array.shape), names) if path else layout
        metadata = _metadata(array, here, zarr_format)
        nodes[path] = metadata
        # What is not chunked is read as cheaply in any piece.
        axes = metadata.chunk_grid.axes(metadata.shape)
        if array.chunks is not None:
            axes = tuple(RegularAxis(n, c) for n, c in zip(array.shape, array.chunks, strict=True))
        job = array_job(path, array.values, axes, metadata, memory, max_decodes=max_decodes)
        jobs.append(job)
    return nodes, jobs


def _check_names(tree: FileTree) -> None:
    """UnsupportedError for names that no node can have, and for arrays that would hold others."""
    for path in (*tree.groups, *tree.arrays):
        if path in ("", *tree.groups) and path in tree.arrays and len(tree.arrays) > 1:
            raise UnsupportedError(f"{path or '/'!r} is an array, and others lie below it")
        parts = path.split("/") if path else []
        if any(not is_node_name(part) or part in (*DOCUMENTS, DIRECTORY) for part in parts):
            raise UnsupportedError(f"{path!r} is no name that a Zarr node can have")


def _metadata(array: FileArray, layout: Layout, zarr_format: int) -> ArrayMetadata:
    attributes = dict(array.attributes)
    arguments: dict[str, Any] = {
        "shape": array.shape,
        "dtype": array.dtype,
        "chunks": array.chunks or "auto",
        "zarr_format": zarr_format,
    }
    if array.fill_value is not None or zarr_format == 2:  # where xarray would take one for missing
        arguments["fill_value"] = array.fill_value
    if missing.ATTRIBUTE in attributes and array.dtype is not str:
        found = attributes.pop(missing.ATTRIBUTE)
        if zarr_format == 2:
            arguments["fill_value"] = found
        else:
            attributes[missing.ATTRIBUTE] = missing.encoded(found, np.dtype(array.dtype))
    if array.dimension_names is not None:
        if zarr_format == 3:
            arguments["dimension_names"] = array.dimension_names
        else:
            attributes[DIMENSIONS] = list(array.dimension_names)
    if arguments["chunks"] == "auto" and "chunks" not in _given(layout):
        metadata = array_metadata(**{**arguments, "attributes": attributes})
        arguments["chunks"] = metadata.chunk_grid.chunk_shape  # type: ignore[union-attr]  # regular
    elif arguments["chunks"] == "auto":
        arguments["chunks"] = tuple(max(1, n) for n in array.shape)
    return changed({**arguments, "attributes": attributes}, layout)


def _given(layout: Layout) -> list[str]:
    return [] if layout.chunks == "keep" else ["chunks"]
