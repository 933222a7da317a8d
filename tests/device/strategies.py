"""Random arrays, selections and emulated devices, as strategies of hypothesis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numcodecs
import numpy as np
from hypothesis import assume

import zarr_gpu
from tests.test_plan import basic_items, index_arrays
from zarr_gpu.errors import ZarrGpuError
from zarr_gpu.stores.memory import MemoryStore

MAX_ELEMENTS = 1500
"""Of an array: kernels run at 1 to 2 MB/s on a CPU."""


# -- arrays ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """Arguments of ``create_array``, and what to store."""

    arguments: dict[str, Any]
    data: Any
    regions: list[Any] = field(default_factory=list)
    """Parts that are written; the rest is missing."""

    def create(self, **more):
        try:
            return zarr_gpu.create_array(MemoryStore(), **{**self.arguments, **more})
        except (ZarrGpuError, ValueError, TypeError):
            assume(False)  # codecs that do not fit together

    def stored(self):
        """The array, written by the host."""
        array = self.create()
        try:
            for region in self.regions:
                array[region] = self.data[region]
            array[...]
        except (ZarrGpuError, ValueError):  # say, values that a codec cannot hold
            assume(False)
        return array


def codec(name, **configuration):
    return {"name": name, "configuration": configuration} if configuration else {"name": name}


CHECKSUMS = [
    codec("crc32c"),
    codec("numcodecs.crc32"),
    codec("numcodecs.crc32", location="end"),
    codec("numcodecs.adler32"),
    codec("numcodecs.adler32", location="end"),
    codec("numcodecs.fletcher32"),
    codec("numcodecs.crc32c", location="start"),
]
COMPRESSORS = [
    codec("zstd"),
    codec("zstd", level=3, checksum=True),
    codec("gzip", level=1),
    codec("numcodecs.zlib"),
    codec("numcodecs.lz4"),
    codec("zarrs.gdeflate"),
    codec("numcodecs.bz2"),
]


@st.composite
def bloscs(draw):
    return codec(
        "blosc",
        cname=draw(st.sampled_from(["lz4", "lz4hc", "blosclz", "zlib", "zstd"])),
        clevel=draw(st.sampled_from([0, 1, 5, 9])),
        shuffle=draw(st.sampled_from(["noshuffle", "shuffle", "bitshuffle"])),
        typesize=draw(st.sampled_from([1, 2, 3, 4, 8, 16])),
        blocksize=draw(st.sampled_from([0, 0, 128, 256, 600, 4096])),
    )


@st.composite
def bytes_codecs(draw):
    """Checksums and shuffles around a compressor, as a rule."""
    before = draw(st.lists(st.sampled_from(CHECKSUMS), max_size=2))
    if draw(st.integers(0, 3)) == 0:
        size = draw(st.sampled_from([1, 2, 3, 4, 8]))
        before.insert(0, codec("numcodecs.shuffle", elementsize=size))
    middle = draw(st.sampled_from([0, 1, 1, 2, 2]))
    inside = [draw(st.sampled_from(COMPRESSORS) if middle == 1 else bloscs())] if middle else []
    after = draw(st.lists(st.sampled_from(CHECKSUMS), max_size=2))
    return [*before, *inside, *after]


def one_of(name, **choices):
    """A codec whose members are drawn from lists."""
    members = {key: st.sampled_from(values) for key, values in choices.items()}
    return st.fixed_dictionaries(members).map(lambda found: codec(name, **found))


FILTERS = [
    ("iufcb", lambda dtype, n: st.permutations(range(n)).map(transpose)),
    ("iufcb", lambda dtype, n: st.permutations(range(n)).map(transpose)),
    ("iufcb", lambda dtype, n: one_of("reshape", shape=[[-1]])),
    ("iu", lambda dtype, n: one_of("numcodecs.delta", dtype=[dtype.name])),
    ("iuf", lambda dtype, n: one_of("scale_offset", offset=[0, 3], scale=[1, 2])),
    ("iuf", lambda dtype, n: one_of("cast_value", data_type=NUMBERS, out_of_range=["clamp"])),
    ("iu", lambda dtype, n: one_of("cast_value", data_type=NUMBERS[:3], out_of_range=["wrap"])),
    ("iuf", lambda dtype, n: one_of("numcodecs.astype", encode_dtype=NUMBERS)),
    (
        "iuf",
        lambda dtype, n: one_of(
            "numcodecs.fixedscaleoffset",
            offset=[-10], scale=[4], dtype=[dtype.str], astype=["<i2", "<i4", ">i2", "<u1"],
        ),
    ),
    ("f", lambda dtype, n: one_of("numcodecs.quantize", digits=[2], dtype=[dtype.str])),
    ("f", lambda dtype, n: one_of("numcodecs.bitround", keepbits=[2, 7])),
    ("b", lambda dtype, n: one_of("numcodecs.packbits")),
]  # fmt: skip
NUMBERS = ["int16", "int64", "uint8", "float32", "float64"]


def transpose(order):
    return codec("transpose", order=list(order))


@st.composite
def array_filters(draw, dtype, ndim):
    """Codecs for arrays; not all of them fit each other."""
    makers = [make for kinds, make in FILTERS if dtype.kind in kinds]
    count = draw(st.sampled_from([0, 0, 1, 1, 2]))
    return [draw(draw(st.sampled_from(makers))(dtype, ndim)) for _ in range(count)]


V2_FILTERS = [
    ("iuf", lambda dtype: numcodecs.Delta(dtype.str)),
    ("iu", lambda dtype: numcodecs.Delta(dtype.str, astype="<i2")),
    ("iuf", lambda dtype: numcodecs.FixedScaleOffset(1, 8, dtype.str, astype=">i4")),
    ("iuf", lambda dtype: numcodecs.AsType(encode_dtype="<i4", decode_dtype=dtype.str)),
    ("iufcb", lambda dtype: numcodecs.Shuffle(dtype.itemsize)),
    ("iufcb", lambda dtype: numcodecs.Shuffle(3)),
    ("iufcb", lambda dtype: numcodecs.CRC32()),
    ("iufcb", lambda dtype: numcodecs.Adler32(location="end")),
    ("f", lambda dtype: numcodecs.BitRound(5)),
    ("b", lambda dtype: numcodecs.PackBits()),
    ("f", lambda dtype: numcodecs.Quantize(2, dtype.str)),
]
V2_COMPRESSORS = [
    None,
    numcodecs.Zstd(),
    numcodecs.GZip(1),
    numcodecs.Zlib(),
    numcodecs.LZ4(),
    numcodecs.Blosc("lz4"),
    numcodecs.Blosc("zstd", shuffle=2),
    numcodecs.Blosc("blosclz", shuffle=0),
    numcodecs.BZ2(),
]
TYPES = [
    "u1",
    "i1",
    "?",
    "<i2",
    "<u2",
    "<i4",
    "<u4",
    "<i8",
    "<u8",
    "<f2",
    "<f4",
    "<f8",
    "<c8",
    "<c16",
]


@st.composite
def shapes(draw):
    ndim = draw(st.sampled_from([0, 1, 1, 2, 2, 2, 3, 4]))
    shape = []
    room = MAX_ELEMENTS
    for _ in range(ndim):
        n = draw(st.integers(0, min(40, room)))
        shape.append(n)
        room //= max(1, n)
    return tuple(shape)


@st.composite
def chunkings(draw, shape, zarr_format):
    """Arguments that cut an array of ``shape``, with a bounded number of chunks."""
    sides = []
    chunks = 1
    for n in shape:
        least = max(1, -(-n * chunks // 60))
        side = draw(st.integers(least, max(least, n + 3)))
        sides.append(side)
        chunks *= max(1, -(-n // side))
    if zarr_format == 2 or not shape:
        return {"chunks": tuple(sides)}
    match draw(st.sampled_from(["regular", "regular", "rectilinear", "shards", "nested"])):
        case "rectilinear":
            edges = []
            for n, side in zip(shape, sides, strict=True):
                cuts = []
                while sum(cuts) < n or not cuts:
                    cuts.append(draw(st.integers(max(1, side // 2), side)))
                edges.append(tuple(cuts) if draw(st.booleans()) else side)
            return {"chunks": tuple(edges)}
        case "shards":
            return {"chunks": tuple(sides), "shards": factor(draw, sides)}
        case "nested":
            inner = factor(draw, sides)
            return {"nested": (tuple(sides), inner), "chunks": factor(draw, inner)}
    return {"chunks": tuple(sides)}


def factor(draw, sides):
    return tuple(side * draw(st.integers(1, 3)) for side in sides)


def nested(sides, serializer, codecs):
    """Shards inside shards, the indexes at different ends."""
    index = [codec("bytes", endian="little"), codec("crc32c")]
    inside = [serializer, *codecs]
    for side, location in zip(sides, ("start", "end"), strict=True):
        members = {"chunk_shape": list(side), "codecs": inside, "index_codecs": index}
        inside = [codec("sharding_indexed", **members, index_location=location)]
    return inside[0]


@st.composite
def arrays(draw, zarr_format, *, filters=True, types=TYPES):
    dtype = np.dtype(draw(st.sampled_from(types)))
    shape = draw(shapes())
    arguments = {"shape": shape, "zarr_format": zarr_format}
    cut = draw(chunkings(shape, zarr_format))
    fill = draw(st.sampled_from([0, 1, 7]))
    arguments["fill_value"] = dtype.type(fill)
    if zarr_format == 2:
        dtype = dtype.newbyteorder(draw(st.sampled_from("<>"))) if dtype.itemsize > 1 else dtype
        makers = [make for kinds, make in V2_FILTERS if filters and dtype.kind in kinds]
        makers = draw(st.lists(st.sampled_from(makers), max_size=2)) if makers else []
        arguments["filters"] = [make(dtype) for make in makers] or None
        arguments["compressors"] = draw(st.sampled_from(V2_COMPRESSORS))
        arguments["order"] = draw(st.sampled_from("CF"))
        arguments["fill_value"] = draw(st.sampled_from([dtype.type(fill), None]))
    else:
        endian = draw(st.sampled_from(["little", "little", "big"]))
        serializer = codec("bytes", endian=endian) if dtype.itemsize > 1 else codec("bytes")
        codecs = draw(bytes_codecs())
        before = draw(array_filters(dtype, len(shape))) if filters else []
        if "nested" in cut:
            serializer = nested(cut.pop("nested"), serializer, [*codecs])
            before, codecs = [], []
        arguments |= {"filters": before, "serializer": serializer, "compressors": codecs or None}
    arguments["dtype"] = dtype
    data = values(draw(st.integers(0, 99)), dtype, shape)
    regions = [draw(parts(shape)) for _ in range(draw(st.sampled_from([1, 1, 2])))]
    if draw(st.booleans()):
        regions = [...]
    return Made({**arguments, **cut}, data, regions)


def values(seed, dtype, shape):
    rng = np.random.default_rng(seed)
    if seed % 4 == 0 and dtype.kind != "b":  # any bits
        return np.frombuffer(rng.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
    numbers = np.cumsum(rng.integers(-1, 3, math.prod(shape))).reshape(shape) % 50
    return (numbers if dtype.kind != "b" else numbers % 3 == 0).astype(dtype)


@st.composite
def parts(draw, shape):
    out = []
    for n in shape:
        start = draw(st.integers(0, n))
        out.append(slice(start, draw(st.integers(start, n))))
    return tuple(out)


# -- selections -----------------------------------------------------------------------------------


@st.composite
def selections(draw, array):
    """``read(array, out=None)`` for a random selection, and what it is."""
    shape = array.shape
    kinds = ["basic", "basic", "all", "orthogonal", "mask"]
    kinds += ["coordinate"] * bool(shape and math.prod(shape)) + ["block"] * bool(shape)
    kind = draw(st.sampled_from(kinds))
    where: Any = ...
    match kind:
        case "basic":
            where = [draw(basic_items(n)) for n in shape]
            if draw(st.booleans()):
                cut = draw(st.integers(0, len(where)))
                where[cut:] = [..., *where[len(where) - draw(st.integers(0, len(where) - cut)) :]]
            where = tuple(where)
        case "orthogonal":
            where = tuple(
                draw(index_arrays(n)) if draw(st.booleans()) else draw(basic_items(n))
                for n in shape
            )
        case "coordinate":
            count = draw(st.sampled_from([(0,), (1,), (5,), (2, 3), (3, 1, 2), ()]))
            rng = np.random.default_rng(draw(st.integers(0, 99)))
            where = tuple(rng.integers(-n, n, count) for n in shape)
        case "mask":
            rng = np.random.default_rng(draw(st.integers(0, 99)))
            where = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
            where = np.asarray(where)
        case "block":
            counts = [axis.count for axis in array._chunk_axes]
            where = tuple(
                draw(st.integers(0, n - 1)) if n and draw(st.booleans()) else slice(0, n // 2 + 1)
                for n in counts
            )
    return kind, where


def read(array, kind, where, **more):
    match kind:
        case "orthogonal":
            return array.get_orthogonal_selection(where, **more)
        case "coordinate":
            return array.get_coordinate_selection(where, **more)
        case "mask":
            return array.get_mask_selection(where, **more)
        case "block":
            return array.get_block_selection(where, **more)
    return array.get_basic_selection(where, **more)


@st.composite
def machines(draw):
    """Options of the emulated device, and how many waves are in flight."""
    sizes = {
        "gpu.wave_nbytes": draw(st.sampled_from([0, 1, 200, 3000])),
        "gpu.slab_nbytes": draw(st.sampled_from([1 << 20, 64, 1000, 5000])),
        "gpu.trust": draw(st.sampled_from(["yes", "yes", "yes", "no"])),
        "gpu.min_nbytes": draw(st.sampled_from([0, 0, 0, 1 << 20])),
    }
    return draw(st.integers(1, 4)), {"seed": draw(st.integers(0, 1 << 16)), "settings": sizes}
