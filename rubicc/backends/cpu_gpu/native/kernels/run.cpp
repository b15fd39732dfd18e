// Runs programs: memory, threads, and the order of steps. The C interface at the end is what engine.py calls.
//
// Batch items of convolutional networks run one after the other, each through the whole network, so that its
// values stay in a core's own cache; threads take items from a counter, and the last few items, fewer than
// threads, are shared by all threads step by step. Items of recurrent networks run side by side, one slice of the
// batch per thread.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "conv.h"
#include "elementwise.h"
#include "rnn.h"

namespace rubicc {

// Convolution tiles read past the last frame they store; what they read there is never used.
static int slack_of(const StepSpec &s) {
    int reach = 0;
    for (int k = 0; k < s.words; ++k) reach = std::max(reach, s.word_frame[k]);
    return (POSITIONS + 1) * s.phases * s.stride + reach + 64;
}

static int frames_of(const StepSpec &s, int frames) {
    return s.op == CONV ? (frames + s.taps_first) / s.stride + 1 : frames;
}

struct Free {
    void operator()(char *p) const { std::free(p); }
};

// Memory of one thread for one (items, length).
struct Workspace {
    std::vector<View> views;  // of item 0 of the slice
    std::vector<ptrdiff_t> item;  // distance between items of a buffer
    std::unique_ptr<char, Free> memory;
    int items = 0, length = 0;
    Scratch scratch;
};

struct Program {
    ProgramSpec spec;
    std::vector<int> slack;  // per buffer
    std::mutex lock;
    std::vector<std::unique_ptr<Workspace>> idle;

    explicit Program(const ProgramSpec &p) : spec(p), slack(p.n_buffers, 64) {
        for (int i = 0; i < p.n_steps; ++i) {
            const StepSpec &s = p.steps[i];
            if (s.op == CONV) slack[s.x] = std::max(slack[s.x], slack_of(s));
        }
    }

    std::vector<int> frames(int length) const {
        std::vector<int> out(spec.n_buffers, 0);
        out[spec.input] = length;
        for (int i = 0; i < spec.n_steps; ++i) {
            const StepSpec &s = spec.steps[i];
            out[s.y] = frames_of(s, out[s.x]);
        }
        return out;
    }

    std::unique_ptr<Workspace> take(int items, int length) {
        std::unique_ptr<Workspace> found;
        {
            std::lock_guard<std::mutex> guard(lock);
            for (auto &w : idle)
                if (w && w->items == items && w->length == length) {
                    found = std::move(w);
                    idle.erase(idle.begin() + (&w - idle.data()));
                    break;
                }
            if (!found && idle.size() >= 16) idle.erase(idle.begin());
        }
        return found ? std::move(found) : make(items, length);
    }
    void give(std::unique_ptr<Workspace> w) {
        std::lock_guard<std::mutex> guard(lock);
        idle.push_back(std::move(w));
    }

    std::unique_ptr<Workspace> make(int items, int length) const {
        auto w = std::make_unique<Workspace>();
        w->items = items;
        w->length = length;
        w->views.resize(spec.n_buffers);
        w->item.assign(spec.n_buffers, 0);
        const std::vector<int> count = frames(length);
        std::vector<size_t> size(spec.n_slots, 0), lead(spec.n_buffers, 0);
        for (int b = 0; b < spec.n_buffers; ++b) {
            const BufferSpec &buffer = spec.buffers[b];
            const size_t bytes = size_of(buffer.kind);
            const size_t rows = (size_t)buffer.pad_before + count[b] + buffer.pad_after + slack[b];
            View &v = w->views[b];
            v.frames = count[b];
            v.channels = buffer.channels;
            v.kind = buffer.kind;
            v.zero = buffer.zero_point;
            v.scale = buffer.scale;
            const int blocks = (buffer.channels + 15) / 16;
            size_t total;
            if (buffer.channels == 1 && !buffer.sequence) {
                v.frame = bytes;
                v.block = 0;
                total = rows * bytes;
            } else if (buffer.sequence) {
                w->item[b] = blocks * 16 * bytes;
                v.frame = w->item[b] * items;
                v.block = 16 * bytes;
                total = rows * v.frame;
            } else {
                v.frame = 16 * bytes;
                // An odd number of cache lines between blocks keeps them out of each other's cache sets.
                v.block = ((rows * v.frame + 63) / 64 | 1) * 64;
                total = blocks * v.block;
            }
            if (!buffer.sequence) {
                total = (total + 63) / 64 * 64;
                w->item[b] = total;
                total *= items;
            }
            lead[b] = buffer.pad_before * v.frame;
            size[buffer.slot] = std::max(size[buffer.slot], (total + 127) / 64 * 64);
        }
        std::vector<size_t> start(spec.n_slots + 1, 0);
        for (int i = 0; i < spec.n_slots; ++i) start[i + 1] = start[i] + size[i];
        char *memory = (char *)std::aligned_alloc(64, start[spec.n_slots] + 4096);
        if (!memory) throw std::bad_alloc();
        std::memset(memory, 0, start[spec.n_slots] + 4096);
        w->memory.reset(memory);
        for (int b = 0; b < spec.n_buffers; ++b)
            w->views[b].base = memory + start[spec.buffers[b].slot] + lead[b];
        return w;
    }
};

// Real zeros around a value, which the memory's earlier tenant may have overwritten.
static void fill_pads(const BufferSpec &buffer, const View &v) {
    if (!buffer.pad_before && !buffer.pad_after) return;
    const int size = size_of(buffer.kind), fill = buffer.kind == U8 ? buffer.zero_point : 0;
    if (v.channels == 1 && v.frame == size) {
        std::memset(v.at(-buffer.pad_before, 0), fill, buffer.pad_before * size);
        std::memset(v.at(v.frames, 0), fill, buffer.pad_after * size);
        return;
    }
    for (int c = 0; c < v.channels; c += 16) {
        for (int t = -buffer.pad_before; t < 0; ++t) std::memset(v.at(t, c), fill, 16 * size);
        for (int t = v.frames; t < v.frames + buffer.pad_after; ++t) std::memset(v.at(t, c), fill, 16 * size);
    }
}

// A meeting point of the threads that share an item.
struct Barrier {
    std::atomic<int> arrived{0}, round{0};
    int team = 1;
    void wait() {
        if (team == 1) return;
        const int now = round.load();
        if (arrived.fetch_add(1) + 1 == team) {
            arrived = 0;
            round.fetch_add(1);
        } else {
            for (int spin = 0; round.load() == now; ++spin)
                if (spin > 2000) std::this_thread::yield();
        }
    }
};

// Threads that wait for work of one call at a time; further concurrent calls run on their own thread.
class Pool {
  public:
    ~Pool() {
        {
            std::lock_guard<std::mutex> guard(lock_);
            stop_ = true;
        }
        wake_.notify_all();
        for (auto &t : threads_) t.join();
    }
    void run(int threads, const std::function<void(int)> &job) {
        if (threads == 1) return job(0);
        std::lock_guard<std::mutex> alone(call_);
        {
            std::lock_guard<std::mutex> guard(lock_);
            while ((int)threads_.size() < threads - 1)
                threads_.emplace_back([this, id = (int)threads_.size() + 1] { loop(id); });
            job_ = &job;
            wanted_ = threads;
            left_ = threads - 1;
            ++round_;
        }
        wake_.notify_all();
        job(0);
        std::unique_lock<std::mutex> guard(lock_);
        done_.wait(guard, [this] { return left_ == 0; });
    }

  private:
    void loop(int id) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> guard(lock_);
        for (;;) {
            wake_.wait(guard, [&] { return stop_ || (round_ != seen && id < wanted_); });
            if (stop_) return;
            seen = round_;
            const auto *job = job_;
            guard.unlock();
            (*job)(id);
            guard.lock();
            if (--left_ == 0) done_.notify_one();
        }
    }
    std::mutex call_, lock_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> threads_;
    const std::function<void(int)> *job_ = nullptr;
    int wanted_ = 0, left_ = 0;
    uint64_t round_ = 0;
    bool stop_ = false;
};

struct Call {
    Program &program;
    const float *x;
    float *out;
    int items, length, out_frames;
    double *seconds;  // per step, or null
};

static View item_view(const Workspace &w, int b, int i) {
    View v = w.views[b];
    v.base += w.item[b] * i;
    return v;
}

static void read_input(const Call &c, const Workspace &w, int b, int first, int i) {
    const View v = item_view(w, b, i);
    const float *from = c.x + (size_t)(first + i) * v.channels * c.length;
    for (int channel = 0; channel < v.channels; ++channel)
        for (int t = 0; t < c.length; ++t) store(v.at(t, channel), from[(size_t)channel * c.length + t]);
    fill_pads(c.program.spec.buffers[b], v);
}

static void write_output(const Call &c, const Workspace &w, int b, int first, int i) {
    const View v = item_view(w, b, i);
    const size_t item = first + i, channels = v.channels;
    if (c.program.spec.layout_nct) {
        for (size_t ch = 0; ch < channels; ++ch)
            for (int t = 0; t < v.frames; ++t)
                c.out[(item * channels + ch) * v.frames + t] = load<float>(v.at(t, (int)ch));
        return;
    }
    for (int t = 0; t < v.frames; ++t) {
        float *to = c.out + ((size_t)t * c.items + item) * channels;
        for (int ch = 0; ch < v.channels; ch += 16)
            std::memcpy(to + ch, v.at(t, ch), sizeof(float) * std::min(16, v.channels - ch));
    }
}

static void run_step(const StepSpec &s, const View &x, const View &y, const View &add, int first, int last) {
    if (first >= last) return;
    if (s.op == CONV) run_conv(s, x, y, add, first, last);
    else if (s.op == ELEMENTWISE) run_elementwise(s, x, y, add, first, last);
    else if (s.op == GATHER) run_gather(s, x, y, first, last);
    else run_log_softmax(x, y, first, last);
}

// All steps for `items` items from `first` on; member `me` of a team that shares them.
static void run_slice(const Call &c, Workspace &w, int first, int items, int me, Barrier &barrier) {
    const ProgramSpec &p = c.program.spec;
    if (me == 0)
        for (int i = 0; i < items; ++i) read_input(c, w, p.input, first, i);
    barrier.wait();
    for (int n = 0; n < p.n_steps; ++n) {
        const StepSpec &s = p.steps[n];
        const auto begin = std::chrono::steady_clock::now();
        if (s.op == RECURRENT) {
            const View x = w.views[s.x], y = w.views[s.y];
            if (me == 0)
                run_rnn(*(const RnnStep *)s.recurrent, x.base, x.frame, y.base, y.frame, y.frames, items,
                        w.scratch);
        } else {
            for (int i = 0; i < items; ++i) {
                const View x = item_view(w, s.x, i), y = item_view(w, s.y, i);
                const View add = s.add < 0 ? View() : item_view(w, s.add, i);
                const int grain = POSITIONS * std::max(1, s.phases);
                const int tiles = (y.frames + grain - 1) / grain;
                // Frames of a single channel lie side by side and are stored sixteen lanes at a time: what runs
                // over is overwritten by the next frame, so their order matters.
                const bool alone = y.channels == 1;
                const int team = alone ? 1 : barrier.team, part = alone && me ? 1 : me;
                const int from = tiles * part / team * grain, to = tiles * (part + 1) / team * grain;
                run_step(s, x, y, add, from, std::min(to, y.frames));
            }
        }
        barrier.wait();
        if (me == 0)
            for (int i = 0; i < items; ++i) fill_pads(p.buffers[s.y], item_view(w, s.y, i));
        barrier.wait();
        if (c.seconds && me == 0)
            c.seconds[n] += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    if (me == 0)
        for (int i = 0; i < items; ++i) write_output(c, w, p.output, first, i);
    barrier.wait();
}

static void run_items(const Call &c, Pool &pool, int threads) {
    const bool side_by_side = c.program.spec.recurrent;
    const int slice = side_by_side ? (c.items + threads - 1) / threads : 1;
    const int whole = side_by_side ? c.items : c.items - c.items % threads;
    if (whole) {
        std::atomic<int> next{0};
        std::atomic<bool> full{false};  // no exception may leave a thread of the pool
        pool.run(std::min(threads, (whole + slice - 1) / slice), [&](int) {
            Barrier alone;
            try {
                for (int first; (first = next.fetch_add(slice)) < whole;) {
                    const int items = std::min(slice, whole - first);
                    auto w = c.program.take(items, c.length);
                    run_slice(c, *w, first, items, 0, alone);
                    c.program.give(std::move(w));
                }
            } catch (const std::bad_alloc &) {
                full = true;
            }
        });
        if (full) throw std::bad_alloc();
    }
    for (int item = whole; item < c.items; ++item) {
        auto w = c.program.take(1, c.length);
        Barrier barrier;
        barrier.team = threads;
        pool.run(threads, [&](int me) { run_slice(c, *w, item, 1, me, barrier); });
        c.program.give(std::move(w));
    }
}

struct Handle {
    Program program;
    Pool pool;
    explicit Handle(const ProgramSpec &spec) : program(spec) {}
};

}  // namespace rubicc

using namespace rubicc;

extern "C" {

// Sizes of the structs, for the other side to compare with its own.
void rb_layout(int32_t *sizes) {
    sizes[0] = sizeof(BufferSpec);
    sizes[1] = sizeof(StepSpec);
    sizes[2] = sizeof(ProgramSpec);
}

const char *rb_features() {
    return ""
#if defined(__AVX512F__)
           "avx512 "
#endif
#if defined(__AVX512VNNI__)
           "vnni "
#endif
#if defined(__AVX512BF16__)
           "bf16 "
#endif
        ;
}

void *rb_open(const ProgramSpec *spec) { return new (std::nothrow) Handle(*spec); }

void rb_close(void *handle) { delete (Handle *)handle; }

int32_t rb_frames(void *handle, int32_t length) {
    Handle *h = (Handle *)handle;
    return h->program.frames(length)[h->program.spec.output];
}

// x: (items, channels, length) floats; out: as the program's layout says. 0, or 1 when memory ran out.
int32_t rb_run(void *handle, const float *x, float *out, int32_t items, int32_t length, int32_t threads,
               double *seconds) {
    Handle *h = (Handle *)handle;
    try {
        const Call call{h->program, x, out, items, length, rb_frames(handle, length), seconds};
        run_items(call, h->pool, threads);
    } catch (const std::bad_alloc &) {
        return 1;
    }
    return 0;
}

}  // extern "C"
