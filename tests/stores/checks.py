"""What every store must do: one test class for readable stores, one for writable ones.

A test class for a store inherits from these and gives a fixture ``store`` (holding
:data:`OBJECTS`) or ``empty`` (holding nothing).
"""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from zarr_gpu.errors import LimitError, ReadOnlyError, StoreError, StoreKeyError
from zarr_gpu.stores.base import ByteRange
from zarr_gpu.stores.locks import lock_many

OBJECTS = {
    "zarr.json": b"{}",
    "a/zarr.json": b'{"a": 1}',
    "a/c/0/0": b"0123456789",
    "a/c/0/1": bytes(range(256)) * 100,
    "ab/c/0": b"x",
    "ü/c/0": b"y",
}
TEN = "a/c/0/0"
BAD_KEYS = ["", "/a", "../a", "a/../../b", "a//b", "a/", ".", "a/.", "a\\b", "a\0b"]
RANGES = [
    ByteRange(0),
    ByteRange(3),
    ByteRange(0, 4),
    ByteRange(3, 4),
    ByteRange(-3),
    ByteRange(-5, 2),
    ByteRange(-20),
    ByteRange(8, 5),
    ByteRange(4, 0),
    ByteRange(0, 10),
]


def fill(store):
    store.set_many(list(OBJECTS.items()))
    return store


class ReadableStore:
    def test_objects_are_read_whole(self, store):
        for key, value in OBJECTS.items():
            assert bytes(store.get(key)) == value
            assert store.size(key) == len(value)
            assert store.exists(key)

    @pytest.mark.parametrize("byte_range", RANGES, ids=str)
    def test_ranges_are_those_of_the_object(self, store, byte_range):
        start, stop = byte_range.resolve(10)
        assert bytes(store.get(TEN, byte_range)) == OBJECTS[TEN][start:stop]

    def test_missing_is_none(self, store):
        for key in ("b", "a/c/0/2", "a/c/9/9", "q/r/s"):
            assert store.get(key) is None
            assert store.get(key, ByteRange(1, 2)) is None
            assert store.size(key) is None
            assert not store.exists(key)
            assert store.open_reader(key) is None

    @pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
    def test_illegal_keys_are_refused(self, store, key):
        for ask in (store.get, store.size, store.exists, store.open_reader):
            with pytest.raises(StoreKeyError):
                ask(key)

    def test_buffers_are_filled_one_after_the_other(self, store):
        keys = [TEN, "missing", "a/c/0/1", "zarr.json", "q/r/7", "a/c/0/7", "ab/c/0", "ü/c/0"]
        buffers = [memoryview(bytearray(b"#" * (10 if key == TEN else 26000))) for key in keys]
        lengths = []
        for key, buffer, n in zip(keys, buffers, store.fill(keys, buffers), strict=True):
            lengths.append(n)
            stored = OBJECTS.get(key, b"")
            assert bytes(buffer[: n if n > 0 else 0]) == stored
            assert n == len(stored) or (n == -1 and key not in OBJECTS)
        assert lengths == [10, -1, 25600, 2, -1, -1, 1, 1]

    def test_one_buffer_may_be_filled_again_and_again(self, store):
        buffer = memoryview(bytearray(10))
        found = [bytes(buffer[:n]) for n in store.fill([TEN, "ab/c/0", TEN], [buffer] * 3)]
        assert found == [OBJECTS[TEN], b"x", OBJECTS[TEN]]

    @pytest.mark.parametrize("keys", [[TEN], ["zarr.json", TEN]], ids=["one", "two"])
    def test_objects_longer_than_their_buffer_are_refused(self, store, keys):
        lengths = store.fill(keys, [memoryview(bytearray(9))] * 2)
        with pytest.raises(LimitError):
            list(lengths)

    @pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
    def test_illegal_keys_fill_nothing(self, store, key):
        for keys in ([key], ["zarr.json", key]):
            with pytest.raises(StoreKeyError):
                list(store.fill(keys, [memoryview(bytearray(99))] * 2))

    def test_get_many_is_many_gets(self, store):
        keys = [TEN] * len(RANGES) + ["missing", "a/zarr.json"]
        offset = np.array([r.offset for r in RANGES] + [0, 0])
        nbytes = np.array([-1 if r.nbytes is None else r.nbytes for r in RANGES] + [-1, -1])
        found = store.get_many(keys, offset, nbytes)
        expected = [OBJECTS[TEN][slice(*r.resolve(10))] for r in RANGES]
        assert [None if f is None else bytes(f) for f in found] == [
            *expected,
            None,
            OBJECTS["a/zarr.json"],
        ]

    def test_limit_is_checked(self, store):
        assert bytes(store.get(TEN, limit=10)) == OBJECTS[TEN]
        with pytest.raises(LimitError):
            store.get(TEN, limit=9)
        assert bytes(store.get(TEN, ByteRange(2, 3), limit=3)) == b"234"
        with pytest.raises(LimitError):
            store.get(TEN, ByteRange(2, 3), limit=2)
        assert bytes(store.get(TEN, ByteRange(8, 100), limit=5)) == b"89"
        with pytest.raises(LimitError):
            store.get_many([TEN, TEN], np.array([0, 0]), np.array([2, -1]), limit=9)
        with pytest.raises(LimitError):
            store.open_reader(TEN, limit=9)

    def test_reader_reads_exactly(self, store):
        key = "a/c/0/1"
        with store.open_reader(key) as reader:
            assert reader.size == len(OBJECTS[key])
            assert bytes(reader.read(300, 20)) == OBJECTS[key][300:320]
            parts = reader.read_many(np.array([7, 0, 25_500]), np.array([3, 5, 100]))
            assert [bytes(p) for p in parts] == [
                OBJECTS[key][7:10],
                OBJECTS[key][:5],
                OBJECTS[key][-100:],
            ]
            out = bytearray(50)
            reader.read_into(100, memoryview(out))
            assert out == OBJECTS[key][100:150]

    def test_reading_beyond_the_end_is_an_error(self, store):
        with store.open_reader(TEN) as reader:
            for offset, nbytes in [(8, 3), (10, 1), (2**40, 5)]:
                with pytest.raises(StoreError):
                    reader.read(offset, nbytes)
                with pytest.raises(StoreError):
                    reader.read_into(offset, memoryview(bytearray(nbytes)))

    def test_located_bytes_are_the_objects_bytes(self, store):
        keys = [*OBJECTS, "missing"]
        found = store.locate(keys)
        for i, key in enumerate(keys):
            value = OBJECTS.get(key)
            assert not found.missing[i] or value is None
            if found.inline is not None and found.inline[i] is not None:
                assert bytes(found.inline[i]) == value
            elif found.path[i] is not None and value is not None:
                with open(found.path[i], "rb") as file:
                    file.seek(int(found.offset[i]))
                    assert file.read(int(found.nbytes[i])) == value

    def test_listing_is_below_the_prefix(self, store):
        assert sorted(store.list_prefix()) == sorted(OBJECTS)
        assert sorted(store.list_prefix("a")) == sorted(k for k in OBJECTS if k.startswith("a/"))
        assert list(store.list_prefix("a/zarr.json")) == ["a/zarr.json"]
        assert list(store.list_prefix("nothing/here")) == []

    def test_listing_of_one_directory(self, store):
        assert store.list_dir() == ["a", "ab", "zarr.json", "ü"]
        assert store.list_dir("a") == ["c", "zarr.json"]
        assert store.list_dir("a/c/0") == ["0", "1"]
        assert store.list_dir("nothing/here") == []

    def test_listing_refuses_prefixes_that_leave(self, store):
        with pytest.raises(StoreKeyError):
            list(store.list_prefix("../x"))
        with pytest.raises(StoreKeyError):
            store.list_dir("..")

    def test_read_only_store_refuses_writes(self, store):
        closed = store.with_read_only()
        assert closed.read_only
        assert bytes(closed.get(TEN)) == OBJECTS[TEN]
        for write in (
            lambda: closed.set("n", b""),
            lambda: closed.set_many([("n", b"")]),
            lambda: closed.set_if_absent("n", b""),
            lambda: closed.delete(TEN),
            lambda: closed.delete_prefix("a"),
        ):
            with pytest.raises(ReadOnlyError):
                write()
        assert bytes(store.get(TEN)) == OBJECTS[TEN]
        assert store.get("n") is None

    def test_pickle_reads_the_same(self, store):
        again = pickle.loads(pickle.dumps(store))
        assert bytes(again.get(TEN)) == OBJECTS[TEN]
        assert type(again) is type(store)

    def test_equality_is_that_of_the_bytes(self, store):
        assert store == store.with_read_only()
        assert hash(store) == hash(store.with_read_only())
        assert store != object()

    def test_repr_names_the_class(self, store):
        assert type(store).__name__ in repr(store)

    def test_threads_read_the_same(self, store):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: bytes(store.get("a/c/0/1")), range(50)))
        assert set(found) == {OBJECTS["a/c/0/1"]}


class WritableStore:
    def test_set_and_get(self, empty):
        empty.set("a/b/c", b"123")
        empty.set("a/b/c", memoryview(bytearray(b"4567")))
        empty.set("empty", b"")
        assert bytes(empty.get("a/b/c")) == b"4567"
        assert bytes(empty.get("empty")) == b""
        assert sorted(empty.list_prefix()) == ["a/b/c", "empty"]

    def test_stored_bytes_do_not_change_with_the_callers_buffer(self, empty):
        buffer = bytearray(b"123")
        empty.set("k", buffer)
        buffer[:] = b"999"
        assert bytes(empty.get("k")) == b"123"

    def test_set_many_takes_the_last_of_equal_keys(self, empty):
        empty.set_many([("x/0", b"0"), ("y/0", b"1"), ("x/0", b"2")])
        assert bytes(empty.get("x/0")) == b"2"
        assert bytes(empty.get("y/0")) == b"1"
        empty.set_many([])

    def test_parts_follow_each_other_and_may_share_memory(self, empty):
        buffer = bytearray(3)

        def parts():
            for i in range(3):
                buffer[:] = b"%d%d%d" % (i, i, i)
                yield memoryview(buffer)

        assert empty.set_parts("a/k", parts)
        assert bytes(empty.get("a/k")) == b"000111222"
        assert empty.set_parts("a/k", lambda: [b"", b"1"])
        assert bytes(empty.get("a/k")) == b"1"

    def test_no_parts_change_nothing(self, empty):
        assert not empty.set_parts("n/k", list)
        assert list(empty.list_prefix()) == []
        empty.set("k", b"old")
        assert not empty.set_parts("k", list)
        assert bytes(empty.get("k")) == b"old"

    def test_parts_that_fail_leave_the_old_object(self, empty):
        def parts():
            yield b"new"
            raise KeyError("no more")

        empty.set("k", b"old")
        with pytest.raises(KeyError, match="no more"):
            empty.set_parts("k", parts)
        assert bytes(empty.get("k")) == b"old"
        assert list(empty.list_prefix()) == ["k"]

    @pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
    def test_illegal_keys_are_not_written(self, empty, key):
        with pytest.raises(StoreKeyError):
            empty.set(key, b"")
        assert list(empty.list_prefix()) == []

    def test_set_if_absent_keeps_the_first(self, empty):
        assert empty.set_if_absent("d/k", b"1")
        assert not empty.set_if_absent("d/k", b"2")
        assert bytes(empty.get("d/k")) == b"1"
        assert list(empty.list_prefix()) == ["d/k"]

    def test_set_if_absent_lets_one_thread_win(self, empty):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i: empty.set_if_absent("k", b"%d" % i), range(16)))
        assert sum(won) == 1
        assert int(bytes(empty.get("k"))) == won.index(True)

    def test_delete(self, empty):
        if not empty.supports_deletes:
            pytest.skip("the store cannot delete")
        fill(empty)
        empty.delete(TEN)
        empty.delete(TEN)
        empty.delete("never/was/there")
        assert empty.get(TEN) is None
        assert sorted(empty.list_prefix()) == sorted(set(OBJECTS) - {TEN})

    def test_delete_prefix_is_a_directory(self, empty):
        empty.delete_prefix("a")
        if not empty.supports_deletes:
            pytest.skip("the store cannot delete")
        fill(empty)
        empty.delete_prefix("a")
        assert sorted(empty.list_prefix()) == ["ab/c/0", "zarr.json", "ü/c/0"]
        empty.delete_prefix("zarr.json")
        assert sorted(empty.list_prefix()) == ["ab/c/0", "ü/c/0"]
        empty.delete_prefix()
        assert list(empty.list_prefix()) == []
        empty.set("a/b", b"1")
        assert bytes(empty.get("a/b")) == b"1"

    def test_lock_excludes_threads(self, empty):
        empty.set("n", b"0")

        def add(_):
            with empty.lock("n"):
                n = int(bytes(empty.get("n")))
                time.sleep(0.0005)  # lets other threads run
                empty.set("n", b"%d" % (n + 1))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(40)))
        assert bytes(empty.get("n")) == b"40"

    def test_lock_may_be_taken_again_by_its_thread(self, empty):
        with lock_many(empty, ["a/c/1", "a/c/0", "a/c/1"]), empty.lock("a/c/0"):
            empty.set("a/c/0", b"1")
        assert list(empty.list_prefix()) == ["a/c/0"]
