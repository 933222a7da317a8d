# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "zarr==3.4.2", "zarrs==0.2.3", "tensorstore==0.1.86", "numcodecs==0.17.1", "numpy==2.5.5",
#     "ml_dtypes==0.6.0", "pcodec==1.1.0", "zfpy==1.0.1", "msgpack", "cast-value-rs",
# ]
# ///
"""Writes the golden arrays: ``python generate.py`` makes one zip file for every writer.

Run it again only to add arrays, with the versions named above; nothing but the time stamps of gzip
streams changes then.
"""

import json
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path

import numcodecs
import numcodecs.zfpy  # is not registered by itself
import numpy as np
import tensorstore
import zarr
import zarr.codecs.numcodecs as zn
from cases import CHUNKS, SHAPE, SMALL, SMALL_CHUNKS, VALUES, WRITERS
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.registry import register_codec

warnings.simplefilter("ignore")
HERE = Path(__file__).parent
ROOT = Path(tempfile.mkdtemp())
written = set()


def chunks_of(values):
    if values.size > 10_000:
        return values.shape
    if values.shape == SHAPE:
        return CHUNKS
    if values.shape == SMALL:
        return SMALL_CHUNKS
    return tuple(max(1, -(-n // 2)) for n in values.shape)


def place(name):
    written.add(name)
    return ROOT / name


# -- zarr-python -----------------------------------------------------------------------------------


def zarr_python(name, *, dtype=None, values=None, config=None, **arguments):
    values = VALUES[name]() if values is None else values
    arguments.setdefault("chunks", chunks_of(values))
    zarr_format = 2 if "/v2/" in name else 3
    array = zarr.create_array(
        place(name),
        shape=values.shape,
        dtype=dtype or (str if values.dtype == object else values.dtype),
        zarr_format=zarr_format,
        config=config,
        **arguments,
    )
    if "holes" in name or "null-fill" in name:
        array[:10, :16] = values[:10, :16]
        array[25:, 35:] = values[25:, 35:]
    elif values.size:
        array[...] = values


def bloscs():
    shuffles = {"bitshuffle": 2, "noshuffle": 0}
    for name in VALUES:
        if name.startswith("zarr_python/v3/blosc-") and not name.endswith("long"):
            _, cname, *rest = name.rpartition("/")[2].split("-")
            yield "/" + name.rpartition("/")[2], cname, shuffles.get(*rest, 1) if rest else 1


def zarr_python_v2():
    v2 = "zarr_python/v2"
    n = numcodecs
    for name, cname, shuffle in bloscs():
        zarr_python(v2 + name, compressors=n.Blosc(cname, clevel=5, shuffle=shuffle))
    for name, compressor in {
        "raw": None,
        "gzip": n.GZip(1),
        "zlib": n.Zlib(1),
        "zstd": n.Zstd(3),
        "zstd-checksum": n.Zstd(3, checksum=True),
        "lz4": n.LZ4(),
        "bz2": n.BZ2(),
        "lzma": n.LZMA(),
        "pcodec": n.PCodec() if hasattr(n, "PCodec") else n.get_codec({"id": "pcodec"}),
        "blosc-long": n.Blosc("lz4", 5, 1, blocksize=16384),
        "zstd-long": n.Zstd(3),
        "gzip-long": n.GZip(6),
        "lz4-long": n.LZ4(),
        "slash": n.Zlib(1),
        "fortran": n.Zlib(1),
        "big": n.Zlib(1),
        "zfpy-reversible": n.zfpy.ZFPY(mode=4, tolerance=-1),
    }.items():
        extra = {}
        if name == "slash":
            extra = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        if name == "fortran":
            extra = {"order": "F"}
        zarr_python(f"{v2}/{name}", compressors=compressor, **extra)
    for name, filters in {
        "shuffle": [n.Shuffle(4)],
        "fortran-shuffle": [n.Shuffle(4)],
        "crc32": [n.CRC32()],
        "crc32c": [n.get_codec({"id": "crc32c"})],
        "adler32": [n.Adler32()],
        "fletcher32": [n.Fletcher32()],
        "jenkins_lookup3": [n.JenkinsLookup3()],
        "delta": [n.Delta("<i4")],
        "delta-narrow": [n.Delta("<i4", "<i2")],
        "fixedscaleoffset": [n.FixedScaleOffset(-20, 16, "<f4", "<u2")],
        "quantize": [n.Quantize(1, "<f4")],
        "astype": [n.AsType("<f8", "<f4")],
        "bitround": [n.BitRound(10)],
        "packbits": [n.PackBits()],
    }.items():
        order = "F" if name.startswith("fortran") else "C"
        zarr_python(f"{v2}/{name}", filters=filters, compressors=n.Zlib(1), order=order)
    plain_types(v2)
    zarr_python(v2 + "/big-float")
    zarr_python(v2 + "/big-text")
    zarr_python(v2 + "/null-fill", fill_value=None)
    zarr_python(v2 + "/struct")


def plain_types(version):
    for name in "bool i1 u1 i8 u8 f2 f8 c8 c16 M8[ns] m8[10s] M8[D]".split():
        zarr_python(f"{version}/{name}")
    for name in "zero-d empty text fixed-bytes fixed-text raw-bytes".split():
        zarr_python(f"{version}/{name}")
    zarr_python(version + "/bytestrings", dtype=zarr.dtype.VariableLengthBytes())
    zarr_python(version + "/holes-nan", fill_value=np.nan)
    zarr_python(version + "/holes-int", fill_value=-5)


def zarr_python_v3():
    v3 = "zarr_python/v3"
    for name, cname, shuffle in bloscs():
        shuffle = ("noshuffle", "shuffle", "bitshuffle")[shuffle]
        zarr_python(v3 + name, compressors=BloscCodec(cname=cname, shuffle=shuffle))
    for name, compressors in {
        "raw": None,
        "gzip": GzipCodec(level=1),
        "zstd": ZstdCodec(level=3),
        "zstd-checksum": ZstdCodec(level=3, checksum=True),
        "blosc-long": BloscCodec(cname="lz4", blocksize=16384),
        "zstd-long": ZstdCodec(level=3),
        "gzip-long": GzipCodec(level=6),
        "lz4-long": zn.LZ4(),
        "zlib": zn.Zlib(level=1),
        "lz4": zn.LZ4(),
        "bz2": zn.BZ2(),
        "lzma": zn.LZMA(),
        "shuffle": [zn.Shuffle(elementsize=4), ZstdCodec()],
        "crc32": [zn.CRC32()],
        "crc32c": [ZstdCodec(), Crc32cCodec()],
        "adler32": [zn.Adler32()],
        "fletcher32": [zn.Fletcher32()],
        "jenkins_lookup3": [zn.JenkinsLookup3()],
    }.items():
        zarr_python(f"{v3}/{name}", compressors=compressors)
    for name, filters in {
        "delta": zn.Delta(dtype="<i4"),
        "delta-narrow": zn.Delta(dtype="<i4", astype="<i2"),
        "fixedscaleoffset": zn.FixedScaleOffset(offset=-20, scale=16, dtype="<f4", astype="<u2"),
        "quantize": zn.Quantize(digits=1, dtype="<f4"),
        "astype": zn.AsType(encode_dtype="<f8", decode_dtype="<f4"),
        "bitround": zn.BitRound(keepbits=10),
        "packbits": zn.PackBits(),
        "transpose": TransposeCodec(order=(1, 0)),
        "scale-offset": zarr.codecs.ScaleOffset(offset=-20, scale=16),
    }.items():
        zarr_python(f"{v3}/{name}", filters=filters)
    integers = zarr.codecs.CastValue(data_type="uint8")
    scaled = [zarr.codecs.ScaleOffset(offset=-20, scale=16), integers]
    zarr_python(v3 + "/cast-value", filters=scaled, fill_value=-20)
    zarr_python(v3 + "/pcodec", serializer=zn.PCodec(), compressors=None)
    zarr_python(v3 + "/zfpy-reversible", serializer=zn.ZFPY(mode=4, tolerance=-1), compressors=None)
    zarr_python(v3 + "/big", serializer=BytesCodec(endian="big"))
    zarr_python(v3 + "/v2-keys", chunk_key_encoding={"name": "v2", "separator": "."})
    zarr_python(v3 + "/dot-keys", chunk_key_encoding={"name": "default", "separator": "."})
    zarr_python(v3 + "/struct")
    plain_types(v3)
    sharded_v3(v3)


def sharded_v3(v3):
    inner, outer = (5, 8), (10, 16)
    zarr_python(v3 + "/sharded", chunks=inner, shards=outer)
    start = {"shape": (20, 32), "index_location": "start"}
    zarr_python(v3 + "/sharded-start", chunks=inner, shards=start)
    zarr_python(v3 + "/sharded-raw", chunks=inner, shards=outer, compressors=None)
    transpose = TransposeCodec(order=(1, 0))
    zarr_python(v3 + "/sharded-transpose", chunks=(5, 4), shards=outer, filters=[transpose])
    zarr_python(v3 + "/sharded-holes", chunks=inner, shards=outer, fill_value=np.nan)
    zarr_python(v3 + "/sharded-bool", chunks=inner, shards=outer)
    zarr_python(v3 + "/sharded-text", chunks=(2, 3), shards=(4, 6))
    zarr_python(v3 + "/sharded-zero-d", chunks=(), shards=())

    def codec(shape, codecs, **arguments):
        return ShardingCodec(chunk_shape=shape, codecs=codecs, **arguments)

    def by_hand(name, serializer, compressors=None):
        zarr_python(f"{v3}/{name}", chunks=(20, 32), serializer=serializer, compressors=compressors)

    inside = [BytesCodec(), ZstdCodec()]
    by_hand("sharded-plain-index", codec((5, 8), inside, index_codecs=[BytesCodec()]))
    big = [BytesCodec(endian="big"), Crc32cCodec()]
    by_hand("sharded-big-index", codec((5, 8), inside, index_codecs=big))
    by_hand("sharded-nested", codec((10, 16), [codec((5, 8), inside)]))
    by_hand("sharded-in-gzip", codec((5, 8), inside), GzipCodec(level=1))
    with zarr.config.set({"array.rectilinear_chunks": True}):
        zarr_python(v3 + "/rectilinear", chunks=[[3, 3, 10, 14], [15, 15, 10]])
        edges = [[10, 20], [16, 16, 8]]
        zarr_python(v3 + "/rectilinear-sharded", chunks=(5, 8), shards=edges)


# -- zarrs, through zarr-python --------------------------------------------------------------------


def stand_in(base, name):
    """A codec that zarr-python only has to write into the metadata."""

    class StandIn(base):
        is_fixed_size = True

        def __init__(self, configuration=None):
            self.configuration = configuration or {}

        @classmethod
        def from_dict(cls, document):
            return cls(document.get("configuration"))

        def to_dict(self):
            return {"name": name, "configuration": self.configuration}

        def compute_encoded_size(self, nbytes, spec):
            return nbytes

        def evolve_from_array_spec(self, spec):
            return self

    register_codec(name, StandIn)
    return StandIn


def zarrs_v3():
    packbits = stand_in(ArrayBytesCodec, "packbits")
    reshape = stand_in(ArrayArrayCodec, "reshape")
    part = {"first_bit": 0, "last_bit": 6, "padding_encoding": "first_byte"}
    last = {"first_bit": 0, "last_bit": 6, "padding_encoding": "last_byte"}
    with zarr.config.set(
        {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
    ):
        for name, arguments in {
            "zstd": {"compressors": ZstdCodec(level=3, checksum=True)},
            "gzip": {"compressors": GzipCodec()},
            "blosc": {"compressors": BloscCodec(cname="lz4")},
            "crc32c": {"compressors": Crc32cCodec()},
            "transpose": {"filters": TransposeCodec(order=(1, 0))},
            "sharded": {"chunks": (5, 8), "shards": (20, 32)},
            "sharded-start": {
                "chunks": (5, 8),
                "shards": {"shape": (20, 32), "index_location": "start"},
            },
            "shuffle": {"compressors": [zn.Shuffle(elementsize=4), ZstdCodec()]},
            "packbits-bool": {"serializer": packbits(), "compressors": None},
            "packbits-part": {"serializer": packbits(part), "compressors": None},
            "packbits-last": {"serializer": packbits(last), "compressors": None},
            "pcodec": {"serializer": zn.PCodec(), "compressors": None},
            "reshape": {"filters": reshape({"shape": [[0, 1]]}), "chunks": CHUNKS},
        }.items():
            zarr_python("zarrs/v3/" + name, **arguments)


# -- tensorstore -----------------------------------------------------------------------------------


def store(name, metadata, fill=None):
    values = VALUES[name]()
    driver = "zarr" if "/v2/" in name else "zarr3"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(place(name))}}
    metadata = {"shape": list(values.shape), **metadata}
    array = tensorstore.open({**spec, "metadata": metadata}, create=True).result()
    if fill is not None:
        array[:10, :16] = values[:10, :16]
        array[25:, 35:] = values[25:, 35:]
    else:
        array.write(values).result()


ML = [name.rpartition("/")[2] for name in VALUES if name.startswith("tensorstore/v2/")]
ML = [name for name in ML if name[:3] in ("bfl", "flo", "int")]


def tensorstore_v2():
    for name in ML:
        store(f"tensorstore/v2/{name}", {"chunks": [5, 16], "dtype": name, "compressor": None})
    chunks = list(CHUNKS)
    for name, metadata in {
        "blosc-snappy": {
            "compressor": {
                "id": "blosc",
                "cname": "snappy",
                "clevel": 5,
                "shuffle": 1,
                "blocksize": 0,
            }
        },
        "bz2": {"compressor": {"id": "bz2", "level": 1}},
        "zstd": {"compressor": {"id": "zstd", "level": 3}},
        "zlib": {"compressor": {"id": "zlib", "level": 1}},
        "fortran": {"order": "F"},
        "slash": {"dimension_separator": "/"},
        "big": {"dtype": ">i2"},
    }.items():
        store(f"tensorstore/v2/{name}", {"chunks": chunks, "dtype": "<i4", **metadata})


def tensorstore_v3():
    def regular(*shape):
        return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}

    def named(name, **configuration):
        return {"name": name, "configuration": configuration} if configuration else {"name": name}

    def sharding(shape, codecs, **configuration):
        return named("sharding_indexed", chunk_shape=shape, codecs=codecs, **configuration)

    little, big = named("bytes", endian="little"), named("bytes", endian="big")
    zstd, crc = named("zstd", level=3), named("crc32c")
    blosc = named("blosc", cname="zstd", clevel=5, shuffle="bitshuffle", typesize=4, blocksize=0)
    transpose = named("transpose", order=[1, 0])
    index = {"index_codecs": [little, crc], "index_location": "start"}
    nested = sharding([10, 16], [sharding([5, 8], [little, zstd])])
    for name in ML:
        codecs = [little] if name == "bfloat16" else [named("bytes")]
        document = {"chunk_grid": regular(5, 16), "data_type": name, "codecs": codecs}
        store(f"tensorstore/v3/{name}", document)
    for name, grid, codecs in [
        ("raw", CHUNKS, [little]),
        ("big", CHUNKS, [big]),
        ("gzip", CHUNKS, [little, named("gzip", level=1)]),
        ("crc32c", CHUNKS, [little, crc]),
        ("transpose-blosc", CHUNKS, [transpose, little, blosc]),
        ("sharded", (20, 32), [sharding([5, 8], [little, zstd])]),
        ("sharded-start", (20, 32), [sharding([10, 16], [transpose, little, blosc], **index)]),
        ("sharded-nested", (20, 32), [nested]),
    ]:
        document = {"chunk_grid": regular(*grid), "data_type": "int32", "codecs": codecs}
        store(f"tensorstore/v3/{name}", document)
    document = {"chunk_grid": regular(8, 8), "data_type": "bfloat16"}
    codecs = [sharding([4, 4], [little, zstd])]
    store("tensorstore/v3/sharded-bfloat16", {**document, "codecs": codecs})
    document = {"chunk_grid": regular(*SMALL_CHUNKS), "data_type": "complex64", "codecs": [little]}
    store("tensorstore/v3/complex64", document)
    document = {"chunk_grid": regular(*CHUNKS), "data_type": "float32", "codecs": [little]}
    store("tensorstore/v3/holes", {**document, "fill_value": "NaN"}, fill=True)


# -- numcodecs: arrays as Zarr 2 wrote them, which zarr-python 3 refuses ---------------------------


def by_numcodecs(name, dtype, *, filters=(), compressor=None, fill_value=None):
    values = VALUES[name]()
    chunks = chunks_of(values)
    folder = place(name)
    folder.mkdir(parents=True)
    document = {
        "chunks": list(chunks),
        "compressor": compressor.get_config() if compressor else None,
        "dtype": dtype,
        "fill_value": fill_value,
        "filters": [codec.get_config() for codec in filters] or None,
        "order": "C",
        "shape": list(values.shape),
        "zarr_format": 2,
    }
    (folder / ".zarray").write_text(json.dumps(document, indent=4, sort_keys=True))
    for where in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, chunks, strict=True))):
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(where, chunks, strict=True))]
        chunk = np.zeros(chunks, values.dtype)
        for i in np.ndindex(chunks) if values.dtype == object else ():
            chunk[i] = part.flat[0]
        chunk[tuple(slice(n) for n in part.shape)] = part
        data = chunk
        for codec in [*filters, *([compressor] if compressor else [])]:
            data = codec.encode(data)
        data = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
        (folder / ".".join(map(str, where))).write_bytes(data)


def numcodecs_v2():
    n, v2 = numcodecs, "numcodecs/v2"
    by_numcodecs(v2 + "/json2", "|O", filters=[n.JSON()], compressor=n.Blosc("lz4"))
    by_numcodecs(v2 + "/msgpack2", "|O", filters=[n.MsgPack()], compressor=n.Zlib())
    by_numcodecs(v2 + "/pickle", "|O", filters=[n.Pickle(protocol=4)])
    by_numcodecs(v2 + "/vlen-array", "|O", filters=[n.VLenArray("<i4")], compressor=n.Zstd())
    labels = sorted(set(VALUES[v2 + "/categorize"]()))
    by_numcodecs(v2 + "/categorize", "|O", filters=[n.Categorize(labels, dtype="|O")])
    by_numcodecs(v2 + "/base64", "<i4", filters=[n.Base64()], fill_value=0)
    lz4 = n.LZ4()
    by_numcodecs(v2 + "/vlen-bytes-lz4", "|O", filters=[n.VLenBytes()], compressor=lz4)
    zfp = n.zfpy.ZFPY(mode=4, tolerance=-1)
    by_numcodecs(v2 + "/zfpy-filter", "<f8", filters=[zfp], compressor=n.Zlib(), fill_value=0)
    dtype = [["a", "<i2", [2, 3]], ["b", "<f4"]]
    by_numcodecs(v2 + "/subarray", dtype, compressor=n.Zlib(), fill_value=0)
    by_numcodecs(v2 + "/zero-fill-bytes", "|S5", compressor=n.Zlib(), fill_value=0)


def pack(writer):
    """A zip file that depends on nothing but what was written."""
    with zipfile.ZipFile(HERE / f"{writer}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for path in sorted((ROOT / writer).rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(path.relative_to(ROOT / writer).as_posix())
                info.compress_type = zipfile.ZIP_DEFLATED
                out.writestr(info, path.read_bytes())


for write in (
    zarr_python_v2,
    zarr_python_v3,
    zarrs_v3,
    tensorstore_v2,
    tensorstore_v3,
    numcodecs_v2,
):
    write()
if written != VALUES.keys():
    raise SystemExit(f"only in one of the two files: {sorted(written ^ VALUES.keys())}")
for writer in WRITERS:
    pack(writer)
shutil.rmtree(ROOT)
