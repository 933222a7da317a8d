"""The kernels of ``elements.cu``: rows, tiles, alignment, byte order, scans and bits.

What codecs make of values is compared with the host's codecs in ``test_elements_codecs.py``.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codecs.array_codecs import spec_of
from tests.kernels.build import examples, load
from zarr_gpu.codecs.base import Size
from zarr_gpu.codecs.registry import from_v2, get_codec
from zarr_gpu.device import kernels
from zarr_gpu.device.elements import TILE, ElementStep, element_step, launch

OK, BAD_VALUE = 0, 100
SCHEDULES = ("forward", "reverse", 7)
POISON = 0xA5


def run(step, stored, decoded_nbytes, *, blocks=None, schedule="forward", shift=0):
    """Status and decoded bytes of each row.

    Every row has buffers of its own, of exactly its size; inputs begin ``shift`` bytes behind a
    multiple of 16.
    """
    counts = step.counts(np.array(decoded_nbytes, np.int64))
    assert [len(data) for data in stored] == step.stored_nbytes(counts).tolist()
    best, threads, first_tile = launch(step, counts)
    inputs = [np.frombuffer(bytes(shift) + bytes(data), np.uint8).copy() for data in stored]
    outputs = [np.full(n, POISON, np.uint8) for n in decoded_nbytes]
    assert all(buffer.ctypes.data % 16 == 0 for buffer in (*inputs, *outputs))
    in_ptr = np.array([data.ctypes.data + shift for data in inputs], np.uint64)
    out_ptr = np.array([out.ctypes.data for out in outputs], np.uint64)
    columns = (in_ptr, out_ptr, counts, first_tile)
    status = start(step, columns, blocks or best, threads, schedule)
    return list(zip(status.tolist(), (out.tobytes() for out in outputs), strict=True))


def run_each(step, values, nbytes):
    """Statuses and decoded bytes of values, a row each: fast, so without buffers of their own."""
    n, size = len(values), values.dtype.itemsize
    values = values.copy()
    out = np.full((n, 16), POISON, np.uint8)
    counts = np.ones(n, np.int64)
    in_ptr = values.ctypes.data + size * np.arange(n, dtype=np.uint64)
    out_ptr = out.ctypes.data + 16 * np.arange(n, dtype=np.uint64)
    status = start(step, (in_ptr, out_ptr, counts, launch(step, counts)[2]), 1, 1)
    assert (out[:, nbytes:] == POISON).all()
    return status, out[:, :nbytes]


def start(step, columns, blocks, threads, schedule="forward"):
    """Launches the kernel and returns the statuses."""
    n = len(columns[0])
    status = np.zeros(n, np.int32)
    table = np.frombuffer(step.table, np.uint64).copy()
    addresses = (column.ctypes.data for column in (*columns, status))
    args = step.arguments(*addresses, n, table.ctypes.data)
    module = load("elements")
    module.schedule = schedule
    function = module.get_function(step.kernel)
    function((blocks,), (threads,), kernels.pack(step.kernel, args))
    return status


def some(cases):
    """All cases, and fewer where runs are to be short: see ``examples``."""
    cases = list(cases)
    return cases[:: len(cases) // examples(len(cases))]


def filter_step(**config):
    step = element_step(from_v2(config))
    assert step is not None
    return step


def decode(config, data, nbytes):
    """As the host does."""
    codec = from_v2(config)
    return bytes(codec.decode(data, Size(nbytes))) if data else b""


def random_bytes(n, seed=0):
    return np.random.default_rng(seed).bytes(n)


# -- rows and tiles -------------------------------------------------------------------------------

COUNTS = [0, 1, 3, 4, 5, 0, 0, 127, 1023, TILE - 1, TILE, 0, TILE + 1, 2 * TILE + 7, 2, 0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("blocks", [1, 2, 5, None])
def test_rows_of_all_lengths_share_any_number_of_blocks(blocks, schedule):
    config = {"id": "astype", "encode_dtype": "<i2", "decode_dtype": "<i4"}
    rows = [random_bytes(2 * n, seed=n) for n in COUNTS]
    sizes = [4 * n for n in COUNTS]
    results = run(filter_step(**config), rows, sizes, blocks=blocks, schedule=schedule)
    assert results == [(OK, decode(config, *row)) for row in zip(rows, sizes, strict=True)]


def test_many_small_rows():
    config = {"id": "astype", "encode_dtype": ">u2", "decode_dtype": "<f4"}
    counts = np.random.default_rng(0).integers(0, 6, examples(300)).tolist()
    rows = [random_bytes(2 * n, seed=i) for i, n in enumerate(counts)]
    sizes = [4 * n for n in counts]
    for blocks in (None, 3):
        results = run(filter_step(**config), rows, sizes, blocks=blocks)
        assert results == [(OK, decode(config, *row)) for row in zip(rows, sizes, strict=True)]


def test_nothing_to_do():
    step = filter_step(id="astype", encode_dtype="<i2", decode_dtype="<i4")
    assert run(step, [b"", b""], [0, 0]) == [(OK, b""), (OK, b"")]
    assert run(filter_step(id="delta", dtype="<i2"), [b""], [0]) == [(OK, b"")]


@pytest.mark.parametrize("shift", range(16))
@pytest.mark.parametrize("source", ["|i1", "<i2", "<i4", "<i8"])
def test_inputs_at_any_address(source, shift):
    size = int(source[2])
    for target in ("<f4", ">f8", ">i2", "|b1"):
        config = {"id": "astype", "encode_dtype": source, "decode_dtype": target}
        width = int(target[2])
        counts = [1, 2, 3, 4, 5, 70]
        rows = [random_bytes(size * n, seed=n) for n in counts]
        sizes = [width * n for n in counts]
        expected = [(OK, decode(config, *row)) for row in zip(rows, sizes, strict=True)]
        assert run(filter_step(**config), rows, sizes, shift=shift) == expected


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_only_the_row_with_the_bad_value_is_marked(schedule):
    step = filter_step(id="astype", encode_dtype="<f4", decode_dtype="|u1")
    rows = [np.arange(n, dtype="<f4") % 256 for n in (1, TILE, 3 * TILE, 9, 2 * TILE)]
    rows[2][3 * TILE - 1] = np.nan
    rows[3][0] = 256
    results = run(step, [row.tobytes() for row in rows], [len(r) for r in rows], schedule=schedule)
    assert [status for status, _ in results] == [OK, OK, BAD_VALUE, BAD_VALUE, OK]
    for (_, out), row in zip(results, rows, strict=True):
        good = np.isfinite(row) & (row < 256)
        assert (np.frombuffer(out, "u1")[good] == row[good]).all()


def test_a_status_is_never_lowered():
    step = filter_step(id="astype", encode_dtype="<f4", decode_dtype="|u1")
    data, out = np.array([1, -5], "f4"), np.zeros(16, "u1")
    counts = np.array([1, 1], np.int64)
    blocks, threads, first_tile = launch(step, counts)
    in_ptr = data.ctypes.data + np.array([0, 4], np.uint64)
    out_ptr = np.array([out.ctypes.data] * 2, np.uint64)
    status = np.array([12, 999], np.int32)  # of an earlier step
    columns = (in_ptr, out_ptr, counts, first_tile, status)
    args = kernels.pack("astype", step.arguments(*(c.ctypes.data for c in columns), 2))
    load("elements").get_function("astype")((blocks,), (threads,), args)
    assert status.tolist() == [12, 999]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_looking_up(schedule):
    step = filter_step(
        id="fixedscaleoffset", scale=3, offset=-7, dtype="<f8", astype="|u1"
    )  # fmt: skip
    assert step.kernel == "look_up"
    values = [np.frombuffer(random_bytes(n, seed=n), "u1") for n in (0, 1, 5, 257, TILE + 3)]
    results = run(step, values, [8 * len(v) for v in values], schedule=schedule, shift=1)
    assert results == [(OK, (v / 3 + -7).tobytes()) for v in values]


# -- differences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("blocks", [1, 3, None])
def test_sums_of_rows_of_all_lengths(blocks, schedule):
    config = {"id": "delta", "dtype": "<i4", "astype": "<i2"}
    counts = [0, 1, 5, 128, 129, 1023, 1024, 1025, 0, 7 * 1024 + 77, 3]
    rows = [random_bytes(2 * n, seed=n) for n in counts]
    sizes = [4 * n for n in counts]
    results = run(filter_step(**config), rows, sizes, blocks=blocks, schedule=schedule, shift=2)
    assert results == [(OK, decode(config, *row)) for row in zip(rows, sizes, strict=True)]


@pytest.mark.parametrize("order", ["<>", "><", "<<", ">>"])
@pytest.mark.parametrize("stored", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_sums_wrap_as_those_of_numpy(stored, order):
    for decoded in some(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]):
        if np.result_type(stored, decoded).kind == "f":
            continue
        config = {"id": "delta", "dtype": order[0] + decoded, "astype": order[1] + stored}
        size, width = int(stored[1]), int(decoded[1])
        rows = [random_bytes(size * n, seed=n) for n in (1, 6, 300)]
        sizes = [width * n for n in (1, 6, 300)]
        for shift in (0, 3):
            results = run(filter_step(**config), rows, sizes, shift=shift)
            assert results == [(OK, decode(config, *row)) for row in zip(rows, sizes, strict=True)]


# -- bits -----------------------------------------------------------------------------------------


def bits_reference(data, count, width, first, extension):
    """Integers one after the other, lowest bits first."""
    number = int.from_bytes(data, "little")
    out = []
    for i in range(count):
        value = number >> i * width & (1 << width) - 1
        out.append(value << first | (extension if value >> (width - 1) else 0))
    return out


@pytest.mark.parametrize("width", range(1, 65))
def test_bits_of_any_width(width):
    size = next(n for n in (1, 2, 4, 8) if width <= 8 * n)
    for first in {0, 8 * size - width}:
        extension = ((1 << 8 * size) - (1 << (first + width))) & (1 << 8 * size) - 1
        step = ElementStep(
            kernel="unpack_bits",
            args=(size.bit_length() - 1, width, first, extension, 0, 0),
            stored_bits=width,
            nbytes=size,
        )
        counts = [1, 2, 3, 7, 8, 50, 333]
        rows = [random_bytes((n * width + 7) // 8, seed=n) for n in counts]
        results = run(step, rows, [size * n for n in counts], shift=width % 5)
        for (status, out), row, n in zip(results, rows, counts, strict=True):
            assert status == OK
            expected = bits_reference(row, n, width, first, extension)
            assert np.frombuffer(out, f"<u{size}").tolist() == expected


@pytest.mark.parametrize("padding", ["none", "first_byte", "last_byte"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, TILE - 1, TILE + 1, 2 * TILE + 4])
def test_padding_is_checked(count, padding):
    spec = spec_of("bool", (count,))
    codec = get_codec({"name": "packbits", "configuration": {"padding_encoding": padding}})
    step = element_step(codec.bind(spec), spec)
    array = np.random.default_rng(count).integers(0, 2, count).astype(np.bool_)
    data = bytes(codec.encode(array, spec))
    assert run(step, [data, data], [count, count]) == [(OK, array.tobytes())] * 2
    if padding == "none" or not count:
        return
    at = 0 if padding == "first_byte" else -1
    for wrong in {0, 1, 7, 8, 255, (-count % 8) + 8} - {-count % 8}:
        damaged = bytearray(data)
        damaged[at] = wrong
        results = run(step, [data, damaged, data], [count] * 3)
        assert [status for status, _ in results] == [OK, BAD_VALUE, OK]


@pytest.mark.parametrize("count", [1, 5, 8, 9, 1000, TILE + 1])
def test_highest_bits_first(count):
    config = {"id": "packbits"}
    body = random_bytes((count + 7) // 8, seed=count)  # bits left over may be any
    data = bytes([-count % 8]) + body
    wrong = bytes([-count % 8 ^ 1]) + body
    results = run(filter_step(**config), [data, wrong], [count] * 2, shift=3)
    assert results[0] == (OK, decode(config, data, count))
    assert results[1][0] == BAD_VALUE


def test_masks():
    spec = spec_of("uint4", (TILE + 7,))
    step = element_step(get_codec("bytes").bind(spec), spec)
    data = np.frombuffer(random_bytes(TILE + 7), "u1")
    assert run(step, [data, data[:1]], [TILE + 7, 1], shift=5) == [
        (OK, (data & 15).tobytes()),
        (OK, (data[:1] & 15).tobytes()),
    ]


# -- launches -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3 * TILE), min_size=1, max_size=30))
def test_tiles_cover_all_elements(counts):
    step = filter_step(id="astype", encode_dtype="<i2", decode_dtype="<i4")
    blocks, threads, first_tile = launch(step, np.array(counts, np.int64))
    assert threads == 256
    assert 1 <= blocks <= max(1, first_tile[-1])
    assert np.diff(first_tile).tolist() == [-(-n // TILE) for n in counts]


def test_sizes_that_are_no_whole_elements():
    step = filter_step(id="delta", dtype="<i4", astype="<i2")
    with pytest.raises(ValueError, match="multiples of 4"):
        step.counts(np.array([8, 6]))
