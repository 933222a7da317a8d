"""nvCOMP's batched decoders and encoders, called through ctypes.

Binds the C interface of nvCOMP 6 for the formats that Zarr stores. Knows addresses, sizes and CUDA
streams, and neither CuPy nor chunks nor arrays; allocates nothing on a device.

The decoders of all formats but LZ4 trust their input: bytes that are no valid stream may make the
card read outside of it (nvCOMP's headers say so). Who calls :meth:`NvComp.decompress` has checked
that the bytes may be trusted, and afterwards compares every status and every actual size.

>>> status_text(12)
'cannot be decompressed (nvcompErrorCannotDecompress)'
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from zarr_gpu.device.runtime import Streams
from zarr_gpu.errors import DeviceUnavailableError, LimitError, MissingDependencyError

CODECS: Final = ("zstd", "deflate", "gzip", "snappy", "lz4", "gdeflate")
MAJOR: Final = 6
"""The one version bound here. In 5 the queries of temporary memory have another name and one
argument less, and nvcompType_t has other numbers."""

INSTALL: Final = (
    "pip install 'nvidia-libnvcomp-cu13>=6,<7' (with CUDA 12: nvidia-libnvcomp-cu12), "
    "or the extra cu13 or cu12 of zarr-gpu"
)
CUDA_ERROR: Final = 1000  # nvcompErrorCudaError

_SONAME = f"libnvcomp.so.{MAJOR}"
_CUDA_BACKEND = 2
"""NVCOMP_DECOMPRESS_BACKEND_CUDA of nvcompDecompressBackend_t. The default may pick the hardware
engine, which reports success for corrupt LZ4 streams (lz4.h)."""

_STATUS = {  # nvcompStatus_t of nvcomp/shared_types.h; ZG_BAD_VALUE of kernels/include/zg.cuh
    0: "fine (nvcompSuccess)",
    10: "invalid value (nvcompErrorInvalidValue)",
    11: "not supported (nvcompErrorNotSupported)",
    12: "cannot be decompressed (nvcompErrorCannotDecompress)",
    13: "checksum does not match (nvcompErrorBadChecksum)",
    14: "checksum cannot be verified (nvcompErrorCannotVerifyChecksums)",
    15: "not of the expected size (nvcompErrorOutputBufferTooSmall)",
    16: "header of wrong length (nvcompErrorWrongHeaderLength)",
    17: "address not aligned (nvcompErrorAlignment)",
    18: "stream too large (nvcompErrorChunkSizeTooLarge)",
    19: "cannot be compressed (nvcompErrorCannotCompress)",
    20: "input of wrong length (nvcompErrorWrongInputLength)",
    21: "too many streams at once (nvcompErrorBatchSizeTooLarge)",
    22: "too many parts (nvcompErrorSubChunkCountTooLarge)",
    23: "too few parts (nvcompErrorSubChunkCountTooSmall)",
    24: "output not aligned (nvcompErrorOutputBufferAlignmentTooSmall)",
    100: "a value that the codec cannot represent",
    CUDA_ERROR: "CUDA error (nvcompErrorCudaError)",
    10000: "internal error (nvcompErrorInternal)",
}


class NvCompError(RuntimeError):
    """nvCOMP refused a call; ``status`` is its number."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Properties(ctypes.Structure):
    """nvcompProperties_t."""

    _fields_ = (("version", c_uint32), ("cudart_version", c_uint32))


class Alignments(ctypes.Structure):
    """nvcompAlignmentRequirements_t."""

    _fields_ = (("input", c_size_t), ("output", c_size_t), ("temp", c_size_t))


class Options(ctypes.Structure):
    """Every nvcompBatched*Opts_t: 64 bytes passed by value, of which all that mean nothing are 0.

    The first word is the backend of a decoder, and the algorithm of a deflate encoder.
    """

    _fields_ = (("words", c_uint32 * 16),)


@dataclass(frozen=True, slots=True)
class _Format:
    """What is known about a format: its name in symbols, the largest streams, and levels."""

    symbol: str
    decompress_max: int  # nvcomp*DecompressionMaxAllowedChunkSize of the headers
    compress_max: int  # nvcomp*CompressionMaxAllowedChunkSize
    has_levels: bool = False


_FORMATS = {
    # zstd.h: the constant of the encoder is 2**31 - 1, its documentation says 16 MB
    "zstd": _Format("Zstd", 2**31 - 1, 1 << 24),
    "deflate": _Format("Deflate", 2**32 - 1, 1 << 31, has_levels=True),
    "gzip": _Format("Gzip", 2**32 - 1, (2**31 - 1) << 15, has_levels=True),
    "snappy": _Format("Snappy", 2**31 - 1, 1 << 24),
    "lz4": _Format("LZ4", 2**32 - 1, 1 << 24),
    "gdeflate": _Format("Gdeflate", 2**32 + 288, 1 << 31, has_levels=True),
}

_QUERY_TEMP = (c_size_t, c_size_t, Options, ctypes.POINTER(c_size_t), c_size_t, c_void_p)
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "DecompressGetRequiredAlignments": (Options, ctypes.POINTER(Alignments)),
    "DecompressGetTempSize": _QUERY_TEMP,
    "DecompressAsync": (
        *(c_void_p, c_void_p, c_void_p, c_void_p, c_size_t),  # in, sizes, capacities, actual, n
        *(c_void_p, c_size_t, c_void_p, Options, c_void_p, c_void_p),  # temp, out, status, stream
    ),
    "CompressGetRequiredAlignments": (Options, ctypes.POINTER(Alignments)),
    "CompressGetTempSize": _QUERY_TEMP,
    "CompressGetMaxOutputChunkSize": (c_size_t, Options, ctypes.POINTER(c_size_t)),
    "CompressAsync": (
        *(c_void_p, c_void_p, c_size_t, c_size_t, c_void_p, c_size_t),  # in, sizes, max, n, temp
        *(c_void_p, c_void_p, Options, c_void_p, c_void_p),  # out, actual, status, stream
    ),
}


def status_text(code: int) -> str:
    """What a status of a call or of one stream means.

    >>> status_text(77)
    'unknown status 77'
    """
    return _STATUS.get(code, f"unknown status {code}")


def algorithm(level: int) -> int:
    """nvCOMP's deflate algorithm for a level of zlib.

    By its headers algorithm 2 beats zlib's level 1, and 4 beats level 6; 0 is entropy coding only
    and 5 the best. A negative level is nvCOMP's default.

    >>> [algorithm(level) for level in (-1, 0, 1, 5, 6, 7, 12)]
    [1, 0, 2, 4, 4, 5, 5]
    """
    if level < 0:
        return 1
    return 0 if level == 0 else 2 if level == 1 else 4 if level <= 6 else 5


class _Bound:
    """The functions of one format; attributes, because a lookup by name costs more."""

    __slots__ = (
        "compress",
        "compress_alignments",
        "compress_bound",
        "compress_temp",
        "decompress",
        "decompress_alignments",
        "decompress_options",
        "decompress_temp",
        "format",
    )

    def __init__(self, library: ctypes.CDLL, known: _Format) -> None:
        def function(name: str) -> Any:
            bound = getattr(library, f"nvcompBatched{known.symbol}{name}")
            bound.argtypes = _FUNCTIONS[name]
            bound.restype = c_int
            return bound

        self.format = known
        self.decompress_options = _options(_CUDA_BACKEND)
        self.decompress = function("DecompressAsync")
        self.decompress_alignments = function("DecompressGetRequiredAlignments")
        self.decompress_temp = function("DecompressGetTempSize")
        self.compress = function("CompressAsync")
        self.compress_alignments = function("CompressGetRequiredAlignments")
        self.compress_bound = function("CompressGetMaxOutputChunkSize")
        self.compress_temp = function("CompressGetTempSize")

    def compress_options(self, level: int) -> Options:
        return _options(algorithm(level) if self.format.has_levels else 0)


class NvComp:
    """The library. All methods may be called by several threads; none waits for the device.

    ``version`` is nvCOMP's own, ``cudart_version`` that of the CUDA runtime inside it.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.version, self.cudart_version = _properties(library)
        if self.version[0] != MAJOR:
            found = ".".join(map(str, self.version))
            raise DeviceUnavailableError(
                f"nvCOMP {found} is installed, but {MAJOR}.x is needed: {INSTALL}"
            )
        try:
            self._codecs = {name: _Bound(library, known) for name, known in _FORMATS.items()}
        except AttributeError as error:
            raise DeviceUnavailableError(f"this nvCOMP library is incomplete: {error}") from error
        self._string = library.nvcompGetStatusString
        self._string.argtypes = (c_int,)
        self._string.restype = ctypes.c_char_p

    def decompress(
        self, codec: str, streams: Streams, temp_ptr: int, temp_nbytes: int, cuda_stream: int
    ) -> None:
        """Queue the decoding of a table of streams.

        Input and output addresses are multiples of :meth:`decompress_alignment`, the temporary
        memory has :meth:`decompress_temp_nbytes`; both stay alive until the work is done.
        """
        if not streams.n:
            return
        bound = self._bound(codec)
        if streams.max_nbytes > bound.format.decompress_max:
            raise _too_large(codec, bound.format.decompress_max, streams.max_nbytes)
        status = bound.decompress(
            streams.in_ptr, streams.in_nbytes, streams.out_nbytes, streams.actual, streams.n,
            temp_ptr, temp_nbytes, streams.out_ptr, bound.decompress_options, streams.status,
            cuda_stream,
        )  # fmt: skip
        if status:
            raise self._error(f"decompress {codec}", status)

    def decompress_temp_nbytes(
        self, codec: str, n: int, max_nbytes: int, total_nbytes: int, cuda_stream: int = 0
    ) -> int:
        """Temporary memory for ``n`` streams of at most ``max_nbytes`` decoded bytes each.

        Only zstd needs any: nvCOMP 6.0 answers about 3 * total, and 6936 per block of 128 KiB.
        """
        bound = self._bound(codec)
        if max_nbytes > bound.format.decompress_max:
            raise _too_large(codec, bound.format.decompress_max, max_nbytes)
        out = c_size_t()
        status = bound.decompress_temp(
            n, max_nbytes, bound.decompress_options, out, total_nbytes, cuda_stream
        )
        if status:
            raise self._error(f"temporary memory to decompress {codec}", status)
        return out.value

    def decompress_alignment(self, codec: str) -> tuple[int, int, int]:
        """What addresses of input, output and temporary memory must be multiples of."""
        bound = self._bound(codec)
        out = Alignments()
        status = bound.decompress_alignments(bound.decompress_options, out)
        if status:
            raise self._error(f"alignment to decompress {codec}", status)
        return out.input, out.output, out.temp

    def decompress_max_nbytes(self, codec: str) -> int:
        """Largest stream, compressed or not, that can be decoded."""
        return self._bound(codec).format.decompress_max

    def compress(
        self,
        codec: str,
        streams: Streams,
        temp_ptr: int,
        temp_nbytes: int,
        cuda_stream: int,
        level: int = -1,
    ) -> None:
        """Queue the encoding of a table of streams, outputs of :meth:`compress_bound` each.

        ``level`` is zlib's, for deflate, gzip and gdeflate (see :func:`algorithm`); the other
        formats have no levels. ``streams.max_nbytes`` is the largest input.
        """
        if not streams.n:
            return
        bound = self._bound(codec)
        if streams.max_nbytes > bound.format.compress_max:
            raise _too_large(codec, bound.format.compress_max, streams.max_nbytes)
        status = bound.compress(
            streams.in_ptr, streams.in_nbytes, streams.max_nbytes, streams.n, temp_ptr,
            temp_nbytes, streams.out_ptr, streams.actual, bound.compress_options(level),
            streams.status, cuda_stream,
        )  # fmt: skip
        if status:
            raise self._error(f"compress {codec}", status)

    def compress_temp_nbytes(
        self,
        codec: str,
        n: int,
        max_nbytes: int,
        total_nbytes: int,
        level: int = -1,
        cuda_stream: int = 0,
    ) -> int:
        """Temporary memory to encode ``n`` streams; asks the device (zstd fails without one)."""
        bound = self._bound(codec)
        if max_nbytes > bound.format.compress_max:
            raise _too_large(codec, bound.format.compress_max, max_nbytes)
        out = c_size_t()
        status = bound.compress_temp(
            n, max_nbytes, bound.compress_options(level), out, total_nbytes, cuda_stream
        )
        if status:
            raise self._error(f"temporary memory to compress {codec}", status)
        return out.value

    def compress_bound(self, codec: str, nbytes: int) -> int:
        """Largest output for an input of ``nbytes``; the same for all levels."""
        bound = self._bound(codec)
        if nbytes > bound.format.compress_max:
            raise _too_large(codec, bound.format.compress_max, nbytes)
        out = c_size_t()
        status = bound.compress_bound(nbytes, bound.compress_options(-1), out)
        if status:
            raise self._error(f"largest output of {codec}", status)
        return out.value

    def compress_alignment(self, codec: str) -> tuple[int, int, int]:
        """What addresses of input, output and temporary memory must be multiples of."""
        bound = self._bound(codec)
        out = Alignments()
        status = bound.compress_alignments(bound.compress_options(-1), out)
        if status:
            raise self._error(f"alignment to compress {codec}", status)
        return out.input, out.output, out.temp

    def compress_max_nbytes(self, codec: str) -> int:
        """Largest stream that can be encoded."""
        return self._bound(codec).format.compress_max

    def _bound(self, codec: str) -> _Bound:
        try:
            return self._codecs[codec]
        except KeyError:
            raise ValueError(f"nvCOMP has no codec {codec!r} here, only {list(CODECS)}") from None

    def _error(self, what: str, status: int) -> Exception:
        text = self._string(status)
        detail = f"nvCOMP: {what}: {status_text(status)}" + (f", {text.decode()}" if text else "")
        if status == CUDA_ERROR:
            return DeviceUnavailableError(f"{detail}; no usable CUDA device, or it failed before")
        return NvCompError(detail, status)


def load() -> NvComp:
    """The installed library, loaded once.

    Raises MissingDependencyError when there is none, and DeviceUnavailableError when it cannot be
    loaded or is of another version.
    """
    with _lock:  # a failure is not remembered: it may be repaired by an installation
        return _load()


_lock = threading.Lock()


@cache
def _load() -> NvComp:
    return NvComp(_open_library())


def _open_library() -> ctypes.CDLL:
    """The library of the wheel, otherwise that of the system."""
    reason = ""
    try:
        from nvidia.libnvcomp import load_library
    except ImportError as error:
        if not (error.name or "").startswith("nvidia"):
            raise
        installed = False
    else:
        installed = True
        try:
            library = load_library()
        except OSError as error:
            reason = f": {error}"
        else:
            if library is not None:
                return library  # type: ignore[no-any-return]
    try:
        return ctypes.CDLL(_SONAME)
    except OSError as error:
        if installed:
            reason = reason or f": {error}"
            raise DeviceUnavailableError(f"nvCOMP is installed but not loadable{reason}") from error
        raise MissingDependencyError(
            f"zarr_gpu decodes zstd, gzip and others on the device with nvCOMP: {INSTALL}"
        ) from error


def _properties(library: ctypes.CDLL) -> tuple[tuple[int, int, int], int]:
    """Version of the library as (major, minor, patch), and of its CUDA runtime."""
    out = Properties()
    try:
        function = library.nvcompGetProperties
    except AttributeError as error:
        raise DeviceUnavailableError(f"not an nvCOMP library: {error}") from error
    function.argtypes = (ctypes.POINTER(Properties),)
    function.restype = c_int
    status = function(out)
    if status:
        raise DeviceUnavailableError(f"nvCOMP does not give its version: {status_text(status)}")
    number = out.version  # major * 1000 + minor * 100 + patch, nvcomp/version.h
    return (number // 1000, number % 1000 // 100, number % 100), out.cudart_version


def _options(first: int) -> Options:
    out = Options()
    out.words[0] = first
    return out


def _too_large(codec: str, expected: int, found: int) -> LimitError:
    return LimitError(
        f"nvCOMP: a stream of {found} bytes is too large for {codec} (at most {expected})",
        expected=expected,
        found=found,
    )
