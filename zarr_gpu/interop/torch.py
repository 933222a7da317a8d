"""Arrays as tensors of PyTorch, and as datasets that feed a model.

    from zarr_gpu.interop.torch import ZarrDataset, ZarrIterableDataset, read

    weights = read(array, (slice(0, 1000), 3))          # a tensor, without a copy

    dataset = ZarrIterableDataset({"x": images, "y": labels}, batch_size=256, shuffle=True)
    for epoch in range(10):
        dataset.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=None):
            step(batch["x"], batch["y"])

:class:`ZarrIterableDataset` reads whole chunks ahead with threads and shuffles chunks and the
samples of many chunks: prefer it. :class:`ZarrDataset` gives any sample at any time, for samplers
of your own; from compressed arrays it decodes a chunk for each, unless a batch is fetched at once.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from zarr_gpu import tensors
from zarr_gpu._types import Int64, Shape
from zarr_gpu.array import Array
from zarr_gpu.backend import get_backend
from zarr_gpu.errors import MissingDependencyError
from zarr_gpu.interop.batches import MEMORY, Batches, HostMemory
from zarr_gpu.interop.samples import Arrays, Block, Samples
from zarr_gpu.interop.sampling import Balance, merged
from zarr_gpu.values import pop_fields

try:
    import torch
except ImportError as error:
    raise MissingDependencyError(
        "zarr_gpu.interop.torch needs PyTorch: pip install 'zarr-gpu[torch]'"
    ) from error

__all__ = ["ZarrDataset", "ZarrIterableDataset", "read", "to_torch"]


def to_torch(value: Any, *, device: Any = None) -> Any:
    """An array, or what was read from one, as a tensor; with the same memory where that can be.

    A NumPy or CuPy array is taken over as it is, bfloat16 and float8 included; read-only,
    big-endian and reversed ones are copied. An :class:`~zarr_gpu.Array` is read. ``device`` moves
    the result. Raises UnsupportedError for types that PyTorch lacks.
    """
    if isinstance(value, Array):
        return read(value, device=device)
    if isinstance(value, np.ndarray | np.generic):
        value = tensors.as_torch(torch, np.asarray(value))
    elif not isinstance(value, torch.Tensor):
        value = torch.from_dlpack(value)
    return value if device is None else value.to(device)


def read(array: Array, selection: Any = ..., *, out: Any = None, device: Any = None) -> Any:
    """Elements of ``selection`` (as between brackets) as a tensor.

    It is on the array's device or on ``device``: ``"cpu"``, or a CUDA device, which decodes; the
    result is ordered on PyTorch's current stream there. ``out`` is a tensor to be read into. Raises
    UnsupportedError for types that PyTorch lacks.
    """
    if out is not None and device is not None:
        raise ValueError("out has a device of its own; give either out or device")
    if out is not None or device is not None:
        array = array.to(_name(getattr(out, "device", "cpu") if device is None else device))
    where = get_backend(array.device, array.dtype).name
    with _stream(where):
        if out is not None:
            return array.read(selection, out=out)
        _, fields = pop_fields(selection)
        stored = array.dtype[fields] if isinstance(fields, str) else array.dtype
        dtype = tensors.torch_dtype(torch, stored)
        found = to_torch(array.read(selection))
    return found if found.dtype == dtype or stored.isbuiltin != 2 else found.view(dtype)


def _name(device: Any) -> str:
    """What our arrays call a device. Raises ValueError for kinds that they do not know."""
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"arrays are read on 'cpu' or 'cuda', not on {str(device)!r}")
    return str(device)


def _stream(where: str) -> AbstractContextManager[Any]:
    """While it lasts, results are ordered on PyTorch's current stream."""
    if where == "host":
        return nullcontext()
    import cupy

    stream = torch.cuda.current_stream(torch.device(where))
    external: AbstractContextManager[Any] = cupy.cuda.ExternalStream(stream.cuda_stream)
    return external


class _TorchMemory(HostMemory):
    """Tensors on the host, page-locked if wanted."""

    def __init__(self, *, pin: bool = False) -> None:
        self.pin = pin

    def batch(self, shape: Shape, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        kind = tensors.torch_dtype(torch, dtype)
        # PyTorch's default device may be another one.
        tensor = torch.empty(shape, dtype=kind, device="cpu", pin_memory=self.pin)
        return tensors.shared(tensor, dtype), tensor


class _CudaMemory:
    """Tensors on a card. Arrays are decoded there, by threads with streams of their own."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def _empty(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        return torch.empty(shape, dtype=tensors.torch_dtype(torch, dtype), device=self.device)

    def buffer(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        tensor = self._empty(shape, dtype)
        torch.cuda.current_stream(self.device).synchronize()  # its memory may still be in use
        return tensor

    def batch(self, shape: Shape, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        tensor = self._empty(shape, dtype)
        return tensor, tensor

    def gather(self, buffer: Any, index: Int64, out: Any) -> None:
        where = torch.from_numpy(index).to(self.device)
        if buffer.element_size() <= 8:  # few types can be indexed, all integers can
            kind = getattr(torch, {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}[out.itemsize])
            buffer, out = buffer.view(kind), out.view(kind)
        out.copy_(buffer[where])

    def filled(self) -> None:
        import cupy

        cupy.cuda.get_current_stream().synchronize()

    def used(self) -> Callable[[], None]:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        wait: Callable[[], None] = event.synchronize
        return wait


def _in_worker() -> Any:
    return torch.utils.data.get_worker_info()


def _share() -> dict[str, int]:
    info = _in_worker()
    return {"workers": 1} if info is None else {"workers": info.num_workers, "worker": info.id}


def _device(device: Any) -> Any:
    """A CUDA device, or None for the host."""
    if device is None or _name(device) == "cpu":
        return None
    return torch.device(device)


def _refuse_worker(device: Any) -> None:
    if device is not None and _in_worker() is not None:
        raise RuntimeError(
            f"samples cannot be decoded on {device} by workers of a DataLoader: processes do not "
            "share a card. Use num_workers=0, threads read ahead all the same, or device=None"
        )


def _distributed() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def _rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Those of ``torch.distributed``, where it is initialised, unless they are given."""
    if (rank is None) != (world_size is None):
        raise ValueError("give both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        return rank, world_size
    if _distributed():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class ZarrDataset(torch.utils.data.Dataset):  # type: ignore[misc]  # a class without types
    """Samples of arrays by number; a batch of them is fetched by one plan.

    ``arrays``, ``axis``, ``window``, ``stride`` and ``select`` are those of
    :class:`~zarr_gpu.interop.samples.Samples`; ``transform`` is applied to every sample. Of
    several arrays small ones (labels) are read once and kept. With ``device="cuda"`` samples are
    decoded there. Works in workers of a DataLoader, forked or spawned.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        axis: Any = 0,
        window: int | None = None,
        stride: int | None = None,
        select: Any = None,
        transform: Callable[[Any], Any] | None = None,
        device: Any = None,
    ) -> None:
        self.device = _device(device)
        self.samples = Samples(
            arrays, axis=axis, window=window, stride=stride, select=select,
            device=str(self.device or "cpu"),
        )  # fmt: skip
        self.transform = transform
        for member in self.samples.members:
            tensors.torch_dtype(torch, member.dtype)  # says at once what cannot be a tensor

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        """One sample. IndexError outside."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples, which a DataLoader asks for at once."""
        _refuse_worker(self.device)
        n = len(self)
        wanted = np.array([operator.index(i) for i in indices], np.int64)
        wrong = wanted[(wanted < -n) | (wanted >= n)]
        if len(wrong):
            raise IndexError(f"sample {wrong[0]} of {n}")
        if not len(wanted):
            return []
        batches = self._fetch(wanted % n)
        pack, transform = self.samples.pack, self.transform
        found = [pack(values) for values in zip(*batches, strict=True)]
        return found if transform is None else [transform(sample) for sample in found]

    def _fetch(self, wanted: Int64) -> list[Any]:
        """A tensor of all samples for each array."""
        samples = self.samples
        memory: Any = _TorchMemory() if self.device is None else _CudaMemory(self.device)
        one = np.stack((wanted, wanted + 1), axis=1)
        if len(wanted) > 1 and samples.window is not None:
            one = merged(one)
        spans = samples.elements(one)
        found = []
        for number, member in enumerate(samples.members):
            target, batch = memory.batch(samples.batch_shape(member, len(wanted)), member.dtype)
            found.append(batch)
            kept = samples.kept(number) if self.device is None else None
            if kept is not None:
                at = samples.index(samples.everything, wanted)
                memory.gather(kept, at, samples.place(member, target))
                continue
            buffer = target
            if samples.window is not None:
                n = int((spans[:, 1] - spans[:, 0]).sum())
                buffer = memory.buffer((n, *member.rest), member.dtype)
            with _stream("host" if self.device is None else str(self.device)):
                member.read(spans, buffer)
            if samples.window is not None:
                memory.gather(buffer, samples.index(spans, wanted), samples.place(member, target))
        return found


class ZarrIterableDataset(torch.utils.data.IterableDataset):  # type: ignore[misc]  # the same
    """Samples of arrays in order or shuffled, read ahead chunk by chunk.

    Arguments that are not named here are those of :class:`~zarr_gpu.interop.batches.Batches`. With
    ``batch_size`` whole batches are handed out, for ``DataLoader(dataset, batch_size=None)``, which
    is much faster than collating samples; without, single samples. ``rank`` and ``world_size``
    are those of ``torch.distributed`` unless they are given; workers of a DataLoader share what
    their rank has. Each sample is visited once in an epoch.

    Threads decode while the model computes, so ``num_workers=0`` is often best; workers cost
    ``memory`` bytes each, and with several of them batches come from several places in turn.
    With ``device="cuda"`` chunks are decoded there and batches never leave it (``num_workers=0``
    only). ``pin_memory`` makes batches page-locked where there is a card.

    The order depends on the epoch (:meth:`set_epoch`, also for persistent workers), the seed and
    the number of ranks and workers. ``state_dict`` is the position; ``load_state_dict`` goes on
    there exactly. With workers use torchdata's ``StatefulDataLoader``, which keeps it for each.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        batch_size: int | None = None,
        axis: Any = 0,
        window: int | None = None,
        stride: int | None = None,
        select: Any = None,
        shuffle: bool = False,
        shuffle_chunks: int | None = None,
        seed: int = 0,
        block: Block = "chunk",
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        balance: Balance = "none",
        memory: int = MEMORY,
        transform: Callable[[Any], Any] | None = None,
        device: Any = None,
        pin_memory: bool = False,
    ) -> None:
        self.device = _device(device)
        self._ranked = rank is not None or _distributed()
        rank, world_size = _rank(rank, world_size)
        self.batches = Batches(
            arrays, batch_size=batch_size, axis=axis, window=window, stride=stride, select=select,
            shuffle=shuffle, shuffle_chunks=shuffle_chunks, seed=seed, block=block,
            drop_last=drop_last, rank=rank, world_size=world_size, balance=balance,
            memory=memory, transform=transform, device=str(self.device or "cpu"),
        )  # fmt: skip
        for member in self.batches.samples.members:
            tensors.torch_dtype(torch, member.dtype)  # says at once what cannot be a tensor
        if pin_memory and not torch.cuda.is_available():
            warnings.warn("pin_memory does nothing where there is no card", stacklevel=2)
            pin_memory = False
        self.pin_memory = pin_memory
        # Persistent workers have copies of the dataset; all of them see these numbers: the epoch,
        # and whether workers have begun one.
        self._shared = torch.zeros(2, dtype=torch.int64, device="cpu").share_memory_()
        self._at = [0, 0]
        self._resume: tuple[int, int] | None = None
        self._loaded_in = _share()

    @property
    def epoch(self) -> int:
        """The one that the next iteration visits."""
        return int(self._shared[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; before each epoch, and on all ranks."""
        self._check_ranks()
        self._shared[0] = epoch
        if self._resume is not None and self._resume[0] != epoch:
            self._resume = None

    def __len__(self) -> int:
        """Batches, or samples without ``batch_size``, that this rank visits in an epoch."""
        self._check_ranks()
        return len(self.batches)

    def _check_ranks(self) -> None:
        """Every rank would visit all samples, unnoticed."""
        if not self._ranked and _distributed() and torch.distributed.get_world_size() > 1:
            raise RuntimeError(
                "torch.distributed was initialised after this dataset was made, which does not "
                "know its rank: make it afterwards, or give rank and world_size"
            )

    def __iter__(self) -> Iterator[Any]:
        _refuse_worker(self.device)
        self._check_ranks()
        info = _in_worker()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if self._resume is not None and self._loaded_in != _share():
            raise ValueError(
                "the state was loaded into the dataset of another process than the one that "
                "iterates, a worker of a DataLoader: use num_workers=0, or torchdata's "
                "StatefulDataLoader, which keeps the state of each worker"
            )
        epoch, done = self._resume or (self.epoch, 0)
        self._shared[1] = info is not None
        self._resume, at = None, [epoch, done]
        self._at = at
        if self.device is None:
            # Workers hand batches on by shared memory, which is another; and forked ones would
            # fail, as CUDA does after a fork.
            memory: Any = _TorchMemory(pin=self.pin_memory and info is None)
        else:
            memory = _CudaMemory(self.device)

        def passed(n: int) -> None:
            at[1] += n

        return self.batches.iterate(epoch, worker, workers, skip=done, memory=memory, passed=passed)

    def state_dict(self) -> dict[str, Any]:
        """The position of the iteration that began last, in this process; plain numbers.

        Raises RuntimeError where workers of a DataLoader iterate: each has a position of its own.
        """
        if self._resume is None and self._shared[1] and _in_worker() is None:
            raise RuntimeError(
                "workers of a DataLoader visit the samples and know how far they are: ask "
                "torchdata's StatefulDataLoader for the state, or use num_workers=0"
            )
        epoch, done = self._resume or self._at
        return {"epoch": epoch, "done": done, **self.batches.fingerprint(), **_share()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on there.

        Raises ValueError when the order is another one now: other arrays, options, ranks or
        workers.
        """
        self.batches.check(state, **_share())
        self._resume = int(state["epoch"]), int(state["done"])
        self._loaded_in = _share()
        self._shared[0] = self._resume[0]
