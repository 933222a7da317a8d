"""The fixtures and helpers that zarr-python's tests expect of ``tests.conftest``.

Copied beside the unpacked tests; same names, made of the shim's stores.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from shim.stores import LocalStore, MemoryStore, StorePath, ZipStore
from shim.stubs import skip
from zarr_gpu.config import config

settings.register_profile(
    "peer",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("peer")


@dataclass(frozen=True)
class Expect:
    input: Any
    output: Any
    id: str


@dataclass(frozen=True)
class ExpectFail:
    input: Any
    exception: type[Exception]
    id: str
    msg: str | None = None
    escape: bool = False

    def raises(self) -> Any:
        pattern = re.escape(self.msg) if self.msg and self.escape else self.msg
        return pytest.raises(self.exception, match=pattern)


def _store(kind: str, path: Path) -> Any:
    if kind == "local":
        return LocalStore(path)
    if kind == "memory":
        return MemoryStore()
    if kind == "zip":
        return ZipStore(path / "zarr.zip", mode="w")
    return skip(f"store {kind!r}")


@dataclass
class ArrayRequest:
    shape: tuple[int, ...]
    dtype: str
    order: Any


@pytest.fixture
def array_fixture(request: pytest.FixtureRequest) -> Any:
    wanted = request.param
    numbers = np.arange(np.prod(wanted.shape)).reshape(wanted.shape, order=wanted.order)
    return numbers.astype(wanted.dtype)


async def parse_store(kind: str, path: str) -> Any:
    return _store(kind, Path(path))


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return _store(request.param, tmp_path)


@pytest.fixture
def store2(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    (tmp_path / "store2").mkdir()
    return _store(request.param, tmp_path / "store2")


@pytest.fixture(params=["local", "memory", "zip"])
def sync_store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return _store(request.param, tmp_path)


@pytest.fixture
def memory_store() -> Any:
    return MemoryStore()


@pytest.fixture
def local_store(tmp_path: Path) -> Any:
    return LocalStore(tmp_path)


@pytest.fixture
def zip_store(tmp_path: Path) -> Any:
    return ZipStore(tmp_path / "zarr.zip", mode="w")


@pytest.fixture
def store_path(tmp_path: Path) -> Any:
    return StorePath(LocalStore(tmp_path))


@pytest.fixture
def async_group() -> Any:
    return skip("AsyncGroup")


@pytest.fixture(params=["numpy"])
def xp(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param)


@pytest.fixture(params=[2, 3], ids=["zarr2", "zarr3"])
def zarr_format(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def reset_config() -> Any:
    config.reset()
    yield
    config.reset()


@st.composite
def json_attributes(draw: Any, *, depth: int) -> dict[str, Any]:
    """A dict of JSON values, wrapped ``depth`` times into a dict or list."""
    keys = st.text(max_size=8)
    scalars = (
        st.none() | st.booleans() | st.integers() | st.text(max_size=8)
        | st.floats(allow_nan=False, allow_infinity=False)
    )  # fmt: skip
    inner: Any = draw(st.dictionaries(keys, scalars | st.lists(scalars, max_size=3), max_size=3))
    for _ in range(depth):
        inner = {draw(keys): inner} if draw(st.booleans()) else [inner]
    return {draw(keys): inner} if depth else inner


def skip_object_dtype(dtype: Any) -> None:
    if dtype.dtype_cls is type(np.dtype("O")):
        pytest.skip("dtype object alone says nothing about the elements")


def deep_nan_equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(deep_nan_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(deep_nan_equal, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b


def meta_from_array(*args: Any, **kwargs: Any) -> Any:
    skip("metadata classes")


create_array_metadata = meta_from_array
