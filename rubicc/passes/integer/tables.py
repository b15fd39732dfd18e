"""Functions of one value as tables of integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.errors import Unsupported
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.evaluate import evaluate
from rubicc.passes.integer.formats import Format
from rubicc.passes.integer.stages import Stage
from rubicc.passes.rewrite import constant


def function_at(graph: Graph, stage: Stage, points: np.ndarray) -> np.ndarray:
    """The stage's function at ``points``, float64.

    Raises:
        Unsupported: ``RUB-PASS-031``: an operator that the executor does not know, or a result that is not
        finite.
    """
    known: dict[ir.Value, np.ndarray] = {stage.inputs[0]: np.asarray(points, np.float64)}
    for node in stage.nodes:
        inputs = []
        for value in node.inputs:
            array = None if value is None else known.get(value, constant(value))
            inputs.append(None if array is None else np.asarray(array, np.float64))
        made = evaluate(graph, node, inputs)
        if made is None or not np.isfinite(made[0]).all():
            where = source_of(node)
            raise Unsupported(
                "RUB-PASS-031", f"{node.op_type} cannot be put into a table", where=where,
                hint="clip its argument in the model, or leave the layer to the host",
            )  # fmt: skip
        known[node.outputs[0]] = made[0]
    return known[stage.result]


def entries_of(graph: Graph, stage: Stage, index: Format, result: Format) -> np.ndarray:
    """Integers of ``result`` for every index from the least to the largest of ``index``, float32."""
    points = np.arange(index.low, index.high + 1) * 2.0**index.exponent
    made = np.rint(function_at(graph, stage, points) / 2.0**result.exponent)
    return np.asarray(np.clip(made, result.low, result.high), np.float32)
