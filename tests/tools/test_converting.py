"""``convert``, ``rechunk`` and ``copy``: whatever the layouts, the bits are the same."""

import math
import warnings

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import zarr_gpu
from zarr_gpu.errors import (
    ContainsNodeError,
    NodeNotFoundError,
    StoreError,
    UnfinishedError,
    UnsupportedError,
)
from zarr_gpu.metadata.grids import RectilinearGrid
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import CountingStore
from zarr_gpu.tools.converting import convert, plan_conversion, rechunk
from zarr_gpu.tools.copying import copy
from zarr_gpu.tools.journal import DIRECTORY
from zarr_gpu.tools.layouts import Layout, gpu_layout

DTYPES = ["<f4", ">f8", "|b1", "|u1", "<i2", "<c8", "<M8[s]", "|S3", "<U2", "struct", "string"]
STRUCT = np.dtype([("a", "<i4"), ("b", "<f8")])


def values_of(kind, shape, seed):
    """Random bits, as far as the type has any; some of it the fill value."""
    rng = np.random.default_rng(seed)
    n = math.prod(shape)
    if kind == "string":
        return np.array([f"ä{i % 7}" for i in range(n)], object).reshape(shape)
    dtype = STRUCT if kind == "struct" else np.dtype(kind)
    if kind in ("|b1", "|S3", "<U2"):
        return rng.integers(0, 2 if kind == "|b1" else 90, n).astype(dtype).reshape(shape)
    values = rng.integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype).reshape(shape)
    values = values.copy()
    if values.ndim:
        values[: len(values) // 2] = np.zeros((), dtype)
    return values


def bits(values):
    """Bytes, so that NaNs are compared by their payloads."""
    values = np.asarray(values)
    if values.dtype.kind in "OTU":
        return values.astype(object).tolist()
    if values.dtype.kind == "S":  # scalars lose their zeros at the end
        return values.tolist()
    return values.astype(values.dtype.newbyteorder("=")).tobytes()


def as_zarr(data):
    """A mapping of bytes as zarr-python wants it."""
    from zarr.core.buffer.cpu import Buffer

    return zarr.storage.MemoryStore({key: Buffer.from_bytes(bytes(v)) for key, v in data.items()})


def dtype_of(kind, zarr_format):
    if kind == "string":
        return str
    return STRUCT if kind == "struct" else kind


@st.composite
def conversions(draw):
    shape = tuple(draw(st.lists(st.integers(1, 13), min_size=0, max_size=3)))
    kind = draw(st.sampled_from(DTYPES))
    formats = [draw(st.sampled_from([2, 3])) for _ in range(2)]
    chunks = [tuple(draw(st.integers(1, n + 1)) for n in shape) for _ in range(2)]
    shards = None
    if formats[1] == 3 and draw(st.booleans()):
        shards = tuple(c * draw(st.integers(1, 3)) for c in chunks[1])
    order = draw(st.sampled_from("CF")) if formats[0] == 2 else "C"
    compressors = draw(st.sampled_from(["keep", [], [{"id": "gzip", "level": 1}]]))
    return shape, kind, formats, chunks, shards, order, compressors, draw(st.integers(0, 99))


@settings(max_examples=30)
@given(conversions())
def test_any_layout_into_any_other(case):
    shape, kind, formats, chunks, shards, order, compressors, memory = case
    values = values_of(kind, shape, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # F order, and types zarr-python calls unstable
        source = zarr_gpu.create_array(
            {},
            shape=shape,
            dtype=dtype_of(kind, formats[0]),
            chunks=chunks[0],
            zarr_format=formats[0],
            attributes={"units": "m", "_ARRAY_DIMENSIONS": [f"d{i}" for i in range(len(shape))]},
            **({"order": order} if formats[0] == 2 else {}),
        )
        source[...] = values
        counting = CountingStore(inner := MemoryStore())
        arguments = {"chunks": chunks[1], "compressors": compressors}
        if formats[1] == 3:
            arguments["shards"] = shards
        least = math.prod(min(n, c) for n, c in zip(shape, shards or chunks[1], strict=True)) * (
            64 if kind == "string" else max(1, source.itemsize)
        )
        arguments["memory"] = least * (2 + memory / 10)
        report = convert(source, counting, zarr_format=formats[1], **arguments)
        assert report.arrays == 1
        target = zarr_gpu.open_array(counting, mode="r")
        assert target.metadata.zarr_format == formats[1]
        assert target.chunks == chunks[1]
        assert target.shards == shards
        assert bits(target[...]) == bits(values)
        assert target.attrs["units"] == "m"
        names = [f"d{i}" for i in range(len(shape))]
        if formats == [2, 3]:
            assert list(target.metadata.dimension_names) == names
        else:
            assert target.attrs["_ARRAY_DIMENSIONS"] == names
        theirs = zarr.open_array(as_zarr(inner.data), mode="r")[...]
        assert bits(theirs) == bits(values)
    assert not [key for key in counting.list_prefix() if DIRECTORY in key]


def test_no_object_is_written_twice_and_no_chunk_decoded_too_often():
    values = np.arange(64 * 50 * 30, dtype="i4").reshape(64, 50, 30)
    inner = MemoryStore()
    zarr_gpu.create_array(inner, data=values, chunks=(1, 50, 30))
    reads, writes = [], []

    class Source(MemoryStore):
        def get(self, key, *args, **kwargs):
            reads.append(key)
            return super().get(key, *args, **kwargs)

    class Target(MemoryStore):
        def set(self, key, value):
            writes.append(key)
            super().set(key, value)

    source = zarr_gpu.open_array(Source(inner.data), mode="r")
    for memory, passes in ((1 << 20, 1), (100_000, 2)):
        plan = plan_conversion(source, Layout(chunks=(64, 7, 5)), memory=memory)
        (job,) = plan.jobs
        assert len(job.plan.passes) == passes
        reads.clear()
        writes.clear()
        target = rechunk(source, Target(), chunks=(64, 7, 5), memory=memory)
        np.testing.assert_array_equal(target[...], values)
        written = [k for k in writes if not k.endswith(".json")]
        assert len(written) == len(set(written))
        chunk_reads = [k for k in reads if k.startswith("c/")]
        assert len(chunk_reads) <= job.plan.passes[0].decoded


def test_tensorstore_reads_what_rechunk_writes(tmp_path):
    values = np.arange(3000, dtype="f4").reshape(30, 100)
    zarr_gpu.create_array(tmp_path / "a", data=values, chunks=(30, 1))
    rechunk(tmp_path / "a", tmp_path / "b", chunks=(5, 50), shards=(10, 100))
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "b")}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), values)


def test_hierarchies_keep_everything(tmp_path):
    root = zarr_gpu.open_group(tmp_path / "a", mode="w", zarr_format=2)
    root.attrs["title"] = "x"
    root.create_array("t/u", data=np.arange(10.0), chunks=(3,), attributes={"n": 1})
    root.create_array("flat", shape=(4, 6), chunks=(2, 2), dtype=">i2", fill_value=-7)
    zarr_gpu.consolidate_metadata(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", zarr_format=3, chunks=(2, 6))
    found = zarr.open_group(tmp_path / "b", mode="r", use_consolidated=True)
    assert found.attrs["title"] == "x"
    assert found["t/u"].attrs["n"] == 1
    assert found["t/u"].chunks == (3,)  # of one axis, so not meant
    assert found["flat"].chunks == (2, 6)
    assert found["flat"].fill_value == -7
    np.testing.assert_array_equal(found["t/u"][...], np.arange(10.0))
    convert(tmp_path / "b", tmp_path / "c", zarr_format=2)
    again = zarr.open_group(tmp_path / "c", mode="r")
    assert (again["flat"][...] == -7).all()
    assert again["flat"].metadata.dtype.to_native_dtype() == np.dtype(">i2")


def test_only_the_format_changes_so_chunks_are_not_decoded(tmp_path):
    source = zarr_gpu.create_array(
        tmp_path / "a", data=np.arange(100), chunks=(30,), zarr_format=2, filters=None
    )
    (tmp_path / "a/1").write_bytes(b"not zstd")
    convert(source, tmp_path / "b", zarr_format=3)
    assert (tmp_path / "b/c/1").read_bytes() == b"not zstd"
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "b")[:30], np.arange(30))


def test_chunks_by_names_of_dimensions(tmp_path):
    zarr_gpu.create_array(
        tmp_path / "a", shape=(10, 20), chunks=(2, 5), dtype="u1", dimension_names=("t", "x")
    )
    target = rechunk(tmp_path / "a", tmp_path / "b", chunks={"t": -1})
    assert target.chunks == (10, 5)
    with pytest.raises(ValueError, match="no dimension is called 'y'"):
        rechunk(tmp_path / "a", tmp_path / "c", chunks={"y": 1})
    assert not (tmp_path / "c").exists()


def test_what_is_missing_stays_missing(tmp_path):
    source = zarr_gpu.create_array(
        tmp_path / "a", shape=(1 << 18,) * 2, chunks=(1 << 10,) * 2, dtype="u1"
    )
    source[5000:5010, 100] = 3
    target = rechunk(source, tmp_path / "b", chunks=(1 << 12, 1 << 9))
    assert target.nchunks_initialized == 1
    assert (target[5000:5010, 100] == 3).all()


def test_rectilinear_grids(tmp_path):
    values = np.arange(600).reshape(20, 30)
    source = zarr_gpu.create_array(tmp_path / "a", data=values, chunks=((3, 7, 10), (5, 25)))
    target = rechunk(source, tmp_path / "b", chunks=(4, 30))
    np.testing.assert_array_equal(target[...], values)
    again = convert(target, tmp_path / "c", chunks=((3, 7, 10), 6)) and zarr_gpu.open(
        tmp_path / "c"
    )
    assert isinstance(again.metadata.chunk_grid, RectilinearGrid)
    np.testing.assert_array_equal(again[...], values)


def test_the_layout_for_gpus():
    found = gpu_layout((10_000, 10_000), np.dtype("f4"))
    assert found["chunks"] == (256, 256)
    assert math.prod(found["shards"]) * 4 == 64 << 20
    values = np.random.default_rng(0).normal(size=(300, 500)).astype("f4")
    convert(zarr_gpu.create_array({}, data=values), target := {}, like="gpu")
    array = zarr.open_array(as_zarr(target))
    assert array.shards[0] % array.chunks[0] == 0
    shuffle = array.compressors[0].shuffle
    assert getattr(shuffle, "value", shuffle) == "bitshuffle"  # an enumeration before zarr 3.3
    np.testing.assert_array_equal(array[...], values)


def test_a_target_that_exists_is_refused_and_overwritten(tmp_path):
    zarr_gpu.create_array(tmp_path / "a", data=np.arange(10))
    zarr_gpu.create_array(tmp_path / "b", data=np.arange(5), chunks=(1,))
    with pytest.raises(ContainsNodeError, match="--overwrite"):
        rechunk(tmp_path / "a", tmp_path / "b", chunks=(5,))
    assert len(zarr_gpu.open(tmp_path / "b")) == 5
    assert len(rechunk(tmp_path / "a", tmp_path / "b", chunks=(5,), overwrite=True)) == 10
    assert not (tmp_path / "b/c/4").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="by hand"):
        rechunk(tmp_path / "a", tmp_path / "mine", chunks=(5,), overwrite=True)
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


def test_the_source_is_not_written_into_and_not_overwritten(tmp_path):
    root = zarr_gpu.open_group(tmp_path / "g", mode="w")
    root.create_array("x/a", data=np.arange(10))
    for target, path in [("g/x/a", None), ("g/x", None), ("g", None), ("g", "x"), ("g/x/a", "b")]:
        for work in (copy, convert):
            arguments = {"target_path" if work is copy else "path": path}
            with pytest.raises(ValueError, match="lies in the source"):
                work(tmp_path / "g/x/a", tmp_path / target, overwrite=True, **arguments)
    np.testing.assert_array_equal(root["x/a"][...], np.arange(10))
    rechunk(tmp_path / "g/x/a", tmp_path / "g", path="x/ab", chunks=(5,))
    np.testing.assert_array_equal(root["x/ab"][...], np.arange(10))


def test_an_intermediate_array_is_not_left_in_a_zip_file(tmp_path):
    values = np.arange(64 * 60).reshape(64, 60)
    source = zarr_gpu.create_array({}, data=values, chunks=(1, 60))
    target = rechunk(source, tmp_path / "a.zip", chunks=(64, 1), memory=4096)
    np.testing.assert_array_equal(target[...], values)
    assert sorted(target.store.list_dir()) == ["c", "zarr.json"]


class FailingError(Exception):
    """Of a store that gives up."""


class Fails(MemoryStore):
    """Takes ``left`` chunks, then none."""

    left = 5

    def set(self, key, value):
        if not key.endswith(".json"):
            if self.left <= 0:
                raise FailingError(key)
            type(self).left -= 1
        super().set(key, value)


@pytest.mark.parametrize("memory", [1 << 20, 4000])
def test_an_interrupted_job_goes_on_and_others_are_refused(memory, monkeypatch):
    values = np.arange(400).reshape(20, 20)
    source = zarr_gpu.create_array({}, data=values, chunks=(1, 20))
    store = Fails()
    Fails.left = 2
    runs = 0
    while True:
        try:
            rechunk(source, store, chunks=(10, 2), memory=memory)
            break
        except FailingError:
            runs += 1
        with pytest.raises(NodeNotFoundError):
            zarr_gpu.open(store, mode="r")
        with pytest.raises(UnfinishedError, match="--overwrite"):
            rechunk(source, store, chunks=(5, 5), memory=memory)
        Fails.left = 3 * runs
    assert 2 <= runs < 20
    np.testing.assert_array_equal(zarr_gpu.open(store)[...], values)
    assert not [key for key in store.data if DIRECTORY in key]


def test_overwriting_an_unfinished_job_starts_anew():
    values = np.arange(400).reshape(20, 20)
    source = zarr_gpu.create_array({}, data=values, chunks=(1, 20))
    store = Fails()
    Fails.left = 4
    with pytest.raises(FailingError):
        rechunk(source, store, chunks=(10, 2))
    Fails.left = 1000
    target = rechunk(source, store, chunks=(20, 20), overwrite=True)
    np.testing.assert_array_equal(target[...], values)
    assert sorted(store.data) == ["c/0/0", "zarr.json"]


def test_too_little_memory_says_how_much_is_needed():
    source = zarr_gpu.create_array({}, data=np.zeros((100, 100)), chunks=(1, 100))
    with pytest.raises(ValueError, match=r"needs 160000 bytes of memory, 100000 are allowed"):
        rechunk(source, {}, chunks=(100, 100), memory=100_000)
    rechunk(source, {}, chunks=(100, 100), memory=160_000)


def test_what_format_2_cannot_say(tmp_path):
    filters = [{"name": "transpose", "configuration": {"order": [1, 0, 2]}}]
    a = zarr_gpu.create_array({}, shape=(2, 3, 4), dtype="f4", filters=filters)
    with pytest.raises(UnsupportedError, match="in order or reversed"):
        convert(a, {}, zarr_format=2)
    convert(a, target := {}, zarr_format=2, filters=None)
    assert zarr.open_array(as_zarr(target), zarr_format=2).shape == (2, 3, 4)


def test_groups_above_the_target_are_made_and_fit(tmp_path):
    zarr_gpu.open_group(tmp_path / "g", mode="w", zarr_format=2)
    source = zarr_gpu.create_array({}, data=np.arange(4))
    with pytest.raises(ValueError, match="format 2"):
        convert(source, tmp_path / "g", path="x/y")
    convert(source, tmp_path / "g", path="x/y", zarr_format=2)
    assert list(zarr.open_group(tmp_path / "g", mode="r")["x"]) == ["y"]


# -- copy -----------------------------------------------------------------------------------------


def test_copy_keeps_every_byte(tmp_path):
    root = zarr_gpu.open_group(tmp_path / "a", mode="w")
    root.create_array("x/y", data=np.arange(100), chunks=(7,))
    root.create_array("z", shape=(5,), dtype="f4")
    assert copy(tmp_path / "a", tmp_path / "b.zip").arrays == 2
    copy(tmp_path / "b.zip", memory := {})
    copy(memory, tmp_path / "c")
    copy(tmp_path / "c", f"file://{tmp_path}/d", path="x", target_path="deep/x")

    def files(path):
        return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}

    assert files(tmp_path / "a") == files(tmp_path / "c") == dict(memory)
    assert files(tmp_path / "d/deep/x") == files(tmp_path / "a/x")
    with pytest.raises(ContainsNodeError):
        copy(tmp_path / "a", tmp_path / "b.zip")
    with pytest.raises(NodeNotFoundError):
        copy(tmp_path / "a", tmp_path / "e", path="nothing")


def test_copy_of_large_objects_is_made_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("zarr_gpu.tools.keys.PIECE", 1000)
    values = np.random.default_rng(0).integers(0, 255, 100_000, np.uint8)
    zarr_gpu.create_array(tmp_path / "a", data=values, chunks=(50_000,), compressors=None)
    copy(tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(zarr_gpu.open(tmp_path / "b")[...], values)


def test_an_unfinished_source_is_refused():
    source = zarr_gpu.create_array({}, data=np.arange(400), chunks=(10,))
    store = Fails()
    Fails.left = 4
    with pytest.raises(FailingError):
        copy(source, store)
    with pytest.raises(UnfinishedError):
        copy(store, {})
    Fails.left = 1000
    assert copy(source, store).resumed
    np.testing.assert_array_equal(zarr_gpu.open(store)[...], np.arange(400))


def test_copies_of_hierarchies_leave_unfinished_members_out():
    store = Fails()
    Fails.left = 1000
    zarr_gpu.create_array(store, name="whole", data=np.arange(3))
    Fails.left = 4
    with pytest.raises(FailingError):
        copy(zarr_gpu.create_array({}, data=np.arange(400), chunks=(10,)), store, target_path="x")
    copy(store, target := {})
    assert not [key for key in target if DIRECTORY in key]
    assert [name for name, _ in zarr_gpu.open_group(target).members()] == ["whole"]
