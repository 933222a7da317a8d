import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.stores.checks import OBJECTS, ReadableStore, WritableStore, fill
from zarr_gpu.config import config
from zarr_gpu.errors import LimitError, StoreError, StoreKeyError
from zarr_gpu.stores import directories
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.locks import lock_place


@pytest.fixture
def store(tmp_path):
    return fill(LocalStore(tmp_path / "store"))


class TestReading(ReadableStore):
    @pytest.fixture
    def store(self, tmp_path):
        return fill(LocalStore(tmp_path / "made" / "when needed"))


class TestWriting(WritableStore):
    @pytest.fixture(params=[False, True], ids=["fast", "durable"])
    def empty(self, request, tmp_path):
        return LocalStore(tmp_path / "store", durable=request.param)

    @pytest.fixture(autouse=True)
    def no_temporary_files_are_left(self, empty):
        yield
        names = {name for _, _, files in os.walk(empty.root) for name in files}
        assert {name for name in names if name.startswith(".zg-")} <= {".zg-lock"}


# -- odd files ---------------------------------------------------------------------------------


@pytest.fixture(params=["fifo", "directory", "dangling", "loop", "escape", "device"])
def odd(request, tmp_path, store):
    """A store whose key ``a/c/0/9`` is no object of it."""
    path = tmp_path / "store/a/c/0/9"
    (tmp_path / "secret").write_bytes(b"secret")
    make = {
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "dangling": lambda: path.symlink_to("nothing"),
        "loop": lambda: path.symlink_to("9"),
        "escape": lambda: path.symlink_to(tmp_path / "secret"),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[request.param]()
    return store


def test_odd_files_are_errors_and_not_missing(odd):
    for ask in (odd.get, odd.size, odd.exists, odd.open_reader):
        with pytest.raises(StoreError):
            ask("a/c/0/9")


def test_odd_files_are_errors_when_links_are_followed_too(odd):
    following = LocalStore(odd.root, follow_symlinks=True)
    if os.path.isfile(f"{odd.root}/a/c/0/9"):
        assert following.get("a/c/0/9") == b"secret"
    else:
        with pytest.raises(StoreError):
            following.get("a/c/0/9")


@pytest.mark.parametrize("others", [[], ["a/c/0/0"]], ids=["path", "name"])
def test_odd_files_fill_no_buffer(odd, others):
    """A FIFO looks empty: that no chunk has that size is for the caller to see."""
    buffer = memoryview(bytearray(99))
    try:
        lengths = list(odd.fill([*others, "a/c/0/9"], [buffer] * 2))
    except StoreError:
        return
    assert lengths[-1] == 0
    assert b"secret" not in bytes(buffer)


def test_links_inside_the_root_are_followed_when_buffers_are_filled(store):
    os.symlink("0", f"{store.root}/a/c/0/9")
    os.symlink("a", f"{store.root}/b")
    buffer = memoryview(bytearray(10))
    assert list(store.fill(["a/c/0/9", "b/c/0/9"], [buffer] * 2)) == [10, 10]
    assert bytes(buffer) == OBJECTS["a/c/0/0"]


def test_directory_that_leaves_the_root_fills_no_buffer(tmp_path, store):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/1").write_bytes(b"1")
    os.symlink(tmp_path / "outside", f"{store.root}/link")
    for keys in (["link/1"], ["zarr.json", "link/1"]):
        with pytest.raises(StoreError, match="follow_symlinks"):
            list(store.fill(keys, [memoryview(bytearray(9))] * 2))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no list of open files here")
def test_filling_leaves_no_file_open(store):
    keys = ["a/c/0/0", "ab/c/0", "zarr.json", "a/c/0/0"]
    before = sorted(os.listdir("/proc/self/fd"))
    for stop in range(len(keys) + 1):
        lengths = store.fill(keys, [memoryview(bytearray(10))] * 4)
        for _ in range(stop):
            next(lengths)
        lengths.close()
        assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(LimitError):
        list(store.fill(keys, [memoryview(bytearray(1))] * 4))
    with pytest.raises(StoreKeyError):
        list(store.fill(["a/c/0/0", "../0"], [memoryview(bytearray(10))] * 2))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_buffers_are_filled_by_path_where_directories_have_no_descriptors(store, monkeypatch):
    monkeypatch.setattr(os, "supports_dir_fd", set())
    keys = ["a/c/0/0", "a/c/0/1", "a/c/9/0"]
    assert list(store.fill(keys, [memoryview(bytearray(26000))] * 3)) == [10, 25600, -1]


def test_link_inside_the_root_is_followed(store):
    os.symlink("0", f"{store.root}/a/c/0/9")
    os.symlink("a", f"{store.root}/b")
    assert store.get("a/c/0/9") == OBJECTS["a/c/0/0"]
    assert store.get("b/c/0/9") == OBJECTS["a/c/0/0"]


@pytest.mark.parametrize("write", ["get", "set", "delete", "delete_prefix", "lock", "list_dir"])
def test_directory_that_leaves_the_root_is_an_error(tmp_path, store, write):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"1")
    os.symlink(outside, f"{store.root}/link")
    call = {
        "get": lambda: store.get("link/x"),
        "set": lambda: store.set("link/new/y", b""),
        "delete": lambda: store.delete("link/x"),
        "delete_prefix": lambda: store.delete_prefix("link/x"),
        "lock": lambda: store.lock("link/x").__enter__(),
        "list_dir": lambda: store.list_dir("link"),
    }[write]
    with pytest.raises(StoreError, match="follow_symlinks"):
        call()
    assert sorted(os.listdir(outside)) == ["x"]
    assert "link" in list(store.list_prefix())


def test_deleting_a_link_leaves_what_it_points_at(tmp_path, store):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"1")
    os.symlink(outside, f"{store.root}/a/link")
    store.delete_prefix("a")
    os.symlink(outside, f"{store.root}/link")
    store.delete_prefix()
    assert (outside / "x").read_bytes() == b"1"
    assert list(store.list_prefix()) == []


def test_file_where_a_directory_should_be_is_an_error(store):
    store.set("file", b"")
    with pytest.raises(StoreError):
        store.get("file/c/0")
    with pytest.raises(StoreError):
        store.set("file/c/0", b"")


def test_dangling_directory_is_an_error(store):
    os.symlink("not/mounted", f"{store.root}/data")
    with pytest.raises(StoreError, match="dangling"):
        store.get("data/c/0/1")


def test_links_in_circles_are_listed_once(store):
    os.symlink("..", f"{store.root}/a/up")
    assert sorted(k for k in store.list_prefix() if k.endswith("0/0")) == ["a/c/0/0"]


def test_root_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        LocalStore(tmp_path / "file").get("zarr.json")


def test_missing_root_holds_nothing(tmp_path):
    store = LocalStore(tmp_path / "none")
    assert store.get("zarr.json") is None
    assert list(store.list_prefix()) == []
    store.delete("x")
    store.delete_prefix()
    assert not os.path.exists(store.root)


def test_huge_sparse_file_is_refused_before_it_is_read(store):
    with open(f"{store.root}/huge", "wb") as file:
        file.truncate(10 << 40)
    with pytest.raises(LimitError):
        store.get("huge", limit=1 << 20)
    with store.open_reader("huge") as reader:
        assert reader.read(5 << 40, 3) == bytes(3)


def test_file_cut_while_open_is_an_error(store):
    with store.open_reader("a/c/0/1") as reader:
        os.truncate(f"{store.root}/a/c/0/1", 10)
        with pytest.raises(StoreError, match="ended after"):
            reader.read(0, 100)
        with pytest.raises(StoreError, match="ended after"):
            reader.read_into(5, memoryview(bytearray(100)))


def test_reader_keeps_the_version_it_opened(store):
    with store.open_reader("a/c/0/0") as old:
        store.set("a/c/0/0", b"9876543210")
        with store.open_reader("a/c/0/0") as new:
            assert old.version != new.version
            assert bytes(old.read(0, 3)) == b"012"
            assert bytes(new.read(0, 3)) == b"987"


# -- writing -----------------------------------------------------------------------------------


def test_names_of_temporary_files_are_neither_keys_nor_listed(store):
    with open(f"{store.root}/a/.zg-0123", "wb"):
        pass
    assert store.list_dir("a") == ["c", "zarr.json"]
    assert not any(".zg-" in key for key in store.list_prefix())
    with pytest.raises(StoreKeyError):
        store.set("a/.zg-lock", b"")


def test_repair_removes_what_killed_writers_left(store):
    for name in (".zg-old", ".zg-new", ".zg-lock"):
        with open(f"{store.root}/a/{name}", "wb"):
            pass
    os.makedirs(f"{store.root}/a/.zg-deleted/c")
    for name in (".zg-old", ".zg-lock", ".zg-deleted"):
        os.utime(f"{store.root}/a/{name}", (0, 0))
    removed = [f"{store.root}/a/.zg-deleted", f"{store.root}/a/.zg-old"]
    assert sorted(store.repair()) == removed
    assert sorted(os.listdir(f"{store.root}/a")) == [".zg-lock", ".zg-new", "c", "zarr.json"]


@pytest.mark.parametrize("durable", [False, True])
def test_failed_write_leaves_the_old_object_and_no_temporary_file(store, monkeypatch, durable):
    def full(fd, data):
        raise OSError(28, "No space left on device")

    store = LocalStore(store.root, durable=durable)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left") as error:
        store.set_many([("a/c/0/0", b"new"), ("n/0", b"new")])
    assert error.value.errno == 28
    monkeypatch.undo()
    assert store.get("a/c/0/0") == OBJECTS["a/c/0/0"]
    assert store.get("n/0") is None
    assert not [n for _, _, names in os.walk(store.root) for n in names if n.startswith(".zg-")]


def test_durable_writes_flush_before_they_rename_and_the_directory_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(kind(fd)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))

    def kind(fd):
        return "directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"

    store = LocalStore(tmp_path)
    store.set("a/0", b"1")
    assert calls == ["rename"]
    calls.clear()
    with config.set({"durable": True}):
        store.set_many([("a/0", b"1"), ("a/1", b"2"), ("a/2", b"3")])
    assert calls == ["file"] * 3 + ["rename"] * 3 + ["directory"]


def test_no_hard_links_falls_back_to_the_lock(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = LocalStore(tmp_path)
    assert store.set_if_absent("k", b"1")
    assert not store.set_if_absent("k", b"2")
    assert store.get("k") == b"1"


def test_writing_survives_others_deleting_the_directory(tmp_path):
    store, other = LocalStore(tmp_path), LocalStore(tmp_path)
    stop = threading.Event()

    def delete():
        while not stop.is_set():
            other.delete_prefix("d")
            time.sleep(0.0005)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        for i in range(200):
            store.set("d/e/k", b"%d" % i)
    finally:
        stop.set()
        thread.join()
    store.set("d/e/k", b"last")
    assert other.get("d/e/k") == b"last"


def test_killed_writer_leaves_whole_objects(tmp_path):
    code = """
import sys
from zarr_gpu.stores.local import LocalStore
store = LocalStore(sys.argv[1])
store.set("d/k", bytes([0]) * (4 << 20))
print("ready", flush=True)
for n in range(1, 10**9):
    store.set("d/k", bytes([n % 256]) * (4 << 20))
"""
    store = LocalStore(tmp_path)
    for delay in (0.0, 0.003, 0.007, 0.013):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            writer.stdout.readline()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        value = store.get("d/k")
        assert len(value) == 4 << 20
        assert len(set(value[:: 1 << 12])) == 1
    store.repair(older_than_s=-1)
    assert os.listdir(tmp_path / "d") == ["k"]


def test_one_process_creates(tmp_path):
    code = """
import sys
from zarr_gpu.stores.local import LocalStore
store = LocalStore(sys.argv[1])
sys.stdin.readline()
print(sum(store.set_if_absent(f"d/{i}", sys.argv[2].encode()) for i in range(200)))
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for n in range(2)
    ]
    won = [0, 0]
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for n, writer in enumerate(writers):
        won[n] = int(writer.communicate()[0])
    store = LocalStore(tmp_path)
    assert sum(won) == 200
    assert sum(store.get(f"d/{i}") == b"0" for i in range(200)) == won[0]


# -- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, directory, name",
    [
        ("a/c/0/1", "a", "c/0/1"),
        ("c/0/1", "", "c/0/1"),
        ("g/0/c/5", "g/0", "c/5"),
        ("a/0/1", "a/0", "1"),
        ("a/c", "a", "c"),
        ("zarr.json", "", "zarr.json"),
        ("a/c/x/1", "a/c/x", "1"),
    ],
)
def test_chunks_of_an_array_share_a_lock_file(key, directory, name):
    assert lock_place(key) == (directory, name)
    inside = lock_place(f"group/{key}")  # the same file, seen from a store one level up
    assert inside == (f"group/{directory}".rstrip("/"), name)


def test_locate_touches_no_disk(tmp_path):
    found = LocalStore(tmp_path / "none").locate(["a/b"])
    assert found.path == [str(tmp_path / "none/a/b")]
    assert (found.offset[0], found.nbytes[0], found.missing[0]) == (0, -1, False)


def test_pickle_keeps_the_settings(tmp_path):
    store = LocalStore(tmp_path, read_only=True, durable=True, follow_symlinks=True)
    again = pickle.loads(pickle.dumps(store))
    assert (again.read_only, again.durable, again.follow_symlinks) == (True, True, True)
    assert again == store
    assert store.with_read_only(False).durable
    assert LocalStore(tmp_path / "other") != store


def test_few_directories_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(directories, "MOST", 5)
    store = LocalStore(tmp_path)
    for i in range(20):
        store.set(f"{i}/k", b"1")
        assert store.get(f"{i}/k") == b"1"
    assert len(store._directories.trusted) <= 6
