"""Settings: one frozen :class:`Config`, read from the environment once.

Dotted names are those of zarr-python where it has the setting. Every one can be set by an
environment variable: ``ZARR_GPU_ARRAY__ORDER=F`` sets ``array.order``.

>>> from zarr_gpu.config import config
>>> with config.set({"array.write_empty_chunks": True}):
...     config.get("array.write_empty_chunks")
True
>>> config.get("array.write_empty_chunks")
False
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayConfig:
    """Run-time settings of one array; never stored in its metadata."""

    order: Literal["C", "F"] = "C"
    """Memory layout of returned arrays."""
    write_empty_chunks: bool = False
    """Store chunks that equal the fill value instead of deleting them."""
    read_missing_chunks: bool = True
    """False: a missing chunk raises ChunkNotFoundError instead of reading as the fill value."""
    sharding_coalesce_max_gap_bytes: int = 1 << 20
    """Inner chunks of a shard closer than this are read with one range."""
    sharding_coalesce_max_bytes: int = 16 << 20
    """Largest such range."""
    subchunk_write_order: Literal["lexicographic", "colexicographic", "morton"] = "lexicographic"
    """How the inner chunks of a shard follow each other when it is written: in C order, in Fortran
    order, or along the Z-order curve of zarr-python, which keeps those of a box close together."""
    concurrent_writes: Literal["locked", "unsafe"] = "locked"
    """``locked``: writes that share a chunk or shard take the store's lock, or raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what untrusted metadata can make us allocate."""

    metadata_nbytes: int = 16 << 20
    """Largest metadata document."""
    json_depth: int = 256
    rank: int = 64
    """NumPy's own limit."""
    chunk_nbytes: int = 4 << 30
    """Largest decoded chunk or shard index."""
    codecs: int = 16
    """Longest codec chain."""
    shard_nesting: int = 2
    """Shards inside shards."""
    inner_chunks: int = 1 << 24
    """Inner chunks per shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuConfig:
    """Of reads and writes on a device. No card has been measured yet: thresholds are estimates."""

    min_nbytes: int = 4 << 20
    """Requests for less are read by the host and copied up."""
    min_streams: int = 64
    """With fewer compressed streams in a request the host decodes them."""
    wave_nbytes: int = 0
    """Decoded bytes of the chunks that are in work at a time; 0: by the device's free memory."""
    slab_nbytes: int = 64 << 20
    """Page-locked memory is allocated in pieces of this size."""
    trust: Literal["auto", "yes", "no"] = "auto"
    """Whether stored bytes may reach decoders that are defined for valid data only (nvCOMP's zstd,
    deflate and gzip). ``auto``: those of local stores, or as the store's ``trusted`` says."""
    gds: Literal["auto", "off", "compat"] = "auto"
    """Whether uncompressed chunks go from local files straight into device memory. ``auto``: where
    GPUDirect Storage can be used; ``compat``: everywhere, by KvikIO without GPUDirect Storage, for
    comparisons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings."""

    default_zarr_format: Literal[2, 3] = 3
    json_indent: int | None = 2
    device: str = "auto"
    """Device of reads that name none: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    threads: int = 0
    """Decoding threads of the process; 0: one per core."""
    io_threads: int = 32
    """Requests in flight against stores with latency."""
    memory_window_bytes: int = 64 << 20
    """Bytes a read may hold beside its output."""
    target_shard_size_bytes: int | None = None
    """Size aimed at by ``shards="auto"``."""
    cache_dir: str = ""
    """Folder of compiled kernels; "": zarr_gpu in the user's cache directory."""
    durable: bool = False
    """Local stores flush files and directories before a write returns."""
    array: ArrayConfig = field(default_factory=ArrayConfig)
    gpu: GpuConfig = field(default_factory=GpuConfig)
    limits: Limits = field(default_factory=Limits)


_SECTIONS = {"array": ArrayConfig, "gpu": GpuConfig, "limits": Limits}
_FORMER = {"array.target_shard_size_bytes": "target_shard_size_bytes"}


def _apply(config: Config, changes: Mapping[str, Any]) -> Config:
    for name, value in changes.items():
        name = _FORMER.get(name, name)
        section, dot, member = name.partition(".")
        holder = getattr(config, section) if dot and section in _SECTIONS else config
        member = member if holder is not config else name
        if member not in {f.name for f in fields(holder)} or member in _SECTIONS:
            raise KeyError(f"no setting is called {name!r}")
        _check(name, getattr(holder, member), value)
        holder = replace(holder, **{member: value})
        config = holder if isinstance(holder, Config) else replace(config, **{section: holder})
    return config


def _check(name: str, old: Any, value: Any) -> None:
    """A setting keeps its type; the few that may be None are ints."""
    wanted = type(old) if old is not None else int
    if name in ("target_shard_size_bytes", "json_indent"):
        ok = value is None or type(value) is int
    else:
        ok = type(value) is wanted
    if not ok:
        raise TypeError(f"{name} must be {wanted.__name__}, not {value!r}")


def _from_environment(environ: Mapping[str, str]) -> Config:
    config = Config()
    for variable, text in environ.items():
        if not variable.startswith("ZARR_GPU_"):
            continue
        name = variable.removeprefix("ZARR_GPU_").lower().replace("__", ".")
        from ast import literal_eval  # slow to import, and hardly ever needed

        value: Any
        try:
            value = literal_eval(text)
        except (SyntaxError, ValueError):
            value = {"true": True, "false": False}.get(text.lower(), text)
        try:
            config = _apply(config, {name: value})
        except (KeyError, TypeError) as error:
            raise ValueError(f"environment variable {variable}: {error}") from None
    return config


class Setting:
    """What :meth:`ConfigHolder.set` returns: already in force; leaving ``with`` undoes it."""

    def __init__(self, holder: ConfigHolder, before: Config) -> None:
        self._holder = holder
        self._before = before

    def __enter__(self) -> ConfigHolder:
        return self._holder

    def __exit__(self, *exc: object) -> None:
        self._holder.current = self._before


class ConfigHolder:
    """The process-wide settings."""

    def __init__(self, current: Config) -> None:
        self.current = current

    def get(self, name: str, default: Any = ...) -> Any:
        """Value of a dotted name, for example ``"array.order"``; KeyError when there is none."""
        value: Any = self.current
        for part in _FORMER.get(name, name).split("."):
            value = getattr(value, part, ...)
            if value is ...:
                if default is ...:
                    raise KeyError(f"no setting is called {name!r}")
                return default
        return value

    def set(self, changes: Mapping[str, Any] | None = None, **more: Any) -> Setting:
        """Change settings, for good or (as a context manager) for a while.

        Keyword names use ``__`` for the dot. Raises KeyError for an unknown name and TypeError
        for a value of the wrong type.
        """
        named = {k.replace("__", "."): v for k, v in more.items()}
        before = self.current
        self.current = _apply(before, {**(changes or {}), **named})
        return Setting(self, before)

    def reset(self) -> None:
        """Back to the defaults and the environment."""
        self.current = _from_environment(os.environ)

    def __repr__(self) -> str:
        return repr(self.current)


config = ConfigHolder(_from_environment(os.environ))
