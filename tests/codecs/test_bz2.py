import bz2

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
from zarr_gpu.codecs.bz2 import BZ2Codec


@each_sample
@pytest.mark.parametrize("level", [1, 9])
def test_same_as_numcodecs(data, level):
    check_round_trip(BZ2Codec(level), data)
    check_numcodecs(BZ2Codec(level), numcodecs.BZ2(level), data)


def test_several_streams_are_one_chunk():
    data = bz2.compress(b"abc") + bz2.compress(b"") + bz2.compress(b"d")
    assert BZ2Codec().decode(data, Size(4)) == b"abcd"


def test_bad_streams_are_refused():
    encoded = BZ2Codec().encode(FIELD[:2000])
    check_wrong_sizes(BZ2Codec(), encoded, 2000)
    check_truncation(BZ2Codec(), encoded, 2000)
    assert check_mutants(BZ2Codec(), encoded, 2000) > 400


def test_bomb_stays_bounded():
    # The decoder itself works on blocks of 900 kB, with four bytes for each.
    check_bounded(BZ2Codec(), bz2.compress(bytes(20 << 20)), Size(12_000), 8 << 20)


def test_configuration():
    check_config(BZ2Codec(7))
    assert BZ2Codec.from_numcodecs({"id": "bz2", "level": "9"}) == BZ2Codec(9)
    for level in (0, 10):
        with pytest.raises(ValueError, match="level"):
            BZ2Codec.from_config({"level": level})
