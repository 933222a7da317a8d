"""``pcodec``: numerical compression by the package of that name (numcodecs' "pcodec").

The format of numcodecs: one standalone pco file of all elements in C order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Size
from zarr_gpu.codecs.numcodecs import ArrayCodecOnBytes, native, open_numcodec
from zarr_gpu.errors import CodecError, MissingDependencyError


@dataclass(frozen=True)
class PcodecCodec(ArrayBytesCodec):
    """``config``: the arguments of numcodecs' codec, which matter for encoding only."""

    name: ClassVar[str] = "numcodecs.pcodec"

    config: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> PcodecCodec:
        codec = cls(dict(config))
        if _installed():
            _ = codec._numcodec
        return codec

    def to_config(self) -> dict[str, JSON]:
        return dict(self.config)

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": "pcodec", **self.config}

    @cached_property
    def _numcodec(self) -> Any:
        return open_numcodec({"id": "pcodec", **self.config})

    def bind(self, spec: ChunkSpec) -> PcodecCodec:
        if spec.dtype.kind not in "iuf" or spec.dtype.itemsize not in (2, 4, 8):
            raise ValueError(f"pcodec: cannot compress elements of {spec.data_type.name!r}")
        return self

    def encoded_size(self, spec: ChunkSpec) -> Size:
        # Incompressible pages are about as large as their numbers; delta and mode may add some.
        return Size(2 * spec.nbytes + (1 << 16), exact=False)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        _require()
        try:
            data: bytes = self._numcodec.encode(native(array, spec))
        except (TypeError, ValueError, RuntimeError) as error:
            raise CodecError(str(error), codec=self.name) from error
        return data

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        standalone = _require()
        # Never by the count in the file: into an array of the size that the metadata give.
        result = np.empty(spec.size, spec.dtype.newbyteorder("="))
        try:
            progress = standalone.simple_decompress_into(bytes(data), result)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CodecError(str(error), codec=self.name) from error
        if progress.n_processed != spec.size or not progress.finished:
            raise CodecError(
                "wrong number of elements",
                codec=self.name,
                expected=spec.size,
                found=progress.n_processed if progress.finished else f"more than {spec.size}",
            )
        return result.reshape(spec.shape)


class PcodecCompressor(ArrayCodecOnBytes):
    """As a format 2 compressor."""

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> PcodecCompressor:
        return cls(PcodecCodec.from_config({k: v for k, v in config.items() if k != "id"}))


def _require() -> Any:
    try:
        from pcodec import standalone
    except ImportError as error:
        raise MissingDependencyError("pcodec needs the package 'pcodec'") from error
    return standalone


def _installed() -> bool:
    try:
        _require()
    except MissingDependencyError:
        return False
    return True


NUMCODECS = {"pcodec": PcodecCompressor}
