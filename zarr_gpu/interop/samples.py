"""Arrays that share an axis, cut into samples along it. Knows no order and no framework.

>>> import zarr_gpu
>>> images = zarr_gpu.create_array({}, data=np.arange(24).reshape(6, 2, 2), chunks=(2, 2, 2))
>>> labels = zarr_gpu.create_array({}, data=np.arange(6) * 10, chunks=3)
>>> samples = Samples({"image": images, "label": labels})
>>> len(samples), samples.pack([member.rest for member in samples.members])
(6, {'image': (2, 2), 'label': ()})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zarr_gpu import indexing
from zarr_gpu._types import Int64, NDArray, Shape
from zarr_gpu.array import Array
from zarr_gpu.errors import UnsupportedError
from zarr_gpu.interop.sampling import block_edges, places, runs

Arrays = Array | Mapping[str, Array] | Sequence[Array]
Block = Literal["chunk", "shard"]

LEAST_BLOCK_NBYTES = 64 << 10
"""Chunks along the axis are put together until they hold this much."""
RESIDENT_NBYTES = 8 << 20
"""What all samples of an array take together, up to which they are kept in memory: labels."""
SPAN_NBYTES = 1 << 20
"""Runs of samples from here on are read one by one, decoded where they belong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of the arrays."""

    array: Array
    axis: int
    select: tuple[Any, ...]
    """Of the other axes, in order."""
    rest: Shape
    """Shape of one element along the axis."""
    place: int
    """Where the sample axis is among the axes of what is read."""
    dtype: np.dtype[Any]
    """As it is in memory."""

    @property
    def nbytes(self) -> int:
        """Of one element along the axis."""
        return math.prod(self.rest) * self.dtype.itemsize

    def selection(self, at: Any) -> tuple[Any, ...]:
        """What to ask of the array for elements ``at`` along the axis."""
        return (*self.select[: self.axis], at, *self.select[self.axis :])

    def read(self, spans: Int64, out: Any) -> None:
        """Elements of ``spans`` one after the other into ``out``, whose first axis is theirs."""
        target = _moved(out, 0, self.place)
        if len(spans) == 1:
            self._read(slice(*spans[0].tolist()), target)
            return
        length = int((spans[:, 1] - spans[:, 0]).min())
        if length * self.nbytes >= SPAN_NBYTES and self.array.store.local:
            at = 0
            for start, stop in spans.tolist():
                self._read(slice(start, stop), _moved(out[at : at + stop - start], 0, self.place))
                at += stop - start
        else:
            self._read(runs(spans), target)

    def _read(self, at: Any, out: Any) -> None:
        self.array.get_orthogonal_selection(self.selection(at), out=out)


class Samples:
    """``arrays``: one, a mapping or a sequence of them; samples look the same.

    A sample is what lies at one index of ``axis``. With ``window`` it is so many indices in a row,
    from ``stride`` after where the one before began; incomplete windows at the end are left out.
    ``select`` is the selection of the other axes, in order: integers, slices, lists, as for
    ``array.oindex``. ``axis`` and ``select`` hold for all arrays, or are given as ``arrays`` are:
    in a mapping or a list. ``device`` decodes.

    Raises ValueError when the arrays do not have the same number of samples.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        axis: Any = 0,
        window: int | None = None,
        stride: int | None = None,
        select: Any = None,
        device: str = "cpu",
    ) -> None:
        self.names: tuple[str, ...] | None = None
        self.single = isinstance(arrays, Array)
        given: list[Array]
        if isinstance(arrays, Array):
            given = [arrays]
        elif isinstance(arrays, Mapping):
            self.names, given = tuple(arrays), list(arrays.values())
        else:
            given = list(arrays)
        if not given or not all(isinstance(array, Array) for array in given):
            raise TypeError("samples are cut from an Array, or from a mapping or sequence of them")
        if (window is not None and window < 1) or (stride is not None and stride < 1):
            raise ValueError(f"window and stride must be at least 1, not {window} and {stride}")
        if stride is not None and window is None:
            raise ValueError("a stride is that of windows: give window, too")
        self.window = window
        self.length = window or 1
        self.stride = stride or self.length
        axes, selects = self._each(axis, len(given)), self._each(select, len(given))
        self.members = tuple(map(_member, [a.to(device) for a in given], axes, selects))
        lengths = [m.array.shape[m.axis] for m in self.members]
        if len(set(lengths)) > 1:
            raise ValueError(f"the arrays have {lengths} samples, they must have the same number")
        self.n_elements = lengths[0]
        self._resident: dict[int, NDArray] = {}

    def _each(self, option: Any, n: int) -> list[Any]:
        """An option of every array."""
        if isinstance(option, Mapping) and self.names is not None:
            unknown = set(option) - set(self.names)
            if unknown:
                raise ValueError(f"no array is called {min(unknown)!r}")
            return [option.get(name) for name in self.names]
        if isinstance(option, list) and not self.single:
            if len(option) != n:
                raise ValueError(f"{len(option)} options were given for {n} arrays")
            return option
        return [option] * n

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_resident": {}}

    def __len__(self) -> int:
        return max(0, (self.n_elements - self.length) // self.stride + 1)

    def pack(self, values: Sequence[Any]) -> Any:
        """One value for each array, as the arrays were given."""
        if self.single:
            return values[0]
        if self.names is not None:
            return dict(zip(self.names, values, strict=True))
        return tuple(values)

    @property
    def nbytes(self) -> int:
        """Of one element of every array."""
        return sum(member.nbytes for member in self.members)

    def edges(self, block: Block = "chunk") -> Int64:
        """First samples of blocks that are stored together, and the number of samples.

        They are those of the array with the largest samples.
        """
        if block not in ("chunk", "shard"):
            raise ValueError(f"block must be 'chunk' or 'shard', not {block!r}")
        largest = max(self.members, key=lambda member: member.nbytes)
        array = largest.array
        sizes = array.read_chunk_sizes if block == "chunk" else array.write_chunk_sizes
        starts = np.cumsum([0, *sizes[largest.axis][:-1]])
        least = LEAST_BLOCK_NBYTES // max(1, self.nbytes * self.stride)
        return block_edges(starts, len(self), self.stride, least)

    def elements(self, spans: Int64) -> Int64:
        """Samples as elements along the axis; both are runs, as rows ``(start, stop)``."""
        start, stop = spans[:, 0] * self.stride, (spans[:, 1] - 1) * self.stride + self.length
        if self.length <= self.stride or len(spans) == 1:
            return np.stack((start, stop), axis=1)
        new = np.concatenate(([True], start[1:] > stop[:-1]))  # windows of two spans may overlap
        return np.stack((start[new], np.append(stop[:-1][new[1:]], stop[-1])), axis=1)

    def most_elements(self, edges: Int64, group: int) -> int:
        """Along the axis, of any ``group`` blocks."""
        sizes = np.sort(np.diff(edges))[::-1][:group]
        overlap = max(0, self.length - self.stride) * len(sizes)
        return min(int(sizes.sum()) * self.stride + overlap, max(self.n_elements, 1))

    def load(self, spans: Int64, out: Sequence[Any]) -> None:
        """Read the elements of ``spans`` (of elements) into the first part of each of ``out``."""
        for number, (member, memory) in enumerate(zip(self.members, out, strict=True)):
            n = int((spans[:, 1] - spans[:, 0]).sum())
            resident = self.kept(number) if isinstance(memory, np.ndarray) else None
            if resident is None:
                member.read(spans, memory[:n])
            else:
                np.take(resident, runs(spans), axis=0, out=memory[:n], mode="clip")

    @property
    def everything(self) -> Int64:
        """All elements, as one run."""
        return np.array([(0, self.n_elements)])

    def kept(self, number: int) -> NDArray | None:
        """All elements of a small array beside others, in memory; None for other arrays."""
        member = self.members[number]
        if len(self.members) == 1 or member.nbytes * self.n_elements > RESIDENT_NBYTES:
            return None
        if number not in self._resident:
            whole = np.empty((self.n_elements, *member.rest), member.dtype)
            member.read(self.everything, whole)
            self._resident[number] = whole
        return self._resident[number]

    def index(self, spans: Int64, samples: Int64) -> Int64:
        """Where samples are in what :meth:`load` read: one number, or a row for each window."""
        first = places(spans, samples * self.stride)
        return first if self.window is None else first[:, None] + np.arange(self.length)

    def batch_shape(self, member: Member, n: int) -> Shape:
        """Of ``n`` samples of one array."""
        if self.window is None:
            return (n, *member.rest)
        return (n, *member.rest[: member.place], self.length, *member.rest[member.place :])

    def place(self, member: Member, batch: Any) -> Any:
        """A batch seen with the axis of a window next to that of samples."""
        return batch if self.window is None else _moved(batch, member.place + 1, 1)


def _member(array: Array, axis: Any, select: Any) -> Member:
    axis = 0 if axis is None else axis
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"array {array.name!r} of shape {array.shape} has no axis {axis}")
    axis %= array.ndim
    picked = select if isinstance(select, tuple) else () if select is None else (select,)
    others = array.ndim - 1
    at = next((i for i, item in enumerate(picked) if item is Ellipsis), None)
    if at is not None:
        fill = (slice(None),) * (others - len(picked) + 1)
        picked = (*picked[:at], *fill, *picked[at + 1 :])
    if len(picked) > others:
        raise ValueError(f"array {array.name!r} has {others} axes beside that of samples")
    picked = (*picked, *(slice(None),) * (others - len(picked)))
    selection = (*picked[:axis], slice(0, 0), *picked[axis:])
    shape = indexing.parse_orthogonal(selection, array.shape).shape
    place = sum(not isinstance(item, int | np.integer) for item in picked[:axis])
    if array.dtype.hasobject or array.dtype.kind == "T":
        what = f"elements of type {array.metadata.data_type.name} of array {array.name!r}"
        raise UnsupportedError(f"{what} have no fixed size")
    rest = (*shape[:place], *shape[place + 1 :])
    return Member(
        array=array,
        axis=axis,
        select=picked,
        rest=rest,
        place=place,
        dtype=array.dtype.newbyteorder("="),
    )


def _moved(array: Any, source: int, target: int) -> Any:
    """A view with one axis elsewhere; of any library's array."""
    if source == target:
        return array
    axes = [i for i in range(array.ndim) if i != source]
    axes.insert(target, source)
    turn: Callable[..., Any] = getattr(array, "permute", None) or array.transpose
    return turn(*axes)
