"""Whole hierarchies from one store to another, their objects as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from zarr_gpu.errors import NodeNotFoundError, UnfinishedError, UnsupportedError
from zarr_gpu.nodes import StorePath, join, read_node
from zarr_gpu.places import find_place
from zarr_gpu.stores.base import Store
from zarr_gpu.tools.journal import begin, fingerprint, unfinished
from zarr_gpu.tools.keys import (
    can_list,
    copy_object,
    copy_pairs,
    documents_in_order,
    is_document,
    wanted,
)
from zarr_gpu.tools.progress import SILENT, Progress
from zarr_gpu.tools.targets import check_apart, opened_target
from zarr_gpu.tools.transfer import Report, check_parents
from zarr_gpu.tools.versions import state


def copy(
    source: Any,
    target: Any,
    *,
    path: str | None = None,
    target_path: str | None = None,
    excludes: tuple[str, ...] = (),
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Copy the node at ``path`` of ``source`` with all below it to ``target_path`` of ``target``.

    Nothing is decoded. Documents come last, that of the node itself after all others, so that the
    target cannot be opened before it is whole; an interrupted copy goes on when it is run again.
    ``excludes``: regular expressions on keys. Raises NodeNotFoundError, ContainsNodeError,
    UnfinishedError.
    """
    here = find_place(source, path, "r", storage_options)
    node = read_node(here.store, here.path)
    if node is None:
        what = unfinished(here.store, here.path)
        if what is not None:
            raise UnfinishedError(f"{here} is unfinished ({what})")
        raise NodeNotFoundError(f"no array or group at {here}")
    if not can_list(here):
        raise UnsupportedError(
            f"{here.store!r} cannot list its keys, so they cannot be copied as they are; "
            "convert reads the arrays instead"
        )
    patterns = tuple(_pattern(text) for text in excludes)
    with opened_target(target, target_path, target_options, overwrite=overwrite) as there:
        check_apart(there, here)
        check_parents(there, node.zarr_format)
        said = f"copy {here}"
        finger = fingerprint(str(here), list(excludes), repr(sorted(node.documents(None).items())))
        journal = begin(there, said, finger, overwrite=overwrite, source=state(here))
        documents: list[str] = []
        arrays = 0
        pairs = _chunks(here, there, patterns, documents)
        nbytes = copy_pairs(here.store, journal, pairs, progress, "objects")
        journal.save()
        for key in documents_in_order(documents):
            place = _there(key, here, there)
            nbytes += copy_object(here.store, key, there.store, place, resumed=False)
            arrays += _is_of_array(here.store, key)
        journal.close()
    return Report(arrays=arrays, nbytes=nbytes, resumed=journal.resumed)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None


def _chunks(
    here: StorePath, there: StorePath, excludes: tuple[re.Pattern[str], ...], documents: list[str]
) -> Iterator[tuple[str, str]]:
    """Keys here and there of all that is no document; documents are set aside."""
    for key in here.store.list_prefix(here.path):
        if not wanted(key, excludes):
            continue
        if is_document(key):
            documents.append(key)
        else:
            yield key, _there(key, here, there)


def _is_of_array(store: Store, key: str) -> bool:
    """Whether a document makes its node an array; damaged ones are copied, too."""
    if not key.endswith("zarr.json"):
        return key.endswith(".zarray")
    try:
        found = json.loads(bytes(store.get(key) or b""))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("node_type") == "array"


def _there(key: str, here: StorePath, there: StorePath) -> str:
    return join(there.path, key.removeprefix(here.path).lstrip("/") if here.path else key)
