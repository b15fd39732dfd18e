// From the recorded edges to nets, rates and walks; all that can be said before anything runs.
#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "machine.h"

namespace adf::sim {

static bool is_end(const port_node* p) { return p->role != node_role::graph_port; }

std::vector<port_node*> ends_below(port_node* p) {
  std::vector<port_node*> found;
  std::set<port_node*> seen;
  std::function<void(port_node*)> go = [&](port_node* q) {
    if (!seen.insert(q).second) fail("RUB-AIE-503", "%s is connected to itself", name_of(q).c_str());
    for (auto& e : world::get().edges) {
      if (e->from != q) continue;
      if (is_end(e->to)) found.push_back(e->to);
      else go(e->to);
    }
  };
  if (is_end(p) && p->spec.dir != 1) return {p};
  go(p);
  return found;
}

netlist resolve() {
  world& w = world::get();
  netlist n;
  std::map<const port_node*, int> incoming;
  for (auto& e : w.edges) ++incoming[e->to];
  for (auto& p : w.ports) {
    if (incoming[p.get()] > 1) fail("RUB-AIE-503", "%s has %d sources", name_of(p.get()).c_str(), incoming[p.get()]);
    const bool root = is_end(p.get()) ? p->spec.dir == 1 : !incoming[p.get()];
    if (!root) continue;
    net one;
    one.from = p.get();
    one.to = ends_below(p.get());
    if (one.to.empty()) {
      if (is_end(p.get())) fail("RUB-AIE-503", "%s is connected to nothing", name_of(p.get()).c_str());
      continue;
    }
    for (auto& e : w.edges)
      if (e->from == p.get() || std::count(one.to.begin(), one.to.end(), e->to)) one.fifo_depth = std::max(one.fifo_depth, e->fifo_depth);
    const int id = int(n.nets.size());
    n.net_of[one.from] = id;
    for (port_node* q : one.to) n.net_of[q] = id;
    n.nets.push_back(one);
  }
  for (auto& p : w.ports)
    if (is_end(p.get()) && p->spec.dir == 0 && !n.net_of.count(p.get()))
      fail("RUB-AIE-503", "%s has no source", name_of(p.get()).c_str());
  return n;
}

std::vector<long long> buffer_dims(const port_node* p) {
  if (p->role == node_role::shared) {
    const auto& d = world::get().shared[p->owner]->dims;
    return {d.begin(), d.end()};
  }
  if (!p->dims.empty()) return p->dims;
  if (p->spec.elements) return {p->spec.elements};
  fail("RUB-AIE-504", "%s has no dimensions: give dimensions(...) or an extent in the signature", name_of(p).c_str());
}

long long buffer_elements(const port_node* p) {
  long long n = 1;
  for (long long d : buffer_dims(p)) n *= d;
  if (n <= 0) fail("RUB-AIE-504", "%s has %lld elements", name_of(p).c_str(), n);
  if (p->role == node_role::kernel && p->spec.elements && !p->dims.empty() && n != p->spec.elements)
    fail("RUB-AIE-504", "%s: dimensions(...) says %lld elements, the kernel's signature %u", name_of(p).c_str(), n,
         p->spec.elements);
  return n;
}

namespace {

// Adds `count` elements from `at` on to a walk (zeros where at < 0), joined to the piece before where memory goes on.
void add(walk& w, long long at, long long count) {
  w.elements += count;
  if (!w.pieces.empty()) {
    piece& last = w.pieces.back();
    if ((at < 0 && last.at < 0) || (at >= 0 && last.at >= 0 && last.at + last.count == at)) {
      last.count += count;
      return;
    }
  }
  w.pieces.push_back({at, count});
}

struct walker {
  const tiling_parameters& t;
  std::vector<long long> dims, tile, base, low, high;
  bool may_pad;
  const std::string& who;
  walk& out;

  bool real(std::size_t d, long long c) const { return c >= low[d] && c < high[d]; }

  // One element; where it lies outside the buffer it is padding, or an error.
  void visit(const std::vector<long long>& c) {
    bool outside = false;
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (real(d, c[d])) continue;
      if (!may_pad || (t.boundary_dimension.empty() && base[d] >= 0))
        fail("RUB-AIE-505", "%s: the tiling reaches element %lld of dimension %zu, which has %lld", who.c_str(), c[d], d,
             dims[d]);
      outside = true;
    }
    add(out, outside ? -1 : place_of(c), 1);
  }

  long long place_of(const std::vector<long long>& c) const {
    long long at = 0, stride = 1;
    for (std::size_t d = 0; d < dims.size(); ++d) {
      at += c[d] * stride;
      stride *= dims[d];
    }
    return at;
  }

  void inside_tile(std::vector<long long>& c, const std::vector<long long>& start, int d) {
    if (d == 0) {
      c[0] = start[0];
      bool whole = real(0, start[0]) && real(0, start[0] + tile[0] - 1);
      for (std::size_t e = 1; e < dims.size(); ++e) whole = whole && real(e, c[e]);
      if (whole) return add(out, place_of(c), tile[0]);  // a run of dimension 0 at once
      for (; c[0] < start[0] + tile[0]; ++c[0]) visit(c);
      return;
    }
    for (long long i = 0; i < tile[d]; ++i) {
      c[d] = start[d] + i;
      inside_tile(c, start, d - 1);
    }
  }

  void traverse(std::vector<long long>& start, int loop) {
    if (loop < 0) {
      std::vector<long long> c(dims.size());
      return inside_tile(c, start, int(dims.size()) - 1);
    }
    const traversing_parameters& v = t.tile_traversal[loop];
    for (std::uint32_t i = 0; i < v.wrap; ++i) {
      traverse(start, loop - 1);
      start[v.dimension] += v.stride;
    }
    start[v.dimension] -= (long long)v.stride * v.wrap;
  }
};

}  // namespace

walk plan_walk(const std::vector<tiling_parameters>& tilings, const std::vector<long long>& dims, bool may_pad,
               const std::string& who) {
  const auto product = [](const std::vector<long long>& v) {
    return std::accumulate(v.begin(), v.end(), 1ll, std::multiplies<>());
  };
  walk out;
  if (tilings.empty()) {
    out.elements = product(dims);
    out.pieces = {{0, out.elements}};
    return out;
  }
  for (const tiling_parameters& t : tilings) {
    if (t.packet_port_id >= 0 || t.phase)
      fail("RUB-AIE-514", "%s: packet ports and phases of a tiling are not modelled", who.c_str());
    walker w{t, dims, {}, {}, {}, {}, may_pad, who, out};
    if (!t.buffer_dimension.empty()) w.dims.assign(t.buffer_dimension.begin(), t.buffer_dimension.end());
    const std::size_t n = w.dims.size();
    if (product(w.dims) > product(dims))
      fail("RUB-AIE-505", "%s: the tiling's buffer has %lld elements, the buffer itself %lld", who.c_str(),
           product(w.dims), product(dims));
    w.tile.assign(t.tiling_dimension.begin(), t.tiling_dimension.end());
    w.base.assign(t.offset.begin(), t.offset.end());
    if (w.tile.empty()) w.tile = w.dims;
    if (w.base.empty()) w.base.assign(n, 0);
    w.low.assign(t.boundary_offset.begin(), t.boundary_offset.end());
    if (w.low.empty()) w.low.assign(n, 0);
    w.high.assign(t.boundary_dimension.begin(), t.boundary_dimension.end());
    if (w.high.empty()) w.high = w.dims;
    else
      for (std::size_t d = 0; d < std::min(n, w.high.size()); ++d) w.high[d] += w.low[d];
    if (w.tile.size() != n || w.base.size() != n || w.low.size() != n || w.high.size() != n)
      fail("RUB-AIE-505", "%s: the tiling's lists have different numbers of dimensions", who.c_str());
    for (const auto& v : t.tile_traversal)
      if (v.dimension >= n || !v.wrap) fail("RUB-AIE-505", "%s: the tiling walks dimension %u of %zu", who.c_str(), v.dimension, n);
    for (std::uint32_t r = 0; r < t.repetition; ++r) {
      std::vector<long long> start = w.base;
      w.traverse(start, int(t.tile_traversal.size()) - 1);
    }
  }
  return out;
}

walk port_walk(const port_node* p) {
  static std::map<int, walk> known;
  const auto at = known.find(p->id);
  if (at != known.end()) return at->second;
  const bool writes = p->spec.dir == 0;  // the DMA writes what a port takes in
  const auto& tilings = writes ? p->writes : p->reads;
  if (!(writes ? p->reads : p->writes).empty())
    fail("RUB-AIE-505", "%s: %s is given where the DMA %s", name_of(p).c_str(), writes ? "read_access" : "write_access",
         writes ? "writes" : "reads");
  buffer_elements(p);
  const bool may_pad = p->role == node_role::shared && !writes;
  return known[p->id] = plan_walk(tilings, buffer_dims(p), may_pad, name_of(p));
}

long long transfer_bytes(const port_node* p) {
  const bool kernel = p->role == node_role::kernel && p->spec.kind == port_kind::buffer && !p->spec.asynchronous;
  if (kernel || p->role == node_role::shared) return port_walk(p).elements * p->spec.element_bytes;
  return 0;
}

// Iterations of each kernel per iteration of the graph: what each produces must be what the next consumes.
std::map<int, long long> solve_repetitions(const netlist& n) {
  world& w = world::get();
  const int kernels = int(w.kernels.size()), nodes = kernels + int(w.shared.size());
  struct link { int a, b; long long x, y; const port_node *p, *q; };  // rate[a] * x == rate[b] * y
  std::vector<link> links;
  const auto node = [&](const port_node* p) { return p->role == node_role::kernel ? p->owner : kernels + p->owner; };
  for (const net& one : n.nets)
    for (const port_node* to : one.to) {
      const auto fixed = [](const port_node* p) { return p->role == node_role::kernel || p->role == node_role::shared; };
      if (!fixed(one.from) || !fixed(to)) continue;
      const long long x = transfer_bytes(one.from), y = transfer_bytes(to);
      if (x && y) links.push_back({node(one.from), node(to), x, y, one.from, to});
    }
  std::map<int, long long> result;
  std::vector<std::pair<long long, long long>> rate(nodes, {0, 1});
  for (int seed = 0; seed < nodes; ++seed) {
    if (rate[seed].first) continue;
    std::vector<int> members{seed};
    rate[seed] = {1, 1};
    for (std::size_t i = 0; i < members.size(); ++i)
      for (const link& l : links) {
        if (l.a != members[i] && l.b != members[i]) continue;
        const bool forward = l.a == members[i];
        const int other = forward ? l.b : l.a;
        const auto r = rate[members[i]];
        long long num = r.first * (forward ? l.x : l.y), den = r.second * (forward ? l.y : l.x);
        const long long g = std::gcd(num, den);
        num /= g, den /= g;
        if (!rate[other].first) {
          rate[other] = {num, den};
          members.push_back(other);
        } else if (rate[other] != std::pair{num, den}) {
          fail("RUB-AIE-504", "rates do not agree: %s moves %lld bytes at a time, %s %lld", name_of(l.p).c_str(), l.x,
               name_of(l.q).c_str(), l.y);
        }
      }
    long long scale = 1;
    for (int m : members) scale = std::lcm(scale, rate[m].second);
    long long common = 0;
    for (int m : members) common = std::gcd(common, rate[m].first * scale / rate[m].second);
    // A repetition count given for one member sets the scale of all that hang together.
    long long factor = 0;
    for (int m : members) {
      const long long asked = m < kernels ? w.kernels[m]->repetitions : w.shared[m - kernels]->repetitions;
      const long long least = rate[m].first * scale / rate[m].second / common;
      if (!asked) continue;
      if (asked % least || (factor && factor != asked / least))
        fail("RUB-AIE-504", "repetition_count %lld of %s does not agree with the rates around it", asked,
             m < kernels ? name_of_kernel(m).c_str() : "a shared buffer");
      factor = asked / least;
    }
    if (!factor) {
      // Left to itself the slowest runs once per iteration of the graph, the others a whole number of times.
      factor = 1;
      for (const link& l : links)
        if (std::count(members.begin(), members.end(), l.a) && l.x % l.y && l.y % l.x)
          fail("RUB-AIE-504", "%s moves %lld bytes at a time and %s %lld: neither is a multiple of the other; give repetition_count(...)",
               name_of(l.p).c_str(), l.x, name_of(l.q).c_str(), l.y);
    }
    for (int m : members)
      if (m < kernels) result[m] = rate[m].first * scale / rate[m].second / common * factor;
  }
  return result;
}

port_spec plio_element(const netlist& n, const plio_node& p) {
  const net& one = n.nets[n.net_of.at(p.port)];
  const port_node* far = p.input ? one.to[0] : one.from;
  if (far->role == node_role::merge) {
    const merge_node& m = *world::get().merges[far->owner];
    far = n.nets[n.net_of.at(far->spec.dir == 1 ? m.in[0] : m.out)].from;
  }
  if (far->role == node_role::plio) fail("RUB-AIE-503", "PLIO %s is connected to another PLIO", p.name.c_str());
  return far->spec;
}

}  // namespace adf::sim
