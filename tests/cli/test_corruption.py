"""``verify`` names every kind of damage by its key, and raises no alarm at what others wrote."""

import json
import warnings

import numcodecs
import numpy as np
import pytest
import zarr

import zarr_gpu
from zarr_gpu.tools.verifying import verify

VALUES = np.arange(400, dtype="i4").reshape(20, 20)


def flip(path, at):
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def cut(path, at):
    path.write_bytes(path.read_bytes()[:at])


def add(path, at):
    path.write_bytes(path.read_bytes() + b"more"[:at])


ZSTD = [{"name": "zstd", "configuration": {"level": 3, "checksum": True}}]
BLOSC = [{"name": "blosc", "configuration": {
    "typesize": 4, "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}}]  # fmt: skip
GZIP = [{"name": "gzip", "configuration": {"level": 5}}]
CRC = [{"name": "crc32c"}]
SHARDS = {"shards": (10, 10), "chunks": (5, 5)}
DAMAGE = {
    "crc32c, value": ({"compressors": CRC}, flip, 3, "checksum"),
    "crc32c, sum": ({"compressors": CRC}, flip, -1, "checksum"),
    "crc32c, cut short": ({"compressors": CRC}, cut, -1, None),
    "zstd checksum": ({"compressors": ZSTD}, flip, -1, None),
    "zstd, cut short": ({"compressors": ZSTD}, cut, -5, None),
    "zstd, header": ({"compressors": ZSTD}, flip, 0, None),
    "gzip checksum": ({"compressors": GZIP}, flip, -6, None),
    "blosc, header": ({"compressors": BLOSC}, flip, 0, None),
    "blosc, size": ({"compressors": BLOSC}, flip, 5, None),
    "blosc, cut short": ({"compressors": BLOSC}, cut, -1, None),
    "raw, cut short": ({"compressors": None}, cut, -1, "size"),
    "raw, too long": ({"compressors": None}, add, 1, "size"),
    "empty": ({"compressors": None}, cut, 0, None),
    "shard, sum of the index": (SHARDS, flip, -1, "index"),
    "shard, index": (SHARDS, flip, -20, "index"),
    "shard, cut in the index": (SHARDS, cut, -30, None),
    "shard, cut to nothing": (SHARDS, cut, 0, None),
    "shard, cut in the chunks": (SHARDS, cut, 10, None),
    "shard, inner crc32c": ({**SHARDS, "compressors": CRC}, flip, 2, "checksum"),
    "shard, raw inner chunks": ({**SHARDS, "compressors": None}, flip, -20, "index"),
    "v2 blosc": ({"zarr_format": 2, "compressors": numcodecs.Blosc().get_config()}, flip, 0, None),
    "v2 zstd": ({"zarr_format": 2}, cut, -2, None),
    "v2 fletcher32": (
        {"zarr_format": 2, "compressors": None, "filters": [{"id": "fletcher32"}]},
        flip,
        3,
        None,
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_by_its_key(case, tmp_path):
    layout, change, at, kind = DAMAGE[case]
    root = zarr_gpu.open_group(tmp_path, mode="w", zarr_format=layout.get("zarr_format", 3))
    layout = {"chunks": (10, 10), **{k: v for k, v in layout.items() if k != "zarr_format"}}
    root.create_array("a", data=VALUES, **layout)
    assert verify(tmp_path).ok
    key = "a/1.0" if root.metadata.zarr_format == 2 else "a/c/1/0"
    change(tmp_path / key, at)
    found = verify(tmp_path)
    assert {p.key for p in found.problems} == {key}
    assert {p.array for p in found.problems} == {"a"}
    if kind is not None:
        assert {p.kind for p in found.problems} == {kind}
    assert found.nbytes >= VALUES.nbytes * 3 // 4
    json.dumps(found.to_dict(), allow_nan=False)


def hierarchy(path, zarr_format):
    root = zarr.create_group(path, zarr_format=zarr_format, attributes={"n": 1})
    root.create_array("a", shape=(4,), chunks=(2,), dtype="f4", fill_value=np.nan)[:] = 1
    sub = root.create_group("g/h", attributes={"x": [1, None]})
    sub.create_array("b", shape=(4,), dtype="i4", chunks=(2,))[:] = 3
    return root


DOCUMENT = {2: (".zarray", ".zgroup"), 3: ("zarr.json", "zarr.json")}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("which", ["array", "group", "root"])
@pytest.mark.parametrize("lost", [False, True])
def test_documents_that_are_lost_or_damaged(zarr_format, which, lost, tmp_path, run):
    hierarchy(tmp_path / "h", zarr_format)
    place = {"array": "g/h/b", "group": "g", "root": ""}[which]
    file = tmp_path / "h" / place / DOCUMENT[zarr_format][which != "array"]
    key = file.relative_to(tmp_path / "h").as_posix()
    if lost:
        file.unlink()
        if which == "root":
            assert run("verify", tmp_path / "h")[0] == 3
            return
    else:
        file.write_bytes(file.read_bytes()[:-3])
    status, out, _ = run("verify", tmp_path / "h", "--json")
    found = json.loads(out)
    assert status == 1
    assert [(p["key"], p["kind"]) for p in found["problems"]] == [(key, "metadata")]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_that_are_old(zarr_format, tmp_path):
    root = hierarchy(tmp_path, zarr_format)
    key = ".zmetadata" if zarr_format == 2 else "zarr.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr-python: not in the specification
        zarr.consolidate_metadata(tmp_path, zarr_format=zarr_format)
    assert verify(tmp_path).ok
    root = zarr_gpu.open_group(tmp_path, mode="r+", use_consolidated=False)
    sub = root["g/h"]
    sub["b"].attrs["changed"] = True
    (problem,) = verify(tmp_path).problems
    assert (problem.key, problem.kind) == (key, "metadata")
    assert "'g/h/b'" in problem.message
    zarr_gpu.consolidate_metadata(tmp_path)
    assert verify(tmp_path).ok
    sub.create_array("new", shape=(2,), dtype="i4")
    (problem,) = verify(tmp_path).problems
    assert (problem.key, "'g/h/new' is stored, but not listed" in problem.message) == (key, True)
    zarr_gpu.consolidate_metadata(tmp_path)
    (tmp_path / "a" / DOCUMENT[zarr_format][0]).unlink()
    found = verify(tmp_path)
    assert {p.key for p in found.problems} == {key, f"a/{DOCUMENT[zarr_format][0]}"}
    assert any("'a' is listed, but not stored" in p.message for p in found.problems)


def test_what_others_write_is_no_alarm(tmp_path, run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # types and codecs that zarr-python calls unstable
        for zarr_format in (2, 3):
            root = hierarchy(tmp_path / f"zarr{zarr_format}", zarr_format)
            for number, dtype in enumerate(["f8", ">i2", "M8[s]", "S4", "U3", "c8", "bool", str]):
                values = np.arange(30).astype("U" if dtype is str else dtype)
                array = root.create_array(f"t{number}", shape=(30,), chunks=(7,), dtype=dtype)
                array[:] = values
            root.create_array("empty", shape=(0, 3), dtype="i4")
            root.create_array("scalar", shape=(), dtype="i4")[...] = 3
            if zarr_format == 3:
                root.create_array("s", data=np.arange(64), shards=(16,), chunks=(4,))
            root.create_array("ü with space", data=np.arange(3))
            zarr.consolidate_metadata(tmp_path / f"zarr{zarr_format}")
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        zarr.create_array(store, data=np.arange(10), chunks=(3,))
    tensorstore = pytest.importorskip("tensorstore", reason="TensorStore is not installed")
    for driver, metadata in {
        "zarr": {"chunks": [3, 4], "compressor": {"id": "blosc"}, "filters": None},
        "zarr3": {"codecs": [{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [2, 2], "codecs": [{"name": "bytes"}, {"name": "gzip"}]}}]},
    }.items():  # fmt: skip
        spec = {
            "driver": driver,
            "kvstore": {"driver": "file", "path": str(tmp_path / f"ts-{driver}")},
        }
        grid = {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4]}}}
        metadata = {**metadata, **(grid if driver == "zarr3" else {"dtype": "<i4"})}
        if driver == "zarr3":
            metadata["data_type"] = "int32"
        ts = tensorstore.open({**spec, "metadata": {**metadata, "shape": [10, 10]}}, create=True)
        ts.result()[3:9, :5] = 7
    for name in ("zarr2", "zarr3", "a.zip", "ts-zarr", "ts-zarr3"):
        status, out, err = run("verify", tmp_path / name, "--strict")
        assert (status, err) == (0, ""), (name, out)
        assert out.endswith("no problems\n")
