"""PyTorch: every type it has, models with tied weights, optimizers, the device meta."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open as their_open

from zarr_gpu.checkpoint import load, load_file, load_model, safe_open, save, save_file, save_model
from zarr_gpu.checkpoint.described import OnDevice, Target
from zarr_gpu.checkpoint.frameworks import get_torch
from zarr_gpu.errors import CheckpointError, UnsupportedError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import safetensors.torch  # noqa: E402 - needs PyTorch

ALL = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
       "bfloat16", "float32", "float64", "complex32", "complex64", "complex128", "float8_e4m3fn",
       "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
       "float4_e2m1fn_x2"]  # fmt: skip
THEIRS = {*ALL} - {"complex32", "complex128"}


def some(name, shape):
    dtype = getattr(torch, name)
    generator = torch.Generator().manual_seed(len(name) + len(shape))
    high = 2 if name == "bool" else 256
    n = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
    return (
        torch.randint(0, high, (n,), dtype=torch.uint8, generator=generator)
        .view(dtype)
        .reshape(shape)
    )


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert bits(a) == bits(b)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", ALL)
def test_every_type_comes_back(tmp_path, name):
    tensors = {f"{i}": some(name, s) for i, s in enumerate([(), (0, 4), (7,), (3, 4, 2)])
               if s or name != "float4_e2m1fn_x2"}  # fmt: skip
    path = tmp_path / "m.safetensors"
    save_file(tensors, path)
    found = load_file(path, verify="full")
    for key, tensor in tensors.items():
        same(found[key], tensor)
    into = {key: torch.empty_like(tensor) for key, tensor in tensors.items()}
    with safe_open(path, "pt") as file:
        file.load_into(into)
        if name != "float4_e2m1fn_x2":
            same(file.get_slice("3")[1:, 2], tensors["3"][1:, 2])
    for key, tensor in tensors.items():
        same(into[key], tensor)
    if name in THEIRS and name != "float4_e2m1fn_x2":
        theirs = safetensors.torch.load_file(path)
        for key, tensor in tensors.items():
            same(theirs[key], tensor)


def test_what_torch_wrote_is_read(tmp_path):
    tensors = {"a": torch.randn(5, 6), "b": torch.randn(3).bfloat16(), "c": torch.tensor(2.5)}
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    for key, tensor in load_file(tmp_path / "m.safetensors").items():
        same(tensor, tensors[key])
    with (
        their_open(tmp_path / "m.safetensors", "pt") as theirs,
        safe_open(tmp_path / "m.safetensors", "pt") as ours,
    ):
        assert ours.metadata() == theirs.metadata()
        assert ours.get_slice("a").get_dtype() == theirs.get_slice("a").get_dtype()
        same(ours.get_slice("a")[1:3, 2:], theirs.get_slice("a")[1:3, 2:])


def test_views_conjugates_and_gradients_keep_their_values(tmp_path):
    base = torch.randn(4, 6, dtype=torch.complex64)
    tensors = {"t": base.T, "conj": base.conj(), "neg": base.imag, "part": base[:, ::2],
               "grad": torch.nn.Parameter(torch.randn(3))}  # fmt: skip
    save_file(tensors, tmp_path / "m.safetensors")
    for key, tensor in load_file(tmp_path / "m.safetensors").items():
        assert torch.equal(tensor, tensors[key].detach())
    into = torch.zeros(6, 4, dtype=torch.complex64).T
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        file.load_into({"conj": into})
        with pytest.raises(ValueError, match="'t'"):
            file.load_into({"t": into})
    assert torch.equal(into, base.conj())


def test_what_has_no_values_is_refused(tmp_path):
    for tensor in (torch.empty(3, device="meta"), torch.eye(3).to_sparse()):
        with pytest.raises(UnsupportedError, match="'a'"):
            save_file({"a": tensor}, tmp_path / "m.safetensors")


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        self.inner = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
        self.head = torch.nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.inner(self.embedding(x)))


def trained():
    torch.manual_seed(3)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.arange(10)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def assert_equal_models(a, b):
    for name, tensor in a.state_dict().items():
        same(b.state_dict()[name], tensor)


def test_models_with_tied_weights(tmp_path):
    model, _ = trained()
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    with safe_open(path, "pt") as file:
        assert sum(name in file for name in ("head.weight", "embedding.weight")) == 1
    other = Model()
    own = other.head.weight
    assert load_model(other, path, verify="full") == ([], [])
    assert other.head.weight is own  # filled in place
    assert_equal_models(model, other)
    theirs = Model()
    safetensors.torch.load_model(theirs, path)
    assert_equal_models(model, theirs)
    safetensors.torch.save_model(model, tmp_path / "theirs.safetensors")
    load_model(other := Model(), tmp_path / "theirs.safetensors")
    assert_equal_models(model, other)


def test_models_without_memory_get_it(tmp_path):
    model, _ = trained()
    save_model(model, tmp_path / "model.safetensors")
    with torch.device("meta"):
        other = Model()
    load_model(other, tmp_path / "model.safetensors")
    assert_equal_models(model, other)
    assert other.head.weight is other.embedding.weight
    assert other.inner[0].weight.requires_grad
    other(torch.arange(4)).sum().backward()


def test_models_that_do_not_fit(tmp_path):
    model, _ = trained()
    tensors = {k: v for k, v in model.state_dict().items() if k != "head.weight"}
    del tensors["inner.0.bias"]
    save_file({**tensors, "extra": torch.ones(2)}, tmp_path / "model.safetensors")
    other = Model()
    before = other.inner[0].weight.clone()
    with pytest.raises(CheckpointError, match=r"inner.0.bias.*extra"):
        load_model(other, tmp_path / "model.safetensors")
    assert torch.equal(other.inner[0].weight, before)
    missing, unexpected = load_model(other, tmp_path / "model.safetensors", strict=False)
    assert (missing, unexpected) == (["inner.0.bias"], ["extra"])
    same(other.inner[0].weight.detach(), model.inner[0].weight.detach())
    save_file({"embedding.weight": torch.ones(3, 3)}, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"'embedding.weight'.*\[20, 8\]"):
        load_model(other, tmp_path / "small.safetensors", strict=False)


def test_training_goes_on_as_if_nothing_had_happened(tmp_path):
    model, optimizer = trained()
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
          "rng": torch.get_rng_state(), "size": torch.Size([2, 3])}, tmp_path / "s")  # fmt: skip
    state = load(tmp_path / "s")
    other = Model()
    again = torch.optim.AdamW(other.parameters())
    other.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    assert state["size"] == (2, 3)
    torch.set_rng_state(state["rng"])
    for one, optimizing in ((model, optimizer), (other, again)):
        optimizing.zero_grad()
        one(torch.arange(10)).square().mean().backward()
        optimizing.step()
    assert_equal_models(model, other)
    with torch.device("meta"):
        template = {"model": Model().state_dict()}
    load(tmp_path / "s", template)
    same(template["model"]["inner.0.weight"], state["model"]["inner.0.weight"])
    assert isinstance(load(tmp_path / "s", framework="np")["model"]["head.weight"], np.ndarray)


def test_replacements_of_meta_tensors_go_where_they_were_made(monkeypatch):
    """Memory of a device must not be lost on the way: it would stay as it was allocated."""
    framework = get_torch()
    described = framework.describe(torch.ones(3))
    made = Target(memoryview(b""), lambda: torch.ones(3), on=OnDevice(engine=None, ptr=64))
    monkeypatch.setattr(framework, "new", lambda described, device: made)
    target = framework.existing(torch.empty(3, device="meta"), described, "cuda:0")
    assert target.on is made.on
    assert target.tensor().tolist() == [1, 1, 1]
