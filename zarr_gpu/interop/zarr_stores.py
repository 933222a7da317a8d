"""Stores of zarr-python as ours, for reading and writing its arrays.

Local directories and dictionaries are accessed directly. Every other store keeps all its behaviour:
its coroutines run in the event loop that zarr-python itself uses for them, while our threads wait
for the answers; so nothing here may be called from that loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import StoreError
from zarr_gpu.stores.base import ByteRange, Located, Reader, Store
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.locks import process_lock
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.zarr_python import ZarrPythonStore

T = TypeVar("T")


class Files(LocalStore):
    """The directory of a ``zarr.storage.LocalStore``.

    Links are followed, as there, and no lock files are left in it: writers of this process exclude
    each other, which is more than zarr-python does.
    """

    _path_of_theirs: Any = None

    def lock(self, key: str) -> AbstractContextManager[Any]:  # type: ignore[override]  # a wider type
        return process_lock((self.identity, key))

    @classmethod
    def of(cls, store: Any) -> Self:
        files = cls(str(store.root), read_only=store.read_only, follow_symlinks=True)
        files._path_of_theirs = store.root
        return files

    def is_of(self, store: Any) -> bool:
        return self._path_of_theirs is store.root

    def for_buffers(self, prototype: Any) -> Self:
        return self


class Buffers(MemoryStore):
    """The dictionary of a ``zarr.storage.MemoryStore``, whose values are buffers."""

    data: MutableMapping[str, Any]
    _buffer: Any = None

    @classmethod
    def of(cls, store: Any) -> Self:
        return cls(store._store_dict, read_only=store.read_only)  # noqa: SLF001 - no public name

    def is_of(self, store: Any) -> bool:
        return self.data is store._store_dict  # noqa: SLF001 - the same

    def for_buffers(self, prototype: Any) -> Self:
        """The same dictionary, for writing buffers of that class."""
        if self._buffer is prototype.buffer:
            return self
        other = type(self)(self.data, read_only=self.read_only)
        other._buffer = prototype.buffer  # noqa: SLF001 - of this class
        return other

    def _value(self, key: str) -> Any:
        try:
            value = self.data[key]
        except KeyError:
            return None
        return _memory(value)

    def set(self, key: str, value: Bytes) -> None:
        self.check_writable()
        self.data[key] = self._buffer.from_bytes(bytes(value))


class Adapted(ZarrPythonStore):
    """Any store of zarr-python for one request, by its coroutines, in the loop where these belong.

    ``index`` says where the index of a shard is and how long: it is then fetched once, without
    asking for the shard's size before.
    """

    def __init__(
        self,
        store: Any,
        loop: asyncio.AbstractEventLoop,
        prototype: Any,
        index: tuple[Literal["start", "end"], int] | None,
    ) -> None:
        super().__init__(store)
        self._prototype = prototype
        self._loop = loop
        self._index = index
        self._readers: dict[str, Reader | None] = {}

    def _run(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(_answer(work), self._loop)
        try:
            found, error = future.result()
        except BaseException:
            future.cancel()
            raise
        if error is not None:
            raise error  # what users of the store know, unchanged
        return found  # type: ignore[return-value]  # of the work, where there is no error

    def _needs_size(self, wanted: ByteRange, limit: int | None) -> bool:
        """Sizes are compared with limits afterwards: asking first would double the requests."""
        return wanted.nbytes == 0 or (wanted.offset < 0 and wanted.nbytes is not None)

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        if self._index is None:
            return super().open_reader(key, limit=limit)
        with process_lock((id(self), key)):  # others wait for the same index
            if key not in self._readers:
                self._readers[key] = self._open_shard(key, *self._index)
            return self._readers[key]

    def _open_shard(self, key: str, location: str, nbytes: int) -> Reader | None:
        offset = -nbytes if location == "end" else 0
        data = self.get(key, ByteRange(offset, None if offset else nbytes))
        return None if data is None else _Shard(self, key, offset, data)

    def lock(self, key: str) -> AbstractContextManager[Any]:
        return process_lock((self.identity, key))

    @property
    def identity(self) -> Hashable:
        return "zarr-python", id(self.store)


class _Shard(Reader):
    """A shard of unknown size with its index read."""

    UNKNOWN = 1 << 62
    """Stands for the size: what lies behind the real one is not there when it is asked for."""

    def __init__(self, store: Adapted, key: str, offset: int, index: Bytes) -> None:
        self._store = store
        self._key = key
        self._at = offset if offset >= 0 else self.UNKNOWN + offset
        self._index = index
        self.version = None
        # All there is, where that is shorter than an index.
        self.size = self.UNKNOWN if len(index) >= abs(offset) else len(index)

    def read(self, offset: int, nbytes: int) -> Bytes:
        if (offset, nbytes) == (self._at, len(self._index)):
            return self._index
        return self.read_many(np.array([offset]), np.array([nbytes]))[0]

    def read_many(self, offset: Int64, nbytes: Int64) -> list[Bytes]:
        found = self._store.get_many([self._key] * len(offset), offset, nbytes)
        out = []
        for data, at, n in zip(found, offset.tolist(), nbytes.tolist(), strict=True):
            if data is None or len(data) != n:
                there = "nothing" if data is None else f"{len(data)} bytes"
                raise StoreError(f"{self._key}: asked for {n} bytes at {at}, got {there}")
            out.append(data)
        return out


async def _answer(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """What ``work`` gives or raises: an exception kept in a future would be a reference cycle."""
    try:
        return await work, None
    # Stores raise whatever the library below them raises.
    except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
        return None, error


def _memory(buffer: Any) -> memoryview:
    """The bytes of a buffer of zarr-python; those on a device are copied."""
    return np.ascontiguousarray(buffer.as_numpy_array()).reshape(-1).view(np.uint8).data


Direct: TypeAlias = Files | Buffers


def direct(store: Any) -> Direct | None:
    """``store`` as one of ours that needs no event loop, or None."""
    from zarr.storage import LocalStore as TheirFiles
    from zarr.storage import MemoryStore as TheirBuffers

    if type(store) is TheirFiles:
        return Files.of(store)
    return Buffers.of(store) if type(store) is TheirBuffers else None


def on_host(prototype: Any) -> Any:
    """Buffers for stored bytes, which we want in host memory also where arrays are on a device."""
    from zarr.core.buffer import cpu

    return prototype if issubclass(prototype.buffer, cpu.Buffer) else cpu.buffer_prototype


class Watched(Store):
    """A store for one read, which remembers for which keys there was nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read_only = True
        self.local = store.local
        self.trusted = store.trusted
        self.fills = store.fills
        self.missing: set[str] = set()

    def __repr__(self) -> str:
        return repr(self._store)

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        data = self._store.get(key, byte_range, limit=limit)
        if data is None:
            self.missing.add(key)
        return data

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        found = self._store.get_many(keys, offset, nbytes, limit=limit)
        self.missing.update(key for key, data in zip(keys, found, strict=True) if data is None)
        return found

    def fill(self, keys: Sequence[str], buffers: Iterable[memoryview]) -> Iterator[int]:
        for key, n in zip(keys, self._store.fill(keys, buffers), strict=False):
            if n < 0:
                self.missing.add(key)
            yield n

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        reader = self._store.open_reader(key, limit=limit)
        if reader is None:
            self.missing.add(key)
        return reader

    def locate(self, keys: Sequence[str]) -> Located:
        return self._store.locate(keys)

    def size(self, key: str) -> int | None:
        return self._store.size(key)

    def exists(self, key: str) -> bool:
        return self._store.exists(key)

    @property
    def identity(self) -> Hashable:
        return self._store.identity
