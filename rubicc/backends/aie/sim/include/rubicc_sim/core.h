// Functional emulation of the AI Engine by rubicc: what every other header rests on.
// State of one core (rounding, saturation), errors, architecture numbers. No cycles, no timing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifndef __AIE_ARCH__
#define __AIE_ARCH__ 20  // 10: AIE, 20: AIE-ML, 22: AIE-MLv2 (the -D of the build says which)
#endif

// Hints to AMD's compiler; they change no result.
#define chess_prepare_for_pipelining
#define chess_flatten_loop
#define chess_unroll_loop(...)
#define chess_loop_range(...)
#define chess_loop_count(...)
#define chess_separator_scheduler(...)
#define chess_separator(...)
#define chess_memory_fence(...)
#define chess_manifest(...) false
#define chess_protect_access
#define chess_storage(...)
#define __aie_dm_resource_a
#define __aie_dm_resource_b
#define __aie_dm_resource_c
#define __aie_dm_resource_d
#define __aie_dm_resource_stack

namespace aie {

enum class rounding_mode : unsigned {
  floor, ceil, positive_inf, negative_inf, symmetric_inf, symmetric_zero, conv_even, conv_odd,
  symmetric_floor, symmetric_ceil
};
enum class saturation_mode : unsigned { none = 0, truncate = 0, saturate = 1, symmetric = 3 };

}  // namespace aie

namespace adf::sim {

// The control registers of one core. Kernels on the same tile share one of these.
struct core_state {
  ::aie::rounding_mode rounding = ::aie::rounding_mode::floor;
  ::aie::saturation_mode saturation = ::aie::saturation_mode::none;
  const char* kernel = "";  // who runs now, for messages
};

// The core whose kernel runs now; the runtime changes it when it changes kernels.
extern core_state* core;

// Ends the program with a catalogue code, what broke, and where. Never returns.
[[noreturn]] void fail(const char* code, const char* format, ...) __attribute__((format(printf, 2, 3), cold));

// Alignment in bytes that a load or store of this many bytes needs (aie_api: vector_ldst_align_v).
constexpr unsigned access_alignment(unsigned bytes) {
  if (__AIE_ARCH__ == 10 || bytes <= 16) return 16;
  if (__AIE_ARCH__ == 20 || bytes <= 32) return 32;
  return 64;
}

[[gnu::noinline, gnu::cold]] inline void misaligned(const char* what, const void* p, unsigned bytes, unsigned need) {
  fail("RUB-AIE-510", "%s of %u bytes at an address that is %u past a multiple of %u", what, bytes,
       unsigned(reinterpret_cast<std::uintptr_t>(p) % need), need);
}

template <unsigned Bytes>
inline void check_alignment(const char* what, const void* p) {
  constexpr unsigned need = access_alignment(Bytes);
  if (__builtin_expect((reinterpret_cast<std::uintptr_t>(p) & (need - 1)) != 0, 0)) misaligned(what, p, Bytes, need);
}

}  // namespace adf::sim

namespace aie {

inline void set_rounding(rounding_mode m) { adf::sim::core->rounding = m; }
inline void set_saturation(saturation_mode m) { adf::sim::core->saturation = m; }
inline rounding_mode get_rounding() { return adf::sim::core->rounding; }
inline saturation_mode get_saturation() { return adf::sim::core->saturation; }
inline rounding_mode swap_rounding(rounding_mode m) {
  const rounding_mode before = get_rounding();
  set_rounding(m);
  return before;
}
inline saturation_mode swap_saturation(saturation_mode m) {
  const saturation_mode before = get_saturation();
  set_saturation(m);
  return before;
}

}  // namespace aie
