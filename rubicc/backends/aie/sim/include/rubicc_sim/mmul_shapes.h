// Shapes (M, K, N) of aie::mmul per architecture and element widths: facts from the AIE API guide, section "Matrix
// Multiplication", and the public headers of aie_api (see names.json). A shape outside them does not compile.
#pragma once

#include "types.h"

namespace aie::detail {

struct shape { unsigned m, k, n; };

// `a` and `b` are the operands' widths in bits; 116 stands for bfloat16 and 132 for float.
constexpr bool in_list(const shape* list, unsigned count, unsigned m, unsigned k, unsigned n) {
  for (unsigned i = 0; i < count; ++i)
    if (list[i].m == m && list[i].k == k && list[i].n == n) return true;
  return false;
}

#define RUBICC_SIM_SHAPES(A, B, ...)                                    \
  if (a == A && b == B) {                                               \
    constexpr shape list[] = {__VA_ARGS__};                             \
    return in_list(list, sizeof(list) / sizeof(list[0]), m, k, n);      \
  }

constexpr bool shape_listed(unsigned a, unsigned b, unsigned m, unsigned k, unsigned n) {
#if __AIE_ARCH__ == 10
  RUBICC_SIM_SHAPES(8, 8, {1, 16, 8}, {2, 16, 8}, {2, 8, 8}, {4, 16, 4}, {4, 16, 8}, {4, 8, 4}, {4, 8, 8}, {8, 8, 4})
  RUBICC_SIM_SHAPES(16, 8, {4, 4, 4}, {4, 4, 8}, {4, 8, 4}, {8, 4, 4})
  RUBICC_SIM_SHAPES(8, 16, {4, 4, 4}, {4, 4, 8}, {8, 8, 1})
  RUBICC_SIM_SHAPES(16, 16, {2, 4, 8}, {4, 2, 8}, {4, 4, 4}, {4, 4, 8}, {8, 8, 1})
  RUBICC_SIM_SHAPES(32, 16, {2, 2, 4}, {2, 2, 8}, {2, 4, 4}, {2, 4, 8}, {4, 2, 4}, {4, 4, 2}, {4, 4, 4})
  RUBICC_SIM_SHAPES(16, 32, {2, 4, 8}, {4, 2, 2}, {4, 4, 1}, {4, 4, 4})
  RUBICC_SIM_SHAPES(32, 32, {2, 2, 2}, {2, 4, 2}, {2, 4, 4}, {2, 8, 2}, {4, 2, 2}, {4, 2, 4}, {4, 4, 1}, {4, 4, 2})
  RUBICC_SIM_SHAPES(132, 132, {2, 2, 2}, {2, 4, 2}, {2, 4, 4}, {2, 8, 2}, {4, 2, 2}, {4, 2, 4}, {4, 4, 1}, {4, 4, 2})
#elif __AIE_ARCH__ == 20
  RUBICC_SIM_SHAPES(8, 4, {4, 16, 8}, {4, 32, 8}, {8, 16, 8})
  RUBICC_SIM_SHAPES(8, 8, {1, 16, 8}, {2, 16, 8}, {2, 8, 8}, {4, 16, 16}, {4, 16, 4}, {4, 16, 8}, {4, 8, 4}, {4, 8, 8},
                    {8, 16, 8}, {8, 8, 4}, {8, 8, 8})
  RUBICC_SIM_SHAPES(16, 8, {2, 16, 8}, {2, 8, 8}, {4, 16, 8}, {4, 4, 4}, {4, 4, 8}, {4, 8, 4}, {8, 4, 4}, {8, 4, 8})
  RUBICC_SIM_SHAPES(8, 16, {4, 4, 4}, {4, 4, 8})
  RUBICC_SIM_SHAPES(16, 16, {2, 4, 8}, {2, 8, 16}, {2, 8, 8}, {4, 2, 8}, {4, 4, 4}, {4, 4, 8}, {4, 8, 8}, {8, 1, 8},
                    {8, 2, 8})
  RUBICC_SIM_SHAPES(32, 16, {2, 4, 8}, {4, 1, 8}, {4, 2, 4}, {4, 4, 4}, {4, 4, 8})
  RUBICC_SIM_SHAPES(16, 32, {2, 4, 8}, {4, 4, 4})
  RUBICC_SIM_SHAPES(32, 32, {4, 1, 8}, {4, 2, 4}, {4, 4, 4}, {8, 2, 4})
  RUBICC_SIM_SHAPES(116, 116, {4, 16, 4}, {4, 16, 8}, {4, 8, 4}, {4, 8, 8}, {8, 1, 8}, {8, 8, 4}, {8, 8, 8})
  RUBICC_SIM_SHAPES(132, 132, {4, 1, 4}, {4, 1, 8}, {4, 8, 4})
#else
  RUBICC_SIM_SHAPES(8, 4, {4, 16, 16}, {8, 8, 8})
  RUBICC_SIM_SHAPES(8, 8, {2, 8, 8}, {4, 16, 8}, {4, 8, 8}, {8, 16, 8}, {8, 8, 8})
  RUBICC_SIM_SHAPES(16, 8, {2, 16, 8}, {4, 16, 8}, {4, 4, 8}, {4, 8, 8}, {8, 2, 8}, {8, 4, 8})
  RUBICC_SIM_SHAPES(8, 16, {4, 4, 8}, {8, 2, 8})
  RUBICC_SIM_SHAPES(16, 16, {2, 4, 8}, {2, 8, 8}, {4, 2, 8}, {4, 4, 8}, {4, 8, 8}, {8, 1, 8}, {8, 2, 8})
  RUBICC_SIM_SHAPES(32, 16, {2, 4, 8}, {4, 1, 8}, {4, 2, 8}, {4, 4, 8})
  RUBICC_SIM_SHAPES(16, 32, {4, 4, 8})
  RUBICC_SIM_SHAPES(32, 32, {4, 1, 8}, {4, 2, 8}, {4, 4, 4}, {4, 4, 8}, {8, 2, 8})
  RUBICC_SIM_SHAPES(116, 116, {4, 8, 4}, {4, 8, 8}, {8, 1, 8}, {8, 8, 4}, {8, 8, 8})
  RUBICC_SIM_SHAPES(132, 132, {4, 1, 4}, {4, 1, 8}, {4, 8, 4})
#endif
  return false;
}
#undef RUBICC_SIM_SHAPES

template <class T>
constexpr unsigned shape_key = std::is_same_v<T, bfloat16> ? 116 : std::is_same_v<T, float> ? 132 : bits_of<T>;
template <class A, class B>
constexpr bool shape_exists(unsigned m, unsigned k, unsigned n) {
  return shape_listed(shape_key<A>, shape_key<B>, m, k, n);
}

}  // namespace aie::detail
