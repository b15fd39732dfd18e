"""The trainable twin beside its source module: ``python benchmarks/twin_speed.py [--threads 2]``.

Time of a training step without the optimiser (forward, a mean as loss, backward), the least of all turns, of
source module and twin in turns, both in train mode and float32. ``--clock cpu`` counts processor time, which
a busy machine disturbs less. The twin is made of the lowered graph (``raw``: BatchNormalization stays) and of
the cleaned one (norms folded: less work, and another network to train). Outputs and gradients are compared by
the tests, not here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.speed.turns import Watch, in_turns
from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.lower import lower
from rubicc.ir.graph import Graph
from rubicc.models import registry
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.training.twin import Twin

# network: batch, samples
CASES = {
    "rubicall-fp": (4, 1800),
    "taiyaki-mgru": (16, 2000),
    "bonito-ctc": (2, 1800),
    "rubicall": (2, 1800),
}


def twins(name: str, folder: Path) -> tuple[torch.nn.Module, dict[str, Twin]]:
    """The source module and its twins by the form of their graph."""
    entry = registry.get(name)
    module = entry.build(seed=0)
    path = folder / f"{name}.pt"
    checkpoint.save(path, module, entry.meta())
    raw: Graph = lower(read_model(path), (), 0).graph
    cleaned = raw.clone()
    run_pipeline(cleaned, PIPELINES["cleanup"])
    return module.train(), {"raw": Twin(raw).train(), "cleaned": Twin(cleaned).train()}


def step(network: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> None:
    """Forward and backward."""
    network.zero_grad(set_to_none=True)
    forward().square().mean().backward()


def main() -> None:
    """Print one row per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--networks", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    print("network        batch x samples   source ms   raw twin (ratio)   cleaned twin (ratio)   others")
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        for name in options.networks:
            batch, samples = CASES[name]
            x = torch.randn(batch, 1, samples)
            module, made = twins(name, Path(folder))
            calls: dict[str, Callable[[], object]] = {
                "source": lambda module=module, x=x: step(module, lambda: module(x))
            }
            for form, twin in made.items():
                calls[form] = lambda twin=twin, x=x: step(twin, lambda: next(iter(twin({"x": x}).values())))
            times = in_turns(calls, options.rounds, clock=clock)
            ms = {form: timing.best * 1e3 for form, timing in times.items()}
            ratios = "   ".join(f"{ms[form]:9.1f} ({ms[form] / ms['source']:.2f})" for form in made)
            print(f"{name:<14} {batch:>5} x {samples:<7} {ms['source']:12.1f}   {ratios}", flush=True)
    print(f"other programs took {watch.others:.0%} of the processors")


if __name__ == "__main__":
    main()
