"""Ranks of a real gloo group: ``python ranks.py ACTION=FOLDER,... RANK RANKS STORE``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from zarr_gpu.checkpoint.dcp import ZarrReader, ZarrWriter

SHAPES = {"even": (16, 8), "uneven": (7, 5), "long": (4, 6, 3), "wide": (2, 64)}


def whole(name):
    shape = SHAPES[name]
    n = len(name)
    return torch.arange(n, n + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def state(mesh, placement, fill):
    tensors = {}
    for name, shape in SHAPES.items():
        values = whole(name) if fill else torch.zeros(shape)
        tensors[name] = distribute_tensor(
            values.bfloat16() if name == "wide" else values, mesh, [placement]
        )
    tensors["replicated"] = torch.full((3,), 7.0) if fill else torch.zeros(3)
    tensors["complex"] = torch.tensor([1 + 2j, 3j]).to(torch.complex128) * fill
    return {
        "model": tensors,
        "optimizer": {"state": {0: {"step": torch.tensor(5.0) * fill}}, "lr": 0.25 if fill else 0.0,
                      "betas": (0.9, 0.99), "name": "adam" if fill else ""},
    }  # fmt: skip


def check(loaded):
    for name in SHAPES:
        tensor = loaded["model"][name].full_tensor()
        assert torch.equal(tensor.float(), whole(name)), name
    assert loaded["model"]["replicated"].tolist() == [7, 7, 7]
    assert loaded["model"]["complex"].tolist() == [1 + 2j, 3j]
    assert loaded["optimizer"]["state"][0]["step"] == 5
    assert loaded["optimizer"]["lr"] == 0.25
    assert loaded["optimizer"]["name"] == "adam"


class DyingWriter(ZarrWriter):
    """One rank is killed when it has written half of its bytes."""

    def write_data(self, plan, planner):
        if dist.get_rank() == 1:
            store = self._store()
            store.set(".partial", b"0" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write_data(plan, planner)


def main(actions, rank, ranks, store):
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(ranks)
    )
    mesh = init_device_mesh("cpu", (int(ranks),))
    for action in actions.split(","):
        act(mesh, *action.split("="))
        dist.barrier()
    dist.destroy_process_group()


def act(mesh, action, folder):
    verb, _, axis = action.partition("-")
    placement = Replicate() if axis == "replicate" else Shard(int(axis or 0))
    if verb == "save":
        dcp.save(state(mesh, placement, 1), storage_writer=ZarrWriter(folder))
    elif verb == "async":
        dcp.async_save(state(mesh, placement, 1), storage_writer=ZarrWriter(folder)).result()
    elif verb == "die":
        dcp.save(state(mesh, placement, 0), storage_writer=DyingWriter(folder))
    else:
        loaded = state(mesh, placement, 0)
        dcp.load(loaded, storage_reader=ZarrReader(folder, verify=verb == "verify"))
        check(loaded)


if __name__ == "__main__":
    main(*sys.argv[1:])
