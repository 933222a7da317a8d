// XXH64 of streams of bytes, with seed 0: the checksum of zstd frames is its lower half.
//
// Inputs: a table of streams (address, size) of any alignment and size; the caller guarantees that
// they are readable. Output: a sum for each. Nothing else is read or written.
//
// Launch: any number of blocks of a multiple of 32 threads; 4 threads do a stream. The sum is a
// chain of multiplications that cannot be cut into pieces, so a few long streams take their time.
// Streams that are neighbours in the table should be of similar size: a warp does 8 together.
//
// Algorithm: xxhash_spec.md of github.com/Cyan4973/xxHash. A stripe of 32 bytes is 4 words, and each
// goes to an accumulator of its own: lane k of a stream reads every word k, so that the lanes
// together read whole sectors.

#include "zg.cuh"

static const u64 PRIME1 = 0x9e3779b185ebca87, PRIME2 = 0xc2b2ae3d27d4eb4f;
static const u64 PRIME3 = 0x165667b19e3779f9, PRIME4 = 0x85ebca77c2b2ae63;
static const u64 PRIME5 = 0x27d4eb2f165667c5;
static const u32 STRIPE = 32;
static const u32 AHEAD = 8;  // words loaded before they are needed

__device__ inline u64 rotate(u64 value, u32 bits) { return value << bits | value >> (64 - bits); }

__device__ inline u64 mix(u64 sum, u64 word) { return rotate(sum + word * PRIME2, 31) * PRIME1; }

// One of four words of each stripe. A word that is not aligned is made of two that are; these may
// begin before the first stripe or end behind the last one.
template <bool ALIGNED>
struct Words {
    const u8* at;

    __device__ u64 operator[](u64 stripe) const {
        const u64 address = (u64)(at + stripe * STRIPE);
        const u64* word = (const u64*)(address & ~7ull);
        if (ALIGNED) return word[0];
        const u32 shift = (u32)address % 8 * 8;
        return word[0] >> shift | word[1] << 1 << (63 - shift);
    }
};

// The accumulator of word `lane` after all stripes.
template <bool ALIGNED>
__device__ u64 accumulate(u64 sum, const u8* data, u32 lane, u64 stripes) {
    if (stripes == 0) return sum;
    const u8* at = data + 8 * lane;
    const Words<ALIGNED> words{at};
    const u64 end = stripes - !ALIGNED;
    u64 i = 0;
    if (!ALIGNED) sum = mix(sum, zg_load64(at + STRIPE * i++));
    u64 ahead[AHEAD];
    bool more = i + AHEAD <= end;
#pragma unroll
    for (u32 k = 0; k < AHEAD; k++) ahead[k] = more ? words[i + k] : 0;
    while (more) {
        u64 word[AHEAD];
#pragma unroll
        for (u32 k = 0; k < AHEAD; k++) word[k] = ahead[k];
        i += AHEAD;
        more = i + AHEAD <= end;
#pragma unroll
        for (u32 k = 0; k < AHEAD; k++) ahead[k] = more ? words[i + k] : 0;
#pragma unroll
        for (u32 k = 0; k < AHEAD; k++) sum = mix(sum, word[k]);
    }
    for (; i < end; i++) sum = mix(sum, words[i]);
    if (i < stripes) sum = mix(sum, zg_load64(at + STRIPE * i));
    return sum;
}

// The sum after the bytes behind the last stripe, fewer than 32.
__device__ u64 finish(u64 sum, const u8* at, u32 rest) {
    for (; rest >= 8; rest -= 8, at += 8) {
        sum = rotate(sum ^ mix(0, zg_load64(at)), 27) * PRIME1 + PRIME4;
    }
    if (rest >= 4) {
        sum = rotate(sum ^ zg_load32(at) * PRIME1, 23) * PRIME2 + PRIME3;
        rest -= 4, at += 4;
    }
    for (; rest > 0; rest--, at++) sum = rotate(sum ^ *at * PRIME5, 11) * PRIME1;
    sum = (sum ^ sum >> 33) * PRIME2;
    sum = (sum ^ sum >> 29) * PRIME3;
    return sum ^ sum >> 32;
}

ZG_KERNEL xxh64(const u64* ptr, const u64* nbytes, u64* sum, i64 n) {
    const u32 lane = threadIdx.x % 4, leader = threadIdx.x % 32 - lane;
    const u64 start = (lane == 0 ? PRIME1 : lane == 3 ? 0 - PRIME1 : 0) + (lane < 2 ? PRIME2 : 0);
    const u32 bits[4] = {1, 7, 12, 18};
    for (i64 first = zg_thread() / 32 * 8; first < n; first += zg_threads() / 4) {
        const i64 i = first + leader / 4;
        const u8* data = i < n ? (const u8*)ptr[i] : nullptr;
        const u64 size = i < n ? nbytes[i] : 0;
        const u64 stripes = size / STRIPE;
        // All streams of a warp take the same way.
        const bool aligned = __all_sync(0xffffffff, (u64)data % 8 == 0);
        const u64 part = aligned ? accumulate<true>(start, data, lane, stripes)
                                 : accumulate<false>(start, data, lane, stripes);
        u64 parts[4], total = 0;
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            parts[k] = __shfl_sync(0xffffffff, part, leader + k);
            total += rotate(parts[k], bits[k]);
        }
#pragma unroll
        for (u32 k = 0; k < 4; k++) total = (total ^ mix(0, parts[k])) * PRIME1 + PRIME4;
        if (lane == 0 && i < n) {
            total = (stripes ? total : PRIME5) + size;
            sum[i] = finish(total, data + stripes * STRIPE, size % STRIPE);
        }
    }
}
