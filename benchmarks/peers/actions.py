"""What a row asks for, done by any engine: a part outside the clock, and the part that is timed.

Selections are computed from the row's name, so every process has the same.
"""

from __future__ import annotations

import math
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .engines import Engine
from .rows import Row
from .sources import NDArray, Shape, same_bits


class Action:
    """``ready``, ``run`` (timed) and ``done`` once per repeat, all with a fresh handle."""

    def __init__(self, engine: Engine, row: Row, scale: str, path: str, values: NDArray) -> None:
        self.engine, self.row, self.scale, self.path = engine, row, scale, path
        self.values = values
        self.shape = row.dataset.shape(scale)
        self.rng = np.random.default_rng(zlib.crc32(row.name.encode()))
        self.handle: Any = None
        self.prepare()

    def prepare(self) -> None:
        """What every repeat shares: the selection."""

    def ready(self) -> None:
        self.handle = self.engine.open(self.path)

    def run(self) -> Any:
        raise NotImplementedError

    def done(self) -> None:
        self.engine.close(self.handle)
        self.handle = None

    def problem(self, result: Any) -> str | None:
        """What is wrong with a result; called before ``done``."""
        return None if same_bits(result, self.expected()) else "other values than were stored"

    def expected(self) -> Any:
        raise NotImplementedError


class Whole(Action):
    def run(self) -> Any:
        return self.engine.read(self.handle, ...)

    def expected(self) -> Any:
        return self.values


class Slice(Action):
    """One basic selection."""

    selection: tuple[Any, ...]

    def run(self) -> Any:
        return self.engine.read(self.handle, self.selection)

    def expected(self) -> Any:
        return self.values[self.selection]


class Stride(Slice):
    selection = (slice(None, None, 8), slice(None, None, 8))


class PlaneFirst(Slice):
    def prepare(self) -> None:
        self.selection = (int(self.rng.integers(self.shape[0])),)


class PlaneLast(Slice):
    def prepare(self) -> None:
        self.selection = (slice(None), slice(None), int(self.rng.integers(self.shape[2])))


class Chunks(Action):
    """Many reads of a random chunk each, one after the other."""

    def prepare(self) -> None:
        chunks = self.row.dataset.chunk_shape(self.scale)
        grid = [n // c for n, c in zip(self.shape, chunks, strict=True)]
        total, count = math.prod(grid), self.row.times(self.scale)
        flat = self.rng.choice(total, min(total, count), replace=False)
        self.selections: list[tuple[Any, ...]] = [
            tuple(slice(int(i) * c, int(i + 1) * c) for i, c in zip(index, chunks, strict=True))
            for index in np.stack(np.unravel_index(flat, grid), axis=1)
        ]

    def run(self) -> Any:
        read, handle = self.engine.read, self.handle
        return [read(handle, selection) for selection in self.selections]

    def problem(self, result: Any) -> str | None:
        for selection, found in zip(self.selections, result, strict=True):
            if not same_bits(found, self.values[selection]):
                return f"other values than were stored at {selection}"
        return None


class ChunksByTwo(Chunks):
    """The same reads, issued by two threads."""

    def run(self) -> Any:
        read, handle = self.engine.read, self.handle
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda selection: read(handle, selection), self.selections))


class Elements(Chunks):
    def prepare(self) -> None:
        count = self.row.times(self.scale)
        index = [self.rng.integers(n, size=count) for n in self.shape]
        self.selections = [tuple(map(int, i)) for i in zip(*index, strict=True)]


class Rows(Action):
    """Orthogonal selection of rows, in increasing order as HDF5 wants them."""

    def prepare(self) -> None:
        n = self.shape[0]
        count = min(n, self.row.times(self.scale))
        self.index = np.sort(self.rng.choice(n, count, replace=False))

    def run(self) -> Any:
        return self.engine.read_rows(self.handle, self.index)

    def expected(self) -> Any:
        return self.values[self.index]


class Coordinates(Action):
    def prepare(self) -> None:
        count = self.row.times(self.scale)
        self.index = tuple(self.rng.integers(n, size=count) for n in self.shape)

    def run(self) -> Any:
        return self.engine.read_points(self.handle, self.index)

    def expected(self) -> Any:
        return self.values[self.index]


class Mask(Action):
    """One element of a thousand."""

    def prepare(self) -> None:
        self.mask = np.zeros(self.shape, bool)
        flat = self.rng.choice(self.mask.size, self.mask.size // 1000, replace=False)
        self.mask.reshape(-1)[flat] = True

    def run(self) -> Any:
        return self.engine.read_mask(self.handle, self.mask)

    def expected(self) -> Any:
        return self.values[self.mask]


def remove(path: str) -> None:
    """A file, a directory, or nothing."""
    if Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


class Write(Action):
    """A whole array into a new file or directory, which is not there before."""

    def prepare(self) -> None:
        self.values = np.array(self.values)  # in memory, and no view of a file

    def ready(self) -> None:
        remove(self.path)
        self.handle = self.engine.create(self.path, self.row.dataset, self.shape, self.scale)

    def run(self) -> Any:
        self.engine.write(self.handle, ..., self.values)
        self.engine.flush(self.handle)

    def problem(self, result: Any) -> str | None:
        """Read back by the same engine; another reads it as well, see ``__main__``."""
        self.engine.close(self.handle)
        self.handle = self.engine.open(self.path)
        if same_bits(self.engine.read(self.handle, ...), self.values):
            return None
        return "other values are stored than were written"


class Append(Write):
    """One slab after the other, to an array that begins empty."""

    def ready(self) -> None:
        remove(self.path)
        shape: Shape = (0, *self.shape[1:])
        self.handle = self.engine.create(self.path, self.row.dataset, shape, self.scale)

    def run(self) -> Any:
        handle = self.handle
        for i in range(len(self.values)):
            handle = self.engine.append(handle, self.values[i : i + 1])
        self.engine.flush(handle)
        self.handle = handle


class Open(Action):
    """Open one array again and again, and ask for its shape."""

    def ready(self) -> None:
        pass

    def run(self) -> Any:
        for _ in range(self.row.times(self.scale)):
            array = self.engine.open(self.path)
            shape = tuple(array.shape)
            self.engine.close(array)
        return shape

    def done(self) -> None:
        pass

    def problem(self, result: Any) -> str | None:
        return None if result == self.shape else f"a wrong shape: {result}"


class Touch(Open):
    """Open a group and all members."""

    def run(self) -> Any:
        return self.engine.touch(self.path)

    def problem(self, result: Any) -> str | None:
        wanted = 100 * self.row.dataset.members
        return None if result == wanted else f"{result} elements, not {wanted}"


class List(Touch):
    """Names of all members of a group."""

    def run(self) -> Any:
        return self.engine.list(self.path)

    def problem(self, result: Any) -> str | None:
        wanted = [f"a{i:04}" for i in range(self.row.dataset.members)]
        return None if result == wanted else "wrong names"


ACTIONS: dict[str, Callable[..., Action]] = {
    "whole": Whole,
    "chunks": Chunks,
    "chunks_by_two": ChunksByTwo,
    "elements": Elements,
    "stride": Stride,
    "plane_first": PlaneFirst,
    "plane_last": PlaneLast,
    "rows": Rows,
    "coordinates": Coordinates,
    "mask": Mask,
    "write": Write,
    "append": Append,
    "open": Open,
    "touch": Touch,
    "list": List,
}
WRITES = ("write", "append")
"""Actions that make their own files."""
