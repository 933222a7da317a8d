"""Promises about the package as a whole: what it imports, ships, names and how it is written."""

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import zarr_gpu
from zarr_gpu import api
from zarr_gpu.codecs import registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(module.name for module in pkgutil.walk_packages(zarr_gpu.__path__, "zarr_gpu."))
OTHERS = {
    "zarr_gpu.checkpoint.dcp",
    "zarr_gpu.checkpoint.jax",
    "zarr_gpu.interop.jax",
    "zarr_gpu.interop.torch",
}
"""Modules that import PyTorch and JAX, which start threads; they have no examples to be run."""
MAX_LINES = {"zarr_gpu": 450, "tests": 550, "benchmarks": 450}  # a room gets crowded
"""Of a file of Python."""
MAX_MODULES = 110
"""Modules that the first use of ``zarr_gpu`` may load beside NumPy's."""
SLOW_MODULES = {
    "asyncio",
    "base64",
    "concurrent.futures",
    "fsspec",
    "hashlib",
    "html",
    "importlib.metadata",
    "logging",
    "multiprocessing",
    "numcodecs",
    "numpy.typing",
    "tempfile",
    "typing_extensions",
    "unicodedata",
    "urllib.parse",
    "zarr",
}
"""What opening an array in memory shall not wait for."""
PUBLIC_NAMES = [
    "Array",
    "Group",
    "__version__",
    "array",
    "config",
    "consolidate_metadata",
    "convert",
    "copy",
    "copy_all",
    "copy_store",
    "create",
    "create_array",
    "create_group",
    "create_hierarchy",
    "device_info",
    "empty",
    "empty_like",
    "enable",
    "errors",
    "from_array",
    "from_dask",
    "full",
    "full_like",
    "group",
    "load",
    "migrate",
    "ones",
    "ones_like",
    "open",
    "open_array",
    "open_consolidated",
    "open_group",
    "open_like",
    "rechunk",
    "save",
    "save_array",
    "save_group",
    "to_dask",
    "tree",
    "verify",
    "zeros",
    "zeros_like",
]
"""All of them; a change here is a change for users and belongs into the change log."""


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_host_reads_import_no_device_library_and_no_other_array_library():
    loaded = json.loads(
        python(
            "import json, sys, numpy, zarr_gpu\n"
            "a = zarr_gpu.create_array({}, shape=(5, 7), chunks=(2, 3), dtype='i4')\n"
            "a[...] = numpy.arange(35).reshape(5, 7)\n"
            "assert (a[1:4, ::2] == numpy.arange(35).reshape(5, 7)[1:4, ::2]).all()\n"
            "print(json.dumps(sorted(sys.modules)))"
        )
    )
    forbidden = {"cupy", "kvikio", "nvidia", "fsspec", "torch", "xarray", "zarr", "dask"}
    assert not forbidden & {name.partition(".")[0] for name in loaded}


def test_import_alone_loads_nothing_else():
    code = (
        "import json, sys, types, importlib; before = set(sys.modules)\n"
        "import zarr_gpu; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert set(json.loads(python(code))) - {"__future__"} == {"zarr_gpu"}


def test_first_use_loads_few_modules_and_no_slow_ones():
    code = (
        "import json, sys, numpy; before = set(sys.modules)\n"
        "import zarr_gpu; zarr_gpu.create_array({}, shape=3, dtype='i4').shape\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = set(json.loads(python(code)))
    assert not loaded & SLOW_MODULES
    assert len(loaded) <= MAX_MODULES


@pytest.mark.parametrize("module", ["array", "config", "group"])
def test_public_names_win_over_modules_called_like_them(module: str):
    code = (
        f"import sys, zarr_gpu.{module}, zarr_gpu\n"
        f"first = zarr_gpu.{module}; import zarr_gpu.api, zarr_gpu.array, zarr_gpu.group\n"
        f"assert first is zarr_gpu.{module} is not sys.modules['zarr_gpu.{module}']\n"
        f"from zarr_gpu import {module}; assert {module} is first; print(type(first).__name__)"
    )
    assert python(code).strip() in ("function", "ConfigHolder")


def test_all_names_are_there_before_anything_was_used():
    code = (
        "import zarr_gpu; assert set(zarr_gpu.__all__) <= set(dir(zarr_gpu))\n"
        "from zarr_gpu import *\n"
        "assert all(globals()[n] is getattr(zarr_gpu, n) for n in zarr_gpu.__all__)\n"
        "try: zarr_gpu.no_such_name\n"
        "except AttributeError as error: print(error)"
    )
    assert python(code).strip() == "module 'zarr_gpu' has no attribute 'no_such_name'"


def test_the_front_door_and_its_functions_say_the_same():
    elsewhere = {"Array", "Group", "__version__", "config", "device_info", "enable", "errors"}
    elsewhere |= {"convert", "from_dask", "migrate", "rechunk", "to_dask", "verify"}
    assert {*api.__all__, *elsewhere} == set(zarr_gpu.__all__)
    assert all(getattr(zarr_gpu, name) is getattr(api, name) for name in api.__all__)


def test_public_names():
    assert sorted(zarr_gpu.__all__) == PUBLIC_NAMES


def test_public_names_exist():
    for name in zarr_gpu.__all__:
        assert getattr(zarr_gpu, name) is not None


def test_version_is_that_of_the_distribution():
    written = (ROOT / "pyproject.toml").read_text().split('version = "')[1].partition('"')[0]
    assert zarr_gpu.__version__ == written


@pytest.mark.parametrize("folder", ["zarr_gpu", "tests", "benchmarks"])
def test_files_are_short(folder: str):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: n for path, n in lengths.items() if n > MAX_LINES[folder]} == {}


def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pages = README + "".join(
        (ROOT / f"zarr_gpu/{folder}/README.md").read_text(encoding="utf-8")
        for folder in ("checkpoint", "interop", "cli")
    )
    examples = re.findall(r"^```python\n(.*?)^```$", pages, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


def test_readme_names_every_codec():
    missing = [name for name in registry.known() if f"`{name}`" not in README]
    assert missing == []


@pytest.mark.parametrize("name", ["zarr_gpu", *(name for name in MODULES if name not in OTHERS)])
def test_examples_in_docstrings(name: str):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_wheel_has_every_module_the_kernels_and_the_type_marker(tmp_path: Path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("zarr_gpu/")}
    sources = [
        p
        for p in (ROOT / "zarr_gpu").rglob("*")
        if p.suffix in (".py", ".md") or p.name == "py.typed"
    ]
    kernels = [p for p in (ROOT / "kernels").rglob("*") if p.is_file()]
    expected = {p.relative_to(ROOT).as_posix() for p in sources}
    expected |= {"zarr_gpu/" + p.relative_to(ROOT).as_posix() for p in kernels}
    assert shipped == expected
