"""The comparison with other engines: its table of rows, its loop in C, and a small run."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

import zarr_gpu
from benchmarks.peers import __main__ as peers
from benchmarks.peers import loop, machine, report, rows, sources
from benchmarks.peers.actions import ACTIONS
from benchmarks.peers.child import ENGINES

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


# -- the table ---------------------------------------------------------------------------------


def test_every_row_has_a_name_an_action_and_a_goal():
    names = [row.name for row in rows.ROWS]
    assert len(set(names)) == len(names)
    assert {row.action for row in rows.ROWS} == set(ACTIONS)
    assert all(row.goal is not None and 0 < row.goal <= 1 for row in rows.ROWS)


def test_different_data_sets_have_different_files():
    datasets = {row.dataset for row in rows.ROWS}
    assert len({dataset.name for dataset in datasets}) == len(datasets)


@pytest.mark.parametrize("scale", ["full", "quick"])
def test_chunks_and_shards_divide_what_they_cut(scale):
    for row in rows.ROWS:
        if row.dataset.members or row.action == "append":
            continue
        outer = row.dataset.shard_shape(scale) or row.dataset.chunk_shape(scale)
        assert list(loop.indices(row.dataset.shape(scale), outer)), row.name
        assert list(loop.indices(outer, row.dataset.chunk_shape(scale))), row.name


def test_rows_are_selected_by_globs():
    names = [row.name for row in rows.select_rows("read.*.4K,mask*")]
    assert names == ["read.none.4K", "read.zstd.4K", "mask.zstd.64K"]
    assert not rows.select_rows("nothing")


def test_a_source_is_the_same_in_every_run(tmp_path):
    one, two = (sources.make_source(tmp_path / name, "tiny", "quick") for name in "ab")
    values = sources.load_source(one)
    assert (values.shape, values.dtype) == ((800, 800), np.dtype("f4"))
    assert sources.same_bits(values, sources.load_source(two))
    other = np.array(values)
    other.view("u4")[-1, -1] ^= 1
    assert not sources.same_bits(values, other)


# -- the loop in C -----------------------------------------------------------------------------

LAYOUTS = {
    "tiles": ((60, 40), (20, 10), None),
    "slabs": ((60, 40), (20, 40), None),
    "wide tiles": ((1024, 256), (1024, 128), None),  # read in pieces when not compressed
    "three axes": ((12, 10, 8), (4, 5, 2), None),
    "rows of planes": ((12, 10, 8), (4, 5, 8), None),
    "shards": ((60, 40), (10, 10), (20, 20)),
}


@pytest.fixture(scope="module")
def c_loop():
    return loop.Loop(2)


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", rows.CODECS)
def test_the_loop_reads_what_was_written(tmp_path, c_loop, codec, layout):
    shape, chunks, shards = LAYOUTS[layout]
    values = np.random.default_rng(1).integers(0, 99, shape).astype("f4")
    dataset = rows.Dataset(source="field", codec=codec, chunks=chunks)
    array = zarr_gpu.create_array(
        str(tmp_path), shape=shape, chunks=chunks, shards=shards, dtype="f4",
        compressors=dataset.compressor(),
    )  # fmt: skip
    array[...] = values
    opened = c_loop.open(str(tmp_path))
    assert sources.same_bits(c_loop.read(opened, ...), values)


@needs_compiler
@pytest.mark.parametrize("codec", rows.CODECS)
def test_the_loop_says_when_a_chunk_is_too_short(tmp_path, c_loop, codec):
    compressor = rows.Dataset(source="field", codec=codec, chunks=()).compressor()
    array = zarr_gpu.create_array(
        str(tmp_path), shape=(60, 40), chunks=(20, 10), dtype="f4", compressors=compressor
    )
    array[...] = np.random.default_rng(1).random((60, 40))
    chunk = tmp_path / "c" / "2" / "3"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(OSError, match="could not read"):
        c_loop.read(c_loop.open(str(tmp_path)), ...)


@needs_compiler
def test_the_loop_is_left_out_where_it_cannot_be_compiled(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ImportError, match="no C compiler"):
        loop.Loop(2)


# -- ratios ------------------------------------------------------------------------------------


def test_ratios_are_to_the_best_engine_of_each_kind():
    (row,) = rows.select_rows("read.zstd.1M")
    seconds = {"zarr_gpu": 4, "zarrs": 8, "tensorstore": 5, "h5py": 2, "c-loop": 3}
    cells = {name: report.Cell(wall=[s / 2, s, s, s + 9]) for name, s in seconds.items()}
    cells["zarrs"].wall.append(1)
    found = report.verdict(row, cells)
    assert (found["best_zarr"], found["best_any"]) == ("tensorstore", "h5py")
    assert (found["ratio_zarr"], found["ratio_any"]) == (0.8, 2)
    assert found["ratio_zarr_of_best_runs"] == 2
    assert (found["met_zarr"], found["met_any"], found["met_loop"]) == (True, False, False)


def test_rows_of_single_objects_are_not_compared_with_formats_of_one_file():
    (row,) = rows.select_rows("read.none.4K")
    cells = {
        name: report.Cell(wall=[s]) for name, s in {"zarr_gpu": 4, "zarrs": 8, "h5py": 2}.items()
    }
    assert report.verdict(row, cells)["best_any"] == "zarrs"


def test_time_of_an_import_is_that_of_all_it_imports():
    text = "import time: self [us] | cumulative | imported package\n"
    text += "import time:       311 |        311 |   numpy.core\n"
    text += "import time:       100 |       2500 | numpy\n"
    assert machine.cumulative(text, "numpy") == 0.0025


# -- small runs --------------------------------------------------------------------------------


def test_engines_agree_and_a_table_comes_out(tmp_path, monkeypatch, capsys):
    others = [name for name, package in (("tensorstore", "tensorstore"), ("zarr-python", "zarr"))
              if importlib.util.find_spec(package)]  # fmt: skip
    if not others:
        pytest.skip("neither tensorstore nor zarr is installed")
    engines = ["zarr_gpu", others[0]]
    monkeypatch.setattr(peers, "RESULTS", tmp_path / "results")
    arguments = ["--quick", "--rows", "read.rand.zstd.1M,write.none.1M", "--repeats", "2", "--save"]
    status = peers.main([*arguments, "--engines", ",".join(engines), "--data", str(tmp_path)])
    assert status == 0, capsys.readouterr()
    (path,) = (tmp_path / "results").glob("*.json")
    found = json.loads(path.read_text())
    assert list(found["rows"]) == ["read.rand.zstd.1M", "write.none.1M"]
    for row in found["rows"].values():
        assert row["ratio_zarr"] > 0
        assert [len(row["engines"][name]["wall"]) >= 1 for name in engines] == [True, True]
    assert "| read.rand.zstd.1M |" in path.with_suffix(".md").read_text()
    assert not list(tmp_path.glob("quick/written-*/*"))


def test_a_wrong_result_is_not_timed_and_fails_the_run(tmp_path, capsys):
    (row,) = rows.select_rows("read.rand.zstd.1M")
    path = tmp_path / "quick" / "zarr" / f"{row.dataset.name}.zarr"
    zarr_gpu.create_array(str(path), shape=(2048, 2048), chunks=(512, 512), dtype="u4")
    arguments = ["--quick", "--rows", row.name, "--repeats", "1", "--data", str(tmp_path)]
    assert peers.main([*arguments, "--engines", "zarr_gpu"]) == 1
    assert "**FAILED**: other values than were stored" in capsys.readouterr().out


def test_unknown_names_are_refused():
    for arguments in (["--engines", "nobody"], ["--rows", "nothing"]):
        with pytest.raises(SystemExit):
            peers.parse(arguments)
    assert peers.parse([]).engines == list(ENGINES)
