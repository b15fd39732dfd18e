// What runs: memories, queues, DMAs and kernels made from the recorded graph, stepped until nothing moves.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <ucontext.h>
#include <vector>

#include "../include/rubicc_sim/ports.h"
#include "../include/rubicc_sim/world.h"

namespace adf::sim {

std::string setting(const char* name);
std::string name_of(const port_node* p);
std::string name_of_kernel(int id);

// ---- the graph, resolved ----

// Where a signal starts and all the places it ends, graph ports between them followed.
struct net {
  port_node* from = nullptr;
  std::vector<port_node*> to;
  int fifo_depth = 0;
};
struct netlist {
  std::vector<net> nets;
  std::map<const port_node*, int> net_of;  // either end -> its net
};
netlist resolve();
std::vector<port_node*> ends_below(port_node* p);

// One contiguous piece of a walk through a buffer, in elements; at < 0 stands for zeros.
struct piece { long long at, count; };
struct walk {
  std::vector<piece> pieces;
  long long elements = 0;
};
walk plan_walk(const std::vector<tiling_parameters>& tilings, const std::vector<long long>& dims, bool may_pad,
               const std::string& who);
// Elements in the buffer of a kernel's or shared buffer's port, without margin.
long long buffer_elements(const port_node* p);
std::vector<long long> buffer_dims(const port_node* p);
// The walk a port's DMA does in one transfer.
walk port_walk(const port_node* p);
// Bytes a port moves per iteration of its owner; 0 where no rate is fixed.
long long transfer_bytes(const port_node* p);

// Element type at the far end of a plio.
port_spec plio_element(const netlist& n, const plio_node& p);

void check_graph(const netlist& n);
void check_placement(const netlist& n);
// Bytes per tile and bank as placed: JSON text for the report.
std::string memory_report();
std::map<int, long long> solve_repetitions(const netlist& n);
void describe(const netlist& n, const std::string& path);

// ---- data in flight ----

class queue {
 public:
  std::size_t size() const { return bytes.size() - head; }
  void push(const void* from, std::size_t n);
  void pop(void* to, std::size_t n);
  std::size_t capacity = 4096;  // a push may begin while fewer bytes are queued

 private:
  std::vector<unsigned char> bytes;
  std::size_t head = 0;
};

// A net's queues, one per end. A push goes to all of them or waits, as a broadcast does.
struct channel {
  std::vector<queue*> ends;
  char key = 0;  // cascades: what was written last
  unsigned bits = 0;
  bool room() const;
  void push(const void* from, std::size_t n);
};

class actor {
 public:
  virtual ~actor() = default;
  virtual bool step() = 0;                             // whether anything moved
  virtual std::string waiting() const { return {}; }   // what it waits for in mid-work, empty when idle
  virtual std::string left_over() const { return {}; } // data nobody took
};

// Memory of one buffer with a guard on both sides.
class guarded {
 public:
  explicit guarded(std::size_t bytes);
  unsigned char* data() { return memory.get() + guard; }
  bool intact() const;

 private:
  static constexpr std::size_t guard = 128;
  struct release { void operator()(unsigned char* p) const { std::free(p); } };
  std::unique_ptr<unsigned char, release> memory;
  std::size_t bytes;
};

struct buffer_port : actor {
  port_node* node;
  bool is_input;
  walk dma;
  unsigned element_bytes;
  long long elements, margin;
  std::vector<std::unique_ptr<guarded>> copies;
  std::vector<bool> full;
  unsigned dma_at = 0, core_at = 0;
  bool held = false;
  queue in;
  channel out;
  buffer_handle handle;
  std::vector<unsigned char> staging;

  explicit buffer_port(port_node* p);
  bool ready() const { return is_input ? bool(full[core_at]) : !full[core_at]; }
  void take();
  void give();
  bool step() override;
  std::string left_over() const override;
};

struct machine;
machine& the_machine();

class kernel_actor : public actor {
 public:
  int id;
  kernel_node* node;
  core_state* core_registers;
  std::string name;
  void* object = nullptr;
  std::vector<void*> arguments;
  long long done = 0, target = 0;
  bool started = false;
  ucontext_t context{};
  void* stack = nullptr;

  kernel_actor(int id, core_state* c);
  bool step() override;
  std::string waiting() const override;
  void body();
  // Called by the running kernel: back to the scheduler until the condition holds.
  enum wait_kind { nothing, buffer, bytes, space, value, turn };
  void wait(wait_kind k, void* on, std::size_t n = 0);

 private:
  wait_kind kind = nothing;
  void* on = nullptr;
  std::size_t amount = 0;
  bool ready() const;
};

// Where a kernel parameter's values stand.
struct parameter_state {
  port_node* node;
  std::size_t bytes;
  guarded value;
  std::vector<std::vector<unsigned char>> pending;
  bool given = false;
  explicit parameter_state(port_node* p);
};

struct machine {
  netlist nets;
  std::vector<std::unique_ptr<actor>> actors;
  std::vector<kernel_actor*> kernels;
  std::map<const port_node*, buffer_port*> buffers;
  std::map<const port_node*, std::unique_ptr<channel>> channels;   // by the net's source
  std::map<const port_node*, std::unique_ptr<queue>> queues;       // by the end
  std::map<const port_node*, std::unique_ptr<parameter_state>> parameters;
  std::map<std::pair<int, int>, std::unique_ptr<core_state>> cores;
  std::vector<std::unique_ptr<core_state>> lone_cores;
  std::map<int, long long> repetitions;
  kernel_actor* running = nullptr;
  ucontext_t scheduler{};
  long long iterations = 0;
  bool built = false;
  const void* owner = nullptr;

  void build();
  void run(long long n);
  void finish();
  channel* channel_from(const port_node* source);
  queue* queue_at(const port_node* end);
  void spin();
};

std::unique_ptr<actor> make_plio_actor(machine& m, plio_node& p);
std::unique_ptr<actor> make_shared_actor(machine& m, shared_node& s, int id);
std::unique_ptr<actor> make_merge_actor(machine& m, merge_node& s, int id);
void write_outputs();

}  // namespace adf::sim
