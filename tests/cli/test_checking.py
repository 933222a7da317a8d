"""``verify``, ``migrate`` and ``remove-metadata`` as commands."""

import json
import shutil
import subprocess
import sys

import numpy as np

import zarr_gpu


def test_verify(survey, run, tmp_path):
    status, out, err = run("verify", "survey.zarr")
    assert (status, err) == (0, "")
    assert "2 arrays, 5 stored objects, 2 missing" in out
    assert out.endswith("no problems\n")
    (tmp_path / "survey.zarr/depth/c/0/1").write_bytes(b"rubbish")
    (tmp_path / "survey.zarr/raw/notes").write_text("mine")
    status, out, _ = run("verify", "survey.zarr")
    assert status == 1
    assert "key 'depth/c/0/1'" in out
    assert "stray     raw/notes" in out
    assert out.endswith("1 problem\n")
    status, out, _ = run("verify", "survey.zarr", "--json")
    found = json.loads(out)
    assert (status, found["ok"], found["objects"]) == (1, False, 5)
    assert found["problems"][0]["key"] == "depth/c/0/1"
    assert run("verify", "survey.zarr/raw")[0] == 0
    assert run("verify", "survey.zarr/raw", "--strict")[0] == 1
    assert run("verify", "nothing.zarr")[0] == 3
    assert run("verify", "survey.zarr", "--backend", "cuda:9")[0] == 6


def test_migrate(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zarr_gpu.create_array("old.zarr", data=np.arange(9), chunks=(4,), zarr_format=2)
    shutil.copytree("old.zarr", "theirs.zarr")
    command = [sys.executable, "-c", "from zarr._cli.cli import app; app()", "migrate", "v3"]
    try:
        import typer  # noqa: F401 - zarr-python's command needs it
    except ImportError:
        from zarr.metadata.migrate_v3 import migrate_v2_to_v3
        from zarr.storage import LocalStore

        migrate_v2_to_v3(input_store=LocalStore("theirs.zarr"))
    else:
        subprocess.run([*command, "theirs.zarr"], check=True)
    assert run("migrate", "v3", "old.zarr", "--dry-run")[1] == "zarr.json would be written\n"
    assert not (tmp_path / "old.zarr/zarr.json").exists()
    assert run("migrate", "v3", "old.zarr")[:2] == (0, "zarr.json written\n")
    assert (tmp_path / "old.zarr/zarr.json").read_bytes() == (
        tmp_path / "theirs.zarr/zarr.json"
    ).read_bytes()
    status, _, err = run("migrate", "v3", "old.zarr")
    assert status == 5
    assert "--overwrite" in err
    assert run("remove-metadata", "v2", "old.zarr", "--json")[0] == 0
    assert run("remove-metadata", "v3", "old.zarr")[0] == 4
    assert run("cat", "old.zarr", "-f", "json", "-s", "3:5")[1].split() == ["[3,", "4]"]
    assert run("migrate", "v3", "old.zarr")[0] == 2
