// The graph as the program builds it: nodes and edges, before anything runs. graph.h fills it, the runtime reads it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace adf {

struct traversing_parameters {
  std::uint32_t dimension = 0;
  std::int32_t stride = 1;
  std::uint32_t wrap = 1;
};

struct tiling_parameters {
  std::vector<std::uint32_t> buffer_dimension;
  std::vector<std::uint32_t> tiling_dimension;
  std::vector<std::int32_t> offset;
  std::vector<traversing_parameters> tile_traversal;
  int packet_port_id = -1;
  std::uint32_t repetition = 1;
  std::uint32_t phase = 0;
  std::vector<std::uint32_t> boundary_dimension;
  std::vector<std::int32_t> boundary_offset;
};

namespace sim {

enum class port_kind { buffer, stream, cascade, parameter, any };
enum class node_role { graph_port, kernel, plio, shared, merge };

// What a kernel's signature says of one argument, or what stands for it at the other nodes.
struct port_spec {
  port_kind kind = port_kind::any;
  int dir = 0;  // 0 in, 1 out, 2 inout
  const char* type = "";
  unsigned element_bytes = 0;
  bool is_float = false, is_signed = true;
  unsigned elements = 0;  // fixed extent, elements of a parameter array, 0 for inherited
  unsigned margin = 0;
  bool asynchronous = false;
  char key = 0;  // cascades
  unsigned bits = 0;
};

struct place {
  enum kinds { none, tile, bank, address, offset, shim } kind = none;
  int column = -1, row = -1, value = 0;
};

struct port_node {
  node_role role = node_role::graph_port;
  port_spec spec;
  int owner = -1, index = 0;  // which kernel, plio, shared buffer or merge; which port of it
  std::vector<long long> dims;
  std::vector<tiling_parameters> reads, writes;
  bool async_update = false, single = false;
  std::vector<place> places;
  int id = 0;
};

struct edge {
  port_node *from, *to;
  int fifo_depth = 0;
};

using invoke_t = void (*)(void* object, const void* function, void** arguments);
using create_t = void* (*)(const void* arguments);

struct kernel_node {
  std::string type, entry, source;  // class, its kernel_entry as C++ spells it, file
  std::vector<std::string> headers;
  std::vector<port_node*> arguments;
  invoke_t invoke = nullptr;
  alignas(16) unsigned char function[16] = {};
  std::shared_ptr<void> constructor_arguments;
  create_t create = nullptr;  // null for functions
  double ratio = 0;
  long long stack = 1024, heap = 0, repetitions = 0;
  place at, stack_at;
  int same_tile_as = -1;
};

struct plio_node {
  std::string name, file;
  int width = 32;
  bool input = true;
  port_node* port = nullptr;
  place at;
};

struct shared_node {
  const char* type;
  unsigned element_bytes;
  bool is_float, is_signed;
  std::vector<std::uint32_t> dims;
  std::vector<port_node*> in, out;
  int buffers = 1;
  long long repetitions = 0;
  std::vector<place> places;
};

struct merge_node {
  std::vector<port_node*> in;
  port_node* out = nullptr;
};

struct world {
  std::vector<std::unique_ptr<port_node>> ports;
  std::vector<std::unique_ptr<edge>> edges;
  std::vector<std::unique_ptr<kernel_node>> kernels;
  std::vector<std::unique_ptr<plio_node>> plios;
  std::vector<std::unique_ptr<shared_node>> shared;
  std::vector<std::unique_ptr<merge_node>> merges;
  static world& get();
  port_node* add_port(node_role role, const port_spec& spec, int owner, int index);
  edge* connect(port_node* from, port_node* to);
};

// The program's calls on its graph, once built.
void graph_init(const void* graph);
void graph_run(const void* graph, long long iterations);
void graph_wait(const void* graph);
void graph_end(const void* graph);
void graph_update(port_node* port, const void* data, unsigned elements, unsigned element_bytes);

}  // namespace sim
}  // namespace adf
