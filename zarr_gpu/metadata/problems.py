"""Collecting everything that is wrong with a document before raising.

Each member of a document is parsed on its own; what does not parse becomes a
:class:`~zarr_gpu.errors.Problem` and counts as absent for the checks that depend on it.

>>> problems = Problems()
>>> problems.attempt(("shape", 0), int, "x") is None
True
>>> problems.raise_if_any("a/zarr.json")
Traceback (most recent call last):
zarr_gpu.errors.MetadataError: a/zarr.json: shape[0]: invalid literal for int() with base 10: 'x'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from zarr_gpu.errors import MetadataError, Problem

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Loc: TypeAlias = tuple[str | int, ...]
ProblemKind: TypeAlias = Literal["missing", "type", "value", "unsupported", "syntax"]
P = ParamSpec("P")
T = TypeVar("T")

INT64_MAX = 2**63 - 1


class Problems:
    """The problems found so far in one document."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, loc: Loc, message: str, kind: ProblemKind = "value") -> None:
        self.found.append(Problem(loc, message, kind))

    def wrong_type(self, loc: Loc, expected: str, found: object) -> None:
        self.add(loc, f"expected {expected}, found {show(found)}", "type")

    def unknown(self, loc: Loc, names: Iterable[object]) -> None:
        """One problem for each member of an object that has no meaning there."""
        for name in sorted(map(str, names)):
            self.add((*loc, name), "unknown member", "unsupported")

    def attempt(
        self, loc: Loc, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """``parse(*args)``, or None and a problem at ``loc`` when it raises ValueError."""
        try:
            return parse(*args, **kwargs)
        except ValueError as error:
            self.add(loc, str(error))
            return None

    def member(self, doc: Mapping[str, Any], name: str, loc: Loc = ()) -> Any:
        """``doc[name]``; a problem and ``...`` when it is missing."""
        if name in doc:
            return doc[name]
        self.add((*loc, name), "required, but missing", "missing")
        return ...

    def raise_if_any(self, document: str) -> None:
        """Raise MetadataError with all problems, if there are any."""
        if self.found:
            raise MetadataError(self.found, document=document)


def is_list(value: object) -> TypeIs[list[Any] | tuple[Any, ...]]:
    """A JSON array, as read (list) or as written by Python code (tuple)."""
    return isinstance(value, (list, tuple))


def is_int(value: object) -> TypeIs[int]:
    """A JSON integer; bool is a subclass of int in Python, but none here."""
    return isinstance(value, int) and not isinstance(value, bool)


def show(value: object, limit: int = 60) -> str:
    """``value`` for a message, cut short; never costs more than a few characters."""
    if isinstance(value, (str, bytes)) and len(value) > limit:
        return f"{value[:limit]!r}..."
    if isinstance(value, Mapping):
        return f"an object with members {show(list(value)[:5])}" if value else "an empty object"
    if is_list(value) and len(value) > 8:
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
