"""Which directories below a root may be used: they exist, and no link leads out of the root.

A directory is looked at once, then trusted: this protects against links that came with the data,
not against a process that swaps directories for links meanwhile. Knows paths, not keys.
"""

# A Path object costs more than the system call.
# ruff: noqa: PTH102, PTH110, PTH114, PTH116, PTH120

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import cached_property

from zarr_gpu.errors import StoreError
from zarr_gpu.stores.common import failed
from zarr_gpu.stores.publishing import make_directories

MOST = 1 << 16
"""Directories remembered."""


class Directories:
    """Those at and below ``root``; with ``follow_symlinks`` links may lead anywhere."""

    def __init__(self, root: str, *, follow_symlinks: bool) -> None:
        self._root = root
        self.follow_symlinks = follow_symlinks
        self.trusted = {root}

    @cached_property
    def real_root(self) -> str:
        """The root without links."""
        return os.path.realpath(self._root)

    def trust(self, directory: str) -> bool:
        """True when ``directory`` exists and may be used, False when it does not exist."""
        if directory in self.trusted:
            return True
        try:
            parent = directory[: directory.rindex("/")]
            known = parent in self.trusted or (
                parent.startswith(self._root + "/") and self.trust(parent)
            )
            if known and stat.S_ISDIR(os.lstat(directory).st_mode):
                # no link: it is where its parent is
                self._remember(directory)
                return True
            is_directory = stat.S_ISDIR(os.stat(directory).st_mode)
        except FileNotFoundError:
            self._check_absent(directory)
            return False
        except OSError as error:
            raise failed(f"cannot use {directory}", error) from error
        if not is_directory:
            raise StoreError(f"{directory} is not a directory")
        self.check_inside(directory)
        self._remember(directory)
        return True

    def _remember(self, directory: str) -> None:
        if len(self.trusted) >= MOST:
            self.trusted = {self._root}
        self.trusted.add(directory)

    def _check_absent(self, directory: str) -> None:
        """A directory missing because of a link that dangles or leaves the root is an error."""
        while directory not in self.trusted:
            if os.path.exists(directory):
                self.trust(directory)
                return
            if os.path.islink(directory) and not os.path.exists(directory):
                raise StoreError(f"{directory} is a dangling symbolic link")
            directory = os.path.dirname(directory)

    def check_inside(self, path: str) -> str:
        """The path without links; raises StoreError when it leaves the root."""
        real = os.path.realpath(path)
        root = self.real_root
        inside = real == root or real.startswith(root.rstrip("/") + "/")
        if not inside and not self.follow_symlinks:
            raise StoreError(
                f"{path} leads out of the store through a symbolic link; if that is intended, "
                f"open it with LocalStore(..., follow_symlinks=True)"
            )
        return real

    def enter(self, directory: str, *, again: bool, sync: bool) -> None:
        """Make ``directory`` where it is missing; ``again``: also where it is remembered."""
        if directory in self.trusted and not again:
            return
        parent = os.path.dirname(directory)
        if parent in self.trusted and not again and not sync:
            with suppress(FileExistsError, FileNotFoundError):
                os.mkdir(directory)
                self._remember(directory)
                return
        if again or not self.trust(directory):
            self.check_inside(directory)
            make_directories(directory, sync=sync)
            if directory != self._root:
                self._remember(directory)
                self.trust(parent)  # the next directory in it takes one system call
