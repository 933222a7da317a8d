// Checksums of rows of bytes: CRC-32C, CRC-32 (zlib), Adler-32, Fletcher-32 (HDF5).
//
// Inputs: a table of rows (address, size) of any alignment and size; the caller guarantees that the
// rows are readable. Outputs: a status or a checksum for each row. Nothing else is read or written,
// and rows that overlap do no harm.
//
// Launch: exactly 256 threads in a block, any number of blocks; a block does one row after another.
// Tables are prepared once for a block, so more blocks than the card can hold are of no use.
//
// A row is read as 4-byte words of aligned addresses; thread t takes every 256th word, so that a
// warp reads 128 consecutive bytes. All four checksums are sums over the bytes with weights that
// depend on the distance to the end: each thread adds up its own share, the shares are weighed and
// added at the end. The incomplete word at the front counts as one with zeros before it, which
// change nothing; the up to 3 bytes behind the last word come last.

#include "zg.cuh"

enum : i32 { CRC32C = 0, CRC32 = 1, ADLER32 = 2, FLETCHER32 = 3 };

static const u32 THREADS = 256;
static const u32 WARPS = THREADS / 32;

__device__ constexpr u32 times_x(u32 value, u32 polynomial) {
    return value >> 1 ^ (value & 1 ? polynomial : 0);
}

struct Crc {
    u32 polynomial;       // bit 31 is the coefficient of x^0
    u32 power[THREADS];   // x^(32 (256 - t)): what is left to multiply the sum of thread t by
    u32 nibble[8 * 16];   // by place and value of 4 bits: those times x^(32 * 256), one round
};

__device__ constexpr Crc tables(u32 polynomial) {
    Crc crc{};
    crc.polynomial = polynomial;
    u32 power = 0x80000000;
    for (u32 t = THREADS; t-- > 0;) {
        for (int i = 0; i < 32; i++) power = times_x(power, polynomial);
        crc.power[t] = power;
    }
    for (int bit = 31; bit >= 0; bit--) {
        for (int value = 0; value < 16; value++) {
            if (value >> bit % 4 & 1) crc.nibble[bit / 4 * 16 + value] ^= power;
        }
        power = times_x(power, polynomial);
    }
    return crc;
}

// By kind: Castagnoli's polynomial (RFC 3720) and that of ISO 3309.
__device__ static constexpr Crc CRC[2] = {tables(0x82f63b78), tables(0xedb88320)};

// Product of two polynomials modulo a third.
__device__ inline u32 product(u32 a, u32 b, u32 polynomial) {
    u32 sum = 0;
#pragma unroll
    for (int i = 31; i >= 0; i--) {
        if (a >> i & 1) sum ^= b;
        b = times_x(b, polynomial);
    }
    return sum;
}

// The aligned words of a row and which of them this thread starts with. The words are counted so
// that the last one always belongs to the last thread.
struct Words {
    const u8* data;
    const u32* word;  // the first may begin before the row
    u64 n;
    u64 first;
    u32 front;  // bytes of the first word before the row
    u32 rest;   // bytes behind the last word

    __device__ Words(const u8* row, u64 nbytes) : data(row) {
        const u64 begin = (u64)row, end = begin + nbytes;
        word = (const u32*)(begin & ~3ull);
        n = (end >> 2) - (begin >> 2);
        front = (u32)begin & 3;
        rest = nbytes < (end & 3) ? (u32)nbytes : (u32)end & 3;
        const u32 before = (u32)-n & (THREADS - 1);
        first = threadIdx.x - before + (threadIdx.x < before ? THREADS : 0);
    }

    // A word that may be the first; bytes before the row are zero.
    __device__ u32 at(u64 i) const {
        if (i > 0 || front == 0) return word[i];
        u32 value = 0;
        for (u32 k = front; k < 4; k++) value |= (u32)data[k - front] << 8 * k;
        return value;
    }
};

// Four bits of `value` at a time, each lane in its own bank: `table` has 32 copies side by side.
__device__ inline u32 next_round(u32 value, const u32* table) {
    const u32 lane = threadIdx.x % 32 * 4;
    const u8* entries = (const u8*)table;
    u32 sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 nibble = i < 2 ? value << (7 - 4 * i) : value >> (4 * i - 7);
        sum ^= *(const u32*)(entries + i * 2048 + ((nibble & 0x780) | lane));
    }
    return sum;
}

// Register of the CRC after all whole words, split over the threads: the exclusive or of all is it.
// Starting with all bits set is the same as inverting the first four bytes.
__device__ u32 crc_share(const Words& row, const u32* table, const Crc& crc) {
    u64 i = row.first;
    if (i >= row.n) return 0;
    u32 sum = row.at(i);
    if (i == 0) sum ^= 0xffffffff << 8 * row.front;
    if (i == 1 && row.front) sum ^= 0xffffffff >> 8 * (4 - row.front);
    for (i += THREADS; i + 3 * THREADS < row.n; i += 4 * THREADS) {
        const u32 a = row.word[i], b = row.word[i + THREADS];
        const u32 c = row.word[i + 2 * THREADS], d = row.word[i + 3 * THREADS];
        sum = next_round(sum, table) ^ a;
        sum = next_round(sum, table) ^ b;
        sum = next_round(sum, table) ^ c;
        sum = next_round(sum, table) ^ d;
    }
    for (; i < row.n; i += THREADS) sum = next_round(sum, table) ^ row.word[i];
    return product(sum, crc.power[threadIdx.x], crc.polynomial);
}

// The register after the bytes behind the last word; a row of less than 4 bytes is done here only.
__device__ u32 crc_rest(u32 sum, const Words& row, u64 nbytes, u32 polynomial) {
    const bool tiny = nbytes < 4;
    if (tiny) sum = 0xffffffff;
    for (u64 i = tiny ? 0 : nbytes - row.rest; i < nbytes; i++) {
        sum ^= row.data[i] ^ (!tiny && i < 4 ? 0xff : 0);
        for (int bit = 0; bit < 8; bit++) sum = times_x(sum, polynomial);
    }
    return ~sum;
}

__device__ inline void add_word(u32 word, u64* sum, u64* sums) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        sum[k] += word >> 8 * k & 0xff;
        sums[k] += sum[k];
    }
}

// Sum of the items and sum of each item times its distance to the end, modulo MODULUS, of the bytes
// of this thread. An item is a byte (SHIFT 0) or a big-endian pair of bytes (SHIFT 1; a last odd
// byte is the upper half of one). As in HDF5, a sum that is a multiple of 65535 but not zero is
// 65535. The sums of all sums do not overflow below 2^38 bytes.
template <u32 SHIFT, u32 MODULUS>
__device__ void sum_share(const Words& row, u64 nbytes, u32* total, u32* weighted) {
    const u64 items = (nbytes + SHIFT) >> SHIFT;
    u64 sum[4] = {0, 0, 0, 0}, sums[4] = {0, 0, 0, 0}, plain = 0, heavy = 0;
    u64 i = row.first;
    if (i < row.n) {
        add_word(row.at(i), sum, sums);
        for (i += THREADS; i + 3 * THREADS < row.n; i += 4 * THREADS) {
            const u32 a = row.word[i], b = row.word[i + THREADS];
            const u32 c = row.word[i + 2 * THREADS], d = row.word[i + 3 * THREADS];
            add_word(a, sum, sums);
            add_word(b, sum, sums);
            add_word(c, sum, sums);
            add_word(d, sum, sums);
        }
        for (; i < row.n; i += THREADS) add_word(row.word[i], sum, sums);
        // A byte that was added r rounds ago is in `sums` r times, and it lies r * 1024 bytes
        // before byte `at`, which may be up to 1024 bytes behind the end.
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const u64 at = 4 * i + k - row.front;
            const u32 factor = SHIFT && at % 2 == 0 ? 256 : 1;
            const u64 base = items + MODULUS - (at >> SHIFT);
            plain += factor * sum[k];
            heavy += factor * (base % MODULUS * (sum[k] % MODULUS) +
                               (4 * THREADS >> SHIFT) * (sums[k] % MODULUS));
        }
    }
    if (threadIdx.x < row.rest) {
        const u64 at = nbytes - row.rest + threadIdx.x;
        const u64 value = (SHIFT && at % 2 == 0 ? 256 : 1) * (u64)row.data[at];
        plain += value;
        heavy += value * (items - (at >> SHIFT));
    }
    *total = (u32)(plain % MODULUS);
    *weighted = (u32)(heavy % MODULUS);
    if (SHIFT && plain) {
        if (*total == 0) *total = MODULUS;
        if (*weighted == 0) *weighted = MODULUS;
    }
}

// The checksum of a row, known to thread 0 afterwards. All threads of the block call it together.
__device__ u32 checksum(i32 kind, const u8* data, u64 nbytes, const u32* table, u32 (*share)[2]) {
    const Words row(data, nbytes);
    u32 a = 0, b = 0;
    if (kind == ADLER32) {
        sum_share<0, 65521>(row, nbytes, &a, &b);
    } else if (kind == FLETCHER32) {
        sum_share<1, 65535>(row, nbytes, &a, &b);
    } else if (nbytes >= 4) {
        a = crc_share(row, table, CRC[kind]);
    }
    const bool crc = kind <= CRC32;
    for (int step = 16; step > 0; step /= 2) {
        const u32 other = __shfl_xor_sync(0xffffffff, a, step);
        a = crc ? a ^ other : a + other;
        if (!crc) b += __shfl_xor_sync(0xffffffff, b, step);
    }
    __syncthreads();  // the shares of the row before have been read
    if (threadIdx.x % 32 == 0) {
        share[threadIdx.x / 32][0] = a;
        share[threadIdx.x / 32][1] = b;
    }
    __syncthreads();
    if (threadIdx.x != 0) return 0;
    for (u32 warp = 1; warp < WARPS; warp++) {
        a = crc ? a ^ share[warp][0] : a + share[warp][0];
        b += share[warp][1];
    }
    if (crc) return crc_rest(a, row, nbytes, CRC[kind].polynomial);
    if (kind == ADLER32) return (u32)((nbytes + b) % 65521) << 16 | (1 + a) % 65521;
    return (b ? (b - 1) % 65535 + 1 : 0) << 16 | (a ? (a - 1) % 65535 + 1 : 0);
}

// 32 copies of the table of a CRC, see next_round().
__device__ void prepare(i32 kind, u32* table) {
    if (kind > CRC32) return;
    for (u32 entry = threadIdx.x / 32; entry < 128; entry += WARPS) {
        table[entry * 32 + threadIdx.x % 32] = CRC[kind].nibble[entry];
    }
}

// Rows are bytes followed (or preceded: at_start) by their checksum, 4 bytes little-endian. Status:
// ZG_OK, ZG_BAD_CHECKSUM, or ZG_CORRUPT for a row too short for a checksum. kind is 0 (CRC-32C),
// 1 (CRC-32), 2 (Adler-32) or 3 (Fletcher-32).
ZG_KERNEL __launch_bounds__(256) checksum_verify(
    const u64* ptr, const u64* nbytes, i32 kind, i32 at_start, i32* status, i64 n) {
    __shared__ u32 table[128 * 32];
    __shared__ u32 share[WARPS][2];
    prepare(kind, table);
    __syncthreads();
    for (i64 row = blockIdx.x; row < n; row += gridDim.x) {
        const u8* data = (const u8*)ptr[row];
        if (nbytes[row] < 4) {
            if (threadIdx.x == 0) status[row] = ZG_CORRUPT;
            continue;
        }
        const u64 payload = nbytes[row] - 4;
        const u32 found = checksum(kind, data + (at_start ? 4 : 0), payload, table, share);
        if (threadIdx.x == 0) {
            const u32 stored = zg_load32(data + (at_start ? 0 : payload));
            status[row] = found == stored ? ZG_OK : ZG_BAD_CHECKSUM;
        }
    }
}

// The checksum of every row.
ZG_KERNEL __launch_bounds__(256) checksum_make(
    const u64* ptr, const u64* nbytes, i32 kind, u32* sum, i64 n) {
    __shared__ u32 table[128 * 32];
    __shared__ u32 share[WARPS][2];
    prepare(kind, table);
    __syncthreads();
    for (i64 row = blockIdx.x; row < n; row += gridDim.x) {
        const u32 found = checksum(kind, (const u8*)ptr[row], nbytes[row], table, share);
        if (threadIdx.x == 0) sum[row] = found;
    }
}
