"""Global arrays of JAX over two processes: each reads its own part, and all agree about batches."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests import jax_processes

# Not imported here: it starts threads, and other tests fork.
pytestmark = pytest.mark.skipif(not find_spec("jax"), reason="JAX is not installed")

PROGRAM = """
from zarr_gpu.interop.jax import batches, read

x = np.arange(64 * 48, dtype="f4").reshape(64, 48)
if rank == 0:
    zarr_gpu.create_array(folder + "/x", data=x, chunks=(8, 12))
    zarr_gpu.create_array(folder + "/y", data=np.arange(64), chunks=8)
multihost_utils.sync_global_devices("stored")
a, y = (zarr_gpu.open_array(f"{folder}/{name}", mode="r") for name in "xy")

asked = []
original = zarr_gpu.Array.read
def counted(self, selection=..., **options):
    found = original(self, selection, **options)
    asked.append(found.nbytes)
    return found
zarr_gpu.Array.read = counted
for axes, share in (
    (("process",), 2), (("local",), 1), (("process", "local"), 2), ((("process", "local"),), 2),
    ((), 1), ((None, "process"), 2), (("local", "process"), 2),
):
    found = read(a, sharding=over(*axes))
    assert sum(asked) == x.nbytes // share, (axes, asked)  # of this process only, and once
    asked.clear()
    assert found.shape == x.shape
    for shard in found.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), x[shard.index])
    assert float(jax.jit(jnp.sum, out_shardings=over())(found)) == x.sum()
zarr_gpu.Array.read = original
flipped = read(a, np.s_[::-2, 5:41], sharding=over("process"))
np.testing.assert_array_equal(whole(flipped), x[::-2, 5:41])
assert read(a).is_fully_addressable
# A part of the devices: one process takes part without having any.
some = Mesh(devices[:2], ("one",))
assert len(read(a, sharding=over("one", on=some)).addressable_shards) == (2 if rank == 0 else 0)

arrays = {"x": a, "y": y}
options = {"batch_size": 8, "shuffle": True, "seed": 2, "drop_last": True}
for axes, ranks in (
    ((), 1), (("local",), 1), (("process",), 2), ((("process", "local"),), 2),
    ((("local", "process"),), 2),
):
    # Processes that have the same rows have to be given the same samples.
    loader = batches(arrays, sharding=over(*axes), **options)
    assert (loader.sampling.world_size, len(loader)) == (ranks, 64 // 8 // ranks)
    visited = []
    for batch in loader:
        assert batch["y"].shape == (8 * ranks,)
        numbers = whole(batch["y"])
        for name, data in (("x", x), ("y", np.arange(64))):
            for shard in batch[name].addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), data[numbers[shard.index[0]]])
        visited += numbers.tolist()
    assert sorted(visited) == list(range(64)), axes
    states = multihost_utils.process_allgather(np.array(loader.state_dict()["done"]))
    assert len(set(states.tolist())) == 1
plain = batches(arrays, **options)
assert (plain.sampling.rank, plain.sampling.world_size) == (rank, 2)
refused(ValueError, "first axis", lambda: batches(a, batch_size=8, sharding=over(None, "process")))
odd = zarr_gpu.create_array({}, data=np.arange(7))
refused(ValueError, "balance", lambda: batches(odd, batch_size=2, sharding=over("process")))
batches(odd, batch_size=2, sharding=over("process"), balance="drop")
if rank == 1:
    alone = over("one", on=some)
    refused(ValueError, "no device", lambda: batches(a, batch_size=8, sharding=alone))
"""


def test_two_processes_share_arrays_and_batches(tmp_path):
    jax_processes.run(PROGRAM, tmp_path)
