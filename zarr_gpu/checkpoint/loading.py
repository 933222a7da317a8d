"""One plan for a whole load: which bytes of which files go to which memory.

Tensors that lie one after the other in a file are read by one call, straight into their own memory;
large ones in pieces, by several threads. Of a slice only its bytes are read, or, where its rows are
short, copied from the mapped file.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import NDArray
from zarr_gpu.config import config
from zarr_gpu.metadata.safetensors import TYPES
from zarr_gpu.stores.tensor_files import Part, Tensor, TensorFiles

BATCH_NBYTES = 8 << 20
"""Bytes of one read: enough for the call not to matter, few enough for threads to share a load."""
REMOTE_NBYTES = 32 << 20
MOST_BUFFERS = 512
"""Of one read; Linux takes 1024."""
RUN_NBYTES = 128 << 10
"""Shorter rows are not worth a read of their own."""
WINDOW_NBYTES = 8 << 20
"""Bytes of rows that are read at once where a file cannot be mapped."""

Box: TypeAlias = tuple[tuple[int, int], ...]
"""Start and extent along each axis."""


class Wanted(NamedTuple):
    """Bytes of a file, and where they go."""

    file: int
    offset: int
    memory: memoryview


class Rows(NamedTuple):
    """Rows of a stored box, in C order, that go to an array of single bytes."""

    file: int
    offset: int
    shape: tuple[int, ...]
    """Of the stored bytes; the last axis is bytes that follow each other, also in ``into``."""
    box: Box
    into: NDArray


class Load:
    """What is to be read; :meth:`run` reads it."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self._wanted: list[Wanted] = []
        self._rows: list[Rows] = []

    def add(self, tensor: Tensor, memory: memoryview) -> None:
        """All of a tensor, in C order."""
        files = self._files
        if len(tensor.parts) == 1:
            row = tensor.parts[0].row
            if len(memory):
                self._wanted.append(Wanted(int(files.file[row]), int(files.offset[row]), memory))
            return
        self.add_box(tensor, tuple((0, n) for n in tensor.shape), memory)

    def add_box(self, tensor: Tensor, box: Box, memory: memoryview) -> None:
        """A box of elements of a tensor, in C order."""
        if not len(memory):
            return
        nbytes, per = _bytes_and_elements(tensor.code)
        box = _in_bytes(box, nbytes, per)
        into: NDArray = np.frombuffer(memory, np.uint8).reshape([n for _, n in box])
        for part in tensor.parts:
            stored = _in_bytes(tuple(zip(part.offset, part.shape, strict=True)), nbytes, per)
            common = [
                (max(a, b), min(a + n, b + m)) for (a, n), (b, m) in zip(box, stored, strict=True)
            ]
            if any(start >= stop for start, stop in common):
                continue
            sides = list(zip(common, box, strict=True))
            place = into[tuple(slice(a - at, b - at) for (a, b), (at, _) in sides)]
            inside = tuple((a - at, b - a) for (a, b), (at, _) in zip(common, stored, strict=True))
            self._add_part(part, tuple(n for _, n in stored), inside, place)

    def _add_part(self, part: Part, shape: tuple[int, ...], box: Box, into: NDArray) -> None:
        file, base = int(self._files.file[part.row]), int(self._files.offset[part.row])
        strides = [1] * len(shape)
        for d in range(len(shape) - 1, 0, -1):
            strides[d - 1] = strides[d] * shape[d]
        # Axes from the last one on that are taken as a whole, here and there, are one run of bytes.
        d = len(shape) - 1
        while d and box[d] == (0, shape[d]) and into[(0,) * (d - 1)].flags.c_contiguous:
            d -= 1
        stride = strides[d]
        start, run = box[d][0] * stride, box[d][1] * stride
        into = into.reshape(*into.shape[:d], run)
        outer = [range(start, start + n) for start, n in box[:d]]
        if run < RUN_NBYTES and any(len(r) > 1 for r in outer):
            stored = (*shape[:d], shape[d] * stride)
            self._rows.append(Rows(file, base, stored, (*box[:d], (start, run)), into))
            return
        for where in product(*outer):
            number = tuple(i - r.start for i, r in zip(where, outer, strict=True))
            at = sum(i * n for i, n in zip(where, strides, strict=False))
            self._wanted.append(Wanted(file, base + at + start, into[number].data))

    def run(self) -> None:
        """Read everything. Raises StoreError; some memory has been filled then."""
        local = self._files.store.local
        size = BATCH_NBYTES if local else REMOTE_NBYTES
        batches = list(_batches(self._wanted, size))
        threads = workers.thread_count() if local else config.current.io_threads
        tasks: list[Callable[[], None]] = []
        for file, offset, buffers in batches:
            tasks.append(partial(self._files.readers[file].scatter, offset, buffers))
        with _Maps(self._files) as maps:
            for rows in self._rows:
                tasks.extend(partial(self._copy, maps, piece) for piece in _cut(rows))
            total = sum(len(wanted.memory) for wanted in self._wanted)
            if local and total < BATCH_NBYTES // 8 and len(tasks) < 2 * threads:
                threads = 1
            workers.run(lambda task: task(), tasks, min(threads, max(1, len(tasks))))

    def _copy(self, maps: _Maps, rows: Rows) -> None:
        mapped = maps.get(rows.file)
        if mapped is None:
            self._read_windows(rows)
            return
        stored: NDArray = np.ndarray(rows.shape, np.uint8, mapped, rows.offset)
        _copy_rows(rows.into, stored[tuple(slice(a, a + n) for a, n in rows.box)])

    def _read_windows(self, rows: Rows) -> None:
        """Rows of the first axis as a whole, some at a time."""
        file, base, shape, box, into = rows
        nbytes = math.prod(shape[1:])
        first, n = box[0]
        step = max(1, WINDOW_NBYTES // nbytes)
        inner = tuple(slice(a, a + m) for a, m in box[1:])
        for at in range(0, n, step):
            m = min(step, n - at)
            data = self._files.readers[file].read(base + (first + at) * nbytes, m * nbytes)
            stored: NDArray = np.frombuffer(data, np.uint8).reshape(m, *shape[1:])
            into[at : at + m] = stored[(slice(None), *inner)]


def box_nbytes(code: str, box: Box) -> int:
    """Bytes of a box of elements. Raises ValueError where it has parts of bytes."""
    return math.prod(n for _, n in _in_bytes(box, *_bytes_and_elements(code)))


def _bytes_and_elements(code: str) -> tuple[int, int]:
    """Bytes that hold a whole number of elements, and how many these are."""
    bits = TYPES[code].bits
    return (bits // 8, 1) if bits % 8 == 0 else {4: (1, 2), 6: (3, 4)}[bits]


def _in_bytes(box: Box, nbytes: int, per: int) -> Box:
    """The same box with a last axis of bytes."""
    if per == 1:
        return (*box, (0, nbytes))
    if not box:
        raise ValueError("elements of less than a byte need an axis")
    start, n = box[-1]
    if start % per or n % per:
        raise ValueError(f"a slice from {start} to {start + n} begins or ends inside a byte")
    return (*box[:-1], (start // per * nbytes, n // per * nbytes))


def _batches(wanted: Sequence[Wanted], most: int) -> Iterator[tuple[int, int, list[memoryview]]]:
    """Reads of at most ``most`` bytes: file, offset, and buffers that follow each other."""
    buffers: list[memoryview] = []
    file = start = stop = -1
    for this, at, memory in sorted(wanted, key=lambda w: (w.file, w.offset)):
        done, n = 0, len(memory)
        while done < n:
            room = most - (stop - start)
            if buffers and (
                this != file or at + done != stop or room <= 0 or len(buffers) >= MOST_BUFFERS
            ):
                yield file, start, buffers
                buffers = []
            if not buffers:
                file, start, stop, room = this, at + done, at + done, most
            take = min(room, n - done)
            buffers.append(memory if take == n else memory[done : done + take])
            done += take
            stop += take
    if buffers:
        yield file, start, buffers


def _cut(rows: Rows) -> Iterator[Rows]:
    """Pieces for threads, along the first axis that has more than one row."""
    nbytes = rows.into.nbytes
    d = next((d for d, (_, n) in enumerate(rows.box) if n > 1), 0)
    start, n = rows.box[d]
    if d == len(rows.box) - 1:
        yield rows
        return
    step = max(1, n * (BATCH_NBYTES // 4) // nbytes)
    for at in range(0, n, step):
        m = min(step, n - at)
        box = (*rows.box[:d], (start + at, m), *rows.box[d + 1 :])
        yield rows._replace(box=box, into=rows.into[(slice(None),) * d + (slice(at, at + m),)])


class _Maps:
    """Files of this machine, mapped while a load runs."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self._maps: dict[int, mmap.mmap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for mapped in self._maps.values():
            with suppress(BufferError):  # a traceback still has a view of it
                mapped.close()

    def get(self, file: int) -> Any:
        """The mapped file, None where there is none to map."""
        if file not in self._maps:
            mapped = self._files.readers[file].map()
            if mapped is None:
                return None
            self._maps.setdefault(file, mapped)
        return self._maps[file]


def _copy_rows(into: NDArray, values: NDArray) -> None:
    """Rows as single items, which NumPy copies faster than their bytes."""
    row = np.dtype((np.void, values.shape[-1]))
    into.view(row)[...] = values.view(row)
