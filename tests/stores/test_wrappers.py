import logging
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stores.checks import OBJECTS, TEN, ReadableStore, WritableStore, fill
from zarr_gpu.errors import LimitError
from zarr_gpu.stores.base import ByteRange
from zarr_gpu.stores.cache import CacheStore
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import (
    CoalescingStore,
    CountingStore,
    LoggingStore,
    Read,
    WrappedStore,
    Write,
)

WRAPPERS = {
    "wrapped": WrappedStore,
    "counting": CountingStore,
    "logging": LoggingStore,
    "cache": lambda store: CacheStore(store, 1 << 20),
    "small cache": lambda store: CacheStore(store, 12),
    "coalescing": lambda store: CoalescingStore(store, 10, 100),
}


@pytest.fixture(params=WRAPPERS.values(), ids=WRAPPERS.keys())
def wrap(request):
    return request.param


class TestReading(ReadableStore):
    @pytest.fixture
    def store(self, wrap, tmp_path):
        return wrap(fill(LocalStore(tmp_path)))


class TestWriting(WritableStore):
    @pytest.fixture
    def empty(self, wrap):
        return wrap(MemoryStore())


def test_wrappers_share_the_identity_of_what_they_wrap(wrap):
    inside = MemoryStore()
    assert wrap(inside).identity == inside.identity
    assert wrap(inside) == wrap(inside)


# -- counting and logging ----------------------------------------------------------------------


def test_counting_records_every_way_to_read():
    store = CountingStore(MemoryStore(dict(OBJECTS)))
    store.get(TEN)
    store.get(TEN, ByteRange(-3))
    store.get("missing")
    store.get_many([TEN], np.array([2]), np.array([3]))
    with store.open_reader(TEN) as reader:
        reader.read(1, 2)
        reader.read_many(np.array([0, 5]), np.array([1, 2]))
        reader.read_into(4, memoryview(bytearray(4)))
    store.open_reader("absent")
    assert store.reads == [
        Read(TEN, 0, 10),
        Read(TEN, -3, 3),
        Read("missing", 0, None),
        Read(TEN, 2, 3),
        Read(TEN, 1, 2),
        Read(TEN, 0, 1),
        Read(TEN, 5, 2),
        Read(TEN, 4, 4),
        Read("absent", 0, None),
    ]
    assert store.bytes_read == 25
    assert store.keys_read == {TEN, "missing", "absent"}
    store.clear()
    assert store.reads == []


def test_counting_records_writes():
    store = CountingStore(MemoryStore())
    store.set("a", b"12")
    store.set_many([("b", b"345")])
    assert not store.set_if_absent("a", b"")
    store.delete("a")
    assert store.writes == [Write("a", 2), Write("b", 3), Write("a", None)]
    assert store.bytes_written == 5


def test_counting_hides_where_the_bytes_are():
    assert CountingStore(MemoryStore({"a": b"1"})).locate(["a"]).inline is None


def test_read_only_view_counts_for_its_store():
    store = CountingStore(MemoryStore({"a": b"1"}))
    store.with_read_only().get("a")
    assert len(store.reads) == 1


def test_logging_writes_a_line_per_access(caplog):
    store = LoggingStore(MemoryStore(dict(OBJECTS)))
    with caplog.at_level(logging.DEBUG, "zarr_gpu.stores"):
        store.get(TEN)
        store.get("missing")
        store.set("k", b"12")
        store.delete("k")
    assert [record.getMessage() for record in caplog.records] == [
        f"read {TEN}: 10 bytes from 0",
        "read missing: missing",
        "write k: 2 bytes",
        "delete k",
    ]


# -- caching -----------------------------------------------------------------------------------


@pytest.fixture
def counted(tmp_path):
    return CountingStore(fill(LocalStore(tmp_path)))


def test_second_read_is_answered_from_memory(counted):
    store = CacheStore(counted, 1000)
    for _ in range(2):
        assert bytes(store.get(TEN, ByteRange(2, 3))) == b"234"
        assert bytes(store.get(TEN)) == OBJECTS[TEN]
        assert bytes(store.get(TEN, ByteRange(1, 2))) == b"12"
        assert bytes(store.get_many([TEN], np.array([-2]), np.array([-1]))[0]) == b"89"
        with store.open_reader("a/zarr.json") as reader:
            assert bytes(reader.read(1, 3)) == b'"a"'
    assert [(r.key, r.offset) for r in counted.reads] == [
        (TEN, 2),
        (TEN, 0),
        (TEN, -2),
        ("a/zarr.json", 1),
    ]


def test_cached_bytes_obey_the_limit(counted):
    store = CacheStore(counted, 1000)
    store.get(TEN)
    with pytest.raises(LimitError):
        store.get(TEN, limit=9)
    with pytest.raises(LimitError):
        store.get_many([TEN], np.array([0]), np.array([-1]), limit=9)


@pytest.mark.parametrize(
    "write",
    [
        lambda s: s.set(TEN, b"new"),
        lambda s: s.set_many([(TEN, b"new")]),
        lambda s: s.delete(TEN),
        lambda s: s.delete_prefix("a"),
    ],
    ids=["set", "set_many", "delete", "delete_prefix"],
)
def test_writes_are_seen(counted, write):
    store = CacheStore(counted, 1000)
    store.get(TEN)
    store.get(TEN, ByteRange(1, 1))
    write(store)
    assert store.get(TEN) == counted.store.get(TEN)
    assert store.get(TEN, ByteRange(1, 1)) == counted.store.get(TEN, ByteRange(1, 1))


def test_write_during_a_read_is_not_overwritten_by_the_old_bytes():
    class Slow(MemoryStore):
        def get(self, key, byte_range=None, *, limit=None):
            found = super().get(key, byte_range, limit=limit)
            if found == b"old":
                cached.set("k", b"new")
            return found

    cached = CacheStore(Slow({"k": b"old"}), 1000)
    cached.get("k")
    assert cached.get("k") == b"new"


def test_reader_of_a_replaced_object_sees_one_version(counted):
    store = CacheStore(counted, 1000)
    with store.open_reader(TEN) as old:
        old.read(0, 5)
        counted.store.set(TEN, b"ABCDEFGHIJ")  # by somebody else
        with store.open_reader(TEN) as new:
            assert bytes(new.read(0, 5)) == b"ABCDE"
        assert bytes(old.read(0, 5)) == b"01234"


def test_cache_forgets_what_was_not_used(counted):
    counted.store.set_many([(f"k{i}", bytes(10)) for i in range(4)])
    store = CacheStore(counted, 30)
    for key in ["k0", "k1", "k2", "k0", "k3"]:
        store.get(key)
    counted.clear()
    for key in ["k0", "k2", "k3", "k1"]:
        store.get(key)
    assert counted.keys_read == {"k1"}
    store.get("a/c/0/1")  # larger than the cache
    assert store._cache._nbytes <= 30


def test_pickled_cache_is_empty(counted):
    store = CacheStore(counted.store, 1000)
    store.get(TEN)
    again = pickle.loads(pickle.dumps(store))
    assert again.max_bytes == 1000
    assert not again._cache._entries


# -- merging -----------------------------------------------------------------------------------


def test_close_ranges_are_one_read(counted):
    store = CoalescingStore(counted, max_gap=10, max_bytes=1000)
    keys = ["a/c/0/1"] * 4 + [TEN]
    offset, nbytes = np.array([100, 5, 112, 5000, 2]), np.array([10, 0, 5, 5, 3])
    found = store.get_many(keys, offset, nbytes)
    for key, start, n, data in zip(keys, offset, nbytes, found, strict=True):
        assert bytes(data) == OBJECTS[key][start : start + n]
    assert [(r.offset, r.nbytes) for r in counted.reads] == [(5, 0), (100, 17), (5000, 5), (2, 3)]
    counted.clear()
    with store.open_reader("a/c/0/1") as reader:
        found = reader.read_many(offset[:4], nbytes[:4])
    assert [bytes(data) for data in found] == [
        OBJECTS["a/c/0/1"][start : start + n]
        for start, n in zip(offset[:4], nbytes[:4], strict=True)
    ]
    assert len(counted.reads) == 3


def test_merging_does_not_meet_the_limit_of_single_ranges(counted):
    store = CoalescingStore(counted, max_gap=10, max_bytes=1000)
    found = store.get_many([TEN, TEN], np.array([0, 5]), np.array([5, 5]), limit=5)
    assert [bytes(data) for data in found] == [b"01234", b"56789"]
    assert len(counted.reads) == 1


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([TEN, "a/c/0/1", "missing"]), st.integers(-30, 30), st.integers(-1, 30)
        ),
        max_size=20,
    ),
    limit=st.sampled_from([None, 10, 26_000]),
)
def test_merged_reads_answer_like_single_ones(rows, limit):
    inside = MemoryStore(dict(OBJECTS))
    keys = [row[0] for row in rows]
    offset = np.array([row[1] for row in rows], np.int64)
    nbytes = np.array([row[2] for row in rows], np.int64)

    def answer(store):
        try:
            found = store.get_many(keys, offset, nbytes, limit=limit)
        except LimitError:
            return "limit"
        return [None if data is None else bytes(data) for data in found]

    assert answer(CoalescingStore(inside, 5, 50)) == answer(inside)
