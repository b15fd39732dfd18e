// The graph as recorded: nodes, edges, how to end with an error. Part of rubicc's functional emulation.
#include <cxxabi.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#include "../include/rubicc_sim/graph.h"
#include "machine.h"

namespace adf {

namespace sim {

static core_state outside;
core_state* core = &outside;

world& world::get() {
  static world w;
  return w;
}

port_node* world::add_port(node_role role, const port_spec& spec, int owner, int index) {
  ports.push_back(std::make_unique<port_node>());
  port_node* p = ports.back().get();
  p->role = role, p->spec = spec, p->owner = owner, p->index = index, p->id = int(ports.size()) - 1;
  return p;
}

edge* world::connect(port_node* from, port_node* to) {
  edges.push_back(std::make_unique<edge>(edge{from, to}));
  return edges.back().get();
}

registration& last_registration() {
  static registration r;
  return r;
}

std::string spelled(const std::type_info& type) {
  int status = 0;
  char* text = abi::__cxa_demangle(type.name(), nullptr, nullptr, &status);
  if (status) fail("RUB-AIE-503", "a kernel's class %s has no name", type.name());
  const std::string s = text;
  std::free(text);
  return s;
}

int add_kernel(const std::string& type, const std::vector<port_spec>& ports, invoke_t invoke, const void* function,
               unsigned function_bytes) {
  world& w = world::get();
  const int id = int(w.kernels.size());
  w.kernels.push_back(std::make_unique<kernel_node>());
  kernel_node& k = *w.kernels.back();
  k.type = type, k.invoke = invoke;
  std::memcpy(k.function, function, function_bytes);
  int count[3] = {0, 0, 0};
  for (const port_spec& s : ports) k.arguments.push_back(w.add_port(node_role::kernel, s, id, count[s.dir]++));
  return id;
}

std::string setting(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}

// One line that the caller reads: marker, code, where, what; tabs between.
void fail(const char* code, const char* format, ...) {
  char what[2048];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  for (char* c = what; *c; ++c)
    if (*c == '\n' || *c == '\t') *c = ' ';
  std::fflush(stdout);
  std::fprintf(stderr, "RUBICC-EMULATION\t%s\t%s\t%s\n", code, core->kernel, what);
  std::fflush(stderr);
  _exit(3);
}

std::string name_of(const port_node* p) {
  static const char* directions[] = {"in", "out", "inout"};
  const std::string at = std::string(directions[p->spec.dir]) + "[" + std::to_string(p->index) + "]";
  const world& w = world::get();
  switch (p->role) {
    case node_role::kernel: return name_of_kernel(p->owner) + "." + at;
    case node_role::plio: return "PLIO " + w.plios[p->owner]->name;
    case node_role::shared: return "shared buffer " + std::to_string(p->owner) + "." + at;
    case node_role::merge: return "merge " + std::to_string(p->owner) + "." + at;
    default: return "graph port " + std::to_string(p->id);
  }
}

std::string name_of_kernel(int id) {
  const kernel_node& k = *world::get().kernels[id];
  const std::string what = k.type.empty() ? k.source : k.type;
  std::string s = "kernel " + std::to_string(id) + (what.empty() ? "" : " " + what);
  if (k.at.kind == place::tile) s += " on tile (" + std::to_string(k.at.column) + ", " + std::to_string(k.at.row) + ")";
  return s;
}

template <class P>
static P make_plio(const std::string& name, int width, const std::string& file, bool is_input) {
  if (width != 32 && width != 64 && width != 128) fail("RUB-AIE-503", "PLIO %s of %d bits", name.c_str(), width);
  world& w = world::get();
  P p;
  p.id = int(w.plios.size());
  w.plios.push_back(std::make_unique<plio_node>());
  plio_node& n = *w.plios.back();
  n.name = name, n.file = file, n.width = width, n.input = is_input;
  port_spec s;
  s.dir = is_input ? 1 : 0;
  n.port = w.add_port(node_role::plio, s, p.id, 0);
  return p;
}

}  // namespace sim

input_plio input_plio::create(const std::string& name, int width, const std::string& file, double) {
  auto p = sim::make_plio<input_plio>(name, width, file, true);
  p.out.emplace_back(sim::world::get().plios[p.id]->port);
  return p;
}
output_plio output_plio::create(const std::string& name, int width, const std::string& file, double) {
  auto p = sim::make_plio<output_plio>(name, width, file, false);
  p.in.emplace_back(sim::world::get().plios[p.id]->port);
  return p;
}

}  // namespace adf
