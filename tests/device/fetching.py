"""Arrays, stores and waves for the tests of fetching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import zarr_gpu
from tests.reliability.layouts import LAYOUTS
from zarr_gpu.chunk_errors import ChunkErrors
from zarr_gpu.config import ArrayConfig
from zarr_gpu.device.fetch import Fetched, Fetcher, Wave
from zarr_gpu.device.memory import PinnedRing
from zarr_gpu.errors import CodecError
from zarr_gpu.host import HostBackend
from zarr_gpu.indexing import parse_basic
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Plan, make_plan
from zarr_gpu.stores.base import Store
from zarr_gpu.stores.local import LocalStore
from zarr_gpu.stores.memory import MemoryStore
from zarr_gpu.stores.wrappers import WrappedStore

SHAPE = (10, 14)
DATA = (np.arange(140).reshape(SHAPE) * 37 % 1009 + 5).astype("i4")
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
CRC = {"name": "crc32c"}
NESTED = next(layout.kwargs for layout in LAYOUTS if layout.name == "nested")
ARRAYS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "zstd": {"compressors": [ZSTD]},
    "big-endian, transposed": {
        "dtype": ">i4",
        "filters": [{"name": "transpose", "configuration": {"order": [1, 0]}}],
        "serializer": {"name": "bytes", "configuration": {"endian": "big"}},
        "compressors": [ZSTD],
    },
    "v2 delta": {
        "zarr_format": 2,
        "dtype": ">i4",
        "order": "F",
        "filters": [{"id": "delta", "dtype": "<i4"}],
        "compressors": {"id": "zlib", "level": 1},
    },
    "v2 blosc": {
        "zarr_format": 2,
        "compressors": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
    },
    "rectilinear": {"chunks": ([2, 5, 3], [1, 6, 7]), "compressors": [ZSTD]},
    "rectilinear raw": {"chunks": ([2, 5, 3], [1, 6, 7]), "compressors": None},
    "shards": {"chunks": (2, 3), "shards": (4, 6), "compressors": [ZSTD]},
    "shards, index first": {
        "chunks": (2, 3),
        "shards": {"shape": (4, 6), "index_location": "start"},
        "compressors": [CRC],
    },
    "raw shards": {"chunks": (2, 3), "shards": (4, 6), "compressors": None},
    "rectilinear shards": {
        "chunks": (1, 2),
        "shards": ([4, 6], [2, 6, 6]),
        "compressors": [ZSTD],
    },
    "nested": NESTED,
    "shards inside zstd": {
        "chunks": (4, 6),
        "serializer": {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [2, 3],
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            },
        },
        "compressors": [ZSTD],
    },
}


class Event:
    def done(self) -> bool:
        return True

    def wait(self) -> None:
        pass


class Runtime:
    """Every byte is poison until it is written; what is around the bytes of rows stays so."""

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.full(nbytes, 0xA5, np.uint8)


class Far(WrappedStore):
    """A store with latency: parts of objects cost requests."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.local = False

    def open_reader(self, key: str, *, limit: int | None = None) -> Any:
        return Store.open_reader(self, key, limit=limit)


STORES = ("local", "memory", "far")


def make_store(kind: str, objects: dict[str, bytes], path: Any) -> Store:
    if kind == "local":
        store = LocalStore(path / "store")
        for key, value in objects.items():
            store.set(key, value)
        return store
    memory = MemoryStore(objects)
    return Far(memory) if kind == "far" else memory


def create(name: str, **more: Any) -> tuple[dict[str, bytes], ArrayLayout]:
    """An array with two chunks that are not stored, one of which shares a shard with others."""
    objects: dict[str, bytes] = {}
    arguments = {"chunks": (4, 6), "dtype": "i4", "fill_value": -7, **ARRAYS[name], **more}
    array = zarr_gpu.create_array(objects, shape=SHAPE, **arguments)
    array[...] = DATA
    data = DATA.copy()
    data[-2:, -2:] = data[2:8, 1:12] = -7
    array[...] = data
    return objects, array._layout


def make_plan_of(layout: ArrayLayout, selection: Any = ...) -> Plan:
    return make_plan(parse_basic(selection, layout.shape), layout.leaf_axes)


def wave_of(layout: ArrayLayout, plan: Plan, **more: Any) -> tuple[Wave, np.ndarray]:
    """All rows of a plan, and the coordinates of their chunks."""
    segment = plan.segment
    placement = layout.place(plan, segment)
    wave = Wave(
        keys=layout.keys(placement.objects),
        first=placement.first,
        coords=placement.objects,
        slots=placement.slots[:, placement.rows],
        **more,
    )
    return wave, plan.chunks_of(segment[placement.rows])


def fetcher_of(
    layout: ArrayLayout, store: Store, ring: PinnedRing | None = None, **settings: Any
) -> Fetcher:
    ring = ring or PinnedRing(Runtime(), 1 << 16, 4)
    return Fetcher(layout, store, ArrayConfig(**settings), ring, ChunkErrors(layout))


def rows_of(found: Fetched) -> Iterator[tuple[int, np.ndarray | None]]:
    for row, (slab, offset, n) in enumerate(
        zip(found.slab.tolist(), found.offset.tolist(), found.nbytes.tolist(), strict=True)
    ):
        if slab < 0:
            yield row, None
            continue
        assert offset + n <= found.used[slab] <= len(found.slabs[slab].array)
        yield row, found.slabs[slab].array[offset : offset + n]


def leaf_of(layout: ArrayLayout, wave: Wave, row: int) -> Any:
    number = int(np.searchsorted(wave.first, row, side="right")) - 1
    return layout.levels_at(wave.coords[number].tolist()).leaf, wave.keys[number]


def decoded(layout: ArrayLayout, wave: Wave, found: Fetched) -> Iterator[tuple[int, Any]]:
    """Rows as chunks; raises what the host would for chunks that cannot be decoded."""
    order = np.argsort(found.object_offset, kind="stable").tolist()
    stored = dict(rows_of(found))
    for row in order:
        data = stored[row]
        chain, key = leaf_of(layout, wave, row)
        if data is None:
            yield row, layout.data_type.full(chain.spec.shape, layout.fill_value)
        elif wave.decode:
            assert data.nbytes == chain.spec.nbytes
            yield row, np.frombuffer(data.tobytes(), layout.dtype).reshape(chain.spec.shape)
        else:
            byte_range = int(found.object_offset[row]), data.nbytes
            try:
                yield row, chain.decode(data.tobytes())
            except CodecError as error:
                where = byte_range if layout.sharded else None
                raise ChunkErrors(layout).decoding(error, key, where) from error


def assembled(layout: ArrayLayout, wave: Wave, found: Fetched, chunks: np.ndarray) -> np.ndarray:
    """The array that the rows make."""
    out = np.full(layout.shape, 99, layout.dtype)
    axes = layout.leaf_axes
    for row, chunk in decoded(layout, wave, found):
        box = []
        for axis, i, n in zip(axes, chunks[row], chunk.shape, strict=True):
            start = int(axis.start(np.asarray(i)))
            box.append(slice(start, min(start + n, axis.length)))
        out[tuple(box)] = chunk[tuple(slice(0, s.stop - s.start) for s in box)]
    return out


def host_read(layout: ArrayLayout, store: Store, plan: Plan, **settings: Any) -> np.ndarray:
    out = np.full(plan.selection.shape, 99, layout.dtype)
    HostBackend().read(layout, plan, store, out, ArrayConfig(**settings))
    return out
