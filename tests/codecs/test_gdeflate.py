"""The codec zarrs.gdeflate.

The oracle is NVIDIA's own C code: the GDeflate functions of libdeflate that libnvcomp_cpu exports,
which are those that zarrs calls. It decodes what is written here and writes what is decoded here;
:data:`GOLDEN` keeps some of its output for machines without it.
"""

import base64
import ctypes
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.codecs.checks import (
    FIELD,
    SAMPLES,
    check_bounded,
    check_config,
    check_mutants,
    check_round_trip,
    check_truncation,
    check_wrong_sizes,
    each_sample,
)
from zarr_gpu.codecs import registry
from zarr_gpu.codecs._gdeflate import PAGE_NBYTES, decode_page, encode_page
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.gdeflate import MAX_PAGE_NBYTES, GDeflateCodec, split_pages
from zarr_gpu.errors import CodecError

EXAMPLES = int(os.environ.get("ZG_GDEFLATE_EXAMPLES", "30000"))
"""Damaged pages of the slow comparison with the oracle, at about a millisecond each."""

GOLDEN = {
    "zeros": (bytes(70_000), r"c-kuvWMlvVCI$%TL8Fs_c=4bA41)oH-I60XDBJ=7>)Zw*"),
    "text": (
        b"hello world, " * 100,
        r"c-j+TWdH+42*q#!N}mSel|XC>#Xo_V3y7aW*{)D=O(3>{%1Hw8VrEtuhCu)T{&ELx",
    ),
    "short": (
        bytes(range(61)),
        r"c-pgNfB;4)%>rex9xzfdn8n0kJdKgTcpfu@K_CNzK_nA{K`4+P3*=vBU@*ST#PGz5f#GR21H*rAW`^=k"
        r"WrnG03=9*~85mA6F)+O1Vqmz%#=!84kAdMB(A;O73=G#;85q9tGBBKDW?*>7&A@Pvoq^#WKg51T76t}E"
        r"AZ>``o`D1ae;FCW",
    ),
    "stored": (
        bytes(range(61)),
        r"c-qCz*KI-p07KCOgceF@p%)Q)3kkjMKMPy%B=}$hu4LKrkA3wZ^z@HsxCI{S68<653;I6M0kI+R5s5L$"
        r"37=C^GtzT13$nj_Ey?|n|EI8`xTdt>drNsoWl!}$?MVGZ<4p5HE7)xZ>b(4UCwFjG2sH",
    ),
    "counter": (
        np.arange(120, dtype="<i4").tobytes(),
        r"c-niw$N&aVilG6@;61$A(W2yDbxF^zr(0BcV@q=S^foWu^|oM6@7*oCUMw!C$(y<1TTgXClds-}r@LMk"
        r"B+c8qLG-L%!K7W!H+=K0Dk!Q;-TZC$d%ugC>$k1C8tSK8a3Fo_<v8EXXHBm<^7H!YuPMAAe!ceWhT0Pw"
        r"uSMpc)Vai)9D97j<fX;;0?q&Oloi%K2RTI?h!@Y}V)&uJz+et!C(q*qyYJl(W(GYV{Zoa3K_5s9$8j+H"
        r")?r|f2eLJRxLbQ4hdq#H0pfU81_owl1_o{*`#w;B8Au<KW(1q9tjxdwlxDDJVqiGV#=yV{4TlbOH&~Di"
        r"2mk<um|1u",
    ),
}
"""Chunks as zarrs writes them: what is in them, and their bytes (zlib, base 85).

The pages are by libdeflate_gdeflate_compress at levels 12, 6, 1, 0 and 9: fixed codes with lengths
up to 64 KiB in two pages, fixed codes, codes of their own, stored, codes of their own with matches.
"""


def golden(name):
    data, packed = GOLDEN[name]
    return data, zlib.decompress(base64.b85decode(packed))


class Page(ctypes.Structure):
    """libdeflate_gdeflate_in_page and libdeflate_gdeflate_out_page."""

    _fields_ = [("data", ctypes.c_void_p), ("nbytes", ctypes.c_size_t)]


class Oracle:
    """libdeflate's GDeflate, one page at a time."""

    def __init__(self, library):
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        prototypes = {
            "alloc_gdeflate_compressor": (pointer, ctypes.c_int),
            "free_gdeflate_compressor": (None, pointer),
            "gdeflate_compress_bound": (size, pointer, size, pointer),
            "gdeflate_compress": (size, pointer, ctypes.c_char_p, size, pointer, size),
            "alloc_gdeflate_decompressor": (pointer,),
            "free_gdeflate_decompressor": (None, pointer),
            "gdeflate_decompress": (ctypes.c_int, pointer, pointer, size, pointer, size, pointer),
        }
        for name, (result, *arguments) in prototypes.items():
            function = getattr(library, f"libdeflate_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def encode(self, data, level):
        compressor = self.alloc_gdeflate_compressor(level)
        capacity = self.gdeflate_compress_bound(compressor, len(data), None)
        buffer = ctypes.create_string_buffer(capacity)
        page = Page(ctypes.addressof(buffer), capacity)
        n = self.gdeflate_compress(compressor, data, len(data), ctypes.byref(page), 1)
        self.free_gdeflate_compressor(compressor)
        assert n
        return buffer.raw[:n]

    def decode(self, data, capacity):
        """What a page holds, or None.

        It reads behind the end of a page, as far as the output has room; there are zeros.
        """
        buffer = ctypes.create_string_buffer(data + bytes(8 * capacity + 65536))
        page = Page(ctypes.addressof(buffer), len(data))
        out, actual = ctypes.create_string_buffer(capacity + 1), ctypes.c_size_t()
        decompressor = self.alloc_gdeflate_decompressor()
        status = self.gdeflate_decompress(
            decompressor, ctypes.byref(page), 1, out, capacity, ctypes.byref(actual)
        )
        self.free_gdeflate_decompressor(decompressor)
        return out.raw[: actual.value] if status == 0 else None


@pytest.fixture(scope="module")
def oracle():
    try:
        import nvidia.libnvcomp as wheel
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("nvCOMP is not installed: pip install nvidia-libnvcomp-cu13")
    [path] = Path(wheel.__file__).parent.glob("lib*/libnvcomp_cpu.so.*")
    return Oracle(ctypes.CDLL(str(path)))


def chunk(data, pages):
    """A chunk with the given pages, whatever they are."""
    sizes = struct.pack(f"<{len(pages) + 2}Q", len(data), len(pages), *map(len, pages))
    return sizes + b"".join(pages)


TEXT = Path(__file__).read_bytes()[:6000]
PAGES = {
    **{name: data[:PAGE_NBYTES] for name, data in SAMPLES.items() if data},
    "text": TEXT,
    "whole page of noise": np.random.default_rng(2).bytes(PAGE_NBYTES),
    "runs": b"".join(bytes([i % 251]) * (i % 40) for i in range(900)),
    "far matches": (noise := np.random.default_rng(3).bytes(20_000)) + noise + noise[:9000],
}
each_page = pytest.mark.parametrize("data", PAGES.values(), ids=PAGES)


@each_page
@pytest.mark.parametrize("level", [0, 1, 6, 12])
def test_pages_of_the_oracle_are_read(oracle, data, level):
    page = oracle.encode(data, level)
    assert decode_page(page, len(data)) == data
    for wrong in (len(data) + 1, len(data) - 1):
        with pytest.raises(CodecError):
            decode_page(page, wrong)


@each_page
@pytest.mark.parametrize("level", [0, 1, 9])
def test_the_oracle_reads_our_pages(oracle, data, level):
    page = encode_page(data, level)
    assert oracle.decode(page, len(data)) == data
    assert len(page) <= len(oracle.encode(data, level)) * 1.1 + 1000


@pytest.mark.parametrize("n", [65_535, 65_536, 65_537, 131_073])
def test_chunks_of_several_pages(oracle, n):
    data = bytes(np.arange(n, dtype="<u4").view("u1")[:n])
    starts = range(0, n, PAGE_NBYTES)
    theirs = chunk(data, [oracle.encode(data[i : i + PAGE_NBYTES], 6) for i in starts])
    assert bytes(GDeflateCodec().decode(theirs, Size(n))) == data
    ours = GDeflateCodec().encode(data)
    pages = split_pages(ours, Size(n))
    decoded = [
        oracle.decode(ours[offset : offset + nbytes], out_nbytes)
        for offset, nbytes, out_nbytes in zip(
            pages.offset, pages.nbytes, pages.out_nbytes.tolist(), strict=True
        )
    ]
    assert b"".join(decoded) == data


def mutant(rng, page):
    """A damaged page, still a number of words."""
    page = bytearray(page)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(min(len(page), 160) if rng.random() < 0.6 else len(page))
        match rng.randrange(4):
            case 0:
                page[at] ^= 1 << rng.randrange(8)
            case 1:
                page[at] = rng.randrange(256)
            case 2:
                page = page[: max(128, len(page) - 4 * rng.randrange(1, 8))]
            case 3:
                page += bytes(4 * rng.randrange(1, 4))
    return bytes(page)


def compare_mutants(oracle, count):
    """What is accepted here, the oracle reads in the same way."""
    rng = random.Random(0)
    samples = [FIELD[:2000], TEXT[:1500], bytes(700), b"hello world, " * 70, PAGES["noise"][:300]]
    pages = [(len(d), oracle.encode(d, level)) for d in samples for level in (1, 6, 12)]
    pages += [(len(d), encode_page(d, level)) for d in samples for level in (0, 1, 9)]
    accepted = 0
    for _ in range(count):
        n, page = rng.choice(pages)
        page = mutant(rng, page)
        n += rng.choice((0, 0, -1, rng.randrange(200)))
        try:
            decoded = decode_page(page, n)
        except CodecError:
            continue
        accepted += 1
        assert oracle.decode(page, n) == decoded, page.hex()
    assert 0.2 * count < accepted < 0.8 * count


def test_damaged_pages_are_read_as_by_the_oracle(oracle):
    compare_mutants(oracle, 600)


@pytest.mark.slow
def test_many_damaged_pages_are_read_as_by_the_oracle(oracle):
    compare_mutants(oracle, EXAMPLES)


# -- without the oracle ------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_chunks_are_read(name):
    data, stored = golden(name)
    assert bytes(GDeflateCodec().decode(stored, Size(len(data)))) == data
    check_wrong_sizes(GDeflateCodec(), stored, len(data))
    assert GDeflateCodec().encoded_size(Size(len(data))).check(len(stored))


@each_sample
def test_round_trips(data):
    check_round_trip(GDeflateCodec(1), data)
    check_round_trip(GDeflateCodec(0), data[:600])


def test_levels_compress():
    sizes = [len(GDeflateCodec(level).encode(TEXT)) for level in (0, 1, 9)]
    assert sizes[0] > len(TEXT)
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * sizes[2]
    assert GDeflateCodec(12).encode(TEXT) == GDeflateCodec(9).encode(TEXT)


def test_header_is_that_of_zarrs():
    assert GDeflateCodec().encode(b"") == bytes(16)
    assert GDeflateCodec().decode(bytes(16), Size(0)) == b""
    encoded = GDeflateCodec().encode(bytes(70_000))
    n, n_pages, first, second = struct.unpack("<4Q", encoded[:32])
    assert (n, n_pages) == (70_000, 2)
    assert 32 + first + second == len(encoded)


def test_bad_chunks_are_refused():
    data = FIELD[:2000]
    encoded = GDeflateCodec().encode(data)
    check_wrong_sizes(GDeflateCodec(), encoded, 2000)
    check_truncation(GDeflateCodec(), encoded, 2000)
    assert check_mutants(GDeflateCodec(), encoded, 2000) > 250


@pytest.mark.parametrize("name", GOLDEN)
def test_pages_cut_short_are_refused_even_when_the_header_agrees(name):
    """Words that no bit is used of may be missing; then what is read is right."""
    data, stored = golden(name)
    pages = split_pages(stored, Size(len(data)))
    page = stored[pages.offset[0] :][: pages.nbytes[0]]
    data = data[:PAGE_NBYTES]
    missing = 0
    for n in range(128, len(page), 4):
        try:
            assert decode_page(page[:n], len(data)) == data
            missing += 1
        except CodecError:
            assert missing == 0, "a shorter page was read"
    assert missing <= 32  # the look ahead of each lane
    assert decode_page(page + bytes(8), len(data)) == data
    with pytest.raises(CodecError, match="after the last block"):
        decode_page(page + bytes(7) + b"\x01", len(data))


# -- the header --------------------------------------------------------------------------------


def header(*values, tail=0):
    return struct.pack(f"<{len(values)}Q", *values) + bytes(tail)


@pytest.mark.parametrize(
    "data, decoded, match",
    [
        (b"", Size(0), "cut short .expected at least 16"),
        (bytes(15), Size(0), "cut short"),
        (header(0, 0, tail=1), Size(0), "do not end where the chunk ends"),
        (header(0, 1, 128, tail=128), Size(0), "number of pages for 0 bytes .expected 0, found 1"),
        (header(1, 0), Size(1), "number of pages"),
        (header(1, 2, 128, 128, tail=256), Size(1), "number of pages"),
        (header(65_537, 1, 128, tail=128), Size(65_537), "expected 2, found 1"),
        (header(5, 2**61 + 1), Size(5), "number of pages"),
        (header(2**64 - 1, 2**48), Size(2**40, exact=False), "wrong decoded size"),
        (header(2**40, 2**24), Size(2**40), "cut short .expected at least 134217744 bytes"),
        (header(1, 1), Size(1), "cut short .expected at least 24"),
        (header(1, 1, 124, tail=124), Size(1), "size of page 0 .expected 128 to 131360"),
        (header(1, 1, 130, tail=130), Size(1), "size of page 0"),
        (header(1, 1, 131_364, tail=131_364), Size(1), "size of page 0"),
        (header(65_537, 2, 128, 2**64 - 128), Size(65_537), "page 1 .*found 18446744073709551488"),
        (header(1, 1, 132, tail=128), Size(1), "chunk ends .expected 156, found 152"),
        (header(1, 1, 128, tail=132), Size(1), "chunk ends"),
    ],
)
def test_headers_that_lie_are_refused(data, decoded, match):
    for call in (split_pages, GDeflateCodec().decode):
        with pytest.raises(CodecError, match=match):
            call(data, decoded)
    check_bounded(GDeflateCodec(), data, decoded)


def test_pages_are_split():
    sizes = [128, MAX_PAGE_NBYTES, 132]
    data = header(131_073, 3, *sizes, tail=sum(sizes))
    pages = split_pages(data, Size(131_073))
    assert pages.nbytes.tolist() == sizes
    assert pages.offset.tolist() == [40, 168, 168 + MAX_PAGE_NBYTES]
    assert pages.out_nbytes.tolist() == [65_536, 65_536, 1]
    assert {column.dtype for column in (pages.offset, pages.nbytes, pages.out_nbytes)} == {
        np.dtype("i8")
    }
    whole = split_pages(header(131_072, 2, 128, 128, tail=256), Size(131_072))
    assert whole.out_nbytes.tolist() == [65_536, 65_536]
    assert len(split_pages(bytes(16), Size(10, exact=False)).offset) == 0


# -- pages built bit by bit --------------------------------------------------------------------


def page_of(*parts):
    """A page from (lane, bits as text in the order in which they are read): the first words."""
    lanes = [""] * 32
    for lane, bits in parts:
        lanes[lane] += bits
    words = [int(bits[:32][::-1] or "0", 2) for bits in lanes]
    return struct.pack("<32I", *words)


LITERAL_0 = "00110000"  # of the fixed codes
END = "0000000"
MATCH_3 = "0000001"
DISTANCE_1 = "00000"


def test_a_page_by_hand():
    """Literal, match of length 3, end; the distance comes last although it belongs before."""
    head = (0, "1" + "10")
    page = page_of(head, (0, LITERAL_0), (1, MATCH_3), (2, LITERAL_0), (3, END), (1, DISTANCE_1))
    assert decode_page(page, 5) == bytes(5)
    long = page_of(
        head, (0, LITERAL_0), (1, "11000101" + f"{9999:016b}"[::-1]), (2, END), (1, "00000")
    )
    assert decode_page(long, 1 + 3 + 9999) == bytes(10_003)


def test_bits_behind_the_end_of_a_page_are_not_zeros():
    """Lane 0 needs ten bits more than its word has, and all of them happen to be 0."""
    literals = [(i % 32, LITERAL_0) for i in range(128)]
    page = page_of((0, "1" + "10"), *literals, (0, END))
    with pytest.raises(CodecError, match="cut short"):
        decode_page(page, 128)
    assert decode_page(page + bytes(4), 128) == bytes(128)


@pytest.mark.parametrize(
    "parts, match",
    [
        ([(0, "1" + "11")], "unknown kind"),
        ([(0, "1" + "10"), (0, MATCH_3), (1, END), (0, DISTANCE_1)], "before the start"),
        ([(0, "1" + "10"), (0, "11000110")], "no meaning"),  # symbol 286
        ([(0, "1" + "10"), *[(i, LITERAL_0) for i in range(6)]], "wrong decoded size"),
        ([(0, "1" + "10"), (0, LITERAL_0), (1, END)], "wrong decoded size"),
        ([(0, "1" + "10"), (0, LITERAL_0), (1, "1100010111111111")], "wrong decoded size"),
        ([(0, "1" + "00" + "0110000000000000")], "wrong decoded size"),  # 6 stored bytes
        ([(0, "0" + "00")], "cut short"),  # empty stored blocks without end
        ([(0, "1" + "01" + "00000" + "00000" + "0000")], "no meaning"),  # all lengths are 0
        (
            # Code lengths 1 for the symbols 0 and 16, of which the first is a repetition.
            [(0, "1" + "01" + "00000" + "00000" + "0000" + "100"), (3, "100"), (0, "1")],
            "without a first",
        ),
        (
            # Symbols 0 and 18 with codes of two bits: half of the codes are missing.
            [(0, "1" + "01" + "00000" + "00000" + "0000"), (2, "010"), (3, "010")],
            "no Huffman code",
        ),
        (
            # Symbols 0, 17 and 18 with codes of one bit.
            [(0, "1" + "01" + "00000" + "00000" + "0000"), (1, "100"), (2, "100"), (3, "100")],
            "no Huffman code",
        ),
        (
            # Symbols 1 and 18: 256 zeros, a code for the end of the block, and too many zeros.
            [
                *((0, "1" + "01" + "00000" + "00000" + "0111"), (17, "100")),
                *((0, "000" + "1" + "1111111"), (1, "000" + "1" + "1101011")),
                *((2, "100" + "0"), (3, "000" + "1" + "0000000")),
            ],
            "bad code lengths",
        ),
        (
            # Symbols 0 and 18: 138 zeros twice are more than 258 lengths.
            [
                *((0, "1" + "01" + "00000" + "00000" + "0000"), (2, "100"), (3, "100")),
                *((0, "000" + "1" + "1111111"), (1, "000" + "1" + "1111111")),
            ],
            "bad code lengths",
        ),
        (
            # As before but exactly 258 zeros, so that the end of the block has no code.
            [
                *((0, "1" + "01" + "00000" + "00000" + "0000"), (2, "100"), (3, "100")),
                *((0, "000" + "1" + "1111111"), (1, "000" + "1" + "1011011")),
            ],
            "bad code lengths",
        ),
    ],
)
def test_bad_pages_by_hand(parts, match):
    with pytest.raises(CodecError, match=match):
        decode_page(page_of(*parts), 5)


def test_a_bomb_of_empty_blocks_ends():
    """As many blocks as fit into the largest page, each with nothing in it."""
    lane_0 = "0" + "10" + END
    page = np.zeros(MAX_PAGE_NBYTES // 4, "<u4")
    bits = lane_0 * (32 * len(page) // len(lane_0))
    words = [int(bits[i : i + 32][::-1], 2) for i in range(0, len(bits) - 32, 32)]
    page[0] = words[0]
    page[32:] = words[1 : len(page) - 31]
    with pytest.raises(CodecError, match="cut short"):
        decode_page(page.tobytes(), 5)


def test_decoding_is_bounded():
    stored = golden("zeros")[1]
    check_bounded(GDeflateCodec(), stored, Size(12_000))
    check_bounded(GDeflateCodec(), stored, Size(69_999, exact=False))


def test_configuration():
    check_config(GDeflateCodec(12))
    assert GDeflateCodec.from_config({}) == GDeflateCodec(6)
    for level in (-1, 13, "1", True, 1.0):
        with pytest.raises(ValueError, match="level"):
            GDeflateCodec.from_config({"level": level})
        with pytest.raises(ValueError, match="level"):
            GDeflateCodec(level)
    document = {"name": "zarrs.gdeflate", "configuration": {"level": 9}}
    assert registry.get_codec(document) == GDeflateCodec(9)
    assert "zarrs.gdeflate" in registry.known()
