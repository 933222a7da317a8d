import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import pytest

from zarr_gpu.codecs import registry
from zarr_gpu.codecs.base import BytesBytesCodec, Codec, Size
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.objects import PickleCodec
from zarr_gpu.codecs.transpose import TransposeCodec
from zarr_gpu.codecs.vlen import VLenUTF8Codec
from zarr_gpu.errors import MetadataError, UnknownCodecError, UnsafeCodecError
from zarr_gpu.metadata.named import NamedConfig

# Every codec that zarr-python writes or the registry of extensions lists, with what it needs.
V3 = {
    "bytes": ({"endian": "little"}, "array_bytes"),
    "endian": ({"endian": "big"}, "array_bytes"),
    "transpose": ({"order": [0]}, "array_array"),
    "reshape": ({"shape": [-1]}, "array_array"),
    "bitround": ({"keepbits": 3}, "array_array"),
    "numcodecs.bitround": ({"keepbits": 3}, "array_array"),
    "packbits": ({}, "array_bytes"),
    "scale_offset": ({"scale": 2}, "array_array"),
    "cast_value": ({"data_type": "uint8"}, "array_array"),
    "zarrs.gdeflate": ({"level": 9}, "bytes_bytes"),
    "zfp": ({"mode": "reversible"}, "array_bytes"),
    "vlen-utf8": ({}, "array_bytes"),
    "vlen-bytes": ({}, "array_bytes"),
    "sharding_indexed": ({"chunk_shape": [1], "codecs": [{"name": "bytes"}]}, "array_bytes"),
    "gzip": ({"level": 5}, "bytes_bytes"),
    "zstd": ({"level": 0, "checksum": False}, "bytes_bytes"),
    "blosc": (
        {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0},
        "bytes_bytes",
    ),
    "crc32c": ({}, "bytes_bytes"),
    "numcodecs.blosc": (
        {"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}, "bytes_bytes"
    ),
    "numcodecs.lz4": ({"acceleration": 1}, "bytes_bytes"),
    "lz4": ({}, "bytes_bytes"),
    "numcodecs.zstd": ({"level": 3}, "bytes_bytes"),
    "numcodecs.zlib": ({"level": 3}, "bytes_bytes"),
    "zlib": ({"level": 1}, "bytes_bytes"),
    "numcodecs.gzip": ({"level": 3}, "bytes_bytes"),
    "numcodecs.bz2": ({"level": 3}, "bytes_bytes"),
    "bz2": ({}, "bytes_bytes"),
    "numcodecs.lzma": ({"format": 1, "check": -1, "preset": None, "filters": None}, "bytes_bytes"),
    "numcodecs.shuffle": ({"elementsize": 4}, "bytes_bytes"),
    "shuffle": ({"elementsize": 4}, "bytes_bytes"),
    "numcodecs.adler32": ({}, "bytes_bytes"),
    "numcodecs.crc32": ({}, "bytes_bytes"),
    "numcodecs.crc32c": ({}, "bytes_bytes"),
    "numcodecs.fletcher32": ({}, "bytes_bytes"),
    "numcodecs.jenkins_lookup3": ({}, "bytes_bytes"),
    "numcodecs.delta": ({"dtype": "<i4"}, "array_array"),
    "delta": ({"dtype": "<i4", "astype": "<i2"}, "array_array"),
    "numcodecs.fixedscaleoffset": ({"offset": 0, "scale": 10, "dtype": "<f4"}, "array_array"),
    "fixedscaleoffset": ({"offset": 0, "scale": 10, "dtype": "<f4"}, "array_array"),
    "numcodecs.quantize": ({"digits": 2, "dtype": "<f4"}, "array_array"),
    "numcodecs.packbits": ({}, "array_array"),
    "numcodecs.astype": ({"encode_dtype": "<i2", "decode_dtype": "<i4"}, "array_array"),
    "numcodecs.pcodec": ({"level": 8}, "array_bytes"),
    "numcodecs.zfpy": ({"mode": 4, "tolerance": 0.1}, "array_bytes"),
}  # fmt: skip

V2 = {
    "blosc": ({"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}, "bytes_bytes"),
    "zlib": ({"level": 1}, "bytes_bytes"),
    "gzip": ({"level": 1}, "bytes_bytes"),
    "zstd": ({"level": 1}, "bytes_bytes"),
    "lz4": ({"acceleration": 1}, "bytes_bytes"),
    "bz2": ({"level": 1}, "bytes_bytes"),
    "lzma": ({"format": 1}, "bytes_bytes"),
    "shuffle": ({"elementsize": 4}, "bytes_bytes"),
    "delta": ({"dtype": "<i4"}, "bytes_bytes"),
    "fixedscaleoffset": ({"offset": 0, "scale": 10, "dtype": "<f4"}, "bytes_bytes"),
    "quantize": ({"digits": 2, "dtype": "<f4"}, "bytes_bytes"),
    "bitround": ({"keepbits": 2}, "bytes_bytes"),
    "packbits": ({}, "bytes_bytes"),
    "astype": ({"encode_dtype": "<i2", "decode_dtype": "<i4"}, "bytes_bytes"),
    "base64": ({}, "bytes_bytes"),
    "crc32": ({}, "bytes_bytes"),
    "crc32c": ({}, "bytes_bytes"),
    "adler32": ({}, "bytes_bytes"),
    "fletcher32": ({}, "bytes_bytes"),
    "jenkins_lookup3": ({}, "bytes_bytes"),
    "pcodec": ({"level": 8}, "bytes_bytes"),
    "zfpy": ({"mode": 4, "tolerance": 0.1}, "bytes_bytes"),
    "vlen-utf8": ({}, "array_bytes"),
    "vlen-bytes": ({}, "array_bytes"),
    "vlen-array": ({"dtype": "<i4"}, "array_bytes"),
    "json2": ({}, "array_bytes"),
    "msgpack2": ({}, "array_bytes"),
    "pickle": ({}, "array_bytes"),
    "categorize": ({"labels": ["a"], "dtype": "|O", "astype": "|u1"}, "array_bytes"),
}


@pytest.mark.parametrize("name", V3)
def test_format_3_names_have_codecs_of_the_right_kind(name):
    config, kind = V3[name]
    assert registry.get_codec({"name": name, "configuration": config}).kind == kind


@pytest.mark.parametrize("identifier", V2)
def test_format_2_identifiers_have_codecs_of_the_right_kind(identifier):
    config, kind = V2[identifier]
    assert registry.from_v2({"id": identifier, **config}).kind == kind


@pytest.mark.parametrize("identifier", sorted(V2.keys() - {"pickle", "packbits", "bitround"}))
def test_every_numcodecs_codec_is_known_by_both_names_in_format_3(identifier):
    for name in (identifier, f"numcodecs.{identifier}"):
        config = V3.get(name, V2[identifier])[0]
        assert isinstance(registry.get_codec({"name": name, "configuration": config}), Codec)


@pytest.mark.parametrize("name", sorted(registry._NAMES))
def test_codecs_say_the_name_they_are_known_by(name):
    config = V3[name][0] if name in V3 else {"codecs": [_TRANSPOSE, {"name": "bytes"}]}
    codec = registry.get_codec({"name": name, "configuration": config})
    assert codec.to_dict()["name"] == name
    assert registry.get_codec(codec.to_dict()) == codec


_TRANSPOSE = {"name": "transpose", "configuration": {"order": [0]}}


def test_names_may_be_strings_documents_or_parsed():
    expected = BytesCodec.from_config({})
    for value in ("bytes", {"name": "bytes"}, NamedConfig("bytes")):
        assert registry.get_codec(value) == expected


@pytest.mark.parametrize(
    "name",
    [
        "bitround",
        "vlen-utf8",
        "delta",
        "numcodecs.quantize",
        "numcodecs.packbits",
        "pcodec",
        "zfpy",
    ],
)
def test_codecs_of_both_formats_say_their_format_2_document(name):
    config = V2[name.removeprefix("numcodecs.")][0]
    codec = registry.get_codec({"name": name, "configuration": config})
    assert codec.to_numcodecs() == {"id": name.removeprefix("numcodecs."), **config}


def test_unknown_names_suggest_known_ones():
    with pytest.raises(UnknownCodecError, match="'blosc'") as info:
        registry.get_codec({"name": "blosk"})
    assert info.value.problems[0].loc == ("name",)
    with pytest.raises(UnknownCodecError, match=r"numcodecs.delta"):
        registry.get_codec("numcodecs.deltas")
    with pytest.raises(UnknownCodecError, match="zlib"):
        registry.from_v2({"id": "zlibb"})


def test_unknown_names_say_who_has_them():
    with pytest.raises(UnknownCodecError, match="Rust crate 'zarrs'"):
        registry.get_codec("zarrs.vlen")
    with pytest.raises(UnknownCodecError, match="imagecodecs-numcodecs"):
        registry.from_v2({"id": "imagecodecs_jpeg2k"})


def test_wrong_configuration_names_codec_and_member():
    with pytest.raises(ValueError, match="'transpose': order: required"):
        registry.get_codec({"name": "transpose"})
    with pytest.raises(ValueError, match=r"'delta'.*dtype"):
        registry.from_v2({"id": "delta", "dtype": "|O"})
    with pytest.raises(ValueError, match="'quantize'"):
        registry.from_v2({"id": "quantize", "digits": 1, "dtype": "<f4", "size": 3})


@pytest.mark.parametrize("config", [{}, {"id": 3}, {"id": None}, {"id": ["zlib"]}])
def test_a_format_2_document_needs_an_identifier(config):
    with pytest.raises(MetadataError, match="id"):
        registry.from_v2(config)


@pytest.mark.parametrize("value", [{"configuration": {}}, {"name": ""}, {"name": "a", "b": 1}])
def test_malformed_documents_are_refused(value):
    with pytest.raises(MetadataError):
        registry.get_codec(value)


def test_pickle_needs_permission_that_documents_cannot_give():
    assert registry.from_v2({"id": "pickle"}) == PickleCodec(allow=False)
    assert registry.from_v2({"id": "pickle"}, allow_pickle=True) == PickleCodec(allow=True)
    assert registry.get_codec("numcodecs.pickle") == PickleCodec(allow=False)
    with pytest.raises(ValueError, match="allow"):
        registry.from_v2({"id": "pickle", "allow": True})


@pytest.mark.parametrize("config", [{"id": "pickle"}, {"id": "pickle", "protocol": 4}])
def test_the_wrapper_of_numcodecs_never_wraps_pickle(config):
    from zarr_gpu.codecs.numcodecs import NumcodecsCodec

    with pytest.raises(UnsafeCodecError):
        NumcodecsCodec.from_numcodecs(config)
    with pytest.raises(UnsafeCodecError):
        NumcodecsCodec(config).decode(b"cos\nsystem\n(S'true'\ntR.", Size(4))


@dataclass(frozen=True)
class NothingCodec(BytesBytesCodec):
    name: ClassVar[str] = "example.nothing"


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_registered_classes_are_found(clean_registry):
    assert registry.register(NothingCodec) is NothingCodec
    assert registry.get_codec("example.nothing") == NothingCodec()
    assert "example.nothing" in registry.known()


def test_entry_points_are_found(clean_registry, monkeypatch):
    entry = EntryPoint("example.nothing", f"{__name__}:NothingCodec", registry.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])

    def entry_points(**params):
        return EntryPoints([entry]).select(**params)

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: NothingCodec)
    assert "example.nothing" in registry.known()
    assert isinstance(registry.get_codec("example.nothing"), NothingCodec)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(EntryPoint, "load", lambda self: dict)
    with pytest.raises(TypeError, match="not a zarr_gpu codec"):
        registry.get_codec("example.nothing")


class FromNumcodecs:
    def get_config(self):
        return {"id": "zlib", "level": 3}


class FromZarr:
    def to_dict(self):
        return {"name": "transpose", "configuration": {"order": (1, 0)}}


class UndecidedFromZarr:
    _tunable_attrs = frozenset({"typesize"})

    def to_dict(self):
        return {
            "name": "blosc",
            "configuration": {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "shuffle"},
        }


def test_what_zarr_python_leaves_open_stays_open():
    codec = registry.codec_from_user(UndecidedFromZarr())
    assert codec.typesize is None and codec.shuffle == "shuffle"


def test_users_may_pass_codecs_in_many_forms():
    user = registry.codec_from_user
    assert user(VLenUTF8Codec()) == VLenUTF8Codec()
    assert user("vlen-utf8") == VLenUTF8Codec()
    assert user({"name": "vlen-utf8"}) == VLenUTF8Codec()
    assert user(FromZarr()) == TransposeCodec((1, 0))
    assert user(FromNumcodecs()) == {"id": "zlib", "level": 3}
    assert user({"id": "zlib"}) == {"id": "zlib"}


@pytest.mark.parametrize("value", [3, None, object(), FromZarr, ["bytes"]])
def test_users_are_told_what_is_no_codec(value):
    with pytest.raises(TypeError, match="expected a codec"):
        registry.codec_from_user(value)


def test_users_are_told_when_the_kind_is_wrong():
    assert registry.codec_from_user("bytes", "array_bytes").kind == "array_bytes"
    with pytest.raises(ValueError, match=r"array -> bytes.*'transpose' is array -> array"):
        registry.codec_from_user(FromZarr(), "array_bytes")


def test_known_names_are_sorted_and_can_be_found():
    known = registry.known()
    assert known == sorted(set(known))
    assert {"bytes", "endian", "numcodecs.zlib", "sharding_indexed"} <= set(known)


def test_importing_the_registry_imports_no_codec_library():
    code = (
        "import sys, zarr_gpu.codecs.registry as r; r.get_codec('bytes');"
        "bad = {'numcodecs', 'zarr', 'zfpy', 'pcodec', 'msgpack'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
