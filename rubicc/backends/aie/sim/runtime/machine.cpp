// Kernels as fibres, their buffers and DMAs, and the loop that steps everything until nothing moves.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"

namespace adf::sim {

// ---- queues and memories ----

void queue::push(const void* from, std::size_t n) {
  if (head && (head == bytes.size() || head > (1u << 20))) {
    bytes.erase(bytes.begin(), bytes.begin() + long(head));
    head = 0;
  }
  const auto* p = static_cast<const unsigned char*>(from);
  bytes.insert(bytes.end(), p, p + n);
}
void queue::pop(void* to, std::size_t n) {
  std::memcpy(to, bytes.data() + head, n);
  head += n;
}
bool channel::room() const {
  for (const queue* q : ends)
    if (q->size() >= q->capacity) return false;
  return true;
}
void channel::push(const void* from, std::size_t n) {
  for (queue* q : ends) q->push(from, n);
}

guarded::guarded(std::size_t n) : bytes(n) {
  const std::size_t all = (n + 2 * guard + 63) / 64 * 64;
  memory.reset(static_cast<unsigned char*>(std::aligned_alloc(64, all)));
  std::memset(memory.get(), 0xA5, all);
}
bool guarded::intact() const {
  for (std::size_t i = 0; i < guard; ++i)
    if (memory.get()[i] != 0xA5 || memory.get()[guard + bytes + i] != 0xA5) return false;
  return true;
}

// ---- buffer ports ----

buffer_port::buffer_port(port_node* p) : node(p), is_input(p->spec.dir == 0), dma(port_walk(p)) {
  element_bytes = p->spec.element_bytes;
  elements = buffer_elements(p);
  margin = p->spec.margin;
  const int n = p->single ? 1 : 2;
  for (int i = 0; i < n; ++i) copies.push_back(std::make_unique<guarded>((elements + margin) * element_bytes));
  if (margin)  // before the first block there is nothing: its margin is zero
    for (auto& c : copies) std::memset(c->data(), 0, (elements + margin) * element_bytes);
  full.assign(n, false);
  staging.resize(dma.elements * element_bytes);
  in.capacity = staging.size();
}

void buffer_port::take() {
  held = true;
  handle.memory = copies[core_at]->data();
  handle.elements = unsigned(elements);
  handle.port = this;
}
void buffer_port::give() {
  held = false;
  if (!copies[core_at]->intact())
    fail("RUB-AIE-511", "the kernel wrote outside its buffer %s of %lld bytes", name_of(node).c_str(), elements * element_bytes);
  full[core_at] = !is_input;
  core_at = (core_at + 1) % copies.size();
}

bool buffer_port::step() {
  bool moved = false;
  for (;;) {
    if (is_input) {
      if (full[dma_at] || in.size() < staging.size() || (held && dma_at == core_at)) return moved;
      unsigned char* to = copies[dma_at]->data();
      if (margin) {  // the end of the block before stands in front of this one
        const unsigned char* before = copies[(dma_at + copies.size() - 1) % copies.size()]->data();
        std::memmove(to, before + elements * element_bytes, margin * element_bytes);
      }
      to += margin * element_bytes;
      in.pop(staging.data(), staging.size());
      const unsigned char* from = staging.data();
      for (const piece& q : dma.pieces) {
        std::memcpy(to + q.at * element_bytes, from, q.count * element_bytes);
        from += q.count * element_bytes;
      }
      full[dma_at] = true;
    } else {
      if (!full[dma_at] || !out.room()) return moved;
      const unsigned char* from = copies[dma_at]->data();
      unsigned char* to = staging.data();
      for (const piece& q : dma.pieces) {
        std::memcpy(to, from + q.at * element_bytes, q.count * element_bytes);
        to += q.count * element_bytes;
      }
      out.push(staging.data(), staging.size());
      full[dma_at] = false;
    }
    dma_at = (dma_at + 1) % copies.size();
    moved = true;
  }
}

std::string buffer_port::left_over() const {
  for (bool f : full)
    if (f) return "a full buffer at " + name_of(node);
  if (in.size()) return std::to_string(in.size()) + " bytes before " + name_of(node);
  return {};
}

// ---- kernels ----

static constexpr std::size_t stack_bytes = 1 << 20;

static void enter(unsigned low, unsigned high) {
  reinterpret_cast<kernel_actor*>(std::uintptr_t(low) | std::uintptr_t(high) << 32)->body();
}

kernel_actor::kernel_actor(int i, core_state* c)
    : id(i), node(world::get().kernels[i].get()), core_registers(c), name(name_of_kernel(i)) {}

void kernel_actor::wait(wait_kind k, void* what, std::size_t n) {
  kind = k, on = what, amount = n;
  while (!ready()) {
    machine& m = the_machine();
    swapcontext(&context, &m.scheduler);
  }
  kind = nothing;
}

bool kernel_actor::ready() const {
  switch (kind) {
    case nothing: return true;
    case buffer: return static_cast<buffer_port*>(on)->ready();
    case bytes: return static_cast<queue*>(on)->size() >= amount;
    case space: return static_cast<channel*>(on)->room();
    case value: return static_cast<parameter_state*>(on)->given;
    case turn: return done < target;
  }
  return true;
}

std::string kernel_actor::waiting() const {
  std::string on_what;
  switch (kind) {
    case turn: return {};
    case buffer: {
      const auto* b = static_cast<buffer_port*>(on);
      on_what = name_of(b->node) + (b->is_input ? " (" + std::to_string(b->in.size()) + " of " +
                                                      std::to_string(b->staging.size()) + " bytes there)"
                                                : " (nobody takes its data)");
      break;
    }
    case bytes: on_what = std::to_string(amount) + " bytes of a stream or cascade"; break;
    case space: on_what = "room in a stream or cascade"; break;
    case value: on_what = "a value for " + name_of(static_cast<parameter_state*>(on)->node); break;
    case nothing: on_what = "its turn"; break;
  }
  return name + " waits for " + on_what + ", " + std::to_string(done) + " of " + std::to_string(target) + " iterations done";
}

bool kernel_actor::step() {
  if (started ? !ready() : done >= target) return false;
  machine& m = the_machine();
  if (!started) {
    started = true;
    stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(stack, 4096, PROT_NONE);
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = &m.scheduler;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&context, reinterpret_cast<void (*)()>(enter), 2, unsigned(self), unsigned(self >> 32));
  }
  m.running = this;
  core = core_registers;
  core->kernel = name.c_str();
  swapcontext(&m.scheduler, &context);
  m.running = nullptr;
  return true;
}

// One iteration after another: all synchronous buffers and parameters, the call, the buffers back.
void kernel_actor::body() {
  machine& m = the_machine();
  for (;;) {
    wait(turn, nullptr);
    for (port_node* p : node->arguments) {
      if (p->spec.kind == port_kind::buffer && !p->spec.asynchronous) {
        buffer_port* b = m.buffers.at(p);
        wait(buffer, b);
        b->take();
      } else if (p->spec.kind == port_kind::parameter) {
        parameter_state* s = m.parameters.at(p).get();
        wait(value, s);
      }
    }
    node->invoke(object, node->function, arguments.data());
    for (port_node* p : node->arguments) {
      if (p->spec.kind == port_kind::buffer) {
        buffer_port* b = m.buffers.at(p);
        if (p->spec.asynchronous) {
          if (b->held) fail("RUB-AIE-507", "%s was acquired and not released", name_of(p).c_str());
        } else {
          b->give();
        }
      } else if (p->spec.kind == port_kind::parameter && !p->async_update && p->spec.dir == 0) {
        parameter_state* s = m.parameters.at(p).get();
        s->given = !s->pending.empty();
        if (s->given) {
          std::memcpy(s->value.data(), s->pending.front().data(), s->bytes);
          s->pending.erase(s->pending.begin());
        }
      }
    }
    ++done;
  }
}

// ---- what a kernel calls ----

static kernel_actor* caller() { return the_machine().running; }

void acquire(buffer_port* p) {
  if (p->held) fail("RUB-AIE-507", "%s is acquired twice", name_of(p->node).c_str());
  caller()->wait(kernel_actor::buffer, p);
  p->take();
}
void release(buffer_port* p) {
  if (!p->held) fail("RUB-AIE-507", "%s is released and was not acquired", name_of(p->node).c_str());
  p->give();
}
void stream_read(channel* c, void* to, unsigned n) {
  queue* q = c->ends[0];
  if (q->size() < n) caller()->wait(kernel_actor::bytes, q, n);
  q->pop(to, n);
}
void stream_write(channel* c, const void* from, unsigned n) {
  if (!c->room()) caller()->wait(kernel_actor::space, c);
  c->push(from, n);
}
void cascade_read(channel* c, void* to, unsigned n, char key, unsigned bits) {
  stream_read(c, to, n);
  if (key != c->key || bits != c->bits)
    fail("RUB-AIE-504", "the cascade was written as '%c' of %u bits and is read as '%c' of %u bits", c->key, c->bits, key, bits);
}
void cascade_write(channel* c, const void* from, unsigned n, char key, unsigned bits) {
  c->key = key, c->bits = bits;
  stream_write(c, from, n);
}

}  // namespace adf::sim
