"""ds.zarr_gpu.to_zarr: what it stores is what xarray's to_zarr stores, documents included."""

import zipfile
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from xarray.core import indexing

import zarr_gpu
import zarr_gpu.interop.xarray  # ds.zarr_gpu
from tests.interop import datasets
from zarr_gpu.errors import ContainsGroupError, ReadOnlyError, UnsafeConcurrentWriteError
from zarr_gpu.stores.zip import ZipStore

FORMATS = (2, 3)
BLOCKS = {2: None, 3: 4}
"""In memory in format 2, blocks of dask in format 3: what they share is tested elsewhere."""


@pytest.fixture(autouse=True)
def _threads():
    with dask.config.set(scheduler="threads"):
        yield


class Both:
    """The same done by xarray's to_zarr and by ours, each in its own store."""

    def __init__(self, root, zarr_format):
        self.theirs, self.ours = root / "theirs", root / "ours"
        self.zarr_format = zarr_format

    def write(self, dataset, **kwargs):
        if kwargs.get("mode") in (None, "w", "w-") and "append_dim" not in kwargs:
            kwargs["zarr_format"] = self.zarr_format
        if "region" in kwargs:
            kwargs.pop("zarr_format", None)
        with datasets.quiet():
            dataset.to_zarr(self.theirs, **kwargs)
            dataset.zarr_gpu.to_zarr(self.ours, **kwargs)

    def refuse(self, dataset, match, **kwargs):
        """Both refuse, with an error of the same builtin type."""
        with datasets.quiet(), pytest.raises(Exception) as expected:
            dataset.to_zarr(self.theirs, **kwargs)
        base = next(b for b in (KeyError, ValueError, TypeError) if isinstance(expected.value, b))
        before = datasets.documents(self.ours)
        with pytest.raises(base, match=match):
            dataset.zarr_gpu.to_zarr(self.ours, **kwargs)
        assert datasets.documents(self.ours) == before

    def check(self, **kwargs):
        expected, found = datasets.read(self.theirs, **kwargs), datasets.read(self.ours, **kwargs)
        xr.testing.assert_identical(expected, found)
        for name in expected.variables:
            assert expected[name].dtype == found[name].dtype
        with xr.open_dataset(self.ours, engine="zarr_gpu", **kwargs) as opened:
            xr.testing.assert_identical(expected, opened.load())
        theirs, ours = datasets.documents(self.theirs), datasets.documents(self.ours)
        assert list(theirs) == list(ours)
        for path, document in theirs.items():
            assert document == ours[path], path
        return found


@pytest.fixture(params=FORMATS, ids=["v2", "v3"])
def both(request, tmp_path):
    return Both(tmp_path, request.param)


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_everything(both, name):
    dataset = datasets.DATASETS[name]()
    both.write(dataset)
    both.check()
    both.write(dataset, mode="w")
    both.check()


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_encodings(tmp_path, zarr_format):
    both = Both(tmp_path, zarr_format)
    v = np.arange(60, dtype="f8").reshape(10, 6)
    dataset = xr.Dataset(dict.fromkeys("abcde", (("y", "x"), v)), {"y": np.arange(10)})
    if zarr_format == 3:
        encoding = {
            "a": {"chunks": (2, 3), "shards": (4, 6), "compressors": zarr.codecs.BloscCodec()},
            "b": {"compressors": None, "fill_value": 7.0, "dtype": "f4"},
            "c": {"serializer": zarr.codecs.BytesCodec(endian="big"), "_FillValue": -1.0},
            "d": {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))], "chunks": 5},
            "e": {
                "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
                "write_empty_chunks": True,
            },
        }
    else:
        import numcodecs

        encoding = {
            "a": {"chunks": (2, 3), "compressors": [numcodecs.Zlib(3)], "_FillValue": -1.0},
            "b": {"compressors": None, "dtype": "i2", "scale_factor": 0.5, "_FillValue": -9},
            "c": {"filters": [numcodecs.Delta("f8")]},
            "d": {"chunks": 4, "dtype": ">f4"},
            "e": {"write_empty_chunks": True},
        }
    both.write(dataset, encoding=encoding)
    both.check()
    numbers = {"a": {"chunks": np.int64(4)}, "b": {"chunks": [np.int32(4), 2]}}
    group = dataset.zarr_gpu.to_zarr({}, encoding=numbers, zarr_format=zarr_format)
    assert group["a"].chunks == (4, 4) and group["b"].chunks == (4, 2)
    both.refuse(dataset, "already", mode="a", encoding={"a": {"chunks": (2, 2)}})
    both.refuse(dataset, "unknown encoding", mode="w", encoding={"a": {"chunk": (2, 2)}})
    both.refuse(dataset, "'nothing'", mode="w", encoding={"nothing": {}})
    if zarr_format == 2:
        wrong = {"a": {"fill_value": 1.0}}
        both.refuse(dataset, "_FillValue", mode="w", zarr_format=2, encoding=wrong)


def growing(start, stop, chunk=None, factor=1):
    t = np.arange(start, stop)
    dataset = xr.Dataset(
        {
            "v": (("t", "x"), np.add.outer(t * 10.0, np.arange(3.0)) * factor),
            "when": ("t", np.datetime64("2000-01-01", "ns") + t.astype("m8[D]")),
            "packed": ("t", t * 0.5, {}, {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1}),
            "still": ("x", np.arange(3)),
        },
        coords={"t": t, "x": list("abc")},
    )
    return dataset if chunk is None else dataset.chunk(t=chunk)


def test_append(both):
    chunk = BLOCKS[both.zarr_format]
    both.write(growing(0, 8, chunk))
    both.write(growing(8, 13, chunk), append_dim="t")
    found = both.check()
    xr.testing.assert_equal(found.compute(), growing(0, 13))
    more = growing(13, 15).assign(still=("x", [7, 8, 9]))
    both.write(more, append_dim="t", mode="a-")
    assert both.check().still.values.tolist() == [0, 1, 2]
    both.refuse(growing(15, 17), "append_dim='u'", append_dim="u")
    both.refuse(growing(15, 17).drop_vars("x").isel(x=[0, 1]), "values along 'x'", append_dim="t")
    both.refuse(growing(15, 17).assign(x=["aa", "b", "c"]), "cannot hold", append_dim="t")
    both.refuse(growing(15, 17), "append_dim needs", append_dim="t", mode="w")


LOSSES = {
    "half days among days": (
        np.array(["2000-01-01", "2000-01-02"], "M8[ns]"),
        np.array(["2000-01-03T12"], "M8[ns]"),
        "'days since 2000-01-01.*need 'hours",
    ),
    "milliseconds among seconds": (
        np.array([1, 2], "m8[s]"), np.array([1500], "m8[ms]"), "'seconds'.*need 'milliseconds'",
    ),
    "times among numbers": (
        np.arange(2), np.array(["2000-01-03"], "M8[ns]"), "int64, which cannot hold datetime64",
    ),
    "numbers among times": (
        np.array(["2000-01-01"], "M8[ns]"), np.arange(2.0), "which cannot hold float64",
    ),
    "fractions": (np.arange(2), np.array([1.7]), "int64, which cannot hold float64"),
    "large numbers": (np.arange(2, dtype="i1"), np.array([1, 300]), "int8, which cannot hold"),
    "very negative numbers": (
        np.arange(2, dtype="i1"), np.array([1, -300]), "int8, which cannot hold int64",
    ),
    "negative numbers": (np.arange(2, dtype="u8"), np.array([-1]), "uint64, which cannot hold"),
    "complex numbers": (np.arange(2.0), np.array([1j]), "which cannot hold complex128"),
    "truth": (np.array([True]), np.array([2]), "bool, which cannot hold int64"),
    "long bytes": (np.array([b"ab"]), np.array([b"abc"]), "which cannot hold .S3"),
}  # fmt: skip


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("case", LOSSES)
def test_nothing_is_stored_as_something_else(case, zarr_format):
    """xarray stores other values (half days as another month) in all cases but the last."""
    old, new, match = LOSSES[case]
    old, new = (xr.Dataset({"v": ("t", values)}) for values in (old, new))
    store = {}
    with datasets.quiet():
        old.zarr_gpu.to_zarr(store, zarr_format=zarr_format)
        before = dict(store)
        for how in ({"append_dim": "t"}, {"region": {"t": slice(0, new.sizes["t"])}}):
            with pytest.raises(ValueError, match=match):
                new.zarr_gpu.to_zarr(store, **how)
    assert store == before


@pytest.mark.parametrize(
    "old, new",
    [
        (np.arange(2, dtype="i1"), np.array([-128, 127])),
        (np.arange(2, dtype="f4"), np.array([1.5])),
        (np.arange(2.0), np.array([7])),
        (np.array(["2000-01-01", "2000-01-02"], "M8[ns]"), np.array(["1999-01-01"], "M8[s]")),
        (np.array(["2000-01-01T01"], "M8[ns]"), np.array(["2000-01-02T01"], "M8[h]")),
        (np.array([1, 2], "m8[s]"), np.array([60_000], "m8[ms]")),
        (np.array(["a", "bc"], object), np.array(["longer"], object)),
    ],
)
def test_what_fits_is_stored(both, old, new):
    old, new = (xr.Dataset({"v": ("t", values)}) for values in (old, new))
    both.write(old)
    both.write(new, append_dim="t")
    found = both.check()
    assert (found.v[-new.sizes["t"] :].values == new.v.values).all()


def test_times_that_were_never_decoded(both):
    days = xr.Dataset({"t": ("t", np.arange("2000-01-01", "2000-01-05", dtype="M8[D]"))})
    both.write(days.assign(v=("t", np.arange(4))))
    with xr.open_dataset(both.ours, engine="zarr_gpu", decode_times=False) as raw:
        raw.load()
    raw["t"] = raw.t + 4
    raw.t.attrs = dict(xr.open_zarr(both.ours, decode_times=False).t.attrs)
    both.write(raw, append_dim="t")
    assert both.check().t[-1] == np.datetime64("2000-01-08")
    raw.t.attrs["units"] = "hours since 2000-01-01"
    with pytest.raises(ValueError, match=r"'days since 2000-01-01.*need 'hours"):
        raw.zarr_gpu.to_zarr(both.ours, append_dim="t")


def test_units_written_otherwise_are_the_same(tmp_path):
    encoding = {"v": {"units": "days since 2000-01-01", "calendar": "standard"}}
    dataset = xr.Dataset({"v": ("t", np.array(["2000-01-01", "2000-01-02"], "M8[ns]"))})
    group = dataset.zarr_gpu.to_zarr(tmp_path / "s", encoding=encoding, consolidated=False)
    group["v"].attrs["units"] = "days since 2000-1-1T0:00:00.0"
    (dataset + np.timedelta64(2, "D")).zarr_gpu.to_zarr(tmp_path / "s", append_dim="t")
    found = xr.open_dataset(tmp_path / "s", engine="zarr_gpu")
    assert (found.v == np.arange("2000-01-01", "2000-01-05", dtype="M8[D]")).all()


def test_append_to_an_axis_without_coordinate(both):
    part = xr.Dataset({"v": (("x", "t"), np.ones((2, 3)))})
    both.write(part)
    both.write(part + 1, append_dim="t")
    assert both.check().sizes == {"x": 2, "t": 6}


def test_regions(both):
    chunk = BLOCKS[both.zarr_format]
    both.write(growing(0, 12, 4), compute=False)
    assert not np.nan_to_num(both.check().v).any()
    for start in (0, 4, 8):
        part = growing(start, start + 4, chunk).drop_vars(["still", "x"])
        both.write(part, region={"t": slice(start, start + 4)})
    both.check()
    part = growing(3, 7, factor=2).drop_vars(["still", "x", "when"])
    both.write(part, region="auto")
    both.write(part.isel(x=slice(1, 3)), region={"t": "auto", "x": slice(1, 3)})
    found = both.check()
    np.testing.assert_array_equal(found.v[3:7], part.v)
    wrong = [
        ({"t": slice(0, 5)}, "values along 't'"),
        ({"t": slice(0, 8, 2)}, "step 1"),
        ({"u": slice(0, 4)}, "region has 'u'"),
        ({"t": 3}, "must have slices"),
        ([3], "must be 'auto' or a mapping"),
    ]
    for region, match in wrong:
        both.refuse(part, match, region=region)
    both.refuse(growing(3, 7), "no dimension of the region", region={"t": slice(3, 7)})
    both.refuse(part.assign(t=[3, 4, 5, 99]), "not all values", region="auto")
    both.refuse(part.isel(t=[0, 2]), "not stored next to each other", region="auto")
    both.refuse(part.assign(new=part.v), "makes no new ones", region={"t": slice(3, 7)})
    both.refuse(part, "needs mode", region={"t": slice(3, 7)}, mode="w")
    both.refuse(part, "both append_dim", region={"t": slice(3, 7)}, append_dim="t", mode="a")


class Unread(xr.backends.BackendArray):
    shape, dtype = (4,), np.dtype("f8")

    def __getitem__(self, key):
        raise AssertionError("this is refused before it is read")


def test_modes(both):
    first, second = growing(0, 4), growing(0, 4, factor=2)
    both.write(first[["v"]])
    with pytest.raises(ContainsGroupError):
        first.zarr_gpu.to_zarr(both.ours)
    both.write(second[["v", "packed"]], mode="a")
    found = both.check()
    xr.testing.assert_equal(found[["v", "packed"]], second[["v", "packed"]])
    both.write(first[["v"]], mode="r+")
    both.check()
    both.refuse(first[["v", "when"]], "makes no new ones", mode="r+")
    both.refuse(first.rename(x="z")[["v"]], "stored with the dimensions", mode="a")
    both.refuse(first.isel(t=slice(2))[["v"]], "values along 't'", mode="a")
    both.refuse(first, "mode must be", mode="x")
    both.write(first[["v"]].transpose("x", "t"), mode="a")
    both.check()
    both.write(second[["when"]], mode="w")
    assert set(both.check().data_vars) == {"when"}
    lazy = xr.Dataset({"v": ("t", indexing.LazilyIndexedArray(Unread()))})
    with pytest.raises(ContainsGroupError):
        lazy.zarr_gpu.to_zarr(both.ours)
    first[["v"]].zarr_gpu.to_zarr(both.ours, mode="a", group="packed")
    for mode in ("a", "w-"):
        with pytest.raises(ContainsGroupError):
            first[["packed"]].zarr_gpu.to_zarr(both.ours, mode=mode)
    assert "v" in zarr_gpu.open_group(both.ours, path="packed"), "a group is no array to replace"


def test_groups_and_attributes(both):
    both.write(growing(0, 4), group="a/b")
    both.write(growing(0, 3), group="c", mode="a", zarr_format=both.zarr_format)
    for group in ("a/b", "c"):
        both.check(group=group)
    odd = growing(0, 2).assign_attrs(n=np.int64(3), f=np.nan, arr=np.arange(2), s="é", b=np.True_)
    both.write(odd, mode="w")
    assert both.check().attrs["arr"] == [0, 1]
    both.refuse(odd.assign_attrs(bad=object()), "attributes of group", mode="a")


def test_names(both):
    both.refuse(xr.Dataset({3: ("x", [1])}), "names of variables")
    both.refuse(xr.Dataset({"": ("x", [1])}), "cannot be the name")
    array = xr.DataArray(np.arange(3), dims="x", coords={"x": [1, 2, 3]})
    for named in (array, array.rename("v"), array.x.rename("x")):
        with datasets.quiet():
            named.to_zarr(both.theirs, mode="w", zarr_format=both.zarr_format)
            named.zarr_gpu.to_zarr(both.ours, mode="w", zarr_format=both.zarr_format)
        both.check()
        xr.testing.assert_identical(named, xr.open_dataarray(both.ours, engine="zarr_gpu"))


def test_consolidated_metadata(both):
    both.write(growing(0, 4), consolidated=False)
    both.check()
    for consolidated in (True, None):
        both.write(growing(0, 4), mode="w", consolidated=consolidated)
        both.check()
    both.write(growing(0, 4), mode="w", consolidated=False)
    part = growing(0, 2).drop_vars(["still", "x"])
    for how in ({"mode": "r+"}, {"region": {"t": slice(0, 2)}}):
        (part if "region" in how else growing(0, 4)).zarr_gpu.to_zarr(both.ours, **how)
    with pytest.raises(ValueError, match="no consolidated metadata"):
        zarr_gpu.open_consolidated(both.ours)
    group = growing(0, 4).zarr_gpu.to_zarr({}, zarr_format=both.zarr_format)
    assert isinstance(group, zarr_gpu.Group) and set(group) == {
        "v",
        "when",
        "packed",
        "still",
        "t",
        "x",
    }


def test_write_empty_chunks(both):
    zeros = xr.Dataset({"v": ("x", np.full(8, np.nan))}, {}, {})
    encoding = {"v": {"chunks": (4,)}}
    for empty in (True, False):
        both.write(zeros, mode="w", write_empty_chunks=empty, encoding=encoding)
        both.write(zeros, mode="a", write_empty_chunks=empty)
        stored = [
            len(list(zarr_gpu.open_group(path).store.list_prefix("v")))
            for path in (both.theirs, both.ours)
        ]
        assert stored[0] == stored[1]
    both.refuse(
        zeros, "write_empty_chunks", mode="w", write_empty_chunks=True,
        encoding={"v": {"write_empty_chunks": False}},
    )  # fmt: skip


def test_trees(both):
    tree = datasets.tree()
    encoding = {"/a": {"v": {"chunks": (1,)}}}
    with datasets.quiet():
        tree.to_zarr(both.theirs, zarr_format=both.zarr_format, encoding=encoding)
        tree.zarr_gpu.to_zarr(both.ours, zarr_format=both.zarr_format, encoding=encoding)
        expected = xr.open_datatree(both.theirs, engine="zarr").load()
        xr.testing.assert_identical(expected, xr.open_datatree(both.ours, engine="zarr").load())
    for group in ("", "a", "a/b", "c"):
        both.check(group=group)
    tree = xr.DataTree.from_dict({"/": growing(0, 4), "/k": growing(0, 4, 2)[["v"]]})
    delayed = tree.zarr_gpu.to_zarr(both.ours, mode="w", compute=False, write_inherited_coords=True)
    delayed.compute()
    with datasets.quiet():
        tree.to_zarr(both.theirs, mode="w", write_inherited_coords=True)
    both.check(group="k")
    with pytest.raises(ValueError, match="groups that the tree does not have"):
        tree.zarr_gpu.to_zarr(both.ours, mode="w", encoding={"/z": {}})


def test_trees_that_are_there(both):
    tree = xr.DataTree.from_dict({"/": growing(0, 4)[["v"]], "/k/l": growing(0, 4, factor=2)})
    double = tree.map_over_datasets(lambda node: node[["v"]] * 2 if "v" in node else node)
    grown = double.assign(w=xr.DataArray([1, 2], dims="q"))
    for one, mode in ((tree, "w-"), (double, "r+"), (grown, "a")):
        with datasets.quiet():
            one.to_zarr(both.theirs, mode=mode, zarr_format=both.zarr_format)
            one.zarr_gpu.to_zarr(both.ours, mode=mode, zarr_format=both.zarr_format)
        for group in ("", "k/l"):
            both.check(group=group)
    with pytest.raises(ContainsGroupError):
        tree.zarr_gpu.to_zarr(both.ours)
    with pytest.raises(ValueError, match="makes no new ones"):
        tree.assign(u=grown.w).zarr_gpu.to_zarr(both.ours, mode="r+")
    both.check(group="k/l")


# -- blocks of dask ---------------------------------------------------------------------------


def test_blocks_that_share_chunks_are_refused_before_anything_is_touched(both):
    both.write(growing(0, 8))
    blocks = growing(0, 8, 3)
    for encoding in ({"v": {"chunks": (4, 3)}}, {"v": {"chunks": (5, 3)}}):
        both.refuse(blocks, "two blocks of its dask array meet", mode="w", encoding=encoding)
        assert datasets.read(both.ours).sizes["t"] == 8
    uneven = growing(0, 8, None).chunk(t=(3, 2, 3))
    both.refuse(uneven, "blocks of 't' have different lengths", mode="w")
    both.write(growing(0, 8), mode="w")  # xarray emptied its store before it refused
    both.refuse(growing(8, 16, 3), "meet at", append_dim="t")
    encoding = {"v": {"chunks": (4, 3)}, "packed": {"chunks": (4,)}, "when": {"chunks": 4}}
    both.write(blocks, mode="w", encoding=encoding, align_chunks=True)
    xr.testing.assert_equal(both.check(), growing(0, 8))
    with dask.config.set(scheduler="sync"):
        both.write(blocks, mode="w", encoding=encoding, safe_chunks=False)
    xr.testing.assert_equal(both.check(), growing(0, 8))


def test_shards_are_what_blocks_must_not_share(tmp_path):
    dataset = growing(0, 16, 4)
    encoding = {"v": {"chunks": (2, 3), "shards": (8, 3)}}
    with pytest.raises(
        UnsafeConcurrentWriteError, match="meet at 4 of axis 0, inside a chunk or s"
    ):
        dataset.zarr_gpu.to_zarr(tmp_path / "s", encoding=encoding)
    dataset.zarr_gpu.to_zarr(tmp_path / "s", encoding=encoding, align_chunks=True)
    xr.testing.assert_equal(datasets.read(tmp_path / "s"), growing(0, 16))


def test_regions_of_blocks_share_nothing_with_other_processes(both):
    both.write(growing(0, 12, 4))
    part = growing(2, 6, 2).drop_vars(["still", "x"])
    both.refuse(part, "meet at|a part of the chunk", region={"t": slice(2, 6)})
    both.write(part.chunk(t=(2, 2)), region={"t": slice(2, 6)}, mode="a")
    both.check()
    both.refuse(
        growing(8, 11, 4).drop_vars(["still", "x"]), "a part of", region={"t": slice(8, 11)}
    )


@given(st.data())
def test_whatever_is_let_through_is_whole(data):
    n = data.draw(st.integers(1, 30))
    chunk = data.draw(st.integers(1, 9))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, n - 1)), max_size=5)) - {n})
    ends = [0, *cuts, n]
    blocks = tuple(b - a for a, b in pairwise(ends))
    values = np.arange(n, dtype="i4")
    dataset = xr.Dataset({"v": ("x", da.from_array(values, chunks=(blocks,)))})
    store = {}
    aligned = all(cut % chunk == 0 for cut in cuts)
    try:
        dataset.zarr_gpu.to_zarr(store, encoding={"v": {"chunks": (chunk,)}})
    except UnsafeConcurrentWriteError:
        assert not aligned and not store
        dataset.zarr_gpu.to_zarr(store, encoding={"v": {"chunks": (chunk,)}}, align_chunks=True)
    else:
        assert aligned
    np.testing.assert_array_equal(zarr_gpu.open_group(store)["v"][...], values)


def test_computing_later(both):
    delayed = growing(0, 8, 4).zarr_gpu.to_zarr(both.ours, compute=False)
    assert np.isnan(datasets.read(both.ours).v).all()
    group = delayed.compute()
    assert isinstance(group, zarr_gpu.Group)
    xr.testing.assert_equal(datasets.read(both.ours), growing(0, 8))


def test_what_variables_share_is_computed_once(tmp_path):
    calls = []

    def load(block):
        calls.append(1)
        return block

    x = da.ones((8,), chunks=4).map_blocks(load, meta=np.ones(0))
    dataset = xr.Dataset({"a": ("x", x + 1), "b": ("x", x * 2)})
    dataset.zarr_gpu.to_zarr(tmp_path / "s")
    assert len(calls) == 2


def test_the_source_is_not_overwritten(tmp_path):
    growing(0, 8).zarr_gpu.to_zarr(tmp_path / "s")
    opened = {"chunks": None}, {"chunks": {}}, {"chunks": {}, "inline_array": True}
    for options in opened:
        lazy = xr.open_dataset(tmp_path / "s", engine="zarr_gpu", **options)
        with pytest.raises(ValueError, match="still to be read from"):
            dask.optimize(lazy)[0].zarr_gpu.to_zarr(tmp_path / "s", mode="w")
        with pytest.raises(ValueError, match="still to be read from"):
            lazy.zarr_gpu.to_zarr(tmp_path / "s", mode="w")
        lazy.load().zarr_gpu.to_zarr(tmp_path / "s", mode="w")
    xr.testing.assert_equal(datasets.read(tmp_path / "s"), growing(0, 8))


def test_stores_that_cannot_be_written(tmp_path):
    growing(0, 8).zarr_gpu.to_zarr(tmp_path / "s")
    store = zarr_gpu.open_group(tmp_path / "s", mode="r").store
    with pytest.raises(ReadOnlyError):
        growing(0, 8).zarr_gpu.to_zarr(store, mode="a")
    zipped = str(tmp_path / "z.zip")
    for chunk in (None, 4):
        for compute in (True, False):
            result = growing(0, 8, chunk).zarr_gpu.to_zarr(zipped, mode="w", compute=compute)
            group = result if compute else result.compute()
            with zipfile.ZipFile(zipped) as finished:
                assert "v/zarr.json" in finished.namelist()
            xr.testing.assert_equal(xr.open_dataset(zipped, engine="zarr_gpu"), growing(0, 8))
            np.testing.assert_array_equal(group["t"][...], np.arange(8))
    with ZipStore(zipped, "w") as store:
        group = growing(0, 8).zarr_gpu.to_zarr(store)
        assert group.store is store, "the caller's to close"
        group["still"][0] = 5
    assert xr.open_dataset(zipped, engine="zarr_gpu").still[0] == 5
