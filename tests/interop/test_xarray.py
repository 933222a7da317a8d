"""The engine of xarray: what it opens is what xarray's own engine opens."""

import asyncio
import copy
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

import zarr_gpu
from tests.interop import datasets
from zarr_gpu import Array
from zarr_gpu.errors import DeviceUnavailableError, GroupNotFoundError
from zarr_gpu.interop.xarray import ZarrGpuBackendEntrypoint, arrays_behind
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore

ENGINE = {"engine": "zarr_gpu"}
NO_NUMPY_TIMES = xr.coders.CFDatetimeCoder(use_cftime=True)
CASES = [(name, zarr_format) for name in datasets.DATASETS for zarr_format in (2, 3)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    made = {}
    for name, zarr_format in CASES:
        dataset = datasets.DATASETS[name]()
        made[name, zarr_format] = datasets.write(
            dataset, root / f"{name}{zarr_format}", zarr_format
        )
    made["sharded", 3] = datasets.write(datasets.sharded(), root / "sharded", 3)
    for zarr_format in (2, 3):
        path = root / f"tree{zarr_format}"
        with datasets.quiet():
            datasets.tree().to_zarr(path, zarr_format=zarr_format)
        made["tree", zarr_format] = str(path)
    return made


def same(one, other):
    xr.testing.assert_identical(_plain(one), _plain(other))
    for name in one.variables:
        assert one[name].dtype == other[name].dtype, name
        assert type(one[name].data) is type(other[name].data), name


def _plain(dataset):
    """An attribute of NaN is unlike itself for xarray before 2026."""
    out = dataset.copy()
    for variable in out.variables.values():
        for key, value in variable.attrs.items():
            variable.attrs[key] = "NaN" if isinstance(value, float) and value != value else value
    return out


@pytest.mark.parametrize("name, zarr_format", [*CASES, ("sharded", 3)])
def test_what_xarray_wrote_is_opened_as_xarray_opens_it(stores, name, zarr_format):
    path = stores[name, zarr_format]
    expected = datasets.read(path)
    with xr.open_dataset(path, **ENGINE) as found:
        same(expected, found.load())
        for key, variable in expected.variables.items():
            theirs, ours = variable.encoding, found[key].encoding
            for member in set(theirs) - {"compressors", "filters", "serializer"}:
                if member != "preferred_chunks":
                    assert np.array_equal(theirs[member], ours[member]) or (
                        theirs[member] != theirs[member] and ours[member] != ours[member]
                    ), (key, member)
    assert found.encoding["source"] == expected.encoding["source"]


@pytest.mark.parametrize(
    "options",
    [
        {"decode_cf": False},
        {"mask_and_scale": False},
        {"decode_times": False},
        {"decode_coords": "all"},
        {"decode_timedelta": False},
        {"decode_times": NO_NUMPY_TIMES, "drop_variables": ["when", "bounds"]},
        {"drop_variables": ["when", "scaled", "n_i1"]},
        {"consolidated": False},
        {"consolidated": True},
        {"create_default_indexes": False},
    ],
    ids=lambda options: "-".join(f"{k}={v}"[:30] for k, v in options.items()),
)
@pytest.mark.parametrize("name, zarr_format", [("packed", 2), ("times", 3)])
def test_the_options_of_xarray_mean_the_same(stores, name, zarr_format, options):
    path = stores[name, zarr_format]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = datasets.read(path, **options)
        with xr.open_dataset(path, **ENGINE, **options) as found:
            same(expected, found.load())


@pytest.mark.parametrize("name, zarr_format", [("packed", 3), ("texts", 2), ("sharded", 3)])
def test_blocks_of_dask(stores, name, zarr_format):
    path = stores[name, zarr_format]
    expected = datasets.read(path)
    with xr.open_dataset(path, **ENGINE, chunks={}) as found:
        xr.testing.assert_identical(expected, found.compute())
        again = xr.open_dataset(path, **ENGINE, chunks={})
        for key, variable in found.variables.items():
            if variable.chunks is not None:
                assert variable.data.name == again[key].variable.data.name


def test_blocks_are_shards_so_that_they_can_be_written_again(stores, tmp_path):
    with xr.open_dataset(stores["sharded", 3], **ENGINE, chunks={}) as found:
        assert found.s.chunks == ((8, 8, 5), (9, 9, 2))
        assert found.s.encoding["chunks"] == (4, 3)
        found.zarr_gpu.to_zarr(tmp_path / "again")
        xr.testing.assert_identical(found.compute(), datasets.read(tmp_path / "again"))


def test_both_engines_write_what_the_other_opened(stores, tmp_path):
    for name, zarr_format in (("numbers", 2), ("packed", 3), ("sharded", 3)):
        path = stores[name, zarr_format]
        without = {"drop_variables": "missing"}  # xarray cannot write again what it reads of it
        expected = datasets.read(path, **without)
        theirs = xr.open_dataset(path, engine="zarr", **without)
        theirs.zarr_gpu.to_zarr(tmp_path / "ours", mode="w", zarr_format=zarr_format)
        xr.testing.assert_identical(expected, datasets.read(tmp_path / "ours"))
        ours = xr.open_dataset(path, **ENGINE, **without)
        datasets.write(ours, tmp_path / "theirs", zarr_format, mode="w")
        xr.testing.assert_identical(expected, datasets.read(tmp_path / "theirs"))
        for key in expected.variables:
            one, other = (zarr_gpu.open_array(tmp_path / s / key) for s in ("ours", "theirs"))
            assert one.metadata == other.metadata


def indexers():
    """Integers, slices (also backwards) and arrays for two axes of 21 and 20."""

    def axis(n):
        whole = st.integers(-n, n - 1)
        return st.one_of(
            whole,
            st.builds(
                slice,
                st.none() | whole,
                st.none() | whole,
                st.none() | st.integers(-4, 4).filter(bool),
            ),
            st.lists(whole, max_size=6).map(lambda v: np.array(v, int)),
            st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
        )

    return st.tuples(axis(21), axis(20))


@pytest.fixture(scope="module")
def pair(stores):
    """The sharded dataset in memory, and lazily opened."""
    found = xr.open_dataset(stores["sharded", 3], **ENGINE, cache=False)
    return datasets.read(stores["sharded", 3]), found


@given(key=indexers(), second=st.integers(0, 3))
def test_lazy_selections_are_those_of_memory(pair, key, second):
    expected, found = pair
    picked = dict(zip(("y", "x"), key, strict=True))
    one, other = (d.s.isel(picked) for d in (expected, found))
    xr.testing.assert_identical(one, other)
    for dim in one.dims[:1]:
        if one.sizes[dim] > second:
            xr.testing.assert_identical(one.isel({dim: second}), other.isel({dim: second}))


@given(points=st.lists(st.tuples(st.integers(-21, 20), st.integers(-20, 19)), max_size=9))
def test_points(pair, points):
    expected, found = pair
    where = np.array(points, int).reshape(-1, 2)
    picked = {d: ("p", where[:, i]) for i, d in enumerate(("y", "x"))}
    xr.testing.assert_identical(expected.s.isel(picked), found.s.isel(picked))


def test_nothing_is_read_before_it_is_needed(stores):
    store = zarr_gpu.open_group(stores["sharded", 3]).store
    reads = []
    get_many, fill, get, locate = store.get_many, store.fill, store.get, store.locate
    for name, method in {"get_many": get_many, "fill": fill, "get": get, "locate": locate}.items():

        def spy(first, *args, method=method, **kwargs):
            reads.extend([first] if isinstance(first, str) else first)
            return method(first, *args, **kwargs)

        setattr(store, name, spy)
    store.with_read_only = lambda: store
    found = xr.open_dataset(store, **ENGINE)
    assert not [key for key in reads if key.startswith("s/c")]
    found.s[0, 0].load()
    assert {key for key in reads if key.startswith("s/c")} <= {"s/c/0/0"}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_trees_and_groups(stores, zarr_format):
    path = stores["tree", zarr_format]
    with datasets.quiet():
        expected = xr.open_datatree(path, engine="zarr").load()
        groups = xr.open_groups(path, engine="zarr")
        below = xr.open_groups(path, engine="zarr", group="a")
    found = xr.open_datatree(path, **ENGINE)
    xr.testing.assert_identical(expected, found.load())
    found.close()
    for options, wanted in (({}, groups), ({"group": "a"}, below)):
        ours = xr.open_groups(path, **ENGINE, **options)
        assert sorted(ours) == sorted(wanted)
        for name, dataset in ours.items():
            xr.testing.assert_identical(wanted[name].load(), dataset.load())
    for group in ("a", "/a/b", "c/"):
        xr.testing.assert_identical(
            datasets.read(path, group=group), xr.open_dataset(path, group=group, **ENGINE).load()
        )
    with pytest.raises(FileNotFoundError, match="no group at 'nowhere'"):
        xr.open_dataset(path, group="nowhere", **ENGINE)


def test_several_files(tmp_path):
    parts = []
    for i in range(3):
        part = xr.Dataset({"v": ("t", np.arange(4.0) + i)}, {"t": np.arange(4) + 4 * i})
        parts.append(datasets.write(part, tmp_path / f"{i}.zarr", 3))
    with xr.open_mfdataset(parts, **ENGINE) as found:
        assert found.v.chunks == ((4, 4, 4),)
        np.testing.assert_array_equal(found.t, np.arange(12))
        np.testing.assert_array_equal(found.v, [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5])


def test_sources_other_than_paths(stores, tmp_path):
    expected = datasets.read(stores["numbers", 3])
    group = zarr_gpu.open_group(stores["numbers", 3], mode="r")
    memory = {}
    zarr_gpu.copy_store(group.store, memory)
    zipped = tmp_path / "n.zarr.zip"
    with zarr.storage.ZipStore(zipped, mode="w") as store, datasets.quiet():
        datasets.numbers().to_zarr(store, zarr_format=3)
    sources = [
        memory,
        group,
        group.store,
        str(zipped),
        "file://" + stores["numbers", 3],
        zarr.storage.LocalStore(stores["numbers", 3], read_only=True),
    ]
    for source in sources:
        with xr.open_dataset(source, **ENGINE) as found:
            xr.testing.assert_identical(expected, found.load())


def test_storage_options(stores):
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    group = zarr_gpu.open_group(stores["times", 3], mode="r")
    zarr_gpu.copy_store(group.store, "memory://times")
    found = xr.open_dataset("memory://times", **ENGINE, storage_options={"asynchronous": False})
    xr.testing.assert_identical(datasets.read(stores["times", 3]), found.load())


def test_the_fill_value_as_mask(tmp_path):
    """xarray's own engine does not look at use_zarr_fill_value_as_mask for datasets."""
    for zarr_format in (2, 3):
        root = zarr_gpu.create_group(tmp_path / f"{zarr_format}", zarr_format=zarr_format)
        named = {"dimension_names": ["x"]} if zarr_format == 3 else {}
        array = root.create_array("a", shape=3, dtype="i2", fill_value=7, **named)
        array[:2] = [7, 1]
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = ["x"]
        for masks, expected in ((None, zarr_format == 2), (True, True), (False, False)):
            option = {} if masks is None else {"use_zarr_fill_value_as_mask": masks}
            found = xr.open_dataset(tmp_path / f"{zarr_format}", **ENGINE, **option).a
            missing = np.nan if expected else 7
            np.testing.assert_array_equal(found, [missing, 1, missing])
            tree = xr.open_datatree(tmp_path / f"{zarr_format}", **ENGINE, **option)
            np.testing.assert_array_equal(tree.a, found)


def test_consolidated_metadata(tmp_path):
    root = zarr_gpu.create_group(tmp_path / "s")
    root.create_array("a", data=np.arange(3), dimension_names=["x"])
    with pytest.raises(ValueError, match="no consolidated metadata"):
        xr.open_dataset(tmp_path / "s", **ENGINE, consolidated=True)
    assert set(xr.open_dataset(tmp_path / "s", **ENGINE)) == {"a"}
    zarr_gpu.consolidate_metadata(tmp_path / "s")
    root.create_array("b", data=np.arange(3), dimension_names=["x"])
    assert set(xr.open_dataset(tmp_path / "s", **ENGINE)) == {"a"}
    assert set(xr.open_dataset(tmp_path / "s", **ENGINE, consolidated=True)) == {"a"}
    assert set(xr.open_dataset(tmp_path / "s", **ENGINE, consolidated=False)) == {"a", "b"}


def test_a_group_in_a_store_whose_root_is_none(tmp_path):
    zarr_gpu.create_group(tmp_path / "s" / "g").create_array(
        "a", data=np.arange(3), dimension_names=["x"]
    )
    assert set(xr.open_dataset(tmp_path / "s", group="g", **ENGINE)) == {"a"}
    with pytest.raises(GroupNotFoundError, match="no group"):
        xr.open_dataset(tmp_path / "s", **ENGINE)


def test_axes_without_names(tmp_path):
    for zarr_format, missing in ((2, "_ARRAY_DIMENSIONS"), (3, "dimension_names")):
        root = zarr_gpu.create_group(tmp_path / f"{zarr_format}", zarr_format=zarr_format)
        root.create_array("a", data=np.arange(3))
        root.create_array("scalar", data=np.array(1.5))
        if zarr_format == 2:
            root["scalar"].attrs["_ARRAY_DIMENSIONS"] = []
        with pytest.raises(KeyError, match=f"'/a' of 1 dimensions.*{missing}"):
            xr.open_dataset(tmp_path / f"{zarr_format}", **ENGINE)
        found = xr.open_dataset(tmp_path / f"{zarr_format}", **ENGINE, drop_variables="a")
        assert found.scalar == 1.5


@pytest.mark.parametrize("newer", [False, True])
def test_names_of_nczarr(tmp_path, newer):
    import json

    root = zarr_gpu.create_group(tmp_path / "s", zarr_format=2, attributes={"_NCProperties": "x"})
    root.create_array("a", data=np.arange(6).reshape(2, 3))
    if newer:
        root["a"].attrs["_nczarr_array"] = {"dimension_references": [], "dimrefs": ["/y", "/g/x"]}
    else:
        path = tmp_path / "s" / "a" / ".zarray"
        document = json.loads(path.read_text())
        document["_NCZARR_ARRAY"] = {"dimrefs": ["/y", "/g/x"]}
        path.write_text(json.dumps(document))
    found = xr.open_dataset(tmp_path / "s", **ENGINE)
    assert found.a.dims == ("y", "x")
    assert found.attrs == {} and found.a.attrs == {}


def test_rectilinear_chunks(tmp_path):
    root = zarr_gpu.create_group(tmp_path / "s")
    root.create_array(
        "a",
        data=np.arange(60).reshape(10, 6),
        chunks=[[2, 5, 3], [3, 3]],
        dimension_names=["y", "x"],
    )
    found = xr.open_dataset(tmp_path / "s", **ENGINE, chunks={})
    assert found.a.chunks == ((2, 5, 3), (3, 3))
    assert found.a.encoding["chunks"] == ((2, 5, 3), 3)
    np.testing.assert_array_equal(found.a, np.arange(60).reshape(10, 6))


def test_pickles_copies_and_threads(stores):
    found = xr.open_dataset(stores["packed", 3], **ENGINE, cache=False)
    expected = datasets.read(stores["packed", 3])
    for dataset in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found), found.copy(deep=True)):
        xr.testing.assert_identical(expected, dataset.load())
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(lambda: found.copy().load()) for _ in range(16)]
        for future in futures:
            xr.testing.assert_identical(expected, future.result())


@pytest.mark.parametrize("name, zarr_format", [("packed", 2), ("texts", 3), ("sharded", 3)])
def test_loading_asynchronously(stores, name, zarr_format):
    path = stores[name, zarr_format]
    expected = datasets.read(path)

    async def load():
        found = xr.open_dataset(path, **ENGINE, cache=False)
        await asyncio.gather(*(found[key].copy().load_async() for key in found.variables))
        return await found.load_async()

    same(expected, asyncio.run(load()))


def test_asynchronous_selections_and_errors(stores, monkeypatch):
    expected = datasets.read(stores["sharded", 3])
    found = xr.open_dataset(stores["sharded", 3], **ENGINE, cache=False)
    points = {"y": ("p", [20, 0, 3]), "x": ("p", [1, 1, 19])}
    threads, read = [], Array.get_orthogonal_selection

    def spy(array, key):
        threads.append(threading.current_thread())
        return read(array, key)

    async def load(selections):
        return await asyncio.gather(*(found.s.isel(s).load_async() for s in selections))

    monkeypatch.setattr(Array, "get_orthogonal_selection", spy)
    selections = [{"y": 3}, {"x": slice(None, None, -3)}, {"y": [1, 1], "x": [0, 9]}, points]
    for selection, one in zip(selections, asyncio.run(load(selections)), strict=True):
        xr.testing.assert_identical(expected.s.isel(selection), one)
    assert len(threads) == 3 and threading.main_thread() not in threads, "the loop is not held up"

    def fail(array, key):
        raise OSError("of the store")

    monkeypatch.setattr(Array, "get_orthogonal_selection", fail)
    with pytest.raises(OSError, match="of the store"):
        asyncio.run(load([{"y": 3}]))


def test_a_copy_of_a_store_in_memory_is_none():
    store = {}
    xr.Dataset({"v": ("x", np.zeros(3))}).zarr_gpu.to_zarr(store)
    found = xr.open_dataset(store, **ENGINE, cache=False)
    copied = found.copy(deep=True)
    zarr_gpu.open_group(store)["v"][0] = 1
    assert copied.v.values[0] == 1


def test_closing(stores):
    opened = []

    class Store(MemoryStore):
        def close(self):
            opened.append(self)

        def with_read_only(self, read_only=True):
            return self

    store = Store()
    xr.Dataset({"v": ("x", np.zeros(3))}).zarr_gpu.to_zarr(store)
    with xr.open_dataset(store, **ENGINE):
        pass
    assert not opened, "a store of the caller is the caller's to close"
    found = xr.open_dataset(stores["texts", 3], **ENGINE)
    (array,) = arrays_behind(found["fixed"].variable)
    array.store.close = lambda: opened.append(array.store)
    found.close()
    assert opened == [array.store]


def test_a_store_is_closed_when_opening_fails(tmp_path, monkeypatch):
    root = zarr_gpu.create_group(tmp_path / "s")
    root.create_array("a", data=np.arange(3), dimension_names=["t"])
    root["a"].attrs["units"] = "days since nonsense"
    closed = []
    monkeypatch.setattr(LocalStore, "close", lambda store: closed.append(store))
    with pytest.raises(ValueError, match="decode"):
        xr.open_dataset(tmp_path / "s", **ENGINE)
    assert closed


def test_devices_that_are_not_there(stores):
    with pytest.raises(DeviceUnavailableError, match="cuda:99"):
        xr.open_dataset(stores["texts", 3], **ENGINE, device="cuda:99")
    with pytest.raises(ValueError, match="device must be"):
        xr.open_dataset(stores["texts", 3], **ENGINE, backend_kwargs={"device": "tpu"})


def test_guessing_leaves_xarrays_own_engine_alone(monkeypatch):
    engine = ZarrGpuBackendEntrypoint()
    assert not engine.guess_can_open("a.zarr")
    monkeypatch.setattr("zarr_gpu.interop.xarray.find_spec", lambda name: None)
    assert engine.guess_can_open("a.zarr") and engine.guess_can_open("s3://b/a.zarr/")
    assert not engine.guess_can_open("a.nc") and not engine.guess_can_open({})


def test_zarr_python_is_not_needed(stores, tmp_path):
    out = datasets.run(
        f"""
import xarray as xr
ds = xr.open_dataset({stores["packed", 2]!r}, engine="zarr_gpu", drop_variables="missing")
tree = xr.open_datatree({stores["tree", 3]!r}, engine="zarr_gpu", chunks={{}}).load()
ds.zarr_gpu.to_zarr({str(tmp_path / "new.zarr")!r})
again = xr.open_dataset({str(tmp_path / "new.zarr")!r}).load()  # guessed
xr.testing.assert_identical(ds, again)
print(float(ds.scaled.sum()), sys.modules["zarr"])
""",
        "zarr",
    )
    assert out.split() == [str(float(datasets.read(stores["packed", 2]).scaled.sum())), "None"]
