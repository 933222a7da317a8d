import pickle

import pytest

from tests.stores.checks import OBJECTS, ReadableStore, WritableStore
from zarr_gpu.errors import StoreError
from zarr_gpu.stores.memory import MemoryStore


class TestReading(ReadableStore):
    @pytest.fixture
    def store(self):
        return MemoryStore(dict(OBJECTS))


class TestWriting(WritableStore):
    @pytest.fixture
    def empty(self):
        return MemoryStore()


def test_mapping_is_the_callers():
    data = {}
    MemoryStore(data).set("a", b"1")
    assert data == {"a": b"1"}
    data["b"] = bytearray(b"2")
    assert bytes(MemoryStore(data).get("b")) == b"2"


def test_values_that_are_no_bytes_are_refused():
    store = MemoryStore({"a/b": 7})
    with pytest.raises(StoreError, match=r"a/b: the mapping has a builtins\.int, not bytes"):
        store.get("a/b")


def test_equal_only_over_the_same_mapping():
    data = {}
    assert MemoryStore(data) == MemoryStore(data)
    assert MemoryStore() != MemoryStore()


def test_pickle_carries_the_objects_and_the_refusal():
    again = pickle.loads(pickle.dumps(MemoryStore({"a": b"1"}, read_only=True)))
    assert again.read_only
    assert again.data == {"a": b"1"}


def test_locate_hands_out_the_bytes():
    found = MemoryStore({"a": b"1"}).locate(["b", "a"])
    assert found.inline == [None, b"1"]
    assert found.missing.tolist() == [True, False]
