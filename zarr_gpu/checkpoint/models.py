"""Models of PyTorch: their parameters and buffers, shared ones stored once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zarr_gpu.checkpoint import saving
from zarr_gpu.checkpoint.files import check_metadata, safe_open
from zarr_gpu.checkpoint.frameworks import framework_of
from zarr_gpu.checkpoint.opening import place_of_file
from zarr_gpu.checkpoint.verifying import Verify
from zarr_gpu.errors import CheckpointError


def save_model(
    model: Any,
    path: Any,
    metadata: Mapping[str, str] | None = None,
    *,
    checksum: bool = True,
) -> None:
    """Store the parameters and buffers of a ``torch.nn.Module`` in one safetensors file.

    Tensors that share all their memory are stored once; the file's metadata say which name stands
    for which, as those of the package safetensors do. What shares part of its memory is stored as
    often as it is used.
    """
    kept, aliases = shared_names(model.state_dict())
    metadata = {"format": "pt", **check_metadata(metadata), **aliases}
    sources = [saving.source(name, tensor) for name, tensor in kept.items()]
    store, key = place_of_file(path)
    saving.write_file(store, key, sources, metadata, checksum=checksum)


def shared_names(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors to be stored, and the names of the others with the name that stands for them."""
    kept: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, tensor in tensors.items():
        where = framework_of(tensor).storage(tensor)
        other = name if where is None else first.setdefault(where, name)
        if other == name:
            kept[name] = tensor
        else:
            aliases[name] = other
    return kept, aliases


def load_model(
    model: Any,
    path: Any,
    strict: bool = True,
    device: Any = "cpu",
    *,
    verify: Verify = "none",
) -> tuple[list[str], list[str]]:
    """Read a file (or several, see :class:`safe_open`) into a ``torch.nn.Module``, in place.

    All tensors are read by one plan, straight into the memory of the parameters. Parameters and
    buffers on PyTorch's device ``meta`` are made on ``device``, shared ones once. Returns the names
    that the file lacks and those that the model lacks; with ``strict`` either raises
    CheckpointError, before anything is read.
    """
    own = model.state_dict(keep_vars=True)
    kept, aliases = shared_names(own)
    with safe_open(path, "pt", device, verify=verify) as file:
        stored = set(file.keys())
        sources = {}
        for name in kept:
            names = [name, *(alias for alias, other in aliases.items() if other == name)]
            source = next((n for n in names if n in stored), None)
            if source is not None:
                sources[name] = source
        missing = [n for n in own if aliases.get(n, n) not in sources]
        known = {*own, *file.metadata()}
        unexpected = [name for name in file if name not in known]
        if strict and (missing or unexpected):
            raise CheckpointError(
                f"the model does not fit {path!r}: it has {_shown(missing)} that the file lacks, "
                f"the file has {_shown(unexpected)} that the model lacks"
            )
        wanted = [(source, own[name].detach(), None) for name, source in sources.items()]
        filled = file.fill(wanted)
    _replace_meta(model, own, dict(zip(sources, filled, strict=True)))
    return missing, unexpected


def _shown(names: list[str]) -> str:
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"
    )


def _replace_meta(model: Any, own: Mapping[str, Any], filled: Mapping[str, Any]) -> None:
    """Put new tensors in the place of those without memory, the same one for all its names."""
    import torch

    made: dict[int, Any] = {}
    for name, tensor in filled.items():
        old = own[name]
        if old.device.type == "meta":
            new = torch.nn.Parameter(tensor, old.requires_grad)
            made[id(old)] = new if isinstance(old, torch.nn.Parameter) else tensor
    if not made:
        return
    for module in model.modules():
        for members in (module._parameters, module._buffers):  # noqa: SLF001 - no public way
            for name, old in _items(members):
                if id(old) in made:
                    members[name] = made[id(old)]


def _items(members: Any) -> Iterable[tuple[str, Any]]:
    return [(name, value) for name, value in members.items() if value is not None]
