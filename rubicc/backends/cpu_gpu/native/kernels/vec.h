// Sixteen lanes at a time, in the compiler's own vector types: one source for every CPU. Only dot products and
// reciprocals name instructions, where the CPU has them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace rubicc {

typedef float f16v __attribute__((vector_size(64)));
typedef int32_t i16v __attribute__((vector_size(64)));
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef double d8v __attribute__((vector_size(64)));
typedef int32_t i8v __attribute__((vector_size(32)));
typedef float f8v __attribute__((vector_size(32)));
typedef uint16_t h16v __attribute__((vector_size(32)));
typedef uint8_t b16v __attribute__((vector_size(16)));

inline f16v splat(float x) { return f16v{} + x; }
inline i16v splat(int32_t x) { return i16v{} + x; }

template <class V>
inline V load(const void *p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class V>
inline void store(void *p, V v) {
    std::memcpy(p, &v, sizeof v);
}

#if defined(__AVX512F__)
inline f16v max(f16v a, f16v b) { return (f16v)_mm512_max_ps((__m512)a, (__m512)b); }
inline f16v min(f16v a, f16v b) { return (f16v)_mm512_min_ps((__m512)a, (__m512)b); }
inline d8v max(d8v a, d8v b) { return (d8v)_mm512_max_pd((__m512d)a, (__m512d)b); }
inline d8v min(d8v a, d8v b) { return (d8v)_mm512_min_pd((__m512d)a, (__m512d)b); }
#else
inline f16v max(f16v a, f16v b) { return a > b ? a : b; }
inline f16v min(f16v a, f16v b) { return a < b ? a : b; }
inline d8v max(d8v a, d8v b) { return a > b ? a : b; }
inline d8v min(d8v a, d8v b) { return a < b ? a : b; }
#endif
inline i16v max(i16v a, i16v b) { return a > b ? a : b; }
inline i16v min(i16v a, i16v b) { return a < b ? a : b; }

inline f16v to_float(i16v v) { return __builtin_convertvector(v, f16v); }

// Round half to even: adding 1.5 * 2^23 leaves no fraction bits. For |x| < 2^22, which clamping ensures.
inline i16v to_int(f16v v) {
    const float magic = 12582912.0f;
    const f16v moved = v + magic;
    i16v bits;
    std::memcpy(&bits, &moved, sizeof bits);
    int32_t offset;
    std::memcpy(&offset, &magic, sizeof offset);
    return bits - offset;
}

// bfloat16 in the low half of the word; round to nearest even. Quiet for NaN: none arises here.
inline h16v to_bf16(f16v v) {
#if defined(__AVX512BF16__)
    // The instruction takes denormals as zero; so does every dot product that will read the result.
    __m256bh r = _mm512_cvtneps_pbh((__m512)v);
    h16v h;
    std::memcpy(&h, &r, sizeof h);
    return h;
#else
    u16v bits;
    std::memcpy(&bits, &v, sizeof bits);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return __builtin_convertvector(bits >> 16, h16v);
#endif
}
inline f16v from_bf16(h16v h) {
    const u16v bits = __builtin_convertvector(h, u16v) << 16;
    f16v v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

// The sixteen lanes as doubles, for requantisation without rounding doubts.
struct D16 {
    d8v lo, hi;
};
inline D16 to_double(i16v v) {
#if defined(__AVX512F__)
    return {(d8v)_mm512_cvtepi32_pd(_mm512_castsi512_si256((__m512i)v)),
            (d8v)_mm512_cvtepi32_pd(_mm512_extracti64x4_epi64((__m512i)v, 1))};
#else
    i8v halves[2];
    std::memcpy(halves, &v, sizeof v);
    return {__builtin_convertvector(halves[0], d8v), __builtin_convertvector(halves[1], d8v)};
#endif
}
inline D16 to_double(f16v v) {
    f8v halves[2];
    std::memcpy(halves, &v, sizeof v);
    return {__builtin_convertvector(halves[0], d8v), __builtin_convertvector(halves[1], d8v)};
}
inline D16 load_double(const double *p) { return {load<d8v>(p), load<d8v>(p + 8)}; }
inline D16 operator*(D16 a, D16 b) { return {a.lo * b.lo, a.hi * b.hi}; }
inline D16 operator+(D16 a, D16 b) { return {a.lo + b.lo, a.hi + b.hi}; }
inline D16 operator*(D16 a, double b) { return {a.lo * b, a.hi * b}; }
inline D16 operator+(D16 a, double b) { return {a.lo + b, a.hi + b}; }
inline D16 operator-(D16 a, double b) { return {a.lo - b, a.hi - b}; }
inline D16 max(D16 a, double b) {
    const d8v v = d8v{} + b;
    return {max(a.lo, v), max(a.hi, v)};
}
inline D16 min(D16 a, double b) {
    const d8v v = d8v{} + b;
    return {min(a.lo, v), min(a.hi, v)};
}
// Round half to even; for |x| < 2^31.
inline i16v to_int(D16 v) {
#if defined(__AVX512F__)
    const __m256i low = _mm512_cvtpd_epi32((__m512d)v.lo), high = _mm512_cvtpd_epi32((__m512d)v.hi);
    return (i16v)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#else
    const double magic = 6755399441055744.0;
    const d8v lo = v.lo + magic - magic, hi = v.hi + magic - magic;
    i8v halves[2] = {__builtin_convertvector(lo, i8v), __builtin_convertvector(hi, i8v)};
    i16v out;
    std::memcpy(&out, halves, sizeof out);
    return out;
#endif
}
inline f16v to_float(D16 v) {
    f8v halves[2] = {__builtin_convertvector(v.lo, f8v), __builtin_convertvector(v.hi, f8v)};
    f16v out;
    std::memcpy(&out, halves, sizeof out);
    return out;
}

// ---- functions of float32, absolute error below 2e-7 for those that end in [-1, 1]

inline f16v reciprocal(f16v x) {
#if defined(__AVX512F__)
    const f16v r = (f16v)_mm512_rcp14_ps((__m512)x);
    return r + r * (1.0f - x * r);
#else
    return 1.0f / x;
#endif
}

// exp for x clamped to [-87, 88]; relative error about 2^-22.
inline f16v exp(f16v x) {
    x = min(max(x, splat(-87.0f)), splat(88.0f));
    const i16v n = to_int(x * 1.44269504088896341f);
    const f16v nf = to_float(n);
    f16v r = x - nf * 0.693145751953125f;
    r = r - nf * 1.428606765330187e-06f;
    f16v p = splat(1.9875691e-4f);
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665795e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1.0f;
    const i16v bits = (n + 127) << 23;
    f16v scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}
inline f16v sigmoid(f16v x) { return reciprocal(1.0f + exp(-x)); }
inline f16v tanh(f16v x) { return 1.0f - 2.0f * reciprocal(1.0f + exp(x + x)); }
inline f16v silu(f16v x) { return x * sigmoid(x); }
// Abramowitz and Stegun 7.1.26 is too coarse (1.5e-7 of erf times x); GELU is left to erf of each lane.
inline f16v gelu(f16v x) {
    f16v y;
    for (int i = 0; i < 16; ++i) y[i] = 0.5f * x[i] * (1.0f + __builtin_erff(x[i] * 0.70710678118654752f));
    return y;
}

// ---- dot products: every lane adds the products of one 32-bit group of x with one of w

struct DotU8 {  // 4 x unsigned 8 bit times signed 8 bit, exact in int32
    typedef i16v Acc;
    static constexpr int per_word = 4;
    static inline Acc dot(Acc acc, i16v x, i16v w) {
#if defined(__AVX512VNNI__)
        return (Acc)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w);
#else
        acc += (x & 0xff) * ((w << 24) >> 24);
        acc += ((i16v)((u16v)x >> 8) & 0xff) * ((w << 16) >> 24);
        acc += ((i16v)((u16v)x >> 16) & 0xff) * ((w << 8) >> 24);
        acc += (i16v)((u16v)x >> 24) * (w >> 24);
        return acc;
#endif
    }
};

struct DotBf16 {  // 2 x bfloat16, summed in float32
    typedef f16v Acc;
    static constexpr int per_word = 2;
    static inline Acc dot(Acc acc, i16v x, i16v w) {
#if defined(__AVX512BF16__)
        __m512bh a, b;
        std::memcpy(&a, &x, sizeof a);
        std::memcpy(&b, &w, sizeof b);
        return (Acc)_mm512_dpbf16_ps((__m512)acc, a, b);
#else
        const i16v xo = x & (int32_t)0xffff0000, wo = w & (int32_t)0xffff0000, xe = x << 16, we = w << 16;
        f16v a, b, c, d;
        std::memcpy(&a, &xo, sizeof a);
        std::memcpy(&b, &wo, sizeof b);
        std::memcpy(&c, &xe, sizeof c);
        std::memcpy(&d, &we, sizeof d);
        return acc + a * b + c * d;
#endif
    }
};

struct DotF32 {
    typedef f16v Acc;
    static constexpr int per_word = 1;
    static inline Acc dot(Acc acc, i16v x, i16v w) {
        f16v a, b;
        std::memcpy(&a, &x, sizeof a);
        std::memcpy(&b, &w, sizeof b);
#if defined(__AVX512F__)
        return (Acc)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)acc);
#else
        return acc + a * b;
#endif
    }
};

}  // namespace rubicc
