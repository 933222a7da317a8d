"""A store that fails at call k, for every k of every operation.

The operation raises; afterwards every object is the old or the new one, no array that can be opened
has lost a chunk or shows a value that was never stored in that place, and trying again works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.errors import NodeNotFoundError, StoreError
from zarr_gpu.stores.base import ByteRange, Reader, Store, check_limit
from zarr_gpu.stores.locks import process_lock

FILL = -7
ROWS = 10
OLD = np.arange(100, 100 + ROWS * 6, dtype="i4").reshape(ROWS, 6)
NEW = OLD + 1000
EXTRA = np.arange(5000, 5000 + 7 * 6, dtype="i4").reshape(7, 6)


class Injected(StoreError):
    """The failure asked for."""


class FailingStore(Store):
    """A dictionary whose call number ``at`` fails, before or after it did its work."""

    def __init__(self, data: dict[str, bytes], at: int = -1, *, after: bool, local: bool) -> None:
        self.data = data
        self.at = at
        self.after = after
        self.local = local
        self.calls = 0
        self.changes: list[int] = []
        """Numbers of the calls that changed something."""
        self._guard = threading.Lock()

    def _call(self, work: Callable[[], Any], *, changes: bool = False) -> Any:
        with self._guard:
            mine = self.calls
            self.calls += 1
            if changes:
                self.changes.append(mine)
        if mine == self.at and not self.after:
            raise Injected(f"call {mine} fails")
        result = work()
        if mine == self.at:
            raise Injected(f"call {mine} fails, but did its work")
        return result

    @property
    def identity(self) -> Hashable:
        return "failing", id(self.data)

    def with_read_only(self, read_only: bool = True) -> FailingStore:
        return self  # whoever opens it for reading only reads

    def get(
        self, key: str, byte_range: ByteRange | None = None, *, limit: int | None = None
    ) -> Any:
        def work() -> Any:
            value = self.data.get(key)
            if value is None:
                return None
            start, stop = (byte_range or ByteRange(0)).resolve(len(value))
            check_limit(key, stop - start, limit)
            return value[start:stop]

        return self._call(work)

    def size(self, key: str) -> int | None:
        value = self._call(lambda: self.data.get(key))
        return None if value is None else len(value)

    def open_reader(self, key: str, *, limit: int | None = None) -> Reader | None:
        self._call(lambda: None)
        return super().open_reader(key, limit=limit)

    def list_prefix(self, prefix: str = "") -> Iterator[str]:
        inside = f"{prefix}/" if prefix else ""
        keys = [k for k in self.data if k.startswith(inside) or k == prefix]
        return iter(self._call(lambda: keys))

    def set(self, key: str, value: Any) -> None:
        self._call(lambda: self.data.__setitem__(key, bytes(value)), changes=True)

    def set_if_absent(self, key: str, value: Any) -> bool:
        def work() -> bool:
            created = key not in self.data
            self.data.setdefault(key, bytes(value))
            return created

        return bool(self._call(work, changes=True))

    def delete(self, key: str) -> None:
        self._call(lambda: self.data.pop(key, None), changes=True)

    def lock(self, key: str) -> AbstractContextManager[Any]:
        self._call(lambda: None)
        return process_lock((self.identity, key))


def arrays(data: dict[str, bytes]) -> dict[str, Any]:
    """Attributes and values of every array there is."""
    found = {}
    for path in ("g/a", "g/b", "h/a"):
        try:
            array = zarr_gpu.open_array(dict(data), path=path, mode="r")
        except NodeNotFoundError:
            continue
        found[path] = (array.attrs.asdict(), array[...].tolist())
    return found


@dataclass(frozen=True)
class Kind:
    """A way to store ``OLD``; objects are ``step`` rows by 4 columns."""

    name: str
    step: int
    kwargs: dict[str, Any]

    def create(self, store: Any, shape: tuple[int, int] = OLD.shape, **more: Any) -> Any:
        return zarr_gpu.create_array(
            store, name="g/a", shape=shape, dtype="i4", fill_value=FILL, **{**self.kwargs, **more}
        )

    def objects(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
        for i in range(0, shape[0], self.step):
            for j in range(0, shape[1], 4):
                yield slice(i, i + self.step), slice(j, j + 4)

    def __str__(self) -> str:
        return self.name


KINDS = [
    Kind("chunks", 4, {"chunks": (4, 4), "compressors": None}),
    Kind("chunks-v2", 4, {"chunks": (4, 4), "zarr_format": 2}),
    Kind("shards", 4, {"chunks": (2, 2), "shards": (4, 4), "compressors": None}),
]


@dataclass(frozen=True)
class Operation:
    """``run`` on what ``prepare`` made; ``check`` judges what is there after a failure."""

    prepare: Callable[[Any, Kind], None]
    run: Callable[[Any, Kind], None]
    check: Callable[[dict[str, bytes], Kind], None]
    again: bool = True
    """Running it again after the failure ends as if nothing had failed."""


def stored(data: dict[str, bytes]) -> Any:
    return zarr_gpu.open_array(dict(data), path="g/a", mode="r")


def old_or_new(found: Any, old: Any, new: Any, kind: Kind) -> None:
    """Object by object."""
    assert found.shape == old.shape
    for place in kind.objects(found.shape):
        part = found[place]
        assert (part == old[place]).all() or (part == new[place]).all(), f"mixed values in {place}"


def full(data: Any, kind: Kind) -> None:
    zarr_gpu.create_group(data, path="g", zarr_format=kind.kwargs.get("zarr_format", 3))
    kind.create(data)[...] = OLD


def opened(store: Any) -> Any:
    return zarr_gpu.open_array(store, path="g/a", mode="r+")


def extended(values: Any, rows: int) -> Any:
    more = np.full((rows - len(values), values.shape[1]), FILL, values.dtype)
    return np.concatenate([values, more])


# -- creating ---------------------------------------------------------------------------------


def nothing(data: Any, kind: Kind) -> None:
    pass


def check_created(data: dict[str, bytes], kind: Kind) -> None:
    try:
        found = stored(data)[...]
    except NodeNotFoundError:
        return
    old_or_new(found, np.full_like(OLD, FILL), OLD, kind)


def create(store: Any, kind: Kind) -> None:
    kind.create(store)


def create_with_data(store: Any, kind: Kind) -> None:
    kind.create(store, overwrite=True)[...] = OLD


# -- writing ----------------------------------------------------------------------------------


def written(selection: Any) -> Operation:
    new = OLD.copy()
    new[selection] = NEW[selection]

    def run(store: Any, kind: Kind) -> None:
        opened(store)[selection] = NEW[selection]

    def check(data: dict[str, bytes], kind: Kind) -> None:
        old_or_new(stored(data)[...], OLD, new, kind)

    return Operation(full, run, check)


def erase(store: Any, kind: Kind) -> None:
    opened(store)[...] = FILL


def check_erased(data: dict[str, bytes], kind: Kind) -> None:
    old_or_new(stored(data)[...], OLD, np.full_like(OLD, FILL), kind)


# -- changing the shape -----------------------------------------------------------------------


def check_regrown(data: dict[str, bytes], kind: Kind) -> None:
    """Whatever is stored outside the array, growing shows fill values there."""
    array = zarr_gpu.open_array(dict(data), path="g/a", mode="r+")
    before = array[...]
    rows, columns = array.shape
    array.resize((rows + 9, columns + 7))
    found = array[...]
    np.testing.assert_array_equal(found[:rows, :columns], before)
    assert (found[rows:] == FILL).all()
    assert (found[:, columns:] == FILL).all()
    array = zarr_gpu.open_array(dict(data), path="g/a", mode="r+")
    row = np.arange(columns, dtype="i4")[None]
    array.append(row)
    array.resize((rows + 9, columns))
    found = array[...]
    np.testing.assert_array_equal(found[:rows], before)
    np.testing.assert_array_equal(found[rows], row[0])
    assert (found[rows + 1 :] == FILL).all()


def resized(shape: tuple[int, int], *between: tuple[int, int]) -> Operation:
    def run(store: Any, kind: Kind) -> None:
        opened(store).resize(shape)

    def check(data: dict[str, bytes], kind: Kind) -> None:
        found = stored(data)[...]
        assert found.shape in (OLD.shape, shape, *between)
        right = np.full(found.shape, FILL)
        rows, columns = np.minimum(found.shape, OLD.shape)
        right[:rows, :columns] = OLD[:rows, :columns]
        np.testing.assert_array_equal(found, right)
        check_regrown(data, kind)

    return Operation(full, run, check)


def append(store: Any, kind: Kind) -> None:
    opened(store).append(EXTRA)


def check_appended(data: dict[str, bytes], kind: Kind) -> None:
    found = stored(data)[...]
    right = OLD if len(found) == ROWS else np.concatenate([OLD, EXTRA])
    np.testing.assert_array_equal(found, right)
    check_regrown(data, kind)


def prepare_leftovers(data: Any, kind: Kind) -> None:
    """An array in whose edge chunks, and beyond, an interrupted append left its data."""
    full(data, kind)
    document = "g/a/zarr.json" if "g/a/zarr.json" in data else "g/a/.zarray"
    before = data[document]
    opened(data).append(EXTRA)
    data[document] = before


def grow_over_leftovers(store: Any, kind: Kind) -> None:
    opened(store).resize((ROWS + 5, 6))


def check_grown_over_leftovers(data: dict[str, bytes], kind: Kind) -> None:
    found = stored(data)[...]
    np.testing.assert_array_equal(found, extended(OLD, len(found)))
    check_regrown(data, kind)


def append_less_over_leftovers(store: Any, kind: Kind) -> None:
    opened(store).append(NEW[:1])


def check_appended_less(data: dict[str, bytes], kind: Kind) -> None:
    found = stored(data)[...]
    right = OLD if len(found) == ROWS else np.concatenate([OLD, NEW[:1]])
    np.testing.assert_array_equal(found, right)
    check_regrown(data, kind)


# -- nodes ------------------------------------------------------------------------------------


def set_attributes(store: Any, kind: Kind) -> None:
    opened(store).attrs.update({"a": 1, "b": [1, 2]})


def check_attributes(data: dict[str, bytes], kind: Kind) -> None:
    assert stored(data).attrs.asdict() in ({}, {"a": 1, "b": [1, 2]})
    np.testing.assert_array_equal(stored(data)[...], OLD)


def consolidate(store: Any, kind: Kind) -> None:
    zarr_gpu.consolidate_metadata(store, path="g")


def check_consolidated(data: dict[str, bytes], kind: Kind) -> None:
    for use in (None, False):
        group = zarr_gpu.open_group(dict(data), path="g", mode="r", use_consolidated=use)
        np.testing.assert_array_equal(group["a"][...], OLD)


def overwrite(store: Any, kind: Kind) -> None:
    kind.create(store, (14, 6), overwrite=True)


def check_overwritten(data: dict[str, bytes], kind: Kind) -> None:
    """The old array, none, or the new one, which is empty."""
    try:
        found = stored(data)[...]
    except NodeNotFoundError:
        return
    right = OLD if found.shape == OLD.shape else np.full((14, 6), FILL)
    np.testing.assert_array_equal(found, right)


def delete_array(store: Any, kind: Kind) -> None:
    group = zarr_gpu.open_group(store, path="g", mode="r+")
    if "a" in group:
        del group["a"]


def delete_group(store: Any, kind: Kind) -> None:
    root = zarr_gpu.open_group(store, mode="a")
    if "g" in root:
        del root["g"]


def check_whole_or_gone(data: dict[str, bytes], kind: Kind) -> None:
    for path in ("g/a", "g/b", "h/a"):
        try:
            array = zarr_gpu.open_array(dict(data), path=path, mode="r")
        except NodeNotFoundError:
            continue
        np.testing.assert_array_equal(array[...], OLD)


def move(store: Any, kind: Kind) -> None:
    group = zarr_gpu.open_group(store, path="g", mode="r+")
    group.move("a", "b")


def check_moved(data: dict[str, bytes], kind: Kind) -> None:
    check_whole_or_gone(data, kind)
    group = zarr_gpu.open_group(dict(data), path="g", mode="r")
    assert "a" in group or "b" in group


def copy_keys(store: Any, kind: Kind) -> None:
    zarr_gpu.copy_store(store, store, "g", "h", if_exists="replace")


def copy_array(store: Any, kind: Kind) -> None:
    group = zarr_gpu.open_group(store, path="g", mode="r+")
    zarr_gpu.copy(group["a"], group, "b", if_exists="replace")


def check_copied(data: dict[str, bytes], kind: Kind) -> None:
    np.testing.assert_array_equal(stored(data)[...], OLD)
    try:
        found = zarr_gpu.open_array(dict(data), path="g/b", mode="r")[...]
    except NodeNotFoundError:
        return
    old_or_new(found, np.full_like(OLD, FILL), OLD, kind)


def read(store: Any, kind: Kind) -> None:
    out = np.full(OLD.shape, 1, "i4")
    zarr_gpu.open_array(store, path="g/a", mode="r").read(out=out)
    np.testing.assert_array_equal(out, OLD)


def check_read(data: dict[str, bytes], kind: Kind) -> None:
    np.testing.assert_array_equal(stored(data)[...], OLD)


OPERATIONS = {
    "read": Operation(full, read, check_read),
    "create": Operation(nothing, create, check_created, again=False),
    "create with data": Operation(nothing, create_with_data, check_created),
    "write all": written(np.s_[...]),
    "write a chunk": written(np.s_[4:8, 0:4]),
    "write a part": written(np.s_[3:9, 1:5]),
    "write an element": written(np.s_[3, 2]),
    "erase": Operation(full, erase, check_erased),
    "shrink": resized((5, 3)),
    "shrink to nothing": resized((0, 0)),
    "grow": resized((17, 9)),
    "shrink and grow": resized((5, 9), (5, 6)),
    "append": Operation(full, append, check_appended, again=False),
    "grow over leftovers": Operation(
        prepare_leftovers, grow_over_leftovers, check_grown_over_leftovers
    ),
    "append over leftovers": Operation(
        prepare_leftovers, append_less_over_leftovers, check_appended_less, again=False
    ),
    "attributes": Operation(full, set_attributes, check_attributes),
    "consolidate": Operation(full, consolidate, check_consolidated),
    "overwrite": Operation(full, overwrite, check_overwritten),
    "delete an array": Operation(full, delete_array, check_whole_or_gone),
    "delete a group": Operation(full, delete_group, check_whole_or_gone),
    "move": Operation(full, move, check_moved, again=False),
    "copy keys": Operation(full, copy_keys, check_whole_or_gone),
    "copy an array": Operation(full, copy_array, check_copied),
}


@pytest.fixture(autouse=True)
def one_request_at_a_time() -> Iterator[None]:
    """So that call k is the same one every time."""
    with zarr_gpu.config.set({"io_threads": 1, "threads": 1}):
        yield


def check(name: str, kind: Kind, *, local: bool) -> None:
    operation = OPERATIONS[name]
    before: dict[str, bytes] = {}
    operation.prepare(before, kind)
    good = FailingStore(dict(before), after=False, local=local)
    operation.run(good, kind)
    operation.check(good.data, kind)
    end = arrays(good.data)
    faults = [(k, False) for k in range(good.calls)] + [(k, True) for k in good.changes]
    for k, after in faults:
        store = FailingStore(dict(before), k, after=after, local=local)
        with pytest.raises(Injected):
            operation.run(store, kind)
        operation.check(store.data, kind)
        if operation.again:
            operation.run(store, kind)
            assert arrays(store.data) == end, f"after call {k}"


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failing_call_is_an_error_and_harms_nothing(name: str, kind: Kind) -> None:
    check(name, kind, local=True)


@pytest.mark.parametrize("name", ["read", "write all", "write a part", "shrink", "append"])
def test_a_failing_call_of_a_store_with_latency_harms_nothing(name: str) -> None:
    check(name, KINDS[0], local=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_failing_call_of_a_store_with_latency_harms_nothing(name: str, kind: Kind) -> None:
    check(name, kind, local=False)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (0, 6), (17, 9), (5, 9)])
def test_the_array_at_hand_shows_no_fill_values_for_what_a_failed_resize_removed(
    kind: Kind, shape: tuple[int, int]
) -> None:
    before: dict[str, bytes] = {}
    full(before, kind)
    for k in range(200):
        store = FailingStore(dict(before), after=False, local=True)
        array = opened(store)
        store.at = store.calls + k
        try:
            array.resize(shape)
        except Injected:
            store.at = -1
            rows, columns = np.minimum(array.shape, OLD.shape)
            np.testing.assert_array_equal(array[:rows, :columns], OLD[:rows, :columns])
        else:
            assert k > 3
            break


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_failed_read_says_so_and_the_next_one_is_right(kind: Kind) -> None:
    data: dict[str, bytes] = {}
    full(data, kind)
    for k in range(200):
        store = FailingStore(data, after=False, local=True)
        array = zarr_gpu.open_array(store, path="g/a", mode="r")
        store.at = store.calls + k
        out = np.zeros_like(OLD)
        try:
            array.read(out=out)
        except Injected:
            array.read(out=out)
        np.testing.assert_array_equal(out, OLD)
        if store.calls <= store.at:
            break
