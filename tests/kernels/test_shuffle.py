"""Byte- and bit-shuffle: what c-blosc and numcodecs do to a block, for every size of elements."""

import random
import struct

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc, lz4

from tests.kernels.build import examples, load
from zarr_gpu.codecs.blosc import parse_container, unfilter
from zarr_gpu.device import kernels, launches

KERNELS = ["byte_unshuffle", "byte_shuffle", "bit_unshuffle", "bit_shuffle"]
VECTORS = [1, 2, 4, 8, 16]  # sizes with a way of their own
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_schedule = pytest.mark.parametrize("schedule", ["forward", "reverse", 3])
CANARY = 0x5A


def place(data, shift=0):
    """The bytes at an address `shift` above a multiple of 16; nothing lies behind them."""
    buffer = np.empty(len(data) + shift, np.uint8)
    assert buffer.ctypes.data % 16 == 0
    buffer[shift:] = np.frombuffer(data, np.uint8)
    return buffer[shift:]


def addresses(rows):
    return np.array([row.ctypes.data for row in rows], np.uint64)


def run(kernel, rows, typesizes, *, shift=0, blocks=None, first_tile=None, schedule="forward"):
    """Outputs of a kernel for input rows; they begin `shift` bytes above a multiple of 16."""
    outs = [place(bytes([CANARY]) * row.size, shift) for row in rows]
    nbytes = np.array([row.size for row in rows], np.uint64)
    suggested, threads, tiles = launches.shuffle(nbytes)
    if first_tile is not None:
        tiles = np.array(first_tile, np.int64)
    columns = [addresses(rows), addresses(outs), nbytes, np.array(typesizes, np.int32), tiles]
    module = load("shuffle")
    module.schedule = schedule
    args = kernels.pack(kernel, [column.ctypes.data for column in columns] + [len(rows)])
    module.get_function(kernel)((blocks or suggested,), (threads,), args)
    return outs


def unshuffled(kernel, row, typesize):
    return unfilter(row, typesize, "bitshuffle" if kernel.startswith("bit") else "shuffle")


def check(kernel, rows, typesizes, **how):
    outs = run(kernel, rows, typesizes, **how)
    for row, out, typesize in zip(rows, outs, typesizes, strict=True):
        # Shuffling can be undone, so what unshuffles to the input is the only right output.
        one, other = (row, out) if kernel.endswith("unshuffle") else (out, row)
        wrong = np.flatnonzero(unshuffled(kernel, one, typesize) != other)
        assert not wrong.size, f"{row.size} bytes, typesize {typesize}: wrong from {wrong[0]}"


def noise(n, seed=0):
    return random.Random(seed).randbytes(n)


# -- every element size, odd ends -----------------------------------------------------------------


@each_kernel
def test_every_typesize(kernel):
    draw = random.Random(1)
    rows, sizes = [], []
    for typesize in range(1, 256, max(1, 255 // examples(255))):
        for elements in (8 * draw.randrange(1, 20), 32 * draw.randrange(1, 4), draw.randrange(60)):
            n = elements * typesize + draw.choice([0, 0, draw.randrange(typesize)])
            rows.append(place(noise(n, n), draw.choice([0, 0, draw.randrange(16)])))
            sizes.append(typesize)
    check(kernel, rows, sizes)


@each_schedule
@pytest.mark.parametrize("typesize", VECTORS)
@each_kernel
def test_every_number_of_elements(kernel, typesize, schedule):
    sizes = [n * typesize + extra for n in range(100) for extra in {0, n % typesize}]
    rows = [place(noise(size, size)) for size in sizes]
    check(kernel, rows, [typesize] * len(rows), blocks=5, schedule=schedule)


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 6, 8, 12])
@each_kernel
def test_every_alignment(kernel, shift):
    rows, sizes = [], []
    for typesize in [*VECTORS, 3, 6, 12, 24]:
        for elements in (7, 8, 64, 104, 136, 129, 4 * 99):
            for at in (0, shift):
                rows.append(place(noise(elements * typesize + 1 % typesize, elements), at))
                sizes.append(typesize)
    for out_shift in (0, shift):
        check(kernel, rows, sizes, shift=out_shift)


@each_kernel
def test_rows_that_are_copied(kernel):
    bit = kernel.startswith("bit")
    cases = [
        (5, 8),
        (0, 4),
        (1, 2),
        (254, 255),
        (4_999, 1 if not bit else 5_000),
        (100, 0),
        (9, -1),
    ]
    cases += [(n * size, size) for n in (1, 7, 12, 1001) for size in (4, 3)] if bit else []
    cases += [(256 * 16, 256), (300 * 8, 300)] if bit else []
    rows = [place(noise(n, n), n % 3) for n, _ in cases]
    for shift in (0, 1, 2):
        outs = run(kernel, rows, [size for _, size in cases], shift=shift)
        assert [out.tobytes() for out in outs] == [row.tobytes() for row in rows]


def test_bytes_of_any_typesize():
    rows = [place(noise(n)) for n in (256 * 5 + 3, 1000, 999, 4_001)]
    for kernel in ("byte_shuffle", "byte_unshuffle"):
        check(kernel, rows, [256, 1000, 1000, 2_000])


# -- tiles ----------------------------------------------------------------------------------------


@each_kernel
@pytest.mark.parametrize("typesize", [*VECTORS, 5, 100, 255])
def test_rows_of_many_tiles(kernel, typesize):
    n = 3 * launches.TILE_NBYTES // typesize // 8 * 8
    rows = [place(noise(n * typesize + extra)) for extra in (0, typesize // 2, 8 * typesize)]
    assert launches.shuffle(np.array([row.size for row in rows]))[0] >= 9
    check(kernel, rows, [typesize] * 3)
    check(kernel, rows, [typesize] * 3, blocks=2)


@each_kernel
@settings(max_examples=examples(40))
@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(VECTORS), st.integers(1, 255)),
            st.one_of(st.integers(0, 70), st.integers(0, 60).map(lambda n: 8 * n)),
            st.integers(0, 254),
            st.integers(0, 4),
            st.integers(0, 17),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 17),
    st.integers(1, 7),
    st.sampled_from(["forward", "reverse", 1, 2]),
)
def test_any_cut(kernel, shapes, shift, blocks, schedule):
    """The number of tiles of a row is the caller's choice, as long as there is one."""
    rows = [place(noise(t * n + extra % t, n), at) for t, n, extra, _, at in shapes]
    tiles = [
        more + 1 if row.size else more for row, (*_, more, _) in zip(rows, shapes, strict=True)
    ]
    first_tile = np.cumsum([0, *tiles])
    check(
        kernel,
        rows,
        [t for t, *_ in shapes],
        shift=shift,
        blocks=blocks,
        first_tile=first_tile,
        schedule=schedule,
    )


@each_schedule
@each_kernel
def test_one_tile_larger_than_shared_memory(kernel, schedule):
    rows = [place(noise(50_000 // t // 8 * 8 * t, t)) for t in (1, 2, 4, 7, 16)]
    check(
        kernel,
        rows,
        [1, 2, 4, 7, 16],
        first_tile=range(6),
        schedule=schedule,
    )


@each_kernel
def test_nothing_outside_the_rows_is_written(kernel):
    arena = np.full(40_000, CANARY, np.uint8)
    rows, outs, sizes, at = [], [], [], 1
    for typesize in (*VECTORS, 3, 9):
        for n in (8, 17, 32, 129):
            rows.append(place(noise(n * typesize + 1 % typesize)))
            outs.append(arena[at : at + rows[-1].size])
            sizes.append(typesize)
            at += rows[-1].size + 5
    nbytes = np.array([row.size for row in rows], np.uint64)
    blocks, threads, tiles = launches.shuffle(nbytes)
    columns = [addresses(rows), addresses(outs), nbytes, np.array(sizes, np.int32), tiles]
    args = kernels.pack(kernel, [column.ctypes.data for column in columns] + [len(rows)])
    load("shuffle").get_function(kernel)((blocks,), (threads,), args)
    for out in outs:
        out[:] = CANARY
    assert (arena == CANARY).all()


@given(st.lists(st.integers(0, 1 << 40), max_size=20))
def test_tiles_of_a_launch(sizes):
    blocks, threads, first_tile = launches.shuffle(np.array(sizes, np.uint64))
    assert 1 <= blocks <= launches.MAX_BLOCKS
    assert threads == 256
    counts = np.diff(first_tile)
    assert first_tile[0] == 0
    for size, count in zip(sizes, counts.tolist(), strict=True):
        assert (count - 1) * launches.TILE_NBYTES < size <= count * launches.TILE_NBYTES


# -- what the libraries write ---------------------------------------------------------------------


@pytest.mark.parametrize("elementsize", [2, 3, 4, 8, 16, 100, 300])
def test_numcodecs_shuffle(elementsize):
    codec = numcodecs.Shuffle(elementsize)
    data = noise(elementsize * 77)
    shuffled = bytes(codec.encode(np.frombuffer(data, np.uint8)))
    (out,) = run("byte_unshuffle", [place(shuffled, 1)], [elementsize])
    assert out.tobytes() == data
    (out,) = run("byte_shuffle", [place(data, 3)], [elementsize])
    assert out.tobytes() == shuffled


def blocks_of(container):
    """The blocks of a Blosc container, decompressed but still shuffled."""
    header = parse_container(container)
    assert not header.stored
    streams = iter(header.streams)
    kinds, blocks = set(), []
    for start in range(0, header.nbytes, header.blocksize):
        size = min(header.blocksize, header.nbytes - start)
        splits = header.splits if size == header.blocksize else 1
        block = b""
        for _ in range(splits):
            at, n = next(streams)
            stream = bytes(container[at : at + n])
            kinds.add(n == size // splits)
            if n < size // splits:
                stream = bytes(lz4.decompress(struct.pack("<I", size // splits) + stream))
            block += stream
        blocks.append(block)
    return header, blocks, kinds


@pytest.mark.parametrize("n", [4_096, 5_003, 8_191])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 8, 12, 16, 17, 32])
@pytest.mark.parametrize("mode", ["byte", "bit"])
def test_blosc(mode, typesize, n):
    # One byte of an element is noise, which Blosc stores; the others compress.
    items = np.zeros((n, typesize), np.uint8)
    items[:, 0] = np.frombuffer(noise(n), np.uint8)
    items[: n // 2, 0] //= 64
    data = items.tobytes() + b"rest"[: typesize - 1]
    shuffle = blosc.SHUFFLE if mode == "byte" else blosc.BITSHUFFLE
    container = blosc.compress(data, b"lz4", 5, shuffle, 8_192, typesize)
    header, blocks, kinds = blocks_of(container)
    assert header.splits == 1 or kinds == {True, False}
    outs = run(f"{mode}_unshuffle", [place(block) for block in blocks], [typesize] * len(blocks))
    assert b"".join(out.tobytes() for out in outs) == data
    ends = range(0, header.nbytes, header.blocksize)
    parts = [place(data[i : i + header.blocksize]) for i in ends]
    outs = run(f"{mode}_shuffle", parts, [typesize] * len(parts))
    assert [out.tobytes() for out in outs] == blocks
