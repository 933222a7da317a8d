"""Which codecs the device decodes element by element, and with which kernel: pure decisions.

Knows no memory and launches nothing. A step promises what the host's codec would give, bit for
bit; where a kernel cannot promise that, :func:`reason` says why the host has to decode. Single
rows are left to the host by their status: see ``elements.cu``.

>>> from zarr_gpu.codecs.registry import from_v2
>>> step = element_step(from_v2({"id": "delta", "dtype": "<i4", "astype": "<i2"}))
>>> step.kernel, step.counts(np.array([40])).tolist(), step.stored_nbytes(np.array([10])).tolist()
('delta_decode', [10], [20])
>>> reason(from_v2({"id": "delta", "dtype": "<f4"}))
'delta: sums of float32 depend on their order'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from zarr_gpu._types import Int64, NDArray
from zarr_gpu.codecs._members import plain_dtype
from zarr_gpu.codecs.base import ArrayArrayCodec, ChunkSpec, Codec, Size
from zarr_gpu.codecs.bitround import BitRoundCodec
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.cast_value import CastValueCodec
from zarr_gpu.codecs.delta import DeltaCodec
from zarr_gpu.codecs.numcodecs import (
    ArrayFilter,
    AsTypeCodec,
    FixedScaleOffsetCodec,
    NumcodecsCodec,
    PackBitsFilter,
    QuantizeCodec,
)
from zarr_gpu.codecs.packbits import PackBitsCodec
from zarr_gpu.codecs.scale_offset import ScaleOffsetCodec
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.dtypes import DataType

TILE = 4096
"""Elements that one block does at a time, as in ``elements.cu``."""
THREADS = 256
MAX_BLOCKS = 1 << 14
"""Fills any card several times; blocks share the tiles."""
MAX_PAIRS = 64
"""Of a scalar map, which every element is compared with."""

_KINDS = {"u": 0, "i": 1, "f": 2, "b": 3}
_SWAPPED, _SINGLE, _BRAIN = 8, np.dtype(np.float32), 1 + 16 * 4
_ROUNDINGS = (
    "nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away"
)  # fmt: skip
_RANGES = ("error", "clamp", "wrap")
_PADDING = {"none": 0, "first_byte": 1, "last_byte": 2}
_TABLES = ("cast_value", "look_up")
_WORD = (1 << 64) - 1

Decode: TypeAlias = Callable[[NDArray], NDArray]
"""Stored bytes 0..255, or some of them, as the host's codec decodes them; any type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementStep:
    """One kernel of ``elements.cu`` on rows of any lengths.

    An element here is what the kernel counts: a component for packed bits, a byte for masks.
    """

    kernel: str | None
    """None: what is stored is the result."""
    args: tuple[int | float, ...] = ()
    stored_bits: int
    """Of an element, and ``extra_nbytes`` of a row."""
    nbytes: int
    """Of a decoded element."""
    extra_nbytes: int = 0
    table: bytes = b""
    """Has to be in device memory, at a multiple of 8, when the kernel runs."""
    ordered: bool = False
    """Needs the elements in C order of the chunk, as a result depends on those before it."""

    def counts(self, decoded_nbytes: NDArray) -> Int64:
        """Elements of rows of these decoded sizes. ValueError where a size is no multiple."""
        count, rest = np.divmod(decoded_nbytes.astype(np.int64), self.nbytes)
        if rest.any():
            raise ValueError(f"sizes must be multiples of {self.nbytes} bytes")
        return count

    def stored_nbytes(self, counts: Int64) -> Int64:
        """Exact sizes of what rows of so many elements are decoded from."""
        return (counts * self.stored_bits + 7) // 8 + self.extra_nbytes

    def arguments(
        self,
        in_ptr: Any,
        out_ptr: Any,
        count: Any,
        first_tile: Any,
        status: Any,
        n: int,
        table: Any = 0,
    ) -> tuple[Any, ...]:
        """All arguments of the kernel: addresses of the columns, of ``table``, and its own."""
        tail = (table,) if self.kernel in _TABLES else ()
        return (in_ptr, out_ptr, count, first_tile, status, n, *self.args, *tail)


def launch(step: ElementStep, counts: Int64) -> tuple[int, int, Int64]:
    """Blocks, threads and the column ``first_tile`` for rows of so many elements."""
    first_tile = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(-(-counts // TILE), out=first_tile[1:])
    blocks = len(counts) if step.kernel == "delta_decode" else int(first_tile[-1])
    return min(max(blocks, 1), MAX_BLOCKS), THREADS, first_tile


def element_step(
    codec: Codec,
    decoded: ChunkSpec | None = None,
    encoded: ChunkSpec | None = None,
    size: Size | None = None,
) -> ElementStep | None:
    """How the device decodes ``codec``, which is bound; None when the host has to.

    Array codecs come with both of their sides, ``bytes`` and ``packbits`` with the decoded one;
    shapes do not matter. Both sides are native, except that ``bytes`` leaves the byte order as it
    is. Filters of format 2 work on bytes; with ``size``, the decoded one, it is checked that there
    are whole elements.
    """
    step = _decide(codec, decoded, encoded, size)
    return step if isinstance(step, ElementStep) else None


def reason(
    codec: Codec,
    decoded: ChunkSpec | None = None,
    encoded: ChunkSpec | None = None,
    size: Size | None = None,
) -> str:
    """Why :func:`element_step` is None; empty when it is not."""
    step = _decide(codec, decoded, encoded, size)
    return "" if isinstance(step, ElementStep) else f"{_name(codec)}: {step}"


def _name(codec: Codec) -> str:
    return codec.identifier if isinstance(codec, NumcodecsCodec) else codec.name


def _decide(
    codec: Codec, decoded: ChunkSpec | None, encoded: ChunkSpec | None, size: Size | None
) -> ElementStep | str:
    # Classes derived from these may decode in another way.
    if type(codec) is NumcodecsCodec:
        step = _filter_on_bytes(codec)
        if isinstance(step, ElementStep) and size is not None:
            if not size.exact:
                return "the decoded size is not known beforehand"
            if size.limit % step.nbytes:
                return f"{size.limit} bytes are no elements of {step.nbytes} bytes"
        return step
    if type(codec) is BytesCodec and decoded is not None:
        return _sanitized(decoded)
    if type(codec) is PackBitsCodec and decoded is not None:
        return _packed(codec, decoded)
    decide = _ARRAY_CODECS.get(type(codec))
    if decide is None or decoded is None or encoded is None:
        return "no kernel decodes it"
    return decide(codec, decoded, encoded)


def _unchanged(dtype: np.dtype[Any]) -> ElementStep:
    return ElementStep(kernel=None, stored_bits=8 * dtype.itemsize, nbytes=dtype.itemsize)


def _code(dtype: np.dtype[Any]) -> int | None:
    """A type as ``elements.cu`` numbers them, where it knows it."""
    if dtype.kind not in _KINDS or dtype.type.__module__ != "numpy" or dtype.itemsize > 8:
        return None  # some types of ml_dtypes are of kind f
    swapped = 0 if dtype.isnative else _SWAPPED
    return dtype.itemsize.bit_length() - 1 | swapped | 16 * _KINDS[dtype.kind]


def _converting(
    kernel: str, stored: np.dtype[Any], decoded: np.dtype[Any], *args: float, table: bytes = b""
) -> ElementStep | str:
    """A kernel whose first arguments are the two types."""
    source, target = _code(stored), _code(decoded)
    if stored.name == "bfloat16" and kernel == "cast_value":
        source = _BRAIN
    for dtype, code in ((stored, source), (decoded, target)):
        if code is None:
            return f"no kernel knows {dtype}"
    return ElementStep(
        kernel=kernel,
        args=(source or 0, target or 0, *args),
        stored_bits=8 * stored.itemsize,
        nbytes=decoded.itemsize,
        table=table,
    )


# -- one stored byte: all that can become of it ---------------------------------------------------


def _looked_up(decode: Decode, nbytes: int, dubious: NDArray | None = None) -> ElementStep:
    """The host's results for all 256 bytes; ``dubious`` ones are decoded on the host each time."""
    entries = np.zeros((256, 8), np.uint8)
    bad = np.zeros(256, np.bool_) if dubious is None else dubious
    _try(decode, np.arange(256, dtype=np.uint8), entries[:, :nbytes], bad)
    words = np.packbits(bad, bitorder="little")
    log = nbytes.bit_length() - 1
    table = entries.tobytes() + words.tobytes()
    return ElementStep(kernel="look_up", args=(log,), stored_bits=8, nbytes=nbytes, table=table)


def _try(decode: Decode, values: NDArray, out: NDArray, bad: NDArray) -> None:
    """Fills ``out``; halves the values until those that are refused are alone."""
    try:
        with np.errstate(all="ignore"):
            result = np.ascontiguousarray(decode(values))
    except CodecError:
        if len(values) == 1:
            bad[...] = True
            return
        half = len(values) // 2
        _try(decode, values[:half], out[:half], bad[:half])
        _try(decode, values[half:], out[half:], bad[half:])
    else:
        out[...] = result.reshape(-1).view(np.uint8).reshape(out.shape)


def _has_table(stored: np.dtype[Any], decoded: np.dtype[Any]) -> bool:
    return stored.itemsize == 1 and decoded.itemsize in (1, 2, 4, 8)


def _decode_array(codec: ArrayArrayCodec, decoded: ChunkSpec, encoded: ChunkSpec) -> Decode:
    def decode(values: NDArray) -> NDArray:
        array = encoded.data_type.sanitize(values.view(encoded.dtype))
        result = codec.decode(array, replace(decoded, shape=values.shape))
        return np.asarray(result, result.dtype.newbyteorder("="))

    return decode


def _decode_bytes(codec: NumcodecsCodec, nbytes: int) -> Decode:
    def decode(values: NDArray) -> NDArray:
        result = codec.decode(values.tobytes(), Size(nbytes * len(values)))
        return np.frombuffer(result, np.uint8)

    return decode


# -- conversions of numcodecs ---------------------------------------------------------------------


def _as_type(stored: np.dtype[Any], decoded: np.dtype[Any], decode: Decode) -> ElementStep | str:
    if stored == decoded:
        return _unchanged(decoded)
    if _has_table(stored, decoded) and stored.kind in "biu":
        return _looked_up(decode, decoded.itemsize)
    return _converting("astype", stored, decoded)


def _fixed_scale_offset(
    stored: np.dtype[Any], decoded: np.dtype[Any], scale: Any, offset: Any, decode: Decode
) -> ElementStep | str:
    try:
        with np.errstate(all="ignore"):
            quotient = np.ones(1, stored) / scale
            computed = (quotient + offset).dtype
            if quotient.dtype != computed or computed not in (np.float32, np.float64):
                return f"computed in {quotient.dtype} and {computed}"
            constants = [float(np.asarray(x, computed)) for x in (scale, offset)]
    except (TypeError, ValueError, OverflowError) as error:
        return str(error)
    if not np.isfinite(constants).all() or not constants[0]:
        return f"scale {scale} and offset {offset} in {computed}"
    if stored.kind not in "iuf":
        return f"no kernel scales {stored}"
    if _has_table(stored, decoded) and decoded.kind in "biuf":
        with np.errstate(all="ignore"):
            values = np.arange(256, dtype=np.uint8).view(stored) / scale + offset
        return _looked_up(decode, decoded.itemsize, _outside(values, decoded))
    single = int(computed == _SINGLE)
    return _converting("fixed_scale_offset", stored, decoded, single, *constants)


def _outside(values: NDArray, dtype: np.dtype[Any]) -> NDArray:
    """Floats that no integer type holds: what a cast makes of them depends on the processor."""
    if dtype.kind not in "iu":
        return np.zeros(len(values), np.bool_)
    info = np.iinfo(dtype)
    whole = np.trunc(values)
    return ~((whole >= float(info.min)) & (whole < float(info.max + 1)))


def _delta(stored: np.dtype[Any], decoded: np.dtype[Any]) -> ElementStep | str:
    for dtype in (decoded, stored):
        if dtype.kind not in "iu":
            return f"sums of {dtype} depend on their order"
    if np.result_type(stored, decoded).kind == "f":  # of int64 and uint64, say
        return f"NumPy adds {stored} to {decoded} as floats"
    step = _converting("delta_decode", stored, decoded)
    return step if isinstance(step, str) else replace(step, ordered=True)


def _filter_on_bytes(codec: NumcodecsCodec) -> ElementStep | str:
    config = codec.config
    match codec.identifier:
        case "delta" | "fixedscaleoffset" | "quantize":
            first, second = "dtype", "astype"
        case "astype":
            first, second = "decode_dtype", "encode_dtype"
        case "bitround":
            return _unchanged(np.dtype(np.uint8))
        case "packbits":
            return _booleans()
        case _:
            return "no kernel decodes it"
    decoded = stored = plain_dtype(config, first, "biufcmMSUV")
    if config.get(second) is not None:
        stored = plain_dtype(config, second, "biufcmMSUV")
    decode = _decode_bytes(codec, decoded.itemsize)
    if codec.identifier == "delta":
        return _delta(stored, decoded)
    if codec.identifier == "fixedscaleoffset":
        return _fixed_scale_offset(stored, decoded, config["scale"], config["offset"], decode)
    return _as_type(stored, decoded, decode)


# -- array -> array codecs ------------------------------------------------------------------------


def _array_filter(codec: ArrayFilter, decoded: ChunkSpec, encoded: ChunkSpec) -> ElementStep | str:
    stored, result = codec.encoded_dtype, codec.decoded_dtype
    decode = _decode_array(codec, decoded, encoded)
    if isinstance(codec, DeltaCodec):
        return _delta(stored, result)
    if isinstance(codec, FixedScaleOffsetCodec):
        scale, offset = codec.config["scale"], codec.config["offset"]
        return _fixed_scale_offset(stored, result, scale, offset, decode)
    return _as_type(stored, result, decode)


def _scale_offset(
    codec: ScaleOffsetCodec, decoded: ChunkSpec, encoded: ChunkSpec
) -> ElementStep | str:
    dtype = decoded.dtype.newbyteorder("=")
    offset, scale = (
        np.asarray(decoded.data_type.fill_from_json(value, 3), dtype)
        for value in (codec.offset, codec.scale)
    )
    code = _code(dtype)
    if dtype.kind in "iu" and code is not None:
        args = (code, int(scale) & _WORD, int(offset) & _WORD)
        n = dtype.itemsize
        return ElementStep(kernel="scale_offset", args=args, stored_bits=8 * n, nbytes=n)
    if dtype.itemsize == 1:
        return _looked_up(_decode_array(codec, decoded, encoded), 1)
    if dtype not in (np.float32, np.float64):
        return f"no kernel computes in {dtype}"
    constants = float(scale), float(offset)
    if not np.isfinite(constants).all():
        return f"scale {scale} and offset {offset}"
    return _converting("fixed_scale_offset", dtype, dtype, int(dtype == _SINGLE), *constants)


def _cast_value(codec: CastValueCodec, decoded: ChunkSpec, encoded: ChunkSpec) -> ElementStep | str:
    source, target = codec.data_type, decoded.data_type
    if _code(source.dtype) is None and _has_table(source.dtype, target.dtype):
        return _looked_up(_decode_array(codec, decoded, encoded), target.itemsize)
    pairs = (codec.scalar_map or (None, None))[1] or ()
    if len(pairs) > MAX_PAIRS:
        return f"{len(pairs)} pairs in scalar_map"
    table = b"".join(
        _widened(source.fill_from_json(key, 3), source).tobytes()
        + _bits(target.fill_from_json(result, 3), target)
        for key, result in pairs
    )
    args = (_ROUNDINGS.index(codec.rounding), _RANGES.index(codec.out_of_range or "error"))
    result = target.dtype.newbyteorder("=")
    return _converting("cast_value", source.dtype, result, *args, len(pairs), table=table)


def _widened(value: Any, data_type: DataType) -> NDArray:
    """A value as the kernel compares it: in the widest type of its kind."""
    kind = {"u": np.uint64, "i": np.int64}.get(data_type.dtype.kind, np.float64)
    with np.errstate(all="ignore"):
        return np.asarray(value, data_type.dtype).astype(kind)


def _bits(value: Any, data_type: DataType) -> bytes:
    """Of a native element, filled up to eight bytes."""
    return np.asarray(value, data_type.dtype.newbyteorder("=")).tobytes().ljust(8, b"\0")


_ARRAY_CODECS: dict[type[Codec], Callable[[Any, ChunkSpec, ChunkSpec], ElementStep | str]] = {
    AsTypeCodec: _array_filter,
    BitRoundCodec: lambda codec, decoded, encoded: _unchanged(decoded.dtype),
    CastValueCodec: _cast_value,
    DeltaCodec: _array_filter,
    FixedScaleOffsetCodec: _array_filter,
    PackBitsFilter: lambda codec, decoded, encoded: _booleans(),
    QuantizeCodec: _array_filter,
    ScaleOffsetCodec: _scale_offset,
}


# -- bits -----------------------------------------------------------------------------------------


def _booleans() -> ElementStep:
    """numcodecs' packbits: a byte with the number of bits left over, then the highest bit first."""
    args = (0, 1, 0, 0, 1, _PADDING["first_byte"])
    return ElementStep(
        kernel="unpack_bits", args=args, stored_bits=1, nbytes=1, extra_nbytes=1, ordered=True
    )


def _packed(codec: PackBitsCodec, spec: ChunkSpec) -> ElementStep | str:
    nbytes = spec.dtype.itemsize // spec.data_type.components
    if nbytes > 8:
        return f"no kernel knows {spec.dtype}"
    bits = min(spec.data_type.packed_bits, 8 * nbytes)
    first = codec.first_bit or 0
    end = bits if codec.last_bit is None else codec.last_bit + 1
    extension = 0
    if spec.data_type.name.startswith("int"):
        extension = (1 << bits) - (1 << end)
    log, padding = nbytes.bit_length() - 1, _PADDING[codec.padding_encoding]
    return ElementStep(
        kernel="unpack_bits",
        args=(log, end - first, first, extension, 0, padding),
        stored_bits=end - first,
        nbytes=nbytes,
        extra_nbytes=int(padding > 0),
        ordered=True,
    )


def _sanitized(spec: ChunkSpec) -> ElementStep:
    bits = spec.data_type.packed_bits
    if spec.dtype == np.bool_ or bits >= 8:
        return _unchanged(np.dtype(np.uint8))
    mask = (1 << bits) - 1
    return ElementStep(kernel="mask_bytes", args=(mask,), stored_bits=8, nbytes=1)
