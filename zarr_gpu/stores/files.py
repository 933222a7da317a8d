"""Exact reads of files; knows descriptors, not keys.

>>> fd = os.open("/etc/hostname", os.O_RDONLY)
>>> first = read_exactly(fd, 0, 1, "hostname")
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

from zarr_gpu._types import Bytes
from zarr_gpu.errors import StoreError
from zarr_gpu.stores.base import Reader

ONE_READ = 1 << 30
"""Linux transfers at most 2 GiB - 4 KiB in one call."""
TRIES = 32
"""How often something that other processes can undo is done again."""


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

    def scatter(self, offset: int, buffers: Sequence[memoryview]) -> None:
        total = sum(map(len, buffers))
        self._check(offset, total)
        if total > ONE_READ or os.preadv(self._fd, buffers, offset) != total:
            for buffer in buffers:  # rare: find out which one
                fill(self._fd, offset, buffer, self._name)
                offset += len(buffer)

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise StoreError(
                f"{self._name}: bytes {offset}..{offset + nbytes} of a file of {self.size} bytes"
            )

    def map(self, *, private: bool = False) -> Any:
        import mmap

        size = os.fstat(self._fd).st_size
        if not size or size < self.size:
            return None
        access = mmap.ACCESS_COPY if private else mmap.ACCESS_READ
        return mmap.mmap(self._fd, self.size, access=access)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def is_file(path: str) -> bool:
    """True for regular files, and for links to them."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            mode = os.stat(path).st_mode  # noqa: PTH116 - a Path costs more
    except OSError:  # also of paths through what is no directory
        return False
    return stat.S_ISREG(mode)
