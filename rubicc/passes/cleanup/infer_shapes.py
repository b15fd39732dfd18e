"""Every value gets the shape and type that follow from the operators."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import graphs_of


@register
class InferShapes(Pass):
    """Every value gets its element type and shape, symbols kept; QONNX operators are understood.

    ::

        x:[N,1,T] -> Conv(64 x 1 x 9, stride 5) -> ?            x:[N,1,T] -> Conv -> [N,64,T']

    Changes annotations only, and of graph outputs only what they leave open.
    """

    id = "cleanup.infer-shapes"
    ensures = frozenset({"shapes"})

    def run(self, graph: Graph) -> bool:
        """See :class:`InferShapes`."""
        from rubicc.ir.shapes import infer_shapes

        known = infer_shapes(graph)  # a clone, so its graphs, nodes and values come in the same order
        changed = False
        for owner, twin in zip(graphs_of(graph), graphs_of(known), strict=True):
            for node, other in zip(owner, twin, strict=True):
                for value, found in zip(node.outputs, other.outputs, strict=True):
                    changed |= _learn(value, found)
        return changed


def _learn(value: ir.Value, found: ir.Value) -> bool:
    before = (str(value.type), str(value.shape))
    fixed = value.is_graph_output()
    if found.type is not None and not (fixed and value.type is not None):
        value.type = found.type
    if found.shape is not None and not (fixed and value.shape is not None):
        value.shape = found.shape.copy()
    return (str(value.type), str(value.shape)) != before
