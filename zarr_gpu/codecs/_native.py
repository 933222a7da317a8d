"""The C libraries inside numcodecs' wheels, called through ctypes.

numcodecs' wrappers make a context for every call and copy more than they must; for chunks of a few
KiB that takes longer than decoding. Its extension modules export the functions of the libraries
they are made of, at least on Linux. Each function here gives a library whose entry points were
found and tried, or None: the caller then uses numcodecs. Calls release the interpreter lock.

Knows entry points and addresses. Sizes are the caller's business: C believes what it is told.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import addressof, byref, c_char, c_int, c_size_t, c_uint, c_void_p
from functools import cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu._types import Bytes

Function: TypeAlias = Callable[..., Any]
Pointer: TypeAlias = Any
"""What ctypes takes for a ``void *``: bytes, an integer, or a reference to a ``c_char``."""

ENABLED = True
"""Tests set it to False, and get what platforms without exported functions get."""

_MIN_ZSTD = 10400  # 1.4.0: ZSTD_compress2 and the advanced interface are stable


# -- addresses -------------------------------------------------------------------------------------


def pointer(data: Bytes) -> Pointer:
    """The address of ``data``, which may not be empty; valid while the caller holds both."""
    if type(data) is bytes:
        return data
    if type(data) is memoryview and data.readonly:
        return _readonly_address(data)
    return byref(_from_buffer(data))


_from_buffer: Any = c_char.from_buffer


class _PyBuffer(ctypes.Structure):
    """``Py_buffer``, part of the stable ABI since Python 3.11."""

    _fields_ = (
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_void_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    )


def _buffer_functions() -> tuple[Function, Function]:
    acquire, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    acquire.argtypes, acquire.restype = (ctypes.py_object, c_void_p, c_int), c_int
    release.argtypes, release.restype = (c_void_p,), None
    return acquire, release


_acquire, _release = _buffer_functions()


def _readonly_address(data: memoryview) -> int:
    """ctypes gives the address of writable memory only; NumPy takes three times as long as this."""
    view = _PyBuffer()
    at = addressof(view)
    _acquire(data, at, 0)  # 0 is PyBUF_SIMPLE
    _release(at)  # data itself keeps the memory in place
    return int(view.buf)


# -- libraries -------------------------------------------------------------------------------------


def _open(module: str) -> ctypes.CDLL | None:
    try:
        path = import_module(f"numcodecs.{module}").__file__
        return ctypes.CDLL(path) if path else None
    except (ImportError, OSError):
        return None


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Function:
    """An entry point with its own types; AttributeError when it is not exported."""
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


class _Context:
    """A context of a C library, freed with this object."""

    def __init__(self, create: Function, free: Function) -> None:
        self._free = free
        self.handle: int | None = create()
        if self.handle is None:
            raise MemoryError("no memory for a codec's context")

    def __del__(self) -> None:
        if self.handle is not None:
            self._free(self.handle)


class _PerThread(threading.local):
    """A context for each thread that asks, freed when the thread ends.

    After a fork the child has a copy of the contexts; they own memory and nothing else.
    """

    def __init__(self, create: Function, free: Function) -> None:
        # threading.local calls this in each thread at its first access.
        self.context = _Context(create, free)
        self.handle = self.context.handle


class Zstd:
    """libzstd; AttributeError when something it needs is not exported."""

    def __init__(self, library: ctypes.CDLL) -> None:
        context, memory = c_void_p, c_void_p
        pair = (memory, c_size_t)
        self.version = int(_function(library, "ZSTD_versionNumber", c_uint)())
        self._name = _function(library, "ZSTD_getErrorName", ctypes.c_char_p, c_size_t)
        self._decoders = _PerThread(
            _function(library, "ZSTD_createDCtx", c_void_p),
            _function(library, "ZSTD_freeDCtx", c_size_t, context),
        )
        self._decompress = _function(
            library, "ZSTD_decompressDCtx", c_size_t, context, *pair, *pair
        )
        self._encoders = _PerThread(
            _function(library, "ZSTD_createCCtx", c_void_p),
            _function(library, "ZSTD_freeCCtx", c_size_t, context),
        )
        self._set = _function(library, "ZSTD_CCtx_setParameter", c_size_t, context, c_int, c_int)
        self._compress = _function(library, "ZSTD_compress2", c_size_t, context, *pair, *pair)

    def decompress(self, into: Pointer, room: int, data: Pointer, nbytes: int) -> int:
        """Decode all frames into ``room`` bytes; the size, or an error's code above ``room``."""
        return self._decompress(  # type: ignore[no-any-return]
            self._decoders.handle, into, room, data, nbytes
        )

    def compress(
        self, into: Pointer, room: int, data: Pointer, nbytes: int, level: int, checksum: bool
    ) -> int:
        """Encode one frame into ``room`` bytes; the size, or an error's code above ``room``."""
        handle = self._encoders.handle
        self._set(handle, 100, level)  # ZSTD_c_compressionLevel
        self._set(handle, 201, checksum)  # ZSTD_c_checksumFlag
        return self._compress(handle, into, room, data, nbytes)  # type: ignore[no-any-return]

    def error(self, code: int) -> str:
        return bytes(self._name(code)).decode()


def zstd() -> Zstd | None:
    """libzstd, where numcodecs' module exports it."""
    return _zstd() if ENABLED else None


@cache
def _zstd() -> Zstd | None:
    library = _open("zstd")
    if library is None:
        return None
    try:
        found = Zstd(library)
    except AttributeError:
        return None
    sample = b"zarr" * 8
    packed, result = bytearray(128), bytearray(len(sample))
    nbytes = found.compress(pointer(packed), 128, sample, len(sample), 1, checksum=True)
    works = found.version >= _MIN_ZSTD and nbytes <= len(packed)
    works = works and found.decompress(pointer(result), 32, pointer(packed), nbytes) == len(sample)
    return found if works and result == sample else None


def scratch(nbytes: int) -> memoryview:
    """Memory that nothing has been written to."""
    return memoryview(np.empty(nbytes, np.uint8))
