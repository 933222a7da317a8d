"""Kernels compiled by a C++ compiler and run on the host, under the calling convention of CuPy.

The text of ``kernels/*.cu`` is compiled unchanged behind ``host/zg_host.h`` and run by
``host/zg_runtime.cpp``. Variants, chosen by an argument or by ``ZG_KERNEL_BUILD``:

``plain``
    Optimised. Finds divergence, wrong masks, deadlocks and reads of uninitialised shared memory.
``asan``
    AddressSanitizer and UndefinedBehaviorSanitizer; Python has to run with their libraries loaded.
``tsan``
    ThreadSanitizer with a fiber of its own for every CUDA thread; finds races inside a block.

Linux with GCC or Clang; sanitizers with GCC only. Without a compiler the tests are skipped, except
where ``CI`` is set.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zarr_gpu.device import kernels

HOST = Path(__file__).parent / "host"
INCLUDE = kernels.folder() / "include"

FLAGS = (
    "-std=c++17", "-g", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti",
    "-ffp-contract=off",  # as --fmad=false
    "-fno-strict-aliasing",  # bytes are read as words
    "-Wno-unknown-pragmas", "-Wno-attributes",
)  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": ("-O2",),
    "ucontext": ("-O2", "-DZG_UCONTEXT"),  # as on processors without an assembly switch
    "asan": (
        "-O1", "-fno-omit-frame-pointer", "-DZG_ASAN", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", "-fsanitize-sections=zg_shared",
    ),
    "tsan": ("-O1", "-fno-omit-frame-pointer", "-DZG_TSAN", "-fsanitize=thread"),
}  # fmt: skip
_KERNEL = re.compile(r"^ZG_KERNEL\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", re.MULTILINE)
_LAUNCHING = threading.Lock()  # a library has one set of fibers; under tsan all share theirs
_SCHEDULES = {"forward": 0, "reverse": 1}


def examples(count: int) -> int:
    """``count`` times ``ZG_KERNEL_EXAMPLES`` (1 if not set), at least 1.

    Tests ask here how many cases to make, so that runs under sanitizers can be short.
    """
    return max(1, round(count * float(os.environ.get("ZG_KERNEL_EXAMPLES", "1"))))


def load(name: str, variant: str | None = None) -> HostModule:
    """The kernels of ``kernels/<name>.cu``; ``variant`` None asks the environment."""
    path = kernels.folder() / f"{name}.cu"
    return _loaded(path, kernels.source(name), variant or default_variant())


def load_text(text: str, variant: str | None = None) -> HostModule:
    """The kernels of a text, which may include ``zg.cuh``."""
    path = _folder() / f"{_hash(text)}.cu"
    _write(path, text.encode())
    return _loaded(path, text, variant or default_variant())


def default_variant() -> str:
    return os.environ.get("ZG_KERNEL_BUILD", "plain")


def give_up(reason: str) -> None:
    """Skips the test; fails it in CI, where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class HostModule:
    """One shared library of kernels, used like ``cupy.RawModule``.

    ``schedule`` is the order of threads and blocks: "forward", "reverse", or the seed of a random
    one. The same schedule gives the same run.
    """

    def __init__(self, path: Path) -> None:
        self.schedule: str | int = "forward"
        self._library = ctypes.CDLL(str(path))
        self._library.zg_kinds.restype = ctypes.c_char_p
        self._library.zg_sizes.restype = ctypes.c_char_p
        self._library.zg_launch.restype = ctypes.c_char_p

    def get_function(self, name: str) -> HostFunction:
        kinds = self._library.zg_kinds(name.encode())
        if kinds is None:
            raise RuntimeError(f"no kernel is called {name!r}")
        sizes = self._library.zg_sizes(name.encode())
        return HostFunction(self, name, kinds.decode(), [int(chr(size)) for size in sizes])

    def launch(
        self, name: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[np.generic]
    ) -> None:
        mode = _SCHEDULES.get(str(self.schedule), 2)
        seed = 0 if isinstance(self.schedule, str) else self.schedule
        values = [np.asarray(value) for value in args]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*(v.ctypes.data for v in values))
        three = ctypes.c_uint * 3
        with _LAUNCHING:
            error = self._library.zg_launch(
                name.encode(), three(*grid), three(*block), pointers,
                ctypes.c_int(mode), ctypes.c_uint64(seed),
            )  # fmt: skip
        if error is not None:
            raise RuntimeError(error.decode())


class HostFunction:
    """One kernel; checks what the device would take without a word."""

    def __init__(self, module: HostModule, name: str, kinds: str, sizes: list[int]) -> None:
        self._module = module
        self._name = name
        self._declared = list(zip(kinds, sizes, strict=True))

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        shared_mem: int = 0,
    ) -> None:
        if shared_mem:
            raise RuntimeError(f"{self._name}: kernels use no dynamic shared memory")
        full_grid = self._shape("grid", grid, (2**31 - 1, 65535, 65535))
        full_block = self._shape("block", block, (1024, 1024, 64))
        if np.prod(full_block) > 1024:
            raise RuntimeError(f"{self._name}: a block of {tuple(block)} has over 1024 threads")
        if len(args) != len(self._declared):
            raise TypeError(
                f"{self._name}: {len(self._declared)} arguments are declared, {len(args)} given"
            )
        for i, (value, declared) in enumerate(zip(args, self._declared, strict=True)):
            self._check(i, value, *declared)
        self._module.launch(self._name, full_grid, full_block, args)

    def _shape(self, what: str, given: Sequence[int], limits: tuple[int, ...]) -> tuple[int, ...]:
        full = (*given, 1, 1)[:3]
        if not 1 <= len(given) <= 3 or not all(
            1 <= n <= limit for n, limit in zip(full, limits, strict=True)
        ):
            raise RuntimeError(f"{self._name}: a {what} of {tuple(given)} cannot be launched")
        return full

    def _check(self, i: int, value: Any, kind: str, size: int) -> None:
        wanted = np.dtype(f"{'u' if kind == 'p' else kind}{size}")
        if not isinstance(value, np.generic) or value.dtype != wanted:
            what = "a pointer (uint64)" if kind == "p" else wanted.name
            given = value.dtype.name if isinstance(value, np.generic) else type(value).__name__
            raise TypeError(f"{self._name}: argument {i} is declared as {what}, {given} given")


# -- sanitizers ----------------------------------------------------------------------------------

# Starts a command with the library loaded that the sanitizer needs. ThreadSanitizer of older GCCs
# cannot place its shadow memory under full randomisation of addresses (0x0040000 turns it off).
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).personality(0x0040000)
os.environ["LD_PRELOAD"] = sys.argv[1]
os.execv(sys.argv[2], sys.argv[2:])
"""
_SANITIZERS = {"asan": "libasan.so", "tsan": "libtsan.so"}
_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:exitcode=99",
}


def run_sanitized(variant: str, args: Sequence[str], **environ: str) -> tuple[int, str]:
    """Runs Python with ``args`` under a sanitizer; returns its exit code and all it wrote.

    Skips the test where the sanitizer does not work.
    """
    _check_sanitizer(variant)
    return _run_sanitized(variant, args, environ)


@cache
def _check_sanitizer(variant: str) -> None:
    code, text = _run_sanitized(variant, ["-c", "pass"], {})
    if code:
        pytest.skip(f"the sanitizer of {variant} does not run here: {text.strip()[-300:]}")


def _run_sanitized(variant: str, args: Sequence[str], environ: dict[str, str]) -> tuple[int, str]:
    library = _run([*compiler(variant), f"-print-file-name={_SANITIZERS[variant]}"]).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, library, sys.executable, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env={
            **os.environ,
            **_OPTIONS,
            "ZG_KERNEL_BUILD": variant,
            "PYTHONMALLOC": "malloc",  # so that bytes objects have their bounds checked
            "OPENBLAS_NUM_THREADS": "1",
            **environ,
        },
    )
    return done.returncode, done.stdout


# -- building ----------------------------------------------------------------------------------


@cache
def compiler(variant: str = "plain") -> tuple[str, ...]:
    """The command of the C++ compiler for a variant."""
    if platform.system() != "Linux":
        give_up("kernels run on the host under Linux only")
    for command in (os.environ.get("CXX"), "g++", "clang++"):
        words = tuple(shlex.split(command or ""))
        if words and shutil.which(words[0]) and (variant not in _SANITIZERS or _is_gcc(words)):
            return words
    give_up(f"no C++ compiler for the variant {variant} (CXX, g++, clang++)")
    raise AssertionError


@cache
def _version(words: tuple[str, ...]) -> str:
    return _run([*words, "--version"]).stdout


def _is_gcc(words: tuple[str, ...]) -> bool:
    return "Free Software Foundation" in _version(words)


@cache
def _loaded(path: Path, text: str, variant: str) -> HostModule:
    return HostModule(_built(path, text, variant))


def _built(path: Path, text: str, variant: str) -> Path:
    """The shared library; built under a lock, so that parallel runs do not build it twice."""
    words = compiler(variant)
    flags = (*FLAGS, *VARIANTS[variant])
    host = "".join(file.read_text() for file in sorted(HOST.iterdir()))
    common = (_version(words), *words, *flags, host)
    library = _folder() / f"{path.stem}-{variant}-{_hash(*common, text, str(path))}.so"
    runtime = _folder() / f"runtime-{variant}-{_hash(*common)}.o"
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not runtime.exists():
            # Not instrumented: it may look at all memory, and its switches confuse sanitizers.
            plain = [flag for flag in flags if not flag.startswith(("-fsanitize", "-fno-sanitize"))]
            _compile([*words, *plain, "-O2", "-c", str(HOST / "zg_runtime.cpp")], runtime)
        if not library.exists():
            exports = "".join(f"ZG_EXPORT({name})\n" for name in _KERNEL.findall(text))
            unit = library.with_suffix(".cpp")
            unit.write_text(
                f'#include "zg_host.h"\n#include "{path}"\n#include "zg_export.h"\n{exports}'
            )
            _compile(
                [*words, *flags, f"-I{HOST}", f"-I{INCLUDE}", "-shared", str(unit), str(runtime)],
                library,
            )
    return library


def _compile(command: list[str], out: Path) -> None:
    partial = out.with_name(f"{out.name}.{os.getpid()}")
    done = _run([*command, "-o", str(partial)])
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")
    partial.replace(out)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs the compiler, which is not to be watched by the sanitizer of this process."""
    environ = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, text=True, env=environ)


@cache
def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"zarr_gpu-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # libraries from there are loaded
        raise RuntimeError(f"{folder} belongs to somebody else")
    return folder


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
