// Sums of two tensors and functions by table.
#pragma once

#include "blocks.h"

namespace rubicc {

// (a << LEFT_A) + (b << LEFT_B), rounded and saturated after SHIFT bits are dropped. DELAY_A, DELAY_B: frames that
// an input comes early and waits for the other. Spec holds A, B, Y, FRAMES, BLOCKS (of 8 channels), RELU besides.
template <class Spec>
class add {
 public:
  using A = typename Spec::A;
  using B = typename Spec::B;
  using Y = typename Spec::Y;
  static constexpr int FRAMES = Spec::FRAMES;

  void whole(const A* a, const B* b, Y* y) {
    set_modes();
    late_a_.take(a);
    late_b_.take(b);
    for (int o = 0; o < Spec::BLOCKS; ++o)
      for (int t = 0; t < FRAMES; t += ROWS) chess_prepare_for_pipelining {
        auto acc = aie::from_vector<acc32>(late_a_.load(o, t), Spec::LEFT_A);
        acc = aie::add(acc, aie::from_vector<acc32>(late_b_.load(o, t), Spec::LEFT_B));
        auto v = acc.template to_vector<Y>(Spec::SHIFT);
        if constexpr (Spec::RELU && std::is_signed_v<Y>) v = aie::max(v, Y(0));
        store(y + (o * (COLUMNS / SLOT<Y>) * FRAMES + t) * SLOT<Y>, FRAMES * SLOT<Y>, v);
      }
    late_a_.forget();
    late_b_.forget();
  }

 private:
  // One input, DELAY frames late.
  template <class T, int DELAY>
  class late {
   public:
    static constexpr int PARTS = COLUMNS / SLOT<T>, SLOTS = Spec::BLOCKS * PARTS;
    static constexpr int KEPT = (DELAY + ROWS - 1) / ROWS * ROWS, PITCH = (KEPT + FRAMES) * SLOT<T>;
    void take(const T* x) {
      if constexpr (DELAY == 0) direct_ = x;
      else move<FRAMES>(line_ + KEPT * SLOT<T>, PITCH, x, FRAMES * SLOT<T>, SLOTS);
    }
    void forget() {
      if constexpr (DELAY > 0) move<KEPT>(line_, PITCH, line_ + FRAMES * SLOT<T>, PITCH, SLOTS);
    }
    aie::vector<T, ROWS * COLUMNS> load(int block, int t) const {
      const T* at = direct_;
      if constexpr (DELAY > 0) at = line_;
      at += block * PARTS * PITCH + (t + KEPT - DELAY) * SLOT<T>;
      if constexpr (PARTS == 1) {
        return piece(at);
      } else {
        const auto [one, two] = aie::interleave_zip(piece(at), piece(at + PITCH), SLOT<T>);
        return aie::concat(one, two);
      }
    }

   private:
    static inline aie::vector<T, ROWS * SLOT<T>> piece(const T* at) {
      if constexpr (DELAY % ROWS == 0) return aie::load_v<ROWS * SLOT<T>>(at);
      else return aie::load_unaligned_v<ROWS * SLOT<T>>(at, SLOT<T>);
    }
    const T* direct_ = nullptr;
    alignas(64) T line_[DELAY ? SLOTS * PITCH : 1] = {};
  };

  late<A, Spec::DELAY_A> late_a_;
  late<B, Spec::DELAY_B> late_b_;
};

// entry[index] for the index v rounded and saturated to BITS bits after SHIFT bits are dropped; tables start at the
// least index.
template <int BITS, int SHIFT, class Y>
struct lookup {
  static constexpr int HALF = 1 << (BITS - 1);
  template <class V>
  static inline auto index(const V& v) {
    auto i = aie::from_vector<acc32>(v, 0).template to_vector<int16>(SHIFT);
    i = aie::max(aie::min(i, int16(HALF - 1)), int16(-HALF));
    return aie::add(i, int16(HALF));
  }
  // The table is read element by element: the scalar unit loads an index, loads its entry and stores it.
  template <unsigned N>
  static inline aie::vector<Y, N> of(const aie::vector<int16, N>& v, const Y* table) {
    alignas(64) int16 at[N];
    alignas(64) Y found[N];
    aie::store_v(at, index(v));
    for (unsigned i = 0; i < N; ++i) chess_prepare_for_pipelining found[i] = table[at[i]];
    return aie::load_v<N>(found);
  }
};

// A function of every value. Spec holds X, Y, FRAMES, SLOTS (of the input), BITS, SHIFT. Vectors make the indices of a
// line, laid out as its results are; then the scalar unit reads the table.
template <class Spec>
class table {
 public:
  using X = typename Spec::X;
  using Y = typename Spec::Y;
  static constexpr int FRAMES = Spec::FRAMES;
  static constexpr bool JOINS = SLOT<X> < SLOT<Y>, SPLITS = SLOT<X> > SLOT<Y>;  // two slots become one, or one two
  static constexpr int WIDTH = JOINS ? SLOT<Y> : SLOT<X>, LINES = (Spec::SLOTS + JOINS) / (1 + JOINS);

  void whole(const X* x, Y* y, const Y* entries) {
    set_modes();
    for (int line = 0; line < LINES; ++line) {
      for (int t = 0; t < FRAMES; t += ROWS) chess_prepare_for_pipelining {
        const auto i = lookup<Spec::BITS, Spec::SHIFT, Y>::index(values(x + t * SLOT<X>, line));
        if constexpr (SPLITS) store(at_ + t * SLOT<Y>, FRAMES * SLOT<Y>, i);
        else aie::store_v(at_ + t * WIDTH, i);
      }
      for (int n = 0; n < FRAMES * WIDTH; ++n) chess_prepare_for_pipelining y[n] = entries[at_[n]];
      x += (1 + JOINS) * FRAMES * SLOT<X>;
      y += FRAMES * WIDTH;
    }
  }

 private:
  // 4 frames of a line; a slot that has no second one stands for both, and nobody reads what comes of it.
  static inline auto values(const X* x, int line) {
    if constexpr (JOINS) return load_wide(x, 2 * line + 1 < Spec::SLOTS ? FRAMES * SLOT<X> : 0);
    else return aie::load_v<ROWS * SLOT<X>>(x);
  }
  alignas(64) int16 at_[FRAMES * WIDTH] = {};
};

}  // namespace rubicc
