"""Time the same work on the same bytes in every engine, and say who is faster.

    python -m benchmarks.peers --quick                       # an eighth of the sizes
    python -m benchmarks.peers --rows 'read.*,rand.*' --engines zarr_gpu,tensorstore,c-loop
    python -m benchmarks.peers --save                        # benchmarks/results/peers-DATE.*

Engines take turns, each in a process of its own, and every result is compared with what was stored
before anything is timed. Arrays are opened anew for every run,
outside the clock. Files are read from the page cache. Times are never asserted; the exit
status is 1 when an engine failed or returned a wrong result. Engines whose package is missing are
left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .actions import WRITES
from .child import ENGINES
from .machine import Child, commit, import_times, load, machine
from .report import LOOP, OURS, ZARR, Cell, Cells, duration, markdown, verdict
from .rows import ROWS, Row, select_rows
from .sources import make_source

RESULTS = Path(__file__).parents[1] / "results"
FORMATS = {"h5py": "h5", "blosc2": "b2nd"}
"""Of the engines that do not read Zarr."""
IMPORTS = {
    "zarr_gpu": "open_array",
    "zarr": "open_array",
    "tensorstore": "open",
    "h5py": "File",
    "numpy": "load",
}
"""Packages, and a function of theirs that opens an array."""
CONTEND = {"full": (3, 1.5), "quick": (1, 2.0)}
"""After so many repeats, an engine that took so many times as long as the fastest is not run again:
it would take most of the time and change no ratio. Ours and the loop in C are always run."""


class Bench:
    """The children, the files and what was found."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.scale = "quick" if options.quick else "full"
        self.folder = folder / self.scale
        self.children: dict[str, Child] = {}
        self.missing: dict[str, str] = {}
        self.cells: dict[str, dict[str, Cell]] = {}
        self.loads: dict[str, str] = {}

    def start(self, stack: ExitStack) -> None:
        threads = self.options.threads
        # Stored by the reference implementation where there is one: bytes that we did not choose.
        names = (*self.options.engines, "zarr-python-fused", "zarr_gpu")
        started = [(name, stack.enter_context(Child(name, threads))) for name in names]
        for name, child in started[:-2]:
            if (reason := child.greet().missing) is None:
                self.children[name] = child
            else:
                self.missing[name] = reason
                print(f"left out: {name}: {reason}", flush=True)
        makers = [child.greet() for _, child in started[-2:]]
        self.maker = next(child for child in makers if child.missing is None)

    # -- files -------------------------------------------------------------------------------------

    def stored(self, row: Row, engine: str) -> Path:
        kind = FORMATS.get(engine, "zarr")
        place = f"written-{engine}" if row.action in WRITES else kind
        return self.folder / place / f"{row.dataset.name}.{kind}"

    def make(self, row: Row, engine: str) -> str | None:
        """Store the row's data set for an engine, if it is not there; what went wrong."""
        path = self.stored(row, engine)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or row.action in WRITES:
            return None
        child = self.children[engine] if engine in FORMATS else self.maker
        answer = child.ask("make", **self.named(row, path))
        return str(answer["error"]) if "error" in answer else None

    def named(self, row: Row, path: Path) -> dict[str, str]:
        source = make_source(self.folder / "sources", row.dataset.source, self.scale)
        return {"row": row.name, "path": str(path), "source": str(source), "scale": self.scale}

    def clean(self, row: Row, later: Sequence[Row]) -> None:
        """Remove what no later row needs: all data sets together would not fit the page cache."""
        names = {other.dataset.name for other in later if other.action not in WRITES}
        for engine in self.children:
            path = self.stored(row, engine)
            if row.action in WRITES or (not self.options.data and row.dataset.name not in names):
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)

    # -- one row -----------------------------------------------------------------------------------

    def measure(self, row: Row) -> None:
        """All engines; the next repeat begins with the next engine."""
        cells = self.cells[row.name] = {}
        before = load()
        able = [name for name in self.children if self.prepare(row, name, cells)]
        enough, factor = CONTEND[self.scale]
        for repeat in range(self.options.repeats):
            turn = repeat % max(1, len(able))
            for name in able[turn:] + able[:turn]:
                cell = cells[name]
                if cell.error or (repeat >= enough and behind(name, cells, factor)):
                    continue
                answer = self.children[name].ask("run")
                if "error" in answer:
                    cell.error = answer["error"]
                    continue
                cell.wall.append(answer["wall"])
                cell.cpu.append(answer["cpu"])
        for name in able:
            self.children[name].ask("finish")
        self.loads[row.name] = f"{before} - {load()}"

    def prepare(self, row: Row, name: str, cells: dict[str, Cell]) -> bool:
        """Whether the engine can do this row, and does it right."""
        child, path = self.children[name], self.stored(row, name)
        cell = cells[name] = Cell()
        answer = child.ask("prepare", **self.named(row, path))
        if "unsupported" in answer:
            cell.unsupported = answer["unsupported"]
            return False
        cell.error = answer.get("error") or self.make(row, name)
        if cell.error is None and row.memory:
            cell.memory = child.ask("memory")
            cell.error = cell.memory.get("error")
        if cell.error is None:
            cell.error = child.ask("check").get("error")
        if cell.error is None and row.action in WRITES and name not in FORMATS:
            reader = next((n for n in ZARR if n in self.children and n != name), name)
            named = self.named(row, path)
            del named["scale"]
            cell.error = self.children[reader].ask("verify", **named).get("error")
        if cell.error is not None:
            print(f"FAILED: {row.name}: {name}: {cell.error}", flush=True)
        return cell.error is None


def behind(name: str, cells: Cells, factor: float) -> bool:
    """Whether the best of an engine's runs is that far from the best of all."""
    fastest = min((min(cell.wall) for cell in cells.values() if cell.wall), default=0.0)
    return name not in (OURS, LOOP) and min(cells[name].wall, default=0.0) > factor * fastest


@contextmanager
def data_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        yield Path(folder)


def progress(row: Row, cells: Cells) -> str:
    """One line while the rest is still running."""
    found = verdict(row, cells)
    medians = [f"{name} {duration(cell.median)}" for name, cell in cells.items() if cell.median]
    ratios = [f"/{key} {found[f'ratio_{key}']:.2f}" for key in ("zarr", "any", "loop")
              if f"ratio_{key}" in found]  # fmt: skip
    return f"{row.name}: {', '.join(medians)}; {' '.join(ratios)}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", default="*", help="comma-separated globs; import is one, too")
    parser.add_argument("--engines", default=",".join(ENGINES), help="comma-separated")
    parser.add_argument("--repeats", type=int, help="7, or 3 with --quick")
    parser.add_argument("--threads", type=int, default=2, help="of every engine")
    parser.add_argument("--quick", action="store_true", help="an eighth of the sizes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no row after that")
    parser.add_argument("--data", type=Path, help="folder in which the files are kept")
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS.name}/")
    options = parser.parse_args(argv)
    options.repeats = options.repeats or (3 if options.quick else 7)
    options.engines = options.engines.split(",")
    if unknown := set(options.engines) - set(ENGINES):
        parser.error(f"no engine is called {', '.join(sorted(unknown))}; there are {list(ENGINES)}")
    options.with_imports = any(glob in ("*", "import") for glob in options.rows.split(","))
    if not select_rows(options.rows) and not options.with_imports:
        parser.error(f"no row matches; there are {', '.join(row.name for row in ROWS)}")
    return options


def gather(options: argparse.Namespace) -> tuple[dict[str, Any], str, bool]:
    """Everything that is measured; the report, its text and whether nothing failed."""
    rows = select_rows(options.rows)
    report: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "scale": "quick" if options.quick else "full",
        "threads": options.threads,
        "repeats": options.repeats,
        "load_before": load(),
    }
    with data_folder(options.data) as folder, ExitStack() as stack:
        bench = Bench(options, folder)
        if rows:
            bench.start(stack)
        started = time.perf_counter()
        for i, row in enumerate(rows):
            begin = time.perf_counter()
            if begin - started > 60 * options.minutes:
                print(f"left out: {', '.join(row.name for row in rows[i:])}", flush=True)
                rows = rows[:i]
                break
            bench.measure(row)
            bench.clean(row, rows[i + 1 :])
            taken = time.perf_counter() - begin
            print(f"{progress(row, bench.cells[row.name])} [{taken:.1f} s]", flush=True)
        engines = list(bench.children)
        versions = [bench.children[name].versions for name in engines]
    report["versions"] = {name: v for found in versions for name, v in sorted(found.items())}
    report["missing"] = bench.missing
    report["imports"] = import_times(IMPORTS, options.repeats) if options.with_imports else {}
    report["load_after"] = load()
    report["rows"] = {
        row.name: {
            "goal": row.goal,
            "loop_goal": row.loop_goal,
            "load": bench.loads[row.name],
            **verdict(row, bench.cells[row.name]),
            "engines": {name: cell.to_json() for name, cell in bench.cells[row.name].items()},
        }
        for row in rows
    }
    right = not any(cell.error for cells in bench.cells.values() for cell in cells.values())
    return report, markdown(report, rows, bench.cells, engines), right


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    report, text, right = gather(options)
    print(text)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"peers-{report['began'][:10]}.md"
        path.write_text(text)
        path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        print(os.path.relpath(path))
    if not right:
        print("An engine failed or returned a wrong result: see FAILED above.", file=sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the temporary files as well
    sys.exit(main())
