// aie::accum: the sums of N lanes, at the width of their tag.
#pragma once

#include "srs.h"

namespace aie {

template <class Tag, unsigned N>
class accum {
  static_assert(detail::is_accum_tag<Tag>, "an accumulator tag (complex ones are not modelled)");

 public:
  using value_type = Tag;
  using lane_type = typename detail::acc_info<Tag>::type;
  alignas(N * sizeof(lane_type) < 64 ? 16 : 64) lane_type data[N];

  static constexpr unsigned size() { return N; }
  static constexpr unsigned accum_bits() { return detail::acc_info<Tag>::bits; }
  static constexpr unsigned value_bits() { return accum_bits(); }
  static constexpr unsigned bits() { return 8 * sizeof(lane_type) * N; }
  static constexpr bool is_floating_point() { return std::is_same_v<Tag, accfloat>; }
  static constexpr bool is_complex() { return false; }
  static constexpr bool is_real() { return true; }

  accum() { std::memset(data, 0xA5, sizeof data); }
  accum(const accum&) = default;
  accum& operator=(const accum&) = default;
  template <class Tag2>
    requires(detail::acc_info<Tag2>::bits == detail::acc_info<Tag>::bits && !std::is_same_v<Tag2, Tag>)
  accum(const accum<Tag2, N>& o) { std::memcpy(data, o.data, sizeof data); }
  template <class T>
  explicit accum(const vector<T, N>& v, int shift = 0) { from_vector(v, shift); }
  template <class T>
  accum& operator=(const vector<T, N>& v) { return from_vector(v), *this; }

  lane_type get(unsigned i) const { return detail::check_index("accumulator lane", i, N), data[i]; }

  // The vector's values, shifted up. A value that leaves the accumulator is refused: what the hardware does then
  // depends on modes that are not modelled.
  template <class T>
  void from_vector(const vector<T, N>& v, int shift = 0) {
    if constexpr (is_floating_point()) {
      for (unsigned i = 0; i < N; ++i) data[i] = lane_type(v.data[i]);
    } else {
      static_assert(!detail::is_float<T>, "integers only");
      if (shift < 0 || shift > 63) adf::sim::fail("RUB-AIE-514", "from_vector with a shift of %d", shift);
      for (unsigned i = 0; i < N; ++i) data[i] = lane_type(v.data[i]);
      if (shift == 0) return;
      for (unsigned i = 0; i < N; ++i) {
        const std::int64_t up = std::int64_t(std::uint64_t(std::int64_t(v.data[i])) << shift);
        data[i] = detail::wrap<Tag>(lane_type(up));
        if ((up >> shift) != std::int64_t(v.data[i]) || std::int64_t(data[i]) != up)
          adf::sim::fail("RUB-AIE-514", "from_vector shifts a value out of its %u-bit accumulator", accum_bits());
      }
    }
  }
  template <class T>
  vector<T, N> to_vector(int shift = 0) const {
    vector<T, N> r;
    if constexpr (std::is_same_v<T, bfloat16>) {
      static_assert(is_floating_point(), "bfloat16 comes from accfloat");
      for (unsigned i = 0; i < N; ++i) r.data[i] = detail::round_bfloat(data[i]);
    } else if constexpr (std::is_same_v<T, float>) {
      static_assert(is_floating_point(), "float comes from accfloat");
      for (unsigned i = 0; i < N; ++i) r.data[i] = data[i];
    } else {
      static_assert(!is_floating_point(), "integers come from integer accumulators: aie::to_fixed converts");
      detail::srs<T, lane_type, N>(data, r.data, shift);
    }
    return r;
  }

  template <unsigned M, class Tag2>
  accum& insert(unsigned idx, const accum<Tag2, M>& a) {
    static_assert(M <= N && detail::acc_info<Tag2>::bits == detail::acc_info<Tag>::bits);
    detail::check_index("insert", idx, N / M);
    std::memcpy(data + idx * M, a.data, M * sizeof(lane_type));
    return *this;
  }
  template <unsigned M>
  accum<Tag, M> extract(unsigned idx) const {
    detail::check_index("extract", idx, N / M);
    accum<Tag, M> r;
    std::memcpy(r.data, data + idx * M, M * sizeof(lane_type));
    return r;
  }
  template <unsigned M>
  accum<Tag, M> grow(unsigned idx = 0) const {
    accum<Tag, M> r;
    return r.insert(idx, *this), r;
  }
  template <unsigned M>
  auto split() const {
    std::array<accum<Tag, M>, N / M> r;
    for (unsigned i = 0; i < N / M; ++i) r[i] = extract<M>(i);
    return r;
  }
};

template <class T>
struct is_accum : std::false_type {};
template <class Tag, unsigned N>
struct is_accum<accum<Tag, N>> : std::true_type {};
template <class T>
concept Accum = is_accum<std::remove_cvref_t<T>>::value;

template <class Tag, class T, unsigned N>
accum<Tag, N> from_vector(const vector<T, N>& v, int shift = 0) {
  accum<Tag, N> r;
  return r.from_vector(v, shift), r;
}
template <class T, class Tag, unsigned N>
vector<T, N> to_vector(const accum<Tag, N>& a, int shift = 0) { return a.template to_vector<T>(shift); }

}  // namespace aie
