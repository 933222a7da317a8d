"""With ``durable=True`` bytes are on the disk before their name, and the name before the return."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zarr_gpu
from zarr_gpu.stores.local import LocalStore


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the process asks the system to flush and to name, in order."""
    seen: list[tuple[str, str]] = []
    fsync, replace, link, unlink = os.fsync, os.replace, os.link, os.unlink

    def record_fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        fsync(fd)
        seen.append(("flush directory" if os.path.isdir(path) else "flush", path))

    def record_replace(source: Any, target: Any, **more: Any) -> None:
        replace(source, target, **more)
        seen.append(("name", f"{source}\n{target}"))

    def record_link(source: Any, target: Any, **more: Any) -> None:
        link(source, target, **more)
        seen.append(("name", f"{source}\n{target}"))

    def record_unlink(path: Any, **more: Any) -> None:
        unlink(path, **more)
        if ".zg-" not in str(path):
            seen.append(("unname", str(path)))

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    monkeypatch.setattr(os, "link", record_link)
    monkeypatch.setattr(os, "unlink", record_unlink)
    return seen


def check_order(events: list[tuple[str, str]]) -> int:
    """Every named file was flushed before, its directory after; returns the number of names."""
    names = 0
    for i, (what, path) in enumerate(events):
        if what == "name":
            source, target = path.split("\n")
            names += 1
            assert ("flush", source) in events[:i], f"{target} is named before it is flushed"
            path = target
        if what in ("name", "unname"):
            directory = os.path.realpath(os.path.dirname(path))
            assert ("flush directory", directory) in events[i:], f"{directory} is not flushed"
    return names


@pytest.mark.parametrize("layout", [{"chunks": (2, 2)}, {"chunks": (1, 2), "shards": (2, 4)}])
def test_every_write_is_flushed_named_and_flushed(
    layout: dict[str, Any], tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    store = LocalStore(tmp_path / "a", durable=True)
    steps = {
        "create": lambda: zarr_gpu.create_array(
            store, name="g/a", shape=(8, 8), dtype="i4", fill_value=-1, **layout
        ),
        "write": lambda: array().__setitem__(..., np.arange(64).reshape(8, 8)),
        "part": lambda: array().__setitem__((3, 3), 5),
        "attributes": lambda: array().attrs.put({"a": 1}),
        "append": lambda: array().append(np.ones((3, 8))),
        "shrink": lambda: array().resize((5, 5)),
        "grow": lambda: array().resize((7, 7)),
        "erase": lambda: array().__setitem__(..., -1),
        "consolidate": lambda: zarr_gpu.consolidate_metadata(store),
    }

    def array() -> Any:
        return zarr_gpu.open_array(store, path="g/a", mode="r+")

    for name, step in steps.items():
        events.clear()
        step()
        assert events, name
        assert check_order(events) or name == "erase", name


def test_new_directories_are_flushed_into_their_parents(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    LocalStore(tmp_path / "new", durable=True).set("a/b/c", b"x")
    flushed = {path for what, path in events if what == "flush directory"}
    root = os.path.realpath(tmp_path)
    assert {root, f"{root}/new", f"{root}/new/a", f"{root}/new/a/b"} <= flushed


def test_many_chunks_are_flushed_before_the_first_is_named(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    """One wait for the disk instead of one per chunk."""
    store = LocalStore(tmp_path, durable=True)
    store.set_many([(f"c/{i}", bytes([i])) for i in range(40)])
    kinds = [what for what, path in events if "flush directory" not in what or path.endswith("/c")]
    first = kinds.index("name")
    assert kinds[:first].count("flush") == 40
    assert kinds[first:] == ["name"] * 40 + ["flush directory"]


def test_nothing_is_flushed_unless_asked(tmp_path: Path, events: list[tuple[str, str]]) -> None:
    zarr_gpu.create_array(tmp_path / "a", data=np.arange(9), chunks=(3,))
    assert not [path for what, path in events if what.startswith("flush")]


def test_the_setting_makes_all_local_stores_durable(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    with zarr_gpu.config.set(durable=True):
        zarr_gpu.create_array(tmp_path / "a", data=np.arange(9), chunks=(3,))
    assert check_order(events) == 4


@pytest.mark.parametrize("call", ["fsync", "replace", "write", "open"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_failing_system_call_leaves_the_old_object_and_no_temporary_file(
    call: str, durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full disk, quota, dying device."""
    store = LocalStore(tmp_path, durable=durable)
    for i in range(5):
        store.set(f"c/{i}", b"old")
    genuine = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and not args[1] & os.O_CREAT:
            return genuine(*args, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    fails = durable or call != "fsync"
    for write in (
        lambda: store.set("c/1", b"new"),
        lambda: store.set_many([(f"c/{i}", b"new") for i in range(5)]),
    ):
        if fails:
            with pytest.raises(zarr_gpu.errors.StoreError) as caught:
                write()
            assert caught.value.errno == 28
        else:
            write()
    monkeypatch.undo()
    value = b"old" if fails else b"new"
    assert {bytes(store.get(f"c/{i}") or b"") for i in range(5)} == {value}
    assert not [p for p in tmp_path.rglob(".zg-*") if not p.name.startswith(".zg-lock")]
