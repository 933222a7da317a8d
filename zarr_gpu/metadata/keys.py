"""Chunk key encodings: from chunk coordinates to store keys (Zarr v3 core, and the v2 rule).

>>> ChunkKeyEncoding(name="default", separator="/").key((1, 0))
'c/1/0'
>>> ChunkKeyEncoding(name="v2", separator=".").key((1, 0))
'1.0'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zarr_gpu._types import JSON, Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkKeyEncoding:
    """``default`` (``c/0/1``, 0-d: ``c``) or ``v2`` (``0.1``, 0-d: ``0``)."""

    name: Literal["default", "v2"] = "default"
    separator: Literal["/", "."] = "/"

    def key(self, chunk: Sequence[int]) -> str:
        """Key of one chunk, relative to the array."""
        parts = [str(i) for i in chunk]
        if self.name == "default":
            return self.separator.join(["c", *parts])
        return self.separator.join(parts) if parts else "0"

    def keys(self, chunks: Int64, prefix: str = "") -> list[str]:
        """Keys of many chunks, shape (n, ndim), each preceded by ``prefix``."""
        n, ndim = chunks.shape
        if ndim == 0:
            return [prefix + self.key(())] * n
        head = prefix + ("c" + self.separator if self.name == "default" else "")
        form = head.replace("%", "%%") + self.separator.join(["%d"] * ndim)
        return [form % row for row in map(tuple, chunks.tolist())]

    def coordinates(self, key: str, ndim: int) -> tuple[int, ...] | None:
        """Inverse of :meth:`key`; None when ``key`` is no chunk key of an ``ndim``-d array."""
        parts = key.split(self.separator)
        if self.name == "default":
            if parts[0] != "c":
                return None
            parts = parts[1:]
        elif ndim == 0:
            return () if key == "0" else None
        if len(parts) != ndim:
            return None
        if not all(p.isascii() and p.isdigit() and (p == "0" or p[0] != "0") for p in parts):
            return None
        return tuple(int(p) for p in parts)

    def to_json(self) -> JSON:
        return {"name": self.name, "configuration": {"separator": self.separator}}
