"""Locks by name: between the threads of this process, and between processes through a file.

A lock may be taken again by the thread that holds it. Several are taken in sorted order
(:func:`lock_many`), so two writers never wait for each other. A forked child holds none of its
parent's locks. Knows nothing about stores but their ``lock`` method.

>>> from zarr_gpu.stores.memory import MemoryStore
>>> with lock_many(MemoryStore(), ["b", "a", "b"]):
...     pass
"""

# A Path object costs more than the system call.
# ruff: noqa: PTH108, PTH116

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from zarr_gpu.errors import UnsafeConcurrentWriteError
from zarr_gpu.stores.base import Store

REMEDY = (
    "make sure that no two writers share a chunk or shard, then set the configuration "
    '"array.concurrent_writes" to "unsafe"'
)
_NO_LOCKS = {
    errno.ENOLCK, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EINVAL,
    errno.EOPNOTSUPP, errno.ENOTSUP,
}  # fmt: skip
_HAS_OFD = sys.platform == "linux"
_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)  # Linux numbers, for a Python built without them
_OFD_SETLKW = getattr(fcntl, "F_OFD_SETLKW", 38)


class _Held:
    """One name that some thread holds or waits for."""

    __slots__ = ("depth", "fd", "lock", "users")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users = 0
        self.depth = 0
        self.fd = -1


_guard = threading.Lock()
_names: dict[Hashable, _Held] = {}
_fds: set[int] = set()


def _after_fork() -> None:
    """A child must not keep its parent's locks alive, nor release them."""
    global _guard  # noqa: PLW0603 - another thread may have held it when the process forked
    _guard = threading.Lock()
    _names.clear()
    for fd in _fds:
        with suppress(OSError):
            os.close(fd)
    _fds.clear()


os.register_at_fork(after_in_child=_after_fork)


class process_lock:  # noqa: N801 - used like a function
    """Hold off the other threads of this process, in a ``with`` block of one's own."""

    __slots__ = ("_held", "_name")

    def __init__(self, name: Hashable) -> None:
        self._name = name

    def __enter__(self) -> _Held:
        with _guard:
            held = _names.get(self._name)
            if held is None:
                held = _names[self._name] = _Held()
            held.users += 1
        try:
            held.lock.acquire()
        except BaseException:
            self._forget(held)
            raise
        held.depth += 1
        self._held = held
        return held

    def __exit__(self, *exc: object) -> None:
        held = self._held
        held.depth -= 1
        held.lock.release()
        self._forget(held)

    def _forget(self, held: _Held) -> None:
        with _guard:
            held.users -= 1
            if not held.users and _names.get(self._name) is held:
                del _names[self._name]


class file_lock:  # noqa: N801 - used like a function
    """Hold off all threads of all processes that ask for ``name`` in the lock file ``path``.

    All names share the file: each locks one byte, at an offset that is its hash (open file
    description locks, ``fcntl(2)``). Where these do not exist, every name has its own file and
    ``flock(2)``. ``tidy``: the last one to release it removes the file. Raises
    UnsafeConcurrentWriteError where the file system has no locks, and FileNotFoundError when the
    directory of ``path`` does not exist.
    """

    __slots__ = ("_held", "_path", "_process", "_slot", "_tidy")

    def __init__(self, path: str, name: str, *, tidy: bool = False) -> None:
        from hashlib import blake2b  # slow to import

        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
        self._slot = int.from_bytes(digest.digest(), "big") >> 2
        self._path = path if _HAS_OFD else f"{path}-{self._slot:016x}"
        self._process = process_lock((self._path, self._slot))
        self._tidy = tidy

    def __enter__(self) -> None:
        held = self._held = self._process.__enter__()
        if held.depth == 1:
            try:
                held.fd = _acquire(self._path, self._slot)
            except BaseException:
                self._process.__exit__()
                raise

    def __exit__(self, *exc: object) -> None:
        held = self._held
        try:
            if held.depth == 1:
                _release(held.fd, self._path if self._tidy else None)
        finally:
            self._process.__exit__()


def _acquire(path: str, slot: int) -> int:
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(path, flags, 0o666)
        except OSError as error:
            raise _refused(path, error) from error
        try:
            if _HAS_OFD:
                fcntl.fcntl(fd, _OFD_SETLKW, _range(fcntl.F_WRLCK, slot, 1))
            else:
                fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_file(fd, path):
                _fds.add(fd)
                return fd
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                raise _refused(path, error) from error
            raise
        os.close(fd)  # the file was deleted while we waited: its lock excludes nobody any more


def _release(fd: int, path: str | None) -> None:
    """Unlock and close, and remove the file ``path``, if one is named."""
    if fd not in _fds:
        return  # taken by the process this one was forked from
    _fds.discard(fd)
    try:
        if path is not None:
            with suppress(OSError):  # somebody holds another name, or may do what we may not
                if _HAS_OFD:
                    fcntl.fcntl(fd, _OFD_SETLK, _range(fcntl.F_WRLCK, 0, 0))
                if _is_file(fd, path):
                    os.unlink(path)  # who waits for it, or just opened it, sees that: _acquire
        # Closing alone would not do while a forked child still has the descriptor.
        if _HAS_OFD:
            fcntl.fcntl(fd, _OFD_SETLK, _range(fcntl.F_UNLCK, 0, 0))
        else:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _range(kind: int, start: int, nbytes: int) -> bytes:
    """``struct flock`` of a range of bytes (0: all); open file description locks want pid 0."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, nbytes, 0)


def _is_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _refused(path: str, error: OSError) -> Exception:
    if error.errno not in _NO_LOCKS:
        return error
    return UnsafeConcurrentWriteError(f"cannot lock {path}: {error.strerror}; {REMEDY}")


@contextmanager
def lock_many(store: Store, keys: Iterable[str]) -> Iterator[None]:
    """Hold the locks of all ``keys``, taken in an order on which all writers agree."""
    with ExitStack() as stack:
        for key in sorted(set(keys)):
            stack.enter_context(store.lock(key))
        yield


def lock_place(key: str) -> tuple[str, str]:
    """Directory of the lock file for ``key``, and the name to lock in it.

    Chunk keys like ``a/c/0/1`` share one lock file per array, in ``a``; other objects share the
    one in their directory. So it does not depend on which directory a store was opened at.
    """
    head, found, tail = f"/{key}".rpartition("/c/")
    if found and tail.replace("/", "").isdigit():
        return head[1:], f"c/{tail}"
    head, _, tail = key.rpartition("/")
    return head, tail
