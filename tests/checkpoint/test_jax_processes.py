"""Pytrees of JAX arrays over two processes: saved together, loaded by two and by one."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import zarr_gpu
from tests import jax_processes

# Not imported here: it starts threads, and other tests fork.
pytestmark = pytest.mark.skipif(not find_spec("jax"), reason="JAX is not installed")

PROGRAM = """
from zarr_gpu.checkpoint.jax import load_pytree, save_pytree
from zarr_gpu.errors import CheckpointError

def placed(value, sharding):
    get = lambda index: value[index]
    return jax.make_array_from_callback(value.shape, sharding, get, dtype=value.dtype)

w = np.arange(16 * 24, dtype="f4").reshape(16, 24)
last = SingleDeviceSharding(devices[-1])  # of the second process, where it looks like its own
here = jax.local_devices()[0]
tree = {
    "rows": placed(w, over("process", "local")), "columns": placed(w, over(None, "process")),
    "copies": placed(w, over()), "local": placed(w, over("local")),
    "number": placed(np.float32(7), over()), "last": placed(w[:2] * 2, last),
    "own": jax.device_put(w[0], here), "host": np.arange(5), "step": 3, "name": "adam",
}
path = folder + "/saved"
save_pytree(tree, path, step=1)
save_pytree(tree, path, step=2)  # replaces it
arrays = {name: leaf for name, leaf in tree.items() if isinstance(leaf, jax.Array)}
for sharding in (over("local"), over("process"), over(None, ("local", "process"))):
    like = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                sharding=sharding if leaf.shape == w.shape else leaf.sharding)
            for name, leaf in arrays.items()}
    found = load_pytree(path, {**tree, **like}, verify="full")
    assert (found["step"], found["name"]) == (3, "adam")
    for name in ("rows", "columns", "copies", "local"):
        assert found[name].sharding == sharding
        for shard in found[name].addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), w[shard.index])
    assert float(found["number"].addressable_data(0)) == 7
    assert len(found["last"].addressable_shards) == rank
    if rank == 1:
        np.testing.assert_array_equal(np.asarray(found["last"]), w[:2] * 2)

# Where one process cannot write, all raise, and what was there stays.
if rank == 1:
    from zarr_gpu.checkpoint import saving
    def broken(*args, **options):
        raise OSError(28, "No space left on device")
    saving.write_file = broken
error, words = (OSError, "No space") if rank == 1 else (CheckpointError, "processes [1]")
refused(error, words, lambda: save_pytree(tree, path, step=3))
assert load_pytree(path)["step"] == 3
"""


def test_two_processes_save_together_and_load_with_other_shardings(tmp_path):
    jax_processes.run(PROGRAM, tmp_path)
    group = zarr_gpu.open_group(tmp_path / "saved", mode="r", device="cpu")
    w = np.arange(16 * 24, dtype="f4").reshape(16, 24)
    for name in ("rows", "columns", "copies", "local"):
        assert np.array_equal(group[name][...], w)
    assert np.array_equal(group["last"][...], w[:2] * 2)
