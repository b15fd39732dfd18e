// Shift-round-saturate: from an accumulator's lane to a vector's lane, and back (ups).
#pragma once

#include "vector.h"

namespace aie::detail {

// What is added to the quotient v >> s for the remainder of the shift, by rounding mode. All of it is integer
// arithmetic on the shifted-out bits, so a sum at the accumulator's end cannot overflow.
template <rounding_mode M, class W>
inline W round_shift(W v, unsigned s) {
  using U = std::make_unsigned_t<W>;
  const W q = v >> s;
  const U rem = U(v) & ((U(1) << s) - 1), half = U(1) << (s - 1);
  bool up = false;
  if constexpr (M == rounding_mode::floor) up = false;
  else if constexpr (M == rounding_mode::ceil) up = rem != 0;
  else if constexpr (M == rounding_mode::positive_inf) up = rem >= half;
  else if constexpr (M == rounding_mode::negative_inf) up = rem > half;
  else if constexpr (M == rounding_mode::symmetric_inf) up = v < 0 ? rem > half : rem >= half;
  else if constexpr (M == rounding_mode::symmetric_zero) up = v < 0 ? rem >= half : rem > half;
  else if constexpr (M == rounding_mode::conv_even) up = rem > half || (rem == half && (q & 1));
  else if constexpr (M == rounding_mode::conv_odd) up = rem > half || (rem == half && !(q & 1));
  else if constexpr (M == rounding_mode::symmetric_floor) up = v < 0 && rem != 0;
  else up = v > 0 && rem != 0;
  return q + W(up);
}

template <class T, rounding_mode M, class W, unsigned N>
inline void srs_lanes(const W* in, lane_t<T>* out, int shift, saturation_mode sat) {
  W v[N];
  if (shift > 0) {
    for (unsigned i = 0; i < N; ++i) v[i] = round_shift<M>(in[i], unsigned(shift));
  } else {
    for (unsigned i = 0; i < N; ++i) v[i] = in[i];
  }
  if constexpr (bits_of<T> < 8 * sizeof(W) || !is_signed_element<T>) {
    if (sat != saturation_mode::none) {
      const bool even = sat == saturation_mode::symmetric && is_signed_element<T>;
      constexpr bool capped = bits_of<T> >= 8 * sizeof(W);  // the top does not fit the sum's own type
      const W hi = capped ? W(top<std::make_signed_t<W>>()) : W(top<T>());
      const W lo = W(even ? -top<T>() : bottom<T>());
      for (unsigned i = 0; i < N; ++i) v[i] = v[i] > hi ? hi : v[i] < lo ? lo : v[i];
    }
  } else if (sat == saturation_mode::symmetric) {
    const W lo = W(-top<T>());
    for (unsigned i = 0; i < N; ++i) v[i] = v[i] < lo ? lo : v[i];
  }
  if constexpr (is_nibble<T>) {
    for (unsigned i = 0; i < N; ++i) out[i] = truncate<T>(v[i]);
  } else {
    for (unsigned i = 0; i < N; ++i) out[i] = lane_t<T>(v[i]);
  }
}

template <class T, class W, unsigned N>
inline void srs(const W* in, lane_t<T>* out, int shift) {
  using enum rounding_mode;
  if (__builtin_expect(shift < 0 || shift >= int(8 * sizeof(W)), 0))
    adf::sim::fail("RUB-AIE-514", "to_vector with a shift of %d: 0 to %d are modelled", shift, int(8 * sizeof(W)) - 1);
  const auto sat = adf::sim::core->saturation;
  switch (adf::sim::core->rounding) {
    case floor: return srs_lanes<T, floor, W, N>(in, out, shift, sat);
    case ceil: return srs_lanes<T, ceil, W, N>(in, out, shift, sat);
    case positive_inf: return srs_lanes<T, positive_inf, W, N>(in, out, shift, sat);
    case negative_inf: return srs_lanes<T, negative_inf, W, N>(in, out, shift, sat);
    case symmetric_inf: return srs_lanes<T, symmetric_inf, W, N>(in, out, shift, sat);
    case symmetric_zero: return srs_lanes<T, symmetric_zero, W, N>(in, out, shift, sat);
    case conv_even: return srs_lanes<T, conv_even, W, N>(in, out, shift, sat);
    case conv_odd: return srs_lanes<T, conv_odd, W, N>(in, out, shift, sat);
    case symmetric_floor: return srs_lanes<T, symmetric_floor, W, N>(in, out, shift, sat);
    case symmetric_ceil: return srs_lanes<T, symmetric_ceil, W, N>(in, out, shift, sat);
  }
}

// A float sum to bfloat16 under the core's rounding mode, on the bits (sign and magnitude).
inline bfloat16 round_bfloat(float f) {
  using enum rounding_mode;
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7f800000u) == 0x7f800000u) return bfloat16(f);
  const bool negative = u >> 31;
  const std::uint32_t rem = u & 0xffffu, q = u >> 16, half = 0x8000u;
  bool away = false;
  switch (adf::sim::core->rounding) {
    case floor: away = negative && rem; break;
    case ceil: away = !negative && rem; break;
    case positive_inf: away = negative ? rem > half : rem >= half; break;
    case negative_inf: away = negative ? rem >= half : rem > half; break;
    case symmetric_inf: away = rem >= half; break;
    case symmetric_zero: away = rem > half; break;
    case conv_even: away = rem > half || (rem == half && (q & 1)); break;
    case conv_odd: away = rem > half || (rem == half && !(q & 1)); break;
    case symmetric_floor: away = false; break;
    case symmetric_ceil: away = rem != 0; break;
  }
  return bfloat16::from_bits(std::uint16_t(q + away));
}

}  // namespace aie::detail
