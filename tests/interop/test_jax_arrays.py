"""Arrays into JAX on eight devices, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

from tests.jax_processes import REFUSED

# Not imported here: it starts threads, and other tests fork.
pytestmark = pytest.mark.skipif(not find_spec("jax"), reason="JAX is not installed")

SETUP = (
    REFUSED
    + """
import itertools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import zarr_gpu
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.interop.jax import batches, read

x = np.arange(64 * 48, dtype="f4").reshape(64, 48)
array = zarr_gpu.create_array({}, data=x, chunks=(8, 12))
devices = np.array(jax.devices())
assert len(devices) == 8
"""
)

READS = """
large = zarr_gpu.create_array({}, data=np.ones((256, 256), "f4"), chunks=(64, 256))
result = large.to("cpu").read()
found = zarr_gpu.interop.jax._put(result, None)
assert found.unsafe_buffer_pointer() == result.ctypes.data  # no copy
assert isinstance(read(array), jax.Array)
np.testing.assert_array_equal(read(array), x)
np.testing.assert_array_equal(read(array, np.s_[3:50:7, ::-2]), x[3:50:7, ::-2])
np.testing.assert_array_equal(read(array, np.s_[[5, 1], 2]), x[[5, 1], 2])
assert read(array, (2, 3)).shape == () and read(array, (2, 3)) == x[2, 3]
assert read(array, device=devices[5]).devices() == {devices[5]}

mesh = Mesh(devices.reshape(4, 2), ("a", "b"))
specs = [P(), P("a"), P("a", "b"), P(("a", "b")), P(None, "b"), P("b", None)]
selections = [np.s_[...], np.s_[8:40], np.s_[::-2, 40:8:-1], np.s_[63::-1, 1:], np.s_[:, ::3]]
for spec, selection in itertools.product(specs, selections):
    sharding, expected = NamedSharding(mesh, spec), x[selection]
    try:
        sharding.shard_shape(expected.shape)
    except ValueError:
        continue  # JAX has equal shards only
    found = read(array, selection, sharding=sharding)
    assert found.sharding == sharding
    np.testing.assert_array_equal(np.asarray(found), expected)
    for shard in found.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), expected[shard.index])
row = read(array, (slice(None), 7), sharding=NamedSharding(mesh, P("a")))
np.testing.assert_array_equal(np.asarray(row), x[:, 7])

calls = []
original = zarr_gpu.Array.read
def counted(self, selection=..., **options):
    calls.append(self[selection].nbytes)
    return original(self, selection, **options)
zarr_gpu.Array.read = counted
read(array, sharding=NamedSharding(mesh, P("a")))
assert calls == [x.nbytes // 4] * 4  # each part once, though two devices have it
calls.clear()
read(array, sharding=NamedSharding(mesh, P()))
assert calls == [x.nbytes]
zarr_gpu.Array.read = original

for dtype in (jnp.bfloat16, jnp.float8_e5m2, np.bool_, np.uint16, np.complex64, np.dtype(">f4")):
    data = np.arange(12).astype(dtype)
    stored = zarr_gpu.create_array({}, data=data, chunks=5)
    native = data.astype(data.dtype.newbyteorder("="))
    four = NamedSharding(Mesh(devices[:4], "a"), P("a"))
    for found in (read(stored), read(stored, sharding=four)):
        assert found.dtype == native.dtype
        assert np.asarray(found).tobytes() == native.tobytes()
wide = zarr_gpu.create_array({}, data=np.array([1, 2**40]), chunks=1)
assert read(wide, slice(0, 1)).dtype == jnp.int32
refused(OverflowError, "jax_enable_x64", lambda: read(wide))
with jax.enable_x64(True):
    assert read(wide).tolist() == [1, 2**40]
assert read(zarr_gpu.create_array({}, data=np.array([0.1]))).dtype == jnp.float32
times = zarr_gpu.create_array({}, shape=3, dtype="M8[s]")
refused(UnsupportedError, "int64", lambda: read(times))
refused(ValueError, "either", lambda: read(array, device=devices[0], sharding=row.sharding))
refused(TypeError, "writable", lambda: array.to("cpu").read(out=jnp.zeros((64, 48))))
out = np.zeros_like(x)
target = zarr_gpu.create_array({}, shape=x.shape, dtype="f4", chunks=(8, 12))
target[...] = read(array)
np.testing.assert_array_equal(target[...], x)
"""

BATCHES = """
labels = zarr_gpu.create_array({}, data=np.arange(64), chunks=20)
arrays = {"x": array, "y": labels}
options = {"batch_size": 10, "shuffle": True, "seed": 4}
loader = batches(arrays, **options)
assert len(loader) == 7
def numbers(iterable):
    found = []
    for batch in iterable:
        assert isinstance(batch["x"], jax.Array)
        np.testing.assert_array_equal(batch["x"], x[np.asarray(batch["y"])])
        found.append(np.asarray(batch["y"]).tolist())
    return found
first = numbers(loader)
assert sorted(sum(first, [])) == list(range(64))
assert numbers(loader) == first
loader.set_epoch(1)
assert numbers(loader) != first
loader.set_epoch(0)
running = iter(loader)
for _ in range(3):
    next(running)
state = loader.state_dict()
again = batches(arrays, **options)
again.load_state_dict(state)
again.set_epoch(0)
assert again.state_dict() == state
assert numbers(again) == first[3:]
assert numbers(again) == first
other = batches(arrays, **{**options, "seed": 5})
refused(ValueError, "seed", lambda: other.load_state_dict(state))
refused(ValueError, "both", lambda: batches(arrays, batch_size=1, rank=0))
halves = [batches(arrays, **options, rank=r, world_size=2) for r in range(2)]
assert sorted(sum(sum(map(numbers, halves), []), [])) == list(range(64))

rows = NamedSharding(Mesh(devices, ("a",)), P("a"))
sharded = batches(arrays, batch_size=16, drop_last=True, sharding=rows)
for i, batch in enumerate(sharded):
    assert batch["x"].sharding == rows
    assert batch["x"].shape == (16, 48)
    np.testing.assert_array_equal(np.asarray(batch["x"]), x[16 * i : 16 * i + 16])
step = jax.jit(lambda b: b["x"].sum())
assert sum(float(step(batch)) for batch in batches(arrays, batch_size=16)) == x.sum()
"""


@pytest.mark.parametrize("program", [READS, BATCHES], ids=["reads", "batches"])
def test_eight_devices(program):
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SETUP + program)], env=environment, text=True,
        timeout=200, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
