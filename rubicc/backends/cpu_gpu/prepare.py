"""Makes a graph legal for the runtimes: quantisers expanded, and fp16 where the accuracy allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rubicc.backends.base import Prepared
from rubicc.backends.cpu_gpu.check import quantisers
from rubicc.backends.cpu_gpu.fp16 import FP16_SNR, MARGIN_DB, to_fp16
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import Step
from rubicc.quantities import MaxGap


def prepare(
    graph: Graph,
    *,
    precision: str = "fp32",
    feeds: Mapping[str, np.ndarray] | None = None,
    max_gap: MaxGap | None = None,
    seconds: float = 60.0,
) -> Prepared:
    """Rewrite what the runtimes cannot execute; the graph given is left as it is.

    Args:
        precision: ``fp16`` converts the graph; ``fp32`` and ``bf16`` leave its types alone.
        feeds: real input by which fp16 is judged; ``None`` = seeded arrays, which say little about accuracy.
        max_gap: limit the artefact will be held to; fp16 must stay 6 dB clear of its SNR.
        seconds: time for finding out which nodes must stay in fp32, when some must.

    Raises:
        VerificationFailed: fp16 is not accurate enough (RUB-CPU-050).
        Unsupported: a quantiser cannot be expanded (RUB-PASS-010).
    """
    decisions: list[Decision] = []
    if quantisers(graph):
        graph, decisions = expand_quantisers(graph)
    evidence: dict[str, Any] = {}
    if precision == "fp16":
        asked = max_gap.snr if max_gap is not None else None
        snr_db = FP16_SNR if asked is None else asked + MARGIN_DB
        half = to_fp16(graph, feeds, snr_db=snr_db, seconds=seconds)
        graph, evidence = half.graph, dict(half.evidence)
        decisions += half.decisions
    return Prepared(graph, tuple(decisions), evidence)


def expand_quantisers(graph: Graph) -> tuple[Graph, list[Decision]]:
    """A copy without QONNX quantisers, and what was decided on the way."""
    steps = (
        Step("cleanup.lift-constants", "expansion folds quantisers of initializers"),
        Step("lower.expand-quant", "runtimes execute no quantisers"),
        Step("cleanup.eliminate-dead", "full-precision weights behind folded quantisers"),
    )
    expanded = graph.clone()
    records = run_pipeline(expanded, steps)
    return expanded, [decision for record in records for decision in record.decisions]
