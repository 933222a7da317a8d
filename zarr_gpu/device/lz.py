"""How the kernels of ``lz.cu`` are launched: shapes and the table of pieces, by sizes alone.

Knows no CUDA library and no container format: whoever has a table of streams asks here.

>>> launch("lz4_decode", 3)
(3, 32)
>>> launch("blosclz_decode", 10_000)
(2500, 128)
>>> pieces(np.array([0, 1, PIECE_NBYTES, PIECE_NBYTES + 1])).tolist()
[0, 1, 2, 3, 5]
"""

from __future__ import annotations

import numpy as np

from zarr_gpu._types import NDArray

DECODERS = {"lz4": "lz4_decode", "blosclz": "blosclz_decode", "snappy": "snappy_decode"}
"""Kernels by codec: raw LZ4 blocks, BloscLZ, raw Snappy."""

COPY = "copy_streams"

PIECE_NBYTES = 8192
"""What one warp copies at a time: 4 rounds of 32 lanes, 4 loads and 16 bytes each."""

_WARP = 32
_DECODING_WARPS = 4  # of a block: 12 such blocks are at home on a multiprocessor, with 40 registers
_COPYING_WARPS = 8
_FEW = 1024  # streams: below, a warp of its own block has more of the L1 cache to itself
_MAX_BLOCKS = 1 << 20  # beyond, the warps of the grid go round


def launch(kernel: str, n: int) -> tuple[int, int]:
    """Blocks and threads for ``n`` streams, or pieces in the case of ``copy_streams``."""
    warps = 1 if n < _FEW else _DECODING_WARPS
    if kernel == COPY:
        warps = _COPYING_WARPS
    return min(max(1, -(-n // warps)), _MAX_BLOCKS), warps * _WARP


def pieces(nbytes: NDArray, piece_nbytes: int = PIECE_NBYTES) -> NDArray:
    """Column ``first_piece`` of ``copy_streams`` for streams of these sizes; last: how many."""
    first = np.zeros(len(nbytes) + 1, np.int64)
    np.cumsum(np.maximum(1, -(-nbytes.astype(np.int64) // piece_nbytes)), out=first[1:])
    return first
