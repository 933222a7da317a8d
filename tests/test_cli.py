"""The command ``zarr-gpu``."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

import zarr_gpu.cli.device as command
from zarr_gpu.cli import main as cli
from zarr_gpu.device import detect
from zarr_gpu.device.detect import Device, DeviceInfo, Feature
from zarr_gpu.errors import StoreError

CARD = DeviceInfo(
    reason=None,
    devices=(Device("NVIDIA P100", (6, 0), 16 << 30), Device("NVIDIA H200", (9, 0), 140 << 30)),
    versions={"cupy": "14.2.0"},
    nvrtc=Feature(True),
    nvcomp=Feature(True),
    kvikio=Feature(False, "no kvikio"),
    gds=Feature(False, "no kvikio"),
)
NO_CARD = DeviceInfo(reason="there is no NVIDIA driver")
COMMANDS = (
    "info tree ls cat dump plot copy convert rechunk consolidate verify migrate remove-metadata "
    "bench ckpt device completion"
).split()
RATES = {
    "host_to_device": 55e9,
    "device_to_device": 2.1e12,
    "page_cache_to_pinned": 8.04e9,
    "threads": 4,
    "nbytes": 1,
}


@pytest.fixture
def card(monkeypatch):
    probed = []
    monkeypatch.setattr(detect, "device_info", lambda: CARD)
    monkeypatch.setattr(command, "probe", lambda index: probed.append(index) or RATES)
    return probed


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(detect, "device_info", lambda: NO_CARD)
    monkeypatch.setattr(command, "probe", None)


def test_device_on_a_card(card, capsys):
    assert cli.main(["device"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(str(CARD) + "\n")
    assert "pinned memory to device 55.0 GB/s" in out
    assert "inside the device 2100.0 GB/s" in out
    assert "page cache to pinned memory 8.0 GB/s" in out
    assert card == [1]  # the first device that can be used


def test_device_without_probe(card, capsys):
    assert cli.main(["device", "--no-probe"]) == 0
    assert "GB/s" not in capsys.readouterr().out
    assert card == []


def test_device_as_json(card, capsys):
    assert cli.main(["device", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reason"] is None
    assert found["devices"][1] == {
        "name": "NVIDIA H200",
        "capability": [9, 0],
        "total_nbytes": 140 << 30,
    }
    assert found["kvikio"] == {"works": False, "reason": "no kvikio"}
    assert found["bandwidth"] == RATES
    assert "numcodecs" in found["packages"]


@pytest.mark.parametrize("options", [[], ["--probe"], ["--no-probe"]])
def test_device_without_a_card(no_card, capsys, options):
    assert cli.main(["device", *options]) == 1
    out = capsys.readouterr().out
    assert "there is no NVIDIA driver" in out
    assert "numcodecs" in out


def test_device_without_a_card_as_json(no_card, capsys):
    assert cli.main(["device", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["reason"] == "there is no NVIDIA driver"
    assert found["devices"] == []
    assert found["bandwidth"] is None


def test_probe_that_fails_does_not_fail_the_command(card, capsys, monkeypatch):
    monkeypatch.setattr(command, "probe", lambda index: {"error": "stopped after 60 seconds"})
    assert cli.main(["device"]) == 0
    assert "not measured: stopped after 60 seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    "outcome, expected",
    [
        ((0, json.dumps(RATES), ""), RATES),
        ((1, "", "Traceback\nOutOfMemory: 1 byte\n"), {"error": "OutOfMemory: 1 byte"}),
        ((-11, "", ""), {"error": "no message"}),
        (None, {"error": "stopped after 60 seconds"}),
    ],
)
def test_probe_runs_in_a_process_of_its_own(outcome, expected, monkeypatch):
    def run(argv, *, timeout, **options):
        assert argv == [sys.executable, "-m", "zarr_gpu.device.probe", "1", "5.0"]
        if outcome is None:
            raise subprocess.TimeoutExpired(argv, timeout)
        return SimpleNamespace(
            **dict(zip(("returncode", "stdout", "stderr"), outcome, strict=True))
        )

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.probe(1) == expected


def test_errors_of_the_package_are_one_line(monkeypatch, capsys):
    def run(args):
        raise StoreError("no such store")

    monkeypatch.setattr(command, "run", run)
    assert cli.main(["device"]) == 4
    captured = capsys.readouterr()
    assert captured.err == "zarr-gpu: no such store\n"
    assert captured.out == ""


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["device", "--nonsense"]])
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(argv)
    assert leaving.value.code == 2
    assert "usage: zarr-gpu" in capsys.readouterr().err


def test_every_command_is_in_the_help(capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--help"])
    assert leaving.value.code == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s", out, re.MULTILINE)


def run_module(*argv, **options):
    command = [sys.executable, "-m", "zarr_gpu", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_as_a_module():
    done = run_module("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("zarr-gpu ")
    assert done.stderr == ""


def test_environment_keeps_the_command_from_the_device(monkeypatch):
    monkeypatch.setenv("ZARR_GPU_DEVICE", "cpu")
    done = run_module("device")
    assert done.returncode == 1
    assert 'ZARR_GPU_DEVICE is "cpu"' in done.stdout
    assert done.stderr == ""


def test_reader_that_closes_early(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # so that the output waits for its flush
    code = (
        "import os, sys, zarr_gpu.cli.main as cli\n"
        "read, write = os.pipe(); os.dup2(write, 1); os.close(write); os.close(read)\n"
        "sys.exit(cli.main(['device', '--no-probe']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 141
    assert done.stderr == ""
