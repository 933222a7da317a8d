"""Pytrees of JAX arrays on eight devices: saved with one sharding, loaded with another."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

# Not imported here: it starts threads, and other tests fork.
pytestmark = pytest.mark.skipif(not find_spec("jax"), reason="JAX is not installed")

PROGRAM = textwrap.dedent(
    """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from zarr_gpu.checkpoint import load_file, save_file
    from zarr_gpu.checkpoint.frameworks import framework_of
    from zarr_gpu.checkpoint.jax import load_pytree, save_pytree
    import zarr_gpu
    path = sys.argv[1]
    devices = np.array(jax.devices())
    assert len(devices) == 8
    rows = NamedSharding(Mesh(devices.reshape(4, 2), ("a", "b")), P("a", "b"))
    columns = NamedSharding(Mesh(devices.reshape(2, 4), ("a", "b")), P(None, ("b", "a")))
    copies = NamedSharding(Mesh(devices, ("a",)), P())
    w = np.arange(16 * 24, dtype="f4").reshape(16, 24)
    tree = {
        "params": {"w": jax.device_put(w, rows),
                   "b": jax.device_put(w[0].astype(jnp.bfloat16), copies)},
        "opt": [jax.device_put(w * 2, rows), {"count": jnp.int32(7)}],
        "step": 3, "name": "adam",
    }
    save_pytree(tree, path, step=3)
    save_pytree(tree, path, step=4)  # replaces it
    like = {
        "params": {"w": jax.ShapeDtypeStruct(w.shape, "f4", sharding=columns),
                   "b": jax.ShapeDtypeStruct((24,), jnp.bfloat16, sharding=copies)},
        "opt": [jax.ShapeDtypeStruct(w.shape, "f4"), {"count": jnp.int32(0)}],
        "step": 0, "name": "",
    }
    found = load_pytree(path, like, verify="full")
    assert found["params"]["w"].sharding == columns
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert found["params"]["b"].dtype == jnp.bfloat16
    flat = load_pytree(path)
    np.testing.assert_array_equal(flat["params.w"], w)
    group = zarr_gpu.open_group(path, mode="r")
    assert group["params.w"].chunks != group["params.w"].shape  # a chunk for each shard
    np.testing.assert_array_equal(group["params.w"][3:9, 5:13], w[3:9, 5:13])
    tensors = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    save_file(tensors, path + ".safetensors")
    found = load_file(path + ".safetensors", framework="jax")
    for name, array in tensors.items():
        assert isinstance(found[name], jax.Array)
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(array))
    try:
        framework_of(tensors["a"]).existing(tensors["a"], None)
    except TypeError as error:
        assert "cannot be written" in str(error)
    else:
        raise AssertionError
    for wrong in ({"params": {"v": like["params"]["w"]}},
                  {"params": {"w": jax.ShapeDtypeStruct((3,), "f4")}}):
        try:
            load_pytree(path, wrong)
        except ValueError as error:
            assert "params." in str(error)
        else:
            raise AssertionError(wrong)
    """
)


def test_shards_of_eight_devices_come_back_with_other_shardings(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "s"], env=environment, text=True, timeout=200,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert len(files) == 2
