"""The CUDA runtime, executed on a stand-in for CuPy; see fake_cupy.py for what that proves."""

import operator
import os
import sys

import numpy as np
import pytest

from tests.device.devices import EVERYTHING
from tests.device.emulated import EmulatedRuntime
from tests.device.fake_cupy import NAMES, FakeCupy
from tests.device.test_read import BLOSC, CHAINS, field, stored
from zarr_gpu import backend as backends
from zarr_gpu.config import config
from zarr_gpu.device import compiler, cuda, detect, nvcomp
from zarr_gpu.device.runtime import DeviceMemoryError
from zarr_gpu.errors import DeviceUnavailableError


class FakeNvComp:
    """Batched codecs of the emulated device."""

    def __init__(self):
        self.runtime = EmulatedRuntime(eager=True, strict=False)

    def decompress_temp_nbytes(self, codec, n, max_nbytes, total_nbytes):
        return 100

    def compress_temp_nbytes(self, codec, n, max_nbytes, total_nbytes, level):
        return 100

    def decompress(self, codec, streams, temp_ptr, temp_nbytes, cuda_stream):
        self.runtime.decompress(codec, streams, self.runtime.current_stream())

    def compress(self, codec, streams, temp_ptr, temp_nbytes, cuda_stream, level):
        self.runtime.compress(codec, streams, self.runtime.current_stream())

    def decompress_max_nbytes(self, codec):
        return 1 << 30

    def compress_max_nbytes(self, codec):
        return self.runtime.compress_max(codec)

    def compress_bound(self, codec, nbytes):
        return self.runtime.compress_bound(codec, nbytes)


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    module = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(detect, "mark_used", lambda: None)
    monkeypatch.setattr(detect, "unavailable_reason", lambda device: None)
    monkeypatch.setattr(compiler, "cubin_path", lambda name, arch: tmp_path / f"{name}-{arch}")
    library = FakeNvComp()
    monkeypatch.setattr(nvcomp, "load", lambda: library)
    monkeypatch.delitem(backends._devices, (os.getpid(), 0), raising=False)
    with config.set(EVERYTHING):
        yield module
    backends._devices.pop((os.getpid(), 0), None)


def test_the_real_package_has_these_names():
    real = pytest.importorskip("cupy", reason="cupy is not installed", exc_type=ImportError)
    for name in NAMES:
        assert operator.attrgetter(name)(real) is not None


@pytest.mark.parametrize("name", CHAINS)
def test_reads(cupy, name):
    array = stored(field(), codecs=CHAINS[name])
    found = array.to("cuda")[1:, ::2]
    assert isinstance(found, cupy.ndarray)
    assert (cupy.asnumpy(found) == field()[1:, ::2]).all()
    assert array.to("cuda")[3, 4].shape == ()


def test_writes(cupy):
    array = stored(np.zeros((37, 20), "<f4"), codecs=[BLOSC[0]])
    array.to("cuda")[...] = cupy.asarray(field())
    assert (array[...] == field()).all()
    array.to("cuda")[0] = cupy.asarray(np.arange(20))
    assert (array[0] == np.arange(20)).all()


def test_outputs(cupy):
    array = stored(field(), codecs=[BLOSC[0]]).to("cuda")
    out = cupy.empty((20, 37), np.dtype("<f8")).T
    assert array.read(out=out) is out
    assert (cupy.asnumpy(out) == field()).all()
    host = np.zeros((37, 20), "<f4")
    array.read(out=host)
    assert (host == field()).all()


def test_another_device(cupy):
    array = stored(field()).to("cuda")
    out = cupy.empty((37, 20), np.dtype("<f4"))
    out.device = type("Device", (), {"id": 3})
    with pytest.raises(ValueError, match="cuda:3"):
        array.read(out=out)


def test_a_full_device(cupy):
    runtime = cuda.CudaRuntime(0)
    cupy.room = 10
    with pytest.raises(DeviceMemoryError, match="no room"):
        runtime.alloc(11, runtime.new_stream())
    assert cupy.freed == 1


def test_without_nvcomp_the_host_decodes(cupy, monkeypatch):
    def load():
        raise DeviceUnavailableError("not installed")

    monkeypatch.setattr(nvcomp, "load", load)
    array = stored(field(), codecs=CHAINS["zstd"]).to("cuda")
    assert (cupy.asnumpy(array[...]) == field()).all()
    assert "is nvCOMP installed" in array.explain()
