"""Small inputs that ask for much memory; each is read in this process, which may not grow.

Run as ``python -m tests.reliability.bombs NAME DIRECTORY``; prints the peak of resident memory, in
bytes, above what was there before, and the name of the error.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr_gpu
from tests.reliability.memory import Peak
from zarr_gpu.errors import ZarrGpuError
from zarr_gpu.stores.zip import ZipStore

GIB = 1 << 30
MOST_MEMORY = 4 * GIB


def array(path: str, *codecs: Any, **more: Any) -> str:
    """Makes an array of chunks of 12 KiB; returns the path of its first."""
    arguments = {"compressors": list(codecs) or None, "chunks": (64, 48), **more}
    zarr_gpu.create_array(path, shape=(128, 96), dtype="i4", fill_value=-7, **arguments)
    Path(path, "c/0").mkdir(parents=True)
    return f"{path}/c/0/0"


def sparse(chunk: str, nbytes: int, head: bytes = b"", tail: bytes = b"") -> None:
    with open(chunk, "wb") as file:
        file.write(head)
        file.truncate(nbytes)
        file.seek(nbytes - len(tail))
        file.write(tail)


def zeros_in_zstd(nbytes: int, *, sized: bool) -> bytes:
    """One frame of blocks that repeat one byte 128 KiB each."""
    head = b"\x28\xb5\x2f\xfd" + (b"\xc0\x58" + struct.pack("<Q", nbytes) if sized else b"\x00\x58")
    block = (1 << 1 | (1 << 17) << 3).to_bytes(3, "little") + b"\0"
    last = (1 | 1 << 1 | (1 << 17) << 3).to_bytes(3, "little") + b"\0"
    return head + block * ((nbytes >> 17) - 1) + last


def named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


ZSTD = named("zstd", level=1, checksum=False)
GZIP = named("gzip", level=1)


def _sparse(*codecs: Any, **more: Any) -> Callable[[str], None]:
    return lambda path: sparse(array(path, *codecs, **more), 10 * GIB)


def _holding(data: Callable[[], bytes], *codecs: Any, **more: Any) -> Callable[[str], None]:
    return lambda path: Path(array(path, *codecs, **more)).write_bytes(data()) and None


def _valid_sparse_shard(path: str) -> None:
    """10 GiB with one inner chunk at the front and the index at the end; this one reads well."""
    from zarr_gpu.codecs.checksums import Crc32cCodec

    chunk = array(path, shards=(128, 96))
    index = struct.pack("<2Q", 0, 12288) + b"\xff" * 48
    sparse(chunk, 10 * GIB, b"\1\0\0\0" * 3072, bytes(Crc32cCodec().encode(index)))


def _metadata(change: Callable[[dict[str, Any]], None]) -> Callable[[str], None]:
    def make(path: str) -> None:
        array(path, shards=(128, 96))
        document = Path(path, "zarr.json")
        members = json.loads(document.read_text())
        change(members)
        document.write_text(json.dumps(members))
        Path(path, "c/0/0").write_bytes(bytes(100))

    return make


def _huge_index(members: dict[str, Any]) -> None:
    members["shape"] = [1 << 40]
    members["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 40]
    members["codecs"][0]["configuration"]["chunk_shape"] = [1]


def _huge_chunk(members: dict[str, Any]) -> None:
    members["shape"] = [1 << 40, 1 << 20]
    members["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 40, 1 << 20]
    members["codecs"] = [named("bytes", endian="little"), ZSTD]


def _long_document(path: str) -> None:
    array(path)
    sparse(f"{path}/zarr.json", 10 * GIB, b'{"zarr_format": 3, "node_type": "array"')


def _deep_document(path: str) -> None:
    array(path)
    Path(path, "zarr.json").write_bytes(b"[" * (8 << 20))


def _zip(path: str) -> None:
    with ZipStore(path + ".zip", "w", compression=zipfile.ZIP_DEFLATED) as store:
        zarr_gpu.create_array(store, shape=(128, 96), chunks=(64, 48), dtype="i4", compressors=None)
        store.set("c/0/0", bytes(GIB >> 2))


BOMBS: dict[str, Callable[[str], None]] = {
    "sparse raw": _sparse(),
    "sparse zstd": _sparse(ZSTD),
    "sparse gzip": _sparse(GZIP),
    "sparse blosc": _sparse(
        named("blosc", cname="lz4", clevel=1, shuffle="shuffle", typesize=4, blocksize=0)
    ),
    "sparse crc32c": _sparse(named("crc32c")),
    "sparse lz4": _sparse(named("numcodecs.lz4", acceleration=1)),
    "sparse shard": _sparse(shards=(128, 96)),
    "sparse shard, index at the start": _sparse(
        shards={"shape": (128, 96), "index_location": "start"}
    ),
    "sparse valid shard": _valid_sparse_shard,
    "gzip of 72 MiB": _holding(lambda: gzip.compress(bytes(72 << 20)), GZIP),
    "gzip of 56 MiB in members": _holding(lambda: gzip.compress(bytes(1 << 20)) * 56, GZIP),
    "zlib of 72 MiB": _holding(
        lambda: zlib.compress(bytes(72 << 20), 9), named("numcodecs.zlib", level=1)
    ),
    "bz2 of 256 MiB": _holding(
        lambda: bz2.compress(bytes(GIB >> 2)), named("numcodecs.bz2", level=1)
    ),
    "zstd of 2 GiB": _holding(lambda: zeros_in_zstd(2 * GIB, sized=True), ZSTD),
    "zstd of 2 GiB, size not given": _holding(lambda: zeros_in_zstd(2 * GIB, sized=False), ZSTD),
    "zstd claims 2^62": _holding(
        lambda: b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + b"\1\0\0", ZSTD
    ),
    "lz4 claims 2 GiB": _holding(
        lambda: struct.pack("<i", 2**31 - 1) + b"\x1f\0\1\0" + b"\xff" * 9000,
        named("numcodecs.lz4", acceleration=1),
    ),
    "blosc claims 2 GiB": _holding(
        lambda: bytes([2, 1, 0x21, 4]) + struct.pack("<3I", 2**31 - 17, 2**20, 500) + bytes(484),
        named("blosc", cname="lz4", clevel=1, shuffle="shuffle", typesize=4, blocksize=0),
    ),
    "metadata: 2^40 inner chunks": _metadata(_huge_index),
    "metadata: chunk of 2^60": _metadata(_huge_chunk),
    "metadata: 10 GiB": _long_document,
    "metadata: 8 M brackets": _deep_document,
    "zip member of 256 MiB": _zip,
}
READ_WELL = {"sparse valid shard"}


def main(name: str, path: str) -> None:
    BOMBS[name](path)
    pid = os.fork()  # what making the bomb took is not counted
    if pid:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    zarr_gpu.create_array({}, shape=(4,), dtype="i4", chunks=(2,))[...]
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    error = ""
    with Peak() as peak:
        try:
            opened: Any = ZipStore(path + ".zip") if name.startswith("zip") else path
            zarr_gpu.open_array(opened, mode="r")[:64, :48]
        except ZarrGpuError as raised:
            error = type(raised).__name__
    print(json.dumps({"peak": peak.nbytes, "error": error}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
