"""What importing xarray and zarr_gpu does, in processes of their own."""

import pytest
import xarray as xr

from tests.interop.datasets import run


def test_what_is_missing_is_named():
    for missing, use in (
        ("xarray", "import zarr_gpu.interop.xarray"),
        ("dask", "zarr_gpu.to_dask(zarr_gpu.zeros(3))"),
    ):
        out = run(
            f"""
import zarr_gpu
from zarr_gpu import *
try:
    {use}
except ImportError as error:
    print(error)
""",
            missing,
        )
        assert f"pip install 'zarr-gpu[{missing}]'" in out


def test_importing_the_package_imports_neither():
    out = run("import zarr_gpu; zarr_gpu.open_array; print({'xarray', 'dask'} & set(sys.modules))")
    assert out.strip() == "set()"


THERE = """
def there():
    print(*(hasattr(kind, "zarr_gpu") for kind in (xr.Dataset, xr.DataArray, xr.DataTree)))

"""


def test_the_accessor_is_there_when_xarray_was_imported_before():
    out = run(
        THERE
        + """
import sys, xarray as xr, zarr_gpu
there()
print({"zarr_gpu.interop.xarray", "zarr_gpu.array", "zarr"} & set(sys.modules))
store = {}
xr.Dataset({"v": ("x", [1, 2])}).zarr_gpu.to_zarr(store)
print(*sorted(store))
"""
    )
    assert out.splitlines() == ["True True True", "set()", "v/c/0 v/zarr.json zarr.json"]


@pytest.mark.parametrize("loaded", ["import zarr_gpu.interop.xarray", "xr.backends.list_engines()"])
def test_the_accessor_comes_with_the_engine_otherwise(loaded):
    out = run(THERE + f"import zarr_gpu, xarray as xr\nthere()\n{loaded}\nthere()")
    assert out.splitlines() == ["False False False", "True True True"]


def test_another_inside_of_xarray_is_named():
    names = (
        "backends.zarr.FillValueCoder",
        "backends.zarr.encode_zarr_variable",
        "core.indexing.LazilyIndexedArray",
        "conventions.encode_dataset_coordinates",
    )
    out = run(
        f"""
from importlib import import_module
import xarray.backends.zarr
for name in {names}:
    module, _, member = name.rpartition(".")
    module = import_module("xarray." + module)
    value = getattr(module, member)
    delattr(module, member)
    try:
        import zarr_gpu.interop.xarray
    except ImportError as error:
        print(error)
    setattr(module, member, value)
"""
    )
    assert len(out.splitlines()) == len(names)
    for name, line in zip(names, out.splitlines(), strict=True):
        assert f"{name.rpartition('.')[2]!r}" in line
        assert "it was tried with" in line and xr.__version__ in line
