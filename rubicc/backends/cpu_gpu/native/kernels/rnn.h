// GRU and LSTM layers over sequences [frame][row][channel]; ONNX semantics, zero initial state.
//
// A panel of weights holds every gate of sixteen hidden units, so the gate functions read the sums of one micro()
// call while they are in L1. The inputs of a block of frames are projected at once, the block small enough for
// its sums to stay in L2 beside the recurrent weights; then each frame multiplies only its state, panel by panel
// with all rows, so that a weight is read from L2 once per frame.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "micro.h"
#include "view.h"

namespace rubicc {

// Filled by pack_rnn.py, field by field in this order. V gates per unit: 3 for GRU (z r h), 4 for LSTM (i o f c).
struct RnnStep {
    int32_t lstm, reverse, compute, y_kind;
    int32_t inputs, hidden;  // multiples of 16
    int32_t y_zero, reserved;
    double y_scale;             // of a u8 result
    const char *w_input;        // hidden / 16 panels x words x V x 64 bytes
    const char *w_hidden;       // the same
    const float *bias;          // panels x 4 x 16: z r h(input) h(recurrent), or i o f c; zero points folded in
    const float *scale_input;   // panels x V x 16, u8: scale of weight times scale of input
    const float *scale_hidden;  // the same with the state's scale, 1 / 127
};
static_assert(sizeof(RnnStep) == 80, "pack_rnn.py mirrors this struct");

// Memory that grows and keeps its size; what it held is lost when it grows.
struct Scratch {
    char *get(size_t bytes) {
        if (bytes > size_) {
            memory_.reset();
            size_ = 0;
            memory_.reset((char *)std::aligned_alloc(64, (bytes + 63) / 64 * 64));
            if (!memory_) throw std::bad_alloc();
            size_ = bytes;
        }
        return memory_.get();
    }

  private:
    struct Release {
        void operator()(char *p) const { std::free(p); }
    };
    std::unique_ptr<char, Release> memory_;
    size_t size_ = 0;
};

// ---- gate functions, from t = -x * log2(e): absolute error 2e-7, or 1e-6 where the state is rounded anyway

constexpr float LOG2_E = 1.44269504088896341f;

// 1 / (1 + 2^t)
template <bool Rounded>
inline f16v logistic2(f16v t) {
#if defined(__AVX512F__)
    // Only large t needs a bound: infinity times its reciprocal is no number. 2^t of a very low t is zero.
    const __m512 bounded = (__m512)min(t, splat(126.0f));
    const __m512 whole = _mm512_roundscale_ps(bounded, 0);
    const f16v f = (f16v)_mm512_sub_ps(bounded, whole);
    f16v p;
    if (Rounded) {
        p = splat(0.00956810225f) * f + 0.0555021018f;
    } else {
        p = splat(0.00133952924f) * f + 0.0096701184f;
        p = p * f + 0.0555032643f;
    }
    p = p * f + 0.240223f;
    p = p * f + 0.693147f;
    p = p * f + 1.0f;
    return reciprocal((f16v)_mm512_scalef_ps((__m512)p, whole) + 1.0f);
#else
    return 1.0f / (1.0f + exp(t * 0.693147180559945309f));
#endif
}
template <bool Rounded>
inline f16v sigmoid_gate(f16v x) {
    return logistic2<Rounded>(x * -LOG2_E);
}
template <bool Rounded>
inline f16v tanh_gate(f16v x) {
    return 2.0f * logistic2<Rounded>(x * (-2.0f * LOG2_E)) - 1.0f;
}
