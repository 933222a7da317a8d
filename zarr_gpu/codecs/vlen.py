"""``vlen-utf8`` and ``vlen-bytes``: a count, then length and bytes of every element.

All numbers are little-endian uint32 (zarr-extensions, codecs "vlen-utf8" and "vlen-bytes"; the
format of numcodecs). Strings are NumPy's StringDType in memory, byte strings are objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray
from zarr_gpu.codecs._members import check_names
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Size
from zarr_gpu.config import config
from zarr_gpu.errors import CodecError


class _VLenCodec(ArrayBytesCodec):
    """What the two have in common: the numcodecs class that knows the format."""

    element: ClassVar[str]
    """Kind of the data types this codec is for."""

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        check_names(config, "id")
        return cls()

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": self.name}

    def to_dict(self) -> dict[str, JSON]:
        return {"name": self.name, "configuration": {}}  # zarr-python writes the empty member

    def bind(self, spec: ChunkSpec) -> Self:
        if spec.data_type.kind not in (self.element, "object"):
            raise ValueError(f"{self.name}: cannot hold elements of {spec.data_type.name!r}")
        return self

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(config.current.limits.chunk_nbytes, exact=False)

    def _numcodec(self) -> Any:
        raise NotImplementedError

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        flat = np.ascontiguousarray(array).reshape(-1).astype(object)
        try:
            return memoryview(self._numcodec().encode(flat)).cast("B")
        except (TypeError, ValueError, OverflowError) as error:
            raise CodecError(f"cannot encode: {error}", codec=self.name) from error

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        check_count(data, spec, self.name)
        try:
            array = self._numcodec().decode(data)
            return array.astype(spec.dtype, copy=False).reshape(spec.shape)  # type: ignore[no-any-return]
        except ValueError as error:  # lengths are checked there; UnicodeDecodeError is one, too
            raise CodecError(f"cannot decode: {error}", codec=self.name) from error


class VLenUTF8Codec(_VLenCodec):
    """Strings of any length."""

    name: ClassVar[str] = "vlen-utf8"
    element: ClassVar[str] = "string"

    def _numcodec(self) -> Any:
        from numcodecs import vlen  # the package first: threads that import wait for it

        return vlen.VLenUTF8()


class VLenBytesCodec(_VLenCodec):
    """Byte strings of any length."""

    name: ClassVar[str] = "vlen-bytes"
    element: ClassVar[str] = "bytes"

    def _numcodec(self) -> Any:
        from numcodecs import vlen  # the package first: threads that import wait for it

        return vlen.VLenBytes()


def check_count(data: Bytes, spec: ChunkSpec, codec: str) -> None:
    """CodecError unless ``data`` starts with the number of elements of the chunk.

    Before decoding, as decoders allocate that many references. Every element takes 4 bytes, so a
    count that fits the data cannot ask for more than a small multiple of them.
    """
    count = int.from_bytes(data[:4], "little") if len(data) >= 4 else None
    if count != spec.size:
        raise CodecError("wrong count of elements", codec=codec, expected=spec.size, found=count)
    if 4 + 4 * count > len(data):
        raise CodecError("truncated", codec=codec, expected=4 + 4 * count, found=len(data))


NUMCODECS = {"vlen-bytes": VLenBytesCodec, "vlen-utf8": VLenUTF8Codec}
