"""What is compared: one row per case, with what is aimed at.

Knows sources by name, but no engine: a row says what is to be done, and an engine how. Goals are
ratios of our time to the best other engine for Zarr files, and to a loop in C.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .sources import SHAPES, Shape, dtype_of

BLOSC = {
    "blosc-lz4": ("lz4", "shuffle"),
    "blosc-zstd": ("zstd", "shuffle"),
    "blosc-lz4-bit": ("lz4", "bitshuffle"),
}
CODECS = ("none", "zstd", "blosc-lz4", "blosc-zstd", "blosc-lz4-bit", "lz4", "gzip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One stored array, or a group of ``members`` small ones."""

    source: str
    codec: str = "none"
    chunks: Shape = ()
    shards: Shape | None = None
    quick_chunks: Shape | None = None
    quick_shards: Shape | None = None
    members: int = 0
    consolidated: bool = False

    @property
    def name(self) -> str:
        if self.members:
            return f"group-{self.members}{'-consolidated' if self.consolidated else ''}"
        chunks = "x".join(map(str, self.chunks))
        shards = "" if self.shards is None else "-in-" + "x".join(map(str, self.shards))
        return f"{self.source}-{self.codec}-{chunks}{shards}"

    def chunk_shape(self, scale: str) -> Shape:
        """Of quick runs only where the array would be too narrow."""
        return (scale == "quick" and self.quick_chunks) or self.chunks

    def shard_shape(self, scale: str) -> Shape | None:
        """An eighth of the size in quick runs, so that threads have several shards to work on."""
        return self.quick_shards if scale == "quick" else self.shards

    def shape(self, scale: str) -> Shape:
        return SHAPES[scale][self.source]

    def compressor(self) -> dict[str, Any] | None:
        """In the words of format 3."""
        if self.codec == "none":
            return None
        if self.codec in BLOSC:
            cname, shuffle = BLOSC[self.codec]
            itemsize = dtype_of(self.source).itemsize
            settings: dict[str, Any] = {"cname": cname, "clevel": 5, "shuffle": shuffle}
            return {
                "name": "blosc",
                "configuration": {**settings, "typesize": itemsize, "blocksize": 0},
            }
        return {
            "zstd": {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
            "gzip": {"name": "gzip", "configuration": {"level": 5}},
            "lz4": {"name": "numcodecs.lz4", "configuration": {"acceleration": 1}},
        }[self.codec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case: ``action`` is a name in ``actions``, done ``count`` times where it says so."""

    name: str
    action: str
    dataset: Dataset
    goal: float | None = None
    """Our time over that of the best other engine that reads Zarr files."""
    loop_goal: float | None = None
    """Our time over that of the loop in C."""
    memory: bool = False
    """Whether the memory of a whole read is looked at."""
    count: int = 1
    per_object: bool = False
    """Whether only engines that store each chunk as an object of its own are compared."""

    def times(self, scale: str) -> int:
        return max(1, self.count // 8) if scale == "quick" else self.count


def field(codec: str, *chunks: int) -> Dataset:
    return Dataset(source="field", codec=codec, chunks=chunks)


def slab(codec: str) -> Dataset:
    """Chunks of 1 MiB that are contiguous in the output."""
    return Dataset(source="field", codec=codec, chunks=(16, 16384), quick_chunks=(64, 4096))


def sharded(codec: str, inner: int, source: str = "field") -> Dataset:
    """64 MiB shards, 8 MiB in quick runs."""
    return Dataset(
        source=source,
        codec=codec,
        chunks=(inner, inner),
        shards=(4096, 4096),
        quick_shards=(1024, 2048),
    )


def small(codec: str, source: str = "small") -> Dataset:
    return Dataset(source=source, codec=codec, chunks=(32, 32))


def cube(codec: str = "zstd") -> Dataset:
    return Dataset(source="cube", codec=codec, chunks=(16, 32, 32))


def band(codec: str, side: int) -> Dataset:
    return Dataset(source="band", codec=codec, chunks=(side, side))


def whole_reads() -> list[Row]:
    def read(name: str, dataset: Dataset, **more: Any) -> Row:
        return Row(name=f"read.{name}", action="whole", dataset=dataset, **more)

    rows = []
    for codec in ("none", "zstd", "blosc-lz4", "blosc-zstd", "lz4", "gzip"):
        memory = codec in ("none", "zstd", "blosc-lz4", "gzip")
        data = field(codec, 512, 512)
        rows.append(read(f"{codec}.1M", data, goal=0.85, loop_goal=1.15, memory=memory))
    for codec in ("none", "zstd", "blosc-lz4"):
        rows.append(read(f"{codec}.slab", slab(codec), goal=0.85, loop_goal=1.15))
    for codec in ("zstd", "blosc-lz4"):
        rows.append(read(f"{codec}.16M", field(codec, 2048, 2048), goal=0.95, memory=True))
    for codec in ("zstd", "blosc-lz4"):
        rows.append(read(f"{codec}.64K", field(codec, 128, 128), goal=0.85))
    for codec in ("none", "zstd"):
        rows.append(read(f"{codec}.4K", small(codec), goal=1.0, per_object=True))
    for codec, goal in (("none", 0.75), ("zstd", 0.9)):
        memory = codec == "zstd"
        rows.append(read(f"shard.{codec}", sharded(codec, 256), goal=goal, memory=memory))
        rows.append(read(f"shard4K.{codec}", sharded(codec, 32, "band"), goal=goal))
    rows += [
        read("u16.zstd.1M", Dataset(source="image", codec="zstd", chunks=(512, 1024)), goal=0.85),
        read(
            "u16.blosc-lz4-bit.1M",
            Dataset(source="image", codec="blosc-lz4-bit", chunks=(512, 1024)),
            goal=0.85,
        ),
    ]
    for source, short, codecs in (
        ("counter", "i32", ("zstd", "blosc-zstd")),
        ("random", "rand", ("zstd", "blosc-lz4")),
    ):
        for codec in codecs:
            data = Dataset(source=source, codec=codec, chunks=(512, 512))
            rows.append(read(f"{short}.{codec}.1M", data, goal=0.85))
    return rows


def partial_reads() -> list[Row]:
    z64, raw = field("zstd", 128, 128), field("none", 512, 512)
    lz4 = field("blosc-lz4", 512, 512)

    def row(name: str, action: str, data: Dataset, goal: float, count: int = 1) -> Row:
        return Row(name=name, action=action, dataset=data, goal=goal, count=count)

    return [
        row("rand.chunk.zstd.64K", "chunks", z64, 0.7, 1000),
        row("rand.chunk.2thr.zstd.64K", "chunks_by_two", z64, 0.7, 1000),
        row("rand.elem.zstd.64K", "elements", z64, 0.7, 1000),
        row("rand.elem.none.1M", "elements", raw, 0.7, 1000),
        row("rand.elem.blosc-lz4.1M", "elements", lz4, 0.7, 1000),
        row("rand.inner.shard.zstd", "chunks", sharded("zstd", 256), 0.9, 1000),
        row("rand.inner.shard.none", "chunks", sharded("none", 256), 0.9, 1000),
        row("rand.inner.shard4K.zstd", "chunks", sharded("zstd", 32, "band"), 0.9, 1000),
        row("slice.stride.zstd.64K", "stride", z64, 1.0),
        row("slice.plane-last.zstd.64K", "plane_last", cube(), 1.0),
        row("slice.plane-first.zstd.64K", "plane_first", cube(), 1.0),
        row("oindex.rows.zstd.64K", "rows", z64, 1.0, 1000),
        row("oindex.rows.none.1M", "rows", raw, 1.0, 1000),
        row("vindex.zstd.64K", "coordinates", z64, 1.0, 10**6),
        row("mask.zstd.64K", "mask", z64, 1.0),
    ]


def writes() -> list[Row]:
    def write(name: str, dataset: Dataset, action: str = "write", count: int = 1) -> Row:
        name = name if action == "append" else f"write.{name}"
        return Row(name=name, action=action, dataset=dataset, goal=1.0, count=count)

    rows = [write(f"{c}.1M", band(c, 512)) for c in ("none", "zstd", "blosc-lz4", "blosc-zstd")]
    rows.append(write("zstd.64K", band("zstd", 128)))
    tiny = write("none.4K", small("none", "tiny"))
    rows.append(
        Row(name=tiny.name, action="write", dataset=tiny.dataset, goal=1.0, per_object=True)
    )
    rows += [write(f"shard.{codec}", sharded(codec, 256, "band")) for codec in ("none", "zstd")]
    slab = Dataset(source="slabs", codec="zstd", chunks=(1, 16384))
    rows.append(write("append.zstd.64K", slab, "append", 200))
    into = Dataset(source="slabs", codec="none", chunks=(16, 16384))
    rows.append(write("append.none.1M", into, "append", 200))
    return rows


def metadata() -> list[Row]:
    one = Dataset(source="tiny", chunks=(800, 800))
    plain = Dataset(source="tiny", members=1000)
    consolidated = Dataset(source="tiny", members=1000, consolidated=True)

    def row(name: str, action: str, data: Dataset, count: int) -> Row:
        return Row(name=f"meta.{name}", action=action, dataset=data, goal=0.5, count=count)

    return [
        row("open", "open", one, 200),
        row("group", "touch", plain, 1),
        row("group.consolidated", "touch", consolidated, 1),
        row("list", "list", plain, 1),
    ]


ROWS = (*whole_reads(), *partial_reads(), *writes(), *metadata())
IMPORT_GOAL = 0.15
"""Seconds of ``import zarr_gpu``, the interpreter's start not counted."""
MEMORY_GOAL = 64 << 20
"""Bytes that a whole read may take beside its output."""


def select_rows(globs: str) -> list[Row]:
    """Rows whose name matches one of the comma-separated globs, in the order of the table."""
    wanted = globs.split(",")
    return [row for row in ROWS if any(fnmatchcase(row.name, glob) for glob in wanted)]
