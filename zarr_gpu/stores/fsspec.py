"""Objects of any file system that fsspec knows: S3, GCS, HTTP, FTP, memory and many more.

Only FileNotFoundError means that an object is missing; a refusal or a time-out is an error. What
is replaced while it is read, and whether a write that fails leaves nothing behind, depends on the
file system. Knows no Zarr. fsspec is imported when the first URL needs it.

>>> store = FsspecStore.from_url("memory://example.zarr")
>>> store.set("c/0", b"0123")
>>> bytes(store.get("c/0", ByteRange(1, 2)))
b'12'
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import chain
from typing import Any, Literal

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import MissingDependencyError, StoreError, UnsafeConcurrentWriteError
from zarr_gpu.stores.base import ByteRange, check_key, check_limit
from zarr_gpu.stores.common import SameBytes, failed
from zarr_gpu.stores.locks import REMEDY, process_lock

_HERE = ("memory", "file", "local")
"""Protocols of this machine: fast, and a lock of this process is worth something."""
_PER_INSTANCE = ("asynchronous", "loop", "skip_instance_cache")
_GLOB = frozenset("*?[")
JOINED_NBYTES = 64 << 20
"""Objects made of parts are written by one call up to this size."""


class FsspecStore(SameBytes):
    """Objects below ``path`` of the fsspec file system ``fs``, synchronous or not."""

    def __init__(self, fs: Any, path: str = "", *, read_only: bool = False) -> None:
        self._fs = _synchronous(fs)
        self._pid = os.getpid()
        self.path: str = fs._strip_protocol(path).rstrip("/")  # noqa: SLF001 - as fsspec's mapper
        self.read_only = read_only
        self.local = self._protocol in _HERE

    @classmethod
    def from_url(
        cls,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        read_only: bool = False,
    ) -> FsspecStore:
        """The file system and path of a URL such as ``s3://bucket/data.zarr``.

        Raises MissingDependencyError when the protocol needs a package that is not installed,
        ValueError for an unknown protocol and TypeError for options it does not have.
        """
        try:
            from fsspec.core import url_to_fs

            fs, path = url_to_fs(url, **(storage_options or {}))
        except ImportError as error:
            raise MissingDependencyError(f"{url}: {error}") from error
        return cls(fs, path, read_only=read_only)

    def __repr__(self) -> str:
        inside = "" if "://" in self.path else f"{self._protocol}://"
        return f"FsspecStore({inside + self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(FsspecStore, read_only=self.read_only), (self._fs, self.path)

    @property
    def fs(self) -> Any:
        """The file system; in a forked process a new one, as its event loop was not forked."""
        if self._pid != os.getpid():
            self._fs, self._pid = _again(self._fs), os.getpid()
        return self._fs

    @property
    def _protocol(self) -> str:
        protocol = self._fs.protocol
        return protocol if isinstance(protocol, str) else str(protocol[0])

    def _path(self, key: str) -> str:
        return f"{self.path}/{check_key(key)}" if self.path else check_key(key)

    def _prefix_path(self, prefix: str) -> str:
        return self._path(prefix) if prefix else self.path

    def _call(self, what: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except FileNotFoundError:
            raise
        # File systems raise whatever the library below them raises.
        except Exception as error:
            raise failed(f"cannot {what} of {self!r}", error) from error

    # -- reading ------------------------------------------------------------------------------

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        wanted = byte_range or ByteRange(0)
        if self._needs_size(wanted, limit):
            size = self.size(key)
            if size is None:
                return None
            start, stop = wanted.resolve(size)
            check_limit(key, stop - start, limit)
            if start == stop:
                return b""
            wanted = ByteRange(start, stop - start)
        start, end = _ask(wanted, limit)
        try:
            data = self.fs.cat_file(self._path(key), start, end)
        # Also what the library below raises: _answer tells them apart.
        except Exception as error:  # noqa: BLE001
            data = error
        return self._answer(key, wanted, data, limit)

    def get_many(
        self, keys: Sequence[str], offset: Int64, nbytes: Int64, *, limit: int | None = None
    ) -> list[Bytes | None]:
        ranges = [
            ByteRange(o, None if n < 0 else n)
            for o, n in zip(offset.tolist(), nbytes.tolist(), strict=True)
        ]
        if any(self._needs_size(r, limit) for r in ranges):
            return [self.get(k, r, limit=limit) for k, r in zip(keys, ranges, strict=True)]
        asked = [_ask(r, limit) for r in ranges]
        found = self._call(
            "read",
            self.fs.cat_ranges,
            [self._path(key) for key in keys],
            [start for start, _ in asked],
            [end for _, end in asked],
            on_error="return",
        )
        rows = zip(keys, ranges, found, strict=True)
        return [self._answer(key, r, data, limit) for key, r, data in rows]

    def _needs_size(self, wanted: ByteRange, limit: int | None) -> bool:
        """What some file systems cannot be asked for, or servers without ranges answer wrongly."""
        if wanted.offset < 0:
            too_long = limit is not None and -wanted.offset > limit
            return too_long or wanted.nbytes is not None
        if wanted.nbytes is None:
            return wanted.offset > 0 and not self.local
        return wanted.nbytes == 0

    def _answer(self, key: str, wanted: ByteRange, data: Any, limit: int | None) -> Bytes | None:
        if isinstance(data, FileNotFoundError):
            return None
        if isinstance(data, Exception):
            size = None if isinstance(data, PermissionError) else self.size(key)
            if size is not None and 0 <= wanted.offset >= size:
                return b""  # servers refuse ranges beyond the end
            raise failed(f"cannot read {key!r} of {self!r}", data) from data
        if len(data) > _longest(wanted):  # the server ignored the range
            start, stop = wanted.resolve(len(data))
            data = data[start:stop]
        check_limit(key, len(data), limit)
        found: Bytes = data
        return found

    def size(self, key: str) -> int | None:
        path = self._path(key)
        self.fs.invalidate_cache(self.fs._parent(path))  # noqa: SLF001 - listings may be old
        try:
            info = self._call(f"stat {key!r}", self.fs.info, path)
        except FileNotFoundError:
            return None
        if info["type"] == "directory":
            return None
        if info.get("size") is None:  # a server that does not say
            data = self.get(key)
            return None if data is None else len(data)
        return int(info["size"])

    # -- listing ------------------------------------------------------------------------------

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        path = self._prefix_path(prefix)
        self.fs.invalidate_cache(path)
        skip = len(self.path) + 1 if self.path else 0
        try:
            found = self._call(f"list {prefix!r}", self.fs.find, path)
        except FileNotFoundError:
            return iter(())
        return (name[skip:] for name in found if len(name) > skip and not name.endswith("/"))

    def list_dir(self, prefix: str = "") -> list[str]:
        path = self._prefix_path(prefix)
        self.fs.invalidate_cache(path)
        try:
            found = self._call(f"list {prefix!r}", self.fs.ls, path, detail=False)
        except FileNotFoundError:
            return []
        inside = path + "/" if path else ""
        names = (name.rstrip("/") for name in found)
        return sorted({n[len(inside) :] for n in names if n.startswith(inside) and n != path})

    # -- writing ------------------------------------------------------------------------------

    def set(self, key: str, value: Bytes) -> None:
        self.check_writable()
        self._put(key, value)

    def _put(self, key: str, value: Bytes, **how: Any) -> None:
        path = self._path(key)
        what = f"write {key!r}"
        try:
            self._call(what, self.fs.pipe_file, path, bytes(value), **how)
        except FileNotFoundError:  # a file system with real directories
            parent = self.fs._parent(path)  # noqa: SLF001 - what fsspec's own mapper does
            self._call(what, self.fs.makedirs, parent, exist_ok=True)
            self._call(what, self.fs.pipe_file, path, bytes(value), **how)

    def set_parts(self, key: str, parts: Callable[[], Iterable[Bytes]]) -> bool:
        """Large objects are uploaded while they are made, and appear when they are whole.

        What a write that fails leaves behind depends on the file system, as with its transactions.
        """
        self.check_writable()
        most = JOINED_NBYTES if self._uploads else math.inf
        coming = iter(parts())
        copies, size = [], 0
        for part in coming:
            copies.append(bytes(part))
            size += len(copies[-1])
            if size > most:
                self._upload(key, chain(copies, coming))
                return True
        if copies:
            self._put(key, b"".join(copies))
        return bool(copies)

    @property
    def _uploads(self) -> bool:
        """True where a file that is written is another one until it is committed."""
        from fsspec.spec import AbstractFileSystem

        # fsspec's own _open gives files that forget what is written to them.
        return not self.local and type(self.fs)._open is not AbstractFileSystem._open  # noqa: SLF001

    def _upload(self, key: str, parts: Iterable[Bytes]) -> None:
        what, size = f"write {key!r}", 0
        file = self._call(what, self._new_file, self._path(key))
        try:
            for part in parts:
                self._call(what, file.write, part)
                size += len(part)
            self._call(what, file.close)
            self._call(what, file.commit)
        except BaseException:
            with suppress(Exception):  # the first error counts
                file.close()
            with suppress(Exception):
                file.discard()
            raise
        if self.size(key) != size:
            raise StoreError(f"{key!r} of {self!r} is not of {size} bytes after it was written")

    def _new_file(self, path: str) -> Any:
        try:
            return self.fs.open(path, "wb", autocommit=False)
        except FileNotFoundError:  # a file system with real directories
            self.fs.makedirs(self.fs._parent(path), exist_ok=True)  # noqa: SLF001 - as its mapper
            return self.fs.open(path, "wb", autocommit=False)

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        self.check_writable()
        if not self.fs.async_impl:
            for key, value in items:
                self._put(key, value)
            return
        values = {self._path(key): bytes(value) for key, value in items}
        self._call("write objects", self.fs.pipe, values)

    def set_if_absent(self, key: str, value: Bytes) -> bool:
        """Atomic where the file system can create exclusively (S3, Azure, GCS); else look first."""
        self.check_writable()
        if self.local:
            return super().set_if_absent(key, value)
        if self.exists(key):
            return False
        method = getattr(self.fs, "_pipe_file", self.fs.pipe_file)
        can_create = "mode" in inspect.signature(method).parameters
        try:
            self._put(key, value, **({"mode": "create"} if can_create else {}))
        except OSError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def delete(self, key: str) -> None:
        self.check_writable()
        try:
            self._call(f"delete {key!r}", self.fs.rm_file, self._path(key))
        except FileNotFoundError:
            return

    def delete_prefix(self, prefix: str = "") -> None:
        self.check_writable()
        keys = list(self.list_prefix(prefix))
        if any(_GLOB & set(key) for key in keys):  # rm would take these for patterns
            for key in keys:
                self.delete(key)
        elif keys:
            what = f"delete {prefix!r}"
            self._call(what, self.fs.rm, [self._path(key) for key in keys])
        path = self._path(prefix) if prefix else ""
        if path and keys and not _GLOB & set(path):
            # A file system may have real directories, which are empty now and not worth an error.
            with suppress(Exception):
                if self.fs.isdir(path) and not self.fs.find(path):
                    self.fs.rm(path, recursive=True)

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Only for what lives on this machine; raises UnsafeConcurrentWriteError otherwise."""
        self.check_writable()
        if not self.local:
            raise UnsafeConcurrentWriteError(f"{self!r} has no locks; {REMEDY}")
        return process_lock((self.identity, key))

    # -- housekeeping -------------------------------------------------------------------------

    @property
    def in_process(self) -> Literal["", "copied", "lost"]:
        return "lost" if self._protocol == "memory" else ""

    @property
    def identity(self) -> Hashable:
        fs = self._fs
        options = sorted((k, v) for k, v in fs.storage_options.items() if k not in _PER_INSTANCE)
        return "fsspec", type(fs).__name__, repr((fs.storage_args, options)), self.path

    def with_read_only(self, read_only: bool = True) -> FsspecStore:
        return FsspecStore(self.fs, self.path, read_only=read_only)


def _ask(wanted: ByteRange, limit: int | None) -> tuple[int, int | None]:
    """``start`` and ``end`` for fsspec: at most one byte more than the limit allows."""
    if wanted.offset < 0:
        return wanted.offset, None
    lengths = [n for n in (wanted.nbytes, None if limit is None else limit + 1) if n is not None]
    return wanted.offset, wanted.offset + min(lengths) if lengths else None


def _longest(wanted: ByteRange) -> float:
    """Most bytes that an answer to this range can have."""
    if wanted.nbytes is not None:
        return wanted.nbytes
    return -wanted.offset if wanted.offset < 0 else float("inf")


def _synchronous(fs: Any) -> Any:
    """The same file system, usable from ordinary functions."""
    if hasattr(fs, "sync_fs"):  # fsspec's asynchronous wrapper around a synchronous one
        return fs.sync_fs
    return _again(fs) if getattr(fs, "asynchronous", False) else fs


def _again(fs: Any) -> Any:
    options = {k: v for k, v in fs.storage_options.items() if k not in _PER_INSTANCE}
    return type(fs)(*fs.storage_args, **options)
