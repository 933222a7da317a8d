"""Objects in a dictionary, or in any other mutable mapping from key to bytes.

Knows no files and no Zarr.

>>> store = MemoryStore()
>>> store.set("a/b", b"0123456789")
>>> store.list_dir("a")
['b']
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np

from zarr_gpu._types import Bytes
from zarr_gpu.errors import StoreError
from zarr_gpu.stores.base import ByteRange, BytesReader, Located, Reader, check_key, check_limit
from zarr_gpu.stores.common import SameBytes, keys_below, names_below
from zarr_gpu.stores.locks import process_lock


class MemoryStore(SameBytes):
    """Objects in ``data`` (a new dictionary when None), which the caller may go on using.

    Two stores over the same mapping are equal. A pickle carries the objects along.
    """

    local = True

    def __init__(
        self, data: MutableMapping[str, bytes] | None = None, *, read_only: bool = False
    ) -> None:
        self.data: MutableMapping[str, bytes] = {} if data is None else data
        self.read_only = read_only

    def __repr__(self) -> str:
        kind = "" if type(self.data) is dict else f"{type(self.data).__name__}, "
        return f"MemoryStore({kind}{len(self.data)} objects)"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(MemoryStore, read_only=self.read_only), (self.data,)

    # -- reading ------------------------------------------------------------------------------

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        value = self._value(key)
        if value is None:
            return None
        if byte_range is None:
            check_limit(key, len(value), limit)
            return value
        start, stop = byte_range.resolve(len(value))
        check_limit(key, stop - start, limit)
        return memoryview(value)[start:stop]

    def _value(self, key: str) -> bytes | None:
        try:
            value = self.data[check_key(key)]
        except KeyError:
            return None
        if type(value) is bytes:
            return value
        try:
            return bytes(memoryview(value))
        except TypeError:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise StoreError(
                f"{key}: the mapping has a {kind}, not bytes; pass the store it belongs to "
                "(a zarr.storage.MemoryStore, say) instead of the mapping"
            ) from None

    def locate(self, keys: Sequence[str]) -> Located:
        found = Located.unknown(len(keys))
        values = [self._value(key) for key in keys]
        found.inline = values
        found.missing = np.array([value is None for value in values], np.bool_)
        return found

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        value = self._value(key)
        if value is None:
            return None
        check_limit(key, len(value), limit)
        return BytesReader(value)

    def size(self, key: str) -> int | None:
        value = self._value(key)
        return None if value is None else len(value)

    def exists(self, key: str) -> bool:
        return check_key(key) in self.data

    # -- listing ------------------------------------------------------------------------------

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        return keys_below(list(self.data), prefix)  # a copy: others may write meanwhile

    def list_dir(self, prefix: str = "") -> list[str]:
        return names_below(list(self.data), prefix)

    # -- writing ------------------------------------------------------------------------------

    def set(self, key: str, value: Bytes) -> None:
        self.check_writable()
        self.data[check_key(key)] = bytes(value)

    def delete(self, key: str) -> None:
        self.check_writable()
        self.data.pop(check_key(key), None)

    def delete_prefix(self, prefix: str = "") -> None:
        self.check_writable()
        for key in self.list_prefix(prefix):
            self.data.pop(key, None)

    def lock(self, key: str) -> AbstractContextManager[Any]:
        self.check_writable()
        return process_lock((self.identity, key))

    # -- housekeeping -------------------------------------------------------------------------

    @property
    def in_process(self) -> Literal["", "copied", "lost"]:
        # Any other mapping knows by itself how it gets to another process.
        return "copied" if isinstance(self.data, dict) else ""

    @property
    def identity(self) -> Hashable:
        return "memory", id(self.data)

    def with_read_only(self, read_only: bool = True) -> MemoryStore:
        return MemoryStore(self.data, read_only=read_only)
