"""What every bytes -> bytes codec has to do, whatever its format; used by the tests of each."""

import random
import tracemalloc

import numpy as np
import pytest

from zarr_gpu.codecs import _native
from zarr_gpu.codecs.base import Size
from zarr_gpu.errors import CodecError

FIELD = np.cumsum(np.random.default_rng(1).normal(size=5000)).astype("<f4").tobytes()
SAMPLES = {
    "empty": b"",
    "one byte": b"\x07",
    "short": bytes(range(61)),
    "zeros": bytes(70_000),
    "noise": np.random.default_rng(0).bytes(9_000),
    "field": FIELD,
}
each_sample = pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES)


@pytest.fixture(scope="module", params=["native", "numcodecs"])
def library(request):
    """The tests of a module, once through ctypes and once through numcodecs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "ENABLED", request.param == "native")
        yield request.param


def check_round_trip(codec, data):
    """Decoded again: exactly, within a bound, into ``out``, and from every kind of buffer."""
    encoded = codec.encode(data)
    n = len(data)
    for decoded in (Size(n), Size(n, exact=False), Size(n + 5, exact=False)):
        assert codec.encoded_size(decoded).check(len(encoded)) or decoded.limit != n
        assert bytes(codec.decode(encoded, decoded)) == data
    for buffer in (bytes(encoded), bytearray(encoded), memoryview(bytes(encoded))):
        assert bytes(codec.decode(buffer, Size(n))) == data
    for buffer in (bytearray(data), memoryview(data), memoryview(bytearray(data))):
        assert bytes(codec.decode(codec.encode(buffer), Size(n))) == data
    check_out(codec, encoded, data)


def check_out(codec, encoded, data):
    """``out`` is filled and returned, or left for another buffer to be returned."""
    out = memoryview(bytearray(b"\xa5" * len(data)))
    result = codec.decode(encoded, Size(len(data)), out)
    assert bytes(result) == data
    assert result is out or not data


def check_wrong_sizes(codec, encoded, n):
    """A stream of another size than metadata say is refused, with the sizes in the error."""
    wrong = [Size(n + 1), Size(2 * n + 1)]
    if n:
        wrong += [Size(n - 1), Size(0), Size(n - 1, exact=False)]
    for decoded in wrong:
        with pytest.raises(CodecError) as caught:
            codec.decode(encoded, decoded)
        assert caught.value.codec == codec.name


def check_truncation(codec, encoded, n):
    """Every proper beginning of a stream is refused."""
    encoded = bytes(encoded)
    step = max(1, len(encoded) // 300)
    for length in {*range(0, len(encoded), step), *range(max(0, len(encoded) - 12), len(encoded))}:
        with pytest.raises(CodecError):
            codec.decode(encoded[:length], Size(n))


def mutants(encoded, count=250, seed=0):
    """Damaged copies: bits, bytes and integers changed, runs removed, repeated or moved."""
    rng = random.Random(seed)
    for _ in range(count):
        copy = bytearray(encoded)
        for _ in range(rng.choice((1, 1, 2, 4))):
            near = min(len(copy), 64) if rng.random() < 0.5 else len(copy)  # headers are in front
            at = rng.randrange(near) if near else 0
            match rng.randrange(5):
                case 0 if copy:
                    copy[at] ^= 1 << rng.randrange(8)
                case 1:
                    value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)))
                    copy[at : at + 4] = value.to_bytes(4, "little")[: len(copy) - at]
                case 2:
                    del copy[at : at + rng.randint(1, 20)]
                case 3:
                    copy[at:at] = copy[: rng.randint(1, 20)]
                case 4 if copy:
                    copy[at] = rng.randrange(256)
        yield bytes(copy)


def check_mutants(codec, encoded, n, count=250):
    """Damage is refused, or goes unnoticed with the right size; nothing else is raised."""
    refused = 0
    for mutant in mutants(encoded, count):
        for decoded in (Size(n), Size(n + 7, exact=False)):
            try:
                result = codec.decode(mutant, decoded)
            except CodecError:
                refused += 1
            else:
                assert decoded.check(len(result))
    return refused


def check_bounded(codec, encoded, decoded, most=1 << 20):
    """``encoded`` is refused without allocating more than ``most`` bytes."""
    codec.encode(b"warm")  # libraries are imported at first use
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            codec.decode(encoded, decoded)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most


def check_config(codec):
    """Its own JSON builds it again, and members that mean nothing are refused."""
    cls = type(codec)
    assert cls.from_config(codec.to_config()) == codec
    with pytest.raises(ValueError, match="nonsense"):
        cls.from_config({**codec.to_config(), "nonsense": 1})
    assert hash(codec) == hash(cls.from_config(codec.to_config()))


def check_numcodecs(codec, numcodec, data, *, identical=True):
    """numcodecs and this codec read each other, and agree on the configuration."""
    config = numcodec.get_config()
    assert type(codec).from_numcodecs(config) == codec
    assert type(numcodec).from_config(codec.to_numcodecs()).get_config() == config
    theirs = bytes(numcodec.encode(data))
    assert bytes(codec.decode(theirs, Size(len(data)))) == data
    ours = bytes(codec.encode(data))
    if data:  # lz4, zstd and blosc of numcodecs cannot read the nothing that they write
        assert bytes(numcodec.decode(ours)) == data
    if identical:
        assert ours == theirs
