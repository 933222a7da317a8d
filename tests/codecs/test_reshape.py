import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import spec_of
from zarr_gpu.codecs.reshape import ReshapeCodec


@pytest.mark.parametrize(
    ("shape", "chunk", "expected"),
    [
        ([[0, 1], [2], 3], (100, 50, 64, 3), (5000, 64, 3)),
        ([-1], (2, 3), (6,)),
        ([3, -1], (2, 3), (3, 2)),
        ([[0], [], 5], (4, 5), (4, 1, 5)),
        ([6, [2]], (2, 3, 4), (6, 4)),
        ([[0, 2]], (2, 1, 3), (6,)),
        ([], (1, 1), ()),
        ([1, 1], (), (1, 1)),
    ],
)
def test_shapes_are_resolved_as_the_definition_says(shape, chunk, expected):
    codec = ReshapeCodec.from_config({"shape": shape})
    assert codec.resolve(chunk) == expected
    assert codec.to_config() == {"shape": shape}


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ([7], (2, 3)),
        ([-1, 4], (2, 3)),
        ([[0], 3], (2, 4)),
        ([[2]], (6,)),
        ([2, [0]], (2, 2)),  # sizes fit, but dimension 0 does not lie there
        ([[1], 2], (2, 3)),
        ([[0, 2], 1], (2, 3, 1)),
    ],
)
def test_bind_refuses_what_does_not_fit(shape, chunk):
    with pytest.raises(ValueError, match="shape"):
        ReshapeCodec.from_config({"shape": shape}).bind(spec_of("int8", chunk))


@pytest.mark.parametrize(
    "shape",
    [None, 3, "6", [0], [-2], [True], ["1"], [-1, -1], [[1], [0]], [[1, 0]], [[-1]], [[0], [0]]],
)  # fmt: skip
def test_wrong_configuration_is_named(shape):
    with pytest.raises(ValueError, match="shape"):
        ReshapeCodec.from_config({"shape": shape})


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans())
def test_elements_stay_in_c_order(chunk, fortran):
    spec = spec_of("int16", chunk)
    array = np.arange(spec.size, dtype="i2").reshape(chunk, order="F" if fortran else "C")
    codec = ReshapeCodec((tuple(range(len(chunk) - 1)), -1)).bind(spec)
    encoded = codec.encode(array, spec)
    assert encoded.shape == codec.encoded_spec(spec).shape
    assert np.array_equal(encoded.reshape(-1), array.reshape(-1))
    assert np.array_equal(codec.decode(encoded, spec), array)
