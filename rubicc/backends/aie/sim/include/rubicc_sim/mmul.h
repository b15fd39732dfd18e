// aie::mmul: C (M x N) += A (M x K) * B (K x N), all three row by row; and aie::sliding_mul.
#pragma once

#include "mmul_shapes.h"
#include "shuffle.h"

namespace aie {

namespace detail {

// One row of C at a time: g++ turns it into vector code. `unsigned` arithmetic wraps as the accumulator does.
template <unsigned M, unsigned K, unsigned N, class W, class A, class B>
inline void multiply(W* __restrict c, const A* __restrict a, const B* __restrict b) {
  if constexpr (std::is_floating_point_v<W>) {
    for (unsigned m = 0; m < M; ++m)
      for (unsigned n = 0; n < N; ++n) {
        W s = c[m * N + n];
        for (unsigned k = 0; k < K; ++k) s += W(a[m * K + k]) * W(b[k * N + n]);
        c[m * N + n] = s;
      }
  } else if constexpr (N >= 4) {
    typedef W row __attribute__((vector_size(N * sizeof(W))));
    typedef B brow __attribute__((vector_size(N * sizeof(B))));
    row wide[K];
    for (unsigned k = 0; k < K; ++k) {
      brow r;
      std::memcpy(&r, b + k * N, sizeof r);
      wide[k] = __builtin_convertvector(r, row);
    }
    for (unsigned m = 0; m < M; ++m) {
      row s;
      std::memcpy(&s, c + m * N, sizeof s);
      for (unsigned k = 0; k < K; ++k) s += wide[k] * W(a[m * K + k]);
      std::memcpy(c + m * N, &s, sizeof s);
    }
  } else {
    using U = std::make_unsigned_t<W>;
    for (unsigned m = 0; m < M; ++m)
      for (unsigned n = 0; n < N; ++n) {
        U s = U(c[m * N + n]);
        for (unsigned k = 0; k < K; ++k) s += U(W(a[m * K + k])) * U(W(b[k * N + n]));
        c[m * N + n] = W(s);
      }
  }
}

}  // namespace detail

template <unsigned M_, unsigned K_, unsigned N_, class TypeA, class TypeB = TypeA, class Tag = detail::accauto>
struct mmul {
  static constexpr unsigned M = M_, K = K_, N = N_;
  static constexpr unsigned size_A = M * K, size_B = K * N, size_C = M * N;
  using acc_tag = detail::tag_or_default<Tag, TypeA, TypeB>;
  using accum_type = accum<acc_tag, size_C>;
  using value_type = acc_tag;
  static_assert(detail::shape_exists<TypeA, TypeB>(M, K, N),
                "aie_api documents no mmul of this shape for these types on this architecture");

  static constexpr unsigned size() { return size_C; }

  // A new object holds nothing: its first mac is a mul.
  mmul() : zero(true) {}
  explicit mmul(bool to_zero) : zero(to_zero) {}
  mmul(const accum_type& a) : sum(a), zero(false) {}
  template <class T>
  mmul(const vector<T, size_C>& v, int shift = 0) : sum(v, shift), zero(false) {}
  mmul& operator=(const accum_type& a) { return sum = a, zero = false, *this; }

  mmul& mul(const vector<TypeA, size_A>& a, const vector<TypeB, size_B>& b) { return zero = true, mac(a, b); }
  mmul& mac(const vector<TypeA, size_A>& a, const vector<TypeB, size_B>& b) {
    if (zero) std::memset(sum.data, 0, sizeof sum.data);
    zero = false;
    detail::multiply<M, K, N>(sum.data, a.data, b.data);
    if constexpr (detail::acc_info<acc_tag>::bits == 48)
      for (auto& v : sum.data) v = detail::wrap<acc_tag>(v);
    return *this;
  }

  accum_type to_accum() const { return check(), sum; }
  operator accum_type() const { return to_accum(); }
  template <class T>
  vector<T, size_C> to_vector(int shift = 0) const { return check(), sum.template to_vector<T>(shift); }

 private:
  accum_type sum;
  bool zero;
  void check() const {
    if (__builtin_expect(zero, 0)) adf::sim::fail("RUB-AIE-514", "a result is taken from an mmul that holds none");
  }
};

// out[l] = sum over p of coeff[start + p * CoeffStep] * data[start + l * DataStepY + p * DataStepX], wrapping around.
template <unsigned Lanes, unsigned Points, int CoeffStep, int DataStepX, int DataStepY, class CoeffType, class DataType,
          class Tag = detail::accauto>
struct sliding_mul_ops {
  using tag = detail::tag_or_default<Tag, CoeffType, DataType>;
  using accum_type = accum<tag, Lanes>;
  static constexpr unsigned lanes = Lanes, points = Points;
  template <unsigned NC, unsigned ND>
  static accum_type mac(const accum_type& acc, const vector<CoeffType, NC>& c, unsigned cs,
                        const vector<DataType, ND>& d, unsigned ds) {
    accum_type r = acc;
    using W = typename accum_type::lane_type;
    for (unsigned l = 0; l < Lanes; ++l)
      for (unsigned p = 0; p < Points; ++p)
        r.data[l] = detail::wrap<tag>(W(r.data[l] + W(W(c.data[(cs + p * CoeffStep) % NC]) *
                                                      W(d.data[(ds + l * DataStepY + p * DataStepX) % ND]))));
    return r;
  }
  template <unsigned NC, unsigned ND>
  static accum_type mul(const vector<CoeffType, NC>& c, unsigned cs, const vector<DataType, ND>& d, unsigned ds) {
    return mac(zeros<tag, Lanes>(), c, cs, d, ds);
  }
  template <unsigned NC, unsigned ND>
  static accum_type negmul(const vector<CoeffType, NC>& c, unsigned cs, const vector<DataType, ND>& d, unsigned ds) {
    return neg(mul(c, cs, d, ds));
  }
};
template <unsigned Lanes, unsigned Points, int CoeffStep = 1, int DataStepX = 1, int DataStepY = DataStepX,
          class Tag = detail::accauto, class TC, unsigned NC, class TD, unsigned ND>
auto sliding_mul(const vector<TC, NC>& c, unsigned cs, const vector<TD, ND>& d, unsigned ds) {
  return sliding_mul_ops<Lanes, Points, CoeffStep, DataStepX, DataStepY, TC, TD, Tag>::mul(c, cs, d, ds);
}
template <unsigned Lanes, unsigned Points, int CoeffStep = 1, int DataStepX = 1, int DataStepY = DataStepX, class Tag,
          class TC, unsigned NC, class TD, unsigned ND>
auto sliding_mac(const accum<Tag, Lanes>& acc, const vector<TC, NC>& c, unsigned cs, const vector<TD, ND>& d,
                 unsigned ds) {
  return sliding_mul_ops<Lanes, Points, CoeffStep, DataStepX, DataStepY, TC, TD, Tag>::mac(acc, c, cs, d, ds);
}

// The same for Channels interleaved channels, each with its own coefficients.
template <unsigned Outputs, unsigned Channels, unsigned Points, int CoeffStep, int DataStepX, int DataStepY,
          class CoeffType, class DataType, class Tag = detail::accauto>
struct sliding_mul_ch_ops {
  static_assert(Outputs && __AIE_ARCH__ != 10, "sliding_mul_ch exists from AIE-ML on");
  using tag = detail::tag_or_default<Tag, CoeffType, DataType>;
  static constexpr unsigned Lanes = Outputs * Channels, lanes = Lanes, points = Points;
  using accum_type = accum<tag, Lanes>;
  template <unsigned NC, unsigned ND>
  static accum_type mac(const accum_type& acc, const vector<CoeffType, NC>& c, unsigned cs,
                        const vector<DataType, ND>& d, unsigned ds) {
    accum_type r = acc;
    using W = typename accum_type::lane_type;
    for (unsigned p = 0; p < Points; ++p)
      for (unsigned l = 0; l < Lanes; ++l) {
        const unsigned ci = ((cs + p * CoeffStep) * Channels + l % Channels) % NC;
        const unsigned di = ((ds + (l / Channels + p) * DataStepX) * Channels + l % Channels * DataStepY) % ND;
        r.data[l] = detail::wrap<tag>(W(r.data[l] + W(W(c.data[ci]) * W(d.data[di]))));
      }
    return r;
  }
  template <unsigned NC, unsigned ND>
  static accum_type mul(const vector<CoeffType, NC>& c, unsigned cs, const vector<DataType, ND>& d, unsigned ds) {
    return mac(zeros<tag, Lanes>(), c, cs, d, ds);
  }
  template <unsigned NC, unsigned ND>
  static accum_type negmul(const vector<CoeffType, NC>& c, unsigned cs, const vector<DataType, ND>& d, unsigned ds) {
    return neg(mul(c, cs, d, ds));
  }
};

}  // namespace aie
