"""GDeflate chunks as streams: one per page of 64 KiB."""

from __future__ import annotations

import numpy as np

from zarr_gpu._types import Bools, Int64, NDArray
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.gdeflate import split_pages
from zarr_gpu.device.frames import StreamTable
from zarr_gpu.errors import CodecError


def gdeflate(
    data: NDArray, offset: Int64, nbytes: Int64, expected: Int64
) -> tuple[StreamTable, Bools]:
    """The pages of chunks, and which chunks are bad; see :mod:`zarr_gpu.device.frames`.

    A header gives the sizes of all pages of a chunk, so a loop over the chunks is quick enough.
    """
    bad = np.zeros(len(offset), np.bool_)
    columns: list[tuple[Int64, ...]] = []
    for row, (at, n, size) in enumerate(
        zip(offset.tolist(), nbytes.tolist(), expected.tolist(), strict=True)
    ):
        try:
            pages = split_pages(data[at : at + n].data, Size(size))
        except CodecError:
            bad[row] = True
            continue
        out = np.cumsum(pages.out_nbytes) - pages.out_nbytes
        number = np.full(len(out), row, np.int64)
        columns.append((number, pages.offset + at, pages.nbytes, out, pages.out_nbytes))
    if not columns:
        columns.append((np.empty(0, np.int64),) * 5)
    return StreamTable(*(np.concatenate(column) for column in zip(*columns, strict=True))), bad
