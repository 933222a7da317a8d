// Walks over the headers of compressed chunks that are on the device already: Blosc containers and
// zstd frames.
//
// The same checks and the same results as the walks on the host (zarr_gpu/device/blosc.py and
// frames.py). Chunk number `row` is `nbytes[row]` bytes at address `ptr[row]` and must decode to
// `expected[row]` bytes; its bytes are untrusted, and nothing outside them is read. `status[row]`
// is ZG_OK, or ZG_CORRUPT for a chunk that is left to the host.
//
// blosc_count  checks containers completely and counts their streams (0 for a bad or stored one).
// blosc_fill   writes the columns of the containers and of their streams; `first_stream` (n + 1
//              entries) are the sums of the counts before each row, `status` that of blosc_count.
//              Columns of streams are as long as the last sum. Bad rows get zeros.
//              Launch of both: any number of blocks of a multiple of 32 threads, a warp per row.
// zstd_sizes   walks all frames of a chunk: how many there are, and the first one that is not
//              skippable (address, size, decoded size). Launch: any; a thread per row.
//
// The other columns have n entries. The host guarantees these sizes, and that `ptr` and `nbytes`
// describe memory that can be read.

#include "zg.cuh"

namespace {

constexpr u32 FULL = 0xFFFFFFFFu;

__device__ inline i64 load_int(const u8* at) { return (i32)zg_load32(at); }

// ---- Blosc: README_CHUNK_FORMAT.rst of c-blosc --------------------------------------------------

constexpr i64 HEADER = 16;
constexpr u32 SHUFFLE = 0x01, STORED = 0x02, BITSHUFFLE = 0x04, RESERVED = 0x08, DONT_SPLIT = 0x10;

struct Container {
    const u8* at;
    i64 nbytes, blocksize, cbytes;
    i64 blocks, full;  // all, and those of blocksize bytes
    i64 streams;
    i32 typesize, shuffle, splits, codec;
    bool stored;
};

// The header; false when it cannot be.
__device__ inline bool read_container(u64 ptr, u64 size, u64 expected, Container& c) {
    c = Container();
    if (size < (u64)HEADER) return false;
    const u8* at = (const u8*)ptr;
    const u32 flags = at[2];
    c.at = at;
    c.typesize = at[3];
    c.nbytes = load_int(at + 4);
    c.blocksize = load_int(at + 8);
    c.cbytes = load_int(at + 12);
    c.codec = (i32)(flags >> 5);
    c.stored = (flags & STORED) != 0;
    c.shuffle = (flags & SHUFFLE) && c.typesize > 1 ? 1 : flags & BITSHUFFLE ? 2 : 0;
    c.splits = 1;
    if (at[0] != 2 || at[1] != 1 || (flags & RESERVED) || c.codec > 4) return false;
    if ((u64)c.nbytes != expected) return false;
    if (c.cbytes < HEADER || (u64)c.cbytes > size) return false;
    if (c.stored) return c.cbytes == c.nbytes + HEADER;
    if (c.nbytes == 0) return true;
    if (c.typesize == 0 || c.blocksize <= 0 || c.blocksize > c.nbytes) return false;
    if (!(flags & DONT_SPLIT) && c.typesize <= 16 && c.blocksize / c.typesize >= 128) {
        if (c.blocksize % c.typesize) return false;
        c.splits = c.typesize;
    }
    c.full = c.nbytes / c.blocksize;
    c.blocks = c.full + (c.nbytes % c.blocksize != 0);
    c.streams = c.full * c.splits + (c.blocks - c.full);
    return HEADER + 4 * c.blocks <= c.cbytes;
}

// Follows the sizes of the splits of a block and calls visit(split, offset, nbytes) for each;
// false at the first one that is not inside the container.
template <class Visit>
__device__ inline bool walk_block(const Container& c, i64 block, Visit visit) {
    const i64 first = HEADER + 4 * c.blocks;
    i64 at = load_int(c.at + HEADER + 4 * block);
    if (at < first) return false;
    const i32 splits = block < c.full ? c.splits : 1;
    for (i32 split = 0; split < splits; split++) {
        if (at > c.cbytes - 4) return false;
        const i64 nbytes = load_int(c.at + at);
        at += 4;
        if (nbytes <= 0 || nbytes > c.cbytes - at) return false;
        visit(split, at, nbytes);
        at += nbytes;
    }
    return true;
}

// ---- zstd: RFC 8878 -----------------------------------------------------------------------------

constexpr i64 MAX_STEPS = 4096;            // blocks and skippable frames of a chunk
constexpr i64 MAX_WINDOW = 128ll << 20;    // as the decoder of the host
constexpr i64 LARGEST_BLOCK = 128ll << 10;  // section 3.1.1.2.4
constexpr i64 MAX_SIZE = 1ll << 62;
constexpr i64 UNKNOWN = -1;

struct Frame {
    i64 header;   // bytes of the header; of a skippable frame, all of it
    i64 content;  // bytes it decodes to
    i64 largest;  // block
    bool checksum, skippable;
};

__device__ inline u64 load_bytes(const u8* at, i32 nbytes) {
    u64 value = 0;
    for (i32 i = 0; i < nbytes; i++) value |= (u64)at[i] << 8 * i;
    return value;
}

// The header of the frame in `room` bytes at `at`; false when it cannot be or needs the host.
__device__ inline bool read_frame(const u8* at, i64 room, Frame& f) {
    if (room < 5) return false;
    const u32 magic = zg_load32(at);
    f = Frame();
    if (room >= 8 && (magic & 0xFFFFFFF0u) == 0x184D2A50u) {
        f.skippable = true;
        f.header = 8 + (i64)zg_load32(at + 4);
        return f.header <= room;
    }
    const u32 descriptor = at[4];
    const bool single = (descriptor & 0x20) != 0;
    const i32 number_nbytes = (i32)(0x4210 >> 4 * (descriptor & 3) & 15);
    const i32 content_nbytes = descriptor >> 6 ? 1 << (descriptor >> 6) : single;
    const i32 number_at = single ? 5 : 6;
    const i32 content_at = number_at + number_nbytes;
    f.header = content_at + content_nbytes;
    if (magic != 0xFD2FB528u || (descriptor & 8) || f.header > room) return false;
    if (load_bytes(at + number_at, number_nbytes)) return false;  // of a dictionary
    f.content = UNKNOWN;
    if (content_nbytes) {
        const u64 content = load_bytes(at + content_at, content_nbytes);
        if (content > (u64)MAX_SIZE) return false;
        f.content = (i64)content + (content_nbytes == 2 ? 256 : 0);
        if (f.content == 0) return false;
    }
    i64 window = f.content;
    if (!single) {
        const i64 base = 1ll << (10 + (at[5] >> 3));
        window = base + (base >> 3) * (at[5] & 7);
        if (window > MAX_WINDOW) return false;
    }
    f.largest = window < LARGEST_BLOCK ? window : LARGEST_BLOCK;
    f.checksum = (descriptor & 4) != 0;
    return true;
}

struct Blocks {
    i64 least, most;  // bytes that the blocks of a frame decode to
};

// Passes the blocks of a frame; false when they do not end inside the `size` bytes at `data`.
__device__ inline bool walk_blocks(
    const u8* data, i64 size, i64& at, const Frame& f, i64& steps, Blocks& b
) {
    b.least = b.most = 0;
    for (u32 last = 0; !last;) {
        if (steps++ == MAX_STEPS || size - at < 3) return false;
        const u32 header = zg_load16(data + at) | (u32)data[at + 2] << 16;
        const u32 kind = header >> 1 & 3;
        const i64 nbytes = header >> 3;
        // A kind of 3 and too large blocks are refused by the decoder of the host.
        if (kind == 3 || nbytes > f.largest) return false;
        at += 3 + (kind == 1 ? 1 : nbytes);
        b.most += kind < 2 ? nbytes : f.largest;
        b.least += kind < 2 ? nbytes : 0;
        last = header & 1;
    }
    at += f.checksum ? 4 : 0;
    return at <= size;
}

struct Chunk {
    i64 frames;
    i64 first, first_nbytes, first_content;
};

__device__ inline bool walk_frames(const u8* data, i64 size, i64 expected, Chunk& c) {
    c = Chunk();
    i64 left = expected, steps = 0, untold = 0;
    Blocks open = {0, 0};
    for (i64 at = 0; at < size;) {
        const i64 start = at;
        Frame f;
        if (!read_frame(data + at, size - at, f)) return false;
        at += f.header;
        if (f.skippable) {
            if (steps++ == MAX_STEPS) return false;
            continue;
        }
        Blocks b;
        if (!walk_blocks(data, size, at, f, steps, b)) return false;
        if (f.content == UNKNOWN) {
            open = b;
            untold++;
        } else {
            if (f.content < b.least || f.content > b.most) return false;
            left -= f.content;
        }
        if (c.frames++ == 0) {
            c.first = start;
            c.first_nbytes = at - start;
            c.first_content = f.content;
        }
    }
    if (untold == 0) return left == 0;
    if (c.first_content == UNKNOWN) c.first_content = left;
    return untold == 1 && left > 0 && open.least <= left && left <= open.most;
}

}  // namespace

ZG_KERNEL blosc_count(
    const u64* ptr, const u64* nbytes, const u64* expected, i64* streams, i32* status, i64 n
) {
    const i32 lane = threadIdx.x & 31;
    for (i64 row = zg_thread() / 32; row < n; row += zg_threads() / 32) {
        Container c;
        bool ok = read_container(ptr[row], nbytes[row], expected[row], c);
        for (i64 block = lane; ok && block < c.blocks; block += 32)
            ok = walk_block(c, block, [](i32, i64, i64) {});
        ok = __all_sync(FULL, ok);
        if (lane == 0) {
            streams[row] = ok ? c.streams : 0;
            status[row] = ok ? ZG_OK : ZG_CORRUPT;
        }
    }
}

ZG_KERNEL blosc_fill(
    const u64* ptr, const u64* nbytes, const u64* expected, const i32* status,
    const i64* first_stream,
    // per row
    i64* decoded_nbytes, i64* typesize, i64* shuffle, i64* blocksize, i64* splits, i64* codec,
    u8* stored,
    // per stream
    i64* stream_row, u64* stream_ptr, u64* stream_nbytes, i64* out_offset, u64* out_nbytes, u8* raw,
    i64 n
) {
    const i32 lane = threadIdx.x & 31;
    for (i64 row = zg_thread() / 32; row < n; row += zg_threads() / 32) {
        const i64 first = first_stream[row];
        Container c;
        // Other counts than were made room for: not the bytes that blosc_count saw.
        if (status[row] != ZG_OK || !read_container(ptr[row], nbytes[row], expected[row], c) ||
            c.streams != first_stream[row + 1] - first)
            c = Container();
        if (lane == 0) {
            decoded_nbytes[row] = c.nbytes;
            typesize[row] = c.typesize;
            shuffle[row] = c.shuffle;
            blocksize[row] = c.blocksize;
            splits[row] = c.splits;
            codec[row] = c.codec;
            stored[row] = c.stored;
        }
        for (i64 block = lane; block < c.blocks; block += 32) {
            const bool short_block = block >= c.full;
            const i64 nbytes_each =
                short_block ? c.nbytes - c.full * c.blocksize : c.blocksize / c.splits;
            walk_block(c, block, [&](i32 split, i64 at, i64 size) {
                const i64 entry = first + block * c.splits + split;
                stream_row[entry] = row;
                stream_ptr[entry] = (u64)(c.at + at);
                stream_nbytes[entry] = (u64)size;
                out_offset[entry] = block * c.blocksize + split * nbytes_each;
                out_nbytes[entry] = (u64)nbytes_each;
                raw[entry] = size == nbytes_each;
            });
        }
    }
}

ZG_KERNEL zstd_sizes(
    const u64* ptr, const u64* nbytes, const u64* expected,
    u64* frame_ptr, u64* frame_nbytes, u64* frame_content, i32* frames, i32* status, i64 n
) {
    for (i64 row = zg_thread(); row < n; row += zg_threads()) {
        const u64 size = nbytes[row], wanted = expected[row];
        Chunk c = Chunk();
        bool ok = size > 0 && wanted > 0 && size < (u64)MAX_SIZE && wanted < (u64)MAX_SIZE;
        ok = ok && walk_frames((const u8*)ptr[row], (i64)size, (i64)wanted, c);
        if (!ok) c = Chunk();
        frame_ptr[row] = ok ? ptr[row] + (u64)c.first : 0;
        frame_nbytes[row] = (u64)c.first_nbytes;
        frame_content[row] = (u64)c.first_content;
        frames[row] = (i32)c.frames;
        status[row] = ok ? ZG_OK : ZG_CORRUPT;
    }
}
