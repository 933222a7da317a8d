"""What the golden arrays hold: one entry for every array in the zip files beside this module.

``generate.py`` has other implementations write these values; the tests compare what zarr_gpu reads
with them, bit by bit. The values need no random numbers and no file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

WRITERS = ("numcodecs", "tensorstore", "zarr_python", "zarrs")
SHAPE, CHUNKS = (30, 40), (10, 16)
SMALL, SMALL_CHUNKS = (7, 9), (4, 5)
LONG = 100_000


def numbers(dtype: Any, shape: tuple[int, ...] = SMALL) -> np.ndarray:
    """Values that differ from chunk to chunk; floats are multiples of 1/16 below 80."""
    dtype = np.dtype(dtype)
    i = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    if dtype.kind == "b":
        return i % 3 == 0
    if dtype.kind in "iu":
        low = -20 if dtype.kind == "i" else 0
        return (i * 37 % 101 + low).astype(dtype)
    if dtype.kind == "f":
        return (i / 16 - 20).astype(dtype)
    if dtype.kind == "c":
        return (i / 16 - 20 + 1j * (i % 7)).astype(dtype)
    if dtype.kind in "mM":
        out = (i * 1000003 - 20).astype(np.int64)
        out.flat[5] = np.iinfo(np.int64).min  # NaT
        return out.astype(dtype.newbyteorder("=")).astype(dtype)
    raise TypeError(dtype)


def long() -> np.ndarray:
    """One chunk of several blocks for every compressor."""
    return (np.arange(LONG) // 7 % 1000).astype("<i4")


def holes(dtype: Any, fill: Any) -> np.ndarray:
    """Chunks at the border hold numbers, the others were never written."""
    out = np.full(SHAPE, fill, dtype)
    out[:10, :16] = numbers(dtype, (10, 16))
    out[25:, 35:] = numbers(dtype, (5, 5))
    return out


def ml(name: str) -> np.ndarray:
    """All 16 or 256 bit patterns, or as many of bfloat16."""
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, name))
    if name == "bfloat16":
        return (np.arange(256, dtype=np.uint16) * 257).view(dtype).reshape(16, 16)
    if name in ("int4", "int2", "float4_e2m1fn"):
        bits = 2 if name == "int2" else 4
        return (np.arange(256, dtype=np.uint8) % 2**bits).view(dtype).reshape(16, 16)
    return np.arange(256, dtype=np.uint8).view(dtype).reshape(16, 16)


def texts() -> np.ndarray:
    words = ["", "a", "zarr", "Größe", "数", "\U0001f40d", "with\0nul", "x" * 300]
    return np.array([words[i % 8] for i in range(63)], object).reshape(SMALL)


def bytestrings() -> np.ndarray:
    items = [b"", b"a", b"\0\xff", b"zarr" * 20]
    out = np.empty(63, object)
    out[:] = [items[i % 4] for i in range(63)]
    return out.reshape(SMALL)


def ragged() -> np.ndarray:
    out = np.empty(5, object)
    out[:] = [np.arange(i, dtype="<i4") * 3 for i in range(5)]
    return out


def documents() -> np.ndarray:
    out = np.empty(4, object)
    out[:] = [{"a": [1, 2.5, None]}, "text", [True, "x"], 17]
    return out


def fixed_bytes() -> np.ndarray:
    return np.array([b"", b"a", b"zarr", b"12345", b"\xff\0\xfe"] * 12, "S5").reshape(12, 5)


def fixed_text(dtype: str = "<U4") -> np.ndarray:
    return np.array(["", "a", "Größ", "数\U0001f40d", "zarr"] * 12, dtype).reshape(12, 5)


def raw_bytes() -> np.ndarray:
    return np.arange(180, dtype=np.uint8).view("V3").reshape(12, 5)


STRUCT = np.dtype([("a", "<i2"), ("b", ">f4"), ("c", "S3"), ("d", [("x", "<i8"), ("y", "u1")])])
LITTLE_STRUCT = np.dtype([("a", "<i2"), ("b", "<f4"), ("d", [("x", "<i8"), ("y", "u1")])])
SUBARRAY_STRUCT = np.dtype([("a", "<i2", (2, 3)), ("b", "<f4")])


def records(dtype: np.dtype = STRUCT) -> np.ndarray:
    out = np.zeros((12, 5), dtype)
    i = np.arange(60).reshape(12, 5)
    out["a"] = i[..., None, None] if dtype["a"].shape else i - 30
    out["b"] = i / 8
    if "c" in dtype.names:
        out["c"] = fixed_bytes().astype("S3")
    if "d" in dtype.names:
        out["d"]["x"], out["d"]["y"] = i * 10**12, i % 256
    return out


def _of(*names: str, **arguments: Any) -> dict[str, Callable[[], np.ndarray]]:
    call = arguments.pop("call", numbers)
    return {name: lambda: call(**arguments) for name in names}


_INT = {"dtype": "<i4", "shape": SHAPE}
_FLOAT = {"dtype": "<f4", "shape": SHAPE}
_BLOSC = [
    "blosc-blosclz", "blosc-lz4", "blosc-lz4hc", "blosc-zlib", "blosc-zstd",
    "blosc-lz4-bitshuffle", "blosc-zstd-bitshuffle", "blosc-zstd-noshuffle",
]  # fmt: skip
_FLOAT8 = (
    "float8_e3m4 float8_e4m3fn float8_e4m3fnuz float8_e4m3b11fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu"
).split()
_ML = ["bfloat16", "int4", "int2", "float4_e2m1fn", *_FLOAT8]

_COMMON = {  # written by zarr-python in both formats
    **_of("raw", "gzip", "zstd", "zstd-checksum", *_BLOSC, **_INT),
    **_of("zlib", "lz4", "bz2", "lzma", "shuffle", "crc32", "crc32c", "adler32", **_INT),
    **_of("fletcher32", "jenkins_lookup3", "delta", "delta-narrow", **_INT),
    **_of("fixedscaleoffset", "quantize", "astype", "bitround", "pcodec", **_FLOAT),
    **_of("zfpy-reversible", dtype="<f8", shape=SHAPE),
    **_of("packbits", dtype="bool", shape=SHAPE),
    **_of("blosc-long", "zstd-long", "gzip-long", "lz4-long", call=long),
    **_of("holes-nan", call=holes, dtype="<f4", fill=np.nan),
    **_of("holes-int", call=holes, dtype="<i2", fill=-5),
    **{dt: (lambda dt=dt: numbers(dt)) for dt in ("bool", "i1", "u1", "i8", "u8", "f2", "f8")},
    **{dt: (lambda dt=dt: numbers(dt)) for dt in ("c8", "c16", "M8[ns]", "m8[10s]", "M8[D]")},
    **_of("zero-d", dtype="<i4", shape=()),
    **_of("empty", dtype="<i4", shape=(0, 5)),
    **_of("text", call=texts),
    **_of("bytestrings", call=bytestrings),
    **_of("fixed-bytes", call=fixed_bytes),
    **_of("fixed-text", call=fixed_text),
    **_of("raw-bytes", call=raw_bytes),
}
VALUES: dict[str, Callable[[], np.ndarray]] = {
    **{f"zarr_python/v2/{name}": make for name, make in _COMMON.items()},
    **{f"zarr_python/v3/{name}": make for name, make in _COMMON.items()},
    **_of("zarr_python/v2/slash", "zarr_python/v2/fortran", **_INT),
    **_of("zarr_python/v2/fortran-shuffle", **_INT),
    **_of("zarr_python/v2/big", dtype=">i4", shape=SHAPE),
    **_of("zarr_python/v2/big-float", dtype=">f8"),
    **_of("zarr_python/v2/big-text", call=fixed_text, dtype=">U4"),
    **_of("zarr_python/v2/null-fill", call=holes, dtype="<i4", fill=0),
    **_of("zarr_python/v2/struct", call=records),
    **_of("zarr_python/v3/struct", call=records, dtype=LITTLE_STRUCT),
    **_of("zarr_python/v3/big", "zarr_python/v3/transpose", **_INT),
    **_of("zarr_python/v3/v2-keys", "zarr_python/v3/dot-keys", **_INT),
    **_of("zarr_python/v3/sharded", "zarr_python/v3/sharded-start", **_INT),
    **_of("zarr_python/v3/sharded-raw", "zarr_python/v3/sharded-transpose", **_INT),
    **_of("zarr_python/v3/sharded-plain-index", "zarr_python/v3/sharded-big-index", **_INT),
    **_of("zarr_python/v3/sharded-nested", "zarr_python/v3/sharded-in-gzip", **_INT),
    **_of("zarr_python/v3/sharded-holes", call=holes, dtype="<f4", fill=np.nan),
    **_of("zarr_python/v3/sharded-bool", dtype="bool", shape=SHAPE),
    **_of("zarr_python/v3/sharded-text", call=texts),
    **_of("zarr_python/v3/sharded-zero-d", dtype="<f8", shape=()),
    **_of("zarr_python/v3/rectilinear", "zarr_python/v3/rectilinear-sharded", **_INT),
    **_of("zarr_python/v3/scale-offset", **_FLOAT),
    **_of("zarr_python/v3/cast-value", dtype="<f4"),
    **{f"tensorstore/v2/{name}": (lambda name=name: ml(name)) for name in _ML},
    **{f"tensorstore/v3/{name}": (lambda name=name: ml(name)) for name in _ML},
    **_of("tensorstore/v2/blosc-snappy", "tensorstore/v2/fortran", "tensorstore/v2/bz2", **_INT),
    **_of("tensorstore/v2/zstd", "tensorstore/v2/slash", "tensorstore/v2/zlib", **_INT),
    **_of("tensorstore/v2/big", dtype=">i2", shape=SHAPE),
    **_of("tensorstore/v3/raw", "tensorstore/v3/gzip", "tensorstore/v3/crc32c", **_INT),
    **_of("tensorstore/v3/transpose-blosc", "tensorstore/v3/sharded", **_INT),
    **_of("tensorstore/v3/sharded-start", "tensorstore/v3/sharded-nested", **_INT),
    **_of("tensorstore/v3/big", **_INT),
    **_of("tensorstore/v3/sharded-bfloat16", call=ml, name="bfloat16"),
    **_of("tensorstore/v3/complex64", dtype="<c8"),
    **_of("tensorstore/v3/holes", call=holes, dtype="<f4", fill=np.nan),
    **_of("zarrs/v3/zstd", "zarrs/v3/gzip", "zarrs/v3/blosc", "zarrs/v3/crc32c", **_INT),
    **_of("zarrs/v3/transpose", "zarrs/v3/sharded", "zarrs/v3/sharded-start", **_INT),
    **_of("zarrs/v3/shuffle", **_INT),
    **_of("zarrs/v3/reshape", dtype="<i4", shape=(20, 32)),  # zarrs reshapes whole chunks only
    **_of("zarrs/v3/packbits-bool", dtype="bool", shape=SHAPE),
    **_of("zarrs/v3/packbits-part", "zarrs/v3/packbits-last", dtype="u1", shape=SHAPE),
    **_of("zarrs/v3/pcodec", **_FLOAT),
    **_of("numcodecs/v2/json2", "numcodecs/v2/msgpack2", call=documents),
    **_of("numcodecs/v2/pickle", call=documents),
    **_of("numcodecs/v2/vlen-array", call=ragged),
    **_of("numcodecs/v2/categorize", call=lambda: texts().ravel()[:7]),
    **_of("numcodecs/v2/base64", **_INT),
    **_of("numcodecs/v2/vlen-bytes-lz4", call=bytestrings),
    **_of("numcodecs/v2/zfpy-filter", dtype="<f8", shape=SHAPE),
    **_of("numcodecs/v2/subarray", call=records, dtype=SUBARRAY_STRUCT),
    **_of("numcodecs/v2/zero-fill-bytes", call=fixed_bytes),
}
"""Values by ``writer/format/name``."""
