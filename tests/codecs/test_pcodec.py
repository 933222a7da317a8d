import builtins
import contextlib

import numcodecs
import numpy as np
import pytest

from tests.codecs.array_codecs import check_only_codec_errors, mutants, round_trip, spec_of
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.pcodec import PcodecCodec
from zarr_gpu.codecs.registry import from_v2
from zarr_gpu.errors import CodecError, MissingDependencyError

pytest.importorskip("pcodec")

TYPES = ["int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_every_type_survives(dtype, kind):
    spec = spec_of(dtype, (30, 40))
    raw = np.random.default_rng(0).bytes(spec.nbytes)
    array = np.arange(1200).reshape(30, 40).astype(dtype)
    if kind == "noise":
        array = np.frombuffer(raw, dtype).reshape(30, 40)
    assert round_trip(PcodecCodec(), array, spec).tobytes() == array.tobytes()


def test_bytes_are_read_from_and_by_numcodecs():
    spec = spec_of("float32", (3, 4))
    array = np.random.default_rng(0).normal(size=(4, 3)).astype("f4").T
    reference = numcodecs.get_codec({"id": "pcodec", "level": 3})
    codec = PcodecCodec.from_config({"level": 3})
    assert reference.decode(codec.encode(array, spec)).tolist() == array.reshape(-1).tolist()
    data = reference.encode(np.ascontiguousarray(array))
    assert codec.decode(data, spec).tolist() == array.tolist()


def test_a_format_2_compressor_works_on_bytes():
    array = np.arange(12, dtype="<i4").reshape(3, 4)
    codec = from_v2({"id": "pcodec"}).bind(spec_of("int32", (3, 4)))
    data = codec.encode(array.tobytes())
    assert codec.encoded_size(Size(48)).check(len(data))
    assert bytes(codec.decode(data, Size(48))) == array.tobytes()
    for damaged in mutants(data, n=40):
        with contextlib.suppress(CodecError):
            assert len(codec.decode(damaged, Size(48))) == 48


@pytest.mark.parametrize("n", [0, 11, 13])
def test_another_number_of_elements_is_an_error(n):
    data = PcodecCodec().encode(np.arange(n, dtype="i4"), spec_of("int32", (n,)))
    with pytest.raises(CodecError, match="expected 12"):
        PcodecCodec().decode(data, spec_of("int32", (12,)))


def test_another_type_is_an_error():
    data = PcodecCodec().encode(np.arange(5, dtype="i4"), spec_of("int32", (5,)))
    with pytest.raises(CodecError, match="pcodec"):
        PcodecCodec().decode(data, spec_of("float32", (5,)))


def test_damaged_data_only_raises_codec_errors():
    spec = spec_of("int32", (50,))
    check_only_codec_errors(
        PcodecCodec(), PcodecCodec().encode(np.arange(50, dtype="i4") ** 2, spec), spec
    )


def test_bind_refuses_other_types():
    with pytest.raises(ValueError, match="bool"):
        PcodecCodec().bind(spec_of("bool", (1,)))


def test_wrong_configuration_is_named():
    with pytest.raises(ValueError, match="speed"):
        PcodecCodec.from_config({"speed": 3})


def test_the_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pcodec":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    codec = PcodecCodec.from_config({"level": 8})
    with pytest.raises(MissingDependencyError, match="'pcodec'"):
        codec.decode(b"", spec_of("int32", (1,)))
