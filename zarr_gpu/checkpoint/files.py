"""Files of tensors: ``save_file``, ``load_file`` and ``safe_open``, as the package safetensors has
them, for PyTorch, NumPy, JAX and CuPy.

>>> import tempfile, numpy as np
>>> path = f"{tempfile.mkdtemp()}/a.safetensors"
>>> save_file({"w": np.arange(6.0).reshape(2, 3)}, path)
>>> load_file(path, framework="np")["w"][1].tolist()
[3.0, 4.0, 5.0]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from zarr_gpu.checkpoint import saving
from zarr_gpu.checkpoint.arrays import ArrayLoad, ArrayTensors, save_arrays
from zarr_gpu.checkpoint.borrowing import FRAMEWORKS, Borrower
from zarr_gpu.checkpoint.described import Described, OnDevice, Target, described_shape
from zarr_gpu.checkpoint.frameworks import Framework, device_name, framework_of, get_framework
from zarr_gpu.checkpoint.loading import Box, Load
from zarr_gpu.checkpoint.opening import logical_types, open_face, open_tensors, place_of_file
from zarr_gpu.checkpoint.verifying import Verify, check_verify, row_checker, verify_loaded
from zarr_gpu.errors import SelectionError
from zarr_gpu.group import Group
from zarr_gpu.stores.tensor_files import PARTS, Tensor, TensorFiles

if TYPE_CHECKING:
    from zarr_gpu.checkpoint.device_loading import DeviceLoad

_OURS = (PARTS, saving.CHECKSUMS, saving.TYPE_NAMES)


def save_file(
    tensors: Mapping[str, Any],
    path: Any,
    metadata: Mapping[str, str] | None = None,
    *,
    checksum: bool = True,
    compression: str | None = None,
    link: float | None = None,
) -> None:
    """Store ``tensors`` in one safetensors file, which any reader of the format opens.

    ``path``: a path or URL. ``metadata``: text by text. ``checksum``: whether to store checksums,
    which ``verify=`` looks at. The old file is there until the new one is whole. Raises TypeError
    and UnsupportedError, naming the tensor, for what cannot be stored; ValueError for tensors that
    share memory, which :func:`save_model` stores once.

    With ``compression`` a Zarr hierarchy is written instead, an array for each tensor: ``zstd``,
    ``none``, or ``auto``: compressed where a sample says that loading over ``link`` (bytes per
    second; None: 7e9, over a network 1e9) would be faster. The reason is logged, and kept in the
    group's attributes.
    """
    metadata = check_metadata(metadata)
    sources = [saving.source(name, tensor) for name, tensor in tensors.items()]
    refuse_shared(tensors)
    if compression is not None:
        save_arrays(path, sources, metadata, compression=compression, link=link, checksum=checksum)
        return
    store, key = place_of_file(path)
    saving.write_file(store, key, sources, metadata, checksum=checksum)


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """A copy. TypeError unless it is text by text, ValueError for names that are ours."""
    found = dict(metadata or {})
    for name, text in found.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"metadata are text by text, found {name!r}: {text!r}")
        if name in _OURS:
            raise ValueError(f"the name {name!r} is reserved")
    return found


def refuse_shared(tensors: Mapping[str, Any]) -> None:
    """Raise ValueError when two tensors are the same memory, which would be stored twice."""
    seen: dict[object, str] = {}
    for name, tensor in tensors.items():
        where = framework_of(tensor).storage(tensor)
        if where is None:
            continue
        other = seen.setdefault(where, name)
        if other != name:
            raise ValueError(
                f"{other!r} and {name!r} are the same memory and would be stored twice: use "
                "save_model or save, which keep one of them, or clone it"
            )


def load_file(
    path: Any,
    device: Any = "cpu",
    *,
    framework: str | None = None,
    names: Iterable[str] | None = None,
    verify: Verify = "none",
    borrow: bool = False,
) -> dict[str, Any]:
    """All tensors of a file, of several (an index or a directory), or those in ``names``.

    They are read by one plan into memory of their own, or lent (``borrow``, see
    :class:`safe_open`). ``framework``: ``pt``, ``np``, ``jax`` or ``cupy``; None: PyTorch where it
    is installed, else NumPy. ``verify``: compare checksums, of all bytes (``full``) or of some
    (``sample``). Raises KeyError, MetadataError for damaged headers, CheckpointError for wrong
    checksums, StoreError.
    """
    with safe_open(path, framework, device, verify=verify, borrow=borrow) as file:
        return file.get_tensors(names)


class safe_open:  # noqa: N801 - the name that users know
    """Opened safetensors files: names, metadata, tensors and slices of them.

    ``path``: of a file, an index (``model.safetensors.index.json``) or a directory with either; or
    several files; or a Zarr group, whose arrays are the tensors then. Tensors that were loaded are
    independent of the files, unless ``borrow``: whole tensors of NumPy or PyTorch (CPU) are the
    mapped file then, where it can be mapped. What is written to them stays in memory; the file may
    be replaced or deleted, but must not be cut short meanwhile.
    """

    def __init__(
        self,
        path: Any,
        framework: str | None = None,
        device: Any = "cpu",
        *,
        verify: Verify = "none",
        borrow: bool = False,
    ) -> None:
        self._framework: Framework = get_framework(framework)
        self._device = device
        self._verify = check_verify(verify)
        if borrow and (self._framework.name not in FRAMEWORKS or str(device) != "cpu"):
            raise ValueError(
                f"borrow=True gives memory of the host to NumPy or PyTorch, found framework "
                f"{self._framework.name!r} and device {device!r}"
            )
        self.files = open_tensors(path, device_name(self._framework, device))
        self._lender = None
        if borrow and isinstance(self.files, TensorFiles):
            self._lender = Borrower(self.files, self._framework)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; tensors stay."""
        self.files.close()

    # -- what is there ----------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """Names of tensors."""
        return list(self.files)

    def offset_keys(self) -> list[str]:
        """The same in the order of the bytes."""
        files = self.files
        if isinstance(files, ArrayTensors):
            return self.keys()
        rows = {name: files[name].parts[0].row for name in files}
        return sorted(rows, key=lambda name: (files.file[rows[name]], files.offset[rows[name]]))

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def metadata(self) -> dict[str, str]:
        """The user's, of all files; the first one counts where they differ."""
        return {k: v for k, v in self.files.metadata.items() if k not in _OURS}

    def group(self, *, device: str | None = None) -> Group:
        """The same bytes as a group of Zarr arrays, for as long as this is open."""
        if isinstance(self.files, ArrayTensors):
            return self.files.group()
        return open_face(self.files, device=device)

    def describe(self, name: str) -> Described:
        """Type and shape as they are in the file. Raises KeyError."""
        return self._tensor(name)[1]

    def _tensor(self, name: str) -> tuple[Tensor, Described]:
        if name not in self.files:
            raise KeyError(f"no tensor {name!r} in {', '.join(self.files.keys)}")
        tensor = self.files[name]
        return tensor, Described(tensor.code, tensor.shape, self._types.get(name))

    @cached_property
    def _types(self) -> dict[str, str]:
        if isinstance(self.files, ArrayTensors):
            return self.files.types
        return logical_types(self.files)

    # -- reading ----------------------------------------------------------------------------------

    def get_tensor(self, name: str) -> Any:
        """Raises KeyError."""
        return self.get_tensors([name])[name]

    def get_tensors(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Many tensors by one plan; all without ``names``."""
        return self.read(self.files if names is None else names, self._framework)

    def read(self, names: Iterable[str], framework: Framework) -> dict[str, Any]:
        """New tensors of a framework."""
        targets, lent = {}, {}
        for name in names:
            tensor, described = self._tensor(name)
            found = None
            if self._lender is not None and framework is self._framework:
                found = self._lender.tensor(tensor, described)
            if found is not None:
                lent[name] = found[1]
                targets[name] = Target(found[1], partial(_itself, found[0]))
            else:
                targets[name] = framework.new(described, self._device)
        self._fill((name, target, None) for name, target in targets.items() if name not in lent)
        self._verify_all(lent)
        return {name: target.tensor() for name, target in targets.items()}

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor of which ``[...]`` reads a part."""
        return TensorSlice(self, name)

    def load_into(
        self, tensors: Mapping[str, Any], plan: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fill existing tensors, in place; those in ``plan`` with that slice of the stored ones.

        Contiguous tensors of the stored type are read into directly; others get a copy, cast where
        types differ. Raises KeyError, ValueError for other shapes, TypeError.
        """
        plan = plan or {}
        for name in plan:
            if name not in tensors:
                raise KeyError(f"{name!r} is in plan, but not in tensors")
        found = self.fill((name, into, plan.get(name)) for name, into in tensors.items())
        return dict(zip(tensors, found, strict=True))

    def fill(self, wanted: Iterable[tuple[str, Any, Any]]) -> list[Any]:
        """:meth:`load_into` for ``(name, tensor, slice or None)``, also of one name several times.

        Tensors of PyTorch's device ``meta`` are replaced by new ones.
        """
        targets = []
        for name, into, selection in wanted:
            described, box = self.describe(name), None
            if selection is not None:
                box, shape = parse_slices(selection, described_shape(described))
                described = _with_shape(described, shape)
            try:
                target = framework_of(into).existing(into, described, self._device)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name!r}: {error}") from error
            targets.append((name, target, box))
        self._fill(targets)
        return [target.tensor() for _, target, _ in targets]

    def _fill(self, targets: Iterable[tuple[str, Target, Box | None]]) -> None:
        files = self.files
        plan = Load(files) if isinstance(files, TensorFiles) else files.plan()
        whole: dict[str, memoryview] = {}
        on_devices: dict[int, DeviceLoad] = {}
        for name, target, box in targets:
            tensor, described = self._tensor(name)
            if box is not None:
                extra = described.shape[len(described_shape(described)) :]
                box = (*box, *((0, n) for n in extra))
            if target.on is not None and isinstance(plan, ArrayLoad):
                plan.add_array(tensor, box, target.tensor())
            elif target.on is not None:
                self._on_device(on_devices, target.on, tensor, box)
            elif box is None:
                whole[name] = target.memory
                plan.add(tensor, target.memory)
            else:
                plan.add_box(tensor, box, target.memory)
        plan.run()
        for on_device in on_devices.values():
            on_device.run()
        self._verify_all(whole)

    def _verify_all(self, whole: Mapping[str, memoryview]) -> None:
        """Compare tensors that were read as a whole with their checksums."""
        if self._verify != "none" and isinstance(self.files, TensorFiles):
            verify_loaded(self.files, whole, self._verify)

    def _on_device(
        self, loads: dict[int, DeviceLoad], on: OnDevice, tensor: Tensor, box: Box | None
    ) -> None:
        """Plan a tensor, or a part of it, for the device's memory."""
        files = self.files
        assert isinstance(files, TensorFiles)  # noqa: S101 - the other kind plans itself
        plan = loads.get(id(on.engine))
        if plan is None:
            from zarr_gpu.checkpoint.device_loading import DeviceLoad  # kernels and their tables

            check = None if self._verify == "none" else row_checker(files)
            plan = loads.setdefault(id(on.engine), DeviceLoad(files, on.engine, check))
        if box is None:
            plan.add(tensor, on.ptr)
        else:
            plan.add_box(tensor, box, on.ptr)

    def _slice(self, name: str, selection: Any) -> Any:
        described = self.describe(name)
        box, shape = parse_slices(selection, described_shape(described))
        target = self._framework.new(_with_shape(described, shape), self._device)
        self._fill([(name, target, box)])
        return target.tensor()


class TensorSlice:
    """A tensor that is read by slices (of step 1) and integers."""

    def __init__(self, file: safe_open, name: str) -> None:
        self._file = file
        self._name = name
        self._described = file.describe(name)

    def get_shape(self) -> list[int]:
        return list(described_shape(self._described))

    def get_dtype(self) -> str:
        """The code in the file; the name for types that the format lacks."""
        return self._described.logical or self._described.code

    def __getitem__(self, selection: Any) -> Any:
        return self._file._slice(self._name, selection)  # noqa: SLF001 - a part of it


def parse_slices(selection: Any, shape: tuple[int, ...]) -> tuple[Box, tuple[int, ...]]:
    """A box, and the shape of the result: integers take their axis away.

    Raises IndexError for what is no slice of step 1, or out of bounds.
    """
    items = selection if isinstance(selection, tuple) else (selection,)
    if any(item is None for item in items):
        raise SelectionError("new axes are not supported here")
    if sum(item is Ellipsis for item in items) > 1:
        raise SelectionError("only one ellipsis is allowed")
    missing = len(shape) - sum(item is not Ellipsis for item in items)
    if missing < 0:
        raise SelectionError(f"too many indices for {len(shape)} axes")
    whole = [slice(None)] * missing
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items = (*items[:at], *whole, *items[at + 1 :])
    else:
        items = (*items, *whole)
    box: list[tuple[int, int]] = []
    kept: list[int] = []
    for item, n in zip(items, shape, strict=True):
        if isinstance(item, slice):
            start, stop, step = item.indices(n)
            if step != 1:
                raise SelectionError(f"slices have step 1 here, found {item}")
            box.append((start, max(0, stop - start)))
            kept.append(max(0, stop - start))
        elif isinstance(item, int | np.integer) and not isinstance(item, bool):
            i = int(item)
            i += n if i < 0 else 0
            if not 0 <= i < n:
                raise SelectionError(f"index {item} is out of bounds for an axis of {n}")
            box.append((i, 1))
        else:
            raise SelectionError(f"expected slices and integers, found {item!r}")
    return tuple(box), tuple(kept)


def _itself(tensor: Any) -> Any:
    return tensor


def _with_shape(described: Described, shape: tuple[int, ...]) -> Described:
    extra = described.shape[len(described_shape(described)) :]
    return described._replace(shape=(*shape, *extra))
