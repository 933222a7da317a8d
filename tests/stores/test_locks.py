import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading

import pytest

from zarr_gpu.errors import UnsafeConcurrentWriteError
from zarr_gpu.stores import locks
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.locks import file_lock, lock_many, process_lock

COUNT = """
import sys
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores import locks
locks._HAS_OFD = locks._HAS_OFD and sys.argv[4] == "ofd"
store = LocalStore(sys.argv[1])
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    with store.lock(sys.argv[2]):
        n = int(store.get(sys.argv[2]))
        store.set(sys.argv[2], b"%d" % (n + 1))
"""


@pytest.mark.parametrize("kind", ["ofd", "flock"])
@pytest.mark.parametrize("name", ["c/0/0", "zarr.json"])
def test_processes_with_different_roots_lose_no_update(tmp_path, kind, name):
    store = LocalStore(tmp_path)
    store.set(f"g/a/{name}", b"0")
    counters = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(root), key, "150", kind], stdin=subprocess.PIPE
        )
        for root, key in [(tmp_path, f"g/a/{name}"), (tmp_path / "g/a", name)]
    ]
    for counter in counters:
        counter.stdin.write(b"\n")
        counter.stdin.close()
    for counter in counters:
        assert counter.wait() == 0
    assert store.get(f"g/a/{name}") == b"300"


def test_threads_that_take_several_locks_do_not_wait_for_each_other(tmp_path):
    store = LocalStore(tmp_path)
    counts = [0, 0, 0]
    keys = ["c/0/0", "c/0/1", "d/e"]

    def work(mine):
        for _ in range(50):
            with lock_many(store, [keys[i] for i in mine]):
                for i in mine:
                    seen = counts[i]
                    os.stat(tmp_path)  # lets other threads run
                    counts[i] = seen + 1

    threads = [threading.Thread(target=work, args=(m,)) for m in [(0, 1), (1, 0), (2, 1, 0)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counts == [150, 150, 50]


def test_names_with_equal_hashes_do_not_stop_their_thread(tmp_path, monkeypatch):
    class Same:
        def __init__(self, *_, **__): ...
        def digest(self):
            return bytes(8)

    monkeypatch.setattr(hashlib, "blake2b", Same)
    path = str(tmp_path / "lock")
    with file_lock(path, "a"), file_lock(path, "b"):
        pass
    with file_lock(path, "a"):
        pass


@pytest.mark.parametrize("ofd", [True, False])
def test_locking_metadata_leaves_no_file(tmp_path, monkeypatch, ofd):
    monkeypatch.setattr(locks, "_HAS_OFD", ofd and locks._HAS_OFD)
    store = LocalStore(tmp_path)
    for name in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata", ".zarray"):
        with store.lock(f"g/{name}"), store.lock(f"g/{name}"):
            assert os.listdir(tmp_path / "g")
        assert os.listdir(tmp_path / "g") == []
    with store.lock("g/c/0"):  # of many chunks: its file stays
        with store.lock("g/zarr.json"):
            pass
        assert any(name.startswith(".zg-lock") for name in os.listdir(tmp_path / "g"))


def test_lock_file_that_is_not_ours_any_more_is_not_removed(tmp_path):
    path = tmp_path / "lock"
    with file_lock(str(path), "a", tidy=True):
        path.unlink()
        path.write_bytes(b"")  # that of somebody else
    assert path.exists()


def test_nothing_is_kept_after_release(tmp_path):
    before = len(os.listdir("/dev/fd"))
    with file_lock(str(tmp_path / "lock"), "a"), process_lock("b"):
        assert len(locks._names) == 2
    assert not locks._names
    assert not locks._fds
    assert len(os.listdir("/dev/fd")) == before


def test_lock_file_deleted_while_waiting_is_made_again(tmp_path):
    path = str(tmp_path / "lock")
    inside = threading.Event()
    order = []

    def wait():
        inside.set()
        with locks.file_lock(path, "a"):
            order.append(os.path.exists(path))

    with file_lock(path, "a"):
        locks._names.clear()  # so that the thread waits for the file and not for us
        thread = threading.Thread(target=wait)
        thread.start()
        inside.wait()
        os.unlink(path)
        order.append("first")
    thread.join(20)
    assert order in (["first", True], [True, "first"])
    assert os.path.exists(path)


def test_forked_child_neither_holds_nor_releases_the_parents_lock(tmp_path):
    path = str(tmp_path / "lock")
    with file_lock(path, "a"):
        child = os.fork()
        if child == 0:
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.fcntl(fd, locks._OFD_SETLK, locks._range(fcntl.F_WRLCK, slot_of("a"), 1))
            except OSError:
                os._exit(0 if not locks._fds else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert try_lock(path) == errno.EAGAIN
    assert try_lock(path) == 0


def slot_of(name):
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 2


def try_lock(path):
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, locks._OFD_SETLK, locks._range(fcntl.F_WRLCK, slot_of("a"), 1))
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)
    return 0


def test_no_locks_on_the_file_system_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with (
        pytest.raises(UnsafeConcurrentWriteError, match=r"array\.concurrent_writes"),
        LocalStore(tmp_path).lock("a"),
    ):
        pass
