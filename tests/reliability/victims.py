"""What the writers do that :mod:`tests.reliability.test_kill` kills, and what must be left.

Run as ``python -m tests.reliability.victims NAME DIRECTORY``: prints a line when ready, starts at a
line from its input, and never ends by itself. Values say by themselves whether they are right.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import zarr_gpu
from zarr_gpu.errors import NodeNotFoundError

FILL = -7
SMALL: dict[str, Any] = {"chunks": (4,), "dtype": "i4", "fill_value": FILL}
N = 1200
"""Elements in 300 chunks."""
LONG = 1 << 21
"""Elements in 8 MiB, which take a while to write."""


@dataclass(frozen=True)
class Victim:
    prepare: Callable[[str], None]
    act: Callable[[str], None]
    check: Callable[[str], None]
    seconds: float
    """About as long as one round of the work takes."""
    fresh: bool = False
    """Prepared anew for every kill, as the work is done once."""


def numbered(n: int) -> Any:
    return np.arange(1, n + 1, dtype="i4")


def open_rw(path: str) -> Any:
    return zarr_gpu.open_array(path, mode="r+")


def uniform(values: Any) -> bool:
    return bool((values == values.flat[0]).all())


# -- values -----------------------------------------------------------------------------------


def prepare_chunks(path: str) -> None:
    zarr_gpu.create_array(path, data=np.zeros((4, LONG), "i4"), chunks=(1, LONG), compressors=None)


def prepare_shards(path: str) -> None:
    data = np.zeros((8, LONG // 4), "i4")
    zarr_gpu.create_array(
        path, data=data, chunks=(1, LONG // 4), shards=(4, LONG // 4), compressors=None
    )


def write_whole(path: str) -> None:
    array = open_rw(path)
    for n in itertools.count(1):
        array[...] = n


def write_inner(path: str) -> None:
    array = open_rw(path)
    for n in itertools.count(1):
        array[n % 8] = n
        array[n % 8, : LONG // 8] = -n  # in two steps, so a row is all n or half of it -n


def check_rows(path: str) -> None:
    for row in zarr_gpu.open_array(path, mode="r")[...]:
        assert uniform(row), "a chunk of two versions"


def check_halves(path: str) -> None:
    for row in zarr_gpu.open_array(path, mode="r")[...]:
        first, second = row[: LONG // 8], row[LONG // 8 :]
        assert uniform(first) and uniform(second)
        assert abs(int(first[0])) == second[0]


# -- metadata ---------------------------------------------------------------------------------


def prepare_attributes(path: str) -> None:
    zarr_gpu.create_array(path, data=numbered(16), **{**SMALL, "dtype": None})
    open_rw(path).attrs.put({"n": 0, "padding": [0] * 5000})


def write_attributes(path: str) -> None:
    array = open_rw(path)
    for n in itertools.count(1):
        array.attrs.put({"n": n, "padding": [n] * 5000})


def check_attributes(path: str) -> None:
    array = zarr_gpu.open_array(path, mode="r")
    assert array.attrs["padding"] == [array.attrs["n"]] * 5000
    np.testing.assert_array_equal(array[...], numbered(16))


def prepare_group(path: str) -> None:
    for i in range(12):
        zarr_gpu.create_array(path, name=f"a{i}", data=numbered(8), chunks=(4,))


def consolidate(path: str) -> None:
    while True:
        zarr_gpu.consolidate_metadata(path)


def check_group(path: str) -> None:
    for use in (None, False):
        group = zarr_gpu.open_group(path, mode="r", use_consolidated=use)
        assert len(group) == 12
        np.testing.assert_array_equal(group["a7"][...], numbered(8))


# -- shape ------------------------------------------------------------------------------------


def prepare_full(path: str) -> None:
    array = zarr_gpu.create_array(path, shape=(N,), **SMALL)
    array[...] = numbered(N)


def shrink(path: str) -> None:
    open_rw(path).resize(N // 2 + 1)


def check_shrunk(path: str) -> None:
    array = zarr_gpu.open_array(path, mode="r+")
    n = len(array)
    assert n in (N, N // 2 + 1)
    np.testing.assert_array_equal(array[...], numbered(n))
    array.resize(N + 10)
    found = array[...]
    np.testing.assert_array_equal(found[:n], numbered(n))
    assert (found[n:] == FILL).all(), "growing shows what was cut off"


def prepare_leftovers(path: str) -> None:
    """Short, but with the chunks of a long array around it."""
    prepare_full(path)
    full = {k: v for k, v in _files(path).items() if "/c/" in k}
    open_rw(path).resize(N // 2 + 1)
    for name, data in full.items():
        with open(name, "wb") as file:
            file.write(data)


def _files(path: str) -> dict[str, bytes]:
    from pathlib import Path

    return {str(p): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def grow(path: str) -> None:
    open_rw(path).resize(N)


def check_grown(path: str) -> None:
    found = zarr_gpu.open_array(path, mode="r")[...]
    n = N // 2 + 1
    assert len(found) in (n, N)
    np.testing.assert_array_equal(found[:n], numbered(n))
    assert (found[n:] == FILL).all(), "growing shows what was there before"
    check_regrown(path)


def prepare_empty(path: str) -> None:
    zarr_gpu.create_array(path, shape=(0,), **SMALL)


def append(path: str) -> None:
    array = open_rw(path)
    while True:
        n = len(array)
        array.append(np.arange(n + 1, n + 51, dtype="i4"))


def check_appended(path: str) -> None:
    array = zarr_gpu.open_array(path, mode="r")
    assert len(array) % 50 == 0
    np.testing.assert_array_equal(array[...], numbered(len(array)))


def check_regrown(path: str) -> None:
    array = zarr_gpu.open_array(path, mode="r+")
    n = len(array)
    before = array[...]
    array.resize(n + 3)
    found = array[...]
    np.testing.assert_array_equal(found[:n], before)
    assert (found[n:] == FILL).all()
    array.resize(n)


def check_appended_and_grow(path: str) -> None:
    check_appended(path)
    check_regrown(path)


# -- nodes ------------------------------------------------------------------------------------


def overwrite(path: str) -> None:
    zarr_gpu.create_array(path, data=-numbered(N), overwrite=True, **{**SMALL, "dtype": None})


def check_overwritten(path: str) -> None:
    """The old array, none, or the new one as far as it got."""
    try:
        found = zarr_gpu.open_array(path, mode="r")[...]
    except NodeNotFoundError:
        return
    if (found == numbered(N)).all():
        return
    chunks = found.reshape(-1, 4)
    right = (chunks == -numbered(N).reshape(-1, 4)).all(axis=1) | (chunks == FILL).all(axis=1)
    assert right.all(), "old values in the new array"


def delete(path: str) -> None:
    group = zarr_gpu.open_group(path, mode="r+")
    del group["a"]


def prepare_member(path: str) -> None:
    zarr_gpu.create_group(path)
    prepare_full(f"{path}/a")


def check_whole_or_gone(path: str) -> None:
    group = zarr_gpu.open_group(path, mode="r")
    if "a" in group:
        np.testing.assert_array_equal(group["a"][...], numbered(N))
    assert list(group) in ([], ["a"])


VICTIMS = {
    "chunk": Victim(prepare_chunks, write_whole, check_rows, 0.1),
    "shard": Victim(prepare_shards, write_whole, check_rows, 0.1),
    "inner chunk": Victim(prepare_shards, write_inner, check_halves, 0.1),
    "attributes": Victim(prepare_attributes, write_attributes, check_attributes, 0.02),
    "consolidate": Victim(prepare_group, consolidate, check_group, 0.02),
    "shrink": Victim(prepare_full, shrink, check_shrunk, 0.012, fresh=True),
    "grow": Victim(prepare_leftovers, grow, check_grown, 0.012, fresh=True),
    "append": Victim(prepare_empty, append, check_appended_and_grow, 0.03),
    "overwrite": Victim(prepare_full, overwrite, check_overwritten, 0.1, fresh=True),
    "delete": Victim(prepare_member, delete, check_whole_or_gone, 0.02, fresh=True),
}


def main(name: str, path: str) -> None:
    zarr_gpu.create_array({}, data=np.ones(4), chunks=(2,))[...]  # loads what is loaded lazily
    print("ready", flush=True)
    sys.stdin.readline()
    VICTIMS[name].act(path)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
