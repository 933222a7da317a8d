"""zarr-python with our codec pipeline does what it does with its own."""

import copy
import inspect
import pickle
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings

import zarr_gpu
from tests.interop.arrays import assert_same_bits, random_values, regions
from tests.interop.plugin import DEFAULT, OURS, Counted, all_by_zarr_gpu, default, ours, plugin
from tests.interop.zarr_arguments import arguments, zarr
from zarr_gpu import host_write_blocks
from zarr_gpu.errors import ChunkDecodeError, UnsupportedError
from zarr_gpu.interop import zarr_batch

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

VERSION = tuple(map(int, zarr.__version__.split(".")[:2]))
HASHES = VERSION >= (3, 3)
"""Before, zarr-python fails at fill values of void types inside of shards."""
orders = st.sampled_from("CF")
KINDS = ["basic", "integer", "oindex", "oindex and integer", "mask axis", "vindex", "mask", "block"]


def keys(store):
    return sorted(store._store_dict)


def index(data, n, *, unique):
    items = st.lists(st.integers(-n, n - 1), min_size=1, max_size=5, unique_by=lambda i: i % n)
    return data.draw(items if unique else st.lists(st.integers(-n, n - 1), min_size=1, max_size=5))


def draw_selection(data, array, *, unique):
    """Name of the attribute to index, or None, and what is between the brackets.

    ``unique``: no element twice, as what remains of several values is not defined.
    """
    shape = array.shape
    if not shape:
        return None, ...
    kind = data.draw(st.sampled_from(KINDS), label="kind")
    if kind == "integer":
        where = [data.draw(st.integers(-n, n - 1)) for n in shape]
        kept = data.draw(st.sets(st.integers(0, len(shape) - 1)))
        return None, tuple(slice(None) if d in kept else i for d, i in enumerate(where))
    if kind in ("oindex", "oindex and integer", "mask axis"):
        axes = [np.array(index(data, n, unique=unique)) for n in shape]
        if kind == "mask axis":
            axes[0] = np.arange(shape[0]) % 3 == data.draw(st.integers(0, min(2, shape[0] - 1)))
        elif kind == "oindex and integer":
            axes[-1] = int(axes[-1][0])
        elif data.draw(st.booleans()):
            axes[0] = slice(0, shape[0], 2)
        return "oindex", tuple(axes)
    if kind == "vindex":
        n = data.draw(st.integers(1, 6))
        points = [tuple(data.draw(st.integers(0, m - 1)) for m in shape) for _ in range(n)]
        points = list(dict.fromkeys(points)) if unique else points
        return "vindex", tuple(np.array(axis) for axis in zip(*points, strict=True))
    if kind == "mask":
        seed = data.draw(st.integers(0, 99))
        return "vindex", np.random.default_rng(seed).integers(3, size=shape) == 0
    if kind == "block":
        counts = [-(-n // c) for n, c in zip(shape, array.shards or array.chunks, strict=True)]
        return "blocks", tuple(data.draw(st.integers(-n, n - 1)) for n in counts)
    return None, data.draw(regions(shape))


def get(array, name, where):
    return (array if name is None else getattr(array, name))[where]


def put(array, name, where, new):
    (array if name is None else getattr(array, name))[where] = new


def draw_values(data, array, shape, rng):
    """Random ones, or fill values, or one for all."""
    new = random_values(rng, array.dtype, shape, payloads=False)
    kind = data.draw(st.sampled_from(["random", "random", "fill", "scalar"]), label="values")
    if kind == "fill" and array.dtype.kind not in "OT" and array.fill_value is not None:
        new = np.full_like(new, array.fill_value)
    if kind == "scalar" and array.dtype.kind in "iufb" and new.size:
        new = new.reshape(-1)[0]
    return new


def draw_resize(data, array):
    """A new shape, sometimes. What zarr-python cuts off from shards may come back."""
    if not array.shape or data.draw(st.integers(0, 4)):
        return None
    shape = tuple(data.draw(st.integers(1, 14)) for _ in array.shape)
    grows = all(a >= b for a, b in zip(shape, array.shape, strict=True))
    return shape if grows or array.shards is None else None


@settings(max_examples=20, phases=[Phase.generate])
@given(arguments(), st.integers(0, 2**32), st.data())
def test_any_sequence_of_requests(kwargs, seed, data):
    """Two arrays, one of them with our pipeline: same values, same chunks stored, all the time."""
    assume(0 not in kwargs["shape"])
    assume(HASHES or getattr(kwargs["dtype"], "kind", "") != "V")
    strings = type(kwargs["dtype"]).__name__ == "VariableLengthBytes"
    assume(VERSION >= (3, 4) or not strings)  # written as arrays by 3.2, not everywhere by 3.3
    big = getattr(getattr(kwargs.get("serializer"), "endian", None), "value", "") == "big"
    assume(VERSION != (3, 2) or not (big and kwargs.get("filters")))  # which it reads wrongly
    config = {"write_empty_chunks": data.draw(st.booleans()), "order": data.draw(orders)}
    rng = np.random.default_rng(seed)
    stores = [zarr.storage.MemoryStore(), zarr.storage.MemoryStore()]
    for store in stores:
        zarr.create_array(store, name="a/b", **copy.deepcopy(kwargs))
    theirs, mine = default(stores[0], path="a/b"), ours(stores[1], path="a/b")
    if kwargs["zarr_format"] == 3 and hasattr(mine, "with_config"):
        theirs, mine = (array.with_config(config) for array in (theirs, mine))
    for _ in range(data.draw(st.integers(1, 3), label="steps")):
        shape = draw_resize(data, mine)
        where = draw_selection(data, mine, unique=True)
        if shape is not None:
            theirs.resize(shape)
            mine.resize(shape)
            where = draw_selection(data, mine, unique=True)
        new = draw_values(data, mine, np.shape(get(theirs, *where)), rng)
        try:
            put(theirs, *where, new)
        except ValueError:  # older ones cannot write every selection into shards
            assume(VERSION >= (3, 4))
            raise
        put(mine, *where, new)
        assert keys(stores[1]) == keys(stores[0])
        for reader in (mine, default(stores[1], path="a/b"), ours(stores[0], path="a/b")):
            assert_same_bits(reader[...], theirs[...])
        where = draw_selection(data, mine, unique=False)
        found, expected = get(mine, *where), get(theirs, *where)
        assert_same_bits(found, expected)
        if isinstance(expected, np.ndarray):
            assert found.flags.f_contiguous == expected.flags.f_contiguous


SELECTIONS = [
    ..., (slice(1, 11, 3), slice(2, 9)), (3, slice(None)), (slice(None), -1), (0, 0),
]  # fmt: skip
LAYOUTS = [
    {"chunks": (4, 3)},
    {"chunks": (2, 3), "shards": (6, 6)},
    {"chunks": (4, 3), "zarr_format": 2},
    {"chunks": (4, 3), "zarr_format": 2, "order": "F"},
    {"chunks": (4, 3), "chunk_key_encoding": {"name": "v2", "separator": "/"}},
]


@pytest.mark.parametrize("kwargs", LAYOUTS, ids=str)
def test_what_is_simple_is_done_by_us(kwargs, tmp_path):
    values = np.arange(130, dtype="i4").reshape(13, 10)
    with all_by_zarr_gpu(), zarr_gpu.enable(strict=True):
        array = zarr.create_array(tmp_path, shape=values.shape, dtype="i4", **kwargs)
        array[...] = values
        array[3:8, 2] = 5
        array.oindex[[9, 1], [0, 7]] = 6
        array.vindex[[0, 12], [9, 3]] = 7
        values[3:8, 2] = 5
        values[np.ix_([9, 1], [0, 7])] = 6
        values[[0, 12], [9, 3]] = 7
        for where in SELECTIONS:
            np.testing.assert_array_equal(array[where], values[where])
        np.testing.assert_array_equal(array.oindex[[5, 1], 3], values[[5, 1], 3])
        np.testing.assert_array_equal(array.vindex[values > 50], values[values > 50])
        np.testing.assert_array_equal(array.blocks[1, 1:], array[4:8, 3:] if "shards" not in kwargs
                                      else array[6:12, 6:])  # fmt: skip


ORDERS = [{}]
if "subchunk_write_order" in inspect.signature(zarr.codecs.ShardingCodec).parameters:
    ORDERS += [{"subchunk_write_order": name} for name in
               ("morton", "lexicographic", "colexicographic", "unordered")]  # fmt: skip


@settings(max_examples=25, phases=[Phase.generate])
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from(ORDERS),
    st.sampled_from(["start", "end"]),
    st.integers(0, 2**32),
    st.data(),
)
def test_shards_are_stored_in_the_same_bytes(counts, order, location, seed, data):
    """Their inner chunks follow each other as zarr-python would have written them."""
    assume(counts or HASHES)  # zarr 3.1 cannot write 0-d shards
    inner = tuple(data.draw(st.integers(1, 3)) for _ in counts)
    chunks = tuple(n * c for n, c in zip(counts, inner, strict=True))
    shape = tuple(2 * n - data.draw(st.integers(0, n - 1)) for n in chunks)
    codec = zarr.codecs.ShardingCodec(
        chunk_shape=inner, codecs=[zarr.codecs.BytesCodec()], index_location=location, **order
    )
    stores = [zarr.storage.MemoryStore(), zarr.storage.MemoryStore()]
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 99, shape, "i4")
    part = data.draw(regions(shape))
    with pytest.MonkeyPatch.context() as patch, all_by_zarr_gpu():
        patch.setattr(host_write_blocks, "BLOCK_NBYTES", 1 << data.draw(st.integers(2, 10)))
        for store, setting in zip(stores, (DEFAULT, OURS), strict=True):
            with zarr.config.set(setting):
                array = zarr.create_array(
                    store, shape=shape, chunks=chunks, dtype="i4", serializer=codec,
                    compressors=None, filters=None,
                )  # fmt: skip
            array[...] = values
            array[part] = values[part] % 3
    assert keys(stores[0]) == keys(stores[1])
    for key in keys(stores[0]):
        found, expected = (store._store_dict[key].to_bytes() for store in reversed(stores))
        assert found == expected, key


@pytest.mark.skipif(len(ORDERS) == 1, reason="zarr 3.4 is the first to know orders")
def test_shards_in_shards_with_different_orders_are_left_to_zarr_python():
    inside = zarr.codecs.ShardingCodec(
        chunk_shape=(1, 1), codecs=[zarr.codecs.BytesCodec()], subchunk_write_order="lexicographic"
    )
    outside = zarr.codecs.ShardingCodec(chunk_shape=(2, 2), codecs=[inside])
    stores = [zarr.storage.MemoryStore(), zarr.storage.MemoryStore()]
    counted = Counted()
    for store, setting in zip(stores, (DEFAULT, OURS), strict=True):
        with zarr.config.set(setting):
            array = zarr.create_array(
                store, shape=(4, 4), chunks=(4, 4), dtype="u1", serializer=outside,
                compressors=None, filters=None,
            )  # fmt: skip
        array[...] = np.arange(16).reshape(4, 4)
    assert "different orders" in next(iter(counted.fallbacks))
    found, expected = (store._store_dict["c/0/0"].to_bytes() for store in reversed(stores))
    assert found == expected


def test_a_chunk_cut_off_by_an_end_that_has_moved():
    """The pipeline is not told of a resize: what is behind the old end must survive."""
    store = zarr.storage.MemoryStore()
    for kwargs in ({}, {"shards": (8,)}):
        zarr.create_array(store, shape=(10,), chunks=(4,), dtype="i4", overwrite=True, **kwargs)
        array = ours(store)
        array[...] = 1
        array.resize((12,))
        array[10:] = 2
        array[8:10] = 3
        assert array[...].tolist() == [1] * 8 + [3, 3, 2, 2]
        array.resize((9,))
        array[8:] = 4
        array.resize((12,))
        assert array[8:].tolist()[:2] == default(store)[8:].tolist()[:2]


def test_chunks_of_different_lengths():
    """Requests at the end of the array, also one that has moved inside the last chunk."""
    if "rectilinear_chunks" not in zarr.config.get("array"):
        pytest.skip("needs rectilinear chunks of zarr 3.2")
    rng = np.random.default_rng(0)
    with zarr.config.set({"array.rectilinear_chunks": True}):
        stores = [zarr.storage.MemoryStore(), zarr.storage.MemoryStore()]
        for store in stores:
            zarr.create_array(store, shape=(10, 9), chunks=[[2, 3, 5], [4, 5]], dtype="i4")
        for shape in [(10, 9), (7, 9), (10, 9), (6, 8), (8, 9)]:
            opened = [default(stores[0]), ours(stores[1])]
            for array in opened:
                array.resize(shape)
            with all_by_zarr_gpu():
                for where in [np.s_[:], np.s_[6:, 3:], np.s_[-1:, :], np.s_[3:, ::3], np.s_[0, -1]]:
                    values = rng.integers(0, 9, np.empty(shape)[where].shape, "i4")
                    for array in opened:
                        array[where] = values
                    assert keys(stores[0]) == keys(stores[1])
                    for reader in (opened[1], ours(stores[0])):
                        np.testing.assert_array_equal(reader[...], opened[0][...])
                        np.testing.assert_array_equal(reader[where], opened[0][where])
                        columns = [shape[1] - 1, 0]
                        np.testing.assert_array_equal(
                            reader.oindex[:, columns], opened[0].oindex[:, columns]
                        )
        counted = Counted()
        for array in opened:
            array.resize((14, 9))  # by a chunk that the pipeline is not told of
            array[5:] = np.arange(81).reshape(9, 9)
        np.testing.assert_array_equal(opened[1][...], opened[0][...])
        assert list(counted.fallbacks) == ["chunks that have been resized"]


# -- statuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kwargs", LAYOUTS, ids=str)
def test_statuses(kwargs, wrapped):
    """Of every item of a batch, in its order: present or missing."""
    inner = zarr.storage.MemoryStore()
    array = zarr.create_array(inner, shape=(13, 10), dtype="i4", fill_value=3, **kwargs)
    array[6:7, 6:7] = 1
    store = zarr.storage.LoggingStore(inner) if wrapped else inner
    array = ours(store)
    pipeline, found = array.async_array.codec_pipeline, []
    access, read = pipeline.access, pipeline.access.read

    def spy(*arguments):
        found.extend(read(*arguments))
        return found

    access.read = spy
    assert (array[...] == 3).sum() == 129
    chunks = np.ceil(np.divide((13, 10), array.shards or array.chunks)).astype(int).prod()
    assert len(found) == chunks
    assert [s["status"] for s in found].count("present") == 1


def test_missing_chunks_can_be_errors():
    if not hasattr(zarr.errors, "ChunkNotFoundError"):
        pytest.skip("needs read_missing_chunks of zarr 3.2")
    for kwargs in LAYOUTS:
        store = zarr.storage.MemoryStore()
        array = zarr.create_array(store, shape=(13, 10), dtype="i4", **kwargs)
        array[:6, :6] = 1
        errors = []
        for opened in (default(store), ours(store)):
            checked = opened.with_config({"read_missing_chunks": False})
            assert (checked[:6, :6] == 1).all()
            with pytest.raises(zarr.errors.ChunkNotFoundError) as caught:
                checked[...]
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


def test_a_missing_inner_chunk_is_no_error():
    if not hasattr(zarr.errors, "ChunkNotFoundError"):
        pytest.skip("needs read_missing_chunks of zarr 3.2")
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, shape=(8,), chunks=(2,), shards=(8,), dtype="i4")[0] = 1
    array = ours(store).with_config({"read_missing_chunks": False})
    assert array[...].tolist() == [1] + [0] * 7


# -- what is left to zarr-python ------------------------------------------------------------------


def fallback_of(array, what):
    """The reasons why ``what`` was left to zarr-python's own pipeline."""
    counted = Counted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        what(array)
    return list(counted.fallbacks)


@pytest.mark.filterwarnings("error")
def test_strings_are_left_to_zarr_python():
    with zarr_gpu.enable():
        array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype=str)
        reasons = fallback_of(array, lambda a: a.__setitem__(slice(None), ["a", "", "数", "d"]))
    assert array[...].tolist() == ["a", "", "数", "d"]
    assert len(reasons) == 1
    assert "no fixed size" in reasons[0]
    assert "no fixed size" in plugin.explain(array)


class Foreign(zarr.codecs.BytesCodec):
    """A codec of another package."""


@pytest.mark.filterwarnings("error")
def test_codecs_of_others_are_left_to_zarr_python():
    with zarr_gpu.enable():
        array = zarr.create_array(
            {}, shape=(4,), chunks=(2,), dtype="u1", serializer=Foreign(), filters=None
        )
        assert "Foreign" in fallback_of(array, lambda a: a.__setitem__(..., 3))[0]
        assert array[...].tolist() == [3] * 4
    with zarr_gpu.enable(strict=True), pytest.raises(UnsupportedError, match="Foreign"):
        array[...]


def test_outputs_of_another_type():
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i2")[...] = 7
    out = zarr.core.buffer.cpu.NDBuffer.from_numpy_array(np.zeros(4, "f8"))
    array = ours(store)
    reasons = fallback_of(array, lambda a: a.get_basic_selection(..., out=out))
    assert out.as_numpy_array().tolist() == [7.0] * 4
    assert "the output has elements of float64" in reasons[0]


def test_pieces_that_are_no_selection():
    """Whatever another caller makes of a batch, zarr-python's own pipeline does it."""
    axes = zarr_gpu.create_array({}, shape=(8, 8), chunks=(4, 4), dtype="u1")._layout.object_axes
    full = slice(0, 4, 1)

    def item(inside, out):
        return (None, None, inside, out, True)

    def parsed(batch, coords, shape=(8, 8), drop=()):
        return zarr_batch.selection_of(batch, coords, axes, shape, drop)

    coords = [(0, 0), (0, 1), (1, 0), (1, 1)]
    batch = [
        item((full, full), (slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))) for i, j in coords
    ]
    assert parsed(batch, coords).shape == (8, 8)
    assert parsed(batch[:3], coords[:3]) is None
    assert parsed([batch[0], batch[2], batch[1], batch[3]], coords) is None
    assert parsed(batch, [(0, 0), (0, 1), (0, 1), (1, 1)]) is None
    other = item((slice(0, 4, 1), slice(0, 3, 1)), batch[1][3])
    assert parsed([batch[0], other, *batch[2:]], coords) is None
    assert parsed(batch, coords, shape=(8, 9)) is None
    assert parsed([item((slice(None), full), ())], [(0, 0)]) is None
    rows = [item((np.array([0, 1]), full), (slice(0, 2), slice(0, 4))),
            item((np.array([0, 2]), full), (slice(0, 2), slice(4, 8)))]  # fmt: skip
    assert parsed(rows, [(0, 0), (0, 1)], shape=(2, 8)) is None
    points = [item((np.array([0, 1]), np.array([0, 1])), np.array([0, 1])),
              item((np.array([2]), np.array([3])), np.array([2]))]  # fmt: skip
    [found] = parsed(points, [(0, 0), (0, 1)], shape=(3,)).axes
    assert found.index.tolist() == [[0, 1, 2], [0, 1, 7]]
    twice = item(points[1][2], np.array([1]))
    assert parsed([points[0], twice], [(0, 0), (0, 1)], shape=(3,)) is None


def test_stores_without_locks_and_read_only_ones(tmp_path):
    zarr.create_array(tmp_path, shape=(4,), chunks=(2,), dtype="u1")[...] = 1
    array = ours(zarr.storage.LocalStore(tmp_path, read_only=True), mode="r")
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 2
    assert array[...].tolist() == [1] * 4


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", LAYOUTS, ids=str)
def test_a_damaged_chunk_is_named(kwargs, tmp_path):
    folder = tmp_path / "data"
    array = zarr.create_array(folder, name="group/a", shape=(13, 10), dtype="f8", **kwargs)
    array[:2, :2] = 1.5
    documents = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
    [chunk] = [f for f in folder.rglob("*") if f.is_file() and f.name not in documents]
    key = str(chunk.relative_to(folder))
    chunk.write_bytes(b"\x01" * chunk.stat().st_size)
    with pytest.raises(ChunkDecodeError) as caught:
        ours(folder, path="group/a")[...]
    assert (caught.value.array, caught.value.key) == ("group/a", key)
    assert caught.value.codec is not None


# -- objects --------------------------------------------------------------------------------------


def test_pickled_arrays_keep_their_pipeline(tmp_path):
    zarr.create_array(tmp_path, shape=(4,), chunks=(2,), dtype="u1")[...] = 1
    array = pickle.loads(pickle.dumps(ours(tmp_path)))
    assert type(array.async_array.codec_pipeline) is plugin.CodecPipeline
    with all_by_zarr_gpu():
        assert array[...].tolist() == [1] * 4
    assert array.async_array == ours(tmp_path).async_array
    assert array.async_array.codec_pipeline != default(tmp_path).async_array.codec_pipeline


def test_enable_ends_with_its_block():
    before = zarr.config.get("codec_pipeline.path")
    with zarr_gpu.enable():
        assert zarr.config.get("codec_pipeline.path") == plugin.PATH
        array = zarr.create_array({}, shape=(1,), dtype="u1")
    assert zarr.config.get("codec_pipeline.path") == before
    assert "zarr_gpu is not enabled" in plugin.explain(zarr.create_array({}, shape=1, dtype="u1"))
    assert "on the host" in plugin.explain(array, slice(0, 1))


def test_a_store_that_moves(tmp_path):
    if not hasattr(zarr.storage.LocalStore, "move"):
        pytest.skip("needs LocalStore.move of zarr 3.1.3")
    store = zarr.storage.LocalStore(tmp_path / "here")
    array = ours(zarr.create_array(store, shape=(4,), chunks=(2,), dtype="u1").store)
    array[...] = 5
    zarr.core.sync.sync(store.move(tmp_path / "there"))
    assert array[...].tolist() == [5] * 4
    array[:1] = 6
    assert not (tmp_path / "here").exists()
