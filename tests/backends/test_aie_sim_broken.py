"""Every rule that an emulated graph can break: each says its code and what broke."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rubicc.backends.aie import sim
from rubicc.errors import RubiccError, UsageError, VerificationFailed
from tests.backends.aie_sim_projects import build

# One program; the fault is chosen by a variable.
BROKEN = """
#include <cstdlib>
#include <cstring>
#include "broken.h"
using namespace adf;
static bool is(const char* c) { const char* v = std::getenv("FAULT"); return v && !std::strcmp(v, c); }
struct faulty : graph {
  kernel k, c, e;
  input_plio in;
  output_plio out;
  shared_buffer<int8> s;
  faulty() {
    k = kernel::create_object<copier>();
    c = kernel::create(first);
    e = kernel::create(second);
    in = input_plio::create("in", plio_64_bits, "in.txt");
    out = output_plio::create("out", plio_64_bits, "out.bin");
    s = shared_buffer<int8>::create({16, 4}, 1, 1);
    num_buffers(s) = is("copies") ? 3 : 1;
    kernel* all[] = {&k, &c, &e};
    for (kernel* q : all) { source(*q) = "broken.cpp"; runtime<ratio>(*q) = 0.6; }
    if (is("ratio-zero")) runtime<ratio>(k) = 0;
    connect<>(in.out[0], s.in[0]);
    connect<>(s.out[0], k.in[0]);
    if (is("two-sources")) connect<>(in.out[0], k.in[0]);
    if (!is("no-end")) connect<>(k.out[0], c.in[0]);
    connect<cascade>(c.out[0], e.in[0]);
    if (!is("no-source")) connect<>(e.out[0], out.in[0]);
    dimensions(k.in[0]) = {is("sizes") ? 48 : 64};
    dimensions(k.out[0]) = {64};
    dimensions(c.in[0]) = {is("rates") ? 0x7fff : 64};
    dimensions(e.out[0]) = {64};
    write_access(s.in[0]) = tiling({.buffer_dimension = {16, 4}, .tiling_dimension = {16, 1},
        .offset = {is("tiling") ? 1 : 0, 0}, .tile_traversal = {{.dimension = 1, .stride = 1, .wrap = 4}}});
    if (is("side")) read_access(s.in[0]) = write_access(s.in[0]);
    if (is("larger")) write_access(s.in[0])[0].buffer_dimension = {32, 4};
    if (is("loop")) write_access(s.in[0])[0].tile_traversal[0].dimension = 2;
    if (is("repetitions")) { repetition_count(k) = 2; repetition_count(c) = 3; }
    location<kernel>(k) = tile(4, 1);
    location<kernel>(c) = tile(is("same-tile") ? 4 : 5, 1);
    location<kernel>(e) = tile(is("cascade-place") ? 4 : 6, is("cascade-place") ? 2 : 1);
    location<buffer>(k.out[0]) = {bank(is("reach") ? 9 : 4, 1, is("bank-number") ? 4 : 0), bank(4, 1, 0)};
    if (is("outside")) location<kernel>(k) = tile(90, 1);
    if (is("places")) location<buffer>(k.in[0]) = {bank(4, 1, 0), bank(4, 1, 1), bank(4, 1, 2)};
    if (is("stack")) stack_size(k) = 20000, location<stack>(k) = bank(4, 1, 1);
    if (is("tile-memory")) stack_size(k) = 70000;
  }
};
faulty g;
#if defined(__X86SIM__)
int main() {
  if (is("early-update")) { port<direction::in> p; int8 v = 0; g.update(p, v); }
  g.init();
  if (is("no-parameter")) { int8 v = 0; g.update(g.k.in[0], v); }
  g.run(is("starved") ? 3 : is("left") ? 1 : 2);
  g.end();
}
#endif
"""

BROKEN_H = """
#pragma once
#include <adf.h>
#include <aie_api/aie.hpp>
class copier {
 public:
  copier();
  void run(adf::input_buffer<int8>& in, adf::output_buffer<int8, adf::extents<64>>& out);
  static void registerKernelClass() { REGISTER_FUNCTION(copier::run); }
};
void first(adf::input_buffer<int8>& in, adf::output_cascade<acc32>* out);
void second(adf::input_cascade<acc32>* in, adf::output_buffer<int8>& out);
"""

BROKEN_CPP = """
#include <cstdlib>
#include <cstring>
#include "broken.h"
static bool is(const char* c) { const char* v = std::getenv("FAULT"); return v && !std::strcmp(v, c); }
copier::copier() {}
void copier::run(adf::input_buffer<int8>& in, adf::output_buffer<int8, adf::extents<64>>& out) {
  auto v = aie::load_v<64>(in.data() + (is("misaligned") ? 16 : 0));
  if (is("lane")) v.get(std::getenv("FAULT")[0] + 0u);
  if (is("null")) *static_cast<volatile int*>(nullptr) = 1;
  if (is("endless")) for (volatile int i = 0;; i = i + 1) {}
  if (is("upshift")) v = aie::from_vector<acc32>(aie::broadcast<int8, 64>(7), 30).to_vector<int8>(0);
  if (is("empty-mmul")) { aie::mmul<4, 8, 8, int8, int8> m; v.insert<32>(0, m.to_vector<int8>(0)); }
  if (is("shift")) v = aie::from_vector<acc32>(v).to_vector<int8>(33);
  if (is("promise")) aie::load_unaligned_v<32>(in.data() + 4, 8);
  aie::store_v(out.data(), v);
  if (is("past-end")) out.data()[64] = 0;
  if (is("before")) out.data()[-1] = 0;
}
void first(adf::input_buffer<int8>& in, adf::output_cascade<acc32>* out) {
  for (int i = 0; i < (is("cascade-short") ? 3 : 4); ++i)
    writeincr(out, aie::from_vector<acc32>(aie::load_v<16>(in.data() + 16 * i)));
}
void second(adf::input_cascade<acc32>* in, adf::output_buffer<int8>& out) {
  for (int i = 0; i < (is("cascade-left") ? 3 : 4); ++i) {
    if (is("cascade-kind")) readincr_v<16>(reinterpret_cast<adf::input_cascade<accfloat>*>(in));
    aie::store_v(out.data() + 16 * i, readincr_v<16>(in).to_vector<int8>(0));
  }
}
"""

FAULTS = {
    "two-sources": ("503", "2 sources"),
    "no-end": ("503", "connected to nothing"),
    "no-source": ("503", "connected to nothing"),
    "ratio-zero": ("503", "runtime<ratio>"),
    "copies": ("503", "3 copies"),
    "early-update": ("503", "before init"),
    "no-parameter": ("503", "no parameter"),
    "sizes": ("504", "64 bytes"),
    "rates": ("504", "32767"),
    "repetitions": ("504", "repetition_count"),
    "cascade-kind": ("504", "cascade"),
    "tiling": ("505", "element 16 of dimension 0"),
    "side": ("505", "read_access"),
    "larger": ("505", "128 elements"),
    "loop": ("505", "dimension 2"),
    "left": ("506", "a full buffer"),
    "cascade-left": ("506", "128 bytes"),
    "starved": ("507", "0 of 64 bytes"),
    "cascade-short": ("507", "cascade"),
    "stack": ("509", "bank 1 of tile (4, 1)"),
    "tile-memory": ("509", "of 65536"),
    "misaligned": ("510", "16 past a multiple of 32"),
    "promise": ("510", None),
    "lane": ("511", "index 108"),
    "past-end": ("511", "outside its buffer"),
    "before": ("511", "outside its buffer"),
    "null": ("511", "crashed"),
    "same-tile": ("512", "1.2"),
    "cascade-place": ("512", "no cascade"),
    "reach": ("512", "cannot reach"),
    "bank-number": ("512", "no bank 4"),
    "outside": ("512", "38 columns"),
    "places": ("512", "3 places"),
    "endless": ("513", "longer than"),
    "upshift": ("514", "32-bit accumulator"),
    "empty-mmul": ("514", "holds none"),
    "shift": ("514", "shift of 33"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> sim.Built:
    files = {"app.cpp": BROKEN, "src/broken.h": BROKEN_H, "src/broken.cpp": BROKEN_CPP}
    return build(tmp_path_factory.mktemp("aie-faults"), files)


LIMITS = {"columns": 38, "rows": 8}


def test_the_graph_without_fault_runs(faulty: sim.Built) -> None:
    x = np.random.default_rng(3).integers(-128, 128, 128)
    np.testing.assert_array_equal(sim.run(faulty, {"in": x}, limits=LIMITS).outputs["out"], x)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_graph_says_what_broke(faulty: sim.Built, fault: str) -> None:
    code, words = FAULTS[fault]
    x = np.zeros(128, np.int64)
    limits = LIMITS | ({"bank_bytes": 32768} if fault == "places" else {})
    with pytest.raises(VerificationFailed) as error:
        sim.run(
            faulty,
            {"in": x},
            limits=limits,
            seconds=0.7 if fault == "endless" else 30,
            environment={"FAULT": fault},
        )
    assert error.value.code == f"RUB-AIE-{code}", error.value
    assert words is None or words in str(error.value)


def test_limits_of_the_device_are_kept(faulty: sim.Built) -> None:
    x = np.zeros(128, np.int64)
    with pytest.raises(VerificationFailed) as error:
        sim.run(faulty, {"in": x}, limits={"bank_bytes": 100})
    assert error.value.code == "RUB-AIE-509"
    with pytest.raises(VerificationFailed) as error:
        sim.run(faulty, {"in": x}, limits={"memory_tile_bytes": 32})
    assert error.value.code == "RUB-AIE-509"


@pytest.mark.parametrize("text", ["1 2 300", "1 x 2", "1 2.5 3"])
def test_files_are_read_strictly(faulty: sim.Built, text: str, tmp_path: Path) -> None:
    other = sim.Built(tmp_path, faulty.program, faulty.description, {})
    with pytest.raises(VerificationFailed) as error:
        sim.run(other)
    assert error.value.code == "RUB-AIE-508"
    (tmp_path / "in.txt").write_text(text)
    with pytest.raises(VerificationFailed) as error:
        sim.run(other)
    assert error.value.code == "RUB-AIE-508"
    with pytest.raises(UsageError):
        sim.run(faulty, {"elsewhere": np.zeros(4)})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("aie::mmul<4, 8, 8,", "aie::mmul<4, 7, 8,"), "RUB-AIE-502"),
        pytest.param(
            ("copier::copier() {}", "copier::copier() { int x = }"), "RUB-AIE-502", marks=pytest.mark.slow
        ),
        pytest.param(
            ('source(*q) = "broken.cpp"', 'source(*q) = "../../etc/passwd"'),
            "RUB-AIE-503",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ('source(*q) = "broken.cpp"', 'source(*q) = "nowhere.cpp"'), "RUB-AIE-503", marks=pytest.mark.slow
        ),
        (("copier::copier() {}", "static int calls;\\ncopier::copier() { ++calls; }"), "RUB-AIE-515"),
    ],
)
def test_what_cannot_be_built(change: tuple[str, str], code: str, tmp_path: Path) -> None:
    files = {"app.cpp": BROKEN, "src/broken.h": BROKEN_H, "src/broken.cpp": BROKEN_CPP}
    before, after = change[0], change[1].replace("\\n", "\n")
    changed = {name: text.replace(before, after) for name, text in files.items()}
    assert changed != files
    with pytest.raises(RubiccError) as error:
        build(tmp_path, changed)
    assert error.value.code == code
