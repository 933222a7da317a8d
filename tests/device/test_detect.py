"""Detection on machines described by the tests; none of them needs a card."""

import ctypes
import json
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from zarr_gpu.device import probe
from zarr_gpu.device.detect import Detector, Device, DeviceInfo, Feature, System
from zarr_gpu.errors import DeviceUnavailableError, MissingDependencyError

TURING = {"name": b"NVIDIA T4", "major": 7, "minor": 5, "totalGlobalMem": 15 << 30}
PASCAL = {"name": b"NVIDIA P100", "major": 6, "minor": 0, "totalGlobalMem": 16 << 30}
HOPPER = {"name": b"NVIDIA H200", "major": 9, "minor": 0, "totalGlobalMem": 140 << 30}


class CUDARuntimeError(RuntimeError):
    pass


class Machine:
    """A machine that notes what was asked of it."""

    def __init__(self, *devices, driver=13000, wheel=13020, packages=("cupy", "kvikio"), **other):
        self.devices, self.driver, self.wheel, self.packages = devices, driver, wheel, packages
        self.environ = other.pop("environ", {})
        self.library = other.pop("library", True)
        self.broken = other.pop("broken", {})  # module name: exception
        self.count = other.pop("count", lambda: len(devices))
        self.nvrtc = other.pop("nvrtc", lambda: (13, 0))
        self.nvcomp = other.pop("nvcomp", lambda: SimpleNamespace(version=(6, 0, 0)))
        self.gds = other.pop("gds", lambda: None)
        assert not other
        self.pid, self.asked = 1, []

    def system(self):
        return System(
            environ=self.environ,
            find_spec=self.find_spec,
            load_library=self.load_library,
            import_module=self.import_module,
            pid=lambda: self.pid,
        )

    def detector(self):
        return Detector(self.system())

    def find_spec(self, name):
        self.asked.append(f"find {name}")
        return object() if name in self.packages else None

    def load_library(self, name):
        self.asked.append(f"load {name}")
        if not self.library:
            raise OSError(f"{name}: cannot open shared object file")

    def import_module(self, name):
        self.asked.append(f"import {name}")
        if name in self.broken:
            raise self.broken[name]
        runtime = SimpleNamespace(
            driverGetVersion=lambda: self.driver,
            runtimeGetVersion=lambda: self.wheel,
            getDeviceCount=self._count,
            getDeviceProperties=lambda index: self.devices[index],
        )
        return {
            "cupy": SimpleNamespace(
                __version__="14.2.0",
                cuda=SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=self.nvrtc)),
            ),
            "zarr_gpu.device.nvcomp": SimpleNamespace(load=self.nvcomp),
            "zarr_gpu.device.kvikio": SimpleNamespace(gds_reason=self.gds),
        }[name]

    def _count(self):
        self.asked.append("count")
        return self.count()


def raising(error):
    def call(*args):
        raise error

    return call


def python(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("value", ["cpu", "CPU", '"cpu"'])
def test_environment_says_cpu_and_nothing_is_looked_at(value):
    machine = Machine(HOPPER, environ={"ZARR_GPU_DEVICE": value})
    detector = machine.detector()
    assert "ZARR_GPU_DEVICE" in detector.unavailable_reason("cuda")
    assert "ZARR_GPU_DEVICE" in detector.device_info().reason
    assert machine.asked == []


def test_environment_counts_at_every_question():
    machine = Machine(HOPPER)
    detector = machine.detector()
    assert detector.device_info().reason is None
    machine.environ["ZARR_GPU_DEVICE"] = "cpu"
    assert detector.device_info().reason is not None
    assert detector.unavailable_reason("cuda") is not None
    machine.environ["ZARR_GPU_DEVICE"] = "cuda"
    assert detector.unavailable_reason("cuda") is None


def test_no_cupy():
    machine = Machine(HOPPER, packages=())
    info = machine.detector().device_info()
    assert "cupy is not installed" in info.reason
    assert "zarr-gpu[cu13]" in info.reason
    assert machine.asked == ["find cupy"]


def test_no_driver_and_cupy_is_not_imported():
    machine = Machine(library=False)
    info = machine.detector().device_info()
    assert "no NVIDIA driver" in info.reason
    assert "cannot open shared object file" in info.reason
    assert [step.split()[0] for step in machine.asked] == ["find", "load"]
    assert info.nvcomp == info.gds == Feature(False, "not looked for, there is no device")


@pytest.mark.parametrize(
    "error", [ImportError("undefined symbol"), OSError("truncated"), AttributeError("cuda")]
)
def test_cupy_cannot_be_imported(error):
    info = Machine(HOPPER, broken={"cupy": error}).detector().device_info()
    assert "cupy cannot be imported" in info.reason
    assert str(error) in info.reason
    assert type(error).__name__ in info.reason


def test_driver_older_than_the_wheel():
    machine = Machine(HOPPER, driver=12080)
    info = machine.detector().device_info()
    assert "supports CUDA 12.8" in info.reason
    assert "needs 13.0" in info.reason
    assert "cu12" in info.reason
    assert info.versions["CUDA driver"] == "12.8"
    assert "count" not in machine.asked


def test_driver_older_than_all_wheels_is_offered_no_other():
    assert "cu12" not in Machine(HOPPER, driver=11040).detector().device_info().reason


def test_driver_of_the_same_major_version_or_later_is_fine():
    assert Machine(HOPPER, driver=13000, wheel=13050).detector().device_info().reason is None
    assert Machine(HOPPER, driver=13000, wheel=12090).detector().device_info().reason is None


def test_driver_library_without_driver():
    assert "not running" in Machine(HOPPER, driver=0).detector().device_info().reason


def test_no_device():
    info = Machine().detector().device_info()
    assert "no device" in info.reason
    assert "CUDA_VISIBLE_DEVICES" in info.reason


def test_cuda_does_not_start():
    error = CUDARuntimeError("cudaErrorSystemNotReady: system not yet initialized")
    info = Machine(HOPPER, count=raising(error)).detector().device_info()
    assert "cudaErrorSystemNotReady" in info.reason
    assert "spawn" not in info.reason


def test_other_library_used_cuda_before_the_fork():
    error = CUDARuntimeError("cudaErrorInitializationError: initialization error")
    info = Machine(HOPPER, count=raising(error)).detector().device_info()
    assert "cudaErrorInitializationError" in info.reason
    assert "spawn" in info.reason


def test_capability_too_low():
    detector = Machine(PASCAL).detector()
    reason = detector.unavailable_reason("cuda")
    assert reason == "NVIDIA P100 has compute capability 6.0, 7.5 is needed"
    assert detector.device_info().devices == (Device("NVIDIA P100", (6, 0), 16 << 30),)
    assert "too old" in str(detector.device_info())


def test_lowest_capability():
    assert Machine(TURING).detector().unavailable_reason("cuda:0") is None


def test_one_device():
    info = Machine(HOPPER).detector().device_info()
    assert info.reason is None
    assert info.devices == (Device("NVIDIA H200", (9, 0), 140 << 30),)
    assert info.nvrtc == info.nvcomp == info.kvikio == info.gds == Feature(True)
    assert info.versions["CUDA driver"] == "13.0"
    assert info.versions["CUDA runtime"] == "13.2"
    assert info.versions["NVRTC"] == "13.0"
    assert info.versions["nvCOMP"] == "6.0.0"


def test_two_devices():
    detector = Machine(HOPPER, PASCAL).detector()
    assert detector.unavailable_reason("cuda") is None
    assert detector.unavailable_reason("cuda:0") is None
    assert "6.0" in detector.unavailable_reason("cuda:1")
    assert "there are 2 devices, cuda:0 to cuda:1" in detector.unavailable_reason("cuda:2")
    one = Machine(HOPPER).detector().unavailable_reason("cuda:1")
    assert one == "there is no cuda:1: there is one device, cuda:0"


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda:", "cuda:-1", "CUDA", "cuda:1 "])
def test_only_cuda_names(device):
    with pytest.raises(ValueError, match="cuda:N"):
        Machine(HOPPER).detector().unavailable_reason(device)


def test_a_compiler_is_needed():
    error = RuntimeError("libnvrtc not found")
    detector = Machine(HOPPER, nvrtc=raising(error)).detector()
    assert "libnvrtc not found" in detector.unavailable_reason("cuda")
    assert not detector.device_info().nvrtc.works


@pytest.mark.parametrize(
    "error", [DeviceUnavailableError("libnvcomp is 5.2"), MissingDependencyError("no nvcomp")]
)
def test_a_device_without_nvcomp_is_usable(error):
    info = Machine(HOPPER, nvcomp=raising(error)).detector().device_info()
    assert info.reason is None
    assert info.nvcomp == Feature(False, str(error))


def test_gds():
    info = Machine(HOPPER, gds=lambda: "/proc/modules does not exist").detector().device_info()
    assert info.kvikio == Feature(True)
    assert info.gds == Feature(False, "/proc/modules does not exist")
    info = Machine(HOPPER, gds=raising(OSError("libcufile"))).detector().device_info()
    assert info.gds == Feature(False, "libcufile")
    machine = Machine(HOPPER, packages=("cupy",))
    info = machine.detector().device_info()
    assert (
        info.gds == info.kvikio == Feature(False, "the package kvikio is not installed (extra gds)")
    )
    assert "import zarr_gpu.device.kvikio" not in machine.asked


def test_availability_alone_loads_no_further_libraries():
    machine = Machine(HOPPER)
    detector = machine.detector()
    assert detector.unavailable_reason("cuda") is None
    assert not [step for step in machine.asked if "zarr_gpu" in step]


def test_looks_once_unless_told_to_look_again():
    machine = Machine(HOPPER)
    detector = machine.detector()
    first = detector.device_info()
    assert detector.unavailable_reason("cuda") is None
    assert detector.device_info() is first
    assert machine.asked.count("count") == 1
    machine.devices = (HOPPER, TURING)
    machine.count = lambda: 2
    assert len(detector.device_info(refresh=True).devices) == 2
    assert detector.unavailable_reason("cuda:1") is None
    assert machine.asked.count("count") == 2


def test_child_forked_after_use_is_refused():
    machine = Machine(HOPPER)
    detector = machine.detector()
    detector.device_info()  # counting devices has started CUDA
    assert not detector.forked()
    machine.pid = 2
    asked = len(machine.asked)
    assert detector.forked()
    for reason in (detector.unavailable_reason("cuda"), detector.device_info().reason):
        assert "forked" in reason
        assert "spawn" in reason
        assert "forkserver" in reason
    assert len(machine.asked) == asked


def test_child_forked_before_use_looks_itself():
    machine = Machine(HOPPER, library=False)
    detector = machine.detector()
    assert detector.device_info().reason is not None  # found nothing, so CUDA was not started
    machine.pid, machine.library = 2, True
    assert not detector.forked()
    assert detector.device_info().reason is None


def test_mark_used_keeps_the_process_that_was_first():
    machine = Machine(HOPPER)
    detector = machine.detector()
    detector.mark_used()
    machine.pid = 2
    detector.mark_used()
    assert detector.forked()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_real_fork(monkeypatch):
    monkeypatch.delenv("ZARR_GPU_DEVICE", raising=False)
    code = (
        "import os, zarr_gpu.device.detect as d\n"
        "d.mark_used()\n"
        "print(d.forked(), flush=True)\n"
        "if os.fork() == 0:\n"
        "    print(d.forked(), d.unavailable_reason('cuda'), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    parent, child = python(code).splitlines()
    assert parent == "False"
    assert child.startswith("True this process was forked")
    assert "spawn" in child


def test_report():
    info = Machine(HOPPER, TURING, gds=lambda: "no nvidia-fs").detector().device_info()
    assert str(info) == (
        "CUDA devices:\n"
        "  cuda:0    NVIDIA H200, compute capability 9.0, 140.0 GiB\n"
        "  cuda:1    NVIDIA T4, compute capability 7.5, 15.0 GiB\n"
        "  nvrtc     yes\n"
        "  nvcomp    yes\n"
        "  kvikio    yes\n"
        "  gds       no: no nvidia-fs\n"
        f"  versions  python {sys.version.split()[0]}, numpy {np.__version__}, cupy 14.2.0, "
        "CUDA driver 13.0, CUDA runtime 13.2, NVRTC 13.0, nvCOMP 6.0.0"
    )
    assert str(DeviceInfo(reason="why")) == "CUDA devices that can be used: none\n  reason    why"


def test_this_machine_answers_without_importing_cupy_when_it_has_no_driver():
    code = (
        "import json, sys, zarr_gpu.device.detect as d\n"
        "info = d.device_info()\n"
        "reasons = [d.unavailable_reason('cuda'), d.unavailable_reason('cuda:0')]\n"
        "print(json.dumps([info.reason, reasons, 'cupy' in sys.modules, len(info.devices)]))"
    )
    reason, reasons, imported, devices = json.loads(python(code))
    if "NVIDIA driver: " in (reason or "") or "not installed" in (reason or ""):
        assert not imported
    assert reasons == [reason, reason]
    assert (devices > 0) or reason


class Copier:
    """As much of CuPy as the probe of copies needs, in host memory."""

    def __init__(self):
        self.copied, self.last = [], {}
        self.alive = weakref.WeakValueDictionary()  # address: array
        self.cuda = SimpleNamespace(
            Stream=lambda non_blocking: SimpleNamespace(ptr=7, synchronize=lambda: None),
            runtime=SimpleNamespace(
                memcpyAsync=self.copy, memcpyHostToDevice=1, memcpyDeviceToDevice=3
            ),
        )

    def empty(self, nbytes, dtype):
        memory = np.zeros(nbytes, dtype).view(Memory)
        self.alive[memory.data.ptr] = memory
        return memory

    def copy(self, target, source, nbytes, kind, stream):
        self.copied.append((kind, stream))
        assert self.alive[target].nbytes == nbytes
        assert (source in self.alive) == (kind == 3)
        assert source != target
        ctypes.memmove(target, source, nbytes)
        self.last[target] = self.alive[target].tobytes()


class Memory(np.ndarray):
    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def test_probe_copies_what_it_says():
    cupy, pinned = Copier(), np.arange(1000, dtype="u1")
    rates = probe.copies(cupy, pinned, 0)
    assert set(cupy.copied) == {(1, 7), (3, 7)}
    assert rates.keys() == {"host_to_device", "device_to_device"}
    assert min(rates.values()) > 0
    assert list(cupy.last.values()) == [pinned.tobytes()] * 2


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_probe_of_the_page_cache_reads_every_byte(threads, tmp_path, monkeypatch):
    target = np.arange(100_001, dtype="u4").view("u1")[:-3]
    expected = target.copy()
    steps = []

    def once(step, finish, nbytes, seconds):
        target[:] = 0
        step()
        steps.append(nbytes)
        return 1.0

    monkeypatch.setattr(probe, "rate", once)
    probe.page_cache(target, threads, 0, str(tmp_path))
    assert np.array_equal(target, expected)
    assert steps == [target.nbytes]
    assert list(tmp_path.iterdir()) == []


def test_rate_counts_every_step_but_the_first(monkeypatch):
    monkeypatch.setattr(probe.time, "perf_counter", iter([0.0, 0.5, 2.0, 2.0]).__next__)
    calls = []
    assert probe.rate(lambda: calls.append(1), lambda: calls.append(0), 100, 1) == 8 * 100 / 2
    assert calls == [1, 0] + [1, 1, 1, 1, 0] * 2
