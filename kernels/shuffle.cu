// Byte- and bit-shuffle of rows, as c-blosc does it to a block and numcodecs' Shuffle to a chunk.
//
// A row of `nbytes` bytes holds n = nbytes / typesize elements; bytes behind the last whole element
// are copied. Byte-shuffled, plane b (n bytes) has byte b of all elements. Bit-shuffled, plane
// b * 8 + k (n / 8 bytes) has bit k of byte b, that of element 8g + e in bit e of its byte g; a row
// of which n is no multiple of 8 is copied. Rows of typesize 1 are copied by the byte-shuffle.
// A typesize that cannot be (less than 1, or above 255 for bits) copies the row, too.
//
// Inputs: a table of rows: addresses of input and output (any alignment), sizes, typesizes, and
// first_tile (n + 1 entries, from 0, not decreasing): how many blocks' worth of work is counted to
// the rows before. A row is cut evenly into as many tiles as first_tile gives it; one without bytes
// needs none. The caller guarantees that `nbytes` bytes are readable and writable and that inputs
// and outputs do not overlap.
//
// Launch: any number of blocks; 256 threads (any multiple of 32 up to that would do).

#include "zg.cuh"

static const u32 STAGED = 5280;  // 4-byte words of shared memory: 16 KiB of elements, see Stage
static const u32 MAX_BIT_TYPESIZE = 255;

struct alignas(16) Vector {
    u32 word[4];
};

template <int NBYTES> struct Word;
template <> struct Word<1> { typedef u8 type; };
template <> struct Word<2> { typedef u16 type; };
template <> struct Word<4> { typedef u32 type; };
template <> struct Word<8> { typedef u64 type; };

__device__ inline bool aligned(const void* at, u64 nbytes) { return (u64)at % nbytes == 0; }

// 64-bit division is slow, and indexes are rarely large.
__device__ inline u64 divide(u64 a, u32 b) { return a >> 32 ? a / b : (u32)a / b; }

__device__ inline u64 smaller(u64 a, u64 b) { return a < b ? a : b; }

// The share of one tile: elements [from, to) of a row.
struct Part {
    const u8* in;
    u8* out;
    u64 nbytes;
    u64 elements;
    u64 from, to;
    u64 tile, tiles;  // number of this tile in the row
    u32 size;         // of an element; 0: copy

    __device__ Part(const u64* in_ptr, const u64* out_ptr, const u64* row_nbytes,
                    const i32* typesize, const i64* first_tile, i64 n, i64 number) {
        i64 row = 0, end = n;  // first_tile[row] <= number < first_tile[end]
        while (end - row > 1) {
            const i64 middle = row + (end - row) / 2;
            (first_tile[middle] <= number ? row : end) = middle;
        }
        in = (const u8*)in_ptr[row];
        out = (u8*)out_ptr[row];
        nbytes = row_nbytes[row];
        size = typesize[row] < 1 ? 0 : typesize[row];
        tile = number - first_tile[row];
        tiles = first_tile[row + 1] - first_tile[row];
        elements = size ? divide(nbytes, size) : 0;
        slice(elements);
    }

    // Cut `count` elements (or bytes) into tiles, at multiples of 32.
    __device__ void slice(u64 count) {
        const u64 step = ((count + tiles - 1) / tiles + 31) / 32 * 32;
        from = smaller(tile * step, count);
        to = smaller(from + step, count);
    }
};

// Store the bytes [from, to) of an aligned word.
__device__ inline void store_some(u8* at, u32 value, u8* from, u8* to) {
    if (at >= from && at + 4 <= to) {
        *(u32*)at = value;
    } else {
        for (int k = 0; k < 4; k++) {
            if (at + k >= from && at + k < to) at[k] = (u8)(value >> 8 * k);
        }
    }
}

__device__ void copy(u8* out, const u8* in, u64 nbytes) {
    const bool wide = aligned((const void*)((u64)out ^ (u64)in), 16);
    const u64 unit = wide ? 16 : 4;
    const u64 front = smaller(-(u64)out & (unit - 1), nbytes);
    const u64 units = (nbytes - front) / unit, behind = front + units * unit;
    for (u64 i = threadIdx.x; i < front; i += blockDim.x) out[i] = in[i];
    for (u64 i = threadIdx.x; i < units; i += blockDim.x) {
        const u64 at = front + i * unit;
        if (wide) {
            *(Vector*)(out + at) = *(const Vector*)(in + at);
        } else {
            *(u32*)(out + at) = zg_load32(in + at);
        }
    }
    for (u64 i = behind + threadIdx.x; i < nbytes; i += blockDim.x) out[i] = in[i];
}

// What a tile has to copy: its share of the row if that is not shuffled at all, else the bytes
// behind the last element, if it is the last tile.
__device__ void copy_unshuffled(Part& part, bool whole) {
    if (whole) {
        part.slice(part.nbytes);
    } else {
        part.from = part.tile == part.tiles - 1 ? part.elements * part.size : part.nbytes;
        part.to = part.nbytes;
    }
    copy(part.out + part.from, part.in + part.from, part.to - part.from);
}

// -- bytes ---------------------------------------------------------------------------------------

// Elements [from, to) of any size and alignment: a thread makes 4 bytes of output at a time.
__device__ void unshuffle_any(const Part& part, u64 from, u64 to) {
    if (from >= to) return;
    const u32 size = part.size;
    u8 *begin = part.out + from * size, *end = part.out + to * size;
    for (u8* at = begin - (u64)begin % 4 + 4 * threadIdx.x; at < end; at += 4 * blockDim.x) {
        const int skip = at < begin ? (int)(begin - at) : 0;
        const u64 done = at + skip - begin;
        u64 element = divide(done, size);
        u32 b = (u32)(done - element * size), value = 0;
        for (int k = skip; k < 4 && at + k < end; k++) {
            value |= (u32)part.in[b * part.elements + from + element] << 8 * k;
            if (++b == size) b = 0, element++;
        }
        store_some(at, value, begin, end);
    }
}

__device__ void shuffle_any(const Part& part, u64 from, u64 to) {
    if (from >= to) return;
    const u32 size = part.size;
    const u64 words = (to - from + 6) / 4;  // as many as can be touched in a plane
    for (u64 i = threadIdx.x; i < words * size; i += blockDim.x) {
        const u64 b = words >> 32 ? i / words : divide(i, (u32)words);
        u8* plane = part.out + b * part.elements;
        u8 *begin = plane + from, *end = plane + to;
        u8* at = begin - (u64)begin % 4 + 4 * (i - b * words);
        u32 value = 0;
        for (int k = at < begin ? (int)(begin - at) : 0; k < 4 && at + k < end; k++) {
            value |= (u32)part.in[(at + k - plane) * size + b] << 8 * k;
        }
        store_some(at, value, begin, end);
    }
}

template <int NBYTES> __device__ inline u64 load(const u8* at, bool wide) {
    if (wide) return *(const typename Word<NBYTES>::type*)at;
    u64 value = 0;
    for (int k = 0; k < NBYTES; k++) value |= (u64)at[k] << 8 * k;
    return value;
}

// A thread makes 16 bytes of output at a time, from 16 / SIZE bytes of every plane. Returns the first
// element that is left to do.
template <int SIZE> __device__ u64 unshuffle(const Part& part) {
    constexpr int STEP = 16 / SIZE;
    if (!aligned(part.out, 16)) return part.from;
    const bool wide = aligned(part.in, STEP) && part.elements % STEP == 0;
    const u64 behind = part.from + (part.to - part.from) / STEP * STEP;
    for (u64 i = part.from + threadIdx.x * STEP; i < behind; i += blockDim.x * STEP) {
        u64 plane[SIZE];
#pragma unroll
        for (int b = 0; b < SIZE; b++) plane[b] = load<STEP>(part.in + b * part.elements + i, wide);
        Vector vector = {};
#pragma unroll
        for (int k = 0; k < 16; k++) {
            const u32 byte = (u32)(plane[k % SIZE] >> 8 * (k / SIZE)) & 0xff;
            vector.word[k / 4] |= byte << 8 * (k % 4);
        }
        *(Vector*)(part.out + i * SIZE) = vector;
    }
    return behind;
}

// A thread takes 16 bytes of input or 4 elements at a time, whatever is more.
template <int SIZE> __device__ u64 shuffle(const Part& part) {
    constexpr int STEP = SIZE == 2 ? 8 : 4;
    typedef typename Word<STEP>::type Store;
    if (!aligned(part.out, STEP) || part.elements % STEP) return part.from;
    const bool wide = aligned(part.in, 16);
    const u64 behind = part.from + (part.to - part.from) / STEP * STEP;
    for (u64 i = part.from + threadIdx.x * STEP; i < behind; i += blockDim.x * STEP) {
        const u8* in = part.in + i * SIZE;
        u32 word[STEP * SIZE / 4];
#pragma unroll
        for (int k = 0; k < STEP * SIZE / 16; k++) {
            Vector vector;
            if (wide) {
                vector = ((const Vector*)in)[k];
            } else {
                for (int j = 0; j < 4; j++) vector.word[j] = zg_load32(in + 16 * k + 4 * j);
            }
            for (int j = 0; j < 4; j++) word[4 * k + j] = vector.word[j];
        }
#pragma unroll
        for (int b = 0; b < SIZE; b++) {
            Store value = 0;
#pragma unroll
            for (int k = 0; k < STEP; k++) {
                const int at = k * SIZE + b;
                value |= (Store)(word[at / 4] >> 8 * (at % 4) & 0xff) << 8 * k;
            }
            *(Store*)(part.out + b * part.elements + i) = value;
        }
    }
    return behind;
}

ZG_KERNEL __launch_bounds__(256, 4) byte_unshuffle(
    const u64* in_ptr, const u64* out_ptr, const u64* nbytes, const i32* typesize,
    const i64* first_tile, i64 n) {
    for (i64 tile = blockIdx.x; tile < first_tile[n]; tile += gridDim.x) {
        Part part(in_ptr, out_ptr, nbytes, typesize, first_tile, n, tile);
        u64 done = part.from;
        switch (part.size) {
            case 0:
            case 1: done = part.to; break;
            case 2: done = unshuffle<2>(part); break;
            case 4: done = unshuffle<4>(part); break;
            case 8: done = unshuffle<8>(part); break;
            case 16: done = unshuffle<16>(part); break;
        }
        unshuffle_any(part, done, part.to);
        copy_unshuffled(part, part.size <= 1);
    }
}

ZG_KERNEL __launch_bounds__(256, 4) byte_shuffle(
    const u64* in_ptr, const u64* out_ptr, const u64* nbytes, const i32* typesize,
    const i64* first_tile, i64 n) {
    for (i64 tile = blockIdx.x; tile < first_tile[n]; tile += gridDim.x) {
        Part part(in_ptr, out_ptr, nbytes, typesize, first_tile, n, tile);
        u64 done = part.from;
        switch (part.size) {
            case 0:
            case 1: done = part.to; break;
            case 2: done = shuffle<2>(part); break;
            case 4: done = shuffle<4>(part); break;
            case 8: done = shuffle<8>(part); break;
            case 16: done = shuffle<16>(part); break;
        }
        shuffle_any(part, done, part.to);
        copy_unshuffled(part, part.size <= 1);
    }
}

// -- bits ----------------------------------------------------------------------------------------

// Elements on their way, in shared memory: byte b of element 8g + e is byte g of line 10 * b + e.
// Lines are an odd number of words long, and there are 10 for 8: so the threads of a warp hit
// different banks when they take consecutive bytes of elements, and likewise consecutive words of a
// line.
struct Stage {
    u32* words;
    u32 pitch;  // words of a line
    u32 count;  // elements at a time: 32 for every word of a line

    __device__ Stage(u32* staged, u32 size, u64 elements) : words(staged) {
        const u32 most = (STAGED / (10 * size) - 1) | 1;  // odd
        const u64 needed = (elements + 31) / 32;
        const u64 rounds = (needed + most - 1) / most;
        const u32 each = rounds ? (u32)((needed + rounds - 1) / rounds) : 0;
        pitch = each | 1;
        count = 32 * each;
    }
    __device__ u32& word(u32 line, u32 i) const { return words[line * pitch + i]; }
    __device__ u8& byte(u32 b, u32 element) const {
        return ((u8*)words)[(10 * b + element % 8) * pitch * 4 + element / 8];
    }
};

// In each of the 4 byte columns: bit j of word k to bit k of word j.
__device__ inline void transpose(u32* word) {
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
        const u32 mask = step == 1 ? 0x55555555 : step == 2 ? 0x33333333 : 0x0f0f0f0f;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            if (k & step) continue;
            const u32 swap = (word[k] >> step ^ word[k + step]) & mask;
            word[k + step] ^= swap;
            word[k] ^= swap << step;
        }
    }
}

// Bits of `count` elements from `first` on: planes -> stage. A thread takes 4 bytes of the 8 planes
// of one byte of the elements.
__device__ void load_planes(const Part& part, const Stage& stage, u64 first, u32 count) {
    const u64 length = part.elements / 8;
    const u32 words = (count + 31) / 32;
    const bool wide = aligned(part.in, 4) && length % 4 == 0;
    for (u32 i = threadIdx.x; i < part.size * words; i += blockDim.x) {
        const u32 b = i / words, at = i % words;
        const u32 valid = smaller(4, (count - 32 * at) / 8);
        const u8* plane = part.in + 8 * b * length + first / 8 + 4 * at;
        u32 word[8];
#pragma unroll
        for (int k = 0; k < 8; k++, plane += length) {
            word[k] = 0;
            if (wide) {
                word[k] = *(const u32*)plane;
            } else {
                for (u32 j = 0; j < valid; j++) word[k] |= (u32)plane[j] << 8 * j;
            }
        }
        transpose(word);
#pragma unroll
        for (int k = 0; k < 8; k++) stage.word(10 * b + k, at) = word[k];
    }
}

__device__ void store_planes(const Part& part, const Stage& stage, u64 first, u32 count) {
    const u64 length = part.elements / 8;
    const u32 words = (count + 31) / 32;
    const bool wide = aligned(part.out, 4) && length % 4 == 0;
    for (u32 i = threadIdx.x; i < part.size * words; i += blockDim.x) {
        const u32 b = i / words, at = i % words;
        const u32 valid = smaller(4, (count - 32 * at) / 8);
        u8* plane = part.out + 8 * b * length + first / 8 + 4 * at;
        u32 word[8];
#pragma unroll
        for (int k = 0; k < 8; k++) word[k] = stage.word(10 * b + k, at);
        transpose(word);
#pragma unroll
        for (int k = 0; k < 8; k++, plane += length) {
            if (wide) {
                *(u32*)plane = word[k];
            } else {
                for (u32 j = 0; j < valid; j++) plane[j] = (u8)(word[k] >> 8 * j);
            }
        }
    }
}

// Stage -> elements, and back; 4 bytes at a time. SIZE 0 stands for any.
template <int SIZE>
__device__ void store_elements(const Part& part, const Stage& stage, u64 first, u32 count) {
    const u32 size = SIZE ? SIZE : part.size;
    u8 *begin = part.out + first * size, *end = begin + count * size;
    for (u8* at = begin - (u64)begin % 4 + 4 * threadIdx.x; at < end; at += 4 * blockDim.x) {
        const int skip = at < begin ? (int)(begin - at) : 0;
        u32 element = (u32)(at + skip - begin) / size, b = (u32)(at + skip - begin) % size;
        u32 value = 0;
        for (int k = skip; k < 4 && at + k < end; k++) {
            value |= (u32)stage.byte(b, element) << 8 * k;
            if (++b == size) b = 0, element++;
        }
        store_some(at, value, begin, end);
    }
}

template <int SIZE>
__device__ void load_elements(const Part& part, const Stage& stage, u64 first, u32 count) {
    const u32 size = SIZE ? SIZE : part.size;
    const u8 *begin = part.in + first * size, *end = begin + count * size;
    for (const u8* at = begin - (u64)begin % 4 + 4 * threadIdx.x; at < end; at += 4 * blockDim.x) {
        const int skip = at < begin ? (int)(begin - at) : 0;
        const bool whole = at >= begin && at + 4 <= end;
        u32 element = (u32)(at + skip - begin) / size, b = (u32)(at + skip - begin) % size;
        const u32 value = whole ? *(const u32*)at : 0;
        for (int k = skip; k < 4 && at + k < end; k++) {
            stage.byte(b, element) = whole ? (u8)(value >> 8 * k) : at[k];
            if (++b == size) b = 0, element++;
        }
    }
}

// True when the row is bit-shuffled at all.
__device__ inline bool has_bits(const Part& part) {
    return part.size && part.size <= MAX_BIT_TYPESIZE && part.elements && part.elements % 8 == 0;
}

ZG_KERNEL __launch_bounds__(256, 4) bit_unshuffle(
    const u64* in_ptr, const u64* out_ptr, const u64* nbytes, const i32* typesize,
    const i64* first_tile, i64 n) {
    __shared__ u32 staged[STAGED];
    for (i64 tile = blockIdx.x; tile < first_tile[n]; tile += gridDim.x) {
        Part part(in_ptr, out_ptr, nbytes, typesize, first_tile, n, tile);
        const bool whole = !has_bits(part);
        const u64 end = whole ? part.from : part.to;
        const Stage stage(staged, whole ? 1 : part.size, end - part.from);
        for (u64 first = part.from; first < end; first += stage.count) {
            const u32 count = (u32)smaller(stage.count, end - first);
            load_planes(part, stage, first, count);
            __syncthreads();
            switch (part.size) {
                case 1: store_elements<1>(part, stage, first, count); break;
                case 2: store_elements<2>(part, stage, first, count); break;
                case 4: store_elements<4>(part, stage, first, count); break;
                case 8: store_elements<8>(part, stage, first, count); break;
                case 16: store_elements<16>(part, stage, first, count); break;
                default: store_elements<0>(part, stage, first, count);
            }
            __syncthreads();
        }
        copy_unshuffled(part, whole);
    }
}

ZG_KERNEL __launch_bounds__(256, 4) bit_shuffle(
    const u64* in_ptr, const u64* out_ptr, const u64* nbytes, const i32* typesize,
    const i64* first_tile, i64 n) {
    __shared__ u32 staged[STAGED];
    for (i64 tile = blockIdx.x; tile < first_tile[n]; tile += gridDim.x) {
        Part part(in_ptr, out_ptr, nbytes, typesize, first_tile, n, tile);
        const bool whole = !has_bits(part);
        const u64 end = whole ? part.from : part.to;
        const Stage stage(staged, whole ? 1 : part.size, end - part.from);
        for (u64 first = part.from; first < end; first += stage.count) {
            const u32 count = (u32)smaller(stage.count, end - first);
            switch (part.size) {
                case 1: load_elements<1>(part, stage, first, count); break;
                case 2: load_elements<2>(part, stage, first, count); break;
                case 4: load_elements<4>(part, stage, first, count); break;
                case 8: load_elements<8>(part, stage, first, count); break;
                case 16: load_elements<16>(part, stage, first, count); break;
                default: load_elements<0>(part, stage, first, count);
            }
            __syncthreads();
            store_planes(part, stage, first, count);
            __syncthreads();
        }
        copy_unshuffled(part, whole);
    }
}
