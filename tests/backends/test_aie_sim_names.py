"""Every name of AMD's interfaces that our code and the emulation use is described somewhere public."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import rubicc.backends.aie as aie
from rubicc.backends.aie.sim import names, tools
from tests.backends import test_aie_sim_acceptance, test_aie_sim_graph

HOME = Path(aie.__file__).parent


def test_every_name_has_a_page() -> None:
    table = json.loads((tools.HOME / "names.json").read_text())
    assert len(table["names"]) > 180
    assert set(table["names"].values()) == set(table["sources"])
    for page in table["sources"].values():
        assert page["title"]
        assert re.fullmatch(r"https://(docs\.amd\.com|xilinx\.github\.io|github\.com)/\S+", page["address"])


def test_every_listed_name_is_in_the_emulation() -> None:
    text = "\n".join(path.read_text() for path in tools.INCLUDE.rglob("*.h*"))
    words = set(re.findall(r"\w+", text))
    missing = [name for name in names.listed() if name.rsplit("::", 1)[-1] not in words]
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


@pytest.mark.parametrize("module", [test_aie_sim_acceptance, test_aie_sim_graph])
def test_the_tests_own_projects_use_described_names_only(module: object, tmp_path: Path) -> None:
    texts = [v for k, v in vars(module).items() if k.isupper() and isinstance(v, str)]
    assert texts
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.cpp").write_text(text)
    assert not names.undocumented(*tmp_path.iterdir())
