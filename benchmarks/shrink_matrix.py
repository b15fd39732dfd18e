"""Every network of the zoo at full size through every verb that can shrink it without training.

   python benchmarks/shrink_matrix.py --json matrix.json             all of it; after a stop it goes on
   python benchmarks/shrink_matrix.py --only qabas --cells skipclip  one cell
   python benchmarks/shrink_matrix.py --show matrix.json             the table of an earlier run

Weights are random (seed 0); a network is lowered once, and every verb starts from its graph. A cell holds
what the verb's own report says. The result folder is read back as the next verb would: its network must run
and give outputs of the same shape. Where a verb refuses, the cell holds its code and reason. Exit status 1
when a cell failed otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rubicc import api
from rubicc.errors import RubiccError
from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.lower import lower
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, spec_of
from rubicc.ir.io import save_graph
from rubicc.models import registry
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.passes.prune.weights import WeightOptions
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.quantize import QuantizeSettings
from rubicc.shrink.skip_schedule import SkipSettings

CELLS: dict[str, tuple[str, Callable[..., Any], Any]] = {
    "skipclip": ("skipclip --epochs 0", api.skipclip, SkipSettings(train=False)),
    "channels": ("prune --macs 50%", api.prune, PruneSettings(channels=ChannelOptions(macs=0.5))),
    "weights": (
        "prune --sparsity 50%", api.prune, PruneSettings(channels=None, weights=WeightOptions(sparsity=0.5))
    ),
    "bits8": ("quantize --bits 8", api.quantize, QuantizeSettings(bits=8)),
    "bits4": ("quantize --bits 4", api.quantize, QuantizeSettings(bits=4)),
    "activations": (
        "quantize --bits 8 --activations 8, simulated signal", api.quantize, QuantizeSettings(activations=8)
    ),
}  # fmt: skip
FIGURES = ("parameters", "MACs", "BOPs", "bytes of weights")
SIZES = {"N": 1}  # of the run that proves the result; other symbols:
LENGTH, TOKENS = 600, 24


@dataclass
class Cell:
    """One network and one verb.

    Attributes:
        figures: what -> (before, after).
        did: the report's own sentence.
        seconds: of the verb: reading the graph, changing it, writing the folder.
        refused: code and reason, where it did not change anything.
        failed: what went wrong otherwise.
    """

    network: str
    cell: str
    seconds: float = 0.0
    did: str = ""
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    refused: str = ""
    failed: str = ""


class Kept:
    """What has been measured, in a file after each cell, so that a stopped run goes on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lowering: dict[str, float] = {}
        self.cells: list[Cell] = []
        if path is not None and path.is_file():
            data = json.loads(path.read_text("utf-8"))
            self.lowering = data["lowering"]
            self.cells = [Cell(**one) for one in data["cells"]]

    def has(self, network: str, cell: str) -> bool:
        """Whether this cell is there and did not fail."""
        return any((one.network, one.cell) == (network, cell) and not one.failed for one in self.cells)

    def add(self, cell: Cell) -> None:
        """Keep a cell in place of an earlier failure."""
        same = (cell.network, cell.cell)
        self.cells = [one for one in self.cells if (one.network, one.cell) != same] + [cell]
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        data = {"lowering": self.lowering, "cells": [asdict(one) for one in self.cells]}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def main(argv: list[str] | None = None) -> int:
    """Measure or show, and print the tables."""
    args = _arguments(argv)
    kept = Kept(args.show or args.json)
    if not args.show:
        with tempfile.TemporaryDirectory(prefix="rubicc-matrix-") as scratch:
            for name in args.only:
                _network(name, args.cells, args.work or Path(scratch), kept)
    print(table(kept))
    return int(any(one.failed for one in kept.cells))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    small_first = sorted(registry.names(), key=lambda name: _published(name))
    parser.add_argument("--only", nargs="+", choices=small_first, default=small_first, metavar="NAME")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--work", type=Path, help="keep lowered graphs here")
    parser.add_argument("--json", type=Path, help="keep cells here; what it holds is not measured again")
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing, print an earlier run")
    return parser.parse_args(argv)


def _published(name: str) -> int:
    """Parameters that the zoo's table states; networks without a figure are among the small ones."""
    return registry.get(name).parameters or 0


def _network(name: str, cells: Iterable[str], home: Path, kept: Kept) -> None:
    todo = [cell for cell in cells if not kept.has(name, cell)]
    if not todo:
        return
    home.mkdir(parents=True, exist_ok=True)
    graph, path = _lowered(name, home, kept)
    shapes = [array.shape for array in execute(graph, feeds(graph)).values()]
    for cell in todo:
        out = home / f"{name}-{cell}"
        print(f"{name}: {CELLS[cell][0]} ...", file=sys.stderr, flush=True)
        kept.add(_measured(name, cell, path, out, shapes))
        shutil.rmtree(out, ignore_errors=True)


def _lowered(name: str, home: Path, kept: Kept) -> tuple[Graph, Path]:
    """The network with random weights as a graph, and the file it stands in."""
    path = home / f"{name}.onnx"
    if not path.is_file():
        entry = registry.get(name)
        checkpoint.save(home / f"{name}.pt", entry.build(seed=0), entry.meta())
        began = time.perf_counter()
        save_graph(lower(read_model(home / f"{name}.pt"), (), 0).graph, path)
        kept.lowering[name] = time.perf_counter() - began
        (home / f"{name}.pt").unlink()
    graph = read_model(path).graph
    assert graph is not None
    return graph, path


def _measured(name: str, cell: str, path: Path, out: Path, shapes: list[tuple[int, ...]]) -> Cell:
    _, verb, settings = CELLS[cell]
    made, began = Cell(name, cell), time.perf_counter()
    try:
        report = verb(path, out=out, settings=settings, force=True).report
        made.seconds = time.perf_counter() - began
        _prove(out, shapes)
    except RubiccError as err:
        made.seconds = time.perf_counter() - began
        made.refused = f"{err.code}: {err.what}"
    except Exception as err:  # one cell must not end the run
        traceback.print_exc()
        made.failed = f"{type(err).__name__}: {err}"[:300]
    else:
        made.did = report.headline
        made.figures = {what: (row.before, row.after) for what in FIGURES if (row := report.figure(what))}
    return made


def _prove(out: Path, shapes: list[tuple[int, ...]]) -> None:
    """The folder is a MODEL, and its network computes finite numbers of the shapes it had."""
    graph = read_model(out).graph
    assert graph is not None
    found = list(execute(graph, feeds(graph)).values())
    if [array.shape for array in found] != shapes or not all(np.isfinite(array).all() for array in found):
        raise ArithmeticError("outputs of the result have another shape or are not finite")


def feeds(graph: Graph) -> dict[str, np.ndarray]:
    """One short item: noise, or tokens that all count."""
    rng, given = np.random.default_rng(0), {}
    for value in graph.inputs:
        spec = spec_of(value)
        whole = np.issubdtype(np.dtype(spec.dtype), np.integer)
        shape = [SIZES.get(d, TOKENS if whole else LENGTH) if isinstance(d, str) else d for d in spec.shape]
        if whole:
            given[spec.name] = np.ones(shape, spec.dtype)
        else:
            given[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return given


def table(kept: Kept) -> str:
    """Markdown: a row per network with what each verb leaves of it, then the reasons of refusals."""
    names = list(dict.fromkeys(one.network for one in kept.cells))
    found = {(one.network, one.cell): one for one in kept.cells}
    head = ["network", "parameters", "MACs", "bytes of weights", *(words for words, _, _ in CELLS.values())]
    rows = [head, ["---"] * len(head)]
    for name in names:
        costs = next((one.figures for one in kept.cells if one.network == name and one.figures), {})
        start = [_large(costs[what][0]) if what in costs else "" for what in head[1:4]]
        cells = [_left(found[name, cell]) if (name, cell) in found else "" for cell in CELLS]
        rows.append([f"`{name}`", *start, *cells])
    reasons = dict.fromkeys(one.refused or one.failed for one in kept.cells if one.refused or one.failed)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    took = ", ".join(f"{name} {seconds:.0f}" for name, seconds in kept.lowering.items())
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"* {reason}" for reason in reasons), ""]
    return "\n".join([*lines, f"Seconds of lowering: {took}. Load average when printed: {load}."])


def _left(one: Cell) -> str:
    """What is left of each figure that changed, and the seconds it took."""
    if one.failed:
        return "FAILED"
    if one.refused:
        return f"refused, {one.refused.partition(':')[0]}"
    left = {what: after / before for what, (before, after) in one.figures.items() if before}
    shown = [f"{what} {part:.1%}" for what, part in left.items() if part != 1]
    return f"{', '.join(shown) or one.did.rstrip('.').rpartition(', ')[2]}; {one.seconds:.1f} s"


def _large(value: float) -> str:
    """A count in millions."""
    return f"{value / 1e6:,.2f} M"


if __name__ == "__main__":
    sys.exit(main())
