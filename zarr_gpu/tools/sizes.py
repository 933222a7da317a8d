"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)(i?)(b?)\s*", re.IGNORECASE)


def parse_nbytes(size: int | str) -> int:
    """Bytes: a number, or text such as ``500MB`` and ``1.5 GiB``. Raises ValueError.

    >>> parse_nbytes("1.5GiB"), parse_nbytes("2kB"), parse_nbytes(7)
    (1610612736, 2000, 7)
    """
    if not isinstance(size, str):
        nbytes = int(size)
    else:
        match = _SIZE.fullmatch(size)
        if match is None:
            raise ValueError(f"{size!r} is no number of bytes such as 500MB or 1GiB")
        unit = _UNITS[match[2].lower()]
        factor = 2**unit if match[3] or unit == 1 else 1000 ** (unit // 10)
        nbytes = int(float(match[1]) * (1 if unit == 1 else factor))
    if nbytes <= 0:
        raise ValueError(f"{size!r} is no positive number of bytes")
    return nbytes
