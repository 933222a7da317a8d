"""Every kernel compiles for every supported card, without warnings, spills and surprises.

``registers.json`` has, for each kernel, the most registers that it takes on any card, and the bytes
it spills where that has been accepted. Write it anew, after looking at the difference, with::

    python -m tests.kernels.test_compile [FILE...]

Results differ a little between versions of the compiler, so a few registers more are let pass.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.kernels import build
from zarr_gpu import config
from zarr_gpu.device import compiler, kernels
from zarr_gpu.errors import DeviceUnavailableError

ALL = (75, 80, 86, 89, 90, 100, 120)
TABLE = Path(__file__).parent / "registers.json"
SLACK = 8
"""Registers; they are allotted to warps in steps of this size."""

# What NVRTC's log says about a kernel, when asked by --ptxas-options=-v.
_USAGE = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


@cache
def nvrtc():
    try:
        return compiler._nvrtc()
    except DeviceUnavailableError as error:
        return build.give_up(str(error))


@cache
def compiled(name, arch):
    nvrtc()
    return compiler.compile_cubin(name, arch)


def usage(log):
    """Registers and spilled bytes of every kernel."""
    found = {}
    for match in _USAGE.finditer(log):
        spilled = max(int(match["stores"]), int(match["loads"]))
        found[match["name"]] = {"registers": int(match["registers"]), "spills": spilled}
    return found


def complaints(log):
    return [line for line in log.splitlines() if line.strip() and not line.startswith("ptxas ")]


@pytest.mark.parametrize("arch", ALL)
@pytest.mark.parametrize("name", kernels.files())
def test_kernels_compile(name, arch):
    cubin = compiled(name, arch)
    assert not complaints(cubin.log)
    assert "warning" not in cubin.log
    table = json.loads(TABLE.read_text())
    found = usage(cubin.log)
    assert sorted(found) == sorted(kernels.signatures(name))
    for kernel, used in found.items():
        assert kernel in table, f"{kernel} is not in {TABLE.name} (see the head of this file)"
        assert used["registers"] <= table[kernel]["registers"] + SLACK, (kernel, used)
        assert used["spills"] <= table[kernel].get("spills", 0), (kernel, used)


def test_the_table_has_only_kernels_that_exist():
    known = {kernel for name in kernels.files() for kernel in kernels.signatures(name)}
    assert set(json.loads(TABLE.read_text())) == known


def rewrite(names):
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    fresh = {}
    for name in names:
        for arch in ALL:
            for kernel, used in usage(compiled(name, arch).log).items():
                worst = fresh.setdefault(kernel, {"registers": 0})
                worst["registers"] = max(worst["registers"], used["registers"])
                if used["spills"]:
                    worst["spills"] = max(worst.get("spills", 0), used["spills"])
    known = {kernel for name in kernels.files() for kernel in kernels.signatures(name)}
    rows = [
        f"  {json.dumps(kernel)}: {json.dumps(used)}"
        for kernel, used in sorted({**table, **fresh}.items())
        if kernel in known
    ]
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


# -- the compiler ----------------------------------------------------------------------------------

TEXT = 'extern "C" __global__ void k(unsigned* out) { out[threadIdx.x] = 1; }\n'


@pytest.fixture
def one_file(tmp_path, monkeypatch):
    """A kernel file, and an empty cache."""
    nvrtc()
    monkeypatch.setattr(kernels, "source", lambda name: TEXT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler._temporary_folder.cache_clear()
    yield tmp_path / "zarr_gpu"
    compiler._temporary_folder.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """The files that are compiled."""
    seen = []
    real = compiler.compile_cubin
    monkeypatch.setattr(compiler, "compile_cubin", lambda *of: seen.append(of) or real(*of))
    return seen


@pytest.mark.parametrize("arch", [75, 90, 120])
def test_code_is_complete(one_file, arch):
    code = compiler.compile_cubin("k", arch).code
    number = {32: 8, 40: 8, 54: 2, 56: 2, 58: 2, 60: 2}  # fields of Elf64_Ehdr
    programs, sections, *sizes = (
        int.from_bytes(code[at : at + width], "little") for at, width in number.items()
    )
    assert len(code) == max(programs + sizes[0] * sizes[1], sections + sizes[2] * sizes[3])


def test_nothing_is_added_to_what_is_complete():
    code = compiler.compile_cubin("streams", 90).code if nvrtc() else b""
    assert compiler._completed(code) == code
    assert compiler._completed(code[:-1]) == code


def test_a_file_is_compiled_once(one_file, compilations):
    path = compiler.cubin_path("k", 80)
    assert path.parent == one_file and path.read_bytes()[:4] == b"\x7fELF"
    assert compiler.cubin_path("k", 80) == path
    assert compilations == [("k", 80)]
    assert [p.name for p in one_file.iterdir()] == [path.name]


@pytest.mark.parametrize("what", ["source", "options", "arch", "version"])
def test_whatever_matters_is_part_of_the_key(what, one_file, compilations, monkeypatch):
    path = compiler.cubin_path("k", 80)
    if what == "source":
        monkeypatch.setattr(kernels, "source", lambda name: TEXT.replace("1", "2"))
    elif what == "options":
        monkeypatch.setattr(kernels, "OPTIONS", (*kernels.OPTIONS, "--dopt=on"))
    elif what == "version":
        monkeypatch.setattr(nvrtc(), "getVersion", lambda: (99, 0))
    assert compiler.cubin_path("k", 86 if what == "arch" else 80) != path
    assert len(compilations) == 2


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda code: code[:-1], id="shorter"),
        pytest.param(lambda code: b"", id="empty"),
        pytest.param(lambda code: code[:99] + b"?" + code[100:], id="changed"),
    ],
)
def test_damaged_files_are_replaced(damage, one_file, compilations):
    path = compiler.cubin_path("k", 80)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    again = compiler.cubin_path("k", 80)
    assert again == path and again.read_bytes() == good
    assert len(compilations) == 2


def test_a_folder_that_cannot_be_written(one_file, compilations):
    one_file.write_text("a file where the folder should be")
    path = compiler.cubin_path("k", 80)
    assert path.read_bytes()[:4] == b"\x7fELF" and one_file not in path.parents
    assert compiler.cubin_path("k", 80) == path
    assert len(compilations) == 1


def test_the_folder_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiler.cache_folder() == tmp_path / "zarr_gpu"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiler.cache_folder() == tmp_path / ".cache" / "zarr_gpu"
    with config.set({"cache_dir": str(tmp_path / "chosen")}):
        assert compiler.cache_folder() == tmp_path / "chosen"


def test_errors_show_the_log(one_file, monkeypatch):
    monkeypatch.setattr(kernels, "source", lambda name: TEXT.replace("1", "missing_name"))
    with pytest.raises(
        DeviceUnavailableError, match=r"(?s)k\.cu does not compile for sm_80.*missing_n"
    ):
        compiler.compile_cubin("k", 80)
    with pytest.raises(DeviceUnavailableError, match="sm_30"):
        compiler.compile_cubin("k", 30)


def test_no_nvrtc(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    with pytest.raises(DeviceUnavailableError, match=r"zarr-gpu\[cu13\]"):
        compiler.cubin_path("streams", 80)


if __name__ == "__main__":
    rewrite(sys.argv[1:] or kernels.files())
