"""Checkpoints as Zarr hierarchies, conversions, references, and the command line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr

import zarr_gpu
from zarr_gpu.checkpoint import arrays, load_file, safe_open, save_file
from zarr_gpu.checkpoint.arrays import choose, layout
from zarr_gpu.checkpoint.convert import convert, load_tensors, references
from zarr_gpu.checkpoint.saving import source
from zarr_gpu.cli.main import main
from zarr_gpu.errors import CheckpointError, ChunkError, MetadataError, UnsupportedError


def weights(shape, dtype=ml_dtypes.bfloat16, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(dtype)


@pytest.fixture
def tensors():
    return {
        "embed.weight": weights((700, 64)),
        "layer/0": weights((300, 50), "f4"),
        "ids": np.arange(9),
        "scalar": np.float64(2.5),
        "empty": np.zeros((0, 3), "f2"),
        "flags": np.array([True, False]),
        "complex": np.array([1 + 2j, 3]),
        "fp8": weights((40, 40), ml_dtypes.float8_e4m3fn),
    }


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        assert found[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("compression", ["auto", "zstd", "none"])
def test_hierarchies_come_back(tmp_path, tensors, compression, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_NBYTES", 5000)
    monkeypatch.setattr(arrays, "SHARD_NBYTES", 30_000)
    path = tmp_path / "model.zarr"
    save_file(tensors, path, {"format": "pt"}, compression=compression, link=1.0)
    same(load_file(path, framework="np"), tensors)
    with safe_open(path, "np") as file:
        assert file.metadata()["format"] == "pt"
        assert len(file) == len(tensors)
        values = tensors["embed.weight"]
        assert (
            file.get_slice("embed.weight")[100:500, 3:40].tobytes()
            == values[100:500, 3:40].tobytes()
        )
        assert file.offset_keys() == file.keys()
    theirs = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(theirs["layer%2F0"][5:9], tensors["layer/0"][5:9])
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "embed.weight")}}
    array = tensorstore.open(spec).result()
    assert array.read().result().tobytes() == values.tobytes()


def test_hierarchies_of_types_that_all_know_are_consolidated(tmp_path):
    for name, dtype in (("plain", "f4"), ("ml", ml_dtypes.bfloat16)):
        save_file({"w": weights((4, 4), dtype)}, tmp_path / name, compression="none")
        document = json.loads((tmp_path / name / "zarr.json").read_text())
        assert ("consolidated_metadata" in document) == (name == "plain")


def test_a_hierarchy_of_many_small_tensors_may_be_one_file(tmp_path):
    tensors = {f"layer.{i}": np.arange(i, i + 60.0, dtype="f4").reshape(6, 10) for i in range(50)}
    path = tmp_path / "m.zarr.zip"
    save_file(tensors, path, compression="zstd")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    found = load_file(path, framework="np", verify="full")
    with safe_open(path, "np") as file:
        part = file.get_slice("layer.7")[2:4, 1:]
    with zarr.storage.ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        for name, values in tensors.items():
            assert np.array_equal(found[name], values)
            assert np.array_equal(group[name][...], values)
    assert np.array_equal(part, tensors["layer.7"][2:4, 1:])


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("checksum", [True, False])
def test_checksums_of_hierarchies_are_a_choice(tmp_path, compression, checksum):
    path = tmp_path / "m.zarr"
    save_file({"w": weights((4, 4), "f4")}, path, compression=compression, checksum=checksum)
    codecs = [codec["name"] for codec in json.loads((path / "w/zarr.json").read_text())["codecs"]]
    assert ("crc32c" in codecs) == checksum
    assert ("blosc" in codecs) == (compression == "zstd")


def test_a_damaged_chunk_of_a_hierarchy_is_found(tmp_path):
    save_file({"w": weights((64, 64))}, tmp_path / "m.zarr", compression="zstd")
    chunk = tmp_path / "m.zarr/w/c/0/0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ChunkError, match="w/c/0/0"):
        load_file(tmp_path / "m.zarr", framework="np")


def test_weights_shrink_as_far_as_their_exponents_allow(tmp_path):
    """The blocks are so large that the bytes with the exponents have blocks of their own."""
    values = weights((1024, 2048))
    save_file({"w": values}, tmp_path / "m.zarr", compression="zstd")
    stored = sum(p.stat().st_size for p in (tmp_path / "m.zarr/w/c").rglob("*") if p.is_file())
    assert values.nbytes / stored > 1.43


def test_auto_decides_by_the_link():
    rows = [source("w", weights((1024, 1024)))]
    slow, fast = choose(rows, 1e6), choose(rows, 1e12)
    assert slow.compress
    assert "faster than the link's" in slow.reason
    assert not fast.compress
    assert "slower than the link's" in fast.reason
    random = choose([source("w", np.random.default_rng(0).integers(0, 256, 10**6, "u1"))], 1e6)
    assert not random.compress
    assert "too little" in random.reason
    assert not choose([], 1e6).compress


def test_what_hierarchies_cannot_hold(tmp_path):
    with pytest.raises(UnsupportedError, match="'a'"):
        save_file(
            {"a": np.zeros(4, ml_dtypes.float4_e2m1fn)}, tmp_path / "m.zarr", compression="zstd"
        )
    with pytest.raises(ValueError, match="compression"):
        save_file({"a": np.zeros(4)}, tmp_path / "m.zarr", compression="lz77")
    zarr_gpu.save_array(tmp_path / "t.zarr/a", np.array(["x", "y"]))
    zarr_gpu.open_group(tmp_path / "t.zarr")
    with pytest.raises(MetadataError, match="'a'"):
        load_file(tmp_path / "t.zarr", framework="np")


def test_chunks_and_shards_of_large_tensors():
    assert layout((), 4) == ((), None)
    assert layout((10, 0), 4) == ((10, 1), None)
    assert layout((1000, 1000), 4) == ((1000, 1000), None)
    chunks, shards = layout((32000, 4096), 2)
    assert chunks == (512, 4096)
    assert shards[0] % chunks[0] == 0
    assert shards[0] * shards[1] * 2 <= arrays.SHARD_NBYTES
    chunks, shards = layout((3, 10**8), 4)
    assert chunks == (1, 1 << 20)
    assert all(s % c == 0 for s, c in zip(shards, chunks, strict=True))


def test_references_open_in_zarr_python(tmp_path):
    tensors = {"w": weights((30, 40), "f4"), "a/b": np.arange(7, dtype="i2"), "s": np.float64(2)}
    save_file(tensors, tmp_path / "m.safetensors")
    document = references(tmp_path / "m.safetensors")
    from fsspec.implementations.reference import ReferenceFileSystem

    files = ReferenceFileSystem(document, asynchronous=True)
    group = zarr.open_group(zarr.storage.FsspecStore(files, read_only=True), mode="r")
    np.testing.assert_array_equal(group["w"][3:9, 2:5], tensors["w"][3:9, 2:5])
    np.testing.assert_array_equal(group["a%2Fb"][...], tensors["a/b"])
    assert group["s"][()] == 2
    assert sorted(group.array_keys()) == ["a%2Fb", "s", "w"]
    save_file(tensors, tmp_path / "m.zarr", compression="none")
    with pytest.raises(CheckpointError, match="already"):
        references(tmp_path / "m.zarr")


def test_conversions_there_and_back(tmp_path, tensors):
    first = tmp_path / "a.safetensors"
    save_file(tensors, first, {"k": "v"})
    for target in ("b.zarr", "c.safetensors", "d.zarr", "e.safetensors", "f"):
        assert convert(first, tmp_path / target) == len(tensors)
        same(load_tensors(tmp_path / target, "np")[0], tensors)
        assert load_tensors(tmp_path / target, "np")[1]["k"] == "v"
        first = tmp_path / target
    for name in ("c", "e"):
        there_and_back = (tmp_path / f"{name}.safetensors").read_bytes()
        assert there_and_back == (tmp_path / "a.safetensors").read_bytes()
    plain = {n: t for n, t in tensors.items() if n in ("ids", "empty", "flags", "complex")}
    save_file(plain, tmp_path / "p.safetensors")
    convert(tmp_path / "p.safetensors", tmp_path / "p.npz")
    same(load_tensors(tmp_path / "p.npz", "np")[0], plain)
    with pytest.raises(ValueError, match="compression is for"):
        convert(first, tmp_path / "x.safetensors", compression="zstd")


def test_files_of_torch_are_read_as_weights_only(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "steps": [torch.ones(2)], "n": 3}
    torch.save(state, tmp_path / "m.pt")
    tensors, _ = load_tensors(tmp_path / "m.pt")
    assert sorted(tensors) == ["model.w", "steps.0"]
    convert(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert load_file(tmp_path / "m.safetensors")["model.w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    convert(tmp_path / "m.safetensors", tmp_path / "again.pt")
    assert torch.load(tmp_path / "again.pt", weights_only=True)["steps.0"].tolist() == [1, 1]
    torch.save({"w": torch.ones(2), "bad": Path("x")}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="more than weights"):
        load_tensors(tmp_path / "bad.pt")
    torch.save({"n": 3}, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no tensors"):
        load_tensors(tmp_path / "none.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert sorted(load_tensors(tmp_path / "old.pt")[0]) == ["model.w", "steps.0"]
    assert zipfile.is_zipfile(tmp_path / "m.pt")


def command(capsys, *arguments):
    status = main(["ckpt", *map(str, arguments)])
    return status, capsys.readouterr()


def test_command_info(tmp_path, tensors, capsys):
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, {"format": "pt"})
    status, text = command(capsys, "info", path, "--histogram", tmp_path / "h.png")
    assert status == 0
    assert "8 tensors" in text.out
    assert "bfloat16" in text.out
    assert "embed.weight" in text.out
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    status, text = command(capsys, "info", path, "--json")
    document = json.loads(text.out)
    assert document["tensors"] == 8
    assert document["checksums"] is True
    assert sum(row["nbytes"] for row in document["all"]) == document["nbytes"]
    save_file(tensors, tmp_path / "m.zarr", compression="zstd")
    assert "8 tensors" in command(capsys, "info", tmp_path / "m.zarr", "--all")[1].out


def test_command_verify(tmp_path, tensors, capsys):
    path = tmp_path / "m.safetensors"
    save_file(tensors, path)
    assert command(capsys, "verify", path)[0] == 0
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    status, text = command(capsys, "verify", path, "--json")
    assert status == 1
    (problem,) = json.loads(text.out)["problems"]
    assert problem["tensor"] in problem["error"]
    path.write_bytes(data[:-1])
    status, text = command(capsys, "verify", path)
    assert status == 4
    assert text.err.startswith("zarr-gpu: m.safetensors")
    assert command(capsys, "verify", tmp_path / "nothing.safetensors")[0] == 3


def test_command_diff(tmp_path, tensors, capsys):
    save_file(tensors, tmp_path / "a.safetensors")
    save_file(tensors, tmp_path / "b.zarr", compression="none")
    assert command(capsys, "diff", tmp_path / "a.safetensors", tmp_path / "b.zarr")[0] == 0
    other = {**tensors, "new": np.ones(1), "flags": np.zeros(3, bool)}
    other["ids"] = tensors["ids"].copy()
    other["ids"][-1] += 2
    del other["scalar"]
    save_file(other, tmp_path / "c.safetensors")
    status, text = command(
        capsys, "diff", tmp_path / "a.safetensors", tmp_path / "c.safetensors", "--json"
    )
    assert status == 1
    found = json.loads(text.out)
    assert found["only_first"] == ["scalar"]
    assert found["only_second"] == ["new"]
    assert found["differ"]["ids"] == {"changed": 1, "of": 9, "largest": 2.0}
    assert "bool[2] and bool[3]" in found["differ"]["flags"]["what"]
    assert found["equal"] == 5


def test_commands_convert_index_and_slice(tmp_path, tensors, capsys):
    path = tmp_path / "m.safetensors"
    save_file(tensors, path)
    assert command(capsys, "convert", path, tmp_path / "m.zarr", "--compression", "zstd")[0] == 0
    same(load_file(tmp_path / "m.zarr", framework="np"), tensors)
    assert command(capsys, "index", path)[0] == 0
    assert (
        "embed.weight/zarr.json"
        in json.loads((tmp_path / "m.safetensors.refs.json").read_text())["refs"]
    )
    status, text = command(capsys, "slice", path, "ids", "2:5", "--json")
    assert json.loads(text.out)["values"] == [2, 3, 4]
    assert command(capsys, "slice", path, "layer/0", ":,7", "--out", tmp_path / "x.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), tensors["layer/0"][:, 7])
    status, text = command(capsys, "slice", path, "nothing")
    assert status == 3
    assert "no tensor 'nothing'" in text.err
    assert command(capsys, "slice", path, "ids", "a:b")[0] == 2


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_directories_of_arrays_are_read_as_orbax_writes_them(tmp_path, zarr_format):
    """No document for the group (``use_ocdbt=False``; looked at with orbax-checkpoint 0.12.8)."""
    tensors = {"params.w": weights((6, 4)), "step": np.int32(5)}
    for name, values in tensors.items():
        zarr_gpu.create_array(tmp_path / name, data=np.asarray(values), zarr_format=zarr_format)
    (tmp_path / "_METADATA").write_text("{}")
    (tmp_path / "array_metadatas").mkdir()
    same(load_file(tmp_path, framework="np"), tensors)
    with safe_open(tmp_path, "np") as file, pytest.raises(CheckpointError, match="no group"):
        file.group()
