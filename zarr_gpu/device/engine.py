"""What all reads and writes on one device share: its runtime, streams and page-locked memory."""

from __future__ import annotations

import threading

from zarr_gpu.config import config
from zarr_gpu.device.memory import Budget, PinnedRing
from zarr_gpu.device.runtime import Runtime, Stream

STREAMS = 3
"""Waves in flight: one being copied, one being computed, one waiting."""
TABLE_NBYTES = 1 << 20


class Engine:
    """One per device and process; ``lock`` guards the runtime, which serves a thread at a time."""

    def __init__(self, runtime: Runtime) -> None:
        settings = config.current.gpu
        self.runtime = runtime
        self.lock = threading.RLock()
        self.slabs = PinnedRing(runtime, settings.slab_nbytes, keep=STREAMS + 1)
        self.tables = PinnedRing(runtime, TABLE_NBYTES, keep=4 * STREAMS)
        self.budget = Budget()
        self.streams: list[Stream] = [runtime.new_stream() for _ in range(STREAMS)]
        self._turn = 0

    def next_stream(self) -> Stream:
        """The streams take turns."""
        self._turn = (self._turn + 1) % len(self.streams)
        return self.streams[self._turn]

    def wave_nbytes(self, scratch: float = 0.0) -> int:
        """Decoded bytes of the chunks that may be in work at a time.

        ``scratch`` is the memory that decoders need beside, per decoded byte.
        """
        with self.lock:
            nbytes = self.budget.wave_nbytes(
                self.runtime.free_nbytes(), scratch=scratch, in_flight=STREAMS
            )
        wanted: int = config.current.gpu.wave_nbytes
        return min(nbytes, wanted) if wanted else nbytes

    def make_room(self, rows: int) -> bool:
        """After an allocation failed: wait for work under way and make waves smaller.

        False when a wave of ``rows`` chunks cannot be made smaller.
        """
        with self.lock:
            events = [stream.record() for stream in self.streams]
        for event in events:
            event.wait()
        with self.lock:
            return self.budget.halve() and rows > 0
