"""The assemble kernels against NumPy: boxes, points, transposes, byte order, Blosc blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.build import examples, load
from zarr_gpu import indexing
from zarr_gpu.codecs import blosc as codec
from zarr_gpu.device import assemble, kernels
from zarr_gpu.metadata.grids import RegularAxis
from zarr_gpu.plan import make_plan

SCHEDULES = ("forward", "reverse", 7)


def address(array):
    return array.ctypes.data if array is not None and array.size else 0


def launch(table, planes=None, *, blocks=3, threads=64, schedule="forward"):
    first_tile = table.first_tile
    src_index = np.array([address(i) for i in table.src_index], np.uint64)
    dst_index = np.array([address(i) for i in table.dst_index], np.uint64)
    columns = [
        np.ascontiguousarray(c)
        for c in (table.rows, first_tile, table.extent, table.src_stride, table.first)
    ]
    columns += [table.dst_stride, src_index, dst_index]
    name = "assemble" if planes is None else "assemble_blosc"
    columns += [] if planes is None else [planes]
    args = [address(c) for c in columns]
    args += [table.ndim, table.word, table.swap, len(table.rows)]
    module = load("assemble")
    module.schedule = schedule
    module.get_function(name)((blocks,), (threads,), kernels.pack(name, tuple(args)))


def test_rows_have_the_kernels_layout():
    out = np.zeros(1, np.int64)
    args = kernels.pack("assemble_row_nbytes", (out.ctypes.data,))
    load("assemble").get_function("assemble_row_nbytes")((1,), (32,), args)
    assert out[0] == assemble.ROW.itemsize


def fresh(nbytes, shift):
    """Memory of exactly this size whose address has a given remainder."""
    whole = np.full(nbytes + 32, 0x5C, np.uint8)
    start = (-whole.ctypes.data) % 16 + shift
    return whole, whole[start : start + nbytes]


@st.composite
def cases(draw):
    ndim = draw(st.integers(0, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    chunks = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
    kind = draw(st.sampled_from(["basic", "orthogonal", "coordinate", "mask"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "basic" or not ndim:
        key = tuple(
            draw(st.sampled_from([slice(None), slice(1, None, 2), slice(None, None, -2), 0]))
            for _ in shape
        )
        selection, expected = indexing.parse_basic(key, shape), lambda a: a[key]
    elif kind == "orthogonal":
        key = tuple(rng.integers(0, n, rng.integers(1, 6)) for n in shape)
        selection, expected = indexing.parse_orthogonal(key, shape), lambda a: a[np.ix_(*key)]
    elif kind == "coordinate":
        count = int(rng.integers(1, 20))
        key = tuple(rng.integers(0, n, count) for n in shape)
        selection, expected = indexing.parse_coordinate(key, shape), lambda a: a[key]
    else:
        key = rng.random(shape) < 0.5
        selection, expected = indexing.parse_mask(key, shape), lambda a: a[key]
    return shape, chunks, selection, expected, rng


@settings(max_examples=examples(120), deadline=None)
@given(
    case=cases(),
    dtype=st.sampled_from(["u1", "<i2", ">i4", "<f8", ">c16", "<c16"]),
    transposed=st.booleans(),
    order=st.sampled_from("CF"),
    shift=st.integers(0, 15),
    simplified=st.booleans(),
    schedule=st.sampled_from(SCHEDULES),
)
def test_elements_of_chunks_reach_their_place(
    case, dtype, transposed, order, shift, simplified, schedule
):
    shape, chunks, selection, expected, rng = case
    dtype = np.dtype(dtype)
    axes = tuple(RegularAxis(n, c) for n, c in zip(shape, chunks, strict=True))
    data = rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype)[..., 0]
    grid = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    padded = np.zeros([g * c for g, c in zip(grid, chunks, strict=True)], dtype)
    padded[tuple(slice(n) for n in shape)] = data
    plan = make_plan(selection, axes)
    result = np.zeros(selection.shape, dtype.newbyteorder("="), order=order)
    view = selection.work_view(result)
    if view.size and not np.shares_memory(view, result):
        return
    memory, sources = [], []
    for coords in plan.chunk.tolist():
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(coords, chunks, strict=True))
        chunk = padded[box] if chunks else padded
        chunk = chunk.T if transposed else chunk
        whole, part = fresh(chunk.nbytes, shift)
        part[:] = np.frombuffer(np.ascontiguousarray(chunk).tobytes(), np.uint8)
        memory.append((whole, part))
        sources.append(part.ctypes.data)
    stored = chunks[::-1] if transposed else chunks
    strides = np.empty(stored, dtype).strides
    unit = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    table = assemble.plan_table(
        plan,
        plan.segment,
        chunk_strides=strides[::-1] if transposed else strides,
        out_address=address(result),
        out_strides=view.strides if view.size else (0,) * view.ndim,
        itemsize=dtype.itemsize,
        swap=1 if dtype.isnative else unit,
    )
    if view.size:
        table.rows["dst"] += np.uint64(view.ctypes.data - result.ctypes.data)
    low, nbytes = assemble.span(table)
    assert (low >= 0).all() and (low + nbytes <= [p.nbytes for _, p in memory]).all()
    table.rows["src"] = sources
    if simplified:
        table = assemble.simplify(table)
    launch(table, schedule=schedule)
    assert result.tobytes() == expected(data).astype(result.dtype).tobytes()


def test_contiguous_rows_are_moved_in_wide_words():
    table = assemble.flat_table(
        np.array([64, 128], np.uint64), np.array([256, 512], np.uint64), np.array([64, 64]), word=4
    )
    simple = assemble.simplify(table)
    assert simple.word == 16
    assert simple.extent.tolist() == [[4], [4]]
    moved = assemble.simplify(assemble.replace_sources(table, np.array([68, 128])))
    assert moved.word == 4


def test_merging_keeps_axes_that_are_not_neighbours_in_memory():
    plan = make_plan(
        indexing.parse_basic((slice(0, 4), slice(0, 6)), (4, 8)),
        (RegularAxis(4, 4), RegularAxis(8, 8)),
    )
    table = assemble.plan_table(
        plan, plan.segment, chunk_strides=(8, 1), out_address=0, out_strides=(6, 1), itemsize=1
    )
    assert assemble.simplify(table).extent.tolist() == [[4, 3]]  # in words of two bytes


@pytest.mark.parametrize("order", ["C", "F"])
def test_fill_repeats_an_element(order):
    result = np.zeros((5, 7), "<f4", order=order)
    plan = make_plan(
        indexing.parse_basic((slice(None), slice(1, 7)), (5, 7)),
        (RegularAxis(5, 5), RegularAxis(7, 7)),
    )
    view = result[:, 1:]
    table = assemble.plan_table(
        plan,
        plan.segment,
        chunk_strides=(28, 4),
        out_address=view.ctypes.data,
        out_strides=view.strides,
        itemsize=4,
    )
    pattern = np.full(8, 1.5, "<f4")
    start = (-pattern.ctypes.data) % 16
    launch(assemble.simplify(assemble.fill_table(table, pattern.ctypes.data + start)))
    assert (result[:, 1:] == 1.5).all() and (result[:, 0] == 0).all()


@settings(max_examples=examples(150), deadline=None)
@given(
    cname=st.sampled_from(["lz4", "blosclz", "zlib", "zstd"]),
    shuffle=st.sampled_from(["noshuffle", "shuffle"]),
    typesize=st.sampled_from([1, 2, 3, 4, 7, 8, 16, 17, 255]),
    word=st.sampled_from([1, 2, 4, 8, 16]),
    count=st.integers(1, 300),
    blocksize=st.sampled_from([0, 128, 256, 1000, 2048]),
    clevel=st.sampled_from([0, 1, 9]),
    seed=st.integers(0, 2**16),
)
def test_bytes_of_blosc_blocks_are_unshuffled_while_they_are_copied(
    cname, shuffle, typesize, word, count, blocksize, clevel, seed
):
    rng = np.random.default_rng(seed)
    nbytes = count * 16
    data = np.repeat(rng.integers(0, 256, nbytes // 8 + 1, np.uint8), 8)[:nbytes]
    data ^= rng.integers(0, 2, nbytes, np.uint8) * rng.integers(0, 2, dtype=np.uint8)
    packed = codec.BloscCodec(typesize, cname, clevel, shuffle, blocksize).encode(data)
    header = codec.parse_container(packed, nbytes)
    out = np.zeros(nbytes, np.uint8)
    table = assemble.flat_table(
        np.zeros(1, np.uint64), np.array([out.ctypes.data]), np.array([nbytes]), word=word
    )
    stored = np.frombuffer(packed, np.uint8)
    planes, _keep = split_blocks(data, header)
    row = table.rows[0]
    if header.stored:
        row["src"] = stored.ctypes.data + 16
    else:
        row["mode"] = 1 + codec.SHUFFLES.index(header.shuffle)
        for name in ("nbytes", "blocksize", "typesize", "splits"):
            row[name] = getattr(header, name)
    launch(table, planes)
    assert out.tobytes() == data.tobytes()


def split_blocks(data, header):
    """What decompressing the streams gives: filtered bytes, in buffers of exactly their size."""
    if header.stored:
        return np.zeros(1, np.uint64), []
    keep = []
    for start in range(0, header.nbytes, header.blocksize):
        block = data[start : start + header.blocksize]
        splits = header.splits if block.size == header.blocksize else 1
        filtered = filter_block(block, header.typesize, header.shuffle)
        keep += [part.copy() for part in filtered.reshape(splits, -1)]
    return np.array([part.ctypes.data for part in keep], np.uint64), keep


def filter_block(block, typesize, shuffle):
    """The inverse of `unfilter`."""
    n = block.size // typesize
    if shuffle == "shuffle" and typesize > 1 and n:
        head = block[: n * typesize].reshape(n, typesize).T.reshape(-1)
        return np.concatenate([head, block[n * typesize :]])
    return block
