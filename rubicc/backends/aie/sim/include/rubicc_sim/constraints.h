// Constraints of a graph: where things lie, how large they are, how memory is walked. Recorded, then checked.
#pragma once

#include "graph.h"

namespace adf {

// ---- what a place can be given to -----------------------------------------------------------------------------

namespace sim {

template <class Tag>
class location_proxy {
 public:
  std::vector<place>* many = nullptr;
  place* one = nullptr;
  int kernel = -1;
  void operator=(const place& p) const {
    if (one) *one = p;
    else *many = {p};
  }
  void operator=(std::initializer_list<place> p) const {
    if (one) {
      if (p.size() != 1) fail("RUB-AIE-512", "one place is asked for, %zu are given", p.size());
      *one = *p.begin();
    } else {
      *many = p;
    }
  }
  void operator=(const location_proxy& other) const {
    if (kernel < 0 || other.kernel < 0) fail("RUB-AIE-514", "only kernels can be placed by another kernel's location");
    world::get().kernels[kernel]->same_tile_as = other.kernel;
  }
};

template <class Tag, class Object>
location_proxy<Tag> locate(Object& o) {
  location_proxy<Tag> l;
  if constexpr (std::is_same_v<Object, adf::kernel>) {
    kernel_node& k = o.node();
    l.one = std::is_same_v<Tag, stack> ? &k.stack_at : &k.at;
    l.kernel = o.id;
  } else if constexpr (std::is_same_v<Object, input_plio> || std::is_same_v<Object, output_plio>) {
    l.one = &world::get().plios[o.id]->at;
  } else if constexpr (requires { o.node().places; }) {
    l.many = &o.node().places;
  } else {
    l.many = &node_of(o)->places;
  }
  return l;
}

class dims_proxy {
 public:
  port_node* node;
  void operator=(std::initializer_list<long long> d) const { node->dims = d; }
  void operator=(const std::vector<unsigned>& d) const { node->dims.assign(d.begin(), d.end()); }
};
class text_proxy {
 public:
  std::string* text;
  void operator=(const std::string& s) const { *text = s; }
};

}  // namespace sim

template <class Tag, class Object>
sim::location_proxy<Tag> location(Object& o) { return sim::locate<Tag>(o); }

template <class Tag>
double& runtime(kernel& k) {
  static_assert(std::is_same_v<Tag, ratio>, "runtime<ratio>");
  return k.node().ratio;
}
inline sim::text_proxy source(kernel& k) { return {&k.node().source}; }
inline std::vector<std::string>& headers(kernel& k) { return k.node().headers; }
inline long long& stack_size(kernel& k) { return k.node().stack; }
inline long long& heap_size(kernel& k) { return k.node().heap; }
inline long long& repetition_count(kernel& k) { return k.node().repetitions; }
template <class T>
long long& repetition_count(shared_buffer<T>& b) { return b.node().repetitions; }
template <class T>
int& num_buffers(shared_buffer<T>& b) { return b.node().buffers; }

template <direction D>
void single_buffer(port<D>& p) { sim::node_of(p)->single = true; }
template <direction D>
sim::dims_proxy dimensions(port<D>& p) { return {sim::node_of(p)}; }
template <class... K>
int& fifo_depth(connect<K...>& c) { return c.made->fifo_depth; }

// ---- how a DMA walks a buffer ---------------------------------------------------------------------------------

inline std::vector<tiling_parameters> tiling(const tiling_parameters& t) { return {t}; }
inline std::vector<tiling_parameters> tiling(const std::vector<tiling_parameters>& t) { return t; }
template <direction D>
std::vector<tiling_parameters>& read_access(port<D>& p) { return sim::node_of(p)->reads; }
template <direction D>
std::vector<tiling_parameters>& write_access(port<D>& p) { return sim::node_of(p)->writes; }

enum class return_code { ok, error };

// Base of every graph.
class graph {
 public:
  graph() = default;
  graph(const graph&) = delete;
  virtual ~graph() = default;
  return_code init() { return sim::graph_init(this), return_code::ok; }
  return_code run() { return sim::graph_run(this, -1), return_code::ok; }
  return_code run(long long iterations) { return sim::graph_run(this, iterations), return_code::ok; }
  return_code wait() { return sim::graph_wait(this), return_code::ok; }
  return_code wait(unsigned long long) { return wait(); }
  return_code resume() { return return_code::ok; }
  return_code end() { return sim::graph_end(this), return_code::ok; }
  return_code end(unsigned long long) { return end(); }
  template <direction D, class T>
  return_code update(port<D>& p, const T* values, std::size_t count) {
    return sim::graph_update(sim::node_of(p), values, unsigned(count), sizeof(T)), return_code::ok;
  }
  template <direction D, class T>
    requires std::is_arithmetic_v<T>
  return_code update(port<D>& p, T value) {
    return sim::graph_update(sim::node_of(p), &value, 1, sizeof(T)), return_code::ok;
  }
};

}  // namespace adf
