"""Files that appear whole: written under a name of our own, then renamed or linked.

Whatever fails, no temporary file stays behind; what a killed process leaves, :func:`repair` finds
by its name. Knows paths, not keys.

>>> temporary_in("/data")[:10]
'/data/.zg-'
"""

# A Path object costs more than the system call.
# ruff: noqa: PTH103, PTH104, PTH105, PTH108, PTH112, PTH116, PTH120

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from zarr_gpu._types import Bytes
from zarr_gpu.errors import ContainsNodeError, StoreError
from zarr_gpu.stores.files import ONE_READ

OURS = ".zg-"
"""How the names of temporary and lock files start."""
LOCK_FILE = ".zg-lock"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def temporary_in(directory: str) -> str:
    """A path that no other thread or process uses."""
    return f"{directory}/{OURS}{os.urandom(8).hex()}"


def write_parts(path: str, parts: Iterable[Bytes], *, sync: bool) -> bool:
    """Create ``path`` with all parts, one after the other; nothing is left of it on failure.

    False, and no file, when there are no parts.
    """
    source = iter(parts)
    part = next(source, None)
    if part is None:
        return False
    fd = os.open(path, _CREATE, 0o666)
    try:
        try:
            while part is not None:
                _write_all(fd, part)
                part = next(source, None)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        unlink(path)
        raise
    return True


def _write_all(fd: int, value: Bytes) -> None:
    nbytes = len(value)
    if nbytes <= ONE_READ:
        done = os.write(fd, value)
        if done == nbytes:
            return
        value = memoryview(value)[done:]
    view = memoryview(value)
    while view:
        view = view[os.write(fd, view[:ONE_READ]) :]


def rename(temporary: str, path: str) -> bool:
    """Replace ``path``."""
    try:
        os.replace(temporary, path)
    except BaseException:
        unlink(temporary)
        raise
    return True


def link(temporary: str, path: str) -> bool:
    """Make ``path``; False when it is there already."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        unlink(temporary)
    return True


def unlink(path: str) -> None:
    """Remove a file that may be gone."""
    with suppress(FileNotFoundError):
        os.unlink(path)


@contextmanager
def appearing(path: str, *, overwrite: bool, sync: bool = False) -> Iterator[str]:
    """A file that has the name ``path`` once it is whole, and ``path.unfinished`` until then.

    Whoever gets that name truncates and fills the file. What a killed process left under it is
    removed. Raises ContainsNodeError where ``path`` exists, unless ``overwrite``, StoreError for a
    directory and when another process began to write the same file meanwhile: only whole files of
    one writer get the name.
    """
    check_free(path, overwrite=overwrite)
    unfinished = f"{path}.unfinished"
    unlink(unfinished)
    fd = os.open(unfinished, _CREATE, 0o666)
    try:
        yield unfinished
        if sync:
            os.fsync(fd)
        if not _is_open_as(fd, unfinished):
            raise StoreError(f"{path} is being written by another process")
        check_free(path, overwrite=overwrite)
        os.replace(unfinished, path)
        if sync:
            sync_directory(os.path.dirname(path) or ".")
    except BaseException:
        if _is_open_as(fd, unfinished):
            unlink(unfinished)
        raise
    finally:
        os.close(fd)


def check_free(path: str, *, overwrite: bool) -> None:
    """ContainsNodeError where there is a file, unless ``overwrite``; StoreError for a directory."""
    if os.path.isdir(path):
        raise StoreError(f"{path} is a directory, which no file replaces")
    if not overwrite and os.path.lexists(path):
        raise ContainsNodeError(f"{path} exists; overwrite (--overwrite) replaces it")


def _is_open_as(fd: int, path: str) -> bool:
    """True while ``path`` names the file that was opened."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


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
        import shutil  # slow to import

        shutil.rmtree(aside)


def repair(root: str, older_than_s: float) -> list[str]:
    """Remove what killed writers and deletions left below ``root``; returns the paths."""
    oldest = time.time() - older_than_s
    removed = []
    for directory, directories, files in os.walk(root):
        left = [n for n in directories + files if n.startswith(OURS)]
        directories[:] = [n for n in directories if not n.startswith(OURS)]
        for path in (f"{directory}/{n}" for n in left if not n.startswith(LOCK_FILE)):
            with suppress(FileNotFoundError):  # its owner was alive after all
                if os.lstat(path).st_mtime < oldest:
                    remove(path, temporary_in(directory))
                    removed.append(path)
    return removed
