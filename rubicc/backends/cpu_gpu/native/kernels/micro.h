// The one inner loop: R positions times V vectors of sixteen output lanes.
//
// Every product is of a 32-bit group of inputs (1 float, 2 bfloat16 or 4 bytes) that all lanes share and a vector
// of weights. What the lanes are is the packer's business: sixteen output channels, or for narrow groups several
// output frames times the group's channels (the polyphase form: frame t + p reads the same input with its
// weights shifted by p).
#pragma once

#include <cstddef>

#include "vec.h"

namespace rubicc {

inline i16v broadcast_word(const char *p) {
    int32_t word;
    std::memcpy(&word, p, sizeof word);
#if defined(__AVX512F__)
    return (i16v)_mm512_set1_epi32(word);
#else
    return splat(word);
#endif
}

// Keeps a weight in its register: left alone, the compiler reads it again for every position.
inline i16v held(i16v w) {
#if defined(__AVX512F__)
    asm("" : "+v"(w));
#endif
    return w;
}

// x: first input of position 0; position r starts r * step bytes later; input k lies offsets[k] bytes further.
// w: words x V x 64 bytes. out: R x V vectors, overwritten.
template <class Dot, int R, int V>
__attribute__((noinline)) void micro(const char *x, ptrdiff_t step, const int32_t *offsets, int words,
                                     const char *w, typename Dot::Acc *out) {
    typename Dot::Acc acc[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[r][v] = typename Dot::Acc{};
    const ptrdiff_t step3 = 3 * step;
    const char *x0 = x, *x4 = x + 4 * step, *x8 = x + 8 * step;
    for (int k = 0; k < words; ++k, w += V * 64) {
        const ptrdiff_t at = offsets[k];
        i16v weight[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) weight[v] = held(load<i16v>(w + 64 * v));
        const char *p[3] = {x0 + at, x4 + at, x8 + at};
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const char *q = p[r / 4];
            const char *here = r % 4 == 0 ? q : r % 4 == 1 ? q + step : r % 4 == 2 ? q + 2 * step : q + step3;
            const i16v word = broadcast_word(here);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) acc[r][v] = Dot::dot(acc[r][v], word, weight[v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) out[r * V + v] = acc[r][v];
}

constexpr int POSITIONS = 12;  // R for V = 2: 24 sums, 2 weights and 1 input fill the 32 registers

}  // namespace rubicc
