"""Stand-ins for names that exist only inside zarr-python.

While modules are imported and tests are collected a stub is inert: calling it, indexing it or
asking it for an attribute gives another stub. While a test runs, touching one skips the test.
"""

from __future__ import annotations

from typing import Any

import pytest

REASON = "uses zarr internals: "
running = False
"""A test is running (set by the plugin)."""


def skip(name: str) -> None:
    """End the test that is running."""
    __tracebackhide__ = True
    pytest.skip(REASON + name)


class StubType(type):
    """Classes that stand for a class, function or constant of zarr-python."""

    def _touch(cls, what: str = "") -> None:
        if running:
            skip(cls.__name__ + what)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        cls._touch()
        return type.__call__(cls)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") or name in ("_pytestfixturefunction", "pytestmark"):
            raise AttributeError(name)
        cls._touch("." + name)
        return make_stub(f"{cls.__name__}.{name}")

    def __instancecheck__(cls, instance: object) -> bool:
        cls._touch()
        return type.__instancecheck__(cls, instance)

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__

    def __iter__(cls) -> Any:
        cls._touch()
        return iter(())

    def __len__(cls) -> int:
        cls._touch()
        return 0

    def __repr__(cls) -> str:
        return f"<stub {cls.__name__}>"


class Stub(metaclass=StubType):
    """Base of all stubs; an instance stands for whatever the call would have returned."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Subclasses defined in test modules are stubs, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        type(self)._touch("()." + name)
        return make_stub(f"{type(self).__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self)._touch("()")
        return self

    def __iter__(self) -> Any:
        type(self)._touch("()")
        return iter(())


def make_stub(name: str) -> Any:
    """The stub called ``name``; a warning category for names that end in ``Warning``."""
    if name.endswith("Warning"):
        return type(name, (UserWarning,), {})
    return StubType(name, (Stub,), {})


def is_stub(value: object) -> bool:
    """``value`` is a stub or made by one (also as an element of a tuple or list)."""
    if isinstance(value, tuple | list):
        return any(map(is_stub, value))
    return isinstance(value, StubType) or isinstance(type(value), StubType)
