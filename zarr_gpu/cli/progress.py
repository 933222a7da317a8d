"""A line on stderr that says how far a job is, how fast it goes, and how long it will take.

Only on terminals: what is written into files and pipes stays clean.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

EVERY_SECONDS = 0.1
WIDTH = 24


def size(n: float) -> str:
    """``"1.5 MiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def clock(seconds: float) -> str:
    """``"1:05"``, ``"2:00:00"``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    head = f"{hours}:{rest // 60:02}" if hours else f"{rest // 60}"
    return f"{head}:{rest % 60:02}"


class Bar:
    """A progress bar; see :class:`zarr_gpu.tools.progress.Progress`. Safe to call from threads."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.shown = not quiet and self._stream.isatty()
        self._lock = threading.Lock()
        self._what, self._unit = "", "B"
        self._total = self._done = self._start_done = 0
        self._start = self._drawn = 0.0

    def begin(self, what: str, total: int, unit: str = "B", done: int = 0) -> None:
        """A part of the job begins."""
        with self._lock:
            self._what, self._unit = what, unit
            self._total, self._done, self._start_done = total, done, done
            self._start = time.monotonic()
            self._drawn = 0.0

    def advance(self, n: int) -> None:
        """``n`` more are done."""
        with self._lock:
            self._done += n
            now = time.monotonic()
            if self.shown and now - self._drawn >= EVERY_SECONDS:
                self._drawn = now
                self._draw(now)

    def end(self) -> None:
        """The part is over."""
        with self._lock:
            if self.shown:
                self._draw(time.monotonic())
                self._stream.write("\n")
                self._stream.flush()

    def _draw(self, now: float) -> None:
        self._stream.write("\r" + self.line(now - self._start) + "\x1b[K")
        self._stream.flush()

    def line(self, seconds: float) -> str:
        """What is drawn after ``seconds``."""
        moved = self._done - self._start_done
        rate = moved / seconds if seconds > 0 else 0.0
        name = self._what if len(self._what) <= WIDTH else "..." + self._what[3 - WIDTH :]
        if self._unit == "B":
            amount, speed = size(self._done), f"{size(rate)}/s"
            of = size(self._total)
        else:
            amount, speed = f"{self._done:,} {self._unit}", f"{rate:,.0f}/s"
            of = f"{self._total:,}"
        if not self._total:
            return f"{name}  {amount}  {speed}"
        part = min(1.0, self._done / self._total)
        full = round(part * WIDTH)
        left = clock((self._total - self._done) / rate) if rate > 0 else "?"
        bar = "█" * full + "░" * (WIDTH - full)
        return f"{name}  {bar} {part:4.0%}  {amount} of {of}  {speed}  {left} left"
