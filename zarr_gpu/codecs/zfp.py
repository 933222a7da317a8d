"""zfp through the package ``zfpy``: ``zfp`` (zarr-extensions) and numcodecs' ``zfpy``.

The two differ in the header: numcodecs writes one, ``zfp`` keeps that information in the metadata.
The C library trusts its input: it reads past the end of a short stream and allocates what a
header asks for. So streams are followed by zeros, as many as a decoder can consume, and headers
are compared with the metadata first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray, Shape
from zarr_gpu.codecs._members import check_names, choice, integer, number
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Size
from zarr_gpu.codecs.numcodecs import ArrayCodecOnBytes, native
from zarr_gpu.errors import CodecError, MissingDependencyError

_HEADER_NBYTES = 24  # 148 bits at most (zfp, "Header"), in whole words
_PARAMETER = {"fixed_accuracy": "tolerance", "fixed_rate": "rate", "fixed_precision": "precision"}
_NUMCODECS_MODES = {2: "fixed_rate", 3: "fixed_precision", 4: "fixed_accuracy"}


def _zfpy() -> Any:
    try:
        import zfpy
    except ImportError as error:
        raise MissingDependencyError("zfp needs the package 'zfpy'") from error
    return zfpy


def _check_spec(spec: ChunkSpec, name: str) -> None:
    if spec.dtype.kind not in "if" or spec.dtype.itemsize not in (4, 8):
        raise ValueError(f"{name}: cannot compress elements of {spec.data_type.name!r}")
    if len(spec.shape) > 4:
        raise ValueError(f"{name}: at most 4 dimensions are possible, found {len(spec.shape)}")


def _field(spec: ChunkSpec) -> Shape:
    """Shape that zfp sees: a zero-dimensional chunk is one-dimensional there."""
    return spec.shape or (1,)


def _block_bits(spec: ChunkSpec) -> int:
    """Bits that decoding one block of 4**d values can consume, exponent and tests included.

    Each of the bit planes of a block reads at most two bits for each value.
    """
    values: int = 4 ** len(_field(spec))
    return 2 * values * 8 * spec.dtype.itemsize + 64


def _stream_nbytes(spec: ChunkSpec) -> int:
    blocks = math.prod(-(-n // 4) for n in _field(spec))
    bits: int = blocks * _block_bits(spec)
    return _HEADER_NBYTES + (bits + 7) // 8 + 8


def _padded(data: Bytes, spec: ChunkSpec) -> bytes:
    return bytes(data).ljust(_stream_nbytes(spec) + 8, b"\0")


def _compress(codec: str, array: NDArray, spec: ChunkSpec, **options: Any) -> Bytes:
    values = native(array, spec).reshape(_field(spec))
    try:
        data: bytes = _zfpy().compress_numpy(values, **options)
    except (TypeError, ValueError) as error:
        raise CodecError(f"cannot encode: {error}", codec=codec) from error
    return data


@dataclass(frozen=True)
class ZfpCodec(ArrayBytesCodec):
    """Streams without a header. ``expert`` mode is not reachable through zfpy."""

    name: ClassVar[str] = "zfp"

    mode: str = "reversible"
    parameter: float | None = None
    """Tolerance, rate or precision, as the mode asks for."""

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> ZfpCodec:
        mode = choice(config, "mode", "", "reversible", "expert", *_PARAMETER)
        if mode == "expert":
            raise ValueError("mode: 'expert' is not possible with the package 'zfpy'")
        if mode not in _PARAMETER:
            check_names(config, required=("mode",))
            return cls(mode)
        name = _PARAMETER[mode]
        check_names(config, required=("mode", name))
        value = number(config, name)
        if mode == "fixed_precision":
            value = integer(config, name, 1, 64)
        elif value < 0 or (mode == "fixed_rate" and not 0 < value <= 128):
            raise ValueError(f"{name}: out of range, found {value}")
        return cls(mode, value)

    def to_config(self) -> dict[str, JSON]:
        return {"mode": self.mode, **self._options()}

    def _options(self) -> dict[str, Any]:
        return {_PARAMETER[self.mode]: self.parameter} if self.mode in _PARAMETER else {}

    def bind(self, spec: ChunkSpec) -> ZfpCodec:
        _check_spec(spec, self.name)
        if self.mode == "fixed_accuracy" and spec.dtype.kind != "f":
            raise ValueError(f"mode: 'fixed_accuracy' is not for {spec.data_type.name!r}")
        return self

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(_stream_nbytes(spec), exact=False)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        return _compress(self.name, array, spec, write_header=False, **self._options())

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        if not self.encoded_size(spec).check(len(data)):
            raise CodecError("too long", codec=self.name, found=len(data))
        zfpy = _zfpy()
        dtype = spec.dtype.newbyteorder("=")
        try:
            result: NDArray = zfpy._decompress(  # noqa: SLF001  # zfpy's only door to raw streams
                _padded(data, spec), zfpy.dtype_to_ztype(dtype), _field(spec), **self._options()
            )
        except (TypeError, ValueError) as error:
            raise CodecError(f"cannot decode: {error}", codec=self.name) from error
        return result.reshape(spec.shape)


@dataclass(frozen=True)
class ZfpyCodec(ArrayBytesCodec):
    """Streams with a header; ``config`` has numcodecs' names and matters for encoding only."""

    name: ClassVar[str] = "numcodecs.zfpy"

    config: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> ZfpyCodec:
        check_names(config, "mode", "tolerance", "rate", "precision", "compression_kwargs")
        integer(config, "mode", 2, 4, default=4)
        for name in ("tolerance", "rate", "precision"):
            number({name: -1, **config}, name)
        return cls(dict(config))

    def to_config(self) -> dict[str, JSON]:
        return dict(self.config)

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": "zfpy", **self.config}

    def bind(self, spec: ChunkSpec) -> ZfpyCodec:
        _check_spec(spec, self.name)
        return self

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(_stream_nbytes(spec), exact=False)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        mode = integer(self.config, "mode", 2, 4, default=4)
        name = _PARAMETER[_NUMCODECS_MODES[mode]]
        return _compress(
            self.name, array, spec, write_header=True, **{name: self.config.get(name, -1)}
        )

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        if not self.encoded_size(spec).check(len(data)):
            raise CodecError("too long", codec=self.name, found=len(data))
        zfpy = _zfpy()
        padded = _padded(data, spec)
        try:
            self._check_header(zfpy.header(padded), spec)
            result: NDArray = zfpy.decompress_numpy(padded)
        except (TypeError, ValueError, KeyError) as error:
            if isinstance(error, CodecError):
                raise
            raise CodecError(f"cannot decode: {error}", codec=self.name) from error
        return result.reshape(spec.shape)

    def _check_header(self, header: Mapping[str, Any], spec: ChunkSpec) -> None:
        found = tuple(header[name] for name in ("nx", "ny", "nz", "nw"))
        shape = _field(spec)[::-1]
        expected = shape + (0,) * (4 - len(shape))
        if found != expected:
            raise CodecError("wrong shape", codec=self.name, expected=expected, found=found)
        if np.dtype(header["type"]) != spec.dtype.newbyteorder("="):
            raise CodecError(
                "wrong type", codec=self.name, expected=spec.dtype, found=header["type"]
            )
        if header["config"]["expert"]["minbits"] > _block_bits(spec):
            raise CodecError("impossible rate", codec=self.name, found=header["config"])


class ZfpyCompressor(ArrayCodecOnBytes):
    """As a format 2 compressor."""

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> ZfpyCompressor:
        return cls(ZfpyCodec.from_config({k: v for k, v in config.items() if k != "id"}))


NUMCODECS = {"zfpy": ZfpyCompressor}
