"""Datasets for PyTorch: what they hand out, in this process and in workers, and going on."""

from __future__ import annotations

import itertools
import pickle
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from hypothesis import given, settings  # noqa: E402 - needs PyTorch, which is asked for above
from hypothesis import strategies as st  # noqa: E402 - needs PyTorch, which is asked for above
from torch.utils.data import DataLoader  # noqa: E402 - needs PyTorch, which is asked for above

import zarr_gpu  # noqa: E402 - needs PyTorch, which is asked for above
from tests.device.devices import emulated  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.errors import ChunkDecodeError, UnsupportedError  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop import batches as interop_batches  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop import torch as interop  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop.torch import ZarrDataset, ZarrIterableDataset  # noqa: E402 - needs PyTorch, which is asked for above

N = 500
X = np.random.default_rng(0).normal(size=(N, 12, 16)).astype("f4")
Y = np.arange(N)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    group = zarr_gpu.open_group(
        tmp_path_factory.mktemp("samples") / "a.zarr", mode="w", device="cpu"
    )
    x = group.create_array("x", data=X, chunks=(10, 12, 8), shards=(50, 12, 16))
    y = group.create_array("y", data=Y, chunks=70)
    return {"x": x, "y": y}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """A chunk is a block however small it is, and only labels are kept."""
    monkeypatch.setattr("zarr_gpu.interop.samples.LEAST_BLOCK_NBYTES", 1)
    monkeypatch.setattr("zarr_gpu.interop.samples.RESIDENT_NBYTES", Y.nbytes)


def visited(batches):
    """Numbers of the samples in batches, whose values are checked."""
    found = []
    for batch in batches:
        assert batch["x"].dtype == torch.float32
        assert torch.equal(batch["x"], torch.from_numpy(X)[batch["y"]])
        found.append(batch["y"])
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


# -- samples by number ----------------------------------------------------------------------------


def test_samples_by_number(arrays):
    dataset = ZarrDataset(arrays)
    assert len(dataset) == N
    assert torch.equal(dataset[3]["x"], torch.from_numpy(X[3]))
    assert dataset[-1]["y"].item() == N - 1
    assert [s["y"].item() for s in dataset.__getitems__([7, 499, 7, -3])] == [7, 499, 7, N - 3]
    assert dataset.__getitems__([]) == []
    for wrong in (N, -N - 1):
        with pytest.raises(IndexError, match=f"{wrong} of {N}"):
            dataset[wrong]
    for wrong in (1.5, slice(0, 2), "1"):
        with pytest.raises(TypeError, match="integer"):
            dataset[wrong]
    assert dataset[torch.tensor(5)]["y"].item() == 5
    both = ZarrDataset((arrays["x"], arrays["y"]))[np.int64(5)]
    assert isinstance(both, tuple)
    assert both[1].item() == 5
    assert torch.equal(ZarrDataset(arrays["x"])[9], torch.from_numpy(X[9]))


def test_a_batch_is_fetched_by_one_plan_for_each_array(arrays, monkeypatch):
    calls = []
    original = zarr_gpu.Array.get_orthogonal_selection
    monkeypatch.setattr(
        zarr_gpu.Array, "get_orthogonal_selection",
        lambda self, *args, **kw: calls.append(self.name) or original(self, *args, **kw),
    )  # fmt: skip
    dataset = ZarrDataset(arrays)
    for start in (0, 3):
        wanted = list(range(start, N, 7))
        found = dataset.__getitems__(wanted)
        assert [sample["y"].item() for sample in found] == wanted
    assert calls == ["/x", "/y", "/x"]  # labels are kept
    windows = ZarrDataset(arrays, window=3, stride=2).__getitems__([5, 240])
    assert [sample["y"].tolist() for sample in windows] == [[10, 11, 12], [480, 481, 482]]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("stride", [2, 3, 5])
def test_windows(arrays, axis, stride):
    dataset = ZarrDataset(arrays["x"], axis=axis, window=3, stride=stride)
    starts = range(0, X.shape[axis] - 2, stride)
    assert len(dataset) == len(starts)
    wanted = [0, len(starts) - 1, 1, 0]
    for i, sample in zip(wanted, dataset.__getitems__(wanted), strict=True):
        at = [slice(None)] * 3
        at[axis] = slice(starts[i], starts[i] + 3)
        assert torch.equal(sample, torch.from_numpy(X[tuple(at)]))
        assert torch.equal(dataset[i], sample)


def test_a_part_of_every_sample(arrays):
    part = ZarrDataset(arrays, select={"x": (slice(2, 9, 3), 4)})[17]
    assert torch.equal(part["x"], torch.from_numpy(X[17, 2:9:3, 4]))
    assert ZarrDataset(arrays["x"], select=(..., [3, 1]))[2].tolist() == X[2][:, [3, 1]].tolist()
    across = ZarrDataset(arrays["x"], axis=1, select=(slice(0, 40), 5))[11]
    assert torch.equal(across, torch.from_numpy(X[:40, 11, 5]))
    turned = zarr_gpu.create_array({}, data=np.moveaxis(X, 0, 2).copy(), device="cpu")
    both = ZarrDataset([arrays["x"], turned], axis=[0, 2], select=[None, (0,)])
    assert torch.equal(both[8][0][0], both[8][1])


def test_arguments_that_do_not_fit_are_refused(arrays):
    x, y = arrays["x"], arrays["y"]
    text = zarr_gpu.create_array({}, shape=N, dtype="U3", device="cpu")
    for make, error, message in (
        (lambda: ZarrDataset([x, zarr_gpu.zeros(3, store={})]), ValueError, "same number"),
        (lambda: ZarrDataset(x, axis=3), ValueError, "no axis 3"),
        (lambda: ZarrDataset(y, select=(0, 0)), ValueError, "0 axes"),
        (lambda: ZarrDataset(arrays, select={"z": 0}), ValueError, "'z'"),
        (lambda: ZarrDataset(x, window=0), ValueError, "window"),
        (lambda: ZarrDataset(x, stride=2), ValueError, "window"),
        (lambda: ZarrDataset(np.zeros(3)), TypeError, "Array"),
        (lambda: ZarrDataset([]), TypeError, "Array"),
        (lambda: ZarrDataset(text), UnsupportedError, "no type"),
        (lambda: ZarrIterableDataset(text), UnsupportedError, "no type"),
        (lambda: ZarrIterableDataset(x, memory=100), ValueError, "memory=100"),
        (lambda: ZarrIterableDataset(x, shuffle=True, shuffle_chunks=40, memory=200_000),
         ValueError, "lower shuffle_chunks"),
        (lambda: ZarrIterableDataset(x, shuffle=True, shuffle_chunks=0), ValueError, "at least 1"),
        (lambda: ZarrIterableDataset(x, block="file"), ValueError, "'file'"),
        (lambda: ZarrIterableDataset(x, rank=1), ValueError, "both"),
        (lambda: ZarrIterableDataset(x, device="mps"), ValueError, "mps"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            make()


# -- samples one after the other ------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("block", ["chunk", "shard"])
@pytest.mark.parametrize("memory", [20_000 * 4, 1 << 20, 1 << 28])
def test_an_epoch_visits_every_sample_once(arrays, shuffle, block, memory):
    options = {"batch_size": 32, "shuffle": shuffle, "seed": 3, "block": block, "memory": memory}
    dataset = ZarrIterableDataset(arrays, **options)
    found = visited(dataset)
    assert len(dataset) == 16
    assert torch.equal(found.sort().values, torch.arange(N))
    assert np.array_equal(found, dataset.batches.sampling.order(0))
    assert torch.equal(found, torch.arange(N)) == (not shuffle)
    assert torch.equal(visited(dataset), found)  # again: the same epoch
    dataset.set_epoch(1)
    assert torch.equal(visited(dataset), found) == (not shuffle)


def test_single_samples_and_batches_made_of_them(arrays):
    dataset = ZarrIterableDataset(arrays, shuffle=True)
    assert len(dataset) == N
    samples = list(dataset)
    assert samples[0]["x"].shape == (12, 16)
    assert samples[0]["y"].shape == ()
    collated = visited(DataLoader(dataset, batch_size=7))
    assert collated.tolist() == [sample["y"].item() for sample in samples]


def test_batches_are_nobody_else_s(arrays):
    """Buffers are used again; what was handed out is not touched."""
    dataset = ZarrIterableDataset(arrays, batch_size=10, memory=20_000 * 4)
    assert len(visited(list(dataset))) == N
    for batch in dataset:
        batch["x"].zero_()
        batch["y"].add_(1000)
    assert len(visited(dataset)) == N


def test_memory_is_bounded(arrays, monkeypatch):
    made = []
    original = interop_batches.HostMemory.buffer
    monkeypatch.setattr(
        interop_batches.HostMemory, "buffer",
        lambda self, shape, dtype: made.append(original(self, shape, dtype)) or made[-1],
    )  # fmt: skip
    dataset = ZarrIterableDataset(arrays["x"], batch_size=64, shuffle=True, memory=100_000)
    for _ in dataset:
        pass
    assert 2 <= len(made) <= 13
    assert sum(buffer.nbytes for buffer in made) <= 100_000


def test_windows_in_any_order(arrays):
    for axis, stride, shuffle in itertools.product((0, 2), (1, 3, 7), (False, True)):
        options = {"axis": axis, "window": 4, "stride": stride, "shuffle": shuffle}
        dataset = ZarrIterableDataset(arrays["x"], batch_size=9, shuffle_chunks=3, **options)
        order = iter(dataset.batches.sampling.order(0))
        for sample in itertools.chain.from_iterable(dataset):
            at = [slice(None)] * 3
            first = next(order) * stride
            at[axis] = slice(first, first + 4)
            assert torch.equal(sample, torch.from_numpy(X[tuple(at)]))
        assert next(order, None) is None


def test_transform_gets_what_is_handed_out(arrays):
    whole = ZarrIterableDataset(arrays, batch_size=50, transform=lambda b: b["x"].mean((1, 2)))
    assert torch.equal(torch.cat(list(whole)), torch.from_numpy(X).mean((1, 2)))
    one = ZarrIterableDataset(arrays, transform=lambda s: int(s["y"]))
    assert list(one) == list(range(N))
    assert ZarrDataset(arrays, transform=lambda s: int(s["y"])).__getitems__([4, 2]) == [4, 2]


def test_tensors_are_on_the_host_whatever_the_default_device_is(arrays):
    torch.set_default_device("meta")
    try:
        batch = next(iter(ZarrIterableDataset(arrays, batch_size=4)))
        sample = ZarrDataset(arrays)[3]
    finally:
        torch.set_default_device(None)
    assert batch["x"].device.type == sample["x"].device.type == "cpu"
    assert torch.equal(batch["x"], torch.from_numpy(X[:4]))
    assert torch.equal(sample["x"], torch.from_numpy(X[3]))


def test_samples_of_nothing_and_of_odd_kinds():
    nothing = zarr_gpu.create_array({}, data=np.zeros((5, 0, 2)), device="cpu")
    shapes = [b.shape for b in ZarrIterableDataset(nothing, batch_size=2, shuffle=True)]
    assert shapes == [(2, 0, 2), (2, 0, 2), (1, 0, 2)]
    long = zarr_gpu.create_array({}, data=X.reshape(50, -1), chunks=(1, 100), device="cpu")
    one = next(iter(ZarrIterableDataset(long, batch_size=2)))  # samples of many chunks
    assert torch.equal(one, torch.from_numpy(X.reshape(50, -1)[:2]))
    missing = zarr_gpu.create_array({}, shape=(6, 2), dtype=">i4", fill_value=7, device="cpu")
    missing[4] = 1
    assert (
        torch.cat(list(ZarrIterableDataset(missing, batch_size=4))).T.tolist()
        == [[7, 7, 7, 7, 1, 7]] * 2
    )
    mask = np.array([True, False] * 8)
    part = ZarrDataset(zarr_gpu.create_array({}, data=X, device="cpu"), select=(-1, mask))
    assert torch.equal(part[4], torch.from_numpy(X[4, -1, mask]))
    turned = ZarrIterableDataset(
        zarr_gpu.create_array({}, data=X, device="cpu"), select=(slice(None, None, -2),)
    )
    assert torch.equal(next(iter(turned)), torch.from_numpy(X[0, ::-2].copy()))
    for dtype in ("U3", "S2", "M8[s]", [("a", "i4")], str):
        other = zarr_gpu.create_array({}, shape=3, dtype=dtype, device="cpu")
        for kind in (ZarrDataset, ZarrIterableDataset):
            with pytest.raises(UnsupportedError, match="type"):
                kind(other)
    with pytest.raises(ValueError, match=r"shape \(\) has no axis"):
        ZarrDataset(zarr_gpu.create_array({}, data=np.float32(3), device="cpu"))


def test_empty_arrays_and_too_few_samples():
    empty = zarr_gpu.zeros((0, 3), store={}, device="cpu")
    assert list(ZarrIterableDataset(empty, batch_size=4)) == []
    assert len(ZarrDataset(empty)) == 0
    short = ZarrIterableDataset(zarr_gpu.zeros(3, store={}, device="cpu"), window=4)
    assert (len(short), list(short)) == (0, [])
    last = ZarrIterableDataset(
        zarr_gpu.zeros(7, store={}, device="cpu"), batch_size=4, drop_last=True
    )
    assert [len(batch) for batch in last] == [4]
    assert len(last) == 1


def test_all_types_are_handed_out(tmp_path):
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.uint16, torch.complex64):
        data = torch.arange(40).reshape(20, 2).to(dtype)
        array = zarr_gpu.create_array({}, data=data, chunks=(3, 2), device="cpu")
        batches = list(ZarrIterableDataset(array, batch_size=6, shuffle=True))
        whole = torch.cat([b.view(torch.uint8) for b in batches])
        assert batches[0].dtype == dtype
        assert sorted(whole.tolist()) == sorted(data.view(torch.uint8).tolist())
        assert ZarrDataset(array)[4].dtype == dtype


def test_a_damaged_chunk_is_an_error_and_nothing_hangs(tmp_path):
    array = zarr_gpu.create_array(tmp_path / "a", data=X[:100], chunks=(10, 12, 16), device="cpu")
    (tmp_path / "a" / "c" / "7" / "0" / "0").write_bytes(b"nonsense")
    dataset = ZarrIterableDataset(array, batch_size=10, memory=40_000)
    found = []
    with pytest.raises(ChunkDecodeError, match="c/7/0/0"):
        for batch in dataset:
            found.append(batch)
    assert 1 <= len(found) <= 7


def test_an_iteration_that_is_left_early_leaves_nothing_behind(arrays):
    dataset = ZarrIterableDataset(arrays, batch_size=8, shuffle=True)
    for _ in range(30):
        next(iter(dataset))
    assert len(visited(dataset)) == N
    first, second = iter(dataset), iter(dataset)  # two at a time do not disturb each other
    a = visited(x for pair in zip(first, second, strict=True) for x in pair[:1])
    assert torch.equal(a.sort().values, torch.arange(N))


# -- ranks and workers ----------------------------------------------------------------------------


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "forkserver")]


@pytest.mark.parametrize("context", ["fork", *SLOW])
def test_workers_share_an_epoch(arrays, context):
    list(ZarrIterableDataset(arrays, batch_size=9))  # threads of this process are not forked
    workers = {"num_workers": 2, "multiprocessing_context": context, "persistent_workers": True}
    epochs = {0: [], 1: []}
    for rank in range(2):
        dataset = ZarrIterableDataset(arrays, batch_size=9, shuffle=True, rank=rank, world_size=2)
        loader = DataLoader(dataset, batch_size=None, **workers)
        for epoch, ranks in epochs.items():
            dataset.set_epoch(epoch)  # persistent workers see it
            batches = list(loader)
            assert len(batches) == len(dataset) == 28
            ranks.append(visited(batches))
    first, second = (torch.cat(ranks) for ranks in epochs.values())
    assert torch.equal(first.sort().values, torch.arange(N))
    assert torch.equal(second.sort().values, torch.arange(N))
    assert not torch.equal(first, second)


def test_a_spawned_worker_reads_what_it_was_sent(arrays):
    dataset = ZarrIterableDataset(arrays, batch_size=50, shuffle=True)
    dataset.set_epoch(3)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert np.array_equal(visited(loader), dataset.batches.sampling.order(3))


@pytest.mark.parametrize("context", ["fork", *SLOW])
def test_samples_by_number_in_workers(arrays, context):
    loader = DataLoader(
        ZarrDataset(arrays), batch_size=50, num_workers=2, multiprocessing_context=context
    )
    assert torch.equal(visited(loader), torch.arange(N))


def test_ranks_are_those_of_torch_distributed(arrays, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        sampling = ZarrIterableDataset(arrays).batches.sampling
        assert (sampling.rank, sampling.world_size) == (0, 1)
        other = ZarrIterableDataset(arrays, rank=2, world_size=3).batches.sampling
        assert (other.rank, other.world_size) == (2, 3)
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture
def card(monkeypatch):
    """An emulated device whose memory holds tensors of the host."""
    used = []
    with emulated(monkeypatch) as runtime:
        adopt, memory = runtime.adopt, interop._CudaMemory

        def adopt_tensors(out):
            return adopt(out.numpy() if isinstance(out, torch.Tensor) else out)

        def synchronize():
            used.append("stream")
            runtime.synchronize()

        event = SimpleNamespace(record=lambda s: None, synchronize=lambda: used.append("event"))
        stream = SimpleNamespace(synchronize=lambda: None)
        cuda = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(synchronize=synchronize))
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
        monkeypatch.setattr(runtime, "adopt", adopt_tensors)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "Event", lambda: event)
        monkeypatch.setattr(interop, "_stream", lambda where: nullcontext())
        monkeypatch.setattr(interop, "_CudaMemory", lambda device: memory(torch.device("cpu")))
        yield SimpleNamespace(used=used, runtime=runtime)


@pytest.mark.parametrize("options", [{}, {"window": 3, "stride": 2}], ids=["samples", "windows"])
def test_chunks_are_decoded_on_a_card_and_handed_out_there(card, arrays, options):
    dataset = ZarrIterableDataset(
        arrays["x"], batch_size=40, shuffle=True, memory=80_000, device="cuda", **options
    )
    order = dataset.batches.sampling.order(0)
    expected = ZarrDataset(arrays["x"], **options).__getitems__(order)
    found = list(dataset)
    assert torch.equal(torch.cat(found), torch.stack(expected))
    assert card.runtime.counts.launches
    assert card.used.count("stream") > card.used.count("event") > 5  # buffers are used again
    both = ZarrDataset(arrays, device="cuda", **options).__getitems__([3, 20])
    card.runtime.synchronize()
    assert torch.equal(both[1]["x"], ZarrDataset(arrays["x"], **options)[20])


def test_page_locked_memory_needs_a_card(arrays):
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.warns(UserWarning, match="no card"):
        dataset = ZarrIterableDataset(arrays, batch_size=10, pin_memory=True)
    assert len(visited(dataset)) == N


def test_page_locked_memory_is_made_by_this_process_only(arrays, monkeypatch):
    asked = []

    class Memory(interop._TorchMemory):
        def __init__(self, *, pin=False):
            asked.append(pin)
            super().__init__()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(interop, "_TorchMemory", Memory)
    dataset = ZarrIterableDataset(arrays, batch_size=10, pin_memory=True)
    next(iter(dataset))
    monkeypatch.setattr(interop, "_in_worker", lambda: SimpleNamespace(id=0, num_workers=2))
    next(iter(dataset))
    assert asked == [True, False]


def test_decoding_on_a_card_is_refused_in_workers(arrays, monkeypatch):
    dataset = ZarrIterableDataset(arrays, batch_size=9)
    dataset.device = torch.device("cuda")
    samples = ZarrDataset(arrays)
    samples.device = torch.device("cuda")
    monkeypatch.setattr(interop, "_in_worker", lambda: object())
    for start in (lambda: iter(dataset), lambda: samples[0]):
        with pytest.raises(RuntimeError, match="num_workers=0"):
            start()


# -- going on -------------------------------------------------------------------------------------


@settings(max_examples=max(20, settings.default.max_examples // 3))
@given(st.integers(0, 60), st.booleans(), st.integers(1, 40), st.integers(0, 3))
def test_any_position_can_be_gone_on_from(stop, shuffle, size, epoch):
    array = zarr_gpu.create_array({}, data=np.arange(97), chunks=5, device="cpu")
    options = {"batch_size": size, "shuffle": shuffle, "shuffle_chunks": 4, "memory": 3000}
    dataset = ZarrIterableDataset(array, **options)
    dataset.set_epoch(epoch)
    whole = [batch.tolist() for batch in dataset]
    stop = min(stop, len(whole))
    running = iter(dataset)
    for _ in range(stop):
        next(running)
    state = pickle.loads(pickle.dumps(dataset.state_dict()))
    other = ZarrIterableDataset(array, **options)
    other.load_state_dict(state)
    assert other.state_dict() == state
    other.set_epoch(epoch)  # as training loops do
    assert [batch.tolist() for batch in other] == whole[stop:]
    assert [batch.tolist() for batch in other] == whole  # the next iteration is a whole one


def test_a_state_of_another_order_is_refused(arrays):
    state = ZarrIterableDataset(arrays, batch_size=8, shuffle=True, seed=1).state_dict()
    for options in (
        {"seed": 2},
        {"batch_size": 9},
        {"rank": 0, "world_size": 2},
        {"shuffle": False},
        {"shuffle_chunks": 3},
    ):
        other = ZarrIterableDataset(
            arrays, **{"batch_size": 8, "shuffle": True, "seed": 1, **options}
        )
        with pytest.raises(ValueError, match="another one"):
            other.load_state_dict(state)
    first, other = (
        ZarrIterableDataset(arrays, batch_size=8, shuffle=True, seed=1) for _ in range(2)
    )
    next(iter(first))
    other.load_state_dict(first.state_dict())
    other.set_epoch(4)  # says that the position is of no use any more
    assert len(visited(other)) == N


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls PyTorch
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [16, None])
def test_torchdata_goes_on_in_the_middle_of_an_epoch(arrays, workers, batch_size):
    pytest.importorskip("torchdata", reason="torchdata is not installed")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        dataset = ZarrIterableDataset(arrays, batch_size=batch_size, shuffle=True, seed=9)
        size = 16 if batch_size is None else None
        context = "fork" if workers else None
        return StatefulDataLoader(
            dataset, batch_size=size, num_workers=workers, multiprocessing_context=context
        )

    whole = [batch["y"].tolist() for batch in loader()]
    first = loader()
    running = iter(first)
    for _ in range(9):
        next(running)
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    assert [batch["y"].tolist() for batch in second] == whole[9:]
    assert len(whole) == len(loader())


def test_datasets_pickle_without_their_threads(arrays):
    dataset = ZarrIterableDataset(arrays, batch_size=16, shuffle=True)
    running = iter(dataset)
    next(running)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(visited(again), visited(dataset))
    assert dataset.batches.samples.kept(1) is not None
    for same in (dataset, pickle.loads(pickle.dumps(dataset))):  # labels are not sent to workers
        assert len(pickle.dumps(same)) < Y.nbytes
    assert pickle.loads(pickle.dumps(ZarrDataset(arrays)))[3]["y"].item() == 3
