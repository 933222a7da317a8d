"""Members that arrays and groups of both formats share.

>>> parse_attributes(None, Problems())
{}
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from zarr_gpu._types import JSON
from zarr_gpu.metadata.problems import Problems, show


def check_constant(doc: Mapping[str, Any], name: str, expected: str | int, p: Problems) -> None:
    """A problem unless ``doc[name]`` is ``expected``."""
    value = p.member(doc, name)
    if value is not ... and not (type(value) is type(expected) and value == expected):
        p.add((name,), f"expected {expected!r}, found {show(value)}")


def parse_attributes(value: object, problems: Problems) -> dict[str, JSON]:
    """The user's attributes; null, as some writers store it, is none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        problems.wrong_type(("attributes",), "an object", value)
        return {}
    return dict(value)


def parse_extra(
    doc: Mapping[str, Any], known: AbstractSet[str], problems: Problems
) -> dict[str, JSON]:
    """Members of a v3 document unknown here, if they say that they may be ignored.

    Source: Zarr v3 core, "Extension definition": everything else must not be opened.
    """
    extra: dict[str, JSON] = {}
    if doc.keys() <= known:
        return extra
    for name, value in doc.items():
        if name in known:
            continue
        if isinstance(value, Mapping) and value.get("must_understand") is False:
            extra[name] = value
        else:
            problems.add(
                (name,),
                'unknown member; only objects with "must_understand": false may be ignored',
                "unsupported",
            )
    return extra
