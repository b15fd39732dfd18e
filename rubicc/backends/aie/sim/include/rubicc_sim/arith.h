// Lane-wise arithmetic, comparison, selection, bits and reductions.
#pragma once

#include "load_store.h"

namespace aie {

namespace detail {

template <class T>
concept Scalar = std::is_arithmetic_v<std::remove_cvref_t<T>> || std::is_same_v<std::remove_cvref_t<T>, bfloat16>;

// Element type and lane of either a vector or a scalar, so that every operation takes both.
template <class V>
struct operand { using element = std::remove_cvref_t<V>; static constexpr unsigned size = 0; };
template <class T, unsigned N>
struct operand<vector<T, N>> { using element = T; static constexpr unsigned size = N; };
template <class V>
using element_of = typename operand<std::remove_cvref_t<V>>::element;
template <class V>
constexpr unsigned size_of_operand = operand<std::remove_cvref_t<V>>::size;
template <class V>
inline auto lane_of(const V& v, unsigned i) {
  if constexpr (Vector<V>) return v.data[i];
  else return v;
}
template <class A, class B>
constexpr unsigned common_size = size_of_operand<A> ? size_of_operand<A> : size_of_operand<B>;
template <class A, class B>
concept Operands = (Vector<A> && (Vector<B> || Scalar<B>)) || (Scalar<A> && Vector<B>);

}  // namespace detail

// Products into an accumulator.
template <class Tag = detail::accauto, class A, class B>
  requires detail::Operands<A, B>
auto mul(const A& a, const B& b) {
  using tag = detail::tag_or_default<Tag, detail::element_of<A>, detail::element_of<B>>;
  constexpr unsigned N = detail::common_size<A, B>;
  accum<tag, N> r;
  using W = typename decltype(r)::lane_type;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::wrap<tag>(W(W(detail::lane_of(a, i)) * W(detail::lane_of(b, i))));
  return r;
}
template <class Tag = detail::accauto, class A, class B>
  requires detail::Operands<A, B>
auto negmul(const A& a, const B& b) {
  auto r = mul<Tag>(a, b);
  for (auto& v : r.data) v = detail::wrap<typename decltype(r)::value_type>(-v);
  return r;
}
template <class Tag, unsigned N, class A, class B>
  requires detail::Operands<A, B>
accum<Tag, N> mac(const accum<Tag, N>& acc, const A& a, const B& b) {
  static_assert(detail::common_size<A, B> == N);
  accum<Tag, N> r;
  using W = typename accum<Tag, N>::lane_type;
  for (unsigned i = 0; i < N; ++i)
    r.data[i] = detail::wrap<Tag>(W(acc.data[i] + W(W(detail::lane_of(a, i)) * W(detail::lane_of(b, i)))));
  return r;
}
template <class Tag, unsigned N, class A, class B>
  requires detail::Operands<A, B>
accum<Tag, N> msc(const accum<Tag, N>& acc, const A& a, const B& b) {
  accum<Tag, N> r;
  using W = typename accum<Tag, N>::lane_type;
  for (unsigned i = 0; i < N; ++i)
    r.data[i] = detail::wrap<Tag>(W(acc.data[i] - W(W(detail::lane_of(a, i)) * W(detail::lane_of(b, i)))));
  return r;
}
template <class Tag = detail::accauto, class T, unsigned N>
auto mul_square(const vector<T, N>& v) { return mul<Tag>(v, v); }
template <class Tag, unsigned N, class T>
accum<Tag, N> mac_square(const accum<Tag, N>& acc, const vector<T, N>& v) { return mac(acc, v, v); }
template <class Tag, unsigned N, class T>
accum<Tag, N> msc_square(const accum<Tag, N>& acc, const vector<T, N>& v) { return msc(acc, v, v); }

// Sums: of vectors (the lane's own width, wrapping), of accumulators, of an accumulator and a vector.
#define RUBICC_SIM_BINARY(NAME, EXPRESSION)                                                                     \
  template <class A, class B>                                                                                   \
    requires detail::Operands<A, B>                                                                             \
  auto NAME(const A& x, const B& y) {                                                                           \
    using T = std::conditional_t<Vector<A>, detail::element_of<A>, detail::element_of<B>>;                      \
    constexpr unsigned N = detail::common_size<A, B>;                                                           \
    using L = std::conditional_t<std::is_same_v<T, bfloat16>, float, detail::lane_t<T>>;                        \
    vector<T, N> r;                                                                                             \
    for (unsigned i = 0; i < N; ++i) {                                                                          \
      const L a = L(detail::lane_of(x, i)), b = L(detail::lane_of(y, i));                                       \
      r.data[i] = detail::lane_t<T>(EXPRESSION);                                                                \
    }                                                                                                           \
    return r;                                                                                                   \
  }
RUBICC_SIM_BINARY(add, a + b)
RUBICC_SIM_BINARY(sub, a - b)
RUBICC_SIM_BINARY(max, a > b ? a : b)
RUBICC_SIM_BINARY(min, a < b ? a : b)
RUBICC_SIM_BINARY(maxdiff, a > b ? L(a - b) : L(0))
RUBICC_SIM_BINARY(bit_and, a& b)
RUBICC_SIM_BINARY(bit_or, a | b)
RUBICC_SIM_BINARY(bit_xor, a ^ b)
#undef RUBICC_SIM_BINARY

#define RUBICC_SIM_SUM(NAME, OP)                                                                                \
  template <class Tag, unsigned N>                                                                              \
  accum<Tag, N> NAME(const accum<Tag, N>& a, const accum<Tag, N>& b) {                                          \
    accum<Tag, N> r;                                                                                            \
    using W = typename accum<Tag, N>::lane_type;                                                                \
    for (unsigned i = 0; i < N; ++i) r.data[i] = detail::wrap<Tag>(W(a.data[i] OP b.data[i]));                  \
    return r;                                                                                                   \
  }                                                                                                             \
  template <class Tag, unsigned N, class T>                                                                     \
  accum<Tag, N> NAME(const accum<Tag, N>& a, const vector<T, N>& v) {                                           \
    accum<Tag, N> r;                                                                                            \
    using W = typename accum<Tag, N>::lane_type;                                                                \
    for (unsigned i = 0; i < N; ++i) r.data[i] = detail::wrap<Tag>(W(a.data[i] OP W(v.data[i])));               \
    return r;                                                                                                   \
  }                                                                                                             \
  template <class Tag, unsigned N, detail::Scalar S>                                                            \
  accum<Tag, N> NAME(const accum<Tag, N>& a, S s) {                                                             \
    accum<Tag, N> r;                                                                                            \
    using W = typename accum<Tag, N>::lane_type;                                                                \
    for (unsigned i = 0; i < N; ++i) r.data[i] = detail::wrap<Tag>(W(a.data[i] OP W(s)));                       \
    return r;                                                                                                   \
  }
RUBICC_SIM_SUM(add, +)
RUBICC_SIM_SUM(sub, -)
#undef RUBICC_SIM_SUM

template <class Tag, unsigned N>
accum<Tag, N> neg(const accum<Tag, N>& a) {
  accum<Tag, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::wrap<Tag>(typename accum<Tag, N>::lane_type(-a.data[i]));
  return r;
}
template <class T, unsigned N>
vector<T, N> neg(const vector<T, N>& v) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::lane_t<T>(-v.data[i]);
  return r;
}
template <class T, unsigned N>
vector<T, N> abs(const vector<T, N>& v) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::lane_t<T>(v.data[i] < 0 ? -v.data[i] : v.data[i]);
  return r;
}
template <class T, unsigned N>
vector<T, N> bit_not(const vector<T, N>& v) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::lane_t<T>(~v.data[i]);
  return r;
}
template <class V, class L, class H>
auto clamp(const V& v, const L& low, const H& high) { return min(max(v, low), high); }

template <class T, unsigned N>
vector<T, N> upshift(const vector<T, N>& v, unsigned shift) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::lane_t<T>(std::uint64_t(std::int64_t(v.data[i])) << shift);
  return r;
}
// Arithmetic, towards minus infinity whatever the rounding mode.
template <class T, unsigned N>
vector<T, N> downshift(const vector<T, N>& v, unsigned shift) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::lane_t<T>(std::int64_t(v.data[i]) >> shift);
  return r;
}
template <class T, unsigned N>
vector<T, N> logical_downshift(const vector<T, N>& v, unsigned shift) {
  using U = std::make_unsigned_t<detail::lane_t<T>>;
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = detail::lane_t<T>(std::uint64_t(U(v.data[i])) >> shift);
  return r;
}

// Comparisons give a mask; select takes b where the mask is set.
#define RUBICC_SIM_COMPARE(NAME, OP)                                                                            \
  template <class A, class B>                                                                                   \
    requires detail::Operands<A, B>                                                                             \
  auto NAME(const A& a, const B& b) {                                                                           \
    constexpr unsigned N = detail::common_size<A, B>;                                                           \
    mask<N> r;                                                                                                  \
    for (unsigned i = 0; i < N; ++i) r.bit[i] = detail::lane_of(a, i) OP detail::lane_of(b, i);                 \
    return r;                                                                                                   \
  }
RUBICC_SIM_COMPARE(lt, <)
RUBICC_SIM_COMPARE(le, <=)
RUBICC_SIM_COMPARE(gt, >)
RUBICC_SIM_COMPARE(ge, >=)
RUBICC_SIM_COMPARE(eq, ==)
RUBICC_SIM_COMPARE(neq, !=)
#undef RUBICC_SIM_COMPARE

template <class A, class B, unsigned N>
  requires detail::Operands<A, B>
auto select(const A& a, const B& b, const mask<N>& m) {
  using T = std::conditional_t<Vector<A>, detail::element_of<A>, detail::element_of<B>>;
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i)
    r.data[i] = m.bit[i] ? detail::lane_t<T>(detail::lane_of(b, i)) : detail::lane_t<T>(detail::lane_of(a, i));
  return r;
}

// One value over all lanes.
template <class T, unsigned N>
vector<T, N> broadcast(detail::lane_t<T> value) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = value;
  return r;
}
template <class T, unsigned N>
vector<T, N> zeros()
  requires(detail::is_element<T>)
{ return broadcast<T, N>(detail::lane_t<T>(0)); }
template <class Tag, unsigned N>
accum<Tag, N> zeros()
  requires(detail::is_accum_tag<Tag>)
{
  accum<Tag, N> r;
  std::memset(r.data, 0, sizeof r.data);
  return r;
}

template <class T, unsigned N>
detail::lane_t<T> reduce_add(const vector<T, N>& v) {
  std::conditional_t<detail::is_float<T>, float, std::int64_t> s = 0;
  if constexpr (detail::is_float<T>) {  // pairwise, as a tree of shuffles adds
    float part[N];
    for (unsigned i = 0; i < N; ++i) part[i] = v.data[i];
    for (unsigned half = N / 2; half; half /= 2)
      for (unsigned i = 0; i < half; ++i) part[i] += part[i + half];
    s = part[0];
  } else {
    for (unsigned i = 0; i < N; ++i) s += v.data[i];
  }
  return detail::lane_t<T>(s);
}
template <class T, unsigned N, class... Others>
vector<T, N> reduce_add_v(const vector<T, N>& v, const Others&... others) {
  vector<T, N> r = broadcast<T, N>(0);
  unsigned i = 0;
  r.set(reduce_add(v), i++);
  ((r.set(reduce_add(others), i++)), ...);
  return r;
}
template <class T, unsigned N>
detail::lane_t<T> reduce_max(const vector<T, N>& v) {
  auto m = v.data[0];
  for (unsigned i = 1; i < N; ++i) m = v.data[i] > m ? v.data[i] : m;
  return m;
}
template <class T, unsigned N>
detail::lane_t<T> reduce_min(const vector<T, N>& v) {
  auto m = v.data[0];
  for (unsigned i = 1; i < N; ++i) m = v.data[i] < m ? v.data[i] : m;
  return m;
}

}  // namespace aie
