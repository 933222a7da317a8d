"""``cast_value``: elements as another numeric type, by value (zarr-extensions, "cast_value").

Whatever the target cannot hold exactly is rounded as asked for; what lies outside its range is an
error, clamped or wrapped; ``scalar_map`` comes before both. NaN and infinities become integers
only through the map.

Rounding happens as if exponents had no bound; only the rounded value is compared with the range,
as the reference implementation (the Rust crate of zarr-python) does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from zarr_gpu._types import JSON, NDArray
from zarr_gpu.codecs._members import check_names, choice
from zarr_gpu.codecs.base import ArrayArrayCodec, ChunkSpec
from zarr_gpu.errors import CodecError
from zarr_gpu.metadata.dtypes import DataType, parse_v3
from zarr_gpu.metadata.problems import is_list, show

Pairs: TypeAlias = tuple[tuple[JSON, JSON], ...]
Range: TypeAlias = Literal["error", "clamp", "wrap"]

_ROUND: dict[str, Callable[[NDArray], NDArray]] = {
    "nearest-even": np.rint,
    "towards-zero": np.trunc,
    "towards-positive": np.ceil,
    "towards-negative": np.floor,
    "nearest-away": lambda x: np.trunc(x) + np.copysign(abs(x - np.trunc(x)) >= 0.5, x),
}
_EXACT = 1 << 53  # all integers up to here are float64 values


@dataclass(frozen=True)
class CastValueCodec(ArrayArrayCodec):
    """Encodes to ``data_type``; decodes to the type of the chunk, by the same rules."""

    name: ClassVar[str] = "cast_value"

    data_type: DataType
    rounding: str = "nearest-even"
    out_of_range: Range | None = None
    scalar_map: tuple[Pairs | None, Pairs | None] | None = None
    """What ``encode`` and ``decode`` replace, each as pairs of JSON values."""

    @classmethod
    def from_config(cls, config: Mapping[str, JSON]) -> CastValueCodec:
        names = ("rounding", "out_of_range", "scalar_map")
        check_names(config, *names, required=("data_type",))
        try:
            data_type = parse_v3(config["data_type"])
        except ValueError as error:
            raise ValueError(f"data_type: {error}") from error
        _check_type(data_type, "data_type")
        return cls(
            data_type,
            choice(config, "rounding", *_ROUND),
            choice(config, "out_of_range", None, "error", "clamp", "wrap"),
            _parse_map(config.get("scalar_map")),
        )

    def to_config(self) -> dict[str, JSON]:
        config: dict[str, JSON] = {"data_type": self.data_type.to_json()}
        if self.rounding != "nearest-even":
            config["rounding"] = self.rounding
        if self.out_of_range is not None:
            config["out_of_range"] = self.out_of_range
        if self.scalar_map is not None:
            config["scalar_map"] = {
                name: [list(pair) for pair in pairs]
                for name, pairs in zip(("encode", "decode"), self.scalar_map, strict=True)
                if pairs is not None
            }
        return config

    def bind(self, spec: ChunkSpec) -> CastValueCodec:
        _check_type(spec.data_type, "cast_value")
        if self.out_of_range == "wrap" and self.data_type.category != "int":
            raise ValueError("out_of_range: 'wrap' is for integer types only")
        self._pairs(0, spec.data_type, self.data_type)
        self._pairs(1, self.data_type, spec.data_type)
        return self

    def encoded_spec(self, spec: ChunkSpec) -> ChunkSpec:
        encoded = replace(spec, data_type=self.data_type)
        fill = self.encode(spec.data_type.fill_element(spec.fill_value), spec)
        return replace(encoded, fill_value=fill.reshape(-1)[0])

    def encode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        return self._cast(array, 0, spec.data_type, self.data_type)

    def decode(self, array: NDArray, spec: ChunkSpec) -> NDArray:
        return self._cast(array, 1, self.data_type, spec.data_type)

    def _pairs(self, direction: int, source: DataType, target: DataType) -> list[tuple[Any, Any]]:
        pairs = (self.scalar_map or (None, None))[direction] or ()
        where = f"scalar_map.{('encode', 'decode')[direction]}"
        try:
            return [(source.fill_from_json(k, 3), target.fill_from_json(v, 3)) for k, v in pairs]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def _cast(self, array: NDArray, direction: int, source: DataType, target: DataType) -> NDArray:
        # Wrapping is for integer targets; decoding to floats never leaves the range of integers.
        mode: Range = self.out_of_range or "error"
        values = np.asarray(_plain(array, source))
        masks = []
        for key, result in self._pairs(direction, source, target):
            plain = _plain(np.asarray(key), source)[()]
            masks.append((values == plain if plain == plain else values != values, result))
        if masks:
            values = np.where(np.logical_or.reduce([m for m, _ in masks]), 0, values).astype(
                values.dtype
            )
        with np.errstate(all="ignore"):
            if target.category == "int":
                out = _to_integers(values, target, self.rounding, mode)
            else:
                out = _to_floats(values, target, self.rounding, mode)
        for mask, result in reversed(masks):  # the first pair that matches counts
            out[mask] = result
        return out


def _parse_map(value: JSON) -> tuple[Pairs | None, Pairs | None] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"scalar_map: expected an object, found {show(value)}")
    unknown = set(value) - {"encode", "decode"}
    if unknown:
        raise ValueError(f"scalar_map: unknown member {min(unknown)!r}")
    return _parse_pairs(value.get("encode"), "encode"), _parse_pairs(value.get("decode"), "decode")


def _parse_pairs(value: JSON, name: str) -> Pairs | None:
    if value is None:
        return None
    if not is_list(value) or not all(is_list(pair) and len(pair) == 2 for pair in value):
        raise ValueError(f"scalar_map.{name}: expected a list of pairs, found {show(value)}")
    return tuple((key, result) for key, result in value)


def _check_type(data_type: DataType, where: str) -> None:
    # float8_e8m0fnu has neither sign nor zero, so the rounding below does not describe it.
    if data_type.category not in ("int", "float") or data_type.name == "float8_e8m0fnu":
        raise ValueError(f"{where}: expected an integer or float type, found {data_type.name!r}")
    if data_type.dtype.itemsize > 8:
        raise ValueError(f"{where}: {data_type.name!r} is too wide")


def _plain(array: NDArray, data_type: DataType) -> NDArray:
    """The same values as native integers or floats of NumPy."""
    if data_type.dtype.kind in "iuf" and data_type.dtype.isbuiltin == 1:
        return np.asarray(array, data_type.dtype.newbyteorder("="))
    return np.asarray(array).astype(np.int8 if data_type.category == "int" else np.float64)


def _limits(data_type: DataType) -> tuple[int, int]:
    n = data_type.packed_bits
    return (0, 2**n - 1) if data_type.name.startswith("u") else (-(2 ** (n - 1)), 2 ** (n - 1) - 1)


def _to_integers(values: NDArray, target: DataType, rounding: str, mode: Range) -> NDArray:
    low, high = _limits(target)
    if values.dtype.kind == "f":
        _refuse(~np.isfinite(values), values, target)
        values = _ROUND[rounding](values.astype(np.float64))
        outside = (values < low) | (values >= float(high + 1))  # a power of two, hence exact
    else:
        info = np.iinfo(values.dtype)
        # Compared in the source's own type, so each bound has to be one of its values.
        outside = (values < max(low, info.min)) | (values > min(high, info.max))
    if mode == "error":
        _refuse(outside, values, target)
    if mode == "wrap":
        return _wrap(values, low, target)
    above = outside & (values > 0)
    out = np.where(outside, 0, values).astype(_word(target))
    out[outside] = low
    out[above] = high
    return out.astype(target.dtype)


def _word(target: DataType) -> np.dtype[Any]:
    """Type to compute a target's values in: its own, or bytes for types of fewer bits."""
    if target.packed_bits < 8:
        return np.dtype(np.uint8 if target.name.startswith("u") else np.int8)
    return target.dtype.newbyteorder("=")


def _wrap(values: NDArray, low: int, target: DataType) -> NDArray:
    """Modulo 2**n."""
    n = target.packed_bits
    if values.dtype.kind == "f":
        rest = np.fmod(values, 2.0**n)
        words = abs(rest).astype(np.uint64)
        words = np.where(rest < 0, np.uint64(0) - words, words)
    else:
        words = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64)
    if n < 8:
        mask = np.uint64(2**n - 1)
        shifted = (words - np.uint64(low % 2**64)) & mask  # distance from the lowest value
        return (shifted.astype(np.int16) + low).astype(np.int8).astype(target.dtype)
    return words.astype(f"u{n // 8}").view(_word(target)).astype(target.dtype)


def _to_floats(values: NDArray, target: DataType, rounding: str, mode: Range) -> NDArray:
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
    elif values.size and max(abs(int(values.min())), int(values.max())) > _EXACT:
        wide = _round_integers(values, target, rounding)
    else:
        wide = values.astype(np.float64)
    if target.dtype.itemsize < 8:
        wide = _round_floats(wide, target, rounding)
    largest = float(_finfo(target).max)
    special = np.array([np.inf, np.nan]).astype(target.dtype).astype(np.float64)
    if not np.isnan(special[1]):
        _refuse(np.isnan(wide), values, target)
    outside = abs(wide) > largest
    if np.isinf(special[0]):
        given = np.isinf(values) if values.dtype.kind == "f" else np.False_
        outside = outside & ~given
        wide = np.where(outside, np.copysign(np.inf, wide), wide)
    else:
        wide = np.where(outside, np.copysign(largest, wide), wide)
    if mode != "clamp":
        _refuse(outside, values, target)
    return np.asarray(wide).astype(target.dtype)


def _finfo(target: DataType) -> Any:
    if target.dtype.kind == "f" and target.dtype.isbuiltin == 1:
        return np.finfo(target.dtype)
    import ml_dtypes  # its types are there, so it is

    return ml_dtypes.finfo(target.dtype)


def _round_floats(wide: NDArray, target: DataType, rounding: str) -> NDArray:
    """float64 values rounded to the target's precision, exponents unbounded above."""
    info = _finfo(target)
    finite = np.where(np.isfinite(wide), wide, 0)
    exponent = np.frexp(finite)[1]
    # Of the last bit that the target keeps; there is a smallest one.
    last = int(np.frexp(float(info.smallest_subnormal))[1]) - 1
    ulp = np.maximum(exponent - (info.nmant + 1), last)
    rounded = np.ldexp(_ROUND[rounding](np.ldexp(finite, -ulp)), ulp)
    return np.where(np.isfinite(wide), rounded, wide)


def _round_integers(values: NDArray, target: DataType, rounding: str) -> NDArray:
    """Integers beyond 2**53 rounded to the target's precision, which float64 can hold."""
    precision = int(_finfo(target).nmant) + 1

    def one(value: int) -> float:
        shift = max(abs(value).bit_length() - precision, 0)
        whole, rest = divmod(value, 1 << shift)  # rest is never negative
        half = (1 << shift) >> 1
        match rounding:
            case "towards-zero":
                up = value < 0 < rest
            case "towards-positive":
                up = rest > 0
            case "towards-negative":
                up = False
            case "nearest-away":
                up = shift > 0 and (rest > half or (rest == half and value > 0))
            case _:
                up = shift > 0 and (rest > half or (rest == half and whole % 2 == 1))
        return float((whole + up) << shift)

    flat = [one(value) for value in values.reshape(-1).tolist()]
    return np.array(flat, np.float64).reshape(values.shape)


def _refuse(wrong: NDArray, values: NDArray, target: DataType) -> None:
    if wrong.any():
        raise CodecError(
            "value cannot be represented",
            codec="cast_value",
            expected=f"a value of {target.name}",
            found=values[wrong].reshape(-1)[0],
        )
