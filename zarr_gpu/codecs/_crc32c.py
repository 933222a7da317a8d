"""CRC-32C in NumPy, for installations without a compiled one; see :func:`crc32c`.

A CRC without its inversions is linear over GF(2), so the message is cut into lanes of 8 bytes that
are folded onto each other: advancing a word by k bytes of zeros is a table look-up per byte.

>>> hex(crc32c(b"123456789"))
'0xe3069283'
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from zarr_gpu._types import Bytes

U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed: RFC 3720 appendix B.4
_LANES = 4096  # words folded at once; the arrays of one step stay in the cache


def crc32c(data: Bytes) -> int:
    """CRC-32C (Castagnoli) of ``data``."""
    view: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    lanes = _LANES
    while lanes > 1 and 8 * lanes > view.size:
        lanes //= 2
    head = view.size % (8 * lanes)
    padded = np.zeros(8 * lanes, np.uint8)  # zeros in front change nothing
    padded[8 * lanes - head :] = view[:head]
    words: U64 = padded.view("<u8")
    for row in view[head:].view("<u8").reshape(-1, lanes):
        words = _fold(words, lanes) ^ row
    while lanes > 1:
        lanes //= 2
        words = _fold(words[:lanes], lanes) ^ words[lanes:]
    initial = _advance(np.array([0xFFFFFFFF], np.uint32), view.size)
    return int(_fold(words, 1)[0] ^ initial[0]) ^ 0xFFFFFFFF


def _fold(words: U64, lanes: int) -> U64:
    """What ``words`` amount to ``lanes`` words further on."""
    pairs = lanes == _LANES  # tables of 256 KiB pay off for the long loop only
    digits = words.view("<u2" if pairs else np.uint8).reshape(len(words), -1)
    tables = _pair_tables() if pairs else _word_tables(lanes)
    result = tables[0].take(digits[:, 0])
    for i in range(1, len(tables)):
        result ^= tables[i].take(digits[:, i])
    return result.astype(np.uint64)


@cache
def _word_tables(lanes: int) -> list[U32]:
    """For each byte of a word: its part of the CRC register, ``8 * lanes`` bytes on."""
    tables = [_advance(_byte_table(), 8 * lanes - 8)]
    for _ in range(7):
        tables.append(_advance(tables[-1], 1))
    return tables[::-1]


@cache
def _pair_tables() -> list[U32]:
    tables = _word_tables(_LANES)
    return [(tables[i + 1][:, None] ^ tables[i]).reshape(-1) for i in range(0, 8, 2)]


def _advance(registers: U32, nbytes: int) -> U32:
    """CRC registers after ``nbytes`` more bytes of zeros."""
    for bit in range(nbytes.bit_length()):
        if nbytes >> bit & 1:
            registers = _apply(_zeros_tables(bit), registers)
    return registers


def _apply(tables: list[U32], registers: U32) -> U32:
    result = np.zeros_like(registers)
    for i, table in enumerate(tables):
        result ^= table[registers >> np.uint32(8 * i) & np.uint32(255)]
    return result


@cache
def _zeros_tables(bit: int) -> list[U32]:
    """For each byte of a register: its part of the register after ``2**bit`` bytes of zeros."""
    single = np.arange(256, dtype=np.uint32)
    if bit == 0:
        shifted = [single << np.uint32(8 * i) >> np.uint32(8) for i in range(1, 4)]
        return [_byte_table(), *shifted]
    half = _zeros_tables(bit - 1)
    return [_apply(half, table) for table in half]


@cache
def _byte_table() -> U32:
    """The register after one byte, from a register of zero."""
    registers = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        odd = (registers & np.uint32(1)) * np.uint32(_POLYNOMIAL)
        registers = registers >> np.uint32(1) ^ odd
    return registers
