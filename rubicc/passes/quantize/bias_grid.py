"""Rounds biases to whole steps of the integer sums they are added to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard


@register
class RoundBias(Pass):
    """Bias of a quantised Conv or Gemm becomes a multiple of input scale x weight scale; it stays float32.

    ONNX Runtime does this by itself on loading (its transformer WeightBiasQuantization, from the optimisation
    level "basic" on), and every integer kernel must: a bias off that grid makes another network of the file.
    On the grid all of them add the same integer. A bias moves by at most half a step of the sum.

    ::

        before   Quant(x, s) -> Conv(Quant(W, t), b)
        after    Quant(x, s) -> Conv(Quant(W, t), round(b / (s * t)) * (s * t))
    """

    id = "quantize.bias-grid"
    exact = False
    tolerance = 1e-2
    ensures = frozenset({"bias-on-grid"})

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        changed = False
        for node, bias, on_grid in biases(graph):
            if not np.array_equal(bias, on_grid):
                node.replace_input_with(2, edit.initializer(f"{node.name}_bias", on_grid, node.graph))
                edit.mark(node)
                changed = True
        return changed


def biases(graph: Graph) -> list[tuple[ir.Node, np.ndarray, np.ndarray]]:
    """Products of quantised input and weights with a constant bias: (node, bias, bias on the grid)."""
    found = []
    for node in graph.all_nodes():
        bias = constant(node.inputs[2]) if _has_bias(node) else None
        if bias is None or bias.dtype != np.float32:
            continue
        scales = [_scale(node.inputs[index]) for index in (0, 1)]
        if scales[0] is None or scales[1] is None or scales[0].size != 1:
            continue
        if scales[1].size not in (1, bias.size):
            continue
        step = scales[0].reshape(()) * scales[1].reshape(-1)
        found.append((node, bias, _nearest(bias, step)))
    return found


def off_grid(graph: Graph) -> dict[str, float]:
    """Largest distance of each such bias from its grid, by node name; only those that are off."""
    moved = {node.name or "": float(np.abs(bias - near).max()) for node, bias, near in biases(graph)}
    return {name: size for name, size in moved.items() if size > 0}


def _nearest(bias: np.ndarray, step: np.ndarray) -> np.ndarray:
    steps = np.rint(bias.reshape(-1) / step)
    near = np.asarray(steps * step, np.float32).reshape(bias.shape)
    # Beyond 2^22 steps float32 no longer holds every multiple; such a bias is finer than its grid's noise.
    return np.where(np.abs(steps).reshape(bias.shape) < 2.0**22, near, bias)


def _has_bias(node: ir.Node) -> bool:
    plain = is_standard(node, "Conv") or (
        is_standard(node, "Gemm")
        and node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
    )
    return plain and len(node.inputs) > 2


def _scale(value: ir.Value | None) -> np.ndarray | None:
    """Scale of the 8-bit quantiser that makes ``value``."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.domain != QONNX_DOMAIN or maker.op_type not in ("Quant", "IntQuant"):
        return None
    bits = constant(maker.inputs[3])
    if bits is None or bits.size != 1 or float(bits.reshape(())) != 8:
        return None
    return constant(maker.inputs[1])
