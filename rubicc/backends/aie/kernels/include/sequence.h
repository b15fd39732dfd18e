// Layer normalisation of a frame, and attention of a whole sequence.
#pragma once

#include "blocks.h"

namespace rubicc {

constexpr int RECIPROCAL = 30;   // bits of a reciprocal
constexpr int NORM_BITS = 11;    // behind the point of a normalised value
constexpr int LANES = ROWS * COLUMNS;

// The largest r with r * r <= v, bit by bit.
inline int32 root(int32 v) {
  uint32 rest = v, r = 0;
  for (uint32 bit = 1u << 30; bit; bit >>= 2) {
    const uint32 next = r + bit;
    r >>= 1;
    if (rest >= next) {
      rest -= next;
      r += bit;
    }
  }
  return r;
}

// Eight numbers of a channel block, the same for four frames.
template <class T>
inline aie::vector<T, LANES> for_all_rows(const T* x) {
  const auto row = aie::load_v<COLUMNS>(x);
  return aie::concat(row, row, row, row);
}

// Four numbers, one for each frame of a product.
template <class T>
struct by_row {
  alignas(64) T all[LANES];
  void set(int row, T v) { aie::store_v(all + row * COLUMNS, aie::broadcast<T, COLUMNS>(v)); }
  aie::vector<T, LANES> get() const { return aie::load_v<LANES>(all); }
};

// a * b rounded and saturated to 16 bits after SHIFT bits are dropped; the accumulators hold half of it at a time.
template <int SHIFT>
inline aie::vector<int16, LANES> scaled(const aie::vector<int32, LANES>& a, const aie::vector<int32, LANES>& b) {
  const auto half = [&](int i) {
    return aie::mul<acc64>(a.template extract<LANES / 2>(i), b.template extract<LANES / 2>(i))
        .template to_vector<int16>(SHIFT);
  };
  return aie::concat(half(0), half(1));
}

template <class T>
inline aie::vector<int32, LANES> wide(const aie::vector<T, LANES>& v) {
  return aie::from_vector<acc32>(v, 0).template to_vector<int32>(0);
}

// Spec holds X, Y, FRAMES, BLOCKS (of 8 channels), MEAN (2**15 / channels), FINER (bits of a mean below the step of X),
// SPREAD (bits dropped of sums of squares), FLOOR (added to them), SHIFT.
template <class Spec>
class norm {
 public:
  using X = typename Spec::X;
  using Y = typename Spec::Y;
  static constexpr int FRAMES = Spec::FRAMES, BLOCKS = Spec::BLOCKS;

  void whole(const X* x, Y* y, const int16* gain, const int32* offset) {
    set_modes();
    for (int t = 0; t < FRAMES; t += ROWS) {
      const auto mean = means(x, t);
      squares(x, t, mean);
      const auto inverse = aie::load_v<LANES>(inverse_.all);
      for (int o = 0; o < BLOCKS; ++o) chess_prepare_for_pipelining {
        const auto normal = scaled<RECIPROCAL - NORM_BITS>(wide(aie::load_v<LANES>(away_ + o * LANES)), inverse);
        auto acc = aie::from_vector<acc32>(for_all_rows(offset + o * COLUMNS), 0);
        acc = aie::mac(acc, normal, for_all_rows(gain + o * COLUMNS));
        store(y + (o * (COLUMNS / SLOT<Y>) * FRAMES + t) * SLOT<Y>, FRAMES * SLOT<Y>,
              acc.template to_vector<Y>(Spec::SHIFT));
      }
    }
  }

 private:
  static inline aie::vector<X, LANES> values(const X* x, int o, int t) {
    const X* at = x + (o * (COLUMNS / SLOT<X>) * FRAMES + t) * SLOT<X>;
    if constexpr (SLOT<X> == COLUMNS) return aie::load_v<LANES>(at);
    else return load_wide(at, FRAMES * SLOT<X>);
  }

  aie::vector<int16, LANES> means(const X* x, int t) {
    auto acc = aie::zeros<acc32, LANES>();
    for (int o = 0; o < BLOCKS; ++o) chess_prepare_for_pipelining acc = aie::add(acc, values(x, o, t));
    const auto sums = acc.template to_vector<int32>(0);
    for (int r = 0; r < ROWS; ++r) factor_.set(r, aie::reduce_add(sums.template extract<COLUMNS>(r)));
    return scaled<15 - Spec::FINER>(factor_.get(), aie::broadcast<int32, LANES>(Spec::MEAN));
  }

  // What each value is above the mean, and the reciprocal of the root of their sum of squares.
  void squares(const X* x, int t, const aie::vector<int16, LANES>& mean) {
    auto low = aie::zeros<acc64, LANES / 2>(), high = aie::zeros<acc64, LANES / 2>();
    const auto middle = aie::from_vector<acc32>(mean, 0);
    for (int o = 0; o < BLOCKS; ++o) chess_prepare_for_pipelining {
      const auto above = aie::sub(aie::from_vector<acc32>(values(x, o, t), Spec::FINER), middle);
      const auto away = above.template to_vector<int16>(0);
      low = aie::mac_square(low, away.template extract<LANES / 2>(0));
      high = aie::mac_square(high, away.template extract<LANES / 2>(1));
      aie::store_v(away_ + o * LANES, away);
    }
    const auto sums = aie::concat(low.template to_vector<int32>(Spec::SPREAD), high.template to_vector<int32>(Spec::SPREAD));
    for (int r = 0; r < ROWS; ++r) {
      const int32 spread = aie::reduce_add(sums.template extract<COLUMNS>(r)) + Spec::FLOOR;
      inverse_.set(r, (int32(1) << RECIPROCAL) / root(spread));
    }
  }

  alignas(64) int16 away_[BLOCKS * LANES] = {};
  by_row<int32> factor_ = {}, inverse_ = {};
};

// Spec holds Y, FRAMES (all of a sequence), LENGTH (frames that are signal), HEADS, DEPTH (slots of a head), SCORE_SHIFT,
// ENTRIES, SHIFT. The input holds queries, keys and values of each head one after the other, int8.
template <class Spec>
class attention {
 public:
  using Y = typename Spec::Y;
  static constexpr int FRAMES = Spec::FRAMES, LENGTH = Spec::LENGTH, DEPTH = Spec::DEPTH;
  static constexpr int KEYS = (LENGTH + COLUMNS - 1) / COLUMNS;  // blocks of 8
  static constexpr int PITCH = FRAMES * COLUMNS, PART = DEPTH * PITCH;
  static constexpr int REST = LENGTH % COLUMNS;  // keys of the last block that are signal; 0: all
  static_assert(KEYS * COLUMNS <= FRAMES);

  void whole(const int8* x, Y* y, const uint8* entries) {
    set_modes();
    for (int h = 0; h < Spec::HEADS; ++h) {
      for (int t = 0; t < LENGTH; t += ROWS) {
        score(x + t * COLUMNS, x + PART);
        weigh(entries);
        mix(x + 2 * PART, y, t);
      }
      x += 3 * PART;
      y += DEPTH * (COLUMNS / SLOT<Y>) * FRAMES * SLOT<Y>;
    }
  }

 private:
  using scores = aie::mmul<ROWS, COLUMNS, COLUMNS, int8, int8, acc32>;
  using sums = aie::mmul<ROWS, COLUMNS, COLUMNS, uint8, int8, acc32>;

  // Products of four queries with every key: a block of keys is turned to be the right operand.
  void score(const int8* query, const int8* key) {
    for (int j = 0; j < KEYS; ++j) {
      scores acc;
      for (int s = 0; s < DEPTH; ++s) chess_prepare_for_pipelining {
        const auto turned = aie::transpose(aie::load_v<scores::size_B>(key + s * PITCH + j * scores::size_B), COLUMNS, COLUMNS);
        acc.mac(aie::load_v<scores::size_A>(query + s * PITCH), turned);
      }
      aie::store_v(score_ + j * LANES, acc.template to_vector<int16>(Spec::SCORE_SHIFT));
    }
    blank(score_, int16(-32768));
  }

  // Scores to what their exponentials are of the largest one.
  void weigh(const uint8* entries) {
    auto most = aie::load_v<LANES>(score_);
    for (int j = 1; j < KEYS; ++j) chess_prepare_for_pipelining most = aie::max(most, aie::load_v<LANES>(score_ + j * LANES));
    for (int r = 0; r < ROWS; ++r) most_.set(r, aie::reduce_max(most.template extract<COLUMNS>(r)));
    const auto top = aie::from_vector<acc32>(most_.get(), 0);
    for (int j = 0; j < KEYS; ++j) chess_prepare_for_pipelining {
      const auto below = aie::sub(top, aie::from_vector<acc32>(aie::load_v<LANES>(score_ + j * LANES), 0));
      const auto at = aie::min(below.template to_vector<int16>(0), int16(Spec::ENTRIES - 1));
      aie::store_v(score_ + j * LANES, at);
    }
    for (int n = 0; n < KEYS * LANES; ++n) chess_prepare_for_pipelining weight_[n] = entries[score_[n]];
    blank(weight_, uint8(0));
  }

  // Sums of the values by these weights, divided by the sum of the weights.
  void mix(const int8* value, Y* y, int t) {
    const auto ones = aie::broadcast<int8, sums::size_B>(1);
    sums total;
    for (int j = 0; j < KEYS; ++j) chess_prepare_for_pipelining total.mac(aie::load_v<sums::size_A>(weight_ + j * LANES), ones);
    const auto totals = total.template to_vector<int32>(0);
    for (int r = 0; r < ROWS; ++r) inverse_.set(r, (int32(1) << RECIPROCAL) / totals.get(r * COLUMNS));
    const auto inverse = inverse_.get();
    for (int s = 0; s < DEPTH; ++s) {
      sums acc;
      for (int j = 0; j < KEYS; ++j) chess_prepare_for_pipelining {
        acc.mac(aie::load_v<sums::size_A>(weight_ + j * LANES), aie::load_v<sums::size_B>(value + s * PITCH + j * sums::size_B));
      }
      const auto v = scaled<Spec::SHIFT>(acc.template to_vector<int32>(0), inverse);
      store(y + (s * (COLUMNS / SLOT<Y>) * FRAMES + t) * SLOT<Y>, FRAMES * SLOT<Y>,
            aie::from_vector<acc32>(v, 0).template to_vector<Y>(0));
    }
  }

  // Keys behind the end of the sequence.
  template <class T>
  static void blank(T* x, T with) {
    if constexpr (REST > 0)
      for (int r = 0; r < ROWS; ++r)
        for (int c = REST; c < COLUMNS; ++c) x[(KEYS - 1) * LANES + r * COLUMNS + c] = with;
  }

  alignas(64) int16 score_[KEYS * LANES] = {};
  alignas(64) uint8 weight_[KEYS * LANES] = {};
  by_row<int16> most_ = {};
  by_row<int32> inverse_ = {};
};

}  // namespace rubicc
