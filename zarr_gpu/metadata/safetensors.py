"""Headers of safetensors files: parsed to columns, checked, and made.

Knows bytes but no file, and nothing of Zarr but the names of its data types. The format: eight
bytes with the length of the header, the header (JSON), the bytes of all tensors one after the other
without holes (https://github.com/huggingface/safetensors, README, "Format").

>>> header = make_header([("a", "F32", (2, 3))], {"made by": "hand"}, align=64)
>>> parsed = parse_header(header[8:], 24, "a.safetensors")
>>> list(parsed.names), list(parsed.shapes), parsed.start.tolist(), parsed.metadata
(['a'], [(2, 3)], [0], {'made by': 'hand'})
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from zarr_gpu._types import Bytes, Int64
from zarr_gpu.errors import MetadataError, Problem
from zarr_gpu.metadata.problems import show
from zarr_gpu.metadata.safetensors_scan import Shapes, scan


class TensorType(NamedTuple):
    """A data type by its name in Zarr format 3, and the bits of an element."""

    name: str
    bits: int


TYPES: Mapping[str, TensorType] = {
    "BOOL": TensorType("bool", 8),
    "U8": TensorType("uint8", 8),
    "I8": TensorType("int8", 8),
    "U16": TensorType("uint16", 16),
    "I16": TensorType("int16", 16),
    "U32": TensorType("uint32", 32),
    "I32": TensorType("int32", 32),
    "U64": TensorType("uint64", 64),
    "I64": TensorType("int64", 64),
    "F16": TensorType("float16", 16),
    "BF16": TensorType("bfloat16", 16),
    "F32": TensorType("float32", 32),
    "F64": TensorType("float64", 64),
    "C64": TensorType("complex64", 64),
    "F8_E4M3": TensorType("float8_e4m3fn", 8),  # PyTorch's, without infinities
    "F8_E4M3FNUZ": TensorType("float8_e4m3fnuz", 8),
    "F8_E5M2": TensorType("float8_e5m2", 8),
    "F8_E5M2FNUZ": TensorType("float8_e5m2fnuz", 8),
    "F8_E8M0": TensorType("float8_e8m0fnu", 8),
    "F6_E2M3": TensorType("float6_e2m3fn", 6),
    "F6_E3M2": TensorType("float6_e3m2fn", 6),
    "F4": TensorType("float4_e2m1fn", 4),
}
"""By their codes (safetensors/src/tensor.rs, ``Dtype``)."""
MAX_NBYTES = 100_000_000
"""Of a header that other readers accept (``MAX_HEADER_SIZE`` there)."""
METADATA = "__metadata__"
_CODES = tuple(TYPES)
_BITS = {code: kind.bits for code, kind in TYPES.items()}
_MOST_PROBLEMS = 20
_MEMBERS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The tensors of one file, in columns; ``start`` and ``nbytes`` are bytes behind the header."""

    names: Sequence[str]
    codes: list[str]
    shapes: Shapes
    start: Int64
    nbytes: Int64
    metadata: dict[str, str]


def header_nbytes(first: Bytes, file_nbytes: int, file: str) -> int:
    """Length of the JSON that follows the ``first`` eight bytes. Raises MetadataError."""
    if len(first) < 8:
        raise MetadataError(f"{file_nbytes} bytes are too short for a header", document=file)
    n = int.from_bytes(first[:8], "little")
    if n > MAX_NBYTES:
        raise MetadataError(f"a header of {n} bytes; at most {MAX_NBYTES}", document=file)
    if 8 + n > file_nbytes:
        raise MetadataError(
            f"a header of {n} bytes in a file of {file_nbytes} bytes", document=file
        )
    return n


def parse_header(data: Bytes, data_nbytes: int, file: str) -> Header:
    """The header in ``data`` of a file with ``data_nbytes`` bytes behind it.

    Raises MetadataError, naming ``file``, unless all tensors have a known type and lie one after
    the other, without holes, in exactly these bytes.
    """
    scanned = scan(bytes(data), _CODES)
    if scanned is not None and _is_text_by_text(scanned.metadata):
        found = Header(
            names=scanned.names,
            codes=[_CODES[i] for i in scanned.codes.tolist()],
            shapes=scanned.shapes,
            start=scanned.start,
            nbytes=scanned.stop - scanned.start,
            metadata=scanned.metadata,
        )
        _check_places(found, data_nbytes, file)
        return found
    header = _parse(data, file)
    _check_places(header, data_nbytes, file)
    return header


def _parse(data: Bytes, file: str) -> Header:
    """A header in any layout that JSON allows."""
    document = _load(data, file)
    metadata = document.pop(METADATA, {})
    problems: list[Problem] = []
    if not _is_text_by_text(metadata):
        problems.append(Problem((METADATA,), f"expected strings, found {show(metadata)}", "type"))
    codes, shapes, offsets = [], [], []
    for name, entry in document.items():
        problem = _check(entry)
        if problem is not None:
            problems.append(Problem((name,), problem))
            if len(problems) > _MOST_PROBLEMS:
                break
            continue
        codes.append(entry["dtype"])
        shapes.append(tuple(entry["shape"]))
        offsets.append(entry["data_offsets"])
    if problems:
        raise MetadataError(problems, document=file)
    columns = np.fromiter(chain.from_iterable(offsets), np.int64).reshape(-1, 2)
    return Header(
        names=list(document), codes=codes, shapes=Shapes.of(shapes), start=columns[:, 0],
        nbytes=columns[:, 1] - columns[:, 0], metadata=metadata,
    )  # fmt: skip


def _load(data: Bytes, file: str) -> dict[str, Any]:
    try:
        document = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"the header is not valid JSON: {error}", document=file) from None
    if not isinstance(document, dict):
        raise MetadataError(f"expected an object, found {show(document)}", document=file)
    return document


def _is_text_by_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _check(entry: Any) -> str | None:
    """What is wrong with the entry of a tensor."""
    if type(entry) is not dict or entry.keys() != _MEMBERS:
        return f"expected dtype, shape and data_offsets, found {show(entry)}"
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in TYPES:
        return f"unknown dtype {show(entry['dtype'])}"
    for name in ("shape", "data_offsets"):
        numbers = entry[name]
        if type(numbers) is not list or any(
            type(n) is not int or not 0 <= n < 2**63 for n in numbers
        ):
            return f"{name} has to be a list of numbers, found {show(numbers)}"
    if len(entry["data_offsets"]) != 2:
        return f"data_offsets has to be two numbers, found {show(entry['data_offsets'])}"
    return None


def _check_places(header: Header, data_nbytes: int, file: str) -> None:
    """Raise MetadataError unless tensors have the bytes that they need, and share none."""
    problems = _wrong_sizes(header) or _wrong_places(header, data_nbytes)
    if problems:
        raise MetadataError(problems, document=file)


def _wrong_sizes(header: Header) -> list[Problem]:
    elements = header.shapes.products()
    bits = np.fromiter(map(_BITS.__getitem__, header.codes), np.int64, len(header.codes))
    suspects: Sequence[int] = range(len(header.names))
    if elements is not None and not (elements > 2**58).any():
        suspects = np.flatnonzero(elements * bits != 8 * header.nbytes).tolist()
    problems = []
    for i in suspects:
        code, shape, nbytes = header.codes[i], header.shapes[i], int(header.nbytes[i])
        needed = math.prod(shape) * TYPES[code].bits
        if needed != 8 * nbytes:
            text = f"{show(list(shape))} of {code} needs {needed / 8:g} bytes"
            problems.append(Problem((header.names[i],), f"{text}, data_offsets has {nbytes}"))
            if len(problems) > _MOST_PROBLEMS:
                break
    return problems


def _wrong_places(header: Header, data_nbytes: int) -> list[Problem]:
    order = np.lexsort((header.nbytes, header.start))
    start = header.start[order]
    expected = np.concatenate(([0], start + header.nbytes[order]))
    wrong = np.flatnonzero(start != expected[:-1])
    if len(wrong):
        name = header.names[int(order[wrong[0]])]
        at, before = int(start[wrong[0]]), int(expected[wrong[0]])
        what = "overlaps the tensor before it" if at < before else "begins behind a hole"
        return [Problem((name,), f"{what}: starts at {at}, expected {before}")]
    if int(expected[-1]) != data_nbytes:
        text = f"tensors have {int(expected[-1])} bytes, the file {data_nbytes}"
        return [Problem((), text)]
    return []


def tensor_nbytes(code: str, shape: Sequence[int]) -> int:
    """Raises ValueError where elements of less than a byte do not fill whole bytes."""
    bits = math.prod(shape) * TYPES[code].bits
    if bits % 8:
        raise ValueError(f"{list(shape)} of {code} are no whole number of bytes")
    return bits // 8


def make_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str], *, align: int
) -> bytes:
    """All bytes before the data, for ``(name, code, shape)`` in the order of their bytes.

    Spaces at the end, which the format allows, make their number a multiple of ``align``.
    """
    document: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, code, shape in tensors:
        nbytes = tensor_nbytes(code, shape)
        document[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % align)
    if len(text) > MAX_NBYTES:
        raise ValueError(f"a header of {len(text)} bytes; at most {MAX_NBYTES}")
    return len(text).to_bytes(8, "little") + text
