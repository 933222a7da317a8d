"""What :func:`zarr_gpu.tools.verifying.verify` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from zarr_gpu.errors import (
    ChecksumError,
    ChunkError,
    LimitError,
    MetadataError,
    ShardIndexError,
    StoreError,
)
from zarr_gpu.nodes import join
from zarr_gpu.tools.journal import DIRECTORY


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that cannot be read. ``kind``: checksum, decode, index, size, metadata or store."""

    array: str
    key: str
    kind: str
    message: str
    codec: str | None = None
    byte_range: tuple[int, int] | None = None


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was looked at and what was found."""

    arrays: int = 0
    groups: int = 0
    objects: int = 0
    """Stored chunks or shards that were read."""
    missing: int = 0
    """Chunks or shards that are not stored, and read as the fill value."""
    nbytes: int = 0
    """Decoded."""
    problems: list[Problem] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    """Keys that belong to no node: leftovers, or files of somebody else."""
    temporary: list[str] = field(default_factory=list)
    """Files of writers that were killed; ``LocalStore.repair`` removes them."""

    @property
    def ok(self) -> bool:
        """True when everything stored can be read."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


def problem_of(array: str, key: str, error: Exception) -> Problem:
    """An error as a problem; ``key`` where the error does not name one."""
    kinds = (
        (ChecksumError, "checksum"),
        (ShardIndexError, "index"),
        (ChunkError, "decode"),
        (LimitError, "size"),
        (StoreError, "store"),
    )
    kind = next((name for cls, name in kinds if isinstance(error, cls)), "metadata")
    if isinstance(error, ChunkError):
        return Problem(
            array=array,
            key=error.key,
            kind=kind,
            message=str(error),
            codec=error.codec,
            byte_range=error.byte_range,
        )
    if isinstance(error, MetadataError) and error.document:
        key = error.document
    return Problem(array=array, key=key, kind=kind, message=str(error))


def unfinished_job(path: str) -> Problem:
    """A node that a job has not finished."""
    return Problem(
        array=path,
        key=join(path, f"{DIRECTORY}/job.json"),
        kind="metadata",
        message=f"a job that writes {path or '/'!r} was not finished; run its command again",
    )
