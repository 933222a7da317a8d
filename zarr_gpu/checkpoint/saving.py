"""Writing safetensors files that are fast to read and can be checked.

Any reader of the format opens them. Tensors of whole pages come first, so that they begin at page
boundaries of the file; the header is filled up with spaces to that end, as the format allows. The
header's metadata have checksums (:data:`CHECKSUMS`), and names and types that the format lacks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Bytes
from zarr_gpu.checkpoint.described import Described
from zarr_gpu.checkpoint.frameworks import framework_of
from zarr_gpu.codecs.checksums import crc32c_function
from zarr_gpu.errors import CheckpointError
from zarr_gpu.metadata.safetensors import METADATA, TYPES, make_header, tensor_nbytes
from zarr_gpu.stores.base import Store

PAGE = 4096
"""Bytes that a disk and a page cache move at once: what tensors of whole pages are aligned to."""
PIECE_NBYTES = 16 << 20
"""Bytes that share a checksum; the last piece of a tensor has fewer."""
CHECKSUMS = "zarr_gpu.crc32c"
"""Member of the metadata: JSON with ``piece`` (bytes) and ``values`` (the CRC-32C of each piece of
each tensor, in the order of the file: little-endian 32-bit numbers in base64).
"""
TYPE_NAMES = "zarr_gpu.types"
"""Member of the metadata: JSON with the types that the format lacks, by the tensor's name."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor to be written."""

    name: str
    described: Described
    memory: Callable[[], memoryview]
    """Its bytes; asked for twice, where they are checked, so that few are in memory."""

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.described.code, self.described.shape)


def source(name: str, tensor: Any) -> Source:
    """Raises TypeError for what is no tensor, UnsupportedError for types that cannot be stored."""
    if not isinstance(name, str):
        raise TypeError(f"names of tensors are text, found {type(name).__name__} {name!r}")
    if name == METADATA:
        raise ValueError(f"no tensor can be called {name!r}")
    try:
        framework = framework_of(tensor)
        described = framework.describe(tensor)
        tensor_nbytes(described.code, described.shape)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise type(error)(f"{name!r}: {error}") from error
    return Source(name, described, lambda: framework.memory(tensor))


def ordered(sources: Iterable[Source]) -> list[Source]:
    """Whole pages first, then large elements before small ones: all begin aligned."""
    return sorted(
        sources, key=lambda s: (s.nbytes % PAGE != 0, -TYPES[s.described.code].bits, s.name)
    )


def checksums(sources: Sequence[Source]) -> str:
    """The value of :data:`CHECKSUMS` for tensors in the order of the file."""
    found: list[list[int]] = [[] for _ in sources]

    def check(i: int) -> None:
        found[i] = piece_checksums(sources[i].memory(), PIECE_NBYTES)

    workers.run(check, range(len(sources)), workers.thread_count())
    values = np.array([value for row in found for value in row], "<u4")
    text = base64.b64encode(values.tobytes()).decode()
    return json.dumps({"piece": PIECE_NBYTES, "values": text})


def piece_checksums(memory: Bytes, piece: int) -> list[int]:
    """The CRC-32C of each piece; none where there are no bytes."""
    view = memoryview(memory)
    crc32c = crc32c_function()
    return [crc32c(view[at : at + piece]) for at in range(0, len(view), piece)]


def write_file(
    store: Store,
    key: str,
    sources: Iterable[Source],
    metadata: Mapping[str, str],
    *,
    checksum: bool = True,
) -> int:
    """Write one file, and return its size. The old file is there until the new one is whole."""
    rows = ordered(sources)
    types = {s.name: s.described.logical for s in rows if s.described.logical}
    more = {TYPE_NAMES: json.dumps(types)} if types else {}
    if checksum:
        more[CHECKSUMS] = checksums(rows)
    tensors = [(s.name, s.described.code, s.described.shape) for s in rows]
    header = make_header(tensors, {**metadata, **more}, align=PAGE)

    def parts() -> Iterable[Bytes]:
        yield header
        for row in rows:
            memory = row.memory()
            if len(memory):
                yield memory

    store.set_parts(key, parts)
    return len(header) + sum(row.nbytes for row in rows)


def json_bytes(document: object) -> bytes:
    """A document of a checkpoint, which may be large."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def parse_json(data: Bytes, name: str) -> dict[str, Any]:
    """Raises CheckpointError, naming the document, for what is no JSON object."""
    try:
        document = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is no valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{name} is no JSON object")
    return document
