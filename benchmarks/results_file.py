"""Writes what a benchmark found, with where and with what it was found, to ``results/``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .peers.machine import commit, load, machine  # type: ignore[import-not-found]  # as a module

RESULTS = Path(__file__).parent / "results"


def save(name: str, packages: Iterable[str], found: Mapping[str, Any]) -> None:
    """Write ``results/NAME-DATE.json`` with date, commit, machine, load and versions."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"date": date, "commit": commit(), "machine": machine(), "load": load()}
    target = RESULTS / f"{name}-{date[:10]}.json"
    document = {**about, "versions": versions, **found}
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\n{target}")
