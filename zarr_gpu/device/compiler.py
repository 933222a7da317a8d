"""Kernels compiled for a card by NVRTC, and kept on disk.

CuPy's own compiler is not used: it adds ``-ftz=true``, which turns float32 denormals into zeros,
and results would differ from the host's. NVRTC is called through CuPy's binding, which needs no
driver. Knows no device, stream or launch.

Compiled files live in the folder of the setting ``cache_dir`` (``ZARR_GPU_CACHE_DIR``), else in
``$XDG_CACHE_HOME/zarr_gpu``, else in ``~/.cache/zarr_gpu``; where none can be written to, in a
folder that is removed when the process ends. The name of a file says what it was made from, and
what it contains.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import struct
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zarr_gpu.config import config
from zarr_gpu.device import kernels
from zarr_gpu.errors import DeviceUnavailableError


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code of one kernel file; ``log`` has the registers and spills of every kernel."""

    code: bytes
    log: str


def compile_cubin(name: str, arch: int) -> Cubin:
    """Compile a file of :func:`zarr_gpu.device.kernels.files` for ``sm_<arch>``, such as 90.

    Raises DeviceUnavailableError, with the compiler's log, where that is not possible.
    """
    return _compile(name, kernels.source(name), arch)


def cubin_path(name: str, arch: int) -> Path:
    """The compiled file on disk, compiled now if it is not there. Raises as compile_cubin does."""
    key = f"{name}-sm_{arch}-{_key(name, arch)}"
    folder = cache_folder()
    places = [folder, _temporary_folder()] if _temporary_folder.cache_info().currsize else [folder]
    for place in places:
        for path in sorted(place.glob(f"{key}.*.cubin")):
            if _intact(path):
                return path
    code = compile_cubin(name, arch).code
    file = f"{key}.{_hash(code)}.cubin"
    try:
        return _store(folder / file, code)
    except OSError:  # a read-only home or a full disk
        return _store(_temporary_folder() / file, code)


def cache_folder() -> Path:
    """Where compiled kernels are kept; it may not exist, and it may not be writable."""
    chosen = config.get("cache_dir", "")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(base) / "zarr_gpu"


def _compile(name: str, text: str, arch: int) -> Cubin:
    nvrtc = _nvrtc()
    options = (*kernels.OPTIONS, f"--gpu-architecture=sm_{arch}", "--ptxas-options=-v")
    program = nvrtc.createProgram(text, f"{name}.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        log = nvrtc.getProgramLog(program).rstrip("\0 \n")
        return Cubin(_completed(nvrtc.getCUBIN(program)), log)
    except nvrtc.NVRTCError as error:
        raise DeviceUnavailableError(
            f"kernels/{name}.cu does not compile for sm_{arch}: {error}\n"
            f"{nvrtc.getProgramLog(program)}"
        ) from None
    finally:
        nvrtc.destroyProgram(program)


def _completed(code: bytes) -> bytes:
    """The ELF file with its last byte, if that is missing.

    CuPy 14 takes a cubin for text and cuts off what would be the terminating zero. It is a byte of
    the tables of headers, which stand at the end, and it is zero: the top of a small number.

    >>> _completed(b"no ELF")
    b'no ELF'
    """
    if code[:4] != b"\x7fELF" or len(code) < 64:
        return code
    # Elf64_Ehdr: e_phoff and e_shoff at 32; sizes and numbers of both kinds of entries at 54.
    programs, sections = struct.unpack_from("<QQ", code, 32)
    sizes = struct.unpack_from("<HHHH", code, 54)
    end = max(programs + sizes[0] * sizes[1], sections + sizes[2] * sizes[3])
    return code + bytes(1) if len(code) + 1 == end else code


def _key(name: str, arch: int) -> str:
    version = ".".join(map(str, _nvrtc().getVersion()))
    return _hash("\0".join((kernels.source(name), *kernels.OPTIONS, str(arch), version)).encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _intact(path: Path) -> bool:
    """Whether the contents are those that the name promises."""
    try:
        return _hash(path.read_bytes()) == path.name.split(".")[-2]
    except OSError:
        return False


def _store(path: Path, code: bytes) -> Path:
    """Write in one step: other processes see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path


@cache
def _temporary_folder() -> Path:
    """Of this process alone: a name that others can guess would let them place files there."""
    folder = tempfile.mkdtemp(prefix="zarr_gpu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _nvrtc() -> Any:
    """CuPy's binding, once it is certain that the library can be loaded."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceUnavailableError(
            "kernels cannot be compiled: NVRTC is missing "
            f"(pip install 'zarr-gpu[cu13]', or cu12): {error}"
        ) from error
    return nvrtc
