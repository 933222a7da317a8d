"""Damaged streams: kernels, plain decoders and the libraries agree on every one of them.

``ZG_LZ_FUZZ`` (200000) streams are tried by the slow test, ``ZG_LZ_SEED`` (0) says
which.
"""

import os
import random
import struct

import pytest
from numcodecs import blosc
from numcodecs import lz4 as liblz4

from tests.codecs.checks import FIELD
from tests.kernels import lz_reference as ref
from tests.kernels.build import examples
from zarr_gpu.codecs.snappy import decompress_into
from zarr_gpu.errors import CodecError

each_codec = pytest.mark.parametrize("codec", ref.CODECS)
BATCH = 96
CI_STREAMS = 2_000
SLOW_STREAMS = int(os.environ.get("ZG_LZ_FUZZ", "200000"))
SEED = int(os.environ.get("ZG_LZ_SEED", "0"))


def encoded(codec, data):
    if codec == "lz4":
        return liblz4.compress(data)[4:]
    if codec == "snappy":
        return bytes(pytest.importorskip("cramjam").snappy.compress_raw(data))
    packed = blosc.compress(data + bytes(200), b"blosclz", 9, shuffle=0, blocksize=0, typesize=1)
    return packed[24:]  # header, offset of the block, size of the stream


def streams(codec, rng, n):
    """Damaged in small ways, so that most of a stream is looked at; a few are plain noise."""
    for _ in range(n):
        kind = rng.random()
        if kind < 0.6:
            stream, data = ref.random_stream(codec, rng, rng.choice((10, 60, 200, 700)))
            nbytes = len(data)
        elif kind < 0.9:
            at, n = rng.randrange(4_000), rng.randint(10, 400)
            data = FIELD[at : at + n] + bytes(rng.randint(0, 90)) + FIELD[at + n // 2 : at + n]
            stream = encoded(codec, data)
            nbytes = len(data) + 200 * (codec == "blosclz")
        else:
            stream = rng.randbytes(rng.randint(0, 60))
            nbytes = rng.choice((0, 5, 100, 600))
            if codec == "snappy" and nbytes:
                stream = bytes([nbytes % 128 | 128, nbytes >> 7]) + stream
        yield ref.mutant(rng, stream, nbytes)


def fuzz(codec, seed, n):
    rng = random.Random(f"{codec} {seed}")
    counts = dict.fromkeys((ref.OK, ref.CORRUPT, ref.WRONG_SIZE), 0)
    for start in range(0, n, BATCH):
        batch = list(streams(codec, rng, min(BATCH, n - start)))
        how = {"schedule": rng.choice((*ref.SCHEDULES, rng.randrange(2**31))), "seed": rng.random()}
        for status in ref.check_decoder(codec, *zip(*batch, strict=True), **how):
            counts[status] += 1
    assert min(counts.values()) >= n // 50, counts


@each_codec
def test_kernels_agree_with_the_reference(codec):
    fuzz(codec, "ci", examples(CI_STREAMS // 3))


@pytest.mark.slow
@each_codec
def test_kernels_agree_with_the_reference_at_length(codec):
    fuzz(codec, SEED, SLOW_STREAMS // 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "start"), [("lz4", b"\x1fa\x01\x00"), ("blosclz", b"\x00a\xe0")], ids=ref.CODECS[:2]
)
def test_lengths_beyond_32_bits_do_not_wrap(codec, start):
    """2**32 is 16,843,009 times 255, and one."""
    stream = start + b"\xff" * 16_843_009 + b"\x03\x00\x50bcdef"
    assert ref.check_decoder(codec, [stream], [40]) == [ref.WRONG_SIZE]


# -- the reference itself -------------------------------------------------------------------------


def library_lz4(stream, nbytes):
    try:
        return liblz4.decompress(struct.pack("<I", nbytes) + stream)
    except (RuntimeError, ValueError):
        return None


def library_blosclz(stream, nbytes):
    """A container of one block that is one stream."""
    cbytes = 24 + len(stream)
    dont_split = 0x10
    header = struct.pack("<BBBBiiiii", 2, 1, dont_split, 1, nbytes, nbytes, cbytes, 20, len(stream))
    try:
        return blosc.decompress(header + stream)
    except (RuntimeError, ValueError):
        return None


def library_snappy(stream, nbytes):
    out = bytearray(nbytes)
    try:
        decompress_into(memoryview(stream), memoryview(out))
    except CodecError:
        return None
    return bytes(out)


LIBRARIES = {"lz4": library_lz4, "blosclz": library_blosclz, "snappy": library_snappy}


def check_against_library(codec, stream, nbytes):
    """True when the stream was accepted."""
    expected = LIBRARIES[codec](stream, nbytes)
    try:
        out = bytearray()
        status = ref.DECODERS[codec](stream, nbytes, out)
    except IndexError:
        status = ref.CORRUPT
    except ref.ZeroOffset:
        return False
    if codec != "blosclz":
        # liblz4 wants the last bytes of a block to be literals; cramjam wants four bytes behind the
        # tag of a literal whose length is written apart. Their encoders never do otherwise.
        assert expected is None or status == ref.OK, (stream.hex(), nbytes)
    else:
        assert (expected is not None) == (status == ref.OK), (codec, stream.hex(), nbytes)
    if expected is not None:
        assert expected == bytes(out), (codec, stream.hex(), nbytes)
    return expected is not None


def compare(codec, seed, n):
    rng = random.Random(f"library {codec} {seed}")
    accepted = 0
    for stream, nbytes in streams(codec, rng, n):
        # Nothing, and what is as long as its result, does not reach the decoder of a container.
        if nbytes and stream and len(stream) != nbytes:
            accepted += check_against_library(codec, stream, nbytes)
    assert accepted > n // 20


@each_codec
def test_the_reference_agrees_with_the_libraries(codec):
    compare(codec, "ci", 3_000)


@pytest.mark.slow
@each_codec
def test_the_reference_agrees_with_the_libraries_at_length(codec):
    compare(codec, SEED, SLOW_STREAMS)
