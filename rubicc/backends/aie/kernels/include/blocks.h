// How rubicc's kernels see data: blocks of frames in slots of 8 bytes.
//
// A buffer holds [channel block][frame][8 bytes]: a channel block is 8 channels of 8 bits or 4 of 16. Four
// frames of one are the left operand of a matrix unit; a slice of channel blocks is contiguous.
#pragma once

#include <adf.h>
#include <aie_api/aie.hpp>

namespace rubicc {

constexpr int SLOT_BYTES = 8;
constexpr int ROWS = 4;     // frames of one matrix product
constexpr int COLUMNS = 8;  // output channels of one matrix product

template <class T>
constexpr int SLOT = SLOT_BYTES / int(sizeof(T));  // channels in a slot

// The matrix product for values X and weights W: 4 frames x one slot of channels x 8 output channels.
template <class X, class W>
using product = aie::mmul<ROWS, SLOT<X>, COLUMNS, X, W>;

inline void set_modes() {
  aie::set_rounding(aie::rounding_mode::conv_even);
  aie::set_saturation(aie::saturation_mode::saturate);
}

// Stores 4 frames x 8 channels; 16-bit channels fill two slots, which lie `pitch` elements apart.
template <class Y>
inline void store(Y* y, int pitch, const aie::vector<Y, ROWS * COLUMNS>& v) {
  if constexpr (SLOT<Y> == COLUMNS) {
    aie::store_v(y, v);
  } else {
    aie::store_v(y, aie::filter_even(v, SLOT<Y>));
    aie::store_v(y + pitch, aie::filter_odd(v, SLOT<Y>));
  }
}

// Loads 4 frames x 8 channels of 16 bits from two slots.
inline aie::vector<int16, ROWS * COLUMNS> load_wide(const int16* x, int pitch) {
  const auto low = aie::load_v<ROWS * SLOT<int16>>(x);
  const auto high = aie::load_v<ROWS * SLOT<int16>>(x + pitch);
  const auto [first, second] = aie::interleave_zip(low, high, SLOT<int16>);
  return aie::concat(first, second);
}

// Copies FRAMES frames of `slots` slots, which lie `to_pitch` and `from_pitch` elements apart: one loop for all of them,
// so that its pipeline fills once.
template <int FRAMES, class T>
inline void move(T* to, int to_pitch, const T* from, int from_pitch, int slots) {
  constexpr int STEP = ROWS * SLOT<T>, LAST = FRAMES / ROWS - 1;
  int at = 0;
  for (int n = 0; n < slots * (LAST + 1); ++n) chess_prepare_for_pipelining {
    aie::store_v(to, aie::load_v<STEP>(from));
    const bool turn = at == LAST;
    at = turn ? 0 : at + 1;
    to += turn ? to_pitch - LAST * STEP : STEP;
    from += turn ? from_pitch - LAST * STEP : STEP;
  }
}

// Sequences of LENGTH frames follow each other every PERIOD frames; a layer sees them LAG frames late.
// The frames between them are no signal: whoever looks at neighbouring frames blanks them first, which is the
// zero padding at both ends of every sequence.
template <int FRAMES, int PERIOD, int LENGTH, int LAG>
class sequences {
 public:
  // Blanks what is no signal among FRAMES frames of `slots` slots that lie `pitch` elements apart.
  template <class T>
  void blank(T* x, int slots, int pitch) {
    for (int f = 0; f < FRAMES; ++f) {
      int at = first_ + f;
      if (at >= PERIOD) at -= PERIOD;
      if (at < LENGTH) continue;
      for (int s = 0; s < slots; ++s)
        for (int c = 0; c < SLOT<T>; ++c) x[s * pitch + f * SLOT<T> + c] = 0;
    }
  }
  // Whether every frame of this block is signal.
  bool whole() const { return first_ + FRAMES <= LENGTH; }
  void next() {
    first_ += FRAMES;
    if (first_ >= PERIOD) first_ -= PERIOD;
  }

 private:
  static_assert(FRAMES <= PERIOD && LENGTH <= PERIOD && LAG >= 0);
  int first_ = (PERIOD - LAG % PERIOD) % PERIOD;
};

}  // namespace rubicc
