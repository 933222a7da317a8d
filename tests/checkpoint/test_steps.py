"""Whole states: what is nested comes back, and what is interrupted leaves the state before."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zarr_gpu
from zarr_gpu.checkpoint import Manager, async_save, load, load_file, save, save_file, steps
from zarr_gpu.checkpoint.tree import flatten, restore, tensor_names
from zarr_gpu.errors import CheckpointError, ContainsNodeError, MetadataError, StoreError
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore

keys = st.text(max_size=6) | st.integers(-5, 5) | st.booleans() | st.none() | st.floats(-1, 1)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.binary(max_size=9) | st.complex_numbers(allow_nan=False)
    | st.integers(0, 9).map(lambda n: np.arange(n, dtype="f4"))
    | st.integers(0, 9).map(np.int16)
)  # fmt: skip
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def equal(a, b):
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@given(states)
def test_states_come_back_through_json(state):
    flat = flatten(state)
    tree = json.loads(steps.saving.json_bytes(flat.tree))
    assert {name for name, _ in tensor_names(tree)} == set(flat.tensors)
    assert equal(restore(tree, lambda name, of: flat.tensors[name]), state)


@settings(max_examples=25)
@given(states)
def test_states_come_back_from_files(state):
    store = MemoryStore()
    save(state, store)
    assert equal(load(store, framework="np", verify="full"), state)


@pytest.mark.parametrize(
    "state",
    [{"a": {"b": object()}}, {"a": {"b": {1, 2}}}, {"a": {"b": {object(): 1}}},
     {"a": {"b": np.array(["x"])}}, {"a": {"b": lambda: 1}}],
)  # fmt: skip
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, state):
    with pytest.raises(TypeError, match=r"\['a'\]\['b'\]"):
        save(state, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_deep_and_cyclic_states_are_errors():
    state: list = []
    state.append(state)
    with pytest.raises(TypeError, match="nested more than"):
        flatten(state)


@pytest.mark.parametrize("depth", [5_000, 100_000])
def test_manifests_that_are_nested_too_deep_are_errors(tmp_path, depth):
    save({"a": np.ones(3)}, tmp_path / "s")
    manifest = tmp_path / "s/checkpoint.json"
    text = manifest.read_text().replace('{"a"', "[" * depth + '{"a"')
    manifest.write_text(text.replace('"np"}}', '"np"}}' + "]" * depth))
    with pytest.raises(CheckpointError, match=r"nested too deep|no valid JSON"):
        load(tmp_path / "s", framework="np")


def test_shared_tensors_are_stored_once(tmp_path):
    w = np.ones((100, 100), "f4")
    save({"embedding": w, "head": w, "view": w[:50]}, tmp_path / "s")
    assert (tmp_path / "s/model.safetensors").stat().st_size < 70_000
    found = load(tmp_path / "s", framework="np")
    assert found["embedding"] is found["head"]
    assert found["view"].shape == (50, 100)


def test_many_files_and_their_index(tmp_path):
    tensors = {f"t{i}": np.full((50, 50), i, "f4") for i in range(7)}
    folder = tmp_path / "s"
    save(tensors, folder, step=4, file_nbytes=25_000, metadata={"who": "me"})
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert names == [f"model-{i:05}-of-00004.safetensors" for i in range(1, 5)]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 7 * 10_000
    assert index["weight_map"].keys() == tensors.keys()
    for found in (load(folder, framework="np"), load_file(folder, framework="np")):
        assert equal(dict(sorted(found.items())), tensors)
    group = zarr_gpu.open_group(folder, mode="r")
    assert sorted(group) == sorted(tensors)
    assert group.attrs["who"] == "me"
    assert (group["t3"][...] == 3).all()


def test_a_checkpoint_is_replaced_in_one_step(tmp_path):
    folder = tmp_path / "s"
    save({"a": np.ones(3), "b": 1}, folder)
    with pytest.raises(ContainsNodeError):
        save({"a": np.zeros(3)}, folder)
    save({"a": np.zeros(3), "b": 2}, folder, overwrite=True, file_nbytes=8)
    assert load(folder, framework="np")["b"] == 2
    assert sorted(load_file(folder, framework="np")) == ["a"]
    assert len(list(folder.iterdir())) == 3  # data, index, manifest


class FailingStore(MemoryStore):
    """Fails at the ``left``-th write."""

    left = 100

    def set(self, key, value):
        self.left -= 1
        if self.left < 0:
            raise StoreError("full")
        super().set(key, value)


@pytest.mark.parametrize("writes", range(5))
def test_a_save_that_fails_leaves_the_state_before(writes):
    store = FailingStore()
    save({"a": np.ones(3), "b": np.ones(2)}, store, file_nbytes=8)
    store.left = writes
    try:
        save({"a": np.zeros(3), "b": np.ones(5)}, store, overwrite=True, file_nbytes=8)
    except StoreError:
        assert equal(load(store, framework="np"), {"a": np.ones(3), "b": np.ones(2)})
    else:
        assert writes == 4
        assert equal(load(store, framework="np"), {"a": np.zeros(3), "b": np.ones(5)})


def test_into_fills_what_is_there(tmp_path):
    saved = {"model": {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(2, "f4")},
             "history": [1, {"x": np.full(2, 5)}], "betas": (0.9, 0.99), "step": 7}  # fmt: skip
    save(saved, tmp_path / "s")
    w, x = np.zeros((2, 3)), np.zeros(2, "i8")
    into = {"model": {"w": w}, "history": [0, {"x": x}], "betas": (0, 0), "step": None}
    assert load(tmp_path / "s", into) is into
    assert into["model"]["w"] is w
    assert into["history"][1]["x"] is x
    np.testing.assert_array_equal(w, saved["model"]["w"])
    assert x.tolist() == [5, 5]
    assert into["betas"] == (0.9, 0.99)
    assert into["step"] == 7
    assert "b" not in into["model"]
    for wrong, message in (
        ({"model": {"v": w}}, r"\['model'\]\['v'\] is not in"),
        ({"history": [1]}, r"\['history'\] has another length"),
        ({"step": {"x": 1}}, r"\['step'\] is no dictionary"),
        ({"model": {"w": np.zeros(5)}}, "'model.w'"),
    ):
        with pytest.raises((CheckpointError, ValueError), match=message):
            load(tmp_path / "s", wrong)


def test_directories_that_are_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path)
    save({"a": np.ones(3)}, tmp_path / "s")
    manifest = tmp_path / "s/checkpoint.json"
    good = manifest.read_text()
    for text in ("{", "[]", "{}", good.replace('_checkpoint": 1', '_checkpoint": 9'),
                 good.replace('"model.safetensors"', '"../model.safetensors"'),
                 good.replace('"model.safetensors"', "7"), good.replace("$tensor", "$what"),
                 good.replace('"$tensor": "a"', '"$tensor": "b"')):  # fmt: skip
        manifest.write_text(text)
        with pytest.raises((CheckpointError, ValueError, KeyError)):
            load(tmp_path / "s", framework="np")
    manifest.write_text(good)
    data = tmp_path / "s/model.safetensors"
    whole = data.read_bytes()
    for change in (whole[:-1], whole + b"x", b"", whole[:4000]):
        data.write_bytes(change)
        with pytest.raises((MetadataError, StoreError)):
            load(tmp_path / "s", framework="np")
    data.unlink()
    with pytest.raises(StoreError, match=r"no file 'model\.safetensors'"):
        load(tmp_path / "s", framework="np")


def test_async_saves_what_was_there(tmp_path):
    w = np.ones(200_000)
    future = async_save({"w": w, "step": 1}, tmp_path / "s")
    w[...] = 2  # training goes on
    future.result(timeout=60)
    assert load(tmp_path / "s", framework="np")["w"].max() == 1
    with pytest.raises(ContainsNodeError):
        async_save({"w": w}, tmp_path / "s").result(timeout=60)
    with pytest.raises(TypeError, match="object"):
        async_save({"w": object()}, tmp_path / "t")


def test_manager_keeps_the_last_ones(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        Manager(tmp_path, keep=0)
    with Manager(tmp_path, keep=2, every=5) as manager:
        assert manager.latest() is None
        with pytest.raises(CheckpointError, match="no checkpoint below"):
            manager.restore()
        assert [step for step in range(11) if manager.should_save(step)] == [0, 5, 10]
        for step in (0, 5):
            manager.save(step, {"w": np.full(3, step)})
        (tmp_path / "step-00000007").mkdir()  # interrupted
        (tmp_path / "step-00000007/model.safetensors").write_bytes(b"half")
        (tmp_path / "step-00000099").mkdir()  # of another process, maybe under way
        (tmp_path / "notes").mkdir()
        assert manager.steps() == [0, 5]
        for step in (10, 15):
            manager.async_save(step, {"w": np.full(3, step)})
    assert manager.steps() == [10, 15]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["notes", "step-00000010", "step-00000015", "step-00000099"]
    assert manager.restore(framework="np")["w"].tolist() == [15] * 3
    assert manager.restore(10, framework="np")["w"].tolist() == [10] * 3
    with pytest.raises(ValueError, match="step"):
        manager.save(-1, {})


def test_a_manager_that_is_killed_leaves_a_whole_last_step(tmp_path):
    """Some of the two hundred kills that ``benchmarks/checkpoint_kills.py`` makes."""
    program = textwrap.dedent(
        """
        import sys
        import numpy as np
        from zarr_gpu.checkpoint import Manager
        manager = Manager(sys.argv[1], keep=2, durable=False)
        step = (manager.latest() or 0) + 1
        while True:
            manager.save(step, {"w": np.full(300_000, step), "step": step})
            print(step, flush=True)
            step += 1
        """
    )
    manager = Manager(tmp_path)
    for wait in (0.0, 0.011, 0.023):
        process = subprocess.Popen(
            [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True
        )
        done = int(process.stdout.readline())
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        latest = manager.latest()
        assert latest >= done
        state = manager.restore(framework="np", verify="full")
        assert state["step"] == latest
        assert (state["w"] == latest).all()


def test_durable_saves_flush_every_file(tmp_path, monkeypatch):
    flushed = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")) or real(fd)
    )
    save({"a": np.ones(3)}, tmp_path / "s")
    assert sum(".zg-" in name for name in flushed) == 2  # data and manifest
    flushed.clear()
    save({"a": np.ones(3)}, tmp_path / "t", durable=False)
    assert not flushed


def test_files_may_be_saved_beside_others(tmp_path):
    """A directory that is read as one group can still be written to."""
    save_file({"a": np.ones(3)}, tmp_path / "model.safetensors")
    save_file({"b": np.ones(3)}, tmp_path / "more.safetensors")
    store = LocalStore(tmp_path)
    assert sorted(store.list_dir()) == ["model.safetensors", "more.safetensors"]
