"""An emitted project: exact in the emulation with both kinds of kernels, wrong in every part when mutated."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rubicc.backends.aie import reference, sim
from rubicc.backends.aie.net import Add, Conv, Edge, Lookup, Net, Table
from rubicc.backends.aie.numbers import Type
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.model import AiePlan
from rubicc.backends.aie.plan.planner import Options, plan
from rubicc.backends.aie.project import write
from rubicc.backends.aie.project.framing import Framing
from rubicc.backends.aie.session import Emulated
from rubicc.errors import VerificationFailed
from tests.backends import aie_scalar_kernels

STEPS = 203


def conv(
    rng: np.random.Generator, name: str, read: str, made: str, shape: tuple[int, int, int], **more: object
) -> Conv:
    outputs = shape[0]
    values: dict[str, object] = {
        "weight": rng.integers(-60, 60, shape),
        "bias": rng.integers(-4000, 4000, outputs),
        "shift": np.repeat(rng.integers(7, 10, -(-outputs // 8)), 8)[:outputs],
        "weight_type": Type(8),
    }
    values |= {"name": name, "source": f"encoder.{name}", "inputs": (read,), "output": made, **more}
    return Conv(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net() -> Net:
    """A packed first layer, a grouped one of many taps, a skip, a sum, a table, 16-bit results."""
    rng = np.random.default_rng(3)
    edges = {
        name: Edge(name, channels, kind, -4)
        for name, channels, kind in (
            ("x", 1, Type(16)), ("a", 16, Type(8, False)), ("b", 24, Type(8)), ("c", 24, Type(8)),
            ("d", 24, Type(8)), ("e", 24, Type(8)), ("y", 5, Type(16)),
        )
    }  # fmt: skip
    layers = (
        conv(rng, "first", "x", "a", (16, 1, 7), stride=3, pads=(3, 3), relu=True, shift=np.full(16, 14)),
        conv(rng, "skip", "a", "b", (24, 16, 1)),
        conv(rng, "long", "b", "c", (24, 8, 11), groups=3, pads=(5, 5)),
        Add(name="sum", source="encoder", inputs=("c", "b"), output="d", left=(1, 2), shift=2),
        Table(
            name="silu", source="act", inputs=("d",), output="e", function="silu",
            lookup=Lookup(shift=0, bits=8, entries=rng.integers(-128, 128, 256)),
        ),
        conv(rng, "head", "e", "y", (5, 24, 1), shift=np.full(5, 3)),
    )  # fmt: skip
    return Net(("x",), ("y",), edges, layers)


@pytest.fixture(scope="module")
def array(net: Net) -> AiePlan:
    return plan(net, device("vek280"), Options(frames=net.frames(STEPS)["a"], block=32, interval=40.0))


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(4).integers(-9000, 9000, (3, 1, STEPS))}


@pytest.fixture(scope="module")
def project(
    net: Net, array: AiePlan, feeds: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    home = tmp_path_factory.mktemp("project") / "project"
    write(array, net, home, name="small", example={"x": feeds["x"][:1]})
    return home


def differing(home: Path, array: AiePlan, net: Net, feeds: dict[str, np.ndarray], tmp_path: Path) -> int:
    if not shutil.which("g++"):
        pytest.skip("the functional emulation needs g++")
    found = Emulated(home, array, net, keep=tmp_path).run(feeds)["y"]
    wanted = reference.run(net, feeds)["y"]
    assert np.unique(wanted).size > 200 and not np.isin(wanted, (-(1 << 15), (1 << 15) - 1)).mean() > 0.5
    return int((found != wanted).sum())


def test_every_integer_of_the_emulated_project_is_the_networks(
    project: Path, array: AiePlan, net: Net, feeds: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert differing(project, array, net, feeds, tmp_path) == 0


def test_graph_and_framing_hold_with_kernels_that_share_nothing_with_ours(
    array: AiePlan, net: Net, feeds: dict[str, np.ndarray], tmp_path: Path
) -> None:
    home = tmp_path / "project"
    write(array, net, home, name="small", example={"x": feeds["x"][:1]}, kernels=aie_scalar_kernels.write)
    assert differing(home, array, net, feeds, tmp_path / "build") == 0


def change(pattern: str, by: str | Callable[[re.Match[str]], str], count: int = 1) -> Callable[[str], str]:
    def made(text: str) -> str:
        changed, times = re.subn(pattern, by, text, count=count)
        assert times, pattern
        return changed

    return made


def other_weights(text: str) -> str:
    """The weights of the first tile in the opposite order."""
    found = re.search(r"weights_\w+\[\d+\] = \{\s*([^}]*)\}", text)
    assert found
    numbers = [number.strip() for number in found[1].split(",")]
    assert numbers != numbers[::-1]
    return text.replace(found[1], ", ".join(numbers[::-1]))


MUTANTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "shift": (
        "src/kernels/s02.cpp",
        change(r"(shift_\w+\[\d+\] = \{\s*)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}"),
    ),
    "weights": ("src/kernels/s02.cpp", other_weights),
    "history": ("src/kernels/s02.h", change(r"REACH = 10", "REACH = 9")),
    "lag": ("src/kernels/s02.h", change(r"LAG = (\d+)", lambda m: f"LAG = {int(m[1]) + 1}")),
    "delay": ("src/kernels/s03.h", change(r"DELAY_B = (\d+)", lambda m: f"DELAY_B = {int(m[1]) - 1}")),
    "graph": (
        "src/graph.h",
        change(r"(s3_n0\w*)\.in\[0\]\);((?:.|\n)*?)\1\.in\[1\]\);", r"\1.in[1]);\2\1.in[0]);"),
    ),
}


@pytest.mark.parametrize(
    "name",
    [name if name == "shift" else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS],
)
def test_mutants_are_caught(
    name: str, project: Path, array: AiePlan, net: Net, feeds: dict[str, np.ndarray], tmp_path: Path
) -> None:
    home = tmp_path / "project"
    shutil.copytree(project, home)
    file, mutate = MUTANTS[name]
    path = home / file
    path.write_text(mutate(path.read_text()))
    try:
        wrong = differing(home, array, net, feeds, tmp_path / "build")
    except VerificationFailed as err:
        assert err.code.startswith("RUB-AIE-5")
        return
    assert wrong > 0


def test_equal_input_gives_equal_bytes(
    project: Path, net: Net, array: AiePlan, feeds: dict[str, np.ndarray], tmp_path: Path
) -> None:
    again = AiePlan.from_dict(array.to_dict())
    files = write(again, net, tmp_path / "again", name="small", example={"x": feeds["x"][:1]}).files
    assert files == tuple(
        sorted(p.relative_to(project).as_posix() for p in project.rglob("*") if p.is_file())
    )
    assert all((project / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    assert not any(str(tmp_path).encode() in (project / name).read_bytes() for name in files)


def test_names_of_a_model_cannot_get_out_of_comments(
    net: Net, array: AiePlan, feeds: dict[str, np.ndarray], tmp_path: Path
) -> None:
    evil = 'x*/\n#error "hostile"\n$(shell touch hacked)\\'
    stages = tuple(replace(stage, source=evil) for stage in array.stages)
    files = write(
        replace(array, stages=stages), net, tmp_path / "p", name=evil, example={"x": feeds["x"][:1]}
    ).files
    for name in files:
        if not name.startswith("emulation/"):
            text = (tmp_path / "p" / name).read_text()
            assert "#error" not in text and "$(shell touch" not in text, name


def test_streams_come_back_from_frames(net: Net, array: AiePlan) -> None:
    rng = np.random.default_rng(0)
    framing, (segment,) = Framing(array, net), array.segments
    values = rng.integers(-500, 500, (3, 5, array.lengths["y"]))
    (plio,) = framing.plios(segment, "out")
    stream = framing.expected(values, plio, segment)
    assert np.array_equal(framing.results({plio.name: stream}, segment, 3)["y"], values)


def test_the_next_batch_finds_the_array_as_the_first_did(
    project: Path, net: Net, array: AiePlan, feeds: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """On the device kernels count on between batches; here two batches are one run of the emulation."""
    if not shutil.which("g++"):
        pytest.skip("the functional emulation needs g++")
    (segment,), (built,) = array.segments, Emulated(project, array, net, keep=tmp_path).built
    wanted = reference.run(net, feeds)["y"]

    def differing(framing: Framing) -> int:
        batches = [slice(0, 2), slice(2, 3)]
        fed = [framing.feeds({"x": feeds["x"][batch]}, segment) for batch in batches]
        units = [framing.units(len(feeds["x"][batch]), segment) for batch in batches]
        iterations = str(sum(units) // framing.turn)
        whole = {name: np.concatenate([one[name] for one in fed]) for name in fed[0]}
        out = sim.run(built, whole, environment={"RUBICC_ITERATIONS": iterations}).outputs
        cut = {name: np.split(flat, [flat.size * units[0] // sum(units)]) for name, flat in out.items()}
        wrong = 0
        for n, batch in enumerate(batches):
            part = {name: pieces[n] for name, pieces in cut.items()}
            found = framing.results(part, segment, len(feeds["x"][batch]))["y"]
            wrong += int((found != wanted[batch]).sum())
        return wrong

    assert differing(Framing(array, net)) == 0
    hasty = Framing(array, net)
    hasty.__dict__["step"] = hasty.turn  # whole turns, but the period is cut short
    assert hasty.units(2, segment) < Framing(array, net).units(2, segment) and differing(hasty) > 0
