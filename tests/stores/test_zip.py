import io
import os
import pickle
import struct
import zipfile

import pytest

from tests.stores.checks import OBJECTS, TEN, ReadableStore, WritableStore, fill
from zarr_gpu.errors import LimitError, StoreError, UnsupportedError
from zarr_gpu.stores.base import ByteRange
from zarr_gpu.stores.zip import ZipStore


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def compression(request):
    return request.param


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return path


class TestReading(ReadableStore):
    @pytest.fixture
    def store(self, tmp_path, compression):
        return ZipStore(write_zip(tmp_path / "z.zip", OBJECTS, compression))


class TestReadingWhatWasJustWritten(ReadableStore):
    @pytest.fixture
    def store(self, tmp_path, compression):
        with ZipStore(tmp_path / "z.zip", "w", compression=compression) as store:
            yield fill(store)

    def test_pickle_reads_the_same(self):
        """Only once the file is finished: see below."""


class TestWriting(WritableStore):
    @pytest.fixture
    def empty(self, tmp_path, compression):
        with ZipStore(tmp_path / "z.zip", "w", compression=compression) as store:
            yield store


class TestOpenFile(ReadableStore):
    @pytest.fixture
    def store(self, compression):
        file = io.BytesIO()
        write_zip(file, OBJECTS, compression)
        return ZipStore(file)

    def test_pickle_reads_the_same(self, store):
        with pytest.raises(TypeError, match="no path"):
            pickle.dumps(store)


def test_finished_file_is_read_by_zipfile_and_added_to(tmp_path, compression):
    path = tmp_path / "z.zip"
    with ZipStore(path, "x", compression=compression) as store:
        fill(store)
    with ZipStore(path, "a") as store:
        store.set("more", b"1")
        assert store.get(TEN) == OBJECTS[TEN]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {n: archive.read(n) for n in archive.namelist()} == {**OBJECTS, "more": b"1"}
    assert pickle.loads(pickle.dumps(ZipStore(path))).get("more") == b"1"
    with pytest.raises(StoreError):
        ZipStore(path, "x")


def test_file_objects_are_written(compression):
    file = io.BytesIO()
    with ZipStore(file, "w", compression=compression) as store:
        fill(store)
        assert bytes(store.get(TEN)) == OBJECTS[TEN]
    assert bytes(ZipStore(file).get(TEN)) == OBJECTS[TEN]


def test_replaced_member_is_listed_once_in_the_finished_file(tmp_path):
    with ZipStore(tmp_path / "z.zip", "w") as store:
        store.set("k", b"old")
        reader = store.open_reader("k")
        store.set("k", b"newer")
        assert bytes(reader.read(0, 3)) == b"old"
        assert bytes(store.get("k")) == b"newer"
    with zipfile.ZipFile(tmp_path / "z.zip") as archive:
        assert archive.namelist() == ["k"]
        assert archive.read("k") == b"newer"


def test_last_of_duplicate_members_wins(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("k", b"old")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("k", b"new")
    store = ZipStore(path)
    assert store.get("k") == b"new"
    assert list(store.list_prefix()) == ["k"]


def test_nothing_can_be_deleted(tmp_path):
    with ZipStore(tmp_path / "z.zip", "w") as store:
        store.set("a/k", b"1")
        store.delete("absent")
        store.delete_prefix("b")
        with pytest.raises(UnsupportedError, match="zip"):
            store.delete("a/k")
        with pytest.raises(UnsupportedError, match="zip"):
            store.delete_prefix("a")


def test_names_that_are_no_keys_are_ignored_with_a_warning(tmp_path):
    path = write_zip(
        tmp_path / "z.zip", {"../up": b"1", "/abs": b"1", "dir/": b"", "a//b": b"1", "ok": b"2"}
    )
    with pytest.warns(UserWarning, match="3 members are ignored"):
        store = ZipStore(path)
    assert list(store.list_prefix()) == ["ok"]


def test_locate_gives_ranges_of_the_file_for_stored_members(tmp_path, compression):
    path = write_zip(tmp_path / "z.zip", OBJECTS, compression)
    found = ZipStore(path).locate([TEN, "missing"])
    assert found.missing.tolist() == [False, True]
    if compression == zipfile.ZIP_DEFLATED:
        assert found.path == [None, None]
        return
    assert found.path == [str(path), None]
    start = int(found.offset[0])
    assert path.read_bytes()[start : start + int(found.nbytes[0])] == OBJECTS[TEN]


def test_local_header_longer_than_the_directorys(tmp_path):
    """Some writers put extra fields into one of the two headers only."""
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("k")
        member.extra = struct.pack("<2H4s", 0x9999, 4, b"\0" * 4)
        archive.writestr(member, b"0123")
        member.extra = b""
    assert ZipStore(path).get("k", ByteRange(1, 2)) == b"12"


# -- damage ------------------------------------------------------------------------------------

CENTRAL = b"PK\1\2"


def patched(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return ZipStore(path)


def patch_sizes(compressed, size, *, local=False):
    def change(data):
        at = data.rindex(CENTRAL)
        struct.pack_into("<2I", data, at + 20, compressed, size)

    return change


def test_flipped_bit_is_found(tmp_path, compression):
    value = os.urandom(1000)

    def flip(data):
        data[500] ^= 4

    store = patched(write_zip(tmp_path / "z.zip", {"k": value}, compression), flip)
    with pytest.raises(StoreError, match="damaged"):
        store.get("k")


def test_absurd_sizes_are_refused_before_anything_is_read(tmp_path):
    path = write_zip(tmp_path / "z.zip", {"k": b"0123"})
    store = patched(path, patch_sizes(0xF0000000, 0xF0000000))
    for ask in (store.get, store.open_reader, lambda k: store.locate([k])):
        with pytest.raises(StoreError, match="inside the file"):
            ask("k")
    with pytest.raises(LimitError):
        store.get("k", limit=100)


def test_stored_member_with_two_sizes_is_refused(tmp_path):
    store = patched(write_zip(tmp_path / "z.zip", {"k": b"0123"}), patch_sizes(4, 3))
    with pytest.raises(StoreError, match="sizes differ"):
        store.get("k")


def test_bomb_is_refused_by_its_size(tmp_path):
    path = write_zip(tmp_path / "z.zip", {"k": bytes(5 << 20)}, zipfile.ZIP_DEFLATED)
    store = ZipStore(path)
    with pytest.raises(LimitError):
        store.get("k", limit=1 << 20)
    assert store.get("k", ByteRange(-10), limit=10) == bytes(10)
    compressed = os.path.getsize(path)
    with pytest.raises(StoreError, match="cannot hold"):
        patched(path, patch_sizes(1000, 4 << 20)).get("k")
    assert compressed < 1 << 16


@pytest.mark.parametrize("declared", [1000, 3000])
def test_deflated_member_of_another_length_than_declared(tmp_path, declared):
    path = write_zip(tmp_path / "z.zip", {"k": os.urandom(2000)}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        compressed = archive.getinfo("k").compress_size
    with pytest.raises(StoreError, match="damaged"):
        patched(path, patch_sizes(compressed, declared)).get("k")


def test_directory_that_points_elsewhere_is_refused(tmp_path):
    path = write_zip(tmp_path / "z.zip", {"j": b"0123", "k": b"4567"})

    def point_at_first(data):
        struct.pack_into("<I", data, data.rindex(CENTRAL) + 42, 0)

    with pytest.raises(StoreError, match="not where"):
        patched(path, point_at_first).get("k")


def test_encrypted_and_strange_methods_are_unsupported(tmp_path):
    def encrypt(data):
        data[data.rindex(CENTRAL) + 8] |= 1

    with pytest.raises(UnsupportedError, match="encrypted"):
        patched(write_zip(tmp_path / "e.zip", {"k": b"1"}), encrypt).get("k")
    with pytest.raises(UnsupportedError, match="method"):
        ZipStore(write_zip(tmp_path / "b.zip", {"k": b"1"}, zipfile.ZIP_BZIP2)).get("k")


@pytest.mark.parametrize("cut", [0, 10, 60, -1])
def test_cut_file_is_no_zip_file(tmp_path, cut):
    path = write_zip(tmp_path / "z.zip", {"k": b"0123"})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StoreError, match="cannot open"):
        ZipStore(path)


def test_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "z.zip")
    with pytest.raises(StoreError, match="regular"):
        ZipStore(tmp_path / "z.zip")


def test_closed_store_says_so(tmp_path):
    store = ZipStore(write_zip(tmp_path / "z.zip", OBJECTS))
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get(TEN)


def test_forked_child_does_not_finish_its_parents_file(tmp_path):
    path = tmp_path / "z.zip"
    with ZipStore(path, "w") as store:
        store.set("a", b"1")
        before = path.read_bytes()
        child = os.fork()
        if child == 0:
            store.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert path.read_bytes() == before
        store.set("b", b"2")
    assert sorted(ZipStore(path).list_prefix()) == ["a", "b"]
