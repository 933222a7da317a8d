"""Chunks that zarr-python writes are read, and the same bytes are written."""

import itertools

import numpy as np
import pytest

from zarr_gpu.codecs.base import ChunkSpec
from zarr_gpu.codecs.chain import CodecChain
from zarr_gpu.codecs.registry import from_v2, get_codec
from zarr_gpu.metadata.dtypes import parse_v2, parse_v3

zarr = pytest.importorskip("zarr", minversion="3.4")
pytestmark = pytest.mark.peer

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def named(name, **configuration):
    return {"name": name, "configuration": configuration}


CHAINS = [
    ("int32", [LITTLE]),
    ("float64", [named("bytes", endian="big")]),
    ("bool", [{"name": "bytes"}]),
    ("int16", [named("transpose", order=[1, 0]), named("bytes", endian="big")]),
    ("float32", [named("scale_offset", offset=1, scale=4), LITTLE]),
    ("int64", [named("scale_offset", offset=-5, scale=3), LITTLE]),
    (
        "float64",
        [
            named("scale_offset", offset=1, scale=10),
            named("cast_value", data_type="uint8", rounding="towards-zero", out_of_range="clamp"),
            {"name": "bytes"},
        ],
    ),
    ("int32", [named("numcodecs.delta", dtype="<i4", astype="<i2"), LITTLE]),
    (
        "float32",
        [
            named("numcodecs.fixedscaleoffset", offset=1, scale=10, dtype="<f4", astype="<i2"),
            LITTLE,
        ],
    ),
    ("float64", [named("numcodecs.quantize", digits=2, dtype="<f8"), LITTLE]),
    ("float32", [named("numcodecs.bitround", keepbits=5), LITTLE]),
    (
        "int64",
        [
            named("numcodecs.astype", encode_dtype="<i2", decode_dtype="<i8"),
            named("bytes", endian="big"),
        ],
    ),
    ("float32", [named("numcodecs.pcodec", level=4)]),
    ("float32", [named("numcodecs.zfpy", mode=4, tolerance=0.01)]),
    ("string", [named("vlen-utf8")]),
]


def values(dtype, shape):
    numbers = np.arange(np.prod(shape)).reshape(shape)
    if dtype == "string":
        return np.array([f"é{n}" * n for n in numbers.flat], "T").reshape(shape)
    return (numbers % 2 if dtype == "bool" else numbers).astype(dtype)


@pytest.mark.filterwarnings("ignore")  # zarr-python warns of what is not in the specification
@pytest.mark.parametrize(("dtype", "codecs"), CHAINS, ids=str)
def test_format_3_chunks_are_zarr_pythons(dtype, codecs):
    array = values(dtype, (3, 4))
    store = {}
    z = zarr.create(
        store=zarr.storage.MemoryStore(store), shape=(3, 4), chunks=(3, 4), dtype=dtype,
        codecs=codecs, zarr_format=3, config={"write_empty_chunks": True},
    )  # fmt: skip
    z[...] = array
    written = store["c/0/0"].to_bytes()
    data_type = parse_v3(z.metadata.to_dict()["data_type"])
    spec = ChunkSpec(shape=(3, 4), data_type=data_type, fill_value=data_type.default_fill())
    chain = CodecChain.from_codecs([get_codec(c) for c in codecs]).bind(spec)
    assert bytes(chain.encode(array)) == written
    assert np.array_equal(chain.decode(written), z[...])


V2 = [
    ("<i4", None, [{"id": "delta", "dtype": "<i4", "astype": "<i2"}]),
    (">i4", None, [{"id": "delta", "dtype": ">i4"}]),
    (
        "<f8",
        None,
        [{"id": "fixedscaleoffset", "offset": 1, "scale": 10, "dtype": "<f8", "astype": "|u1"}],
    ),
    ("<f4", None, [{"id": "quantize", "digits": 2, "dtype": "<f4"}]),
    ("<f4", None, [{"id": "bitround", "keepbits": 5}]),
    ("|b1", None, [{"id": "packbits"}]),
    (
        "<i8",
        None,
        [
            {"id": "astype", "encode_dtype": "<i2", "decode_dtype": "<i8"},
            {"id": "delta", "dtype": "<i2"},
        ],
    ),
    ("<f8", {"id": "zfpy", "mode": 4, "tolerance": 0.01}, None),
    ("<f8", {"id": "pcodec"}, None),
    ("<i4", {"id": "base64"}, None),
    ("|O", None, [{"id": "vlen-utf8"}]),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "compressor", "filters"), V2, ids=str)
def test_format_2_chunks_are_zarr_pythons(dtype, compressor, filters):
    import numcodecs

    array = values("string" if dtype == "|O" else dtype, (3, 4))
    store = {}
    z = zarr.create(
        store=zarr.storage.MemoryStore(store), shape=(3, 4), chunks=(3, 4), zarr_format=2,
        dtype=str if dtype == "|O" else dtype, config={"write_empty_chunks": True},
        compressor=compressor and numcodecs.get_codec(compressor),
        filters=filters and [numcodecs.get_codec(f) for f in filters],
    )  # fmt: skip
    z[...] = array
    written = store["0.0"].to_bytes()
    data_type = parse_v2(dtype, "vlen-utf8" if dtype == "|O" else None)
    spec = ChunkSpec(shape=(3, 4), data_type=data_type, fill_value=data_type.default_fill())
    codecs = [
        from_v2(c) for c in itertools.chain(filters or [], [compressor] if compressor else [])
    ]
    if codecs[0].kind == "bytes_bytes":
        from zarr_gpu.codecs.bytes import BytesCodec

        codecs.insert(0, BytesCodec(None))
    chain = CodecChain.from_codecs(codecs).bind(spec)
    assert bytes(chain.encode(array)) == written
    assert np.array_equal(chain.decode(written), z[...])
