"""What has been parsed before: arrays of a hierarchy tend to say the same about their encoding.

Knows no document. Only what was found to be valid is remembered, so errors and warnings come every
time; what is remembered is shared by all arrays that say the same and must not be changed.

>>> memo = Memo()
>>> memo.put(key_of([1, 2]), (1, 2))
>>> memo.get(key_of([1, 2])), memo.get(key_of([1, 2.0]))
((1, 2), None)
"""

from __future__ import annotations

import marshal
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from zarr_gpu.config import Limits, config

T = TypeVar("T")

ROOM = 1024
"""Entries of one memo: a few MiB where they are as long as they may be."""
MAX_KEY = 4096
"""Bytes of a key that is a document; longer ones are hardly ever said twice."""


def key_of(*values: Any) -> bytes | None:
    """What JSON values say, as a key; None where that is too long to be said twice."""
    try:
        # Unlike ==, tells 1, 1.0 and true apart, and -0.0 from 0.0; takes half as long as repr.
        key = marshal.dumps(values, 2)  # later versions write equal values in several ways
    except ValueError:  # no JSON, or nested too deep
        return None
    return key if len(key) <= MAX_KEY else None


class Memo(Generic[T]):
    """A few values by key, found to be valid under the limits in force; shared by all threads."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[Limits, T]] = {}

    def get(self, key: Hashable) -> T | None:
        """What was put under ``key``, None when it is not known. Nothing is known of None."""
        entry = self._entries.get(key)
        if entry is None or entry[0] is not config.current.limits:
            return None
        return entry[1]

    def put(self, key: Hashable, value: T) -> None:
        if key is None:
            return
        if len(self._entries) >= ROOM:
            self._entries.clear()
        self._entries[key] = config.current.limits, value
