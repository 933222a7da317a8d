import builtins

import numcodecs
import numpy as np
import pytest

from tests.codecs.array_codecs import check_only_codec_errors, mutants, round_trip, spec_of
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.registry import from_v2
from zarr_gpu.codecs.zfp import ZfpCodec, ZfpyCodec
from zarr_gpu.errors import CodecError, MissingDependencyError

zfpy = pytest.importorskip("zfpy")

TYPES = ["int32", "int64", "float32", "float64"]
SHAPES = [(), (1,), (9,), (5, 6), (3, 4, 5), (2, 3, 4, 5)]
MODES = [
    {"mode": "reversible"},
    {"mode": "fixed_accuracy", "tolerance": 0.01},
    {"mode": "fixed_rate", "rate": 24.0},
    {"mode": "fixed_precision", "precision": 30},
]


def waves(spec):
    n = np.arange(spec.size).reshape(spec.shape)
    return (1000 * np.sin(n)).astype(spec.dtype)


@pytest.mark.parametrize("config", MODES, ids=lambda c: c["mode"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_values_survive_as_far_as_the_mode_promises(dtype, shape, config):
    if config["mode"] == "fixed_accuracy" and dtype.startswith("int"):
        with pytest.raises(ValueError, match="fixed_accuracy"):
            ZfpCodec.from_config(config).bind(spec_of(dtype, shape))
        return
    spec = spec_of(dtype, shape)
    array = waves(spec)
    codec = ZfpCodec.from_config(config)
    back = round_trip(codec, array, spec)
    if config["mode"] == "reversible":
        assert back.tobytes() == array.tobytes()
    elif config["mode"] == "fixed_accuracy":
        assert abs(back - array).max() <= 0.01
    assert codec.to_config() == config


def test_streams_have_no_header():
    spec = spec_of("float32", (6, 7))
    array = waves(spec)
    raw = zfpy.compress_numpy(array, tolerance=0.01, write_header=False)
    codec = ZfpCodec("fixed_accuracy", 0.01)
    assert codec.encode(np.asfortranarray(array).astype(">f4"), spec) == raw
    assert codec.decode(raw, spec).tolist() == array_of(raw, array).tolist()


def array_of(raw, like):
    kind = zfpy.dtype_to_ztype(like.dtype)
    return zfpy._decompress(raw, kind, like.shape, tolerance=0.01)


@pytest.mark.parametrize("mode", [{"mode": 4, "tolerance": 0.1}, {"mode": 2, "rate": 16}])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_streams_with_a_header_are_those_of_numcodecs(mode, shape):
    spec = spec_of("float64", shape)
    array = waves(spec)
    reference = numcodecs.get_codec({"id": "zfpy", **mode})
    codec = ZfpyCodec.from_config({**mode, "compression_kwargs": {"tolerance": 0.1}}).bind(spec)
    data = codec.encode(array, spec)
    assert data == reference.encode(array)
    assert codec.encoded_size(spec).check(len(data))
    assert codec.decode(data, spec).tobytes() == reference.decode(data).tobytes()


def test_a_format_2_compressor_works_on_bytes():
    spec = spec_of("float64", (6, 5))
    array = waves(spec)
    config = numcodecs.get_codec({"id": "zfpy", "mode": 4, "tolerance": 0.1}).get_config()
    codec = from_v2(config).bind(spec)
    data = codec.encode(array.tobytes())
    expected = numcodecs.get_codec(config).decode(data)
    assert bytes(codec.decode(data, Size(array.nbytes))) == expected.tobytes()


@pytest.mark.parametrize(("dtype", "shape"), [("float64", (5, 6)), ("float32", (6, 5))])
def test_headers_must_agree_with_the_metadata(dtype, shape):
    spec = spec_of("float64", (6, 5))
    data = ZfpyCodec.from_config({"tolerance": 0.1}).encode(waves(spec), spec)
    with pytest.raises(CodecError, match=r"wrong (shape|type)"):
        ZfpyCodec().decode(data, spec_of(dtype, shape))


def test_headers_cannot_ask_for_impossible_rates():
    spec = spec_of("float32", (8,))
    data = zfpy.compress_numpy(np.zeros(8, "f4"), rate=2000, write_header=True)
    with pytest.raises(CodecError, match=r"rate|long"):
        ZfpyCodec().decode(data[:64], spec)


@pytest.mark.parametrize(
    "codec", [ZfpCodec(), ZfpCodec("fixed_rate", 9.0), ZfpyCodec({"mode": 4, "tolerance": 0.1})]
)
def test_damaged_data_only_raises_codec_errors(codec):
    spec = spec_of("float32", (9, 7))
    check_only_codec_errors(codec, codec.encode(waves(spec), spec), spec)


def test_the_ends_of_short_streams_are_zeros():
    spec = spec_of("float64", (4, 4, 4))
    codec = ZfpCodec()
    data = codec.encode(waves(spec), spec)[:-64]
    first = codec.decode(data, spec).tobytes()
    assert all(codec.decode(data, spec).tobytes() == first for _ in range(5))


def test_streams_that_no_encoder_writes_are_too_long():
    spec = spec_of("float64", (4,))
    with pytest.raises(CodecError, match="too long"):
        ZfpCodec().decode(bytes(10_000), spec)
    damaged = next(iter(mutants(b"\0" * 10_000)))
    assert len(ZfpCodec().decode(damaged, spec)) == 4


@pytest.mark.parametrize(
    ("config", "member"),
    [
        ({}, "mode"),
        ({"mode": "fast"}, "mode"),
        ({"mode": "expert", "minbits": 1}, "expert"),
        ({"mode": "fixed_rate"}, "rate"),
        ({"mode": "fixed_rate", "rate": 0}, "rate"),
        ({"mode": "fixed_accuracy", "tolerance": -1}, "tolerance"),
        ({"mode": "fixed_precision", "precision": 65}, "precision"),
        ({"mode": "reversible", "rate": 3}, "rate"),
    ],
)
def test_wrong_configuration_is_named(config, member):
    with pytest.raises(ValueError, match=member):
        ZfpCodec.from_config(config)


def test_bind_refuses_other_types_and_five_dimensions():
    with pytest.raises(ValueError, match="int8"):
        ZfpCodec().bind(spec_of("int8", (1,)))
    with pytest.raises(ValueError, match="at most 4"):
        ZfpyCodec().bind(spec_of("float32", (1, 1, 1, 1, 1)))


def test_the_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "zfpy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="'zfpy'"):
        ZfpCodec().decode(b"", spec_of("float32", (1,)))
