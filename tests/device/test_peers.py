"""What is written from the device is read by zarr-python and TensorStore."""

import numpy as np
import pytest

import zarr_gpu
from tests.device.test_read import field
from tests.device.test_write import CHAINS

pytestmark = pytest.mark.peer

FOREIGN = {"gdeflate"}  # only the Rust crate zarrs has it
NUMCODECS = {"zlib", "lz4", "shuffle+zlib"}  # TensorStore has no codecs of numcodecs in format 3


@pytest.fixture(params=sorted(CHAINS.keys() - FOREIGN))
def written(request, runtime, tmp_path):
    """An array with edge chunks and an empty chunk, and its data."""
    data = field((37, 20))
    data[:10, :7] = 0
    array = zarr_gpu.create_array(
        tmp_path / "a.zarr", shape=data.shape, dtype=data.dtype, chunks=(5, 7),
        shards=(20, 14) if request.param.startswith(("blosc-zstd", "zstd")) else None,
        compressors=CHAINS[request.param] or None,
    )  # fmt: skip
    device = array.to("cuda")
    device[...] = runtime.array(data)
    assert runtime.counts.launches["all_equal"]
    return request.param, tmp_path / "a.zarr", data


@pytest.mark.filterwarnings("ignore")  # numcodecs' names in format 3
def test_zarr_python_reads_it(written):
    zarr = pytest.importorskip("zarr")
    _, path, data = written
    assert (zarr.open_array(path, mode="r")[...] == data).all()


def test_tensorstore_reads_it(written):
    tensorstore = pytest.importorskip("tensorstore")
    name, path, data = written
    if name in NUMCODECS:
        pytest.skip("TensorStore has no codecs of numcodecs in format 3")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    found = tensorstore.open(spec, open=True).result().read().result()
    assert (np.asarray(found) == data).all()
