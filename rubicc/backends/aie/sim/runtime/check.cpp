// Rules a graph must keep: kinds and sizes at both ends of a connection, places, memory of tiles and banks.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "machine.h"

namespace adf::sim {

namespace {

const char* kind_name(port_kind k) {
  static const char* names[] = {"a buffer", "a stream", "a cascade", "a parameter", "anything"};
  return names[int(k)];
}

void check_ends(const port_node* a, const port_node* b) {
  const auto ka = a->spec.kind, kb = b->spec.kind;
  const auto data = [](port_kind k) { return k == port_kind::buffer || k == port_kind::stream || k == port_kind::any; };
  const bool same = ka == kb || (data(ka) && data(kb)) || (a->role == node_role::graph_port && kb == port_kind::parameter);
  if (!same)
    fail("RUB-AIE-503", "%s is %s and %s is %s", name_of(a).c_str(), kind_name(ka), name_of(b).c_str(), kind_name(kb));
  if (a->role == node_role::graph_port && kb != port_kind::parameter)
    fail("RUB-AIE-503", "%s gets its data from a port of the graph that nothing feeds", name_of(b).c_str());
  if (ka == port_kind::any || kb == port_kind::any || kb == port_kind::parameter) return;
  if (a->spec.element_bytes != b->spec.element_bytes || a->spec.is_float != b->spec.is_float)
    fail("RUB-AIE-504", "%s holds %s and %s holds %s", name_of(a).c_str(), a->spec.type, name_of(b).c_str(), b->spec.type);
}

long long limit(const char* name, long long otherwise) {
  const std::string all = setting("RUBICC_SIM_LIMITS");
  const std::size_t at = (";" + all).find(std::string(";") + name + "=");
  return at == std::string::npos ? otherwise : std::strtoll(all.c_str() + at + std::strlen(name) + 1, nullptr, 10);
}

// Sizes of AM009 (AIE) and AM020 (AIE-ML): 32 and 64 KB in four banks as the compiler numbers them.
long long tile_bytes() { return limit("tile_bytes", __AIE_ARCH__ == 10 ? 32768 : 65536); }
long long bank_bytes() { return limit("bank_bytes", tile_bytes() / 4); }
long long memory_tile_bytes() { return limit("memory_tile_bytes", 524288); }

struct usage {
  long long total = 0;
  std::map<int, long long> bank;
};
using tiles_used = std::map<std::pair<int, int>, usage>;

bool reaches(const place& core, int c, int r) {
  const int dc = c - core.column, dr = r - core.row;
  if (!dc) return std::abs(dr) <= 1;
  // AIE: the module east or west of the core, by row. AIE-ML: west.
  return !dr && (__AIE_ARCH__ == 10 ? std::abs(dc) == 1 : dc == -1);
}

void put(tiles_used& used, const kernel_node& k, const place* p, long long bytes, const std::string& what) {
  int c = k.at.column, r = k.at.row;
  if (p && (p->kind == place::bank || p->kind == place::address)) {
    c = p->column, r = p->row;
    if (!reaches(k.at, c, r)) fail("RUB-AIE-512", "%s lies on tile (%d, %d), which its kernel cannot reach", what.c_str(), c, r);
  }
  usage& u = used[{c, r}];
  u.total += bytes;
  if (p && p->kind == place::bank) u.bank[p->value] += bytes;
  if (p && (p->kind == place::address || p->kind == place::offset) && p->value + bytes > tile_bytes())
    fail("RUB-AIE-509", "%s ends at byte %lld of a tile of %lld", what.c_str(), p->value + bytes, tile_bytes());
}

// Buffers that both ends pin to the same banks are one memory, counted at the writer.
bool shared_with_writer(const netlist& n, const port_node* p) {
  if (p->spec.dir != 0 || p->places.empty()) return false;
  const port_node* from = n.nets[n.net_of.at(p)].from;
  if (from->role != node_role::kernel || from->places.size() != p->places.size()) return false;
  for (std::size_t i = 0; i < p->places.size(); ++i) {
    const place &a = p->places[i], &b = from->places[i];
    if (a.kind != b.kind || a.column != b.column || a.row != b.row || a.value != b.value) return false;
  }
  return true;
}

tiles_used count_memory(const netlist& n) {
  tiles_used used;
  for (auto& kp : world::get().kernels) {
    const kernel_node& k = *kp;
    if (k.at.kind != place::tile) continue;
    put(used, k, k.stack_at.kind ? &k.stack_at : nullptr, k.stack + k.heap, "the stack of " + k.type);
    for (const port_node* p : k.arguments) {
      long long bytes = 0;
      int copies = p->single ? 1 : 2;
      if (p->spec.kind == port_kind::buffer) bytes = (buffer_elements(p) + p->spec.margin) * p->spec.element_bytes;
      else if (p->spec.kind == port_kind::parameter) bytes = std::max(1u, p->spec.elements) * p->spec.element_bytes;
      if (!bytes || (p->spec.kind == port_kind::buffer && shared_with_writer(n, p))) continue;
      if (p->places.size() > 2 || (int(p->places.size()) == 2 && copies == 1))
        fail("RUB-AIE-512", "%s is given %zu places for %d copies", name_of(p).c_str(), p->places.size(), copies);
      for (int i = 0; i < copies; ++i) {
        const place* at = p->places.empty() ? nullptr : &p->places[std::min<std::size_t>(i, p->places.size() - 1)];
        put(used, k, at, bytes, name_of(p));
      }
    }
  }
  return used;
}

void check_cascades(const netlist& n) {
  for (const net& one : n.nets) {
    if (one.from->spec.kind != port_kind::cascade) continue;
    if (one.to.size() != 1) fail("RUB-AIE-503", "%s goes to %zu kernels; a cascade goes to one", name_of(one.from).c_str(), one.to.size());
    const place &a = world::get().kernels[one.from->owner]->at, &b = world::get().kernels[one.to[0]->owner]->at;
    if (a.kind != place::tile || b.kind != place::tile) continue;
    const int dc = b.column - a.column, dr = b.row - a.row;
    const bool fits = __AIE_ARCH__ == 10 ? (dr == 0 && dc == (a.row % 2 ? -1 : 1)) || (dc == 0 && dr == 1)
                                         : (dr == 0 && dc == 1) || (dc == 0 && dr == -1);
    if (!fits)
      fail("RUB-AIE-512", "no cascade leads from tile (%d, %d) to (%d, %d): %s to %s", a.column, a.row, b.column, b.row,
           name_of(one.from).c_str(), name_of(one.to[0]).c_str());
  }
}

}  // namespace

void check_graph(const netlist& n) {
  world& w = world::get();
  if (w.kernels.empty()) fail("RUB-AIE-503", "the graph has no kernel");
  std::set<std::string> names;
  for (auto& p : w.plios)
    if (!names.insert(p->name).second) fail("RUB-AIE-503", "two PLIOs are called %s", p->name.c_str());
  for (const net& one : n.nets)
    for (const port_node* to : one.to) check_ends(one.from, to);
  for (std::size_t i = 0; i < w.kernels.size(); ++i) {
    kernel_node& k = *w.kernels[i];
    if (k.source.empty()) fail("RUB-AIE-503", "%s has no source(...)", name_of_kernel(int(i)).c_str());
    if (!(k.ratio > 0 && k.ratio <= 1))
      fail("RUB-AIE-503", "%s has a runtime<ratio> of %g; it must be above 0 and at most 1", name_of_kernel(int(i)).c_str(), k.ratio);
    if (k.same_tile_as >= 0) k.at = w.kernels[k.same_tile_as]->at;
  }
  for (auto& s : w.shared)
    if (s->buffers < 1 || s->buffers > 2) fail("RUB-AIE-503", "a shared buffer with %d copies", s->buffers);
}

void check_placement(const netlist& n) {
  world& w = world::get();
  const long long columns = limit("columns", 1 << 20), rows = limit("rows", 1 << 20);
  std::map<std::pair<int, int>, double> load;
  for (std::size_t i = 0; i < w.kernels.size(); ++i) {
    const kernel_node& k = *w.kernels[i];
    if (k.at.kind == place::none) continue;
    if (k.at.column < 0 || k.at.column >= columns || k.at.row < 0 || k.at.row >= rows)
      fail("RUB-AIE-512", "%s: the array has %lld columns and %lld rows", name_of_kernel(int(i)).c_str(), columns, rows);
    double& l = load[{k.at.column, k.at.row}];
    l += k.ratio;
    if (l > 1 + 1e-9) fail("RUB-AIE-512", "%s: the kernels on this tile ask for %g of its time", name_of_kernel(int(i)).c_str(), l);
  }
  check_cascades(n);
  for (const auto& [at, u] : count_memory(n)) {
    if (u.total > tile_bytes())
      fail("RUB-AIE-509", "tile (%d, %d) holds %lld bytes of %lld", at.first, at.second, u.total, tile_bytes());
    for (const auto& [bank, bytes] : u.bank) {
      if (bank < 0 || bank >= tile_bytes() / bank_bytes()) fail("RUB-AIE-512", "tile (%d, %d) has no bank %d", at.first, at.second, bank);
      if (bytes > bank_bytes())
        fail("RUB-AIE-509", "bank %d of tile (%d, %d) holds %lld bytes of %lld", bank, at.first, at.second, bytes, bank_bytes());
    }
  }
  std::map<std::pair<int, int>, long long> memory_tiles;
  for (std::size_t i = 0; i < w.shared.size(); ++i) {
    const shared_node& s = *w.shared[i];
    long long bytes = s.element_bytes;
    for (auto d : s.dims) bytes *= d;
    if (bytes > memory_tile_bytes())
      fail("RUB-AIE-509", "shared buffer %zu has %lld bytes, a memory tile %lld", i, bytes, memory_tile_bytes());
    for (int c = 0; c < s.buffers && !s.places.empty(); ++c) {
      const place& p = s.places[std::min<std::size_t>(c, s.places.size() - 1)];
      long long& used = memory_tiles[{p.column, p.row}];
      used += bytes;
      if (p.column >= 0 && used > memory_tile_bytes())
        fail("RUB-AIE-509", "memory tile (%d, %d) holds %lld bytes of %lld", p.column, p.row, used, memory_tile_bytes());
    }
  }
}

std::string memory_report() {
  std::string s = "[";
  for (const auto& [at, u] : count_memory(the_machine().nets)) {
    char line[160];
    std::snprintf(line, sizeof line, "%s{\"column\": %d, \"row\": %d, \"bytes\": %lld}", s.size() > 1 ? ", " : "", at.first,
                  at.second, u.total);
    s += line;
  }
  return s + "]";
}

}  // namespace adf::sim
