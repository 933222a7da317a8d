"""Datasets with one of everything, and the stores that xarray's own engine makes of them."""

import json
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import cftime
import numpy as np
import xarray as xr

DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@contextmanager
def quiet():
    """zarr-python warns of types and documents that are not in the specification of format 3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def numbers():
    rng = np.random.default_rng(0)
    data = {
        f"n_{name}": (("y", "x"), rng.integers(0, 100, (7, 5)).astype(name))
        for name in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
    }
    big = xr.Variable(("y", "x"), rng.random((7, 5)), {}, {"dtype": ">f4", "chunks": (3, 2)})
    return xr.Dataset(
        {
            **data,
            "big_endian": big,
            "flags": ("x", [True, False, True, True, False]),
            "scalar": ((), 3.5, {"unit": "K"}),
            "whole": ((), np.int16(7)),
            "nothing": (("none", "x"), np.empty((0, 5))),
            "gaps": ("x", [1.0, np.nan, 3.0, np.inf, -0.0]),
        },
        coords={
            "x": [10, 20, 30, 40, 50],
            "lat": (("y", "x"), rng.random((7, 5)), {"units": "degrees_north"}),
            "station": 4,
        },
        attrs={"title": "numbers", "hole": np.nan, "n": np.int32(3), "list": np.arange(3)},
    )


def packed():
    values = np.array([[0.5, np.nan, 2.25, -1.0, 7.5]] * 4)
    return xr.Dataset(
        {
            "scaled": (
                ("y", "x"),
                values,
                {},
                {"dtype": "i2", "scale_factor": 0.25, "add_offset": 1.0, "_FillValue": -999},
            ),
            "scaled4": (
                ("y", "x"),
                values.astype("f4"),
                {},
                {"dtype": "i4", "scale_factor": np.float32(0.25), "_FillValue": -1},
            ),
            "filled": (("y", "x"), values.astype("f4"), {}, {"_FillValue": np.float32(1e20)}),
            "masked": (("y", "x"), values.round(), {}, {"dtype": "i4", "_FillValue": -5}),
            "missing": (("y", "x"), values, {}, {"missing_value": -9.0}),
            "unsigned": (
                "x",
                [1.0, 200.0, np.nan, 255.0, 0.0],
                {},
                {"dtype": "i1", "_Unsigned": "true", "_FillValue": np.int8(-2)},
            ),
            "plain": ("x", np.arange(5, dtype="i4"), {}, {"_FillValue": None}),
        }
    )


def times():
    days = np.array(["2000-01-01", "2000-01-02", "2001-03-04", "NaT"], "M8[ns]")
    return xr.Dataset(
        {
            "when": ("t", days),
            "hours": (
                "t",
                days[:3].repeat([2, 1, 1]) + np.arange(4).astype("m8[h]"),
                {},
                {"units": "hours since 1999-12-31", "calendar": "standard", "dtype": "f8"},
            ),
            "long": ("t", np.array([1, 2, 3, 4], "m8[h]").astype("m8[ns]")),
            "noleap": ("t", cftime.num2date([0, 58, 59, 400], "days since 2000-01-01", "noleap")),
            "bounds": (("t", "b"), np.stack([days[[0, 1, 2, 2]]] * 2, 1)),
        },
        coords={"t": np.array(["2000-01-01", "2000-02-01", "2000-03-01", "2000-04-01"], "M8[ns]")},
    )


def texts():
    words = ["a", "bcd", "é€𝄞", ""]
    return xr.Dataset(
        {
            "objects": ("x", np.array(words, object)),
            "fixed": ("x", np.array(words)),
            "data": ("x", np.array([b"a", b"bcd", b"\xff", b""])),
            "one": ((), "word"),
        },
        coords={"x": np.array(["k", "lm", "nö", "op"]), "label": ("x", np.array(list("abcd")))},
        attrs={"text": "ü"},
    )


DATASETS = {"numbers": numbers, "packed": packed, "times": times, "texts": texts}


def sharded():
    rng = np.random.default_rng(1)
    encoding = {"chunks": (4, 3), "shards": (8, 9)}
    return xr.Dataset(
        {"s": (("y", "x"), rng.random((21, 20)).astype("f4"), {}, encoding)},
        coords={"y": np.arange(21), "x": np.arange(20)},
    )


def tree():
    return xr.DataTree.from_dict(
        {
            "/": numbers().drop_vars(["n_f2"]),
            "/a": xr.Dataset({"v": ("k", [1.0, 2.0])}, {"k": [0, 1]}, {"in": "a"}),
            "/a/b": times(),
            "/c": xr.Dataset(attrs={"empty": True}),
        }
    )


def write(dataset, path, zarr_format, **kwargs):
    """By xarray's own engine."""
    with quiet():
        dataset.to_zarr(path, zarr_format=zarr_format, **kwargs)
    return str(path)


def read(path, **kwargs):
    """By xarray's own engine, into memory."""
    with quiet(), xr.open_dataset(path, engine="zarr", **kwargs) as dataset:
        return dataset.load()


def documents(root):
    """All metadata documents, by path; codecs' members that say nothing are left out."""
    root = Path(root)
    found = {}
    for path in sorted(root.rglob("*")):
        if path.name in DOCUMENTS:
            found[path.relative_to(root).as_posix()] = _plain(json.loads(path.read_text()))
    return found


def _plain(value):
    """NaN equals itself."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return "NaN itself" if isinstance(value, float) and value != value else value


def run(code, *blocked):
    """What a Python of its own prints, in which some packages cannot be imported."""
    script = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
