import numcodecs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import spec_of
from tests.codecs.checks import (
    check_config,
    check_numcodecs,
    check_round_trip,
    check_wrong_sizes,
)
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.shuffle import ShuffleCodec
from zarr_gpu.errors import CodecError


@given(st.integers(1, 20), st.integers(0, 40), st.randoms())
def test_same_as_numcodecs(elementsize, n, random):
    data = random.randbytes(elementsize * n)
    check_round_trip(ShuffleCodec(elementsize), data)
    check_numcodecs(ShuffleCodec(elementsize), numcodecs.Shuffle(elementsize), data)


def test_planes_of_bytes():
    assert bytes(ShuffleCodec(3).encode(b"aA1bB2")) == b"abAB12"


def test_elements_of_one_byte_are_not_copied():
    data = b"abc"
    assert ShuffleCodec(1).encode(data) is data
    assert ShuffleCodec(1).decode(data, Size(3)) is data


def test_wrong_sizes_are_refused():
    check_wrong_sizes(ShuffleCodec(4), bytes(16), 16)
    for call in (lambda c: c.encode(bytes(7)), lambda c: c.decode(bytes(7), Size(7))):
        with pytest.raises(CodecError, match="a multiple of 4 bytes, found 7 bytes"):
            call(ShuffleCodec(4))


@pytest.mark.parametrize("config", [{}, {"elementsize": 0}, {"elementsize": "0"}])
def test_size_left_open_is_that_of_the_data_type(config):
    codec = ShuffleCodec.from_numcodecs({"id": "shuffle", **config})
    assert codec.bind(spec_of("float64", (3,))).elementsize == 8
    assert ShuffleCodec(4).bind(spec_of("float64", (3,))).elementsize == 4


def test_configuration():
    check_config(ShuffleCodec(8))
    assert ShuffleCodec.from_numcodecs({"id": "shuffle", "elementsize": "2"}) == ShuffleCodec(2)
    with pytest.raises(ValueError, match="elementsize"):
        ShuffleCodec(-1)
