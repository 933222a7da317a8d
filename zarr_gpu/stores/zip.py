"""Objects as members of one zip file.

The directory of the file is read by :mod:`zipfile`; uncompressed members are then plain byte
ranges of the file, read without it. What the file claims is checked before it is believed: sizes
against the limit before anything is allocated, both headers of a member against each other, and
the checksum of every member that is read whole. Knows no Zarr.

The format cannot replace or delete: writing a key again appends a second member, of which the last
one counts, and the old bytes stay in the file. The directory is written by ``close()``; without it
the file cannot be opened again.

>>> with ZipStore("/tmp/example.zip", "w") as store:
...     store.set("c/0", b"0123")
>>> bytes(ZipStore("/tmp/example.zip").get("c/0"))
b'0123'
"""

# ruff: noqa: PTH100, PTH110, PTH113 - one path, kept as text

from __future__ import annotations

import os
import struct
import threading
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any, Literal

from zarr_gpu._types import Bytes
from zarr_gpu.errors import StoreError, StoreKeyError, UnsupportedError
from zarr_gpu.stores.base import ByteRange, BytesReader, Located, Reader, check_key, check_limit
from zarr_gpu.stores.common import SameBytes, failed, keys_below, names_below
from zarr_gpu.stores.files import read_exactly
from zarr_gpu.stores.locks import process_lock

Mode = Literal["r", "a", "w", "x"]
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
_DEFLATE_RATIO = 1032
"""Largest expansion of a deflate stream (zlib's technical notes)."""
_PIECE = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, OverflowError,
)  # fmt: skip
"""What zipfile raises for damaged directories."""


class ZipStore(SameBytes):
    """Members of the zip file at a path, or in an open, seekable binary file.

    ``mode``: ``r`` reads, ``a`` adds to the file or creates it, ``w`` starts it anew, ``x``
    creates it; one process at a time may write. ``compression`` of new members:
    ``zipfile.ZIP_STORED`` (Zarr has compressed its chunks) or ``zipfile.ZIP_DEFLATED``.
    Raises StoreError when the file cannot be opened or is no zip file.
    """

    local = True
    supports_deletes = False

    def __init__(
        self,
        file: str | os.PathLike[str] | IO[bytes],
        mode: Mode = "r",
        *,
        compression: int = zipfile.ZIP_STORED,
    ) -> None:
        if mode not in ("r", "a", "w", "x"):
            raise ValueError(f"mode must be 'r', 'a', 'w' or 'x', not {mode!r}")
        if compression not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsupportedError("members of a zip file are written stored or deflated only")
        self.mode = mode
        self.read_only = mode == "r"
        self._file: Any = os.path.abspath(file) if isinstance(file, str | os.PathLike) else file
        self._compression = compression
        self._lock = threading.RLock()
        self._zip = self._open()
        self._members = _members(self._zip)
        self._data_starts: dict[int, int] = {}
        if not self.read_only:
            _writable[id(self)] = self

    def _open(self) -> zipfile.ZipFile:
        try:
            if self.path and os.path.exists(self.path) and not os.path.isfile(self.path):
                raise StoreError(f"{self.path} is not a regular file")
            return zipfile.ZipFile(self._file, self.mode, self._compression)
        except StoreError:
            raise
        except (*_DAMAGED, OSError) as error:
            raise failed(f"cannot open the zip file {self._file}", error) from error

    @property
    def path(self) -> str | None:
        """Path of the file; None when it was given as an open file."""
        return self._file if isinstance(self._file, str) else None

    def __repr__(self) -> str:
        return f"ZipStore({self._file!r}, {self.mode!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file again, for reading."""
        if self.path is None:
            raise TypeError(f"{self!r} cannot be pickled: it has no path")
        return ZipStore, (self.path,)

    # -- reading ------------------------------------------------------------------------------

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Bytes | None:
        """See :meth:`Store.get`; the checksum is checked when a member is read whole."""
        member = self._members.get(check_key(key))
        if member is None:
            return None
        start, stop = (byte_range or ByteRange(0)).resolve(member.file_size)
        check_limit(key, stop - start, limit)
        base = self._data_start(member)
        if member.compress_type == zipfile.ZIP_STORED:
            data = self._read(base + start, stop - start, key)
        else:
            data = self._inflate(member, base, start, stop)
        return self._checked(data, member)

    def _checked(self, data: Bytes, member: zipfile.ZipInfo) -> Bytes:
        """``data``; raises StoreError when they are all of the member and its checksum differs."""
        if len(data) == member.file_size and zlib.crc32(data) != member.CRC:
            raise StoreError(
                f"{member.filename!r} of {self!r} is damaged (expected checksum "
                f"{member.CRC:#010x}, found {zlib.crc32(data):#010x})"
            )
        return data

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        member = self._members.get(check_key(key))
        if member is None:
            return None
        check_limit(key, member.file_size, limit)
        version = (member.header_offset, member.file_size, member.CRC)
        if member.compress_type == zipfile.ZIP_STORED:
            return _MemberReader(self, member, self._data_start(member), version)
        data = self.get(key, limit=limit)
        return None if data is None else BytesReader(data, version)

    def size(self, key: str) -> int | None:
        member = self._members.get(check_key(key))
        return None if member is None else member.file_size

    def locate(self, keys: Sequence[str]) -> Located:
        """Byte ranges of the file for stored members; only the store can read deflated ones."""
        found = Located.unknown(len(keys))
        path: list[str | None] = [None] * len(keys)
        for i, key in enumerate(keys):
            member = self._members.get(check_key(key))
            found.missing[i] = member is None
            if member is not None and self.path and member.compress_type == zipfile.ZIP_STORED:
                path[i] = self.path
                found.offset[i] = self._data_start(member)
                found.nbytes[i] = member.file_size
        found.path = path
        return found

    def _read(self, offset: int, nbytes: int, key: str) -> Bytes:
        """Bytes of the zip file."""
        fp = self._zip.fp
        if fp is None:
            raise StoreError(f"{self!r} is closed")
        try:
            if self.path:
                return read_exactly(fp.fileno(), offset, nbytes, f"{key!r} of {self!r}")
            with self._lock:
                fp.seek(offset)
                data = fp.read(nbytes)
        except (OSError, ValueError) as error:
            raise failed(f"cannot read {key!r} of {self!r}", error) from error
        if len(data) != nbytes:
            raise StoreError(f"{key!r} of {self!r}: the file ends inside the member")
        return data

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        """Where the member's bytes begin: after its local header, whose length varies."""
        start = self._data_starts.get(member.header_offset)
        if start is None:
            start = self._check_header(member)
            self._data_starts[member.header_offset] = start
        return start

    def _check_header(self, member: zipfile.ZipInfo) -> int:
        name = member.filename
        damaged = f"{name!r} of {self!r} is damaged"
        if member.flag_bits & _ENCRYPTED:
            raise UnsupportedError(f"{name!r} of {self!r} is encrypted")
        if member.compress_type == zipfile.ZIP_STORED:
            if member.compress_size != member.file_size:
                raise StoreError(f"{damaged}: stored, but its two sizes differ")
        elif member.compress_type != zipfile.ZIP_DEFLATED:
            raise UnsupportedError(f"{name!r} of {self!r}: zip method {member.compress_type}")
        elif member.file_size > _DEFLATE_RATIO * member.compress_size:
            raise StoreError(
                f"{damaged}: {member.compress_size} deflated bytes cannot hold "
                f"{member.file_size} bytes"
            )
        header = self._read(member.header_offset, _LOCAL_HEADER.size, name)
        magic, _, flags, *_, name_nbytes, extra_nbytes = _LOCAL_HEADER.unpack(header)
        at = member.header_offset + _LOCAL_HEADER.size
        found = bytes(self._read(at, name_nbytes, name))
        encoding = "utf-8" if flags & _UTF8_NAME else "cp437"
        if magic != b"PK\3\4" or found != member.orig_filename.encode(encoding, "replace"):
            raise StoreError(f"{damaged}: its header is not where the directory says")
        start: int = at + name_nbytes + extra_nbytes
        if start + member.compress_size > self._nbytes():
            raise StoreError(f"{damaged}: it does not lie inside the file")
        return start

    def _nbytes(self) -> int:
        fp = self._zip.fp
        if fp is None:
            raise StoreError(f"{self!r} is closed")
        with self._lock:
            return fp.seek(0, os.SEEK_END)

    def _inflate(self, member: zipfile.ZipInfo, base: int, start: int, stop: int) -> Bytes:
        """Bytes ``start`` to ``stop`` of a deflated member, never holding more than is asked."""
        name = member.filename
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        out = bytearray()
        done, at = 0, 0
        try:
            while done < stop and at < member.compress_size and not stream.eof:
                piece = self._read(base + at, min(_PIECE, member.compress_size - at), name)
                at += len(piece)
                while piece and done < stop:
                    data = stream.decompress(piece, min(_PIECE, stop - done))
                    piece = stream.unconsumed_tail
                    out += data[max(0, start - done) :]
                    done += len(data)
        except zlib.error as error:
            raise failed(f"{name!r} of {self!r} is damaged", error) from error
        if done < stop:
            raise StoreError(f"{name!r} of {self!r} is damaged: {done} bytes, {stop} declared")
        return out

    # -- listing ------------------------------------------------------------------------------

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        return keys_below(list(self._members), prefix)

    def list_dir(self, prefix: str = "") -> list[str]:
        return names_below(list(self._members), prefix)

    # -- writing ------------------------------------------------------------------------------

    def set(self, key: str, value: Bytes) -> None:
        """Append a member; an older one of the same name leaves the directory, not the file."""
        self.check_writable()
        member = zipfile.ZipInfo(check_key(key))  # its date is the format's first: 1980
        member.compress_type = self._compression
        member.external_attr = 0o644 << 16
        with self._lock:
            try:
                old = self._zip.NameToInfo.pop(key, None)
                self._zip.writestr(member, bytes(value))
                if old is not None:
                    self._zip.filelist.remove(old)
                if self._zip.fp is not None:
                    self._zip.fp.flush()
            except (OSError, ValueError, zipfile.LargeZipFile) as error:
                raise failed(f"cannot write {key!r} to {self!r}", error) from error
            self._members[key] = member

    def delete(self, key: str) -> None:
        """Nothing for an absent key; raises UnsupportedError for one that is there."""
        self.check_writable()
        if self.exists(key):
            raise UnsupportedError(f"{key!r} of {self!r} cannot be deleted: it is in a zip file")

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Holds off this process only: no other may write to the file at the same time."""
        self.check_writable()
        return process_lock((self.identity, key))

    # -- housekeeping -------------------------------------------------------------------------

    @property
    def identity(self) -> Hashable:
        return "zip", os.path.realpath(self.path) if self.path else id(self._file)

    def with_read_only(self, read_only: bool = True) -> ZipStore:
        """A read-only store shares this one's file; a writable one opens it in mode ``a``."""
        if not read_only and self.read_only:
            return ZipStore(self._file, "a", compression=self._compression)
        other = object.__new__(ZipStore)
        other.__dict__.update(self.__dict__, read_only=read_only)
        return other

    def close(self) -> None:
        """Write the directory and close the file (a file that was given stays open)."""
        with self._lock:
            try:
                self._zip.close()
            except (OSError, ValueError) as error:
                raise failed(f"cannot finish {self!r}", error) from error


_writable: weakref.WeakValueDictionary[int, ZipStore] = weakref.WeakValueDictionary()


def _after_fork() -> None:
    """A child that ends must not write the directory of its parent's file."""
    for store in list(_writable.values()):
        store._zip.fp = None  # noqa: SLF001 - what zipfile calls closed


os.register_at_fork(after_in_child=_after_fork)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by key; of several with one name the last counts. Odd names are left out."""
    members = {}
    odd = []
    for member in archive.infolist():
        if member.is_dir():
            continue
        try:
            members[check_key(member.filename)] = member
        except StoreKeyError:
            odd.append(member.filename)
    if odd:
        warnings.warn(
            f"{archive.filename}: {len(odd)} members are ignored because of their names "
            f"({', '.join(map(repr, odd[:3]))})",
            stacklevel=3,
        )
    return members


class _MemberReader(Reader):
    """A stored member, read as ranges of the file."""

    __slots__ = ("_base", "_member", "_store", "size", "version")

    def __init__(
        self, store: ZipStore, member: zipfile.ZipInfo, base: int, version: Hashable
    ) -> None:
        self._store = store
        self._member = member
        self._base = base
        self.size = member.file_size
        self.version = version

    def read(self, offset: int, nbytes: int) -> Bytes:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise StoreError(
                f"{self._member.filename}: bytes {offset}..{offset + nbytes} of {self.size} bytes"
            )
        data = self._store._read(self._base + offset, nbytes, self._member.filename)  # noqa: SLF001 - one unit
        return self._store._checked(data, self._member)  # noqa: SLF001
