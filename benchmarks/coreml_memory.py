"""Activation memory of Core ML packages, by rules: the network as exported against the one rewritten.

    python benchmarks/coreml_memory.py [NAME ...] [--lengths 128 512 2048] [--layers N]

Every network (of the zoo, or those named) is bound to one item of each length, run through the cleanup passes
alone (naive) and through the whole Core ML pipeline (rewritten), lowered to a package, read back from disk
and counted: most bytes of values alive at once, floating numbers in two bytes. dna-bert gets as many
positions as the longest length wants, and its encoder is shown apart: most are 32,000 scores per token.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rubicc.backends import registry as backends
from rubicc.backends.coreml import lint
from rubicc.backends.coreml.emit import write_model
from rubicc.backends.coreml.run.load import load
from rubicc.backends.coreml.run.program import Package
from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.lower import lower
from rubicc.ir.graph import Graph, spec_of
from rubicc.ir.shapes import infer_shapes
from rubicc.models import registry
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.shapes import resolve_shapes

TOKENS = (128, 512, 2048)
SAMPLES = (4000, 16000)
BODY = "encoder"
MIB = 2**20


def package(graph: Graph, pipeline: str, shape: str, folder: Path) -> Package:
    """The package of a network at one shape."""
    backend: Any = backends.get("coreml")
    shapes = resolve_shapes([spec_of(value) for value in graph.inputs], graph.meta, shape)
    bound = infer_shapes(graph, shapes.bound)
    run_pipeline(bound, PIPELINES[pipeline])
    target = backends.parse_target("coreml")
    plan = backend.plan(bound, target, precision="fp16", shapes=shapes, name=pipeline)
    return load(write_model(bound, plan, folder)[0])


def figures(found: Package) -> list[str]:
    """Operations, verdicts, memory of a package."""
    report, used = lint.lint(found), lint.memory(found, storage="fp16")
    inside = [live for name, live in lint.timeline(found, storage="fp16") if BODY in name]
    body = f"{max(inside) / MIB:.2f}" if inside else ""
    outside = report.counts["not"] + report.counts["unknown"]
    return [f"{report.operations}", f"{outside}", f"{used.peak / MIB:.2f}", body, f"{used.largest / MIB:.2f}"]


def source(name: str, lengths: Sequence[int], layers: int | None, folder: Path) -> Graph:
    """The lowered network; dna-bert long enough for every length."""
    entry = registry.get(name)
    config = None
    if name == "dna-bert":
        from rubicc.models.dna_bert_config import DnaBertConfig

        more: dict[str, Any] = {} if layers is None else {"num_hidden_layers": layers}
        config = DnaBertConfig(max_position_embeddings=max(*lengths, 512), **more)
    path = folder / f"{name}.pt"
    checkpoint.save(path, entry.build(config, seed=0), entry.meta(config))
    return lower(read_model(path), (), 0).graph


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=registry.names())
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens, or samples")
    parser.add_argument("--layers", type=int, help="of dna-bert; the memory is that of any number")
    args = parser.parse_args()
    header = (
        "network",
        "length",
        "form",
        "operations",
        "outside",
        "peak MiB",
        "in encoder",
        "largest MiB",
        "s",
    )
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for name in args.names:
        lengths = args.lengths or (TOKENS if name == "dna-bert" else SAMPLES)
        with tempfile.TemporaryDirectory() as home:
            graph = source(name, lengths, args.layers, Path(home))
            for length in lengths:
                for form, pipeline in (("naive", "cleanup"), ("rewritten", "coreml")):
                    start = time.perf_counter()
                    shape = ";".join(f"{v.name}={'x'.join(one_item(v, length))}" for v in graph.inputs)
                    with tempfile.TemporaryDirectory() as out:
                        row = figures(package(graph, pipeline, shape, Path(out)))
                    seconds = f"{time.perf_counter() - start:.1f}"
                    print("| " + " | ".join([name, f"{length}", form, *row, seconds]) + " |", flush=True)


def one_item(value: Any, length: int) -> list[str]:
    """Shape of an input with one item, its free axis of that length."""
    dims = spec_of(value).shape
    return [str(d) if isinstance(d, int) else ("1" if i == 0 else str(length)) for i, d in enumerate(dims)]


if __name__ == "__main__":
    main()
