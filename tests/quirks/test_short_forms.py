"""Documents of format 3 that say less, or more, than usual."""

import bz2
import json
import zlib

import numpy as np
import pytest

import zarr_gpu
from tests.quirks.stored import LITTLE, crc32c, lz4, sharding, shuffled, v3, vlen, zstd
from zarr_gpu.errors import MetadataError, UnknownCodecError

NUMBERS = np.array([1, 700, -5, 123456], "<i4")
RAW = NUMBERS.tobytes()


def read(document, chunk, key="c/0"):
    return zarr_gpu.open_array({"zarr.json": document, key: chunk}, mode="r")[...].tolist()


def numbers(codecs, **members):
    return v3((4,), (4,), "int32", codecs, **members)


def test_crc32c_of_the_helper_is_that_of_rfc_3720():
    assert crc32c(b"123456789") == (0xE3069283).to_bytes(4, "little")


@pytest.mark.parametrize(
    "codecs",
    [
        ["bytes"],
        [{"name": "bytes"}],
        [{"name": "bytes", "configuration": {}}],
        [{"name": "bytes", "configuration": {"endian": "little"}}],
        [{"name": "bytes", "configuration": {"endian": "big"}}],
    ],
)
def test_bytes_of_one_byte_types_need_no_endianness(codecs):
    assert read(v3((4,), (4,), "uint8", codecs), b"\x01\x02\x03\xff") == [1, 2, 3, 255]


def test_codecs_by_bare_name():
    stored = v3((4,), (4,), "uint8", ["bytes", "crc32c"])
    assert read(stored, b"\x01\x02\x03\x04" + crc32c(b"\x01\x02\x03\x04")) == [1, 2, 3, 4]


def test_vlen_codec_without_configuration():
    stored = v3((2,), (2,), "string", ["vlen-utf8", "zstd"], fill_value="")
    assert read(stored, zstd(vlen([b"a", b"bc"]))) == ["a", "bc"]


def test_former_name_of_bytes():
    codec = {"name": "endian", "configuration": {"endian": "big"}}
    assert read(numbers([codec]), NUMBERS.astype(">i4").tobytes()) == NUMBERS.tolist()


@pytest.mark.parametrize(
    "encoding, key",
    [
        ("default", "c/1/0"),
        ({"name": "default"}, "c/1/0"),
        ({"name": "default", "configuration": {}}, "c/1/0"),
        ({"name": "default", "configuration": {"separator": "."}}, "c.1.0"),
        ("v2", "1.0"),
        ({"name": "v2"}, "1.0"),
        ({"name": "v2", "configuration": {"separator": "/"}}, "1/0"),
    ],
)
def test_chunk_key_encoding_without_configuration(encoding, key):
    document = v3((2, 2), (1, 2), "uint8", ["bytes"], chunk_key_encoding=encoding)
    assert read(document, b"\x07\x08", key) == [[0, 0], [7, 8]]


def test_data_type_as_an_object():
    document = v3((4,), (4,), {"name": "int32"}, [LITTLE])
    assert read(document, RAW) == NUMBERS.tolist()


def test_attributes_and_storage_transformers_may_be_missing_or_empty():
    assert read(numbers([LITTLE], attributes=...), RAW) == NUMBERS.tolist()
    assert read(numbers([LITTLE], storage_transformers=[]), RAW) == NUMBERS.tolist()


def test_raw_bits():
    document = v3((2,), (2,), "r16", ["bytes"], fill_value=[1, 2])
    store = {"zarr.json": document}
    assert zarr_gpu.open_array(store)[...].tobytes() == b"\x01\x02\x01\x02"
    store["c/0"] = b"\x0a\x0b\x0c\x0d"
    assert zarr_gpu.open_array(store)[1].tobytes() == b"\x0c\x0d"


def test_packed_booleans():
    document = v3((10,), (10,), "bool", ["packbits"], fill_value=False)
    found = read(document, bytes([0b00000101, 0b10]))  # the first element is the lowest bit
    assert [i for i, bit in enumerate(found) if bit] == [0, 2, 9]


@pytest.mark.parametrize("where", ["first_byte", "last_byte"])
def test_packed_booleans_with_their_padding(where):
    codec = {"name": "packbits", "configuration": {"padding_encoding": where}}
    bits, padding = bytes([0b00000101, 0b10]), bytes([6])
    stored = padding + bits if where == "first_byte" else bits + padding
    found = read(v3((10,), (10,), "bool", [codec], fill_value=False), stored)
    assert [i for i, bit in enumerate(found) if bit] == [0, 2, 9]


def test_packed_four_bit_integers():
    pytest.importorskip("ml_dtypes")
    document = v3((4,), (4,), "int4", ["packbits"])
    store = {"zarr.json": document, "c/0": bytes([0x21, 0xF7])}
    assert zarr_gpu.open_array(store)[...].astype(int).tolist() == [1, 2, 7, -1]


@pytest.mark.parametrize("name", ["bitround", "numcodecs.bitround"])
def test_rounded_bits_read_as_they_are(name):
    values = np.array([1.5, -2.25, 1024, 0], "<f4")
    codec = {"name": name, "configuration": {"keepbits": 5}}
    document = v3((4,), (4,), "float32", [codec, LITTLE])
    assert read(document, values.tobytes()) == values.tolist()


def test_reshaped_chunks():
    reshape = {"name": "reshape", "configuration": {"shape": [[0, 1]]}}
    transpose = {"name": "transpose", "configuration": {"order": [1, 0]}}
    values = np.arange(6, dtype="<i2").reshape(2, 3)
    document = v3((2, 3), (2, 3), "int16", [transpose, reshape, LITTLE])
    assert read(document, values.T.tobytes(), "c/0/0") == values.tolist()


@pytest.mark.parametrize("prefix", ["numcodecs.", ""])
@pytest.mark.parametrize(
    "name, configuration, chunk",
    [
        ("zlib", {"level": 1}, zlib.compress(RAW)),
        ("bz2", {"level": 1}, bz2.compress(RAW)),
        ("shuffle", {"elementsize": 4}, shuffled(RAW, 4)),
        ("crc32", {}, zlib.crc32(RAW).to_bytes(4, "little") + RAW),
        ("adler32", {}, zlib.adler32(RAW).to_bytes(4, "little") + RAW),
    ],
)
def test_codecs_of_numcodecs(prefix, name, configuration, chunk):
    codec = {"name": prefix + name, "configuration": configuration}
    assert read(numbers([LITTLE, codec]), chunk) == NUMBERS.tolist()


def test_lz4_of_numcodecs_with_its_own_size():
    document = v3((3,), (3,), "int32", [LITTLE, {"name": "numcodecs.lz4", "configuration": {}}])
    assert read(document, lz4(RAW[:12])) == NUMBERS[:3].tolist()


def test_delta_of_numcodecs_works_on_elements():
    codec = {"name": "numcodecs.delta", "configuration": {"dtype": "<i4", "astype": "<i4"}}
    differences = np.diff(NUMBERS, prepend=0).astype(">i4").tobytes()
    big = {"name": "bytes", "configuration": {"endian": "big"}}
    assert read(numbers([codec, big]), differences) == NUMBERS.tolist()


UNKNOWN = {"name": "acme.watermark", "configuration": {"key": 1}}


def test_unknown_codec_is_refused():
    with pytest.raises(UnknownCodecError, match=r"acme\.watermark"):
        zarr_gpu.open_array({"zarr.json": numbers([LITTLE, UNKNOWN])}, mode="r")


def test_unknown_codec_that_need_not_be_understood_is_passed_over():
    document = numbers([LITTLE, {**UNKNOWN, "must_understand": False}])
    assert read(document, RAW) == NUMBERS.tolist()


def test_unknown_member_that_need_not_be_understood_is_kept():
    extra = {"must_understand": False, "note": [1, None]}
    store = {"zarr.json": numbers([LITTLE], acme=extra), "c/0": RAW}
    array = zarr_gpu.open_array(store, mode="r+")
    array.attrs["a"] = 1
    assert json.loads(store["zarr.json"])["acme"] == extra
    assert array[...].tolist() == NUMBERS.tolist()


def test_unknown_member_that_must_be_understood_is_refused():
    with pytest.raises(MetadataError, match="acme"):
        zarr_gpu.open_array({"zarr.json": numbers([LITTLE], acme={"note": 1})}, mode="r")


def test_sharding_without_optional_members():
    inner = sharding((2,), ["bytes"], index_codecs=[LITTLE, "crc32c"])
    del inner["configuration"]["index_location"]
    document = v3((4,), (4,), "uint8", [inner])
    index = (0).to_bytes(8, "little") + (2).to_bytes(8, "little") + b"\xff" * 16
    assert read(document, b"\x07\x08" + index + crc32c(index)) == [7, 8, 0, 0]


def test_grid_needs_its_chunk_shape():
    with pytest.raises(MetadataError, match="chunk_shape"):
        zarr_gpu.open_array({"zarr.json": numbers([LITTLE], chunk_grid="regular")}, mode="r")


@pytest.mark.parametrize("text, bits", [("NaN", 0x7FC00000), ("0x7fc00abc", 0x7FC00ABC)])
def test_payload_of_nan_fill_values(text, bits):
    array = zarr_gpu.open_array({"zarr.json": v3((2,), (2,), "float32", [LITTLE], fill_value=text)})
    assert array[...].view("u4").tolist() == [bits, bits]
