"""Writers killed with SIGKILL at random times leave every object old or new, and whole."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.victims import VICTIMS, Victim
from zarr_gpu.stores.local import LocalStore

ROOT = Path(__file__).parents[2]


def kill_while_it_acts(name: str, path: Path, delay: float) -> None:
    command = [sys.executable, "-m", "tests.reliability.victims", name, str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.stdin.write("\n")
        writer.stdin.flush()
        time.sleep(delay)
        assert writer.poll() is None, "the writer died by itself"
        writer.kill()


def check_nothing_of_ours_is_seen(path: Path) -> None:
    """Temporary files are never listed, and removed on request."""
    store = LocalStore(path)
    assert not [key for key in store.list_prefix() if ".zg-" in key]
    assert not [name for name in store.list_dir() if ".zg-" in name]
    store.repair(older_than_s=0)
    left = [p.name for p in path.rglob(".zg-*") if not p.name.startswith(".zg-lock")]
    assert not left


def kill_often(victim: Victim, name: str, times: int, directory: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = directory / "0"
    if not victim.fresh:
        victim.prepare(str(path))
    for i in range(times):
        if victim.fresh:
            path = directory / str(i)
            victim.prepare(str(path))
        kill_while_it_acts(name, path, rng.uniform(0, 1.5 * victim.seconds))
        victim.check(str(path))
        check_nothing_of_ours_is_seen(path)


@pytest.mark.parametrize("name", VICTIMS)
def test_a_killed_writer_leaves_old_or_new_objects(name: str, tmp_path: Path) -> None:
    kill_often(VICTIMS[name], name, 2, tmp_path, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", VICTIMS)
def test_a_hundred_killed_writers_leave_old_or_new_objects(name: str, tmp_path: Path) -> None:
    kill_often(VICTIMS[name], name, 100, tmp_path, seed=2)


@pytest.mark.parametrize("name", VICTIMS)
def test_a_writer_that_lives_does_its_work(name: str, tmp_path: Path) -> None:
    """So that the other tests are about something."""
    victim = VICTIMS[name]
    victim.prepare(str(tmp_path / "a"))
    victim.check(str(tmp_path / "a"))
    if victim.fresh:
        act: Callable[[str], None] = victim.act
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        act(str(tmp_path / "a"))
        victim.check(str(tmp_path / "a"))
        assert before != {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
