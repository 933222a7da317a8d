"""The process of one engine: told what to do by lines of JSON, it answers with lines of JSON.

    python -m benchmarks.peers.child ENGINE THREADS

Engines do not share allocators, thread pools or settings this way, and memory can be measured.
Between two commands the process waits for a line and uses no processor.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from .actions import ACTIONS, Action, remove
from .engines import Engine, UnsupportedError
from .rows import ROWS, Dataset
from .sources import load_source, same_bits

ENGINES = {
    "zarr_gpu": "engines.ZarrGpu",
    "zarr-python": "engines.ZarrPython",
    "zarr-python-fused": "engines.ZarrPythonFused",
    "zarrs": "engines.Zarrs",
    "tensorstore": "engines.TensorStore",
    "tensorstore-memmap": "engines.TensorStoreMapped",
    "h5py": "engines.Hdf5",
    "blosc2": "engines.Blosc2",
    "c-loop": "loop.Loop",
}
"""Columns, and where their classes are."""


def load_engine(name: str, threads: int) -> Engine:
    module, _, member = ENGINES[name].partition(".")
    made: Engine = getattr(importlib.import_module(f".{module}", __package__), member)(threads)
    return made


def dataset_of(row: str) -> Dataset:
    return next(r.dataset for r in ROWS if r.name == row)


class Commands:
    """One method per command; what it returns is the answer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.action: Action | None = None

    def hello(self) -> dict[str, Any]:
        return {"versions": self.engine.versions()}

    def make(self, row: str, path: str, source: str, scale: str) -> dict[str, Any]:
        """Store the data set of a row."""
        dataset, partial = dataset_of(row), f"{path}.partial"
        remove(partial)
        if dataset.members:
            self.engine.create_group(partial, dataset)
        else:
            array = self.engine.create(partial, dataset, dataset.shape(scale), scale)
            self.engine.write(array, ..., load_source(Path(source)))
            self.engine.flush(array)
            self.engine.close(array)
        Path(partial).rename(path)
        return {}

    def prepare(self, row: str, path: str, source: str, scale: str) -> dict[str, Any]:
        chosen = next(r for r in ROWS if r.name == row)
        try:
            self.engine.check_supported(chosen.action, chosen.dataset)
        except UnsupportedError as error:
            return {"unsupported": str(error)}
        values = load_source(Path(source))
        self.action = ACTIONS[chosen.action](self.engine, chosen, scale, path, values)
        return {}

    def check(self) -> dict[str, Any]:
        """Run once, and compare every bit with what was stored; fill the caches."""
        action = self._action()
        action.ready()
        begin = time.perf_counter()
        result = action.run()
        seconds = time.perf_counter() - begin
        problem = action.problem(result)
        action.done()
        return {"seconds": seconds} if problem is None else {"error": problem}

    def verify(self, row: str, path: str, source: str) -> dict[str, Any]:
        """Whether what another engine has written reads as the source."""
        array = self.engine.open(path)
        right = same_bits(self.engine.read(array, ...), load_source(Path(source)))
        self.engine.close(array)
        return {} if right else {"error": "another engine reads other values than were written"}

    def run(self) -> dict[str, Any]:
        """Wall and processor seconds of one run; its result is dropped after the clock stopped."""
        action = self._action()
        action.ready()
        gc.collect()
        before, begin = processor_seconds(), time.perf_counter()
        result = action.run()
        wall, after = time.perf_counter() - begin, processor_seconds()
        del result
        action.done()
        return {"wall": wall, "cpu": after - before}

    def memory(self) -> dict[str, Any]:
        """Growth of the largest resident size during one run, without the bytes of the result."""
        action = self._action()
        action.ready()
        gc.collect()
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        except (AttributeError, OSError) as error:
            return {"unavailable": str(error)}
        before = status_nbytes("VmRSS")
        result = action.run()
        peak = status_nbytes("VmHWM")
        nbytes = int(result.nbytes)
        del result
        action.done()
        return {"peak": peak - before, "beyond_output": peak - before - nbytes}

    def finish(self) -> dict[str, Any]:
        self.action = None
        gc.collect()
        return {}

    def _action(self) -> Action:
        if self.action is None:
            raise RuntimeError("nothing was prepared")
        return self.action


def processor_seconds() -> float:
    """Of all threads of this process, in user code and in the kernel."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def status_nbytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise OSError(f"no {name} in /proc/self/status")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the answers
    name, threads = sys.argv[1:]
    try:
        commands = Commands(load_engine(name, int(threads)))
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=answers)
        return
    print(json.dumps(commands.hello()), file=answers)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        try:
            answer = getattr(commands, command)(**arguments)
        except Exception as error:  # noqa: BLE001 - the other engines go on
            traceback.print_exc(limit=-2)
            commands.finish()
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
