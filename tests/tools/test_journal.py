"""Jobs that stop at any step, go on, are run twice at once, or find their source changed."""

import os

import fsspec
import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.errors import ContainsNodeError, NodeNotFoundError, UnfinishedError
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.fsspec import FsspecStore
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import WrappedStore
from zarr_gpu.stores.zip import ZipStore
from zarr_gpu.tools import journal as journals
from zarr_gpu.tools.converting import convert, rechunk
from zarr_gpu.tools.copying import copy
from zarr_gpu.tools.journal import DIRECTORY, Ranges
from zarr_gpu.tools.verifying import verify

VALUES = np.arange(240, dtype="i4").reshape(20, 12)


class StoppedError(Exception):
    """The store gives up."""


class Stops(WrappedStore):
    """Does ``left`` changes, and none after them; directories are deleted object by object."""

    left = 0

    def _change(self):
        if self.left <= 0:
            raise StoppedError
        self.left -= 1

    def set(self, key, value):
        self._change()
        self.store.set(key, value)

    def set_many(self, items):
        for key, value in items:
            self.set(key, value)

    def set_if_absent(self, key, value):
        self._change()
        return self.store.set_if_absent(key, value)

    def set_parts(self, key, parts):
        self._change()
        return self.store.set_parts(key, parts)

    def delete(self, key):
        self._change()
        self.store.delete(key)

    def delete_prefix(self, prefix=""):
        if isinstance(self.store, LocalStore):
            self._change()
            self.store.delete_prefix(prefix)
        else:
            Store.delete_prefix(self, prefix)


def source():
    root = zarr_gpu.open_group(MemoryStore(), mode="w", attributes={"n": 1})
    root.create_array("a", data=VALUES, chunks=(1, 12))
    root.create_array("b/c", data=VALUES[0], chunks=(5,))
    return root


JOBS = {
    "copy": lambda root, place, **options: copy(root, place, **options),
    "direct": lambda root, place, **options: convert(root, place, chunks=(20, 3), **options),
    "two passes": lambda root, place, **options: convert(
        root, place, chunks=(20, 1), memory=400, **options
    ),
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["memory", "local"])
def test_stopped_before_every_change(job, old, kind, tmp_path, monkeypatch):
    """A target can be opened only when it is whole, and a second run makes it so."""
    monkeypatch.setattr(journals, "SAVE_SECONDS", 0)
    root = source()
    left = 0
    finished = False
    while not finished:
        inner = MemoryStore() if kind == "memory" else LocalStore(tmp_path / str(left))
        if old:
            zarr_gpu.create_array(inner, data=np.ones(3), chunks=(1,), attributes={"old": 1})
        stops = Stops(inner)
        stops.left = left
        try:
            JOBS[job](root, stops, overwrite=old)
            finished = True
        except StoppedError:
            pass
        try:
            found = zarr_gpu.open(inner, mode="r")
        except NodeNotFoundError:
            pass
        else:
            if not found.attrs.asdict().get("old"):
                np.testing.assert_array_equal(found["a"][...], VALUES)
                np.testing.assert_array_equal(found["b/c"][...], VALUES[0])
        if not finished:
            try:
                JOBS[job](root, inner, overwrite=False)
            except ContainsNodeError:  # nothing was changed yet, or all but the tidying up done
                pass
            except UnfinishedError:
                assert old
        if "old" in zarr_gpu.open(inner, mode="r").attrs:
            JOBS[job](root, inner, overwrite=True)
        np.testing.assert_array_equal(zarr_gpu.open(inner, mode="r")["a"][...], VALUES)
        result = verify(inner)
        assert (result.ok, result.stray, result.temporary) == (True, [], [])
        assert not [key for key in inner.list_prefix() if DIRECTORY in key]
        assert not (tmp_path / str(left) / DIRECTORY).exists()
        left += 1 if kind == "memory" and job != "two passes" else 9
    assert left > 10


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_left_on_other_file_systems(job, tmp_path):
    """Where fsspec deletes files, and not the directories they were in."""
    place = FsspecStore(fsspec.filesystem("file"), str(tmp_path / "t"))
    JOBS[job](source(), place)
    assert not (tmp_path / "t" / DIRECTORY).exists()
    result = verify(tmp_path / "t")
    assert (result.ok, result.stray) == (True, [])
    with pytest.raises(ContainsNodeError):
        JOBS[job](source(), place)
    JOBS[job](source(), place, overwrite=True)
    assert verify(tmp_path / "t").ok


# -- two at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
def test_of_two_runs_at_once_the_later_one_has_the_job(job, monkeypatch):
    """The earlier one stops before it can remove what the later one reads."""
    monkeypatch.setattr(journals, "SAVE_SECONDS", 0)
    root, inner = source(), MemoryStore()
    started = []

    class Slow(WrappedStore):
        def set(self, key, value):
            self.store.set(key, value)
            if not key.endswith(".json") and not started:
                started.append(key)
                JOBS[job](root, inner)  # the same command, from another terminal

    with pytest.raises(UnfinishedError, match="by another process"):
        JOBS[job](root, Slow(inner))
    np.testing.assert_array_equal(zarr_gpu.open(inner)["a"][...], VALUES)
    assert not [key for key in inner.list_prefix() if DIRECTORY in key]


def test_an_intermediate_array_is_not_removed_under_another_run(monkeypatch):
    monkeypatch.setattr(journals, "SAVE_SECONDS", 0)
    root, inner = source(), MemoryStore()
    seen = []

    class Slow(WrappedStore):
        def set_many(self, items):
            for key, value in items:
                self.set(key, value)

        def set(self, key, value):
            self.store.set(key, value)
            if key.startswith("a/c/") and not seen:
                seen.append(key)
                stops = Stops(inner)
                stops.left = 5  # another run that has only begun
                with pytest.raises(StoppedError):
                    JOBS["two passes"](root, stops)

    with pytest.raises(UnfinishedError, match="taken over"):
        JOBS["two passes"](root, Slow(inner))
    assert [key for key in inner.list_prefix(DIRECTORY) if "intermediate" in key]
    JOBS["two passes"](root, inner)
    np.testing.assert_array_equal(zarr_gpu.open(inner)["a"][...], VALUES)


@pytest.mark.parametrize("work", [copy, convert])
def test_no_documents_over_a_target_that_another_job_has_emptied(work):
    """Even when it happened after the last second's record."""
    root, inner = source(), MemoryStore()
    seen = []

    class Slow(WrappedStore):
        def set(self, key, value):
            self.store.set(key, value)
            if not key.endswith(".json") and not seen:
                seen.append(key)
                stops = Stops(inner)
                stops.left = 12
                with pytest.raises(StoppedError):
                    convert(root, stops, chunks=(3, 3), overwrite=True)

    with pytest.raises(UnfinishedError, match="by another process"):
        work(root, Slow(inner))
    with pytest.raises(NodeNotFoundError):
        zarr_gpu.open(inner, mode="r")


# -- the source -----------------------------------------------------------------------------------


def stores(tmp_path):
    """Sources of each kind, with what changes one chunk, of the same size."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for place in (MemoryStore(), LocalStore(tmp_path / "s"), FsspecStore(fs, "/s")):
        zarr_gpu.create_array(place, data=VALUES, chunks=(1, 12), compressors=None)
        yield place, lambda place: place.set("c/3/0", bytes(48))
    file = tmp_path / "s.zip"

    def zipped(values):
        with ZipStore(file, "w") as store:
            zarr_gpu.create_array(store, data=values, chunks=(1, 12), compressors=None)

    zipped(VALUES)
    yield ZipStore(file), lambda _: zipped(VALUES[::-1])


@pytest.mark.parametrize("number", range(4), ids="memory local fsspec zip".split())
@pytest.mark.parametrize("how", ["copy", "convert", "rechunk"])
def test_a_source_that_has_changed_is_noticed(number, how, tmp_path):
    place, change = list(stores(tmp_path))[number]
    inner = MemoryStore()

    def job(target, **options):
        if how == "rechunk":
            return rechunk(place, target, chunks=(5, 3), **options)
        return (copy if how == "copy" else convert)(place, target, **options)

    stops = Stops(inner)
    stops.left = 6
    with pytest.raises(StoppedError):
        job(stops)
    stops.left = 3
    with pytest.raises(StoppedError):
        job(stops)  # the same source is none that has changed
    change(place)
    if isinstance(place, ZipStore):
        place = ZipStore(place.path)
    with pytest.raises(UnfinishedError, match=r"source has changed .*--overwrite"):
        job(inner)
    job(inner, overwrite=True)
    expected = zarr_gpu.open_array(place, mode="r")[...]
    np.testing.assert_array_equal(zarr_gpu.open_array(inner, mode="r")[...], expected)
    assert not (expected == VALUES).all()


@pytest.mark.parametrize("what", ["chunk gone", "chunk new", "attributes", "touched"])
def test_every_change_of_a_source_counts(what, tmp_path):
    array = zarr_gpu.create_array(tmp_path / "s", shape=(20, 12), chunks=(1, 12), dtype="i4")
    array[:10] = VALUES[:10] + 1
    stops = Stops(inner := MemoryStore())
    stops.left = 4
    with pytest.raises(StoppedError):
        copy(tmp_path / "s", stops)
    if what == "chunk gone":
        (tmp_path / "s/c/3/0").unlink()
    elif what == "chunk new":
        array[15] = 3
    elif what == "attributes":
        array.attrs["x"] = 1
    else:
        os.utime(tmp_path / "s/c/3/0", ns=(1, 1))
    with pytest.raises(UnfinishedError, match="source has changed"):
        copy(tmp_path / "s", inner)


def test_a_file_that_has_changed_is_noticed(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    stops = Stops(inner := MemoryStore())
    stops.left = 3
    with pytest.raises(StoppedError):
        convert(tmp_path / "a.npy", stops, chunks=(1, 1))
    np.save(tmp_path / "a.npy", VALUES[::-1])
    with pytest.raises(UnfinishedError, match="source has changed"):
        convert(tmp_path / "a.npy", inner, chunks=(1, 1))


def test_nothing_is_written_into_what_is_unfinished():
    root, inner = source(), MemoryStore()
    stops = Stops(inner)
    stops.left = 4
    with pytest.raises(StoppedError):
        copy(root, stops)
    with pytest.raises(UnfinishedError, match="unfinished"):
        copy(root["a"], inner, target_path="x/y")
    with pytest.raises(NodeNotFoundError):
        zarr_gpu.open(inner, mode="r")


def test_ranges_are_what_a_set_would_be():
    rng = np.random.default_rng(0)
    ranges, expected = Ranges([[3, 5], [10, 12]]), {3, 4, 10, 11}
    for n in rng.integers(0, 40, 60).tolist():
        ranges.add(n)
        expected.add(n)
        assert [i for i in range(41) if i in ranges] == sorted(expected)
        assert len(ranges) == len(expected)
        assert all(a < b for a, b in ranges.rows)
        assert all(b < c for (_, b), (c, _) in zip(ranges.rows, ranges.rows[1:], strict=False))
    assert Ranges(ranges.rows).rows == ranges.rows


def test_half_an_object_is_copied_again():
    """What a store without whole writes may leave; sizes tell."""
    root, inner = source(), MemoryStore()
    stops = Stops(inner)
    stops.left = 6
    with pytest.raises(StoppedError):
        copy(root, stops)
    key = next(key for key in inner.list_prefix() if key.startswith("a/c/"))
    inner.set(key, bytes(inner.get(key))[:5])
    copy(root, inner)
    assert verify(inner).ok
    np.testing.assert_array_equal(zarr_gpu.open(inner)["a"][...], VALUES)
