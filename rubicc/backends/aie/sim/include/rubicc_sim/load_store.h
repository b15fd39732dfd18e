// Loads and stores of vectors, with the alignment the hardware asks for, and vector iterators.
#pragma once

#include <iterator>

#include "accum.h"

namespace aie {

template <class T, unsigned N>
inline constexpr unsigned vector_ldst_align_v =
    adf::sim::access_alignment(detail::vector_bytes<std::remove_cv_t<T>, N>);
template <class T, unsigned N>
inline constexpr unsigned vector_ldst_align_elems_v = vector_ldst_align_v<T, N> * 8 / detail::bits_of<std::remove_cv_t<T>>;
inline constexpr unsigned vector_decl_align = __AIE_ARCH__ == 20 || __AIE_ARCH__ == 10 ? 32 : 64;

namespace detail {

template <class T, unsigned N>
inline void read(vector<T, N>& v, const void* p) {
  if constexpr (is_nibble<T>) {
    unsigned char raw[N / 2];
    std::memcpy(raw, p, N / 2);
    for (unsigned i = 0; i < N; ++i) v.data[i] = truncate<T>(raw[i / 2] >> (i % 2 * 4));
  } else {
    std::memcpy(static_cast<void*>(v.data), p, sizeof v.data);
  }
}
template <class T, unsigned N>
inline void write(void* p, const vector<T, N>& v) {
  if constexpr (is_nibble<T>) {
    unsigned char raw[N / 2];
    for (unsigned i = 0; i < N / 2; ++i) raw[i] = (v.data[2 * i] & 15) | ((v.data[2 * i + 1] & 15) << 4);
    std::memcpy(p, raw, N / 2);
  } else {
    std::memcpy(p, v.data, sizeof v.data);
  }
}
// An unaligned access may be told how aligned its address is at least; a false promise is an error.
template <class T>
inline void check_promise(const void* p, unsigned elements) {
  const unsigned need = elements * bits_of<T> / 8;
  if (need > 1 && reinterpret_cast<std::uintptr_t>(p) % need) adf::sim::misaligned("unaligned access", p, need, need);
}

}  // namespace detail

template <unsigned N, class T>
inline vector<std::remove_cv_t<T>, N> load_v(const T* p) {
  adf::sim::check_alignment<detail::vector_bytes<std::remove_cv_t<T>, N>>("load_v", p);
  vector<std::remove_cv_t<T>, N> r;
  return detail::read(r, p), r;
}
template <class T, unsigned N>
inline T* store_v(T* p, const vector<T, N>& v) {
  adf::sim::check_alignment<detail::vector_bytes<T, N>>("store_v", p);
  return detail::write(p, v), p;
}
template <unsigned N, class T>
inline vector<std::remove_cv_t<T>, N> load_unaligned_v(const T* p, unsigned aligned_elements = 1) {
  detail::check_promise<std::remove_cv_t<T>>(p, aligned_elements);
  vector<std::remove_cv_t<T>, N> r;
  return detail::read(r, p), r;
}
template <class T, unsigned N>
inline T* store_unaligned_v(T* p, const vector<T, N>& v, unsigned aligned_elements = 1) {
  detail::check_promise<T>(p, aligned_elements);
  return detail::write(p, v), p;
}
// From the aligned address at or below p.
template <unsigned N, class T>
inline vector<std::remove_cv_t<T>, N> load_floor_v(const T* p, unsigned = 1) {
  constexpr std::uintptr_t need = vector_ldst_align_v<T, N>;
  return load_v<N>(reinterpret_cast<const T*>(reinterpret_cast<std::uintptr_t>(p) & ~(need - 1)));
}

template <class T, unsigned N>
void vector<T, N>::load(const T* p) { *this = load_v<N>(p); }
template <class T, unsigned N>
void vector<T, N>::store(T* p) const { store_v(p, *this); }

namespace detail {

// One place of a vector iterator: reads as a vector, writes by assignment.
template <class T, unsigned N>
struct vector_place {
  using plain = std::remove_cv_t<T>;
  T* at;
  operator vector<plain, N>() const { return load_v<N>(at); }
  const vector_place& operator=(const vector<plain, N>& v) const
    requires(!std::is_const_v<T>)
  { return store_v(at, v), *this; }
};

// Steps through memory a vector at a time; Circular wraps after `count` vectors.
template <class T, unsigned N, bool Circular>
struct vector_walk {
  using iterator_category = std::input_iterator_tag;
  using value_type = vector<std::remove_cv_t<T>, N>;
  using difference_type = std::ptrdiff_t;
  using reference = std::conditional_t<std::is_const_v<T>, value_type, vector_place<T, N>>;
  using pointer = void;
  T* base = nullptr;
  std::ptrdiff_t count = 0, at = 0;

  reference operator*() const {
    if constexpr (std::is_const_v<T>) return load_v<N>(base + at * N);
    else return {base + at * N};
  }
  vector_walk& operator+=(std::ptrdiff_t n) {
    at += n;
    if constexpr (Circular) at = ((at % count) + count) % count;
    return *this;
  }
  vector_walk& operator-=(std::ptrdiff_t n) { return *this += -n; }
  vector_walk& operator++() { return *this += 1; }
  vector_walk& operator--() { return *this += -1; }
  vector_walk operator++(int) { auto r = *this; return ++*this, r; }
  vector_walk operator--(int) { auto r = *this; return --*this, r; }
  vector_walk operator+(std::ptrdiff_t n) const { auto r = *this; return r += n; }
  vector_walk operator-(std::ptrdiff_t n) const { auto r = *this; return r += -n; }
  reference operator[](std::ptrdiff_t n) const { return *(*this + n); }
  std::ptrdiff_t operator-(const vector_walk& o) const { return at - o.at; }
  bool operator==(const vector_walk& o) const { return base + at * N == o.base + o.at * N; }
};

}  // namespace detail

template <unsigned N, class T>
auto begin_vector(T* p) { return detail::vector_walk<T, N, false>{p}; }
template <unsigned N, class T>
auto cbegin_vector(const T* p) { return detail::vector_walk<const T, N, false>{p}; }
template <unsigned N, class T>
auto begin_restrict_vector(T* p) { return begin_vector<N>(p); }
template <unsigned N, class T>
auto cbegin_restrict_vector(const T* p) { return cbegin_vector<N>(p); }
template <unsigned N, class T>
auto begin_vector_circular(T* p, std::size_t elements) {
  return detail::vector_walk<T, N, true>{p, std::ptrdiff_t(elements / N)};
}
template <unsigned N, class T>
auto cbegin_vector_circular(const T* p, std::size_t elements) {
  return detail::vector_walk<const T, N, true>{p, std::ptrdiff_t(elements / N)};
}
template <unsigned N, class T, std::size_t E>
auto begin_vector_circular(T (&a)[E]) { return begin_vector_circular<N>(&a[0], E); }
template <unsigned N, class T, std::size_t E>
auto cbegin_vector_circular(const T (&a)[E]) { return cbegin_vector_circular<N>(&a[0], E); }

}  // namespace aie
