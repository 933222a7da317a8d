"""Tables for the assemble kernel: which bytes of which chunk go where in the output.

Pure functions on NumPy columns; addresses are plain numbers and nothing is launched here. The
layout of the tables is that of ``kernels/assemble.cu``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zarr_gpu._types import Int64, NDArray, UInt64
from zarr_gpu.plan import Plan

TILE = 4096
"""Words of one row that a thread block moves at a time; the kernel has the same number."""

ROW = np.dtype(
    [
        ("src", np.uint64),
        ("dst", np.uint64),
        ("offset", np.int64),
        ("planes", np.int64),
        ("nbytes", np.int64),
        ("blocksize", np.int32),
        ("typesize", np.int32),
        ("splits", np.int32),
        ("mode", np.int32),
    ],
    align=True,
)
"""``struct Row`` of the kernel."""

PLAIN, UNFILTERED, BYTES = range(3)
"""``mode`` of a row: plain memory, or Blosc blocks without or with a byte-shuffle."""

_WORDS = (16, 8, 4, 2)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table:
    """Arguments of one launch, on the host.

    ``rows`` has type :data:`ROW`; ``extent``, ``src_stride`` and ``first`` have shape (rows, axes),
    ``dst_stride`` (axes,). Index arrays hold one entry per element of their axis: byte offsets in
    the chunk, and positions in the output. ``word`` and ``swap`` are in bytes. ``repeats``: behind
    every source its element is repeated for 16 bytes.
    """

    rows: NDArray
    extent: Int64
    src_stride: Int64
    first: Int64
    dst_stride: Int64
    src_index: tuple[Int64 | None, ...]
    dst_index: tuple[Int64 | None, ...]
    word: int
    swap: int = 1
    repeats: bool = False

    @property
    def ndim(self) -> int:
        return len(self.dst_stride)

    @property
    def first_tile(self) -> Int64:
        """Tiles before each row, and in all."""
        count = self.extent.prod(axis=1, dtype=np.int64)
        tiles = np.zeros(len(self.rows) + 1, np.int64)
        np.cumsum(-(-count // TILE), out=tiles[1:])
        return tiles


def plan_table(
    plan: Plan,
    segment: Int64,
    *,
    chunk_strides: Sequence[int],
    out_address: int,
    out_strides: Sequence[int],
    itemsize: int,
    swap: int = 1,
) -> Table:
    """The rows of a plan, given by their segments of shape (rows, axes).

    ``chunk_strides`` are bytes per array dimension in a decoded chunk, ``out_strides`` bytes per
    axis of the work view at ``out_address``. Sources are left for the caller: ``src`` is 0, and
    ``offset`` counts from the beginning of the chunk.
    """
    n, ndim = segment.shape
    rows = np.zeros(n, ROW)
    rows["dst"] = out_address
    dst = np.zeros(n, np.int64)
    offset = np.zeros(n, np.int64)
    extent, src_stride, first = (np.zeros((n, ndim), np.int64) for _ in range(3))
    src_index: list[Int64 | None] = [None] * ndim
    dst_index: list[Int64 | None] = [None] * ndim
    for a, axis in enumerate(plan.axes):
        number = segment[:, a]
        start = axis.out_start[number]
        extent[:, a] = axis.extent[number]
        if axis.order is None:
            dst += start * out_strides[a]
        if axis.index is None:
            stride = chunk_strides[axis.dims[0]]
            offset += axis.chunk_start[number] * stride
            src_stride[:, a] = axis.step * stride
        elif n:
            # only the points of these rows, as a selection may have millions
            low, high = int(start.min()), int((start + extent[:, a]).max())
            strides = np.array([chunk_strides[d] for d in axis.dims], np.int64)
            src_index[a] = strides @ axis.index[:, low:high]
            first[:, a] = start - low
            if axis.order is not None:
                dst_index[a] = axis.order[low:high]
    rows["dst"] += dst.astype(np.uint64)
    rows["offset"] = offset
    return Table(
        rows=rows,
        extent=extent,
        src_stride=src_stride,
        first=first,
        dst_stride=np.array(out_strides, np.int64).reshape(ndim),
        src_index=tuple(src_index),
        dst_index=tuple(dst_index),
        word=itemsize,
        swap=swap,
    )


def array_table(
    address: int, shape: Sequence[int], strides: Sequence[int], target: int,
    target_strides: Sequence[int], itemsize: int,
) -> Table:  # fmt: skip
    """One row: an array of any strides, copied to another place of any strides."""
    rows = np.zeros(1, ROW)
    rows["src"], rows["dst"] = address, target
    ndim = len(shape)
    return Table(
        rows=rows,
        extent=np.array(shape, np.int64).reshape(1, ndim),
        src_stride=np.array(strides, np.int64).reshape(1, ndim),
        first=np.zeros((1, ndim), np.int64),
        dst_stride=np.array(target_strides, np.int64).reshape(ndim),
        src_index=(None,) * ndim,
        dst_index=(None,) * ndim,
        word=itemsize,
    )


def flat_table(src: UInt64, dst: UInt64, nbytes: Int64, *, word: int = 1, swap: int = 1) -> Table:
    """Rows that are copied from one end to the other, ``nbytes`` (a multiple of ``word``) each."""
    n = len(nbytes)
    rows = np.zeros(n, ROW)
    rows["src"], rows["dst"] = src, dst
    return Table(
        rows=rows,
        extent=(nbytes // word).reshape(n, 1),
        src_stride=np.full((n, 1), word, np.int64),
        first=np.zeros((n, 1), np.int64),
        dst_stride=np.array([word], np.int64),
        src_index=(None,),
        dst_index=(None,),
        word=word,
        swap=swap,
    )


def span(table: Table) -> tuple[Int64, Int64]:
    """Per row, offset and number of the source bytes from the first element taken to the last."""
    low = table.rows["offset"].copy()
    high = low + table.word
    for a in range(table.ndim):
        index = table.src_index[a]
        if index is None:
            high += (table.extent[:, a] - 1) * table.src_stride[:, a]
        else:
            # segments begin at different points, and each is reduced up to its end
            first, row, segment = np.unique(
                table.first[:, a], return_index=True, return_inverse=True
            )
            edges = np.stack((first, first + table.extent[row, a]), axis=1).reshape(-1)
            index = np.append(index, 0)  # the last edge may be the end
            low += np.minimum.reduceat(index, edges)[::2][segment]
            high += np.maximum.reduceat(index, edges)[::2][segment]
    return low, high - low


def fill_table(table: Table, address: int) -> Table:
    """The same rows, every element taken from ``address``, where its bytes repeat for 16 bytes.

    They are not turned round, whatever the elements of chunks are.
    """
    rows = table.rows.copy()
    rows["src"], rows["offset"], rows["mode"] = address, 0, PLAIN
    return replace(
        table,
        rows=rows,
        src_stride=np.zeros_like(table.src_stride),
        src_index=(None,) * table.ndim,
        swap=1,
        repeats=True,
    )


def replace_sources(table: Table, src: Int64) -> Table:
    """The same rows with plain sources at these addresses."""
    rows = table.rows.copy()
    rows["src"] = src
    return replace(table, rows=rows)


def reverse(table: Table, chunks: UInt64) -> Table:
    """The copies of a table the other way: from the array it writes to into ``chunks``.

    Only for tables without index arrays.
    """
    rows = np.zeros(len(table.rows), ROW)
    rows["src"] = table.rows["dst"]
    rows["dst"] = chunks + table.rows["offset"].astype(np.uint64)
    return replace(
        table,
        rows=rows,
        src_stride=np.broadcast_to(table.dst_stride, table.src_stride.shape),
        dst_stride=table.src_stride[0],
    )


def contiguous(table: Table) -> bool:
    """True when each row of a simplified table is one run of bytes on both sides."""
    if table.ndim > 1 or any(index is not None for index in (*table.src_index, *table.dst_index)):
        return False
    return table.ndim == 0 or bool(
        table.dst_stride[0] == table.word and (table.src_stride[:, 0] == table.word).all()
    )


def select(table: Table, which: NDArray) -> Table:
    """Some of the rows, by index or mask."""
    return replace(
        table,
        rows=table.rows[which],
        extent=table.extent[which],
        src_stride=table.src_stride[which],
        first=table.first[which],
    )


def simplify(table: Table) -> Table:
    """The same copies with fewer axes and wider words, which is what makes the kernel fast.

    Axes are put in the order of the destination, axes of one element dropped, axes that follow
    each other in memory on both sides merged, and elements that lie side by side moved together.
    """
    if not len(table.rows):
        return table
    table = _merge(_drop(_sort(table)))
    return _widen(table) if not table.rows["mode"].any() else table


def _take_axes(table: Table, axes: Sequence[int]) -> Table:
    keep = list(axes)
    return replace(
        table,
        extent=table.extent[:, keep],
        src_stride=table.src_stride[:, keep],
        first=table.first[:, keep],
        dst_stride=table.dst_stride[keep],
        src_index=tuple(table.src_index[a] for a in keep),
        dst_index=tuple(table.dst_index[a] for a in keep),
    )


def _sort(table: Table) -> Table:
    order = np.argsort(-np.abs(table.dst_stride), kind="stable").tolist()
    return table if order == list(range(table.ndim)) else _take_axes(table, order)


def _drop(table: Table) -> Table:
    keep = [
        a
        for a in range(table.ndim)
        if table.src_index[a] is not None
        or table.dst_index[a] is not None
        or (table.extent[:, a] != 1).any()
    ]
    return table if len(keep) == table.ndim else _take_axes(table, keep)


def _merge(table: Table) -> Table:
    a = table.ndim - 2
    while a >= 0:
        inner = table.extent[:, a + 1]
        if (
            all(
                index is None
                for index in (*table.src_index[a : a + 2], *table.dst_index[a : a + 2])
            )
            and (inner == inner[0]).all()
            and table.dst_stride[a] == table.dst_stride[a + 1] * inner[0]
            and (table.src_stride[:, a] == table.src_stride[:, a + 1] * inner).all()
        ):
            extent = table.extent.copy()
            extent[:, a + 1] *= extent[:, a]
            keep = [axis for axis in range(table.ndim) if axis != a]
            table = _take_axes(replace(table, extent=extent), keep)
        a -= 1
    return table


def _widen(table: Table) -> Table:
    """Move several elements at once where the innermost axis is contiguous on both sides."""
    last = table.ndim - 1
    if last < 0 or table.src_index[last] is not None or table.dst_index[last] is not None:
        return table
    word = table.word
    step = 0 if table.repeats else word
    if table.dst_stride[last] != word:
        return table
    if (table.src_stride[:, last] != step).any():
        return table
    # Everything that an address is made of, or'ed together: its low zero bits are the alignment.
    bits = np.bitwise_or.reduce(
        table.rows["dst"] | (table.rows["src"] + table.rows["offset"].astype(np.uint64))
    )
    found = int(bits)
    for values in (
        table.extent[:, last] * word,
        table.src_stride[:, :last],
        table.dst_stride[:last],
        *(index for index in table.src_index[:last] if index is not None),
    ):
        found |= int(np.bitwise_or.reduce(np.abs(values), axis=None)) if values.size else 0
    for wide in _WORDS:
        if wide > word and found % wide == 0:
            break
    else:
        return table
    extent, src_stride, dst_stride = (
        table.extent.copy(),
        table.src_stride.copy(),
        table.dst_stride.copy(),
    )
    extent[:, last] = extent[:, last] * word // wide
    src_stride[:, last] = wide if step else 0
    dst_stride[last] = wide
    return replace(table, extent=extent, src_stride=src_stride, dst_stride=dst_stride, word=wide)
