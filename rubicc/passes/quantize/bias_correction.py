"""Takes the mean error that rounded weights make out of the bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import MADE_BY_KEY, Graph
from rubicc.passes.quantize.insert import channel_axis, quantisable, rounded_weight
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard


@dataclass(frozen=True)
class BiasOptions:
    """``means``: mean per channel of the inputs of the convolutions that will be quantised, by value name.

    ``skip``: names of nodes that stay in float.
    """

    means: Mapping[str, np.ndarray] = field(default_factory=dict)
    skip: frozenset[str | None] = frozenset()


@register
class CorrectBias(Pass):
    """Adds ``(W - rounded W) * mean(x)`` to the bias of convolutions, before their weights are rounded.

    The mean of every output channel is then what it was. Padding is not counted: the mean is of the inside.
    Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019.

    ::

        before   x -> Conv(W, b)              after   x -> Conv(W, b + sum((W - round(W)) * E[x]))
    """

    id = "quantize.bias-correction"
    exact = False
    tolerance = 0.1
    ensures = frozenset({"bias-corrected"})
    Options = BiasOptions
    options: BiasOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in graph.nodes:
            x = node.inputs[0] if node.inputs else None
            mean = self.options.means.get(x.name or "") if x is not None else None
            if mean is None or not is_standard(node, "Conv") or node.name in self.options.skip:
                continue
            done = node.metadata_props.get(MADE_BY_KEY) == self.id  # a second time would be one too many
            if quantisable(node) and not done:
                changed |= self._correct(edit, node, mean)
        return changed

    def _correct(self, edit: Editor, node: ir.Node, mean: np.ndarray) -> bool:
        weight = constant(node.inputs[1])
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if weight is None or (bias is None and len(node.inputs) > 2 and node.inputs[2] is not None):
            return False
        error = (weight - rounded_weight(weight, channel_axis(node))).astype(np.float64)
        groups = node.attributes.get_int("group", 1)
        inputs = mean.reshape(groups, 1, -1)
        taps = error.reshape(*error.shape[:2], -1).sum(axis=2)
        lost = (taps.reshape(groups, -1, weight.shape[1]) * inputs).sum(axis=2).reshape(-1)
        old = np.zeros(weight.shape[0]) if bias is None else bias
        value = edit.initializer(f"{node.name}_bias", np.asarray(old + lost, np.float32))
        if len(node.inputs) > 2:
            node.replace_input_with(2, value)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, value)
        edit.mark(node)
        return True
