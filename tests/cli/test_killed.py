"""Commands that write, killed at random times and run again: the result is the same, bit for bit.

Until then the target cannot be opened, by nobody.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

import zarr_gpu
from zarr_gpu.errors import NodeNotFoundError
from zarr_gpu.tools.journal import DIRECTORY

ROOT = Path(__file__).parents[2]
SHAPE = (120, 40, 50)
COMMANDS = {
    "rechunk": ["--chunks", "120,5,5", "--memory", "1MB"],
    "rechunk through an intermediate array": ["--chunks", "120,5,5", "--memory", "250kB"],
    "convert": ["--format", "2", "--chunks", "7,7,50", "--compressor", "gzip"],
    "convert to shards": ["--chunks", "4,10,10", "--shards", "8,40,50"],
    "copy": [],
}


@pytest.fixture
def source(tmp_path):
    values = np.random.default_rng(0).integers(0, 50, SHAPE, np.int16)
    root = zarr_gpu.open_group(tmp_path / "source.zarr", mode="w")
    root.attrs["site"] = "x"
    root.create_array("values", data=values, chunks=(1, 20, 50), attributes={"units": "m"})
    root.create_array("more", data=values[:30], chunks=(1, 20, 50))
    return values


def start(command, directory):
    """The command in a process that is slow, and writes down what is done after every block."""
    code = (
        "import sys, time, zarr_gpu.tools.journal as journal\n"
        "from zarr_gpu.cli.main import command\n"
        "from zarr_gpu.stores.local import LocalStore\n"
        "import zarr_gpu.tools.converting, zarr_gpu.tools.copying, zarr_gpu.codecs.gzip\n"
        "journal.SAVE_SECONDS = 0\n"
        "publish = LocalStore._publish\n"
        "def slowly(*args):\n"
        "    time.sleep(0.003)\n"
        "    return publish(*args)\n"
        "LocalStore._publish = slowly\n"
        "print('ready', flush=True)\n"
        "command()"
    )
    argv = [sys.executable, "-c", code, command.split()[0], "source.zarr", "target.zarr"]
    return subprocess.Popen(
        [*argv, *COMMANDS[command]],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )


def kill(command, directory, number, rng):
    """Exit status of a run that got a signal some time after it began to write."""
    with start(command, directory) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.05, 0.5))
        process.send_signal(number)
        _, err = process.communicate()
    return process.returncode, err


def check(directory, values):
    root = zarr.open_group(directory / "target.zarr", mode="r")
    np.testing.assert_array_equal(root["values"][...], values)
    np.testing.assert_array_equal(root["more"][...], values[:30])
    assert root.attrs["site"] == "x"
    assert root["values"].attrs["units"] == "m"
    left = [p for p in (directory / "target.zarr").rglob("*") if DIRECTORY in p.parts]
    assert not left


def kill_and_finish(command, directory, values, kills, seed):
    rng = random.Random(seed)
    target = directory / "target.zarr"
    kept = 0
    for i in range(kills):
        number = signal.SIGINT if i % 3 == 2 else signal.SIGKILL
        status, err = kill(command, directory, number, rng)
        if status in (0, 5):
            break
        assert "Traceback" not in err
        whole = any((target / name).exists() for name in ("zarr.json", ".zgroup"))  # formats 3, 2
        if status == -2:  # done, and Python had given the signal back to the system
            assert whole
        else:
            assert status == (130 if number == signal.SIGINT else -9), err
        if whole:  # that is the last but for tidying up
            np.testing.assert_array_equal(zarr.open_group(target)["values"][...], values)
            continue
        if target.exists():
            kept += 1
        with pytest.raises(NodeNotFoundError):
            zarr_gpu.open(target, mode="r")
        with pytest.raises(FileNotFoundError):
            zarr.open_group(target, mode="r")
    with start(command, directory) as process:
        _, err = process.communicate()
    assert process.returncode in (0, 5), err  # 5: it was finished before
    check(directory, values)
    return kept


@pytest.mark.parametrize("command", ["rechunk through an intermediate array", "convert", "copy"])
def test_killed_and_run_again(command, source, tmp_path):
    assert kill_and_finish(command, tmp_path, source, 3, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("seed", range(10))
def test_killed_many_times_and_run_again(command, seed, source, tmp_path):
    kill_and_finish(command, tmp_path, source, 12, seed=seed)


def test_other_arguments_are_refused_until_overwritten(source, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    while not (tmp_path / "target.zarr").exists():
        kill("rechunk", tmp_path, signal.SIGKILL, rng)
    other = ("rechunk", "source.zarr", "target.zarr", "--chunks", "120,1,50")
    status, _, err = run(*other)
    assert status == 5
    assert "--overwrite" in err
    status, _, err = run("info", "target.zarr")
    assert status == 5
    assert "unfinished (rechunk" in err
    assert run(*other, "--overwrite")[0] == 0
    check(tmp_path, source)


def test_a_finished_target_is_refused(source, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("copy", "source.zarr", "target.zarr", "--json")
    assert run(*command)[0] == 0
    status, _, err = run(*command)
    assert status == 5
    assert err.count("\n") == 1


def test_an_interrupted_zip_file_does_not_appear(source, tmp_path):
    argv = [sys.executable, "-m", "zarr_gpu", "copy", "source.zarr", "target.zip"]
    with subprocess.Popen(argv, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as process:
        while process.poll() is None and not (tmp_path / "target.zip.unfinished").exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    assert [p.name for p in tmp_path.iterdir()] == ["source.zarr"]
