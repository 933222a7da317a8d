// Arithmetic of CUDA C++: min and max, conversions that saturate, bit casts. Part of zg_host.h.

#pragma once

// The device knows exactly these pairs of types; any other pair is ambiguous there and here.
#define ZG_MIN_MAX(A, B, R)                                                                    \
    inline R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; }                               \
    inline R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
#define ZG_PAIRS(S, U)                                                                         \
    ZG_MIN_MAX(S, S, S) ZG_MIN_MAX(U, U, U) ZG_MIN_MAX(S, U, U) ZG_MIN_MAX(U, S, U)
ZG_PAIRS(int, unsigned)
ZG_PAIRS(long, unsigned long)
ZG_PAIRS(long long, unsigned long long)
#undef ZG_PAIRS
#undef ZG_MIN_MAX
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline double min(double a, double b) { return __builtin_fmin(a, b); }
inline double max(double a, double b) { return __builtin_fmax(a, b); }

inline unsigned __float_as_uint(float x) { return zg::unbits<unsigned>(zg::bits(x)); }
inline int __float_as_int(float x) { return zg::unbits<int>(zg::bits(x)); }
inline float __uint_as_float(unsigned x) { return zg::unbits<float>(x); }
inline float __int_as_float(int x) { return zg::unbits<float>((unsigned)x); }
inline long long __double_as_longlong(double x) { return (long long)zg::bits(x); }
inline double __longlong_as_double(long long x) { return zg::unbits<double>((zg::Bits)x); }

namespace zg {

// PTX cvt to integers: clamps; NaN gives 0, or 1 << 63 where one side has 64 bits and is not f32/32.
template <class To, class From> inline To convert(From x) {
    const bool is_signed = (To)-1 < (To)0;
    const int width = 8 * (int)sizeof(To) - (is_signed ? 1 : 0);
    const From limit = (From)__builtin_ldexp(1.0, width);
    const To top = is_signed ? (To)(((unsigned long long)1 << width) - 1) : (To)-1;
    const To bottom = is_signed ? (To)((unsigned long long)1 << width) : (To)0;
    const bool wide = sizeof(From) == 8 || sizeof(To) == 8;
    if (x != x) return wide ? (To)((unsigned long long)1 << (8 * sizeof(To) - 1)) : (To)0;
    if (x >= limit) return top;
    if (is_signed ? x < -limit : x < 0) return bottom;
    return (To)x;
}

}  // namespace zg

#define ZG_CONVERT(prefix, From, F)                                                            \
    ZG_ROUND(prefix##int, int, From, F)                                                        \
    ZG_ROUND(prefix##uint, unsigned, From, F)                                                  \
    ZG_ROUND(prefix##ll, long long, From, F)                                                   \
    ZG_ROUND(prefix##ull, unsigned long long, From, F)
#define ZG_ROUND(name, To, From, F)                                                            \
    inline To name##_rz(From x) { return zg::convert<To>(__builtin_trunc##F(x)); }             \
    inline To name##_rn(From x) { return zg::convert<To>(__builtin_rint##F(x)); }              \
    inline To name##_rd(From x) { return zg::convert<To>(__builtin_floor##F(x)); }             \
    inline To name##_ru(From x) { return zg::convert<To>(__builtin_ceil##F(x)); }
ZG_CONVERT(__float2, float, f)
ZG_CONVERT(__double2, double, )
#undef ZG_ROUND
#undef ZG_CONVERT

inline float __double2float_rn(double x) { return (float)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __ull2float_rn(unsigned long long x) { return (float)x; }
inline double __ll2double_rn(long long x) { return (double)x; }
inline double __ull2double_rn(unsigned long long x) { return (double)x; }
inline double __int2double_rn(int x) { return (double)x; }
inline double __uint2double_rn(unsigned x) { return (double)x; }

#define ZG_ARITHMETIC(letter, T)                                                               \
    inline T __##letter##add_rn(T a, T b) { return a + b; }                                    \
    inline T __##letter##sub_rn(T a, T b) { return a - b; }                                    \
    inline T __##letter##mul_rn(T a, T b) { return a * b; }                                    \
    inline T __##letter##div_rn(T a, T b) { return a / b; }
ZG_ARITHMETIC(f, float)
ZG_ARITHMETIC(d, double)
#undef ZG_ARITHMETIC
