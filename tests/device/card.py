"""A real card with the books that tests look at. Imported only by ``pytest --runtime=cuda``."""

import cupy
import pytest

from tests.device.emulated import Counts
from zarr_gpu.device.cuda import CudaRuntime


class Card(CudaRuntime):
    """The options of the emulated device that a card does not have skip the test."""

    def __init__(self, *, seed=0, **options):
        if options:
            pytest.skip(f"only the emulated device has {', '.join(options)}")
        if seed:
            pytest.skip("a card has an order of its own: once is enough")
        super().__init__(0)
        self.counts = Counts()

    @property
    def fail_allocation(self):
        return 0

    @fail_allocation.setter
    def fail_allocation(self, value):
        pytest.skip("allocations fail on the emulated device only")

    def array(self, data):
        return cupy.asarray(data)

    def launch(self, kernel, blocks, threads, args, stream):
        self.counts.launches[kernel] = self.counts.launches.get(kernel, 0) + 1
        super().launch(kernel, blocks, threads, args, stream)

    def decompress(self, codec, streams, stream):
        self.counts.decoded[codec] = self.counts.decoded.get(codec, 0) + streams.n
        super().decompress(codec, streams, stream)

    def synchronize(self):
        cupy.cuda.Device(self.device).synchronize()

    def check(self):
        pass
