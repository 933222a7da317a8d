"""borrow=True: tensors that are the mapped file."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tests.checkpoint.test_files import OURS, PLAIN, same, some
from zarr_gpu.checkpoint import load_file, safe_open, save_file
from zarr_gpu.errors import CheckpointError
from zarr_gpu.metadata.safetensors import make_header
from zarr_gpu.stores.tensor_files import PARTS


@pytest.fixture
def model(tmp_path):
    tensors = {
        f"{np.dtype(dtype).name}.{shape}": some(dtype, shape, i)
        for i, dtype in enumerate([*PLAIN, *OURS])
        for shape in ((), (0, 4), (6,), (3, 5, 4))
        if not (np.dtype(dtype).name == "float4_e2m1fn" and shape == ())
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path, tensors


def mapped(array):
    """Whether the memory of an array is a file's."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            first, last = (int(part, 16) for part in line.split(" ", 1)[0].split("-"))
            if first <= address < last:
                return ".safetensors" in line
    return False


@pytest.mark.parametrize("verify", ["none", "full"])
def test_borrowed_tensors_are_the_file(model, verify):
    path, tensors = model
    found = load_file(path, framework="np", borrow=True, verify=verify)
    for name, values in tensors.items():
        same(found[name], values)
        if values.size and "float4" not in name:
            assert mapped(found[name]), name
            assert found[name].flags.writeable
    assert not mapped(load_file(path, framework="np")["float32.(6,)"])


def test_what_is_written_to_them_stays_in_memory(model):
    path, tensors = model
    before = path.read_bytes()
    found = load_file(path, framework="np", borrow=True)
    for array in found.values():
        array[...] = 0
    assert path.read_bytes() == before
    again = load_file(path, framework="np", borrow=True)
    same(again["float64.(3, 5, 4)"], tensors["float64.(3, 5, 4)"])


def test_the_file_may_be_replaced_and_deleted(model, tmp_path):
    path, tensors = model
    found = load_file(path, framework="np", borrow=True)
    (tmp_path / "other").write_bytes(b"x")
    os.replace(tmp_path / "other", path)
    path.unlink()
    for name, values in tensors.items():
        same(found[name], values)


def test_elements_that_lie_askew_are_read(tmp_path):
    values = np.arange(5, dtype="f8")
    header = make_header([("a", "U8", (3,)), ("b", "F64", (5,))], {}, align=1)
    path = tmp_path / "m.safetensors"
    path.write_bytes(header + b"abc" + values.tobytes())
    found = load_file(path, framework="np", borrow=True)
    same(found["b"], values)
    assert found["a"].tobytes() == b"abc"
    assert mapped(found["a"])
    assert not mapped(found["b"])


def test_tensors_of_several_parts_are_read(tmp_path):
    values = np.arange(12, dtype="f4").reshape(4, 3)
    rows = {f"a.{i}": {"of": "a", "shape": [4, 3], "offset": [2 * i, 0]} for i in range(2)}
    parts = [(name, "F32", (2, 3)) for name in rows]
    path = tmp_path / "m.safetensors"
    path.write_bytes(make_header(parts, {PARTS: json.dumps(rows)}, align=8) + values.tobytes())
    found = load_file(path, framework="np", borrow=True)
    same(found["a"], values)
    assert not mapped(found["a"])


def test_damage_in_borrowed_tensors_is_found(model):
    path, _ = model
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="are not what was written"):
        load_file(path, framework="np", borrow=True, verify="full")


def test_only_memory_of_the_host_is_lent(model):
    with pytest.raises(ValueError, match="borrow=True gives memory of the host"):
        load_file(model[0], "cuda:0", framework="np", borrow=True)


def test_torch_borrows(model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path, tensors = model
    with safe_open(path, "pt", borrow=True) as file:
        names = [name for name in tensors if "int4" not in name]
        found = file.get_tensors(names)
    for name, tensor in found.items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        if "float4" not in name:
            assert data.tobytes() == tensors[name].tobytes(), name
            assert not data.size or mapped(data), name
    found["float32.(6,)"].zero_()
    same(load_file(path, framework="np")["float32.(6,)"], tensors["float32.(6,)"])
