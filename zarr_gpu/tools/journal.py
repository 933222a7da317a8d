"""What is finished of a job, written down in its target until all of it is.

A target that is being written has no metadata document but an object
``zarr-gpu-unfinished/job.json``, which says what the job is (a fingerprint of source and arguments)
and which of its blocks are stored. So an unfinished target cannot be opened, a second run of the
same job goes on, and another job is refused. Documents are written last, then the directory
``zarr-gpu-unfinished`` is deleted.

Blocks count as stored when the store has taken them. That outlives a killed process; to outlive a
power failure, use the setting ``durable``.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from zarr_gpu.errors import ContainsNodeError, StoreError, UnfinishedError
from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.nodes import StorePath, join, read_node
from zarr_gpu.stores.base import Store

DIRECTORY = "zarr-gpu-unfinished"
"""Below the path of an unfinished target."""
SAVE_SECONDS = 1.0
"""What a killed job may have to do again."""
CLEARING = "clearing"
"""Instead of a fingerprint: the target is being emptied."""


def fingerprint(*parts: Any) -> str:
    """Of everything that decides what a job writes; parts are JSON."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Ranges:
    """Numbers, most of which follow each other.

    >>> ranges = Ranges([[0, 3]])
    >>> for n in (4, 3): ranges.add(n)
    >>> ranges.rows, 4 in ranges, len(ranges)
    ([[0, 5]], True, 5)
    """

    def __init__(self, rows: Iterable[Iterable[int]] = ()) -> None:
        self._runs = {int(a): int(b) for a, b in rows}
        self._starts = {b: a for a, b in self._runs.items()}
        self._all = {n for a, b in self._runs.items() for n in range(a, b)}

    def add(self, number: int) -> None:
        """One more; twice is once."""
        if number in self._all:
            return
        self._all.add(number)
        start = self._starts.pop(number, number)
        stop = self._runs.pop(number + 1, number + 1)
        self._runs[start] = stop
        self._starts[stop] = start

    def __contains__(self, number: int) -> bool:
        return number in self._all

    def __len__(self) -> int:
        return len(self._all)

    @property
    def rows(self) -> list[list[int]]:
        """First and one after the last of each run."""
        return [[a, b] for a, b in sorted(self._runs.items())]


class Journal:
    """The record of one job below ``place``; saved once a second and at the end of a part."""

    def __init__(self, place: StorePath, what: str, finger: str, finished: Any = None) -> None:
        self.place = place
        self.what = what
        self.finger = finger
        self.resumed = finished is not None
        self._finished = {part: Ranges(rows) for part, rows in (finished or {}).items()}
        self._lock = threading.Lock()
        self._saved = time.monotonic()

    @property
    def inside(self) -> StorePath:
        """Where a job may keep what it needs until it is finished."""
        return self.place / DIRECTORY

    def done(self, part: str) -> Ranges:
        """The finished blocks of a part of the job."""
        with self._lock:
            return self._finished.setdefault(part, Ranges())

    def finish(self, part: str, number: int) -> None:
        """A block is stored."""
        ranges = self.done(part)
        with self._lock:
            ranges.add(number)
            if time.monotonic() - self._saved >= SAVE_SECONDS:
                self._save()

    def save(self) -> None:
        """Now, and not when its time has come."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        if not self.place.store.supports_deletes:  # a zip file, which appears when it is whole
            return
        finished = {part: ranges.rows for part, ranges in self._finished.items()}
        _write(self.place, self.what, self.finger, finished)
        self._saved = time.monotonic()

    def close(self) -> None:
        """The job is finished, its documents are written."""
        if self.place.store.supports_deletes:
            self.place.store.delete_prefix(self.inside.path)


def _key(place: StorePath) -> str:
    return join(place.path, f"{DIRECTORY}/job.json")


def _write(place: StorePath, what: str, finger: str, finished: Any) -> None:
    document = {"zarr_gpu_job": 1, "what": what, "fingerprint": finger, "finished": finished}
    place.store.set(_key(place), json.dumps(document).encode())


def read_journal(place: StorePath) -> dict[str, Any] | None:
    """The record of an unfinished job at ``place``, None when there is none."""
    data = place.store.get(_key(place))
    if data is None:
        return None
    try:
        found = json.loads(bytes(data))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("zarr_gpu_job") != 1:
        raise StoreError(f"{_key(place)!r} of {place.store!r} is no record of a job")
    return found


def begin(place: StorePath, what: str, finger: str, *, overwrite: bool) -> Journal:
    """Start the job, or go on with it.

    Raises UnfinishedError where another job was not finished, ContainsNodeError where something
    else is; ``overwrite`` removes either. Files that are not Zarr's are never removed: StoreError.
    """
    place.store.check_writable()
    found = read_journal(place)
    node = None if found is not None else read_node(place.store, place.path)
    if found is not None and found["fingerprint"] == finger and not overwrite:
        return Journal(place, what, finger, found["finished"])
    if found is not None and found["fingerprint"] != CLEARING and not overwrite:
        raise UnfinishedError(
            f"{place} holds an unfinished job ({found['what']}) that was started with other "
            "arguments; finish that one, or start over with overwrite (--overwrite)"
        )
    if node is not None and not overwrite:
        raise ContainsNodeError(f"a node exists at {place}; overwrite (--overwrite) replaces it")
    if found is None and node is None and next(_keys(place), None) is not None:
        raise StoreError(
            f"{place} is not empty and no Zarr node: what is there has to be removed by hand"
        )
    if found is not None or node is not None:
        _clear(place)
    journal = Journal(place, what, finger)
    journal.save()
    return journal


def _clear(place: StorePath) -> None:
    """Empty a target; killed in between, it stays recognisable as one that may be emptied."""
    store = place.store
    _write(place, "emptying the target", CLEARING, {})
    documents = [k for k in _keys(place) if k.rpartition("/")[2] in DOCUMENTS]
    for key in sorted(documents, key=lambda key: (-key.count("/"), key)):
        store.delete(key)
    for name in store.list_dir(place.path):
        if name != DIRECTORY:
            store.delete_prefix(join(place.path, name))
    for name in store.list_dir(join(place.path, DIRECTORY)):
        if name != "job.json":
            store.delete_prefix(join(place.path, f"{DIRECTORY}/{name}"))


def _keys(place: StorePath) -> Iterator[str]:
    return place.store.list_prefix(place.path)


def unfinished(store: Store, path: str) -> str | None:
    """What job was not finished at ``path``, None when there is none."""
    found = read_journal(StorePath(store, path))
    return None if found is None else str(found["what"])
