import os
import pickle
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

import zarr_gpu.stores.fsspec
from tests.stores.checks import OBJECTS, TEN, ReadableStore, WritableStore, fill
from zarr_gpu.errors import (
    LimitError,
    MissingDependencyError,
    StoreError,
    UnsafeConcurrentWriteError,
)
from zarr_gpu.stores.base import ByteRange
from zarr_gpu.stores.fsspec import FsspecStore


class RemoteFileSystem(AsyncFileSystem):
    """An asynchronous file system that is not of this machine, over fsspec's memory."""

    protocol = "far"
    cachable = False

    @property
    def under(self):
        return MemoryFileSystem()

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        size = self.under.size(path)
        if start is not None and start >= size:
            raise OSError(f"416 Requested Range Not Satisfiable: {start} of {size}")
        return self.under.cat_file(path, start, end)

    async def _pipe_file(self, path, value, mode="overwrite", **kwargs):
        self.under.pipe_file(path, value, mode=mode)

    async def _info(self, path, **kwargs):
        return self.under.info(path)

    async def _ls(self, path, detail=True, **kwargs):
        return self.under.ls(path, detail=detail)

    async def _rm_file(self, path, **kwargs):
        self.under.rm_file(path)


@pytest.fixture(params=["memory", "asynchronous"])
def empty_store(request):
    root = f"/{uuid.uuid4().hex}/x"
    fs = MemoryFileSystem() if request.param == "memory" else RemoteFileSystem()
    return FsspecStore(fs, root)


class TestReading(ReadableStore):
    @pytest.fixture
    def store(self, empty_store):
        return fill(empty_store)


class TestWriting(WritableStore):
    @pytest.fixture
    def empty(self, empty_store):
        return empty_store

    def test_lock_excludes_threads(self, empty):
        if empty.local:
            super().test_lock_excludes_threads(empty)
        else:
            with pytest.raises(UnsafeConcurrentWriteError, match=r"array\.concurrent_writes"):
                empty.lock("n")

    def test_lock_may_be_taken_again_by_its_thread(self, empty):
        if empty.local:
            super().test_lock_may_be_taken_again_by_its_thread(empty)


class TestRealDirectories(WritableStore):
    @pytest.fixture
    def empty(self, tmp_path):
        return FsspecStore(fsspec.filesystem("file"), str(tmp_path))


@pytest.mark.parametrize("prefix", ["a", "[ab]", "a*"])
def test_directories_go_with_their_objects_and_no_others(tmp_path, prefix):
    store = FsspecStore(fsspec.filesystem("file"), str(tmp_path))
    for key in (f"{prefix}/c/0", "b/c/0", "ab/c"):
        store.set(key, b"1")
    store.delete_prefix(prefix)
    assert sorted(store.list_prefix()) == ["ab/c", "b/c/0"]
    if prefix == "a":
        assert not (tmp_path / prefix).exists()


class Upload(AbstractBufferedFile):
    """In pieces; they are an object once they are committed."""

    def _initiate_upload(self):
        self.pieces = []

    def _upload_chunk(self, final=False):
        self.pieces.append(self.buffer.getvalue())
        self.fs.most = max(self.fs.most, len(self.pieces[-1]))

    def commit(self):
        self.fs.under.pipe_file(self.path, b"".join(self.pieces)[self.fs.lost :])

    def discard(self):
        self.fs.discarded += 1


class UploadingFileSystem(RemoteFileSystem):
    most = 0
    discarded = 0
    lost = 0

    def _open(self, path, mode="rb", block_size=None, autocommit=True, **kwargs):
        assert not autocommit
        return Upload(self, path, mode, block_size=7, autocommit=autocommit, **kwargs)


@pytest.fixture(params=["memory", "file", "whole objects", "uploads"])
def any_store(request, tmp_path):
    if request.param == "file":
        return FsspecStore(fsspec.filesystem("file"), str(tmp_path))
    if request.param == "memory":
        fs = MemoryFileSystem()
    else:
        fs = UploadingFileSystem() if request.param == "uploads" else RemoteFileSystem()
    return FsspecStore(fs, f"/{uuid.uuid4().hex}")


@pytest.mark.parametrize("most", [5, 6, 1000])
def test_objects_of_parts(any_store, monkeypatch, most):
    monkeypatch.setattr(zarr_gpu.stores.fsspec, "JOINED_NBYTES", most)
    memory = bytearray(3)  # used again for each part

    def parts():
        for i in range(9):
            memory[:] = bytes([i, i, i])
            yield memory

    assert any_store.set_parts("new/key", parts)
    assert bytes(any_store.get("new/key")) == bytes(i // 3 for i in range(27))
    assert not any_store.set_parts("none", list)
    assert any_store.get("none") is None
    if isinstance(any_store.fs, UploadingFileSystem):
        assert any_store.fs.most == (9 if most < 10 else 0)  # the others were written as a whole


@pytest.mark.parametrize("most", [5, 1000])
def test_parts_that_cannot_be_made_leave_the_old_object(any_store, monkeypatch, most):
    monkeypatch.setattr(zarr_gpu.stores.fsspec, "JOINED_NBYTES", most)
    any_store.set("key", b"old")

    def parts():
        yield bytes(20)
        yield bytes(20)
        raise KeyboardInterrupt

    for key in ("key", "other"):
        with pytest.raises(KeyboardInterrupt):
            any_store.set_parts(key, parts)
    assert bytes(any_store.get("key")) == b"old"
    assert any_store.get("other") is None
    if isinstance(any_store.fs, UploadingFileSystem):
        assert any_store.fs.discarded == (2 if most < 10 else 0)


def test_an_upload_that_loses_bytes_is_an_error(monkeypatch):
    monkeypatch.setattr(zarr_gpu.stores.fsspec, "JOINED_NBYTES", 5)
    monkeypatch.setattr(UploadingFileSystem, "lost", 1)
    store = FsspecStore(UploadingFileSystem(), f"/{uuid.uuid4().hex}")
    with pytest.raises(StoreError, match=r"'key' .* is not of 40 bytes"):
        store.set_parts("key", lambda: [bytes(20), bytes(20)])


def remote(root=None):
    """A filled store; one that sees what was patched meanwhile when ``root`` is given."""
    if root is None:
        return fill(FsspecStore(RemoteFileSystem(), f"/{uuid.uuid4().hex}"))
    return FsspecStore(RemoteFileSystem(), root)


@pytest.mark.parametrize("error", [PermissionError("403"), OSError("503"), ValueError("html")])
def test_only_not_found_is_missing(monkeypatch, error):
    store = remote()

    async def refuse(*_, **__):
        raise error

    monkeypatch.setattr(RemoteFileSystem, "_cat_file", refuse)
    store = remote(store.path)
    with pytest.raises(StoreError, match=str(error)):
        store.get(TEN)
    with pytest.raises(StoreError, match=str(error)):
        store.get_many([TEN, TEN], np.array([0, 0]), np.array([-1, -1]))
    monkeypatch.setattr(RemoteFileSystem, "_info", refuse)
    store = remote(store.path)
    for ask in (store.get, store.size, store.exists, store.open_reader):
        with pytest.raises(StoreError, match=str(error)):
            ask(TEN)


def test_timeouts_are_transient(monkeypatch):
    async def wait(*_, **__):
        raise TimeoutError

    store = remote()
    monkeypatch.setattr(RemoteFileSystem, "_info", wait)
    store = remote(store.path)
    with pytest.raises(StoreError) as error:
        store.size(TEN)
    assert error.value.transient


def test_short_body_is_an_error(monkeypatch):
    store = remote()

    async def half(self, path, start=None, end=None, **_):
        return self.under.cat_file(path, start, end)[:2]

    monkeypatch.setattr(RemoteFileSystem, "_cat_file", half)
    store = remote(store.path)
    with store.open_reader(TEN) as reader, pytest.raises(StoreError, match="asked for 5"):
        reader.read(0, 5)


def test_many_ranges_are_one_call(monkeypatch):
    store = remote()
    calls = []
    cat_ranges = RemoteFileSystem._cat_ranges

    async def count(self, paths, *args, **kwargs):
        calls.append(len(paths))
        return await cat_ranges(self, paths, *args, **kwargs)

    monkeypatch.setattr(RemoteFileSystem, "_cat_ranges", count)
    store = remote(store.path)
    with store.open_reader("a/c/0/1") as reader:
        reader.read_many(np.array([0, 100, 200]), np.array([5, 5, 5]))
    assert calls == [3]


def test_asynchronous_file_systems_are_made_synchronous():
    root = f"/{uuid.uuid4().hex}"
    fill(FsspecStore(MemoryFileSystem(), root))
    assert FsspecStore(RemoteFileSystem(asynchronous=True), root).get(TEN) == OBJECTS[TEN]
    wrapper = pytest.importorskip("fsspec.implementations.asyn_wrapper")
    wrapped = wrapper.AsyncFileSystemWrapper(MemoryFileSystem(), asynchronous=True)
    assert FsspecStore(wrapped, root).get(TEN) == OBJECTS[TEN]


def test_forked_process_reads():
    store = remote()
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get(TEN) == OBJECTS[TEN] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_equal_across_threads_and_pickles():
    url = f"memory://{uuid.uuid4().hex}"
    made = []
    thread = threading.Thread(target=lambda: made.append(FsspecStore.from_url(url)))
    thread.start()
    thread.join()
    store = FsspecStore.from_url(url)
    assert store == made[0]
    assert pickle.loads(pickle.dumps(store)) == store
    assert store != FsspecStore.from_url(url + "x")


def test_missing_package_is_named(monkeypatch):
    from fsspec.registry import known_implementations

    monkeypatch.setitem(
        known_implementations, "odd", {"class": "no_such_module.Fs", "err": "Install oddfs"}
    )
    with pytest.raises(MissingDependencyError, match="Install oddfs"):
        FsspecStore.from_url("odd://x")


# -- HTTP --------------------------------------------------------------------------------------


@pytest.fixture(params=["ranges", "no ranges"])
def http(request):
    """A server with or without ranges, and the log of what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            asked.append((self.command, self.headers.get("Range")))
            key = self.path.removeprefix("/data/")
            if key == "secret":
                return self.answer(403, b"no")
            if key not in OBJECTS:
                return self.answer(404, b"no")
            data, status = OBJECTS[key], 200
            wanted = self.headers.get("Range")
            if wanted and request.param == "ranges":
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start = int(first) if first else max(0, len(data) - int(last))
                if start >= len(data):
                    return self.answer(416, b"")
                data = data[start : int(last) + 1 if first and last else None]
                status = 206
            return self.answer(status, data)

        def answer(self, status, data):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/data"
    server.shutdown()
    server.server_close()


def test_http_with_and_without_ranges(http):
    pytest.importorskip("aiohttp", reason="http of fsspec needs aiohttp")
    store = FsspecStore.from_url(http, read_only=True)
    assert bytes(store.get(TEN)) == OBJECTS[TEN]
    assert bytes(store.get(TEN, limit=10)) == OBJECTS[TEN]
    assert bytes(store.get(TEN, ByteRange(3, 4))) == b"3456"
    assert bytes(store.get(TEN, ByteRange(7))) == b"789"
    assert bytes(store.get(TEN, ByteRange(-3))) == b"789"
    assert store.get("a/c/9") is None
    with pytest.raises(LimitError):
        store.get("a/c/0/1", limit=100)
    with pytest.raises(StoreError, match="403"):
        store.get("secret")
    with store.open_reader("a/c/0/1") as reader:
        assert bytes(reader.read(500, 3)) == OBJECTS["a/c/0/1"][500:503]
