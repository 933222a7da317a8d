"""What is used of xarray's inside, in one place; backends and encodings cannot be made without.

``xarray.core.indexing`` is what its guide for writers of backends imports from; for the encoding of
Zarr (:class:`FillValueCoder`, :func:`encode_zarr_variable`) there are no public names.
"""

from __future__ import annotations

from zarr_gpu.errors import MissingDependencyError

try:
    import xarray
except ImportError as error:
    raise MissingDependencyError(
        f"this engine needs xarray ({error}): pip install 'zarr-gpu[xarray]'"
    ) from error

__all__ = [
    "AbstractDataStore",
    "BackendArray",
    "BackendEntrypoint",
    "ExplicitlyIndexed",
    "FillValueCoder",
    "IndexingSupport",
    "LazilyIndexedArray",
    "OuterIndexer",
    "StoreBackendEntrypoint",
    "VectorizedIndexer",
    "as_indexable",
    "check_vlen_dtype",
    "create_vlen_dtype",
    "decode_cf_variables",
    "encode_dataset_coordinates",
    "encode_zarr_variable",
    "explicit_indexing_adapter",
    "xarray",
]

TRIED = "2025.9.1 to 2026.9"

try:
    from xarray.backends import (
        AbstractDataStore,
        BackendArray,
        BackendEntrypoint,
        StoreBackendEntrypoint,
    )
    from xarray.backends.zarr import FillValueCoder, encode_zarr_variable
    from xarray.coding.strings import check_vlen_dtype, create_vlen_dtype
    from xarray.conventions import decode_cf_variables, encode_dataset_coordinates
    from xarray.core.indexing import (
        ExplicitlyIndexed,
        IndexingSupport,
        LazilyIndexedArray,
        OuterIndexer,
        VectorizedIndexer,
        as_indexable,
        explicit_indexing_adapter,
    )
except ImportError as error:
    raise MissingDependencyError(
        f"xarray {xarray.__version__} does not have what this engine is made of ({error}); it was "
        f"tried with {TRIED}. Upgrade zarr-gpu, or install one of these versions of xarray"
    ) from error
