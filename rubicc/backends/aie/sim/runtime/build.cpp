// From the resolved graph to actors, and the program's calls init, update, run, end.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#include "machine.h"

namespace adf::sim {

machine& the_machine() {
  static machine m;
  return m;
}

channel* machine::channel_from(const port_node* source) {
  auto& c = channels[source];
  if (!c) c = std::make_unique<channel>();
  return c.get();
}
queue* machine::queue_at(const port_node* end) {
  const auto b = buffers.find(end);
  if (b != buffers.end()) return &b->second->in;
  auto& q = queues[end];
  if (!q) q = std::make_unique<queue>();
  return q.get();
}

// A crash in a kernel says which kernel it was.
static void crashed(int number) {
  char text[512];
  const int n = std::snprintf(text, sizeof text, "RUBICC-EMULATION\tRUB-AIE-511\t%s\tthe kernel crashed (signal %d)\n",
                              core->kernel, number);
  if (write(2, text, std::size_t(n)) < 0) _exit(4);
  _exit(3);
}
static void catch_crashes() {
  static unsigned char other_stack[65536];
  stack_t s{};
  s.ss_sp = other_stack, s.ss_size = sizeof other_stack;
  sigaltstack(&s, nullptr);
  struct sigaction a{};
  a.sa_handler = crashed, a.sa_flags = SA_ONSTACK;
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(number, &a, nullptr);
}

parameter_state::parameter_state(port_node* p)
    : node(p), bytes(std::max(1u, p->spec.elements) * p->spec.element_bytes), value(bytes) {
  if (p->spec.dir == 2) {  // the kernel's own memory: zero at the start, never waited for
    std::memset(value.data(), 0, bytes);
    given = true;
  }
}

// The memory behind each argument of a kernel, in the order of its signature.
static void bind(machine& m, kernel_actor& k) {
  for (port_node* p : k.node->arguments) {
    switch (p->spec.kind) {
      case port_kind::buffer: {
        buffer_port* b = m.buffers.at(p);
        b->handle.port = b;
        b->handle.elements = unsigned(b->elements);
        k.arguments.push_back(&b->handle);
        break;
      }
      case port_kind::stream:
      case port_kind::cascade: {
        // Both are one pointer; a reader's channel has its own queue as only end.
        auto* cell = new channel*(nullptr);
        if (p->spec.dir == 1) {
          *cell = m.channel_from(p);
        } else {
          *cell = new channel();
          if (p->spec.kind == port_kind::cascade) *cell = m.channel_from(m.nets.nets[m.nets.net_of.at(p)].from);
          else (*cell)->ends = {m.queue_at(p)};
        }
        k.arguments.push_back(cell);
        break;
      }
      default: {
        auto& s = m.parameters[p];
        s = std::make_unique<parameter_state>(p);
        k.arguments.push_back(s->value.data());
      }
    }
  }
}

void machine::build() {
  built = true;
  catch_crashes();
  world& w = world::get();
  nets = resolve();
  check_graph(nets);
  repetitions = solve_repetitions(nets);
  const std::string into = setting("RUBICC_SIM_DESCRIBE");
  if (!into.empty()) {
    describe(nets, into);
    std::fflush(stdout);
    _exit(0);
  }
  check_placement(nets);

  for (std::size_t i = 0; i < w.kernels.size(); ++i) {
    const place& at = w.kernels[i]->at;
    core_state* c;
    if (at.kind == place::tile) {
      auto& slot = cores[{at.column, at.row}];
      if (!slot) slot = std::make_unique<core_state>();
      c = slot.get();
    } else {
      lone_cores.push_back(std::make_unique<core_state>());
      c = lone_cores.back().get();
    }
    auto k = std::make_unique<kernel_actor>(int(i), c);
    for (port_node* p : k->node->arguments)
      if (p->spec.kind == port_kind::buffer) {
        auto b = std::make_unique<buffer_port>(p);
        buffers[p] = b.get();
        actors.push_back(std::move(b));
      }
    kernels.push_back(k.get());
    actors.push_back(std::move(k));
  }
  for (std::size_t i = 0; i < w.shared.size(); ++i) actors.push_back(make_shared_actor(*this, *w.shared[i], int(i)));
  for (std::size_t i = 0; i < w.merges.size(); ++i) actors.push_back(make_merge_actor(*this, *w.merges[i], int(i)));
  for (auto& p : w.plios) actors.push_back(make_plio_actor(*this, *p));
  for (const net& n : nets.nets) {
    const bool is_parameter = std::all_of(n.to.begin(), n.to.end(), [](const port_node* p) { return p->spec.kind == port_kind::parameter; });
    if (is_parameter) continue;
    channel* c = channel_from(n.from);
    const auto b = buffers.find(n.from);
    for (port_node* p : n.to) {
      queue* q = queue_at(p);
      q->capacity = std::max<std::size_t>({q->capacity, std::size_t(4 * n.fifo_depth), p->spec.kind == port_kind::cascade ? 65536u : 1024u});
      c->ends.push_back(q);
    }
    if (b != buffers.end()) b->second->out = *c;
  }
  for (kernel_actor* k : kernels) bind(*this, *k);
  for (kernel_actor* k : kernels) {
    core = k->core_registers;
    core->kernel = k->name.c_str();
    if (k->node->create) k->object = k->node->create(k->node->constructor_arguments.get());
  }
}

void machine::spin() {
  for (bool moved = true; moved;) {
    moved = false;
    for (auto& a : actors) moved |= a->step();
  }
  static core_state idle;
  core = &idle;
}

void machine::run(long long n) {
  for (kernel_actor* k : kernels) {
    const auto r = repetitions.find(k->id);
    const long long each = r != repetitions.end() ? r->second : std::max(1ll, k->node->repetitions);
    if (n < 0) k->target = 1ll << 60;
    else k->target += n * each;
  }
  iterations += n < 0 ? 0 : n;
  spin();
  if (n < 0) return;
  std::string who;
  int more = 0;
  for (kernel_actor* k : kernels) {
    if (k->done >= k->target) continue;
    if (++more > 4) continue;
    who += (who.empty() ? "" : "; ") + (k->waiting().empty() ? k->name + " never started" : k->waiting());
  }
  if (more) fail("RUB-AIE-507", "nothing moves any more and %d kernels are not done: %s%s", more, who.c_str(), more > 4 ? "; ..." : "");
}

void machine::finish() {
  spin();
  std::string what;
  int count = 0;
  for (auto& a : actors) {
    const std::string s = a->left_over();
    if (s.empty()) continue;
    if (++count <= 4) what += (what.empty() ? "" : "; ") + s;
  }
  for (auto& [p, q] : queues)
    if (q->size() && ++count <= 4) what += (what.empty() ? "" : "; ") + std::to_string(q->size()) + " bytes before " + name_of(p);
  if (count) fail("RUB-AIE-506", "data is left that nobody took: %s%s", what.c_str(), count > 4 ? "; ..." : "");
  write_outputs();
  const std::string report = setting("RUBICC_SIM_REPORT");
  if (report.empty()) return;
  std::FILE* f = std::fopen(report.c_str(), "w");
  if (!f) fail("RUB-AIE-508", "cannot write %s", report.c_str());
  std::fprintf(f, "{\"iterations\": %lld, \"kernel_iterations\": [", iterations);
  for (std::size_t i = 0; i < kernels.size(); ++i) std::fprintf(f, "%s%lld", i ? ", " : "", kernels[i]->done);
  std::fprintf(f, "], \"memory\": %s}\n", memory_report().c_str());
  std::fclose(f);
}

// ---- the program's calls ----

static machine& started(const void* graph) {
  machine& m = the_machine();
  if (m.owner && m.owner != graph) fail("RUB-AIE-514", "a program with several top graphs is not modelled");
  m.owner = graph;
  if (!m.built) m.build();
  return m;
}

void graph_init(const void* graph) { started(graph); }
void graph_run(const void* graph, long long n) { started(graph).run(n); }
void graph_wait(const void* graph) { started(graph).spin(); }
void graph_end(const void* graph) { started(graph).finish(); }

void graph_update(port_node* port, const void* data, unsigned count, unsigned element_bytes) {
  machine& m = the_machine();
  if (!m.built) fail("RUB-AIE-503", "update() before init()");
  const auto ends = ends_below(port);
  if (ends.empty()) fail("RUB-AIE-503", "update() of a port that leads to no kernel");
  for (port_node* p : ends) {
    const auto found = m.parameters.find(p);
    if (found == m.parameters.end()) fail("RUB-AIE-503", "update() of %s, which is no parameter", name_of(p).c_str());
    parameter_state& s = *found->second;
    const std::size_t n = std::size_t(count) * element_bytes;
    if (element_bytes != p->spec.element_bytes || n != s.bytes)
      fail("RUB-AIE-504", "update() gives %s %u values of %u bytes, its kernel takes %zu of %u", name_of(p).c_str(), count,
           element_bytes, s.bytes / p->spec.element_bytes, p->spec.element_bytes);
    const auto* from = static_cast<const unsigned char*>(data);
    if (s.given && !p->async_update) {
      s.pending.emplace_back(from, from + n);
    } else {
      std::memcpy(s.value.data(), from, n);
      s.given = true;
    }
  }
}

}  // namespace adf::sim
