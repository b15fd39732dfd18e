// Permutations of lanes.
#pragma once

#include <utility>

#include "arith.h"

namespace aie {

template <class T, unsigned N, class... V>
auto concat(const vector<T, N>& first, const V&... rest) {
  vector<T, N*(1 + sizeof...(rest))> r;
  unsigned i = 0;
  r.template insert<N>(i++, first);
  ((r.template insert<N>(i++, rest)), ...);
  return r;
}
template <class Tag, unsigned N, class... A>
auto concat(const accum<Tag, N>& first, const A&... rest) {
  accum<Tag, N*(1 + sizeof...(rest))> r;
  unsigned i = 0;
  r.insert(i++, first);
  ((r.insert(i++, rest)), ...);
  return r;
}
template <class V>
auto concat(const std::pair<V, V>& p) { return concat(p.first, p.second); }

// out[i] = in[i + n]; what enters from above is `fill`, or undefined.
template <class T, unsigned N>
vector<T, N> shuffle_down_fill(const vector<T, N>& v, const vector<T, N>& fill, unsigned n) {
  if (n > N) detail::bad_lane("shuffle", n, N + 1);
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = i + n < N ? v.data[i + n] : fill.data[i + n - N];
  return r;
}
template <class T, unsigned N>
vector<T, N> shuffle_up_fill(const vector<T, N>& v, const vector<T, N>& fill, unsigned n) {
  if (n > N) detail::bad_lane("shuffle", n, N + 1);
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = i >= n ? v.data[i - n] : fill.data[i + N - n];
  return r;
}
template <class T, unsigned N>
vector<T, N> shuffle_down(const vector<T, N>& v, unsigned n) { return shuffle_down_fill(v, vector<T, N>(), n); }
template <class T, unsigned N>
vector<T, N> shuffle_up(const vector<T, N>& v, unsigned n) { return shuffle_up_fill(v, vector<T, N>(), n); }
template <class T, unsigned N>
vector<T, N> shuffle_down_rotate(const vector<T, N>& v, unsigned n) { return shuffle_down_fill(v, v, n); }
template <class T, unsigned N>
vector<T, N> shuffle_up_rotate(const vector<T, N>& v, unsigned n) { return shuffle_up_fill(v, v, n); }
template <class T, unsigned N>
vector<T, N> shuffle_down_replicate(const vector<T, N>& v, unsigned n) {
  return shuffle_down_fill(v, broadcast<T, N>(v.data[N - 1]), n);
}
template <class T, unsigned N>
vector<T, N> shuffle_up_replicate(const vector<T, N>& v, unsigned n) {
  return shuffle_up_fill(v, broadcast<T, N>(v.data[0]), n);
}
template <class T, unsigned N>
vector<T, N> reverse(const vector<T, N>& v) {
  vector<T, N> r;
  for (unsigned i = 0; i < N; ++i) r.data[i] = v.data[N - 1 - i];
  return r;
}

// v as rows x cols, row by row; the result is its transpose, row by row.
template <class T, unsigned N>
vector<T, N> transpose(const vector<T, N>& v, unsigned rows, unsigned cols) {
  if (rows * cols != N) adf::sim::fail("RUB-AIE-511", "transpose of %u lanes as %u x %u", N, rows, cols);
  vector<T, N> r;
  for (unsigned i = 0; i < rows; ++i)
    for (unsigned j = 0; j < cols; ++j) r.data[j * rows + i] = v.data[i * cols + j];
  return r;
}

// Every second chunk, from the first or from the second.
template <class T, unsigned N>
vector<T, N / 2> filter_even(const vector<T, N>& v, unsigned chunk = 1) {
  vector<T, N / 2> r;
  for (unsigned i = 0; i < N / 2; ++i) r.data[i] = v.data[i / chunk * 2 * chunk + i % chunk];
  return r;
}
template <class T, unsigned N>
vector<T, N / 2> filter_odd(const vector<T, N>& v, unsigned chunk = 1) {
  vector<T, N / 2> r;
  for (unsigned i = 0; i < N / 2; ++i) r.data[i] = v.data[i / chunk * 2 * chunk + chunk + i % chunk];
  return r;
}

// zip: chunks of v and w alternately, the lower and the upper half of the result.
// unzip: the even chunks of v and w, then the odd ones.
template <class T, unsigned N>
std::pair<vector<T, N>, vector<T, N>> interleave_zip(const vector<T, N>& v, const vector<T, N>& w, unsigned chunk) {
  std::pair<vector<T, N>, vector<T, N>> r;
  for (unsigned i = 0; i < 2 * N; ++i) {
    const unsigned c = i / chunk, from = c / 2 * chunk + i % chunk;
    (i < N ? r.first.data[i] : r.second.data[i - N]) = c % 2 ? w.data[from] : v.data[from];
  }
  return r;
}
template <class T, unsigned N>
std::pair<vector<T, N>, vector<T, N>> interleave_unzip(const vector<T, N>& v, const vector<T, N>& w, unsigned chunk) {
  std::pair<vector<T, N>, vector<T, N>> r;
  for (unsigned i = 0; i < 2 * N; ++i) {
    const unsigned c = i / chunk, to = c / 2 * chunk + i % chunk;
    (c % 2 ? r.second.data[to] : r.first.data[to]) = i < N ? v.data[i] : w.data[i - N];
  }
  return r;
}

}  // namespace aie
