"""One rank of a gloo group that trains for two epochs: ``python torch_ranks.py RANK RANKS FOLDER
START_METHOD CASES``; what it visited goes into ``FOLDER/RANK.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))
import zarr_gpu
from zarr_gpu.interop import samples
from zarr_gpu.interop.torch import ZarrIterableDataset

samples.LEAST_BLOCK_NBYTES = 1  # a chunk is a block however small it is

CASES = {
    "all": {"batch_size": 7},
    "pad": {"batch_size": 7, "balance": "pad"},
    "drop": {"batch_size": 7, "balance": "drop", "drop_last": True},
    "single": {},
}


def main(rank, ranks, folder, method, cases):
    arrays = dict(zarr_gpu.open_group(f"{folder}/a.zarr", mode="r", device="cpu").arrays())
    early = ZarrIterableDataset(arrays, **CASES["all"])
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    for use in (len, iter, lambda dataset: dataset.set_epoch(1)):
        with pytest.raises(RuntimeError, match="initialised after"):
            use(early)  # every rank would visit everything
    found = {}
    for name in cases.split(","):
        options = CASES[name]
        dataset = ZarrIterableDataset(arrays, shuffle=True, seed=3, shuffle_chunks=4, **options)
        loader = DataLoader(
            dataset, batch_size=None if "batch_size" in options else 7, num_workers=2,
            multiprocessing_context=method, persistent_workers=True,
        )  # fmt: skip
        for epoch in range(2):
            dataset.set_epoch(epoch)
            batches = list(loader)
            for batch in batches:
                assert torch.equal(batch["x"][:, 0, 1], 3 * batch["y"])
            found[f"{name}-{epoch}"] = [batch["y"].tolist() for batch in batches]
            if name == "drop":  # as many steps on all ranks, or this waits for ever
                assert len(batches) == len(loader)
                for batch in batches:
                    dist.all_reduce(batch["x"])
        with pytest.raises(RuntimeError, match="StatefulDataLoader"):
            dataset.state_dict()  # this process does not know how far its workers are
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
