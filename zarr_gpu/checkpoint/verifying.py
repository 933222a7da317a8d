"""Checksums of stored tensors: read from the files' metadata, and compared."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from zarr_gpu import workers
from zarr_gpu._types import Int64
from zarr_gpu.checkpoint import saving
from zarr_gpu.errors import CheckpointError, MetadataError
from zarr_gpu.stores.tensor_files import TensorFiles

Verify: TypeAlias = Literal["none", "sample", "full"] | bool
SAMPLE = 16
"""One of so many tensors is looked at by ``verify="sample"``, where there are more."""


def check_verify(verify: Verify) -> Literal["none", "sample", "full"]:
    """``verify`` by name; True is ``full``."""
    name = {True: "full", False: "none"}.get(verify, verify) if isinstance(verify, bool) else verify
    if name not in ("none", "sample", "full"):
        raise ValueError(f"verify has to be none, sample or full, found {verify!r}")
    return name  # type: ignore[return-value]


def stored_checksums(files: TensorFiles) -> dict[int, tuple[int, Int64]]:
    """By row: the size of a piece, and the checksum of each; rows of files without are not there.

    Raises MetadataError for a list that does not fit its file.
    """
    found: dict[int, tuple[int, Int64]] = {}
    for number, key in enumerate(files.keys):
        text = files.headers[number].metadata.get(saving.CHECKSUMS)
        if text is None:
            continue
        try:
            document = json.loads(text)
            piece = int(document["piece"])
            values = np.frombuffer(base64.b64decode(document["values"]), "<u4").astype(np.int64)
        except (ValueError, TypeError, KeyError) as error:
            raise MetadataError(f"{saving.CHECKSUMS}: {error!r}", document=key) from None
        rows = np.flatnonzero(files.file == number)
        rows = rows[np.lexsort((files.nbytes[rows], files.offset[rows]))]
        counts = -(-files.nbytes[rows] // piece) if piece > 0 else files.nbytes[rows]
        if piece <= 0 or int(counts.sum()) != len(values):
            raise MetadataError(f"{saving.CHECKSUMS} does not fit the file", document=key)
        first = np.cumsum(counts) - counts
        for row, at, n in zip(rows.tolist(), first.tolist(), counts.tolist(), strict=True):
            found[row] = (piece, values[at : at + n])
    return found


def verify_loaded(
    files: TensorFiles, whole: Mapping[str, memoryview], how: Literal["none", "sample", "full"]
) -> None:
    """Compare what was read with the checksums. Raises CheckpointError naming tensor and bytes."""
    known = stored_checksums(files)
    for name in whole:
        tensor = files[name]
        if any(part.row not in known and files.nbytes[part.row] for part in tensor.parts):
            where = files.place(tensor.parts[0].row)
            raise CheckpointError(f"{name!r} ({where}) has no checksums to verify")
    if how == "sample":
        names = list(whole)
        step = SAMPLE if len(names) > SAMPLE else 1
        whole = {name: whole[name] for name in names[::step]}

    def check(name: str) -> None:
        tensor = files[name]
        if len(tensor.parts) == 1:
            check_row(files, known, tensor.parts[0].row, name, whole[name])
            return
        for part in tensor.parts:  # their bytes are spread over the tensor: read again
            data = files.read_row(part.row)
            check_row(files, known, part.row, name, memoryview(data))

    workers.run(check, whole, workers.thread_count())


def check_row(
    files: TensorFiles,
    known: Mapping[int, Any],
    row: int,
    name: str,
    memory: memoryview,
    within: int = 0,
) -> None:
    """Raise CheckpointError when a piece of a stored tensor has another checksum."""
    if not len(memory):
        return
    piece, expected = known[row]
    found = saving.piece_checksums(memory, piece)
    wrong = [i for i, value in enumerate(found) if value != int(expected[i])]
    if wrong:
        i = wrong[0]
        first = int(files.offset[row]) + within
        start = first + i * piece
        stop = min(start + piece, first + len(memory))
        raise CheckpointError(
            f"{name!r}: bytes {start}..{stop} of {files.keys[int(files.file[row])]!r} are not what "
            f"was written: CRC-32C {found[i]:#010x}, expected {int(expected[i]):#010x}"
        )


def row_checker(files: TensorFiles) -> Callable[[int, int, memoryview], None]:
    """A function that raises CheckpointError unless some pieces of a row are what was written.

    It takes the row, the place of the first byte in it (a multiple of the pieces' size), the bytes.
    """
    known = stored_checksums(files)

    def check(row: int, within: int, memory: memoryview) -> None:
        if row not in known:
            raise CheckpointError(f"{files.place(row)} has no checksums to verify")
        piece, expected = known[row]
        if within % piece or (len(memory) % piece and within + len(memory) != files.nbytes[row]):
            data = memoryview(files.read_row(row))  # pieces of another size than ours
            check_row(files, known, row, files.names[row], data)
            return
        first = within // piece
        some = {row: (piece, expected[first : first + -(-len(memory) // piece)])}
        check_row(files, some, row, files.names[row], memory, within)

    return check
