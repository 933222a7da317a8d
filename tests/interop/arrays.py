"""Random arrays, regions and histories, common to the comparisons with all implementations."""

import math

import hypothesis.strategies as st
import numpy as np

TEXTS = ["", "a", "Größe", "\U0001f40d数", "x" * 40]
BYTESTRINGS = [b"", b"\xff", b"a\0b", b"long " * 9]


@st.composite
def grids(draw, max_dims=3, sharded=False):
    """``(shape, chunks, shards)``; shards is None unless they are wanted."""
    ndim = draw(st.integers(0, max_dims))
    shape = tuple(draw(st.lists(st.integers(0, 11), min_size=ndim, max_size=ndim)))
    chunks = tuple(draw(st.lists(st.integers(1, 6), min_size=ndim, max_size=ndim)))
    if not sharded:
        return shape, chunks, None
    factors = draw(st.lists(st.integers(1, 3), min_size=ndim, max_size=ndim))
    return shape, chunks, tuple(c * f for c, f in zip(chunks, factors, strict=True))


@st.composite
def regions(draw, shape, steps=True):
    """A tuple of slices, some of them empty, and integers nowhere."""
    out = []
    for n in shape:
        start = draw(st.integers(0, n))
        stop = draw(st.integers(start, n))
        out.append(slice(start, stop, draw(st.integers(1, 3)) if steps else None))
    return tuple(out)


def random_values(rng, dtype, shape, *, payloads=True):
    """Any bits where the type allows it, but one NaN and one NaT only unless ``payloads``."""
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    if dtype.kind in "OT":
        pool = TEXTS if dtype.kind == "T" else BYTESTRINGS
        out = np.empty(count, dtype)
        out[:] = [pool[i] for i in rng.integers(len(pool), size=count)]
    elif dtype.kind == "b":
        out = rng.integers(2, size=count).astype(bool)
    elif dtype.kind == "U":
        out = np.array([TEXTS[i] for i in rng.integers(4, size=count)], dtype.newbyteorder("="))
        out = out.astype(dtype)
    elif dtype.names:
        out = np.zeros(count, dtype)
        for name in dtype.names:
            out[name] = random_values(rng, dtype[name], (count,), payloads=payloads)
    else:
        out = np.frombuffer(rng.bytes(count * dtype.itemsize), dtype).copy()
    if dtype.kind in "fc" and not payloads:
        parts = out.view(dtype.type(0).real.dtype.newbyteorder(dtype.byteorder))
        parts[np.isnan(parts)] = np.nan
    return out.reshape(shape)


def assert_same_bits(found, expected):
    """Equal shape, values and NaN payloads; byte order may differ."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    if found.dtype.kind in "OT":
        assert found.tolist() == expected.tolist()
        return
    assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    found, expected = (a.astype(a.dtype.newbyteorder("=")) for a in (found, expected))
    assert found.tobytes() == expected.tobytes()


def resized(model, shape, fill):
    """What an array holds after a resize that forgets what it cuts off."""
    out = np.empty(shape, model.dtype)
    out[...] = fill
    common = tuple(slice(min(a, b)) for a, b in zip(model.shape, shape, strict=True))
    out[common] = model[common]
    return out
