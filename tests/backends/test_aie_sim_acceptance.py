"""Acceptance of the emulation with kernels of our own: a cascaded dense layer against numpy, and its mutants.

The range is unsaturated and full of exact ties, so that a wrong rounding or shift cannot hide; a second input
saturates, so that a missing saturation cannot.
"""

from __future__ import annotations

import numpy as np
import pytest

from rubicc.backends.aie import sim
from rubicc.errors import VerificationFailed
from tests.backends.aie_sim_projects import MAIN, build

ROWS, DEEP, WIDE, SHIFT = 16, 64, 32, 7  # rows, inputs, outputs, bits shifted out

HEADER = f"""
#pragma once
#include <adf.h>
#include <aie_api/aie.hpp>
#include <cstdlib>
#include <cstring>
inline bool is(const char* mutant) {{
  const char* v = std::getenv("MUTANT");
  return v && !std::strcmp(v, mutant);
}}
constexpr int ROWS = {ROWS}, HALF = {DEEP // 2}, WIDE = {WIDE}, SHIFT = {SHIFT};
using MM = aie::mmul<4, 8, 8, int8, int8, acc32>;

class upper {{
 public:
  void run(adf::input_buffer<int8>& x, const int8 (&w)[HALF * WIDE], const int32 (&b)[WIDE],
           adf::output_cascade<acc32>* sums);
  static void registerKernelClass() {{ REGISTER_FUNCTION(upper::run); }}
}};
class lower {{
 public:
  lower();
  void run(adf::input_buffer<int8>& x, const int8 (&w)[HALF * WIDE], adf::input_cascade<acc32>* sums,
           adf::output_buffer<int8>& y);
  static void registerKernelClass() {{ REGISTER_FUNCTION(lower::run); }}
}};
"""

KERNELS = """
#include "dense.h"
// Two rows of blocks and two columns of blocks at a time, as such kernels are written.
static void half(const int8* x, const int8* w, int z, int j, MM& c00, MM& c01, MM& c10, MM& c11) {
  for (int i = 0; i < HALF / 8; ++i) {
    const int at = is("weight-index") && i == 1 ? i - 1 : i;
    const auto a0 = aie::load_v<32>(x + (z * (HALF / 8) + i) * 32);
    const auto a1 = aie::load_v<32>(x + ((z + 1) * (HALF / 8) + i) * 32);
    const auto b0 = aie::load_v<64>(w + (at * (WIDE / 8) + j) * 64);
    const auto b1 = aie::load_v<64>(w + (at * (WIDE / 8) + j + 1) * 64);
    c00.mac(a0, b0);
    (is("accumulator") ? c10 : c01).mac(a0, b1);
    c10.mac(a1, b0);
    c11.mac(a1, b1);
  }
}
void upper::run(adf::input_buffer<int8>& x, const int8 (&w)[HALF * WIDE], const int32 (&b)[WIDE],
                adf::output_cascade<acc32>* sums) {
  for (int z = 0; z < ROWS / 4; z += 2)
    for (int j = 0; j < WIDE / 8; j += 2) {
      const auto b0 = aie::load_v<8>(b + 8 * (is("bias-index") ? 0 : j)), b1 = aie::load_v<8>(b + 8 * j + 8);
      const auto four0 = aie::concat(b0, b0, b0, b0), four1 = aie::concat(b1, b1, b1, b1);
      MM c00 = four0, c01 = four1, c10 = four0, c11 = four1;
      half(x.data(), w, z, j, c00, c01, c10, c11);
      if (is("truncating-cascade")) c11 = aie::from_vector<acc32>(c11.to_vector<int8>(0));
      writeincr(sums, c00.to_accum());
      writeincr(sums, is("cascade-order") ? c10.to_accum() : c01.to_accum());
      writeincr(sums, is("cascade-order") ? c01.to_accum() : c10.to_accum());
      writeincr(sums, c11.to_accum());
    }
}
lower::lower() {
  aie::set_rounding(is("half-up") ? aie::rounding_mode::positive_inf
                    : is("half-away") ? aie::rounding_mode::symmetric_inf
                    : is("no-rounding") ? aie::rounding_mode::floor
                                      : aie::rounding_mode::conv_even);
  aie::set_saturation(is("no-saturation") ? aie::saturation_mode::none
                      : is("symmetric") ? aie::saturation_mode::symmetric
                                        : aie::saturation_mode::saturate);
}
void lower::run(adf::input_buffer<int8>& x, const int8 (&w)[HALF * WIDE], adf::input_cascade<acc32>* sums,
                adf::output_buffer<int8>& y) {
  const int shift = is("shift-more") ? SHIFT + 1 : is("shift-less") ? SHIFT - 1 : SHIFT;
  for (int z = 0; z < ROWS / 4; z += 2)
    for (int j = 0; j < WIDE / 8; j += 2) {
      MM c00(readincr_v<32>(sums)), c01(readincr_v<32>(sums));
      MM c10(readincr_v<32>(sums)), c11(readincr_v<32>(sums));
      half(x.data(), w, z, j, c00, c01, c10, c11);
      int8* to = y.data() + (z * (WIDE / 8) + j) * 32;
      aie::store_v(to, c00.to_vector<int8>(shift));
      aie::store_v(to + 32, c01.to_vector<int8>(shift));
      aie::store_v(to + WIDE * 4, c10.to_vector<int8>(shift));
      aie::store_v(to + WIDE * 4 + 32, c11.to_vector<int8>(shift));
    }
}
"""

APP = (
    """
#include "dense.h"
#include "weights.h"
using namespace adf;
// Rows come in as they lie in the tensor; the memory tile hands each kernel its half in blocks of 4 x 8, and
// a second one puts the blocks of the result back into rows.
struct layer : graph {
  kernel up, low;
  input_port w0, w1, b;
  input_plio in;
  output_plio out;
  shared_buffer<int8> x, y;
  layer() {
    up = kernel::create_object<upper>();
    low = kernel::create_object<lower>();
    source(up) = "dense.cpp";
    source(low) = "dense.cpp";
    runtime<ratio>(up) = runtime<ratio>(low) = 1.0;
    location<kernel>(up) = tile(8, 0);
    location<kernel>(low) = tile(9, 0);
    in = input_plio::create("in", plio_128_bits, "in.bin");
    out = output_plio::create("out", plio_128_bits, "out.bin");
    x = shared_buffer<int8>::create({64, 16}, 1, 2);
    y = shared_buffer<int8>::create({32, 16}, 1, 1);
    num_buffers(x) = num_buffers(y) = 2;
    location<buffer>(x) = {address(8, 0, 0), address(8, 0, 0x400)};
    connect<>(in.out[0], x.in[0]);
    connect<>(x.out[0], up.in[0]);
    connect<>(x.out[1], low.in[0]);
    connect<parameter>(w0, async(up.in[1]));
    connect<parameter>(b, async(up.in[2]));
    connect<parameter>(w1, async(low.in[1]));
    connect<cascade>(up.out[0], low.in[2]);
    connect<>(low.out[0], y.in[0]);
    connect<>(y.out[0], out.in[0]);
    dimensions(up.in[0]) = {512};
    dimensions(low.in[0]) = {512};
    dimensions(low.out[0]) = {512};
    for (int h = 0; h < 2; ++h)
      read_access(x.out[h]) = tiling({.buffer_dimension = {64, 16}, .tiling_dimension = {8, 4},
          .offset = {h * 32 + (h && is("tiling-offset") ? -8 : 0), 0},
          .tile_traversal = {{.dimension = 0, .stride = 8, .wrap = 4},
                             {.dimension = 1, .stride = 4, .wrap = 4}}});
    const int inner = is("tiling-order");
    write_access(y.in[0]) = tiling({
        .buffer_dimension = {32, 16}, .tiling_dimension = {8, 4}, .offset = {0, 0},
        .tile_traversal = {{.dimension = unsigned(inner), .stride = inner ? 4 : 8, .wrap = 4},
                           {.dimension = unsigned(!inner), .stride = inner ? 8 : 4, .wrap = 4}}});
  }
};
layer g;
"""
    + MAIN % ("g.update(g.w0, first, 1024); g.update(g.w1, second, 1024); g.update(g.b, bias, 32);", 2)
)

MUTANTS = {
    "plain": ("half-up", "half-away", "no-rounding", "shift-more", "shift-less", "accumulator",
              "weight-index", "bias-index", "cascade-order", "truncating-cascade", "tiling-offset",
              "tiling-order"),
    "saturating": ("no-saturation", "symmetric"),
}  # fmt: skip


def blocks(w: np.ndarray) -> list[int]:
    """K x N weights as 8 x 8 blocks, rows of blocks first."""
    return w.reshape(w.shape[0] // 8, 8, -1, 8).transpose(0, 2, 1, 3).ravel().tolist()


def listed(kind: str, name: str, values: list[int]) -> str:
    return f"alignas(64) const {kind} {name}[{len(values)}] = {{{', '.join(map(str, values))}}};\n"


@pytest.fixture(scope="module")
def network() -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(7)
    return 4 * r.integers(-4, 5, (DEEP, WIDE)), 4 * r.integers(-300, 300, WIDE)


@pytest.fixture(scope="module")
def layer(network: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> sim.Built:
    w, b = network
    text = listed("int8", "first", blocks(w[: DEEP // 2])) + listed("int8", "second", blocks(w[DEEP // 2 :]))
    text += listed("int32", "bias", b.tolist())
    files = {"app.cpp": APP, "src/weights.h": text, "src/dense.h": HEADER, "src/dense.cpp": KERNELS}
    return build(tmp_path_factory.mktemp("aie-dense"), files)


def data(
    network: tuple[np.ndarray, np.ndarray], reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Input, expected output, unclipped output, sums."""
    w, b = network
    r = np.random.default_rng(reach)
    x = r.integers(-reach, reach, (2, ROWS, DEEP))
    if reach == 128:
        x = np.where(x < 0, -128, 127)
    sums = x @ w + b
    exact = np.rint(sums / 2**SHIFT).astype(np.int64)  # numpy rounds halves to even
    return x, np.clip(exact, -128, 127), exact, sums


RANGES = {"plain": 20, "saturating": 128}


@pytest.mark.parametrize("case", RANGES)
def test_dense_over_a_cascade_is_exact(
    layer: sim.Built, network: tuple[np.ndarray, np.ndarray], case: str
) -> None:
    x, want, exact, sums = data(network, RANGES[case])
    got = sim.run(layer, {"in": x}).outputs["out"].reshape(want.shape)
    np.testing.assert_array_equal(got, want)
    ties = int((sums % 2**SHIFT == 2 ** (SHIFT - 1)).sum())
    saturated = int((exact != want).sum())
    assert ties >= 20
    assert saturated == 0 if case == "plain" else saturated >= 20
    assert np.count_nonzero(want) > want.size // 2


@pytest.mark.parametrize(("case", "mutant"), [(c, m) for c, names in MUTANTS.items() for m in names])
def test_mutants_are_caught(
    layer: sim.Built, network: tuple[np.ndarray, np.ndarray], case: str, mutant: str
) -> None:
    x, want, _, _ = data(network, RANGES[case])
    try:
        got = sim.run(layer, {"in": x}, environment={"MUTANT": mutant}).outputs["out"].reshape(want.shape)
    except VerificationFailed:
        return
    assert (got != want).any()


def test_every_mutant_is_in_the_source() -> None:
    text = HEADER + KERNELS + APP
    for names in MUTANTS.values():
        for name in names:
            assert f'is("{name}")' in text
