"""fp16 graphs whose sensitive nodes stay in fp32, chosen by measured error.

The judge is our own executor, which really rounds every fp16 value: ONNX Runtime and OpenVINO compute fp16
nodes in fp32 on CPUs and hide most of the loss that a GPU would show.

When the all-fp16 graph is not accurate enough, nodes are measured alone: one group in fp16, everything else
in fp32. Rounding errors of different nodes are nearly independent, so their powers add, and the groups with
the largest power are kept in fp32 until the sum of the rest is small enough. Groups are operator types
first (few runs), then single nodes within the groups that matter, while time lasts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.cpu_gpu import shapes
from rubicc.errors import VerificationFailed
from rubicc.evidence.decision import Decision
from rubicc.evidence.gaps import DEFAULT_SNR, output_gaps
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, op_key, source_of, spec_of
from rubicc.ir.shapes import infer_shapes
from rubicc.passes.manager import make_options, run_pass, run_pipeline
from rubicc.passes.pipelines import Step
from rubicc.passes.registry import get

MARGIN_DB = 6.0  # room for the runtimes' own rounding between this judgement and the final comparison
FP16_SNR = DEFAULT_SNR["fp16"] + MARGIN_DB
_ROUNDS = 6
_LIFT = Step("cleanup.lift-constants", "fp16 conversion looks for weights among the initializers")


@dataclass
class Fp16:
    """An fp16 graph, the choices behind it and what was measured."""

    graph: Graph
    decisions: list[Decision] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)


def to_fp16(
    graph: Graph,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    snr_db: float = FP16_SNR,
    seconds: float = 60.0,
) -> Fp16:
    """Convert a copy of ``graph``; inputs and outputs stay fp32.

    Args:
        feeds: real input, small; ``None`` = seeded arrays, one batch item of at most 2000 positions.

    Raises:
        VerificationFailed: RUB-CPU-050.
    """
    base = graph.clone()
    run_pipeline(base, [_LIFT])
    base = infer_shapes(base)  # fp16 conversion needs the type of every value
    trial = _Trial(base, dict(feeds) if feeds is not None else _example(base))
    everything = trial.halves(())
    snr = trial.snr(())
    evidence: dict[str, Any] = {
        "target_snr_db": snr_db,
        "all_fp16_snr_db": snr,
        "fp16_nodes": len(everything),
    }
    keep: list[str] = []
    if not snr >= snr_db:
        keep, rows = _sensitive(trial, everything, snr_db, time.monotonic() + seconds)
        snr = trial.snr(keep)
        for _ in range(_ROUNDS):  # errors only nearly add: keep the next ones until the whole graph holds
            if snr >= snr_db or len(keep) == len(rows):
                break
            keep = [name for name, _ in rows[: min(len(rows), len(keep) + max(1, len(keep) // 4))]]
            snr = trial.snr(keep)
        evidence["alone_in_fp16_db"] = {name: _decibel(power) for name, power in rows[:20]}
    if not snr >= snr_db:
        raise VerificationFailed(
            "RUB-CPU-050",
            f"fp16 reaches {snr:.1f} of {snr_db:g} dB with {len(keep)} of {len(everything)} nodes in fp32",
            hint="--precision fp32, or a lower --max-gap snr=",
        )
    nodes = {node.name: node for node in base.nodes}
    half, decisions = trial.convert(keep)
    decisions += [
        Decision(
            "RUB-CPU-D02",
            source_of(nodes[name]),
            f"{op_key(nodes[name])} stays in fp32",
            f"its fp16 rounding was among the largest errors; the outputs must keep {snr_db:g} dB",
        )
        for name in keep
    ]
    return Fp16(half, decisions, evidence | {"snr_db": snr, "kept_fp32": len(keep)})


def _example(graph: Graph) -> dict[str, np.ndarray]:
    inputs = [spec_of(value) for value in graph.inputs]
    chunk = graph.meta.chunk if graph.meta is not None else None
    return shapes.example_feeds(inputs, shapes.sizes(inputs, graph.meta, 1, min(chunk or 2000, 2000)))


class _Trial:
    """Runs variants of one graph against its fp32 outputs."""

    def __init__(self, base: Graph, feeds: dict[str, np.ndarray]) -> None:
        self.base = base
        self.feeds = feeds
        self.expected = execute(base, feeds, dtype=np.dtype(np.float64))

    def convert(self, keep: Collection[str]) -> tuple[Graph, list[Decision]]:
        half = self.base.clone()
        cls = get("lower.to-fp16")
        record = run_pass(cls(make_options(cls, {"keep": tuple(sorted(keep))})), half)
        return half, list(record.decisions)

    def halves(self, keep: Collection[str]) -> list[str]:
        """Names of nodes that compute in fp16 when ``keep`` does not."""
        half, _ = self.convert(keep)
        return [
            node.name
            for node in half.nodes
            if node.name
            and node.op_type != "Cast"
            and any(v.dtype == ir.DataType.FLOAT16 for v in node.outputs)
        ]

    def snr(self, keep: Collection[str]) -> float:
        """SNR in dB of the worst output; ``-inf`` where fp16 overflowed."""
        half, _ = self.convert(keep)
        gaps = output_gaps(self.expected, execute(half, self.feeds))
        return min(gap.snr_db for gap in gaps.values())


def _sensitive(
    trial: _Trial, everything: list[str], snr_db: float, deadline: float
) -> tuple[list[str], list[tuple[str, float]]]:
    """Nodes to keep, and every measured node with its noise power relative to the signal, largest first."""
    kinds: dict[str, list[str]] = {}
    for node in trial.base.nodes:
        if node.name in set(everything):
            kinds.setdefault(op_key(node), []).append(str(node.name))
    power = {kind: _power(trial.snr(_without(everything, names))) for kind, names in kinds.items()}
    rows: list[tuple[str, float]] = []
    for kind in sorted(kinds, key=lambda k: -power[k]):
        names = kinds[kind]
        for name in names:
            alone = len(names) > 1 and time.monotonic() < deadline
            # Out of time: the group's power is shared out evenly, and its nodes are kept or not together.
            share = _power(trial.snr(_without(everything, [name]))) if alone else power[kind] / len(names)
            rows.append((name, share))
    rows.sort(key=lambda row: -row[1])
    allowed, rest = _power(snr_db), sum(value for _, value in rows)
    keep = []
    for name, _ in rows:
        if rest <= allowed:
            break
        keep.append(name)
        rest = sum(v for _, v in rows[len(keep) :])
    return keep, rows


def _without(everything: list[str], names: list[str]) -> list[str]:
    chosen = set(names)
    return [name for name in everything if name not in chosen]


def _decibel(power: float) -> float | str:
    if power == 0.0:
        return "exact"
    return "overflow" if math.isinf(power) else round(-10.0 * math.log10(power), 1)


def _power(snr_db: float) -> float:
    """Noise power relative to the signal; infinite for overflow."""
    return math.inf if snr_db == -math.inf else 10.0 ** (-snr_db / 10.0)
