// The graph's side of ADF: kernels, ports, connections, constraints. Building a graph only records it (world.h).
#pragma once

#include <initializer_list>
#include <typeinfo>

#include "signature.h"

namespace adf {

class kernel;
class graph;
class input_plio;
class output_plio;
template <class T>
class shared_buffer;

// Kinds of connection and of constraint.
struct stream {};
struct cascade {};
struct parameter {};
struct pktstream {};
template <unsigned...>
struct window {};
struct ratio {};
struct stack {};
struct buffer {};
struct PLIO {};

using sim::place;
constexpr place make_place(place::kinds k, int c, int r, int v) { return {k, c, r, v}; }
inline place tile(int column, int row) { return make_place(place::tile, column, row, 0); }
inline place bank(int column, int row, int id) { return make_place(place::bank, column, row, id); }
inline place address(int column, int row, int at) { return make_place(place::address, column, row, at); }
inline place offset(int at) { return make_place(place::offset, -1, -1, at); }
inline place shim(int column, int channel = -1) { return make_place(place::shim, column, 0, channel); }

template <direction D>
class port {
 public:
  sim::port_node* node;
  port() : node(nullptr) {}
  explicit port(sim::port_node* n) : node(n) {}
};

namespace sim {

// A port that belongs to no kernel is a graph's own, and becomes a node when it is first used.
template <class P>
sim::port_node* node_of(P& p) {
  if (!p.node) {
    sim::port_spec s;
    p.node = sim::world::get().add_port(sim::node_role::graph_port, s, -1, 0);
  }
  return p.node;
}

// A type as C++ spells it.
std::string spelled(const std::type_info& type);

int add_kernel(const std::string& type, const std::vector<port_spec>& ports, invoke_t invoke, const void* function,
               unsigned function_bytes);

}  // namespace sim

using input_port = port<direction::in>;
using output_port = port<direction::out>;
using inout_port = port<direction::inout>;

class kernel {
 public:
  std::vector<port<direction::in>> in;
  std::vector<port<direction::out>> out;
  std::vector<port<direction::inout>> inout;
  int id = -1;

  template <class... A>
  static kernel create(void (*f)(A...)) {
    return kernel(sim::add_kernel("", sim::specs<A...>(), &sim::invoke_function<A...>, &f, sizeof f));
  }
  // A kernel object of class T; the arguments go to its constructor when the graph starts.
  template <class T, class... A>
  static kernel create_object(A... arguments) {
    T::registerKernelClass();
    const sim::registration r = sim::last_registration();
    kernel k(sim::add_kernel(sim::spelled(typeid(T)), r.ports, r.invoke, r.function, sizeof r.function));
    sim::kernel_node& n = k.node();
    n.create = &sim::kernel_entry<T, A...>::create;
    n.constructor_arguments = std::make_shared<std::tuple<A...>>(arguments...);
    n.entry = sim::spelled(typeid(sim::kernel_entry<T, A...>));
    return k;
  }
  kernel() = default;
  sim::kernel_node& node() const {
    if (id < 0) sim::fail("RUB-AIE-503", "a kernel is used that was never created");
    return *sim::world::get().kernels[id];
  }

 private:
  explicit kernel(int i) : id(i) {
    for (sim::port_node* p : node().arguments)
      if (p->spec.dir == 0) in.emplace_back(p);
      else if (p->spec.dir == 1) out.emplace_back(p);
      else inout.emplace_back(p);
  }
};

// A parameter port whose kernel does not wait for a new value each iteration.
template <class P>
P& async(P& p) { return sim::node_of(p)->async_update = true, p; }

template <class... Kinds>
class connect {
 public:
  sim::edge* made = nullptr;
  template <class A, class B>
  connect(A& from, B& to) : made(sim::world::get().connect(sim::node_of(from), sim::node_of(to))) {}
  connect() = default;
};
template <class A, class B>
connect(A&, B&) -> connect<>;

// Names of a port array or a plio stand for their one port.
class input_plio {
 public:
  std::vector<port<direction::out>> out;
  int id = -1;
  static input_plio create(const std::string& name, int width, const std::string& file, double mhz = 0);
  static input_plio create(int width, const std::string& file) { return create(file, width, file); }
};
class output_plio {
 public:
  std::vector<port<direction::in>> in;
  int id = -1;
  static output_plio create(const std::string& name, int width, const std::string& file, double mhz = 0);
  static output_plio create(int width, const std::string& file) { return create(file, width, file); }
};
enum plio_type { plio_32_bits = 32, plio_64_bits = 64, plio_128_bits = 128 };

// A buffer in a memory tile, with its own readers and writers.
template <class T>
class shared_buffer {
 public:
  std::vector<port<direction::in>> in;
  std::vector<port<direction::out>> out;
  int id = -1;
  static shared_buffer create(const std::vector<std::uint32_t>& dims, unsigned writers, unsigned readers) {
    auto& w = sim::world::get();
    shared_buffer b;
    b.id = int(w.shared.size());
    const auto spec = sim::element_spec<T>(sim::port_kind::buffer, 0);
    w.shared.push_back(std::make_unique<sim::shared_node>(
        sim::shared_node{spec.type, spec.element_bytes, spec.is_float, spec.is_signed, dims, {}, {}}));
    for (unsigned i = 0; i < writers; ++i) {
      w.shared.back()->in.push_back(w.add_port(sim::node_role::shared, spec, b.id, int(i)));
      b.in.emplace_back(w.shared.back()->in.back());
    }
    for (unsigned i = 0; i < readers; ++i) {
      auto s = spec;
      s.dir = 1;
      w.shared.back()->out.push_back(w.add_port(sim::node_role::shared, s, b.id, int(i)));
      b.out.emplace_back(w.shared.back()->out.back());
    }
    return b;
  }
  sim::shared_node& node() const {
    if (id < 0) sim::fail("RUB-AIE-503", "a shared buffer is used that was never created");
    return *sim::world::get().shared[id];
  }
};

// Packets of all inputs in port order, one after another, on one stream.
template <unsigned N>
class pktorderedmerge {
 public:
  port<direction::in> in[N];
  port<direction::out> out[1];
  static pktorderedmerge create() {
    auto& w = sim::world::get();
    const int id = int(w.merges.size());
    w.merges.push_back(std::make_unique<sim::merge_node>());
    pktorderedmerge m;
    for (unsigned i = 0; i < N; ++i) {
      w.merges[id]->in.push_back(w.add_port(sim::node_role::merge, {}, id, int(i)));
      m.in[i].node = w.merges[id]->in.back();
    }
    sim::port_spec s;
    s.dir = 1;
    m.out[0].node = w.merges[id]->out = w.add_port(sim::node_role::merge, s, id, 0);
    return m;
  }
};

}  // namespace adf

#include "constraints.h"
