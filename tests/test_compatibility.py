"""What users of zarr-python may expect; found by running its own tests against this package."""

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.sharding import ShardingCodec
from zarr_gpu.errors import (
    ArrayNotFoundError,
    BoundsCheckError,
    ContainsArrayError,
    ContainsGroupError,
    GroupNotFoundError,
)
from zarr_gpu.stores.zip import ZipStore


@pytest.mark.parametrize("accessor", ["oindex", "vindex"])
def test_an_unsigned_index_above_the_signed_range_is_out_of_bounds(accessor):
    a = zarr_gpu.create_array({}, data=np.arange(16).reshape(4, 4))
    with pytest.raises(BoundsCheckError):
        getattr(a, accessor)[np.array([0, 1]), np.array([0, 2**64 - 1], np.uint64)]


def test_get_array_and_get_group_name_the_kind_of_node_they_want():
    g = zarr_gpu.create_group({})
    g.create_group("g")
    a = g.create_array("g/a", shape=2, dtype="i1")
    assert g.get_array("g/a") == a
    assert g.get_group("g").path == "g"
    for method, path, error in [
        (g.get_array, "g", ContainsGroupError),
        (g.get_array, "x", ArrayNotFoundError),
        (g.get_group, "g/a", ContainsArrayError),
        (g.get_group, "x", GroupNotFoundError),
    ]:
        with pytest.raises(error):
            method(path)


@pytest.mark.parametrize("source_format", [2, 3])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_like_methods_of_a_group_create_in_its_format(zarr_format, source_format):
    g = zarr_gpu.create_group({}, zarr_format=zarr_format)
    source = zarr_gpu.full(5, 7, store={}, dtype="u1", chunks=2, zarr_format=source_format)
    for name, fill in [("empty_like", 7), ("zeros_like", 0), ("ones_like", 1), ("full_like", 7)]:
        new = getattr(g, name)(name=name, data=source)
        assert (new.metadata.zarr_format, new.chunks, new.fill_value) == (zarr_format, (2,), fill)
    with pytest.raises(ValueError, match="format"):
        g.zeros(name="other", shape=1, zarr_format=5 - zarr_format)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_deleted_member_leaves_every_listing_it_was_in(zarr_format):
    store = {}
    g = zarr_gpu.create_group(store, zarr_format=zarr_format)
    g.create_array("sub/a", shape=2, dtype="i1")
    g.create_array("sub/b", shape=2, dtype="i1")
    zarr_gpu.consolidate_metadata(store)
    g = zarr_gpu.open_consolidated(store)
    sub = g["sub"]
    del sub["a"]
    assert list(sub) == list(g["sub"]) == ["b"]
    assert list(zarr_gpu.open_consolidated(store)["sub"]) == ["b"]


def test_require_array_applies_settings_to_an_existing_array():
    g = zarr_gpu.create_group({})
    g.create_array("a", shape=2, dtype="i1")
    assert g.require_array("a", shape=2, dtype="i1", config={"order": "F"}).order == "F"
    with pytest.raises(ValueError, match="order"):
        g.require_array("a", shape=2, dtype="i1", config={"order": "X"})
    with pytest.raises(ValueError, match="bool"):
        g.require_array("b", shape=2, dtype="i1", config={"write_empty_chunks": 1})


def test_an_array_may_be_replaced_by_an_empty_one_like_it():
    store = {}
    a = zarr_gpu.create_array(store, name="a", data=np.arange(3), fill_value=-1)
    with pytest.raises(ValueError, match="destroy"):
        zarr_gpu.from_array(store, name="a", data=a, overwrite=True)
    new = zarr_gpu.from_array(store, name="a", data=a, overwrite=True, write_data=False)
    assert new[:].tolist() == [-1, -1, -1]


def test_array_of_an_array_in_the_other_format():
    source = zarr_gpu.create_array({}, data=np.arange(4), chunks=2, zarr_format=3)
    new = zarr_gpu.array(source, store={}, zarr_format=2)
    assert new.metadata.zarr_format == 2
    assert new[:].tolist() == [0, 1, 2, 3]


def test_arguments_of_format_3_are_refused_in_format_2():
    with pytest.raises(ValueError, match="serializer"):
        zarr_gpu.create_array({}, shape=2, dtype="i1", serializer="bytes", zarr_format=2)


def test_members_refuses_a_negative_depth():
    with pytest.raises(ValueError, match="max_depth"):
        zarr_gpu.create_group({}).members(max_depth=-1)


def contents(store):
    return {key: bytes(value) for key, value in store.items()}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_metadata_that_cannot_be_stored_leave_the_old_node(zarr_format):
    store = {}
    zarr_gpu.create_array(store, data=np.arange(4), zarr_format=zarr_format)
    before = contents(store)
    for create in (zarr_gpu.create_array, zarr_gpu.create):
        with pytest.raises(TypeError):
            create(store=store, shape=2, dtype="i1", overwrite=True, attributes={"x": object()})
    assert contents(store) == before


def test_save_group_replaces_what_is_there_once_all_arrays_fit():
    store = {}
    zarr_gpu.save_group(store, old=np.arange(3))
    before = contents(store)
    with pytest.raises(ValueError, match="object"):
        zarr_gpu.save_group(store, a=np.arange(2), b=np.array([object()]))
    inside = zarr_gpu.open_array(store, path="old")
    with pytest.raises(ValueError, match="destroy"):
        zarr_gpu.save_group(store, a=inside)
    assert contents(store) == before
    zarr_gpu.save_group(store, new=np.arange(2))
    assert list(zarr_gpu.open_group(store)) == ["new"]


def test_an_array_cannot_be_saved_over_itself():
    store = {}
    a = zarr_gpu.create_array(store, data=np.arange(3))
    with pytest.raises(ValueError, match="destroy"):
        zarr_gpu.save_array(store, a)
    assert a[:].tolist() == [0, 1, 2]


def test_overwriting_in_a_store_without_deletes_is_refused(tmp_path):
    with ZipStore(tmp_path / "a.zip", "w") as store:
        zarr_gpu.create_array(store, data=np.arange(3), overwrite=True)
        with pytest.raises(ContainsArrayError):
            zarr_gpu.create_array(store, shape=2, dtype="i1", overwrite=True)


def test_create_never_replaces_in_mode_w_minus():
    store = {}
    zarr_gpu.create_array(store, data=np.arange(3))
    with pytest.raises(FileExistsError):
        zarr_gpu.create(3, store=store, mode="w-", overwrite=True)


def test_format_2_stores_the_order_of_the_settings():
    made = zarr_gpu.create((2, 2), store={}, zarr_format=2, config={"order": "F"})
    with zarr_gpu.config.set({"array.order": "F"}):
        also = zarr_gpu.create_array({}, shape=(2, 2), dtype="i1", zarr_format=2)
    assert made.metadata.to_dict()["order"] == also.metadata.to_dict()["order"] == "F"


def test_array_takes_the_shape_that_the_data_have():
    assert zarr_gpu.array([1, 2, 3], shape=(3,), store={}).shape == (3,)
    with pytest.raises(ValueError, match="shape"):
        zarr_gpu.array([1, 2, 3], shape=(4,), store={})


def test_array_open_opens_what_is_there():
    store = {}
    with pytest.raises(ArrayNotFoundError):
        zarr_gpu.Array.open(store)
    zarr_gpu.create_array(store, data=np.arange(3))
    assert zarr_gpu.Array.open(store)[:].tolist() == [0, 1, 2]


def test_information_about_an_array_with_irregular_chunks_or_shards():
    irregular = zarr_gpu.create_array({}, shape=(30,), chunks=[[10, 20]], dtype="i4")
    assert "Chunk shape : <variable>" in str(irregular.info)
    shards = zarr_gpu.create_array({}, shape=(30,), chunks=(5,), shards=[[10, 20]], dtype="i4")
    assert "Shard shape : <variable>" in str(shards.info)
    assert "Chunk shape : (5,)" in str(shards.info)


def test_inner_chunks_must_divide_every_shard_of_an_irregular_grid():
    store = {}
    with pytest.raises(ValueError, match="divide"):
        zarr_gpu.create_array(store, shape=(8, 4), chunks=(2, 2), shards=[[5, 3], 4], dtype="i4")
    with pytest.raises(ValueError, match="divide"):
        zarr_gpu.create_array(store, shape=(8, 4), chunks=(2, 2), shards=[[4, 3, 1], 4], dtype="i4")
    assert store == {}


def test_a_sharding_codec_that_cannot_be_stored_is_refused():
    codec = ShardingCodec((0,), (BytesCodec(),))
    with pytest.raises(ValueError, match="positive"):
        zarr_gpu.create_array({}, shape=4, chunks=4, dtype="i4", serializer=codec)


def test_chunks_may_be_a_numpy_array():
    for chunks in (np.array(2), np.array([2, 2])):
        assert zarr_gpu.create_array({}, shape=(4, 4), chunks=chunks, dtype="i1").chunks == (2, 2)
