"""Whether a CUDA device can be used here, and if not, why not.

Looks in stages, the cheapest first, and stops at the first that fails: the environment, the
package CuPy, the driver's library, then the devices. Only the last imports CuPy and starts CUDA,
so a machine without a driver answers within a millisecond or two. Knows no array, store or codec.

>>> Detector(System(environ={"ZARR_GPU_DEVICE": "cpu"})).unavailable_reason("cuda")
'the environment variable ZARR_GPU_DEVICE is "cpu"'
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

MIN_CAPABILITY = (7, 5)
"""Turing: the oldest that CUDA 13 compiles for, and the oldest that the kernels are checked for."""

_INSTALL = "pip install 'zarr-gpu[cu13]' (or cu12, after the CUDA version of the driver)"
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_FORKED = (
    "this process was forked from one that had used CUDA, and CUDA does not work in such a child; "
    "start workers with the method 'spawn' or 'forkserver' "
    "(multiprocessing.get_context, or multiprocessing_context of a torch DataLoader)"
)


class Device(NamedTuple):
    """One card, as the driver describes it."""

    name: str
    capability: tuple[int, int]
    total_nbytes: int


class Feature(NamedTuple):
    """Something that may be missing although there is a device; ``reason`` when it is."""

    works: bool
    reason: str | None = None


_NOT_ASKED = Feature(works=False, reason="not looked for, there is no device")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """What detection found. ``print`` it for a report.

    ``reason`` is None when at least one device can be used. ``nvrtc`` compiles the kernels;
    ``nvcomp`` decodes zstd, gzip and others on the card; ``gds`` (through ``kvikio``) reads files
    past the host's memory. Only ``nvrtc`` is indispensable.
    """

    reason: str | None
    devices: tuple[Device, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    nvrtc: Feature = _NOT_ASKED
    nvcomp: Feature = _NOT_ASKED
    kvikio: Feature = _NOT_ASKED
    gds: Feature = _NOT_ASKED

    def problem(self, index: int) -> str | None:
        """Why the device of that number cannot be used, or None."""
        if self.reason is not None:
            return self.reason
        if index >= len(self.devices):
            there = "is one device, cuda:0" if len(self.devices) == 1 else (
                f"are {len(self.devices)} devices, cuda:0 to cuda:{len(self.devices) - 1}"
            )  # fmt: skip
            return f"there is no cuda:{index}: there {there}"
        return _too_old(self.devices[index])

    def __str__(self) -> str:
        if self.reason is not None:
            lines = ["CUDA devices that can be used: none", f"  reason    {self.reason}"]
        else:
            lines = ["CUDA devices:"]
        for index, device in enumerate(self.devices):
            lines.append(f"  cuda:{index:<5}{_described(device)}")
        if self.devices:
            for name in ("nvrtc", "nvcomp", "kvikio", "gds"):
                feature = getattr(self, name)
                lines.append(f"  {name:<10}{'yes' if feature.works else f'no: {feature.reason}'}")
        if self.versions:
            versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
            lines.append(f"  versions  {versions}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Everything detection asks of the machine; tests describe machines with it."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    find_spec: Callable[[str], object] = importlib.util.find_spec
    load_library: Callable[[str], object] = ctypes.CDLL
    import_module: Callable[[str], Any] = importlib.import_module
    pid: Callable[[], int] = os.getpid


class Detector:
    """Remembers what was found, for the process that looked: a forked child looks again."""

    def __init__(self, system: System | None = None) -> None:
        self._system = system or System()
        self._found: tuple[int, DeviceInfo] | None = None  # process, without features
        self._detailed: tuple[int, DeviceInfo] | None = None  # process, with features
        self._used_by: int | None = None

    def mark_used(self) -> None:
        """This process has started CUDA; children forked from now on cannot use it."""
        if self._used_by is None:
            self._used_by = self._system.pid()

    def forked(self) -> bool:
        """True in a child forked after CUDA was used."""
        return self._used_by is not None and self._used_by != self._system.pid()

    def device_info(self, refresh: bool = False) -> DeviceInfo:
        """See :func:`device_info`."""
        if (refused := self._refused()) is not None:
            return refused
        pid = self._system.pid()
        if refresh or self._detailed is None or self._detailed[0] != pid:
            self._detailed = pid, _with_features(self._system, self._look(refresh))
        return self._detailed[1]

    def unavailable_reason(self, device: str) -> str | None:
        """See :func:`unavailable_reason`."""
        match = re.fullmatch(r"cuda(?::(\d+))?", device)
        if match is None:
            raise ValueError(f"device must be 'cuda' or 'cuda:N', found {device!r}")
        found = self._refused() or self._look()
        return found.problem(int(match[1] or 0))

    def _refused(self) -> DeviceInfo | None:
        """What needs no look at the machine, and is not remembered."""
        if self._system.environ.get("ZARR_GPU_DEVICE", "").strip("\"' ").lower() == "cpu":
            return DeviceInfo(reason='the environment variable ZARR_GPU_DEVICE is "cpu"')
        if self.forked():
            return DeviceInfo(reason=_FORKED)
        return None

    def _look(self, refresh: bool = False) -> DeviceInfo:
        pid = self._system.pid()
        if refresh or self._found is None or self._found[0] != pid:
            found = _look(self._system)
            if found.devices:  # counting them has started CUDA
                self.mark_used()
            self._found = pid, found
        return self._found[1]


_detector = Detector()


def device_info(refresh: bool = False) -> DeviceInfo:
    """What zarr_gpu can use of the GPUs of this machine, and why not the rest.

    Looked up once in each process; ``refresh`` looks again, for example after an installation.
    Starts CUDA where there is a device: fork worker processes before, or use ``spawn``.
    """
    return _detector.device_info(refresh)


def unavailable_reason(device: str) -> str | None:
    """Why ``cuda`` (which is ``cuda:0``) or ``cuda:N`` cannot be used, or None when it can."""
    return _detector.unavailable_reason(device)


def mark_used() -> None:
    """To be called when CUDA is first touched: children forked later are told why it fails."""
    _detector.mark_used()


def forked() -> bool:
    """True in a child that was forked after its parent had used CUDA."""
    return _detector.forked()


def _look(system: System) -> DeviceInfo:
    """All stages after the environment; starts CUDA only when driver and CuPy are there."""
    if system.find_spec("cupy") is None:
        return DeviceInfo(reason=f"the package cupy is not installed: {_INSTALL}")
    try:
        system.load_library(_DRIVER)  # without cuInit, which a later fork would not survive
    except OSError as error:
        return DeviceInfo(reason=f"there is no NVIDIA driver: {error}")
    try:
        cupy = system.import_module("cupy")
        runtime = cupy.cuda.runtime
        versions = {
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "cupy": str(cupy.__version__),
            "CUDA driver": _version(runtime.driverGetVersion()),
            "CUDA runtime": _version(runtime.runtimeGetVersion()),
        }
    except Exception as error:  # noqa: BLE001 - a broken installation fails in any way it likes
        return DeviceInfo(reason=f"cupy cannot be imported: {_text(error)}")
    if (reason := _driver_too_old(runtime)) is not None:
        return DeviceInfo(reason=reason, versions=versions)
    try:
        devices = _devices(runtime)
    except RuntimeError as error:
        hint = f"; {_FORKED}" if "InitializationError" in str(error) else ""
        return DeviceInfo(reason=f"CUDA does not start: {_text(error)}{hint}", versions=versions)
    nvrtc = _nvrtc(cupy, versions)
    return DeviceInfo(
        reason=_no_device(devices) or nvrtc.reason,
        devices=devices,
        versions=versions,
        nvrtc=nvrtc,
    )


def _devices(runtime: Any) -> tuple[Device, ...]:
    found = []
    for index in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(index)
        name = properties["name"]
        found.append(
            Device(
                name.decode(errors="replace") if isinstance(name, bytes) else str(name),
                (int(properties["major"]), int(properties["minor"])),
                int(properties["totalGlobalMem"]),
            )
        )
    return tuple(found)


def _driver_too_old(runtime: Any) -> str | None:
    """CUDA runs on any driver of its own major version or a later one."""
    driver, wheel = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return "the NVIDIA driver gives no CUDA version: it is not running"
    if driver // 1000 < wheel // 1000:
        older = "" if driver < 12000 else ", or install the extra cu12 in place of cu13"
        return (
            f"the NVIDIA driver is too old: it supports CUDA {_version(driver)}, and cupy needs "
            f"{wheel // 1000}.0; update the driver{older}"
        )
    return None


def _no_device(devices: tuple[Device, ...]) -> str | None:
    if not devices:
        return "the driver sees no device (is one hidden by CUDA_VISIBLE_DEVICES?)"
    problems = [_too_old(device) for device in devices]
    return None if None in problems else "; ".join(filter(None, problems))


def _too_old(device: Device) -> str | None:
    if device.capability >= MIN_CAPABILITY:
        return None
    found, needed = (f"{major}.{minor}" for major, minor in (device.capability, MIN_CAPABILITY))
    return f"{device.name} has compute capability {found}, {needed} is needed"


def _nvrtc(cupy: Any, versions: dict[str, str]) -> Feature:
    """The compiler; its version joins ``versions``."""
    try:
        major, minor = cupy.cuda.nvrtc.getVersion()
    except (RuntimeError, ImportError, OSError) as error:
        return Feature(
            works=False,
            reason=f"NVRTC, which compiles the kernels, is missing ({_INSTALL}): {error}",
        )
    versions["NVRTC"] = f"{major}.{minor}"
    return Feature(works=True)


def _with_features(system: System, found: DeviceInfo) -> DeviceInfo:
    """The record with what else the machine offers; loads libraries only where a device is."""
    if not found.devices:
        return found
    versions = dict(found.versions)
    kvikio = _kvikio(system)
    return replace(
        found,
        versions=versions,
        nvcomp=_nvcomp(system, versions),
        kvikio=kvikio,
        gds=_gds(system) if kvikio.works else kvikio,
    )


def _nvcomp(system: System, versions: dict[str, str]) -> Feature:
    """Whether nvCOMP can be loaded; its version joins ``versions``."""
    try:
        library = system.import_module("zarr_gpu.device.nvcomp").load()
    except (RuntimeError, ImportError, OSError) as error:
        return Feature(works=False, reason=str(error))
    versions["nvCOMP"] = ".".join(map(str, library.version))
    return Feature(works=True)


def _kvikio(system: System) -> Feature:
    """Only found, never imported: that takes half a second and cuFile may hang when it starts."""
    if system.find_spec("kvikio") is None:
        return Feature(works=False, reason="the package kvikio is not installed (extra gds)")
    return Feature(works=True)


def _gds(system: System) -> Feature:
    try:
        reason = system.import_module("zarr_gpu.device.kvikio").gds_reason()
    except (RuntimeError, ImportError, OSError) as error:
        reason = str(error)
    return Feature(works=reason is None, reason=reason)


def _described(device: Device) -> str:
    major, minor = device.capability
    text = (
        f"{device.name}, compute capability {major}.{minor}, {device.total_nbytes / 2**30:.1f} GiB"
    )
    return text if _too_old(device) is None else f"{text} (too old)"


def _version(number: int) -> str:
    """13020 is CUDA 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
