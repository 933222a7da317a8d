"""What an array or a group says about itself: ``info``, stored sizes, ``explain`` and ``tree``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zarr_gpu.errors import CodecError, MetadataError, UnsupportedError
from zarr_gpu.shards import read_index

if TYPE_CHECKING:
    from zarr_gpu.array import Array
    from zarr_gpu.backend import Backend
    from zarr_gpu.group_reader import GroupReader
    from zarr_gpu.layout import ArrayLayout
    from zarr_gpu.plan import Plan
    from zarr_gpu.stores.base import Store


@dataclass(frozen=True, slots=True)
class Info:
    """Labelled rows, shown as text or as an HTML table."""

    rows: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        width = max(len(label) for label, _ in self.rows)
        return "\n".join(f"{label:<{width}} : {value}" for label, value in self.rows)

    def _repr_html_(self) -> str:
        from html import escape  # slow to import

        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(label)}</th><td>{escape(value)}</td></tr>"
            for label, value in self.rows
        )
        return f"<table>{cells}</table>"


def human(nbytes: int) -> str:
    """``"1.5 MiB"``."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{nbytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{nbytes} B"


def nbytes_stored(store: Store, path: str) -> int:
    """Sum of the sizes of all objects at and below ``path``."""
    return sum(store.size(key) or 0 for key in store.list_prefix(path))


def count_stored(layout: ArrayLayout, store: Store) -> int:
    """Stored chunks of an array; inner chunks are counted one by one from the shard indexes."""
    counts = [axis.count for axis in layout.object_axes]
    encoding = layout.metadata.chunk_key_encoding
    total = 0
    for key in store.list_prefix(layout.path):
        where = encoding.coordinates(key.removeprefix(layout.prefix), len(counts))
        if where is None or any(i >= n for i, n in zip(where, counts, strict=True)):
            continue
        layouts = layout.levels_at(where).layouts
        if not layouts:
            total += 1
            continue
        reader = store.open_reader(key)
        if reader is None:
            continue
        with reader:
            try:
                index = read_index(layouts[0], reader, (store.identity, key, 0, 0))
            except CodecError:
                continue  # a damaged shard stores no readable chunk
            total += int((index[:, 1] != np.uint64(2**64 - 1)).sum())
    return total


def array_info(array: Array, *, complete: bool = False) -> Info:
    """Rows for an array."""
    rows = [
        ("Type", "Array"),
        ("Zarr format", str(array.metadata.zarr_format)),
        ("Data type", _type_text(array)),
        ("Fill value", repr(array.fill_value)),
        ("Shape", str(array.shape)),
    ]
    if array._layout.sharded:  # noqa: SLF001 - `shards` has no answer for rectilinear ones
        rows.append(("Shard shape", _shape_text(array, "shards")))
    rows.append(("Chunk shape", _shape_text(array, "chunks")))
    rows += [
        ("Order", array.order),
        ("Read-only", str(array.read_only)),
        ("Store", repr(array.store)),
        ("Filters", str(array.filters)),
    ]
    if array.serializer is not None:
        rows.append(("Serializer", str(array.serializer)))
    rows += [
        ("Compressors", str(array.compressors)),
        ("Device", array.device),
        ("Bytes", f"{array.nbytes} ({human(array.nbytes)})"),
    ]
    if complete:
        stored = array.nbytes_stored()
        rows.append(("Stored bytes", f"{stored} ({human(stored)})"))
        rows.append(("Storage ratio", f"{array.nbytes / stored:.1f}" if stored else "-"))
        rows.append(("Chunks stored", f"{array.nchunks_initialized} of {array.nchunks}"))
    return Info(tuple(rows))


def _shape_text(array: Array, what: str) -> str:
    try:
        return str(getattr(array, what))
    except UnsupportedError:
        return "<variable>"


def _type_text(array: Array) -> str:
    name = array.metadata.data_type.name
    return name if name == str(array.dtype) else f"{name} ({array.dtype})"


def explain(layout: ArrayLayout, plan: Plan, store: Store, device: str, backend: Backend) -> str:
    """The plan of a read as text: what is fetched, through which steps, and where they run."""
    levels = layout.levels
    leaf = levels.leaf
    rows = len(plan)
    lines = [
        f"read      /{layout.path}: {plan.selection.size} elements of {layout.dtype}, shape "
        + str(plan.selection.shape),
        f"chunks    {rows} of shape {leaf.spec.shape}",
    ]
    if layout.sharded:
        objects = len(layout.place(plan, plan.segment))
        index = levels.layouts[0].index_nbytes
        lines.append(
            f"objects   {objects} shards; one range of {index} bytes for each index "
            f"({levels.layouts[0].location}), then coalesced ranges of inner chunks"
        )
    else:
        lines.append(f"objects   {rows}, one per chunk")
    decoded = rows * math.prod(leaf.spec.shape) * leaf.spec.dtype.itemsize
    wanted = plan.selection.size * layout.dtype.itemsize
    stored = leaf.stored
    bound = "exactly" if stored.exact else "at most"
    lines.append(f"fetch     {bound} {human(stored.limit)} a chunk from {store!r}")
    if leaf.raw is not None:
        lines.append(f"          uncompressed: only the selected {human(wanted)} are read")
    else:
        lines.append(f"decode    {human(decoded)} for {human(wanted)} of output")
    lines += backend.explain(layout, plan, store)
    lines.append(f"device    {device} ({backend.name})")
    return "\n".join(lines)


def group_info(group: GroupReader, *, complete: bool = False) -> Info:
    """Rows for a group."""
    rows = [
        ("Name", group.name),
        ("Type", "Group"),
        ("Zarr format", str(group.metadata.zarr_format)),
        ("Read-only", str(group.read_only)),
        ("Store", repr(group.store)),
    ]
    if complete:
        rows += [
            ("Members", str(group.nmembers())),
            ("Arrays", str(sum(1 for _ in group.arrays()))),
            ("Groups", str(sum(1 for _ in group.groups()))),
        ]
    return Info(tuple(rows))


def warn_of_member(path: str, error: MetadataError) -> None:
    """A member that cannot be opened does not make its group unreadable."""
    warnings.warn(f"member {path!r} is left out: {error}", UserWarning, stacklevel=5)


@dataclass(frozen=True, slots=True)
class Tree:
    """A hierarchy as text, or as HTML in a notebook."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.text)}</pre>"


def tree(group: GroupReader, level: int | None = None, max_nodes: int = 500) -> Tree:
    """Every node below ``group`` down to ``level`` levels, one line each."""
    lines = ["/" + group.path]
    _tree_lines(group, "", level, lines, max_nodes)
    return Tree("\n".join(lines))


def _tree_lines(
    group: GroupReader, indent: str, level: int | None, lines: list[str], max_nodes: int
) -> None:
    if level is not None and level < 1:
        return
    # What is looked up in the store comes in order, and is not looked up without being shown.
    listed = group.metadata.consolidated is not None
    members: Iterator[tuple[str, Any]] = iter(sorted(group.members()) if listed else group.walk(0))
    member = next(members, None)
    while member is not None:
        if len(lines) > max_nodes:
            lines.append(f"{indent}... (more than {max_nodes} nodes)")
            return
        name, node = member
        member = next(members, None)
        last = member is None
        stem = indent + ("└── " if last else "├── ")
        if hasattr(node, "members"):
            lines.append(stem + name)
            below = None if level is None else level - 1
            _tree_lines(node, indent + ("    " if last else "│   "), below, lines, max_nodes)
        else:
            lines.append(f"{stem}{name} {node.shape} {node.metadata.data_type.name}")
