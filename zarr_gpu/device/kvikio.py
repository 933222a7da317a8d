"""GPUDirect Storage through KvikIO: files read into device memory past the host's.

NVIDIA's library below it, cuFile, hangs for ever or crashes where its kernel module is half there,
so nothing here lets KvikIO touch cuFile unless :func:`gds_reason` finds no reason against it. Knows
files and addresses, no chunks. **No card has confirmed this module**: it is tested with a stand-in
for the package only.

>>> gds_reason(enabled=False)
'switched off by the setting'
"""

# A Path object costs more than the system call.
# ruff: noqa: PTH110, PTH116, PTH123, PTH207

from __future__ import annotations

import glob
import importlib
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from functools import cache
from typing import Any, Self

from zarr_gpu._types import Int64, UInt64
from zarr_gpu.errors import (
    DeviceFallbackWarning,
    MissingDependencyError,
    StoreError,
    UnsupportedError,
)
from zarr_gpu.stores.base import Reader, Store
from zarr_gpu.stores.common import failed
from zarr_gpu.stores.files import FileReader

TRIES = 8
"""How often a file is opened again that was replaced while it was opened."""
THREADS = 16
"""Of KvikIO, and as many of ours that open files and wait: one submitter leaves GPUDirect Storage
behind ordinary reads (gds-bench.farmgpu.net)."""
_COMPAT_MODE = "KVIKIO_COMPAT_MODE"
_lock = threading.Lock()
_before: list[Any] = []  # KvikIO's mode, while the setting "compat" has changed it


def gds_reason(
    *,
    enabled: bool = True,
    root: str = "",
    platform: str = sys.platform,
    find_spec: Callable[[str], object] = importlib.util.find_spec,
) -> str | None:
    """Why files cannot be read straight into device memory, or None when that can be tried.

    Looks at the machine below ``root`` without importing KvikIO. The caller must have started
    CUDA before anything is read: cuFile crashes otherwise.
    """
    if not enabled:
        return "switched off by the setting"
    if platform != "linux":
        return f"GPUDirect Storage needs Linux, not {platform}"
    if not os.path.exists(f"{root}/proc/modules"):
        return "the kernel has no loadable modules (/proc/modules is missing), and cuFile hangs"
    count = _device_count(f"{root}/proc/driver/nvidia-fs/devcount")
    if count is None:
        return "the kernel module nvidia-fs is not loaded"
    if count < 1:
        return "the kernel module nvidia-fs sees no device"
    if not glob.glob(f"{root}/dev/nvidia-fs*"):
        return "there is no /dev/nvidia-fs*: inside a container, it has to be passed in"
    if find_spec("kvikio") is None:
        return "the package kvikio is not installed (extra gds)"
    return None


def _device_count(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def load(
    reason: str | None,
    *,
    threads: int = THREADS,
    environ: MutableMapping[str, str] = os.environ,
    modules: Mapping[str, Any] = sys.modules,
    import_module: Callable[[str], Any] = importlib.import_module,
) -> Any:
    """The package KvikIO with ``threads`` of its own, unless the environment gives a number.

    With a ``reason`` against GPUDirect Storage it is kept from cuFile: by the environment while it
    is imported, and by its settings from then on. Raises ImportError.
    """
    before = environ.get(_COMPAT_MODE)
    if reason is not None and "kvikio" not in modules:
        environ[_COMPAT_MODE] = "ON"
    try:
        kvikio = import_module("kvikio")
        set_compat_mode(kvikio, reason)
    finally:  # child processes decide for themselves
        if before is None:
            environ.pop(_COMPAT_MODE, None)
        else:
            environ[_COMPAT_MODE] = before
    if "KVIKIO_NTHREADS" not in environ:
        kvikio.defaults.set({"num_threads": threads})  # one by default, which is slower than pread
    return kvikio


def set_compat_mode(kvikio: Any, reason: str | None) -> None:
    """Keep an imported KvikIO from cuFile when there is a reason to; else leave it as it is."""
    if reason is not None:
        kvikio.defaults.set({"compat_mode": kvikio.CompatMode.ON})


def package(setting: str) -> Any:
    """KvikIO as the setting ``gpu.gds`` wants it, None when files go by way of the host.

    ``compat`` is for comparisons, so that it changes KvikIO's mode for all of the process, until
    this is asked with ``auto``. Raises MissingDependencyError where that cannot be.
    """
    if setting not in ("auto", "compat"):
        return None
    if setting == "auto" and gds_reason() is not None:
        return None
    kvikio, problem = _load_once()
    if kvikio is None:
        if setting == "auto":
            return None
        raise MissingDependencyError(f"the setting gpu.gds is 'compat', but {problem}")
    with _lock:
        if setting == "compat" and not _before:
            _before.append(kvikio.defaults.get("compat_mode"))
            set_compat_mode(kvikio, "the setting gpu.gds")
        elif setting == "auto" and _before:
            kvikio.defaults.set({"compat_mode": _before.pop()})
    return kvikio


@cache
def _load_once() -> tuple[Any, str | None]:
    """The package, or None and why it cannot be imported."""
    reason = gds_reason()
    try:
        return load(reason), None
    except (ImportError, OSError, RuntimeError) as error:
        problem = f"the package kvikio cannot be imported: {error}"
    if reason is None:
        warnings.warn(
            f"files are read by way of the host: {problem}", DeviceFallbackWarning, stacklevel=2
        )
    return None, problem


class DeviceReader:
    """Opens the files of a store for reading into device memory.

    Only for stores that say where their files are. No card has confirmed it.
    """

    def __init__(self, kvikio: Any, store: Store) -> None:
        self._kvikio = kvikio
        self._store = store

    def open(
        self,
        key: str,
        *,
        limit: int | None = None,
        look: Callable[[Reader], object] = lambda reader: None,
    ) -> DeviceFile | None:
        """The file of ``key``, None when there is no such key.

        The store opens it first, which refuses what is no regular file, what leads out of the store
        and what is larger than ``limit``; ``look`` may refuse it, too, and is called again when
        another version has to be opened. Then it is made sure that KvikIO opened the same file.
        Raises StoreError, LimitError, and UnsupportedError when the object is no file of its own.
        """
        for _ in range(TRIES):
            reader = self._store.open_reader(key, limit=limit)
            if reader is None:
                return None
            with reader:
                look(reader)
                found = self._store.locate([key])
                path = found.path[0]
                if path is None or found.offset[0] != 0 or found.nbytes[0] != -1:
                    raise UnsupportedError(f"{key!r} of {self._store!r} is not a file of its own")
                try:
                    file = self._kvikio.CuFile(path, "r")
                except FileNotFoundError:  # deleted meanwhile
                    continue
                except (OSError, RuntimeError) as error:
                    raise failed(f"cannot open {path} for the device", error) from error
                # KvikIO has opened the file twice, and only one descriptor can be seen. While the
                # reader holds the file that the path led to before and leads to now, nothing else
                # has been there.
                if _versions(key, file, path) == {reader.version}:
                    return DeviceFile(file, path, reader.size)
            file.close()
        raise StoreError(f"{key!r} of {self._store!r} is replaced faster than it can be opened")


def _versions(key: str, file: Any, path: str) -> set[Hashable]:
    """What KvikIO has open and what the path leads to, described as the store's reader does."""
    try:
        status = os.fstat(file.fileno()), os.stat(path)
    except FileNotFoundError:  # deleted meanwhile
        return set()
    return {FileReader(key, -1, one).version for one in status}


class DeviceFile:
    """An open file; see :class:`DeviceReader`."""

    def __init__(self, file: Any, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self.size = size

    def read(self, offset: Int64, nbytes: Int64, address: UInt64) -> None:
        """Fill ``nbytes`` of device memory at each ``address`` from ``offset`` in the file.

        The memory must be ready, since KvikIO works on no stream of ours. Nothing writes to it
        after the return. Raises StoreError, naming the file, when a range cannot be read whole.
        """
        ranges = list(zip(offset.tolist(), nbytes.tolist(), address.tolist(), strict=True))
        for start, n, _ in ranges:
            if start < 0 or n < 0 or start + n > self.size:
                raise StoreError(
                    f"{self._path}: bytes {start}..{start + n} of a file of {self.size} bytes"
                )
        under_way: list[tuple[int, int, Any]] = []
        error: BaseException | None = None
        try:
            for start, n, place in ranges:
                if n:
                    future = self._file.pread(_DeviceBytes(place, n), n, start)
                    under_way.append((start, n, future))
        except BaseException as raised:  # noqa: BLE001 - raised below, after what was begun
            error = raised
        for start, n, future in under_way:
            try:
                done = future.get()
                if done != n:
                    raise StoreError(
                        f"{self._path}: asked for {n} bytes from {start}, the file ended after "
                        f"{done}"
                    )
            except BaseException as raised:  # noqa: BLE001 - the others still write
                error = error or raised
        if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, StoreError):
            raise failed(f"cannot read {self._path} into device memory", error) from error
        if error is not None:
            raise error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _DeviceBytes:
    """Bytes at an address, as KvikIO wants to see them."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "strides": None,
            "version": 3,
        }
