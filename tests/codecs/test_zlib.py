import zlib

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
    library,
)
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.zlib import ZlibCodec
from zarr_gpu.errors import CodecError

__all__ = ["library"]
pytestmark = pytest.mark.usefixtures("library")


@each_sample
@pytest.mark.parametrize("level", [-1, 0, 1, 9])
def test_same_as_numcodecs(data, level, library):
    check_round_trip(ZlibCodec(level), data)
    # libdeflate, where it is installed, makes another stream of the same.
    identical = library == "numcodecs"
    check_numcodecs(ZlibCodec(level), numcodecs.Zlib(level), data, identical=identical)


def test_bad_streams_are_refused():
    codec = ZlibCodec()
    encoded = codec.encode(FIELD[:2000])
    check_wrong_sizes(codec, encoded, 2000)
    check_truncation(codec, encoded, 2000)
    assert check_mutants(codec, encoded, 2000) > 400
    with pytest.raises(CodecError, match="after the end"):
        codec.decode(encoded + encoded, Size(2000))


def test_bomb_stays_bounded():
    check_bounded(ZlibCodec(), zlib.compress(bytes(64 << 20)), Size(12_000))


def test_configuration():
    check_config(ZlibCodec(7))
    assert ZlibCodec(3).to_dict() == {"name": "numcodecs.zlib", "configuration": {"level": 3}}
    assert ZlibCodec.from_numcodecs({"id": "zlib", "level": "4"}) == ZlibCodec(4)  # netCDF-C
    with pytest.raises(ValueError, match="level"):
        ZlibCodec.from_numcodecs({"id": "zlib", "level": 10})
