// Convolution over time, pointwise and dense layers on a share of the channels and taps: a block of frames at a time.
#pragma once

#include "blocks.h"

namespace rubicc {

// Spec holds: X, M, W, Y (types of values as they come, as they are multiplied, of weights, of results), SUM (acc32 or
// acc64); FRAMES of a block (a multiple of 16); GROUPS; IN: slots of M of a group's input; OUT: blocks of 8 output
// channels of a group; FIRST, TAPS: taps of this tile (FIRST is negative where zero taps stand in front); REACH: frames
// kept; DILATION; RELU; PERIOD, LENGTH, LAG; PORTS: input buffers. Weights stand in the order of their use: group,
// output block, input slot, tap, then the right operand row by row.
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
      M* to = line_ + first * WIDER * PITCH + BEFORE * SLOT<M>;
      if constexpr (WIDER == 1) move<FRAMES>(to, PITCH, x, FRAMES * SLOT<X>, count);
      else widen(to, x, count);
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
  static constexpr int START = BEFORE - Spec::REACH + Spec::FIRST * Spec::DILATION;  // first frame of a block's sums
  // Taps at every frame: four of them share five aligned loads. Zero taps in front make the first one aligned.
  static constexpr bool SLIDES = Spec::REACH > 0 && Spec::DILATION == 1;
  static constexpr bool ALIGNED = START % ROWS == 0 && (TAPS == 1 || Spec::DILATION % ROWS == 0);
  static_assert(START >= 0 && (!SLIDES || START % ROWS == 0));
  // Output blocks that share every load of data: as many as the accumulators hold.
  static constexpr int WIDE = OUT > 1 && std::is_same_v<typename Spec::SUM, acc32> ? 2 : 1;
  static constexpr int FAR = IN * TAPS * unit::size_B;  // weights from output block to output block
  using left = aie::vector<M, unit::size_A>;

  // The sums of 16 frames of an output block.
  struct quad {
    unit a, b, c, d;
    template <class Begin>
    quad(Begin begin, int o) : a(begin(o)), b(begin(o)), c(begin(o)), d(begin(o)) {}
    inline void mac(const left& v0, const left& v1, const left& v2, const left& v3, const W* w) {
      const auto right = aie::load_v<unit::size_B>(w);
      a.mac(v0, right);
      b.mac(v1, right);
      c.mac(v2, right);
      d.mac(v3, right);
    }
    template <class End>
    inline void finish(End end, int o, int t) {
      end(o, t, a.to_accum());
      end(o, t + ROWS, b.to_accum());
      end(o, t + 2 * ROWS, c.to_accum());
      end(o, t + 3 * ROWS, d.to_accum());
    }
  };

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
    for (int g = 0; g < Spec::GROUPS; ++g) {
      const M* from = rows + g * IN * pitch();
      const W* w = weights + g * OUT * FAR;
      int o = 0;
      if constexpr (WIDE == 2)
        for (; o + 1 < OUT; o += 2)
          for (int t = 0; t < FRAMES; t += ROWS * AT_ONCE) {
            quad one(begin, g * OUT + o), two(begin, g * OUT + o + 1);
            multiply(from, w + o * FAR, t, one, two);
            one.finish(end, g * OUT + o, t);
            two.finish(end, g * OUT + o + 1, t);
          }
      if constexpr (OUT % WIDE || WIDE == 1)
        for (; o < OUT; ++o)
          for (int t = 0; t < FRAMES; t += ROWS * AT_ONCE) {
            quad one(begin, g * OUT + o);
            multiply(from, w + o * FAR, t, one);
            one.finish(end, g * OUT + o, t);
          }
    }
    if constexpr (Spec::REACH > 0) forget();
  }

  // Slots of X become slots of M of half as many channels.
  static void widen(M* to, const X* x, int count) {
    for (int s = 0; s < count; ++s, to += WIDER * PITCH)
      for (int t = 0; t < FRAMES; t += ROWS) chess_prepare_for_pipelining {
        const auto v = aie::from_vector<acc32>(aie::load_v<ROWS * SLOT<X>>(x), 0).template to_vector<M>(0);
        aie::store_v(to + t * SLOT<M>, aie::filter_even(v, SLOT<M>));
        aie::store_v(to + PITCH + t * SLOT<M>, aie::filter_odd(v, SLOT<M>));
        x += ROWS * SLOT<X>;
      }
  }

  // Every tap of every input slot, for 16 frames of the output blocks `q`.
  template <class... Q>
  static inline void multiply(const M* rows, const W* w, int t, Q&... q) {
    const M* a = rows + (t + START) * SLOT<M>;
    if constexpr (SLIDES) {
      constexpr int FOURS = TAPS / ROWS, REST = TAPS % ROWS;
      if constexpr (FOURS > 0)
        walk<FOURS, unit::size_A, ROWS * unit::size_B>(a, w, [&](const M* x, const W* y) { slide<ROWS>(x, y, q...); });
      if constexpr (REST > 0)
        walk<1, 0, 0>(a + FOURS * unit::size_A, w + FOURS * ROWS * unit::size_B,
                      [&](const M* x, const W* y) { slide<REST>(x, y, q...); });
    } else {
      walk<TAPS, Spec::DILATION * SLOT<M>, unit::size_B>(a, w, [&](const M* x, const W* y) {
        step(load(x), load(x + unit::size_A), load(x + 2 * unit::size_A), load(x + 3 * unit::size_A), y, q...);
      });
    }
  }

  // STEPS steps in each of the input slots, as one loop, so that its pipeline fills once: data moves by A elements and
  // weights by B from step to step, then both go to the next slot.
  template <int STEPS, int A, int B, class Body>
  static inline void walk(const M* a, const W* w, Body body) {
    constexpr int LAST = STEPS - 1;
    int at = 0;
    for (int n = 0; n < IN * STEPS; ++n) chess_prepare_for_pipelining {
      body(a, w);
      const bool turn = at == LAST;
      at = turn ? 0 : at + 1;
      a += turn ? pitch() - LAST * A : A;
      w += turn ? TAPS * unit::size_B - LAST * B : B;
    }
  }

  // One tap: 16 frames with the right operands of every output block.
  template <class... Q>
  static inline void step(const left& v0, const left& v1, const left& v2, const left& v3, const W* w, Q&... q) {
    int o = 0;
    (q.mac(v0, v1, v2, v3, w + FAR * o++), ...);
  }

  // N taps, the first one at an aligned frame.
  template <int N, class... Q>
  static inline void slide(const M* a, const W* w, Q&... q) {
    const left v0 = aie::load_v<unit::size_A>(a), v1 = aie::load_v<unit::size_A>(a + unit::size_A);
    const left v2 = aie::load_v<unit::size_A>(a + 2 * unit::size_A), v3 = aie::load_v<unit::size_A>(a + 3 * unit::size_A);
    step(v0, v1, v2, v3, w, q...);
    if constexpr (N > 1) {
      const left v4 = aie::load_v<unit::size_A>(a + 4 * unit::size_A);
      const auto x = aie::concat(v0, v1), y = aie::concat(v2, v3), z = aie::concat(v4, v4);
      later<1>(x, y, z, w, q...);
      if constexpr (N > 2) later<2>(x, y, z, w, q...);
      if constexpr (N > 3) later<3>(x, y, z, w, q...);
    }
  }

  // The tap BY frames behind the first one of its four.
  template <int BY, class V, class... Q>
  static inline void later(const V& x, const V& y, const V& z, const W* w, Q&... q) {
    const V one = aie::shuffle_down_fill(x, y, BY * SLOT<M>), two = aie::shuffle_down_fill(y, z, BY * SLOT<M>);
    step(one.template extract<unit::size_A>(0), one.template extract<unit::size_A>(1),
         two.template extract<unit::size_A>(0), two.template extract<unit::size_A>(1), w + BY * unit::size_B, q...);
  }

  static constexpr int pitch() { return KEPT ? PITCH : FRAMES * SLOT<M>; }

  static inline left load(const M* a) {
    if constexpr (ALIGNED) return aie::load_v<unit::size_A>(a);
    else return aie::load_unaligned_v<unit::size_A>(a, SLOT<M>);
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
  void forget() { move<BEFORE>(line_, PITCH, line_ + FRAMES * SLOT<M>, PITCH, SLOTS); }

  alignas(64) M line_[KEPT ? SLOTS * PITCH : 1] = {};
  const M* direct_ = nullptr;
  sequences<FRAMES, Spec::PERIOD, Spec::LENGTH, Spec::LAG> place_;
};

}  // namespace rubicc
