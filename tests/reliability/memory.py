"""Measuring and poisoning memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from tests.reliability.layouts import POISON

_SELF = Path("/proc/self")


def _status(name: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


class Peak:
    """Most memory that was resident inside ``with``, above what was at its beginning (Linux)."""

    nbytes = 0

    def __enter__(self) -> Self:
        (_SELF / "clear_refs").write_text("5")  # the high-water mark becomes what is there now
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *exc: object) -> None:
        self.nbytes = _status("VmHWM") - self._before


def poison_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of ``np.empty`` is full of a pattern, as if others had used it before."""
    genuine = np.empty

    def empty(*args: Any, **kwargs: Any) -> Any:
        array = genuine(*args, **kwargs)
        if not array.dtype.hasobject and array.size:
            flat = array.reshape(-1, order="A")
            flat.view(np.uint8)[:] = POISON
        return array

    monkeypatch.setattr(np, "empty", empty)
