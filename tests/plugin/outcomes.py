"""The same tests run twice by pytest, and compared: what the commands of this folder share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def run(
    folder: Path,
    plugins: list[str],
    arguments: list[str],
    *,
    ini: Path,
    cwd: Path,
    environ: Mapping[str, str],
) -> tuple[dict[str, str], list[dict]]:
    """Outcome by test, and the statistics of every process; ``folder`` keeps pytest's output."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environ = {**environ, "ZG_RECORD": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environ["PYTHONPATH"] = os.pathsep.join(map(str, (HERE, ROOT)))
    environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-c", str(ini), "-q", "-n", "2"]
    command += ["-p", "no:cacheprovider", "--tb=short", "--no-header"]
    for plugin in ("recorder", "pytest_asyncio.plugin", "_hypothesis_pytestplugin", "xdist"):
        command += ["-p", plugin]
    for plugin in plugins:
        command += ["-p", plugin]
    with (folder / "log.txt").open("w") as log:
        subprocess.run([*command, *arguments], cwd=cwd, env=environ, check=False, stdout=log)
    record = folder / "outcomes.json"
    if not record.exists():
        raise SystemExit(f"pytest ended early; see {folder / 'log.txt'}")
    statistics = [json.loads(path.read_text()) for path in folder.glob("statistics-*.json")]
    return json.loads(record.read_text()), statistics


def table(ours: dict[str, str], default: dict[str, str]) -> None:
    """Print how many tests of each module passed."""
    columns = ("passed", "failed", "skipped", "xfailed")
    print(f"{'module':40}" + "".join(f"{c:>9}" for c in columns) + f"{'failed by default':>20}")
    modules = sorted({test.partition("::")[0] for test in ours})
    for module in (*modules, ""):
        counts = Counter(o for t, o in ours.items() if t.startswith(module))
        failed = sum(o == "failed" for t, o in default.items() if t.startswith(module))
        cells = "".join(f"{counts[c]:>9}" for c in columns)
        print(f"{module.rpartition('tests/')[2] or 'total':40}{cells}{failed:>20}")


def compare(ours: dict[str, str], default: dict[str, str], expected: Mapping[str, str]) -> bool:
    """Print what fails with ours only; True when nothing does but what is expected to.

    ``expected``: parts of the names of tests, and why they fail.
    """
    only = sorted(t for t, o in ours.items() if o == "failed" and default.get(t) != "failed")
    known = {t: why for t in only for name, why in expected.items() if name in t}
    for test, why in known.items():
        print(f"expected to fail: {test}: {why}")
    only = [test for test in only if test not in known]
    absent = sorted(set(default) - set(ours))
    for test in only:
        print(f"FAILED with zarr_gpu only: {test}")
    for test in absent:
        print(f"NOT RUN with zarr_gpu: {test}")
    both = sum(o == "failed" and default.get(t) == "failed" for t, o in ours.items())
    print(
        f"\n{len(only)} fail with zarr_gpu only, beside {len(known)} that are expected to; "
        f"{both} fail with the default as well"
    )
    return not only and not absent
