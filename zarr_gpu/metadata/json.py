"""Strict JSON: bytes from a store to an object, and back.

Knows nothing of Zarr except that documents are objects and that ``attributes`` belong to the
user. Python writers put ``NaN`` and ``Infinity`` literals into attributes and v2 fill values, so
these are read and written. Everything else follows RFC 8259, with the size, depth and integer
limits that keep a hostile document cheap.

>>> load(b'{"shape": [1, 2]}', "zarr.json")
{'shape': [1, 2]}
>>> dump({"shape": (1, 2)}, None)
b'{"shape": [1, 2]}'
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from zarr_gpu._types import JSON, Bytes
from zarr_gpu.config import config
from zarr_gpu.errors import LimitError, MetadataError, Problem
from zarr_gpu.metadata.problems import Loc, Problems, show

MAX_DIGITS = 20
"""Of an integer outside attributes: those of 2**64 - 1."""

_PIECE = 1 << 18
"""Brackets looked at in one step, as each takes more than a dozen bytes then."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ZEROS = bytes(ord("0") if byte in b"0123456789" else 0 for byte in range(256))
"""Makes all digits the same one, and everything else none."""
_MORE_DIGITS = b"0" * (MAX_DIGITS + 1)


def load(data: Bytes, document: str) -> dict[str, JSON]:
    """The object in ``data``.

    Raises MetadataError, naming ``document``, for anything that is not one JSON object in UTF-8
    within ``limits.metadata_nbytes`` and ``limits.json_depth``, for duplicate member names and
    for integers of more than 20 digits outside attributes.
    """
    limits = config.current.limits
    if len(data) > limits.metadata_nbytes:
        allowed = f"limits.metadata_nbytes allows {limits.metadata_nbytes}"
        raise _error(document, f"{len(data)} bytes, {allowed}")
    raw = bytes(data)
    # Most documents have fewer brackets than they may be deep.
    if raw.count(b"[") + raw.count(b"{") > limits.json_depth:
        depth = _depth(raw)
        if depth > limits.json_depth:
            allowed = f"limits.json_depth allows {limits.json_depth}"
            raise _error(document, f"nested {depth} deep, {allowed}")
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise _error(document, f"not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise _error(document, f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise _error(document, f"expected an object, found {show(value)}")
    if _MORE_DIGITS in raw.translate(_ZEROS):
        _check_integers(value, document)
    return value


def dump(value: object, indent: int | None, *, sort_keys: bool = False) -> bytes:
    """``value`` as JSON, laid out as ``json.dumps`` does.

    Raises TypeError with the path of the first value that JSON has no form for (a member name
    that is no string, a NumPy integer) and LimitError for what :func:`load` would refuse to read.
    """
    limits = config.current.limits
    plain = _plain(value, (), limits.json_depth)
    data = json.dumps(plain, indent=indent, sort_keys=sort_keys).encode()
    if len(data) > limits.metadata_nbytes:
        raise LimitError(
            f"the document has {len(data)} bytes, limits.metadata_nbytes allows "
            f"{limits.metadata_nbytes}"
        )
    return data


def copied(value: JSON) -> JSON:
    """A copy of a JSON value, objects and lists inside it included."""
    if isinstance(value, Mapping):
        return {name: copied(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return value


def _error(document: str, message: str) -> MetadataError:
    return MetadataError([Problem((), message, "syntax")], document=document)


def _depth(raw: bytes) -> int:
    """Deepest nesting of brackets outside strings, without a loop over them in Python.

    Correct for every valid beginning of a document, which is all the parser will walk.
    """
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(None, _NOT_BRACKETS)
    depth = deepest = 0
    for at in range(0, len(brackets), _PIECE):
        piece = np.frombuffer(brackets[at : at + _PIECE], np.uint8)
        opening = (piece == ord("[")) | (piece == ord("{"))
        depths = depth + np.cumsum(np.where(opening, 1, -1))
        depth, deepest = int(depths[-1]), max(deepest, int(depths.max()))
    return deepest


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate member {show(twice)}")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_members)


def _check_integers(value: Mapping[str, Any], document: str) -> None:
    problems = Problems()
    if not document.endswith(".zattrs"):
        _find_long(value, (), problems)
    problems.raise_if_any(document)


def _find_long(value: object, loc: Loc, problems: Problems) -> None:
    if isinstance(value, dict):
        for name, member in value.items():
            if name != "attributes" and not name.endswith(".zattrs"):
                _find_long(member, (*loc, name), problems)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _find_long(item, (*loc, i), problems)
    elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        problems.add(loc, f"integer of more than {MAX_DIGITS} digits")


def _plain(value: object, loc: Loc, depth: int) -> Any:
    """A copy of ``value`` made of what ``json.dumps`` writes faithfully."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if depth == 0:
        raise LimitError(f"{Problem(loc, 'nested deeper than limits.json_depth')}")
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{Problem(loc, f'member name {name!r} is not a string')}")
        return {n: _plain(member, (*loc, n), depth - 1) for n, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, (*loc, i), depth - 1) for i, item in enumerate(value)]
    raise TypeError(f"{Problem(loc, f'{type(value).__name__} {show(value)} has no JSON form')}")
