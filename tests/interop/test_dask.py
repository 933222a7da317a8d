"""dask arrays from and to stores: what is read, what is refused, how large the graphs are."""

import os
import pickle
import subprocess
import sys
from itertools import accumulate, pairwise

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from dask.base import tokenize
from dask.delayed import Delayed
from hypothesis import given
from hypothesis import strategies as st

import zarr_gpu
from tests.interop.foreign_device import Foreign, foreign_device
from zarr_gpu.errors import ContainsArrayError, UnsafeConcurrentWriteError
from zarr_gpu.interop import dask_chunks
from zarr_gpu.interop.dask_graph import Source, Target, arrays_behind
from zarr_gpu.stores.memory import MemoryStore

VALUES = np.random.default_rng(0).integers(0, 1000, (43, 29)).astype("i4")


@pytest.fixture(autouse=True)
def _threads():
    with dask.config.set(scheduler="threads"):
        yield


@pytest.fixture
def array(tmp_path):
    return zarr_gpu.create_array(tmp_path / "a.zarr", data=VALUES, chunks=(10, 10))


@pytest.fixture
def sharded(tmp_path):
    return zarr_gpu.create_array(tmp_path / "s.zarr", data=VALUES, chunks=(5, 5), shards=(20, 10))


class Spy(MemoryStore):
    """Counts the objects that are read."""

    def __init__(self, data=None):
        super().__init__(data)
        self.keys = []

    def get(self, key, byte_range=None, *, limit=None):
        self.keys.append(key)
        return super().get(key, byte_range, limit=limit)

    def locate(self, keys):
        self.keys.extend(keys)
        return super().locate(keys)

    def fill(self, keys, buffers):
        self.keys.extend(keys)
        return super().fill(keys, buffers)

    def chunks(self):
        found = {key for key in self.keys if "zarr.json" not in key}
        self.keys.clear()
        return found


# -- reading ----------------------------------------------------------------------------------


def test_blocks_are_stored_objects(array, sharded):
    x, y = zarr_gpu.to_dask(array), zarr_gpu.to_dask(sharded)
    assert x.chunks == ((10, 10, 10, 10, 3), (10, 10, 9))
    assert y.chunks == ((20, 20, 3), (10, 10, 9))
    for lazy in (x, y):
        assert lazy.dtype == VALUES.dtype and lazy.shape == VALUES.shape
        np.testing.assert_array_equal(lazy.compute(), VALUES)
    assert zarr_gpu.to_dask(array, chunks=(7, -1)).chunks == ((7,) * 6 + (1,), (29,))
    assert zarr_gpu.to_dask(array, chunks={0: 20}).chunks[0] == (20, 20, 3)
    with dask.config.set({"array.chunk-size": "2KiB"}):
        automatic = zarr_gpu.to_dask(sharded, chunks="auto").chunks
    for blocks, objects in zip(automatic, sharded.write_chunk_sizes, strict=True):
        assert dask_chunks.misplaced(blocks, objects) is None


def test_sources_other_than_arrays(array, tmp_path):
    root = zarr_gpu.open_group(tmp_path / "g", mode="w")
    root.create_array("n/v", data=VALUES)
    np.testing.assert_array_equal(zarr_gpu.to_dask(str(tmp_path / "g"), path="n/v"), VALUES)
    np.testing.assert_array_equal(zarr_gpu.to_dask(tmp_path / "a.zarr", device="cpu"), VALUES)
    assert arrays_behind(zarr_gpu.to_dask(array, device="cpu"))[0].device == "cpu"
    with pytest.raises(TypeError, match="for stores, not for an array"):
        zarr_gpu.to_dask(array, path="n")
    with pytest.raises(FileNotFoundError):
        zarr_gpu.to_dask(tmp_path / "nothing")


@pytest.mark.parametrize(
    "value",
    [
        np.array(3.5),
        np.empty((0, 4)),
        np.array(["a", "bc", ""], np.dtypes.StringDType()),
        np.array([1, 2], "M8[s]"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.arange(6, dtype=">i2").reshape(2, 3),
    ],
    ids=lambda v: f"{v.dtype.kind}{v.shape}",
)
def test_types_and_shapes_there_and_back(value):
    array = zarr_gpu.create_array({}, data=value)
    lazy = zarr_gpu.to_dask(array)
    found = lazy.compute()
    np.testing.assert_array_equal(found, value)
    assert found.shape == value.shape
    again = zarr_gpu.from_dask(lazy, {})
    np.testing.assert_array_equal(again[...], value)
    assert again.dtype == array.dtype


@given(st.data())
def test_selections_are_those_of_numpy(data):
    array = zarr_gpu.create_array({}, data=VALUES, chunks=(8, 6), shards=(16, 12))
    lazy, expected = zarr_gpu.to_dask(array), VALUES
    for _ in range(data.draw(st.integers(1, 3))):
        key = []
        for n in expected.shape:
            inside = st.integers(-n, n - 1) if n else st.nothing()
            key.append(
                data.draw(
                    st.one_of(
                        inside,
                        st.slices(n),
                        st.lists(inside, max_size=4) if n else st.just([]),
                    )
                    if not any(isinstance(k, list) for k in key)
                    else st.one_of(inside, st.slices(n))
                )
            )
        if not key:
            break
        lists = [i for i, k in enumerate(key) if isinstance(k, list)]
        if lists and any(isinstance(k, int) for k in key):
            continue  # NumPy moves axes then, and dask does not
        lazy, expected = lazy[tuple(key)], expected[tuple(key)]
    np.testing.assert_array_equal(lazy.compute(), expected)


def test_only_what_is_needed_is_read():
    store = Spy()
    zarr_gpu.create_array(store, data=VALUES, chunks=(10, 10))
    lazy = zarr_gpu.to_dask(zarr_gpu.open_array(store))
    store.chunks()
    lazy[5, 12].compute()
    assert store.chunks() == {"c/0/1"}
    (lazy + 1)[15:25, :10].sum().compute()
    assert store.chunks() == {"c/1/0", "c/2/0"}
    lazy[::20][:, [0, 28]].compute()
    assert store.chunks() == {f"c/{i}/{j}" for i in (0, 2, 4) for j in (0, 2)}


def test_slices_are_fused_into_the_reads(array, monkeypatch):
    asked = []
    read = Source.__getitem__

    def spy(self, selection):
        asked.append(selection)
        return read(self, selection)

    monkeypatch.setattr(Source, "__getitem__", spy)
    lazy = zarr_gpu.to_dask(array)
    np.testing.assert_array_equal(lazy[12:19, 3].compute(), VALUES[12:19, 3])
    assert asked == [(slice(12, 19, None), 3)]


def test_names(array, tmp_path):
    name = zarr_gpu.to_dask(array).name
    assert name.startswith("zarr_gpu-")
    assert zarr_gpu.to_dask(zarr_gpu.open_array(tmp_path / "a.zarr", mode="r")).name == name
    assert zarr_gpu.to_dask(pickle.loads(pickle.dumps(array))).name == name
    others = [
        zarr_gpu.to_dask(array, chunks=5).name,
        zarr_gpu.to_dask(array, name=False).name,
        zarr_gpu.to_dask(array, name=False).name,
        zarr_gpu.to_dask(array, device="cpu").name,
    ]
    array.attrs["changed"] = True
    others.append(zarr_gpu.to_dask(array).name)
    zarr_gpu.create_array(tmp_path / "b.zarr", data=VALUES, chunks=(10, 10))
    others.append(zarr_gpu.to_dask(tmp_path / "b.zarr").name)
    assert len({name, *others}) == 1 + len(others)
    assert zarr_gpu.to_dask(array, name="mine").name == "mine"
    memory = zarr_gpu.create_array({}, data=VALUES)
    assert zarr_gpu.to_dask(memory).name != zarr_gpu.to_dask(memory).name


def test_names_of_arrays_written_anew(tmp_path):
    def make():
        return zarr_gpu.create_array(tmp_path / "a", data=VALUES, overwrite=True)

    assert zarr_gpu.to_dask(make()).name != zarr_gpu.to_dask(make()).name


def test_graphs_grow_by_little(tmp_path):
    attributes = {"long": "x" * 20_000}
    sizes = {}
    for n in (20, 40):
        array = zarr_gpu.create_array(
            tmp_path / f"{n}",
            shape=(10 * n, 100),
            dtype="f4",
            chunks=(10, 10),
            attributes=attributes,
        )
        lazy = zarr_gpu.to_dask(array) + 1
        delayed = zarr_gpu.from_dask(lazy[:, :50], {}, compute=False)
        (optimised,) = dask.optimize(lazy)
        sizes[n] = len(cloudpickle.dumps(optimised.dask))
        tasks = [len(cloudpickle.dumps(task)) for task in optimised.dask.values()]
        assert sorted(tasks)[-2] < 1500, "one task has the array, the others its name"
        tasks = [task for key, task in delayed.dask.items() if isinstance(key, tuple)]
        assert sum("store" in task.key[0] for task in tasks) == n * 5
        assert max(len(cloudpickle.dumps(task)) for task in tasks) < 2500
    assert sizes[40] - sizes[20] < 200 * 20 * 10
    assert len(pickle.dumps(lazy)) < 40_000


def test_plain_from_array_works_too(array):
    np.testing.assert_array_equal(da.from_array(array, chunks=array.chunks).compute(), VALUES)
    assert tokenize(array) == tokenize(zarr_gpu.open_array(array.store))


def test_blocks_on_a_device(array, monkeypatch):
    with foreign_device(monkeypatch):
        lazy = zarr_gpu.to_dask(array, device="cuda")
        assert isinstance(lazy._meta, Foreign)
        assert isinstance((lazy[3:8] + 1)._meta, Foreign)
        block = (lazy + 1).blocks[1, 2].compute()
        assert isinstance(block, Foreign)
        np.testing.assert_array_equal(block.get(), VALUES[10:20, 20:] + 1)
        again = zarr_gpu.from_dask(lazy * 2, {})
        np.testing.assert_array_equal(again.to("cpu")[...], VALUES * 2)
    assert isinstance(zarr_gpu.to_dask(array, meta=np.ma.empty((0, 0)))._meta, np.ma.MaskedArray)


# -- writing ----------------------------------------------------------------------------------


def test_blocks_become_chunks(tmp_path):
    x = da.from_array(VALUES, chunks=(20, 10))
    array = zarr_gpu.from_dask(x, tmp_path / "o", attributes={"a": 1})
    assert array.chunks == (20, 10) and array.attrs["a"] == 1
    np.testing.assert_array_equal(array[...], VALUES)
    with pytest.raises(ContainsArrayError):
        zarr_gpu.from_dask(x, tmp_path / "o")
    array = zarr_gpu.from_dask(
        x + 1, tmp_path / "o", overwrite=True, chunks=(5, 5), shards=(20, 10), compressors=None
    )
    assert array.shards == (20, 10) and array.compressors == ()
    np.testing.assert_array_equal(array[...], VALUES + 1)
    below = zarr_gpu.from_dask(x, tmp_path / "g", path="a/b", zarr_format=2, chunks=(10, 5))
    assert below.path == "a/b" and below.metadata.zarr_format == 2 and below.chunks == (10, 5)


def test_existing_arrays_and_regions(array):
    x = da.from_array(VALUES, chunks=(20, 10))
    assert zarr_gpu.from_dask(x * 2, array) is array
    np.testing.assert_array_equal(array[...], VALUES * 2)
    part = da.full((20, 10), 7, chunks=(10, 10), dtype="i4")
    zarr_gpu.from_dask(part, array, region=(slice(10, 30), slice(-10, None)), align_chunks=True)
    expected = VALUES * 2
    expected[10:30, 19:] = 7
    np.testing.assert_array_equal(array[...], expected)
    wrong = [
        ((slice(0, 20),), "must be 2 slices"),
        ((slice(0, 20), 3), "must be 2 slices"),
        ((slice(0, 40, 2), slice(0, 10)), "step 1"),
        ((slice(0, 10), slice(0, 10)), r"shape \(20, 10\) cannot be stored in a region of shape"),
        (None, "cannot be stored"),
    ]
    for region, match in wrong:
        with pytest.raises(ValueError, match=match):
            zarr_gpu.from_dask(part, array, region=region)
    with pytest.raises(TypeError, match="for new ones"):
        zarr_gpu.from_dask(x, array, overwrite=True)
    with pytest.raises(ValueError, match="for an existing Array"):
        zarr_gpu.from_dask(part, {}, region=(slice(10, 30), slice(0, 10)))


def test_blocks_that_share_objects_are_refused(array, sharded):
    x = da.from_array(VALUES, chunks=(10, 10))
    message = "meet at 10 of axis 0, inside a shard.*align_chunks=True"
    with pytest.raises(UnsafeConcurrentWriteError, match=message):
        zarr_gpu.from_dask(x, sharded)
    with pytest.raises(ValueError, match="meet at 5 of axis 1, inside a chunk"):
        zarr_gpu.from_dask(x[:, 5:15], array, region=(slice(None), slice(0, 10)))
    with pytest.raises(ValueError, match="meet at 10 of axis 0"):
        zarr_gpu.from_dask(x, {}, chunks=(15, 10))
    zarr_gpu.from_dask(x + 5, sharded, align_chunks=True)
    np.testing.assert_array_equal(sharded[...], VALUES + 5)


def test_irregular_and_unknown_blocks():
    x = da.from_array(VALUES, chunks=((10, 20, 13), 29))
    with pytest.raises(ValueError, match=r"axis 0 .* different lengths"):
        zarr_gpu.from_dask(x, {})
    array = zarr_gpu.from_dask(x, {}, align_chunks=True)
    assert array.chunks == (20, 29)
    np.testing.assert_array_equal(array[...], VALUES)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        zarr_gpu.from_dask(x[x > 5], {})
    with pytest.raises(TypeError, match="not ndarray"):
        zarr_gpu.from_dask(VALUES, {})


SOURCES = {
    "plain": zarr_gpu.to_dask,
    "inline": lambda array: zarr_gpu.to_dask(array, inline_array=True),
    "optimized": lambda array: dask.optimize(zarr_gpu.to_dask(array) + 1)[0],
    "both": lambda array: dask.optimize(zarr_gpu.to_dask(array, inline_array=True) + 1)[0],
    "of dask": lambda array: da.from_array(array, chunks=10, inline_array=True),
    "argument": lambda array: da.zeros((43, 29), chunks=9).map_blocks(lambda b, a: b, array),
    "keyword": lambda array: da.zeros((43, 29), chunks=9).map_blocks(lambda b, a: b, a=array),
    "rechunked": lambda array: zarr_gpu.to_dask(array).rechunk(7)[::2].T,
}


@pytest.mark.parametrize("how", SOURCES)
def test_the_source_is_not_overwritten(array, how):
    lazy = SOURCES[how](array) + 1
    assert arrays_behind(lazy)[0] is array
    with pytest.raises(ValueError, match="would destroy the array"):
        zarr_gpu.from_dask(lazy, array.store, overwrite=True, align_chunks=True)
    np.testing.assert_array_equal(array[...], VALUES)
    assert not arrays_behind(da.ones(9, chunks=3) + 1)


def test_sources_are_found_without_making_the_tasks():
    array = zarr_gpu.create_array({}, shape=(10**9,), dtype="i1", chunks=(10,))
    lazy = da.from_array(Source(array), chunks=10**8, meta=np.empty(0, "i1"))
    blocks = dict.__len__(lazy.dask.layers)
    assert arrays_behind(lazy + 1) == [array] and blocks == 2


def test_computing_later(tmp_path):
    delayed = zarr_gpu.from_dask(da.from_array(VALUES, chunks=10), tmp_path / "o", compute=False)
    assert isinstance(delayed, Delayed)
    array = zarr_gpu.open_array(tmp_path / "o", mode="r")
    assert not array[...].any()
    assert delayed.compute() == array
    np.testing.assert_array_equal(array[...], VALUES)


def test_blocks_of_objects_need_a_type(tmp_path):
    x = da.from_array(np.array(["a", "bcd", ""], object), chunks=2)
    with pytest.raises(ValueError, match="pass str"):
        zarr_gpu.from_dask(x, tmp_path / "o")
    assert zarr_gpu.from_dask(x, tmp_path / "o", dtype=str)[...].tolist() == ["a", "bcd", ""]
    half = zarr_gpu.from_dask(da.arange(4, chunks=2), {}, dtype="f2")
    assert half.dtype == "f2" and half[3] == 3
    with pytest.raises(TypeError, match="dtype="):
        zarr_gpu.from_dask(x, half, dtype=str)


def test_masks_are_refused(tmp_path):
    x = da.ma.masked_equal(da.arange(6, chunks=2), 3)
    with pytest.raises(TypeError, match="filled"):
        zarr_gpu.from_dask(x, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert zarr_gpu.from_dask(da.ma.filled(x, -1), {})[...].tolist() == [0, 1, 2, -1, 4, 5]


def test_blocks_of_several_lengths(tmp_path):
    chunks = [[2, 5, 3], [4, 4]]
    array = zarr_gpu.create_array(tmp_path / "a", shape=(10, 8), dtype="i4", chunks=chunks)
    x = zarr_gpu.to_dask(array)
    assert x.chunks == ((2, 5, 3), (4, 4))
    values = np.arange(80).reshape(10, 8)
    zarr_gpu.from_dask(da.from_array(values, chunks=x.chunks), array)
    np.testing.assert_array_equal(x, values)
    with pytest.raises(UnsafeConcurrentWriteError, match=r"meet at 5 of axis 0.*\(2:7 there\)"):
        zarr_gpu.from_dask(da.from_array(values, chunks=5), array)
    zarr_gpu.from_dask(da.from_array(values + 1, chunks=5), array, align_chunks=True)
    np.testing.assert_array_equal(x, values + 1)
    again = zarr_gpu.from_dask(x, {}, chunks=chunks)
    assert again.write_chunk_sizes == array.write_chunk_sizes
    np.testing.assert_array_equal(again[...], values + 1)


def test_two_stored_at_once(array):
    whole, parts = zarr_gpu.to_dask(array), []
    target = zarr_gpu.create_array({}, shape=VALUES.shape, dtype="i8", chunks=(10, 29))
    for span in (slice(0, 15), slice(15, 43)):  # a chunk is shared: our locks keep it whole
        part = whole[span].rechunk(-1)
        parts.append(zarr_gpu.from_dask(part, target, region=(span, slice(None)), compute=False))
    assert dask.compute(*parts) == (target, target)
    np.testing.assert_array_equal(target[...], VALUES)


def test_dasks_own_store(array):
    da.store(da.from_array(VALUES * 2, chunks=(10, 10)), array)
    np.testing.assert_array_equal(array[...], VALUES * 2)
    part = da.full((10, 10), 7, chunks=10)
    da.store(part, array, regions=(slice(10, 20), slice(0, 10)), lock=False)
    assert (array[10:20, :10] == 7).all()


def test_arrays_of_expressions(tmp_path):
    """dask.array with query planning, which can be switched on before its first import only."""
    code = f"""
import numpy as np, dask.array as da, xarray as xr, zarr_gpu
from zarr_gpu.interop.dask_graph import arrays_behind
values = np.arange(42).reshape(7, 6)
x = zarr_gpu.to_dask(zarr_gpu.create_array({str(tmp_path / "a")!r}, data=values, chunks=(3, 2)))
assert not isinstance(x, da.core.Array)
np.testing.assert_array_equal(x[::-2, 1:].compute(), values[::-2, 1:])
assert arrays_behind(x + 1)
y = (x * 2).rechunk(4)[1:].T
how = {{"chunks": (2, 2), "align_chunks": True, "compute": False}}
later = zarr_gpu.from_dask(y, {str(tmp_path / "b")!r}, **how)
np.testing.assert_array_equal(later.compute()[...], (values * 2)[1:].T)
data = xr.Dataset({{"v": (("y", "x"), x), "w": (("y", "x"), x + 1)}})
group = data.zarr_gpu.to_zarr({str(tmp_path / "c")!r})
np.testing.assert_array_equal(group["w"][...], values + 1)
print("whole")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DASK_ARRAY__QUERY_PLANNING": "True"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "whole\n", done.stderr


def test_a_store_that_fails_midway():
    class Full(MemoryStore):
        def set(self, key, value):
            if key == "c/2":
                raise OSError("no space left")
            super().set(key, value)

    store = Full()
    x = da.arange(40, chunks=10)
    with pytest.raises(OSError, match="no space left"), dask.config.set(scheduler="sync"):
        zarr_gpu.from_dask(x, store)
    stored = zarr_gpu.open_array(store)[...].reshape(4, 10)
    for block, expected in zip(stored, np.arange(40).reshape(4, 10), strict=True):
        assert not block.any() or (block == expected).all(), "whole or not at all"
    store.set = lambda key, value: MemoryStore.set(store, key, value)
    zarr_gpu.from_dask(x, zarr_gpu.open_array(store))
    np.testing.assert_array_equal(zarr_gpu.open_array(store)[...], np.arange(40))


def test_errors_of_tasks_reach_the_caller(tmp_path):
    def fail(block):
        raise ArithmeticError("of a task")

    x = da.ones((8,), chunks=4).map_blocks(fail, meta=np.ones(0))
    with pytest.raises(ArithmeticError, match="of a task"):
        zarr_gpu.from_dask(x, tmp_path / "o")


def test_stores_in_memory_are_not_sent_to_be_written(tmp_path):
    import fsspec

    fsspec.filesystem("memory").store.clear()
    lost = zarr_gpu.create_array("memory://lost", data=VALUES)
    copied = zarr_gpu.create_array({}, data=VALUES)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(Source(copied)))[...], VALUES)
    for handle in (Source(lost), Target(lost), Target(copied)):
        with pytest.raises(UnsafeConcurrentWriteError, match="Use a path or a URL"):
            pickle.dumps(handle)
    on_disk = zarr_gpu.create_array(tmp_path / "d", data=VALUES)
    assert pickle.loads(pickle.dumps(Target(on_disk))).array == on_disk


# -- lengths ----------------------------------------------------------------------------------

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=8).map(tuple)


@given(blocks=lengths, chunk=st.integers(1, 7), start=st.integers(0, 9), more=st.integers(0, 9))
def test_aligned_blocks(blocks, chunk, start, more):
    stop = start + sum(blocks)
    objects = tuple(min(chunk, stop + more - at) for at in range(0, stop + more, chunk))
    found = dask_chunks.aligned(blocks, objects, start)
    assert sum(found) == sum(blocks) and min(found) > 0
    assert dask_chunks.misplaced(found, objects, start) is None
    if dask_chunks.misplaced(blocks, objects, start) is None:
        assert found == blocks
    assert max(found) < max(blocks) + 2 * chunk
    touched = [
        {at // chunk for at in range(begin, end)}
        for begin, end in pairwise([start, *accumulate(found, initial=start)][1:])
    ]
    for one, other in pairwise(touched):
        assert not one & other
    shared = dask_chunks.shared_with_others(blocks, objects, start)
    ends_inside = bool(start % chunk) or bool(stop % chunk and stop != sum(objects))
    assert (shared is not None) == ends_inside
