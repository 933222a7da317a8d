"""Threads, failures in the middle, and orders of work: right results, and nothing is leaked."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest

import zarr_gpu
from tests.device import devices
from tests.device.devices import emulated
from tests.device.ruled import Ruled, engine_of
from tests.device.test_read import BLOSC, field, stored
from zarr_gpu.device import engine as engines
from zarr_gpu.errors import ChunkDecodeError, StoreError
from zarr_gpu.stores.base import ByteRange, Reader, Store, check_limit
from zarr_gpu.stores.locks import process_lock
from zarr_gpu.stores.memory import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore::zarr_gpu.errors.DeviceFallbackWarning")

ZSTD, CRC = {"name": "zstd"}, {"name": "crc32c"}
KINDS = {
    "raw": {"chunks": (10, 7)},
    "blosc": {"chunks": (10, 7), "codecs": [BLOSC[0]]},
    "zstd": {"chunks": (10, 7), "codecs": [ZSTD, CRC]},
    "bz2": {"chunks": (10, 7), "codecs": [{"name": "numcodecs.bz2"}]},
    "shards": {"chunks": (5, 4), "shards": (20, 8), "codecs": [BLOSC[5]]},
    "uneven": {"chunks": ((10, 20, 7), (4, 4, 12)), "codecs": [ZSTD]},
}
SMALL = {"gpu.wave_nbytes": 600, "gpu.slab_nbytes": 1000}
"""Settings with which every read has many waves, and waves have several slabs."""


@pytest.fixture(autouse=True)
def _many_threads(monkeypatch):
    monkeypatch.setattr(devices, "_runtime", Ruled)


class Books:
    """What an engine holds, before and after."""

    def __init__(self, runtime):
        self.runtime = runtime
        runtime.synchronize()
        self.used_nbytes = runtime.used_nbytes

    def check(self, results=0):
        """All slabs are back, and all device memory but that of ``results``."""
        self.runtime.synchronize()
        for ring in (engine_of().slabs, engine_of().tables):
            ring._collect()
            assert not ring._busy
            assert ring.nbytes == sum(map(len, ring._free)), "a slab was lost"
        assert self.runtime.used_nbytes == self.used_nbytes + results, "a buffer was lost"


# -- threads --------------------------------------------------------------------------------------


@pytest.fixture
def ruled(monkeypatch):
    with emulated(monkeypatch, settings=SMALL) as runtime:
        runtime.watch(engine_of())
        yield runtime
        assert not runtime.broken, "without the engine's lock"


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_serves_one_thread_at_a_time(ruled, kind):
    data = field()
    array = stored(data, **KINDS[kind])
    device = array.to("cuda")
    for select in (..., np.s_[::2, ::-1]):
        assert (ruled.to_host(device[select]) == data[select]).all()
    out = np.empty(data.shape, "f8")
    device.read(out=out)
    device[...] = ruled.array(data + 1)
    device[3:30, 5] = ruled.array(np.float32(7))
    device[:10] = ruled.array(np.arange(20))  # cast
    ruled.fail_allocation = 3
    second = np.empty(data.shape, "f4")
    device.read(out=second)
    ruled.synchronize()
    ruled.fail_allocation = 3
    device[...] = ruled.array(data)
    with zarr_gpu.config.set({"gpu.min_nbytes": 1 << 20}):
        device[3:9]


@pytest.mark.parametrize("seed", range(2))
def test_threads_share_a_device(ruled, seed):
    """Each reads an array that all read, and writes and reads one of its own."""
    ruled.random.seed(seed)
    data = field((60, 50), seed=seed)
    shared = {kind: stored(data, **KINDS["uneven" if kind == "uneven" else kind])
              for kind in KINDS if kind != "uneven"}  # fmt: skip
    books = Books(ruled)

    def work(number):
        kinds = list(shared)
        own = zarr_gpu.create_array(
            MemoryStore(), shape=data.shape, chunks=(10, 7), dtype="f4", compressors=[BLOSC[5]]
        ).to("cuda")
        for turn in range(2):
            array = shared[kinds[(number + turn) % len(kinds)]].to("cuda")
            select = (..., np.s_[::-1, 3:40:2], np.s_[7])[(number + turn) % 3]
            out = np.empty(data[select].shape, "f4")
            array.read(select, out=out)
            own[...] = ruled.array(data + number)
            own[5:40, 3:20] = ruled.array(np.float32(number))
            back = np.empty(data.shape, "f4")
            own.read(out=back)
            ruled.synchronize()
            right = data + number
            right[5:40, 3:20] = number
            assert (out == data[select]).all()
            assert (back == right).all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    books.check()


@pytest.mark.parametrize("chain", ["blosc", "zstd"])
def test_threads_write_parts_of_one_array(ruled, chain):
    array = zarr_gpu.create_array(
        MemoryStore(), shape=(60, 21), chunks=(10, 7), dtype="f4",
        compressors=KINDS[chain]["codecs"],
    )  # fmt: skip
    data = field((60, 21))
    device = array.to("cuda")

    def work(start):
        device[start : start + 15] = ruled.array(data[start : start + 15])  # half a chunk is shared

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(0, 60, 15)))
    assert (array[...] == data).all()


def test_threads_on_two_devices(monkeypatch):
    data = field((60, 50))
    array = stored(data, codecs=[BLOSC[0]])
    with emulated(monkeypatch) as first, emulated(monkeypatch, index=1) as second:
        runtimes = [first, second]

        def work(number):
            device = array.to(f"cuda:{number % 2}")
            for select in (..., np.s_[::-3], np.s_[:, 5]):
                found = runtimes[number % 2].to_host(device[select])
                assert (found == data[select]).all()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert first.counts.launches and second.counts.launches
        assert engine_of(0).slabs is not engine_of(1).slabs


# -- stores that fail -----------------------------------------------------------------------------


class Injected(StoreError):
    """The failure asked for."""


class FailingStore(Store):
    """A dictionary; request number ``at`` raises, or does something else first."""

    def __init__(self, data, *, local, error=Injected):
        self.data = data
        self.local = local
        self.error = error
        self.at = -1
        self.calls = 0
        self._guard = threading.Lock()

    def arm(self, at):
        self.calls, self.at = 0, at

    def _count(self):
        with self._guard:
            mine = self.calls
            self.calls += 1
        if mine == self.at:
            raise self.error(f"request {mine}")

    @property
    def identity(self) -> Hashable:
        return "failing", id(self.data)

    def with_read_only(self, read_only=True):
        return self

    def get(self, key, byte_range=None, *, limit=None):
        self._count()
        value = self.data.get(key)
        if value is None:
            return None
        start, stop = (byte_range or ByteRange(0)).resolve(len(value))
        check_limit(key, stop - start, limit)
        return value[start:stop]

    def size(self, key):
        self._count()
        value = self.data.get(key)
        return None if value is None else len(value)

    def open_reader(self, key, *, limit=None) -> Reader | None:
        self._count()
        return MemoryStore(self.data).open_reader(key, limit=limit)

    def list_prefix(self, prefix=""):
        return iter([key for key in self.data if key.startswith(prefix)])

    def set(self, key, value):
        self._count()
        self.data[key] = bytes(value)

    def set_if_absent(self, key, value):
        self._count()
        return self.data.setdefault(key, bytes(value)) is value

    def delete(self, key):
        self._count()
        self.data.pop(key, None)

    def lock(self, key):
        return process_lock((self.identity, key))


@contextmanager
def machine(monkeypatch, **options):
    with emulated(monkeypatch, settings=SMALL, **options) as runtime:
        yield runtime


def some(last):
    """All of the first, and a few of the rest."""
    return [*range(min(last, 5)), *range(5, last, 1 + last // 8)]


@pytest.mark.parametrize("error", [Injected, KeyboardInterrupt])
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_in_the_middle_of_a_read(monkeypatch, kind, local, error):
    data = field()
    store = FailingStore(stored(data, **KINDS[kind]).store.data, local=local, error=error)
    with machine(monkeypatch) as runtime:
        device = zarr_gpu.open_array(store, mode="r").to("cuda")
        out = np.empty(data.shape, "f4")
        store.arm(-1)
        device.read(out=out)
        books = Books(runtime)
        for k in some(store.calls):
            store.arm(k)
            with pytest.raises(error):
                device.read(out=out)
            books.check()
        store.arm(-1)
        out[...] = 0
        device.read(out=out)
        runtime.synchronize()
        assert (out == data).all()
        books.check()


@pytest.mark.parametrize("error", [Injected, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["blosc", "zstd", "bz2"])
def test_a_failure_in_the_middle_of_a_write(monkeypatch, kind, error):
    data = field()
    store = FailingStore(stored(data, **KINDS[kind]).store.data, local=True, error=error)
    with machine(monkeypatch) as runtime:
        device = zarr_gpu.open_array(store, mode="r+").to("cuda")
        value = runtime.array(data + 1)
        store.arm(-1)
        device[2:] = value[2:]
        books = Books(runtime)
        for k in some(store.calls):
            store.arm(k)
            with pytest.raises(error):
                device[2:] = value[2:]
            books.check()
        store.arm(-1)
        device[...] = value
        assert (device.to("cpu")[...] == data + 1).all()
        books.check()


def test_a_warning_that_is_an_error(monkeypatch):
    """Said between the fetch of one batch and that of the next."""
    data = field()
    array = stored(data, chunks=((10, 20, 7), (4, 4, 12)), codecs=[{"name": "numcodecs.bz2"}])
    with machine(monkeypatch) as runtime:
        books, out = Books(runtime), np.empty(data.shape, "f4")
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(ZeroDivisionError),
        ):
            calls = []

            def choose(*args):
                calls.append(args)
                return 1 // (len(calls) < 4) and None

            patch.setattr("zarr_gpu.device.policy.choose", choose)
            array.to("cuda").read(out=out)
        books.check()


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_allocation_may_fail(monkeypatch, kind):
    data = field()
    array = stored(data, **KINDS[kind])
    with machine(monkeypatch) as runtime:
        device = array.to("cuda")
        out = np.empty(data.shape, "f4")
        device.read(out=out)
        books = Books(runtime)
        for k in (*range(1, 6), *range(6, 1000, 4)):
            out[...] = 0
            runtime.fail_allocation = k
            try:
                device.read(out=out)
            except MemoryError:
                pass
            else:
                runtime.synchronize()
                assert (out == data).all()
            books.check()
            if runtime.fail_allocation:
                break
        assert k > 3
        runtime.fail_allocation = 0


@pytest.mark.parametrize("small", [False, True])
def test_every_allocation_of_other_requests_may_fail(monkeypatch, small):
    data = field()
    array = stored(data, codecs=[BLOSC[0]])
    sizes = {**SMALL, "gpu.min_nbytes": (1 << 20) * small}
    with emulated(monkeypatch, settings=sizes) as runtime:
        device = array.to("cuda")
        out = np.zeros(data.shape, "f8")
        requests = [lambda: device[...], lambda: device.read(out=out)]
        requests += [lambda: device.vindex[np.array([[1, 2]]), np.array([[3, 4]])]]
        requests += [lambda: device.__setitem__(..., runtime.array(data.astype("f8")))]
        for request in requests:
            for k in (*range(1, 5), *range(5, 200, 7)):
                runtime.fail_allocation = k
                with suppress(MemoryError):
                    request()
                if runtime.fail_allocation:
                    break
            assert k > 1
            runtime.fail_allocation = 0
        assert (array[...] == data).all()


@pytest.mark.parametrize("kind", ["raw", "blosc", "zstd", "shards"])
def test_every_allocation_of_a_write_may_fail(monkeypatch, kind):
    data = field()
    array = stored(data, **KINDS[kind])
    with machine(monkeypatch) as runtime:
        device = array.to("cuda")
        new = runtime.array(data + 1)
        device[...] = new
        books = Books(runtime)
        for k in (*range(1, 6), *range(6, 1000, 4)):
            new += 1
            runtime.fail_allocation = k
            device[...] = new
            books.check()
            assert (array[...] == np.array(new)).all()
            if runtime.fail_allocation:
                break
        assert k > 3
        runtime.fail_allocation = 0


def test_memory_that_page_locking_refuses(monkeypatch):
    data = field((100, 60))
    array = stored(data, chunks=(7, 7), codecs=[BLOSC[0]])
    with machine(monkeypatch) as runtime:
        pinned = runtime.pinned
        out = np.empty(data.shape, "f4")
        left = 0

        def refuse(nbytes):
            nonlocal left
            left -= 1
            if left < 0:
                raise MemoryError("no more")
            return pinned(nbytes)

        runtime.pinned = refuse
        books = Books(runtime)
        for allowed in range(8):
            left = allowed
            for ring in (engine_of().slabs, engine_of().tables):
                ring.trim()
            try:
                array.to("cuda").read(out=out)
            except MemoryError:
                pass
            else:
                runtime.synchronize()
                assert (out == data).all()
            books.check()
        runtime.pinned = pinned


def test_a_read_of_many_waves_page_locks_little(monkeypatch):
    data = field((300, 60))
    array = stored(data, chunks=(10, 7), codecs=[BLOSC[0]])
    with emulated(monkeypatch, settings={"gpu.wave_nbytes": 200}) as runtime:
        out = np.empty(data.shape, "f4")
        array.to("cuda").read(out=out)
        assert runtime.counts.launches["lz4_decode"] > 200
        assert engine_of().tables.nbytes <= 8 * engines.STREAMS * engines.TABLE_NBYTES


class Broken(RuntimeError):
    """What a card reports."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["alloc", "upload", "download", "launch", "decompress"])
def test_every_call_of_the_runtime_may_fail(monkeypatch, kind, name):
    """As when a card is lost: the error is raised, and the books are right."""
    data = field()
    array = stored(data, **KINDS[kind])
    with machine(monkeypatch) as runtime:
        device = array.to("cuda")
        out = np.empty(data.shape, "f4")
        value = runtime.array(data)
        books = Books(runtime)
        works = getattr(runtime, name)
        left = 0

        def fail(*args):
            nonlocal left
            left -= 1
            if left == 0:
                raise Broken(name)
            return works(*args)

        setattr(runtime, name, fail)
        for request in (lambda: device.read(out=out), lambda: device.__setitem__(..., value)):
            for k in some(40):
                left = k + 1
                with suppress(Broken):
                    request()
                books.check()
                if left > 0:
                    break
        setattr(runtime, name, works)
        device[...] = value
        device.read(out=out)
        runtime.synchronize()
        assert (out == data).all()


# -- what changes while it is read ----------------------------------------------------------------


class Replacing(MemoryStore):
    """Another object under ``key`` from the second request on."""

    key, new, asked = "c/1/1", None, 0

    def _value(self, key):
        value = super()._value(key)
        if key == self.key:
            self.asked += 1
            if self.asked > 1:
                return self.new
        return value


@pytest.mark.parametrize("kind", ["blosc", "zstd"])
@pytest.mark.parametrize("then", ["good", "missing", "bad"])
def test_an_object_replaced_before_the_host_decodes_it(runtime, kind, then):
    data = field()
    good = stored(data, **KINDS[kind]).store.data
    damaged = bytearray(good["c/1/1"])
    damaged[len(damaged) // 2] ^= 0xFF
    damaged[-1] ^= 0xFF
    store = Replacing({**good, "c/1/1": bytes(damaged)})
    store.new = {"good": good["c/1/1"], "missing": None, "bad": b"12345"}[then]
    device = zarr_gpu.open_array(store, mode="r+").to("cuda")
    store.asked = 0
    out = np.empty(data.shape, "f4")
    if then == "bad":
        with pytest.raises(ChunkDecodeError):
            device.read(out=out)
        return
    device.read(out=out)
    runtime.synchronize()
    assert store.asked > 1
    if then == "missing":
        data[10:20, 7:14] = 0
    assert (out == data).all()
