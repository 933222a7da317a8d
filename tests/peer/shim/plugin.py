"""pytest's side of the comparison (``-p shim.plugin``).

Installs the import hook, marks what the ledger expects to fail, counts outcomes per module and
writes them as JSON. Two things are not compared: the texts of exceptions (``match=``), and whether
a warning is given (``pytest.warns`` asks for nothing).
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from shim import finder, stubs

finder.install()

from shim import names  # noqa: E402 - imports the library, after nothing can find another zarr

INTERNAL, UPSTREAM, PASSED, FAILED, LEDGER = "internal", "skipped", "passed", "failed", "ledger"
_outcomes: dict[str, Counter[str]] = defaultdict(Counter)
_failed: list[str] = []
_used: Counter[int] = Counter()
_internal: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ledger", type=Path, help="expected failures, a TOML file")
    parser.addoption("--counts", type=Path, help="where to write the outcomes, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    names.hide_internals()
    names.add_spellings()
    _ignore_texts()
    path = config.getoption("--ledger")
    entries = tomllib.loads(path.read_text()).get("entry", []) if path else []
    config.stash[_ENTRIES] = [(_pattern(entry["tests"]), entry) for entry in entries]


_ENTRIES = pytest.StashKey[list[tuple[re.Pattern[str], dict[str, str]]]]()


def _pattern(text: str) -> re.Pattern[str]:
    """``*`` stands for anything; everything else, brackets too, for itself."""
    return re.compile(".*".join(map(re.escape, text.split("*"))))


def _ignore_texts() -> None:
    raises = pytest.raises

    @functools.wraps(raises)
    def raises_any_text(expected: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("match", None)
        return raises(expected, *args, **kwargs)

    pytest.raises = raises_any_text
    pytest.warns = _Warns


class _Warns:
    """``pytest.warns`` that asks for nothing, and may be entered again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._stack: list[Any] = []

    def __enter__(self) -> Any:
        caught = warnings.catch_warnings(record=True)
        self._stack.append(caught)
        seen = caught.__enter__()
        warnings.simplefilter("always")
        return seen

    def __exit__(self, *exc: object) -> None:
        self._stack.pop().__exit__(*exc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for number, (pattern, entry) in enumerate(config.stash[_ENTRIES]):
            if pattern.fullmatch(item.nodeid):
                reason = f"ledger {number}: {entry['kind']}: {entry['reason']}"
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
                break


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: Any) -> Any:
    stubs.running = True
    try:
        return (yield)
    finally:
        stubs.running = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, value in getattr(getattr(item, "callspec", None), "params", {}).items():
        if stubs.is_stub(value):
            stubs.skip(f"{name}={value!r}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome = _outcome(report)
    if outcome is None:
        return
    module = report.nodeid.partition("::")[0]
    _outcomes[module][outcome] += 1
    if outcome == FAILED:
        _failed.append(report.nodeid)


def _outcome(report: pytest.TestReport) -> str | None:
    """What the report says, once for each test; None where another phase will say it."""
    reason = getattr(report, "wasxfail", None)
    if report.skipped and reason is not None:
        number = re.match(r"(?:reason: )?ledger (\d+):", reason)
        if number is None:
            return UPSTREAM
        _used[int(number[1])] += 1
        return LEDGER
    if report.skipped:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, internal, name = text.partition(stubs.REASON)
        _internal[name] += bool(internal)
        return INTERNAL if internal else UPSTREAM
    if report.failed:
        return FAILED
    return PASSED if report.when == "call" else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    path = config.getoption("--counts")
    if path is None or hasattr(config, "workerinput"):
        return
    entries = [entry for _, entry in config.stash[_ENTRIES]]
    path.write_text(
        json.dumps(
            {
                "modules": {module: dict(counts) for module, counts in sorted(_outcomes.items())},
                "failed": sorted(_failed),
                "ledger": [{**entry, "used": _used[n]} for n, entry in enumerate(entries)],
                "internal": _internal.most_common(),
            },
            indent=1,
        )
    )
