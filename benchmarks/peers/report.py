"""Results as data and as tables. Pure: measured numbers in, text out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .rows import IMPORT_GOAL, MEMORY_GOAL, Row

OURS, LOOP = "zarr_gpu", "c-loop"
ZARR = ("zarr-python", "zarr-python-fused", "zarrs", "tensorstore", "tensorstore-memmap")
"""Engines that read the same files: goals are about the best of them."""
OTHERS = ("h5py", "blosc2")
"""Engines with formats of their own, which keep all chunks in one file."""


@dataclass(slots=True)
class Cell:
    """What one engine did in one row."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: dict[str, Any] | None = None
    unsupported: str | None = None
    error: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.wall) if self.wall else None

    def to_json(self) -> dict[str, Any]:
        found = {
            "median": self.median,
            "median_cpu": statistics.median(self.cpu) if self.cpu else None,
            "wall": self.wall,
            "cpu": self.cpu,
            "memory": self.memory,
            "unsupported": self.unsupported,
            "error": self.error,
        }
        return {key: value for key, value in found.items() if value}


Cells = Mapping[str, Cell]


def best(cells: Cells, names: Iterable[str]) -> tuple[str, float] | None:
    """The fastest of these engines, and its median."""
    found = [(m, name) for name in names if name in cells and (m := cells[name].median)]
    return None if not found else (min(found)[1], min(found)[0])


def verdict(row: Row, cells: Cells) -> dict[str, Any]:
    """Ratios, and which goals are met; what cannot be said is left out."""
    ours = cells[OURS].median if OURS in cells else None
    found: dict[str, Any] = {}
    others = ZARR if row.per_object else (*ZARR, *OTHERS)
    for key, names in (("zarr", ZARR), ("any", others)):
        if (fastest := best(cells, names)) is not None:
            found[f"best_{key}"] = fastest[0]
            if ours is not None:
                found[f"ratio_{key}"] = ours / fastest[1]
                quickest = min(min(cells[n].wall) for n in names if n in cells and cells[n].wall)
                found[f"ratio_{key}_of_best_runs"] = min(cells[OURS].wall) / quickest
                if row.goal is not None:
                    found[f"met_{key}"] = ours / fastest[1] <= row.goal
    loop = cells[LOOP].median if LOOP in cells else None
    if ours is not None and loop is not None:
        found["ratio_loop"] = ours / loop
        if row.loop_goal is not None:
            found["met_loop"] = ours / loop <= row.loop_goal
    memory = cells[OURS].memory if OURS in cells else None
    if memory and "beyond_output" in memory:
        found["met_memory"] = memory["beyond_output"] <= MEMORY_GOAL
    return found


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Of Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def cell_text(cell: Cell | None, fastest: bool) -> str:
    if cell is None:
        return ""
    if cell.error:
        return f"**FAILED**: {cell.error}"
    if cell.unsupported:
        return cell.unsupported
    return f"**{duration(cell.median)}**" if fastest else duration(cell.median)


def ratio(found: Mapping[str, Any], key: str) -> str:
    return f"{found[key]:.2f}" if key in found else ""


def met(found: Mapping[str, Any]) -> str:
    """Of the best Zarr engine; whether of all engines; of the loop in C."""
    words = {True: "yes", False: "NO"}
    keys = [("met_zarr", ""), ("met_any", "all: "), ("met_loop", "C: ")]
    return ", ".join(label + words[found[key]] for key, label in keys if key in found)


def time_table(rows: Sequence[Row], cells: Mapping[str, Cells], engines: Sequence[str]) -> str:
    """Medians of all engines, ratios and goals; the fastest engine for Zarr files is bold.

    Ratios of the fastest runs are less disturbed by other work on the machine.
    """
    lines = []
    for row in rows:
        mine = cells[row.name]
        found = verdict(row, mine)
        fastest = found.get("best_zarr")
        goal = "" if row.goal is None else f"{row.goal:g}"
        if row.loop_goal is not None:
            goal += f"; C {row.loop_goal:g}"
        line = [row.name, *(cell_text(mine.get(name), name == fastest) for name in engines)]
        any_ratio = f"{ratio(found, 'ratio_any')} ({found.get('best_any', '')})"
        line += [ratio(found, "ratio_zarr"), ratio(found, "ratio_zarr_of_best_runs"), any_ratio]
        line += [ratio(found, "ratio_loop"), goal]
        lines.append([*line, met(found)])
    header = ["row", *engines, "ours / best Zarr", "same, fastest runs", "ours / best of all"]
    header += ["ours / C", "goal", "met"]
    return table(header, lines)


def processor_table(rows: Sequence[Row], cells: Mapping[str, Cells], engines: Sequence[str]) -> str:
    """User and system time of one run."""
    lines = []
    for row in rows:
        cpu = [cells[row.name].get(name, Cell()).cpu for name in engines]
        lines.append([row.name, *(duration(statistics.median(c)) if c else "" for c in cpu)])
    return table(["row", *engines], lines)


def memory_table(rows: Sequence[Row], cells: Mapping[str, Cells], engines: Sequence[str]) -> str:
    """MiB beside the output; empty when no row looked at memory."""
    lines = []
    for row in rows:
        found = [(cells[row.name].get(name) or Cell()).memory or {} for name in engines]
        if any(found):
            texts = [
                f"{memory['beyond_output'] / 2**20:.0f}" if "beyond_output" in memory else ""
                for memory in found
            ]
            lines.append([row.name, *texts])
    return table(["row", *engines], lines) if lines else ""


def import_table(imports: Mapping[str, Mapping[str, float]]) -> str:
    """A package may put off what it needs, so the time until its first function is beside."""
    lines = []
    for name, found in imports.items():
        line = [name, *(duration(found[key]) for key in ("wall", "importtime", "ready"))]
        within = ["yes" if found[key] <= IMPORT_GOAL else "NO" for key in ("wall", "ready")]
        goal = [f"{IMPORT_GOAL} s", "{}, ready: {}".format(*within)] if name == OURS else ["", ""]
        lines.append([*line, *goal])
    counted = "less an empty interpreter"
    ready = f"until an array could be opened, {counted}"
    return table(["import", f"wall, {counted}", "-X importtime", ready, "goal", "met"], lines)


def markdown(
    report: Mapping[str, Any],
    rows: Sequence[Row],
    cells: Mapping[str, Cells],
    engines: Sequence[str],
) -> str:
    """The whole report."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    missing = "; ".join(f"{name}: {reason}" for name, reason in report["missing"].items())
    text = [
        "# zarr_gpu beside other engines\n",
        (
            f"{report['began']}, commit {report['commit'] or 'unknown'}, {machine['cpu']}, "
            f"{machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
            f"Python {machine['python']}, {report['scale']} size, "
            f"{report['threads']} threads for every engine, "
            f"{report['repeats']} interleaved repeats, "
            f"warm page cache, load averages {report['load_before']} before "
            f"and {report['load_after']} after.\n"
        ),
        f"Versions: {versions}.\n",
    ]
    if missing:
        text.append(f"Left out: {missing}.\n")
    if rows:
        text += [
            "## Medians\n",
            time_table(rows, cells, engines),
            "## Processor time of one run\n",
            processor_table(rows, cells, engines),
        ]
    if memory := memory_table(rows, cells, engines):
        goal = f"at most {MEMORY_GOAL >> 20} for {OURS}"
        text += [f"## Peak memory beside the output, MiB ({goal})\n", memory]
    if report["imports"]:
        text += ["## Imports\n", import_table(report["imports"])]
    return "\n".join(text)
