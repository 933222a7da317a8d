"""Training a model from a Zarr array: what loading costs, and what it costs the training.

    python -m benchmarks.train                # 256 MB of tiles, one epoch after the other
    python -m benchmarks.train --save         # writes results/
    python -m benchmarks.train --mb 16 --epochs 1 --repeats 1

A small network learns which of two photographs a tile is from; tiles of the right quarter of each
are never trained on and say how well it does. Tiles and labels are two arrays (chunks of 32 tiles,
zstd), shuffled by chunk and by tile. All loaders hand out the same batches in the same order, which
is checked bit by bit, and take turns, in this process:

- ``ZarrIterableDataset``: chunks read ahead by threads;
- ``ZarrDataset``: a DataLoader asks for the tiles of a batch, which are one plan;
- zarr-python as most people use it: ``z[i]`` in ``__getitem__``, alone and in two workers;
- zarr-python as somebody would who wants it fast: the same groups of chunks, run by run;
- tiles that are in memory already: what cannot be beaten.

All loaders have a turn in every round, in another order each time, and are compared within rounds:
the tables say medians, ranges, and the interval in which the median of the ratio to ours is with
90 %; where that has 1 in it, the table says that no difference was seen. Training is measured on as
many batches of each loader. Last, a network learns scikit-learn's handwritten digits from an array,
by our dataset, and is timed beside a plain ``Dataset`` of zarr-python.

PyTorch's threads wait by spinning unless ``OMP_WAIT_POLICY=passive``, which this program sets: on
two cores they would take the time that others decode in, and training was three times slower with
any loader.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from sklearn.datasets import load_digits, load_sample_images
from torch.utils.data import DataLoader, Dataset

import zarr_gpu
from zarr_gpu._types import NDArray
from zarr_gpu.interop.sampling import places
from zarr_gpu.interop.torch import ZarrDataset, ZarrIterableDataset

from .results_file import save  # type: ignore[import-not-found]  # as a module

PACKAGES = ("zarr-gpu", "torch", "zarr", "numcodecs", "numpy")
TILE, CHUNK, BATCH = 64, 32, 256
CUT = 0.75  # of the width of a photograph: tiles to the right of it are held out
SLOW = 8
"""Batches of an epoch that slow loaders are measured with."""

OURS = "zarr_gpu, ZarrIterableDataset"
"""What the others are compared with."""

Batches = Generator[tuple[Any, Any], None, None]
Loader = Callable[[int], Batches]


def tiles(n: int, seed: int, *, held_out: bool) -> tuple[NDArray, NDArray]:
    """Square pieces of two photographs, turned in all ways, and which photograph that was."""
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images
    found = np.empty((n, TILE, TILE, 3), np.uint8)
    which = rng.integers(0, len(photographs), n)
    for i in range(n):
        photograph = photographs[which[i]]
        height, width, _ = photograph.shape
        low, high = (int(CUT * width), width) if held_out else (0, int(CUT * width))
        y, x = rng.integers(0, height - TILE), rng.integers(low, high - TILE)
        found[i] = np.rot90(photograph[y : y + TILE, x : x + TILE], int(rng.integers(4)))
    return found, which


class PlainDataset(Dataset):  # type: ignore[misc]  # a class without types
    """What most people write."""

    def __init__(self, path: Path) -> None:
        group = zarr.open_group(str(path), mode="r")
        self.x, self.y = group["x"], group["y"]

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __getitem__(self, i: int) -> Any:
        return torch.from_numpy(self.x[i]), int(self.y[i])


class Bench:
    """One array of tiles, and the loaders."""

    def __init__(self, folder: Path, megabytes: float) -> None:
        self.path = folder / "tiles.zarr"
        n = int(megabytes * 1e6 / TILE / TILE / 3)
        self.x, self.y = tiles(n, 0, held_out=False)
        self.test = tiles(2048, 1, held_out=True)
        group = zarr_gpu.open_group(self.path, mode="w", device="cpu")
        chunks = (CHUNK, TILE, TILE, 3)
        stored = group.create_array("x", data=self.x, chunks=chunks)
        labels = group.create_array("y", data=self.y, chunks=4096)
        self.ratio = self.x.nbytes / stored.nbytes_stored()
        arrays = {"x": stored, "y": labels}
        self.ahead = ZarrIterableDataset(arrays, batch_size=BATCH, shuffle=True, seed=1)
        self.numbers = ZarrDataset((stored, labels))
        self.plain = PlainDataset(self.path)

    def order(self, epoch: int) -> NDArray:
        """Tiles as all loaders visit them."""
        found: NDArray = self.ahead.batches.sampling.order(epoch)
        return found

    def loaders(self) -> dict[str, Loader]:
        """By name; slow ones hand out the first batches of an epoch only."""
        return {
            OURS: self._ahead,
            "zarr_gpu, ZarrDataset": lambda epoch: self._by_number(self.numbers, epoch),
            "zarr-python, z[i]": lambda epoch: self._by_number(self.plain, epoch, first=SLOW),
            "zarr-python, z[i], 2 workers": lambda epoch: self._by_number(
                self.plain, epoch, first=4 * SLOW, num_workers=2, multiprocessing_context="fork"
            ),
            "zarr-python, groups of chunks": self._groups,
            "in memory": self._memory,
        }

    def _ahead(self, epoch: int) -> Batches:
        self.ahead.set_epoch(epoch)
        for batch in self.ahead:
            yield batch["x"], batch["y"]

    def _by_number(self, dataset: Any, epoch: int, *, first: int = 0, **options: Any) -> Batches:
        order = self.order(epoch).tolist()
        sampler = order[: first * BATCH] if first else order
        loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, **options)
        yield from loader

    def _groups(self, epoch: int) -> Batches:
        """Batches from the same groups of chunks, each read as a whole."""
        labels = self.plain.y[:]
        left_x, left_y = np.empty((0, *self.x.shape[1:]), np.uint8), np.empty(0, np.int64)
        for group, _ in self.ahead.batches.sampling.groups(epoch):
            spans, at = group.spans.tolist(), places(group.spans, group.order)
            # Slices: with one index array for all, zarr-python takes several times as long.
            x = np.concatenate([self.plain.x[start:stop] for start, stop in spans])[at]
            y = np.concatenate([labels[start:stop] for start, stop in spans])[at]
            x, y = np.concatenate((left_x, x)), np.concatenate((left_y, y))
            full = len(x) // BATCH * BATCH
            for i in range(0, full, BATCH):
                yield torch.from_numpy(x[i : i + BATCH]), torch.from_numpy(y[i : i + BATCH])
            left_x, left_y = x[full:], y[full:]
        if len(left_x):
            yield torch.from_numpy(left_x), torch.from_numpy(left_y)

    def _memory(self, epoch: int) -> Batches:
        order = self.order(epoch)
        for i in range(0, len(order), BATCH):
            at = order[i : i + BATCH]
            yield torch.from_numpy(self.x[at]), torch.from_numpy(self.y[at])

    def check(self, name: str, loader: Loader) -> None:
        """Raise AssertionError unless a loader hands out the right tiles in the right order."""
        order, done = self.order(2), 0
        for x, y in loader(2):
            at = order[done : done + len(x)]
            if not np.array_equal(x.numpy(), self.x[at]) or not np.array_equal(y, self.y[at]):
                raise AssertionError(f"{name}: samples {done} to {done + len(x)} are others")
            done += len(x)
        if done != len(order) and "z[i]" not in name:
            raise AssertionError(f"{name}: {done} samples instead of {len(order)}")


def timed(
    batches: Batches, use: Callable[[Any, Any], object], first: int = 0
) -> tuple[float, float, int]:
    """Seconds, processor seconds (of workers, too) and samples; of the first batches, if given."""
    before, start, n = processor(), time.perf_counter(), 0
    for x, y in islice(batches, first or None):
        use(x, y)
        n += len(x)
    wall = time.perf_counter() - start
    batches.close()  # workers end, whose time is known then
    return wall, processor() - before, n


def processor() -> float:
    """Processor seconds of this process and of its children that have ended."""
    found = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        found += usage.ru_utime + usage.ru_stime
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Where the median of such values is with at least 90 % (of 5 and more), by their order."""
    n, ordered = len(values), sorted(values)
    left, outside = 0, 2 / 2**n  # a median beyond all values has the odds of n equal throws
    while outside + 2 * math.comb(n, left + 1) / 2**n <= 0.1 and left + 1 < n // 2:
        left += 1
        outside += 2 * math.comb(n, left) / 2**n
    return ordered[left], ordered[n - 1 - left]


def measure(
    loaders: Mapping[str, Loader], repeats: int, use: Callable[[Any, Any], object], first: int = 0
) -> dict[str, dict[str, Any]]:
    """Samples per second, processor milliseconds per sample, and the speed beside ``OURS``.

    In every round all loaders have their turn, in another order each time; speeds are compared
    within a round, where the machine was the same. With ``first``, loaders hand out as many
    batches each, so that what an epoch costs once weighs the same.
    """
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    work: dict[str, list[float]] = {name: [] for name in loaders}
    timed(loaders[OURS](0), use, 2)  # what happens once
    turns = random.Random(0)  # noqa: S311 - no secret
    for epoch in range(repeats):
        for name in turns.sample(list(loaders), len(loaders)):
            wall, cpu, n = timed(loaders[name](epoch), use, first)
            rates[name].append(n / wall)
            work[name].append(1000 * cpu / n)
    return {name: _row(rates[name], rates[OURS], work[name]) for name in loaders}


def _row(rates: list[float], ours: list[float], work: list[float]) -> dict[str, Any]:
    beside = [rate / other for rate, other in zip(rates, ours, strict=True)]
    low, high = interval(beside)
    return {
        "samples_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "cpu_ms_per_sample": statistics.median(work),
        "beside_ours": statistics.median(beside),
        "beside_ours_interval": [low, high],
        "within_noise": len(rates) < 5 or low <= 1 <= high,  # no interval of so few
    }


class Model:
    """A network of three convolutions, and how it learns."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers: list[Any] = []
        for inner, outer, stride in ((3, 24, 4), (24, 48, 2), (48, 64, 2)):
            size = 2 * stride - 1
            convolution = torch.nn.Conv2d(inner, outer, size, stride, stride // 2, bias=False)
            layers += [convolution, torch.nn.BatchNorm2d(outer), torch.nn.ReLU()]
        last = TILE // 16
        layers += [torch.nn.Flatten(), torch.nn.Linear(64 * last * last, 2)]
        self.network = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 1e-3)
        self.losses: list[float] = []

    def step(self, x: Any, y: Any) -> None:
        """Learn from one batch of bytes."""
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.network(_images(x)), y)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())

    def accuracy(self, x: NDArray, y: NDArray) -> float:
        """Of tiles that were not trained on."""
        self.network.eval()
        with torch.inference_mode():
            found = self.network(_images(torch.from_numpy(x))).argmax(1)
        self.network.train()
        return float((found == torch.from_numpy(y)).float().mean())


def _images(x: Any) -> Any:
    return x.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def report(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table: medians, ranges, and whether a difference was seen at all."""
    print(
        f"\n{title}\n{'':<32}{'samples/s':>10}{'(range)':>18}{'cpu ms/sample':>15}  beside {OURS}"
    )
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["samples_per_s"]):
        span = f"({row['slowest']:.0f}-{row['fastest']:.0f})"
        low, high = row["beside_ours_interval"]
        verdict = f"{row['beside_ours']:.2f} ({low:.2f}-{high:.2f})"
        verdict += ", no difference seen" if row["within_noise"] and name != OURS else ""
        cost = f"{row['samples_per_s']:10.0f}{span:>18}{row['cpu_ms_per_sample']:15.3f}"
        print(f"{name:<32}{cost}  {'' if name == OURS else verdict}")


def digits(folder: Path, repeats: int) -> dict[str, Any]:
    """The 1797 handwritten digits of scikit-learn: how well a network reads those held out."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images.reshape(-1, 8, 8).astype("u1"), labels.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    held, rest = order[:360], order[360:]
    group = zarr_gpu.open_group(folder / "digits.zarr", mode="w", device="cpu")
    arrays = {
        "x": group.create_array("x", data=images[rest], chunks=(128, 8, 8)),
        "y": group.create_array("y", data=labels[rest], chunks=512),
    }
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)

    def step(x: Any, y: Any) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x.float() / 16), y).backward()
        optimizer.step()

    ahead = ZarrIterableDataset(arrays, batch_size=64, shuffle=True)

    def ours(epoch: int) -> Batches:
        ahead.set_epoch(epoch)
        for batch in ahead:
            yield batch["x"], batch["y"]

    for epoch in range(30):
        for x, y in ours(epoch):
            step(x, y)
    with torch.inference_mode():
        found = network(torch.from_numpy(images[held]).float() / 16).argmax(1)
    accuracy = float((found == torch.from_numpy(labels[held])).float().mean())
    print(f"\n{len(rest)} digits, 30 epochs: {accuracy:.3f} of {len(held)} others are read rightly")
    plain = PlainDataset(folder / "digits.zarr")
    loaders: dict[str, Loader] = {
        OURS: ours,
        "zarr-python, z[i]": lambda epoch: (
            (x, y) for x, y in DataLoader(plain, batch_size=64, shuffle=True)
        ),
    }
    rows = measure(loaders, repeats, step)
    report("training on digits", rows)
    return {"held_out_accuracy": accuracy, "table": rows}


def main() -> int:
    """Parse arguments, measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--mb", type=float, default=256.0, help="of tiles")
    parser.add_argument("--epochs", type=int, default=3, help="that the model is trained for")
    parser.add_argument("--repeats", type=int, default=9, help="rounds in which all have a turn")
    parser.add_argument("--folder", type=Path, help="where the arrays are kept meanwhile")
    parser.add_argument("--save", action="store_true", help="into results/")
    options = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:  # read when a program starts
        os.environ["OMP_WAIT_POLICY"] = "passive"
        command = [sys.executable, "-m", "benchmarks.train", *sys.argv[1:]]
        os.execv(sys.executable, command)  # noqa: S606 - this program again
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = Bench(Path(folder), options.mb)
        print(f"{len(bench.x)} tiles, {bench.x.nbytes / 1e6:.0f} MB, 1/{bench.ratio:.2f} stored")
        loaders = bench.loaders()
        for name, loader in loaders.items():
            bench.check(name, loader)
        print("all loaders hand out the same bits in the same order")
        loading = measure(loaders, options.repeats, lambda x, y: None)
        report("loading alone", loading)
        model, learned = Model(), []
        for epoch in range(options.epochs):
            for x, y in loaders[OURS](epoch):
                model.step(x, y)
            loss = statistics.mean(model.losses[-len(bench.ahead) :])
            learned.append({"loss": loss, "held_out_accuracy": model.accuracy(*bench.test)})
            print(f"epoch {epoch}: loss {loss:.3f}, accuracy {model.accuracy(*bench.test):.3f}")
        training = measure(loaders, options.repeats, Model().step, first=SLOW)
        report(f"training, {SLOW} batches at a time", training)
        numerals = digits(Path(folder), options.repeats)
        if options.save:
            tables = {"loading": loading, "training": training}
            about = {"tiles": len(bench.x), "nbytes": bench.x.nbytes, "ratio": bench.ratio}
            found = {"repeats": options.repeats, "learned": learned, "tables": tables}
            found["digits"] = numerals
            save("train", PACKAGES, {**about, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
