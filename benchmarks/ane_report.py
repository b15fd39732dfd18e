"""What the Neural Engine passes make of the zoo: operators before and after, views left, largest error.

Run: ``python benchmarks/ane_report.py [NAME ...] [--symbols] [--set passes.ID.OPTION=VALUE]``. Every network
of the zoo (or those named) is lowered with random weights, bound to the shapes that ``--target coreml`` would
take (or left symbolic) and executed before and after in float32 and float64, on several lengths of padding.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.feeds import draw
from rubicc.frontend.lower import lower
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, source_of, spec_of
from rubicc.ir.shapes import infer_shapes
from rubicc.models import registry
from rubicc.passes.harness import relative_error
from rubicc.passes.manager import parse_overrides, run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.shapes import resolve_shapes

MOVES = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Expand", "Gather", "Slice", "Split")
FREE = {"N": 2, "T": 1200}
TOKENS = {"N": 2, "T": 48}
FILLED = (1.0, 0.5, 0.1)  # shares of the positions that a mask leaves


def lowered(name: str, folder: Path, config: Any = None) -> Graph:
    """The network called ``name`` as it comes from the front end."""
    entry = registry.get(name)
    path = folder / f"{name}.pt"
    checkpoint.save(path, entry.build(config, seed=0), entry.meta(config))
    return lower(read_model(path), (), 0).graph


def feeds_of(graph: Graph, seed: int, share: float) -> dict[str, np.ndarray]:
    """Random inputs; masks leave the first ``share`` of the positions."""
    specs = [spec_of(value) for value in graph.inputs]
    sizes = TOKENS if any("int" in spec.dtype for spec in specs) else FREE
    drawn = draw(specs, sizes, seed, {spec.name: 1000 for spec in specs if "ids" in spec.name})
    for key, array in drawn.items():
        if "mask" in key:
            array[...] = np.arange(array.shape[-1]) < max(1, round(array.shape[-1] * share))
    return drawn


def errors(before: Graph, after: Graph, rounds: Sequence[float]) -> dict[str, float]:
    """Largest difference relative to the largest value, per float type."""
    found = {"float32": 0.0, "float64": 0.0}
    for kind in found:
        for seed, share in enumerate(rounds):
            given = feeds_of(before, seed, share)
            old, new = (execute(graph, given, dtype=np.dtype(kind)) for graph in (before, after))
            found[kind] = max([found[kind], *(relative_error(old[name], new[name]) for name in old)])
    return found


def report(name: str, folder: Path, symbols: bool, overrides: dict[str, dict[str, Any]], run: bool) -> None:
    """Print one network."""
    graph = lowered(name, folder)
    if not symbols:
        shapes = resolve_shapes([spec_of(value) for value in graph.inputs], graph.meta, "fixed")
        graph = infer_shapes(graph, shapes.bound)
    before = graph.clone()
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    records = run_pipeline(graph, PIPELINES["coreml"], overrides=overrides)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    old, new = before.op_counts(), graph.op_counts()
    print(
        f"== {name}: {sum(old.values())} -> {sum(new.values())} nodes, {seconds:.2f} s CPU, +{grown:.0f} MB"
    )
    print(
        "   slowest:",
        ", ".join(f"{r.id} {r.seconds:.2f}" for r in sorted(records, key=lambda r: -r.seconds)[:4]),
    )
    print("   before:", ", ".join(f"{k} {v}" for k, v in sorted(old.items())))
    print("   after: ", ", ".join(f"{k} {v}" for k, v in sorted(new.items())))
    nodes = graph.nodes
    for index, node in enumerate(nodes):
        if node.op_type in MOVES and not all(v is None or v.is_initializer() for v in node.inputs):
            shape = node.outputs[0].shape
            print(f"   {index}/{len(nodes)} {node.op_type} {source_of(node)} -> {shape}")
    for record in records:
        for note in record.notes if record.id.startswith("ane.") else ():
            print(f"   note {record.id}: {note.where}: {note.what}")
        for decision in record.decisions:
            print(f"   decision {decision}")
    if run:
        print("   error:", errors(before, graph, FILLED if "bert" in name else FILLED[:1]))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=registry.names())
    parser.add_argument("--symbols", action="store_true", help="leave batch and time symbolic")
    parser.add_argument("--dry", action="store_true", help="do not execute")
    parser.add_argument("--set", action="append", default=[], metavar="passes.ID.OPTION=VALUE")
    args = parser.parse_args()
    pairs = (text.partition("=") for text in args.set)
    overrides = parse_overrides({key: int(v) if v.isdigit() else v for key, _, v in pairs})
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            report(name, Path(folder), args.symbols, overrides, not args.dry)


if __name__ == "__main__":
    main()
