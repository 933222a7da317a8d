"""Random arguments of ``create_array`` that zarr-python and zarr_gpu take alike.

Importing this skips the importing test module where there is no zarr-python.
"""

import hypothesis.strategies as st
import numcodecs
import numpy as np
import pytest

from tests.interop.arrays import grids

zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
if not hasattr(zarr, "create_array"):
    pytest.skip("needs zarr-python 3.1 or newer", allow_module_level=True)

from zarr.codecs import (  # noqa: E402 - after the check that it is there
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.codecs import numcodecs as zn  # noqa: E402 - the same

NEWEST = hasattr(zarr.dtype, "Struct")  # 3.1 knows neither v3 structs alike nor nested ones in v2
INTEGERS = ["i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"]
FLOATS = ["<f2", "<f4", "<f8"]
FIXED = [
    "bool", *INTEGERS, *FLOATS, "<c8", "<c16", "<M8[ns]", "<m8[10s]", "S3", "<U5", "V3",
]  # fmt: skip
BIG = [">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16", ">M8[s]", ">U5"]
STRUCTS = [
    np.dtype([("a", "<i2"), ("b", "<f4")]),
    np.dtype([("a", "u1"), ("n", [("x", "<u8"), ("y", "S3")])]),
]
VARIABLE = [zarr.dtype.VariableLengthUTF8(), zarr.dtype.VariableLengthBytes()]


def codecs_v2():
    blosc = st.builds(
        numcodecs.Blosc,
        st.sampled_from(["blosclz", "lz4", "lz4hc", "zlib", "zstd"]),
        clevel=st.sampled_from([0, 1, 5]),
        shuffle=st.sampled_from([0, 1, 2]),
    )
    n = numcodecs
    plain = [None, n.Zlib(1), n.GZip(1), n.BZ2(1), n.LZMA(preset=1), n.LZ4(), n.Zstd(1)]
    checked = [n.Zstd(1, checksum=True), n.CRC32(), n.CRC32C()]
    return blosc | st.sampled_from([*plain, *checked])


@st.composite
def filters_v2(draw, dtype):
    n, out = numcodecs, []
    if np.dtype(dtype).kind in "iu" and draw(st.booleans()):
        out.append(n.Delta(dtype))
    if draw(st.booleans()):
        out.append(draw(st.sampled_from([n.Shuffle(np.dtype(dtype).itemsize), n.Fletcher32()])))
    return out or None


def compressors_v3():
    blosc = st.builds(
        BloscCodec,
        cname=st.sampled_from(["blosclz", "lz4", "lz4hc", "zlib", "zstd"]),
        clevel=st.sampled_from([0, 1, 5]),
        shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
        typesize=st.sampled_from([1, 2, 4, 8]),
    )
    others = [
        GzipCodec(level=1), ZstdCodec(level=1), ZstdCodec(level=1, checksum=True), Crc32cCodec(),
        zn.LZ4(acceleration=1), zn.Zlib(level=1), zn.BZ2(level=1),
        zn.Fletcher32(), zn.CRC32(), zn.Adler32(), zn.JenkinsLookup3(initval=3, prefix=None),
    ]  # fmt: skip
    return st.lists(blosc | st.sampled_from(others), max_size=2)


@st.composite
def filters_v3(draw, dtype, ndim):
    out = []
    if ndim > 1 and draw(st.booleans()):
        out.append(TransposeCodec(order=tuple(draw(st.permutations(range(ndim))))))
    if np.dtype(dtype).kind in "iu" and draw(st.integers(0, 3)) == 0:
        out.append(zn.Delta(dtype=np.dtype(dtype).str))
    return out


@st.composite
def fills(draw, dtype):
    kind = dtype.kind if isinstance(dtype, np.dtype) else "T"
    if kind == "b":
        return draw(st.booleans())
    if kind in "iu":
        info = np.iinfo(dtype)
        return draw(st.sampled_from([0, 1, int(info.min), int(info.max)]))
    if kind == "f":
        return draw(st.sampled_from([0.0, -0.0, 1.5, np.nan, np.inf, -np.inf]))
    if kind == "c":
        return draw(st.sampled_from([0j, 1 + 2j, complex(np.nan, -0.0), complex(-np.inf, 1)]))
    if kind in "mM":
        return draw(st.sampled_from([np.array(7, "i8"), np.array(0, "i8")])).view(dtype)[()]
    return None


@st.composite
def arguments(draw, variable=True):
    """Arguments of ``create_array`` that both libraries take as they are."""
    zarr_format = draw(st.sampled_from([2, 3]))
    sharded = zarr_format == 3 and draw(st.booleans())
    shape, chunks, shards = draw(grids(sharded=sharded))
    if not (shape or NEWEST):
        shards = None  # 3.1 cannot write 0-d shards
    kinds = [FIXED, STRUCTS if NEWEST else STRUCTS[: 3 - zarr_format]]
    kinds += [BIG] if zarr_format == 2 else []
    if variable:
        kinds.append(VARIABLE if shape else VARIABLE[:1])  # 0-d bytes they cannot write
    dtype = draw(st.sampled_from([dt for kind in kinds for dt in kind]))
    dtype = np.dtype(dtype) if isinstance(dtype, (str, np.dtype)) else dtype
    fixed = isinstance(dtype, np.dtype)
    out = {"shape": shape, "chunks": chunks, "dtype": dtype, "zarr_format": zarr_format}
    fill = draw(fills(dtype))
    if fill is not None:
        out["fill_value"] = fill
    out["attributes"] = draw(st.sampled_from([{}, {"a": [1, {"b": None}], "ü": "数"}]))
    if zarr_format == 2:
        separator = draw(st.sampled_from("./"))
        out["chunk_key_encoding"] = {"name": "v2", "separator": separator}
        out["order"] = draw(st.sampled_from("CF"))
        out["compressors"] = draw(codecs_v2())
        if fixed:
            out["filters"] = draw(filters_v2(dtype))
        return out
    if shards is not None:
        location = draw(st.sampled_from(["start", "end"]))
        out["shards"] = {"shape": shards, "index_location": location}
    name, separator = draw(st.sampled_from(["default", "v2"])), draw(st.sampled_from("./"))
    out["chunk_key_encoding"] = {"name": name, "separator": separator}
    out["compressors"] = draw(compressors_v3())
    if fixed:
        out["filters"] = draw(filters_v3(dtype, len(shape)))
        if draw(st.booleans()):
            out["compressors"].insert(0, zn.Shuffle(elementsize=dtype.itemsize))
        if dtype.kind in "iufcmMU" and dtype.itemsize > 1:
            endian = draw(st.sampled_from(["little", "big"]))
            if NEWEST or not any(isinstance(f, zn.Delta) for f in out["filters"]):
                out["serializer"] = BytesCodec(endian=endian)  # 3.1 takes big for little there
    if shape and draw(st.booleans()):
        names = st.lists(
            st.sampled_from([None, "x", "y"]), min_size=len(shape), max_size=len(shape)
        )
        out["dimension_names"] = draw(names)
    return out
