"""zarrs, the Rust implementation, as the strict codec pipeline of zarr-python."""

import tempfile

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import zarr_gpu
from tests.interop.arrays import grids, take_turns
from tests.interop.zarr_arguments import fills, zarr

pytest.importorskip("zarrs", reason="zarrs needs Python 3.12 and is not installed")
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

DTYPES = ["bool", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
STRICT = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}


@st.composite
def arguments(draw):
    c = zarr.codecs
    shape, chunks, shards = draw(grids(sharded=draw(st.booleans())))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    out = {"shape": shape, "chunks": chunks, "dtype": dtype, "fill_value": draw(fills(dtype))}
    if shards is not None:
        location = draw(st.sampled_from(["start", "end"]))
        out["shards"] = {"shape": shards, "index_location": location}
    compressors = st.sampled_from(
        [
            c.GzipCodec(level=1),
            c.ZstdCodec(level=1),
            c.ZstdCodec(level=1, checksum=True),
            c.Crc32cCodec(),
        ]
    )
    out["compressors"] = draw(st.lists(compressors, max_size=2))
    if draw(st.booleans()):
        # zarrs reads parts of blosc buffers by items, so these must be those of the array
        blosc = c.BloscCodec(
            cname=draw(st.sampled_from(["blosclz", "lz4", "lz4hc", "zlib", "zstd"])),
            shuffle=draw(st.sampled_from(["noshuffle", "shuffle", "bitshuffle"])),
            typesize=dtype.itemsize,
        )
        out["compressors"].insert(0, blosc)
    out["filters"] = []
    if len(shape) > 1 and draw(st.booleans()):
        order = tuple(draw(st.permutations(range(len(shape)))))
        out["filters"] = [c.TransposeCodec(order=order)]
    if dtype.itemsize > 1:
        out["serializer"] = c.BytesCodec(endian=draw(st.sampled_from(["little", "big"])))
    separator = draw(st.sampled_from("./"))
    out["chunk_key_encoding"] = {"name": "default", "separator": separator}
    return out


@given(arguments(), st.integers(0, 2**32), st.data())
def test_they_take_turns(kwargs, seed, data):
    with tempfile.TemporaryDirectory() as folder, zarr.config.set(STRICT):
        creator = data.draw(st.sampled_from([zarr_gpu, zarr]), label="creates")
        creator.create_array(folder, **kwargs)

        def theirs():
            array = zarr.open_array(folder, mode="r+")
            assert type(array.async_array.codec_pipeline).__module__.startswith("zarrs")
            return array

        take_turns(folder, [theirs], seed, data, steps=False)
