"""Results are ordered on the caller's stream, and outputs may be any memory."""

import numpy as np
import pytest

from tests.device.test_concurrent import (
    KINDS,
    _many_threads,  # noqa: F401 - a fixture
    machine,
)
from tests.device.test_read import field, stored

pytestmark = pytest.mark.filterwarnings("ignore::zarr_gpu.errors.DeviceFallbackWarning")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_stream_orders_everything(monkeypatch, kind, seed):
    """Nothing is waited for here, and yet what is queued after a read sees it, and not before."""
    data = field()
    array = stored(data, **KINDS[kind])
    with machine(monkeypatch, seed=seed) as runtime:
        device = array.to("cuda")
        out, first, second = (np.full(data.shape, 5, "f4") for _ in range(3))
        runtime.assign(out, np.full(data.shape, 6, "f4"))
        device.read(out=out)
        runtime.assign(first, out)
        runtime.assign(out, np.full(data.shape, 7, "f4"))
        device.read(np.s_[3:20], out=out[3:20])
        runtime.assign(second, out)
        value = np.zeros(data.shape, "f4")
        runtime.assign(value, data * 2)
        device[...] = value
        runtime.assign(value, np.zeros(data.shape, "f4"))
        runtime.synchronize()
        assert (first == data).all()
        assert (second[3:20] == data[3:20]).all()
        assert (second[20:] == 7).all() and (second[:3] == 7).all()
        assert (array[...] == data * 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_overlaps_itself(runtime, kind):
    """Which element wins is anyone's guess, but it is one of those that belong there."""
    data = field()
    array = stored(data, **KINDS[kind]).to("cuda")
    memory = np.zeros(36 + 2 * 19 + 1, "f4")
    windows = np.lib.stride_tricks.as_strided(memory, data.shape, (4, 8))
    array.read(out=windows)
    runtime.synchronize()
    for i in range(len(memory)):
        places = [data[a, (i - a) // 2] for a in range(37) if 0 <= i - a < 40 and (i - a) % 2 == 0]
        assert memory[i] in (places or [0])
    one = np.lib.stride_tricks.as_strided(np.zeros(3, "f4"), data.shape, (0, 0))
    with pytest.raises(ValueError, match="several elements in the same place"):
        array.read(out=one)


@pytest.mark.parametrize("kind", ["raw", "blosc"])
def test_outputs_that_are_parts_of_one_array(runtime, kind):
    data = field()
    array = stored(data, **KINDS[kind]).to("cuda")
    whole = np.zeros((37, 40), "f4")
    array.read(out=whole[:, ::2])
    array.read(np.s_[::-1], out=whole[:, 1::2])
    array.read(np.s_[:10], out=whole[5:15, :20])
    runtime.synchronize()
    right = np.zeros((37, 40), "f4")
    right[:, ::2], right[:, 1::2] = data, data[::-1]
    right[5:15, :20] = data[:10]
    assert (whole == right).all()
