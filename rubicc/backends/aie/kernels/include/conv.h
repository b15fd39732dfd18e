// Convolution over time, pointwise and dense layers: a block of frames at a time.
#pragma once

#include "blocks.h"

namespace rubicc {

// What a tile does with the sums of a convolution whose inputs are spread over a cascade of tiles.
enum class part { whole, first, middle, last };

// Spec holds: X, W, Y (types of values, weights, results); FRAMES of a block (a multiple of 16); GROUPS; IN: slots
// of a group's input; OUT: blocks of 8 output channels of a group; TAPS, DILATION; RELU; PERIOD, LENGTH, LAG;
// ROLE. Weights stand in the order of their use: group, output block, input slot, tap, then the right operand row
// by row. Output frame t is made of input frames t - REACH .. t: it comes REACH - (padding before) frames late.
template <class Spec>
class conv {
 public:
  using X = typename Spec::X;
  using W = typename Spec::W;
  using Y = typename Spec::Y;
  using unit = product<X, W>;
  using sums = typename unit::accum_type;

  static constexpr int FRAMES = Spec::FRAMES, IN = Spec::IN, OUT = Spec::OUT, TAPS = Spec::TAPS;
  static constexpr int REACH = Spec::DILATION * (TAPS - 1);
  static constexpr int BEFORE = (REACH + ROWS - 1) / ROWS * ROWS;  // frames kept, so that a block starts aligned
  static constexpr int PITCH = (BEFORE + FRAMES) * SLOT<X>;        // elements from slot to slot
  static constexpr int SLOTS = Spec::GROUPS * IN;
  static constexpr int OUT_PITCH = FRAMES * SLOT<Y>;
  static constexpr int SLOTS_OUT = COLUMNS / SLOT<Y>;
  static constexpr int AT_ONCE = 4;  // products of 4 frames each that share one load of weights
  static_assert(FRAMES % (ROWS * AT_ONCE) == 0);

  void whole(const X* x, Y* y, const W* weights, const int32* bias, const int* shift) {
    each(x, weights, [&](int o, int t, sums acc) { put(y, o, t, acc, shift); }, [&](int o, int) { return start(bias, o); });
  }
  template <class Out>
  void first(const X* x, Out* out, const W* weights, const int32* bias) {
    each(x, weights, [&](int, int, sums acc) { writeincr(out, acc); }, [&](int o, int) { return start(bias, o); });
  }
  template <class In, class Out>
  void middle(const X* x, In* in, Out* out, const W* weights) {
    each(x, weights, [&](int, int, sums acc) { writeincr(out, acc); }, [&](int, int) { return take(in); });
  }
  template <class In>
  void last(const X* x, In* in, Y* y, const W* weights, const int* shift) {
    each(x, weights, [&](int o, int t, sums acc) { put(y, o, t, acc, shift); }, [&](int, int) { return take(in); });
  }

 private:
  // Calls `end(block, frame, sums)` for every 4 frames of every output block, `begin` for what sums start from.
  template <class End, class Begin>
  void each(const X* x, const W* weights, End end, Begin begin) {
    set_modes();
    const X* rows = remember(x);
    const W* w = weights;
    for (int g = 0; g < Spec::GROUPS; ++g)
      for (int o = 0; o < OUT; ++o, w += IN * TAPS * unit::size_B)
        for (int t = 0; t < FRAMES; t += ROWS * AT_ONCE) four(rows + g * IN * pitch(), w, g * OUT + o, t, end, begin);
    forget();
  }

  template <class End, class Begin>
  inline void four(const X* rows, const W* w, int block, int t, End end, Begin begin) {
    unit acc[AT_ONCE] = {begin(block, t), begin(block, t + ROWS), begin(block, t + 2 * ROWS), begin(block, t + 3 * ROWS)};
    for (int i = 0; i < IN; ++i)
      for (int k = 0; k < TAPS; ++k) chess_prepare_for_pipelining {
        const auto b = aie::load_v<unit::size_B>(w);
        w += unit::size_B;
        const X* a = rows + i * pitch() + (t + (BEFORE - REACH) + k * Spec::DILATION) * SLOT<X>;
        for (int m = 0; m < AT_ONCE; ++m) acc[m].mac(left(a + m * ROWS * SLOT<X>), b);
      }
    for (int m = 0; m < AT_ONCE; ++m) end(block, t + m * ROWS, acc[m].to_accum());
  }

  static constexpr int pitch() { return TAPS > 1 ? PITCH : FRAMES * SLOT<X>; }

  // Without taps every operand is aligned; with them only to a slot.
  static inline auto left(const X* a) {
    if constexpr (TAPS > 1) return aie::load_unaligned_v<unit::size_A>(a, SLOT<X>);
    else return aie::load_v<unit::size_A>(a);
  }

  static inline sums start(const int32* bias, int o) {
    const auto row = aie::load_v<COLUMNS>(bias + o * COLUMNS);
    return sums(aie::concat(row, row, row, row));
  }
  template <class In>
  static inline sums take(In* in) { return readincr_v<ROWS * COLUMNS>(in); }

  static inline void put(Y* y, int o, int t, const sums& acc, const int* shift) {
    auto v = acc.template to_vector<Y>(shift[o]);
    if constexpr (Spec::RELU && std::is_signed_v<Y>) v = aie::max(v, Y(0));
    store(y + o * SLOTS_OUT * OUT_PITCH + t * SLOT<Y>, OUT_PITCH, v);
  }

  // Puts the block behind the frames kept of those before, blanked where it is no signal.
  const X* remember(const X* x) {
    if constexpr (TAPS == 1) return x;
    for (int s = 0; s < SLOTS; ++s)
      for (int t = 0; t < FRAMES; t += ROWS)
        aie::store_v(line_ + s * PITCH + (BEFORE + t) * SLOT<X>,
                     aie::load_v<ROWS * SLOT<X>>(x + (s * FRAMES + t) * SLOT<X>));
    if (!place_.whole()) place_.blank(line_ + BEFORE * SLOT<X>, SLOTS, PITCH);
    place_.next();
    return line_;
  }
  // Moves the last frames to the front, where the next block expects them.
  void forget() {
    if constexpr (TAPS > 1)
      for (int s = 0; s < SLOTS; ++s)
        for (int t = 0; t < BEFORE; t += ROWS)
          aie::store_v(line_ + s * PITCH + t * SLOT<X>,
                       aie::load_v<ROWS * SLOT<X>>(line_ + s * PITCH + (FRAMES + t) * SLOT<X>));
  }

  alignas(64) X line_[TAPS > 1 ? SLOTS * PITCH : 1] = {};
  sequences<FRAMES, Spec::PERIOD, Spec::LENGTH, Spec::LAG> place_;
};

}  // namespace rubicc
