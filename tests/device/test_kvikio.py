"""KvikIO is kept from cuFile unless the machine looks right, and reads are checked.

A stand-in for the package reads into host memory; no card has confirmed the module.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from zarr_gpu.device import kvikio as module
from zarr_gpu.device.kvikio import DeviceReader, gds_reason, load, set_compat_mode
from zarr_gpu.errors import LimitError, StoreError, UnsupportedError
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.zip import ZipStore

DATA = bytes(range(256)) * 40


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The files of a machine on which GPUDirect Storage works."""
    for name, text in {
        "proc/modules": "nvidia_fs 1 0 - Live\n",
        "proc/driver/nvidia-fs/devcount": "1\n",
        "dev/nvidia-fs0": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def reason(machine: Path, **more: Any) -> str | None:
    arguments = {"platform": "linux", "find_spec": lambda name: name == "kvikio" or None, **more}
    return gds_reason(root=str(machine), **arguments)


def test_nothing_speaks_against_a_complete_machine(machine: Path) -> None:
    assert reason(machine) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proc/modules", "cuFile hangs"),
        ("proc/driver/nvidia-fs/devcount", "nvidia-fs is not loaded"),
        ("dev/nvidia-fs0", "no /dev/nvidia-fs"),
    ],
)
def test_each_missing_file_is_a_reason(machine: Path, name: str, text: str) -> None:
    (machine / name).unlink()
    assert text in (reason(machine) or "")


@pytest.mark.parametrize(("count", "text"), [("0\n", "sees no device"), ("?", "not loaded")])
def test_the_count_of_devices_matters(machine: Path, count: str, text: str) -> None:
    (machine / "proc/driver/nvidia-fs/devcount").write_text(count)
    assert text in (reason(machine) or "")


def test_other_reasons(machine: Path) -> None:
    assert "setting" in (reason(machine, enabled=False) or "")
    assert "win32" in (reason(machine, platform="win32") or "")
    assert "not installed" in (reason(machine, find_spec=lambda name: None) or "")


# -- importing ------------------------------------------------------------------------------------


class Defaults:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def set(self, values: dict[str, Any]) -> None:
        self.values.update(values)


def package(**more: Any) -> Any:
    return SimpleNamespace(
        defaults=Defaults(), CompatMode=SimpleNamespace(ON="on", OFF="off", AUTO="auto"), **more
    )


class Importing:
    def __init__(self, environ: dict[str, str], fail: bool = False) -> None:
        self.environ = environ
        self.fail = fail
        self.seen: str | None = None
        self.package = package()

    def __call__(self, name: str) -> Any:
        assert name == "kvikio"
        self.seen = self.environ.get("KVIKIO_COMPAT_MODE")
        if self.fail:
            raise ImportError("libkvikio.so")
        return self.package


@pytest.mark.parametrize("before", [{}, {"KVIKIO_COMPAT_MODE": "OFF"}])
def test_cufile_is_out_of_reach_from_the_import_on(before: dict[str, str]) -> None:
    environ = dict(before)
    importing = Importing(environ)
    loaded = load("no", environ=environ, modules={}, import_module=importing)
    assert importing.seen == "ON"
    assert loaded.defaults.values == {"compat_mode": "on", "num_threads": 16}
    assert environ == before


def test_an_imported_package_is_kept_from_cufile_too() -> None:
    importing = Importing({})
    loaded = load("no", environ={}, modules={"kvikio": 1}, import_module=importing)
    assert importing.seen is None
    assert loaded.defaults.values["compat_mode"] == "on"


def test_without_a_reason_the_mode_is_the_users() -> None:
    environ = {"KVIKIO_COMPAT_MODE": "AUTO", "KVIKIO_NTHREADS": "3"}
    importing = Importing(environ)
    loaded = load(None, environ=environ, modules={}, import_module=importing)
    assert importing.seen == "AUTO"
    assert loaded.defaults.values == {}
    set_compat_mode(loaded, "no")
    assert loaded.defaults.values == {"compat_mode": "on"}


def test_a_failed_import_leaves_the_environment_alone() -> None:
    environ: dict[str, str] = {}
    with pytest.raises(ImportError, match="libkvikio"):
        load("no", environ=environ, modules={}, import_module=Importing(environ, fail=True))
    assert environ == {}


# -- reading --------------------------------------------------------------------------------------


class Future:
    def __init__(self, log: list[str], result: Any) -> None:
        self.log = log
        self.result = result

    def get(self) -> int:
        self.log.append("get")
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class CuFile:
    """Reads when it is asked, into host memory at the address."""

    before_open: Any = None
    files: list[CuFile] = []
    results: dict[int, Any] = {}
    """What the read of that number does instead."""

    def __init__(self, path: str, flags: str) -> None:
        assert flags == "r"
        if CuFile.before_open:
            CuFile.before_open(path)
        self.fd = os.open(path, os.O_RDONLY)
        self.log: list[str] = []
        self.reads: list[tuple[int, int]] = []
        CuFile.files.append(self)

    def fileno(self) -> int:
        return self.fd

    def pread(self, buffer: Any, size: int, file_offset: int) -> Future:
        interface = buffer.__cuda_array_interface__
        address, read_only = interface["data"]
        assert interface["shape"] == (size,) and interface["typestr"] == "|u1" and not read_only
        number = len(self.reads)
        self.reads.append((file_offset, size))
        if isinstance(CuFile.results.get(number), BaseException) and number == 99:
            raise CuFile.results[number]
        data = os.pread(self.fd, size, file_offset)
        ctypes.memmove(address, data, len(data))
        return Future(self.log, CuFile.results.get(number, len(data)))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@pytest.fixture(autouse=True)
def clean() -> Any:
    CuFile.before_open, CuFile.files, CuFile.results = None, [], {}
    yield
    assert all(file.fd < 0 for file in CuFile.files), "a file was left open"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    local = LocalStore(tmp_path / "store")
    local.set("a/c/0", DATA)
    return local


def reader(store: Any) -> DeviceReader:
    return DeviceReader(SimpleNamespace(CuFile=CuFile), store)


def read(file: Any, offset: list[int], nbytes: list[int], target: np.ndarray) -> None:
    sizes = np.array(nbytes, np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])) if nbytes else sizes
    address = (target.ctypes.data + starts).astype(np.uint64)
    file.read(np.array(offset, np.int64), sizes, address)


def test_ranges_arrive_at_their_addresses(store: LocalStore) -> None:
    target = np.full(3000, 0xA5, np.uint8)
    with reader(store).open("a/c/0") as file:
        assert file.size == len(DATA)
        read(file, [5, 9000, 77, 0], [1000, 1240, 0, 700], target)
    expected = DATA[5:1005] + DATA[9000:10240] + DATA[:700] + b"\xa5" * 60
    assert target.tobytes() == expected
    assert CuFile.files[0].reads == [(5, 1000), (9000, 1240), (0, 700)]  # none of 0 bytes


def test_a_missing_file_is_none_and_a_large_one_an_error(store: LocalStore) -> None:
    assert reader(store).open("a/c/1") is None
    with pytest.raises(LimitError, match="10240 bytes are stored"):
        reader(store).open("a/c/0", limit=100)
    assert not CuFile.files


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 5), (0, -1), (10000, 241), (10241, 0)])
def test_ranges_outside_the_file_are_refused(store: LocalStore, offset: int, nbytes: int) -> None:
    with reader(store).open("a/c/0") as file, pytest.raises(StoreError, match="a file of 10240"):
        file.read(np.array([offset]), np.array([nbytes]), np.array([0], np.uint64))
    assert CuFile.files[0].reads == []


def test_a_short_read_names_the_file(store: LocalStore) -> None:
    CuFile.results = {1: 99}
    text = r"store/a/c/0: asked for 100 bytes from 50.*after 99"
    with reader(store).open("a/c/0") as file, pytest.raises(StoreError, match=text):
        read(file, [0, 50, 60], [100, 100, 100], np.empty(300, np.uint8))
    assert CuFile.files[0].log == ["get"] * 3  # nothing writes any more


@pytest.mark.parametrize("error", [RuntimeError("cuFile: EIO"), OSError(5, "cuFile: EIO")])
def test_errors_of_the_library_name_the_file(store: LocalStore, error: Exception) -> None:
    CuFile.results = {0: error}
    text = r"store/a/c/0 into device memory.*cuFile: EIO"
    with reader(store).open("a/c/0") as file, pytest.raises(StoreError, match=text):
        read(file, [0, 50], [100, 100], np.empty(200, np.uint8))
    assert CuFile.files[0].log == ["get"] * 2


def test_what_was_begun_is_waited_for_when_the_next_read_cannot_begin(store: LocalStore) -> None:
    CuFile.results = {99: RuntimeError("no thread")}
    with reader(store).open("a/c/0") as file, pytest.raises(StoreError, match="no thread"):
        read(file, [0] * 100, [1] * 100, np.empty(100, np.uint8))
    assert CuFile.files[0].log == ["get"] * 99


def test_links_out_of_the_store_are_refused_and_others_are_followed(
    store: LocalStore, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink(tmp_path / "secret", tmp_path / "store/a/out")
    os.symlink("c/0", tmp_path / "store/a/in")
    os.symlink("nowhere", tmp_path / "store/a/dangling")
    for key in ("a/out", "a/dangling", "a/c"):
        with pytest.raises(StoreError):
            reader(store).open(key)
    assert not CuFile.files
    with reader(store).open("a/in") as file:
        assert file.size == len(DATA)


def test_a_file_exchanged_while_it_is_opened_is_opened_again(store: LocalStore) -> None:
    versions = iter([b"x" * 100, b"y" * 200])

    def replace(path: str) -> None:
        if (data := next(versions, None)) is not None:
            store.set("a/c/0", data)

    CuFile.before_open = replace
    target = np.empty(200, np.uint8)
    with reader(store).open("a/c/0") as file:
        read(file, [0], [200], target)
    assert target.tobytes() == b"y" * 200
    assert len(CuFile.files) == 3


def test_a_link_put_in_place_of_the_file_is_noticed(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")

    def exchange(path: str) -> None:
        os.unlink(path)
        os.symlink(tmp_path / "secret", path)

    CuFile.before_open = exchange
    with pytest.raises(StoreError, match="out of the store"):
        reader(store).open("a/c/0")


def test_endless_exchange_is_an_error(store: LocalStore) -> None:
    CuFile.before_open = lambda path: store.set("a/c/0", DATA)
    with pytest.raises(StoreError, match="replaced faster"):
        reader(store).open("a/c/0")
    assert len(CuFile.files) == module.TRIES


def test_a_file_that_cannot_be_opened_is_an_error(store: LocalStore) -> None:
    def refuse(path: str) -> None:
        raise RuntimeError("Unable to open file")

    CuFile.before_open = refuse
    with pytest.raises(StoreError, match=r"cannot open .*a/c/0.*Unable"):
        reader(store).open("a/c/0")


def test_stores_without_files_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="not a file of its own"):
        reader(MemoryStore({"a": b"1"})).open("a")


def test_members_of_archives_are_refused(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "a.zip", "w") as archive:
        archive.set("a", DATA)
        with pytest.raises(UnsupportedError, match="not a file of its own"):
            reader(archive).open("a")
