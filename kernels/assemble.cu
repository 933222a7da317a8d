// Assembling: strided copies of boxes and points, for all chunks of a wave in one launch.
//
// A row moves the selected elements of one chunk to their place in the output (or, on the way back,
// from the input to the chunk). Its element number (i_0, ..., i_d) in C order over `extent` is found at
//
//     source       offset + sum_a (src_index[a] ? src_index[a][first_a + i_a] : i_a * src_stride_a)
//     destination  dst    + sum_a (dst_index[a] ? dst_index[a][first_a + i_a] : i_a) * dst_stride_a
//
// in bytes. Transposes are strides, a missing chunk is a source of one element with strides 0, and
// index arrays serve orthogonal, coordinate and mask selections. A source is plain memory, or the
// blocks of a Blosc container after decompression, whose byte-shuffle is undone while reading: the
// bytes of a split may lie anywhere, so those that were stored uncompressed stay where they are.
// (Bits are unshuffled by a kernel of shuffle.cu before: here, each element would read its own bits.)
//
// Launch: any number of blocks of 256 threads; work is cut into tiles of TILE words of one row.
// `first_tile` (n + 1 entries) are the tiles before each row. The host guarantees that every address
// lies inside its buffer: the tables hold nothing that was read from a store unchecked.

#include "zg.cuh"

namespace {

constexpr i64 TILE = 4096;

enum Mode : i32 { PLAIN = 0, UNFILTERED = 1, BYTES = 2 };

struct Row {
    u64 src;        // plain: address of the chunk
    u64 dst;        // address of the row's first element
    i64 offset;     // of the row's first element inside the decoded chunk
    i64 planes;     // Blosc: entry of the first split in the table of addresses
    i64 nbytes;     // Blosc: decoded size
    i32 blocksize;  // Blosc, as are all below
    i32 typesize;
    i32 splits;
    i32 mode;
};

template <int W> struct Word;
template <> struct Word<1> { typedef u8 type; };
template <> struct Word<2> { typedef u16 type; };
template <> struct Word<4> { typedef u32 type; };
template <> struct Word<8> { typedef u64 type; };
template <> struct Word<16> { typedef ulonglong2 type; };

template <int W> union Item {
    typename Word<W>::type word;
    u8 byte[W];
};

template <int W> __device__ inline void load(Item<W>& item, const u8* at) {
    if (((u64)at & (W - 1)) == 0) {
        item.word = *(const typename Word<W>::type*)at;
    } else {
#pragma unroll
        for (int k = 0; k < W; k++) item.byte[k] = at[k];
    }
}

template <int W> __device__ inline void store(u8* at, const Item<W>& item) {
    if (((u64)at & (W - 1)) == 0) {
        *(typename Word<W>::type*)at = item.word;
    } else {
#pragma unroll
        for (int k = 0; k < W; k++) at[k] = item.byte[k];
    }
}

// Reverses the bytes of every unit of UNIT bytes.
template <int W, int UNIT> __device__ inline void reverse(Item<W>& item) {
    Item<W> old = item;
#pragma unroll
    for (int k = 0; k < W; k++) item.byte[k] = old.byte[(k ^ (UNIT - 1)) % W];
}

template <int W> __device__ inline void swap_bytes(Item<W>& item, i32 unit) {
    if (W >= 2 && unit == 2) reverse<W, 2>(item);
    if (W >= 4 && unit == 4) reverse<W, 4>(item);
    if (W >= 8 && unit == 8) reverse<W, 8>(item);
}

// One block of a container: its splits, and where filtered bytes lie in them.
struct Block {
    const u64* planes;
    i64 start;   // of the block in the decoded chunk
    i32 split;   // bytes per split
    i32 whole;   // bytes of whole elements, which are filtered
    i32 count;   // number of those elements
    i32 mode;

    __device__ inline Block(const Row& row, const u64* table, i64 at) {
        i64 number = at / row.blocksize;
        start = number * row.blocksize;
        i64 left = row.nbytes - start;
        bool full = left >= row.blocksize;
        i32 nbytes = full ? row.blocksize : (i32)left;
        planes = table + row.planes + number * row.splits;
        split = full ? row.blocksize / row.splits : nbytes;
        count = nbytes / row.typesize;
        whole = count * row.typesize;
        mode = row.mode;
    }

    __device__ inline u8 at(i32 position) const {
        return ((const u8*)planes[position / split])[position % split];
    }

    // Byte `r` of the block before it was filtered.
    __device__ inline u8 decoded(i32 r, i32 typesize) const {
        if (mode == UNFILTERED || r >= whole) return at(r);
        return at(r % typesize * count + r / typesize);
    }
};

template <int W>
__device__ inline void load_blosc(Item<W>& item, const Row& row, const u64* table, i64 at) {
    Block block(row, table, at);
    i32 r = (i32)(at - block.start);
    if (block.mode == BYTES && row.typesize == W && r + W <= block.whole && r % W == 0) {
        i32 element = r / W;
        if (row.splits == W && block.split == block.count) {
#pragma unroll
            for (int k = 0; k < W; k++) item.byte[k] = ((const u8*)block.planes[k])[element];
            return;
        }
#pragma unroll
        for (int k = 0; k < W; k++) item.byte[k] = block.at(k * block.count + element);
        return;
    }
#pragma unroll 1
    for (int k = 0; k < W; k++, r++) {
        if (at + k >= block.start + row.blocksize) {  // an element may straddle two blocks
            block = Block(row, table, at + k);
            r = (i32)(at + k - block.start);
        }
        item.byte[k] = block.decoded(r, row.typesize);
    }
}

// Which row a tile belongs to: the last one with first_tile <= tile.
__device__ inline i64 find_row(const i64* first_tile, i64 n, i64 tile) {
    i64 low = 0, high = n;
    while (high - low > 1) {
        i64 middle = (low + high) / 2;
        if (first_tile[middle] <= tile) low = middle; else high = middle;
    }
    return low;
}

struct Axes {
    const i64* extent;
    const i64* src_stride;
    const i64* first;
    const i64* dst_stride;
    const u64* src_index;
    const u64* dst_index;
    i32 ndim;
};

// Byte offsets of element number `i` of a row; Index is u32 where that is enough, as it divides faster.
template <typename Index>
__device__ inline void locate(const Axes& axes, Index i, i64& source, i64& target) {
#pragma unroll 1
    for (i32 a = axes.ndim - 1; a >= 0; a--) {
        Index n = (Index)axes.extent[a];
        Index rest = a ? i / n : 0;
        i64 k = (i64)(i - rest * n);
        i = rest;
        const i64* from = (const i64*)axes.src_index[a];
        const i64* to = (const i64*)axes.dst_index[a];
        i64 at = axes.first[a] + k;
        source += from ? from[at] : k * axes.src_stride[a];
        target += (to ? to[at] : k) * axes.dst_stride[a];
    }
}

template <int W, bool BLOSC>
__device__ void run(const Row* rows, const i64* first_tile, const Axes& table, const u64* planes, i32 swap,
                    i64 n) {
    i64 tiles = first_tile[n];
    for (i64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        i64 number = find_row(first_tile, n, tile);
        const Row row = rows[number];
        Axes axes = table;
        axes.extent += number * axes.ndim;
        axes.src_stride += number * axes.ndim;
        axes.first += number * axes.ndim;
        i64 count = 1;
#pragma unroll 1
        for (i32 a = 0; a < axes.ndim; a++) count *= axes.extent[a];
        i64 begin = (tile - first_tile[number]) * TILE;
        i64 end = begin + TILE < count ? begin + TILE : count;
#pragma unroll 1
        for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
            i64 source = row.offset, target = 0;
            if (count <= 0xffffffffll) locate<u32>(axes, (u32)i, source, target);
            else locate<u64>(axes, (u64)i, source, target);
            Item<W> item;
            if (!BLOSC || row.mode == PLAIN) load<W>(item, (const u8*)row.src + source);
            else load_blosc<W>(item, row, planes, source);
            if (swap > 1) swap_bytes<W>(item, swap);
            store<W>((u8*)row.dst + target, item);
        }
    }
}

template <bool BLOSC>
__device__ inline void choose(const u8* rows, const i64* first_tile, const Axes& axes, const u64* planes,
                              i32 word, i32 swap, i64 n) {
    const Row* table = (const Row*)rows;
    if (n == 0) return;
    if (word == 1) run<1, BLOSC>(table, first_tile, axes, planes, swap, n);
    if (word == 2) run<2, BLOSC>(table, first_tile, axes, planes, swap, n);
    if (word == 4) run<4, BLOSC>(table, first_tile, axes, planes, swap, n);
    if (word == 8) run<8, BLOSC>(table, first_tile, axes, planes, swap, n);
    if (word == 16) run<16, BLOSC>(table, first_tile, axes, planes, swap, n);
}

}  // namespace

// Rows whose sources are all plain. `word`: bytes moved at a time, 1, 2, 4, 8 or 16.
// `swap`: unit of the byte swap, 2, 4 or 8, or 1 for none.
ZG_KERNEL __launch_bounds__(256, 4) assemble(const u8* rows, const i64* first_tile, const i64* extent, const i64* src_stride,
                   const i64* first, const i64* dst_stride, const u64* src_index, const u64* dst_index,
                   i32 ndim, i32 word, i32 swap, i64 n) {
    Axes axes = {extent, src_stride, first, dst_stride, src_index, dst_index, ndim};
    choose<false>(rows, first_tile, axes, nullptr, word, swap, n);
}

// Rows of Blosc blocks and plain ones. `planes`: addresses of all splits after decompression, for each
// row block by block, `splits` for a full block and one for a shorter last block.
ZG_KERNEL __launch_bounds__(256, 3) assemble_blosc(const u8* rows, const i64* first_tile, const i64* extent, const i64* src_stride,
                         const i64* first, const i64* dst_stride, const u64* src_index,
                         const u64* dst_index, const u64* planes, i32 ndim, i32 word, i32 swap, i64 n) {
    Axes axes = {extent, src_stride, first, dst_stride, src_index, dst_index, ndim};
    choose<true>(rows, first_tile, axes, planes, word, swap, n);
}

// The size of a row, for whoever makes the tables on the host.
ZG_KERNEL assemble_row_nbytes(i64* out) {
    if (zg_thread() == 0) *out = sizeof(Row);
}
