import random
import sys

import numcodecs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import checksum32

from tests.codecs.checks import (
    FIELD,
    check_config,
    check_mutants,
    check_numcodecs,
    check_round_trip,
    check_truncation,
    check_wrong_sizes,
    each_sample,
)
from zarr_gpu.codecs import _crc32c, checksums
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.checksums import (
    Adler32Codec,
    Crc32cCodec,
    Crc32Codec,
    Fletcher32Codec,
    JenkinsLookup3Codec,
)
from zarr_gpu.errors import ChecksumMismatchError, CodecError

CODECS = [
    Crc32cCodec(),
    Crc32cCodec("start"),
    Crc32Codec(),
    Crc32Codec("end"),
    Adler32Codec(),
    Adler32Codec("end"),
    Fletcher32Codec(),
    JenkinsLookup3Codec(),
    JenkinsLookup3Codec(initval=7, prefix=b"abc"),
]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=repr)


@each_codec
@each_sample
def test_round_trip(codec, data):
    check_round_trip(codec, data)
    encoded = codec.encode(data)
    assert codec.encoded_size(Size(len(data))) == Size(len(encoded))


PAIRS = [
    (Crc32Codec(), numcodecs.CRC32()),
    (Adler32Codec(), numcodecs.Adler32()),
    (Fletcher32Codec(), numcodecs.Fletcher32()),
    (JenkinsLookup3Codec(initval=5), numcodecs.JenkinsLookup3(5)),
]


@each_sample
@pytest.mark.parametrize(("codec", "numcodec"), PAIRS, ids=lambda c: type(c).__name__)
def test_same_as_numcodecs(codec, numcodec, data):
    if data or not isinstance(codec, Fletcher32Codec):  # numcodecs fails on it
        check_numcodecs(codec, numcodec, data)


@pytest.mark.parametrize("location", ["start", "end"])
def test_location_is_that_of_numcodecs(location):
    for codec, numcodec in ((Crc32Codec, numcodecs.CRC32), (Adler32Codec, numcodecs.Adler32)):
        assert bytes(codec(location).encode(FIELD)) == bytes(numcodec(location).encode(FIELD))
    if not hasattr(checksum32, "CRC32C"):
        pytest.skip("numcodecs finds no CRC-32C")
    theirs = checksum32.CRC32C(location).encode(FIELD)
    assert bytes(Crc32cCodec(location).encode(FIELD)) == bytes(theirs)


def test_prefix_is_hashed_as_by_numcodecs():
    theirs = numcodecs.JenkinsLookup3(3, b"abc").encode(FIELD)
    assert JenkinsLookup3Codec(initval=3, prefix=b"abc").encode(FIELD) == theirs


@each_codec
def test_damage_is_named_in_hexadecimal(codec):
    encoded = bytearray(codec.encode(FIELD))
    encoded[100] ^= 4
    with pytest.raises(ChecksumMismatchError, match=r"expected 0x[0-9a-f]{8}, found 0x") as caught:
        codec.decode(encoded, Size(len(FIELD)))
    assert caught.value.codec == codec.name


@each_codec
def test_bad_streams_are_refused(codec):
    encoded = codec.encode(FIELD[:900])
    check_wrong_sizes(codec, encoded, 900)
    check_truncation(codec, encoded, 900)
    check_mutants(codec, encoded, 900)
    with pytest.raises(CodecError, match="cut short"):
        codec.decode(b"abc", Size(0))


@each_codec
def test_payload_is_not_copied(codec):
    encoded = codec.encode(FIELD)
    assert codec.decode(encoded, Size(len(FIELD))).obj is encoded


CHECK = b"123456789"


@pytest.mark.parametrize(
    ("codec", "value"), [(Crc32cCodec(), 0xE3069283), (Crc32Codec(), 0xCBF43926)], ids=repr
)
def test_check_values_of_the_published_catalogue(codec, value):
    assert codec.checksum(CHECK) == value


# -- CRC-32C without a compiled library -----------------------------------------------------------


def bitwise(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@given(st.binary(max_size=300))
def test_numpy_crc32c_is_the_definition(data):
    assert _crc32c.crc32c(data) == bitwise(data)


def test_numpy_crc32c_of_long_buffers():
    compiled = pytest.importorskip("google_crc32c").value
    rng = random.Random(0)
    lengths = [32767, 32768, 32769, 65536, 1 << 20, *(rng.randrange(200_000) for _ in range(20))]
    for n in lengths:
        data = rng.randbytes(n)
        assert _crc32c.crc32c(data) == compiled(data)
        assert _crc32c.crc32c(memoryview(data)[1:]) == compiled(data[1:])


@pytest.mark.parametrize("missing", [[], ["google_crc32c"], ["google_crc32c", "crc32c"]])
def test_any_installation_has_a_crc32c(monkeypatch, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    value = checksums.crc32c_function.__wrapped__()
    assert value(CHECK) == value(memoryview(bytearray(CHECK))) == 0xE3069283
    assert (value is _crc32c.crc32c) == (len(missing) == 2)


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [c for c in CODECS if c != Crc32cCodec("start")], ids=repr)
def test_configuration(codec):
    check_config(codec)
    assert type(codec).from_numcodecs({"id": "x", **codec.to_numcodecs()}) == codec


def test_names_in_documents():
    assert Crc32cCodec().to_dict() == {"name": "crc32c"}
    assert Crc32cCodec("start").to_dict() == {
        "name": "numcodecs.crc32c",
        "configuration": {"location": "start"},
    }
    # zarr-python refuses this one without the member
    assert Crc32Codec().to_dict() == {"name": "numcodecs.crc32", "configuration": {}}
    with pytest.raises(ValueError, match="location"):
        Crc32cCodec.from_config({"location": "end"})


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (Crc32Codec, {"location": "middle"}),
        (Fletcher32Codec, {"location": "end"}),
        (JenkinsLookup3Codec, {"initval": -1}),
        (JenkinsLookup3Codec, {"prefix": [256]}),
        (JenkinsLookup3Codec, {"prefix": "abc"}),
        (JenkinsLookup3Codec, {"prefix": {}}),
    ],
)
def test_impossible_members_are_refused(cls, config):
    with pytest.raises(ValueError, match=next(iter(config))):
        cls.from_numcodecs(config)
