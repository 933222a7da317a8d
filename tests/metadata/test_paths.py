import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarr_gpu.errors import StoreKeyError
from zarr_gpu.metadata.paths import check_node_path
from zarr_gpu.stores.base import check_key


@pytest.mark.parametrize(
    ("path", "normal"),
    [("", ""), ("/", ""), ("/a//b/", "a/b"), ("a.b/..c", "a.b/..c"), ("ü", "ü"), ("__x", "__x")],
)
def test_superfluous_slashes_are_removed(path, normal):
    assert check_node_path(path) == normal


@pytest.mark.parametrize("path", [".", "a/..", "a/.../b", "a\\b", "a\0b", "\ud800"])
def test_names_that_no_node_can_have_are_refused(path):
    with pytest.raises(StoreKeyError):
        check_node_path(path)


@pytest.mark.parametrize("path", ["__a", "a/__b/c", "zarr.json", "a/.zarray"])
def test_reserved_names_are_refused_for_new_nodes_only(path):
    assert check_node_path(path) == path
    with pytest.raises(StoreKeyError, match="reserved"):
        check_node_path(path, strict=True)


@given(st.text("ab./\\\0_", max_size=8))
def test_an_accepted_path_is_a_legal_store_key(path):
    try:
        normal = check_node_path(path)
    except StoreKeyError:
        return
    assert check_node_path(normal) == normal
    assert not normal or check_key(normal) == normal
