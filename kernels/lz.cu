// LZ decoders for streams of LZ4 blocks, BloscLZ and Snappy, and copies of streams that were stored
// as they are.
//
// A table of n streams, as columns: input address and size, output address and expected size, and
// what is written for each: the bytes produced and a status. Streams are bytes from a store and may
// hold anything: whatever they say, nothing is read outside [in, in + in_nbytes) and nothing is
// written outside [out, out + out_nbytes). The host guarantees that these ranges exist and that no
// output overlaps another range. Addresses have any alignment, sizes may be 0.
//
//     ZG_OK          the stream is valid and decodes to exactly out_nbytes bytes
//     ZG_WRONG_SIZE  it is valid and decodes to fewer bytes, or would go past out_nbytes: decoding
//                    stops before that instruction, so what follows it has not been looked at
//     ZG_CORRUPT     cut short, a match from before the first byte, an impossible end, or a size
//                    of 2^31 bytes or more
//
// Launch: one warp decodes one stream; any number of blocks of a multiple of 32 threads, up to 128.
// Put long streams first, since a block is held until its slowest warp is done.
//
// All lanes of a warp follow the same instructions, which lie in registers across the warp, and
// share the copying of bytes. Every output byte is written once, and matches read only what was
// written before them, so the one barrier a match needs is the one before it.

#include "zg.cuh"

namespace {

constexpr u32 ALL = 0xffffffffu;
constexpr u32 MAX_NBYTES = 0x7fffffff;

// Copies nbytes, of any alignment and not overlapping, by a warp; DEPTH loads are in flight.
// Without WIDE, words of 16 bytes are left out, which keeps registers of the decoders low.
template <int DEPTH, bool WIDE>
__device__ inline void copy(u8* __restrict__ to, const u8* __restrict__ from, u32 nbytes,
                            u32 lane) {
    if (nbytes < 64) {
#pragma unroll 1
        for (u32 i = lane; i < nbytes; i += 32) to[i] = from[i];
        return;
    }
    u32 head, done;  // the whole words are [head, done); less than 16 bytes on either side are left
    if (WIDE && (((u64)to ^ (u64)from) & 15) == 0) {
        head = (u32)(0 - (u64)to) & 15;
        u32 words = (nbytes - head) / 16;
        done = head + words * 16;
        ulonglong2* target = (ulonglong2*)(to + head);
        const ulonglong2* source = (const ulonglong2*)(from + head);
#pragma unroll 1
        for (u32 i = lane; i < words; i += 32 * DEPTH) {
            ulonglong2 word[DEPTH];
#pragma unroll
            for (int k = 0; k < DEPTH; k++)
                if (i + 32 * k < words) word[k] = source[i + 32 * k];
#pragma unroll
            for (int k = 0; k < DEPTH; k++)
                if (i + 32 * k < words) target[i + 32 * k] = word[k];
        }
    } else {
        // Aligned words are stored, each from the two aligned words that hold its bytes.
        head = (u32)(0 - (u64)to) & 7;
        u32 skew = (u32)((u64)from + head) & 7;
        if (head < skew) head += 8;  // else the first word would start before `from`
        u32 words = (nbytes - head + skew) / 8 - (skew ? 1 : 0);
        done = head + words * 8;
        u64* target = (u64*)(to + head);
        const u64* source = (const u64*)(from + head - skew);
#pragma unroll 1
        for (u32 i = lane; i < words; i += 32 * DEPTH) {
            u64 word[DEPTH], above[DEPTH];
#pragma unroll
            for (int k = 0; k < DEPTH; k++) {
                if (i + 32 * k >= words) continue;
                word[k] = source[i + 32 * k];
                above[k] = skew ? source[i + 32 * k + 1] : 0;
            }
#pragma unroll
            for (int k = 0; k < DEPTH; k++)
                if (i + 32 * k < words)
                    target[i + 32 * k] = word[k] >> 8 * skew | above[k] << 1 << (63 - 8 * skew);
        }
    }
    u32 i = lane < 16 ? lane : done + lane - 16;
    if (i < (lane < 16 ? head : nbytes)) to[i] = from[i];
}

// A stream being read. Lane l holds the four bytes from base + l in `now` and those from
// base + 32 + l in `next`, so that one shuffle yields four bytes at any place of the window.
struct Input {
    const u8* data;
    u32 nbytes;
    u32 at;  // of the next byte, at most nbytes
    u32 base;
    u32 now;
    u32 next;
    u32 lane;

    __device__ inline Input(const u8* data, u32 nbytes, u32 lane)
        : data(data), nbytes(nbytes), at(0), base(0), lane(lane) {
        now = load(lane);
        next = load(lane + 32);
    }

    __device__ inline u32 left() const { return nbytes - at; }

    // Four bytes, little-endian; zeros behind the end.
    __device__ inline u32 load(u32 from) const {
        u32 value = 0;
#pragma unroll
        for (u32 k = 0; k < 4; k++)
            if (from + k < nbytes) value |= (u32)data[from + k] << 8 * k;
        return value;
    }

    // Moves the window so that `at` lies in its first half.
    __device__ inline void refill() {
        while (at - base >= 32) {
            if (at - base >= 64) base = at - 64;  // far ahead: load both halves
            base += 32;
            now = next;
            next = load(base + 32 + lane);
        }
    }

    // The next four bytes, for every lane the same.
    __device__ inline u32 peek() {
        refill();
        return __shfl_sync(ALL, now, at - base);
    }

    // Byte number `lane` of the next 32.
    __device__ inline u32 own() {
        refill();
        u32 used = at - base;
        return __shfl_sync(ALL, lane >= used ? now : next, (lane + used) & 31) & 255;
    }

    // Adds to `length` bytes up to the first one below 255; `first` is the next byte. False when
    // the stream ends before. Lengths stop growing where they exceed every buffer.
    __device__ inline bool extend(u32 first, u32& length) {
        if (at == nbytes) return false;
        at++;
        length += first;
        if (first != 255) return true;
        for (;;) {
            u32 byte = own();
            u32 last = __ballot_sync(ALL, byte != 255);  // is set behind the end
            u32 count = last ? __ffs(last) - 1 : 32;
            length += 255 * count;
            if (length > MAX_NBYTES) length = MAX_NBYTES + 1u;
            if (last) {
                if (count >= left()) return false;
                length += __shfl_sync(ALL, byte, count);
                at += count + 1;
                return true;
            }
            at += 32;
        }
    }
};

struct Output {
    u8* data;
    u32 nbytes;
    u32 at;  // bytes written, at most nbytes
    u32 lane;

    __device__ inline Output(u8* data, u32 nbytes, u32 lane)
        : data(data), nbytes(nbytes), at(0), lane(lane) {}

    __device__ inline u32 left() const { return nbytes - at; }

    // Copies `run` bytes of the input; the caller has checked that both sides have them.
    __device__ inline void literals(Input& in, u32 run) {
        u8* to = data + at;
        if (run > 32) {
            copy<1, false>(to, in.data + in.at, run, lane);
        } else if (run) {
            u32 byte = in.own();
            if (lane < run) to[lane] = (u8)byte;
        }
        in.at += run;
        at += run;
    }

    // Repeats what was written `offset` bytes before: 1 <= offset <= at, length <= left().
    __device__ inline void match(u32 offset, u32 length) {
        u8* to = data + at;
        const u8* from = to - offset;
        at += length;
        __syncwarp();  // other lanes wrote what is read here
        if (length >= 256 && offset <= 512 && (offset & (offset - 1)) == 0)
            return fill(to, from, offset - 1, length);
        // Sources are taken modulo the offset: none is written by this match.
        u32 k = lane < offset ? lane : lane % offset;
        if (lane < length) to[lane] = from[k];
        if (length <= 32) return;
        u32 step = offset < 32 ? 32 % offset : 32;
#pragma unroll 1
        for (u32 i = lane + 32; i < length; i += 64) {
            u8 byte[2];
#pragma unroll
            for (u32 j = 0; j < 2; j++) {
                k += step;
                if (k >= offset) k -= offset;
                if (i + 32 * j < length) byte[j] = from[k];
            }
#pragma unroll
            for (u32 j = 0; j < 2; j++)
                if (i + 32 * j < length) to[i + 32 * j] = byte[j];
        }
    }

    // A pattern of 1, 2, 4, .. 512 bytes, as planes of zeros or constants make: 32 lanes hold whole
    // patterns, so each stores the same 16 bytes again and again.
    __device__ inline void fill(u8* to, const u8* from, u32 mask, u32 length) {
        u32 head = (u32)(0 - (u64)to) & 15;
        u32 words = (length - head) / 16;
        u32 done = head + words * 16;
        u32 phase = head + lane * 16;
        ulonglong2 word = {0, 0};
#pragma unroll
        for (u32 k = 0; k < 8; k++) {
            word.x |= (u64)from[(phase + k) & mask] << 8 * k;
            word.y |= (u64)from[(phase + k + 8) & mask] << 8 * k;
        }
        ulonglong2* target = (ulonglong2*)(to + head);
#pragma unroll 1
        for (u32 i = lane; i < words; i += 32) target[i] = word;
        u32 i = lane < 16 ? lane : done + lane - 16;
        if (i < (lane < 16 ? head : length)) to[i] = from[i & mask];
    }
};

// LZ4 block format, as LZ4_decompress_safe decodes it, but for two things. An offset of 0, from
// which liblz4 makes unspecified bytes, is refused. And blocks may end in ways that no encoder
// writes: with fewer than 5 literals, even none, and with a match in the last 12 bytes.
__device__ inline i32 lz4(Input& in, Output& out) {
    while (in.left()) {
        u32 bytes = in.peek();
        u32 token = bytes & 255;
        in.at++;
        u32 run = token >> 4;
        if (run == 15 && !in.extend(bytes >> 8 & 255, run)) return ZG_CORRUPT;
        if (run > in.left()) return ZG_CORRUPT;
        if (run > out.left()) return ZG_WRONG_SIZE;
        out.literals(in, run);
        if (in.left() == 0) return out.left() ? ZG_WRONG_SIZE : ZG_OK;

        if (in.left() < 2) return ZG_CORRUPT;
        bytes = in.peek();
        u32 offset = bytes & 0xffff;
        in.at += 2;
        u32 length = (token & 15) + 4;
        if (length == 19 && !in.extend(bytes >> 16 & 255, length)) return ZG_CORRUPT;
        if (offset == 0 || offset > out.at) return ZG_CORRUPT;
        if (length > out.left()) return ZG_WRONG_SIZE;
        out.match(offset, length);
    }
    return ZG_CORRUPT;  // a block ends with literals, and an empty one has a token
}

// BloscLZ of c-blosc 1, with exactly its verdicts.
__device__ inline i32 blosclz(Input& in, Output& out) {
    u32 kept = 31;  // bits of the control byte; the first one is always a run
    while (in.left()) {
        u32 bytes = in.peek();
        u32 control = bytes & kept;
        kept = 255;
        in.at++;
        if (control < 32) {
            u32 run = control + 1;
            if (run > in.left()) return ZG_CORRUPT;
            if (run > out.left()) return ZG_WRONG_SIZE;
            out.literals(in, run);
            continue;
        }
        u32 length = control >> 5;
        bytes >>= 8;
        if (length == 7) {
            if (!in.extend(bytes & 255, length)) return ZG_CORRUPT;
            bytes = in.peek();
        }
        if (in.left() == 0) return ZG_CORRUPT;
        u32 distance = (control & 31) << 8 | (bytes & 255);
        in.at++;
        if (distance == 0x1fff) {
            if (in.left() < 2) return ZG_CORRUPT;
            bytes = in.peek();
            distance += (bytes & 255) << 8 | (bytes >> 8 & 255);
            in.at += 2;
        }
        distance += 1;
        length += 2;
        if (in.left() == 0 || distance > out.at) return ZG_CORRUPT;  // c-blosc ends with literals
        if (length > out.left()) return ZG_WRONG_SIZE;
        out.match(distance, length);
    }
    return out.left() ? ZG_WRONG_SIZE : ZG_OK;
}

// Raw Snappy. A stream that contradicts the size at its own start is corrupt.
__device__ inline i32 snappy(Input& in, Output& out) {
    u64 claimed = 0;
    u32 byte = 128;
    for (int shift = 0; byte & 128; shift += 7) {
        if (shift > 28 || in.left() == 0) return ZG_CORRUPT;
        byte = in.peek() & 255;
        in.at++;
        claimed |= (u64)(byte & 127) << shift;
    }
    if (claimed > ALL) return ZG_CORRUPT;
    if (claimed != out.nbytes) return ZG_WRONG_SIZE;
    while (in.left()) {
        u32 bytes = in.peek();
        u32 tag = bytes & 255;
        u32 kind = tag & 3;
        u32 extra;  // bytes that follow the tag
        if (kind == 0) extra = tag < 240 ? 0 : (tag >> 2) - 59;
        else extra = kind == 3 ? 4 : kind;
        in.at++;
        if (extra > in.left()) return ZG_CORRUPT;
        u32 operand = bytes >> 8;
        if (extra == 4) operand = in.peek();
        else operand &= (1u << 8 * extra) - 1;
        in.at += extra;
        if (kind == 0) {
            u32 before = extra ? operand : tag >> 2;  // one less than the length
            if (before >= in.left() || before >= out.left()) return ZG_CORRUPT;
            out.literals(in, before + 1);
            continue;
        }
        u32 length = (tag >> 2) + 1;
        if (kind == 1) {
            length = (tag >> 2 & 7) + 4;
            operand |= (tag >> 5) << 8;
        }
        if (operand == 0 || operand > out.at || length > out.left()) return ZG_CORRUPT;
        out.match(operand, length);
    }
    return out.left() ? ZG_CORRUPT : ZG_OK;
}

template <i32 (*DECODE)(Input&, Output&)>
__device__ inline void decode(const u64* in_ptr, const u64* in_nbytes, const u64* out_ptr,
                              const u64* out_nbytes, u64* actual, i32* status, i64 n) {
    u32 lane = threadIdx.x & 31;
    for (i64 row = zg_thread() / 32; row < n; row += zg_threads() / 32) {
        i32 verdict = ZG_CORRUPT;
        u32 produced = 0;
        if (in_nbytes[row] <= MAX_NBYTES && out_nbytes[row] <= MAX_NBYTES) {
            Input in((const u8*)in_ptr[row], (u32)in_nbytes[row], lane);
            Output out((u8*)out_ptr[row], (u32)out_nbytes[row], lane);
            verdict = DECODE(in, out);
            produced = out.at;
        }
        if (lane == 0) {
            actual[row] = produced;
            status[row] = verdict;
        }
    }
}

// The last stream whose first piece is not behind `piece`; lanes look at 32 streams at a time.
__device__ inline i64 find_stream(const i64* first_piece, i64 n, i64 piece, u32 lane) {
    i64 low = 0, high = n;
    while (high - low > 1) {
        i64 step = (high - low + 31) / 32;
        i64 probe = low + lane * step;
        bool before = probe < high && first_piece[probe] <= piece;
        low += (__popc(__ballot_sync(ALL, before)) - 1) * step;
        if (high - low > step) high = low + step;
    }
    return low;
}

}  // namespace

ZG_KERNEL __launch_bounds__(128) lz4_decode(const u64* in_ptr, const u64* in_nbytes,
                                            const u64* out_ptr, const u64* out_nbytes, u64* actual,
                                            i32* status, i64 n) {
    decode<lz4>(in_ptr, in_nbytes, out_ptr, out_nbytes, actual, status, n);
}

ZG_KERNEL __launch_bounds__(128) blosclz_decode(const u64* in_ptr, const u64* in_nbytes,
                                                const u64* out_ptr, const u64* out_nbytes,
                                                u64* actual, i32* status, i64 n) {
    decode<blosclz>(in_ptr, in_nbytes, out_ptr, out_nbytes, actual, status, n);
}

ZG_KERNEL __launch_bounds__(128) snappy_decode(const u64* in_ptr, const u64* in_nbytes,
                                               const u64* out_ptr, const u64* out_nbytes,
                                               u64* actual, i32* status, i64 n) {
    decode<snappy>(in_ptr, in_nbytes, out_ptr, out_nbytes, actual, status, n);
}

// Copies streams; one whose two sizes differ is left alone, with ZG_WRONG_SIZE. The work is cut
// into pieces of piece_nbytes, one for a warp, so that few long and many short streams are both
// spread over the device. `first_piece` (n + 1 entries) are the pieces before each stream, at least
// one for each: max(1, ceil(out_nbytes / piece_nbytes)). Launch: any number of blocks of a multiple
// of 32 threads, up to 256.
ZG_KERNEL __launch_bounds__(256, 3) copy_streams(const u64* in_ptr, const u64* in_nbytes,
                                              const u64* out_ptr, const u64* out_nbytes,
                                              u64* actual, i32* status, const i64* first_piece,
                                              i32 piece_nbytes, i64 n) {
    u32 lane = threadIdx.x & 31;
    i64 pieces = n > 0 ? first_piece[n] : 0;
    for (i64 piece = zg_thread() / 32; piece < pieces; piece += zg_threads() / 32) {
        i64 row = find_stream(first_piece, n, piece, lane);
        u64 nbytes = out_nbytes[row];
        bool same = in_nbytes[row] == nbytes;
        u64 begin = (u64)(piece - first_piece[row]) * (u64)piece_nbytes;
        if (same && begin < nbytes) {
            u64 rest = nbytes - begin;
            u32 count = rest < (u64)piece_nbytes ? (u32)rest : (u32)piece_nbytes;
            copy<4, true>((u8*)out_ptr[row] + begin, (const u8*)in_ptr[row] + begin, count, lane);
        }
        if (begin == 0 && lane == 0) {
            actual[row] = same ? nbytes : 0;
            status[row] = same ? ZG_OK : ZG_WRONG_SIZE;
        }
    }
}
