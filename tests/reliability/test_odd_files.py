"""What is not a plain file in its place is an error: never a missing chunk, a hang or an escape."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from tests.reliability.layouts import LAYOUTS, PATH, Layout
from zarr_gpu.errors import ChunkError, StoreError, ZarrGpuError
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.zip import ZipStore

SECRET = b"secret outside the store"
NAMES = ["raw", "zstd", "shard", "v2-zstd"]
SOME = [layout for layout in LAYOUTS if layout.name in NAMES]
each_layout = pytest.mark.parametrize("layout", SOME, ids=str)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Opening a FIFO to read would wait for ever."""

    def give_up(*_: Any) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def directory(path: Path) -> None:
    path.mkdir()


def full_directory(path: Path) -> None:
    (path / "below").mkdir(parents=True)
    (path / "below" / "0").write_bytes(b"x")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def dangling_outside(path: Path) -> None:
    path.symlink_to("/nonexistent/file")


def loop(path: Path) -> None:
    path.symlink_to(path)


def escape(path: Path) -> None:
    outside = path.parents[4] / "outside"
    outside.write_bytes(SECRET)
    path.symlink_to(outside)


def relative_escape(path: Path) -> None:
    escape(path)
    target = os.path.relpath(os.readlink(path), path.parent)
    path.unlink()
    path.symlink_to(target)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def socket_file(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


ODD: dict[str, Callable[[Path], None]] = {
    "directory": directory,
    "full directory": full_directory,
    "FIFO": os.mkfifo,
    "dangling link": dangling,
    "dangling link outside": dangling_outside,
    "loop": loop,
    "escape": escape,
    "relative escape": relative_escape,
    "device": device,
    "socket": socket_file,
}
each_odd = pytest.mark.parametrize("odd", ODD)


def make(layout: Layout, root: Path) -> Any:
    layout.create(root)[...] = layout.data
    return zarr_gpu.open_array(root, path=PATH, mode="r")


@each_layout
@each_odd
def test_in_place_of_a_chunk(layout: Layout, odd: str, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "store"
    array = make(layout, root)
    path = root / layout.key
    path.unlink()
    ODD[odd](path)
    for selection in (..., np.s_[1, 1], np.s_[0:3, ::2]):
        with pytest.raises((StoreError, ChunkError)) as caught:
            array[selection]
        assert layout.key in str(caught.value)
        assert SECRET.decode() not in str(caught.value)
    np.testing.assert_array_equal(array[16:], layout.data[16:])
    writable = zarr_gpu.open_array(root, path=PATH, mode="r+")
    with pytest.raises((StoreError, ChunkError)):
        writable[1, 1] = 5


@each_odd
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_in_place_of_a_document(odd: str, zarr_format: int, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er" / "and" / "store"
    zarr_gpu.create_array(root, name="a", data=np.arange(9), chunks=(3,), zarr_format=zarr_format)
    path = root / "a" / ("zarr.json" if zarr_format == 3 else ".zarray")
    path.unlink()
    ODD[odd](path)
    for call in (
        lambda: zarr_gpu.open_array(root, path="a", mode="r"),
        lambda: zarr_gpu.open_group(root, mode="r")["a"],
        lambda: zarr_gpu.open_array(root, path="a", mode="r+"),
    ):
        with pytest.raises(ZarrGpuError) as caught:
            call()
        assert isinstance(caught.value, StoreError), odd
    with pytest.raises(ZarrGpuError):
        zarr_gpu.create_array(root, name="a", shape=(3,), dtype="i4", zarr_format=zarr_format)


@each_layout
def test_a_file_in_place_of_a_directory(layout: Layout, tmp_path: Path) -> None:
    array = make(layout, tmp_path)
    where = tmp_path / PATH if layout.zarr_format == 2 else tmp_path / PATH / "c"
    shutil.rmtree(where)
    where.write_bytes(b"a file")
    with pytest.raises(StoreError):
        LocalStore(tmp_path).get(layout.key)
    with pytest.raises(StoreError):
        array[...]


@pytest.mark.parametrize("odd", [name for name in ODD if not name.endswith("directory")])
def test_in_place_of_the_directory_of_chunks(odd: str, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er" / "and" / "even" / "store"
    zarr_gpu.create_array(root, name="a", data=np.arange(9), chunks=(3,), fill_value=-1)
    shutil.rmtree(root / "a" / "c")
    ODD[odd](root / "a" / "c")
    array = zarr_gpu.open_array(root, path="a", mode="r")
    with pytest.raises(StoreError):
        array[...]


def test_links_out_of_the_store_are_neither_listed_into_nor_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0").write_bytes(SECRET)
    root = tmp_path / "store"
    zarr_gpu.create_array(root, shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)
    (root / "c").symlink_to(outside)
    array = zarr_gpu.open_array(root, mode="r+")
    with pytest.raises(StoreError):
        array[...]
    with pytest.raises(StoreError):
        array[...] = 5
    assert [p.name for p in outside.iterdir()] == ["0"]
    assert (outside / "0").read_bytes() == SECRET
    assert not [key for key in LocalStore(root).list_prefix() if key.startswith("c/")]
    zarr_gpu.create_array(root, shape=(4,), chunks=(2,), dtype="i4", overwrite=True)
    assert (outside / "0").read_bytes() == SECRET


# -- zip files --------------------------------------------------------------------------------


def zipped(path: Path, compression: int) -> bytes:
    with ZipStore(path, "w", compression=compression) as store:
        zarr_gpu.create_array(
            store, data=np.arange(60, dtype="i4"), chunks=(20,), compressors=None, fill_value=-7
        )
    return path.read_bytes()


def read_zip(path: Path) -> Any:
    with ZipStore(path) as store:
        return zarr_gpu.open_array(store, mode="r")[...]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.filterwarnings("ignore:.*members are ignored:UserWarning")
def test_damaged_zip_files_are_refused_or_read_right(compression: int, tmp_path: Path) -> None:
    import random

    path = tmp_path / "a.zip"
    good = zipped(path, compression)
    right = np.arange(60)
    np.testing.assert_array_equal(read_zip(path), right)
    rng = random.Random(4)
    damaged = [good[:n] for n in range(0, len(good), 29)] + [good[29:], good + b"x" * 70_000]
    for _ in range(400):
        copy = bytearray(good)
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(copy))
    for i, data in enumerate(damaged):
        path.write_bytes(data)
        try:
            found = read_zip(path)
        except ZarrGpuError:
            continue
        missing = found == -7
        assert found.shape == right.shape, i
        # A name changed in the directory is a chunk that is not there: nothing says it should be.
        assert ((found == right) | missing).all(), f"damage {i}: wrong values"


def test_zip_members_that_leave_the_archive_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    zipped(path, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../up", "/abs", "a/../../up", "c/../zarr.json", "a\\b"):
            archive.writestr(name, b"x")
    with pytest.warns(UserWarning, match="members are ignored"):
        store = ZipStore(path)
    assert sorted(store.list_prefix()) == ["c/0", "c/1", "c/2", "zarr.json"]
    assert not (tmp_path / "up").exists()


def test_a_zip_directory_that_claims_other_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    good = zipped(path, zipfile.ZIP_STORED)
    at = good.rindex(b"PK\x01\x02", 0, good.rindex(b"c/2"))
    for size in (0, 1, 79, 81, 2**31, 2**32 - 2):
        sizes = struct.pack("<II", size, size)
        path.write_bytes(good[: at + 20] + sizes + good[at + 28 :])
        with pytest.raises(ZarrGpuError):
            read_zip(path)
