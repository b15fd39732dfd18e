// Convolution over time, pointwise and dense layers on a share of the channels and taps: a block of frames at a time.
#pragma once

#include "blocks.h"

namespace rubicc {

// Spec holds: X, M, W, Y (types of values as they come, as they are multiplied, of weights, of results), SUM (acc32 or
// acc64); FRAMES of a block (a multiple of 16); GROUPS; IN: slots of M of a group's input; OUT: blocks of 8 output
// channels of a group; FIRST, TAPS: taps of this tile; REACH: frames kept; DILATION; RELU; PERIOD, LENGTH, LAG;
// SLOTS: slots of X in the results' buffer are OUT_SLOTS. Weights stand in the order of their use: group, output block,
// input slot, tap, then the right operand row by row.
template <class Spec>
class convolve {
 public:
  using X = typename Spec::X;
  using M = typename Spec::M;
  using W = typename Spec::W;
  using Y = typename Spec::Y;
  using unit = aie::mmul<ROWS, SLOT<M>, COLUMNS, M, W, typename Spec::SUM>;
  using sums = typename unit::accum_type;

  static constexpr int FRAMES = Spec::FRAMES, IN = Spec::IN, OUT = Spec::OUT, TAPS = Spec::TAPS;
  static constexpr int WIDER = SLOT<X> / SLOT<M>;  // slots of M that one slot of X becomes
  static constexpr int BEFORE = (Spec::REACH + ROWS - 1) / ROWS * ROWS;  // kept, so that a block starts aligned
  static constexpr bool KEPT = Spec::REACH > 0 || WIDER > 1 || Spec::PORTS > 1;
  static constexpr int PITCH = (BEFORE + FRAMES) * SLOT<M>;  // elements from slot to slot
  static constexpr int SLOTS = Spec::GROUPS * IN;
  static constexpr int OUT_PITCH = FRAMES * SLOT<Y>;
  static constexpr int SLOTS_OUT = COLUMNS / SLOT<Y>;
  static constexpr int AT_ONCE = 4;  // products of 4 frames each that share one load of weights
  static_assert(FRAMES % (ROWS * AT_ONCE) == 0);

  // `count` slots of X from a port become the slots from `first` on.
  void take(const X* x, int first, int count) {
    if constexpr (!KEPT) {
      direct_ = reinterpret_cast<const M*>(x);
    } else {
      for (int s = 0; s < count; ++s)
        for (int t = 0; t < FRAMES; t += ROWS) {
          const auto v = aie::load_v<ROWS * SLOT<X>>(x + (s * FRAMES + t) * SLOT<X>);
          M* to = line_ + (first + s) * WIDER * PITCH + (BEFORE + t) * SLOT<M>;
          if constexpr (WIDER == 1) {
            aie::store_v(to, v);
          } else {
            const auto w = aie::from_vector<acc32>(v, 0).template to_vector<M>(0);
            aie::store_v(to, aie::filter_even(w, SLOT<M>));
            aie::store_v(to + PITCH, aie::filter_odd(w, SLOT<M>));
          }
        }
    }
  }

  void whole(Y* y, const W* weights, const int32* bias, const int* shift) {
    each(weights, [&](int o, int t, sums acc) { put(y, o, t, acc, shift); }, [&](int o) { return start(bias, o); });
  }
  template <class Out>
  void first(Out* out, const W* weights, const int32* bias) {
    each(weights, [&](int, int, sums acc) { writeincr(out, acc); }, [&](int o) { return start(bias, o); });
  }
  template <class In, class Out>
  void middle(In* in, Out* out, const W* weights) {
    each(weights, [&](int, int, sums acc) { writeincr(out, acc); }, [&](int) { return from(in); });
  }
  template <class In>
  void last(In* in, Y* y, const W* weights, const int* shift) {
    each(weights, [&](int o, int t, sums acc) { put(y, o, t, acc, shift); }, [&](int) { return from(in); });
  }

 private:
  // Calls `end(block, frame, sums)` for every 4 frames of every output block, `begin` for what sums start from.
  template <class End, class Begin>
  void each(const W* weights, End end, Begin begin) {
    set_modes();
    const M* rows = line_;
    if constexpr (!KEPT) rows = direct_;
    else if constexpr (Spec::REACH > 0) {
      if (!place_.whole()) place_.blank(line_ + BEFORE * SLOT<M>, SLOTS, PITCH);
      place_.next();
    }
    const W* w = weights;
    for (int g = 0; g < Spec::GROUPS; ++g)
      for (int o = 0; o < OUT; ++o, w += IN * TAPS * unit::size_B)
        for (int t = 0; t < FRAMES; t += ROWS * AT_ONCE) four(rows + g * IN * pitch(), w, g * OUT + o, t, end, begin);
    if constexpr (Spec::REACH > 0) forget();
  }

  template <class End, class Begin>
  inline void four(const M* rows, const W* w, int block, int t, End end, Begin begin) {
    unit a0(begin(block)), a1(begin(block)), a2(begin(block)), a3(begin(block));
    for (int i = 0; i < IN; ++i)
      for (int k = 0; k < TAPS; ++k) chess_prepare_for_pipelining {
        const auto b = aie::load_v<unit::size_B>(w);
        w += unit::size_B;
        const M* a = rows + i * pitch() + (t + (BEFORE - Spec::REACH) + (Spec::FIRST + k) * Spec::DILATION) * SLOT<M>;
        a0.mac(left(a), b);
        a1.mac(left(a + ROWS * SLOT<M>), b);
        a2.mac(left(a + 2 * ROWS * SLOT<M>), b);
        a3.mac(left(a + 3 * ROWS * SLOT<M>), b);
      }
    end(block, t, a0.to_accum());
    end(block, t + ROWS, a1.to_accum());
    end(block, t + 2 * ROWS, a2.to_accum());
    end(block, t + 3 * ROWS, a3.to_accum());
  }

  static constexpr int pitch() { return KEPT ? PITCH : FRAMES * SLOT<M>; }

  // Without neighbouring frames every operand is aligned; with them only to a slot.
  static inline auto left(const M* a) {
    if constexpr (Spec::REACH > 0) return aie::load_unaligned_v<unit::size_A>(a, SLOT<M>);
    else return aie::load_v<unit::size_A>(a);
  }

  static inline sums start(const int32* bias, int o) {
    const auto row = aie::load_v<COLUMNS>(bias + o * COLUMNS);
    return aie::from_vector<typename Spec::SUM>(aie::concat(row, row, row, row), 0);
  }
  template <class In>
  static inline sums from(In* in) { return readincr_v<ROWS * COLUMNS>(in); }

  static inline void put(Y* y, int o, int t, const sums& acc, const int* shift) {
    auto v = acc.template to_vector<Y>(shift[o]);
    if constexpr (Spec::RELU && std::is_signed_v<Y>) v = aie::max(v, Y(0));
    store(y + o * SLOTS_OUT * OUT_PITCH + t * SLOT<Y>, OUT_PITCH, v);
  }

  // Moves the last frames to the front, where the next block expects them.
  void forget() {
    for (int s = 0; s < SLOTS; ++s)
      for (int t = 0; t < BEFORE; t += ROWS)
        aie::store_v(line_ + s * PITCH + t * SLOT<M>,
                     aie::load_v<ROWS * SLOT<M>>(line_ + s * PITCH + (FRAMES + t) * SLOT<M>));
  }

  alignas(64) M line_[KEPT ? SLOTS * PITCH : 1] = {};
  const M* direct_ = nullptr;
  sequences<FRAMES, Spec::PERIOD, Spec::LENGTH, Spec::LAG> place_;
};

}  // namespace rubicc
