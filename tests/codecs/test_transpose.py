import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import spec_of
from zarr_gpu.codecs.transpose import TransposeCodec


@given(st.data())
def test_decoding_undoes_encoding_for_every_order(data):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    order = data.draw(st.permutations(range(len(shape))))
    spec = spec_of("int16", shape)
    array = np.arange(spec.size, dtype="i2").reshape(shape)
    codec = TransposeCodec(tuple(order)).bind(spec)
    encoded = codec.encode(array, spec)
    assert encoded.shape == codec.encoded_spec(spec).shape
    assert np.array_equal(encoded, np.transpose(array, order))
    assert np.array_equal(codec.decode(encoded, spec), array)


def test_letters_of_early_documents_become_lists():
    spec = spec_of("int8", (2, 3, 4))
    assert TransposeCodec("F").bind(spec).order == (2, 1, 0)
    assert TransposeCodec("C").bind(spec).order == (0, 1, 2)
    assert TransposeCodec("F").encoded_spec(spec).shape == (4, 3, 2)
    assert TransposeCodec.from_config({"order": "F"}).to_config() == {"order": "F"}


def test_document_is_written_as_a_list():
    codec = TransposeCodec((1, 0))
    assert codec.to_dict() == {"name": "transpose", "configuration": {"order": [1, 0]}}
    assert TransposeCodec.from_config({"order": [1, 0]}) == codec


@pytest.mark.parametrize("order", ["A", [0, 0], [1], [0, 2], [0, True], [0.0], None, {}, [0, "1"]])
def test_orders_that_are_no_permutation_are_refused(order):
    with pytest.raises(ValueError, match="order"):
        TransposeCodec.from_config({"order": order})


def test_members_are_checked():
    with pytest.raises(ValueError, match="order: required"):
        TransposeCodec.from_config({})
    with pytest.raises(ValueError, match="axis"):
        TransposeCodec.from_config({"order": [0], "axis": 1})


def test_bind_checks_the_number_of_dimensions():
    with pytest.raises(ValueError, match="expected 3 dimensions"):
        TransposeCodec((1, 0)).bind(spec_of("int8", (1, 2, 3)))
