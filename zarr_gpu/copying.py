"""Copying nodes and keys between groups and stores."""

from __future__ import annotations

import re
from typing import Any

from zarr_gpu.array import Array
from zarr_gpu.creating import from_array
from zarr_gpu.errors import ContainsArrayError, ContainsGroupError
from zarr_gpu.group import Group
from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.nodes import join
from zarr_gpu.places import find_place
from zarr_gpu.stores.base import Store


def copy_keys(source: Store, prefix: str, dest: Store, dest_prefix: str) -> int:
    """Copy every key below one path to another as it is; returns the number of keys.

    Documents come last, so that an array that can be opened has all its chunks.
    """
    count = 0
    for key in sorted(source.list_prefix(prefix), key=_documents_last):
        data = source.get(key)
        if data is not None:
            below = key[len(prefix) :].lstrip("/")
            dest.set(join(dest_prefix, below), data)
            count += 1
    return count


def _documents_last(key: str) -> tuple[int, str]:
    name = key.rpartition("/")[2]
    return (-DOCUMENTS.index(name) if name in DOCUMENTS else -len(DOCUMENTS)), key


def copy_store(
    source: Any,
    dest: Any,
    source_path: str = "",
    dest_path: str = "",
    *,
    excludes: Any = (),
    includes: Any = (),
    if_exists: str = "raise",
    dry_run: bool = False,
) -> tuple[int, int, int]:
    """Copy keys between stores without decoding anything.

    Returns ``(copied, skipped, bytes)``. ``if_exists`` is ``raise`` (FileExistsError), ``replace``
    or ``skip``; ``includes`` and ``excludes`` are regular expressions on keys.
    """
    if if_exists not in ("raise", "replace", "skip"):
        raise ValueError(f"if_exists must be 'raise', 'replace' or 'skip', found {if_exists!r}")
    here = find_place(source, source_path, None, None)
    there = find_place(dest, dest_path, None, None)
    excludes = [excludes] if isinstance(excludes, str) else excludes
    includes = [includes] if isinstance(includes, str) else includes
    copied = skipped = nbytes = 0
    for key in sorted(here.store.list_prefix(here.path), key=_documents_last):
        below = key[len(here.path) :].lstrip("/")
        if any(re.search(p, key) for p in excludes) and not any(
            re.search(p, key) for p in includes
        ):
            continue
        target = join(there.path, below)
        if if_exists != "replace" and there.store.exists(target):
            if if_exists == "raise":
                raise ContainsArrayError(f"key {target!r} exists in {there.store!r}")
            skipped += 1
            continue
        data = here.store.get(key)
        if data is None:
            continue
        copied += 1
        nbytes += len(data)
        if not dry_run:
            there.store.set(target, data)
    return copied, skipped, nbytes


def copy(
    source: Array | Group,
    dest: Group,
    name: str | None = None,
    *,
    shallow: bool = False,
    without_attrs: bool = False,
    if_exists: str = "raise",
    dry_run: bool = False,
    **create_kws: Any,
) -> tuple[int, int, int]:
    """Copy an array or group into group ``dest``; returns ``(copied, skipped, bytes)``.

    Arrays keep layout and codecs unless ``create_kws`` say otherwise. ``if_exists`` is ``raise``,
    ``replace``, ``skip`` or ``skip_initialized``; ``shallow`` copies only direct children.
    """
    if if_exists not in ("raise", "replace", "skip", "skip_initialized"):
        raise ValueError(f"if_exists: unknown value {if_exists!r}")
    name = name or source.basename
    if not name:
        raise ValueError("no name to copy to: give name=, or copy a node that has one")
    options: dict[str, Any] = {
        "without_attrs": without_attrs,
        "if_exists": if_exists,
        "dry_run": dry_run,
        **create_kws,
    }
    if isinstance(source, Array):
        return _copy_array(source, dest, name, **options)
    existing = dest.get(name)
    if isinstance(existing, Array):
        raise ContainsArrayError(f"an array exists at {name!r} in group {dest.name!r}")
    if existing is not None and if_exists == "raise" and len(existing):
        raise ContainsGroupError(f"a group exists at {name!r} in group {dest.name!r}")
    target: Any = existing
    if not dry_run:
        target = dest.require_group(name)
        if not without_attrs:
            target.update_attributes(source.attrs.asdict())
    totals = [1, 0, 0]
    for child_name, child in source.members() if target is not None else ():
        if shallow and isinstance(child, Group):
            continue
        got = copy(child, target, child_name, **options)
        totals = [a + b for a, b in zip(totals, got, strict=True)]
    return totals[0], totals[1], totals[2]


def _copy_array(
    source: Array,
    dest: Group,
    name: str,
    *,
    without_attrs: bool,
    if_exists: str,
    dry_run: bool,
    **create_kws: Any,
) -> tuple[int, int, int]:
    existing = dest.get(name)
    if existing is not None:
        if if_exists == "raise":
            raise ContainsArrayError(f"a node exists at {name!r} in group {dest.name!r}")
        written = isinstance(existing, Array) and existing.nchunks_initialized == existing.nchunks
        if if_exists == "skip" or (if_exists == "skip_initialized" and written):
            return 0, 1, 0
    if not dry_run:
        new = from_array(
            dest.store_path,
            name=name,
            data=source,
            overwrite=existing is not None,
            zarr_format=dest.metadata.zarr_format,
            **create_kws,
        )
        if without_attrs:
            new.attrs.put({})
    return 1, 0, source.nbytes


def copy_all(source: Group, dest: Group, **kwargs: Any) -> tuple[int, int, int]:
    """Copy everything in group ``source`` into group ``dest``; see :func:`copy`."""
    totals = [0, 0, 0]
    for name, node in source.members():
        got = copy(node, dest, name, **kwargs)
        totals = [a + b for a, b in zip(totals, got, strict=True)]
    if not kwargs.get("without_attrs") and not kwargs.get("dry_run"):
        dest.update_attributes(source.attrs.asdict())
    return totals[0], totals[1], totals[2]
