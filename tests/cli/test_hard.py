"""Commands where things go wrong: full disks, servers that list nothing, damaged files, Ctrl-C."""

import errno
import http.server
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.cli import values
from zarr_gpu.errors import StoreError
from zarr_gpu.stores.publishing import appearing

ROOT = Path(__file__).parents[2]
NOISE = np.random.default_rng(0).normal(size=(100, 1000))


@pytest.fixture
def noise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zarr_gpu.create_array("noise.zarr", data=NOISE, chunks=(10, 100))


def limited(*argv):
    """A command that may not write files of more than 200 kB."""
    return subprocess.run(
        [sys.executable, "-m", "zarr_gpu", *argv], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""}, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )  # fmt: skip


@pytest.mark.parametrize("target", ["a.npy", "a.npz", "a.h5", "a.safetensors", "a.zip"])
def test_a_file_that_cannot_be_written_is_not_there(noise, target, tmp_path):
    done = limited("convert", "noise.zarr", target, "-q")
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["noise.zarr"]


def test_cat_into_a_file_that_cannot_be_written(noise, tmp_path):
    (tmp_path / "a.csv").write_text("old")
    assert limited("cat", "noise.zarr", "-o", "a.csv").returncode == 4
    assert (tmp_path / "a.csv").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "noise.zarr"]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files, and no listings."""

    def list_directory(self, path):
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def url(tmp_path):
    def handler(*args):
        return Handler(*args, directory=tmp_path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_lists_nothing(survey, run, url, tmp_path):
    """What it does not list is not taken for missing."""
    for command in ("ls", "tree", "verify"):
        status, _, err = run(command, f"{url}/survey.zarr")
        assert (status, "cannot list" in err) == (2, True), command
    for command in ("copy", "convert"):
        assert run(command, f"{url}/survey.zarr", "group.zarr")[0] == 2
    assert run("copy", f"{url}/survey.zarr/depth", "copy.zarr")[0] == 2
    for target, more in [("same.zarr", []), ("v2.zarr", ["--format", "2"]), ("a.npy", [])]:
        assert run("convert", f"{url}/survey.zarr/depth", target, *more)[0] == 0
    assert run("rechunk", f"{url}/survey.zarr/depth", "tall.zarr", "--chunks", "60,5")[0] == 0
    expected = np.asarray(survey["depth"])
    for name in ("same.zarr", "v2.zarr", "tall.zarr"):
        np.testing.assert_array_equal(zarr_gpu.open(name)[...], expected)
    np.testing.assert_array_equal(np.load("a.npy"), expected)
    (tmp_path / "survey.zarr/depth/c/0/1").write_bytes(b"rubbish")
    status, out, _ = run("verify", f"{url}/survey.zarr/depth", "--json")
    assert (status, [p["key"] for p in json.loads(out)["problems"]]) == (1, ["c/0/1"])


def test_damaged_files_are_errors_of_one_line(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", NOISE)
    np.savez("a.npz", x=NOISE)
    np.savez_compressed("b.npz", x=NOISE)
    with h5py.File("a.h5", "w") as file:
        file["x"] = NOISE
    for name in ("a.npy", "a.npz", "b.npz", "a.h5"):
        whole = Path(name).read_bytes()
        for data in (whole[:5000], whole[:20], b"", whole[:3000] + b"?" + whole[3001:]):
            if data[3000:3001] == b"?" and name in ("a.npy", "a.h5"):
                continue  # these have no checksums
            Path(name).write_bytes(data)
            status, _, err = run("convert", name, "target.zarr", "-q")
            assert (status, err.count("\n")) == (4, 1), (name, len(data), err)
            assert not Path("target.zarr").exists()


def test_what_a_file_holds_beside_arrays_is_said(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["x"] = np.arange(3)
        file["same"] = file["x"]
        file["soft"] = h5py.SoftLink("/x")
        file["out"] = h5py.ExternalLink("b.h5", "/y")
        file.create_group("g")["again"] = file["/"]
        file.attrs["texts"] = ["a", "b"]
        file.attrs["ref"] = file["x"].ref
    status, _, err = run("convert", "a.h5", "a.zarr")
    assert status == 0
    for what in ("soft: a link to /x", "out: a link to b.h5", "g/again: a group that", "'ref'"):
        assert what in err
    root = zarr_gpu.open_group("a.zarr", mode="r")
    assert root["same"][...].tolist() == root["x"][...].tolist() == [0, 1, 2]
    assert run("convert", "a.zarr", "b.h5")[0] == 0
    with h5py.File("b.h5") as file:
        assert file.attrs["texts"].tolist() == ["a", "b"]
    with zipfile.ZipFile("odd.npz", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "readme.txt: no array" in run("convert", "odd.npz", "odd.zarr")[2]
    np.savez("names.npz", **{"a": NOISE[0], "a/b": NOISE[1]})
    assert run("convert", "names.npz", "names.zarr")[0] == 2
    np.savez("names.npz", **{"zarr.json": NOISE[0], "__x": NOISE[0]})
    assert run("convert", "names.npz", "names.zarr")[0] == 2


def test_what_a_file_is_not_for(survey, run, tmp_path):
    np.save("a.npy", NOISE)
    depth = "survey.zarr/depth"
    for command in (
        ["convert", "a.npy", "b.npz"],
        ["rechunk", depth, "b.npy", "--chunks", "3,3"],
        ["convert", depth, "b.npy", "--compressor", "gzip"],
        ["convert", depth, "b.h5", "--chunks", "3,3"],
        ["convert", depth, f"{depth}/b.npy"],
        ["copy", depth, f"{depth}/b.zip"],
        ["copy", "survey.zarr", "survey.zarr/b.zip"],
        ["copy", depth, "b.zarr", "--exclude", "("],
    ):
        status, _, err = run(*command)
        assert (status, err.count("\n")) == (2, 1), command
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "survey.zarr"]
    assert not list(tmp_path.rglob("b.*"))
    assert run("convert", depth, "b.npy", "--dry-run")[0] == 0
    assert not Path("b.npy").exists()
    assert "attributes" in run("convert", depth, "b.npy")[2]  # that are left out
    (tmp_path / "link.zarr").symlink_to(tmp_path / "survey.zarr")
    assert run("copy", "survey.zarr", "link.zarr", "--overwrite")[0] == 2
    assert run("verify", "survey.zarr")[0] == 0


def test_two_writers_of_one_file(tmp_path):
    path = str(tmp_path / "a")
    with (
        pytest.raises(StoreError, match="another process"),
        appearing(path, overwrite=False),
        appearing(path, overwrite=False) as unfinished,
    ):
        Path(unfinished).write_text("first or second")
    assert os.listdir(tmp_path) == ["a"]
    assert Path(path).read_text() == "first or second"


def test_huge_selections_are_read_in_pieces(tmp_path, run, monkeypatch):
    """Whatever axis is long."""
    monkeypatch.setattr(values, "PIECE_NBYTES", 1000)
    monkeypatch.setattr(values, "ALIGNED", 0)
    data = np.arange(6000, dtype="i4")
    for shape in [(1, 6000), (6000, 1), (2, 3, 1000), (6000,), (20, 300)]:
        zarr_gpu.create_array(tmp_path / "a", data=data.reshape(shape), overwrite=True)
        array = zarr_gpu.open_array(tmp_path / "a")
        pieces = list(values.Values(array, (...,)).pieces())
        assert max(map(len, pieces)) <= 250
        np.testing.assert_array_equal(np.concatenate(pieces), data)
        assert json.loads(run("cat", tmp_path / "a", "-f", "json")[1]) == (
            data.reshape(shape).tolist()
        )
        csv = run("cat", tmp_path / "a", "-f", "csv")[1].splitlines()
        expected = data.reshape(-1, shape[-1] if len(shape) > 1 else 1)
        assert [[int(n) for n in line.split(",")] for line in csv] == expected.tolist()
        text = run("cat", tmp_path / "a")[1]
        assert json.loads(text.replace(" ", ",").replace("\n,", ",")) if len(shape) == 2 else True
        run("cat", tmp_path / "a", "-o", tmp_path / "a.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), data.reshape(shape))


def test_json_is_json(tmp_path, run):
    """Without the words NaN and Infinity, which only Python takes for JSON."""

    def never(text):
        raise AssertionError(text)

    odd = [np.nan, np.inf, -np.inf, 1]
    zarr_gpu.create_array(tmp_path / "a", data=np.array(odd), attributes={"x": odd})
    for command in (["info", "--json"], ["cat", "-f", "json"]):
        out = run(command[0], tmp_path / "a", *command[1:])[1]
        found = json.loads(out, parse_constant=never)
        found = found["attributes"]["x"] if command[0] == "info" else found
        assert found == ["NaN", "Infinity", "-Infinity", 1]


def test_sparse_arrays_take_the_time_of_what_is_stored(tmp_path, run):
    array = zarr_gpu.create_array(tmp_path / "a", shape=(10**5,) * 3, chunks=(100,) * 3, dtype="f8")
    array[5, 99_999, 12_345] = 3
    assert run("rechunk", tmp_path / "a", tmp_path / "b", "--chunks", "50,200,100")[0] == 0
    target = zarr_gpu.open_array(tmp_path / "b")
    assert target.nchunks_initialized == 1
    assert target[5, 99_999, 12_345] == 3
    assert run("verify", tmp_path / "b")[0] == 0
    assert run("cat", tmp_path / "b", "-s", "5,-1,12345")[1] == "3.0\n"


def test_an_interrupted_command_says_so(noise, tmp_path):
    argv = [sys.executable, "-m", "zarr_gpu", "cat", "noise.zarr", "-f", "csv"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
    ) as process:
        process.stdout.read(100)  # the rest does not fit into the pipe
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert (process.returncode, err) == (130, b"zarr-gpu: interrupted\n")


def test_npy_asks_for_its_place_on_the_disk_first(noise, run, monkeypatch, tmp_path):
    """A mapped file that finds none later ends the process."""

    def full(fd, start, nbytes):
        assert nbytes > NOISE.nbytes
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    status, _, err = run("convert", "noise.zarr", "a.npy", "-q")
    assert (status, "No space left" in err) == (4, True)
    assert os.listdir(tmp_path) == ["noise.zarr"]
