"""Pictures: what is drawn is what is stored."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zarr_gpu
from zarr_gpu.cli.plotting import braille, chosen, image, sampled, shades
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import CountingStore

VALUES = np.arange(48.0).reshape(6, 8)


def test_png(survey, run, tmp_path):
    import matplotlib.image

    for select in ("...", "3", ":,4"):
        assert (
            run("plot", "survey.zarr/depth", "-o", "a.png", "-s", select, "--cmap", "grey")[0] == 0
        )
        picture = matplotlib.image.imread(tmp_path / "a.png")
        assert picture.shape[2] == 4
        assert picture.std() > 0.05
        (tmp_path / "a.png").unlink()
    assert run("plot", "survey.zarr/depth", "-o", "a.png", "--line")[0] == 0


def test_png_without_matplotlib_names_the_extra(survey, run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    status, _, err = run("plot", "survey.zarr/depth", "-o", "a.png")
    assert status == 6
    assert "zarr-gpu[plot]" in err


def test_terminal_without_colours(survey, run, monkeypatch):
    status, out, err = run("plot", "survey.zarr/depth", "--width", 40, "--height", 10)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("survey.zarr/depth int16 60x40, one of [3, 1]: ")
    assert len(lines) == 11
    assert "\x1b" not in out
    assert lines[1].strip() == ""  # small values
    assert "█" in lines[7]  # the last stored rows; -1 is missing below
    assert lines[9].strip() == ""


def test_a_line_on_the_terminal(survey, run):
    out = run("plot", "survey.zarr/depth", "-s", ":40,0", "--width", 30, "--height", 4)[1]
    lines = out.splitlines()[1:]
    assert len(lines) == 4
    assert lines[0].startswith("1560 ")
    assert lines[3].split()[0] == "0"
    dots = [[c not in "\u2800 " for c in line[5:]] for line in lines]
    assert dots[0][-1]  # from the lower left to the upper right
    assert dots[3][0]
    assert not dots[0][0]
    assert not dots[3][-1]


def test_colours_are_those_of_the_values():
    text = image(np.array([[0.0, 1.0], [1.0, np.nan]]), 0, 1, ((0, 0, 0), (200, 100, 50)))
    cells = re.findall(r"38;2;(\d+;\d+;\d+)m\x1b\[48;2;(\d+;\d+;\d+)m▀", text)
    assert cells == [("0;0;0", "200;100;50"), ("200;100;50", "90;0;0")]
    assert image(np.zeros((3, 2)), 0, 1).count("▀") == 4


def test_shades_and_missing_values():
    values = np.array([[0.0, 0.5, 1.0, np.nan]] * 2)
    assert shades(values, 0, 1) == " ▒█?"


def test_gaps_in_lines():
    row = np.array([0, 1, np.nan, 1, 0.0])
    text = braille(row[None], 0, 1, 12, 1)
    assert text.count("\u2800") >= 1
    assert braille(np.zeros((1, 0)), 0, 1, 12, 1)


def test_no_color_is_respected(monkeypatch):
    from types import SimpleNamespace

    from zarr_gpu.cli import common

    monkeypatch.setattr(common.sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert common.colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not common.colours()


@pytest.mark.parametrize(
    "selection, expected",
    [
        ((...,), [0, range(4), range(5)]),
        ((2,), [2, range(4), range(5)]),
        ((slice(None), -1), [range(3), 3, range(5)]),
        ((..., 1, slice(1, 3)), [range(3), 1, range(1, 3)]),
    ],
)
def test_axes_that_are_drawn(selection, expected):
    assert chosen(selection, (3, 4, 5)) == expected


@pytest.mark.parametrize("selection", ["0,0,0,0", ":,:,:", "7", "[1,2]"])
def test_what_cannot_be_drawn(survey, run, selection, tmp_path):
    zarr_gpu.create_array(tmp_path / "cube", shape=(3, 4, 5), dtype="f4")
    assert run("plot", tmp_path / "cube", "-s", selection)[0] == 2
    zarr_gpu.create_array(tmp_path / "text", shape=(3,), dtype=str)
    assert run("plot", tmp_path / "text")[0] == 2


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=2),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from(["mean", "min", "max"]),
)
def test_reductions_are_those_of_numpy(shape, lines, columns, how):
    values = np.random.default_rng(0).normal(size=shape)
    values.ravel()[::3] = np.nan
    array = zarr_gpu.create_array({}, data=values, chunks=tuple(max(1, n // 2) for n in shape))
    found, steps = sampled(array, [range(n) for n in shape], (lines, columns), how)
    reduce = {"mean": np.nanmean, "min": np.nanmin, "max": np.nanmax}[how]
    for where in np.ndindex(found.shape):
        part = values[tuple(slice(i * s, (i + 1) * s) for i, s in zip(where, steps, strict=True))]
        if np.isnan(part).all():
            assert np.isnan(found[where])
        else:
            np.testing.assert_allclose(found[where], reduce(part))


def test_huge_arrays_take_few_chunks():
    store = CountingStore(MemoryStore())
    array = zarr_gpu.create_array(
        store, shape=(1 << 20, 1 << 20), chunks=(1 << 10, 1 << 10), dtype="u1"
    )
    store.clear()
    values, _ = sampled(array, [range(1 << 20), range(1 << 20)], (40, 60), None)
    assert values.shape[0] <= 40
    assert values.shape[1] <= 60
    assert len(store.keys_read) <= 2400
