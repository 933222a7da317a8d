// The vocabulary of CUDA C++ that kernels use, for a C++ compiler of the host.
//
// Included before a kernel file. What is missing here (cooperative groups, inline PTX, dynamic
// shared memory, __activemask) is missing on purpose: kernels do without it.

#pragma once

#include <math.h>

#include "zg_abi.h"

#define __global__
#define __device__
#define __host__
#define __constant__
// The runtime fills shared memory before every block, so it has to find all of it. GCC ignores the
// section of variables in templates, and AddressSanitizer does not watch thread-local ones. "used":
// the compiler may not conclude that memory which nobody writes is zero.
#if defined(ZG_ASAN) || defined(ZG_TSAN)
#define __shared__ static __attribute__((section("zg_shared"), used))
#else
#define __shared__ static thread_local __attribute__((used))
#endif
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))

const int warpSize = 32;

// -- vectors, aligned as on the device ------------------------------------------------------------

#define ZG_VECTORS(name, type, a2, a4)                                                         \
    struct __align__(a2) name##2 { type x, y; };                                               \
    struct __align__(a4) name##4 { type x, y, z, w; };                                         \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                           \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
ZG_VECTORS(char, signed char, 2, 4)
ZG_VECTORS(uchar, unsigned char, 2, 4)
ZG_VECTORS(short, short, 4, 8)
ZG_VECTORS(ushort, unsigned short, 4, 8)
ZG_VECTORS(int, int, 8, 16)
ZG_VECTORS(uint, unsigned, 8, 16)
ZG_VECTORS(float, float, 8, 16)
ZG_VECTORS(longlong, long long, 16, 16)
ZG_VECTORS(ulonglong, unsigned long long, 16, 16)
ZG_VECTORS(double, double, 16, 16)
#undef ZG_VECTORS

// -- barriers and warps: the call's line tells divergent calls apart --------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { zg::barrier(zg::SYNCTHREADS, 0, line); }
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
    return zg::barrier(zg::SYNCTHREADS_OR, predicate, line);
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
    return zg::barrier(zg::SYNCTHREADS_AND, predicate, line);
}
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
    return zg::barrier(zg::SYNCTHREADS_COUNT, predicate, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    zg::collective(zg::SYNCWARP, mask, 0, 0, 32, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return (unsigned)zg::collective(zg::BALLOT, mask, predicate != 0, 0, 32, line);
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) == mask;
}

namespace zg {

template <class T> inline Bits bits(T value) {
    static_assert(sizeof(T) <= 8 && __is_trivially_copyable(T), "cannot pass between lanes");
    Bits out = 0;
    __builtin_memcpy(&out, &value, sizeof(T));
    return out;
}
template <class T> inline T unbits(Bits from) {
    T out;
    __builtin_memcpy(&out, &from, sizeof(T));
    return out;
}

}  // namespace zg

// As on the device, a value is one of these types exactly or is converted to one of them.
#define ZG_SHUFFLE(name, kind, operand_type, T)                                                \
    inline T name(unsigned mask, T value, operand_type operand, int width = 32,                \
                  int line = __builtin_LINE()) {                                               \
        return zg::unbits<T>(                                                                  \
            zg::collective(kind, mask, zg::bits(value), (int)operand, width, line));           \
    }
#define ZG_WARP(T)                                                                             \
    ZG_SHUFFLE(__shfl_sync, zg::SHFL, int, T)                                                  \
    ZG_SHUFFLE(__shfl_up_sync, zg::SHFL_UP, unsigned, T)                                       \
    ZG_SHUFFLE(__shfl_down_sync, zg::SHFL_DOWN, unsigned, T)                                   \
    ZG_SHUFFLE(__shfl_xor_sync, zg::SHFL_XOR, int, T)
#define ZG_MATCH(T)                                                                            \
    inline unsigned __match_any_sync(unsigned mask, T value, int line = __builtin_LINE()) {    \
        return (unsigned)zg::collective(zg::MATCH_ANY, mask, zg::bits(value), 0, 32, line);    \
    }
#define ZG_INTEGERS(each)                                                                      \
    each(int) each(unsigned) each(long) each(unsigned long) each(long long) each(unsigned long long)
ZG_INTEGERS(ZG_WARP)
ZG_INTEGERS(ZG_MATCH)
ZG_WARP(float)
ZG_WARP(double)
#undef ZG_SHUFFLE
#undef ZG_WARP
#undef ZG_MATCH
#undef ZG_INTEGERS

// -- atomics: without order, as on the device -------------------------------------------------------

inline void __threadfence() { zg::fence(); }
inline void __threadfence_block() { zg::fence(); }
inline void __threadfence_system() { zg::fence(); }

namespace zg {

template <class T, class Change> inline T atomically(T* at, Change change) {
    T old, wanted;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do wanted = change(old);
    while (!__atomic_compare_exchange(at, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

}  // namespace zg

#define ZG_ATOMIC(name, T, change)                                                             \
    inline T name(T* at, T value) {                                                            \
        return zg::atomically(at, [value](T old) -> T { return change; });                     \
    }
#define ZG_ATOMICS(T)                                                                          \
    ZG_ATOMIC(atomicAdd, T, old + value)                                                       \
    ZG_ATOMIC(atomicExch, T, value)                                                            \
    ZG_ATOMIC(atomicMin, T, value < old ? value : old)                                         \
    ZG_ATOMIC(atomicMax, T, value > old ? value : old)                                         \
    ZG_ATOMIC(atomicAnd, T, old& value)                                                        \
    ZG_ATOMIC(atomicOr, T, old | value)                                                        \
    ZG_ATOMIC(atomicXor, T, old ^ value)                                                       \
    inline T atomicCAS(T* at, T compare, T value) {                                            \
        return zg::atomically(at, [=](T old) -> T { return old == compare ? value : old; });   \
    }
ZG_ATOMICS(unsigned)
ZG_ATOMICS(unsigned long long)
#undef ZG_ATOMICS
// Signed numbers wrap round on the device; the device has no signed 64-bit Add, Exch and CAS.
ZG_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
ZG_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))
ZG_ATOMIC(atomicSub, unsigned, old - value)
ZG_ATOMIC(atomicExch, int, value)
ZG_ATOMIC(atomicMin, int, value < old ? value : old)
ZG_ATOMIC(atomicMax, int, value > old ? value : old)
ZG_ATOMIC(atomicAnd, int, old& value)
ZG_ATOMIC(atomicOr, int, old | value)
ZG_ATOMIC(atomicXor, int, old ^ value)
ZG_ATOMIC(atomicMin, long long, value < old ? value : old)
ZG_ATOMIC(atomicMax, long long, value > old ? value : old)
ZG_ATOMIC(atomicAdd, float, old + value)
ZG_ATOMIC(atomicAdd, double, old + value)
ZG_ATOMIC(atomicExch, float, value)
#undef ZG_ATOMIC
inline int atomicCAS(int* at, int compare, int value) {
    return zg::atomically(at, [=](int old) { return old == compare ? value : old; });
}

// -- bits -------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned long long __brevll(unsigned long long x) {
    unsigned long long out = 0;
    for (int i = 0; i < 64; i++) out |= (x >> i & 1) << (63 - i);
    return out;
}
inline unsigned __brev(unsigned x) { return (unsigned)(__brevll(x) >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned select) {
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = select >> 4 * i & 15;
        unsigned byte = (unsigned)(both >> 8 * (nibble & 7)) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;  // the sign of the byte, replicated
        out |= byte << 8 * i;
    }
    return out;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift < 32 ? shift : 32));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
    return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline long long __mul64hi(long long a, long long b) {
    return (long long)((__int128)a * b >> 64);
}

// -- memory: cache hints mean nothing here ----------------------------------------------------------

template <class T> inline T __ldg(const T* at) { return *at; }
template <class T> inline T __ldcs(const T* at) { return *at; }
template <class T> inline T __ldcg(const T* at) { return *at; }
template <class T> inline T __ldca(const T* at) { return *at; }
template <class T> inline T __ldlu(const T* at) { return *at; }
template <class T> inline void __stcs(T* at, T value) { *at = value; }
template <class T> inline void __stcg(T* at, T value) { *at = value; }
template <class T> inline void __stwb(T* at, T value) { *at = value; }
extern "C" void* memcpy(void*, const void*, decltype(sizeof(0))) noexcept;
extern "C" void* memset(void*, int, decltype(sizeof(0))) noexcept;
[[noreturn]] inline void __trap(int line = __builtin_LINE()) { zg::fault("__trap, line %d", line); }

#include "zg_math.h"
