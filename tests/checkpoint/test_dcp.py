"""torch.distributed.checkpoint on real gloo groups: any number of ranks, sharded along any axis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.checkpoint import load, safe_open

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

RANKS = Path(__file__).with_name("ranks.py")


def run(actions, ranks, tmp_path, *, dies=False):
    store = tmp_path / uuid.uuid4().hex
    text = ",".join(f"{action}={folder}" for action, folder in actions)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, RANKS, text, str(rank), str(ranks), store],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    if dies:
        assert started[1].wait(timeout=200) == -9
    for process in started:
        if dies:
            process.kill()
        output, _ = process.communicate(timeout=200)
        assert dies or process.returncode == 0, output


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_ranks_save_and_any_other_ranks_load(tmp_path):
    """Starting ranks takes seconds, so each of three groups does several things."""
    rows, columns = tmp_path / "rows", tmp_path / "columns"
    run([("save-0", rows)], 4, tmp_path)
    names = sorted(path.name for path in rows.iterdir())
    assert len(names) == 5  # one of each rank, and the manifest
    assert not any(path.read_bytes().startswith(b"\x80") for path in rows.iterdir())  # no pickle
    run(
        [("load-1", rows), ("verify-0", rows), ("async-1", columns), ("load-0", columns),
         ("load-replicate", columns), ("save-replicate", columns), ("load-1", columns)],
        2, tmp_path,
    )  # fmt: skip
    assert len(list(columns.iterdir())) == 3  # files of the checkpoint before are gone

    state = load(rows, framework="np", verify="full")
    even = np.arange(4, 132).reshape(16, 8)
    np.testing.assert_array_equal(state["model.even"], even)
    assert state["optimizer.lr"] == 0.25
    assert json.loads((rows / "checkpoint.json").read_text())["values"]["optimizer.name"] == "adam"
    with safe_open(rows, "np") as file:
        uneven = np.arange(6, 41).reshape(7, 5)
        np.testing.assert_array_equal(file.get_slice("model.uneven")[1:6, 2:4], uneven[1:6, 2:4])
    group = zarr_gpu.open_group(rows, mode="r")
    np.testing.assert_array_equal(group["model.uneven"][2:6, 1:4], uneven[2:6, 1:4])
    assert group["model.even"].shape == (16, 8)

    import torch.distributed.checkpoint as dcp

    from zarr_gpu.checkpoint.dcp import ZarrReader

    template = {"model": {"even": torch.zeros(16, 8)}}
    dcp.load(template, storage_reader=ZarrReader(rows), no_dist=True)
    np.testing.assert_array_equal(template["model"]["even"].numpy(), even)

    run([("die-0", rows)], 2, tmp_path, dies=True)
    np.testing.assert_array_equal(load(rows, framework="np")["model.even"], even)
