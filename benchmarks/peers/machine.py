"""Processes: the children, the interpreter's start with an import, and facts about the machine."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class Child:
    """The process of one engine; ``missing`` says why there is none."""

    def __init__(self, engine: str, threads: int) -> None:
        self.engine = engine
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.child", engine, str(threads)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.missing: str | None = None
        self.versions: dict[str, str] = {}

    def greet(self) -> Self:
        """Wait until its libraries are loaded; until then, others can be started."""
        found = self._answer()
        self.missing = found.get("missing") or found.get("error")
        self.versions = found.get("versions", {})
        return self

    def ask(self, command: str, **arguments: str) -> dict[str, Any]:
        """Have a command done; an answer with ``error`` when that failed."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which its answer says
                self.process.stdin.write(json.dumps([command, arguments]) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            return {"error": f"its process has ended with status {self.process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """It ends when there is nothing more to read."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def import_times(functions: Mapping[str, str], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds in new interpreters: of an import, and until a function of the package is there.

    Wall times are less that of an interpreter that imports nothing.
    """
    programs = {("", "wall"): "pass"}
    for name, function in functions.items():
        programs[name, "wall"] = f"import {name}"
        programs[name, "ready"] = f"import {name}; {name}.{function}"
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for key, program in programs.items():
            begin = time.perf_counter()
            done = python("-c", program)
            taken = time.perf_counter() - begin
            if done.returncode == 0:
                found.setdefault(key, []).append(taken)
        for name in functions:
            done = python("-X", "importtime", "-c", f"import {name}")
            if done.returncode == 0:
                found.setdefault((name, "importtime"), []).append(cumulative(done.stderr, name))
    medians = {key: statistics.median(seconds) for key, seconds in found.items()}
    empty = medians["", "wall"]
    return {
        name: {
            "wall": medians[name, "wall"] - empty,
            "ready": medians[name, "ready"] - empty,
            "importtime": medians[name, "importtime"],
        }
        for name in functions
        if (name, "importtime") in medians and (name, "ready") in medians
    }


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def cumulative(text: str, name: str) -> float:
    """Seconds of a module and all that it imports, out of what ``-X importtime`` prints."""
    for line in text.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[2].strip() == name:
            return int(parts[1]) / 1e6
    raise ValueError(f"{name} was not imported")


def load() -> str:
    return "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg())


def machine() -> dict[str, Any]:
    model = platform.processor()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """Of this checkout, with a mark when files were changed."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whichever git there is
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() or None
