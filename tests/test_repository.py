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
from zarr_gpu.codecs import registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(module.name for module in pkgutil.walk_packages(zarr_gpu.__path__, "zarr_gpu."))
MAX_LINES = {"zarr_gpu": 450, "tests": 550, "benchmarks": 450}  # a room gets crowded
"""Of a file of Python."""
MAX_MODULES = 130
"""Modules that ``import zarr_gpu`` may load beside NumPy's."""
PUBLIC_NAMES = [
    "Array",
    "Group",
    "__version__",
    "array",
    "config",
    "consolidate_metadata",
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
    "errors",
    "from_array",
    "full",
    "full_like",
    "group",
    "load",
    "ones",
    "ones_like",
    "open",
    "open_array",
    "open_consolidated",
    "open_group",
    "open_like",
    "save",
    "save_array",
    "save_group",
    "tree",
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


def test_import_loads_few_modules():
    count = int(
        python(
            "import sys, numpy; before = set(sys.modules)\n"
            "import zarr_gpu; print(len(set(sys.modules) - before))"
        )
    )
    assert count <= MAX_MODULES


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
    examples = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


def test_readme_names_every_codec():
    missing = [name for name in registry.known() if f"`{name}`" not in README]
    assert missing == []


@pytest.mark.parametrize("name", ["zarr_gpu", *MODULES])
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
