"""Whole emulated graphs: everything that moves data, against numpy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from rubicc.backends.aie import sim
from rubicc.errors import UsageError
from tests.backends.aie_sim_projects import MAIN, build, project

KERNELS_H = """
#pragma once
#include <adf.h>
#include <aie_api/aie.hpp>
using namespace adf;

// A template whose members stand in scaler.cpp alone, with state, a constructor argument and parameters.
template <class T>
class scaler {
 public:
  explicit scaler(int add);
  void run(input_buffer<T>& in, const T (&factors)[8], int32 bias, output_buffer<T>& out);
  static void registerKernelClass() { REGISTER_FUNCTION(scaler::run); }

 private:
  int add, calls = 0;
};
class head {
 public:
  void run(input_buffer<int16>& turned, input_buffer<int16>& padded, output_cascade<acc32>* sums);
  static void registerKernelClass() { REGISTER_FUNCTION(head::run); }
};
void tail(input_cascade<acc32>* sums, output_stream<int32>* out);
void blocks(input_stream<int32>* in, output_async_buffer<int32, extents<32>>& out);
void windowed(input_buffer<int32, extents<inherited_extent>, margin<8>>& in, output_buffer<int32>& out);
void doubled(input_buffer<int32>& in, output_buffer<int32>& out);
"""

SCALER = """
#include "kernels.h"
template <class T>
scaler<T>::scaler(int a) : add(a) {}
template <class T>
void scaler<T>::run(input_buffer<T>& in, const T (&factors)[8], int32 bias, output_buffer<T>& out) {
  const auto w = aie::load_v<8>(factors);
  auto from = aie::cbegin_vector<8>(in);
  auto to = aie::begin_vector<8>(out);
  for (int i = 0; i < 8; ++i)
    *to++ = aie::add(aie::mul(*from++, w).template to_vector<T>(0), T(add + bias + calls));
  ++calls;
}
"""

OTHERS = """
#include "kernels.h"
void head::run(input_buffer<int16>& turned, input_buffer<int16>& padded, output_cascade<acc32>* sums) {
  for (int i = 0; i < 4; ++i) {
    auto a = aie::mul(aie::load_v<16>(turned.data() + 16 * i), int16(3));
    writeincr(sums, aie::add(a, aie::load_unaligned_v<16>(padded.data() + 20 * i)));
  }
}
void tail(input_cascade<acc32>* sums, output_stream<int32>* out) {
  for (int i = 0; i < 4; ++i) {
    const auto v = readincr_v<16>(sums).to_vector<int32>(0);
    writeincr(out, v.extract<4>(0));
    for (int j = 4; j < 16; ++j) writeincr(out, v.get(j));
  }
}
void blocks(input_stream<int32>* in, output_async_buffer<int32, extents<32>>& out) {
  for (int half = 0; half < 2; ++half) {
    out.acquire();
    for (int i = 0; i < 8; ++i) aie::store_v(out.data() + 4 * i, readincr_v<4>(in));
    out.release();
  }
}
void windowed(input_buffer<int32, extents<inherited_extent>, margin<8>>& in, output_buffer<int32>& out) {
  for (unsigned i = 0; i < in.size(); ++i) out.data()[i] = in.data()[i] + in.data()[i + 8];
}
void doubled(input_buffer<int32>& in, output_buffer<int32>& out) {
  for (int i = 0; i < 64; i += 16)
    aie::store_v(out.data() + i, aie::upshift(aie::load_v<16>(in.data() + i), 1));
}
"""

APP = (
    """
#include "kernels.h"
struct inner : graph {
  input_port in, factors, bias;
  output_port out;
  kernel scale, h, t, b, w, d;
  shared_buffer<int16> shared;
  inner() {
    scale = kernel::create_object<scaler<int16>>(100);
    h = kernel::create_object<head>();
    t = kernel::create(tail);
    b = kernel::create(blocks);
    w = kernel::create(windowed);
    d = kernel::create(doubled);
    source(scale) = "scaler.cpp";
    kernel* all[] = {&h, &t, &b, &w, &d};
    for (kernel* k : all) source(*k) = "others.cpp";
    kernel* every[] = {&scale, &h, &t, &b, &w, &d};
    int column = 3;
    for (kernel* k : every) {
      runtime<ratio>(*k) = 0.8;
      location<kernel>(*k) = tile(column++, 1);
    }
    shared = shared_buffer<int16>::create({8, 8}, 1, 2);
    num_buffers(shared) = 2;
    write_access(shared.in[0]) = tiling({
        .buffer_dimension = {8, 8}, .tiling_dimension = {4, 2}, .offset = {0, 0},
        .tile_traversal = {{.dimension = 1, .stride = 2, .wrap = 4},
                           {.dimension = 0, .stride = 4, .wrap = 2}}});
    read_access(shared.out[0]) = tiling({
        .buffer_dimension = {8, 8}, .tiling_dimension = {1, 1}, .offset = {0, 0},
        .tile_traversal = {{.dimension = 1, .stride = 1, .wrap = 8},
                           {.dimension = 0, .stride = 1, .wrap = 8}}});
    read_access(shared.out[1]) = tiling({.buffer_dimension = {8, 8}, .tiling_dimension = {10, 10},
        .offset = {-1, -1}});
    connect<>(in, scale.in[0]);
    connect<parameter>(factors, async(scale.in[1]));
    connect<parameter>(bias, scale.in[2]);
    connect<>(scale.out[0], shared.in[0]);
    connect<> a(shared.out[0], h.in[0]);
    connect(shared.out[1], h.in[1]);
    connect<cascade>(h.out[0], t.in[0]);
    connect<stream> n(t.out[0], b.in[0]);
    fifo_depth(n) = 32;
    connect<>(b.out[0], w.in[0]);
    connect<>(w.out[0], d.in[0]);
    connect<>(d.out[0], out);
    dimensions(scale.in[0]) = {64};
    dimensions(scale.out[0]) = {8, 8};
    dimensions(h.in[0]) = {64};
    dimensions(h.in[1]) = {100};
    dimensions(w.in[0]) = {16};
    dimensions(w.out[0]) = {16};
    dimensions(d.in[0]) = {64};
    dimensions(d.out[0]) = {64};
    single_buffer(d.out[0]);
    location<buffer>(scale.in[0]) = {bank(3, 1, 0), bank(3, 1, 3)};
    location<stack>(scale) = bank(3, 1, 1);
  }
};
struct outer : graph {
  input_plio in;
  output_plio text, twice;
  input_port factors, bias;
  inner g;
  outer() {
    in = input_plio::create("in", plio_64_bits, "data/in.bin");
    text = output_plio::create("text", plio_64_bits, "data/out.txt");
    twice = output_plio::create("twice", plio_64_bits, "data/out.bin");
    connect<>(in.out[0], g.in);
    connect<>(g.out, text.in[0]);
    connect<>(g.out, twice.in[0]);
    connect<>(factors, g.factors);
    connect<>(bias, g.bias);
  }
};
outer g;
"""
    + MAIN
    % (
        """const int16 f[8] = {1, -2, 3, 4, -5, 6, 7, 8};
  g.update(g.factors, f, 8);
  for (int i = 0; i < 3; ++i) g.update(g.bias, int32(10 * i));""",
        3,
    )
)


def expected(x: np.ndarray) -> np.ndarray:
    factors = np.array([1, -2, 3, 4, -5, 6, 7, 8])
    before = np.zeros(8, np.int64)
    rows = []
    for i, block in enumerate(x.astype(np.int64).reshape(-1, 64)):
        y = (block.reshape(8, 8) * factors + 100 + 10 * i + i).ravel()
        memory = np.zeros((8, 8), np.int64)  # [dimension 1][dimension 0]
        at = 0
        for c in (0, 4):
            for r in (0, 2, 4, 6):
                memory[r : r + 2, c : c + 4] = y[at : at + 8].reshape(2, 4)
                at += 8
        turned, padded = memory.T.ravel(), np.pad(memory, 1).ravel()
        sums = np.concatenate(
            [3 * turned[16 * k : 16 * k + 16] + padded[20 * k : 20 * k + 16] for k in range(4)]
        )
        for part in sums.reshape(4, 16):
            window = np.concatenate([before, part])
            rows.append(2 * (window[:16] + window[8:]))
            before = part[-8:]
    return np.concatenate(rows)


def test_everything_that_moves_data(tmp_path: Path) -> None:
    files = {"app.cpp": APP, "src/kernels.h": KERNELS_H, "src/scaler.cpp": SCALER, "src/others.cpp": OTHERS}
    built = build(tmp_path, files, jobs=2)
    x = np.random.default_rng(0).integers(-60, 60, 3 * 64).astype(np.int16)
    out = sim.run(built, {"in": x}, limits={"columns": 38, "rows": 8})
    np.testing.assert_array_equal(out.outputs["text"], expected(x))
    np.testing.assert_array_equal(out.outputs["twice"], expected(x))
    assert out.report["kernel_iterations"] == [3, 3, 3, 3, 12, 3]
    first = out.report["memory"][0]
    assert (first["column"], first["row"]) == (3, 1)
    assert first["bytes"] >= 2 * 128 + 2 * 128 + 2 * 16 + 2 * 4 + 1024  # buffers, parameters, stack
    kernels = built.description["kernels"]
    assert [k["type"] for k in kernels] == ["scaler<short>", "head", "", "", "", ""]
    assert [k["repetitions"] for k in kernels] == [1, 1, 1, 1, 4, 1]
    assert len(built.description["shared_buffers"][0]["out"]) == 2
    with pytest.raises(UsageError) as wrong:
        sim.run(built, {"in": x.astype(np.int64) + 40000})
    assert wrong.value.code == "RUB-AIE-508"


@pytest.mark.slow
def test_the_copy_in_a_project_needs_only_make(tmp_path: Path) -> None:
    files = {"app.cpp": APP, "src/kernels.h": KERNELS_H, "src/scaler.cpp": SCALER, "src/others.cpp": OTHERS}
    home = project(tmp_path, files)
    x = np.random.default_rng(1).integers(-60, 60, 3 * 64).astype(np.int16)
    (home / "data").mkdir()
    (home / "data" / "in.bin").write_bytes(x.tobytes())
    written = sim.write_standalone(
        home,
        {"src/scaler.cpp": ["scaler<short>, int"], "src/others.cpp": ["head"]},
        arch=20,
        include=("src",),
    )
    assert "emulation/emulation.mk" in written and "emulation/include/adf.h" in written
    command = ["make", "-s", "-j2", "-f", "emulation/emulation.mk"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    got = np.fromfile(home / "emulation" / "output" / "data" / "out.bin", np.int32)
    np.testing.assert_array_equal(got, expected(x))
