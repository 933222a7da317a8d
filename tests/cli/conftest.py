"""Hierarchies that the examples in the help texts name, and the command itself."""

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.cli.main import main


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """``survey.zarr`` in the working directory, as in the README and the help texts."""
    monkeypatch.chdir(tmp_path)
    root = zarr_gpu.open_group("survey.zarr", mode="w")
    root.attrs["site"] = "Jacksboro"
    depth = root.create_array(
        "depth",
        shape=(60, 40),
        chunks=(20, 20),
        dtype="i2",
        fill_value=-1,
        dimension_names=("time", "x"),
        attributes={"units": "m"},
    )
    depth[:40] = np.arange(1600).reshape(40, 40)
    sub = root.create_group("raw")
    sub.create_array("flags", data=np.arange(10) % 3 == 0)
    return root


@pytest.fixture
def run(capsys):
    """Runs a command line; gives exit status, stdout and stderr."""

    def call(*argv):
        try:
            status = main([str(a) for a in argv])
        except SystemExit as leaving:
            status = leaving.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
