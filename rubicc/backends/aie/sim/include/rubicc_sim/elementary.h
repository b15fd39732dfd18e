// Elementary functions, conversions between fixed and floating point, tables in memory.
// Floating point here is the host's: the hardware's approximations of inv, invsqrt, sqrt, exp2 and tanh are not
// modelled bit for bit. The integer parts are.
#pragma once

#include <cmath>

#include "shuffle.h"

namespace aie {

inline float inv(float a) { return 1.0f / a; }
inline float invsqrt(float a) { return 1.0f / std::sqrt(a); }
inline float sqrt(float a) { return std::sqrt(a); }
#define RUBICC_SIM_ELEMENTARY(NAME)                                                           \
  template <class T, unsigned N>                                                              \
    requires detail::is_float<T>                                                              \
  vector<T, N> NAME(const vector<T, N>& v) {                                                  \
    vector<T, N> r;                                                                           \
    for (unsigned i = 0; i < N; ++i) r.data[i] = T(NAME(float(v.data[i])));                   \
    return r;                                                                                 \
  }
RUBICC_SIM_ELEMENTARY(inv)
RUBICC_SIM_ELEMENTARY(invsqrt)
RUBICC_SIM_ELEMENTARY(sqrt)
#undef RUBICC_SIM_ELEMENTARY
#if __AIE_ARCH__ >= 21
template <class T = bfloat16, unsigned N>
vector<T, N> tanh(const vector<float, N>& v) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = T(std::tanh(v.data[i]));
  return r;
}
template <class T = bfloat16, unsigned N>
vector<T, N> exp2(const vector<float, N>& v) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = T(std::exp2(v.data[i]));
  return r;
}
#endif

namespace detail {

inline std::int64_t clamped(double x, std::int64_t lo, std::int64_t hi) {
  return x <= double(lo) ? lo : x >= double(hi) ? hi : std::int64_t(x);
}

}  // namespace detail

// Scalars round to nearest even. Vectors of 32 bits and signed 16 bits round down on AIE-ML, as the native
// conversion does there; all others round to nearest even (AIE API guide, Floating-point Conversion).
template <class T = int32>
T to_fixed(float a, int shift = 0) {
  return T(detail::clamped(std::nearbyint(std::ldexp(double(a), shift)), detail::bottom<T>(), detail::top<T>()));
}
template <class T = int32, class F, unsigned N>
  requires detail::is_float<F>
vector<T, N> to_fixed(const vector<F, N>& v, int shift = 0) {
  constexpr bool native = std::is_same_v<F, float> && __AIE_ARCH__ == 20 &&
                          (detail::bits_of<T> == 32 || (detail::bits_of<T> == 16 && detail::is_signed_element<T>));
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) {
    const double x = std::ldexp(double(float(v.data[i])), shift);
    r.data[i] = detail::lane_t<T>(
        detail::clamped(native ? std::floor(x) : std::nearbyint(x), detail::bottom<T>(), detail::top<T>()));
  }
  return r;
}
template <class T = int32, unsigned N>
vector<T, N> to_fixed(const accum<accfloat, N>& a, int shift = 0) { return to_fixed<T>(a.template to_vector<float>(), shift); }

template <class F = float>
F to_float(int a, int shift = 0) { return F(float(std::ldexp(double(a), -shift))); }
template <class F = float, class T, unsigned N>
  requires(!detail::is_float<T>)
vector<F, N> to_float(const vector<T, N>& v, int shift = 0) {
  vector<F, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = F(float(std::ldexp(double(v.data[i]), -shift)));
  return r;
}

enum class lut_oor_policy { saturate, truncate };

namespace detail {

// Bytes a core reads from one bank at a time; copies of a table alternate at this distance.
inline constexpr unsigned bank_row = __AIE_ARCH__ == 22 ? 32 : 16;

// Entry i of a table that is stored once (Parallel 1) or twice with copies alternating every bank_row bytes.
template <unsigned Parallel, class T>
inline T table_entry(const void* base, unsigned i, unsigned entry_bytes, unsigned offset = 0) {
  const unsigned at = i * entry_bytes;
  const unsigned char* p = static_cast<const unsigned char*>(base);
  T v;
  if constexpr (Parallel == 1) {
    std::memcpy(static_cast<void*>(&v), p + at + offset, sizeof v);
  } else {
    const unsigned char* first = p + at / bank_row * 2 * bank_row + at % bank_row + offset;
    std::memcpy(static_cast<void*>(&v), first, sizeof v);
    if (std::memcmp(first, first + bank_row, sizeof v))
      adf::sim::fail("RUB-AIE-511", "the two copies of entry %u of a lookup table differ", i);
  }
  return v;
}

}  // namespace detail

// A table in memory. 4 parallel accesses need four copies (two in each pointer), 2 need two, 1 needs one.
template <unsigned Parallel, class Offset, class Slope = Offset>
struct lut {
  static_assert(Parallel && __AIE_ARCH__ != 10, "parallel tables exist from AIE-ML on");
  using offset_type = Offset;
  using slope_type = Slope;
  static constexpr unsigned parallel = Parallel;
  unsigned entries;
  const void *ab, *cd;
  lut(unsigned n, const void* table_ab, const void* table_cd)
    requires(Parallel == 4)
      : entries(n), ab(table_ab), cd(table_cd) { check(); }
  lut(unsigned n, const void* table)
    requires(Parallel == 2 || Parallel == 1)
      : entries(n), ab(table), cd(table) { check(); }
  // The value lane `lane` fetches: odd pairs of lanes read the second pointer.
  template <class T>
  T entry(unsigned i, unsigned lane, unsigned entry_bytes, unsigned offset = 0) const {
    return detail::table_entry<Parallel, T>(lane & 2 ? cd : ab, i, entry_bytes, offset);
  }

 private:
  void check() const {
    for (const void* p : {ab, cd})
      if (reinterpret_cast<std::uintptr_t>(p) % vector_decl_align) adf::sim::misaligned("lookup table", p, entries, vector_decl_align);
  }
};

namespace detail {

// Entry number for an index: saturated to the table or wrapped into it.
inline unsigned table_index(std::int64_t i, unsigned entries, lut_oor_policy policy) {
  if (policy == lut_oor_policy::truncate) return unsigned(((i % entries) + entries) % entries);
  return i < 0 ? 0 : i >= entries ? entries - 1 : unsigned(i);
}

}  // namespace detail

// out = table[(in >> step_bits) + bias]. Values of 8 bits lie in the table as 16.
template <class T, class Lut, lut_oor_policy Policy = lut_oor_policy::saturate>
struct parallel_lookup {
  static_assert(std::is_integral_v<T>, "indices are integers");
  const Lut& table;
  unsigned step;
  std::int64_t bias;
  parallel_lookup(const Lut& l, unsigned step_bits = 0, unsigned b = 0) : table(l), step(step_bits), bias(b) {
    if (b & (b - 1)) adf::sim::fail("RUB-AIE-514", "a lookup's bias of %u is no power of two", b);
    if (b && !std::is_signed_v<T>) adf::sim::fail("RUB-AIE-514", "a lookup by unsigned index takes no bias");
  }
  template <unsigned N>
  vector<typename Lut::offset_type, N> fetch(const vector<T, N>& v) const {
    using V = typename Lut::offset_type;
    using stored = std::conditional_t<sizeof(V) == 1, int16, V>;
    const bool floors = adf::sim::core->rounding == rounding_mode::floor;
    vector<V, N> r;
    for (unsigned i = 0; i < N; ++i) {
      if (!floors && (std::int64_t(v.data[i]) & ((std::int64_t(1) << step) - 1)))
        adf::sim::fail("RUB-AIE-514", "a lookup with step bits set needs rounding_mode::floor");
      const std::int64_t at = (std::int64_t(v.data[i]) >> step) + bias;
      r.data[i] = V(table.template entry<stored>(detail::table_index(at, table.entries, Policy), i, sizeof(stored)));
    }
    return r;
  }
};

// out = slope * (in & (2^step - 1)) + (offset << shift_offset), slope and offset of entry (in >> step) + bias.
template <class T, class Lut>
struct linear_approx {
  const Lut& table;
  unsigned step;
  int bias, shift_offset;
  linear_approx(const Lut& l, unsigned step_bits, int b = 0, int shift = 0) : table(l), step(step_bits), bias(b), shift_offset(shift) {}
  template <unsigned N>
  auto compute(const vector<T, N>& v) const {
    using O = typename Lut::offset_type;
    using S = typename Lut::slope_type;
    using stored = std::conditional_t<std::is_same_v<T, bfloat16>, float, O>;
    using tag = std::conditional_t<std::is_same_v<T, bfloat16>, accfloat, std::conditional_t<sizeof(T) == 1, acc32, acc64>>;
    accum<tag, N> r;
    using W = typename accum<tag, N>::lane_type;
    for (unsigned i = 0; i < N; ++i) {
      std::int64_t at;
      if constexpr (std::is_same_v<T, bfloat16>) at = (std::int64_t(std::floor(float(v.data[i]))) >> step) + bias;
      else at = (std::int64_t(v.data[i]) >> step) + bias;
      const unsigned e = detail::table_index(at, table.entries, lut_oor_policy::saturate);
      const stored slope = table.template entry<stored>(e, i, 2 * sizeof(stored));
      const stored offset = table.template entry<stored>(e, i, 2 * sizeof(stored), sizeof(stored));
      if constexpr (std::is_same_v<T, bfloat16>) {
        r.data[i] = float(S(slope)) * float(v.data[i]) + float(offset);
      } else {
        const std::int64_t rest = std::int64_t(v.data[i]) & ((std::int64_t(1) << step) - 1);
        r.data[i] = detail::wrap<tag>(W(std::int64_t(slope) * rest + (std::int64_t(offset) << shift_offset)));
      }
    }
    return r;
  }
};

}  // namespace aie
