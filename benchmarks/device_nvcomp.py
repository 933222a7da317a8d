"""nvCOMP's decoders alone, through our binding: which streams they decode, and how fast.

    python -m benchmarks.device_nvcomp streams      # or: rates

Two sections of ``benchmarks.device``, which runs each in a process of its own and collects what is
printed. Only valid streams are decoded, but for LZ4, as the other decoders promise nothing for
damaged ones.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

FOUND = "found: "
"""Begins a line of output that is a JSON object of findings."""
Findings = Iterator[dict[str, Any]]


def streams() -> Findings:
    """Which valid streams nvCOMP decodes, one at a time; damaged ones for LZ4 only."""
    for name, codec, stream, expected in specimens():
        for shift in (0, 4) if codec == "deflate" else (0, 1, 2, 4):
            out, status, actual, _ = decode(codec, [stream], len(expected), shift=shift)
            right = out.get().tobytes()[: len(expected)] == expected
            outcome = {"status": status[0], "actual": actual[0], "right": right}
            yield {f"{codec}, {name}, address + {shift}": outcome}


def specimens() -> Iterator[tuple[str, str, bytes, bytes]]:
    """Name, codec, stream and what it decodes to."""
    from numcodecs import LZ4, Zstd

    rng = np.random.default_rng(1)
    contents = {
        "field": field(300_000 // 4).tobytes(),
        "zeros": bytes(300_000),
        "noise": rng.bytes(300_000),
        "one byte": b"a",
    }
    for name, data in contents.items():
        for level in (-5, 1, 22):
            yield f"{name}, level {level}", "zstd", Zstd(level=level).encode(data), data
        yield f"{name}, checksum", "zstd", Zstd(level=1, checksum=True).encode(data), data
        yield name, "lz4", LZ4().encode(data)[4:], data
        for level in (0, 1, 9):
            packed = zlib.compress(data, level)
            yield f"{name}, level {level}", "deflate", packed[2:-4], data
            yield f"{name}, level {level}", "gzip", gzip.compress(data, level, mtime=0), data
    data = contents["field"]
    yield "nothing", "zstd", bytes.fromhex("28b52ffd2000010000"), b""
    halves = [Zstd(level=1).encode(part) for part in (data[:150_000], data[150_000:])]
    yield "two frames", "zstd", b"".join(halves), data
    damaged = bytearray(LZ4().encode(data)[4:])
    damaged[1000:1100] = bytes(100)
    yield "damaged (status 12 or wrong bytes are fine)", "lz4", bytes(damaged), data


def rates() -> Findings:
    """Decoders by size of the stream, on rounded float32 fields."""
    from numcodecs import LZ4, Zstd

    encoders: dict[str, Callable[[bytes], bytes]] = {
        "lz4": lambda data: LZ4().encode(data)[4:],
        "zstd": lambda data: Zstd(level=3).encode(data),
        "gzip": lambda data: gzip.compress(data, 5),
        "deflate": lambda data: zlib.compress(data, 5)[2:-4],
    }
    total = 512 << 20
    for kib in (16, 64, 256, 1024, 4096):
        nbytes = kib << 10
        parts = [field(nbytes // 4, seed).tobytes() for seed in range(min(8, total // nbytes))]
        for codec, encode in encoders.items():
            for n in sorted({min(4096, total // nbytes), total // nbytes}):
                packed = [encode(part) for part in parts]
                chosen = [packed[i % len(parts)] for i in range(n)]
                out, status, actual, seconds = decode(codec, chosen, nbytes)
                right = not any(status) and set(actual) == {nbytes}
                for i in {0, 1, n // 2, n - 1}:
                    right &= (
                        out[i * nbytes : (i + 1) * nbytes].get().tobytes() == parts[i % len(parts)]
                    )
                ratio = nbytes * n / sum(map(len, chosen))
                figures = {"rate": n * nbytes / seconds, "ratio": ratio, "right": right}
                yield {f"{codec}, {kib} KiB, {n} streams": figures}


def decode(
    codec: str, packed: list[bytes], nbytes: int, shift: int = 0
) -> tuple[Any, list[int], list[int], float]:
    """Output, statuses, sizes and seconds of one batched call; streams decode to ``nbytes``."""
    import cupy

    from zarr_gpu.device.nvcomp import load
    from zarr_gpu.device.runtime import Streams

    library, n = load(), len(packed)
    sizes = np.array([len(stream) for stream in packed], np.uint64)
    ends = np.cumsum((sizes + np.uint64(31)) // np.uint64(16) * np.uint64(16))
    starts = np.concatenate([np.zeros(1, np.uint64), ends[:-1]]) + np.uint64(shift)
    host = np.zeros(int(ends[-1]), np.uint8)  # 16 bytes behind each stream, for the shift
    for start, stream in zip(starts.tolist(), packed, strict=True):
        host[start : start + len(stream)] = np.frombuffer(stream, np.uint8)
    source, out = cupy.asarray(host), cupy.zeros(max(1, n * nbytes), "u1")
    places = np.arange(n, dtype=np.uint64) * np.uint64(nbytes)
    columns = {
        "in_ptr": cupy.asarray(starts + np.uint64(source.data.ptr)),
        "in_nbytes": cupy.asarray(sizes),
        "out_ptr": cupy.asarray(places + np.uint64(out.data.ptr)),
        "out_nbytes": cupy.full(n, nbytes, "u8"),
        "actual": cupy.zeros(n, "u8"),
        "status": cupy.full(n, -1, "i4"),
    }
    pointers = {name: int(column.data.ptr) for name, column in columns.items()}
    table = Streams(n=n, max_nbytes=nbytes, total_nbytes=n * nbytes, **pointers)
    temp = cupy.empty(max(1, library.decompress_temp_nbytes(codec, n, nbytes, n * nbytes)), "u1")
    stream_ptr = cupy.cuda.get_current_stream().ptr
    times = []
    for _ in range(4):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        library.decompress(codec, table, temp.data.ptr, temp.nbytes, stream_ptr)
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3)
    return out, columns["status"].tolist(), columns["actual"].tolist(), min(times[1:])


def field(n: int, seed: int = 0) -> Any:
    """Smooth float32 values with noise, of which ten bits of the mantissa are kept.

    The data of ``benchmarks.device``, too.
    """
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 60, n, dtype=np.float32)
    values = 280 + 20 * np.sin(x) + rng.standard_normal(n, np.float32)
    return ((values.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


if __name__ == "__main__":
    for findings in {"streams": streams, "rates": rates}[sys.argv[1]]():
        print(FOUND + json.dumps(findings, default=float), flush=True)
