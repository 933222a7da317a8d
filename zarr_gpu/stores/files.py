"""Whole reads, whole writes and flushes of files; knows paths and descriptors, not keys.

>>> fd = os.open("/etc/hostname", os.O_RDONLY)
>>> first = read_exactly(fd, 0, 1, "hostname")
"""

# A Path object costs more than the system call.
# ruff: noqa: PTH103, PTH104, PTH105, PTH108, PTH112, PTH120

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress

from zarr_gpu._types import Bytes
from zarr_gpu.errors import StoreError
from zarr_gpu.stores.base import Reader

ONE_READ = 1 << 30
"""Linux transfers at most 2 GiB - 4 KiB in one call."""
TRIES = 32
"""How often something that other processes can undo is done again."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def read_exactly(fd: int, offset: int, nbytes: int, name: str) -> Bytes:
    """``nbytes`` bytes from ``offset``; raises StoreError when the file is shorter."""
    if nbytes <= ONE_READ:
        data = os.pread(fd, nbytes, offset)
        if len(data) == nbytes:
            return data
    out = bytearray(nbytes)
    fill(fd, offset, memoryview(out), name)
    return out


def fill(fd: int, offset: int, out: memoryview, name: str) -> None:
    """Fill ``out`` from ``offset`` on; raises StoreError when the file is shorter."""
    done = 0
    while done < len(out):
        count = os.preadv(fd, [out[done : done + ONE_READ]], offset + done)
        if count == 0:
            raise StoreError(
                f"{name}: asked for {len(out)} bytes from {offset}, the file ended after {done}"
            )
        done += count


def write_file(path: str, value: Bytes, *, sync: bool) -> None:
    """Create ``path`` with all of ``value``; nothing is left of it on failure."""
    fd = os.open(path, _CREATE, 0o666)
    try:
        try:
            view = memoryview(value)
            while view:
                view = view[os.write(fd, view[:ONE_READ]) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def sync_directory(path: str) -> None:
    """Flush the names in a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: str, *, sync: bool) -> None:
    """Create ``path`` and its missing parents."""
    missing = []
    at = path
    while not os.path.isdir(at):
        missing.append(at)
        at = os.path.dirname(at)
    os.makedirs(path, exist_ok=True)
    if sync:
        for made in missing:
            sync_directory(os.path.dirname(made))


def remove(path: str, aside: str) -> None:
    """Remove a file, a link (not what it points at) or a directory with all below it.

    A directory is renamed to ``aside`` first: it is gone at once, and nobody can add to it.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        try:
            os.rename(path, aside)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):  # a mounted file system
                raise
            aside = path
        shutil.rmtree(aside)


def rename(temporary: str, path: str) -> bool:
    """Replace ``path``."""
    os.replace(temporary, path)
    return True


def link(temporary: str, path: str) -> bool:
    """Make ``path``; False when it is there already."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True


def unlink(path: str) -> None:
    """Remove a file that may be gone."""
    with suppress(FileNotFoundError):
        os.unlink(path)


class FileReader(Reader):
    """An open regular file; a file that replaces it is not seen."""

    __slots__ = ("_fd", "_name", "size", "version")

    def __init__(self, name: str, fd: int, status: os.stat_result) -> None:
        self._name = name
        self._fd = fd
        self.size = status.st_size
        self.version = (status.st_ino, status.st_mtime_ns, status.st_size)

    def read(self, offset: int, nbytes: int) -> Bytes:
        self._check(offset, nbytes)
        return read_exactly(self._fd, offset, nbytes, self._name)

    def read_into(self, offset: int, out: memoryview) -> None:
        self._check(offset, len(out))
        fill(self._fd, offset, out, self._name)

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise StoreError(
                f"{self._name}: bytes {offset}..{offset + nbytes} of a file of {self.size} bytes"
            )

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
