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
    for (int o = 0; o < Spec::BLOCKS; ++o) {
      const A* from_a = late_a_.of(a, o);
      const B* from_b = late_b_.of(b, o);
      for (int t = 0; t < FRAMES; t += ROWS) {
        auto acc = sum(late_a_.load(from_a, t), Spec::LEFT_A);
        acc = aie::add(acc, sum(late_b_.load(from_b, t), Spec::LEFT_B));
        auto v = acc.template to_vector<Y>(Spec::SHIFT);
        if constexpr (Spec::RELU && std::is_signed_v<Y>) v = aie::max(v, Y(0));
        store(y + (o * (COLUMNS / SLOT<Y>) * FRAMES + t) * SLOT<Y>, FRAMES * SLOT<Y>, v);
      }
    }
  }

 private:
  template <class T>
  static inline auto sum(const aie::vector<T, ROWS * COLUMNS>& v, int left) {
    return aie::from_vector<acc32>(v, left);
  }

  // The frames of one input, DELAY frames late.
  template <class T, int DELAY>
  class late {
   public:
    static constexpr int PARTS = COLUMNS / SLOT<T>, KEPT = (DELAY + ROWS - 1) / ROWS * ROWS;
    static constexpr int PITCH = (KEPT + FRAMES) * SLOT<T>;
    const T* of(const T* x, int block) {
      x += block * PARTS * FRAMES * SLOT<T>;
      if constexpr (DELAY == 0) return x;
      for (int p = 0; p < PARTS; ++p) {
        T* line = line_ + p * PITCH;
        T* kept = kept_ + (block * PARTS + p) * KEPT * SLOT<T>;
        move(line, kept, KEPT);
        move(line + KEPT * SLOT<T>, x + p * FRAMES * SLOT<T>, FRAMES);
        move(kept, line + FRAMES * SLOT<T>, KEPT);
      }
      return line_;
    }
    aie::vector<T, ROWS * COLUMNS> load(const T* from, int t) const {
      constexpr int pitch = DELAY ? PITCH : FRAMES * SLOT<T>;
      const T* at = from + (t + KEPT - DELAY) * SLOT<T>;
      if constexpr (PARTS == 1) return aie::load_unaligned_v<ROWS * COLUMNS>(at, SLOT<T>);
      else {
        const auto low = aie::load_unaligned_v<ROWS * SLOT<T>>(at, SLOT<T>);
        const auto high = aie::load_unaligned_v<ROWS * SLOT<T>>(at + pitch, SLOT<T>);
        const auto [one, two] = aie::interleave_zip(low, high, SLOT<T>);
        return aie::concat(one, two);
      }
    }

   private:
    static void move(T* to, const T* from, int frames) {
      for (int t = 0; t < frames; t += ROWS) aie::store_v(to + t * SLOT<T>, aie::load_v<ROWS * SLOT<T>>(from + t * SLOT<T>));
    }
    alignas(64) T line_[DELAY ? PARTS * PITCH : 1] = {};
    alignas(64) T kept_[DELAY ? Spec::BLOCKS * PARTS * KEPT * SLOT<T> : 1] = {};
  };

  late<A, Spec::DELAY_A> late_a_;
  late<B, Spec::DELAY_B> late_b_;
};

// entry[index] for the index v rounded and saturated to BITS bits after SHIFT bits are dropped; tables start at the
// least index.
template <int BITS, int SHIFT, class Y>
struct lookup {
  static constexpr int HALF = 1 << (BITS - 1);
  template <unsigned N>
  static inline void index(const aie::vector<int16, N>& v, int16* at) {
    auto i = aie::from_vector<acc32>(v, 0).template to_vector<int16>(SHIFT);
    i = aie::max(aie::min(i, int16(HALF - 1)), int16(-HALF));
    aie::store_v(at, aie::add(i, int16(HALF)));
  }
  // The table is read element by element: the scalar unit does one of them per load.
  template <unsigned N>
  static inline aie::vector<Y, N> of(const aie::vector<int16, N>& v, const Y* table) {
    alignas(64) int16 at[N];
    alignas(64) Y found[N];
    index(v, at);
    for (unsigned i = 0; i < N; ++i) found[i] = table[at[i]];
    return aie::load_v<N>(found);
  }
};

// A function of every value. Spec holds X, Y, FRAMES, SLOTS (of the input), BITS, SHIFT.
template <class Spec>
class table {
 public:
  using X = typename Spec::X;
  using Y = typename Spec::Y;
  static constexpr int FRAMES = Spec::FRAMES, COUNT = Spec::SLOTS * FRAMES * SLOT<X>;

  void whole(const X* x, Y* y, const Y* entries) {
    for (int slot = 0; slot < Spec::SLOTS; ++slot)
      for (int t = 0; t < FRAMES; ++t)
        for (int c = 0; c < SLOT<X>; ++c) {
          const int channel = slot * SLOT<X> + c;
          y[(channel / SLOT<Y> * FRAMES + t) * SLOT<Y> + channel % SLOT<Y>] =
              entries[place(x[(slot * FRAMES + t) * SLOT<X> + c])];
        }
  }

 private:
  // Half to even, as the vector units do it; then saturated to BITS bits, counted from the least index.
  static inline int place(int v) {
    constexpr int half = 1 << (Spec::BITS - 1);
    if constexpr (Spec::SHIFT > 0) {
      const int low = v & ((1 << Spec::SHIFT) - 1), tie = 1 << (Spec::SHIFT - 1);
      v >>= Spec::SHIFT;
      v += low > tie || (low == tie && (v & 1));
    }
    return (v >= half ? half - 1 : v < -half ? -half : v) + half;
  }
};

}  // namespace rubicc
