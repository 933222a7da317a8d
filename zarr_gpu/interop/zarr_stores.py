"""Stores of zarr-python as ours, for reading and writing its arrays.

Local directories and dictionaries are accessed directly. Every other store keeps all its behaviour:
its coroutines run in the event loop that zarr-python itself uses for them, while our threads wait
for the answers; so nothing here may be called from that loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import ZarrGpuError
from zarr_gpu.stores.base import ByteRange, Located, Reader, Store, check_key
from zarr_gpu.stores.common import failed
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.locks import process_lock
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.zarr_python import REQUESTS, ZarrPythonStore

T = TypeVar("T")


class Files(LocalStore):
    """The directory of a ``zarr.storage.LocalStore``.

    Links are followed, as there, and no lock files are left in it: writers of this process exclude
    each other, which is more than zarr-python does.
    """

    def lock(self, key: str) -> AbstractContextManager[Any]:  # type: ignore[override]  # a wider type
        return process_lock((self.identity, key))


class Buffers(MemoryStore):
    """The dictionary of a ``zarr.storage.MemoryStore``, whose values are buffers."""

    data: MutableMapping[str, Any]  # type: ignore[assignment]  # not bytes

    def _value(self, key: str) -> Any:
        try:
            value = self.data[key]
        except KeyError:
            return None
        return _memory(value)

    def set(self, key: str, value: Bytes) -> None:
        from zarr.core.buffer import cpu

        self.check_writable()
        self.data[key] = cpu.Buffer.from_bytes(bytes(value))


class Adapted(ZarrPythonStore):
    """Any store of zarr-python, by its coroutines, in the loop where these belong."""

    def __init__(self, store: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(store)
        self.read_only = bool(store.read_only)
        self.supports_deletes = bool(store.supports_deletes)
        self._loop = loop

    def _run(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(_answer(work), self._loop)
        try:
            found, error = future.result()
        except BaseException:
            future.cancel()
            raise
        if error is None:
            return found  # type: ignore[return-value]  # of the work, where there is no error
        if isinstance(error, ZarrGpuError):
            raise error
        raise failed(f"cannot {what} of {self!r}", error) from error

    def _needs_size(self, wanted: ByteRange, limit: int | None) -> bool:
        """Sizes are compared with limits afterwards: asking first would double the requests."""
        return wanted.offset < 0 or wanted.nbytes == 0

    def set(self, key: str, value: Bytes) -> None:
        self.set_many([(key, value)])

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        from zarr.core.buffer import cpu

        self.check_writable()
        buffers = [(check_key(key), cpu.Buffer.from_bytes(bytes(value))) for key, value in items]

        async def write_all() -> None:
            slots = asyncio.Semaphore(REQUESTS)

            async def write(key: str, value: Any) -> None:
                async with slots:
                    await self.store.set(key, value)

            await asyncio.gather(*(write(key, value) for key, value in buffers))

        self._run("write objects", write_all())

    def delete(self, key: str) -> None:
        self.check_writable()
        self._run(f"delete {key!r}", self.store.delete(check_key(key)))

    def lock(self, key: str) -> AbstractContextManager[Any]:
        return process_lock((self.identity, key))

    @property
    def identity(self) -> Hashable:
        return "zarr-python", id(self.store)


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


def direct(store: Any) -> Store | None:
    """``store`` as one of ours that needs no event loop, or None."""
    from zarr.storage import LocalStore as TheirFiles
    from zarr.storage import MemoryStore as TheirBuffers

    if type(store) is TheirFiles:
        return Files(str(store.root), read_only=store.read_only, follow_symlinks=True)
    if type(store) is TheirBuffers:
        return Buffers(store._store_dict, read_only=store.read_only)  # noqa: SLF001 - no public name
    return None


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
