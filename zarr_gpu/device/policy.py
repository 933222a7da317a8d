"""What runs where: decisions before any data are touched.

The device decodes what it can decode safely and with enough streams to be busy; everything else is
decoded by host threads and assembled on the device. The thresholds are settings.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from zarr_gpu.codecs.chain import BoundChain
from zarr_gpu.config import config
from zarr_gpu.device import kvikio
from zarr_gpu.device.encode import Encoder, HostEncodes, make_encoder
from zarr_gpu.device.memory import ZSTD_SCRATCH
from zarr_gpu.device.program import HostDecodes, Program, make_program
from zarr_gpu.device.runtime import Runtime
from zarr_gpu.errors import DeviceFallbackWarning
from zarr_gpu.layout import ArrayLayout
from zarr_gpu.plan import Plan
from zarr_gpu.stores.base import Store

VALID_ONLY = ("zstd", "gzip", "numcodecs.zlib", "zarrs.gdeflate")
"""nvCOMP's decoders of these are defined for valid streams only (its headers say so)."""
FORMS = {
    "zstd": "zstd", "zlib": "deflate", "gzip": "gzip", "numcodecs.zlib": "deflate",
    "zarrs.gdeflate": "gdeflate",
}  # fmt: skip
"""Formats that only the runtime decodes, by codec or by inner codec of Blosc."""
_STREAM_NBYTES = 128 << 10
"""Of one stream in a Blosc block at the default level, for estimates."""
READ_NBYTES = 1 << 20
"""KvikIO costs 10 to 50 us more per read and per file than the host's reads (measured): nothing at
this size."""
_noticed: set[str] = set()


@lru_cache(256)
def program_of(chain: BoundChain) -> Program | str:
    """The device's program for a chain, or why the host decodes it."""
    try:
        return make_program(chain)
    except HostDecodes as reason:
        return str(reason)


def trusted(store: Store) -> bool:
    """True when what is stored may be given to decoders that do not check their input."""
    trust = config.current.gpu.trust
    if trust == "auto":
        return store.local if store.trusted is None else store.trusted
    return trust == "yes"


def choose(runtime: Runtime, chain: BoundChain, store: Store, rows: int) -> Program | None:
    """The program for ``rows`` chunks, or None when the host shall decode them.

    A codec without a device step is mentioned once, by a warning.
    """
    program = program_of(chain)
    if isinstance(program, str):
        notice(program)
        return None
    return None if why_host(runtime, program, store, rows) else program


def reason(runtime: Runtime, layout: ArrayLayout, plan: Plan, store: Store) -> str | None:
    """Why the host decodes the chunks of a read, or None."""
    program = program_of(layout.levels.leaf)
    return program if isinstance(program, str) else why_host(runtime, program, store, len(plan))


def why_host(runtime: Runtime, program: Program, store: Store, rows: int) -> str | None:
    """Why the host decodes chunks that the device could decode, or None."""
    codec = program.compressor
    if codec is None:
        return None
    inner = codec.cname if codec.name == "blosc" else None  # type: ignore[attr-defined]
    if not (program.checked or trusted(store)) and (
        codec.name in VALID_ONLY or inner in ("zstd", "zlib")
    ):
        return (
            f"the store is not trusted, and nvCOMP's decoder of {inner or codec.name} is defined "
            "for valid data only (setting gpu.trust)"
        )
    form = FORMS.get(inner or codec.name)
    if form is not None and not runtime.can_decompress(form):
        return f"there is no decoder of {form} (is nvCOMP installed? see zarr_gpu.device_info())"
    streams = rows
    if inner is not None:
        streams *= max(1, program.unpacked // _STREAM_NBYTES)
    least = config.current.gpu.min_streams
    if streams < least:
        return f"{streams} streams are too few to keep a device busy (setting gpu.min_streams)"
    return None


@lru_cache(256)
def _encoder_of(chain: BoundChain) -> Encoder | str:
    try:
        return make_encoder(chain)
    except HostEncodes as reason:
        return str(reason)


def encoder(runtime: Runtime, layout: ArrayLayout, plan: Plan) -> Encoder | None:
    """How the device encodes chunks of a layout, or None when the host does."""
    if len(layout.levels.layouts) > 1 or not layout.uniform or plan.fields is not None:
        return None
    found = _encoder_of(layout.levels.leaf)
    if isinstance(found, str):
        return None
    if plan.selection.size * layout.dtype.itemsize < config.current.gpu.min_nbytes:
        return None
    if found.form is not None and found.stream_nbytes.max() > runtime.compress_max(found.form):
        return None
    return found


def small(layout: ArrayLayout, plan: Plan) -> str | None:
    """Why a whole request is read by the host and copied up, or None."""
    nbytes = len(plan) * max(1, layout.levels.leaf.spec.nbytes)
    wanted = plan.selection.size * layout.dtype.itemsize
    least = config.current.gpu.min_nbytes
    if min(nbytes, wanted) < least and nbytes < 16 * least:
        return f"{wanted} bytes are too few to be worth a device (setting gpu.min_nbytes)"
    if layout.levels.leaf.raw is not None and wanted * 16 < nbytes:
        return "few bytes are wanted of each uncompressed chunk, and the host reads only those"
    return None


def scratch(program: Program | None) -> float:
    """Device memory that decoding needs beside its input and output, per decoded byte."""
    codec = None if program is None else program.compressor
    if codec is None:
        return 0.0
    cname = codec.cname if codec.name == "blosc" else codec.name  # type: ignore[attr-defined]
    return ZSTD_SCRATCH if cname == "zstd" else 0.0


def direct(program: Program, store: Store, keys: Sequence[str], nbytes: int) -> Any:
    """KvikIO, when ``nbytes`` of these objects shall go from files straight into device memory.

    None for all others: objects that are no files, stored bytes that the host has to walk over, and
    short reads.
    """
    if program.compressor is not None or nbytes < READ_NBYTES * len(keys):
        return None
    return direct_files(store, keys)


def direct_files(store: Store, keys: Sequence[str]) -> Any:
    """KvikIO, when these objects are files that it may read, None otherwise."""
    found = store.locate(keys)
    if None in found.path or found.offset.any() or (found.nbytes >= 0).any():
        return None
    return kvikio.package(config.current.gpu.gds)


def bias(program: Program) -> int:
    """Where a chunk has to begin, modulo 16, so that its stream is aligned for the decoder."""
    codec = program.compressor
    return 2 if codec is not None and codec.name == "numcodecs.zlib" else 0


def notice(reason: str) -> None:
    """Say once per process that the host decodes something for the device."""
    if reason not in _noticed:
        _noticed.add(reason)
        warnings.warn(
            f"decoded on the host, then copied to the device: {reason}",
            DeviceFallbackWarning,
            stacklevel=2,
        )


def notice_failure(layout: ArrayLayout, n: int) -> None:
    """Say that the host decoded chunks that the device could not."""
    names = ", ".join(codec.name for codec in layout.levels.leaf.chain.codecs)
    warnings.warn(
        f"array {layout.path or '/'!r}: the device could not decode {n} chunks ({names}) that the "
        "host could; the result is right",
        DeviceFallbackWarning,
        stacklevel=2,
    )
