// Convolutions and linear layers: inner loop per tile, then everything that follows the sum in one sweep.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "micro.h"
#include "view.h"

namespace rubicc {

// int8 sums are finished in double: float32 would round one value in ten thousand the other way than the exact
// arithmetic of the graph, and the kernels are to compute the graph.
struct Finish {
    const StepSpec &s;
    View x, y, add;
    bool exact, plain;  // plain: int8 to int8, at most a ReLU between
    double inverse;
    int32_t low;
    std::vector<double> scale, bias;    // exact: of the result in units of y's steps, when plain
    std::vector<float> scale_f, bias_f;

    Finish(const StepSpec &step, const View &in, const View &out, const View &other)
        : s(step), x(in), y(out), add(other) {
        exact = s.compute == U8 && y.kind == U8;
        for (int i = 0; i < s.activations; ++i) {
            const int32_t f = s.functions[i].function;
            exact = exact && (f == RELU || f == CLIP || f == AFFINE);
        }
        plain = exact && s.add < 0 && !s.requantise &&
                (s.activations == 0 || (s.activations == 1 && s.functions[0].function == RELU));
        inverse = y.kind == U8 ? 1.0 / y.scale : 1.0;
        low = s.activations ? y.zero : 0;
        const int lanes = s.panels * s.vectors * 16;
        const double unit = s.compute == U8 ? x.scale : 1.0;
        for (int i = 0; i < lanes; ++i) {
            const double k = s.scale[i] * unit;
            if (exact) {
                scale.push_back(plain ? k / y.scale : k);
                bias.push_back(plain ? s.bias[i] / y.scale + y.zero : s.bias[i]);
            } else {
                scale_f.push_back((float)k);
                bias_f.push_back((float)s.bias[i]);
            }
        }
    }

    static b16v bytes(i16v acc, D16 k, D16 b, i16v least) {  // plain
        return saturate(max(to_int(min(to_double(acc) * k + b, 70000.0)), least));
    }
    b16v bytes(i16v acc, int lane, const char *other) const {
        D16 v = to_double(acc) * load_double(&scale[lane]) + load_double(&bias[lane]);
        if (s.requantise) {
            const i16v q = to_int(v * (1.0 / s.output_scale)) + s.output_zero;
            v = to_double(min(max(q, splat(0)), splat(255)) - s.output_zero) * s.output_scale;
        }
        if (other) v = v + load16_double(add, other);
        for (int i = 0; i < s.activations; ++i) v = apply(s.functions[i], v);
        return saturate(to_int(min(max(v * inverse, -70000.0), 70000.0)) + y.zero);
    }
    template <class Acc>
    f16v value(Acc acc, int lane, const char *other) const {
        f16v v = as_float(acc) * load<f16v>(&scale_f[lane]) + load<f16v>(&bias_f[lane]);
        if (s.requantise) {
            const i16v q = to_int(v * (float)(1.0 / s.output_scale)) + s.output_zero;
            v = to_float(min(max(q, splat(0)), splat(255)) - s.output_zero) * (float)s.output_scale;
        }
        if (other) v = v + load16(add, other);
        for (int i = 0; i < s.activations; ++i) v = apply(s.functions[i], v);
        return v;
    }
    static f16v as_float(f16v v) { return v; }
    static f16v as_float(i16v v) { return to_float(v); }

    // Finishes one vector and writes it as a row of 16 elements of y's kind.
    void row(i16v acc, int lane, const char *other, char *out) const {
        if (exact) store(out, bytes(acc, lane, other));
        else store16(y, out, value(acc, lane, other));
    }
    void row(f16v acc, int lane, const char *other, char *out) const {
        store16(y, out, value(acc, lane, other));
    }
};

// The commonest case, int8 to int8: no branch per vector, constants in registers.
template <int R, int V>
void finish_plain(const Finish &f, const i16v *sums, int panel, int t0, int frames) {
    const StepSpec &s = f.s;
    const i16v least = splat(f.low);
    const bool narrow = s.group_out < 16;
    const int group = panel / s.panels_per_group, within = panel % s.panels_per_group;
    const int fits = narrow ? 16 / s.group_out : 1;
    for (int v = 0; v < V; ++v) {
        const int offset = narrow ? 0 : (within * V + v) * 16, first = t0 + (narrow ? v * fits : 0);
        if (offset >= s.group_out) break;
        const int lane = (panel * V + v) * 16;
        const D16 k = load_double(&f.scale[lane]), b = load_double(&f.bias[lane]);
        char *out = f.y.at(first, group * s.group_out + offset);
        const ptrdiff_t row = s.phases * f.y.frame;
        for (int r = 0; r < R; ++r, out += row) {
            const b16v bytes = Finish::bytes(sums[r * V + v], k, b, least);
            const int left = frames - (first + r * s.phases);
            if (left <= 0) break;
            if (!narrow) {
                store(out, bytes);
            } else if (s.group_out == 8) {
                std::memcpy(out, &bytes, 8);
                if (left > 1) std::memcpy(out + f.y.frame, (const char *)&bytes + 8, 8);
            } else {
                for (int p = 0; p < fits && p < left; ++p)
                    std::memcpy(out + p * f.y.frame, (const char *)&bytes + p * s.group_out, s.group_out);
            }
        }
    }
}
template <int R, int V>
void finish_ints(const Finish &f, const i16v *sums, int panel, int t0, int frames) {
    finish_plain<R, V>(f, sums, panel, t0, frames);
}
template <int R, int V>
void finish_ints(const Finish &, const f16v *, int, int, int) {}  // float sums are never plain

// Sixteen or more channels per group: a vector is one block of sixteen channels at one frame.
template <class Acc, int R, int V>
void finish_wide(const Finish &f, const Acc *sums, int panel, int t0, int frames) {
    const int group = panel / f.s.panels_per_group, within = panel % f.s.panels_per_group;
    const int lane0 = panel * V * 16;
    for (int v = 0; v < V; ++v) {
        const int offset = (within * V + v) * 16;
        if (offset >= f.s.group_out) break;
        const int channel = group * f.s.group_out + offset;
        for (int r = 0; r < R && t0 + r < frames; ++r)
            f.row(sums[r * V + v], lane0 + v * 16, f.s.add < 0 ? nullptr : f.add.at(t0 + r, channel),
                  f.y.at(t0 + r, channel));
    }
}

// Narrow groups: lane l is channel l % group_out of frame t + l / group_out.
template <class Acc, int R, int V>
void finish_narrow(const Finish &f, const Acc *sums, int panel, int t0, int frames) {
    const int width = f.s.group_out, channel = panel * width, size = size_of(f.y.kind);
    const int other_size = size_of(f.add.kind);
    char other[16 * 4], row[16 * 4];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            const int start = t0 + r * f.s.phases;
            const int fits = 16 / width;  // whole frames per vector: the packer lets no frame straddle
            if (start + v * fits >= frames) continue;
            if (f.s.add >= 0)
                for (int p = 0; p < fits; ++p)
                    if (start + v * fits + p < frames)
                        std::memcpy(other + p * width * other_size, f.add.at(start + v * fits + p, channel),
                                    width * other_size);
            f.row(sums[r * V + v], (panel * V + v) * 16, f.s.add < 0 ? nullptr : other, row);
            for (int p = 0; p < fits && start + v * fits + p < frames; ++p) {
                char *out = f.y.at(start + v * fits + p, channel);
                if (width * size == 8) std::memcpy(out, row + p * 8, 8);
                else if (width * size == 16) std::memcpy(out, row + p * 16, 16);
                else std::memcpy(out, row + p * width * size, width * size);
            }
        }
}

template <class Dot, int R, int V>
void conv_panels(const Finish &f, int first, int last) {
    const StepSpec &s = f.s;
    std::vector<int32_t> offsets(s.words);
    const int size = size_of(f.x.kind);
    for (int k = 0; k < s.words; ++k) {
        const int c = s.word_channel[k];
        offsets[k] = (int32_t)(s.word_frame[k] * f.x.frame + (c >> 4) * f.x.block + (c & 15) * size);
    }
    const int tile = R * s.phases;
    alignas(64) typename Dot::Acc sums[R * V];
    for (int panel = 0; panel < s.panels; ++panel) {
        const char *w = s.weights + (size_t)panel * s.words * V * 64;
        const char *x = f.x.at(-(ptrdiff_t)s.pad, s.panel_channel[panel]);
        for (int t = first; t < last; t += tile) {
            micro<Dot, R, V>(x + (ptrdiff_t)t * s.stride * f.x.frame, s.phases * s.stride * f.x.frame,
                             offsets.data(), s.words, w, sums);
            if (std::is_same<Dot, DotU8>::value && f.plain)
                finish_ints<R, V>(f, sums, panel, t, last);
            else if (s.group_out < 16) finish_narrow<typename Dot::Acc, R, V>(f, sums, panel, t, last);
            else finish_wide<typename Dot::Acc, R, V>(f, sums, panel, t, last);
        }
    }
}

template <class Dot>
void conv_kind(const Finish &f, int first, int last) {
    if (f.s.vectors == 1) conv_panels<Dot, POSITIONS, 1>(f, first, last);
    else conv_panels<Dot, POSITIONS, 2>(f, first, last);
}

// Frames [first, last) of the output; last need not be a multiple of anything: buffers have slack to read.
inline void run_conv(const StepSpec &s, const View &x, const View &y, const View &add, int first, int last) {
    const Finish finish(s, x, y, add);
    if (s.compute == U8) conv_kind<DotU8>(finish, first, last);
    else if (s.compute == BF16) conv_kind<DotBf16>(finish, first, last);
    else conv_kind<DotF32>(finish, first, last);
}

}  // namespace rubicc
