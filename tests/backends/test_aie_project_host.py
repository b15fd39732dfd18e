"""The host program of an emitted project frames as we do and moves the right bytes, through a fake XRT."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from rubicc.backends.aie.net import Host
from rubicc.backends.aie.plan.model import Segment, SharedBuffer, Slice
from rubicc.backends.aie.project.framing import ANY, Framing
from rubicc.backends.aie.project.text import template
from tests.backends.aie_project_nets import Case, cells, ends

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed")

UNITS = """
#include <cstdio>
#include "framing.h"
int main() {
  int block, period, lanes, turn, count, flush;
  while (std::scanf("%d%d%d%d%d%d", &block, &period, &lanes, &turn, &count, &flush) == 6)
    std::printf("%ld\\n", rubicc::units({block, period, lanes, turn}, count, flush));
}
"""


def ran(folder: Path, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        arguments, cwd=folder, input=text, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-800:]
    return done.stdout


def with_turns(case: Case, turns: int) -> Case:
    """The plan with a buffer of so many work units, which is what turns follow from."""
    buffer = SharedBuffer("b", 0, 0, Slice(0, 1), turns, 2, 0, 0, (), ())
    links = (replace(case.array.links[0], buffers=(buffer,), streams=()),)
    return replace(case, array=replace(case.array, links=links))


def test_work_units_are_counted_alike_in_both_languages(tmp_path: Path) -> None:
    (tmp_path / "framing.h").write_text(template("framing.h.tmpl", {}))
    (tmp_path / "main.cpp").write_text(UNITS)
    ran(tmp_path, "g++", "-std=c++17", "main.cpp", "-o", "main")
    case, rows, ours = cells(), [], []
    for block, each, lanes, turn in itertools.product((16, 64, 96), (1, 3, 19), (1, 4), (1, 2, 8)):
        turned = with_turns(case, turn)
        array = replace(turned.array, block=block, period=block * each, lanes=lanes)
        framing = Framing(array, case.net)
        assert framing.turn == turn
        for count, flush in itertools.product((1, 3, 4, 5, 64), (0, 1, 2, 3, 20, 57)):
            rows.append(f"{block} {block * each} {lanes} {turn} {count} {flush}")
            units = framing.units(count, Segment(0, False, (), (), flush))
            ours.append(units)
            groups = -(-count // lanes)
            assert units >= groups * each + flush  # everything comes out
            assert units % each == units % turn == 0  # and the next batch finds the counters where they began
            assert units - groups * each - flush < each * turn
    assert len(rows) > 1500 and len(set(ours)) > 50
    assert [int(line) for line in ran(tmp_path, "./main", text="\n".join(rows)).split()] == ours


FAKE_XRT = """
#pragma once
// Movers of a fake device: mm2s appends what it is given to NAME.fed, s2mm takes the next bytes of NAME.made.
#include <algorithm>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>
#define XCL_BO_SYNC_BO_TO_DEVICE 0
#define XCL_BO_SYNC_BO_FROM_DEVICE 1
namespace xrt {
struct uuid {};
struct device {
  explicit device(int) {}
  uuid load_xclbin(const std::string&) { return {}; }
};
struct bo {
  std::shared_ptr<std::vector<char>> there, here;
  bo(const device&, std::size_t n, int group)
      : there(std::make_shared<std::vector<char>>(n, 99)), here(std::make_shared<std::vector<char>>(n, 98)) {
    if (group != 7) throw std::runtime_error("memory of the wrong group");
  }
  void write(const void* p) { std::copy_n(static_cast<const char*>(p), here->size(), here->data()); }
  void read(void* p) { std::copy_n(here->data(), here->size(), static_cast<char*>(p)); }
  void sync(int way) { way == XCL_BO_SYNC_BO_TO_DEVICE ? *there = *here : *here = *there; }
};
struct run {
  void wait() {}
};
struct kernel {
  std::string name;
  bool out;
  std::shared_ptr<std::ifstream> file;
  kernel(const device&, const uuid&, const std::string& text) {
    const auto cut = text.find(":{");
    out = text.substr(0, cut) == "s2mm";
    name = text.substr(cut + 7, text.size() - cut - 8);  // behind mm2s_ or s2mm_
    if (out) file = std::make_shared<std::ifstream>(name + ".made", std::ios::binary);
  }
  int group_id(int argument) const { return argument == 0 ? 7 : 0; }
  run operator()(bo& memory, std::nullptr_t, unsigned words) {
    if (words * 16ul != memory.there->size()) throw std::runtime_error("words do not fit the memory");
    char* data = memory.there->data();
    const std::size_t size = memory.there->size();
    if (out && !file->read(data, size)) throw std::runtime_error("too much wanted");
    if (!out) std::ofstream(name + ".fed", std::ios::binary | std::ios::app).write(data, size);
    return {};
  }
};
struct graph {
  graph(const device&, const uuid&, const std::string& name) {
    if (name != "g") throw std::runtime_error("no such graph");
  }
  void run(int iterations) {
    if (iterations != -1) throw std::runtime_error("movers hold the graph back");
  }
};
}  // namespace xrt
"""
HEADERS = ("experimental/xrt_graph.h", "xrt/xrt_bo.h", "xrt/xrt_device.h", "xrt/xrt_kernel.h")


@dataclass(frozen=True)
class Kernel:
    """The kernels do not matter to the host."""

    cls: str = "k"
    header: str = "k.h"
    source: str = "src/k.cpp"
    stack: int = 1024


def host(case: Case, folder: Path) -> Path:
    """The program, compiled as the Makefile does, against the fake."""
    for name in HEADERS:
        (folder / "fake" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fake" / name).write_text(FAKE_XRT)
    project = case.write(folder / "project", kernels=lambda *_: {t.name: Kernel() for t in case.array.tiles})
    command = ("g++", "-std=c++17", "-O1", "-Wall", "-Werror", f"-I{project}/host", f"-I{folder}/fake")
    ran(folder, *command, str(project / "host/host.cpp"), "-o", "host")
    return folder / "host"


def device_files(case: Case, folder: Path, batches: list[tuple[int, int]]) -> dict[str, bytes]:
    """What movers must be given, by PLIO; what they give is written for the fake."""
    fed: dict[str, bytes] = {}
    for plio in case.array.plios:
        (folder / f"{plio.name}.made").unlink(missing_ok=True)
    for first, last in batches:
        values = case.part(first, last)
        for segment in case.array.segments:
            for name, flat in case.framing.feeds(values, segment).items():
                fed[name] = fed.get(name, b"") + flat.tobytes()
            for plio in case.framing.plios(segment, "out"):
                made = case.framing.expected(values[plio.edge], plio, segment)
                kind = np.dtype(case.net.edges[plio.edge].type.cpp).newbyteorder("<")
                with (folder / f"{plio.name}.made").open("ab") as file:
                    file.write(np.where(made == ANY, 77, made).astype(kind).tobytes())
    return fed


def real(case: Case, name: str) -> np.ndarray:
    """Real values of an edge, exact in float32."""
    return (case.values[name] * 2.0 ** case.net.edges[name].exponent).astype("<f4")


def test_several_inputs_outputs_and_segments_go_through_the_device(tmp_path: Path) -> None:
    case = ends(7)
    assert len(case.array.segments) == 4 and case.array.lanes == 4
    program = host(case, tmp_path)
    x = real(case, "x") + np.float32(0.4 * 2.0**-4)  # is rounded to the same integers
    x.tofile(tmp_path / "x.f32")
    real(case, "z").tofile(tmp_path / "z.f32")
    fed = device_files(case, tmp_path, [(0, 5), (5, 7)])  # the second batch fills no group of lanes
    ran(tmp_path, str(program), "a.xclbin", "x.f32", "z.f32", "g.f32", "o.f32", "5")
    for name, wanted in fed.items():
        assert (tmp_path / f"{name}.fed").read_bytes() == wanted, name
    for name, file in (("g:y", "g.f32"), ("o:y", "o.f32")):
        wanted = real(case, name).transpose(0, 2, 1)
        assert np.unique(wanted).size > 40
        np.testing.assert_array_equal(np.fromfile(tmp_path / file, "<f4"), wanted.reshape(-1))
    text = (tmp_path / "project/host/host.cpp").read_text()
    assert "host.exe XCLBIN IN0 IN1 OUT0 OUT1 [BATCH]" in text


def test_log_softmax_and_what_is_left(tmp_path: Path) -> None:
    work = (Host("Mul: integers to real numbers", "m"), Host("LogSoftmax", "l"), Host("Mul", "scale"))
    case = cells(2)
    case = replace(case, net=replace(case.net, host=work))
    program = host(case, tmp_path)
    assert "Left to whoever reads them: Mul." in (tmp_path / "project/host/host.cpp").read_text()
    real(case, "x").tofile(tmp_path / "x.f32")
    device_files(case, tmp_path, [(0, 2)])
    ran(tmp_path, str(program), "a.xclbin", "x.f32", "y.f32")
    y = real(case, "l:y").astype(np.float64).transpose(0, 2, 1)
    wanted = y - np.log(np.exp(y).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        np.fromfile(tmp_path / "y.f32", "<f4"), wanted.reshape(-1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("x.f32", "none.f32", "a", "b"), "cannot be opened"),
        (("x.f32", "short.f32", "a", "b"), "different numbers of sequences"),
        (("odd.f32", "z.f32", "a", "b"), "ends inside a sequence"),
        (("x.f32", "z.f32", "a"), "usage"),
        (("x.f32", "z.f32", "nowhere/a", "b"), "cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_files_that_do_not_fit_are_told(
    files: tuple[str, ...], said: str, once: tuple[Case, Path], tmp_path: Path
) -> None:
    case, program = once
    device_files(case, tmp_path, [(0, 2)])
    x, z = real(case, "x").reshape(-1), real(case, "z").reshape(-1)
    for name, values in (("x", x), ("z", z), ("short", z[: z.size // 2]), ("odd", x[:-1])):
        values.tofile(tmp_path / f"{name}.f32")
    command = [str(program), "a.xclbin", *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (1, 2) and said in done.stderr


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    case = ends(2)
    return case, host(case, tmp_path_factory.mktemp("host"))
