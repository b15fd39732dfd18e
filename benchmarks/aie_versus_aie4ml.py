"""rubicc and aie4ml side by side on the same integer networks, for AI Engine: `make bench-aie`.

    python benchmarks/aie_versus_aie4ml.py                     all networks (a few minutes)
    python benchmarks/aie_versus_aie4ml.py --only mlp conv     some
    RUBICC_AIE4ML_PYTHON=... python benchmarks/aie_versus_aie4ml.py --json both.json

Each network is given to aie4ml as ONNX and to rubicc's planner as the same integers. Where a tool takes it,
its project is emitted, compiled by g++ under rubicc's functional emulation and compared with integers from
the weights in numpy, which know nothing of either tool. Cycles are each tool's own estimate: nothing was run
by AMD's tools. Exit status 0; 1 where an emitted project is not exact; without aie4ml 0.2.1 it says so and
ends with 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rubicc.backends.aie.net import Conv, Edge, Net  # noqa: E402
from rubicc.backends.aie.numbers import Type  # noqa: E402
from rubicc.backends.aie.plan.devices import device  # noqa: E402
from rubicc.backends.aie.plan.planner import Options, plan  # noqa: E402
from rubicc.backends.aie.project import write  # noqa: E402
from rubicc.backends.aie.session import Emulated  # noqa: E402
from rubicc.errors import RubiccError  # noqa: E402
from tests.backends import aie_sim_aie4ml as theirs  # noqa: E402

DEVICE = "vek280"
FAST = {"Optimize": "throughput"}
X_EXPONENT, W_EXPONENT, Y_EXPONENT = -4, -6, -1  # as tests/backends/aie4ml_emit.py sets them


def over_time(outputs: int, taps: int, **more: Any) -> dict[str, Any]:
    """A convolution over one axis: the other is a single row."""
    return {"out": outputs, "k": taps, "pad": taps // 2, "high": 1, "above": 0, **more}


CASES: tuple[dict[str, Any], ...] = (
    {
        "name": "mlp",
        "about": "dense 256-128-64, 32 rows",
        "input": [32, 256],
        "layers": [{"out": 128}, {"out": 64, "relu": False, "exp": 1}],
    },
    {
        "name": "conv",
        "about": "three convolutions (3, 3, 1 taps), 16-32-32-16 channels, 64 frames",
        "input": [1, 1, 64, 16],
        "layers": [over_time(32, 3), over_time(32, 3, exp=1), over_time(16, 1, relu=False, exp=0)],
    },
    {
        "name": "grouped",
        "about": "31 taps in 8 groups and pointwise, 64 channels, 400 frames (a QABAS block)",
        "input": [1, 1, 400, 64],
        "layers": [over_time(64, 31, group=8), over_time(64, 1, exp=1)],
    },
    {
        "name": "chunk",
        "about": "9 taps, 64 channels, 1,200 frames (a basecaller's chunk)",
        "input": [1, 1, 1200, 64],
        "layers": [over_time(64, 9)],
    },
    {
        "name": "image",
        "about": "3 x 3 on an image of 16 x 16, 8 to 16 channels",
        "input": [1, 16, 16, 8],
        "layers": [{"out": 16, "k": 3, "pad": 1}],
    },
)


@dataclass(frozen=True)
class Side:
    """What a tool makes of a network.

    Attributes:
        refused: why it does not take it; empty where it does.
        tiles: compute tiles.
        cycles: its own estimate of the cycles from one inference to the next.
        band: of the estimate; none where the tool gives none.
        bound: what sets them; empty where the tool does not say.
        differing: integers that differ from numpy's, of ``integers``; ``None`` = not run.
    """

    refused: str = ""
    tiles: int = 0
    cycles: float = 0.0
    band: tuple[float, float] | None = None
    bound: str = ""
    differing: int | None = None
    integers: int = 0


@dataclass(frozen=True)
class Row:
    """A network under both tools.

    Attributes:
        ours: by the default objective: the fastest plan whose tiles compute 70 % of the time or more.
        fastest: the fastest plan, however idle its tiles are.
        ties, saturated: how many of the integers are exact rounding ties, and beyond the limit.
    """

    name: str
    about: str
    macs: int
    theirs: Side
    ours: Side
    fastest: Side | None = None
    ties: int = 0
    saturated: int = 0


def main(argv: list[str] | None = None) -> int:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[case["name"] for case in CASES], metavar="NAME")
    parser.add_argument("--json", type=Path, help="keep the figures")
    args = parser.parse_args(argv)
    try:
        python = theirs.interpreter()
    except pytest.skip.Exception as reason:
        print(f"not compared: {reason}")
        return 0
    cases = [dict(case) for case in CASES if not args.only or case["name"] in args.only]
    with tempfile.TemporaryDirectory(prefix="rubicc-aie4ml-") as text:
        home = Path(text)
        emit(python, cases, home)
        rows = [compared(case, home) for case in cases]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    sides = [side for row in rows for side in (row.theirs, row.ours, row.fastest) if side]
    return int(any(side.differing for side in sides))


def emit(python: str, cases: list[dict[str, Any]], home: Path) -> None:
    """Let aie4ml write what it takes; a refusal is a file beside the others."""
    for number, case in enumerate(cases):
        case |= {"part": theirs.VEK280, "config": FAST, "folder": str(home / case["name"]), "seed": number}
    (home / "cases.json").write_text(json.dumps(cases))
    script = ROOT / "tests" / "backends" / "aie4ml_emit.py"
    command = [python, str(script), str(home / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"aie4ml ended with an error of its own: {done.stderr[-500:]}")


def compared(case: dict[str, Any], home: Path) -> Row:
    """Both tools on one network."""
    project = home / case["name"]
    data = weights(case, project)
    row = Row(case["name"], case["about"], macs(case), their_side(case, project, home), Side())
    net = network(case, data)
    if net is None:
        return replace(row, ours=Side(refused="two axes of space: channels over time only"))
    wanted, facts = theirs.expected(project, case)
    feeds, wanted = (over_frames(values) for values in (data["x"].astype(np.int64), wanted))
    return replace(
        row,
        ours=our_side(net, feeds, wanted, home / f"{row.name}-ours", Options().busy),
        fastest=our_side(net, feeds, wanted, home / f"{row.name}-fastest", 0.0),
        ties=int(facts["ties"]),
        saturated=int(facts["saturated"]),
    )


def over_frames(values: np.ndarray) -> np.ndarray:
    """Two inferences, channels last, as ``(N, C, T)``."""
    return values.reshape(2, -1, values.shape[-1]).transpose(0, 2, 1)


def weights(case: dict[str, Any], project: Path) -> dict[str, np.ndarray]:
    """The integers aie4ml was given; of the same kind where it refused before it wrote them."""
    path = project / "reference.npz"
    if not path.is_file():
        rng = np.random.default_rng(case["seed"])
        made = {"x": rng.integers(-100, 100, (2, *case["input"])).astype(np.int8)}
        channels = case["input"][-1]
        for n, layer in enumerate(case["layers"]):
            shape: tuple[int, ...] = (channels, layer["out"])
            if "k" in layer:
                shape = (
                    layer["out"],
                    channels // layer.get("group", 1),
                    layer.get("high", layer["k"]),
                    layer["k"],
                )
            made[f"w{n}"] = 8 * rng.integers(-3, 4, shape).astype(np.int8)
            made[f"b{n}"] = 8 * rng.integers(-60, 60, layer["out"]).astype(np.int32)
            channels = layer["out"]
        np.savez(path, **made)  # type: ignore[arg-type]
    return dict(np.load(path))


def macs(case: dict[str, Any]) -> int:
    """Multiplications of one inference."""
    *places, channels = case["input"]
    total = 0
    for layer in case["layers"]:
        taps = layer.get("high", layer.get("k", 1)) * layer.get("k", 1)
        total += int(np.prod(places)) * layer["out"] * channels // layer.get("group", 1) * taps
        channels = layer["out"]
    return total


def their_side(case: dict[str, Any], project: Path, home: Path) -> Side:
    """aie4ml's project, unmodified, under the emulation."""
    refused = project / "refused.txt"
    if refused.is_file():
        lines = refused.read_text().splitlines()
        reasons = [line.strip().partition("refused: ")[2] for line in lines if " refused: " in line]
        why = (reasons or lines)[0].partition(": ")[2] or lines[0]
        return Side(refused=why.partition(". ")[0][:160])
    found = json.loads((project / "estimate.json").read_text())
    got, _ = theirs.emulate(project, home / f"{case['name']}-build", case)
    wanted, _ = theirs.expected(project, case)
    return Side(
        tiles=found["tiles"],
        cycles=found["interval"],
        differing=int((got != wanted).sum()),
        integers=wanted.size,
    )


def network(case: dict[str, Any], data: dict[str, np.ndarray]) -> Net | None:
    """The same integers as rubicc's integer network; ``None`` for two axes of space."""
    if len(case["input"]) == 4 and case["input"][1] != 1:
        return None
    exponent, last = X_EXPONENT, "x"
    edges = {"x": Edge("x", case["input"][-1], Type(8), exponent)}
    layers = []
    for n, layer in enumerate(case["layers"]):
        w = data[f"w{n}"].astype(np.int64)
        w = w[:, :, 0] if w.ndim == 4 else w.T[:, :, None]
        made = layer.get("exp", Y_EXPONENT)
        shift = np.full(layer["out"], made - exponent - W_EXPONENT)
        pad = layer.get("pad", 0)
        layers.append(
            Conv(
                name=f"layer{n}",
                source=f"layer{n}",
                inputs=(last,),
                output=f"y{n}",
                weight=w,
                weight_type=Type(8),
                bias=data[f"b{n}"].astype(np.int64),
                groups=layer.get("group", 1),
                pads=(pad, pad),
                relu=layer.get("relu", True),
                shift=shift,
            )
        )
        exponent, last = made, f"y{n}"
        edges[last] = Edge(last, layer["out"], Type(8), exponent)
    return Net(("x",), (last,), edges, tuple(layers))


def our_side(net: Net, feeds: np.ndarray, wanted: np.ndarray, folder: Path, busy: float) -> Side:
    """rubicc's project under the same emulation.

    Args:
        busy: least mean share of the time that the planned tiles compute.
    """
    try:
        array = plan(net, device(DEVICE), Options(frames=feeds.shape[2], busy=busy))
    except RubiccError as err:
        return Side(refused=f"{err.code}: {err.message}"[:160])
    write(array, net, folder / "p", name="both", example={"x": feeds[:1]})
    (found,) = Emulated(folder / "p", array, net, folder / "b").run({"x": feeds}).values()
    share = array.period / array.block  # work units between two inferences, the gap included
    low, high = array.throughput.interval_band
    return Side(
        tiles=len(array.tiles),
        cycles=array.throughput.interval * share,
        band=(low * share, high * share),
        bound=array.throughput.bound,
        differing=int((found != wanted).sum()),
        integers=wanted.size,
    )


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| network | tool | taken | tiles | cycles per inference, estimated | MACs per tile and cycle | "
        "differing integers |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        sides = [("aie4ml 0.2.1", row.theirs), ("rubicc", row.ours)]
        sides += [("rubicc, busy or not", row.fastest)] if row.fastest else []
        for number, (tool, side) in enumerate(sides):
            name = row.about if number == 0 else ""
            lines.append(f"| {name} | {tool} | {_cells(row, side)}")
    taken = [row for row in rows if not row.ours.refused]
    bounds = "; ".join(f"{row.name}: {row.ours.bound}" for row in taken)
    ties = ", ".join(f"{row.name} {row.ties} and {row.saturated}" for row in taken)
    lines += ["", f"What bounds rubicc: {bounds}."]
    return "\n".join([*lines, f"Exact rounding ties and saturated values among the integers: {ties}."])


def _cells(row: Row, side: Side) -> str:
    if side.refused:
        return f"no: {side.refused.replace('|', '/')} | | | |"
    band = "" if side.band is None else f" ({side.band[0]:,.0f} to {side.band[1]:,.0f})"
    rate = row.macs / (side.tiles * side.cycles)
    differing = f"{side.differing} of {side.integers:,}"
    return f"yes | {side.tiles} | {side.cycles:,.0f}{band} | {rate:.0f} | {differing} |"


if __name__ == "__main__":
    raise SystemExit(main())
