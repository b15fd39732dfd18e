"""How the weights of a quantised network are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rubicc.ir.graph import is_quantiser
from rubicc.ir.ops.quant import quantise
from rubicc.passes.manager import run_pass
from rubicc.passes.quantize.to_qdq import ToQdq
from rubicc.passes.quantize.weights import QuantiseWeights
from rubicc.passes.rewrite import Editor, constant

if TYPE_CHECKING:
    import onnx_ir as ir

    from rubicc.ir.graph import Graph


def stored(graph: Graph, how: str) -> Graph:
    """The graph with its weights stored as asked; ``graph`` stays as it is.

    Args:
        how: ``quantisers`` (QONNX), ``int8`` (integers that become numbers at run time; 8-bit layers),
            ``float`` (the rounded numbers).
    """
    if how == "quantisers":
        return graph
    graph = graph.clone()
    if how == "int8":
        run_pass(ToQdq(), graph, check=True)
        return graph
    edit = Editor(graph, QuantiseWeights.id)
    for node in list(graph.all_nodes()):
        value = stored_values(node)
        if value is None:
            continue
        made = edit.initializer(f"{node.name}_float", value, node.graph)
        for use in list(node.outputs[0].uses()):
            use.node.replace_input_with(use.idx, made)
        assert node.graph is not None
        node.graph.remove(node, safe=True)
    return graph


def stored_values(node: ir.Node) -> np.ndarray | None:
    """What a quantiser of constants gives, as float32; None for any other node."""
    if not is_quantiser(node) or node.op_type not in ("Quant", "IntQuant"):
        return None
    arrays = [array for array in map(constant, node.inputs) if array is not None]
    if len(arrays) < len(node.inputs):
        return None
    signed, narrow = (bool(node.attributes.get_int(name, 1)) for name in ("signed", "narrow"))
    mode = node.attributes.get_string("rounding_mode", "ROUND") or "ROUND"
    x, scale, zero, bits = (np.asarray(array) for array in arrays[:4])
    return np.asarray(quantise(x, scale, zero, bits, signed=signed, narrow=narrow, mode=mode), np.float32)
