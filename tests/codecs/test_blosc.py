import base64
import struct
import subprocess
import sys

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import spec_of
from tests.codecs.checks import (
    FIELD,
    check_bounded,
    check_config,
    check_mutants,
    check_numcodecs,
    check_out,
    check_round_trip,
    check_truncation,
    check_wrong_sizes,
    each_sample,
    library,
    mutants,
)
from zarr_gpu.codecs import blosc as module
from zarr_gpu.codecs import snappy
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.blosc import CNAMES, SHUFFLES, BloscCodec, parse_container, unfilter
from zarr_gpu.errors import CodecError, UnsupportedError

__all__ = ["library"]
pytestmark = pytest.mark.usefixtures("library")

WRITABLE = [name for name in CNAMES if name != "snappy"]


def container(data=FIELD, **kwargs):
    return bytearray(BloscCodec(**{"typesize": 4, "cname": "lz4", **kwargs}).encode(data))


@each_sample
@pytest.mark.parametrize("cname", WRITABLE)
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_same_as_numcodecs(data, cname, shuffle):
    check_round_trip(BloscCodec(4, cname, 5, shuffle), data)
    theirs = numcodecs.Blosc(cname, 5, SHUFFLES.index(shuffle))
    check_numcodecs(BloscCodec(None, cname, 5, shuffle), theirs, data)


@given(
    st.sampled_from(WRITABLE),
    st.sampled_from(SHUFFLES),
    st.sampled_from([1, 2, 3, 4, 7, 8, 16, 17, 255, 256]),
    st.integers(0, 9),
    st.sampled_from([0, 1, 128, 129, 1000, 4096, 1 << 20]),
    st.integers(0, 20_000),
)
def test_every_configuration(cname, shuffle, typesize, clevel, blocksize, n):
    data = FIELD[:n]
    codec = BloscCodec(typesize, cname, clevel, shuffle, blocksize)
    encoded = codec.encode(data)
    check_out(codec, encoded, data)
    header = parse_container(encoded, n)
    assert header.cbytes == len(encoded)
    assert header.typesize == (typesize if typesize < 256 else 1)


# -- layout ----------------------------------------------------------------------------------------


def decode_by_header(data):
    """What a header means, with LZ4 as the only inner codec."""
    header = parse_container(data)
    result, streams = bytearray(), iter(header.streams)
    for start in range(0, header.nbytes, header.blocksize):
        length = min(header.blocksize, header.nbytes - start)
        splits = header.splits if length == header.blocksize else 1
        block = bytearray()
        for _ in range(splits):
            offset, nbytes = next(streams)
            stream = bytes(data[offset : offset + nbytes])
            if nbytes != length // splits:
                stream = numcodecs.LZ4().decode(struct.pack("<I", length // splits) + stream)
            block += stream
        result += bytes(unfilter(np.frombuffer(block, np.uint8), header.typesize, header.shuffle))
    assert next(streams, None) is None
    return bytes(result)


@given(
    st.sampled_from(SHUFFLES),
    st.integers(1, 20),
    st.sampled_from([0, 128, 700, 2000]),
    st.integers(200, 20_000),
)
def test_header_and_unfilter_describe_the_container(shuffle, typesize, blocksize, n):
    data = bytes(n // 2) + FIELD[: n - n // 2]
    encoded = BloscCodec(typesize, "lz4", 9, shuffle, blocksize).encode(data)
    if not parse_container(encoded).stored:
        assert decode_by_header(encoded) == data


def one_block(data, typesize, splits=0, flags=0x20):
    """A container of one LZ4 block, with the streams of the block not compressed."""
    streams = b""
    for i in range(splits):
        part = data[i * len(data) // splits : (i + 1) * len(data) // splits]
        streams += struct.pack("<i", len(part)) + part
    starts = struct.pack("<i", 20) if splits else b""
    sizes = (len(data), len(data), 16 + len(starts + streams))
    return struct.pack("<BBBBiii", 2, 1, flags, typesize, *sizes) + starts + streams


@pytest.mark.parametrize(
    ("typesize", "elements", "flags", "splits"),
    [(16, 128, 0x20, 16), (16, 127, 0x20, 1), (17, 128, 0x20, 1), (16, 128, 0x30, 1)],
)
def test_blocks_are_split_by_sizes_and_flag(typesize, elements, flags, splits):
    data = FIELD[: typesize * elements]
    encoded = one_block(data, typesize, splits, flags)
    assert parse_container(encoded).splits == splits
    assert bytes(BloscCodec().decode(encoded, Size(len(data)))) == data
    with pytest.raises(CodecError):
        BloscCodec().decode(one_block(data, typesize, 17 - splits, flags), Size(len(data)))


@pytest.mark.parametrize(
    ("typesize", "flags", "shuffle"),
    [(2, 0x21, "shuffle"), (1, 0x21, "noshuffle"), (1, 0x25, "bitshuffle"), (2, 0x25, "shuffle")],
)
def test_filter_is_that_of_c_blosc_whatever_the_flags(typesize, flags, shuffle):
    data = FIELD[:160]
    encoded = one_block(data, typesize, 1, flags)
    assert parse_container(encoded).shuffle == shuffle
    expected = unfilter(np.frombuffer(data, np.uint8), typesize, shuffle)
    assert bytes(BloscCodec().decode(encoded, Size(160))) == expected.tobytes()


def test_blocks_may_be_in_any_order():
    data = FIELD + bytes(1000)
    encoded = container(data, blocksize=4096, cname="zstd")
    header = parse_container(encoded)
    blocks = [
        (offset - 4, bytes(encoded[offset - 4 : offset + nbytes]))
        for offset, nbytes in header.streams
    ]
    at = 16 + 4 * len(blocks)
    moved = encoded[:at]
    for i in reversed(range(len(blocks))):
        moved[16 + 4 * i : 20 + 4 * i] = struct.pack("<i", len(moved))
        moved += blocks[i][1]
    assert len(blocks) > 2
    assert moved != encoded
    assert bytes(BloscCodec().decode(moved, Size(len(data)))) == data


def test_empty_container_is_read():
    assert bytes(BloscCodec().decode(numcodecs.Blosc().encode(b""), Size(0))) == b""
    assert bytes(BloscCodec().decode(one_block(b"", 4, flags=0), Size(0))) == b""


def test_bytes_behind_a_container_mean_nothing():
    assert bytes(BloscCodec().decode(container() + b"garbage", Size(len(FIELD)))) == FIELD


def test_stored_bytes_are_not_copied():
    encoded = container(FIELD[:100])
    assert parse_container(encoded).stored
    assert BloscCodec().decode(encoded, Size(100)).obj is encoded


# -- bad containers --------------------------------------------------------------------------------


@pytest.mark.parametrize("cname", WRITABLE)
@pytest.mark.parametrize("n", [100, 9000])
def test_bad_streams_are_refused(cname, n):
    codec = BloscCodec(4, cname, blocksize=2048)
    encoded = codec.encode(FIELD[:n])
    check_wrong_sizes(codec, encoded, n)
    check_truncation(codec, encoded, n)
    assert check_mutants(codec, encoded, n) > 200


def patched(*fields, data=None):
    encoded = container(blocksize=2048) if data is None else data
    for fmt, at, value in fields:
        struct.pack_into(fmt, encoded, at, value)
    return encoded


FULL = parse_container(container(blocksize=2048))
IMPOSSIBLE = {
    "version 5": (("B", 0, 5), "Blosc2"),
    "version 1": (("B", 0, 1), "version"),
    "codec version": (("B", 1, 2), "inner codec"),
    "reserved flag": (("B", 2, 0x29), "flags"),
    "codec 5": (("B", 2, 0xA1), "inner codec"),
    "typesize 0": (("B", 3, 0), "impossible sizes"),
    "nbytes less": (("<i", 4, len(FIELD) - 1), "decoded size"),
    "nbytes negative": (("<i", 4, -1), "decoded size"),
    "blocksize 0": (("<i", 8, 0), "impossible sizes"),
    "blocksize negative": (("<i", 8, -2048), "impossible sizes"),
    "blocksize beyond nbytes": (("<i", 8, len(FIELD) + 1), "impossible sizes"),
    "blocksize 1": (("<i", 8, 1), "table of blocks"),
    "cbytes 15": (("<i", 12, 15), "cut short"),
    "cbytes beyond the buffer": (("<i", 12, FULL.cbytes + 1), "cut short"),
    "cbytes negative": (("<i", 12, -1), "cut short"),
    "cbytes less": (("<i", 12, FULL.cbytes - 1), "wrong size"),
    "block in the header": (("<i", 16, 16), "overlaps the header"),
    "block negative": (("<i", 16, -4), "overlaps the header"),
    "block behind the end": (("<i", 16, FULL.cbytes - 3), "outside"),
    "block far behind the end": (("<i", 16, 2**31 - 1), "outside"),
    "stream of size 0": (("<i", FULL.streams[0][0] - 4, 0), "wrong size"),
    "stream of negative size": (("<i", FULL.streams[0][0] - 4, -1), "wrong size"),
    "stream beyond the end": (("<i", FULL.streams[0][0] - 4, 2**31 - 1), "wrong size"),
    "stored": (("B", 2, 0x03), "stored bytes"),
}


@pytest.mark.parametrize(("field", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_headers_are_refused_before_c_blosc_sees_them(field, message):
    encoded = patched(field)
    with pytest.raises(CodecError, match=message) as caught:
        parse_container(encoded, len(FIELD))
    assert caught.value.codec == "blosc"
    with pytest.raises(CodecError):
        BloscCodec().decode(encoded, Size(len(FIELD)))


def test_blocks_that_do_not_split_evenly_are_refused():
    # c-blosc decodes 4 * (2049 // 4) bytes of each block and leaves the last one as it was.
    with pytest.raises(CodecError, match=r"cannot be split .*a multiple of 4 bytes, found 2049"):
        parse_container(patched(("<i", 8, 2049)))


def test_stored_bytes_beyond_the_file_are_not_taken_from_memory():
    encoded = struct.pack("<BBBBiii", 2, 1, 2, 4, 12_288, 12_288, 12_304) + bytes(64)
    with pytest.raises(CodecError, match="expected 12304 bytes, found 80 bytes"):
        BloscCodec().decode(encoded, Size(12_288))


@pytest.mark.parametrize("exact", [True, False])
def test_claimed_sizes_are_not_allocated(exact):
    for nbytes in (2**31 - 1, 2**31 - 17, 1 << 30):
        check_bounded(BloscCodec(), patched(("<i", 4, nbytes)), Size(12_000, exact))


def many_blocks(data, blocksize=2048):
    """A container of blocks of four streams each, nothing compressed."""
    starts, body = [], b""
    for start in range(0, len(data), blocksize):
        block = data[start : start + blocksize]
        starts.append(16 + 4 * -(-len(data) // blocksize) + len(body))
        n = len(block) // 4 if len(block) == blocksize else len(block)
        for i in range(0, len(block), n):
            body += struct.pack("<i", n) + block[i : i + n]
    table = struct.pack(f"<{len(starts)}i", *starts)
    sizes = (len(data), blocksize, 16 + len(table + body))
    return struct.pack("<BBBBiii", 2, 1, 0x20, 4, *sizes) + table + body


def verdict(function, *args):
    try:
        function(*args)
    except CodecError as error:
        return str(error)
    return "good"


def test_many_blocks_are_checked_at_once_with_the_same_verdict():
    data = FIELD * 10  # 98 blocks, the last one shorter
    encoded = many_blocks(data)
    assert parse_container(encoded).blocks > module._MANY
    assert module._all_inside(encoded, parse_container(encoded))
    assert bytes(BloscCodec().decode(encoded, Size(len(data)))) == data
    last = parse_container(encoded).streams[-1][0] - 4
    damaged = [bytes(patched(("<i", at, n), data=bytearray(encoded))) for at, n in [
        (16, 15), (16, 2**31 - 1), (last, 0), (last, -1), (last, 2**31 - 1), (last, 10**6),
    ]]  # fmt: skip
    refused = 0
    for container in [*damaged, *mutants(encoded, 300)]:
        expected = verdict(parse_container, container)
        if expected == "good" or "stream" in expected or "block " in expected:
            header = module._read_header(container)
            assert verdict(module._check_blocks, container, header, 0, header.blocks) == expected
        refused += expected != "good"
        if expected != "good":
            assert verdict(BloscCodec().decode, container, Size(len(data))) != "good"
    assert refused > len(damaged) + 100


MUTATE = """
import sys
from tests.codecs.checks import FIELD, check_mutants
from zarr_gpu.codecs import _native
from zarr_gpu.codecs.blosc import BloscCodec
_native.ENABLED = sys.argv[2] == "native"
for cname in ("blosclz", "lz4", "lz4hc", "zlib", "zstd"):
    for shuffle in ("noshuffle", "shuffle", "bitshuffle"):
        codec = BloscCodec(4, cname, 5, shuffle, blocksize=1024)
        check_mutants(codec, codec.encode(FIELD[:6000]), 6000, int(sys.argv[1]))
print("survived")
"""


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutants_do_not_crash(library, count):
    # In a process of its own, where malloc fills what it hands out and what it takes back.
    env = {"MALLOC_PERTURB_": "165", "PYTHONPATH": "."}
    command = [sys.executable, "-X", "faulthandler", "-c", MUTATE, str(count), library]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "survived\n", done.stderr


# -- filters ---------------------------------------------------------------------------------------


def test_unshuffle_leaves_bytes_behind_the_last_element():
    block = np.frombuffer(b"abAB12xy", np.uint8)
    assert unfilter(block, 3, "shuffle").tobytes() == b"aA1bB2xy"


def test_bits_of_eight_elements():
    block = np.array([0b1, 0b10, 0, 0, 0, 0, 0, 0b10000000], np.uint8)
    assert unfilter(block, 1, "bitshuffle").tolist() == [1, 2, 0, 0, 0, 0, 0, 128]


@pytest.mark.parametrize("n", [3, 7, 9, 63])
def test_bits_are_shuffled_only_in_multiples_of_eight_elements(n):
    block = np.arange(2 * n, dtype=np.uint8)
    assert unfilter(block, 2, "bitshuffle") is block


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_less_than_an_element_is_not_filtered(shuffle):
    block = np.arange(3, dtype=np.uint8)
    assert unfilter(block, 4, shuffle) is block


# -- snappy ----------------------------------------------------------------------------------------

SNAPPY = {  # chunks that TensorStore 0.1.86 wrote: 1000 little-endian uint16, blocks of 640 bytes
    "noshuffle": (
        "0s%k*&<6kj&<6kj&;S4c6aWAKR{#J2=m!7*>Hz=%0qOz(00Qa)000B(0ssI6>H+`&1?mC-00!y;000N-"
        "0ssIA>H+`&3F-m>01D~?000Z>0ssIE>H+`&4e9~_01oN`000l_0ssIIngRe_0002!2LuoRMgjl;5$XZ}"
        "021l~000x}0ssIM>H+`&73u;202b;3000;20ssIQ>H+`&8R`N602=B7000~60ssIU>H+`&9qIxA03PZB"
        "001BA0ssIY>H+`&AxZ)O"
    ),
    "shuffle": (
        "0s%n+&<6kj&<6kj0s#O36aWAKvH$=8=m!7*asdDU0dfHV00MFW000AW0RR95asdDU1#$rZ00wda000Ma"
        "0RR99asdDU3334d019#e000Ye0RR9DasdDU4RQeh01k2i000ki0RR9HasdDU5pn?l01|Qm000wm0RR9L"
        "asdDU6><Rp02Xoq000+q0RR9PasdDU8FB#t02*=u000|u0RR9TasdDU9dZEx03LDy0019y0RR9XasdD&"
        "At50lAt50lAt5vX008I*009000R900{s92~0Ra910R900{s92~0Ra910R900{s92~0Ra910R900{s91*"
        "0RR"
    ),
    "bitshuffle": (
        "0s%w<&<6kj&<6kjzW@LL6aWAKZvX%Q=m$6e006-M|NjpF008{||Ns6E0JaYR000RA1n~a}0SONN4*;eQ"
        "05Smp34;{@G8_N^0RA2TY90Vi0RR<-QUL%?G5{F?QZoP*0U0RT0RR<B$^ih{a{&GU00{vFu>MN`2}}L~"
        "0R900&H(^40002!2LJ&60Ra910R900{s92~0Ra910R900{s92~0Ra910R900{s92~0Ra910R900ngIX"
    ),
}
SNAPPY_VALUES = (np.arange(1000) // 30).astype("<u2").tobytes()


@pytest.fixture(params=["cramjam", "none"])
def snappy_library(request, monkeypatch):
    lib = pytest.importorskip("cramjam") if request.param == "cramjam" else None
    monkeypatch.setattr(snappy, "_library", lambda: lib)


@pytest.mark.parametrize("shuffle", SNAPPY)
def test_snappy_is_read(snappy_library, shuffle):
    encoded = base64.b85decode(SNAPPY[shuffle])
    header = parse_container(encoded, 2000)
    assert (header.cname, header.shuffle, header.stored) == ("snappy", shuffle, False)
    check_out(BloscCodec(), encoded, SNAPPY_VALUES)
    check_wrong_sizes(BloscCodec(), encoded, 2000)
    check_truncation(BloscCodec(), encoded, 2000)
    assert check_mutants(BloscCodec(), encoded, 2000, 100) > 50


@pytest.mark.peer
@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("dtype", ["<u2", "<f8", "|u1"])
def test_snappy_of_tensorstore_is_read(tmp_path, dtype, shuffle):
    tensorstore = pytest.importorskip("tensorstore")
    values = (np.arange(50_000) // 7 % 250).astype(dtype)
    compressor = {"id": "blosc", "cname": "snappy", "clevel": 5, "blocksize": 0}
    compressor["shuffle"] = SHUFFLES.index(shuffle)
    metadata = {"shape": [50_000], "chunks": [50_000], "dtype": dtype, "compressor": compressor}
    kvstore = {"driver": "file", "path": str(tmp_path)}
    spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
    tensorstore.open(spec, create=True).result().write(values).result()
    encoded = (tmp_path / "0").read_bytes()
    assert parse_container(encoded).cname == "snappy"
    decoded = BloscCodec().decode(encoded, Size(values.nbytes))
    assert bytes(decoded) == values.tobytes()


def test_snappy_is_not_written():
    with pytest.raises(UnsupportedError, match="snappy can be read but not written"):
        BloscCodec(cname="snappy").encode(FIELD)


# -- configuration ---------------------------------------------------------------------------------


def test_configuration():
    check_config(BloscCodec())
    check_config(BloscCodec(8, "lz4hc", 9, "noshuffle", 4096))
    assert BloscCodec.from_config({}) == BloscCodec(None, "zstd", 5, None, 0)
    assert BloscCodec(4, shuffle="shuffle").to_config() == {
        "typesize": 4,
        "cname": "zstd",
        "clevel": 5,
        "shuffle": "shuffle",
        "blocksize": 0,
    }


@pytest.mark.parametrize(
    ("dtype", "typesize", "shuffle"),
    [("int8", 1, "bitshuffle"), ("float32", 4, "shuffle"), ("<U100", 1, "shuffle")],
)
def test_what_is_left_open_is_chosen_for_the_data_type(dtype, typesize, shuffle):
    spec = spec_of(dtype, (3,))
    assert BloscCodec().bind(spec) == BloscCodec(typesize, shuffle=shuffle)
    given_codec = BloscCodec(2, shuffle="noshuffle")
    assert given_codec.bind(spec) == given_codec


@pytest.mark.parametrize("shuffle", [-1, 0, 1, 2])
def test_numbers_of_numcodecs_for_shuffle(shuffle):
    config = {"cname": "zlib", "clevel": 1, "shuffle": shuffle, "blocksize": 0}
    assert BloscCodec.from_numcodecs({"id": "blosc", **config}).to_numcodecs() == config


def test_defaults_of_numcodecs():
    assert BloscCodec.from_numcodecs({"id": "blosc"}) == BloscCodec(None, "lz4", 5, "shuffle")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("cname", "lzo"),
        ("cname", 4),
        ("clevel", 10),
        ("clevel", True),
        ("shuffle", 1),
        ("shuffle", "both"),
        ("blocksize", -1),
        ("blocksize", 2**31),
        ("typesize", 0),
        ("typesize", "4"),
    ],
)
def test_impossible_members_are_refused(member, value):
    with pytest.raises(ValueError, match=member):
        BloscCodec.from_config({member: value})
    if member == "shuffle":
        with pytest.raises(ValueError, match=member):
            BloscCodec.from_numcodecs({"shuffle": 3})


def test_our_threads_replace_those_of_blosc():
    container()
    assert numcodecs.blosc.use_threads is False
