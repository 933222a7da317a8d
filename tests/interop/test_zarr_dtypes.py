"""Types of ml_dtypes in zarr-python, found by their entry points."""

import re
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

import ml_dtypes
import numpy as np
import pytest
import zarr

import zarr_gpu
from tests.interop.plugin import DEFAULT, OURS
from zarr_gpu.checkpoint import load_file, save_file

NAMES = sorted(point.name for point in entry_points(group="zarr.data_type"))
NEW = tuple(map(int, zarr.__version__.split(".")[:3])) >= (3, 4, 1)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not NEW, reason="zarr-python looks for data types from 3.4.1 on"),
    pytest.mark.filterwarnings("ignore"),
]
ON = {"default": DEFAULT, "ours": OURS}


def values(name, n=64):
    bits = np.random.default_rng(len(name)).integers(0, 256, n * 2).astype("u1")
    dtype = np.dtype(getattr(ml_dtypes, name))
    if dtype.itemsize == 1:
        width = int(re.search(r"\d+", name)[0])
        bits = bits[:n] & ((1 << width) - 1)
    return bits.view(dtype)


@pytest.mark.parametrize("pipeline", ON)
@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_either_are_read_by_the_other(tmp_path, name, pipeline):
    expected = values(name)
    with zarr.config.set(ON[pipeline]):
        theirs = zarr.create_array(
            tmp_path / "a", shape=64, chunks=9, dtype=expected.dtype, fill_value=expected[0]
        )
        theirs[:] = expected
        theirs[3:6] = expected[0]
    expected[3:6] = expected[0]
    mine = zarr_gpu.open_array(tmp_path / "a", mode="r")
    assert mine.dtype == expected.dtype
    assert np.asarray(mine.fill_value).tobytes() == expected[0].tobytes()
    assert mine[...].tobytes() == expected.tobytes()
    zarr_gpu.create_array(tmp_path / "b", data=expected, chunks=9, fill_value=expected[1])
    with zarr.config.set(ON[pipeline]):
        found = zarr.open_array(tmp_path / "b", mode="r")
        assert found.dtype == expected.dtype
        assert found[...].tobytes() == expected.tobytes()
        assert np.asarray(found.fill_value).tobytes() == expected[1].tobytes()


def test_compressed_checkpoints_open(tmp_path):
    weights = values("bfloat16", 600).reshape(20, 30)
    save_file({"w": weights, "n": np.ones(3, "f4")}, tmp_path / "m.zarr", compression="zstd")
    group = zarr.open_group(tmp_path / "m.zarr", mode="r")
    assert sorted(group.array_keys()) == ["n", "w"]
    assert group["w"][...].tobytes() == weights.tobytes()
    assert load_file(tmp_path / "m.zarr", framework="np")["w"].tobytes() == weights.tobytes()


def test_a_package_that_is_installed_imports_nothing_of_it():
    """zarr-python loads the classes when it looks types up; ml_dtypes is for arrays of them."""
    program = textwrap.dedent(
        """
        import sys
        sys.modules["cupy"] = None  # which zarr-python imports, and which imports ml_dtypes
        import zarr
        zarr.create_array({}, shape=4, dtype="f4")[:] = 1
        assert "ml_dtypes" not in sys.modules
        assert "zarr_gpu.array" not in sys.modules
        """
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
