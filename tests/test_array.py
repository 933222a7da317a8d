"""Arrays end to end on the host: what is written is read back, and NumPy decides what is right."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import zarr_gpu
from zarr_gpu.errors import (
    ChunkNotFoundError,
    ReadOnlyError,
    SelectionError,
    UnsupportedError,
)
from zarr_gpu.stores.memory import MemoryStore

LAYOUTS: dict[str, dict[str, Any]] = {
    "v3": {"chunks": (3, 4)},
    "v3 raw": {"chunks": (3, 4), "compressors": None},
    "v3 raw transposed": {
        "chunks": (3, 4),
        "compressors": None,
        "filters": [{"name": "transpose", "configuration": {"order": [1, 0]}}],
    },
    "v3 big endian": {
        "chunks": (3, 4),
        "serializer": {"name": "bytes", "configuration": {"endian": "big"}},
    },
    "v3 crc32c": {"chunks": (3, 4), "compressors": [{"name": "crc32c"}]},
    "v3 shards": {"chunks": (3, 2), "shards": (6, 4)},
    "v3 raw shards, index first": {
        "chunks": (3, 2),
        "shards": {"shape": (6, 4), "index_location": "start"},
        "compressors": None,
    },
    "v3 rectilinear": {"chunks": ([2, 5, 3], [1, 6])},
    "v3 rectilinear shards": {"chunks": (1, 2), "shards": ([4, 6], [2, 6])},
    "v3 nested shards": {
        "chunks": (6, 4),
        "compressors": None,
        "serializer": {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [6, 2],
                "codecs": [
                    {
                        "name": "sharding_indexed",
                        "configuration": {
                            "chunk_shape": [2, 1],
                            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                        },
                    }
                ],
            },
        },
    },
    "v3 compressed shards": {
        "chunks": (6, 4),
        "compressors": [{"name": "gzip", "configuration": {"level": 1}}],
        "serializer": {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [3, 2],
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            },
        },
    },
    "v2": {"chunks": (3, 4), "zarr_format": 2},
    "v2 raw F": {"chunks": (3, 4), "zarr_format": 2, "order": "F", "compressors": None},
    "v2 nested keys": {
        "chunks": (3, 4),
        "zarr_format": 2,
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "v2 filters": {
        "chunks": (3, 4),
        "zarr_format": 2,
        "filters": [{"id": "delta", "dtype": "<i4"}, {"id": "shuffle", "elementsize": 4}],
        "compressors": {"id": "zlib", "level": 1},
    },
    "one chunk": {"chunks": (20, 20)},
    "one element a chunk": {"chunks": (1, 1)},
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> dict[str, Any]:
    return LAYOUTS[request.param]


def make(layout: dict[str, Any], store: Any = None, **more: Any) -> zarr_gpu.Array:
    store = {} if store is None else store
    return zarr_gpu.create_array(store, **{"shape": (10, 7), "dtype": "int32", **layout, **more})


def test_written_values_are_read_back(layout: dict[str, Any]) -> None:
    data = np.arange(70, dtype="int32").reshape(10, 7)
    store: dict[str, bytes] = {}
    make(layout, store)[...] = data
    np.testing.assert_array_equal(zarr_gpu.open_array(store, mode="r")[...], data)


def test_elements_never_written_read_as_the_fill_value(layout: dict[str, Any]) -> None:
    array = make(layout, fill_value=-5)
    array[4:6, 3] = 7
    expected = np.full((10, 7), -5, "int32")
    expected[4:6, 3] = 7
    np.testing.assert_array_equal(array[...], expected)


@given(st.data())
@pytest.mark.parametrize("name", LAYOUTS)
def test_any_sequence_of_writes_and_reads_equals_numpy(name: str, data: st.DataObject) -> None:
    array = make(LAYOUTS[name], fill_value=0)
    expected = np.zeros((10, 7), "int32")
    for number in range(1, data.draw(st.integers(1, 3)) + 1):
        index = data.draw(npst.basic_indices((10, 7), allow_ellipsis=True))
        value = np.arange(expected[index].size).reshape(expected[index].shape) + number * 1000
        array[index] = value
        expected[index] = value
    np.testing.assert_array_equal(array[...], expected)
    index = data.draw(npst.basic_indices((10, 7), allow_ellipsis=True))
    got = array[index]
    np.testing.assert_array_equal(got, expected[index])
    assert got.shape == expected[index].shape
    rows = data.draw(st.lists(st.integers(-10, 9), max_size=5))
    np.testing.assert_array_equal(array[rows], expected[rows])
    columns = data.draw(st.lists(st.integers(0, 6), max_size=5))
    np.testing.assert_array_equal(array.oindex[rows, columns], expected[rows][:, columns])


def test_coordinates_masks_and_blocks_are_written_and_read(layout: dict[str, Any]) -> None:
    array = make(layout)
    expected = np.zeros((10, 7), "int32")
    rows, columns = np.array([9, 0, 4, 0]), np.array([6, 0, 2, 1])
    array.vindex[rows, columns] = expected[rows, columns] = [1, 2, 3, 4]
    mask = np.arange(70).reshape(10, 7) % 5 == 0
    array.set_mask_selection(mask, 9)
    expected[mask] = 9
    array.oindex[[7, 2], 1:5:2] = expected[[7, 2], 1:5:2] = [[5, 6], [7, 8]]
    np.testing.assert_array_equal(array[...], expected)
    np.testing.assert_array_equal(array.vindex[rows, columns], expected[rows, columns])
    np.testing.assert_array_equal(array[mask], expected[mask])
    lengths = array.read_chunk_sizes
    np.testing.assert_array_equal(
        array.blocks[0, -1], expected[: lengths[0][0], 7 - lengths[1][-1] :]
    )


@pytest.mark.parametrize(
    ("index", "value"),
    [
        ((slice(1, 3), slice(1, 3)), np.ones((3, 3))),
        ((0,), np.arange(3)),
        ((slice(None), 0), np.arange(7)),
    ],
)
def test_values_of_the_wrong_shape_are_refused(index: Any, value: np.ndarray) -> None:
    array = make(LAYOUTS["v3"])
    with pytest.raises(ValueError, match="broadcast"):
        array[index] = value
    assert not array[...].any()


def test_values_are_broadcast_as_numpy_does() -> None:
    array, expected = make(LAYOUTS["v3"]), np.zeros((10, 7), "int32")
    for value in (np.arange(7), np.arange(10)[:, None], 3, np.ones((1, 10, 7))):
        array[...] = value
        expected[...] = value
        np.testing.assert_array_equal(array[...], expected)


def test_out_is_decoded_into(layout: dict[str, Any]) -> None:
    data = np.arange(70, dtype="int32").reshape(10, 7)
    array = make(layout)
    array[...] = data
    out = np.full((10, 7), -1, "int32")
    assert array.read(out=out) is out
    np.testing.assert_array_equal(out, data)
    big = np.full((20, 14), -1, "int32")
    array.read((slice(2, 8), ...), out=big[4:16:2, ::2])
    np.testing.assert_array_equal(big[4:16:2, ::2], data[2:8])
    assert (big[1::2] == -1).all()
    buffer = bytearray(70 * 4)
    array.read(out=buffer)
    assert bytes(buffer) == data.tobytes()
    floats = np.empty((10, 7))
    array.read(out=floats)
    np.testing.assert_array_equal(floats, data)


@pytest.mark.parametrize(
    "out", [np.empty((10, 6), "int32"), np.empty((7, 10), "int32"), bytearray(3)]
)
def test_an_output_that_does_not_fit_is_refused(out: Any) -> None:
    with pytest.raises(ValueError, match="out has"):
        make(LAYOUTS["v3"]).read(out=out)


def test_an_output_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be cast"):
        make(LAYOUTS["v3"]).read(out=np.empty((10, 7), bool))


def test_negative_steps_turn_the_result_round(layout: dict[str, Any]) -> None:
    data = np.arange(70, dtype="int32").reshape(10, 7)
    array = make(layout)
    array[::-1, ::-2] = data[:, :4]
    expected = np.zeros((10, 7), "int32")
    expected[::-1, ::-2] = data[:, :4]
    np.testing.assert_array_equal(array[...], expected)
    np.testing.assert_array_equal(array[8:1:-3, ::-1], expected[8:1:-3, ::-1])


def test_integers_give_a_scalar_and_a_0d_array_does_too() -> None:
    array = make(LAYOUTS["v3"])
    array[3, 4] = 11
    assert array[3, 4] == 11
    assert type(array[3, 4]) is np.int32
    scalar = zarr_gpu.create_array({}, shape=(), dtype="float32")
    assert scalar[()] == 0
    scalar[...] = 2.5
    assert scalar[...] == 2.5
    assert list(scalar.store.list_prefix("")) == ["zarr.json", "c"]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0)])
@pytest.mark.parametrize("shards", [None, "auto"])
def test_empty_arrays_store_nothing(shape: tuple[int, ...], shards: Any) -> None:
    array = zarr_gpu.create_array({}, shape=shape, dtype="u1", shards=shards)
    array[...] = 1
    assert array[...].shape == shape
    assert array.nchunks == 0
    assert list(array.store.list_prefix("")) == ["zarr.json"]


def test_chunks_equal_to_the_fill_value_are_deleted(layout: dict[str, Any]) -> None:
    array = make(layout, fill_value=3)
    before = set(array.store.list_prefix(""))
    array[...] = 4
    assert set(array.store.list_prefix("")) > before
    array[...] = 3
    assert set(array.store.list_prefix("")) == before


def test_chunks_equal_to_the_fill_value_are_kept_on_request(layout: dict[str, Any]) -> None:
    array = make(layout, config={"write_empty_chunks": True})
    array[...] = 0
    assert array.nchunks_initialized == array.nchunks


def test_negative_zero_is_not_the_fill_value() -> None:
    array = zarr_gpu.create_array({}, shape=(2,), dtype="f8", fill_value=0.0)
    array[...] = -0.0
    assert np.signbit(array[...]).all()


def test_missing_chunks_can_be_an_error(layout: dict[str, Any]) -> None:
    array = make(layout, config={"read_missing_chunks": False})
    with pytest.raises(ChunkNotFoundError, match="missing") as caught:
        array[0, 0]
    assert caught.value.key


def test_read_only_arrays_refuse_every_change() -> None:
    store: dict[str, bytes] = {}
    make(LAYOUTS["v3"], store)
    array = zarr_gpu.open_array(store, mode="r")
    for change in (
        lambda: array.__setitem__(0, 1),
        lambda: array.resize((1, 1)),
        lambda: array.append(np.ones((1, 7))),
        lambda: array.attrs.update(a=1),
    ):
        with pytest.raises(ReadOnlyError):
            change()


def test_a_shrunk_array_grows_with_fill_values(layout: dict[str, Any]) -> None:
    array = make(layout, fill_value=-1)
    data = np.arange(70, dtype="int32").reshape(10, 7)
    array[...] = data
    array.resize((4, 5))
    array.resize((10, 7))
    expected = np.full((10, 7), -1, "int32")
    expected[:4, :5] = data[:4, :5]
    np.testing.assert_array_equal(array[...], expected)


def test_growing_one_axis_while_shrinking_the_other(layout: dict[str, Any]) -> None:
    array = make(layout, fill_value=-1)
    data = np.arange(70, dtype="int32").reshape(10, 7)
    array[...] = data
    array.resize(3, 9)
    expected = np.full((3, 9), -1, "int32")
    expected[:, :7] = data[:3]
    np.testing.assert_array_equal(array[...], expected)
    array.resize(12, 9)
    np.testing.assert_array_equal(array[3:], np.full((9, 9), -1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_append_grows_one_axis(layout: dict[str, Any], axis: int) -> None:
    array = make(layout)
    expected = np.arange(70, dtype="int32").reshape(10, 7)
    array[...] = expected
    for n in (1, 4, 0, 9):
        part = np.full([n if d == axis % 2 else expected.shape[d] for d in (0, 1)], n, "int32")
        expected = np.concatenate([expected, part], axis)
        assert array.append(part, axis) == expected.shape
    np.testing.assert_array_equal(array[...], expected)
    reopened = zarr_gpu.open_array(array.store)
    np.testing.assert_array_equal(reopened[...], expected)


def test_fields_are_read_and_written_one_by_one() -> None:
    dtype = np.dtype([("a", "<i4"), ("b", "<f8"), ("c", [("x", "u1"), ("y", "<u2")])])
    for zarr_format in (2, 3):
        array = zarr_gpu.create_array(
            {}, shape=(5,), chunks=(2,), dtype=dtype, zarr_format=zarr_format
        )
        data = np.zeros(5, dtype)
        data["a"], data["b"] = np.arange(5), np.arange(5) / 2
        array[...] = data
        np.testing.assert_array_equal(array["a"], data["a"])
        np.testing.assert_array_equal(array["b", 1:4], data["b"][1:4])
        np.testing.assert_array_equal(array[["a", "b"]]["b"], data["b"])
        array["b", 2:] = [7, 8, 9]
        data["b"][2:] = [7, 8, 9]
        array[0, "c"] = (1, 2)
        data["c"][0] = (1, 2)
        np.testing.assert_array_equal(array[...], data)
        with pytest.raises(SelectionError, match="no field"):
            array["nothing"]


def test_arrays_pickle_as_store_and_path() -> None:
    array = make(LAYOUTS["v3"])
    array[...] = 5
    again = pickle.loads(pickle.dumps(array))
    assert again.store is not array.store
    np.testing.assert_array_equal(again[...], array[...])


def test_iteration_length_and_conversion() -> None:
    array = make(LAYOUTS["v3"])
    array[...] = np.arange(70).reshape(10, 7)
    assert len(array) == 10
    np.testing.assert_array_equal(np.stack(list(array)), array[...])
    assert np.asarray(array, "f4").dtype == "f4"
    assert int(zarr_gpu.array(np.int8(7))) == 7


def test_a_failed_attribute_update_leaves_nothing_behind() -> None:
    array = make(LAYOUTS["v3"])
    array.attrs["a"] = 1
    with pytest.raises(TypeError):
        array.attrs["b"] = {1, 2}
    array.attrs["c"] = 2
    assert dict(array.attrs) == {"a": 1, "c": 2}
    assert dict(zarr_gpu.open_array(array.store).attrs) == {"a": 1, "c": 2}


def test_an_array_with_an_ignored_codec_is_not_written() -> None:
    store: dict[str, bytes] = {}
    make(LAYOUTS["v3 raw"], store)[...] = 1
    document = json.loads(store["zarr.json"])
    document["codecs"].append({"name": "no.such.codec", "must_understand": False})
    store["zarr.json"] = json.dumps(document).encode()
    array = zarr_gpu.open_array(store)
    assert (array[...] == 1).all()
    with pytest.raises(UnsupportedError, match=r"no\.such\.codec"):
        array[0] = 2


def test_explain_tells_chunks_steps_and_device() -> None:
    text = make(LAYOUTS["v3 shards"]).explain((slice(0, 4), 0))
    assert "chunks    2 of shape (3, 2)" in text
    assert "1 shards" in text
    assert "zstd" in text
    assert text.splitlines()[-1].startswith("device    auto (")


def test_whole_raw_chunks_of_a_distant_store_cost_one_request_each() -> None:
    from zarr_gpu.stores.wrappers import CountingStore

    class Distant(MemoryStore):
        local = False

        def size(self, key: str) -> int | None:
            raise AssertionError(f"the size of {key} was asked for")

    data: dict[str, bytes] = {}
    array = make(LAYOUTS["v3 raw"], data)
    array[...] = np.arange(70).reshape(10, 7)
    store = CountingStore(Distant(data))
    distant = zarr_gpu.open_array(store)
    store.clear()
    np.testing.assert_array_equal(distant[...], array[...])
    assert len(store.reads) == array.nchunks


def test_one_element_of_a_raw_chunk_costs_one_small_read() -> None:
    from zarr_gpu.stores.wrappers import CountingStore

    store = CountingStore(MemoryStore())
    array = zarr_gpu.create_array(
        store, shape=(512, 512), chunks=(512, 512), dtype="f4", compressors=None
    )
    array[...] = np.arange(512 * 512).reshape(512, 512)
    store.clear()
    assert array[300, 200] == 300 * 512 + 200
    assert store.bytes_read == 4


def test_uncompressed_scalar_is_read_into_the_result() -> None:
    array = zarr_gpu.create_array({}, shape=(), dtype="i8", compressors=None)
    array[...] = 7
    out = np.full((), -1, "i8")
    assert array.read(out=out) is out
    assert out == 7


INSIDE_GZIP = {
    "serializer": {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [],
            "codecs": [{"name": "vlen-utf8"}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        },
    },
    "compressors": {"name": "gzip", "configuration": {"level": 1}},
}


@pytest.mark.parametrize("kwargs", [{}, {"compressors": None}, {"shards": ()}, INSIDE_GZIP])
def test_scalar_texts_are_written_and_read(kwargs: dict[str, Any]) -> None:
    array = zarr_gpu.create_array({}, shape=(), chunks=(), dtype=str, **kwargs)
    for text in ("zarr", "Größe", ""):
        array[...] = text
        assert array[()] == text
