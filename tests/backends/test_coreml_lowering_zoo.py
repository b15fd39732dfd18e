"""Networks of the zoo as packages, against the executor; no loops, no copies, few operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coreml_graphs import TARGETS, Feeds, Net, compiled, normal

from rubicc.ir.graph import Graph
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES

Zoo = Callable[[str], Graph]
SIGNAL = ("demo-ctc", "taiyaki-mgru")
LARGE = ("rubicall-fp", "quartznet", "bonito-ctc")
EXACT, HALF = 90.0, 50.0


def snr(made: Net, feeds: Feeds, semantics: str) -> float:
    """Smallest signal to noise ratio of the outputs in decibels."""
    have, want = made.run(feeds, semantics), made.wanted(feeds)
    return min(
        float(10 * np.log10((a.astype(np.float64) ** 2).sum() / max(((a - have[k]) ** 2).sum(), 1e-300)))
        for k, a in want.items()
    )


def rewritten(graph: Graph, **bind: int) -> Graph:
    """Behind the passes of this target."""
    from rubicc.ir.shapes import infer_shapes

    made = infer_shapes(graph.clone(), bind)
    run_pipeline(made, PIPELINES["coreml"])
    return made


def both_precisions(graph: Graph, target: str, feeds: Feeds, shapes: str) -> list[Net]:
    exact, half = (compiled(graph, target=target, precision=p, shapes=shapes) for p in ("fp32", "fp16"))
    assert snr(exact, feeds, "fp64") > EXACT and snr(half, feeds, "fp16") > HALF
    return [exact, half]


@pytest.mark.parametrize(
    ("name", "target"), [*((name, target) for name in SIGNAL for target in TARGETS), ("bonito-crf", "iOS17")]
)
def test_networks_compute_what_their_graphs_say(lowered_zoo: Zoo, name: str, target: str) -> None:
    """One operation per recurrent layer; coremltools' own front end writes a loop for each GRU."""
    for made in both_precisions(lowered_zoo(name), target, {"x": normal(1, 1, 300)}, "x=1x1x300"):
        assert not {"while_loop", "cond"} & set(made.counts)
        assert made.counts["gru"] + made.counts["lstm"] == (0 if name == "demo-ctc" else 5)


@pytest.mark.parametrize("name", [*SIGNAL, pytest.param("bonito-crf", marks=pytest.mark.slow)])
def test_one_program_for_a_range_of_batches_and_lengths(lowered_zoo: Zoo, name: str) -> None:
    made = compiled(lowered_zoo(name), shapes="x=1..4x1x200..600")
    for items, frames in ((1, 200), (3, 355)):
        assert snr(made, {"x": normal(items, 1, frames)}, "fp64") > EXACT


@pytest.mark.real_data
def test_golden_scores_of_the_real_network(shared_data: Path) -> None:
    from rubicc.frontend import read_model
    from rubicc.frontend.lower import lower as from_torch

    path = shared_data / "weights" / "r9_mgru_flipflop.safetensors"
    graph = rewritten(from_torch(read_model(path, arch="taiyaki-mgru"), (), 0).graph, N=1, T=3600)
    with np.load(shared_data / "expected" / "r9_mgru_golden.npz") as golden:
        x, scores = golden["x"][:1], golden["scores"][:, :1]
    for target in ("iOS17", "iOS18"):
        exact, half = (compiled(graph, target=target, precision=p) for p in ("fp32", "fp16"))
        assert exact.counts["gru"] == 5 and "while_loop" not in exact.counts
        (have,), (rough,) = exact.run({"x": x}, "fp32").values(), half.run({"x": x}, "fp16").values()
        assert np.abs(have - scores).max() < 2e-4
        assert 10 * np.log10((scores**2).sum() / ((rough - scores) ** 2).sum()) > HALF


@pytest.mark.slow
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_behind_the_passes(lowered_zoo: Zoo, name: str, target: str) -> None:
    graph = rewritten(lowered_zoo(name), N=1, T=1200)
    both_precisions(graph, target, {"x": normal(1, 1, 1200)}, "")


@pytest.mark.slow
def test_dna_bert(lowered_zoo: Zoo) -> None:
    graph = rewritten(lowered_zoo("dna-bert"), N=2, T=64)
    mask = np.ones((2, 64), np.int64)
    mask[1, 40:] = 0
    ids = np.random.default_rng(0).integers(5, 32000, (2, 64))
    for made in both_precisions(graph, "iOS17", {"input_ids": ids, "attention_mask": mask}, ""):
        assert made.lowered.types == {"input_ids": "int32", "attention_mask": "float32", "logits": "float32"}
        assert made.counts["layer_norm"] == 26 and made.counts["gelu"] == 13
        assert sum(made.counts.values()) < 977  # Xcode's count for GENA-LM's own package
