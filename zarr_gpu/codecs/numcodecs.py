"""Codecs that only numcodecs implements: any of them on bytes, and its filters on arrays.

Format 2 describes filters that act on buffers: :class:`NumcodecsCodec`. In format 3 documents
written by zarr-python, ``numcodecs.astype`` and its like act on arrays. Byte orders that these
configurations mention are not used there: how elements are stored is for the codec ``bytes`` to
say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray
from zarr_gpu.codecs._members import check_names, integer, number, plain_dtype
from zarr_gpu.codecs.base import ArrayArrayCodec, ArrayBytesCodec, BytesBytesCodec, ChunkSpec, Size
from zarr_gpu.codecs.bytes import bytes_of
from zarr_gpu.errors import CodecError, UnsafeCodecError
from zarr_gpu.metadata.dtypes import from_dtype_like

# Members that name types, and which kinds numcodecs allows; never one that holds references.
_FIXED = "biufcmMSUV"
_DTYPES = {"dtype": _FIXED, "astype": _FIXED, "encode_dtype": _FIXED, "decode_dtype": _FIXED}


def open_numcodec(config: Mapping[str, JSON]) -> Any:
    """The numcodecs object for ``{"id": ..., ...}``; ValueError when it refuses the members."""
    from numcodecs import registry  # the package first: threads that import wait for it

    if config["id"] == "pickle":
        raise UnsafeCodecError("pickle: this codec runs code from the data")
    for name, kinds in _DTYPES.items():
        if config.get(name) is not None:
            plain_dtype(config, name, kinds)
    try:
        return registry.get_codec(config)
    except (TypeError, KeyError, AttributeError) as error:  # as wrong keyword arguments give
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class NumcodecsCodec(BytesBytesCodec):
    """Any numcodecs codec that turns a buffer into another one.

    ``spec``, known once bound, is how it gets to see the buffer: some (bitround) need the type.
    """

    name: ClassVar[str] = "numcodecs"

    config: Mapping[str, JSON] = field(hash=False)
    spec: ChunkSpec | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> NumcodecsCodec:
        open_numcodec(config)
        return cls(dict(config))

    @property
    def identifier(self) -> str:
        return str(self.config["id"])

    @cached_property
    def _numcodec(self) -> Any:
        return open_numcodec(self.config)

    def to_dict(self) -> dict[str, JSON]:
        rest = {k: v for k, v in self.config.items() if k != "id"}
        return {"name": f"numcodecs.{self.identifier}", "configuration": rest}

    def to_numcodecs(self) -> dict[str, JSON]:
        return dict(self.config)

    def bind(self, spec: ChunkSpec) -> NumcodecsCodec:
        return replace(self, spec=spec)

    def encoded_size(self, decoded: Size) -> Size:
        match self.identifier:
            case "delta" | "fixedscaleoffset" | "quantize":
                first, second = "dtype", "astype"
            case "astype":
                first, second = "decode_dtype", "encode_dtype"
            case "bitround":
                return decoded
            case "packbits":
                return Size(1 + (decoded.limit + 7) // 8, decoded.exact)
            case _:  # nothing is known about the format
                return Size(4 * decoded.limit + (1 << 20), exact=False)
        before = plain_dtype(self.config, first, _FIXED).itemsize
        after = before
        if self.config.get(second) is not None:
            after = plain_dtype(self.config, second, _FIXED).itemsize
        return Size(-(-decoded.limit // before) * after, decoded.exact)

    def encode(self, data: Bytes) -> Bytes:
        buffer: NDArray = np.frombuffer(data, np.uint8)
        if self.spec is not None and buffer.nbytes == self.spec.nbytes:
            buffer = buffer.view(self.spec.dtype).reshape(self.spec.shape)
        return self._call(self._numcodec.encode, buffer) if buffer.nbytes else b""

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        if decoded.limit == 0:
            return b""
        size = self.encoded_size(decoded)
        if not size.check(len(data)):
            raise CodecError("wrong size", codec=self.identifier, expected=size, found=len(data))
        result = self._call(self._numcodec.decode, np.frombuffer(data, np.uint8))
        if not decoded.check(len(result)):
            raise CodecError(
                "wrong decoded size", codec=self.identifier, expected=decoded, found=len(result)
            )
        return result

    def _call(self, function: Any, buffer: NDArray) -> Bytes:
        try:
            # Damaged floats must not warn; numcodecs computes with whatever it gets.
            with np.errstate(all="ignore"):
                result = function(buffer)
        except Exception as error:  # whatever a codec of somebody else raises
            raise CodecError(str(error), codec=self.identifier) from error
        if isinstance(result, (bytes, bytearray)):
            return result
        array = np.ascontiguousarray(result)
        if array.dtype.hasobject:
            raise CodecError("not a codec of bytes", codec=self.identifier)
        return bytes_of(array)


@dataclass(frozen=True)
class ArrayCodecOnBytes(BytesBytesCodec):
    """An array -> bytes codec in the place of a format 2 compressor, where bytes come in."""

    name: ClassVar[str] = "numcodecs"

    codec: ArrayBytesCodec
    spec: ChunkSpec | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, JSON]:
        return self.codec.to_dict()

    def bind(self, spec: ChunkSpec) -> ArrayCodecOnBytes:
        return replace(self, codec=self.codec.bind(spec), spec=spec)

    def encoded_size(self, decoded: Size) -> Size:
        return self.codec.encoded_size(self._spec(decoded.limit))

    def encode(self, data: Bytes) -> Bytes:
        spec = self._spec(len(data))
        return self.codec.encode(np.ndarray(spec.shape, spec.dtype, data), spec)

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        spec = self._spec(decoded.limit)
        array = np.ascontiguousarray(self.codec.decode(data, spec), spec.dtype)
        return bytes_of(array)

    def _spec(self, nbytes: int) -> ChunkSpec:
        if self.spec is None or self.spec.nbytes != nbytes:
            raise ValueError(f"{self.codec.name}: not possible behind a codec that changes sizes")
        return self.spec


@dataclass(frozen=True)
class ArrayFilter(ArrayArrayCodec):
    """A filter of numcodecs on arrays; ``dtype`` is the type of its decoded side."""

    from_member: ClassVar[str] = "dtype"
    to_member: ClassVar[str] = "astype"
    parameters: ClassVar[tuple[str, ...]] = ()

    config: Mapping[str, JSON] = field(hash=False)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        check_names(config, cls.from_member, cls.to_member, required=cls.parameters)
        for name in (cls.from_member, cls.to_member):
            if config.get(name) is not None:
                plain_dtype(config, name, "biufcmM")
        return cls(dict(config))

    def to_config(self) -> dict[str, JSON]:
        return dict(self.config)

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": self.name.removeprefix("numcodecs."), **self.config}

    def bind(self, spec: ChunkSpec) -> Self:
        if self.config.get(self.from_member) is None:
            return replace(self, config={**self.config, self.from_member: spec.dtype.name})
        if self.decoded_dtype.itemsize != spec.dtype.itemsize:
            raise ValueError(
                f"{self.from_member}: expected a type as wide as {spec.data_type.name!r}, "
                f"found {self.decoded_dtype}"
            )
        return self

    @cached_property
    def decoded_dtype(self) -> np.dtype[Any]:
        """In the byte order of the machine, as all types here."""
        return plain_dtype(self.config, self.from_member, "biufcmM").newbyteorder("=")

    @cached_property
    def encoded_dtype(self) -> np.dtype[Any]:
        if self.config.get(self.to_member) is None:
            return self.decoded_dtype
        return plain_dtype(self.config, self.to_member, "biufcmM").newbyteorder("=")

    @cached_property
    def _numcodec(self) -> Any:
        config = {k: v for k, v in self.config.items() if k in self.parameters}
        config[self.from_member] = self.decoded_dtype.str
        config[self.to_member] = self.encoded_dtype.str
        return open_numcodec({"id": self.name.removeprefix("numcodecs."), **config})

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        if self.encoded_dtype == spec.dtype:
            return spec
        data_type = from_dtype_like(self.encoded_dtype)
        # zarr-python keeps the value, whatever the filter does to others; it matters in shards.
        try:
            fill = data_type.cast_fill(spec.fill_value)
        except (TypeError, ValueError, OverflowError):
            fill = data_type.default_fill()
        return replace(spec, data_type=data_type, fill_value=fill)

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        values = native(array, spec).view(self.decoded_dtype)
        return self._call(self._numcodec.encode, values, self.encoded_spec(spec))

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        values = np.ascontiguousarray(array, self.encoded_dtype)
        return self._call(self._numcodec.decode, values, spec)

    def _call(self, function: Any, values: NDArray, spec: ChunkSpec) -> NDArray:
        if not values.size:
            return np.empty(spec.shape, spec.dtype)
        try:
            # Casts of numcodecs warn about values that do not fit; it writes them all the same.
            with np.errstate(all="ignore"):
                result: NDArray = function(values)
        except (TypeError, ValueError, OverflowError) as error:
            raise CodecError(str(error), codec=self.name) from error
        return result.view(spec.dtype.newbyteorder("=")).reshape(spec.shape)


def native(array: NDArray, spec: ChunkSpec) -> NDArray:
    """``array`` in C order and in the byte order of this machine (at least one-dimensional)."""
    return np.ascontiguousarray(array, spec.dtype.newbyteorder("="))


class FixedScaleOffsetCodec(ArrayFilter):
    """``round((x - offset) * scale)``, stored as ``astype``."""

    name: ClassVar[str] = "numcodecs.fixedscaleoffset"
    parameters: ClassVar[tuple[str, ...]] = ("offset", "scale")

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        codec = super().from_config(config)
        number(config, "offset")
        if number(config, "scale") == 0:
            raise ValueError("scale: must not be 0")
        return codec


class QuantizeCodec(ArrayFilter):
    """Keeps ``digits`` decimal digits; decoding changes the type only."""

    name: ClassVar[str] = "numcodecs.quantize"
    parameters: ClassVar[tuple[str, ...]] = ("digits",)

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        codec = super().from_config(config)
        integer(config, "digits", -300, 300)
        return codec

    def bind(self, spec: ChunkSpec) -> Self:
        bound = super().bind(spec)
        if bound.decoded_dtype.kind != "f" or bound.encoded_dtype.kind != "f":
            raise ValueError(f"{self.name}: only floating-point types can be quantized")
        return bound


class AsTypeCodec(ArrayFilter):
    """Stored as another type, converted as NumPy does."""

    name: ClassVar[str] = "numcodecs.astype"
    from_member: ClassVar[str] = "decode_dtype"
    to_member: ClassVar[str] = "encode_dtype"

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        check_names(config, "decode_dtype", required=("encode_dtype",))
        return super().from_config(config)


class PackBitsFilter(ArrayArrayCodec):
    """Booleans as bits, first one highest, behind one byte with the number of bits added."""

    name: ClassVar[str] = "numcodecs.packbits"

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": "packbits"}

    def bind(self, spec: ChunkSpec) -> Self:
        if spec.dtype != np.bool_:
            raise ValueError(f"{self.name}: expected booleans, found {spec.data_type.name!r}")
        return self

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        shape = (1 + (spec.size + 7) // 8,)
        return ChunkSpec(shape=shape, data_type=from_dtype_like(np.dtype(np.uint8)), fill_value=0)

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        padding = np.array([-spec.size % 8], np.uint8)
        return np.concatenate([padding, np.packbits(np.ascontiguousarray(array).reshape(-1))])

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        if int(array[0]) != -spec.size % 8:
            raise CodecError(
                "wrong padding", codec=self.name, expected=-spec.size % 8, found=int(array[0])
            )
        return np.unpackbits(array[1:], count=spec.size).view(np.bool_).reshape(spec.shape)
