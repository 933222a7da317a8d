"""What a store is: bytes by key.

Keys are relative paths with ``/`` and no empty, ``.`` or ``..`` segment (:func:`check_key`); the
empty prefix is the root. A store knows nothing about Zarr. Reads answer ``None`` only for a
*definite* "there is no such key"; everything doubtful raises :class:`~zarr_gpu.errors.StoreError`,
because a missing chunk silently becomes fill values further up.

A store class implements ``get``, ``locate`` and ``size``, plus ``set`` and its kin when it can be
written and ``list_prefix`` when it can be listed; the base class builds the rest on these.

>>> from zarr_gpu.stores.memory import MemoryStore
>>> store = MemoryStore({"a/b": b"0123456789"})
>>> bytes(store.get("a/b", ByteRange(-3)))
b'789'
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from zarr_gpu._types import Bools, Bytes, Int64
from zarr_gpu.errors import (
    LimitError,
    ReadOnlyError,
    StoreError,
    StoreKeyError,
    UnsafeConcurrentWriteError,
    UnsupportedError,
)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``nbytes`` bytes from ``offset``; a negative offset counts from the end.

    ``nbytes=None`` reads to the end of the object. Ranges beyond the end are cut short, as a
    server would: callers compare lengths.
    """

    offset: int
    nbytes: int | None = None

    def resolve(self, size: int) -> tuple[int, int]:
        """``(start, stop)`` inside an object of ``size`` bytes."""
        start = max(0, size + self.offset) if self.offset < 0 else min(self.offset, size)
        stop = size if self.nbytes is None else min(start + self.nbytes, size)
        return start, stop


@dataclass(slots=True, kw_only=True)
class Located:
    """Where the bytes of many keys are, in columns (one row per key).

    ``path``: file to open on this machine, or None when only the store can fetch the bytes.
    ``offset``, ``nbytes``: the bytes inside that file; ``nbytes`` is -1 for "to its end".
    ``inline``: the bytes themselves, when the store holds them.
    ``missing``: True where the key is known to be absent (False: present, or not known yet).
    """

    path: Sequence[str | None]
    offset: Int64
    nbytes: Int64
    inline: Sequence[Bytes | None] | None
    missing: Bools

    @classmethod
    def unknown(cls, n: int) -> Self:
        """``n`` rows of which the store can only say: ask me."""
        return cls(
            path=[None] * n,
            offset=np.zeros(n, np.int64),
            nbytes=np.full(n, -1, np.int64),
            inline=None,
            missing=np.zeros(n, np.bool_),
        )


class Reader:
    """One stored object, opened: every read sees the same version of it.

    ``size`` is its length in bytes; ``version`` changes when the object is replaced and is None
    where the store cannot tell.
    """

    size: int
    version: Hashable

    def read(self, offset: int, nbytes: int) -> Bytes:
        """Exactly ``nbytes`` bytes; raises StoreError when the object is shorter."""
        raise NotImplementedError

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        """Several ranges, as columns. Stores with high latency override this."""
        return [self.read(o, n) for o, n in zip(offset.tolist(), nbytes.tolist(), strict=True)]

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill ``out`` from ``offset`` on; raises StoreError when the object is shorter."""
        out[:] = self.read(offset, len(out))

    def scatter(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers``, one after the other, with the bytes from ``offset`` on."""
        if len(buffers) == 1:
            self.read_into(offset, buffers[0])
            return
        data = memoryview(self.read(offset, sum(map(len, buffers))))
        at = 0
        for buffer in buffers:
            buffer[:] = data[at : at + len(buffer)]
            at += len(buffer)

    def map(self, *, private: bool = False) -> Any:
        """The object as memory that the system reads on demand, None where that is no file here.

        It is read-only, or, when ``private``, writable without a way back to the file.
        Only for as long as nobody cuts the file short: reading behind its end ends the process.
        """
        return None

    def close(self) -> None:
        """Release the file handle, if there is one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BytesReader(Reader):
    """A :class:`Reader` over bytes in memory."""

    __slots__ = ("data", "size", "version")

    def __init__(self, data: Bytes, version: Hashable = None) -> None:
        self.data = memoryview(data)
        self.size = len(data)
        self.version = version

    def read(self, offset: int, nbytes: int) -> Bytes:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise StoreError(f"bytes {offset}..{offset + nbytes} of an object of {self.size}")
        return self.data[offset : offset + nbytes]


class Store:
    """Base of all stores; see the module docstring for what a subclass implements."""

    read_only: bool = False
    local: bool = False
    """True when reads take microseconds, so that few threads are enough."""
    trusted: bool | None = None
    """Whether its bytes may reach decoders that are defined for valid data only; None: if local."""
    fills: bool = False
    """True when :meth:`fill` reads straight into the buffers."""
    supports_deletes: bool = True
    supports_listing: bool = True
    deletes_at_once: bool = False
    """True when :meth:`delete_prefix` of a directory removes all or, if it fails, nothing."""

    # -- reading ------------------------------------------------------------------------------

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        """The bytes of ``key`` (or of a range of it), None when there is no such key.

        Raises LimitError, before reading, when the bytes to be read are more than ``limit``.
        """
        raise NotImplementedError

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        """Ranges of many keys, as columns; ``nbytes`` -1 reads to the end.

        Stores with high latency override this with one batched call.
        """
        return [
            self.get(k, ByteRange(o, None if n < 0 else n), limit=limit)
            for k, o, n in zip(keys, offset.tolist(), nbytes.tolist(), strict=True)
        ]

    def fill(self, keys: Sequence[str], buffers: Iterable[memoryview]) -> Iterator[int]:
        """Read object after object, each into the beginning of its buffer.

        Yields the length of each, -1 where there is no such key; the buffer is free again when the
        next length is asked for. Raises LimitError when an object is longer than its buffer. What
        a store reads this way it may check less: a length that cannot be is a reason to ``get``.
        """
        for key, buffer in zip(keys, buffers, strict=False):
            data = self.get(key, limit=len(buffer))
            if data is not None:
                buffer[: len(data)] = data
            yield -1 if data is None else len(data)

    def locate(self, keys: Sequence[str]) -> Located:
        """Where the bytes of these keys are, without reading them."""
        return Located.unknown(len(keys))

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        """Open one object for several ranged reads, None when there is no such key.

        Raises LimitError when the object is larger than ``limit``.
        """
        size = self.size(key)
        if size is None:
            return None
        check_limit(key, size, limit)
        return _StoreReader(self, key, size)

    def size(self, key: str) -> int | None:
        """Stored length in bytes, None when there is no such key."""
        raise NotImplementedError

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    # -- listing ------------------------------------------------------------------------------

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        """All keys at or below the directory ``prefix``, in no order."""
        raise UnsupportedError(f"{self!r} cannot list its keys")

    def list_dir(self, prefix: str = "") -> list[str]:
        """Names directly below the directory ``prefix`` (files and directories), sorted."""
        skip = len(prefix) + 1 if prefix else 0
        return sorted({key[skip:].split("/", 1)[0] for key in self.list_prefix(prefix)})

    def list_holding(self, prefix: str, names: Sequence[str]) -> list[str] | None:
        """Directories directly below ``prefix`` that hold an object of one of ``names``, sorted.

        None where that takes a request for each: the caller then asks for many at a time.
        """
        return None

    # -- writing ------------------------------------------------------------------------------

    def set(self, key: str, value: Bytes) -> None:
        """Replace the object at ``key``; readers see the old or the new bytes, never a mixture."""
        raise ReadOnlyError(f"{self!r} cannot be written")

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        """Replace many objects; durable stores flush them together."""
        for key, value in items:
            self.set(key, value)

    def set_parts(self, key: str, parts: Callable[[], Iterable[Bytes]]) -> bool:
        """Replace the object at ``key`` by parts that follow each other.

        False, and nothing changed, when there are no parts. A part is used up before the next is
        asked for, so that all can be made in the same memory; ``parts`` is called again when a
        write has to be repeated.
        """
        copies = [bytes(part) for part in parts()]
        if copies:
            self.set(key, copies[0] if len(copies) == 1 else b"".join(copies))
        return bool(copies)

    @property
    def flushes(self) -> bool:
        """True when writes wait for a disk, so that :meth:`set_many` is faster than many sets."""
        return False

    def set_if_absent(self, key: str, value: Bytes) -> bool:
        """Create ``key``; False, and nothing written, when it is already there."""
        with self.lock(key):
            if self.exists(key):
                return False
            self.set(key, value)
            return True

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens when it is not there."""
        raise ReadOnlyError(f"{self!r} cannot be written")

    def delete_prefix(self, prefix: str = "") -> None:
        """Remove all keys at or below the directory ``prefix``."""
        for key in list(self.list_prefix(prefix)):
            self.delete(key)

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Hold off every other writer of ``key`` that asks for the lock.

        Raises UnsafeConcurrentWriteError where the store can exclude other processes by neither
        lock nor compare-and-swap.
        """
        raise UnsafeConcurrentWriteError(f"{self!r} has no locks")

    # -- housekeeping -------------------------------------------------------------------------

    @property
    def in_process(self) -> Literal["", "copied", "lost"]:
        """Of stores in memory: whether a pickle carries the objects along, or loses them."""
        return ""

    @property
    def identity(self) -> Hashable:
        """Equal for two stores over the same bytes; key of lock tables and caches."""
        return id(self)

    def with_read_only(self, read_only: bool = True) -> Store:
        """The same bytes through a store that refuses (or accepts) writes."""
        raise UnsupportedError(f"{self!r} cannot change read_only")

    def check_writable(self) -> None:
        """Raise ReadOnlyError when the store was opened for reading."""
        if self.read_only:
            raise ReadOnlyError(f"{self!r} is read-only")

    def close(self) -> None:
        """Release file handles; the store cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _StoreReader(Reader):
    """A :class:`Reader` made of ``get`` calls."""

    __slots__ = ("_key", "_store", "size", "version")

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store = store
        self._key = key
        self.size = size
        self.version = None

    def read(self, offset: int, nbytes: int) -> Bytes:
        return self._full(self._store.get(self._key, ByteRange(offset, nbytes)), nbytes)

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        got = self._store.get_many([self._key] * len(offset), offset, nbytes)
        return [self._full(data, n) for data, n in zip(got, nbytes.tolist(), strict=True)]

    def _full(self, data: Bytes | None, nbytes: int) -> Bytes:
        if data is None or len(data) != nbytes:
            found = "nothing" if data is None else f"{len(data)} bytes"
            raise StoreError(f"{self._key}: asked for {nbytes} bytes, got {found}")
        return data


def check_limit(key: str, nbytes: int, limit: int | None) -> None:
    """Raise LimitError when ``nbytes`` is more than ``limit``."""
    if limit is not None and nbytes > limit:
        raise LimitError(
            f"{key}: {nbytes} bytes are stored, but the metadata allows at most {limit}",
            expected=f"at most {limit} bytes",
            found=f"{nbytes} bytes",
        )


def check_key(key: str) -> str:
    """``key`` itself when it is a legal key; raises StoreKeyError otherwise.

    This is the one gate between names found in documents and the file system.
    """
    if not key or key[0] == "/" or "\\" in key or "\0" in key:
        raise StoreKeyError(f"illegal store key {key!r}")
    if key in (".", "..") or "./" in key or "//" in key or key.endswith(("/", "/.", "/..")):
        for part in key.split("/"):
            if part in ("", ".", ".."):
                raise StoreKeyError(f"illegal store key {key!r}: segment {part!r}")
    return key
