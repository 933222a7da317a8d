"""Small inputs that claim, or decode to, gigabytes are refused without taking the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.bombs import BOMBS, READ_WELL

ROOT = Path(__file__).parents[2]
SPARE = 64 << 20


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_bounds(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.bombs", name, str(tmp_path / "a")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["peak"] < SPARE
    assert bool(found["error"]) == (name not in READ_WELL)
