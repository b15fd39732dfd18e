// aie::vector and aie::mask: registers of N lanes.
#pragma once

#include <array>

#include "types.h"

namespace aie {

template <class T, unsigned N>
class vector;

namespace detail {

[[gnu::noinline, gnu::cold]] inline void bad_lane(const char* what, unsigned idx, unsigned count) {
  adf::sim::fail("RUB-AIE-511", "%s of index %u, of %u", what, idx, count);
}
inline void check_index(const char* what, unsigned idx, unsigned count) {
  if (__builtin_expect(idx >= count, 0)) bad_lane(what, idx, count);
}

template <class T>
struct wider { using type = void; };
template <class T>
struct narrower { using type = void; };
template <> struct wider<int4> { using type = int8; };
template <> struct wider<uint4> { using type = uint8; };
template <> struct wider<int8> { using type = int16; };
template <> struct wider<uint8> { using type = uint16; };
template <> struct wider<int16> { using type = int32; };
template <> struct wider<uint16> { using type = uint32; };
template <> struct narrower<int8> { using type = int4; };
template <> struct narrower<uint8> { using type = uint4; };
template <> struct narrower<int16> { using type = int8; };
template <> struct narrower<uint16> { using type = uint8; };
template <> struct narrower<int32> { using type = int16; };
template <> struct narrower<uint32> { using type = uint16; };

// Smallest and largest value of an element under the saturation mode.
template <class T>
constexpr std::int64_t top() {
  return is_signed_element<T> ? (std::int64_t(1) << (bits_of<T> - 1)) - 1
                              : std::int64_t((std::uint64_t(1) << (bits_of<T> % 64)) - 1);
}
template <class T>
constexpr std::int64_t bottom() { return is_signed_element<T> ? -(std::int64_t(1) << (bits_of<T> - 1)) : 0; }

// The low bits of v as a lane of T, which is what is left without saturation.
template <class T>
inline lane_t<T> truncate(std::int64_t v) {
  if constexpr (std::is_same_v<T, int4>) return std::int8_t(std::int8_t(std::uint8_t(v) << 4) >> 4);
  else if constexpr (std::is_same_v<T, uint4>) return std::uint8_t(v & 15);
  else return lane_t<T>(v);
}

template <class T, unsigned N>
constexpr unsigned vector_bytes = bits_of<T> * N / 8;

}  // namespace detail

// N flags, one per lane.
template <unsigned N>
class mask {
 public:
  std::array<bool, N> bit{};
  static constexpr unsigned size() { return N; }
  bool test(unsigned i) const { return bit[i]; }
  void set(unsigned i) { bit[i] = true; }
  void clear(unsigned i) { bit[i] = false; }
  unsigned count() const {
    unsigned n = 0;
    for (bool b : bit) n += b;
    return n;
  }
  bool empty() const { return count() == 0; }
  bool full() const { return count() == N; }
  mask operator~() const {
    mask r;
    for (unsigned i = 0; i < N; ++i) r.bit[i] = !bit[i];
    return r;
  }
  mask operator&(const mask& o) const {
    mask r;
    for (unsigned i = 0; i < N; ++i) r.bit[i] = bit[i] && o.bit[i];
    return r;
  }
  mask operator|(const mask& o) const {
    mask r;
    for (unsigned i = 0; i < N; ++i) r.bit[i] = bit[i] || o.bit[i];
    return r;
  }
  mask operator^(const mask& o) const {
    mask r;
    for (unsigned i = 0; i < N; ++i) r.bit[i] = bit[i] != o.bit[i];
    return r;
  }
};

template <class T, unsigned N>
class vector {
  static_assert(detail::is_element<T>, "an element type of the AI Engine (complex types are not modelled)");
  static_assert((N & (N - 1)) == 0 && detail::vector_bytes<T, N> >= 16 && detail::vector_bytes<T, N> <= 1024,
                "vectors are a power of two of lanes, 128 bits or more");

 public:
  using value_type = T;
  using lane_type = detail::lane_t<T>;
  alignas(detail::vector_bytes<T, N> < 64 ? 16 : 64) lane_type data[N];

  static constexpr unsigned type_bits() { return detail::bits_of<T>; }
  static constexpr unsigned size() { return N; }
  static constexpr unsigned bits() { return detail::bits_of<T> * N; }
  static constexpr unsigned bytes() { return bits() / 8; }
  static constexpr bool is_signed() { return detail::is_signed_element<T>; }
  static constexpr bool is_complex() { return false; }
  static constexpr bool is_real() { return true; }
  static constexpr bool is_integral() { return !detail::is_float<T>; }
  static constexpr bool is_floating_point() { return detail::is_float<T>; }

  // A new register holds nothing defined; a fixed pattern, so that reading it is seen, and seen always.
  vector() { std::memset(static_cast<void*>(data), 0xA5, sizeof data); }
  vector(const vector&) = default;
  vector& operator=(const vector&) = default;
  template <class... V>
    requires(sizeof...(V) + 1 == N && N > 1)
  explicit vector(lane_type first, V... rest) : data{first, lane_type(rest)...} {}

  lane_type get(unsigned i) const { return detail::check_index("vector lane", i, N), data[i]; }
  void set(lane_type v, unsigned i) { detail::check_index("vector lane", i, N), data[i] = v; }
  lane_type operator[](unsigned i) const { return get(i); }
  lane_type& operator[](unsigned i) { return detail::check_index("vector lane", i, N), data[i]; }
  vector& push(lane_type v) {
    for (unsigned i = N - 1; i > 0; --i) data[i] = data[i - 1];
    data[0] = v;
    return *this;
  }

  template <unsigned M>
  vector& insert(unsigned idx, const vector<T, M>& v) {
    static_assert(M <= N);
    detail::check_index("insert", idx, N / M);
    std::memcpy(data + idx * M, v.data, M * sizeof(lane_type));
    return *this;
  }
  template <unsigned M>
  vector<T, M> extract(unsigned idx) const {
    static_assert(M <= N);
    detail::check_index("extract", idx, N / M);
    vector<T, M> r;
    std::memcpy(r.data, data + idx * M, M * sizeof(lane_type));
    return r;
  }
  template <unsigned M>
  auto split() const {
    std::array<vector<T, M>, N / M> r;
    for (unsigned i = 0; i < N / M; ++i) r[i] = extract<M>(i);
    return r;
  }
  template <unsigned M>
  vector<T, M> grow(unsigned idx = 0) const {
    vector<T, M> r;
    return r.template insert<N>(idx, *this), r;
  }
  template <unsigned M>
  vector<T, M> grow_replicate() const {
    vector<T, M> r;
    for (unsigned i = 0; i < M / N; ++i) r.template insert<N>(i, *this);
    return r;
  }
  template <class... V>
  vector& upd_all(const V&... parts) {
    unsigned i = 0;
    ((insert(i++, parts)), ...);
    return *this;
  }

  // The same bits as other elements.
  template <class U>
  auto cast_to() const {
    constexpr unsigned M = bits() / detail::bits_of<U>;
    if constexpr (std::is_same_v<U, T>) {
      return *this;
    } else if constexpr (detail::is_nibble<T>) {
      vector<U, M> r;
      unsigned char raw[N / 2];
      for (unsigned i = 0; i < N / 2; ++i) raw[i] = (data[2 * i] & 15) | ((data[2 * i + 1] & 15) << 4);
      if constexpr (detail::is_nibble<U>) {
        for (unsigned i = 0; i < N; ++i) r.data[i] = detail::truncate<U>(data[i]);
      } else {
        std::memcpy(static_cast<void*>(r.data), raw, N / 2);
      }
      return r;
    } else if constexpr (detail::is_nibble<U>) {
      vector<U, M> r;
      unsigned char raw[M / 2];
      std::memcpy(raw, data, M / 2);
      for (unsigned i = 0; i < M; ++i) r.data[i] = detail::truncate<U>(raw[i / 2] >> (i % 2 * 4));
      return r;
    } else {
      vector<U, M> r;
      std::memcpy(static_cast<void*>(r.data), data, sizeof data);
      return r;
    }
  }

  template <class U = typename detail::wider<T>::type>
  vector<U, N> unpack() const {
    static_assert(detail::bits_of<U> > detail::bits_of<T>);
    vector<U, N> r;
    for (unsigned i = 0; i < N; ++i) r.data[i] = detail::lane_t<U>(data[i]);
    return r;
  }
  // To the narrower type under the core's saturation mode.
  template <class U = typename detail::narrower<T>::type>
  vector<U, N> pack() const {
    static_assert(detail::bits_of<U> < detail::bits_of<T>);
    const saturation_mode mode = adf::sim::core->saturation;
    vector<U, N> r;
    if (mode == saturation_mode::none) {
      for (unsigned i = 0; i < N; ++i) r.data[i] = detail::truncate<U>(data[i]);
    } else {
      const lane_type hi = lane_type(detail::top<U>());
      const bool even = mode == saturation_mode::symmetric && detail::is_signed_element<U>;
      const std::int64_t low = even ? -detail::top<U>() : detail::bottom<U>();
      const lane_type lo = std::is_signed_v<lane_type> ? lane_type(low) : lane_type(low < 0 ? 0 : low);
      for (unsigned i = 0; i < N; ++i) {
        const lane_type v = data[i] > hi ? hi : data[i] < lo ? lo : data[i];
        r.data[i] = detail::lane_t<U>(v);
      }
    }
    return r;
  }

  void load(const T* p);
  void store(T* p) const;
};

template <class T>
struct is_vector : std::false_type {};
template <class T, unsigned N>
struct is_vector<vector<T, N>> : std::true_type {};
template <class T>
concept Vector = is_vector<std::remove_cvref_t<T>>::value;

template <class U, class T, unsigned N>
auto vector_cast(const vector<T, N>& v) { return v.template cast_to<U>(); }

}  // namespace aie
