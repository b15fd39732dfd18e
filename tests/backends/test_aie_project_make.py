"""``make`` in an emitted project: the emulation over every segment, and the command lines for AMD's tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rubicc.backends.aie.project.write import PLATFORMS, VITIS
from rubicc.backends.aie.sim import tools
from tests.backends.aie_project_nets import cells

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("make") is None, reason="g++ and make are needed"
)


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments; the folder was copied to a place with a space and a quote in its name."""
    written = cells().write(tmp_path_factory.mktemp("make") / "written")
    return Path(shutil.copytree(written, tmp_path_factory.mktemp("make") / "my project's copy"))


def negated(text: str) -> str:
    """The first weight of a file with the other sign."""
    changed, times = re.subn(
        r"(weights_\w+\[\d+\] = \{\s*)(-?\d+)", lambda m: f"{m[1]}{-int(m[2])}", text, count=1
    )
    assert times == 1 and changed != text
    return changed


def test_sim_compares_every_segment_and_fails_where_one_weight_is_another(project: Path) -> None:
    build = project / "emulation" / "build"
    build.mkdir()
    shutil.copy(tools.prepared(20) / "runtime.o", build)  # saves compiling it; the slow test compiles all
    done = make(project, "sim")
    assert done.returncode == 0, done.stderr[-800:]
    told = dict(re.findall(r"data/(\w+)\.txt: 0 of (\d+) integers differ", done.stdout))
    assert sorted(told) == ["pout2", "pout3"] and min(map(int, told.values())) > 400
    last = sorted((project / "src/kernels").glob("s0*.cpp"))[3]  # of the second segment
    before = last.read_text()
    last.write_text(negated(before))
    done = make(project, "sim")
    assert done.returncode != 0
    assert re.search(r"pout2\.txt: 0 of", done.stdout) and re.search(r"pout3\.txt: [1-9]\d* of", done.stdout)
    last.write_text(before)
    (project / "data/expected/pout2.txt").write_text("1 2\n")
    done = make(project, "sim", "SEGMENTS=0")
    assert done.returncode != 0 and "2 expected" in done.stdout and "pout3" not in done.stdout


@pytest.mark.slow
def test_sim_needs_only_make_and_a_compiler(project: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(project, tmp_path / "p", ignore=shutil.ignore_patterns("build", "output")))
    cells().write(tmp_path / "again")
    shutil.copytree(tmp_path / "again", home, dirs_exist_ok=True)
    path = f"{Path(shutil.which('make') or '').parent}:{Path(shutil.which('g++') or '').parent}:/bin:/usr/bin"
    done = subprocess.run(
        ["make", "-j2", "sim"],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.count("0 of ") == 2


def test_command_lines_for_amds_tools(project: Path) -> None:
    done = make(
        project, "-n", "x86sim", "aiesim", "hw", "host", "package", "SYSROOT=/sys", "ROOTFS=r", "IMAGE=i"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\\\n", " ").splitlines()
    compiled = [line for line in lines if line.startswith("v++ --compile --mode aie")]
    platform = PLATFORMS["vek280"]
    assert len(compiled) == 5 and all(f"--platform={platform}" in line for line in compiled)
    assert [("--target=x86sim" in line, "RUBICC_SEGMENT=" in line) for line in compiled] == [
        *[(True, True)] * 2, *[(False, True)] * 2, (False, False),
    ]  # fmt: skip
    assert len({re.findall(r"--work_dir=(\S+)", line)[0] for line in compiled}) == 5
    archives = [re.findall(r"--aie\.output-archive=(\S+)", line)[0] for line in compiled]
    assert len(set(archives)) == 5 and archives[-1] == "libadf.a"
    link = next(line for line in lines if line.startswith("v++ --link"))
    assert "pl/mm2s.xo pl/s2mm.xo libadf.a --config system.cfg" in link and "-o cells.xsa" in link
    package = next(line for line in lines if line.startswith("v++ --package"))
    assert "cells.xsa libadf.a" in package and "--package.rootfs r " in package
    assert sum(line.startswith("x86simulator --pkg-dir=Work_x86_") for line in lines) == 2
    assert sum(line.startswith("aiesimulator --pkg-dir=Work_aie_") for line in lines) == 2
    assert sum("./emulation/compare" in line for line in lines) == 4  # each segment, in each simulator
    readme = (project / "README.md").read_text()
    assert f"Vitis {VITIS}" in readme and VITIS.replace(".", "")[2:] in platform.replace("_", "")


@pytest.mark.parametrize(("target", "variable"), [("host", "SYSROOT"), ("package", "ROOTFS")])
def test_what_the_board_needs_is_asked_for(project: Path, target: str, variable: str) -> None:
    (project / "host/host.exe").touch()
    (project / "cells.xsa").touch()
    done = make(project, "-n", "-B" if target == "host" else "-k", target, "CXX=g++")
    (project / "host/host.exe").unlink()
    (project / "cells.xsa").unlink()
    assert done.returncode != 0 and f"Set {variable}" in done.stderr


@pytest.mark.parametrize(
    ("expected", "found", "code", "said"),
    [
        ("1 x -3\n", "1 7 -3\n", 0, "0 of 2 integers differ"),
        ("1 x -3\n", "T 12 ns\n1 7\nTLAST\n-3\n", 0, "0 of 2"),
        ("1 x -3\n", "1 7 3\n", 1, "1 of 2"),
        ("1 x -3\n", "1 7\n", 1, "2 integers, 3 expected"),
        ("1 x -3\n", "1 7 -3 4\n", 1, "4 integers, 3 expected"),
        ("1 x\n", "1 x\n", 2, "no integer"),
        ("1 2\n", "1 2.5\n", 2, "no integer"),
        ("1 2\n", "", 2, "holds no integers"),
        ("", "1\n", 2, "holds no integers"),
    ],
)
def test_comparison(expected: str, found: str, code: int, said: str, compare: Path, tmp_path: Path) -> None:
    (tmp_path / "e").write_text(expected)
    (tmp_path / "f").write_text(found)
    done = subprocess.run(
        [str(compare), str(tmp_path / "e"), str(tmp_path / "f")], capture_output=True, text=True, check=False
    )
    assert done.returncode == code and said in done.stdout


@pytest.fixture(scope="module")
def compare(project: Path) -> Path:
    assert make(project, "emulation/compare").returncode == 0
    return project / "emulation" / "compare"
