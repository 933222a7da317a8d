"""``info``, ``tree``, ``ls`` and ``cat`` on real files."""

import json
import subprocess
import sys

import numpy as np
import pytest

import zarr_gpu


def test_info_says_what_is_stored_and_what_is_missing(survey, run):
    status, out, err = run("info", "survey.zarr/depth", "--device", "cpu")
    assert (status, err) == (0, "")
    assert "60 x 40" in out
    assert "nchunks missing    2" in out
    assert "dimension names    time, x" in out
    assert '@units             "m"' in out
    assert "zstd                   on the host" in out


def test_info_as_json(survey, run):
    found = json.loads(run("info", "survey.zarr/depth", "--json", "--device", "cpu")[1])
    assert found["shape"] == [60, 40]
    assert found["chunks"] == [20, 20]
    assert found["fill_value"] == -1
    assert found["nchunks_stored"] == 4
    assert found["nbytes_stored"] == survey["depth"].nbytes_stored()
    assert [codec["name"] for codec in found["codecs"]] == ["bytes", "zstd"]
    group = json.loads(run("info", "survey.zarr", "--json")[1])
    assert (group["arrays"], group["groups"]) == (2, 1)
    assert group["attributes"] == {"site": "Jacksboro"}


def test_info_of_shards_and_of_format_2(tmp_path, run):
    a = zarr_gpu.create_array(
        tmp_path / "s", shape=(40, 40), chunks=(10, 10), shards=(20, 20), dtype="f4"
    )
    a[:20, :10] = 1
    found = json.loads(run("info", tmp_path / "s", "--json")[1])
    assert found["shards"] == [20, 20]
    assert found["nchunks_stored"] == 2
    zarr_gpu.create_array(tmp_path / "v2", shape=(4,), dtype=">i4", zarr_format=2)
    assert json.loads(run("info", tmp_path / "v2", "--json")[1])["zarr_format"] == 2


def test_tree_and_its_depth(survey, run):
    out = run("tree", "survey.zarr")[1]
    assert out.splitlines() == [
        "/",
        "├── depth (60, 40) int16",
        "└── raw",
        "    └── flags (10,) bool",
    ]
    assert "flags" not in run("tree", "survey.zarr", "--level", 1)[1]
    nested = json.loads(run("tree", "survey.zarr", "--json")[1])
    assert nested["members"]["raw"]["members"]["flags"]["shape"] == [10]
    shallow = json.loads(run("tree", "survey.zarr", "--json", "-L", 1)[1])
    assert "members" not in shallow["members"]["raw"]


def test_ls(survey, run):
    assert run("ls", "survey.zarr")[1].split() == ["depth", "raw/"]
    assert run("ls", "-R", "survey.zarr")[1].split() == ["depth", "raw/", "raw/flags"]
    keys = run("ls", "survey.zarr/depth")[1].split()
    assert keys == ["c/0/0", "c/0/1", "c/1/0", "c/1/1", "zarr.json"]
    assert run("ls", "--keys", "survey.zarr")[1].split() == ["depth/", "raw/", "zarr.json"]
    rows = json.loads(run("ls", "-R", "--keys", "survey.zarr", "--json")[1])
    assert {row["key"] for row in rows} >= {"depth/c/0/0", "raw/flags/zarr.json"}
    assert "60 x 40" in run("ls", "-l", "survey.zarr")[1]


@pytest.mark.parametrize(
    "text, index",
    [
        ("0:10,::2", np.s_[0:10, ::2]),
        ("-1", np.s_[-1]),
        ("-1,:3", np.s_[-1, :3]),
        ("::-7,-5:", np.s_[::-7, -5:]),
        ("...,0", np.s_[..., 0]),
        ("[3,1],:4", np.s_[[3, 1], :4]),
        ("5:5", np.s_[5:5]),
    ],
)
def test_cat_selects_as_numpy_does(survey, run, text, index):
    values = np.asarray(survey["depth"])[index]
    status, out, err = run("cat", "survey.zarr/depth", "-s", text, "-f", "json")
    assert (status, err) == (0, "")
    assert np.array(json.loads(out), "i2").size == values.size
    np.testing.assert_array_equal(np.array(json.loads(out), "i2").reshape(values.shape), values)


def test_cat_prints_every_value(survey, run):
    values = np.asarray(survey["depth"])
    out = run("cat", "survey.zarr/depth")[1]
    assert "..." not in out
    assert np.array_equal(
        np.array(out.replace("[", "").replace("]", "").split(), "i2"), values.ravel()
    )
    csv = run("cat", "survey.zarr/depth", "--format", "csv")[1]
    np.testing.assert_array_equal(np.loadtxt(csv.splitlines(), delimiter=",", dtype="i2"), values)


@pytest.mark.parametrize("kind", ["raw", "npy", "npz"])
def test_cat_into_files(survey, run, tmp_path, kind):
    values = np.asarray(survey["depth"])[::3]
    target = tmp_path / f"out.{kind}"
    assert run("cat", "survey.zarr/depth", "-s", "::3", "-o", target)[0] == 0
    if kind == "raw":
        assert target.read_bytes() == values.tobytes()
    elif kind == "npy":
        np.testing.assert_array_equal(np.load(target), values)
    else:
        np.testing.assert_array_equal(np.load(target)["depth"], values)


@pytest.mark.parametrize("kind", ["text", "csv", "json", "raw"])
@pytest.mark.parametrize("select", ["...", "5:55:7", "::-1", "-3:,::-2"])
def test_cat_in_pieces_is_cat_at_once(survey, run, monkeypatch, kind, select, tmp_path):
    from zarr_gpu.cli import values

    monkeypatch.setattr(values, "ALIGNED", 0)
    texts = []
    for nbytes in (1 << 20, 200):
        monkeypatch.setattr(values, "PIECE_NBYTES", nbytes)
        command = ("cat", "survey.zarr/depth", "-s", select, "-f", kind, "-o", tmp_path / "x")
        assert run(*command)[0] == 0
        texts.append((tmp_path / "x").read_bytes())
    assert texts[0] == texts[1]


def test_cat_of_odd_types(tmp_path, run):
    cases = {
        "scalar": (np.float32(0.1), "0.1\n"),
        "strings": (np.array(["a", "ä b"], "U3"), "['a' 'ä b']\n"),
        "dates": (np.array(["2001-02-03"], "M8[D]"), "['2001-02-03']\n"),
        "big": (np.array([1, 256], ">i4"), "[  1 256]\n"),
        "empty": (np.zeros((0, 3)), "[]\n"),
        "nan": (np.array([np.nan, -0.0, np.inf]), "[nan -0. inf]\n"),
    }
    for name, (value, text) in cases.items():
        with np.errstate(all="ignore"):
            zarr_gpu.create_array(tmp_path / name, data=value)
        assert run("cat", tmp_path / name)[1] == text


def test_cat_by_the_option_of_the_conformance_suite(survey, run):
    assert run("cat", "--array_path=survey.zarr/raw/flags")[:2] == (
        0,
        str(np.arange(10) % 3 == 0) + "\n",
    )
    assert run("cat")[0] == 2


@pytest.mark.parametrize(
    "argv, status, text",
    [
        (("info", "nothing.zarr"), 3, "nothing.zarr: no such file"),
        (("cat", "survey.zarr/none"), 3, "survey.zarr/none"),
        (("cat", "survey.zarr::none"), 3, "no array or group"),
        (("cat", "survey.zarr"), 2, "depth"),
        (("cat", "survey.zarr/depth", "-s", "99"), 2, "out of bounds"),
        (("cat", "survey.zarr/depth", "-s", "a"), 2, "no selection"),
        (("cat", "survey.zarr/depth", "--device", "cuda:77"), 6, "cuda:77"),
        (("ls", "survey.zarr", "--storage-option", "x"), 0, ""),
    ],
)
def test_errors_are_one_line_and_have_a_status(survey, run, argv, status, text):
    found, _, err = run(*argv)
    assert found == status
    assert text in err
    assert err.count("\n") <= 1


def test_a_damaged_chunk_has_another_status(survey, run, tmp_path):
    (tmp_path / "survey.zarr/depth/c/0/0").write_bytes(b"rubbish")
    status, _, err = run("cat", "survey.zarr/depth")
    assert status == 4
    assert "c/0/0" in err


def test_groups_inside_zip_files_and_urls(survey, run):
    assert run("copy", "survey.zarr", "survey.zip")[0] == 0
    for path in ("survey.zip/depth", "survey.zip::depth"):
        assert run("cat", path, "-s", "1,:2")[1] == "[40 41]\n"
    assert run("copy", "survey.zarr", "memory://looking/s.zarr")[0] == 0
    assert run("cat", "memory://looking/s.zarr::raw/flags", "-s", "0")[1] == "True\n"
    assert run("cat", "memory://looking/s.zarr/depth", "-s", "0,3")[1] == "3\n"


def test_reader_that_closes_early_gets_no_traceback(survey):
    command = [sys.executable, "-m", "zarr_gpu", "cat", "survey.zarr/depth", "-f", "csv"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_member_that_cannot_be_opened_is_a_line_on_stderr(survey, tmp_path):
    (tmp_path / "survey.zarr/raw/flags/zarr.json").write_text("{}")
    command = [sys.executable, "-m", "zarr_gpu", "tree", "survey.zarr"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "depth" in done.stdout
    assert done.stderr.startswith("zarr-gpu: warning: member 'flags' is left out")
    assert ".py" not in done.stderr
