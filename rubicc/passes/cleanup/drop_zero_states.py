"""Initial states of recurrent layers that are all zeros are left out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard, nodes_of

STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # inputs initial_h, initial_c

KEEPS_ZERO = ("Expand", "Tile", "Reshape", "Unsqueeze", "Squeeze", "Cast", "CastLike", "Slice")


@register
class DropZeroStates(Pass):
    """An initial state of LSTM, GRU or RNN that is all zeros is left out: zeros are the operator's default.

    ::

        Shape(x) -> Gather -> Unsqueeze -> Concat -> ConstantOfShape(0) -> h;  GRU(x, W, R, B, -, h) -> y
        becomes
        GRU(x, W, R, B) -> y

    PyTorch exports such a state with arithmetic on the batch size for every layer. The nodes that made it
    are left for dead-code removal.
    """

    id = "cleanup.drop-zero-states"
    requires = frozenset({"constants-are-initializers"})
    ensures = frozenset({"no-zero-states"})

    def run(self, graph: Graph) -> bool:
        """See :class:`DropZeroStates`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in nodes_of(graph, *STATES):
            changed |= _drop(edit, node)
        return changed


def _drop(edit: Editor, node: ir.Node) -> bool:
    given = [index for index in STATES[node.op_type] if index < len(node.inputs)]
    zero = [index for index in given if is_zero(node.inputs[index])]
    for index in zero:
        node.replace_input_with(index, None)
    while node.inputs and node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)
    if zero:
        edit.mark(node)
    return bool(zero)


def is_zero(value: ir.Value | None) -> bool:
    """Whether a value provably holds nothing but zeros, whatever its size."""
    if value is None:
        return False
    array = constant(value)
    if array is not None:
        return not np.any(array)
    maker = value.producer()
    if maker is None:
        return False
    if is_standard(maker, "ConstantOfShape"):
        fill = maker.attributes.get("value")
        return fill is None or not np.any(fill.as_tensor().numpy())
    return is_standard(maker, *KEEPS_ZERO) and is_zero(maker.inputs[0])
