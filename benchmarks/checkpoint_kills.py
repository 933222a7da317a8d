"""kill -9 in the middle of saves: the last step that was complete always loads.

    python -m benchmarks.checkpoint_kills --times 200

The exit code is 1 when it does not.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np

from zarr_gpu import checkpoint as ckpt

KILLED = textwrap.dedent(
    """
    import sys
    import numpy as np
    from zarr_gpu.checkpoint import Manager
    manager = Manager(sys.argv[1], keep=2, durable=False)
    step = (manager.latest() or 0) + 1
    while True:
        manager.save(step, {"w": np.full(2_000_000, step), "step": step})
        print(step, flush=True)
        step += 1
    """
)


def kill(times: int, folder: Path) -> int:
    """Kill saving processes at random moments; the number of times that the last step was bad."""
    rng = np.random.default_rng(0)
    manager = ckpt.Manager(folder / "killed")
    bad = 0
    for _ in range(times):
        command = [sys.executable, "-c", KILLED, str(folder / "killed")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
        assert process.stdout is not None  # noqa: S101 - a pipe
        done = int(process.stdout.readline())
        time.sleep(float(rng.uniform(0, 0.08)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        state = manager.restore(framework="np", verify="full")
        latest = manager.latest()
        if latest is None or latest < done or not (state["w"] == state["step"]).all():
            bad += 1
    return bad


def main() -> int:
    """Parse arguments, kill, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bad = kill(options.times, Path(folder))
    print(f"{options.times} kills, {bad} times the last step was not whole")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
