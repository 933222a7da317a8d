"""``packbits``: the bits of each element that matter, one element after the other.

Element ``i``, bit ``k`` is bit ``i * width + k`` of the stream, least significant bit of each byte
first (zarr-extensions, codec "packbits"). The filter of numcodecs with that name is another one:
it puts the first element highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray
from zarr_gpu.codecs._members import check_names, choice, integer
from zarr_gpu.codecs.base import ArrayBytesCodec, ChunkSpec, Size
from zarr_gpu.errors import CodecError

# Unpacked bits take a byte each: components worked on at a time, a multiple of 8.
_BLOCK = 1 << 15


@dataclass(frozen=True)
class PackBitsCodec(ArrayBytesCodec):
    """Bits ``first_bit`` to ``last_bit`` (inclusive) of every component of every element."""

    name: ClassVar[str] = "packbits"

    padding_encoding: Literal["none", "first_byte", "last_byte"] = "none"
    first_bit: int | None = None
    last_bit: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> PackBitsCodec:
        check_names(config, "padding_encoding", "first_bit", "last_bit")
        first, last = (
            None if config.get(name) is None else integer(config, name, 0, 63)
            for name in ("first_bit", "last_bit")
        )
        padding = choice(config, "padding_encoding", "none", "first_byte", "last_byte")
        return cls(padding, first, last)

    def to_config(self) -> dict[str, JSON]:
        config: dict[str, JSON] = {}
        if self.padding_encoding != "none":
            config["padding_encoding"] = self.padding_encoding
        if self.first_bit is not None:
            config["first_bit"] = self.first_bit
        if self.last_bit is not None:
            config["last_bit"] = self.last_bit
        return config

    def bind(self, spec: ChunkSpec) -> PackBitsCodec:
        data_type = spec.data_type
        if data_type.category not in ("bool", "int", "float", "complex"):
            raise ValueError(f"packbits: cannot pack elements of {data_type.name!r}")
        first, last = self._range(spec)
        if not first <= last < _bits(spec):
            raise ValueError(f"last_bit: expected {first}..{_bits(spec) - 1}, found {last}")
        return self

    def _range(self, spec: ChunkSpec) -> tuple[int, int]:
        last = _bits(spec) - 1 if self.last_bit is None else self.last_bit
        return self.first_bit or 0, last

    def _layout(self, spec: ChunkSpec) -> tuple[int, int, int]:
        """Components, bits stored of each, and padding bits of a whole chunk."""
        first, last = self._range(spec)
        count = spec.size * spec.data_type.components
        width = last - first + 1
        return count, width, -count * width % 8

    def encoded_size(self, spec: ChunkSpec) -> Size:
        count, width, _ = self._layout(spec)
        return Size((count * width + 7) // 8 + (self.padding_encoding != "none"))

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        count, width, padding = self._layout(spec)
        first, last = self._range(spec)
        planes = _bytes_of(array, spec, count)
        out = np.empty(self.encoded_size(spec).limit, np.uint8)
        packed = self._without_padding(out)
        for start in range(0, count, _BLOCK):
            bits = np.unpackbits(planes[start : start + _BLOCK], axis=1, bitorder="little")
            block = np.packbits(bits[:, first : last + 1], bitorder="little")
            offset = start * width // 8
            packed[offset : offset + block.size] = block
        if self.padding_encoding != "none":
            out[0 if self.padding_encoding == "first_byte" else -1] = padding
        return out.data

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        expected = self.encoded_size(spec).limit
        if len(data) != expected:
            raise CodecError("wrong size", codec=self.name, expected=expected, found=len(data))
        count, width, padding = self._layout(spec)
        stored = np.frombuffer(data, np.uint8) if expected else np.empty(0, np.uint8)
        if self.padding_encoding != "none":
            found = int(stored[0 if self.padding_encoding == "first_byte" else -1])
            if found != padding:
                raise CodecError("wrong padding", codec=self.name, expected=padding, found=found)
        planes = np.empty((count, _component_nbytes(spec)), np.uint8)
        self._unpack(self._without_padding(stored), planes, width, spec)
        dtype = spec.dtype.newbyteorder("<")
        return spec.data_type.sanitize(np.ndarray(spec.shape, dtype, planes))

    def _unpack(self, packed: NDArray, planes: NDArray, width: int, spec: ChunkSpec) -> None:
        first, last = self._range(spec)
        top = _bits(spec) if spec.data_type.name.startswith("int") else last + 1  # sign bits
        for start in range(0, len(planes), _BLOCK):
            n = min(_BLOCK, len(planes) - start)
            offset = start * width // 8
            flat = np.unpackbits(packed[offset:], count=n * width, bitorder="little")
            bits = flat.reshape(n, width)
            whole = np.zeros((n, 8 * planes.shape[1]), np.uint8)
            whole[:, first : last + 1] = bits
            whole[:, last + 1 : top] = bits[:, -1:]
            planes[start : start + n] = np.packbits(whole, axis=1, bitorder="little")

    def _without_padding(self, data: NDArray) -> NDArray:
        match self.padding_encoding:
            case "first_byte":
                return data[1:]
            case "last_byte":
                return data[:-1]
        return data


def _bits(spec: ChunkSpec) -> int:
    """Bits of one component."""
    return min(spec.data_type.packed_bits, 8 * _component_nbytes(spec))


def _component_nbytes(spec: ChunkSpec) -> int:
    return spec.dtype.itemsize // spec.data_type.components


def _bytes_of(array: NDArray, spec: ChunkSpec, count: int) -> NDArray:
    """The array's memory, little-endian, one row for each component."""
    values = np.ascontiguousarray(array, spec.dtype.newbyteorder("<")).reshape(-1)
    return values.view(np.uint8).reshape(count, _component_nbytes(spec))
