import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.checks import FIELD, mutants
from zarr_gpu.codecs import snappy
from zarr_gpu.errors import CodecError

LIBRARIES = ["cramjam", "none"]


def decode(library, data, n):
    """Decoded into a buffer with sentinels on both sides."""
    lib = pytest.importorskip("cramjam") if library == "cramjam" else None
    memory = bytearray(b"\xa5" * (n + 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snappy, "_library", lambda: lib)
        try:
            snappy.decompress_into(memoryview(data), memoryview(memory)[8 : 8 + n])
        finally:
            assert memory[:8] == memory[-8:] == b"\xa5" * 8
    return bytes(memory[8 : 8 + n])


STREAMS = {  # format_description.txt of google/snappy, section 2
    b"\x00": b"",
    b"\x03\x08abc": b"abc",
    b"\x06\x04ab\x01\x02": b"ababab",  # copy with a distance of one byte, overlapping
    b"\x04\x04ab\x06\x02\x00": b"abab",  # of two bytes
    b"\x04\x04ab\x07\x02\x00\x00\x00": b"abab",  # of four bytes
    b"\x46\xf0\x45" + b"z" * 70: b"z" * 70,  # literal with its length in one byte
    b"\x46\xf4\x45\x00" + b"z" * 70: b"z" * 70,
    b"\x46\xfc\x45\x00\x00\x00" + b"z" * 70: b"z" * 70,
    b"\x05\x00a\x0e\x01\x00": b"aaaaa",
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("stream", "data"), STREAMS.items(), ids=repr)
def test_every_kind_of_element(library, stream, data):
    assert decode(library, stream, len(data)) == data


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\x80",
        b"\xff\xff\xff\xff\xff\x01",
        b"\x04",  # nothing follows
        b"\x04\x04ab",  # too little
        b"\x04\x04ab\x06\x02",  # cut in an operand
        b"\x04\x0cab",  # cut in a literal
        b"\x04\x04ab\x06\x03\x00",  # from before the start
        b"\x04\x04ab\x06\x00\x00",  # distance 0
        b"\x04\x04ab\x0a\x02\x00",  # one byte too many
        b"\x04\x10abcde",
        b"\x03\x08abc",  # another size
    ],
    ids=repr,
)
def test_impossible_streams_are_refused(library, stream):
    with pytest.raises(CodecError, match="snappy"):
        decode(library, stream, 4)


@given(st.lists(st.sampled_from([b"a", b"bc", bytes(70), FIELD[:300]]), max_size=40))
def test_streams_of_cramjam_are_read(parts):
    data = b"".join(parts)
    packed = bytes(pytest.importorskip("cramjam").snappy.compress_raw(data))
    for library in LIBRARIES:
        assert decode(library, packed, len(data)) == data


def test_verdict_does_not_depend_on_the_library():
    data = FIELD[:400] + bytes(200) + random.Random(0).randbytes(100) + FIELD[:300]
    packed = bytes(pytest.importorskip("cramjam").snappy.compress_raw(data))
    refused = 0
    for mutant in mutants(packed, 500):
        results = []
        for library in LIBRARIES:
            try:
                results.append(decode(library, mutant, len(data)))
            except CodecError:
                results.append(None)
        assert results[0] == results[1]
        refused += results[0] is None
    assert refused > 100
