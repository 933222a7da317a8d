from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd

from tests.codecs.checks import (
    FIELD,
    check_bounded,
    check_config,
    check_mutants,
    check_numcodecs,
    check_round_trip,
    check_truncation,
    check_wrong_sizes,
    each_sample,
)
from zarr_gpu.codecs import _native, _zstd_batch
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.zstd import ZstdCodec, read_frame_header, read_sizes
from zarr_gpu.errors import CodecError


@pytest.fixture(scope="module", params=["system", "wheel", "numcodecs"], autouse=True)
def library(request):
    """The library that decodes: the system's, the wheel's, the latter by numcodecs' functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "ENABLED", request.param != "numcodecs")
        if request.param != "system":
            patch.setattr(_native, "_system_zstd", lambda: None)
        elif _native.zstd_decoder() is _native.zstd():
            pytest.skip("the system has no libzstd")
        yield request.param


MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x53\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
WINDOW_1_MIB = 10 << 3


def raw_frame(*blocks, window=WINDOW_1_MIB):
    """A frame of stored blocks that does not give its content size."""
    frame = MAGIC + bytes([0, window])
    for i, block in enumerate(blocks):
        frame += ((len(block) << 3) | (i == len(blocks) - 1)).to_bytes(3, "little") + block
    return frame


def rle_frame(n_blocks):
    """A frame that repeats one byte: 4 bytes of it decode to 128 KiB."""

    def block(last):
        return ((128 << 10 << 3) | 2 | last).to_bytes(3, "little") + b"x"

    return MAGIC + bytes([0, WINDOW_1_MIB]) + block(0) * (n_blocks - 1) + block(1)


def sized_frame(n, content=b"x"):
    """A frame that claims to hold ``n`` bytes."""
    stored = (len(content) << 3 | 1).to_bytes(3, "little") + content
    return MAGIC + bytes([0xE0]) + n.to_bytes(8, "little") + stored


@each_sample
@pytest.mark.parametrize("level", [-5, 0, 3, 22])
@pytest.mark.parametrize("checksum", [False, True])
def test_same_as_numcodecs(data, level, checksum):
    codec = ZstdCodec(level, checksum)
    check_round_trip(codec, data)
    check_numcodecs(codec, numcodecs.Zstd(level, checksum), data)


@pytest.mark.parametrize("checksum", [False, True])
def test_bad_streams_are_refused(checksum):
    codec = ZstdCodec(checksum=checksum)
    encoded = codec.encode(FIELD[:4000])
    check_wrong_sizes(codec, encoded, 4000)
    check_truncation(codec, encoded, 4000)
    assert check_mutants(codec, encoded, 4000) > (400 if checksum else 250)


FRAMES = {
    "two frames": zstd.compress(b"abc") + zstd.compress(b"defg"),
    "no content size": raw_frame(b"abc", b"defg"),
    "both": zstd.compress(b"abc") + raw_frame(b"defg"),
    "skippable in front": SKIPPABLE + zstd.compress(b"abcdefg"),
    "skippable behind": raw_frame(b"abcdefg") + SKIPPABLE,
    "empty frames": zstd.compress(b"") + zstd.compress(b"abcdefg") + raw_frame(b""),
}


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_frames_of_all_kinds_are_read(data):
    for decoded in (Size(7), Size(7, exact=False), Size(100, exact=False)):
        assert bytes(ZstdCodec().decode(data, decoded)) == b"abcdefg"
    out = memoryview(bytearray(7))
    assert ZstdCodec().decode(data, Size(7), out) is out
    assert bytes(out) == b"abcdefg"
    check_wrong_sizes(ZstdCodec(), data, 7)


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_frames_of_all_kinds_cut_short_are_refused(data):
    for n in range(len(data)):
        for decoded in (Size(7), Size(7, exact=False)):
            try:
                result = ZstdCodec().decode(data[:n], decoded)
            except CodecError:
                continue
            # A bound alone cannot tell that whole frames are missing, nor that padding is.
            assert b"abcdefg".startswith(bytes(result))
            assert decoded.check(len(result))


def test_many_blocks_of_unknown_size_are_read():
    data = np.random.default_rng(0).bytes(300_000)
    frame = raw_frame(data[:100_000], data[100_000:200_000], data[200_000:])
    for decoded in (Size(300_000), Size(300_000, exact=False)):
        assert bytes(ZstdCodec().decode(frame, decoded)) == data


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("claimed", [2**62, 2**64 - 3, 1 << 33])
def test_claimed_sizes_are_not_allocated(claimed, exact):
    check_bounded(ZstdCodec(), sized_frame(claimed), Size(12_000, exact))
    check_bounded(ZstdCodec(), zstd.compress(b"a") + sized_frame(claimed), Size(12_000, exact))


@pytest.mark.parametrize("exact", [True, False])
def test_bombs_stay_bounded(exact):
    check_bounded(ZstdCodec(), zstd.compress(bytes(64 << 20)), Size(12_000, exact))
    check_bounded(ZstdCodec(), rle_frame(2000), Size(12_000, exact))  # 250 MiB


def test_window_is_limited():
    ok, too_large = (27 - 10) << 3, (31 - 10) << 3
    assert bytes(ZstdCodec().decode(raw_frame(b"a", window=ok), Size(1))) == b"a"
    with pytest.raises(CodecError, match="at most 134217728 bytes, found 2147483648"):
        ZstdCodec().decode(raw_frame(b"a", window=too_large), Size(1))


def test_reserved_bit_of_a_frame_header_is_refused():
    frame = bytearray(raw_frame(b"a"))
    frame[4] |= 0x08
    with pytest.raises(CodecError, match="header damaged"):
        read_frame_header(frame)


def test_garbage_names_what_was_found():
    with pytest.raises(CodecError, match="expected 28b52ffd, found 1f8b0800"):
        ZstdCodec().decode(b"\x1f\x8b\x08\x00", Size(1))
    with pytest.raises(CodecError, match="found nothing"):
        ZstdCodec().decode(b"", Size(0))


@pytest.mark.parametrize("n", [0, 1, 255, 256, 65_791, 65_792, 200_000])
def test_frame_header_gives_the_content_size(n):
    header = read_frame_header(zstd.compress(bytes(n), 0, True))
    assert header.content_nbytes == n
    assert header.checksum


def test_sizes_are_exact_or_an_upper_bound():
    assert read_sizes(zstd.compress(bytes(1000)) * 2 + SKIPPABLE) == Size(2000)
    assert read_sizes(raw_frame(b"abc", b"d")) == Size(4, exact=False)
    assert read_sizes(rle_frame(10)) == Size(10 * (128 << 10), exact=False)


def test_configuration():
    check_config(ZstdCodec(7, checksum=True))
    assert ZstdCodec.from_config({}) == ZstdCodec()
    assert ZstdCodec.from_numcodecs({"id": "zstd", "level": 1}) == ZstdCodec(1)
    for member in ({"level": 23}, {"level": -131073}, {"level": "1"}, {"checksum": 1}):
        with pytest.raises(ValueError, match=next(iter(member))):
            ZstdCodec.from_config(member)


# -- encoding with a context for each thread ---------------------------------------------------

SIZES = st.one_of(
    st.integers(0, 5000),
    st.integers(_native.MOST_ZSTD - 2, _native.MOST_ZSTD + 2),
    st.integers(0, _native.MOST_ZSTD),
)


@given(SIZES, st.integers(-50, 12) | st.integers(-131072, 22), st.booleans(), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_bytes_are_those_of_numcodecs_whatever_came_before(nbytes, level, checksum, kind):
    data = contents(nbytes, 4)[kind]
    level = level if nbytes < 5000 else min(level, 12)  # higher ones take a tenth of a second
    encoded = ZstdCodec(level, checksum).encode(data)
    assert type(encoded) is bytes
    assert encoded == zstd.compress(data, level, checksum)


def test_threads_with_their_own_settings_do_not_mix_them_up():
    data = contents(3000, 40)
    jobs = [(data[i % 40], i % 7 - 2, i % 3 == 0) for i in range(300)]
    expected = [zstd.compress(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda job: ZstdCodec(job[1], job[2]).encode(job[0]), jobs)
        assert list(found) == expected


@pytest.fixture
def native():
    library = _native.zstd()
    if library is None:
        pytest.skip("no libzstd")
    return library


def test_an_encoder_in_use_is_not_used_again(native, monkeypatch):
    """As by the handler of a signal that writes, too."""
    first, second = contents(2000)[1:3]
    depth = []

    def interrupted(call):
        def wrapped(*args):
            result = call(*args)
            if not depth:
                depth.append(1)
                assert ZstdCodec(9, True).encode(second) == zstd.compress(second, 9, True)
                depth.pop()
            return result

        return wrapped

    for name in ("_compress", "_set"):
        ZstdCodec(5).encode(first)
        monkeypatch.setattr(native, name, interrupted(getattr(native, name)))
        assert ZstdCodec(1).encode(first) == zstd.compress(first, 1, False)


@pytest.mark.parametrize("name", ["_set", "_compress"])
def test_what_fails_is_left_to_numcodecs(native, monkeypatch, name):
    monkeypatch.setattr(native, name, lambda *args: 2**64 - 64)  # memory_allocation
    native._idle.encoder = None
    assert native.compress(b"abc", 3, 1, False) is None
    assert native._idle.encoder is None  # who knows in what state it is
    assert ZstdCodec(1).encode(FIELD) == zstd.compress(FIELD, 1, False)


def test_memory_that_is_kept_is_bounded(native, monkeypatch):
    most = _native.MOST_ZSTD
    ZstdCodec(1).encode(bytes(most))
    assert len(native._idle.encoder.memory) < most + 1024
    monkeypatch.setattr(native, "compress", None)
    data = bytes(most + 1)
    assert ZstdCodec(1).encode(data) == zstd.compress(data, 1, False)


# -- many small frames by one call -------------------------------------------------------------


def batch(frames):
    nbytes = np.array([len(f) for f in frames], np.int64)
    return memoryview(bytearray(b"".join(frames))), np.cumsum(nbytes) - nbytes, nbytes


def contents(n, count=20):
    rng = np.random.default_rng(n)
    kinds = [
        lambda: bytes(n),
        lambda: rng.bytes(n),
        lambda: bytes(rng.integers(0, 4, n, "u1")),
        lambda: (b"zarr" * n)[:n],
    ]
    return [kinds[i % 4]() for i in range(count)]


@pytest.mark.parametrize("nbytes", [16, 100, 255, 256, 4096, 65791, 65792, 300_000])
@pytest.mark.parametrize("checksum", [False, True])
def test_many_frames_decode_to_what_each_does(nbytes, checksum):
    codec = ZstdCodec(level=3, checksum=checksum)
    pieces = contents(nbytes, 8)
    found = codec.decode_many(*batch([bytes(codec.encode(p)) for p in pieces]), Size(nbytes))
    assert list(map(bytes, found)) == pieces


def test_frames_in_any_order_and_with_gaps_are_found():
    codec = ZstdCodec(level=1)
    pieces = contents(500)
    data, offset, nbytes = batch([b"gap" + bytes(codec.encode(p)) for p in pieces])
    order = np.random.default_rng(0).permutation(len(pieces))
    found = codec.decode_many(data, offset[order] + 3, nbytes[order] - 3, Size(500))
    assert list(map(bytes, found)) == [pieces[i] for i in order]


def damaged(frames):
    yield "behind a frame", [*frames[:3], frames[3] + b"!", *frames[4:]]
    yield "cut short", [*frames[:3], frames[3][:-1], *frames[4:]]
    yield "empty", [*frames[:3], b"", *frames[4:]]
    yield "two frames", [*frames[:3], frames[3] * 2, *frames[4:]]
    yield "skippable", [*frames[:3], frames[3] + b"\x50\x2a\x4d\x18\0\0\0\0", *frames[4:]]
    yield "other header", [*frames[:3], frames[3].replace(b"\x28", b"\x29", 1), *frames[4:]]
    yield "no frame", [b"nothing of the kind", *frames[1:]]
    for at in range(len(frames[3])):
        changed = bytearray(frames[3])
        changed[at] ^= 0xFF
        yield f"byte {at}", [*frames[:3], bytes(changed), *frames[4:]]


@pytest.mark.parametrize("nbytes", [64, 1000])
def test_damage_is_left_to_the_decoder_of_one_frame(nbytes):
    """Or decodes to what that decoder gives: there are bits that do not matter."""
    codec = ZstdCodec(level=1, checksum=True)
    frames = [bytes(codec.encode(p)) for p in contents(nbytes, 8)]
    for what, some in damaged(frames):
        found = codec.decode_many(*batch(some), Size(nbytes))
        if found is not None:
            alone = [bytes(codec.decode(f, Size(nbytes))) for f in some]
            assert list(map(bytes, found)) == alone, what


def test_frames_of_another_size_are_left_alone():
    codec = ZstdCodec(level=1)
    frames = [bytes(codec.encode(p)) for p in contents(1000, 4)]
    assert codec.decode_many(*batch(frames), Size(999)) is None
    mixed = [*frames, bytes(codec.encode(bytes(999)))]
    assert codec.decode_many(*batch(mixed), Size(1000)) is None


def test_without_the_package_frames_are_decoded_one_by_one(monkeypatch):
    codec = ZstdCodec(level=1)
    frames = [bytes(codec.encode(p)) for p in contents(1000, 4)]
    monkeypatch.setattr(_zstd_batch, "_library", lambda: None)
    assert codec.decode_many(*batch(frames), Size(1000)) is None
