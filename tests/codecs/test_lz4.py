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
from zarr_gpu.codecs.lz4 import LZ4Codec
from zarr_gpu.errors import CodecError

__all__ = ["library"]
pytestmark = pytest.mark.usefixtures("library")


@each_sample
@pytest.mark.parametrize("acceleration", [-1, 1, 50])
def test_same_as_numcodecs(data, acceleration):
    check_round_trip(LZ4Codec(acceleration), data)
    check_numcodecs(LZ4Codec(acceleration), numcodecs.LZ4(acceleration), data)


def test_bad_streams_are_refused():
    encoded = LZ4Codec().encode(FIELD[:2000])
    check_wrong_sizes(LZ4Codec(), encoded, 2000)
    check_truncation(LZ4Codec(), encoded, 2000)
    assert check_mutants(LZ4Codec(), encoded, 2000) > 250


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("claimed", [2**31 - 1, 2**31, 2**32 - 1])
def test_claimed_sizes_are_not_allocated(claimed, exact):
    encoded = claimed.to_bytes(4, "little") + bytes(LZ4Codec().encode(bytes(12_000)))[4:]
    check_bounded(LZ4Codec(), encoded, Size(12_000, exact))


def test_empty_chunks_are_read_with_and_without_a_token():
    assert LZ4Codec().decode(bytes(4), Size(0)) == b""
    assert LZ4Codec().decode(bytes(5), Size(0)) == b""
    with pytest.raises(CodecError, match="size 0"):
        LZ4Codec().decode(bytes(6), Size(0))


def test_configuration():
    check_config(LZ4Codec(7))
    assert LZ4Codec.from_numcodecs({"id": "lz4"}) == LZ4Codec(1)
    with pytest.raises(ValueError, match="acceleration"):
        LZ4Codec.from_config({"acceleration": 2**31})
