"""Batches of samples in a given order, read ahead by threads while the caller works.

    batches = Batches({"image": images, "label": labels}, batch_size=256, shuffle=True, seed=1)
    for epoch in range(10):
        batches.set_epoch(epoch)
        for batch in batches:
            step(batch["image"], batch["label"])

Batches are NumPy arrays of their own memory; ``zarr_gpu.interop.torch`` and ``.jax`` make tensors
of them. Whole chunks are read into a few buffers of equal size, which are used again and again and
never take more than ``memory`` bytes together. Beside them there are the stored bytes of the chunks
that are being read, batches, and small ones of several arrays (labels), which are read once and
kept. Knows no framework: a :class:`Memory` makes batches out of buffers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Int64, Shape
from zarr_gpu.interop.samples import Arrays, Block, Samples
from zarr_gpu.interop.sampling import Balance, Group, Sampling

if TYPE_CHECKING:
    from concurrent.futures import Future

MEMORY = 256 << 20
"""Bytes of all buffers, unless said otherwise."""
BUFFERS = 3
"""One being used, two being filled."""
MOST_BUFFERS = 8
TOGETHER, TOGETHER_NBYTES = 256, 1 << 20
"""Samples handed out one by one share memory, at most so many or of this size."""
ORDER_NBYTES = 32
"""What sorting takes for each sample, which matters where samples are single numbers."""
IN_ORDER_NBYTES = 16 << 20
"""What is read at once where nothing is shuffled."""


class Memory(Protocol):
    """Where samples are kept and handed out."""

    def buffer(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Memory that arrays can be read into."""

    def batch(self, shape: Shape, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """Memory that :meth:`gather` writes to, and the same as it is handed out."""

    def gather(self, buffer: Any, index: Int64, out: Any) -> None:
        """Rows of a buffer."""

    def filled(self) -> None:
        """Called by the thread that has filled buffers."""

    def used(self) -> Callable[[], None]:
        """Called after the last use of buffers; what it returns, before they are filled again."""


class HostMemory:
    """NumPy arrays."""

    def buffer(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        return np.empty(shape, dtype)

    def batch(self, shape: Shape, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        array = np.empty(shape, dtype)
        return array, array

    def gather(self, buffer: Any, index: Int64, out: Any) -> None:
        np.take(buffer, index, axis=0, out=out, mode="clip")  # other modes write by way of a copy

    def filled(self) -> None:
        pass

    def used(self) -> Callable[[], None]:
        return _nothing


def _nothing() -> None:
    pass


@dataclass(slots=True, eq=False)
class _Slot:
    """Buffers of one group, one for each array, made when they are needed."""

    buffers: list[Any] = field(default_factory=list)
    ready: Callable[[], None] = _nothing
    """Waits until they can be written to."""


class Batches:
    """The samples of arrays (see :class:`~zarr_gpu.interop.samples.Samples`) in batches.

    ``batch_size=None`` gives single samples. With ``shuffle``, chunks come in a random order, and
    the samples of ``shuffle_chunks`` of them at a time are mixed: as many as fit, unless it is
    given (do that where the order must not depend on ``memory``). ``block="shard"`` visits whole
    shards, which costs fewer requests from remote stores. ``rank`` of ``world_size`` visits its
    part of the samples; ``balance`` is described in :class:`~zarr_gpu.interop.sampling.Sampling`.
    ``transform`` is applied to what is handed out. ``device`` decodes, which must suit the
    :class:`Memory`.

    Raises ValueError when ``memory`` bytes do not hold what has to be in memory together.
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
        rank: int = 0,
        world_size: int = 1,
        balance: Balance = "none",
        memory: int = MEMORY,
        transform: Callable[[Any], Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.samples = Samples(
            arrays, axis=axis, window=window, stride=stride, select=select, device=device
        )
        edges = self.samples.edges(block)
        self.memory = memory
        self.transform = transform
        self._next, self._at = (0, 0), [0, 0]
        """Epoch, and the number of samples of it before the next iteration, and in the last one;
        each iteration has a list of its own."""
        self.sampling = Sampling(
            edges=edges, shuffle=shuffle, seed=seed, batch_size=batch_size, drop_last=drop_last,
            group=self._group(edges, shuffle, shuffle_chunks), rank=rank, world_size=world_size,
            balance=balance,
        )  # fmt: skip
        self._elements = self.samples.most_elements(edges, self.sampling.group)
        if self._elements * self.samples.nbytes > memory:
            raise ValueError(
                f"{self.sampling.group} blocks of {int(np.diff(edges).max())} samples of "
                f"{[member.array.name for member in self.samples.members]} take "
                f"{self._elements * self.samples.nbytes} bytes, memory={memory}: raise it, lower "
                "shuffle_chunks, or store the array in shorter chunks along the axis of samples"
            )

    def _group(self, edges: Int64, shuffle: bool, wanted: int | None) -> int:
        """Blocks that are in memory together."""
        n = max(1, len(edges) - 1)
        if shuffle and wanted is not None:
            return min(wanted, n) if wanted > 0 else wanted
        most = self.memory // BUFFERS if shuffle else min(IN_ORDER_NBYTES, self.memory // BUFFERS)
        one = self.samples.most_elements(edges, 1) * self.samples.nbytes
        one += ORDER_NBYTES * int(np.diff(edges).max(initial=0))
        return max(1, min(n, most // max(1, one)))

    def __len__(self) -> int:
        """Batches (or samples) of this rank in an epoch."""
        return self.sampling.batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; on all ranks."""
        if self._next[0] != epoch:
            self._next = epoch, 0

    def __iter__(self) -> Iterator[Any]:
        epoch, done = self._next
        self._next, at = (epoch, 0), [epoch, done]
        self._at = at

        def passed(n: int) -> None:
            at[1] += n

        return self.iterate(epoch, skip=done, passed=passed)

    def state_dict(self) -> dict[str, Any]:
        """The position of the iteration that began last; plain numbers."""
        epoch, done = self._next if self._next[1] else self._at
        return {"epoch": epoch, "done": done, **self.fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on there. ValueError when the order is another one now."""
        self.check(state)
        self._next = int(state["epoch"]), int(state["done"])
        self._at = list(self._next)

    @property
    def buffers(self) -> int:
        """The number of groups that are in memory at a time."""
        each = max(1, self._elements * self.samples.nbytes)
        return max(1, min(MOST_BUFFERS, self.memory // each))

    def fingerprint(self) -> dict[str, Any]:
        """What the order depends on, beside epoch and worker.

        The rank is not among it: all ranks get equally far, so the state of one is that of all.
        """
        s = self.sampling
        names = ["shuffle", "batch_size", "drop_last", "balance", "world_size"]
        names += ["seed", "group"] if s.shuffle else []
        return {**{name: getattr(s, name) for name in names}, "samples": s.n,
                "blocks": len(s.edges) - 1 if s.shuffle else 0}  # fmt: skip

    def check(self, state: Mapping[str, Any], **more: Any) -> None:
        """Raise ValueError unless a position in ``state`` means the same here."""
        for name, value in {**self.fingerprint(), **more}.items():
            if state.get(name) != value:
                raise ValueError(
                    f"cannot go on where the state was taken: {name} was {state.get(name)!r} and "
                    f"is {value!r}, the order would be another one"
                )

    def iterate(
        self,
        epoch: int,
        worker: int = 0,
        workers: int = 1,
        *,
        skip: int = 0,
        memory: Memory | None = None,
        passed: Callable[[int], None] = lambda n: None,
    ) -> Iterator[Any]:
        """One epoch of one worker after its first ``skip`` samples.

        ``passed`` is told the number of samples of each before it is handed out.
        """
        memory = HostMemory() if memory is None else memory
        size = self.sampling.batch_size or self._at_once()
        left = self.sampling.share(worker, workers) - skip
        filled, batch = 0, _NO_BATCH
        groups = self.sampling.groups(epoch, worker, workers, skip=skip)
        for group, at, spans, buffers in self._loaded(groups, memory):
            while at < len(group):
                if not filled:
                    batch = self._new(memory, min(size, left))
                step = min(len(batch) - filled, len(group) - at)
                index = self.samples.index(spans, group.order[at : at + step])
                batch.gather(memory, buffers, index, filled)
                at, filled = at + step, filled + step
                if filled == len(batch):
                    filled, left = 0, left - len(batch)
                    if self.sampling.batch_size is None:
                        for values in zip(*batch.values, strict=True):
                            passed(1)
                            yield self._handed_out(values)
                    else:
                        passed(len(batch))
                        yield self._handed_out(batch.values)

    def _at_once(self) -> int:
        """Single samples that are put together at a time."""
        nbytes = max(1, self.samples.nbytes * self.samples.length)
        return max(1, min(TOGETHER, TOGETHER_NBYTES // nbytes))

    def _loaded(
        self, groups: Iterator[tuple[Group, int]], memory: Memory
    ) -> Iterator[tuple[Group, int, Int64, list[Any]]]:
        """Groups in memory, with their elements; each until the next is asked for."""
        free = [_Slot() for _ in range(self.buffers)]
        waiting: deque[tuple[Group, int, Int64, _Slot, Future[None]]] = deque()
        try:
            while True:
                while free:
                    found = next(groups, None)
                    if found is None:
                        break
                    spans = self.samples.elements(found[0].spans)
                    slot = free.pop()
                    if not slot.buffers:  # by this thread: devices have streams for each
                        slot.buffers = self._buffers(memory)
                    task = workers.submit(self._fill, (memory, spans, slot))
                    waiting.append((*found, spans, slot, task))
                if not waiting:
                    return
                group, at, spans, slot, task = waiting.popleft()
                task.result()
                yield group, at, spans, slot.buffers
                slot.ready = memory.used()
                free.append(slot)
        finally:
            for *_, task in waiting:
                task.cancel()  # not waited for: this may be run by the very thread that fills

    def _fill(self, job: tuple[Memory, Int64, _Slot]) -> None:
        memory, spans, slot = job
        slot.ready()
        self.samples.load(spans, slot.buffers)
        memory.filled()

    def _buffers(self, memory: Memory) -> list[Any]:
        members = self.samples.members
        return [memory.buffer((self._elements, *m.rest), m.dtype) for m in members]

    def _new(self, memory: Memory, n: int) -> _Batch:
        shapes = [(self.samples.batch_shape(m, n), m.dtype) for m in self.samples.members]
        pairs = [memory.batch(shape, dtype) for shape, dtype in shapes]
        views = [
            self.samples.place(member, target)
            for member, (target, _) in zip(self.samples.members, pairs, strict=True)
        ]
        return _Batch(n, views, [value for _, value in pairs])

    def _handed_out(self, values: Sequence[Any]) -> Any:
        value = self.samples.pack(values)
        return value if self.transform is None else self.transform(value)


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Memory of ``n`` samples of every array, and the same as it is handed out."""

    n: int
    targets: list[Any]
    values: list[Any]

    def __len__(self) -> int:
        return self.n

    def gather(self, memory: Memory, buffers: list[Any], index: Int64, at: int) -> None:
        for buffer, target in zip(buffers, self.targets, strict=True):
            memory.gather(buffer, index, target[at : at + len(index)])


_NO_BATCH = _Batch(0, [], [])
