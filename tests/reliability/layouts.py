"""Codec chains and the arrays made with them that the tests of this folder damage."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import zarr_gpu

PATH = "g/a"
SHAPE = (20, 26)
CHUNKS = (8, 6)
FILL = -7
POISON = 0xA5
"""Every byte of memory that nobody has written."""
POISON_I4 = struct.unpack("<i", bytes([POISON] * 4))[0]
DATA = (np.arange(520, dtype="i4").reshape(SHAPE) * 37 % 1009) + 5
"""Holds neither the fill value nor the poison, and compresses a little."""
TEXT = np.array([f"{'é' * (i % 5)}{i}" for i in range(520)], object).reshape(SHAPE)


def _bytes_codec(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration} if configuration else {"name": name}


@dataclass(frozen=True)
class Layout:
    """One way to store :data:`DATA`; ``family`` says which lies its headers can tell."""

    name: str
    family: str
    zarr_format: int = 3
    checked: bool = False
    """A checksum covers the elements, so a changed bit is never silent."""
    text: bool = False
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Any:
        return TEXT if self.text else DATA

    @property
    def key(self) -> str:
        """Object of the first chunk."""
        return f"{PATH}/0.0" if self.zarr_format == 2 else f"{PATH}/c/0/0"

    @property
    def other_key(self) -> str:
        """An object of the same shape that holds something else."""
        return f"{PATH}/0.1" if self.zarr_format == 2 else f"{PATH}/c/0/1"

    def create(self, store: Any, **more: Any) -> Any:
        """The array, empty."""
        dtype = {"dtype": "string" if self.zarr_format == 3 else object} if self.text else {}
        arguments = {
            "name": PATH,
            "shape": SHAPE,
            "chunks": CHUNKS,
            "dtype": "i4",
            "fill_value": "nothing" if self.text else FILL,
            "zarr_format": self.zarr_format,
            **dtype,
            **self.kwargs,
            **more,
        }
        return zarr_gpu.create_array(store, **arguments)

    def stored(self) -> dict[str, bytes]:
        """The keys of the array full of data."""
        store: dict[str, bytes] = {}
        self.create(store)[...] = self.data
        return store

    def __str__(self) -> str:
        return self.name


def _v3(name: str, family: str, *codecs: Any, checked: bool = False, **more: Any) -> Layout:
    kwargs = {"compressors": list(codecs), **more}
    return Layout(name, family, 3, checked, kwargs=kwargs)


def _v2(name: str, family: str, compressor: Any, *, checked: bool = False, **more: Any) -> Layout:
    return Layout(f"v2-{name}", family, 2, checked, kwargs={"compressors": compressor, **more})


def _blosc(cname: str, shuffle: str = "shuffle") -> dict[str, Any]:
    return _bytes_codec("blosc", cname=cname, clevel=5, shuffle=shuffle, typesize=4, blocksize=0)


_CRC = _bytes_codec("crc32c")
_ZSTD = _bytes_codec("zstd", level=1, checksum=False)
_BLOSC_CODECS = ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
_SHARD: dict[str, Any] = {"shards": (16, 12)}
_START: dict[str, Any] = {"shards": {"shape": (16, 12), "index_location": "start"}}


def _nested(*codecs: Any) -> dict[str, Any]:
    """Shards of shards, each level with its index at another end."""
    inner = {
        "chunk_shape": [4, 3],
        "codecs": [_bytes_codec("bytes", endian="little"), *codecs],
        "index_codecs": [_bytes_codec("bytes", endian="little"), _CRC],
        "index_location": "start",
    }
    outer = {
        "chunk_shape": [8, 6],
        "codecs": [_bytes_codec("sharding_indexed", **inner)],
        "index_codecs": [_bytes_codec("bytes", endian="little"), _CRC],
        "index_location": "end",
    }
    return {
        "chunks": (16, 12),
        "serializer": _bytes_codec("sharding_indexed", **outer),
        "compressors": None,
    }


LAYOUTS: list[Layout] = [
    _v3("raw", "raw"),
    _v3("transposed", "raw", filters=[_bytes_codec("transpose", order=[1, 0])]),
    _v3("zstd", "zstd", _ZSTD),
    _v3("zstd-checksum", "zstd", _bytes_codec("zstd", level=1, checksum=True), checked=True),
    _v3("gzip", "gzip", _bytes_codec("gzip", level=1), checked=True),
    _v3("zlib", "zlib", _bytes_codec("numcodecs.zlib", level=1), checked=True),
    _v3("lz4", "lz4", _bytes_codec("numcodecs.lz4", acceleration=1)),
    _v3("bz2", "bz2", _bytes_codec("numcodecs.bz2", level=1), checked=True),
    *(_v3(f"blosc-{cname}", "blosc", _blosc(cname)) for cname in _BLOSC_CODECS),
    _v3("blosc-bitshuffle", "blosc", _blosc("lz4", "bitshuffle")),
    _v3("blosc-noshuffle", "blosc", _blosc("zstd", "noshuffle")),
    _v3("crc32c", "crc32c", _CRC, checked=True),
    _v3("zstd-crc32c", "crc32c", _ZSTD, _CRC, checked=True),
    Layout("vlen-utf8", "vlen", text=True, kwargs={"compressors": None}),
    Layout("vlen-utf8-zstd", "zstd", text=True, kwargs={"compressors": [_ZSTD]}),
    _v2("raw", "raw", None),
    _v2("fortran", "raw", None, order="F"),
    _v2("zstd", "zstd", {"id": "zstd", "level": 1}),
    _v2("zstd-checksum", "zstd", {"id": "zstd", "level": 1, "checksum": True}, checked=True),
    _v2("gzip", "gzip", {"id": "gzip", "level": 1}, checked=True),
    _v2("zlib", "zlib", {"id": "zlib", "level": 1}, checked=True),
    _v2("lz4", "lz4", {"id": "lz4", "acceleration": 1}),
    _v2("bz2", "bz2", {"id": "bz2", "level": 1}, checked=True),
    _v2("crc32c", "crc32c", None, filters=[{"id": "crc32c"}], checked=True),
    *(
        _v2(f"blosc-{c}", "blosc", {"id": "blosc", "cname": c, "clevel": 5, "shuffle": 1})
        for c in _BLOSC_CODECS
    ),
    Layout(
        "v2-vlen-utf8",
        "vlen",
        2,
        text=True,
        kwargs={"compressors": None, "filters": [{"id": "vlen-utf8"}]},
    ),
    _v3("shard", "shard", _ZSTD, **_SHARD),
    _v3("shard-raw", "shard", **_SHARD),
    _v3("shard-start", "shard", _ZSTD, **_START),
    _v3("shard-start-raw", "shard", **_START),
    _v3("shard-crc32c", "shard", _CRC, checked=True, **_SHARD),
    Layout("nested", "nested", kwargs=_nested(_ZSTD)),
    Layout("nested-crc32c", "nested", checked=True, kwargs=_nested(_ZSTD, _CRC)),
]
