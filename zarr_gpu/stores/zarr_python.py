"""Read-only access to anything that is a store of zarr-python 3.

Its stores are asynchronous: one thread of ours runs an event loop and drives them. Knows the
abstract class ``zarr.abc.store.Store`` and no particular store; zarr is imported when the first
adapter is made.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import MissingDependencyError, ZarrGpuError
from zarr_gpu.stores.base import ByteRange, Store, check_key, check_limit
from zarr_gpu.stores.common import SameBytes, check_prefix, failed

T = TypeVar("T")
REQUESTS = 64
"""Reads under way at once."""


class ZarrPythonStore(SameBytes):
    """The objects of ``store``, a ``zarr.abc.store.Store``; cannot be written."""

    def __init__(self, store: Any) -> None:
        try:
            from zarr.core.buffer import default_buffer_prototype
        except ImportError as error:
            raise MissingDependencyError("ZarrPythonStore needs the package zarr>=3") from error
        self.store = store
        self.read_only = True
        self.supports_listing = bool(store.supports_listing)
        self._prototype = default_buffer_prototype()

    def __repr__(self) -> str:
        return f"ZarrPythonStore({self.store!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrPythonStore, (self.store,)

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

    # -- housekeeping -------------------------------------------------------------------------

    @property
    def in_process(self) -> Literal["", "copied", "lost"]:
        return "copied" if type(self.store).__name__.endswith("MemoryStore") else ""

    @property
    def identity(self) -> Hashable:
        return "zarr-python", type(self.store).__name__, str(self.store)

    def with_read_only(self, read_only: bool = True) -> Store:
        return self if read_only else super().with_read_only(read_only)


def _request(wanted: ByteRange) -> Any:
    """A range in zarr-python's terms."""
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

    if wanted.offset < 0:
        return SuffixByteRequest(-wanted.offset)
    if wanted.nbytes is not None:
        return RangeByteRequest(wanted.offset, wanted.offset + wanted.nbytes)
    return OffsetByteRequest(wanted.offset) if wanted.offset else None


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
