"""How long one item takes, by the plan of the array alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rubicc.backends.aie.check import check
from rubicc.backends.aie.plan import cycles
from rubicc.backends.aie.prepare import prepare
from rubicc.backends.aie.target_plan import plan
from rubicc.backends.base import Predicted, Target, refuse
from rubicc.ir.graph import Graph, is_quantiser

OBJECTIVE = "latency"


def predict(graph: Graph, target: Target, feeds: Mapping[str, np.ndarray]) -> Predicted:
    """Seconds from the first frame of one item in to its last frame out, planned for the least latency.

    A network with quantisers is planned in their widths, any other in 8 bits. ``graph`` stays as it is.

    Args:
        graph: its shapes are numbers.
        feeds: one item.

    Raises:
        Unsupported: ``RUB-AIE-1xx``, ``-2xx``, ``RUB-PASS-03x``: the array cannot take it.
    """
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import PIPELINES

    refuse(check(graph, target), target)
    precision = "mixed" if any(map(is_quantiser, graph.all_nodes())) else "int8"
    work = graph.clone()
    run_pipeline(work, PIPELINES["aie"])
    made = prepare(work, target, precision=precision, objective=OBJECTIVE, feeds=feeds)
    array = plan(made.graph, target, precision=precision, objective=OBJECTIVE).array
    speed = array.throughput
    # The first frame's way through all layers, then one frame after the other.
    seconds = speed.latency + speed.interval / array.block * (array.frames - 1) / array.clock
    basis = f"plan of {precision} on {len(array.tiles)} tiles, from first frame in to last out, no host"
    return Predicted(seconds, cycles.band(str(array.facts["generation"])), basis)
