"""What the rules say of whole networks: BERT, the mGru, convolutions; rewritten against as exported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from coreml_graphs import compiled

from rubicc.backends.coreml import lint
from rubicc.backends.coreml.lint.sources import SOURCES
from rubicc.backends.coreml.run.program import Package
from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.lower import lower
from rubicc.ir.graph import Graph, spec_of
from rubicc.ir.shapes import infer_shapes
from rubicc.models import registry
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.shapes import resolve_shapes

XCODE_OPERATIONS, XCODE_OUTSIDE = 977, 23  # GENA-COREML's own report of GENA-LM base
BERT = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
}


def exported(name: str, folder: Path, config: Any = None) -> Graph:
    """A network of the zoo with random weights, as the front end lowers it."""
    entry = registry.get(name)
    path = folder / f"{name}.pt"
    checkpoint.save(path, entry.build(config, seed=0), entry.meta(config))
    return lower(read_model(path), (), 0).graph


def package(graph: Graph, shape: str, pipeline: str = "coreml") -> Package:
    """Its package at one shape, after a pipeline."""
    shapes = resolve_shapes([spec_of(value) for value in graph.inputs], graph.meta, shape)
    bound = infer_shapes(graph, shapes.bound)
    run_pipeline(bound, PIPELINES[pipeline])
    return compiled(bound, precision="fp16", shapes=shapes).package


@dataclass(frozen=True)
class Judged:
    """A package and its verdicts."""

    package: Package
    report: lint.LintReport

    @property
    def kinds(self) -> Counter[str]:
        return Counter(op.kind for op in self.report.ops if op.status != "weight")

    @property
    def outside(self) -> Counter[tuple[str, str]]:
        return Counter((op.kind, op.deciding[-3:]) for op in self.report.outside)

    def encoder(self, kind: str) -> int:
        """Operations of a type inside the blocks of an encoder."""
        return sum(op.kind == kind and "encoder_layer" in op.name for op in self.report.ops)

    def encoder_peak(self) -> int:
        """Most bytes alive inside the blocks of an encoder, in float16."""
        timeline = lint.timeline(self.package, storage="fp16")
        return max(live for name, live in timeline if "encoder_layer" in name)


def judged(graph: Graph, shape: str, pipeline: str = "coreml") -> Judged:
    made = package(graph, shape, pipeline)
    return Judged(made, lint.lint(made))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return exported("dna-bert", tmp_path_factory.mktemp("bert"), BERT)


def tokens(count: int) -> str:
    return f"input_ids=1x{count};attention_mask=1x{count}"


def test_of_a_bert_the_look_up_alone_is_outside(bert: Graph) -> None:
    found = judged(bert, tokens(256))
    assert found.outside == {("gather", "418"): 1} and found.report.share == 1.0
    assert found.encoder("reshape") == found.encoder("squeeze") == found.encoder("expand_dims") == 0
    # Of the keys, one per block as in Apple's reference.
    assert found.encoder("transpose") == BERT["num_hidden_layers"]
    assert found.kinds["layer_norm"] >= 2 * BERT["num_hidden_layers"] and not found.kinds["reduce_mean"]
    hints = found.report.hints
    assert "RUB-COREML-450" not in hints and "RUB-COREML-453" not in hints  # norms and softmax over axis 1


def test_memory_of_attention_grows_slower_when_rewritten(bert: Graph) -> None:
    """Four heads: the exported form has the scores of all of them alive, twice."""
    naive, rewritten = (judged(bert, tokens(512), name).encoder_peak() for name in ("cleanup", "coreml"))
    scores = 2 * 512 * 512
    assert naive >= 2 * 4 * scores
    assert 2 * scores <= rewritten < 3 * scores and naive > 2.5 * rewritten


def test_recurrent_cells_are_said_not_to_run_there(tmp_path: Path) -> None:
    found = judged(exported("taiyaki-mgru", tmp_path), "x=1x1x400")
    assert found.kinds["gru"] == 5 and not found.kinds["while_loop"]
    assert found.outside["gru", "414"] == 5 and found.report.share < 0.05
    (row,) = [f for f in lint.findings(found.report) if f.rule == "RUB-COREML-414"]
    assert "recurrent cell" in row.reason and "CPU or GPU" in row.remedy
    told = lint.legend(["RUB-COREML-414"])["RUB-COREML-414"]
    assert told["sources"][0]["address"] == SOURCES["apple-rnn"].address
    assert "Apple engineer" in told["sources"][0]["says"]


def test_a_convolutional_network_fits_whole(tmp_path: Path) -> None:
    found = judged(exported("demo-ctc", tmp_path), "x=1x1x2000")
    assert not found.outside and found.report.share == 1.0
    assert lint.findings(found.report, strict=True) == []
    naive = judged(exported("demo-ctc", tmp_path), "x=1x1x2000", "cleanup")
    assert naive.report.counts["not"] + naive.report.counts["unknown"] >= 1  # a kernel of 19 taps or more


@pytest.mark.slow
def test_dna_bert_against_the_report_of_xcode(tmp_path: Path) -> None:
    found = judged(exported("dna-bert", tmp_path), tokens(512))
    assert found.report.operations < XCODE_OPERATIONS
    assert len(found.report.outside) < XCODE_OUTSIDE
    inside = [op for op in found.report.outside if "encoder_layer" in op.name]
    assert not inside and found.outside["gather", "418"] == 1
    # Beside the look-up only what has the vocabulary's 32,000 scores as an axis.
    assert {code for (_, code), _ in found.outside.items()} <= {"418", "432"}
    assert found.encoder("reshape") == 0 and found.encoder("transpose") == 12
