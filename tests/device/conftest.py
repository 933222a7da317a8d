"""The emulated device as a fixture."""

import pytest

from tests.device.devices import emulated
from zarr_gpu.config import config


@pytest.fixture(autouse=True)
def _host_unless_named():
    with config.set({"device": "cpu"}):
        yield


@pytest.fixture(params=[0, 1, 2])
def runtime(request, monkeypatch):
    """In three orders of execution."""
    with emulated(monkeypatch, seed=request.param) as runtime:
        yield runtime
