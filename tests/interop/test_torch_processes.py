"""Datasets for PyTorch in several processes: ranks with workers, ends that come too soon."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.utils.data import DataLoader  # noqa: E402 - needs PyTorch, which is asked for above

import zarr_gpu  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.errors import ChunkDecodeError  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop import torch as interop  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop.samples import Samples  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop.torch import ZarrDataset, ZarrIterableDataset  # noqa: E402 - needs PyTorch, which is asked for above

N = 101
FORK = {"num_workers": 2, "multiprocessing_context": "fork"}


@pytest.fixture
def arrays(tmp_path):
    """Samples that say their number, in chunks of different lengths."""
    group = zarr_gpu.open_group(tmp_path / "a.zarr", mode="w", device="cpu")
    x = np.arange(3 * N).reshape(N, 1, 3) // 3 * 3
    return {
        "x": group.create_array("x", data=x, chunks=(4, 1, 3)),
        "y": group.create_array("y", data=np.arange(N), chunks=13),
    }


def visit(folder, ranks, *options):
    program = Path(__file__).with_name("torch_ranks.py")
    logs = [folder / f"log-{rank}" for rank in range(ranks)]
    running = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, program, str(rank), str(ranks), str(folder), *options]
            with log.open("w") as file:
                running.append(subprocess.Popen(command, stdout=file, stderr=file))
        codes = [process.wait(240) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert codes == [0] * ranks, "\n".join(log.read_text() for log in logs)
    (folder / "rendezvous").unlink(missing_ok=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("ranks", "method", "cases"),
    [
        (2, "fork", "all,drop"),
        pytest.param(2, "fork", "all,pad,single", marks=pytest.mark.slow),
        pytest.param(3, "spawn", "all", marks=pytest.mark.slow),
    ],
)
def test_ranks_with_two_workers_each_share_an_epoch(
    arrays, tmp_path, monkeypatch, ranks, method, cases
):
    monkeypatch.setattr("zarr_gpu.interop.samples.LEAST_BLOCK_NBYTES", 1)
    found = visit(tmp_path, ranks, method, cases)
    for case, epoch in itertools.product(cases.split(","), range(2)):
        parts = [list(itertools.chain(*rank[f"{case}-{epoch}"])) for rank in found]
        visited = sorted(itertools.chain(*parts))
        if case in ("all", "single"):
            assert visited == list(range(N))
        elif case == "pad":
            assert set(visited) == set(range(N))
            assert len(visited) < N + ranks
            assert len({len(part) for part in parts}) == 1
        else:
            assert len(set(visited)) == len(visited) > N - ranks - 7 * ranks
            assert len({len(rank[f"{case}-{epoch}"]) for rank in found}) == 1
            assert {len(batch) for rank in found for batch in rank[f"{case}-{epoch}"]} == {7}
    for rank, parts in enumerate(found):
        options = {"rank": rank, "world_size": ranks, "shuffle_chunks": 4}
        same = ZarrIterableDataset(arrays, batch_size=7, shuffle=True, seed=3, **options)
        for epoch in range(2):  # workers take turns, and what each visits is known beforehand
            orders = [same.batches.sampling.order(epoch, w, 2).tolist() for w in range(2)]
            cut = [[order[i : i + 7] for i in range(0, len(order), 7)] for order in orders]
            turns = itertools.chain(*itertools.zip_longest(*cut))
            assert parts[f"all-{epoch}"] == [batch for batch in turns if batch]
        assert parts["all-0"] != parts["all-1"]


def numbers(batches):
    return list(itertools.chain(*(batch["y"].tolist() for batch in batches)))


# -- going on with other workers ------------------------------------------------------------------


def test_a_state_of_this_process_is_refused_by_workers(arrays):
    """Each of them would leave out as many samples as all together have visited."""
    options = {"batch_size": 7, "shuffle": True}
    dataset = ZarrIterableDataset(arrays, **options)
    running = iter(dataset)
    for _ in range(3):
        next(running)
    state = dataset.state_dict()
    for workers in (1, 2):
        other = ZarrIterableDataset(arrays, **options)
        other.load_state_dict(state)
        context = {"num_workers": workers, "multiprocessing_context": "fork"}
        with pytest.raises(ValueError, match="StatefulDataLoader"):
            list(DataLoader(other, batch_size=None, **context))
        assert len(numbers(other)) == N - 21  # here it can be used
    other.load_state_dict(state)
    other.set_epoch(1)  # the position is of no use any more
    assert sorted(numbers(DataLoader(other, batch_size=None, **FORK))) == list(range(N))
    with pytest.raises(RuntimeError, match="workers"):
        other.state_dict()
    other.load_state_dict(state)
    assert other.state_dict() == state  # known before anybody iterates
    next(iter(other))
    assert other.state_dict()["done"] == 28


def test_a_state_of_a_worker_is_refused_by_others(arrays, monkeypatch):
    def in_worker(number, workers):
        info = SimpleNamespace(id=number, num_workers=workers)
        monkeypatch.setattr(interop, "_in_worker", lambda: info)

    dataset = ZarrIterableDataset(arrays, batch_size=7)
    in_worker(1, 2)
    next(iter(dataset))
    state = dataset.state_dict()
    dataset.load_state_dict(state)
    assert len(numbers(dataset)) < N // 2
    for other in ((0, 2), (1, 3), (0, 1)):
        in_worker(*other)
        with pytest.raises(ValueError, match="worker"):
            dataset.load_state_dict(state)
    monkeypatch.setattr(interop, "_in_worker", lambda: None)
    with pytest.raises(ValueError, match="workers was 2 and is 1"):
        dataset.load_state_dict(state)


def test_iterations_have_positions_of_their_own(arrays):
    for dataset in (
        ZarrIterableDataset(arrays, batch_size=7),
        ZarrIterableDataset(arrays, batch_size=7).batches,
    ):
        first, second = iter(dataset), None
        next(first)
        second = iter(dataset)
        next(second), next(second)
        next(first), next(first), next(first)
        assert dataset.state_dict()["done"] == 14  # of the one that began last


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls PyTorch
def test_another_number_of_workers_is_refused_by_torchdata(arrays):
    pytest.importorskip("torchdata", reason="torchdata is not installed")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader(workers):
        dataset = ZarrIterableDataset(arrays, batch_size=7, shuffle=True)
        context = "fork" if workers else None
        return StatefulDataLoader(
            dataset, batch_size=None, num_workers=workers, multiprocessing_context=context
        )

    first = loader(2)
    running = iter(first)
    next(running)
    state = first.state_dict()
    for workers in (0, 1):
        other = loader(workers)
        other.load_state_dict(state)
        with pytest.raises((AssertionError, ValueError, KeyError)):
            list(other)


# -- ends that come too soon ----------------------------------------------------------------------


def test_errors_in_workers_name_array_key_and_codec(arrays, tmp_path):
    (tmp_path / "a.zarr" / "x" / "c" / "7" / "0" / "0").write_bytes(b"nonsense")
    for dataset, size in ((ZarrIterableDataset(arrays, batch_size=7), None),
                          (ZarrDataset(arrays), 7)):  # fmt: skip
        loader = DataLoader(dataset, batch_size=size, **FORK)
        with pytest.raises(ChunkDecodeError, match="array 'x', key 'x/c/7/0/0': zstd"):
            list(loader)


def test_a_worker_that_is_killed_is_an_error_and_nothing_hangs(arrays):
    here = os.getpid()

    def die(batch):
        if os.getpid() != here and 50 in batch["y"].tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    dataset = ZarrIterableDataset(arrays, batch_size=7, transform=die)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(DataLoader(dataset, batch_size=None, **FORK))
    assert sorted(numbers(dataset)) == list(range(N))


def test_an_interrupted_wait_leaves_the_dataset_usable(arrays, monkeypatch):
    waiting, go_on = threading.Event(), threading.Event()
    original = Samples.load

    def load(self, *args):
        waiting.set()
        assert go_on.wait(60)
        original(self, *args)

    def interrupt():
        assert waiting.wait(60)
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    dataset = ZarrIterableDataset(arrays, batch_size=7, shuffle=True)
    monkeypatch.setattr(Samples, "load", load)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it with &
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(iter(dataset))
    finally:
        thread.join()
        go_on.set()
        signal.signal(signal.SIGINT, before)
    assert sorted(numbers(dataset)) == list(range(N))


def test_iterations_that_are_left_give_back_files_and_threads(arrays):
    def opened():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0

    def leave(n):
        for _ in range(n):
            dataset = ZarrIterableDataset(arrays, batch_size=7, shuffle=True, memory=1 << 16)
            next(iter(dataset))
            next(iter(DataLoader(dataset, batch_size=None, **FORK)))

    leave(2)
    files, threads = opened(), threading.active_count()
    leave(6)
    assert opened() <= files + 2
    assert threading.active_count() <= threads + 4  # of the pool, which has an upper limit


def test_a_program_ends_with_iterations_left_half_way(arrays, tmp_path):
    program = f"""
        import sys
        from torch.utils.data import DataLoader
        import zarr_gpu
        from zarr_gpu.interop.torch import ZarrIterableDataset
        x = zarr_gpu.open_array({str(tmp_path / "a.zarr" / "x")!r}, mode="r", device="cpu")
        dataset = ZarrIterableDataset(x, batch_size=2, shuffle=True, memory=1 << 16)
        workers = iter(DataLoader(dataset, batch_size=None, num_workers=1,
                                  multiprocessing_context="fork"))
        next(workers)
        left = iter(dataset)
        next(left)
        cycle = [iter(dataset)]
        cycle.append(cycle)
        next(cycle[0])
        print("end")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
