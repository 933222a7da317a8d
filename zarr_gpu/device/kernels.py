"""The CUDA sources: where they are, what they declare, how they are compiled.

Knows no CUDA library: the runtime compiles and launches. Sources are handed out with the shared
header written into them, because CuPy's cache of compiled kernels looks at one text only.

>>> [name for name, _ in signatures("assemble")["assemble"]][:2]
['rows', 'first_tile']
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

OPTIONS = ("--std=c++17", "--fmad=false")
"""Of NVRTC. Without fused multiply-add, arithmetic is that of NumPy, bit for bit."""

Signature: TypeAlias = tuple[tuple[str, type[np.generic]], ...]
"""Name and scalar type of each argument; pointers are uint64 addresses."""

_INCLUDE = re.compile(r'^#include "zg\.cuh"\n', re.MULTILINE)
_KERNEL = re.compile(
    r"^ZG_KERNEL\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(([^)]*)\)", re.MULTILINE
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_SCALARS: dict[str, type[np.generic]] = {
    "i8": np.int8, "u8": np.uint8, "i16": np.int16, "u16": np.uint16, "i32": np.int32,
    "u32": np.uint32, "i64": np.int64, "u64": np.uint64, "f32": np.float32, "f64": np.float64,
}  # fmt: skip


@cache
def folder() -> Path:
    """Where the sources lie: package data of an installed wheel, the top level of a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "kernels"
    return installed if installed.is_dir() else package.parent / "kernels"


@cache
def files() -> tuple[str, ...]:
    """Kernel files by name; each is compiled on its own, at the first use of one of its kernels."""
    return tuple(sorted(path.stem for path in folder().glob("*.cu")))


@cache
def source(name: str) -> str:
    """Text of one of :func:`files`, header included."""
    header = (folder() / "include" / "zg.cuh").read_text()
    text = (folder() / f"{name}.cu").read_text()
    return _INCLUDE.sub(lambda _: header.replace("#pragma once\n", "") + "\n", text, count=1)


@cache
def signatures(name: str) -> dict[str, Signature]:
    """Every kernel of a file: ``ZG_KERNEL name(const u64* in, i64 n)``.

    Raises ValueError for a type that cannot be passed.
    """
    text = _COMMENT.sub("", source(name))
    return {kernel: _signature(kernel, declared) for kernel, declared in _KERNEL.findall(text)}


@cache
def file_of(kernel: str) -> str:
    """Which file has a kernel. KeyError when none has."""
    for name in files():
        if kernel in signatures(name):
            return name
    raise KeyError(f"no kernel is called {kernel!r}")


def pack(kernel: str, args: tuple[Any, ...]) -> tuple[np.generic, ...]:
    """Arguments as scalars of exactly the declared types.

    Raises TypeError for a wrong number of arguments and OverflowError for a value out of range.
    """
    signature = signatures(file_of(kernel))[kernel]
    if len(args) != len(signature):
        raise TypeError(f"{kernel}: {len(signature)} arguments are declared, {len(args)} given")
    return tuple(_scalar(kind, value) for (_, kind), value in zip(signature, args, strict=True))


def _scalar(kind: type[np.generic], value: Any) -> np.generic:
    if issubclass(kind, np.integer):
        info = np.iinfo(kind)
        if not info.min <= int(value) <= info.max:
            raise OverflowError(f"{value} is no {kind.__name__}")
        return kind(int(value))
    return kind(value)


def _signature(kernel: str, declared: str) -> Signature:
    out: list[tuple[str, type[np.generic]]] = []
    for argument in " ".join(declared.split()).split(","):
        kind, _, name = (
            argument.replace("__restrict__", "").replace("const ", "").strip().rpartition(" ")
        )
        kind = kind.strip()
        if kind.endswith("*"):
            out.append((name, np.uint64))
        elif kind in _SCALARS:
            out.append((name, _SCALARS[kind]))
        else:
            raise ValueError(f"kernel {kernel}: cannot pass {argument.strip()!r}")
    return tuple(out)
