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
    // Minimax in relative error on [-1/2, 1/2], 2^0 exact: 2.8e-6 with four terms, 9e-8 with five.
    f16v p;
    if (Rounded) {
        p = splat(0.00958282417f) * f + 0.0559063853f;
        p = p * f + 0.240240989f;
        p = p * f + 0.693124198f;
    } else {
        p = splat(0.00132647037f) * f + 0.00967151019f;
        p = p * f + 0.0555073378f;
        p = p * f + 0.240222421f;
        p = p * f + 0.693146978f;
    }
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

// ---- one panel of one frame

// Sixteen hidden units of some rows: where their numbers lie.
template <class Dot>
struct Tile {
    const typename Dot::Acc *input, *hidden;  // sums, [row][gate]
    const float *bias, *scale_input, *scale_hidden;
    float *kept;  // GRU: the state; LSTM: the cell; float32, updated in place
    char *state;  // the state for the next frame's products
    char *y;      // the result, of y_kind
    ptrdiff_t kept_row, state_row, y_row;
    int rows;
    bool same;  // the result is stored as the state is
    const View *result;
};

template <class Dot>
constexpr int kind_of() {
    return Dot::per_word == 1 ? F32 : Dot::per_word == 2 ? BF16 : U8;
}

inline f16v scaled(f16v sum, const float *, int) { return sum; }
inline f16v scaled(i16v sum, const float *scale, int v) { return to_float(sum) * load<f16v>(scale + 16 * v); }
template <class Dot>
inline f16v gate(const Tile<Dot> &t, int r, int v, int gates) {
    return scaled(t.input[r * gates + v], t.scale_input, v) + scaled(t.hidden[r * gates + v], t.scale_hidden, v);
}

template <class Dot>
inline void put(const Tile<Dot> &t, int r, f16v h) {
    char *to = t.state + r * t.state_row, *y = t.y + r * t.y_row;
    const auto both = [&](auto bits) {
        store(to, bits);
        if (t.same) store(y, bits);
    };
    if (kind_of<Dot>() == F32) both(h);
    else if (kind_of<Dot>() == BF16) both(to_bf16(h));
    else both(saturate(to_int(h * 127.0f) + 128));  // the state lies in [-1, 1]
    if (!t.same) store16(*t.result, y, h);
}

template <class Dot>
inline void gru_gates(const Tile<Dot> &t) {
    constexpr bool rounded = kind_of<Dot>() != F32;
    const f16v bias_z = load<f16v>(t.bias), bias_r = load<f16v>(t.bias + 16);
    const f16v bias_x = load<f16v>(t.bias + 32), bias_h = load<f16v>(t.bias + 48);
    for (int r = 0; r < t.rows; ++r) {
        const f16v z = sigmoid_gate<rounded>(gate(t, r, 0, 3) + bias_z);
        const f16v reset = sigmoid_gate<rounded>(gate(t, r, 1, 3) + bias_r);
        // The reset gate multiplies the finished product, its bias included (linear_before_reset).
        const f16v n = tanh_gate<rounded>(scaled(t.input[3 * r + 2], t.scale_input, 2) + bias_x +
                                          reset * (scaled(t.hidden[3 * r + 2], t.scale_hidden, 2) + bias_h));
        float *kept = t.kept + r * t.kept_row;
        const f16v h = n + z * (load<f16v>(kept) - n);
        store(kept, h);
        put(t, r, h);
    }
}

template <class Dot>
inline void lstm_gates(const Tile<Dot> &t) {
    constexpr bool rounded = kind_of<Dot>() != F32;
    const f16v bias_i = load<f16v>(t.bias), bias_o = load<f16v>(t.bias + 16);
    const f16v bias_f = load<f16v>(t.bias + 32), bias_c = load<f16v>(t.bias + 48);
    for (int r = 0; r < t.rows; ++r) {
        const f16v i = sigmoid_gate<rounded>(gate(t, r, 0, 4) + bias_i);
        const f16v o = sigmoid_gate<rounded>(gate(t, r, 1, 4) + bias_o);
        const f16v f = sigmoid_gate<rounded>(gate(t, r, 2, 4) + bias_f);
        const f16v g = tanh_gate<rounded>(gate(t, r, 3, 4) + bias_c);
        float *kept = t.kept + r * t.kept_row;
        const f16v cell = f * load<f16v>(kept) + i * g;
        store(kept, cell);
        put(t, r, o * tanh_gate<rounded>(cell));
    }
}

// ---- products of any number of rows

// Rows per micro() call: V sums each, V weights and one input fill the 32 registers.
template <int V>
constexpr int TILE_ROWS = V == 3 ? 9 : 6;

template <class Dot, int V, int... R>
inline void multiply(int rows, const char *x, ptrdiff_t step, const int32_t *offsets, int words, const char *w,
                     typename Dot::Acc *out, std::integer_sequence<int, R...>) {
    typedef void (*Product)(const char *, ptrdiff_t, const int32_t *, int, const char *, typename Dot::Acc *);
    static constexpr Product products[] = {micro<Dot, R + 1, V>...};
    products[rows - 1](x, step, offsets, words, w, out);
}

// Calls work(first, rows) for tiles as even as they can be: a tile of one row would wait for its own sums.
template <int V, class Work>
inline void in_tiles(int rows, const Work &work) {
    const int tiles = (rows + TILE_ROWS<V> - 1) / TILE_ROWS<V>;
    for (int i = 0; i < tiles; ++i) {
        const int first = rows * i / tiles;
        work(first, rows * (i + 1) / tiles - first);
    }
}

// ---- a layer

template <class Dot, int V>
class Rnn {
    typedef typename Dot::Acc Acc;
    typedef std::make_integer_sequence<int, TILE_ROWS<V>> Tiles;
    static constexpr int ELEMENT = 4 / Dot::per_word;
    static constexpr size_t BLOCK_BYTES = 192 << 10;  // of projected inputs: a share of a core's L2

  public:
    Rnn(const RnnStep &step, int frames, int rows, Scratch &scratch)
        : s_(step), rows_(rows), panels_(step.hidden / 16) {
        const size_t per_frame = (size_t)rows * panels_ * V * 64, state = (size_t)rows * step.hidden * ELEMENT;
        block_ = (int)std::min<size_t>(frames, std::max<size_t>(1, BLOCK_BYTES / per_frame));
        const size_t sums = block_ * per_frame, kept = (size_t)rows * step.hidden * sizeof(float);
        const int words = std::max(step.inputs, step.hidden) / Dot::per_word;
        const size_t states = (2 * state + 63) / 64 * 64;
        char *p = scratch.get(sums + kept + states + sizeof(Acc) * V * TILE_ROWS<V> + words * sizeof(int32_t));
        input_ = (Acc *)p;
        kept_ = (float *)(p += sums);
        now_ = p += kept;
        next_ = now_ + state;
        hidden_ = (Acc *)(p += states);
        offsets_ = (int32_t *)(p + sizeof(Acc) * V * TILE_ROWS<V>);
        std::memset(kept_, 0, kept);
        std::memset(now_, kind_of<Dot>() == U8 ? 128 : 0, state);
        for (int k = 0; k < words; ++k) offsets_[k] = 4 * k;
        result_.kind = step.y_kind;
        result_.scale = step.y_scale;
        result_.zero = step.y_zero;
        same_ = step.y_kind == kind_of<Dot>() &&
                (step.y_kind != U8 || (step.y_scale == 1.0 / 127 && step.y_zero == 128));
    }

    void run(const char *x, ptrdiff_t x_frame, char *y, ptrdiff_t y_frame, int frames) {
        for (int done = 0; done < frames; done += block_) {
            const int count = std::min(block_, frames - done);
            const int first = s_.reverse ? frames - done - count : done;
            project(x + first * x_frame, x_frame, count);
            for (int i = 0; i < count; ++i) {
                const int t = s_.reverse ? count - 1 - i : i;
                advance(t, count, y + (first + t) * y_frame);
            }
        }
    }

  private:
    // Sums of the inputs of `count` frames: [panel][frame][row][gate].
    void project(const char *x, ptrdiff_t x_frame, int count) {
        const ptrdiff_t row = (ptrdiff_t)s_.inputs * ELEMENT;
        const int words = s_.inputs / Dot::per_word;
        // Frames without a gap between them are one long run of rows.
        const bool whole = x_frame == row * rows_;
        const int runs = whole ? 1 : count, length = whole ? count * rows_ : rows_;
        for (int panel = 0; panel < panels_; ++panel) {
            const char *w = s_.w_input + (size_t)panel * words * V * 64;
            for (int i = 0; i < runs; ++i) {
                Acc *out = input_ + ((size_t)panel * count * rows_ + (size_t)i * rows_) * V;
                in_tiles<V>(length, [&](int first, int n) {
                    multiply<Dot, V>(n, x + i * x_frame + first * row, row, offsets_, words, w, out + first * V,
                                     Tiles());
                });
            }
        }
    }

    // The state after frame t of a block of `count`, which is its result.
    void advance(int t, int count, char *y) {
        const ptrdiff_t row = (ptrdiff_t)s_.hidden * ELEMENT, y_row = (ptrdiff_t)s_.hidden * size_of(s_.y_kind);
        const int words = s_.hidden / Dot::per_word;
        for (int panel = 0; panel < panels_; ++panel) {
            const char *w = s_.w_hidden + (size_t)panel * words * V * 64;
            const Acc *input = input_ + ((size_t)panel * count + t) * rows_ * V;
            in_tiles<V>(rows_, [&](int first, int n) {
                multiply<Dot, V>(n, now_ + first * row, row, offsets_, words, w, hidden_, Tiles());
                Tile<Dot> tile;
                tile.input = input + first * V;
                tile.hidden = hidden_;
                tile.bias = s_.bias + panel * 64;
                tile.scale_input = s_.scale_input + panel * V * 16;
                tile.scale_hidden = s_.scale_hidden + panel * V * 16;
                tile.kept = kept_ + first * s_.hidden + panel * 16;
                tile.kept_row = s_.hidden;
                tile.state = next_ + first * row + panel * 16 * ELEMENT;
                tile.state_row = row;
                tile.y = y + first * y_row + panel * 16 * size_of(s_.y_kind);
                tile.y_row = y_row;
                tile.rows = n;
                tile.same = same_;
                tile.result = &result_;
                gates(tile);
            });
        }
        std::swap(now_, next_);
    }

    static void gates(const Tile<Dot> &tile) {
        if (V == 3) gru_gates(tile);
        else lstm_gates(tile);
    }

    const RnnStep &s_;
    const int rows_, panels_;
    int block_;
    Acc *input_, *hidden_;
    float *kept_;
    char *now_, *next_;
    int32_t *offsets_;
    View result_;
    bool same_;
};

template <class Dot>
inline void run_rnn_as(const RnnStep &s, const char *x, ptrdiff_t x_frame, char *y, ptrdiff_t y_frame, int frames,
                       int rows, Scratch &scratch) {
    if (s.lstm) Rnn<Dot, 4>(s, frames, rows, scratch).run(x, x_frame, y, y_frame, frames);
    else Rnn<Dot, 3>(s, frames, rows, scratch).run(x, x_frame, y, y_frame, frames);
}

// One layer for `rows` batch items: x is [frames][rows][inputs] in the compute kind, y is [frames][rows][hidden]
// of y_kind, both with contiguous rows. Throws std::bad_alloc.
inline void run_rnn(const RnnStep &s, const char *x, ptrdiff_t x_frame, char *y, ptrdiff_t y_frame, int frames,
                    int rows, Scratch &scratch) {
    if (frames < 1 || rows < 1) return;
    if (s.compute == F32) run_rnn_as<DotF32>(s, x, x_frame, y, y_frame, frames, rows, scratch);
    else if (s.compute == BF16) run_rnn_as<DotBf16>(s, x, x_frame, y, y_frame, frames, rows, scratch);
    else run_rnn_as<DotU8>(s, x, x_frame, y, y_frame, frames, rows, scratch);
}

}  // namespace rubicc
