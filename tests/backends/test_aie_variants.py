"""The planner's variants against the templates: bytes loaded and products issued, as the emulation counts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rubicc.backends.aie.plan import variants
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.variant import Work
from rubicc.backends.aie.sim import tools

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed")
HEADERS = Path(variants.__file__).parents[1] / "kernels" / "include"
# Spec members and the same share as the planner sees it; frames 32, everything signal.
CASES: dict[str, tuple[dict[str, int | str], Work]] = {
    "conv_sliding": (
        {"GROUPS": 2, "IN": 1, "OUT": 1, "FIRST": 0, "TAPS": 9, "REACH": 8, "DILATION": 1},
        Work("conv", 32, 2, 2, taps=9, reach=8, channels=16),
    ),
    "conv_sliding_wide": (
        {"GROUPS": 1, "IN": 3, "OUT": 2, "FIRST": -2, "TAPS": 9, "REACH": 6, "DILATION": 1},
        Work("conv", 32, 2, 3, depth=3, taps=7, lead=2, reach=6, channels=16, together=16),
    ),
    "conv_windows": (
        {"GROUPS": 1, "IN": 2, "OUT": 1, "FIRST": 0, "TAPS": 3, "REACH": 4, "DILATION": 2},
        Work("conv", 32, 1, 2, depth=2, taps=3, reach=4, dilation=2),
    ),
    "conv_wide": (
        {"GROUPS": 1, "IN": 5, "OUT": 4, "FIRST": 0, "TAPS": 1, "REACH": 0, "DILATION": 1},
        Work("conv", 32, 4, 5, depth=5, channels=32, together=32),
    ),
    "conv": (
        {"GROUPS": 1, "IN": 6, "OUT": 2, "FIRST": 0, "TAPS": 1, "REACH": 0, "DILATION": 1, "M": "int16",
         "X": "int16", "W": "int16", "SUM": "acc64"},
        Work("conv", 32, 2, 6, depth=6, activation=16, weight=16, stored=16, channels=16, together=16),
    ),
}  # fmt: skip
PROGRAM = """
#include <cstdio>
#include <adf.h>
#include <aie_api/aie.hpp>
long loaded = 0, products = 0;
namespace counted {{
template <unsigned N, class T> auto load_v(const T* p) {{
  loaded += N * sizeof(T);
  return aie::load_v<N>(p);
}}
template <unsigned N, class T> auto load_unaligned_v(const T* p, unsigned a) {{
  loaded += N * sizeof(T);
  return aie::load_unaligned_v<N>(p, a);
}}
}}
#include "convolve.h"
{specs}
template <class S> void run() {{
  static rubicc::convolve<S> layer;
  alignas(64) static typename S::X x[1 << 14] = {{}};
  alignas(64) static typename S::W w[1 << 16] = {{}};
  alignas(64) static typename S::Y y[1 << 14];
  alignas(64) static int32 bias[256] = {{}};
  static int shift[64] = {{}};
  layer.take(x, 0, S::GROUPS * S::IN);
  layer.whole(y, w, bias, shift);
  std::printf("%ld %ld\\n", loaded, products);
  loaded = products = 0;
}}
int main() {{ {calls} }}
"""


def instrumented(text: str) -> str:
    """A template that counts what its loops load and multiply; biases are loaded outside of loops."""
    text = re.sub(r"aie::(load_v|load_unaligned_v)(?=<[^;]*>\((?!bias))", r"counted::\1", text)
    return re.sub(r"\b([abcd])\.mac\(", r"++products, \1.mac(", text)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Bytes loaded and products issued by each case, templates unchanged but for the counting."""
    folder = tmp_path_factory.mktemp("counted")
    for name in ("blocks.h", "convolve.h"):
        text = instrumented((HEADERS / name).read_text())
        assert "counted::load_v" in text
        (folder / name).write_text(text)
    specs, calls = [], []
    for name, (fields, _) in CASES.items():
        kinds = {"X": "int8", "M": "int8", "W": "int8", "Y": "int8", "SUM": "acc32"}
        kinds |= {key: value for key, value in fields.items() if isinstance(value, str)}
        numbers = {"FRAMES": 32, "RELU": 0, "PERIOD": 32, "LENGTH": 32, "LAG": 0, "PORTS": 1}
        numbers |= {key: value for key, value in fields.items() if isinstance(value, int)}
        using = " ".join(f"using {key} = {value};" for key, value in kinds.items())
        values = ", ".join(f"{key} = {value}" for key, value in numbers.items())
        specs.append(f"struct spec_{name} {{ {using} static constexpr int {values}; }};")
        calls.append(f"run<spec_{name}>();")
    source = folder / "count.cpp"
    source.write_text(PROGRAM.format(specs="\n".join(specs), calls=" ".join(calls)))
    ready = tools.prepared(20)
    command = [
        tools.compiler(),
        *tools.flags(20),
        "-O0",
        str(source),
        str(ready / "runtime.o"),
        "-o",
        "count",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    done = subprocess.run([folder / "count"], capture_output=True, text=True, check=True)
    found = [(int(a), int(b)) for a, b in (line.split() for line in done.stdout.splitlines())]
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_schedules_count_what_the_templates_do(name: str, counts: dict[str, tuple[int, int]]) -> None:
    work, made = CASES[name][1], device("vek280")
    variant = variants.choose(work, made.shapes)
    assert variant is not None and variant.name == name
    shape = made.shapes[work.activation, work.weight]
    loops = variant.schedule(work, shape).loops
    loads = sum(loop.entries * loop.trips * (loop.data + loop.weight) for loop in loops)
    issues = sum(loop.entries * (loop.trips * loop.mac) for loop in loops)
    rest = sum(loop.entries * loop.outer for loop in loops)  # taps that follow a loop as they are
    if rest:
        loads += sum(loop.entries * (16 * 8 + 64) for loop in loops if loop.outer)
    twice = 2 if work.activation == 16 else 1  # native products have 4 columns, the template's 8
    assert (loads, (issues + rest) / twice) == counts[name]


def test_every_variant_names_a_loop_of_the_templates() -> None:
    text = "".join(path.read_text() for path in HEADERS.glob("*.h"))
    assert variants.__doc__ is not None
    for entry in variants.TABLE:
        assert f"``{entry.name.removesuffix('_wide')}" in variants.__doc__, entry.name
    for name in re.findall(r"``(\w+)(?:<[^`]*>)?``", variants.__doc__.split("``blocks.h``")[0]):
        if not name.startswith(("conv", "gru", "lstm", "add", "table")):
            assert re.search(rf"\b{name}\b", text), name
