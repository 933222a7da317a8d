import pytest

from zarr_gpu.config import config
from zarr_gpu.metadata.memo import MAX_KEY, ROOM, Memo, key_of


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0.0, -0.0), ("1", 1), (None, "None"), ([1], 1), ({}, [])],
)
def test_keys_tell_values_apart_that_are_equal_or_look_alike(one: object, other: object) -> None:
    assert key_of(one) == key_of(one)
    assert key_of(one) != key_of(other)
    assert key_of({"a": [one]}) != key_of({"a": [other]})


def test_long_and_unspeakable_values_have_no_key() -> None:
    assert key_of("x" * MAX_KEY) is None
    assert key_of(object()) is None
    deep: list[object] = []
    for _ in range(200_000):
        deep = [deep]
    assert key_of(deep) is None


def test_without_a_key_nothing_is_remembered() -> None:
    memo: Memo[int] = Memo()
    memo.put(None, 1)
    assert memo.get(None) is None


def test_room_is_bounded() -> None:
    memo: Memo[int] = Memo()
    for i in range(3 * ROOM):
        memo.put(i, i)
        assert memo.get(i) == i
    assert sum(memo.get(i) is not None for i in range(3 * ROOM)) <= ROOM


def test_other_limits_know_nothing() -> None:
    memo: Memo[int] = Memo()
    memo.put("a", 1)
    with config.set({"limits.rank": 3}):
        assert memo.get("a") is None
        memo.put("a", 2)
        assert memo.get("a") == 2
    assert memo.get("a") is None
