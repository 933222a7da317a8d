"""Run zarr-python's own tests with our codec pipeline: ``make test-zarr-plugin``.

Fetches the source distribution of zarr-python with pip (see ``tests/peer/run.py``), runs its tests
with the pipeline switched on by an environment variable, and once more with zarr-python's default.
Exit status 0 means that no test fails with ours that does not fail with the default. Needs Python
3.12 with ``requirements.txt`` installed. Arguments are test modules (below ``tests/``), the rest
after ``--`` goes to pytest::

    python tests/plugin/run.py test_v2.py test_codecs -- -k zstd
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tarfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import outcomes  # noqa: E402 - of this folder

from tests.peer import run as peer  # noqa: E402 - found by the line above

RUN = peer.WORK / "plugin"
PATH = "zarr_gpu.interop.zarr_python.CodecPipeline"
MODULES = (
    "test_indexing.py test_v2.py test_array.py test_codecs test_api.py test_group.py "
    "test_codec_pipeline.py test_codec_pipeline_suite.py test_pipeline_parity.py "
    "test_fused_pipeline.py test_fastpath_equivalence.py test_resize.py "
    "test_unified_chunk_grid.py test_config.py test_buffer.py test_store/test_local.py "
    "test_store/test_memory.py test_store/test_zip.py test_store/test_wrapper.py "
    "test_store/test_logging.py test_properties.py"
).split()
"""A quarter of an hour for both runs. test_array_stateful.py takes as long again."""
EXPECTED = {
    "test_sharding_partial_shard_read__index_chunk_slice_fails": "replaces a method of "
    "zarr-python's sharding codec, which has no part in it",
    "TestZipStore::test_api_integration": "wants NotImplementedError for a chunk of fill values "
    "in a store that cannot delete, where ours stores it",
}
"""Tests that fail only with our pipeline, and why that is right."""

INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
faulthandler_timeout = 600
faulthandler_exit_on_timeout = true
strict = true
doctest_optionflags = NORMALIZE_WHITESPACE ELLIPSIS IGNORE_EXCEPTION_DETAIL
markers =
    gpu: needs CuPy
    slow_hypothesis: long
    benchmark: a benchmark
filterwarnings =
    error
    ignore:Unclosed client session <aiohttp.client.ClientSession.*:ResourceWarning
    ignore:Numcodecs codecs are not in the Zarr version 3 specification.*:UserWarning
"""


OWN_TYPES = """

# By tests/plugin/run.py: the tests are about zarr-python's own data types, not about those found by
# entry points, which a loop over all types trips over; in children that tests spawn, too.
from zarr.dtype import data_type_registry

data_type_registry._lazy_load_list.clear()
"""


def unpack(archive: Path) -> None:
    """All tests, under ``.peer/plugin``."""
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    head = f"zarr-{peer.VERSION}/"
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar.getmembers() if m.name.startswith(head + "tests/")]
        for member in wanted:
            member.name = member.name.removeprefix(head)
        tar.extractall(RUN, wanted, filter="data")
    (RUN / "pytest.ini").write_text(INI)
    with (RUN / "tests/__init__.py").open("a") as file:
        file.write(OWN_TYPES)


def run(name: str, pipeline: str | None, arguments: list[str]) -> tuple[dict[str, str], list[dict]]:
    """Outcome by test, and the statistics of every process."""
    environ = dict(os.environ)
    environ.pop("ZARR_CODEC_PIPELINE__PATH", None)
    if pipeline is not None:
        environ["ZARR_CODEC_PIPELINE__PATH"] = pipeline
    print(f"\n== {name}: {pipeline or 'as configured by default'}", flush=True)
    ini = RUN / "pytest.ini"
    return outcomes.run(RUN / f"record-{name}", [], arguments, ini=ini, cwd=RUN, environ=environ)


def report(ours: dict[str, str], default: dict[str, str], statistics: list[dict]) -> bool:
    """Print the tables; True when nothing fails that does not fail by default."""
    print(f"\nzarr-python {peer.VERSION}'s tests with zarr_gpu's codec pipeline, and by default\n")
    outcomes.table(ours, default)
    requests = Counter({k: sum(s[k] for s in statistics) for k in ("reads", "writes")})
    reasons: Counter[str] = Counter()
    for found in statistics:
        reasons.update(found["fallbacks"])
    print(f"\nby zarr_gpu: {requests['reads']} reads, {requests['writes']} writes")
    print(f"left to zarr-python's own pipeline: {reasons.total()}, because of")
    for reason, n in reasons.most_common(15):
        print(f"{n:8}  {reason[:110]}")
    return outcomes.compare(ours, default, EXPECTED) and requests["reads"] > 0


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 12):
        raise SystemExit(f"zarr {peer.VERSION} and its tests need Python 3.12 or newer")
    found = importlib.metadata.version("zarr")
    if found != peer.VERSION:
        raise SystemExit(f"needs zarr {peer.VERSION}, found {found}")
    at = arguments.index("--") if "--" in arguments else len(arguments)
    modules, rest = arguments[:at] or MODULES, arguments[at + 1 :]
    unpack(peer.fetch())
    given = [*(f"tests/{module}" for module in modules), *rest]
    ours, statistics = run("zarr_gpu", PATH, given)
    default, _ = run("default", None, given)
    return 0 if report(ours, default, statistics) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
