"""Programs for JAX, run by several processes of one host that know each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time

REFUSED = """
def refused(kind, words, call):
    try:
        call()
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
"""
"""Part of programs: an error of a kind, with some words in it, is wanted."""
SETUP = (
    REFUSED
    + """
import os, sys, traceback
import jax, jax.numpy as jnp, numpy as np
rank, world, address, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.distributed.initialize(address, world, rank)
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P, SingleDeviceSharding
import zarr_gpu

def whole(array):
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))

devices = np.array(jax.devices())
mesh = Mesh(devices.reshape(world, -1), ("process", "local"))
def over(*axes, on=mesh):
    return NamedSharding(on, P(*axes))

def main():
"""
)
END = """
try:
    main()
except BaseException:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # an orderly end would wait for the others
print("done", flush=True)
jax.distributed.shutdown()
"""


def run(program, folder, processes=2, devices=2, timeout=120):
    """Run the body of a function in each process; ends all when one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    text = SETUP + textwrap.indent(textwrap.dedent(program), "    ") + END
    logs = [folder / f"log-{rank}" for rank in range(processes)]
    running = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, "-c", text, str(rank), str(processes), address, str(folder)]
            with log.open("w") as file:
                running.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
        end = time.monotonic() + timeout
        while any(p.poll() is None for p in running) and not any(p.poll() for p in running):
            assert time.monotonic() < end, "\n".join(log.read_text() for log in logs)
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert all(p.returncode == 0 for p in running), "\n".join(log.read_text() for log in logs)
