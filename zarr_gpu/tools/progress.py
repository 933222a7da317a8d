"""How a long job says how far it is. Knows neither terminals nor arrays."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a caller passes as ``progress=`` to be told; called from several threads."""

    def begin(self, what: str, total: int, unit: str = "B", done: int = 0) -> None:
        """A part of the job begins: ``total`` of ``unit`` (``B``: bytes), ``done`` already."""

    def advance(self, n: int) -> None:
        """``n`` more are done."""

    def end(self) -> None:
        """The part is over."""


class Silent:
    """Tells nobody."""

    def begin(self, what: str, total: int, unit: str = "B", done: int = 0) -> None:
        """Nothing."""

    def advance(self, n: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


SILENT = Silent()
