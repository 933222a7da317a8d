"""Tensors as outputs and values of arrays, and arrays as tensors: memory is shared or refused."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import zarr_gpu  # noqa: E402 - needs PyTorch, which is asked for above
from tests.device.devices import emulated  # noqa: E402 - needs PyTorch, which is asked for above
from tests.interop.tensors import DTYPES, bits, random_tensor  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu import tensors  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.errors import UnsupportedError  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop import torch as interop  # noqa: E402 - needs PyTorch, which is asked for above
from zarr_gpu.interop.torch import read, to_torch  # noqa: E402 - needs PyTorch, which is asked for above

DATA = np.arange(24, dtype="f4").reshape(4, 6)


def stored(data=DATA, **options):
    options = {"chunks": tuple(max(1, n // 2) for n in np.shape(data)), **options}
    return zarr_gpu.create_array({}, data=data, device="cpu", **options)


# -- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(4, 6),
        lambda: torch.zeros(4, 6, dtype=torch.float64),
        lambda: torch.zeros(6, 4).T,
        lambda: torch.zeros(8, 12)[::2, 1::2],
        lambda: torch.nn.Parameter(torch.zeros(4, 6)),
        lambda: torch.zeros(4, 6, dtype=torch.bfloat16),
        lambda: torch.zeros(6, 4, dtype=torch.bfloat16).T,
    ],
    ids=["same", "wider", "transposed", "strided", "parameter", "bfloat16", "bfloat16-strided"],
)
def test_a_tensor_is_read_into(make):
    out = make()
    pointer = out.data_ptr()
    assert stored().read(out=out) is out
    assert out.data_ptr() == pointer
    assert torch.equal(out.detach().float(), torch.from_numpy(DATA))  # small integers: exact


def test_what_was_saved_for_backward_is_known_to_have_changed():
    weight = torch.ones(4, 6, requires_grad=True)
    loss = (weight * weight).sum()
    stored().read(out=weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        assert stored().read(out=torch.zeros(4, 6))[3, 5] == 23


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: torch.zeros(4, 5), ValueError, "shape"),
        (lambda: torch.zeros(4, 6, dtype=torch.int32), TypeError, "cast"),
        (lambda: torch.zeros(1, 6).expand(4, 6), ValueError, "same place"),
        (lambda: 2 * torch.zeros(4, 6, requires_grad=True), ValueError, "detach"),
        (lambda: torch.zeros(4, 6, device="meta"), TypeError, "meta"),
        (lambda: torch.zeros(4, 6).to_sparse(), TypeError, "layout"),
        (lambda: torch.zeros(4, 6, dtype=torch.complex64).conj(), ValueError, "conj"),
        (lambda: torch.zeros(4, 6, dtype=torch.complex64).conj().imag, ValueError, "conj"),
        (lambda: np.frombuffer(bytes(96), "f4").reshape(4, 6), ValueError, "read-only"),
        (lambda: np.lib.stride_tricks.as_strided(np.zeros(6, "f4"), (4, 6), (0, 4)), ValueError,
         "same place"),
    ],
    ids=["shape", "type", "expanded", "history", "meta", "sparse", "conjugate", "negated", "frozen",
         "overlapping"],
)  # fmt: skip
def test_outputs_that_cannot_be_written_to_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        stored().read(out=make())


class Exporter:
    """Anything that exports its memory by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_memory_comes_by_dlpack_and_by_buffers():
    out = np.zeros((4, 6), "f4")
    stored().read(out=Exporter(out))
    assert np.array_equal(out, DATA)
    out[...] = 0
    stored().read(out=memoryview(out).cast("B"))
    assert np.array_equal(out, DATA)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        stored().read(out=Exporter(out))


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ComplexHalf support")  # PyTorch's own, of its own type
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_all_types_are_stored_and_come_back(dtype):
    tensor = random_tensor(dtype, (7, 5))
    array = zarr_gpu.create_array({}, data=tensor, chunks=(3, 2), device="cpu")
    assert torch.equal(bits(read(array)), bits(tensor))
    assert read(array).dtype == dtype
    assert torch.equal(bits(read(array, (slice(1, 6, 2), 3))), bits(tensor[1:6:2, 3]))
    out = torch.zeros(7, 5, dtype=dtype)
    assert read(array, out=out) is out
    assert torch.equal(bits(out), bits(tensor))
    array[2:4] = tensor[:2]
    assert torch.equal(bits(to_torch(array)[2:4]), bits(tensor[:2]))


def test_values_with_gradients_conjugates_and_casts():
    array = stored(np.zeros((4, 6), "c8"))
    value = torch.randn(4, 6, dtype=torch.complex64, requires_grad=True)
    array[...] = value.conj()
    assert torch.equal(to_torch(array), value.detach().conj())
    array[...] = value.detach().conj().imag  # computed when it is needed
    assert torch.equal(to_torch(array).real, -value.detach().imag)
    small = zarr_gpu.create_array({}, shape=6, chunks=2, dtype="bfloat16", device="cpu")
    small[...] = torch.arange(6.0)
    assert torch.equal(to_torch(small), torch.arange(6).bfloat16())
    assert np.array_equal(zarr_gpu.array(torch.arange(6), store={})[...], np.arange(6))
    assert zarr_gpu.from_array({}, data=torch.arange(6, dtype=torch.uint8)).dtype == "u1"
    stored().append(torch.ones(1, 6))


# -- results --------------------------------------------------------------------------------------


def test_results_are_taken_over_without_a_copy():
    for data in (DATA, np.zeros((300, 400))):
        result = stored(data)[1:, ::2]
        for tensor in (torch.from_dlpack(result), to_torch(result)):
            assert tensor.data_ptr() == result.ctypes.data
    half = zarr_gpu.create_array({}, shape=9, chunks=4, dtype="bfloat16", device="cpu")[...]
    assert to_torch(half).data_ptr() == half.ctypes.data
    assert to_torch(half).dtype == torch.bfloat16


def test_a_lazy_array_is_a_tensor_by_way_of_numpy():
    assert torch.equal(torch.as_tensor(np.asarray(stored())), torch.from_numpy(DATA))
    # It has no memory to export, and does not pretend to be an array of operations.
    assert not hasattr(zarr_gpu.Array, "__dlpack__")
    assert not hasattr(zarr_gpu.Array, "__array_namespace__")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_byte_order_and_places_of_elements_do_not_matter(zarr_format):
    big = DATA.astype(">f4")
    array = stored(big, zarr_format=zarr_format)
    assert torch.equal(
        read(array, (slice(None), slice(None, None, -2))), torch.from_numpy(DATA[:, ::-2].copy())
    )
    assert torch.equal(to_torch(big[::-1]), torch.from_numpy(DATA[::-1].copy()))
    packed = np.zeros(5, np.dtype([("a", "u1"), ("b", "<f4")]))
    assert to_torch(packed["b"]).shape == (5,)
    frozen = DATA.copy()
    frozen.flags.writeable = False
    assert to_torch(frozen).data_ptr() != frozen.ctypes.data  # nobody may change it
    for empty in (stored(np.zeros((0, 3))), stored(np.float32(2), chunks=())):
        assert read(empty).shape == empty.shape
    assert read(array, (1, 2)).item() == 8
    assert read(array, (1, 2)).shape == ()


def test_types_that_pytorch_lacks_are_refused():
    for dtype, hint in (("M8[s]", "int64"), ("U3", "U3"), ([("a", "i4")], "field"), ("S2", "S2")):
        array = zarr_gpu.create_array({}, shape=3, dtype=np.dtype(dtype), device="cpu")
        with pytest.raises(UnsupportedError, match=hint):
            read(array)
    packed = torch.zeros(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(UnsupportedError, match="float4"):
        array[...] = packed


# -- devices: an emulated one, and a stand-in for CuPy ---------------------------------------------


class OnCard(torch.Tensor):
    """A tensor of the host that says it was on a card."""

    is_cuda = True

    def __dlpack_device__(self):
        return 2, 0


def on_card(tensor):
    return tensor.as_subclass(OnCard)


@pytest.fixture
def card(monkeypatch):
    """An emulated device that takes such tensors, and PyTorch's current stream for its own."""
    with emulated(monkeypatch) as runtime:
        adopt = runtime.adopt

        def adopt_tensors(out):
            return adopt(out.as_subclass(torch.Tensor).numpy() if tensors.is_torch(out) else out)

        monkeypatch.setattr(runtime, "adopt", adopt_tensors)
        monkeypatch.setattr(interop, "_stream", lambda where: nullcontext())
        yield runtime


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_tensors_on_a_card_are_read_into_and_written(card, dtype):
    tensor = random_tensor(dtype, (40, 30))
    array = zarr_gpu.create_array({}, data=tensor, chunks=(7, 30), device="cpu").to("cuda")
    found = read(array, slice(3, 33))
    card.synchronize()
    assert torch.equal(bits(found), bits(tensor[3:33]))
    assert found.dtype == dtype
    out = torch.zeros(40, 30, dtype=dtype)
    array.read(out=on_card(out))
    card.synchronize()
    assert torch.equal(bits(out), bits(tensor))
    array[:20] = on_card(tensor[20:].clone())
    card.synchronize()
    assert torch.equal(bits(read(array.to("cpu"))[:20]), bits(tensor[20:]))
    assert card.counts.launches


def test_bits_on_a_card_are_not_taken_for_numbers(card):
    array = zarr_gpu.create_array({}, data=torch.arange(6.0).bfloat16(), chunks=2).to("cuda")
    numbers = zarr_gpu.create_array({}, data=np.arange(6, dtype="u2"), chunks=2).to("cuda")
    for wrong in (torch.zeros(6), torch.zeros(6, dtype=torch.float16)):
        with pytest.raises(TypeError, match="cast"):
            array.read(out=on_card(wrong))
    with pytest.raises(TypeError, match="cast"):
        numbers.read(out=on_card(torch.zeros(6).bfloat16()))
    with pytest.raises(TypeError, match="cast"):
        array.read(out=card.array(np.zeros(6, "f4")))
    with pytest.raises(ValueError, match="same place"):
        numbers.read(out=on_card(torch.zeros(1, dtype=torch.int32).expand(6)))
    with pytest.raises(ValueError, match="shape"):
        numbers.read(out=on_card(torch.zeros(5, dtype=torch.int32)))
    with pytest.raises(ValueError, match="detach"):
        numbers.read(out=on_card(2 * torch.zeros(6, requires_grad=True)))
    out = torch.zeros(6, dtype=torch.uint16)  # the bits, as CuPy has them
    array.read(out=on_card(out))
    card.synchronize()
    assert torch.equal(out.view(torch.bfloat16), torch.arange(6.0).bfloat16())
    array[...] = on_card(torch.arange(6.0) + 0.5)  # converted on the host
    card.synchronize()
    assert torch.equal(read(array.to("cpu")), (torch.arange(6.0) + 0.5).bfloat16())


def test_pytorch_s_current_stream_orders_what_is_read(monkeypatch):
    used = []
    stream = SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(ExternalStream=lambda p: used.append(p) or nullcontext())
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with interop._stream("cuda:0"):
        assert used == [77]
    with interop._stream("host"):
        assert used == [77]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # of the test itself
def test_outputs_that_are_no_tensors_of_one_memory_are_refused():
    with pytest.raises(TypeError, match="writable"):
        read(stored(), out=[0.0] * 24)
    with pytest.raises(TypeError, match="layout"):
        read(stored(), out=torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]))
    out = np.zeros((4, 6))
    read(stored(), out=out)
    assert np.array_equal(out, DATA)


def test_devices_that_arrays_do_not_know_are_refused():
    with pytest.raises(ValueError, match="mps"):
        read(stored(), device="mps")
    with pytest.raises(ValueError, match="either"):
        read(stored(), device="cpu", out=torch.zeros(4, 6))
    assert read(stored(), device="cpu").device.type == "cpu"
