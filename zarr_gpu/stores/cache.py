"""A store that remembers what it has read. Knows no particular store.

>>> from zarr_gpu.stores.memory import MemoryStore
>>> store = CacheStore(MemoryStore({"a": b"0123"}), max_bytes=1 << 20)
>>> bytes(store.get("a"))
b'0123'
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.stores.base import ByteRange, Reader, Store, check_limit
from zarr_gpu.stores.wrappers import WrappedReader, WrappedStore


class CacheStore(WrappedStore):
    """Remembers up to ``max_bytes`` bytes of objects and ranges, dropping the least recently used.

    Meant for data that nobody else changes: what is replaced behind its back may be answered from
    memory, except through a reader of a store that tells versions apart.
    """

    def __init__(self, store: Store, max_bytes: int) -> None:
        super().__init__(store)
        self.max_bytes = max_bytes
        self._cache = _Cache(max_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return CacheStore, (self.store, self.max_bytes)

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        whole = self._cache.find(key, None)
        if whole is not None:
            start, stop = (byte_range or ByteRange(0)).resolve(len(whole))
            check_limit(key, stop - start, limit)
            return memoryview(whole)[start:stop]
        data = self._cache.find(key, byte_range)
        if data is None:
            return self._cache.fetch(
                key, byte_range, lambda: self.store.get(key, byte_range, limit=limit)
            )
        check_limit(key, len(data), limit)
        return data

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        rows = zip(keys, offset.tolist(), nbytes.tolist(), strict=True)
        wanted = [
            (key, None if (start, n) == (0, -1) else ByteRange(start, None if n < 0 else n))
            for key, start, n in rows
        ]
        found: list[Bytes | None] = [self._cache.find(*want) for want in wanted]
        absent = [i for i, data in enumerate(found) if data is None]
        started = self._cache.writes
        fetched = self.store.get_many(
            [keys[i] for i in absent], offset[absent], nbytes[absent], limit=limit
        )
        for i, data in zip(absent, fetched, strict=True):
            found[i] = data
            self._cache.keep(*wanted[i], data, started)
        for key, data in zip(keys, found, strict=True):
            check_limit(key, len(data or b""), limit)
        return found

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        reader = self.store.open_reader(key, limit=limit)
        return None if reader is None else _CachedReader(reader, key, self._cache)

    def set(self, key: str, value: Bytes) -> None:
        self.set_many([(key, value)])

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        try:
            self.store.set_many(items)
        finally:
            self._cache.drop(key for key, _ in items)

    def set_if_absent(self, key: str, value: Bytes) -> bool:
        try:
            return self.store.set_if_absent(key, value)
        finally:
            self._cache.drop([key])

    def delete(self, key: str) -> None:
        try:
            self.store.delete(key)
        finally:
            self._cache.drop([key])

    def delete_prefix(self, prefix: str = "") -> None:
        try:
            self.store.delete_prefix(prefix)
        finally:
            self._cache.clear()


class _CachedReader(WrappedReader):
    def __init__(self, reader: Reader, key: str, cache: _Cache) -> None:
        super().__init__(reader)
        self._key = key
        self._cache = cache

    def read(self, offset: int, nbytes: int) -> Bytes:
        what = (self.version, offset, nbytes)
        data = self._cache.find(self._key, what)
        if data is None:
            data = self._cache.fetch(self._key, what, lambda: self.reader.read(offset, nbytes))
        return data or b""

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        return Reader.read_many(self, offset, nbytes)

    def read_into(self, offset: int, out: memoryview) -> None:
        out[:] = self.read(offset, len(out))


class _Cache:
    """Bytes by key and part of it (None: all), least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self.writes = 0
        """Grows with every write: what was fetched before one may be old."""
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._entries: OrderedDict[tuple[str, Hashable], Bytes] = OrderedDict()
        self._parts: dict[str, set[Hashable]] = {}
        self._lock = threading.Lock()

    def find(self, key: str, part: Hashable) -> Bytes | None:
        with self._lock:
            data = self._entries.get((key, part))
            if data is not None:
                self._entries.move_to_end((key, part))
            return data

    def fetch(self, key: str, part: Hashable, read: Callable[[], Bytes | None]) -> Bytes | None:
        started = self.writes
        data = read()
        self.keep(key, part, data, started)
        return data

    def keep(self, key: str, part: Hashable, data: Bytes | None, started: int) -> None:
        if data is None or len(data) > self._max_bytes:
            return
        data = bytes(data)  # a view would keep alive what it is a part of
        with self._lock:
            if self.writes != started:
                return
            self._remove(key, part)
            self._entries[key, part] = data
            self._parts.setdefault(key, set()).add(part)
            self._nbytes += len(data)
            while self._nbytes > self._max_bytes:
                self._remove(*next(iter(self._entries)))

    def _remove(self, key: str, part: Hashable) -> None:
        data = self._entries.pop((key, part), None)
        if data is not None:
            self._nbytes -= len(data)
            self._parts[key].discard(part)
            if not self._parts[key]:
                del self._parts[key]

    def drop(self, keys: Iterable[str]) -> None:
        with self._lock:
            self.writes += 1
            for key in keys:
                for part in list(self._parts.get(key, ())):
                    self._remove(key, part)

    def clear(self) -> None:
        with self._lock:
            self.writes += 1
            self._nbytes = 0
            self._entries.clear()
            self._parts.clear()
