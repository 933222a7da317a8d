"""Any array, any selection, any order of execution: the device gives what the host does.

Bit for bit, on reading; and what is written from the device reads like what the host writes, with
the same keys in the store. ``HYPOTHESIS_PROFILE=thorough`` for many examples.
"""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numcodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

import zarr_gpu
from tests.device import devices
from tests.device.devices import emulated
from tests.device.ruled import Ruled
from tests.device.strategies import (
    Made,
    arrays,
    bytes_codecs,
    chunkings,
    machines,
    parts,
    read,
    selections,
    shapes,
)  # fmt: skip
from zarr_gpu.device import engine
from zarr_gpu.errors import ZarrGpuError
from zarr_gpu.stores.memory import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore::zarr_gpu.errors.DeviceFallbackWarning")
patient = settings(
    suppress_health_check=[
        HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large
    ]
)  # fmt: skip
fewer = settings(patient, max_examples=patient.max_examples // 3)


def same(found, expected):
    expected = np.asarray(expected)
    native = expected.astype(expected.dtype.newbyteorder("="))
    assert found.dtype == native.dtype
    assert found.shape == native.shape
    assert found.tobytes() == native.tobytes()


def check_reads(made, data):
    array = made.stored()
    streams, options = data.draw(machines())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "STREAMS", streams)
        patch.setattr(devices, "_runtime", Ruled)
        with emulated(patch, **options) as runtime:
            device = array.to("cuda")
            for _ in range(2):
                kind, where = data.draw(selections(array))
                same(runtime.to_host(read(device, kind, where)), read(array, kind, where))
            order = data.draw(st.sampled_from("CF"))
            with_order = device.with_config({"order": order})
            same(runtime.to_host(with_order[...]), array[...])


@given(arrays(3), st.data())
@patient
def test_arrays_of_format_3(made, data):
    check_reads(made, data)


@given(arrays(2), st.data())
@patient
def test_arrays_of_format_2(made, data):
    check_reads(made, data)


@given(arrays(3, types=["<i2", "<f4", "<f8"]), st.data())
@fewer
def test_outputs_of_any_strides(made, data):
    """Into a part of a larger array, turned round and cut, of the same type or another."""
    array = made.stored()
    streams, options = data.draw(machines())
    kind, where = data.draw(selections(array))
    expected = np.asarray(read(array, kind, where))
    steps = [data.draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in expected.shape]
    dtype = data.draw(st.sampled_from([expected.dtype, expected.dtype, np.dtype("<f8")]))
    assume(np.can_cast(expected.dtype, dtype, "same_kind"))
    order = data.draw(st.permutations(range(expected.ndim)))
    outer = [1 + n * abs(step) for n, step in zip(expected.shape, steps, strict=True)]
    memory = np.full([outer[i] for i in order], 77, dtype)
    whole = memory.transpose(np.argsort(order)) if order else memory
    cut = [slice(1, 1 + n * s, s) if s > 0 else slice(n * -s, 0, s)
           for n, s in zip(expected.shape, steps, strict=True)]  # fmt: skip
    out = whole[(*cut, ...)]
    assert out.shape == expected.shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "STREAMS", streams)
        patch.setattr(devices, "_runtime", Ruled)
        with emulated(patch, **options) as runtime:
            assert read(array.to("cuda"), kind, where, out=out) is out
            runtime.synchronize()
    same(np.array(out), expected.astype(dtype))
    right = np.full_like(whole, 77)
    right[(*cut, ...)] = expected
    assert whole.tobytes() == right.tobytes()


@given(st.data())
@fewer
def test_fields(data):
    """Single fields of structures, which lie apart in the chunks."""
    names = ["<i2", ">f8", "<u1", "<c8", ">i4"]
    picked = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    dtype = np.dtype([(f"f{i}", name) for i, name in enumerate(picked)])
    shape = data.draw(shapes())
    values = np.zeros(shape, dtype)
    for i, name in enumerate(dtype.names):
        values[name] = np.arange(values.size).reshape(shape) % 90 + i
    codecs = data.draw(bytes_codecs())
    cut = data.draw(chunkings(shape, 3))
    assume("nested" not in cut)
    made = Made(
        {"shape": shape, "dtype": dtype, "compressors": codecs or None, **cut}, values,
        [data.draw(parts(shape))],
    )  # fmt: skip
    array = made.stored()
    name = data.draw(st.sampled_from(dtype.names))
    streams, options = data.draw(machines())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "STREAMS", streams)
        patch.setattr(devices, "_runtime", Ruled)
        with emulated(patch, **options) as runtime:
            kind, where = data.draw(selections(array))
            found = read(array.to("cuda"), kind, where, fields=name)
            same(runtime.to_host(found), read(array, kind, where, fields=name))


# -- writing --------------------------------------------------------------------------------------


def keys(array):
    return set(array.store.list_prefix())


@st.composite
def regions(draw, shape):
    """Slices with any steps."""
    if draw(st.booleans()):
        return (slice(None),) * len(shape)
    return tuple(draw(st.slices(n)) for n in shape)


def broadcasts(ndim):
    return st.lists(
        st.sampled_from([slice(None), slice(0, 1), slice(0, 1)]), min_size=ndim, max_size=ndim
    )


def write(array, where, value):
    array[(*where, ...)] = value


def check_writes(made, data):
    fill = made.arguments["fill_value"]
    host = made.create()
    device = made.create()
    streams, options = data.draw(machines())
    empty = data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "STREAMS", streams)
        patch.setattr(devices, "_runtime", Ruled)
        with emulated(patch, **options) as runtime:
            on_device = device.to("cuda").with_config({"write_empty_chunks": empty})
            on_host = host.with_config({"write_empty_chunks": empty})
            for _ in range(data.draw(st.integers(1, 2))):
                where = data.draw(regions(host.shape))
                value = np.array(made.data[(*where, ...)])
                if data.draw(st.integers(0, 2)) == 0:  # one row, or one element, for all
                    value = np.array(value[tuple(data.draw(broadcasts(value.ndim)))])
                if fill is not None and data.draw(st.booleans()):
                    value[(slice(value.shape[0] // 2),) if value.ndim else ()] = fill
                value = value.astype(value.dtype.newbyteorder("="))
                try:
                    write(on_host, where, value)
                except (ZarrGpuError, ValueError):
                    assume(False)
                if value.ndim and data.draw(st.booleans()):
                    value = np.asfortranarray(value)
                write(on_device, where, runtime.array(value))
                same(runtime.to_host(on_device[...]), host[...])
                assert keys(device) == keys(host)
        same(np.asarray(device[...], value.dtype), host[...])


@given(arrays(3, filters=False), st.data())
@fewer
def test_writing_format_3(made, data):
    check_writes(made, data)


@given(arrays(2, filters=False), st.data())
@fewer
def test_writing_format_2(made, data):
    check_writes(made, data)


@given(arrays(3), st.data())
@fewer
def test_writing_with_filters(made, data):
    check_writes(made, data)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (8, 1), (1, 12)])
@pytest.mark.parametrize("dtype", ["u1", ">i2", "<f8"])
def test_one_element_for_many_places(runtime, shape, dtype):
    """What lies behind it in memory is not taken for more of it."""
    memory = np.arange(1, 40, dtype=np.dtype(dtype).newbyteorder("="))
    value = memory[: math.prod(shape)].reshape(shape)
    array = zarr_gpu.create_array(MemoryStore(), shape=(8, 12), chunks=(4, 6), dtype=dtype[-2:])
    array.to("cuda")[...] = runtime.array(value)
    assert (array[...] == value).all()


@pytest.mark.parametrize("dtype", [">i2", ">c16", [("a", ">i4"), ("b", "<f8")]])
def test_chunks_that_the_host_decodes_in_the_byte_order_of_the_array(runtime, dtype):
    data = np.arange(12).astype(dtype)
    array = zarr_gpu.create_array(
        MemoryStore(), data=data, chunks=(5,), zarr_format=2, compressors=numcodecs.BZ2()
    )
    for name in data.dtype.names or [None]:
        found = runtime.to_host(array.to("cuda").read(fields=name))
        same(found, data if name is None else data[name])
