"""Anything that is a store of zarr-python 3: Icechunk's, obstore's, one's own.

Its stores are asynchronous: one thread of ours runs an event loop and drives them. Knows the
abstract class ``zarr.abc.store.Store`` and no particular store; zarr is imported when the first
adapter is made.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import MissingDependencyError, UnsafeConcurrentWriteError, ZarrGpuError
from zarr_gpu.stores.base import ByteRange, Store, check_key, check_limit
from zarr_gpu.stores.common import SameBytes, check_prefix, failed
from zarr_gpu.stores.locks import REMEDY, process_lock

T = TypeVar("T")
REQUESTS = 64
"""Requests under way at once."""


class ZarrPythonStore(SameBytes):
    """The objects of ``store``, a ``zarr.abc.store.Store``.

    How safe a write is against being interrupted is for that store to say. Only those in memory
    have locks.
    """

    def __init__(self, store: Any, *, read_only: bool = False) -> None:
        try:
            from zarr.core.buffer import default_buffer_prototype
        except ImportError as error:
            raise MissingDependencyError("ZarrPythonStore needs the package zarr>=3") from error
        self.store = store
        self.read_only = read_only or bool(store.read_only) or not store.supports_writes
        self.supports_deletes = bool(store.supports_deletes)
        self.supports_listing = bool(store.supports_listing)
        self._prototype = default_buffer_prototype()

    def __repr__(self) -> str:
        return f"ZarrPythonStore({self.store!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ZarrPythonStore, read_only=self.read_only), (self.store,)

    def _run(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        try:
            return _loop.run(work)
        except ZarrGpuError:
            raise
        # Stores raise whatever the library below them raises.
        except Exception as error:
            raise failed(f"cannot {what} of {self!r}", error) from error

    # -- reading ------------------------------------------------------------------------------

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        wanted = byte_range or ByteRange(0)
        return self._run(f"read {key!r}", self._get(check_key(key), wanted, limit))

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        """All reads at once, but no more than :data:`REQUESTS` under way."""
        ranges = [
            ByteRange(o, None if n < 0 else n)
            for o, n in zip(offset.tolist(), nbytes.tolist(), strict=True)
        ]
        for key in keys:
            check_key(key)

        async def read_all() -> list[Bytes | None]:
            slots = asyncio.Semaphore(REQUESTS)

            async def read(key: str, wanted: ByteRange) -> Bytes | None:
                async with slots:
                    return await self._get(key, wanted, limit)

            rows = zip(keys, ranges, strict=True)
            return await asyncio.gather(*(read(key, wanted) for key, wanted in rows))

        return self._run("read objects", read_all())

    async def _get(self, key: str, wanted: ByteRange, limit: int | None) -> Bytes | None:
        if self._needs_size(wanted, limit):
            size = await self._size(key)
            if size is None:
                return None
            start, stop = wanted.resolve(size)
            check_limit(key, stop - start, limit)
            if start == stop:
                return b""
            wanted = ByteRange(start, stop - start) if stop - start < size else ByteRange(0)
        found = await self.store.get(key, self._prototype, byte_range=_request(wanted))
        if found is None:
            return None
        data = np.ascontiguousarray(found.as_numpy_array()).reshape(-1).view(np.uint8)
        check_limit(key, data.nbytes, limit)
        return data.data

    def _needs_size(self, wanted: ByteRange, limit: int | None) -> bool:
        """True for what has to be compared with a limit first, or cannot be asked for."""
        if wanted.nbytes is None:
            return limit is not None
        return wanted.offset < 0 or wanted.nbytes == 0 or (limit or wanted.nbytes) < wanted.nbytes

    async def _size(self, key: str) -> int | None:
        try:
            size: int = await self.store.getsize(key)
        except FileNotFoundError:
            return None
        return size

    def size(self, key: str) -> int | None:
        return self._run(f"stat {key!r}", self._size(check_key(key)))

    def exists(self, key: str) -> bool:
        found: bool = self._run(f"look for {key!r}", self.store.exists(check_key(key)))
        return found

    # -- listing ------------------------------------------------------------------------------

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        inside = check_prefix(prefix)
        what = f"list {prefix!r}"
        found = self._run(what, _collect(self.store.list_prefix, inside))
        if prefix and self.exists(prefix):
            yield prefix
        for key in found:
            if key.startswith(inside):
                yield key

    def list_dir(self, prefix: str = "") -> list[str]:
        check_prefix(prefix)
        found = self._run(f"list {prefix!r}", _collect(self.store.list_dir, prefix))
        return sorted({name.rstrip("/") for name in found})

    # -- writing ------------------------------------------------------------------------------

    def set(self, key: str, value: Bytes) -> None:
        self.set_many([(key, value)])

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        """All writes at once, but no more than :data:`REQUESTS` under way."""
        self.check_writable()
        make = self._prototype.buffer.from_bytes
        buffers = {check_key(key): make(bytes(value)) for key, value in items}
        work = _together(self.store.set(key, buffer) for key, buffer in buffers.items())
        self._run(f"write {min(buffers, default='')!r}", work)

    def set_if_absent(self, key: str, value: Bytes) -> bool:
        """As safe against other processes as the store's ``set_if_not_exists``."""
        self.check_writable()
        buffer = self._prototype.buffer.from_bytes(bytes(value))
        with process_lock((self.identity, key)):
            if self.exists(key):
                return False
            self._run(f"create {key!r}", self.store.set_if_not_exists(key, buffer))
            return bytes(self.get(key) or b"") == bytes(value)  # it does not tell who was first

    def delete(self, key: str) -> None:
        self.check_writable()
        self._run(f"delete {key!r}", self._delete(check_key(key)))

    async def _delete(self, key: str) -> None:
        with suppress(FileNotFoundError, KeyError):
            await self.store.delete(key)

    def delete_prefix(self, prefix: str = "") -> None:
        self.check_writable()
        if prefix:
            if self.exists(prefix):
                self.delete(prefix)
            self._run(f"delete {prefix!r}", self.store.delete_dir(prefix))
        else:
            keys = list(self.list_prefix())
            self._run("delete everything", _together(self._delete(key) for key in keys))

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Only for what lives in this process; raises UnsafeConcurrentWriteError otherwise."""
        self.check_writable()
        if not self.in_process:
            raise UnsafeConcurrentWriteError(f"{self!r} has no locks; {REMEDY}")
        return process_lock((self.identity, key))

    # -- housekeeping -------------------------------------------------------------------------

    @property
    def in_process(self) -> Literal["", "copied", "lost"]:
        return "copied" if type(self.store).__name__.endswith("MemoryStore") else ""

    @property
    def identity(self) -> Hashable:
        return "zarr-python", type(self.store).__name__, str(self.store)

    def with_read_only(self, read_only: bool = True) -> Store:
        if not read_only and (self.store.read_only or not self.store.supports_writes):
            return super().with_read_only(read_only)
        return self if read_only == self.read_only else type(self)(self.store, read_only=read_only)


def _request(wanted: ByteRange) -> Any:
    """A range in zarr-python's terms."""
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

    if wanted.offset < 0:
        return SuffixByteRequest(-wanted.offset)
    if wanted.nbytes is not None:
        return RangeByteRequest(wanted.offset, wanted.offset + wanted.nbytes)
    return OffsetByteRequest(wanted.offset) if wanted.offset else None


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, no more than :data:`REQUESTS` at once; nothing is begun after a failure."""
    left = iter(work)

    async def some() -> None:
        for one in left:
            try:
                await one
            except BaseException:
                for rest in left:
                    rest.close()
                raise

    await asyncio.gather(*(some() for _ in range(REQUESTS)))


async def _collect(method: Callable[[str], AsyncIterator[str]], prefix: str) -> list[str]:
    """All that ``method`` lists; some methods have to be called inside the event loop."""
    return [item async for item in method(prefix)]


class _Loop:
    """An event loop in a thread of its own, started when first needed, anew after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._running is None:
                self._running = asyncio.new_event_loop()
                run = self._running.run_forever
                threading.Thread(target=run, name="zarr_gpu zarr-python", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(work, self._running)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # interrupted while waiting; nothing to do where the work failed
            raise


_loop = _Loop()
os.register_at_fork(after_in_child=_loop.__init__)  # type: ignore[misc]  # a fresh one in place
