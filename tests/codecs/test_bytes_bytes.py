import zlib

import pytest

from zarr_gpu.codecs._bytes_bytes import decompress_streams, numcodecs_members
from zarr_gpu.codecs.base import Size
from zarr_gpu.errors import CodecError


def decode(data, decoded, **kwargs):
    return decompress_streams(
        lambda: zlib.decompressobj(31), data, decoded, codec="x", errors=(zlib.error,), **kwargs
    )


def gz(data):
    return zlib.compress(data, wbits=31)


def test_members_are_one_chunk():
    parts = [b"a", b"", b"bc" * 5000, b"d"]
    assert decode(b"".join(map(gz, parts)), Size(10_002), members=True) == b"".join(parts)


def test_many_tiny_members_do_not_copy_the_rest_each_time():
    class Counting:
        fed = 0

        def __init__(self):
            self.stream = zlib.decompressobj(31)

        eof = property(lambda self: self.stream.eof)
        unused_data = property(lambda self: self.stream.unused_data)

        def decompress(self, data, max_length):
            Counting.fed += len(data)
            return self.stream.decompress(data, max_length)

    data = gz(b"x") * 3000
    assert decompress_streams(Counting, data, Size(3000), codec="x", members=True) == b"x" * 3000
    assert Counting.fed < 5000 * 3000  # not the quadratic 3000 * len(data) / 2
    assert len(data) * 3000 / 2 > 90_000_000


def test_a_single_stream_may_not_be_followed_by_another():
    with pytest.raises(CodecError, match="21 bytes after the end"):
        decode(gz(b"a") * 2, Size(2))


def test_zero_bytes_may_follow():
    assert decode(gz(b"a") + bytes(100), Size(1)) == b"a"
    assert decode(gz(b"a") * 2 + bytes(100), Size(2), members=True) == b"aa"


@pytest.mark.parametrize("members", [True, False])
@pytest.mark.parametrize("rest", [b"\0\0x", b"x", b"\x1f\x8b"])
def test_other_bytes_may_not_follow(rest, members):
    with pytest.raises(CodecError):
        decode(gz(b"a") + rest, Size(1), members=members)


def test_the_sum_of_members_is_bounded():
    with pytest.raises(CodecError, match="expected 5 bytes, found at least 6 bytes"):
        decode(gz(b"abc") * 3, Size(5), members=True)


def test_nothing_at_all_is_no_stream():
    with pytest.raises(CodecError, match="cut short after 0 bytes"):
        decode(b"", Size(0))


def test_numbers_written_as_strings_are_numbers():
    config = {"id": "zlib", "level": "4", "name": "x4", "n": None}
    assert numcodecs_members(config) == {"level": 4, "name": "x4", "n": None}
