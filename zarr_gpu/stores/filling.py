"""Reads many small files of one tree, each into a buffer, with as few system calls as possible.

A file is opened by its name in its directory, read and closed: asking for its type and size would
cost as much again. Knows descriptors and keys, and leaves everything unusual to others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from zarr_gpu.stores.files import ONE_READ

BY_PATH, ABSENT = -1, -2
"""Instead of a directory's descriptor: files are opened by path, or there are none."""
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW


def open_folder(path: str) -> int:
    """A descriptor for opening files by name, or :data:`BY_PATH` where there is no such thing."""
    if hasattr(os, "O_PATH") and os.open in os.supports_dir_fd:  # needs no right to list names
        try:
            return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            pass
    return BY_PATH


def fill_files(
    root: str,
    keys: Sequence[str],
    buffers: Iterable[memoryview],
    enter: Callable[[str, bool], int],
    carefully: Callable[[str, memoryview], int],
) -> Iterator[int]:
    """Lengths of the files ``root + key`` once they are in their buffers, -1 for missing ones.

    ``enter`` gives the descriptor of a directory (by its key, and whether several files are to be
    read there), :data:`BY_PATH` or :data:`ABSENT`.
    ``carefully`` does what a plain read cannot: links, files longer than their buffer, errors.
    """
    directory: str | None = None
    folder = ABSENT
    one_more = bytearray(1)  # filled by files that are too long
    try:
        for i, (key, buffer) in enumerate(zip(keys, buffers, strict=False), 1):
            head, _, name = key.rpartition("/")
            if head != directory:
                before, folder = folder, ABSENT
                if before >= 0:
                    os.close(before)
                several = i < len(keys) and keys[i].rpartition("/")[0] == head
                folder, directory = enter(head, several), head
            if folder == ABSENT:
                yield -1
                continue
            try:
                if folder >= 0:
                    fd = os.open(name, _OPEN, dir_fd=folder)
                else:
                    fd = os.open(root + key, _OPEN)
            except FileNotFoundError:
                yield -1
                continue
            except OSError:
                yield carefully(key, buffer)
                continue
            try:
                n = os.readv(fd, (buffer, one_more))
            except OSError:
                n = ONE_READ
            finally:
                os.close(fd)
            yield n if n <= len(buffer) and n < ONE_READ else carefully(key, buffer)
    finally:
        if folder >= 0:
            os.close(folder)
