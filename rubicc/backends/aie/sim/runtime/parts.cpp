// Memory tiles, merges and PLIO files.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "machine.h"

namespace adf::sim {

// ---- a shared buffer: every writer and reader walks it once per iteration ----

namespace {

struct shared_actor : actor {
  struct side {
    port_node* port;
    walk w;
    long long done = 0;
    queue* in = nullptr;
    channel* out = nullptr;
    std::vector<unsigned char> staging;
    side(port_node* p, walk v) : port(p), w(std::move(v)) {}
  };
  int id;
  unsigned element_bytes;
  std::vector<std::unique_ptr<guarded>> slots;
  std::vector<side> writers, readers;

  shared_actor(machine& m, shared_node& s, int i) : id(i), element_bytes(s.element_bytes) {
    long long n = 1;
    for (auto d : s.dims) n *= d;
    for (int k = 0; k < s.buffers; ++k) slots.push_back(std::make_unique<guarded>(n * element_bytes));
    for (port_node* p : s.in) {
      writers.emplace_back(p, port_walk(p));
      writers.back().staging.resize(writers.back().w.elements * element_bytes);
      writers.back().in = m.queue_at(p);
      writers.back().in->capacity = writers.back().staging.size();
    }
    for (port_node* p : s.out) {
      readers.emplace_back(p, port_walk(p));
      readers.back().staging.resize(readers.back().w.elements * element_bytes);
      readers.back().out = m.channel_from(p);
    }
  }
  static long long least(const std::vector<side>& v) {
    long long n = 1ll << 62;
    for (const side& s : v) n = std::min(n, s.done);
    return n;
  }
  void fill(side& s) {
    unsigned char* to = slots[s.done % slots.size()]->data();
    s.in->pop(s.staging.data(), s.staging.size());
    const unsigned char* from = s.staging.data();
    for (const piece& q : s.w.pieces) {
      std::memcpy(to + q.at * element_bytes, from, q.count * element_bytes);
      from += q.count * element_bytes;
    }
    ++s.done;
  }
  void drain(side& s) {
    const unsigned char* from = slots[s.done % slots.size()]->data();
    unsigned char* to = s.staging.data();
    for (const piece& q : s.w.pieces) {
      if (q.at < 0) std::memset(to, 0, q.count * element_bytes);
      else std::memcpy(to, from + q.at * element_bytes, q.count * element_bytes);
      to += q.count * element_bytes;
    }
    s.out->push(s.staging.data(), s.staging.size());
    ++s.done;
  }
  bool step() override {
    bool moved = false;
    for (bool again = true; again;) {
      again = false;
      for (side& s : writers)
        if (s.done < least(readers) + (long long)slots.size() && s.in->size() >= s.staging.size()) fill(s), again = true;
      for (side& s : readers)
        if (s.done < least(writers) && s.out->room()) drain(s), again = true;
      moved |= again;
    }
    return moved;
  }
  std::string left_over() const override {
    for (const side& s : writers) {
      if (s.in->size()) return std::to_string(s.in->size()) + " bytes before " + name_of(s.port);
      if (s.done != least(readers)) return "what " + name_of(s.port) + " wrote";
    }
    return {};
  }
};

struct merge_actor : actor {
  std::vector<queue*> in;
  std::vector<long long> packet;
  channel* out;
  std::size_t at = 0;
  int id;
  merge_actor(machine& m, merge_node& n, int i) : out(m.channel_from(n.out)), id(i) {
    for (port_node* p : n.in) {
      in.push_back(m.queue_at(p));
      const port_node* from = m.nets.nets[m.nets.net_of.at(p)].from;
      packet.push_back(transfer_bytes(from));
      if (!packet.back()) fail("RUB-AIE-514", "%s merges %s, which has no packets", name_of(p).c_str(), name_of(from).c_str());
    }
  }
  bool step() override {
    bool moved = false;
    while ((long long)in[at]->size() >= packet[at] && out->room()) {
      std::vector<unsigned char> p(packet[at]);
      in[at]->pop(p.data(), p.size());
      out->push(p.data(), p.size());
      at = (at + 1) % in.size();
      moved = true;
    }
    return moved;
  }
  std::string left_over() const override { return at ? "a merge that stopped at input " + std::to_string(at) : ""; }
};

// ---- files ----

bool is_text(const std::string& file) { return file.size() > 4 && file.compare(file.size() - 4, 4, ".txt") == 0; }
std::string place_of(const std::string& folder, const std::string& file) {
  return folder.empty() || file[0] == '/' ? file : folder + "/" + file;
}

struct file_in : actor {
  plio_node& node;
  channel* out;
  std::vector<unsigned char> data;
  std::size_t at = 0;

  file_in(machine& m, plio_node& p) : node(p), out(m.channel_from(p.port)) {
    const std::string path = place_of(setting("RUBICC_SIM_INPUT"), p.file);
    std::FILE* f = std::fopen(path.c_str(), "rb");
    if (!f) fail("RUB-AIE-508", "PLIO %s reads %s, which cannot be opened", p.name.c_str(), path.c_str());
    char block[65536];
    std::string all;
    for (std::size_t n; (n = std::fread(block, 1, sizeof block, f)) > 0;) all.append(block, n);
    std::fclose(f);
    if (is_text(p.file)) parse(all, plio_element(m.nets, p), path);
    else data.assign(all.begin(), all.end());
  }
  // Numbers apart by white space, in the element type of the port at the other end; TLAST marks are passed over.
  void parse(const std::string& all, const port_spec& e, const std::string& path) {
    const char *c = all.c_str(), *end = c + all.size();
    while (c < end) {
      while (c < end && std::isspace(static_cast<unsigned char>(*c))) ++c;
      if (c == end) break;
      if (!std::strncmp(c, "TLAST", 5)) {
        c += 5;
        continue;
      }
      char* after = nullptr;
      unsigned char raw[8];
      if (e.is_float) {
        const float v = std::strtof(c, &after);
        if (e.element_bytes == 4) {
          std::memcpy(raw, &v, 4);
        } else {
          const bfloat16 b(v);
          std::memcpy(raw, &b, 2);
        }
      } else {
        errno = 0;
        const long long v = std::strtoll(c, &after, 10);
        const int bits = int(8 * e.element_bytes);
        const long long low = e.is_signed ? -(1ll << (bits - 1)) : 0, high = e.is_signed ? -low - 1 : (1ll << (bits % 64)) - 1;
        if (errno || (bits < 64 && (v < low || v > high)))
          fail("RUB-AIE-508", "%s holds %.*s, which is no %s", path.c_str(), int(after - c), c, e.type);
        std::memcpy(raw, &v, 8);
      }
      if (after == c || (after < end && !std::isspace(static_cast<unsigned char>(*after))))
        fail("RUB-AIE-508", "%s holds '%.12s', which is no number", path.c_str(), c);
      data.insert(data.end(), raw, raw + e.element_bytes);
      c = after;
    }
  }
  bool step() override {
    bool moved = false;
    while (at < data.size() && out->room()) {
      const std::size_t n = std::min<std::size_t>(4096, data.size() - at);
      out->push(data.data() + at, n);
      at += n;
      moved = true;
    }
    return moved;
  }
  std::string left_over() const override {
    return at < data.size() ? std::to_string(data.size() - at) + " bytes of " + node.file : "";
  }
};

struct file_out : actor {
  plio_node& node;
  queue* in;
  port_spec element;
  std::vector<unsigned char> data;

  file_out(machine& m, plio_node& p) : node(p), in(m.queue_at(p.port)), element(plio_element(m.nets, p)) {}
  bool step() override {
    const std::size_t n = in->size();
    if (!n) return false;
    data.resize(data.size() + n);
    in->pop(data.data() + data.size() - n, n);
    return true;
  }
  void write() const {
    const std::string path = place_of(setting("RUBICC_SIM_OUTPUT"), node.file);
    std::FILE* f = std::fopen(path.c_str(), "wb");
    if (!f) fail("RUB-AIE-508", "PLIO %s writes %s, which cannot be opened", node.name.c_str(), path.c_str());
    if (!is_text(node.file)) {
      std::fwrite(data.data(), 1, data.size(), f);
    } else {
      const unsigned e = element.element_bytes, per_line = std::max(1u, unsigned(node.width) / (8 * e));
      for (std::size_t i = 0; i < data.size() / e; ++i) {
        const unsigned char* p = data.data() + i * e;
        const char* after = (i + 1) % per_line && i + 1 < data.size() / e ? " " : "\n";
        if (element.is_float) {
          float v;
          if (e == 4) {
            std::memcpy(&v, p, 4);
          } else {
            bfloat16 b;
            std::memcpy(static_cast<void*>(&b), p, 2);
            v = b;
          }
          std::fprintf(f, "%.9g%s", double(v), after);
        } else {
          long long v = 0;
          std::memcpy(&v, p, e);
          const int up = int(64 - 8 * e);
          v = element.is_signed ? (long long)((unsigned long long)v << up) >> up : v;
          std::fprintf(f, "%lld%s", v, after);
        }
      }
    }
    std::fclose(f);
  }
};

std::vector<const file_out*>& outputs() {
  static std::vector<const file_out*> v;
  return v;
}

}  // namespace

std::unique_ptr<actor> make_shared_actor(machine& m, shared_node& s, int id) { return std::make_unique<shared_actor>(m, s, id); }
std::unique_ptr<actor> make_merge_actor(machine& m, merge_node& s, int id) { return std::make_unique<merge_actor>(m, s, id); }
std::unique_ptr<actor> make_plio_actor(machine& m, plio_node& p) {
  if (p.input) return std::make_unique<file_in>(m, p);
  auto a = std::make_unique<file_out>(m, p);
  outputs().push_back(a.get());
  return a;
}
void write_outputs() {
  for (const file_out* o : outputs()) o->write();
}

}  // namespace adf::sim
