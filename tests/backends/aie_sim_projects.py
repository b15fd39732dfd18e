"""Small hand-written AI Engine projects for the tests of the functional emulation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rubicc.backends.aie import sim

MAIN = """
#if defined(__AIESIM__) || defined(__X86SIM__)
int main() {
  g.init();
  %s
  g.run(%s);
  g.end();
}
#endif
"""


def need_compiler() -> None:
    if not shutil.which("g++"):
        pytest.skip("the functional emulation needs g++")


def project(folder: Path, files: dict[str, str]) -> Path:
    """Write a project's files below ``folder``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def build(folder: Path, files: dict[str, str], **options: object) -> sim.Built:
    """Write and compile a project."""
    need_compiler()
    return sim.build(project(folder / "project", files), folder / "build", **options)  # type: ignore[arg-type]


def one_kernel(
    header: str, source: str, input_type: str, inputs: int, output_type: str, outputs: int
) -> dict[str, str]:
    """A graph of one function kernel between two raw PLIO files."""
    app = f"""
#include <adf.h>
#include "kernel.h"
using namespace adf;
struct one : graph {{
  kernel k;
  input_plio in;
  output_plio out;
  one() {{
    k = kernel::create(probe);
    source(k) = "kernel.cpp";
    runtime<ratio>(k) = 0.9;
    in = input_plio::create("in", plio_64_bits, "in.bin");
    out = output_plio::create("out", plio_64_bits, "out.bin");
    connect<>(in.out[0], k.in[0]);
    connect<>(k.out[0], out.in[0]);
    dimensions(k.in[0]) = {{{inputs}}};
    dimensions(k.out[0]) = {{{outputs}}};
  }}
}};
one g;
""" + MAIN % ("", 1)  # fmt: skip
    declared = f"""
#pragma once
#include <adf.h>
#include <aie_api/aie.hpp>
{header}
void probe(adf::input_buffer<{input_type}>& in, adf::output_buffer<{output_type}>& out);
"""
    return {"app.cpp": app, "src/kernel.h": declared, "src/kernel.cpp": '#include "kernel.h"\n' + source}
