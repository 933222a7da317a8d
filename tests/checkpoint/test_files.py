"""save_file, load_file and safe_open: equal to the package safetensors, bit by bit."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import zarr_gpu
from zarr_gpu.checkpoint import files as checkpoint_files
from zarr_gpu.checkpoint import load_file, loading, safe_open, save_file
from zarr_gpu.errors import CheckpointError, MetadataError, SelectionError, UnsupportedError
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.tensor_files import PARTS, TensorFiles

PLAIN = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]
OURS = ["c16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e8m0fnu,
        ml_dtypes.float4_e2m1fn, ml_dtypes.int4, ml_dtypes.uint4]  # fmt: skip


def some(dtype, shape, seed=0):
    """Random bits that are values of the type."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    n = int(np.prod(shape))
    if dtype.name in ("int4", "uint4", "float4_e2m1fn"):
        values = rng.integers(0, 8, n).astype("u1")
    elif dtype.kind == "b":
        values = rng.integers(0, 2, n).astype("u1")
    else:
        values = rng.integers(0, 256, n * dtype.itemsize).astype("u1")
    return values.view(dtype).reshape(shape)


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@pytest.fixture
def model(tmp_path):
    tensors = {
        f"{np.dtype(dtype).name}.{shape}": some(dtype, shape, i)
        for i, dtype in enumerate([*PLAIN, *OURS])
        for shape in ((), (0, 4), (6,), (3, 5, 4))
        if not (np.dtype(dtype).name == "float4_e2m1fn" and shape == ())
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, {"format": "np", "who": "ü"})
    return path, tensors


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_saved_comes_back(model, threads):
    path, tensors = model
    with zarr_gpu.config.set(threads=threads):
        found = load_file(path, framework="np", verify="full")
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        same(found[name], values)
        assert found[name].flags.owndata or found[name].base is not None
        if found[name].size:
            found[name][...] = 0  # memory of its own
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "np", "who": "ü"}
        assert set(file.keys()) == set(tensors) == set(file) == set(file.offset_keys())
        assert len(file) == len(tensors)
        assert "nothing" not in file
        for name, values in tensors.items():
            same(file.get_tensor(name), values)
            assert file.get_slice(name).get_shape() == list(values.shape)


def test_safetensors_reads_what_we_write_and_we_what_it_writes(tmp_path):
    tensors = {f"{t}.{i}": some(t, s) for t in PLAIN for i, s in enumerate([(), (7,), (2, 3)])}
    tensors["bf16"] = some(ml_dtypes.bfloat16, (4, 4))
    save_file(tensors, tmp_path / "ours.safetensors", {"a": "b"})
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    for name, values in tensors.items():
        same(theirs[name], values)
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors", {"a": "b"})
    for name, values in load_file(tmp_path / "theirs.safetensors", framework="np").items():
        same(values, tensors[name])
    with safetensors.safe_open(tmp_path / "ours.safetensors", "np") as file:
        assert file.metadata()["a"] == "b"


def test_tensors_of_whole_pages_begin_at_pages(tmp_path):
    tensors = {"odd": np.zeros(5, "u1"), "a": np.ones(4096, "f4"), "b": np.ones((64, 64), "u1")}
    save_file(tensors, tmp_path / "m.safetensors")
    files = TensorFiles(zarr_gpu.stores.local.LocalStore(tmp_path), ["m.safetensors"])
    offset = dict(zip(files.names, files.offset.tolist(), strict=True))
    assert offset["a"] % 4096 == offset["b"] % 4096 == 0
    assert offset["odd"] > max(offset["a"], offset["b"])


@st.composite
def selections(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    items = []
    for n in shape:
        if draw(st.booleans()):
            items.append(draw(st.integers(-n, n - 1)))
        else:
            items.append(slice(*draw(st.tuples(*[st.none() | st.integers(-n - 1, n + 1)] * 2))))
    cut = draw(st.integers(0, len(items)))
    kind = draw(st.sampled_from(["all", "prefix", "ellipsis"]))
    if kind == "prefix":
        return shape, tuple(items[:cut])
    if kind == "ellipsis":
        at = draw(st.integers(0, cut))
        return shape, (*items[:at], Ellipsis, *items[cut:])
    return shape, tuple(items)


@settings(max_examples=150)
@given(selections(), st.sampled_from(["u1", "f4", "c16"]), st.sampled_from([1, 40, 10**6]))
def test_slices_are_those_of_numpy(case, dtype, run):
    shape, selection = case
    values = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    data = {"w": values, "before": np.ones(3, "u1")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "RUN_NBYTES", run)
        for path in ("memory", "file"):
            with opened(data, path) as file:
                same(file.get_slice("w")[selection], values[selection][...])


def opened(tensors, where):
    import tempfile

    if where == "memory":
        store = MemoryStore()
        rows = [checkpoint_files.saving.source(name, t) for name, t in tensors.items()]
        checkpoint_files.saving.write_file(store, "m.safetensors", rows, {})
        return safe_open(TensorFiles(store, ["m.safetensors"]), "np")
    folder = tempfile.mkdtemp()
    save_file(tensors, f"{folder}/m.safetensors")
    return safe_open(f"{folder}/m.safetensors", "np")


def test_slices_of_columns_are_copied_from_the_mapped_file_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BATCH_NBYTES", 4096)
    values = some("f4", (300, 7, 50))
    save_file({"w": values}, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        same(file.get_slice("w")[:, 2:5, 10:20], values[:, 2:5, 10:20])
        same(file.get_slice("w")[5:, 3], values[5:, 3])
        for wrong in (slice(None, None, 2), None, 300, -301, [1, 2], True, (..., ...), (0,) * 4):
            with pytest.raises(SelectionError):
                file.get_slice("w")[wrong]


def test_tensors_are_loaded_into_what_is_there(tmp_path):
    values = some("f4", (6, 8))
    save_file(
        {"w": values, "b": some("i2", (3,)), "s": np.float64(2.5)}, tmp_path / "m.safetensors"
    )
    w = np.zeros((6, 8), "f4")
    columns = np.zeros((8, 6), "f4").T  # not contiguous
    wide = np.zeros((2, 3), "f8")  # another type
    s = np.zeros(())
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        assert file.load_into({"w": w, "s": s})["w"] is w
        same(w, values)
        assert s == 2.5
        file.load_into({"w": columns})
        np.testing.assert_array_equal(columns, values)
        file.load_into({"w": wide}, {"w": np.s_[1:3, 2:5]})
        np.testing.assert_array_equal(wide, values[1:3, 2:5])
        with pytest.raises(ValueError, match=r"'w': .*\[2, 3\]"):
            file.load_into({"w": wide})
        with pytest.raises(TypeError, match="cast"):
            file.load_into({"w": np.zeros((6, 8), "i4")})
        with pytest.raises(KeyError, match="no tensor 'nothing'"):
            file.load_into({"nothing": w})
        with pytest.raises(KeyError, match="in plan"):
            file.load_into({"w": w}, {"v": ...})
        frozen = w.copy()
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            file.load_into({"w": frozen})


def test_a_load_is_few_reads(tmp_path, monkeypatch):
    tensors = {f"t{i:04}": some("f4", (5, 5), i) for i in range(1000)}
    tensors["large"] = some("u1", (3 << 20,))
    save_file(tensors, tmp_path / "m.safetensors")
    calls = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(a) or real(*a))
    found = load_file(tmp_path / "m.safetensors", framework="np")
    assert len(calls) < 6
    for name, values in tensors.items():
        same(found[name], values)
    calls.clear()
    names = ["t0003", "t0500", "t0501"]
    assert list(load_file(tmp_path / "m.safetensors", framework="np", names=names)) == names
    assert sum(len(b) for _, buffers, _ in calls for b in buffers) == 300


@pytest.mark.parametrize("how", ["full", True])
def test_a_changed_byte_is_found_and_named(tmp_path, how, monkeypatch):
    monkeypatch.setattr(checkpoint_files.saving, "PIECE_NBYTES", 1000)
    tensors = {"a": some("u1", (4096,)), "b": some("f4", (700,))}
    path = tmp_path / "m.safetensors"
    save_file(tensors, path)
    data = bytearray(path.read_bytes())
    at = len(data) - 1500  # in the second of three pieces of b
    data[at] ^= 4
    path.write_bytes(data)
    load_file(path, framework="np")
    with pytest.raises(CheckpointError, match=r"'b': bytes \d+..\d+ of 'm.safetensors'") as caught:
        load_file(path, framework="np", verify=how)
    start, stop = map(int, str(caught.value).split("bytes ")[1].split(" ")[0].split(".."))
    assert start <= at < stop == start + 1000
    same(load_file(path, framework="np", verify="full", names=["a"])["a"], tensors["a"])


def test_files_without_checksums_cannot_be_verified(tmp_path):
    save_file({"a": np.ones(3), "e": np.ones(0)}, tmp_path / "m.safetensors", checksum=False)
    load_file(tmp_path / "m.safetensors", framework="np")
    with pytest.raises(CheckpointError, match=r"'a'.* has no checksums"):
        load_file(tmp_path / "m.safetensors", framework="np", verify="sample")
    with pytest.raises(ValueError, match="verify has to be"):
        load_file(tmp_path / "m.safetensors", framework="np", verify="some")


def test_what_cannot_be_saved_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    w = np.ones(3)
    for tensors, error in (
        ({"a": [1, 2]}, TypeError),
        ({1: w}, TypeError),
        ({"__metadata__": w}, ValueError),
        ({"a": np.array(["x"])}, UnsupportedError),
        ({"a": np.array([None])}, UnsupportedError),
        ({"a": np.zeros(3, ml_dtypes.float4_e2m1fn)}, ValueError),
        ({"a": w, "b": w}, ValueError),
    ):
        with pytest.raises(error, match=r"a|1|__metadata__"):
            save_file(tensors, path)
    for metadata, error in (({"a": 1}, TypeError), ({PARTS: "{}"}, ValueError)):
        with pytest.raises(error):
            save_file({"a": w}, path, metadata)
    assert not path.exists()
    save_file({"a": w, "b": w[::-1], "c": w[1:]}, path)  # other elements, or in another order
    assert load_file(path, framework="np")["b"].tolist() == [1, 1, 1]


def test_big_endian_and_strided_arrays_keep_their_values(tmp_path):
    values = np.arange(12, dtype=">f4").reshape(3, 4)
    save_file({"big": values, "f": np.asfortranarray(values)}, tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors", framework="np")
    np.testing.assert_array_equal(found["big"], values)
    np.testing.assert_array_equal(found["f"], values)
    assert found["big"].dtype == np.dtype("<f4")


def test_an_index_of_several_files(tmp_path):
    parts = {
        "a": {"x": some("f4", (4, 4)), "unlisted": some("f4", (1,))},
        "b": {"y": some("i4", (5,))},
    }
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / f"model-{name}.safetensors", {"format": "pt"})
    weight_map = {"x": "model-a.safetensors", "y": "model-b.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 84}, "weight_map": weight_map}))
    for path in (tmp_path, index):
        with safe_open(path, "np") as file:
            assert sorted(file) == ["x", "y"]
            same(file.get_tensor("x"), parts["a"]["x"])
            same(file.get_tensor("y"), parts["b"]["y"])
        group = zarr_gpu.open_group(path, mode="r")
        assert sorted(group) == ["x", "y"]
        np.testing.assert_array_equal(group["x"][1:, 2], parts["a"]["x"][1:, 2])
    both = [tmp_path / "model-a.safetensors", tmp_path / "model-b.safetensors"]
    assert sorted(safe_open(both, "np").keys()) == ["unlisted", "x", "y"]
    with pytest.raises(MetadataError, match="is twice in"):
        safe_open([both[0], both[0]], "np")
    for text in ("[]", "{", '{"weight_map": {"x": "../model-a.safetensors"}}',
                 '{"weight_map": {"z": "model-a.safetensors"}}'):  # fmt: skip
        index.write_text(text)
        with pytest.raises(MetadataError):
            safe_open(index, "np")
    index.write_text('{"weight_map": {"z": "model-c.safetensors"}}')
    with pytest.raises(zarr_gpu.errors.StoreError, match="model-c"):
        safe_open(index, "np")


def test_paths_that_are_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_file(tmp_path / "nothing.safetensors", framework="np")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_file(tmp_path, framework="np")
    with pytest.raises(ValueError, match="no path of a file"):
        save_file({}, f"{tmp_path}/")
    save_file({}, tmp_path / "empty.safetensors")
    assert load_file(tmp_path / "empty.safetensors", framework="np") == {}


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_cut_files_are_errors(model, cut):
    path, _ = model
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(MetadataError, match=r"model\.safetensors"):
        load_file(path, framework="np")


def test_files_that_are_replaced_or_cut_meanwhile(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": some("f4", (500, 500))}, path)
    with safe_open(path, "np") as file:
        save_file({"a": np.zeros(3, "i1")}, path)
        same(file.get_tensor("a"), some("f4", (500, 500)))  # of the version that was opened
    with safe_open(path, "np") as file:
        os.truncate(path, 4096)
        with pytest.raises(zarr_gpu.errors.StoreError):
            file.get_tensor("a")


def test_many_threads_share_an_opened_file(model):
    path, tensors = model
    errors = []

    def work(file):
        try:
            for name in list(tensors)[:20]:
                same(file.get_tensor(name), tensors[name])
        except Exception as error:
            errors.append(error)

    with safe_open(path, "np") as file:
        threads = [threading.Thread(target=work, args=(file,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_thousands_of_tensors_in_one_read(tmp_path):
    """The system takes a thousand buffers a call."""
    tensors = {f"{i}": np.full(2, i, "i4") for i in range(3000)}
    save_file(tensors, tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors", framework="np")
    assert [int(found[name][0]) for name in tensors] == list(range(3000))


def test_neighbours_in_different_files_are_different_reads(tmp_path):
    """The second tensor of one file begins where the first one of the other ends."""
    for name in ("a", "b"):
        values = {f"{name}.{i}": some("u1", (4096,), ord(name) + i) for i in range(2)}
        save_file(values, tmp_path / f"{name}.safetensors")
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    found = load_file(paths, framework="np", names=["a.0", "b.1"])
    same(found["a.0"], some("u1", (4096,), ord("a")))
    same(found["b.1"], some("u1", (4096,), ord("b") + 1))


def part(of, shape, offset):
    return {"of": of, "shape": shape, "offset": offset}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"p": part("w", [4, 3], [0, 0])}, "do not make up"),
        ({"p": part("w", [4, 3], [0, 0]), "q": part("w", [4, 3], [1, 0])}, "do not make up"),
        ({"p": part("w", [4, 3], [0, 0]), "q": part("w", [4, 4], [2, 0])}, "differ in shape"),
        ({"p": part("w", [2, 2], [0, 0])}, "cannot be"),
        ({"p": part("w", [4, 3], [-1, 0])}, "cannot be"),
        ({"p": part("w", [4, 3], [0])}, "cannot be"),
        ({"p": part(7, [4, 3], [0, 0])}, "cannot be"),
        ({"p": 3}, "cannot be"),
        ({"nothing": part("w", [4, 3], [0, 0])}, "cannot be"),
    ],
)
def test_parts_that_make_no_tensor_are_refused(parts, message):
    rows = [checkpoint_files.saving.source(name, np.ones((2, 3))) for name in ("p", "q")]
    store = MemoryStore()
    checkpoint_files.saving.write_file(store, "m.safetensors", rows, {PARTS: json.dumps(parts)})
    with pytest.raises(MetadataError, match=message):
        safe_open(TensorFiles(store, ["m.safetensors"]), "np").get_tensor("w")


def test_parts_in_any_arrangement_make_a_tensor():
    """Also one that is no grid, which then is no array."""
    values = np.arange(24.0).reshape(4, 6)
    boxes = {"a": (0, 0, 2, 4), "b": (0, 4, 3, 2), "c": (2, 0, 2, 4), "d": (3, 4, 1, 2)}
    parts = {n: part("w", [4, 6], [i, j]) for n, (i, j, _, _) in boxes.items()}
    rows = [checkpoint_files.saving.source(name, values[i : i + h, j : j + w].copy())
            for name, (i, j, h, w) in boxes.items()]  # fmt: skip
    store = MemoryStore()
    checkpoint_files.saving.write_file(store, "m.safetensors", rows, {PARTS: json.dumps(parts)})
    files = TensorFiles(store, ["m.safetensors"])
    file = safe_open(files, "np", verify="full")
    assert file.keys() == ["w"]
    same(file.get_tensor("w"), values)
    same(file.get_slice("w")[1:4, 2:5], values[1:4, 2:5])
    with pytest.raises(UnsupportedError, match="no grid"):
        file.group()["w"]


def test_types_of_parts_and_of_several_files(tmp_path):
    """Each file says of its own tensors what the format lacks."""
    values = np.arange(8).astype("c16").reshape(4, 2) * (1 + 1j)
    for name, rows in (("a", slice(0, 1)), ("b", slice(1, 4))):
        offset = [rows.start, 0, 0]
        parts = {f"w{offset}": part("w", [4, 2, 2], offset)}
        tensors = {f"w{offset}": values[rows], f"{name}.int4": some(ml_dtypes.int4, (3,))}
        sources = [checkpoint_files.saving.source(n, t) for n, t in tensors.items()]
        store = zarr_gpu.stores.local.LocalStore(tmp_path)
        metadata = {PARTS: json.dumps(parts)}
        checkpoint_files.saving.write_file(store, f"{name}.safetensors", sources, metadata)
    found = load_file([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], framework="np")
    same(found["w"], values)
    for name in ("a", "b"):
        same(found[f"{name}.int4"], some(ml_dtypes.int4, (3,)))


def test_objects_do_not_run_over_their_buffers(tmp_path):
    save_file({"w": np.ones(5)}, tmp_path / "m.safetensors")
    store = zarr_gpu.open_group(tmp_path / "m.safetensors").store
    assert list(store.fill(["w/c/0", "w/c/1"], [memoryview(bytearray(40))] * 2)) == [40, -1]
    with pytest.raises(zarr_gpu.errors.LimitError):
        list(store.fill(["w/c/0"], [memoryview(bytearray(39))]))
    document = bytearray(2000)
    (n,) = store.fill(["w/zarr.json"], [memoryview(document)])
    assert document[:n] == store.get("w/zarr.json")


def test_files_behind_urls(tmp_path):
    url = "memory://checkpoints/m.safetensors"
    tensors = {"w": some("f4", (40, 50)), "b": some("i2", (3,)), "c": some("u1", (90, 70))}
    save_file(tensors, url, {"k": "v"})
    for name, values in load_file(url, framework="np", verify="full").items():
        same(values, tensors[name])
    with safe_open(url, "np") as file:
        same(file.get_slice("w")[3:9, 5:20], tensors["w"][3:9, 5:20])
    group = zarr_gpu.open_group(url, mode="r")
    np.testing.assert_array_equal(group["c"][::7, 2:5], tensors["c"][::7, 2:5])
    assert group.attrs["k"] == "v"


@pytest.mark.parametrize("cut", [..., np.s_[:, 100:300]])
def test_a_load_takes_no_memory_beside_the_tensors(tmp_path, cut):
    values = some("f4", (3000, 1000))
    save_file({"w": values}, tmp_path / "m.safetensors")
    into = np.empty_like(values[cut])
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        file.load_into({"w": into}, {"w": cut})
        tracemalloc.start()
        try:
            file.load_into({"w": into}, {"w": cut})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    same(into, np.ascontiguousarray(values[cut]))
    assert peak < 1 << 20


def test_directories_that_are_zarr_groups_stay_that(tmp_path):
    save_file({"w": np.ones(3)}, tmp_path / "model.safetensors")
    assert list(zarr_gpu.open_group(tmp_path, mode="r")) == ["w"]
    zarr_gpu.open_group(tmp_path, mode="w-").create_array("other", data=np.zeros(2))
    assert list(zarr_gpu.open_group(tmp_path, mode="r")) == ["other"]
    assert list(load_file(tmp_path / "model.safetensors", framework="np")) == ["w"]


def test_files_that_are_only_called_like_ours(tmp_path):
    (tmp_path / "checkpoint.json").write_text('{"step": 3}')
    group = zarr_gpu.open_group(tmp_path, mode="a")
    group.create_array("x", data=np.zeros(2))
    assert list(zarr_gpu.open_group(tmp_path, mode="r")) == ["x"]
