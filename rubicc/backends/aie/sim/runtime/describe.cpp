// The recorded graph as JSON: what the builder needs to compile kernels, and what a report can draw.
#include <cstdio>

#include "machine.h"

namespace adf::sim {

static std::string quoted(const std::string& s) {
  std::string r = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') r += '\\', r += c;
    else if (static_cast<unsigned char>(c) < 32) {
      char t[8];
      std::snprintf(t, sizeof t, "\\u%04x", c);
      r += t;
    } else r += c;
  }
  return r + "\"";
}

static std::string number(long long v) { return std::to_string(v); }

static std::string places(const std::vector<place>& all) {
  static const char* kinds[] = {"none", "tile", "bank", "address", "offset", "shim"};
  std::string s = "[";
  for (const place& p : all)
    s += (s.size() > 1 ? ", " : "") + std::string("{\"kind\": \"") + kinds[p.kind] + "\", \"column\": " + number(p.column) +
         ", \"row\": " + number(p.row) + ", \"value\": " + number(p.value) + "}";
  return s + "]";
}

static std::string port(const port_node* p) {
  static const char* kinds[] = {"buffer", "stream", "cascade", "parameter", "any"};
  std::string s = "{\"id\": " + number(p->id) + ", \"name\": " + quoted(name_of(p)) + ", \"kind\": \"" + kinds[int(p->spec.kind)] +
                  "\", \"direction\": " + number(p->spec.dir) + ", \"type\": " + quoted(p->spec.type) +
                  ", \"element_bytes\": " + number(p->spec.element_bytes);
  if (p->role == node_role::kernel && p->spec.kind == port_kind::buffer) s += ", \"elements\": " + number(buffer_elements(p));
  if (p->role == node_role::kernel && p->spec.kind == port_kind::parameter) s += ", \"elements\": " + number(p->spec.elements);
  if (p->role == node_role::shared) s += ", \"elements\": " + number(port_walk(p).elements);
  s += ", \"single\": " + std::string(p->single ? "true" : "false") + ", \"places\": " + places(p->places) + "}";
  return s;
}

template <class V>
static std::string ports(const V& all) {
  std::string s = "[";
  for (const port_node* p : all) s += (s.size() > 1 ? ", " : "") + port(p);
  return s + "]";
}

void describe(const netlist& n, const std::string& path) {
  const world& w = world::get();
  const auto repetitions = solve_repetitions(n);
  std::string s = "{\"architecture\": " + number(__AIE_ARCH__) + ", \"kernels\": [";
  for (std::size_t i = 0; i < w.kernels.size(); ++i) {
    const kernel_node& k = *w.kernels[i];
    char ratio[32];
    std::snprintf(ratio, sizeof ratio, "%g", k.ratio);
    std::string headers = "[";
    for (const std::string& h : k.headers) headers += (headers.size() > 1 ? ", " : "") + quoted(h);
    s += (i ? ",\n " : "\n ") + std::string("{\"type\": ") + quoted(k.type) + ", \"entry\": " + quoted(k.entry) + ", \"source\": " +
         quoted(k.source) + ", \"headers\": " + headers + "], \"ratio\": " + ratio + ", \"stack\": " + number(k.stack) +
         ", \"repetitions\": " + number(repetitions.count(int(i)) ? repetitions.at(int(i)) : 1) + ", \"places\": " +
         places(k.at.kind ? std::vector<place>{k.at} : std::vector<place>{}) + ", \"ports\": " + ports(k.arguments) + "}";
  }
  s += "],\n\"shared_buffers\": [";
  for (std::size_t i = 0; i < w.shared.size(); ++i) {
    const shared_node& b = *w.shared[i];
    std::string dims = "[";
    for (auto d : b.dims) dims += (dims.size() > 1 ? ", " : "") + number(d);
    s += (i ? ",\n " : "\n ") + std::string("{\"type\": ") + quoted(b.type) + ", \"dimensions\": " + dims + "], \"copies\": " +
         number(b.buffers) + ", \"places\": " + places(b.places) + ", \"in\": " + ports(b.in) + ", \"out\": " + ports(b.out) + "}";
  }
  s += "],\n\"plios\": [";
  for (std::size_t i = 0; i < w.plios.size(); ++i) {
    const plio_node& p = *w.plios[i];
    const port_spec e = plio_element(n, p);
    s += (i ? ",\n " : "\n ") + std::string("{\"name\": ") + quoted(p.name) + ", \"file\": " + quoted(p.file) + ", \"bits\": " +
         number(p.width) + ", \"input\": " + (p.input ? "true" : "false") + ", \"type\": " + quoted(e.type) + ", \"port\": " +
         number(p.port->id) + "}";
  }
  s += "],\n\"nets\": [";
  for (std::size_t i = 0; i < n.nets.size(); ++i) {
    s += (i ? ",\n " : "\n ") + std::string("{\"from\": ") + number(n.nets[i].from->id) + ", \"to\": [";
    for (std::size_t j = 0; j < n.nets[i].to.size(); ++j) s += (j ? ", " : "") + number(n.nets[i].to[j]->id);
    s += "]}";
  }
  s += "]}\n";
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (!f) fail("RUB-AIE-508", "cannot write %s", path.c_str());
  std::fwrite(s.data(), 1, s.size(), f);
  std::fclose(f);
}

}  // namespace adf::sim
