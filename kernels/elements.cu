// Codecs that decode element by element: types, scales, bits; and differences.
//
// All kernels take the same columns of n rows, one row for each chunk:
//
//     in_ptr      address of the stored elements, one after the other; any alignment
//     out_ptr     address of the decoded ones, a multiple of 16; never the input
//     count       number of elements
//     first_tile  n + 1 entries: tiles of TILE elements before each row
//     status      becomes ZG_BAD_VALUE for a row that the host has to decode
//
// and then their own scalars. A row gets that status when the host's codec refuses one of its values,
// or converts one in a way that depends on its processor: NumPy leaves floats outside an integer's
// range, and signalling NaNs on the way to or from two bytes, to the compiler. Everything else is the
// result of NumPy, bit for bit: NaNs keep sign and payload, subnormals stay, nothing is contracted.
// So NaNs are moved by integer code; arithmetic of the device would replace them.
//
// A type is a number: log2 of its size | 8 when it is stored in the other byte order | 16 * kind.
//
// Launch: any number of blocks of 256 threads; each takes an equal share of all tiles, delta_decode
// whole rows. The host guarantees that count elements lie at each address (for bits, see unpack_bits),
// that rows are in the order of first_tile, and every table.

#include "zg.cuh"

namespace {

constexpr i64 TILE = 4096;
constexpr i32 SWAPPED = 8;

enum Kind : i32 { UNSIGNED = 0, SIGNED = 1, FLOAT = 2, BOOL = 3, BRAIN = 4 };  // BOOL: decoded only
enum Rounding : i32 { NEAREST_EVEN = 0, ZERO = 1, UP = 2, DOWN = 3, NEAREST_AWAY = 4 };
enum Range : i32 { ERROR = 0, CLAMP = 1, WRAP = 2 };

constexpr u64 SIGN = 1ull << 63, INFINITE = 0x7ffull << 52, QUIET = 1ull << 51;

struct Type {
    i32 log, kind;
    bool swapped;
    __device__ inline Type(i32 code) : log(code & 3), kind(code >> 4), swapped(code & SWAPPED) {}
    __device__ inline bool is_half() const { return kind == FLOAT && log == 1; }
};

struct Wide {
    u64 bits;  // of an i64, u64 or f64
    i32 kind;  // SIGNED, UNSIGNED or FLOAT
};

// ---- Floats ---------------------------------------------------------------------------------------

__device__ inline u64 bits_of(f64 value) { return (u64)__double_as_longlong(value); }
__device__ inline f64 as_double(u64 bits) { return __longlong_as_double((i64)bits); }
__device__ inline bool is_nan(u64 bits) { return (bits & ~SIGN) > INFINITE; }
__device__ inline bool is_finite(u64 bits) { return (bits & INFINITE) != INFINITE; }

// NaNs become quiet, as processors make them.
__device__ inline u64 from_single(u32 bits) {
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (u64)(bits >> 31) << 63 | INFINITE | QUIET | (u64)(bits & 0x7fffff) << 29;
    return bits_of((f64)__uint_as_float(bits));
}

__device__ inline u32 to_single(u64 bits) {
    if (is_nan(bits)) return (u32)(bits >> 63) << 31 | 0x7fc00000 | (u32)(bits >> 29 & 0x7fffff);
    return __float_as_uint((f32)as_double(bits));
}

__device__ inline u64 from_half(u32 bits) {
    u64 sign = (u64)(bits >> 15) << 63, rest = bits & 0x3ff;
    i32 exponent = (i32)(bits >> 10 & 0x1f);
    if (exponent == 0x1f) return sign | INFINITE | rest << 42;
    if (exponent == 0) return sign | bits_of((f64)rest * 0x1p-24);
    return sign | (u64)(exponent + 1008) << 52 | rest << 42;
}

// A magnitude without its last `shift` bits, 1 <= shift <= 63.
__device__ inline u64 round_bits(u64 magnitude, i32 shift, bool negative, i32 rounding) {
    u64 whole = magnitude >> shift, rest = magnitude & ((1ull << shift) - 1), half = 1ull << (shift - 1);
    bool up = false;
    switch (rounding) {
    case NEAREST_EVEN: up = rest > half || (rest == half && (whole & 1)); break;
    case UP: up = rest && !negative; break;
    case DOWN: up = rest && negative; break;
    case NEAREST_AWAY: up = rest >= half; break;
    }
    return whole + up;
}

// A finite f64 without its sign is magnitude * 2^unit.
__device__ inline u64 split(u64 bits, i32& unit) {
    i32 exponent = (i32)(bits >> 52 & 0x7ff);
    unit = (exponent ? exponent : 1) - 1075;
    return (bits & ((1ull << 52) - 1)) | (exponent ? 1ull << 52 : 0);
}

__device__ inline i32 shift_of(i32 places) { return places > 62 ? 62 : places; }  // all of 53 bits

// A finite f64 rounded to `precision` bits, the last of which is 2^last or more. May become infinite.
__device__ inline u64 round_float(u64 bits, i32 precision, i32 last, i32 rounding) {
    i32 unit;
    u64 magnitude = split(bits, unit), sign = bits & SIGN;
    i32 target = unit + 53 - precision;  // subnormals are shorter, but far below `last` anyway
    if (target < last) target = last;
    if (target <= unit) return bits;
    magnitude = round_bits(magnitude, shift_of(target - unit), sign != 0, rounding);
    return sign | bits_of((f64)magnitude * as_double((u64)(target + 1023) << 52));
}

__device__ inline u32 to_half(u64 bits) {
    u32 sign = (u32)(bits >> 63) << 15, rest = (u32)(bits >> 42 & 0x3ff);
    if (is_nan(bits)) return sign | 0x7c00 | rest;
    if (is_finite(bits)) bits = round_float(bits & ~SIGN, 11, -24, NEAREST_EVEN);
    f64 value = as_double(bits & ~SIGN);
    if (value > 65504.0) return sign | 0x7c00;
    if (value < 0x1p-14) return sign | (u32)(value * 0x1p24);
    return sign | ((u32)(bits >> 52) - 1008) << 10 | (u32)(bits >> 42 & 0x3ff);
}

// ---- Conversions ----------------------------------------------------------------------------------

__device__ inline u64 swap_bytes(u64 raw, i32 log) {
    raw = raw >> 32 | raw << 32;
    raw = (raw >> 16 & 0x0000ffff0000ffff) | (raw & 0x0000ffff0000ffff) << 16;
    raw = (raw >> 8 & 0x00ff00ff00ff00ff) | (raw & 0x00ff00ff00ff00ff) << 8;
    return raw >> (64 - (8 << log));
}

__device__ inline Wide widen(const Type& type, u64 raw) {
    i32 spare = 64 - (8 << type.log);
    switch (type.kind) {
    case SIGNED: return {(u64)((i64)(raw << spare) >> spare), SIGNED};
    case BRAIN: return {from_single((u32)raw << 16), FLOAT};
    case FLOAT: return {type.log == 3 ? raw : type.log == 2 ? from_single((u32)raw) : from_half((u32)raw), FLOAT};
    default: return {raw, UNSIGNED};
    }
}

__device__ inline f64 to_double(const Wide& x) {
    return x.kind == FLOAT ? as_double(x.bits) : x.kind == SIGNED ? (f64)(i64)x.bits : (f64)x.bits;
}

// Towards zero; bad when the type cannot hold it.
__device__ inline u64 to_integer(const Type& type, f64 x, bool& bad) {
    i32 width = 8 << type.log;
    bool is_signed = type.kind == SIGNED;
    f64 low = is_signed ? -as_double((u64)(width + 1022) << 52) : 0.0;  // powers of two
    f64 high = as_double((u64)(width - is_signed + 1023) << 52);
    bool fits = (x >= low || x > low - 1.0) && x < high;
    bad |= !fits;
    return !fits ? 0 : is_signed ? (u64)(i64)x : x < 0.0 ? 0 : (u64)x;
}

// As NumPy's astype.
__device__ inline u64 narrow(const Type& type, const Wide& x, bool& bad) {
    if (type.kind == BOOL) return (x.kind == FLOAT ? x.bits << 1 : x.bits) != 0;
    if (type.kind != FLOAT) return x.kind == FLOAT ? to_integer(type, as_double(x.bits), bad) : x.bits;
    if (type.log == 3) return x.kind == FLOAT ? x.bits : bits_of(to_double(x));
    if (x.kind == FLOAT) return type.log == 2 ? to_single(x.bits) : to_half(x.bits);
    u32 single = __float_as_uint(x.kind == SIGNED ? (f32)(i64)x.bits : (f32)x.bits);  // rounded once
    return type.log == 2 ? single : to_half(from_single(single));
}

__device__ inline u64 convert(const Type& source, const Type& target, u64 raw, bool& bad) {
    bool floats = source.kind == FLOAT && target.kind == FLOAT;
    if (floats && source.log == target.log) return raw;
    Wide x = widen(source, raw);
    if (floats && (source.is_half() || target.is_half())) {
        bool quiet = source.log == 2 ? raw >> 22 & 1 : (x.bits & QUIET) != 0;  // before widening
        bad |= is_nan(x.bits) && !quiet;
    }
    return narrow(target, x, bad);
}

__device__ inline u64 unscale(const Type& source, const Type& target, bool single, f64 scale, f64 offset,
                              u64 raw, bool& bad) {
    Wide x = widen(source, raw);
    if (x.kind == FLOAT && is_nan(x.bits)) {
        x.bits |= QUIET;
    } else if (single) {
        f32 value = (f32)to_double(x) / (f32)scale;
        value = value + (f32)offset;
        x = {bits_of((f64)value), FLOAT};
    } else {
        f64 value = to_double(x) / scale;
        x = {bits_of(value + offset), FLOAT};
    }
    return narrow(target, x, bad);
}

__device__ inline u64 unscale_integer(const Type& type, u64 scale, u64 offset, u64 raw, bool& bad) {
    u64 x = widen(type, raw).bits;
    bool is_signed = type.kind == SIGNED, negative = is_signed && (i64)(x ^ scale) < 0;
    u64 dividend = is_signed && (i64)x < 0 ? 0 - x : x;
    u64 divisor = is_signed && (i64)scale < 0 ? 0 - scale : scale;
    // Narrow types have magnitudes of 32 bits, which divide faster.
    u64 quotient = type.log < 3 ? (u32)dividend / (u32)divisor : dividend / divisor;
    bad |= quotient * divisor != dividend;
    u64 value = negative ? 0 - quotient : quotient, sum = value + offset;
    i32 spare = 64 - (8 << type.log);
    if (!is_signed)
        bad |= sum < value || (sum << spare) >> spare != sum;
    else if (!negative && quotient == SIGN)  // -2^63 / -1
        bad |= (i64)offset >= 0;
    else
        bad |= (i64)((value ^ sum) & (offset ^ sum)) < 0 || (u64)((i64)(sum << spare) >> spare) != sum;
    return sum;
}

struct Cast {
    Type source, target;
    i32 rounding, range, pairs;
    const u64* map;

    __device__ inline bool find(const Wide& x, u64& result) const {
        for (i32 i = 0; i < pairs; i++) {
            u64 key = map[2 * i];
            bool equal = key == x.bits;
            if (x.kind == FLOAT) equal = is_nan(key) ? is_nan(x.bits) : as_double(key) == as_double(x.bits);
            if (equal) {
                result = map[2 * i + 1];
                return true;
            }
        }
        return false;
    }

    __device__ inline u64 to_integers(const Wide& x, bool& bad) const {
        bool negative = x.kind != UNSIGNED && (i64)x.bits < 0, outside = false;
        u64 magnitude = x.kind == SIGNED && negative ? 0 - x.bits : x.bits;
        if (x.kind == FLOAT) {
            bad |= !is_finite(x.bits);
            i32 unit;
            magnitude = split(x.bits, unit);
            outside = unit > 11;  // 2^64 or more
            if (unit < 0) magnitude = round_bits(magnitude, shift_of(-unit), negative, rounding);
            else if (!outside) magnitude <<= unit;
        }
        u64 most = ~0ull >> (64 - (8 << target.log)), least = 0;
        if (target.kind == SIGNED) most >>= 1, least = most + 1;
        u64 limit = negative ? least : most;
        outside |= magnitude > limit;
        bad |= outside && range == ERROR;
        if (outside && range == CLAMP) magnitude = limit;
        return negative ? 0 - magnitude : magnitude;
    }

    __device__ inline u64 to_floats(const Wide& x, bool& bad) const {
        i32 precision = target.log == 3 ? 53 : target.log == 2 ? 24 : 11;
        f64 largest = target.log == 3 ? 0x1.fffffffffffffp1023 : target.log == 2 ? 0x1.fffffep127 : 65504.0;
        Wide wide = {x.bits, FLOAT};
        if (x.kind != FLOAT) {
            bool negative = x.kind == SIGNED && (i64)x.bits < 0;
            u64 magnitude = negative ? 0 - x.bits : x.bits;
            i32 shift = 1 - precision;  // and the number of the highest bit
            for (i32 step = 32, top = 0; step; step >>= 1)
                if (magnitude >> top >> step) top += step, shift += step;
            if (shift > 0) magnitude = round_bits(magnitude, shift, negative, rounding);
            wide.bits = bits_of((f64)magnitude * (f64)(shift > 0 ? 1ull << shift : 1)) | (negative ? SIGN : 0);
        } else if (!is_finite(x.bits)) {
            if (source.is_half() || target.is_half()) bad |= is_nan(x.bits) && !(x.bits & QUIET);
            return narrow(target, wide, bad);
        } else if (target.log < 3) {
            wide.bits = round_float(x.bits, precision, target.log == 2 ? -149 : -24, rounding);
        }
        if (as_double(wide.bits & ~SIGN) > largest) {
            bad |= range != CLAMP;
            wide.bits = (wide.bits & SIGN) | INFINITE;
        }
        return narrow(target, wide, bad);
    }

    __device__ inline u64 operator()(u64 raw, bool& bad) const {
        Wide x = widen(source, raw);
        u64 result;
        if (find(x, result)) return result;
        return target.kind == FLOAT ? to_floats(x, bad) : to_integers(x, bad);
    }
};

// `width` bits from bit `skip` of a byte on, lowest first.
__device__ inline u64 bits_at(const u8* at, i32 skip, i32 width) {
    u64 out = at[0] >> skip;
    for (i32 have = 8 - skip; have < width; have += 8) out |= (u64) * ++at << have;
    return out & ~0ull >> (64 - width);
}

// ---- Rows, tiles, groups of four elements ---------------------------------------------------------

struct Rows {
    const u64* in_ptr;
    const u64* out_ptr;
    const i64* count;
    const i64* first_tile;
    i32* status;
    i64 n;
};

// value[k] = f(k, value[k]). One body of f for all four, and no indexing, which would need memory.
template <typename F> __device__ inline void each_of_four(u64 value[4], const F& f) {
#pragma unroll 1
    for (int k = 0; k < 4; k++) {
        u64 out = f(k, value[0]);
        value[0] = value[1], value[1] = value[2], value[2] = value[3], value[3] = out;
    }
}

// Those of four elements that are left; zeros for the others.
__device__ inline void load(u64 value[4], const u8* at, i32 log, i64 left) {
    u64 address = (u64)at;
    if (left >= 4 && (address & ((4 << log) - 1) & 15) == 0) {
        ulonglong2 a = {0, 0}, b = {0, 0};
        if (log == 0) a.x = *(const u32*)at;
        if (log == 1) a.x = *(const u64*)at;
        if (log >= 2) a = ((const ulonglong2*)at)[0];
        if (log == 3) b = ((const ulonglong2*)at)[1];
        i32 width = 8 << log;
        if (log < 2)
            for (int k = 0; k < 4; k++) value[k] = a.x >> width * k & ((1ull << width) - 1);
        else if (log == 2)
            value[0] = (u32)a.x, value[1] = a.x >> 32, value[2] = (u32)a.y, value[3] = a.y >> 32;
        else
            value[0] = a.x, value[1] = a.y, value[2] = b.x, value[3] = b.y;
        return;
    }
    bool aligned = log && (address & ((1 << log) - 1)) == 0;
    each_of_four(value, [&](int k, u64) {
        const u8* from = at + ((i64)k << log);
        u64 out = 0;
        if (k >= left) return out;
        if (aligned) return log == 1 ? *(const u16*)from : log == 2 ? *(const u32*)from : *(const u64*)from;
        for (int b = 0; b < 1 << log; b++) out |= (u64)from[b] << 8 * b;
        return out;
    });
}

__device__ inline void store(u8* at, const u64 value[4], i32 log, i64 left) {
    if (left < 4) {
        u64 rest[4] = {value[0], value[1], value[2], value[3]};
        each_of_four(rest, [&](int k, u64 x) {
            u8* to = at + ((i64)k << log);
            if (k >= left) return x;
            if (log == 0) *to = (u8)x;
            if (log == 1) *(u16*)to = (u16)x;
            if (log == 2) *(u32*)to = (u32)x;
            if (log == 3) *(u64*)to = x;
            return x;
        });
        return;
    }
    if (log == 0)
        *(u32*)at = (u32)((u8)value[0] | (u8)value[1] << 8 | (u8)value[2] << 16 | (u32)(u8)value[3] << 24);
    if (log == 1)
        *(u64*)at = (u16)value[0] | (u64)(u16)value[1] << 16 | (u64)(u16)value[2] << 32 | value[3] << 48;
    if (log == 2) *(ulonglong2*)at = {(u32)value[0] | value[1] << 32, (u32)value[2] | value[3] << 32};
    if (log < 3) return;
    ((ulonglong2*)at)[0] = {value[0], value[1]};
    ((ulonglong2*)at)[1] = {value[2], value[3]};
}

// Calls group(row, first element, elements left, bad) for every group of four of this block's tiles.
template <typename F> __device__ inline void each_group(const Rows& rows, const F& group) {
    i64 tiles = rows.first_tile[rows.n], share = tiles / gridDim.x, extra = tiles % gridDim.x;
    i64 b = blockIdx.x, tile = b * share + (b < extra ? b : extra), last = tile + share + (b < extra);
    i64 row = 0, high = rows.n;
    while (high - row > 1) {
        i64 middle = (row + high) / 2;
        if (rows.first_tile[middle] <= tile) row = middle; else high = middle;
    }
    for (; tile < last; tile++) {
        while (rows.first_tile[row + 1] <= tile) row++;  // rows without elements have no tile
        i64 count = rows.count[row], begin = (tile - rows.first_tile[row]) * TILE;
        i64 end = begin + TILE < count ? begin + TILE : count;
        bool bad = false;
        for (i64 at = begin + 4 * threadIdx.x; at < end; at += 4 * blockDim.x) group(row, at, end - at, bad);
        if (bad) atomicMax(&rows.status[row], (i32)ZG_BAD_VALUE);
    }
}

// Each stored element, as bits, becomes decode(bits, bad).
template <typename F> __device__ inline void each_element(const Rows& rows, i32 in_log, i32 out_log, const F& decode) {
    each_group(rows, [&](i64 row, i64 at, i64 left, bool& bad) {
        u64 value[4];
        load(value, (const u8*)rows.in_ptr[row] + (at << in_log), in_log, left);
        each_of_four(value, [&](int k, u64 raw) { return k < left ? decode(raw, bad) : 0; });
        store((u8*)rows.out_ptr[row] + (at << out_log), value, out_log, left);
    });
}

template <typename F>
__device__ inline void each_value(const Rows& rows, const Type& source, const Type& target, const F& decode) {
    each_element(rows, source.log, target.log, [&](u64 raw, bool& bad) {
        u64 out = decode(source.swapped ? swap_bytes(raw, source.log) : raw, bad);
        return target.swapped ? swap_bytes(out, target.log) : out;
    });
}

}  // namespace

// NumPy's astype between numbers.
ZG_KERNEL
astype(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status, i64 n,
       i32 source, i32 target) {
    Type from(source), to(target);
    each_value({in_ptr, out_ptr, count, first_tile, status, n}, from, to,
               [&](u64 raw, bool& bad) { return convert(from, to, raw, bad); });
}

// x / scale + offset in f64, or in f32 when `single`, then as astype. Both constants are finite.
ZG_KERNEL
fixed_scale_offset(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status,
                   i64 n, i32 source, i32 target, i32 single, f64 scale, f64 offset) {
    Type from(source), to(target);
    each_value({in_ptr, out_ptr, count, first_tile, status, n}, from, to,
               [&](u64 raw, bool& bad) { return unscale(from, to, single, scale, offset, raw, bad); });
}

// The same for integers, exactly. Constants are i64 or u64, as the type is signed; scale is not 0.
ZG_KERNEL
scale_offset(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status, i64 n,
             i32 type, u64 scale, u64 offset) {
    Type both(type);
    each_value({in_ptr, out_ptr, count, first_tile, status, n}, both, both,
               [&](u64 raw, bool& bad) { return unscale_integer(both, scale, offset, raw, bad); });
}

// By value, rounded and limited as asked for. `map` has `pairs` keys (an element as i64, u64 or f64; one
// NaN stands for all), each with the bits of what replaces it; the first one that is equal counts.
ZG_KERNEL
cast_value(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status, i64 n,
           i32 source, i32 target, i32 rounding, i32 range, i32 pairs, const u64* map) {
    Cast cast = {Type(source), Type(target), rounding, range, pairs, map};
    each_value({in_ptr, out_ptr, count, first_tile, status, n}, cast.source, cast.target, cast);
}

// A stored byte is a number of an entry: 256 results, then 256 bits for those the host must decode.
ZG_KERNEL
look_up(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status, i64 n,
        i32 log, const u64* table) {
    __shared__ u64 entries[260];
    for (i32 i = threadIdx.x; i < 260; i += blockDim.x) entries[i] = table[i];
    __syncthreads();
    each_element({in_ptr, out_ptr, count, first_tile, status, n}, 0, log, [&](u64 raw, bool& bad) {
        bad |= entries[256 + (raw >> 6)] >> (raw & 63) & 1;
        return entries[raw];
    });
}

// Elements are bytes, of which only the bits of `mask` count.
ZG_KERNEL
mask_bytes(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status, i64 n,
           u32 mask) {
    each_element({in_ptr, out_ptr, count, first_tile, status, n}, 0, 0, [&](u64 raw, bool&) { return raw & mask; });
}

// Elements of `width` bits, moved up by `first`; `extension` is added when the highest of them is set.
// Bits start at the lowest of each byte, or with `high_first` (and width 1) at the highest. `padding`:
// one more byte, before (1) or behind (2) the bits, has the number of bits that are left over.
ZG_KERNEL
unpack_bits(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status, i64 n,
            i32 log, i32 width, i32 first, u64 extension, i32 high_first, i32 padding) {
    each_group({in_ptr, out_ptr, count, first_tile, status, n}, [&](i64 row, i64 at, i64 left, bool& bad) {
        const u8* in = (const u8*)in_ptr[row];
        i64 nbits = count[row] * width;
        if (at == 0 && padding) bad |= in[padding == 1 ? 0 : (nbits + 7) / 8] != (-nbits & 7);
        if (padding == 1) in++;
        u64 value[4] = {0, 0, 0, 0};
        each_of_four(value, [&](int k, u64 found) {
            if (k >= left) return found;
            i64 bit = (at + k) * width;
            i32 skip = (i32)(bit & 7);
            found = high_first ? in[bit >> 3] >> (7 - skip) & 1 : bits_at(in + (bit >> 3), skip, width);
            return found << first | (found >> (width - 1) & 1 ? extension : 0);
        });
        store((u8*)out_ptr[row] + (at << log), value, log, left);
    });
}

// Sums of the integers so far, modulo the size of the decoded type. One block for each row.
ZG_KERNEL
delta_decode(const u64* in_ptr, const u64* out_ptr, const i64* count, const i64* first_tile, i32* status, i64 n,
             i32 source, i32 target) {
    constexpr i32 WARPS = 8;
    __shared__ u64 totals[2][WARPS];  // written for one round while the other one is still being read
    Type from(source), to(target);
    i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, turn = 0;
    for (i64 row = blockIdx.x; row < n; row += gridDim.x) {
        const u8* in = (const u8*)in_ptr[row];
        u8* out = (u8*)out_ptr[row];
        i64 end = count[row];
        u64 carry = 0;
        for (i64 begin = 0; begin < end; begin += 4 * 32 * WARPS, turn ^= 1) {
            i64 at = begin + 4 * threadIdx.x;
            u64 sum[4], total = 0;
            load(sum, in + (at << from.log), from.log, end - at);
            each_of_four(sum, [&](int, u64 raw) {
                return total += widen(from, from.swapped ? swap_bytes(raw, from.log) : raw).bits;
            });
            u64 scan = total;
            for (i32 step = 1; step < 32; step *= 2) {
                u64 other = __shfl_up_sync(0xffffffff, scan, step);
                if (lane >= step) scan += other;
            }
            if (lane == 31) totals[turn][warp] = scan;
            __syncthreads();
            u64 before = carry + scan - total;
            for (i32 w = 0; w < WARPS; w++) {
                before += w < warp ? totals[turn][w] : 0;
                carry += totals[turn][w];
            }
            each_of_four(sum, [&](int, u64 x) {
                return to.swapped ? swap_bytes(x + before, to.log) : x + before;
            });
            store(out + (at << to.log), sum, to.log, end - at);
        }
    }
}
