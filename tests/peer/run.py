"""Run zarr-python's own tests against zarr_gpu: ``make test-peer``.

Fetches the source distribution of zarr-python with pip (checked against a pinned hash, never
committed), puts its tests beside our import shim and fixtures (``shim/``), runs them, and compares
the outcome with ``ledger.toml``. Exit status 0 means: every test that uses nothing but public names
passes, or fails as the ledger says; and every entry of the ledger still fails.

Needs Python 3.12 or newer without an installed ``zarr``. Further arguments go to pytest::

    python tests/peer/run.py tests/test_v2.py -k structured
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

VERSION = "3.4.2"
SHA256 = "645d64f292f457120fc0ca18dbe38f665b4c21aaea38a2a88b5eead8f06f3d28"
MODULES = ("indexing", "array", "group", "v2", "attributes", "api")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / ".peer"
RUN = WORK / "run"
COUNTS = WORK / "counts.json"
LEDGER = HERE / "ledger.toml"

INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
faulthandler_timeout = 120
faulthandler_exit_on_timeout = true
markers =
    gpu: needs CuPy
"""
SITE = """\
# Child processes of the tests find the shim, too.
from shim import finder

finder.install()
"""
DTYPES = """\
from shim.dtypes import examples

zdtype_examples = examples()
"""


def fetch() -> Path:
    """The source distribution; downloaded once."""
    archive = WORK / f"zarr-{VERSION}.tar.gz"
    if not archive.exists():
        WORK.mkdir(exist_ok=True)
        print(f"fetching the source distribution of zarr {VERSION} ...", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "zarr", f"zarr=={VERSION}", "--dest", str(WORK)]
        subprocess.run(command, check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{archive}: expected SHA-256 {SHA256}, found {found}")
    return archive


def unpack(archive: Path) -> None:
    """The wanted test modules with our conftest beside them, under ``.peer/run``."""
    shutil.rmtree(RUN, ignore_errors=True)
    tests = RUN / "tests"
    (tests / "test_dtype").mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for name in ("__init__", *(f"test_{module}" for module in MODULES)):
            member = tar.extractfile(f"zarr-{VERSION}/tests/{name}.py")
            if member is None:
                raise SystemExit(f"{archive} has no tests/{name}.py")
            (tests / f"{name}.py").write_bytes(member.read())
    shutil.copyfile(HERE / "shim" / "fixtures.py", tests / "conftest.py")
    (tests / "test_dtype" / "__init__.py").touch()
    (tests / "test_dtype" / "conftest.py").write_text(DTYPES)
    (RUN / "pytest.ini").write_text(INI)
    (RUN / "sitecustomize.py").write_text(SITE)


def run(arguments: list[str]) -> int:
    """pytest's exit status."""
    COUNTS.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "-q", "-p", "shim.plugin"]
    command += [
        "-p",
        "no:cacheprovider",
        "--tb=short",
        "-n",
        "2",
        "--ledger",
        str(LEDGER),
        "--counts",
        str(COUNTS),
    ]
    path = os.pathsep.join(map(str, (RUN, HERE)))
    return subprocess.run(
        [*command, *(arguments or ["tests"])],
        cwd=RUN,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    ).returncode


def report(counts: dict[str, Any], *, complete: bool) -> bool:
    """Print the table; True when the outcome is the one the ledger says."""
    columns = ("passed", "failed", "ledger", "internal", "skipped")
    titles = ("module", "tests", *columns)
    rows = [
        (module.removeprefix("tests/"), sum(n.values()), *(n.get(c, 0) for c in columns))
        for module, n in counts["modules"].items()
    ]
    rows.append(("total", *(sum(row[i] for row in rows) for i in range(1, len(titles)))))
    print(f"\nzarr-python {VERSION}'s tests against zarr_gpu\n")
    for row in (titles, *rows):
        print(f"{row[0]:22}" + "".join(f"{cell:>10}" for cell in row[1:]))
    print(
        "\nledger: expected to fail, each with a reason in tests/peer/ledger.toml"
        "\ninternal: uses names that are not public; skipped: by zarr-python's own tests"
        "\nNot compared: texts of exceptions, and warnings."
    )
    kinds: Counter[str] = Counter()
    for entry in counts["ledger"]:
        kinds[entry["kind"]] += entry["used"]
    print("ledger by kind:", ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())))
    _, _, passed, failed, ledger, *_ = rows[-1]
    public = passed + failed + ledger - kinds["internal"]
    print(f"of {public} tests that use public names only, {passed} pass: {passed / public:.1%}")
    idle = [entry["tests"] for entry in counts["ledger"] if not entry["used"]] if complete else []
    for line in idle:
        print(f"LEDGER: no test fails as this entry says: {line}")
    for line in counts["failed"]:
        print(f"FAILED, or in the ledger although it passes: {line}")
    return not idle and not failed


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 12):
        raise SystemExit(f"zarr {VERSION} and its tests need Python 3.12 or newer")
    if importlib.util.find_spec("zarr") is not None:
        raise SystemExit("zarr is installed: its pytest plugin would load it before the shim")
    unpack(fetch())
    status = run(arguments)
    if status not in (0, 1) or not COUNTS.exists():
        return status or 2
    return 0 if report(json.loads(COUNTS.read_text()), complete=not arguments) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
