"""Random arrays, regions and histories, common to the comparisons with all implementations."""

import math

import hypothesis.strategies as st
import numpy as np

import zarr_gpu

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
    """A tuple of slices, some of them empty."""
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
    expected = np.asarray(expected)
    if expected.dtype.kind in "OTSU":  # single elements are str or bytes of their own length
        found = np.asarray(found, object)
        assert found.shape == expected.shape
        assert found.tolist() == expected.tolist()
        return
    found = np.asarray(found)
    assert found.shape == expected.shape
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


def take_turns(folder, others, seed, data, *, steps=True):
    """zarr_gpu and others change an array; after every change all of them hold what NumPy does.

    ``others`` open the array that is in ``folder``. They only ever let it grow: what a smaller
    shape cuts off, they may show again later. ``steps``: they write slices with steps.
    """
    rng = np.random.default_rng(seed)

    def ours():
        return zarr_gpu.open_array(folder, mode="r+")

    def check():
        for opener in (ours, *others):
            assert_same_bits(opener()[...], model)

    def values(shape):
        return random_values(rng, model.dtype, shape, payloads=payloads)

    fill = ours().fill_value
    fill = ours()._layout.fill_value if fill is None else fill
    model = np.empty(ours().shape, ours().dtype)
    model[...] = fill
    # others take chunks of any NaN for empty where the fill value is NaN
    payloads = not (model.dtype.kind in "fc" and np.isnan(fill))
    check()
    for _ in range(data.draw(st.integers(1, 4), label="steps")):
        opener = data.draw(st.sampled_from([ours, *others]), label="who")
        action = data.draw(st.sampled_from(["write", "write", "fill", "resize", "append"]))
        array = opener()
        if action in ("write", "fill"):
            where = data.draw(regions(model.shape, steps or opener is ours))
            new = values(model[(*where, ...)].shape)
            if action == "fill":
                new[...] = fill
            array[where] = new
            model[where] = new
        elif action == "append" and model.ndim:
            new = values((data.draw(st.integers(0, 4)), *model.shape[1:]))
            array.append(new)
            model = np.concatenate([model, new])
        elif action == "resize":
            least = [0 if opener is ours else n for n in model.shape]
            shape = tuple(data.draw(st.integers(n, max(n, 14))) for n in least)
            array.resize(shape)
            model = resized(model, shape, fill)
        check()
