"""Selections as text, as between the brackets of NumPy."""

from __future__ import annotations

from typing import Any


def parse_selection(text: str) -> Any:
    """``0:4,:,7``, ``::2,-1``, ``...``, ``'field'`` or ``[3,1],:`` as an index.

    Raises SelectionError.

    >>> parse_selection("0:4, ::2, -1")
    (slice(0, 4, None), slice(None, None, 2), -1)
    """
    items = []
    for part in _parts(text.replace(" ", "")):
        try:
            items.append(_item(part))
        except (ValueError, TypeError):
            from zarr_gpu.errors import SelectionError

            raise SelectionError(f"{text!r} is no selection such as 0:4,:,7") from None
    return tuple(items)


def _parts(text: str) -> list[str]:
    """Cut at commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _item(part: str) -> Any:
    if part == "...":
        return ...
    if part in ("None", "newaxis"):
        raise ValueError(part)
    if len(part) > 1 and part[0] == part[-1] and part[0] in "'\"":
        return part[1:-1]
    if part.startswith("[") and part.endswith("]"):
        return [int(n) for n in part[1:-1].split(",") if n]
    numbers = part.split(":")
    if len(numbers) == 1:
        return int(part)
    return slice(*(int(n) if n else None for n in numbers))


def as_slice(chosen: range) -> slice:
    """What selects the same elements.

    >>> as_slice(range(9, -1, -3)), as_slice(range(0))
    (slice(9, None, -3), slice(0, 0, None))
    """
    if not chosen:
        return slice(0, 0)
    stop = chosen[-1] + (1 if chosen.step > 0 else -1)
    return slice(chosen.start, None if stop < 0 else stop, chosen.step)
