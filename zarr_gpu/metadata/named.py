"""Extension values: a name and a configuration (Zarr v3 core, "Extension definition").

Knows no codec, grid or data type.

>>> parse_named("bytes", ("codecs", 0), Problems())
NamedConfig(name='bytes', configuration={}, must_understand=True)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zarr_gpu._types import JSON
from zarr_gpu.metadata.problems import Loc, Problems


@dataclass(frozen=True, slots=True)
class NamedConfig:
    """``{"name": ..., "configuration": ...}``, or just the name.

    ``document`` is the JSON this was read from, so that a rewrite says what was read; a changed
    configuration needs a new NamedConfig.
    """

    name: str
    configuration: Mapping[str, JSON] = field(default_factory=dict)
    must_understand: bool = True
    document: JSON = field(default=None, compare=False, repr=False)

    def to_json(self) -> JSON:
        """The value as read, or the object form without empty members."""
        if self.document is not None:
            return self.document
        out: dict[str, JSON] = {"name": self.name}
        if self.configuration:
            out["configuration"] = self.configuration
        if not self.must_understand:
            out["must_understand"] = False
        return out


def parse_named(
    value: Any, loc: Loc, problems: Problems, *, ignorable: bool = False
) -> NamedConfig | None:
    """Parse an extension value; None after adding problems.

    ``ignorable``: whether the extension point allows ``must_understand: false``.
    """
    members: Any = {"name": value} if isinstance(value, str) else value
    if not isinstance(members, Mapping):
        problems.wrong_type(loc, "a name or an object with a name", value)
        return None
    before = len(problems.found)
    name = problems.member(members, "name", loc)
    if name is not ... and not (isinstance(name, str) and name):
        problems.wrong_type((*loc, "name"), "a non-empty string", name)
    configuration = members.get("configuration", {})
    if not isinstance(configuration, Mapping):
        problems.wrong_type((*loc, "configuration"), "an object", configuration)
    understand = members.get("must_understand", True)
    if not isinstance(understand, bool):
        problems.wrong_type((*loc, "must_understand"), "a boolean", understand)
    elif not understand and not ignorable:
        problems.add((*loc, "must_understand"), "must not be false here")
    problems.unknown(loc, members.keys() - {"name", "configuration", "must_understand"})
    if len(problems.found) > before:
        return None
    return NamedConfig(name, configuration, understand, document=value)
