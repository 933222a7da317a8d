// Bookkeeping of a batch: which rows failed, which streams to leave out, where streams begin.
//
// Inputs and outputs are columns of n entries in device memory; the caller guarantees their sizes
// and that every row number is inside its column. An address of 0 stands for a column left out.
//
// Launch: any number of blocks and threads; all_equal needs a multiple of 32 threads and does a row
// with one block. No result depends on the order in which threads run.

#include "zg.cuh"

// Collect the outcome of n streams. A stream fails when its status is not 0, or else when its actual
// size is not the expected one (if both are given). It counts for row[i], or row i. row_status of
// a row becomes its smallest failure so far; rows without one are left alone. word becomes the
// minimum of (row << 32 | failure) and what it was: the first row that failed, and why.
ZG_KERNEL fold_status(const i32* status, const u64* actual, const u64* expected, const i32* row,
                      i32* row_status, u64* word, i64 n) {
    for (i64 i = zg_thread(); i < n; i += zg_threads()) {
        i32 failure = status[i];
        if (failure == 0 && actual && expected && actual[i] != expected[i]) failure = ZG_WRONG_SIZE;
        if (failure == 0) continue;
        const i64 to = row ? row[i] : i;
        i32 known = 0;  // as unsigned numbers, so that 0 - 1 is the largest
        while ((u32)known - 1 > (u32)failure - 1) {
            const i32 seen = atomicCAS(&row_status[to], known, failure);
            if (seen == known) break;
            known = seen;
        }
        atomicMin(word, (u64)to << 32 | (u32)failure);
    }
}

// Point the streams of rows that already failed to a harmless one.
ZG_KERNEL guard_streams(u64* in_ptr, u64* in_nbytes, const i32* row, const i32* row_status,
                        u64 dummy_ptr, u64 dummy_nbytes, i64 n) {
    for (i64 i = zg_thread(); i < n; i += zg_threads()) {
        if (row_status[row ? row[i] : i] == 0) continue;
        in_ptr[i] = dummy_ptr;
        in_nbytes[i] = dummy_nbytes;
    }
}

// The status of streams whose checksum is not the expected one becomes ZG_BAD_CHECKSUM; those that
// failed already keep theirs. Sums are `stride` words apart: 2 takes the lower halves of sums of 64
// bits.
ZG_KERNEL compare_sums(const u32* sum, i64 stride, const u32* expected, i32* status, i64 n) {
    for (i64 i = zg_thread(); i < n; i += zg_threads()) {
        if (sum[i * stride] != expected[i] && status[i] == 0) status[i] = ZG_BAD_CHECKSUM;
    }
}

// ptr[i] = base[base_of[i]] + offset[i]
ZG_KERNEL make_pointers(const u64* base, const i32* base_of, const i64* offset, u64* ptr, i64 n) {
    for (i64 i = zg_thread(); i < n; i += zg_threads()) {
        ptr[i] = base[base_of[i]] + (u64)offset[i];
    }
}

// Bits in which 16 bytes differ from the pattern.
__device__ inline u32 difference(uint4 vector, uint4 pattern) {
    return (vector.x ^ pattern.x) | (vector.y ^ pattern.y) | (vector.z ^ pattern.z) |
           (vector.w ^ pattern.w);
}

// flag[row] = 1 where all bytes of the row are the pattern (of 1, 2, 4, 8 or 16 bytes) repeated from
// its beginning, else 0. Bits are compared: -0.0 is not 0.0, and a NaN is itself only. Rows have any
// alignment and size; a row that differs early is read no further.
ZG_KERNEL all_equal(const u64* ptr, const i64* nbytes, const u8* pattern, i32 pattern_nbytes,
                    i32* flag, i64 n) {
    const i64 threads = blockDim.x;
    for (i64 row = blockIdx.x; row < n; row += gridDim.x) {
        const u8* data = (const u8*)ptr[row];
        const i64 size = nbytes[row];
        const i64 aligned = (i64)(-(u64)data & 15);
        const i64 front = aligned < size ? aligned : size;
        const uint4* vector = (const uint4*)(data + front);
        const i64 vectors = (size - front) / 16;
        u32 word[4] = {0, 0, 0, 0};  // the pattern as the vectors see it
#pragma unroll
        for (int k = 0; k < 16; k++) {
            word[k / 4] |= (u32)pattern[(front + k) % pattern_nbytes] << 8 * (k % 4);
        }
        const uint4 wanted = {word[0], word[1], word[2], word[3]};
        u32 bits = 0;
        for (i64 i = threadIdx.x; i < 32; i += threads) {  // up to 15 bytes at each end
            const i64 at = i < 16 ? i : size - 32 + i;
            const bool inside = at >= front && at < front + 16 * vectors;
            if (at >= 0 && at < size && !inside) bits |= data[at] ^ pattern[at % pattern_nbytes];
        }
        int differs = __syncthreads_or(bits != 0);
        i64 i = threadIdx.x;
        for (i64 round = 0; !differs && round < vectors; round += 4 * threads) {
#pragma unroll
            for (int k = 0; k < 4; k++, i += threads) {
                if (i < vectors) bits |= difference(vector[i], wanted);
            }
            differs = __syncthreads_or(bits != 0);
        }
        if (threadIdx.x == 0) flag[row] = !differs;
    }
}
