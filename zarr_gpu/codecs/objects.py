"""Object codecs of format 2: ``vlen-array``, ``json2``, ``msgpack2``, ``categorize``, ``pickle``;
and ``base64``, which is a codec of bytes.

Payloads are untrusted: counts are compared with the chunk before anything is built, shapes and
types named in them are never allocated from, and nothing is unpickled unless the caller says so.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from zarr_gpu._types import JSON, Bytes, NDArray
from zarr_gpu.codecs._members import check_names, integer, plain_dtype
from zarr_gpu.codecs.base import ArrayBytesCodec, BytesBytesCodec, ChunkSpec, Size
from zarr_gpu.codecs.numcodecs import open_numcodec
from zarr_gpu.codecs.vlen import check_count
from zarr_gpu.config import config as settings
from zarr_gpu.errors import CodecError, MissingDependencyError, UnsafeCodecError
from zarr_gpu.metadata.problems import is_int, is_list, show


@dataclass(frozen=True)
class _ObjectCodec(ArrayBytesCodec):
    """Configured by the dictionary of numcodecs, which also does the encoding."""

    config: Mapping[str, JSON] = field(hash=False)

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        return cls(dict(config))

    def to_numcodecs(self) -> dict[str, JSON]:
        return dict(self.config)

    def to_config(self) -> dict[str, JSON]:
        return {k: v for k, v in self.config.items() if k != "id"}

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(settings.current.limits.chunk_nbytes, exact=False)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        try:
            values = np.array(array, object, order="C", copy=True)
            return memoryview(open_numcodec(self.config).encode(values)).cast("B")
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CodecError(f"cannot encode: {error}", codec=self.name) from error

    def _array(self, items: list[Any], spec: ChunkSpec) -> NDArray:
        """One object per element; lists among them stay lists."""
        if len(items) != spec.size:
            raise CodecError(
                "wrong count of elements", codec=self.name, expected=spec.size, found=len(items)
            )
        array = np.empty(spec.size, object)
        for i, item in enumerate(items):
            array[i] = item
        return self._typed(array, spec)

    def _typed(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        try:
            return array.reshape(spec.shape).astype(spec.dtype, copy=False)
        except (TypeError, ValueError, OverflowError) as error:
            raise CodecError(f"wrong elements: {error}", codec=self.name) from error


class VLenArrayCodec(_ObjectCodec):
    """One-dimensional arrays of different lengths."""

    name: ClassVar[str] = "vlen-array"

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        check_names(config, "id", required=("dtype",))
        plain_dtype(config, "dtype", "biufcmMSUV")
        return cls(dict(config))

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        check_count(data, spec, self.name)
        try:
            array = open_numcodec(self.config).decode(data)
        except ValueError as error:
            raise CodecError(f"cannot decode: {error}", codec=self.name) from error
        return self._typed(array, spec)


class _ListCodec(_ObjectCodec):
    """A list of the elements, nested as the shape is, then the type and the shape."""

    def _parse(self, data: Bytes) -> object:
        raise NotImplementedError

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        try:
            payload = self._parse(data)
        except (ValueError, RecursionError) as error:
            raise CodecError(f"cannot decode: {error}", codec=self.name) from error
        if not is_list(payload) or len(payload) < 2 or not is_list(payload[-1]):
            raise CodecError("no elements, type and shape", codec=self.name)
        *items, _, shape = payload
        # The shape may be another one with as many elements: chunks in Fortran order are written
        # with their logical shape.
        if not all(map(is_int, shape)) or math.prod(shape) != spec.size:
            raise CodecError(
                "wrong shape", codec=self.name, expected=spec.shape, found=show(list(shape))
            )
        for n in shape[1:]:
            if not all(is_list(item) and len(item) == n for item in items):
                raise CodecError("lists do not fit the shape", codec=self.name, expected=shape)
            items = [element for item in items for element in item]
        return self._array(items, spec)


class JSON2Codec(_ListCodec):
    """Elements as JSON."""

    name: ClassVar[str] = "json2"

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        open_numcodec(config)
        if config.get("encoding", "utf-8") not in ("utf-8", "ascii", "latin-1", "utf-16"):
            raise ValueError(f"encoding: expected a text encoding, found {config['encoding']!r}")
        return cls(dict(config))

    def _parse(self, data: Bytes) -> object:
        text = bytes(data).decode(str(self.config.get("encoding", "utf-8")))
        return json.loads(text, strict=bool(self.config.get("strict", True)))


class MsgPack2Codec(_ListCodec):
    """Elements as MessagePack."""

    name: ClassVar[str] = "msgpack2"

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        check_names(config, "id", "raw", "use_single_float", "use_bin_type")
        return cls(dict(config))

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        _msgpack()
        return super().encode(array, spec)

    def _parse(self, data: Bytes) -> object:
        msgpack = _msgpack()
        try:
            return msgpack.unpackb(data, raw=bool(self.config.get("raw", False)))
        except msgpack.UnpackException as error:
            raise ValueError(str(error) or "malformed") from error


def _msgpack() -> Any:
    try:
        import msgpack  # type: ignore[import-untyped,unused-ignore]  # no stubs; may be absent
    except ImportError as error:
        raise MissingDependencyError("msgpack2 needs the package 'msgpack'") from error
    return msgpack


@dataclass(frozen=True)
class CategorizeCodec(ArrayBytesCodec):
    """Numbers of labels, counted from 1; 0 is the empty string."""

    name: ClassVar[str] = "categorize"

    labels: tuple[str, ...]
    dtype: str
    astype: str = "|u1"

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> CategorizeCodec:
        check_names(config, "id", "astype", required=("labels", "dtype"))
        labels = config["labels"]
        if not is_list(labels) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"labels: expected a list of strings, found {show(labels)}")
        if config["dtype"] not in ("O", "|O", "object"):
            plain_dtype(config, "dtype", "U")
        plain_dtype({"astype": "u1", **config}, "astype", "iu")
        return cls(tuple(labels), str(config["dtype"]), str(config.get("astype", "|u1")))

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": self.name, **self.to_config()}

    def to_config(self) -> dict[str, JSON]:
        return {"labels": list(self.labels), "dtype": self.dtype, "astype": self.astype}

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(spec.size * np.dtype(self.astype).itemsize)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        codes = np.zeros(spec.size, self.astype)
        flat = np.asarray(array, object).reshape(-1)
        try:
            for i, label in enumerate(self.labels, 1):
                codes[flat == label] = i
        except OverflowError as error:
            raise CodecError(f"cannot encode: {error}", codec=self.name) from error
        return codes.tobytes()

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        if len(data) != self.encoded_size(spec).limit:
            raise CodecError(
                "wrong size", codec=self.name, expected=self.encoded_size(spec), found=len(data)
            )
        codes = np.ndarray((spec.size,), self.astype, data)
        valid = (codes > 0) & (codes <= len(self.labels))
        table = np.array(["", *self.labels], object)
        strings = table[np.where(valid, codes, 0).astype(np.intp)]
        return strings.reshape(spec.shape).astype(spec.dtype, copy=False)


@dataclass(frozen=True)
class PickleCodec(ArrayBytesCodec):
    """Elements as Python pickles one; reading them can run any code their writer chose."""

    name: ClassVar[str] = "pickle"

    protocol: int = 5
    allow: bool = False
    """Whether to unpickle. Never part of the configuration, which comes from the store."""

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON], *, allow: bool = False) -> PickleCodec:
        check_names(config, "id", "protocol")
        return cls(integer(config, "protocol", -1, 5, default=5), allow)

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": self.name, "protocol": self.protocol}

    def to_config(self) -> dict[str, JSON]:
        return {"protocol": self.protocol}

    def encoded_size(self, spec: ChunkSpec) -> Size:
        return Size(settings.current.limits.chunk_nbytes, exact=False)

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        return pickle.dumps(np.array(array, object), protocol=self.protocol)

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        if not self.allow:
            raise UnsafeCodecError(
                "pickle: reading this chunk can run code taken from it; allow pickle for data "
                "whose writer you trust"
            )
        try:
            array = pickle.loads(data)  # noqa: S301  # the caller opted in
        except Exception as error:  # an unpickled object can raise anything
            raise CodecError(f"cannot decode: {error}", codec=self.name) from error
        if not isinstance(array, np.ndarray) or array.size != spec.size:
            raise CodecError("wrong content", codec=self.name, expected=spec.shape)
        return array.reshape(spec.shape)


class Base64Codec(BytesBytesCodec):
    """Bytes as text."""

    name: ClassVar[str] = "numcodecs.base64"

    @classmethod
    def from_numcodecs(cls, config: Mapping[str, JSON]) -> Self:
        check_names(config, "id")
        return cls()

    def to_numcodecs(self) -> dict[str, JSON]:
        return {"id": "base64"}

    def encoded_size(self, decoded: Size) -> Size:
        return Size((decoded.limit + 2) // 3 * 4, decoded.exact)

    def encode(self, data: Bytes) -> Bytes:
        return base64.b64encode(data)

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        if len(data) > self.encoded_size(decoded).limit:
            raise CodecError("too long", codec="base64", expected=decoded, found=len(data))
        try:
            result = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise CodecError(str(error), codec="base64") from error
        if not decoded.check(len(result)):
            raise CodecError("wrong size", codec="base64", expected=decoded, found=len(result))
        return result


NUMCODECS = {
    "base64": Base64Codec,
    "categorize": CategorizeCodec,
    "json2": JSON2Codec,
    "msgpack2": MsgPack2Codec,
    "pickle": PickleCodec,
    "vlen-array": VLenArrayCodec,
}
