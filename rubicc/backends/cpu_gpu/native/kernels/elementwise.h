// Steps without weights.
#pragma once

#include <algorithm>
#include <vector>

#include "view.h"

namespace rubicc {

// Frames of a single channel side by side, as samples are.
inline bool is_row(const View &v) { return v.frame == size_of(v.kind); }

inline void run_elementwise(const StepSpec &s, const View &x, const View &y, const View &add, int first,
                            int last) {
    if (x.channels == 1) {
        // Sixteen frames at once where all lie side by side, else one whose other lanes become those of zero.
        const bool rows = is_row(x) && is_row(y) && (s.add < 0 || is_row(add));
        for (int t = first; t < last; t += rows ? 16 : 1) {
            char from[64] = {}, other[64] = {}, row[64];
            const int n = rows ? std::min(16, last - t) : 1;
            std::memcpy(from, x.at(t, 0), n * size_of(x.kind));
            f16v v = load16(x, from);
            if (s.add >= 0) {
                std::memcpy(other, add.at(t, 0), n * size_of(add.kind));
                v = v + load16(add, other);
            }
            for (int i = 0; i < s.activations; ++i) v = apply(s.functions[i], v);
            store16(y, row, v);
            std::memcpy(y.at(t, 0), row, (is_row(y) ? n : 16) * size_of(y.kind));
        }
        return;
    }
    for (int c = 0; c < y.channels; c += 16)
        for (int t = first; t < last; ++t) {
            f16v v = load16(x, x.at(t, c));
            if (s.add >= 0) v = v + load16(add, add.at(t, c));
            for (int i = 0; i < s.activations; ++i) v = apply(s.functions[i], v);
            store16(y, y.at(t, c), v);
        }
}

inline void run_gather(const StepSpec &s, const View &x, const View &y, int first, int last) {
    const int wide = (x.channels + 15) / 16 * 16;
    std::vector<float> row(wide), out((y.channels + 15) / 16 * 16, 0.0f);
    for (int t = first; t < last; ++t) {
        for (int c = 0; c < x.channels; c += 16) store(&row[c], load16(x, x.at(t, c)));
        for (int c = 0; c < y.channels; ++c) out[c] = s.index[c] < 0 ? (float)s.constant : row[s.index[c]];
        for (int c = 0; c < y.channels; c += 16) store16(y, y.at(t, c), load<f16v>(&out[c]));
    }
}

inline void run_log_softmax(const View &x, const View &y, int first, int last) {
    const int wide = (x.channels + 15) / 16 * 16;
    std::vector<float> row(wide);
    for (int t = first; t < last; ++t) {
        for (int c = 0; c < x.channels; c += 16) store(&row[c], load16(x, x.at(t, c)));
        float top = row[0];
        for (int c = 1; c < x.channels; ++c) top = std::max(top, row[c]);
        float sum = 0.0f;
        for (int c = 0; c < x.channels; ++c) sum += std::exp(row[c] - top);
        const float shift = top + std::log(sum);
        for (int c = 0; c < x.channels; c += 16) store16(y, y.at(t, c), load<f16v>(&row[c]) - shift);
    }
}

}  // namespace rubicc
