"""Merging byte ranges that lie close together; pure functions on NumPy columns.

Knows neither stores nor keys.

>>> import numpy as np
>>> offset, nbytes = np.array([100, 0, 12]), np.array([10, 10, 10])
>>> start, length, group = coalesce(offset, nbytes, max_gap=4, max_bytes=1000)
>>> start.tolist(), length.tolist(), group.tolist()
([0, 100], [22, 10], [1, 0, 0])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zarr_gpu._types import Int64

if TYPE_CHECKING:
    import numpy.typing as npt

_LARGEST = 2**63 - 1


def coalesce(
    offset: Int64, nbytes: Int64, max_gap: int, max_bytes: int
) -> tuple[Int64, Int64, Int64]:
    """``(start, nbytes)`` of the reads that cover all ranges, and which read each range lies in.

    Ranges (non-negative, in any order, overlapping or empty) are taken by rising offset; one joins
    the read before it unless more than ``max_gap`` unused bytes lie between them or the read would
    become longer than ``max_bytes``. A single range may be longer.
    """
    n = len(offset)
    order = None
    if n > 1 and (offset[1:] < offset[:-1]).any():
        order = np.argsort(offset, kind="stable")
        offset, nbytes = offset[order], nbytes[order]
    stop = offset + nbytes
    reach = np.maximum.accumulate(stop)
    is_first = np.ones(n, np.bool_)
    is_first[1:] = offset[1:] - reach[:-1] > max_gap
    first = np.flatnonzero(is_first)
    if n:
        long = np.maximum.reduceat(stop, first) - offset[first] > max_bytes
        end = np.append(first[1:], n)
        for low, high in zip(first[long].tolist(), end[long].tolist(), strict=True):
            _split(offset[low:high], stop[low:high], max_gap, max_bytes, is_first[low:high])
        first = np.flatnonzero(is_first)
    start = offset[first]
    length = np.maximum.reduceat(stop, first) - start if n else start
    group = np.cumsum(is_first) - 1
    if order is not None:
        sorted_group, group = group, np.empty_like(group)
        group[order] = sorted_group
    return start, length, group


def _split(
    offset: Int64, stop: Int64, max_gap: int, max_bytes: int, is_first: npt.NDArray[np.bool_]
) -> None:
    """Mark where a run of close ranges is cut into reads of at most ``max_bytes``."""
    at, n = 0, len(offset)
    while at < n:
        is_first[at] = True
        limit = min(int(offset[at]) + max_bytes, _LARGEST)
        candidates = int(np.searchsorted(offset, limit, side="right"))
        reach = np.maximum.accumulate(stop[at : max(candidates, at + 1)])
        too_far = reach[1:] > limit
        too_far |= offset[at + 1 : at + len(reach)] - reach[:-1] > max_gap
        at += 1 + (int(too_far.argmax()) if too_far.any() else len(too_far))
