"""The same plan for tensors on a device: files to page-locked slabs, slabs to their final memory.

Threads fill slabs with bytes that lie one after the other in a file, of many small tensors or of a
piece of a large one, while those before are copied. No other memory of the host is needed. Where
GPUDirect Storage can be used, whole pages of files go past the host, unless their checksums are to
be compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zarr_gpu import workers
from zarr_gpu.checkpoint.loading import Box, Load, box_nbytes
from zarr_gpu.device import policy
from zarr_gpu.device.direct import PAGE
from zarr_gpu.device.kvikio import THREADS, DeviceReader
from zarr_gpu.errors import StoreError
from zarr_gpu.stores.base import Reader
from zarr_gpu.stores.tensor_files import Tensor, TensorFiles

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zarr_gpu.device.engine import Engine
    from zarr_gpu.device.memory import Slab
    from zarr_gpu.device.runtime import Event, Stream

UNIT_NBYTES = 16 << 20
"""Bytes of a slab; as many share a checksum."""
IN_FLIGHT = 4
"""Slabs that are filled or copied at the same time, beside one for each thread."""


class Segment(NamedTuple):
    """Bytes of a stored tensor, and where on the device they go."""

    row: int
    within: int
    """Of the first byte in the tensor."""
    nbytes: int
    ptr: int


class _Unit(NamedTuple):
    """What one slab holds: how it is filled, and the copies: place in the slab, address, bytes."""

    nbytes: int
    fill: Callable[[memoryview], None]
    copies: list[tuple[int, int, int]]


class DeviceLoad:
    """What is to be read to one device; :meth:`run` reads it."""

    def __init__(
        self,
        files: TensorFiles,
        engine: Engine,
        check: Callable[[int, int, memoryview], None] | None = None,
    ) -> None:
        """``check(row, within, bytes)`` raises where bytes are not those that were written."""
        self._files = files
        self._engine = engine
        self._check = check
        self._segments: list[Segment] = []
        self._boxes: list[tuple[Tensor, Box, int]] = []

    def add(self, tensor: Tensor, ptr: int) -> None:
        """All of a tensor, in C order."""
        if len(tensor.parts) > 1:
            self.add_box(tensor, tuple((0, n) for n in tensor.shape), ptr)
            return
        row = tensor.parts[0].row
        nbytes = int(self._files.nbytes[row])
        for within in range(0, nbytes, UNIT_NBYTES):
            n = min(UNIT_NBYTES, nbytes - within)
            self._segments.append(Segment(row, within, n, ptr + within))

    def add_box(self, tensor: Tensor, box: Box, ptr: int) -> None:
        """A box of elements of a tensor, in C order."""
        nbytes = box_nbytes(tensor.code, box)
        if nbytes <= UNIT_NBYTES:
            if nbytes:
                self._boxes.append((tensor, box, ptr))
            return
        axis = next(d for d, (_, n) in enumerate(box) if n > 1)
        start, n = box[axis]
        step = max(1, n * UNIT_NBYTES // nbytes)
        for at in range(0, n, step):
            m = min(step, n - at)
            cut = (*box[:axis], (start + at, m), *box[axis + 1 :])
            self.add_box(tensor, cut, ptr + nbytes // n * at)

    def run(self) -> None:
        """Read everything; the bytes are on the device when this returns."""
        engine = self._engine
        with engine.lock:
            stream = engine.next_stream()
            ready = engine.runtime.current_stream().record()
            stream.wait(ready)  # whoever used this memory before
        if self._check is None:
            self._read_direct(ready)
        pending: deque[tuple[_Unit, Slab, Future[None]]] = deque()
        try:
            for unit in self._units():
                if len(pending) >= workers.thread_count() + IN_FLIGHT:
                    self._copy(*pending.popleft(), stream)
                slab = engine.slabs.acquire(unit.nbytes)
                view = memoryview(slab.array)[: unit.nbytes]
                pending.append((unit, slab, workers.submit(unit.fill, view)))
            while pending:
                self._copy(*pending.popleft(), stream)
        finally:
            for _, slab, future in pending:
                if not future.cancel():
                    future.exception()  # waits: nothing is written to the slab any more
                slab.release()
            with engine.lock:
                end = stream.record()
            end.wait()

    def _read_direct(self, ready: Event) -> None:
        """Let KvikIO read what it can without cutting pages, and take it from the list."""
        pages = [s for s in self._segments if self._is_paged(s)]
        kvikio = policy.direct_files(self._files.store, self._files.keys) if pages else None
        if kvikio is None:
            return
        ready.wait()  # KvikIO works on no stream
        by_file: dict[int, list[Segment]] = {}
        for segment in pages:
            by_file.setdefault(int(self._files.file[segment.row]), []).append(segment)
        opener = DeviceReader(kvikio, self._files.store)
        tasks = [partial(self._read_file, opener, n, some) for n, some in by_file.items()]
        workers.run(lambda task: task(), tasks, min(len(tasks), THREADS))
        self._segments = [s for s in self._segments if not self._is_paged(s)]

    def _is_paged(self, segment: Segment) -> bool:
        start = int(self._files.offset[segment.row]) + segment.within
        return (start | segment.ptr) % PAGE == 0 and segment.nbytes >= policy.READ_NBYTES

    def _read_file(self, opener: DeviceReader, number: int, segments: list[Segment]) -> None:
        files = self._files
        key, version = files.keys[number], files.readers[number].version

        def look(reader: Reader) -> None:
            if reader.version != version:
                raise StoreError(f"{key!r} of {files.store!r} was replaced after it was opened")

        file = opener.open(key, look=look)
        if file is None:
            raise StoreError(f"{key!r} of {files.store!r} was deleted after it was opened")
        row, within, nbytes = np.array([s[:3] for s in segments], np.int64).T
        address = np.array([s.ptr for s in segments], np.uint64)
        with file:
            file.read(files.offset[row] + within, nbytes, address)

    def _copy(self, unit: _Unit, slab: Slab, future: Future[None], stream: Stream) -> None:
        """Queue the copies of a filled slab."""
        runtime = self._engine.runtime
        try:
            future.result()
        except BaseException:
            slab.release()
            raise
        with self._engine.lock:
            for at, ptr, nbytes in unit.copies:
                runtime.upload(ptr, slab.array[at : at + nbytes], stream)
            slab.retire(stream.record())

    def _units(self) -> Iterator[_Unit]:
        files = self._files
        ordered = sorted(
            self._segments,
            key=lambda s: (int(files.file[s.row]), int(files.offset[s.row]) + s.within),
        )
        some: list[Segment] = []
        size, file, stop = 0, -1, -1
        for segment in ordered:
            here = int(files.file[segment.row])
            start = int(files.offset[segment.row]) + segment.within
            if some and (here != file or start != stop or size + segment.nbytes > UNIT_NBYTES):
                yield self._unit(some)
                some, size = [], 0
            some.append(segment)
            size += segment.nbytes
            file, stop = here, start + segment.nbytes
        if some:
            yield self._unit(some)
        for tensor, box, ptr in self._boxes:
            nbytes = box_nbytes(tensor.code, box)
            yield _Unit(nbytes, partial(self._fill_box, tensor, box), [(0, ptr, nbytes)])

    def _unit(self, segments: list[Segment]) -> _Unit:
        copies, at = [], 0
        for segment in segments:
            copies.append((at, segment.ptr, segment.nbytes))
            at += segment.nbytes
        return _Unit(at, partial(self._fill, segments), copies)

    def _fill(self, segments: list[Segment], memory: memoryview) -> None:
        files, first = self._files, segments[0]
        start = int(files.offset[first.row]) + first.within
        files.readers[int(files.file[first.row])].read_into(start, memory)
        if self._check is not None:
            at = 0
            for segment in segments:
                self._check(segment.row, segment.within, memory[at : at + segment.nbytes])
                at += segment.nbytes

    def _fill_box(self, tensor: Tensor, box: Box, memory: memoryview) -> None:
        load = Load(self._files)
        load.add_box(tensor, box, memory)
        load.run()
