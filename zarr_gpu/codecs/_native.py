"""C libraries, mostly those inside numcodecs' wheels, called through ctypes.

numcodecs' wrappers make a context for every call and copy more than they must; for chunks of a few
KiB that takes longer than decoding. Its extension modules export the functions of the libraries
they are made of, at least on Linux. Each function here gives a library whose entry points were
found and tried, or None: the caller then uses numcodecs. Calls release the interpreter lock.

Knows entry points and addresses. Sizes are the caller's business: C believes what it is told.
"""

from __future__ import annotations

import ctypes
import os
import threading
import zlib
from collections.abc import Callable
from ctypes import addressof, byref, c_char, c_int, c_size_t, c_uint, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import Any, TypeAlias, TypeVar

from zarr_gpu._types import Bytes

Function: TypeAlias = Callable[..., Any]
Library = TypeVar("Library")
Pointer: TypeAlias = Any
"""What ctypes takes for a ``void *``: bytes, an integer, or a reference to a ``c_char``."""

ENABLED = True
"""Tests set it to False, and get what platforms without exported functions get."""

MAX_INT = 2**31 - 1
"""Larger sizes must not reach a C function that takes an ``int``: ctypes cuts them off."""

_MIN_LZ4 = 10900  # 1.9.0: a block may be decoded up to any byte
_MIN_ZSTD = 10400  # 1.4.0: what is used here is stable from then on, or made for bindings

MOST_ZSTD = 128 << 10
"""Bytes that are compressed by a context that is kept: one of zstd's blocks. From there on making
one costs too little, compared with 0.2 ms of compressing, for the memory that it would hold."""

_LEVEL, _CHECKSUM = 100, 201  # ZSTD_cParameter in zstd.h

_SYSTEM_ZSTD = "libzstd.so.1"
_MIN_SYSTEM_ZSTD = 10502  # 1.5.2: the first with that assembly

_SAMPLE = b"zarr" * 32  # libraries have to decode it before they are believed
_ZSTD_SAMPLE = bytes.fromhex("28b52ffd20805d0000207a6172720100f9d41101")
_LZ4_SAMPLE = bytes.fromhex("4f7a61727204006450727a617272")
_BLOSC_SAMPLE = bytes.fromhex(
    "0201310480000000800000002d00000014000000150000001f7a01000c1f6101000c1f72010027507272727272"
)


# -- addresses -------------------------------------------------------------------------------------


def pointer(data: Bytes) -> Pointer:
    """The address of ``data``, which may not be empty; valid while the caller holds both."""
    if type(data) is bytes:
        return data
    if type(data) is memoryview and data.readonly:
        return _readonly_address(data)
    return byref(_from_buffer(data))


_from_buffer: Any = c_char.from_buffer


def address(data: memoryview) -> int:
    """The address of writable memory that is not empty; valid while the caller holds ``data``."""
    return addressof(_from_buffer(data))


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


def _path(module: str) -> str | None:
    """The file of an extension module. Its package is not imported: for numcodecs that takes 80 ms,
    loading one extension takes 1.
    """
    package, _, name = module.partition(".")
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for suffix in EXTENSION_SUFFIXES:
            path = f"{folder}/{name}{suffix}"
            if os.path.isfile(path):  # noqa: PTH113 - pathlib is not imported otherwise
                return path
    return None


def _open(module: str) -> ctypes.CDLL | None:
    try:
        path = _path(module)
        return ctypes.CDLL(path) if path else None
    except (ImportError, ValueError, OSError):
        return None


def _find(module: str, build: Callable[[ctypes.CDLL], Library]) -> Library | None:
    """The library in an extension module, when everything it needs is exported."""
    library = _open(module)
    try:
        return None if library is None else build(library)
    except AttributeError:
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
        self._functions = create, free
        self._context = self.new()
        self.handle = self._context.handle

    def new(self) -> _Context:
        """A context for the caller alone."""
        return _Context(*self._functions)


class _ZstdEncoder(_Context):
    """A context with settings, and memory for a frame of at most :data:`MOST_ZSTD` bytes."""

    settings: tuple[int, bool] | None = None

    def __init__(self, create: Function, free: Function, room: int) -> None:
        super().__init__(create, free)
        memory = bytearray(room)
        self.memory = memoryview(memory)
        self.address = addressof(_from_buffer(memory))  # the view keeps it from being moved
        self.room = room


class _DeflateEncoder(_Context):
    """Made for one level."""

    def __init__(self, create: Function, free: Function, level: int) -> None:
        super().__init__(lambda: create(level), free)
        self.level = level


class _Idle(threading.local):
    """Each thread's encoder, freed when the thread ends.

    One that is used by more than one call is taken out in between: a handler of a signal runs in
    the same thread, and then makes another.
    """

    encoder: Any = None


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
        self._stream = _function(
            library,
            "ZSTD_decompressStream_simpleArgs",
            c_size_t,
            *(context, *pair, c_void_p, *pair, c_void_p),
        )
        self._is_error = _function(library, "ZSTD_isError", c_uint, c_size_t)
        self._idle = _Idle()
        self._new = (
            _function(library, "ZSTD_createCCtx", c_void_p),
            _function(library, "ZSTD_freeCCtx", c_size_t, context),
            int(_function(library, "ZSTD_compressBound", c_size_t, c_size_t)(MOST_ZSTD)),
        )
        self._set = _function(library, "ZSTD_CCtx_setParameter", c_size_t, context, c_int, c_int)
        self._compress = _function(library, "ZSTD_compress2", c_size_t, context, *pair, *pair)

    def compress(self, data: Pointer, nbytes: int, level: int, checksum: bool) -> bytes | None:
        """A frame of at most :data:`MOST_ZSTD` bytes; None when anything fails."""
        encoder = self._idle.encoder or _ZstdEncoder(*self._new)
        self._idle.encoder = None
        handle = encoder.handle
        if encoder.settings != (level, checksum):
            codes = self._set(handle, _LEVEL, level), self._set(handle, _CHECKSUM, checksum)
            if any(map(self._is_error, codes)):
                return None
            encoder.settings = level, checksum
        size = self._compress(handle, encoder.address, encoder.room, data, nbytes)
        if size > encoder.room:  # the code of an error
            return None
        frame = bytes(encoder.memory[:size])
        self._idle.encoder = encoder
        return frame

    def decompress(self, into: Pointer, room: int, data: Pointer, nbytes: int) -> int:
        """Decode all frames into ``room`` bytes; the size, or an error's code above ``room``."""
        return self._decompress(  # type: ignore[no-any-return]
            self._decoders.handle, into, room, data, nbytes
        )

    def part(self, into: Pointer, room: int, data: Pointer, nbytes: int) -> int:
        """Decode the first ``room`` bytes of a frame; fewer when it ends or is bad before."""
        # Not the thread's context: this one holds a window, and is in use between two calls.
        context = self._decoders.new()
        done, used, before = c_size_t(0), c_size_t(0), (-1, -1)
        while done.value < room and before != (done.value, used.value):
            before = done.value, used.value
            left = self._stream(context.handle, into, room, byref(done), data, nbytes, byref(used))
            if left == 0 or self._is_error(left):
                break
        return done.value

    def error(self, code: int) -> str:
        return bytes(self._name(code)).decode()


def zstd() -> Zstd | None:
    """libzstd, where numcodecs' module exports it: it encodes to the same bytes."""
    return _zstd() if ENABLED else None


def zstd_decoder() -> Zstd | None:
    """The system's libzstd, or the one of :func:`zstd`."""
    return (_system_zstd() or _zstd()) if ENABLED else None


@cache
def _zstd() -> Zstd | None:
    return _works(_find("numcodecs.zstd", Zstd), _MIN_ZSTD)


@cache
def _system_zstd() -> Zstd | None:
    """Built with all that the processor has (wheels leave out the assembly of the decoder for
    Huffman codes): chunks take 0.82 to 0.95 of the time.
    """
    try:
        return _works(Zstd(ctypes.CDLL(_SYSTEM_ZSTD)), _MIN_SYSTEM_ZSTD)
    except (OSError, AttributeError):
        return None


def _works(found: Zstd | None, oldest: int) -> Zstd | None:
    if found is None or found.version < oldest:
        return None
    result = bytearray(128)
    works = found.decompress(pointer(result), 128, _ZSTD_SAMPLE, len(_ZSTD_SAMPLE)) == 128
    works = works and found.part(pointer(bytearray(9)), 9, _ZSTD_SAMPLE, len(_ZSTD_SAMPLE)) == 9
    frame, again = found.compress(_SAMPLE, 128, 0, False) or b"", bytearray(128)
    works = works and found.decompress(pointer(again), 128, frame, len(frame)) == 128
    return found if works and result == again == _SAMPLE else None


class Blosc:
    """c-blosc 1, without its pool of threads and without numcodecs' lock around it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        memory = c_void_p
        self._decompress = _function(
            library, "blosc_decompress_ctx", c_int, memory, memory, c_size_t, c_int
        )
        self._getitem = _function(library, "blosc_getitem", c_int, memory, c_int, c_int, memory)

    def decompress(self, into: Pointer, room: int, data: Pointer) -> int:
        """Decode a container whose header has been compared with the memory behind ``data``."""
        return self._decompress(data, into, room, 1)  # type: ignore[no-any-return]

    def part(self, into: Pointer, data: Pointer, start: int, count: int) -> int:
        """Decode ``count`` elements from number ``start``; the bytes, or an error below 0."""
        return self._getitem(data, start, count, into)  # type: ignore[no-any-return]


def blosc() -> Blosc | None:
    """c-blosc, where numcodecs' module exports it."""
    return _blosc() if ENABLED else None


@cache
def _blosc() -> Blosc | None:
    found = _find("numcodecs.blosc", Blosc)
    if found is None:
        return None
    result, part = bytearray(128), bytearray(8)
    works = found.decompress(pointer(result), 128, _BLOSC_SAMPLE) == 128
    works = works and found.part(pointer(part), _BLOSC_SAMPLE, 1, 2) == 8
    return found if works and result == _SAMPLE and part == _SAMPLE[4:12] else None


class Lz4:
    """Blocks of LZ4."""

    def __init__(self, library: ctypes.CDLL) -> None:
        types = (c_void_p, c_void_p, c_int, c_int)
        self._decompress = _function(library, "LZ4_decompress_safe", c_int, *types)
        self._part = _function(library, "LZ4_decompress_safe_partial", c_int, *types, c_int)
        self.version = int(_function(library, "LZ4_versionNumber", c_int)())

    def decompress(self, into: Pointer, room: int, data: Pointer, nbytes: int) -> int:
        """Decode one block into at most ``room`` bytes; the size, or an error below 0."""
        return self._decompress(data, into, nbytes, room)  # type: ignore[no-any-return]

    def part(self, into: Pointer, room: int, data: Pointer, nbytes: int) -> int:
        """Decode the first ``room`` bytes of a block; the size, or an error below 0."""
        return self._part(data, into, nbytes, room, room)  # type: ignore[no-any-return]


def lz4() -> Lz4 | None:
    """LZ4, where numcodecs' module exports it."""
    return _lz4() if ENABLED else None


@cache
def _lz4() -> Lz4 | None:
    found = _find("numcodecs.lz4", Lz4)
    if found is None or found.version < _MIN_LZ4:
        return None
    result = bytearray(128)
    works = found.decompress(pointer(result), 128, _LZ4_SAMPLE, len(_LZ4_SAMPLE)) == 128
    works = works and found.part(pointer(bytearray(9)), 9, _LZ4_SAMPLE, len(_LZ4_SAMPLE)) == 9
    return found if works and result == _SAMPLE else None


class Deflate:
    """libdeflate, which encodes and decodes whole buffers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        memory, pair = c_void_p, (c_void_p, c_size_t)
        self._decoders = _PerThread(
            _function(library, "libdeflate_alloc_decompressor", c_void_p),
            _function(library, "libdeflate_free_decompressor", None, c_void_p),
        )
        types = (c_int, c_void_p, *pair, *pair, memory, memory)
        self._gzip = _function(library, "libdeflate_gzip_decompress_ex", *types)
        self._zlib = _function(library, "libdeflate_zlib_decompress_ex", *types)
        self._idle = _Idle()
        self._new = (
            _function(library, "libdeflate_alloc_compressor", c_void_p, c_int),
            _function(library, "libdeflate_free_compressor", None, c_void_p),
        )
        pairs = (memory, *pair, *pair)
        self._to_gzip = _function(library, "libdeflate_gzip_compress", c_size_t, *pairs)
        self._to_zlib = _function(library, "libdeflate_zlib_compress", c_size_t, *pairs)

    def compress(
        self, into: Pointer, room: int, data: Pointer, nbytes: int, *, level: int, gzip: bool
    ) -> int:
        """Encode as one stream, ``level`` 0 to 12; its size, or 0 when there is no room for it."""
        encoder = self._idle.encoder
        if encoder is None or encoder.level != level:
            encoder = self._idle.encoder = _DeflateEncoder(*self._new, level)
        call = self._to_gzip if gzip else self._to_zlib
        return call(encoder.handle, data, nbytes, into, room)  # type: ignore[no-any-return]

    def decompress(
        self, into: Pointer, room: int, data: Pointer, nbytes: int, *, gzip: bool
    ) -> bool:
        """Decode one stream; True when ``data`` are exactly that and it has ``room`` bytes."""
        used = c_size_t(0)
        call = self._gzip if gzip else self._zlib
        # Without a place to put the decoded size, any other size is an error.
        failed = call(self._decoders.handle, data, nbytes, into, room, byref(used), None)
        return not failed and used.value == nbytes


def deflate() -> Deflate | None:
    """libdeflate, where the package ``deflate`` is installed and exports it."""
    return _deflate() if ENABLED else None


@cache
def _deflate() -> Deflate | None:
    found = _find("deflate._deflate", Deflate)
    if found is None:
        return None
    packed, result = zlib.compress(_SAMPLE), bytearray(128)
    works = found.decompress(pointer(result), 128, packed, len(packed), gzip=False)
    ours, again = bytearray(256), bytearray(128)
    nbytes = found.compress(pointer(ours), 256, _SAMPLE, 128, level=6, gzip=True)
    works = works and found.decompress(pointer(again), 128, pointer(ours), nbytes, gzip=True)
    return found if works and result == again == _SAMPLE else None
