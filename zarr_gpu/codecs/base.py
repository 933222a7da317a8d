"""What a codec is: a frozen configuration plus the host half that works on one chunk.

A codec sees chunks, never a store, a key or a device. There are three kinds, as in the Zarr v3
core specification: array -> array, array -> bytes and bytes -> bytes. ``bind`` completes a
configuration for one :class:`ChunkSpec` (Blosc's typesize, a missing endianness); sizes are known
before data move, so nothing a stored header claims is ever allocated on trust.

Rules for every ``decode``:

* the input is untrusted; bad input raises :class:`~zarr_gpu.errors.CodecError`, nothing else;
* never allocate more than the given :class:`Size` allows;
* ``out`` (C-contiguous and of exactly the decoded size, when given) may be written to, and when it
  was, that same object is returned; otherwise a new or borrowed buffer is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from zarr_gpu._types import JSON, Bytes, Int64, NDArray, Shape
from zarr_gpu.metadata.dtypes import DataType

Kind: TypeAlias = Literal["array_array", "array_bytes", "bytes_bytes"]


@dataclass(frozen=True, slots=True)
class Size:
    """Number of bytes at one point of a chain: exactly ``limit``, or at most ``limit``."""

    limit: int
    exact: bool = True

    def check(self, nbytes: int) -> bool:
        """True when a buffer of ``nbytes`` is possible here."""
        return nbytes == self.limit if self.exact else 0 <= nbytes <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSpec:
    """Everything a codec may know about one decoded chunk."""

    shape: Shape
    data_type: DataType
    fill_value: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data_type.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded chunk in memory (for variable-length types: of its references)."""
        return self.size * self.data_type.dtype.itemsize


@dataclass(frozen=True)
class Codec:
    """Common ground of all codecs: a name and a JSON configuration."""

    name: ClassVar[str]
    kind: ClassVar[Kind]

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> Self:
        """Build from the ``configuration`` member of a v3 document (empty when it is absent).

        Raises ``ValueError`` naming the member at fault; unknown members are an error.
        """
        if config:
            raise ValueError(f"unknown configuration member {next(iter(config))!r}")
        return cls()

    def to_config(self) -> dict[str, JSON]:
        """The ``configuration`` member of a v3 document."""
        return {}

    def to_dict(self) -> dict[str, JSON]:
        """The v3 document of this codec."""
        config = self.to_config()
        # An empty configuration may be left out, but zarr-python wants that of numcodecs' codecs.
        if config or self.name.startswith("numcodecs."):
            return {"name": self.name, "configuration": config}
        return {"name": self.name}

    def bind(self, spec: ChunkSpec) -> Self:
        """This codec with everything that depends on the chunk filled in.

        ``spec`` is what enters the codec (array codecs) or what entered the array -> bytes codec
        of the chain (bytes codecs). Raises ``ValueError`` when the codec cannot be used on it.
        """
        return self


@dataclass(frozen=True)
class ArrayArrayCodec(Codec):
    """array -> array."""

    kind: ClassVar[Kind] = "array_array"

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        """Shape, type and fill value after encoding."""
        raise NotImplementedError

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        """``array`` has ``spec``'s shape and type (any byte order, any strides)."""
        raise NotImplementedError

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        """Inverse of :meth:`encode`; ``spec`` is the *decoded* side. May return a view."""
        raise NotImplementedError


@dataclass(frozen=True)
class ArrayBytesCodec(Codec):
    """array -> bytes."""

    kind: ClassVar[Kind] = "array_bytes"

    def encoded_size(self, spec: ChunkSpec) -> Size:
        """Size after encoding a chunk of ``spec``; an upper bound where it varies."""
        raise NotImplementedError

    def encode(self, array: NDArray, spec: ChunkSpec) -> Bytes:
        raise NotImplementedError

    def decode(self, data: Bytes, spec: ChunkSpec, out: NDArray | None = None) -> NDArray:
        """Array of ``spec.shape``, in any byte order of ``spec.dtype``; may be a read-only view."""
        raise NotImplementedError


@dataclass(frozen=True)
class BytesBytesCodec(Codec):
    """bytes -> bytes."""

    kind: ClassVar[Kind] = "bytes_bytes"
    parts_above: ClassVar[int | None] = None
    """Decoded bytes of a chunk above which :meth:`decode_part` may give something; None: never."""

    def encoded_size(self, decoded: Size) -> Size:
        """Largest (or exact) size of the encoding of a buffer of ``decoded`` size.

        Used to refuse stored objects that no encoder of this format could have produced, so it
        must be generous: framing, stored blocks and several members included.
        """
        raise NotImplementedError

    def encode(self, data: Bytes) -> Bytes:
        raise NotImplementedError

    def decode(self, data: Bytes, decoded: Size, out: memoryview | None = None) -> Bytes:
        """Decode into at most ``decoded.limit`` bytes; any other length is a CodecError."""
        raise NotImplementedError

    def decode_part(self, data: Bytes, decoded: Size, offset: int, nbytes: int) -> Bytes | None:
        """Bytes ``offset`` to ``offset + nbytes`` of what :meth:`decode` would give.

        None when the format does not allow that, or when decoding all is hardly slower; the caller
        then calls :meth:`decode`. The range lies inside ``decoded.limit`` and is not empty. What is
        not decoded is not checked either: damage elsewhere in the chunk may go unnoticed, and
        checksums of the whole are not compared.
        """
        return None

    def decoder(
        self, encoded: memoryview, out: memoryview, decoded: Size
    ) -> Callable[[int, int], bool] | None:
        """A function of ``(n, at)`` that decodes the first ``n`` bytes of ``encoded`` to ``out``.

        There they begin at byte ``at``, and are as many as ``decoded`` says. False, and anything
        in ``out``, where something is unusual or wrong: :meth:`decode` then has to be called.
        What does not change from chunk to chunk is done once. None: there is nothing like that.
        Both are writable memory.
        """
        return None

    @property
    def decodes_many(self) -> bool:
        """False when :meth:`decode_many` always gives None, so that nothing need be prepared."""
        return False

    def decode_many(
        self, data: Bytes, offset: Int64, nbytes: Int64, decoded: Size
    ) -> Sequence[Bytes] | None:
        """What :meth:`decode` would give for each range of ``data``.

        None when that is no faster, or when anything is unusual: the caller then decodes one by
        one. There is at least one range, none is empty, and ``decoded`` is exact.
        """
        return None
