"""zarr-python and zarr_gpu take turns at the same files, made with the same arguments."""

import json
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numcodecs
import numpy as np
import pytest
from hypothesis import assume, given

import zarr_gpu
from tests.interop.arrays import assert_same_bits, grids, random_values, regions, resized

zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
if not hasattr(zarr, "create_array"):
    pytest.skip("needs zarr-python 3.1 or newer", allow_module_level=True)

from zarr.codecs import (  # noqa: E402 - after the check that it is there
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.codecs import numcodecs as zn  # noqa: E402

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

NEWEST = hasattr(zarr.dtype, "Struct")  # 3.2 renamed the data type of structs
INTEGERS = ["i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"]
FLOATS = ["<f2", "<f4", "<f8"]
FIXED = [
    "bool", *INTEGERS, *FLOATS, "<c8", "<c16", "<M8[ns]", "<m8[10s]", "S3", "<U5", "V3",
]  # fmt: skip
BIG = [">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16", ">M8[s]", ">U5"]
STRUCTS = [
    np.dtype([("a", "<i2"), ("b", "<f4")]),
    np.dtype([("a", "u1"), ("n", [("x", "<u8"), ("y", "S3")])]),
]
VARIABLE = [zarr.dtype.VariableLengthUTF8(), zarr.dtype.VariableLengthBytes()]


def codecs_v2():
    blosc = st.builds(
        numcodecs.Blosc,
        st.sampled_from(["blosclz", "lz4", "lz4hc", "zlib", "zstd"]),
        clevel=st.sampled_from([0, 1, 5]),
        shuffle=st.sampled_from([0, 1, 2]),
    )
    n = numcodecs
    plain = [None, n.Zlib(1), n.GZip(1), n.BZ2(1), n.LZMA(preset=1), n.LZ4(), n.Zstd(1)]
    checked = [n.Zstd(1, checksum=True), n.CRC32(), n.CRC32C()]
    return blosc | st.sampled_from([*plain, *checked])


@st.composite
def filters_v2(draw, dtype):
    n, out = numcodecs, []
    if np.dtype(dtype).kind in "iu" and draw(st.booleans()):
        out.append(n.Delta(dtype))
    if draw(st.booleans()):
        out.append(draw(st.sampled_from([n.Shuffle(np.dtype(dtype).itemsize), n.Fletcher32()])))
    return out or None


def compressors_v3():
    blosc = st.builds(
        BloscCodec,
        cname=st.sampled_from(["blosclz", "lz4", "lz4hc", "zlib", "zstd"]),
        clevel=st.sampled_from([0, 1, 5]),
        shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
        typesize=st.sampled_from([1, 2, 4, 8]),
    )
    others = [
        GzipCodec(level=1), ZstdCodec(level=1), ZstdCodec(level=1, checksum=True), Crc32cCodec(),
        zn.LZ4(acceleration=1), zn.Zlib(level=1), zn.BZ2(level=1), zn.Shuffle(elementsize=4),
        zn.Fletcher32(), zn.CRC32(), zn.Adler32(), zn.JenkinsLookup3(initval=3),
    ]  # fmt: skip
    return st.lists(blosc | st.sampled_from(others), max_size=2)


@st.composite
def filters_v3(draw, dtype, ndim):
    out = []
    if ndim > 1 and draw(st.booleans()):
        out.append(TransposeCodec(order=tuple(draw(st.permutations(range(ndim))))))
    if np.dtype(dtype).kind in "iu" and draw(st.integers(0, 3)) == 0:
        out.append(zn.Delta(dtype=np.dtype(dtype).str))
    return out


@st.composite
def fills(draw, dtype):
    kind = dtype.kind if isinstance(dtype, np.dtype) else "T"
    if kind == "b":
        return draw(st.booleans())
    if kind in "iu":
        info = np.iinfo(dtype)
        return draw(st.sampled_from([0, 1, int(info.min), int(info.max)]))
    if kind == "f":
        return draw(st.sampled_from([0.0, -0.0, 1.5, np.nan, np.inf, -np.inf]))
    if kind == "c":
        return draw(st.sampled_from([0j, 1 + 2j, complex(np.nan, -0.0), complex(-np.inf, 1)]))
    if kind in "mM":
        return draw(st.sampled_from([np.array(7, "i8"), np.array(0, "i8")])).view(dtype)[()]
    return None


@st.composite
def arguments(draw, variable=True):
    """Arguments of ``create_array`` that both libraries take as they are."""
    zarr_format = draw(st.sampled_from([2, 3]))
    sharded = zarr_format == 3 and draw(st.booleans())
    shape, chunks, shards = draw(grids(sharded=sharded))
    if not (shape or NEWEST):
        shards = None  # 3.1 cannot write 0-d shards
    kinds = [FIXED, STRUCTS if NEWEST or zarr_format == 2 else []]
    kinds += [BIG] if zarr_format == 2 else []
    kinds += [VARIABLE] if variable else []
    dtype = draw(st.sampled_from([dt for kind in kinds for dt in kind]))
    dtype = np.dtype(dtype) if isinstance(dtype, (str, np.dtype)) else dtype
    fixed = isinstance(dtype, np.dtype)
    out = {"shape": shape, "chunks": chunks, "dtype": dtype, "zarr_format": zarr_format}
    fill = draw(fills(dtype))
    if fill is not None:
        out["fill_value"] = fill
    out["attributes"] = draw(st.sampled_from([{}, {"a": [1, {"b": None}], "ü": "数"}]))
    if zarr_format == 2:
        separator = draw(st.sampled_from("./"))
        out["chunk_key_encoding"] = {"name": "v2", "separator": separator}
        out["order"] = draw(st.sampled_from("CF"))
        out["compressors"] = draw(codecs_v2())
        if fixed:
            out["filters"] = draw(filters_v2(dtype))
        return out
    if shards is not None:
        location = draw(st.sampled_from(["start", "end"]))
        out["shards"] = {"shape": shards, "index_location": location}
    name, separator = draw(st.sampled_from(["default", "v2"])), draw(st.sampled_from("./"))
    out["chunk_key_encoding"] = {"name": name, "separator": separator}
    out["compressors"] = draw(compressors_v3())
    if fixed:
        out["filters"] = draw(filters_v3(dtype, len(shape)))
        if dtype.kind in "iufcmMU" and dtype.itemsize > 1:
            endian = draw(st.sampled_from(["little", "big"]))
            if NEWEST or not any(isinstance(f, zn.Delta) for f in out["filters"]):
                out["serializer"] = BytesCodec(endian=endian)  # 3.1 takes big for little there
    if shape and draw(st.booleans()):
        names = st.lists(
            st.sampled_from([None, "x", "y"]), min_size=len(shape), max_size=len(shape)
        )
        out["dimension_names"] = draw(names)
    return out


def documents(folder):
    paths = [p for p in Path(folder).rglob("*") if p.name in ("zarr.json", ".zarray", ".zattrs")]
    return {p.name: json.loads(p.read_text()) for p in paths}


def same_json(found, expected):
    """Text, because NaN is not equal to itself."""
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


@given(arguments())
def test_the_same_arguments_make_the_same_documents(kwargs):
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        zarr.create_array(theirs, **kwargs)
        zarr_gpu.create_array(ours, **kwargs)
        same_json(documents(ours), documents(theirs))


def opened(folder):
    """The array as both libraries see it now."""
    return zarr_gpu.open_array(folder, mode="r+"), zarr.open_array(folder, mode="r+")


def check(folder, model):
    for array in opened(folder):
        assert_same_bits(array[...], model)


@given(arguments(), st.integers(0, 2**32), st.data())
def test_they_take_turns(kwargs, seed, data):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        first = data.draw(st.sampled_from([zarr_gpu, zarr]), label="creates")
        first.create_array(folder, **kwargs)
        ours, theirs = opened(folder)
        fill = ours.fill_value
        model = np.empty(kwargs["shape"], ours.dtype)
        model[...] = fill
        check(folder, model)
        # zarr-python takes chunks of any NaN for empty where the fill value is NaN
        payloads = not (model.dtype.kind in "fc" and np.isnan(fill))
        for _ in range(data.draw(st.integers(1, 4), label="steps")):
            array = data.draw(st.sampled_from(opened(folder)), label="acts")
            action = data.draw(st.sampled_from(["write", "write", "fill", "resize", "append"]))
            if action in ("write", "fill"):
                where = data.draw(regions(model.shape))
                shape = model[where].shape
                values = random_values(rng, model.dtype, shape, payloads=payloads)
                if action == "fill":
                    values[...] = fill
                array[where] = values
                model[where] = values
            elif action == "append" and model.ndim:
                shape = (data.draw(st.integers(0, 4)), *model.shape[1:])
                values = random_values(rng, model.dtype, shape, payloads=payloads)
                array.append(values)
                model = np.concatenate([model, values])
            elif action == "resize":
                grows = not isinstance(array, zarr_gpu.Array)  # they keep what they cut off
                shape = tuple(data.draw(st.integers(n if grows else 0, 14)) for n in model.shape)
                array.resize(shape)
                model = resized(model, shape, fill)
            check(folder, model)


@given(arguments(variable=False), st.integers(0, 2**32), st.data())
def test_they_select_the_same(kwargs, seed, data):
    assume(kwargs["shape"] and 0 not in kwargs["shape"])
    with tempfile.TemporaryDirectory() as folder:
        theirs = zarr.create_array(folder, **kwargs)
        values = random_values(
            np.random.default_rng(seed), theirs.dtype, theirs.shape, payloads=False
        )
        theirs[...] = values
        ours = zarr_gpu.open_array(folder, mode="r")
        where = data.draw(regions(values.shape))
        assert_same_bits(ours[where], theirs[where])
        each = [st.lists(st.integers(-n, n - 1), min_size=1, max_size=5) for n in values.shape]
        axes = tuple(data.draw(axis) for axis in each)
        assert_same_bits(ours.oindex[axes], theirs.oindex[axes])
        count = min(len(axis) for axis in axes)
        points = tuple(axis[:count] for axis in axes)
        assert_same_bits(ours.vindex[points], theirs.vindex[points])
        mask = np.random.default_rng(seed).integers(2, size=values.shape).astype(bool)
        assert_same_bits(ours.vindex[mask], theirs.vindex[mask])
        if "shards" in kwargs:
            return  # blocks are shards there, chunks here
        blocks = tuple(data.draw(st.integers(0, n - 1)) for n in theirs.cdata_shape)
        assert_same_bits(ours.blocks[blocks], theirs.blocks[blocks])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", [*FIXED, *VARIABLE], ids=str)
def test_defaults_are_the_same(zarr_format, dtype, tmp_path):
    for name, library in (("theirs", zarr), ("ours", zarr_gpu)):
        library.create_array(
            tmp_path / name, shape=(300, 500), dtype=dtype, zarr_format=zarr_format
        )
    same_json(documents(tmp_path / "ours"), documents(tmp_path / "theirs"))


@given(st.lists(st.integers(0, 5000), max_size=4), st.sampled_from(["u1", "<i4", "<c16"]))
def test_automatic_chunks_are_the_same(shape, dtype):
    theirs = zarr.create_array({}, shape=shape, dtype=dtype)
    ours = zarr_gpu.create_array({}, shape=shape, dtype=dtype)
    assert ours.chunks == theirs.chunks


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=3), st.data())
def test_automatic_shards_are_the_same(shape, data):
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    assume(np.prod([-(-n // c) for n, c in zip(shape, chunks, strict=True)]) < 10_000)
    common = {"shape": shape, "dtype": "u1", "chunks": chunks, "shards": "auto"}
    theirs = zarr.create_array({}, **common)
    assert zarr_gpu.create_array({}, **common).shards == theirs.shards


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups_and_consolidated_metadata(zarr_format, tmp_path):
    for name, library in (("theirs", zarr), ("ours", zarr_gpu)):
        group = library.create_group(
            tmp_path / name, zarr_format=zarr_format, attributes={"a": float("nan")}
        )
        group.create_group("x/y", attributes={"deep": True})
        group.create_array("x/z", shape=(3,), chunks=(2,), dtype="<i4", compressors=None)[...] = 5
        library.consolidate_metadata(tmp_path / name)
    for reader in (zarr, zarr_gpu):
        for writer in ("theirs", "ours"):
            group = reader.open_group(tmp_path / writer, mode="r", use_consolidated=True)
            assert group["x/y"].attrs["deep"] is True
            assert np.asarray(group["x/z"][...]).tolist() == [5, 5, 5]
            assert {path for path, _ in group.members(max_depth=None)} == {"x", "x/y", "x/z"}
    files = {
        name: {str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*")}
        for name in ("ours", "theirs")
    }
    assert {path for path in files["ours"] if "zg-lock" not in path} == files["theirs"]
