import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import check_only_codec_errors, random_array, round_trip, spec_of
from zarr_gpu.codecs.n5_default import N5DefaultCodec
from zarr_gpu.errors import CodecError


def config(ndim, *compressor, endian="big"):
    return {
        "codecs": [
            {"name": "transpose", "configuration": {"order": list(range(ndim))[::-1]}},
            {"name": "bytes", "configuration": {"endian": endian}},
            *compressor,
        ]
    }


GZIP = {"name": "gzip", "configuration": {"level": 1}}


@given(st.lists(st.integers(1, 4), max_size=4), st.booleans())
def test_chunks_survive(shape, compressed):
    spec = spec_of("uint16", shape)
    codec = N5DefaultCodec.from_config(config(len(shape), *([GZIP] if compressed else [])))
    array = random_array(spec)
    assert round_trip(codec, array, spec).tolist() == array.tolist()


def test_blocks_are_those_of_n5():
    spec = spec_of("int16", (2, 3))
    array = np.arange(6, dtype="i2").reshape(2, 3)
    data = N5DefaultCodec.from_config(config(2)).encode(array, spec)
    # Mode 0, two dimensions, fastest one first; the last index of N5 is the slowest.
    assert bytes(data) == struct.pack(">HHII", 0, 2, 3, 2)[:12] + array.T.astype(">i2").tobytes()


def test_truncated_blocks_are_filled_up():
    spec = spec_of("uint8", (3, 4), fill=9)
    codec = N5DefaultCodec.from_config(config(2, GZIP)).bind(spec)
    part = np.arange(6, dtype="u1").reshape(2, 3)
    data = struct.pack(">HHII", 0, 2, 3, 2) + gzip.compress(part.T.tobytes())
    back = codec.decode(data, spec)
    assert back[:2, :3].tolist() == part.tolist()
    assert (back[2:] == 9).all()
    assert (back[:, 3:] == 9).all()


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">HHII", 1, 2, 2, 2),
        struct.pack(">HHII", 0, 3, 2, 2),
        struct.pack(">HHII", 0, 2, 2**32 - 1, 2**32 - 1),
        struct.pack(">HHII", 0, 2, 2, 3),
        b"\0\0\0\2",
    ],
)
def test_headers_are_compared_with_the_chunk(header):
    codec = N5DefaultCodec.from_config(config(2))
    with pytest.raises(CodecError):
        codec.decode(header + bytes(4), spec_of("uint8", (2, 2)))


def test_blocks_larger_than_the_chunk_are_refused_before_decompression():
    codec = N5DefaultCodec.from_config(config(2, GZIP))
    data = struct.pack(">HHII", 0, 2, 3, 3) + gzip.compress(bytes(9))
    with pytest.raises(CodecError, match="block too large"):
        codec.decode(data, spec_of("uint8", (2, 2)))


@pytest.mark.parametrize("compressor", [[], [GZIP]])
def test_damaged_data_only_raises_codec_errors(compressor):
    spec = spec_of("int32", (3, 4))
    codec = N5DefaultCodec.from_config(config(2, *compressor))
    check_only_codec_errors(codec, codec.encode(random_array(spec), spec), spec)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"codecs": "bytes"},
        {"codecs": [{"name": "bytes"}]},
        {"codecs": [*config(2)["codecs"], GZIP, GZIP]},
        {"codecs": [*config(2)["codecs"]], "shape": [1]},
    ],
)
def test_wrong_configuration_is_named(bad):
    with pytest.raises(ValueError, match=r"codecs|shape"):
        N5DefaultCodec.from_config(bad)


@pytest.mark.parametrize(
    "bad",
    [
        config(2, endian="little"),
        config(1),
        {"codecs": [{"name": "transpose", "configuration": {"order": [0, 1]}}, {"name": "bytes"}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, GZIP]},
        {"codecs": [config(2)["codecs"][0], {"name": "packbits"}]},
        {"codecs": config(2)["codecs"][::-1]},
    ],
)
def test_bind_refuses_what_n5_cannot_read(bad):
    with pytest.raises(ValueError, match=r"codecs|order"):
        N5DefaultCodec.from_config(bad).bind(spec_of("int16", (2, 3)))


def test_documents_are_written_as_read():
    assert N5DefaultCodec.from_config(config(2, GZIP)).to_config() == config(2, GZIP)
