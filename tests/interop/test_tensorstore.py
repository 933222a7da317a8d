"""TensorStore and zarr_gpu take turns at the same files."""

import tempfile

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import zarr_gpu
from tests.interop.arrays import assert_same_bits, grids, random_values, take_turns

tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
pytestmark = pytest.mark.peer

PLAIN = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "float32", "float64", "complex64", "complex128",
]  # fmt: skip
ML = [
    "bfloat16", "float8_e3m4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
    "float8_e5m2", "float8_e5m2fnuz",
]  # fmt: skip
BIG = [">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16"]
CNAMES = ["blosclz", "lz4", "lz4hc", "zlib", "zstd"]


class Opened:
    """A TensorStore array with the methods that ours has."""

    def __init__(self, folder, zarr_format, metadata=None):
        spec = {
            "driver": {2: "zarr", 3: "zarr3"}[zarr_format],
            "kvstore": {"driver": "file", "path": folder},
        }
        if metadata is not None:
            spec["metadata"] = metadata
        self.store = tensorstore.open(spec, create=metadata is not None, open=True).result()

    def __getitem__(self, where):
        return np.asarray(self.store[where].read().result())

    def __setitem__(self, where, values):
        self.store[where].write(values).result()

    def resize(self, shape):
        self.store = self.store.resize(exclusive_max=shape).result()

    def append(self, values):
        length, *rest = self.store.shape
        self.resize((length + len(values), *rest))
        self[length:] = values


@st.composite
def arguments(draw):
    """Arguments of ``zarr_gpu.create_array``."""
    zarr_format = draw(st.sampled_from([2, 3]))
    sharded = zarr_format == 3 and draw(st.booleans())
    shape, chunks, shards = draw(grids(sharded=sharded))
    dtype = draw(st.sampled_from([*PLAIN, *ML, *(BIG if zarr_format == 2 else [])]))
    fills = [0]
    if "float" in dtype and dtype not in ML:
        fills = [0.0, -0.0, 1.5, "NaN", "Infinity", "-Infinity"]
    elif "int" in dtype:
        fills = [0, 7]
    out = {
        "shape": shape,
        "chunks": chunks,
        "dtype": dtype,
        "zarr_format": zarr_format,
        "fill_value": draw(st.sampled_from(fills)),
    }
    cname, clevel = draw(st.sampled_from(CNAMES)), draw(st.sampled_from([0, 1, 5]))
    shuffle, typesize = draw(st.integers(0, 2)), draw(st.sampled_from([1, 2, 4, 8]))
    separator = draw(st.sampled_from("./"))
    if zarr_format == 2:
        out["chunk_key_encoding"] = {"name": "v2", "separator": separator}
        out["order"] = draw(st.sampled_from("CF" if len(shape) > 1 else "C"))
        blosc = {"id": "blosc", "cname": cname, "clevel": clevel, "shuffle": shuffle}
        others = [{"id": name, "level": 1} for name in ("zlib", "gzip", "bz2", "zstd")]
        out["compressors"] = draw(st.sampled_from([None, {**blosc, "blocksize": 0}, *others]))
        return out
    encoding = draw(st.sampled_from(["default", "v2"]))
    out["chunk_key_encoding"] = {"name": encoding, "separator": separator}
    if shards is not None:
        out["shards"] = {
            "shape": shards,
            "index_location": draw(st.sampled_from(["start", "end"])),
        }
    blosc = {
        "cname": cname,
        "clevel": clevel,
        "shuffle": ["noshuffle", "shuffle", "bitshuffle"][shuffle],
        "blocksize": 0,
    }
    if shuffle:
        blosc["typesize"] = typesize
    choices = [
        {"name": "blosc", "configuration": blosc},
        {"name": "gzip", "configuration": {"level": 1}},
        {"name": "zstd", "configuration": {"level": 1}},
        {"name": "crc32c"},
    ]
    out["compressors"] = draw(st.lists(st.sampled_from(choices), max_size=2))
    out["filters"] = []
    if len(shape) > 1 and draw(st.booleans()):
        order = draw(st.permutations(range(len(shape))))
        out["filters"] = [{"name": "transpose", "configuration": {"order": order}}]
    if zarr_gpu.create_array({}, shape=(), dtype=dtype).dtype.itemsize > 1:
        endian = draw(st.sampled_from(["little", "big"]))
        out["serializer"] = {"name": "bytes", "configuration": {"endian": endian}}
    return out


def documents(kwargs):
    """The metadata that zarr_gpu would store, for TensorStore to create from."""
    metadata = zarr_gpu.create_array({}, **kwargs).metadata.to_dict()
    metadata.pop("storage_transformers", None)
    return metadata


@given(arguments(), st.integers(0, 2**32), st.data())
def test_they_take_turns(kwargs, seed, data):
    zarr_format = kwargs["zarr_format"]
    with tempfile.TemporaryDirectory() as folder:
        if data.draw(st.booleans(), label="zarr_gpu creates"):
            zarr_gpu.create_array(folder, **kwargs)
        else:
            Opened(folder, zarr_format, documents(kwargs))
        take_turns(folder, [lambda: Opened(folder, zarr_format)], seed, data)


@pytest.mark.parametrize("shuffle", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["|u1", "<i4", "<f8"])
def test_blosc_with_snappy_is_read(dtype, shuffle, tmp_path):
    pytest.importorskip("cramjam", reason="cramjam, which has snappy, is not installed")
    compressor = {"id": "blosc", "cname": "snappy", "clevel": 5, "shuffle": shuffle, "blocksize": 0}
    metadata = {"shape": [50, 70], "chunks": [32, 32], "dtype": dtype, "compressor": compressor}
    values = random_values(np.random.default_rng(0), dtype, (50, 70))
    values[10:30] = 3
    Opened(str(tmp_path), 2, metadata)[...] = values
    assert_same_bits(zarr_gpu.open_array(tmp_path)[...], values)


@pytest.mark.parametrize("bits", ["0x7fc00001", "0xffc00000", "0x7f800001"])
def test_payload_of_a_nan_fill_value_goes_both_ways(bits, tmp_path):
    expected = np.full((3,), int(bits, 16), "u4")
    kwargs = {"shape": (3,), "dtype": "float32", "fill_value": bits}
    zarr_gpu.create_array(tmp_path / "ours", **kwargs)
    assert Opened(str(tmp_path / "ours"), 3)[...].view("u4").tolist() == expected.tolist()
    Opened(str(tmp_path / "theirs"), 3, documents(kwargs))
    assert zarr_gpu.open_array(tmp_path / "theirs")[...].view("u4").tolist() == expected.tolist()
