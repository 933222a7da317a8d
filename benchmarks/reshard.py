"""Saves of four ranks, loaded by two with shards along another axis: ours and PyTorch's storage.

    python -m benchmarks.reshard                  # 0.4 GB
    python -m benchmarks.reshard --gb 2 --save    # writes results/

Ranks are processes of a gloo group on this machine; both storages take turns, in the same groups,
on the same state, and what was loaded is compared bit by bit. A row says how long the slowest rank
took, and the processor time of all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
STORAGES = ("zarr_gpu", "PyTorch")
STEPS = (("save", 4, 0), ("load", 2, 1), ("load", 4, 0))
"""What is done, by how many ranks, and the axis of the shards."""


def state(gigabytes: float, mesh: Any, axis: int, *, filled: bool) -> dict[str, Any]:
    """Sharded weights of bf16 in layers, and a replicated norm for each."""
    import torch
    from torch.distributed.tensor import Shard, distribute_tensor

    layers = max(1, round(gigabytes * 1e9 / (8 * 2048 * 1024 * 2)))
    found: dict[str, Any] = {}
    for i in range(layers):
        for j in range(8):
            values = torch.zeros(2048, 1024, dtype=torch.bfloat16)
            if filled:
                values += torch.arange(1024).remainder(200) + i + j
            found[f"layers.{i}.{j}.weight"] = distribute_tensor(values, mesh, [Shard(axis)])
        found[f"layers.{i}.norm"] = torch.full((1024,), float(i) if filled else 0.0)
    return found


def storages(name: str, folder: str) -> tuple[Any, Any]:
    """A writer and a reader."""
    if name == "PyTorch":
        import torch.distributed.checkpoint as dcp

        return dcp.FileSystemWriter(folder, sync_files=False), dcp.FileSystemReader(folder)
    from zarr_gpu.checkpoint.dcp import ZarrReader, ZarrWriter

    return ZarrWriter(folder, durable=False), ZarrReader(folder)


def rank_main(arguments: list[str]) -> None:
    """One rank: ``verb axis gigabytes repeats folder rank ranks store``; the first prints times."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh

    verb, axis, gigabytes, repeats, folder, rank, ranks, store = arguments
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(ranks)
    )
    mesh = init_device_mesh("cpu", (int(ranks),))
    expected = state(float(gigabytes), mesh, int(axis), filled=True)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STORAGES}
    for i in range(int(repeats) + 1):
        for name in STORAGES:
            wall, cpu = _once(dcp, dist, verb, expected, name, f"{folder}/{name}", mesh, arguments)
            if i:
                times[name].append((wall, cpu))
    if int(rank) == 0:
        print(json.dumps(times))
    dist.destroy_process_group()


def _once(
    dcp: Any, dist: Any, verb: str, expected: dict[str, Any], name: str, folder: str, mesh: Any,
    arguments: list[str],
) -> tuple[float, float]:  # fmt: skip
    """Seconds of the slowest rank, and processor seconds of all."""
    import torch

    writer, reader = storages(name, folder)
    loaded = None
    if verb == "load":
        loaded = state(float(arguments[2]), mesh, int(arguments[1]), filled=False)
    run: Callable[[], Any] = (
        (lambda: dcp.save(expected, storage_writer=writer))
        if loaded is None
        else (lambda: dcp.load(loaded, storage_reader=reader))
    )
    if loaded is None and dist.get_rank() == 0:  # every step of a run has a directory of its own
        shutil.rmtree(folder, ignore_errors=True)
    dist.barrier()
    before, start = _cpu(), time.perf_counter()
    run()
    both = torch.tensor([time.perf_counter() - start, _cpu() - before], dtype=torch.float64)
    slowest, total = both.clone(), both.clone()
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    dist.all_reduce(total, dist.ReduceOp.SUM)
    for key, tensor in (loaded or {}).items():
        one = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        other = expected[key]
        if not torch.equal(one, other.to_local() if hasattr(other, "to_local") else other):
            raise AssertionError(f"{name}: {key} is not what was saved")
    return float(slowest[0]), float(total[1])


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def group(verb: str, ranks: int, axis: int, options: Any, folder: str) -> dict[str, Any]:
    """Medians of one step, by storage."""
    store = f"{folder}/{uuid.uuid4().hex}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = []
    for rank in range(ranks):
        words = [verb, axis, options.gb, options.repeats, folder, rank, ranks, store]
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.reshard", "--rank"]
        started.append(
            subprocess.Popen(  # noqa: S603 - our own module
                [*command, *map(str, words)], stdout=subprocess.PIPE, text=True, env=environment
            )
        )
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"a rank of {verb} failed")
    times = json.loads(outputs[0].splitlines()[-1])
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in rows),
            "cpu": statistics.median(cpu for _, cpu in rows),
        }
        for name, rows in times.items()
    }


def main() -> int:
    """Parse arguments, run all steps, print, and write the results."""
    if sys.argv[1:2] == ["--rank"]:
        rank_main(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description="Resharding checkpoints, beside PyTorch's storage")
    parser.add_argument("--gb", type=float, default=0.4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="into results/")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for verb, ranks, axis in STEPS:
            found = group(verb, ranks, axis, options, folder)
            ours, theirs = (found[name] for name in STORAGES)
            ratios = {key: theirs[key] / ours[key] for key in ("wall", "cpu")}
            rows.append({"step": verb, "ranks": ranks, "axis": axis, **found, "times": ratios})
            print(
                f"{verb} by {ranks} ranks, axis {axis}: {ours['wall']:.2f} s wall, "
                f"{ours['cpu']:.2f} s cpu; PyTorch {ratios['wall']:.1f} and {ratios['cpu']:.1f} "
                "times that",
                flush=True,
            )
    if options.save:
        import torch

        document = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "torch": torch.__version__,
            "python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg(),
            "gigabytes": options.gb, "repeats": options.repeats, "rows": rows,
        }  # fmt: skip
        target = RESULTS / f"reshard-{time.strftime('%Y-%m-%d', time.gmtime())}.json"
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
