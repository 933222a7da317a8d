"""Commands killed before each change to the file system: nothing half is taken for whole.

Neither by a reader nor by the second run, which leaves what one run would have left.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zarr_gpu

ROOT = Path(__file__).parents[2]
NEW, OLD = "new", "old"
# Commands, and of how many changes one is looked at (0: only by the slow test).
# With --overwrite there is an old target.
COMMANDS = {
    "copy source.zarr target.zarr": 23,
    "copy source.zarr target.zarr --overwrite": 37,
    "convert source.zarr target.zarr --chunks 3,3,3 --format 2": 0,
    "convert source.zarr/more target.zarr --compressor gzip": 11,
    "rechunk source.zarr/values target.zarr --chunks 12,2,2 --memory 800 -q": 97,
    "copy source.zarr target.zip": 2,
    "convert source.zarr target.zip --overwrite --chunks 6,5,4": 0,
    "convert source.zarr/values target.npy": 1,
    "convert source.zarr target.npz --overwrite": 0,
    "convert source.zarr target.h5": 2,
    "convert source.zarr target.nc": 0,
    "convert source.zarr target.safetensors --overwrite": 0,
    "migrate v3 old.zarr": 0,
    "migrate v3 old.zarr --remove-v2-metadata": 1,
    "remove-metadata v2 both.zarr": 3,
    "consolidate old.zarr": 0,
    "consolidate source.zarr": 0,
    "consolidate source.zip": 2,
    "migrate v3 old.zip": 0,
    "ckpt convert a.safetensors target.zarr --overwrite": 29,
    "ckpt convert a.safetensors target.zarr": 0,
    "ckpt convert a.safetensors target.npz --overwrite": 0,
    "ckpt convert a.safetensors target.safetensors --overwrite": 0,
    "ckpt convert a.safetensors target": 5,
    "ckpt index a.safetensors --out target.json": 1,
}
IN_PLACE = ("migrate", "remove-metadata", "consolidate")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    from zarr_gpu.tools.converting import convert
    from zarr_gpu.tools.copying import copy

    path = tmp_path_factory.mktemp("kept")
    values = np.arange(12 * 10 * 8, dtype="i2").reshape(12, 10, 8)
    root = zarr_gpu.open_group(path / "source.zarr", mode="w", attributes={"site": "x"})
    root.create_array("values", data=values, chunks=(4, 5, 8))
    root.create_array("more", data=values[:3], chunks=(1, 10, 8))
    for name in ("old.zarr", "both.zarr"):
        old = zarr_gpu.open_group(path / name, mode="w", zarr_format=2, attributes={"n": 1})
        old.create_array("x/y", data=np.arange(10), chunks=(4,), attributes={"m": 2})
        zarr_gpu.consolidate_metadata(path / name)
    zarr_gpu.migrate(path / "both.zarr")
    copy(path / "source.zarr", path / "source.zip")
    copy(path / "old.zarr", path / "old.zip")
    convert(path / "source.zarr", path / "a.safetensors")
    return path


def killed(command, kept, tmp_path, stride):
    words = command.split()
    target = next(word for word in reversed(words) if not word.startswith("-") and "." in word)
    target = next((word for word in words if word.startswith("target")), target)
    old = tmp_path / "old"
    old.mkdir()
    subprocess.run(["cp", "-r", f"{kept}/.", old], check=True)
    if "--overwrite" in words:
        if target.endswith(".zarr"):
            zarr_gpu.create_array(old / target, data=np.ones(5), chunks=(1,))
        else:
            (old / target).write_bytes(b"old")
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, ROOT / "tests/cli/killing.py", old, target, str(stride), *words],
        cwd=tmp_path / "work",
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == 0
    assert found["rows"]
    for row in found["rows"]:
        assert row["after"] == NEW, row
        assert row["again"] in ((0, 2, 5) if words[0] in IN_PLACE else (0, 5)), row
        assert "Traceback" not in row["said"]
        assert not row["left"], row
        if words[0] in IN_PLACE or target.endswith(".json"):
            continue
        if row["killed"] not in (NEW, OLD):
            # not there, or of no use to anybody; files are never anything else
            if target == "target":  # whole files in a directory, whose manifest comes last
                continue
            assert row["opens"] in (3, 5), row
            assert row["killed"] == "none" or target.endswith(".zarr"), row
    return found["rows"]


@pytest.mark.parametrize("command", [name for name, stride in COMMANDS.items() if stride])
def test_killed_before_some_changes(command, kept, tmp_path):
    killed(command, kept, tmp_path, COMMANDS[command])


@pytest.mark.slow  # make test-slow; a minute or two
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_before_every_change(command, kept, tmp_path):
    assert len(killed(command, kept, tmp_path, 1)) >= 2
