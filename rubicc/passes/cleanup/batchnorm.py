"""BatchNormalization at inference is ``a * x + b`` per channel: reading a and b off the node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from rubicc.passes.rewrite import constant, is_standard


class Affine(NamedTuple):
    """``a * x + b`` per channel, both float64 of shape (C,)."""

    a: np.ndarray
    b: np.ndarray


def inference_affine(node: ir.Node) -> Affine | str | None:
    """The affine map of a BatchNormalization.

    Returns:
        ``None`` when ``node`` is no BatchNormalization; a reason when it is one without a constant map.
    """
    if not is_standard(node, "BatchNormalization"):
        return None
    if node.attributes.get_int("training_mode", 0) or any(_used(v) for v in node.outputs[1:]):
        return "it runs in training mode"
    arrays = [constant(v) for v in node.inputs[1:5]]
    if len(arrays) != 4 or any(a is None for a in arrays):
        return "its parameters are not constant"
    gamma, beta, mean, var = (np.asarray(a, np.float64) for a in arrays)
    spread = var + node.attributes.get_float("epsilon", 1e-5)
    if not np.all(spread > 0):
        return "its variance is not positive"
    a = gamma / np.sqrt(spread)
    return Affine(a, beta - mean * a)


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
