// The kernel's side of ADF: buffers, streams, cascades. What moves the data stands in the runtime.
#pragma once

#include "load_store.h"

namespace adf {

enum class direction { in, out, inout };
inline constexpr direction input = direction::in;
inline constexpr direction output = direction::out;
inline constexpr direction inout = direction::inout;

inline constexpr unsigned inherited_extent = 0;
template <unsigned... N>
struct extents { static constexpr unsigned elements = (1u * ... * N); };
template <unsigned N>
struct margin { static constexpr unsigned elements = N; };
namespace addressing { struct linear; struct circular; }
namespace locking { struct sync; struct async; struct user; }

namespace sim {

struct channel;      // a stream or cascade between kernels
struct buffer_port;  // a kernel's buffer port with its copies

void stream_read(channel*, void* to, unsigned bytes);
void stream_write(channel*, const void* from, unsigned bytes);
void cascade_read(channel*, void* to, unsigned bytes, char key, unsigned bits);
void cascade_write(channel*, const void* from, unsigned bytes, char key, unsigned bits);
void acquire(buffer_port*);
void release(buffer_port*);

// What a buffer argument of a kernel holds, whatever its element type.
struct buffer_handle {
  void* memory = nullptr;
  unsigned elements = 0;
  buffer_port* port = nullptr;
};

template <class C>
struct option_extents { static constexpr unsigned value = 0; };
template <unsigned... N>
struct option_extents<extents<N...>> { static constexpr unsigned value = extents<N...>::elements; };
template <class C>
struct option_margin { static constexpr unsigned value = 0; };
template <unsigned N>
struct option_margin<margin<N>> { static constexpr unsigned value = N; };
template <class C>
constexpr bool option_async = std::is_same_v<C, locking::async> || std::is_same_v<C, locking::user>;

}  // namespace sim

template <class T, direction D, class... Options>
class io_buffer : public sim::buffer_handle {
 public:
  using value_type = T;
  static constexpr unsigned fixed_extent = (0u + ... + sim::option_extents<Options>::value);
  static constexpr unsigned margin_elements = (0u + ... + sim::option_margin<Options>::value);
  static constexpr bool asynchronous = (false || ... || sim::option_async<Options>);
  using pointer = std::conditional_t<D == direction::in, const T*, T*>;
  static_assert(!(false || ... || std::is_same_v<Options, addressing::circular>), "circular buffers are not modelled");

  // Start of the buffer; with a margin, of the margin.
  pointer data() { return static_cast<pointer>(check()); }
  pointer data() const { return static_cast<pointer>(check()); }
  unsigned size() const { return elements; }
  void acquire()
    requires asynchronous
  { sim::acquire(port); }
  void release()
    requires asynchronous
  { sim::release(port), memory = nullptr; }

 private:
  void* check() const {
    if (!memory) sim::fail("RUB-AIE-507", "a buffer is used that the kernel has not acquired");
    return memory;
  }
};
template <class T, class... O>
using input_buffer = io_buffer<T, direction::in, O...>;
template <class T, class... O>
using output_buffer = io_buffer<T, direction::out, O...>;
template <class T, class... O>
using inout_buffer = io_buffer<T, direction::inout, O...>;
template <class T, class... O>
using input_async_buffer = io_buffer<T, direction::in, locking::async, O...>;
template <class T, class... O>
using output_async_buffer = io_buffer<T, direction::out, locking::async, O...>;

template <class T>
struct input_stream { sim::channel* from = nullptr; };
template <class T>
struct output_stream { sim::channel* to = nullptr; };
template <class T>
struct input_cascade { sim::channel* from = nullptr; };
template <class T>
struct output_cascade { sim::channel* to = nullptr; };

// Streams: the elements' bytes in order. TLAST is accepted and not carried.
template <class T>
T readincr(input_stream<T>* s) {
  T v;
  return sim::stream_read(s->from, &v, sizeof v), v;
}
template <class T>
T readincr(input_stream<T>* s, bool& tlast) { return tlast = false, readincr(s); }
template <unsigned N, class T>
aie::vector<T, N> readincr_v(input_stream<T>* s) {
  alignas(64) unsigned char raw[aie::detail::vector_bytes<T, N>];
  sim::stream_read(s->from, raw, sizeof raw);
  aie::vector<T, N> v;
  return aie::detail::read(v, raw), v;
}
template <unsigned N, class T>
aie::vector<T, N> readincr_v(input_stream<T>* s, bool& tlast) { return tlast = false, readincr_v<N>(s); }
template <class T>
void writeincr(output_stream<T>* s, std::type_identity_t<T> v, bool = false) { sim::stream_write(s->to, &v, sizeof v); }
template <class T, unsigned N>
void writeincr(output_stream<T>* s, const aie::vector<T, N>& v, bool = false) {
  unsigned char raw[aie::detail::vector_bytes<T, N>];
  aie::detail::write(raw, v);
  sim::stream_write(s->to, raw, sizeof raw);
}

// Cascades: whole lanes of sums. What is read must be what was written: same kind, same width.
namespace sim {
template <class T>
constexpr char cascade_key() {
  if constexpr (!aie::detail::is_accum_tag<T>) return 'v';
  else return std::is_same_v<T, accfloat> ? 'f' : 'a';
}
template <class T>
constexpr unsigned cascade_bits() {
  if constexpr (aie::detail::is_accum_tag<T>) return aie::detail::acc_info<T>::bits;
  else return aie::detail::bits_of<T>;
}
}  // namespace sim
template <unsigned N, class T>
auto readincr_v(input_cascade<T>* c) {
  if constexpr (aie::detail::is_accum_tag<T>) {
    aie::accum<T, N> a;
    return sim::cascade_read(c->from, a.data, sizeof a.data, sim::cascade_key<T>(), sim::cascade_bits<T>()), a;
  } else {
    aie::vector<T, N> v;
    return sim::cascade_read(c->from, v.data, sizeof v.data, 'v', sim::cascade_bits<T>()), v;
  }
}
template <class T, unsigned N>
void writeincr(output_cascade<T>* c, const aie::accum<T, N>& a) {
  sim::cascade_write(c->to, a.data, sizeof a.data, sim::cascade_key<T>(), sim::cascade_bits<T>());
}
template <class T, unsigned N>
void writeincr(output_cascade<T>* c, const aie::vector<T, N>& v) {
  sim::cascade_write(c->to, v.data, sizeof v.data, 'v', sim::cascade_bits<T>());
}

}  // namespace adf

// Kernels name these with and without the namespace.
using adf::input_buffer;
using adf::input_cascade;
using adf::input_stream;
using adf::output_buffer;
using adf::output_cascade;
using adf::output_stream;
using adf::readincr;
using adf::readincr_v;
using adf::writeincr;

namespace aie {

template <unsigned N, class T, adf::direction D, class... O>
auto begin_vector(adf::io_buffer<T, D, O...>& b) { return begin_vector<N>(b.data()); }
template <unsigned N, class T, adf::direction D, class... O>
auto cbegin_vector(const adf::io_buffer<T, D, O...>& b) { return cbegin_vector<N>(static_cast<const T*>(b.data())); }
template <unsigned N, class T, adf::direction D, class... O>
auto begin_restrict_vector(adf::io_buffer<T, D, O...>& b) { return begin_vector<N>(b.data()); }
template <class T, adf::direction D, class... O>
auto begin(adf::io_buffer<T, D, O...>& b) { return b.data(); }
template <class T, adf::direction D, class... O>
auto cbegin(const adf::io_buffer<T, D, O...>& b) { return static_cast<const T*>(b.data()); }

}  // namespace aie
