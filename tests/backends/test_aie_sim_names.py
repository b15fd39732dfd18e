"""Every name of AMD's interfaces that our code and the emulation use is described somewhere public."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import rubicc.backends.aie as aie
from rubicc.backends.aie.net import Gru, Lstm
from rubicc.backends.aie.sim import names, tools
from tests.backends import test_aie_sim_acceptance, test_aie_sim_broken, test_aie_sim_graph
from tests.backends.aie_kernel_nets import INT8, INT16, Random
from tests.backends.aie_project_nets import planned

HOME = Path(aie.__file__).parent


def test_every_name_has_a_page() -> None:
    table = json.loads((tools.HOME / "names.json").read_text())
    assert len(table["names"]) > 180
    assert set(table["names"].values()) == set(table["sources"])
    assert set(table["members"].values()) <= set(table["sources"])
    for page in table["sources"].values():
        assert page["title"]
        assert re.fullmatch(r"https://(docs\.amd\.com|xilinx\.github\.io|github\.com)/\S+", page["address"])


def test_every_listed_name_is_in_the_emulation() -> None:
    text = "\n".join(path.read_text() for path in tools.INCLUDE.rglob("*.h*"))
    words = set(re.findall(r"\w+", text))
    missing = [name for name in (*names.listed(), *names.members()) if name.rsplit("::", 1)[-1] not in words]
    assert missing == ["registerKernelClass"] or not missing


def test_our_kernels_use_described_names_only() -> None:
    files = [p for p in HOME.rglob("*") if p.suffix in (".h", ".cpp") and "sim" not in p.parts]
    found = set().union(*(names.used(path.read_text()) for path in files))
    assert {"aie::load_v", "aie::mmul"} <= found
    assert not names.undocumented(*files)


def test_a_name_without_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "k.cpp"
    path.write_text(
        "using namespace adf;\n"
        "auto v = aie::load_v<32>(p); aie::set_rounding(aie::rounding_mode::conv_even);\n"
        'connect<>(a.out[0], b.in[0]); // aie::in_a_comment\nconst char* s = "aie::in_a_string";\n'
        "aie::fft_dit_r2<3>(x); chess_unheard_of acc32 x; adf::gmio y; std::max(1, 2);\n"
    )
    assert names.undocumented(path) == {"k.cpp": ["adf::gmio", "aie::fft_dit_r2", "chess_unheard_of"]}
    assert {"adf::connect", "aie::rounding_mode", "aie::load_v", "acc32"} <= names.used(path.read_text())


def test_a_member_without_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "k.h"
    path.write_text(
        "struct s { int own(int x) const; };\n"
        "void f() { v.template extract<8>(0); s->own(1); m.mac(a, b); m.frobnicate(2); } // x.told()\n"
    )
    assert names.undocumented(path) == {"k.h": [".frobnicate"]}


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Graphs, kernels and main programs of projects with every kind of kernel and link, as written."""
    made = Random(16, INT8).conv("c", 24).conv("d", 24, 29, relu=False)
    made.add("s", "c:y").table("t").conv("in", 72, to=INT16, relu=False).cell(Gru, "g", 24, to=INT8)
    made.conv("next", 64, to=INT16, relu=False).cell(Lstm, "l", 16, to=INT16)
    every = planned(made.net(), made.feeds(1, 30))
    assert {stage.kind for stage in every.array.stages} == {"conv", "add", "table", "gru", "lstm"}
    chain = Random(16, INT8, seed=3).conv("a", 16, 5).conv("b", 16, 29, 2).conv("d", 64, 13).conv("p", 32)
    fast = planned(chain.net(), chain.feeds(1, 30), "throughput")
    assert any(tile.cascade_from for tile in fast.array.tiles)
    heads = Random(24, INT8).conv("a", 48, relu=False).attention("t", 2).norm("m")
    block = planned(heads.net(), heads.feeds(1, 30))
    assert {"attention", "norm"} <= {stage.kind for stage in block.array.stages}
    assert any(link.buffers for case in (every, fast, block) for link in case.array.links)
    folder, files = tmp_path_factory.mktemp("names"), []
    for name, case in (("every", every), ("fast", fast), ("block", block)):
        home = case.write(folder / name)
        for path in [home / "app.cpp", *sorted((home / "src").rglob("*.*"))]:
            files.append(path.rename(folder / f"{name}_{path.name}"))
    return files


def test_emitted_code_uses_described_names_only(emitted: list[Path]) -> None:
    texts = [path.read_text() for path in emitted]
    found = set().union(*map(names.used, texts))
    assert {"aie::mmul", "aie::load_v", "adf::shared_buffer", "adf::cascade", "adf::input_buffer"} <= found
    assert {"mac", "to_vector", "extract", "data", "init"} <= set().union(*map(names.called, texts))
    assert not names.undocumented(*emitted)
    for name in found:  # each with a reference
        assert "https://" in names.listed()[name]


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        (
            "every_convolve.h",
            "inline void f() { aie::convolve_everything<8>(); }",
            "aie::convolve_everything",
        ),
        ("fast_graph.h", "inline adf::teleporter t;", "adf::teleporter"),
        ("every_s00.cpp", "static void g() { chess_hurry_up; }", "chess_hurry_up"),
        ("fast_s00.h", "inline auto h() { return v.template sum_of_all<4>(); }", ".sum_of_all"),
    ],
)
def test_an_invented_name_in_emitted_code_is_found(
    file: str, line: str, found: str, emitted: list[Path], tmp_path: Path
) -> None:
    for path in emitted:
        more = f"\n{line}\n" if path.name == file else ""
        (tmp_path / path.name).write_text(path.read_text() + more)
    assert names.undocumented(*tmp_path.iterdir()) == {file: [found]}


@pytest.mark.parametrize("module", [test_aie_sim_acceptance, test_aie_sim_broken, test_aie_sim_graph])
def test_the_tests_own_projects_use_described_names_only(module: object, tmp_path: Path) -> None:
    texts = [v for k, v in vars(module).items() if k.isupper() and isinstance(v, str)]
    assert texts
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.cpp").write_text(text)
    assert not names.undocumented(*tmp_path.iterdir())
