"""Launch shapes of kernels that cut the rows of a table into tiles.

Knows the sizes of rows, nothing of their bytes. How work is counted is agreed with ``shuffle.cu``.

>>> blocks, threads, first_tile = shuffle(np.array([100_000, 0, 10]))
>>> blocks, first_tile.tolist()
(8, [0, 7, 7, 8])
"""

from __future__ import annotations

import numpy as np

from zarr_gpu._types import Int64, NDArray

TILE_NBYTES = 16 << 10
"""What one block does at a time: all that ``shuffle.cu`` holds in shared memory."""
THREADS = 256
MAX_BLOCKS = 1 << 16
"""Enough to fill any card; the kernels loop over the rest."""


def shuffle(nbytes: NDArray) -> tuple[int, int, Int64]:
    """Blocks, threads and ``first_tile`` for the kernels of ``shuffle.cu``.

    ``first_tile`` has the number of tiles before each row, and in all.
    """
    tiles = np.zeros(len(nbytes) + 1, np.int64)
    np.cumsum(-(-nbytes.astype(np.int64) // TILE_NBYTES), out=tiles[1:])
    return min(max(int(tiles[-1]), 1), MAX_BLOCKS), THREADS, tiles
