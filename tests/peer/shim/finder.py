"""The import hook: ``zarr`` and everything below it are made of :mod:`shim.names` and stubs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from shim.stubs import make_stub


class Finder(MetaPathFinder, Loader):
    """Finds and makes every module called ``zarr`` or ``zarr.*``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "zarr" and not fullname.startswith("zarr."):
            return None
        if not fullname.islower():  # a class: mock.patch tries to import every part of a name
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        from shim.names import names_of

        vars(module).update(names_of(module.__name__))


class _Module(ModuleType):
    """A module of zarr-python: names without a counterpart are stubs, each made once."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        if full in sys.modules:
            return sys.modules[full]
        stub = make_stub(full.removeprefix("zarr.").removeprefix("core."))
        setattr(self, name, stub)
        return stub


def install() -> None:
    """Put the finder first; an installed zarr is never seen."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
