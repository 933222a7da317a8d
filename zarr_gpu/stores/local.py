"""Objects as files below one directory.

Reads use raw descriptors: opening, checking, reading and closing a small file is four system
calls. An object is a regular file or an error: a directory, FIFO, device, dangling link, or a link
that leaves the root is never mistaken for a missing object. Writes go to a temporary file
``.zg-<random>`` in the same directory that is renamed when complete, so a killed writer leaves the
old object whole. Names that start with ``.zg-`` are ours: no keys, never listed.

>>> store = LocalStore("/tmp/example.zarr")
>>> store.set("c/0", b"0123")
>>> store.size("c/0")
4
"""

# A Path object costs more than the system call.
# ruff: noqa: PTH100, PTH105, PTH112, PTH114, PTH120, PTH208

from __future__ import annotations

import errno
import functools
import os
import stat
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from zarr_gpu._types import Bytes
from zarr_gpu.config import config
from zarr_gpu.errors import StoreError, StoreKeyError
from zarr_gpu.metadata.paths import DOCUMENTS
from zarr_gpu.stores.base import ByteRange, Located, Reader, check_key, check_limit
from zarr_gpu.stores.common import SameBytes, as_store_errors, check_prefix, failed
from zarr_gpu.stores.directories import Directories
from zarr_gpu.stores.files import TRIES, FileReader, is_file, read_exactly
from zarr_gpu.stores.filling import ABSENT, BY_PATH, fill_files, open_folder
from zarr_gpu.stores.locks import file_lock, lock_place
from zarr_gpu.stores.publishing import (
    LOCK_FILE,
    OURS,
    link,
    remove,
    rename,
    repair,
    sync_directory,
    temporary_in,
    unlink,
    write_parts,
)

SYNC_THREADS = 16
"""Flushes under way at once: a disk takes many flushes in the time of one."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_READ_NO_LINK = _READ | os.O_NOFOLLOW
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)


class LocalStore(SameBytes):
    """Objects as files below the directory ``root``, which is made by the first write.

    ``durable``: a write returns when its files and directories are on the disk; None asks the
    configuration each time. ``follow_symlinks``: allow links that leave the root.
    """

    local = True
    fills = True
    deletes_at_once = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        read_only: bool = False,
        durable: bool | None = None,
        follow_symlinks: bool = False,
    ) -> None:
        given = os.fspath(root)
        # What follows ".." depends on links; otherwise it is enough to know them later.
        given = os.path.realpath(given) if ".." in given else os.path.abspath(given)
        self.read_only = read_only
        self.durable = durable
        self.follow_symlinks = follow_symlinks
        self._given = given
        self._slash = given.rstrip("/") + "/"
        self._directories = Directories(given, follow_symlinks=follow_symlinks)
        self._trust = self._directories.trust
        self._check_inside = self._directories.check_inside

    @property
    def root(self) -> str:
        """The directory's path without links, which is looked for when it is first needed."""
        return self._directories.real_root

    def __repr__(self) -> str:
        return f"LocalStore({self.root!r}{', read_only=True' if self.read_only else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _make(self, self.read_only), (self.root,)

    # -- names --------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        check_key(key)
        if OURS in key and any(part.startswith(OURS) for part in key.split("/")):
            raise StoreKeyError(f"illegal store key {key!r}: {OURS}* is for temporary files")
        return self._slash + key

    def _prefix_path(self, prefix: str) -> str:
        return self._path(prefix) if prefix else self._given

    # -- reading ------------------------------------------------------------------------------

    def _open(self, key: str) -> tuple[int, os.stat_result] | None:
        """Descriptor and status of a regular file, None when there is no such file."""
        path = self._path(key)
        if not self._trust(_directory(path)):
            return None
        try:
            fd = os.open(path, _READ_NO_LINK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not os.path.islink(path):
                raise failed(f"cannot read {key!r} of {self!r}", error) from error
            fd = self._open_link(key, path)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                return fd, status
            raise StoreError(f"{key!r} of {self!r} is not a regular file")
        except BaseException:
            os.close(fd)
            raise

    def _open_link(self, key: str, path: str) -> int:
        try:
            return os.open(self._check_inside(path), _READ)
        except StoreError:
            raise
        except OSError as error:
            raise failed(f"cannot read the symbolic link {key!r} of {self!r}", error) from error

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        opened = self._open(key)
        if opened is None:
            return None
        fd, status = opened
        try:
            start, stop = 0, status.st_size
            if byte_range is not None:
                start, stop = byte_range.resolve(stop)
            check_limit(key, stop - start, limit)
            return read_exactly(fd, start, stop - start, key)
        finally:
            os.close(fd)

    def fill(self, keys: Sequence[str], buffers: Iterable[memoryview]) -> Iterator[int]:
        for key in keys:
            if not key.rpartition("/")[2].isdigit() or key[0] == "/":
                self._path(key)

        def enter(prefix: str, several: bool) -> int:
            path = self._prefix_path(prefix)
            if not self._trust(path):
                return ABSENT
            return open_folder(path) if several else BY_PATH

        return fill_files(self._slash, keys, buffers, enter, self._fill_one)

    def _fill_one(self, key: str, buffer: memoryview) -> int:
        reader = self.open_reader(key, limit=len(buffer))
        if reader is None:
            return -1
        with reader:
            reader.read_into(0, buffer[: reader.size])
            return reader.size

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        opened = self._open(key)
        if opened is None:
            return None
        reader = FileReader(key, *opened)
        try:
            check_limit(key, reader.size, limit)
        except BaseException:
            reader.close()
            raise
        return reader

    def size(self, key: str) -> int | None:
        opened = self._open(key)
        if opened is None:
            return None
        os.close(opened[0])
        return opened[1].st_size

    def exists(self, key: str) -> bool:
        path = self._path(key)
        if not self._trust(_directory(path)):
            return False
        try:  # what is asked for is seldom there, and looking costs less than opening
            os.lstat(path)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # said by what follows
        return self.size(key) is not None

    def locate(self, keys: Sequence[str]) -> Located:
        """The paths; whether they exist, and are what ``get`` would accept, is not looked at."""
        found = Located.unknown(len(keys))
        found.path = [self._path(key) for key in keys]
        return found

    # -- listing ------------------------------------------------------------------------------

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        path = self._prefix_path(prefix)
        if prefix and not self._is_directory(path):
            if os.path.lexists(path):
                yield prefix
            return
        seen = {os.path.realpath(path)}  # directories reached through links, against loops
        left = [check_prefix(prefix)]
        while left:
            inside = left.pop()
            for entry in self._scan(self._slash + inside):
                if not self._descends(entry):
                    yield inside + entry.name
                elif not entry.is_symlink():
                    left.append(f"{inside}{entry.name}/")
                elif (real := os.path.realpath(entry.path)) not in seen:
                    seen.add(real)
                    left.append(f"{inside}{entry.name}/")

    def list_dir(self, prefix: str = "") -> list[str]:
        path = self._prefix_path(prefix)
        return sorted(e.name for e in self._scan(path)) if self._is_directory(path) else []

    def list_holding(self, prefix: str, names: Sequence[str]) -> list[str]:
        path = self._prefix_path(prefix)
        inside = f"{prefix}/" if prefix else ""
        found = []
        for entry in self._scan(path) if self._is_directory(path) else ():
            folder = entry.name
            if entry.is_symlink():
                held = any(self.exists(f"{inside}{folder}/{name}") for name in names)
            else:
                held = any(is_file(f"{entry.path}/{name}") for name in names)
            if held:
                found.append(folder)
        return sorted(found)

    def _is_directory(self, path: str) -> bool:
        return os.path.isdir(path) and self._trust(path)

    def _descends(self, entry: os.DirEntry[str]) -> bool:
        """Directories; links to them only as far as they may be followed."""
        if not entry.is_symlink():
            return entry.is_dir(follow_symlinks=False)
        if not entry.is_dir():
            return False
        try:
            self._check_inside(entry.path)
        except StoreError:
            return False  # listed as an object, so that reading it says what is wrong
        return True

    def _scan(self, path: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return [e for e in entries if not e.name.startswith(OURS) and "\\" not in e.name]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failed(f"cannot list {path}", error) from error

    # -- writing ------------------------------------------------------------------------------

    def set(self, key: str, value: Bytes) -> None:
        self.check_writable()
        self._publish(key, value, rename)

    def set_parts(self, key: str, parts: Callable[[], Iterable[Bytes]]) -> bool:
        self.check_writable()
        return self._publish(key, parts, rename)

    def set_many(self, items: Sequence[tuple[str, Bytes]]) -> None:
        """Replace objects; a durable store flushes all of them before it renames the first."""
        self.check_writable()
        if not self._durable or len(items) < 2:
            for key, value in items:
                self._publish(key, value, rename)
            return
        from concurrent.futures import ThreadPoolExecutor  # slow to import

        with ExitStack() as stack, as_store_errors(f"cannot write to {self!r}"):
            with ThreadPoolExecutor(min(SYNC_THREADS, len(items))) as pool:
                writes = [pool.submit(self._write_temporary, k, v) for k, v in items]
            for write in writes:
                error = write.exception()
                if error is None:
                    stack.callback(unlink, write.result())
                elif not isinstance(error, FileNotFoundError):
                    raise error
            paths = [self._path(key) for key, _ in items]
            for (key, value), path, write in zip(items, paths, writes, strict=True):
                try:
                    os.replace(write.result(), path)
                except FileNotFoundError:  # the directory was deleted meanwhile
                    self._publish(key, value, rename)
            for directory in {os.path.dirname(path) for path in paths}:
                sync_directory(directory)

    def set_if_absent(self, key: str, value: Bytes) -> bool:
        self.check_writable()
        try:
            return self._publish(key, value, link)
        except StoreError as error:
            if error.errno not in _NO_LINKS:
                raise
            return super().set_if_absent(key, value)

    @property
    def flushes(self) -> bool:
        return self._durable

    @property
    def _durable(self) -> bool:
        return config.current.durable if self.durable is None else self.durable

    def _publish(
        self,
        key: str,
        value: Bytes | Callable[[], Iterable[Bytes]],
        publish: Callable[[str, str], bool],
    ) -> bool:
        """Write a temporary file, then rename or link it to its name; False: that was not done."""
        path = self._path(key)
        sync = self._durable
        for attempt in range(TRIES):
            try:
                temporary = self._temporary(path, sync=sync, again=attempt > 0)
                if not callable(value):
                    write_parts(temporary, (value,), sync=sync)
                elif not write_parts(temporary, value(), sync=sync):
                    return False
                done = publish(temporary, path)
                if sync:
                    sync_directory(os.path.dirname(path))
            except FileNotFoundError as error:  # another process deleted the directory
                if attempt == TRIES - 1:
                    raise failed(f"cannot write {key!r} of {self!r}", error) from error
                if attempt > 2:
                    time.sleep(attempt * 137e-6)
            except StoreError:
                raise
            except OSError as error:
                raise failed(f"cannot write {key!r} of {self!r}", error) from error
            else:
                return done
        raise AssertionError  # the last attempt returns or raises

    def _temporary(self, path: str, *, sync: bool, again: bool = False) -> str:
        """A path for a new file beside ``path``, in a directory that exists and may be used."""
        directory = _directory(path)
        self._directories.enter(directory, again=again, sync=sync)
        return temporary_in(directory)

    def _write_temporary(self, key: str, value: Bytes) -> str:
        temporary = self._temporary(self._path(key), sync=True)
        write_parts(temporary, (value,), sync=True)
        return temporary

    def delete(self, key: str) -> None:
        self.check_writable()
        path = self._path(key)
        with as_store_errors(f"cannot delete {key!r} of {self!r}"):
            if self._trust(os.path.dirname(path)):
                unlink(path)
                if self._durable:
                    sync_directory(os.path.dirname(path))

    def delete_prefix(self, prefix: str = "") -> None:
        """Remove the directory ``prefix``; a link is removed, not what it points at."""
        self.check_writable()
        path = self._prefix_path(prefix)
        with as_store_errors(f"cannot delete {prefix!r} of {self!r}"):
            if prefix:
                if self._trust(os.path.dirname(path)):
                    remove(path, temporary_in(os.path.dirname(path)))
            elif os.path.isdir(path):
                for name in os.listdir(path):
                    remove(self._slash + name, temporary_in(path))

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold off every other writer of ``key``, in whatever process and through whatever root.

        Raises UnsafeConcurrentWriteError where the file system has no locks.
        """
        self.check_writable()
        directory, name = lock_place(key)
        directory = self._prefix_path(directory)
        # zarr-python warns of files it does not know in directories of groups; arrays' stay.
        lock = file_lock(f"{directory}/{LOCK_FILE}", name, tidy=name in DOCUMENTS)
        with as_store_errors(f"cannot lock {key!r} of {self!r}"):
            for attempt in range(TRIES):
                try:
                    self._directories.enter(directory, again=attempt > 0, sync=self._durable)
                    lock.__enter__()
                    break
                except FileNotFoundError:
                    if attempt == TRIES - 1:
                        raise
        try:
            yield
        finally:
            lock.__exit__()

    def repair(self, *, older_than_s: float = 3600) -> list[str]:
        """Remove what killed writers and deletions left behind; returns the paths."""
        self.check_writable()
        return repair(self.root, older_than_s)

    # -- housekeeping -------------------------------------------------------------------------

    @property
    def identity(self) -> Hashable:
        return "local", self.root

    def with_read_only(self, read_only: bool = True) -> LocalStore:
        return _make(self, read_only)(self.root)


def _directory(path: str) -> str:
    """Of an absolute path made of names; ``os.path.dirname`` takes several times as long."""
    return path[: path.rindex("/")] or "/"


def _make(store: LocalStore, read_only: bool) -> functools.partial[LocalStore]:
    return functools.partial(
        LocalStore,
        read_only=read_only,
        durable=store.durable,
        follow_symlinks=store.follow_symlinks,
    )
