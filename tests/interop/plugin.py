"""What the tests of the plug-in for zarr-python share.

Importing this skips the importing test module where there is no zarr-python.
"""

from contextlib import contextmanager

from tests.interop.zarr_arguments import zarr
from zarr_gpu.interop import zarr_python as plugin

DEFAULT = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
OURS = {"codec_pipeline.path": plugin.PATH}


def default(store, **kwargs):
    """The array there, with zarr-python's default pipeline."""
    with zarr.config.set(DEFAULT):
        array = zarr.open_array(store, **kwargs)
    assert type(array.async_array.codec_pipeline).__module__ == "zarr.core.codec_pipeline"
    return array


def ours(store, **kwargs):
    """The same with ours."""
    with zarr.config.set(OURS):
        array = zarr.open_array(store, **kwargs)
    assert type(array.async_array.codec_pipeline) is plugin.CodecPipeline
    return array


class Counted:
    """What the plug-in did since."""

    def __init__(self):
        self.before = plugin.statistics()

    def __getattr__(self, name):
        return plugin.statistics()[name] - self.before[name]

    @property
    def fallbacks(self):
        now, before = plugin.statistics()["fallbacks"], self.before["fallbacks"]
        return {why: n - before.get(why, 0) for why, n in now.items() if n != before.get(why)}


@contextmanager
def all_by_zarr_gpu():
    """Nothing may be left to zarr-python's own pipeline meanwhile, and something is done."""
    counted = Counted()
    yield
    assert counted.fallbacks == {}
    assert counted.reads + counted.writes > 0
