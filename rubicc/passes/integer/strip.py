"""Takes a model's own quantisers off and remembers how wide they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.evaluate import evaluate
from rubicc.passes.integer.stages import PRODUCTS
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard

WEIGHT_KEY = "rubicc.weight_bits"  # on a product: width its weights had
RESULT_KEY = "rubicc.result_bits"  # on a node: width its result was rounded to
ENTRY_KEY = "rubicc.entry_bits"  # on a graph input's first reader


@register
class Strip(Pass):
    """Weights keep what their quantisers made of them, values flow unrounded, widths become notes on nodes.

    Training put the quantisers where an array's grids are not (scales that are no powers of two, before the
    batch norm that is folded); the widths are what training decided.

    ::

        before   Quant(x, 16 bit) -> Conv(Quant(W, 8 bit)) -> BatchNorm -> Relu -> Quant(8 bit)
        after    x -> Conv(W') [weights 8, ...] -> BatchNorm -> Relu [result 8]
    """

    id = "integer.strip"
    exact = False
    tolerance = 0.5
    ensures = frozenset({"unquantised"})

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        counted: dict[int, int] = {}
        for node in graph.nodes:
            if not is_quantiser(node):
                continue
            bits = _bits(node)
            counted[bits] = counted.get(bits, 0) + 1
            if constant(node.inputs[0]) is None:
                self._value(edit, node, bits)
            else:
                self._weight(graph, edit, node, bits)
        if counted:
            widths = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(counted.items()))
            self.decisions.append(
                Decision("RUB-PASS-D40", "model", f"{sum(counted.values())} quantisers replaced", widths)
            )
        return bool(counted)

    def _value(self, edit: Editor, node: ir.Node, bits: int) -> None:
        value = node.inputs[0]
        if value is None:
            return
        producer = value.producer()
        if producer is not None:
            producer.metadata_props[RESULT_KEY] = str(bits)
        else:
            for use in node.outputs[0].uses():
                use.node.metadata_props[ENTRY_KEY] = str(bits)
        edit.replace_value(node.outputs[0], value)
        edit.remove(node)

    def _weight(self, graph: Graph, edit: Editor, node: ir.Node, bits: int) -> None:
        made = evaluate(graph, node, [constant(value) for value in node.inputs])
        if made is None:
            return
        for use in node.outputs[0].uses():
            if is_standard(use.node, *PRODUCTS) and use.idx == 1:
                use.node.metadata_props[WEIGHT_KEY] = str(bits)
        edit.constant_instead(node.outputs[0], np.asarray(made[0], np.float32))
        edit.remove(node)


def _bits(node: ir.Node) -> int:
    if node.op_type == "BipolarQuant":
        return 1
    bits = constant(node.inputs[3])
    return 8 if bits is None else int(bits.reshape(-1)[0])
