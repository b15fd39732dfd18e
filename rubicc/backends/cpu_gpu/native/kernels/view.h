// Where a value lies in memory, and loading and storing sixteen channels of one frame as floats.
#pragma once

#include <cmath>
#include <cstddef>

#include "program.h"
#include "vec.h"

namespace rubicc {

// Element (frame t, channel c) of one batch item is at base + t * frame + (c / 16) * block + (c % 16) * size.
struct View {
    char *base = nullptr;
    ptrdiff_t frame = 0, block = 0;
    int32_t frames = 0, channels = 0, kind = F32, zero = 0;
    double scale = 1.0;

    char *at(ptrdiff_t t, int c) const {
        return base + t * frame + (c >> 4) * block + (c & 15) * size_of(kind);
    }
};

inline f16v load16(const View &v, const char *p) {
    if (v.kind == F32) return load<f16v>(p);
    if (v.kind == BF16) return from_bf16(load<h16v>(p));
    const i16v q = __builtin_convertvector(load<b16v>(p), i16v);
    return to_float(q - v.zero) * (float)v.scale;
}
inline D16 load16_double(const View &v, const char *p) {
    if (v.kind != U8) return to_double(load16(v, p));
    const i16v q = __builtin_convertvector(load<b16v>(p), i16v);
    return to_double(q - v.zero) * v.scale;
}
inline b16v saturate(i16v q) {
#if defined(__AVX512F__)
    return (b16v)_mm512_cvtusepi32_epi8(_mm512_max_epi32((__m512i)q, _mm512_setzero_si512()));
#else
    return __builtin_convertvector(min(max(q, splat(0)), splat(255)), b16v);
#endif
}
inline void store16(const View &v, char *p, f16v x) {
    if (v.kind == F32) store(p, x);
    else if (v.kind == BF16) store(p, to_bf16(x));
    else store(p, saturate(to_int(min(max(x * (float)(1.0 / v.scale), splat(-70000.f)), splat(70000.f))) + v.zero));
}

inline f16v apply(const Activation &f, f16v x) {
    switch (f.function) {
        case RELU: return max(x, splat(0.0f));
        case SILU: return silu(x);
        case TANH: return tanh(x);
        case SIGMOID: return sigmoid(x);
        case GELU: return gelu(x);
        case CLIP: return min(max(x, splat((float)f.a)), splat((float)f.b));
        default: return x * (float)f.a + (float)f.b;
    }
}
inline D16 apply(const Activation &f, D16 x) {
    switch (f.function) {
        case RELU: return max(x, 0.0);
        case CLIP: return min(max(x, f.a), f.b);
        case AFFINE: return x * f.a + f.b;
        default: return to_double(apply(f, to_float(x)));
    }
}

}  // namespace rubicc
