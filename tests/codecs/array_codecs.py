"""Shared by the tests of array codecs: chunks, round trips, and mutations of what is stored."""

import random

import numpy as np

from zarr_gpu.codecs.base import ChunkSpec
from zarr_gpu.errors import CodecError, UnsafeCodecError
from zarr_gpu.metadata.dtypes import from_dtype_like, parse_v3


def spec_of(dtype, shape, fill=None):
    """A chunk of a v3 type (its JSON) or of anything that ``dtype=`` takes."""
    try:
        data_type = parse_v3(dtype)
    except (ValueError, TypeError):
        data_type = from_dtype_like(dtype)
    return ChunkSpec(shape=tuple(shape), data_type=data_type, fill_value=data_type.cast_fill(fill))


def random_array(spec, seed=0):
    """Random bits, whatever the type; upper bits of sub-byte types are zero."""
    raw = np.random.default_rng(seed).bytes(spec.nbytes)
    if spec.dtype == np.bool_:
        raw = bytes(b & 1 for b in raw)
    return spec.data_type.sanitize(np.ndarray(spec.shape, spec.dtype, raw))


def bits(array):
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def round_trip(codec, array, spec):
    """Decoded again, and checked against the size that the codec foretold."""
    codec = codec.bind(spec)
    data = codec.encode(array, spec)
    assert codec.encoded_size(spec).check(len(data))
    back = codec.decode(data, spec)
    assert back.shape == spec.shape
    return back


def mutants(data, n=150, seed=0):
    """Damaged copies: cut, grown, bits and bytes changed."""
    rng = random.Random(seed)
    data = bytes(data)
    yield from (b"", data[:1], data[:-1], data + b"\0", b"\xff" * len(data))
    for _ in range(n):
        copy = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            if copy:
                copy[rng.randrange(len(copy))] = rng.choice(
                    (0, 1, 127, 128, 255, rng.randrange(256))
                )
        yield bytes(copy[: rng.randrange(len(copy) + 1)] if rng.random() < 0.3 else copy)


def check_only_codec_errors(codec, data, spec):
    """Decoding damaged data gives an array of the right form or a CodecError."""
    codec = codec.bind(spec)
    for damaged in mutants(data):
        try:
            result = codec.decode(damaged, spec)
        except (CodecError, UnsafeCodecError):
            continue
        assert result.shape == spec.shape
        assert np.can_cast(result.dtype, spec.dtype, "equiv")
