"""Makes a graph legal for Core ML in one precision; the graph given stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rubicc.backends.base import Finding, Prepared, Target, refuse
from rubicc.backends.coreml.check import enumerated_inputs
from rubicc.backends.coreml.description import PLAIN
from rubicc.backends.coreml.plan import possible
from rubicc.backends.coreml.tools import opset
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph
from rubicc.shapes import Shapes

Arrays = Mapping[str, np.ndarray]


def prepare(
    graph: Graph,
    target: Target,
    *,
    precision: str = "fp16",
    layout: str = "auto",
    runtime: str = "auto",
    shapes: Shapes | None = None,
    feeds: Arrays | None = None,
    calib: Sequence[Arrays] = (),
    quantised: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **_: Any,
) -> Prepared:
    """``graph``, behind the pipeline of this target, in the precision asked for.

    Args:
        precision: ``fp32`` and ``fp16`` leave the graph alone (the lowering stores it so); ``w8a8`` quantises
            after training; the others round weights.
        feeds, calib: what ``w8a8`` sees of the values; calibration data where there is some.
        quantised: the model came quantised: its own scales are kept.
        options: of passes, by id.

    Raises:
        UsageError: an impossible combination (``RUB-COREML-010``), or options of passes that cannot be
            (``RUB-COREML-303``, ``-304``).
        Unsupported: the whole table of what the lowering refuses.
    """
    from rubicc.backends.coreml.compress.precisions import compressed, idle

    possible(target, precision, runtime, layout)
    device = opset(target.device).name
    idle(options or {}, precision, device)
    decisions: list[Decision] = []
    evidence: dict[str, Any] = {}
    if precision == "w8a8" and not quantised:
        graph, decisions, evidence = _quantised(graph, list(calib) or ([feeds] if feeds is not None else []))
    elif precision not in PLAIN and precision != "w8a8":
        looked_at = list(calib) or ([feeds] if feeds is not None else [])
        graph, decisions = compressed(graph, precision, device, options=options, feeds=looked_at)
    kind = shapes.kind if shapes is not None else "fixed"
    refuse([*enumerated_inputs(graph, target, kind), *_operators(graph, device)], target)
    return Prepared(graph, tuple(decisions), evidence, {"precision": precision, "layout": layout})


def _operators(graph: Graph, device: str) -> list[Finding]:
    from rubicc.backends.coreml import lowering

    return list(lowering.findings(graph, device))


def _quantised(graph: Graph, feeds: Sequence[Arrays]) -> tuple[Graph, list[Decision], dict[str, Any]]:
    from rubicc.backends.coreml.compress.precisions import with_half_scales
    from rubicc.passes.quantize.post_training import quantise

    found = quantise(graph, feeds)
    with_half_scales(found.graph)
    return found.graph, list(found.decisions), dict(found.evidence)
