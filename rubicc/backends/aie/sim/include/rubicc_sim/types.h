// Element and accumulator types of the emulation.
#pragma once

#include "core.h"

using int8 = std::int8_t;
using int16 = std::int16_t;
using int32 = std::int32_t;
using int64 = std::int64_t;
using uint8 = std::uint8_t;
using uint16 = std::uint16_t;
using uint32 = std::uint32_t;
using uint64 = std::uint64_t;

// Four-bit integers exist only inside vectors: two of them share a byte of memory, low half first.
struct int4 { std::int8_t value; };
struct uint4 { std::uint8_t value; };

// The upper half of an IEEE float. Conversion from float rounds to nearest even.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  bfloat16(float f) {
    std::uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = std::uint16_t((u >> 16) | 0x40u);
      return;
    }
    bits = std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T> && !std::is_same_v<T, float>>>
  bfloat16(T v) : bfloat16(float(v)) {}
  static bfloat16 from_bits(std::uint16_t b) {
    bfloat16 r;
    r.bits = b;
    return r;
  }
  operator float() const {
    const std::uint32_t u = std::uint32_t(bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
};

// Accumulator tags: the width at which sums wrap.
struct acc32 {};
struct acc40 {};
struct acc48 {};
struct acc56 {};
struct acc64 {};
struct acc72 {};
struct acc80 {};
struct accfloat {};

namespace aie::detail {

template <class T>
constexpr unsigned bits_of = 8 * sizeof(T);
template <>
inline constexpr unsigned bits_of<int4> = 4;
template <>
inline constexpr unsigned bits_of<uint4> = 4;

template <class T>
constexpr bool is_nibble = std::is_same_v<T, int4> || std::is_same_v<T, uint4>;
template <class T>
constexpr bool is_float = std::is_same_v<T, float> || std::is_same_v<T, bfloat16>;
template <class T>
constexpr bool is_signed_element = std::is_same_v<T, int4> || is_float<T> || std::is_signed_v<T>;
template <class T>
constexpr bool is_element = is_nibble<T> || is_float<T> || (std::is_integral_v<T> && !std::is_same_v<T, bool>);

// What one lane of a vector<T> is held in, and the type arithmetic on it is done in.
template <class T>
struct lane { using type = T; };
template <>
struct lane<int4> { using type = std::int8_t; };
template <>
struct lane<uint4> { using type = std::uint8_t; };
template <class T>
using lane_t = typename lane<T>::type;

// Integer accumulators are as wide as the registers that hold them: 48 or 80 bits on AIE, 32 or 64 on AIE-ML and
// AIE-MLv2 (aie_api, group basic types). Above 64 bits nothing is modelled: acc80 is held in 64.
template <unsigned Asked>
struct int_acc {
  static constexpr unsigned bits = __AIE_ARCH__ == 10 ? (Asked <= 48 ? 48 : 64) : (Asked <= 32 ? 32 : 64);
  using type = std::conditional_t<bits == 32, std::int32_t, std::int64_t>;
};
template <class Tag>
struct acc_info;
template <>
struct acc_info<acc32> : int_acc<32> {};
template <>
struct acc_info<acc40> : int_acc<40> {};
template <>
struct acc_info<acc48> : int_acc<48> {};
template <>
struct acc_info<acc56> : int_acc<56> {};
template <>
struct acc_info<acc64> : int_acc<64> {};
template <>
struct acc_info<acc72> : int_acc<72> {};
template <>
struct acc_info<acc80> : int_acc<80> {};
template <>
struct acc_info<accfloat> { using type = float; static constexpr unsigned bits = 32; };

template <class T>
constexpr bool is_accum_tag = requires { acc_info<T>::bits; };

// A sum at the accumulator's own width: what lies above it is lost, as in the hardware.
template <class Tag>
constexpr typename acc_info<Tag>::type wrap(typename acc_info<Tag>::type v) {
  if constexpr (acc_info<Tag>::bits == 48) {
    return std::int64_t(std::uint64_t(v) << 16) >> 16;
  } else {
    return v;
  }
}

// Accumulator of a product of A and B when none is asked for (aie_api, DefaultAccumTag).
struct accauto {};
template <class A, class B>
struct default_tag {
  static constexpr unsigned wide = bits_of<A> > bits_of<B> ? bits_of<A> : bits_of<B>;
  static constexpr unsigned narrow = bits_of<A> > bits_of<B> ? bits_of<B> : bits_of<A>;
  using type = std::conditional_t<is_float<A> || is_float<B>, accfloat,
                                  std::conditional_t<wide <= 16, acc32, std::conditional_t<narrow <= 16, acc48, acc64>>>;
};
template <class Tag, class A, class B>
using tag_or_default = typename std::conditional_t<std::is_same_v<Tag, accauto>, default_tag<A, B>, std::type_identity<Tag>>::type;

}  // namespace aie::detail
