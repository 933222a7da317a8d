"""Run xarray's own tests of its Zarr engine with ours: ``make test-xarray``.

xarray's wheel has its tests. They run twice: as they are, and with all that they read with
``engine="zarr"`` read by ours, and all that they store with ``to_zarr`` stored by ours (see
``xarray_by_ours.py``). Exit status 0 means that no test fails with ours that does not fail with
xarray's, but those of :data:`EXPECTED`. Needs ``requirements-xarray.txt``; ten minutes on two
cores. Arguments go to pytest::

    python tests/plugin/xarray_run.py -k "zarr and append"
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from outcomes import ROOT, compare, run, table

RUN = ROOT / ".peer/xarray"
MODULES = (
    "test_backends.py test_backends_datatree.py test_backends_api.py test_plugins.py"
).split()
_CALLS = "counts calls of zarr-python's methods, of which ours makes none"
_DOCUMENTS = "codecs in encoding are documents, not objects of zarr-python; both engines take them"
_RECTILINEAR = "wants an error for chunks of several lengths, which ours can store"
_WARNING = "wants a warning that metadata are not consolidated"
EXPECTED = {
    "::test_indexing[": _CALLS,
    "::test_concurrent_load_multiple_objects[": _CALLS,
    "::test_async_load_multiple_variables[": _CALLS,
    "::test_avoid_excess_metadata_calls[": _CALLS,
    "::TestInstrumentedZarrStore::": "counts requests for metadata: ours asks for each array "
    "whether it is there in the other format, too, and locks what it replaces",
    "::test_compressor_encoding[3": _DOCUMENTS,
    "::test_zarr_encoding[zarr_format=3]": _DOCUMENTS,
    "::test_write_after_read_gives_helpful_error": _RECTILINEAR,
    "::test_write_rectilinear_shards_blocked": _RECTILINEAR,
    "::test_append_does_not_resize_before_erroring": _RECTILINEAR,
    "::test_read_non_consolidated_warning[": _WARNING,
    "::test_to_zarr_not_consolidated[": _WARNING,
    "::test_invalid_dataarray_names_raise[": "compares the message of a TypeError",
    "::test_zarr_fill_value_setting[2-": "gives use_zarr_fill_value_as_mask=False, which xarray's "
    "engine does not look at and ours does",
    "::test_to_zarr_compute_false[zarr_format=2]": "wants a zero left out where the fill value is "
    "null, which says nothing about what is not there; ours stores it",
}
"""Tests that fail only with ours, and why that is right."""

INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
faulthandler_timeout = 300
markers =
    flaky: flaky
    mypy: of types
    network: of the network
    slow: slow
    slow_hypothesis: slow
filterwarnings =
    error:::xarray.*
    ignore::pytest.PytestUnknownMarkWarning
"""


def main(arguments: list[str]) -> int:
    spec = importlib.util.find_spec("xarray")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("needs xarray: pip install -r tests/plugin/requirements-xarray.txt")
    tests = Path(spec.submodule_search_locations[0]) / "tests"
    RUN.mkdir(parents=True, exist_ok=True)
    ini = RUN / "pytest.ini"
    ini.write_text(INI)
    given = [str(tests / module) for module in MODULES]
    given += [f"--rootdir={tests.parents[1]}", *(arguments or ["-k", "zarr"])]
    environ = dict(os.environ)
    environ["ZG_STATISTICS"] = "xarray_by_ours"
    plugins = ["xarray_marks", "xarray_by_ours"]

    def once(name: str, chosen: list[str]) -> tuple[dict[str, str], list[dict]]:
        with tempfile.TemporaryDirectory() as cwd:  # some tests leave files where they run
            record = RUN / f"record-{name}"
            return run(record, chosen, given, ini=ini, cwd=Path(cwd), environ=environ)

    print("== xarray's tests with zarr_gpu", flush=True)
    ours, statistics = once("zarr_gpu", plugins)
    environ.pop("ZG_STATISTICS")
    print("== xarray's tests with its own engine", flush=True)
    default, _ = once("default", plugins[:1])
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("xarray", "zarr", "dask"))
    print(f"\n{versions}: tests of Zarr with zarr_gpu, and by default\n")
    table(ours, default)
    reads, writes = (sum(s[k] for s in statistics) for k in ("reads", "writes"))
    print(f"\nby zarr_gpu: {reads} datasets opened, {writes} stored")
    return 0 if compare(ours, default, EXPECTED) and reads and writes else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
