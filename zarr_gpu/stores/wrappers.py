"""Stores around stores: counting, logging and merging of reads.

A wrapper hands everything it does not change to the store inside. Knows no particular store.

>>> from zarr_gpu.stores.memory import MemoryStore
>>> store = CountingStore(MemoryStore({"a": b"0123"}))
>>> _ = store.get("a")
>>> store.reads
[Read(key='a', offset=0, nbytes=4)]
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.stores.base import ByteRange, Located, Reader, Store, check_limit
from zarr_gpu.stores.common import SameBytes
from zarr_gpu.stores.ranges import coalesce


class WrappedStore(SameBytes):
    """Does what ``store`` does; base of the other wrappers."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.read_only = store.read_only
        self.local = store.local
        self.trusted = store.trusted
        self.supports_deletes = store.supports_deletes
        self.supports_listing = store.supports_listing

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    def _around(self, store: Store) -> Self:
        """The same wrapper, with the same records, around another store."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.store = store
        other.read_only = store.read_only
        return other

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        return self.store.get(key, byte_range, limit=limit)

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        return self.store.get_many(keys, offset, nbytes, limit=limit)

    def locate(self, keys: Sequence[str]) -> Located:
        """Nothing, so that all reads pass through the wrapper."""
        return Located.unknown(len(keys))

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        return self.store.open_reader(key, limit=limit)

    def size(self, key: str) -> int | None:
        return self.store.size(key)

    def exists(self, key: str) -> bool:
        return self.store.exists(key)

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        return self.store.list_prefix(prefix)

    def list_dir(self, prefix: str = "") -> list[str]:
        return self.store.list_dir(prefix)

    def list_holding(self, prefix: str, names: Sequence[str]) -> list[str] | None:
        return self.store.list_holding(prefix, names)

    def set(self, key: str, value: Bytes) -> None:
        self.store.set(key, value)

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        self.store.set_many(items)

    def set_if_absent(self, key: str, value: Bytes) -> bool:
        return self.store.set_if_absent(key, value)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def delete_prefix(self, prefix: str = "") -> None:
        self.store.delete_prefix(prefix)

    def lock(self, key: str) -> AbstractContextManager[Any]:
        return self.store.lock(key)

    @property
    def in_process(self) -> Literal["", "copied", "lost"]:
        return self.store.in_process

    @property
    def identity(self) -> Hashable:
        return self.store.identity

    def with_read_only(self, read_only: bool = True) -> Self:
        return self._around(self.store.with_read_only(read_only))

    def close(self) -> None:
        self.store.close()


class WrappedReader(Reader):
    """Does what ``reader`` does."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.size = reader.size
        self.version = reader.version

    def read(self, offset: int, nbytes: int) -> Bytes:
        return self.reader.read(offset, nbytes)

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        return self.reader.read_many(offset, nbytes)

    def read_into(self, offset: int, out: memoryview) -> None:
        self.reader.read_into(offset, out)

    def close(self) -> None:
        self.reader.close()


# -- counting ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """One answered read; ``nbytes`` is None when the key was missing."""

    key: str
    offset: int
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Write:
    """One write; ``nbytes`` is None for a deletion."""

    key: str
    nbytes: int | None


class _ObservedStore(WrappedStore):
    """Calls ``_on_read`` and ``_on_write`` after what succeeded."""

    def _on_read(self, key: str, offset: int, nbytes: int | None) -> None:
        raise NotImplementedError

    def _on_write(self, key: str, nbytes: int | None) -> None:
        raise NotImplementedError

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        data = self.store.get(key, byte_range, limit=limit)
        offset = byte_range.offset if byte_range else 0
        self._on_read(key, offset, None if data is None else len(data))
        return data

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        found = self.store.get_many(keys, offset, nbytes, limit=limit)
        for key, start, data in zip(keys, offset.tolist(), found, strict=True):
            self._on_read(key, start, None if data is None else len(data))
        return found

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        reader = self.store.open_reader(key, limit=limit)
        if reader is not None:
            return _ObservedReader(reader, key, self._on_read)
        self._on_read(key, 0, None)
        return None

    def set(self, key: str, value: Bytes) -> None:
        self.store.set(key, value)
        self._on_write(key, len(value))

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        self.store.set_many(items)
        for key, value in items:
            self._on_write(key, len(value))

    def set_if_absent(self, key: str, value: Bytes) -> bool:
        created = self.store.set_if_absent(key, value)
        if created:
            self._on_write(key, len(value))
        return created

    def delete(self, key: str) -> None:
        self.store.delete(key)
        self._on_write(key, None)

    def delete_prefix(self, prefix: str = "") -> None:
        self.store.delete_prefix(prefix)
        self._on_write(prefix, None)


class _ObservedReader(WrappedReader):
    def __init__(
        self, reader: Reader, key: str, on_read: Callable[[str, int, int | None], None]
    ) -> None:
        super().__init__(reader)
        self._key = key
        self._on_read = on_read

    def read(self, offset: int, nbytes: int) -> Bytes:
        data = self.reader.read(offset, nbytes)
        self._on_read(self._key, offset, nbytes)
        return data

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        found = self.reader.read_many(offset, nbytes)
        for start, n in zip(offset.tolist(), nbytes.tolist(), strict=True):
            self._on_read(self._key, start, n)
        return found

    def read_into(self, offset: int, out: memoryview) -> None:
        self.reader.read_into(offset, out)
        self._on_read(self._key, offset, len(out))


class CountingStore(_ObservedStore):
    """Keeps lists of what was read and written; ``clear()`` empties them."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.reads: list[Read] = []
        self.writes: list[Write] = []

    @property
    def bytes_read(self) -> int:
        return sum(read.nbytes or 0 for read in self.reads)

    @property
    def bytes_written(self) -> int:
        return sum(write.nbytes or 0 for write in self.writes)

    @property
    def keys_read(self) -> set[str]:
        return {read.key for read in self.reads}

    def clear(self) -> None:
        self.reads.clear()
        self.writes.clear()

    def _on_read(self, key: str, offset: int, nbytes: int | None) -> None:
        self.reads.append(Read(key, offset, nbytes))

    def _on_write(self, key: str, nbytes: int | None) -> None:
        self.writes.append(Write(key, nbytes))


class LoggingStore(_ObservedStore):
    """Writes one line per read and write to ``logger``, at level DEBUG."""

    def __init__(self, store: Store, logger: logging.Logger | None = None) -> None:
        super().__init__(store)
        self.logger = logger or logging.getLogger("zarr_gpu.stores")

    def _on_read(self, key: str, offset: int, nbytes: int | None) -> None:
        what = "missing" if nbytes is None else f"{nbytes} bytes from {offset}"
        self.logger.debug("read %s: %s", key, what)

    def _on_write(self, key: str, nbytes: int | None) -> None:
        self.logger.debug(
            "%s", f"delete {key}" if nbytes is None else f"write {key}: {nbytes} bytes"
        )


# -- merging of ranges ------------------------------------------------------------------------


class CoalescingStore(WrappedStore):
    """Reads ranges of one object that lie close together as one; see :func:`coalesce`."""

    def __init__(self, store: Store, max_gap: int, max_bytes: int) -> None:
        super().__init__(store)
        self.max_gap = max_gap
        self.max_bytes = max_bytes

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        rows_of: dict[tuple[str, int], list[int]] = {}
        for row, (key, start, n) in enumerate(
            zip(keys, offset.tolist(), nbytes.tolist(), strict=True)
        ):
            open_ended = start < 0 or n < 0  # such ranges cannot be compared: left alone
            rows_of.setdefault((key, row if open_ended else -1), []).append(row)
        reads: list[tuple[str, int, int]] = []
        read_of = np.zeros(len(keys), np.int64)
        for (key, alone), rows in rows_of.items():
            if alone >= 0:
                read_of[alone] = len(reads)
                reads.append((key, int(offset[alone]), int(nbytes[alone])))
                continue
            start, length, group = coalesce(
                offset[rows], nbytes[rows], self.max_gap, self.max_bytes
            )
            read_of[rows] = len(reads) + group
            reads += [(key, o, n) for o, n in zip(start.tolist(), length.tolist(), strict=True)]
        found = self.store.get_many(
            [key for key, _, _ in reads],
            np.array([o for _, o, _ in reads], np.int64),
            np.array([n for _, _, n in reads], np.int64),
            limit=None if limit is None else max(limit, self.max_bytes),
        )
        return [
            _part(found[read], reads[read], int(offset[row]), int(nbytes[row]), limit)
            for row, read in enumerate(read_of.tolist())
        ]

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        reader = self.store.open_reader(key, limit=limit)
        return None if reader is None else _CoalescingReader(reader, self.max_gap, self.max_bytes)


def _part(
    data: Bytes | None, read: tuple[str, int, int], offset: int, nbytes: int, limit: int | None
) -> Bytes | None:
    key, start, _ = read
    if data is None:
        return None
    if offset >= 0 and nbytes >= 0:
        data = memoryview(data)[offset - start : offset - start + nbytes]
    check_limit(key, len(data), limit)
    return data


class _CoalescingReader(WrappedReader):
    def __init__(self, reader: Reader, max_gap: int, max_bytes: int) -> None:
        super().__init__(reader)
        self._max_gap = max_gap
        self._max_bytes = max_bytes

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        start, length, group = coalesce(offset, nbytes, self._max_gap, self._max_bytes)
        found = [memoryview(data) for data in self.reader.read_many(start, length)]
        begin = (offset - start[group]).tolist()
        rows = zip(group.tolist(), begin, nbytes.tolist(), strict=True)
        return [found[g][b : b + n] for g, b, n in rows]
