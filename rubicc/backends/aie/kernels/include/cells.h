// GRU and LSTM cells: four sequences are the rows of every matrix product.
//
// A block holds FRAMES rows: four sequences of one time step after the other, [slot][step][sequence][8 bytes].
// The input is the projection W x of every gate, int16; the state is int16 with 15 bits behind the point.
#pragma once

#include "elementwise.h"

namespace rubicc {

// Spec holds: R (type of recurrent weights), H (state's operand), Y; HIDDEN (a multiple of 8); GATES; FRAMES; STEPS
// of a sequence; OPERAND_SHIFT, OUTPUT_SHIFT; SIGMOID, TANH: lookups. Weights: output block of 8, slot of the
// state, then the right operand row by row.
template <class Spec>
class cell {
 public:
  using H = typename Spec::H;
  using Y = typename Spec::Y;
  using unit = product<H, typename Spec::R>;
  static constexpr int HIDDEN = Spec::HIDDEN, FRAMES = Spec::FRAMES, BLOCKS = HIDDEN / COLUMNS;
  static constexpr int LANES = ROWS * COLUMNS, PITCH = FRAMES * SLOT<int16>;
  using lanes = aie::vector<int16, LANES>;
  static_assert(HIDDEN % COLUMNS == 0 && FRAMES % ROWS == 0 && Spec::STEPS % (FRAMES / ROWS) == 0);

 protected:
  // At the first step of a sequence there is no state yet.
  void begin() {
    set_modes();
    if (step_ == 0)
      for (auto& v : state_) v = 0;
  }
  void end() {
    step_ += FRAMES / ROWS;
    if (step_ == Spec::STEPS) step_ = 0;
  }

  // g = R h + b on the gate grid, for all gates; 4 x 8 values of each output block after the other.
  void gates(const typename Spec::R* weights, const int32* bias, const int* shift) {
    for (int s = 0; s < HIDDEN / SLOT<H>; ++s) operand(s);
    for (int o = 0; o < Spec::GATES * BLOCKS; ++o) {
      const auto row = aie::load_v<COLUMNS>(bias + o * COLUMNS);
      unit acc(typename unit::accum_type(aie::concat(row, row, row, row)));
      for (int s = 0; s < HIDDEN / SLOT<H>; ++s, weights += unit::size_B)
        acc.mac(aie::load_v<unit::size_A>(operand_ + s * ROWS * SLOT<H>), aie::load_v<unit::size_B>(weights));
      aie::store_v(gate_ + o * LANES, acc.template to_vector<int16>(shift[o]));
    }
  }

  lanes gate(int which, int block) const { return aie::load_v<LANES>(gate_ + (which * BLOCKS + block) * LANES); }
  lanes input(const int16* x, int which, int block, int step) const {
    return load_wide(x + (which * BLOCKS + block) * 2 * PITCH + step * ROWS * SLOT<int16>, PITCH);
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
  static inline lanes times(const lanes& a, const lanes& b) { return aie::mul<acc32>(a, b).template to_vector<int16>(15); }

  alignas(64) int16 state_[HIDDEN * ROWS] = {};

 private:
  // The state of a slot's channels as the matrix unit takes it.
  void operand(int s) {
    if constexpr (SLOT<H> == COLUMNS) {
      aie::store_v(operand_ + s * LANES, aie::from_vector<acc32>(state(s), 0).template to_vector<H>(Spec::OPERAND_SHIFT));
    } else if (s % 2 == 0) {
      const auto v = aie::from_vector<acc32>(state(s / 2), 0).template to_vector<H>(Spec::OPERAND_SHIFT);
      aie::store_v(operand_ + s * ROWS * SLOT<H>, aie::filter_even(v, SLOT<H>));
      aie::store_v(operand_ + (s + 1) * ROWS * SLOT<H>, aie::filter_odd(v, SLOT<H>));
    }
  }

  alignas(64) H operand_[HIDDEN * ROWS] = {};
  alignas(64) int16 gate_[Spec::GATES * HIDDEN * ROWS] = {};
  int step_ = 0;
};

// r, z, n; h = n + z (h - n), reset after the product.
template <class Spec>
class gru : public cell<Spec> {
  using base = cell<Spec>;

 public:
  void whole(const int16* x, typename Spec::Y* y, const typename Spec::R* weights, const int32* bias, const int* shift,
             const int16* sigmoid, const int16* tanh) {
    base::begin();
    for (int step = 0; step < base::FRAMES / ROWS; ++step) {
      base::gates(weights, bias, shift);
      for (int b = 0; b < base::BLOCKS; ++b) {
        const auto r = Spec::SIGMOID::of(base::plus(base::input(x, 0, b, step), base::gate(0, b)), sigmoid);
        const auto z = Spec::SIGMOID::of(base::plus(base::input(x, 1, b, step), base::gate(1, b)), sigmoid);
        const auto m = base::times(r, base::gate(2, b));
        const auto n = Spec::TANH::of(base::plus(base::input(x, 2, b, step), m), tanh);
        auto acc = aie::from_vector<acc32>(n, 15);
        acc = aie::mac(acc, z, base::state(b));
        acc = aie::msc(acc, z, n);
        base::keep(b, step, acc.template to_vector<int16>(15), y);
      }
    }
    base::end();
  }
};

// i, f, g, o; the cell state has CELL_BITS bits behind the point and its own tanh table.
template <class Spec>
class lstm : public cell<Spec> {
  using base = cell<Spec>;
  using lanes = typename base::lanes;

 public:
  void whole(const int16* x, typename Spec::Y* y, const typename Spec::R* weights, const int32* bias, const int* shift,
             const int16* sigmoid, const int16* tanh, const int16* tanh_cell) {
    base::begin();
    if (first_)
      for (auto& v : memory_) v = 0;
    for (int step = 0; step < base::FRAMES / ROWS; ++step) {
      base::gates(weights, bias, shift);
      for (int b = 0; b < base::BLOCKS; ++b) {
        const auto in = Spec::SIGMOID::of(sum(x, 0, b, step), sigmoid), kept = Spec::SIGMOID::of(sum(x, 1, b, step), sigmoid);
        const auto fresh = Spec::TANH::of(sum(x, 2, b, step), tanh), shown = Spec::SIGMOID::of(sum(x, 3, b, step), sigmoid);
        auto acc = aie::from_vector<acc32>(base::times(in, fresh), Spec::CELL_BITS);
        acc = aie::mac(acc, kept, aie::load_v<base::LANES>(memory_ + b * base::LANES));
        const auto c = acc.template to_vector<int16>(15);
        aie::store_v(memory_ + b * base::LANES, c);
        base::keep(b, step, base::times(shown, Spec::TANH_CELL::of(c, tanh_cell)), y);
      }
    }
    base::end();
    first_ = ++blocks_ * (base::FRAMES / ROWS) % Spec::STEPS == 0;
  }

 private:
  lanes sum(const int16* x, int which, int b, int step) const { return base::plus(base::input(x, which, b, step), base::gate(which, b)); }
  alignas(64) int16 memory_[base::HIDDEN * ROWS] = {};
  int blocks_ = 0;
  bool first_ = true;
};

}  // namespace rubicc
