"""What is finished of a job, written down in its target until all of it is.

A target that is being written has no metadata document but an object
``zarr-gpu-unfinished/job.json``, which says what the job is (a fingerprint of its arguments), what
its source was (:mod:`zarr_gpu.tools.versions`), and which of its blocks are stored. So an
unfinished target cannot be opened, a second run of the same job goes on, and another job, or one
whose source has changed, is refused. Documents are written last, then the directory
``zarr-gpu-unfinished`` is deleted.

Of two processes that run a job at once the later one has it: the record names the run that wrote it
last, and a run that finds another name there stops before it writes or deletes anything more.

Blocks count as stored when the store has taken them. That outlives a killed process; to outlive a
power failure, use the setting ``durable``.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zarr_gpu.errors import ContainsNodeError, StoreError, UnfinishedError
from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.nodes import StorePath, join, read_node
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.publishing import repair

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
        merged = sorted((int(a), int(b)) for a, b in rows)
        self._starts = [a for a, _ in merged]
        self._stops = [b for _, b in merged]

    def add(self, number: int) -> None:
        """One more; twice is once."""
        if number in self:
            return
        starts, stops = self._starts, self._stops
        at = bisect_right(starts, number)
        joins_last = at > 0 and stops[at - 1] == number
        joins_next = at < len(starts) and starts[at] == number + 1
        if joins_last and joins_next:
            del starts[at]
            del stops[at - 1]
        elif joins_last:
            stops[at - 1] = number + 1
        elif joins_next:
            starts[at] = number
        else:
            starts.insert(at, number)
            stops.insert(at, number + 1)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number)
        return at > 0 and number < self._stops[at - 1]

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    @property
    def rows(self) -> list[list[int]]:
        """First and one after the last of each run."""
        return [[a, b] for a, b in zip(self._starts, self._stops, strict=True)]


class Journal:
    """The record of one job below ``place``; saved once a second and at the end of a part."""

    def __init__(
        self,
        place: StorePath,
        what: str,
        finger: str,
        source: Mapping[str, Any] | None = None,
        finished: Any = None,
    ) -> None:
        self.place = place
        self.what = what
        self.finger = finger
        self.source = source
        self.run = os.urandom(8).hex()
        self.resumed = finished is not None
        self._started = time.time()
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
            self._save_sometimes()

    def tick(self) -> None:
        """Something is done that is not written down; UnfinishedError when another run has it."""
        with self._lock:
            self._save_sometimes()

    def save(self) -> None:
        """Now, and not when its time has come. UnfinishedError when another run has the job."""
        with self._lock:
            self._save()

    def start(self) -> None:
        """The first record of this run: from now on the job is its own."""
        with self._lock:
            self._write()

    def _save_sometimes(self) -> None:
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        if not self._is_kept:
            return
        found = read_journal(self.place)
        if found is None or found.get("run") != self.run:
            what = "is finished or was removed" if found is None else "was taken over"
            raise UnfinishedError(f"{self.place}: this job {what} by another process")
        self._write()

    @property
    def _is_kept(self) -> bool:
        """Not in a zip file, which appears when it is whole."""
        return self.place.store.supports_deletes

    def _write(self) -> None:
        if self._is_kept:
            finished = {part: ranges.rows for part, ranges in self._finished.items()}
            _write(self.place, self.what, self.finger, finished, self.source, self.run)
        self._saved = time.monotonic()

    def close(self) -> None:
        """The job is finished, its documents are written."""
        store = self.place.store
        if not self._is_kept:
            return
        _empty(self.inside)
        store.delete_prefix(self.inside.path)
        if self.resumed and isinstance(store, LocalStore):  # what writes that were killed left
            repair(f"{store.root}/{self.place.path}", time.time() - self._started)


def _key(place: StorePath) -> str:
    return join(place.path, f"{DIRECTORY}/job.json")


def _write(
    place: StorePath,
    what: str,
    finger: str,
    finished: Any,
    source: Mapping[str, Any] | None = None,
    run: str = "",
) -> None:
    document = {
        "zarr_gpu_job": 1,
        "what": what,
        "fingerprint": finger,
        "source": source,
        "run": run,
        "finished": finished,
    }
    place.store.set(_key(place), json.dumps(document).encode())


def _empty(inside: StorePath) -> None:
    """Remove all that a job has kept but its record, which goes last."""
    for name in inside.store.list_dir(inside.path):
        if name != "job.json":
            inside.store.delete_prefix(join(inside.path, name))


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


def begin(
    place: StorePath,
    what: str,
    finger: str,
    *,
    overwrite: bool,
    source: Mapping[str, Any] | None = None,
) -> Journal:
    """Start the job, or go on with it. ``source``: what says whether its source has changed.

    Raises UnfinishedError where another job was not finished, or the same one with a source that
    was other than now, ContainsNodeError where something else is; ``overwrite`` removes either.
    Files that are not Zarr's are never removed: StoreError.
    """
    place.store.check_writable()
    found = read_journal(place)
    node = None if found is not None else read_node(place.store, place.path)
    if found is not None and not overwrite and found["fingerprint"] != CLEARING:
        _check_same(place, found, what, finger, source)
        journal = Journal(place, what, finger, source, found["finished"])
        journal.start()
        return journal
    if node is not None and not overwrite:
        raise ContainsNodeError(f"a node exists at {place}; overwrite (--overwrite) replaces it")
    if found is None and node is None and next(_keys(place), None) is not None:
        raise StoreError(
            f"{place} is not empty and no Zarr node: what is there has to be removed by hand"
        )
    if found is not None or node is not None:
        _clear(place)
    journal = Journal(place, what, finger, source)
    journal.start()
    return journal


def _check_same(
    place: StorePath, found: dict[str, Any], what: str, finger: str, source: Any
) -> None:
    """UnfinishedError unless the job that was begun is this one, and its source what it was."""
    if found["what"] == what and found.get("source") not in (None, source):
        raise UnfinishedError(
            f"{place} holds an unfinished job ({what}), and the source has changed since it was "
            f"begun ({_told(found['source'])} then, {_told(source)} now): what is stored already "
            "may be old; start over with overwrite (--overwrite)"
        )
    if found["fingerprint"] != finger:
        raise UnfinishedError(
            f"{place} holds an unfinished job ({found['what']}) that was started with other "
            "arguments; finish that one, or start over with overwrite (--overwrite)"
        )


def _told(source: Any) -> str:
    """A state of a source in words."""
    if not isinstance(source, Mapping):
        return "unknown"
    return f"{source['objects']} objects of {source['nbytes']} bytes, {source['digest'][:8]}"


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
    _empty(place / DIRECTORY)


def _keys(place: StorePath) -> Iterator[str]:
    return place.store.list_prefix(place.path)


def unfinished(store: Store, path: str) -> str | None:
    """What job was not finished at ``path``, None when there is none."""
    found = read_journal(StorePath(store, path))
    return None if found is None else str(found["what"])
