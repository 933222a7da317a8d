import lzma

import numcodecs
import pytest

from tests.codecs.checks import (
    FIELD,
    check_bounded,
    check_config,
    check_mutants,
    check_numcodecs,
    check_round_trip,
    check_truncation,
    check_wrong_sizes,
    each_sample,
)
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.lzma import LZMACodec
from zarr_gpu.errors import CodecError

RAW = [{"id": lzma.FILTER_DELTA, "dist": 4}, {"id": lzma.FILTER_LZMA2, "preset": 1}]
CONFIGS = [
    {"preset": 1},
    {"format": lzma.FORMAT_ALONE, "preset": 0},
    {"check": lzma.CHECK_SHA256, "preset": 0},
    {"format": lzma.FORMAT_RAW, "filters": RAW},
]


@each_sample
@pytest.mark.parametrize("config", CONFIGS)
def test_same_as_numcodecs(data, config):
    check_round_trip(LZMACodec(**config), data)
    check_numcodecs(LZMACodec(**config), numcodecs.LZMA(**config), data)


def test_xz_with_filters_is_read_though_numcodecs_cannot():
    check_round_trip(LZMACodec(filters=RAW), FIELD)


@pytest.mark.parametrize("config", CONFIGS)
def test_bad_streams_are_refused(config):
    codec = LZMACodec(**config)
    encoded = codec.encode(FIELD[:2000])
    check_wrong_sizes(codec, encoded, 2000)
    check_truncation(codec, encoded, 2000)
    # Only xz has a checksum; another order of the bytes in a raw stream is a stream too.
    assert check_mutants(codec, encoded, 2000, 100) > 100


def test_bomb_stays_bounded():
    # The decoder itself needs its dictionary, here 256 KiB.
    check_bounded(LZMACodec(preset=0), lzma.compress(bytes(64 << 20), preset=0), Size(12_000))


def test_dictionaries_are_limited():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20, "mode": lzma.MODE_FAST}]
    filters[0].update(mf=lzma.MF_HC3, nice_len=8, depth=1)
    header = bytearray(lzma.compress(b"abc", lzma.FORMAT_ALONE, preset=0))
    header[1:5] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(CodecError, match="Memory usage limit"):
        LZMACodec(lzma.FORMAT_ALONE).decode(header, Size(3))
    with pytest.raises(ValueError, match=r"filters\[0\].dict_size"):
        LZMACodec(lzma.FORMAT_RAW, filters=filters)


def test_configuration():
    check_config(LZMACodec(preset=3))
    check_config(LZMACodec(preset=3 | lzma.PRESET_EXTREME))
    check_config(LZMACodec(lzma.FORMAT_RAW, filters=RAW))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("format", 4),
        ("check", 2),
        ("preset", 10),
        ("preset", "x"),
        ("filters", 3),
        ("filters", [{"id": "x"}]),
        ("filters", [{"id": 99}]),
        ("filters", [{}]),
        ("filters", []),
    ],
)
def test_impossible_members_are_refused(member, value):
    with pytest.raises(ValueError, match=member):
        LZMACodec.from_config({member: value})


def test_raw_streams_need_filters_and_filters_exclude_a_preset():
    with pytest.raises(ValueError, match="filters"):
        LZMACodec(lzma.FORMAT_RAW)
    with pytest.raises(ValueError, match="preset"):
        LZMACodec(preset=1, filters=RAW)
