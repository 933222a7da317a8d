"""``bytes``: elements one after the other in C order (Zarr v3, codec "bytes").

>>> BytesCodec(endian="big").to_dict()
{'name': 'bytes', 'configuration': {'endian': 'big'}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray
from zarr_gpu.codecs._members import check_names, choice
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Size
from zarr_gpu.errors import CodecError


@dataclass(frozen=True)
class BytesCodec(ArrayBytesCodec):
    """Raw elements; ``endian`` None: in the byte order of the chunk's own type (format 2)."""

    name: ClassVar[str] = "bytes"

    endian: Literal["little", "big"] | None = "little"
    omitted: bool = field(default=False, compare=False, repr=False)
    """Read from a v3 document without ``endian``, which multi-byte types require."""

    def __post_init__(self) -> None:
        if self.endian not in ("little", "big", None):
            raise ValueError(f"endian: expected 'little' or 'big', found {self.endian!r}")

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> BytesCodec:
        check_names(config, "endian")
        endian = choice(config, "endian", None, "little", "big")
        return cls(endian, omitted=endian is None)

    def to_config(self) -> dict[str, JSON]:
        return {} if self.endian is None else {"endian": self.endian}

    def bind(self, spec: ChunkSpec) -> BytesCodec:
        data_type = spec.data_type
        if data_type.kind != "fixed" or spec.dtype.hasobject:
            raise ValueError(
                f"bytes: elements of {data_type.name!r} vary in length; "
                "use 'vlen-utf8', 'vlen-bytes' or another codec for them"
            )
        if not data_type.multi_byte:
            return self if self.endian is None else replace(self, endian=None)
        if not self.omitted:
            return self
        if spec.dtype.fields is None:
            raise ValueError(f"endian: required for {data_type.name!r}, but missing")
        # Early writers of structured types left it out and meant little, as zarr-python assumes.
        return BytesCodec("little")

    def stored_dtype(self, spec: ChunkSpec) -> np.dtype[Any]:
        """The chunk's type in the byte order it is stored in (all fields of a struct alike)."""
        if self.endian is None:
            return spec.dtype
        return spec.dtype.newbyteorder("<" if self.endian == "little" else ">")

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(spec.nbytes)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        return bytes_of(np.ascontiguousarray(array, self.stored_dtype(spec)))

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        if len(data) != spec.nbytes:
            raise CodecError("wrong size", codec="bytes", expected=spec.nbytes, found=len(data))
        array = np.ndarray(spec.shape, self.stored_dtype(spec), data)
        array = spec.data_type.sanitize(array)
        if out is None:
            return array
        out[...] = array
        return out


def bytes_of(array: NDArray) -> Bytes:
    """The memory of a C-contiguous array of any type that holds no references."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""
