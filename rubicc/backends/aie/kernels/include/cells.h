// GRU and LSTM cells: four sequences are the rows of every matrix product.
//
// A block holds FRAMES rows: four sequences of one time step after the other, [slot][step][sequence][8 bytes].
// The input is the projection W x of every gate, int16; the state is int16 with 15 bits behind the point.
#pragma once

#include "elementwise.h"

namespace rubicc {

// Where the slots of the gates are: in one buffer, or from slot SPLIT on in a second one.
template <int SPLIT>
struct gates_input {
  const int16* one;
  const int16* two;
  const int16* slot(int s, int pitch) const { return s < SPLIT ? one + s * pitch : two + (s - SPLIT) * pitch; }
};

// Spec holds: R (type of recurrent weights), H (state's operand), Y; SUM (acc32 or acc64); HIDDEN (a multiple of 8);
// FRAMES; PERIOD, LAG: a sequence begins every PERIOD frames, the first one LAG frames late; OPERAND_SHIFT,
// OUTPUT_SHIFT; SPLIT; SIGMOID, TANH: lookups. Weights: output block of 8, slot of the state, then the right operand
// row by row. GATES: one after the other in the input and in the weights.
template <class Spec, int GATES>
class cell {
 public:
  using H = typename Spec::H;
  using R = typename Spec::R;
  using Y = typename Spec::Y;
  using input = gates_input<Spec::SPLIT>;
  using unit = aie::mmul<ROWS, SLOT<H>, COLUMNS, H, R, typename Spec::SUM>;
  static constexpr int HIDDEN = Spec::HIDDEN, FRAMES = Spec::FRAMES, BLOCKS = HIDDEN / COLUMNS;
  static constexpr int LANES = ROWS * COLUMNS, PITCH = FRAMES * SLOT<int16>;
  using lanes = aie::vector<int16, LANES>;
  static_assert(HIDDEN % COLUMNS == 0 && FRAMES % ROWS == 0 && Spec::PERIOD % ROWS == 0 && Spec::LAG % ROWS == 0);

 protected:
  // One step on: whether a sequence begins, which has no state yet.
  bool begins() {
    const bool first = at_ == 0;
    at_ += ROWS;
    if (at_ == Spec::PERIOD) at_ = 0;
    if (first)
      for (int b = 0; b < BLOCKS; ++b) aie::store_v(state_ + b * LANES, aie::zeros<int16, LANES>());
    return first;
  }

  // g = R h + b on the gate grid, for all gates; 4 x 8 values of each output block after the other.
  void multiply(const R* weights, const int32* bias, const int* shift) {
    for (int b = 0; b < BLOCKS; ++b) operand(b);
    for (int o = 0; o < GATES * BLOCKS; ++o) {
      const auto row = aie::load_v<COLUMNS>(bias + o * COLUMNS);
      unit acc(aie::from_vector<typename Spec::SUM>(aie::concat(row, row, row, row), 0));
      for (int s = 0; s < HIDDEN / SLOT<H>; ++s) chess_prepare_for_pipelining {
        acc.mac(aie::load_v<unit::size_A>(operand_ + s * unit::size_A), aie::load_v<unit::size_B>(weights));
        weights += unit::size_B;
      }
      aie::store_v(gate_ + o * LANES, acc.template to_vector<int16>(shift[o]));
    }
  }

  lanes gate(int which, int block) const { return aie::load_v<LANES>(gate_ + (which * BLOCKS + block) * LANES); }
  // W x of 8 units, which lie in two slots.
  static lanes projected(const input& x, int which, int block, int step) {
    const int slot = (which * BLOCKS + block) * 2, from = step * ROWS * SLOT<int16>;
    const auto low = aie::load_v<LANES / 2>(x.slot(slot, PITCH) + from);
    const auto high = aie::load_v<LANES / 2>(x.slot(slot + 1, PITCH) + from);
    const auto [first, second] = aie::interleave_zip(low, high, SLOT<int16>);
    return aie::concat(first, second);
  }
  lanes sum(const input& x, int which, int block, int step) const {
    return plus(projected(x, which, block, step), gate(which, block));
  }
  lanes state(int block) const { return aie::load_v<LANES>(state_ + block * LANES); }
  void keep(int block, int step, const lanes& h, Y* y) {
    aie::store_v(state_ + block * LANES, h);
    const auto v = aie::from_vector<acc32>(h, 0).template to_vector<Y>(Spec::OUTPUT_SHIFT);
    store(y + (block * (COLUMNS / SLOT<Y>) * FRAMES + step * ROWS) * SLOT<Y>, FRAMES * SLOT<Y>, v);
  }

  static inline lanes plus(const lanes& a, const lanes& b) {
    return aie::add(aie::from_vector<acc32>(a, 0), aie::from_vector<acc32>(b, 0)).template to_vector<int16>(0);
  }
  static inline lanes times(const lanes& a, const lanes& b) {
    return aie::mul<acc32>(a, b).template to_vector<int16>(15);
  }

 private:
  // 8 units of the state as the matrix unit takes them.
  void operand(int b) {
    const auto v = aie::from_vector<acc32>(state(b), 0).template to_vector<H>(Spec::OPERAND_SHIFT);
    store(operand_ + b * LANES, ROWS * SLOT<H>, v);
  }

  alignas(64) int16 state_[HIDDEN * ROWS] = {};
  alignas(64) H operand_[HIDDEN * ROWS] = {};
  alignas(64) int16 gate_[GATES * HIDDEN * ROWS] = {};
  int at_ = (Spec::PERIOD - Spec::LAG % Spec::PERIOD) % Spec::PERIOD;
};

// r, z, n; h = n + z (h - n), reset after the product.
template <class Spec>
class gru : public cell<Spec, 3> {
  using base = cell<Spec, 3>;

 public:
  void whole(const typename base::input& x, typename Spec::Y* y, const typename Spec::R* weights, const int32* bias,
             const int* shift, const int16* sigmoid, const int16* tanh) {
    set_modes();
    for (int step = 0; step < base::FRAMES / ROWS; ++step) {
      base::begins();
      base::multiply(weights, bias, shift);
      for (int b = 0; b < base::BLOCKS; ++b) {
        const auto r = Spec::SIGMOID::of(base::sum(x, 0, b, step), sigmoid);
        const auto z = Spec::SIGMOID::of(base::sum(x, 1, b, step), sigmoid);
        const auto m = base::times(r, base::gate(2, b));
        const auto n = Spec::TANH::of(base::plus(base::projected(x, 2, b, step), m), tanh);
        auto acc = aie::from_vector<acc32>(n, 15);
        acc = aie::mac(acc, z, base::state(b));
        acc = aie::msc(acc, z, n);
        base::keep(b, step, acc.template to_vector<int16>(15), y);
      }
    }
  }
};

// i, f, g, o; the cell state has CELL_BITS bits behind the point and its own tanh table.
template <class Spec>
class lstm : public cell<Spec, 4> {
  using base = cell<Spec, 4>;

 public:
  void whole(const typename base::input& x, typename Spec::Y* y, const typename Spec::R* weights, const int32* bias,
             const int* shift, const int16* sigmoid, const int16* tanh, const int16* tanh_cell) {
    set_modes();
    for (int step = 0; step < base::FRAMES / ROWS; ++step) {
      if (base::begins())
        for (int b = 0; b < base::BLOCKS; ++b)
          aie::store_v(memory_ + b * base::LANES, aie::zeros<int16, base::LANES>());
      base::multiply(weights, bias, shift);
      for (int b = 0; b < base::BLOCKS; ++b) {
        const auto opened = Spec::SIGMOID::of(base::sum(x, 0, b, step), sigmoid);
        const auto kept = Spec::SIGMOID::of(base::sum(x, 1, b, step), sigmoid);
        const auto fresh = Spec::TANH::of(base::sum(x, 2, b, step), tanh);
        const auto shown = Spec::SIGMOID::of(base::sum(x, 3, b, step), sigmoid);
        auto acc = aie::from_vector<acc32>(base::times(opened, fresh), Spec::CELL_BITS);
        acc = aie::mac(acc, kept, aie::load_v<base::LANES>(memory_ + b * base::LANES));
        const auto c = acc.template to_vector<int16>(15);
        aie::store_v(memory_ + b * base::LANES, c);
        base::keep(b, step, base::times(shown, Spec::TANH_CELL::of(c, tanh_cell)), y);
      }
    }
  }

 private:
  alignas(64) int16 memory_[base::HIDDEN * ROWS] = {};
};

}  // namespace rubicc
